"""CSV, Parquet and frames, streamed -> validated columns and id maps.

`open_source` finds out what lies at a path, `RatingReader` reads a ratings file of any size,
`read_items` and `read_users` read the item and user tables beside it.
"""

from dglrec.ingest.attributes import AttributeTable, attribute_name, read_attributes
from dglrec.ingest.columns import FileCounts, IngestCounts, RatingColumns
from dglrec.ingest.edges import EdgeColumns, find_edge_columns, stream_edges
from dglrec.ingest.frames import Frame, Given, describe, find, is_file
from dglrec.ingest.lists import (
    ID_NAMES,
    ColumnNames,
    NewRatings,
    names_with,
    read_new_interactions,
    read_new_ratings,
    stream_columns,
)
from dglrec.ingest.parts import Parts, TableFile, find_table
from dglrec.ingest.ratings import RatingReader
from dglrec.ingest.repeats import drop_duplicates, last_of_each_pair, rows_of_each
from dglrec.ingest.sources import FORMATS, RatingLayout, Source, open_source, parse_columns
from dglrec.ingest.stream import Stretch, require_file
from dglrec.ingest.tables import read_items, read_new_items, read_users

__all__ = [
    "FORMATS",
    "ID_NAMES",
    "AttributeTable",
    "ColumnNames",
    "EdgeColumns",
    "FileCounts",
    "Frame",
    "Given",
    "IngestCounts",
    "NewRatings",
    "Parts",
    "RatingColumns",
    "RatingLayout",
    "RatingReader",
    "Source",
    "Stretch",
    "TableFile",
    "attribute_name",
    "describe",
    "drop_duplicates",
    "find",
    "find_edge_columns",
    "find_table",
    "is_file",
    "last_of_each_pair",
    "names_with",
    "open_source",
    "parse_columns",
    "read_attributes",
    "read_items",
    "read_new_interactions",
    "read_new_items",
    "read_new_ratings",
    "read_users",
    "require_file",
    "rows_of_each",
    "stream_columns",
    "stream_edges",
]
