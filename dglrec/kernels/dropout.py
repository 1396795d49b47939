"""Dropout decided by a hash of each value's place: no random number for each, and no mask kept.

Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting", JMLR 15,
2014. On a CPU torch draws a number for each value and keeps a mask; here one hash decides for four
values, and the backward pass computes it again.
"""

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional

from dglrec.kernels.hashing import mixed
from dglrec.kernels.parallel import compiled, parts_of, run_side_by_side, runs_compiled

_BITS = 16  # bits of a hash for each value
_AT_ONCE = 64 // _BITS
_WORK = 4  # numbers that a value counts for; see `parts_of`


def drop_units(values: Tensor, share: float) -> Tensor:
    """Set a share of the values to 0, and scale the others up by 1 / (1 - share).

    A single number of torch's generator decides which values are dropped.

    Args:
        values: of any shape; other types than float32 and float64, and other devices than a CPU,
            take torch's own dropout.
        share: from 0 to below 1; on a CPU rounded to a multiple of 1 / 65,536.
    """
    if not runs_compiled(values) or values.dtype not in (torch.float32, torch.float64):
        return functional.dropout(values, share)
    dropped: Tensor = _Drop.apply(values, share, int(torch.randint(2**62, ())))  # type: ignore[no-untyped-call]
    return dropped


class _Drop(Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, share: float, key: int) -> Tensor:
        ctx.share, ctx.key = share, key
        return _dropped(values, share, key)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _dropped(gradient, ctx.share, ctx.key), None, None


def _dropped(values: Tensor, share: float, key: int) -> Tensor:
    threshold = min(round(share * (1 << _BITS)), (1 << _BITS) - 1)
    flat = values.detach().contiguous().view(-1)
    out = torch.empty_like(flat)
    scale = flat.numpy().dtype.type((1 << _BITS) / ((1 << _BITS) - threshold))
    groups = -(-len(flat) // _AT_ONCE)
    run_side_by_side(
        [
            partial(
                _drop,
                flat.numpy(),
                np.uint64(key),
                np.uint64(threshold),
                scale,
                out.numpy(),
                low,
                high,
            )
            for low, high in parts_of(groups, _WORK * len(flat))
        ]
    )
    return out.view(values.shape)


@compiled
def _drop(values, key, threshold, scale, out, low, high):  # type: ignore[no-untyped-def]
    mask, zero = np.uint64((1 << _BITS) - 1), values.dtype.type(0)
    whole = min(high, len(values) // _AT_ONCE)
    for group in range(low, whole):
        found = mixed(key + np.uint64(group))
        first = group * _AT_ONCE
        for j in range(_AT_ONCE):
            kept = (found >> np.uint64(j * _BITS)) & mask >= threshold
            out[first + j] = scale * values[first + j] if kept else zero
    for group in range(max(low, whole), high):  # the last, incomplete group
        found = mixed(key + np.uint64(group))
        for j in range(len(values) - group * _AT_ONCE):
            place = group * _AT_ONCE + j
            kept = (found >> np.uint64(j * _BITS)) & mask >= threshold
            out[place] = scale * values[place] if kept else zero
