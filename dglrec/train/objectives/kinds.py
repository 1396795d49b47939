"""The objectives for ratings, for lists, and for both."""

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
"""The change of the lists' figure, in percent, that counts as much as 1 % of RMSE; see
`BothObjective`."""

# The t of `BothObjective`, chosen on validation rows of MovieLens 100K, the anime sample and Ciao,
# with three trainings of each. A random half of the users, drawn 200 times, chose the epoch by
# their lists, and the other half measured it by NDCG / RMSE^5. The gain over a training's mean
# epoch, in percent, summed over the three sets, was 26.3 with t = 0 (RMSE alone), 27.6 with 0.02,
# 28.2 with 0.04, 28.3 with 0.08, 27.6 with 0.16, and 27.3 where the measured gain counts in full.
# Of the two best values, 0.04 has the lower RMSE on each set.
_SPREAD_OF_EPOCHS = 0.04


Figures = Mapping[str, float]
"""An epoch's validation figures by name, as in `metrics.jsonl` without `valid_`."""


def standard_error_of(name: str) -> str:
    """The name of a figure's standard error among the validation figures."""
    return f"{name}_standard_error"


class Metric(NamedTuple):
    """A validation figure by which epochs are judged.

    Attributes:
        name: as in `metrics.jsonl`, without `valid_`.
        maximise: whether larger figures are better.
    """

    name: str
    maximise: bool

    def is_better(self, value: float, best: float | None) -> bool:
        """Whether a figure is better than the best so far, which is None at first."""
        if not math.isfinite(value):
            return False
        return best is None or (value > best if self.maximise else value < best)

    def is_better_epoch(self, figures: Figures, best: Figures | None) -> bool:
        """Whether an epoch's figure is better than that of the best epoch so far."""
        return self.is_better(figures[self.name], None if best is None else best[self.name])


def list_metric(config: RankingConfig, num_items: int) -> Metric:
    """The metric of validation lists.

    Args:
        config: the name of the figure, and the length of the lists.
        num_items: the size of the catalogue, which limits the length.
    """
    return Metric(f"{config.metric}@{min(config.at, num_items)}", maximise=True)


class Costs(NamedTuple):
    """The losses of a batch.

    Attributes:
        total: scalar; the loss to minimise, summed over targets, with a gradient to the weights.
        squared: float64 scalar; sum of the squared errors of predicted ratings, 0 without any.
        listed: float64 scalar; sum of the positives' list losses, 0 without any.
        positives: int64 scalar; the number of positive targets.
    """

    total: Tensor
    squared: Tensor
    listed: Tensor
    positives: Tensor


class Objective(Protocol):
    """The loss that training minimises, and the judgement of epochs."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics of an epoch; an epoch that is the best by any of them counts as progress."""

    @property
    def list_length(self) -> int | None:
        """The length of validation lists; None without lists."""

    @property
    def list_metric(self) -> str:
        """The name of the metric of lists; empty without lists."""

    def is_better(self, figures: Figures, best: Figures | None) -> bool:
        """Whether an epoch is better than the best so far; the first epoch always is."""

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next batches, as some losses change from epoch to epoch."""

    def sampler(self, device: torch.device) -> Draw | None:
        """A sampler of the items that lists are learned from; None where none are sampled.

        Args:
            device: the device of the batches.
        """

    def costs(self, model: RatingModel, encoded: Encoded, batch: EdgeBatch) -> Costs:
        """The losses of a batch."""


class RatingObjective:
    """Predicted ratings, judged by RMSE.

    Args:
        loss: predictions and ratings -> the loss of each.
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
        """Nothing changes from epoch to epoch."""

    def sampler(self, device: torch.device) -> None:
        """None: no lists are learned."""

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
        config: how lists are trained, with resolved negatives.
        dataset: the data set to train on.
        device: the device of the batches.

    Raises:
        UsageError: no training rating is high enough for a positive, or positives are to be
            weighted by ratings in a data set of interactions.
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
        """Set the epoch, which determines the number of related negatives of a target."""
        self._epoch = epoch

    def sampler(self, device: torch.device) -> Draw | None:
        """The sampler of pools; None where lists are learned from the whole catalogue."""
        if self._config.negatives == "catalogue":
            return None
        return PoolSampler(self._config, self._graph, device, self._from)

    def costs(self, model: RatingModel, encoded: Encoded, batch: EdgeBatch) -> Costs:
        """The list losses of the positive targets."""
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
        # Items that the loader treats as unseen are not among the item terms: only the rating head
        # learns from their targets.
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
            # Only users with targets: in a step over the whole graph these are few.
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
        """`costs` for a batch of fixed shape, in which masks say which targets count.

        Args:
            encoded: with list terms.
            batch: with the items that its users have rated.
            ranked: bool [B]; targets whose items are not treated as unseen.
            liked: bool [B]; the positives among these.
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
        # The losses of targets other than positives are arbitrary, and may be infinite.
        listed = (losses.masked_fill(~liked, 0.0) * weights).sum()
        positives = liked.sum()
        total = listed + positives * self._penalties(list_rows)
        if self._config.vector_l2:
            squares = _squares(of_users, _counts(of_users, batch.users, liked))
            squares = squares + _squares(of_items, _counts(of_items, items, liked))
            total = total + self._config.vector_l2 * squares
        return Costs(total, _zero(listed), listed.detach().double(), positives)

    def _related_to(self, batch: EdgeBatch, users: Tensor) -> Related | None:
        """Related negatives of users, int64 [B] positions in the batch; None without any."""
        count = self._config.related_in(self._epoch)
        if self._related is None or not count:
            return None
        return self._related.draw(batch.user_nodes.index_select(0, users), count)

    def _penalties(self, list_rows: ListRows) -> Tensor | float:
        """The penalty on the squared list vectors of items, for each positive."""
        total: Tensor | float = 0.0
        if self._penalty:
            for rows in list_rows:
                if rows is not None:
                    total = total + self._penalty * torch.linalg.vector_norm(rows).square()
        return total


class BothObjective:
    """Ratings and lists together.

    An epoch is better than the best so far if its lists gain more than its RMSE loses, both in
    percent of their mean over the two epochs. 1 % of RMSE counts as much as 5 % of the lists'
    figure, because RMSE changes much less from epoch to epoch of a training.

    Only the part of the lists' gain that is expected to be true counts. The list figure is a mean
    over the validation users, and it varies the more between epochs by chance, the fewer these are,
    or the fewer of them find anything. If true gains have a standard deviation t, and the measured
    gain is the true gain plus an error with standard deviation e, the expected true gain is
    t^2 / (t^2 + e^2) of the measured gain (shrinkage; Efron and Morris, "Data analysis using
    Stein's estimator and its generalizations", JASA 70, 1975). So RMSE decides where the list
    figure is uncertain, and both decide where it is certain.

    e^2 is the sum of both epochs' squared standard errors. This overestimates the error, as both
    epochs are measured on the same users; since t was chosen for this e (`_SPREAD_OF_EPOCHS`), it
    does no harm.

    Args:
        rating: the objective for ratings.
        ranking: the objective for lists.
        weight: the weight of the lists' losses.
    """

    def __init__(self, rating: RatingObjective, ranking: RankingObjective, weight: float) -> None:
        self._rating, self._ranking, self._weight = rating, ranking, weight
        self.list_length, self.list_metric = ranking.list_length, ranking.list_metric
        self.metrics = (*rating.metrics, *ranking.metrics)

    def is_better(self, figures: Figures, best: Figures | None) -> bool:
        """Whether the expected gain of the lists is more than the loss of RMSE."""
        if best is None:
            return math.isfinite(figures["rmse"])
        lost = WORTH_OF_RMSE * _relative(figures["rmse"], best["rmse"])
        # Where no validation row is relevant there are no lists to judge by.
        name = self.list_metric
        gained = 0.0 if name not in figures else _certain_gain(figures, best, name)
        return gained > lost

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the lists' objective."""
        self._ranking.set_epoch(epoch)

    def sampler(self, device: torch.device) -> Draw | None:
        """The sampler of the lists' objective."""
        return self._ranking.sampler(device)

    def costs(self, model: RatingModel, encoded: Encoded, batch: EdgeBatch) -> Costs:
        """The sum of both objectives' losses, that of the lists times its weight."""
        rated = self._rating.costs(model, encoded, batch)
        listed = self._ranking.costs(model, encoded, batch)
        return Costs(
            rated.total + self._weight * listed.total,
            rated.squared,
            listed.listed,
            listed.positives,
        )


def _relative(value: float, other: float) -> float:
    """The difference of two figures, both 0 or more, relative to their mean: -2 to 2."""
    mean = (value + other) / 2
    return (value - other) / mean if mean else 0.0


def _certain_gain(figures: Figures, best: Figures, name: str) -> float:
    """The expected true part of a figure's relative gain; see `BothObjective`.

    Figures without a standard error, such as those of earlier checkpoints, count as certain.
    """
    noise = sum(
        epoch_figures.get(standard_error_of(name), 0.0) ** 2 for epoch_figures in (figures, best)
    )
    spread = (_SPREAD_OF_EPOCHS * (figures[name] + best[name]) / 2) ** 2
    if not spread:
        return 0.0  # both figures are 0
    return spread / (spread + noise) * _relative(figures[name], best[name])


def make_objective(
    heads: str, loss: str, ranking: RankingConfig, dataset: RatingDataset, device: torch.device
) -> Objective:
    """The objective of a model.

    Args:
        heads: the heads of the model: `rating`, `lists` or `both`.
        loss: the name of the loss of predicted ratings.
        ranking: how lists are trained.
        dataset: the data set to train on.
        device: the device of the batches.
    """
    if heads == "rating":
        return RatingObjective(make_loss(loss, dataset))
    lists = RankingObjective(ranking, dataset, device)
    if heads == "lists":
        return lists
    return BothObjective(RatingObjective(make_loss(loss, dataset)), lists, ranking.weight)


def positives_from(config: RankingConfig, dataset: RatingDataset) -> float:
    """The lowest rating of a positive target.

    Raises:
        UsageError: all training ratings are lower.
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
    """The mean of rating - least + step over the training positives, which normalises weights."""
    scale, counts = dataset.scale, dataset.graph.level_counts
    above = scale.decode(np.arange(scale.levels)) - least + scale.step
    positive = above > 0
    return float((counts * above)[positive].sum() / counts[positive].sum())


def _counts(terms: ListTerms, rows: Tensor, counted: Tensor) -> Tensor:
    """The number of counted targets, bool [B], of each node, [N]; `rows` are the targets' nodes."""
    zeros = terms.factors.new_zeros(len(terms.factors), dtype=torch.float32)
    return zeros.index_add(0, rows, counted.float())


def _squares(terms: ListTerms, counts: Tensor) -> Tensor:
    """The sum over N nodes of counts, [N], times the squared length of the node's vector."""
    return counts @ terms.factors.square().sum(1).to(counts.dtype)


def _none(batch: EdgeBatch) -> Tensor:
    return torch.zeros((), dtype=torch.int64, device=batch.ratings.device)


def _zero(like: Tensor) -> Tensor:
    return torch.zeros((), dtype=torch.float64, device=like.device)
