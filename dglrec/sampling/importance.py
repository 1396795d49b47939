"""Nodes drawn for a layer by their importance to its destinations, and their probabilities.

Shapes: C candidates, n nodes that are drawn.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from dglrec.graph import EdgeTensors
from dglrec.kernels import Excluded, Lists, add_importance
from dglrec.sampling.tensors import sum_neighbours, take

_CERTAIN = 1 + 1e-9  # larger chances are set to 1


class Drawn(NamedTuple):
    """The nodes that were drawn.

    Attributes:
        nodes: int64 [n], each once.
        chances: float64 [n], above 0 and at most 1; the probability that each is drawn.
    """

    nodes: Tensor
    chances: Tensor


class Wanted(NamedTuple):
    """A layer's destinations, for which nodes are drawn.

    Attributes:
        nodes: int64 [D] destinations.
        known: float32 [N]; above 0 for candidates that the layer reads in any case.
        excluded: the edges that are left out.
    """

    nodes: Tensor
    known: Tensor
    excluded: Excluded


def inclusion_chances(weights: Tensor, size: int) -> Tensor:
    """The probability of each of C candidates to be in a sample of `size` of them: float64 [C].

    Probabilities are in proportion to the weights, but at most 1, and add up to `size`; all are 1
    where there are not more candidates than `size`.

    Args:
        weights: float64 [C], above 0.
        size: of the sample, at least 1.
    """
    if len(weights) <= size:
        return torch.ones_like(weights)
    chances, certain = weights, torch.zeros_like(weights, dtype=torch.bool)
    while True:
        # A sequential sum, so that the chances do not depend on the number of threads.
        total = weights.masked_fill(certain, 0).cumsum(0)[-1]
        chances = weights * ((size - certain.sum()) / total)
        # Chances of 1 up to rounding are not set apart: the others would otherwise get 0.
        above = (chances > _CERTAIN) & ~certain
        if not above.any():
            return chances.masked_fill(certain, 1).clamp(max=1)
        certain |= above


def draw_systematically(until: Tensor, size: int, chance: Tensor) -> Tensor:
    """int64 [size] places of candidates, drawn with their inclusion probabilities.

    Systematic sampling with unequal probabilities (Madow, "On the theory of systematic sampling,
    II", Annals of Mathematical Statistics 20(3), 1949): one random number decides, and no candidate
    is drawn twice.

    Args:
        until: float64 [C] running sums of the chances, which add up to `size`.
        size: of the sample.
        chance: float64 scalar, at least 0 and below 1.
    """
    points = chance + torch.arange(size, device=until.device)
    # By rounding, the last sum may be below the last point.
    return torch.searchsorted(until, points, right=True).clamp_(max=len(until) - 1)


def worth_of_edges(degrees: Tensor) -> Tensor:
    """float64 [N]: the squared weight of an edge in each node's mean, from int64 [N] degrees."""
    return degrees.clamp(min=1).double().reciprocal().square()


class LayerDependent:
    """LADIES: the candidates are the destinations' neighbours, weighed by the destinations alone.

    A candidate's weight is the sum of 1 / d^2 over its neighbours among the destinations, the
    squared column norm of these rows of the mean's matrix (Zou et al., NeurIPS 2019, section 4.1).
    Candidates that the layer reads in any case are not drawn.

    Args:
        destinations: the ratings of the destinations' type.
        num_candidates: how many nodes of the other type there are.
        size: of a sample.
    """

    def __init__(self, destinations: Lists, num_candidates: int, size: int) -> None:
        self._lists, self._size = destinations, size
        self._worth = worth_of_edges(destinations.counts)
        # Scratch: all 0 except during a draw.
        self._sums = torch.zeros(num_candidates, dtype=torch.float64, device=self._worth.device)

    def draw(self, wanted: Wanted, chance: Tensor, seed_of_order: int) -> Drawn:
        """The nodes that a layer reads in addition to its known ones.

        Args:
            wanted: the layer's destinations.
            chance: float64 scalar, at least 0 and below 1; the random number that decides.
            seed_of_order: not used, as candidates come in the order of the destinations.
        """
        found = add_importance(
            wanted.nodes, self._lists, self._worth, wanted.known, wanted.excluded, self._sums
        )
        weights = take(self._sums, found)
        self._sums[found] = 0
        chances = inclusion_chances(weights, self._size)
        if len(found) > self._size:
            places = draw_systematically(chances.cumsum(0), self._size, chance)
            found, chances = take(found, places), take(chances, places)
        return Drawn(found, chances)


class LayerIndependent:
    """FastGCN: the candidates are all nodes, weighed by all nodes of the other type.

    A node's weight is the sum of 1 / d^2 over all its neighbours, the squared column norm of the
    mean's matrix (Chen et al., ICLR 2018, theorem 2 and algorithm 2). The cost of a draw is in
    proportion to its size.

    Args:
        destinations: the ratings of the destinations' type.
        candidates: the ratings of the other type.
        size: of a sample.
    """

    def __init__(self, destinations: EdgeTensors, candidates: EdgeTensors, size: int) -> None:
        self._rated = candidates.counts.nonzero().squeeze(1)
        weights = take(sum_neighbours(candidates, worth_of_edges(destinations.counts)), self._rated)
        self._chances_of_rated = inclusion_chances(weights, size)
        self._size = min(size, len(self._rated))
        self._put_in_order(0)

    def _put_in_order(self, seed: int) -> None:
        """Shuffle the nodes: systematic sampling rarely draws two that are side by side."""
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self._rated), generator=generator).to(self._rated.device)
        self._nodes, self._chances = take(self._rated, order), take(self._chances_of_rated, order)
        self._until, self._seed_of_order = self._chances.cumsum(0), seed

    def draw(self, wanted: Wanted, chance: Tensor, seed_of_order: int) -> Drawn:
        """As `LayerDependent.draw`, but independent of the destinations.

        Args:
            wanted: the layer's destinations.
            chance: float64 scalar, at least 0 and below 1; the random number that decides.
            seed_of_order: of the order of all nodes; a new order costs time, so use it for many
                draws.
        """
        if seed_of_order != self._seed_of_order:
            self._put_in_order(seed_of_order)
        places = draw_systematically(self._until, self._size, chance)
        places = places[take(wanted.known, take(self._nodes, places)) <= 0]
        return Drawn(take(self._nodes, places), take(self._chances, places))
