"""Models that only rank against what numpy makes of the same rows, and the runs they leave."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ranks import in_ranks
from runs import lines_of, planted
from safetensors.torch import load_file, save_file
from scipy import sparse
from sklearn.metrics.pairwise import cosine_similarity
from test_biases import Ratings

from dglrec import checkpoint
from dglrec.baselines import (
    BaselineConfig,
    CosineNeighbours,
    Ease,
    GraphFilter,
    ItemNeighbours,
    Popularity,
    cosine,
    ease_weights,
    fit_model,
    graph_filter,
    inverse,
    liked_from,
    load_model,
    positives_of,
    ranker,
    search,
)
from dglrec.baselines.pairs import PairSums, gram
from dglrec.baselines.ranker import pick_best, sum_rows
from dglrec.biases import fit_biases
from dglrec.checkpoint import load_checkpoint
from dglrec.config import load_settings
from dglrec.errors import DataError, UnusableEnvironmentError, UsageError
from dglrec.evaluate.ranking import RankingTargets, next_level, ranking_figures
from dglrec.files import remove_checksums
from dglrec.kernels import ItemLists
from dglrec.run import BEST, RESULTS_FILE, open_predictor
from dglrec.schema import RatingScale
from dglrec.train import train

KINDS = ["popularity", "ease", "graph_filter"]
RANDOM = np.random.default_rng(0)


def rows_like(num_users, num_items, share=0.2, seed=0):
    """Random rows of ones as a table, with a user and an item that have none."""
    table = np.random.default_rng(seed).random((num_users, num_items)) < share
    table[num_users // 2] = table[:, num_items // 3] = False
    return table.astype(np.float32)


def csr(table):
    return sparse.csr_array(table.astype(np.float32))


def dataset_of(ratings, has_ratings=True):
    """As much of a data set as these models read."""
    biases = fit_biases(ratings.graph)
    return SimpleNamespace(
        graph=ratings.graph,
        biases=biases,
        mean_rating=biases.mean,
        scale=ratings.graph.scale,
        path="here",
        has_ratings=has_ratings,
    )


def table_of(ratings, least=-np.inf):
    table = np.zeros((ratings.num_users, ratings.num_items))
    liked = ratings.ratings >= least
    table[ratings.users[liked], ratings.items[liked]] = 1
    return table


def nothing_left_out(count):
    return ItemLists(np.zeros(count + 1, dtype=np.int64), np.empty(0, dtype=np.int32))


# --- arithmetic ----------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 3])
def test_sums_over_users_are_those_of_numpy(threads, monkeypatch):
    monkeypatch.setattr("dglrec.kernels.parallel.SMALL", 1)
    table = rows_like(40, 23) * np.random.default_rng(1).random((40, 23)).astype(np.float32)
    torch.set_num_threads(threads)
    try:
        whole, part = gram(csr(table)), PairSums(csr(table)).of(5, 11)
        weights = np.random.default_rng(2).normal(size=(23, 9)).astype(np.float32)
        product = sum_rows(csr(table), weights)
    finally:
        torch.set_num_threads(1)
    np.testing.assert_allclose(whole, table.T @ table, rtol=1e-5)
    assert np.array_equal(part, whole[5:11])
    np.testing.assert_allclose(product, table @ weights, atol=1e-5)


def test_rows_that_do_not_fit_their_matrix_are_refused():
    broken = csr(rows_like(9, 5))
    broken.indices[3] = 5
    for use in (gram, lambda rows: ease_weights(rows, 1.0)):
        with pytest.raises(ValueError, match="indices"):
            use(broken)
    with pytest.raises(ValueError, match="do not fit"):
        sum_rows(csr(rows_like(9, 5)), np.zeros((4, 4), dtype=np.float32))


@pytest.mark.parametrize(("count", "block"), [(1, 7), (6, 7), (7, 7), (50, 7), (50, 512)])
def test_inverse_is_that_of_numpy(count, block, monkeypatch):
    monkeypatch.setattr(inverse, "_BLOCK", block)
    factor = np.random.default_rng(count).normal(size=(count, count + 5))
    square = factor @ factor.T + np.eye(count)
    found = torch.from_numpy(np.triu(square).astype(np.float32))  # below it nothing is read
    done = []
    inverse.invert_in_place(found, done.append)
    np.testing.assert_allclose(found.numpy(), np.linalg.inv(square), atol=2e-4)
    assert torch.equal(found, found.T) and sum(done) == count


def test_what_has_no_inverse_is_refused():
    with pytest.raises(inverse.SingularError, match="row 2"):
        inverse.invert_in_place(torch.tensor([[1.0, 2.0], [2.0, 1.0]]), lambda _: None)
    same = np.ones((300, 4), dtype=np.float32)
    for table in (same, same.T):
        with pytest.raises(UsageError, match=r"baseline.ridge = 1e-12: too small"):
            ease_weights(csr(table), 1e-12)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 1000), count=st.integers(1, 40), levels=st.integers(1, 6))
def test_the_best_are_picked_and_equal_ones_by_place(seed, count, levels):
    generator = np.random.default_rng(seed)
    scores = generator.integers(0, levels, (3, count)).astype(np.float32)
    scores[generator.random(scores.shape) < 0.2] = -np.inf
    places, k = generator.permutation(count), int(generator.integers(1, count + 1))
    best, items = pick_best(scores, places, k)
    for row in range(3):
        expected = [i for i in np.lexsort((places, -scores[row])) if np.isfinite(scores[row, i])]
        found = np.isfinite(best[row])
        assert items[row][found].tolist() == expected[:k]
        assert np.array_equal(best[row][found], scores[row][expected[:k]])


# --- the models ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("users", "items"), [(60, 25), (25, 60), (30, 30)])
@pytest.mark.parametrize("ridge", [0.5, 20.0, 3000.0])
def test_ease_is_the_formula(users, items, ridge):
    table = rows_like(users, items).astype(float)
    inverted = np.linalg.inv(table.T @ table + ridge * np.eye(items))
    expected = -inverted / np.diag(inverted)
    np.fill_diagonal(expected, 0)
    found = ease_weights(csr(table), ridge)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max() + 1e-7)


def test_ease_minimises_what_it_says():
    """No small change of the weights, with a zero diagonal, makes the penalised error smaller."""
    table, ridge = rows_like(40, 15).astype(float), 5.0
    weights = ease_weights(csr(table), ridge).astype(float)

    def loss(b):
        return np.square(table - table @ b).sum() + ridge * np.square(b).sum()

    for _ in range(20):
        change = RANDOM.normal(size=weights.shape) * 1e-2
        np.fill_diagonal(change, 0)
        assert loss(weights + change) > loss(weights)


def normalised(table, exponent):
    with np.errstate(divide="ignore"):
        users, items = table.sum(1) ** -exponent, table.sum(0) ** (exponent - 1)
    users[~np.isfinite(users)] = items[~np.isfinite(items)] = 0
    return users[:, None] * table * items


@pytest.mark.parametrize("most_dense", [0, 1000])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize(("exponent", "power"), [(0.5, 1.0), (0.6, 0.7), (0.3, 1.4)])
def test_turbo_cf_is_brute_force(most_dense, order, exponent, power, monkeypatch):
    monkeypatch.setattr(graph_filter, "MOST_DENSE", most_dense)
    table = rows_like(30, 20).astype(float)
    rows = normalised(table, exponent)
    q = (rows.T @ rows) ** power
    polynomial = {
        1: q,
        2: 2 * q - q @ q,
        3: q + 0.01 * (-q @ q @ q + 10 * q @ q - 29 * q),
    }
    config = BaselineConfig(user_exponent=exponent, similarity_power=power, filter_order=order)
    model = GraphFilter(csr(table), table.sum(0).astype(np.int64), config)
    np.testing.assert_allclose(
        model.score_rows(csr(table)), table @ polynomial[order], rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("most_dense", [0, 1000])
def test_gf_cf_is_brute_force(most_dense, monkeypatch):
    monkeypatch.setattr(graph_filter, "MOST_DENSE", most_dense)
    monkeypatch.setattr(graph_filter, "_TOLERANCE", 0)
    ratings = Ratings(edges=140, seed=4)
    table, size, weight = table_of(ratings), 4, 0.7
    rows = normalised(table, 0.5)
    vectors = np.linalg.svd(rows)[2][:size]
    degrees = table.sum(0)
    inwards = np.where(degrees > 0, np.maximum(degrees, 1) ** -0.5, 0)
    low_pass = inwards[:, None] * (vectors.T @ vectors) * np.sqrt(degrees)
    config = BaselineConfig(
        positives="all", filter="gf_cf", low_pass_size=size, low_pass_weight=weight
    )
    model = GraphFilter.fit(dataset_of(ratings), config)
    expected = table @ (rows.T @ rows + weight * low_pass)
    np.testing.assert_allclose(model.score_rows(csr(table)), expected, atol=2e-4)
    linear, known = config.model_copy(update={"low_pass_weight": 0.0}), {}
    other = GraphFilter.fit(dataset_of(ratings), linear, known)
    np.testing.assert_allclose(other.score_rows(csr(table)), table @ rows.T @ rows, atol=1e-4)
    again = GraphFilter.fit(dataset_of(ratings), config, known)
    assert again.vectors is other.vectors


def test_fewer_singular_vectors_are_found_where_there_are_fewer():
    rows = csr(rows_like(5, 9))
    assert graph_filter.singular_vectors(rows, 256).shape == (4, 9)
    assert graph_filter.singular_vectors(csr(np.ones((1, 9))), 256).shape == (0, 9)


def test_cosines_are_those_of_scikit_learn(monkeypatch):
    monkeypatch.setattr(cosine, "_SUMS_AT_ONCE", 50)
    table = rows_like(40, 17)
    found = cosine.cosine_neighbours(csr(table), 17, shrinkage=0.0).toarray()
    expected = cosine_similarity(table.T)
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(("k", "shrinkage", "support"), [(1, 0.0, 1), (3, 7.5, 1), (5, 2.0, 4)])
def test_neighbours_are_those_of_brute_force(k, shrinkage, support):
    table = rows_like(60, 14, share=0.3).astype(float)
    both = table.T @ table
    np.fill_diagonal(both, 0)
    degrees = table.sum(0)
    both[both < support] = 0
    similar = both / np.maximum(np.sqrt(np.outer(degrees, degrees)) + shrinkage, 1e-9)
    expected = np.zeros_like(similar)
    for item, row in enumerate(similar):
        nearest = np.argsort(-row, kind="stable")[:k]
        expected[item, nearest] = row[nearest]
    found = cosine.cosine_neighbours(csr(table), k, shrinkage=shrinkage, min_support=support)
    assert np.diff(found.indptr).max() == k
    # Which of equally similar items are kept is another question.
    np.testing.assert_allclose(
        np.sort(found.toarray(), axis=1), np.sort(expected, axis=1), atol=1e-6
    )
    model = CosineNeighbours(found, csr(table), degrees.astype(np.int64))
    np.testing.assert_allclose(model.score_rows(csr(table)), table @ found.toarray().T, atol=1e-5)


# --- lists ---------------------------------------------------------------------------------------


def models_of(ratings):
    """One of each class, on the same ratings taken as interactions."""
    dataset = dataset_of(ratings, has_ratings=False)
    config = BaselineConfig(
        positives="all", ridge=3.0, filter="turbo_cf", user_exponent=0.6, similarity_power=0.7
    ).model_copy(update={"filter_order": 2, "neighbours": 3, "shrinkage": 1.0})
    return [kind.fit(dataset, config) for kind in (Ease, GraphFilter, CosineNeighbours)]


@pytest.mark.parametrize("number", range(3))
def test_lists_are_those_of_all_scores(number, monkeypatch):
    ratings = Ratings(edges=110, seed=8)
    model, table = models_of(ratings)[number], table_of(ratings)
    left_out = ratings.graph.by_user.lists
    users = torch.tensor([7, 0, 3, 4, 7])  # 4 has no rating
    k, num_items = 5, ratings.num_items
    scores, items = model.best(users, left_out, k)
    popularity = np.argsort(np.argsort(-table.sum(0), kind="stable"))
    whole = model.score_rows(csr(table))
    for place, user in enumerate(users.tolist()):
        candidates = [i for i in range(num_items) if not table[user, i]]
        expected = sorted(candidates, key=lambda i, user=user: (-whole[user, i], popularity[i]))
        found = scores[place].isfinite()
        assert items[place][found].tolist() == expected[:k]
        pairs = torch.full((int(found.sum()),), user), items[place][found]
        assert torch.equal(model.rank_pairs(*pairs), scores[place][found])
    assert items[3].tolist() == np.argsort(popularity)[:k].tolist()
    mine = np.repeat(np.arange(2), np.diff(left_out.offsets)[[7, 0]])
    lists = ItemLists(
        np.concatenate([[0], np.cumsum(np.bincount(mine))]),
        np.concatenate(
            [left_out.items[left_out.offsets[u] : left_out.offsets[u + 1]] for u in (7, 0)]
        ),
    )
    new = model.best_of_rows(csr(table[[7, 0]]), lists, k)
    assert torch.equal(new[1], items[:2]) and torch.equal(new[0], scores[:2])
    monkeypatch.setattr(ranker, "_SCORES_AT_ONCE", 1)
    for found, expected in zip(model.best(users, left_out, k), (scores, items), strict=True):
        assert torch.equal(found, expected)
    flipped = torch.tensor([7, 0, 7]), torch.tensor([2, 1, 0])
    assert model.rank_pairs(*flipped).tolist() == [whole[7, 2], whole[0, 1], whole[7, 0]]


@pytest.mark.parametrize("number", range(3))
def test_threads_change_no_bit(number, monkeypatch):
    ratings = Ratings(edges=110, seed=8)
    table = csr(table_of(ratings))
    expected = models_of(ratings)[number].score_rows(table)
    monkeypatch.setattr("dglrec.kernels.parallel.SMALL", 1)
    torch.set_num_threads(3)
    try:
        assert np.array_equal(models_of(ratings)[number].score_rows(table), expected)
    finally:
        torch.set_num_threads(1)


def test_lists_end_where_items_do_and_what_is_not_there_is_refused():
    ratings = Ratings(edges=110, seed=8)
    for model in models_of(ratings):
        count = ratings.num_items
        two_left = np.arange(2, count, dtype=np.int32)
        lists = ItemLists(np.array([0, len(two_left)]), two_left)
        row = model.positives[[0]]
        scores, items = model.best_of_rows(row, lists, count + 9)
        assert scores.shape == (1, count) and sorted(items[0, :2].tolist()) == [0, 1]
        assert (scores[0, 2:] == -torch.inf).all()
        nobody = torch.empty(0, dtype=torch.int64)
        assert model.best(nobody, ratings.graph.by_user.lists, 3)[1].shape == (0, 3)
        assert model.rank_pairs(nobody, nobody).shape == (0,)
        for user, item in ((-1, 0), (ratings.num_users, 0), (0, -1), (0, count)):
            with pytest.raises(IndexError):
                model.rank_pairs(torch.tensor([user]), torch.tensor([item]))
        with pytest.raises(ValueError, match="do not fit"):
            model.best_of_rows(csr(np.ones((1, count + 1))), lists, 3)
        with pytest.raises(UsageError, match="only ranks, and predicts no ratings"):
            model.predict(torch.tensor([0]), torch.tensor([0]))


def test_popularity_is_the_order_of_counts():
    ratings = Ratings(edges=110, seed=8)
    model, counts = Popularity(ratings.graph), ratings.graph.by_item.degrees
    scores, items = model.best(torch.tensor([3]), nothing_left_out(ratings.num_users), 99)
    assert items[0].tolist() == np.argsort(-counts, kind="stable").tolist()
    assert (scores[0].diff() < 0).all()
    assert torch.equal(model.rank_pairs(torch.tensor([3, 3]), items[0, :2]), scores[0, :2])
    new = model.best_of_rows(csr(np.ones((2, ratings.num_items))), nothing_left_out(2), 4)
    assert torch.equal(new[1][1], items[0, :4])
    assert not model.rates
    with pytest.raises(UsageError, match="only ranks"):
        model.predict(torch.tensor([0]), torch.tensor([0]))


# --- positives and settings ----------------------------------------------------------------------


def test_positives_are_those_at_the_level():
    ratings = Ratings(edges=90, seed=3)
    dataset = dataset_of(ratings)
    level = liked_from(dataset)
    assert level >= ratings.ratings.mean() > level - 1
    for which, least in (("all", 0), ("liked", level), (9.0, 9)):
        assert np.array_equal(positives_of(dataset, which).toarray(), table_of(ratings, least))
    with pytest.raises(UsageError, match=r"baseline.positives = 11: no training rating is that"):
        positives_of(dataset, 11.0)
    plain = dataset_of(ratings, has_ratings=False)
    assert np.array_equal(positives_of(plain, "liked").toarray(), table_of(ratings))


@given(mean=st.floats(1, 5), step=st.sampled_from([0.1, 0.5, 1.0]))
def test_liked_is_what_evaluate_calls_relevant(mean, step):
    dataset = SimpleNamespace(scale=RatingScale(1, 5, step), mean_rating=mean)
    assert liked_from(dataset) == pytest.approx(next_level(mean, dataset))


def test_item_knn_is_another_model_of_interactions():
    ratings = Ratings(edges=90, seed=3)
    rated, _ = fit_model("item_knn", dataset_of(ratings), BaselineConfig())
    fixed = BaselineConfig(neighbours=40, shrinkage=100.0)
    assert isinstance(rated, ItemNeighbours) and rated.rates
    same, _ = fit_model("item_knn", dataset_of(ratings), fixed)
    pairs = torch.tensor([0, 1, 2]), torch.tensor([1, 2, 3])
    assert torch.equal(rated.predict(*pairs), same.predict(*pairs))
    assert torch.equal(rated.rank_pairs(*pairs), rated.predict(*pairs))
    plain = dataset_of(ratings, has_ratings=False)
    model, chosen = fit_model("item_knn", plain, BaselineConfig(neighbours=2))
    assert isinstance(model, CosineNeighbours) and not model.rates
    assert (chosen.neighbours, chosen.shrinkage) == (2, 10.0)
    loaded = load_model("item_knn", model.state(), plain, chosen)
    assert np.array_equal(loaded.neighbours.toarray(), model.neighbours.toarray())


def test_the_best_settings_are_kept_and_those_given_stay(capsys):
    dataset = dataset_of(Ratings(edges=110, seed=8))

    def size(model):
        return float(np.abs(model.weights).sum())

    small, chosen = fit_model("ease", dataset, BaselineConfig(), score=lambda m: -size(m))
    assert chosen.ridge == max(search._RIDGES)
    large, chosen = fit_model("ease", dataset, BaselineConfig(), score=size)
    assert chosen.ridge == min(search._RIDGES) and size(large) > size(small)
    assert "chosen on validation rows: positives" in capsys.readouterr().err
    asked = BaselineConfig(ridge=7.0, positives="liked")
    model, chosen = fit_model("ease", dataset, asked, score=lambda _: pytest.fail("no choice"))
    assert chosen == asked
    expected = ease_weights(positives_of(dataset, "liked"), 7.0)
    np.testing.assert_allclose(model.weights, expected, rtol=1e-3, atol=1e-6)


def test_without_rows_to_choose_by_or_of_many_items_defaults_are_taken(monkeypatch, capsys):
    dataset = dataset_of(Ratings(edges=110, seed=8))
    _, chosen = fit_model("ease", dataset, BaselineConfig())
    assert chosen.ridge == search.DEFAULTS["ease"]["ridge"]
    assert "there are no validation rows" in capsys.readouterr().err
    monkeypatch.setattr(search, "MOST_TO_INVERT", 5)
    _, again = fit_model("ease", dataset, BaselineConfig(), score=lambda _: pytest.fail("large"))
    assert again == chosen
    assert "the catalogue is large, so settings are not searched" in capsys.readouterr().err
    monkeypatch.setattr(search, "MOST_DENSE", 5)
    _, chosen = fit_model(
        "graph_filter", dataset, BaselineConfig(), score=lambda _: pytest.fail("large")
    )
    assert (chosen.filter, chosen.low_pass_weight) == ("gf_cf", 0.3)


@pytest.mark.parametrize("kind", ["ease", "graph_filter", "item_knn"])
def test_too_little_memory_is_refused_and_much_is_said(kind, monkeypatch, capsys):
    dataset = dataset_of(Ratings(edges=110, seed=8), has_ratings=False)
    monkeypatch.setattr(ranker, "available_memory", lambda: 99)
    with pytest.raises(UnusableEnvironmentError, match=f"^model.kind {kind} needs .* of memory"):
        fit_model(kind, dataset, BaselineConfig())
    monkeypatch.undo()
    monkeypatch.setattr(ranker, "_MUCH", 1)
    fit_model(kind, dataset, BaselineConfig())
    assert f"{kind} needs " in capsys.readouterr().err


def test_ease_says_what_a_large_catalogue_takes():
    graph = SimpleNamespace(num_users=31_668, num_items=38_048, num_edges=1_237_259)
    needed = Ease.footprint(SimpleNamespace(graph=graph), BaselineConfig(), 1, False)
    assert needed == 4 * 38_048**2 + 4 * 38_048**2


@pytest.mark.parametrize(
    "change",
    [{"ridge": 0.0}, {"positives": "some"}, {"filter_order": 4}, {"user_exponent": 1.5}],
)
def test_impossible_settings_are_refused(change):
    ((key, value),) = change.items()
    with pytest.raises(UsageError, match=f"baseline.{key}"):
        load_settings(assignments=[f"baseline.{key}={value}"])


# --- runs ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return planted(tmp_path_factory.mktemp("planted"), 150, 60, 6_000)


def settings_of(kind, *assignments):
    return load_settings(assignments=[f"model.kind={kind}", *assignments])


@pytest.fixture(scope="module")
def runs(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return {
        kind: (folder / kind, train(dataset, folder / kind, settings_of(kind))) for kind in KINDS
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_reports_lists_and_ranks_the_same_when_it_is_opened(kind, dataset, runs):
    run, results = runs[kind]
    assert json.loads((run / RESULTS_FILE).read_text()) == results
    (line,) = lines_of(run)
    assert line["valid_ndcg@10"] == results["valid"]["ndcg@10"]
    assert "rmse" not in results["test"]
    opened = open_predictor(run)
    for split in ("valid", "test"):
        targets = RankingTargets.of(dataset, split, liked_from(dataset))
        again = ranking_figures(opened, targets, [10])
        assert again == {name: results[split][name] for name in again}
    if kind == "popularity":
        shown = results["test"]["baselines"]["popularity"]
        assert {name: results["test"][name] for name in shown} == shown
    else:
        assert results["valid"]["ndcg@10"] > results["valid"]["baselines"]["popularity"]["ndcg@10"]
        kept = opened.meta["baseline"]
        assert "auto" not in [kept[key] for key in search.DEFAULTS[kind]]
        assert opened.meta["configured"]["positives"] == "auto"


def test_what_was_chosen_is_best_on_validation_rows(dataset, runs, tmp_path):
    for ridge in (30, 3000):
        other = train(
            dataset,
            tmp_path / str(ridge),
            settings_of("ease", f"baseline.ridge={ridge}", "baseline.positives=all"),
        )
        assert other["valid"]["ndcg@10"] <= runs["ease"][1]["valid"]["ndcg@10"]


def test_a_finished_run_is_left_as_it_is(dataset, runs, tmp_path):
    run = shutil.copytree(runs["ease"][0], tmp_path / "run")
    assert train(dataset, run, settings_of("ease"), resume=True) == runs["ease"][1]
    with pytest.raises(UsageError, match="does not fit the configuration"):
        train(dataset, run, settings_of("ease", "baseline.ridge=3"), resume=True)


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("popularity", lambda state: state["counts"].add_(1)),
        ("ease", lambda state: state.update(weights=state["weights"].float())),
        ("ease", lambda state: state["weights"].fill_(float("nan"))),
        ("graph_filter", lambda state: state["degrees"].add_(1)),
        ("graph_filter", lambda state: state.clear()),
    ],
)
def test_weights_of_another_model_are_refused(kind, change, runs, tmp_path):
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
    "change",
    [
        lambda state: state["items"].fill_(99),
        lambda state: state["offsets"].neg_(),
        lambda state: state.pop("items"),
        lambda state: state.update(items=torch.tensor(3)),
    ],
)
def test_neighbours_of_another_model_are_refused(change):
    dataset = dataset_of(Ratings(edges=110, seed=8), has_ratings=False)
    model, chosen = fit_model("item_knn", dataset, BaselineConfig())
    state = {name: tensor.clone() for name, tensor in model.state().items()}
    change(state)
    with pytest.raises(ValueError):
        load_model("item_knn", state, dataset, chosen)


def test_ranks_have_what_one_has(dataset, runs, tmp_path):
    gf_cf = ("baseline.filter=gf_cf", "baseline.low_pass_weight=0.3", "baseline.positives=all")

    def work(world):
        found = [train(dataset, tmp_path / "ease", settings_of("ease"), world=world)]
        found.append(
            train(dataset, tmp_path / "gf", settings_of("graph_filter", *gf_cf), world=world)
        )
        return [one["test"] for one in found]

    first, second = in_ranks(2, work)
    assert first == second
    alone = train(dataset, tmp_path / "alone", settings_of("graph_filter", *gf_cf))
    for found, expected in zip(first, (runs["ease"][1], alone), strict=True):
        for name in ("recall@10", "ndcg@10"):
            assert found[name] == pytest.approx(expected["test"][name], rel=1e-9)
    for run, other in ((runs["ease"][0], "ease"), (tmp_path / "alone", "gf")):
        mine, others = (load_checkpoint(one / BEST) for one in (run, tmp_path / other))
        assert all(torch.equal(mine.weights[name], others.weights[name]) for name in mine.weights)
        assert mine.meta["baseline"] == others.meta["baseline"]


def test_memory_is_asked_for_before_a_folder_is_made_and_not_of_a_finished_run(
    dataset, runs, tmp_path, monkeypatch
):
    monkeypatch.setattr(ranker, "available_memory", lambda: 99)
    with pytest.raises(UnusableEnvironmentError, match="model.kind ease needs"):
        train(dataset, tmp_path / "run", settings_of("ease"))
    assert not (tmp_path / "run").exists()
    run, results = runs["ease"]
    assert train(dataset, run, settings_of("ease"), resume=True) == results
