import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dglrec.synthetic as synthetic
from dglrec.errors import DataError, UsageError
from dglrec.kernels import ItemLists
from dglrec.synthetic import (
    ITEMS_FILE,
    RATINGS_FILE,
    SYNOPSES_FILE,
    TRUTH_FILE,
    PlantedLists,
    Truth,
    draw,
    oracle,
    synthesize,
)
from dglrec.synthetic.catalogue import make_catalogue
from dglrec.synthetic.draw import Rates, activity, draw_items, popularity, user_chunks
from dglrec.synthetic.planted import RATING_SHARES, draw_tastes
from dglrec.synthetic.reference import list_figures
from dglrec.synthetic.truth import RatingCurve, expected_rating
from dglrec.synthetic.vocabulary import GENRES, SYLLABLES, THEMES

USERS, ITEMS, RATINGS, SEED = 1_000, 900, 100_000, 7

Rows = np.ndarray[Any, np.dtype[np.int64]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synthetic") / "data"
    synthesize(out, users=USERS, items=ITEMS, ratings=RATINGS, seed=SEED)
    return out


@pytest.fixture(scope="module")
def truth(folder: Path) -> Truth:
    return Truth.read(folder / TRUTH_FILE)


@pytest.fixture(scope="module")
def rows(folder: Path) -> Rows:
    """[R, 3]: user id, item id, rating."""
    return np.loadtxt(folder / RATINGS_FILE, delimiter=",", skiprows=1, dtype=np.int64)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def first_line(path: Path) -> str:
    return path.read_text(encoding="utf-8").split("\n", 1)[0]


def no_progress(count: int) -> None:
    pass


# The files.


def test_files_have_the_published_columns(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {
        RATINGS_FILE,
        SYNOPSES_FILE,
        ITEMS_FILE,
        TRUTH_FILE,
    }
    assert first_line(folder / RATINGS_FILE) == "user_id,anime_id,rating"
    assert first_line(folder / SYNOPSES_FILE) == "MAL_ID,Name,Score,Genres,sypnopsis"
    assert first_line(folder / ITEMS_FILE) == "MAL_ID,Name,Score,Genres,Type,Episodes,Members"


def test_counts_are_exact_and_pairs_distinct(rows: Rows, truth: Truth) -> None:
    assert len(rows) == RATINGS == truth.ratings
    assert len(np.unique(rows[:, :2], axis=0)) == RATINGS
    assert np.array_equal(np.unique(rows[:, 0]), np.arange(USERS))  # each has one at least
    assert np.all(np.diff(rows[:, 0]) >= 0)
    assert np.isin(rows[:, 1], truth.item_ids).all()
    assert set(np.unique(rows[:, 2])) == set(range(1, 11))


def test_activity_is_log_normal_and_popularity_has_a_head(rows: Rows) -> None:
    counts = np.bincount(rows[:, 0])
    assert np.median(counts) == pytest.approx(108 / 174 * RATINGS / USERS, rel=0.15)
    assert np.log(counts).std() == pytest.approx(0.98, abs=0.1)
    of_items = np.sort(np.bincount(rows[:, 1]))[::-1]
    assert of_items[: ITEMS // 10].sum() > 0.25 * RATINGS
    assert of_items[0] > 3 * RATINGS / ITEMS


def test_histogram_is_the_samples(rows: Rows) -> None:
    shares = np.bincount(rows[:, 2], minlength=11)[1:] / RATINGS
    assert np.abs(shares - RATING_SHARES).max() < 0.006


def test_item_tables(folder: Path, rows: Rows, truth: Truth) -> None:
    items = table(folder / ITEMS_FILE)
    ids = np.array([int(item["MAL_ID"]) for item in items])
    assert np.array_equal(ids, truth.item_ids)
    assert ids[0] >= 1 and np.all(np.diff(ids) >= 1) and ids[-1] > 2 * ITEMS
    assert len({item["Name"] for item in items}) == ITEMS
    genres = [item["Genres"].split(", ") for item in items]
    assert {genre for row in genres for genre in row} <= {*GENRES, "Unknown"}
    assert {len(set(row)) for row in genres} == {1, 2, 3, 4, 5}
    assert 0 < sum(row == ["Unknown"] for row in genres) < 0.03 * ITEMS
    assert all(("Unknown" not in row) or len(row) == 1 for row in genres)
    assert all(int(item["Members"]) >= 1 for item in items)
    for item in items:
        mine = rows[rows[:, 1] == int(item["MAL_ID"]), 2]
        expected = repr(round(float(mine.mean()), 2)) if len(mine) else "Unknown"
        assert item["Score"] == expected


def test_synopses_are_english_about_two_or_three_themes(folder: Path) -> None:
    items = {item["MAL_ID"]: item for item in table(folder / ITEMS_FILE)}
    synopses = table(folder / SYNOPSES_FILE)
    assert 0.01 * ITEMS < ITEMS - len(synopses) < 0.06 * ITEMS
    for row in synopses:
        assert all(row[name] == items[row["MAL_ID"]][name] for name in ("Name", "Score", "Genres"))
        assert row["sypnopsis"].count(".") == 3
        assert 28 <= len(row["sypnopsis"].split()) <= 55
        assert "{" not in row["sypnopsis"]


def test_themes_share_no_words() -> None:
    words = [word for theme in THEMES.values() for part in theme for word in part]
    assert len(words) == len(set(words)) == 10 * len(THEMES)
    assert len(THEMES) == 24 and len(GENRES) == 20
    assert len(set(SYLLABLES)) == len(SYLLABLES) and {len(some) for some in SYLLABLES} == {2}


def test_same_seed_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    synthesize(tmp_path / "again", users=USERS, items=ITEMS, ratings=RATINGS, seed=SEED)
    synthesize(tmp_path / "other", users=USERS, items=ITEMS, ratings=RATINGS, seed=SEED + 1)
    for path in folder.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()
        assert (tmp_path / "other" / path.name).read_bytes() != path.read_bytes()


# The planted model, recomputed from what is written.


def latent_parts(truth: Truth, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    user, item = rows[:, 0], np.searchsorted(truth.item_ids, rows[:, 1])
    bias = truth.user_bias[user].astype(float) + truth.item_bias[item]
    taste = (truth.user_vectors[user].astype(float) * truth.item_vectors[item]).sum(axis=1)
    return bias, taste


def phi(x: np.ndarray) -> np.ndarray:
    return np.array([0.5 * math.erfc(-value / math.sqrt(2)) for value in x.ravel()]).reshape(
        x.shape
    )


def test_expectation_is_the_closed_form(truth: Truth, rows: Rows) -> None:
    some = rows[:: RATINGS // 2_000]
    bias, taste = latent_parts(truth, some)
    levels = phi(((bias + taste)[:, None] - truth.thresholds) / truth.noise_sd)
    expected = 1 + levels.sum(axis=1)
    found = truth.expectation(some[:, 0], some[:, 1])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_expectation_is_the_mean_of_draws(truth: Truth) -> None:
    rng = np.random.default_rng(0)
    pairs = np.stack([rng.integers(USERS, size=20), rng.choice(truth.item_ids, 20)], axis=1)
    bias, taste = latent_parts(truth, pairs)
    draws = (bias + taste)[:, None] + truth.noise_sd * rng.standard_normal((20, 200_000))
    mean = 1 + (draws[:, :, None] >= truth.thresholds).sum(axis=2).mean(axis=1)
    np.testing.assert_allclose(truth.expectation(pairs[:, 0], pairs[:, 1]), mean, atol=0.015)


def test_irreducible_rmse_by_brute_force(folder: Path, truth: Truth) -> None:
    squared, count = 0.0, 0
    with (folder / RATINGS_FILE).open(encoding="ascii") as file:
        next(file)
        lines = np.array([line.split(",") for line in file], dtype=np.int64)
    for part in np.array_split(lines, 7):
        errors = truth.expectation(part[:, 0], part[:, 1]).astype(float) - part[:, 2]
        squared, count = squared + float((errors**2).sum()), count + len(part)
    assert truth.irreducible_rmse == pytest.approx(math.sqrt(squared / count), abs=1e-5)


def test_taste_explains_a_third_of_what_biases_leave(truth: Truth, rows: Rows) -> None:
    """The best predictor from the planted biases alone, found without the package: bin means."""
    bias, _ = latent_parts(truth, rows)
    rating = rows[:, 2].astype(float)
    groups = np.array_split(np.argsort(bias), 200)
    left = sum(float(((rating[group] - rating[group].mean()) ** 2).sum()) for group in groups)
    mse = left / (RATINGS - len(groups))
    expected = truth.expectation(rows[:, 0], rows[:, 1])
    irreducible = float(((expected - rating) ** 2).mean())
    assert 1 - irreducible / mse == pytest.approx(1 / 3, abs=0.015)
    assert truth.taste_share == pytest.approx(1 - irreducible / mse, abs=0.005)
    assert truth.bias_rmse == pytest.approx(math.sqrt(mse), abs=0.005)
    assert 1 - mse / rating.var() == pytest.approx(1 - (1.249 / 1.688) ** 2, abs=0.02)


def test_little_bias_hides_in_the_taste(truth: Truth, rows: Rows) -> None:
    """Users like what they rate, all about as much: means of users and items explain little."""
    _, taste = latent_parts(truth, rows)
    user, item = rows[:, 0], np.searchsorted(truth.item_ids, rows[:, 1])
    of_users = np.bincount(user) / RATINGS
    assert np.abs(of_users @ truth.user_vectors).max() < 1e-6
    taste -= taste.mean()
    user_mean, item_mean = np.zeros(USERS), np.zeros(ITEMS)
    for _ in range(20):
        user_mean = np.bincount(user, taste - item_mean[item]) / np.bincount(user)
        left = np.bincount(item, taste - user_mean[user], minlength=ITEMS)
        item_mean = left / np.maximum(np.bincount(item, minlength=ITEMS), 1)
    squares = float(((taste - user_mean[user] - item_mean[item]) ** 2).sum())
    by_bias = 1 - squares / (RATINGS - USERS - ITEMS) / taste.var()
    assert 0 < by_bias < 0.08


def test_users_rate_what_they_like(truth: Truth, rows: Rows) -> None:
    _, rated = latent_parts(truth, rows)
    others = rows.copy()
    others[:, 1] = np.random.default_rng(0).permutation(rows[:, 1])  # by popularity alone
    _, any_taste = latent_parts(truth, others)
    assert abs(any_taste.mean()) < 0.02 * rated.std()
    assert rated.mean() > 0.5 * any_taste.std()


def test_chances_of_being_rated_are_those_planted(truth: Truth, rows: Rows) -> None:
    """Pairs by how probable the truth says that they are: as many as it says are there."""
    assert truth.exposure is not None
    taste = truth.user_vectors.astype(float) @ truth.item_vectors.T
    rates = truth.exposure.user_reach[:, None] + truth.exposure.item_rate
    chances = -np.expm1(-np.exp(rates + truth.exposure.strength * taste))
    there = np.zeros((USERS, ITEMS), dtype=bool)
    there[rows[:, 0], np.searchsorted(truth.item_ids, rows[:, 1])] = True
    assert chances.sum() == pytest.approx(RATINGS, rel=0.01)
    for group in np.array_split(np.argsort(chances, axis=None), 50):
        some = chances.ravel()[group]
        spread = math.sqrt(float((some * (1 - some)).sum()))
        # Counts are fixed, and the last item of each user came for sure: a little off.
        assert abs(there.ravel()[group].sum() - some.sum()) < 4 * spread + 0.01 * some.sum()
    # Taste alone, at the same popularity and reach: what a draw by popularity would not have.
    residual = there - chances
    assert abs((residual * taste).sum()) < 4 * math.sqrt((chances * (1 - chances) * taste**2).sum())


def test_ratings_follow_the_expectation(truth: Truth, rows: Rows) -> None:
    expected = truth.expectation(rows[:, 0], rows[:, 1])
    for group in np.array_split(np.argsort(expected), 20):
        spread = rows[group, 2].std() / math.sqrt(len(group))
        assert abs(rows[group, 2].mean() - expected[group].mean()) < 5 * spread


def explained(features: np.ndarray, values: np.ndarray) -> float:
    """R^2 of a linear fit, corrected for the number of features."""
    design = np.column_stack([np.ones(len(features)), features])
    left = values - design @ np.linalg.lstsq(design, values, rcond=None)[0]
    ratio = (left**2).sum() / ((values - values.mean(axis=0)) ** 2).sum()
    return float(1 - ratio * (len(design) - 1) / (len(design) - np.linalg.matrix_rank(design)))


def test_content_explains_half_of_the_taste_vectors(folder: Path, truth: Truth) -> None:
    """From the published text only: genres from their column, themes from words in the synopsis."""
    place = {str(item_id): index for index, item_id in enumerate(truth.item_ids)}
    synopses = [row for row in table(folder / SYNOPSES_FILE) if row["Genres"] != "Unknown"]
    genres = np.array([[g in row["Genres"].split(", ") for g in GENRES] for row in synopses])
    themes = np.array(
        [
            [
                any(f" {word}" in f" {row['sypnopsis'].lower()}" for part in t for word in part)
                for t in THEMES.values()
            ]
            for row in synopses
        ]
    )
    vectors = truth.item_vectors[[place[row["MAL_ID"]] for row in synopses]].astype(float)
    both = explained(np.hstack([genres, themes]), vectors)
    assert both == pytest.approx(0.5, abs=0.05)
    assert explained(genres, vectors) == pytest.approx(0.25, abs=0.05)
    assert explained(themes, vectors) == pytest.approx(0.25, abs=0.05)
    # Independent of each other: together they explain what each explains alone.
    assert both == pytest.approx(explained(genres, vectors) + explained(themes, vectors), abs=0.03)


def test_rating_curve_agrees_with_the_closed_form() -> None:
    thresholds = np.array([-2.5, -2.2, -2.0, -1.6, -1.2, -0.8, -0.2, 0.5, 1.1])
    latent = np.random.default_rng(0).uniform(-12, 12, 3_000)
    found = RatingCurve(thresholds, 0.5)(latent)
    np.testing.assert_allclose(found, expected_rating(latent, thresholds, 0.5), atol=1e-5)


# Reading the truth back.


def test_truth_survives_a_round_trip(folder: Path, truth: Truth, tmp_path: Path) -> None:
    truth.write(tmp_path / TRUTH_FILE)
    assert (tmp_path / TRUTH_FILE).read_bytes() == (folder / TRUTH_FILE).read_bytes()
    again = Truth.read(tmp_path)  # the folder will do
    assert again.seed == SEED and again.user_vectors.shape == (USERS, 8)


def test_expectation_refuses_strangers(truth: Truth) -> None:
    here = truth.item_ids[:1]
    gap = np.setdiff1d(np.arange(truth.item_ids[-1]), truth.item_ids)[:1]
    with pytest.raises(DataError, match=f"no user {USERS}"):
        truth.expectation(np.array([USERS]), here)
    with pytest.raises(DataError, match="no user -1"):
        truth.expectation(np.array([-1]), here)
    for item in (gap, truth.item_ids[-1:] + 1):
        with pytest.raises(DataError, match=f"no item {item[0]}"):
            truth.expectation(np.array([0]), item)
    with pytest.raises(DataError, match="not whole numbers"):
        truth.expectation(np.array(["0"]), here)
    with pytest.raises(ValueError, match="shapes"):
        truth.expectation(np.array([0, 1]), here)
    assert truth.expectation(np.array([], dtype=int), np.array([], dtype=int)).shape == (0,)


def test_truth_of_before_exposure_has_expectations_and_no_lists(
    folder: Path, truth: Truth, rows: Rows, tmp_path: Path
) -> None:
    value = json.loads((folder / TRUTH_FILE).read_text())
    value["version"] = 1
    for name in ("exposure_strength", "lists"):
        del value[name]
    for name in ("item_rate", "user_reach"):
        del value["arrays"][name]
    (tmp_path / TRUTH_FILE).write_text(json.dumps(value))
    older = Truth.read(tmp_path)
    pairs = rows[:100, 0], rows[:100, 1]
    assert np.array_equal(older.expectation(*pairs), truth.expectation(*pairs))
    assert older.exposure is None and older.lists is None
    assert older.planted_lists(*pairs) is None
    older.write(tmp_path / "again.json")
    assert Truth.read(tmp_path / "again.json").exposure is None


def tampered(value: dict[str, Any], name: str) -> Any:
    arrays = value["arrays"]
    changes: dict[str, Any] = {
        "version": lambda: value.update(version=99),
        "no version": lambda: value.pop("version"),
        "fewer users": lambda: value.update(users=USERS - 1),
        "no items": lambda: value.update(items=0),
        "count of a kind": lambda: value.update(ratings="many"),
        "endless": lambda: value.update(irreducible_rmse=10**400),
        "no arrays": lambda: value.pop("arrays"),
        "arrays of a kind": lambda: value.update(arrays=[]),
        "array cut off": lambda: arrays["user_bias"].update(base64="AAAA"),
        "no base64": lambda: arrays["user_bias"].update(base64="*" * 16),
        "shape": lambda: arrays["item_vectors"].update(shape=[8, ITEMS]),
        "negative shape": lambda: arrays["item_bias"].update(shape=[-1]),
        "dtype": lambda: arrays["item_ids"].update(dtype="|O"),
        "thresholds": lambda: value.update(thresholds=value["thresholds"][::-1]),
        "noise": lambda: value.update(noise_sd=-1.0),
        "no strength": lambda: value.pop("exposure_strength"),
        "no reach": lambda: arrays.pop("user_reach"),
        "rate of a kind": lambda: arrays["item_rate"].update(arrays["user_reach"]),
        "lists": lambda: value["lists"].update(oracle={"ndcg": "high"}),
    }
    return changes[name]()


@pytest.mark.parametrize(
    "name",
    [
        *("version", "no version", "fewer users", "no items", "count of a kind", "endless"),
        *("no arrays", "arrays of a kind", "array cut off", "no base64", "shape"),
        *("negative shape", "dtype", "thresholds", "noise"),
        *("no strength", "no reach", "rate of a kind", "lists"),
    ],
)
def test_tampered_truth_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    value = json.loads((folder / TRUTH_FILE).read_text())
    tampered(value, name)
    (tmp_path / TRUTH_FILE).write_text(json.dumps(value))
    with pytest.raises(DataError, match=TRUTH_FILE):
        Truth.read(tmp_path / TRUTH_FILE)


def test_missing_truth(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        Truth.read(tmp_path / TRUTH_FILE)


# Bad arguments and interruptions.


@pytest.mark.parametrize(
    ("users", "items", "ratings", "seed", "message"),
    [
        (0, 10, 10, 0, "--users 0"),
        (-3, 10, 10, 0, "--users -3"),
        (5, 1, 5, 0, "--items 1"),
        (5, 10, 0, 0, "--ratings 0"),
        (5, 10, 4, 0, "fewer than --users 5"),
        (5, 10, 51, 0, "more than the 50 pairs"),
        (5, 10, 20, -1, "--seed -1"),
    ],
)
def test_infeasible_arguments(
    tmp_path: Path, users: int, items: int, ratings: int, seed: int, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        synthesize(tmp_path / "out", users=users, items=items, ratings=ratings, seed=seed)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("users", "items", "ratings"),
    [(1, 2, 1), (1, 2, 2), (1, 50, 50), (40, 2, 40), (40, 2, 80), (7, 30, 210), (9, 30, 9)],
)
def test_extreme_counts_work(tmp_path: Path, users: int, items: int, ratings: int) -> None:
    truth = synthesize(tmp_path / "out", users=users, items=items, ratings=ratings)
    rows = np.loadtxt(tmp_path / "out" / RATINGS_FILE, delimiter=",", skiprows=1, ndmin=2)
    assert len(rows) == len(np.unique(rows[:, :2], axis=0)) == ratings
    assert len(np.unique(rows[:, 0])) == users
    read = Truth.read(tmp_path / "out")
    assert read.irreducible_rmse == truth.irreducible_rmse
    assert np.isfinite(read.expectation(rows[:, 0].astype(int), rows[:, 1].astype(int))).all()


def test_an_existing_folder_is_refused(tmp_path: Path) -> None:
    small = {"users": 5, "items": 6, "ratings": 12}
    synthesize(tmp_path / "out", **small)
    before = (tmp_path / "out" / RATINGS_FILE).read_bytes()
    with pytest.raises(UsageError, match="--overwrite"):
        synthesize(tmp_path / "out", **small, seed=1)
    assert (tmp_path / "out" / RATINGS_FILE).read_bytes() == before
    synthesize(tmp_path / "out", **small, seed=1, overwrite=True)
    assert (tmp_path / "out" / RATINGS_FILE).read_bytes() != before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(UsageError, match=TRUTH_FILE):
        synthesize(tmp_path / "mine", **small, overwrite=True)
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"


@pytest.mark.parametrize("step", ["draw_items", "_write_ratings", "_write_items"])
def test_an_interruption_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    original = getattr(synthetic, step)

    def interrupted(*arguments: Any) -> None:
        original(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(synthetic, step, interrupted)
    with pytest.raises(KeyboardInterrupt):
        synthesize(tmp_path / "out", users=5, items=6, ratings=12)
    assert list(tmp_path.iterdir()) == []


# The parts that draw.


@given(st.integers(1, 200), st.integers(2, 100), st.floats(0, 1), st.integers(0, 9))
@settings(deadline=None, max_examples=60)
def test_activity_sums_up(users: int, items: int, fill: float, seed: int) -> None:
    ratings = users + round(fill * (users * items - users))
    counts = activity(users, items, ratings, np.random.default_rng(seed))
    assert counts.sum() == ratings and counts.min() >= 1 and counts.max() <= items


@given(st.lists(st.integers(1, 1 << 21), min_size=1, max_size=50))
def test_chunks_cover_every_user_once(counts: list[int]) -> None:
    chunks = user_chunks(np.array(counts))
    assert [user for start, stop in chunks for user in range(start, stop)] == list(
        range(len(counts))
    )
    assert all(sum(counts[start:stop]) <= 1 << 20 or stop == start + 1 for start, stop in chunks)


def rates_of(items: int, tastes: np.ndarray[Any, Any], strength: float) -> Rates:
    """Rates of users of the given tastes, [U, 2]."""
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((items, 2))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    weights = popularity(items, np.random.default_rng(1))
    return Rates(weights, (strength * tastes).astype(np.float32), vectors.astype(np.float32))


@pytest.mark.parametrize("strength", [0.0, 2.0])
@pytest.mark.parametrize("want", [1, 2, 5, 25])  # of 40; of 25 most draws would be repeats
def test_items_are_drawn_by_rate_without_replacement(want: int, strength: float) -> None:
    """Against sampling by keys: how many users of each of two tastes hold each item.

    Without strength the rate is the popularity.
    """
    items, users = 40, 20_000
    tastes = np.tile([[1.0, 0.0], [-0.6, 0.8]], (users // 2, 1))
    rates = rates_of(items, tastes, strength)
    seeds = iter([np.random.default_rng(2)])
    found = draw_items(np.full(users, want), rates, seeds, no_progress).items.reshape(users, want)
    assert np.all(np.diff(found, axis=1) > 0)
    rng = np.random.default_rng(3)
    for kind in range(2):
        weights = np.log(rates.popularity) + rates.item_vectors @ rates.user_vectors[kind]
        keys = weights + rng.gumbel(size=(users // 2, items))
        reference = np.argsort(-keys, axis=1)[:, :want]
        share = np.bincount(found[kind::2].ravel(), minlength=items) / (users // 2)
        expected = np.bincount(reference.ravel(), minlength=items) / (users // 2)
        spread = np.sqrt(2 * expected * (1 - expected) / (users // 2)) + 1e-3
        assert np.all(np.abs(share - expected) < 5 * spread)


@pytest.mark.parametrize("want", [3, 30])  # of 60: by drawing, and by keys
def test_reach_gives_the_chance_of_being_drawn(want: int) -> None:
    """Of each item and kind of user: as many pairs as the chances say, within chance's spread."""
    items, users = 60, 20_000
    rates = rates_of(items, np.tile([[1.0, 0.0], [-0.6, 0.8]], (users // 2, 1)), 1.5)
    seeds = iter([np.random.default_rng(5)])
    drawn = draw_items(np.full(users, want), rates, seeds, no_progress)
    weights = rates.popularity * np.exp(rates.user_vectors @ rates.item_vectors.T.astype(float))
    chances = -np.expm1(-weights * drawn.reach[:, None])
    there = np.zeros((users, items), dtype=bool)
    there[np.repeat(np.arange(users), want), drawn.items] = True
    # The item that came last was there for sure when the user stopped, and was this one or that in
    # proportion to what rates were left; the closed form knows of no last item.
    last = weights * (1 - chances)
    last /= last.sum(axis=1, keepdims=True)
    for kind in range(2):
        some = chances[kind::2]
        off = there[kind::2].sum(axis=0) - some.sum(axis=0)
        spread = np.sqrt((some * (1 - some)).sum(axis=0))
        assert np.all(np.abs(off) < 4 * spread + last[kind::2].sum(axis=0))
        assert abs(off.sum()) < users / 2  # one item a user


def test_draws_do_not_depend_on_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draw, "_CHUNK", 100)
    counts = np.random.default_rng(0).integers(1, 30, 300)
    tastes = np.random.default_rng(1).standard_normal((300, 2))
    rates = rates_of(90, tastes, 1.0)
    threads, found = torch.get_num_threads(), []
    try:
        for at_once in (1, 3):
            torch.set_num_threads(at_once)
            seeds = (np.random.default_rng([2, part]) for part in range(len(user_chunks(counts))))
            found.append(draw_items(counts, rates, seeds, no_progress))
    finally:
        torch.set_num_threads(threads)
    assert len(user_chunks(counts)) > 10
    assert np.array_equal(found[0].items, found[1].items)
    assert np.array_equal(found[0].reach, found[1].reach)


@given(st.integers(1, 30), st.integers(2, 40), st.integers(0, 9), st.floats(0, 30))
@settings(deadline=None, max_examples=60)
def test_each_user_gets_its_number_of_distinct_items(
    users: int, items: int, seed: int, strength: float
) -> None:
    """Also of a catalogue that taste closes but for a few items."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, items + 1, users)
    angles = rng.uniform(0, 2 * math.pi, users)
    rates = rates_of(items, np.column_stack([np.cos(angles), np.sin(angles)]), strength)
    drawn = draw_items(counts, rates, iter([rng]), no_progress)
    for part in np.split(drawn.items, np.cumsum(counts)[:-1]):
        assert np.all(np.diff(part) > 0) and part[0] >= 0 and part[-1] < items
    assert np.isfinite(drawn.reach).all() and (drawn.reach > 0).all()


def test_a_user_may_rate_everything() -> None:
    rates = rates_of(500, np.zeros((3, 2)), 0.0)
    counts = np.array([500, 1, 499])
    found = draw_items(counts, rates, iter([np.random.default_rng(0)]), no_progress).items
    assert np.array_equal(found[:500], np.arange(500))
    assert len(np.unique(found[501:])) == 499


def test_tastes_are_directions_around_nothing() -> None:
    catalogue = make_catalogue(300, np.random.default_rng(0))
    weights = popularity(300, np.random.default_rng(1))
    counts = activity(200, 300, 5_000, np.random.default_rng(2))
    tastes = draw_tastes(catalogue, counts, weights, np.random.default_rng(3))
    for vectors, share in ((tastes.users, counts / 5_000), (tastes.items, weights)):
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
        assert np.abs(share @ vectors).max() < 1e-6


# The best lists.


def brute_force(
    planted: PlantedLists, unseen: float, level: int, *, interactions: bool
) -> np.ndarray[Any, Any]:
    """[U, I] chances that an unseen item is relevant, in float64 and by the definition."""
    taste = planted.user_vectors.astype(float) @ planted.item_vectors.astype(float).T
    rate = planted.user_reach[:, None].astype(float) + planted.item_rate + planted.strength * taste
    rated = 1 - np.exp(-np.exp(rate))
    latent = planted.user_bias[:, None].astype(float) + planted.item_bias + taste
    liked = np.ones_like(taste)
    if level > 1:
        liked = phi((latent - planted.thresholds[level - 2]) / planted.noise_sd)
    if interactions:
        rated, liked = rated * liked, np.ones_like(liked)
    held_out, not_rated = unseen * rated, 1 - rated
    return held_out / (held_out + not_rated) * liked


@pytest.mark.parametrize("more_likely", [0, 30, 190, ITEMS])  # none, some or all are looked at
@pytest.mark.parametrize("interactions", [False, True])
@pytest.mark.parametrize(("relevant_from", "level"), [(8, 8), (7.2, 8), (1, 1), (0, 1), (10, 10)])
def test_best_lists_are_those_of_brute_force(
    truth: Truth,
    monkeypatch: pytest.MonkeyPatch,
    relevant_from: float,
    level: int,
    interactions: bool,
    more_likely: int,
) -> None:
    monkeypatch.setattr(oracle, "_MORE_LIKELY", more_likely)
    monkeypatch.setattr(oracle, "_USERS_AT_ONCE", 23)
    users = np.arange(0, USERS, 13)
    planted = truth.planted_lists(users, truth.item_ids)
    assert planted is not None
    expected = brute_force(planted, 0.2, level, interactions=interactions)
    rng = np.random.default_rng(0)
    known = rng.random(expected.shape) < 0.3
    known[1] = True  # nothing is left
    known[2, 7:] = True
    offsets = np.concatenate([[0], np.cumsum(known.sum(axis=1))])
    left_out = ItemLists(offsets, np.nonzero(known)[1].astype(np.int32))
    expected[known] = -np.inf
    places = torch.from_numpy(rng.permutation(len(users)))
    unseen = torch.full((len(users),), 0.2)
    scores, items = planted.best(
        places, unseen, left_out, 10, relevant_from, interactions=interactions
    )
    rows = expected[places.numpy()]
    np.testing.assert_allclose(scores, -np.sort(-rows, axis=1)[:, :10], rtol=2e-5)
    found = np.take_along_axis(rows, items.numpy(), axis=1)
    np.testing.assert_allclose(found, scores, rtol=2e-5)
    assert len(np.unique(items[places == 0])) == 10


def test_relevance_beyond_the_scale_has_no_chance(truth: Truth) -> None:
    planted = truth.planted_lists(np.arange(3), truth.item_ids)
    assert planted is not None
    assert float(planted.chances(torch.arange(3), torch.full((3,), 0.1), 10.5).abs().max()) == 0


def test_rare_items_are_ordered_by_exposure_times_liking(truth: Truth) -> None:
    planted = truth.planted_lists(np.arange(50), truth.item_ids)
    assert planted is not None
    rare = replace(planted, user_reach=planted.user_reach - np.float32(9.0))
    taste = planted.user_vectors.astype(float) @ planted.item_vectors.T
    exposure = np.exp(planted.item_rate + planted.strength * taste)
    latent = planted.user_bias[:, None].astype(float) + planted.item_bias + taste
    liked = phi((latent - planted.thresholds[6]) / planted.noise_sd)
    chances = rare.chances(torch.arange(50), torch.full((50,), 0.1), 8).numpy()
    ratio = chances / (exposure * liked)
    np.testing.assert_allclose(ratio / ratio[:, :1], 1.0, rtol=2e-3)


def held_out_rows(
    truth: Truth, rows: Rows
) -> tuple[ItemLists, np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Known items, bool [U, I] of relevant held-out ones, and each user's unseen share."""
    item = np.searchsorted(truth.item_ids, rows[:, 1])
    held = np.random.default_rng(4).random(len(rows)) < 0.1
    known = np.zeros((USERS, ITEMS), dtype=bool)
    known[rows[~held, 0], item[~held]] = True
    relevant = np.zeros((USERS, ITEMS), dtype=bool)
    wanted = held & (rows[:, 2] >= 8)
    relevant[rows[wanted, 0], item[wanted]] = True
    offsets = np.concatenate([[0], np.cumsum(known.sum(axis=1))])
    lists = ItemLists(offsets, np.nonzero(known)[1].astype(np.int32))
    return lists, relevant, 1 - known.sum(axis=1) / np.bincount(rows[:, 0])


def mean_ndcg(relevant: np.ndarray[Any, Any], items: np.ndarray[Any, Any]) -> float:
    """Over users with a relevant item, written out."""
    values = []
    for user in np.flatnonzero(relevant.any(axis=1)):
        gains = [1 / math.log2(rank + 2) for rank in range(10) if relevant[user, items[user, rank]]]
        ideal = sum(1 / math.log2(rank + 2) for rank in range(min(10, relevant[user].sum())))
        values.append(sum(gains) / ideal)
    return float(np.mean(values))


def test_nothing_beats_the_best_lists(truth: Truth, rows: Rows) -> None:
    """Against popularity and the oracle with a mistake of each kind, on the same users."""
    left_out, relevant, unseen = held_out_rows(truth, rows)
    planted = truth.planted_lists(np.arange(USERS), truth.item_ids)
    assert planted is not None
    users = torch.arange(USERS)

    def reached(planted: PlantedLists, relevant_from: float = 8) -> float:
        share = torch.from_numpy(unseen.astype(np.float32)).clamp(min=1e-3)
        _, items = planted.best(users, share, left_out, 10, relevant_from)
        return mean_ndcg(relevant, items.numpy())

    rng = np.random.default_rng(5)

    def noise(values: np.ndarray[Any, Any], size: float) -> np.ndarray[Any, Any]:
        return (values + size * values.std() * rng.standard_normal(values.shape)).astype(np.float32)

    best = reached(planted)
    mistakes = {
        "any rating counts": reached(planted, relevant_from=1),
        "exposure without taste": reached(replace(planted, strength=0.0)),
        "too much taste": reached(replace(planted, strength=2 * planted.strength)),
        "users mistaken": reached(replace(planted, user_vectors=noise(planted.user_vectors, 0.5))),
        "items mistaken": reached(replace(planted, item_vectors=noise(planted.item_vectors, 0.5))),
        "biases mistaken": reached(replace(planted, item_bias=noise(planted.item_bias, 1.0))),
        "rates mistaken": reached(replace(planted, item_rate=noise(planted.item_rate, 0.5))),
    }
    assert all(value < best for value in mistakes.values()), (best, mistakes)
    counts = np.bincount(left_out.items, minlength=ITEMS)
    known = np.zeros((USERS, ITEMS), dtype=bool)
    known[np.repeat(np.arange(USERS), np.diff(left_out.offsets)), left_out.items] = True
    popular = np.argsort(np.where(known, 1, -counts), axis=1, kind="stable")[:, :10]
    assert best > 2.2 * mean_ndcg(relevant, popular)


def test_the_file_says_what_the_lists_reach(truth: Truth, rows: Rows) -> None:
    """Another tenth of the same ratings, measured without the package's own figures."""
    lists = truth.lists
    assert lists is not None and (lists.k, lists.held_out, lists.relevant_from) == (10, 0.1, 8)
    left_out, relevant, unseen = held_out_rows(truth, rows)
    planted = truth.planted_lists(np.arange(USERS), truth.item_ids)
    assert planted is not None
    share = torch.from_numpy(unseen.astype(np.float32)).clamp(min=1e-3)
    _, items = planted.best(torch.arange(USERS), share, left_out, 10, 8)
    assert lists.oracle["ndcg"] == pytest.approx(mean_ndcg(relevant, items.numpy()), abs=0.03)
    assert 2.2 < lists.oracle["ndcg"] / lists.popularity["ndcg"] < 4
    assert 0 < lists.popularity["recall"] < lists.oracle["recall"] < 1
    assert abs(lists.users - relevant.any(axis=1).sum()) < 0.05 * USERS


def test_figures_of_a_list_by_hand() -> None:
    relevant = np.array([4, 9, 2], dtype=np.int32)
    ndcg, recall = list_figures(np.array([9, 1, 2, 5]), relevant, 4)
    assert ndcg == pytest.approx((1 + 1 / 2) / (1 + 1 / math.log2(3) + 1 / 2))
    assert recall == pytest.approx(2 / 3)
    assert list_figures(np.array([4, 2]), relevant, 2) == pytest.approx((1.0, 1.0))
    assert list_figures(np.array([7, 8]), relevant, 2) == (0.0, 0.0)


def test_without_a_relevant_held_out_rating_there_are_no_reference_lists(tmp_path: Path) -> None:
    truth = synthesize(tmp_path / "out", users=1, items=2, ratings=1)
    assert truth.lists is None
    assert Truth.read(tmp_path / "out").lists is None
