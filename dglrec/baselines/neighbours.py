"""Item nearest neighbours: predict a rating from the user's ratings of similar items.

Koren, "Factor in the neighbors: scalable and accurate collaborative filtering", ACM TKDD 4(1),
2010, sections 2 and 3: with b_ui mean and biases and e_uj = r_uj - b_uj,

    r_ui = b_ui + sum_j s_ij e_uj / sum_j s_ij

over the k items j that user u rated and that are most similar to i, among those with s_ij > 0.
Similarity is the correlation of the residuals e of the users who rated both, shrunk if there are
few; `kernels.add_similarities` has its equation. An item is not its own neighbour.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dglrec.baselines.config import BaselineConfig, fixed
from dglrec.baselines.dense import best_items, check_state
from dglrec.biases import residuals_of
from dglrec.dataset import RatingDataset
from dglrec.distributed import ALONE, World
from dglrec.errors import DataError, UnusableEnvironmentError
from dglrec.graph import node_chunks
from dglrec.kernels import (
    ItemLists,
    Rated,
    Raters,
    add_similarities,
    count_pairs,
    predict_residuals,
)
from dglrec.machine import available_memory, gib
from dglrec.progress import progress

LARGEST = 1_200_000_000
"""The most bytes that the similarities of all items may take."""

DEFAULTS = {"neighbours": 40, "shrinkage": 100.0}
"""The values of settings that are `auto`."""

_STEPS = 200  # of the progress bar, at most
_LEAST_PAIRS = 1 << 24  # in a step, so that threads have something to share
_ROWS_AT_ONCE = 512


class ItemNeighbours:
    """Predicts from the user's ratings of the most similar items.

    Args:
        similarities: float32 [I, I], symmetric, 0 where items are not similar, zeros on the
            diagonal.
        dataset: for its training ratings and biases.
        config: for the number of neighbours.
    """

    rates = True

    def __init__(
        self, similarities: Tensor, dataset: RatingDataset, config: BaselineConfig
    ) -> None:
        self.similarities = similarities
        self._similarities: npt.NDArray[np.float32] = similarities.numpy()
        self._neighbours = fixed(config.with_values(DEFAULTS).neighbours)
        self._biases = dataset.biases
        by_user = dataset.graph.by_user
        residuals = residuals_of(dataset.graph, dataset.biases)
        self._rated = Rated(by_user.offsets, by_user.neighbours, residuals)

    @classmethod
    def fit(
        cls, dataset: RatingDataset, config: BaselineConfig, world: World = ALONE
    ) -> "ItemNeighbours":
        """Compare all items with each other; several processes share the items.

        The result does not depend on the number of processes or threads.

        Raises:
            DataError: the similarities would take more than `LARGEST` bytes.
            UnusableEnvironmentError: there is less memory than they take.
        """
        graph = dataset.graph
        with world.together():
            check_size(dataset)
        model = cls(torch.zeros(graph.num_items, graph.num_items), dataset, config)
        raters = Raters(graph.by_item.offsets, graph.by_item.neighbours, graph.edges_by_item)
        work = np.zeros(graph.num_items + 1, dtype=np.int64)
        np.cumsum(count_pairs(raters, graph.by_user.offsets), out=work[1:])
        bounds = world.cut(torch.from_numpy(work[1:]))
        start, end = bounds[world.rank], bounds[world.rank + 1]
        total = int(work[end] - work[start])
        at_once = max(total // _STEPS, _LEAST_PAIRS)
        with progress("comparing items", total, "pairs", shown=world.is_first) as advance:
            for first, last in node_chunks(work[start : end + 1], at_once):
                items = start + first, start + last
                add_similarities(
                    raters,
                    model._rated,
                    model._similarities,
                    work,
                    items,
                    shrinkage=fixed(config.with_values(DEFAULTS).shrinkage),
                    min_support=config.min_support,
                )
                advance(int(work[items[1]] - work[items[0]]))
        world.share_rows(model.similarities, bounds)
        for first in range(0, graph.num_items, _ROWS_AT_ONCE):
            rows = model.similarities[first : first + _ROWS_AT_ONCE]
            # Rounded as in a checkpoint, so that a run predicts the same when it is opened again.
            rows.copy_(rows.half())
        _mirror(model.similarities)
        return model

    @classmethod
    def load(
        cls, state: Mapping[str, Tensor], dataset: RatingDataset, config: BaselineConfig
    ) -> "ItemNeighbours":
        """The model that `state` was taken from.

        Raises:
            ValueError: `state` is that of another model.
        """
        size = dataset.graph.num_items
        check_state(state, {"similarities": (torch.float16, (size, size))})
        return cls(state["similarities"].float(), dataset, config)

    def state(self) -> dict[str, Tensor]:
        """`similarities`, float16 [I, I]: half the file, for a relative error of 0.0005 in each.

        Values below 3e-8 become 0. A prediction is a mean with these weights, so the error of a
        rating is about 0.0001.
        """
        return {"similarities": self.similarities.half()}

    def predict(self, users: Tensor, items: Tensor) -> Tensor:
        """Predicted ratings of n pairs, float32 [n], not clipped to the scale."""
        found = predict_residuals(users, items, self._rated, self._similarities, self._neighbours)
        return found.add_(self._biases.predict(users, items))

    def rank_pairs(self, users: Tensor, items: Tensor) -> Tensor:
        """The scores that lists are ordered by: `predict`."""
        return self.predict(users, items)

    def best(self, users: Tensor, left_out: ItemLists, k: int) -> tuple[Tensor, Tensor]:
        """The k items with the highest predictions among those not left out; see `best_items`."""
        return best_items(self.predict, len(self.similarities), users, left_out, k)


def check_size(dataset: RatingDataset) -> None:
    """Refuse a data set with more items than memory has room for similarities of.

    Raises:
        DataError: the similarities are larger than `LARGEST`.
        UnusableEnvironmentError: there is less memory than they take.
    """
    count = dataset.graph.num_items
    needed = count * count * 4
    if needed > LARGEST:
        raise DataError(
            f"{dataset.path}: the similarities of its {count:,} items, which model.kind item_knn "
            f"keeps, take {gib(needed)}, and may take {gib(LARGEST)} at most; choose another "
            "model.kind, or leave rare items out of the data set"
        )
    needed += needed + dataset.graph.num_edges * 4  # a checkpoint's copy; residuals
    available = available_memory()
    if needed > available:
        raise UnusableEnvironmentError(
            f"model.kind item_knn needs {gib(needed)} of memory for {count:,} items, and there are "
            f"{gib(available)}; choose another model.kind, or a larger machine"
        )


def _mirror(square: Tensor) -> None:
    """Copy the elements below the diagonal to above it, where there are zeros."""
    for first in range(0, len(square), _ROWS_AT_ONCE):
        last = first + _ROWS_AT_ONCE
        square[:first, first:last] = square[first:last, :first].T
        corner = square[first:last, first:last]
        corner += corner.T.clone()
