"""Shared by models that only rank: a user's row of items -> scores of the catalogue -> a list.

A score orders a list and is no rating. Equal scores are ordered by popularity, so a user without
any positive item gets the most popular items.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import Tensor

from dglrec.baselines.config import BaselineConfig
from dglrec.dataset import RatingDataset
from dglrec.errors import UnusableEnvironmentError, UsageError
from dglrec.infer import entries_of
from dglrec.kernels import ItemLists, compiled, even_parts, run_side_by_side
from dglrec.machine import GIB, available_memory, gib
from dglrec.progress import log

Floats = npt.NDArray[np.float32]
Known = dict[tuple[Any, ...], Floats]
"""Intermediate results, by what they depend on."""

_SCORES_AT_ONCE = 1 << 22
_MUCH = GIB


class Ranker(ABC):
    """A closed-form model that orders items, and predicts no rating.

    Args:
        positives: float32 [U, I], the users' rows.
        degrees: int64 [I] training rows of each item, which order equal scores.

    Raises:
        ValueError: the arrays of `positives` do not fit together.
    """

    rates = False
    """Whether it predicts ratings."""

    def __init__(self, positives: sparse.csr_array, degrees: npt.NDArray[np.int64]) -> None:
        positives.check_format(full_check=True)
        self.positives = positives
        self._places = places_of(degrees)

    @classmethod
    @abstractmethod
    def fit(
        cls, dataset: RatingDataset, config: BaselineConfig, known: Known | None = None
    ) -> "Ranker":
        """Fit to the training rows.

        Args:
            dataset: a prepared data set.
            config: with no setting of this model at auto.
            known: intermediate results of earlier fits to the same rows with other settings; read,
                and added to.
        """

    @classmethod
    @abstractmethod
    def load(
        cls, state: Mapping[str, Tensor], dataset: RatingDataset, config: BaselineConfig
    ) -> "Ranker":
        """The model that `state` was taken from.

        Raises:
            ValueError: `state` is that of another model.
        """

    @classmethod
    @abstractmethod
    def footprint(
        cls, dataset: RatingDataset, config: BaselineConfig, processes: int, searching: bool
    ) -> int:
        """About how many bytes fitting takes at most on a machine.

        Args:
            dataset: a prepared data set.
            config: with no setting of this model at auto.
            processes: on the machine; each holds the model, and the first fits it.
            searching: whether two models are held at a time, to keep the better one.
        """

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """The tensors that a checkpoint keeps, by name."""

    @abstractmethod
    def score_rows(self, rows: sparse.csr_array) -> Floats:
        """Scores of all items for n rows of positive items, float32 [n, I].

        A row's scores do not depend on the rows beside it.

        Args:
            rows: float32 [n, I].
        """

    def predict(self, users: Tensor, items: Tensor) -> Tensor:
        """Refuse: scores are not ratings.

        Raises:
            UsageError: always.
        """
        raise no_ratings()

    def best(self, users: Tensor, left_out: ItemLists, k: int) -> tuple[Tensor, Tensor]:
        """The items with the highest scores for each of n users; as `Scorer.best`.

        Args:
            users: int64 [n].
            left_out: for each of all U users, the items that are not candidates.
            k: how many; if there are fewer items, all of them.

        Returns:
            Scores [n, k], best first, and items [n, k]. If fewer than k candidates remain, the
            rest is -inf, with arbitrary items.
        """
        rows, entries = entries_of(left_out.offsets, users)
        offsets = np.zeros(len(users) + 1, dtype=np.int64)
        np.cumsum(np.bincount(rows.numpy(), minlength=len(users)), out=offsets[1:])
        lists = ItemLists(offsets, left_out.items[entries.numpy()])
        return self.best_of_rows(self.positives[users.numpy()], lists, k)

    def best_of_rows(
        self, rows: sparse.csr_array, left_out: ItemLists, k: int
    ) -> tuple[Tensor, Tensor]:
        """The items with the highest scores for n rows of positives, of any users.

        Args:
            rows: float32 [n, I].
            left_out: for each of the n rows, the items that are not candidates.
            k: how many; if there are fewer items, all of them.

        Returns:
            As `best`.

        Raises:
            ValueError: the rows are of another catalogue, or damaged, or there are not n lists.
        """
        count, num_items = rows.shape
        if num_items != len(self._places) or len(left_out.offsets) != count + 1:
            raise ValueError(f"{rows.shape} rows and {len(left_out.offsets) - 1} lists do not fit")
        rows.check_format(full_check=True)
        k = min(k, num_items)
        found = np.empty((count, k), dtype=np.float32), np.empty((count, k), dtype=np.int64)
        for first, last in self._stretches(count):
            scores = self.score_rows(rows[first:last])
            offsets = left_out.offsets[first : last + 1]
            owners = np.repeat(np.arange(last - first), np.diff(offsets))
            scores[owners, left_out.items[offsets[0] : offsets[-1]]] = -np.inf
            for whole, part in zip(found, pick_best(scores, self._places, k), strict=True):
                whole[first:last] = part
        return torch.from_numpy(found[0]), torch.from_numpy(found[1])

    def rank_pairs(self, users: Tensor, items: Tensor) -> Tensor:
        """The scores that lists are ordered by, for n pairs, float32 [n].

        Args:
            users: int64 [n].
            items: int64 [n].

        Raises:
            IndexError: there is no such user or item.
        """
        wanted = items.numpy()
        if len(wanted) and not 0 <= wanted.min() <= wanted.max() < len(self._places):
            raise IndexError(
                f"items {wanted.min()} to {wanted.max()}: there are {len(self._places)}"
            )
        if len(users) and int(users.min()) < 0:
            raise IndexError(f"user {int(users.min())}: must be 0 or more")
        distinct, owners = np.unique(users.numpy(), return_inverse=True)
        order = np.argsort(owners, kind="stable")
        out = np.empty(len(wanted), dtype=np.float32)
        for first, last in self._stretches(len(distinct)):
            scores = self.score_rows(self.positives[distinct[first:last]])
            low, high = np.searchsorted(owners[order], [first, last])
            positions = order[low:high]
            out[positions] = scores[owners[positions] - first, wanted[positions]]
        return torch.from_numpy(out)

    def _stretches(self, count: int) -> list[tuple[int, int]]:
        at_once = max(1, _SCORES_AT_ONCE // len(self._places))
        return [(first, min(first + at_once, count)) for first in range(0, count, at_once)]


def no_ratings() -> UsageError:
    """The error if a model that only ranks is asked for ratings."""
    return UsageError(
        "this model only ranks, and predicts no ratings; ask for lists, or train another model.kind"
    )


def check_fits(kind: str, num_items: int, needed: int, *, said: bool = True) -> None:
    """Log how much memory a model needs if it is much, and refuse if there is less.

    Args:
        kind: as in `model.kind`.
        num_items: I.
        needed: bytes.
        said: whether to log.

    Raises:
        UnusableEnvironmentError: there is too little memory.
    """
    available = available_memory()
    if needed > available:
        raise UnusableEnvironmentError(
            f"model.kind {kind} needs {gib(needed)} of memory for {num_items:,} items, and there "
            f"are {gib(available)}; choose another model.kind, or a larger machine"
        )
    if said and needed > _MUCH:
        log(
            f"{kind} needs {gib(needed)} of memory for {num_items:,} items, and {gib(available)} "
            "are free"
        )


def places_of(degrees: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Each item's rank by popularity, from 0, int64 [I]; equally popular items by index."""
    order = np.argsort(-degrees, kind="stable")
    places = np.empty(len(order), dtype=np.int64)
    places[order] = np.arange(len(order))
    return places


def sum_rows(rows: sparse.csr_array, weights: Floats) -> Floats:
    """The product rows @ weights, float32 [n, I]; a row does not depend on the rows beside it.

    Args:
        rows: float32 [n, J], checked.
        weights: float32 [J, I].
    """
    if rows.shape[1] != len(weights):
        raise ValueError(f"{rows.shape[1]} columns do not fit {len(weights)} rows")
    out = np.zeros((rows.shape[0], weights.shape[1]), dtype=np.float32)
    _side_by_side(
        rows.indptr,
        weights.shape[1],
        partial(_sum_rows, rows.indptr, rows.indices, rows.data, weights, out),
    )
    return out


def pick_best(
    scores: Floats, places: npt.NDArray[np.int64], k: int
) -> tuple[Floats, npt.NDArray[np.int64]]:
    """The k highest scores of each row and their items, best first; equal scores by place.

    Args:
        scores: float32 [n, I]; -inf is never picked.
        places: int64 [I], all different.
        k: at most I.

    Returns:
        Scores [n, k] and items [n, k]; behind a row's last, -inf and 0.
    """
    count, num_items = scores.shape
    if len(places) != num_items:
        raise ValueError(f"{len(places)} places do not fit {num_items} items")
    best = np.full((count, k), -np.inf, dtype=np.float32)
    items = np.zeros((count, k), dtype=np.int64)
    offsets = np.arange(count + 1, dtype=np.int64) * num_items
    _side_by_side(offsets, 1, partial(_pick_best, scores, places, best, items))
    return best, items


def _side_by_side(offsets: npt.NDArray[Any], width: int, work: Callable[..., None]) -> None:
    parts = even_parts(offsets, width) if len(offsets) > 1 else []
    if parts:
        run_side_by_side([partial(work, low, high) for low, high in parts])


@compiled
def _sum_rows(offsets, items, values, weights, out, low, high):  # type: ignore[no-untyped-def]
    for row in range(low, high):
        sums = out[row]
        for entry in range(offsets[row], offsets[row + 1]):
            value, added = values[entry], weights[items[entry]]
            for column in range(len(sums)):
                sums[column] += value * added[column]


@compiled
def _is_worse(score, place, other_score, other_place):  # type: ignore[no-untyped-def]
    return score < other_score or (score == other_score and place > other_place)


@compiled
def _sift_down(best, items, places, size):  # type: ignore[no-untyped-def]
    """Move the root of a heap down to where it belongs; the root of the heap is its worst."""
    at = 0
    while True:
        child = 2 * at + 1
        if child >= size:
            return
        other = child + 1
        if other < size and _is_worse(
            best[other], places[items[other]], best[child], places[items[child]]
        ):
            child = other
        if not _is_worse(best[child], places[items[child]], best[at], places[items[at]]):
            return
        best[at], best[child] = best[child], best[at]
        items[at], items[child] = items[child], items[at]
        at = child


@compiled
def _pick_best(scores, places, out, out_items, low, high):  # type: ignore[no-untyped-def]
    """Keep a heap of the k best so far, with the worst as root; then sort it by removing roots."""
    k = out.shape[1]
    for row in range(low, high):
        best, items, size = out[row], out_items[row], 0
        for item in range(scores.shape[1]):
            score = scores[row, item]
            if not score > -np.inf:
                continue
            if size < k:
                at = size
                best[at], items[at] = score, item
                size += 1
                while at > 0:
                    parent = (at - 1) // 2
                    if not _is_worse(
                        best[at], places[items[at]], best[parent], places[items[parent]]
                    ):
                        break
                    best[at], best[parent] = best[parent], best[at]
                    items[at], items[parent] = items[parent], items[at]
                    at = parent
            elif k and _is_worse(best[0], places[items[0]], score, places[item]):
                best[0], items[0] = score, item
                _sift_down(best, items, places, k)
        for end in range(size - 1, 0, -1):
            best[0], best[end] = best[end], best[0]
            items[0], items[end] = items[end], items[0]
            _sift_down(best, items, places, end)
