"""Fitting a baseline in a single pass, with a run's folder like that of a training."""

import json
import time
from collections.abc import Callable, Collection
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from dglrec.baselines import Baseline, check_data, check_memory, fit_model, liked_from
from dglrec.checkpoint import load_checkpoint, save_checkpoint
from dglrec.dataset import HELD_OUT, TRAIN, RatingDataset
from dglrec.distributed import ALONE, World
from dglrec.errors import UsageError
from dglrec.evaluate import RankingTargets, evaluate, rank_lists
from dglrec.evaluate.ranking import ranking_figures
from dglrec.files import read_json, write_json
from dglrec.interrupts import Interrupts
from dglrec.metrics import RATING_METRICS
from dglrec.progress import log, logged_to
from dglrec.run import (
    BEST,
    ENVIRONMENT_FILE,
    LOG_FILE,
    METRICS_FILE,
    RESULTS_FILE,
    TrainedBaseline,
    check_same_dataset,
    check_same_rows,
    describe_dataset,
    is_finished,
    locked,
    shown_parts,
)
from dglrec.trackers import check_tracker
from dglrec.train.config import Settings
from dglrec.train.describe import describe_environment, peak_memory_of
from dglrec.train.folder import (
    append_line,
    check_run,
    job_of,
    note_begun,
    seal_run,
    start_run,
    sweep_run,
    what_it_learned_from,
)
from dglrec.train.tracking import tracked

LENGTH = 10
"""K of the lists by which settings are chosen, and which a run of a ranking model reports."""

_METRICS = (*RATING_METRICS, *(f"{name}@{LENGTH}" for name in ("recall", "ndcg", "hit_rate")))
_CPU = torch.device("cpu")  # even where there is a GPU, which no baseline uses


def fit_baseline(
    dataset: RatingDataset,
    run: Path,
    settings: Settings,
    *,
    resume: bool = False,
    overwrite: bool = False,
    world: World = ALONE,
    report: Collection[str] = HELD_OUT,
) -> dict[str, Any]:
    """Fit the baseline that `model.kind` names, and write it with its metrics into a run's folder.

    In a world of several processes, all of them must call this. There are no checkpoints in
    between: resuming a stopped run starts anew, and a finished run is left unchanged.

    Settings that are `auto` are chosen by NDCG@10 on validation rows.

    Args:
        dataset: a prepared data set.
        run: the run's folder, which only the first process reads and writes.
        settings: the settings, of which those of graph models are not used.
        resume: see above.
        overwrite: whether an existing run may be replaced.
        world: the processes that fit together.
        report: the held-out splits to measure.

    Returns:
        The contents of `results.json`: `kind`, and what `train` returns, with a single epoch.

    Raises:
        UsageError: the run exists and may not be replaced, is of another model, another process
            trains it, or the settings name another run to begin with.
        DataError: the data set is another one than the run's, or has too many items.
        UnusableEnvironmentError: there is too little memory, or no package of the tracker that
            `train.logger` names.
    """
    run, kind = Path(run), settings.model.kind
    if settings.train.begin_with:
        raise UsageError(
            f"--from {settings.train.begin_with}: the {kind} baseline is fitted in one go, and "
            "begins with nothing; leave it out"
        )
    world.check_same("the data set", dataset.rows_fingerprint)
    world.check_same("the configuration", json.dumps(settings.to_dict()))
    with ExitStack() as until_done:
        until_done.enter_context(Interrupts(outlives_terminal=True))
        with world.together():
            check_data(kind, dataset)
            if (
                not resume
            ):  # a finished run needs no memory; others are checked when they are fitted
                check_memory(kind, dataset, settings.baseline, world)
            if world.is_first:
                check_tracker(settings.train.logger)
                check_run(run, resume, overwrite)
                until_done.enter_context(locked(run))
                check_run(run, resume, overwrite)
                sweep_run(run)
        if resume:
            finished = world.from_first(lambda: _finished(run, dataset, settings))
            if finished:
                results: dict[str, Any] = json.loads(finished)
                with tracked(run, settings, here=world.is_first) as tracking:
                    tracking.follow(1)
                    tracking.finish(results)
                return results
        with world.together():
            if world.is_first:
                start_run(run, settings)
                until_done.enter_context(logged_to(run / LOG_FILE))
                write_json(run / ENVIRONMENT_FILE, describe_environment(_CPU, world))
                note_begun(run)
                world.mark_started(job_of(run))
                graph = dataset.graph
                what = "ratings" if dataset.has_ratings else "interactions"
                rows = f", {shown_parts(dataset.parts)} rows" if dataset.parts != (TRAIN,) else ""
                log(
                    f"{graph.num_edges:,} {what} by {graph.num_users:,} users of "
                    f"{graph.num_items:,} items{rows}: fitting {kind}"
                )
        tracking = until_done.enter_context(tracked(run, settings, here=world.is_first))
        started = time.monotonic()
        score = _by_validation(dataset)
        baseline, chosen = fit_model(kind, dataset, settings.baseline, world, score)
        # All processes take the first process's time, so that their results are the same.
        (elapsed,) = world.sum([(time.monotonic() - started) * world.is_first])
        seconds = round(elapsed, 3)

        trained = TrainedBaseline(
            baseline=baseline, dataset=dataset, meta=describe_dataset(dataset, run), world=world
        )
        splits = [split for split in dataset.held_out_splits if split in report]
        figures = {split: _measured(trained, split) for split in splits}
        valid = figures.get("valid", {})
        metrics = {name: valid[name] for name in _METRICS if name in valid}
        memory = peak_memory_of(_CPU, world)
        with world.together():
            if world.is_first:
                values = settings.to_dict()
                meta = {
                    "model": values["model"],
                    "baseline": chosen.model_dump(mode="json"),
                    "configured": values["baseline"],
                    **describe_dataset(dataset, run),
                    "epoch": 1,
                    "step": 0,
                    "valid": metrics,
                }
                save_checkpoint(run / BEST, baseline.state(), {}, meta)
                line = {f"valid_{name}": value for name, value in metrics.items()}
                append_line(run / METRICS_FILE, {"epoch": 1, **line, "seconds": seconds, **memory})
        results = {
            "kind": kind,
            "epochs": 1,
            "best_epoch": 1,
            "training_seconds": seconds,
            **figures,
            **what_it_learned_from(dataset, run, settings.train, world),
            **memory,
        }
        with world.together():
            if world.is_first:
                write_json(run / RESULTS_FILE, results)
                # Two baselines may have the same weights and different settings.
                seal_run(run, f"{BEST}/meta.json")
        tracking.follow(1)
        tracking.finish(results)
    return results


def _by_validation(dataset: RatingDataset) -> Callable[[Baseline], float] | None:
    """NDCG on validation rows, to choose settings by; None without relevant validation rows."""
    if "valid" not in dataset.held_out_splits:
        return None
    level, length = _relevant_from(dataset, "valid"), _length(dataset)
    if level is None:
        return None
    targets = RankingTargets.of(dataset, "valid", level)

    def score(model: Baseline) -> float:
        return float(rank_lists(model.best, targets, [length]).finish()[f"ndcg@{length}"])

    return score


def _measured(trained: TrainedBaseline, split: str) -> dict[str, Any]:
    """The report of `evaluate`; for a model that only ranks, the figures of its lists."""
    if trained.baseline.rates:
        return evaluate(trained, split)
    return {"split": split, **_lists(trained, split)}


def _lists(trained: TrainedBaseline, split: str) -> dict[str, Any]:
    """Ranking figures of a split, with popularity's; a note where no row is relevant."""
    dataset = trained.dataset
    level = _relevant_from(dataset, split)
    if level is None:
        return {"notes": [f"no {split} row is relevant, so there are no lists to measure"]}
    targets = RankingTargets.of(dataset, split, level)
    return {**ranking_figures(trained, targets, [_length(dataset)]), "relevant_from": level}


def _relevant_from(dataset: RatingDataset, split: str) -> float | None:
    """The lowest rating of a relevant row; None where the split has no relevant row."""
    level = liked_from(dataset)
    return level if bool((dataset.held_out(split).ratings >= level).any()) else None


def _length(dataset: RatingDataset) -> int:
    """K of the lists that are measured."""
    return min(LENGTH, dataset.graph.num_items)


def _finished(run: Path, dataset: RatingDataset, settings: Settings) -> bytes:
    """The results of a finished run, as JSON; empty for an unfinished run.

    Raises:
        UsageError: the run is of another model.
        DataError: the run is of another data set, or its checkpoint is damaged.
    """
    if not (run / BEST).is_dir():
        return b""
    meta = load_checkpoint(run / BEST).meta
    check_same_dataset(meta, dataset, run)
    check_same_rows(meta, dataset, run)
    values = settings.to_dict()
    # Runs of versions without `auto` settings were fitted with the settings that were given.
    asked = meta.get("configured", meta.get("baseline"))
    if meta.get("model") != values["model"] or asked != values["baseline"]:
        raise UsageError(f"{run / BEST}: does not fit the configuration; resume with the run's own")
    if not is_finished(run):
        log(f"{run / RESULTS_FILE}: no such file, or not finished; fitting once more")
        return b""
    log(f"{run}: {settings.model.kind} is fitted, and its training finished")
    return json.dumps(read_json(run / RESULTS_FILE)).encode()
