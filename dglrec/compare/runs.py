"""Runs -> their sums of errors by user, on rows that are the same in all of them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from dglrec.compare.groups import check_options, compare
from dglrec.compare.statistics import UserSums, user_sums
from dglrec.dataset import HeldOut, RatingDataset
from dglrec.errors import DataError, DglrecError, UsageError
from dglrec.ids import IdMap
from dglrec.run import Predictor, open_predictor
from dglrec.schema import RatingScale

SPLITS = ("test", "valid")

_SAME_SOURCE = "compare runs on data sets prepared from one source with one split"


def compare_runs(
    groups: Mapping[str, Sequence[Path]],
    split: str = "test",
    *,
    draws: int = 2_000,
    level: float = 0.95,
    seed: int = 0,
    dataset: Path | None = None,
    device: torch.device | None = None,
) -> dict[str, Any]:
    """All that `dglrec compare` reports.

    Args:
        groups: runs by the name of their configuration, two configurations or more. Their data
            sets may differ in everything but the rows of the split, their ids and the scale.
        split: `test` or `valid`.
        draws: how often users are redrawn.
        level: of the intervals.
        seed: of the draws.
        dataset: where the data set is of runs whose own is no longer in its place.
        device: where models compute; None for the CPU.

    Returns:
        `split`, and the fields of `Comparison`.

    Raises:
        UsageError: there are fewer than two configurations, a run is there twice, or an option is
            out of range.
        DataError: a run or its data set cannot be opened, two hold the same model, or their rows
            are not the same.
        DglrecError: a prediction is not finite.
    """
    if split not in SPLITS:
        raise UsageError(f"no split {split!r} to compare on; choose {' or '.join(SPLITS)}")
    check_options(draws, level, seed)
    _check_groups(groups)
    shared: _SharedRows | None = None
    models: dict[str, Path] = {}
    sums: dict[str, list[UserSums]] = {}
    for name, runs in groups.items():
        sums[name] = []
        for run in runs:
            trained = open_predictor(run, fallback=dataset, device=device)
            predictions, rows = predict_held_out(trained, run, split)
            if shared is None:
                shared = _SharedRows.of(trained.dataset, run, split, rows)
            order = shared.order_of(trained.dataset, run, rows)
            twin = models.setdefault(trained.identity["weights"], run)
            if twin != run:
                raise DataError(
                    f"{run}: holds the same weights as {twin}, so there is nothing to compare; "
                    "leave one out, or train it with another seed"
                )
            ordered = predictions[torch.from_numpy(order)]
            sums[name].append(user_sums(ordered, shared.rows, shared.scale, len(shared.users)))
    assert shared is not None
    result = {"split": split, **asdict(compare(sums, draws=draws, level=level, seed=seed))}
    ratings = shared.rows.ratings
    if bool((ratings == ratings[0]).all()):
        result["notes"].append(
            f"every {split} rating is {float(ratings[0]):g}: figures say how near predictions come "
            "to that, and not whether they tell ratings apart"
        )
    return result


def predict_held_out(trained: Predictor, run: Path, split: str) -> tuple[Tensor, HeldOut]:
    """Predicted ratings of a run's rows, in the order of its data set, as `evaluate` has them.

    Raises:
        DataError: there are no rows.
        DglrecError: a prediction is not finite.
    """
    dataset = trained.dataset
    trained.prepare()  # before the rows are there: each takes much memory
    rows = dataset.held_out(split)
    if not len(rows):
        raise DataError(f"{dataset.path}: its {split} split has no rows to compare {run} on")
    found = trained.predict(rows.users, rows.items)
    if not bool(found.isfinite().all()):
        raise DglrecError(
            f"{run}: its predictions are no finite numbers; train it again, with a smaller "
            "train.learning_rate"
        )
    return found, rows


def _check_groups(groups: Mapping[str, Sequence[Path]]) -> None:
    """Refuse what leaves nothing to compare.

    Raises:
        UsageError: there are fewer than two groups, one is empty, or a run is there twice.
    """
    if len(groups) < 2:
        raise UsageError("one alone cannot be compared; give two runs or more, or NAME=RUN,RUN,...")
    seen = set()
    for name, runs in groups.items():
        if not runs:
            raise UsageError(f"{name}: names no run; write NAME=RUN,RUN,...")
        for run in runs:
            place = Path(run).resolve()
            if place in seen:
                raise UsageError(f"{run}: given twice; give each run once")
            seen.add(place)


@dataclass(frozen=True)
class _SharedRows:
    """The rows that all runs must have, in the indices of the first run's data set.

    Attributes:
        run: the first run.
        split: theirs.
        users: external ids of users.
        items: and of items.
        scale: the rating scale.
        rows: by user, then item.
    """

    run: Path
    split: str
    users: IdMap
    items: IdMap
    scale: RatingScale
    rows: HeldOut

    @classmethod
    def of(cls, dataset: RatingDataset, run: Path, split: str, rows: HeldOut) -> "_SharedRows":
        users, items, ratings = rows.users.numpy(), rows.items.numpy(), rows.ratings.numpy()
        ordered = _taken(rows, np.lexsort((ratings, items, users)))
        return cls(run, split, dataset.users, dataset.items, dataset.scale, ordered)

    def order_of(self, dataset: RatingDataset, run: Path, rows: HeldOut) -> npt.NDArray[np.int64]:
        """Which of a run's rows stands at each place of the shared ones, int64 [n].

        Raises:
            DataError: they are not the same rows.
        """
        if dataset.scale != self.scale:
            raise DataError(
                f"{self.run} and {run}: their rating scales differ ({self.scale}; {dataset.scale});"
                " prepare both data sets with one --scale"
            )
        users = self._shared(rows.users, dataset.users, self.users, "user", run)
        items = self._shared(rows.items, dataset.items, self.items, "item", run)
        unknown = np.flatnonzero((users < 0) | (items < 0))
        if len(unknown):
            row = int(unknown[0])
            user, item = (
                known.decode(np.array([index]))[0].as_py()
                for known, index in (
                    (dataset.users, int(rows.users[row])),
                    (dataset.items, int(rows.items[row])),
                )
            )
            self._refuse(run, len(rows), f"user {user}, item {item} is in {run} alone")
        ratings = rows.ratings.numpy()
        order = np.lexsort((ratings, items, users))
        theirs = (users[order], items[order], ratings[order])
        ours = tuple(part.numpy() for part in (self.rows.users, self.rows.items, self.rows.ratings))
        both = min(len(rows), len(self.rows))
        differs = np.zeros(both, dtype=bool)
        for a, b in zip(ours, theirs, strict=True):
            differs |= a[:both] != b[:both]
        place = int(differs.argmax()) if differs.any() else both
        if place < max(len(rows), len(self.rows)):
            self._refuse(run, len(rows), self._first_difference(run, ours, theirs, place))
        return order

    def _shared(
        self, indices: Tensor, own: IdMap, shared: IdMap, what: str, run: Path
    ) -> npt.NDArray[np.int64]:
        """A data set's indices -> shared ones, -1 for ids that only the data set has."""
        if own.ids.type != shared.ids.type:
            raise DataError(
                f"{self.run} and {run}: {what} ids are {_kind_of(shared)} in the one's data set "
                f"and {_kind_of(own)} in the other's; {_SAME_SOURCE}"
            )
        places: npt.NDArray[np.int64] = shared.encode(own.ids)[indices.numpy()].astype(np.int64)
        return places

    def _first_difference(
        self,
        run: Path,
        ours: tuple[npt.NDArray[Any], ...],
        theirs: tuple[npt.NDArray[Any], ...],
        place: int,
    ) -> str:
        """What differs at the first place where sorted rows do, in words."""
        # Past the end, where one has fewer rows, all that is there comes before.
        a, b = (
            tuple(int(part[place]) for part in rows[:2]) if place < len(rows[0]) else None
            for rows in (ours, theirs)
        )
        first = min(pair for pair in (a, b) if pair is not None)
        user, item = self.users.ids[first[0]].as_py(), self.items.ids[first[1]].as_py()
        if a == b:
            one, other = float(ours[2][place]), float(theirs[2][place])
            return f"user {user}, item {item} is rated {one:g} in {self.run}, {other:g} in {run}"
        return f"user {user}, item {item} is in {self.run if first == a else run} alone"

    def _refuse(self, run: Path, count: int, what: str) -> None:
        raise DataError(
            f"{self.run} and {run}: not the same {self.split} rows ({len(self.rows):,} and "
            f"{count:,}): {what}; {_SAME_SOURCE}"
        )


def _kind_of(ids: IdMap) -> str:
    return "whole numbers" if pa.types.is_integer(ids.ids.type) else "text"


def _taken(rows: HeldOut, order: npt.NDArray[np.int64]) -> HeldOut:
    places = torch.from_numpy(order)
    return HeldOut(rows.users[places], rows.items[places], rows.ratings[places])
