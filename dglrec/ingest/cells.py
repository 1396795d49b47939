"""The cells of small tables: read whole, and turned into ids, numbers, texts and genres."""

import datetime
import decimal
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from dglrec import schema
from dglrec.errors import DataError
from dglrec.ingest import stream, typed
from dglrec.ingest.faults import fault_of_whole_number
from dglrec.ingest.frames import Given
from dglrec.ingest.parts import Parts
from dglrec.ingest.quotes import refuse_swallowed

UNKNOWN = "Unknown"
_NO_SYNOPSIS = re.compile(r"\s*no synopsis\b.*\b(added|yet|available)\b", re.IGNORECASE | re.DOTALL)
_LEADING_ZERO = re.compile(r"\s*-?0[0-9]")
_WITHOUT_HEADER = ("u.item", "movies.dat", "u.user", "users.dat")
NO_GENRES = "(no genres listed)"


def raw_table(file: Given, id_names: Sequence[str]) -> dict[str, list[Any]]:
    """A small table's columns by name: text from CSV, Python values from Parquet and frames.

    Args:
        file: the table.
        id_names: the names that its column of ids may have.

    Raises:
        DataError: the table is damaged, has a column twice or a column that cannot be read, or an
            open quote took rows into a value.
    """
    if isinstance(file, Parts):
        return _joined(file, id_names)
    description = f"reading {file.name}"
    if not stream.is_text(file):
        fields = typed.typed_schema(file)
        names = list(fields.names)
        _refuse_repeated(names, file)
        _refuse_nested(fields, file)
        stretches = typed.stream_typed(file, names, description)
    else:
        text = stream.header_format(file, ())
        names = list(text.names)
        _refuse_repeated(names, file)
        kinds = dict.fromkeys(names, pa.string())
        stretches = stream.stream_text(file, text, kinds, description, newlines_in_values=True)
    columns: dict[str, list[Any]] = {name: [] for name in names}
    for stretch in stretches:
        for name in names:
            columns[name].extend(stretch.table.column(name).to_pylist())
    if not stream.is_text(file):
        return columns
    last = columns[names[-1]]
    if last and stream.ends_in_open_quote(file, last[-1]):
        raise DataError(
            f"{file}: row {len(last) + 1}: the file ends inside quotes; fetch the file again"
        )
    id_name = next((name for name in id_names if name in columns), None)
    refuse_swallowed(columns, text.delimiter, id_name, file)
    return columns


def _joined(parts: Parts, id_names: Sequence[str]) -> dict[str, list[Any]]:
    """The columns of all parts, concatenated, and the columns that hive partitions give.

    Raises:
        DataError: as `raw_table`, or the columns of two parts differ.
    """
    columns: dict[str, list[Any]] = {}
    for number, part in enumerate(parts.files):
        found = raw_table(part, id_names)
        rows = max(map(len, found.values()), default=0)
        for name, values in parts.partitions.items():
            found.setdefault(name, [values[number]] * rows)
        if number and found.keys() != columns.keys():
            here, first = (", ".join(stream.shown_names(list(part))) for part in (found, columns))
            raise DataError(
                f"{part}: has the columns {here}, and {parts.files[0]} {first}; parts of one table "
                "have the same"
            )
        for name, cells in found.items():
            columns.setdefault(name, []).extend(cells)
    return columns


def _refuse_nested(fields: pa.Schema, file: Given) -> None:
    """Refuse columns that cannot be read as ids, numbers, texts, dates or lists of them."""
    for field in fields:
        is_list = pa.types.is_list(field.type) or pa.types.is_large_list(field.type)
        kind = field.type.value_type if is_list else field.type
        if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            raise DataError(
                f"{file}: column {field.name[:40]} holds {str(field.type)[:60]}; give numbers, "
                "text, dates, or lists of text"
            )


def _refuse_repeated(names: Sequence[str], file: Given) -> None:
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{file}: more than one column {', '.join(repeated)}")


def ids_of(values: Sequence[Any], name: str, file: Given) -> list[int | str]:
    """The ids of a table's rows: whole numbers, or text without spaces around it.

    Raises:
        DataError: an id is missing, or is neither a whole number nor text. The message names the
            row.
    """
    ids: list[int | str] = []
    for row, value in enumerate(values, start=first_row_of(file)):
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # pandas turns whole numbers into floats if a value is missing
        if isinstance(value, str):
            value = value.strip()
        if value is None or value == "" or (isinstance(value, float) and np.isnan(value)):
            raise DataError(f"{file}: row {row}: {name} is missing")
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise DataError(
                f"{file}: row {row}: {name} holds {type(value).__name__} ({str(value)[:40]}); ids "
                "must be whole numbers below 2^63 or text"
            )
        ids.append(value)
    return ids


def whole_ids(values: Sequence[Any], name: str, file: Given, *, distinct: bool = True) -> pd.Series:
    """Ids that are whole numbers from 0, int64.

    Raises:
        DataError: an id is no whole number from 0, or is there twice although ids must be distinct.
    """
    ids = ids_of(values, name, file)
    written = pa.array([str(value) for value in ids], type=pa.string())
    numbers = schema.whole_numbers(written).to_pylist()
    for row, (number, value) in enumerate(zip(numbers, ids, strict=True), first_row_of(file)):
        if number is None or number < 0:
            raise DataError(f"{file}: row {row}: {fault_of_whole_number(name, str(value))}")
    if distinct:
        _refuse_repeated_ids(numbers, name, file)
    return series_of(numbers, dtype=np.int64)


def text_ids(values: Sequence[Any], name: str, file: Given) -> pd.Series:
    """Ids as texts, distinct and not empty.

    Raises:
        DataError: an id is missing, or is there twice.
    """
    ids = [str(value) for value in ids_of(values, name, file)]
    _refuse_repeated_ids(ids, name, file)
    return texts(ids)


def _refuse_repeated_ids(ids: Sequence[int | str], name: str, file: Given) -> None:
    seen: set[int | str] = set()
    for row, value in enumerate(ids, start=first_row_of(file)):
        if value in seen:
            raise DataError(
                f"{file}: row {row}: {name} {str(value)[:40]} is there twice; keep one row"
            )
        seen.add(value)


def first_row_of(file: Given) -> int:
    """The number of a table's first row of data, as error messages count rows."""
    return 2 if stream.is_text(file) and file.name not in _WITHOUT_HEADER else 1


def numbers_or_texts(values: Sequence[Any]) -> pd.Series:
    """Numbers if every present value is a finite number, else text; `Unknown` counts as missing."""
    present = [None if value in ("", UNKNOWN) else value for value in values]
    if all(value is None for value in present):
        return series_of([np.nan] * len(present), dtype=float)
    try:
        numbers: pd.Series = pd.to_numeric(pd.Series(present, dtype=object))
    except (ValueError, TypeError):
        return texts([text_of(value) or None for value in present])
    if pd.api.types.is_bool_dtype(numbers) or np.isinf(numbers.astype(float)).any():
        return texts([text_of(value) or None for value in present])
    return numbers


def attribute_values(values: list[Any]) -> pd.Series:
    """A column of a table of attributes: lists of texts, numbers or texts."""
    if any(isinstance(value, list) for value in values):
        return texts([_listed(value) for value in values])
    plain = [_plain(value) for value in values]
    # As a number, "007" would lose its leading zeros.
    if any(isinstance(value, str) and _LEADING_ZERO.match(value) for value in plain):
        return texts([None if value in (None, "", UNKNOWN) else str(value) for value in plain])
    return numbers_or_texts(plain)


def _listed(value: Any) -> list[str] | None:
    if not isinstance(value, list):
        value = [] if value is None else [value]
    names = (text_of(name) for name in value)
    return [name for name in dict.fromkeys(names) if name and name != UNKNOWN] or None


def _plain(value: Any) -> Any:
    """A value of a Parquet file: booleans and dates as text, decimals as floats, NaN as missing."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, datetime.date | datetime.datetime):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        value = float(value)
    if isinstance(value, float) and np.isnan(value):
        return None
    return value.strip() if isinstance(value, str) else value


def text_of(cell: Any) -> str | None:
    """A cell as text without spaces around it; None where the cell is missing."""
    return None if cell is None else str(cell).strip()


def comma_genres(cell: Any) -> list[str]:
    """Genres from a list, or from a text with commas, each once."""
    if isinstance(cell, list):
        names = [str(name).strip() for name in cell if name is not None]
    else:
        names = [name.strip() for name in (text_of(cell) or "").split(",")]
    return [name for name in dict.fromkeys(names) if name not in ("", UNKNOWN)]


def any_genres(cell: Any) -> list[str]:
    """Genres from a list, or from a text with commas or, as in MovieLens, bars."""
    if isinstance(cell, str) and "|" in cell:
        return bar_genres(cell)
    return [name for name in comma_genres(cell) if name != NO_GENRES]


def bar_genres(cell: str) -> list[str]:
    """Genres from a text with bars, as in MovieLens, each once."""
    names = dict.fromkeys(name.strip() for name in cell.split("|"))
    return [name for name in names if name not in ("", NO_GENRES)]


def synopsis_of(cell: Any) -> str | None:
    """A synopsis; None where the cell says that there is none."""
    text = text_of(cell)
    if not text or text == UNKNOWN or _NO_SYNOPSIS.match(text):
        return None
    return text


def texts(values: Sequence[Any]) -> pd.Series:
    """A column of texts, or of lists, with None where a value is missing."""
    # Without the dtype, pandas turns None into NaN.
    return series_of(values, dtype=object)


def series_of(values: Sequence[Any], **options: Any) -> pd.Series:
    """`pd.Series`, typed for mypy."""
    series: pd.Series = pd.Series(values, **options)
    return series


def frame_of(columns: dict[str, Any]) -> pd.DataFrame:
    """`pd.DataFrame`, typed for mypy."""
    frame: pd.DataFrame = pd.DataFrame(columns)
    return frame


def ordered(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """A table's rows in ascending order of a column."""
    ordered: pd.DataFrame = frame.sort_values(name, ignore_index=True)
    return ordered
