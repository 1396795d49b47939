"""`visited_with`: the nodes that random walks from a node visit most, as in PinSage.

Ying, He, Chen, Eksombatchai, Hamilton and Leskovec, "Graph convolutional neural networks for
web-scale recommender systems", KDD 2018, section 3.1: walks go from an item to one of the users
who rated it and on to one of that user's items, and restart with a given probability. An item's
importance is its share of all visits, and the T most important items are the neighbourhood.

Shapes: N nodes that walks start from, M nodes of the other type, T neighbours.
"""

from functools import partial
from typing import NamedTuple

import numpy as np

from dglrec.derived.adjacency import EdgeArrays, NearestRows, Side, WeightedAdjacency, sides_of
from dglrec.derived.pearson import insert_best
from dglrec.graph import RatingGraph
from dglrec.kernels import run_side_by_side
from dglrec.kernels.hashing import mixed
from dglrec.kernels.parallel import compiled_as_written, parts_of
from dglrec.progress import progress

_DRAWS = np.uint64(2)  # hashes for each hop
_HALF, _LOW_HALF = np.uint64(32), np.uint64((1 << 32) - 1)
_NUMBERS_A_HOP = 8  # numbers read and written for each hop; see `parts_of`
_NODES_AT_ONCE = 4096
_MOST_HOPS = 1 << 24  # float32 counts exactly up to here


class Walks(NamedTuple):
    """How a node's walks go, for compiled code.

    Attributes:
        hops: of all walks of a node together.
        restart: how likely a walk returns to its start before a hop, in 2^-32.
        seed: of what is drawn.
    """

    hops: int
    restart: np.uint64
    seed: np.uint64

    @classmethod
    def of(cls, hops: int, restart: float, seed: int) -> "Walks":
        """The same of a restart from 0 to 1, and of a seed at least 0 and below 2^63."""
        return cls(hops, np.uint64(round(restart * (1 << 32))), np.uint64(seed))


def visited_with(
    graph: RatingGraph,
    *,
    of: Side = "items",
    neighbours: int = 50,
    hops: int = 1000,
    restart: float = 0.5,
    seed: int = 0,
) -> WeightedAdjacency:
    """The graph of items, or users, that random walks from a node visit most.

    A hop goes along a random edge to a node of the other type, and from there along a random edge
    to a node of the same type. Before each hop but the first, the walk returns to its start with
    probability `restart`. Visits to the start itself do not count.

    Each hop's random numbers are hashes of seed, node and hop, so the result does not depend on the
    number of threads. Memory is about 20 T N bytes, plus 4 N + 4 hops bytes for each thread.

    Args:
        graph: the training ratings.
        of: the nodes that walks start from.
        neighbours: T, at least 1.
        hops: of all walks of a node together, from 1 to 16,777,216.
        restart: from 0 to 1.
        seed: at least 0 and below 2^63.

    Returns:
        N nodes; a node's in-edges come from the T nodes that its walks visited most, and their
        weights, the importances, sum up to 1. Of equally often visited nodes, the lower index comes
        first. A node without edges, or whose walks visit only itself, has no in-edge.

    Raises:
        ValueError: an argument is out of range.
    """
    if (
        neighbours < 1
        or not 1 <= hops <= _MOST_HOPS
        or not 0 <= restart <= 1
        or not 0 <= seed < 2**63
    ):
        raise ValueError(
            f"neighbours {neighbours}, hops {hops}, restart {restart:g}, seed {seed}: choose at "
            f"least 1 neighbour, 1 to {_MOST_HOPS} hops, a share from 0 to 1, and a seed from 0"
        )
    own, others = sides_of(graph, of)
    size = own.num_nodes
    most = max(1, min(neighbours, hops, size - 1))
    visited = NearestRows.empty(size, most)
    sides = EdgeArrays.of(own), EdgeArrays.of(others)
    walks = Walks.of(hops, restart, seed)
    with progress(f"walking from {of}", size, of) as advance:
        for first in range(0, size, _NODES_AT_ONCE):
            last = min(first + _NODES_AT_ONCE, size)
            run_side_by_side(
                [
                    partial(_walk, *sides, walks, visited, first + low, first + high)
                    for low, high in parts_of(last - first, (last - first) * hops * _NUMBERS_A_HOP)
                ]
            )
            advance(last - first)
    return visited.pack()


@compiled_as_written
def pick(first, last, chance):  # type: ignore[no-untyped-def]
    """One of fewer than 2^32 numbers first..last-1, by 32 random bits."""
    count = np.uint64(last - first)
    return first + np.int64((chance * count) >> _HALF)


@compiled_as_written
def _walk(own, others, walks, visited, low, high):  # type: ignore[no-untyped-def]
    """Walk from nodes `low` to `high`, and fill in the nodes that each one's walks visit most."""
    starts, middles = own.offsets, own.neighbours
    offsets, neighbours = others.offsets, others.neighbours
    size = len(starts) - 1
    visits = np.zeros(size, dtype=np.int32)
    met = np.empty(min(walks.hops, size), dtype=np.int32)
    # Hashed before the node is added: seed s at node v and seed s + 1 at node v - 1, whose sums are
    # equal, then have different streams.
    stream = mixed(walks.seed + np.uint64(1))
    for node in range(low, high):
        if starts[node] == starts[node + 1]:
            continue
        key = mixed(stream + np.uint64(node))
        at, count = node, 0
        for hop in range(walks.hops):
            draw = mixed(key + _DRAWS * np.uint64(hop))
            if (draw & _LOW_HALF) < walks.restart:
                at = node
            middle = middles[pick(starts[at], starts[at + 1], draw >> _HALF)]
            draw = mixed(key + _DRAWS * np.uint64(hop) + np.uint64(1))
            at = np.int64(neighbours[pick(offsets[middle], offsets[middle + 1], draw >> _HALF)])
            if at == node:
                continue
            if visits[at] == 0:
                met[count] = at
                count += 1
            visits[at] += 1
        found, total = 0, np.float32(0)
        nodes, weights = visited.neighbours[node], visited.weights[node]
        for place in range(count):
            best = np.float32(visits[met[place]])
            found = insert_best(weights, nodes, found, best, met[place])
            visits[met[place]] = 0
        for place in range(found):
            total += weights[place]
        for place in range(found):
            weights[place] /= total
        visited.counts[node] = found
