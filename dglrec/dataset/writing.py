"""Writing a prepared data set."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from dglrec.biases import Biases
from dglrec.dataset.attributes import USER_FEATURES, Features
from dglrec.dataset.layout import (
    CHECKSUM,
    DATASET_FILE,
    FEATURES,
    FILES,
    HELD_OUT,
    ITEMS,
    SCHEMA_VERSION,
    TIMES,
    TRAIN,
    USERS,
    checksum_of,
    fingerprint_of,
)
from dglrec.dataset.mapped import MappedFiles
from dglrec.files import save_array, write_json
from dglrec.graph import RatingGraph


def write_dataset(
    folder: Path,
    *,
    graph: RatingGraph,
    biases: Biases,
    users: pa.Table,
    items: pa.Table,
    features: Features,
    user_features: Features | None = None,
    held_out: dict[str, pd.DataFrame],
    meta: dict[str, Any],
) -> None:
    """Write all of a prepared data set into an existing folder.

    Args:
        folder: an empty folder; the caller renames it into place.
        graph: the training ratings.
        biases: fitted to them.
        users: [U] rows, `user_id` first, ascending.
        items: [I] rows, `item_id` first, ascending.
        features: float32 [I, F] by name.
        user_features: float32 [U, F] by name; None or empty writes no file.
        held_out: `valid` and `test`: columns user, item, rating, and perhaps expected and
            timestamp.
        meta: further entries of `dataset.json`, among them `feedback`; counts, scale and the like
            are added.
    """
    for name in (TRAIN, FEATURES):
        (folder / name).mkdir()
    arrays: dict[str, npt.NDArray[Any]] = {
        "by_item_edges": graph.edges_by_item,
        "user_bias": biases.users.numpy(),
        "item_bias": biases.items.numpy(),
        "user_squares": biases.user_squares.numpy(),
        "item_squares": biases.item_squares.numpy(),
    }
    if graph.times is not None:
        arrays["by_user_times"] = graph.times
    for side, adjacency in (("by_user", graph.by_user), ("by_item", graph.by_item)):
        arrays[f"{side}_offsets"] = adjacency.offsets
        arrays[f"{side}_neighbours"] = adjacency.neighbours
        arrays[f"{side}_codes"] = adjacency.codes
    for name, array in arrays.items():
        save_array(folder / TRAIN / f"{name}.npy", array)
    for name, array in features.items():
        save_array(folder / FEATURES / f"{name}.npy", array)
    if user_features:
        whole_of_users = np.concatenate(list(user_features.values()), axis=1)
        save_array(folder / f"{USER_FEATURES}.npy", whole_of_users)
    pq.write_table(users, folder / USERS)
    pq.write_table(items, folder / ITEMS)
    for name in HELD_OUT:
        frame = held_out[name]
        pq.write_table(
            pa.Table.from_pandas(frame, preserve_index=False), folder / f"{name}.parquet"
        )
    whole = {
        "schema_version": SCHEMA_VERSION,
        **meta,
        "counts": {
            "users": graph.num_users,
            "items": graph.num_items,
            "train": graph.num_edges,
            **{name: len(held_out[name]) for name in HELD_OUT},
        },
        "scale": graph.scale.to_dict(),
        "mean_rating": biases.mean,
        "variance": biases.variance,
        "damping": biases.damping._asdict(),
        "level_counts": graph.level_counts.tolist(),
        "features": {name: array.shape[1] for name, array in features.items()},
    }
    if graph.times is not None:
        whole[TIMES] = True
    if user_features:
        whole[USER_FEATURES] = {name: array.shape[1] for name, array in user_features.items()}
    whole["fingerprint"] = fingerprint_of(whole)
    whole[FILES] = MappedFiles(folder, whole).describe()
    write_json(folder / DATASET_FILE, {**whole, CHECKSUM: checksum_of(whole)})
