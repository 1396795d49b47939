"""What training left: a graph model or a baseline, with the data set that it reads."""

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
    """What is trained, with the data set that it was trained on.

    Attributes:
        dataset: whose training ratings it reads.
        meta: the checkpoint's description.
        world: the processes that have it, to share what is computed with it.
    """

    dataset: RatingDataset
    meta: dict[str, Any]
    world: World = ALONE

    @property
    def identity(self) -> dict[str, Any]:
        """What names it: see `identity_of`."""
        return identity_of(self.meta)

    @property
    def learned_from(self) -> tuple[str, ...]:
        """The parts of the split whose rows it was trained on."""
        return learned_from(self.meta)

    def check_unseen(self, split: str) -> None:
        """Refuse to be measured on rows that it has learned from, or reads.

        Raises:
            UsageError: the held-out rows of a split are such, or there are none.
        """
        if split in self.learned_from[1:]:
            refit = "all" if "test" in self.learned_from else "valid"
            raise UsageError(
                f"split {split}: the run has learned from {split} rows (train --refit {refit}), so "
                f"figures on them mean nothing; the run in its folder {SELECTION} has not"
            )
        self.dataset.check_held_out(split)


def identity_of(meta: dict[str, Any]) -> dict[str, Any]:
    """What names a trained model: the checksum of its weights, and the epoch that they are of.

    Of a model that learned from more than training rows, the parts of the split, too.

    Args:
        meta: its checkpoint's description.
    """
    named = {"weights": meta["sha256"][MODEL_FILE], "epoch": meta["epoch"]}
    learned = list(learned_from(meta))
    return named if learned == [TRAIN] else {**named, "learned_from": learned}


@dataclass(frozen=True, kw_only=True)
class TrainedModel(_Trained):
    """A graph model; `model` is in evaluation mode, on its device.

    Attributes:
        model: the model.
        order: what lists are ordered by, where the model has both heads: `lists` or `rating`.
        item_weights: what is added to the list head's scores; None for nothing.
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
        """Exact embeddings of all nodes, computed when first asked for, by all processes."""
        return embed_all(*self._embedded, with_cosines=True)

    @cached_property
    def without_relations(self) -> dict[str, EncodedNodes]:
        """What users or items would be had a direction told them nothing; likewise."""
        return embed_without(*self._embedded, self.embeddings.item_network)

    @cached_property
    def directions(self) -> tuple[Direction, ...]:
        """Those of the relations that it reads."""
        return read_directions(self.model.config, self.dataset)

    @property
    def _embedded(self) -> tuple[RatingModel, RatingGraph, Biases, World, tuple[Direction, ...]]:
        dataset = self.dataset
        return self.model, dataset.graph, dataset.biases, self.world, self.directions

    @cached_property
    def scorer(self) -> Scorer:
        """Predicts ratings among all users and items of the data set."""
        return Scorer(self.model, self.embeddings.nodes, self.dataset.biases)

    @cached_property
    def list_scorer(self) -> ListScorer:
        """Orders all items of the data set for all of its users, by the list head."""
        lists = self.embeddings.lists
        if lists is None:
            raise ValueError("the model has no list head")
        return ListScorer(*lists, item_items=self.item_items(), head=self.model.list_head)

    def item_items(self, rated: Adjacency | None = None) -> ItemItems | None:
        """The item-item weights with the users whose items speak; None without weights.

        Args:
            rated: the users' ratings; None for those of the data set.
        """
        if self.item_weights is None:
            return None
        return ItemItems(self.item_weights, rated or self.dataset.graph.by_user)

    @property
    def ranker(self) -> Scorer | ListScorer:
        """What lists are made with."""
        return self.list_scorer if self.orders_by_lists else self.scorer

    def ordered_by(self, order: Order) -> "TrainedModel":
        """The same model, its lists made by the list head or by predicted ratings.

        Raises:
            UsageError: it has no such head.
        """
        if order == "rating" and not self.rates:
            raise UsageError(
                "--order rating: the model has no rating head; leave it out, or train with "
                "model.heads = both"
            )
        return self if order == self.order else replace(self, order=order)

    @property
    def orders_by_lists(self) -> bool:
        """Whether lists are made by the list head."""
        return self.model.config.lists and self.order == "lists"

    def prepare(self) -> None:
        """Compute what all predictions need; for every process to call before the first of them."""
        _ = self.embeddings

    def predict(self, users: Tensor, items: Tensor) -> Tensor:
        """Predicted ratings of n pairs, float32 [n] on the CPU, not clipped to the scale.

        Args:
            users: int64 [n].
            items: int64 [n].
        """
        return predict_pairs(self.model, self.embeddings, self.dataset.biases, users, items)

    def best(self, users: Tensor, left_out: ItemLists, k: int) -> tuple[Tensor, Tensor]:
        """The best items for each of n users, by what lists are ordered by: `Scorer.best`."""
        return self.ranker.best(users, left_out, k)

    def rank_pairs(self, users: Tensor, items: Tensor) -> Tensor:
        """The scores by which lists are ordered, of n pairs, float32 [n] on the CPU."""
        return self.ranker.pairs(users, items)


@dataclass(frozen=True, kw_only=True)
class TrainedBaseline(_Trained):
    """A baseline, on the CPU."""

    baseline: Baseline

    @property
    def kind(self) -> str:
        """Which one, as in `model.kind`."""
        return str(self.meta["model"]["kind"])

    @property
    def rates(self) -> bool:
        """Whether it predicts ratings; if not, it only ranks."""
        return self.baseline.rates

    @property
    def orders_by_lists(self) -> bool:
        """Whether lists are made by scores that are no ratings."""
        return not self.rates

    def ordered_by(self, order: Order) -> "TrainedBaseline":
        """The same, its lists made by scores or by predicted ratings; it has one of them.

        Raises:
            UsageError: it predicts no ratings.
        """
        if order == "rating" and not self.rates:
            raise UsageError(
                f"--order rating: the {self.kind} baseline predicts no ratings; leave it out"
            )
        return self

    def rank_pairs(self, users: Tensor, items: Tensor) -> Tensor:
        """The scores by which lists are ordered, of n pairs, float32 [n]."""
        return self.baseline.rank_pairs(users, items)

    def prepare(self) -> None:
        """Nothing: a baseline is ready to predict."""

    def predict(self, users: Tensor, items: Tensor) -> Tensor:
        """Predicted ratings of n pairs, float32 [n], not clipped to the scale.

        Args:
            users: int64 [n].
            items: int64 [n].
        """
        return self.baseline.predict(users, items)

    def best(self, users: Tensor, left_out: ItemLists, k: int) -> tuple[Tensor, Tensor]:
        """The items with the highest predicted ratings for each of n users; as `Scorer.best`."""
        return self.baseline.best(users, left_out, k)


Predictor = TrainedModel | TrainedBaseline
"""What `train` leaves in a run: it predicts ratings, and ranks the catalogue."""
