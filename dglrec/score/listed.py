"""Indices of the users, items or pairs that files list, and the handling of unknown ids."""

from collections.abc import Iterable, Iterator
from typing import Literal, NoReturn

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from dglrec.errors import EmptyFileError, UnknownIdsError
from dglrec.ids import IdMap
from dglrec.ingest import ColumnNames, Given, Stretch, stream_columns
from dglrec.progress import log

Unknown = Literal["error", "skip", "null"]

_SHOWN = 3


def listed(
    file: Given | None, name: str, ids: IdMap, unknown: Unknown, names: ColumnNames
) -> Tensor:
    """int64 [n] the indices that a file lists, ascending and distinct; all indices without a file.

    Args:
        file: a table with the column, or None.
        name: schema name of the column of ids.
        ids: the known ids.
        unknown: how an unknown id is treated: `error` or `skip`.
        names: the names that the column may have in the file.

    Raises:
        EmptyFileError: the file has no row.
        DataError: the file is bad, has an unknown id where that is an error, or has no known id.
    """
    if file is None:
        return torch.arange(len(ids))
    parts = [
        ids.encode(stretch.table.column(name))
        for stretch in stream_columns(file, {name: ids.ids.type}, names)
    ]
    indices = torch.from_numpy(np.concatenate([np.empty(0, dtype=np.int32), *parts])).long()
    known = indices >= 0
    if not len(indices):
        raise EmptyFileError(f"{file}: holds no row")
    if not known.all():
        if unknown == "error" or not known.any():
            refuse_unknown(file, {name: ids}, "skip" if unknown == "error" else None, names)
        log(f"{file}: {int((~known).sum())} rows name an unknown {name} and are left out")
    found: Tensor = indices[known].unique()
    return found


def refuse_unknown(
    file: Given, columns: dict[str, IdMap], instead: str | None, names: ColumnNames
) -> NoReturn:
    """Raise an error that names some unknown ids of a file and counts all of them.

    Raises:
        UnknownIdsError: always.
    """
    counts = dict.fromkeys(columns, 0)
    shown: dict[str, list[str]] = {name: [] for name in columns}
    kinds = {name: ids.ids.type for name, ids in columns.items()}
    for stretch in stream_columns(file, kinds, names):
        for name, ids in columns.items():
            column = stretch.table.column(name)
            unknown = np.flatnonzero(ids.encode(column) < 0)
            counts[name] += len(unknown)
            if len(unknown) and len(shown[name]) < _SHOWN:
                distinct = column.take(pa.array(unknown)).unique().to_pylist()
                shown[name] = list(dict.fromkeys([*shown[name], *map(str, distinct)]))[:_SHOWN]
    said = " and ".join(
        f"{name} {', '.join(shown[name])} unknown to the data set ({count} rows)"
        for name, count in counts.items()
        if count
    )
    mend = "" if instead is None else f"; --unknown {instead} goes on without them"
    raise UnknownIdsError(f"{file}: {said}{mend}")


def cut(stretches: Iterable[Stretch], rows: int) -> Iterator[pa.Table]:
    """Stretches as tables of `rows` rows each; the last table may have fewer."""
    held: list[pa.Table] = []
    count = 0
    for stretch in stretches:
        held.append(stretch.table)
        count += len(stretch.table)
        while count >= rows:
            whole = pa.concat_tables(held)
            yield whole.slice(0, rows)
            held, count = [whole.slice(rows)], count - rows
    if count:
        yield pa.concat_tables(held)
