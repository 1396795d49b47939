"""Files of edges between users, items and attributes -> checked stretches, streamed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from dglrec import schema
from dglrec.errors import DataError
from dglrec.ingest import stream, typed
from dglrec.ingest.frames import Given

_OPTIONAL = (schema.WEIGHT, schema.TIMESTAMP)


@dataclass(frozen=True)
class EdgeColumns:
    """Which columns of a file hold the edges of a relation.

    Attributes:
        source: name of the column of the edges' first ends; `destination` likewise.
        source_type: the type of node that these ids belong to; `destination_type` likewise.
        optional: those of `weight` and `timestamp` that are there.
        unread: the other columns.
    """

    source: str
    destination: str
    source_type: str
    destination_type: str
    optional: tuple[str, ...]
    unread: tuple[str, ...]


def find_edge_columns(file: Given, id_names: Mapping[str, Sequence[str]]) -> EdgeColumns:
    """Which columns of a file name the two ends of an edge, and of which type each end is.

    A column's name is that of a type of node's ids, perhaps behind a prefix: `to_user_id`. Of a
    column with a prefix and one without, the one without is the source; else the first is.

    Args:
        file: CSV (perhaps `.gz`) with a header, `.parquet`, or a frame.
        id_names: for each type of node the names that a column of its ids may have.

    Raises:
        DataError: the file is missing, is empty or no table, or has not just two such columns.
    """
    types = {name: kind for kind, names in id_names.items() for name in names}
    found = _columns(file, tuple(types))
    ends = []
    for column in found:
        if column in _OPTIONAL:
            continue
        if (name := _id_name(column, tuple(types))) is not None:
            ends.append((column, types[name], column != name))
    if len(ends) != 2:
        what = ", ".join(stream.shown_names([column for column, _, _ in ends])) or "none"
        known = ", ".join(stream.shown_names([names[0] for names in id_names.values()]))
        raise DataError(
            f"{file}: a relation has two columns of ids, and this has {what}; found "
            f"{', '.join(stream.shown_names(found))}; ids go by {known}, the second perhaps behind "
            "a prefix such as to_"
        )
    if ends[0][2] and not ends[1][2]:
        ends.reverse()
    (source, source_type, _), (destination, destination_type, _) = ends
    return EdgeColumns(
        source,
        destination,
        source_type,
        destination_type,
        tuple(name for name in _OPTIONAL if name in found),
        tuple(name for name in found if name not in (source, destination, *_OPTIONAL)),
    )


def stream_edges(file: Given, columns: EdgeColumns) -> Iterator[stream.Stretch]:
    """Yield the edges of a file, past the door.

    Returns:
        Tables of `source` and `destination`, int64 or string, and perhaps `weight`, float32, and
        `timestamp`, int64. Ids of a text file are text.

    Raises:
        DataError: the file is damaged, or a row is bad. The message names the first such row.
    """
    ends = (columns.source, columns.destination)
    names = [*ends, *columns.optional]
    renamed = [schema.SOURCE, schema.DESTINATION, *columns.optional]
    description = f"reading {file.name}"
    if not stream.is_text(file):
        stretches = typed.stream_typed(file, names, description)
    else:
        text = stream.header_format(file, names, ",;\t")
        kinds = dict.fromkeys(ends, pa.string())
        if schema.WEIGHT in columns.optional:
            kinds[schema.WEIGHT] = pa.float32()
        if schema.TIMESTAMP in columns.optional:
            head = stream.head_of_text(file, text, [schema.TIMESTAMP], {})
            kinds[schema.TIMESTAMP] = stream.kind_of_timestamps(head.column(0))
        stretches = stream.stream_text(file, text, kinds, description)
    for stretch in stretches:
        table = stretch.table.select(names).rename_columns(renamed)
        try:
            table = schema.check_edges(
                table, names=ends, source=str(stretch.file), first_row=stretch.first_row
            )
        except pa.ArrowException as error:  # a conversion that the door does not foresee
            raise DataError(f"{stretch.file}: a column is of an unusable type ({error})") from error
        yield stream.Stretch(table, stretch.first_row, stretch.file)


def _columns(file: Given, id_names: tuple[str, ...]) -> list[str]:
    stream.require_file(file)
    if not stream.is_text(file):
        names = list(typed.typed_schema(file).names)
    else:
        names = list(stream.header_format(file, (*id_names, *_OPTIONAL), ",;\t").names)
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        shown = ", ".join(stream.shown_names(repeated))
        raise DataError(
            f"{file}: more than one column {shown}; give the second a prefix: to_user_id"
        )
    return names


def _id_name(column: str, names: tuple[str, ...]) -> str | None:
    """The name of ids that a column has, the longest where several end it; None where none does."""
    if column in names:
        return column
    return max((name for name in names if column.endswith(f"_{name}")), key=len, default=None)
