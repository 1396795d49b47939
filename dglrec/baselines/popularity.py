"""The same list for everybody: the items with the most training rows."""

from collections.abc import Mapping

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from dglrec.baselines.config import BaselineConfig
from dglrec.baselines.dense import check_state
from dglrec.baselines.ranker import no_ratings
from dglrec.dataset import RatingDataset
from dglrec.distributed import ALONE, World
from dglrec.graph import RatingGraph
from dglrec.kernels import ItemLists, compiled


class Popularity:
    """Ranks items by their number of training rows, the same for each user.

    Equally popular items are in the order of the catalogue.

    Args:
        graph: the training rows.
    """

    rates = False

    def __init__(self, graph: RatingGraph) -> None:
        counts = graph.by_item.degrees
        self.counts = counts
        self._order = np.argsort(-counts, kind="stable")
        # Scores are ranks, not counts: no two are equal, and float32 holds them exactly.
        self._scores = np.empty(len(counts), dtype=np.float32)
        self._scores[self._order] = -np.arange(len(counts), dtype=np.float32)

    @classmethod
    def fit(
        cls, dataset: RatingDataset, config: BaselineConfig, world: World = ALONE
    ) -> "Popularity":
        """Count the training rows."""
        return cls(dataset.graph)

    @classmethod
    def load(
        cls, state: Mapping[str, Tensor], dataset: RatingDataset, config: BaselineConfig
    ) -> "Popularity":
        """The model that `state` was taken from.

        Raises:
            ValueError: `state` is that of another model.
        """
        check_state(state, {"counts": (torch.int64, (dataset.graph.num_items,))})
        model = cls(dataset.graph)
        if not np.array_equal(state["counts"].numpy(), model.counts):
            raise ValueError("counts are those of other training rows")
        return model

    def state(self) -> dict[str, Tensor]:
        """`counts`, int64 [I]."""
        return {"counts": torch.from_numpy(self.counts)}

    def predict(self, users: Tensor, items: Tensor) -> Tensor:
        """Refuse: counts are not ratings.

        Raises:
            UsageError: always.
        """
        raise no_ratings()

    def best(self, users: Tensor, left_out: ItemLists, k: int) -> tuple[Tensor, Tensor]:
        """The most popular items for each of n users; as `Ranker.best`.

        Args:
            users: int64 [n].
            left_out: for each of all U users, the items that are not candidates.
            k: how many; if there are fewer items, all of them.
        """
        rows = users.numpy()
        k = min(k, len(self.counts))
        items = np.zeros((len(rows), k), dtype=np.int64)
        sizes = np.empty(len(rows), dtype=np.int64)
        starts, ends = left_out.offsets[rows], left_out.offsets[rows + 1]
        if len(rows) and (starts.min() < 0 or ends.max() > len(left_out.items)):
            raise ValueError("the offsets of the items to be left out point outside them")
        _first_left(self._order, starts, ends, left_out.items, items, sizes)
        scores = self._scores[items]
        scores[np.arange(k) >= sizes[:, None]] = -np.inf
        return torch.from_numpy(scores), torch.from_numpy(items)

    def best_of_rows(
        self, rows: sparse.csr_array, left_out: ItemLists, k: int
    ) -> tuple[Tensor, Tensor]:
        """As `best`, for n users who are not in the data set; their items make no difference."""
        return self.best(torch.arange(rows.shape[0]), left_out, k)

    def rank_pairs(self, users: Tensor, items: Tensor) -> Tensor:
        """The scores of n pairs' items, float32 [n]; they order items and have no other meaning."""
        return torch.from_numpy(self._scores).index_select(0, items)


@compiled
def _first_left(order, starts, ends, left_out, items, sizes):  # type: ignore[no-untyped-def]
    """Each user's first items, in an order, that are not left out, and how many they are."""
    last_user = np.full(len(order), -1, dtype=np.int64)  # the last user whose list lacks the item
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
