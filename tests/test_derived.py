"""Derived graphs against pandas, networkx and exact probabilities; none of them sees a held row."""

from dataclasses import replace

import networkx
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dglrec.dataset import PrepareOptions, RatingDataset, prepare
from dglrec.derived import (
    GRAPH_FEATURES,
    WeightedAdjacency,
    agreeing_users,
    cluster_rows,
    graph_features,
    similar,
    visited_with,
)
from dglrec.derived.centrality import draw_pivots
from dglrec.graph import build_graph
from dglrec.kernels import parallel
from dglrec.schema import RatingScale

SCALE = RatingScale(1, 5)
SIDES = ["items", "users"]


def graph_of(table):
    """The rating graph of a table [U, I] with NaN where there is no rating."""
    users, items = np.nonzero(~np.isnan(table))
    codes = SCALE.encode(table[users, items])
    num_users, num_items = table.shape
    return build_graph(users, items, codes, num_users=num_users, num_items=num_items, scale=SCALE)


def random_table(num_users=30, num_items=12, share=0.5, seed=0, levels=5):
    generator = np.random.default_rng(seed)
    table = generator.integers(1, levels + 1, (num_users, num_items)).astype(float)
    table[generator.random(table.shape) > share] = np.nan
    return table


tables = st.builds(
    random_table,
    num_users=st.integers(1, 25),
    num_items=st.integers(1, 15),
    share=st.floats(0.1, 1),
    seed=st.integers(0, 2**32 - 1),
    levels=st.integers(1, 5),
)


def dense_similar(table, neighbours, shrinkage, min_support):
    """By pandas' correlation of the columns, float64 [I, I]; edges that are a near tie apart."""
    there = (~np.isnan(table)).astype(float)
    common = there.T @ there
    frame = pd.DataFrame(table)
    similarity = frame.corr(min_periods=min_support).to_numpy(copy=True)
    similarity[~np.isfinite(similarity)] = 0
    similarity = similarity * common / (common + shrinkage) if shrinkage else similarity
    np.fill_diagonal(similarity, 0)
    similarity[similarity < 1e-6] = 0  # pandas leaves some rounding where it is 0
    similarity = similarity.round(6)  # and two that are equal may differ in it
    kept = np.zeros_like(similarity, dtype=bool)
    for item, row in enumerate(similarity):
        nearest = np.argsort(-row, kind="stable")[:neighbours]
        kept[item, nearest] = row[nearest] > 0
    return np.where(kept | kept.T, similarity, 0)


# ---------------------------------------------------------------- similar


@given(
    tables, st.integers(1, 20), st.sampled_from([0.0, 3.0, 50.0]), st.integers(2, 4), st.booleans()
)
@settings(max_examples=100, deadline=None)
def test_similar_is_pandas_correlation(table, neighbours, shrinkage, min_support, of_users):
    found = similar(
        graph_of(table),
        of="users" if of_users else "items",
        neighbours=neighbours,
        shrinkage=shrinkage,
        min_support=min_support,
    )
    columns = table.T if of_users else table
    expected = dense_similar(columns, neighbours, shrinkage, min_support)
    dense = found.matrix().toarray()
    assert found.weights.dtype == np.float32 and found.neighbours.dtype == np.int32
    np.testing.assert_array_equal(dense, dense.T)
    np.testing.assert_allclose(dense, expected, atol=2e-6)


def test_known_similarities():
    """Items 0 and 1 go together, 2 goes against them, 3 does not vary, 4 has no rater."""
    nan = np.nan
    table = np.array(
        [[1, 2, 5, 3, nan], [2, 3, 4, 3, nan], [3, 4, 3, 3, nan], [4, 5, 2, 3, nan]], dtype=float
    )
    found = similar(graph_of(table), shrinkage=4.0)
    assert found.offsets.tolist() == [0, 1, 2, 2, 2, 2]
    assert found.neighbours.tolist() == [1, 0]
    np.testing.assert_allclose(found.weights, 0.5, rtol=1e-6)


def test_of_equal_similarities_the_lower_index_is_nearer():
    table = np.repeat(np.arange(1.0, 5)[:, None], 4, axis=1)
    found = similar(graph_of(table), neighbours=1, shrinkage=0.0)
    # 1, 2 and 3 are nearest to 0, and 0 to 1: the star about 0.
    assert found.degrees.tolist() == [3, 1, 1, 1]


def test_sums_of_fine_scales_and_many_raters_are_exact():
    """Ratings that differ by one of 50,000 levels: rounding would drown them."""
    scale = RatingScale(0, 500, 0.01)
    codes = np.full((60, 2), 49_999)
    codes[::2] += 1
    users, items = np.indices(codes.shape).reshape(2, -1)
    graph = build_graph(
        users, items, codes.ravel().astype(np.uint16), num_users=60, num_items=2, scale=scale
    )
    found = similar(graph, shrinkage=0.0)
    np.testing.assert_array_equal(found.matrix().toarray(), [[0, 1], [1, 0]])
    codes[:] = 49_999
    constant = build_graph(
        users, items, codes.ravel().astype(np.uint16), num_users=60, num_items=2, scale=scale
    )
    assert not len(similar(constant, shrinkage=0.0).weights)


def test_ratings_too_many_and_too_fine_are_refused():
    scale = RatingScale(0, 65_534)
    users = np.arange(50_000)
    codes = np.zeros(50_000, dtype=np.uint16)
    graph = build_graph(users, users * 0, codes, num_users=50_000, num_items=2, scale=scale)
    with pytest.raises(ValueError, match="50000 ratings of one of the items"):
        similar(graph)


@pytest.mark.parametrize("num_items", [12, 90])
def test_normalised_weights_have_largest_eigenvalue_1(num_items):
    graph = graph_of(random_table(60, num_items, 0.7))
    plain, found = similar(graph), similar(graph, normalised=True)
    values = np.linalg.eigvalsh(plain.matrix().toarray().astype(float))
    assert plain.largest_eigenvalue() == pytest.approx(values[-1], rel=1e-6)
    np.testing.assert_allclose(found.weights, plain.weights / values[-1], rtol=1e-5)
    assert found.largest_eigenvalue() == pytest.approx(1, rel=1e-5)


def test_the_largest_eigenvalue_of_regular_and_empty_graphs():
    ring = networkx.cycle_graph(200)
    adjacency = WeightedAdjacency.of_matrix(networkx.to_scipy_sparse_array(ring, dtype=float))
    assert adjacency.largest_eigenvalue() == pytest.approx(2)
    empty = similar(graph_of(np.full((3, 4), np.nan)), normalised=True)
    assert empty.num_nodes == 4 and empty.largest_eigenvalue() == 0
    one_way = WeightedAdjacency.of_matrix(np.array([[0, 1.0], [0, 0]]))
    with pytest.raises(ValueError, match="not symmetric"):
        one_way.divided_by_largest_eigenvalue()


@pytest.mark.parametrize("of", SIDES)
@pytest.mark.parametrize("make", [similar, visited_with])
def test_several_threads_find_the_same(make, of, monkeypatch):
    monkeypatch.setattr(parallel, "SMALL", 64)
    graph = graph_of(random_table(80, 50, 0.3))
    expected = make(graph, of=of)
    torch.set_num_threads(4)
    try:
        found = make(graph, of=of)
    finally:
        torch.set_num_threads(1)
    for name in ("offsets", "neighbours", "weights"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


@pytest.mark.parametrize(
    "wrong", [{"neighbours": 0}, {"shrinkage": -1.0}, {"shrinkage": np.nan}, {"min_support": 1}]
)
def test_similar_refuses_what_is_out_of_range(wrong):
    with pytest.raises(ValueError, match="at least 1, 2 and 0"):
        similar(graph_of(random_table()), **wrong)


@pytest.mark.parametrize("make", [similar, visited_with])
def test_edges_to_nodes_that_are_not_there_are_refused(make):
    graph = graph_of(random_table())
    with pytest.raises(ValueError, match="choose items or users"):
        make(graph, of="genres")
    broken = graph.by_user.neighbours.copy()
    broken[3] = graph.num_items
    with pytest.raises(IndexError, match="there are 12 nodes"):
        make(replace(graph, by_user=replace(graph.by_user, neighbours=broken)))
    with pytest.raises(ValueError, match="do not fit"):
        short = replace(graph.by_item, offsets=graph.by_item.offsets[:-1])
        make(replace(graph, by_item=short))


# ---------------------------------------------------------------- visited_with


def visit_shares(table, restart):
    """The exact share of a long walk's visits to each other item, [I, I]."""
    there = (~np.isnan(table)).astype(float)
    hop = (there / there.sum(0)).T @ (there / there.sum(1, keepdims=True))
    size = len(hop)
    # Where the walk is before a hop, in the long run: x = restart * start + (1 - restart) x hop.
    before = restart * np.linalg.inv(np.eye(size) - (1 - restart) * hop)
    visits = before @ hop
    np.fill_diagonal(visits, 0)
    return visits / visits.sum(1, keepdims=True)


@pytest.mark.parametrize("restart", [0.15, 0.5, 1.0])
@pytest.mark.parametrize("of", SIDES)
def test_shares_of_visits_are_the_exact_ones(restart, of):
    table = random_table(8, 6, 0.6, seed=3)
    graph = graph_of(table)
    hops = 400_000
    found = visited_with(graph, of=of, neighbours=10, hops=hops, restart=restart, seed=5)
    expected = visit_shares(table if of == "items" else table.T, restart)
    # Visits of a walk hang on each other: as though there were a third as many.
    deviation = np.sqrt(expected * (1 - expected) / (hops * 0.5 / 3))
    difference = np.abs(found.matrix().toarray() - expected)
    assert (difference <= 5 * deviation + 1e-7).all()
    assert (found.matrix().toarray() > 0).sum() > 5


def test_without_restarts_a_walk_forgets_where_it_began():
    """Then it is at each item in proportion to its degree."""
    table = random_table(8, 6, 0.6, seed=3)
    graph = graph_of(table)
    found = visited_with(graph, neighbours=10, hops=400_000, restart=0.0).matrix().toarray()
    degrees = graph.by_item.degrees.astype(float)
    expected = np.tile(degrees, (6, 1))
    np.fill_diagonal(expected, 0)
    expected /= expected.sum(1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=0.01)


@given(tables, st.integers(1, 8), st.integers(1, 60), st.floats(0, 1), st.integers(0, 2**63 - 1))
@settings(max_examples=60, deadline=None)
def test_the_most_visited_are_those_of_a_walk_in_python(table, neighbours, hops, restart, seed):
    graph = graph_of(table)
    found = visited_with(graph, neighbours=neighbours, hops=hops, restart=restart, seed=seed)
    for node in range(graph.num_items):
        visits = walk_in_python(graph, node, hops, restart, seed)
        best = sorted(visits, key=lambda item: (-visits[item], item))[:neighbours]
        total = sum(visits[item] for item in best)
        edges = slice(found.offsets[node], found.offsets[node + 1])
        assert found.neighbours[edges].tolist() == sorted(best)
        expected = [visits[item] / total for item in sorted(best)]
        np.testing.assert_allclose(found.weights[edges], expected, rtol=1e-6)


def mixed(number):
    """MurmurHash3's finalizer of a number of 64 bits."""
    number &= 2**64 - 1
    for multiplier in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        number ^= number >> 33
        number = number * multiplier % 2**64
    return number ^ (number >> 33)


def walk_in_python(graph, node, hops, restart, seed):
    visits = {}
    raters, rated = graph.by_item, graph.by_user
    if not raters.degrees[node]:
        return visits
    key, at = mixed(mixed(seed + 1) + node), node
    for hop in range(hops):
        draw = mixed(key + 2 * hop)
        if draw % 2**32 < round(restart * 2**32):
            at = node
        users = raters.neighbours[raters.of(at)]
        user = users[(draw >> 32) * len(users) >> 32]
        items = rated.neighbours[rated.of(user)]
        at = int(items[(mixed(key + 2 * hop + 1) >> 32) * len(items) >> 32])
        if at != node:
            visits[at] = visits.get(at, 0) + 1
    return visits


def test_walks_follow_from_the_seed():
    graph = graph_of(random_table())
    one, other = (visited_with(graph, hops=40, seed=seed) for seed in (1, 2))
    again = visited_with(graph, hops=40, seed=1)
    np.testing.assert_array_equal(one.weights, again.weights)
    assert one.matrix().toarray().tolist() != other.matrix().toarray().tolist()


def test_a_node_that_walks_do_not_leave_has_no_edges():
    table = np.array([[3, np.nan, np.nan], [np.nan, 2, 4], [5, np.nan, np.nan]])
    found = visited_with(graph_of(table))
    assert found.degrees.tolist() == [0, 1, 1]
    assert found.weights.tolist() == [1, 1]


@pytest.mark.parametrize(
    "wrong", [{"neighbours": 0}, {"hops": 0}, {"hops": 2**24 + 1}, {"restart": 1.1}, {"seed": -1}]
)
def test_walks_refuse_what_is_out_of_range(wrong):
    with pytest.raises(ValueError, match="choose at least 1 neighbour"):
        visited_with(graph_of(random_table()), **wrong)


# ---------------------------------------------------------------- agreement, features, clusters


@given(tables, st.floats(0.01, 1))
@settings(max_examples=50, deadline=None)
def test_users_are_joined_where_they_rated_enough_alike(table, share):
    found = agreeing_users(graph_of(table), share=share).matrix().toarray()
    alike = (table[:, None] == table[None]).sum(2)
    np.fill_diagonal(alike, 0)
    least = max(1, np.ceil(share * table.shape[1]))
    np.testing.assert_array_equal(found, np.where(alike >= least, alike, 0))


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1, np.nan])
def test_a_share_out_of_range_is_refused(share):
    with pytest.raises(ValueError, match="share"):
        agreeing_users(graph_of(random_table()), share=share)


def adjacency_of(graph):
    matrix = networkx.to_scipy_sparse_array(graph, nodelist=range(len(graph)), dtype=float)
    return WeightedAdjacency.of_matrix(matrix)


@given(st.integers(1, 30), st.floats(0, 0.4), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_features_are_those_of_networkx(size, share, seed):
    graph = networkx.gnp_random_graph(size, share, seed=seed)
    found = graph_features(adjacency_of(graph), pivots=None)
    expected = (
        networkx.pagerank(graph, tol=1e-12, max_iter=1000),
        {node: degree / max(1, size - 1) for node, degree in graph.degree()},
        networkx.closeness_centrality(graph),
        networkx.betweenness_centrality(graph),
        networkx.average_neighbor_degree(graph),
    )
    columns = np.array([[column[node] for node in range(size)] for column in expected]).T
    assert found.dtype == np.float32 and found.shape == (size, len(GRAPH_FEATURES))
    np.testing.assert_allclose(found, columns, rtol=1e-5, atol=1e-7)


def test_estimates_from_pivots_are_near_the_exact_figures():
    parts = [networkx.barabasi_albert_graph(400, 3, seed=1), networkx.cycle_graph(3)]
    graph = networkx.disjoint_union_all([*parts, networkx.empty_graph(2)])
    exact = graph_features(adjacency_of(graph), pivots=None)
    found = graph_features(adjacency_of(graph), pivots=200, seed=2)
    np.testing.assert_array_equal(found[:, [0, 1, 4]], exact[:, [0, 1, 4]])
    np.testing.assert_allclose(found[:, 2], exact[:, 2], rtol=0.05)
    busy = exact[:, 3] > 0.02
    assert busy.sum() > 10
    np.testing.assert_allclose(found[busy, 3], exact[busy, 3], rtol=0.4)
    assert abs(found[:, 3].sum() / exact[:, 3].sum() - 1) < 0.05
    # The mean of many draws is nearer: nothing is counted twice or left out.
    means = np.mean([graph_features(adjacency_of(graph), pivots=100, seed=s) for s in range(60)], 0)
    np.testing.assert_allclose(means[busy, 3], exact[busy, 3], rtol=0.05)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.integers(1, 60))
@settings(max_examples=50, deadline=None)
def test_each_component_has_its_pivots(sizes, count):
    components = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    pivots = draw_pivots(components.astype(np.int32), count, seed=1)
    assert (np.diff(pivots) > 0).all()
    drawn = np.bincount(components[pivots], minlength=len(sizes))
    for size, number in zip(sizes, drawn, strict=True):
        if count >= sum(sizes):
            assert number == size
        elif size == 1:
            assert number == 0
        else:
            assert number == min(size, max(2, np.ceil(size * (count / sum(sizes)))))


def test_features_do_not_depend_on_threads():
    graph = adjacency_of(networkx.barabasi_albert_graph(200, 3, seed=1))
    expected = graph_features(graph)
    torch.set_num_threads(4)
    try:
        np.testing.assert_array_equal(graph_features(graph), expected)
    finally:
        torch.set_num_threads(1)


def test_features_refuse_graphs_that_are_not_as_required():
    with pytest.raises(ValueError, match="both ways"):
        graph_features(WeightedAdjacency.of_matrix(np.array([[0, 1.0], [0, 0]])))
    with pytest.raises(ValueError, match="itself"):
        graph_features(WeightedAdjacency.of_matrix(np.eye(2)))
    with pytest.raises(ValueError, match="pivots 0"):
        graph_features(adjacency_of(networkx.path_graph(3)), pivots=0)
    broken = replace(adjacency_of(networkx.path_graph(3)), neighbours=np.int32([1, 0, 7, 1]))
    with pytest.raises(ValueError):
        graph_features(broken)


def test_clusters_are_the_planted_ones():
    generator = np.random.default_rng(0)
    planted = np.repeat([0, 1, 2], [50, 30, 20])
    centres = np.array([[0.0, 0, 5], [900, 0, 5], [0, 0.02, 5]])
    noise = generator.normal(size=(100, 3)) * [9, 0.0002, 0]
    found = cluster_rows(centres[planted] + noise, 3)
    assert found.tolist() == planted.tolist()  # numbered by size; a constant column counts nothing
    assert found.tolist() == cluster_rows(centres[planted] + noise, 3).tolist()


def test_rows_that_are_alike_make_fewer_clusters():
    assert set(cluster_rows(np.zeros((5, 2)), 3).tolist()) == {0}
    with pytest.raises(ValueError, match="6 clusters of 5 rows"):
        cluster_rows(np.zeros((5, 2)), 6)
    with pytest.raises(ValueError, match="finite"):
        cluster_rows(np.array([[np.nan]]), 1)


# ---------------------------------------------------------------- leaks


def derived_of(folder):
    graph = RatingDataset.open(folder).graph
    alike = agreeing_users(graph, share=0.1)
    features = graph_features(alike, pivots=None)
    clusters = cluster_rows(features, 3)
    walked = [visited_with(graph, of=side) for side in SIDES]
    both = [similar(graph, of=side) for side in SIDES]
    return [one.matrix().toarray() for one in (*both, *walked, alike)] + [features, clusters]


@pytest.fixture(scope="module")
def rows():
    table = random_table(40, 25, 0.4)
    users, items = np.nonzero(~np.isnan(table))
    frame = pd.DataFrame({"user_id": users, "item_id": items, "rating": table[users, items]})
    order = np.random.default_rng(1).permutation(len(frame))
    return frame.iloc[order[:320]], frame.iloc[order[320:]]


def prepared(folder, train, test):
    folder.mkdir()
    train.to_csv(folder / "train.csv", index=False)
    test.to_csv(folder / "test.csv", index=False)
    options = PrepareOptions(
        text=False, train_file=folder / "train.csv", test_file=folder / "test.csv"
    )
    prepare(folder / "train.csv", folder / "data", options)
    return folder / "data"


def test_no_held_out_rating_reaches_a_derived_graph(rows, tmp_path):
    """Other test ratings change nothing; put among the training rows, all of it."""
    train, test = rows
    turned = test.assign(rating=6 - test["rating"])
    expected = derived_of(prepared(tmp_path / "a", train, test))
    found = derived_of(prepared(tmp_path / "b", train, turned))
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_array_equal(one, other)
    # `prepare` takes rows of the test file out of the training file, so the test is another one.
    leaked = prepared(tmp_path / "c", pd.concat([train, test]), turned[:1])
    for one, other in zip(expected, derived_of(leaked), strict=True):
        assert not np.array_equal(one, other)
