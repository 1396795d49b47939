"""Items by their number of training ratings: the list that a model's lists are held against."""

import numpy as np
import torch
from torch import Tensor

from dglrec.graph import RatingGraph
from dglrec.kernels import ItemLists, compiled


class Popularity:
    """Ranks items by their number of training ratings, the same for each user.

    Equally popular items stand in the order of the catalogue.

    Args:
        graph: the training ratings.
    """

    def __init__(self, graph: RatingGraph) -> None:
        self._order = np.argsort(-graph.by_item.degrees, kind="stable")
        # Places, not degrees: no two are equal, and float32 holds them exactly.
        self._scores = np.empty(graph.num_items, dtype=np.float32)
        self._scores[self._order] = -np.arange(graph.num_items, dtype=np.float32)

    def best(self, users: Tensor, left_out: ItemLists, k: int) -> tuple[Tensor, Tensor]:
        """The most popular items for each of n users; arguments and result as in `Scorer.best`.

        The scores say the order and nothing else.
        """
        rows = users.numpy()
        k = min(k, len(self._order))
        items = np.zeros((len(rows), k), dtype=np.int64)
        sizes = np.empty(len(rows), dtype=np.int64)
        starts, ends = left_out.offsets[rows], left_out.offsets[rows + 1]
        if len(rows) and (starts.min() < 0 or ends.max() > len(left_out.items)):
            raise ValueError("the offsets of the items to be left out point outside them")
        _first_left(self._order, starts, ends, left_out.items, items, sizes)
        scores = self._scores[items]
        scores[np.arange(k) >= sizes[:, None]] = -np.inf
        return torch.from_numpy(scores), torch.from_numpy(items)

    def rank_pairs(self, users: Tensor, items: Tensor) -> Tensor:
        """float32 [n]: the score by which lists are ordered, of n pairs."""
        return torch.from_numpy(self._scores)[items]


@compiled
def _first_left(order, starts, ends, left_out, items, sizes):  # type: ignore[no-untyped-def]
    """For each user the first items of an order that are not left out, and how many there are."""
    last_user = np.full(len(order), -1, dtype=np.int64)  # for whom each item was left out last
    for user in range(len(starts)):
        for at in range(starts[user], ends[user]):
            item = left_out[at]
            if item < 0 or item >= len(order):
                raise IndexError("an item to be left out is unknown")
            last_user[item] = user
        size = 0
        for item in order:
            if size == items.shape[1]:
                break
            if last_user[item] != user:
                items[user, size] = item
                size += 1
        sizes[user] = size
