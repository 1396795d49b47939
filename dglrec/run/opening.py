"""Opening the best model of a run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from dglrec.baselines import BaselineConfig, load_model
from dglrec.checkpoint import Checkpoint, load_checkpoint
from dglrec.dataset import HELD_OUT, TRAIN
from dglrec.distributed import ALONE, World
from dglrec.errors import DataError, UsageError
from dglrec.run.data import check_has_times, learned_from, open_dataset_of
from dglrec.run.folder import ITEM_ITEMS, best_checkpoint
from dglrec.run.kept import item_weights_of, with_derived_of
from dglrec.run.models import build_model, described, described_model, misfit
from dglrec.run.trained import Predictor, TrainedBaseline, TrainedModel

History = Literal["auto", "train", "valid", "all"]
"""The rows that a model reads: `train`, those that it was trained on; `valid`, validation rows as
well; `all`, all rows of the data set; `auto`, `all` for a model trained on more than training rows,
which is for use and not for measuring, and `train` for other models."""


def open_run(
    run: Path,
    *,
    dataset: Path | None = None,
    device: torch.device | None = None,
    world: World = ALONE,
    history: History = "train",
) -> TrainedModel:
    """Open a run's best model, which must be a graph model.

    Args:
        run: the run's folder.
        dataset: the data set's folder, if it was moved.
        device: the device of the model; None for the CPU.
        world: the processes that open it; each reads the run's folder.
        history: the rows that the model reads, in place of those that it was trained on; it does
            not learn from them.

    Raises:
        DataError: there is no run or no undamaged checkpoint, or the data set is missing or a
            different one.
        UsageError: the run is a baseline's.
    """
    run = Path(run)
    checkpoint = best_checkpoint(run)
    kind = described_model(checkpoint.meta, run).kind
    if kind != "graph":
        raise UsageError(
            f"{run}: is a run of the {kind} baseline, which has no embeddings; this needs a graph "
            "model: train one with --set model.kind=graph"
        )
    return _open_model(run, checkpoint, dataset, None, device, world, history)


def open_predictor(
    run: Path,
    *,
    dataset: Path | None = None,
    fallback: Path | None = None,
    device: torch.device | None = None,
    world: World = ALONE,
    history: History = "train",
) -> Predictor:
    """Open a run's best model, a graph model or a baseline.

    Args:
        run: the run's folder.
        dataset: the data set's folder, if it was moved.
        fallback: a folder to try if the data set is not in its recorded place.
        device: the device of a graph model, None for the CPU; baselines run on the CPU.
        world: the processes that open it; each reads the run's folder.
        history: as in `open_run`; a baseline reads only the rows that it was fitted to.

    Raises:
        DataError: there is no run or no undamaged checkpoint, or the data set is missing or a
            different one.
        UsageError: `history` names other rows for a baseline.
    """
    run = Path(run)
    checkpoint = best_checkpoint(run)
    kind = described_model(checkpoint.meta, run).kind
    if kind == "graph":
        return _open_model(run, checkpoint, dataset, fallback, device, world, history)
    if history in ("valid", "all"):
        raise UsageError(
            f"--history {history}: the {kind} baseline reads the rows that it was fitted to alone; "
            "leave it out, or train the baseline with --refit"
        )
    data = open_dataset_of(run, checkpoint.meta, dataset, fallback)
    config = described(BaselineConfig, checkpoint.meta.get("baseline"), run)
    if kind in ("session", "vsknn"):
        check_has_times(data, run)
    try:
        baseline = load_model(kind, checkpoint.weights, data, config)
    except ValueError as error:
        raise DataError(misfit(run)) from error
    return TrainedBaseline(baseline=baseline, dataset=data, meta=checkpoint.meta, world=world)


def _open_model(
    run: Path,
    checkpoint: Checkpoint,
    dataset: Path | None,
    fallback: Path | None,
    device: torch.device | None,
    world: World,
    history: History,
) -> TrainedModel:
    data = open_dataset_of(run, checkpoint.meta, dataset, fallback)
    data = data.with_rows(_splits_read(checkpoint.meta, history))
    data = with_derived_of(run, checkpoint.meta, data)
    model = build_model(checkpoint.meta, data, run)
    if model.config.reads_times:
        check_has_times(data, run)
    try:
        model.load_state_dict(checkpoint.weights)
    except RuntimeError as error:
        raise DataError(misfit(run)) from error
    model = model.to(device or torch.device("cpu")).eval()
    weights = None
    if (run / ITEM_ITEMS).is_dir():
        weights = item_weights_of(load_checkpoint(run / ITEM_ITEMS), run, checkpoint.meta, data)
    return TrainedModel(
        model=model, dataset=data, meta=checkpoint.meta, world=world, item_weights=weights
    )


def _splits_read(meta: Mapping[str, Any], history: History) -> tuple[str, ...]:
    """The held-out splits whose rows the model reads in addition to those it was trained on."""
    if history == "auto":
        history = "train" if learned_from(meta) == (TRAIN,) else "all"
    return {"train": (), "valid": ("valid",), "all": HELD_OUT}[history]
