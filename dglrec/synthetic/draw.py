"""Who rates what: activity of users, popularity of items, and distinct (user, item) pairs."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from dglrec.progress import Advance

# The real sample has a median of 108 ratings a user and a mean of 174: sigma of the logarithm is
# sqrt(2 ln(174 / 108)).
_ACTIVITY_SIGMA = 0.98
# Zipf-Mandelbrot, weight (rank + offset) ** -exponent: the most rated item of the sample is rated
# by two thirds of its users, the 300th by an eighth, the 1,000th by a twentieth.
_POPULARITY_EXPONENT = 1.3
_POPULARITY_OFFSET = 60.0
_CHUNK = 1 << 20  # ratings at a time
_KEYS_AT_ONCE = 1 << 22
# A user who wants more than this part of the catalogue gets a key for each item; redrawing repeats
# would take ever longer.
_DENSE_PART = 16


def activity(
    users: int, items: int, ratings: int, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """[users] log-normal counts from 1 to `items` that sum to `ratings`.

    The log-normal draws are scaled so that, cut off at both ends, they sum to `ratings`; the
    fractions that rounding down drops go to the users with the largest ones.

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
    while (left := ratings - int(counts.sum())) > 0:
        room = np.flatnonzero(counts < items)
        order = np.argsort(counts[room] - wanted[room], kind="stable")
        counts[room[order[:left]]] += 1
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
    weights: npt.NDArray[np.float64],
    seeds: Iterator[np.random.Generator],
    advance: Advance,
) -> npt.NDArray[np.int32]:
    """For each user counts[u] distinct items, drawn one by one by weight without replacement.

    Args:
        counts: [U], each from 1 to I.
        weights: [I], positive.
        seeds: one generator for each of `user_chunks(counts)`.
        advance: told how many ratings are done.

    Returns:
        [sum of counts] item indices, users in order and each user's items ascending.
    """
    drawn = np.empty(int(counts.sum()), dtype=np.int32)
    position = 0
    cumulated = np.cumsum(weights)
    cumulated /= cumulated[-1]
    for (start, stop), rng in zip(user_chunks(counts), seeds, strict=True):
        wanted = counts[start:stop]
        dense = wanted > len(weights) // _DENSE_PART
        keys = np.concatenate(
            [
                _draw_sparse(np.flatnonzero(~dense), wanted, cumulated, rng),
                *_draw_dense(np.flatnonzero(dense), wanted, weights, rng),
            ]
        )
        keys.sort()
        drawn[position : position + len(keys)] = keys % len(weights)
        position += len(keys)
        advance(len(keys))
    return drawn


def _draw_sparse(
    users: npt.NDArray[np.int64],
    wanted: npt.NDArray[np.int64],
    cumulated: npt.NDArray[np.float64],
    rng: np.random.Generator,
) -> npt.NDArray[np.int64]:
    """Keys user * I + item: draw with replacement, drop repeats, redraw what is missing.

    Each round draws just what is missing, so the result is the first wanted[u] distinct items of
    one long sequence of draws: sampling one by one without replacement.
    """
    items = len(cumulated)
    missing = np.zeros(len(wanted), dtype=np.int64)
    missing[users] = wanted[users]
    held = np.empty(0, dtype=np.int64)  # of users that still miss some
    done = []
    while missing.any():
        owners = np.repeat(np.arange(len(wanted)), missing)
        found = np.searchsorted(cumulated, rng.random(len(owners)), side="right")
        held = _distinct(np.concatenate([held, owners * items + found]))
        owners = held // items
        have = np.bincount(owners, minlength=len(wanted))
        missing = np.where(missing > 0, wanted - have, 0)
        unfinished = missing[owners] > 0
        done.append(held[~unfinished])
        held = held[unfinished]
    return np.concatenate(done) if done else held


def _distinct(keys: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Ascending distinct keys, by sorting in place: many times quicker here than `np.unique`."""
    keys.sort()
    first = np.ones(len(keys), dtype=np.bool_)
    np.not_equal(keys[1:], keys[:-1], out=first[1:])
    return keys[first]


def _draw_dense(
    users: npt.NDArray[np.int64],
    wanted: npt.NDArray[np.int64],
    weights: npt.NDArray[np.float64],
    rng: np.random.Generator,
) -> Iterator[npt.NDArray[np.int64]]:
    """The same for users that want much of the catalogue: the items of smallest exponential keys.

    Source: Efraimidis and Spirakis, "Weighted random sampling with a reservoir", 2006.
    """
    items = len(weights)
    rows = max(_KEYS_AT_ONCE // items, 1)
    for start in range(0, len(users), rows):
        some = users[start : start + rows]
        keys = rng.standard_exponential((len(some), items)) / weights
        for user, row in zip(some, keys, strict=True):
            count = int(wanted[user])
            yield user * items + np.argpartition(row, count - 1)[:count]
