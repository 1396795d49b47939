"""Sums over users for each pair of items: the Gram matrix of users' rows, whole or some rows."""

from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse

from dglrec.kernels import compiled, even_parts, run_side_by_side

_PIECES = 16  # of work for each thread, so that no thread waits long for a slow one


class _Matrix(NamedTuple):
    """A sparse matrix for compiled loops, by rows (CSR) or by columns (CSC).

    Attributes:
        offsets: [n + 1]; row, or column, v's entries are at `offsets[v]:offsets[v + 1]`.
        indices: [E]; each entry's column, or row.
        values: float32 [E].
    """

    offsets: npt.NDArray[Any]
    indices: npt.NDArray[Any]
    values: npt.NDArray[Any]


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
        columns = rows.tocsc()
        self._rows, self._columns = _matrix_of(rows), _matrix_of(columns)
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

        def add(ranges: list[tuple[int, int]]) -> None:
            for low, high in ranges:
                _add_products(self._columns, self._rows, out, first, low, high)

        run_side_by_side([partial(add, parts[number::threads]) for number in range(threads)])
        return out


def gram(rows: sparse.csr_array) -> npt.NDArray[np.float32]:
    """X^T X for the rows X of U users, float32 [I, I]; see `PairSums`."""
    return PairSums(rows).of(0, rows.shape[1])


def _matrix_of(matrix: Any) -> _Matrix:
    return _Matrix(matrix.indptr, matrix.indices, matrix.data)


@compiled
def _add_products(columns, rows, out, first, low, high):  # type: ignore[no-untyped-def]
    for row in range(low, high):
        sums = out[row]
        for entry in range(columns.offsets[first + row], columns.offsets[first + row + 1]):
            user, weight = columns.indices[entry], columns.values[entry]
            for other in range(rows.offsets[user], rows.offsets[user + 1]):
                sums[rows.indices[other]] += weight * rows.values[other]


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
                partial(_spread_rows, weights, _matrix_of(rows), out, low, high)
                for low, high in even_parts(offsets, 1)
            ]
        )


@compiled
def _spread_rows(weights, rows, out, low, high):  # type: ignore[no-untyped-def]
    for row in range(low, high):
        sums = out[row]
        for user in range(len(rows.offsets) - 1):
            weight = weights[row, user]
            if weight == 0:
                continue
            for entry in range(rows.offsets[user], rows.offsets[user + 1]):
                sums[rows.indices[entry]] += weight * rows.values[entry]
