"""The last items of users, which models of sessions read; the latest item counts most."""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from dglrec.baselines.config import BaselineConfig, fixed
from dglrec.baselines.positives import kept_of
from dglrec.dataset import RatingDataset
from dglrec.derived import sessions_of
from dglrec.errors import UsageError


def gap_of(config: BaselineConfig) -> float:
    """The gap that ends a session, in the unit of the timestamps; infinite for none."""
    return fixed(config.session_gap) or np.inf


def times_of(dataset: RatingDataset, kind: str) -> npt.NDArray[np.int64]:
    """Timestamps of the training rows, int64 [E] by edge id.

    Raises:
        UsageError: the data set has no timestamps.
    """
    times = dataset.graph.times
    if times is None:
        raise UsageError(
            f"model.kind = {kind} reads sessions, and {dataset.path} has no timestamps; choose "
            "another model, or prepare a source with timestamps (a data set of an earlier version: "
            "again)"
        )
    return times


def recent_rows(
    dataset: RatingDataset, config: BaselineConfig, kind: str, *, whole_history: bool
) -> sparse.csr_array:
    """The last items of each user, float32 [U, I]; the n-th last of N weighs (N + 1 - n) / N.

    Args:
        dataset: a prepared data set with timestamps.
        config: with no setting of sessions at auto.
        kind: as in `model.kind`.
        whole_history: whether items before the user's last session count as well.

    Raises:
        UsageError: the data set has no timestamps, or no item is positive.
    """
    graph, last = dataset.graph, fixed(config.session_last)
    times = times_of(dataset, kind)
    kept = kept_of(dataset, fixed(config.positives))
    users = np.repeat(np.arange(graph.num_users), graph.by_user.degrees)[kept]
    items: npt.NDArray[Any] = np.asarray(graph.by_user.neighbours)[kept]
    times = np.asarray(times)[kept]
    sessions = users if whole_history else sessions_of(users, times, gap_of(config))
    order = np.lexsort((times, sessions, users))
    users, items, sessions = users[order], items[order], sessions[order]
    ends = np.cumsum(np.bincount(users, minlength=graph.num_users))
    from_end = ends[users] - np.arange(len(users))  # 1 for the last item
    latest = sessions[ends[users] - 1] == sessions
    chosen = latest & (from_end <= last)
    weights = ((last + 1 - from_end[chosen]) / last).astype(np.float32)
    shape = (graph.num_users, graph.num_items)
    rows = sparse.coo_array((weights, (users[chosen], items[chosen])), shape=shape).tocsr()
    rows.sort_indices()
    return rows
