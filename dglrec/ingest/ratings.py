"""Files of ratings or interactions -> memory-mapped columns of indices, streamed.

Ids get provisional codes in order of appearance, which are written to plain files in a spool folder
as they are read. When all files are read, the codes are replaced by indices in the ascending order
of ids. Memory holds the two id maps and a stretch of a file, no more.
"""

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dglrec import schema
from dglrec.errors import DataError, UsageError
from dglrec.files import disk_errors
from dglrec.ids import IdMap, IdMapBuilder
from dglrec.ingest import stream, typed
from dglrec.ingest.columns import FileCounts, IngestCounts, RatingColumns, at_level
from dglrec.ingest.frames import Given
from dglrec.ingest.parts import TableFile, parts_of
from dglrec.ingest.sources import Source, ratings_columns
from dglrec.progress import log, progress
from dglrec.schema import RatingScale, check_interactions, check_ratings

_CHUNK_ROWS = 1 << 22
_MOST_DISTINCT_RATINGS = 65_536
_RARE = 1e-3  # a rating apart from the others that is no more frequent may be a mistake

_USERS = ("users", np.dtype(np.int32))
_ITEMS = ("items", np.dtype(np.int32))
_RATINGS = ("ratings", np.dtype(np.float32))
_TIMESTAMPS = ("timestamps", np.dtype(np.int64))
_COLUMNS = (_USERS, _ITEMS, _RATINGS, _TIMESTAMPS)

_WHOLE_NUMBER = r"^\s*-?[0-9]+\s*$"
_DECIMAL_NUMBER = r"^\s*-?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?\s*$"
_LEADING_ZERO = r"^\s*-?0[0-9]"


@dataclass(frozen=True)
class _Spooled:
    counts: FileCounts
    paths: dict[str, Path]

    @property
    def rows(self) -> int:
        return self.counts.kept

    def open(self, column: tuple[str, np.dtype[Any]], mode: str) -> Any:
        name, dtype = column
        return np.memmap(self.paths[name], dtype=dtype, mode=mode, shape=(self.rows,))  # type: ignore[call-overload]


class RatingReader:
    """Reads a ratings file, or several (a training and a test file) with common id maps.

    A file without a column of ratings holds interactions; files of ratings and of interactions
    cannot be mixed. Ratings can be read as interactions, too.

    Args:
        source: as `open_source` describes it.
        spool: an existing folder for the columns. The caller keeps it as long as the columns are in
            use, and removes it.
        scale: the values a rating may take; None takes the source's scale, or if it has none the
            coarsest scale that fits the ratings.
        interactions_from: the least rating that counts as an interaction; lower ratings are left
            out. None reads ratings as ratings.
    """

    def __init__(
        self,
        source: Source,
        spool: Path,
        scale: RatingScale | None = None,
        interactions_from: float | None = None,
    ) -> None:
        self._source = source
        self._spool = spool
        self._given_scale = scale
        self._scale = scale if scale is not None else source.scale
        self._level = interactions_from
        self._has_ratings: bool | None = None  # whether the files have a column of ratings
        self._users = IdMapBuilder(schema.USER_ID)
        self._items = IdMapBuilder(schema.ITEM_ID)
        self._files: list[_Spooled] = []
        self._distinct: npt.NDArray[np.float32] = np.empty(0, dtype=np.float32)
        # The first text file decides the types of ids; later files must have the same.
        self._id_kinds: dict[str, pa.DataType] = {}

    @property
    def feedback(self) -> str:
        """`schema.RATINGS` or `schema.INTERACTIONS`; known once a file was read."""
        if self._has_ratings is None:
            raise ValueError("no file was read")
        rated = self._has_ratings and self._level is None
        return schema.RATINGS if rated else schema.INTERACTIONS

    def read(self, file: Given | None = None) -> int:
        """Check a ratings file's rows, and write them to the spool folder, a stretch at a time.

        Args:
            file: in the source's format, perhaps in parts; a relative name is also looked up in
                the source's folder. None reads the source's ratings.

        Returns:
            The file's index in the list of columns that `finish` returns.

        Raises:
            DataError: the file is missing or damaged, lacks a column, holds no rows that count, or
                a row is bad. The message names the file and the first bad row. The reader cannot be
                used any more.
            UsageError: a scale or a level was given, and the file has no ratings.
        """
        file = self._source.ratings_file if file is None else self._source.resolve(file)
        place = len(self._files)
        paths = {name: self._spool / f"{place}-{name}.raw" for name, _ in _COLUMNS}
        rows = unrated = below = 0
        highest = -np.inf
        with disk_errors(self._spool):
            outputs = {name: path.open("wb") for name, path in paths.items()}
        try:
            # If a row is bad, this ends the progress bar before the error message is printed.
            with closing(self._stretches(file)) as stretches:
                for stretch in stretches:
                    rated = self._checked(stretch.file, stretch)
                    rows += len(stretch.table)
                    unrated += len(stretch.table) - len(rated)
                    table = rated
                    if self._level is not None and len(rated):
                        highest = max(highest, pc.max(rated.column(schema.RATING)).as_py())
                        table = at_level(rated, self._level)
                        below += len(rated) - len(table)
                    columns = self._encoded(stretch.file, table)
                    with disk_errors(self._spool):
                        for name, values in columns.items():
                            outputs[name].write(np.ascontiguousarray(values).data)
        finally:
            with disk_errors(self._spool):
                for output in outputs.values():
                    output.close()
        self._say_open_ends(file)
        if rows == unrated:
            raise DataError(
                f"{file}: none of its {rows:,} rows is a rating"
                if rows
                else f"{file}: holds {'a header and ' if stream.is_text(file) else ''}no rows"
            )
        counts = FileCounts(file, rows, unrated, below)
        if not counts.kept:
            raise DataError(
                f"{file}: no rating of {self._level:g} or more; the highest is {highest:g}: give "
                "--interactions-from a lower level"
            )
        self._files.append(_Spooled(counts, paths))
        return place

    def finish(self) -> tuple[list[RatingColumns], IdMap, IdMap, RatingScale, IngestCounts]:
        """Put ids in ascending order, and replace the codes in the columns by indices.

        Returns:
            The columns of each file, in the order of reading; the id maps of users and of items;
            the scale; the counts.

        Raises:
            DataError: no scale was given, and no scale fits the ratings.
        """
        if not self._files:
            raise ValueError("no file was read")
        scale = self._scale
        if self.feedback == schema.INTERACTIONS:
            scale = schema.INTERACTION_SCALE
        elif scale is None:
            names = ", ".join(str(spooled.counts.file) for spooled in self._files)
            distinct = self._distinct.astype(np.float64)
            scale = RatingScale.infer(distinct, names)
            self._say_scale(scale, distinct, names)
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

    def _say_open_ends(self, file: Given) -> None:
        """Log which text files end within a row: the row looks whole where a file was cut short."""
        if not stream.is_text(file):
            return
        open_ends = [part for part in parts_of(file).files if stream.ends_within_line(part)]
        if open_ends:
            others = f" and {len(open_ends) - 1} others" if len(open_ends) > 1 else ""
            log(
                f"{open_ends[0]}{others}: no line end after the last row; if the file was cut "
                "short, so may its last row be"
            )

    def _say_scale(self, scale: RatingScale, distinct: npt.NDArray[np.float64], names: str) -> None:
        """Log the scale that was inferred, and end levels that a mistaken rating may have added."""
        log(f"{names}: ratings are on the scale {scale}")
        lone, total = scale.lone_ends(distinct), sum(spooled.rows for spooled in self._files)
        for end, next_ in dict.fromkeys([*lone, *scale.apart_ends(distinct)]):
            rows, first = 0, ""
            for spooled in self._files:
                ratings = spooled.open(_RATINGS, "r")
                at = np.flatnonzero(ratings == np.float32(end))
                if len(at) and not rows:
                    first = f", the first number {at[0] + 1:,} of {spooled.counts.file.name}"
                rows += len(at)
            if (end, next_) not in lone and rows > total * _RARE:
                continue
            log(
                f"{names}: a rating of {end:g} stands alone ({rows:,} of them{first}); the next is "
                f"{next_:g}: if it is a mistake, remove it, or say --scale MIN:MAX:STEP, which "
                "names such rows"
            )

    def _columns(self, spooled: _Spooled) -> RatingColumns:
        timed = spooled.paths[_TIMESTAMPS[0]].stat().st_size > 0
        return RatingColumns(
            spooled.open(_USERS, "r"),
            spooled.open(_ITEMS, "r"),
            # All ratings are 1: a view of a single value takes no memory.
            np.broadcast_to(np.float32(schema.INTERACTION), spooled.rows)
            if self.feedback == schema.INTERACTIONS
            else spooled.open(_RATINGS, "r"),
            spooled.open(_TIMESTAMPS, "r") if timed else None,
        )

    def _stretches(self, file: Given) -> Generator[stream.Stretch, None, None]:
        """The file's rows under the schema's column names."""
        layout = self._source.layout
        stream.require_file(file)
        text = ratings_columns(file, layout)
        description = f"reading {file.name}"
        if text is None or not stream.is_text(file):
            found = typed.typed_schema(file).names
            names = layout.schema_names(found)
            self._note_feedback(file, names, found)
            stretches = typed.stream_typed(file, list(names), description)
        else:
            names = layout.schema_names(text.names)
            self._note_feedback(file, names, text.names)
            stretches = stream.stream_text(file, text, self._kinds(file, text, names), description)
        for stretch in stretches:
            table = stretch.table.select(list(names)).rename_columns(list(names.values()))
            yield stream.Stretch(table, stretch.first_row, stretch.file)

    def _note_feedback(self, file: Given, names: dict[str, str], found: Sequence[str]) -> None:
        """Note whether the files have ratings; refuse a file that differs from those before it.

        Args:
            file: the file.
            names: the columns that will be read: name in the file -> name in the schema.
            found: all columns of the file.
        """
        has_ratings = schema.RATING in names.values()
        if self._has_ratings is not None and has_ratings != self._has_ratings:
            ratings = self._source.layout.rating
            first = self._files[0].counts.file
            here, before = ("a", "none") if has_ratings else ("no", "one")
            raise DataError(
                f"{file}: has {here} column {ratings}, and {first} has {before}; give two files of "
                "ratings, or two of interactions"
            )
        self._has_ratings = has_ratings
        if has_ratings:
            return
        if self._level is not None:
            raise UsageError(
                f"--interactions-from {self._level:g}: {file} has no column "
                f"{self._source.layout.rating}, so its rows are interactions already; leave the "
                "option out"
            )
        if self._given_scale is not None:
            raise UsageError(
                f"--scale: {file} has no column {self._source.layout.rating}, so its rows are "
                "interactions, which have no scale; leave the option out"
            )
        unread = stream.shown_names([name for name in found if name not in names])
        log(
            f"{file}: no column {self._source.layout.rating}, so each row is an interaction"
            + (f"; not read: {', '.join(unread)}" if unread else "")
        )

    def _kinds(
        self, file: TableFile, text: stream.TextFormat, names: dict[str, str]
    ) -> dict[str, pa.DataType]:
        """The types to read a text file's columns as, by their names in the file."""
        kinds = {name: pa.int64() for name in names}
        of_schema = {name: raw for raw, name in names.items()}
        ids = [of_schema[schema.USER_ID], of_schema[schema.ITEM_ID]]
        kinds |= dict.fromkeys(ids, stream.WHOLE_IDS)
        if schema.RATING in of_schema:
            kinds[of_schema[schema.RATING]] = pa.float32()
        if self._source.layout.whole_ids:
            return kinds
        head = stream.head_of_text(file, text, list(names), dict.fromkeys(ids, pa.string()))
        for raw in ids:
            name = names[raw]
            if name not in self._id_kinds:
                self._id_kinds[name] = _kind_of_ids(head.column(raw), f"{file}: column {name}")
            kinds[raw] = self._id_kinds[name]
        if schema.TIMESTAMP in of_schema:
            raw = of_schema[schema.TIMESTAMP]
            kinds[raw] = stream.kind_of_timestamps(head.column(raw))
        return kinds

    def _checked(self, file: Given, stretch: stream.Stretch) -> pa.Table:
        """The rows that are ratings or interactions, checked."""
        table, scale = stretch.table, self._scale
        rated = np.ones(len(table), dtype=np.bool_)
        if self._has_ratings and self._skips_zeros(file, table) and scale is not None:
            # Rows with 0 stay in the table, with a valid rating, so that the check numbers rows as
            # the file does; they are filtered out after it.
            place = table.column_names.index(schema.RATING)
            ratings = table.column(place)
            zero = pc.fill_null(pc.equal(ratings, 0), False)
            rated = ~np.asarray(zero.to_numpy())
            passing = pa.scalar(scale.minimum, type=ratings.type)
            table = table.set_column(place, schema.RATING, pc.if_else(zero, passing, ratings))
        try:
            where: dict[str, Any] = {"source": str(file), "first_row": stretch.first_row}
            if self._has_ratings:
                table = check_ratings(table, **where, scale=scale)
            else:
                table = check_interactions(table, **where)
        except pa.ArrowException as error:  # a conversion that the checks do not foresee
            raise DataError(f"{file}: a column is of an unusable type ({error})") from error
        if self._source.layout.whole_ids:
            for name in (schema.USER_ID, schema.ITEM_ID):
                if table.column(name).type != pa.int64():
                    raise DataError(f"{file}: column {name} holds text; expected whole numbers")
        return table if rated.all() else table.filter(pa.array(rated))

    def _skips_zeros(self, file: Given, table: pa.Table) -> bool:
        kind = table.column(schema.RATING).type
        numeric = pa.types.is_integer(kind) or pa.types.is_floating(kind)
        return numeric and self._source.zero_means_unrated(file)

    def _encoded(self, file: Given, table: pa.Table) -> dict[str, npt.NDArray[Any]]:
        try:
            columns: dict[str, npt.NDArray[Any]] = {
                _USERS[0]: self._users.add(table.column(schema.USER_ID)),
                _ITEMS[0]: self._items.add(table.column(schema.ITEM_ID)),
            }
        except DataError as error:
            raise DataError(f"{file}: {error}") from error
        if schema.TIMESTAMP in table.column_names:
            columns[_TIMESTAMPS[0]] = table.column(schema.TIMESTAMP).to_numpy()
        if self.feedback == schema.INTERACTIONS:
            return columns
        ratings = table.column(schema.RATING).to_numpy()
        columns[_RATINGS[0]] = ratings
        if self._scale is None:
            self._distinct = np.union1d(self._distinct, ratings)
            if len(self._distinct) > _MOST_DISTINCT_RATINGS:
                # No scale has as many levels: this raises, before memory holds many more.
                RatingScale.infer(self._distinct.astype(np.float64), str(file))
        return columns


def _kind_of_ids(head: pa.ChunkedArray, what: str) -> pa.DataType:
    """The type to read ids as: whole numbers if most ids in the file's head are, else text.

    Ids with leading zeros, such as "007", are text: as numbers they would lose the zeros.
    """
    whole = pc.match_substring_regex(head, _WHOLE_NUMBER)
    decimal = pc.match_substring_regex(head, _DECIMAL_NUMBER)
    if pc.any(decimal).as_py() and pc.all(pc.or_(whole, decimal)).as_py():
        raise DataError(f"{what} holds decimal numbers; ids must be whole numbers or text")
    if pc.any(pc.match_substring_regex(head, _LEADING_ZERO)).as_py():
        return pa.string()
    mostly_whole = 2 * (pc.sum(whole).as_py() or 0) > len(head)
    return stream.WHOLE_IDS if mostly_whole else pa.string()
