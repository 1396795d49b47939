"""A caller's arguments -> frames that can be used wherever the verbs take files."""

import numbers
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from dglrec import schema
from dglrec.errors import DataError, UsageError
from dglrec.ingest import ID_NAMES, Frame, parse_columns

_SCHEMA_NAMES = {
    "user": schema.USER_ID,
    "item": schema.ITEM_ID,
    "rating": schema.RATING,
    "timestamp": schema.TIMESTAMP,
}


def frame_of(given: Any, name: str) -> Frame:
    """A frame of any library as a `Frame`; see `Frame.of`."""
    return given if isinstance(given, Frame) else Frame.of(given, name)


def optional_frame(given: Any, name: str) -> Frame | None:
    """As `frame_of`; None for None."""
    return None if given is None else frame_of(given, name)


def is_frame(given: Any) -> bool:
    """Whether an argument is a table (it has named columns), rather than a list of ids."""
    return isinstance(given, Frame) or hasattr(given, "columns") or hasattr(given, "column_names")


def ids_frame(given: Any, id_name: str, name: str) -> Frame:
    """Ids in a column: a single id, several in any order, or a frame that has that column.

    Args:
        given: the ids, or the frame.
        id_name: `user_id` or `item_id`.
        name: what messages call them.

    Raises:
        DataError: the ids are of several types.
        UsageError: there is no id.
    """
    if is_frame(given):
        return frame_of(given, name)
    single = isinstance(given, str | numbers.Number) or not isinstance(given, Iterable)
    ids = [given] if single else list(given)
    if not ids:
        raise UsageError(f"{name}: no id is given; leave {name} out for all")
    return Frame(name, pa.table({id_name: _ids_column(ids, name)}))


def pairs_frame(given: Any) -> Frame:
    """Pairs of ids in two columns: a frame with them, or pairs like `(user, item)`.

    Raises:
        DataError: ids are of several types.
        UsageError: an element is not a pair.
    """
    if is_frame(given):
        return frame_of(given, "pairs")
    pairs = [
        (pair,) if isinstance(pair, str) or not isinstance(pair, Iterable) else tuple(pair)
        for pair in given
    ]
    if bad := [pair for pair in pairs if len(pair) != 2]:
        raise UsageError(
            f"pairs: {bad[0]!r} is no pair; give a frame of {schema.USER_ID} and "
            f"{schema.ITEM_ID}, or pairs like (user, item)"
        )
    ends = zip(*pairs, strict=True) if pairs else ([], [])
    columns = {
        name: _ids_column(list(ids), f"pairs: {name}")
        for name, ids in zip(schema.PAIR_COLUMNS, ends, strict=True)
    }
    return Frame("pairs", pa.table(columns))


def in_schema_names(frame: Frame, columns: Mapping[str, str]) -> Frame:
    """A frame with the schema's column names in place of those of the ratings that `fit` was given.

    Args:
        frame: of users, ratings or pairs; columns that have the schema's names keep them.
        columns: `user`, `item`, `rating`, `timestamp` -> the column's name, as given to `fit`.
    """
    found = frame.table.column_names
    named = {name: _SCHEMA_NAMES[key] for key, name in columns.items()}
    names = [
        named[column] if named.get(column) not in (None, *found) else column for column in found
    ]
    return Frame(frame.name, frame.table.rename_columns(names))


def holds_ratings(frame: Frame) -> bool:
    """Whether a frame has a column of items, so that it holds ratings and not only users."""
    return bool(set(ID_NAMES[schema.ITEM_ID]) & set(frame.table.column_names))


def _ids_column(ids: list[Any], name: str) -> pa.Array:
    try:
        return pa.array(ids)
    except (pa.ArrowException, OverflowError) as error:
        kinds = ", ".join(dict.fromkeys(type(value).__name__ for value in ids))
        raise DataError(
            f"{name}: ids are of several types ({kinds}), or none; give whole numbers below 2^63, "
            "or text"
        ) from error


def columns_of(columns: Mapping[str, str] | None) -> dict[str, str]:
    """Names of a table's columns, checked by `parse_columns`.

    Raises:
        UsageError: there is no such key, or a column is named twice.
    """
    if not columns:
        return {}
    return parse_columns(",".join(f"{key}={name}" for key, name in columns.items()))
