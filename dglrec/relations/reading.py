"""A file of edges -> a `Relation` between known nodes, and counts of the edges left out."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from dglrec import schema
from dglrec.errors import DataError
from dglrec.ids import IdMap
from dglrec.ingest import (
    EdgeColumns,
    Given,
    find_edge_columns,
    last_of_each_pair,
    stream_edges,
)
from dglrec.relations.relation import (
    ITEM_TYPE,
    USER_TYPE,
    Relation,
    build_relation,
    check_relation_name,
)

_ID_NAMES: dict[str, tuple[str, ...]] = {
    USER_TYPE: (schema.USER_ID, "userId"),
    ITEM_TYPE: (schema.ITEM_ID, "anime_id", "movieId", "MAL_ID"),
}
_ANOTHER_UNIT = 100.0  # times that differ from the cut by this factor must be in another unit


@dataclass(frozen=True)
class EdgeCounts:
    """How many rows a file of edges had, and how many were left out.

    Attributes:
        rows: all rows.
        unknown: edges with a user, an item or a label that the data set does not have.
        self_loops: edges from a node to itself.
        later: edges later than the cut of a split by time.
        held_out: edges between a user and an item that are a validation or a test row.
        repeated: edges that are there again further down, or later if there are times.
    """

    rows: int = 0
    unknown: int = 0
    self_loops: int = 0
    later: int = 0
    held_out: int = 0
    repeated: int = 0

    def to_dict(self) -> dict[str, int]:
        """The counts by name, for JSON."""
        return asdict(self)

    def left_out(self) -> str:
        """How many edges were left out and why, in words; "" if none were."""
        reasons = {
            "of unknown ids": self.unknown,
            "from a node to itself": self.self_loops,
            "later than the cut": self.later,
            "that are held-out rows": self.held_out,
            "that repeat another": self.repeated,
        }
        said = [f"{count:,} {reason}" for reason, count in reasons.items() if count]
        return f"; left out: {', '.join(said)}" if said else ""


@dataclass(frozen=True)
class ReadRelation:
    """A relation, and what was counted while its file was read.

    Attributes:
        relation: the edges that were kept.
        counts: how many edges the file had, and how many were left out.
        said: lines to log.
    """

    relation: Relation
    counts: EdgeCounts
    said: tuple[str, ...]


@dataclass(frozen=True)
class HeldOutPairs:
    """The pairs of user and item of validation and test rows.

    Attributes:
        users: [n] indices.
        items: [n] indices.
        num_items: more than every item's index.
    """

    users: npt.NDArray[np.int32]
    items: npt.NDArray[np.int32]
    num_items: int

    def contain(
        self, users: npt.NDArray[np.int32], items: npt.NDArray[np.int32]
    ) -> npt.NDArray[np.bool_]:
        """Whether each of m pairs is one of these; bool [m]."""
        held_out = self.users.astype(np.int64) * self.num_items + self.items
        return np.isin(users.astype(np.int64) * self.num_items + items, held_out)


def read_relation(
    name: str,
    file: Given,
    nodes: Mapping[str, IdMap],
    *,
    held_out: HeldOutPairs,
    cut: int | None = None,
) -> ReadRelation:
    """Read the edges of a relation.

    These edges are left out and counted: edges of unknown nodes, from a node to itself, later than
    the cut, and between a user and an item that are a held-out row. Of edges that repeat a pair the
    last is kept: the latest if there are timestamps, else the edge furthest down.

    Args:
        name: of the relation.
        file: CSV (perhaps `.gz`) with a header, `.parquet`, or a frame; two columns of ids, and
            perhaps `weight` and `timestamp`.
        nodes: node type -> its ids, for `user`, `item` and every attribute.
        held_out: the rows that training must not see.
        cut: the time of the latest training row, if time decides the split.

    Raises:
        UsageError: the name is not allowed.
        DataError: the file is missing or bad, or no edge remains.
    """
    check_relation_name(name)
    columns = find_edge_columns(file, {kind: _id_names(kind) for kind in nodes})
    sources, destinations, weights, times = _read_edges(file, columns, nodes)
    rows = len(sources)
    if not rows:
        raise DataError(f"{file}: holds no row")
    if cut is not None and times is not None:
        _refuse_another_unit(times, cut, file)

    reasons: dict[str, int] = {}
    keep = np.ones(rows, dtype=np.bool_)

    def leave_out(reason: str, bad: npt.NDArray[np.bool_]) -> None:
        reasons[reason] = int(np.count_nonzero(keep & bad))
        keep[bad] = False

    leave_out("unknown", (sources < 0) | (destinations < 0))
    if columns.source_type == columns.destination_type:
        leave_out("self_loops", sources == destinations)
    if cut is not None and times is not None:
        leave_out("later", times > cut)
    pair = _user_and_item(columns, sources, destinations)
    if pair is not None:
        leave_out("held_out", held_out.contain(*pair))
    kept = np.flatnonzero(keep)
    last = last_of_each_pair(
        sources[kept],
        destinations[kept],
        len(nodes[columns.destination_type]),
        None if times is None else times[kept],
    )
    reasons["repeated"] = len(kept) - int(np.count_nonzero(last))
    kept = kept[last]

    counts = EdgeCounts(rows, **reasons)
    ends = f"{columns.source_type} -> {columns.destination_type}"
    if not len(kept):
        raise DataError(f"{file}: relation {name} ({ends}) has no edge{counts.left_out()}")
    relation = build_relation(
        name,
        source_type=columns.source_type,
        destination_type=columns.destination_type,
        sources=sources[kept],
        destinations=destinations[kept],
        num_sources=len(nodes[columns.source_type]),
        num_destinations=len(nodes[columns.destination_type]),
        weights=None if weights is None else weights[kept],
        times=None if times is None else times[kept],
    )
    said = [f"{file}: relation {name} ({ends}) has {len(kept):,} edges{counts.left_out()}"]
    if columns.unread:
        said.append(f"{file}: not read: {', '.join(columns.unread[:20])}")
    if cut is not None and times is None:
        said.append(
            f"{file}: no column {schema.TIMESTAMP}, so all edges are kept; edges of relation "
            f"{name} may be later than the cut of --split time"
        )
    return ReadRelation(relation, counts, tuple(said))


def _id_names(node_type: str) -> Sequence[str]:
    """The names that a column of a type's ids may have."""
    return _ID_NAMES.get(node_type, (node_type,))


def _read_edges(
    file: Given, columns: EdgeColumns, nodes: Mapping[str, IdMap]
) -> tuple[
    npt.NDArray[np.int32],
    npt.NDArray[np.int32],
    npt.NDArray[np.float32] | None,
    npt.NDArray[np.int64] | None,
]:
    """[n] sources and destinations, -1 where unknown; [n] weights and times if there are any."""
    parts: dict[str, list[npt.NDArray[np.generic]]] = {
        name: [] for name in (schema.SOURCE, schema.DESTINATION, *columns.optional)
    }
    for stretch in stream_edges(file, columns):
        of_source = nodes[columns.source_type].encode(stretch.table.column(schema.SOURCE))
        of_end = nodes[columns.destination_type].encode(stretch.table.column(schema.DESTINATION))
        parts[schema.SOURCE].append(of_source)
        parts[schema.DESTINATION].append(of_end)
        for name in columns.optional:
            parts[name].append(stretch.table.column(name).to_numpy())
    dtypes = {schema.WEIGHT: np.float32, schema.TIMESTAMP: np.int64}
    whole = {
        name: np.concatenate([np.empty(0, dtypes.get(name, np.int32)), *arrays])
        for name, arrays in parts.items()
    }
    return (
        whole[schema.SOURCE],
        whole[schema.DESTINATION],
        whole.get(schema.WEIGHT),
        whole.get(schema.TIMESTAMP),
    )


def _user_and_item(
    columns: EdgeColumns, sources: npt.NDArray[np.int32], destinations: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]] | None:
    """The users and the items of edges between users and items; None for other edges."""
    ends = {columns.source_type: sources, columns.destination_type: destinations}
    return (ends[USER_TYPE], ends[ITEM_TYPE]) if set(ends) == {USER_TYPE, ITEM_TYPE} else None


def _refuse_another_unit(times: npt.NDArray[np.int64], cut: int, file: Given) -> None:
    """Refuse times that the cut cannot be compared with.

    Raises:
        DataError: the times have another unit than the ratings' times.
    """
    typical = float(np.median(np.abs(times.astype(np.float64))))
    ratio = max(typical, 1.0) / max(abs(float(cut)), 1.0)
    if not 1 / _ANOTHER_UNIT < ratio < _ANOTHER_UNIT:
        raise DataError(
            f"{file}: timestamps about {typical:.0f}, and training ends at {cut}: give both in the "
            "same unit, since --split time keeps no edge later than that"
        )
