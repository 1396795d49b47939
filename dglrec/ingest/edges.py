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
        source: name of the column of source ids; `destination` likewise.
        source_type: the node type of the source ids; `destination_type` likewise.
        optional: those of `weight` and `timestamp` that the file has.
        unread: the other columns.
    """

    source: str
    destination: str
    source_type: str
    destination_type: str
    optional: tuple[str, ...]
    unread: tuple[str, ...]


def find_edge_columns(file: Given, id_names: Mapping[str, Sequence[str]]) -> EdgeColumns:
    """Find the two columns of ids in a file of edges, and the node type of each.

    Such a column has the name of a node type's ids, perhaps with a prefix: `to_user_id`. If just
    one of the two has a prefix, the other is the source; else the first column is.

    Args:
        file: CSV (perhaps `.gz`) with a header, `.parquet`, or a frame.
        id_names: node type -> the names that a column of its ids may have.

    Raises:
        DataError: the file is missing, is empty or no table, or does not have exactly two columns
            of ids.
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
        id_columns = ", ".join(stream.shown_names([column for column, _, _ in ends])) or "none"
        known = ", ".join(stream.shown_names([names[0] for names in id_names.values()]))
        raise DataError(
            f"{file}: a relation has two columns of ids, and this file has {id_columns}; found "
            f"{', '.join(stream.shown_names(found))}; name them {known}, the second perhaps with "
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
    """Yield the edges of a file, validated by `schema.check_edges`.

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
        except pa.ArrowException as error:  # a conversion that `check_edges` does not foresee
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
    """The longest of `names` that the column's name is, or ends in after `_`; None if none is."""
    if column in names:
        return column
    return max((name for name in names if column.endswith(f"_{name}")), key=len, default=None)
