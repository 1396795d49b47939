"""The record of the study that a folder was begun with, and its comparison with later calls."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dglrec import __version__
from dglrec.config import build_settings
from dglrec.dataset import DATASET_FILE, RatingDataset
from dglrec.errors import DataError, UsageError
from dglrec.files import read_json, write_json
from dglrec.study.declaration import PrepareKeys, Study

STUDY_FILE = "study.json"
SCHEMA_VERSION = 1

_MOST_SHOWN = 3


def record_study(study: Study, source: Path, out: Path) -> str:
    """Write a study's declaration into its folder, or compare it with the one recorded there.

    Args:
        study: the study of this call.
        source: the source of its ratings.
        out: the study's folder; no other process writes there.

    Returns:
        The version that began the study.

    Raises:
        UsageError: something other than added variants or seeds has changed.
        DataError: the record cannot be read.
    """
    path = out / STUDY_FILE
    asked = _describe(study, source)
    if path.is_file():
        before = read_json(path)
        if before.get("schema_version") != SCHEMA_VERSION:
            raise DataError(
                f"{path}: study of schema version {before.get('schema_version')}; this program "
                f"reads version {SCHEMA_VERSION}; give another folder"
            )
        try:
            changes = _changes(before, asked)
        except (KeyError, TypeError, AttributeError, ValueError, UsageError) as error:
            raise DataError(
                f"{path}: not a study that this version can go on with ({error}); give another "
                "folder"
            ) from error
        if changes:
            more = len(changes) - _MOST_SHOWN
            shown = "; ".join(changes[:_MOST_SHOWN]) + (f"; and {more} more" if more > 0 else "")
            raise UsageError(
                f"{out}: begun with another declaration: {shown}. Give it as it was, to which "
                "variants and seeds may be added, or another folder"
            )
        asked["version"] = before["version"]
    write_json(path, asked)
    return str(asked["version"])


def is_prepared(source: Path) -> bool:
    """Whether a SOURCE is a prepared data set."""
    return (source / DATASET_FILE).is_file()


def _describe(study: Study, source: Path) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "version": __version__,
        "title": study.title,
        "reference": study.reference,
        "split": study.split,
        # A prepared data set may be moved, so it is recorded by its content.
        "source": (
            f"data set {RatingDataset.open(source).fingerprint}"
            if is_prepared(source)
            else str(source.resolve())
        ),
        "seeds": list(study.seeds),
        "variants": {
            name: {
                "description": variant.description,
                "prepare": variant.prepare.model_dump(mode="json"),
                **variant.settings.to_dict(),
            }
            for name, variant in study.variants.items()
        },
    }


def _changes(before: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """The changes that a later call may not make, in words."""
    found = [
        f"{key} was {before[key]} and is {asked[key]}"
        for key in ("source", "reference", "split")
        if before[key] != asked[key]
    ]
    gone = [seed for seed in before["seeds"] if seed not in asked["seeds"]]
    if gone:
        found.append(f"seed{'s' * (len(gone) > 1)} {', '.join(map(str, gone))} left out")
    settings: dict[str, list[str]] = {}
    for name, variant in before["variants"].items():
        if name not in asked["variants"]:
            found.append(f"variant {name} left out")
            continue
        old, new = _values(variant), _values(asked["variants"][name])
        for key, value in old.items():
            if new[key] != value:
                settings.setdefault(f"{key} was {value} and is {new[key]}", []).append(name)
    return [*found, *(f"{what} ({', '.join(names)})" for what, names in settings.items())]


def _values(variant: Mapping[str, Any]) -> dict[str, Any]:
    """A variant's values by key; settings newer than the record have their defaults."""
    sections = {key: value for key, value in variant.items() if isinstance(value, dict)}
    prepare = PrepareKeys.model_validate(sections.pop("prepare"))
    whole = {**build_settings(sections).to_dict(), "prepare": prepare.model_dump(mode="json")}
    return {
        f"{section}.{key}": value
        for section, values in whole.items()
        for key, value in values.items()
    }
