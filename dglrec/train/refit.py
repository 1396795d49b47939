"""`train`: a training, optionally followed by a second training (refit) on more rows.

Validation rows choose the best epoch and settings; after that, they and the test rows can be used
for training as well. The run that made the choice is kept in the folder `selection/`.
"""

import json
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dglrec.baselines import BaselineConfig
from dglrec.checkpoint import load_checkpoint
from dglrec.dataset import HELD_OUT, RatingDataset
from dglrec.distributed import ALONE, World
from dglrec.errors import UsageError
from dglrec.progress import counted, log
from dglrec.run import (
    BEST,
    CONFIG_FILE,
    ITEM_ITEMS,
    LAST,
    SELECTION,
    described_model,
    holds_checkpoints,
    is_finished,
    locked,
    shown_parts,
)
from dglrec.trackers import check_tracker
from dglrec.train.added import prove_parts
from dglrec.train.beginning import resolve_beginning
from dglrec.train.config import Settings
from dglrec.train.folder import check_run, job_of, read_results, start_run, sweep_run
from dglrec.train.loop import AfterEpoch, train_once


def train(
    dataset: RatingDataset,
    run: Path,
    settings: Settings,
    *,
    device: torch.device | None = None,
    resume: bool = False,
    overwrite: bool = False,
    world: World = ALONE,
    after_epoch: AfterEpoch = lambda epoch, figures: False,
    report: Collection[str] = HELD_OUT,
) -> dict[str, Any]:
    """Train a model, and write it with its metrics into a run's folder.

    A `model.kind` other than `graph` is a baseline: see `fit_baseline`.

    With `train.refit` a first training, in the folder `selection` of the run, chooses the best
    epoch and other settings on validation rows. The second training, which is the run, has the same
    settings and number of epochs, and its training rows include the validation rows (`valid`), or
    all rows (`all`).

    In a world of several processes, all of them must call this. On SIGINT and SIGTERM it finishes
    the current step (several processes: the step after it), saves, and raises `KeyboardInterrupt`.
    SIGHUP does not stop it: training outlives its terminal, and writes its messages to `train.log`
    in the run's folder.

    Args:
        dataset: a prepared data set.
        run: the run's folder, which only the first process reads and writes.
        settings: model, loader and training configuration, the same on all processes.
        device: where to compute; None for the CPU.
        resume: whether to resume from the run's last checkpoint, with the same results as without
            the interruption.
        overwrite: whether an existing run may be replaced.
        world: the processes that train together.
        after_epoch: called after each epoch is saved, with its number, from 1, and its validation
            figures; if it returns True, training ends and the best epoch so far is kept. It must
            return the same on all processes. It is not called for a baseline, nor in the second
            training of `train.refit`.
        report: the held-out splits to measure at the end; rows of other splits are not read.

    Returns:
        The contents of `results.json`: epochs, seconds, metrics of the best model on validation and
        test rows, unless it has learned from them, and, if older ratings weigh less, the half-lives
        in the unit of the timestamps; for a refitted run also `learned_from`, names of splits, and
        `selection`, the results of the first training. The same on all processes.

    Raises:
        UsageError: the run exists and may not be replaced, cannot be resumed like this, or another
            process trains it; or there are no validation rows, and the number of epochs is not
            given, or a refit needs them.
        DataError: the data set is damaged or another one, or the checkpoint to resume from is bad.
        UnusableEnvironmentError: there is too little memory, no DGL for its loader, or no package
            of the tracker that `train.logger` names.
        DglrecError: the loss is no longer finite, or the disk is full.
    """
    run = Path(run)
    once = partial(train_once, device=device, world=world, report=report)
    first = partial(once, after_epoch=after_epoch)
    if settings.train.refit == "none":
        return first(dataset, run, settings, resume=resume, overwrite=overwrite)
    with world.together():
        if world.is_first:
            check_tracker(settings.train.logger)
        dataset.prove()
        _check_refit(dataset, settings, resume)
    if settings.model.kind == "graph" and not resume:  # before a run is replaced
        _, resolved = resolve_beginning(dataset, run, settings, world)
        with world.together():
            prove_parts(resolved, dataset)
    selection = run / SELECTION
    with ExitStack() as until_chosen:
        with world.together():
            if world.is_first:
                check_run(run, resume, overwrite)
                until_chosen.enter_context(locked(run))
                check_run(run, resume, overwrite)
                sweep_run(run)
                if not resume:
                    start_run(run, settings)
                world.mark_started(job_of(run))
        chosen = read_results(selection, world)
        if not chosen:
            alone = _with(settings, refit="none")
            begun = bool(world.from_first(lambda: _is_begun(selection)))
            first(dataset, selection, alone, resume=begun)
            chosen = read_results(selection, world)
    whole = dataset.with_rows(("valid",) if settings.train.refit == "valid" else HELD_OUT)
    if world.is_first:
        epochs = counted(chosen["best_epoch"], "epoch")
        rows = f"for {epochs}, on {shown_parts(whole.parts)} rows"
        if resume and is_finished(run):
            log(f"{run}: has been trained once more {rows}, and is finished")
        else:
            log(f"once more {rows}")
    found: dict[str, Any] = json.loads(world.from_first(lambda: _read_choice(selection)))
    with world.together():
        fixed = _fixed(settings, dataset, selection, found, chosen["best_epoch"])
    last = BEST if settings.model.kind != "graph" else LAST
    begun = bool(world.from_first(lambda: b"begun" if (run / last).exists() else b""))
    return once(whole, run, fixed, resume=begun, overwrite=True)


def _check_refit(dataset: RatingDataset, settings: Settings, resume: bool) -> None:
    """Refuse a refit without validation rows, or with a given last epoch.

    Raises:
        UsageError: there are no validation rows, or `train.stop_after` is set.
    """
    if "valid" not in dataset.held_out_splits:
        raise UsageError(
            f"train.refit = {settings.train.refit}: {dataset.path} has no validation rows that "
            "could choose an epoch; leave it out, and give train.epochs"
        )
    if settings.train.stop_after and not resume:
        raise UsageError(
            "train.stop_after: with train.refit the best epoch says when to stop; leave one of "
            "them out"
        )


def _read_choice(selection: Path) -> bytes:
    """The first training's choice, as JSON: its best checkpoint's description, and `item_items`.

    Raises:
        DataError: one of its checkpoints is damaged.
    """
    place = selection / ITEM_ITEMS
    kind = load_checkpoint(place).meta["chosen"]["kind"] if place.is_dir() else "none"
    best = load_checkpoint(selection / BEST).meta
    return json.dumps({"best": best, "item_items": kind}).encode()


def _fixed(
    settings: Settings,
    dataset: RatingDataset,
    selection: Path,
    choice: dict[str, Any],
    epochs: int,
) -> Settings:
    """The settings of the second training, with all choices of the first.

    Args:
        settings: the given settings.
        dataset: the data set with its training rows alone.
        selection: the first training's folder, for messages.
        choice: from `_read_choice`.
        epochs: the best epoch of the first training.
    """
    best = choice["best"]
    if settings.model.kind == "graph":
        # The values of `auto` may come from the run that the first training began with.
        settings = replace(settings, model=described_model(best, selection))
    settings = settings.resolved_for(dataset)
    settings = _with(settings, epochs=settings.train.epochs, stop_after=epochs)
    if settings.model.kind != "graph":
        return replace(settings, baseline=BaselineConfig.model_validate(best["baseline"]))
    model = settings.model.model_copy(update={"item_items": choice["item_items"]})
    return replace(settings, model=model)


def _with(settings: Settings, **changes: Any) -> Settings:
    """The settings with other values of `train.*`."""
    return replace(settings, train=settings.train.model_copy(update=changes))


def _is_begun(run: Path) -> bytes:
    """Some bytes if a training was begun in the folder, else none."""
    return b"begun" if (run / CONFIG_FILE).exists() or holds_checkpoints(run) else b""
