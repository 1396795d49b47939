"""The edges of a whole graph, less some of them, and what biases leave of their ratings.

Shapes: N nodes whose edges these are, M nodes at their other ends, E edges, K that are left.
"""

from functools import partial

import numpy as np
import torch
from torch import Tensor

from dglrec.kernels.parallel import (
    arrays_of,
    compiled_as_written,
    even_parts,
    run_side_by_side,
)

_WORK_AN_EDGE = 8  # numbers read and written, to judge whether a second thread is worth it


def left_edges(
    offsets: Tensor,
    neighbours: Tensor,
    codes: Tensor,
    levels: Tensor,
    biases: tuple[Tensor, Tensor, float],
    keep: Tensor | None = None,
    numbers: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """What is left of all nodes' edges, on a CPU: their other ends, and residuals of their ratings.

    Each edge is read twice and written once, and nothing else of its size is made.

    Args:
        offsets: int64 [N + 1]; node n's edges stand at `offsets[n]:offsets[n + 1]`.
        neighbours: int32 [E] their other ends.
        codes: uint8 or int16 [E] their ratings, as `EdgeTensors.codes`.
        levels: float32 [L]; what the codes stand for.
        biases: float32 [N] of the nodes, float32 [M] of the other ends, and the mean.
        keep: bool [E], by an edge's number, whether it is left; None for all of them.
        numbers: int32 or int64 [E] the edges' numbers; None where they are numbered as they stand.

    Returns:
        int64 [N + 1] where each node's edges start, int32 [K] other ends, float32 [K] residuals:
        the rating less both biases and the mean.

    Raises:
        ValueError: what belongs to edges is not there for each of them, or offsets do not end with
            them.
    """
    own, others, mean = biases
    lengths = {len(one) for one in (neighbours, codes, keep, numbers) if one is not None}
    if lengths != {int(offsets[-1])} or len(own) != len(offsets) - 1:
        raise ValueError(
            f"offsets of {len(offsets) - 1} nodes end at {int(offsets[-1])}; there are "
            f"{sorted(lengths)} edges and {len(own)} biases"
        )
    arrays = arrays_of(offsets, neighbours, codes, levels, own, others)
    kept = np.empty(0, dtype=np.bool_) if keep is None else keep.numpy()
    named = np.empty(0, dtype=np.int32) if numbers is None else numbers.numpy()
    parts = even_parts(arrays[0], _WORK_AN_EDGE)
    starts = arrays[0].copy()
    if keep is not None:
        starts[0] = 0
        run_side_by_side([partial(_count, arrays[0], kept, named, starts, *part) for part in parts])
        np.cumsum(starts, out=starts)
    # With room for all, so that a step asks for blocks of the size that the one before it freed.
    left, room = int(starts[-1]), len(arrays[1])
    ends = np.empty(room, dtype=np.int32)[:left]
    residuals = np.empty(room, dtype=np.float32)[:left]
    given = (*arrays, np.float32(mean), kept, named, starts, ends, residuals)
    run_side_by_side([partial(_write, *given, *part) for part in parts])
    return torch.from_numpy(starts), torch.from_numpy(ends), torch.from_numpy(residuals)


@compiled_as_written
def _count(offsets, keep, numbers, counts, low, high):  # type: ignore[no-untyped-def]
    for n in range(low, high):
        left = 0
        for e in range(offsets[n], offsets[n + 1]):
            left += keep[numbers[e] if len(numbers) else e]
        counts[n + 1] = left


@compiled_as_written
def _write(  # type: ignore[no-untyped-def]
    offsets,
    neighbours,
    codes,
    levels,
    own,
    others,
    mean,
    keep,
    numbers,
    starts,
    ends,
    residuals,
    low,
    high,
):
    for n in range(low, high):
        place = starts[n]
        for e in range(offsets[n], offsets[n + 1]):
            if len(keep) and not keep[numbers[e] if len(numbers) else e]:
                continue
            other = neighbours[e]
            ends[place] = other
            # In this order, whichever side the edges are read from.
            residuals[place] = levels[np.int64(codes[e]) & 0xFFFF] - (
                (own[n] + others[other]) + mean
            )
            place += 1
