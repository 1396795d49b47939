"""A trained model -> embeddings and decoder in files that others can score with.

users.parquet         user_id, embedding (H float32 numbers), bias
items.parquet         item_id, embedding, bias
decoder.safetensors   the decoder's weights by name; mean rating, users' damping, ends of the scale
user_lists.parquet    user_id, embedding, bias: of the list head, where there is one
item_lists.parquet    item_id, embedding, bias
item_weights.safetensors  item-item weights beside it, where there are some
export.json           model, data set, counts and checksums

A rating is mean + user's bias + item's bias + w relu(W_u u + b_u + W_i i) + b + P u . Q i, clipped
to the scale; docs/scoring.md has it in numpy. An item's score for a list is the dot product of the
two list embeddings + the item's bias, and the sum of the item-item weights: for each item j that
the user rated, values[level of the rating] * weights[n] for each of the items[n], n from offsets[j]
up to offsets[j + 1].
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save
from torch import Tensor

from dglrec import schema
from dglrec.errors import DataError, UsageError
from dglrec.files import (
    atomic_folder,
    check_target_folder,
    fits_checksum,
    read_json,
    sha256_of,
    with_checksum,
    write_json,
)
from dglrec.ids import IdMap
from dglrec.places import Place
from dglrec.run import TrainedModel

EXPORT_FILE = "export.json"
USERS_FILE, ITEMS_FILE = "users.parquet", "items.parquet"
DECODER_FILE = "decoder.safetensors"
USER_LISTS_FILE, ITEM_LISTS_FILE = "user_lists.parquet", "item_lists.parquet"
ITEM_WEIGHTS_FILE = "item_weights.safetensors"

_SCHEMA_VERSION = 1
_ROWS_AT_ONCE = 1 << 16


def export(trained: TrainedModel, out: Place, *, overwrite: bool = False) -> dict[str, Any]:
    """Write exact embeddings of all users and items, and the decoder.

    Args:
        trained: a run's model.
        out: a folder, written whole or not at all. In a store `EXPORT_FILE` is written last, to
            show that it is complete.
        overwrite: whether an existing export may be replaced.

    Returns:
        Counts of users and items, and the embeddings' size.

    Raises:
        UsageError: `out` may not be written, or the model has no vectors of nodes.
        DglrecError: the disk is full.
    """
    if trained.model.config.convolution == "graph_filter":
        raise UsageError(
            "model.convolution = graph_filter: the model has no vectors of users and items to "
            "export; score writes what it predicts"
        )
    check_target_folder(out, marker=EXPORT_FILE, overwrite=overwrite)
    dataset, biases, nodes = trained.dataset, trained.dataset.biases, trained.embeddings.nodes
    scale = dataset.scale
    numbers = {
        "mean": biases.mean,
        "damping": biases.damping.users,
        "minimum": scale.minimum,
        "maximum": scale.maximum,
    }
    decoder = trained.model.rating_head.state_dict() if trained.rates else {}
    tensors = {
        **{name: value.cpu() for name, value in decoder.items()},
        **{name: torch.tensor(value, dtype=torch.float32) for name, value in numbers.items()},
    }
    lists = trained.embeddings.lists
    with atomic_folder(out, marker=EXPORT_FILE, overwrite=overwrite) as folder:
        _write(folder / USERS_FILE, schema.USER_ID, dataset.users, nodes.users, biases.users)
        _write(folder / ITEMS_FILE, schema.ITEM_ID, dataset.items, nodes.items, biases.items)
        # Serialised in memory: the library's error does not say so if a disk is full.
        (folder / DECODER_FILE).write_bytes(save(tensors))
        names = [USERS_FILE, ITEMS_FILE, DECODER_FILE]
        if lists is not None:
            sides = (
                (USER_LISTS_FILE, schema.USER_ID, dataset.users, lists[0]),
                (ITEM_LISTS_FILE, schema.ITEM_ID, dataset.items, lists[1]),
            )
            for name, column, ids, terms in sides:
                _write(folder / name, column, ids, terms.factors, terms.base.cpu())
                names.append(name)
        if trained.item_weights is not None:
            arrays = vars(trained.item_weights).items()
            weights = {name: torch.from_numpy(array) for name, array in arrays}
            (folder / ITEM_WEIGHTS_FILE).write_bytes(save(weights))
            names.append(ITEM_WEIGHTS_FILE)
        figures = {
            "users": len(dataset.users),
            "items": len(dataset.items),
            "embedding_size": nodes.items.shape[1],
        }
        description = {
            "schema_version": _SCHEMA_VERSION,
            **figures,
            "model": trained.identity,
            "dataset": dataset.fingerprint,
            **({} if dataset.parts == trained.learned_from else {"history": list(dataset.parts)}),
            "sha256": {name: sha256_of(folder / name) for name in names},
        }
        write_json(folder / EXPORT_FILE, with_checksum(description))
    return {"out": str(out), **figures}


def check_export(out: Place) -> None:
    """Compare an export with its checksums.

    Raises:
        DataError: a file is not as it was written.
    """
    description = read_json(out / EXPORT_FILE)
    sums = description.get("sha256")
    if fits_checksum(description) is False or not isinstance(sums, dict):
        raise DataError(f"{out / EXPORT_FILE}: altered since it was written; export again")
    for name, wanted in sums.items():
        path = out / name
        if Path(name).name != name or not path.is_file() or sha256_of(path) != wanted:
            what = "damaged since it was written" if path.exists() else "no such file"
            raise DataError(f"{path}: {what}; export again")


def _write(path: Path, name: str, ids: IdMap, embeddings: Tensor, biases: Tensor) -> None:
    size = embeddings.shape[1]
    columns = pa.schema(
        [
            pa.field(name, ids.ids.type),
            pa.field("embedding", pa.list_(pa.float32(), size)),
            pa.field("bias", pa.float32()),
        ]
    )
    with pq.ParquetWriter(path, columns, use_dictionary=False) as writer:
        for start in range(0, len(ids), _ROWS_AT_ONCE):
            part = slice(start, min(start + _ROWS_AT_ONCE, len(ids)))
            rows = embeddings[part].cpu().contiguous().numpy().ravel()
            arrays = [
                ids.decode(np.arange(part.start, part.stop)),
                pa.FixedSizeListArray.from_arrays(pa.array(rows), size),
                pa.array(biases[part].numpy()),
            ]
            writer.write_table(pa.Table.from_arrays(arrays, schema=columns))
