"""Files and entries of a prepared data set, its fingerprint and its checksum."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy.typing as npt

from dglrec.files import json_digest

SCHEMA_VERSION = 3
DATASET_FILE = "dataset.json"

USERS, ITEMS = "users.parquet", "items.parquet"
TRAIN, FEATURES = "train", "features"
HELD_OUT = ("valid", "test")
TIMES = "times"  # entry of dataset.json: true if each row of the source has a timestamp
FILES = "files"  # entry of dataset.json: size, checksum, type and shape of each other file
CHECKSUM = "checksum"  # entry of dataset.json: of all its other entries
PROOFS = (FILES, CHECKSUM)
"""Entries that earlier versions did not write."""

ReadArray = Callable[[str], npt.NDArray[Any]]
"""The name of a file -> the array in it, memory-mapped and verified."""


def fingerprint_of(meta: Mapping[str, Any]) -> str:
    """A digest that identifies a data set's content: source checksums, options and counts.

    Runs, scores and exports name their data set by it. Two things do not count. Whether timestamps
    are kept: earlier versions kept none, and a model trained on a data set without them fits the
    same data set with them. And the checksums of files: earlier versions wrote none, and files that
    another version of numpy or of the Parquet library writes of the same source are the same data.
    """
    return _digest(meta, ("fingerprint", TIMES, *PROOFS))


def checksum_of(meta: Mapping[str, Any]) -> str:
    """Covers all of `dataset.json`, and through `FILES` every byte of a data set."""
    return _digest(meta, (CHECKSUM,))


def _digest(meta: Mapping[str, Any], without: tuple[str, ...]) -> str:
    return json_digest({key: value for key, value in meta.items() if key not in without})
