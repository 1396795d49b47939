"""Small operations on tensors that every loader uses."""

import torch
from torch import Tensor


def take(table: Tensor, index: Tensor) -> Tensor:
    """`table[index]`, several times as fast on a CPU."""
    return table.index_select(0, index)


def offsets_of(counts: Tensor) -> Tensor:
    """int64 [D] -> int64 [D + 1], where each stretch starts."""
    return torch.cat((counts.new_zeros(1), counts.cumsum(0)))
