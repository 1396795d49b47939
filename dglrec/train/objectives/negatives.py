"""The negatives of a step: items that are compared with positives, never the user's training items.

Shapes: n users of a step, B targets, M items of a pool, K training items of the users.
"""

import numpy as np
import torch
from torch import Tensor

from dglrec.blocks import Pool
from dglrec.derived import related_items
from dglrec.graph import RatingGraph
from dglrec.train.objectives.config import RankingConfig


class KnownItems:
    """The training items of each user, which are never negatives of its targets.

    Args:
        graph: the training ratings.
        device: the device of the items.
    """

    def __init__(self, graph: RatingGraph, device: torch.device) -> None:
        by_user, _ = graph.on(device)
        self._starts, self._counts = by_user.starts, by_user.counts
        self._items = by_user.neighbours

    def of(self, users: Tensor) -> tuple[Tensor, Tensor]:
        """The training items of n users, user after user.

        Args:
            users: int64 [n], indices of the data set.

        Returns:
            int64 [n + 1] offsets of each user's items, and int64 [K] the items.
        """
        counts = self._counts.index_select(0, users)
        ends = counts.cumsum(0)
        total = int(ends[-1]) if len(ends) else 0
        shifts = self._starts.index_select(0, users) - (ends - counts)
        places = torch.arange(total, device=users.device)
        places += torch.repeat_interleave(shifts, counts, output_size=total)
        offsets = torch.cat((ends.new_zeros(1), ends))
        return offsets, self._items.index_select(0, places).long()


class RelatedSampler:
    """Samples hard negatives: items that are somewhat related to the user.

    Ying et al., "Graph convolutional neural networks for web-scale recommender systems", KDD 2018,
    section 3.3: items in a range of places by personalised PageRank with respect to the query,
    which is an item there and the user here. They depend on the training ratings alone, so that a
    resumed training finds the same items.

    Args:
        config: the range of places, and the number of hops.
        graph: the training ratings.
        device: the device of the samples.
    """

    def __init__(self, config: RankingConfig, graph: RatingGraph, device: torch.device) -> None:
        first, last = config.related_places
        found = related_items(graph, first=first, last=last, hops=config.related_hops)
        self._items = torch.from_numpy(found.items).to(device)
        self._counts = torch.from_numpy(found.counts).to(device)

    def draw(self, users: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Sample k related items for each of B users, with replacement.

        Args:
            users: int64 [B], indices of the data set.
            count: k.

        Returns:
            int64 [B, k] items, and bool [B, 1] whether the user has any related items; the items of
            a user without any are arbitrary.
        """
        counts = self._counts.index_select(0, users).unsqueeze(1)
        chances = torch.rand(len(users), count, device=users.device)
        # In float32 the product may round up to the count.
        places = torch.minimum((chances * counts).long(), (counts - 1).clamp(min=0))
        return self._items[users.unsqueeze(1), places].long(), counts > 0


class PoolSampler:
    """Samples the pool of negatives of a step.

    Args:
        config: which items are sampled, and how many; resolved.
        graph: the training ratings.
        device: the device of the pools.
        least: the lowest rating of a positive target.

    Raises:
        ValueError: the configuration's negatives are not resolved, or are not a pool.
    """

    def __init__(
        self, config: RankingConfig, graph: RatingGraph, device: torch.device, least: float
    ) -> None:
        self._kind, self._least = config.negatives, least
        if self._kind in ("auto", "catalogue"):
            raise ValueError(f"negatives {self._kind} are no pool; see RankingConfig.resolved")
        self._count, self._correction = config.pool, config.correction
        self._num_items = graph.num_items
        degrees = torch.from_numpy(graph.by_item.degrees.astype(np.float64)).to(device)
        alpha = {"popularity": config.alpha, "in_batch": 1.0}.get(self._kind, 0.0)
        # Only the uniform pool contains items without ratings.
        weights = degrees.pow(alpha) if alpha else torch.ones_like(degrees)
        self._ends = (weights / weights.sum()).cumsum(0)
        self._log_shares = (weights / weights.sum()).log().float()

    @property
    def least(self) -> float | None:
        """The lowest rating of a target whose item may be sampled; None where any item may be."""
        return self._least if self._kind == "in_batch" else None

    def __call__(self, items: Tensor, ratings: Tensor, generator: torch.Generator) -> Pool:
        """A pool for a step; it may be empty if the step has no positive.

        Args:
            items: int32 or int64 [B] the items of the step's targets.
            ratings: float32 [B] the ratings of the targets.
            generator: on the device of the pools.
        """
        if self._kind == "in_batch":
            liked = items.masked_select(ratings >= self._least)
            chosen = self.numbers(len(liked), generator)
            drawn = liked.index_select(0, chosen if len(liked) else chosen[:0]).long()
        else:
            drawn = self._items_at(self.numbers(0, generator))
        found, counts = torch.unique(drawn, return_counts=True)
        return Pool(found, found, self._log_weights(found, counts))

    def numbers(self, liked: int, generator: torch.Generator) -> Tensor:
        """Random numbers that select items: [M] positions among liked targets, or shares in [0, 1).

        Args:
            liked: the number of targets with a rating of `least` or more.
            generator: determines the device of the numbers.
        """
        shape, device = (self._count,), generator.device
        if self._kind == "in_batch":
            return torch.randint(max(liked, 1), shape, generator=generator, device=device)
        return torch.rand(shape, generator=generator, device=device, dtype=torch.float64)

    def fixed(self, numbers: Tensor, items: Tensor, ratings: Tensor, present: Tensor) -> Pool:
        """The pool that `numbers` select, of fixed shape: room for the most items, and one more.

        Args:
            numbers: [M], from `numbers`.
            items: int64 [B] the items of the step's targets.
            ratings: float32 [B] the ratings of the targets.
            present: float32 [B]; 1 for a target, 0 for padding.
        """
        if self._kind == "in_batch":
            until = ((ratings >= self._least) & (present > 0)).cumsum(0)
            places = torch.searchsorted(until, numbers + 1).clamp_(max=len(items) - 1)
            drawn = items.index_select(0, places)
        else:
            drawn = self._items_at(numbers)
        drawn = drawn.sort().values
        is_first = torch.ones_like(drawn, dtype=torch.bool)
        is_first[1:] = drawn[1:] != drawn[:-1]
        until = is_first.cumsum(0)
        room = min(self._count, self._num_items) + 1
        found = drawn.new_full((room,), self._num_items).scatter_(0, until - 1, drawn)
        counts = torch.zeros_like(found).scatter_add_(0, until - 1, torch.ones_like(drawn))
        rows = found.clamp(max=self._num_items - 1)
        weights = self._log_weights(rows, counts).masked_fill(counts == 0, -torch.inf)
        return Pool(found, rows, weights, until[-1])

    def _items_at(self, shares: Tensor) -> Tensor:
        """int64 [M] the items at these shares, 0 to 1, of the cumulated weights."""
        found = torch.searchsorted(self._ends, shares, right=True)
        return found.clamp_(max=self._num_items - 1)

    def _log_weights(self, items: Tensor, counts: Tensor) -> Tensor:
        """float32 [n] the `Pool.log_weights` of items with these numbers of draws."""
        expected = self._log_shares.index_select(0, items) * self._correction
        if self._correction:
            # With this term the sum over the pool estimates the sum over the catalogue.
            expected = expected + np.log(self._count)
        return counts.float().log() - expected


def known_in(pool: Tensor, offsets: Tensor, known: Tensor) -> Tensor:
    """Whether an item of the pool is a training item of a user, bool [n, M].

    Args:
        pool: int64 [M] items, ascending.
        offsets: int64 [n + 1], from `KnownItems.of`.
        known: int64 [K], from `KnownItems.of`.
    """
    offsets, places = known_places(pool, offsets, known)
    hidden = torch.zeros(len(offsets) - 1, len(pool), dtype=torch.bool, device=pool.device)
    hidden[torch.repeat_interleave(offsets.diff(), output_size=len(places)), places] = True
    return hidden


def known_places(pool: Tensor, offsets: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """The positions in a pool of each user's training items, user after user.

    Args:
        pool: int64 [M] items, ascending.
        offsets: int64 [n + 1], from `KnownItems.of`.
        known: int64 [K], from `KnownItems.of`.

    Returns:
        int64 [n + 1] offsets of each user's positions, and int64 [P] the positions, 0..M-1.
    """
    places = torch.searchsorted(pool, known).clamp_(max=len(pool) - 1)
    found = pool.index_select(0, places) == known
    before = torch.cat((offsets.new_zeros(1), found.cumsum(0)))
    return before.index_select(0, offsets), places.masked_select(found)
