"""Rankers that a run does not store: they are fitted to the training rows again, in seconds."""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import Tensor

from dglrec.baselines.config import BaselineConfig
from dglrec.baselines.dense import check_state
from dglrec.baselines.ranker import Ranker
from dglrec.dataset import RatingDataset


class RefittedRanker(Ranker):
    """A ranker whose state only identifies its training rows, by items' degrees.

    Args:
        rows: float32 [U, I], the users' rows.
        degrees: int64 [I] training rows of each item.
    """

    bytes_an_edge: ClassVar[int]
    """Bytes of memory that fitting takes for each training row."""

    def __init__(self, rows: sparse.csr_array, degrees: npt.NDArray[np.int64]) -> None:
        super().__init__(rows, degrees)
        self._degrees = degrees

    @classmethod
    def load(
        cls, state: Mapping[str, Tensor], dataset: RatingDataset, config: BaselineConfig
    ) -> Ranker:
        """The model that `state` was taken from, fitted again.

        Raises:
            ValueError: `state` is that of another model, or of other training rows.
        """
        degrees = dataset.graph.by_item.degrees
        check_state(state, {"degrees": (torch.int64, (len(degrees),))})
        if not np.array_equal(state["degrees"].numpy(), degrees):
            raise ValueError("degrees are those of other training rows")
        return cls.fit(dataset, config)

    @classmethod
    def footprint(
        cls, dataset: RatingDataset, config: BaselineConfig, processes: int, searching: bool
    ) -> int:
        """See `Ranker.footprint`."""
        return cls.bytes_an_edge * dataset.graph.num_edges * (processes + searching)

    def state(self) -> dict[str, Tensor]:
        """`degrees`, int64 [I]; all else is made from the training rows again."""
        return {"degrees": torch.from_numpy(self._degrees)}
