"""Who rates what: activity of users, popularity of items, and distinct (user, item) pairs.

A user meets item i at the rate w_i = popularity_i * exp(p . q_i), where p is the user's vector and
q_i the item's, independently of other items, and rates what it has met until it stops: the first n
distinct items. That is drawing n items one by one by weight without replacement, and it gives the
probability of having rated an item a closed form: 1 - exp(-w_i * reach), where the reach is the
time at which the user stopped (Efraimidis and Spirakis, "Weighted random sampling with a
reservoir", Information Processing Letters 97(5), 2006).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dglrec.kernels.draws import draw_distinct, products
from dglrec.kernels.parallel import run_side_by_side
from dglrec.progress import Advance

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

# The real sample has a median of 108 ratings a user and a mean of 174: sigma of the logarithm is
# sqrt(2 ln(174 / 108)).
_ACTIVITY_SIGMA = 0.98
# Zipf-Mandelbrot, weight (rank + offset) ** -exponent: the most rated item of the sample is rated
# by two thirds of its users, the 300th by an eighth, the 1,000th by a twentieth.
_POPULARITY_EXPONENT = 1.3
_POPULARITY_OFFSET = 60.0
_CHUNK = 1 << 20  # ratings at a time
_WEIGHTS_AT_ONCE = 1 << 20  # of a few users and all items; they stay in the second-level cache
# Drawing with replacement and dropping repeats is fast until most draws are repeats. After so many
# draws for each item that a user needs, each other item gets an exponential time instead.
_DRAWS_PER_ITEM = 2


@dataclass(frozen=True, eq=False)
class Rates:
    """How often U users meet I items: popularity_i * exp(p_u . q_i)."""

    popularity: F64  # [I], above 0
    user_vectors: F32  # [U, K]
    item_vectors: F32  # [I, K]


@dataclass(frozen=True, eq=False)
class Drawn:
    """The pairs of users and items that are rated.

    Attributes:
        items: int32 [sum of counts], users in order and each user's items ascending.
        reach: float64 [U], the time at which each user stopped.
    """

    items: npt.NDArray[np.int32]
    reach: F64


def activity(
    users: int, items: int, ratings: int, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """[users] log-normal counts from 1 to `items` that sum to `ratings`.

    The log-normal draws are scaled so that, clipped at both ends, they sum to `ratings`; rounding
    down drops fractions, which go to the users with the largest fractions.

    `ratings` must lie between `users` and `users` * `items`.
    """
    draws = np.exp(_ACTIVITY_SIGMA * rng.standard_normal(users))
    low, high = 0.0, items / draws.min()
    for _ in range(200):
        middle = (low + high) / 2
        if np.clip(middle * draws, 1, items).sum() <= ratings:
            low = middle
        else:
            high = middle
    wanted = np.clip(low * draws, 1, items)
    counts = np.floor(wanted).astype(np.int64)
    while (missing := ratings - int(counts.sum())) > 0:
        room = np.flatnonzero(counts < items)
        order = np.argsort(counts[room] - wanted[room], kind="stable")
        counts[room[order[:missing]]] += 1
    return counts


def popularity(items: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """[items] Zipf-Mandelbrot weights that sum to 1, in random order."""
    offset = min(_POPULARITY_OFFSET, items / 20)
    weights = (1.0 + rng.permutation(items) + offset) ** -_POPULARITY_EXPONENT
    return np.asarray(weights / weights.sum())


def user_chunks(counts: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """Ranges of users with about `_CHUNK` ratings each, and at least one user."""
    ends = np.cumsum(counts)
    chunks, start = [], 0
    while start < len(counts):
        done = int(ends[start - 1]) if start else 0
        stop = max(int(np.searchsorted(ends, done + _CHUNK, side="right")), start + 1)
        chunks.append((start, stop))
        start = stop
    return chunks


def draw_items(
    counts: npt.NDArray[np.int64],
    rates: Rates,
    seeds: Iterator[np.random.Generator],
    advance: Advance,
) -> Drawn:
    """For each user, draw counts[u] distinct items one by one, by rate without replacement.

    Chunks of users are drawn on as many threads as torch has; the result does not depend on them.

    Args:
        counts: [U], each from 1 to I.
        rates: of U users and I items.
        seeds: a generator for each of `user_chunks(counts)`.
        advance: is told how many ratings are done.
    """
    offsets = np.concatenate([[0], np.cumsum(counts)])
    drawn = Drawn(np.empty(int(offsets[-1]), dtype=np.int32), np.empty(len(counts)))
    transposed = np.ascontiguousarray(rates.item_vectors.T)
    tasks = [
        partial(_draw_users, counts, offsets, rates, transposed, rng, drawn, start, stop)
        for (start, stop), rng in zip(user_chunks(counts), seeds, strict=True)
    ]
    at_once = torch.get_num_threads()
    for first in range(0, len(tasks), at_once):
        batch = tasks[first : first + at_once]
        run_side_by_side(batch)
        start, stop = batch[0].args[-2], batch[-1].args[-1]
        advance(int(offsets[stop] - offsets[start]))
    return drawn


def _draw_users(
    counts: npt.NDArray[np.int64],
    offsets: npt.NDArray[np.int64],
    rates: Rates,
    transposed: F32,
    rng: np.random.Generator,
    drawn: Drawn,
    start: int,
    stop: int,
) -> None:
    """Draw the items of a chunk of users, a few users at a time."""
    step = max(_WEIGHTS_AT_ONCE // len(rates.popularity), 1)
    for low in range(start, stop, step):
        high = min(low + step, stop)
        part = slice(low, high)
        tilt = products(rates.user_vectors[part], transposed)
        np.exp(tilt, out=tilt)
        uniforms = rng.random(_DRAWS_PER_ITEM * int(offsets[high] - offsets[low]))
        found = draw_distinct(
            rates.popularity,
            tilt,
            offsets[low : high + 1] - offsets[low],
            uniforms,
            drawn.items[offsets[low] : offsets[high]],
            drawn.reach[part],
        )
        for place in np.flatnonzero(found < counts[part]):
            user = low + place
            listed = drawn.items[offsets[user] : offsets[user + 1]]
            count = int(found[place])
            weights = rates.popularity * tilt[place]
            drawn.reach[user] += _draw_rest(weights, listed, count, rng)


def _draw_rest(
    weights: F64, listed: npt.NDArray[Any], count: int, rng: np.random.Generator
) -> float:
    """Fill listed[count:] with the other items that come first, each after an exponential time.

    Exponential times have no memory: the items before only decide which items remain.

    Returns:
        The time at which the last item came.
    """
    others = np.ones(len(weights), dtype=np.bool_)
    others[listed[:count]] = False
    rest = np.flatnonzero(others)
    times = rng.standard_exponential(len(rest)) / weights[rest]
    wanted = len(listed) - count
    first = np.argpartition(times, wanted - 1)[:wanted]
    listed[count:] = rest[first]
    listed.sort()
    return float(times[first].max())
