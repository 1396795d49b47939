"""Messages along relations other than ratings, from all of their edges."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dglrec.blocks import Block, RelationBlock
from dglrec.distributed import ALONE, World
from dglrec.graph import node_chunks
from dglrec.nn import NodeValues, RatingModel
from dglrec.relations import Direction, DirectionTensors

_CHUNK_EDGES = 1 << 21


class RelationMessages:
    """The messages that users and items receive along relations other than ratings.

    Args:
        model: the model, whose maps and label vectors make the messages.
        directions: of the relations that the model reads.
        device: the device that holds the edges.
        world: the processes, each of which computes a share of the nodes, with about equal numbers
            of edges.

    Raises:
        ValueError: the directions are not those that the model reads.
    """

    def __init__(
        self,
        model: RatingModel,
        directions: Sequence[Direction],
        device: torch.device,
        world: World = ALONE,
    ) -> None:
        self._world = world
        self._maps = model.relations
        names = () if self._maps is None else self._maps.names
        names_given = tuple(direction.name for direction in directions)
        if names_given != names:
            raise ValueError(f"the model reads {names}, and not {names_given}")
        self._tensors = [DirectionTensors.of(direction, device) for direction in directions]

    @property
    def is_empty(self) -> bool:
        """Whether the model reads no relation other than ratings."""
        return not self._tensors

    def messages_to(
        self, layer: int, nodes: NodeValues, destination_type: str, without: str | None = None
    ) -> Tensor | None:
        """float32 [N, H] the sum of the messages that each user or item receives in a layer.

        None where no direction ends in nodes of this type.

        Args:
            layer: the layer's number, from 0.
            nodes: the values of users and items before the layer.
            destination_type: `user` or `item`.
            without: the name of a direction to leave out; None to leave out none.
        """
        assert self._maps is not None
        incoming = [
            tensors
            for tensors in self._tensors
            if tensors.direction.destination_type == destination_type
        ]
        if not incoming:
            return None
        ends = torch.stack(
            [torch.from_numpy(tensors.direction.edges.offsets[1:]) for tensors in incoming]
        ).sum(0)
        bounds = self._world.cut(ends)
        start, end = bounds[self._world.rank], bounds[self._world.rank + 1]
        total = nodes.users.new_zeros(len(ends), self._maps.size)
        for tensors in incoming:
            kind = tensors.direction
            if kind.name == without:
                continue
            sources = self._maps.sources_of(kind.source_type, nodes)
            for first, last in node_chunks(kind.edges.offsets[start : end + 1], _CHUNK_EDGES):
                first, last = start + first, start + last
                block = _block_of(tensors, first, last).to(sources.device)
                total[first:last] += self._maps.message(layer, kind.name, block, sources)
        self._world.share_rows(total, bounds)
        return total


def _block_of(tensors: DirectionTensors, first: int, last: int) -> Block:
    """All edges of the nodes first..last-1 along a direction."""
    offsets = tensors.direction.edges.offsets
    low, high = int(offsets[first]), int(offsets[last])
    counts = tensors.counts[first:last]
    edges = torch.arange(low, high, device=counts.device)
    return Block(
        torch.cat((counts.new_zeros(1), counts.cumsum(0))),
        tensors.neighbours[low:high].long(),
        tensors.shares(edges, counts),
        counts.float(),
    )


def blocks_of_labels(directions: Sequence[Direction]) -> tuple[RelationBlock, ...]:
    """All edges of directions from labels to items, in the form that `embed_new_items` takes."""
    found = []
    for direction in directions:
        tensors = DirectionTensors.of(direction, torch.device("cpu"))
        block = _block_of(tensors, 0, direction.edges.num_nodes)
        found.append(
            RelationBlock(direction.name, direction.destination_type, direction.source_type, block)
        )
    return tuple(found)


@torch.inference_mode()
def tell_new_users(model: RatingModel, others: Sequence[RelationBlock]) -> tuple[Tensor, ...]:
    """The messages that n new users receive from their labels, float32 [n, H] for each layer.

    Args:
        model: the model.
        others: the users' labels along the relations that the model reads; empty for no labels.
    """
    if model.relations is None or not others:
        return ()
    on_device = [block.to(next(model.parameters()).device) for block in others]
    told = (model.relations.of_labels(number, on_device) for number in range(model.config.layers))
    return tuple(messages for messages in told if messages is not None)
