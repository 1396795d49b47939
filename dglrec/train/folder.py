"""A run's folder during training: checks, clearing, configuration, checksums and metrics."""

import json
import os
from pathlib import Path
from typing import Any

import tomli_w

from dglrec.dataset import TRAIN, RatingDataset
from dglrec.distributed import World
from dglrec.files import (
    atomic_file,
    check_checksums,
    check_possible,
    check_target_folder,
    disk_errors,
    read_json,
    remove_checksums,
    sweep,
    write_checksums,
)
from dglrec.run import (
    CONFIG_FILE,
    ENVIRONMENT_FILE,
    ITEM_ITEMS,
    LAST,
    LOCK_FILE,
    LOG_FILE,
    METRICS_FILE,
    RESULTS_FILE,
    SELECTION,
    TRACKER,
    check_is_run,
    is_finished,
)
from dglrec.train.config import Settings, TrainConfig
from dglrec.train.state import remove_checkpoints, remove_folder

_BEGUN = (CONFIG_FILE, ENVIRONMENT_FILE)
_FINISHED = (*_BEGUN, METRICS_FILE, RESULTS_FILE, f"{ITEM_ITEMS}/meta.json")


def job_of(run: Path) -> str:
    """The name of a run's training in `World.mark_started`, for restarts by `torchrun`."""
    return f"train {run.resolve()}"


def check_run(run: Path, resume: bool, overwrite: bool) -> None:
    """Refuse a folder that may not be trained in.

    Args:
        run: the run's folder.
        resume: whether to resume its training.
        overwrite: whether an existing run may be replaced.

    Raises:
        DataError: there is no run to resume.
        UsageError: the folder holds a run that may not be replaced, or something else.
    """
    if resume:
        check_is_run(run)
        return
    check_possible(run)
    stopped = (run / CONFIG_FILE).is_file() and not (run / RESULTS_FILE).exists()
    check_target_folder(
        run,
        marker=CONFIG_FILE,
        overwrite=overwrite,
        ignored=LOCK_FILE,
        going_on="go on with its training with --resume" if stopped else "",
    )


def sweep_run(run: Path) -> None:
    """Remove what a killed process left half-written."""
    for place in (run, run / SELECTION):
        for folder in (place, (place / LAST).parent, place / TRACKER):
            sweep(folder)


def note_begun(run: Path) -> None:
    """Write the checksums of the files that a run's folder holds from the start.

    They stay valid during training, and in a stopped run.
    """
    write_checksums(run, [name for name in _BEGUN if (run / name).is_file()])


def seal_run(run: Path, *also: str) -> None:
    """Write the checksums of a finished run, which are compared when the run is opened.

    They include the description of item-item weights, because nothing else would show that these
    are missing.

    Args:
        run: the run's folder.
        also: more files to include, relative to the folder.
    """
    write_checksums(run, [name for name in (*_FINISHED, *also) if (run / name).is_file()])


def start_run(run: Path, settings: Settings) -> None:
    """Clear the folder and write the configuration, which marks it as a run.

    A refit keeps the selection, which was made for it.
    """
    with disk_errors(run):
        remove_checksums(run)
        for name in (METRICS_FILE, RESULTS_FILE, LOG_FILE):
            (run / name).unlink(missing_ok=True)
        remove_checkpoints(run)
        remove_folder(run / TRACKER)
        if not settings.train.is_refit:
            remove_folder(run / SELECTION)
    write_config(run, settings)
    write_checksums(run, [CONFIG_FILE])


def what_it_learned_from(
    dataset: RatingDataset, run: Path, config: TrainConfig, world: World
) -> dict[str, Any]:
    """The entries of `results.json` for a run that learned from more than training rows.

    Args:
        dataset: the data set that it is trained on.
        run: the run's folder.
        config: the configuration of the training.
        world: the processes that train together, all of which must call this.

    Returns:
        `learned_from`, names of splits, and `selection`, the results of the run that chose the
        epochs and settings. Empty for a run on training rows.

    Raises:
        DataError: the selection's results cannot be read.
    """
    if dataset.parts == (TRAIN,):
        return {}
    found: dict[str, Any] = {"learned_from": list(dataset.parts)}
    if config.is_refit:
        found["selection"] = read_results(run / SELECTION, world)
    return found


def read_results(run: Path, world: World) -> dict[str, Any]:
    """`results.json` of a run, read by the first process for all; empty for an unfinished run.

    Raises:
        DataError: the results cannot be read, or the run was changed after training ended.
    """

    def read() -> bytes:
        if not is_finished(run):
            return b"{}"
        check_checksums(run)
        return json.dumps(read_json(run / RESULTS_FILE)).encode()

    results: dict[str, Any] = json.loads(world.from_first(read))
    return results


def write_config(run: Path, settings: Settings) -> None:
    """Write all settings, as TOML."""
    with atomic_file(run / CONFIG_FILE) as temporary:
        temporary.write_text(tomli_w.dumps(settings.to_dict()), encoding="utf-8")


def append_line(path: Path, values: dict[str, Any]) -> None:
    """Append a line of JSON to a file, and flush it, as later checkpoints hold its digest."""
    with disk_errors(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(values) + "\n")
        file.flush()
        os.fsync(file.fileno())
