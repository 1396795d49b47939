"""Some items of a step are treated as though nobody had rated them, or nothing would train that.

Of all that is known of a new item, only its features are known; a model that always sees ratings
too never learns to do without (Volkovs, Yu and Poutanen, "DropoutNet: addressing cold start in
recommender systems", NeurIPS 2017). Here the item stays what it is for everybody else's messages,
and only the targets are predicted from what it would be without ratings.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from dglrec.kernels import HASH_BITS, hashes


class Targets(NamedTuple):
    """B targets of a step, some of whose items count as unseen.

    Attributes:
        items: int32 or int64 [B] positions; from the number of items on those of `unseen`.
        baselines: float32 [B].
        unseen: int64 [C] indices of the data set.
    """

    items: Tensor
    baselines: Tensor
    unseen: Tensor

    @classmethod
    def all_seen(cls, items: Tensor, baselines: Tensor) -> "Targets":
        """Those of B items and baselines, nothing being unseen yet."""
        return cls(items, baselines, torch.empty(0, dtype=torch.int64, device=items.device))


def count_as_unseen(nodes: Tensor, share: float, key: int | Tensor) -> Tensor:
    """Whether each of n users or items counts as unseen, bool [n].

    Args:
        nodes: int64 [n] indices of the data set.
        share: of all of them that do.
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
        targets: with nothing unseen yet.
        items: [B] the items as indices of the data set.
        num_positions: how many positions there are of items that are seen.
        item_biases: float32 [B] that of each target's item, which its baseline is made of.
        share: of all items that count as unseen.
        seed: of the choice; the same on all processes that share a step.
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
