"""The tables beside the ratings: items with title, genres and synopsis, and users."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from dglrec import schema
from dglrec.errors import DataError
from dglrec.ingest import stream
from dglrec.ingest.sources import ANIME, MOVIELENS, Source

_UNKNOWN = "Unknown"
_NO_SYNOPSIS = re.compile(r"\s*no synopsis\b.*\b(added|yet|available)\b", re.IGNORECASE | re.DOTALL)
_SYNOPSIS_NAMES = ("synopsis", "sypnopsis", "Synopsis")
_NO_GENRES = "(no genres listed)"
_YEAR = re.compile(r"\((\d{4})\)\s*$")

_NEW_ITEM_NAMES = {
    schema.ITEM_ID: (schema.ITEM_ID, "MAL_ID", "anime_id", "movieId"),
    schema.TITLE: (schema.TITLE, "Name"),
    schema.GENRES: (schema.GENRES, "Genres"),
    schema.SYNOPSIS: _SYNOPSIS_NAMES,
}
_ITEM_COLUMNS = (schema.ITEM_ID, schema.TITLE, schema.GENRES, schema.SYNOPSIS)
_ML_100K_GENRES = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime"),
    *("Documentary", "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery"),
    *("Romance", "Sci-Fi", "Thriller", "War", "Western"),
)


def read_items(source: Source) -> pd.DataFrame:
    """Read a source's item tables.

    Returns:
        One row an item that a table has, ordered by id. `item_id` int64; `title` str; `genres`
        list[str] in the table's order; `synopsis` str, or None where there is none. Then the
        tables' other columns: numbers where every value that is there is one, else str or None.
        MovieLens has `year` besides, from the end of the title. No rows where there is no table.

    Raises:
        DataError: a table is damaged, lacks a column, or holds an item twice.
    """
    if source.format == ANIME:
        tables = [_anime_items(file) for file in source.item_files]
        if len(tables) == 2:
            return _merge_anime(*tables)
        if tables:
            return _ordered(tables[0], schema.ITEM_ID)
    elif source.format == MOVIELENS and source.item_files:
        return _movielens_items(source.item_files[0])
    return _frame({name: pd.Series(dtype=object) for name in _ITEM_COLUMNS})


def read_new_items(file: Path, id_type: pa.DataType) -> pd.DataFrame:
    """Items that a data set does not hold, from a CSV or Parquet table of them.

    Columns go by any of their names in the layouts that we read. An id is all that has to be there;
    genres stand between commas or bars, or are a list.

    Args:
        file: the table.
        id_type: int64 or string.

    Returns:
        One row an item, ordered by id, with `item_id`, `title`, `genres` and `synopsis` as
        `read_items` gives them, and the table's other columns; `year` from the ends of titles
        where the table has no such column and they have it.

    Raises:
        DataError: the table is damaged, has no row or no column of ids, or holds an item twice.
    """
    raw = _raw_table(file)
    found = stream.shown_names(list(raw))
    cells = {}
    for name, aliases in _NEW_ITEM_NAMES.items():
        alias = next((alias for alias in aliases if alias in raw), None)
        cells[name] = None if alias is None else raw.pop(alias)
    ids = cells[schema.ITEM_ID]
    if ids is None:
        schema.check_columns(found, (schema.ITEM_ID,), str(file))
        raise AssertionError("a column of that name would have been found")
    if not ids:
        raise DataError(f"{file}: holds no row")
    missing = [None] * len(ids)
    titles = [_text(cell) or None for cell in cells[schema.TITLE] or missing]
    # Pandas makes such numbers of whole ones where one was missing once.
    ids = [int(one) if isinstance(one, float) and one.is_integer() else one for one in ids]
    of_ids = _ids if id_type == pa.int64() else _text_ids
    columns: dict[str, Any] = {
        schema.ITEM_ID: of_ids(ids, schema.ITEM_ID, file, _first_row(file)),
        schema.TITLE: _texts(
            [title or str(item).strip() for title, item in zip(titles, ids, strict=True)]
        ),
        schema.GENRES: _texts([_any_genres(cell) for cell in cells[schema.GENRES] or missing]),
        schema.SYNOPSIS: _texts([_synopsis(cell) for cell in cells[schema.SYNOPSIS] or missing]),
    }
    columns |= {name: _numbers_or_texts(values) for name, values in raw.items()}
    years = _years(columns[schema.TITLE])
    if "year" not in columns and years.notna().any():
        columns["year"] = years
    return _ordered(_frame(columns), schema.ITEM_ID)


def read_users(source: Source) -> pd.DataFrame:
    """Read a source's table of users.

    Returns:
        One row a user, ordered by id: `user_id` int64, `age` int64, `gender`, `occupation` and
        `zip_code` str. MovieLens 1M has codes for ages and occupations. Only an empty `user_id`
        where there is no table.

    Raises:
        DataError: the table is damaged or holds a user twice.
    """
    file = source.user_file
    if file is None:
        return _frame({schema.USER_ID: pd.Series(dtype=object)})
    if file.name == "u.user":
        rows = _split_lines(file, "|", 5)
        order = (0, 1, 2, 3, 4)
    else:
        rows = _split_lines(file, "::", 5)
        order = (0, 2, 1, 3, 4)
    ids, ages, *texts = ([row[place] for row in rows] for place in order)
    columns: dict[str, Any] = {
        schema.USER_ID: _ids(ids, schema.USER_ID, file, 1),
        "age": _ids(ages, "age", file, 1, distinct=False),
    }
    for name, values in zip(("gender", "occupation", "zip_code"), texts, strict=True):
        columns[name] = pd.Series(values, dtype=object)
    return _ordered(_frame(columns), schema.USER_ID)


def _anime_items(file: Path) -> pd.DataFrame:
    raw = _raw_table(file)
    required = ["MAL_ID", "Name", "Genres"]
    schema.check_columns(stream.shown_names(list(raw)), tuple(required), str(file))
    spelled = next((name for name in _SYNOPSIS_NAMES if name in raw), None)
    if spelled is None and file.name.startswith("anime_with_synopsis"):
        raise DataError(
            f"{file}: no column synopsis, sypnopsis or Synopsis; "
            f"found {', '.join(stream.shown_names(list(raw)))}"
        )
    synopses = raw.pop(spelled) if spelled else [None] * len(raw["MAL_ID"])
    columns: dict[str, Any] = {
        schema.ITEM_ID: _ids(raw.pop("MAL_ID"), "MAL_ID", file, _first_row(file)),
        schema.TITLE: _texts([_text(name) or "" for name in raw.pop("Name")]),
        schema.GENRES: _texts([_genres(cell) for cell in raw.pop("Genres")]),
        schema.SYNOPSIS: _texts([_synopsis(cell) for cell in synopses]),
    }
    columns |= {name: _numbers_or_texts(values) for name, values in raw.items()}
    return _frame(columns)


def _merge_anime(texts: pd.DataFrame, attributes: pd.DataFrame) -> pd.DataFrame:
    """The union of items: title and synopsis of the one table first, the rest of the other."""
    texts = texts.set_index(schema.ITEM_ID)
    attributes = attributes.set_index(schema.ITEM_ID)
    merged = {}
    index = texts.index.union(attributes.index)
    for name in [*attributes.columns, *texts.columns.difference(attributes.columns, sort=False)]:
        tables = [table[name] for table in (attributes, texts) if name in table]
        if name in (schema.TITLE, schema.SYNOPSIS):
            tables.reverse()
        merged[name] = _first_present(tables, index)
    frame: pd.DataFrame = pd.DataFrame(merged, index=index).rename_axis(schema.ITEM_ID)
    frame = frame.reset_index()
    frame[schema.TITLE] = _texts([cell or "" for cell in frame[schema.TITLE]])
    frame[schema.GENRES] = _texts([cell or [] for cell in frame[schema.GENRES]])
    return frame


def _first_present(columns: Sequence[pd.Series], index: pd.Index) -> pd.Series:
    numeric = all(pd.api.types.is_numeric_dtype(column) for column in columns)
    values: dict[Any, Any] = {}
    for column in reversed(columns):
        present = column[[_is_present(value) for value in column]]
        values.update(zip(present.index, present, strict=True))
    if numeric:
        return _series([values.get(key, np.nan) for key in index], index=index)
    return _series([values.get(key) for key in index], index=index, dtype=object)


def _is_present(value: Any) -> bool:
    if isinstance(value, float):
        return not np.isnan(value)
    return value is not None and value != "" and value != []


def _movielens_items(file: Path) -> pd.DataFrame:
    more: dict[str, Any] = {}
    if file.name == "u.item":
        rows = _split_lines(file, "|", 5 + len(_ML_100K_GENRES))
        ids, titles = ([row[place] for row in rows] for place in (0, 1))
        genres = [
            [name for name, flag in zip(_ML_100K_GENRES[1:], row[6:], strict=True) if flag == "1"]
            for row in rows
        ]
        more["release_date"] = _texts([row[2] or None for row in rows])
    elif file.name == "movies.dat":
        rows = _split_lines(file, "::", 3)
        ids, titles = ([row[place] for row in rows] for place in (0, 1))
        genres = [_movielens_genres(row[2]) for row in rows]
    else:
        raw = _raw_table(file)
        schema.check_columns(
            stream.shown_names(list(raw)), ("movieId", "title", "genres"), str(file)
        )
        ids, titles = raw.pop("movieId"), [_text(title) or "" for title in raw.pop("title")]
        genres = [_movielens_genres(_text(cell) or "") for cell in raw.pop("genres")]
        more = {name: _numbers_or_texts(values) for name, values in raw.items()}
    columns: dict[str, Any] = {
        schema.ITEM_ID: _ids(ids, schema.ITEM_ID, file, _first_row(file)),
        schema.TITLE: _texts(titles),
        schema.GENRES: _texts(genres),
        schema.SYNOPSIS: _texts([None] * len(titles)),
        "year": _years(titles),
    }
    return _ordered(_frame(columns | more), schema.ITEM_ID)


def _raw_table(file: Path) -> dict[str, list[Any]]:
    """A small table's columns by name: text from CSV, Python values from Parquet."""
    description = f"reading {file.name}"
    if stream.is_parquet(file):
        names = list(stream.parquet_schema(file).names)
        stretches = stream.stream_parquet(file, names, description)
    else:
        text = stream.header_format(file, ())
        names = list(text.names)
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise DataError(f"{file}: more than one column {', '.join(repeated)}")
        kinds = dict.fromkeys(names, pa.string())
        stretches = stream.stream_text(file, text, kinds, description, newlines_in_values=True)
    columns: dict[str, list[Any]] = {name: [] for name in names}
    for stretch in stretches:
        for name in names:
            columns[name].extend(stretch.table.column(name).to_pylist())
    last = columns[names[-1]]
    if last and not stream.is_parquet(file) and stream.ends_in_open_quote(file, last[-1]):
        raise DataError(
            f"{file}: row {len(last) + 1}: the file ends inside quotes; fetch the file again"
        )
    return columns


def _split_lines(file: Path, separator: str, fields: int) -> list[list[str]]:
    """Cut the lines of one of MovieLens' older tables, which have no header and no quotes.

    Most of their copies are Latin-1 and some are UTF-8. Text with an accent is hardly ever valid
    UTF-8 by chance, so what is valid UTF-8 is taken for it.
    """
    stream.require_file(file)
    data = file.read_bytes()
    if not data.strip():
        raise DataError(f"{file}: is empty")
    if b"\0" in data:
        raise DataError(f"{file}: holds binary data, no text")
    try:
        content = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        content = data.decode("latin-1")
    rows = [line.rstrip("\r").split(separator) for line in content.rstrip("\r\n").split("\n")]
    for number, row in enumerate(rows, start=1):
        if len(row) != fields:
            raise DataError(f"{file}: row {number}: {len(row)} fields where {fields} were expected")
    return rows


def _ids(
    values: Sequence[Any], name: str, file: Path, first_row: int, *, distinct: bool = True
) -> pd.Series:
    """Whole numbers from 0, int64."""
    seen: set[int] = set()
    numbers = []
    for row, value in enumerate(values, start=first_row):
        text = str(value).strip()
        if not (text.isascii() and text.isdigit() and int(text) < 2**63):
            raise DataError(f"{file}: row {row}: {name} is no whole number from 0 ({text[:40]!r})")
        number = int(text)
        if distinct and number in seen:
            raise DataError(f"{file}: row {row}: {name} {number} is there twice; keep one row")
        seen.add(number)
        numbers.append(number)
    return _series(numbers, dtype=np.int64)


def _text_ids(values: Sequence[Any], name: str, file: Path, first_row: int) -> pd.Series:
    """Texts that are not empty."""
    seen: set[str] = set()
    for row, value in enumerate(values, start=first_row):
        text = _text(value)
        if not text:
            raise DataError(f"{file}: row {row}: {name} is missing")
        if text in seen:
            raise DataError(f"{file}: row {row}: {name} {text[:40]} is there twice; keep one row")
        seen.add(text)
    return _texts([str(value).strip() for value in values])


def _first_row(file: Path) -> int:
    return 1 if stream.is_parquet(file) or file.name in ("u.item", "movies.dat") else 2


def _frame(columns: dict[str, Any]) -> pd.DataFrame:
    frame: pd.DataFrame = pd.DataFrame(columns)
    return frame


def _ordered(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    ordered: pd.DataFrame = frame.sort_values(name, ignore_index=True)
    return ordered


def _texts(values: Sequence[Any]) -> pd.Series:
    # Left to itself pandas makes NaN of None.
    return _series(values, dtype=object)


def _series(values: Sequence[Any], **options: Any) -> pd.Series:
    series: pd.Series = pd.Series(values, **options)
    return series


def _text(cell: Any) -> str | None:
    return None if cell is None else str(cell).strip()


def _genres(cell: Any) -> list[str]:
    if isinstance(cell, list):
        names = [str(name).strip() for name in cell if name is not None]
    else:
        names = [name.strip() for name in (_text(cell) or "").split(",")]
    return [name for name in dict.fromkeys(names) if name not in ("", _UNKNOWN)]


def _years(titles: Iterable[str]) -> pd.Series:
    """Where titles end in a year, as MovieLens' do, that year."""
    years = [_YEAR.search(title) for title in titles]
    return _series([float(year[1]) if year else np.nan for year in years], dtype=float)


def _any_genres(cell: Any) -> list[str]:
    """Genres of a list, or of a text with commas or, as in MovieLens, bars."""
    if isinstance(cell, str) and "|" in cell:
        return _movielens_genres(cell)
    return [name for name in _genres(cell) if name != _NO_GENRES]


def _movielens_genres(cell: str) -> list[str]:
    names = dict.fromkeys(name.strip() for name in cell.split("|"))
    return [name for name in names if name not in ("", _NO_GENRES)]


def _synopsis(cell: Any) -> str | None:
    text = _text(cell)
    if not text or text == _UNKNOWN or _NO_SYNOPSIS.match(text):
        return None
    return text


def _numbers_or_texts(values: Sequence[Any]) -> pd.Series:
    """Numbers where every value that is there is a finite one, else text; `Unknown` is missing."""
    present = [None if value in ("", _UNKNOWN) else value for value in values]
    if all(value is None for value in present):
        return _series([np.nan] * len(present), dtype=float)
    try:
        numbers: pd.Series = pd.to_numeric(pd.Series(present, dtype=object))
    except (ValueError, TypeError):
        return _texts([_text(value) or None for value in present])
    if pd.api.types.is_bool_dtype(numbers) or np.isinf(numbers.astype(float)).any():
        return _texts([_text(value) or None for value in present])
    return numbers
