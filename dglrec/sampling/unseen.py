"""Unseen items: some items of a step are treated as though nobody had rated them.

Of a new item only the features are known, and a model that always sees ratings never learns to
predict from features alone (Volkovs, Yu and Poutanen, "DropoutNet: addressing cold start in
recommender systems", NeurIPS 2017). Here an unseen item's targets are predicted from its embedding
without ratings, while messages to other nodes use its usual values.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from dglrec.kernels import HASH_BITS, hashes


class Targets(NamedTuple):
    """B targets of a step, some of whose items count as unseen.

    Attributes:
        items: int32 or int64 [B] positions; those of `unseen` follow those of all other items.
        baselines: float32 [B].
        unseen: int64 [C] indices of the data set.
    """

    items: Tensor
    baselines: Tensor
    unseen: Tensor

    @classmethod
    def all_seen(cls, items: Tensor, baselines: Tensor) -> "Targets":
        """The targets of B items and baselines, without unseen items."""
        return cls(items, baselines, torch.empty(0, dtype=torch.int64, device=items.device))


def count_as_unseen(nodes: Tensor, share: float, key: int | Tensor) -> Tensor:
    """Whether each of n users or items counts as unseen, bool [n].

    Args:
        nodes: int64 [n] indices of the data set.
        share: of all nodes that count as unseen.
        key: of the choice; see `hashes`.
    """
    return hashes(nodes, key) < share * (1 << HASH_BITS)


def hide_items(
    targets: Targets,
    items: Tensor,
    num_positions: int,
    item_biases: Tensor,
    share: float,
    seed: int,
) -> Targets:
    """Choose items that count as unseen, and predict their targets without their biases.

    Args:
        targets: without unseen items.
        items: [B]; the items as indices of the data set.
        num_positions: how many positions there are without unseen items.
        item_biases: float32 [B]; the bias of each target's item, which is part of its baseline.
        share: of all items that count as unseen.
        seed: of the choice; the same on all processes of a step.
    """
    if not share:
        return targets
    drawn = count_as_unseen(items.long(), share, seed << 31)
    places = drawn.nonzero().squeeze(1)
    hidden = items.index_select(0, places).long()
    unseen, order = torch.unique(hidden, return_inverse=True)
    positions = targets.items.index_copy(0, places, (order + num_positions).to(targets.items.dtype))
    own = item_biases.index_select(0, places)
    without = targets.baselines.index_add(0, places, own, alpha=-1)
    return Targets(positions, without, unseen)
