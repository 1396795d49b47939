"""Sums over users for each pair of items: the Gram matrix of users' rows, whole or some rows."""

from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse

from dglrec.kernels import compiled, even_parts, run_side_by_side

_PIECES = 16  # of work for each thread, so that no thread waits long for a slow one


class PairSums:
    """X^T X for the rows X of U users, float32 [I, I], computed some rows at a time.

    Each sum is computed by a single thread, over users in ascending order, so the result does not
    depend on the number of threads. Counts of users are exact up to 2^24.

    Args:
        rows: float32 [U, I].

    Raises:
        ValueError: the arrays of `rows` do not fit together.
    """

    def __init__(self, rows: sparse.csr_array) -> None:
        rows.check_format(full_check=True)
        self.num_items = rows.shape[1]
        self._rows, columns = _arrays(rows), rows.tocsc()
        self._columns = _arrays(columns)
        lengths = np.diff(rows.indptr).astype(np.int64)
        products = np.concatenate([[0], np.cumsum(lengths[columns.indices])])
        self.work: npt.NDArray[np.int64] = products[columns.indptr]
        """int64 [I + 1], running sums of how many products each item's row takes."""

    def of(self, first: int, last: int) -> npt.NDArray[np.float32]:
        """Rows `first` to `last` of the matrix, float32 [last - first, I]."""
        out = np.zeros((last - first, self.num_items), dtype=np.float32)
        work = self.work[first : last + 1]
        threads = torch.get_num_threads()
        pieces = np.linspace(work[0], work[-1], _PIECES * threads + 1)[1:-1]
        cuts = [0, *np.searchsorted(work, pieces).clip(0, len(out)).tolist(), len(out)]
        parts = [(low, high) for low, high in pairwise(cuts) if low < high]

        def add(mine: list[tuple[int, int]]) -> None:
            for low, high in mine:
                _add_products(*self._columns, *self._rows, out, first, low, high)

        run_side_by_side([partial(add, parts[number::threads]) for number in range(threads)])
        return out


def gram(rows: sparse.csr_array) -> npt.NDArray[np.float32]:
    """X^T X for the rows X of U users, float32 [I, I]; see `PairSums`."""
    return PairSums(rows).of(0, rows.shape[1])


def _arrays(matrix: Any) -> tuple[npt.NDArray[Any], ...]:
    return matrix.indptr, matrix.indices, matrix.data


@compiled
def _add_products(starts, users, weights, offsets, items, values, out, first, low, high):  # type: ignore[no-untyped-def]
    for row in range(low, high):
        sums = out[row]
        for entry in range(starts[first + row], starts[first + row + 1]):
            user, weight = users[entry], weights[entry]
            for other in range(offsets[user], offsets[user + 1]):
                sums[items[other]] += weight * values[other]


def spread_rows(
    weights: npt.NDArray[np.float32], rows: sparse.csr_array, out: npt.NDArray[np.float32]
) -> None:
    """Add weights @ rows to `out`; a row's result does not depend on the other rows.

    Args:
        weights: float32 [n, U].
        rows: float32 [U, I], checked.
        out: float32 [n, I].

    Raises:
        ValueError: the shapes do not fit.
    """
    if weights.shape[1] != rows.shape[0] or out.shape != (len(weights), rows.shape[1]):
        raise ValueError(f"{weights.shape} times {rows.shape} is not {out.shape}")
    offsets = np.arange(len(out) + 1, dtype=np.int64) * rows.nnz
    if len(out):
        run_side_by_side(
            [
                partial(_spread_rows, weights, *_arrays(rows), out, low, high)
                for low, high in even_parts(offsets, 1)
            ]
        )


@compiled
def _spread_rows(weights, offsets, items, values, out, low, high):  # type: ignore[no-untyped-def]
    for row in range(low, high):
        sums = out[row]
        for user in range(len(offsets) - 1):
            weight = weights[row, user]
            if weight == 0:
                continue
            for entry in range(offsets[user], offsets[user + 1]):
                sums[items[entry]] += weight * values[entry]
