"""Small tables that name users, items or pairs, beside the ratings themselves."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from dglrec import schema
from dglrec.errors import DataError
from dglrec.ingest import stream
from dglrec.schema import RatingScale, check_columns, check_ratings

# What the columns are called in the layouts that we read.
_NAMES: Mapping[str, tuple[str, ...]] = {
    schema.USER_ID: (schema.USER_ID, "userId"),
    schema.ITEM_ID: (schema.ITEM_ID, "anime_id", "movieId", "MAL_ID"),
    schema.RATING: (schema.RATING,),
}


def stream_columns(file: Path, kinds: Mapping[str, pa.DataType]) -> Iterator[stream.Stretch]:
    """Yield some columns of a CSV or Parquet file under the schema's names.

    Args:
        file: CSV (perhaps `.gz`) with a header, or `.parquet`.
        kinds: schema names of the columns, with the types that text is read as.

    Raises:
        DataError: the file is missing or damaged, lacks a column, or a field is of another type.
    """
    text, found = _header(file, kinds)
    raw = {}
    for name in kinds:
        raw[name] = next((alias for alias in _NAMES[name] if alias in found), None)
    if missing := [name for name, alias in raw.items() if alias is None]:
        check_columns(stream.shown_names(found), tuple(missing), str(file))
    names = {name: alias for name, alias in raw.items() if alias is not None}
    if text is None:
        stretches = stream.stream_parquet(file, list(names.values()), f"reading {file.name}")
    else:
        of_raw = {alias: kinds[name] for name, alias in names.items()}
        stretches = stream.stream_text(file, text, of_raw, f"reading {file.name}")
    for stretch in stretches:
        table = stretch.table.select(list(names.values())).rename_columns(list(names))
        for name in names:
            if table.column(name).null_count:
                raise DataError(f"{file}: column {name} has missing values")
        yield stream.Stretch(table, stretch.first_row)


def read_one_users_ratings(file: Path, item_type: pa.DataType, scale: RatingScale) -> pa.Table:
    """The ratings of one user, for whom the file needs no column.

    Args:
        file: columns `item_id` (or `anime_id`, `movieId`) and `rating`.
        item_type: the type of item ids.
        scale: the values a rating may take.

    Returns:
        `item_id` and `rating`, as `check_ratings` leaves them; of an item rated twice the last.

    Raises:
        DataError: the file is missing or bad.
    """
    _refuse_several_users(file)
    tables = []
    kinds = {schema.ITEM_ID: item_type, schema.RATING: pa.float32()}
    for stretch in stream_columns(file, kinds):
        nobody = pa.array(np.zeros(len(stretch.table), dtype=np.int64))
        table = stretch.table.add_column(0, schema.USER_ID, nobody)
        tables.append(
            check_ratings(table, source=str(file), first_row=stretch.first_row, scale=scale)
        )
    if not sum(len(table) for table in tables):
        raise DataError(f"{file}: holds no rating")
    ratings = pa.concat_tables(tables).select([schema.ITEM_ID, schema.RATING])
    items = ratings.column(schema.ITEM_ID).to_pylist()
    last = {item: row for row, item in enumerate(items)}
    return ratings.take(pa.array(sorted(last.values())))


def _header(file: Path, wanted: Iterable[str]) -> tuple[stream.TextFormat | None, Sequence[str]]:
    """How a file is cut into fields, None for Parquet, and its columns.

    Args:
        file: CSV or Parquet.
        wanted: schema names of columns that tell the delimiter.
    """
    stream.require_file(file)
    if stream.is_parquet(file):
        return None, stream.parquet_schema(file).names
    text = stream.header_format(file, [alias for name in wanted for alias in _NAMES[name]], ",;\t")
    return text, text.names


def _refuse_several_users(file: Path) -> None:
    """Refuse a file with a column of users that names more than one.

    Raises:
        DataError: it does.
    """
    _, found = _header(file, _NAMES)
    if not set(_NAMES[schema.USER_ID]) & set(found):
        return
    users: set[object] = set()
    for stretch in stream_columns(file, {schema.USER_ID: pa.string()}):
        users |= set(stretch.table.column(schema.USER_ID).unique().to_pylist())
        if len(users) > 1:
            raise DataError(f"{file}: holds ratings of several users; --ratings takes those of one")
