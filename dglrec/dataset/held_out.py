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
from dglrec.schema import RatingScale

_ROWS_AT_ONCE = 1 << 18


@dataclass(frozen=True)
class HeldOut:
    """n rows that training does not see.

    Attributes:
        users: int64 [n] user indices.
        items: int64 [n] item indices.
        ratings: float32 [n]; all 1 for interactions.
        expected: float32 [n], the planted expectation of each rating, if the data has a truth.
        times: int64 [n], timestamps in the unit of the source, if it has any.
    """

    users: Tensor
    items: Tensor
    ratings: Tensor
    expected: Tensor | None = None
    times: Tensor | None = None

    def __len__(self) -> int:
        return len(self.users)

    def check(self, num_users: int, num_items: int, scale: RatingScale) -> None:
        """Refuse rows that do not fit the data set.

        Raises:
            ValueError: a user or item index is out of range, or a rating is off the scale.
        """
        for name, indices, count in (
            (schema.USER, self.users, num_users),
            (schema.ITEM, self.items, num_items),
        ):
            if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < count:
                raise ValueError(f"a value of column {name} is not from 0 to {count - 1:,}")
        for ratings in self.ratings.split(_ROWS_AT_ONCE):
            if not scale.contains(ratings.numpy()).all():
                raise ValueError(f"a rating is off the scale of {scale}")
        if self.expected is not None and not bool(self.expected.isfinite().all()):
            raise ValueError("an expectation is not finite")


def read_held_out(source: pa.NativeFile, first: int, last: int) -> HeldOut:
    """The rows first..last-1 of a table of held-out rows.

    Raises:
        ValueError: there are fewer rows, a column is missing, or a value is missing.
        ArrowException: the file is no Parquet table.
    """
    file = pq.ParquetFile(source, pre_buffer=False)  # a buffer would keep all that was read
    types = dict.fromkeys((schema.USER, schema.ITEM, schema.TIMESTAMP), torch.int64)
    types |= dict.fromkeys((schema.RATING, schema.EXPECTED), torch.float32)
    there = file.schema_arrow.names
    wanted = [schema.USER, schema.ITEM, schema.RATING]
    if missing := [name for name in wanted if name not in there]:
        raise ValueError(f"no column {', '.join(missing)}")
    wanted += [name for name in (schema.EXPECTED, schema.TIMESTAMP) if name in there]
    columns = {name: torch.empty(last - first, dtype=types[name]) for name in wanted}
    # In batches: reading a whole table takes several times its size in memory.
    start = 0
    for batch in file.iter_batches(_ROWS_AT_ONCE, columns=wanted):
        low, high = max(start, first), min(start + len(batch), last)
        if low < high:
            part = batch.slice(low - start, high - low)
            for name, column in columns.items():
                if part.column(name).null_count:
                    raise ValueError(f"a value of column {name} is missing")
                values = part.column(name).to_numpy(zero_copy_only=False)
                column.numpy()[low - first : high - first] = values
        start += len(batch)
    if start < last:
        raise ValueError(f"{start:,} rows in place of {last:,}")
    return HeldOut(
        users=columns[schema.USER],
        items=columns[schema.ITEM],
        ratings=columns[schema.RATING],
        expected=columns.get(schema.EXPECTED),
        times=columns.get(schema.TIMESTAMP),
    )


class parquet_faults:  # noqa: N801 - a context manager reads as a verb
    """Turns what pyarrow raises while it reads a file into a `DataError` that names the file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        # pyarrow's errors derive in part from ValueError, which `read_held_out` raises as well.
        if isinstance(error, (pa.ArrowException, OSError, ValueError, KeyError)):
            raise DataError(
                f"{self.path}: damaged ({error}); prepare the data set again"
            ) from error
