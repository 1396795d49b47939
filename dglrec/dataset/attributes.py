"""Attributes of items and users -> features, fitted to those that have a training row."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from dglrec import schema
from dglrec.dataset.tables import attribute_columns
from dglrec.errors import DataError
from dglrec.features import (
    ColumnEncoder,
    Fitting,
    GenresEncoder,
    IdentityEncoder,
    Kind,
    SequenceEncoder,
    TextCleaning,
    fit_column,
    stored_kind,
)

ITEM_ATTRIBUTES = "item_attributes"
USER_ATTRIBUTES = "user_attributes"
"""Entries of `dataset.json`: the kinds of the attributes that tables gave, by name."""

USER_FEATURES = "user_features"
"""The file of users' features, and the entry of `dataset.json` with their widths by name."""

_TOLERANCE = 1e-3  # of an embedding of unit length, on another machine

Features = dict[str, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class AttributeOptions:
    """Which attributes become features, and how.

    Attributes:
        numeric: columns to use as numbers.
        text: whether synopses are used.
        text_model: a sentence-transformers name or folder; `auto` takes the packaged one.
        cleaning: what is done to a synopsis first.
        kinds: kinds of further attributes, by name.
    """

    numeric: tuple[str, ...]
    text: bool
    text_model: str
    cleaning: TextCleaning
    kinds: Mapping[str, Kind] = field(default_factory=dict)

    @classmethod
    def of(cls, meta: dict[str, Any]) -> "AttributeOptions":
        """Those by which a data set was prepared, from its `dataset.json`."""
        cleaning = TextCleaning(**(meta["cleaning"] or {}))
        model = meta["text_model"] or "auto"
        kinds = used_kinds(meta.get(ITEM_ATTRIBUTES, {}), meta["features"])
        return cls(tuple(meta["numeric"]), "text" in meta["features"], model, cleaning, kinds)


def used_kinds(kinds: Mapping[str, str], features: Iterable[str]) -> dict[str, Kind]:
    """The kinds of those attributes that became features, as `dataset.json` says.

    Raises:
        DataError: one is of a kind whose encoder nobody has registered.
    """
    return {name: stored_kind(name, kinds[name]) for name in features if name in kinds}


@dataclass(frozen=True)
class AttributeEncoder:
    """Encoders of attributes of any kind, by name: one feature each.

    Left out are those that `fit_column` makes no feature of.
    """

    encoders: Mapping[str, ColumnEncoder]

    @classmethod
    def fit(
        cls,
        table: pd.DataFrame,
        trained: npt.NDArray[np.bool_],
        kinds: Mapping[str, Kind],
        text: SequenceEncoder | None,
    ) -> "AttributeEncoder":
        """Fit to what is known of items or users.

        Args:
            table: N rows; see `tables.attribute_columns`.
            trained: [N], whether an item or user has a training row.
            kinds: of the attributes to be used, by name.
            text: embeds texts; None leaves them out.

        Raises:
            DataError: a value is not of its column's kind.
            UsageError: an encoder that somebody registered fails.
        """
        columns = attribute_columns(table)
        fitted = {
            name: fit_column(table[columns[name]], Fitting(name, kind, trained, text))
            for name, kind in kinds.items()
        }
        return cls({name: one for name, one in fitted.items() if one is not None})

    def unseen(self, table: pd.DataFrame) -> dict[str, int]:
        """How many labels of n rows training does not know, by name, where there are some.

        Args:
            table: n rows with the columns that the encoders were fitted to.
        """
        columns = attribute_columns(table)
        counts = {
            name: encoder.unseen(table[columns[name]]) for name, encoder in self.encoders.items()
        }
        return {name: count for name, count in counts.items() if count}

    def encode(self, table: pd.DataFrame) -> Features:
        """Features of n rows by name, float32 [n, F].

        Args:
            table: n rows with the columns that the encoders were fitted to.

        Raises:
            DataError: a column is missing, or a value is not of its kind.
            UnusableEnvironmentError: the text model cannot be had.
        """
        columns = attribute_columns(table)
        if missing := [name for name in self.encoders if name not in columns]:
            raise DataError(f"no column {', '.join(missing)}, which the data set uses")
        return {name: one.encode(table[columns[name]]) for name, one in self.encoders.items()}


@dataclass(frozen=True)
class ItemEncoder:
    """Encoders of items' attributes, by feature; what the items lacked altogether is left out."""

    genres: GenresEncoder | None
    numeric: dict[str, IdentityEncoder]
    text: SequenceEncoder | None
    further: AttributeEncoder

    @classmethod
    def fit(
        cls, catalogue: pd.DataFrame, trained: npt.NDArray[np.bool_], options: AttributeOptions
    ) -> "ItemEncoder":
        """Fit to a catalogue.

        Args:
            catalogue: I rows with `genres`, `synopsis` and the numeric columns.
            trained: [I], whether an item has a training rating.
            options: what to use.
        """
        genres = GenresEncoder.fit(catalogue[schema.GENRES].tolist(), trained)
        has_text = options.text and any(text is not None for text in _synopses(catalogue))
        # One model, loaded once, for synopses and other texts.
        needed = has_text or Kind.TEXT in options.kinds.values()
        text = SequenceEncoder(options.text_model, options.cleaning) if needed else None
        return cls(
            genres if genres.vocabulary else None,
            {
                name: IdentityEncoder.fit(_numbers(catalogue, name), trained, standardize=True)
                for name in options.numeric
            },
            text if has_text else None,
            AttributeEncoder.fit(catalogue, trained, options.kinds, text),
        )

    def encode(self, items: pd.DataFrame) -> Features:
        """Features of n items by name, float32 [n, F].

        Args:
            items: n rows with `genres`, `synopsis` and the numeric columns.

        Raises:
            UnusableEnvironmentError: the text model cannot be had.
        """
        features: Features = {}
        if self.genres is not None:
            features["genres"] = self.genres.encode(items[schema.GENRES].tolist())
        if self.numeric:
            columns = [one.encode(_numbers(items, name)) for name, one in self.numeric.items()]
            features["numeric"] = np.concatenate(columns, axis=1)
        if self.text is not None:
            features["text"] = self.text.encode(_synopses(items))
        return features | self.further.encode(items)


def fit_user_encoder(
    users: pd.DataFrame,
    trained: npt.NDArray[np.bool_],
    kinds: Mapping[str, Kind],
    text_model: str,
    cleaning: TextCleaning,
) -> AttributeEncoder:
    """Encoders of users' attributes, fitted to the users that have a training row.

    Args:
        users: U rows.
        trained: [U], whether a user has a training row.
        kinds: of the attributes to be used, by name.
        text_model: as for `AttributeOptions`.
        cleaning: likewise.
    """
    text = SequenceEncoder(text_model, cleaning) if Kind.TEXT in kinds.values() else None
    return AttributeEncoder.fit(users, trained, kinds, text)


def check_attributes(items: pd.DataFrame, numeric: Sequence[str]) -> None:
    """Refuse new items that lack a number.

    Raises:
        DataError: a column is missing, or holds something else.
    """
    if missing := [name for name in numeric if name not in items]:
        raise DataError(f"no column {', '.join(missing)}, which the data set uses as numbers")
    for name in numeric:
        if not pd.api.types.is_numeric_dtype(items[name]):
            raise DataError(f"column {name} holds what is no number")


def check_reproduced(found: Features, before: Features) -> None:
    """Refuse features of an item that are not what they were when the data set was prepared.

    Raises:
        DataError: they are not.
    """
    for name, stored in before.items():
        now = found.get(name, np.empty(0))
        if now.shape != stored.shape or not np.allclose(now, stored, atol=_TOLERANCE):
            raise DataError(
                f"{name} features do not come out as they were made; text needs the model that the "
                "data set was prepared with"
            )


def _numbers(items: pd.DataFrame, name: str) -> npt.NDArray[np.float64]:
    return items[name].to_numpy(np.float64)


def _synopses(items: pd.DataFrame) -> list[str | None]:
    return [text if isinstance(text, str) else None for text in items[schema.SYNOPSIS]]
