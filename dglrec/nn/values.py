"""Values of nodes of both types, and the interfaces of layers and convolutions."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from torch import Tensor, nn

from dglrec.blocks import Block, LayerBlocks

_SMALL = 1e-6  # added to squared lengths

Update = Callable[[Block, Tensor, Tensor], Tensor]


class NodeValues(NamedTuple):
    """A row of values for each node, for both types."""

    users: Tensor
    items: Tensor


class Layer(Protocol):
    """One hop in both directions."""

    def update_users(self, block: Block, items: Tensor, users: Tensor) -> Tensor:
        """[S, H] items that the block's users rated, [D, H] those users -> [D, H]."""

    def update_items(self, block: Block, users: Tensor, items: Tensor) -> Tensor:
        """[S, H] users that rated the block's items, [D, H] those items -> [D, H]."""

    def update_new_items(self, items: Tensor) -> Tensor:
        """[D, H] items that nobody has rated -> [D, H]; as `update_items` without edges."""


class Convolution(nn.Module):
    """Messages along one relation, which use only that its edges exist."""

    def forward(self, block: Block, sources: Tensor, destinations: Tensor) -> Tensor:
        """[S, H] sources and [D, H] destinations -> [D, H]."""
        raise NotImplementedError

    def without_edges(self, destinations: Tensor) -> Tensor:
        """[D, H] destinations that have no edge -> [D, H]; the same as `forward` for them."""
        raise NotImplementedError


class Messages(NamedTuple):
    """Messages to a layer's destinations along relations other than ratings.

    Attributes:
        users: float32 [D, H]; None where no relation leads to users.
        items: float32 [D, H]; None where no relation leads to items.
    """

    users: Tensor | None = None
    items: Tensor | None = None


NO_MESSAGES = Messages()


class TwoWayLayer(nn.Module):
    """A layer in which users and items read each other, without other relations."""

    def update_users(self, block: Block, items: Tensor, users: Tensor) -> Tensor:
        """[S, H] items that the block's users rated, [D, H] those users -> [D, H]."""
        raise NotImplementedError

    def update_items(self, block: Block, users: Tensor, items: Tensor) -> Tensor:
        """[S, H] users that rated the block's items, [D, H] those items -> [D, H]."""
        raise NotImplementedError

    def forward(
        self, blocks: LayerBlocks, nodes: NodeValues, own_items: Tensor | None = None
    ) -> NodeValues:
        """As `ConvolutionLayer.forward`."""
        return both_ways(self.update_users, self.update_items, blocks, nodes, own_items)


def of_length_one(values: Tensor) -> Tensor:
    """[N, H] divided by their lengths; a row of zeros stays zero, and its gradient finite."""
    lengths: Tensor = (values.square().sum(1, keepdim=True) + _SMALL).sqrt()
    return values / lengths


def both_ways(
    update_users: Update,
    update_items: Update,
    blocks: LayerBlocks,
    nodes: NodeValues,
    own_items: Tensor | None = None,
) -> NodeValues:
    """[S, H] source nodes of each type -> [D, H] destination nodes of each type.

    Args:
        update_users: the layer's update of users.
        update_items: the layer's update of items.
        blocks: the edges.
        nodes: [S, H] of each type.
        own_items: [D, H] the values of the items that are destinations, where these are not the
            first of the sources.
    """
    users = nodes.users[: blocks.to_users.num_destinations]
    items = nodes.items[: blocks.to_items.num_destinations] if own_items is None else own_items
    return NodeValues(
        update_users(blocks.to_users, nodes.items, users),
        update_items(blocks.to_items, nodes.users, items),
    )
