"""Files and frames -> Arrow tables, a stretch at a time; faults of a file -> a `DataError`.

Nothing here knows what a rating is; nothing above here sees an exception of Arrow's.
"""

import csv
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from dglrec import schema
from dglrec.errors import DataError, UnusableEnvironmentError
from dglrec.files import read_errors
from dglrec.ingest.frames import Frame, Given, is_file
from dglrec.progress import progress

WHOLE_IDS = pa.dictionary(pa.int32(), pa.string())
"""What `stream_text` is told to read as int64, but as written: Arrow's numbers lose leading zeros,
and take 0x5 for 5."""

_HEAD_BYTES = 1 << 20  # the first line must end within this
_BLOCK_BYTES = 8 << 20  # of decompressed text: the stretch in memory, and the longest row
_PARQUET_ROWS = 1 << 19
_SHOWN_CHARACTERS = 40
_OUT_OF_RANGE = "out of range; whole numbers must lie below 2^63"

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

    `first_row` is the first row's number as messages give it: in text the number of its line,
    counting the header and leaving out empty lines; in Parquet and in frames counted from 1.
    """

    table: pa.Table
    first_row: int


@dataclass(frozen=True)
class TextFormat:
    """How a delimited text file is cut into fields.

    Attributes:
        names: the columns' names, in file order.
        delimiter: one character.
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


def is_text(file: Given) -> TypeGuard[Path]:
    """Whether it is a text file, by its name; columns of Parquet and of frames have types."""
    return is_file(file) and not _is_parquet(file)


def _is_parquet(file: Path) -> bool:
    """Whether a file's name says that it is Parquet."""
    return file.suffix.lower() == ".parquet"


def require_file(file: Given) -> None:
    """Refuse a path that is not a file. A frame is there.

    Raises:
        DataError: nothing is there, or a folder, or a pipe or a device.
    """
    if isinstance(file, Frame):
        return
    if file.is_dir():
        raise DataError(f"{file}: is a folder where a file was expected")
    if not file.exists():
        raise DataError(f"{file}: no such file")
    if not file.is_file():
        raise DataError(
            f"{file}: is a pipe or a device, and files are read more than once; write a file first"
        )


def first_line(file: Path) -> str:
    """The first line of a text file that is not empty, without its end.

    Raises:
        DataError: the file is missing, empty, damaged, or no UTF-8 text.
    """
    require_file(file)
    with _faults(file), _open_bytes(file) as (_, stream):
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


def header_format(file: Path, wanted: Sequence[str], delimiters: str = ",") -> TextFormat:
    """Read a header, with the delimiter of `delimiters` that finds most of the `wanted` names.

    Raises:
        DataError: as `first_line`, or a wanted column is there twice.
    """
    line = first_line(file)
    try:
        cuts = [(next(csv.reader([line], delimiter=mark)), mark) for mark in delimiters]
    except csv.Error as error:
        raise DataError(f"{file}: its first line is no CSV header ({error})") from error
    names, delimiter = max(cuts, key=lambda cut: (len(set(cut[0]) & set(wanted)), len(cut[0])))
    for name in wanted:
        if names.count(name) > 1:
            raise DataError(f"{file}: column {name} is there {names.count(name)} times")
    return TextFormat(tuple(names), delimiter)


def shown_names(names: Sequence[str]) -> list[str]:
    """Column names cut to what a message can hold."""
    return [name[:_SHOWN_CHARACTERS] for name in names[:_SHOWN_CHARACTERS]]


def typed_schema(file: Given) -> pa.Schema:
    """The columns of a Parquet file or a frame.

    Raises:
        DataError: the file is missing or no Parquet.
    """
    if isinstance(file, Frame):
        return file.table.schema
    require_file(file)
    with _faults(file), pyarrow.parquet.ParquetFile(file) as parquet:
        return parquet.schema_arrow


def stream_typed(file: Given, columns: Sequence[str], description: str) -> Iterator[Stretch]:
    """Yield the stretches of some columns of a Parquet file or a frame.

    Raises:
        DataError: the file is missing or damaged.
    """
    if isinstance(file, Frame):
        yield from _stream_frame(file, columns, description)
        return
    require_file(file)
    # A reader that reads ahead keeps all that it has read, until it has come to the end.
    with _faults(file), pyarrow.parquet.ParquetFile(file, pre_buffer=False) as parquet:
        row = 1
        with progress(description, parquet.metadata.num_rows, "rows") as advance:
            for batch in parquet.iter_batches(_PARQUET_ROWS, columns=list(columns)):
                yield Stretch(pa.Table.from_batches([batch]), row)
                row += len(batch)
                advance(len(batch))


def _stream_frame(frame: Frame, columns: Sequence[str], description: str) -> Iterator[Stretch]:
    table = frame.table.select(list(columns))
    with progress(description, len(table), "rows") as advance:
        for start in range(0, len(table), _PARQUET_ROWS):
            part = table.slice(start, _PARQUET_ROWS)
            yield Stretch(part, start + 1)
            advance(len(part))


def stream_text(
    file: Path,
    text: TextFormat,
    kinds: Mapping[str, pa.DataType],
    description: str,
    *,
    newlines_in_values: bool = False,
) -> Iterator[Stretch]:
    """Yield the stretches of some columns of a delimited text file, `.gz` or not.

    No text counts as missing: an empty number is a fault, and an empty text is "".

    Args:
        file: the file.
        text: how it is cut into fields.
        kinds: the columns to read, by name, with their types. `WHOLE_IDS` comes out as int64, and
            refuses what is not a whole number as `schema.whole_numbers` has them.
        description: of the progress.
        newlines_in_values: whether a quoted field may hold line ends, which is slower to read.

    Raises:
        DataError: the file is missing or damaged, a row has too few or too many fields, or a field
            is not of its column's type. The message names the first such row.
    """
    require_file(file)

    def open_reader(stream: pa.NativeFile, threads: bool) -> pyarrow.csv.CSVStreamingReader:
        return _csv_reader(stream, text, kinds, newlines_in_values, threads)

    row = text.first_row
    with (
        _faults(file),
        _open_bytes(file) as (raw, stream),
        progress(description, file.stat().st_size, "bytes") as advance,
    ):
        position = 0
        try:
            for batch in open_reader(stream, True):
                yield Stretch(_with_whole_ids(batch, file, row), row)
                row += len(batch)
                advance(raw.tell() - position)
                position = raw.tell()
        except pa.ArrowInvalid as error:
            raise _explained(error, file, text, open_reader) from error


def _with_whole_ids(batch: pa.RecordBatch, file: Path, first_row: int) -> pa.Table:
    """A stretch with numbers in place of ids that were read as text.

    Raises:
        DataError: one is no whole number.
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
    file: Path, text: TextFormat, columns: Sequence[str], kinds: Mapping[str, pa.DataType]
) -> pa.Table:
    """The first stretch of some columns; types that `kinds` leaves out are inferred.

    Raises:
        DataError: as `stream_text`.
    """
    require_file(file)

    def open_reader(stream: pa.NativeFile, threads: bool) -> pyarrow.csv.CSVStreamingReader:
        return _csv_reader(stream, text, kinds, False, threads, columns=columns, nulls=("",))

    with _faults(file), _open_bytes(file) as (_, stream):
        try:
            reader = open_reader(stream, True)
            batch = next(iter(reader), None)
            return pa.Table.from_batches([] if batch is None else [batch], schema=reader.schema)
        except pa.ArrowInvalid as error:
            raise _explained(error, file, text, open_reader) from error


def kind_of_timestamps(head: pa.ChunkedArray) -> pa.DataType:
    """The type to read timestamps of a text file as: what Arrow takes its head for.

    Whole numbers where one that is none hides among them: then reading fails at that one, and can
    name its row.
    """
    first = head[0].as_py() if len(head) else None
    return pa.int64() if isinstance(first, str | bytes) and first.strip().isdigit() else head.type


def ends_in_open_quote(file: Path, last: str) -> bool:
    """Whether a small text file breaks off inside the quoted field that was read as `last`.

    Arrow closes such a field at the file's end without a word, and a download cut short is lost in
    it.
    """
    with _faults(file), _open_bytes(file) as (_, stream):
        content = bytes(stream.read())
    return bool(last) and content.endswith(b'"' + last.replace('"', '""').encode())


def _csv_reader(
    stream: pa.NativeFile,
    text: TextFormat,
    kinds: Mapping[str, pa.DataType],
    newlines_in_values: bool,
    threads: bool,
    *,
    columns: Sequence[str] | None = None,
    nulls: Sequence[str] = (),
) -> pyarrow.csv.CSVStreamingReader:
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
            newlines_in_values=newlines_in_values,
        ),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=dict(kinds),
            include_columns=list(kinds if columns is None else columns),
            null_values=list(nulls),
            strings_can_be_null=False,
        ),
    )


@contextmanager
def _open_bytes(file: Path) -> Iterator[tuple[pa.NativeFile, pa.NativeFile]]:
    """The file itself, whose position tells the progress, and the stream of its plain bytes."""
    with pa.OSFile(str(file)) as raw:
        if file.suffix.lower() == ".gz":
            with pa.CompressedInputStream(raw, "gzip") as stream:
                yield raw, stream
        else:
            yield raw, raw


@contextmanager
def _faults(file: Path) -> Iterator[None]:
    """Turn what Arrow and the system raise about a file into errors for a person."""
    try:
        yield
    except MemoryError as error:  # Arrow's is one of both
        raise UnusableEnvironmentError(f"{file}: out of memory while it was read") from error
    except pa.ArrowException as error:
        kind = "Parquet" if _is_parquet(file) else "CSV"
        raise DataError(f"{file}: not readable as {kind} ({_short(str(error))})") from error
    except OSError as error:
        message = str(error)
        if "Truncated compressed stream" in message:
            what = "its gzip data end too early; fetch the file again"
        elif "inflate" in message:
            what = "is no gzip data, or damaged; fetch the file again"
        elif _is_parquet(file) and error.errno is None:
            what = f"damaged Parquet ({_short(message)}); fetch the file again"
        else:
            with read_errors(file):
                raise
        raise DataError(f"{file}: {what}") from error


def _explained(
    error: pa.ArrowInvalid,
    file: Path,
    text: TextFormat,
    open_reader: Callable[[pa.NativeFile, bool], pyarrow.csv.CSVStreamingReader],
) -> DataError:
    """Say where a text file is bad and how.

    Arrow counts rows only when it reads with one thread, so the file is read once more.
    """
    message = str(error)
    with _open_bytes(file) as (_, stream):
        try:
            for _ in open_reader(stream, False):
                pass
        except pa.ArrowInvalid as numbered:
            message = str(numbered)
    row = re.search(r"Row #(\d+): ", message)
    where = f"{file}: row {row[1]}" if row else f"{file}"
    if fields := re.search(r"Expected (\d+) columns, got (\d+): (.*)", message, re.DOTALL):
        return DataError(
            f"{where}: {fields[2]} fields where {fields[1]} were expected ({_short(fields[3])!r})"
        )
    column = re.search(r"In CSV column #(\d+)", message)
    name = text.names[int(column[1])] if column else "a value"
    if "invalid UTF8 data" in message:
        return DataError(f"{where}: {name} is no UTF-8 text; save the file as UTF-8")
    if value := re.search(
        r"conversion error to ([^:]+): invalid value '(.*)'$", message, re.DOTALL
    ):
        return DataError(f"{where}: {_fault_of_value(name, value[1], value[2])}")
    if "Empty CSV file" in message:
        return DataError(f"{file}: holds a header and no rows")
    if "straddling" in message:
        return DataError(
            f"{file}: a row is longer than {_BLOCK_BYTES >> 20} MiB, or a quote is open"
        )
    return DataError(f"{where}: not readable as CSV ({_short(message)})")


def fault_of_whole_number(name: str, value: str) -> str:
    """Why a text is no whole number from 0 below 2^63, for a message about a row."""
    plain = value.strip()
    if not plain:
        return f"{name} is missing"
    if re.fullmatch(r"[-+]?0[0-9]+", plain):
        return (
            f"{name} begins with a zero ({_short(value)!r}) where ids are whole numbers: write it "
            "without, or give all ids as text, in Parquet"
        )
    if re.fullmatch(r"-?[0-9]+", plain):
        whole = int(plain)
        what = "negative" if -(2**63) <= whole < 0 else _OUT_OF_RANGE
        return f"{name} is {what} ({_short(value)!r})"
    return f"{name} is no whole number ({_short(value)!r})"


def _fault_of_value(name: str, kind: str, value: str) -> str:
    if not value.strip():
        return f"{name} is missing"
    if kind.startswith("int"):
        if re.fullmatch(r"\s*-?\d+\s*", value):
            return f"{name} is {_OUT_OF_RANGE} ({_short(value)!r})"
        return f"{name} is no whole number ({_short(value)!r})"
    if kind in ("float", "double"):
        return f"{name} is no number ({_short(value)!r})"
    return f"{name} is no {kind} as those before it ({_short(value)!r})"


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 3 * _SHOWN_CHARACTERS else text[: 3 * _SHOWN_CHARACTERS] + "..."
