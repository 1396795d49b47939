"""One step: predictions, loss, gradient, optimiser."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from dglrec.dataset import RatingDataset
from dglrec.errors import DglrecError
from dglrec.metrics import class_weights, level_of
from dglrec.nn import RatingModel
from dglrec.sampling import EdgeBatch
from dglrec.train.config import TrainConfig

Loss = Callable[[Tensor, Tensor], Tensor]


class TrainingStep:
    """One step: predictions, loss, gradient, optimiser.

    Args:
        model: what is trained, in place.
        config: optimiser, schedule and clipping; its learning rate a number, not `auto`.
        loss: of predictions and ratings.
        steps: of all epochs, for the schedule.
    """

    def __init__(self, model: RatingModel, config: TrainConfig, loss: Loss, steps: int) -> None:
        if config.learning_rate == "auto":
            raise ValueError("the learning rate must be a number; see Settings.resolved")
        self.model = model
        self.loss = loss
        self.clip_norm = config.clip_norm
        self.low_precision = config.precision == "bfloat16"
        kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
        self.optimizer = kind(
            model.parameters(),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: learning_rate_share(step, steps, config)
        )

    def __call__(self, batch: EdgeBatch) -> Tensor:
        """Take one step; the sum of the squared errors of its predictions, made before it.

        Args:
            batch: on the model's device.

        Raises:
            DglrecError: loss or gradient is not finite; the weights are as before.
        """
        device = batch.ratings.device.type
        with torch.autocast(device, dtype=torch.bfloat16, enabled=self.low_precision):
            predictions = self.model(batch)
        value = self.loss(predictions, batch.ratings)
        self.optimizer.zero_grad()
        value.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        _check_finite(value, norm, batch)
        self.optimizer.step()
        self.schedule.step()
        errors: Tensor = predictions.detach() - batch.ratings
        return (errors**2).sum()


def make_loss(name: str, dataset: RatingDataset) -> Loss:
    """The loss of a name: float32 [B] predictions and ratings -> their mean loss.

    `weighted_mse` weighs each squared error by (count of the most frequent rating / count of its
    own rating) in training, normalised to mean 1 over the training ratings.
    """
    if name == "mse":
        return functional.mse_loss
    if name == "smooth_l1":
        return functional.smooth_l1_loss
    counts = torch.from_numpy(dataset.graph.level_counts).float()
    weights = class_weights(dataset.graph.level_counts)
    weights = weights / ((weights * counts).sum() / counts.sum())

    def weighted_mse(predictions: Tensor, ratings: Tensor) -> Tensor:
        row_weights = weights.to(ratings.device)[level_of(ratings, dataset.scale)]
        return (row_weights * (predictions - ratings) ** 2).mean()

    return weighted_mse


def learning_rate_share(step: int, steps: int, config: TrainConfig) -> float:
    """What part of the highest learning rate a step uses, 0 to 1.

    Args:
        step: from 0.
        steps: of all epochs.
        config: schedule and warm-up.
    """
    rising = min(1.0, (step + 1) / (config.warmup_steps + 1))
    done = min(1.0, step / steps)
    if config.schedule == "cosine":
        return rising * (1 + math.cos(math.pi * done)) / 2
    return rising * (1 - done) if config.schedule == "linear" else rising


def _check_finite(value: Tensor, norm: Tensor, batch: EdgeBatch) -> None:
    """Stop before a loss or gradient that is no number reaches the weights."""
    if bool(torch.isfinite(value)) and bool(torch.isfinite(norm)):
        return
    first = ", ".join(str(int(edge)) for edge in batch.edges[:3])
    raise DglrecError(
        f"loss {float(value.detach()):g}, gradient norm {float(norm):g} (batch of edges "
        f"{first}, ...); the weights are as before this step; try a lower train.learning_rate"
    )
