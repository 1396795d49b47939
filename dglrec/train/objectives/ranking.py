"""What a place in a list costs.

Shapes: n users of a batch, B positive targets, M items of a pool, F factors, k negatives a target,
r related ones among them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from dglrec.blocks import Pool
from dglrec.errors import UsageError
from dglrec.kernels import catalogue_log_sum_exp
from dglrec.nn import ListTerms, score_lists
from dglrec.train.objectives.config import RankingConfig
from dglrec.train.objectives.list_losses import LIST_LOSSES, SOFTMAX
from dglrec.train.objectives.negatives import KnownItems, known_in, known_places

Related = tuple[Tensor, Tensor]


class Targets(NamedTuple):
    """The targets of a batch that lists are learned from.

    Attributes:
        nodes: int64 [n] the batch's users, as indices of the data set.
        users: int64 [B] each positive target's user, as a position among `nodes`.
        items: int64 [B] its item, as a row of the item terms.
        disliked_users: int64 [D] of targets that are rated, but no positives.
        disliked_items: int64 [D].
        related: int64 [B, r] and bool [B, 1]; see `RelatedSampler.draw`; None for none.
    """

    nodes: Tensor
    users: Tensor
    items: Tensor
    disliked_users: Tensor
    disliked_items: Tensor
    related: Related | None = None


class FixedTargets(NamedTuple):
    """The same of a batch of fixed shape, where B targets are told apart by marks.

    Attributes:
        users: int64 [B] positions among the batch's users.
        items: int64 [B] rows of the item terms; any where there is no mark.
        disliked: bool [B]; rated, but no positive.
        rated: int64 [n + 1] and [R]; see `EdgeBatch.rated`.
        related: as in `Targets`.
    """

    users: Tensor
    items: Tensor
    disliked: Tensor
    rated: tuple[Tensor, Tensor]
    related: Related | None = None


class RankingLoss:
    """The loss of each positive target of a batch.

    Args:
        config: which loss, of which negatives; resolved.
        known: what no user's negative may be.
    """

    def __init__(self, config: RankingConfig, known: KnownItems) -> None:
        self.config = config
        self._known = known
        self._few = None if config.loss == SOFTMAX else LIST_LOSSES[config.loss](config)

    def __call__(
        self, of_users: ListTerms, of_items: ListTerms, targets: Targets, pool: Pool | None
    ) -> Tensor:
        """[B]: the loss of each positive target.

        Args:
            of_users: of the batch's n users.
            of_items: of the batch's items; of all in their order where there is no pool.
            targets: what is to be ranked.
            pool: the negatives; None for the catalogue.
        """
        config = self.config
        of_users, of_items = self._terms(of_users, of_items)
        # A batch names users that only feed messages, too: those with targets alone are ranked for.
        rows, users = torch.unique(targets.users, return_inverse=True)
        ranked = of_users.of(rows)
        offsets, known = self._known.of(targets.nodes.index_select(0, rows))
        positives = score_lists(ranked, of_items, users, targets.items)
        if pool is None:
            total = catalogue_log_sum_exp(
                ranked.factors, of_items.factors, of_items.base, offsets, known
            )
            total = _with_disliked(total, ranked, of_items, targets, rows)
            return functional.softplus(total.index_select(0, users) - positives)
        drawn = of_items.of(pool.rows)
        if config.loss == SOFTMAX:
            base = drawn.base + pool.log_weights
            hidden = known_places(pool.items, offsets, known)
            total = catalogue_log_sum_exp(ranked.factors, drawn.factors, base, *hidden)
            return functional.softplus(total.index_select(0, users) - positives)
        in_pool = known_in(pool.items, offsets, known)
        if config.negatives == "hard":
            every = torch.addmm(drawn.base, ranked.factors, drawn.factors.T)
            negatives = self._few_of(every.masked_fill(in_pool, -torch.inf), users, pool)
        else:
            # Of a large step a few scores a target are far fewer than all of the pool's.
            columns = _choose(pool, (len(users), self._count(len(pool.items))))
            owners = users.unsqueeze(1).expand_as(columns)
            scores = score_lists(ranked, drawn, owners.flatten(), columns.flatten())
            gone = in_pool.flatten()[owners * len(pool.items) + columns]
            negatives = scores.view_as(columns).masked_fill(gone, -torch.inf)
        related = _related_scores(ranked, of_items, users, targets.related)
        return self._of_few(negatives, positives, related)

    def of_fixed(
        self, of_users: ListTerms, of_items: ListTerms, targets: FixedTargets, pool: Pool | None
    ) -> Tensor:
        """[B]: what each target of a fixed shape costs as a positive.

        The same as calling this with the positives alone, and of the others without a meaning.
        Arguments are those of a call; a pool is one of a fixed shape.
        """
        of_users, of_items = self._terms(of_users, of_items)
        scores = score_lists(of_users, of_items, targets.users, targets.items)
        if pool is None:
            total = catalogue_log_sum_exp(
                of_users.factors, of_items.factors, of_items.base, *targets.rated
            )
            total = _with_marked(total, scores, targets.users, targets.disliked)
            return functional.softplus(total.index_select(0, targets.users) - scores)
        drawn = of_items.of(pool.rows)
        offsets, known = targets.rated
        places = torch.searchsorted(pool.items, known)
        # What is not in the pool strikes its last place, which is room.
        is_drawn = pool.items.index_select(0, places) == known
        places = places.masked_fill(~is_drawn, len(pool.items) - 1)
        if self.config.loss == SOFTMAX:
            base = drawn.base + pool.log_weights
            total = catalogue_log_sum_exp(of_users.factors, drawn.factors, base, offsets, places)
            return functional.softplus(total.index_select(0, targets.users) - scores)
        every = torch.addmm(drawn.base, of_users.factors, drawn.factors.T)
        hidden = pool.log_weights.isneginf().expand_as(every).clone()
        hidden[torch.repeat_interleave(offsets.diff(), output_size=len(places)), places] = True
        every = every.masked_fill(hidden, -torch.inf)
        related = _related_scores(of_users, of_items, targets.users, targets.related)
        return self._of_few(self._few_of(every, targets.users, pool), scores, related)

    def _terms(self, of_users: ListTerms, of_items: ListTerms) -> tuple[ListTerms, ListTerms]:
        """Both sides as the loss takes them: perhaps of length 1, and over the temperature."""
        config = self.config
        if config.normalised:
            nothing = torch.zeros_like(of_items.base)
            of_users = of_users._replace(factors=functional.normalize(of_users.factors))
            of_items = ListTerms(functional.normalize(of_items.factors), nothing)
        of_items = ListTerms(of_items.factors, of_items.base / config.temperature)
        return of_users._replace(factors=of_users.factors / config.temperature), of_items

    def _count(self, drawn: int) -> int:
        """How many of a pool's items are each target's negatives."""
        return min(self.config.negatives_a_target, drawn)

    def _few_of(self, scores: Tensor, users: Tensor, pool: Pool) -> Tensor:
        """[B, k] scores of each target's negatives, out of [n, M] of its user and the pool."""
        count = self._count(scores.shape[1])
        if self.config.negatives == "hard":
            return scores.topk(count, dim=1).values.index_select(0, users)
        columns = _choose(pool, (len(users), count))
        return scores.flatten()[users.unsqueeze(1) * scores.shape[1] + columns]

    def _of_few(
        self, negatives: Tensor, positives: Tensor, related: Sequence[Tensor] = ()
    ) -> Tensor:
        """Losses that take a few negatives for each target.

        Args:
            negatives: [B, k] scores, -inf for items that a user knows.
            positives: [B].
            related: r times [B], scores of further negatives; -inf where there is none.
        """
        assert self._few is not None
        if related:
            negatives = torch.cat((negatives, torch.stack(tuple(related), dim=1)), dim=1)
        # Of a pool that the user knows whole nothing is learned.
        there = negatives.isfinite()
        losses = self._few(positives, negatives.masked_fill(~there, 0.0), there)
        if losses.shape != positives.shape:
            raise UsageError(
                f"{LIST_LOSSES.key} = {self.config.loss}: gives {list(losses.shape)} for "
                f"{len(positives)} positives; give the loss of each, and not their mean or sum"
            )
        return losses


def _related_scores(
    of_users: ListTerms, of_items: ListTerms, users: Tensor, related: Related | None
) -> list[Tensor]:
    """Scores of each target's related items, r times [B]; -inf where a user has none.

    Args:
        of_users: of n users.
        of_items: of all items, in their order.
        users: int64 [B], rows of `of_users`.
        related: the items.
    """
    if related is None:
        return []
    items, there = related
    return [
        score_lists(of_users, of_items, users, column).masked_fill(~there.squeeze(1), -torch.inf)
        for column in items.unbind(1)
    ]


def _choose(pool: Pool, shape: tuple[int, int]) -> Tensor:
    """Places in a pool at random, int64 of a shape."""
    device = pool.items.device
    if pool.count is None:
        return torch.randint(len(pool.items), shape, device=device)
    return (torch.rand(shape, device=device) * pool.count).long()


def _with_disliked(
    total: Tensor, ranked: ListTerms, of_items: ListTerms, targets: Targets, rows: Tensor
) -> Tensor:
    """log(exp(total) + sum of exp(score) over each user's disliked targets), [n].

    They are known, and left out of the catalogue's sum with all that is; yet nobody liked them.
    """
    places = torch.searchsorted(rows, targets.disliked_users).clamp_(max=len(rows) - 1)
    here = rows.index_select(0, places) == targets.disliked_users
    users, items = places.masked_select(here), targets.disliked_items.masked_select(here)
    if not len(users):
        return total
    scores = score_lists(ranked, of_items, users, items)
    # Of these users alone: the log of a sum without a term has no gradient.
    changed, users = torch.unique(users, return_inverse=True)
    before = total.index_select(0, changed)
    largest = before.detach().scatter_reduce(0, users, scores.detach(), "amax")
    sums = torch.exp(before - largest)
    sums = sums.index_add(0, users, torch.exp(scores - largest.index_select(0, users)))
    return total.index_copy(0, changed, sums.log() + largest)


def _with_marked(total: Tensor, scores: Tensor, users: Tensor, marked: Tensor) -> Tensor:
    """log(exp(total) + sum of exp(score) over each user's marked targets), [n].

    `_with_disliked` for fixed shapes.

    Args:
        total: [n].
        scores: [B], of the targets.
        users: int64 [B], rows of `total`.
        marked: bool [B].
    """
    counted = scores.masked_fill(~marked, -torch.inf)
    largest = total.detach().scatter_reduce(0, users, counted.detach(), "amax")
    smallest, least = torch.finfo(total.dtype).min, torch.finfo(total.dtype).tiny
    largest = largest.clamp(min=smallest)  # of a user for whom nothing counts it is -inf
    parts = torch.exp(counted - largest.index_select(0, users))
    sums = torch.exp(total - largest).index_add(0, users, parts)
    return sums.clamp(min=least).log() + largest
