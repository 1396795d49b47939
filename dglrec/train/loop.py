"""The one training loop.

Data flow: loader -> `EdgeBatch` -> model -> loss -> optimiser step; after each epoch exact
embeddings -> validation metrics -> checkpoints. The loop knows neither which loader it has nor
which loss.
"""

import json
import math
import platform
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import dgl
import numpy as np
import tomli_w
import torch

from dglrec import __version__
from dglrec.biases import Biases
from dglrec.checkpoint import load_checkpoint, load_state, save_checkpoint
from dglrec.dataset import RatingDataset
from dglrec.errors import DataError, DglrecError, UsageError
from dglrec.evaluate import evaluate, measure
from dglrec.files import atomic_file, check_target_folder, disk_errors, write_json
from dglrec.graph import RatingGraph
from dglrec.infer import embed_all
from dglrec.nn import RatingModel
from dglrec.progress import log, progress
from dglrec.run import (
    BEST,
    CONFIG_FILE,
    ENVIRONMENT_FILE,
    LAST,
    METRICS_FILE,
    RESULTS_FILE,
    check_same_dataset,
    open_run,
)
from dglrec.sampling import LoaderConfig, NeighborEdgeLoader, UserBatchLoader, seed_of
from dglrec.train.config import Settings
from dglrec.train.memory import footprint, place_graph
from dglrec.train.step import TrainingStep, make_loss


class Loader(Protocol):
    """What the training loop asks of a loader."""

    def __len__(self) -> int:
        """Batches in an epoch."""

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration is."""

    def __iter__(self) -> Any:
        """Iterate over the epoch's `EdgeBatch`es."""


@dataclass
class _Progress:
    """How far training is: what a checkpoint keeps beside weights and optimiser."""

    epoch: int = 0  # epochs done
    best_rmse: float = math.inf
    best_epoch: int = 0
    seconds: float = 0.0


def train(
    dataset: RatingDataset,
    run: Path,
    settings: Settings,
    *,
    device: torch.device | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Train a model and leave it, with its metrics, in a run folder.

    Args:
        dataset: a prepared data set.
        run: the run's folder.
        settings: model, loader and training configuration.
        device: where to compute; None for the CPU.
        resume: go on from the run's last checkpoint.
        overwrite: whether an existing run may be replaced.

    Returns:
        What `results.json` holds: epochs, seconds, and metrics of the best model on the
        validation and the test rows.

    Raises:
        UsageError: the run exists and may not be replaced, or cannot be resumed like this.
        DataError: the checkpoint to resume from is missing or bad.
        UnusableEnvironmentError: there is too little memory.
        DglrecError: the loss is no longer finite, or the disk is full.
    """
    run, device = Path(run), device or torch.device("cpu")
    settings = settings.resolved(dataset.graph)
    config = settings.train
    if resume:
        _check_resumable(run, dataset)
    else:
        check_target_folder(run, marker=CONFIG_FILE, overwrite=overwrite)
    torch.manual_seed(config.seed)
    model = RatingModel(settings.model, dataset.graph.num_users, dataset.item_features)
    graph_device = place_graph(footprint(dataset.graph, model, settings), device)
    if not resume:
        _start_run(run)
        _write_config(run, settings)
        write_json(run / ENVIRONMENT_FILE, describe_environment(device))

    log(describe_training(dataset.graph, settings, device))
    model.to(device)
    loader = make_loader(dataset.graph, dataset.biases, settings.loader, config.seed, graph_device)
    step = TrainingStep(model, config, make_loss(config.loss, dataset), len(loader) * config.epochs)
    done = _Progress()
    if resume:
        done = _restore(run, step)
        # Not before: settings that do not fit must not replace those that do.
        _write_config(run, settings)
    valid = dataset.held_out("valid")

    while done.epoch < config.epochs and done.epoch - done.best_epoch < config.patience:
        started = time.monotonic()
        loader.set_epoch(done.epoch)
        # Dropout depends on the seed and the epoch alone, so a resumed run draws the same.
        torch.manual_seed(seed_of(config.seed, done.epoch))
        title = f"epoch {done.epoch + 1} of {config.epochs}"
        train_rmse = _train_epoch(step, loader, device, title)
        done.seconds += time.monotonic() - started
        embeddings = embed_all(model, dataset.graph, dataset.biases)
        metrics = measure(model, embeddings, dataset, valid).finish()
        done.epoch += 1
        if not math.isfinite(metrics["rmse"]):
            raise DglrecError(
                f"epoch {done.epoch}: validation RMSE {metrics['rmse']:g}; checkpoints are as "
                "before this epoch; try a lower train.learning_rate"
            )
        better = metrics["rmse"] < done.best_rmse
        if better:
            done.best_rmse, done.best_epoch = metrics["rmse"], done.epoch
        _append_line(
            run / METRICS_FILE,
            {
                "epoch": done.epoch,
                "train_rmse": train_rmse,
                **{f"valid_{name}": value for name, value in metrics.items()},
                "learning_rate": step.schedule.get_last_lr()[0],
                "seconds": round(done.seconds, 3),
            },
        )
        log(
            f"epoch {done.epoch} of {config.epochs}: training RMSE {train_rmse:.4f}, "
            f"validation RMSE {metrics['rmse']:.4f}{' (best)' if better else ''}, "
            f"{done.seconds:.0f} s"
        )
        meta = {
            "model": settings.to_dict()["model"],
            "dataset": str(dataset.path.resolve()),
            "fingerprint": dataset.fingerprint,
            "epoch": done.epoch,
            "valid": metrics,
        }
        state = {
            "optimizer": step.optimizer.state_dict(),
            "schedule": step.schedule.state_dict(),
            "progress": vars(done).copy(),
        }
        if better:
            save_checkpoint(run / BEST, model.state_dict(), {}, meta)
        save_checkpoint(run / LAST, model.state_dict(), state, meta)

    trained = open_run(run, dataset=dataset.path, device=device)
    results = {
        "epochs": done.epoch,
        "best_epoch": done.best_epoch,
        "training_seconds": round(done.seconds, 3),
        "valid": evaluate(trained, "valid"),
        "test": evaluate(trained, "test"),
    }
    write_json(run / RESULTS_FILE, results)
    return results


def _train_epoch(step: TrainingStep, loader: Loader, device: torch.device, title: str) -> float:
    """One pass over the training ratings; the RMSE of its predictions, each before its step."""
    step.model.train()
    squared, count = 0.0, 0
    with progress(title, len(loader), "batches") as advance:
        for number, batch in enumerate(loader):
            try:
                squared += float(step(batch.to(device)))
            except DglrecError as error:
                raise DglrecError(f"{title}, step {number + 1}: {error}") from error
            count += len(batch.ratings)
            advance(1)
    return math.sqrt(squared / count)


def make_loader(
    graph: RatingGraph, biases: Biases, config: LoaderConfig, seed: int, device: torch.device
) -> Loader:
    """The loader that a configuration names.

    Args:
        graph: the training ratings.
        biases: fitted to them.
        config: the loader's.
        seed: of order and samples.
        device: where batches are wanted.
    """
    if config.kind == "neighbor":
        return NeighborEdgeLoader(graph, biases, config, seed)
    return UserBatchLoader(graph, biases, config, seed, device)


def _start_run(run: Path) -> None:
    """Make or clear the folder. The configuration goes in first: it marks the folder as a run."""
    with disk_errors(run):
        run.mkdir(parents=True, exist_ok=True)
        for name in (METRICS_FILE, RESULTS_FILE):
            (run / name).unlink(missing_ok=True)
        for folder in (LAST, BEST):
            _remove_checkpoint(run / folder)


def _write_config(run: Path, settings: Settings) -> None:
    with atomic_file(run / CONFIG_FILE) as temporary:
        temporary.write_text(tomli_w.dumps(settings.to_dict()), encoding="utf-8")


def _remove_checkpoint(folder: Path) -> None:
    if folder.is_dir():
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()


def describe_training(graph: RatingGraph, settings: Settings, device: torch.device) -> str:
    """One line: what is trained on, and what `auto` came to.

    Args:
        graph: the training ratings.
        settings: resolved ones.
        device: where it computes.
    """
    loader = settings.loader
    where = str(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    return (
        f"{graph.num_edges:,} ratings by {graph.num_users:,} users of {graph.num_items:,} items, "
        f"on {where}: loader {loader.kind}, batch {loader.batch_size:,}, "
        f"learning rate {settings.train.learning_rate:.4g}, dropout {settings.model.dropout:g}"
    )


def describe_environment(device: torch.device) -> dict[str, Any]:
    """Versions and machine that a run's figures belong to."""
    return {
        "dglrec": __version__,
        "dgl": dgl.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "threads": torch.get_num_threads(),
    }


def _check_resumable(run: Path, dataset: RatingDataset) -> None:
    if not run.is_dir():
        raise DataError(f"{run}: no such run to resume; leave out --resume to start it")
    if not (run / LAST).is_dir():
        raise DataError(
            f"{run}: holds no {LAST}; no epoch was finished, start again with --overwrite"
        )
    check_same_dataset(load_checkpoint(run / LAST).meta, dataset, run)


def _restore(run: Path, step: TrainingStep) -> _Progress:
    checkpoint, state = load_checkpoint(run / LAST), load_state(run / LAST)
    try:
        step.model.load_state_dict(checkpoint.weights)
        step.optimizer.load_state_dict(state["optimizer"])
        step.schedule.load_state_dict(state["schedule"])
        done = _Progress(**state["progress"])
    except (RuntimeError, KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"{run / LAST}: does not fit the configuration; resume with the run's own"
        ) from error
    # Killed between an epoch's two checkpoints, `best` is an epoch ahead of `last`. Going on
    # computes that epoch again, to the same result.
    _keep_lines(run / METRICS_FILE, done.epoch)
    log(f"resuming {run} after epoch {done.epoch}")
    return done


def _append_line(path: Path, values: dict[str, Any]) -> None:
    with disk_errors(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(values) + "\n")


def _keep_lines(path: Path, count: int) -> None:
    """Drop lines of epochs that will be computed again."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    with atomic_file(path) as temporary:
        temporary.write_text("".join(lines[:count]), encoding="utf-8")
