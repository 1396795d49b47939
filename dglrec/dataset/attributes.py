"""Attributes of items -> features, by what was fitted to the items that training rates."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from dglrec import schema
from dglrec.errors import DataError
from dglrec.features import GenresEncoder, IdentityEncoder, SequenceEncoder, TextCleaning

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
    """

    numeric: tuple[str, ...]
    text: bool
    text_model: str
    cleaning: TextCleaning

    @classmethod
    def of(cls, meta: dict[str, Any]) -> "AttributeOptions":
        """Those by which a data set was prepared, from its `dataset.json`."""
        cleaning = TextCleaning(**(meta["cleaning"] or {}))
        model = meta["text_model"] or "auto"
        return cls(tuple(meta["numeric"]), "text" in meta["features"], model, cleaning)


@dataclass(frozen=True)
class ItemEncoder:
    """Encoders of items' attributes, by feature; what the items lacked altogether is left out."""

    genres: GenresEncoder | None
    numeric: dict[str, IdentityEncoder]
    text: SequenceEncoder | None

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
        return cls(
            genres if genres.vocabulary else None,
            {
                name: IdentityEncoder.fit(_numbers(catalogue, name), trained, standardize=True)
                for name in options.numeric
            },
            SequenceEncoder(options.text_model, options.cleaning) if has_text else None,
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
        return features


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
