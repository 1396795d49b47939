"""Relations in a prepared data set: `relations/<name>/*.npy`, and their entry in `dataset.json`."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt

from dglrec.dataset.layout import ReadArray
from dglrec.files import save_array
from dglrec.relations import Edges, ReadRelation, Relation

RELATIONS = "relations"
"""The folder of the relations, and their entry in `dataset.json`."""

DIRECTIONS = ("forward", "backward")

_ALWAYS, _PERHAPS = ("offsets", "neighbours"), ("weights", "times")


def write_relations(folder: Path, relations: Mapping[str, ReadRelation]) -> dict[str, Any]:
    """Write relations into the folder of a data set.

    Returns:
        What `dataset.json` holds under `RELATIONS`: types, numbers of nodes and edges, and counts
        of the edges that were left out.
    """
    described = {}
    for name, read in relations.items():
        relation = read.relation
        (folder / RELATIONS / name).mkdir(parents=True)
        for direction in DIRECTIONS:
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


def read_relations(meta: dict[str, Any], read_array: ReadArray) -> dict[str, Relation]:
    """The relations of a data set, by name; empty if it has none.

    Args:
        meta: the content of `dataset.json`.
        read_array: reads an array of the data set.

    Raises:
        DataError: a file is damaged.
    """
    relations = {}
    for name, described in meta.get(RELATIONS, {}).items():
        parts = [*_ALWAYS, *(part for part in _PERHAPS if described[part])]
        forward, backward = (
            Edges(
                **{part: read_array(f"{RELATIONS}/{name}/{direction}_{part}.npy") for part in parts}
            )
            for direction in DIRECTIONS
        )
        relations[name] = Relation(
            name, described["source_type"], described["destination_type"], forward, backward
        )
    return relations


def _arrays(edges: Edges) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    for part in (*_ALWAYS, *_PERHAPS):
        array = getattr(edges, part)
        if array is not None:
            yield part, array
