"""The kinds of baseline by name."""

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from dglrec.baselines.config import BaselineConfig
from dglrec.baselines.neighbours import ItemNeighbours
from dglrec.baselines.simple import BiasBaseline, GlobalMean
from dglrec.dataset import RatingDataset
from dglrec.distributed import ALONE, World
from dglrec.kernels import ItemLists


class Baseline(Protocol):
    """What is asked of a fitted baseline."""

    def predict(self, users: Tensor, items: Tensor) -> Tensor:
        """Predicted ratings of n pairs, float32 [n], not clipped to the scale.

        Args:
            users: int64 [n].
            items: int64 [n].
        """

    def best(self, users: Tensor, left_out: ItemLists, k: int) -> tuple[Tensor, Tensor]:
        """The items with the highest predicted ratings for each of n users; as `Scorer.best`."""

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps, by name."""


_KINDS: dict[str, type[GlobalMean] | type[BiasBaseline] | type[ItemNeighbours]] = {
    "global_mean": GlobalMean,
    "bias": BiasBaseline,
    "item_knn": ItemNeighbours,
}


def fit_model(
    kind: str, dataset: RatingDataset, config: BaselineConfig, world: World = ALONE
) -> Baseline:
    """Fit a baseline to the training ratings; for every process to call.

    Args:
        kind: as in `model.kind`.
        dataset: a prepared data set.
        config: the baseline's.
        world: processes that share the work, and all have the result.

    Raises:
        DataError, UnusableEnvironmentError: it takes too much memory.
    """
    return _KINDS[kind].fit(dataset, config, world)


def load_model(
    kind: str, state: Mapping[str, Tensor], dataset: RatingDataset, config: BaselineConfig
) -> Baseline:
    """The baseline that `state` came from.

    Args:
        kind: as in `model.kind`.
        state: what its `state()` was.
        dataset: what it was fitted to.
        config: what it was fitted with.

    Raises:
        ValueError: the state is not one of this kind and data set.
    """
    return _KINDS[kind].load(state, dataset, config)
