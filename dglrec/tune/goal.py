"""The figure that a search optimises: the one by which training judges its epochs."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dglrec.dataset import RatingDataset
from dglrec.train import WORTH_OF_RMSE, Metric, RankingConfig, RatingObjective, list_metric

HEADS = ("rating", "lists", "both")
_RMSE = RatingObjective.metrics[0]


@dataclass(frozen=True)
class Goal:
    """A single number for a model, from its validation figures.

    For ratings it is RMSE, for lists `ranking.metric` at `ranking.at`. For both it is the figure of
    the lists divided by RMSE^5: a change of RMSE by 1 % then counts as much as a change of the
    lists' figure by 5 %, as in `BothObjective`, which judges the epochs.

    Attributes:
        metrics: the figures that the number is computed from; of two the first is RMSE.
    """

    metrics: tuple[Metric, ...]

    @classmethod
    def of(cls, heads: str, ranking: RankingConfig, dataset: RatingDataset) -> "Goal":
        """The goal of a model.

        Args:
            heads: `rating`, `lists` or `both`.
            ranking: how lists are trained and judged.
            dataset: the data set, whose items lists are made of.
        """
        of_lists = list_metric(ranking, dataset.meta["counts"]["items"])
        return cls({"rating": (_RMSE,), "lists": (of_lists,), "both": (_RMSE, of_lists)}[heads])

    @property
    def name(self) -> str:
        """The name of the figure in the table."""
        if len(self.metrics) == 1:
            return "RMSE" if self.metrics == (_RMSE,) else self.metrics[0].name
        return f"{self.metrics[1].name} / RMSE^{WORTH_OF_RMSE:g}"

    @property
    def maximise(self) -> bool:
        """Whether larger figures are better."""
        return self.metrics[-1].maximise

    def value(self, figures: Mapping[str, Any]) -> float | None:
        """The number; None where a figure that it needs is missing or not finite.

        Args:
            figures: by name, of an epoch or of a finished run.
        """
        found: list[Any] = [figures.get(metric.name) for metric in self.metrics]
        if any(figure is None or not math.isfinite(figure) for figure in found):
            return None
        if len(found) == 1:
            return float(found[0])
        rmse, listed = found
        return float(listed / rmse**WORTH_OF_RMSE) if rmse else None
