"""Attributes of items and users -> features, fitted to items and users with a training row."""

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
"""Entries of `dataset.json`: attribute name -> kind, of the attributes that tables gave."""

USER_FEATURES = "user_features"
"""The file of users' features, and the entry of `dataset.json` with their widths by name."""

_TOLERANCE = 1e-3  # for unit-length embeddings that another machine computes

Features = dict[str, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class AttributeOptions:
    """Which attributes become features, and how.

    Attributes:
        numeric: columns to use as numbers.
        text: whether synopses are used.
        text_model: a sentence-transformers name or folder; `auto` takes the packaged one.
        cleaning: how a synopsis is cleaned first.
        kinds: kinds of further attributes, by name.
    """

    numeric: tuple[str, ...]
    text: bool
    text_model: str
    cleaning: TextCleaning
    kinds: Mapping[str, Kind] = field(default_factory=dict)

    @classmethod
    def of(cls, meta: dict[str, Any]) -> "AttributeOptions":
        """The options that a data set was prepared with, from its `dataset.json`."""
        cleaning = TextCleaning(**(meta["cleaning"] or {}))
        model = meta["text_model"] or "auto"
        kinds = used_kinds(meta.get(ITEM_ATTRIBUTES, {}), meta["features"])
        return cls(tuple(meta["numeric"]), "text" in meta["features"], model, cleaning, kinds)


def used_kinds(kinds: Mapping[str, str], features: Iterable[str]) -> dict[str, Kind]:
    """The kinds of the attributes that became features, as `dataset.json` says.

    Raises:
        DataError: a kind's encoder is not registered.
    """
    return {name: stored_kind(name, kinds[name]) for name in features if name in kinds}


@dataclass(frozen=True)
class AttributeEncoder:
    """Encoders of attributes, by name; each makes a feature.

    Attributes that `fit_column` cannot make a feature of are left out.
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
        """Fit encoders to the attributes of items or users.

        Args:
            table: N rows; see `tables.attribute_columns`.
            trained: bool [N], whether an item or user has a training row.
            kinds: of the attributes to be used, by name.
            text: embeds texts; None leaves them out.

        Raises:
            DataError: a value is not of its column's kind.
            UsageError: a registered encoder fails.
        """
        columns = attribute_columns(table)
        fitted = {
            name: fit_column(table[columns[name]], Fitting(name, kind, trained, text))
            for name, kind in kinds.items()
        }
        return cls({name: encoder for name, encoder in fitted.items() if encoder is not None})

    def unseen(self, table: pd.DataFrame) -> dict[str, int]:
        """How many labels of n rows did not occur in training, by attribute, where there are any.

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
        return {
            name: encoder.encode(table[columns[name]]) for name, encoder in self.encoders.items()
        }


@dataclass(frozen=True)
class ItemEncoder:
    """Encoders of items' attributes, by feature; None or empty where no item has the attribute."""

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
        # Synopses and other texts share a model, which is loaded once.
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
            columns = [
                encoder.encode(_numbers(items, name)) for name, encoder in self.numeric.items()
            ]
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
    """Encoders of users' attributes, fitted to the users with a training row.

    Args:
        users: U rows.
        trained: bool [U], whether a user has a training row.
        kinds: of the attributes to be used, by name.
        text_model: as for `AttributeOptions`.
        cleaning: as for `AttributeOptions`.
    """
    text = SequenceEncoder(text_model, cleaning) if Kind.TEXT in kinds.values() else None
    return AttributeEncoder.fit(users, trained, kinds, text)


def check_attributes(items: pd.DataFrame, numeric: Sequence[str]) -> None:
    """Refuse new items that lack a numeric column.

    Raises:
        DataError: a column is missing, or does not hold numbers.
    """
    if missing := [name for name in numeric if name not in items]:
        raise DataError(f"no column {', '.join(missing)}, which the data set uses as numbers")
    for name in numeric:
        if not pd.api.types.is_numeric_dtype(items[name]):
            raise DataError(f"column {name} holds a value that is not a number")


def check_reproduced(found: Features, before: Features) -> None:
    """Refuse encoders whose features differ from those that `prepare` stored.

    Raises:
        DataError: the features differ.
    """
    for name, stored in before.items():
        now = found.get(name, np.empty(0))
        if now.shape != stored.shape or not np.allclose(now, stored, atol=_TOLERANCE):
            raise DataError(
                f"{name} features differ from those that the data set holds; text needs the model "
                "that the data set was prepared with"
            )


def _numbers(items: pd.DataFrame, name: str) -> npt.NDArray[np.float64]:
    return items[name].to_numpy(np.float64)


def _synopses(items: pd.DataFrame) -> list[str | None]:
    return [text if isinstance(text, str) else None for text in items[schema.SYNOPSIS]]
