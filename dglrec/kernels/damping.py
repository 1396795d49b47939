"""Means of few ratings shrunk by n / (n + damping), column by column, in one pass.

In torch's operations, values, shares and their gradients pass through memory ten times.

Shapes: D nodes, C columns.
"""

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from dglrec.kernels.parallel import (
    arrays_of,
    compiled,
    parts_of,
    run_side_by_side,
    runs_compiled,
    total_of,
)


def damp_means(means: Tensor, degrees: Tensor, damping: Tensor) -> Tensor:
    """Shrink means of few ratings: means * n / (n + damping), [D, C].

    Args:
        means: [D, C]; values of less than 32 bits are computed as float32.
        degrees: n, [D]; they get no gradient.
        damping: [C], above 0.

    Raises:
        ValueError: the arguments do not fit together.
    """
    dtype = torch.promote_types(means.dtype, torch.float32)
    means, degrees, damping = means.to(dtype), degrees.detach().to(dtype), damping.to(dtype)
    if means.shape != (len(degrees), len(damping)):
        raise ValueError(
            f"means {list(means.shape)}, {len(degrees)} degrees and {len(damping)} dampings do not "
            "fit"
        )
    if runs_compiled(means):
        damped: Tensor = _DampMeans.apply(means, degrees, damping)  # type: ignore[no-untyped-call]
        return damped
    degrees = degrees.unsqueeze(1)
    return means * (degrees / (degrees + damping))


class _DampMeans(Function):
    @staticmethod
    def forward(ctx: Any, means: Tensor, degrees: Tensor, damping: Tensor) -> Tensor:
        arrays = arrays_of(means, degrees, damping)
        out = np.empty_like(arrays[0])
        parts = parts_of(len(out), out.size)
        run_side_by_side([partial(_damp, *arrays, out, *part) for part in parts])
        damped = torch.from_numpy(out)
        ctx.save_for_backward(damped, degrees, damping)
        return damped

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, Tensor]:
        arrays = arrays_of(gradient, *ctx.saved_tensors)
        out = np.empty_like(arrays[0])
        parts = parts_of(len(out), out.size)
        tables = [np.zeros(out.shape[1]) for _ in parts]
        run_side_by_side(
            [
                partial(_damp_back, *arrays, out, table, *part)
                for part, table in zip(parts, tables, strict=True)
            ]
        )
        of_damping = torch.from_numpy(total_of(tables)).to(gradient.dtype)
        return torch.from_numpy(out), None, of_damping


@compiled
def _damp(means, degrees, damping, out, low, high):  # type: ignore[no-untyped-def]
    for d in range(low, high):
        degree = degrees[d]
        for c in range(len(damping)):
            out[d, c] = means[d, c] * (degree / (degree + damping[c]))


@compiled
def _damp_back(gradient, damped, degrees, damping, out, of_damping, low, high):  # type: ignore[no-untyped-def]
    for d in range(low, high):
        degree = degrees[d]
        for c in range(len(damping)):
            out[d, c] = gradient[d, c] * (degree / (degree + damping[c]))
        for c in range(len(damping)):
            of_damping[c] -= gradient[d, c] * damped[d, c] / (degree + damping[c])
