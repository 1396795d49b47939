"""From files of ratings to a prepared data set: one call, readable from top to bottom.

Data flow: ratings files -> memory-mapped columns of indices (spool) -> rows that stay -> split ->
adjacency and biases of the training rows -> features fitted on training items -> folder.
"""

import math
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from dglrec import schema
from dglrec.biases import fit_biases, no_biases
from dglrec.dataset.attributes import AttributeOptions, ItemEncoder
from dglrec.dataset.layout import DATASET_FILE
from dglrec.dataset.planted import PLANTED, write_planted
from dglrec.dataset.rows import Rows, complete_only, draw_users, read_rows
from dglrec.dataset.stored import RatingDataset
from dglrec.dataset.writing import write_dataset
from dglrec.errors import DataError, UsageError
from dglrec.features import TextCleaning
from dglrec.files import atomic_folder, check_target_folder, sha256_of
from dglrec.graph import build_graph
from dglrec.ids import IdMap
from dglrec.ingest import (
    Source,
    open_source,
    read_items,
    read_users,
)
from dglrec.schema import RatingScale
from dglrec.split import Split, check_shares, split_given, split_rows
from dglrec.synthetic import TRUTH_FILE, PlantedLists, Truth

_IN_TABLE = "in_item_table"


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
        interactions_from: the least rating that becomes an interaction; rows below it are left out.
            None keeps ratings, where there are any.
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
    interactions_from: float | None = None
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
        if self.interactions_from is not None:
            if not math.isfinite(self.interactions_from):
                raise UsageError(f"--interactions-from {self.interactions_from:g}: give a rating")
            if self.scale is not None:
                raise UsageError(
                    "--scale and --interactions-from: interactions have no scale; give one of the "
                    "two"
                )
        check_shares(self.valid, None if self.test_file else self.test)


def prepare(
    source_path: Path, target: Path, options: PrepareOptions | None = None
) -> RatingDataset:
    """Read ratings or interactions and item tables, and write a prepared data set.

    Args:
        source_path: a folder in the anime or a MovieLens layout, or a table of ratings; without a
            column of ratings, interactions.
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
        given = [file for file in (options.train_file, options.test_file) if file is not None]
        rows = read_rows(
            source,
            Path(spool),
            given_files=given,
            scale=options.scale,
            interactions_from=options.interactions_from,
        )
        catalogue = _catalogue(items, rows.items)
        rows.notes["items_without_table_row"] = int((~catalogue[_IN_TABLE]).sum())
        if options.complete_only:
            rows = complete_only(rows, catalogue, options.text)
            catalogue = _catalogue(items, rows.items)
        if options.users is not None:
            rows = draw_users(rows, options.users, options.seed)
            catalogue = _catalogue(items, rows.items)
            rows.notes["items_without_table_row"] = int((~catalogue[_IN_TABLE]).sum())
        split = _split(rows, options)
        _write(folder, source, options, rows, split, catalogue)
    return RatingDataset.open(target)


def _split(rows: Rows, options: PrepareOptions) -> Split:
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
    rows: Rows,
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
    planted_truth = Truth.read(truth_file) if truth_file.is_file() else None
    # Of an interaction the truth expects no rating; who meets what it knows all the same.
    truth = planted_truth if rows.feedback == schema.RATINGS else None
    try:
        planted = _planted(rows, planted_truth)
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
        biases=fit_biases(graph) if rows.feedback == schema.RATINGS else no_biases(graph),
        users=_user_table(source, rows.users),
        items=_with_ids(schema.ITEM_ID, rows.items, catalogue),
        features=features,
        held_out=held_out,
        meta={
            "format": source.format,
            schema.FEEDBACK: rows.feedback,
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
            **(
                {}
                if options.interactions_from is None
                else {"interactions_from": options.interactions_from}
            ),
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


def _held_out(rows: Rows, numbers: npt.NDArray[np.int64], truth: Truth | None) -> pd.DataFrame:
    users, items = rows.columns.users[numbers], rows.columns.items[numbers]
    frame: pd.DataFrame = pd.DataFrame(
        {schema.USER: users, schema.ITEM: items, schema.RATING: rows.columns.ratings[numbers]}
    )
    if truth is not None:
        frame[schema.EXPECTED] = truth.expectation(
            rows.users.decode(users).to_numpy(), rows.items.decode(items).to_numpy()
        )
    return frame


def _planted(rows: Rows, truth: Truth | None) -> PlantedLists | None:
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
