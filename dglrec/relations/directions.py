"""`Direction`: a relation as the nodes at one end of its edges read it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dglrec.relations.relation import ITEM_TYPE, REVERSE_PREFIX, USER_TYPE, Edges, Relation


@dataclass(frozen=True)
class Direction:
    """The edges of a relation as they lead to users or items, which read their neighbours.

    Attributes:
        name: the relation's name; with `rev_` before it where its sources read its destinations.
        source_type: the type of the neighbours: `user`, `item` or the name of an attribute.
        destination_type: `user` or `item`.
        num_sources: how many nodes the source type has.
        edges: of each destination.
    """

    name: str
    source_type: str
    destination_type: str
    num_sources: int
    edges: Edges

    @property
    def reads_labels(self) -> bool:
        """Whether its neighbours are an attribute's labels."""
        return self.source_type not in (USER_TYPE, ITEM_TYPE)

    @property
    def nbytes(self) -> int:
        """The size of its arrays in bytes."""
        arrays = (self.edges.offsets, self.edges.neighbours, self.edges.weights)
        return sum(array.nbytes for array in arrays if array is not None)


def directions_of(relations: Sequence[Relation]) -> tuple[Direction, ...]:
    """Both directions of relations, except those that end in labels, which read nothing.

    A relation that is `one_way` has only the direction in which its destinations read.

    >>> from dglrec.relations import label_attribute
    >>> kind = label_attribute("type", "item", [["TV"], ["OVA"]], np.array([True, True]))
    >>> (one,) = directions_of([kind.relation])
    >>> one.name, one.source_type, one.destination_type
    ('rev_has_type', 'type', 'item')
    """
    found = []
    for relation in relations:
        forwards = (
            relation.name,
            relation.source_type,
            relation.destination_type,
            relation.num_sources,
            relation.backward,
        )
        backwards = (
            f"{REVERSE_PREFIX}{relation.name}",
            relation.destination_type,
            relation.source_type,
            relation.num_destinations,
            relation.forward,
        )
        found += [
            Direction(*parts)
            for parts in ((forwards,) if relation.one_way else (forwards, backwards))
        ]
    return tuple(
        direction for direction in found if direction.destination_type in (USER_TYPE, ITEM_TYPE)
    )


@dataclass(frozen=True)
class DirectionTensors:
    """The edges of a `Direction` as tensors on a device.

    Attributes:
        direction: whose edges they are.
        starts: int64 [N], the position of each destination's first edge.
        counts: int64 [N], how many edges each destination has.
        neighbours: int32 [E].
        weights: float32 [E]; None if edges have no weights.
    """

    direction: Direction
    starts: Tensor
    counts: Tensor
    neighbours: Tensor
    weights: Tensor | None

    @staticmethod
    def of(direction: Direction, device: torch.device) -> "DirectionTensors":
        """The tensors of a direction; on a CPU they share its memory."""
        edges = direction.edges
        offsets = torch.from_numpy(np.ascontiguousarray(edges.offsets)).to(device)
        weights = None
        if edges.weights is not None:
            weights = torch.from_numpy(np.ascontiguousarray(edges.weights)).to(device)
        return DirectionTensors(
            direction,
            offsets[:-1],
            offsets.diff(),
            torch.from_numpy(np.ascontiguousarray(edges.neighbours)).to(device),
            weights,
        )

    def shares(self, edges: Tensor, counts: Tensor) -> Tensor:
        """float32 [K]: the weights of K edges, over the mean weight of each destination's edges.

        So the mean of the neighbours' messages times these shares is their weighted mean. The
        shares are all 1 if edges have no weights, and 0 if all weights of a destination are 0.

        Args:
            edges: int64 [K] positions, grouped by destination.
            counts: int64 [D] how many edges each destination has.
        """
        if self.weights is None:
            return torch.ones(len(edges), device=edges.device)
        weights = self.weights.index_select(0, edges)
        owners = torch.repeat_interleave(counts, output_size=len(edges))
        sums = weights.new_zeros(len(counts), dtype=torch.float64)
        sums.index_add_(0, owners, weights.double())
        means = (sums / counts.clamp(min=1)).clamp(min=torch.finfo(torch.float32).tiny)
        return (weights / means.index_select(0, owners)).float()

    def fixed_shares(self, edges: Tensor, there: Tensor) -> Tensor:
        """float32 [D, f]: as `shares`, for f edges of each destination; 0 for absent edges.

        Args:
            edges: int64 [D, f] positions.
            there: bool [D, f], whether an edge is there.
        """
        if self.weights is None:
            return there.float()
        weights = self.weights.index_select(0, edges.flatten()).view_as(there) * there
        means = weights.double().sum(1) / there.sum(1).clamp(min=1)
        return (weights / means.clamp(min=torch.finfo(torch.float32).tiny).unsqueeze(1)).float()
