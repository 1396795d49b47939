"""Column names, the rating scale, and `check_ratings`: the only check for bad rows.

After it, no code checks a rating, an interaction or an edge again: ids are whole numbers from 0 or
non-empty text, ratings are on the scale, weights are 0 or more, no value is missing.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dglrec.errors import DataError, UsageError

USER_ID = "user_id"
ITEM_ID = "item_id"
RATING = "rating"
TIMESTAMP = "timestamp"
WEIGHT = "weight"
PAIR_COLUMNS = (USER_ID, ITEM_ID)
REQUIRED_COLUMNS = (*PAIR_COLUMNS, RATING)

# Whether a data set has ratings or interactions; stored in `dataset.json` as `feedback`.
FEEDBACK = "feedback"
RATINGS = "ratings"
INTERACTIONS = "interactions"

TITLE = "title"
GENRES = "genres"
SYNOPSIS = "synopsis"

# User features derived from training ratings; the name is one that no attribute can have.
OF_GRAPH = "graph features"

# Clusters of users and items derived from training ratings, for a loader that reads them.
CLUSTERS = "clusters"

# Columns of checked rows: indices 0..n-1 in place of external ids.
USER = "user"
ITEM = "item"
EXPECTED = "expected"  # the planted expectation of a row, if the data set came with a truth

# Columns of the edges of a relation.
SOURCE = "source"
DESTINATION = "destination"

# Columns of the tables that the package writes.
RANK = "rank"
SCORE = "score"
BECAUSE = "because"
CONTRIBUTION = "contribution"
RELATIONS = "relations"
SIMILAR_ID = "similar_id"
SIMILARITY = "similarity"

_NAME = re.compile(r"[a-z][a-z0-9_]{0,59}")
_WHOLE_NUMBER = r"^(0|-?[1-9][0-9]{0,18})$"
_STEPS = (1.0, 0.5, 0.25, 0.2, 0.1, 0.05, 0.02, 0.01)
_TOLERANCE = 1e-4  # of a step
_FLOAT32_ERROR = 1e-7  # relative error of a rating, as ratings pass through float32


@dataclass(frozen=True)
class RatingScale:
    """The values that a rating may take: `minimum`, `minimum + step`, ..., `maximum`."""

    minimum: float
    maximum: float
    step: float = 1.0

    def __post_init__(self) -> None:
        if not all(np.isfinite((self.minimum, self.maximum, self.step))) or self.step <= 0:
            raise UsageError(f"rating scale {self}: needs finite ends and a step above 0")
        if not self.minimum < self.maximum:
            raise UsageError(f"rating scale {self}: its minimum must lie below its maximum")
        steps = (self.maximum - self.minimum) / self.step
        if abs(steps - round(steps)) > _TOLERANCE or steps > 65_535:
            raise UsageError(
                f"rating scale {self}: the step must divide the range into at most 65,535 parts"
            )

    def __str__(self) -> str:
        return f"{self.minimum:g} to {self.maximum:g} in steps of {self.step:g}"

    @classmethod
    def parse(cls, text: str) -> "RatingScale":
        """Read `MIN:MAX` or `MIN:MAX:STEP`.

        >>> RatingScale.parse("1:5:0.5").levels
        9

        Raises:
            UsageError: the text has another form, or the scale is impossible.
        """
        try:
            minimum, maximum, *step = (float(part) for part in text.split(":"))
            return cls(minimum, maximum, *step)
        except UsageError as error:
            raise UsageError(f"--scale {text}: {error}") from error
        except (ValueError, TypeError) as error:
            raise UsageError(f"--scale {text}: write MIN:MAX or MIN:MAX:STEP") from error

    @classmethod
    def infer(cls, values: npt.NDArray[np.float64], source: str) -> "RatingScale":
        """The coarsest scale that holds all of the distinct `values` of a source.

        Raises:
            DataError: there is just one value, or no step of 0.01 or more fits.
        """
        minimum, maximum = float(values.min()), float(values.max())
        if minimum == maximum:
            raise DataError(f"{source}: every rating is {minimum:g}; there is nothing to learn")
        for step in _STEPS:
            if _on_steps((values - minimum) / step, max(abs(minimum), abs(maximum)) / step).all():
                return cls(minimum, maximum, step)
        raise DataError(
            f"{source}: ratings are finer than steps of 0.01; round them, "
            "or say the scale with --scale MIN:MAX:STEP"
        )

    def lone_ends(self, values: npt.NDArray[np.float64]) -> list[tuple[float, float]]:
        """The ends of the scale that stand alone: as far from the next rating as all others span.

        Args:
            values: the distinct ratings that the scale was inferred from, ascending.

        Returns:
            (end, the rating next to it), the lower end first.
        """
        found = []
        for end, next_, others in (
            (values[0], values[1], values[1:]),
            (values[-1], values[-2], values[:-1]),
        ):
            if len(others) > 1 and abs(end - next_) > others[-1] - others[0]:
                found.append((float(end), float(next_)))
        return found

    def apart_ends(self, values: npt.NDArray[np.float64]) -> list[tuple[float, float]]:
        """The ends of the scale that are twice as far from the next rating as any others are apart.

        Args and result are those of `lone_ends`.
        """
        gaps = np.diff(values)
        found = []
        if len(gaps) > 1:
            if gaps[0] >= 2 * gaps[1:].max():
                found.append((float(values[0]), float(values[1])))
            if gaps[-1] >= 2 * gaps[:-1].max():
                found.append((float(values[-1]), float(values[-2])))
        return found

    @property
    def levels(self) -> int:
        """How many values the scale has."""
        return round((self.maximum - self.minimum) / self.step) + 1

    @property
    def code_dtype(self) -> np.dtype[Any]:
        """The smallest unsigned type that holds every level's code."""
        return np.dtype(np.uint8 if self.levels <= 256 else np.uint16)

    def contains(self, ratings: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Whether each rating is a value of the scale. NaN and infinities are not."""
        with np.errstate(invalid="ignore"):
            steps = (ratings.astype(np.float64) - self.minimum) / self.step
            on_steps = _on_steps(steps, max(abs(self.minimum), abs(self.maximum)) / self.step)
            inside = (steps >= -_TOLERANCE) & (steps <= self.levels - 1 + _TOLERANCE)
        return np.asarray(on_steps & inside)

    def encode(self, ratings: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Ratings on the scale -> codes 0..levels-1."""
        steps = (ratings.astype(np.float64) - self.minimum) / self.step
        return np.round(steps).astype(self.code_dtype)

    def decode(self, codes: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Codes 0..levels-1 -> ratings."""
        return (self.minimum + self.step * codes.astype(np.float64)).astype(np.float32)

    def to_dict(self) -> dict[str, float]:
        """The three numbers by name, for JSON."""
        return asdict(self)


INTERACTION = 1.0
"""The value of an interaction wherever rows have ratings."""

INTERACTION_SCALE = RatingScale(0.0, INTERACTION)
"""The scale of interactions. Every row has the value 1, so its code is also 1."""


def _on_steps(steps: npt.NDArray[np.float64], largest: float) -> npt.NDArray[np.bool_]:
    """Whether each value is a whole number, up to the float32 error of the `largest` rating."""
    tolerance = _TOLERANCE + _FLOAT32_ERROR * largest
    return np.asarray(np.abs(steps - np.round(steps)) <= tolerance)


def is_name(text: str) -> bool:
    """Whether a text can name a relation or an attribute, and the files that hold it.

    Names have lowercase letters, digits and underscores, a letter first, and at most 60 characters,
    so that no name can lead out of a folder.

    >>> [is_name(text) for text in ("trusts", "made_by_2", "Trusts", "../x", "2nd")]
    [True, True, False, False, False]
    """
    return _NAME.fullmatch(text) is not None


def check_columns(found: list[str], required: tuple[str, ...], source: str) -> None:
    """Refuse a table that lacks a column.

    Raises:
        DataError: a column is missing; the message names it and the columns that were found.
    """
    missing = [name for name in required if name not in found]
    if missing:
        raise DataError(
            f"{source}: no column {', '.join(missing)}; found {', '.join(found) or 'no columns'}"
            f"{renames(found, missing)}"
        )


def renames(found: Sequence[str], missing: Sequence[str]) -> str:
    """The end of a message about missing columns: those that are there in another spelling.

    >>> renames(["userID", " item_id"], ["user_id", "item_id", "rating"])
    "; rename 'userID' to user_id; rename ' item_id' to item_id"
    """
    return "".join(f"; rename {there!r} to {name}" for name, there in alike(found, missing).items())


def alike(found: Sequence[str], missing: Sequence[str]) -> dict[str, str]:
    """Missing columns that are there under another spelling -> how they are spelled there.

    >>> alike(["userID", " item_id"], ["user_id", "item_id", "rating"])
    {'user_id': 'userID', 'item_id': ' item_id'}
    """
    by_plain_name = {_plain_name(name): name for name in found}
    return {
        name: by_plain_name[_plain_name(name)]
        for name in missing
        if _plain_name(name) in by_plain_name
    }


def _plain_name(name: str) -> str:
    """A column's name without case, spaces and punctuation, which people write differently."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def whole_numbers(texts: pa.Array) -> pa.Array:
    """Texts -> int64 whole numbers; null for any other text.

    Each number has a single form, or two ids would become one: "007", "+7", "7.0", "0x7" and "-0"
    are not whole numbers. Spaces around a number are allowed; numbers below -2^63 and from 2^63 on
    are null.
    """
    plain = pc.ascii_trim_whitespace(texts)
    plain = pc.if_else(pc.match_substring_regex(plain, _WHOLE_NUMBER), plain, None)
    try:
        return plain.cast(pa.int64())
    except pa.ArrowInvalid:  # a number of 19 digits is too large
        numbers = [None if text is None else int(text) for text in plain.to_pylist()]
        fitting = [
            number if number is None or -(2**63) <= number < 2**63 else None for number in numbers
        ]
        return pa.array(fitting, type=pa.int64())


def check_ratings(
    table: pa.Table, *, source: str, first_row: int = 1, scale: RatingScale | None = None
) -> pa.Table:
    """Check a stretch of raw ratings, so that no later code has to.

    Args:
        table: columns `user_id`, `item_id`, `rating` and perhaps `timestamp`; others are dropped.
        source: the file's name, for messages.
        first_row: the number of the table's first row in the file, for messages.
        scale: the values a rating may take; None accepts any finite number.

    Returns:
        The same rows: ids as int64 or string, ratings as float32, timestamps as int64.

    Raises:
        DataError: a column is missing or of no usable type; or a value is missing, negative, off
            the scale or no number. The message names the file and the first bad row.
    """
    check_columns(table.column_names, REQUIRED_COLUMNS, source)
    columns = {
        name: _check_known_ids(table.column(name), name, source, first_row) for name in PAIR_COLUMNS
    }
    columns[RATING] = _check_values(table.column(RATING), scale, source, first_row)
    if TIMESTAMP in table.column_names:
        columns[TIMESTAMP] = _check_timestamps(table.column(TIMESTAMP), source, first_row)
    return pa.table(columns)


def check_interactions(table: pa.Table, *, source: str, first_row: int = 1) -> pa.Table:
    """Check a stretch of interactions, rows without a rating, as `check_ratings` does.

    Args:
        table: columns `user_id`, `item_id` and perhaps `timestamp`; others are dropped.
        source: the file's name, for messages.
        first_row: the number of the table's first row in the file, for messages.

    Returns:
        The same rows: ids as int64 or string, timestamps as int64.

    Raises:
        DataError: as `check_ratings`, except for ratings.
    """
    check_columns(table.column_names, PAIR_COLUMNS, source)
    columns = {
        name: _check_known_ids(table.column(name), name, source, first_row) for name in PAIR_COLUMNS
    }
    if TIMESTAMP in table.column_names:
        columns[TIMESTAMP] = _check_timestamps(table.column(TIMESTAMP), source, first_row)
    return pa.table(columns)


def check_edges(
    table: pa.Table, *, names: tuple[str, str], source: str, first_row: int
) -> pa.Table:
    """Check a stretch of a relation's edges, whose ends may be of any type that has ids.

    Args:
        table: columns `source`, `destination` and perhaps `weight` and `timestamp`.
        names: the file's names of the two ends, for messages.
        source: the file's name, for messages.
        first_row: the number of the table's first row in the file, for messages.

    Returns:
        The same rows: ids as int64 or string, weights as float32, timestamps as int64.

    Raises:
        DataError: a column is of no usable type; or a value is missing, or a weight is negative or
            no finite number. The message names the file and the first bad row.
    """
    columns = {
        end: _check_known_ids(table.column(end), name, source, first_row)
        for end, name in zip((SOURCE, DESTINATION), names, strict=True)
    }
    if WEIGHT in table.column_names:
        columns[WEIGHT] = _check_weights(table.column(WEIGHT), source, first_row)
    if TIMESTAMP in table.column_names:
        columns[TIMESTAMP] = _check_timestamps(table.column(TIMESTAMP), source, first_row)
    return pa.table(columns)


def check_ids(
    column: pa.ChunkedArray, name: str, *, source: str, first_row: int
) -> pa.ChunkedArray:
    """Check a column of ids, from any file, so that no later code has to.

    Negative numbers and empty text are accepted: they are ids that no data set has.

    Args:
        column: whole numbers or text.
        name: the column's name in the file, for messages.
        source: the file's name, for messages.
        first_row: the number of the first id's row in the file, for messages.

    Returns:
        int64 or string.

    Raises:
        DataError: an id is missing, or neither a whole number nor text. The message names the file,
            and the row of a missing id.
    """
    _check_present(column, name, source, first_row)
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = column.type
    if pa.types.is_integer(kind):
        return _cast(column, pa.int64(), name, source)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return column.cast(pa.string())
    raise DataError(
        f"{source}: column {name} holds {kind}; ids must be whole numbers below 2^63 or text"
    )


def _check_known_ids(
    column: pa.ChunkedArray, name: str, source: str, first_row: int
) -> pa.ChunkedArray:
    """Ids that a data set can have: neither negative nor empty."""
    column = check_ids(column, name, source=source, first_row=first_row)
    if pa.types.is_integer(column.type):
        _refuse(pc.less(column, 0), column, f"{name} is negative", source, first_row)
    else:
        _refuse(pc.equal(column, ""), column, f"{name} is empty", source, first_row)
    return column


def _check_values(
    column: pa.ChunkedArray, scale: RatingScale | None, source: str, first_row: int
) -> pa.ChunkedArray:
    _check_present(column, RATING, source, first_row)
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        raise DataError(f"{source}: column {RATING} holds {column.type}; ratings must be numbers")
    column = column.cast(pa.float32(), safe=False)
    bad = pc.invert(pc.is_finite(column))
    _refuse(bad, column, "rating is not a finite number", source, first_row)
    if scale is not None:
        off = pa.array(~scale.contains(column.to_numpy()))
        _refuse(off, column, f"rating is off the scale of {scale}", source, first_row)
    return column


def _check_weights(column: pa.ChunkedArray, source: str, first_row: int) -> pa.ChunkedArray:
    _check_present(column, WEIGHT, source, first_row)
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        raise DataError(f"{source}: column {WEIGHT} holds {column.type}; weights must be numbers")
    column = column.cast(pa.float32(), safe=False)
    bad = pc.invert(pc.is_finite(column))
    _refuse(bad, column, "weight is not a finite number", source, first_row)
    _refuse(pc.less(column, 0), column, "weight is negative", source, first_row)
    return column


def _check_timestamps(column: pa.ChunkedArray, source: str, first_row: int) -> pa.ChunkedArray:
    _check_present(column, TIMESTAMP, source, first_row)
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        return column.cast(pa.timestamp("us")).cast(pa.int64())
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = _times_of_texts(column, source, first_row)
        return column.cast(pa.int64())
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        return _cast(column, pa.int64(), TIMESTAMP, source)
    raise DataError(
        f"{source}: column {TIMESTAMP} holds {column.type}; give whole seconds or times"
    )


def _times_of_texts(column: pa.ChunkedArray, source: str, first_row: int) -> pa.ChunkedArray:
    """Texts as whole numbers, or else as times in microseconds, as those of CSV files are read.

    Raises:
        DataError: a text is neither, or is not what the first one is.
    """
    texts = pc.utf8_trim_whitespace(column)
    kind = pa.int64() if len(texts) and texts[0].as_py().isdigit() else pa.timestamp("us")
    try:
        return texts.cast(kind)
    except pa.ArrowInvalid:
        for place, text in enumerate(texts):
            try:
                text.cast(kind)
            except pa.ArrowInvalid as error:
                raise DataError(
                    f"{source}: row {first_row + place}: {TIMESTAMP} {text.as_py()[:40]!r} is no "
                    "time; write whole seconds, or dates such as 2026-11-30 08:15:00"
                ) from error
        raise


def _check_present(column: pa.ChunkedArray, name: str, source: str, first_row: int) -> None:
    if column.null_count:
        _refuse(column.is_null(), column, f"{name} is missing", source, first_row)


def _cast(column: pa.ChunkedArray, kind: pa.DataType, name: str, source: str) -> pa.ChunkedArray:
    try:
        return column.cast(kind)
    except pa.ArrowInvalid as error:
        raise DataError(f"{source}: column {name} does not fit {kind} ({error})") from error


def _refuse(bad: Any, column: pa.ChunkedArray, what: str, source: str, first_row: int) -> None:
    """Raise for the first row where `bad` is true, if there is one."""
    position = pc.index(bad, True).as_py()
    if position >= 0:
        value = column[position].as_py()
        shown = "" if value is None or value == "" else f" ({value!r})"
        raise DataError(f"{source}: row {first_row + position}: {what}{shown}")
