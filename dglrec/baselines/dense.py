"""Shared by baselines: finding the best items by predicting a whole catalogue; checking a state."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from dglrec.infer import entries_of
from dglrec.kernels import ItemLists

_PAIRS_AT_ONCE = 1 << 20


def best_items(
    predict: Callable[[Tensor, Tensor], Tensor],
    num_items: int,
    users: Tensor,
    left_out: ItemLists,
    k: int,
) -> tuple[Tensor, Tensor]:
    """The items with the highest predicted ratings for each of n users; as `Scorer.best`.

    Args:
        predict: int64 [m] users and int64 [m] items -> float32 [m].
        num_items: I.
        users: int64 [n].
        left_out: for each of all U users, the items that are not candidates.
        k: how many; if there are fewer items, all of them.

    Returns:
        Predicted ratings [n, k], best first, not clipped, and items [n, k]. If fewer than k
        candidates remain, the rest is -inf, with arbitrary items.
    """
    k = min(k, num_items)
    catalogue = torch.arange(num_items)
    found = []
    for part in users.split(max(1, _PAIRS_AT_ONCE // num_items)):
        pairs = part.repeat_interleave(num_items), catalogue.repeat(len(part))
        scores = predict(*pairs).view(len(part), num_items)
        rows, entries = entries_of(left_out.offsets, part)
        scores[rows, torch.from_numpy(left_out.items[entries.numpy()]).long()] = -torch.inf
        found.append(scores.topk(k, dim=1))
    return torch.cat([best.values for best in found]), torch.cat([best.indices for best in found])


def check_state(
    state: Mapping[str, Tensor], expected: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]
) -> None:
    """Refuse tensors that are not the state of a baseline.

    Args:
        state: tensors by name.
        expected: type and shape by name.

    Raises:
        ValueError: a tensor is missing or unexpected, has another type or shape, or is not finite.
    """
    found = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in state.items()}
    if found != dict(expected):
        raise ValueError(f"expected {dict(expected)}, found {found}")
    for name, tensor in state.items():
        if tensor.numel() and not all(bound.isfinite() for bound in tensor.aminmax()):
            raise ValueError(f"{name} is not finite")
