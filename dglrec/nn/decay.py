"""How much less an older rating says than a newer one: a learned half-life.

An edge that is a older than its destination's latest one weighs w = exp(-r a), with a rate r that
is learned: its half-life is ln 2 / r. The rate begins at 0, where all edges weigh the same, and
cannot fall below it. Exponential forgetting by age is what Koren ("Collaborative filtering with
temporal dynamics", KDD 2009, section 5.2) takes between the ratings of a user.

What is made of the weights does not change where all of a destination's ages grow by the same, so
only differences of time within a node count. Weights of the edges of one destination are taken over
their mean; and how many equally weighed ratings they stand for is Kish's effective sample size
("Survey sampling", 1965, section 11.7), (sum of w)^2 / sum of w^2.

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
        shares: float32 [K] u, whose mean over each destination's edges is 1.
        slopes: float32 [K]; the derivative of u by the rate.
        growth: [], 0, whose derivative by the rate is 1.
        effective: float32 [D], above 0 and at most 1: for how many equally weighed edges a
            destination's stand, over how many they are; 1 without edges.
    """

    shares: Tensor
    slopes: Tensor
    growth: Tensor
    effective: Tensor

    def of_ridge(self, block: Block) -> Tensor:
        """float32 [K]; weights whose sum over each destination is its effective number of edges."""
        owners = torch.repeat_interleave(block.offsets.diff(), output_size=len(self.shares))
        return self.shares * self.effective.index_select(0, owners)


class TimeDecay(nn.Module):
    """The rate of one direction of one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.zeros(()))

    @property
    def rate(self) -> Tensor:
        """[], 0 or more, a unit of time of the block's ages."""
        rate: Tensor = _NotNegative.apply(self.strength)  # type: ignore[no-untyped-call]
        return torch.expm1(_GAIN * rate)

    @property
    def half_life(self) -> float:
        """In units of time of the block's ages; infinite where all edges weigh the same."""
        rate = float(self.rate.detach())
        return math.log(2) / rate if rate else math.inf

    def forward(self, block: Block) -> EdgeWeights | None:
        """The weights of a block's edges; None where it does not know their ages."""
        if block.ages is None:
            return None
        counts = block.offsets.diff()
        owners = torch.repeat_interleave(counts, output_size=len(block.ages))
        empty = (counts == 0).to(block.ages.dtype)

        def sums(values: Tensor) -> Tensor:
            # A destination without edges sums up to 1, so that nothing is divided by 0.
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
    """The half-lives of a model by what has them; None for those that are infinite.

    Args:
        model: any.
        units: of time, of users' and of items' edges; see `RatingGraph.time_units`.
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

    The sum's kernel gives the weights no gradient. As one rate decides all of them, its gradient is
    that of one more mean, with the weights' derivatives for weights.

    Args:
        block: the edges.
        sources: [S, H].
        weights: of the edges.
        factors: [K] that multiply the edges' messages besides.
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
    """The number itself, or 0 where it is below; at 0 it can be learned upwards.

    The gradient is that of the number, but for one that would lower what is 0 or less already.
    """

    @staticmethod
    def forward(ctx: Any, number: Tensor) -> Tensor:
        ctx.save_for_backward(number)
        return number.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (number,) = ctx.saved_tensors
        return gradient.masked_fill((number <= 0) & (gradient > 0), 0.0)
