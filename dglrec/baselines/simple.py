"""The mean rating, and the mean with biases: predictions without taste."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from dglrec.baselines.config import BaselineConfig
from dglrec.baselines.dense import best_items, check_state
from dglrec.biases import Biases
from dglrec.dataset import RatingDataset
from dglrec.distributed import ALONE, World
from dglrec.kernels import ItemLists


class GlobalMean:
    """Predicts the mean training rating for every pair.

    Args:
        mean: the mean rating.
        num_items: I.
    """

    rates = True

    def __init__(self, mean: float, num_items: int) -> None:
        self.mean = mean
        self.num_items = num_items

    @classmethod
    def fit(
        cls, dataset: RatingDataset, config: BaselineConfig, world: World = ALONE
    ) -> "GlobalMean":
        """Take the mean that the data set was prepared with."""
        return cls(dataset.biases.mean, dataset.graph.num_items)

    @classmethod
    def load(
        cls, state: Mapping[str, Tensor], dataset: RatingDataset, config: BaselineConfig
    ) -> "GlobalMean":
        """The model that `state` was taken from.

        Raises:
            ValueError: `state` is that of another model.
        """
        check_state(state, {"mean": (torch.float64, ())})
        return cls(float(state["mean"]), dataset.graph.num_items)

    def state(self) -> dict[str, Tensor]:
        """`mean`, float64."""
        return {"mean": torch.tensor(self.mean, dtype=torch.float64)}

    def predict(self, users: Tensor, items: Tensor) -> Tensor:
        """The mean for each of n pairs, float32 [n]."""
        return torch.full((len(users),), self.mean)

    def rank_pairs(self, users: Tensor, items: Tensor) -> Tensor:
        """The scores that lists are ordered by: `predict`."""
        return self.predict(users, items)

    def best(self, users: Tensor, left_out: ItemLists, k: int) -> tuple[Tensor, Tensor]:
        """Any k items that are not left out; see `best_items`."""
        return best_items(self.predict, self.num_items, users, left_out, k)


class BiasBaseline:
    """Predicts mean + user bias + item bias; `dglrec.biases` has equation and paper.

    Args:
        biases: fitted biases.
    """

    rates = True

    def __init__(self, biases: Biases) -> None:
        self.biases = biases

    @classmethod
    def fit(
        cls, dataset: RatingDataset, config: BaselineConfig, world: World = ALONE
    ) -> "BiasBaseline":
        """Take the biases that the data set was prepared with."""
        return cls(dataset.biases)

    @classmethod
    def load(
        cls, state: Mapping[str, Tensor], dataset: RatingDataset, config: BaselineConfig
    ) -> "BiasBaseline":
        """The model that `state` was taken from.

        Raises:
            ValueError: `state` is that of another model.
        """
        graph = dataset.graph
        expected = {
            "mean": (torch.float64, ()),
            "users": (torch.float32, (graph.num_users,)),
            "items": (torch.float32, (graph.num_items,)),
        }
        check_state(state, expected)
        mean, users, items = (state[name] for name in expected)
        return cls(replace(dataset.biases, mean=float(mean), users=users, items=items))

    def state(self) -> dict[str, Tensor]:
        """`mean`, float64; `users`, float32 [U]; `items`, float32 [I]."""
        mean = torch.tensor(self.biases.mean, dtype=torch.float64)
        return {"mean": mean, "users": self.biases.users, "items": self.biases.items}

    def predict(self, users: Tensor, items: Tensor) -> Tensor:
        """Predicted ratings of n pairs, float32 [n], not clipped to the scale."""
        return self.biases.predict(users, items)

    def rank_pairs(self, users: Tensor, items: Tensor) -> Tensor:
        """The scores that lists are ordered by: `predict`."""
        return self.predict(users, items)

    def best(self, users: Tensor, left_out: ItemLists, k: int) -> tuple[Tensor, Tensor]:
        """The k items with the highest bias that are not left out; see `best_items`."""
        return best_items(self.predict, len(self.biases.items), users, left_out, k)
