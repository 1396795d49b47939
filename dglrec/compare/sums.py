"""A run -> its figures summed by user: errors of predicted ratings, or what its lists hold."""

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
"""What is said of predicted ratings; the first is what runs are told apart by."""

LIST_FIGURES = ("ndcg", "recall", "hit_rate")
"""What is said of lists, each at their length."""


def rows_of_run(trained: Predictor, run: Path, split: str) -> HeldOut:
    """A run's held-out rows, in the order of its data set.

    Raises:
        UsageError: there are no rows, or the run has seen them.
    """
    dataset = trained.dataset
    try:
        trained.check_unseen(split)
    except UsageError as error:
        raise UsageError(f"{run}: {error}") from error
    trained.prepare()  # before the rows are there: each takes much memory
    return dataset.held_out(split)


def predict_rows(trained: Predictor, run: Path, rows: HeldOut) -> Tensor:
    """Predicted ratings of rows, as `evaluate` has them.

    Raises:
        UsageError: the model predicts no ratings.
        DglrecError: a prediction is not finite.
    """
    if not trained.rates:
        raise UsageError(f"{run}: predicts no ratings; compare lists, with --ranking 10")
    found = trained.predict(rows.users, rows.items)
    if not bool(found.isfinite().all()):
        raise DglrecError(
            f"{run}: its predictions are no finite numbers; train it again, with a smaller "
            "train.learning_rate"
        )
    return found


def user_sums(predictions: Tensor, rows: HeldOut, scale: RatingScale, num_users: int) -> UserSums:
    """Sums of errors by user, of which come the figures that `evaluate` reports.

    Args:
        predictions: float [n], not clipped.
        rows: n rows.
        scale: the rating scale.
        num_users: users are below it.
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
    """What runs are compared by: lists of a length, or predicted ratings where there is none."""
    if ranking is None:
        return RATING_FIGURES
    return tuple(f"{name}@{ranking}" for name in LIST_FIGURES)


def length_of_lists(trained: Predictor, ranking: int | None) -> int | None:
    """How long the lists are that runs are compared by; None where they are by predicted ratings.

    Args:
        trained: the first of the runs.
        ranking: the length that is asked for; None takes ratings where there are any.
    """
    return DEFAULT_K if ranking is None and not trained.rates else ranking


def list_sums(best: Best, targets: RankingTargets, k: int, what: str | None = None) -> UserSums:
    """Figures of the list of each user with a relevant item.

    Args:
        best: ranks the catalogue.
        targets: whose lists are made, and what they are held against.
        k: how long they are.
        what: what the progress bar says; None for no bar.

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
