"""Layers of collaborative filtering on bare edges: LightGCN, LR-GCCF and NGCF.

They use only that an edge exists, and the degrees of its ends. With d a node's degree and N its
neighbours, all of them take sums weighed by the symmetric normalisation

    A h_v = sum over w in N(v) of h_w / sqrt(d_v d_w)

From a sample of a node's edges the sum is estimated by the sample's mean times the degree.

Shapes: S sources, D destinations, H embedding size.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from dglrec.blocks import Block
from dglrec.nn.aggregation import normalised_sum, plus
from dglrec.nn.config import ModelConfig
from dglrec.nn.dropout import Dropout
from dglrec.nn.values import TwoWayLayer, of_length_one

_SLOPE = 0.2  # LeakyReLU's negative slope, the value of NGCF's authors


class LightGCNLayer(TwoWayLayer):
    """LightGCN: h_v = A h (He et al., SIGIR 2020, equation 7), without a map or a self-loop.

    Args:
        config: the model's.
        last: whether this is the last layer; it makes no difference.
    """

    def __init__(self, config: ModelConfig, *, last: bool) -> None:
        super().__init__()
        del config, last

    def update_users(self, block: Block, items: Tensor, users: Tensor) -> Tensor:
        """[S, H] items, [D, H] users -> [D, H]."""
        del users
        return normalised_sum(block, items)

    def update_items(self, block: Block, users: Tensor, items: Tensor) -> Tensor:
        """[S, H] users, [D, H] items -> [D, H]."""
        del items
        return normalised_sum(block, users)

    def update_new_items(self, items: Tensor) -> Tensor:
        """[D, H] items that nobody has rated -> [D, H] zeros."""
        return torch.zeros_like(items)


class LRGCCFLayer(TwoWayLayer):
    """LR-GCCF: h_v = (A h + h_v / (d_v + 1)), linear (Chen et al., AAAI 2020, equations 4-6).

    Each node counts as a neighbour of itself, so degrees are one higher. As in the authors' code,
    there are no linear maps between the layers, and the concatenation of all layers stands for the
    residual.

    Args:
        config: the model's.
        last: whether this is the last layer; it makes no difference.
    """

    def __init__(self, config: ModelConfig, *, last: bool) -> None:
        super().__init__()
        del config, last

    def update_users(self, block: Block, items: Tensor, users: Tensor) -> Tensor:
        """[S, H] items, [D, H] users -> [D, H]."""
        return normalised_sum(block, items, own=1) + users / (block.degrees + 1).unsqueeze(1)

    def update_items(self, block: Block, users: Tensor, items: Tensor) -> Tensor:
        """[S, H] users, [D, H] items -> [D, H]."""
        return normalised_sum(block, users, own=1) + items / (block.degrees + 1).unsqueeze(1)

    def update_new_items(self, items: Tensor) -> Tensor:
        """[D, H] items that nobody has rated -> [D, H], unchanged."""
        return items


class NGCFLayer(TwoWayLayer):
    """NGCF: LeakyReLU(W1 (h_v + A h) + W2 (A h * h_v)) (Wang et al., SIGIR 2019, equations 3-7).

    The sum of a node's products with its neighbours is its product with their sum. Each layer's
    result has length 1, as in the authors' code.

    Args:
        config: the model's.
        last: whether this is the last layer; it makes no difference.
    """

    def __init__(self, config: ModelConfig, *, last: bool) -> None:
        super().__init__()
        del last
        size = config.embedding_size
        self.plain = nn.Linear(size, size)
        self.product = nn.Linear(size, size)
        self.dropout = Dropout(config.dropout_share())
        for linear in (self.plain, self.product):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def update_users(self, block: Block, items: Tensor, users: Tensor) -> Tensor:
        """[S, H] items, [D, H] users -> [D, H]."""
        return self._update(normalised_sum(block, items), users)

    def update_items(self, block: Block, users: Tensor, items: Tensor) -> Tensor:
        """[S, H] users, [D, H] items -> [D, H]."""
        return self._update(normalised_sum(block, users), items)

    def update_new_items(self, items: Tensor) -> Tensor:
        """[D, H] items that nobody has rated -> [D, H]."""
        return self._update(torch.zeros_like(items), items)

    def _update(self, summed: Tensor, own: Tensor) -> Tensor:
        mapped = plus(self.plain(own + summed), self.product(summed * own))
        out = self.dropout(functional.leaky_relu(mapped, _SLOPE, inplace=True))
        return of_length_one(out)
