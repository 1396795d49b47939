"""Time decay: older ratings weigh less than newer ones, by a learned half-life.

An edge of age a, counted from its destination's latest edge, weighs w = exp(-r a), with a learned
rate r: its half-life is ln 2 / r. The rate starts at 0, where all edges weigh the same, and cannot
become negative. Koren ("Collaborative filtering with temporal dynamics", KDD 2009, section 5.2)
uses such exponential forgetting between the ratings of a user.

The weights of a destination's edges are divided by their mean, so adding the same time to all its
ages changes nothing: only differences of time within a node count. The equivalent number of equally
weighted ratings is Kish's effective sample size ("Survey sampling", 1965, section 11.7),
(sum of w)^2 / sum of w^2.

Shapes: D destinations, K edges, S sources, H columns.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import Function

from dglrec.blocks import Block
from dglrec.kernels import sum_messages

_GAIN = 4.0  # so that some hundred steps reach half-lives of any scale


class EdgeWeights(NamedTuple):
    """Weights of K edges of D destinations.

    Attributes:
        shares: float32 [K]; u, whose mean over each destination's edges is 1.
        slopes: float32 [K]; the derivative of u with respect to the rate.
        growth: []; 0, with derivative 1 with respect to the rate.
        effective: float32 [D], above 0 and at most 1; a destination's effective sample size over
            its number of edges; 1 without edges.
    """

    shares: Tensor
    slopes: Tensor
    growth: Tensor
    effective: Tensor

    def of_ridge(self, block: Block) -> Tensor:
        """float32 [K] weights whose sum over a destination's edges is its effective sample size."""
        owners = torch.repeat_interleave(block.offsets.diff(), output_size=len(self.shares))
        return self.shares * self.effective.index_select(0, owners)


class TimeDecay(nn.Module):
    """The learned rate of one direction of one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.zeros(()))

    @property
    def rate(self) -> Tensor:
        """[], 0 or more, per unit of time of the block's ages."""
        rate: Tensor = _NotNegative.apply(self.strength)  # type: ignore[no-untyped-call]
        return torch.expm1(_GAIN * rate)

    @property
    def half_life(self) -> float:
        """In units of time of the block's ages; infinite while all edges weigh the same."""
        rate = float(self.rate.detach())
        return math.log(2) / rate if rate else math.inf

    def forward(self, block: Block) -> EdgeWeights | None:
        """The weights of a block's edges; None for a block without ages."""
        if block.ages is None:
            return None
        counts = block.offsets.diff()
        owners = torch.repeat_interleave(counts, output_size=len(block.ages))
        empty = (counts == 0).to(block.ages.dtype)

        def sums(values: Tensor) -> Tensor:
            # 1 for a destination without edges, so that nothing is divided by 0.
            return empty.index_add(0, owners, values)

        rate = self.rate
        weights = torch.exp(-rate * block.ages)
        total, count = sums(weights), counts.clamp(min=1)
        shares = weights * (count / total).index_select(0, owners)
        with torch.no_grad():
            mean_ages = sums(shares * block.ages) / count
            slopes = shares * (mean_ages.index_select(0, owners) - block.ages)
        effective = total.square() / (count * sums(weights.square()))
        return EdgeWeights(shares, slopes, rate - rate.detach(), effective)


def half_lives(model: nn.Module, units: tuple[float, float]) -> dict[str, float | None]:
    """The half-lives of a model by the names of the modules that have them; None for infinite.

    Args:
        model: with or without time decay.
        units: of time, of users' edges and of items' edges; see `RatingGraph.time_units`.
    """
    found: dict[str, float | None] = {}
    for name, module in model.named_modules():
        if isinstance(module, TimeDecay):
            owner = name.rpartition(".")[0]
            value = module.half_life * units[owner.endswith("to_items")]
            found[owner] = value if math.isfinite(value) else None
    return found


def mean_of(
    block: Block, sources: Tensor, weights: EdgeWeights, factors: Tensor | None = None
) -> Tensor:
    """[S, H] source values -> [D, H], their weighed means over each destination's edges.

    The kernel gives the weights no gradient. All weights depend on the rate alone, so its gradient
    comes from a second mean, weighed by the weights' derivatives.

    Args:
        block: the edges.
        sources: [S, H].
        weights: of the edges.
        factors: [K]; these also multiply the edges' messages.
    """

    def mean(of_edges: Tensor, rows: Tensor) -> Tensor:
        of_edges = of_edges if factors is None else of_edges * factors
        return sum_messages(block.offsets, block.neighbours, rows, of_edges, mean=True)

    out = mean(weights.shares, sources)
    if torch.is_grad_enabled() and weights.growth.requires_grad:
        with torch.no_grad():
            slopes = mean(weights.slopes, sources)
        out = out + weights.growth * slopes
    return out


class _NotNegative(Function):
    """The larger of a number and 0; learning can still raise it from 0.

    The gradient passes unchanged, except that a number at or below 0 is not lowered further.
    """

    @staticmethod
    def forward(ctx: Any, number: Tensor) -> Tensor:
        ctx.save_for_backward(number)
        return number.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (number,) = ctx.saved_tensors
        return gradient.masked_fill((number <= 0) & (gradient > 0), 0.0)
