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

_INITIAL_DAMPING = 30.0  # ratings; where learning starts
_INITIAL_RATING_GAIN = 2.0
_INITIAL_GUESS = 0.1  # so that the guess explains nearly nothing at first
_INITIAL_RIDGE = 3.0
_INITIAL_TREND_RIDGE = 10.0  # a trend needs more ratings than a level


class RatingConv(nn.Module):
    """Messages weighed by the edges' ratings: W damped-mean(e h).

    e is an edge's rating less its biases. Over identity vectors this is the user factor of
    asymmetric SVD (Paterek, "Improving regularized singular value decomposition for collaborative
    filtering", KDD Cup 2007, section 3.7), except that the sum is not divided by the root of the
    degree but damped like a bias: a mean over the sampled edges times n / (n + damping), with n the
    degree before sampling. So the result does not depend on the size of the sample, and a node with
    few ratings moves little. The damping is learned, for each column of the result. Without damping
    the result is that of `dgl.nn.SAGEConv` with edge weights e and no weight on the node itself.
    Where older ratings weigh less, the mean is a weighted one, and n the equivalent number of
    equally weighted ratings.
    """

    def __init__(self, size_in: int, size_out: int, *, by_column: bool = True) -> None:
        super().__init__()
        self.rating = nn.Linear(size_in, size_out, bias=False)
        with torch.no_grad():
            # A mean of many centred ratings is small compared with the other messages.
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
        # Not `damp_means`, which gives the degrees no gradient.
        degrees = (block.degrees * decay.effective).unsqueeze(1)
        return messages * (degrees / (degrees + self.damping))


class RefinementConv(nn.Module):
    """Corrects embeddings by a ridge regression on each node's ratings: W delta.

    A destination's embedding h gives the guess p = P h, and a source's embedding h_j gives
    q = Q h_j; delta moves p to the best fit of the ratings e (those of `RatingConv`):

        delta = argmin over d of sum (e - (p + d) . q)^2 + sum of damping * d^2

    A mean of e q cannot tell a taste for a kind of item from a taste for correlated kinds; a
    regression can. It is the user's half-step of alternating least squares (Koren, Bell and
    Volinsky, "Matrix factorization techniques for recommender systems", 2009) with a prior from
    the graph, as a layer (Bertinetto, Henriques, Torr and Vedaldi, "Meta-learning with
    differentiable closed-form solvers", ICLR 2019). The damping is learned. Where edges have
    weights, the expectations of both sides of the equations are those over all edges, but that of
    delta is not.

    With `time_trend` a taste is a line in time, delta + t * slope, where t is minus an edge's age.
    Both are fitted together, with separate dampings, and the guess has no slope. The result is the
    line at a learned t, which starts at 0, the time of the latest edge. Koren ("Collaborative
    filtering with temporal dynamics", KDD 2009, on time-changing factor models) has such a trend in
    users' factors. Edges of unknown ages count as simultaneous.

    Args:
        size: width of sources, destinations and the result.
        width: columns of the regression.
        by_column: whether each of these columns has a damping, or all share one.
        time_decay: whether older ratings weigh less, at a learned rate.
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
        """A ridge regression of twice the width, with a separate row for each edge."""
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
    """All messages along one relation: bare ones and, if switched on, those weighed by ratings."""

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
        # The configuration refuses `time_decay` with convolutions that take no weights.
        weights = () if decay is None else (decay,)
        out: Tensor = self.bare(block, sources, destinations, *weights)
        if self.rated is not None:
            out = out + self.rated(block, sources, decay)
        return out

    def without_edges(self, destinations: Tensor) -> Tensor:
        """[D, H] destinations that have no edge -> [D, H]; the same as `forward` for them."""
        return self.bare.without_edges(destinations)
