"""Metrics against numpy and loops over rows; sums of parts against the whole."""

import itertools
import math
from dataclasses import astuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dglrec.metrics import (
    RankingSums,
    RatingSums,
    class_weights,
    clip,
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
    with pytest.raises(ValueError, match="no user"):
        RankingSums().finish(10)


@st.composite
def rankings(draw):
    users, k = draw(st.integers(1, 12)), draw(st.integers(1, 8))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    relevant = generator.random((users, k)) < draw(st.floats(0, 1))
    totals = relevant.sum(1) + generator.integers(0, 6, users) * generator.integers(0, 2, users)
    return torch.from_numpy(relevant), torch.from_numpy(totals)


def ranking_by_loop(relevant, totals):
    recalls, gains, hits = [], [], []
    for row, total in zip(relevant.tolist(), totals.tolist(), strict=True):
        if total == 0:
            continue
        k = len(row)
        gain = sum(1 / math.log2(rank + 1) for rank, found in enumerate(row, 1) if found)
        best = sum(1 / math.log2(rank + 1) for rank in range(1, min(total, k) + 1))
        recalls.append(sum(row) / min(total, k))
        gains.append(gain / best)
        hits.append(float(any(row)))
    return recalls, gains, hits


@given(rankings())
def test_ranking_metrics_are_those_of_a_loop_over_users(given_rankings):
    recalls, gains, hits = ranking_by_loop(*given_rankings)
    sums = ranking_sums(*given_rankings)
    expected = (len(hits), sum(recalls), sum(gains), sum(hits))
    assert astuple(sums) == pytest.approx(expected, rel=1e-9)
    if hits:
        k = given_rankings[0].shape[1]
        assert sums.finish(k) == pytest.approx(
            {
                f"recall@{k}": np.mean(recalls),
                f"ndcg@{k}": np.mean(gains),
                f"hit_rate@{k}": np.mean(hits),
                "ranking_users": len(hits),
            }
        )


@given(rankings(), st.integers(0, 12))
def test_ranking_sums_of_parts_are_those_of_the_whole(given_rankings, cut):
    relevant, totals = given_rankings
    parts = ranking_sums(relevant[:cut], totals[:cut]) + ranking_sums(relevant[cut:], totals[cut:])
    assert astuple(parts) == pytest.approx(astuple(ranking_sums(relevant, totals)), rel=1e-9)


def test_ranking_known_answers():
    relevant = torch.tensor([[True, False, True], [False, False, False], [True, True, True]])
    sums = ranking_sums(relevant, torch.tensor([2, 0, 9]))
    assert sums.users == 2  # the second has nothing that could be found
    found = sums.finish(3)
    first = (1 + 0.5) / (1 + 1 / math.log2(3))
    assert found["ndcg@3"] == pytest.approx((first + 1) / 2)
    assert found["recall@3"] == 1.0
    assert found["hit_rate@3"] == 1.0
    assert found["ranking_users"] == 2


def test_ranking_agrees_with_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    generator = np.random.default_rng(0)
    truth, scores = generator.random((30, 50)) < 0.1, generator.random((30, 50))
    truth[:, 0] = True
    order = np.argsort(-scores, axis=1)[:, :10]
    relevant = torch.from_numpy(np.take_along_axis(truth, order, axis=1))
    found = ranking_sums(relevant, torch.from_numpy(truth.sum(1))).finish(10)
    expected = metrics.ndcg_score(truth.astype(float), scores, k=10)
    assert found["ndcg@10"] == pytest.approx(expected, rel=1e-9)


def test_a_metric_is_worse_the_later_the_item_is_found():
    totals = torch.tensor([1])
    gains = [
        ranking_sums(torch.eye(5, dtype=torch.bool)[rank : rank + 1], totals).ndcg
        for rank in range(5)
    ]
    assert gains[0] == pytest.approx(1)
    assert all(a > b for a, b in itertools.pairwise(gains))
