"""Objectives: of ratings, of lists, of both."""

import math
from collections.abc import Mapping
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from dglrec.blocks import EdgeBatch
from dglrec.dataset import RatingDataset
from dglrec.errors import UsageError
from dglrec.evaluate import next_level
from dglrec.nn import Encoded, ListRows, ListTerms, RatingModel
from dglrec.sampling import Draw
from dglrec.train.objectives.config import RankingConfig
from dglrec.train.objectives.negatives import KnownItems, PoolSampler, RelatedSampler
from dglrec.train.objectives.ranking import FixedTargets, RankingLoss, Related, Targets
from dglrec.train.objectives.rating import Loss, make_loss

WORTH_OF_RMSE = 5.0
"""How many percent of the lists' figure one percent of RMSE is worth; see `BothObjective`."""

# The t of `BothObjective`, chosen on validation rows of MovieLens 100K, the anime sample and Ciao,
# three trainings of each. Half of the users, drawn 200 times, chose the epoch by their lists, and
# the other half said what it was worth: NDCG / RMSE^5. What it gained over a training's mean epoch,
# in percent, summed over the three sets: 26.3 with 0 (RMSE alone), 27.6 with 0.02, 28.2 with 0.04,
# 28.3 with 0.08, 27.6 with 0.16, and 27.3 where all that is measured counts. Of the two best, 0.04
# has the lower RMSE on each set.
_SPREAD_OF_EPOCHS = 0.04


Figures = Mapping[str, float]
"""An epoch's validation figures by name, as in `metrics.jsonl` without `valid_`."""


def standard_error_of(name: str) -> str:
    """The name of a figure's standard error among the validation figures."""
    return f"{name}_standard_error"


class Metric(NamedTuple):
    """A validation figure that epochs are judged by.

    Attributes:
        name: as in `metrics.jsonl`, without `valid_`.
        maximise: whether the larger figure is the better one.
    """

    name: str
    maximise: bool

    def is_better(self, value: float, best: float | None) -> bool:
        """Whether a figure is better than the best so far, None where there is none."""
        if not math.isfinite(value):
            return False
        return best is None or (value > best if self.maximise else value < best)

    def is_better_epoch(self, figures: Figures, best: Figures | None) -> bool:
        """Whether an epoch's figure is better than that of the best epoch so far."""
        return self.is_better(figures[self.name], None if best is None else best[self.name])


def list_metric(config: RankingConfig, num_items: int) -> Metric:
    """What lists are judged by on validation rows.

    Args:
        config: which names the figure, and how long lists are.
        num_items: of the catalogue; no list is longer.
    """
    return Metric(f"{config.metric}@{min(config.at, num_items)}", maximise=True)


class Costs(NamedTuple):
    """What a batch costs.

    Attributes:
        total: scalar; the sum over targets of what is minimised; a gradient reaches the weights.
        squared: float64 scalar; sum of the squared errors of predicted ratings, 0 without any.
        listed: float64 scalar; sum of the positives' list losses, 0 without any.
        positives: how many targets are positives, int64 scalar.
    """

    total: Tensor
    squared: Tensor
    listed: Tensor
    positives: Tensor


class Objective(Protocol):
    """What training minimises, and what judges an epoch."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What epochs are judged by: an epoch that is the best by any of them is progress."""

    @property
    def list_length(self) -> int | None:
        """How long the validation lists are; None where none are wanted."""

    @property
    def list_metric(self) -> str:
        """What judges the lists alone; empty where none are wanted."""

    def is_better(self, figures: Figures, best: Figures | None) -> bool:
        """Whether an epoch is better than the best so far; the first one is."""

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next batches are of, for what changes from epoch to epoch."""

    def sampler(self, device: torch.device) -> Draw | None:
        """What draws the items that a batch's lists are learned from; None where none are wanted.

        Args:
            device: where batches are made.
        """

    def costs(self, model: RatingModel, encoded: Encoded, batch: EdgeBatch) -> Costs:
        """What a batch costs."""


class RatingObjective:
    """Predicted ratings, judged by RMSE.

    Args:
        loss: of each prediction and rating.
    """

    metrics = (Metric("rmse", maximise=False),)
    list_length = None
    list_metric = ""

    def __init__(self, loss: Loss) -> None:
        self._loss = loss

    def is_better(self, figures: Figures, best: Figures | None) -> bool:
        """Whether its RMSE is lower."""
        return self.metrics[0].is_better_epoch(figures, best)

    def set_epoch(self, epoch: int) -> None:
        """All epochs are alike."""

    def sampler(self, device: torch.device) -> None:
        """No list is learned."""

    def costs(self, model: RatingModel, encoded: Encoded, batch: EdgeBatch) -> Costs:
        """The loss of each target's predicted rating."""
        predictions = model.rate(encoded, batch)
        losses = self._loss(predictions, batch.ratings)
        if losses.shape != batch.ratings.shape:
            raise UsageError(
                f"train.loss: gives {list(losses.shape)} for {len(predictions)} predictions; give "
                "the loss of each, and not their mean or sum"
            )
        squared = (predictions.detach() - batch.ratings) ** 2
        if batch.present is not None:
            losses, squared = losses * batch.present, squared * batch.present
        if batch.weights is not None:
            losses = losses * batch.weights
        squared = squared.sum().double()
        return Costs(losses.sum(), squared, torch.zeros_like(squared), _none(batch))


class RankingObjective:
    """Lists, judged by NDCG or recall.

    Args:
        config: how lists are trained; its negatives resolved.
        dataset: whose training ratings are learned from.
        device: where batches come from.

    Raises:
        UsageError: no training rating is high enough for a positive, or positives are to be weighed
            by ratings that are not there.
    """

    def __init__(self, config: RankingConfig, dataset: RatingDataset, device: torch.device) -> None:
        graph = dataset.graph
        self._config = config
        self._from = positives_from(config, dataset)
        self._by_rating = config.positive_weights == "rating"
        if self._by_rating and not dataset.has_ratings:
            raise UsageError(
                "ranking.positive_weights = rating: the data set holds interactions, and no rating "
                "to weigh them by; take equal"
            )
        self._unit = _mean_weight(dataset, self._from) if self._by_rating else 1.0
        self._step = float(dataset.scale.step)
        self._penalty = config.penalty(graph.num_edges, graph.num_items)
        self._graph = graph
        self._loss = RankingLoss(config, KnownItems(graph, device))
        self._related = RelatedSampler(config, graph, device) if config.related_negatives else None
        self._epoch = 0
        self.list_length = min(config.at, graph.num_items)
        self.metrics = (list_metric(config, graph.num_items),)
        self.list_metric = self.metrics[0].name

    def is_better(self, figures: Figures, best: Figures | None) -> bool:
        """Whether its NDCG or recall is higher.

        Raises:
            UsageError: no validation row is relevant.
        """
        if self.list_metric not in figures:
            raise UsageError(
                "no validation row is relevant, so that lists cannot be judged; prepare the data "
                "set with a larger --valid"
            )
        return self.metrics[0].is_better_epoch(figures, best)

    def set_epoch(self, epoch: int) -> None:
        """Which epoch says how many related negatives a target has."""
        self._epoch = epoch

    def sampler(self, device: torch.device) -> Draw | None:
        """What draws pools; None where the catalogue is what lists are learned from."""
        if self._config.negatives == "catalogue":
            return None
        return PoolSampler(self._config, self._graph, device, self._from)

    def costs(self, model: RatingModel, encoded: Encoded, batch: EdgeBatch) -> Costs:
        """The list loss of each target that is a positive."""
        of_users, of_items, list_rows = encoded.users, encoded.items, encoded.list_rows
        if of_users is None or of_items is None or list_rows is None:
            raise ValueError("the model has no list head")
        wanted = self._config.negatives != "catalogue"
        if wanted != (batch.pool is not None) or not (wanted or batch.every_item):
            raise ValueError(
                f"negatives {self._config.negatives} go with a loader that has "
                f"{'drawn a pool' if wanted else 'all items in its batches, and drawn no pool'}"
            )
        if self._related is not None and not batch.every_item:
            raise ValueError("related negatives go with a loader that has all items in its batches")
        # Items that are predicted as unseen have no place among the others: they are left to the
        # rating head.
        ranked = batch.items < len(of_items.base)
        if batch.present is not None:
            ranked &= batch.present > 0
        liked = (batch.ratings >= self._from) & ranked
        if batch.rated is not None:
            return self._costs_of_fixed(encoded, batch, ranked, liked)
        disliked = ~liked & ranked
        users = batch.users.masked_select(liked)
        if not len(users):
            zero = of_users.factors.sum() * 0 + of_items.factors.sum() * 0 + of_items.base.sum() * 0
            nothing = torch.zeros((), dtype=torch.float64, device=zero.device)
            return Costs(zero, nothing, nothing, _none(batch))
        targets = Targets(
            nodes=batch.user_nodes,
            users=users,
            items=batch.items.masked_select(liked).long(),
            disliked_users=batch.users.masked_select(disliked),
            disliked_items=batch.items.masked_select(disliked).long(),
            related=self._related_to(batch, users),
        )
        losses = self._loss(of_users, of_items, targets, batch.pool)
        if self._by_rating:
            ratings = batch.ratings.masked_select(liked)
            losses = losses * ((ratings - self._from + self._step) / self._unit)
        listed = losses.sum()
        total = listed + len(users) * self._penalties(list_rows)
        if self._config.vector_l2:
            # Of a step over the whole graph few users have targets.
            counts = torch.bincount(targets.users, minlength=len(of_users.factors))
            rows = counts.nonzero().squeeze(1)
            squares = _squares(of_users.of(rows), counts[rows].float())
            counts = torch.bincount(targets.items, minlength=len(of_items.factors))
            squares = squares + _squares(of_items, counts.float())
            total = total + self._config.vector_l2 * squares
        positives = torch.tensor(len(users), device=listed.device)
        return Costs(total, _zero(listed), listed.detach().double(), positives)

    def _costs_of_fixed(
        self, encoded: Encoded, batch: EdgeBatch, ranked: Tensor, liked: Tensor
    ) -> Costs:
        """The same for a batch of fixed shape: each target counts or does not.

        Args:
            encoded: with list terms.
            batch: with what its users have rated.
            ranked: bool [B]; targets, and of items that are not predicted as unseen.
            liked: bool [B]; positives among them.
        """
        of_users, of_items, list_rows, rated = (
            encoded.users,
            encoded.items,
            encoded.list_rows,
            batch.rated,
        )
        assert of_users is not None and of_items is not None
        assert list_rows is not None and rated is not None
        items = batch.items.clamp(max=len(of_items.base) - 1).long()
        related = self._related_to(batch, batch.users)
        targets = FixedTargets(batch.users, items, ranked & ~liked, rated, related)
        losses = self._loss.of_fixed(of_users, of_items, targets, batch.pool)
        weights = liked.to(losses.dtype)
        if self._by_rating:
            weights = weights * ((batch.ratings - self._from + self._step) / self._unit)
        # What is no positive may cost anything, infinity too.
        listed = (losses.masked_fill(~liked, 0.0) * weights).sum()
        positives = liked.sum()
        total = listed + positives * self._penalties(list_rows)
        if self._config.vector_l2:
            squares = _squares(of_users, _counts(of_users, batch.users, liked))
            squares = squares + _squares(of_items, _counts(of_items, items, liked))
            total = total + self._config.vector_l2 * squares
        return Costs(total, _zero(listed), listed.detach().double(), positives)

    def _related_to(self, batch: EdgeBatch, users: Tensor) -> Related | None:
        """Negatives that users, int64 [B] positions in the batch, are somewhat related to."""
        count = self._config.related_in(self._epoch)
        if self._related is None or not count:
            return None
        return self._related.draw(batch.user_nodes.index_select(0, users), count)

    def _penalties(self, list_rows: ListRows) -> Tensor | float:
        """What the squared list vectors of items cost each positive."""
        total: Tensor | float = 0.0
        if self._penalty:
            for rows in list_rows:
                if rows is not None:
                    total = total + self._penalty * torch.linalg.vector_norm(rows).square()
        return total


class BothObjective:
    """Ratings and lists at once.

    An epoch is better than the best so far if its lists gain more than its RMSE loses, both in
    percent of their mean over the two epochs. A percent of RMSE is worth five of the lists, as RMSE
    moves so much less from epoch to epoch of one training.

    Of the lists' gain counts the part that can be expected to be true. The list figure is a mean
    over the validation users, and the fewer these are, or the fewer of them find anything, the more
    it differs between epochs by chance. If true gains have a standard deviation t, and what is
    measured is the true gain plus an error with standard deviation e, the expected true gain is
    t^2 / (t^2 + e^2) of the measured one (shrinkage; Efron and Morris, "Data analysis using
    Stein's estimator and its generalizations", JASA 70, 1975). So where lists say little RMSE
    decides, and where they are certain both do.

    e^2 is the sum of both epochs' squared standard errors. That is too much, as the same users are
    listed in both; with t chosen for this e (`_SPREAD_OF_EPOCHS`) it does no harm.

    Args:
        rating: the ratings' objective.
        ranking: the lists'.
        weight: of the lists' costs.
    """

    def __init__(self, rating: RatingObjective, ranking: RankingObjective, weight: float) -> None:
        self._rating, self._ranking, self._weight = rating, ranking, weight
        self.list_length, self.list_metric = ranking.list_length, ranking.list_metric
        self.metrics = (*rating.metrics, *ranking.metrics)

    def is_better(self, figures: Figures, best: Figures | None) -> bool:
        """Whether what the lists gain for certain is more than what RMSE loses."""
        if best is None:
            return math.isfinite(figures["rmse"])
        lost = WORTH_OF_RMSE * _relative(figures["rmse"], best["rmse"])
        # Where no validation row is relevant there are no lists to judge by.
        name = self.list_metric
        gained = 0.0 if name not in figures else _certain_gain(figures, best, name)
        return gained > lost

    def set_epoch(self, epoch: int) -> None:
        """As the lists' objective."""
        self._ranking.set_epoch(epoch)

    def sampler(self, device: torch.device) -> Draw | None:
        """The lists'."""
        return self._ranking.sampler(device)

    def costs(self, model: RatingModel, encoded: Encoded, batch: EdgeBatch) -> Costs:
        """Both costs, the lists' weighed."""
        rated = self._rating.costs(model, encoded, batch)
        listed = self._ranking.costs(model, encoded, batch)
        return Costs(
            rated.total + self._weight * listed.total,
            rated.squared,
            listed.listed,
            listed.positives,
        )


def _relative(value: float, other: float) -> float:
    """How much larger a figure is than another, both 0 or more, in parts of their mean: -2 to 2."""
    mean = (value + other) / 2
    return (value - other) / mean if mean else 0.0


def _certain_gain(figures: Figures, best: Figures, name: str) -> float:
    """The part of a figure's relative gain that is expected to be true; see `BothObjective`.

    Figures that come without a standard error, as those of earlier checkpoints do, are taken as
    certain.
    """
    noise = sum(one.get(standard_error_of(name), 0.0) ** 2 for one in (figures, best))
    spread = (_SPREAD_OF_EPOCHS * (figures[name] + best[name]) / 2) ** 2
    if not spread:
        return 0.0  # no user of either epoch found anything
    return spread / (spread + noise) * _relative(figures[name], best[name])


def make_objective(
    heads: str, loss: str, ranking: RankingConfig, dataset: RatingDataset, device: torch.device
) -> Objective:
    """The objective of a model.

    Args:
        heads: of the model: rating, lists or both.
        loss: of a predicted rating.
        ranking: how lists are trained.
        dataset: the training ratings.
        device: where batches are computed.
    """
    if heads == "rating":
        return RatingObjective(make_loss(loss, dataset))
    lists = RankingObjective(ranking, dataset, device)
    if heads == "lists":
        return lists
    return BothObjective(RatingObjective(make_loss(loss, dataset)), lists, ranking.weight)


def positives_from(config: RankingConfig, dataset: RatingDataset) -> float:
    """The least rating of a positive target.

    Raises:
        UsageError: no training rating is as high.
    """
    if config.positives_from == "all":
        return float(dataset.scale.minimum)
    given = config.positives_from
    least: float = next_level(dataset.mean_rating, dataset) if given == "auto" else given
    levels = dataset.scale.decode(np.arange(dataset.scale.levels))
    if not dataset.graph.level_counts[levels >= least].any():
        raise UsageError(
            f"ranking.positives_from {least:g}: no training rating is as high, so there is no "
            f"positive; the scale is {dataset.scale}"
        )
    return float(least)


def _mean_weight(dataset: RatingDataset, least: float) -> float:
    """The mean over the training positives of how far, in ratings, each is above what is none."""
    scale, counts = dataset.scale, dataset.graph.level_counts
    above = scale.decode(np.arange(scale.levels)) - least + scale.step
    positive = above > 0
    return float((counts * above)[positive].sum() / counts[positive].sum())


def _counts(terms: ListTerms, rows: Tensor, counted: Tensor) -> Tensor:
    """How many of B targets that count, bool [B], each node has, [N]; `rows` are their nodes."""
    none = terms.factors.new_zeros(len(terms.factors), dtype=torch.float32)
    return none.index_add(0, rows, counted.float())


def _squares(terms: ListTerms, counts: Tensor) -> Tensor:
    """The squared lengths of N nodes' vectors, each as often as `counts`, [N], says, in sum."""
    return counts @ terms.factors.square().sum(1).to(counts.dtype)


def _none(batch: EdgeBatch) -> Tensor:
    return torch.zeros((), dtype=torch.int64, device=batch.ratings.device)


def _zero(like: Tensor) -> Tensor:
    return torch.zeros((), dtype=torch.float64, device=like.device)
