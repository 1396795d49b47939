"""The whole model: inputs, encoder and decoder."""

from torch import Tensor, nn

from dglrec.nn.config import ModelConfig
from dglrec.nn.decoder import EdgeRegressor
from dglrec.nn.encoder import Exchange, HeteroSAGE, NodeValues
from dglrec.nn.inputs import NodeInputs
from dglrec.sampling import EdgeBatch


class RatingModel(nn.Module):
    """Inputs, encoder and decoder: predicts what a rating has beyond the biases.

    Args:
        config: what it is made of.
        num_users: U.
        item_features: float32 [I, F].
    """

    def __init__(self, config: ModelConfig, num_users: int, item_features: Tensor) -> None:
        super().__init__()
        self.config = config
        self.inputs = NodeInputs(config, num_users, item_features)
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
        residuals: Tensor = self.decoder(nodes, batch.users, batch.items)
        return batch.baselines + residuals

    def sparse_tables(self) -> list[nn.Parameter]:
        """The weights whose gradients are sparse: a batch reads few of their rows."""
        tables = [one for one in self.modules() if isinstance(one, nn.Embedding) and one.sparse]
        return [parameter for table in tables for parameter in table.parameters()]
