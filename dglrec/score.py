"""A trained model -> recommendations: for one user to look at, for all users as Parquet."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from dglrec import schema
from dglrec.distributed import World
from dglrec.errors import DataError, UsageError
from dglrec.files import atomic_folder, check_target_folder, write_json
from dglrec.graph import Adjacency
from dglrec.ids import IdMap
from dglrec.infer import embed_new_user, items_of, predict_pairs, top_items
from dglrec.ingest import read_one_users_ratings, stream_columns
from dglrec.metrics import clip
from dglrec.progress import log, progress
from dglrec.run import TrainedModel

MANIFEST_FILE = "_manifest.json"

_USERS_AT_ONCE = 512
_PART_ROWS = 1_000_000


@dataclass(frozen=True)
class Recommendation:
    """One item for one user.

    Attributes:
        rank: from 1.
        item_id: external id.
        title: its title, or its id where no table names it.
        score: predicted rating, clipped to the scale.
    """

    rank: int
    item_id: Any
    title: str
    score: float


def recommend(
    trained: TrainedModel, user_id: str | None, k: int = 10, *, ratings: Path | None = None
) -> list[Recommendation]:
    """The items with the highest predicted ratings that a user has not rated.

    Items rated in any split are left out, held-out ones too: the user knows them.

    Args:
        trained: a run's model.
        user_id: a user of the data set, as text; with `ratings` it may be anyone, or None, and
            what the data set has of that user is left out as well.
        k: how many; fewer come back where fewer are left.
        ratings: a file with the ratings of a user that training never saw.

    Raises:
        UsageError: k is not positive.
        DataError: the user is unknown, or the file is bad or rates no known item.
    """
    dataset, biases = trained.dataset, trained.dataset.biases
    _check_k(k)
    index = dataset.users.encode_one(user_id) if user_id is not None else -1
    if index < 0 and ratings is None:
        shown = ", ".join(str(known) for known in dataset.users.nearest())
        raise DataError(
            f"no user {user_id} in {dataset.path}; users are like {shown}, ...; for a user "
            "that training never saw give --ratings"
        )
    # Of a known user who comes with ratings, what the data set has counts as rated too.
    users = torch.tensor([index] if index >= 0 else [], dtype=torch.int64)
    seen = items_of(_rated(trained), users)[1]
    if ratings is not None:
        user, base, items = _new_user(trained, ratings)
        seen = torch.cat((seen, items))
    else:
        user = trained.embeddings.nodes.users[index : index + 1]
        base = biases.mean + float(biases.users[index])
    scores, items = top_items(
        trained.model,
        trained.embeddings.nodes.items,
        biases.items,
        user,
        torch.tensor([base]),
        (torch.zeros_like(seen), seen),
        k,
    )
    left = torch.isfinite(scores[0])
    best = items[0][left].numpy()
    ids, titles = dataset.items.decode(best).to_pylist(), dataset.titles.take(best).to_pylist()
    values = clip(scores[0][left], dataset.scale).tolist()
    return [
        Recommendation(rank, item_id, title, score)
        for rank, (item_id, title, score) in enumerate(
            zip(ids, titles, values, strict=True), start=1
        )
    ]


def score_top_k(
    trained: TrainedModel,
    out: Path,
    k: int,
    *,
    users: Path | None = None,
    shard: tuple[int, int] = (0, 1),
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write every user's best unseen items: `user_id, item_id, rank, score`.

    Args:
        trained: a run's model.
        out: a folder of Parquet files of bounded size; it appears whole or not at all.
        k: items for each user; fewer where fewer are unseen.
        users: a file with a column `user_id`; None for every user.
        shard: (i, n): only the i-th of n parts of the users, i from 0.
        overwrite: whether an existing folder of scores may be replaced.

    Returns:
        Counts of users and rows.

    Raises:
        UsageError: k or the shard is impossible, or `out` may not be written.
        DataError: the file is bad or names an unknown user.
    """
    dataset = trained.dataset
    number, shards = shard
    chosen = torch.arange(dataset.graph.num_users)
    with trained.world.together():
        _check_k(k, dataset.graph.num_items)
        if not 0 <= number < shards:
            raise UsageError(
                f"--shard {number}/{shards}: the first figure runs from 0 to {shards - 1}"
            )
        check_target_folder(out, marker=MANIFEST_FILE, overwrite=overwrite)
        if users is not None:
            known = _read_known(users, schema.USER_ID, dataset.users)
            chosen = torch.from_numpy(known).long().unique()
    chosen = chosen.tensor_split(shards)[number]
    options = {"top_k": k, "shard": f"{number}/{shards}"}
    return _write_parts(trained, out, _top_k_tables(trained, chosen, k), options, overwrite)


def score_pairs(
    trained: TrainedModel, out: Path, pairs: Path, *, overwrite: bool = False
) -> dict[str, Any]:
    """Write the predicted rating of each pair of a file, in its order: `user_id, item_id, score`.

    Args:
        trained: a run's model.
        out: as in `score_top_k`.
        pairs: CSV or Parquet with columns `user_id` and `item_id`.
        overwrite: whether an existing folder of scores may be replaced.

    Raises:
        UsageError: `out` may not be written.
        DataError: the file is bad or names an unknown user or item.
    """
    with trained.world.together():
        check_target_folder(out, marker=MANIFEST_FILE, overwrite=overwrite)
    tables = _pair_tables(trained, pairs)
    return _write_parts(trained, out, tables, {"pairs": pairs.name}, overwrite)


# Tables to be made, and the number of the part that each belongs to.
_Tables = Iterator[tuple[int, Callable[[], pa.Table]]]


def _top_k_tables(trained: TrainedModel, users: Tensor, k: int) -> _Tables:
    world = trained.world
    rated = _rated(trained)
    in_part = max(1, _PART_ROWS // (k * _USERS_AT_ONCE)) * _USERS_AT_ONCE
    with progress("scoring users", len(users), "users", shown=world.is_first) as advance:
        for number, of_part in enumerate(users.split(in_part)):
            for part in of_part.split(_USERS_AT_ONCE):
                if len(part):
                    yield number, partial(_top_k_table, trained, part, rated, k)
                advance(len(part))


def _top_k_table(trained: TrainedModel, users: Tensor, rated: list[Adjacency], k: int) -> pa.Table:
    dataset = trained.dataset
    scores, items = trained.best_items(users, rated, k)
    left = torch.isfinite(scores)
    ranks = torch.arange(1, scores.shape[1] + 1).expand_as(scores)
    rows = users.unsqueeze(1).expand_as(scores)
    return pa.table(
        {
            schema.USER_ID: dataset.users.decode(rows[left].numpy()),
            schema.ITEM_ID: dataset.items.decode(items[left].numpy()),
            schema.RANK: ranks[left].numpy().astype(np.int32),
            schema.SCORE: clip(scores[left], dataset.scale).numpy(),
        }
    )


def _pair_tables(trained: TrainedModel, pairs: Path) -> _Tables:
    dataset = trained.dataset
    kinds = {schema.USER_ID: dataset.users.ids.type, schema.ITEM_ID: dataset.items.ids.type}
    part = rows = in_part = 0
    for stretch in stream_columns(pairs, kinds):
        yield part, partial(_pair_table, trained, stretch.table, pairs)
        rows += len(stretch.table)
        in_part += len(stretch.table)
        if in_part >= _PART_ROWS:
            part, in_part = part + 1, 0
    if not rows:
        raise DataError(f"{pairs}: holds no row")


def _pair_table(trained: TrainedModel, table: pa.Table, pairs: Path) -> pa.Table:
    dataset = trained.dataset
    users = _known(table, schema.USER_ID, dataset.users, pairs)
    items = _known(table, schema.ITEM_ID, dataset.items, pairs)
    scores = predict_pairs(
        trained.model,
        trained.embeddings,
        dataset.biases,
        torch.tensor(users, dtype=torch.int64),
        torch.tensor(items, dtype=torch.int64),
    )
    return pa.table(
        {
            schema.USER_ID: dataset.users.decode(users),
            schema.ITEM_ID: dataset.items.decode(items),
            schema.SCORE: clip(scores, dataset.scale).numpy(),
        }
    )


def _write_parts(
    trained: TrainedModel,
    out: Path,
    tables: _Tables,
    options: dict[str, Any],
    overwrite: bool,
) -> dict[str, Any]:
    """Write tables into files of about `_PART_ROWS` rows, and what they are into the manifest.

    Processes take the parts in turn, and all write into one folder.
    """
    world = trained.world
    trained.embeddings  # noqa: B018 - computed by all processes together, so before they part
    with ExitStack() as until_done:
        with world.together():
            folder = Path()
            if world.is_first:
                target = atomic_folder(out, marker=MANIFEST_FILE, overwrite=overwrite)
                folder = until_done.enter_context(target)
        folder = Path(os.fsdecode(world.from_first(lambda: os.fsencode(folder.absolute()))))
        with world.together():
            if not folder.is_dir():
                raise DataError(
                    f"{out}: rank {world.rank} does not see the folder that rank 0 writes; "
                    "several machines need a shared one, or --shard and a folder each"
                )
            rows = _write_own_parts(tables, folder, world)
        rows = [round(count) for count in world.sum(rows)]
        summary = {
            "rows": sum(rows),
            **options,
            "fingerprint": trained.dataset.fingerprint,
            "epoch": trained.meta["epoch"],
            "parts": [
                {"file": _part_name(number), "rows": count} for number, count in enumerate(rows)
            ],
        }
        with world.together():
            if world.is_first:
                write_json(folder / MANIFEST_FILE, summary)
                until_done.close()
    return {"out": str(out), **{key: summary[key] for key in ("rows", *options)}}


def _write_own_parts(tables: _Tables, folder: Path, world: World) -> list[int]:
    """Write this process's parts; the rows of each part, 0 where it is another's."""
    rows: list[int] = []
    writer: pq.ParquetWriter | None = None
    try:
        for number, make in tables:
            if number == len(rows):
                rows.append(0)
                if writer is not None:
                    writer.close()
                    writer = None
            if number % world.size != world.rank:
                continue
            table = make()
            if writer is None:
                writer = pq.ParquetWriter(folder / _part_name(number), table.schema)
            writer.write_table(table)
            rows[number] += len(table)
    finally:
        if writer is not None:
            writer.close()
    return rows


def _part_name(number: int) -> str:
    return f"part-{number:05d}.parquet"


def _new_user(trained: TrainedModel, ratings: Path) -> tuple[Tensor, float, Tensor]:
    dataset = trained.dataset
    table = read_one_users_ratings(ratings, dataset.items.ids.type, dataset.scale)
    indices = dataset.items.encode(table.column(schema.ITEM_ID))
    known = indices >= 0
    if not known.any():
        raise DataError(f"{ratings}: rates no item of {dataset.path}")
    if not known.all():
        log(f"{ratings}: {np.count_nonzero(~known)} rated items are unknown and left out")
    items = torch.from_numpy(indices[known]).long()
    values = torch.tensor(table.column(schema.RATING).to_numpy()[known])
    user, bias = embed_new_user(trained.model, dataset.biases, trained.embeddings, items, values)
    return user, dataset.biases.mean + bias, items


def _rated(trained: TrainedModel) -> list[Adjacency]:
    """All that users rated, held-out rows too: they know those items, trained on or not."""
    dataset = trained.dataset
    return [dataset.graph.by_user, *(dataset.held_out_by_user(name) for name in ("valid", "test"))]


def _read_known(file: Path, name: str, ids: IdMap) -> Any:
    parts = [
        _known(stretch.table, name, ids, file)
        for stretch in stream_columns(file, {name: ids.ids.type})
    ]
    if not sum(map(len, parts)):
        raise DataError(f"{file}: holds no row")
    return np.concatenate(parts)


def _known(table: pa.Table, name: str, ids: IdMap, file: Path) -> Any:
    """int32 [n] indices of a column's ids."""
    indices = ids.encode(table.column(name))
    unknown = np.flatnonzero(indices < 0)
    if len(unknown):
        shown = ", ".join(str(table.column(name)[int(row)]) for row in unknown[:3])
        raise DataError(f"{file}: {name} {shown} unknown to the data set ({len(unknown)} rows)")
    return indices


def _check_k(k: int, num_items: int | None = None) -> None:
    if k < 1:
        raise UsageError(f"k = {k}: must be 1 or more")
    if num_items is not None and k > num_items:
        raise UsageError(f"k = {k}: the catalogue has {num_items} items")
