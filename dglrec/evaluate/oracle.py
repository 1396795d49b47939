"""The best possible lists of planted data, and how close a model's lists come to them."""

import numpy as np
import torch
from torch import Tensor

from dglrec.dataset import RatingDataset
from dglrec.kernels import ItemLists
from dglrec.synthetic import PlantedLists

_SMALLEST_WAY = 1e-6  # in nDCG; smaller differences are rounding errors


class Oracle:
    """Ranks items by the probability that an unseen item is relevant, given the planted truth.

    Beside the truth it knows which rows are not held out, as a model does, and how many of a
    user's rows are held out.

    Args:
        planted: the truth of the data set's users and items.
        row_counts: int64 [U] rows of each user, held-out rows included.
        relevant_from: the lowest rating of a relevant item.
        interactions: whether the data set holds interactions, made from the ratings that are at
            least `relevant_from`, so that every row is relevant.
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
        """The oracle of a data set, or None where it has no planted truth that includes lists.

        Args:
            dataset: the data set, whose rows of all splits are counted.
            relevant_from: the lowest rating of a relevant item; for a data set of interactions,
                the lowest rating that was made an interaction.
            interactions: whether the data set holds interactions.
        """
        if dataset.planted is None:
            return None
        counts = torch.from_numpy(dataset.graph.by_user.degrees.astype(np.int64))
        for name in dataset.held_out_splits:
            counts += dataset.held_out(name).users.bincount(minlength=len(counts))
        return cls(dataset.planted, counts, relevant_from, interactions=interactions)

    def best(self, users: Tensor, left_out: ItemLists, k: int) -> tuple[Tensor, Tensor]:
        """The items with the highest probability of being relevant, for each of n users.

        Args:
            users: int64 [n].
            left_out: for each of the U users the items that are no candidates: its known rows.
            k: the length of the lists; with a smaller catalogue they are as long as that.

        Returns:
            Probabilities float32 [n, k], highest first, and items int64 [n, k]. A user with fewer
            than k candidates gets -inf, and an arbitrary item, in the places after them.

        Raises:
            IndexError: a user, or an item in `left_out`, does not exist.
        """
        known = torch.from_numpy(np.diff(left_out.offsets))[users]
        counts = self._row_counts[users].clamp(min=1)
        # A user without unseen rows gets a list too, as if one row were unseen.
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
    """(model - popularity) / (oracle - popularity), each the same metric of the same users.

    Returns:
        0 for lists as good as popularity's, 1 for the best possible; None where the oracle is not
        above popularity.
    """
    way = oracle - popularity
    return (model - popularity) / way if way > _SMALLEST_WAY else None
