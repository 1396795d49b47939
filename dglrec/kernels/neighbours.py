"""Similarities of items by their common raters, and ratings predicted from similar items.

Shapes: U users, I items, E ratings, n pairs. Ratings are numbered by user and, within a user, by
item.
"""

from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dglrec.kernels.edges import check_rows
from dglrec.kernels.parallel import compiled, even_parts, parts_of, run_side_by_side

_PAIR_NUMBERS = 4  # numbers that are added up for each pair of a user's ratings
_WEIGHT_NUMBERS = 64  # similarities that a prediction reads, about


class Raters(NamedTuple):
    """The ratings of each item.

    Attributes:
        offsets: int64 [I + 1]; item i's stand at `offsets[i]:offsets[i + 1]`.
        users: int32 [E]; who gave them.
        numbers: [E]; the ratings' numbers.
    """

    offsets: npt.NDArray[np.int64]
    users: npt.NDArray[np.int32]
    numbers: npt.NDArray[Any]


class Rated(NamedTuple):
    """The ratings of each user, in the order of their numbers.

    Attributes:
        offsets: int64 [U + 1]; user u's stand at `offsets[u]:offsets[u + 1]`.
        items: int32 [E]; ascending within a user.
        residuals: float32 [E].
    """

    offsets: npt.NDArray[np.int64]
    items: npt.NDArray[np.int32]
    residuals: npt.NDArray[np.float32]


class _Kept(NamedTuple):
    """Which similarities are kept, and how they shrink; see `add_similarities`."""

    shrinkage: float
    min_support: int


def count_pairs(raters: Raters, offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """How many pairs of ratings `add_similarities` reads for each item, int64 [I].

    Args:
        raters: of each item.
        offsets: int64 [U + 1], of the users' ratings.
    """
    pairs = np.zeros(len(raters.offsets) - 1, dtype=np.int64)
    _count_pairs(raters, offsets, pairs)
    return pairs


def add_similarities(
    raters: Raters,
    rated: Rated,
    out: npt.NDArray[np.float32],
    work: npt.NDArray[np.int64],
    items: tuple[int, int],
    *,
    shrinkage: float,
    min_support: int,
) -> None:
    """Fill in some items' similarities to the items before them, where these are above 0.

    The similarity of items i and j, over the n users who rated both and their residuals e, is

        sum e_ui e_uj / sqrt(sum e_ui^2 sum e_uj^2) * (n - 1) / (n - 1 + shrinkage)

    One thread computes all sums of an item, in float64, so the result does not depend on the number
    of threads.

    Args:
        raters: of each item.
        rated: of each user.
        out: float32 [I, I], zeros; row i is filled up to column i.
        work: int64 [I + 1], running sums of `count_pairs`, to share the items among threads.
        items: the first item to fill in, and one past the last.
        shrinkage: as in the equation.
        min_support: the least n; below it the similarity is 0.
    """
    first, last = items
    kept = _Kept(float(shrinkage), max(min_support, 2))  # with n = 1 the factor (n - 1) is 0
    cuts = even_parts(work[first : last + 1] - work[first], _PAIR_NUMBERS)
    run_side_by_side(
        [
            partial(
                _add_similarities,
                raters,
                rated,
                out,
                kept,
                first + low,
                first + high,
            )
            for low, high in cuts
        ]
    )


def predict_residuals(
    users: Tensor,
    items: Tensor,
    rated: Rated,
    similarities: npt.NDArray[np.float32],
    neighbours: int,
) -> Tensor:
    """For each pair, the mean residual of the user's ratings of similar items, float32 [n].

    The mean is over the most similar items, weighed by similarity. It is 0 where no similarity is
    above 0.

    Args:
        users: int64 [n].
        items: int64 [n].
        rated: of each user.
        similarities: float32 [I, I].
        neighbours: the most items that a mean is over; of equally similar items any are taken.

    Raises:
        IndexError: there is no such user or item.
    """
    check_rows(users, len(rated.offsets) - 1, "users")
    check_rows(items, len(similarities), "items")
    out = np.empty(len(users), dtype=np.float32)
    run_side_by_side(
        [
            partial(
                _predict_residuals,
                users.numpy(),
                items.numpy(),
                rated,
                similarities,
                min(neighbours, len(similarities)),
                out,
                low,
                high,
            )
            for low, high in parts_of(len(out), len(out) * _WEIGHT_NUMBERS)
        ]
    )
    return torch.from_numpy(out)


@compiled
def _count_pairs(raters, offsets, pairs):  # type: ignore[no-untyped-def]
    starts, users, numbers = raters
    for i in range(len(pairs)):
        total = 0
        for k in range(starts[i], starts[i + 1]):
            total += numbers[k] - offsets[users[k]]
        pairs[i] = total


@compiled
def _add_similarities(raters, rated, out, kept, low, high):  # type: ignore[no-untyped-def]
    starts, users, numbers = raters
    offsets, items, residuals = rated
    sums = np.zeros((len(starts) - 1, 4))  # n, and the three sums of products
    for i in range(low, high):
        for k in range(starts[i], starts[i + 1]):
            edge = numbers[k]
            residual = np.float64(residuals[edge])
            square = residual * residual
            # A user's items ascend: those before this rating are the items that come before i.
            for other in range(offsets[users[k]], edge):
                j, other_residual = items[other], np.float64(residuals[other])
                sums[j, 0] += 1.0
                sums[j, 1] += residual * other_residual
                sums[j, 2] += square
                sums[j, 3] += other_residual * other_residual
        for j in range(i):
            count, product = sums[j, 0], sums[j, 1]
            if count >= kept.min_support and product > 0.0:
                correlation = product / np.sqrt(sums[j, 2] * sums[j, 3])
                out[i, j] = correlation * (count - 1.0) / (count - 1.0 + kept.shrinkage)
            sums[j, :] = 0.0


@compiled
def _predict_residuals(users, items, rated, similarities, most, out, low, high):  # type: ignore[no-untyped-def]
    offsets, rated_items, residuals = rated
    weights = np.empty(most, dtype=np.float32)  # once full, a heap with the smallest first
    values = np.empty(most, dtype=np.float32)
    for n in range(low, high):
        similar, count = similarities[items[n]], 0
        for edge in range(offsets[users[n]], offsets[users[n] + 1]):
            weight = similar[rated_items[edge]]
            if weight <= 0:
                continue
            if count < most:
                weights[count], values[count] = weight, residuals[edge]
                count += 1
                if count == most:
                    for at in range(most // 2 - 1, -1, -1):
                        _sink(weights, values, at)
            elif weight > weights[0]:
                weights[0], values[0] = weight, residuals[edge]
                _sink(weights, values, 0)
        total, weighed = 0.0, 0.0
        for at in range(count):
            total += weights[at]
            weighed += np.float64(weights[at]) * values[at]
        out[n] = weighed / total if count > 0 else 0.0


@compiled
def _sink(weights, values, at):  # type: ignore[no-untyped-def]
    """Move an entry of a full heap down to its place."""
    size = len(weights)
    weight, value = weights[at], values[at]
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size and weights[child + 1] < weights[child]:
            child += 1
        if weights[child] >= weight:
            break
        weights[at], values[at] = weights[child], values[child]
        at = child
    weights[at], values[at] = weight, value
