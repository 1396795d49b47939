"""Losses of predicted ratings."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from dglrec.dataset import RatingDataset
from dglrec.errors import UsageError
from dglrec.metrics import class_weights, level_of
from dglrec.registry import Registry

Loss = Callable[[Tensor, Tensor], Tensor]

LOSSES: Registry[Callable[[RatingDataset], Loss]] = Registry("loss", "train.loss", "register_loss")
"""The values of `train.loss`. Each makes a loss from the data set; the loss takes float32 [B]
predictions and ratings, and returns [B] the loss of each."""


def _weighted_mse(dataset: RatingDataset) -> Loss:
    """Squared errors weighted by the rarity of the rating.

    The weight is (count of the most frequent rating / count of this rating) in training, normalised
    to mean 1 over the training ratings.
    """
    counts = torch.from_numpy(dataset.graph.level_counts).float()
    weights = class_weights(dataset.graph.level_counts)
    weights = weights / ((weights * counts).sum() / counts.sum())

    def weighted_mse(predictions: Tensor, ratings: Tensor) -> Tensor:
        row_weights = weights.to(ratings.device)[level_of(ratings, dataset.scale)]
        return row_weights * (predictions - ratings) ** 2

    return weighted_mse


LOSSES.update(
    mse=lambda dataset: partial(functional.mse_loss, reduction="none"),
    smooth_l1=lambda dataset: partial(functional.smooth_l1_loss, reduction="none"),
    weighted_mse=_weighted_mse,
)


def make_loss(name: str, dataset: RatingDataset) -> Loss:
    """The loss with a name: float32 [B] predictions and ratings -> [B] the loss of each."""
    return LOSSES[name](dataset)


def prove_loss(name: str, dataset: RatingDataset) -> None:
    """Try a registered loss on three ratings, before anything is trained with it.

    Raises:
        UsageError: see `prove_losses_of`.
    """
    if name not in LOSSES.added:
        return
    scale = dataset.scale
    ratings = torch.tensor([scale.minimum, scale.maximum, scale.minimum])
    predictions = (ratings.flip(0) + 0.25).requires_grad_()
    prove_losses_of(
        f"{LOSSES.key} = {name}",
        "3 predictions",
        lambda: make_loss(name, dataset)(predictions, ratings),
        ratings.shape,
    )


def prove_losses_of(where: str, what: str, call: Callable[[], object], shape: torch.Size) -> None:
    """Refuse a registered loss that does not return the loss of each target.

    Args:
        where: the setting that names the loss, for messages.
        what: the input that it is tried on, for messages.
        call: calls the loss.
        shape: the expected shape.

    Raises:
        UsageError: the loss fails, or returns a wrong shape, numbers that are not finite, or a
            tensor without a gradient.
    """
    try:
        losses = call()
    except Exception as error:
        raise UsageError(f"{where}: fails on {what} ({type(error).__name__}: {error})") from error
    if not isinstance(losses, Tensor) or losses.shape != shape:
        given = list(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
        raise UsageError(
            f"{where}: gives {given} for {what}; give {list(shape)}, the loss of each, and not "
            "their mean or sum"
        )
    if not bool(losses.isfinite().all()):
        raise UsageError(f"{where}: gives what is no finite number")
    if not losses.requires_grad:
        raise UsageError(f"{where}: has no gradient; make it of its arguments by torch's means")
