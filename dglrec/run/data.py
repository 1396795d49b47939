"""The data set of a run: finding it, and checking that it is the same."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dglrec.dataset import PROOFS, TRAIN, RatingDataset
from dglrec.errors import DataError, UsageError


def check_has_times(dataset: RatingDataset, run: Path) -> None:
    """Refuse a data set without the timestamps that a run was trained with.

    Timestamps are not part of a data set's fingerprint, and earlier versions did not store them.

    Raises:
        DataError: the data set has no timestamps.
    """
    if not dataset.has_times:
        raise DataError(
            f"{dataset.path}: has no timestamps, which {run} was trained with; prepare it again"
        )


def open_dataset_of(
    run: Path,
    meta: dict[str, Any],
    dataset: Path | None = None,
    fallback: Path | None = None,
    *,
    mend: str = "say where with --dataset",
) -> RatingDataset:
    """The data set that a run was trained on, with all of its files checked.

    Args:
        run: the run's folder.
        meta: the description in its checkpoint.
        dataset: the data set's folder, if it was moved; None for the recorded place.
        fallback: a folder to try if the data set is not in its recorded place.
        mend: what to do if it is not found, for the message.

    Raises:
        DataError: the data set is missing, damaged, or a different one.
    """
    path = dataset or Path(str(meta.get("dataset", "")))
    from_run = meta.get("dataset_from_run")
    if dataset is None and not path.is_dir() and isinstance(from_run, str):
        beside = Path(os.path.normpath(run.resolve() / from_run))  # if both were moved together
        path = beside if beside.is_dir() else path
    if fallback is not None and not path.is_dir():
        path = fallback
    if not path.is_dir():
        raise DataError(f"{path}: the data set of {run} is not there; {mend}")
    data = RatingDataset.open(path)
    check_same_dataset(meta, data, run)
    data.prove()  # on all processes, before anything is computed from the data
    return data.with_rows(learned_from(meta)[1:])


def describe_dataset(dataset: RatingDataset, run: Path) -> dict[str, Any]:
    """The entries of a checkpoint on its data set: the place, and data for `check_same_dataset`."""
    path = dataset.path.resolve()
    described = {
        "dataset": str(path),
        "dataset_from_run": os.path.relpath(path, run.resolve()),
        "data": {key: value for key, value in dataset.meta.items() if key not in PROOFS},
        "fingerprint": dataset.fingerprint,
    }
    if dataset.parts != (TRAIN,):
        described["learned_from"] = list(dataset.parts)
    derived = dataset.derived_digest
    return described if derived is None else {**described, "derived": derived}


def learned_from(meta: Mapping[str, Any]) -> tuple[str, ...]:
    """The splits that a checkpoint was trained on; `train` alone for those of earlier versions."""
    return tuple(meta.get("learned_from", (TRAIN,)))


def check_same_rows(meta: dict[str, Any], dataset: RatingDataset, run: Path) -> None:
    """Refuse rows that are not those that a checkpoint was trained on.

    Raises:
        UsageError: the rows are of other splits.
    """
    before = learned_from(meta)
    if before != dataset.parts:
        raise UsageError(
            f"{run}: was trained on {shown_parts(before)} rows, and is to go on with "
            f"{shown_parts(dataset.parts)} rows; resume it as it was begun"
        )


def shown_parts(parts: Sequence[str]) -> str:
    """Parts of a split in words."""
    *others, last = ({TRAIN: "training", "valid": "validation"}.get(part, part) for part in parts)
    return f"{', '.join(others)} and {last}" if others else last


def check_same_dataset(meta: dict[str, Any], dataset: RatingDataset, run: Path) -> None:
    """Refuse a data set other than the one that a checkpoint was trained on.

    Raises:
        DataError: the fingerprints differ.
    """
    if meta.get("fingerprint") == dataset.fingerprint:
        return
    before = meta.get("data") or {}
    changed = [key for key in before if before[key] != dataset.meta.get(key)]
    difference = f"differs in: {', '.join(changed)}" if changed else "it is another one"
    raise DataError(
        f"{dataset.path}: not the data set that {run} was trained on: {difference}; train a new "
        "run on it"
    )
