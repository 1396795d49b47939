"""Comparisons: statistics against plain loops and simulations, rows aligned, bad input refused."""

import csv
import itertools
import json
import math
import re
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from runs import make_settings

from dglrec import cli
from dglrec.compare import (
    RATING_FIGURES,
    UserSums,
    bootstrap,
    compare,
    compare_runs,
    difference,
    effect_size,
    figures,
    holm,
    interval,
    p_value,
    redraw_runs,
    runs,
    statistics,
    user_sums,
)
from dglrec.compare.rows import SharedRows
from dglrec.dataset import HeldOut, PrepareOptions, prepare
from dglrec.errors import DataError, DglrecError, UsageError
from dglrec.evaluate import evaluate
from dglrec.run import open_run
from dglrec.schema import RatingScale
from dglrec.train import train

FIVE = RatingScale(1, 5)


def sums_of_rows(users, errors, exact=None):
    """Sums by user, with numpy alone, of rows with these errors."""
    present, place = np.unique(users, return_inverse=True)
    exact = np.abs(errors) < 0.5 if exact is None else exact
    n, *parts = (np.bincount(place, w) for w in (None, errors**2, np.abs(errors), exact))
    return UserSums(present, n, RATING_FIGURES, np.column_stack(parts))


def random_sums(generator, users=12, count=1):
    """Sums of several runs on the same rows."""
    owners = np.repeat(np.arange(users) * 3, generator.integers(1, 9, users))
    return [sums_of_rows(owners, generator.normal(size=len(owners))) for _ in range(count)]


# ---------------------------------------------------------------- sums and figures


@given(st.integers(0, 2**32), st.sampled_from([FIVE, RatingScale(0.5, 5, 0.5)]))
def test_sums_are_those_of_a_loop_over_rows(seed, scale):
    generator = np.random.default_rng(seed)
    n = int(generator.integers(1, 40))
    users = generator.integers(0, 10, n)
    ratings = scale.decode(generator.integers(0, scale.levels, n))
    predictions = generator.uniform(scale.minimum - 1, scale.maximum + 1, n).astype(np.float32)
    expected: dict[int, list[float]] = {}
    for user, rating, raw in zip(users.tolist(), ratings.tolist(), predictions, strict=True):
        clipped = min(max(float(raw), scale.minimum), scale.maximum)
        level = math.floor((clipped - scale.minimum) / scale.step + 0.5)
        hit = scale.minimum + level * scale.step == rating
        one = expected.setdefault(user, [0, 0, 0, 0])
        error = clipped - rating
        for place, value in enumerate((1, error**2, abs(error), hit)):
            one[place] += value
    rows = HeldOut(
        torch.from_numpy(users), torch.zeros(n, dtype=torch.int64), torch.from_numpy(ratings)
    )
    found = user_sums(torch.from_numpy(predictions), rows, scale, 10)
    assert found.users.tolist() == sorted(expected)  # users without rows are no clusters
    columns = np.array([expected[user] for user in sorted(expected)])
    for part, column in zip((found.n, *found.sums.T), columns.T, strict=True):
        assert part.dtype == np.float64
        assert part == pytest.approx(column, rel=1e-12, abs=1e-12)
    total = columns.sum(0)
    assert figures(found) == pytest.approx(
        [math.sqrt(total[1] / n), total[2] / n, total[3] / n], rel=1e-12
    )


# ---------------------------------------------------------------- draws


@pytest.mark.parametrize("at_once", [1, 12 * 3, 1 << 23])
def test_draws_are_those_of_a_plain_loop(at_once, monkeypatch):
    monkeypatch.setattr(statistics, "_COUNTS_AT_ONCE", at_once)
    sums = random_sums(np.random.default_rng(1), count=3)
    found = bootstrap(sums, 7, seed=5)
    assert found.shape == (7, 3, 3)
    generator = np.random.default_rng(5)
    for draw in found:
        drawn = generator.integers(12, size=12).tolist()  # the same users for every run
        for run, one in zip(draw, sums, strict=True):
            n = sum(one.n[user] for user in drawn)
            squared, absolute, exact = (sum(part[user] for user in drawn) for part in one.sums.T)
            assert run == pytest.approx([math.sqrt(squared / n), absolute / n, exact / n])


def test_draws_are_repeatable_and_do_not_depend_on_their_number():
    sums = random_sums(np.random.default_rng(2), count=2)
    found = bootstrap(sums, 50, seed=0)
    assert np.array_equal(found, bootstrap(sums, 50, seed=0))
    assert found[:20] == pytest.approx(bootstrap(sums, 20, seed=0), rel=1e-12)
    assert not np.array_equal(found, bootstrap(sums, 50, seed=1))


def test_runs_on_other_users_or_rows_cannot_be_redrawn_together():
    (a,), (b,) = (random_sums(np.random.default_rng(seed)) for seed in (1, 2))
    with pytest.raises(ValueError, match="not on the same users"):
        bootstrap([a, b], 10, 0)
    moved = UserSums(a.users + 1, a.n, a.metrics, a.sums)
    with pytest.raises(ValueError, match="not on the same users"):
        bootstrap([a, moved], 10, 0)
    with pytest.raises(ValueError, match="no runs"):
        bootstrap([], 10, 0)
    none = np.empty(0)
    with pytest.raises(ValueError, match="no rows"):
        bootstrap([UserSums(none.astype(np.int64), none, ("rmse",), none[:, None])], 10, 0)
    with pytest.raises(ValueError, match="group b holds no run"):
        compare({"a": [a], "b": []})


def test_runs_of_a_group_are_redrawn_as_much_as_their_mean_varies():
    # The variance of a mean of S is s^2 / S, s^2 with the divisor S - 1.
    values = np.random.default_rng(0).normal(size=(4, 3))
    for count in (2, 3, 4):
        samples = np.broadcast_to(values[:count], (60_000, count, 3))
        found = redraw_runs(samples, np.random.default_rng(1))
        assert found.mean(0) == pytest.approx(values[:count].mean(0), abs=0.02)
        expected = values[:count].var(0, ddof=1) / count
        assert found.var(0) == pytest.approx(expected, rel=0.03)
    one = values[None, :1].repeat(5, 0)
    assert np.array_equal(redraw_runs(one, np.random.default_rng(1)), one[:, 0])


# ---------------------------------------------------------------- intervals, p-values, effects


def test_interval_is_made_of_percentiles():
    samples = np.random.default_rng(0).permutation(np.arange(1001.0))
    assert interval(samples, 0.95) == pytest.approx((25, 975))
    assert interval(samples, 0.5) == pytest.approx((250, 750))


@pytest.mark.parametrize("value", [0.0, -2.5, 1e9])
def test_what_never_varies_has_no_interval(value):
    samples = np.full(100, value) * (1 + 1e-15 * np.arange(100))
    assert interval(samples, 0.95) is None
    assert p_value(samples) is None


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (np.arange(1, 100), 2 * 1 / 100),  # never 0, however clear
        (-np.arange(1, 100), 2 * 1 / 100),
        (np.r_[-np.arange(1, 5), np.arange(1, 96)], 2 * 5 / 100),
        (np.r_[-1, np.arange(98)], 2 * 3 / 100),  # a draw of 0 is on both sides
        (np.arange(-49, 50), 1.0),
        (np.r_[1, np.zeros(98)], 1.0),
    ],
)
def test_p_values_known_answers(samples, expected):
    assert len(samples) == 99
    assert p_value(samples.astype(float)) == pytest.approx(expected)


def test_holm_known_answers():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([0.04, None, 0.03]) == pytest.approx([0.06, None, 0.06])  # a family of two
    assert holm([None]) == [None]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_keeps_the_order_and_lies_between_none_and_bonferroni(p_values):
    found = holm(p_values)
    for p, adjusted in zip(p_values, found, strict=True):
        assert p <= adjusted <= min(1, p * len(p_values)) + 1e-12 or adjusted == max(found)
        assert p <= adjusted <= 1
    for (p, a), (q, b) in itertools.combinations(zip(p_values, found, strict=True), 2):
        assert (p <= q and a <= b) or (q <= p and b <= a)
    least = min(p_values)
    assert found[p_values.index(least)] == pytest.approx(min(1, least * len(p_values)))


def of_squares(squared, n=None):
    squared = np.asarray(squared, dtype=float)
    n = np.ones(len(squared)) if n is None else np.asarray(n, dtype=float)
    parts = (squared, np.sqrt(squared), np.zeros(len(n)))
    return UserSums(np.arange(len(n)), n, RATING_FIGURES, np.column_stack(parts))


def test_effect_size_is_of_the_users_mean_squared_errors():
    a, b = of_squares([4, 9, 2], n=[2, 3, 1]), of_squares([2, 3, 4], n=[2, 3, 1])
    apart = [2 - 1, 3 - 1, 2 - 4]
    mean = sum(apart) / 3
    spread = math.sqrt(sum((d - mean) ** 2 for d in apart) / 2)
    assert effect_size(a, b) == pytest.approx(mean / spread)
    assert effect_size(b, a) == pytest.approx(-mean / spread)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ([1.0], [2.0]),  # one user
        ([0.1, 0.2, 0.3], [0.1, 0.2, 0.3]),  # no difference
        ([0.1 + 0.2, 0.4 + 0.2, 0.5 + 0.2], [0.1, 0.4, 0.5]),  # all alike, but for rounding
        ([0.0, 0.0], [0.0, 0.0]),
    ],
)
def test_effect_size_is_left_out_where_it_has_no_meaning(a, b):
    assert effect_size(of_squares(a), of_squares(b)) is None


def test_what_rounding_leaves_is_no_difference():
    assert difference([0.1 + 0.2, 1.0, 0.0], [0.3, 1.0 - 1e-9, 0.0]) == pytest.approx(
        [0, 1e-9, 0], rel=1e-6
    )
    assert difference(0.1 + 0.2, 0.3) == 0


# ---------------------------------------------------------------- do they hold?


def clustered_rows(generator, users, each, spread):
    """Absolute errors of mean 1, alike within a user as far as `spread` says."""
    of_user = generator.exponential(size=users) * spread + 1 - spread
    return np.repeat(np.arange(users), each), np.repeat(of_user, each) * generator.choice(
        [0.5, 1.5], users * each
    )


def width(sums, seed=0):
    low, high = interval(bootstrap([sums], 300, seed)[:, 0, 1], 0.95)
    return high - low


def test_intervals_are_wider_than_of_rows_where_users_differ_and_not_where_they_do_not():
    generator = np.random.default_rng(3)
    for spread, least, most in ((1.0, 3.0, 12.0), (0.0, 0.75, 1.35)):
        users, errors = clustered_rows(generator, 100, 30, spread)
        by_user = width(sums_of_rows(users, errors))
        by_row = width(sums_of_rows(np.arange(len(errors)), errors))
        assert least < by_user / by_row < most


def test_intervals_hold_the_true_figure_about_as_often_as_they_say():
    generator = np.random.default_rng(4)
    inside = {"users": 0, "rows": 0}
    times = 200
    for _ in range(times):
        users, errors = clustered_rows(generator, 60, 8, 1.0)
        for name, owners in (("users", users), ("rows", np.arange(len(users)))):
            samples = bootstrap([sums_of_rows(owners, errors)], 150, 0)[:, 0, 1]
            low, high = interval(samples, 0.9)
            inside[name] += low <= 1 <= high
    assert 0.82 <= inside["users"] / times <= 0.95
    assert inside["rows"] / times < 0.65


def test_equal_runs_are_called_different_about_as_often_as_p_says():
    generator = np.random.default_rng(5)
    times = 300
    below = 0
    for _ in range(times):
        owners = np.repeat(np.arange(50), 4)
        common = generator.normal(size=200)
        pair = [sums_of_rows(owners, common + 0.3 * generator.normal(size=200)) for _ in range(2)]
        samples = bootstrap(pair, 150, 0)
        below += p_value(difference(samples[:, 0, 0], samples[:, 1, 0])) <= 0.1
    assert 0.06 <= below / times <= 0.16


def test_differences_are_paired():
    # Users differ far more than the runs do, and yet the runs can be told apart.
    generator = np.random.default_rng(6)
    owners = np.repeat(np.arange(80), 5)
    errors = np.repeat(generator.exponential(size=80), 5) + 0.05
    found = compare(
        {
            "worse": [sums_of_rows(owners, errors + 0.02)],
            "better": [sums_of_rows(owners, errors)],
        },
        draws=200,
    )
    worse, better = found.runs
    assert better.figures["rmse"].low < worse.figures["rmse"].value < better.figures["rmse"].high
    (pair,) = found.differences
    assert 0 < pair.figures["rmse"].low <= pair.figures["rmse"].value <= pair.figures["rmse"].high
    assert pair.figures["rmse"].p == pytest.approx(2 / 201)
    assert pair.figures["mae"].value == pytest.approx(0.02)
    assert pair.percent == pytest.approx(
        100 * (worse.figures["rmse"].value / better.figures["rmse"].value - 1)
    )


# ---------------------------------------------------------------- groups


def test_a_comparison_is_put_together_from_its_parts():
    sums = random_sums(np.random.default_rng(7), users=40, count=3)
    groups = {name: [one] for name, one in zip("abc", sums, strict=True)}
    found = compare(groups, draws=300, level=0.9, seed=3)
    samples = bootstrap(sums, 300, 3)
    assert (found.rows, found.users) == (round(sums[0].n.sum()), 40)
    assert (found.draws, found.level, found.seed) == (300, 0.9, 3)
    assert [run.name for run in found.runs] == ["a", "b", "c"]
    for place, run in enumerate(found.runs):
        for metric, name in enumerate(RATING_FIGURES):
            estimate = run.figures[name]
            assert estimate.value == figures(sums[place])[metric]
            assert (estimate.low, estimate.high) == interval(samples[:, place, metric], 0.9)
    pairs = [(0, 1), (0, 2), (1, 2)]
    assert [(d.a, d.b) for d in found.differences] == [("a", "b"), ("a", "c"), ("b", "c")]
    for metric, name in enumerate(RATING_FIGURES):
        apart = [samples[:, i, metric] - samples[:, j, metric] for i, j in pairs]
        p = [p_value(one) for one in apart]
        estimates = [one.figures[name] for one in found.differences]
        assert [one.p for one in estimates] == p
        assert [one.p_holm for one in estimates] == holm(p)
        for one, values, (i, j) in zip(estimates, apart, pairs, strict=True):
            assert one.value == pytest.approx(figures(sums[i])[metric] - figures(sums[j])[metric])
            assert (one.low, one.high) == pytest.approx(interval(values, 0.9))
    for one, (i, j) in zip(found.differences, pairs, strict=True):
        assert one.d_z == effect_size(sums[i], sums[j])
        base = figures(sums[j])[0]
        assert one.percent == pytest.approx(100 * (figures(sums[i])[0] - base) / base)
        ratios = 100 * (samples[:, i, 0] / samples[:, j, 0] - 1)
        ends = (one.percent_low, one.percent_high)
        assert ends == pytest.approx(interval(ratios, 0.9))
    (note,) = found.notes
    assert note.startswith("one run of a, b, c")


def test_chosen_pairs_are_corrected_for_their_own_number():
    sums = random_sums(np.random.default_rng(8), users=40, count=4)
    groups = {name: [one] for name, one in zip("abcd", sums, strict=True)}
    every = {(one.a, one.b): one for one in compare(groups, draws=300).differences}
    found = compare(groups, draws=300, pairs=[("b", "a"), ("c", "a")])
    assert [(one.a, one.b) for one in found.differences] == [("b", "a"), ("c", "a")]
    for one in found.differences:
        other = every[one.b, one.a]
        assert one.figures["rmse"].value == -other.figures["rmse"].value
        assert one.figures["rmse"].low == pytest.approx(-other.figures["rmse"].high)
        assert one.figures["rmse"].p == other.figures["rmse"].p
    assert [one.figures["mae"].p_holm for one in found.differences] == holm(
        [one.figures["mae"].p for one in found.differences]
    )
    alone = compare(groups, draws=300, pairs=[])
    assert (alone.differences, alone.runs) == ([], found.runs)


def test_the_other_way_round_signs_change():
    a, b = random_sums(np.random.default_rng(8), users=40, count=2)
    (one,) = compare({"a": [a], "b": [b]}, draws=200).differences
    (other,) = compare({"b": [b], "a": [a]}, draws=200).differences
    for name in RATING_FIGURES:
        forth, back = one.figures[name], other.figures[name]
        assert (back.value, back.p) == (-forth.value, forth.p)
        assert (back.low, back.high) == pytest.approx((-forth.high, -forth.low), abs=1e-12)
    assert other.d_z == pytest.approx(-one.d_z)


def test_a_group_is_the_mean_of_its_runs_and_varies_with_them():
    generator = np.random.default_rng(9)
    owners = np.repeat(np.arange(60), 5)
    errors = generator.normal(size=300)
    # Seeds change the error far more than the choice of users does.
    seeds = [sums_of_rows(owners, errors * factor) for factor in (1.0, 1.5, 2.0)]
    other = sums_of_rows(owners, errors * 1.4)
    found = compare({"seeds": seeds, "other": [other]}, draws=2_000)
    group, single = found.runs
    assert (group.runs, single.runs) == (3, 1)
    assert group.figures["rmse"].value == pytest.approx(np.mean([figures(one)[0] for one in seeds]))
    assert group.figures["rmse"].high - group.figures["rmse"].low > 2 * (
        single.figures["rmse"].high - single.figures["rmse"].low
    )
    (pair,) = found.differences
    assert pair.figures["rmse"].low < 0 < pair.figures["rmse"].high
    squared = np.mean([one.sums for one in seeds], axis=0)
    pooled = UserSums(other.users, other.n, other.metrics, squared)
    assert pair.d_z == pytest.approx(effect_size(pooled, other))
    assert any(note.startswith("one run of other: ") for note in found.notes)
    assert any(note.startswith("fewer than 5 runs of seeds: ") for note in found.notes)
    # A run by itself, of the same draws of users, is what it was.
    alone = compare({"other": [other]}, draws=2_000)
    assert alone.runs[0].figures["rmse"].low == pytest.approx(single.figures["rmse"].low, rel=1e-12)
    assert alone.differences == []


def test_of_one_user_nothing_is_said_but_the_figures():
    owners = np.full(10, 4)
    errors = np.random.default_rng(10).normal(size=10)
    groups = {"a": [sums_of_rows(owners, errors)], "b": [sums_of_rows(owners, errors * 2)]}
    found = compare(groups, draws=100)
    for run in found.runs:
        assert all(run.figures[name].low is None for name in RATING_FIGURES)
    (pair,) = found.differences
    assert pair.d_z is None
    for name in RATING_FIGURES:
        one = pair.figures[name]
        assert (one.low, one.high, one.p, one.p_holm) == (None, None, None, None)
    assert pair.figures["rmse"].value == pytest.approx(-math.sqrt((errors**2).mean()))
    assert pair.percent == pytest.approx(-50)
    assert "all rows are of one user" in found.notes[0]


def test_what_cannot_be_told_is_left_out_and_said():
    owners = np.repeat(np.arange(6), 3)
    errors = np.random.default_rng(11).normal(size=18)
    never = np.zeros(18, dtype=bool)
    groups = {
        "a": [sums_of_rows(owners, errors, never)],
        "b": [sums_of_rows(owners, errors * 1.1, never)],
        "exact": [sums_of_rows(owners, errors * 0)],
    }
    found = compare(groups, draws=100)
    a, _, exact = found.runs
    assert (a.figures["accuracy"].value, a.figures["accuracy"].low) == (0, None)
    assert (
        exact.figures["rmse"].value,
        exact.figures["rmse"].low,
        exact.figures["accuracy"].value,
    ) == (0, None, 1)
    pair, to_exact, _ = found.differences
    assert (
        pair.figures["accuracy"].value,
        pair.figures["accuracy"].p,
        pair.figures["accuracy"].p_holm,
    ) == (0, None, None)
    assert pair.figures["rmse"].low is not None
    assert to_exact.percent is None  # of an RMSE of 0
    assert "6 users are few" in found.notes[0]
    assert "the same in every draw" in found.notes[1]
    for what in ("accuracy of a;", "accuracy of a - b", "rmse of exact"):
        assert what in found.notes[1]
    json.dumps(asdict(found), allow_nan=False)


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        ({"draws": 39}, "--bootstrap 39: a level of 0.95 needs 40"),
        ({"draws": 0, "level": 0.5}, "needs 4 draws"),
        ({"draws": 199, "level": 0.99}, "needs 200"),
        ({"level": 0.0}, "--level 0"),
        ({"level": 1.0}, "--level 1"),
        ({"level": 95}, "--level 95"),
        ({"level": math.nan}, "--level nan"),
        ({"seed": -1}, "--seed -1"),
    ],
)
def test_options_out_of_range(options, fragment):
    groups = {name: random_sums(np.random.default_rng(0)) for name in "ab"}
    with pytest.raises(UsageError, match=fragment):
        compare(groups, **options)
    with pytest.raises(UsageError, match=fragment):
        compare_runs({}, **options)


# ---------------------------------------------------------------- runs


def write_rows(path, rows, header=("user_id", "item_id", "rating")):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.fixture(scope="module")
def rows():
    """(training rows, test rows) of 40 users and 25 items, ids from 10 on."""
    generator = np.random.default_rng(0)
    pairs = generator.choice(40 * 25, 500, replace=False)
    users, items = 10 + pairs // 25, 10 + pairs % 25
    taste = np.round(3 + np.sin(users) + np.cos(3 * items) + generator.normal(size=500) / 2)
    ratings = np.clip(taste, 1, 5).astype(int)
    every = list(zip(users.tolist(), items.tolist(), ratings.tolist(), strict=True))
    return every[:380], every[380:]


def prepared(folder, training, test, **options):
    """A data set of these rows."""
    folder.mkdir()
    train_file = write_rows(folder / "train.csv", training)
    test_file = write_rows(folder / "test.csv", test)
    return prepare(
        train_file,
        folder / "data",
        PrepareOptions(
            **{
                "text": False,
                "train_file": train_file,
                "test_file": test_file,
                "scale": FIVE,
                **options,
            }
        ),
    )


@dataclass(frozen=True)
class Trained:
    folder: Path
    a: Path
    a_again: Path
    shifted: Path
    constant: Path
    constant_again: Path


@pytest.fixture(scope="module")
def trained(rows, tmp_path_factory):
    """Runs: two on one data set, one on the same test rows elsewhere, others on other rows."""
    folder = tmp_path_factory.mktemp("compare")
    training, test = rows
    datasets = {
        "a": prepared(folder / "sets-a", training, test),
        # Ids before and between the others, and the rows in another order: no index is the same.
        "shifted": prepared(
            folder / "sets-shifted",
            [(1, 3, 5), (2, 12, 1), (12, 3, 4), *training[::-1]],
            [test[n] for n in np.random.default_rng(1).permutation(len(test))],
        ),
        "constant": prepared(
            folder / "sets-constant", training, [row for row in test if row[2] == 4]
        ),
    }
    made = {}
    seeds = {"a": 0, "a_again": 1, "shifted": 0, "constant": 0, "constant_again": 1}
    for name, seed in seeds.items():
        made[name] = folder / name
        dataset = datasets[name.removesuffix("_again")]
        train(dataset, made[name], make_settings(epochs=1, seed=seed))
    return Trained(folder, **made)


def groups_of(*runs):
    return {str(run): [run] for run in runs}


@pytest.mark.parametrize("split", ["test", "valid"])
def test_figures_are_those_of_evaluate(trained, split):
    result = compare_runs(groups_of(trained.a, trained.a_again), split, draws=50)
    assert result["split"] == split
    for run in result["runs"]:
        expected = evaluate(open_run(Path(run["name"])), split)
        assert result["rows"] == expected["n"]
        for name in RATING_FIGURES:
            assert run[name]["value"] == pytest.approx(expected[name], rel=1e-12)
    (pair,) = result["differences"]
    assert (pair["a"], pair["b"]) == (str(trained.a), str(trained.a_again))


def test_rows_are_matched_by_their_ids(trained, monkeypatch):
    first, other = (open_run(run).dataset for run in (trained.a, trained.shifted))
    ours, theirs = first.held_out("test"), other.held_out("test")
    shared = SharedRows.of(first, trained.a, "test", ours)
    order = shared.order_of(other, trained.shifted, theirs)
    assert sorted(order.tolist()) == list(range(len(theirs)))
    assert order.tolist() != sorted(order.tolist())
    for place, row in enumerate(order.tolist()):
        for dataset, held, at in ((first, shared.rows, place), (other, theirs, row)):
            found = (
                dataset.users.ids[int(held.users[at])].as_py(),
                dataset.items.ids[int(held.items[at])].as_py(),
                float(held.ratings[at]),
            )
            if dataset is first:
                expected = found
        assert found == expected
    assert int(theirs.users[int(order[0])]) != int(shared.rows.users[0])  # indices are not the same
    # And the sums go to the right users: predictions that ids alone decide make no difference.

    def by_ids(trained_, run, held):
        dataset = trained_.dataset
        users, items = (
            ids.decode(indices.numpy()).to_numpy()
            for ids, indices in ((dataset.users, held.users), (dataset.items, held.items))
        )
        return torch.from_numpy(3 + np.sin(users + 7 * items))

    monkeypatch.setattr(runs, "predict_rows", by_ids)
    (pair,) = compare_runs(groups_of(trained.a, trained.shifted), draws=50)["differences"]
    assert pair["d_z"] is None
    for name in RATING_FIGURES:
        assert pair[name]["value"] == 0 and pair[name]["low"] is None


def test_runs_on_data_sets_with_the_same_test_rows(trained):
    result = compare_runs(groups_of(trained.a, trained.shifted), draws=50)
    for run in result["runs"]:
        expected = evaluate(open_run(Path(run["name"])))
        assert run["rmse"]["value"] == pytest.approx(expected["rmse"], rel=1e-12)


def test_a_group_of_runs(trained):
    named = {"seeds": [trained.a, trained.a_again], "shifted": [trained.shifted]}
    result = compare_runs(named, draws=50)
    each = [evaluate(open_run(run))["mae"] for run in named["seeds"]]
    seeds = result["runs"][0]
    assert (seeds["name"], seeds["runs"]) == ("seeds", 2)
    assert seeds["mae"]["value"] == pytest.approx(np.mean(each))


def test_one_rating_value_alone_is_said(trained):
    result = compare_runs(groups_of(trained.constant, trained.constant_again), draws=50)
    assert "every test rating is 4" in result["notes"][-1]
    for run in result["runs"]:
        expected = evaluate(open_run(Path(run["name"])))
        for name in RATING_FIGURES:
            assert run[name]["value"] == pytest.approx(expected[name], rel=1e-12)
    assert json.loads(json.dumps(result, allow_nan=False)) == result


OTHER_ROWS = {
    "fewer": lambda test: sorted(test)[1:],
    "more": lambda test: [*test, (10, 99, 3)],
    "a user more": lambda test: [*test, (99, 10, 3)],
    "another rating": lambda test: [(*sorted(test)[0][:2], 9 - 4), *sorted(test)[1:]],
}


@pytest.mark.parametrize("case", OTHER_ROWS)
@pytest.mark.parametrize("turned", [False, True], ids=["", "turned"])
def test_other_rows_are_refused_with_the_first_that_differs(case, turned, rows, tmp_path):
    training, test = rows
    user, item, rating = sorted(test)[0]
    assert rating != 5
    other = OTHER_ROWS[case](test)
    # The extra ids are trained on in both, or in neither.
    sets = [prepared(tmp_path / "one", training, test), prepared(tmp_path / "two", training, other)]
    names = [Path("run-1"), Path("run-2")]
    if turned:
        sets.reverse()
        names.reverse()
    held = [dataset.held_out("test") for dataset in sets]
    shared = SharedRows.of(sets[0], names[0], "test", held[0])
    with pytest.raises(DataError) as error:
        shared.order_of(sets[1], names[1], held[1])
    message = str(error.value)
    assert message.startswith(f"{names[0]} and {names[1]}: not the same test rows")
    assert f"({len(held[0])} and {len(held[1])})" in message
    assert "one split" in message
    ratings = (rating, 5) if not turned else (5, rating)
    assert {
        "fewer": f"user {user}, item {item} is in run-1 alone",
        "more": "user 10, item 99 is in run-2 alone",
        "a user more": "user 99, item 10 is in run-2 alone",
        "another rating": f"user {user}, item {item} is rated {ratings[0]} in {names[0]}, "
        f"{ratings[1]} in {names[1]}",
    }[case] in message


def test_other_scales_and_other_kinds_of_ids_are_refused(rows, trained, tmp_path):
    training, test = rows
    first = open_run(trained.a).dataset
    shared = SharedRows.of(first, Path("run-1"), "test", first.held_out("test"))
    halves = prepared(tmp_path / "halves", training, test, scale=RatingScale(1, 5, 0.5))
    with pytest.raises(DataError, match="scales differ .*steps of 1; .*steps of 0.5"):
        shared.order_of(halves, Path("run-2"), halves.held_out("test"))
    as_text = [[(f"u{user}", item, rating) for user, item, rating in part] for part in rows]
    texts = prepared(tmp_path / "texts", *as_text)
    with pytest.raises(DataError, match="user ids are whole numbers .* and text"):
        shared.order_of(texts, Path("run-2"), texts.held_out("test"))


def test_a_prediction_that_is_no_number_is_refused(trained, monkeypatch):
    def nothing(model, embeddings, biases, users, items):
        return torch.full((len(users),), math.nan)

    monkeypatch.setattr("dglrec.run.trained.predict_pairs", nothing)
    with pytest.raises(DglrecError, match="a: its predictions are not finite numbers"):
        compare_runs(groups_of(trained.a, trained.a_again), draws=50)


def test_a_split_that_is_not_held_out_is_refused(trained):
    with pytest.raises(UsageError, match="no split 'train'"):
        compare_runs(groups_of(trained.a, trained.a_again), "train")


# ---------------------------------------------------------------- the command line


@pytest.fixture
def command(monkeypatch, capsys, trained):
    """Runs `dglrec compare` among the runs, and gives code, stdout and stderr."""
    monkeypatch.chdir(trained.folder)

    def call(*arguments):
        line = ["dglrec", "compare", *map(str, arguments), "--device", "cpu"]
        monkeypatch.setattr(sys, "argv", line)
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        return exit_.value.code, *capsys.readouterr()

    return call


def test_json_is_what_the_function_gives(command, trained):
    options = ("--bootstrap", 60, "--level", 0.9, "--seed", 4, "--split", "valid", "--json")
    code, out, err = command("a", "again=a_again", *options)
    assert (code, err) == (0, "")
    groups = {"a": [trained.a], "again": [trained.a_again]}
    result = json.loads(out)
    assert result == compare_runs(groups, "valid", draws=60, level=0.9, seed=4)
    assert list(result) == [
        *("schema_version", "split", "metrics", "rows", "users", "draws", "level", "seed"),
        *("runs", "differences", "notes"),
    ]
    assert list(result["runs"][0]) == ["name", "runs", *RATING_FIGURES]
    assert list(result["runs"][0]["rmse"]) == ["value", "low", "high"]
    (pair,) = result["differences"]
    percent = ("percent", "percent_low", "percent_high", "d_z")
    assert list(pair) == ["a", "b", *percent, *RATING_FIGURES]
    assert list(pair["mae"]) == ["value", "low", "high", "p", "p_holm"]
    assert len(out.splitlines()) == 1


def test_tables_show_intervals_and_which_include_0(command):
    arguments = ("seeds=a,a_again", "shifted", "--bootstrap", 60)
    code, out, _ = command(*arguments)
    assert code == 0
    result = json.loads(command(*arguments, "--json")[1])
    flat = " ".join(out.split())
    assert f"{result['rows']} test ratings of {result['users']} users, 95 % intervals" in flat
    for run in result["runs"]:
        for name in RATING_FIGURES:
            one = run[name]
            assert f"{one['value']:.4f}" in out
            assert f"[{one['low']:.4f}, {one['high']:.4f}]" in out
    (pair,) = result["differences"]
    assert re.search("seeds .*rmse.*\n.* - shifted .*mae", out)
    including = 0
    for name in RATING_FIGURES:
        one = pair[name]
        assert f"[{one['low']:+.4f}, {one['high']:+.4f}]" in out
        including += one["low"] <= 0 <= one["high"]
    assert including and out.count("(includes 0)") == including
    assert f"{pair['d_z']:+.2f}" in out and f"{pair['percent']:+.2f}" in out
    for note in result["notes"]:
        assert f"note: {note}" in out


def test_a_table_without_intervals(command, monkeypatch):
    monkeypatch.setattr(runs, "user_sums", lambda *_: sums_of_rows(np.zeros(4), np.ones(4)))
    code, out, _ = command("a", "a_again", "--bootstrap", 60)
    assert code == 0
    assert "[" not in out and "None" not in out and "includes" not in out
    assert "note: all rows are of one user" in out


@pytest.mark.parametrize(
    ("code", "arguments", "fragments"),
    [
        (2, [], ["two runs or more"]),
        (2, ["a"], ["two runs or more"]),
        (2, ["seeds=a,a_again"], ["two runs or more"]),
        (2, ["a", "a"], ["a: given twice"]),
        (2, ["a", "./a"], ["a: given twice"]),
        (2, ["a", "other=a_again,a"], ["a: given twice"]),
        (2, ["x=a", "x=a_again"], ["x: given twice"]),
        (2, ["x=a,a_again,", "shifted"], ["x=a,a_again,: a name or a run is missing"]),
        (2, ["x=", "shifted"], ["x=: a name or a run is missing"]),
        (2, ["=a", "shifted"], ["=a: a name or a run is missing"]),
        (2, ["", "shifted"], ["'': a name or a run is missing"]),
        (2, ["a,a_again", "shifted"], ["several runs need a name", "NAME=RUN,RUN"]),
        (2, ["a", "shifted", "--split", "train"], ["'train' is not one of"]),
        (2, ["a", "shifted", "--bootstrap", "10"], ["--bootstrap 10", "40 draws"]),
        (2, ["a", "shifted", "--level", "95"], ["--level 95", "between 0 and 1"]),
        (2, ["a", "shifted", "--seed", "-3"], ["'--seed': -3"]),
        (3, ["a", "nowhere"], ["nowhere: no such run"]),
        (3, ["a", "sets-a"], ["sets-a: holds no checkpoints"]),
        (3, ["a", "constant"], ["a and constant: not the same test rows (120 and ", "in a alone"]),
    ],
)
def test_wrong_use_is_refused(code, arguments, fragments, command):
    found, out, err = command(*arguments)
    assert (found, out) == (code, "")
    assert err.startswith("error: ") and 1 <= len(err.splitlines()) <= 2
    for fragment in fragments:
        assert fragment in err


def test_a_copy_of_a_run_is_the_same_run(command, trained, tmp_path):
    copy = shutil.copytree(trained.a, tmp_path / "copy")
    code, _, err = command("a", copy)
    assert code == 3
    assert f"{copy}: holds the same weights as a" in err


def test_a_name_with_an_equals_sign_may_be_a_folder(command, trained):
    copy = shutil.copytree(trained.a, trained.folder / "lr=0.02,x")
    code, out, _ = command(copy.name, "a_again", "--bootstrap", 60, "--json")
    assert code == 0
    assert json.loads(out)["runs"][0]["name"] == copy.name


def test_a_data_set_that_was_moved(command, trained, tmp_path):
    # One run's data set has gone elsewhere; the other's is where it was.
    moved = shutil.copytree(trained.folder / "sets-a" / "data", tmp_path / "moved")
    away = trained.folder / "sets-a" / "away"
    (trained.folder / "sets-a" / "data").rename(away)
    try:
        code, _, err = command("shifted", "a", "--bootstrap", 60)
        assert code == 3 and "--dataset" in err
        code, out, err = command("shifted", "a", "--bootstrap", 60, "--dataset", moved, "--json")
        assert code == 0, err
        other = trained.folder / "sets-constant" / "data"
        code, _, err = command("shifted", "a", "--bootstrap", 60, "--dataset", other)
        assert code == 3 and "not the data set that a was trained on" in err
    finally:
        away.rename(trained.folder / "sets-a" / "data")
    assert json.loads(out)["runs"][1]["rmse"]["value"] == pytest.approx(
        evaluate(open_run(trained.a))["rmse"], rel=1e-12
    )
