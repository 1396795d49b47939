"""What a search makes better: the figure by which training judges its epochs."""

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
    """One number for a model, out of its validation figures.

    Of ratings it is RMSE, of lists `ranking.metric` at `ranking.at`. Of both it is the lists'
    figure divided by RMSE^5: a percent of RMSE is then worth five of the lists, as in
    `BothObjective`, which judges the epochs.

    Attributes:
        metrics: the figures that it is made of; of several the first is RMSE.
    """

    metrics: tuple[Metric, ...]

    @classmethod
    def of(cls, heads: str, ranking: RankingConfig, dataset: RatingDataset) -> "Goal":
        """The goal of a model.

        Args:
            heads: rating, lists or both.
            ranking: how lists are trained and judged.
            dataset: whose items lists are made of.
        """
        of_lists = list_metric(ranking, dataset.meta["counts"]["items"])
        return cls({"rating": (_RMSE,), "lists": (of_lists,), "both": (_RMSE, of_lists)}[heads])

    @property
    def name(self) -> str:
        """What the table calls it."""
        if len(self.metrics) == 1:
            return "RMSE" if self.metrics == (_RMSE,) else self.metrics[0].name
        return f"{self.metrics[1].name} / RMSE^{WORTH_OF_RMSE:g}"

    @property
    def maximise(self) -> bool:
        """Whether the larger figure is the better one."""
        return self.metrics[-1].maximise

    def value(self, figures: Mapping[str, Any]) -> float | None:
        """The number; None where a figure that it is made of is missing or not finite.

        Args:
            figures: by name, of an epoch or of a finished run.
        """
        found: list[Any] = [figures.get(metric.name) for metric in self.metrics]
        if any(one is None or not math.isfinite(one) for one in found):
            return None
        if len(found) == 1:
            return float(found[0])
        rmse, listed = found
        return float(listed / rmse**WORTH_OF_RMSE) if rmse else None
