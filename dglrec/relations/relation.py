"""`Relation`: edges of one kind between two node types, in both directions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from dglrec import schema
from dglrec.errors import UsageError
from dglrec.places import Place, place_of

USER_TYPE = "user"
ITEM_TYPE = "item"
PREDICTED = "rates"
ATTRIBUTE_PREFIX = "has_"
REVERSE_PREFIX = "rev_"

DERIVED_NAMES = ("similar", "visited_with", "next", "agreeing_users")
"""The relations that are derived from training rows; see `dglrec.derived`."""

DERIVED_AMONG_USERS = ("agreeing_users",)
"""The derived relations from users to users."""

_RESERVED = (PREDICTED, "rated_by", *DERIVED_NAMES)
_RESERVED_PREFIXES = (ATTRIBUTE_PREFIX, REVERSE_PREFIX)


@dataclass(frozen=True)
class Edges:
    """The edges of N nodes, grouped by node (compressed sparse rows).

    Attributes:
        offsets: int64 [N + 1]; node v's edges are at `offsets[v]:offsets[v + 1]`.
        neighbours: int32 [E]; the node at an edge's other end, ascending within a node.
        weights: float32 [E], 0 or more; None if edges have no weights.
        times: int64 [E], in the unit of the file that they came from (dates and times:
            microseconds); None if edges have no times.
    """

    offsets: npt.NDArray[np.int64]
    neighbours: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32] | None = None
    times: npt.NDArray[np.int64] | None = None

    @property
    def num_nodes(self) -> int:
        """N, including nodes without an edge."""
        return len(self.offsets) - 1

    @property
    def num_edges(self) -> int:
        """E, the number of edges."""
        return len(self.neighbours)

    @property
    def degrees(self) -> npt.NDArray[np.int64]:
        """int64 [N]: how many edges each node has."""
        return np.diff(self.offsets)

    def of(self, node: int) -> slice:
        """The positions of a node's edges."""
        return slice(int(self.offsets[node]), int(self.offsets[node + 1]))


@dataclass(frozen=True)
class Relation:
    """Directed edges of one kind, from nodes of a type to nodes of another or the same type.

    An edge occurs at most once, and never leads from a node to itself.

    Attributes:
        name: see `check_relation_name`.
        source_type: `user`, `item` or the name of an attribute.
        destination_type: likewise.
        forward: the edges of each source; neighbours are destinations. An edge's id is its
            position here.
        backward: the same edges, of each destination; neighbours are sources.
        one_way: whether only destinations get messages along the edges; so if the reverse of each
            edge is an edge, too.
    """

    name: str
    source_type: str
    destination_type: str
    forward: Edges
    backward: Edges
    one_way: bool = False

    @property
    def num_sources(self) -> int:
        """How many nodes of the source type there are, with edges or without."""
        return self.forward.num_nodes

    @property
    def num_destinations(self) -> int:
        """How many nodes of the destination type there are, with edges or without."""
        return self.backward.num_nodes

    @property
    def num_edges(self) -> int:
        """E, the number of edges."""
        return self.forward.num_edges

    @property
    def edge_type(self) -> tuple[str, str, str]:
        """Source type, name, destination type: the edges' type in a heterograph."""
        return self.source_type, self.name, self.destination_type

    @property
    def reverse_type(self) -> tuple[str, str, str]:
        """The type, in a heterograph, of the same edges in reverse."""
        return self.destination_type, f"{REVERSE_PREFIX}{self.name}", self.source_type

    def ends(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """int64 [E] sources and int64 [E] destinations of the edges, in the order of their ids."""
        sources = np.repeat(np.arange(self.num_sources), self.forward.degrees)
        return sources, self.forward.neighbours.astype(np.int64)

    def backward_ids(self) -> npt.NDArray[np.int64]:
        """int64 [E]: the id of the edge at each position of `backward`."""
        # `backward` orders a destination's edges by source, and so do ids.
        return np.argsort(self.forward.neighbours, kind="stable")


def build_relation(
    name: str,
    *,
    source_type: str,
    destination_type: str,
    sources: npt.NDArray[np.int32],
    destinations: npt.NDArray[np.int32],
    num_sources: int,
    num_destinations: int,
    weights: npt.NDArray[np.float32] | None = None,
    times: npt.NDArray[np.int64] | None = None,
) -> Relation:
    """Compact adjacency, in both directions, of E edges.

    Args:
        name: of the relation.
        source_type: the node type that edges come from.
        destination_type: the node type that edges lead to.
        sources: [E] indices in any order; a (source, destination) pair occurs once.
        destinations: [E] indices.
        num_sources: more than every source.
        num_destinations: more than every destination.
        weights: [E].
        times: [E].

    >>> trusts = build_relation(
    ...     "trusts", source_type="user", destination_type="user", num_sources=3,
    ...     num_destinations=3, sources=np.array([2, 0, 2], np.int32),
    ...     destinations=np.array([1, 1, 0], np.int32))
    >>> trusts.forward.offsets.tolist(), trusts.forward.neighbours.tolist()
    ([0, 1, 1, 3], [1, 0, 1])
    >>> trusts.backward.offsets.tolist(), trusts.backward.neighbours.tolist()
    ([0, 1, 3, 3], [2, 0, 2])
    """
    # The sparse matrix holds each row's number as a value: converting it sorts the rows.
    rows = np.arange(len(sources), dtype=np.int64)
    shape = (num_sources, num_destinations)
    by_source = sparse.coo_array((rows, (sources, destinations)), shape=shape).tocsr()

    def edges(matrix: Any) -> Edges:
        return Edges(
            matrix.indptr.astype(np.int64, copy=False),
            matrix.indices.astype(np.int32, copy=False),
            None if weights is None else weights[matrix.data].astype(np.float32, copy=False),
            None if times is None else times[matrix.data].astype(np.int64, copy=False),
        )

    return Relation(
        name,
        source_type,
        destination_type,
        forward=edges(by_source),
        backward=edges(by_source.tocsc()),
    )


def check_relation_name(name: str) -> None:
    """Refuse a name that a relation cannot have.

    Raises:
        UsageError: the name has other characters, or is reserved.
    """
    if not schema.is_name(name):
        raise UsageError(
            f"--relation {name[:60]!r}: a relation's name begins with a letter, and has only "
            "lowercase letters, digits and _, 60 characters at most"
        )
    if name in _RESERVED or name.startswith(_RESERVED_PREFIXES):
        raise UsageError(
            f"--relation {name}: {', '.join(_RESERVED)} and names that begin with "
            f"{' or '.join(_RESERVED_PREFIXES)} are taken; choose another name"
        )


def parse_relations(texts: Sequence[str]) -> dict[str, Place]:
    """Read `NAME=FILE`, as on a command line; the file may be a URI.

    >>> parse_relations(["trusts=data/trust.csv"])
    {'trusts': PosixPath('data/trust.csv')}

    Raises:
        UsageError: a text has another form, a name is not allowed or given twice.
    """
    files: dict[str, Place] = {}
    for text in texts:
        name, equals, file = text.partition("=")
        if not (equals and file):
            raise UsageError(f"--relation {text!r}: write NAME=FILE")
        check_relation_name(name)
        if name in files:
            raise UsageError(
                f"--relation {name}: two files, {files[name]} and {place_of(file)}; join them, or "
                "choose two names"
            )
        files[name] = place_of(file)
    return files
