"""The maximum of each column over a node's edges and 0.

The gradient goes to the first edge that has the maximum. Nothing is written for each edge: forward,
a row is read once for the value and once to find that edge; backward, once.

Shapes: S sources, D destinations, K edges, H columns.
"""

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional

from dglrec.kernels.parallel import (
    arrays_of,
    compiled,
    even_parts,
    run_side_by_side,
    runs_compiled,
)
from dglrec.kernels.turned import check_block, edge_arrays, present_array, turned_edges


def max_messages(
    offsets: Tensor, neighbours: Tensor, sources: Tensor, present: Tensor | None = None
) -> Tensor:
    """For each destination the largest of 0 and its edges' sources, column by column, [D, H].

    Args:
        offsets: int64 [D + 1]; destination d's edges stand at `offsets[d]:offsets[d + 1]`.
        neighbours: int32 or int64 [K]; each edge's source.
        sources: [S, H]; a CPU computes values of less than 32 bits as float32.
        present: [K]; 1 for an edge, 0 for padding; None where there is no padding.

    Raises:
        ValueError: the arguments do not fit together.
        IndexError: an edge has a source that does not exist.
    """
    if not runs_compiled(sources):
        return _max_anywhere(offsets, neighbours, sources, present)
    check_block(offsets, neighbours, len(sources), present)
    sources = sources.to(torch.promote_types(sources.dtype, torch.float32))
    largest: Tensor = _Max.apply(offsets, neighbours, sources, present)  # type: ignore[no-untyped-call]
    return largest


def _max_anywhere(
    offsets: Tensor, neighbours: Tensor, sources: Tensor, present: Tensor | None
) -> Tensor:
    """`max_messages` in torch's operations."""
    sources = functional.relu(sources)
    if present is not None:
        # Padding reads an additional row of zeros, which never exceeds the maximum.
        neighbours = neighbours.masked_fill(present == 0, len(sources))
        sources = functional.pad(sources, (0, 0, 0, 1))
    return functional.embedding_bag(
        neighbours,
        sources,
        offsets.to(neighbours.dtype),
        mode="max",
        include_last_offset=True,
    )


class _Max(Function):
    @staticmethod
    def forward(
        ctx: Any, offsets: Tensor, neighbours: Tensor, sources: Tensor, present: Tensor | None
    ) -> Tensor:
        edges, rows = edge_arrays(offsets, neighbours), arrays_of(sources)[0]
        out = np.empty((len(edges[0]) - 1, rows.shape[1]), dtype=rows.dtype)
        # Which edge has the maximum: its place among its destination's edges.
        whose = np.empty(out.shape if ctx.needs_input_grad[2] else (0, 0), dtype=np.int32)
        there = present_array(present)
        run_side_by_side(
            [
                partial(_take_largest, *edges, there, rows, out, whose, *part)
                for part in even_parts(edges[0], 2 * rows.shape[1])
            ]
        )
        ctx.save_for_backward(offsets, neighbours, torch.from_numpy(whose))
        ctx.num_sources = len(rows)
        return torch.from_numpy(out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        offsets, neighbours, whose = ctx.saved_tensors
        edges, upstream = edge_arrays(offsets, neighbours), arrays_of(gradient)[0]
        turned = turned_edges(*edges, ctx.num_sources)
        out = np.empty((ctx.num_sources, upstream.shape[1]), dtype=upstream.dtype)
        run_side_by_side(
            [
                partial(_give_back, *turned, edges[0], upstream, whose.numpy(), out, *part)
                for part in even_parts(turned[0], 2 * upstream.shape[1])
            ]
        )
        return None, None, torch.from_numpy(out), None


@compiled
def _take_largest(  # type: ignore[no-untyped-def]
    offsets, neighbours, present, rows, out, whose, low, high
):
    width, masked, wanted = rows.shape[1], len(present) > 0, len(whose) > 0
    zero = rows.dtype.type(0)
    for d in range(low, high):
        first, last = offsets[d], offsets[d + 1]
        largest = out[d]
        largest[:] = 0
        for k in range(first, last):
            if masked and present[k] == 0:
                continue
            row = rows[neighbours[k]]
            for c in range(width):
                # Written so that NaN stays.
                largest[c] = largest[c] if row[c] <= largest[c] else row[c]
        if wanted:
            place = whose[d]
            place[:] = -1
            for k in range(last - 1, first - 1, -1):
                if masked and present[k] == 0:
                    continue
                row, number = rows[neighbours[k]], np.int32(k - first)
                for c in range(width):
                    place[c] = number if row[c] == largest[c] else place[c]
            for c in range(width):
                place[c] = place[c] if largest[c] > zero else np.int32(-1)


@compiled
def _give_back(  # type: ignore[no-untyped-def]
    starts, destinations, places, offsets, gradient, whose, out, low, high
):
    zero = gradient.dtype.type(0)
    for s in range(low, high):
        total = out[s]
        total[:] = 0
        for at in range(starts[s], starts[s + 1]):
            d = destinations[at]
            number, upstream, place = np.int32(places[at] - offsets[d]), gradient[d], whose[d]
            for c in range(len(total)):
                total[c] += upstream[c] if place[c] == number else zero
