"""Where what of a prepared data set lies, what names its content, and what proves it."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy.typing as npt

from dglrec.files import json_digest

SCHEMA_VERSION = 3
DATASET_FILE = "dataset.json"

USERS, ITEMS = "users.parquet", "items.parquet"
TRAIN, FEATURES = "train", "features"
HELD_OUT = ("valid", "test")
TIMES = "times"  # of dataset.json; there, and true, where each row of the source has a timestamp
FILES = "files"  # of dataset.json: size, checksum, type and shape of each file beside it
CHECKSUM = "checksum"  # of dataset.json: of all else that it says
PROOFS = (FILES, CHECKSUM)
"""Entries that earlier versions did not write."""

ReadArray = Callable[[str], npt.NDArray[Any]]
"""The name of a file -> the array in it, memory-mapped and proved."""


def fingerprint_of(meta: Mapping[str, Any]) -> str:
    """Names a data set's content: source checksums, options and counts decide every array.

    Runs, scores and exports name their data set by it. Whether timestamps are kept has no part in
    it: earlier versions kept none, and what was trained on a data set without them fits the same
    one with them. Nor have the checksums of files: earlier versions wrote none, and what comes of
    the same source by another version of numpy or Parquet's library is the same data set.
    """
    return _digest(meta, ("fingerprint", TIMES, *PROOFS))


def checksum_of(meta: Mapping[str, Any]) -> str:
    """Covers all that `dataset.json` says, and by way of `FILES` every byte of a data set."""
    return _digest(meta, (CHECKSUM,))


def _digest(meta: Mapping[str, Any], without: tuple[str, ...]) -> str:
    return json_digest({key: value for key, value in meta.items() if key not in without})
