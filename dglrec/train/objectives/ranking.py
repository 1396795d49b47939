"""The losses of lists.

Shapes: n users of a batch, B positive targets, M items of a pool, F factors, k negatives a target,
r of which are related negatives.
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
        users: int64 [B] the user of each positive target, as a position in `nodes`.
        items: int64 [B] the item of each positive target, as a row of the item terms.
        disliked_users: int64 [D] the users of rated targets that are not positives.
        disliked_items: int64 [D] the items of these targets.
        related: int64 [B, r] and bool [B, 1] from `RelatedSampler.draw`; None without.
    """

    nodes: Tensor
    users: Tensor
    items: Tensor
    disliked_users: Tensor
    disliked_items: Tensor
    related: Related | None = None


class FixedTargets(NamedTuple):
    """The B targets of a batch of fixed shape, where masks say which of them are positives.

    Attributes:
        users: int64 [B] positions among the batch's users.
        items: int64 [B] rows of the item terms; arbitrary for targets that do not count.
        disliked: bool [B]; whether a target is rated but not a positive.
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
        config: which loss and which negatives; resolved.
        known: each user's training items, which are never its negatives.
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
            of_users: terms of the batch's n users.
            of_items: terms of the batch's items; without a pool, of all items in order.
            targets: the targets.
            pool: the negatives; None for the whole catalogue.
        """
        config = self.config
        of_users, of_items = self._terms(of_users, of_items)
        # Only users with targets are ranked for; others in the batch only send messages.
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
            scores_of_pool = torch.addmm(drawn.base, ranked.factors, drawn.factors.T)
            negatives = self._few_of(scores_of_pool.masked_fill(in_pool, -torch.inf), users, pool)
        else:
            # In a large step these few scores a target are far fewer than all scores of the pool.
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
        """[B]: the loss of each target of a batch of fixed shape, as if it were a positive.

        For positives it is the same as the result of a call; for other targets it is arbitrary.
        Arguments are those of a call; the pool has a fixed shape too.
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
        # Items outside the pool mask its last place, which never holds an item.
        is_drawn = pool.items.index_select(0, places) == known
        places = places.masked_fill(~is_drawn, len(pool.items) - 1)
        if self.config.loss == SOFTMAX:
            base = drawn.base + pool.log_weights
            total = catalogue_log_sum_exp(of_users.factors, drawn.factors, base, offsets, places)
            return functional.softplus(total.index_select(0, targets.users) - scores)
        scores_of_pool = torch.addmm(drawn.base, of_users.factors, drawn.factors.T)
        hidden = pool.log_weights.isneginf().expand_as(scores_of_pool).clone()
        hidden[torch.repeat_interleave(offsets.diff(), output_size=len(places)), places] = True
        scores_of_pool = scores_of_pool.masked_fill(hidden, -torch.inf)
        related = _related_scores(of_users, of_items, targets.users, targets.related)
        return self._of_few(self._few_of(scores_of_pool, targets.users, pool), scores, related)

    def _terms(self, of_users: ListTerms, of_items: ListTerms) -> tuple[ListTerms, ListTerms]:
        """The terms that the loss takes: normalised if configured, divided by the temperature."""
        config = self.config
        if config.normalised:
            nothing = torch.zeros_like(of_items.base)
            of_users = of_users._replace(factors=functional.normalize(of_users.factors))
            of_items = ListTerms(functional.normalize(of_items.factors), nothing)
        of_items = ListTerms(of_items.factors, of_items.base / config.temperature)
        return of_users._replace(factors=of_users.factors / config.temperature), of_items

    def _count(self, drawn: int) -> int:
        """The number of a target's negatives from a pool of `drawn` items."""
        return min(self.config.negatives_a_target, drawn)

    def _few_of(self, scores: Tensor, users: Tensor, pool: Pool) -> Tensor:
        """[B, k] scores of each target's negatives, from the scores [n, M] of users and pool."""
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
            negatives: [B, k] scores, -inf for the user's training items.
            positives: [B] scores.
            related: r times [B], scores of related negatives; -inf where there is none.
        """
        assert self._few is not None
        if related:
            negatives = torch.cat((negatives, torch.stack(tuple(related), dim=1)), dim=1)
        # A user who has all items of the pool in training learns nothing from it.
        present = negatives.isfinite()
        losses = self._few(positives, negatives.masked_fill(~present, 0.0), present)
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
        of_users: terms of n users.
        of_items: terms of all items, in order.
        users: int64 [B], rows of `of_users`.
        related: the items.
    """
    if related is None:
        return []
    items, has_related = related
    return [
        score_lists(of_users, of_items, users, column).masked_fill(
            ~has_related.squeeze(1), -torch.inf
        )
        for column in items.unbind(1)
    ]


def _choose(pool: Pool, shape: tuple[int, int]) -> Tensor:
    """Random positions in a pool, int64 of this shape."""
    device = pool.items.device
    if pool.count is None:
        return torch.randint(len(pool.items), shape, device=device)
    return (torch.rand(shape, device=device) * pool.count).long()


def _with_disliked(
    total: Tensor, ranked: ListTerms, of_items: ListTerms, targets: Targets, rows: Tensor
) -> Tensor:
    """log(exp(total) + sum of exp(score) over each user's disliked targets), [n].

    The catalogue's sum leaves out all training items of a user. The disliked targets among them are
    negatives all the same, so they are added back here.
    """
    places = torch.searchsorted(rows, targets.disliked_users).clamp_(max=len(rows) - 1)
    here = rows.index_select(0, places) == targets.disliked_users
    users, items = places.masked_select(here), targets.disliked_items.masked_select(here)
    if not len(users):
        return total
    scores = score_lists(ranked, of_items, users, items)
    # Only users with such targets: the logarithm of a sum without a term has no gradient.
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
    largest = largest.clamp(min=smallest)  # it is -inf for a user without any term
    parts = torch.exp(counted - largest.index_select(0, users))
    sums = torch.exp(total - largest).index_add(0, users, parts)
    return sums.clamp(min=least).log() + largest
