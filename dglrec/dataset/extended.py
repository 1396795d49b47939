"""Training rows and held-out rows in a single graph, for callers that may read both."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import sparse

from dglrec.dataset.held_out import HeldOut
from dglrec.errors import DataError
from dglrec.graph import RatingGraph, build_graph, group_by_user


def extended(graph: RatingGraph, more: Sequence[HeldOut], path: Path) -> RatingGraph:
    """A graph with further rows for its users and items, in time linear in its ratings.

    Args:
        graph: of E ratings.
        more: held-out rows, none of which is in the graph.
        path: the data set's folder, for messages.

    Raises:
        DataError: a pair of user and item is there twice, or the graph has times and the rows have
            none.
    """
    users = np.concatenate([rows.users.numpy() for rows in more])
    items = np.concatenate([rows.items.numpy() for rows in more])
    ratings = np.concatenate([rows.ratings.numpy() for rows in more])
    # In place of rating codes, row numbers: they say where each row goes in the new order.
    numbers = np.arange(len(users), dtype=np.int64)
    sizes = {"num_users": graph.num_users, "num_items": graph.num_items}
    added = group_by_user(users, items, numbers, **sizes)
    shape = (graph.num_users, graph.num_items)
    places = np.arange(1, graph.num_edges + 1, dtype=np.int64)
    known = sparse.csr_array(
        (places, np.asarray(graph.by_user.neighbours), np.asarray(graph.by_user.offsets)), shape
    )
    behind = graph.num_edges + 1 + added.codes
    both = known + sparse.csr_array((behind, added.neighbours, added.offsets), shape)
    if both.nnz != graph.num_edges + len(users):
        raise DataError(
            f"{path}: damaged (two parts of its split hold one pair of user and item); prepare "
            "the data set again"
        )
    order = both.data - 1
    codes = np.concatenate((graph.by_user.codes, graph.scale.encode(ratings)))
    times = None if graph.times is None else _times(graph.times, more, path)[order]
    return build_graph(
        np.repeat(np.arange(graph.num_users, dtype=np.int32), np.diff(both.indptr)),
        both.indices,
        codes[order],
        **sizes,
        scale=graph.scale,
        times=times,
    )


def _times(
    known: npt.NDArray[np.int64], more: Sequence[HeldOut], path: Path
) -> npt.NDArray[np.int64]:
    found = [rows.times.numpy() for rows in more if rows.times is not None]
    if len(found) < len(more):
        raise DataError(
            f"{path}: damaged (held-out rows without timestamps); prepare the data set again"
        )
    return np.concatenate((known, *found))
