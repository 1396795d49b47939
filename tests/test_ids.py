"""External ids <-> indices."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dglrec.errors import DataError
from dglrec.ids import IdMap, IdMapBuilder

WHOLE = st.integers(0, 2**63 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5)
STRETCHES = st.one_of(
    st.tuples(st.just(pa.int64()), st.lists(st.lists(WHOLE, max_size=8), max_size=5)),
    st.tuples(st.just(pa.string()), st.lists(st.lists(TEXT, max_size=8), max_size=5)),
)


@given(STRETCHES)
def test_streamed_ids_come_back_and_stand_in_ascending_order(typed_stretches):
    kind, stretches = typed_stretches
    builder = IdMapBuilder("user_id")
    codes = [builder.add(pa.chunked_array([ids], type=kind)) for ids in stretches]
    id_map, index_of_code = builder.finish()
    everything = [value for ids in stretches for value in ids]
    assert set(id_map.ids.to_pylist()) == set(everything)
    assert len(id_map) == len(set(everything))
    # UTF-8 sorts as its code points do, and so does str.
    assert id_map.ids.to_pylist() == sorted(id_map.ids.to_pylist())
    for ids, provisional in zip(stretches, codes, strict=True):
        assert provisional.dtype == np.int32
        indices = index_of_code[provisional]
        assert id_map.decode(indices).to_pylist() == ids
        assert np.array_equal(id_map.encode(pa.array(ids, type=id_map.ids.type)), indices)


@given(st.sets(WHOLE, min_size=1, max_size=20), st.lists(WHOLE, max_size=20))
def test_unknown_ids_encode_to_minus_one(known, asked):
    ids = sorted(known)
    encoded = IdMap(pa.array(ids, pa.int64())).encode(pa.array(asked, pa.int64()))
    assert encoded.tolist() == [ids.index(value) if value in known else -1 for value in asked]


def test_an_id_on_the_command_line_is_found_in_either_type():
    whole = IdMap(pa.array([3, 20, 100]))
    assert [whole.encode_one(text) for text in ("3", "100", "4", "x", "", "3.5")] == [
        *(0, 2),
        *(-1, -1, -1, -1),
    ]
    text = IdMap(pa.array(["100", "3", "a"]))
    assert [text.encode_one(one) for one in ("3", "a", "b")] == [1, 2, -1]
    assert text.nearest(2) == ["100", "3"]


def test_ids_of_another_type_are_cast_one_by_one():
    whole = IdMap(pa.array([3, 20, 100]))
    assert whole.encode(pa.array(["20", "what", None, "100"])).tolist() == [1, -1, -1, 2]
    assert whole.encode(pa.array([20, 3], pa.int32())).tolist() == [1, 0]


@pytest.mark.parametrize("ids", [[2, 1], [1, 1], ["b", "a"]])
def test_a_map_refuses_ids_out_of_order(ids):
    with pytest.raises(ValueError, match="distinct and ascending"):
        IdMap(pa.array(ids))


def test_a_type_that_changes_is_refused():
    builder = IdMapBuilder("item_id")
    builder.add(pa.chunked_array([[1, 2]]))
    with pytest.raises(DataError, match="item_id is int64 at first and string further down"):
        builder.add(pa.chunked_array([["a"]]))


def test_no_ids_make_an_empty_map():
    id_map, index_of_code = IdMapBuilder("item_id").finish()
    assert len(id_map) == len(index_of_code) == 0
    assert id_map.encode(pa.array([1])).tolist() == [-1]
