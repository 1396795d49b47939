"""Attention over a node's edges: scores, softmax and weighed sum in one pass, and one back.

Torch's operations write each edge's row to memory several times, and DGL's write its scores; here
a row is read and used at once. With w an edge's weight, v the row of its source, g the gradient of
its destination's sum o, the gradient of its score is w (g . v - g . o) (Dao, Fu, Ermon, Rudra and
Re, "FlashAttention", NeurIPS 2022, section B.2). GATv2 keeps w of each edge and head for the
backward pass. GAT, whose scores are the sum of one number of each end, computes w again, and keeps
nothing for each edge. Gradients of sources are summed source by source, in an order that depends on
the edges alone, so they are repeatable.

Shapes: S sources, D destinations, K edges, A heads, F columns of a head.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional

from dglrec.kernels.attention_loops import (
    SLOPE,
    Edges,
    Gradients,
    JointGradients,
    JointScores,
    Norms,
    TurnedEdges,
    Upstream,
    attend_back,
    attend_rows,
    attend_rows_jointly,
    dot_heads,
    joint_rows_back,
    joint_scores_back,
    score_sources,
    sum_edges,
)
from dglrec.kernels.parallel import (
    arrays_of,
    even_parts,
    parts_of,
    run_side_by_side,
    runs_compiled,
    total_of,
)
from dglrec.kernels.turned import check_block, edge_arrays, present_array, turned_edges

_WORK = 6  # numbers read and written for each value of an edge's row; see `even_parts`


def attend(
    offsets: Tensor,
    neighbours: Tensor,
    rows: Tensor,
    attention: Tensor,
    of_destinations: Tensor,
    present: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Sums weighed by softmax(leaky_relu(a . row + b)) over each destination's edges.

    Velickovic et al., "Graph attention networks", ICLR 2018, equations 3 and 4.

    Args:
        offsets: int64 [D + 1]; destination d's edges stand at `offsets[d]:offsets[d + 1]`.
        neighbours: int32 or int64 [K]; each edge's source.
        rows: [S, A F]; each source's messages. Values of less than 32 bits are computed as float32.
        attention: a, [A, F].
        of_destinations: b, [D, A]; added to the scores of each destination's edges.
        present: [K]; 1 for an edge, 0 for padding; None where there is no padding.
        bias: [A F], added to each destination's sum; None for nothing.

    Returns:
        [D, A F]; the bias for a destination without edges.

    Raises:
        ValueError: the arguments do not fit together.
        IndexError: an edge has a source that does not exist.
    """
    heads, size = attention.shape
    if bias is None:
        bias = rows.new_zeros(rows.shape[1])
    if (
        rows.shape[1] != heads * size
        or of_destinations.shape != (len(offsets) - 1, heads)
        or bias.shape != (heads * size,)
    ):
        raise ValueError(_misfit(offsets, rows, attention, of_destinations))
    given = (rows, attention, of_destinations, bias)
    return _attended(_Attend, _attend_anywhere, offsets, neighbours, given, present)


def attend_jointly(
    offsets: Tensor,
    neighbours: Tensor,
    rows: Tensor,
    attention: Tensor,
    destinations: Tensor,
    present: Tensor | None = None,
) -> Tensor:
    """Sums weighed by softmax(a . leaky_relu(row + b)) over each destination's edges.

    Brody, Alon and Yahav, "How attentive are graph attention networks?", ICLR 2022, equation 7.

    Args:
        offsets: int64 [D + 1], as in `attend`.
        neighbours: int32 or int64 [K].
        rows: [S, A F].
        attention: a, [A, F].
        destinations: b, [D, A F]; added to the rows of each destination's edges, only for their
            scores.
        present: [K] or None, as in `attend`.

    Returns:
        [D, A F]; zeros for a destination without edges.

    Raises:
        ValueError: the arguments do not fit together.
        IndexError: an edge has a source that does not exist.
    """
    width = attention.numel()
    if rows.shape[1] != width or destinations.shape != (len(offsets) - 1, width):
        raise ValueError(_misfit(offsets, rows, attention, destinations))
    given = (rows, attention, destinations)
    return _attended(_AttendJointly, _attend_jointly_anywhere, offsets, neighbours, given, present)


def _misfit(offsets: Tensor, rows: Tensor, attention: Tensor, destinations: Tensor) -> str:
    shapes = ", ".join(str(list(one.shape)) for one in (rows, attention, destinations))
    return f"rows, attention and destinations do not fit {len(offsets) - 1} nodes: {shapes}"


def _attended(
    function: type[Function],
    anywhere: Callable[..., Tensor],
    offsets: Tensor,
    neighbours: Tensor,
    given: tuple[Tensor, ...],
    present: Tensor | None,
) -> Tensor:
    rows = given[0]
    dtype = torch.promote_types(rows.dtype, torch.float32)
    values = [one.to(dtype) for one in given]
    if not runs_compiled(rows):
        return anywhere(offsets, neighbours, *values, present)
    check_block(offsets, neighbours, len(rows), present)
    summed: Tensor = function.apply(offsets, neighbours, *values, present)
    return summed


def _attend_anywhere(
    offsets: Tensor,
    neighbours: Tensor,
    rows: Tensor,
    attention: Tensor,
    of_destinations: Tensor,
    bias: Tensor,
    present: Tensor | None,
) -> Tensor:
    """`attend` in torch's operations."""
    of_sources = (rows.unflatten(1, attention.shape) * attention).sum(2)
    owners = torch.repeat_interleave(offsets.diff(), output_size=len(neighbours))
    scores = of_sources.index_select(0, neighbours) + of_destinations.index_select(0, owners)
    weights = _softmax(functional.leaky_relu(scores, SLOPE), owners, len(of_destinations), present)
    return _weighed(rows, weights, owners, neighbours, len(of_destinations)) + bias


def _attend_jointly_anywhere(
    offsets: Tensor,
    neighbours: Tensor,
    rows: Tensor,
    attention: Tensor,
    destinations: Tensor,
    present: Tensor | None,
) -> Tensor:
    """`attend_jointly` in torch's operations."""
    owners = torch.repeat_interleave(offsets.diff(), output_size=len(neighbours))
    both = functional.embedding(neighbours, rows) + destinations.index_select(0, owners)
    both = functional.leaky_relu(both, SLOPE).unflatten(1, attention.shape)
    weights = _softmax((both * attention).sum(2), owners, len(destinations), present)
    return _weighed(rows, weights, owners, neighbours, len(destinations))


def _softmax(scores: Tensor, owners: Tensor, count: int, present: Tensor | None) -> Tensor:
    """[K, A] scores -> [K, A] weights, whose sum over each destination's edges is 1."""
    if present is not None:
        scores = scores.masked_fill(present.unsqueeze(1) == 0, -torch.inf)
    # Each node's largest score is subtracted, so that nothing overflows.
    fixed = scores.detach()
    places = owners.unsqueeze(1).expand_as(fixed)
    largest = fixed.new_zeros(count, fixed.shape[1]).scatter_reduce(
        0, places, fixed, "amax", include_self=False
    )
    # Without edges the largest is -inf, and -inf - -inf would be NaN.
    largest = largest.clamp(min=torch.finfo(scores.dtype).min)
    weights = torch.exp(scores - largest.index_select(0, owners))
    totals = torch.zeros_like(largest).index_add(0, owners, weights)
    totals = totals.clamp(min=torch.finfo(scores.dtype).tiny)
    return weights / totals.index_select(0, owners)


def _weighed(
    rows: Tensor, weights: Tensor, owners: Tensor, neighbours: Tensor, count: int
) -> Tensor:
    """[S, A F] rows and [K, A] weights -> [D, A F]."""
    of_edges = functional.embedding(neighbours, rows).unflatten(1, (weights.shape[1], -1))
    weighed = (weights.unsqueeze(2) * of_edges).flatten(1)
    out: Tensor = weighed.new_zeros(count, rows.shape[1]).index_add(0, owners, weighed)
    return out


class _Attend(Function):
    @staticmethod
    def forward(
        ctx: Any,
        offsets: Tensor,
        neighbours: Tensor,
        rows: Tensor,
        attention: Tensor,
        of_destinations: Tensor,
        bias: Tensor,
        present: Tensor | None,
    ) -> Tensor:
        edges = Edges(*edge_arrays(offsets, neighbours), present_array(present))
        factors, score_terms, bias_rows = arrays_of(
            attention, of_destinations, bias.view_as(attention)
        )
        (values,) = _by_head(len(factors), rows)
        of_sources = np.empty((len(values), len(factors)), dtype=values.dtype)
        run_side_by_side(
            [
                partial(score_sources, values, factors, of_sources, *part)
                for part in parts_of(len(values), values.size)
            ]
        )
        norms = Norms(np.empty_like(score_terms), np.empty_like(score_terms))
        out = np.empty((len(score_terms), *factors.shape), dtype=values.dtype)
        given = (values, of_sources, score_terms, bias_rows, norms, out)
        run_side_by_side(
            [
                partial(attend_rows, edges, *given, *part)
                for part in even_parts(edges.offsets, _WORK * factors.size)
            ]
        )
        summed = torch.from_numpy(out).flatten(1)
        kept = map(torch.from_numpy, (of_sources, *norms))
        ctx.save_for_backward(
            offsets, neighbours, rows, attention, of_destinations, bias, present, summed, *kept
        )
        return summed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        offsets, neighbours, rows, attention, of_destinations, bias, present, summed, *kept = (
            ctx.saved_tensors
        )
        edges = edge_arrays(offsets, neighbours)
        factors, score_terms, bias_rows = arrays_of(
            attention, of_destinations, bias.view_as(attention)
        )
        of_sources, largest, shares = arrays_of(*kept)
        values, result, upstream = _by_head(len(factors), rows, summed, gradient)
        along = _along(upstream, result, bias_rows)
        turned = TurnedEdges(*turned_edges(*edges, len(values)), present_array(present))
        terms = np.stack((score_terms, largest, shares, along), axis=1)
        parts = even_parts(turned.starts, _WORK * factors.size)
        of_edges = np.empty((len(edges[1]), len(factors)), dtype=values.dtype)
        of_rows = np.empty_like(values)
        # All sources share the attention, so each thread sums its gradient into its own table.
        gradients = [Gradients(of_edges, of_rows, np.zeros_like(factors)) for _ in parts]
        given = (values, factors, of_sources, terms, upstream)
        run_side_by_side(
            [
                partial(attend_back, turned, *given, of_thread, *part)
                for part, of_thread in zip(parts, gradients, strict=True)
            ]
        )
        sums = np.empty_like(along)
        run_side_by_side(
            [
                partial(sum_edges, edges[0], of_edges, sums, low, high)
                for low, high in even_parts(edges[0], along.shape[1])
            ]
        )
        of_attention = total_of([of_thread.attention for of_thread in gradients])
        found = map(torch.from_numpy, (of_attention, sums))
        of_bias = gradient.sum(0) if ctx.needs_input_grad[5] else None
        return None, None, torch.from_numpy(of_rows).flatten(1), *found, of_bias, None


class _AttendJointly(Function):
    @staticmethod
    def forward(
        ctx: Any,
        offsets: Tensor,
        neighbours: Tensor,
        rows: Tensor,
        attention: Tensor,
        added: Tensor,
        present: Tensor | None,
    ) -> Tensor:
        edges = Edges(*edge_arrays(offsets, neighbours), present_array(present))
        factors = arrays_of(attention)[0]
        values, destinations = _by_head(len(factors), rows, added)
        weights = np.empty((len(edges.neighbours), len(factors)), dtype=values.dtype)
        out = np.empty_like(destinations)
        norms = Norms(*np.empty((2, *destinations.shape[:2]), dtype=destinations.dtype))
        joint, no_bias = JointScores(values, factors, destinations), np.zeros_like(factors)
        given = (joint, no_bias, norms, weights, out)
        run_side_by_side(
            [
                partial(attend_rows_jointly, edges, *given, *part)
                for part in even_parts(edges.offsets, _WORK * factors.size)
            ]
        )
        summed = torch.from_numpy(out).flatten(1)
        kept = torch.from_numpy(weights)
        ctx.save_for_backward(offsets, neighbours, rows, attention, added, kept, summed)
        return summed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        offsets, neighbours, *saved = ctx.saved_tensors
        # Padding weighs 0, so its gradients are 0 without a look at `present`.
        edges = Edges(*edge_arrays(offsets, neighbours), present_array(None))
        rows, attention, added, kept, summed = saved
        factors, weights = arrays_of(attention, kept)
        values, destinations, result, upstream = _by_head(
            len(factors), rows, added, summed, gradient
        )
        joint = JointScores(values, factors, destinations)
        given = Upstream(upstream, _along(upstream, result, np.zeros_like(factors)))
        of_edges, of_destinations = np.empty_like(weights), np.empty_like(destinations)
        parts = even_parts(edges.offsets, _WORK * factors.size)
        gradients = [
            JointGradients(of_edges, of_destinations, np.zeros_like(factors)) for _ in parts
        ]
        run_side_by_side(
            [
                partial(joint_scores_back, edges, joint, weights, given, of_thread, *part)
                for part, of_thread in zip(parts, gradients, strict=True)
            ]
        )
        ends = turned_edges(edges.offsets, edges.neighbours, len(values))
        turned = TurnedEdges(*ends, edges.present)
        of_rows = np.empty_like(values)
        run_side_by_side(
            [
                partial(joint_rows_back, turned, joint, weights, upstream, of_edges, of_rows, *part)
                for part in even_parts(turned.starts, _WORK * factors.size)
            ]
        )
        of_attention = total_of([of_thread.attention for of_thread in gradients])
        return (
            None,
            None,
            torch.from_numpy(of_rows).flatten(1),
            torch.from_numpy(of_attention),
            torch.from_numpy(of_destinations).flatten(1),
            None,
        )


def _by_head(heads: int, *tensors: Tensor) -> tuple[npt.NDArray[Any], ...]:
    """[N, A F] tensors as [N, A, F] arrays for compiled code."""
    return arrays_of(*(one.unflatten(1, (heads, -1)) for one in tensors))


def _along(
    gradient: npt.NDArray[Any], summed: npt.NDArray[Any], added: npt.NDArray[Any]
) -> npt.NDArray[Any]:
    """Dot products, head by head, of the gradient with the result less the bias, [D, A]."""
    out = np.empty(summed.shape[:2], dtype=summed.dtype)
    run_side_by_side(
        [
            partial(dot_heads, gradient, summed, added, out, low, high)
            for low, high in parts_of(len(summed), summed.size)
        ]
    )
    return out
