"""Sums over a block's edges: of neighbours' values, of their maps, weighed by both ends' degrees.

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
        mode: what is taken over each destination's edges; "max" is the largest of 0 and them, of
            a block without weights.
        weights: [K] factors of the edges' messages, 0 where there is no edge; not with "max".
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
    """[S, H] source values -> [D, H']: a linear map of what `aggregate` makes of them.

    Sums and linear maps commute, so the map is applied on the side that has fewer nodes. With
    `decay` means are weighed by it besides.
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
    """Their sum, in the place of the first where it fits: one that nobody else has.

    Args:
        fresh: made for this, and kept by nothing that goes back.
        other: of the same shape.
    """
    return fresh.add_(other) if fresh.dtype == other.dtype else fresh + other


def normalised_sum(block: Block, sources: Tensor, own: int = 0) -> Tensor:
    """A h of a block's destinations, [S, H] -> [D, H].

    Args:
        block: with the degrees of its sources.
        sources: [S, H].
        own: added to both degrees: 1 where each node counts as its own neighbour.

    Raises:
        ValueError: the block does not know its sources' degrees.
    """
    if block.source_degrees is None:
        raise ValueError("the normalisation needs the sources' degrees")
    of_sources = (block.source_degrees + own).clamp(min=1).rsqrt()
    if block.turned is None or len(block.neighbours) < 4 * len(sources):
        # A factor an edge: less than to write every source's values anew.
        factors = of_sources.index_select(0, block.neighbours)
        factors = factors if block.present is None else factors * block.present
        mean = aggregate(block, sources, "mean", factors)
    else:
        mean = aggregate(block, sources * of_sources.unsqueeze(1), "mean")
    degrees = block.degrees
    return mean.mul_((degrees * (degrees + own).clamp(min=1).rsqrt()).unsqueeze(1))
