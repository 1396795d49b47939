"""Messages to users and items along relations other than ratings.

Shapes: S sources, D destinations, H embedding size, L labels of an attribute.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from dglrec.blocks import Block, RelationBlock
from dglrec.nn.aggregation import map_and_aggregate
from dglrec.nn.values import Messages, NodeValues
from dglrec.relations import ITEM_TYPE, USER_TYPE, Direction

_LABEL_STD = 0.1  # the same as for item vectors
_INITIAL_GAIN = 0.1  # so that a relation's messages are nearly 0 at first


class RelationMaps(nn.Module):
    """A linear map for each direction of each relation and each layer, and vectors of labels.

    A direction's message is W mean(h_neighbours), the mean weighed by the edges' weights. Labels
    are nodes that read nothing: each has a vector, which is the same in all layers.

    With `asked` the mean is over relu(Q h_neighbour + q): the importance pooling of PinSage (Ying
    et al., KDD 2018, algorithm 1, line 1), where weights are counts of visits over their sum.

    Args:
        size: H.
        layers: how many the encoder has.
        directions: of the relations that layers read.
        asked: whether neighbours pass a linear map and a ReLU before the mean.
    """

    def __init__(
        self, size: int, layers: int, directions: Sequence[Direction], *, asked: bool = False
    ) -> None:
        super().__init__()
        self.size = size
        self.names = tuple(one.name for one in directions)
        attributes = {one.source_type: one.num_sources for one in directions if one.reads_labels}
        # With a prefix, as a module's parts must not have the names of its methods.
        self.labels = nn.ModuleDict(
            {f"of_{name}": _vectors(count, size) for name, count in attributes.items()}
        )
        self.layers = nn.ModuleList(
            nn.ModuleDict({f"by_{one.name}": _map(size) for one in directions})
            for _ in range(layers)
        )
        self.queries = nn.ModuleList(
            nn.ModuleDict({f"by_{one.name}": nn.Linear(size, size) for one in directions})
            for _ in range(layers if asked else 0)
        )

    def message(self, layer: int, name: str, block: Block, sources: Tensor) -> Tensor:
        """[S, H] sources -> [D, H] messages to a block's destinations in a layer.

        Args:
            layer: its number, from 0.
            name: of the direction.
            block: of the direction, as in `RelationBlock`.
            sources: [S, H].
        """
        maps = self.layers[layer]
        assert isinstance(maps, nn.ModuleDict)
        linear = maps[f"by_{name}"]
        assert isinstance(linear, nn.Linear)
        if len(self.queries):
            queries = self.queries[layer]
            assert isinstance(queries, nn.ModuleDict)
            sources = functional.relu(queries[f"by_{name}"](sources))
        return map_and_aggregate(block, sources, linear, "mean", block.residuals)

    def label_vectors(self, attribute: str) -> Tensor:
        """float32 [L, H]: the vectors of an attribute's labels."""
        table = self.labels[f"of_{attribute}"]
        assert isinstance(table, nn.Embedding)
        return table.weight

    def sources_of(self, source_type: str, nodes: NodeValues) -> Tensor:
        """The values of the nodes of a type: users, items, or the labels of an attribute."""
        if source_type == USER_TYPE:
            return nodes.users
        return nodes.items if source_type == ITEM_TYPE else self.label_vectors(source_type)

    def messages(self, layer: int, others: Sequence[RelationBlock], nodes: NodeValues) -> Messages:
        """The sums of messages to a layer's destinations along all relations.

        Args:
            layer: its number, from 0.
            others: the layer's blocks of these relations.
            nodes: [S, H] of the users and items that the layer reads.
        """
        sums: dict[str, Tensor] = {}
        for one in others:
            sources = self.sources_of(one.source_type, nodes)
            told = self.message(layer, one.name, one.block, sources)
            before = sums.get(one.destination_type)
            sums[one.destination_type] = told if before is None else before + told
        return Messages(sums.get(USER_TYPE), sums.get(ITEM_TYPE))

    def of_labels(self, layer: int, others: Sequence[RelationBlock]) -> Tensor | None:
        """[D, H] messages to items along relations from labels alone; None without such relations.

        Args:
            layer: its number, from 0.
            others: blocks whose sources are labels and whose destinations are these items.
        """
        total = None
        for one in others:
            told = self.message(layer, one.name, one.block, self.label_vectors(one.source_type))
            total = told if total is None else total + told
        return total


def _vectors(count: int, size: int) -> nn.Embedding:
    table = nn.Embedding(count, size)
    nn.init.normal_(table.weight, std=_LABEL_STD)
    return table


def _map(size: int) -> nn.Linear:
    linear = nn.Linear(size, size, bias=False)
    with torch.no_grad():
        linear.weight.mul_(_INITIAL_GAIN)
    return linear
