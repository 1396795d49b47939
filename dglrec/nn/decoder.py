"""From a user's and an item's embedding to their rating's residual over the biases."""

import warnings
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dglrec.kernels import score_edges
from dglrec.nn.config import ModelConfig
from dglrec.nn.values import NodeValues

_INITIAL_OUTPUT = 0.1


class DecoderTerms(NamedTuple):
    """The decoder's terms of each node of one type, which do not depend on the other node.

    Attributes:
        hidden: [N, D]; the node's part of the first layer's sum.
        factors: [N, H]; the node's vector in the dot product; None without a dot product.
    """

    hidden: Tensor
    factors: Tensor | None

    def of(self, nodes: Tensor) -> "DecoderTerms":
        """The terms of some nodes."""
        return DecoderTerms(
            self.hidden[nodes], None if self.factors is None else self.factors[nodes]
        )


class EdgeRegressor(nn.Module):
    """An MLP over a user's and an item's embedding: w relu(W [u; i] + b), plus P u . Q i.

    The first layer is stored as W_u u + W_i i, so that it is applied once to each node, and not
    once to each edge; it is the same MLP. The dot product is added because an MLP is slow to learn
    one (Rendle, Krichene, Zhang and Anderson, "Neural collaborative filtering vs. matrix
    factorization revisited", RecSys 2020).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        size, hidden = config.encoded_size, config.decoder_size
        with warnings.catch_warnings():
            # A table without columns, with decoder_size 0, is intended.
            warnings.filterwarnings("ignore", message="Initializing zero-element tensors")
            self.from_user = nn.Linear(size, hidden)
            self.from_item = nn.Linear(size, hidden, bias=False)
            self.out = nn.Linear(hidden, 1)
        self.factor_of_user = nn.Linear(size, size, bias=False) if config.interaction else None
        self.factor_of_item = nn.Linear(size, size, bias=False) if config.interaction else None
        with torch.no_grad():
            # So that training starts at about the biases' predictions, which are within the scale.
            self.out.weight.mul_(_INITIAL_OUTPUT)
            self.out.bias.zero_()
            if self.factor_of_user is not None:
                self.factor_of_user.weight.mul_(_INITIAL_OUTPUT)

    def forward(self, nodes: NodeValues, users: Tensor, items: Tensor) -> Tensor:
        """[N, H] embeddings, int64 [B] positions of targets' users and items -> [B] residuals."""
        return self.score(self.of_users(nodes.users), self.of_items(nodes.items), users, items)

    def of_users(self, users: Tensor) -> DecoderTerms:
        """The terms of [N, H] users."""
        factors = None if self.factor_of_user is None else self.factor_of_user(users)
        return DecoderTerms(self.from_user(users), factors)

    def of_items(self, items: Tensor) -> DecoderTerms:
        """The terms of [N, H] items."""
        factors = None if self.factor_of_item is None else self.factor_of_item(items)
        return DecoderTerms(self.from_item(items), factors)

    def score(
        self, of_users: DecoderTerms, of_items: DecoderTerms, users: Tensor, items: Tensor
    ) -> Tensor:
        """Residuals of B pairs of rows, [B]."""
        factors = None
        if of_users.factors is not None and of_items.factors is not None:
            factors = of_users.factors, of_items.factors
        hidden = of_users.hidden, of_items.hidden
        scores = score_edges(users, items, hidden, self.out.weight.squeeze(0), factors)
        return scores + self.out.bias

    def all_pairs(self, of_users: DecoderTerms, of_items: DecoderTerms) -> Tensor:
        """Residuals of every pair of n and m rows, [n, m]."""
        # Unit by unit: all units at once would take D times the memory.
        out = self.out.bias.expand(len(of_users.hidden), len(of_items.hidden)).clone()
        for unit, weight in enumerate(self.out.weight.squeeze(0)):
            pairs = of_users.hidden[:, unit : unit + 1] + of_items.hidden[:, unit]
            out = out.addcmul_(pairs.relu_(), weight)
        if of_users.factors is not None and of_items.factors is not None:
            out = out + of_users.factors @ of_items.factors.T
        return out
