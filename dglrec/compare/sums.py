"""A run's figures summed by user: errors of predicted ratings, or metrics of its lists."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from dglrec.compare.statistics import Floats, UserSums
from dglrec.dataset import HeldOut
from dglrec.errors import DglrecError, UsageError
from dglrec.evaluate import RankingTargets
from dglrec.evaluate.ranking import DEFAULT_K, Best, lists_of
from dglrec.metrics import RANKING_METRICS, clip, level_of, ranking_values
from dglrec.run import Predictor
from dglrec.schema import RatingScale

RATING_FIGURES = ("rmse", "mae", "accuracy")
"""The figures of predicted ratings; the first is the leading one."""

LIST_FIGURES = ("ndcg", "recall", "hit_rate")
"""The figures of lists, each at the length of the lists; the first is the leading one."""


def rows_of_run(trained: Predictor, run: Path, split: str) -> HeldOut:
    """A run's held-out rows, in the order of its data set.

    Raises:
        UsageError: there are no rows, or the run has learned from them or reads them.
    """
    dataset = trained.dataset
    try:
        trained.check_unseen(split)
    except UsageError as error:
        raise UsageError(f"{run}: {error}") from error
    trained.prepare()  # before the rows are read: both take much memory
    return dataset.held_out(split)


def predict_rows(trained: Predictor, run: Path, rows: HeldOut) -> Tensor:
    """Predicted ratings of rows, the same as those that `evaluate` measures.

    Raises:
        UsageError: the model predicts no ratings.
        DglrecError: a prediction is not finite.
    """
    if not trained.rates:
        raise UsageError(f"{run}: predicts no ratings; compare lists, with --ranking 10")
    found = trained.predict(rows.users, rows.items)
    if not bool(found.isfinite().all()):
        raise DglrecError(
            f"{run}: its predictions are not finite numbers; train it again, with a smaller "
            "train.learning_rate"
        )
    return found


def user_sums(predictions: Tensor, rows: HeldOut, scale: RatingScale, num_users: int) -> UserSums:
    """Sums of errors by user, from which the figures of `evaluate` follow.

    Args:
        predictions: float [n], not clipped.
        rows: n rows.
        scale: the rating scale.
        num_users: U of the data set.
    """
    clipped, ratings = clip(predictions.double(), scale), rows.ratings.double()
    errors = (clipped - ratings).numpy()
    exact = (level_of(clipped, scale) == level_of(ratings, scale)).numpy()
    users = rows.users.numpy()
    counts = np.bincount(users, minlength=num_users)
    present = np.flatnonzero(counts)

    def by_user(values: npt.NDArray[Any]) -> Floats:
        sums: Floats = np.bincount(users, values, minlength=num_users).astype(np.float64)
        return sums[present]

    parts = (by_user(errors**2), by_user(np.abs(errors)), by_user(exact))
    return UserSums(
        present, counts[present].astype(np.float64), RATING_FIGURES, np.column_stack(parts)
    )


def metrics_of(ranking: int | None) -> tuple[str, ...]:
    """The metrics that runs are compared by: of lists of this length, or of ratings for None."""
    if ranking is None:
        return RATING_FIGURES
    return tuple(f"{name}@{ranking}" for name in LIST_FIGURES)


def length_of_lists(trained: Predictor, ranking: int | None) -> int | None:
    """The length of the lists that runs are compared by; None for predicted ratings.

    Args:
        trained: the first of the runs.
        ranking: the requested length; None for predicted ratings, if the run predicts them.
    """
    return DEFAULT_K if ranking is None and not trained.rates else ranking


def list_sums(best: Best, targets: RankingTargets, k: int, what: str | None = None) -> UserSums:
    """Figures of the list of each user with a relevant item.

    Args:
        best: ranks the catalogue.
        targets: the users, and the relevant items that their lists are compared with.
        k: the length of the lists.
        what: the label of the progress bar; None for no bar.

    Raises:
        DglrecError: a score is not a number.
    """
    rows = [RANKING_METRICS.index(name) for name in LIST_FIGURES]
    found: list[Floats] = []
    for lists in lists_of(best, targets, k, what=what):
        found.append(ranking_values(lists.relevant, lists.totals, [k])[rows, 0].T)
    return UserSums(
        users=targets.users,
        n=np.ones(len(targets.users)),
        metrics=metrics_of(k),
        sums=np.concatenate(found),
    )
