"""Checkpoints of a training: when they are saved, what they hold, and how training resumes."""

import shutil
import time
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dglrec.checkpoint import (
    DAMAGED,
    DamagedError,
    load_checkpoint,
    newest_whole,
    older_checkpoints,
    pack_checkpoint,
    save_checkpoint,
    unpack_checkpoint,
)
from dglrec.dataset import RatingDataset
from dglrec.distributed import World
from dglrec.errors import DataError, UsageError
from dglrec.files import atomic_file, remove_checksums
from dglrec.progress import log
from dglrec.run import (
    BEST,
    DERIVED,
    ITEM_ITEMS,
    LAST,
    METRICS_FILE,
    check_metrics,
    check_same_dataset,
    check_same_derived,
    check_same_rows,
    describe_dataset,
    metrics_digest,
    metrics_lines,
)
from dglrec.train.config import Settings, TrainConfig
from dglrec.train.objectives import Costs, Figures, Objective
from dglrec.train.step import TrainingStep, learning_rate_share


@dataclass
class Progress:
    """The progress of a training, which a checkpoint holds beside weights and optimiser.

    It has no states of random generators: order, samples and dropout depend only on the seed and on
    the position in the epoch.

    Attributes:
        epoch: the number of finished epochs.
        batch: the number of finished batches of the current epoch.
        squared: sum of the squared errors of these batches, of this process since it started.
        count: the number of targets of these batches, of this process since it started.
        listed: sum of their list losses, of this process since it started.
        positives: the number of their positive targets, of this process since it started.
        best: the validation figures of the best epoch by name; None before the first epoch ends.
        best_epoch: the best epoch, from 1.
        records: the best value so far, by name, of each figure that epochs are judged by.
        progress_epoch: the last epoch, from 1, that was the best so far or set a record; patience
            counts the epochs after it.
        seconds: the time of training, without evaluation.
    """

    epoch: int = 0
    batch: int = 0
    squared: float = 0.0
    count: int = 0
    listed: float = 0.0
    positives: int = 0
    best: dict[str, float] | None = None
    best_epoch: int = 0
    records: dict[str, float] = field(default_factory=dict)
    progress_epoch: int = 0
    seconds: float = 0.0

    def goes_on(self, config: TrainConfig) -> bool:
        """Whether another epoch is to be trained."""
        patient = self.epoch - self.progress_epoch < config.patience
        return self.epoch < config.last_epoch and patient

    def judge_epoch(self, figures: Figures, objective: Objective) -> bool:
        """Record the figures of the epoch that just ended; returns whether it is the best so far.

        Without validation rows there are no figures, and the last epoch is the best.

        Raises:
            UsageError: lists are to be judged, and no validation row is relevant.
        """
        if not figures:
            self.best, self.best_epoch, self.progress_epoch = {}, self.epoch, self.epoch
            return True
        better = objective.is_better(figures, self.best)
        if better:
            self.best, self.best_epoch = dict(figures), self.epoch
        goes_forward = better
        for metric in objective.metrics:
            value = figures.get(metric.name)
            if value is not None and metric.is_better(value, self.records.get(metric.name)):
                self.records[metric.name] = value
                goes_forward = True
        if goes_forward:
            self.progress_epoch = self.epoch
        return better

    def clear_sums(self) -> None:
        """Set the sums to zero."""
        self.squared, self.count, self.listed, self.positives = 0.0, 0, 0.0, 0


class Tally:
    """The sums of the current epoch, kept on the device until they are needed.

    Reading a number from a device waits for the device, so steps do not read any.

    Args:
        progress: the sums so far.
        device: the device of the costs.
    """

    def __init__(self, progress: Progress, device: torch.device) -> None:
        so_far = [progress.squared, progress.listed, float(progress.positives)]
        self._sums = torch.tensor(so_far, dtype=torch.float64).to(device)

    def add(self, costs: Costs) -> None:
        """Add a batch's costs."""
        self._sums += torch.stack((costs.squared, costs.listed, costs.positives.double()))

    def write(self, progress: Progress) -> None:
        """Write the sums into the progress, for a checkpoint or the end of the epoch."""
        squared, listed, positives = self._sums.tolist()
        progress.squared, progress.listed, progress.positives = squared, listed, round(positives)


class Checkpoints:
    """A run's checkpoints. The first process reads and writes them for all.

    Args:
        run: the run's folder.
        dataset: the data set to train on.
        settings: the resolved settings.
        step: the training step, with model and optimiser.
        world: the processes that train together.
    """

    def __init__(
        self,
        run: Path,
        dataset: RatingDataset,
        settings: Settings,
        step: TrainingStep,
        world: World,
    ) -> None:
        self.run = run
        self.dataset = dataset
        self.config = settings.train
        self.model = settings.to_dict()["model"]
        self.step = step
        self.world = world
        self._saved = time.monotonic()

    def due_by_time(self) -> bool:
        """Whether the interval in seconds is over; only the first process calls this."""
        seconds = self.config.checkpoint_seconds
        return 0 < seconds <= time.monotonic() - self._saved

    def due_by_steps(self) -> bool:
        """Whether the interval in steps is over; the same on all processes."""
        steps = self.config.checkpoint_steps
        return steps > 0 and self.step.number % steps == 0

    def save_last(self, progress: Progress, valid: dict[str, Any] | None = None) -> None:
        """Save a checkpoint to resume from; every process must call this.

        Args:
            progress: the progress of this process.
            valid: validation metrics, if an epoch has just ended.
        """
        squared, count, listed, positives = self.world.sum(
            [progress.squared, progress.count, progress.listed, progress.positives]
        )
        whole = replace(
            progress,
            squared=squared,
            count=round(count),
            listed=listed,
            positives=round(positives),
        )
        with self.world.together():
            if self.world.is_first:
                state = {"step": self.step.state_dict(), "progress": vars(whole).copy()}
                meta = self._describe(progress, valid)
                weights = self.step.model.state_dict()
                save_checkpoint(
                    self.run / LAST, weights, state, meta, keep=self.config.keep_checkpoints
                )
        self._saved = time.monotonic()

    def save_best(self, progress: Progress, valid: dict[str, Any]) -> None:
        """Save the weights as the best so far; every process must call this."""
        with self.world.together():
            if self.world.is_first:
                meta = self._describe(progress, valid)
                save_checkpoint(self.run / BEST, self.step.model.state_dict(), {}, meta)

    def restore(self) -> Progress:
        """Load the newest undamaged checkpoint, or start from the beginning if there is none.

        Raises:
            DataError: all checkpoints are damaged, or the saved state is not valid, or of another
                data set.
            UsageError: the checkpoint does not fit the settings.
        """
        data = self.world.from_first(self._read)
        if not data:
            if self.world.is_first:
                log(f"{self.run}: no checkpoint was written yet; starting from the beginning")
                self._keep_lines(0)
            return Progress()
        checkpoint, state = unpack_checkpoint(data)
        with self.world.together():
            try:
                self.step.model.load_state_dict(checkpoint.weights)
                self.step.load_state_dict(state["step"])
                saved = state["progress"]
                progress = Progress(**{"progress_epoch": saved["best_epoch"], **saved})
            except (KeyError, TypeError) as error:
                raise DataError(
                    f"{self.run / LAST}: its state is not one of this program "
                    f"({_short(error)}); go back to another checkpoint, or train again"
                ) from error
            except (RuntimeError, ValueError) as error:
                raise UsageError(
                    f"{self.run / LAST}: does not fit the configuration; resume with the run's own"
                ) from error
        with self.world.together():
            if self.world.is_first:
                check_metrics(self.run, checkpoint.meta)
                self._keep_lines(progress.epoch)
        if self.world.is_first:
            where = f"batch {progress.batch} of epoch {progress.epoch + 1}"
            log(
                f"resuming {self.run} after "
                f"{where if progress.batch else f'epoch {progress.epoch}'}"
            )
            self._compare_threads(checkpoint.meta)
            if progress.goes_on(self.config):
                self._compare_schedule(checkpoint.meta)
        else:
            progress.clear_sums()  # the first process keeps the sums of all processes
        miss_best = partial(self._miss_best, progress.best_epoch)
        if self.world.from_first(miss_best if progress.best_epoch else bytes):
            self._replace_best(progress, checkpoint.meta)
        if "records" not in saved and progress.best is not None:
            self._complete(progress)
        return progress

    def load_best(self) -> dict[str, Any]:
        """Load the weights of the best epoch into the model, and return their description.

        Raises:
            DataError: the checkpoint is missing or damaged.
        """
        data = self.world.from_first(lambda: pack_checkpoint(self.run / BEST))
        checkpoint, _ = unpack_checkpoint(data)
        self.step.model.load_state_dict(checkpoint.weights)
        return checkpoint.meta

    def _keep_lines(self, count: int) -> None:
        """Drop lines of epochs that will be computed again."""
        lines = metrics_lines(self.run, count)
        remove_checksums(self.run)
        with atomic_file(self.run / METRICS_FILE) as temporary:
            temporary.write_bytes(lines)

    def _miss_best(self, epoch: int) -> bytes:
        """Some bytes, and a log message, if the best checkpoint is not of this epoch."""
        best = self.run / BEST
        try:
            found = load_checkpoint(best).meta["epoch"] if best.is_dir() else None
            if found == epoch:
                return b""
            log(f"{best} is {'not there' if found is None else f'of epoch {found}, not {epoch}'}")
        except DamagedError as error:
            log(str(error))
        return b"missing"

    def _replace_best(self, progress: Progress, meta: dict[str, Any]) -> None:
        if progress.best_epoch == progress.epoch and not progress.batch:
            progress.best = dict(meta["valid"])
            self.save_best(progress, meta["valid"])
            what = f"written again from {LAST}, which is of the same epoch"
        else:
            progress.best, progress.best_epoch = None, progress.epoch
            progress.progress_epoch = progress.epoch
            what = "the next epoch's model will take its place"
        if self.world.is_first:
            log(f"{BEST}: {what}")

    def _complete(self, progress: Progress) -> None:
        """Fill in the fields that checkpoints of earlier versions lack.

        These held a single figure of the best epoch; the best checkpoint has all figures of that
        epoch. They are taken as the records too, since the figures of other epochs are not known.
        """
        data = self.world.from_first(lambda: pack_checkpoint(self.run / BEST))
        best: dict[str, float] = dict(unpack_checkpoint(data)[0].meta["valid"])
        names = [metric.name for metric in self.step.objective.metrics]
        progress.best = best
        progress.records = {name: best[name] for name in names if name in best}

    def _compare_threads(self, meta: dict[str, Any]) -> None:
        """Log if the results will differ from those of a run that was not interrupted.

        On a CPU, threads divide matrix products and sums, so the number of threads determines the
        order of additions, and thus the last bits of the weights.

        Args:
            meta: the description of the checkpoint that training resumes from.
        """
        if next(self.step.model.parameters()).device.type != "cpu":
            return
        before, now = meta.get("threads"), torch.get_num_threads()
        if before is None:  # checkpoints of earlier versions lack the number
            log(
                f"{self.run}: its checkpoint does not say on how many threads it was trained; if "
                f"it was not {now}, results are no longer the same to the bit"
            )
        elif before != now:
            log(
                f"{self.run} was trained on {_threads(before)} and goes on with {now}: results are "
                f"no longer the same to the bit; set OMP_NUM_THREADS={before} to keep them the same"
            )

    def _compare_schedule(self, meta: dict[str, Any]) -> None:
        """Log if the learning rate jumps, because the number of epochs was changed.

        A schedule falls over all steps, so another number of steps is another schedule. Nothing is
        logged for checkpoints of earlier versions, which lack the number.

        Args:
            meta: the description of the checkpoint that training resumes from.
        """
        planned, epochs = meta.get("steps"), meta.get("epochs")
        if planned is None or epochs is None:
            return
        step = self.step
        before, now = (
            learning_rate_share(step.number, steps, self.config) for steps in (planned, step.steps)
        )
        if before != now:
            log(
                f"{self.run}: train.epochs was {epochs} and is {self.config.epochs}: the learning "
                f"rate goes on at {100 * now:.0f} % of its highest in place of {100 * before:.0f} %"
            )

    def _read(self) -> bytes:
        folder = newest_whole(self.run / LAST)
        if folder is None:
            return b""
        meta = load_checkpoint(folder).meta
        check_same_dataset(meta, self.dataset, self.run)
        check_same_rows(meta, self.dataset, self.run)
        check_same_derived(meta, self.dataset, self.run)
        return pack_checkpoint(folder)

    def _describe(self, progress: Progress, valid: dict[str, Any] | None) -> dict[str, Any]:
        described = {
            "model": self.model,
            **describe_dataset(self.dataset, self.run),
            "epoch": progress.epoch,
            "step": self.step.number,
            "epochs": self.config.epochs,
            "steps": self.step.steps,
            "threads": torch.get_num_threads(),
            "metrics": metrics_digest(self.run, progress.epoch),
        }
        return described if valid is None else {**described, "valid": valid}


def has_checkpoint(run: Path, world: World) -> bool:
    """Whether a run's folder holds a checkpoint to resume from, undamaged or not.

    Args:
        run: the run's folder; the first process looks.
        world: the processes, all of which must call this.
    """
    last = run / LAST

    def found() -> bytes:
        return b"some" if last.is_dir() or older_checkpoints(last) else b""

    return bool(world.from_first(found))


def remove_checkpoints(run: Path, *, keep_best: bool = False) -> None:
    """Remove the checkpoints of a run.

    Args:
        run: the run's folder.
        keep_best: whether to keep the best checkpoint, which is all that using a finished run
            needs; the run cannot be resumed then.
    """
    damaged = (run / LAST).parent.glob(f"{DAMAGED}*")
    best = () if keep_best else (run / BEST, run / ITEM_ITEMS, run / DERIVED)
    for folder in (run / LAST, *best, *older_checkpoints(run / LAST), *damaged):
        remove_folder(folder)


def remove_folder(folder: Path) -> None:
    """Remove a folder of a run, if it exists."""
    if folder.is_symlink():
        folder.unlink()  # the target of the link does not belong to the run
    elif folder.is_dir():
        shutil.rmtree(folder)


def _short(error: Exception) -> str:
    """The message of an error in a state, shortened to a line."""
    said = " ".join(str(error).split())[:80]
    return f"lacks {said}" if isinstance(error, KeyError) else said


def _threads(count: int) -> str:
    return f"{count} thread{'' if count == 1 else 's'}"


def remove_item_weights(run: Path) -> None:
    """Remove the item-item weights of a run, whose model is trained again."""
    remove_folder(run / ITEM_ITEMS)
