"""Tables of the attributes of items and of users, in the order of their indices."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from dglrec import schema
from dglrec.errors import DataError, UsageError
from dglrec.features import Kind, infer_kind
from dglrec.ids import IdMap
from dglrec.ingest import AttributeTable, Given, attribute_name, read_attributes

IN_TABLE = "in_item_table"

_NO_ATTRIBUTES = (schema.ITEM_ID, schema.USER_ID, schema.TITLE, schema.SYNOPSIS, IN_TABLE)
_OTHER_USES = (schema.USER, schema.ITEM, "numeric", "text")  # node types, groups of features


@dataclass(frozen=True)
class GivenTables:
    """The item and user tables that options name; None where there is none."""

    items: AttributeTable | None = None
    users: AttributeTable | None = None

    @classmethod
    def read(
        cls, items: Given | None, users: Given | None, columns: Mapping[str, str] | None = None
    ) -> "GivenTables":
        """Read the tables.

        Args:
            items: the table of items, or None.
            users: the table of users, or None.
            columns: the names of the columns `user` and `item` in the table of ratings, where they
                were given; these tables may use the same names.

        Raises:
            DataError: a table is missing or bad.
        """
        called = columns or {}
        return cls(
            None
            if items is None
            else read_attributes(items, schema.ITEM_ID, called=called.get("item")),
            None
            if users is None
            else read_attributes(users, schema.USER_ID, called=called.get("user")),
        )

    def notes(self, items: IdMap, users: IdMap) -> dict[str, int]:
        """Counts of table rows with unknown ids, and of known ids without a table row."""
        notes = {}
        for name, table, known in (("item", self.items, items), ("user", self.users, users)):
            if table is not None:
                rows, unknown = table.rows_of(known)
                notes[f"{name}_table_rows_of_unknown_ids"] = unknown
                notes[f"{name}s_not_in_{name}_table"] = int(np.count_nonzero(rows < 0))
                if unknown == len(table.ids):
                    raise DataError(
                        f"{table.file}: none of its {unknown:,} ids is that of {name}s with a "
                        f"rating, such as {', '.join(map(str, known.nearest()))}"
                    )
        return notes


def item_table(
    items: pd.DataFrame, ids: IdMap, given: AttributeTable | None = None
) -> pd.DataFrame:
    """A row for each rated item, with the id for a missing title and [] for missing genres.

    Args:
        items: what `ingest.read_items` gives.
        ids: of the rated items.
        given: a further table of items; its values replace those of `items`.

    Raises:
        DataError: the tables do not fit together.
    """
    external = ids.ids.to_pylist()
    frame: pd.DataFrame = items.set_index(schema.ITEM_ID)
    in_table = pd.Index(external).isin(frame.index)
    frame = frame.reindex(external)
    if given is not None:
        rows, _ = given.rows_of(ids)
        frame = _with_columns(frame, given, rows)
        in_table |= rows >= 0
    frame[IN_TABLE] = in_table
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


def user_table(
    users: pd.DataFrame, ids: IdMap, given: AttributeTable | None = None
) -> pd.DataFrame:
    """A row for each user with a rating; arguments and errors as for `item_table`."""
    frame: pd.DataFrame = users.set_index(schema.USER_ID).reindex(ids.ids.to_pylist())
    if given is not None:
        rows, _ = given.rows_of(ids)
        frame = _with_columns(frame, given, rows)
    return frame


def with_ids(name: str, ids: IdMap, attributes: pd.DataFrame) -> pa.Table:
    """A table of ids and, row by row, their attributes, if there are any."""
    table = pa.table({name: ids.ids})
    for column in attributes.columns:
        values = pa.array(attributes[column], from_pandas=True)
        table = table.append_column(str(column), values)
    return table


def attribute_columns(table: pd.DataFrame) -> dict[str, str]:
    """The columns of a table that hold attributes, by the attributes' names.

    If two columns give the same attribute name, the first counts.
    """
    columns: dict[str, str] = {}
    for column in map(str, table.columns):
        name = attribute_name(column)
        usable = schema.is_name(name) and name not in _OTHER_USES
        if usable and column not in _NO_ATTRIBUTES:
            columns.setdefault(name, column)
    return columns


def attribute_kinds(
    table: pd.DataFrame, given: Mapping[str, Kind], names: Iterable[str] | None = None
) -> dict[str, Kind]:
    """The kinds of a table's attributes: as given, or else inferred from the columns.

    Args:
        table: of items or users.
        given: attribute name -> kind, not to be inferred.
        names: the attributes to look at; None for all.
    """
    columns = attribute_columns(table)
    return {
        name: given[name] if name in given else infer_kind(table[columns[name]])
        for name in (columns if names is None else names)
    }


def check_numeric(items: Mapping[Any, pd.Series], names: Sequence[str]) -> None:
    """Refuse a numeric option that names a column that does not hold numbers.

    Args:
        items: columns by name.
        names: of the columns to use as numbers.

    Raises:
        UsageError: there is no such column, or it does not hold numbers.
    """
    for name in names:
        usable = [
            column
            for column, values in items.items()
            if pd.api.types.is_numeric_dtype(values) and column != schema.ITEM_ID
        ]
        if name not in usable:
            raise UsageError(
                f"--numeric {name}: the item tables have no such numeric column; found "
                f"{', '.join(map(str, usable)) or 'none'}"
            )


def _with_columns(
    frame: pd.DataFrame, given: AttributeTable, rows: npt.NDArray[np.int64]
) -> pd.DataFrame:
    """Add a given table's columns, or merge them into the columns of the same attribute."""
    there = attribute_columns(frame) | {
        name: name for name in (schema.TITLE, schema.SYNOPSIS) if name in frame
    }
    for name, column in given.columns.items():
        values = _rows_of(column, rows)
        if name not in there:
            frame[name] = values.set_axis(frame.index)
            continue
        before = frame[there[name]]
        numeric = [
            pd.api.types.is_numeric_dtype(column_values) for column_values in (values, before)
        ]
        if numeric[0] != numeric[1] and before.notna().any() and values.notna().any():
            kinds = ("texts", "numbers") if numeric[1] else ("numbers", "texts")
            raise DataError(
                f"{given.file}: column {name} holds {kinds[0]}, and in the source's own table it "
                f"holds {kinds[1]}; rename it"
            )
        merged = [new if _is_there(new) else old for new, old in zip(values, before, strict=True)]
        frame[there[name]] = pd.Series(
            merged, index=frame.index, dtype=float if all(numeric) else object
        )
    return frame


def _rows_of(column: pd.Series, rows: npt.NDArray[np.int64]) -> pd.Series:
    """The values of some rows, [N]; missing where a row is -1."""
    if pd.api.types.is_numeric_dtype(column):
        values = column.to_numpy()
        taken = values[np.maximum(rows, 0)]
        if np.any(rows < 0):
            taken = np.where(rows < 0, np.nan, taken.astype(np.float64))
        numbers: pd.Series = pd.Series(taken)
        return numbers
    cells = column.tolist()
    texts: pd.Series = pd.Series([cells[row] if row >= 0 else None for row in rows], dtype=object)
    return texts


def _is_there(value: Any) -> bool:
    if isinstance(value, float):
        return not np.isnan(value)
    return value is not None and value != "" and value != []
