"""Whether every byte of a data set, a run, scores or an export is what was written there.

The folder says itself which it is. Nothing is changed.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from dglrec.checkpoint import DAMAGED, load_checkpoint, load_state
from dglrec.config import load_settings
from dglrec.dataset import DATASET_FILE, RatingDataset
from dglrec.doctor import Check
from dglrec.errors import DataError, DglrecError
from dglrec.export import EXPORT_FILE, check_export
from dglrec.files import CHECKSUMS_FILE, TEMPORARY, check_checksums, read_errors, read_json
from dglrec.places import Place
from dglrec.run import (
    BEST,
    CONFIG_FILE,
    LAST,
    METRICS_FILE,
    RESULTS_FILE,
    SELECTION,
    TRACKER,
    check_metrics,
    holds_checkpoints,
    open_predictor,
)
from dglrec.score.parts import MANIFEST_FILE, NOTES_FOLDER, PLAN_FILE, check_scores
from dglrec.train import read_note

_GO_ON = "dglrec train DATASET {} --resume"
_GET_IT_BACK = "get the folder back from where it was copied, or make it again"


def verify(folder: Place) -> list[Check]:
    """Read all of a folder, and compare it with the checksums in it.

    Args:
        folder: of a prepared data set or a run, here; of scores or an export, here or in a store.

    Returns:
        What was found: of damage a failure that names the file, of what cannot be compared a
        warning.

    Raises:
        DataError: the folder is none of these.
    """
    kinds: dict[str, Callable[[Any], Iterator[Check]]] = {
        PLAN_FILE: _of_scores,
        MANIFEST_FILE: _of_scores,
        NOTES_FOLDER: _of_scores,
        EXPORT_FILE: _of_export,
    }
    if isinstance(folder, Path):
        of_this_machine = {
            DATASET_FILE: _of_dataset,
            CONFIG_FILE: _of_run,
            "checkpoints": _of_run,
        }
        kinds = {**of_this_machine, **kinds}
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    for marker, of_kind in kinds.items():
        if (folder / marker).exists():
            return [*of_kind(folder), *_leftovers(folder)]
    raise DataError(
        f"{folder}: holds neither a data set nor a run, scores or an export: none of "
        f"{', '.join(kinds)}; name a folder that prepare, train, score or export wrote"
    )


def _of_dataset(folder: Path) -> Iterator[Check]:
    try:
        dataset = RatingDataset.open(folder)
    except DglrecError as error:
        yield _failure("data set", error)
        return
    faults = dataset.faults()
    yield from (Check("data set", "failure", fault, _GET_IT_BACK) for fault in faults)
    if faults:
        return
    try:
        described = dataset.describe()
        for split in dataset.held_out_splits:
            dataset.held_out(split)
        _ = dataset.users, dataset.items, dataset.titles, dataset.planted
    except DglrecError as error:
        yield _failure("data set", error)
        return
    counts = ", ".join(f"{count:,} {name}" for name, count in described["counts"].items())
    if dataset.has_checksums:
        yield Check("data set", "ok", f"{counts}; every byte is as it was written")
    else:
        found = f"{counts}; no value is impossible, and of its bytes it has no checksums"
        yield Check("data set", "warning", found, "prepare it again: its runs stay what they are")


def _of_run(folder: Path) -> Iterator[Check]:
    checkpoints = sorted((folder / BEST).parent.glob("*"))
    for place in checkpoints:
        name = f"checkpoint {place.name}"
        if place.name.startswith(DAMAGED):
            yield Check(name, "warning", "was damaged, and moved aside", f"remove {place}")
        elif place.is_dir() and not place.name.startswith(TEMPORARY):
            yield from _checked(name, partial(_read_checkpoint, place))
    if not (folder / BEST).is_dir():
        yield Check("run", "warning", f"{folder}: training has not finished an epoch")
    else:
        yield from _checked("run", lambda: _opened(folder))
    if (folder / CHECKSUMS_FILE).exists():
        yield from _checked("files", lambda: check_checksums(folder, all_there=True))
    else:
        found = f"no {CHECKSUMS_FILE}: training was stopped, or was an earlier version's"
        yield Check("files", "warning", found, _GO_ON.format(folder))
    if not (folder / RESULTS_FILE).exists():
        found = f"no {RESULTS_FILE}: training has not finished"
        yield Check("files", "warning", found, _GO_ON.format(folder))
    yield from _checked("settings and results", lambda: _read_run_files(folder))
    for note in sorted((folder / TRACKER).glob("*.json")):
        for check in _checked(f"tracker {note.stem}", partial(_read_note, note)):
            mend = f"remove {note}: --resume then begins another run of the tracker"
            yield check if check.level == "ok" else replace(check, mend=mend)
    chooses = folder / SELECTION
    if (chooses / CONFIG_FILE).exists() or holds_checkpoints(chooses):
        for check in _of_run(chooses):
            yield replace(check, name=f"{SELECTION}: {check.name}")


def _read_checkpoint(place: Path) -> None:
    load_checkpoint(place)
    load_state(place)


def _read_note(path: Path) -> None:
    read_note(path)


def _opened(run: Path) -> None:
    open_predictor(run)


def _description(place: Path) -> dict[str, Any]:
    """What a checkpoint says; nothing of a damaged one, of which is told elsewhere."""
    try:
        return load_checkpoint(place).meta
    except DglrecError:
        return {}


def _read_run_files(run: Path) -> None:
    load_settings(file=run / CONFIG_FILE)
    if (run / RESULTS_FILE).exists():
        read_json(run / RESULTS_FILE)
    if (run / LAST).is_dir():
        check_metrics(run, _description(run / LAST))
    metrics = run / METRICS_FILE
    with read_errors(metrics):
        lines = metrics.read_bytes().splitlines() if metrics.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            json.loads(line)
        except ValueError as error:
            raise DataError(f"{metrics}: line {number} is not JSON ({error})") from error


def _of_scores(folder: Place) -> Iterator[Check]:
    try:
        missing = check_scores(folder)
    except DglrecError as error:
        yield _failure("scores", error)
        return
    if missing:
        yield Check("scores", "warning", f"{folder}: {missing}", "give the same command once more")
    else:
        yield Check("scores", "ok", "every part is as it was written")


def _of_export(folder: Place) -> Iterator[Check]:
    yield from _checked("export", lambda: check_export(folder))


def _leftovers(folder: Place) -> Iterator[Check]:
    for left in sorted(folder.rglob(f"{TEMPORARY}*"), key=str):
        yield Check("leftover", "warning", f"{left}: half-written", "the next command removes it")


def _checked(name: str, look: Callable[[], None]) -> Iterator[Check]:
    try:
        look()
    except DglrecError as error:
        yield _failure(name, error)
    else:
        yield Check(name, "ok", "as it was written")


def _failure(name: str, error: Exception) -> Check:
    return Check(name, "failure", str(error), "" if "again" in str(error) else _GET_IT_BACK)
