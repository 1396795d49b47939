"""Sums over a block's edges: of neighbours' values, of their maps, or normalised by degrees.

Shapes: S sources, D destinations, K sampled edges, H embedding size.
"""

from typing import Literal

from torch import Tensor, nn

from dglrec.blocks import Block
from dglrec.kernels import max_messages, sum_messages
from dglrec.nn.decay import EdgeWeights, mean_of


def aggregate(
    block: Block,
    sources: Tensor,
    mode: Literal["sum", "mean", "max"],
    weights: Tensor | None = None,
) -> Tensor:
    """[S, H] source values -> [D, H]; a destination without edges gets zeros.

    Args:
        block: the edges.
        sources: [S, H].
        mode: how each destination's edges are aggregated; "max" is the maximum of their values and
            0, for a block without weights.
        weights: [K] factors of the edges' messages, 0 for padding; not with "max".
    """
    if mode == "max":
        return max_messages(block.offsets, block.neighbours, sources, block.present)
    weights = block.present if weights is None else weights
    if block.weights is not None:
        weights = block.weights if weights is None else block.weights * weights
        sums = sum_messages(block.offsets, block.neighbours, sources, weights)
        return sums if mode == "sum" else sums / block.degrees.clamp(min=1).unsqueeze(1)
    return sum_messages(
        block.offsets,
        block.neighbours,
        sources,
        weights,
        mean=mode == "mean",
        counts=block.present_counts,
        fanout=block.fanout,
        turned=None if weights is not None else block.turned,
    )


def map_and_aggregate(
    block: Block,
    sources: Tensor,
    linear: nn.Linear,
    mode: Literal["sum", "mean"],
    weights: Tensor | None = None,
    decay: EdgeWeights | None = None,
) -> Tensor:
    """[S, H] source values -> [D, H']: a linear map of the result of `aggregate`.

    Sums and linear maps commute, so the map is applied on the side that has fewer nodes. With
    `decay` means are also weighed by its shares.
    """

    def aggregated(rows: Tensor) -> Tensor:
        if decay is not None:
            return mean_of(block, rows, decay, weights)
        return aggregate(block, rows, mode, weights)

    if len(sources) < block.num_destinations:
        return aggregated(linear(sources))
    out: Tensor = linear(aggregated(sources))
    return out


def plus(fresh: Tensor, other: Tensor) -> Tensor:
    """The sum of two tensors, written into the first where both have the same type.

    Args:
        fresh: a tensor that nothing else uses, and that no backward pass needs.
        other: of the same shape.
    """
    return fresh.add_(other) if fresh.dtype == other.dtype else fresh + other


def normalised_sum(block: Block, sources: Tensor, own: int = 0) -> Tensor:
    """A h for a block's destinations, with A the symmetrically normalised adjacency: [D, H].

    Args:
        block: the edges, with the degrees of both ends.
        sources: [S, H].
        own: added to both degrees: 1 where a node counts as a neighbour of itself.

    Raises:
        ValueError: the block does not know its sources' degrees.
    """
    if block.source_degrees is None:
        raise ValueError("the normalisation needs the sources' degrees")
    of_sources = (block.source_degrees + own).clamp(min=1).rsqrt()
    if block.turned is None or len(block.neighbours) < 4 * len(sources):
        # A factor for each edge costs less than a new table of the sources' values.
        factors = of_sources.index_select(0, block.neighbours)
        factors = factors if block.present is None else factors * block.present
        mean = aggregate(block, sources, "mean", factors)
    else:
        mean = aggregate(block, sources * of_sources.unsqueeze(1), "mean")
    degrees = block.degrees
    return mean.mul_((degrees * (degrees + own).clamp(min=1).rsqrt()).unsqueeze(1))
