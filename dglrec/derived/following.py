"""Edges between items that a user rated directly after each other.

The graph of the items of sessions is that of Wu, Tang, Zhu, Wang, Xie and Tan, "Session-based
recommendation with graph neural networks", AAAI 2019, section 3.2, but with all sessions in a
single graph, and counts as weights.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from dglrec.derived.adjacency import WeightedAdjacency
from dglrec.derived.sessions import sessions_of
from dglrec.graph import RatingGraph


def next_items(
    graph: RatingGraph,
    times: npt.NDArray[np.int64],
    gap: float = np.inf,
    *,
    kept: npt.NDArray[np.bool_] | None = None,
) -> WeightedAdjacency:
    """Edges from each item to those that directly follow it in a session; weights are counts.

    Of a user's ratings at the same time, the one of the lower item comes first.

    Args:
        graph: the training ratings, of I items.
        times: int64 [E]; the ratings' times, by edge id.
        gap: a session ends before a rating that comes more than this later, in the unit of the
            times, above 0; infinite for one session for each user.
        kept: bool [E]; which ratings count, by edge id; None for all.

    Returns:
        The graph of I items; an item's in-edges come from the items that it follows.

    Raises:
        ValueError: the times do not fit the edges, or the gap is not above 0.
    """
    if len(times) != graph.num_edges:
        raise ValueError(f"{len(times)} times of {graph.num_edges} edges")
    users = np.repeat(np.arange(graph.num_users), graph.by_user.degrees)
    items: npt.NDArray[Any] = np.asarray(graph.by_user.neighbours)
    times = np.asarray(times)
    if kept is not None:
        users, items, times = users[kept], items[kept], times[kept]
    numbers = sessions_of(users, times, gap)
    order = np.lexsort((times, numbers))  # sessions are numbered by user and by time
    items, numbers = items[order], numbers[order]
    follows = numbers[1:] == numbers[:-1]
    before, after = items[:-1][follows], items[1:][follows]
    shape = (graph.num_items, graph.num_items)
    ones = np.ones(len(before), dtype=np.float32)
    matrix = sparse.coo_array((ones, (after, before)), shape=shape)
    return WeightedAdjacency.of_matrix(matrix.tocsr())
