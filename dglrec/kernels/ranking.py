"""The best items of a catalogue for each of many users.

A score is b_u + b_i + w relu(a_u + c_i) + p_u . q_i, and as max(x + y, 0) = max(y, -x) + x, also

    (b_u + w a_u) + b_i + w max(c_i, -a_u) + p_u . q_i

which saves an operation for each item and hidden unit. Items are in tiles that stay in a core's
cache while the scores of many users are computed. A tile is stored unit by unit, so that the inner
loop runs over items. Scores never leave the cache: a score that is not among a user's best so far
is dropped at once.

Shapes: I items in T tiles of W, n users, D hidden units, F factors.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from dglrec.kernels.lists import ItemLists
from dglrec.kernels.parallel import parts_of, run_side_by_side

# Sums are in the order written, so that a score has the same bits whatever other items are in the
# catalogue. This costs no speed, as the loops run over items and not over the terms of a sum.
_in_order: Callable[[Any], Any] = numba.njit(nogil=True, fastmath={"contract", "nsz"})

_WIDTH = 480  # 8 units of a tile and 4 rows of scores fit a first-level cache
_PASS = 128  # users whose scores of a tile are computed before the next tile
_USERS, _UNITS = 4, 8  # users and units that the inner loop takes at once
_LOOK = 32  # scores that are compared with the worst kept one together
_LINE = 16  # numbers in a cache line

Floats = npt.NDArray[np.float32]


class Terms(NamedTuple):
    """The terms of the score that belong to users, or to items.

    Attributes:
        hidden: float32 [N, D]; a or c.
        factors: float32 [N, F]; p or q; F may be 0.
        base: float32 [N]; b, what is added.
    """

    hidden: Floats
    factors: Floats
    base: Floats


class Tiles(NamedTuple):
    """A catalogue, laid out for `rank_items`.

    Attributes:
        num_items: I.
        hidden: float32 [T, D, W]; D padded with zeros to whole blocks of units.
        factors: float32 [T, F, W]; F likewise.
        base: float32 [T, W]; padded with -inf.
    """

    num_items: int
    hidden: Floats
    factors: Floats
    base: Floats

    @classmethod
    def of(cls, items: Terms) -> "Tiles":
        """Lay out I items."""
        count = len(items.base)
        base = np.full(-(-max(count, 1) // _WIDTH) * _WIDTH, -np.inf, dtype=np.float32)
        base[:count] = items.base
        return cls(count, _tiled(items.hidden), _tiled(items.factors), base.reshape(-1, _WIDTH))


def rank_items(
    tiles: Tiles,
    weights: Floats,
    users: Terms,
    left_out: ItemLists,
    rows: npt.NDArray[np.int64],
    positions: npt.NDArray[np.int32],
    k: int,
    extra: Floats | None = None,
) -> tuple[Floats, npt.NDArray[np.int32]]:
    """The k items with the highest scores for each of n users.

    Args:
        tiles: the catalogue.
        weights: float32 [D], w.
        users: the terms of the n users.
        left_out: lists of items that users are not to get.
        rows: [n] each user's row in `left_out`.
        positions: the place in the catalogue of each item that `left_out` may name, -1 for an item
            outside the catalogue; ascending apart from these.
        k: how many items, at most I.
        extra: float32 [n, I]; added to the scores; None for nothing.

    Raises:
        IndexError: a row or an item of `left_out` does not exist.
        ValueError: the offsets of `left_out` do not fit its items, or `extra` has another shape
            than the scores.

    Returns:
        Scores [n, k], best first, equal ones in the order of the catalogue, and places in the
        catalogue [n, k]. Where a user has fewer than k items, the other scores are -inf.
    """
    count = len(users.base)
    starts, ends = left_out.offsets[rows], left_out.offsets[rows + 1]
    if count and (starts.min() < 0 or (starts > ends).any() or ends.max() > len(left_out.items)):
        raise ValueError("the offsets of the items to leave out do not fit these items")
    if extra is not None and extra.shape != (count, tiles.num_items):
        raise ValueError(
            f"extra is {extra.shape}, and there are {count} x {tiles.num_items} scores"
        )
    padded = -(-count // _USERS) * _USERS
    units = -(-len(weights) // _UNITS) * _UNITS
    terms = _UserTerms(
        negated_hidden=_padded(-users.hidden, padded),
        factors=_padded(users.factors, padded),
        base=np.pad(users.base, (0, padded - count)),
        extra=np.empty((0, 0), dtype=np.float32) if extra is None else extra,
    )
    weights = np.pad(weights, (0, units - len(weights)))
    excluded = _Excluded(*left_out, rows, positions)
    best = _Best(
        np.full((count, k), -np.inf, dtype=np.float32), np.zeros((count, k), dtype=np.int32)
    )
    if not k:
        return best.scores, best.places
    groups = padded // _USERS
    work = count * tiles.num_items * (tiles.hidden.shape[1] + tiles.factors.shape[1])
    run_side_by_side(
        [
            partial(
                _rank,
                tiles,
                weights,
                terms,
                excluded,
                best,
                _aligned((_USERS, _WIDTH)),
                _USERS * low,
                min(_USERS * high, count),
            )
            for low, high in parts_of(groups, work)
        ]
    )
    return best.scores, best.places


class _UserTerms(NamedTuple):
    """The terms of n users, padded with zeros to n' users and to whole blocks of units.

    Attributes:
        negated_hidden: float32 [n', D]; -a.
        factors: float32 [n', F]; p.
        base: float32 [n'].
        extra: float32 [n, I], added to the scores; [0, 0] for nothing.
    """

    negated_hidden: Floats
    factors: Floats
    base: Floats
    extra: Floats


class _Excluded(NamedTuple):
    """The items that users are not to get: `left_out`, `rows` and `positions` of `rank_items`."""

    offsets: npt.NDArray[np.int64]
    items: npt.NDArray[np.int32]
    rows: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int32]


class _Best(NamedTuple):
    """The best k scores of each user so far, and their places in the catalogue; [n, k] each."""

    scores: Floats
    places: npt.NDArray[np.int32]


def _padded(values: Floats, rows: int) -> Floats:
    """Padded with zeros to a number of rows and to whole blocks of units."""
    units = -(-values.shape[1] // _UNITS) * _UNITS
    return np.pad(values, ((0, rows - len(values)), (0, units - values.shape[1])))


def _tiled(values: Floats) -> Floats:
    """[I, D] -> [T, D, W], padded with zeros."""
    tiles = -(-max(len(values), 1) // _WIDTH)
    whole = _padded(values, tiles * _WIDTH)
    out = _aligned((tiles, whole.shape[1], _WIDTH))
    out[:] = whole.reshape(tiles, _WIDTH, whole.shape[1]).transpose(0, 2, 1)
    return out


def _aligned(shape: tuple[int, ...]) -> Floats:
    """An array that begins at a cache line, which makes the loops a tenth faster."""
    size = math.prod(shape)
    room = np.empty(size + _LINE, dtype=np.float32)
    skipped = -room.ctypes.data // room.itemsize % _LINE
    return room[skipped : skipped + size].reshape(shape)


@_in_order
def _rank(tiles, weights, users, excluded, best, scores, low, high):  # type: ignore[no-untyped-def]
    """Rank the items for users `low` to `high`; `scores`, [4, W], is scratch."""
    _, item_hidden, item_factors, item_base = tiles
    negated_hidden, factors, base, extra = users
    offsets, items, rows, positions = excluded
    best_scores, best_places = best
    width = item_hidden.shape[2]
    shifted = np.zeros(_PASS, dtype=np.float32)
    following = np.empty(_PASS, dtype=np.int64)
    sizes = np.empty(_PASS, dtype=np.int64)
    for first in range(low, high, _PASS):
        last = min(first + _PASS, high)
        for user in range(first, last):
            following[user - first] = offsets[rows[user]]
            sizes[user - first] = 0
            total = np.float64(base[user])
            for h in range(len(weights)):
                total -= np.float64(weights[h]) * negated_hidden[user, h]
            shifted[user - first] = total
        for t in range(len(item_hidden)):
            start = t * width
            for four in range(first, last, _USERS):
                for lane in range(_USERS):
                    for i in range(width):
                        scores[lane, i] = item_base[t, i] + shifted[four - first + lane]
                    if len(extra) > four + lane:
                        there = min(width, extra.shape[1] - start)
                        for i in range(there):
                            scores[lane, i] += extra[four + lane, start + i]
                negated = negated_hidden[four : four + _USERS]
                _add_hidden(scores, item_hidden[t], negated, weights)
                _add_factors(scores, item_factors[t], factors[four : four + _USERS])
                for user in range(four, min(four + _USERS, last)):
                    of_user = scores[user - four]
                    following[user - first] = _leave_out(
                        of_user,
                        start,
                        items,
                        positions,
                        following[user - first],
                        offsets[rows[user] + 1],
                    )
                    sizes[user - first] = _keep(
                        of_user, start, best_scores[user], best_places[user], sizes[user - first]
                    )
        for user in range(first, last):
            _sort(best_scores[user], best_places[user], sizes[user - first])


@_in_order
def _add_hidden(scores, hidden, negated, weights):  # type: ignore[no-untyped-def]
    """Add w max(c_i, -a_u) of a tile's items, [D, W], and of four users, [4, D]."""
    s0, s1, s2, s3 = scores[0], scores[1], scores[2], scores[3]
    for h in range(0, len(weights), _UNITS):
        c0, c1, c2, c3 = hidden[h], hidden[h + 1], hidden[h + 2], hidden[h + 3]
        c4, c5, c6, c7 = hidden[h + 4], hidden[h + 5], hidden[h + 6], hidden[h + 7]
        w0, w1, w2, w3 = weights[h], weights[h + 1], weights[h + 2], weights[h + 3]
        w4, w5, w6, w7 = weights[h + 4], weights[h + 5], weights[h + 6], weights[h + 7]
        d0, d1, d2, d3 = negated[0, h], negated[0, h + 1], negated[0, h + 2], negated[0, h + 3]
        d4, d5, d6, d7 = negated[0, h + 4], negated[0, h + 5], negated[0, h + 6], negated[0, h + 7]
        e0, e1, e2, e3 = negated[1, h], negated[1, h + 1], negated[1, h + 2], negated[1, h + 3]
        e4, e5, e6, e7 = negated[1, h + 4], negated[1, h + 5], negated[1, h + 6], negated[1, h + 7]
        f0, f1, f2, f3 = negated[2, h], negated[2, h + 1], negated[2, h + 2], negated[2, h + 3]
        f4, f5, f6, f7 = negated[2, h + 4], negated[2, h + 5], negated[2, h + 6], negated[2, h + 7]
        g0, g1, g2, g3 = negated[3, h], negated[3, h + 1], negated[3, h + 2], negated[3, h + 3]
        g4, g5, g6, g7 = negated[3, h + 4], negated[3, h + 5], negated[3, h + 6], negated[3, h + 7]
        for i in range(len(s0)):
            u0, u1, u2, u3 = c0[i], c1[i], c2[i], c3[i]
            u4, u5, u6, u7 = c4[i], c5[i], c6[i], c7[i]
            s0[i] += (w0 * max(u0, d0) + w1 * max(u1, d1) + w2 * max(u2, d2) + w3 * max(u3, d3)) + (
                w4 * max(u4, d4) + w5 * max(u5, d5) + w6 * max(u6, d6) + w7 * max(u7, d7)
            )
            s1[i] += (w0 * max(u0, e0) + w1 * max(u1, e1) + w2 * max(u2, e2) + w3 * max(u3, e3)) + (
                w4 * max(u4, e4) + w5 * max(u5, e5) + w6 * max(u6, e6) + w7 * max(u7, e7)
            )
            s2[i] += (w0 * max(u0, f0) + w1 * max(u1, f1) + w2 * max(u2, f2) + w3 * max(u3, f3)) + (
                w4 * max(u4, f4) + w5 * max(u5, f5) + w6 * max(u6, f6) + w7 * max(u7, f7)
            )
            s3[i] += (w0 * max(u0, g0) + w1 * max(u1, g1) + w2 * max(u2, g2) + w3 * max(u3, g3)) + (
                w4 * max(u4, g4) + w5 * max(u5, g5) + w6 * max(u6, g6) + w7 * max(u7, g7)
            )


@_in_order
def _add_factors(scores, items, users):  # type: ignore[no-untyped-def]
    """Add p_u . q_i of a tile's items, [F, W], and of four users, [4, F]."""
    s0, s1, s2, s3 = scores[0], scores[1], scores[2], scores[3]
    for h in range(0, len(items), _UNITS // 2):
        q0, q1, q2, q3 = items[h], items[h + 1], items[h + 2], items[h + 3]
        d0, d1, d2, d3 = users[0, h], users[0, h + 1], users[0, h + 2], users[0, h + 3]
        e0, e1, e2, e3 = users[1, h], users[1, h + 1], users[1, h + 2], users[1, h + 3]
        f0, f1, f2, f3 = users[2, h], users[2, h + 1], users[2, h + 2], users[2, h + 3]
        g0, g1, g2, g3 = users[3, h], users[3, h + 1], users[3, h + 2], users[3, h + 3]
        for i in range(len(s0)):
            u0, u1, u2, u3 = q0[i], q1[i], q2[i], q3[i]
            s0[i] += u0 * d0 + u1 * d1 + u2 * d2 + u3 * d3
            s1[i] += u0 * e0 + u1 * e1 + u2 * e2 + u3 * e3
            s2[i] += u0 * f0 + u1 * f1 + u2 * f2 + u3 * f3
            s3[i] += u0 * g0 + u1 * g1 + u2 * g2 + u3 * g3


@_in_order
def _leave_out(scores, start, items, positions, following, end):  # type: ignore[no-untyped-def]
    """Set a tile's scores of excluded items to -inf; returns where the next tile's items start."""
    stop = start + len(scores)
    while following < end:
        item = items[following]
        if item < 0 or item >= len(positions):
            raise IndexError("an item to be left out is unknown")
        place = positions[item]
        if place >= stop:
            break
        if place >= start:
            scores[place - start] = -np.inf
        following += 1
    return following


@_in_order
def _keep(scores, start, best, places, size):  # type: ignore[no-untyped-def]
    """Keep a tile's scores that are among the best; these are a heap whose root is the worst.

    Places ascend, so a later score that equals the root is worse, and is not kept.
    """
    k = len(best)
    least = best[0] if size == k else -np.inf
    for low in range(0, len(scores), _LOOK):
        better = 0
        for i in range(low, low + _LOOK):
            better += scores[i] > least
        if better == 0:
            continue
        for i in range(low, low + _LOOK):
            if not scores[i] > least:
                continue
            if size < k:
                _sift_up(best, places, size, scores[i], start + i)
                size += 1
            else:
                _sift_down(best, places, k, scores[i], start + i)
            if size == k:
                least = best[0]
    return size


@_in_order
def _worse(score, place, other, its_place):  # type: ignore[no-untyped-def]
    return score < other or (score == other and place > its_place)


@_in_order
def _sift_up(best, places, at, score, place):  # type: ignore[no-untyped-def]
    """Add a score at the heap's end, and move it up to its place."""
    while at > 0:
        above = (at - 1) // 2
        if not _worse(score, place, best[above], places[above]):
            break
        best[at], places[at] = best[above], places[above]
        at = above
    best[at], places[at] = score, place


@_in_order
def _sift_down(best, places, size, score, place):  # type: ignore[no-untyped-def]
    """Replace the score at the heap's root, and move the new one down to its place."""
    at = 0
    while True:
        below = 2 * at + 1
        if below >= size:
            break
        right = below + 1
        if right < size and _worse(best[right], places[right], best[below], places[below]):
            below = right
        if not _worse(best[below], places[below], score, place):
            break
        best[at], places[at] = best[below], places[below]
        at = below
    best[at], places[at] = score, place


@_in_order
def _sort(best, places, size):  # type: ignore[no-untyped-def]
    """Sort the heap in place, best first."""
    for last in range(size - 1, 0, -1):
        score, place = best[last], places[last]
        best[last], places[last] = best[0], places[0]
        _sift_down(best, places, last, score, place)
