"""The training loop, for a single process or many.

Data flow: loader -> `EdgeBatch` -> model -> objective -> optimiser step; after each epoch exact
embeddings -> validation metrics -> checkpoints. The loop does not depend on the loader or the
objective. Each of many processes has a share of every batch and of every evaluation; gradients,
sums and counts are added up, and only the first process writes into the run's folder.
"""

import json
import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import torch

from dglrec.dataset import HELD_OUT, RatingDataset
from dglrec.distributed import ALONE, PeerError, World
from dglrec.errors import DglrecError, DivergedError, UnusableEnvironmentError, UsageError
from dglrec.files import write_json
from dglrec.interrupts import Interrupts
from dglrec.machine import give_back_memory, keep_freed_memory
from dglrec.nn import RatingModel, half_lives
from dglrec.progress import counted, log, logged_to, progress
from dglrec.run import (
    LOG_FILE,
    METRICS_FILE,
    RESULTS_FILE,
    TrainedModel,
    locked,
    new_model,
    read_directions,
    shown_parts,
    sketched_model,
)
from dglrec.sampling import check_directions, seed_of
from dglrec.trackers import check_tracker
from dglrec.train.added import prove_parts
from dglrec.train.baseline import fit_baseline
from dglrec.train.beginning import begin, resolve_beginning
from dglrec.train.config import Settings, TrainConfig
from dglrec.train.derived import derive_for, keep_derived
from dglrec.train.describe import (
    describe_training,
    peak_memory_of,
    peak_of_run,
    write_environment,
)
from dglrec.train.finish import measured, with_item_weights
from dglrec.train.folder import (
    append_line,
    check_run,
    job_of,
    note_begun,
    seal_run,
    start_run,
    sweep_run,
    what_it_learned_from,
    write_config,
)
from dglrec.train.loaders import Loader, check_loader, make_loader
from dglrec.train.memory import footprint, place_graph
from dglrec.train.objectives import Figures, make_objective
from dglrec.train.state import Checkpoints, Progress, Tally, has_checkpoint
from dglrec.train.step import TrainingStep
from dglrec.train.tracking import tracked
from dglrec.train.validation import Validation

AfterEpoch = Callable[[int, Figures], bool]
"""A callback that gets the epoch, from 1, and its validation figures, and says whether to stop."""

_TITLES = {"rmse": "RMSE", "train_rmse": "RMSE", "train_list_loss": "list loss"}


def train_once(
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
    """Train a model on the rows of a data set's graph; see `train.train`, which calls this.

    Arguments, results and errors are those of `train.train`, but this function does not refit.

    Without validation rows, the last epoch's model is kept.
    """
    run, device = Path(run), device or torch.device("cpu")
    with world.together():
        dataset.prove()
    if settings.model.kind != "graph":
        return fit_baseline(
            dataset, run, settings, resume=resume, overwrite=overwrite, world=world, report=report
        )
    begins = not (resume and has_checkpoint(run, world))
    source, settings = resolve_beginning(dataset, run, settings, world, begins=begins)
    config = settings.train
    validates = "valid" in dataset.held_out_splits
    with world.together():
        _check_ending(config, dataset)
        prove_parts(settings, dataset)
    world.check_same("the data set", dataset.rows_fingerprint)
    world.check_same("the configuration", json.dumps(settings.to_dict()))
    with ExitStack() as until_done:
        interrupts = until_done.enter_context(Interrupts(outlives_terminal=True))
        with world.together():
            check_loader(settings.loader)
            if world.is_first:
                check_tracker(config.logger)
                check_run(run, resume, overwrite)
        dataset = derive_for(dataset, run, settings, world, resume=resume)
        with world.together():
            directions = read_directions(settings.model, dataset)
            check_directions(settings.loader, directions)  # before a run is replaced
            needs = footprint(
                dataset.graph,
                sketched_model(settings.model, dataset),
                settings,
                world,
                directions,
            )
        graph_device = place_graph(needs, device, world)
        with world.together():
            torch.manual_seed(config.seed)
            model = new_model(settings.model, dataset)
        origin = begin(model, dataset, settings, source, world) if begins else None
        del source  # frees its memory for training
        with world.together():
            if world.is_first:
                until_done.enter_context(locked(run))
                check_run(run, resume, overwrite)
                sweep_run(run)
                if not resume:
                    start_run(run, settings)
                    until_done.enter_context(logged_to(run / LOG_FILE))
                keep_derived(run, dataset)
                world.mark_started(job_of(run))
                log(describe_training(dataset, settings, device, world))
                if not validates:
                    log(
                        f"learning from {shown_parts(dataset.parts)} rows, without validation: "
                        f"for {counted(config.last_epoch, 'epoch')}, the last of which is kept"
                    )
        with world.together(), _explained("before the first step", settings, device):
            model.to(device)
            if settings.loader.items == "reached":
                model.read_items_by_rows()
            objective = make_objective(
                settings.model.heads, config.loss, settings.ranking, dataset, device
            )
            loader = make_loader(
                dataset.graph,
                dataset.biases,
                settings.loader,
                config.seed,
                graph_device,
                world,
                objective.sampler(graph_device),
                directions=directions,
                layers=settings.model.layers,
                by_rows=bool(model.sparse_tables()),
                compile=config.compile,
                ages=settings.model.reads_times,
                clusters=dataset.clusters,
            )
        steps = -(-len(loader) // config.accumulation_steps) * config.epochs
        step = TrainingStep(model, config, objective, steps, world)
        checkpoints = Checkpoints(run, dataset, settings, step, world)
        done = checkpoints.restore() if resume else Progress()
        with world.together():
            if world.is_first:
                if resume:
                    # Only now: a run that cannot be resumed stays unchanged.
                    write_config(run, settings)
                    until_done.enter_context(logged_to(run / LOG_FILE))
                (run / RESULTS_FILE).unlink(missing_ok=True)  # this training writes new results
        with world.together():
            valid = Validation(dataset, objective, settings.model, world)
        if origin is not None:
            origin["valid"] = _first_figures(model, valid, world)
        with world.together():
            if world.is_first:
                write_environment(run, device, world, origin, begins=begins)
                note_begun(run)
        give_back_memory()
        keep_freed_memory()
        tracking = until_done.enter_context(tracked(run, settings, here=world.is_first))
        tracking.follow(done.epoch)

        with interrupts.put_off():
            while done.goes_on(config):
                speed = _train_epoch(step, loader, device, settings, done, checkpoints, interrupts)
                with _lost_device_said(f"after epoch {done.epoch + 1}", device):
                    costs = {"ratings_per_second": speed, **peak_memory_of(device, world)}
                    figures = _end_epoch(step, valid, config.last_epoch, done, checkpoints, costs)
                tracking.follow(done.epoch)
                if any(world.sum([interrupts.requested])):
                    _stop(f"epoch {done.epoch}", world)
                if after_epoch(done.epoch, figures):
                    break
        if any(world.sum([interrupts.requested])):
            _stop(f"epoch {done.epoch}", world)

        meta = checkpoints.load_best()
        del valid, step, loader, checkpoints  # frees their memory for evaluation
        give_back_memory()
        trained = TrainedModel(model=model.eval(), dataset=dataset, meta=meta, world=world)
        trained = with_item_weights(trained, settings, objective, run)
        results = {
            "epochs": done.epoch,
            "best_epoch": done.best_epoch,
            "training_seconds": round(done.seconds, 3),
            **{
                split: measured(trained, split, objective)
                for split in dataset.held_out_splits
                if split in report
            },
            **what_it_learned_from(dataset, run, config, world),
            **peak_of_run(run, done.epoch, peak_memory_of(device, world), world),
        }
        if settings.model.time_decay:
            results["half_lives"] = half_lives(model, dataset.graph.time_units)
        with world.together():
            if world.is_first:
                write_json(run / RESULTS_FILE, results)
                seal_run(run)
        tracking.finish(results)
    return results


def _first_figures(model: RatingModel, valid: Validation, world: World) -> dict[str, float]:
    """Validation figures of the initial weights."""
    figures = {name: value for name, value in valid.figures(model).items() if math.isfinite(value)}
    if world.is_first and figures:
        log(f"before the first step: {_said(figures, valid)}")
    return figures


def _said(figures: Figures, valid: Validation) -> str:
    shown = [name for name in figures if name in valid.shown]
    return ", ".join(f"validation {_TITLES.get(name, name)} {figures[name]:.4f}" for name in shown)


def _train_epoch(
    step: TrainingStep,
    loader: Loader,
    device: torch.device,
    settings: Settings,
    done: Progress,
    checkpoints: Checkpoints,
    interrupts: Interrupts,
) -> float:
    """Train the rest of an epoch; returns the number of training ratings per second.

    Raises:
        KeyboardInterrupt: the user asked to stop; a checkpoint was saved.
    """
    config, world = settings.train, step.world
    title = f"epoch {done.epoch + 1} of {config.last_epoch}"
    started = time.monotonic() - done.seconds
    before = replace(done)
    step.model.train()
    loader.set_epoch(done.epoch, done.batch)
    step.objective.set_epoch(done.epoch)
    batches = iter(loader)
    tally = Tally(done, device)
    remaining = len(loader) - done.batch
    with progress(title, remaining, "batches", shown=world.is_first) as advance:
        for number in range(done.batch, len(loader)):
            last = number + 1 == len(loader)
            update = last or (number + 1) % config.accumulation_steps == 0
            due = world.is_first and checkpoints.due_by_time()
            where = f"{title}, batch {number + 1} (step {step.number + 1})"
            with _explained(where, settings, device):
                batch = next(batches)
                # The seed of dropout depends on the position, so that a resumed run draws the same.
                place = number * world.size + world.rank
                torch.manual_seed(seed_of("dropout", config.seed, done.epoch, place))
                outcome = step(
                    batch if batch is None else batch.to(device),
                    update=update,
                    notes=(interrupts.requested, due) if update else (),
                )
                tally.add(outcome.costs)
            del batch  # frees its memory for the next batch
            done.count += outcome.count
            advance(1)
            if update:
                done.batch = number + 1
                done.seconds = time.monotonic() - started
                stop, save = outcome.notes
                # A single process may act on a signal that arrived during the step; several must
                # wait for the next all-reduce, so that all stop at the same step.
                stop = stop or (world.size == 1 and interrupts.requested)
                if last or stop or save or checkpoints.due_by_steps():
                    tally.write(done)
                if stop or save or checkpoints.due_by_steps():
                    checkpoints.save_last(done)
                if stop:
                    _stop(f"{title}, batch {done.batch}", world)
    (count,) = world.sum([done.count - before.count])
    return round(count / max(done.seconds - before.seconds, 1e-9), 1)


def _check_ending(config: TrainConfig, dataset: RatingDataset) -> None:
    """Refuse the default number of epochs without validation rows, which would choose the best.

    Raises:
        UsageError: there are no validation rows, and no number of epochs was given.
    """
    given = config.stop_after or "epochs" in config.model_fields_set
    if "valid" not in dataset.held_out_splits and not given:
        raise UsageError(
            f"train.epochs: {dataset.path} has no validation rows, so nothing says which epoch is "
            "the best; give the number of epochs: --set train.epochs=N"
        )


def _stop(where: str, world: World) -> NoReturn:
    if world.is_first:
        log(f"stopped after {where}; go on with --resume")
    raise KeyboardInterrupt


def _end_epoch(
    step: TrainingStep,
    valid: Validation,
    epochs: int,
    done: Progress,
    checkpoints: Checkpoints,
    costs: Mapping[str, float],
) -> Figures:
    """Validate, write metrics and checkpoints; returns the validation figures.

    Args:
        step: the training step, with the model.
        valid: measures the model on the validation rows.
        epochs: the largest number of epochs.
        done: the progress of the training.
        checkpoints: the checkpoints of the run.
        costs: speed and memory, for `metrics.jsonl`.
    """
    world = step.world
    training = _training_figures(done, world, valid)
    give_back_memory()  # of the steps' many small pieces; embeddings need large ones
    metrics = valid.figures(step.model)
    done.epoch += 1
    done.batch = 0
    done.clear_sums()
    with world.together():
        for name, figure in metrics.items():
            if math.isfinite(figure):
                continue
            raise DivergedError(
                f"epoch {done.epoch}: validation {_TITLES.get(name, name)} {figure:g}; the best "
                "checkpoint is as before this epoch; try a lower train.learning_rate"
            )
    better = done.judge_epoch(metrics, valid.objective)
    with world.together():
        if world.is_first:
            append_line(
                checkpoints.run / METRICS_FILE,
                {
                    "epoch": done.epoch,
                    **training,
                    **{f"valid_{key}": value for key, value in metrics.items()},
                    "learning_rate": step.learning_rate,
                    "seconds": round(done.seconds, 3),
                    **costs,
                },
            )
            said = [
                f"training {_TITLES.get(key, key)} {value:.4f}" for key, value in training.items()
            ]
            said += [_said(metrics, valid)] if metrics else []
            log(
                f"epoch {done.epoch} of {epochs}: {', '.join(said)}"
                f"{' (best)' if better and metrics else ''}, {done.seconds:.0f} s so far"
            )
    if better:
        checkpoints.save_best(done, metrics)
    checkpoints.save_last(done, metrics)
    return metrics


def _training_figures(done: Progress, world: World, valid: Validation) -> dict[str, float]:
    """Training figures of the epoch, from the losses of its batches before each step."""
    squared, count, listed, positives = world.sum(
        [done.squared, done.count, done.listed, done.positives]
    )
    figures = {}
    if valid.rates:
        figures["train_rmse"] = math.sqrt(squared / count)
    if valid.lists:
        figures["train_list_loss"] = listed / max(positives, 1)
    return figures


@contextmanager
def _explained(where: str, settings: Settings, device: torch.device) -> Iterator[None]:
    """Add to an error where training failed, and what to do about too little memory."""
    try:
        with _lost_device_said(where, device):
            yield
    except (PeerError, LostDeviceError):
        raise
    except DglrecError as error:
        raise type(error)(f"{where}: {error}") from error
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        loader = settings.loader
        raise UnusableEnvironmentError(
            f"{where}: out of memory on {device}; try a smaller loader.batch_size than "
            f"{loader.batch_size:,} (with train.accumulation_steps above "
            f"{settings.train.accumulation_steps} the step stays as large), then smaller "
            "loader.item_fanouts or model.embedding_size"
        ) from error


class LostDeviceError(UnusableEnvironmentError):
    """The device has failed during training."""


@contextmanager
def _lost_device_said(where: str, device: torch.device) -> Iterator[None]:
    """Turn the error of a failed device into one that says what to do.

    Raises:
        LostDeviceError: the device has failed.
    """
    try:
        yield
    except RuntimeError as error:
        if not _is_lost_device(error) or _is_out_of_memory(error):
            raise
        raise LostDeviceError(
            f"{where}: {device} failed ({str(error).splitlines()[0]}); the last checkpoint is "
            "intact: go on from there with --resume, and with --device cpu if the device stays away"
        ) from error


def _is_lost_device(error: Exception) -> bool:
    # torch has a class for this from 2.8 on; its error for too little memory is another class.
    kind = getattr(torch, "AcceleratorError", ())
    return isinstance(error, kind) or str(error).startswith("CUDA error")


def _is_out_of_memory(error: Exception) -> bool:
    # torch raises a special class on a GPU, and a plain RuntimeError on a CPU.
    kinds = (MemoryError, torch.cuda.OutOfMemoryError)
    return isinstance(error, kinds) or "can't allocate memory" in str(error)
