"""The data set of a run: where it is, and whether it is the same."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dglrec.dataset import PROOFS, TRAIN, RatingDataset
from dglrec.errors import DataError, UsageError


def check_has_times(dataset: RatingDataset, run: Path) -> None:
    """Refuse a data set without the timestamps that a run was trained with.

    Timestamps are no part of a data set's fingerprint, and earlier versions did not keep them.

    Raises:
        DataError: it has none.
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
    """The data set that a run was trained on, every file of it proved.

    Args:
        run: the run's folder.
        meta: what its checkpoint says.
        dataset: where the data set is now, if it was moved.
        fallback: where it is if it is not where it was.
        mend: what to do where it is not found.

    Raises:
        DataError: it is gone, damaged, or another one.
    """
    place = dataset or Path(str(meta.get("dataset", "")))
    from_run = meta.get("dataset_from_run")
    if dataset is None and not place.is_dir() and isinstance(from_run, str):
        beside = Path(os.path.normpath(run.resolve() / from_run))  # moved together with the run
        place = beside if beside.is_dir() else place
    if fallback is not None and not place.is_dir():
        place = fallback
    if not place.is_dir():
        raise DataError(f"{place}: the data set of {run} is not there; {mend}")
    data = RatingDataset.open(place)
    check_same_dataset(meta, data, run)
    data.prove()  # before there is a figure, and on all processes
    return data.with_rows(learned_from(meta)[1:])


def describe_dataset(dataset: RatingDataset, run: Path) -> dict[str, Any]:
    """What a checkpoint says of the data set, for `check_same_dataset`, and where it is."""
    place = dataset.path.resolve()
    described = {
        "dataset": str(place),
        "dataset_from_run": os.path.relpath(place, run.resolve()),
        "data": {key: value for key, value in dataset.meta.items() if key not in PROOFS},
        "fingerprint": dataset.fingerprint,
    }
    if dataset.parts != (TRAIN,):
        described["learned_from"] = list(dataset.parts)
    derived = dataset.derived_digest
    return described if derived is None else {**described, "derived": derived}


def learned_from(meta: Mapping[str, Any]) -> tuple[str, ...]:
    """The parts of the split that a checkpoint was trained on; earlier versions knew `train`."""
    return tuple(meta.get("learned_from", (TRAIN,)))


def check_same_rows(meta: dict[str, Any], dataset: RatingDataset, run: Path) -> None:
    """Refuse rows that are not those that a checkpoint was trained on.

    Raises:
        UsageError: they are others.
    """
    before = learned_from(meta)
    if before != dataset.parts:
        raise UsageError(
            f"{run}: was trained on {shown_parts(before)} rows, and is to go on with "
            f"{shown_parts(dataset.parts)} rows; resume it as it was begun"
        )


def shown_parts(parts: Sequence[str]) -> str:
    """Parts of a split in words."""
    *others, last = ({TRAIN: "training", "valid": "validation"}.get(one, one) for one in parts)
    return f"{', '.join(others)} and {last}" if others else last


def check_same_dataset(meta: dict[str, Any], dataset: RatingDataset, run: Path) -> None:
    """Refuse a data set that is not the one a checkpoint was trained on.

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
