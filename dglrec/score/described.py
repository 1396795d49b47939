"""Attributes of users that training never saw, from a table: their features and labels."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from torch import Tensor

from dglrec import schema
from dglrec.dataset import user_table
from dglrec.errors import DataError, UsageError
from dglrec.ids import IdMap
from dglrec.infer import tell_new_users
from dglrec.ingest import AttributeTable, Given, read_attributes
from dglrec.progress import log
from dglrec.relations import USER_TYPE
from dglrec.run import TrainedModel, blocks_of_new_users, read_attributes_of

_NOBODY = pa.array([0], type=pa.int64())  # stands for the id of a single user without an id


@dataclass(frozen=True)
class Described:
    """The features and labels of n users that are not in the data set.

    Attributes:
        features: float32 [n, F] in the form of `RatingDataset.user_features`.
        told: float32 [n, H] for each layer, the messages that they receive from their labels; empty
            for no messages.
        has_row: bool [n] whether the table has a row of the user.
    """

    features: Tensor
    told: tuple[Tensor, ...]
    has_row: np.ndarray[Any, np.dtype[np.bool_]]


def read_described_users(trained: TrainedModel, file: Given) -> AttributeTable:
    """The rows of `--user-table` for users that are not in the data set; there may be none.

    Raises:
        UsageError: the model reads no attributes of users.
        DataError: the file is bad, or has a column that is no attribute in the data set.
    """
    table = _read(trained, file)
    known = trained.dataset.users
    ids = table.ids_as(schema.USER_ID, known.ids.type)
    new = np.flatnonzero(known.encode(ids) < 0)
    if len(new) < len(ids):
        log(f"{file}: {len(ids) - len(new)} users are known; what the data set says of them counts")
    return _rows(table, ids.take(pa.array(new)), new)


def read_described_user(
    trained: TrainedModel, file: Given, user_id: str | None
) -> tuple[AttributeTable | None, str | None]:
    """The row of a single user, with the id 0 in place of its id, and the user's id.

    The row is None for a user of the data set, whose attributes are known; the id is None for a
    user that the caller did not name and that is not in the data set.

    Args:
        trained: a run's model.
        file: the table; if it has a single row, that row needs no id.
        user_id: the user, as text; None for the only user of the table.

    Raises:
        UsageError: the model reads no attributes of users.
        DataError: the file is bad, has a column that is no attribute in the data set, has no row or
            several rows of the named user, or several users where none is named.
    """
    table = _read(trained, file, one=True)
    ids = [str(one) for one in table.ids.to_pylist()]
    if user_id is None:
        if len(ids) > 1:
            raise DataError(f"{file}: holds {len(ids)} users; name one with --user")
        known = -1 if table.ids.null_count else trained.dataset.users.encode_one(ids[0])
        row, user_id = 0, ids[0] if known >= 0 else None
    else:
        known = trained.dataset.users.encode_one(user_id)
        if known < 0 and ids.count(user_id) != 1:
            times = "no row" if user_id not in ids else "several rows"
            raise DataError(f"{file}: has {times} of user {user_id}, and needs one")
        row = ids.index(user_id) if known < 0 else 0
    if known >= 0:
        log(f"{file}: user {user_id} is known; what the data set says of it counts")
        return None, user_id
    return _rows(table, _NOBODY, np.array([row])), user_id


def describe_users(trained: TrainedModel, table: AttributeTable, ids: pa.Array) -> Described:
    """The features and labels of n users; attributes that the table lacks count as unknown.

    Args:
        trained: a run's model.
        table: from `read_described_users`.
        ids: [n] ascending.

    Raises:
        DataError: a user has two rows, or a value does not have the type of its column.
    """
    dataset, config = trained.dataset, trained.model.config
    everybody = IdMap(ids)
    rows, _ = table.rows_of(everybody)
    frame = user_table(pd.DataFrame({schema.USER_ID: []}), everybody, table)
    for name in _read_by_model(trained):
        if name not in frame:
            log(f"{table.file}: no column {name}, which the model reads; it counts as unknown")
    for name in dataset.user_feature_widths:
        if name not in frame:
            frame[name] = pd.Series([None] * len(frame), index=frame.index, dtype=object)
    try:
        features = dataset.encode_users(frame)
    except DataError as error:
        raise DataError(f"{table.file}: {error}") from error
    if dataset.user_feature_widths:
        unseen = dataset.user_encoder.unseen(frame)
        shown = ", ".join(f"{name} {count}" for name, count in unseen.items())
        if unseen:
            log(f"{table.file}: labels that training did not see, which count as none: {shown}")
    told = tell_new_users(trained.model, blocks_of_new_users(config, dataset, frame))
    return Described(features, told, rows >= 0)


def _read(trained: TrainedModel, file: Given, *, one: bool = False) -> AttributeTable:
    used, attributes = _read_by_model(trained), trained.dataset.user_attributes
    if not used:
        raise UsageError(
            f"--user-table {file}: the model reads no features of users; "
            + (
                f"the data set has {', '.join(attributes)}: train with model.user_features=true, "
                "or name has_ATTRIBUTE in model.relations"
                if attributes
                else "prepare the data set with --user-table, and train anew"
            )
        )
    called = trained.dataset.columns.get("user")
    table = read_attributes(file, schema.USER_ID, one=one, called=called)
    if unknown := [name for name in table.columns if name not in attributes]:
        raise DataError(
            f"{file}: the data set knows no {' and no '.join(unknown)} of users; it has "
            f"{', '.join(attributes)}; leave the column out"
        )
    if unread := [name for name in table.columns if name not in used]:
        log(f"{file}: column {', '.join(unread)} is not read by the model")
    return table


def _read_by_model(trained: TrainedModel) -> list[str]:
    """The attributes of users that the model reads, as features or as nodes."""
    dataset, config = trained.dataset, trained.model.config
    wanted = config.user_features
    attributes = dataset.user_attributes  # without features that are computed from training rows
    names = [
        name
        for name in dataset.user_feature_widths
        if name in attributes and (wanted is True or (wanted and name in wanted))
    ]
    as_nodes = read_attributes_of(USER_TYPE, config, dataset)
    # The node type of a user attribute has a prefix if items have an attribute of the same name.
    node_names = (
        name if name in attributes else name.removeprefix(f"{USER_TYPE}_") for name in as_nodes
    )
    return list(dict.fromkeys((*names, *node_names)))


def _rows(table: AttributeTable, ids: pa.Array, rows: np.ndarray[Any, Any]) -> AttributeTable:
    columns = {name: column.iloc[rows] for name, column in table.columns.items()}
    return AttributeTable(table.file, ids, columns)
