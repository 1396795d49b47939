"""The held-out rows that all runs of a comparison share, even if their data sets differ."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from dglrec.dataset import HeldOut, RatingDataset
from dglrec.errors import DataError
from dglrec.ids import IdMap
from dglrec.schema import RatingScale

_SAME_SOURCE = "compare runs on data sets prepared from one source with one split"


@dataclass(frozen=True)
class SharedRows:
    """The rows that all runs must have, in the indices of the first run's data set.

    Attributes:
        run: the first run.
        split: the split of the rows.
        users: external ids of users.
        items: external ids of items.
        scale: the rating scale.
        rows: the rows, ordered by user, then item.
    """

    run: Path
    split: str
    users: IdMap
    items: IdMap
    scale: RatingScale
    rows: HeldOut

    @classmethod
    def of(cls, dataset: RatingDataset, run: Path, split: str, rows: HeldOut) -> "SharedRows":
        """The shared rows, from those of the first run."""
        users, items, ratings = rows.users.numpy(), rows.items.numpy(), rows.ratings.numpy()
        ordered = _taken(rows, np.lexsort((ratings, items, users)))
        return cls(run, split, dataset.users, dataset.items, dataset.scale, ordered)

    def order_of(self, dataset: RatingDataset, run: Path, rows: HeldOut) -> npt.NDArray[np.int64]:
        """For each shared row its position among a run's rows, int64 [n].

        Raises:
            DataError: the run's rows are not the shared rows.
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
        of_run = (users[order], items[order], ratings[order])
        of_shared = tuple(
            part.numpy() for part in (self.rows.users, self.rows.items, self.rows.ratings)
        )
        both = min(len(rows), len(self.rows))
        differs = np.zeros(both, dtype=bool)
        for a, b in zip(of_shared, of_run, strict=True):
            differs |= a[:both] != b[:both]
        place = int(differs.argmax()) if differs.any() else both
        if place < max(len(rows), len(self.rows)):
            self._refuse(run, len(rows), self._first_difference(run, of_shared, of_run, place))
        return order

    def users_of(
        self, dataset: RatingDataset, users: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        """Users of a data set that `order_of` accepted, as indices of the shared users."""
        return np.asarray(self.users.encode(dataset.users.decode(users)), dtype=np.int64)

    def _shared(
        self, indices: Tensor, run_ids: IdMap, shared: IdMap, what: str, run: Path
    ) -> npt.NDArray[np.int64]:
        """A data set's indices as shared indices, -1 for ids that only this data set has."""
        if run_ids.ids.type != shared.ids.type:
            raise DataError(
                f"{self.run} and {run}: {what} ids are {_kind_of(shared)} in the first data set "
                f"and {_kind_of(run_ids)} in the other; {_SAME_SOURCE}"
            )
        places: npt.NDArray[np.int64] = shared.encode(run_ids.ids)[indices.numpy()].astype(np.int64)
        return places

    def _first_difference(
        self,
        run: Path,
        of_shared: tuple[npt.NDArray[Any], ...],
        of_run: tuple[npt.NDArray[Any], ...],
        place: int,
    ) -> str:
        """A description of the first difference, at position `place` of the sorted rows."""
        # None stands for the end of the shorter rows, which comes after all rows of the other.
        a, b = (
            tuple(int(part[place]) for part in rows[:2]) if place < len(rows[0]) else None
            for rows in (of_shared, of_run)
        )
        first = min(pair for pair in (a, b) if pair is not None)
        user, item = self.users.ids[first[0]].as_py(), self.items.ids[first[1]].as_py()
        if a == b:
            first_rating, run_rating = float(of_shared[2][place]), float(of_run[2][place])
            return (
                f"user {user}, item {item} is rated {first_rating:g} in {self.run}, "
                f"{run_rating:g} in {run}"
            )
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
