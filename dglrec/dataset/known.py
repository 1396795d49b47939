"""Attributes of items and users, as features and as relations."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from dglrec import schema
from dglrec.dataset.attributes import (
    ITEM_ATTRIBUTES,
    USER_ATTRIBUTES,
    AttributeOptions,
    Features,
    ItemEncoder,
    fit_user_encoder,
)
from dglrec.dataset.nodes import KnownOf, find_attributes
from dglrec.dataset.options import PrepareOptions
from dglrec.dataset.rows import Rows
from dglrec.dataset.tables import GivenTables, attribute_columns, attribute_kinds
from dglrec.errors import UsageError
from dglrec.features import MOST_LABELS, Kind
from dglrec.ingest import Given
from dglrec.progress import log
from dglrec.relations import (
    ITEM_TYPE,
    USER_TYPE,
    HeldOutPairs,
    ReadRelation,
    read_relation,
)
from dglrec.split import Split


@dataclass(frozen=True)
class Known:
    """The attributes of items and users, in the order of their indices.

    Attributes:
        items: [I] rows.
        users: [U] rows.
        item_kinds: attribute name -> kind, of the items' attributes that are to become features.
        user_kinds: the same for users.
    """

    items: pd.DataFrame
    users: pd.DataFrame
    item_kinds: dict[str, Kind]
    user_kinds: dict[str, Kind]

    @classmethod
    def of(
        cls,
        items: pd.DataFrame,
        users: pd.DataFrame,
        tables: GivenTables,
        options: PrepareOptions,
    ) -> "Known":
        """Find out the kinds of attributes.

        Raises:
            UsageError: a kind is given for an attribute that is not there.
        """
        of_items, of_users = attribute_columns(items), attribute_columns(users)
        for name in options.attribute:
            if name not in of_items and name not in of_users:
                there = ", ".join(sorted({*of_items, *of_users})) or "none"
                raise UsageError(f"--attribute {name}: no such attribute; there is {there}")
        given = {} if tables.items is None else tables.items.columns
        names = [
            name
            for name, column in of_items.items()
            if (name in given or name in options.attribute)
            and name != schema.GENRES
            and column not in options.numeric
        ]
        return cls(
            items,
            users,
            attribute_kinds(items, options.attribute, names),
            attribute_kinds(users, options.attribute),
        )

    def described(self) -> dict[str, dict[str, str]]:
        """The entries of `dataset.json` with the kinds; only for node types that have any."""
        kinds = {ITEM_ATTRIBUTES: self.item_kinds, USER_ATTRIBUTES: self.user_kinds}
        return {
            entry: {name: kind.value for name, kind in of_type.items()}
            for entry, of_type in kinds.items()
            if of_type
        }

    def has_texts(self, items: Features, users: Features) -> bool:
        """Whether any feature of items or of users is made of texts."""
        both = ((self.item_kinds, items), (self.user_kinds, users))
        return any(kinds.get(name) is Kind.TEXT for kinds, found in both for name in found)


def encode_known(
    known: Known,
    options: PrepareOptions,
    trained_items: npt.NDArray[np.bool_],
    trained_users: npt.NDArray[np.bool_],
) -> tuple[Features, Features]:
    """Features of items and of users, fitted to items and users with a training row."""

    def usable(kinds: Mapping[str, Kind]) -> dict[str, Kind]:
        return {name: kind for name, kind in kinds.items() if options.text or kind != Kind.TEXT}

    attributes = AttributeOptions(
        options.numeric,
        options.text,
        options.text_model,
        options.cleaning,
        usable(known.item_kinds),
    )
    items = ItemEncoder.fit(known.items, trained_items, attributes).encode(known.items)
    users = fit_user_encoder(
        known.users,
        trained_users,
        usable(known.user_kinds),
        options.text_model,
        options.cleaning,
    ).encode(known.users)
    return items, users


def log_known(
    known: Known,
    options: PrepareOptions,
    items: Features,
    users: Features,
    relations: Mapping[str, ReadRelation],
) -> None:
    """Log each attribute's kind and whether it became a feature, and what relations report."""
    for node_type, kinds, features in (
        (ITEM_TYPE, known.item_kinds, items),
        (USER_TYPE, known.user_kinds, users),
    ):
        for name, kind in kinds.items():
            use = (
                ""
                if name in features
                else f"; no feature{_reason_without_feature(kind, options.text)}"
            )
            log(f"{node_type} attribute {name}: {kind.value}{use}")
    for read in relations.values():
        for line in read.said:
            log(line)


def _reason_without_feature(kind: Kind, text: bool) -> str:
    if kind is Kind.NONE:
        return ": nearly every value is in a single row, or there are no values"
    if kind is Kind.TEXT and not text:
        return " with --no-text"
    return f", which takes 1 to {MOST_LABELS} labels in training rows"


def connect_known(
    rows: Rows,
    split: Split,
    known: Known,
    files: Mapping[str, Given],
    options: PrepareOptions,
    trained_items: npt.NDArray[np.bool_],
    trained_users: npt.NDArray[np.bool_],
) -> dict[str, ReadRelation]:
    """Read the relations that files give, by name."""
    if not files:
        return {}
    attributes = find_attributes(
        KnownOf(ITEM_TYPE, known.items, trained_items, known.item_kinds),
        KnownOf(USER_TYPE, known.users, trained_users, known.user_kinds),
    )
    nodes = {USER_TYPE: rows.users, ITEM_TYPE: rows.items}
    nodes |= {name: attribute.ids for name, attribute in attributes.items()}
    columns = rows.columns
    held_out = np.concatenate((split.valid, split.test))
    pairs = HeldOutPairs(columns.users[held_out], columns.items[held_out], len(rows.items))
    cut = None
    if options.split == "time" and rows.is_test is None and columns.timestamps is not None:
        cut = int(columns.timestamps[split.train].max())
    return {
        name: read_relation(name, file, nodes, held_out=pairs, cut=cut)
        for name, file in files.items()
    }
