"""The record of the search that a folder was begun with, and its comparison with later calls."""

from pathlib import Path
from typing import Any

from dglrec import __version__
from dglrec.dataset import RatingDataset
from dglrec.errors import DataError, UsageError
from dglrec.files import json_digest, read_json, write_json
from dglrec.tune.goal import Goal
from dglrec.tune.space import Space

TUNE_FILE = "tune.json"
SCHEMA_VERSION = 1


def record_tuning(space: Space, dataset: RatingDataset, goal: Goal, out: Path) -> str:
    """Write the record of a search into its folder, or compare the search with the record there.

    Args:
        space: the space of this call.
        dataset: the data set of this call.
        goal: the figure to optimise.
        out: the folder; no other process writes there.

    Returns:
        The version that began the search.

    Raises:
        UsageError: the search was begun with another data set or another space.
        DataError: the record cannot be read.
    """
    path = out / TUNE_FILE
    asked: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "version": __version__,
        "title": space.title,
        # A prepared data set may be moved, so it is recorded by its content.
        "dataset": dataset.fingerprint,
        "goal": goal.name,
        "space": space.record(),
        "space_digest": json_digest(space.record()),
    }
    if not path.is_file():
        write_json(path, asked)
        return __version__
    before = read_json(path)
    if before.get("schema_version") != SCHEMA_VERSION:
        raise DataError(
            f"{path}: a search of schema version {before.get('schema_version')}; this program "
            f"reads version {SCHEMA_VERSION}; give another folder"
        )
    if before.get("dataset") != asked["dataset"]:
        raise UsageError(
            f"{out}: begun on another data set than {dataset.path}; give that data set, or another "
            "folder"
        )
    if before.get("space_digest") != asked["space_digest"]:
        raise UsageError(
            f"{out}: begun with another space: {_change(before.get('space'), asked['space'])}. "
            "Give it as it was, or another folder"
        )
    return str(before.get("version"))


def _change(before: Any, now: dict[str, Any]) -> str:
    """The first difference between two records of a space, in words."""
    old, new = _flat(before), _flat(now)
    for key in (*old, *new):
        if old.get(key) != new.get(key):
            return f"{key} was {old.get(key, 'not there')} and is {new.get(key, 'not there')}"
    return "its record was changed"


def _flat(record: Any) -> dict[str, Any]:
    if not isinstance(record, dict):
        return {}
    found: dict[str, Any] = {"seed": record.get("seed")}
    for part in ("fixed", "searched"):
        values = record.get(part)
        found |= values if isinstance(values, dict) else {}
    return found
