"""Which item comes next: edges between items that a user rated one right after the other.

Sequences of sessions as a graph of items are those of Wu, Tang, Zhu, Wang, Xie and Tan,
"Session-based recommendation with graph neural networks", AAAI 2019, section 3.2, with all sessions
in one graph and counts for weights.
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
    """Edges from each item to those that come right after it in a session, weighed by how often.

    Of ratings of a user at the same time the one with the lower item comes first.

    Args:
        graph: the training ratings, of I items.
        times: int64 [E]; when they were given, by edge id.
        gap: a session ends where a user's next rating comes more than this later, in the unit of
            the times, above 0; infinite for one session a user.
        kept: bool [E], which ratings count, by edge id; None for all.

    Returns:
        Of I items; the in-edges of an item come from those that it follows.

    Raises:
        ValueError: there are other times than edges, or the gap is not above 0.
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
