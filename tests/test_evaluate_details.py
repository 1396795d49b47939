"""Figures of groups of rows and of new users, held against pandas over the rows themselves."""

import csv
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ranks import in_ranks
from test_evaluate import plain_list_metrics, predictions_of, training_rows, with_random_model

from dglrec.baselines import Popularity
from dglrec.cli.output import print_evaluation, print_results
from dglrec.dataset import PrepareOptions, prepare
from dglrec.errors import UsageError
from dglrec.evaluate import evaluate
from dglrec.evaluate import rows as rows_module
from dglrec.evaluate.given import deal, item_means
from dglrec.evaluate.groups import head_items
from dglrec.graph import group_by_user
from dglrec.infer import Scorer, embed_new_users
from dglrec.kernels import ItemLists
from dglrec.nn import NodeValues
from dglrec.schema import RatingScale
from dglrec.synthetic import synthesize

ACTIVITY = {
    "0": (0, 0),
    "1-4": (1, 4),
    "5-9": (5, 9),
    "10-19": (10, 19),
    "20-49": (20, 49),
    "50-99": (50, 99),
    "100-199": (100, 199),
    "200-499": (200, 499),
    "500-999": (500, 999),
    "1000+": (1000, 10**9),
}


def prepared(folder, train, test, **options):
    folder.mkdir(exist_ok=True)
    for name, rows in (("train", train), ("test", test)):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("user_id", "item_id", "rating"), *rows])
    options = PrepareOptions(
        text=False,
        train_file=folder / "train.csv",
        test_file=folder / "test.csv",
        scale=RatingScale(1, 10),
        **options,
    )
    return prepare(folder / "train.csv", folder / "data", options)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Some users and items that only test rows have; activity and popularity from 1 to over 100."""
    generator = np.random.default_rng(3)
    users, items = 160, 60
    likelihood = np.outer(1 / (1 + np.arange(users) / 20), 1 / (1 + np.arange(items) / 12))
    chosen = generator.random((users, items)) < 1.5 * likelihood
    pairs = np.argwhere(chosen)
    ratings = generator.integers(1, 11, len(pairs))
    held = generator.random(len(pairs)) < 0.25
    rows = [
        (int(user), int(item), int(rating))
        for (user, item), rating in zip(pairs, ratings, strict=True)
    ]
    train = [row for row, out in zip(rows, held, strict=True) if not out]
    test = [row for row, out in zip(rows, held, strict=True) if out]
    for user in range(500, 512):  # nobody new has as many ratings as another
        for item in generator.choice(items, user - 498, replace=False):
            test.append((user, int(item), int(generator.integers(1, 11))))
    test += [(user, 900 + user % 3, user % 10 + 1) for user in range(20)]
    order = generator.permutation(len(test))
    folder = tmp_path_factory.mktemp("cold") / "cold"
    return with_random_model(prepared(folder, train, [test[i] for i in order]))


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Whole users tested, with a truth."""
    folder = tmp_path_factory.mktemp("planted")
    synthesize(folder / "source", users=60, items=30, ratings=1_000, seed=1)
    options = PrepareOptions(text=False, valid=0.2, test=0.2, split="user")
    return with_random_model(prepare(folder / "source", folder / "data", options))


def clipped(values, dataset):
    return np.clip(
        np.asarray(values, dtype=np.float64), dataset.scale.minimum, dataset.scale.maximum
    )


def frame_of(trained, split="test"):
    """The rows with all that figures are made of, one column each."""
    dataset = trained.dataset
    rows = dataset.held_out(split)
    train = pd.DataFrame(training_rows(dataset), columns=["user", "item", "rating"])
    frame = pd.DataFrame(
        {"user": rows.users.numpy(), "item": rows.items.numpy(), "rating": rows.ratings.numpy()}
    )
    triples = list(frame[["user", "item", "rating"]].itertuples(index=False, name=None))
    frame["model"] = clipped(predictions_of(trained, triples), dataset)
    biases = dataset.biases
    frame["bias"] = clipped(
        biases.mean + biases.users.numpy()[frame.user] + biases.items.numpy()[frame.item], dataset
    )
    frame["of_user"] = frame.user.map(train.user.value_counts()).fillna(0)
    frame["of_item"] = frame.item.map(train.item.value_counts()).fillna(0)
    return frame


def rmse(predictions, ratings):
    return float(np.sqrt(np.mean((predictions - ratings) ** 2)))


def plain(frame):
    """What is said of any group of rows."""
    return {
        "n": len(frame),
        "rmse": rmse(frame.model, frame.rating),
        "mae": float((frame.model - frame.rating).abs().mean()),
        "accuracy": float((np.floor(frame.model + 0.5) == frame.rating).mean()),
        "baselines": {"bias": {"rmse": rmse(frame.bias, frame.rating)}},
    }


def flat(value, name=""):
    """Nested figures by path."""
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        return {path: leaf for key, v in pairs for path, leaf in flat(v, f"{name}/{key}").items()}
    return {name: value}


def assert_same(found, expected, rel=1e-6):
    numbers, wanted = flat(found), flat(expected)
    texts = {name for name, value in wanted.items() if isinstance(value, str)}
    assert {name: numbers.pop(name) for name in texts} == {n: wanted.pop(n) for n in texts}
    assert numbers == pytest.approx(wanted, rel=rel, abs=rel)


# ---------------------------------------------------------------- groups of rows


def test_new_and_old_head_and_tail_are_told_apart(trained):
    frame, result = frame_of(trained), evaluate(trained)
    sizes = np.bincount([item for _, item, _ in training_rows(trained.dataset)], minlength=63)
    order, head, held = sorted(range(63), key=lambda item: (-sizes[item], item)), set(), 0
    while held < 0.8 * sizes.sum():
        head.add(order[len(head)])
        held = sum(sizes[item] for item in head)
    expected = {
        "new_users": plain(frame[frame.of_user == 0]),
        "new_items": plain(frame[frame.of_item == 0]),
        "head_items": plain(frame[frame.item.isin(head)]),
        "tail_items": plain(frame[~frame.item.isin(head)]),
    }
    assert len({part["n"] for part in expected.values()}) == 4
    assert expected["new_users"]["n"] >= sum(range(2, 14))
    assert_same({name: result[name] for name in expected}, expected)
    assert result["head_items"]["n"] + result["tail_items"]["n"] == result["n"]


def test_of_what_there_are_no_rows_nothing_is_said(trained):
    result = evaluate(trained, "train")
    assert "new_users" not in result and "new_items" not in result
    assert result["head_items"]["n"] + result["tail_items"]["n"] == result["n"]
    assert "details" not in result and "notes" not in result


@given(st.lists(st.integers(0, 30), min_size=1, max_size=30).filter(any))
def test_the_head_is_the_fewest_items_that_hold_four_fifths(sizes):
    degrees = np.array(sizes)
    is_head = head_items(degrees)
    held = degrees[is_head].sum()
    assert 10 * held >= 8 * degrees.sum()
    assert 10 * (held - degrees[is_head].min()) < 8 * degrees.sum()
    assert is_head.all() or degrees[is_head].min() >= degrees[~is_head].max()


def test_the_head_of_known_catalogues():
    assert head_items(np.array([10, 60, 20, 10])).tolist() == [False, True, True, False]
    assert head_items(np.array([5, 5, 5, 5])).tolist() == [True, True, True, True]
    assert head_items(np.array([1, 1, 1, 1, 1])).tolist() == [True, True, True, True, False]
    assert head_items(np.array([0, 0, 3])).tolist() == [False, False, True]


@pytest.mark.parametrize("split", ["test", "valid"])
def test_details_by_activity_popularity_and_rating(trained, split):
    frame, details = frame_of(trained, split), evaluate(trained, split, details=True)["details"]
    for name, column, what in (
        ("by_user_activity", "of_user", "user"),
        ("by_item_popularity", "of_item", "item"),
    ):
        expected = []
        for label, (low, high) in ACTIVITY.items():
            part = frame[frame[column].between(low, high)]
            if len(part):
                expected.append(
                    {
                        "training_ratings": label,
                        f"{what}s": part[what].nunique(),
                        "mean_error": float((part.model - part.rating).mean()),
                        **plain(part),
                    }
                )
        assert len(expected) >= 3
        assert_same(details[name], expected)
    expected = [
        {
            "rating": rating,
            "n": len(part),
            "mean_prediction": part.model.mean(),
            "rmse": rmse(part.model, rating),
        }
        for rating, part in frame.groupby("rating")
    ]
    assert_same(details["by_rating"], expected)


def test_calibration_cuts_predictions_into_tenths(trained, monkeypatch):
    frame = frame_of(trained)
    result = evaluate(trained, details=True)
    calibration = result["details"]["calibration"]
    groups = calibration["groups"]
    assert sum(one["n"] for one in groups) == len(frame)
    off = 0.0
    for one, following in zip(groups, [*groups[1:], None], strict=True):
        part = frame[frame.model.between(one["lowest"] - 1e-6, one["highest"] + 1e-6)]
        assert following is None or one["highest"] < following["lowest"]
        assert_same(
            one,
            {
                "n": len(part),
                "lowest": part.model.min(),
                "highest": part.model.max(),
                "mean_prediction": part.model.mean(),
                "mean_rating": part.rating.mean(),
                "rmse": rmse(part.model, part.rating),
            },
        )
        off += len(part) * abs(part.model.mean() - part.rating.mean())
    error = calibration["expected_calibration_error"]
    assert error == pytest.approx(off / len(frame), rel=1e-6)
    # Random weights predict the ends of the scale for many rows at once.
    at_ends = [(frame.model == end).sum() for end in (1, 10)]
    assert max(at_ends) > len(frame) / 10
    assert "calibration: " in result["notes"][0] and len(groups) < 10
    monkeypatch.setattr(rows_module, "_ROWS_AT_ONCE", 17)
    assert_same(evaluate(trained, details=True)["details"], result["details"])


def test_tenths_are_tenths_where_predictions_differ(trained, monkeypatch):
    n = len(trained.dataset.held_out("test"))
    spread = torch.from_numpy(np.random.default_rng(0).permutation(n) / n * 8.9 + 1.05).float()
    monkeypatch.setattr("dglrec.run.trained.predict_pairs", lambda *arguments: spread)
    result = evaluate(trained, details=True)
    sizes = [one["n"] for one in result["details"]["calibration"]["groups"]]
    assert len(sizes) == 10 and max(sizes) - min(sizes) <= 2
    assert "notes" not in result
    lowest = [one["lowest"] for one in result["details"]["calibration"]["groups"]]
    assert lowest == pytest.approx(1.05 + 8.9 * np.arange(10) / 10, abs=8.9 * 2 / n)


# ---------------------------------------------------------------- what has no meaning


def test_a_model_that_says_one_thing_has_no_calibration(trained, monkeypatch):
    def same(*of):
        return torch.full((len(of[-1]),), 7.25)

    monkeypatch.setattr("dglrec.run.trained.predict_pairs", same)
    result = evaluate(trained, details=True)
    assert "calibration" not in result["details"]
    assert result["notes"] == ["calibration: left out, as predictions hardly differ"]


def test_rows_of_one_rating_are_measured_and_noted(trained, tmp_path):
    train = [(user, item, rating) for user, item, rating in training_rows(trained.dataset)]
    test = [(user, 59 - user % 40, 8) for user in range(0, 40, 2)]
    one = with_random_model(prepared(tmp_path / "one", train, test))
    result = evaluate(one, details=True)
    assert result["notes"][0].startswith("every rating is 8: ")
    assert [group["rating"] for group in result["details"]["by_rating"]] == [8.0]
    assert result["rmse"] == pytest.approx(result["weighted_rmse"])
    assert result["rmse"] == pytest.approx(frame_rmse(one))
    json.dumps(result, allow_nan=False)
    with pytest.raises(UsageError, match="every user of test has training ratings"):
        evaluate(one, given=2)


def frame_rmse(trained):
    frame = frame_of(trained)
    return rmse(frame.model, frame.rating)


@pytest.mark.parametrize("expected", ["bias", "worse than bias"])
def test_a_gap_that_is_none_is_left_out(planted, expected, monkeypatch):
    dataset = planted.dataset
    rows = dataset.held_out("test")
    biases = dataset.biases.predict(rows.users, rows.items)
    truth = biases if expected == "bias" else 11 - rows.ratings
    monkeypatch.setattr("dglrec.evaluate.report.rows_of", lambda *of: replace(rows, expected=truth))
    result = evaluate(planted)
    assert "irreducible_rmse" in result and "gap_closed" not in result
    assert [note.split(":")[0] for note in result["notes"]] == ["gap_closed"]
    if expected == "bias":
        assert result["irreducible_rmse"] == result["baselines"]["bias"]["rmse"]


# ---------------------------------------------------------------- popularity


@pytest.mark.parametrize(("k", "relevant_from"), [(1, 6), (5, 8), (63, 10)])
def test_popularity_ranks_what_most_have_rated(trained, k, relevant_from):
    dataset = trained.dataset
    known: dict[int, set[int]] = {}
    sizes = np.zeros(dataset.graph.num_items)
    for user, item, _ in training_rows(dataset):
        known.setdefault(user, set()).add(item)
        sizes[item] += 1
    held = dataset.held_out("valid")
    for user, item in zip(held.users.tolist(), held.items.tolist(), strict=True):
        known.setdefault(user, set()).add(item)
    popular = sorted(range(len(sizes)), key=lambda item: (-sizes[item], item))
    frame = frame_of(trained)
    of_users = []
    for user, liked in frame[frame.rating >= relevant_from].groupby("user").item:
        ranked = [item for item in popular if item not in known.get(user, ())][:k]
        of_users.append(plain_list_metrics(ranked, set(liked), k))
    expected = pd.DataFrame(of_users).mean()
    result = evaluate(trained, ranking=k, relevant_from=relevant_from)
    assert result["ranking_users"] == len(of_users)
    assert set(result["baselines"]) == {"global_mean", "bias", "popularity"}
    assert result["baselines"]["popularity"] == pytest.approx(
        {f"{name}@{k}": value for name, value in expected.items()}
    )


def test_popularity_breaks_ties_by_item_and_shortens_lists():
    degrees = np.array([2, 7, 2, 0, 7])
    graph = SimpleNamespace(num_items=5, by_item=SimpleNamespace(degrees=degrees))
    left_out = ItemLists(np.array([0, 0, 2, 6]), np.array([1, 2, 0, 1, 3, 4], dtype=np.int32))
    scores, items = Popularity(graph).best(torch.tensor([2, 0, 1]), left_out, 4)
    assert items[1].tolist() == [1, 4, 0, 2]
    assert items[2, :3].tolist() == [4, 0, 3] and scores[2].isfinite().tolist() == [1, 1, 1, 0]
    assert items[0, 0] == 2 and scores[0].isfinite().tolist() == [1, 0, 0, 0]


# ---------------------------------------------------------------- new users


@pytest.mark.parametrize("count", [1, 4, 11])
def test_new_users_ratings_are_dealt_into_given_and_predicted(trained, count):
    dataset = trained.dataset
    frame = frame_of(trained)
    new = deal(dataset, "test", count)
    sizes = frame[frame.of_user == 0].user.value_counts()
    assert new.users.tolist() == sorted(sizes[sizes > count].index)
    assert new.left_out == (sizes <= count).sum()
    assert new.known == frame[frame.of_user > 0].user.nunique()
    assert new.given.degrees.tolist() == [count] * len(new.users)
    owners = np.repeat(new.users, count)
    ratings = dataset.scale.decode(new.given.codes)
    given_rows = list(zip(owners, new.given.neighbours, ratings, strict=True))
    rest = list(
        zip(*(getattr(new.rows, c).tolist() for c in ("users", "items", "ratings")), strict=True)
    )
    all_rows = frame[frame.user.isin(new.users)][["user", "item", "rating"]]
    assert sorted(given_rows + rest) == sorted(all_rows.itertuples(index=False, name=None))
    assert [user for user, _, _ in rest] == sorted(user for user, _, _ in rest)
    # The same again, more of the same, and others of another seed.
    assert np.array_equal(deal(dataset, "test", count).given.neighbours, new.given.neighbours)
    if count > 1:
        other = deal(dataset, "test", count, seed=1).given.neighbours
        assert not np.array_equal(other, new.given.neighbours)
        fewer = deal(dataset, "test", count - 1)
        for place, user in enumerate(new.users):
            at = int(np.searchsorted(fewer.users, user))
            part = set(fewer.given.neighbours[fewer.given.of(at)])
            assert part < set(new.given.neighbours[new.given.of(place)])


@pytest.mark.parametrize(("fixture", "count"), [("trained", 3), ("planted", 2)])
def test_new_users_are_predicted_from_what_is_given(fixture, count, request, monkeypatch):
    trained = request.getfixturevalue(fixture)
    dataset, biases = trained.dataset, trained.dataset.biases
    new = deal(dataset, "test", count, seed=5)
    rows = pd.DataFrame(
        {
            "user": new.rows.users.numpy(),
            "item": new.rows.items.numpy(),
            "rating": new.rows.ratings.numpy(),
        }
    )
    parts = []
    for place, user in enumerate(new.users):
        part = rows[rows.user == user].copy()
        items = new.given.neighbours[new.given.of(place)]
        ratings = dataset.scale.decode(new.given.codes[new.given.of(place)])
        own = (ratings - biases.mean - biases.items.numpy()[items]).sum() / (
            count + biases.damping.users
        )
        part["bias"] = clipped(biases.mean + own + biases.items.numpy()[part.item], dataset)
        # Each user alone, through the scorer that recommendations come from.
        sizes = {"num_users": 1, "num_items": dataset.graph.num_items}
        codes = dataset.scale.encode(ratings)
        alone = group_by_user(np.zeros(count, dtype=np.int64), items, codes, **sizes)
        known = biases.of_new_users(alone, dataset.scale)
        encoded = embed_new_users(trained.model, trained.embeddings, alone, dataset.scale, known)
        scorer = Scorer(
            trained.model, NodeValues(encoded.nodes, trained.embeddings.nodes.items), known
        )
        ends = torch.zeros(len(part), dtype=torch.int64), torch.tensor(part.item.tolist())
        part["model"] = clipped(scorer.pairs(*ends).numpy(), dataset)
        parts.append(part)
    frame = pd.concat(parts)
    train = pd.DataFrame(training_rows(dataset), columns=["user", "item", "rating"])
    means = train.groupby("item").rating.mean()
    frame["item_mean"] = frame.item.map(means).fillna(train.rating.mean())
    monkeypatch.setattr(rows_module, "_ROWS_AT_ONCE", 5)  # users are cut in two, too
    result = evaluate(trained, given=count, seed=5)
    expected = plain(frame)
    assert_same(
        {name: result[name] for name in ("rmse", "mae", "accuracy", "n")},
        {name: expected[name] for name in ("rmse", "mae", "accuracy", "n")},
        rel=1e-5,
    )
    found = {name: one["rmse"] for name, one in result["baselines"].items()}
    assert found == pytest.approx(
        {
            "global_mean": rmse(train.rating.mean(), frame.rating),
            "item_mean": rmse(frame.item_mean, frame.rating),
            "bias": rmse(frame.bias, frame.rating),
        },
        rel=1e-5,
    )
    assert (result["given"], result["users"]) == (count, len(new.users))
    assert result["users_left_out"] == new.left_out
    assert ("gap_closed" in result) == (fixture == "planted")
    assert_same(result["new_users"], expected, rel=1e-5)
    if fixture == "trained":
        assert result["notes"] == [
            f"users with training ratings, who are not measured: {new.known:,}"
        ]


def test_what_is_given_changes_what_is_predicted(planted):
    without, little, much = (evaluate(planted, given=count)["rmse"] for count in (1, 2, 6))
    assert len({without, little, much}) == 3
    biases = [evaluate(planted, given=count)["baselines"]["bias"] for count in (1, 6)]
    assert biases[1]["rmse"] < biases[0]["rmse"]  # of a user of whom more is known


def test_item_means(trained):
    train = pd.DataFrame(training_rows(trained.dataset), columns=["user", "item", "rating"])
    expected = train.groupby("item").rating.mean().reindex(range(63)).fillna(train.rating.mean())
    assert item_means(trained.dataset).numpy() == pytest.approx(expected.to_numpy(), rel=1e-6)
    assert train.item.nunique() < 63


@pytest.mark.parametrize(
    ("split", "options", "message"),
    [
        ("test", {"given": 0}, "--given 0: must be 1 or more"),
        ("test", {"given": -3}, "must be 1 or more"),
        ("test", {"given": 2, "seed": -1}, "--seed -1: must be 0 or more"),
        ("test", {"given": 13}, "have at most 13 ratings, and at least one"),
        ("train", {"given": 2}, "prepare the data set with --split user"),
        ("tests", {"given": 2}, "choose test, valid, train"),
        ("test", {"given": 2, "ranking": 5}, "leave out --ranking"),
    ],
)
def test_what_cannot_be_given_is_refused(trained, split, options, message):
    with pytest.raises(UsageError, match=message):
        evaluate(trained, split, **options)


# ---------------------------------------------------------------- many processes, and people


def test_ranks_come_to_the_figures_of_one(trained, planted):
    embeddings = trained.embeddings, planted.embeddings

    def figures(world):
        cold, warm = (replace(one, world=world) for one in (trained, planted))
        vars(cold)["embeddings"], vars(warm)["embeddings"] = embeddings
        return [
            evaluate(cold, details=True, ranking=5),
            evaluate(cold, given=11, details=True),  # one or two rows a process
            evaluate(warm, given=2, details=True),
        ]

    expected = figures(trained.world)
    assert expected[1]["n"] == 3
    found = in_ranks(2, figures)
    assert found[0] == found[1]
    assert_same(found[0][0], expected[0], rel=1e-9)
    for one, other in zip(found[0][1:], expected[1:], strict=True):
        # Of users that each rank encodes some of, the last digits depend on how many it has; the
        # lowest prediction of a group is one float32 number, where the others are means.
        assert_same(one, other, rel=1e-5)


def test_all_of_it_is_printed(trained, planted, capsys):
    result = evaluate(trained, details=True, ranking=5, relevant_from=7.0)
    print_evaluation(result)
    out = capsys.readouterr().out
    popularity = result["baselines"]["popularity"]
    for figure in (
        result["rmse"],
        result["new_items"]["rmse"],
        result["tail_items"]["baselines"]["bias"]["rmse"],
        result["ndcg@5"],
        popularity["ndcg@5"],
        result["details"]["calibration"]["expected_calibration_error"],
        result["details"]["by_user_activity"][1]["mae"],
        result["details"]["by_item_popularity"][0]["accuracy"],
        result["details"]["by_rating"][-1]["mean_prediction"],
    ):
        assert f"{figure:.4f}" in out
    for words in ("popularity", "new users", "tail items", "1-4", "mean error", "note: calibr"):
        assert words in out
    assert "items, rated 7 or more" in out and "nan" not in out
    assert max(map(len, out.splitlines())) <= 100
    print_evaluation(evaluate(planted, given=6))
    out = capsys.readouterr().out
    assert "new users, 6 of each given" in out and "item_mean" in out
    print_results({"epochs": 1, "best_epoch": 1, "training_seconds": 1, "test": result})
    assert "head items" not in capsys.readouterr().out
