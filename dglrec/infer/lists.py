"""The list head's scores of pairs, and the best items of a catalogue by these scores."""

from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from dglrec.errors import DglrecError
from dglrec.infer.item_items import ItemItems
from dglrec.infer.leave_out import LeftOut
from dglrec.infer.predict import NOT_FINITE, entries_of
from dglrec.kernels import ItemLists, Terms, Tiles, rank_items, runs_compiled
from dglrec.nn import ListHead, ListTerms, score_lists

_PAIRS_AT_ONCE = 1 << 18
_SCORES_AT_ONCE = 1 << 26  # 256 MiB on a GPU


class ListScorer:
    """Ranks the items of a catalogue for users by the list head's scores.

    Args:
        of_users: the list head's terms of U users.
        of_items: the list head's terms of I items.
        catalogue: int64 [C] the items to choose the best from, ascending; None for all.
        item_items: adds its scores to those of the list head; None without item-item weights.
        head: the list head; only `without_each` needs it.

    Raises:
        DglrecError: a term is not finite.
    """

    def __init__(
        self,
        of_users: ListTerms,
        of_items: ListTerms,
        catalogue: Tensor | None = None,
        item_items: ItemItems | None = None,
        head: ListHead | None = None,
    ) -> None:
        # Every comparison with NaN is false: lists would silently come out short.
        if not all(bool(table.isfinite().all()) for table in (*of_users, *of_items)):
            raise DglrecError(NOT_FINITE)
        self._users, self._items, self._item_items = of_users, of_items, item_items
        self._head = head
        self._device = of_items.base.device
        count = len(of_items.base)
        self._catalogue = torch.arange(count) if catalogue is None else catalogue

    @property
    def catalogue_size(self) -> int:
        """C, the number of items to choose from."""
        return len(self._catalogue)

    @torch.inference_mode()
    def pairs(self, users: Tensor, items: Tensor) -> Tensor:
        """Scores of n pairs, float32 [n] on the CPU; only their order for a user has a meaning.

        Args:
            users: int64 [n].
            items: int64 [n].
        """
        parts = [torch.empty(0)]
        for ends in zip(users.split(_PAIRS_AT_ONCE), items.split(_PAIRS_AT_ONCE), strict=True):
            on_device = (rows.to(self._device) for rows in ends)
            parts.append(score_lists(self._users, self._items, *on_device).cpu())
        scores = torch.cat(parts)
        return scores if self._item_items is None else scores + self._item_items.pairs(users, items)

    @torch.inference_mode()
    def without_each(self, left_out: LeftOut, users: Tensor, items: Tensor) -> Tensor:
        """Scores of k items without each rating, float32 [K, k].

        Arguments are those of `Scorer.without_each`.

        Raises:
            ValueError: the scorer was made without the list head.
        """
        if self._head is None:
            raise ValueError("leaving out ratings needs the list head")
        terms = self._head.without_each(users, left_out.block, left_out.owners, left_out.shifts)
        wanted = items[left_out.owners_here]
        rows = torch.arange(len(wanted)).repeat_interleave(wanted.shape[1]).to(self._device)
        ends = rows, wanted.flatten().to(self._device)
        scores = score_lists(terms, self._items, *ends).cpu().view_as(wanted)
        if self._item_items is None:
            return scores
        weights = self._item_items.weights
        of_users = self._item_items.with_rated(left_out.ratings).rows_at(left_out.users, items)
        of_each = weights.of_each(left_out.ratings, left_out.users, items)
        return scores + of_users[left_out.owners_here] - of_each

    @torch.inference_mode()
    def best(self, users: Tensor, left_out: ItemLists, k: int) -> tuple[Tensor, Tensor]:
        """The items of the catalogue with the highest scores for each of n users.

        Arguments and result are those of `Scorer.best`.
        """
        k = min(k, self.catalogue_size)
        if not runs_compiled(self._items.base):
            return self.best_of_few(users, left_out, k)
        extra = None
        if self._item_items is not None:
            extra = self._item_items.rows(users, self._catalogue)
        chosen = self._users.of(users)
        scores, places = rank_items(
            self._tiles,
            np.empty(0, dtype=np.float32),
            _terms(chosen),
            left_out,
            users.numpy(),
            self._positions.numpy(),
            k,
            extra,
        )
        return torch.from_numpy(scores), self._items_at(torch.from_numpy(places))

    @torch.inference_mode()
    def best_of_few(self, users: Tensor, left_out: ItemLists, k: int) -> tuple[Tensor, Tensor]:
        """The same as `best`, by torch's operations: for GPUs, and for few users on a CPU."""
        k, found = min(k, self.catalogue_size), []
        of_items = self._items.of(self._catalogue.to(self._device))
        for part in users.split(max(1, _SCORES_AT_ONCE // max(1, self.catalogue_size))):
            factors = self._users.factors.index_select(0, part.to(self._device))
            scores = torch.addmm(of_items.base, factors, of_items.factors.T)
            if self._item_items is not None:
                extra = torch.from_numpy(self._item_items.rows(part, self._catalogue))
                scores = scores + extra.to(self._device)
            rows, entries = entries_of(left_out.offsets, part)
            items = torch.from_numpy(left_out.items[entries.numpy()]).long()
            places = self._positions[items].long()
            listed = places >= 0
            scores[rows[listed].to(self._device), places[listed].to(self._device)] = -torch.inf
            best = scores.topk(k, dim=1)
            found.append((best.values.cpu(), best.indices.cpu()))
        if not found:
            return torch.empty(0, k), torch.empty(0, k, dtype=torch.int64)
        places = torch.cat([indices for _, indices in found])
        return torch.cat([scores for scores, _ in found]), self._items_at(places)

    @cached_property
    def _positions(self) -> Tensor:
        """int32 [I]: each item's position in the catalogue, -1 for items outside it."""
        positions = torch.full((len(self._items.base),), -1, dtype=torch.int32)
        positions[self._catalogue] = torch.arange(self.catalogue_size, dtype=torch.int32)
        return positions

    @cached_property
    def _tiles(self) -> Tiles:
        return Tiles.of(_terms(self._items.of(self._catalogue)))

    def _items_at(self, places: Tensor) -> Tensor:
        return self._catalogue.index_select(0, places.flatten()).view_as(places)


def _terms(terms: ListTerms) -> Terms:
    """The terms that the ranking kernel reads, without hidden units."""
    factors = np.ascontiguousarray(terms.factors.numpy())
    return Terms(np.empty((len(factors), 0), dtype=np.float32), factors, terms.base.numpy())
