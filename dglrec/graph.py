"""Training ratings -> compact adjacency in both directions, and their DGL heterograph.

An *edge* is a training rating. Edges are numbered by user and, within a user, by item; this number
is the edge's id in both relations of the heterograph, so that an edge and its reverse share it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import Tensor

from dglrec.errors import UnusableEnvironmentError
from dglrec.kernels import ItemLists
from dglrec.relations import ITEM_TYPE as ITEM_TYPE
from dglrec.relations import USER_TYPE as USER_TYPE
from dglrec.relations import Edges, Relation
from dglrec.schema import RatingScale

if TYPE_CHECKING:
    import dgl

RATES = (USER_TYPE, "rates", ITEM_TYPE)
RATED_BY = (ITEM_TYPE, "rated_by", USER_TYPE)

_CODES_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Adjacency:
    """The in-edges of N nodes, grouped by node (compressed sparse rows).

    Attributes:
        offsets: int64 [N + 1]; node v's edges are at `offsets[v]:offsets[v + 1]`.
        neighbours: int32 [E]; the node at an edge's other end, ascending within a node.
        codes: uint8 or uint16 [E]; the edge's rating as a code of the rating scale.
    """

    offsets: npt.NDArray[np.int64]
    neighbours: npt.NDArray[np.int32]
    codes: npt.NDArray[Any]

    @property
    def num_nodes(self) -> int:
        """N, the number of nodes that have these in-edges."""
        return len(self.offsets) - 1

    @property
    def degrees(self) -> npt.NDArray[np.int64]:
        """int64 [N]: how many edges each node has."""
        return np.diff(self.offsets)

    @property
    def lists(self) -> ItemLists:
        """Each node's neighbours, without their ratings."""
        return ItemLists(self.offsets, self.neighbours)

    def of(self, node: int) -> slice:
        """The positions of a node's edges."""
        return slice(int(self.offsets[node]), int(self.offsets[node + 1]))

    def of_nodes(self, first: int, last: int) -> "Adjacency":
        """The edges of the nodes first..last-1."""
        low, high = int(self.offsets[first]), int(self.offsets[last])
        offsets = self.offsets[first : last + 1] - low
        return Adjacency(offsets, self.neighbours[low:high], self.codes[low:high])

    def followed_by(self, other: "Adjacency") -> "Adjacency":
        """These nodes, then those of another adjacency to the same neighbours."""
        return Adjacency(
            np.concatenate((self.offsets, self.offsets[-1] + other.offsets[1:])),
            np.concatenate((self.neighbours, other.neighbours)),
            np.concatenate((self.codes, other.codes)),
        )


@dataclass(frozen=True)
class EdgeTensors:
    """An `Adjacency` as tensors on a device.

    Attributes:
        offsets: int64 [N + 1].
        starts: int64 [N], the position of each node's first edge.
        counts: int64 [N], how many edges each node has.
        neighbours: int32 [E].
        codes: uint8 [E], or uint16 stored as int16, since torch cannot index uint16.
        levels: float32 [levels], the rating of each code.
    """

    offsets: Tensor
    starts: Tensor
    counts: Tensor
    neighbours: Tensor
    codes: Tensor
    levels: Tensor

    @staticmethod
    def of(adjacency: Adjacency, scale: RatingScale, device: torch.device) -> "EdgeTensors":
        """The tensors of an adjacency; on a CPU they share its memory."""
        offsets = torch.from_numpy(np.ascontiguousarray(adjacency.offsets)).to(device)
        codes = torch.from_numpy(np.ascontiguousarray(adjacency.codes))
        neighbours = torch.from_numpy(np.ascontiguousarray(adjacency.neighbours))
        levels = torch.from_numpy(scale.decode(np.arange(scale.levels)))
        return EdgeTensors(
            offsets,
            offsets[:-1],
            offsets.diff(),
            neighbours.to(device),
            (codes.view(torch.int16) if codes.dtype == torch.uint16 else codes).to(device),
            levels.to(device),
        )

    def ratings(self, edges: Tensor | slice) -> Tensor:
        """float32 [n]: the ratings of n edges, int64 [n] or a slice of them."""
        codes = self.codes[edges] if isinstance(edges, slice) else self.codes.index_select(0, edges)
        codes = codes.int()
        if self.codes.dtype == torch.int16:
            codes &= 0xFFFF
        return self.levels.index_select(0, codes)


@dataclass(frozen=True)
class EdgeTimes:
    """The times of the E ratings of an `EdgeTensors`.

    Attributes:
        times: int64 [E], by edge id.
        ids: int64 [E]; the id of the edge at each position; None if a position is the edge's id.
        unit: of ages: the mean time between a rating and its node's latest rating, so that ages are
            about 1 whatever unit the timestamps have.
    """

    times: Tensor
    ids: Tensor | None
    unit: float

    def edge_ids(self, positions: Tensor) -> Tensor:
        """int64 [n]: the ids of the edges at n positions."""
        return positions if self.ids is None else self.ids.index_select(0, positions)

    def ages(self, edges: Tensor, counts: Tensor) -> Tensor:
        """float32 [n]: how much earlier n edges are than the latest of their node's among them.

        Args:
            edges: int64 [n] positions, grouped by node.
            counts: int64 [D], how many edges each node has.
        """
        times = self.times.index_select(0, self.edge_ids(edges))
        owners = torch.repeat_interleave(counts, output_size=len(edges))
        latest = times.new_zeros(len(counts))
        latest.scatter_reduce_(0, owners, times, "amax", include_self=False)
        # In float64: the difference of times that are far apart may overflow int64.
        ages = latest.index_select(0, owners).double() - times.double()
        return (ages / self.unit).float()


@dataclass(frozen=True)
class RatingGraph:
    """All training ratings, by user and by item.

    Attributes:
        by_user: each user's ratings; an edge's id is its position here.
        by_item: each item's ratings.
        edges_by_item: int64 [E]; the id of the edge at each position of `by_item`.
        scale: the rating scale of the codes.
        times: int64 [E]; when each edge's rating was given, by edge id, in the unit of the source;
            None if that is not known.
    """

    by_user: Adjacency
    by_item: Adjacency
    edges_by_item: npt.NDArray[np.int64]
    scale: RatingScale
    times: npt.NDArray[np.int64] | None = None
    _on_devices: dict[torch.device, tuple[EdgeTensors, EdgeTensors]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _times_on_devices: dict[torch.device, tuple[EdgeTimes, EdgeTimes]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def on(self, device: torch.device) -> tuple[EdgeTensors, EdgeTensors]:
        """Both adjacencies, by user and by item, on a device; copied there only once."""
        if device not in self._on_devices:
            # The first caller may be in inference mode, while later callers compute gradients.
            with torch.inference_mode(False):
                self._on_devices[device] = (
                    EdgeTensors.of(self.by_user, self.scale, device),
                    EdgeTensors.of(self.by_item, self.scale, device),
                )
        return self._on_devices[device]

    def times_on(self, device: torch.device) -> tuple[EdgeTimes, EdgeTimes]:
        """The times of both adjacencies' edges, by user and by item; copied there only once.

        Raises:
            ValueError: the graph has no times.
        """
        if self.times is None:
            raise ValueError("the graph has no times")
        if device not in self._times_on_devices:
            with torch.inference_mode(False):  # as for `on`
                ids = torch.from_numpy(np.ascontiguousarray(self.edges_by_item)).to(device)
                times = torch.from_numpy(np.ascontiguousarray(self.times)).to(device)
                units = self.time_units
                self._times_on_devices[device] = (
                    EdgeTimes(times, None, units[0]),
                    EdgeTimes(times, ids, units[1]),
                )
        return self._times_on_devices[device]

    @cached_property
    def time_units(self) -> tuple[float, float]:
        """`EdgeTimes.unit` of users' and of items' edges.

        Raises:
            ValueError: the graph has no times.
        """
        if self.times is None:
            raise ValueError("the graph has no times")
        sums = [0.0, 0.0]
        for side, adjacency in enumerate((self.by_user, self.by_item)):
            for first, last in node_chunks(adjacency.offsets):
                low, high = int(adjacency.offsets[first]), int(adjacency.offsets[last])
                node_times = (
                    self.times[low:high] if not side else self.times[self.edges_by_item[low:high]]
                )
                counts = np.diff(adjacency.offsets[first : last + 1])
                counts = counts[counts > 0]
                if len(counts):
                    latest = np.maximum.reduceat(node_times, np.cumsum(counts) - counts)
                    ages = np.repeat(latest, counts).astype(np.float64) - node_times
                    sums[side] += float(ages.sum())
        of_users, of_items = (total / max(self.num_edges, 1) or 1.0 for total in sums)
        return of_users, of_items

    def last_times(self) -> npt.NDArray[np.int64]:
        """int64 [U]: when each user's last rating was given; 0 for users without ratings.

        Raises:
            ValueError: the graph has no times.
        """
        if self.times is None:
            raise ValueError("the graph has no times")
        rated = np.flatnonzero(self.by_user.degrees)
        latest = np.zeros(self.num_users, dtype=np.int64)
        if len(rated):
            latest[rated] = np.maximum.reduceat(self.times, self.by_user.offsets[rated])
        return latest

    def ranks_in_time(self) -> npt.NDArray[np.int32]:
        """int32 [E]: each edge's rank by time among its user's edges, from 0.

        Edges of the same time are in random order, the same at each call.

        Raises:
            ValueError: the graph has no times.
        """
        if self.times is None:
            raise ValueError("the graph has no times")
        ranks = np.empty(self.num_edges, dtype=np.int32)
        for first, last in node_chunks(self.by_user.offsets):
            offsets = self.by_user.offsets[first : last + 1]
            counts = np.diff(offsets)
            owners = np.repeat(np.arange(len(counts)), counts)
            # Ids follow items: with ties by id, the same items would always count as earlier.
            ties = np.random.default_rng(first).random(len(owners))
            order = np.lexsort((ties, self.times[offsets[0] : offsets[-1]], owners))
            # Owners ascend, so sorting keeps each edge among its user's.
            of_user = np.arange(len(order)) - np.repeat(offsets[:-1] - offsets[0], counts)
            ranks[offsets[0] + order] = of_user
        return ranks

    def where(self, device: torch.device) -> torch.device:
        """Where to read the edges for work on a device: there if they are, else on the CPU."""
        return device if device in self._on_devices else torch.device("cpu")

    @property
    def num_users(self) -> int:
        """U, including users without a training rating."""
        return self.by_user.num_nodes

    @property
    def num_items(self) -> int:
        """I, including items without a training rating."""
        return self.by_item.num_nodes

    @property
    def num_edges(self) -> int:
        """E, the number of training ratings."""
        return len(self.by_user.neighbours)

    @cached_property
    def level_counts(self) -> npt.NDArray[np.int64]:
        """int64 [levels]: how many training ratings take each value of the scale."""
        codes, counts = self.by_user.codes, np.zeros(self.scale.levels, dtype=np.int64)
        for first in range(0, len(codes), _CODES_AT_ONCE):  # bincount copies its input to int64
            part = codes[first : first + _CODES_AT_ONCE]
            counts += np.bincount(part, minlength=self.scale.levels)
        return counts


def build_graph(
    users: npt.NDArray[Any],
    items: npt.NDArray[Any],
    codes: npt.NDArray[Any],
    *,
    num_users: int,
    num_items: int,
    scale: RatingScale,
    times: npt.NDArray[np.int64] | None = None,
) -> RatingGraph:
    """Compact adjacency of E ratings, in time linear in E once they are grouped by user.

    Args:
        users: [E] user indices in any order; a (user, item) pair occurs once.
        items: [E] item indices.
        codes: [E] rating codes of `scale`.
        num_users: U, more than every user index.
        num_items: I, more than every item index.
        scale: the rating scale.
        times: [E] when the ratings were given; None if that is not known.
    """
    if len(users) and np.any(users[1:] < users[:-1]):
        order = np.argsort(users, kind="stable")
        users, items, codes = users[order], items[order], codes[order]
        times = None if times is None else times[order]
    offsets = np.zeros(num_users + 1, dtype=np.int64)
    np.cumsum(np.bincount(users, minlength=num_users), out=offsets[1:])

    # Two transpositions, a counting sort each, put each user's items in ascending order.
    shape = (num_users, num_items)
    grouped = sparse.csr_array((codes, np.asarray(items, dtype=np.int32), offsets), shape=shape)
    by_user = grouped.tocsc().tocsr()
    edge_ids = np.arange(len(users), dtype=np.int64)
    by_item = sparse.csr_array((edge_ids, by_user.indices, by_user.indptr), shape=shape).tocsc()
    codes_by_user = by_user.data.astype(scale.code_dtype, copy=False)
    if times is not None:
        # The same two transpositions again, since they move only one column of values.
        grouped = sparse.csr_array((times, grouped.indices, offsets), shape=shape)
        times = grouped.tocsc().tocsr().data
    return RatingGraph(
        by_user=Adjacency(
            by_user.indptr.astype(np.int64),
            by_user.indices.astype(np.int32, copy=False),
            codes_by_user,
        ),
        by_item=Adjacency(
            by_item.indptr.astype(np.int64),
            by_item.indices.astype(np.int32, copy=False),
            codes_by_user[by_item.data],
        ),
        edges_by_item=by_item.data,
        scale=scale,
        times=times,
    )


def group_by_user(
    users: npt.NDArray[Any],
    items: npt.NDArray[Any],
    codes: npt.NDArray[Any],
    *,
    num_users: int,
    num_items: int,
) -> Adjacency:
    """Each user's ratings, ordered by item, from E ratings in any order; see `build_graph`."""
    order = np.argsort(users.astype(np.int64) * num_items + items)
    offsets = np.zeros(num_users + 1, dtype=np.int64)
    np.cumsum(np.bincount(users, minlength=num_users), out=offsets[1:])
    return Adjacency(offsets, items[order].astype(np.int32, copy=False), codes[order])


def import_dgl() -> Any:
    """The module `dgl`, loaded at the first call: only its samplers and graphs need it.

    Raises:
        UnusableEnvironmentError: DGL is not installed, or does not load.
    """
    try:
        import dgl
    except (ImportError, OSError) as error:  # OSError: one of its native libraries is missing
        why = " ".join(str(error).split())
        raise UnusableEnvironmentError(
            "loader.kind=neighbor, cluster and heterographs need DGL, which cannot be loaded here "
            f'({type(error).__name__}: {why}): python -m pip install "dgl==1.1.3" packaging, '
            "or train with loader.kind=users, the default, which does without"
        ) from error
    return dgl


def to_heterograph(graph: RatingGraph, relations: Iterable[Relation] = ()) -> "dgl.DGLHeteroGraph":
    """The DGL heterograph ('user','rates','item') / ('item','rated_by','user') of all edges.

    Another relation `r` adds `r` and, in reverse, `rev_r`. An edge and its reverse share their id,
    and their `weight` and `time` if the relation has them.

    Node and edge ids are int64: with int32, the fused CPU path of DGL 1.1.3's `NeighborSampler`
    keeps its node mapping in an int64 tensor that C++ reads as int32, which corrupts every batch
    after the first and ends in a crash.

    Args:
        graph: the ratings.
        relations: further relations for the heterograph, with distinct names.

    Raises:
        ValueError: a relation has another number of nodes of a type than the ratings or another
            relation.
        UnusableEnvironmentError: DGL is not installed, or does not load.
    """
    dgl = import_dgl()
    relations = list(relations)
    by_user, by_item = graph.by_user, graph.by_item
    edge_ids = torch.arange(graph.num_edges)
    rates = (_int64(by_item.offsets), _int64(by_item.neighbours), _int64(graph.edges_by_item))
    rated_by = (_int64(by_user.offsets), _int64(by_user.neighbours), edge_ids)
    columns = {RATES: ("csc", rates), RATED_BY: ("csc", rated_by)}
    for relation in relations:
        ids = _int64(relation.backward_ids())
        columns[relation.edge_type] = ("csc", (*_columns(relation.backward), ids))
        ids = torch.arange(relation.num_edges)
        columns[relation.reverse_type] = ("csc", (*_columns(relation.forward), ids))
    heterograph = dgl.heterograph(
        columns, num_nodes_dict=_node_counts(graph, relations), idtype=torch.int64
    )
    if heterograph.idtype != torch.int64:
        raise AssertionError(f"the heterograph must be int64, and is {heterograph.idtype}")
    for relation in relations:
        for name, values in (
            ("weight", relation.forward.weights),
            ("time", relation.forward.times),
        ):
            if values is not None:
                for edge_type in (relation.edge_type, relation.reverse_type):
                    heterograph.edges[edge_type].data[name] = torch.from_numpy(np.asarray(values))
    return heterograph


def _node_counts(graph: RatingGraph, relations: Iterable[Relation]) -> dict[str, int]:
    """How many nodes each type has."""
    counts = {USER_TYPE: graph.num_users, ITEM_TYPE: graph.num_items}
    for relation in relations:
        for kind, count in (
            (relation.source_type, relation.num_sources),
            (relation.destination_type, relation.num_destinations),
        ):
            if counts.setdefault(kind, count) != count:
                raise ValueError(
                    f"relation {relation.name} has {count} nodes of type {kind}, where others have "
                    f"{counts[kind]}"
                )
    return counts


def _columns(edges: Edges) -> tuple[torch.Tensor, torch.Tensor]:
    return _int64(edges.offsets), _int64(edges.neighbours)


def node_chunks(offsets: npt.NDArray[np.int64], edges: int = 1 << 22) -> list[tuple[int, int]]:
    """Cut N nodes into ranges of about `edges` edges: a list of (first, one past the last)."""
    num_nodes = len(offsets) - 1
    chunks = []
    first = 0
    while first < num_nodes:
        last = int(np.searchsorted(offsets, offsets[first] + edges, side="right")) - 1
        last = min(max(last, first + 1), num_nodes)
        chunks.append((first, last))
        first = last
    return chunks


def _int64(array: npt.NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(np.asarray(array, dtype=np.int64))
