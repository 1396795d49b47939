"""Rows that training does not see, read from Parquet."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from dglrec import schema
from dglrec.errors import DataError

_ROWS_AT_ONCE = 1 << 18


@dataclass(frozen=True)
class HeldOut:
    """n rows that training does not see.

    Attributes:
        users: int64 [n] user indices.
        items: int64 [n] item indices.
        ratings: float32 [n]; of interactions all are 1.
        expected: float32 [n], the planted expectation, where the data came with a truth.
        times: int64 [n], timestamps in the unit of the source, where it has any.
    """

    users: Tensor
    items: Tensor
    ratings: Tensor
    expected: Tensor | None = None
    times: Tensor | None = None

    def __len__(self) -> int:
        return len(self.users)


def read_held_out(path: Path, first: int, last: int) -> HeldOut:
    """The rows first..last-1 of a table of held-out rows.

    Raises:
        DataError: the file is missing or damaged.
    """
    with parquet_faults(path):
        file = pq.ParquetFile(path, pre_buffer=False)  # which would keep all that was read
        dtypes = dict.fromkeys((schema.USER, schema.ITEM, schema.TIMESTAMP), torch.int64)
        wanted = [schema.USER, schema.ITEM, schema.RATING]
        there = file.schema_arrow.names
        wanted += [name for name in (schema.EXPECTED, schema.TIMESTAMP) if name in there]
        columns = {
            name: torch.empty(last - first, dtype=dtypes.get(name, torch.float32))
            for name in wanted
        }
        # A little at a time: what a whole table leaves in memory is several times its rows.
        start = 0
        for batch in file.iter_batches(_ROWS_AT_ONCE, columns=wanted):
            low, high = max(start, first), min(start + len(batch), last)
            if low < high:
                part = batch.slice(low - start, high - low)
                for name, column in columns.items():
                    values = part.column(name).to_numpy(zero_copy_only=False)
                    column.numpy()[low - first : high - first] = values
            start += len(batch)
    return HeldOut(
        users=columns[schema.USER],
        items=columns[schema.ITEM],
        ratings=columns[schema.RATING],
        expected=columns.get(schema.EXPECTED),
        times=columns.get(schema.TIMESTAMP),
    )


class parquet_faults:  # noqa: N801 - a context manager reads as a verb
    """Turns what pyarrow raises over one file into a `DataError` that names it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, FileNotFoundError):
            raise DataError(f"{self.path}: no such file; prepare the data set again") from error
        if isinstance(error, (pa.ArrowException, OSError)):
            raise DataError(
                f"{self.path}: damaged ({error}); prepare the data set again"
            ) from error
