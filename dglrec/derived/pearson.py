"""`similar`: the k nearest nodes of each node, by the correlation of their ratings.

The similarity of two items is the Pearson correlation of their ratings by the n users who rated
both, with means over those users, times n / (n + shrinkage), as the correlation of few common
ratings may be high by chance (Herlocker, Konstan, Borchers and Riedl, "An
algorithmic framework for performing collaborative filtering", SIGIR 1999, section 5.2; the form
n / (n + shrinkage) is that of Koren, ACM TKDD 4(1), 2010, equation 2).

Shapes: N nodes that are compared, M nodes of the other type, E ratings, k neighbours.
"""

from functools import partial

import numpy as np
import numpy.typing as npt

from dglrec.derived.adjacency import EdgeArrays, NearestRows, Side, WeightedAdjacency, sides_of
from dglrec.graph import Adjacency, RatingGraph, node_chunks
from dglrec.kernels import even_parts, run_side_by_side
from dglrec.kernels.parallel import compiled_as_written
from dglrec.progress import progress

_SUMS = 6  # sums for each pair of nodes
_STEPS = 200  # steps of the progress bar, at most
_LEAST_PAIRS = 1 << 22  # pairs in a step, so that there is work for several threads


def similar(
    graph: RatingGraph,
    *,
    of: Side = "items",
    neighbours: int = 10,
    shrinkage: float = 10.0,
    min_support: int = 2,
    normalised: bool = False,
) -> WeightedAdjacency:
    """The graph of similar items, or users: each node's k nearest, made symmetric.

    There is an edge where either node is among the k nearest of the other. Only similarities above
    0 count; of equal ones, the lower index is nearer. Sums are exact, of whole numbers, so the
    result does not depend on the number of threads, and an edge weighs the same in both directions.

    Memory is about 20 k N bytes, plus 52 N bytes for each thread. Time is in proportion to the
    number of pairs of ratings with a common end: for items the sum of d^2 over the users, for users
    over the items, with d their numbers of ratings. The latter is by far the larger where some
    items are rated by nearly all users.

    Args:
        graph: the training ratings.
        of: which nodes are compared.
        neighbours: k, at least 1.
        shrinkage: number of common ratings at which a correlation counts half; at least 0.
        min_support: the fewest common ratings of two neighbours; at least 2.
        normalised: whether weights are divided by the matrix's largest eigenvalue.

    Returns:
        N nodes, with symmetric weights and no edge from a node to itself. A node whose ratings are
        all equal, as interactions are, has none.

    Raises:
        ValueError: an argument is out of range, or the ratings are too many and too fine for sums
            of 64 bits (46,000 ratings of a node on a scale of 65,535 levels, 11 million of 256).
    """
    if neighbours < 1 or min_support < 2 or not 0 <= shrinkage < np.inf:
        raise ValueError(
            f"neighbours {neighbours}, min_support {min_support} and shrinkage {shrinkage:g}: at "
            "least 1, 2 and 0 are needed"
        )
    own, others = sides_of(graph, of)
    most = int(own.degrees.max(initial=0)) * (graph.scale.levels - 1)
    if most * most >= 2**63:
        raise ValueError(
            f"{own.degrees.max()} ratings of one of the {of} on a scale of {graph.scale.levels} "
            "levels are too many for exact sums"
        )
    size = own.num_nodes
    k = max(1, min(neighbours, size - 1))
    nearest = NearestRows.empty(size, k)
    work = pairs_before(own, others)
    sides = EdgeArrays.of(own), EdgeArrays.of(others)
    at_once = max(int(work[-1]) // _STEPS, _LEAST_PAIRS)
    with progress(f"comparing {of}", int(work[-1]), "pairs") as advance:
        for first, last in node_chunks(work, at_once):
            cuts = even_parts(work[first : last + 1] - work[first], _SUMS)
            run_side_by_side(
                [
                    partial(
                        _find_nearest,
                        *sides,
                        float(shrinkage),
                        min_support,
                        nearest,
                        first + low,
                        first + high,
                    )
                    for low, high in cuts
                ]
            )
            advance(int(work[last] - work[first]))
    one_way = nearest.pack().matrix()
    found = WeightedAdjacency.of_matrix(one_way.maximum(one_way.T))
    return found.divided_by_largest_eigenvalue() if normalised else found


def pairs_before(own: Adjacency, others: Adjacency) -> npt.NDArray[np.int64]:
    """int64 [N + 1]: how many pairs of ratings are read to compare all nodes before each one.

    Args:
        own: the edges of the N nodes, checked.
        others: the edges of the nodes of the other type, checked.
    """
    pairs = np.zeros(own.num_nodes + 1, dtype=np.int64)
    _count_pairs(np.asarray(own.offsets), np.asarray(own.neighbours), others.degrees, pairs)
    return np.cumsum(pairs)


@compiled_as_written
def _count_pairs(offsets, neighbours, degrees, pairs):  # type: ignore[no-untyped-def]
    for node in range(len(offsets) - 1):
        for edge in range(offsets[node], offsets[node + 1]):
            pairs[node + 1] += degrees[neighbours[edge]]


@compiled_as_written
def _correlation(sums):  # type: ignore[no-untyped-def]
    """Pearson's correlation from n and the sums of x, y, x y, x^2, y^2; 0 for constant x or y."""
    n, x, y = sums[0], sums[1], sums[2]
    spread_x, spread_y = n * sums[4] - x * x, n * sums[5] - y * y
    if spread_x <= 0 or spread_y <= 0:
        return 0.0
    both = np.float64(n * sums[3] - x * y)
    return min(both / (np.sqrt(np.float64(spread_x)) * np.sqrt(np.float64(spread_y))), 1.0)


@compiled_as_written
def insert_best(values, ids, size, value, index):  # type: ignore[no-untyped-def]
    """Insert a value into the list of the best so far, best first, equal ones by index.

    Returns the new length of the list, which had `size` entries.
    """
    at = size
    while at > 0 and (value > values[at - 1] or (value == values[at - 1] and index < ids[at - 1])):
        at -= 1
    if at == len(values):
        return size
    size = min(size + 1, len(values))
    for behind in range(size - 1, at, -1):
        values[behind], ids[behind] = values[behind - 1], ids[behind - 1]
    values[at], ids[at] = value, index
    return size


@compiled_as_written
def _find_nearest(own, others, shrinkage, min_support, nearest, low, high):  # type: ignore[no-untyped-def]
    """Fill in the nearest of nodes `low` to `high`; `others` are the edges from the other side."""
    starts, raters, codes = own
    offsets, rated, rated_codes = others
    size = len(starts) - 1
    sums = np.zeros((size, _SUMS), dtype=np.int64)
    met = np.empty(size, dtype=np.int32)
    for i in range(low, high):
        count = 0
        for edge in range(starts[i], starts[i + 1]):
            rater, x = raters[edge], np.int64(codes[edge])
            for other in range(offsets[rater], offsets[rater + 1]):
                j, y = rated[other], np.int64(rated_codes[other])
                pair = sums[j]
                if pair[0] == 0:
                    met[count] = j
                    count += 1
                pair[0] += 1
                pair[1] += x
                pair[2] += y
                pair[3] += x * y
                pair[4] += x * x
                pair[5] += y * y
        found, weights, nodes = 0, nearest.weights[i], nearest.neighbours[i]
        for place in range(count):
            j = met[place]
            n = sums[j, 0]
            if j != i and n >= min_support:
                # Rounded first, so that values that are equal in the result are compared as equal.
                value = np.float32(_correlation(sums[j]) * (n / (n + shrinkage)))
                if value > 0:
                    found = insert_best(weights, nodes, found, value, j)
            sums[j, :] = 0
        nearest.counts[i] = found
