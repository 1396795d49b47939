"""The layers of message passing: from inputs of nodes to their embeddings.

Shapes: N nodes, S sources, D destinations, H embedding size.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from dglrec.blocks import Block, LayerBlocks, WeightedEdges
from dglrec.nn.collaborative import LightGCNLayer, LRGCCFLayer, NGCFLayer
from dglrec.nn.config import CONVOLUTIONS, ModelConfig
from dglrec.nn.convolutions import RefinementConv, RelationConv
from dglrec.nn.dropout import Dropout
from dglrec.nn.relations import RelationMaps
from dglrec.nn.signals import SignalLayer
from dglrec.nn.values import (
    NO_MESSAGES,
    Layer,
    Messages,
    NodeValues,
    both_ways,
    of_length_one,
)

Exchange = Callable[[Tensor], Tensor]


class ConvolutionLayer(nn.Module):
    """A hop in both directions by the configured convolution, usually with a residual.

    Between layers there is a ReLU and, for vectors of length 1, the division (as in GraphSAGE's
    algorithm 1, line 7, and NGCF); then the residual, a node's previous value, is added. PinSage
    has a ReLU after the last layer too. After the last layer, users' embeddings are corrected by
    their ratings (`RefinementConv`): a user reads all of these, while an item reads a sample of its
    raters. With relations between users that happens after the other layers too, so that users read
    fitted tastes of other users, and each user's fit starts from them.

    By the residual, the item vectors that a user's ratings weigh reach the output unchanged.
    Without it, and with a ReLU after the last layer, training starts at a saddle point, where noise
    keeps it.

    Args:
        config: the model's.
        last: whether this is the last layer, which has no ReLU except in PinSage.
    """

    def __init__(self, config: ModelConfig, *, last: bool) -> None:
        super().__init__()
        self.to_users = RelationConv(config.embedding_size, config)
        self.to_items = RelationConv(config.embedding_size, config)
        self.dropout = Dropout(config.dropout_share())
        self.last = last
        self.residual, self.has_unit_lengths = config.adds_residual, config.has_unit_lengths
        self.rectifies = not last or config.pools_by_importance
        self.refinement = None
        if config.refines(last=last):
            self.refinement = RefinementConv(
                config.embedding_size,
                config.refinement,
                by_column=config.column_damping,
                time_decay=config.time_decay,
                time_trend=config.time_trend,
            )

    def update_users(
        self, block: Block, items: Tensor, users: Tensor, told: Tensor | None = None
    ) -> Tensor:
        """[S, H] items that the block's users rated, [D, H] those users -> [D, H].

        Args:
            block: the ratings.
            items: [S, H].
            users: [D, H].
            told: [D, H] messages to the users along other relations; None for nothing.
        """
        out = self._finish(self.to_users(block, items, users), users, told)
        return out if self.refinement is None else out + self.refinement(block, items, out)

    def update_items(
        self, block: Block, users: Tensor, items: Tensor, told: Tensor | None = None
    ) -> Tensor:
        """[S, H] users that rated the block's items, [D, H] those items -> [D, H].

        Args:
            block: the ratings.
            users: [S, H].
            items: [D, H].
            told: [D, H] messages to the items along other relations; None for nothing.
        """
        return self._finish(self.to_items(block, users, items), items, told)

    def update_new_items(self, items: Tensor, told: Tensor | None = None) -> Tensor:
        """[D, H] items that nobody has rated -> [D, H]; `told` as in `update_items`."""
        return self._finish(self.to_items.without_edges(items), items, told)

    def forward(
        self,
        blocks: LayerBlocks,
        nodes: NodeValues,
        own_items: Tensor | None = None,
        told: Messages = NO_MESSAGES,
    ) -> NodeValues:
        """[S, H] source nodes of each type -> [D, H] destination nodes of each type.

        Args:
            blocks: the edges.
            nodes: [S, H] of each type.
            own_items: [D, H] the values of the items that are destinations, where these are not the
                first of the sources.
            told: messages to the destinations along other relations.
        """
        return both_ways(
            partial(self.update_users, told=told.users),
            partial(self.update_items, told=told.items),
            blocks,
            nodes,
            own_items,
        )

    def activated(self, out: Tensor) -> Tensor:
        """[D, H] sums of a layer's messages -> [D, H], before the residual."""
        if self.rectifies:
            out = functional.relu(out)
        return of_length_one(out) if self.has_unit_lengths else out

    def _finish(self, out: Tensor, own: Tensor, told: Tensor | None) -> Tensor:
        if told is not None:
            out = out + told
        out = self.activated(out)
        if self.residual:
            out = out + own
        # No dropout after the last layer: noise on both sides of the decoder's product hurts more
        # than it helps.
        return out if self.last else self._dropped(out)

    def _dropped(self, values: Tensor) -> Tensor:
        dropped: Tensor = self.dropout(values)
        return dropped


_WHOLE_LAYERS: dict[str, Callable[..., nn.Module]] = {
    "lightgcn": LightGCNLayer,
    "lr_gccf": LRGCCFLayer,
    "ngcf": NGCFLayer,
    "graph_filter": SignalLayer,
}


class HeteroEncoder(nn.Module):
    """Layers over a graph of users and items, and the combination of their results.

    `last` takes the last layer's result. The others take the inputs and all layers' results: `mean`
    (LightGCN's equation 4), `concat` (NGCF's equation 9), `weighted`, a mean whose weights are a
    softmax of learned numbers, equal at first (LightGCN's alpha_k), and `max`, the largest value of
    each column (Xu et al., "Representation learning on graphs with jumping knowledge networks",
    ICML 2018, section 4.1).

    Args:
        config: the model's.
        operator: the graph of items for graph filters; None for other layers.
    """

    def __init__(self, config: ModelConfig, operator: WeightedEdges | None = None) -> None:
        super().__init__()
        self.combination = config.combination
        whole: Callable[..., nn.Module] = ConvolutionLayer
        layer = whole if config.convolution in CONVOLUTIONS else _WHOLE_LAYERS[config.convolution]
        further = {} if operator is None else {"operator": operator}
        self.layers = nn.ModuleList(
            layer(config, last=number == config.layers - 1, **further)
            for number in range(config.layers)
        )
        # Made after the layers, so that these have the same initial weights without it.
        weighted = config.combination == "weighted"
        self.layer_weights = nn.Parameter(torch.zeros(config.layers + 1)) if weighted else None

    @property
    def hops(self) -> tuple[Layer, ...]:
        """The layers in the order of their computation."""
        return tuple(cast(Layer, layer) for layer in self.layers)

    @property
    def convolution_layers(self) -> tuple[ConvolutionLayer, ...]:
        """The layers, each a convolution.

        Raises:
            ValueError: a layer is not.
        """
        layers = tuple(layer for layer in self.layers if isinstance(layer, ConvolutionLayer))
        if len(layers) < len(self.layers):
            raise ValueError("the layers are not those of a convolution along relations")
        return layers

    def combine(self, values: Sequence[Tensor]) -> Tensor:
        """Combine the inputs and all layers' results of n nodes: [n, H] each -> [n, H'].

        Args:
            values: the inputs and each layer's result, in order; n is the last result's number of
                rows, and the others' further rows are dropped.
        """
        count = len(values[-1])
        if self.combination == "last" or len(values) == 1:
            return values[-1]
        same = [value[:count] for value in values]
        if self.combination == "concat":
            return torch.cat(same, dim=1)
        stacked = torch.stack(same)
        if self.layer_weights is not None:
            shares = self.layer_weights.softmax(0).view(-1, 1, 1)
            return (shares * stacked).sum(0)
        return stacked.amax(0) if self.combination == "max" else stacked.mean(0)

    def forward(
        self,
        layers: tuple[LayerBlocks, ...],
        nodes: NodeValues,
        all_items: Exchange | None = None,
        relations: RelationMaps | None = None,
    ) -> NodeValues:
        """[N, H] nodes that the first layer reads -> [D, H'] destinations of the last layer.

        With `all_items`, `nodes` holds a share of the items, and the result holds all of them. With
        `relations`, whose layers are convolutions, blocks of other relations are read too.
        """
        users, items = [nodes.users], [nodes.items]
        for number, (layer, blocks) in enumerate(zip(self.layers, layers, strict=True)):
            own_items = None if all_items is None else nodes.items
            if all_items is not None:
                nodes = NodeValues(nodes.users, all_items(nodes.items))
            if relations is None:
                nodes = layer(blocks, nodes, own_items)
            else:
                told = relations.messages(number, blocks.others, nodes)
                nodes = layer(blocks, nodes, own_items, told)
            users.append(nodes.users)
            items.append(nodes.items)
        out = NodeValues(self.combine(users), self.combine(items))
        return out if all_items is None else NodeValues(out.users, all_items(out.items))
