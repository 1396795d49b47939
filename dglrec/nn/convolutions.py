"""Messages along one relation: block and source values in, destination values out.

Shapes: S sources, D destinations, K sampled edges, H embedding size.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from dglrec.kernels import sum_messages
from dglrec.nn.config import Aggregator, ModelConfig
from dglrec.sampling import Block

_INITIAL_DAMPING = 30.0  # ratings; learned from there
_INITIAL_RATING_GAIN = 2.0


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
        mode: what is taken over each destination's edges.
        weights: [K] factors of the edges' messages; not with "max".
    """
    if mode == "max":
        return functional.embedding_bag(
            block.neighbours,
            sources,
            block.offsets.to(block.neighbours.dtype),
            mode="max",
            include_last_offset=True,
        )
    out = sum_messages(block.offsets, block.neighbours, sources, weights)
    return out / block.offsets.diff().clamp(min=1).unsqueeze(1) if mode == "mean" else out


def map_and_aggregate(
    block: Block,
    sources: Tensor,
    linear: nn.Linear,
    mode: Literal["sum", "mean"],
    weights: Tensor | None = None,
) -> Tensor:
    """[S, H] source values -> [D, H']: a linear map of what `aggregate` makes of them.

    Sums and linear maps commute, so the map is applied on the side that has fewer nodes.
    """
    if len(sources) < block.num_destinations:
        return aggregate(block, linear(sources), mode, weights)
    out: Tensor = linear(aggregate(block, sources, mode, weights))
    return out


class SAGEConv(nn.Module):
    """GraphSAGE over one relation: W_self h + W_neighbour AGG(h_neighbours) + b.

    Hamilton, Ying and Leskovec, "Inductive representation learning on large graphs", NeurIPS
    2017, algorithm 1, lines 4-5; "pool" is its equation 3, the maximum of relu(W_pool h + b_pool).
    The same as `dgl.nn.SAGEConv` for "mean" and "pool".

    Args:
        size_in: width of sources and destinations.
        size_out: width of the result.
        aggregator: AGG.
    """

    def __init__(self, size_in: int, size_out: int, aggregator: Aggregator = "mean") -> None:
        super().__init__()
        self.aggregator = aggregator
        self.own = nn.Linear(size_in, size_out)
        self.neighbour = nn.Linear(size_in, size_out, bias=False)
        self.pool = nn.Linear(size_in, size_in) if aggregator == "pool" else None

    def forward(self, block: Block, sources: Tensor, destinations: Tensor) -> Tensor:
        """[S, size_in] sources and [D, size_in] destinations -> [D, size_out]."""
        if self.pool is not None:
            messages = self.neighbour(aggregate(block, functional.relu(self.pool(sources)), "max"))
        else:
            mode: Literal["mean", "sum"] = "mean" if self.aggregator == "mean" else "sum"
            messages = map_and_aggregate(block, sources, self.neighbour, mode)
        out: Tensor = self.own(destinations) + messages
        return out


class RatingConv(nn.Module):
    """What a node's neighbours say, weighed by how they were rated: W damped-mean(e h).

    e is an edge's rating less what biases explain. Over identity vectors this is the user factor
    of asymmetric SVD (Paterek, "Improving regularized singular value decomposition for
    collaborative filtering", KDD Cup 2007, section 3.7), there divided by the root of the degree
    and here damped like a bias: a mean over the sampled edges times n / (n + damping), n being the
    degree before sampling, so that samples of any size stand for the same whole, and a node with
    few ratings moves little. The damping is learned. With it left out the result is that of
    `dgl.nn.SAGEConv` with edge weights e and no weight on the node itself.
    """

    def __init__(self, size_in: int, size_out: int) -> None:
        super().__init__()
        self.rating = nn.Linear(size_in, size_out, bias=False)
        with torch.no_grad():
            # A mean of many centred ratings is small beside the other messages.
            self.rating.weight.mul_(_INITIAL_RATING_GAIN)
        self.log_damping = nn.Parameter(torch.tensor(math.log(_INITIAL_DAMPING)))

    def forward(self, block: Block, sources: Tensor) -> Tensor:
        """[S, size_in] sources -> [D, size_out]."""
        damping = self.log_damping.exp()
        shares = block.degrees / (block.degrees + damping)
        messages = map_and_aggregate(block, sources, self.rating, "mean", block.residuals)
        return messages * shares.unsqueeze(1)


class RelationConv(nn.Module):
    """All that comes along one relation: bare messages and, where switched on, rated ones."""

    def __init__(self, size: int, config: ModelConfig) -> None:
        super().__init__()
        self.bare = SAGEConv(size, size, config.aggregator)
        self.rated = RatingConv(size, size) if config.rating_messages else None

    def forward(self, block: Block, sources: Tensor, destinations: Tensor) -> Tensor:
        """[S, H] sources and [D, H] destinations -> [D, H]."""
        out: Tensor = self.bare(block, sources, destinations)
        if self.rated is not None:
            out = out + self.rated(block, sources)
        return out
