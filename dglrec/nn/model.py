"""The whole model: inputs, encoder, and a rating head, a list head, or both."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dglrec.blocks import EdgeBatch, RelationBlock, WeightedEdges
from dglrec.nn.config import ModelConfig
from dglrec.nn.decoder import EdgeRegressor
from dglrec.nn.encoder import Exchange, HeteroEncoder
from dglrec.nn.inputs import NodeInputs
from dglrec.nn.lists import ListHead, ListRows, ListTerms
from dglrec.nn.relations import RelationMaps
from dglrec.nn.signals import LocalReadout
from dglrec.nn.values import NodeValues
from dglrec.relations import ITEM_TYPE, USER_TYPE, Direction


class Encoded(NamedTuple):
    """The embeddings of a batch's nodes, and the list head's terms.

    Attributes:
        nodes: [N, H] embeddings of the last layer's destinations; unseen items follow the others.
        users: the list head's terms of the destination users; None without a list head.
        items: its terms of the destination items; None without a list head.
        list_rows: the item vectors that it read for these; None without a list head.
    """

    nodes: NodeValues
    users: ListTerms | None
    items: ListTerms | None
    list_rows: ListRows | None


class RatingModel(nn.Module):
    """Inputs, encoder and heads: predicts ratings' residuals over the biases, lists, or both.

    Args:
        config: of the model, with `heads` chosen, not `auto`.
        num_users: U.
        item_features: float32 [I, F].
        widths: numbers of columns of the named `item_features`, where the configuration names some.
        user_features: float32 [U, F']; None where users have no features.
        user_widths: numbers of columns of the named `user_features`, likewise.
        directions: of the relations that the configuration names.
        operator: the graph of items for convolution graph_filter; None with others.

    Raises:
        UsageError: the configuration names features that do not exist.
    """

    def __init__(
        self,
        config: ModelConfig,
        num_users: int,
        item_features: Tensor,
        widths: Mapping[str, int] | None = None,
        *,
        user_features: Tensor | None = None,
        user_widths: Mapping[str, int] | None = None,
        directions: Sequence[Direction] = (),
        operator: WeightedEdges | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.inputs = NodeInputs(
            config, num_users, item_features, widths, user_features, user_widths
        )
        self.encoder = HeteroEncoder(config, operator)
        # The list head is made after these, and relations last, so that the initial weights of the
        # others do not depend on them.
        decoder = LocalReadout if config.convolution == "graph_filter" else EdgeRegressor
        self.decoder = decoder(config) if config.heads != "lists" else None
        self.list_head = ListHead(config, len(item_features)) if config.lists else None
        self.relations = None
        if directions:
            size, asked = config.embedding_size, config.pools_by_importance
            self.relations = RelationMaps(size, config.layers, directions, asked=asked)

    def forward(self, batch: EdgeBatch, all_items: Exchange | None = None) -> Tensor:
        """Predicted ratings of a batch's targets; see `rate` and `encode`."""
        return self.rate(self.encode(batch, all_items), batch)

    def rate(self, encoded: Encoded, batch: EdgeBatch) -> Tensor:
        """Predicted ratings of a batch's targets, float32 [B], not clipped to the scale.

        Raises:
            ValueError: the model has no rating head.
        """
        residuals: Tensor = self.rating_head(encoded.nodes, batch.users, batch.items)
        return batch.baselines + residuals

    def encode(self, batch: EdgeBatch, all_items: Exchange | None = None) -> Encoded:
        """Embeddings of the nodes that a batch's targets name.

        Args:
            batch: the targets, and the blocks to predict them from.
            all_items: where the batch holds a share of the items, a function from the share's
                values to the [I, H] values of all items.
        """
        if batch.items_are_shared and all_items is None:
            raise ValueError("the batch holds a share of the items, so all_items is needed")
        nodes = NodeValues(
            self.inputs.users(batch.user_nodes, batch.user_inputs),
            self.inputs.items(
                None if batch.every_item and not batch.items_are_shared else batch.item_nodes,
                batch.item_inputs,
            ),
        )
        exchange = all_items if batch.items_are_shared else None
        nodes = self.encoder(batch.layers, nodes, exchange, self.relations)
        users, items, rows = self._list_terms(batch, nodes, exchange)
        if len(batch.unseen):
            features = self.inputs.features.index_select(0, batch.unseen)
            unseen = self.new_items(features, batch.unseen_others)
            nodes = NodeValues(nodes.users, torch.cat((nodes.items, unseen)))
        return Encoded(nodes, users, items, rows)

    def _list_terms(
        self, batch: EdgeBatch, nodes: NodeValues, exchange: Exchange | None
    ) -> tuple[ListTerms | None, ListTerms | None, ListRows | None]:
        """The list head's terms of a batch's destinations, and the vectors that they take."""
        head = self.list_head
        if head is None:
            return None, None, None
        count = len(nodes.items)
        inputs = batch.item_inputs if exchange is None else exchange(batch.item_inputs)
        if batch.every_item:
            rows = head.every_row()
        else:
            rows = head.rows(batch.last_item_sources, batch.item_nodes[:count])
        block = batch.layers[-1].to_users if batch.layers else None
        of_users = head.of_users(nodes.users, block, rows)
        return of_users, head.of_items(nodes.items, inputs[:count], rows.own), rows

    def new_items(self, features: Tensor, others: Sequence[RelationBlock] = ()) -> Tensor:
        """[m, H] embeddings of m items that nobody has rated.

        Args:
            features: float32 [m, F] chosen features.
            others: blocks in which these items read labels.
        """
        items = [self.inputs.new_items(features)]
        if self.relations is None:
            for layer in self.encoder.hops:
                items.append(layer.update_new_items(items[-1]))
        else:
            for number, hop in enumerate(self.encoder.convolution_layers):
                told = self.relations.of_labels(number, others)
                items.append(hop.update_new_items(items[-1], told))
        return self.encoder.combine(items)

    @property
    def rating_head(self) -> EdgeRegressor:
        """The decoder of ratings.

        Raises:
            ValueError: the model has none.
        """
        if self.decoder is None:
            raise ValueError("the model has no rating head")
        return self.decoder

    def tables(self) -> dict[str, str]:
        """The names of the weights that have a row for each node of a type, with that type."""
        of_items = [self.inputs.item_vectors]
        if self.list_head is not None:
            of_items += self.list_head.tables()
        types = {id(one): ITEM_TYPE for one in of_items if one is not None}
        types[id(self.inputs.user_vectors)] = USER_TYPE
        if self.relations is not None:
            labels = self.relations.labels.items()
            types |= {id(table): name.removeprefix("of_") for name, table in labels}
        return {
            f"{name}.weight": types[id(module)]
            for name, module in self.named_modules()
            if isinstance(module, nn.Embedding)
        }

    def read_items_by_rows(self) -> None:
        """Make the gradients of item vectors sparse, for batches that read few of them."""
        tables: list[nn.Embedding | None] = [self.inputs.item_vectors]
        if self.list_head is not None:
            tables += self.list_head.tables()
        for table in tables:
            if table is not None:
                table.sparse = True

    def sparse_tables(self) -> list[nn.Parameter]:
        """The weights with sparse gradients, of which a batch reads few rows."""
        tables = [one for one in self.modules() if isinstance(one, nn.Embedding) and one.sparse]
        return [parameter for table in tables for parameter in table.parameters()]
