"""Sequences of items: which item follows which, and when."""

import numpy as np
import numpy.typing as npt

from dglrec.kernels.parallel import compiled_as_written

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]


def follow_transitions(
    offsets: I64,
    items: npt.NDArray[np.int32],
    continues: npt.NDArray[np.bool_],
    uniforms: F64,
    successors: npt.NDArray[np.int32],
    weights: F64,
    strength: float,
) -> None:
    """Replace items of users' sequences by successors of the item before, in place.

    At each place that continues a session, with probability `strength`, the item becomes a
    successor of the item before, drawn by weight among those that the user has not met yet. If that
    successor comes later in the sequence, the two change places; else it replaces the item. If the
    user has met all successors, the item stays. No user has an item twice afterwards.

    Args:
        offsets: int64 [n + 1]; the sequence of user u is `items[offsets[u] : offsets[u + 1]]`.
        items: int32 [R]; each user's distinct items, in the order of time.
        continues: bool [R]; whether the place is in the same session as the place before; false at
            each user's first place.
        uniforms: float64 [R, 2] from 0 to 1.
        successors: int32 [I, S]; each item's distinct successors, without the item.
        weights: float64 [S], above 0.
        strength: a probability.

    Raises:
        ValueError: the arrays do not fit together, or an item is not from 0 to I - 1.
    """
    rows, count = len(items), len(successors)
    if offsets[0] != 0 or offsets[-1] != rows or (offsets[1:] < offsets[:-1]).any():
        raise ValueError("the offsets do not fit the items")
    if len(continues) != rows or uniforms.shape != (rows, 2):
        raise ValueError(f"{rows} items, {len(continues)} places, draws of {uniforms.shape}")
    if successors.shape[1] != len(weights):
        raise ValueError("each item needs as many successors as there are weights")
    starts = offsets[:-1][offsets[1:] > offsets[:-1]]
    if continues[starts].any():
        raise ValueError("a user's first item cannot continue a session")
    for some in (items, successors):
        if some.size and (some.min() < 0 or some.max() >= count):
            raise ValueError(f"an item is not from 0 to {count - 1}")
    _follow(offsets, items, continues, uniforms, successors, weights, strength)


def space_sessions(
    offsets: I64, continues: npt.NDArray[np.bool_], times: I64, gaps: I64, pause: int
) -> None:
    """Set the time of each place of users' sequences, in place.

    A place that continues a session comes `gaps` after the place before. The first place of a
    session keeps its time, or comes `pause` after the place before, whichever is later.

    Args:
        offsets: int64 [n + 1], as for `follow_transitions`.
        continues: bool [R], as for `follow_transitions`.
        times: int64 [R]; ascending for each user.
        gaps: int64 [R].
        pause: the least time between two sessions of a user.

    Raises:
        ValueError: the arrays do not fit together.
    """
    if offsets[0] != 0 or offsets[-1] != len(times) or (offsets[1:] < offsets[:-1]).any():
        raise ValueError("the offsets do not fit the times")
    if len(continues) != len(times) or len(gaps) != len(times):
        raise ValueError(f"{len(times)} times, {len(continues)} places and {len(gaps)} gaps")
    _space(offsets, continues, times, gaps, pause)


@compiled_as_written
def _follow(offsets, items, continues, uniforms, successors, weights, strength):  # type: ignore[no-untyped-def]
    place = np.full(len(successors), -1, dtype=np.int64)  # each item's place in the user's sequence
    for u in range(len(offsets) - 1):
        for row in range(offsets[u], offsets[u + 1]):
            place[items[row]] = row
        for row in range(offsets[u], offsets[u + 1]):
            if not continues[row] or uniforms[row, 0] >= strength:
                continue
            some = successors[items[row - 1]]
            total = 0.0
            for k in range(len(some)):
                if place[some[k]] < 0 or place[some[k]] >= row:
                    total += weights[k]
            wanted, follower, sum_ = uniforms[row, 1] * total, -1, 0.0
            for k in range(len(some)):
                if place[some[k]] < 0 or place[some[k]] >= row:
                    sum_ += weights[k]
                    follower = some[k]
                    if sum_ > wanted:
                        break
            if follower < 0:
                continue
            before, later = items[row], place[follower]
            items[row] = follower
            place[follower] = row
            if later < 0:
                place[before] = -1
            else:
                items[later] = before
                place[before] = later
        for row in range(offsets[u], offsets[u + 1]):
            place[items[row]] = -1


@compiled_as_written
def _space(offsets, continues, times, gaps, pause):  # type: ignore[no-untyped-def]
    for u in range(len(offsets) - 1):
        for row in range(offsets[u] + 1, offsets[u + 1]):
            if continues[row]:
                times[row] = times[row - 1] + gaps[row]
            else:
                times[row] = max(times[row], times[row - 1] + pause)
