"""Graph attention: GAT and GATv2 along one relation.

Shapes: S sources, D destinations, H embedding size, A heads, F columns of a head.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from dglrec.blocks import Block
from dglrec.kernels import attend, attend_jointly
from dglrec.nn.values import Convolution

Merge = Literal["concat", "mean"]


class GATConv(Convolution):
    """GAT over one relation: each head's sum of W h_neighbour, weighed by a softmax, plus b.

    Velickovic et al., "Graph attention networks", ICLR 2018, equations 3 to 6: the softmax over a
    node's edges is of leaky_relu(a . W h_neighbour + b . h). The result is that of
    `dgl.nn.GATConv`: a node attends to itself only along an edge from itself. Between users and
    items there is no such edge, and a node sees itself by the layer's residual. Where DGL computes
    a . W' h with a map W' of destinations, each head has a single vector b here.

    Args:
        size_in: width of sources and destinations.
        size_out: width of the result.
        heads: A.
        merge: `concat`, each head having size_out / A columns, or `mean` of heads of size_out.

    Raises:
        ValueError: the heads do not divide the width.
    """

    def __init__(self, size_in: int, size_out: int, heads: int, merge: Merge = "concat") -> None:
        super().__init__()
        width = head_width(size_out, heads, merge)
        self.merge = merge
        self.neighbour = nn.Linear(size_in, heads * width, bias=False)
        self.attention = nn.Parameter(torch.empty(heads, width))
        self.attend_own = nn.Linear(size_in, heads, bias=False)
        self.bias = nn.Parameter(torch.zeros(size_out))
        nn.init.xavier_normal_(self.attention, nn.init.calculate_gain("relu"))

    def forward(self, block: Block, sources: Tensor, destinations: Tensor) -> Tensor:
        """[S, size_in] sources and [D, size_in] destinations -> [D, size_out]."""
        side_by_side = self.merge == "concat"
        summed = attend(
            block.offsets,
            block.neighbours,
            self.neighbour(sources),
            self.attention,
            self.attend_own(destinations),
            block.present,
            self.bias if side_by_side else None,
        )
        if side_by_side:
            return summed
        return merged(summed, len(self.attention), self.merge) + self.bias

    def without_edges(self, destinations: Tensor) -> Tensor:
        """[D, size_in] destinations that have no edge -> [D, size_out]."""
        return self.bias.expand(len(destinations), -1)


class GATv2Conv(Convolution):
    """GATv2 over one relation: as GAT, with a softmax of a . leaky_relu(W h_neighbour + W' h).

    Brody, Alon and Yahav, "How attentive are graph attention networks?", ICLR 2022, equation 7.
    The result is that of `dgl.nn.GATv2Conv`.

    Args:
        size_in: width of sources and destinations.
        size_out: width of the result.
        heads: A.
        merge: `concat` or `mean`, as in `GATConv`.

    Raises:
        ValueError: the heads do not divide the width.
    """

    def __init__(self, size_in: int, size_out: int, heads: int, merge: Merge = "concat") -> None:
        super().__init__()
        width = head_width(size_out, heads, merge)
        self.merge = merge
        self.size_out = size_out
        self.neighbour = nn.Linear(size_in, heads * width)
        self.own = nn.Linear(size_in, heads * width)
        self.attention = nn.Parameter(torch.empty(heads, width))
        nn.init.xavier_normal_(self.attention, nn.init.calculate_gain("relu"))

    def forward(self, block: Block, sources: Tensor, destinations: Tensor) -> Tensor:
        """[S, size_in] sources and [D, size_in] destinations -> [D, size_out]."""
        summed = attend_jointly(
            block.offsets,
            block.neighbours,
            self.neighbour(sources),
            self.attention,
            self.own(destinations),
            block.present,
        )
        return merged(summed, len(self.attention), self.merge)

    def without_edges(self, destinations: Tensor) -> Tensor:
        """[D, size_in] destinations that have no edge -> [D, size_out] zeros."""
        return destinations.new_zeros(len(destinations), self.size_out)


def head_width(size_out: int, heads: int, merge: Merge) -> int:
    """F, the columns of each head, from the width of the merged result.

    Raises:
        ValueError: the heads do not divide the width.
    """
    if merge == "mean":
        return size_out
    if size_out % heads:
        raise ValueError(f"{heads} heads do not divide {size_out} columns")
    return size_out // heads


def merged(summed: Tensor, heads: int, merge: Merge) -> Tensor:
    """[D, A F] columns of all heads, head by head -> [D, size_out]."""
    return summed if merge == "concat" else summed.unflatten(1, (heads, -1)).mean(1)
