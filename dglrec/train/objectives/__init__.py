"""The objectives of training: ratings, lists, or both.

An objective defines the loss of a batch's targets, the negatives that the loss needs, and which
validation figures make an epoch better than another. The loop does not depend on the objective.
"""

from dglrec.train.objectives.config import RankingConfig
from dglrec.train.objectives.kinds import (
    WORTH_OF_RMSE,
    Costs,
    Figures,
    Metric,
    Objective,
    RatingObjective,
    list_metric,
    make_objective,
    positives_from,
    standard_error_of,
)
from dglrec.train.objectives.list_losses import LIST_LOSSES, ListLoss, prove_list_loss
from dglrec.train.objectives.rating import LOSSES, Loss, make_loss, prove_loss

__all__ = [
    "LIST_LOSSES",
    "LOSSES",
    "WORTH_OF_RMSE",
    "Costs",
    "Figures",
    "ListLoss",
    "Loss",
    "Metric",
    "Objective",
    "RankingConfig",
    "RatingObjective",
    "list_metric",
    "make_loss",
    "make_objective",
    "positives_from",
    "prove_list_loss",
    "prove_loss",
    "standard_error_of",
]
