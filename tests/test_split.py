"""Splits: disjoint, covering, of the sizes asked for, cold where they say so."""

from typing import get_args

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dglrec.cli.preparing import prepare
from dglrec.errors import DataError, UsageError
from dglrec.split import SPLIT_METHODS, Split, split_given, split_rows
from dglrec.study.declaration import PrepareKeys

SHARES = st.floats(0.05, 0.45)
SEEDS = st.integers(0, 2**32)


@st.composite
def ratings(draw):
    n = draw(st.integers(30, 120))
    generator = np.random.default_rng(draw(SEEDS))
    groups = draw(st.integers(5, 40))
    return {
        "users": generator.integers(0, groups, n).astype(np.int32),
        "items": generator.integers(0, groups, n).astype(np.int32),
        "timestamps": generator.integers(-5, draw(st.sampled_from([0, 20, 10**9])), n),
    }


def parts(split: Split):
    return split.train, split.valid, split.test


def assert_partition(split, rows):
    for part in parts(split):
        assert part.dtype == np.int64
        assert len(part)
        assert np.all(part[1:] > part[:-1])
    assert np.array_equal(np.sort(np.concatenate(parts(split))), rows)


def try_split(method, columns, **options):
    """Shares of few rows, or of large groups, may leave a part empty; that has its own test."""
    try:
        return split_rows(method, **columns, **options)
    except DataError:
        assume(False)


def test_prepare_and_studies_take_all_splits():
    options = {option.name: option.type for option in prepare.params}
    assert tuple(options["split"].choices) == SPLIT_METHODS
    assert get_args(PrepareKeys.model_fields["split"].annotation) == SPLIT_METHODS


@given(st.sampled_from(SPLIT_METHODS), ratings(), SHARES, SHARES, SEEDS)
def test_every_row_goes_to_one_part_and_the_seed_decides(method, columns, valid, test, seed):
    options = {"valid": valid, "test": test, "seed": seed}
    split = try_split(method, columns, **options)
    assert_partition(split, np.arange(len(columns["users"])))
    again = split_rows(method, **columns, **options)
    assert all(np.array_equal(a, b) for a, b in zip(parts(split), parts(again), strict=True))


@given(st.sampled_from(["random", "time"]), ratings(), SHARES, SHARES, SEEDS)
def test_shares_of_rows_are_met_to_the_row(method, columns, valid, test, seed):
    split = try_split(method, columns, valid=valid, test=test, seed=seed)
    n = len(columns["users"])
    assert (len(split.valid), len(split.test)) == (round(n * valid), round(n * test))


@given(ratings(), SHARES, SHARES)
def test_time_split_is_what_sorting_says(columns, valid, test):
    split = try_split("time", columns, valid=valid, test=test, seed=0)
    order = np.argsort(columns["timestamps"], kind="stable")
    bounds = np.cumsum([len(split.train), len(split.valid)])
    for part, expected in zip(parts(split), np.split(order, bounds), strict=True):
        assert np.array_equal(part, np.sort(expected))


@given(ratings())
def test_last_split_takes_the_last_two_rows_of_each_user(columns):
    users, times = columns["users"], columns["timestamps"]
    split = try_split("last", columns, valid=0.1, test=0.1, seed=0)
    valid, test = [], []
    for user in np.unique(users):
        rows = sorted(np.flatnonzero(users == user), key=lambda row: (times[row], row))
        if len(rows) >= 3:
            valid.append(rows[-2])
            test.append(rows[-1])
    assert split.valid.tolist() == sorted(valid)
    assert split.test.tolist() == sorted(test)


@given(st.sampled_from(["user", "item"]), ratings(), SHARES, SHARES, SEEDS)
def test_cold_groups_are_in_one_part_only_and_near_the_share(method, columns, valid, test, seed):
    split = try_split(method, columns, valid=valid, test=test, seed=seed)
    groups = columns[f"{method}s"]
    held = [set(groups[part]) for part in parts(split)]
    assert not (held[0] & held[1] or held[0] & held[2] or held[1] & held[2])
    largest = np.bincount(groups).max()
    n = len(groups)
    assert abs(len(split.test) - n * test) <= largest + 1
    assert abs(len(split.valid) - n * valid) <= largest + 1


def test_many_small_groups_meet_the_share_closely():
    users = np.repeat(np.arange(1000), 10)
    split = split_rows(
        "user", users=users, items=users, timestamps=None, valid=0.1, test=0.2, seed=3
    )
    assert (len(split.valid), len(split.test)) == (1000, 2000)


@pytest.mark.parametrize("method", ["random", "user", "item"])
def test_another_seed_gives_another_split(method):
    users = np.arange(1000) % 100
    tests = [
        split_rows(
            method, users=users, items=users, timestamps=None, valid=0.1, test=0.1, seed=seed
        ).test
        for seed in (1, 2)
    ]
    assert not np.array_equal(*tests)


def test_random_split_favours_no_place():
    hits = np.zeros(20)
    rows = np.arange(20)
    for seed in range(2000):
        split = split_rows(
            "random", users=rows, items=rows, timestamps=None, valid=0.1, test=0.1, seed=seed
        )
        hits[split.test] += 1
    # 200 expected, standard deviation 13.4: five of those, over fixed seeds.
    assert np.all(np.abs(hits - 200) < 67)


def split_few(method="random", n=10, valid=0.1, test=0.1, groups=None):
    groups = np.arange(n) if groups is None else groups
    return split_rows(
        method, users=groups, items=groups, timestamps=None, valid=valid, test=test, seed=0
    )


@pytest.mark.parametrize("share", [1.0, -0.1, 1.5, float("nan")])
@pytest.mark.parametrize("option", ["valid", "test"])
def test_a_share_out_of_range_is_a_usage_error(option, share):
    with pytest.raises(UsageError, match=f"--{option} .* 0 or more, and below 1") as error:
        split_few(**{option: share})
    assert error.value.exit_code == 2


def test_shares_that_leave_nothing_and_unknown_methods_are_usage_errors():
    with pytest.raises(UsageError, match=r"--valid 0\.5 and --test 0\.5 leave no rows to train"):
        split_few(valid=0.5, test=0.5)
    with pytest.raises(UsageError, match="no split 'magic'; choose random, time, last, user, item"):
        split_few("magic")


@pytest.mark.parametrize("method", ["time", "last"])
def test_splits_in_time_without_timestamps_say_the_mend(method):
    with pytest.raises(DataError, match=r"needs timestamps.*; add a column timestamp") as error:
        split_few(method)
    assert error.value.exit_code == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 3}, r"no rows in valid and test \(train 3, valid 0, test 0\)"),
        ({"n": 5, "valid": 0.4}, r"no rows in test \(train 3, valid 2, test 0\)"),
        ({"n": 2, "valid": 0.45, "test": 0.5}, r"no rows in train \(train 0, valid 1, test 1\)"),
        ({"n": 0}, r"no rows in train and valid and test"),
        ({"method": "user", "groups": np.zeros(9, int)}, r"\(train 0, valid 0, test 9\)"),
        ({"method": "item", "groups": np.arange(10) % 2}, r"\(train 0, valid 5, test 5\)"),
        ({"method": "item", "groups": np.empty(0, int)}, r"\(train 0, valid 0, test 0\)"),
    ],
)
def test_an_empty_part_is_an_error_with_counts(arguments, message):
    with pytest.raises(DataError, match=message):
        split_few(**arguments)


@given(st.sampled_from(SPLIT_METHODS), ratings(), SHARES, st.sampled_from(["valid", "test"]))
def test_a_part_with_a_share_of_0_has_no_row_and_the_others_have_all(method, columns, share, none):
    shares = {"valid": share, "test": share, none: 0.0}
    split = try_split(method, columns, **shares, seed=0)
    assert not len(getattr(split, none))
    assert len(split.train) and len(split.valid) + len(split.test)
    everything = np.sort(np.concatenate(parts(split)))
    assert np.array_equal(everything, np.arange(len(columns["users"])))
    whole = split_rows(method, **columns, valid=0.0, test=0.0, seed=0)
    assert np.array_equal(whole.train, everything)


def test_the_last_row_alone_is_held_out_of_users_with_two():
    users = np.array([0, 0, 1, 2, 2, 2])
    columns = {"users": users, "items": np.arange(6), "timestamps": np.array([5, 1, 0, 3, 2, 9])}
    split = split_rows("last", **columns, valid=0.0, test=0.1, seed=0)
    assert (split.valid.tolist(), split.test.tolist()) == ([], [0, 5])
    split = split_rows("last", **columns, valid=0.1, test=0.0, seed=0)
    assert (split.valid.tolist(), split.test.tolist()) == ([0, 5], [])


@given(ratings(), SHARES, SEEDS, st.integers(1, 29))
def test_given_files_are_kept_apart_and_no_pair_leaks(columns, valid, seed, tested):
    users, items = columns["users"], columns["items"]
    # As `drop_duplicates` leaves it: no pair twice in one file.
    is_test = np.arange(len(users)) >= len(users) - tested
    _, first = np.unique(np.stack([users, items, is_test]), axis=1, return_index=True)
    rows = np.sort(first)
    users, items, is_test = users[rows], items[rows], is_test[rows]
    test_pairs = set(zip(users[is_test], items[is_test], strict=True))
    leaks = [row for row in np.flatnonzero(~is_test) if (users[row], items[row]) in test_pairs]
    remaining = np.setdiff1d(np.arange(len(users)), leaks)
    wanted = round((len(remaining) - is_test.sum()) * valid)
    assume(0 < wanted < len(remaining) - is_test.sum())
    split, dropped = split_given(users=users, items=items, is_test=is_test, valid=valid, seed=seed)
    assert dropped == len(leaks)
    assert_partition(split, remaining)
    assert np.array_equal(split.test, np.flatnonzero(is_test))
    assert len(split.valid) == wanted
    again, _ = split_given(users=users, items=items, is_test=is_test, valid=valid, seed=seed)
    assert np.array_equal(split.valid, again.valid)


def test_given_files_that_leave_a_part_empty():
    users = np.arange(10)
    for is_test in (np.zeros(10, bool), np.ones(10, bool)):
        with pytest.raises(DataError, match="leaves no rows in"):
            split_given(users=users, items=users, is_test=is_test, valid=0.1, seed=0)
    with pytest.raises(UsageError, match="--valid 1"):
        split_given(users=users, items=users, is_test=users > 5, valid=1.0, seed=0)
    split, _ = split_given(users=users, items=users, is_test=users > 5, valid=0.0, seed=0)
    assert [len(part) for part in parts(split)] == [6, 0, 4]
    with pytest.raises(ValueError, match="before the test file's"):
        split_given(users=users, items=users, is_test=users < 5, valid=0.2, seed=0)
