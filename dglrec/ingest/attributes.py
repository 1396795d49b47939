"""Tables of attributes of items or users, by id."""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from dglrec import schema
from dglrec.errors import DataError
from dglrec.ids import IdMap
from dglrec.ingest import cells, stream
from dglrec.ingest.frames import Given
from dglrec.ingest.lists import ids_of_type
from dglrec.ingest.tables import ITEM_NAMES

_USER_NAMES = {schema.USER_ID: (schema.USER_ID, "userId")}
_READ_AS = {
    schema.TITLE: cells.text_of,
    schema.GENRES: cells.any_genres,
    schema.SYNOPSIS: cells.synopsis_of,
}
# Names taken by node types, by columns of other tables, and by groups of features.
_RESERVED = (
    *(schema.USER, schema.ITEM, schema.USER_ID, schema.ITEM_ID, schema.WEIGHT, schema.TIMESTAMP),
    *("in_item_table", "numeric", "text"),
)


@dataclass(frozen=True)
class AttributeTable:
    """The attributes of n users or items, as a table gives them.

    Attributes:
        file: the table.
        ids: int64 or string [n].
        columns: attribute name -> numbers, texts or lists of texts [n]; None or NaN where there is
            no value.
    """

    file: Given
    ids: pa.Array
    columns: dict[str, pd.Series]

    def ids_as(self, name: str, kind: pa.DataType) -> pa.Array:
        """The ids, converted to the type of a data set's ids.

        Raises:
            DataError: an id cannot be converted.
        """
        return ids_of_type(self.ids, kind, name, self.file, cells.first_row_of(self.file))

    def rows_of(self, known: IdMap) -> tuple[npt.NDArray[np.int64], int]:
        """The table's row of each known id.

        Returns:
            Row numbers [N] in the order of the id map, -1 where the table has no row for an id; and
            how many rows of the table have unknown ids.

        Raises:
            DataError: the table has two rows for one id.
        """
        index = known.encode(self.ids)
        of_known = np.flatnonzero(index >= 0)
        counts = np.bincount(index[of_known], minlength=len(known))
        if np.any(counts > 1):
            twice = known.ids[int(np.argmax(counts > 1))].as_py()
            raise DataError(f"{self.file}: id {twice} is there twice; keep one row")
        rows = np.full(len(known), -1, dtype=np.int64)
        rows[index[of_known]] = of_known
        return rows, len(index) - len(of_known)


def read_attributes(
    file: Given, id_name: str, *, one: bool = False, called: str | None = None
) -> AttributeTable:
    """Read a CSV or Parquet table, or a frame, of attributes of items or users.

    The attribute takes its column's name, in lowercase letters, digits and `_`. A table of items
    may have `title`, `genres` and `synopsis`, by any of their names in the layouts that we read.

    Args:
        file: the table.
        id_name: `item_id` or `user_id`.
        one: whether a table of a single row may lack a column of ids; its id is then null.
        called: a further name that the column of ids may have: its name in the table of ratings.

    Raises:
        DataError: the table is damaged, has no row or no column of ids, an id is missing, or a
            column's name cannot be that of an attribute.
    """
    special = ITEM_NAMES if id_name == schema.ITEM_ID else _USER_NAMES
    if called is not None:
        special = {**special, id_name: (*special[id_name], called)}
    raw = cells.raw_table(file, special[id_name])
    found = stream.shown_names(list(raw))
    given = {}
    for name, aliases in special.items():
        alias = next((alias for alias in aliases if alias in raw), None)
        if alias is not None:
            given[name] = raw.pop(alias)
    nameless = one and id_name not in given and {len(cells) for cells in raw.values()} == {1}
    if id_name not in given and not nameless:
        schema.check_columns(found, (called or id_name,), str(file))
        raise AssertionError("a column of that name would have been found")
    ids = pa.nulls(1, pa.int64()) if nameless else _ids(given.pop(id_name), id_name, file)
    columns = {
        name: cells.texts([_READ_AS[name](cell) or None for cell in column])
        for name, column in given.items()
    }
    # An item table's title and synopsis are read above; in a user table the names stay refused, so
    # that nothing takes a user's attribute for them.
    reserved = (*_RESERVED, schema.TITLE, schema.SYNOPSIS)
    for column, values in raw.items():
        name = attribute_name(column)
        if not schema.is_name(name) or name in reserved:
            raise DataError(
                f"{file}: column {column[:40]!r} cannot name an attribute; rename it, with a "
                f"letter first and none of {', '.join(reserved)}"
            )
        if name in columns:
            raise DataError(f"{file}: two columns give the attribute {name}; rename one")
        columns[name] = cells.attribute_values(values)
    if not columns:
        raise DataError(f"{file}: has ids and no other column; found {', '.join(found)}")
    return AttributeTable(file, ids, columns)


def attribute_name(column: str) -> str:
    """The name of the attribute that a column gives; `schema.is_name` may still refuse it.

    >>> attribute_name("Release date (JP)")
    'release_date_jp'
    """
    return re.sub(r"[^a-z0-9]+", "_", column.lower()).strip("_")


def _ids(values: list[Any], name: str, file: Given) -> pa.Array:
    """Ids as int64 where all are whole numbers (in Parquet or a frame), else as text."""
    if not values:
        raise DataError(f"{file}: holds no row")
    ids = cells.ids_of(values, name, file)
    if all(isinstance(value, int) and abs(value) < 2**63 for value in ids):
        return pa.array(ids, type=pa.int64())
    return pa.array([str(value) for value in ids], type=pa.string())
