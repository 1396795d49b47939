"""The kinds of attribute columns: numbers, labels, texts or dates; and reading cells by kind.

If no kind is given for a column, it follows from all its present values:

1. lists are labels, several in a cell (`categories`);
2. numbers are numbers (`number`); but whole numbers with at most 32 values that on average occur in
   50 rows or more are codes, and so labels (`category`);
3. days, `2001-12-31` (perhaps with a time) or `31-Dec-2001`, are dates (`date`), if at least nine
   values in ten are days; the others count as missing;
4. a text column is labels if its cells, split at bars, or without bars at commas, give labels that
   on average occur in two rows or more: `categories` if a cell has several, else `category`;
5. other texts of three words or more on average are texts (`text`);
6. the rest has a different value in nearly every row, as names and codes have, which tells nothing
   about other rows: it is not used (`none`). Neither is a column without any value.
"""

import datetime
import re
from collections.abc import Sequence
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from dglrec.errors import DataError, UsageError

_MOST_CODES = 32
_ROWS_OF_A_CODE = 50
_ROWS_OF_A_LABEL = 2
_WORDS_OF_A_TEXT = 3
_SHARE_OF_DAYS = 0.9

_ISO_DAY = re.compile(r"(\d{4})-(\d{2})-(\d{2})(?:[T ].*)?")
_NAMED_DAY = re.compile(r"(\d{1,2})-([A-Za-z]{3})-(\d{4})")
_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_EPOCH = datetime.date(1970, 1, 1).toordinal()


class Kind(str, Enum):
    """The kind of an attribute column: one of these, or one that `added_kind` added."""

    NUMBER = "number"
    CATEGORY = "category"
    CATEGORIES = "categories"
    TEXT = "text"
    DATE = "date"
    NONE = "none"

    @classmethod
    def _missing_(cls, value: object) -> "Kind | None":
        return _ADDED_KINDS.get(str(value))

    @property
    def has_labels(self) -> bool:
        """Whether a cell holds labels."""
        return self in (Kind.CATEGORY, Kind.CATEGORIES)


_ADDED_KINDS: dict[str, Kind] = {}


def added_kind(name: str) -> Kind:
    """Add a kind with a registered encoder; the same name always gives the same kind.

    `Kind(name)` finds it from then on, but `list(Kind)` does not have it.
    """
    if name not in _ADDED_KINDS:
        kind = str.__new__(Kind, name)
        kind._name_, kind._value_ = name.upper(), name
        _ADDED_KINDS[name] = kind
    return _ADDED_KINDS[name]


def stored_kind(attribute: str, name: str) -> Kind:
    """The kind of an attribute as `dataset.json` names it.

    Raises:
        DataError: no kind of that name was added in this process.
    """
    try:
        return Kind(name)
    except ValueError as error:
        raise DataError(
            f"attribute {attribute} is of kind {name}, whose encoder has to be registered first "
            f"in this process, as it was where the data set was prepared"
        ) from error


def parse_kinds(texts: Sequence[str]) -> dict[str, Kind]:
    """Read `NAME=KIND`, as on a command line.

    >>> parse_kinds(["age=category"])
    {'age': <Kind.CATEGORY: 'category'>}

    Raises:
        UsageError: a text has another form, there is no such kind, or a name is given twice.
    """
    kinds: dict[str, Kind] = {}
    for text in texts:
        name, _, kind = text.partition("=")
        known_kinds = [*(member.value for member in Kind), *_ADDED_KINDS]
        if not name or kind not in known_kinds:
            known = ", ".join(known_kinds)
            raise UsageError(f"--attribute {text!r}: write NAME=KIND, KIND being one of {known}")
        if name in kinds:
            raise UsageError(f"--attribute {name}: is given twice")
        kinds[name] = Kind(kind)
    return kinds


def infer_kind(column: pd.Series) -> Kind:
    """The kind of a column of N cells, by the rules above.

    >>> [infer_kind(pd.Series(cells)).value for cells in (["a|b", "b|a"], [1, 2], ["Jo", "Al"])]
    ['categories', 'number', 'none']
    """
    if pd.api.types.is_numeric_dtype(column):
        return _kind_of_numbers(column.to_numpy(np.float64))
    present = [cell for cell in column if not is_missing(cell)]
    if not present:
        return Kind.NONE
    if any(_is_list(cell) for cell in present):
        return Kind.CATEGORIES
    texts = [str(cell) for cell in present]
    if sum(_day(text) is not None for text in texts) >= _SHARE_OF_DAYS * len(texts):
        return Kind.DATE
    rows = [_cut(text) for text in texts]
    pieces = [piece for row in rows for piece in row]
    if len(pieces) >= _ROWS_OF_A_LABEL * len(set(pieces)):
        return Kind.CATEGORIES if any(len(row) > 1 for row in rows) else Kind.CATEGORY
    words = sum(len(text.split()) for text in texts)
    return Kind.TEXT if words >= _WORDS_OF_A_TEXT * len(texts) else Kind.NONE


def read_labels(column: pd.Series, kind: Kind) -> list[list[str]]:
    """[N] the labels of each cell, each label once; a cell may have none.

    Args:
        column: N cells.
        kind: `category`, where a cell is a label, or `categories`.
    """
    if kind is Kind.CATEGORIES:
        return [_cut(cell) for cell in column]
    return [[] if is_missing(cell) else [_label(cell)] for cell in column]


def read_numbers(column: pd.Series, kind: Kind, name: str) -> npt.NDArray[np.float64]:
    """[N] numbers, or days since 1970; NaN for a missing value, and for a date that is invalid.

    Args:
        column: N cells.
        kind: `number` or `date`.
        name: the column's name, for messages.

    Raises:
        DataError: a value is no number, or no value is a date.
    """
    if kind is Kind.NUMBER and pd.api.types.is_numeric_dtype(column):
        return column.to_numpy(np.float64)
    numbers = np.full(len(column), np.nan)
    bad = None
    for row, cell in enumerate(column):
        if is_missing(cell):
            continue
        number = _day(str(cell)) if kind is Kind.DATE else _number(cell)
        if number is None:
            bad = cell
        else:
            numbers[row] = number
    if bad is not None and (kind is Kind.NUMBER or np.isnan(numbers).all()):
        raise DataError(
            f"column {name} holds a value that is not a {kind.value} ({str(bad)[:40]!r})"
        )
    return numbers


def read_texts(column: pd.Series) -> list[str | None]:
    """[N] texts, None where missing."""
    return [None if is_missing(cell) else str(cell) for cell in column]


def _kind_of_numbers(numbers: npt.NDArray[np.float64]) -> Kind:
    present = numbers[~np.isnan(numbers)]
    if not len(present):
        return Kind.NONE
    codes = len(np.unique(present))
    few = codes <= _MOST_CODES and len(present) >= _ROWS_OF_A_CODE * codes
    return Kind.CATEGORY if few and np.all(present == np.floor(present)) else Kind.NUMBER


def _is_list(cell: Any) -> bool:
    return isinstance(cell, list | tuple | np.ndarray)


def is_missing(cell: Any) -> bool:
    """Whether a cell is missing: no value, an empty text or list, or NaN."""
    if _is_list(cell):
        return len(cell) == 0
    return cell is None or cell == "" or (isinstance(cell, float) and np.isnan(cell))


def _cut(cell: Any) -> list[str]:
    """The labels of a list, or of a text that bars or commas separate."""
    if is_missing(cell):
        return []
    if _is_list(cell):
        pieces: Sequence[str] = [_label(piece) for piece in cell if not is_missing(piece)]
    else:
        text = _label(cell)
        pieces = [piece.strip() for piece in text.split("|" if "|" in text else ",")]
    return [piece for piece in dict.fromkeys(pieces) if piece]


def _label(cell: Any) -> str:
    """A cell as a label; a whole number gives the same label with and without decimals."""
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    return str(cell).strip()


def _number(cell: Any) -> float | None:
    try:
        number = float(cell)
    except (ValueError, TypeError):
        return None
    return number if np.isfinite(number) else None


def _day(text: str) -> int | None:
    """Days since 1970; None if a text is no day."""
    try:
        if found := _ISO_DAY.fullmatch(text):
            day = datetime.date(int(found[1]), int(found[2]), int(found[3]))
        elif found := _NAMED_DAY.fullmatch(text):
            month = _MONTHS.index(found[2].lower()) + 1
            day = datetime.date(int(found[3]), month, int(found[1]))
        else:
            return None
    except ValueError:
        return None
    return day.toordinal() - _EPOCH
