"""The best possible lists of planted data, and how far towards them a model's lists go."""

import numpy as np
import torch
from torch import Tensor

from dglrec.dataset import RatingDataset
from dglrec.kernels import ItemLists
from dglrec.synthetic import PlantedLists

_SMALLEST_WAY = 1e-6  # in nDCG; what is smaller is rounding


class Oracle:
    """Ranks items by the probability that an unseen one is relevant, knowing all that was planted.

    It is told, as a model is, which rows are not held out, and how many of a user's rows are.

    Args:
        planted: of the data set's users and items.
        row_counts: int64 [U] rows of each user, held-out ones included.
        relevant_from: the least rating of a relevant item.
        interactions: whether only relevant ratings are rows: a data set of interactions, made from
            the ratings that are at least `relevant_from`.
    """

    def __init__(
        self,
        planted: PlantedLists,
        row_counts: Tensor,
        relevant_from: float,
        *,
        interactions: bool = False,
    ) -> None:
        self._planted = planted
        self._row_counts = row_counts
        self._relevant_from = relevant_from
        self._interactions = interactions

    @classmethod
    def of(
        cls, dataset: RatingDataset, relevant_from: float, *, interactions: bool = False
    ) -> "Oracle | None":
        """The oracle of a data set, or None where it came without a truth, or with an older one.

        Args:
            dataset: with the rows that count.
            relevant_from: the least rating of a relevant item; of a data set of interactions, the
                level from which ratings were taken for interactions.
            interactions: whether it is one.
        """
        if dataset.planted is None:
            return None
        counts = torch.from_numpy(dataset.graph.by_user.degrees.astype(np.int64))
        for name in dataset.held_out_splits:
            counts += dataset.held_out(name).users.bincount(minlength=len(counts))
        return cls(dataset.planted, counts, relevant_from, interactions=interactions)

    def best(self, users: Tensor, left_out: ItemLists, k: int) -> tuple[Tensor, Tensor]:
        """The items that are relevant with the highest probability, for each of n users.

        Args:
            users: int64 [n].
            left_out: for each of all U users the items that are no candidates: its known rows.
            k: how many; of a smaller catalogue all come back.

        Returns:
            Probabilities float32 [n, k], highest first, and items int64 [n, k]. Where fewer than k
            items are left, the rest is -inf, with any item.

        Raises:
            IndexError: a user or an item to be left out is not there.
        """
        known = torch.from_numpy(np.diff(left_out.offsets))[users]
        counts = self._row_counts[users].clamp(min=1)
        # Somebody without unseen rows is ranked for as well, as if one row were unseen.
        unseen = (counts - known).clamp(min=1) / counts
        return self._planted.best(
            users,
            unseen.float(),
            left_out,
            k,
            self._relevant_from,
            interactions=self._interactions,
        )


def share_of_the_way(model: float, popularity: float, oracle: float) -> float | None:
    """(model - popularity) / (oracle - popularity), all three the same metric of the same users.

    Returns:
        0 for lists as good as popularity's, 1 for the best possible; None where the oracle is not
        above popularity.
    """
    way = oracle - popularity
    return (model - popularity) / way if way > _SMALLEST_WAY else None
