"""What is known of a node before any message."""

from collections.abc import Mapping
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn import functional

from dglrec.biases import INPUTS
from dglrec.errors import UsageError
from dglrec.nn.config import ModelConfig
from dglrec.nn.dropout import Dropout

_IDENTITY_STD = 0.1
_DEGREE_SCALE = 0.1  # log degrees go up to 12; unscaled they drown what else is known of a node


class NodeInputs(nn.Module):
    """What a node is before any message: bias, degree and spread, features, perhaps a vector.

    A vector counts n / (n + damping), n being the node's ratings: of few ratings nothing is learned
    by heart, and a node without any is made of the rest alone.

    Args:
        config: the model's.
        num_users: U.
        item_features: float32 [I, F]; F may be 0.
        widths: columns of `item_features` by name, in their order; None where the configuration
            names no features.

    Raises:
        UsageError: the configuration names features that there are not.
    """

    features: Tensor
    input_scale: Tensor

    def __init__(
        self,
        config: ModelConfig,
        num_users: int,
        item_features: Tensor,
        widths: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        self.size = size = config.embedding_size
        self.damping = config.identity_damping
        self._columns = _columns(config, item_features.shape[1], widths or {})
        # The data set's, so no part of a checkpoint.
        self.register_buffer("features", self.chosen(item_features), persistent=False)
        scale = torch.tensor([1.0, _DEGREE_SCALE, float(config.spread)])
        self.register_buffer("input_scale", scale, persistent=False)
        self.from_user_inputs = nn.Linear(INPUTS, size) if config.node_inputs else None
        self.from_item_inputs = nn.Linear(INPUTS, size) if config.node_inputs else None
        width = self.features.shape[1]
        self.from_features = nn.Linear(width, size, bias=False) if width else None
        # Of users a step reads few; of items it reads all.
        self.user_vectors = (
            _identity(num_users, size, sparse=True) if config.user_identity else None
        )
        self.item_vectors = _identity(len(item_features), size) if config.item_identity else None
        self.dropout = Dropout(config.dropout_share())

    def chosen(self, features: Tensor) -> Tensor:
        """The columns of [N, F] features that the configuration names."""
        return features if self._columns is None else features[:, self._columns.to(features.device)]

    def users(self, nodes: Tensor, inputs: Tensor) -> Tensor:
        """int64 [N] users and their float32 [N, 3] `Biases.inputs` -> [N, H]."""
        out = self.new_users(inputs)
        if self.user_vectors is not None:
            out = self._with_vectors(out, self.user_vectors(nodes), inputs)
        return out

    def new_users(self, inputs: Tensor) -> Tensor:
        """float32 [N, 3] `Biases.inputs` of users that training never saw -> [N, H]."""
        if self.from_user_inputs is None:
            return inputs.new_zeros(len(inputs), self.size)
        return _expand(self.from_user_inputs, inputs * self.input_scale)

    def items(self, nodes: Tensor | None, inputs: Tensor) -> Tensor:
        """int64 [N] items, None for all of them, and their float32 [N, 3] inputs -> [N, H].

        The inputs are those of `Biases.inputs`.
        """
        out = self._of_item_inputs(inputs)
        if self.from_features is not None:
            out = out + self._mapped_features(self.from_features, nodes)
        if self.item_vectors is not None:
            vectors = self.item_vectors.weight if nodes is None else self.item_vectors(nodes)
            out = self._with_vectors(out, vectors, inputs)
        dropped: Tensor = self.dropout(out)
        return dropped

    def new_items(self, features: Tensor) -> Tensor:
        """float32 [N, F] chosen features of items that nobody has rated -> [N, H]."""
        out = self._of_item_inputs(features.new_zeros(len(features), INPUTS))
        if self.from_features is not None:
            out = out + self.from_features(features)
        dropped: Tensor = self.dropout(out)
        return dropped

    def _of_item_inputs(self, inputs: Tensor) -> Tensor:
        if self.from_item_inputs is None:
            return inputs.new_zeros(len(inputs), self.size)
        return _expand(self.from_item_inputs, inputs * self.input_scale)

    def _with_vectors(self, out: Tensor, vectors: Tensor, inputs: Tensor) -> Tensor:
        # A damping of 0 leaves each vector as it is, that of a node without ratings too.
        if not self.damping:
            return out + vectors
        degrees = inputs[:, 1:2].expm1()
        return torch.addcmul(out, vectors, degrees / (degrees + self.damping))

    def _mapped_features(self, linear: nn.Linear, nodes: Tensor | None) -> Tensor:
        """[N, H]: features are wide, so of as many nodes as there are items, all are mapped."""
        if nodes is None:
            every: Tensor = linear(self.features)
            return every
        if len(nodes) < len(self.features):
            few: Tensor = linear(self.features.index_select(0, nodes))
            return few
        return functional.embedding(nodes, linear(self.features))


def _columns(config: ModelConfig, count: int, widths: Mapping[str, int]) -> Tensor | None:
    """Which of the columns of features to use; None for all of them."""
    if config.item_features is True:
        return None
    names = config.item_features or ()
    if unknown := config.missing_features(widths):
        raise UsageError(
            f"model.item_features: the data set has no {' and no '.join(unknown)}; it has "
            f"{', '.join(widths) or 'no features'}"
        )
    if widths and sum(widths.values()) != count:
        raise ValueError(f"{count} columns of features, and widths {dict(widths)}")
    ends = dict(zip(widths, accumulate(widths.values()), strict=True))
    parts = [
        torch.arange(ends[name] - widths[name], ends[name]) for name in widths if name in names
    ]
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64)


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
