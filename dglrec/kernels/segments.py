"""Sums over the edges of each of a graph's N nodes, in float64."""

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from dglrec.kernels.parallel import compiled, even_parts, run_side_by_side


def segment_sums(
    offsets: npt.NDArray[np.int64],
    values: npt.NDArray[np.float64],
    indices: npt.NDArray[Any],
) -> npt.NDArray[np.float64]:
    """Sums of `values[indices]` over each node's edges, float64 [N].

    Args:
        offsets: int64 [N + 1].
        values: float64 [V].
        indices: [K] whole numbers below V, those of node v at `offsets[v]:offsets[v + 1]`.
    """
    out = np.empty(len(offsets) - 1)
    parts = even_parts(offsets, 1)
    run_side_by_side(
        [partial(_sum_segments, offsets, values, indices, out, low, high) for low, high in parts]
    )
    return out


def segment_squares(
    offsets: npt.NDArray[np.int64],
    values: npt.NDArray[np.float64],
    indices: npt.NDArray[Any],
    others: npt.NDArray[np.float64],
    other_indices: npt.NDArray[Any],
) -> npt.NDArray[np.float64]:
    """Sums of (values[indices] - others[other_indices])^2 over each node's edges, float64 [N].

    Arguments are those of `segment_sums`, for two tables.
    """
    out = np.empty(len(offsets) - 1)
    tables = (values, indices, others, other_indices)
    parts = even_parts(offsets, 1)
    run_side_by_side(
        [partial(_square_segments, offsets, *tables, out, low, high) for low, high in parts]
    )
    return out


@compiled
def _sum_segments(offsets, values, indices, out, low, high):  # type: ignore[no-untyped-def]
    for d in range(low, high):
        total = 0.0
        for k in range(offsets[d], offsets[d + 1]):
            total += values[indices[k]]
        out[d] = total


@compiled
def _square_segments(offsets, values, indices, others, other_indices, out, low, high):  # type: ignore[no-untyped-def]
    for d in range(low, high):
        total = 0.0
        for k in range(offsets[d], offsets[d + 1]):
            difference = values[indices[k]] - others[other_indices[k]]
            total += difference * difference
        out[d] = total
