"""Metrics of predicted ratings."""

import math
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dglrec.schema import RatingScale

RATING_METRICS = ("rmse", "mae", "weighted_rmse", "accuracy", "n")
"""The names of the figures that `RatingSums.finish` returns."""


@dataclass(frozen=True)
class RatingSums:
    """The sums behind the rating metrics; sums of parts add up to the sums of the whole.

    Attributes:
        n: the number of rows.
        squared: sum of squared errors.
        absolute: sum of absolute errors.
        weighted: sum of weighted squared errors.
        weights: sum of weights.
        exact: the number of rows whose prediction rounds to the rating.
        predicted: sum of predictions, clipped to the scale.
        rated: sum of ratings.
    """

    n: float = 0.0
    squared: float = 0.0
    absolute: float = 0.0
    weighted: float = 0.0
    weights: float = 0.0
    exact: float = 0.0
    predicted: float = 0.0
    rated: float = 0.0

    def __add__(self, other: "RatingSums") -> "RatingSums":
        return RatingSums(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def finish(self) -> dict[str, float | int]:
        """`rmse`, `mae`, `weighted_rmse`, `accuracy` and `n`.

        Raises:
            ValueError: there were no rows.
        """
        if not self.n:
            raise ValueError("no rows to take a metric of")
        return {
            "rmse": math.sqrt(self.squared / self.n),
            "mae": self.absolute / self.n,
            "weighted_rmse": math.sqrt(self.weighted / self.weights),
            "accuracy": self.exact / self.n,
            "n": round(self.n),
        }


def class_weights(level_counts: npt.NDArray[np.int64]) -> Tensor:
    """float32 [levels]: the count of the most frequent training rating / the count of each rating.

    A rating that no training row has counts as if one row had it.
    """
    counts = np.maximum(level_counts, 1)
    return torch.from_numpy((counts.max() / counts).astype(np.float32))


def rating_sums(
    predictions: Tensor, ratings: Tensor, scale: RatingScale, weights: Tensor
) -> RatingSums:
    """Sums over n rows; arguments as in `rating_terms`."""
    return RatingSums(*rating_terms(predictions, ratings, scale, weights).sum(1).tolist())


def rating_terms(
    predictions: Tensor, ratings: Tensor, scale: RatingScale, weights: Tensor
) -> Tensor:
    """What each of n rows adds to each field of `RatingSums`, in field order, float64 [fields, n].

    Predictions are clipped to the scale first. A prediction is exact when, rounded half up to the
    scale's steps, it equals the rating.

    Args:
        predictions: float [n].
        ratings: float [n], on the scale.
        scale: the rating scale.
        weights: float [levels], from `class_weights`.
    """
    clipped = clip(predictions.double(), scale)
    ratings = ratings.double()
    errors = clipped - ratings
    levels = level_of(ratings, scale)
    row_weights = weights.to(levels.device)[levels].double()
    terms = {
        "n": torch.ones_like(ratings),
        "squared": errors**2,
        "absolute": errors.abs(),
        "weighted": row_weights * errors**2,
        "weights": row_weights,
        "exact": (level_of(clipped, scale) == levels).double(),
        "predicted": clipped,
        "rated": ratings,
    }
    return torch.stack([terms[field.name] for field in fields(RatingSums)])


def clip(predictions: Tensor, scale: RatingScale) -> Tensor:
    """Predictions clipped to the scale's range."""
    return predictions.clamp(scale.minimum, scale.maximum)


def level_of(ratings: Tensor, scale: RatingScale) -> Tensor:
    """int64 [n]: the level 0..levels-1 that each value rounds to, half up."""
    return torch.floor((ratings - scale.minimum) / scale.step + 0.5).long()
