"""Relations in a prepared data set: `relations/<name>/*.npy`, and their entry in `dataset.json`."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dglrec import schema
from dglrec.errors import DataError
from dglrec.files import save_array
from dglrec.relations import Edges, ReadRelation, Relation

RELATIONS = "relations"
"""The folder of the relations, and their entry in `dataset.json`."""

_DTYPES: dict[str, np.dtype[Any]] = {
    "offsets": np.dtype(np.int64),
    "neighbours": np.dtype(np.int32),
    "weights": np.dtype(np.float32),
    "times": np.dtype(np.int64),
}
_DIRECTIONS = ("forward", "backward")

ReadArray = Callable[[str, str, np.dtype[Any], int], npt.NDArray[Any]]
"""Folder, name, dtype and number of dimensions -> the array of the data set, memory-mapped."""


def write_relations(folder: Path, relations: Mapping[str, ReadRelation]) -> dict[str, Any]:
    """Write relations into the folder of a data set.

    Returns:
        What `dataset.json` holds under `RELATIONS`: types, numbers of nodes and edges, counts of
        what was left out.
    """
    described = {}
    for name, read in relations.items():
        relation = read.relation
        (folder / RELATIONS / name).mkdir(parents=True)
        for direction in _DIRECTIONS:
            for part, array in _arrays(getattr(relation, direction)):
                save_array(folder / RELATIONS / name / f"{direction}_{part}.npy", array)
        described[name] = {
            "source_type": relation.source_type,
            "destination_type": relation.destination_type,
            "sources": relation.num_sources,
            "destinations": relation.num_destinations,
            "edges": relation.num_edges,
            "weights": relation.forward.weights is not None,
            "times": relation.forward.times is not None,
            "counts": read.counts.to_dict(),
        }
    return described


def read_relations(path: Path, meta: dict[str, Any], read_array: ReadArray) -> dict[str, Relation]:
    """The relations of a data set, by name; none where it has none.

    Args:
        path: the data set's folder, for messages.
        meta: what `dataset.json` says.
        read_array: reads an array of the data set.

    Raises:
        DataError: a file is missing or damaged, or does not fit what `dataset.json` says.
    """
    relations = {}
    for name, described in meta.get(RELATIONS, {}).items():
        if not schema.is_name(name):
            raise DataError(f"{path}: {name[:60]!r} cannot name a relation; prepare it again")
        forward, backward = (
            _read_edges(path, name, direction, described, described[nodes], read_array)
            for direction, nodes in zip(_DIRECTIONS, ("sources", "destinations"), strict=True)
        )
        relations[name] = Relation(
            name, described["source_type"], described["destination_type"], forward, backward
        )
    return relations


def _read_edges(
    path: Path,
    name: str,
    direction: str,
    described: dict[str, Any],
    num_nodes: int,
    read_array: ReadArray,
) -> Edges:
    parts = ["offsets", "neighbours"]
    parts += [part for part in ("weights", "times") if described[part]]
    arrays = {
        part: read_array(f"{RELATIONS}/{name}", f"{direction}_{part}", _DTYPES[part], 1)
        for part in parts
    }
    offsets, edges = arrays["offsets"], described["edges"]
    wanted = {
        "offsets": (len(offsets), num_nodes + 1),
        **{part: (len(arrays[part]), edges) for part in parts[1:]},
    }
    if len(offsets):
        wanted["first offset"] = (int(offsets[0]), 0)
        wanted["last offset"] = (int(offsets[-1]), edges)
        wanted["whether offsets ascend"] = (bool((offsets[1:] >= offsets[:-1]).all()), True)
    for what, (found, expected) in wanted.items():
        if found != expected:
            raise DataError(
                f"{path / RELATIONS / name}: {direction} {what} is {found}, and should be "
                f"{expected}; the data set is damaged, prepare it again"
            )
    return Edges(**arrays)


def _arrays(edges: Edges) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    for part in _DTYPES:
        array = getattr(edges, part)
        if array is not None:
            yield part, array
