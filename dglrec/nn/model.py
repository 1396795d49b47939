"""The whole model: inputs, encoder and decoder."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dglrec.blocks import Block, EdgeBatch
from dglrec.nn.config import ModelConfig
from dglrec.nn.decoder import EdgeRegressor
from dglrec.nn.encoder import Exchange, HeteroSAGE, NodeValues, SAGELayer
from dglrec.nn.inputs import NodeInputs


class RatingModel(nn.Module):
    """Inputs, encoder and decoder: predicts what a rating has beyond the biases.

    Args:
        config: what it is made of.
        num_users: U.
        item_features: float32 [I, F].
        widths: columns of `item_features` by name, where the configuration names some.

    Raises:
        UsageError: the configuration names features that there are not.
    """

    def __init__(
        self,
        config: ModelConfig,
        num_users: int,
        item_features: Tensor,
        widths: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.inputs = NodeInputs(config, num_users, item_features, widths)
        self.encoder = HeteroSAGE(config)
        self.decoder = EdgeRegressor(config)

    def forward(self, batch: EdgeBatch, all_items: Exchange | None = None) -> Tensor:
        """Predicted ratings of a batch's targets, float32 [B], not clipped to the scale.

        Args:
            batch: what to predict, and from what.
            all_items: where the batch holds a share of the items, what makes [I, H] values of all
                of them out of those of the share.
        """
        if batch.items_are_shared and all_items is None:
            raise ValueError("the batch holds a share of the items; say how to get the others")
        nodes = NodeValues(
            self.inputs.users(batch.user_nodes, batch.user_inputs),
            self.inputs.items(batch.item_nodes, batch.item_inputs),
        )
        nodes = self.encoder(batch.layers, nodes, all_items if batch.items_are_shared else None)
        if len(batch.unseen):
            unseen = self.new_items(self.inputs.features.index_select(0, batch.unseen))
            nodes = NodeValues(nodes.users, torch.cat((nodes.items, unseen)))
        residuals: Tensor = self.decoder(nodes, batch.users, batch.items)
        return batch.baselines + residuals

    def new_items(self, features: Tensor) -> Tensor:
        """float32 [m, F] chosen features of items that nobody has rated -> [m, H] embeddings."""
        items = self.inputs.new_items(features)
        nobody = items.new_zeros(1, items.shape[1])
        none = items.new_zeros(0)
        block = Block(
            offsets=torch.zeros(len(items) + 1, dtype=torch.int64, device=items.device),
            neighbours=torch.zeros(0, dtype=torch.int64, device=items.device),
            residuals=none,
            degrees=items.new_zeros(len(items)),
        )
        for layer in self.encoder.layers:
            assert isinstance(layer, SAGELayer)
            items = layer.update_items(block, nobody, items)
        return items

    def sparse_tables(self) -> list[nn.Parameter]:
        """The weights whose gradients are sparse: a batch reads few of their rows."""
        tables = [one for one in self.modules() if isinstance(one, nn.Embedding) and one.sparse]
        return [parameter for table in tables for parameter in table.parameters()]
