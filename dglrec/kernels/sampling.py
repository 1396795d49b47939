"""Samples of positions from many ranges, uniform and without replacement."""

from functools import partial

import numpy as np
import torch
from torch import Tensor

from dglrec.kernels.parallel import compiled_as_written, even_parts, run_side_by_side, runs_compiled

_WORK_A_PLACE = 4  # numbers read and written for each position; see `even_parts`


def sample_stretches(
    starts: Tensor, counts: Tensor, fanout: int, chances: Tensor
) -> tuple[Tensor, Tensor]:
    """Positions sampled from D ranges, and how many from each: the fan-out, or all it has.

    From a range of c > f positions, those numbered floor((u + k) c / f) are taken, k = 0..f-1, for
    one u that is uniform over 0..1: systematic sampling (Madow and Madow, "On the theory of
    systematic sampling, I", Annals of Mathematical Statistics 15(1), 1944). Each position is taken
    with probability f / c and at most once, and one random number is enough.

    Args:
        starts: int64 [D], the first position of each range.
        counts: int64 [D], at least 0.
        fanout: f, at least 1.
        chances: float64 [D], at least 0 and below 1; each range's u.

    Raises:
        ValueError: starts, counts and chances differ in number, or the fan-out is below 1.
    """
    if not len(starts) == len(counts) == len(chances) or fanout < 1:
        raise ValueError(
            f"fan-out {fanout} of {len(starts)} starts, {len(counts)} counts, {len(chances)} "
            "chances"
        )
    taken = counts.clamp(max=fanout)
    ends = taken.cumsum(0)
    total = int(ends[-1]) if len(ends) else 0
    if not runs_compiled(starts):
        return _anywhere(starts, counts, taken, ends, chances, total), taken
    out = np.empty(total, dtype=np.int64)
    offsets = np.concatenate(([0], ends.numpy()))
    arrays = (starts.numpy(), counts.numpy(), chances.numpy(), offsets)
    run_side_by_side(
        [
            partial(_sample, *arrays, fanout, out, low, high)
            for low, high in even_parts(offsets, _WORK_A_PLACE)
        ]
    )
    return torch.from_numpy(out), taken


def sample_fixed(
    starts: Tensor, counts: Tensor, fanout: int, chances: Tensor
) -> tuple[Tensor, Tensor]:
    """The positions of `sample_stretches`, in a shape that depends on D and f alone.

    Arguments are those of `sample_stretches`.

    Returns:
        int64 [D, f] positions, padded with positions of the range (or its start) where it has
        fewer than f; and bool [D, f], false for padding.
    """
    number = torch.arange(fanout, device=starts.device)
    # All positions of a short range are taken, in order.
    steps = (counts.double() / fanout).clamp(min=1)
    shifts = chances * (counts > fanout)
    places = ((number + shifts.unsqueeze(1)) * steps.unsqueeze(1)).long()
    last = (counts - 1).clamp(min=0).unsqueeze(1)
    return torch.minimum(places, last) + starts.unsqueeze(1), number < counts.unsqueeze(1)


def _anywhere(
    starts: Tensor, counts: Tensor, taken: Tensor, ends: Tensor, chances: Tensor, total: int
) -> Tensor:
    """`sample_stretches` in torch's operations."""
    owners = torch.repeat_interleave(taken, output_size=total)
    number = torch.arange(total, device=starts.device) - (ends - taken).index_select(0, owners)
    steps = counts.double() / taken.clamp(min=1)
    shifts = torch.where(counts > taken, chances, torch.zeros_like(chances))
    places = (number + shifts.index_select(0, owners)) * steps.index_select(0, owners)
    last = (counts - 1).index_select(0, owners)
    return torch.minimum(places.long(), last) + starts.index_select(0, owners)


@compiled_as_written
def _sample(starts, counts, chances, offsets, fanout, out, low, high):  # type: ignore[no-untyped-def]
    for d in range(low, high):
        first, start, count = offsets[d], starts[d], counts[d]
        if count <= fanout:
            for k in range(count):
                out[first + k] = start + k
            continue
        step = count / fanout
        for k in range(fanout):
            # At the end of a long range, rounding up would give a position of the next range.
            out[first + k] = start + min(int((k + chances[d]) * step), count - 1)
