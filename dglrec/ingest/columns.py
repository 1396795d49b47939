"""What reading files of ratings or interactions gives: columns of indices, and counts."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dglrec import schema
from dglrec.ingest.frames import Given


@dataclass(frozen=True)
class RatingColumns:
    """One file's ratings in file order: indices into the id maps, memory-mapped, read-only.

    Attributes:
        users: int32 [n].
        items: int32 [n].
        ratings: float32 [n]; of interactions all are 1.
        timestamps: int64 [n], in the file's own unit (times become microseconds); None where the
            file has none.
    """

    users: npt.NDArray[np.int32]
    items: npt.NDArray[np.int32]
    ratings: npt.NDArray[np.float32]
    timestamps: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.users)


@dataclass(frozen=True)
class FileCounts:
    """What one file held.

    Attributes:
        file: which.
        rows: all its rows.
        unrated: rows that were skipped, as they say that the user did not rate.
        below_level: ratings that were skipped, as they are below the least one of an interaction.
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
    """What the files of a reader held."""

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
        """Ratings skipped, in all files, because they are below the level of an interaction."""
        return sum(counts.below_level for counts in self.files)


def at_level(table: pa.Table, level: float) -> pa.Table:
    """The rows that are rated `level` or more, with all columns.

    Args:
        table: has a float32 column `rating`.
        level: is compared in float32, in which 4.1 is a little less than in float64.
    """
    least = pa.scalar(level, type=pa.float32())
    return table.filter(pc.greater_equal(table.column(schema.RATING), least))
