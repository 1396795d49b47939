"""Small operations on tensors that every loader uses."""

import torch
from torch import Tensor

from dglrec.graph import EdgeTensors
from dglrec.kernels import sum_messages


def take(table: Tensor, index: Tensor) -> Tensor:
    """`table[index]`, several times as fast on a CPU."""
    return table.index_select(0, index)


def offsets_of(counts: Tensor) -> Tensor:
    """int64 [D] counts -> int64 [D + 1] offsets."""
    return torch.cat((counts.new_zeros(1), counts.cumsum(0)))


def sum_neighbours(lists: EdgeTensors, values: Tensor) -> Tensor:
    """float64 [N]: the sum of each node's neighbours' values.

    Args:
        lists: the ratings of N nodes.
        values: float64, of each node of the other type.
    """
    return sum_messages(lists.offsets, lists.neighbours, values.unsqueeze(1)).squeeze(1)
