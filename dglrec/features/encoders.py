"""Columns of attributes -> features, by kind: `fit_column`, and the registry `ENCODERS`.

Encoders are fitted to users or items with a training row. A data set that is opened again fits them
again, to the same values.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

from dglrec.errors import DglrecError, UsageError
from dglrec.features.columns import GenresEncoder, IdentityEncoder, Mask
from dglrec.features.kinds import (
    Kind,
    added_kind,
    is_missing,
    read_labels,
    read_numbers,
    read_texts,
)
from dglrec.features.text import SequenceEncoder
from dglrec.registry import Registry

MOST_LABELS = 256
"""An attribute with more labels is only nodes, not a feature: that has a column for each label."""


class FeatureEncoder(Protocol):
    """The interface of an encoder that a user registers with `register_encoder`.

    A column's cells are texts, numbers or lists; a missing cell is None, or NaN in a column of
    numbers.
    """

    @classmethod
    def fit(cls, column: pd.Series, training: Mask) -> "FeatureEncoder":
        """Fit an encoder to N cells.

        Args:
            column: N cells, numbered from 0.
            training: bool [N], whether a row is a training row: other rows must not be used.
        """

    def encode(self, column: pd.Series) -> Any:
        """N cells -> [n, F] finite numbers; F is always the same."""


class ColumnEncoder(Protocol):
    """A fitted encoder of a column."""

    def encode(self, column: pd.Series) -> npt.NDArray[np.float32]:
        """N cells -> float32 [n, F].

        Raises:
            DataError: a value is not of the column's kind.
            UnusableEnvironmentError: the text model cannot be had.
        """

    def unseen(self, column: pd.Series) -> int:
        """How many labels of n cells did not occur in training; 0 for cells that are no labels."""


@dataclass(frozen=True)
class Fitting:
    """The arguments that an encoder is fitted with, beside its column.

    Attributes:
        name: the attribute's name.
        kind: the attribute's kind.
        training: bool [N], whether a row is a training row.
        text: embeds texts; None leaves them out.
    """

    name: str
    kind: Kind
    training: Mask
    text: SequenceEncoder | None = None


@dataclass(frozen=True)
class _Numbers:
    name: str
    kind: Kind
    encoder: IdentityEncoder

    @classmethod
    def fit(cls, column: pd.Series, how: Fitting) -> "_Numbers":
        numbers = read_numbers(column, how.kind, how.name)
        encoder = IdentityEncoder.fit(numbers, how.training, standardize=True)
        return cls(how.name, how.kind, encoder)

    def encode(self, column: pd.Series) -> npt.NDArray[np.float32]:
        return self.encoder.encode(read_numbers(column, self.kind, self.name))

    def unseen(self, column: pd.Series) -> int:
        return 0


@dataclass(frozen=True)
class _Labels:
    kind: Kind
    encoder: GenresEncoder

    @classmethod
    def fit(cls, column: pd.Series, how: Fitting) -> "_Labels | None":
        encoder = GenresEncoder.fit(read_labels(column, how.kind), how.training)
        return cls(how.kind, encoder) if 0 < len(encoder.vocabulary) <= MOST_LABELS else None

    def encode(self, column: pd.Series) -> npt.NDArray[np.float32]:
        return self.encoder.encode(read_labels(column, self.kind))

    def unseen(self, column: pd.Series) -> int:
        return self.encoder.unseen(read_labels(column, self.kind))


@dataclass(frozen=True)
class _Texts:
    encoder: SequenceEncoder

    @classmethod
    def fit(cls, column: pd.Series, how: Fitting) -> "_Texts | None":
        return None if how.text is None else cls(how.text)

    def encode(self, column: pd.Series) -> npt.NDArray[np.float32]:
        return self.encoder.encode(read_texts(column))

    def unseen(self, column: pd.Series) -> int:
        return 0


@dataclass(frozen=True)
class _Added:
    """A registered encoder, whose results are checked."""

    where: str
    encoder: FeatureEncoder

    @classmethod
    def fit(cls, kind: type[FeatureEncoder], column: pd.Series, how: Fitting) -> "_Added":
        where = f"attribute {how.name}: encoder {how.kind.value}"
        try:
            return cls(where, kind.fit(_cells(column), how.training))
        except DglrecError:
            raise
        except Exception as error:
            raise UsageError(f"{where} cannot be fitted ({_in_short(error)})") from error

    def encode(self, column: pd.Series) -> npt.NDArray[np.float32]:
        try:
            found = np.asarray(self.encoder.encode(_cells(column)))
        except DglrecError:
            raise
        except Exception as error:
            raise UsageError(f"{self.where} fails ({_in_short(error)})") from error
        rows = len(column)
        if (
            found.ndim != 2
            or len(found) != rows
            or not found.shape[1]
            or found.dtype.kind not in "biuf"
        ):
            raise UsageError(
                f"{self.where} gives {found.dtype} {list(found.shape)} for {rows} rows; give "
                f"numbers, [{rows}, F]"
            )
        if not np.isfinite(found).all():
            raise UsageError(f"{self.where} gives a value that is not a finite number")
        return found.astype(np.float32)

    def unseen(self, column: pd.Series) -> int:
        return 0


ENCODERS: Registry[Callable[[pd.Series, Fitting], ColumnEncoder | None]] = Registry(
    "encoder", "attributes", "register_encoder", [Kind.NONE.value]
)
"""Kind of a column -> function that fits its encoder, or returns None if the column makes no
feature."""

ENCODERS.update(
    {
        Kind.NUMBER.value: _Numbers.fit,
        Kind.DATE.value: _Numbers.fit,
        Kind.CATEGORY.value: _Labels.fit,
        Kind.CATEGORIES.value: _Labels.fit,
        Kind.TEXT.value: _Texts.fit,
    }
)


def add_encoder(name: str, encoder: type[FeatureEncoder], *, replace: bool = False) -> None:
    """Add a kind of attributes, and the encoder of that kind.

    Raises:
        UsageError: the name is not allowed, or taken.
    """

    def fit(column: pd.Series, how: Fitting) -> ColumnEncoder:
        return _Added.fit(encoder, column, how)

    ENCODERS.add(name, fit, replace=replace)
    added_kind(name)


def fit_column(column: pd.Series, how: Fitting) -> ColumnEncoder | None:
    """Fit an encoder to a column of N cells.

    Returns:
        None if the column makes no feature: its kind is `none`, it has no label or more than
        `MOST_LABELS`, or it holds texts and there is no text model.

    Raises:
        DataError: a value is not of the column's kind.
        UsageError: a registered encoder fails.
    """
    fit = ENCODERS.get(how.kind.value)
    return None if fit is None else fit(column, how)


def _cells(column: pd.Series) -> pd.Series:
    """A column as `FeatureEncoder` describes it, whether it came from a frame or a file."""
    if pd.api.types.is_numeric_dtype(column):
        numbers: pd.Series = pd.Series(column.to_numpy(np.float64))
        return numbers
    cells = [None if is_missing(cell) else cell for cell in column]
    others: pd.Series = pd.Series(cells, dtype=object)
    return others


def _in_short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
