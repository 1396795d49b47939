"""Small tables that name users, items or pairs, beside the ratings themselves."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dglrec import schema
from dglrec.errors import DataError, EmptyFileError
from dglrec.ids import IdMap, IdMapBuilder, to_type
from dglrec.ingest import stream, typed
from dglrec.ingest.columns import at_level
from dglrec.ingest.faults import fault_of_whole_number
from dglrec.ingest.frames import Given
from dglrec.ingest.repeats import last_of_each_pair
from dglrec.progress import log
from dglrec.schema import RatingScale, check_columns, check_interactions, check_ratings

_SHOWN = 3  # of ids, in a message

ColumnNames = Mapping[str, tuple[str, ...]]
"""Schema name of a column -> the names that it may have in a file."""

ID_NAMES: ColumnNames = {
    schema.USER_ID: (schema.USER_ID, "userId"),
    schema.ITEM_ID: (schema.ITEM_ID, "anime_id", "movieId", "MAL_ID"),
    schema.RATING: (schema.RATING,),
}
"""Schema name -> the names of that column in the layouts that we read."""


def names_with(columns: Mapping[str, str]) -> ColumnNames:
    """`ID_NAMES`, and the names that the table of ratings had.

    Args:
        columns: those names by the keys of `parse_columns`.

    >>> names_with({"item": "sku"})["item_id"]
    ('item_id', 'anime_id', 'movieId', 'MAL_ID', 'sku')
    """
    keys = {schema.USER_ID: "user", schema.ITEM_ID: "item", schema.RATING: "rating"}
    further = {name: columns[key] for name, key in keys.items() if key in columns}
    return {
        name: (*names, *({further[name]} - set(names) if name in further else ()))
        for name, names in ID_NAMES.items()
    }


def stream_columns(
    file: Given, kinds: Mapping[str, pa.DataType], names: ColumnNames = ID_NAMES
) -> Iterator[stream.Stretch]:
    """Yield some columns of a CSV or Parquet file, or of a frame, under the schema's names.

    Args:
        file: CSV (perhaps `.gz`) with a header, `.parquet`, or a frame.
        kinds: schema names of the columns, with the types that text is read as.
        names: the names that the columns may have in the file.

    Returns:
        Tables in which ids are checked by `schema.check_ids`, and the other columns are not.

    Raises:
        DataError: the file is missing or damaged, lacks a column, or a field is missing or of
            another type.
    """
    text, found = _header(file, kinds, names)
    raw = {}
    for name in kinds:
        raw[name] = next((alias for alias in names[name] if alias in found), None)
    if missing := [name for name, alias in raw.items() if alias is None]:
        check_columns(stream.shown_names(found), tuple(missing), str(file))
    present = {name: alias for name, alias in raw.items() if alias is not None}
    if text is None or not stream.is_text(file):
        stretches = typed.stream_typed(file, list(present.values()), f"reading {file.name}")
    else:
        of_raw = {alias: _read_as(name, kinds[name]) for name, alias in present.items()}
        stretches = stream.stream_text(file, text, of_raw, f"reading {file.name}")
    for stretch in stretches:
        table = stretch.table.select(list(present.values())).rename_columns(list(present))
        for place, (name, alias) in enumerate(present.items()):
            if name in schema.PAIR_COLUMNS:
                ids = schema.check_ids(
                    table.column(name),
                    alias,
                    source=str(stretch.file),
                    first_row=stretch.first_row,
                )
                table = table.set_column(place, name, ids)
        yield stream.Stretch(table, stretch.first_row, stretch.file)


def _read_as(name: str, kind: pa.DataType) -> pa.DataType:
    """The type to read a text column as: `WHOLE_IDS` for int64, so that leading zeros show."""
    whole = name in schema.PAIR_COLUMNS and kind == pa.int64()
    return stream.WHOLE_IDS if whole else kind


def ids_of_type(
    ids: pa.Array | pa.ChunkedArray, kind: pa.DataType, name: str, file: Given, first_row: int
) -> pa.Array | pa.ChunkedArray:
    """The ids of a file, converted to the type of a data set's ids.

    Args:
        ids: int64 or string.
        kind: the type of the data set's ids, int64 or string.
        name: the column's name, for messages.
        file: for messages.
        first_row: the number of the first id's row, for messages.

    Raises:
        DataError: the data set's ids are whole numbers, and an id of the file is not.
    """
    cast = to_type(ids, kind)
    if cast.null_count:
        position = pc.index(cast.is_null(), True).as_py()
        fault = fault_of_whole_number(name, ids[position].as_py())
        raise DataError(f"{file}: row {first_row + position}: {fault}, as the data set's are")
    return cast


@dataclass(frozen=True)
class NewRatings:
    """Ratings or interactions of n users that the data set does not know.

    Attributes:
        user_ids: [n] ascending; [0] where the ratings are a single user's without an id.
        users: int32 [r] indices into `user_ids`.
        items: int32 [r] indices of items.
        ratings: float32 [r]; all 1 for interactions.
        unknown: how many rows were left out because their item is unknown.
        unknown_ids: the first few ids of unknown items.
    """

    user_ids: pa.Array
    users: npt.NDArray[np.int32]
    items: npt.NDArray[np.int32]
    ratings: npt.NDArray[np.float32]
    unknown: int
    unknown_ids: tuple[int | str, ...] = ()


def read_new_ratings(
    file: Given,
    items: IdMap,
    scale: RatingScale,
    user_type: pa.DataType | None,
    names: ColumnNames = ID_NAMES,
) -> NewRatings:
    """Read the ratings of users that training never saw; of repeated ratings, the last counts.

    Args:
        file: columns `user_id`, `item_id` (or `anime_id`, `movieId`) and `rating`.
        items: the known items; ratings of other items are left out, and counted.
        scale: the values a rating may take.
        user_type: the type of user ids; None if all ratings must be a single user's, and the file
            needs no column of users.
        names: the names that the columns may have in the file.

    Raises:
        DataError: the file is missing or bad, holds no rating, or holds ratings of several users
            although `user_type` is None.
    """
    _, found = _header(file, names, names)
    if not set(names[schema.RATING]) & set(found):
        raise DataError(
            f"{file}: no column {schema.RATING}; found {', '.join(stream.shown_names(found))}; "
            "the model was trained on ratings, and needs those of new users"
        )

    def checked(table: pa.Table, where: dict[str, Any]) -> pa.Table:
        return check_ratings(table, **where, scale=scale)

    kinds = {schema.ITEM_ID: items.ids.type, schema.RATING: pa.float32()}
    return _read_new(file, items, user_type, kinds, names, checked, "rating")


def read_new_interactions(
    file: Given,
    items: IdMap,
    user_type: pa.DataType | None,
    level: float | None = None,
    names: ColumnNames = ID_NAMES,
) -> NewRatings:
    """Read the interactions of users that training never saw; repeated interactions count once.

    Args:
        file: columns `user_id` and `item_id` (or `anime_id`, `movieId`).
        items: the known items; interactions with other items are left out, and counted.
        user_type: the type of user ids; None if all interactions must be a single user's, and the
            file needs no column of users.
        level: the least rating of an interaction, if the data set's interactions were made from
            ratings: where the file has a column `rating`, rows below the level are left out.
            Without a level, that column is not read.
        names: the names that the columns may have in the file.

    Raises:
        DataError: the file is missing or bad, holds no interaction, or holds interactions of
            several users although `user_type` is None.
    """
    _, found = _header(file, names, names)
    has_ratings = bool(set(names[schema.RATING]) & set(found))
    by_level = level if has_ratings else None
    if has_ratings and level is None:
        log(f"{file}: column {schema.RATING} is not read; the model was trained on interactions")
    below = 0

    def checked(table: pa.Table, where: dict[str, Any]) -> pa.Table:
        nonlocal below
        if by_level is None:
            table = check_interactions(table, **where)
        else:
            rated = check_ratings(table, **where)
            table = at_level(rated, by_level).drop_columns([schema.RATING])
            below += len(rated) - len(table)
        ones = np.full(len(table), schema.INTERACTION, dtype=np.float32)
        return table.append_column(schema.RATING, pa.array(ones))

    kinds = {schema.ITEM_ID: items.ids.type}
    wanted = "interaction"
    if by_level is not None:
        kinds[schema.RATING] = pa.float32()
        wanted = f"rating of {by_level:g} or more, which is what the data set's interactions are"
    new = _read_new(file, items, user_type, kinds, names, checked, wanted)
    if below:
        log(f"{file}: {below} ratings below {by_level:g} are no interactions and left out")
    return new


def _read_new(
    file: Given,
    items: IdMap,
    user_type: pa.DataType | None,
    kinds: Mapping[str, pa.DataType],
    names: ColumnNames,
    checked: Callable[[pa.Table, dict[str, Any]], pa.Table],
    wanted: str,
) -> NewRatings:
    """Stream the rows of new users, and check them.

    Args:
        file: as for the callers.
        items: as for the callers.
        user_type: as for the callers.
        kinds: the columns to read beside users, and the types that text is read as.
        names: as for the callers.
        checked: (a stretch, the keyword arguments `source` and `first_row` of the check) -> the
            rows that count, with ratings.
        wanted: what a file without such rows lacks, for the message.
    """
    if user_type is None:
        _refuse_several_users(file, names)
    else:
        kinds = {schema.USER_ID: user_type, **kinds}
    builder = IdMapBuilder(schema.USER_ID)
    users, indices, ratings = [], [], []
    unknown_ids: dict[int | str, None] = {}
    read = 0
    for stretch in stream_columns(file, kinds, names):
        table = stretch.table
        read += len(table)
        if user_type is None:
            nobody = pa.array(np.zeros(len(table), dtype=np.int64))
            table = table.add_column(0, schema.USER_ID, nobody)
        else:
            ids = table.column(0)
            ids = ids_of_type(ids, user_type, schema.USER_ID, stretch.file, stretch.first_row)
            table = table.set_column(0, schema.USER_ID, ids)
        table = checked(table, {"source": str(stretch.file), "first_row": stretch.first_row})
        users.append(builder.add(table.column(schema.USER_ID)))
        indices.append(items.encode(table.column(schema.ITEM_ID)))
        if len(unknown_ids) < _SHOWN:
            lacking = table.column(schema.ITEM_ID).filter(pa.array(indices[-1] < 0))
            unknown_ids |= dict.fromkeys(lacking.unique()[:_SHOWN].to_pylist())
        ratings.append(table.column(schema.RATING).to_numpy())
    if not sum(map(len, users)):
        rows = f"holds no {wanted}"
        raise DataError(f"{file}: {rows}") if read else EmptyFileError(f"{file}: {rows}")
    ids, index_of_code = builder.finish()
    of_user, of_item = index_of_code[np.concatenate(users)], np.concatenate(indices)
    known = of_item >= 0
    keep = known.copy()
    keep[known] = last_of_each_pair(of_user[known], of_item[known], len(items))
    return NewRatings(
        ids.ids,
        of_user[keep],
        of_item[keep],
        np.concatenate(ratings).astype(np.float32)[keep],
        len(known) - int(np.count_nonzero(known)),
        tuple(unknown_ids)[:_SHOWN],
    )


def _header(
    file: Given, wanted: Iterable[str], names: ColumnNames
) -> tuple[stream.TextFormat | None, Sequence[str]]:
    """A text file's format (None for Parquet and frames), and the names of the columns.

    Args:
        file: CSV, Parquet, or a frame.
        wanted: schema names of the columns by which the delimiter is recognised.
        names: the names that these may have in the file.
    """
    stream.require_file(file)
    if not stream.is_text(file):
        return None, typed.typed_schema(file).names
    text = stream.header_format(file, [alias for name in wanted for alias in names[name]], ",;\t")
    return text, text.names


def _refuse_several_users(file: Given, names: ColumnNames) -> None:
    """Refuse a file whose column of users names more than one user.

    Raises:
        DataError: the file holds ratings of several users.
    """
    _, found = _header(file, names, names)
    if not set(names[schema.USER_ID]) & set(found):
        return
    users: set[object] = set()
    for stretch in stream_columns(file, {schema.USER_ID: pa.string()}, names):
        users |= set(stretch.table.column(schema.USER_ID).unique().to_pylist())
        if len(users) > 1:
            raise DataError(f"{file}: holds ratings of several users; --ratings takes those of one")
