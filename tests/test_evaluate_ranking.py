"""Lists: several lengths in one pass, what lists are like, drawn items, new ones, interactions."""

import copy
import csv
import math
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ranks import in_ranks
from test_evaluate import plain_list_metrics, plain_rows, training_rows

from dglrec.baselines import Popularity
from dglrec.baselines.dense import best_items
from dglrec.cli import output
from dglrec.cli.output import print_evaluation, print_metrics, print_results
from dglrec.dataset import PrepareOptions, prepare
from dglrec.distributed import ALONE, World
from dglrec.errors import DglrecError, UsageError
from dglrec.evaluate import RankingTargets, evaluate, rank_lists
from dglrec.evaluate.candidates import draw, sampled_figures
from dglrec.evaluate.groups import head_items
from dglrec.evaluate.ranking import lists_of
from dglrec.evaluate.traits import ListTraits
from dglrec.kernels import ItemLists
from dglrec.metrics import RANKING_METRICS
from dglrec.synthetic import synthesize

KS = (1, 3, 8)


@dataclass(frozen=True)
class Scores:
    """Ranks by a table of scores, and predicts ratings by another."""

    dataset: object
    scores: torch.Tensor
    ratings: torch.Tensor
    world: World = ALONE
    rates: bool = True
    learned_from: tuple[str, ...] = ("train",)

    def prepare(self):
        """Nothing."""

    def check_unseen(self, split):
        """It has learned from nothing."""

    def predict(self, users, items):
        return self.ratings[users, items]

    def rank_pairs(self, users, items):
        return self.scores[users, items]

    def best(self, users, left_out, k):
        return best_items(self.rank_pairs, self.scores.shape[1], users, left_out, k)


def with_random_scores(dataset, **options):
    generator = torch.Generator().manual_seed(5)
    shape = (dataset.graph.num_users, dataset.graph.num_items)
    # Popular items score higher, so that figures of a model and of new items differ.
    degrees = torch.from_numpy(dataset.graph.by_item.degrees)
    scores = torch.rand(shape, generator=generator) + degrees / degrees.max()
    return Scores(dataset, scores, 1 + 9 * torch.rand(shape, generator=generator), **options)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """70 users and 40 items with genres; 8 users and 6 items have no training rating."""
    folder = tmp_path_factory.mktemp("lists")
    synthesize(folder / "source", users=70, items=40, ratings=1_100, seed=2)
    with (folder / "source" / "rating_complete.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    users, items = (sorted({row[place] for row in rows}, key=int) for place in (0, 1))
    generator = np.random.default_rng(0)
    held = [row[0] in users[:8] or row[1] in items[-6:] or generator.random() < 0.2 for row in rows]
    for name, is_held in (("train", False), ("test", True)):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            part = [row for row, out in zip(rows, held, strict=True) if out is is_held]
            csv.writer(file).writerows([header, *part])
    options = PrepareOptions(
        text=False, train_file=folder / "train.csv", test_file=folder / "test.csv"
    )
    return prepare(folder / "source", folder / "data", options)


@pytest.fixture(scope="module")
def ranker(dataset):
    return with_random_scores(dataset)


@pytest.fixture(scope="module")
def interactions(dataset):
    """The same rows, taken for interactions."""
    opened = copy.copy(dataset)
    opened.meta = {**dataset.meta, "feedback": "interactions"}
    return opened


def plain_lists(dataset, scores, split, k):
    """Each user's list of up to k items, by sorting."""
    known: dict[int, set[int]] = {}
    for part in ["train", "valid"] if split == "test" else ["train"]:
        for user, item, _ in plain_rows(dataset, part):
            known.setdefault(user, set()).add(item)
    lists = {}
    for user, row in enumerate(scores.tolist()):
        items = sorted(range(len(row)), key=lambda item: (-row[item], item))
        lists[user] = [item for item in items if item not in known.get(user, ())][:k]
    return lists


def plain_relevant(dataset, split, relevant_from):
    relevant: dict[int, set[int]] = {}
    for user, item, rating in plain_rows(dataset, split):
        if rating >= relevant_from:
            relevant.setdefault(user, set()).add(item)
    return relevant


def plain_figures(lists, relevant, ks):
    found: dict[str, list[float]] = {}
    for user, wanted in relevant.items():
        for k in ks:
            for name, value in plain_list_metrics(lists[user][:k], wanted, k).items():
                found.setdefault(f"{name}@{k}", []).append(value)
    return {name: np.mean(values) for name, values in found.items()}


def popularity_scores(dataset):
    degrees = torch.from_numpy(dataset.graph.by_item.degrees).float()
    return degrees.expand(dataset.graph.num_users, -1)


def of_names(result, expected):
    return {name: result[name] for name in expected}


# ---------------------------------------------------------------- several K


@pytest.mark.parametrize("split", ["test", "valid"])
@pytest.mark.parametrize("at_once", [4096, 3])
def test_several_lengths_are_measured_in_one_pass(ranker, split, at_once, monkeypatch):
    monkeypatch.setattr("dglrec.evaluate.ranking._USERS_AT_ONCE", at_once)
    result = evaluate(ranker, split, ranking=KS, relevant_from=7)
    relevant = plain_relevant(ranker.dataset, split, 7)
    for figures, scores in (
        (result, ranker.scores),
        (result["baselines"]["popularity"], popularity_scores(ranker.dataset)),
    ):
        lists = plain_lists(ranker.dataset, scores, split, max(KS))
        expected = plain_figures(lists, relevant, KS)
        assert len(expected) == len(KS) * len(RANKING_METRICS)
        assert of_names(figures, expected) == pytest.approx(expected)
    assert result["ranking_users"] == len(relevant)
    assert result["relevant_from"] == 7
    for k in KS:
        alone = evaluate(ranker, split, ranking=k, relevant_from=7)
        names = [name for name in alone if name.endswith(f"@{k}")]
        assert of_names(alone, names) == pytest.approx(of_names(result, names), rel=1e-12)


def test_lengths_are_sorted_and_named_once(ranker):
    assert evaluate(ranker, ranking=[8, 1, 3, 8]) == evaluate(ranker, ranking=KS)
    with pytest.raises(UsageError, match="name a length"):
        evaluate(ranker, ranking=())
    with pytest.raises(UsageError, match="--ranking 41: must be from 1 to the catalogue's 40"):
        evaluate(ranker, ranking=(1, 41))


def test_validation_ranks_as_evaluate_does(ranker):
    """What training calls: targets once, then lists of whom it likes."""
    targets = RankingTargets.of(ranker.dataset, "valid", 7)
    found = rank_lists(ranker.best, targets, KS).finish()
    assert found == pytest.approx(
        of_names(evaluate(ranker, "valid", ranking=KS, relevant_from=7), found)
    )
    few = torch.tensor([9, 3, 40, 12])
    targets = RankingTargets.of(ranker.dataset, "valid", 7, users=few)
    relevant = plain_relevant(ranker.dataset, "valid", 7)
    relevant = {user: items for user, items in relevant.items() if user in few.tolist()}
    assert targets.users.tolist() == sorted(relevant)
    lists = plain_lists(ranker.dataset, ranker.scores, "valid", max(KS))
    found = rank_lists(ranker.best, targets, KS).finish()
    expected = plain_figures(lists, relevant, KS)
    assert of_names(found, expected) == pytest.approx(expected)


def test_scores_that_are_no_numbers_are_refused(ranker):
    broken = ranker.scores.clone()
    broken[5, 3] = math.nan
    targets = RankingTargets.of(ranker.dataset, "test", 1)
    with pytest.raises(DglrecError, match="not numbers"):
        rank_lists(replace(ranker, scores=broken).best, targets, KS)
    with pytest.raises(DglrecError, match="not numbers"):
        sampled_figures(
            replace(ranker, scores=broken * torch.nan), targets, KS, candidates=9, seed=0
        )


@given(st.data())
def test_lists_are_held_against_what_is_relevant(data):
    """Any targets, any scores: what is found relevant is what a set says, and no more."""
    num_users, num_items = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 8))
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    wanted = generator.random((num_users, num_items)) < 0.4
    wanted[0, 0] = True
    seen = generator.random((num_users, num_items)) < data.draw(st.sampled_from([0, 0.5, 1]))
    users = np.flatnonzero(wanted.any(1))
    offsets = np.append(0, np.cumsum(seen.sum(1)))
    targets = RankingTargets(
        users=users,
        keys=np.flatnonzero(wanted),
        offsets=np.append(0, np.cumsum(wanted[users].sum(1))),
        left_out=ItemLists(offsets, np.nonzero(seen)[1].astype(np.int32)),
        num_items=num_items,
    )
    scores = torch.from_numpy(generator.random((num_users, num_items)))
    k = data.draw(st.integers(1, num_items))

    def best(some, left_out, k):
        return best_items(lambda u, i: scores[u, i], num_items, some, left_out, k)

    (lists,) = lists_of(best, targets, k)
    assert lists.users.tolist() == users.tolist()
    assert lists.totals.tolist() == wanted[users].sum(1).tolist()
    for place, user in enumerate(users):
        items = lists.items[place][lists.listed[place]]
        assert len(items) == min(k, num_items - seen[user].sum())
        assert not seen[user][items].any() and len(set(items.tolist())) == len(items)
        assert lists.relevant[place].sum() == wanted[user][items].sum()
    some = generator.random(num_items) < 0.5
    relevant, totals = lists.restricted_to(some)
    assert totals.tolist() == (wanted & some)[users].sum(1).tolist()
    assert (relevant == (lists.relevant & some[lists.items])).all()


def test_who_has_seen_everything_gets_an_empty_list(dataset):
    num_items = dataset.graph.num_items
    user = int(dataset.graph.by_user.degrees.argmax())
    everything = np.arange(num_items, dtype=np.int32)
    offsets = np.zeros(dataset.graph.num_users + 1, dtype=np.int64)
    offsets[user + 1 :] = num_items
    targets = RankingTargets(
        users=np.array([user]),
        keys=np.array([user * num_items + 3]),
        offsets=np.array([0, 1]),
        left_out=ItemLists(offsets, everything),
        num_items=num_items,
    )
    traits = ListTraits(dataset)
    for best in (Popularity(dataset.graph).best, with_random_scores(dataset).best):
        (lists,) = lists_of(best, targets, 5)
        assert not lists.listed.any()
        sums = traits.sums(lists.users, lists.items, lists.listed)
        assert (traits.zero() + sums).finish() == {"coverage": 0}
        found = rank_lists(best, targets, (5,)).finish()
        assert found["ranking_users"] == 1 and found["recall@5"] == found["mrr@5"] == 0


# ---------------------------------------------------------------- popularity


@given(st.integers(0, 2**32), st.integers(1, 9))
def test_popularity_is_a_stable_sort_without_what_was_seen(seed, k):
    generator = np.random.default_rng(seed)
    degrees = generator.integers(0, 4, 9)
    graph = type("Graph", (), {"num_items": 9, "by_item": type("Side", (), {"degrees": degrees})})
    seen = generator.random((5, 9)) < generator.random()
    left_out = ItemLists(np.append(0, np.cumsum(seen.sum(1))), np.nonzero(seen)[1].astype(np.int32))
    users = generator.permutation(5)
    popularity = Popularity(graph)
    scores, items = popularity.best(torch.from_numpy(users), left_out, k)
    for user, row, row_scores in zip(users, items.tolist(), scores, strict=True):
        expected = [i for i in sorted(range(9), key=lambda i: -degrees[i]) if not seen[user, i]]
        size = int(row_scores.isfinite().sum())
        assert row[:size] == expected[:k] and size == min(k, len(expected))
        assert (row_scores[:size].diff() < 0).all()


def test_popularity_refuses_lists_that_do_not_fit(dataset):
    popularity, users = Popularity(dataset.graph), torch.tensor([0])
    with pytest.raises(IndexError, match="unknown"):
        popularity.best(users, ItemLists(np.array([0, 1]), np.array([40], dtype=np.int32)), 3)
    with pytest.raises(ValueError, match="outside"):
        popularity.best(users, ItemLists(np.array([0, 9]), np.array([4], dtype=np.int32)), 3)


# ---------------------------------------------------------------- what lists are like


def plain_traits(dataset, lists):
    """What the lists of some users are like, one after the other."""
    num_items = dataset.graph.num_items
    raters = [0] * num_items
    profiles: dict[int, list[int]] = {}
    for user, item, _ in training_rows(dataset):
        raters[item] += 1
        profiles.setdefault(user, []).append(item)
    head, features = head_items(np.array(raters)), dataset.item_features.double()
    counts = np.zeros(num_items)
    novelty, tail, diversity, popularity, profile = [], [], [], [], []
    for user, items in lists.items():
        counts[items] += 1
        novelty.append(np.mean([-math.log2(max(raters[i], 1) / len(profiles)) for i in items]))
        tail.append(np.mean([not head[i] for i in items]))
        cosines = [
            float(torch.nn.functional.cosine_similarity(features[a], features[b], dim=0))
            for a, b in combinations(items, 2)
        ]
        if cosines:
            diversity.append(1 - np.mean(cosines))
        if user in profiles:
            popularity.append(np.mean([raters[i] for i in items]))
            profile.append(np.mean([raters[i] for i in profiles[user]]))
    differences = np.abs(counts[:, None] - counts[None]).mean()
    expected = {
        "coverage": np.mean(counts > 0),
        "gini": differences / 2 / counts.mean(),
        "novelty": np.mean(novelty),
        "tail_share": np.mean(tail),
        "popularity_lift": np.mean(popularity) / np.mean(profile) - 1,
    }
    return expected | ({"diversity": np.mean(diversity)} if diversity else {})


@pytest.mark.parametrize("ks", [(8,), (3, 5), (1,), (40,)])
def test_what_lists_are_like(ranker, ks):
    dataset, k = ranker.dataset, max(ks)
    result = evaluate(ranker, ranking=ks, relevant_from=7)["lists"]
    assert result.pop("k") == k
    popularity = result.pop("baselines")["popularity"]
    users = plain_relevant(dataset, "test", 7)
    for found, scores in ((result, ranker.scores), (popularity, popularity_scores(dataset))):
        lists = plain_lists(dataset, scores, "test", k)
        expected = plain_traits(dataset, {user: lists[user] for user in users})
        assert found == pytest.approx(expected, rel=1e-5)
        assert ("diversity" in found) == (k > 1)
    if k == 8:  # what a list of popular items is like
        assert popularity["popularity_lift"] > result["popularity_lift"]
        assert popularity["novelty"] < result["novelty"]
        assert popularity["coverage"] < result["coverage"]
        assert popularity["gini"] > result["gini"]


def test_items_without_features_are_like_no_other(dataset):
    traits = ListTraits(dataset)
    listed = np.ones((1, 2), dtype=bool)
    genres = traits._features
    genres[3] = 0
    for items, expected in (([3, 3], 1.0), ([3, 5], 1.0), ([5, 5], 0.0)):
        sums = traits.sums(np.array([20]), np.array([items]), listed)
        assert sums.finish()["diversity"] == pytest.approx(expected, abs=1e-6)


def test_without_features_nothing_is_said_of_diversity(dataset):
    bare = copy.copy(dataset)
    bare.item_features = torch.zeros(dataset.graph.num_items, 0)
    found = evaluate(with_random_scores(bare), ranking=5)["lists"]
    assert "diversity" not in found and "novelty" in found


# ---------------------------------------------------------------- new users, new items


def test_new_users_and_new_items_are_measured_apart(ranker):
    dataset = ranker.dataset
    result = evaluate(ranker, ranking=KS, relevant_from=7)
    is_new_user = dataset.graph.by_user.degrees == 0
    is_new_item = dataset.graph.by_item.degrees == 0
    relevant = plain_relevant(dataset, "test", 7)
    of_new_users = {user: items for user, items in relevant.items() if is_new_user[user]}
    of_new_items = {user: {i for i in items if is_new_item[i]} for user, items in relevant.items()}
    of_new_items = {user: items for user, items in of_new_items.items() if items}
    assert 0 < len(of_new_users) < len(relevant) and 0 < len(of_new_items) < len(relevant)
    for name, wanted in (("new_users", of_new_users), ("new_items", of_new_items)):
        assert result[name]["ranking_users"] == len(wanted)
        assert "rmse" in result[name] and "bias" in result[name]["baselines"]  # as without ranking
        for figures, scores in (
            (result[name], ranker.scores),
            (result[name]["baselines"]["popularity"], popularity_scores(dataset)),
        ):
            expected = plain_figures(plain_lists(dataset, scores, "test", 8), wanted, KS)
            assert of_names(figures, expected) == pytest.approx(expected)
    assert "ranking_users" not in evaluate(ranker, "valid", ranking=5).get("new_items", {})


# ---------------------------------------------------------------- drawn items


@given(st.integers(0, 2**32), st.integers(1, 12))
def test_drawn_items_differ_and_are_not_the_users(seed, count):
    generator = np.random.default_rng(seed)
    seen = generator.random((4, 10)) < generator.random()
    items = [np.repeat(np.flatnonzero(row), generator.integers(1, 3)) for row in seen]
    lists = ItemLists(
        np.append(0, np.cumsum([len(one) for one in items])),
        np.concatenate(items).astype(np.int32),
    )
    users = generator.integers(0, 4, 7)
    chances = generator.random((7, count))
    chances[0] = np.nextafter(1, 0)
    drawn, sizes = draw(lists, users, 10, chances)
    for user, row, size in zip(users, drawn.tolist(), sizes, strict=True):
        others = set(np.flatnonzero(~seen[user]).tolist())
        assert size == min(count, len(others))
        assert len(set(row[:size])) == size and set(row[:size]) <= others
        if size == len(others):
            assert set(row[:size]) == others


def test_every_set_of_items_is_drawn_equally_often():
    lists = ItemLists(
        np.array([0, 2]), np.array([1, 4], dtype=np.int32)
    )  # of 7: 0 2 3 5 6 are left
    n = 20_000
    chances = np.random.default_rng(0).random((n, 2))
    drawn, _ = draw(lists, np.zeros(n, dtype=np.int64), 7, chances)
    sets, counts = np.unique(np.sort(drawn, axis=1), axis=0, return_counts=True)
    assert sets.tolist() == [list(pair) for pair in combinations([0, 2, 3, 5, 6], 2)]
    chi_square = ((counts - n / 10) ** 2 / (n / 10)).sum()
    assert chi_square < 27.9  # 9 degrees of freedom: p > 0.001, and the seed is fixed


@pytest.mark.parametrize("items", [[2, 1], [-1, 3], [3, 7]])
def test_items_that_make_no_list_are_not_drawn_from(items):
    lists = ItemLists(np.array([0, 2]), np.array(items, dtype=np.int32))
    with pytest.raises(IndexError, match="do not ascend, or are not of the catalogue"):
        draw(lists, np.array([0]), 7, np.zeros((1, 3)))
    with pytest.raises(IndexError, match="outside"):
        draw(ItemLists(np.array([0, 9]), lists.items), np.array([0]), 7, np.zeros((1, 3)))


def plain_sampled(dataset, scores, ks, drawn_of):
    """Figures over pairs, given what was drawn for each; equal scores count against the item."""
    found: dict[str, list[float]] = {}
    for (user, item), drawn in drawn_of.items():
        place = 1 + sum(bool(scores[user, other] >= scores[user, item]) for other in drawn)
        for k in ks:
            hit = place <= k
            found.setdefault(f"hit_rate@{k}", []).append(hit)
            found.setdefault(f"ndcg@{k}", []).append(hit / math.log2(place + 1))
            found.setdefault(f"mrr@{k}", []).append(hit / place)
    return {name: np.mean(values) for name, values in found.items()}


@pytest.mark.parametrize("own_order", [True, False])
def test_relevant_items_are_ranked_among_drawn_ones(ranker, own_order, monkeypatch):
    """With all other items drawn nothing is left to chance."""
    dataset, num_items = ranker.dataset, ranker.dataset.graph.num_items
    everywhere = [
        row[:2] for part in ("train", "valid", "test") for row in plain_rows(dataset, part)
    ]
    known: dict[int, set[int]] = {}
    for user, item in everywhere:
        known.setdefault(user, set()).add(item)
    drawn_of = {
        (user, item): set(range(num_items)) - known[user]
        for user, items in plain_relevant(dataset, "test", 7).items()
        for item in items
    }
    monkeypatch.setattr("dglrec.evaluate.candidates._PAIRS_AT_ONCE", 200)
    if not own_order:  # a model without an order of its own lists by its predicted ratings
        monkeypatch.delattr(Scores, "rank_pairs")
        best = Popularity(dataset.graph).best
        monkeypatch.setattr(Scores, "best", lambda self, users, seen, k: best(users, seen, k))
    scores = ranker.scores if own_order else ranker.ratings
    options = {"ranking": KS, "relevant_from": 7, "candidates": num_items - 1}
    found = evaluate(ranker, **options)["sampled"]
    assert found["pairs"] == len(drawn_of)
    assert found["pairs_with_fewer"] == sum(len(one) < num_items - 1 for one in drawn_of.values())
    assert found["candidates"] == num_items - 1 and "KDD 2020" in found["note"]
    expected = plain_sampled(dataset, scores, KS, drawn_of)
    assert of_names(found, expected) == pytest.approx(expected)
    order = -np.argsort(np.argsort(-dataset.graph.by_item.degrees, kind="stable"))
    order = np.broadcast_to(order, scores.shape)
    expected = plain_sampled(dataset, order, KS, drawn_of)
    assert found["baselines"]["popularity"] == pytest.approx(expected)


def test_drawing_few_items_flatters_and_is_repeated_by_seed(ranker):
    def sampled(**options):
        return evaluate(ranker, ranking=(1, 3), relevant_from=7, **options)["sampled"]

    found = sampled(candidates=3, seed=1)
    assert found == sampled(candidates=3, seed=1)
    assert found["ndcg@3"] != sampled(candidates=3, seed=2)["ndcg@3"]
    assert found["ndcg@3"] > sampled(candidates=12, seed=1)["ndcg@3"]


def test_a_model_that_cannot_tell_items_apart_earns_nothing(ranker):
    constant = replace(ranker, scores=torch.ones_like(ranker.scores))
    found = evaluate(constant, ranking=3, relevant_from=7, candidates=5)["sampled"]
    seen = np.diff(ranker.dataset.rated_items().offsets)
    relevant = plain_relevant(ranker.dataset, "test", 7)
    # Who has seen nearly everything has fewer than three other items to draw from.
    trivial = sum(len(items) for user, items in relevant.items() if seen[user] > 40 - 3)
    assert found["hit_rate@3"] == pytest.approx(trivial / found["pairs"])
    assert 0 < found["hit_rate@3"] < 0.3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"candidates": 5}, "goes with --ranking"),
        ({"ranking": 5, "candidates": 0}, "must be from 1 to the catalogue's 39 other"),
        ({"ranking": 5, "candidates": 40}, "must be from 1 to the catalogue's 39 other"),
        ({"ranking": (2, 8), "candidates": 7}, "lists of 8 would hold them all"),
        ({"ranking": 5, "candidates": 7, "seed": -1}, "--seed -1: must be 0 or more"),
        ({"relevant_from": 7.0}, "--relevant-from goes with --ranking"),
    ],
)
def test_impossible_candidates_are_refused(ranker, options, message):
    with pytest.raises(UsageError, match=message):
        evaluate(ranker, **options)


# ---------------------------------------------------------------- no predicted ratings


def test_interactions_have_ranking_alone(interactions):
    ranker = with_random_scores(interactions)
    result = evaluate(ranker)
    relevant = plain_relevant(interactions, "test", -1)  # all of them
    lists = plain_lists(interactions, ranker.scores, "test", 10)
    expected = plain_figures(lists, relevant, [10])
    assert of_names(result, expected) == pytest.approx(expected)
    assert result["split"] == "test" and result["n"] == interactions.meta["counts"]["test"]
    assert set(result["baselines"]) == {"popularity"}
    for name in ("rmse", "mae", "accuracy", "relevant_from", "head_items", "gap_closed"):
        assert name not in result
    assert "rmse" not in result["new_users"] and "recall@10" in result["new_items"]
    assert evaluate(ranker, ranking=3) != result


@pytest.mark.parametrize("option", ["details", "given", "relevant_from"])
def test_what_needs_ratings_is_refused_for_interactions(interactions, option):
    option_name = "--" + option.replace("_", "-")
    with pytest.raises(UsageError, match=f"{option_name} needs ratings, and a data set of inter"):
        evaluate(with_random_scores(interactions), **{option: 1})
    with pytest.raises(UsageError, match="choose test or valid"):
        evaluate(with_random_scores(interactions), "train")
    with pytest.raises(UsageError, match="choose test, valid, train"):
        evaluate(with_random_scores(interactions), "tests")


def test_a_model_that_predicts_no_rating_has_ranking_alone(ranker):
    silent = replace(ranker, rates=False)
    result = evaluate(silent)
    whole = evaluate(ranker, ranking=10)
    assert "rmse" not in result and result["relevant_from"] == whole["relevant_from"]
    names = [name for name in whole if "@" in name]
    assert of_names(result, names) == of_names(whole, names)
    assert evaluate(silent, ranking=3, relevant_from=9)["relevant_from"] == 9
    for option in ("details", "given"):
        with pytest.raises(UsageError, match=f"--{option} needs ratings, and the model predicts"):
            evaluate(silent, **{option: 1})


# ---------------------------------------------------------------- many processes, and people


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_come_to_the_lists_of_one(ranker, interactions, size, monkeypatch):
    monkeypatch.setattr("dglrec.evaluate.candidates._PAIRS_AT_ONCE", 100)

    def figures(world):
        clicks = with_random_scores(interactions, world=world)
        rated = replace(ranker, world=world)
        return [
            evaluate(rated, ranking=KS, relevant_from=7, candidates=8),
            evaluate(clicks, "valid", ranking=4),
        ]

    expected = figures(ALONE)
    assert expected[0]["sampled"]["pairs"] > 50
    found = in_ranks(size, figures)
    assert found == [found[0]] * size
    for one, other in zip(found[0], expected, strict=True):
        assert_same(one, other)


def assert_same(one, other):
    assert one.keys() == other.keys()
    for key, value in one.items():
        if isinstance(value, dict):
            assert_same(value, other[key])
        elif isinstance(value, float):
            assert value == pytest.approx(other[key], rel=1e-9)
        else:
            assert value == other[key]


def test_lists_of_a_few_users_are_not_printed(ranker, capsys):
    result = evaluate(ranker, ranking=KS)
    few = {**result["new_users"], "ranking_users": 19}
    none = {key: 0.0 if "@" in key else value for key, value in result["new_users"].items()}
    print_evaluation({**result, "new_users": few, "new_items": {**none, "ranking_users": 20}})
    out = capsys.readouterr().out
    assert "note: lists of 19 users without training items:\ntoo few to say anything" in out
    assert "users with relevant new items, of which only these count here:\nno list" in out


def test_lists_are_held_against_the_most_popular_items(ranker, capsys):
    result = evaluate(ranker, ranking=KS)
    popular = result["baselines"]["popularity"]["ndcg@1"]
    for ratio, is_close in ((1.04, True), (1.06, False)):
        print_metrics({**result, "ndcg@1": ratio * popular})
        out = capsys.readouterr().out
        assert f"the model's ndcg@1 is {ratio:.2f} times that of the most popular items" in out
        assert ("hardly better" in out) == is_close


def test_lists_are_printed(ranker, interactions, capsys, monkeypatch):
    monkeypatch.setattr(output, "_FEW_USERS", 0)
    clicks = with_random_scores(interactions)
    for one in (ranker, clicks):
        result = evaluate(one, ranking=KS, candidates=20)
        print_evaluation(result)
        out = capsys.readouterr().out
        for figures in (
            result,
            result["baselines"]["popularity"],
            result["new_users"],
            result["new_items"]["baselines"]["popularity"],
            result["sampled"],
        ):
            for name in ("ndcg@1", "hit_rate@3", "mrr@8"):
                assert f"{figures[name]:.4f}" in out
        for name in ("coverage", "gini", "novelty", "diversity", "tail_share", "popularity_lift"):
            assert f"{result['lists'][name]:.4f}" in out
            assert name.replace("_", " ") in out
        assert "not comparable" in out and "nan" not in out
        assert ("rmse" in out) == ("rmse" in result)
        tables = [line for line in out.splitlines() if not line.startswith("note: ")]
        assert max(map(len, tables)) <= 100
    print_results({"training_seconds": 1.0, "kind": "ease", "test": evaluate(clicks)})
    out = capsys.readouterr().out
    assert "ease fitted" in out and "recall" in out and "popularity" in out
