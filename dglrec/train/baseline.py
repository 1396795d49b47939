"""Baselines are fitted in one go, and leave the run that a training leaves."""

import json
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from dglrec.baselines import fit_model
from dglrec.checkpoint import load_checkpoint, save_checkpoint
from dglrec.dataset import RatingDataset
from dglrec.distributed import ALONE, World
from dglrec.errors import UsageError
from dglrec.evaluate import evaluate
from dglrec.files import read_json, write_json
from dglrec.metrics import RATING_METRICS
from dglrec.progress import log
from dglrec.run import (
    BEST,
    ENVIRONMENT_FILE,
    METRICS_FILE,
    RESULTS_FILE,
    TrainedBaseline,
    check_same_dataset,
    describe_dataset,
    locked,
)
from dglrec.train.config import Settings
from dglrec.train.describe import describe_environment
from dglrec.train.folder import append_line, check_run, job_of, start_run, sweep_run
from dglrec.train.interrupts import Interrupts

_CPU = torch.device("cpu")  # whatever there is: no baseline has work for a GPU


def fit_baseline(
    dataset: RatingDataset,
    run: Path,
    settings: Settings,
    *,
    resume: bool = False,
    overwrite: bool = False,
    world: World = ALONE,
) -> dict[str, Any]:
    """Fit the baseline that `model.kind` names and leave it, with its metrics, in a run folder.

    With a world of several processes, all of them call this. Nothing is saved on the way: resuming
    a run that was stopped begins anew, and one that is finished is left as it is.

    Args:
        dataset: a prepared data set.
        run: the run's folder; the first process alone reads and writes it.
        settings: those of models with a gradient are not used.
        resume: see above.
        overwrite: whether an existing run may be replaced.
        world: the processes that fit together.

    Returns:
        What `results.json` holds: `kind`, and what `train` returns, with one epoch.

    Raises:
        UsageError: the run exists and may not be replaced, is of another model, or another process
            trains it.
        DataError: the data set is another one than the run's, or has too many items.
        UnusableEnvironmentError: there is too little memory.
    """
    run, kind = Path(run), settings.model.kind
    world.check_same("the data set", dataset.fingerprint)
    world.check_same("the configuration", json.dumps(settings.to_dict()))
    with ExitStack() as until_done:
        until_done.enter_context(Interrupts())
        with world.together():
            if world.is_first:
                check_run(run, resume, overwrite)
                until_done.enter_context(locked(run))
                check_run(run, resume, overwrite)
                sweep_run(run)
        if resume:
            finished = world.from_first(lambda: _finished(run, dataset, settings))
            if finished:
                results: dict[str, Any] = json.loads(finished)
                return results
        with world.together():
            if world.is_first:
                start_run(run, settings)
                write_json(run / ENVIRONMENT_FILE, describe_environment(_CPU, world))
                world.mark_started(job_of(run))
                graph = dataset.graph
                log(
                    f"{graph.num_edges:,} ratings by {graph.num_users:,} users of "
                    f"{graph.num_items:,} items: fitting {kind}"
                )
        started = time.monotonic()
        baseline = fit_model(kind, dataset, settings.baseline, world)
        # The first process's clock, so that all come to the same results.
        (elapsed,) = world.sum([(time.monotonic() - started) * world.is_first])
        seconds = round(elapsed, 3)

        trained = TrainedBaseline(baseline=baseline, dataset=dataset, meta={}, world=world)
        valid = evaluate(trained, "valid")
        metrics = {name: valid[name] for name in RATING_METRICS}
        with world.together():
            if world.is_first:
                values = settings.to_dict()
                meta = {
                    "model": values["model"],
                    "baseline": values["baseline"],
                    **describe_dataset(dataset),
                    "epoch": 1,
                    "step": 0,
                    "valid": metrics,
                }
                save_checkpoint(run / BEST, baseline.state(), {}, meta)
                line = {f"valid_{name}": value for name, value in metrics.items()}
                append_line(run / METRICS_FILE, {"epoch": 1, **line, "seconds": seconds})
        results = {
            "kind": kind,
            "epochs": 1,
            "best_epoch": 1,
            "training_seconds": seconds,
            "valid": valid,
            "test": evaluate(trained, "test"),
        }
        with world.together():
            if world.is_first:
                write_json(run / RESULTS_FILE, results)
    return results


def _finished(run: Path, dataset: RatingDataset, settings: Settings) -> bytes:
    """The results of a run that is finished, as JSON; nothing where there is more to do.

    Raises:
        UsageError: the run is of another model.
        DataError: it is of another data set, or its checkpoint is damaged.
    """
    if not (run / BEST).is_dir():
        return b""
    meta = load_checkpoint(run / BEST).meta
    check_same_dataset(meta, dataset, run)
    values = settings.to_dict()
    if any(meta.get(section) != values[section] for section in ("model", "baseline")):
        raise UsageError(f"{run / BEST}: does not fit the configuration; resume with the run's own")
    if not (run / RESULTS_FILE).is_file():
        return b""
    log(f"{run}: {settings.model.kind} is fitted, and its training finished")
    return json.dumps(read_json(run / RESULTS_FILE)).encode()
