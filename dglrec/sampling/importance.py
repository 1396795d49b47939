"""Nodes drawn for a layer by how much they tell its destinations, and how likely each is drawn.

Shapes: C candidates, n nodes that are drawn.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from dglrec.graph import EdgeTensors
from dglrec.kernels import Left, Lists, add_importance
from dglrec.sampling.tensors import sum_neighbours, take

_CERTAIN = 1 + 1e-9  # a chance above it is 1


class Drawn(NamedTuple):
    """What was drawn.

    Attributes:
        nodes: int64 [n], each once.
        chances: float64 [n], above 0 and at most 1; how likely each was to be drawn.
    """

    nodes: Tensor
    chances: Tensor


class Wanted(NamedTuple):
    """What nodes are drawn for.

    Attributes:
        nodes: int64 [D] destinations.
        known: float32 [N]; above 0 for candidates that are there anyway.
        left: the edges that are left out.
    """

    nodes: Tensor
    known: Tensor
    left: Left


def inclusion_chances(weights: Tensor, size: int) -> Tensor:
    """How likely each of C candidates is in a sample of `size` of them: float64 [C].

    In proportion to weights, but at most 1, so that the chances add up to `size`; 1 for all where
    there are no more.

    Args:
        weights: float64 [C], above 0.
        size: of the sample, at least 1.
    """
    if len(weights) <= size:
        return torch.ones_like(weights)
    chances, certain = weights, torch.zeros_like(weights, dtype=torch.bool)
    while True:
        # Summed one after the other, so that the chances do not depend on the number of threads.
        total = weights.masked_fill(certain, 0).cumsum(0)[-1]
        chances = weights * ((size - certain.sum()) / total)
        # What is 1 but for rounding stays beside the others, whose chances would else be 0.
        above = (chances > _CERTAIN) & ~certain
        if not above.any():
            return chances.masked_fill(certain, 1).clamp(max=1)
        certain |= above


def draw_systematically(until: Tensor, size: int, chance: Tensor) -> Tensor:
    """int64 [size] places of candidates, drawn as likely as their inclusion chances say.

    Systematic sampling with unequal chances (Madow, "On the theory of systematic sampling, II",
    Annals of Mathematical Statistics 20(3), 1949): one number decides, and none comes twice.

    Args:
        until: float64 [C] running sums of the chances, which add up to `size`.
        size: of the sample.
        chance: float64 scalar, at least 0 and below 1.
    """
    points = chance + torch.arange(size, device=until.device)
    # A sum that was rounded may end below the last point.
    return torch.searchsorted(until, points, right=True).clamp_(max=len(until) - 1)


def worth_of_edges(degrees: Tensor) -> Tensor:
    """float64 [N]: the square of what an edge weighs in the mean of each of N nodes, int64 [N]."""
    return degrees.clamp(min=1).double().reciprocal().square()


class LayerDependent:
    """LADIES: the candidates are neighbours of the destinations, which are drawn by these alone.

    A neighbour's weight is the sum over the destinations that it is a neighbour of of 1 / d^2, the
    squared column norm of these rows of the mean's matrix (Zou et al., NeurIPS 2019, section 4.1).
    Destinations that are candidates too are there anyway, and are not drawn.

    Args:
        destinations: the ratings of the destinations' type.
        num_candidates: nodes of the other type.
        size: of a sample.
    """

    def __init__(self, destinations: Lists, num_candidates: int, size: int) -> None:
        self._lists, self._size = destinations, size
        self._worth = worth_of_edges(destinations.counts)
        # Scratch, 0 but for what a draw writes and takes out again.
        self._sums = torch.zeros(num_candidates, dtype=torch.float64, device=self._worth.device)

    def draw(self, wanted: Wanted, chance: Tensor, seed_of_order: int) -> Drawn:
        """The nodes that a layer's destinations read beside those that are there anyway.

        Args:
            wanted: what is drawn for.
            chance: float64 scalar, at least 0 and below 1, which decides.
            seed_of_order: of no use here, where candidates come in the order of the destinations.
        """
        found = add_importance(
            wanted.nodes, self._lists, self._worth, wanted.known, wanted.left, self._sums
        )
        weights = take(self._sums, found)
        self._sums[found] = 0
        chances = inclusion_chances(weights, self._size)
        if len(found) > self._size:
            places = draw_systematically(chances.cumsum(0), self._size, chance)
            found, chances = take(found, places), take(chances, places)
        return Drawn(found, chances)


class LayerIndependent:
    """FastGCN: the candidates are all nodes, by what they tell those of the other type altogether.

    A node's weight is the sum over all of its neighbours of 1 / d^2, the squared column norm of the
    mean's matrix (Chen et al., ICLR 2018, theorem 2 and algorithm 2). A draw costs what it draws.

    Args:
        destinations: the ratings of the destinations' type.
        candidates: those of the other type.
        size: of a sample.
    """

    def __init__(self, destinations: EdgeTensors, candidates: EdgeTensors, size: int) -> None:
        self._rated = candidates.counts.nonzero().squeeze(1)
        weights = take(sum_neighbours(candidates, worth_of_edges(destinations.counts)), self._rated)
        self._chances_of_rated = inclusion_chances(weights, size)
        self._size = min(size, len(self._rated))
        self._put_in_order(0)

    def _put_in_order(self, seed: int) -> None:
        """Nodes that stand side by side are hardly drawn together, so their order is by chance."""
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self._rated), generator=generator).to(self._rated.device)
        self._nodes, self._chances = take(self._rated, order), take(self._chances_of_rated, order)
        self._until, self._seed_of_order = self._chances.cumsum(0), seed

    def draw(self, wanted: Wanted, chance: Tensor, seed_of_order: int) -> Drawn:
        """As `LayerDependent.draw`, whatever the destinations are.

        Args:
            wanted: what is drawn for.
            chance: float64 scalar, at least 0 and below 1, which decides.
            seed_of_order: in which order all nodes are put; best the same for many draws.
        """
        if seed_of_order != self._seed_of_order:
            self._put_in_order(seed_of_order)
        places = draw_systematically(self._until, self._size, chance)
        places = places[take(wanted.known, take(self._nodes, places)) <= 0]
        return Drawn(take(self._nodes, places), take(self._chances, places))
