"""What is planted beside ratings is there, is as strong as said, and costs nothing elsewhere."""

import hashlib
import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dglrec.dataset import PrepareOptions, prepare
from dglrec.errors import DataError, UsageError
from dglrec.kernels.transitions import follow_transitions, space_sessions
from dglrec.synthetic import (
    ITEMS_FILE,
    RATINGS_FILE,
    STUDIOS_FILE,
    SYNOPSES_FILE,
    TRUST_FILE,
    TRUTH_FILE,
    USERS_FILE,
    Planting,
    Truth,
    draw,
    synthesize,
    worth,
)
from dglrec.synthetic.circles import draw_circles
from dglrec.synthetic.drift import PERIOD, START
from dglrec.synthetic.sequence import SESSION_GAP
from dglrec.synthetic.truth import expected_rating

USERS, ITEMS, RATINGS, SEED = 300, 200, 9_000, 3
EDGES = 2_400

EVERYTHING = Planting(
    trust=EDGES,
    homophily=0.6,
    user_attributes=True,
    attribute_effect=0.3,
    studios=True,
    studio_effect=0.6,
    drift=1.5,
    sessions=True,
    transitions=0.5,
)
NO_EFFECT = Planting(
    trust=EDGES,
    homophily=0.0,
    user_attributes=True,
    attribute_effect=0.0,
    studios=True,
    studio_effect=0.0,
    drift=0.0,
    sessions=True,
    transitions=0.0,
)


def made(folder: Path, planting: Planting | None, **changes: Any) -> Path:
    counts = {"users": USERS, "items": ITEMS, "ratings": RATINGS, "seed": SEED} | changes
    synthesize(folder, planting=planting, **counts)
    return folder


@pytest.fixture(scope="module", autouse=True)
def few_targets() -> Any:
    """A sample that takes no time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worth, "_TARGETS", 60)
        patch.setattr(worth, "_SAMPLE", 1 << 13)
        yield


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("plain") / "data", None)


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("everything") / "data", EVERYTHING)


@pytest.fixture(scope="module")
def no_effect(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("nothing") / "data", NO_EFFECT)


def planted(folder: Path) -> dict[str, Any]:
    value = Truth.read(folder).planted
    assert value is not None
    return value


# Without switches, and with strengths of 0.


def test_bytes_without_switches_are_what_they_were(plain: Path) -> None:
    digests = {
        RATINGS_FILE: "b18d7e2550bc52dbb74ef47286cc40754751a6e4e6fcd8ef543fa3b2937d0bbf",
        ITEMS_FILE: "30ad4e83bd26b6ef5f5b8f3f5e99a1143b91dca88992acecf5ac6cf5bc8c96d1",
    }
    for name, digest in digests.items():
        assert hashlib.sha256((plain / name).read_bytes()).hexdigest() == digest
    assert {path.name for path in plain.iterdir()} == {
        *(RATINGS_FILE, ITEMS_FILE, SYNOPSES_FILE, TRUTH_FILE)
    }
    value = json.loads((plain / TRUTH_FILE).read_text())
    assert value["version"] == 2 and "planted" not in value


def test_without_strength_ratings_are_those_without_a_relation(
    plain: Path, no_effect: Path
) -> None:
    for name in (ITEMS_FILE, SYNOPSES_FILE):
        assert (no_effect / name).read_bytes() == (plain / name).read_bytes()
    before, after = pd.read_csv(plain / RATINGS_FILE), pd.read_csv(no_effect / RATINGS_FILE)
    assert list(after.columns) == [*before.columns, "timestamp"]
    pd.testing.assert_frame_equal(after[before.columns], before)
    truth, other = Truth.read(plain), Truth.read(no_effect)
    assert np.array_equal(truth.user_vectors, other.user_vectors)
    assert np.array_equal(truth.user_bias, other.user_bias)
    assert np.array_equal(truth.item_vectors, other.item_vectors)
    # Who rates what has its closed form still, so the best lists are known.
    assert other.lists == truth.lists is not None and other.drift is None


def test_without_strength_a_relation_is_worth_nothing(no_effect: Path) -> None:
    found = planted(no_effect)
    assert {*found} == {*("trust", "user_attributes", "studios", "timestamps", "drift", "sessions")}
    for name in ("trust", "user_attributes", "studios", "drift"):
        assert found[name]["worth"]
        assert all(row["rmse_with"] == row["rmse_without"] for row in found[name]["worth"])
    figures = found["sessions"]["next_item"]
    assert figures["transitions"] == figures["taste"]


@pytest.mark.parametrize("planting", [EVERYTHING, NO_EFFECT])
def test_bytes_do_not_depend_on_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, planting: Planting
) -> None:
    monkeypatch.setattr(draw, "_CHUNK", 700)
    monkeypatch.setattr(worth, "_TARGETS", 8)
    threads = torch.get_num_threads()
    small = {"users": 90, "items": 60, "ratings": 2_000}
    planting = replace(planting, trust=300)
    try:
        for at_once in (1, 3):
            torch.set_num_threads(at_once)
            made(tmp_path / str(at_once), planting, **small)
    finally:
        torch.set_num_threads(threads)
    for path in (tmp_path / "1").iterdir():
        assert path.read_bytes() == (tmp_path / "3" / path.name).read_bytes()


# What is planted, measured on what is written.


def cosines(vectors: np.ndarray, left: Any, right: Any) -> float:
    return float(
        ((vectors[left] * vectors[right]).sum(axis=1) / (vectors**2).sum(axis=1)[left]).mean()
    )


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0.0), (0.6, 0.6)])
def test_who_trusts_each_other_has_alike_tastes_and_biases(
    tmp_path: Path, share: float, expected: float
) -> None:
    planting = Planting(trust=3_000, homophily=share)
    truth = Truth.read(made(tmp_path / "data", planting, users=600))
    edges = pd.read_csv(tmp_path / "data" / TRUST_FILE)
    assert len(edges) == 3_000 == len(edges.drop_duplicates())
    assert (edges.user_id != edges.to_user_id).all() and edges.to_numpy().max() < 600
    vectors = truth.user_vectors.astype(float)
    assert cosines(vectors, edges.user_id, edges.to_user_id) == pytest.approx(expected, abs=0.08)
    others = np.random.default_rng(0).permutation(edges.to_user_id)
    assert cosines(vectors, edges.user_id, others) == pytest.approx(0.0, abs=0.05)
    bias = np.corrcoef(truth.user_bias[edges.user_id], truth.user_bias[edges.to_user_id])[0, 1]
    assert bias == pytest.approx(expected, abs=0.15)
    # Neither all trust alike, nor are all trusted alike.
    assert np.bincount(edges.to_user_id, minlength=600).std() > 2


@given(st.integers(2, 60), st.floats(0, 1), st.integers(0, 5))
@settings(deadline=None, max_examples=40)
def test_so_many_edges_are_drawn_within_circles(users: int, fill: float, seed: int) -> None:
    edges = 1 + round(fill * (users * (users - 1) - 1))
    circles = draw_circles(users, edges, np.random.default_rng(seed))
    pairs = np.stack([circles.sources, circles.targets], axis=1)
    assert len(pairs) == edges == len(np.unique(pairs, axis=0))
    assert (circles.sources != circles.targets).all()
    assert pairs.min() >= 0 and pairs.max() < users
    assert np.array_equal(circles.of_user[circles.sources], circles.of_user[circles.targets])


def explained(columns: np.ndarray, values: np.ndarray) -> float:
    """R^2 of a linear fit, corrected for the number of columns."""
    design = np.column_stack([np.ones(len(columns)), columns])
    left = values - design @ np.linalg.lstsq(design, values, rcond=None)[0]
    ratio = (left**2).sum() / ((values - values.mean(axis=0)) ** 2).sum()
    return float(1 - ratio * (len(design) - 1) / (len(design) - np.linalg.matrix_rank(design)))


def test_age_and_occupation_say_what_they_should_and_gender_nothing(tmp_path: Path) -> None:
    planting = Planting(user_attributes=True, attribute_effect=0.6)
    truth = Truth.read(made(tmp_path / "data", planting, users=2_000, ratings=20_000))
    table = pd.read_csv(tmp_path / "data" / USERS_FILE)
    assert list(table.columns) == ["user_id", "age", "gender", "occupation"]
    assert np.array_equal(table.user_id, np.arange(2_000)) and table.age.nunique() > 32
    curve = np.polynomial.legendre.legvander((table.age - 40) / 40, 3)[:, 1:]
    labels = pd.get_dummies(table.occupation).to_numpy(float)
    # Directions are of length 1, so that users far from the mean age are less far in taste.
    for values in (truth.user_vectors.astype(float), truth.user_bias[:, None].astype(float)):
        assert explained(np.c_[curve, labels], values) == pytest.approx(0.57, abs=0.08)
        assert explained(curve, values) == pytest.approx(0.27, abs=0.08)
        assert explained(labels, values) == pytest.approx(0.3, abs=0.08)
        assert abs(explained((table.gender == "male").to_numpy(float)[:, None], values)) < 0.01


def test_studios_are_many_of_few_items_and_say_what_they_should(tmp_path: Path) -> None:
    planting = Planting(studios=True, studio_effect=0.5)
    truth = Truth.read(made(tmp_path / "data", planting, items=1_500))
    table = pd.read_csv(tmp_path / "data" / STUDIOS_FILE)
    assert np.array_equal(table.item_id, truth.item_ids)
    assert 150 < table.studio.nunique() <= 250
    labels = pd.get_dummies(table.studio).to_numpy(float)
    assert explained(labels, truth.item_vectors.astype(float)) == pytest.approx(0.5, abs=0.06)
    rated = np.bincount(
        np.searchsorted(truth.item_ids, pd.read_csv(tmp_path / "data" / RATINGS_FILE).anime_id),
        minlength=1_500,
    )
    assert rated.max() < RATINGS
    assert explained(labels, truth.item_bias[:, None].astype(float)) == pytest.approx(0.5, abs=0.1)


def test_tastes_turn_and_ratings_follow(tmp_path: Path) -> None:
    folder = made(tmp_path / "data", Planting(drift=2.0), users=400, ratings=20_000)
    truth, rows = Truth.read(folder), pd.read_csv(folder / RATINGS_FILE)
    assert truth.drift is not None and truth.planted_lists(np.arange(3), truth.item_ids) is None
    assert rows.timestamp.between(START, START + PERIOD).all()
    users, items = rows.user_id.to_numpy(), np.searchsorted(truth.item_ids, rows.anime_id)
    at = 2.0 * (math.pi / 2) * ((rows.timestamp.to_numpy() - START) / PERIOD - 0.5)
    vectors, turns = truth.user_vectors.astype(float), truth.drift.turns.astype(float)
    np.testing.assert_allclose((vectors * turns).sum(axis=1), 0, atol=1e-6)
    np.testing.assert_allclose((vectors**2).sum(axis=1), (turns**2).sum(axis=1), rtol=1e-4)
    tastes = np.cos(at)[:, None] * vectors[users] + np.sin(at)[:, None] * turns[users]
    latent = truth.user_bias[users] + truth.item_bias[items].astype(float)
    latent += (tastes * truth.item_vectors[items]).sum(axis=1)
    expected = expected_rating(latent[:2_000], truth.thresholds, truth.noise_sd)
    found = truth.expectation(users, rows.anime_id.to_numpy(), rows.timestamp.to_numpy())
    np.testing.assert_allclose(found[:2_000], expected, atol=1e-4)
    errors = found - rows.rating.to_numpy()
    assert math.sqrt((errors**2).mean()) == pytest.approx(truth.irreducible_rmse, abs=1e-4)
    # The turn is of the rating's own time: with other times the errors are larger.
    other = np.random.default_rng(0).permutation(rows.timestamp.to_numpy())
    mistaken = truth.expectation(users, rows.anime_id.to_numpy(), other) - rows.rating.to_numpy()
    assert (mistaken**2).mean() > 1.1 * (errors**2).mean()
    # Users meet what they like at the time.
    turned = (turns[users] * truth.item_vectors[items]).sum(axis=1)
    late = rows.timestamp > START + 0.75 * PERIOD
    assert turned[late].mean() > 0.2 * turned.std()
    with pytest.raises(DataError, match="no timestamps"):
        truth.expectation(users, rows.anime_id.to_numpy())
    with pytest.raises(ValueError, match="timestamps of shape"):
        truth.expectation(users, rows.anime_id.to_numpy(), np.zeros(3, dtype=np.int64))


def in_sessions(folder: Path) -> tuple[np.ndarray, np.ndarray, pd.DataFrame]:
    """Items of consecutive ratings of one session: before, after; and all rows in their order."""
    truth, rows = Truth.read(folder), pd.read_csv(folder / RATINGS_FILE)
    rows = rows.assign(item=np.searchsorted(truth.item_ids, rows.anime_id))
    rows = rows.sort_values(["user_id", "timestamp"], kind="stable")
    same = (rows.user_id.diff() == 0) & (rows.timestamp.diff() < SESSION_GAP)
    after = np.flatnonzero(same.to_numpy())
    items = rows["item"].to_numpy()
    return items[after - 1], items[after], rows


@pytest.mark.parametrize("chance", [0.0, 0.6])
def test_items_follow_each_other_as_planted(tmp_path: Path, chance: float) -> None:
    folder = made(tmp_path / "data", Planting(sessions=True, transitions=chance), items=400)
    before, after, rows = in_sessions(folder)
    assert len(rows.drop_duplicates(["user_id", "anime_id"])) == RATINGS
    assert len(before) == pytest.approx(5 / 6 * (RATINGS - USERS), rel=0.03)
    pauses = rows.timestamp.diff()[
        (rows.user_id.diff() == 0) & (rows.timestamp.diff() >= SESSION_GAP)
    ]
    assert pauses.min() >= 2 * 3600
    transitions = Truth.read(folder).transitions
    assert transitions is not None and transitions.strength == chance
    follows = (transitions.successors[before] == after[:, None]).any(axis=1).mean()
    by_chance = (
        transitions.successors[np.random.default_rng(0).permutation(before)] == after[:, None]
    )
    # Some users have met all four successors, and some meet one by chance.
    assert follows == pytest.approx(chance + (1 - chance) * by_chance.any(axis=1).mean(), abs=0.03)
    figures = planted(folder)["sessions"]["next_item"]
    assert figures["users"] > 0
    assert figures["popularity"]["hit_rate"] <= figures["taste"]["hit_rate"] + 0.1
    if chance:
        assert figures["transitions"]["hit_rate"] > chance
        assert figures["transitions"]["ndcg"] > figures["taste"]["ndcg"] + 0.25


def follow_slowly(case: dict[str, Any]) -> np.ndarray:
    items = case["items"].copy()
    for start, stop in pairwise(case["offsets"]):
        mine = items[start:stop].tolist()
        for place in range(1, len(mine)):
            if not case["continues"][start + place]:
                continue
            if case["uniforms"][start + place, 0] >= case["strength"]:
                continue
            choices = [
                (item, weight)
                for item, weight in zip(
                    case["successors"][mine[place - 1]].tolist(), case["weights"], strict=True
                )
                if item not in mine[:place]
            ]
            if not choices:
                continue
            sums = np.cumsum([weight for _, weight in choices])
            wanted = case["uniforms"][start + place, 1] * sums[-1]
            item = choices[min(int((sums <= wanted).sum()), len(choices) - 1)][0]
            if item in mine[place:]:
                later = mine.index(item)
                mine[place], mine[later] = mine[later], mine[place]
            else:
                mine[place] = item
        items[start:stop] = mine
    return items


@given(st.integers(0, 40), st.integers(3, 12), st.integers(0, 50))
@settings(deadline=None, max_examples=60)
def test_following_transitions_is_what_it_says(users: int, items: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, items + 1, users)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    rows = [rng.permutation(items)[:count] for count in counts]
    continues = rng.random(offsets[-1]) < 0.8
    continues[offsets[:-1][counts > 0]] = False
    width = int(rng.integers(1, min(items, 4)))
    successors = np.array(
        [rng.permutation(np.delete(np.arange(items), item))[:width] for item in range(items)]
    )
    case = {
        "offsets": offsets,
        "items": np.concatenate([np.empty(0), *rows]).astype(np.int32),
        "continues": continues,
        "uniforms": rng.random((offsets[-1], 2)),
        "successors": successors.astype(np.int32),
        "weights": rng.random(width) + 0.1,
        "strength": 0.7,
    }
    expected = follow_slowly(case)
    follow_transitions(**case)
    assert np.array_equal(case["items"], expected)
    for start, stop in pairwise(offsets):
        assert len(np.unique(expected[start:stop])) == stop - start


def test_what_does_not_fit_is_refused_before_a_compiled_loop_reads_it() -> None:
    case: dict[str, Any] = {
        "offsets": np.array([0, 2, 3]),
        "items": np.array([0, 1, 2], dtype=np.int32),
        "continues": np.array([False, True, False]),
        "uniforms": np.zeros((3, 2)),
        "successors": np.array([[1], [2], [0]], dtype=np.int32),
        "weights": np.ones(1),
        "strength": 0.5,
    }
    follow_transitions(**case)
    for change in (
        {"offsets": np.array([0, 2, 4])},
        {"items": np.array([0, 1, 3], dtype=np.int32)},
        {"successors": np.array([[1], [-1], [0]], dtype=np.int32)},
        {"continues": np.array([False, True, True])},
        {"uniforms": np.zeros((2, 2))},
        {"weights": np.ones(2)},
    ):
        with pytest.raises(ValueError):
            follow_transitions(**(case | change))
    times = np.array([5, 6, 7])
    space_sessions(case["offsets"], case["continues"], times, np.array([0, 9, 0]), 100)
    assert times.tolist() == [5, 14, 7]
    with pytest.raises(ValueError):
        space_sessions(case["offsets"], case["continues"], times, np.array([0, 9]), 100)


# What it is worth.


def test_worth_is_larger_the_less_is_known(everything: Path) -> None:
    for name in ("trust", "user_attributes", "studios"):
        rows = planted(everything)[name]["worth"]
        gains = [row["rmse_without"] - row["rmse_with"] for row in rows]
        assert [row["known"] for row in rows][:3] == [0, 1, 2] and rows[-1]["known"] is None
        assert gains[0] > 0.02 and gains[0] > gains[-1]
    last = planted(everything)["drift"]["worth"][-1]
    assert last["rmse_without"] > last["rmse_with"]


def test_the_estimate_is_that_of_the_joint_normal_distribution(everything: Path) -> None:
    """A user and those it trusts, all unknowns at once, conditioned on all their ratings."""
    truth = Truth.read(everything)
    rows = pd.read_csv(everything / RATINGS_FILE)
    counts = np.bincount(rows.user_id, minlength=USERS)
    model: Any = _model_of(truth)
    drawn = worth.Drawn(
        np.concatenate([[0], np.cumsum(counts)]),
        np.searchsorted(truth.item_ids, rows.anime_id).astype(np.int32),
        rows.rating.to_numpy().astype(np.int8),
        rows.timestamp.to_numpy(),
    )
    edges = pd.read_csv(everything / TRUST_FILE)
    group = worth.Group(edges.user_id.to_numpy(), edges.to_user_id.to_numpy())
    target = int(edges.user_id[0])
    estimate = worth.Estimate(
        model,
        drawn,
        worth.UserSide(model, drawn),
        part=None,
        group=group,
        targets=np.array([target]),
        rng=np.random.default_rng(0),
    )
    mates = group.mates_of(target)
    assert len(mates) > 2
    mean, variance = estimate._prior(target, part=True, group=True)
    own, common = np.diag(estimate._own_variance), np.diag(estimate._common_variance)
    size = len(own)
    # Before: covariance of the target and its mates, who share `common`.
    joint = np.kron(np.eye(len(mates) + 1), own) + np.kron(
        np.ones((len(mates) + 1, len(mates) + 1)), common
    )
    precision, pull = np.linalg.inv(joint), np.zeros(len(joint))
    for place, mate in enumerate(mates, start=1):
        part = slice(place * size, (place + 1) * size)
        information, of_mate = estimate._evidence_of(int(mate))
        precision[part, part] += information
        pull[part] += of_mate
    after = np.linalg.inv(precision)
    np.testing.assert_allclose(variance, after[:size, :size], atol=1e-8)
    np.testing.assert_allclose(mean, (after @ pull)[:size], atol=1e-8)


def _model_of(truth: Truth) -> Any:
    from dglrec.synthetic.planted import PlantedModel

    return PlantedModel(
        user_bias=truth.user_bias,
        user_vectors=truth.user_vectors,
        item_bias=truth.item_bias,
        item_vectors=truth.item_vectors,
        thresholds=truth.thresholds,
        noise_sd=truth.noise_sd,
        tastes=np.empty(0),
        taste_scale=1.0,
        drift=truth.drift,
    )


# The truth as a file, and prepared data.


def test_truth_with_relations_survives_a_round_trip(everything: Path, tmp_path: Path) -> None:
    truth = Truth.read(everything)
    assert truth.exposure is None and truth.lists is None
    truth.write(tmp_path / TRUTH_FILE)
    assert (tmp_path / TRUTH_FILE).read_bytes() == (everything / TRUTH_FILE).read_bytes()


@pytest.mark.parametrize("name", ["turns", "no turns", "successors", "weights", "planted"])
def test_tampered_relations_are_refused(everything: Path, tmp_path: Path, name: str) -> None:
    value = json.loads((everything / TRUTH_FILE).read_text())
    arrays = value["arrays"]
    {
        "turns": lambda: arrays["user_turns"].update(arrays["item_vectors"]),
        "no turns": lambda: arrays.pop("user_turns"),
        "successors": lambda: arrays["successors"].update(
            base64=arrays["successors"]["base64"][:-4] + "////"
        ),
        "weights": lambda: value["transition_weights"].pop(),
        "planted": lambda: value.update(planted=3),
    }[name]()
    (tmp_path / TRUTH_FILE).write_text(json.dumps(value))
    with pytest.raises(DataError, match=TRUTH_FILE):
        Truth.read(tmp_path)


def test_prepare_takes_all_of_it(everything: Path, tmp_path: Path) -> None:
    dataset = prepare(
        everything,
        tmp_path / "data",
        PrepareOptions(
            split="time",
            text=False,
            relation={"trusts": everything / TRUST_FILE},
            user_table=everything / USERS_FILE,
            item_table=everything / STUDIOS_FILE,
        ),
    )
    assert dataset.relations["trusts"].forward.offsets[-1] == EDGES
    assert {*dataset.user_feature_widths} == {"age", "gender", "occupation"}
    assert "studio" in dataset.attributes and dataset.planted is None
    rows = pd.read_csv(everything / RATINGS_FILE)
    held_out = pd.read_parquet(tmp_path / "data" / "test.parquet")
    latest = rows.sort_values("timestamp").tail(len(held_out))
    truth = Truth.read(everything)
    expected = truth.expectation(
        latest.user_id.to_numpy(), latest.anime_id.to_numpy(), latest.timestamp.to_numpy()
    )
    np.testing.assert_allclose(np.sort(held_out.expected), np.sort(expected), atol=1e-5)


@pytest.mark.parametrize(
    ("planting", "message"),
    [
        (Planting(homophily=0.5), "--homophily: goes with --trust"),
        (Planting(attribute_effect=0.5), "goes with --user-attributes"),
        (Planting(studio_effect=0.5), "goes with --studios"),
        (Planting(transitions=0.5), "goes with --sessions"),
        (Planting(trust=10, homophily=1.0), "--homophily 1: must be"),
        (Planting(studios=True, studio_effect=-0.1), "--studio-effect -0.1: must be"),
        (Planting(drift=-1.0), "--drift -1: must be"),
        (Planting(drift=math.nan), "--drift nan: must be"),
        (Planting(trust=0), "--trust 0: must be"),
        (Planting(trust=91), "--trust 91: must be from 1 to the 90 pairs"),
        (Planting(trust=9, homophily=0.6, user_attributes=True), "less than 1 together"),
        (Planting(sessions=True), "three items"),
    ],
)
def test_what_cannot_be_planted_is_refused(
    tmp_path: Path, planting: Planting, message: str
) -> None:
    items = 2 if planting.sessions else 5
    with pytest.raises(UsageError, match=message):
        synthesize(tmp_path / "out", users=10, items=items, ratings=20, planting=planting)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("users", "items", "ratings"), [(2, 3, 2), (40, 3, 120), (7, 30, 210)])
def test_extreme_counts_work(tmp_path: Path, users: int, items: int, ratings: int) -> None:
    planting = replace(EVERYTHING, trust=users)
    synthesize(tmp_path / "out", users=users, items=items, ratings=ratings, planting=planting)
    rows = pd.read_csv(tmp_path / "out" / RATINGS_FILE)
    assert len(rows) == len(rows.drop_duplicates(["user_id", "anime_id"])) == ratings
    truth = Truth.read(tmp_path / "out")
    found = truth.expectation(
        *(rows[name].to_numpy() for name in ("user_id", "anime_id", "timestamp"))
    )
    assert np.isfinite(found).all()
