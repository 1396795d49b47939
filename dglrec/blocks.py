"""The inputs of a model: blocks of edges, and batches of target edges with their neighbourhoods.

Loaders make them and models read them, so that neither has to know the other.
"""

from dataclasses import dataclass, fields
from typing import Any, TypeVar

import torch
from torch import Tensor

_Movable = TypeVar("_Movable", bound="_OnDevice")


class _OnDevice:
    """A frozen dataclass of tensors (and of such dataclasses) that moves between devices whole."""

    def to(self: _Movable, device: torch.device) -> _Movable:
        """A copy on another device; the batch itself if it is there already."""
        return type(self)(**{f.name: _move(getattr(self, f.name), device) for f in fields(self)})  # type: ignore[arg-type]


def _move(value: Any, device: torch.device) -> Any:
    if isinstance(value, (Tensor, _OnDevice)):
        return value.to(device)
    if isinstance(value, tuple):
        return tuple(_move(part, device) for part in value)
    return value


@dataclass(frozen=True)
class Block(_OnDevice):
    """The sampled in-edges of D destination nodes of one type, from S source nodes of the other.

    Attributes:
        offsets: int64 [D + 1]; destination d's edges are at `offsets[d]:offsets[d + 1]`.
        neighbours: int32 or int64 [K]; each edge's source, 0..S-1.
        residuals: float32 [K]; each edge's rating less mean and biases.
        degrees: float32 [D]; edges of each destination before sampling.
        source_degrees: float32 [S]; edges of each source before sampling; None if no layer uses
            them.
        turned: the same edges ordered by source: int64 [S + 1] where each source's edges start, and
            int32 or int64 [K] their destinations; None if they were not made. With them, gradients
            of sources are gathered instead of added up.
        present: float32 [K]; 1 for an edge, 0 for an absent one: padding of a fixed shape, or a
            target. The residual of an absent edge is 0. None if all edges are present.
        present_counts: float32 [D]; present edges of each destination; with `present`.
        fanout: how many edges each destination has room for, if that is the same for all.
        ages: float32 [K]; how much earlier each edge is than the latest of its destination's edges
            here, in `EdgeTimes.unit`; None if no layer uses them.
        weights: float32 [K]; how many of its destination's edges each edge stands for. A sum over
            edges is then weighted by these, and a mean is such a sum over `degrees`; the
            expectations of both are those over all edges (Horvitz and Thompson, JASA 47, 1952).
            None if the mean of a sample stands for that of all edges.
    """

    offsets: Tensor
    neighbours: Tensor
    residuals: Tensor
    degrees: Tensor
    source_degrees: Tensor | None = None
    turned: tuple[Tensor, Tensor] | None = None
    present: Tensor | None = None
    present_counts: Tensor | None = None
    fanout: int | None = None
    ages: Tensor | None = None
    weights: Tensor | None = None

    @property
    def counts(self) -> Tensor:
        """int64 or float32 [D]; edges of each destination, or the sums of their `weights`."""
        if self.weights is not None:
            return self.degrees
        return self.offsets.diff() if self.present_counts is None else self.present_counts

    @property
    def num_destinations(self) -> int:
        """D."""
        return len(self.offsets) - 1


@dataclass(frozen=True)
class WeightedEdges(_OnDevice):
    """The weighted in-edges of N nodes from nodes of the same type: a graph shift operator.

    Attributes:
        offsets: int64 [N + 1]; node v's edges are at `offsets[v]:offsets[v + 1]`.
        neighbours: int32 or int64 [E]; each edge's source.
        weights: float32 [E].
    """

    offsets: Tensor
    neighbours: Tensor
    weights: Tensor

    @property
    def num_nodes(self) -> int:
        """N."""
        return len(self.offsets) - 1


@dataclass(frozen=True)
class RelationBlock(_OnDevice):
    """The sampled in-edges of D users or items along one direction of a relation.

    Attributes:
        name: of the direction; see `relations.Direction`.
        destination_type: `user` or `item`.
        source_type: `user`, `item`, or an attribute, whose labels are the neighbours.
        block: the edges. Its neighbours are positions among the users or items that the layer
            reads, or indices of labels; in place of residuals it has weights, whose mean over each
            destination's edges is 1.
    """

    name: str
    destination_type: str
    source_type: str
    block: Block


@dataclass(frozen=True)
class LayerBlocks(_OnDevice):
    """The blocks of a layer, one for each direction.

    A layer's destination nodes are the first of its source nodes of the same type, so
    `sources[:num_destinations]` are a node's own values.

    Attributes:
        to_users: users as destinations, items as sources.
        to_items: items as destinations, users as sources.
        others: the same destinations along relations other than that of ratings.
    """

    to_users: Block
    to_items: Block
    others: tuple[RelationBlock, ...] = ()


@dataclass(frozen=True)
class Pool(_OnDevice):
    """M items that a step drew, each once, as negatives of its positives.

    In a fixed shape, the drawn items come first, and at least one place of padding follows: there,
    an item is I, the number of items, a row is arbitrary, and the log of the weight is -inf.

    Attributes:
        items: int64 [M] indices of the data set, ascending.
        rows: int64 [M] the same items as positions among the last layer's destinations.
        log_weights: float32 [M]; log of how often each was drawn, divided by how often a draw is
            expected to give it if the loss corrects for that; else only of how often it was drawn.
        count: int64 scalar, how many of them are not padding; None if there is no padding.
    """

    items: Tensor
    rows: Tensor
    log_weights: Tensor
    count: Tensor | None = None


@dataclass(frozen=True)
class EdgeBatch(_OnDevice):
    """B target edges and the neighbourhoods from which they are predicted.

    Attributes:
        user_nodes: int64 [N_u]; the users that the first layer reads, as indices of the data set.
        item_nodes: int64 [N_i]; the items likewise.
        user_inputs: float32 [N_u, 3]; see `Biases.inputs`.
        item_inputs: float32 [N_i, 3].
        layers: an entry for each layer, the first layer first.
        users: int64 [B]; each target's user, as a position among the last layer's destinations.
        items: int32 or int64 [B]; each target's item likewise; positions past the last destination
            are `unseen` items.
        ratings: float32 [B]; the ratings to be predicted.
        baselines: float32 [B]; mean + user bias + item bias, fitted as if no target were known;
            without the bias of an unseen item.
        edges: int64 [B]; the targets' edge ids.
        unseen: int64 [C]; items of some targets, which are predicted as if nobody had rated the
            item: only from its features.
        items_are_shared: whether `item_nodes` are this process's share of all items, and blocks and
            targets name items by their number in the data set: processes exchange the results for
            their shares.
        every_item: whether the last layer's sources and destinations of type item are all items
            there are, in their order (of all shares together, if they are shared).
        pool: negatives for learning lists; None if none were asked for.
        present: float32 [B]; 1 for a target, 0 for padding of a fixed shape; None if all are
            targets. A batch with it has the same shapes as all others of its epoch, and code that
            reads it must not derive shapes from values: it would have to wait for the device.
        num_present: how many targets there are; None if there is no padding.
        unseen_others: the labels of `unseen` items, as blocks, the same in each layer.
        rated: int64 [D + 1] and [R]: the items that the last layer's destination users have rated,
            targets included, grouped by user; None if they must be looked up.
        weights: float32 [B]; how many ratings each target stands for; None if 1 each.
        size: the divisor of the sum of the targets' weighted costs; None for their number. If
            chance decides which ratings are targets, it is a number that chance does not change, so
            that the expected cost of a step is that of all ratings.
    """

    user_nodes: Tensor
    item_nodes: Tensor
    user_inputs: Tensor
    item_inputs: Tensor
    layers: tuple[LayerBlocks, ...]
    users: Tensor
    items: Tensor
    ratings: Tensor
    baselines: Tensor
    edges: Tensor
    unseen: Tensor
    items_are_shared: bool = False
    every_item: bool = False
    pool: Pool | None = None
    present: Tensor | None = None
    num_present: int | None = None
    unseen_others: tuple[RelationBlock, ...] = ()
    rated: tuple[Tensor, Tensor] | None = None
    weights: Tensor | None = None
    size: float | None = None

    @property
    def divisor(self) -> float:
        """The divisor of the sum of the targets' costs."""
        return self.num_targets if self.size is None else self.size

    @property
    def num_targets(self) -> int:
        """How many targets it holds."""
        return len(self.ratings) if self.num_present is None else self.num_present

    @property
    def last_item_sources(self) -> Tensor:
        """int64 [S]; the items that the last layer's users read; not for shared items."""
        if len(self.layers) < 2:
            return self.item_nodes
        return self.item_nodes[: self.layers[-2].to_items.num_destinations]
