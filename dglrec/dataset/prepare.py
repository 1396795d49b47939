"""From files of ratings to a prepared data set: one call, readable from top to bottom.

Data flow: ratings files -> memory-mapped columns of indices (spool) -> rows to keep -> split ->
adjacency and biases of the training rows -> features fitted on training items -> folder.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from dglrec import schema
from dglrec.biases import fit_biases, no_biases
from dglrec.dataset.known import Known, connect_known, encode_known, log_known
from dglrec.dataset.layout import DATASET_FILE
from dglrec.dataset.options import PrepareOptions
from dglrec.dataset.planted import PLANTED, write_planted
from dglrec.dataset.relations import RELATIONS, write_relations
from dglrec.dataset.rows import Rows, complete_only, draw_users, read_rows
from dglrec.dataset.stored import RatingDataset
from dglrec.dataset.tables import (
    IN_TABLE,
    GivenTables,
    check_numeric,
    item_table,
    user_table,
    with_ids,
)
from dglrec.dataset.writing import write_dataset
from dglrec.errors import DataError
from dglrec.files import atomic_folder, check_target_folder
from dglrec.graph import build_graph
from dglrec.ingest import (
    Given,
    Source,
    describe,
    open_source,
    read_items,
    read_users,
    require_file,
)
from dglrec.places import Place, local_path, place_of
from dglrec.split import Split, split_given, split_rows
from dglrec.synthetic import TRUTH_FILE, PlantedLists, Truth


def prepare(
    source_path: str | Given, target: str | Path, options: PrepareOptions | None = None
) -> RatingDataset:
    """Read ratings or interactions and item tables, and write a prepared data set.

    Args:
        source_path: a folder in the anime or a MovieLens layout, or a table of ratings: a frame, a
            file, a folder of parts or a pattern that matches them, local or at a URI. Without a
            column of ratings, it holds interactions.
        target: the data set's folder; it is created whole or not at all.
        options: see `PrepareOptions`.

    Raises:
        UsageError: the options do not fit together, or the target may not be written.
        DataError: the source is missing or bad.
        UnusableEnvironmentError: the text model cannot be had.
        DglrecError: the disk is full.
    """
    options = options or PrepareOptions()
    options.check()
    target = local_path(target)
    check_target_folder(target, marker=DATASET_FILE, overwrite=options.overwrite)
    if isinstance(source_path, str):
        source_path = place_of(source_path)
    source = open_source(source_path, options.format, options.columns)
    items = read_items(source)
    users = read_users(source)
    tables, relation_files = _given_files(source, options)
    columns = {} if tables.items is None else tables.items.columns
    check_numeric({**items, **columns}, options.numeric)

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
        catalogue = item_table(items, rows.items, tables.items)
        rows.notes["items_without_table_row"] = int((~catalogue[IN_TABLE]).sum())
        if options.complete_only:
            rows = complete_only(rows, catalogue, options.text)
            catalogue = item_table(items, rows.items, tables.items)
        if options.users is not None:
            rows = draw_users(rows, options.users, options.seed)
            catalogue = item_table(items, rows.items, tables.items)
            rows.notes["items_without_table_row"] = int((~catalogue[IN_TABLE]).sum())
        rows.notes.update(tables.notes(rows.items, rows.users))
        known = Known.of(catalogue, user_table(users, rows.users, tables.users), tables, options)
        split = _split(rows, options)
        _write(folder, source, options, rows, split, known, relation_files)
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
    known: Known,
    relation_files: Mapping[str, Given],
) -> None:
    columns, scale = rows.columns, rows.scale
    catalogue = known.items
    graph = build_graph(
        columns.users[split.train],
        columns.items[split.train],
        scale.encode(columns.ratings[split.train]),
        num_users=len(rows.users),
        num_items=len(rows.items),
        scale=scale,
        times=None if columns.timestamps is None else columns.timestamps[split.train],
    )
    degrees = graph.by_user.degrees
    trained = graph.by_item.degrees > 0
    features, user_features = encode_known(known, options, trained, degrees > 0)
    relations = connect_known(rows, split, known, relation_files, options, trained, degrees > 0)
    log_known(known, options, features, user_features, relations)
    notes = {
        **rows.notes,
        "items_without_synopsis": int(catalogue[schema.SYNOPSIS].isna().sum()),
        "items_without_training_rating": int((~trained).sum()),
        "users_without_training_rating": int((degrees == 0).sum()),
        "users_with_one_training_rating": int((degrees == 1).sum()),
    }
    planted_truth = _read_truth(source)
    # Interactions have no expected rating; the planted parameters are kept all the same.
    truth = planted_truth if rows.feedback == schema.RATINGS else None
    try:
        planted = _planted(rows, planted_truth)
        held_out = {
            "valid": _held_out(rows, split.valid, truth),
            "test": _held_out(rows, split.test, truth),
        }
    except DataError as error:
        raise DataError(
            f"{source.path}: its {error}; these are not the ratings it was written with. "
            f"Remove it to prepare without a planted truth"
        ) from error
    given = rows.is_test is not None
    by_user = not given and options.split == "last"  # holds out by user, whatever the shares
    embeds = "text" in features or known.has_texts(features, user_features)
    planted_meta = {} if planted is None else {PLANTED: write_planted(folder, planted)}
    write_dataset(
        folder,
        graph=graph,
        biases=fit_biases(graph) if rows.feedback == schema.RATINGS else no_biases(graph),
        users=with_ids(schema.USER_ID, rows.users, known.users),
        items=with_ids(schema.ITEM_ID, rows.items, catalogue),
        features=features,
        user_features=user_features,
        held_out=held_out,
        meta={
            "format": source.format,
            schema.FEEDBACK: rows.feedback,
            "sources": [
                {**describe(file), **role}
                for file, role in _source_files(source, options, relation_files)
            ],
            "split": {
                "method": "given files" if given else options.split,
                "valid": None if by_user and options.valid else options.valid,
                "test": None if given or (by_user and options.test) else options.test,
                "seed": options.seed,
            },
            "text_model": options.text_model if embeds else None,
            "cleaning": asdict(options.cleaning) if embeds else None,
            "numeric": list(options.numeric),
            "complete_only": options.complete_only,
            **({"columns": dict(options.columns)} if options.columns else {}),
            # Only if given: the fingerprint of a data set of all users must not change.
            **({} if options.users is None else {"users_drawn": options.users}),
            **(
                {}
                if options.interactions_from is None
                else {"interactions_from": options.interactions_from}
            ),
            "notes": notes,
            **planted_meta,
            **known.described(),
            **({RELATIONS: write_relations(folder, relations)} if relations else {}),
        },
    )


def _source_files(
    source: Source, options: PrepareOptions, relation_files: Mapping[str, Given]
) -> list[tuple[Given, dict[str, str]]]:
    """All files that were read; for files given by options, also what they were read as."""
    files: list[Given] = [source.ratings_file]
    if options.train_file is not None and options.test_file is not None:
        files = [source.resolve(options.train_file), source.resolve(options.test_file)]
    files += [*source.item_files, *([source.user_file] if source.user_file else [])]
    given: dict[str, Given | None] = {
        "item table": options.item_table,
        "user table": options.user_table,
        **{f"relation {name}": file for name, file in relation_files.items()},
    }
    return [
        *((file, {}) for file in files),
        *((source.resolve(file), {"as": role}) for role, file in given.items() if file is not None),
    ]


def _given_files(source: Source, options: PrepareOptions) -> tuple[GivenTables, dict[str, Given]]:
    """The item and user tables of the options, read; and the files of relations, which exist."""
    items, users = (
        None if file is None else source.resolve(file)
        for file in (options.item_table, options.user_table)
    )
    relation_files = {name: source.resolve(file) for name, file in options.relation.items()}
    for file in relation_files.values():
        require_file(file)
    return GivenTables.read(items, users, options.columns), relation_files


def _read_truth(source: Source) -> Truth | None:
    """The truth of a generated data set, if it lies beside the ratings."""
    if not isinstance(source.path, Place) or not source.path.is_dir():
        return None
    file = source.path / TRUTH_FILE
    return Truth.read(file) if file.is_file() else None


def _held_out(rows: Rows, numbers: npt.NDArray[np.int64], truth: Truth | None) -> pd.DataFrame:
    columns = rows.columns
    users, items = columns.users[numbers], columns.items[numbers]
    frame: pd.DataFrame = pd.DataFrame(
        {schema.USER: users, schema.ITEM: items, schema.RATING: columns.ratings[numbers]}
    )
    if rows.columns.timestamps is not None:
        frame[schema.TIMESTAMP] = rows.columns.timestamps[numbers]
    if truth is not None:
        frame[schema.EXPECTED] = truth.expectation(
            rows.users.decode(users).to_numpy(),
            rows.items.decode(items).to_numpy(),
            None if columns.timestamps is None else columns.timestamps[numbers],
        )
    return frame


def _planted(rows: Rows, truth: Truth | None) -> PlantedLists | None:
    if truth is None:
        return None
    ids = (kind.ids.to_numpy(zero_copy_only=False) for kind in (rows.users, rows.items))
    return truth.planted_lists(*ids)
