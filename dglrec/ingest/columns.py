"""Ratings or interactions as read from files: columns of indices, and counts of rows."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dglrec import schema
from dglrec.ingest.frames import Given


@dataclass(frozen=True)
class RatingColumns:
    """A file's ratings in file order: indices into the id maps, memory-mapped, read-only.

    Attributes:
        users: int32 [n].
        items: int32 [n].
        ratings: float32 [n]; all 1 for interactions.
        timestamps: int64 [n], in the unit of the file (dates and times become microseconds); None
            where the file has no timestamps.
    """

    users: npt.NDArray[np.int32]
    items: npt.NDArray[np.int32]
    ratings: npt.NDArray[np.float32]
    timestamps: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.users)


@dataclass(frozen=True)
class FileCounts:
    """How many rows a file had, and how many were skipped.

    Attributes:
        file: the file.
        rows: all its rows.
        unrated: rows skipped because they say that the user did not rate.
        below_level: ratings skipped because they are below the least rating of an interaction.
    """

    file: Given
    rows: int
    unrated: int
    below_level: int = 0

    @property
    def kept(self) -> int:
        """Rows that were not skipped."""
        return self.rows - self.unrated - self.below_level


@dataclass(frozen=True)
class IngestCounts:
    """The counts of all files that a reader read."""

    files: tuple[FileCounts, ...]

    @property
    def rows(self) -> int:
        """Rows of all files."""
        return sum(counts.rows for counts in self.files)

    @property
    def unrated(self) -> int:
        """Rows skipped, in all files, because they say that the user did not rate."""
        return sum(counts.unrated for counts in self.files)

    @property
    def below_level(self) -> int:
        """Ratings skipped, in all files, because they are below the least of an interaction."""
        return sum(counts.below_level for counts in self.files)


def at_level(table: pa.Table, level: float) -> pa.Table:
    """The rows with a rating of `level` or more, with all columns.

    Args:
        table: has a float32 column `rating`.
        level: the least rating; compared in float32, where 4.1 is a little less than in float64.
    """
    least = pa.scalar(level, type=pa.float32())
    return table.filter(pc.greater_equal(table.column(schema.RATING), least))
