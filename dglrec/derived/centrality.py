"""Centrality of nodes in a graph: the features that GHRS gives to users.

Darban and Valipour, "GHRS", Expert Systems with Applications 200, 2022, section 3.2. The weights of
edges are ignored, and edges go both ways.

Shapes: N nodes, E edges, P pivots.
"""

from functools import partial

import numpy as np
import numpy.typing as npt
from scipy.sparse.csgraph import connected_components

from dglrec.derived.adjacency import WeightedAdjacency
from dglrec.kernels import compiled, run_side_by_side
from dglrec.progress import progress

GRAPH_FEATURES = (
    "pagerank",
    "degree",
    "closeness",
    "betweenness",
    "average_neighbour_degree",
)
"""The columns of `graph_features`."""

_Floats = npt.NDArray[np.float64]

_DAMPING = 0.85  # of PageRank: the share of steps along an edge, its authors' value
_TOLERANCE, _MOST_STEPS = 1e-12, 1000
_PARTS = 16  # parts of the pivots; each is summed by one thread, so that results are repeatable
_PIVOTS_AT_ONCE = 1024


def graph_features(
    adjacency: WeightedAdjacency, *, pivots: int | None = 2000, seed: int = 0
) -> npt.NDArray[np.float32]:
    """GHRS's features of nodes by their centrality, float32 [N, 5]; see `GRAPH_FEATURES`.

    PageRank with damping 0.85 (Brin and Page, 1998); degree and average degree of the neighbours,
    the first over N - 1; closeness, the inverse mean distance to the nodes within reach, times
    their share of all other nodes (Wasserman and Faust, 1994, equation 5.22); betweenness, the
    share of shortest paths between two other nodes that go through the node (Brandes, "A faster
    algorithm for betweenness centrality", Journal of Mathematical Sociology 25(2), 2001). These are
    the definitions of networkx.

    Shortest paths from all nodes take N E steps. In a larger graph they start from pivots: random
    nodes, from each connected component in proportion to its size and at least two (Brandes and
    Pich, "Centrality estimation in large networks", International Journal of Bifurcation and Chaos
    17(7), 2007). Closeness and betweenness are then estimates.

    Args:
        adjacency: symmetric, without an edge from a node to itself.
        pivots: P, approximately; None, or at least N, for exact figures.
        seed: of the choice of pivots.

    Raises:
        ValueError: the graph is not symmetric or has loops, or `pivots` is below 1.
    """
    matrix = adjacency.matrix()
    matrix.data = np.ones_like(matrix.data)
    if (matrix != matrix.T).nnz or matrix.diagonal().any():
        raise ValueError("edges must go both ways, and none from a node to itself")
    if pivots is not None and pivots < 1:
        raise ValueError(f"pivots {pivots}: at least 1 is needed")
    size, degrees = adjacency.num_nodes, adjacency.degrees.astype(np.float64)
    if not size:
        return np.empty((0, len(GRAPH_FEATURES)), dtype=np.float32)
    closeness, betweenness = _path_features(adjacency, pivots, seed)
    columns = (
        _pagerank(matrix, degrees),
        degrees / max(1, size - 1),
        closeness,
        betweenness,
        (matrix @ degrees) / np.maximum(degrees, 1),
    )
    return np.column_stack(columns).astype(np.float32)


def _pagerank(matrix: npt.ArrayLike, degrees: _Floats) -> _Floats:
    """The share of time that a walker spends at each node; from a node without edges it jumps.

    Args:
        matrix: sparse [N, N], 1 for each edge.
        degrees: [N].
    """
    size = len(degrees)
    ranks = np.full(size, 1 / size)
    for _ in range(_MOST_STEPS):
        along = matrix @ (ranks / np.maximum(degrees, 1))  # type: ignore[operator]
        stuck = ranks[degrees == 0].sum()
        last, ranks = ranks, _DAMPING * (along + stuck / size) + (1 - _DAMPING) / size
        if np.abs(ranks - last).sum() < _TOLERANCE:
            break
    return ranks


def _path_features(
    adjacency: WeightedAdjacency, pivots: int | None, seed: int
) -> tuple[_Floats, _Floats]:
    """Closeness and betweenness of each node, [N] and [N]."""
    size = adjacency.num_nodes
    components = connected_components(adjacency.matrix(), directed=False)[1]
    sizes = np.bincount(components)
    sources = draw_pivots(components, pivots, seed)
    distances, passed = _search(adjacency, sources)
    # Of each node's component without the node itself: the numbers of nodes and of pivots.
    others = sizes[components] - 1
    used = np.bincount(components[sources], minlength=len(sizes))[components]
    used[sources] -= 1
    scale = others / np.maximum(used, 1)
    total = distances * scale  # of the distances to all other nodes
    closeness = np.divide(others**2, total, out=np.zeros(size), where=total > 0)
    betweenness = passed * scale / max(1, (size - 1) * (size - 2))
    return closeness / max(1, size - 1), betweenness


def draw_pivots(
    components: npt.NDArray[np.int32], count: int | None, seed: int
) -> npt.NDArray[np.int64]:
    """The nodes that shortest paths start from, ascending, int64 [P].

    Args:
        components: int32 [N]; the connected component of each node.
        count: how many, approximately; None for all nodes.
        seed: of the draw.

    Returns:
        All nodes, or a random share of each component of two or more nodes, and at least two of it.
    """
    size = len(components)
    if count is None or count >= size:
        return np.arange(size)
    sizes = np.bincount(components)
    wanted = np.minimum(sizes, np.maximum(2, np.ceil(sizes * (count / size)).astype(np.int64)))
    wanted[sizes < 2] = 0
    shuffled = np.random.default_rng(seed).permutation(size)
    grouped = shuffled[np.argsort(components[shuffled], kind="stable")]
    places = np.arange(size) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.sort(grouped[places < np.repeat(wanted, sizes)])


def _search(
    adjacency: WeightedAdjacency, sources: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], _Floats]:
    """Sums over the sources: each node's distance from them, and its share of their paths."""
    size = adjacency.num_nodes
    offsets, neighbours = (np.asarray(a) for a in (adjacency.offsets, adjacency.neighbours))
    distances = np.zeros((_PARTS, size), dtype=np.int64)
    passed = np.zeros((_PARTS, size))
    with progress("searching paths", len(sources), "sources") as advance:
        for first in range(0, len(sources), _PIVOTS_AT_ONCE):
            some = sources[first : first + _PIVOTS_AT_ONCE]
            run_side_by_side(
                [
                    partial(
                        _search_from,
                        offsets,
                        neighbours,
                        np.ascontiguousarray(some[part::_PARTS]),
                        distances[part],
                        passed[part],
                    )
                    for part in range(_PARTS)
                ]
            )
            advance(len(some))
    return distances.sum(axis=0), passed.sum(axis=0)


@compiled
def _search_from(offsets, neighbours, sources, distances, passed):  # type: ignore[no-untyped-def]
    """Brandes' algorithm 1; predecessors are found by their distance instead of kept in lists."""
    size = len(offsets) - 1
    queue = np.empty(size, dtype=np.int32)
    away = np.full(size, -1, dtype=np.int32)
    paths, share = np.zeros(size), np.zeros(size)
    for source in sources:
        queue[0], away[source], paths[source] = source, 0, 1.0
        at, count = 0, 1
        while at < count:
            node = queue[at]
            at += 1
            for edge in range(offsets[node], offsets[node + 1]):
                other = neighbours[edge]
                if away[other] < 0:
                    away[other] = away[node] + 1
                    queue[count] = other
                    count += 1
                if away[other] == away[node] + 1:
                    paths[other] += paths[node]
        for place in range(count - 1, -1, -1):
            node = queue[place]
            for edge in range(offsets[node], offsets[node + 1]):
                other = neighbours[edge]
                if away[other] == away[node] - 1:
                    share[other] += paths[other] / paths[node] * (1.0 + share[node])
            distances[node] += away[node]
            if node != source:
                passed[node] += share[node]
        for place in range(count):
            node = queue[place]
            away[node], paths[node], share[node] = -1, 0.0, 0.0
