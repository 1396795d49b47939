"""A run's errors summed by user, on disk: the table needs no second prediction."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from dglrec import schema
from dglrec.compare import UserSums, predict_held_out, user_sums
from dglrec.dataset import HeldOut, RatingDataset
from dglrec.errors import DataError
from dglrec.files import atomic_file
from dglrec.run import Predictor

_PARTS = ("n", "squared", "absolute", "exact")
_NOTES = ("split", "rows", "weights")


@dataclass(frozen=True)
class RunSums:
    """Sums of a run's errors.

    Attributes:
        sums: by user; users are 0..U-1, in the order of their ids, of those that have rows.
        user_ids: [U] external ids.
        split: whose rows these are.
        rows: names the rows, whatever data set they are in: SHA-256 of ids and ratings.
        weights: names the model: the checksum of its weights.
    """

    sums: UserSums
    user_ids: pa.Array
    split: str
    rows: str
    weights: str


def sums_of_run(trained: Predictor, run: Path, split: str) -> RunSums:
    """Predict a run's held-out rows and sum its errors.

    Raises:
        DataError: there are no rows.
        DglrecError: a prediction is not finite.
    """
    dataset = trained.dataset
    predictions, rows = predict_held_out(trained, run, split)
    # One order for all data sets that hold these rows, so that sums are equal to the last bit.
    order = np.lexsort((rows.ratings.numpy(), rows.items.numpy(), rows.users.numpy()))
    places = torch.from_numpy(order)
    rows = HeldOut(rows.users[places], rows.items[places], rows.ratings[places])
    sums = user_sums(predictions[places], rows, dataset.scale, len(dataset.users))
    return RunSums(
        sums=UserSums(np.arange(len(sums)), *(getattr(sums, part) for part in _PARTS)),
        user_ids=dataset.users.decode(sums.users),
        split=split,
        rows=_name_of(rows, dataset),
        weights=str(trained.identity["weights"]),
    )


def save_sums(path: Path, found: RunSums) -> None:
    """Write sums as Parquet, one row a user."""
    columns: dict[str, Any] = {part: getattr(found.sums, part) for part in _PARTS}
    table = pa.table({schema.USER_ID: found.user_ids, **columns})
    notes = {name: str(getattr(found, name)) for name in _NOTES}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary:
        pq.write_table(table.replace_schema_metadata(notes), temporary)


def load_sums(path: Path) -> RunSums:
    """Read what `save_sums` wrote.

    Raises:
        DataError: it is missing or damaged.
    """
    try:
        table = pq.read_table(path)
        notes = {name: table.schema.metadata[name.encode()].decode() for name in _NOTES}
        parts = [table.column(part).to_numpy() for part in _PARTS]
        user_ids = table.column(schema.USER_ID).combine_chunks()
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (pa.ArrowException, OSError, KeyError, TypeError) as error:
        raise DataError(f"{path}: damaged ({' '.join(str(error).split())})") from error
    return RunSums(UserSums(np.arange(len(table)), *parts), user_ids, **notes)


def _name_of(rows: HeldOut, dataset: RatingDataset) -> str:
    """SHA-256 of rows in order: ids of the users and items that have some, places, ratings."""
    digest = hashlib.sha256(json.dumps(dataset.scale.to_dict()).encode())
    for ids, indices in ((dataset.users, rows.users), (dataset.items, rows.items)):
        present, places = np.unique(indices.numpy(), return_inverse=True)
        digest.update(json.dumps(ids.decode(present).to_pylist()).encode())
        digest.update(places.astype("<i8").tobytes())
    digest.update(rows.ratings.numpy().astype("<f4").tobytes())
    return digest.hexdigest()
