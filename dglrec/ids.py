"""External ids <-> indices 0..n-1. Ids are translated at the edges of the package only."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dglrec import schema
from dglrec.errors import DataError

_SPREAD = 8  # the table for looking up ids has at most this many entries for each id


class IdMap:
    """A fixed set of external ids in ascending order; an id's index is its position.

    Ids that `extended` adds come after them, in ascending order among themselves.

    Args:
        ids: distinct ids, int64 or string, in ascending order.

    Raises:
        ValueError: the ids are not distinct and ascending.
    """

    def __init__(self, ids: pa.Array) -> None:
        self.ids = ids
        if len(ids) > 1 and not pc.all(pc.less(ids[:-1], ids[1:])).as_py():
            raise ValueError("ids must be distinct and ascending")

    def __len__(self) -> int:
        return len(self.ids)

    def extended(self, more: pa.Array) -> "IdMap":
        """These ids, with the same indices, followed by others of the same type.

        Raises:
            ValueError: the others are not distinct and ascending, or the map holds some already.
        """
        added = IdMap(more)
        if pc.any(pc.is_in(more, value_set=self.ids)).as_py():
            raise ValueError("ids to be added must be new ones")
        whole = IdMap(self.ids[:0])
        whole.ids = pa.concat_arrays([self.ids, added.ids])
        return whole

    def encode(self, ids: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.int32]:
        """Ids -> indices; -1 for an id that the map does not hold, or of a type that cannot fit."""
        if ids.type != self.ids.type:
            ids = to_type(ids, self.ids.type)
        if self._table is not None:
            numbers = np.asarray(pc.fill_null(ids, -1).to_numpy(zero_copy_only=False))
            inside = (numbers >= 0) & (numbers < len(self._table))
            return np.where(inside, self._table[np.where(inside, numbers, 0)], np.int32(-1))
        found = pc.index_in(ids, value_set=self.ids)
        return np.array(pc.fill_null(found, -1).to_numpy(zero_copy_only=False), dtype=np.int32)

    @cached_property
    def _table(self) -> npt.NDArray[np.int32] | None:
        """The index of each whole number, -1 if it is no id; None if ids are text or far apart.

        In long columns it takes a tenth of the time of hashing.
        """
        if self.ids.type != pa.int64() or not len(self.ids):
            return None
        numbers = self.ids.to_numpy()
        if numbers.min() < 0 or numbers.max() >= _SPREAD * len(numbers):
            return None
        table = np.full(int(numbers.max()) + 1, -1, dtype=np.int32)
        table[numbers] = np.arange(len(numbers), dtype=np.int32)
        return table

    def encode_one(self, text: str) -> int:
        """The index of an id written as text, as on a command line; -1 if there is no such id."""
        try:
            return int(self.encode(pa.array([text], type=pa.string()))[0])
        except UnicodeEncodeError:  # bytes of the command line that are no valid text
            return -1

    def decode(self, indices: npt.NDArray[Any]) -> pa.Array:
        """Indices -> ids."""
        return self.ids.take(pa.array(indices))

    def nearest(self, count: int = 3) -> Sequence[Any]:
        """The first few ids, as examples for a message."""
        return list(self.ids[:count].to_pylist())


class IdMapBuilder:
    """Collects ids from a stream, and gives them provisional codes that `finish` puts in order."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._codes: dict[Any, int] = {}
        self._type: pa.DataType | None = None

    def add(self, ids: pa.ChunkedArray) -> npt.NDArray[np.int32]:
        """Ids -> provisional codes, in order of first appearance.

        Raises:
            DataError: the type differs from that of earlier stretches.
        """
        if self._type is None:
            self._type = ids.type
        if ids.type != self._type:
            raise DataError(f"{self._name} is {self._type} at first and {ids.type} further down")
        encoded = ids.combine_chunks().dictionary_encode()
        codes = self._codes
        local = [codes.setdefault(value, len(codes)) for value in encoded.dictionary.to_pylist()]
        rows: npt.NDArray[np.int32] = np.asarray(local, dtype=np.int32)[encoded.indices.to_numpy()]
        return rows

    def finish(self) -> tuple[IdMap, npt.NDArray[np.int32]]:
        """The map, and the index in the map of each provisional code."""
        ids = pa.array(self._codes, type=self._type or pa.int64())
        order = pc.sort_indices(ids).to_numpy()
        index_of_code = np.empty(len(order), dtype=np.int32)
        index_of_code[order] = np.arange(len(order), dtype=np.int32)
        return IdMap(ids.take(pa.array(order))), index_of_code


def to_type(ids: pa.Array | pa.ChunkedArray, kind: pa.DataType) -> pa.Array | pa.ChunkedArray:
    """Convert ids between int64 and string; text that is no whole number becomes null.

    `schema.whole_numbers` says what a whole number is; "007" is not.
    """
    is_text = pa.types.is_string(ids.type) or pa.types.is_large_string(ids.type)
    if kind == pa.int64() and is_text:
        chunks = ids.chunks if isinstance(ids, pa.ChunkedArray) else [ids]
        numbers = [schema.whole_numbers(chunk) for chunk in chunks]
        return pa.chunked_array(numbers, kind) if isinstance(ids, pa.ChunkedArray) else numbers[0]
    try:
        return ids.cast(kind)
    except pa.ArrowInvalid:  # an unsigned number that is too large
        fitting = pc.if_else(pc.less(ids, pa.scalar(2**63, ids.type)), ids, None)
        return fitting.cast(kind)
