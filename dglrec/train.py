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
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import dgl
import numpy as np
import tomli_w
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional

from dglrec import __version__
from dglrec.biases import Biases
from dglrec.checkpoint import load_checkpoint, load_state, save_checkpoint
from dglrec.dataset import RatingDataset
from dglrec.errors import DataError, DglrecError, UsageError
from dglrec.evaluate import evaluate, measure
from dglrec.files import atomic_file, check_target_folder, disk_errors, write_json
from dglrec.graph import RatingGraph
from dglrec.infer import embed_all
from dglrec.metrics import class_weights, level_of
from dglrec.nn import ModelConfig, RatingModel
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
from dglrec.sampling import EdgeBatch, LoaderConfig, NeighborEdgeLoader, UserBatchLoader, seed_of

Loss = Callable[[Tensor, Tensor], Tensor]

# Found on planted data of full size and on the small real sets.
_RATE, _BATCH_OF_RATE = 0.02, 1 << 18


class TrainConfig(BaseModel):
    """How the model is fitted."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    epochs: int = Field(10, ge=1, description="passes over the training ratings, at most")
    patience: int = Field(
        3, ge=1, description="epochs without a better validation RMSE before training stops"
    )
    loss: Literal["mse", "smooth_l1", "weighted_mse"] = Field(
        "mse",
        description="mse, smooth_l1, or weighted_mse: squared errors weighed by how rare the "
        "rating is (the best epoch is still that of the lowest plain validation RMSE)",
    )
    optimizer: Literal["adam", "adamw"] = Field("adamw", description="adam or adamw")
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] | Literal["auto"] = Field(
        "auto",
        description="highest learning rate; auto: 0.02 at a batch of 262,144, falling with the "
        "cube root of the batch size",
    )
    weight_decay: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="adamw's decay; adam's L2 penalty"
    )
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="how the learning rate falls to zero over all epochs, or stays"
    )
    warmup_steps: int = Field(50, ge=0, description="steps over which the learning rate rises")
    clip_norm: float = Field(1.0, gt=0, description="largest norm of a step's gradient")
    seed: int = Field(0, ge=0, description="of weights, order, samples and dropout")


@dataclass(frozen=True)
class Settings:
    """The three configurations of one training."""

    model: ModelConfig
    loader: LoaderConfig
    train: TrainConfig

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Plain values by section and key, as in `config.toml`."""
        sections = {"model": self.model, "loader": self.loader, "train": self.train}
        return {name: section.model_dump(mode="json") for name, section in sections.items()}

    def resolved(self, graph: RatingGraph) -> "Settings":
        """The same with each `auto` replaced by what it means for these training ratings."""
        batch_size = self.loader.edges_a_batch(graph.num_edges)
        dropout = self.model.dropout_share(graph.num_edges / graph.num_items)
        rate = self.train.learning_rate
        if rate == "auto":
            rate = _RATE * (batch_size / _BATCH_OF_RATE) ** (1 / 3)
        return replace(
            self,
            model=self.model.model_copy(update={"dropout": dropout}),
            loader=self.loader.model_copy(update={"batch_size": batch_size}),
            train=self.train.model_copy(update={"learning_rate": rate}),
        )


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
        DglrecError: the loss is no longer finite, or the disk is full.
    """
    run, device = Path(run), device or torch.device("cpu")
    settings = settings.resolved(dataset.graph)
    config = settings.train
    if resume:
        _check_resumable(run, dataset)
    else:
        _start_run(run, overwrite)
        _write_config(run, settings)
        write_json(run / ENVIRONMENT_FILE, describe_environment(device))

    torch.manual_seed(config.seed)
    model = RatingModel(settings.model, dataset.graph.num_users, dataset.item_features).to(device)
    loader = make_loader(dataset.graph, dataset.biases, settings.loader, config.seed, device)
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
        kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
        self.optimizer = kind(
            model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
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


def _start_run(run: Path, overwrite: bool) -> None:
    """Make or clear the folder. The configuration goes in first: it marks the folder as a run."""
    check_target_folder(run, marker=CONFIG_FILE, overwrite=overwrite)
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
