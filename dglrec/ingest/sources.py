"""Find out what lies at a SOURCE: which of the known layouts, which files, which columns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dglrec import schema
from dglrec.errors import DataError, UsageError
from dglrec.ingest import stream, typed
from dglrec.ingest.frames import Frame, Given, find, is_file
from dglrec.ingest.parts import TABLE_ENDINGS, Parts, TableFile, find_table, has_parts, parts_of
from dglrec.places import Place, RemotePath, folder_and_pattern
from dglrec.schema import RatingScale

ANIME = "anime"
MOVIELENS = "movielens"
TABLE = "table"
AUTO = "auto"
FORMATS = (ANIME, MOVIELENS, TABLE)

_UNRATED_STEM = "animelist"
_ANIME_RATINGS = ("rating_complete", _UNRATED_STEM)
_ANIME_ITEMS = ("anime_with_synopsis", "anime")
# Stems of files that accompany ratings in a known layout: a folder that holds them but no ratings
# is an incomplete data set, not a table in parts.
_COMPANION_STEMS = {*_ANIME_ITEMS, "movies", "u"}
_ENDINGS = (".csv", ".csv.gz", ".parquet")
_NAMES_OF_RATINGS = ("rating", "ratings", "stars", "score", "scores")

COLUMN_KEYS = ("user", "item", "rating", "timestamp")
"""The keys of `--columns`: fields of `RatingLayout`."""

_WHOLE_STARS = RatingScale(1.0, 5.0, 1.0)
_HALF_STARS = RatingScale(0.5, 5.0, 0.5)
_OUT_OF_TEN = RatingScale(1.0, 10.0, 1.0)


@dataclass(frozen=True)
class RatingLayout:
    """Where the files of a layout keep their ratings.

    Attributes:
        user: name of the column of user ids; likewise `item`, `rating` and `timestamp`. The
            timestamp may be missing unless `timestamp_required`; a file with a header but without
            the rating holds interactions.
        whole_ids: whether ids are always whole numbers; else they may be text.
        delimiters: the possible delimiters, a character each.
        fields: the names of all fields, where the files have no header.
        separator: what stands between two fields of a file without a header.
        named: columns that the user named, and that must be there.
    """

    user: str
    item: str
    rating: str
    timestamp: str | None = None
    timestamp_required: bool = False
    whole_ids: bool = True
    delimiters: str = ","
    fields: tuple[str, ...] = ()
    separator: str = ""
    named: tuple[str, ...] = ()

    @property
    def required(self) -> tuple[str, ...]:
        """The columns that a file must have."""
        names = tuple(dict.fromkeys((self.user, self.item, *self.named)))
        if self.timestamp_required and self.timestamp is not None:
            return (*names, self.timestamp)
        return names

    @property
    def options(self) -> dict[str, str]:
        """The key of `--columns` by the name of each column."""
        named = {self.user: "user", self.item: "item", self.rating: "rating"}
        return named if self.timestamp is None else {**named, self.timestamp: "timestamp"}

    def schema_names(self, found: Sequence[str]) -> dict[str, str]:
        """The columns to read, out of those `found`: name in the file -> name in the schema."""
        names = {self.user: schema.USER_ID, self.item: schema.ITEM_ID}
        if self.rating in found:
            names[self.rating] = schema.RATING
        if self.timestamp is not None and self.timestamp in found:
            names[self.timestamp] = schema.TIMESTAMP
        return names

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns that are read where a file has them."""
        names = (self.user, self.item, self.rating)
        return names if self.timestamp is None else (*names, self.timestamp)


# The published files have no timestamps; generated ones may.
_ANIME_LAYOUT = RatingLayout("user_id", "anime_id", "rating", "timestamp")
_TABLE_LAYOUT = RatingLayout(
    schema.USER_ID,
    schema.ITEM_ID,
    schema.RATING,
    schema.TIMESTAMP,
    whole_ids=False,
    delimiters=",;\t",
)
_ML_CSV_LAYOUT = RatingLayout("userId", "movieId", "rating", "timestamp", timestamp_required=True)
_ML_TAB_LAYOUT = RatingLayout(
    "userId",
    "movieId",
    "rating",
    "timestamp",
    timestamp_required=True,
    delimiters="\t",
    fields=("userId", "movieId", "rating", "timestamp"),
    separator="\t",
)
# The fields are separated by "::". Split at each ":", there is an empty field between any two.
_ML_COLONS_LAYOUT = RatingLayout(
    "userId",
    "movieId",
    "rating",
    "timestamp",
    timestamp_required=True,
    delimiters=":",
    fields=("userId", "gap 1", "movieId", "gap 2", "rating", "gap 3", "timestamp"),
    separator="::",
)


@dataclass(frozen=True)
class Source:
    """What was found at a SOURCE. Only folders, headers and first lines were read.

    Attributes:
        path: the SOURCE as given.
        format: one of `FORMATS`.
        ratings_file: the table of ratings.
        scale: the values a rating may take; None where the layout does not say.
        layout: the columns of `ratings_file`, and of every other ratings file of the format.
        item_files: the item tables, the table with the better texts first.
        user_file: the table of users.
    """

    path: Given
    format: str
    ratings_file: Given
    scale: RatingScale | None
    layout: RatingLayout
    item_files: tuple[Place, ...] = ()
    user_file: Place | None = None

    def resolve(self, file: Given) -> Given:
        """A file by its name, which may be relative to the source's folder; a frame unchanged."""
        if isinstance(file, Path) and isinstance(self.path, Place) and self.path.is_dir():
            inside, globbed = self.path / file, folder_and_pattern(file)
            nowhere_else = globbed is not None and not globbed[0].is_dir()
            if not file.exists() and (inside.exists() or nowhere_else):
                return find(inside)
        return find(file)

    def zero_means_unrated(self, file: Given) -> bool:
        """Whether a rating of 0 says that the user did not rate, as it does in `animelist`."""
        return self.format == ANIME and file.name.startswith(_UNRATED_STEM)


def open_source(
    path: Given, format: str = AUTO, columns: Mapping[str, str] | None = None
) -> Source:
    """Find out what lies at `path`.

    Args:
        path: a folder in the published layout of the anime or a MovieLens data set, or a table: a
            file, a folder of parts, a pattern that matches files, or a frame.
        format: one of `FORMATS`, or `auto` to find out.
        columns: names of a table's columns, as `parse_columns` gives them.

    Raises:
        UsageError: there is no such format, or columns are given for a format other than `table`.
        DataError: nothing is there, the layout is not known or not unique, or the ratings lack a
            column.
    """
    if format not in (AUTO, *FORMATS):
        raise UsageError(f"no format {format!r}; choose {AUTO}, {', '.join(FORMATS)}")
    if columns and format not in (AUTO, TABLE):
        raise UsageError(f"--columns: the columns of --format {format} have names of their own")
    if isinstance(path, Frame):
        return _open_frame(path, format, columns)
    if isinstance(path, Parts):
        path = path.place
    if not path.exists() and folder_and_pattern(path) is None:
        what = "file or folder"
        lack = path.lack(what) if isinstance(path, RemotePath) else f"no such {what}"
        raise DataError(f"{path}: {lack}")
    if format == AUTO:
        format = TABLE if columns else _detect(path)
    source = _OPENERS[format](path)
    if columns:
        source = replace(source, layout=_layout_of(columns))
    ratings_columns(source.ratings_file, source.layout)
    return source


def parse_columns(text: str) -> dict[str, str]:
    """Read `user=NAME,item=NAME,...`, as on a command line.

    >>> parse_columns("user=uid,rating=stars")
    {'user': 'uid', 'rating': 'stars'}

    Raises:
        UsageError: the text has another form, or a key or a column is there twice.
    """
    columns: dict[str, str] = {}
    for part in text.split(","):
        key, _, name = part.partition("=")
        if key == schema.WEIGHT:
            raise UsageError(
                "--columns weight: ratings have no weight; edges of --relation have, in a column "
                f"{schema.WEIGHT}"
            )
        if key not in COLUMN_KEYS or not name:
            raise UsageError(
                f"--columns {part!r}: write KEY=NAME, with commas between, of the keys "
                f"{', '.join(COLUMN_KEYS)}"
            )
        if key in columns or name in columns.values():
            raise UsageError(f"--columns {part!r}: the key or the column is there twice")
        columns[key] = name
    return columns


def _layout_of(columns: Mapping[str, str]) -> RatingLayout:
    """The layout of a table whose columns the user named; the other columns keep their names."""
    named: dict[str, Any] = dict(columns)
    return replace(_TABLE_LAYOUT, **named, named=tuple(columns.values()))


def ratings_columns(file: Given, layout: RatingLayout) -> stream.TextFormat | None:
    """The text format of a ratings file of this layout; None for Parquet and frames.

    Raises:
        DataError: the file is missing, is empty, is no text, or lacks a column, or its column of
            ratings has another name.
    """
    text: stream.TextFormat | None
    first = file if isinstance(file, Frame) else parts_of(file).files[0]
    if not stream.is_text(file):
        text, names = None, list(typed.typed_schema(file).names)
        for name in layout.columns:
            if names.count(name) > 1:
                raise DataError(f"{first}: column {name} is there {names.count(name)} times")
    elif layout.fields:
        return _headerless(file, layout)
    else:
        text = stream.header_format(file, layout.columns, layout.delimiters)
        names = list(text.names)
    if missing := [name for name in layout.required if name not in names]:
        found = ", ".join(stream.shown_names(names)) or "no columns"
        raise DataError(
            f"{first}: no column {', '.join(missing)}; found {found}"
            f"{_spelled(names, missing, layout)}{_hint(first, layout)}"
        )
    if layout.rating not in names:
        _refuse_ratings_by_another_name(first, layout, names)
    return text


def _spelled(names: Sequence[str], missing: Sequence[str], layout: RatingLayout) -> str:
    """The end of a message about missing columns that are there under another spelling."""
    if not layout.named:
        return schema.renames(names, missing)
    options = layout.options
    alike = [f"{options[wanted]}={found}" for wanted, found in schema.alike(names, missing).items()]
    return f"; say --columns {','.join(alike)}" if alike else ""


def _refuse_ratings_by_another_name(
    file: Given, layout: RatingLayout, names: Sequence[str]
) -> None:
    """Refuse a table that would be read as interactions only because `rating` is spelled otherwise.

    Raises:
        DataError: a column's name says that it holds ratings.
    """
    named = [name for name in names if name.strip().lower() in _NAMES_OF_RATINGS]
    if named:
        shown = ", ".join(stream.shown_names(names))
        raise DataError(
            f"{file}: no column {layout.rating}; found {shown}; rename {named[0]!r} to "
            f"{layout.rating}, or leave it out to read the rows as interactions"
        )


def _headerless(file: TableFile, layout: RatingLayout) -> stream.TextFormat:
    found = len(stream.first_line(file).split(layout.separator))
    expected = layout.separator.join((layout.user, layout.item, layout.rating, "timestamp"))
    if found != 4:
        raise DataError(
            f"{file}: row 1 has {found} fields; expected the 4 fields {expected!r} and no header"
        )
    return stream.TextFormat(layout.fields, layout.delimiters, header=False, quoted=False)


def _hint(file: Given, layout: RatingLayout) -> str:
    if layout != _TABLE_LAYOUT or not is_file(file):
        return ""
    if isinstance(file, Path) and _kinds_of_folder(file.parent):
        return f"; to read the whole data set give its folder, {file.parent}"
    return (
        "; or say what they are called here: --columns user=NAME,item=NAME, and perhaps "
        "rating=NAME,timestamp=NAME"
    )


def _detect(path: Place) -> str:
    if path.is_dir():
        kinds = _kinds_of_folder(path)
        if not kinds:
            names = sorted(entry.name for entry in path.iterdir())
            if not _COMPANION_STEMS & {name.split(".")[0] for name in names} and has_parts(path):
                return TABLE
            shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
            raise DataError(
                f"{path}: no ratings here; found {shown or 'an empty folder'}, expected "
                "rating_complete.csv or animelist.csv (anime), or u.data, ratings.dat or "
                "ratings.csv (MovieLens), or the parts of a table"
            )
        if len(kinds) > 1:
            raise DataError(
                f"{path}: holds both layouts; choose with --format {' or '.join(kinds)}"
            )
        return kinds[0]
    if path.name.lower().endswith(TABLE_ENDINGS) or not path.exists():  # else it is a pattern
        return TABLE
    if isinstance(path, Path) and _kinds_of_folder(path.parent) == [MOVIELENS]:
        raise DataError(f"{path}: is one file of a MovieLens data set; give its folder")
    raise DataError(
        f"{path}: not known by its ending; a table ends in {', '.join(TABLE_ENDINGS)}, "
        "or say --format table"
    )


def _kinds_of_folder(folder: Place) -> list[str]:
    anime = _find(folder, _ANIME_RATINGS, _ENDINGS)
    return [ANIME] * (anime is not None) + [MOVIELENS] * (_movielens_ratings(folder) is not None)


def _movielens_ratings(folder: Place) -> Place | None:
    for name in ("u.data", "ratings.dat"):
        if (folder / name).is_file():
            return folder / name
    return _find(folder, ("ratings",), _ENDINGS)


def _find(folder: Place, stems: Sequence[str], endings: Sequence[str]) -> Place | None:
    candidates = (folder / f"{stem}{ending}" for stem in stems for ending in endings)
    return next((file for file in candidates if file.is_file()), None)


def _existing(*files: Place | None) -> tuple[Place, ...]:
    return tuple(file for file in files if file is not None and file.is_file())


def _open_anime(path: Place) -> Source:
    ratings = _find(_folder(path, ANIME), _ANIME_RATINGS, _ENDINGS)
    if ratings is None:
        raise DataError(f"{path}: neither rating_complete.csv nor animelist.csv in this folder")
    items = _existing(*(_find(path, (stem,), _ENDINGS) for stem in _ANIME_ITEMS))
    return Source(path, ANIME, ratings, _OUT_OF_TEN, _ANIME_LAYOUT, items)


def _open_movielens(path: Place) -> Source:
    ratings = _movielens_ratings(_folder(path, MOVIELENS))
    if ratings is None:
        raise DataError(f"{path}: none of u.data, ratings.dat, ratings.csv in this folder")
    users: tuple[Place, ...] = ()
    if ratings.name == "u.data":
        layout, scale = _ML_TAB_LAYOUT, _WHOLE_STARS
        items, users = _existing(path / "u.item"), _existing(path / "u.user")
    elif ratings.name == "ratings.dat":
        items, users = _existing(path / "movies.dat"), _existing(path / "users.dat")
        # 1M and 10M share the layout. Only 1M has a table of users, and only 10M half stars.
        layout, scale = _ML_COLONS_LAYOUT, _WHOLE_STARS if users else _HALF_STARS
    else:
        layout, scale = _ML_CSV_LAYOUT, _HALF_STARS
        items = _existing(_find(path, ("movies",), _ENDINGS))
    return Source(
        path, MOVIELENS, ratings, scale, layout, items, user_file=users[0] if users else None
    )


def _open_table(path: Place) -> Source:
    return Source(path, TABLE, find_table(path), None, _TABLE_LAYOUT)


def _open_frame(frame: Frame, format: str, columns: Mapping[str, str] | None) -> Source:
    if format not in (AUTO, TABLE):
        raise UsageError(f"{frame}: a frame is a table; --format {format} reads a folder")
    source = Source(frame, TABLE, frame, None, _layout_of(columns) if columns else _TABLE_LAYOUT)
    ratings_columns(frame, source.layout)
    return source


def _folder(path: Place, format: str) -> Place:
    if not path.is_dir():
        raise DataError(f"{path}: is a file; --format {format} reads a folder in that layout")
    return path


_OPENERS = {ANIME: _open_anime, MOVIELENS: _open_movielens, TABLE: _open_table}
