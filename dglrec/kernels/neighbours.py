"""Similarities of items by their common raters, and ratings predicted from similar items.

Shapes: U users, I items, E ratings, n pairs. Ratings are numbered by user and, within a user, by
item.
"""

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dglrec.kernels.edges import check_rows
from dglrec.kernels.parallel import compiled, even_parts, parts_of, run_side_by_side

Arrays = tuple[npt.NDArray[Any], ...]

_PAIR_NUMBERS = 4  # that are added up for each two ratings of a user
_WEIGHT_NUMBERS = 64  # about how many similarities a prediction reads


def count_pairs(raters: Arrays, offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """How many pairs of ratings `add_similarities` reads for each item, int64 [I].

    Args:
        raters: as there.
        offsets: int64 [U + 1], of the users' ratings.
    """
    pairs = np.zeros(len(raters[0]) - 1, dtype=np.int64)
    _count_pairs(*raters, offsets, pairs)
    return pairs


def add_similarities(
    raters: Arrays,
    rated: Arrays,
    out: npt.NDArray[np.float32],
    work: npt.NDArray[np.int64],
    items: tuple[int, int],
    *,
    shrinkage: float,
    min_support: int,
) -> None:
    """Fill in some items' similarities to the items that come before them, where these are above 0.

    The similarity of items i and j, over the n users who rated both and their residuals e, is

        sum e_ui e_uj / sqrt(sum e_ui^2 sum e_uj^2) * (n - 1) / (n - 1 + shrinkage)

    An item is one thread's, and its sums are in float64, so the result does not depend on how many
    threads there are.

    Args:
        raters: of each item: offsets int64 [I + 1], users int32 [E], numbers of the ratings [E].
        rated: of each user: offsets int64 [U + 1], items int32 [E] ascending, residuals
            float32 [E].
        out: float32 [I, I], zeros; row i is filled up to column i.
        work: int64 [I + 1], running sums of `count_pairs`, to share the items among threads.
        items: the first, and one past the last.
        shrinkage: as in the equation.
        min_support: the least n; with fewer the similarity is 0.
    """
    first, last = items
    cuts = even_parts(work[first : last + 1] - work[first], _PAIR_NUMBERS)
    run_side_by_side(
        [
            partial(
                _add_similarities,
                *raters,
                *rated,
                out,
                float(shrinkage),
                max(min_support, 2),  # of one common rater (n - 1) makes nothing
                first + low,
                first + high,
            )
            for low, high in cuts
        ]
    )


def predict_residuals(
    users: Tensor,
    items: Tensor,
    rated: Arrays,
    similarities: npt.NDArray[np.float32],
    neighbours: int,
) -> Tensor:
    """For each pair the mean residual of similar items that the user rated, float32 [n].

    The mean is weighed by similarity, over the most similar items. It is 0 where no similarity is
    above 0.

    Args:
        users: int64 [n].
        items: int64 [n].
        rated: as for `add_similarities`.
        similarities: float32 [I, I].
        neighbours: of how many items, at most; of equally similar ones any are taken.

    Raises:
        IndexError: there is no such user or item.
    """
    check_rows(users, len(rated[0]) - 1, "users")
    check_rows(items, len(similarities), "items")
    out = np.empty(len(users), dtype=np.float32)
    run_side_by_side(
        [
            partial(
                _predict_residuals,
                users.numpy(),
                items.numpy(),
                *rated,
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
def _count_pairs(starts, users, edges, offsets, pairs):  # type: ignore[no-untyped-def]
    for i in range(len(pairs)):
        total = 0
        for k in range(starts[i], starts[i + 1]):
            total += edges[k] - offsets[users[k]]
        pairs[i] = total


@compiled
def _add_similarities(  # type: ignore[no-untyped-def]
    starts, users, edges, offsets, items, residuals, out, shrinkage, min_support, low, high
):
    sums = np.zeros((len(starts) - 1, 4))  # n, and the three sums of products
    for i in range(low, high):
        for k in range(starts[i], starts[i + 1]):
            edge = edges[k]
            mine = np.float64(residuals[edge])
            square = mine * mine
            # A user's items ascend: those before this rating are the items that come before i.
            for other in range(offsets[users[k]], edge):
                j, its = items[other], np.float64(residuals[other])
                sums[j, 0] += 1.0
                sums[j, 1] += mine * its
                sums[j, 2] += square
                sums[j, 3] += its * its
        for j in range(i):
            count, product = sums[j, 0], sums[j, 1]
            if count >= min_support and product > 0.0:
                correlation = product / np.sqrt(sums[j, 2] * sums[j, 3])
                out[i, j] = correlation * (count - 1.0) / (count - 1.0 + shrinkage)
            sums[j, :] = 0.0


@compiled
def _predict_residuals(  # type: ignore[no-untyped-def]
    users, items, offsets, rated, residuals, similarities, most, out, low, high
):
    weights = np.empty(most, dtype=np.float32)  # a heap, the smallest first, once it is full
    values = np.empty(most, dtype=np.float32)
    for n in range(low, high):
        similar, count = similarities[items[n]], 0
        for edge in range(offsets[users[n]], offsets[users[n] + 1]):
            weight = similar[rated[edge]]
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
    """Move an entry of a full heap down to where it belongs."""
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
