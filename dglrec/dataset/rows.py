"""The rows of a source that a data set keeps, and counts of the rows left out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from dglrec import schema
from dglrec.errors import DataError
from dglrec.ids import IdMap
from dglrec.ingest import Given, RatingColumns, RatingReader, Source, drop_duplicates
from dglrec.schema import RatingScale

# The stream that draws users; the split's streams have fewer words, so that none can collide.
_DRAWN_USERS = (1,)


@dataclass(frozen=True)
class Rows:
    """The rows that are kept, and counts of the rows left out.

    Attributes:
        columns: n rows.
        is_test: bool [n], whether the row is from the test file; None if there is no test file.
        users: ids of all users that have a row.
        items: ids of all items that have a row.
        scale: the values that a rating may take.
        feedback: `schema.RATINGS` or `schema.INTERACTIONS`.
        notes: how many rows were left out, by reason.
    """

    columns: RatingColumns
    is_test: npt.NDArray[np.bool_] | None
    users: IdMap
    items: IdMap
    scale: RatingScale
    feedback: str
    notes: dict[str, int]


def read_rows(
    source: Source,
    spool: Path,
    *,
    given_files: Sequence[Given] = (),
    scale: RatingScale | None = None,
    interactions_from: float | None = None,
) -> Rows:
    """Read the rows of a source, and drop repeated (user, item) pairs.

    Of repeated ratings, the last in the file is kept. Of repeated interactions, that with the
    latest timestamp is kept, or the last in the file if there are no timestamps.

    Args:
        source: where the rows are.
        spool: an existing folder for the columns.
        given_files: a training file and a test file, in place of the source's rows.
        scale: the values that a rating may take, if the source does not say.
        interactions_from: the least rating that counts as an interaction; None keeps ratings.

    Raises:
        DataError: a file is missing or bad, or holds no row that counts.
        UsageError: a scale or a level was given, and a file has no ratings.
    """
    reader = RatingReader(source, spool, scale, interactions_from)
    for file in given_files or (None,):
        reader.read(file)
    parts, users, items, scale, counts = reader.finish()
    interactions = reader.feedback == schema.INTERACTIONS
    kept = []
    repeated = 0
    for part in parts:
        keep, dropped = drop_duplicates(part, len(items), latest=interactions)
        kept.append(part if not dropped else _take(part, keep))
        repeated += dropped
    columns = kept[0] if len(kept) == 1 else _concatenate(kept)
    is_test = np.arange(len(columns)) >= len(kept[0]) if len(kept) > 1 else None
    notes = {"rows_read": counts.rows}
    if not interactions or interactions_from is not None:
        notes["unrated_rows_skipped"] = counts.unrated
    if interactions_from is not None:
        notes["rows_below_level_dropped"] = counts.below_level
    notes["repeated_rows" if interactions else "duplicate_rows_dropped"] = repeated
    return Rows(columns, is_test, users, items, scale, reader.feedback, notes)


def _take(columns: RatingColumns, rows: npt.NDArray[Any]) -> RatingColumns:
    return RatingColumns(
        columns.users[rows],
        columns.items[rows],
        columns.ratings[rows],
        None if columns.timestamps is None else columns.timestamps[rows],
    )


def _concatenate(parts: Sequence[RatingColumns]) -> RatingColumns:
    timestamps = [part.timestamps for part in parts if part.timestamps is not None]
    return RatingColumns(
        np.concatenate([part.users for part in parts]),
        np.concatenate([part.items for part in parts]),
        np.concatenate([part.ratings for part in parts]),
        np.concatenate(timestamps) if len(timestamps) == len(parts) else None,
    )


def complete_only(rows: Rows, catalogue: pd.DataFrame, text: bool) -> Rows:
    """Leave out the ratings of incomplete items."""
    complete = catalogue[schema.GENRES].map(len).to_numpy() > 0
    if text:
        complete &= catalogue[schema.SYNOPSIS].notna().to_numpy()
    keep = np.flatnonzero(complete[rows.columns.items])
    if not len(keep):
        raise DataError("--complete-only leaves no rating: no rated item has all its attributes")
    return _keep(rows, keep, "incomplete_item_rows_dropped")


def draw_users(rows: Rows, count: int, seed: int) -> Rows:
    """Keep the ratings of `count` users, drawn at random, and leave out all others."""
    present = len(rows.users)
    if count > present:
        raise DataError(
            f"--users {count:,}: the source has ratings of {present:,} users; ask for fewer"
        )
    # The first of a fixed order, so that a draw contains all smaller draws.
    order = np.random.default_rng((seed, *_DRAWN_USERS)).permutation(present)
    drawn = np.zeros(present, dtype=np.bool_)
    drawn[order[:count]] = True
    return _keep(rows, np.flatnonzero(drawn[rows.columns.users]), "rows_of_other_users_dropped")


def _keep(rows: Rows, keep: npt.NDArray[np.int64], note: str) -> Rows:
    """Some of the rows, without the ids that have no rating any more.

    Args:
        rows: all rows.
        keep: int64, the numbers of the rows to keep, ascending.
        note: the name under which to count the dropped rows.
    """
    columns = _take(rows.columns, keep)
    users, user_index = _only_present(rows.users, columns.users)
    items, item_index = _only_present(rows.items, columns.items)
    return Rows(
        RatingColumns(
            user_index[columns.users],
            item_index[columns.items],
            columns.ratings,
            columns.timestamps,
        ),
        None if rows.is_test is None else rows.is_test[keep],
        users,
        items,
        rows.scale,
        rows.feedback,
        {**rows.notes, note: len(rows.columns) - len(keep)},
    )


def _only_present(ids: IdMap, indices: npt.NDArray[np.int32]) -> tuple[IdMap, npt.NDArray[Any]]:
    present = np.bincount(indices, minlength=len(ids)) > 0
    renumbered = np.cumsum(present, dtype=np.int32) - 1
    return IdMap(ids.decode(np.flatnonzero(present))), renumbered.astype(np.int32)
