"""The adjacency and the heterograph hold the ratings they were built from, and nothing else."""

import itertools

import dgl
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dglrec.graph import (
    ITEM_TYPE,
    RATED_BY,
    RATES,
    USER_TYPE,
    build_graph,
    node_chunks,
    to_heterograph,
)
from dglrec.relations import build_relation, label_attribute
from dglrec.schema import RatingScale

SCALES = [RatingScale(1, 10), RatingScale(0.5, 5, 0.5), RatingScale(0, 400, 1), RatingScale(0, 1)]


@st.composite
def columns(draw, min_edges=0):
    """Ratings in any order; both sides have nodes without one, and codes may all be 0."""
    num_users, num_items = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    pairs = draw(
        st.lists(
            st.tuples(st.integers(0, num_users - 1), st.integers(0, num_items - 1)),
            unique=True,
            min_size=min_edges,
        )
    )
    scale = draw(st.sampled_from(SCALES))
    codes = draw(
        st.lists(st.integers(0, scale.levels - 1), min_size=len(pairs), max_size=len(pairs))
    )
    users, items = (
        np.array(pairs, dtype=draw(st.sampled_from([np.int32, np.int64]))).reshape(-1, 2).T
    )
    return {
        "users": users,
        "items": items,
        "codes": np.array(codes, dtype=scale.code_dtype),
        "num_users": num_users,
        "num_items": num_items,
        "scale": scale,
    }


def triples(users, items, codes):
    return sorted(zip(users.tolist(), items.tolist(), codes.tolist(), strict=True))


def edges_of(adjacency):
    """Each edge's node and neighbour."""
    return np.repeat(np.arange(adjacency.num_nodes), adjacency.degrees), adjacency.neighbours


@given(columns())
def test_both_sides_hold_each_rating_once(given_columns):
    graph = build_graph(**given_columns)
    expected = triples(given_columns["users"], given_columns["items"], given_columns["codes"])
    assert (graph.num_users, graph.num_items, graph.num_edges) == (
        given_columns["num_users"],
        given_columns["num_items"],
        len(expected),
    )
    # By user and, within a user, by item: the sorted triples themselves.
    users, items = edges_of(graph.by_user)
    found = zip(users.tolist(), items.tolist(), graph.by_user.codes.tolist(), strict=True)
    assert list(found) == expected

    items, users = edges_of(graph.by_item)
    found = zip(items.tolist(), users.tolist(), graph.by_item.codes.tolist(), strict=True)
    assert list(found) == sorted((item, user, code) for user, item, code in expected)
    for edge, item, user in zip(graph.edges_by_item, items, users, strict=True):
        assert expected[edge][:2] == (user, item)


@given(columns())
def test_types_offsets_and_counts(given_columns):
    graph = build_graph(**given_columns)
    scale = given_columns["scale"]
    for side in (graph.by_user, graph.by_item):
        assert side.offsets.dtype == np.int64
        assert side.neighbours.dtype == np.int32
        assert side.codes.dtype == scale.code_dtype
        assert side.offsets[0] == 0
        assert side.offsets[-1] == graph.num_edges
        for node in range(side.num_nodes):
            neighbours = side.neighbours[side.of(node)]
            assert len(neighbours) == side.degrees[node]
            assert np.all(np.diff(neighbours) > 0)
    assert graph.edges_by_item.dtype == np.int64
    counts = [int(np.sum(given_columns["codes"] == level)) for level in range(scale.levels)]
    assert graph.level_counts.tolist() == counts


@given(columns(), st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_matter(given_columns, random):
    order = list(range(len(given_columns["users"])))
    random.shuffle(order)
    shuffled = {
        name: given_columns[name][np.array(order, dtype=np.int64)]
        for name in ("users", "items", "codes")
    }
    before = {name: column.copy() for name, column in shuffled.items()}
    one, other = build_graph(**given_columns), build_graph(**{**given_columns, **shuffled})
    for a, b in ((one.by_user, other.by_user), (one.by_item, other.by_item)):
        assert np.array_equal(a.offsets, b.offsets)
        assert np.array_equal(a.neighbours, b.neighbours)
        assert np.array_equal(a.codes, b.codes)
    assert np.array_equal(one.edges_by_item, other.edges_by_item)
    assert all(np.array_equal(before[name], shuffled[name]) for name in before)  # left as they were


@pytest.mark.parametrize(("levels", "dtype"), [(256, np.uint8), (257, np.uint16)])
def test_the_highest_code_survives(levels, dtype):
    scale = RatingScale(0, levels - 1)
    codes = np.array([levels - 1, 0, levels - 2], dtype=dtype)
    graph = build_graph(
        np.array([2, 0, 2]), np.array([1, 1, 0]), codes, num_users=4, num_items=3, scale=scale
    )
    assert graph.by_user.codes.dtype == dtype
    assert graph.by_user.codes.tolist() == [0, levels - 2, levels - 1]
    assert graph.by_item.codes.tolist() == [levels - 2, 0, levels - 1]


@given(columns(min_edges=1))
def test_an_edge_of_the_heterograph_and_its_reverse_are_one_rating(given_columns):
    graph = build_graph(**given_columns)
    heterograph = to_heterograph(graph)
    assert set(heterograph.canonical_etypes) == {RATES, RATED_BY}
    assert heterograph.num_nodes(USER_TYPE) == graph.num_users
    assert heterograph.num_nodes(ITEM_TYPE) == graph.num_items
    users, items = edges_of(graph.by_user)
    for relation, sources, destinations in ((RATES, users, items), (RATED_BY, items, users)):
        found = heterograph.edges(etype=relation, order="eid")
        assert found[0].tolist() == sources.tolist()
        assert found[1].tolist() == destinations.tolist()
        # By id as well: what the targets of a batch are looked up with.
        found = heterograph.find_edges(torch.arange(graph.num_edges), etype=relation)
        assert found[0].tolist() == sources.tolist()
        assert found[1].tolist() == destinations.tolist()


def test_relations_are_in_the_heterograph_when_asked_for():
    graph = build_graph(
        np.array([0, 1, 2]),
        np.array([1, 0, 1]),
        np.array([3, 4, 0], dtype=np.uint8),
        num_users=3,
        num_items=2,
        scale=RatingScale(1, 5),
    )
    trusts = build_relation(
        "trusts",
        source_type="user",
        destination_type="user",
        sources=np.array([2, 0, 2], np.int32),
        destinations=np.array([1, 1, 0], np.int32),
        num_sources=3,
        num_destinations=3,
        weights=np.array([0.5, 2.0, 0.0], np.float32),
        times=np.array([30, 10, 20]),
    )
    kind = label_attribute("type", "item", [["TV"], ["OVA"]], np.ones(2, dtype=np.bool_))
    heterograph = to_heterograph(graph, [trusts, kind.relation])
    assert set(heterograph.canonical_etypes) == {
        RATES,
        RATED_BY,
        ("user", "trusts", "user"),
        ("user", "rev_trusts", "user"),
        ("item", "has_type", "type"),
        ("type", "rev_has_type", "item"),
    }
    assert heterograph.num_nodes("type") == 2
    ends = ([0, 2, 2], [1, 0, 1])
    for edge_type, (sources, ends_) in (("trusts", ends), ("rev_trusts", ends[::-1])):
        found = heterograph.edges(etype=edge_type, order="eid")
        assert (found[0].tolist(), found[1].tolist()) == (sources, ends_)
        assert heterograph.edges[edge_type].data["weight"].tolist() == [2.0, 0.0, 0.5]
        assert heterograph.edges[edge_type].data["time"].tolist() == [10, 20, 30]
    found = heterograph.edges(etype="has_type", order="eid")
    assert (found[0].tolist(), found[1].tolist()) == ([0, 1], [1, 0])
    assert "weight" not in heterograph.edges["has_type"].data


def test_relations_of_other_nodes_than_the_ratings_are_refused():
    graph = build_graph(
        np.array([0, 1]),
        np.array([1, 0]),
        np.array([3, 4], dtype=np.uint8),
        num_users=2,
        num_items=2,
        scale=RatingScale(1, 5),
    )
    kind = label_attribute("type", "item", [["TV"]] * 3, np.ones(3, dtype=np.bool_))
    with pytest.raises(ValueError, match="has_type has 3 nodes of type item"):
        to_heterograph(graph, [kind.relation])


def test_the_heterograph_is_int64():
    # DGL 1.1.3 corrupts every sampled batch after the first of an int32 graph.
    graph = build_graph(
        np.array([0, 1], dtype=np.int32),
        np.array([1, 0], dtype=np.int32),
        np.array([3, 4], dtype=np.uint8),
        num_users=2,
        num_items=2,
        scale=RatingScale(1, 5),
    )
    heterograph = to_heterograph(graph)
    assert heterograph.idtype == torch.int64
    frontier = dgl.sampling.sample_neighbors(heterograph, {USER_TYPE: torch.tensor([0])}, -1)
    assert frontier.idtype == torch.int64
    assert frontier.edges[RATED_BY].data[dgl.EID].dtype == torch.int64


@given(st.lists(st.integers(0, 12), max_size=40), st.integers(1, 20))
def test_chunks_cover_the_nodes_in_order_and_are_bounded(degrees, edges):
    offsets = np.concatenate([[0], np.cumsum(degrees, dtype=np.int64)]).astype(np.int64)
    chunks = node_chunks(offsets, edges)
    covered = [node for first, last in chunks for node in range(first, last)]
    assert covered == list(range(len(degrees)))
    for first, last in chunks:
        assert last > first
        # One node may hold more edges than a chunk should; then it is alone.
        assert last == first + 1 or offsets[last] - offsets[first] <= edges
    for (first, _), (_, last) in itertools.pairwise(chunks):
        assert offsets[last] - offsets[first] > edges  # two neighbours would not fit in one


def test_chunks_of_nodes_without_an_edge():
    assert node_chunks(np.zeros(1, dtype=np.int64)) == []
    assert node_chunks(np.zeros(6, dtype=np.int64), 3) == [(0, 5)]
