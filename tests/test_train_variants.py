"""Kinds of models from end to end: trained, measured, scored, explained and exported."""

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from runs import make_settings, same_weights, weights_of
from test_export import documented_reference

from dglrec.config import load_settings, shipped_names
from dglrec.dataset import PrepareOptions, prepare
from dglrec.errors import UsageError
from dglrec.evaluate import evaluate
from dglrec.export import export
from dglrec.infer import predict_pairs
from dglrec.metrics import clip
from dglrec.run import open_run
from dglrec.score import TopKOptions, recommend, score_top_k
from dglrec.synthetic import synthesize
from dglrec.train import train

FACTORS = {"layers": 0, "user_identity": True, "item_features": False, "decoder_size": 0}
FANOUTS = {"user_fanouts": "auto", "item_fanouts": "auto"}
VARIANTS = {
    "factorisation": FACTORS,
    "no graph": {"layers": 0},
    "dot product": {"decoder_size": 0},
    "genres": {"item_features": ("genres",)},
    "sum": {"layers": 1, "aggregator": "sum"},
    "attention": {"layers": 1, "aggregator": "attention"},
    "gat": {"convolution": "gat", "combination": "concat"},
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("variants")
    synthesize(folder / "source", users=60, items=30, ratings=900, seed=5)
    options = PrepareOptions(text=False, split="item", numeric=("Members",))
    return prepare(folder / "source", folder / "data", options)


@pytest.fixture(scope="module")
def find(dataset, tmp_path_factory):
    """Finds the run of a variant, training it when first asked."""
    place, runs = tmp_path_factory.mktemp("runs"), {}

    def find(name):
        if name not in runs:
            runs[name] = place / name
            train(dataset, runs[name], settings_of(VARIANTS[name]))
        return open_run(runs[name])

    return find


def settings_of(model, loader=None, **fitting):
    fitting = {"epochs": 2, "learning_rate": 0.02, **fitting}
    return make_settings(model, {**FANOUTS, "unseen_items": 0.2, **(loader or {})}, **fitting)


@pytest.fixture(params=VARIANTS)
def trained(request, find):
    return find(request.param)


def every_pair(trained):
    users, items = (np.arange(len(ids)) for ids in (trained.dataset.users, trained.dataset.items))
    users, items = (torch.from_numpy(side.ravel()) for side in np.meshgrid(users, items))
    return users, items


def test_a_run_measures_what_its_pairs_say(trained):
    dataset, rows = trained.dataset, trained.dataset.held_out("test")
    users, items = every_pair(trained)
    found = trained.scorer.pairs(users, items)
    expected = predict_pairs(trained.model, trained.embeddings, dataset.biases, users, items)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    table = torch.empty(len(dataset.users), len(dataset.items))
    table[users, items] = found
    of_rows = clip(table[rows.users, rows.items], dataset.scale)
    rmse = float((of_rows - rows.ratings).square().mean().sqrt())
    result = evaluate(trained, ranking=3, details=True)
    assert result["rmse"] == pytest.approx(rmse, rel=1e-5)
    assert result["new_items"]["n"] > 0
    assert np.isfinite(result["ndcg@3"])


def test_its_best_items_are_those_of_its_pairs(trained, tmp_path):
    dataset = trained.dataset
    users, items = every_pair(trained)
    table = np.empty((len(dataset.users), len(dataset.items)), dtype=np.float32)
    table[users, items] = trained.scorer.pairs(users, items)  # what orders a list is not clipped
    score_top_k(trained, tmp_path / "out", 3, TopKOptions(include_seen=True))
    frame = pq.read_table(tmp_path / "out").to_pandas()
    for user, part in frame.groupby("user_id"):
        row = table[dataset.users.encode_one(str(user))]
        assert np.allclose(np.sort(part.score)[::-1], np.sort(row)[::-1][:3], atol=1e-5)
    user = str(dataset.users.ids[0])
    seen = set(dataset.rated_items().items[: dataset.rated_items().offsets[1]].tolist())
    left = [score for item, score in enumerate(table[0]) if item not in seen]
    found = [one.score for one in recommend(trained, user, 4)]
    assert found == pytest.approx(sorted(left, reverse=True)[:4], abs=1e-5)


def test_its_export_says_the_same(trained, tmp_path, monkeypatch):
    export(trained, tmp_path / "exported")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(documented_reference(), "scoring.md", "exec"), names)
    users, items = every_pair(trained)
    expected = clip(trained.scorer.pairs(users, items), trained.dataset.scale)
    assert np.allclose(names["predict"](users.numpy(), items.numpy()), expected, atol=1e-5)


def test_its_recommendations_are_explained_or_it_says_why_not(trained, tmp_path):
    user = str(trained.dataset.users.ids[0])
    config = trained.model.config
    if config.aggregator == "attention" or config.convolution == "gat":
        says = "aggregator=attention|convolution=gat"
        with pytest.raises(UsageError, match=says):
            recommend(trained, user, 3, explain=True)
        with pytest.raises(UsageError, match=says):
            score_top_k(trained, tmp_path / "out", 3, TopKOptions(explain=True))
        assert not list(tmp_path.iterdir())
        return
    for one in recommend(trained, user, 3, explain=True):
        contributions = [reason.contribution for reason in one.because]
        assert contributions == sorted(contributions, reverse=True)
        assert all(0 < value < 10 for value in contributions)


def test_somebody_new_with_a_users_ratings_gets_that_users_items(trained, tmp_path):
    """Where the model knows users by their ratings alone."""
    dataset = trained.dataset
    if trained.model.config.user_identity:
        return
    by_user = dataset.graph.by_user
    user = int(np.argmin(np.diff(dataset.rated_items().offsets)))
    row = by_user.of(user)
    frame = pd.DataFrame(
        {
            "item_id": dataset.items.decode(by_user.neighbours[row]).to_pylist(),
            "rating": dataset.scale.decode(by_user.codes[row]),
        }
    )
    frame.to_csv(tmp_path / "mine.csv", index=False)
    new = {
        one.item_id: one.score
        for one in recommend(trained, None, 30, ratings=tmp_path / "mine.csv")
    }
    old = {one.item_id: one.score for one in recommend(trained, str(dataset.users.ids[user]), 30)}
    assert set(old) <= set(new) and old  # of the old one held-out items are left out too
    assert [new[item] for item in old] == pytest.approx(list(old.values()), abs=1e-4)


def test_a_new_item_is_an_item_of_the_data_set_that_nobody_rated(trained, tmp_path):
    dataset, config = trained.dataset, trained.model.config
    unrated = np.flatnonzero(dataset.graph.by_item.degrees == 0)
    assert len(unrated)
    file = tmp_path / "season.csv"
    source = pd.read_csv(dataset.path.parent / "source" / "anime.csv")
    ids = [dataset.items.ids[int(item)].as_py() for item in unrated]
    source = source.set_index(source.columns[0]).loc[ids].reset_index()
    source[source.columns[0]] = np.arange(len(ids)) + 900_000
    source.to_csv(file, index=False)
    options = TopKOptions(new_items=file, items=file)
    if not config.item_features:
        with pytest.raises(UsageError, match="the model uses no"):
            score_top_k(trained, tmp_path / "out", len(ids), options)
        return
    score_top_k(trained, tmp_path / "out", len(ids), options)
    frame = pq.read_table(tmp_path / "out").to_pandas()
    users = dataset.users.encode(pq.read_table(tmp_path / "out")["user_id"].combine_chunks())
    items = unrated[frame.item_id.to_numpy() - 900_000]
    pairs = torch.from_numpy(np.asarray(users)).long(), torch.from_numpy(items)
    expected = clip(trained.scorer.pairs(*pairs), dataset.scale)
    assert np.allclose(frame.score, expected, atol=1e-5)
    assert frame.score.std() > 0


def test_named_features_alone_are_read(find, dataset):
    trained = find("genres")
    width = dataset.meta["features"]["genres"]
    assert trained.model.inputs.features.shape[1] == width < dataset.item_features.shape[1]
    start = 0
    for name, count in dataset.meta["features"].items():
        part = dataset.item_features[:, start : start + count]
        assert torch.equal(trained.model.inputs.features, part) == (name == "genres")
        start += count


def test_features_that_the_data_set_lacks_are_refused_before_anything_is_written(dataset, tmp_path):
    settings = settings_of({"item_features": ("text", "genres")})
    with pytest.raises(UsageError, match=r"item_features: .* no text; it has genres, numeric"):
        train(dataset, tmp_path / "run", settings)
    assert not list(tmp_path.iterdir())


def test_a_factorisation_is_two_vectors_and_nothing_else(find):
    """By hand: biases, and the product of what is made of bias, degree and a damped vector."""
    trained = find("factorisation")
    weights, biases = trained.model.state_dict(), trained.dataset.biases
    sides = []
    for name, inputs, degrees in (
        ("user", biases.user_inputs(slice(None)), biases.user_degrees),
        ("item", biases.item_inputs(slice(None)), biases.item_degrees),
    ):
        counts = (degrees / (degrees + trained.model.config.identity_damping)).unsqueeze(1)
        value = (
            inputs * torch.tensor([1.0, 0.1, 1.0]) @ weights[f"inputs.from_{name}_inputs.weight"].T
        )
        value = value + weights[f"inputs.from_{name}_inputs.bias"]
        value = value + counts * weights[f"inputs.{name}_vectors.weight"]
        sides.append(value @ weights[f"decoder.factor_of_{name}.weight"].T)
    users, items = every_pair(trained)
    expected = biases.predict(users, items) + (sides[0][users] * sides[1][items]).sum(1)
    expected = expected + weights["decoder.out.bias"]
    torch.testing.assert_close(trained.scorer.pairs(users, items), expected, rtol=1e-5, atol=1e-5)
    assert not any(name.startswith("encoder.") for name in weights)


@pytest.fixture(scope="module")
def two_factors(tmp_path_factory):
    """Ratings that a factorisation explains: biases, two factors and little noise."""
    folder, rng = tmp_path_factory.mktemp("factors"), np.random.default_rng(4)
    users, items = np.divmod(rng.choice(120 * 60, 4_000, replace=False), 60)
    values = 5.5 + 1.5 * np.sum(
        rng.normal(size=(120, 2))[users] * rng.normal(size=(60, 2))[items], 1
    )
    values += rng.normal(0, 0.5, 120)[users] + rng.normal(0, 0.5, 60)[items]
    ratings = np.clip(np.round(values + rng.normal(0, 0.3, len(users))), 1, 10).astype(int)
    frame = pd.DataFrame({"user_id": users, "item_id": items, "rating": ratings})
    frame.to_csv(folder / "ratings.csv", index=False)
    return prepare(folder / "ratings.csv", folder / "data", PrepareOptions(text=False))


def test_training_a_factorisation_finds_factors_and_repeats(two_factors, tmp_path):
    settings = settings_of(
        {**FACTORS, "embedding_size": 8, "identity_damping": 10.0, "dropout": 0.0},
        {"unseen_items": 0.0, "batch_size": 256},
        epochs=8,
        learning_rate=0.05,
        warmup_steps=5,
    )
    results = train(two_factors, tmp_path / "run", settings)
    assert results["test"]["rmse"] < 0.8 * results["test"]["baselines"]["bias"]["rmse"]
    again = train(two_factors, tmp_path / "again", settings)
    assert again["test"]["rmse"] == results["test"]["rmse"]
    assert same_weights(weights_of(tmp_path / "run"), weights_of(tmp_path / "again"))


def test_dgls_loader_has_no_batches_without_layers_and_says_so(dataset, tmp_path):
    settings = settings_of({"layers": 0}, {"kind": "neighbor"})
    with pytest.raises(UsageError, match="layers"):
        train(dataset, tmp_path / "run", settings)
    assert not list(tmp_path.iterdir())


def test_a_model_that_could_say_nothing_is_refused():
    """Without a dot product and without an MLP nothing is left but the biases."""
    with pytest.raises(UsageError, match="decoder_size"):
        load_settings(assignments=["model.decoder_size=0", "model.interaction=false"])


@pytest.mark.parametrize("name", ["dot product", "no graph"])
def test_no_warning_reaches_whoever_trains_a_variant(name, dataset, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(dataset, tmp_path / "run", settings_of(VARIANTS[name], epochs=1))


@pytest.mark.parametrize("name", shipped_names())
def test_every_shipped_configuration_trains(name, dataset, tmp_path):
    assignments = ["train.epochs=1", "train.seed=3"]
    if name == "pinsage":
        assignments.append("ranking.related_places=[3,9]")  # there are few items
    settings = load_settings(file=Path(name), assignments=assignments)
    if settings.model.kind != "graph":
        return
    results = train(dataset, tmp_path / "run", settings)
    lists = settings.model.heads == "lists"
    figure = f"{settings.ranking.metric}@{settings.ranking.at}" if lists else "rmse"
    assert np.isfinite(results["valid"][figure])
