"""Where what of a prepared data set lies, and what names its content."""

import hashlib
import json
from typing import Any

import numpy as np

SCHEMA_VERSION = 3
DATASET_FILE = "dataset.json"

USERS, ITEMS = "users.parquet", "items.parquet"
TRAIN, FEATURES = "train", "features"
HELD_OUT = ("valid", "test")
TIMES = "times"  # of dataset.json; there, and true, where each row of the source has a timestamp
TRAIN_DTYPES = {
    "offsets": np.int64,
    "neighbours": np.int32,
    "edges": np.int64,
    "times": np.int64,
    "bias": np.float32,
    "squares": np.float32,
}  # by the last word of a file's name; codes are of the scale's type


def fingerprint_of(meta: dict[str, Any]) -> str:
    """Names a data set's content: source checksums, options and counts decide every array.

    Whether timestamps are kept has no part in it: earlier versions kept none, and what was trained
    on a data set without them fits the same one with them.
    """
    rest = {key: value for key, value in meta.items() if key not in ("fingerprint", TIMES)}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
