"""External ids <-> indices."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dglrec.errors import DataError
from dglrec.ids import IdMap, IdMapBuilder
from dglrec.schema import whole_numbers

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


# --- what a whole number is ----------------------------------------------------------------------

NOT_WHOLE = ["007", "00", "-0", "+7", "0x5", "0b1", "7.0", "7e0", "1_0", "1,0", "٣", "", "-", "7 7"]


@given(st.integers(-(2**63), 2**63 - 1), st.sampled_from(["{}", " {}", "{}\t"]))
def test_a_whole_number_has_one_form(number, form):
    texts = pa.array([form.format(number), form.format(f"0{abs(number)}")])
    assert whole_numbers(texts).to_pylist() == [number, None]


def test_texts_that_are_no_whole_numbers_become_none():
    texts = [*NOT_WHOLE, "9223372036854775807", "9223372036854775808", "-9223372036854775809", None]
    found = whole_numbers(pa.array(texts)).to_pylist()
    assert found == [None] * len(NOT_WHOLE) + [2**63 - 1, None, None, None]


@pytest.mark.parametrize("asked", NOT_WHOLE)
def test_no_text_is_taken_for_another_id(asked):
    whole = IdMap(pa.array([0, 1, 3, 5, 7, 10]))
    assert whole.encode_one(asked) == -1
    assert whole.encode(pa.chunked_array([[asked, "7"]])).tolist() == [-1, 4]


def test_bytes_of_the_command_line_that_are_no_text_are_no_id():
    assert IdMap(pa.array([3])).encode_one("\udcff") == -1
    assert IdMap(pa.array(["a"])).encode_one("\udcff") == -1


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


# --- a table in place of hashing -----------------------------------------------------------------


def hashed(ids, asked):
    """Each id's place by the definition."""
    places = {value: place for place, value in enumerate(ids.to_pylist())}
    return [places.get(value, -1) for value in asked.to_pylist()]


ANY_WHOLE = st.integers(-(2**63), 2**63 - 1)
NEAR = st.integers(-5, 60)


@given(
    st.sets(st.integers(0, 50), max_size=30),
    st.sets(st.integers(-20, 50), max_size=30),
    st.lists(st.none() | NEAR | ANY_WHOLE, max_size=20),
    st.booleans(),
)
def test_whole_numbers_are_found_whether_dense_or_not(known, more, asked, far):
    ids = sorted(known | {2**62} if far else known)
    id_map = IdMap(pa.array(ids, pa.int64()))
    added = sorted(more - set(ids))
    column = pa.array(asked, pa.int64())
    for one in (id_map, id_map.extended(pa.array(added, pa.int64()))):
        for form in (column, pa.chunked_array([column[:3], column[3:]])):
            found = one.encode(form)
            assert found.dtype == np.int32
            assert found.tolist() == hashed(one.ids, column)


@pytest.mark.parametrize(
    ("ids", "dense"),
    [
        ([0], True),
        ([7], True),
        ([8], False),  # one id, and more than eight numbers up to it
        ([0, 15], True),
        ([0, 16], False),
        ([0, 2**63 - 1], False),
        ([-1, 0, 1], False),
        ([], False),
        (["1", "2"], False),
    ],
)
def test_a_table_is_kept_where_ids_are_dense(ids, dense):
    """Its memory is bounded by the number of ids, however large they are."""
    id_map = IdMap(pa.array(ids) if ids else pa.array(ids, pa.int64()))
    assert (id_map._table is not None) == dense
    asked = pa.array([*ids, None], id_map.ids.type)
    assert id_map.encode(asked).tolist() == [*range(len(ids)), -1]


def test_ids_past_the_table_and_nothing_at_all():
    dense = IdMap(pa.array([0, 2, 3]))
    asked = pa.array([4, -1, 2**63 - 1, -(2**63), 3, None, 1, 2])
    assert dense.encode(asked).tolist() == [-1, -1, -1, -1, 2, -1, -1, 1]
    assert dense.encode(pa.array([], pa.int64())).tolist() == []
    assert dense.encode(pa.chunked_array([], pa.int64())).tolist() == []
    assert dense.encode(pa.array([None, None], pa.int64())).tolist() == [-1, -1]
    assert dense.encode(pa.array(["3", "-0", "9"])).tolist()[::2] == [2, -1]
    assert dense.encode(pa.array([2, 9], pa.uint64())).tolist() == [1, -1]


@pytest.mark.parametrize("ids", [[0, 2, 3], [0, 2**40], ["2"]])
def test_numbers_past_63_bits_are_no_ids(ids):
    asked = pa.array([2**64 - 1, 2**63], pa.uint64())
    assert IdMap(pa.array(ids)).encode(asked).tolist() == [-1, -1]


# --- more ids ------------------------------------------------------------------------------------


def test_more_ids_stand_behind_those_that_were_there():
    for first, more in (([3, 9], [1, 4, 10]), (["b", "d"], ["a", "c", "e"])):
        id_map = IdMap(pa.array(first))
        whole = id_map.extended(pa.array(more))
        assert whole.ids.to_pylist() == first + more
        assert len(whole) == 5 and len(id_map) == 2  # which is as it was
        assert whole.encode(pa.array(more + first)).tolist() == [2, 3, 4, 0, 1]
        assert id_map.encode(pa.array(more)).tolist() == [-1, -1, -1]
        assert whole.decode(np.array([4, 0])).to_pylist() == [more[2], first[0]]
        assert whole.encode_one(str(more[1])) == 3
        assert whole.nearest(3) == [*first, more[0]]


def test_more_ids_may_be_none_and_may_come_in_turns():
    id_map = IdMap(pa.array([5, 6]))
    none = pa.array([], pa.int64())
    assert id_map.extended(none).ids.to_pylist() == [5, 6]
    twice = id_map.extended(pa.array([0])).extended(pa.array([1]))
    assert twice.encode(pa.array([0, 1, 5, 6, 2])).tolist() == [2, 3, 0, 1, -1]
    from_nothing = IdMap(none).extended(pa.array([2, 4]))
    assert from_nothing.encode(pa.array([4, 2])).tolist() == [1, 0]


@pytest.mark.parametrize("more", [[7, 6], [7, 7], [1, 3]])
def test_more_ids_are_distinct_ascending_and_new(more):
    with pytest.raises(ValueError, match="ids"):
        IdMap(pa.array([3, 5])).extended(pa.array(more))
