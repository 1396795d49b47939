"""Users as signals on a graph of items: the graph-signal model of ratings, as one layer.

Gama, Marques, Leus and Ribeiro, "Convolutional neural network architectures for signals supported
on graphs", IEEE Transactions on Signal Processing 67(4), 2019, section IV; Huang, Marques and
Ribeiro, "Rating prediction via graph signal processing", IEEE Transactions on Signal Processing
66(19), 2018, for ratings as signals.

Shapes: I items, D users, F features of a node.
"""

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional

from dglrec.blocks import Block, WeightedEdges
from dglrec.nn.config import ModelConfig
from dglrec.nn.decoder import DecoderTerms, EdgeRegressor
from dglrec.nn.graph_filter import GraphFilterConv
from dglrec.nn.values import TwoWayLayer

_USERS_AT_ONCE = 16  # without gradients; with them, all users' values are kept anyway
_INITIAL_OUTPUT = 0.1


class SignalLayer(TwoWayLayer):
    """Layers of graph filters over a user's ratings, read out at each item.

    A user's signal is its ratings' residuals over mean and biases at the items that it rated, and 0
    at the others. The result is the user's value at each item, so users are [D, I]. An item is the
    signal that is 1 at the item and 0 elsewhere, [I, I] for all items: its product with a user's
    values is the value at the item, the local readout.

    Args:
        config: the model's.
        last: whether this is the last layer, which it always is.
        operator: the graph shift operator, a weighted graph of the items.
    """

    offsets: Tensor
    neighbours: Tensor
    weights: Tensor

    def __init__(self, config: ModelConfig, *, last: bool, operator: WeightedEdges) -> None:
        super().__init__()
        del last
        # These come from the data set, so checkpoints do not store them.
        for name in ("offsets", "neighbours", "weights"):
            self.register_buffer(name, getattr(operator, name), persistent=False)
        widths = (1, *config.filter_features)
        self.filters = nn.ModuleList(
            GraphFilterConv(size_in, size_out, config.filter_taps)
            for size_in, size_out in itertools.pairwise(widths)
        )
        # Without a bias, as that would be the same at all items: `LocalReadout` has it.
        self.readout = nn.Linear(widths[-1], 1, bias=False)
        with torch.no_grad():
            # So that training starts at about the biases' predictions, which are within the scale.
            self.readout.weight.mul_(_INITIAL_OUTPUT)

    def signals(self, block: Block, num_items: int) -> Tensor:
        """float32 [I, D] signals of a block's users; its sources are all items."""
        count = block.num_destinations
        owners = torch.repeat_interleave(block.offsets.diff(), output_size=len(block.neighbours))
        out = block.residuals.new_zeros(num_items, count)
        # Accumulated, so that padding, whose residuals are 0, adds 0.
        return out.index_put((block.neighbours.long(), owners), block.residuals, accumulate=True)

    def read_out(self, signals: Tensor) -> Tensor:
        """[I, D] signals -> [D, I] values."""
        edges = WeightedEdges(self.offsets, self.neighbours, self.weights)
        values = signals.unsqueeze(2)
        for conv in self.filters:
            values = functional.relu(conv(edges, values))
        out: Tensor = self.readout(values).squeeze(2).T
        return out

    def update_users(self, block: Block, items: Tensor, users: Tensor) -> Tensor:
        """[I, I] items, [D, I] users, whose values are not used -> [D, I].

        Raises:
            ValueError: the sources are not all items.
        """
        del users
        if len(items) != len(self.offsets) - 1:
            raise ValueError(f"{len(items)} items, and the graph has {len(self.offsets) - 1}")
        signals = self.signals(block, len(items))
        if torch.is_grad_enabled():
            return self.read_out(signals)
        parts = [self.read_out(some) for some in signals.split(_USERS_AT_ONCE, dim=1)]
        return torch.cat(parts) if parts else signals.T

    def update_items(self, block: Block, users: Tensor, items: Tensor) -> Tensor:
        """[D, I] items, unchanged."""
        del block, users
        return items

    def update_new_items(self, items: Tensor) -> Tensor:
        """[D, I] items outside the graph -> zeros: only the biases predict their ratings."""
        return torch.zeros_like(items)


class LocalReadout(EdgeRegressor):
    """A user's value at an item, as the dot product of both without a map, plus a bias."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config.model_copy(update={"decoder_size": 0, "interaction": False}))

    def of_users(self, users: Tensor) -> DecoderTerms:
        """The terms of [N, I] users."""
        return DecoderTerms(self.from_user(users), users)

    def of_items(self, items: Tensor) -> DecoderTerms:
        """The terms of [N, I] items."""
        return DecoderTerms(self.from_item(items), items)
