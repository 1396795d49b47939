"""Trained models: a graph model or a baseline, with the data set that it reads."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

from torch import Tensor

from dglrec.baselines import Baseline
from dglrec.biases import Biases
from dglrec.checkpoint import MODEL_FILE
from dglrec.dataset import TRAIN, RatingDataset
from dglrec.distributed import ALONE, World
from dglrec.errors import UsageError
from dglrec.graph import Adjacency, RatingGraph
from dglrec.infer import (
    Embeddings,
    EncodedNodes,
    ItemItems,
    ItemWeights,
    ListScorer,
    Scorer,
    embed_all,
    embed_without,
    predict_pairs,
)
from dglrec.kernels import ItemLists
from dglrec.nn import RatingModel
from dglrec.relations import Direction
from dglrec.run.data import learned_from
from dglrec.run.folder import SELECTION
from dglrec.run.models import read_directions

Order = Literal["lists", "rating"]


@dataclass(frozen=True, kw_only=True)
class _Trained:
    """A trained model with its data set.

    Attributes:
        dataset: the data set, whose training ratings the model reads.
        meta: the description in the checkpoint.
        world: the processes that have opened the model and share its computations.
    """

    dataset: RatingDataset
    meta: dict[str, Any]
    world: World = ALONE

    @property
    def identity(self) -> dict[str, Any]:
        """See `identity_of`."""
        return identity_of(self.meta)

    @property
    def learned_from(self) -> tuple[str, ...]:
        """The splits whose rows the model was trained on."""
        return learned_from(self.meta)

    def check_unseen(self, split: str) -> None:
        """Refuse to measure the model on rows that it has learned from, or reads.

        Raises:
            UsageError: the model has learned from rows of the split or reads them, or the split has
                no rows.
        """
        if split in self.learned_from[1:]:
            refit = "all" if "test" in self.learned_from else "valid"
            raise UsageError(
                f"split {split}: the run has learned from {split} rows (train --refit {refit}), so "
                f"figures on them would mean nothing; measure the run in its folder {SELECTION}"
            )
        self.dataset.check_held_out(split)


def identity_of(meta: dict[str, Any]) -> dict[str, Any]:
    """The identity of a trained model: the checksum of its weights, and their epoch.

    For a model that learned from more than training rows, it also names the splits.

    Args:
        meta: the description in the checkpoint.
    """
    named = {"weights": meta["sha256"][MODEL_FILE], "epoch": meta["epoch"]}
    learned = list(learned_from(meta))
    return named if learned == [TRAIN] else {**named, "learned_from": learned}


@dataclass(frozen=True, kw_only=True)
class TrainedModel(_Trained):
    """A trained graph model.

    Attributes:
        model: the model, in evaluation mode, on its device.
        order: for a model with both heads, what lists are ordered by: the scores of the list head
            (`lists`), or predicted ratings (`rating`).
        item_weights: item-item weights, whose scores are added to the list head's; None without.
    """

    model: RatingModel
    order: Order = "lists"
    item_weights: ItemWeights | None = None

    @property
    def rates(self) -> bool:
        """Whether it predicts ratings."""
        return self.model.decoder is not None

    @cached_property
    def embeddings(self) -> Embeddings:
        """Exact embeddings of all nodes, computed at the first access by all processes together."""
        return embed_all(*self._embedded, with_cosines=True)

    @cached_property
    def without_relations(self) -> dict[str, EncodedNodes]:
        """`embed_without`, computed at the first access by all processes together."""
        return embed_without(*self._embedded, self.embeddings.item_network)

    @cached_property
    def directions(self) -> tuple[Direction, ...]:
        """The directions of the relations that the model reads."""
        return read_directions(self.model.config, self.dataset)

    @property
    def _embedded(self) -> tuple[RatingModel, RatingGraph, Biases, World, tuple[Direction, ...]]:
        dataset = self.dataset
        return self.model, dataset.graph, dataset.biases, self.world, self.directions

    @cached_property
    def scorer(self) -> Scorer:
        """Predicts ratings for all users and items of the data set."""
        return Scorer(self.model, self.embeddings.nodes, self.dataset.biases)

    @cached_property
    def list_scorer(self) -> ListScorer:
        """Ranks all items of the data set for all of its users, by the list head."""
        lists = self.embeddings.lists
        if lists is None:
            raise ValueError("the model has no list head")
        return ListScorer(*lists, item_items=self.item_items(), head=self.model.list_head)

    def item_items(self, rated: Adjacency | None = None) -> ItemItems | None:
        """The item-item weights with the ratings of some users; None without weights.

        Args:
            rated: the users' ratings; None for those of the data set.
        """
        if self.item_weights is None:
            return None
        return ItemItems(self.item_weights, rated or self.dataset.graph.by_user)

    @property
    def ranker(self) -> Scorer | ListScorer:
        """The scorer that makes the lists."""
        return self.list_scorer if self.orders_by_lists else self.scorer

    def ordered_by(self, order: Order) -> "TrainedModel":
        """The same model, with lists ordered by the list head or by predicted ratings.

        Raises:
            UsageError: the model has no rating head.
        """
        if order == "rating" and not self.rates:
            raise UsageError(
                "--order rating: the model has no rating head; leave it out, or train with "
                "model.heads = both"
            )
        return self if order == self.order else replace(self, order=order)

    @property
    def orders_by_lists(self) -> bool:
        """Whether lists are ordered by the list head."""
        return self.model.config.lists and self.order == "lists"

    def prepare(self) -> None:
        """Compute what all predictions need; every process must call this before predicting."""
        _ = self.embeddings

    def predict(self, users: Tensor, items: Tensor) -> Tensor:
        """Predicted ratings of n pairs, float32 [n] on the CPU, not clipped to the scale.

        Args:
            users: int64 [n].
            items: int64 [n].
        """
        return predict_pairs(self.model, self.embeddings, self.dataset.biases, users, items)

    def best(self, users: Tensor, left_out: ItemLists, k: int) -> tuple[Tensor, Tensor]:
        """The best items for each of n users; see `Scorer.best`."""
        return self.ranker.best(users, left_out, k)

    def rank_pairs(self, users: Tensor, items: Tensor) -> Tensor:
        """The scores that order lists, of n pairs, float32 [n] on the CPU."""
        return self.ranker.pairs(users, items)


@dataclass(frozen=True, kw_only=True)
class TrainedBaseline(_Trained):
    """A trained baseline, on the CPU."""

    baseline: Baseline

    @property
    def kind(self) -> str:
        """The kind of baseline, a value of `model.kind`."""
        return str(self.meta["model"]["kind"])

    @property
    def rates(self) -> bool:
        """Whether it predicts ratings; otherwise it only ranks."""
        return self.baseline.rates

    @property
    def orders_by_lists(self) -> bool:
        """Whether lists are ordered by scores other than ratings."""
        return not self.rates

    def ordered_by(self, order: Order) -> "TrainedBaseline":
        """The baseline itself, which has either scores or predicted ratings to order lists by.

        Raises:
            UsageError: `order` is `rating`, and the baseline predicts no ratings.
        """
        if order == "rating" and not self.rates:
            raise UsageError(
                f"--order rating: the {self.kind} baseline predicts no ratings; leave it out"
            )
        return self

    def rank_pairs(self, users: Tensor, items: Tensor) -> Tensor:
        """The scores that order lists, of n pairs, float32 [n]."""
        return self.baseline.rank_pairs(users, items)

    def prepare(self) -> None:
        """Nothing to prepare."""

    def predict(self, users: Tensor, items: Tensor) -> Tensor:
        """Predicted ratings of n pairs, float32 [n], not clipped to the scale.

        Args:
            users: int64 [n].
            items: int64 [n].
        """
        return self.baseline.predict(users, items)

    def best(self, users: Tensor, left_out: ItemLists, k: int) -> tuple[Tensor, Tensor]:
        """The best items for each of n users; see `Scorer.best`."""
        return self.baseline.best(users, left_out, k)


Predictor = TrainedModel | TrainedBaseline
"""A trained model of a run: it predicts ratings, ranks the catalogue, or both."""
