"""When users rate what: days within five years, sessions, and which items follow which in them."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dglrec.kernels.transitions import follow_transitions, space_sessions
from dglrec.progress import Advance
from dglrec.synthetic.draw import Rates, user_chunks
from dglrec.synthetic.drift import PERIOD, START, Drift, angles

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

SESSION_GAP = 30 * 60
"""Seconds: ratings of a session are closer together than this, and sessions are further apart."""

_LATEST_START = 0.5  # of the period: each user comes before this, and stays to the end
_ITEMS_PER_SESSION = 6
_MEAN_GAP, _LONGEST_GAP = 5 * 60, 25 * 60  # within a session
_PAUSE = 2 * 3600  # the least time between two sessions
_SUCCESSORS = np.array([0.4, 0.3, 0.2, 0.1])  # how often each of them follows
_PHASES = 12  # of a stay; within a phase, a drifting taste counts as constant when times are drawn


@dataclass(frozen=True, eq=False)
class Transitions:
    """Which items follow an item within a session.

    With the probability `strength` the next item is one of the successors that the user has not
    met, chosen by weight; else, or if all are met, it is drawn by the user's rates.

    Attributes:
        strength: a probability.
        successors: int32 [I, S], without the item itself.
        weights: float64 [S], which sum to 1.
    """

    strength: float
    successors: npt.NDArray[np.int32]
    weights: F64


def draw_transitions(strength: float, popularity: F64, rng: np.random.Generator) -> Transitions:
    """Draw each item's distinct successors by popularity, which so stays about the same."""
    count = len(popularity)
    width = min(len(_SUCCESSORS), count - 1)
    successors = np.empty((count, width), dtype=np.int32)
    items = np.arange(count)
    logarithms = np.log(popularity)
    step = max((1 << 22) // count, 1)
    for start in range(0, count, step):
        part = items[start : start + step]
        # The largest of log weight + Gumbel noise, in order, are draws without replacement.
        keys = logarithms - np.log(rng.standard_exponential((len(part), count)))
        keys[np.arange(len(part)), part] = -np.inf
        best = np.argpartition(keys, count - width, axis=1)[:, count - width :]
        order = np.argsort(-np.take_along_axis(keys, best, axis=1), axis=1)
        successors[part] = np.take_along_axis(best, order, axis=1)
    return Transitions(strength, successors, _SUCCESSORS[:width] / _SUCCESSORS[:width].sum())


def draw_sequence(
    counts: I64,
    items: npt.NDArray[np.int32],
    rates: Rates,
    seeds: Iterator[np.random.Generator],
    advance: Advance,
    *,
    drift: Drift | None = None,
    transitions: Transitions | None = None,
) -> I64:
    """Give each rating its time; with transitions, items are exchanged in place.

    Each user comes on some day in the first half of the period and stays to its end. The times of
    its ratings are uniform in between; with drift, they follow the rate exp(strength of taste *
    taste at the time . item). With transitions the sequence is cut into sessions, 6 items long on
    average, and `follow_transitions` goes over them.

    Args:
        counts: [U] ratings of each user.
        items: int32 [sum of counts] items of users in order, each user's ascending; they are
            ascending again afterwards.
        rates: by which the items were drawn.
        seeds: a generator for each of `user_chunks(counts)`.
        advance: is told how many ratings are done.
        drift: None if tastes do not move; its turns are as long as the users' vectors in `rates`.
        transitions: None without sessions.

    Returns:
        int64 [sum of counts] seconds since 1970.
    """
    times = np.empty(len(items), dtype=np.int64)
    position = 0
    for (start, stop), rng in zip(user_chunks(counts), seeds, strict=True):
        offsets = np.concatenate([[0], np.cumsum(counts[start:stop])])
        part = slice(position, position + int(offsets[-1]))
        position = part.stop
        users = np.repeat(np.arange(stop - start), counts[start:stop])
        begins = _LATEST_START * rng.random(stop - start)[users]
        uniforms = rng.random(len(users))
        if drift is not None:
            uniforms = _by_rate(uniforms, begins, start + users, items[part], rates, drift)
        when = (PERIOD * (begins + (1.0 - begins) * uniforms)).astype(np.int64)
        if transitions is not None:
            order = np.lexsort((when, users))
            items_by_time, when = items[part][order], when[order]
            continues = rng.random(len(users)) >= 1.0 / _ITEMS_PER_SESSION
            continues[offsets[:-1]] = False
            follow_transitions(
                offsets,
                items_by_time,
                continues,
                rng.random((len(users), 2)),
                transitions.successors,
                transitions.weights,
                transitions.strength,
            )
            gaps = np.minimum(rng.exponential(_MEAN_GAP, len(users)), _LONGEST_GAP)
            space_sessions(offsets, continues, when, gaps.astype(np.int64) + 1, _PAUSE)
            order = np.lexsort((items_by_time, users))
            items[part], when = items_by_time[order], when[order]
        times[part] = START + when
        advance(len(users))
    return times


def _by_rate(
    uniforms: F64,
    begins: F64,
    users: I64,
    items: npt.NDArray[np.int32],
    rates: Rates,
    drift: Drift,
) -> F64:
    """Times as shares of the users' stays, [N], by the rate at which tastes meet the items then."""
    stay = np.einsum("nk,nk->n", rates.user_vectors[users], rates.item_vectors[items])
    turn = np.einsum("nk,nk->n", drift.turns[users], rates.item_vectors[items])
    sums = np.zeros((len(users), _PHASES + 1))
    for phase in range(_PHASES):
        elapsed = begins + (1.0 - begins) * (phase + 0.5) / _PHASES
        at = angles(drift.strength, START + PERIOD * elapsed)
        sums[:, phase + 1] = sums[:, phase] + np.exp(np.cos(at) * stay + np.sin(at) * turn)
    wanted = uniforms * sums[:, -1]
    phase = np.minimum((wanted[:, None] >= sums[:, 1:]).sum(axis=1), _PHASES - 1)
    rows = np.arange(len(users))
    low, high = sums[rows, phase], sums[rows, phase + 1]
    return np.asarray((phase + (wanted - low) / (high - low)) / _PHASES)
