"""Items whose vectors are most like those of others."""

import torch
from torch import Tensor
from torch.nn import functional

_SIMILARITIES_AT_ONCE = 1 << 24


@torch.inference_mode()
def nearest_items(vectors: Tensor, items: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k other items whose vectors have the largest cosines with an item's.

    Args:
        vectors: float32 [I, H], of all items.
        items: int64 [n].
        k: how many neighbours; less than I.

    Returns:
        Cosines float32 [n, k], the largest first, and items int64 [n, k].

    >>> vectors = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 1.0]])
    >>> nearest_items(vectors, torch.tensor([0]), 1)[1].tolist()
    [[2]]
    """
    units = functional.normalize(vectors.float(), dim=1)
    found = [(torch.empty(0, k), torch.empty(0, k, dtype=torch.int64))]
    for some in items.split(max(1, _SIMILARITIES_AT_ONCE // len(units))):
        cosines = units.index_select(0, some) @ units.T
        cosines.scatter_(1, some.unsqueeze(1), -torch.inf)  # an item is no neighbour of itself
        best = cosines.topk(k, dim=1)
        found.append((best.values, best.indices))
    return torch.cat([cosines for cosines, _ in found]), torch.cat([items for _, items in found])
