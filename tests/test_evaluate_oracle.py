"""The oracle of a prepared data set, against the definition, popularity and the truth's file."""

import json
import math
import shutil

import numpy as np
import pytest
import torch

from dglrec.dataset import DATASET_FILE, PrepareOptions, RatingDataset, prepare
from dglrec.errors import DataError
from dglrec.evaluate.oracle import Oracle, share_of_the_way
from dglrec.evaluate.ranking import Popularity
from dglrec.synthetic import TRUTH_FILE, Truth, synthesize

USERS, ITEMS, RATINGS = 800, 250, 50_000
LEVEL, K = 8, 10


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("oracle") / "source"
    synthesize(folder, users=USERS, items=ITEMS, ratings=RATINGS, seed=3)
    return folder


def prepared(source, target, **options):
    return prepare(source, target, PrepareOptions(text=False, seed=1, **options))


@pytest.fixture(scope="module")
def dataset(source, tmp_path_factory):
    return prepared(source, tmp_path_factory.mktemp("oracle") / "dataset")


def phi(x):
    erfc = np.array([math.erfc(-value / math.sqrt(2)) for value in x.ravel()])
    return 0.5 * erfc.reshape(x.shape)


def definition(source, dataset, left_out, counts):
    """[U, I] chances in the data set's order, from the truth's file and in float64."""
    truth = Truth.read(source)
    users = dataset.users.ids.to_numpy()
    items = np.searchsorted(truth.item_ids, dataset.items.ids.to_numpy())
    taste = truth.user_vectors[users].astype(float) @ truth.item_vectors[items].T.astype(float)
    rate = truth.exposure.user_reach[users][:, None] + truth.exposure.item_rate[items]
    rated = 1 - np.exp(-np.exp(rate + truth.exposure.strength * taste))
    latent = truth.user_bias[users][:, None].astype(float) + truth.item_bias[items] + taste
    liked = phi((latent - truth.thresholds[LEVEL - 2]) / truth.noise_sd)
    unseen = np.maximum(counts - np.diff(left_out.offsets), 1) / counts
    held_out = unseen[:, None] * rated
    chances = held_out / (held_out + 1 - rated) * liked
    for user in range(len(users)):
        chances[user, left_out.items[left_out.offsets[user] : left_out.offsets[user + 1]]] = -np.inf
    return chances


@pytest.mark.parametrize("split", ["valid", "test"])
@pytest.mark.parametrize(
    "options", [{}, {"users": 300}, {"split": "user"}, {"complete_only": True}, {"split": "item"}]
)
def test_lists_are_the_definitions_in_the_data_sets_own_order(source, tmp_path, options, split):
    """Also of some of the users, of items that come with all attributes, and of new users."""
    dataset = prepared(source, tmp_path / "dataset", **options)
    left_out = dataset.rated_items(["valid"] if split == "test" else [])
    counts = np.diff(dataset.rated_items().offsets)
    expected = definition(source, dataset, left_out, counts)
    oracle = Oracle.of(dataset, LEVEL)
    users = torch.from_numpy(np.random.default_rng(0).permutation(len(counts)))
    scores, items = oracle.best(users, left_out, K)
    rows = expected[users.numpy()]
    assert scores.dtype == torch.float32 and items.dtype == torch.int64
    np.testing.assert_allclose(scores, -np.sort(-rows, axis=1)[:, :K], rtol=5e-5)
    np.testing.assert_allclose(np.take_along_axis(rows, items.numpy(), 1), scores, rtol=5e-5)


def ndcg(dataset, items):
    """Of test rows, written out: the mean over users with a relevant one."""
    held = dataset.held_out("test")
    relevant = {}
    for user, item, rating in zip(held.users, held.items, held.ratings, strict=True):
        if rating >= LEVEL:
            relevant.setdefault(int(user), set()).add(int(item))
    values = []
    for user, wanted in relevant.items():
        listed = items[user].tolist()
        gain = sum(1 / math.log2(rank + 2) for rank in range(K) if listed[rank] in wanted)
        ideal = sum(1 / math.log2(rank + 2) for rank in range(min(K, len(wanted))))
        values.append(gain / ideal)
    return float(np.mean(values))


def test_it_reaches_what_the_truth_says_and_beats_popularity(source, dataset):
    left_out, everybody = dataset.rated_items(["valid"]), torch.arange(USERS)
    best = ndcg(dataset, Oracle.of(dataset, LEVEL).best(everybody, left_out, K)[1])
    popular = ndcg(dataset, Popularity(dataset.graph).best(everybody, left_out, K)[1])
    lists = Truth.read(source).lists
    assert best == pytest.approx(lists.oracle["ndcg"], abs=0.04)
    assert popular == pytest.approx(lists.popularity["ndcg"], abs=0.04)
    assert best > 2 * popular


def test_of_interactions_every_row_is_relevant(source, dataset):
    """Only liked items are rows: what is not known was not rated, or not liked."""
    left_out = dataset.rated_items(["valid"])
    truth = Truth.read(source)
    counts = np.diff(dataset.rated_items().offsets)
    oracle = Oracle.of(dataset, LEVEL, interactions=True)
    scores, items = oracle.best(torch.arange(USERS), left_out, K)
    planted = dataset.planted
    unseen = np.maximum(counts - np.diff(left_out.offsets), 1) / counts
    for user in range(0, USERS, 97):
        item = items[user].numpy()
        taste = planted.item_vectors[item].astype(float) @ planted.user_vectors[user]
        rate = planted.user_reach[user] + planted.item_rate[item] + planted.strength * taste
        latent = planted.user_bias[user] + planted.item_bias[item] + taste
        row = (1 - np.exp(-np.exp(rate))) * phi(
            (latent - truth.thresholds[LEVEL - 2]) / truth.noise_sd
        )
        expected = unseen[user] * row / (1 - row + unseen[user] * row)
        np.testing.assert_allclose(scores[user], expected, rtol=1e-4)
    assert not torch.equal(
        items, Oracle.of(dataset, LEVEL).best(torch.arange(USERS), left_out, K)[1]
    )


def test_more_than_the_catalogue_is_all_of_it(dataset):
    left_out, everybody = dataset.rated_items([]), torch.arange(USERS)
    scores, items = Oracle.of(dataset, LEVEL).best(everybody, left_out, ITEMS + 7)
    assert scores.shape == items.shape == (USERS, dataset.graph.num_items)
    known = torch.from_numpy(np.diff(left_out.offsets))
    assert torch.equal((~scores.isfinite()).sum(1), known)
    assert Oracle.of(dataset, LEVEL).best(everybody[:0], left_out, K)[1].shape == (0, K)


def test_of_a_user_or_an_item_that_is_not_there_nothing_is_read(dataset):
    left_out = dataset.rated_items([])
    oracle = Oracle.of(dataset, LEVEL)
    with pytest.raises(IndexError):
        oracle.best(torch.tensor([USERS]), left_out, K)
    wrong = left_out._replace(items=left_out.items + np.int32(ITEMS))
    with pytest.raises(IndexError):
        oracle.best(torch.arange(5), wrong, K)


def test_without_or_with_an_older_truth_there_is_no_oracle(source, tmp_path):
    for name in ("none", "older"):
        shutil.copytree(source, tmp_path / name)
    (tmp_path / "none" / TRUTH_FILE).unlink()
    older = tmp_path / "older" / TRUTH_FILE
    value = json.loads(older.read_text())
    older.write_text(json.dumps({**value, "version": 1}))
    for name in ("none", "older"):
        dataset = prepared(tmp_path / name, tmp_path / f"{name}-dataset")
        assert dataset.planted is None and Oracle.of(dataset, LEVEL) is None
        assert not (dataset.path / "planted").exists()
    assert dataset.held_out("test").expected is not None  # older: for the rating part


@pytest.mark.parametrize("damage", ["missing", "shorter", "of a kind"])
def test_damaged_arrays_are_refused(dataset, tmp_path, damage):
    shutil.copytree(dataset.path, tmp_path / "dataset")
    path = tmp_path / "dataset" / "planted" / "user_reach.npy"
    array = np.load(path)
    path.unlink()
    if damage == "shorter":
        np.save(path, array[1:])
    elif damage == "of a kind":
        np.save(path, array.astype(np.float64))
    with pytest.raises(DataError, match="user_reach.*prepare the data set again"):
        _ = RatingDataset.open(tmp_path / "dataset").planted


def test_ratings_of_strangers_do_not_go_with_the_truth(source, tmp_path):
    shutil.copytree(source, tmp_path / "source")
    path = tmp_path / "source" / "rating_complete.csv"
    path.write_text(path.read_text() + f"{USERS + 5},{Truth.read(source).item_ids[0]},7\n")
    with pytest.raises(DataError, match=f"knows no user {USERS + 5}"):
        prepared(tmp_path / "source", tmp_path / "dataset")
    assert not (tmp_path / "dataset" / DATASET_FILE).exists()


def test_share_of_the_way():
    assert share_of_the_way(0.3, 0.1, 0.5) == pytest.approx(0.5)
    assert share_of_the_way(0.05, 0.1, 0.5) == pytest.approx(-0.125)
    assert share_of_the_way(0.3, 0.1, 0.1) is None
    assert share_of_the_way(0.3, 0.2, 0.1) is None
