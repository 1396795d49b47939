"""What is known of a node before any message."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from dglrec.nn.config import ModelConfig

_IDENTITY_STD = 0.1
_DEGREE_SCALE = 0.1  # log degrees go up to 12; unscaled they drown what else is known of a node


class NodeInputs(nn.Module):
    """What a node is before any message: its bias and degree, its features, perhaps a vector.

    Args:
        config: the model's.
        num_users: U.
        item_features: float32 [I, F]; F may be 0.
    """

    features: Tensor
    input_scale: Tensor

    def __init__(self, config: ModelConfig, num_users: int, item_features: Tensor) -> None:
        super().__init__()
        size = config.embedding_size
        # The data set's, so no part of a checkpoint.
        self.register_buffer("features", item_features, persistent=False)
        scale = torch.tensor([1.0, _DEGREE_SCALE])
        self.register_buffer("input_scale", scale, persistent=False)
        self.from_user_inputs = nn.Linear(2, size)
        self.from_item_inputs = nn.Linear(2, size)
        use_features = config.item_features and item_features.shape[1] > 0
        self.from_features = (
            nn.Linear(item_features.shape[1], size, bias=False) if use_features else None
        )
        # Of users a step reads few; of items it reads all.
        self.user_vectors = (
            _identity(num_users, size, sparse=True) if config.user_identity else None
        )
        self.item_vectors = _identity(len(item_features), size) if config.item_identity else None
        self.dropout = nn.Dropout(config.dropout_share())

    def users(self, nodes: Tensor, inputs: Tensor) -> Tensor:
        """int64 [N] users and their float32 [N, 2] bias and log degree -> [N, H]."""
        out = _expand(self.from_user_inputs, inputs * self.input_scale)
        if self.user_vectors is not None:
            out = out + self.user_vectors(nodes)
        return out

    def new_users(self, inputs: Tensor) -> Tensor:
        """float32 [N, 2] bias and log degree of users that training never saw -> [N, H]."""
        out: Tensor = self.from_user_inputs(inputs * self.input_scale)
        if self.user_vectors is not None:
            out = out + self.user_vectors.weight.mean(0)
        return out

    def items(self, nodes: Tensor, inputs: Tensor) -> Tensor:
        """int64 [N] items and their float32 [N, 2] bias and log degree -> [N, H]."""
        out: Tensor = self.from_item_inputs(inputs * self.input_scale)
        if self.from_features is not None:
            out = out + self._mapped_features(self.from_features, nodes)
        if self.item_vectors is not None:
            out = out + self.item_vectors(nodes)
        dropped: Tensor = self.dropout(out)
        return dropped

    def new_items(self, features: Tensor) -> Tensor:
        """float32 [N, F] features of items that nobody has rated -> [N, H]."""
        out: Tensor = self.from_item_inputs(features.new_zeros(len(features), 2))
        if self.from_features is not None:
            out = out + self.from_features(features)
        if self.item_vectors is not None:
            out = out + self.item_vectors.weight.mean(0)
        return out

    def _mapped_features(self, linear: nn.Linear, nodes: Tensor) -> Tensor:
        """[N, H]: features are wide, so of as many nodes as there are items, all are mapped."""
        if len(nodes) < len(self.features):
            few: Tensor = linear(self.features.index_select(0, nodes))
            return few
        return functional.embedding(nodes, linear(self.features))


def _identity(count: int, size: int, *, sparse: bool = False) -> nn.Embedding:
    table = nn.Embedding(count, size, sparse=sparse)
    nn.init.normal_(table.weight, std=_IDENTITY_STD)
    return table


def _expand(linear: nn.Linear, inputs: Tensor) -> Tensor:
    """`linear(inputs)` of N nodes with a handful of inputs each.

    With the weight laid out like this, its gradient is inputs^T @ gradient, which on a CPU takes a
    tenth of the time of (gradient^T @ inputs)^T.
    """
    return torch.addmm(linear.bias, inputs, linear.weight.t().contiguous())
