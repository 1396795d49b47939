"""Metrics against numpy and loops over rows; sums of parts against the whole."""

import itertools
import math
from dataclasses import astuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dglrec.distributed import World
from dglrec.metrics import (
    RANKING_METRICS,
    ListSums,
    RankingSums,
    RatingSums,
    class_weights,
    clip,
    gini,
    level_of,
    ranking_sums,
    rating_sums,
)
from dglrec.schema import RatingScale

TEN, HALVES = RatingScale(1, 10), RatingScale(0.5, 5, 0.5)
TENTHS, WIDE = RatingScale(1, 5, 0.1), RatingScale(-10, 300)
SCALES = [TEN, HALVES, TENTHS, WIDE]


@st.composite
def rows(draw, min_size=1):
    """Predictions (some far off the scale), ratings on it, and training counts (some 0)."""
    scale = draw(st.sampled_from(SCALES))
    n = draw(st.integers(min_size, 40))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    ratings = scale.decode(generator.integers(0, scale.levels, n))
    spread = scale.maximum - scale.minimum
    predictions = generator.uniform(scale.minimum - spread / 2, scale.maximum + spread / 2, n)
    counts = generator.integers(0, 50, scale.levels)
    counts[generator.integers(0, scale.levels)] += 1
    return scale, torch.from_numpy(predictions).float(), torch.from_numpy(ratings), counts


def brute_force(scale, predictions, ratings, counts):
    squared, absolute, weights, exact = [], [], [], 0
    for prediction, rating in zip(predictions.tolist(), ratings.tolist(), strict=True):
        prediction = min(max(prediction, scale.minimum), scale.maximum)
        level = round((rating - scale.minimum) / scale.step)
        squared.append((prediction - rating) ** 2)
        absolute.append(abs(prediction - rating))
        weights.append(max(counts) / max(counts[level], 1))
        exact += math.floor((prediction - scale.minimum) / scale.step + 0.5) == level
    weights = np.array(weights) / np.mean(weights)  # normalised to mean 1
    return {
        "rmse": math.sqrt(np.mean(squared)),
        "mae": np.mean(absolute),
        "weighted_rmse": math.sqrt(np.mean(weights * squared)),
        "accuracy": exact / len(ratings),
        "n": len(ratings),
    }


@given(rows())
def test_rating_metrics_are_those_of_a_loop_over_rows(given_rows):
    scale, predictions, ratings, counts = given_rows
    found = rating_sums(predictions, ratings, scale, class_weights(counts)).finish()
    assert found == pytest.approx(brute_force(*given_rows), rel=1e-5, abs=1e-9)
    assert isinstance(found["n"], int)


@given(rows(), st.lists(st.integers(0, 40), max_size=4))
def test_sums_of_parts_are_the_sums_of_the_whole(given_rows, cuts):
    scale, predictions, ratings, counts = given_rows
    weights = class_weights(counts)
    whole = rating_sums(predictions, ratings, scale, weights)
    ends = [0, *sorted(min(cut, len(ratings)) for cut in cuts), len(ratings)]
    parts = sum(  # empty parts among them
        (
            rating_sums(predictions[a:b], ratings[a:b], scale, weights)
            for a, b in itertools.pairwise(ends)
        ),
        start=RatingSums(),
    )
    assert astuple(parts) == pytest.approx(astuple(whole), rel=1e-9)


def test_known_answers():
    counts = np.array([0, 0, 0, 0, 5, 10, 40, 0, 2, 0])
    predictions = torch.tensor([6.5, 7.0, 12.0, -3.0])
    ratings = torch.tensor([7.0, 5.0, 9.0, 5.0])  # errors -0.5, 2, 1 (10 - 9), -4 (1 - 5)
    found = rating_sums(predictions, ratings, TEN, class_weights(counts)).finish()
    assert found["rmse"] == pytest.approx(math.sqrt((0.25 + 4 + 1 + 16) / 4))
    assert found["mae"] == pytest.approx((0.5 + 2 + 1 + 4) / 4)
    # Weights 40/40, 40/5, 40/2, 40/5.
    weighted = (1 * 0.25 + 8 * 4 + 20 * 1 + 8 * 16) / (1 + 8 + 20 + 8)
    assert found["weighted_rmse"] == pytest.approx(math.sqrt(weighted))
    assert found["accuracy"] == 0.25


def test_weights_are_the_most_frequent_count_over_each():
    found = class_weights(np.array([4, 0, 1, 8]))
    assert found.dtype == torch.float32
    assert found.tolist() == [2, 8, 8, 1]  # never seen counts as seen once
    assert class_weights(np.zeros(3, dtype=np.int64)).tolist() == [1, 1, 1]


@given(rows())
def test_equal_counts_weigh_as_no_weights(given_rows):
    scale, predictions, ratings, _ = given_rows
    weights = class_weights(np.full(scale.levels, 7))
    found = rating_sums(predictions, ratings, scale, weights).finish()
    assert found["weighted_rmse"] == pytest.approx(found["rmse"])


@pytest.mark.parametrize(
    ("scale", "value", "level"),
    [
        (TEN, 1.0, 0),
        (TEN, 1.499, 0),
        (TEN, 1.5, 1),
        (TEN, 2.5, 2),  # up, where rounding to even would go down
        (TEN, 9.5, 9),
        (HALVES, 0.5, 0),
        (HALVES, 0.75, 1),
        (HALVES, 1.25, 2),
        (HALVES, 1.2499, 1),
        (HALVES, 3.25, 6),
        (HALVES, 5.0, 9),
        (WIDE, -10.0, 0),
        (WIDE, -9.5, 1),
        (WIDE, -0.5, 10),
    ],
)
def test_a_half_step_rounds_up(scale, value, level):
    assert level_of(torch.tensor([value]), scale).tolist() == [level]
    assert level_of(torch.tensor([value]).double(), scale).tolist() == [level]


@pytest.mark.parametrize("scale", SCALES)
def test_every_value_of_the_scale_is_its_own_level(scale):
    codes = np.arange(scale.levels)
    ratings = torch.from_numpy(scale.decode(codes))
    assert level_of(ratings, scale).tolist() == codes.tolist()
    assert level_of(ratings.double(), scale).tolist() == codes.tolist()
    perfect = rating_sums(ratings, ratings, scale, torch.ones(scale.levels)).finish()
    assert perfect == {
        "rmse": 0,
        "mae": 0,
        "weighted_rmse": 0,
        "accuracy": 1,
        "n": scale.levels,
    }


def test_predictions_are_clipped_to_the_scale():
    found = clip(torch.tensor([-3.0, 0.5, 2.2, 5.0, 5.1, math.inf]), HALVES)
    assert found.tolist() == pytest.approx([0.5, 0.5, 2.2, 5.0, 5.0, 5.0])


def test_a_prediction_that_is_no_number_is_not_hidden():
    sums = rating_sums(torch.tensor([math.nan, 3.0]), torch.tensor([3.0, 3.0]), TEN, torch.ones(10))
    assert math.isnan(sums.finish()["rmse"])
    assert sums.finish()["accuracy"] == 0.5


def test_many_rows_lose_no_precision():
    # In float32 the count of 2e7 rows, or the sum of their errors, would stop growing.
    one = rating_sums(torch.tensor([3.1]), torch.tensor([3.0]), TEN, torch.ones(10))
    total = RatingSums(*(value * 5e7 for value in astuple(one))) + one
    assert total.finish()["n"] == 50_000_001
    assert total.finish()["rmse"] == pytest.approx(0.1, rel=1e-6)


def test_no_rows_have_no_metric():
    with pytest.raises(ValueError, match="no rows"):
        RatingSums().finish()
    empty = rating_sums(torch.empty(0), torch.empty(0), TEN, torch.ones(10))
    with pytest.raises(ValueError, match="no rows"):
        empty.finish()


# ---------------------------------------------------------------- ranking


@st.composite
def rankings(draw):
    """Lists, what is relevant in them and beyond them, and lengths to measure, some longer."""
    users, length = draw(st.integers(1, 12)), draw(st.integers(1, 8))
    ks = draw(st.lists(st.integers(1, 10), min_size=1, max_size=4, unique=True))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    relevant = generator.random((users, length)) < draw(st.floats(0, 1))
    totals = relevant.sum(1) + generator.integers(0, 6, users) * generator.integers(0, 2, users)
    return relevant, totals, tuple(ks)


def ranking_by_loop(relevant, totals, k):
    """Each metric of each user with a relevant item, by its definition."""
    found = {name: [] for name in RANKING_METRICS}
    for row, total in zip(relevant.tolist(), totals.tolist(), strict=True):
        if total == 0:
            continue
        row = row[:k]
        gain = sum(1 / math.log2(place + 1) for place, hit in enumerate(row, 1) if hit)
        best = sum(1 / math.log2(place + 1) for place in range(1, min(total, k) + 1))
        at_hits = [sum(row[:place]) / place for place, hit in enumerate(row, 1) if hit]
        found["precision"].append(sum(row) / k)
        found["recall"].append(sum(row) / total)
        found["ndcg"].append(gain / best)
        found["hit_rate"].append(float(any(row)))
        found["map"].append(sum(at_hits) / min(k, total))
        found["mrr"].append(1 / (row.index(True) + 1) if any(row) else 0.0)
    return found


@given(rankings())
def test_ranking_metrics_are_those_of_a_loop_over_users(given_rankings):
    relevant, totals, ks = given_rankings
    sums = ranking_sums(relevant, totals, ks)
    expected = {}
    for column, k in enumerate(ks):
        by_loop = ranking_by_loop(relevant, totals, k)
        assert sums.sums[:, column] == pytest.approx([sum(one) for one in by_loop.values()])
        if by_loop["recall"]:
            expected |= {f"{name}@{k}": np.mean(values) for name, values in by_loop.items()}
    assert sums.users == np.count_nonzero(totals)
    if sums.users:
        assert sums.finish() == pytest.approx({**expected, "ranking_users": sums.users})
        assert isinstance(sums.finish()["ranking_users"], int)


@given(rankings(), st.integers(0, 12))
def test_ranking_sums_of_parts_are_those_of_the_whole(given_rankings, cut):
    relevant, totals, ks = given_rankings
    whole = ranking_sums(relevant, totals, ks)
    parts = RankingSums.zero(ks)
    for part in (slice(cut), slice(cut, None)):
        parts += ranking_sums(relevant[part], totals[part], ks)
    assert parts.users == whole.users
    assert parts.sums == pytest.approx(whole.sums, rel=1e-9)
    assert parts.squares == pytest.approx(whole.squares, rel=1e-9)
    again = whole.over(World())
    assert (again.ks, again.users, again.sums.tolist()) == (ks, whole.users, whole.sums.tolist())
    assert again.squares.tolist() == whole.squares.tolist()


@given(rankings())
def test_standard_errors_are_those_of_a_loop_over_users(given_rankings):
    relevant, totals, ks = given_rankings
    sums = ranking_sums(relevant, totals, ks)
    if sums.users < 2:
        return
    expected = {
        f"{name}@{k}": np.std(values, ddof=1) / math.sqrt(sums.users)
        for k in ks
        for name, values in ranking_by_loop(relevant, totals, k).items()
    }
    # Rounding leaves the root of a difference of sums where all users are alike.
    assert sums.standard_errors() == pytest.approx(expected, abs=1e-7)


def test_a_single_user_is_as_uncertain_as_can_be():
    sums = ranking_sums(np.array([[True, False]]), np.array([1]), (2,))
    assert set(sums.standard_errors().values()) == {0.5}
    with pytest.raises(ValueError, match="no user"):
        RankingSums.zero((10,)).standard_errors()


@given(rankings())
def test_ranking_metrics_keep_their_order(given_rankings):
    relevant, totals, ks = given_rankings
    found = ranking_sums(relevant, totals, ks)
    if not found.users:
        return
    figures = found.finish()
    for k in ks:
        assert all(0 <= figures[f"{name}@{k}"] <= 1 + 1e-12 for name in RANKING_METRICS)
        assert figures[f"mrr@{k}"] <= figures[f"hit_rate@{k}"] + 1e-12
    for low, high in itertools.pairwise(sorted(ks)):
        for name in ("recall", "hit_rate", "mrr"):
            assert figures[f"{name}@{low}"] <= figures[f"{name}@{high}"] + 1e-12


def test_ranking_known_answers():
    relevant = np.array([[True, False, True], [False, False, False], [True, True, True]])
    sums = ranking_sums(relevant, np.array([2, 0, 9]), (1, 3, 5))
    assert sums.users == 2  # the second has nothing that could be found
    found = sums.finish()
    log3, log5 = math.log2(3), math.log2(5)
    assert found["ndcg@3"] == pytest.approx(((1 + 0.5) / (1 + 1 / log3) + 1) / 2)
    assert found["recall@3"] == pytest.approx((2 / 2 + 3 / 9) / 2)
    assert found["recall@1"] == pytest.approx((1 / 2 + 1 / 9) / 2)
    assert found["precision@3"] == pytest.approx((2 / 3 + 1) / 2)
    assert found["map@3"] == pytest.approx(((1 + 2 / 3) / 2 + 3 / 3) / 2)
    assert found["hit_rate@3"] == found["mrr@3"] == 1.0
    # Lists of three places at K = 5: what is not there is not found.
    assert found["precision@5"] == pytest.approx((2 / 5 + 3 / 5) / 2)
    best = 1 + 1 / log3 + 0.5 + 1 / log5 + 1 / math.log2(6)
    assert found["ndcg@5"] == pytest.approx(((1.5) / (1 + 1 / log3) + (1.5 + 1 / log3) / best) / 2)
    assert found["map@5"] == pytest.approx(((1 + 2 / 3) / 2 + 3 / 5) / 2)
    assert found["ranking_users"] == 2


@pytest.mark.parametrize("k", [1, 5, 10, 50])
def test_ranking_agrees_with_scikit_learn(k):
    metrics = pytest.importorskip("sklearn.metrics")
    generator = np.random.default_rng(0)
    truth, scores = generator.random((30, 50)) < 0.1, generator.random((30, 50))
    truth[:, 0] = True
    order = np.argsort(-scores, axis=1)[:, :k]
    relevant = np.take_along_axis(truth, order, axis=1)
    found = ranking_sums(relevant, truth.sum(1), (k,)).finish()
    expected = metrics.ndcg_score(truth.astype(float), scores, k=k)
    assert found[f"ndcg@{k}"] == pytest.approx(expected, rel=1e-9)
    # Of the first k as the predicted class: what scikit-learn calls precision and recall.
    predicted = np.zeros_like(truth)
    np.put_along_axis(predicted, order, True, axis=1)
    for name in ("precision", "recall"):
        expected = getattr(metrics, f"{name}_score")(truth, predicted, average="samples")
        assert found[f"{name}@{k}"] == pytest.approx(expected, rel=1e-9)
    if k == 50:  # the whole catalogue, which its average precision is over
        of_users = [
            metrics.average_precision_score(*one) for one in zip(truth, scores, strict=True)
        ]
        assert found["map@50"] == pytest.approx(np.mean(of_users), rel=1e-9)


def test_reciprocal_ranks_agree_with_scikit_learn():
    """Of one relevant item, label ranking average precision is the reciprocal of its place."""
    metrics = pytest.importorskip("sklearn.metrics")
    generator = np.random.default_rng(1)
    scores = generator.random((40, 20))
    truth = np.eye(20, dtype=bool)[generator.integers(0, 20, 40)]
    relevant = np.take_along_axis(truth, np.argsort(-scores, axis=1), axis=1)
    found = ranking_sums(relevant, truth.sum(1), (20,)).finish()
    expected = metrics.label_ranking_average_precision_score(truth, scores)
    assert found["mrr@20"] == found["map@20"] == pytest.approx(expected, rel=1e-9)


def test_a_metric_is_worse_the_later_the_item_is_found():
    figures = [
        ranking_sums(np.eye(5, dtype=bool)[place : place + 1], np.array([1]), (5,)).finish()
        for place in range(5)
    ]
    for name in ("ndcg", "map", "mrr"):
        values = [one[f"{name}@5"] for one in figures]
        assert values[0] == pytest.approx(1)
        assert all(a > b for a, b in itertools.pairwise(values))


def test_rankings_that_make_no_sense():
    for ks in ((), (0,), (3, -1)):
        with pytest.raises(ValueError, match="1 or more"):
            RankingSums.zero(ks)
    with pytest.raises(ValueError, match="do not add up"):
        RankingSums.zero((1,)) + RankingSums.zero((2,))
    with pytest.raises(ValueError, match="no user"):
        RankingSums.zero((10,)).finish()


# ---------------------------------------------------------------- what lists are like


@given(st.lists(st.integers(0, 30), min_size=1, max_size=30).filter(any))
def test_gini_is_half_the_mean_difference_over_the_mean(counts):
    counts = np.array(counts, dtype=float)
    mean_difference = np.mean(np.abs(counts[:, None] - counts[None]))
    assert gini(counts) == pytest.approx(mean_difference / (2 * counts.mean()), abs=1e-12)
    assert gini(3 * counts) == pytest.approx(gini(counts), abs=1e-12)


def test_gini_known_answers():
    assert gini(np.full(7, 3.0)) == pytest.approx(0)
    assert gini(np.array([0.0, 0, 0, 9, 0])) == pytest.approx(1 - 1 / 5)
    assert gini(np.array([1.0, 3.0])) == pytest.approx(0.25)


def test_sums_over_lists_finish_to_means():
    sums = ListSums(
        np.array([2.0, 0, 1, 1]),
        lists=2,
        novelty=6,
        tail=0.5,
        comparable=2,
        similarity=0.5,
        profiles=1,
        list_popularity=0.6,
        profile_popularity=0.4,
    )
    expected = {
        "coverage": 0.75,
        "gini": 0.375,
        "novelty": 3,
        "diversity": 0.75,
        "tail_share": 0.25,
        "popularity_lift": 0.5,
    }
    assert sums.finish() == pytest.approx(expected)
    assert (sums + sums).finish() == pytest.approx(expected)
    assert sums.over(World()).finish() == pytest.approx(expected)
    assert ListSums(np.zeros(4)).finish() == {"coverage": 0}  # nobody has a list
