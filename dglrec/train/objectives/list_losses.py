"""Losses of a positive target with a few sampled negatives.

Shapes: B positive targets, k negatives a target.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from dglrec.registry import Registry
from dglrec.train.objectives.rating import prove_losses_of

if TYPE_CHECKING:
    from dglrec.train.objectives.config import RankingConfig

ListLoss = Callable[[Tensor, Tensor, Tensor], Tensor]

SOFTMAX = "softmax"
"""The loss that takes all negatives at once: of the catalogue, or of a pool."""

LIST_LOSSES: Registry[Callable[["RankingConfig"], ListLoss]] = Registry(
    "list loss", "ranking.loss", "register_list_loss", taken=[SOFTMAX]
)
"""The values of `ranking.loss` other than softmax. Each makes a loss from the configuration. The
loss takes float32 [B] scores of positives, float32 [B, k] scores of their negatives, and bool
[B, k] which of these negatives exist, and returns [B] the loss of each positive."""


def _bpr(config: "RankingConfig") -> ListLoss:
    """Bayesian personalised ranking: each positive should score above its negatives.

    Rendle et al., "BPR: Bayesian personalized ranking from implicit feedback", UAI 2009.
    """

    def bpr(positives: Tensor, negatives: Tensor, present: Tensor) -> Tensor:
        each = functional.softplus(negatives - positives.unsqueeze(1))
        return _mean(each, present)

    return bpr


def _bce(config: "RankingConfig") -> ListLoss:
    """Binary cross-entropy of positives and negatives."""

    def bce(positives: Tensor, negatives: Tensor, present: Tensor) -> Tensor:
        each = functional.softplus(negatives)
        return functional.softplus(-positives) + _mean(each, present)

    return bce


def _cosine(config: "RankingConfig") -> ListLoss:
    """Cosine contrastive loss: 1 - cosine of a positive, cosine of a negative above a margin.

    Mao et al., "SimpleX: a simple and strong baseline for collaborative filtering", CIKM 2021.
    """

    def cosine(positives: Tensor, negatives: Tensor, present: Tensor) -> Tensor:
        # Scores are cosines divided by the temperature, which is undone here.
        each = functional.relu(negatives * config.temperature - config.margin)
        positive_losses = 1 - positives * config.temperature
        return positive_losses + config.negative_weight * (each * present).sum(1) / _number(present)

    return cosine


LIST_LOSSES.update(bpr=_bpr, bce=_bce, cosine=_cosine)


def prove_list_loss(config: "RankingConfig") -> None:
    """Try a registered list loss on three positives, before anything is trained with it.

    Raises:
        UsageError: the loss fails, or returns a wrong shape, numbers that are not finite, or a
            tensor without a gradient.
    """
    if config.loss not in LIST_LOSSES.added:
        return
    positives = torch.tensor([0.5, -1.0, 2.0], requires_grad=True)
    negatives = torch.tensor([[0.25, 1.0], [-2.0, 0.0], [0.0, 0.0]], requires_grad=True)
    present = torch.tensor([[True, True], [True, False], [False, False]])
    prove_losses_of(
        f"{LIST_LOSSES.key} = {config.loss}",
        "3 positives",
        lambda: LIST_LOSSES[config.loss](config)(positives, negatives, present),
        positives.shape,
    )


def _mean(each: Tensor, present: Tensor) -> Tensor:
    """[B] means over the existing negatives of [B, k]; 0 where there are none."""
    return (each * present).sum(1) / _number(present)


def _number(present: Tensor) -> Tensor:
    return present.sum(1).clamp(min=1)
