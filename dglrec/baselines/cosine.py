"""Item nearest neighbours of interactions: the cosine of items' users, shrunk, summed.

Sarwar, Karypis, Konstan and Riedl, "Item-based collaborative filtering recommendation algorithms",
WWW 2001, with the shrinkage of Ferrari Dacrema, Cremonesi and Jannach, "Are we really making much
progress?", RecSys 2019: with d_i users of item i and c_ij users of both i and j,

    s_ij = c_ij / (sqrt(d_i d_j) + shrinkage)

A user's score of an item is the sum of s over the user's items that are among the item's k most
similar ones.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import Tensor

from dglrec.baselines.config import BaselineConfig, fixed
from dglrec.baselines.dense import check_state
from dglrec.baselines.pairs import PairSums
from dglrec.baselines.positives import positives_of
from dglrec.baselines.ranker import Floats, Known, Ranker, pick_best, places_of
from dglrec.dataset import RatingDataset
from dglrec.progress import progress

_SUMS_AT_ONCE = 1 << 24
_ARRAYS = 4  # float64 arrays of that many sums


class CosineNeighbours(Ranker):
    """Ranks by the summed similarities of a user's items.

    Args:
        neighbours: float32 [I, I]; row i holds the similarities of item i's neighbours.
        positives: float32 [U, I], the users' rows.
        degrees: int64 [I] training rows of each item.

    Raises:
        ValueError: the arrays of a matrix do not fit together.
    """

    def __init__(
        self,
        neighbours: sparse.csr_array,
        positives: sparse.csr_array,
        degrees: npt.NDArray[np.int64],
    ) -> None:
        super().__init__(positives, degrees)
        neighbours.check_format(full_check=True)
        self.neighbours = neighbours
        self._by_positive = neighbours.T.tocsr()

    @classmethod
    def fit(
        cls, dataset: RatingDataset, config: BaselineConfig, known: Known | None = None
    ) -> "CosineNeighbours":
        """Compare all items with each other, and keep the most similar items of each."""
        positives = positives_of(dataset, "all")
        degrees = dataset.graph.by_item.degrees
        neighbours = cosine_neighbours(
            positives,
            fixed(config.neighbours),
            shrinkage=fixed(config.shrinkage),
            min_support=config.min_support,
        )
        return cls(neighbours, positives, degrees)

    @classmethod
    def load(
        cls, state: Mapping[str, Tensor], dataset: RatingDataset, config: BaselineConfig
    ) -> "CosineNeighbours":
        """The model that `state` was taken from.

        Raises:
            ValueError: `state` is that of another model.
        """
        size = dataset.graph.num_items
        count = state["items"].numel() if "items" in state else 0
        expected = {
            "offsets": (torch.int64, (size + 1,)),
            "items": (torch.int32, (count,)),
            "similarities": (torch.float32, (count,)),
        }
        check_state(state, expected)
        offsets, items, similarities = (state[name].numpy() for name in expected)
        matrix = sparse.csr_array((similarities, items, offsets), shape=(size, size))
        return cls(matrix, positives_of(dataset, "all"), dataset.graph.by_item.degrees)

    @classmethod
    def footprint(
        cls, dataset: RatingDataset, config: BaselineConfig, processes: int, searching: bool
    ) -> int:
        """See `Ranker.footprint`."""
        size = dataset.graph.num_items
        most = MOST_NEIGHBOURS if searching else fixed(config.neighbours)
        kept = 2 * 8 * size * min(most, size)  # by item, and transposed
        rows = 12 * dataset.graph.num_edges
        return (kept + rows) * (processes + searching) + _ARRAYS * 8 * _SUMS_AT_ONCE

    def state(self) -> dict[str, Tensor]:
        """Neighbours by item: `offsets`, int64 [I + 1]; `items`, int32; `similarities`, float32.

        With k neighbours it takes 8 k I bytes; all similarities in float32 would take 4 I^2.
        """
        return {
            "offsets": torch.from_numpy(self.neighbours.indptr.astype(np.int64)),
            "items": torch.from_numpy(self.neighbours.indices.astype(np.int32)),
            "similarities": torch.from_numpy(self.neighbours.data),
        }

    def score_rows(self, rows: sparse.csr_array) -> Floats:
        """Summed similarities to a row's items, float32 [n, I]."""
        scores: Floats = (rows @ self._by_positive).toarray()
        return scores


MOST_NEIGHBOURS = 400
"""The largest number of neighbours that a search tries."""


def cosine_neighbours(
    positives: sparse.csr_array, neighbours: int, *, shrinkage: float, min_support: int = 1
) -> sparse.csr_array:
    """Each item's most similar items, float32 [I, I]; of equally similar items, the more popular.

    Args:
        positives: float32 [U, I], ones.
        neighbours: how many for each item, at most.
        shrinkage: as in the module's equation.
        min_support: the least number of users that similar items have in common.
    """
    sums = PairSums(positives)
    size = sums.num_items
    degrees = np.bincount(positives.indices, minlength=size)
    roots = np.sqrt(degrees)
    places, k = places_of(degrees), min(neighbours, size)
    kept: list[tuple[npt.NDArray[np.int64], Floats]] = []
    counts = np.zeros(size, dtype=np.int64)
    with progress("comparing items", size, "items") as advance:
        at_once = max(1, _SUMS_AT_ONCE // size)
        for first in range(0, size, at_once):
            last = min(first + at_once, size)
            both = sums.of(first, last)
            rows = np.arange(last - first)
            both[rows, rows + first] = 0
            both[both < min_support] = 0
            similar = both / np.maximum(np.outer(roots[first:last], roots) + shrinkage, 1e-9)
            found = np.where(both > 0, similar, -np.inf).astype(np.float32)
            values, items = pick_best(found, places, k)
            there = np.isfinite(values)
            counts[first:last] = there.sum(1)
            kept.append((items[there], values[there]))
            advance(last - first)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    items, values = (np.concatenate(parts) for parts in zip(*kept, strict=True))
    matrix = sparse.csr_array((values, items.astype(np.int32), offsets), shape=(size, size))
    matrix.sort_indices()
    return matrix
