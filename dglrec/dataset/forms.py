"""What each file of a prepared data set must be: type, shape, and the values it may hold.

All of this follows from the counts and widths in `dataset.json`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dglrec import schema
from dglrec.dataset.attributes import USER_FEATURES
from dglrec.dataset.layout import FEATURES, HELD_OUT, ITEMS, TIMES, TRAIN, USERS
from dglrec.dataset.planted import PLANTED, PLANTED_ARRAYS
from dglrec.dataset.relations import DIRECTIONS, RELATIONS
from dglrec.errors import DataError
from dglrec.relations import ITEM_TYPE, USER_TYPE
from dglrec.schema import RatingScale

_INT64, _INT32, _FLOAT32 = (np.dtype(kind) for kind in (np.int64, np.int32, np.float32))


@dataclass(frozen=True)
class ArrayForm:
    """The type, shape and values that an array must have.

    Attributes:
        dtype: of its numbers. Floats must be finite.
        shape: of the array; None for a length that may be any.
        below: for indices and codes: all are from 0 to `below` - 1.
        ends_at: for offsets: they ascend from 0 to this.
        least: for floats: none is less than this.
    """

    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]
    below: int | None = None
    ends_at: int | None = None
    least: float | None = None

    def fits(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> bool:
        """Whether an array of a type and a shape has this form."""
        return (
            dtype == self.dtype
            and len(shape) == len(self.shape)
            and all(
                wanted in (None, found) for wanted, found in zip(self.shape, shape, strict=True)
            )
        )

    def fault(self, values: npt.NDArray[Any]) -> str | None:
        """What is wrong with a value, or None if nothing is; in time linear in the values."""
        if not values.size:
            return None
        if self.below is not None:
            # Seen as unsigned numbers, negative values are the largest.
            largest = values.view(f"u{values.itemsize}").max()
            return None if largest < self.below else f"a value is not from 0 to {self.below - 1:,}"
        if self.dtype.kind == "f":
            if not np.isfinite(values).all():
                return "a value is not finite"
            if self.least is not None and values.min() < self.least:
                return f"a value is below {self.least:g}"
        return None

    def fault_of_offsets(self, offsets: npt.NDArray[np.int64]) -> str | None:
        """What is wrong with an array of offsets; None if nothing is, or the form is another."""
        if self.ends_at is None:
            return None
        if int(offsets[0]) != 0 or int(offsets[-1]) != self.ends_at:
            return f"offsets go from {offsets[0]} to {offsets[-1]}, not from 0 to {self.ends_at}"
        return None if bool((offsets[1:] >= offsets[:-1]).all()) else "offsets do not ascend"


def array_forms(meta: Mapping[str, Any]) -> dict[str, ArrayForm]:
    """The forms of all arrays of a data set, by the names of their files.

    Args:
        meta: the content of `dataset.json`.

    Raises:
        DataError: a name in it cannot be part of a file's name.
    """
    forms: dict[str, ArrayForm] = {}
    for part in (_of_training, _of_features, _of_relations, _of_planted):
        forms |= {f"{name}.npy": form for name, form in part(meta)}
    return forms


def table_rows(meta: Mapping[str, Any]) -> dict[str, int]:
    """How many rows each table of a data set has, by the name of its file."""
    counts = meta["counts"]
    held_out = {f"{name}.parquet": counts[name] for name in HELD_OUT}
    return {USERS: counts["users"], ITEMS: counts["items"], **held_out}


_Forms = Iterator[tuple[str, ArrayForm]]


def _of_training(meta: Mapping[str, Any]) -> _Forms:
    counts, scale = meta["counts"], RatingScale(**meta["scale"])
    sizes = {"user": counts["users"], "item": counts["items"]}
    edges = (counts["train"],)
    for side, other in (("user", "item"), ("item", "user")):
        nodes = sizes[side]
        name = f"{TRAIN}/by_{side}"
        yield f"{name}_offsets", ArrayForm(_INT64, (nodes + 1,), ends_at=edges[0])
        yield f"{name}_neighbours", ArrayForm(_INT32, edges, below=sizes[other])
        yield f"{name}_codes", ArrayForm(scale.code_dtype, edges, below=scale.levels)
        yield f"{TRAIN}/{side}_bias", ArrayForm(_FLOAT32, (nodes,))
        yield f"{TRAIN}/{side}_squares", ArrayForm(_FLOAT32, (nodes,))
    yield f"{TRAIN}/by_item_edges", ArrayForm(_INT64, edges, below=edges[0])
    if meta.get(TIMES):
        yield f"{TRAIN}/by_user_times", ArrayForm(_INT64, edges)


def _of_features(meta: Mapping[str, Any]) -> _Forms:
    counts = meta["counts"]
    for name, width in meta["features"].items():
        yield f"{FEATURES}/{_checked_name(name)}", ArrayForm(_FLOAT32, (counts["items"], width))
    if widths := meta.get(USER_FEATURES):
        yield USER_FEATURES, ArrayForm(_FLOAT32, (counts["users"], sum(widths.values())))


def _of_relations(meta: Mapping[str, Any]) -> _Forms:
    for name, described in meta.get(RELATIONS, {}).items():
        edges = described["edges"]
        sizes = described["sources"], described["destinations"]
        known = {USER_TYPE: meta["counts"]["users"], ITEM_TYPE: meta["counts"]["items"]}
        for end, size in zip(("source_type", "destination_type"), sizes, strict=True):
            if known.get(described[end], size) != size:
                raise DataError(
                    f"relation {name} has {size:,} nodes of type {described[end]}, the data set "
                    f"{known[described[end]]:,}; prepare the data set again"
                )
        for direction, (nodes, neighbours) in zip(DIRECTIONS, (sizes, sizes[::-1]), strict=True):
            place = f"{RELATIONS}/{_checked_name(name)}/{direction}"
            yield f"{place}_offsets", ArrayForm(_INT64, (nodes + 1,), ends_at=edges)
            yield f"{place}_neighbours", ArrayForm(_INT32, (edges,), below=neighbours)
            if described["weights"]:
                yield f"{place}_weights", ArrayForm(_FLOAT32, (edges,), least=0.0)
            if described["times"]:
                yield f"{place}_times", ArrayForm(_INT64, (edges,))


def _of_planted(meta: Mapping[str, Any]) -> _Forms:
    if PLANTED not in meta:
        return
    for name in PLANTED_ARRAYS:
        nodes = meta["counts"][f"{name[:4]}s"]
        shape = (nodes, None) if name.endswith("vectors") else (nodes,)
        yield f"{PLANTED}/{name}", ArrayForm(_FLOAT32, shape)


def _checked_name(name: str) -> str:
    if not schema.is_name(name):
        raise DataError(f"{name[:60]!r} cannot name a file of a data set; prepare it again")
    return name
