"""Popularity, novelty and diversity of recommended lists, from the items and the users."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dglrec.dataset import RatingDataset
from dglrec.evaluate.groups import head_items
from dglrec.kernels import segment_sums
from dglrec.metrics import ListSums


class ListTraits:
    """Computes `ListSums` of users' lists.

    An item without a training rating counts as rated by one user, so that its self-information is
    finite; the similarity of an item without features to any other is 0.

    Args:
        dataset: the data set; an item's popularity is the share of training users who rated it.
    """

    def __init__(self, dataset: RatingDataset) -> None:
        graph = dataset.graph
        raters, rated = graph.by_item.degrees, graph.by_user.degrees
        training_users = max(int(np.count_nonzero(rated)), 1)
        self._popularity = raters / training_users
        self._information = -np.log2(np.maximum(raters, 1) / training_users)
        self._is_tail = ~head_items(raters)
        # 0 for users without training items, which is never read.
        totals = segment_sums(graph.by_user.offsets, self._popularity, graph.by_user.neighbours)
        self._profiles = totals / np.maximum(rated, 1)
        self._has_profile = rated > 0
        features = dataset.item_features
        self._features: Tensor | None = None
        if features.shape[1]:
            self._features = torch.nn.functional.normalize(features, dim=1)

    def zero(self) -> ListSums:
        """The sums over no lists."""
        return ListSums(np.zeros(len(self._popularity)))

    def sums(
        self,
        users: npt.NDArray[np.int64],
        items: npt.NDArray[np.int64],
        listed: npt.NDArray[np.bool_],
    ) -> ListSums:
        """Sums over n lists of up to k items.

        Args:
            users: int64 [n] the users of the lists.
            items: int64 [n, k]; arbitrary where `listed` is false.
            listed: bool [n, k]; whether a place of the list holds an item.
        """
        sizes = listed.sum(1)
        filled = sizes > 0
        users, items, listed, sizes = users[filled], items[filled], listed[filled], sizes[filled]

        def means(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
            return np.asarray(np.where(listed, values[items], 0.0).sum(1) / sizes)

        has_profile = self._has_profile[users]
        comparable, similarity = self._similarity(items, listed, sizes)
        return ListSums(
            counts=np.bincount(items[listed], minlength=len(self._popularity)).astype(np.float64),
            lists=float(len(sizes)),
            novelty=float(means(self._information).sum()),
            tail=float(means(self._is_tail.astype(np.float64)).sum()),
            comparable=comparable,
            similarity=similarity,
            profiles=float(np.count_nonzero(has_profile)),
            list_popularity=float(means(self._popularity)[has_profile].sum()),
            profile_popularity=float(self._profiles[users[has_profile]].sum()),
        )

    def _similarity(
        self,
        items: npt.NDArray[np.int64],
        listed: npt.NDArray[np.bool_],
        sizes: npt.NDArray[np.int64],
    ) -> tuple[float, float]:
        """The number of lists with two items or more, and the sum of their mean cosines.

        The sum over all pairs of unit vectors f follows from
        |sum f|^2 = sum |f|^2 + 2 * (sum over pairs).
        """
        enough = sizes > 1
        if self._features is None or not enough.any():
            return 0.0, 0.0
        weights = torch.from_numpy(listed[enough]).float()
        places = torch.from_numpy(items[enough])
        totals = torch.nn.functional.embedding_bag(
            places, self._features, mode="sum", per_sample_weights=weights
        )
        lengths = self._features.square().sum(1)
        squares = (lengths[places] * weights).sum(1).double()
        counts = torch.from_numpy(sizes[enough]).double()
        cosines = (totals.double().square().sum(1) - squares) / (counts * (counts - 1))
        return float(np.count_nonzero(enough)), float(cosines.sum())
