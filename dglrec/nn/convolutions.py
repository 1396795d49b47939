"""Messages along one relation: block and source values in, destination values out.

Shapes: S sources, D destinations, K sampled edges, H embedding size.
"""

import math

import torch
from torch import Tensor, nn

from dglrec.blocks import Block
from dglrec.kernels import damp_means, fit_ridge
from dglrec.nn.aggregation import map_and_aggregate
from dglrec.nn.bare import make_convolution
from dglrec.nn.config import ModelConfig
from dglrec.nn.decay import EdgeWeights, TimeDecay

_INITIAL_DAMPING = 30.0  # ratings; learned from there
_INITIAL_RATING_GAIN = 2.0
_INITIAL_GUESS = 0.1  # of what an embedding explains: nearly nothing
_INITIAL_RIDGE = 3.0
_INITIAL_TREND_RIDGE = 10.0  # a trend has to show in more ratings than a level


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
    differentiable closed-form solvers", ICLR 2019). The damping is learned. Where edges have
    weights both sides of its equations are in expectation those of all edges, and delta is not.

    With `time_trend` a taste is a line in time, delta + t * slope, t being minus an edge's age:
    both are fitted at once, each with its own damping, and the guess has no slope. The result is
    the line at one learned t, at first 0, the time of the latest edge. Koren ("Collaborative
    filtering with temporal dynamics", KDD 2009, on time-changing factor models) has a trend in
    time as one part of the factors of users. Edges whose ages are not known are all of one time.

    Args:
        size: width of sources, destinations and the result.
        width: of the regression.
        by_column: whether the damping is learned for each of its columns.
        time_decay: whether older ratings weigh less, at a rate that is learned.
        time_trend: whether tastes are lines in time.
    """

    def __init__(
        self,
        size: int,
        width: int,
        *,
        by_column: bool = True,
        time_decay: bool = False,
        time_trend: bool = False,
    ) -> None:
        super().__init__()
        self.source = nn.Linear(size, width, bias=False)
        self.guess = nn.Linear(size, width, bias=False)
        self.out = nn.Linear(width, size, bias=False)
        with torch.no_grad():
            self.guess.weight.mul_(_INITIAL_GUESS)
        self.log_damping = _log_damping(width if by_column else 1, _INITIAL_RIDGE)
        self.decay = TimeDecay() if time_decay else None
        self.log_trend_damping = self.ahead = None
        if time_trend:
            self.log_trend_damping = _log_damping(width if by_column else 1, _INITIAL_TREND_RIDGE)
            self.ahead = nn.Parameter(torch.zeros(()))

    @property
    def damping(self) -> Tensor:
        """[width], above 0."""
        return self.log_damping.exp().expand(len(self.source.weight))

    def forward(self, block: Block, sources: Tensor, destinations: Tensor) -> Tensor:
        """[S, size] sources and [D, size] destinations -> [D, size]."""
        decay = None if self.decay is None else self.decay(block)
        weights = block.weights if decay is None else decay.of_ridge(block)
        rows, guess = self.source(sources), self.guess(destinations)
        fit = self._fit_point if block.ages is None or self.ahead is None else self._fit_line
        out: Tensor = self.out(fit(block, rows, guess, weights))
        return out

    def _fit_point(
        self, block: Block, rows: Tensor, guess: Tensor, weights: Tensor | None
    ) -> Tensor:
        return fit_ridge(
            block.offsets,
            block.neighbours,
            rows,
            guess,
            block.residuals,
            self.damping,
            block.present,
            weights,
        )

    def _fit_line(
        self, block: Block, rows: Tensor, guess: Tensor, weights: Tensor | None
    ) -> Tensor:
        """As a ridge regression twice as wide, in which each edge has a row of its own."""
        assert block.ages is not None
        assert self.log_trend_damping is not None
        assert self.ahead is not None
        of_edges = rows.index_select(0, block.neighbours.long())
        of_edges = torch.cat((of_edges, of_edges * -block.ages.unsqueeze(1)), dim=1)
        fitted = fit_ridge(
            block.offsets,
            torch.arange(len(of_edges), device=of_edges.device),
            of_edges,
            torch.cat((guess, torch.zeros_like(guess)), dim=1),
            block.residuals,
            torch.cat((self.damping, self.log_trend_damping.exp().expand_as(self.damping))),
            block.present,
            weights,
        )
        level, slope = fitted.chunk(2, dim=1)
        return level + self.ahead * slope


def _log_damping(columns: int, initial: float) -> nn.Parameter:
    return nn.Parameter(torch.full((columns,), math.log(initial)))


class RelationConv(nn.Module):
    """All that comes along one relation: bare messages and, where switched on, rated ones."""

    def __init__(self, size: int, config: ModelConfig) -> None:
        super().__init__()
        self.bare = make_convolution(size, config)
        self.rated = None
        if config.rating_messages:
            self.rated = RatingConv(size, size, by_column=config.column_damping)
        self.decay = TimeDecay() if config.time_decay else None

    def forward(self, block: Block, sources: Tensor, destinations: Tensor) -> Tensor:
        """[S, H] sources and [D, H] destinations -> [D, H]."""
        decay = None if self.decay is None else self.decay(block)
        # Which convolutions weigh their edges the configuration says.
        weights = () if decay is None else (decay,)
        out: Tensor = self.bare(block, sources, destinations, *weights)
        if self.rated is not None:
            out = out + self.rated(block, sources, decay)
        return out

    def without_edges(self, destinations: Tensor) -> Tensor:
        """[D, H] destinations that have no edge -> [D, H]; what `forward` gives for them."""
        return self.bare.without_edges(destinations)
