"""Graph filters: a node's value from the values that are up to K - 1 edges away.

Gama, Marques, Leus and Ribeiro, "Convolutional neural network architectures for signals supported
on graphs", IEEE Transactions on Signal Processing 67(4), 2019, equations 4 and 5: with A the graph
shift operator, here a weighted adjacency, and K taps,

    X' = sum over k = 0..K-1 of A^k X W_k + b

Shapes: N nodes, K taps, F features in, G features out.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from dglrec.blocks import WeightedEdges
from dglrec.kernels import sum_messages


def shifts(edges: WeightedEdges, values: Tensor, taps: int) -> Tensor:
    """A^k X for k = 0..K-1: [N, ..., F] values -> [N, ..., K, F].

    Args:
        edges: A; row v holds the weights of node v's in-edges.
        values: X, with any dimensions between nodes and features.
        taps: K, at least 1.

    Raises:
        ValueError: there is no tap, or the values are not those of N nodes.
    """
    if taps < 1:
        raise ValueError(f"taps {taps}: at least 1 is needed")
    if len(values) != edges.num_nodes:
        raise ValueError(f"values of {len(values)} nodes, and the graph has {edges.num_nodes}")
    shifted = [values]
    for _ in range(taps - 1):
        flat = shifted[-1].reshape(len(values), -1)
        summed = sum_messages(edges.offsets, edges.neighbours, flat, edges.weights)
        shifted.append(summed.view(values.shape))
    return torch.stack(shifted, dim=-2)


class GraphFilterConv(nn.Module):
    """A bank of graph filters: sum over k of A^k X W_k + b.

    It is a linear map of `shifts`, so a caller that has the shifts already, or needs only some
    nodes, can call `combine` for the same result. Shifts and maps commute, so `forward` shifts on
    the side that has fewer features.

    Args:
        size_in: F.
        size_out: G.
        taps: K, at least 1; a node reads nodes up to K - 1 edges away.
    """

    def __init__(self, size_in: int, size_out: int, taps: int) -> None:
        super().__init__()
        self.taps = taps
        self.weights = nn.Linear(taps * size_in, size_out)

    def combine(self, shifted: Tensor) -> Tensor:
        """[..., K, F] shifts of any nodes -> [..., G]."""
        out: Tensor = self.weights(shifted.flatten(-2))
        return out

    def forward(self, edges: WeightedEdges, values: Tensor) -> Tensor:
        """[N, ..., F] values -> [N, ..., G]."""
        size_in, size_out = values.shape[-1], self.weights.out_features
        if size_in <= size_out:
            return self.combine(shifts(edges, values, self.taps))
        # Horner's scheme: X W_0 + A (X W_1 + A (X W_2 + ...)).
        by_tap = self.weights.weight.view(size_out, self.taps, size_in).flip(1).unbind(1)
        out = functional.linear(values, by_tap[0])
        for weight in by_tap[1:]:
            summed = sum_messages(
                edges.offsets, edges.neighbours, out.reshape(len(out), -1), edges.weights
            )
            out = summed.view(out.shape) + functional.linear(values, weight)
        return out + self.weights.bias
