"""Relations: edges in are edges out, from both ends; what is no edge is counted or refused."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dglrec.errors import DataError, UsageError
from dglrec.ids import IdMap
from dglrec.relations import (
    HeldOutPairs,
    build_relation,
    label_attribute,
    parse_relations,
    read_relation,
)

NODES = {
    "user": IdMap(pa.array([1, 2, 3, 4])),
    "item": IdMap(pa.array([10, 20, 30])),
    "type": IdMap(pa.array(["OVA", "TV"])),
}
NOTHING_HELD_OUT = HeldOutPairs(np.empty(0, np.int32), np.empty(0, np.int32), 3)


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def read(tmp_path, text, name="trusts", **options):
    options = {"held_out": NOTHING_HELD_OUT, **options}
    found = read_relation(name, write(tmp_path / "edges.csv", text), NODES, **options)
    return found.relation, found.counts, "\n".join(found.said)


def edges_of(edges, **columns):
    """{(node, neighbour): (weight, time)} of one direction."""
    found = {}
    for node in range(edges.num_nodes):
        row = edges.of(node)
        for place, neighbour in enumerate(edges.neighbours[row].tolist(), start=row.start):
            assert (node, neighbour) not in found
            weight = None if edges.weights is None else float(edges.weights[place])
            time = None if edges.times is None else int(edges.times[place])
            found[node, neighbour] = (weight, time)
        assert np.all(np.diff(edges.neighbours[row]) > 0)
    return found


# --- building ------------------------------------------------------------------------------------


@st.composite
def relations(draw):
    num_sources, num_destinations = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    pairs = draw(
        st.lists(
            st.tuples(st.integers(0, num_sources - 1), st.integers(0, num_destinations - 1)),
            unique=True,
        )
    )
    weights = draw(st.none() | st.just([float(n) / 2 for n in range(len(pairs))]))
    times = draw(st.none() | st.just([7 * n - 3 for n in range(len(pairs))]))
    return num_sources, num_destinations, pairs, weights, times


@given(relations())
def test_edges_in_are_edges_out_in_both_directions(case):
    num_sources, num_destinations, pairs, weights, times = case
    relation = build_relation(
        "likes",
        source_type="user",
        destination_type="item",
        sources=np.array([source for source, _ in pairs], dtype=np.int32),
        destinations=np.array([end for _, end in pairs], dtype=np.int32),
        num_sources=num_sources,
        num_destinations=num_destinations,
        weights=None if weights is None else np.array(weights, dtype=np.float32),
        times=None if times is None else np.array(times, dtype=np.int64),
    )
    nothing = [None] * len(pairs)
    values = zip(weights or nothing, times or nothing, strict=True)
    expected = dict(zip(pairs, values, strict=True))
    assert edges_of(relation.forward) == expected
    turned = {(source, end): value for (end, source), value in edges_of(relation.backward).items()}
    assert turned == expected
    assert relation.num_edges == len(pairs)
    assert (relation.num_sources, relation.num_destinations) == (num_sources, num_destinations)
    sources, ends = relation.ends()
    assert list(zip(sources.tolist(), ends.tolist(), strict=True)) == sorted(pairs)
    ids = relation.backward_ids()
    assert np.array_equal(sources[ids], relation.backward.neighbours)
    assert np.array_equal(ends[ids], np.repeat(range(num_destinations), relation.backward.degrees))
    for edges in (relation.forward, relation.backward):
        assert (edges.offsets.dtype, edges.neighbours.dtype) == (np.int64, np.int32)
        assert edges.weights is None or edges.weights.dtype == np.float32
        assert edges.times is None or edges.times.dtype == np.int64


# --- reading -------------------------------------------------------------------------------------


def test_a_trust_network(tmp_path):
    relation, counts, _ = read(tmp_path, "user_id,to_user_id\n1,2\n1,3\n4,1\n")
    assert relation.edge_type == ("user", "trusts", "user")
    assert relation.reverse_type == ("user", "rev_trusts", "user")
    assert edges_of(relation.forward).keys() == {(0, 1), (0, 2), (3, 0)}
    assert relation.forward.weights is relation.forward.times is None
    assert counts.to_dict() == {
        "rows": 3,
        "unknown": 0,
        "self_loops": 0,
        "later": 0,
        "held_out": 0,
        "repeated": 0,
    }


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
def test_weights_and_timestamps(kind, tmp_path):
    table = {
        "to_user_id": [2, 3, 1],
        "user_id": [1, 1, 4],
        "weight": [0.5, 0, 2],
        "timestamp": [30, 10, 20],
        "note": ["a", "b", "c"],
    }
    file = tmp_path / f"edges.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table(table), file)
    else:
        rows = [table, *zip(*table.values(), strict=True)]
        mark = "," if kind == "csv" else "\t"
        file.write_text("".join(mark.join(map(str, row)) + "\n" for row in rows))
    relation = read_relation("trusts", file, NODES, held_out=NOTHING_HELD_OUT).relation
    # The column without a prefix is the source, wherever it stands.
    assert edges_of(relation.forward) == {(0, 1): (0.5, 30), (0, 2): (0.0, 10), (3, 0): (2.0, 20)}


def test_edges_to_an_attribute(tmp_path):
    relation, counts, _ = read(tmp_path, "item_id,type\n10,TV\n30,OVA\n20,Film\n", "made_as")
    assert relation.edge_type == ("item", "made_as", "type")
    assert edges_of(relation.forward).keys() == {(0, 1), (2, 0)}
    assert counts.unknown == 1


def test_what_is_no_edge_is_counted(tmp_path):
    text = "user_id,to_user_id,weight\n1,2,1\n1,9,1\n2,x,1\n3,3,1\n1,2,5\n-1,2,1\n"
    relation, counts, said = read(tmp_path, text)
    assert (counts.rows, counts.unknown, counts.self_loops, counts.repeated) == (6, 3, 1, 1)
    assert edges_of(relation.forward) == {(0, 1): (5.0, None)}  # the last
    assert "trusts (user -> user) has 1 edges" in said
    assert "3 of unknown ids, 1 from a node to itself, 1 that repeat another" in said


def test_of_repeated_edges_the_latest_stays(tmp_path):
    text = "user_id,to_user_id,weight,timestamp\n1,2,7,50\n1,2,8,40\n"
    relation, _, _ = read(tmp_path, text)
    assert edges_of(relation.forward) == {(0, 1): (7.0, 50)}


def test_nothing_later_than_the_cut_is_kept(tmp_path):
    text = "user_id,to_user_id,weight,timestamp\n1,2,1,100\n1,2,2,101\n1,3,3,101\n2,3,4,5\n"
    relation, counts, _ = read(tmp_path, text, cut=100)
    assert counts.later == 2
    assert edges_of(relation.forward) == {(0, 1): (1.0, 100), (1, 2): (4.0, 5)}


def test_edges_without_times_are_said_where_there_is_a_cut(tmp_path):
    _, counts, said = read(tmp_path, "user_id,to_user_id,note\n1,2,x\n", cut=100)
    assert counts.later == 0
    assert "may be later than the cut" in said
    assert "not read: note" in said


@pytest.mark.parametrize("time", [1, 10**6])
def test_times_in_another_unit_than_the_cut_are_refused(time, tmp_path):
    with pytest.raises(DataError, match="same unit"):
        read(tmp_path, f"user_id,to_user_id,timestamp\n1,2,{time}\n", cut=1000)


@pytest.mark.parametrize("header", ["user_id,item_id", "item_id,user_id"])
def test_edges_that_are_held_out_rows_are_left_out(header, tmp_path):
    rows = [(1, 10), (2, 20), (3, 30)]
    if header.startswith("item"):
        rows = [(item, user) for user, item in rows]
    text = header + "\n" + "".join(f"{one},{other}\n" for one, other in rows)
    held_out = HeldOutPairs(np.array([1, 2], np.int32), np.array([1, 0], np.int32), 3)
    relation, counts, _ = read(tmp_path, text, "wished", held_out=held_out)
    assert counts.held_out == 1
    ends = {(0, 0), (2, 2)}
    assert edges_of(relation.forward).keys() == ends


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("user_id,to_user_id,weight\n1,2,-0.5\n", "row 2: weight is negative .-0.5"),
        ("user_id,to_user_id,weight\n1,2,1\n1,3,much\n", "row 3: weight is no number .'much'"),
        ("user_id,to_user_id,weight\n1,2,nan\n", "row 2: weight is not a finite number"),
        ("user_id,to_user_id,weight\n1,2,inf\n", "row 2: weight is not a finite number"),
        ("user_id,to_user_id,weight\n1,2,1e60\n", "row 2: weight is not a finite number"),
        ("user_id,to_user_id,weight\n1,2,\n", "row 2: weight is missing"),
        ("user_id,to_user_id,timestamp\n1,2,3\n1,3,soon\n", "row 3: timestamp is no whole"),
        ("user_id,to_user_id\n1,\n", "row 2: to_user_id is empty"),
        ("user_id,to_user_id\n1,2,3\n", "row 2: 3 fields where 2"),
        ("user_id,to_user_id\n", "no row"),
        ("", "is empty"),
        ("user_id,friend\n1,2\n", "two columns of ids, and this file has user_id; found .*friend"),
        (
            "user_id,item_id,to_user_id\n1,10,2\n",
            "two columns of ids, and this file has user_id, item",
        ),
        ("user_id,user_id\n1,2\n", "column user_id is there 2 times"),
        ("user_id,to_user_id\n7,8\n9,9\n", "trusts .user -> user. has no edge; left out: 2 of unk"),
    ],
)
def test_a_bad_file_is_refused_with_file_and_row(text, message, tmp_path):
    with pytest.raises(DataError, match=message) as raised:
        read(tmp_path, text)
    assert "edges.csv" in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user_id": [1], "to_user_id": [2], "weight": ["1"]}, "weights must be numbers"),
        ({"user_id": [1], "to_user_id": [2], "weight": [None]}, "weight"),
        ({"user_id": [1], "to_user_id": [2.5]}, "ids must be whole numbers"),
        ({"user_id": [1, None], "to_user_id": [2, 3]}, "row 2: user_id is missing"),
    ],
)
def test_a_bad_parquet_file_is_refused(columns, message, tmp_path):
    file = tmp_path / "edges.parquet"
    pq.write_table(pa.table(columns), file)
    with pytest.raises(DataError, match=message):
        read_relation("trusts", file, NODES, held_out=NOTHING_HELD_OUT)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_relation("trusts", tmp_path / "no.csv", NODES, held_out=NOTHING_HELD_OUT)


@pytest.mark.parametrize(
    "name", ["", "Trusts", "a b", "../x", "a/b", "2nd", "_x", ".", "a" * 61, "straße", "a\n"]
)
def test_a_bad_name_is_refused(name):
    with pytest.raises(UsageError, match="lowercase letters"):
        parse_relations([f"{name}=f.csv"])


@pytest.mark.parametrize("name", ["rates", "rated_by", "has_genres", "rev_trusts"])
def test_a_name_that_is_taken_is_refused(name, tmp_path):
    with pytest.raises(UsageError, match=f"--relation {name}: .* taken"):
        parse_relations([f"{name}=f.csv"])
    with pytest.raises(UsageError, match="taken"):
        read(tmp_path, "user_id,to_user_id\n1,2\n", name)


@pytest.mark.parametrize("text", ["trusts", "trusts=", "=f.csv"])
def test_a_relation_without_name_or_file_is_refused(text):
    with pytest.raises(UsageError, match="--relation"):
        parse_relations([text])


def test_two_files_for_one_relation_are_refused():
    with pytest.raises(UsageError, match="--relation trusts: two files, a.csv and b.csv"):
        parse_relations(["trusts=a.csv", "knows=c.csv", "trusts=b.csv"])


def test_a_file_name_may_hold_equals_signs():
    assert parse_relations(["trusts=a=b.csv"]) == {"trusts": Path("a=b.csv")}


# --- attributes as nodes -------------------------------------------------------------------------


def test_only_labels_that_training_knows_are_nodes():
    labels = [["Drama", "Action", "Drama"], [], ["Drama", "Western"]]
    found = label_attribute("genres", "item", labels, np.array([True, True, False]))
    assert found.vocabulary == ("Action", "Drama")
    assert found.relation.edge_type == ("item", "has_genres", "genres")
    # The item that training does not see has its edge to what training knows.
    assert edges_of(found.relation.forward).keys() == {(0, 0), (0, 1), (2, 1)}
    assert found.relation.num_sources == 3 and found.relation.num_destinations == 2
    assert found.ids.encode(pa.array(["Drama", "Western"])).tolist() == [1, -1]
