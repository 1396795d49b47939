"""Which rows train, which validate, which test: as row numbers, without copies.

All functions number rows 0..n-1, are deterministic for a seed, and refuse to leave a part empty
unless its share is 0, which is allowed for validation and test rows.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dglrec.errors import DataError, UsageError
from dglrec.ingest import last_of_each_pair, rows_of_each

SPLIT_METHODS = ("random", "time", "last", "user", "item")

_TRAIN, _VALID, _TEST, _LEFT_OUT = range(4)


@dataclass(frozen=True)
class Split:
    """Row numbers of three parts that share no row: int64, ascending."""

    train: npt.NDArray[np.int64]
    valid: npt.NDArray[np.int64]
    test: npt.NDArray[np.int64]


class _Wanted(NamedTuple):
    """Which of validation and test are to have rows."""

    valid: bool
    test: bool


def split_rows(
    method: str,
    *,
    users: npt.NDArray[Any],
    items: npt.NDArray[Any],
    timestamps: npt.NDArray[Any] | None,
    valid: float,
    test: float,
    seed: int,
) -> Split:
    """Split n ratings; every row goes to one part.

    Args:
        method: `random`: rows at random. `time`: the latest rows test, those before them validate;
            of equal times the row further down is later. `last`: for each user with three rows or
            more, the latest row tests and that before it validates, whatever the shares say
            (leave-one-out); a share of 0 leaves that part out, and two rows are enough. `user` and
            `item`: cold start: whole users or items at random, as many as come nearest to the
            shares of rows, and at least one.
        users: indices from 0, [n].
        items: indices from 0, [n].
        timestamps: [n], needed for `time` and `last`.
        valid: the share of rows that validate, from 0 to below 1.
        test: the share of rows that test, likewise.
        seed: of the random choices.

    Raises:
        UsageError: there is no such method, or the shares leave nothing to train on.
        DataError: there are no timestamps, or a part stays empty.
    """
    check_shares(valid, test)
    n = len(users)
    counts = round(n * valid), round(n * test)
    wanted = _Wanted(valid > 0, test > 0)
    if method == "random":
        parts = _random_parts(n, *counts, seed)
    elif method in ("time", "last"):
        if timestamps is None:
            raise DataError(
                f"--split {method} needs timestamps, and these rows have none; add a column "
                "timestamp, say what it is called (--columns timestamp=NAME), or choose another "
                "split"
            )
        if method == "time":
            parts = _time_parts(timestamps, *counts)
        else:
            parts = _last_parts(users, timestamps, wanted)
    elif method in ("user", "item"):
        parts = _group_parts(users if method == "user" else items, *counts, seed, wanted)
    else:
        raise UsageError(f"no split {method!r}; choose {', '.join(SPLIT_METHODS)}")
    return _split(parts, wanted)


def split_given(
    *,
    users: npt.NDArray[Any],
    items: npt.NDArray[Any],
    is_test: npt.NDArray[np.bool_],
    valid: float,
    seed: int,
) -> tuple[Split, int]:
    """Split the rows of a training file and a test file, as the files say.

    Pairs of user and item that the test file holds are dropped from the training file's rows:
    training on them would leak what is to be predicted. Validation rows are chosen at random from
    the remaining rows of the training file.

    Args:
        users: indices from 0, [n]; first the training file's rows, then the test file's.
        items: indices from 0, [n].
        is_test: bool [n], whether the row is from the test file; false and then true.
        valid: the share of the training file's remaining rows that validate, from 0 to below 1.
        seed: of the choice.

    Returns:
        The split, and how many rows were dropped. Within a file no pair repeats: `drop_duplicates`
        has kept only the last row of each.

    Raises:
        UsageError: the share is out of range.
        DataError: a part stays empty.
        ValueError: a train row follows a test row.
    """
    check_shares(valid)
    if np.any(is_test[:-1] & ~is_test[1:]):
        raise ValueError("the train file's rows must come before the test file's")
    num_items = int(items.max()) + 1 if len(items) else 0
    keep = last_of_each_pair(users, items, num_items)
    parts = np.where(is_test, np.uint8(_TEST), np.uint8(_LEFT_OUT))
    train = np.flatnonzero(keep & ~is_test)
    parts[train] = _random_parts(len(train), round(len(train) * valid), 0, seed)
    return _split(parts, _Wanted(valid > 0, True)), int(np.count_nonzero(parts == _LEFT_OUT))


def check_shares(valid: float, test: float | None = None) -> None:
    """Refuse shares of rows that are impossible, before any row is read.

    Args:
        valid: the share of rows that validate.
        test: the share of rows that test; None if a file holds the test rows.

    Raises:
        UsageError: a share is out of range, or they leave nothing to train on.
    """
    for option, share in (("--valid", valid), ("--test", test)):
        if share is not None and not 0 <= share < 1:
            raise UsageError(f"{option} {share:g}: a share of rows is 0 or more, and below 1")
    if test is not None and valid + test >= 1:
        raise UsageError(f"--valid {valid:g} and --test {test:g} leave no rows to train on")


def _random_parts(n: int, valid: int, test: int, seed: int) -> npt.NDArray[np.uint8]:
    parts = np.full(n, _TRAIN, dtype=np.uint8)
    parts[:valid] = _VALID
    parts[valid : valid + test] = _TEST
    np.random.default_rng(seed).shuffle(parts)
    return parts


def _time_parts(timestamps: npt.NDArray[Any], valid: int, test: int) -> npt.NDArray[np.uint8]:
    parts = np.full(len(timestamps), _TRAIN, dtype=np.uint8)
    parts[_latest(timestamps, valid + test)] = _VALID
    parts[_latest(timestamps, test)] = _TEST
    return parts


def _last_parts(
    users: npt.NDArray[Any], timestamps: npt.NDArray[Any], wanted: _Wanted
) -> npt.NDArray[np.uint8]:
    """Each user's latest row tests, the row before it validates; at least one row trains."""
    held_out = [_TEST] * wanted.test + [_VALID] * wanted.valid
    order = np.lexsort((timestamps, users))  # stable: of equal times, rows further down are later
    sizes = rows_of_each(users)
    ends = np.cumsum(sizes)[sizes > len(held_out)]
    parts = np.full(len(users), _TRAIN, dtype=np.uint8)
    for back, part in enumerate(held_out, 1):
        parts[order[ends - back]] = part
    return parts


def _latest(timestamps: npt.NDArray[Any], count: int) -> npt.NDArray[np.int64]:
    """The `count` latest rows; of equal times those further down. In time linear in the rows."""
    if not count:
        return np.empty(0, dtype=np.int64)
    place = len(timestamps) - count
    bound = np.partition(timestamps, place)[place]
    later = np.flatnonzero(timestamps > bound)
    ties = np.flatnonzero(timestamps == bound)
    return np.concatenate((later, ties[len(ties) - (count - len(later)) :]))


def _group_parts(
    groups: npt.NDArray[Any], valid: int, test: int, seed: int, wanted: _Wanted
) -> npt.NDArray[np.uint8]:
    sizes = rows_of_each(groups)
    present = np.flatnonzero(sizes)
    order = np.random.default_rng(seed).permutation(present)
    rows = np.concatenate(([0], np.cumsum(sizes[order])))  # rows of the first k groups
    tested = _nearest(rows, 0, test) if wanted.test else 0
    validated = _nearest(rows, tested, valid) if wanted.valid else tested
    part_of_group = np.full(len(sizes), _TRAIN, dtype=np.uint8)
    part_of_group[order[:tested]] = _TEST
    part_of_group[order[tested:validated]] = _VALID
    parts: npt.NDArray[np.uint8] = part_of_group[groups]
    return parts


def _nearest(rows: npt.NDArray[np.int64], start: int, wanted: int) -> int:
    """The end of the groups from `start` on whose number of rows is nearest to `wanted`."""
    off = np.abs(rows[start + 1 :] - rows[start] - wanted)
    return start + 1 + int(np.argmin(off)) if len(off) else start


def _split(parts: npt.NDArray[np.uint8], wanted: _Wanted) -> Split:
    split = Split(*(np.flatnonzero(parts == part) for part in (_TRAIN, _VALID, _TEST)))
    counts = {"train": len(split.train), "valid": len(split.valid), "test": len(split.test)}
    may_be_empty = [name for name, is_wanted in wanted._asdict().items() if not is_wanted]
    if empty := [name for name, count in counts.items() if not count and name not in may_be_empty]:
        shown = ", ".join(f"{name} {count:,}" for name, count in counts.items())
        raise DataError(
            f"the split leaves no rows in {' and '.join(empty)} ({shown}); "
            "give more ratings or other shares"
        )
    return split
