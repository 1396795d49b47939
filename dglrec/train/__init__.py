"""Training: its configuration, its step, its loop."""

from dglrec.train.baseline import fit_baseline
from dglrec.train.config import Settings, TrainConfig
from dglrec.train.describe import describe_environment
from dglrec.train.folder import job_of
from dglrec.train.loaders import Loader, make_loader
from dglrec.train.loop import AfterEpoch, LostDeviceError
from dglrec.train.objectives import (
    LIST_LOSSES,
    LOSSES,
    WORTH_OF_RMSE,
    Figures,
    ListLoss,
    Loss,
    Metric,
    RankingConfig,
    RatingObjective,
    list_metric,
    make_loss,
    make_objective,
)
from dglrec.train.refit import train
from dglrec.train.state import remove_checkpoints
from dglrec.train.step import TrainingStep, learning_rate_share
from dglrec.train.tracking import read_note

__all__ = [
    "LIST_LOSSES",
    "LOSSES",
    "WORTH_OF_RMSE",
    "AfterEpoch",
    "Figures",
    "ListLoss",
    "Loader",
    "Loss",
    "LostDeviceError",
    "Metric",
    "RankingConfig",
    "RatingObjective",
    "Settings",
    "TrainConfig",
    "TrainingStep",
    "describe_environment",
    "fit_baseline",
    "job_of",
    "learning_rate_share",
    "list_metric",
    "make_loader",
    "make_loss",
    "make_objective",
    "read_note",
    "remove_checkpoints",
    "train",
]
