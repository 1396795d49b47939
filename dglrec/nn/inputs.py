"""The inputs of nodes, before any message passing."""

from collections.abc import Mapping, Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn import functional

from dglrec.biases import INPUTS
from dglrec.errors import UsageError
from dglrec.nn.config import ModelConfig, missing
from dglrec.nn.dropout import Dropout

_IDENTITY_STD = 0.1
_DEGREE_SCALE = 0.1  # log degrees go up to 12; unscaled they outweigh a node's other inputs


class NodeInputs(nn.Module):
    """A node's value before any message: bias, degree, spread and features, perhaps a vector.

    A learned vector is multiplied by n / (n + damping), with n the node's number of ratings, so
    that a few ratings are not memorised, and a node without ratings has the other inputs alone.

    Args:
        config: the model's.
        num_users: U.
        item_features: float32 [I, F]; F may be 0.
        widths: numbers of columns of the named `item_features`, in their order; None where the
            configuration names no features.
        user_features: float32 [U, F']; None where users have no features.
        user_widths: numbers of columns of the named `user_features`, likewise.

    Raises:
        UsageError: the configuration names features that do not exist.
    """

    features: Tensor
    user_features: Tensor
    input_scale: Tensor

    def __init__(
        self,
        config: ModelConfig,
        num_users: int,
        item_features: Tensor,
        widths: Mapping[str, int] | None = None,
        user_features: Tensor | None = None,
        user_widths: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        if user_features is None:
            user_features = item_features.new_zeros(num_users, 0)
        self.size = size = config.embedding_size
        self.damping = config.identity_damping
        self._columns = _columns(
            "item_features", config.item_features, item_features.shape[1], widths or {}
        )
        self._user_columns = _columns(
            "user_features", config.read_user_features, user_features.shape[1], user_widths or {}
        )
        # These come from the data set, so checkpoints do not store them.
        self.register_buffer("features", self.chosen(item_features), persistent=False)
        self.register_buffer("user_features", self.chosen_of_users(user_features), persistent=False)
        scale = torch.tensor([1.0, _DEGREE_SCALE, float(config.spread)])
        self.register_buffer("input_scale", scale, persistent=False)
        self.from_user_inputs = nn.Linear(INPUTS, size) if config.node_inputs else None
        self.from_item_inputs = nn.Linear(INPUTS, size) if config.node_inputs else None
        # For graph filters an item's input is the signal that is 1 at the item; nothing is learned.
        self.basis = config.convolution == "graph_filter"
        width = self.features.shape[1]
        self.from_features = nn.Linear(width, size, bias=False) if width else None
        # A step reads few users, so their table's gradient is sparse; it usually reads all items.
        self.user_vectors = (
            _identity(num_users, size, sparse=True) if config.user_identity else None
        )
        self.item_vectors = _identity(len(item_features), size) if config.item_identity else None
        # Made after the others, so that these have the same initial weights without it.
        width = self.user_features.shape[1]
        self.from_user_features = nn.Linear(width, size, bias=False) if width else None
        self.dropout = Dropout(config.dropout_share())

    def chosen(self, features: Tensor) -> Tensor:
        """The columns of [N, F] features that the configuration names."""
        return _of_columns(features, self._columns)

    def chosen_of_users(self, features: Tensor) -> Tensor:
        """The columns of [N, F'] features of users that the configuration names."""
        return _of_columns(features, self._user_columns)

    def users(self, nodes: Tensor, inputs: Tensor) -> Tensor:
        """int64 [N] users and their float32 [N, 3] `Biases.inputs` -> [N, H]."""
        out = self._of_user_inputs(inputs)
        if self.from_user_features is not None:
            out = out + _map_features(self.from_user_features, self.user_features, nodes)
        if self.user_vectors is not None:
            out = self._with_vectors(out, self.user_vectors(nodes), inputs)
        return out

    def new_users(self, inputs: Tensor, features: Tensor | None = None) -> Tensor:
        """The inputs of N users that training never saw, [N, H].

        Args:
            inputs: float32 [N, 3], see `Biases.inputs`.
            features: float32 [N, F] chosen features; None where they are not known, which counts as
                zeros: the mean of a number, and no label.
        """
        out = self._of_user_inputs(inputs)
        if self.from_user_features is None or features is None:
            return out
        known: Tensor = out + self.from_user_features(features)
        return known

    def _of_user_inputs(self, inputs: Tensor) -> Tensor:
        if self.from_user_inputs is None:
            return inputs.new_zeros(len(inputs), self.size)
        return _expand(self.from_user_inputs, inputs * self.input_scale)

    def items(self, nodes: Tensor | None, inputs: Tensor) -> Tensor:
        """int64 [N] items, None for all of them, and their float32 [N, 3] inputs -> [N, H].

        The inputs are those of `Biases.inputs`.
        """
        out = self._of_item_inputs(inputs)
        if self.from_features is not None:
            out = out + _map_features(self.from_features, self.features, nodes)
        if self.item_vectors is not None:
            vectors = self.item_vectors.weight if nodes is None else self.item_vectors(nodes)
            out = self._with_vectors(out, vectors, inputs)
        if self.basis:
            places = torch.arange(len(out), device=out.device) if nodes is None else nodes
            out = out.scatter(1, places.unsqueeze(1), 1.0)
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
        # With a damping of 0 vectors count in full, also those of nodes without ratings.
        if not self.damping:
            return out + vectors
        degrees = inputs[:, 1:2].expm1()
        return torch.addcmul(out, vectors, degrees / (degrees + self.damping))


def _map_features(linear: nn.Linear, features: Tensor, nodes: Tensor | None) -> Tensor:
    """[N, H] mapped features of N nodes; `nodes` is None for all nodes.

    Features are wide, so where N is the number of all nodes or more, each row is mapped once.
    """
    if nodes is None:
        every: Tensor = linear(features)
        return every
    if len(nodes) < len(features):
        few: Tensor = linear(features.index_select(0, nodes))
        return few
    return functional.embedding(nodes, linear(features))


def _of_columns(features: Tensor, columns: Tensor | None) -> Tensor:
    return features if columns is None else features[:, columns.to(features.device)]


def _columns(
    key: str, wanted: bool | Sequence[str], count: int, widths: Mapping[str, int]
) -> Tensor | None:
    """The columns of features to use; None for all of them.

    Args:
        key: the setting's name, for messages.
        wanted: the setting's value.
        count: how many columns there are.
        widths: numbers of columns of the named features, in their order.
    """
    if wanted is True:
        return None
    names = wanted or ()
    if unknown := missing(wanted, widths):
        raise UsageError(
            f"model.{key}: the data set has no {' and no '.join(unknown)}; it has "
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
    """`linear(inputs)` for N nodes with few inputs each.

    With the transposed weight made contiguous, its gradient is computed as inputs^T @ gradient,
    which on a CPU takes a tenth of the time of (gradient^T @ inputs)^T.
    """
    return torch.addmm(linear.bias, inputs, linear.weight.t().contiguous())
