"""Layers of messages in both directions: values of nodes in, embeddings out.

Shapes: N nodes, S sources, D destinations, H embedding size.
"""

from collections.abc import Callable
from typing import NamedTuple, cast

from torch import Tensor, nn
from torch.nn import functional

from dglrec.blocks import Block, LayerBlocks
from dglrec.nn.config import ModelConfig
from dglrec.nn.convolutions import RefinementConv, RelationConv

Exchange = Callable[[Tensor], Tensor]


class NodeValues(NamedTuple):
    """One value a node, for both types."""

    users: Tensor
    items: Tensor


class SAGELayer(nn.Module):
    """One hop in both directions, with a skip connection around it.

    Behind the last layer, users look at their ratings once more (`RefinementConv`): theirs are all
    there, where items see a sample of their raters.

    The skip lets the item vectors that a user's ratings weigh reach the output as they are; without
    it, and with a ReLU behind the last layer, training starts at a saddle that noise keeps it on.

    Args:
        config: the model's.
        last: whether this is the last layer, which has no ReLU.
    """

    def __init__(self, config: ModelConfig, *, last: bool) -> None:
        super().__init__()
        self.to_users = RelationConv(config.embedding_size, config)
        self.to_items = RelationConv(config.embedding_size, config)
        self.dropout = nn.Dropout(config.dropout_share())
        self.last = last
        self.refinement = None
        if last and config.rating_messages and config.refinement:
            self.refinement = RefinementConv(
                config.embedding_size, config.refinement, by_column=config.column_damping
            )

    def update_users(self, block: Block, items: Tensor, users: Tensor) -> Tensor:
        """[S, H] items that the block's users rated, [D, H] those users -> [D, H]."""
        out = self._finish(self.to_users(block, items, users), users)
        return out if self.refinement is None else out + self.refinement(block, items, out)

    def update_items(self, block: Block, users: Tensor, items: Tensor) -> Tensor:
        """[S, H] users that rated the block's items, [D, H] those items -> [D, H]."""
        return self._finish(self.to_items(block, users, items), items)

    def forward(
        self, blocks: LayerBlocks, nodes: NodeValues, own_items: Tensor | None = None
    ) -> NodeValues:
        """[S, H] source nodes of each type -> [D, H] destination nodes of each type.

        Args:
            blocks: the edges.
            nodes: [S, H] of each type.
            own_items: [D, H] the values of the items that are destinations, where these are not the
                first of the sources.
        """
        users = nodes.users[: blocks.to_users.num_destinations]
        items = nodes.items[: blocks.to_items.num_destinations] if own_items is None else own_items
        return NodeValues(
            self.update_users(blocks.to_users, nodes.items, users),
            self.update_items(blocks.to_items, nodes.users, items),
        )

    def _finish(self, out: Tensor, own: Tensor) -> Tensor:
        if self.last:
            # Nor is there dropout here: noise on both sides of the decoder's product costs more
            # than it gives.
            return out + own
        dropped: Tensor = self.dropout(functional.relu(out) + own)
        return dropped


class HeteroSAGE(nn.Module):
    """Layers of GraphSAGE over a graph of users and items."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            SAGELayer(config, last=number == config.layers - 1) for number in range(config.layers)
        )

    @property
    def hops(self) -> tuple[SAGELayer, ...]:
        """The layers in the order of their computation."""
        return tuple(cast(SAGELayer, layer) for layer in self.layers)

    def forward(
        self,
        layers: tuple[LayerBlocks, ...],
        nodes: NodeValues,
        all_items: Exchange | None = None,
    ) -> NodeValues:
        """[N, H] nodes that the first layer reads -> [D, H] destinations of the last.

        With `all_items`, the items among `nodes` are a share, and all of them come out.
        """
        if all_items is None:
            for layer, blocks in zip(self.layers, layers, strict=True):
                nodes = layer(blocks, nodes)
            return nodes
        users, own = nodes
        for layer, blocks in zip(self.layers, layers, strict=True):
            users, own = layer(blocks, NodeValues(users, all_items(own)), own)
        return NodeValues(users, all_items(own))
