"""From files of ratings to a prepared data set: one call, readable from top to bottom.

Data flow: ratings files -> memory-mapped columns of indices (spool) -> rows that stay -> split ->
adjacency and biases of the training rows -> features fitted on training items -> folder.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from dglrec import schema
from dglrec.biases import fit_biases
from dglrec.dataset.attributes import AttributeOptions, ItemEncoder
from dglrec.dataset.planted import PLANTED, write_planted
from dglrec.dataset.stored import DATASET_FILE, RatingDataset, write_dataset
from dglrec.errors import DataError, UsageError
from dglrec.features import TextCleaning
from dglrec.files import atomic_folder, check_target_folder, sha256_of
from dglrec.graph import build_graph
from dglrec.ids import IdMap
from dglrec.ingest import (
    RatingColumns,
    RatingReader,
    Source,
    drop_duplicates,
    open_source,
    read_items,
    read_users,
)
from dglrec.schema import RatingScale
from dglrec.split import Split, check_shares, split_given, split_rows
from dglrec.synthetic import TRUTH_FILE, PlantedLists, Truth

_IN_TABLE = "in_item_table"
# Of the numbers that follow from the seed, those that draw users; the split's have fewer words.
_DRAWN_USERS = (1,)


@dataclass(frozen=True)
class PrepareOptions:
    """What `prepare` can be told.

    Attributes:
        format: layout of the source; `auto` finds out.
        split: how held-out rows are chosen; see `split.SPLIT_METHODS`.
        valid: share of rows that validate.
        test: share of rows that test.
        seed: of the split.
        train_file: ratings to train and validate on, in place of the source's; needs `test_file`.
        test_file: ratings to test on.
        text: whether synopses become features.
        text_model: a sentence-transformers name or folder; `auto` takes the packaged one.
        cleaning: what is done to a synopsis first.
        numeric: item columns to use as numbers.
        complete_only: leave out ratings of items without genres or, with text, without a synopsis.
        scale: the rating scale, where the source's layout does not say it.
        users: how many users to draw, by the seed, and keep; None keeps all. Of one source and seed
            each smaller draw is part of every larger one; rows fall to other parts of the split.
        overwrite: whether an existing data set may be replaced.
    """

    format: str = "auto"
    split: str = "random"
    valid: float = 0.1
    test: float = 0.1
    seed: int = 0
    train_file: Path | None = None
    test_file: Path | None = None
    text: bool = True
    text_model: str = "auto"
    cleaning: TextCleaning = field(default_factory=TextCleaning)
    numeric: tuple[str, ...] = ()
    complete_only: bool = False
    scale: RatingScale | None = None
    users: int | None = None
    overwrite: bool = False

    def check(self) -> None:
        """Refuse what no source can make good.

        Raises:
            UsageError: an option is out of range, or two do not fit together.
        """
        if (self.train_file is None) != (self.test_file is None):
            raise UsageError("--train-file and --test-file come together")
        if self.seed < 0:
            raise UsageError(f"--seed {self.seed}: must be 0 or more")
        if self.users is not None and self.users < 1:
            raise UsageError(f"--users {self.users}: must be 1 or more")
        check_shares(self.valid, None if self.test_file else self.test)


@dataclass(frozen=True)
class _Rows:
    """All ratings that stay, and what was left out on the way."""

    columns: RatingColumns
    is_test: npt.NDArray[np.bool_] | None
    users: IdMap
    items: IdMap
    scale: RatingScale
    notes: dict[str, int]


def prepare(
    source_path: Path, target: Path, options: PrepareOptions | None = None
) -> RatingDataset:
    """Read ratings and item tables, and write a prepared data set.

    Args:
        source_path: a folder in the anime or a MovieLens layout, or a table of ratings.
        target: the data set's folder; it appears whole or not at all.
        options: see `PrepareOptions`.

    Raises:
        UsageError: the options do not fit together, or the target may not be written.
        DataError: the source is missing or bad.
        UnusableEnvironmentError: the text model cannot be had.
        DglrecError: the disk is full.
    """
    options = options or PrepareOptions()
    options.check()
    target = Path(target)
    check_target_folder(target, marker=DATASET_FILE, overwrite=options.overwrite)
    source = open_source(Path(source_path), options.format)
    items = read_items(source)
    _check_numeric(items, options.numeric)

    with (
        atomic_folder(target, marker=DATASET_FILE, overwrite=options.overwrite) as folder,
        tempfile.TemporaryDirectory(prefix="spool-", dir=folder) as spool,
    ):
        rows = _read_rows(source, options, Path(spool))
        catalogue = _catalogue(items, rows.items)
        rows.notes["items_without_table_row"] = int((~catalogue[_IN_TABLE]).sum())
        if options.complete_only:
            rows = _complete_only(rows, catalogue, options.text)
            catalogue = _catalogue(items, rows.items)
        if options.users is not None:
            rows = _draw_users(rows, options.users, options.seed)
            catalogue = _catalogue(items, rows.items)
            rows.notes["items_without_table_row"] = int((~catalogue[_IN_TABLE]).sum())
        split = _split(rows, options)
        _write(folder, source, options, rows, split, catalogue)
    return RatingDataset.open(target)


def _read_rows(source: Source, options: PrepareOptions, spool: Path) -> _Rows:
    reader = RatingReader(source, spool, options.scale)
    files = [options.train_file, options.test_file] if options.train_file else [None]
    for file in files:
        reader.read(file)
    parts, users, items, scale, counts = reader.finish()
    kept = []
    dropped = 0
    for part in parts:
        keep, repeated = drop_duplicates(part, len(items))
        kept.append(part if not repeated else _take(part, keep))
        dropped += repeated
    columns = kept[0] if len(kept) == 1 else _concatenate(kept)
    is_test = np.arange(len(columns)) >= len(kept[0]) if len(kept) > 1 else None
    notes = {
        "rows_read": counts.rows,
        "unrated_rows_skipped": counts.unrated,
        "duplicate_rows_dropped": dropped,
    }
    return _Rows(columns, is_test, users, items, scale, notes)


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


def _complete_only(rows: _Rows, catalogue: pd.DataFrame, text: bool) -> _Rows:
    """Leave out the ratings of incomplete items."""
    complete = catalogue[schema.GENRES].map(len).to_numpy() > 0
    if text:
        complete &= catalogue[schema.SYNOPSIS].notna().to_numpy()
    keep = np.flatnonzero(complete[rows.columns.items])
    if not len(keep):
        raise DataError("--complete-only leaves no rating: no rated item has all its attributes")
    return _keep(rows, keep, "incomplete_item_rows_dropped")


def _draw_users(rows: _Rows, count: int, seed: int) -> _Rows:
    """Leave out the ratings of all users but some that are drawn by chance."""
    present = len(rows.users)
    if count > present:
        raise DataError(
            f"--users {count:,}: the source has ratings of {present:,} users; ask for fewer"
        )
    # The first of one order, so that each draw holds all smaller ones.
    order = np.random.default_rng((seed, *_DRAWN_USERS)).permutation(present)
    drawn = np.zeros(present, dtype=np.bool_)
    drawn[order[:count]] = True
    return _keep(rows, np.flatnonzero(drawn[rows.columns.users]), "rows_of_other_users_dropped")


def _keep(rows: _Rows, keep: npt.NDArray[np.int64], note: str) -> _Rows:
    """Some of the rows, without ids that have no rating left.

    Args:
        rows: all of them.
        keep: int64, the numbers of those that stay, ascending.
        note: under which name to count those that go.
    """
    columns = _take(rows.columns, keep)
    users, user_index = _only_present(rows.users, columns.users)
    items, item_index = _only_present(rows.items, columns.items)
    return _Rows(
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
        {**rows.notes, note: len(rows.columns) - len(keep)},
    )


def _only_present(ids: IdMap, indices: npt.NDArray[np.int32]) -> tuple[IdMap, npt.NDArray[Any]]:
    present = np.bincount(indices, minlength=len(ids)) > 0
    renumbered = np.cumsum(present, dtype=np.int32) - 1
    return IdMap(ids.decode(np.flatnonzero(present))), renumbered.astype(np.int32)


def _split(rows: _Rows, options: PrepareOptions) -> Split:
    columns = rows.columns
    if rows.is_test is None:
        return split_rows(
            options.split,
            users=columns.users,
            items=columns.items,
            timestamps=columns.timestamps,
            valid=options.valid,
            test=options.test,
            seed=options.seed,
        )
    split, dropped = split_given(
        users=columns.users,
        items=columns.items,
        is_test=rows.is_test,
        valid=options.valid,
        seed=options.seed,
    )
    rows.notes["train_rows_in_test_file_dropped"] = dropped
    return split


def _write(
    folder: Path,
    source: Source,
    options: PrepareOptions,
    rows: _Rows,
    split: Split,
    catalogue: pd.DataFrame,
) -> None:
    columns, scale = rows.columns, rows.scale
    graph = build_graph(
        columns.users[split.train],
        columns.items[split.train],
        scale.encode(columns.ratings[split.train]),
        num_users=len(rows.users),
        num_items=len(rows.items),
        scale=scale,
    )
    trained = graph.by_item.degrees > 0
    attributes = AttributeOptions(
        options.numeric, options.text, options.text_model, options.cleaning
    )
    features = ItemEncoder.fit(catalogue, trained, attributes).encode(catalogue)
    degrees = graph.by_user.degrees
    notes = {
        **rows.notes,
        "items_without_synopsis": int(catalogue[schema.SYNOPSIS].isna().sum()),
        "items_without_training_rating": int((~trained).sum()),
        "users_without_training_rating": int((degrees == 0).sum()),
        "users_with_one_training_rating": int((degrees == 1).sum()),
    }
    truth_file = source.path / TRUTH_FILE
    truth = Truth.read(truth_file) if truth_file.is_file() else None
    try:
        planted = _planted(rows, truth)
        held_out = {
            "valid": _held_out(rows, split.valid, truth),
            "test": _held_out(rows, split.test, truth),
        }
    except DataError as error:
        raise DataError(
            f"{truth_file.parent}: its {error}; these are not the ratings it was written with. "
            f"Remove it to prepare without a planted truth"
        ) from error
    given = rows.is_test is not None
    planted_meta = {} if planted is None else {PLANTED: write_planted(folder, planted)}
    write_dataset(
        folder,
        graph=graph,
        biases=fit_biases(graph),
        users=_user_table(source, rows.users),
        items=_with_ids(schema.ITEM_ID, rows.items, catalogue),
        features=features,
        held_out=held_out,
        meta={
            "format": source.format,
            "sources": [
                {"file": file.name, "sha256": sha256_of(file)}
                for file in _source_files(source, options)
            ],
            "split": {
                "method": "given files" if given else options.split,
                "valid": options.valid,
                "test": None if given else options.test,
                "seed": options.seed,
            },
            "text_model": options.text_model if "text" in features else None,
            "cleaning": asdict(options.cleaning) if "text" in features else None,
            "numeric": list(options.numeric),
            "complete_only": options.complete_only,
            # Only where it is so: it names the content, and all users are what they always were.
            **({} if options.users is None else {"users_drawn": options.users}),
            "notes": notes,
            **planted_meta,
        },
    )


def _source_files(source: Source, options: PrepareOptions) -> list[Path]:
    files = [source.ratings_file]
    if options.train_file is not None and options.test_file is not None:
        files = [source.resolve(options.train_file), source.resolve(options.test_file)]
    return [*files, *source.item_files, *([source.user_file] if source.user_file else [])]


def _catalogue(items: pd.DataFrame, ids: IdMap) -> pd.DataFrame:
    """One row for each rated item, in the order of indices; rows no table has are filled in."""
    external = ids.ids.to_pylist()
    frame: pd.DataFrame = items.set_index(schema.ITEM_ID)
    in_table = pd.Index(external).isin(frame.index)
    frame = frame.reindex(external)
    frame[_IN_TABLE] = in_table
    names = [str(value) for value in external]
    titles = frame[schema.TITLE].tolist()
    frame[schema.TITLE] = [
        title if isinstance(title, str) and title else name
        for title, name in zip(titles, names, strict=True)
    ]
    frame[schema.GENRES] = pd.Series(
        [value if isinstance(value, list) else [] for value in frame[schema.GENRES]],
        index=frame.index,
        dtype=object,
    )
    return frame


def _check_numeric(items: pd.DataFrame, names: Sequence[str]) -> None:
    for name in names:
        usable = [
            column
            for column in items.columns
            if pd.api.types.is_numeric_dtype(items[column]) and column != schema.ITEM_ID
        ]
        if name not in usable:
            raise UsageError(
                f"--numeric {name}: the item tables have no such numeric column; found "
                f"{', '.join(map(str, usable)) or 'none'}"
            )


def _held_out(rows: _Rows, numbers: npt.NDArray[np.int64], truth: Truth | None) -> pd.DataFrame:
    users, items = rows.columns.users[numbers], rows.columns.items[numbers]
    frame: pd.DataFrame = pd.DataFrame(
        {schema.USER: users, schema.ITEM: items, schema.RATING: rows.columns.ratings[numbers]}
    )
    if truth is not None:
        frame[schema.EXPECTED] = truth.expectation(
            rows.users.decode(users).to_numpy(), rows.items.decode(items).to_numpy()
        )
    return frame


def _planted(rows: _Rows, truth: Truth | None) -> PlantedLists | None:
    if truth is None:
        return None
    ids = (kind.ids.to_numpy(zero_copy_only=False) for kind in (rows.users, rows.items))
    return truth.planted_lists(*ids)


def _user_table(source: Source, ids: IdMap) -> pa.Table:
    users = read_users(source).set_index(schema.USER_ID).reindex(ids.ids.to_pylist())
    return _with_ids(schema.USER_ID, ids, users)


def _with_ids(name: str, ids: IdMap, attributes: pd.DataFrame) -> pa.Table:
    """A table of ids and, row by row, their attributes, if there are any."""
    table = pa.table({name: ids.ids})
    for column in attributes.columns:
        values = pa.array(attributes[column], from_pandas=True)
        table = table.append_column(str(column), values)
    return table
