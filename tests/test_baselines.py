"""Baselines against what brute force makes of the same ratings, and the runs they leave."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ranks import in_ranks
from runs import bytes_of, lines_of, planted
from safetensors.torch import load_file, save_file
from test_biases import Ratings
from test_run import rewrite_meta

from dglrec import checkpoint
from dglrec.baselines import BaselineConfig, BiasBaseline, GlobalMean, ItemNeighbours
from dglrec.baselines import neighbours as module
from dglrec.biases import fit_biases, residuals_of
from dglrec.checkpoint import load_checkpoint
from dglrec.config import load_settings
from dglrec.dataset import PrepareOptions, prepare
from dglrec.errors import DataError, UnusableEnvironmentError, UsageError
from dglrec.evaluate import evaluate
from dglrec.files import remove_checksums
from dglrec.graph import build_graph
from dglrec.kernels import ItemLists, predict_residuals
from dglrec.kernels.neighbours import Rated
from dglrec.metrics import RATING_METRICS, RatingSums
from dglrec.run import BEST, CONFIG_FILE, RESULTS_FILE, open_predictor, open_run
from dglrec.schema import RatingScale
from dglrec.train import baseline as train_module
from dglrec.train import train

KINDS = ["global_mean", "bias", "item_knn"]


def dataset_of(ratings):
    """As much of a data set as baselines read."""
    return SimpleNamespace(graph=ratings.graph, biases=fit_biases(ratings.graph), path="here")


def residual_table(ratings, biases):
    """[U, I] residuals, NaN where there is no rating."""
    table = np.full((ratings.num_users, ratings.num_items), np.nan)
    table[ratings.users, ratings.items] = (
        ratings.ratings
        - biases.mean
        - biases.users.numpy()[ratings.users].astype(float)
        - biases.items.numpy()[ratings.items].astype(float)
    )
    return table


def brute_similarities(table, shrinkage, min_support):
    count = table.shape[1]
    out = np.zeros((count, count))
    for i in range(count):
        for j in range(count):
            both = ~np.isnan(table[:, i]) & ~np.isnan(table[:, j])
            n = both.sum()
            if i == j or n < max(min_support, 2):
                continue
            e, f = table[both, i], table[both, j]
            rho = (e * f).sum() / np.sqrt((e**2).sum() * (f**2).sum())
            out[i, j] = max(0.0, rho * (n - 1) / (n - 1 + shrinkage))
    return out


def brute_residual(row, similar, k):
    """Mean of one user's residuals, weighed by the k largest similarities above 0."""
    rated = np.flatnonzero(~np.isnan(row))
    nearest = sorted(rated, key=lambda j: -similar[j])[:k]
    nearest = [j for j in nearest if similar[j] > 0]
    if not nearest:
        return 0.0
    return np.average(row[nearest], weights=similar[nearest])


def all_pairs(num_users, num_items):
    return torch.cartesian_prod(torch.arange(num_users), torch.arange(num_items)).T


# --- similar items -------------------------------------------------------------------------------


def test_residuals_are_those_of_the_edges_in_their_order():
    ratings = Ratings(edges=90, seed=3)
    biases = fit_biases(ratings.graph)
    table = residual_table(ratings, biases)
    by_user = ratings.graph.by_user
    users = np.repeat(np.arange(ratings.num_users), by_user.degrees)
    expected = table[users, by_user.neighbours]
    np.testing.assert_allclose(residuals_of(ratings.graph, biases), expected, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    edges=st.integers(10, 150),
    seed=st.integers(0, 1000),
    shrinkage=st.sampled_from([0.0, 1.5, 100.0]),
    min_support=st.integers(1, 4),
)
def test_similarities_are_those_of_brute_force(edges, seed, shrinkage, min_support):
    ratings = Ratings(edges=edges, seed=seed)
    dataset = dataset_of(ratings)
    config = BaselineConfig(shrinkage=shrinkage, min_support=min_support)
    found = ItemNeighbours.fit(dataset, config).similarities.numpy()
    expected = brute_similarities(residual_table(ratings, dataset.biases), shrinkage, min_support)
    # Float32 residuals, and similarities as a checkpoint keeps them.
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
    assert np.array_equal(found, found.T)
    assert not found.diagonal().any()


def test_a_similarity_known_by_hand():
    """Three users who rated both items, with residuals (1, 2), (-1, 0) and (2, 1)."""
    users, items, codes = np.repeat([0, 1, 2], 2), np.tile([0, 1], 3), np.array([5, 6, 3, 4, 6, 5])
    graph = build_graph(users, items, codes, num_users=3, num_items=2, scale=RatingScale(1, 10))
    flat = replace(fit_biases(graph), mean=5.0, users=torch.zeros(3), items=torch.zeros(2))
    dataset = SimpleNamespace(graph=graph, biases=flat, path="here")
    model = ItemNeighbours.fit(dataset, BaselineConfig(shrinkage=2.0))
    rho = (1 * 2 + -1 * 0 + 2 * 1) / np.sqrt((1 + 1 + 4) * (4 + 0 + 1))
    assert model.similarities[0, 1].item() == pytest.approx(rho * 2 / (2 + 2), rel=1e-3)
    # User 2 rated item 0 with 2 above the mean, so that is what it is thought to give to item 1.
    assert model.predict(torch.tensor([2]), torch.tensor([1])).item() == pytest.approx(7.0)


@pytest.mark.parametrize("k", [1, 2, 3, 5, 12, 40])
def test_predictions_are_those_of_brute_force(k):
    ratings = Ratings(edges=120, seed=5)
    dataset = dataset_of(ratings)
    model = ItemNeighbours.fit(dataset, BaselineConfig(neighbours=k, shrinkage=1.0))
    users, items = all_pairs(ratings.num_users, ratings.num_items)
    table, similar = residual_table(ratings, dataset.biases), model.similarities.numpy()
    expected = [
        brute_residual(table[user], similar[item], k)
        for user, item in zip(users.tolist(), items.tolist(), strict=True)
    ]
    found = model.predict(users, items)
    assert found.dtype == torch.float32
    base = dataset.biases.predict(users, items).numpy()
    np.testing.assert_allclose(found.numpy(), base + np.array(expected), atol=1e-4)
    assert np.count_nonzero(expected) > 20


@settings(max_examples=40, deadline=None)
@given(degree=st.integers(0, 60), k=st.integers(1, 60), seed=st.integers(0, 1000))
def test_the_most_similar_are_picked_whatever_their_order(degree, k, seed):
    """Of one user with many rated items; no two similarities are equal."""
    generator = np.random.default_rng(seed)
    row = np.full(60, np.nan)
    rated = np.sort(generator.choice(60, degree, replace=False))
    row[rated] = generator.normal(size=degree)
    similar = np.zeros((60, 60), dtype=np.float32)
    similar[7] = generator.permutation(60) / 60 - 0.3  # some are below 0
    user = Rated(np.array([0, degree]), rated.astype(np.int32), row[rated].astype(np.float32))
    found = predict_residuals(torch.tensor([0]), torch.tensor([7]), user, similar, k)
    assert found.item() == pytest.approx(brute_residual(row, similar[7], k), abs=1e-5)


def test_without_a_similar_item_it_is_the_bias():
    ratings = Ratings(edges=60, seed=1)
    dataset = dataset_of(ratings)
    model = ItemNeighbours.fit(dataset, BaselineConfig(min_support=100))
    pairs = all_pairs(ratings.num_users, ratings.num_items)
    assert not model.similarities.any()
    assert torch.equal(model.predict(*pairs), dataset.biases.predict(*pairs))
    none = torch.empty(0, dtype=torch.int64)
    assert model.predict(none, none).shape == (0,)


@pytest.mark.parametrize(("user", "item"), [(20, 0), (-1, 0), (0, 12), (0, -1)])
def test_rows_that_are_not_there_are_refused(user, item):
    model = ItemNeighbours.fit(dataset_of(Ratings()), BaselineConfig())
    with pytest.raises(IndexError):
        model.predict(torch.tensor([user]), torch.tensor([item]))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return planted(tmp_path_factory.mktemp("planted"), 150, 60, 6_000)


def test_threads_and_stretches_change_no_bit(dataset, monkeypatch):
    expected = ItemNeighbours.fit(dataset, BaselineConfig())
    pairs = all_pairs(dataset.graph.num_users, dataset.graph.num_items)
    monkeypatch.setattr(module, "_LEAST_PAIRS", 1)
    monkeypatch.setattr(module, "_ROWS_AT_ONCE", 7)
    monkeypatch.setattr("dglrec.kernels.parallel.SMALL", 64)
    torch.set_num_threads(3)
    try:
        found = ItemNeighbours.fit(dataset, BaselineConfig())
        assert torch.equal(found.predict(*pairs), expected.predict(*pairs))
    finally:
        torch.set_num_threads(1)
    assert torch.equal(found.similarities, expected.similarities)
    assert found.similarities.count_nonzero() > 500


def test_too_many_items_are_refused_with_the_memory_they_take():
    many = SimpleNamespace(path="here", graph=SimpleNamespace(num_items=20_000, num_edges=5))
    with pytest.raises(
        DataError, match=r"^here: .* 20,000 items.* 1\.5 GiB, and may take 1\.1 GiB"
    ):
        ItemNeighbours.fit(many, BaselineConfig())


def test_too_little_memory_is_refused(monkeypatch):
    monkeypatch.setattr(module, "available_memory", lambda: 1_000)
    with pytest.raises(UnusableEnvironmentError, match="12 items"):
        ItemNeighbours.fit(dataset_of(Ratings()), BaselineConfig())


@pytest.mark.parametrize(
    "wrong",
    [
        {"neighbours": 0},
        {"neighbours": 2.0},
        {"shrinkage": -1.0},
        {"shrinkage": float("inf")},
        {"min_support": 0},
        {"k": 3},
    ],
    ids=str,
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        BaselineConfig(**wrong)


# --- the best of the catalogue -------------------------------------------------------------------


@pytest.mark.parametrize("kind", [GlobalMean, BiasBaseline, ItemNeighbours])
def test_the_best_are_those_of_all_predictions(kind, dataset, monkeypatch):
    monkeypatch.setattr("dglrec.baselines.dense._PAIRS_AT_ONCE", 130)  # two users at once
    model = kind.fit(dataset, BaselineConfig())
    num_users, num_items = dataset.graph.num_users, dataset.graph.num_items
    dense = model.predict(*all_pairs(num_users, num_items)).view(num_users, num_items)
    rated = dataset.rated_items()
    users = torch.tensor([7, 3, 7, 90, 149])
    scores, items = model.best(users, rated, 5)
    for row, user in enumerate(users.tolist()):
        left = dense[user].clone()
        left[
            torch.from_numpy(rated.items[rated.offsets[user] : rated.offsets[user + 1]]).long()
        ] = -torch.inf
        assert torch.equal(scores[row], left.topk(5).values)
        assert torch.equal(left[items[row]], scores[row])


def test_where_too_few_items_are_left_the_rest_is_minus_infinity(dataset):
    model = BiasBaseline(dataset.biases)
    count = dataset.graph.num_items
    all_but_two = np.arange(2, count, dtype=np.int32)
    offsets = np.full(dataset.graph.num_users + 1, len(all_but_two))
    offsets[0] = 0
    scores, items = model.best(torch.tensor([0, 1]), ItemLists(offsets, all_but_two), 3)
    assert scores[0, 2] == -torch.inf and sorted(items[0, :2].tolist()) == [0, 1]
    assert scores[1].isfinite().all()
    scores, items = model.best(torch.tensor([1]), ItemLists(offsets, all_but_two), count + 9)
    assert scores.shape == (1, count) and sorted(items[0].tolist()) == list(range(count))
    nobody = model.best(torch.empty(0, dtype=torch.int64), ItemLists(offsets, all_but_two), 3)
    assert [tuple(part.shape) for part in nobody] == [(0, 3), (0, 3)]


# --- runs ----------------------------------------------------------------------------------------


def settings_of(kind, *assignments):
    return load_settings(assignments=[f"model.kind={kind}", *assignments])


@pytest.fixture(scope="module")
def runs(dataset, tmp_path_factory):
    """A run of each kind, with what `train` returned."""
    folder = tmp_path_factory.mktemp("runs")
    return {
        kind: (folder / kind, train(dataset, folder / kind, settings_of(kind))) for kind in KINDS
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_holds_what_a_trained_one_does(kind, dataset, runs):
    run, results = runs[kind]
    assert json.loads((run / RESULTS_FILE).read_text()) == results
    assert (results["kind"], results["epochs"], results["best_epoch"]) == (kind, 1, 1)
    assert load_settings(file=run / CONFIG_FILE) == settings_of(kind)
    assert json.loads((run / "environment.json").read_text())["device"] == "cpu"
    (line,) = lines_of(run)
    assert line["valid_rmse"] == results["valid"]["rmse"]
    meta = load_checkpoint(run / BEST).meta
    assert meta["fingerprint"] == dataset.fingerprint
    assert meta["valid"] == {name: results["valid"][name] for name in RATING_METRICS}
    assert tuple(RatingSums(n=1, weights=1).finish()) == RATING_METRICS
    assert {path.name for path in run.iterdir()} == {
        *(".lock", "checkpoints", "config.toml", "environment.json", "metrics.jsonl"),
        *("results.json", "train.log", "checksums.json"),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_an_opened_run_measures_what_was_measured(kind, dataset, runs):
    run, results = runs[kind]
    opened = open_predictor(run)
    for split in ("valid", "test"):
        assert evaluate(opened, split) == results[split]
    assert opened.identity == {
        "weights": checkpoint.sha256_of(run / BEST / "model.safetensors"),
        "epoch": 1,
    }
    rows = dataset.held_out("test")
    predicted = opened.predict(rows.users, rows.items).numpy().astype(float)
    clipped = predicted.clip(dataset.scale.minimum, dataset.scale.maximum)
    rmse = np.sqrt(np.mean((clipped - rows.ratings.numpy()) ** 2))
    assert results["test"]["rmse"] == pytest.approx(rmse, rel=1e-6)


def test_simple_kinds_measure_what_evaluate_shows_beside_every_model(runs):
    for kind in ("global_mean", "bias"):
        test = runs[kind][1]["test"]
        shown = test["baselines"][kind]
        assert {name: test[name] for name in shown} == pytest.approx(shown, rel=1e-6)
    knn = runs["item_knn"][1]["test"]
    assert knn["rmse"] < knn["baselines"]["bias"]["rmse"]


@pytest.mark.parametrize("kind", KINDS)
def test_rankings_are_those_of_brute_force(kind, dataset, runs):
    opened, k = open_predictor(runs[kind][0]), 5
    found = evaluate(opened, "test", ranking=k, relevant_from=8.0)
    rows, num_items = dataset.held_out("test"), dataset.graph.num_items
    seen = dataset.rated_items(["valid"])
    recalls = []
    for user in range(dataset.graph.num_users):
        mine = (rows.users == user) & (rows.ratings >= 8.0)
        if not mine.any():
            continue
        scores = opened.predict(torch.full((num_items,), user), torch.arange(num_items))
        scores[
            torch.from_numpy(seen.items[seen.offsets[user] : seen.offsets[user + 1]]).long()
        ] = -torch.inf
        wanted = set(rows.items[mine].tolist())
        hits = wanted & set(scores.topk(k).indices.tolist())
        recalls.append(len(hits) / len(wanted))
    assert found["ranking_users"] == len(recalls)
    if kind != "global_mean":  # there any item is as good as any other
        assert found[f"recall@{k}"] == pytest.approx(np.mean(recalls), rel=1e-6)


def test_settings_reach_the_model_and_come_back_with_it(dataset, tmp_path, runs):
    changed = settings_of("item_knn", "baseline.neighbours=2", "baseline.shrinkage=3")
    results = train(dataset, tmp_path / "run", changed)
    assert results["test"]["rmse"] != runs["item_knn"][1]["test"]["rmse"]
    assert evaluate(open_predictor(tmp_path / "run"), "test") == results["test"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_baseline_is_no_graph_model(kind, runs):
    run = runs[kind][0]
    message = f"is a run of the {kind} baseline, which has no embeddings"
    with pytest.raises(UsageError, match=message):
        open_run(run)


def test_resuming_a_finished_run_says_so_and_changes_nothing(dataset, runs, tmp_path, capsys):
    run = shutil.copytree(runs["item_knn"][0], tmp_path / "run")
    before = bytes_of(run / BEST)
    again = train(dataset, run, settings_of("item_knn"), resume=True)
    assert again == runs["item_knn"][1]
    assert "item_knn is fitted, and its training finished" in capsys.readouterr().err
    assert bytes_of(run / BEST) == before and len(lines_of(run)) == 1


def test_resuming_with_other_settings_or_data_is_refused(dataset, runs, tmp_path):
    run = shutil.copytree(runs["item_knn"][0], tmp_path / "run")
    for other in (settings_of("bias"), settings_of("item_knn", "baseline.neighbours=3")):
        with pytest.raises(UsageError, match="does not fit the configuration"):
            train(dataset, run, other, resume=True)
    source = dataset.path.parent / "source"
    moved = prepare(source, tmp_path / "other", PrepareOptions(text=False, seed=1))
    with pytest.raises(DataError, match="not the data set"):
        train(moved, run, settings_of("item_knn"), resume=True)
    with pytest.raises(DataError, match="no such run to resume"):
        train(dataset, tmp_path / "none", settings_of("bias"), resume=True)
    assert load_settings(file=run / CONFIG_FILE) == settings_of("item_knn")


class CutOff(BaseException):
    """Stands for whatever ends a process."""


@pytest.mark.parametrize("place", ["fit_model", "save_checkpoint", "append_line", "evaluate"])
def test_cut_off_anywhere_it_is_fitted_anew(dataset, runs, tmp_path, monkeypatch, place):
    def cut_off(*_, **__):
        raise CutOff

    with monkeypatch.context() as patch:
        patch.setattr(train_module, place, cut_off)
        with pytest.raises(CutOff):
            train(dataset, tmp_path / "run", settings_of("item_knn"))
    results = train(dataset, tmp_path / "run", settings_of("item_knn"), resume=True)
    expected = runs["item_knn"][1]
    assert (results["valid"], results["test"]) == (expected["valid"], expected["test"])
    assert len(lines_of(tmp_path / "run")) == 1


def test_an_existing_run_is_replaced_only_when_asked_to(dataset, tmp_path):
    run = tmp_path / "run"
    train(dataset, run, settings_of("item_knn"))
    with pytest.raises(UsageError, match="exists.*--overwrite"):
        train(dataset, run, settings_of("bias"))
    train(dataset, run, settings_of("bias"), overwrite=True)
    assert len(lines_of(run)) == 1
    assert open_predictor(run).meta["model"]["kind"] == "bias"


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("global_mean", lambda state: state.clear()),
        ("global_mean", lambda state: state.update(mean=torch.tensor(float("nan")).double())),
        ("bias", lambda state: state.update(users=state["users"][:-1].clone())),
        ("item_knn", lambda state: state.update(more=torch.zeros(1))),
        ("item_knn", lambda state: state.update(similarities=state["similarities"].float())),
        ("item_knn", lambda state: state["similarities"].fill_(float("inf"))),
    ],
)
def test_weights_of_another_model_are_refused_though_checksums_fit(kind, change, runs, tmp_path):
    run = shutil.copytree(runs[kind][0], tmp_path / "run")
    path = run / BEST / "model.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path)
    meta = json.loads((run / BEST / "meta.json").read_text())
    meta["sha256"][path.name] = checkpoint.sha256_of(path)
    (run / BEST / "meta.json").write_text(json.dumps(meta))
    remove_checksums(run)
    with pytest.raises(DataError, match="do not fit the model"):
        open_predictor(run)


@pytest.mark.parametrize(
    "changes", [{"baseline": None}, {"baseline": {"k": 3}}, {"model": {"kind": 1}}]
)
def test_a_description_of_no_baseline_is_refused(changes, runs, tmp_path):
    run = shutil.copytree(runs["item_knn"][0], tmp_path / "run")
    rewrite_meta(run / BEST, **changes)
    remove_checksums(run)
    with pytest.raises(DataError, match="describes no model of this version"):
        open_predictor(run)


def test_ranks_fit_and_measure_what_one_does(dataset, runs, tmp_path):
    def work(world):
        results = train(dataset, tmp_path / "run", settings_of("item_knn"), world=world)
        opened = open_predictor(tmp_path / "run", world=world)
        again = train(dataset, tmp_path / "run", settings_of("item_knn"), world=world, resume=True)
        assert again == results
        return [results["test"], evaluate(opened, "test", ranking=4)]

    run, results = runs["item_knn"]
    found = in_ranks(2, work)
    assert found[0] == found[1]
    for name in RATING_METRICS:
        assert found[0][0][name] == pytest.approx(results["test"][name], rel=1e-9)
    assert found[0][1]["ndcg@4"] == pytest.approx(
        evaluate(open_predictor(run), "test", ranking=4)["ndcg@4"], rel=1e-9
    )
    mine, others = (load_checkpoint(place / BEST).weights for place in (run, tmp_path / "run"))
    assert torch.equal(mine["similarities"], others["similarities"])
