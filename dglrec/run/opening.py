"""A run's best model, opened."""

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
"""Which rows a model reads: `train`, those that it was trained on; `valid`, validation rows as
well; `all`, all rows of the data set; `auto`, `all` where it was trained on more than training
rows, as of a model that nobody is going to measure, else `train`."""


def open_run(
    run: Path,
    *,
    dataset: Path | None = None,
    device: torch.device | None = None,
    world: World = ALONE,
    history: History = "train",
) -> TrainedModel:
    """Open a run's best model, which must be one with a graph.

    Args:
        run: the run's folder.
        dataset: where the data set is now, if it was moved.
        device: where the model computes; None for the CPU.
        world: the processes that open it; each reads the run's folder.
        history: the rows that it reads, in place of those that it was trained on; it learns nothing
            from them.

    Raises:
        DataError: there is no run or no whole checkpoint, or the data set is gone or another one.
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
    """Open a run's best model, whatever its kind.

    Args:
        run: the run's folder.
        dataset: where the data set is now, if it was moved.
        fallback: where it is if it is not where it was.
        device: where a graph model computes, None for the CPU; baselines do on the CPU.
        world: the processes that open it; each reads the run's folder.
        history: as for `open_run`; a baseline reads the rows that it was fitted to.

    Raises:
        DataError: there is no run or no whole checkpoint, or the data set is gone or another one.
        UsageError: a baseline is to read other rows.
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
    """The held-out splits whose rows a model is to read besides those that it was trained on."""
    if history == "auto":
        history = "train" if learned_from(meta) == (TRAIN,) else "all"
    return {"train": (), "valid": ("valid",), "all": HELD_OUT}[history]
