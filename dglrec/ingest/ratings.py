"""Ratings files -> memory-mapped columns of indices, streamed, whatever the files' size.

Ids get provisional codes in order of appearance and go to plain files in a spool folder at once.
When all files are read, the codes are exchanged for places in the ascending order of ids. Beside
the two id maps, memory holds one stretch of a file.
"""

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dglrec import schema
from dglrec.errors import DataError
from dglrec.files import disk_errors
from dglrec.ids import IdMap, IdMapBuilder
from dglrec.ingest import stream
from dglrec.ingest.sources import Source, ratings_columns
from dglrec.progress import progress
from dglrec.schema import RatingScale, check_ratings

_CHUNK_ROWS = 1 << 22
_KEYS_AT_ONCE = 1 << 22
_MOST_DISTINCT_RATINGS = 65_536

_USERS = ("users", np.dtype(np.int32))
_ITEMS = ("items", np.dtype(np.int32))
_RATINGS = ("ratings", np.dtype(np.float32))
_TIMESTAMPS = ("timestamps", np.dtype(np.int64))
_COLUMNS = (_USERS, _ITEMS, _RATINGS, _TIMESTAMPS)

_WHOLE_NUMBER = r"^\s*-?[0-9]+\s*$"
_DECIMAL_NUMBER = r"^\s*-?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?\s*$"
_LEADING_ZERO = r"^\s*-?0[0-9]"


@dataclass(frozen=True)
class RatingColumns:
    """One file's ratings in file order: indices into the id maps, memory-mapped, read-only.

    Attributes:
        users: int32 [n].
        items: int32 [n].
        ratings: float32 [n].
        timestamps: int64 [n], in the file's own unit (times become microseconds); None where the
            file has none.
    """

    users: npt.NDArray[np.int32]
    items: npt.NDArray[np.int32]
    ratings: npt.NDArray[np.float32]
    timestamps: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.users)


@dataclass(frozen=True)
class FileCounts:
    """What one file held: all its rows, and how many of them were no ratings and were skipped."""

    file: Path
    rows: int
    unrated: int


@dataclass(frozen=True)
class IngestCounts:
    """What the files of a reader held."""

    files: tuple[FileCounts, ...]

    @property
    def rows(self) -> int:
        """Rows of all files."""
        return sum(counts.rows for counts in self.files)

    @property
    def unrated(self) -> int:
        """Rows skipped, in all files, because they say that the user did not rate."""
        return sum(counts.unrated for counts in self.files)


@dataclass(frozen=True)
class _Spooled:
    counts: FileCounts
    paths: dict[str, Path]

    @property
    def rows(self) -> int:
        return self.counts.rows - self.counts.unrated

    def open(self, column: tuple[str, np.dtype[Any]], mode: str) -> Any:
        name, dtype = column
        return np.memmap(self.paths[name], dtype=dtype, mode=mode, shape=(self.rows,))  # type: ignore[call-overload]


class RatingReader:
    """Reads one ratings file, or several into one id space: a train file and a test file.

    Args:
        source: as `open_source` describes it.
        spool: an existing folder for the columns. It belongs to the caller, who keeps it as long
            as the columns are in use.
        scale: the values a rating may take; None takes the source's, and where the source has none
            the coarsest scale that fits the ratings.
    """

    def __init__(self, source: Source, spool: Path, scale: RatingScale | None = None) -> None:
        self._source = source
        self._spool = spool
        self._scale = scale if scale is not None else source.scale
        self._users = IdMapBuilder(schema.USER_ID)
        self._items = IdMapBuilder(schema.ITEM_ID)
        self._files: list[_Spooled] = []
        self._distinct: npt.NDArray[np.float32] = np.empty(0, dtype=np.float32)
        # The first text file decides the types of ids; later ones are held to them.
        self._id_kinds: dict[str, pa.DataType] = {}

    def read(self, file: Path | None = None) -> int:
        """Stream one ratings file through the door and into the spool folder.

        Args:
            file: in the source's own format; a relative name is also looked up in the source's
                folder. None reads the source's ratings.

        Returns:
            The file's place in the list that `finish` gives.

        Raises:
            DataError: the file is missing or damaged, lacks a column, holds no ratings, or a row is
                bad. The message names the file and the first bad row. The reader is of no use
                after it.
        """
        file = self._source.ratings_file if file is None else self._source.resolve(file)
        place = len(self._files)
        paths = {name: self._spool / f"{place}-{name}.raw" for name, _ in _COLUMNS}
        rows = unrated = 0
        with disk_errors(self._spool):
            outputs = {name: path.open("wb") for name, path in paths.items()}
        try:
            # Closed at once when a row is bad, so that its message finds no progress bar.
            with closing(self._stretches(file)) as stretches:
                for stretch in stretches:
                    table, rated = self._checked(file, stretch)
                    rows += len(rated)
                    unrated += len(rated) - len(table)
                    columns = self._encoded(file, table)
                    with disk_errors(self._spool):
                        for name, values in columns.items():
                            outputs[name].write(np.ascontiguousarray(values).data)
        finally:
            with disk_errors(self._spool):
                for output in outputs.values():
                    output.close()
        if rows == unrated:
            raise DataError(
                f"{file}: none of its {rows:,} rows is a rating"
                if rows
                else f"{file}: holds a header and no rows"
            )
        self._files.append(_Spooled(FileCounts(file, rows, unrated), paths))
        return place

    def finish(self) -> tuple[list[RatingColumns], IdMap, IdMap, RatingScale, IngestCounts]:
        """Put ids in ascending order and map the columns.

        Returns:
            The columns of each file as read; the users' and the items' id maps; the scale; counts.

        Raises:
            DataError: no scale was given and none fits.
        """
        if not self._files:
            raise ValueError("no file was read")
        scale = self._scale
        if scale is None:
            names = ", ".join(str(spooled.counts.file) for spooled in self._files)
            scale = RatingScale.infer(self._distinct.astype(np.float64), names)
        users, index_of_user = self._users.finish()
        items, index_of_item = self._items.finish()
        total = 2 * sum(spooled.rows for spooled in self._files)
        with progress("ordering ids", total, "ids") as advance, disk_errors(self._spool):
            for spooled in self._files:
                for column, index in ((_USERS, index_of_user), (_ITEMS, index_of_item)):
                    codes = spooled.open(column, "r+")
                    for start in range(0, spooled.rows, _CHUNK_ROWS):
                        part = codes[start : start + _CHUNK_ROWS]
                        part[:] = index[part]
                        advance(len(part))
                    codes.flush()
        columns = [self._columns(spooled) for spooled in self._files]
        counts = IngestCounts(tuple(spooled.counts for spooled in self._files))
        return columns, users, items, scale, counts

    def _columns(self, spooled: _Spooled) -> RatingColumns:
        timed = spooled.paths[_TIMESTAMPS[0]].stat().st_size > 0
        return RatingColumns(
            spooled.open(_USERS, "r"),
            spooled.open(_ITEMS, "r"),
            spooled.open(_RATINGS, "r"),
            spooled.open(_TIMESTAMPS, "r") if timed else None,
        )

    def _stretches(self, file: Path) -> Generator[stream.Stretch, None, None]:
        """The file's rows under the schema's column names."""
        layout = self._source.layout
        stream.require_file(file)
        text = ratings_columns(file, layout)
        description = f"reading {file.name}"
        if text is None:
            names = layout.schema_names(stream.parquet_schema(file).names)
            stretches = stream.stream_parquet(file, list(names), description)
        else:
            names = layout.schema_names(text.names)
            stretches = stream.stream_text(file, text, self._kinds(file, text, names), description)
        for stretch in stretches:
            table = stretch.table.select(list(names)).rename_columns(list(names.values()))
            yield stream.Stretch(table, stretch.first_row)

    def _kinds(
        self, file: Path, text: stream.TextFormat, names: dict[str, str]
    ) -> dict[str, pa.DataType]:
        """The types to read a text file's columns with, by their names in the file."""
        kinds = {name: pa.int64() for name in names}
        of_schema = {name: raw for raw, name in names.items()}
        kinds[of_schema[schema.RATING]] = pa.float32()
        if self._source.layout.whole_ids:
            return kinds
        ids = [of_schema[schema.USER_ID], of_schema[schema.ITEM_ID]]
        head = stream.head_of_text(file, text, list(names), dict.fromkeys(ids, pa.string()))
        for raw in ids:
            name = names[raw]
            if name not in self._id_kinds:
                self._id_kinds[name] = _kind_of_ids(head.column(raw), f"{file}: column {name}")
            kinds[raw] = self._id_kinds[name]
        if schema.TIMESTAMP in of_schema:
            raw = of_schema[schema.TIMESTAMP]
            kinds[raw] = _kind_of_timestamps(head.column(raw))
        return kinds

    def _checked(
        self, file: Path, stretch: stream.Stretch
    ) -> tuple[pa.Table, npt.NDArray[np.bool_]]:
        """The rows that are ratings, past the door, and for each row whether it is one."""
        table, scale = stretch.table, self._scale
        rated = np.ones(len(table), dtype=np.bool_)
        if self._skips_zeros(file, table) and scale is not None:
            # The door sees a rating that it lets pass, so that row numbers stay the file's own.
            place = table.column_names.index(schema.RATING)
            ratings = table.column(place)
            zero = pc.fill_null(pc.equal(ratings, 0), False)
            rated = ~np.asarray(zero.to_numpy())
            passing = pa.scalar(scale.minimum, type=ratings.type)
            table = table.set_column(place, schema.RATING, pc.if_else(zero, passing, ratings))
        try:
            table = check_ratings(table, source=str(file), first_row=stretch.first_row, scale=scale)
        except pa.ArrowException as error:  # a conversion that the door does not foresee
            raise DataError(f"{file}: a column is of an unusable type ({error})") from error
        if self._source.layout.whole_ids:
            for name in (schema.USER_ID, schema.ITEM_ID):
                if table.column(name).type != pa.int64():
                    raise DataError(f"{file}: column {name} holds text; expected whole numbers")
        return table if rated.all() else table.filter(pa.array(rated)), rated

    def _skips_zeros(self, file: Path, table: pa.Table) -> bool:
        kind = table.column(schema.RATING).type
        numeric = pa.types.is_integer(kind) or pa.types.is_floating(kind)
        return numeric and self._source.zero_means_unrated(file)

    def _encoded(self, file: Path, table: pa.Table) -> dict[str, npt.NDArray[Any]]:
        try:
            columns: dict[str, npt.NDArray[Any]] = {
                _USERS[0]: self._users.add(table.column(schema.USER_ID)),
                _ITEMS[0]: self._items.add(table.column(schema.ITEM_ID)),
            }
        except DataError as error:
            raise DataError(f"{file}: {error}") from error
        ratings = table.column(schema.RATING).to_numpy()
        columns[_RATINGS[0]] = ratings
        if schema.TIMESTAMP in table.column_names:
            columns[_TIMESTAMPS[0]] = table.column(schema.TIMESTAMP).to_numpy()
        if self._scale is None:
            self._distinct = np.union1d(self._distinct, ratings)
            if len(self._distinct) > _MOST_DISTINCT_RATINGS:
                # Rather than hold them all: no scale has as many levels, and this says so.
                RatingScale.infer(self._distinct.astype(np.float64), str(file))
        return columns


def drop_duplicates(columns: RatingColumns, num_items: int) -> tuple[npt.NDArray[np.int64], int]:
    """Which rows stay when of each (user, item) pair only the last does.

    Args:
        columns: n ratings.
        num_items: a bound above every item's index.

    Returns:
        The numbers of the rows that stay, ascending, and how many rows do not.
    """
    keep = last_of_each_pair(columns.users, columns.items, num_items)
    rows = np.flatnonzero(keep)
    return rows, len(keep) - len(rows)


def last_of_each_pair(
    users: npt.NDArray[np.int32], items: npt.NDArray[np.int32], num_items: int
) -> npt.NDArray[np.bool_]:
    """For each row, whether no later row has the same user and item; bool [n].

    Works through ranges of users, so that beside the result memory holds a few million keys.
    """
    keep = np.ones(len(users), dtype=np.bool_)
    if not len(users):
        return keep
    ends = np.cumsum(rows_of_each(users))  # rows of users 0..u
    wanted = max(_KEYS_AT_ONCE, len(users) // 64)
    grouped = bool(np.all(users[1:] >= users[:-1]))
    with progress("looking for duplicates", len(users), "rows") as advance:
        first_user = start = 0
        while start < len(users):
            # The users whose rows fit, and one at least.
            last_user = max(int(np.searchsorted(ends, start + wanted, "right")) - 1, first_user)
            stop = int(ends[last_user])
            rows: Any = slice(start, stop)
            if not grouped:
                rows = np.flatnonzero((users >= first_user) & (users <= last_user))
            keys = (users[rows].astype(np.int64) - first_user) * num_items + items[rows]
            ordered = np.sort(keys)
            # Sorting rows costs ten times what sorting keys does, and few data sets need it.
            if np.any(ordered[1:] == ordered[:-1]):
                order = np.argsort(keys, kind="stable")
                ordered = keys[order]
                repeated = order[:-1][ordered[1:] == ordered[:-1]]
                keep[np.arange(start, stop)[repeated] if grouped else rows[repeated]] = False
            advance(stop - start)
            first_user, start = last_user + 1, stop
    return keep


def rows_of_each(indices: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """How many rows hold each of the indices 0..largest; int64 [largest + 1]."""
    counts = np.zeros(int(indices.max()) + 1 if len(indices) else 0, dtype=np.int64)
    for start in range(0, len(indices), _CHUNK_ROWS):  # bincount makes an int64 copy of its input
        counts += np.bincount(indices[start : start + _CHUNK_ROWS], minlength=len(counts))
    return counts


def _kind_of_ids(head: pa.ChunkedArray, what: str) -> pa.DataType:
    """Whole numbers where most ids of a file's head are, else text.

    "007" is text: as a number it would lose its zeros.
    """
    whole = pc.match_substring_regex(head, _WHOLE_NUMBER)
    decimal = pc.match_substring_regex(head, _DECIMAL_NUMBER)
    if pc.any(decimal).as_py() and pc.all(pc.or_(whole, decimal)).as_py():
        raise DataError(f"{what} holds decimal numbers; ids must be whole numbers or text")
    if pc.any(pc.match_substring_regex(head, _LEADING_ZERO)).as_py():
        return pa.string()
    return pa.int64() if 2 * (pc.sum(whole).as_py() or 0) > len(head) else pa.string()


def _kind_of_timestamps(head: pa.ChunkedArray) -> pa.DataType:
    """What Arrow takes the head for; whole numbers where one that is none hides among them.

    Then reading fails at that one, and can name its row.
    """
    first = head[0].as_py() if len(head) else None
    return pa.int64() if isinstance(first, str | bytes) and first.strip().isdigit() else head.type
