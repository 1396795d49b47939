"""Parquet files and frames, whose columns have types -> Arrow tables, a stretch at a time."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet

from dglrec.errors import DataError
from dglrec.ingest.faults import faults
from dglrec.ingest.frames import Frame, Given
from dglrec.ingest.parts import Parts, parts_of, with_partitions
from dglrec.ingest.stream import (
    Stretch,
    log_empty_parts,
    open_anywhere,
    refuse_repeated,
    require_file,
    shown_names,
)
from dglrec.places import Place
from dglrec.progress import progress

_PARQUET_ROWS = 1 << 19


def typed_schema(file: Given) -> pa.Schema:
    """The columns of a Parquet file or a frame.

    For a table in parts, the columns of the first part, and those that hive partitions give.

    Raises:
        DataError: the file is missing, or is no Parquet file.
    """
    if isinstance(file, Frame):
        return file.table.schema
    require_file(file)
    parts = parts_of(file)
    with _open_parquet(parts.files[0]) as parquet:
        fields = parquet.schema_arrow
    for name, values in parts.partitions.items():
        if name not in fields.names:
            fields = fields.append(pa.field(name, pa.array(values).type))
    return fields


def stream_typed(file: Given, columns: Sequence[str], description: str) -> Iterator[Stretch]:
    """Yield the stretches of some columns of a frame, a Parquet file, or its parts in their order.

    Raises:
        DataError: the file is missing or damaged, or a part's columns differ from the first part's.
    """
    if isinstance(file, Frame):
        yield from _stream_frame(file, columns, description)
        return
    require_file(file)
    parts = parts_of(file)
    counts = _rows_of_parts(parts, columns)
    with progress(description, sum(counts), "rows") as advance:
        for number, part in enumerate(parts.files):
            row = 1
            with _open_parquet(part) as parquet:
                stored = [name for name in columns if name in parquet.schema_arrow.names]
                added = dict.fromkeys(name for name in columns if name not in stored)
                for batch in parquet.iter_batches(_PARQUET_ROWS, columns=stored):
                    table = pa.Table.from_batches([batch])
                    table = with_partitions(table, parts, number, added)
                    yield Stretch(table, row, part)
                    row += len(batch)
                    advance(len(batch))
    log_empty_parts(parts, counts)


def _stream_frame(frame: Frame, columns: Sequence[str], description: str) -> Iterator[Stretch]:
    table = frame.table.select(list(columns))
    with progress(description, len(table), "rows") as advance:
        for start in range(0, len(table), _PARQUET_ROWS):
            part = table.slice(start, _PARQUET_ROWS)
            yield Stretch(part, start + 1, frame)
            advance(len(part))


def _rows_of_parts(parts: Parts, columns: Sequence[str]) -> list[int]:
    """How many rows each part has, by its Parquet metadata.

    Raises:
        DataError: a part lacks a column that the first part has, or has it in another type.
    """
    counts = []
    first: dict[str, pa.DataType] = {}
    several = len(parts.files) > 1
    with progress("looking at parts", len(parts.files), "parts", shown=several) as advance:
        for part in parts.files:
            with _open_parquet(part) as parquet:
                fields, rows = parquet.schema_arrow, parquet.metadata.num_rows
            types = dict(zip(fields.names, fields.types, strict=True))
            found = {name: types[name] for name in columns if name in types}
            first = first or found
            _refuse_other_columns(part, parts.files[0], fields.names, found, first)
            counts.append(rows)
            advance(1)
    return counts


def _refuse_other_columns(
    part: Place,
    first_part: Place,
    names: Sequence[str],
    found: Mapping[str, pa.DataType],
    first: Mapping[str, pa.DataType],
) -> None:
    if part == first_part:
        return
    refuse_repeated(part, names, list(first))
    if missing := [name for name in first if name not in found]:
        raise DataError(
            f"{part}: no column {', '.join(missing)}, which {first_part} has; found "
            f"{', '.join(shown_names(names)) or 'no columns'}"
        )
    for name, kind in first.items():
        if _family(found[name]) != _family(kind):
            raise DataError(
                f"{part}: column {name} holds {found[name]}, and in {first_part} {kind}; parts of "
                "one table have columns of the same types"
            )


def _family(kind: pa.DataType) -> str:
    """The family of a type: columns of the same family are read alike."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return "number"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "text"
    return str(kind)


@contextmanager
def _open_parquet(file: Place) -> Iterator[pyarrow.parquet.ParquetFile]:
    # With `pre_buffer` the reader would keep all that it read ahead until the end of the file.
    with (
        faults(file),
        open_anywhere(file) as source,
        pyarrow.parquet.ParquetFile(source, pre_buffer=False) as parquet,
    ):
        yield parquet
