"""Files and frames -> Arrow tables, a stretch at a time; faults of a file -> a `DataError`.

This module knows nothing of ratings, and its callers see no exception of Arrow's. The stretches of
a table in several parts follow each other, and each names its file.
"""

import csv
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TypeGuard

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from dglrec import schema
from dglrec.errors import DataError
from dglrec.ingest.faults import SHOWN_CHARACTERS, explained, fault_of_whole_number, faults
from dglrec.ingest.frames import Frame, Given, is_file
from dglrec.ingest.parts import Parts, TableFile, parts_of, with_partitions
from dglrec.places import Place, RemotePath
from dglrec.progress import counted, log, progress

WHOLE_IDS = pa.dictionary(pa.int32(), pa.string())
"""Tells `stream_text` to read a column as text first, and then as int64: Arrow's own conversion
drops leading zeros, and reads 0x5 as 5."""

_HEAD_BYTES = 1 << 20  # the first line must end within this
_BLOCK_BYTES = 8 << 20  # of decompressed text: the stretch in memory, and the longest row

_MAGIC = (
    (b"PAR1", "a Parquet file; name it .parquet"),
    (b"\x1f\x8b", "gzip data; name it .gz"),
    (b"PK\x03\x04", "a zip archive; unpack it"),
    (b"\xff\xfe", "UTF-16 text; save it as UTF-8"),
    (b"\xfe\xff", "UTF-16 text; save it as UTF-8"),
)


@dataclass(frozen=True)
class Stretch:
    """Consecutive rows of a file.

    `first_row` is the number that messages give the first row in `file`: in text the number of its
    line, counting the header but no empty lines; in Parquet and in frames rows count from 1.
    """

    table: pa.Table
    first_row: int
    file: Place | Frame


@dataclass(frozen=True)
class TextFormat:
    """How a delimited text file is split into fields.

    Attributes:
        names: the columns' names in file order, followed by those that hive partitions give.
        delimiter: a single character.
        header: whether the first line holds the names.
        quoted: whether a field may stand in double quotes.
    """

    names: tuple[str, ...]
    delimiter: str = ","
    header: bool = True
    quoted: bool = True

    @property
    def first_row(self) -> int:
        """The number of the first row of data."""
        return 2 if self.header else 1


def is_text(file: Given) -> TypeGuard[TableFile]:
    """Whether a table is text, by its file's name, rather than Parquet or a frame."""
    return is_file(file) and file.suffix.lower() != ".parquet"


def require_file(file: Given) -> None:
    """Refuse a path that is not a file. Parts were found already, and frames are in memory.

    Raises:
        DataError: nothing is there, or it is a folder, a pipe or a device.
    """
    if isinstance(file, Parts | Frame):
        return
    if file.is_dir():
        raise DataError(f"{file}: is a folder where a file was expected")
    if not file.exists():
        lack = file.lack("file") if isinstance(file, RemotePath) else "no such file"
        raise DataError(f"{file}: {lack}")
    if not file.is_file():
        raise DataError(
            f"{file}: is a pipe or a device, and files are read more than once; write a file first"
        )


def first_line(file: TableFile) -> str:
    """The first line that is not empty of a text file, or of the first part, without its end.

    Raises:
        DataError: the file is missing, empty, damaged, or no UTF-8 text.
    """
    require_file(file)
    file = parts_of(file).files[0]
    with faults(file), _open_bytes(file) as (_, stream):
        head = bytes(stream.read(_HEAD_BYTES))
    if not head:
        raise DataError(f"{file}: is empty")
    for magic, what in _MAGIC:
        if head.startswith(magic):
            raise DataError(f"{file}: is {what}")
    lines = [line for line in re.split(rb"\r\n|\n|\r", head.removeprefix(b"\xef\xbb\xbf")) if line]
    if not lines:
        raise DataError(f"{file}: holds only empty lines")
    if len(lines) == 1 and len(head) == _HEAD_BYTES:
        raise DataError(f"{file}: its first line is longer than 1 MiB; this is no table of text")
    try:
        line = lines[0].decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: is no UTF-8 text; save it as UTF-8 CSV or as Parquet") from error
    if b"\0" in head or not line.replace("\t", "").isprintable():
        raise DataError(f"{file}: holds binary data, no text; give UTF-8 CSV or Parquet")
    return line


def header_format(file: TableFile, wanted: Sequence[str], delimiters: str = ",") -> TextFormat:
    """Read a header, with that one of `delimiters` that gives most of the `wanted` names.

    For a table in parts, it is the header of the first part, and the columns that hive partitions
    give.

    Raises:
        DataError: as `first_line`, or a wanted column is there twice.
    """
    line = first_line(file)
    try:
        cuts = [(next(csv.reader([line], delimiter=mark)), mark) for mark in delimiters]
    except csv.Error as error:
        first = parts_of(file).files[0]
        raise DataError(f"{first}: its first line is no CSV header ({error})") from error
    names, delimiter = max(cuts, key=lambda cut: (len(set(cut[0]) & set(wanted)), len(cut[0])))
    refuse_repeated(parts_of(file).files[0], names, wanted)
    more = [name for name in parts_of(file).partitions if name not in names]
    return TextFormat((*names, *more), delimiter)


def refuse_repeated(file: Place, names: Sequence[str], wanted: Sequence[str]) -> None:
    """Refuse a file that has a wanted column more than once.

    Raises:
        DataError: a wanted column is there more than once.
    """
    for name in wanted:
        if names.count(name) > 1:
            raise DataError(f"{file}: column {name} is there {names.count(name)} times")


def shown_names(names: Sequence[str]) -> list[str]:
    """Column names, shortened to fit a message."""
    return [name[:SHOWN_CHARACTERS] for name in names[:SHOWN_CHARACTERS]]


def log_empty_parts(parts: Parts, counts: Sequence[int]) -> None:
    """Log how many parts have no row. If no part has any, the caller raises an error instead."""
    empty = [name for name, rows in zip(parts.names, counts, strict=True) if not rows]
    if empty and len(empty) < len(counts):
        log(f"{parts}: {counted(len(empty), 'part')} without a row, {empty[0]} the first")


def stream_text(
    file: TableFile,
    text: TextFormat,
    kinds: Mapping[str, pa.DataType],
    description: str,
    *,
    newlines_in_values: bool = False,
) -> Iterator[Stretch]:
    """Yield the stretches of some columns of a delimited text file, `.gz` or not, or of its parts.

    No value is read as missing: an empty number is an error, and an empty text is "".

    Args:
        file: the file, or its parts.
        text: how it is split into fields.
        kinds: the columns to read -> their types. Columns of `WHOLE_IDS` are yielded as int64; what
            `schema.whole_numbers` does not take is refused.
        description: what the progress bar shows.
        newlines_in_values: whether a quoted field may hold line ends, which is slower to read.

    Raises:
        DataError: the file is missing or damaged, a row has too few or too many fields, or a field
            is not of its column's type (the message names the first such row); or a part lacks a
            column that the first part has.
    """
    require_file(file)
    parts = parts_of(file)
    counts = [0] * len(parts.files)
    total = sum(part.stat().st_size for part in parts.files)
    with progress(description, total, "bytes") as advance:
        for number, part in enumerate(parts.files):
            part_format, stored = text, dict(kinds)
            if len(parts.files) > 1 or parts.partitions:
                part_format = _format_of_part(part, parts, text, kinds)
                stored = {name: kind for name, kind in kinds.items() if name in part_format.names}
            added = {
                name: pa.int64() if kind == WHOLE_IDS else kind
                for name, kind in kinds.items()
                if name not in stored
            }
            reader = _TextReader(part, part_format, stored, newlines_in_values)
            row, position = part_format.first_row, 0
            with faults(part), _open_bytes(part) as (raw, stream):
                try:
                    for batch in reader.open(stream):
                        table = _with_whole_ids(batch, part, row)
                        yield Stretch(with_partitions(table, parts, number, added), row, part)
                        row += len(batch)
                        counts[number] += len(batch)
                        advance(raw.tell() - position)
                        position = raw.tell()
                except pa.ArrowInvalid as error:
                    raise reader.explained(error) from error
    log_empty_parts(parts, counts)


def _format_of_part(
    part: Place, parts: Parts, text: TextFormat, kinds: Mapping[str, pa.DataType]
) -> TextFormat:
    """The format of a part: that of the first part, but its columns may be in another order.

    Raises:
        DataError: the part lacks a column.
    """
    found = header_format(part, list(kinds), text.delimiter).names
    wanted = (name for name in kinds if name not in found)
    if missing := [name for name in wanted if name not in parts.partitions]:
        raise DataError(
            f"{part}: no column {', '.join(missing)}, which {parts.files[0]} has; found "
            f"{', '.join(shown_names(found))}"
        )
    return replace(text, names=found)


def _with_whole_ids(batch: pa.RecordBatch, file: Place, first_row: int) -> pa.Table:
    """A stretch with int64 ids in place of `WHOLE_IDS`, which were read as text.

    Raises:
        DataError: an id is not a whole number.
    """
    columns = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        columns[name] = column
        if column.type == WHOLE_IDS:
            numbers = schema.whole_numbers(column.dictionary)
            if numbers.null_count:
                position = pc.index(numbers.is_null().take(column.indices), True).as_py()
                fault = fault_of_whole_number(name, column[position].as_py())
                raise DataError(f"{file}: row {first_row + position}: {fault}")
            columns[name] = numbers.take(column.indices)
    return pa.table(columns)


def head_of_text(
    file: TableFile, text: TextFormat, columns: Sequence[str], kinds: Mapping[str, pa.DataType]
) -> pa.Table:
    """The first stretch of some columns; columns that `kinds` leaves out have inferred types.

    Raises:
        DataError: as `stream_text`.
    """
    require_file(file)
    parts = parts_of(file)
    number, head, added = 0, pa.table({}), {}
    for number, part in enumerate(parts.files):  # noqa: B007 - the first that has a row
        stored = list(columns)
        if parts.partitions:
            found = header_format(part, columns, text.delimiter).names
            stored = [name for name in columns if name in found]
        added = {name: kinds.get(name) for name in columns if name not in stored}
        of_file = {name: kind for name, kind in kinds.items() if name in stored}
        reader = _TextReader(part, text, of_file, columns=stored, nulls=("",))
        with faults(part), _open_bytes(part) as (_, stream):
            try:
                opened = reader.open(stream)
                batch = next(iter(opened), None)
                head = pa.Table.from_batches([] if batch is None else [batch], opened.schema)
            except pa.ArrowInvalid as error:
                raise reader.explained(error) from error
        if len(head) or part == parts.files[-1]:
            break
    return with_partitions(head, parts, number, added).select(list(columns))


def kind_of_timestamps(head: pa.ChunkedArray) -> pa.DataType:
    """The type to read timestamps of a text file as: the type that Arrow infers from its head.

    If the first timestamp is a whole number although Arrow infers text, another one is not: the
    type is then int64, so that reading fails at the other one and can name its row.
    """
    first = head[0].as_py() if len(head) else None
    return pa.int64() if isinstance(first, str | bytes) and first.strip().isdigit() else head.type


def ends_in_open_quote(file: TableFile, last: str) -> bool:
    """Whether a small text file ends inside the quoted field that was read as `last`.

    Arrow silently closes such a field at the end of the file, so that a truncated download would
    go unnoticed.
    """
    part = parts_of(file).files[-1]
    with faults(part), _open_bytes(part) as (_, stream):
        content = bytes(stream.read())
    return bool(last) and content.endswith(b'"' + last.replace('"', '""').encode())


def ends_within_line(file: Place) -> bool:
    """Whether a local, uncompressed text file's last line has no line end."""
    if isinstance(file, RemotePath) or file.suffix.lower() == ".gz" or not file.stat().st_size:
        return False
    with file.open("rb") as content:
        content.seek(-1, os.SEEK_END)
        return content.read() not in (b"\n", b"\r")


@dataclass(frozen=True)
class _TextReader:
    """Opens a delimited text file, and says what is wrong with it.

    Attributes:
        file: the file.
        text: how it is split into fields.
        kinds: column name -> type.
        newlines_in_values: whether a quoted field may hold line ends.
        columns: the columns to read; None for those in `kinds`.
        nulls: texts that stand for a missing value.
    """

    file: Place
    text: TextFormat
    kinds: Mapping[str, pa.DataType]
    newlines_in_values: bool = False
    columns: Sequence[str] | None = None
    nulls: Sequence[str] = ()

    def open(
        self, stream: pa.NativeFile, *, threads: bool = True
    ) -> pyarrow.csv.CSVStreamingReader:
        """A reader of the file's batches, from the stream of its bytes."""
        text = self.text
        return pyarrow.csv.open_csv(
            stream,
            read_options=pyarrow.csv.ReadOptions(
                block_size=_BLOCK_BYTES,
                use_threads=threads,
                column_names=None if text.header else list(text.names),
            ),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=text.delimiter,
                quote_char='"' if text.quoted else False,
                newlines_in_values=self.newlines_in_values,
            ),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=dict(self.kinds),
                include_columns=list(self.kinds if self.columns is None else self.columns),
                null_values=list(self.nulls),
                strings_can_be_null=False,
            ),
        )

    def explained(self, error: pa.ArrowInvalid) -> DataError:
        """An error that says in which row the file is bad, and how."""

        def read_again() -> None:
            with _open_bytes(self.file) as (_, stream):
                for _ in self.open(stream, threads=False):
                    pass

        return explained(error, self.file, self.text.names, read_again, _BLOCK_BYTES)


@contextmanager
def _open_bytes(file: Place) -> Iterator[tuple[pa.NativeFile, pa.NativeFile]]:
    """The file, whose position tells the progress, and the stream of its decompressed bytes."""
    with ExitStack() as until_read:
        raw = opened = until_read.enter_context(open_anywhere(file))
        if isinstance(file, RemotePath):  # each read is a request
            opened = until_read.enter_context(pa.BufferedInputStream(raw, _BLOCK_BYTES))
        if file.suffix.lower() == ".gz":
            opened = until_read.enter_context(pa.CompressedInputStream(opened, "gzip"))
        yield raw, opened


def open_anywhere(file: Place) -> pa.NativeFile:
    """Open a file, local or in a store, for reading at any position."""
    if isinstance(file, RemotePath):
        return file.store.filesystem.open_input_file(file.address)
    return pa.OSFile(str(file))
