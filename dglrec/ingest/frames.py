"""Tables in memory, which can stand wherever a file can: `Frame`.

Frames and files go through the same checks, so a frame is refused for whatever a file of the same
rows would be. Messages number its rows from 1.
"""

import hashlib
import io
from dataclasses import dataclass
from typing import Any, TypeGuard

import pyarrow as pa

from dglrec.errors import DataError, UnusableEnvironmentError, UsageError
from dglrec.ingest.parts import TableFile, describe_file, find_table


@dataclass(frozen=True, eq=False)
class Frame:
    """A table in memory.

    Attributes:
        name: what messages call it; a data set prepared from it records this name as its source.
        table: its columns.
    """

    name: str
    table: pa.Table

    def __str__(self) -> str:
        return self.name

    @classmethod
    def of(cls, native: Any, name: str) -> "Frame":
        """Take a data frame of any library that narwhals reads.

        Args:
            native: a frame of pandas, polars (a lazy one is collected), pyarrow, or anything else
                that narwhals reads. The index of a pandas frame is not read.
            name: what messages call it.

        Raises:
            UsageError: it is no data frame.
            DataError: a column is there twice, or its values are of several types.
        """
        return cls(name, _arrow_table(native, name).replace_schema_metadata(None))

    def checksum(self) -> str:
        """The SHA-256 of its columns' names, types and values, in hexadecimal.

        Frames of the same columns have the same checksum, however they are chunked in memory.
        """
        digest = hashlib.sha256()
        sink = pa.PythonFile(_Hashing(digest), mode="w")
        whole = self.table.combine_chunks()
        with pa.ipc.new_stream(sink, whole.schema) as writer:
            writer.write_table(whole)
        return digest.hexdigest()


Given = TableFile | Frame
"""A table as a caller gives it: a file or its parts, local or in a store, or a frame in memory."""


def is_file(given: Given) -> TypeGuard[TableFile]:
    """Whether the table is a file or its parts, not a frame in memory."""
    return not isinstance(given, Frame)


def find(given: Given) -> Given:
    """The table at a path or URI, see `find_table`; a frame is returned unchanged."""
    return given if isinstance(given, Frame) else find_table(given)


def describe(given: Given) -> dict[str, Any]:
    """A table's name and the SHA-256 of its content, to be recorded with what is made of it."""
    if isinstance(given, Frame):
        return {"file": given.name, "sha256": given.checksum()}
    return describe_file(given)


class _Hashing(io.RawIOBase):
    """A writable file that updates a digest and stores nothing."""

    def __init__(self, digest: Any) -> None:
        super().__init__()
        self._digest = digest

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data)
        self._digest.update(view)
        return view.nbytes


def _arrow_table(native: Any, name: str) -> pa.Table:
    if isinstance(native, pa.Table):
        _refuse_repeated(native.column_names, name)
        return native
    # Imported here, so that runs without a frame do not wait for it.
    import narwhals as nw
    from narwhals.exceptions import NarwhalsError

    try:
        frame = nw.from_native(native)
    except TypeError as error:
        raise UsageError(
            f"{name}: is of type {type(native).__name__}; give a DataFrame of pandas or polars, a "
            "pyarrow table, or another that narwhals takes"
        ) from error
    except NarwhalsError as error:
        raise DataError(f"{name}: {_one_line(error)}") from error
    try:
        if isinstance(frame, nw.LazyFrame):
            frame = frame.collect("pyarrow")
        names = [str(column) for column in frame.columns]
        _refuse_repeated(names, name)
        table: pa.Table = frame.to_arrow()
    except MemoryError as error:  # Arrow's is a MemoryError and an ArrowException
        raise UnusableEnvironmentError(f"{name}: out of memory while it was read") from error
    except pa.ArrowException as error:
        raise DataError(f"{name}: {_fault_of_columns(native, error)}") from error
    except NarwhalsError as error:
        raise DataError(f"{name}: {_one_line(error)}") from error
    # Leaves out a pandas frame's index, which `to_arrow` puts behind the columns.
    return table.select(names)


def _refuse_repeated(names: list[str], name: str) -> None:
    if repeated := sorted({column for column in names if names.count(column) > 1}):
        raise DataError(f"{name}: more than one column {', '.join(repeated)}")


def _fault_of_columns(native: Any, error: Exception) -> str:
    """Which column cannot be read, and why."""
    for column in native.columns:
        cells = list(native[column])
        try:
            pa.array(cells, from_pandas=True)
        except pa.ArrowException:
            kinds = dict.fromkeys(
                type(cell).__name__
                for cell in cells
                if cell is not None and not (isinstance(cell, float) and cell != cell)
            )
            return (
                f"column {str(column)[:40]} holds values of several types "
                f"({', '.join(list(kinds)[:4])}); make them all numbers, or all text"
            )
    return f"not readable as a table ({_one_line(error)})"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
