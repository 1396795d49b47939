"""What a predicted rating costs."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from dglrec.dataset import RatingDataset
from dglrec.metrics import class_weights, level_of

Loss = Callable[[Tensor, Tensor], Tensor]


def make_loss(name: str, dataset: RatingDataset) -> Loss:
    """The loss of a name: float32 [B] predictions and ratings -> [B] the loss of each.

    `weighted_mse` weighs each squared error by (count of the most frequent rating / count of its
    own rating) in training, normalised to mean 1 over the training ratings.
    """
    if name == "mse":
        return partial(functional.mse_loss, reduction="none")
    if name == "smooth_l1":
        return partial(functional.smooth_l1_loss, reduction="none")
    counts = torch.from_numpy(dataset.graph.level_counts).float()
    weights = class_weights(dataset.graph.level_counts)
    weights = weights / ((weights * counts).sum() / counts.sum())

    def weighted_mse(predictions: Tensor, ratings: Tensor) -> Tensor:
        row_weights = weights.to(ratings.device)[level_of(ratings, dataset.scale)]
        return row_weights * (predictions - ratings) ** 2

    return weighted_mse
