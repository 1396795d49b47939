"""Messages along one relation: block and source values in, destination values out.

Shapes: S sources, D destinations, K sampled edges, H embedding size.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from dglrec.blocks import Block
from dglrec.kernels import damp_means, fit_ridge, sum_messages
from dglrec.nn.config import Aggregator, ModelConfig
from dglrec.nn.decay import EdgeWeights, TimeDecay, mean_of

_INITIAL_DAMPING = 30.0  # ratings; learned from there
_INITIAL_RATING_GAIN = 2.0
_INITIAL_GUESS = 0.1  # of what an embedding explains: nearly nothing
_INITIAL_RIDGE = 3.0


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
        mode: what is taken over each destination's edges; "max" of values that are 0 or more, and
            of a block without weights.
        weights: [K] factors of the edges' messages, 0 where there is no edge; not with "max".
    """
    if mode == "max":
        neighbours = block.neighbours
        if block.present is not None:
            # What is not there reads a row of zeros, as a destination without edges gets.
            neighbours = neighbours.masked_fill(block.present == 0, len(sources))
            sources = functional.pad(sources, (0, 0, 0, 1))
        return functional.embedding_bag(
            neighbours,
            sources,
            block.offsets.to(block.neighbours.dtype),
            mode="max",
            include_last_offset=True,
        )
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


class SAGEConv(nn.Module):
    """GraphSAGE over one relation: W_self h + W_neighbour AGG(h_neighbours) + b.

    Hamilton, Ying and Leskovec, "Inductive representation learning on large graphs", NeurIPS
    2017, algorithm 1, lines 4-5; "pool" is its equation 3, the maximum of relu(W_pool h + b_pool).
    The same as `dgl.nn.SAGEConv` for "mean" and "pool". "sum" is the mean times the degree before
    sampling, so that a sample stands for the whole (Horvitz and Thompson, JASA 47, 1952).
    "attention" is a mean weighed by softmax(leaky_relu(a . W h_neighbour + b . h)) over a node's
    edges (Velickovic et al., "Graph attention networks", ICLR 2018, equation 3, one head, with the
    node itself left to W_self); each edge's row is written out, so it is for small graphs.

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
        attends = aggregator == "attention"
        self.attend = nn.Linear(size_out, 1, bias=False) if attends else None
        self.attend_own = nn.Linear(size_in, 1, bias=False) if attends else None

    def forward(
        self,
        block: Block,
        sources: Tensor,
        destinations: Tensor,
        decay: EdgeWeights | None = None,
    ) -> Tensor:
        """[S, size_in] sources and [D, size_in] destinations -> [D, size_out].

        `decay` weighs the edges of the aggregator "mean".
        """
        if self.pool is not None:
            messages = self.neighbour(aggregate(block, functional.relu(self.pool(sources)), "max"))
        elif self.attend is not None and self.attend_own is not None:
            mapped = self.neighbour(sources)
            of_sources, of_own = self.attend(mapped), self.attend_own(destinations)
            messages = _attend(block, mapped, of_sources.squeeze(1), of_own.squeeze(1))
        else:
            messages = map_and_aggregate(block, sources, self.neighbour, "mean", decay=decay)
            if self.aggregator == "sum":
                messages = messages * block.degrees.unsqueeze(1)
        out: Tensor = self.own(destinations) + messages
        return out


def _attend(block: Block, rows: Tensor, of_sources: Tensor, of_own: Tensor) -> Tensor:
    """[S, H] rows -> [D, H], each edge's weighed by the softmax of its two ends' scores.

    Weights and sums are float32 at least, whatever autocast makes of rows and scores.
    """
    count = block.num_destinations
    dtype = torch.promote_types(of_sources.dtype, torch.float32)
    of_sources, of_own = of_sources.to(dtype), of_own.to(dtype)
    owners = torch.repeat_interleave(block.offsets.diff(), output_size=len(block.neighbours))
    scores = functional.leaky_relu(
        of_sources.index_select(0, block.neighbours) + of_own.index_select(0, owners), 0.2
    )
    if block.present is not None:
        scores = scores.masked_fill(block.present == 0, -torch.inf)
    # Less each node's largest, so that nothing overflows.
    largest = (
        scores.detach()
        .new_zeros(count)
        .scatter_reduce(0, owners, scores.detach(), "amax", include_self=False)
    )
    # Where no edge is there the largest is -inf, and -inf - -inf no number.
    largest = largest.clamp(min=torch.finfo(dtype).min)
    weights = torch.exp(scores - largest[owners])
    totals = torch.zeros_like(largest).index_add(0, owners, weights)
    totals = totals.clamp(min=torch.finfo(dtype).tiny)
    weighed = (weights / totals[owners]).unsqueeze(1) * functional.embedding(block.neighbours, rows)
    return weighed.new_zeros(count, rows.shape[1]).index_add(0, owners, weighed)


class RatingConv(nn.Module):
    """What a node's neighbours say, weighed by how they were rated: W damped-mean(e h).

    e is an edge's rating less what biases explain. Over identity vectors this is the user factor
    of asymmetric SVD (Paterek, "Improving regularized singular value decomposition for
    collaborative filtering", KDD Cup 2007, section 3.7), there divided by the root of the degree
    and here damped like a bias: a mean over the sampled edges times n / (n + damping), n being the
    degree before sampling, so that samples of any size stand for the same whole, and a node with
    few ratings moves little. The damping is learned, for each column of the result. With it left
    out the result is that of `dgl.nn.SAGEConv` with edge weights e and no weight on the node
    itself. Where older ratings weigh less, the mean is weighed, and n is the number of equally
    weighed ratings that it stands for.
    """

    def __init__(self, size_in: int, size_out: int, *, by_column: bool = True) -> None:
        super().__init__()
        self.rating = nn.Linear(size_in, size_out, bias=False)
        with torch.no_grad():
            # A mean of many centred ratings is small beside the other messages.
            self.rating.weight.mul_(_INITIAL_RATING_GAIN)
        self.log_damping = _log_damping(size_out if by_column else 1, _INITIAL_DAMPING)

    @property
    def damping(self) -> Tensor:
        """[size_out], above 0."""
        return self.log_damping.exp().expand(len(self.rating.weight))

    def forward(self, block: Block, sources: Tensor, decay: EdgeWeights | None = None) -> Tensor:
        """[S, size_in] sources -> [D, size_out]."""
        messages = map_and_aggregate(block, sources, self.rating, "mean", block.residuals, decay)
        if decay is None:
            return damp_means(messages, block.degrees, self.damping)
        # Written out, as the kernel gives the degrees no gradient.
        degrees = (block.degrees * decay.effective).unsqueeze(1)
        return messages * (degrees / (degrees + self.damping))


class RefinementConv(nn.Module):
    """What nodes' ratings say beyond their embeddings: W delta, by a ridge regression a node.

    With h a destination's embedding, its guess is p = P h, and a source is seen as q = Q h_j;
    delta is what moves p to where it explains the ratings e (those of `RatingConv`) best:

        delta = argmin over d of sum (e - (p + d) . q)^2 + sum of damping * d^2

    A mean of e q takes a taste for one kind of item for a taste for every kind that comes with it;
    this does not. It is the user's half-step of alternating least squares (Koren, Bell and
    Volinsky, "Matrix factorization techniques for recommender systems", 2009) with a prior that
    the graph gives, as a layer (Bertinetto, Henriques, Torr and Vedaldi, "Meta-learning with
    differentiable closed-form solvers", ICLR 2019). The damping is learned.

    Args:
        size: width of sources, destinations and the result.
        width: of the regression.
        by_column: whether the damping is learned for each of its columns.
        time_decay: whether older ratings weigh less, at a rate that is learned.
    """

    def __init__(
        self, size: int, width: int, *, by_column: bool = True, time_decay: bool = False
    ) -> None:
        super().__init__()
        self.source = nn.Linear(size, width, bias=False)
        self.guess = nn.Linear(size, width, bias=False)
        self.out = nn.Linear(width, size, bias=False)
        with torch.no_grad():
            self.guess.weight.mul_(_INITIAL_GUESS)
        self.log_damping = _log_damping(width if by_column else 1, _INITIAL_RIDGE)
        self.decay = TimeDecay() if time_decay else None

    @property
    def damping(self) -> Tensor:
        """[width], above 0."""
        return self.log_damping.exp().expand(len(self.source.weight))

    def forward(self, block: Block, sources: Tensor, destinations: Tensor) -> Tensor:
        """[S, size] sources and [D, size] destinations -> [D, size]."""
        decay = None if self.decay is None else self.decay(block)
        delta = fit_ridge(
            block.offsets,
            block.neighbours,
            self.source(sources),
            self.guess(destinations),
            block.residuals,
            self.damping,
            block.present,
            block.weights if decay is None else decay.of_ridge(block),
        )
        out: Tensor = self.out(delta)
        return out


def _log_damping(columns: int, initial: float) -> nn.Parameter:
    return nn.Parameter(torch.full((columns,), math.log(initial)))


class RelationConv(nn.Module):
    """All that comes along one relation: bare messages and, where switched on, rated ones."""

    def __init__(self, size: int, config: ModelConfig) -> None:
        super().__init__()
        self.bare = SAGEConv(size, size, config.aggregator)
        self.rated = None
        if config.rating_messages:
            self.rated = RatingConv(size, size, by_column=config.column_damping)
        self.decay = TimeDecay() if config.time_decay else None

    def forward(self, block: Block, sources: Tensor, destinations: Tensor) -> Tensor:
        """[S, H] sources and [D, H] destinations -> [D, H]."""
        decay = None if self.decay is None else self.decay(block)
        out: Tensor = self.bare(block, sources, destinations, decay)
        if self.rated is not None:
            out = out + self.rated(block, sources, decay)
        return out

    def without_edges(self, destinations: Tensor) -> Tensor:
        """[D, H] destinations that have no edge -> [D, H]; what `forward` gives for them."""
        out: Tensor = self.bare.own(destinations)
        return out
