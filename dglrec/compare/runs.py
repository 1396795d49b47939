"""`compare_runs`: opens runs, checks that they share rows, and compares their figures by user."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dglrec.compare.groups import check_options, compare
from dglrec.compare.rows import SharedRows
from dglrec.compare.statistics import UserSums
from dglrec.compare.sums import length_of_lists, list_sums, predict_rows, rows_of_run, user_sums
from dglrec.errors import DataError, UsageError
from dglrec.evaluate import RankingTargets
from dglrec.evaluate.ranking import check_ranking
from dglrec.run import Predictor, open_predictor

SPLITS = ("test", "valid")
SCHEMA_VERSION = 1


def compare_runs(
    groups: Mapping[str, Sequence[Path]],
    split: str = "test",
    *,
    ranking: int | None = None,
    relevant_from: float | None = None,
    draws: int = 2_000,
    level: float = 0.95,
    seed: int = 0,
    dataset: Path | None = None,
    device: torch.device | None = None,
) -> dict[str, Any]:
    """All that `dglrec compare` reports.

    Args:
        groups: runs by the name of their configuration, two configurations or more. Their data
            sets may differ in everything but the rows of the split, the ids in them and the scale.
        split: `test` or `valid`.
        ranking: the length of the lists to compare; None compares predicted ratings, or lists of
            10 where the first run predicts no ratings.
        relevant_from: the lowest rating of a relevant item; None for the first run's mean training
            rating, rounded up to the scale.
        draws: the number of bootstrap samples of users.
        level: the level of the intervals.
        seed: the seed of the bootstrap.
        dataset: the data set of runs whose recorded data set was moved.
        device: where models compute; None for the CPU.

    Returns:
        `schema_version`, `split` and the fields of `Comparison`; for lists also their length
        `ranking`, and `relevant_from`, None for interactions.

    Raises:
        UsageError: there are fewer than two configurations, a run is given twice, or an option is
            out of range.
        DataError: a run or its data set cannot be opened, two runs hold the same model, or their
            rows are not the same.
        DglrecError: a prediction is not finite.
    """
    if split not in SPLITS:
        raise UsageError(f"no split {split!r} to compare on; choose {' or '.join(SPLITS)}")
    check_options(draws, level, seed)
    _check_groups(groups)
    shared: SharedRows | None = None
    lists: SharedLists | None = None
    models: dict[str, Path] = {}
    sums: dict[str, list[UserSums]] = {}
    for name, runs in groups.items():
        sums[name] = []
        for run in runs:
            trained = open_predictor(run, fallback=dataset, device=device)
            rows = rows_of_run(trained, run, split)
            if shared is None:
                shared = SharedRows.of(trained.dataset, run, split, rows)
                lists = SharedLists.of(trained, split, ranking, relevant_from)
            order = shared.order_of(trained.dataset, run, rows)
            twin = models.setdefault(trained.identity["weights"], run)
            if twin != run:
                raise DataError(
                    f"{run}: holds the same weights as {twin}, so there is nothing to compare; "
                    "leave one out, or train it with another seed"
                )
            if lists is not None:
                sums[name].append(lists.sums(trained, run, shared))
                continue
            ordered = predict_rows(trained, run, rows)[torch.from_numpy(order)]
            sums[name].append(user_sums(ordered, shared.rows, shared.scale, len(shared.users)))
    assert shared is not None
    result: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "split": split,
        **compare(sums, draws=draws, level=level, seed=seed).to_dict(),
    }
    if lists is not None:
        return {**result, "ranking": lists.k, "relevant_from": lists.shown_level}
    ratings = shared.rows.ratings
    if bool((ratings == ratings[0]).all()):
        result["notes"].append(
            f"every {split} rating is {float(ratings[0]):g}: figures say how close predictions "
            "come to it, not whether they tell ratings apart"
        )
    return result


@dataclass(frozen=True)
class SharedLists:
    """The lists that runs are compared by.

    Attributes:
        split: the split whose rows the lists are compared with.
        k: the length of the lists.
        relevant_from: the lowest rating of a relevant item, the same for all runs.
    """

    split: str
    k: int
    relevant_from: float

    @classmethod
    def of(
        cls, first: Predictor, split: str, ranking: int | None, relevant_from: float | None
    ) -> "SharedLists | None":
        """The lists to compare; None where predicted ratings are compared.

        Args:
            first: the first run, which determines the defaults.
            split: see `compare_runs`.
            ranking: see `compare_runs`.
            relevant_from: see `compare_runs`.

        Raises:
            UsageError: such lists are not possible, or `relevant_from` is given for ratings.
        """
        k = length_of_lists(first, ranking)
        if k is None:
            if relevant_from is not None:
                raise UsageError("--relevant-from goes with --ranking K")
            return None
        return cls(split, k, check_ranking(first.dataset, split, [k], relevant_from))

    @property
    def shown_level(self) -> float | None:
        """The lowest rating of a relevant item, None where all items are relevant."""
        return self.relevant_from if math.isfinite(self.relevant_from) else None

    def sums(self, trained: Predictor, run: Path, shared: SharedRows) -> UserSums:
        """Figures of a run's lists, by shared user."""
        dataset = trained.dataset
        check_ranking(dataset, self.split, [self.k], self.relevant_from)
        targets = RankingTargets.of(dataset, self.split, self.relevant_from)
        found = list_sums(trained.best, targets, self.k, f"lists of {run}")
        users = shared.users_of(dataset, found.users)
        order = np.argsort(users)
        return replace(found, users=users[order], sums=found.sums[order])


def _check_groups(groups: Mapping[str, Sequence[Path]]) -> None:
    """Refuse groups that cannot be compared.

    Raises:
        UsageError: there are fewer than two groups, a group is empty, or a run is given twice.
    """
    if len(groups) < 2:
        raise UsageError("nothing to compare with; give two runs or more, or NAME=RUN,RUN,...")
    seen = set()
    for name, runs in groups.items():
        if not runs:
            raise UsageError(f"{name}: names no run; write NAME=RUN,RUN,...")
        for run in runs:
            place = Path(run).resolve()
            if place in seen:
                raise UsageError(f"{run}: given twice; give each run once")
            seen.add(place)
