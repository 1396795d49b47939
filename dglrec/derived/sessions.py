"""Sessions: each user's interactions in the order of time, cut at gaps.

Shapes: E interactions, S sessions.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt


class Sessions(NamedTuple):
    """Interactions by session; sessions are in the order in which they end.

    Attributes:
        offsets: int64 [S + 1]; session s's items stand at `offsets[s]:offsets[s + 1]`.
        items: int32 [E]; within a session in the order of time.
        users: int64 [S]; each session's user.
        ends: [S]; the time of each session's last interaction, ascending, in the type of the times.
    """

    offsets: npt.NDArray[np.int64]
    items: npt.NDArray[np.int32]
    users: npt.NDArray[np.int64]
    ends: npt.NDArray[Any]

    @property
    def num_sessions(self) -> int:
        """S."""
        return len(self.users)


def sessions_of(
    users: npt.NDArray[Any], times: npt.NDArray[Any], gap: float
) -> npt.NDArray[np.int64]:
    """The session of each interaction, int64 [E], numbered by user and by time from 0.

    A session ends before an interaction that comes more than `gap` later.

    >>> sessions_of(np.array([7, 3, 7, 7]), np.array([100, 50, 130, 165]), gap=30).tolist()
    [1, 0, 1, 2]

    Args:
        users: [E] whole numbers, in any order.
        times: [E] numbers.
        gap: in the unit of the times, above 0; infinite for one session for each user.

    Raises:
        ValueError: users and times differ in number, a time is not finite, or the gap is not above
            0.
    """
    if len(users) != len(times):
        raise ValueError(f"{len(users)} users and {len(times)} times")
    if not np.isfinite(times).all():
        raise ValueError("a time is not finite")
    if not gap > 0:
        raise ValueError(f"gap {gap:g}: sessions are cut at a gap above 0")
    order = np.lexsort((times, users))  # stable: interactions at the same time keep their order
    users, times = np.asarray(users)[order], np.asarray(times)[order]
    begins = np.ones(len(order), dtype=bool)
    begins[1:] = (users[1:] != users[:-1]) | (times[1:] - times[:-1] > gap)
    numbers = np.empty(len(order), dtype=np.int64)
    numbers[order] = np.cumsum(begins) - 1
    return numbers


def cut_sessions(
    users: npt.NDArray[Any], items: npt.NDArray[Any], times: npt.NDArray[Any], gap: float
) -> Sessions:
    """Interactions by session; of sessions that end at the same time, the lower user comes first.

    Args:
        users: [E] whole numbers, in any order.
        items: [E] whole numbers from 0 and below 2^31.
        times: [E] numbers; interactions of a user at the same time stay in the order given.
        gap: as for `sessions_of`.

    Raises:
        ValueError: the columns differ in length, an item is out of range, or as for `sessions_of`.
    """
    if len(items) != len(users):
        raise ValueError(f"{len(users)} users and {len(items)} items")
    if len(items) and not 0 <= items.min() <= items.max() < 2**31:
        raise ValueError(f"items {items.min()} to {items.max()}: they are numbered from 0")
    numbers = sessions_of(users, times, gap)
    count = int(numbers.max(initial=-1)) + 1
    order = np.lexsort((times, numbers))
    sizes = np.bincount(numbers, minlength=count)
    last = order[np.cumsum(sizes) - 1]
    ends = np.asarray(times)[last]
    by_end = np.argsort(ends, kind="stable")
    places = np.empty(count, dtype=np.int64)
    places[by_end] = np.arange(count)
    order = order[np.argsort(places[numbers[order]], kind="stable")]
    return Sessions(
        np.concatenate([[0], np.cumsum(sizes[by_end])]).astype(np.int64),
        np.asarray(items)[order].astype(np.int32),
        np.asarray(users)[last][by_end].astype(np.int64),
        ends[by_end],
    )
