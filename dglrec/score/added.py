"""Users and items that files add to a data set, and users of the data set with other ratings."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from dglrec import schema
from dglrec.dataset import RatingDataset
from dglrec.errors import DataError, UsageError
from dglrec.graph import Adjacency, group_by_user
from dglrec.ids import IdMap
from dglrec.ingest import (
    AttributeTable,
    Given,
    NewRatings,
    read_new_interactions,
    read_new_items,
    read_new_ratings,
)
from dglrec.kernels import ItemLists, ragged
from dglrec.progress import counted, log
from dglrec.relations import ITEM_TYPE
from dglrec.run import TrainedModel, read_attributes_of
from dglrec.score.described import describe_users

Known = Literal["error", "extend", "replace"]
"""How a file's ratings of users of the data set are treated: `error` refuses them; `extend` adds
them to the ratings in the data set, and of an item rated in both the file's rating counts;
`replace` uses the file's ratings alone."""


@dataclass(frozen=True)
class NewItems:
    """Items that training never saw.

    Attributes:
        table: m rows, from `read_new_items`.
        features: float32 [m, F].
    """

    table: pd.DataFrame
    features: Tensor


@dataclass(frozen=True)
class NewUsers:
    """Users that training never saw; or users of the data set with other ratings.

    Attributes:
        ids: [n] ascending.
        ratings: their ratings of the data set's items, which they are encoded from.
        rated: all items that they rated, new items included.
        features: float32 [n, F] their features; None where no features are known.
        told: float32 [n, H] for each layer, the messages that they receive from their labels; empty
            for no messages.
        identities: int64 [n] their indices in the data set, which then provides their features and
            labels; None for users that training never saw.
    """

    ids: pa.Array
    ratings: Adjacency
    rated: ItemLists
    features: Tensor | None = None
    told: tuple[Tensor, ...] = ()
    identities: Tensor | None = None


def read_items_to_add(trained: TrainedModel, file: Given) -> NewItems:
    """The items of `--new-items`.

    Raises:
        UsageError: the model reads neither features nor labels of items.
        DataError: the file is bad, or holds an item of the data set.
    """
    dataset = trained.dataset
    labelled = bool(read_attributes_of(ITEM_TYPE, trained.model.config, dataset))
    if not trained.model.inputs.features.shape[1] and not labelled:
        raise UsageError(
            f"--new-items {file}: the model uses no genres or text, which is all that is known of "
            "a new item"
        )
    table = read_new_items(file, dataset.items.ids.type, dataset.columns.get("item"))
    ids = pa.array(table[schema.ITEM_ID], type=dataset.items.ids.type)
    _refuse_known(file, schema.ITEM_ID, ids, dataset.items, "--new-items takes others")
    try:
        features = dataset.encode_items(table)
    except DataError as error:
        raise DataError(f"{file}: {error}") from error
    bare = int((~features.any(1)).sum())
    if bare and not labelled:
        log(f"{file}: {bare} items have no genre or text that the model knows")
    return NewItems(table, features)


class Added(NamedTuple):
    """The users that a file of ratings, or a table of users, adds or changes.

    Attributes:
        new: users that are not in the data set; None without any.
        changed: users of the data set with other ratings; None without any.
    """

    new: NewUsers | None
    changed: NewUsers | None


def read_users_to_add(
    trained: TrainedModel,
    file: Given | None,
    new_items: NewItems | None = None,
    *,
    table: AttributeTable | None = None,
    known: Known = "error",
) -> Added:
    """The users of `--ratings`, of `--user-table`, or of both.

    Args:
        trained: a run's model.
        file: the users' ratings, or interactions for a data set of interactions; None without.
        new_items: new items that the file may rate as well.
        table: the attributes of new users, from `read_described_users`; None without.
        known: how ratings of users of the data set are treated.

    Raises:
        DataError: a file is bad, rates no known item, or rates items for a user of the data set
            while `known` is `error`.
    """
    dataset = trained.dataset
    items = with_new_items(dataset.items, new_items)
    if file is None:
        assert table is not None
        rows = _no_ratings(table.ids[:0])
    else:
        rows = _read_ratings(dataset, file, items, dataset.users.ids.type)
    indices = dataset.users.encode(rows.user_ids)
    if known == "error" and file is not None:
        refusal = (
            "--ratings takes users that training never saw; --known extend or replace takes others"
        )
        _refuse_known(file, schema.USER_ID, rows.user_ids, dataset.users, refusal)
    if file is not None:
        _say_what_is_unknown(dataset, file, rows)
    is_known = indices >= 0
    changed = None
    if is_known.any():
        assert file is not None
        said = {"extend": "add to what the data set has", "replace": "count in its place"}[known]
        count = counted(int(is_known.sum()), "user")
        log(f"{file}: {count} of the data set; the ratings {said}")
        chosen_rows, places = _rows_of(rows, is_known)
        users = torch.from_numpy(indices[is_known].astype(np.int64))
        changed = _changed_users(dataset, users, chosen_rows, places, len(items), known)
    new = None
    if table is not None or not is_known.all():
        chosen_rows, places = _rows_of(rows, ~is_known)
        new = _new_users(trained, chosen_rows, places, len(items), file, table)
    return Added(new, changed)


def read_user_to_add(
    trained: TrainedModel,
    file: Given | None,
    *,
    table: AttributeTable | None = None,
    index: int = -1,
    known: Known = "replace",
) -> NewUsers:
    """The single user of `--ratings`, of a table of one user, or of both; an id is not needed.

    Args:
        trained: a run's model.
        file: the user's ratings; None without.
        table: the user's attributes, from `read_described_user`; None without.
        index: the user's index in the data set; -1 for a user that is not in it.
        known: how ratings of a user of the data set are treated.

    Raises:
        DataError: a file is bad, holds several users, or rates no known item; or the user is in
            the data set while `known` is `error`.
    """
    dataset = trained.dataset
    if file is None:
        assert table is not None
        rows = _no_ratings(table.ids[:0])
    else:
        rows = _read_ratings(dataset, file, dataset.items, None)
        _say_what_is_unknown(dataset, file, rows)
    if index < 0:
        return _new_users(trained, rows, rows.users, len(dataset.items), file, table)
    if known == "error":
        raise DataError(
            f"{file}: the data set knows its user; --known extend adds these ratings to what it "
            "has, and --known replace takes them in its place"
        )
    count = len(dataset.items)
    return _changed_users(dataset, torch.tensor([index]), rows, rows.users, count, known)


def _read_ratings(
    dataset: RatingDataset, file: Given, items: IdMap, user_type: pa.DataType | None
) -> NewRatings:
    names = dataset.column_names
    if dataset.has_ratings:
        return read_new_ratings(file, items, dataset.scale, user_type, names)
    return read_new_interactions(file, items, user_type, dataset.interactions_from, names)


def _say_what_is_unknown(dataset: RatingDataset, file: Given, rows: NewRatings) -> None:
    """Log how many rows are left out because their items are unknown.

    Raises:
        DataError: all rows are left out.
    """
    if not len(rows.items):
        rates = "rates" if dataset.has_ratings else "holds"
        raise DataError(f"{file}: {rates} no item of {dataset.path}")
    if rows.unknown:
        what = "ratings" if dataset.has_ratings else "interactions"
        shown = ", ".join(map(str, rows.unknown_ids))
        log(f"{file}: {rows.unknown} {what} are of unknown items and left out (items {shown})")


def _rows_of(
    rows: NewRatings, chosen: npt.NDArray[np.bool_]
) -> tuple[NewRatings, npt.NDArray[np.int64]]:
    """The rows of the chosen users, bool [n], and each row's user as a position among these."""
    is_kept = chosen[rows.users]
    places = (np.cumsum(chosen) - 1)[rows.users[is_kept]]
    ids = rows.user_ids.filter(pa.array(chosen))
    kept = NewRatings(ids, rows.users[is_kept], rows.items[is_kept], rows.ratings[is_kept], 0)
    return kept, places


def _changed_users(
    dataset: RatingDataset,
    users: Tensor,
    rows: NewRatings,
    places: npt.NDArray[np.int64] | npt.NDArray[np.int32],
    num_items: int,
    known: Known,
) -> NewUsers:
    """Users of the data set with the ratings of a file, and perhaps those of the data set as well.

    Args:
        dataset: the data set.
        users: int64 [n] indices of its users, ascending.
        rows: the rows of the file.
        places: [r] the user of each row, as a position in `users`.
        num_items: the number of items, new items included.
        known: `extend` or `replace`.
    """
    sizes = {"num_users": len(users), "num_items": num_items}
    codes = dataset.scale.encode(rows.ratings)
    owners, items = places.astype(np.int64), rows.items
    seen = dataset.rated_items()
    all_seen = _stretches(seen.offsets, users.numpy())
    if known == "extend":
        by_user = dataset.graph.by_user
        edges = _stretches(by_user.offsets, users.numpy())
        before = np.repeat(np.arange(len(users)), by_user.degrees[users.numpy()])
        # For an item that is rated in both, the file's rating counts.
        in_file = np.isin(
            before * num_items + by_user.neighbours[edges], owners * num_items + items
        )
        owners = np.concatenate((owners, before[~in_file]))
        items = np.concatenate((items, by_user.neighbours[edges][~in_file]))
        codes = np.concatenate((codes, by_user.codes[edges][~in_file]))
    # Items that the user rated in the data set are never recommended, even if the file replaces
    # their ratings.
    owners_seen = np.repeat(np.arange(len(users)), np.diff(seen.offsets)[users.numpy()])
    pairs = np.unique(
        np.concatenate((owners * num_items + items, owners_seen * num_items + seen.items[all_seen]))
    )
    offsets = np.searchsorted(pairs, np.arange(len(users) + 1) * num_items)
    rated = ItemLists(offsets.astype(np.int64), (pairs % num_items).astype(np.int32))
    encoding = items < len(dataset.items)
    ratings = group_by_user(owners[encoding], items[encoding], codes[encoding], **sizes)
    return NewUsers(dataset.users.decode(users.numpy()), ratings, rated, identities=users)


def _stretches(
    offsets: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """int64 [s]: the indices of the entries of some rows, row after row."""
    starts = torch.from_numpy(offsets[rows])
    return ragged(starts, torch.from_numpy(offsets[rows + 1]) - starts).numpy()


def _new_users(
    trained: TrainedModel,
    new: NewRatings,
    users: npt.NDArray[np.int64] | npt.NDArray[np.int32],
    num_items: int,
    file: Given | None,
    table: AttributeTable | None,
) -> NewUsers:
    """Users that are not in the data set.

    Args:
        trained: a run's model.
        new: their ratings.
        users: [r] the user of each row, as a position in `new.user_ids`.
        num_items: the number of items, new items included.
        file: the file of the ratings, for messages.
        table: their attributes; None without.

    Raises:
        DataError: a row of the table is bad.
    """
    dataset = trained.dataset
    ids, described = new.user_ids, None
    if table is not None:
        ids = pc.unique(pa.concat_arrays([ids, table.ids]))
        ids = ids.take(pc.sort_indices(ids))
        users = IdMap(ids).encode(new.user_ids)[users]
        described = describe_users(trained, table, ids)
    codes, encoding = dataset.scale.encode(new.ratings), new.items < len(dataset.items)
    sizes = {"num_users": len(ids), "num_items": num_items}
    rated = group_by_user(users, new.items, codes, **sizes)
    ratings = group_by_user(users[encoding], new.items[encoding], codes[encoding], **sizes)
    bare = ratings.degrees == 0
    if described is not None and table is not None:
        if without := int(np.count_nonzero(~described.has_row)):
            log(
                f"{file}: {without} users have no row in {table.file}; their attributes are unknown"
            )
        bare &= ~described.has_row
    if bare.any():
        count = int(np.count_nonzero(bare))
        rate = "rate" if dataset.has_ratings else "have"
        log(
            f"{file}: {count} users {rate} no item that training saw; they are scored like users "
            "without ratings"
        )
    if described is None:
        return NewUsers(ids, ratings, rated.lists)
    return NewUsers(ids, ratings, rated.lists, described.features, described.told)


def _no_ratings(ids: pa.Array) -> NewRatings:
    """No ratings, with user ids of the type of `ids`, which is empty."""
    indices = np.empty(0, dtype=np.int32)
    return NewRatings(ids, indices, indices, np.empty(0, dtype=np.float32), 0)


def with_new_items(known: IdMap, new_items: NewItems | None) -> IdMap:
    """The ids of a data set's items, followed by those of the new items."""
    if new_items is None:
        return known
    return known.extended(pa.array(new_items.table[schema.ITEM_ID], type=known.ids.type))


def _refuse_known(file: Given, name: str, ids: pa.Array, known: IdMap, refusal: str) -> None:
    known_ids = ids.filter(pc.is_in(ids, value_set=known.ids))
    if len(known_ids):
        shown = ", ".join(str(known_id) for known_id in known_ids[:3].to_pylist())
        raise DataError(
            f"{file}: {name} {shown} known to the data set ({len(known_ids)}); {refusal}"
        )
