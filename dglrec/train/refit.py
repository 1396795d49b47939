"""A training, and where it is wanted the same once more on more rows.

Validation rows say which epoch is the best and which settings are; after that they, and the test
rows, are data like others. What chose stays beside the model, a run of its own in `selection/`.
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
    """Train a model and leave it, with its metrics, in a run folder.

    A `model.kind` other than `graph` is fitted in one go: see `fit_baseline`.

    With `train.refit` a first training, in the run's folder `selection`, finds the best epoch and
    whatever is chosen on validation rows. A second one, which is the run, has the same settings, as
    many epochs, and validation rows (`valid`), or all rows (`all`), among its training rows.

    With a world of several processes, all of them call this. SIGINT and SIGTERM end the step under
    way (of several processes: the one after it), save, and raise `KeyboardInterrupt`. SIGHUP does
    not: training outlives its terminal, and `train.log` in the run's folder has what it says.

    Args:
        dataset: a prepared data set.
        run: the run's folder; the first process alone reads and writes it.
        settings: model, loader and training configuration, the same on all processes.
        device: where to compute; None for the CPU.
        resume: go on from the run's last checkpoint, as though nothing had happened.
        overwrite: whether an existing run may be replaced.
        world: the processes that train together.
        after_epoch: called with each epoch, from 1, and its validation figures, once it is saved;
            where it returns True training ends there, and the best epoch so far is kept. With
            several processes it must answer the same on all. It is not called for a baseline, nor
            for what `train.refit` trains again.
        report: the held-out splits to measure at the end; of others no row is read.

    Returns:
        What `results.json` holds: epochs, seconds, metrics of the best model on the validation and
        the test rows, as far as it has not learned from them, and where older ratings weigh less
        the half-lives in the unit of the timestamps; of a refitted run `learned_from`, the parts of
        the split, and `selection`, the results of the first training. The same on all processes.

    Raises:
        UsageError: the run exists and may not be replaced, cannot be resumed like this, or another
            process trains it; or there are no validation rows, and no number of epochs, or a refit,
            for which they would choose.
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
        log(f"once more for {epochs}, on {shown_parts(whole.parts)} rows")
    found: dict[str, Any] = json.loads(world.from_first(lambda: _read_choice(selection)))
    with world.together():
        fixed = _fixed(settings, dataset, selection, found, chosen["best_epoch"])
    last = BEST if settings.model.kind != "graph" else LAST
    begun = bool(world.from_first(lambda: b"begun" if (run / last).exists() else b""))
    return once(whole, run, fixed, resume=begun, overwrite=True)


def _check_refit(dataset: RatingDataset, settings: Settings, resume: bool) -> None:
    """Refuse what leaves nothing to choose by, or nothing to choose.

    Raises:
        UsageError: there are no validation rows, or the last epoch is given.
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
    """What the first training chose, as JSON: its best checkpoint's description, `item_items`.

    Raises:
        DataError: a checkpoint of it is damaged.
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
    """The settings of the first training, with all that its validation rows chose.

    Args:
        settings: those that were given.
        dataset: with the training rows alone.
        selection: the first training's folder, for messages.
        choice: what `_read_choice` found in it.
        epochs: after which it was best.
    """
    best = choice["best"]
    if settings.model.kind == "graph":
        # What `auto` came to may follow from a run that it began with.
        settings = replace(settings, model=described_model(best, selection))
    settings = settings.resolved_for(dataset)
    settings = _with(settings, epochs=settings.train.epochs, stop_after=epochs)
    if settings.model.kind != "graph":
        return replace(settings, baseline=BaselineConfig.model_validate(best["baseline"]))
    model = settings.model.model_copy(update={"item_items": choice["item_items"]})
    return replace(settings, model=model)


def _with(settings: Settings, **changes: Any) -> Settings:
    """The same with other values of `train.*`."""
    return replace(settings, train=settings.train.model_copy(update=changes))


def _is_begun(run: Path) -> bytes:
    """Some bytes where a training began in a folder."""
    return b"begun" if (run / CONFIG_FILE).exists() or holds_checkpoints(run) else b""
