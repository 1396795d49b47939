"""Dropout whose choice is a hash of the place: nothing is drawn one by one, and nothing is kept.

Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting", JMLR 15,
2014. On a CPU torch draws a number for each value and keeps a mask; here a hash decides for four
values at once, and the way back computes it again.
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

_BITS = 16  # of a hash for each value
_AT_ONCE = 64 // _BITS
_WORK = 4  # numbers that a value counts for, to judge whether a second thread is worth it


def drop_units(values: Tensor, share: float) -> Tensor:
    """Zeros in the place of a share of the values, and the others the larger for it.

    What is dropped follows from a number of torch's generator alone.

    Args:
        values: of any shape; of less than 32 bits, or on other devices than a CPU, torch drops.
        share: from 0 to below 1; on a CPU to the nearest 65,536th.
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
    for group in range(max(low, whole), high):  # what is left at the end
        found = mixed(key + np.uint64(group))
        for j in range(len(values) - group * _AT_ONCE):
            place = group * _AT_ONCE + j
            kept = (found >> np.uint64(j * _BITS)) & mask >= threshold
            out[place] = scale * values[place] if kept else zero
