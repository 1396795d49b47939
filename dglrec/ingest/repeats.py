"""Find rows that repeat a pair of user and item; of each pair, only the last row is kept."""

from typing import Any

import numpy as np
import numpy.typing as npt

from dglrec.ingest.columns import RatingColumns
from dglrec.progress import progress

_CHUNK_ROWS = 1 << 22
_KEYS_AT_ONCE = 1 << 22


def drop_duplicates(
    columns: RatingColumns, num_items: int, *, latest: bool = False
) -> tuple[npt.NDArray[np.int64], int]:
    """The last row of each (user, item) pair.

    Args:
        columns: n ratings.
        num_items: a bound above every item's index.
        latest: whether timestamps, where there are any, decide which row is the last, and not the
            order in the file.

    Returns:
        The numbers of the rows to keep, ascending, and how many rows are dropped.
    """
    timestamps = columns.timestamps if latest else None
    keep = last_of_each_pair(columns.users, columns.items, num_items, timestamps)
    rows = np.flatnonzero(keep)
    return rows, len(keep) - len(rows)


def last_of_each_pair(
    users: npt.NDArray[np.int32],
    items: npt.NDArray[np.int32],
    num_items: int,
    timestamps: npt.NDArray[np.int64] | None = None,
) -> npt.NDArray[np.bool_]:
    """For each row, whether no later row has the same user and item; bool [n].

    Works through ranges of users, so that memory holds only a few million keys beside the result.

    Args:
        users: [n] indices from 0.
        items: [n] indices from 0.
        num_items: a bound above every item's index.
        timestamps: [n]; the row with the greater timestamp is later, and of equal timestamps the
            row further down. None if the order of the rows decides.
    """
    keep = np.ones(len(users), dtype=np.bool_)
    if not len(users):
        return keep
    ends = np.cumsum(rows_of_each(users))  # rows of users 0..u
    wanted = max(_KEYS_AT_ONCE, len(users) // 64)
    grouped = bool(np.all(users[1:] >= users[:-1]))
    with progress("looking for duplicates", len(users), "rows") as advance:
        first_user = start = 0
        while start < len(users):
            # As many users as fit into `wanted` rows, but at least one.
            last_user = max(int(np.searchsorted(ends, start + wanted, "right")) - 1, first_user)
            stop = int(ends[last_user])
            rows: Any = slice(start, stop)
            if not grouped:
                rows = np.flatnonzero((users >= first_user) & (users <= last_user))
            keys = (users[rows].astype(np.int64) - first_user) * num_items + items[rows]
            ordered = np.sort(keys)
            # Sorting rows takes ten times as long as sorting keys, and few data sets need it.
            if np.any(ordered[1:] == ordered[:-1]):
                if timestamps is None:
                    order = np.argsort(keys, kind="stable")
                else:
                    order = np.lexsort((timestamps[rows], keys))  # the last key sorts first
                ordered = keys[order]
                repeated = order[:-1][ordered[1:] == ordered[:-1]]
                keep[np.arange(start, stop)[repeated] if grouped else rows[repeated]] = False
            advance(stop - start)
            first_user, start = last_user + 1, stop
    return keep


def rows_of_each(indices: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """How many rows hold each of the indices 0..largest; int64 [largest + 1]."""
    counts = np.zeros(int(indices.max()) + 1 if len(indices) else 0, dtype=np.int64)
    for start in range(0, len(indices), _CHUNK_ROWS):  # bincount makes an int64 copy of its input
        counts += np.bincount(indices[start : start + _CHUNK_ROWS], minlength=len(counts))
    return counts
