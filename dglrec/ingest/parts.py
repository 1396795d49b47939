"""Tables in a single file or in several: a folder of parts, or the files that match a pattern.

Spark, Dask and DuckDB write tables in parts: `part-00000.parquet`, perhaps in folders such as
`year=2020`, which give a column (hive partitions), beside files that hold no data.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote

import pyarrow as pa

from dglrec.errors import DataError
from dglrec.files import read_errors, sha256_of
from dglrec.places import Place, RemotePath, contents, folder_and_pattern, matches
from dglrec.progress import counted, log, progress

TABLE_ENDINGS = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz", ".parquet")

_DELTA = "_delta_log"
_NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"
_HADOOP_ENDINGS = ("._COPYING_", "_$folder$")  # ends of names that Hadoop leaves
_WHOLE_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_SHOWN = 8


@dataclass(frozen=True)
class Parts:
    """A table in several files: its rows are those of the files, in the order of `names`.

    Attributes:
        place: the folder or pattern as the user gave it.
        folder: the folder that the names are relative to.
        names: relative paths of the files, ascending.
    """

    place: Place
    folder: Place
    names: tuple[str, ...]

    def __str__(self) -> str:
        return str(self.place)

    @property
    def name(self) -> str:
        """The last component of the place."""
        return self.place.name

    @property
    def suffix(self) -> str:
        """The suffix of its files."""
        return PurePosixPath(self.names[0]).suffix

    @cached_property
    def files(self) -> tuple[Place, ...]:
        """The files, in the order of `names`."""
        return tuple(self.folder / name for name in self.names)

    @cached_property
    def partitions(self) -> dict[str, tuple[int | str | None, ...]]:
        """Hive partitions: column name -> its value in each file.

        The values are whole numbers if all of them are, else texts.

        Raises:
            DataError: a file's partitions have other names than the first file's.
        """
        found = [_partitions_of(name) for name in self.names]
        for number, values in enumerate(found):
            if values.keys() != found[0].keys():
                here, first = (", ".join(names) or "none" for names in (values, found[0]))
                raise DataError(
                    f"{self.files[number]}: lies in partitions of {here}, and {self.files[0]} of "
                    f"{first}; parts of one table have the same"
                )
        columns = {name: [values[name] for values in found] for name in found[0]}
        return {name: _numbers_or_texts(values) for name, values in columns.items()}


TableFile = Place | Parts
"""A table: a file, or its parts."""


def parts_of(table: TableFile) -> Parts:
    """The parts of a table; a file is one part."""
    if isinstance(table, Parts):
        return table
    return _SingleFile(table, table, (table.name,))


class _SingleFile(Parts):
    """A table in a single file; the folders it lies in are not taken for partitions."""

    @cached_property
    def files(self) -> tuple[Place, ...]:
        return (self.place,)

    @cached_property
    def partitions(self) -> dict[str, tuple[int | str | None, ...]]:
        return {}


def find_table(place: TableFile) -> TableFile:
    """The table at a place: a file, a folder's parts, or the files that match a pattern.

    A missing file is not refused here but when it is read.

    Raises:
        DataError: a folder or a pattern has no part, or a part that is no table.
    """
    if isinstance(place, Parts):
        return place
    globbed = folder_and_pattern(place)
    if globbed is not None and not place.exists():
        return _find_parts(place, *globbed)
    return _find_parts(place, place, "") if place.is_dir() else place


def has_parts(folder: Place) -> bool:
    """Whether a folder, or a hive partition in it, holds files of a table."""
    with read_errors(folder):
        below = contents(folder)
    return any(
        is_file
        and not _is_hidden(path)
        and path.lower().endswith(TABLE_ENDINGS)
        and all("=" in name for name in path.split("/")[:-1])
        for path, is_file in below
    )


def describe_file(table: TableFile) -> dict[str, Any]:
    """A table's name and the SHA-256 of its content, to be recorded with what is made of it.

    For parts, the SHA-256 is that of the lines that `sha256sum` prints for them, by ascending name.
    """
    if not isinstance(table, Parts):
        return {"file": table.name, "sha256": sha256_of(table)}
    digest = hashlib.sha256()
    with progress(f"checksums of {table.name}", len(table.names), "parts") as advance:
        for name, file in zip(table.names, table.files, strict=True):
            digest.update(f"{sha256_of(file)}  {name}\n".encode())
            advance(1)
    return {"file": table.name, "parts": len(table.names), "sha256": digest.hexdigest()}


def _find_parts(place: Place, folder: Place, pattern: str) -> Parts:
    with read_errors(folder):
        below = contents(folder) if folder.is_dir() else []
    if any(path.split("/")[-1] == _DELTA for path, _ in below):
        raise DataError(
            f"{place}: is a Delta table, whose files may hold rows that were deleted since; write "
            "it as plain Parquet, and give that"
        )
    names = [path for path, is_file in below if is_file and not _is_hidden(path)]
    names = [name for name in names if not pattern or matches(pattern, name)]
    if not names:
        _refuse_no_parts(place, folder, pattern, [path for path, _ in below])
    for name in names:
        if not name.lower().endswith(TABLE_ENDINGS):
            raise DataError(
                f"{folder / name}: is neither CSV nor Parquet by its name; parts of a table end in "
                f"{', '.join(TABLE_ENDINGS)}"
            )
        if _is_parquet(name) != _is_parquet(names[0]):
            raise DataError(
                f"{folder / name}: is of another kind than {folder / names[0]}; parts of one table "
                "are all CSV or all Parquet"
            )
    if not pattern:
        _log_empty_partitions(place, below, names)
    return Parts(place, folder, tuple(names))


def _refuse_no_parts(place: Place, folder: Place, pattern: str, found: Sequence[str]) -> None:
    if isinstance(place, RemotePath) and not found:
        raise DataError(f"{place}: {place.lack('file')}")
    shown = ", ".join(found[:_SHOWN]) + (", ..." if len(found) > _SHOWN else "")
    if pattern:
        raise DataError(f"{place}: matches no file; found {shown or 'nothing'} in {folder}")
    raise DataError(
        f"{place}: holds no part of a table; found {shown or 'an empty folder'}, expected files "
        f"that end in {', '.join(TABLE_ENDINGS)}"
    )


def _log_empty_partitions(
    place: Place, below: Sequence[tuple[str, bool]], names: list[str]
) -> None:
    """Log which partitions have no part: the job that should write them may have failed."""
    filled = {str(above) for name in names for above in PurePosixPath(name).parents}
    empty = [
        path
        for path, is_file in below
        if not is_file and not _is_hidden(path) and "=" in path and path not in filled
    ]
    if empty:
        what = counted(len(empty), "partition")
        log(f"{place}: {what} without a part, {empty[0]} the first; nothing is read of it")


def _is_hidden(path: str) -> bool:
    """Whether Spark and similar tools would skip a path as holding no data."""
    return any(
        name.startswith(".") or (name.startswith("_") and "=" not in name)
        for name in path.split("/")
    ) or path.endswith(_HADOOP_ENDINGS)


def _is_parquet(name: str) -> bool:
    return name.lower().endswith(".parquet")


def _partitions_of(path: str) -> dict[str, str | None]:
    pairs = (name.partition("=") for name in path.split("/")[:-1] if "=" in name)
    return {
        unquote(key): None if value == _NULL_PARTITION else unquote(value)
        for key, _, value in pairs
    }


def _numbers_or_texts(values: Sequence[str | None]) -> tuple[int | str | None, ...]:
    given = [value for value in values if value is not None]
    if given and all(_WHOLE_NUMBER.fullmatch(value) for value in given):
        return tuple(None if value is None else int(value) for value in values)
    return tuple(values)


def with_partitions(
    stretch: pa.Table, parts: Parts, number: int, kinds: Mapping[str, pa.DataType | None]
) -> pa.Table:
    """A stretch of a part, with the columns that its hive partitions give.

    Args:
        stretch: rows of the part.
        parts: the table.
        number: the part's index in `parts.files`.
        kinds: the columns to add -> their types; None for the type of the values.

    Raises:
        DataError: a value cannot be converted to its type.
    """
    for name, kind in kinds.items():
        value = parts.partitions[name][number]
        try:
            scalar = pa.scalar(value)
            scalar = scalar if kind is None else scalar.cast(kind)
        except pa.ArrowException as error:
            raise DataError(
                f"{parts.files[number]}: lies in partition {name}={value}; expected {kind}"
            ) from error
        stretch = stretch.append_column(name, pa.repeat(scalar, len(stretch)))
    return stretch
