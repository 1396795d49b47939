"""What nodes are told along relations beside that of ratings, of all edges."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dglrec.blocks import Block, RelationBlock
from dglrec.distributed import ALONE, World
from dglrec.graph import node_chunks
from dglrec.nn import NodeValues, RatingModel
from dglrec.relations import Direction, DirectionTensors

_CHUNK_EDGES = 1 << 21


class Others:
    """What users and items are told along relations beside that of ratings, of all edges.

    Args:
        model: whose maps and labels.
        directions: of the relations that it reads.
        near: where the edges are read.
        world: processes that each compute a share of the nodes, about equal in edges.

    Raises:
        ValueError: the model reads others.
    """

    def __init__(
        self,
        model: RatingModel,
        directions: Sequence[Direction],
        near: torch.device,
        world: World = ALONE,
    ) -> None:
        self._world = world
        self._maps = model.relations
        names = () if self._maps is None else self._maps.names
        given = tuple(one.name for one in directions)
        if given != names:
            raise ValueError(f"the model reads {names}, and not {given}")
        self._tensors = [DirectionTensors.of(one, near) for one in directions]

    @property
    def is_empty(self) -> bool:
        """Whether there are no such relations."""
        return not self._tensors

    def told(
        self, layer: int, nodes: NodeValues, destination_type: str, without: str | None = None
    ) -> Tensor | None:
        """float32 [N, H] what all users or items are told in a layer; None where nothing is.

        Args:
            layer: its number, from 0.
            nodes: what users and items are before it.
            destination_type: `user` or `item`.
            without: the name of a direction that tells nothing; None for none.
        """
        assert self._maps is not None
        heard = [one for one in self._tensors if one.direction.destination_type == destination_type]
        if not heard:
            return None
        ends = torch.stack(
            [torch.from_numpy(one.direction.edges.offsets[1:]) for one in heard]
        ).sum(0)
        bounds = self._world.cut(ends)
        start, end = bounds[self._world.rank], bounds[self._world.rank + 1]
        total = nodes.users.new_zeros(len(ends), self._maps.size)
        for tensors in heard:
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
    """The whole of directions from labels to items, as `embed_new_items` takes them."""
    found = []
    for one in directions:
        tensors = DirectionTensors.of(one, torch.device("cpu"))
        block = _block_of(tensors, 0, one.edges.num_nodes)
        found.append(RelationBlock(one.name, one.destination_type, one.source_type, block))
    return tuple(found)


@torch.inference_mode()
def tell_new_users(model: RatingModel, others: Sequence[RelationBlock]) -> tuple[Tensor, ...]:
    """What n users that training never saw are told by their labels, float32 [n, H] a layer.

    Args:
        model: the model.
        others: their labels, along the relations that the model reads; none for nothing.
    """
    if model.relations is None or not others:
        return ()
    near = [one.to(next(model.parameters()).device) for one in others]
    told = (model.relations.of_labels(number, near) for number in range(model.config.layers))
    return tuple(one for one in told if one is not None)
