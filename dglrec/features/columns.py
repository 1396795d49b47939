"""Encoders of plain columns: a number, a list of genres."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dglrec.errors import DataError

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class IdentityEncoder:
    """A numeric column, unchanged or standardised, with a flag for present values.

    >>> encoder = IdentityEncoder.fit(np.array([1.0, 3.0, np.nan]), np.array([True] * 3), True)
    >>> encoder.encode(np.array([3.0, np.nan])).tolist()
    [[1.0, 1.0], [0.0, 0.0]]
    """

    mean: float = 0.0
    scale: float = 1.0
    """What values are divided by after the mean is subtracted: 1, or their standard deviation."""

    @classmethod
    def fit(
        cls, values: npt.NDArray[np.float64], training: Mask, standardize: bool
    ) -> "IdentityEncoder":
        """Fit mean and standard deviation on the training rows that have a value.

        Args:
            values: [N], NaN where missing.
            training: [N], whether a row is a training row.
            standardize: if False, values stay as they are.

        Raises:
            DataError: a value is infinite.
        """
        _check_same_length(values, training)
        _check_no_infinity(values)
        present = values[training & ~np.isnan(values)]
        if not standardize or not len(present):
            return cls()
        # Divided by the largest value, so that squares of very large values do not overflow.
        unit = float(np.abs(present).max()) or 1.0
        mean, deviation = float((present / unit).mean()), float((present / unit).std())
        # A constant column may have a tiny deviation from rounding, which must not be divided by.
        return cls(mean * unit, deviation * unit if deviation > 1e-12 else 1.0)

    def encode(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
        """[N] values, NaN where missing -> [N, 2]: the value, 0 where missing; 1 where present.

        Raises:
            DataError: a value is infinite, or too large for 32-bit floats.
        """
        _check_no_infinity(values)
        present = ~np.isnan(values)
        encoded = np.where(present, (values - self.mean) / self.scale, 0.0)
        large = np.abs(encoded) > np.finfo(np.float32).max
        if large.any():
            row = int(np.flatnonzero(large)[0])
            raise DataError(f"row {row + 1}: {values[row]:g} is too large for a feature")
        return np.stack([encoded, present], axis=1).astype(np.float32)


@dataclass(frozen=True)
class GenresEncoder:
    """Lists of genres, or of any labels, as multi-hot rows.

    >>> encoder = GenresEncoder.fit([["Drama"], ["Comedy", "Drama"]], np.array([True, True]))
    >>> encoder.encode([["Comedy"], ["Western"], []]).tolist()
    [[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]
    >>> encoder.unseen([["Comedy"], ["Western"], []])
    1
    """

    vocabulary: tuple[str, ...]
    """The labels that are the columns, in ascending order."""

    @classmethod
    def fit(cls, genres: Sequence[Sequence[str]], training: Mask) -> "GenresEncoder":
        """Take the vocabulary from the training rows.

        Args:
            genres: the labels of each of N rows; a row may have none.
            training: [N], whether a row is a training row.
        """
        _check_same_length(genres, training)
        labels = (row for row, known in zip(genres, training, strict=True) if known)
        return cls(tuple(sorted({label for row in labels for label in row})))

    def encode(self, genres: Sequence[Sequence[str]]) -> npt.NDArray[np.float32]:
        """N rows of labels -> [N, G] of 0 and 1. Labels outside the vocabulary are left out.

        `unseen` counts the labels left out.
        """
        column = {label: index for index, label in enumerate(self.vocabulary)}
        encoded = np.zeros((len(genres), len(column)), dtype=np.float32)
        for row, labels in enumerate(genres):
            encoded[row, [column[label] for label in labels if label in column]] = 1.0
        return encoded

    def unseen(self, genres: Sequence[Sequence[str]]) -> int:
        """How many labels of these rows are not in the vocabulary."""
        known = set(self.vocabulary)
        return sum(label not in known for labels in genres for label in labels)


def _check_same_length(values: Sequence[object] | npt.NDArray[np.float64], training: Mask) -> None:
    if training.dtype != np.bool_ or training.shape != (len(values),):
        raise ValueError(
            f"{len(values)} rows, but a training mask of {training.dtype}{list(training.shape)}"
        )


def _check_no_infinity(values: npt.NDArray[np.float64]) -> None:
    bad = np.isinf(values)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise DataError(f"row {row + 1}: {values[row]:g} is not a finite number; leave it empty")
