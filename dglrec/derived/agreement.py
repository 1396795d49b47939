"""GHRS's graph among users: an edge joins users who gave the same ratings.

Darban and Valipour, "GHRS: Graph-based hybrid recommendation system with application to movie
recommendation", Expert Systems with Applications 200, 2022, section 3.2: two users are joined if
the items that both rated alike are more than a share of all items.
"""

import math
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dglrec.derived.adjacency import EdgeArrays, WeightedAdjacency, sides_of
from dglrec.derived.pearson import pairs_before
from dglrec.errors import UnusableEnvironmentError
from dglrec.graph import RatingGraph, node_chunks
from dglrec.kernels import even_parts, run_side_by_side
from dglrec.kernels.parallel import compiled_as_written
from dglrec.machine import available_memory, gib
from dglrec.progress import progress

_NUMBERS = 2  # numbers read for each pair of an item's ratings
_STEPS = 200  # steps of the progress bar, at most
_LEAST_PAIRS = 1 << 22  # pairs in a step, so that there is work for several threads
_EDGE_BYTES = 24  # bytes of an edge, with its reverse in a relation


def agreeing_users(graph: RatingGraph, *, share: float = 0.005) -> WeightedAdjacency:
    """The graph of users who rated enough items alike; weights are the numbers of those items.

    Memory is in proportion to the number of edges, which approaches U^2 for dense ratings. Time is
    in proportion to the sum of d^2 over the items, with d an item's number of ratings.

    Args:
        graph: the training ratings.
        share: of all items, above 0 and at most 1: two users are joined who gave equal ratings to
            so many items, and to at least one. The paper's code has 0.005 for MovieLens 100K.

    Returns:
        U nodes, with symmetric weights and no edge from a user to itself.

    Raises:
        ValueError: the share is out of range.
        UnusableEnvironmentError: the edges do not fit in memory.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share {share:g}: choose one above 0 and at most 1")
    least = max(1, math.ceil(share * graph.num_items))
    own, others = sides_of(graph, "users")
    sides = EdgeArrays.of(own), EdgeArrays.of(others)
    work = pairs_before(own, others)
    at_once = max(int(work[-1]) // _STEPS, _LEAST_PAIRS)
    size = own.num_nodes
    offsets = np.zeros(size + 1, dtype=np.int64)
    neighbours, weights = np.empty(0, dtype=np.int32), np.empty(0, dtype=np.float32)
    with progress("comparing users", 2 * int(work[-1]), "pairs") as advance:
        # Edges are counted first, so that they take no more memory than they need.
        for filled in (False, True):
            if filled:
                offsets = np.cumsum(offsets)
                _check_fits(int(offsets[-1]), share)
                neighbours = np.empty(offsets[-1], dtype=np.int32)
                weights = np.empty(offsets[-1], dtype=np.float32)
            out = _Edges(offsets, neighbours, weights)
            for first, last in node_chunks(work, at_once):
                cuts = even_parts(work[first : last + 1] - work[first], _NUMBERS)
                run_side_by_side(
                    [
                        partial(_agree, *sides, least, out, filled, first + low, first + high)
                        for low, high in cuts
                    ]
                )
                advance(int(work[last] - work[first]))
    return WeightedAdjacency(offsets, neighbours, weights)


def _check_fits(edges: int, share: float) -> None:
    needed, available = _EDGE_BYTES * edges, available_memory()
    if needed > available:
        raise UnusableEnvironmentError(
            f"agreeing_users: {edges:,} edges take {gib(needed)} of memory, and there are "
            f"{gib(available)}; take a larger derived.agreement_share than {share:g}"
        )


class _Edges(NamedTuple):
    """The graph's edges, or room for them: as the fields of `WeightedAdjacency`."""

    offsets: npt.NDArray[np.int64]
    neighbours: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32]


@compiled_as_written
def _agree(own, others, least, out, filled, low, high):  # type: ignore[no-untyped-def]
    """Count the edges of users `low` to `high` into the offsets, or fill them in from there."""
    starts, rated, codes = own
    offsets, raters, rater_codes = others
    size = len(starts) - 1
    alike = np.zeros(size, dtype=np.int32)
    for user in range(low, high):
        for edge in range(starts[user], starts[user + 1]):
            item, code = rated[edge], codes[edge]
            for other in range(offsets[item], offsets[item + 1]):
                if rater_codes[other] == code:
                    alike[raters[other]] += 1
        alike[user] = 0
        at = out.offsets[user] if filled else 0
        for other in range(size):
            if alike[other] >= least:
                if filled:
                    out.neighbours[at], out.weights[at] = other, alike[other]
                at += 1
            alike[other] = 0
        if not filled:
            out.offsets[user + 1] = at
