"""Figures that `evaluate` reports, held against plain computations over the rows themselves."""

import csv
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dglrec.dataset import HeldOut, PrepareOptions, prepare
from dglrec.errors import UsageError
from dglrec.evaluate import baselines, evaluate, rows_of
from dglrec.evaluate.ranking import next_level
from dglrec.infer import Scorer, predict_pairs
from dglrec.nn import ModelConfig, RatingModel
from dglrec.run import TrainedModel
from dglrec.schema import RatingScale
from dglrec.synthetic import synthesize


def with_random_model(dataset):
    """A model of random weights, large enough that predictions leave the scale now and then."""
    torch.manual_seed(0)
    config = ModelConfig(embedding_size=8, decoder_size=8)
    model = RatingModel(config, dataset.graph.num_users, dataset.item_features)
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.mul_(24)
    return TrainedModel(model=model.eval(), dataset=dataset, meta={})


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted") / "source"
    synthesize(folder, users=60, items=30, ratings=1_000, seed=1)
    return folder


@pytest.fixture(scope="module")
def trained(source, tmp_path_factory):
    """A data set with a truth, and a model."""
    folder = tmp_path_factory.mktemp("trained")
    options = PrepareOptions(text=False, valid=0.2, test=0.2)
    return with_random_model(prepare(source, folder / "data", options))


@pytest.fixture(scope="module")
def of_half_stars(tmp_path_factory):
    """Ratings 0.5 to 5 in a table, without a truth; the top rating is in no training row."""
    folder = tmp_path_factory.mktemp("stars")
    generator = np.random.default_rng(0)
    pairs = generator.choice(40 * 25, 500, replace=False)
    ratings = generator.integers(1, 10, 500) / 2  # to 4.5
    rows = list(zip(pairs // 25, pairs % 25, ratings, strict=True))
    for name, part in (("train", rows[:400]), ("test", [*rows[400:], (0, 99, 5.0)])):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("user_id", "item_id", "rating"), *part])
    options = PrepareOptions(
        text=False,
        train_file=folder / "train.csv",
        test_file=folder / "test.csv",
        scale=RatingScale(0.5, 5, 0.5),
    )
    return with_random_model(prepare(folder / "train.csv", folder / "data", options))


def training_rows(dataset):
    """(user, item, rating) of every training rating."""
    by_user = dataset.graph.by_user
    return [
        (user, int(item), float(rating))
        for user in range(by_user.num_nodes)
        for item, rating in zip(
            by_user.neighbours[by_user.of(user)],
            dataset.scale.decode(np.asarray(by_user.codes[by_user.of(user)])),
            strict=True,
        )
    ]


def plain_metrics(predictions, ratings, dataset):
    """The metrics as DESIGN defines them, row after row."""
    scale = dataset.scale
    counts: dict[float, int] = {}
    for _, _, rating in training_rows(dataset):
        counts[rating] = counts.get(rating, 0) + 1
    weights = [max(counts.values()) / counts.get(rating, 1) for rating in ratings]
    clipped = [min(max(p, scale.minimum), scale.maximum) for p in predictions]
    squares = [(p - r) ** 2 for p, r in zip(clipped, ratings, strict=True)]
    rounded = [
        scale.minimum + scale.step * math.floor((p - scale.minimum) / scale.step + 0.5)
        for p in clipped
    ]
    n = len(ratings)
    return {
        "rmse": math.sqrt(sum(squares) / n),
        "mae": sum(abs(p - r) for p, r in zip(clipped, ratings, strict=True)) / n,
        "weighted_rmse": math.sqrt(
            sum(w * s for w, s in zip(weights, squares, strict=True)) / sum(weights)
        ),
        "accuracy": sum(a == b for a, b in zip(rounded, ratings, strict=True)) / n,
        "n": n,
    }


def plain_rows(dataset, split):
    """(user, item, rating) of a split."""
    if split == "train":
        return training_rows(dataset)
    rows = dataset.held_out(split)
    columns = (rows.users.tolist(), rows.items.tolist(), rows.ratings.tolist())
    return list(zip(*columns, strict=True))


def predictions_of(trained, rows):
    users, items, _ = zip(*rows, strict=True)
    return predict_pairs(
        trained.model,
        trained.embeddings,
        trained.dataset.biases,
        torch.tensor(users),
        torch.tensor(items),
    ).tolist()


# ---------------------------------------------------------------- rating metrics


@pytest.mark.parametrize("split", ["test", "valid", "train"])
@pytest.mark.parametrize("fixture", ["trained", "of_half_stars"])
def test_metrics_are_those_of_a_plain_computation(fixture, split, request):
    trained = request.getfixturevalue(fixture)
    rows = plain_rows(trained.dataset, split)
    predictions = predictions_of(trained, rows)
    scale = trained.dataset.scale
    assert any(not scale.minimum <= p <= scale.maximum for p in predictions)  # some are clipped
    result = evaluate(trained, split)
    assert result["split"] == split
    expected = plain_metrics(predictions, [rating for _, _, rating in rows], trained.dataset)
    assert {name: result[name] for name in expected} == pytest.approx(expected, rel=1e-6)
    assert len({round(value, 6) for value in expected.values()}) == 5  # no two mixed up


def ridge_biases(dataset):
    """The biases' minimum, solved as one linear system."""
    rows = training_rows(dataset)
    num_users, num_items = dataset.graph.num_users, dataset.graph.num_items
    design = np.zeros((len(rows), num_users + num_items))
    for number, (user, item, _) in enumerate(rows):
        design[number, user] = design[number, num_users + item] = 1
    ratings = np.array([rating for _, _, rating in rows])
    mean = ratings.mean()
    damping = np.repeat(dataset.biases.damping, (num_users, num_items))
    damped = design.T @ design + np.diag(damping)
    solved = np.linalg.solve(damped, design.T @ (ratings - mean))
    return mean, solved[:num_users], solved[num_users:]


@pytest.mark.parametrize("split", ["test", "valid"])
@pytest.mark.parametrize("fixture", ["trained", "of_half_stars"])
def test_baselines_are_fitted_to_training_rows_alone(fixture, split, request):
    trained = request.getfixturevalue(fixture)
    dataset = trained.dataset
    mean, of_users, of_items = ridge_biases(dataset)
    rows = plain_rows(dataset, split)
    ratings = [rating for _, _, rating in rows]
    expected = {
        "global_mean": plain_metrics([mean] * len(rows), ratings, dataset),
        "bias": plain_metrics(
            [mean + of_users[user] + of_items[item] for user, item, _ in rows], ratings, dataset
        ),
    }
    found = evaluate(trained, split)["baselines"]
    assert found.keys() == expected.keys()
    for name, metrics in expected.items():
        assert found[name] == pytest.approx(metrics, rel=1e-4)
    assert found == baselines(dataset, dataset.held_out(split))
    if fixture == "trained":
        assert found["bias"]["rmse"] < found["global_mean"]["rmse"]


def test_gap_closed_is_the_share_of_what_can_be_explained(trained):
    rows = trained.dataset.held_out("test")
    result = evaluate(trained, "test")
    expected = plain_metrics(rows.expected.tolist(), rows.ratings.tolist(), trained.dataset)
    irreducible = result["irreducible_rmse"]
    assert irreducible == pytest.approx(expected["rmse"], rel=1e-6)
    bias, model = result["baselines"]["bias"]["rmse"], result["rmse"]
    gap = (bias**2 - model**2) / (bias**2 - irreducible**2)
    assert result["gap_closed"] == pytest.approx(gap)


def test_without_a_truth_nothing_is_said_of_it(trained, of_half_stars):
    for result in (evaluate(of_half_stars), evaluate(trained, "train")):
        assert "gap_closed" not in result and "irreducible_rmse" not in result


@pytest.mark.parametrize("predictor", ["expectation", "biases"])
def test_gap_of_the_truth_is_1_and_of_the_biases_0(trained, monkeypatch, predictor):
    def predict(model, embeddings, biases, users, items):
        rows = trained.dataset.held_out("test")
        return rows.expected if predictor == "expectation" else biases.predict(users, items)

    monkeypatch.setattr("dglrec.run.trained.predict_pairs", predict)
    wanted = 1 if predictor == "expectation" else 0
    assert evaluate(trained, "test")["gap_closed"] == pytest.approx(wanted, abs=1e-12)


def test_rows_of_training_are_all_of_them(trained):
    rows = rows_of(trained.dataset, "train")
    assert isinstance(rows, HeldOut)
    found = zip(rows.users.tolist(), rows.items.tolist(), rows.ratings.tolist(), strict=True)
    assert list(found) == training_rows(trained.dataset)
    assert len(rows) == trained.dataset.meta["counts"]["train"]


@pytest.mark.parametrize("split", ["tests", "", "TEST"])
def test_an_unknown_split_is_refused(trained, split):
    with pytest.raises(UsageError, match="choose test, valid, train"):
        evaluate(trained, split)


# ---------------------------------------------------------------- ranking


def plain_ranking(trained, split, k, relevant_from):
    """Full-catalogue ranking, one user after the other; what was rated before is no candidate."""
    dataset = trained.dataset
    known: dict[int, set[int]] = {}
    for part in ["train", "valid"] if split == "test" else ["train"]:
        for user, item, _ in plain_rows(dataset, part):
            known.setdefault(user, set()).add(item)
    relevant: dict[int, set[int]] = {}
    for user, item, rating in plain_rows(dataset, split):
        if rating >= relevant_from:
            relevant.setdefault(user, set()).add(item)
    figures: dict[str, list[float]] = {}
    for user, wanted in relevant.items():
        items = [i for i in range(dataset.graph.num_items) if i not in known.get(user, set())]
        scores = predictions_of(trained, [(user, item, 0) for item in items])
        ranked = [item for _, item in sorted(zip(scores, items, strict=True), reverse=True)][:k]
        for name, value in plain_list_metrics(ranked, wanted, k).items():
            figures.setdefault(f"{name}@{k}", []).append(value)
    return {
        **{name: np.mean(values) for name, values in figures.items()},
        "ranking_users": len(relevant),
        "relevant_from": relevant_from,
    }


def plain_list_metrics(ranked, wanted, k):
    """The metrics of one user's list, as DESIGN and the papers define them."""
    found = [item in wanted for item in ranked]
    ideal = sum(1 / math.log2(place + 2) for place in range(min(k, len(wanted))))
    at_hits = [sum(found[: place + 1]) / (place + 1) for place, hit in enumerate(found) if hit]
    return {
        "precision": sum(found) / k,
        "recall": sum(found) / len(wanted),
        "ndcg": sum(hit / math.log2(place + 2) for place, hit in enumerate(found)) / ideal,
        "hit_rate": float(any(found)),
        "map": sum(at_hits) / min(k, len(wanted)),
        "mrr": 1 / (found.index(True) + 1) if any(found) else 0.0,
    }


@pytest.mark.parametrize("split", ["test", "valid"])
@pytest.mark.parametrize(("k", "relevant_from"), [(1, 8), (5, 8), (5, 1), (30, 9), (10, 10)])
def test_ranking_is_that_of_brute_force(trained, split, k, relevant_from):
    result = evaluate(trained, split, ranking=k, relevant_from=relevant_from)
    expected = plain_ranking(trained, split, k, relevant_from)
    assert {name: result[name] for name in expected} == pytest.approx(expected)
    # The rating metrics stand beside it as ever.
    popularity, oracle = (result["baselines"].pop(name) for name in ("popularity", "oracle"))
    name = f"ndcg@{k}"
    if oracle[name] > popularity[name]:
        share = (result[name] - popularity[name]) / (oracle[name] - popularity[name])
        assert result[f"share_of_the_way@{k}"] == pytest.approx(share)
    else:
        assert result.pop("notes")[-1].startswith(f"share_of_the_way@{k}: left out")
    assert {name: result[name] for name in evaluate(trained, split)} == evaluate(trained, split)


def test_ranking_on_other_scales_and_in_small_parts(of_half_stars, monkeypatch):
    monkeypatch.setattr("dglrec.evaluate.ranking._USERS_AT_ONCE", 3)
    result = evaluate(of_half_stars, "test", ranking=4, relevant_from=3.5)
    expected = plain_ranking(of_half_stars, "test", 4, 3.5)
    assert {name: result[name] for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize(("between", "same_as"), [(7.5, 8), (6.5, 7), (8.01, 9), (-3, 1), (0, 1)])
def test_a_threshold_that_is_no_rating_is_taken_as_it_is(trained, between, same_as):
    result = evaluate(trained, ranking=5, relevant_from=between)
    expected = plain_ranking(trained, "test", 5, same_as)
    del expected["relevant_from"]
    assert {name: result[name] for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize("split", ["test", "valid"])
def test_what_was_rated_before_is_never_a_candidate(trained, split, monkeypatch):
    dataset, ranked, original = trained.dataset, [], Scorer.best

    def spy(scorer, users, left_out, k):
        ranked.append((users.tolist(), left_out))
        return original(scorer, users, left_out, k)

    monkeypatch.setattr(Scorer, "best", spy)
    evaluate(trained, split, ranking=5, relevant_from=1)
    ((asked, left_out),) = ranked
    users = sorted({user for user, _, _ in plain_rows(dataset, split)})
    assert sorted(asked) == users
    ends = left_out.offsets
    found = {(u, i) for u in users for i in left_out.items[ends[u] : ends[u + 1]].tolist()}
    known = {(u, i) for u, i, _ in plain_rows(dataset, "train") if u in users}
    if split == "test":
        known |= {(u, i) for u, i, _ in plain_rows(dataset, "valid") if u in users}
    assert found == known
    assert not found & {(u, i) for u, i, _ in plain_rows(dataset, split)}


def test_relevant_by_default_is_the_mean_rating_rounded_up(trained):
    mean = np.mean([rating for _, _, rating in training_rows(trained.dataset)])
    result = evaluate(trained, ranking=5)
    assert result["relevant_from"] == math.ceil(mean)
    expected = plain_ranking(trained, "test", 5, math.ceil(mean))
    assert {name: result[name] for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize(
    ("scale", "rating", "level"),
    [
        (RatingScale(1, 10), 7.2, 8),
        (RatingScale(1, 10), 7.8, 8),
        (RatingScale(1, 10), 7.0, 7),
        (RatingScale(1, 10), 9.9999, 10),
        (RatingScale(1, 10), 10.0, 10),
        (RatingScale(1, 10), 1.0, 1),
        (RatingScale(0.5, 5, 0.5), 3.6, 4),
        (RatingScale(0.5, 5, 0.5), 3.5, 3.5),
        (RatingScale(0.5, 5, 0.5), 3.01, 3.5),
        (RatingScale(-2, 2, 1), -0.5, 0),
        (RatingScale(0, 1), 0.3, 1),
    ],
)
def test_next_level(scale, rating, level):
    assert next_level(rating, SimpleNamespace(scale=scale)) == level


@pytest.mark.parametrize("k", [0, -1, 31, 10_000])
def test_k_beyond_the_catalogue_is_refused(trained, k):
    assert trained.dataset.graph.num_items == 30
    with pytest.raises(UsageError, match="from 1 to the catalogue's 30 items"):
        evaluate(trained, ranking=k)


def test_ranking_of_training_rows_is_refused(trained):
    with pytest.raises(UsageError, match="choose test or valid"):
        evaluate(trained, "train", ranking=5)


@pytest.mark.parametrize("relevant_from", [10.5, 300, math.inf, math.nan])
def test_a_threshold_that_no_row_reaches_is_refused(trained, relevant_from):
    with pytest.raises(UsageError, match="nothing to rank"):
        evaluate(trained, ranking=5, relevant_from=relevant_from)
