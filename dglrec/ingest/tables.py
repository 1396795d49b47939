"""The tables beside the ratings: items with title, genres and synopsis, and users."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from dglrec import schema
from dglrec.errors import DataError, EmptyFileError
from dglrec.ingest import cells, stream
from dglrec.ingest.frames import Given
from dglrec.ingest.sources import ANIME, MOVIELENS, Source
from dglrec.places import Place

_SYNOPSIS_NAMES = ("synopsis", "sypnopsis", "Synopsis")
_YEAR = re.compile(r"\((\d{4})\)\s*$")

ITEM_NAMES = {
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
        A row for each item in a table, ordered by id. `item_id` int64; `title` str; `genres`
        list[str] in the table's order; `synopsis` str, or None where there is none. Then the
        tables' other columns: numbers if every present value is a number, else str or None.
        MovieLens also has `year`, from the end of the title. No rows if there is no table.

    Raises:
        DataError: a table is damaged, lacks a column, or holds an item twice.
    """
    if source.format == ANIME:
        tables = [_anime_items(file) for file in source.item_files]
        if len(tables) == 2:
            return _merge_anime(*tables)
        if tables:
            return cells.ordered(tables[0], schema.ITEM_ID)
    elif source.format == MOVIELENS and source.item_files:
        return _movielens_items(source.item_files[0])
    return cells.frame_of({name: pd.Series(dtype=object) for name in _ITEM_COLUMNS})


def read_new_items(file: Given, id_type: pa.DataType, called: str | None = None) -> pd.DataFrame:
    """Read a CSV or Parquet table, or a frame, of items that a data set does not hold.

    Columns may have any of their names in the layouts that we read. Only the id is required; genres
    are separated by commas or bars, or are a list.

    Args:
        file: the table.
        id_type: int64 or string.
        called: a further name that the column of ids may have: its name in the table of ratings.

    Returns:
        A row for each item, ordered by id, with `item_id`, `title`, `genres` and `synopsis` as
        `read_items` gives them, and the table's other columns; `year` from the ends of titles
        if titles end in years and the table has no column of that name.

    Raises:
        DataError: the table is damaged, has no row or no column of ids, or holds an item twice.
    """
    named = dict(ITEM_NAMES)
    if called is not None:
        named[schema.ITEM_ID] = (*named[schema.ITEM_ID], called)
    raw = cells.raw_table(file, named[schema.ITEM_ID])
    found = stream.shown_names(list(raw))
    given = {}
    for name, aliases in named.items():
        alias = next((alias for alias in aliases if alias in raw), None)
        given[name] = None if alias is None else raw.pop(alias)
    ids = given[schema.ITEM_ID]
    if ids is None:
        schema.check_columns(found, (schema.ITEM_ID,), str(file))
        raise AssertionError("a column of that name would have been found")
    if not ids:
        raise EmptyFileError(f"{file}: holds no row")
    missing = [None] * len(ids)
    titles = [cells.text_of(cell) or None for cell in given[schema.TITLE] or missing]
    of_ids = cells.whole_ids if id_type == pa.int64() else cells.text_ids
    distinct = of_ids(ids, schema.ITEM_ID, file)
    columns: dict[str, Any] = {
        schema.ITEM_ID: distinct,
        schema.TITLE: cells.texts(
            [title or str(item) for title, item in zip(titles, distinct, strict=True)]
        ),
        schema.GENRES: cells.texts(
            [cells.any_genres(cell) for cell in given[schema.GENRES] or missing]
        ),
        schema.SYNOPSIS: cells.texts(
            [cells.synopsis_of(cell) for cell in given[schema.SYNOPSIS] or missing]
        ),
    }
    columns |= {
        name: cells.attribute_values(values)
        if any(isinstance(value, list) for value in values)
        else cells.numbers_or_texts(values)
        for name, values in raw.items()
    }
    years = _years(columns[schema.TITLE])
    if "year" not in columns and years.notna().any():
        columns["year"] = years
    return cells.ordered(cells.frame_of(columns), schema.ITEM_ID)


def read_users(source: Source) -> pd.DataFrame:
    """Read a source's table of users.

    Returns:
        A row for each user, ordered by id: `user_id` int64, `age` int64, `gender`, `occupation` and
        `zip_code` str. MovieLens 1M has codes for ages and occupations. If there is no table, only
        an empty column `user_id`.

    Raises:
        DataError: the table is damaged or holds a user twice.
    """
    file = source.user_file
    if file is None:
        return cells.frame_of({schema.USER_ID: pd.Series(dtype=object)})
    if file.name == "u.user":
        rows = _split_lines(file, "|", 5)
        order = (0, 1, 2, 3, 4)
    else:
        rows = _split_lines(file, "::", 5)
        order = (0, 2, 1, 3, 4)
    ids, ages, *texts = ([row[place] for row in rows] for place in order)
    columns: dict[str, Any] = {
        schema.USER_ID: cells.whole_ids(ids, schema.USER_ID, file),
        "age": cells.whole_ids(ages, "age", file, distinct=False),
    }
    for name, values in zip(("gender", "occupation", "zip_code"), texts, strict=True):
        columns[name] = pd.Series(values, dtype=object)
    return cells.ordered(cells.frame_of(columns), schema.USER_ID)


def _anime_items(file: Place) -> pd.DataFrame:
    raw = cells.raw_table(file, ITEM_NAMES[schema.ITEM_ID])
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
        schema.ITEM_ID: cells.whole_ids(raw.pop("MAL_ID"), "MAL_ID", file),
        schema.TITLE: cells.texts([cells.text_of(name) or "" for name in raw.pop("Name")]),
        schema.GENRES: cells.texts([cells.comma_genres(cell) for cell in raw.pop("Genres")]),
        schema.SYNOPSIS: cells.texts([cells.synopsis_of(cell) for cell in synopses]),
    }
    columns |= {name: cells.numbers_or_texts(values) for name, values in raw.items()}
    return cells.frame_of(columns)


def _merge_anime(texts: pd.DataFrame, attributes: pd.DataFrame) -> pd.DataFrame:
    """All items of both tables; `texts` comes first for title and synopsis, else `attributes`."""
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
    frame[schema.TITLE] = cells.texts([cell or "" for cell in frame[schema.TITLE]])
    frame[schema.GENRES] = cells.texts([cell or [] for cell in frame[schema.GENRES]])
    return frame


def _first_present(columns: Sequence[pd.Series], index: pd.Index) -> pd.Series:
    numeric = all(pd.api.types.is_numeric_dtype(column) for column in columns)
    values: dict[Any, Any] = {}
    for column in reversed(columns):
        present = column[[_is_present(value) for value in column]]
        values.update(zip(present.index, present, strict=True))
    if numeric:
        return cells.series_of([values.get(key, np.nan) for key in index], index=index)
    return cells.series_of([values.get(key) for key in index], index=index, dtype=object)


def _is_present(value: Any) -> bool:
    if isinstance(value, float):
        return not np.isnan(value)
    return value is not None and value != "" and value != []


def _movielens_items(file: Place) -> pd.DataFrame:
    more: dict[str, Any] = {}
    if file.name == "u.item":
        rows = _split_lines(file, "|", 5 + len(_ML_100K_GENRES))
        ids, titles = ([row[place] for row in rows] for place in (0, 1))
        genres = [
            [name for name, flag in zip(_ML_100K_GENRES[1:], row[6:], strict=True) if flag == "1"]
            for row in rows
        ]
        more["release_date"] = cells.texts([row[2] or None for row in rows])
    elif file.name == "movies.dat":
        rows = _split_lines(file, "::", 3)
        ids, titles = ([row[place] for row in rows] for place in (0, 1))
        genres = [cells.bar_genres(row[2]) for row in rows]
    else:
        raw = cells.raw_table(file, ITEM_NAMES[schema.ITEM_ID])
        schema.check_columns(
            stream.shown_names(list(raw)), ("movieId", "title", "genres"), str(file)
        )
        ids, titles = raw.pop("movieId"), [cells.text_of(title) or "" for title in raw.pop("title")]
        genres = [cells.bar_genres(cells.text_of(cell) or "") for cell in raw.pop("genres")]
        more = {name: cells.numbers_or_texts(values) for name, values in raw.items()}
    columns: dict[str, Any] = {
        schema.ITEM_ID: cells.whole_ids(ids, schema.ITEM_ID, file),
        schema.TITLE: cells.texts(titles),
        schema.GENRES: cells.texts(genres),
        schema.SYNOPSIS: cells.texts([None] * len(titles)),
        "year": _years(titles),
    }
    return cells.ordered(cells.frame_of(columns | more), schema.ITEM_ID)


def _split_lines(file: Place, separator: str, fields: int) -> list[list[str]]:
    """The fields of each line of one of MovieLens' older tables, without header and quotes.

    Most copies of these tables are Latin-1, and some are UTF-8. Latin-1 text with an accent is
    hardly ever valid UTF-8 by chance, so whatever is valid UTF-8 is read as UTF-8.
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


def _years(titles: Iterable[str]) -> pd.Series:
    """The years that titles end in, as MovieLens' do; NaN where a title does not."""
    years = [_YEAR.search(title) for title in titles]
    return cells.series_of([float(year[1]) if year else np.nan for year in years], dtype=float)
