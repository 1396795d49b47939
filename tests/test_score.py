"""Recommendations and batch scores, held against every pair predicted one by one."""

import dataclasses
import hashlib
import json
import re
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import dglrec
from dglrec.config import build_settings
from dglrec.dataset import PrepareOptions, prepare
from dglrec.errors import DataError, UsageError
from dglrec.graph import Adjacency
from dglrec.infer import embed_new_items, embed_new_users, predict_pairs
from dglrec.metrics import clip
from dglrec.nn import NodeValues
from dglrec.run import open_run
from dglrec.score import (
    MANIFEST_FILE,
    ScoreOptions,
    TopKOptions,
    jobs,
    recommend,
    score_pairs,
    score_top_k,
)
from dglrec.score.parts import NOTES_FOLDER, PLAN_FILE, SUCCESS_FILE, PartsFolder
from dglrec.score.roster import Roster
from dglrec.synthetic import synthesize
from dglrec.train import train

MODEL = {"heads": "rating", "embedding_size": 8}
ITEMS = 20


def trained_on(source, folder, model=None):
    dataset = prepare(source, folder / "dataset", PrepareOptions(text=False))
    settings = build_settings({"train": {"epochs": 2}, "model": {**MODEL, **(model or {})}})
    train(dataset, folder / "run", settings)
    return open_run(folder / "run")


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    """A model of generated data: ids are whole numbers, items have titles and genres."""
    folder = tmp_path_factory.mktemp("numbers")
    synthesize(folder / "source", users=70, items=40, ratings=1_200, seed=5)
    return trained_on(folder / "source", folder)


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Ids are text. `all` rated each of 20 items, `most` all but 3, `u00`.. about a half."""
    folder = tmp_path_factory.mktemp("texts")
    rng = np.random.default_rng(0)
    rows = [("all", f"i{item:02d}", rng.integers(1, 6)) for item in range(ITEMS)]
    rows += [("most", f"i{item:02d}", rng.integers(1, 6)) for item in range(3, ITEMS)]
    for user in range(25):
        for item in rng.permutation(ITEMS)[: rng.integers(5, 13)]:
            rows.append((f"u{user:02d}", f"i{item:02d}", rng.integers(1, 6)))
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "rating"])
    frame.to_csv(folder / "ratings.csv", index=False)
    return trained_on(folder / "ratings.csv", folder)


@pytest.fixture(params=["numbers", "texts"])
def trained(request):
    return request.getfixturevalue(request.param)


def rated_items(trained):
    """For each user's index the set of items it rated in any split, read from the parts' rows."""
    dataset = trained.dataset
    rated = [set() for _ in range(dataset.graph.num_users)]
    by_user = dataset.graph.by_user
    for user in range(by_user.num_nodes):
        rated[user].update(by_user.neighbours[by_user.of(user)].tolist())
    for split in ("valid", "test"):
        rows = dataset.held_out(split)
        for user, item in zip(rows.users.tolist(), rows.items.tolist(), strict=True):
            rated[user].add(item)
    return rated


def all_scores(trained):
    """float32 [U, I]: every pair's predicted rating, clipped, by the way of pairs."""
    dataset = trained.dataset
    users, items = dataset.graph.num_users, dataset.graph.num_items
    pairs = torch.cartesian_prod(torch.arange(users), torch.arange(items))
    found = predict_pairs(
        trained.model, trained.embeddings, dataset.biases, pairs[:, 0], pairs[:, 1]
    )
    return clip(found, dataset.scale).numpy().reshape(users, items)


@torch.inference_mode()
def predicted(trained, users, user_biases, items, item_biases=None):
    """float32 [n, m]: ratings of users and items by their embeddings and biases, not clipped."""
    biases = trained.dataset.biases
    pairs = torch.cartesian_prod(torch.arange(len(users)), torch.arange(len(items)))
    residuals = trained.model.decoder(NodeValues(users, items), pairs[:, 0], pairs[:, 1])
    own = biases.items if item_biases is None else item_biases
    return biases.mean + user_biases[:, None] + own + residuals.view(len(users), len(items))


def assert_best(trained, user, items, scores, k, matrix, rated):
    """`items` are the k best of those that the user has not rated, best first."""
    left = sorted(set(range(matrix.shape[1])) - rated[user])
    assert not set(items) & rated[user]
    assert len(set(items)) == len(items) == min(k, len(left))
    assert np.allclose(scores, matrix[user, items], atol=1e-5)
    best = np.sort(matrix[user, left])[::-1][:k]
    assert np.allclose(scores, best, atol=1e-5)  # so nothing better was left out


def read_all(out):
    """All rows of a folder that is finished and holds what its manifest says, no more."""
    manifest = json.loads((out / MANIFEST_FILE).read_text())
    tables = []
    for number, part in enumerate(manifest["parts"]):
        path = out / part["file"]
        assert path.name == f"part-{number:05d}.parquet"
        assert hashlib.sha256(path.read_bytes()).hexdigest() == part["sha256"]
        tables.append(pq.read_table(path))
        assert len(tables[-1]) == part["rows"]
    assert sum(map(len, tables)) == manifest["rows"]
    names = {path.name for path in out.iterdir()} - {part["file"] for part in manifest["parts"]}
    assert names == {MANIFEST_FILE, PLAN_FILE, NOTES_FOLDER, SUCCESS_FILE}
    notes = {f"{number:05d}.json" for number in range(len(tables))}
    assert {path.name for path in (out / NOTES_FOLDER).iterdir() if path.suffix != ".lock"} == notes
    plan = json.loads((out / PLAN_FILE).read_text())
    assert {key: manifest[key] for key in plan} == plan
    return pa.concat_tables(tables)


def by_user(table):
    """The rows of each user, in their order, the users in theirs."""
    found = {}
    for row in table.to_pylist():
        found.setdefault(row["user_id"], []).append(row)
    return found


def in_small_parts(monkeypatch, users=10, rows=1 << 20):
    monkeypatch.setattr(jobs, "_PART_USERS", users)
    monkeypatch.setattr(jobs, "_PART_ROWS", rows)


def listing(file, column, ids):
    """A file that lists ids."""
    frame = pd.DataFrame({column: list(ids)})
    frame.to_parquet(file) if file.suffix == ".parquet" else frame.to_csv(file, index=False)
    return file


def write_text(file, text):
    file.write_text(text)
    return file


def assert_same_lists(found, expected):
    """Of users that stand in some order; scores may differ in their last digits."""
    assert len(found) == len(expected)
    for name in ("user_id", "item_id", "rank"):
        assert found.column(name).to_pylist() == expected.column(name).to_pylist()
    assert np.allclose(found.column("score"), expected.column("score"), atol=1e-5)


# --- recommend -----------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 7, 20])
def test_recommend_gives_the_best_unseen_items(k, trained):
    dataset, matrix, rated = trained.dataset, all_scores(trained), rated_items(trained)
    for user, user_id in enumerate(dataset.users.ids.to_pylist()):
        found = recommend(trained, str(user_id), k)
        ids = pa.array([one.item_id for one in found], type=dataset.items.ids.type)
        items = dataset.items.encode(ids).tolist()
        assert_best(trained, user, items, [one.score for one in found], k, matrix, rated)
        assert [one.rank for one in found] == list(range(1, len(found) + 1))
        for one, item in zip(found, items, strict=True):
            assert one.title == dataset.titles[item].as_py()
            assert dataset.scale.minimum <= one.score <= dataset.scale.maximum


def test_held_out_items_would_be_among_the_best_and_are_not_shown(numbers):
    """The guard bites: left to training rows alone, held-out items would come up."""
    dataset, matrix, rated = numbers.dataset, all_scores(numbers), rated_items(numbers)
    by_user, would = dataset.graph.by_user, 0
    for user in range(dataset.graph.num_users):
        training = set(by_user.neighbours[by_user.of(user)].tolist())
        left = [item for item in np.argsort(-matrix[user]).tolist() if item not in training]
        would += len(set(left[:10]) & rated[user])
    assert would > 10


def test_titles_are_those_of_the_tables(numbers, texts):
    first = recommend(numbers, "3", 1)[0]
    table = pd.read_csv(numbers.dataset.path.parent / "source" / "anime.csv").set_index("MAL_ID")
    assert first.title == table.Name[first.item_id]
    assert isinstance(first.item_id, int)
    first = recommend(texts, "u03", 1)[0]
    assert first.title == first.item_id  # no table names it


def test_fewer_come_back_where_fewer_are_left(texts):
    found = recommend(texts, "most", ITEMS)
    assert sorted(one.item_id for one in found) == ["i00", "i01", "i02"]
    assert [one.rank for one in found] == [1, 2, 3]
    assert recommend(texts, "all", 5) == []


@pytest.mark.parametrize("user", ["nobody", "-1", "", "3.5", "99999999999999999999"])
def test_an_unknown_user_is_refused(user, trained):
    with pytest.raises(DataError, match=f"no user {user} in .*users are like .*--ratings"):
        recommend(trained, user)


@pytest.mark.parametrize("k", [0, -1])
def test_recommending_takes_a_k_from_1(k, numbers):
    with pytest.raises(UsageError, match=f"k = {k}: must be 1 or more"):
        recommend(numbers, "1", k)


def test_recommending_more_than_the_catalogue_gives_what_is_left(numbers):
    assert recommend(numbers, "1", 10**9) == recommend(numbers, "1", 40)


# --- a user that training never saw --------------------------------------------------------------


def ratings_file(folder, rows, header="item_id,rating"):
    path = folder / "mine.csv"
    path.write_text("\n".join([header, *(f"{item},{rating}" for item, rating in rows)]) + "\n")
    return path


def test_a_new_user_gets_the_best_of_what_the_file_leaves(texts, tmp_path):
    rows = [("i01", 5), ("i02", 1), ("i07", 4), ("i11", 5)]
    found = recommend(texts, None, ITEMS, ratings=ratings_file(tmp_path, rows))
    assert len(found) == ITEMS - 4
    assert not {one.item_id for one in found} & {item for item, _ in rows}
    dataset, nodes = texts.dataset, texts.embeddings.nodes
    codes = dataset.scale.encode(np.array([5.0, 1.0, 4.0, 5.0], dtype=np.float32))
    ratings = Adjacency(np.array([0, 4]), np.array([1, 2, 7, 11], dtype=np.int32), codes)
    biases = dataset.biases.of_new_users(ratings, dataset.scale)
    vector = embed_new_users(texts.model, texts.embeddings, ratings, dataset.scale, biases).nodes
    expected = clip(predicted(texts, vector, biases.users, nodes.items), dataset.scale)[0]
    for one in found:
        assert one.score == pytest.approx(float(expected[int(one.item_id[1:])]), abs=1e-5)
    scores = [one.score for one in found]
    assert scores == sorted(scores, reverse=True)


def test_a_known_users_own_training_ratings_give_its_own_recommendations(texts, tmp_path):
    """A user is what it rated: as a new user, it is nearly who it was."""
    dataset = texts.dataset
    user = dataset.users.encode_one("most")
    row = dataset.graph.by_user.of(user)
    items = [f"i{item:02d}" for item in dataset.graph.by_user.neighbours[row].tolist()]
    values = dataset.scale.decode(np.asarray(dataset.graph.by_user.codes[row])).tolist()
    rows = zip(items, values, strict=True)
    found = recommend(texts, None, 20, ratings=ratings_file(tmp_path, rows))
    own = {one.item_id: one.score for one in recommend(texts, "most", 20)}
    new = {one.item_id: one.score for one in found}
    assert own.keys() <= new.keys()
    for item, value in own.items():
        assert new[item] == pytest.approx(value, abs=0.05)


def test_items_that_are_unknown_are_left_out_and_counted(texts, tmp_path, capsys):
    known = [("i01", 5), ("i02", 1)]
    expected = recommend(texts, None, 5, ratings=ratings_file(tmp_path, known))
    mixed = [("x", 3), *known, ("y", 4), ("z", 5)]
    capsys.readouterr()
    assert recommend(texts, None, 5, ratings=ratings_file(tmp_path, mixed)) == expected
    captured = capsys.readouterr()
    assert "3 ratings are of unknown items and left out (items x, y, z)" in captured.err
    assert captured.out == ""


def test_of_an_item_rated_twice_the_last_counts(texts, tmp_path):
    once = [("i02", 1), ("i01", 5)]
    twice = [("i01", 2), ("i02", 1), ("i01", 5)]
    expected = recommend(texts, None, 5, ratings=ratings_file(tmp_path, once))
    found = recommend(texts, None, 5, ratings=ratings_file(tmp_path, twice))
    assert [one.item_id for one in found] == [one.item_id for one in expected]


def test_the_file_may_name_items_as_the_source_does(numbers, tmp_path):
    items = numbers.dataset.items.ids.to_pylist()[:3]
    rows = [(item, 9) for item in items]
    expected = recommend(numbers, None, 5, ratings=ratings_file(tmp_path, rows))
    for header in ("anime_id,rating", "movieId,rating"):
        file = ratings_file(tmp_path, rows, header)
        assert recommend(numbers, "whoever", 5, ratings=file) == expected


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        ("item_id,rating\nx,3\ny,4\n", "rates no item of"),
        ("item_id,rating\n", "holds no rating"),
        ("item_id,rating\ni01,6\n", "row 2: rating is off the scale of 1 to 5"),
        ("item_id,rating\ni01,3\ni02,good\n", "row 3"),
        ("item_id,rating\ni01,nan\n", "not a finite number"),
        ("item_id\ni01\n", "no column rating; found item_id"),
        ("", "is empty"),
    ],
)
def test_bad_ratings_of_a_new_user_are_refused(content, fragment, texts, tmp_path):
    file = tmp_path / "mine.csv"
    file.write_text(content)
    with pytest.raises(DataError, match=fragment) as raised:
        recommend(texts, None, 5, ratings=file)
    assert str(file) in str(raised.value)


def test_a_known_user_with_other_ratings_is_not_shown_what_it_rated(trained, tmp_path):
    dataset = trained.dataset
    user = str(dataset.users.nearest(1)[0])
    rated = set(dataset.items.ids.to_pylist()) - {
        one.item_id for one in recommend(trained, user, 1000)
    }
    file = tmp_path / "mine.csv"
    item = next(iter(rated))
    file.write_text(f"item_id,rating\n{item},{dataset.scale.maximum:g}\n")
    shown = {one.item_id for one in recommend(trained, user, 1000, ratings=file)}
    assert not shown & rated


# --- top k for all -------------------------------------------------------------------------------


def test_score_top_k_is_recommend_for_everybody(trained, tmp_path):
    out = tmp_path / "out"
    summary = score_top_k(trained, out, 6)
    table, dataset = read_all(out), trained.dataset
    assert table.column_names == ["user_id", "item_id", "rank", "score", "rating"]
    assert table.schema.types == [
        dataset.users.ids.type,
        dataset.items.ids.type,
        pa.int32(),
        pa.float32(),
        pa.float32(),
    ]
    assert summary == {
        "out": str(out),
        "users": len(dataset.users),
        "rows": len(table),
        "parts": 1,
        "kept": 0,
        "complete": True,
    }
    lists = by_user(table)
    for user_id in dataset.users.ids.to_pylist():
        expected = recommend(trained, str(user_id), 6)
        rows = lists.pop(user_id, [])
        assert [row["rank"] for row in rows] == [one.rank for one in expected]
        assert [row["item_id"] for row in rows] == [one.item_id for one in expected]
        assert [row["score"] for row in rows] == pytest.approx(
            [one.score for one in expected], abs=1e-5
        )
    assert not lists


@pytest.mark.parametrize("include_seen", [False, True])
@pytest.mark.parametrize("k", [1, 7, ITEMS])
def test_every_list_is_exact_by_brute_force(k, include_seen, trained, tmp_path, monkeypatch):
    in_small_parts(monkeypatch, users=6)
    out, dataset = tmp_path / "out", trained.dataset
    summary = score_top_k(trained, out, k, TopKOptions(include_seen=include_seen))
    assert summary["parts"] == -(-len(dataset.users) // 6) > 4
    matrix, rated = all_scores(trained), rated_items(trained)
    if include_seen:
        rated = [set()] * len(rated)
    lists = by_user(read_all(out))
    assert list(lists) == [
        user_id
        for user, user_id in enumerate(dataset.users.ids.to_pylist())
        if len(rated[user]) < dataset.graph.num_items
    ]
    for user_id, rows in lists.items():
        user = dataset.users.encode_one(str(user_id))
        items = [dataset.items.encode_one(str(row["item_id"])) for row in rows]
        assert [row["rank"] for row in rows] == list(range(1, len(rows) + 1))
        assert_best(trained, user, items, [row["score"] for row in rows], k, matrix, rated)


def test_score_top_k_of_the_whole_catalogue(texts, tmp_path):
    score_top_k(texts, tmp_path / "out", ITEMS)
    table, rated = read_all(tmp_path / "out"), rated_items(texts)
    assert len(table) == sum(ITEMS - len(items) for items in rated)
    assert "all" not in table.column("user_id").to_pylist()
    assert {row["item_id"] for row in by_user(table)["most"]} == {"i00", "i01", "i02"}


def test_a_part_without_rows_is_a_part(texts, tmp_path, monkeypatch):
    """Its only user has rated every item."""
    in_small_parts(monkeypatch, users=1)
    score_top_k(texts, tmp_path / "out", 4)
    manifest = json.loads((tmp_path / "out" / MANIFEST_FILE).read_text())
    assert manifest["parts"][0]["rows"] == 0
    assert len(manifest["parts"]) == len(texts.dataset.users)
    table = read_all(tmp_path / "out")  # whose schema is that of all
    first = pq.read_table(tmp_path / "out" / manifest["parts"][0]["file"])
    assert first.schema == table.schema
    assert list(by_user(table)) == texts.dataset.users.ids.to_pylist()[1:]


@pytest.mark.parametrize("k", [0, -1, 41, 10**9])
def test_k_is_within_the_catalogue(k, numbers, tmp_path):
    with pytest.raises(UsageError, match=f"k = {k}"):
        score_top_k(numbers, tmp_path / "out", k)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("at_once", [1, 3, 1_000])
def test_how_many_users_are_scored_at_once_changes_nothing(at_once, numbers, tmp_path, monkeypatch):
    score_top_k(numbers, tmp_path / "whole", 5)
    monkeypatch.setattr(jobs, "_USERS_AT_ONCE", at_once)
    score_top_k(numbers, tmp_path / "parts", 5)
    assert_same_lists(read_all(tmp_path / "parts"), read_all(tmp_path / "whole"))


@pytest.mark.parametrize("shards", [1, 3, 6, 7, 9])
def test_shards_together_are_the_whole(shards, numbers, tmp_path, monkeypatch):
    """Of seven parts."""
    in_small_parts(monkeypatch, users=10)
    score_top_k(numbers, tmp_path / "whole", 4)
    out, before = tmp_path / "shards", set()
    for number in range(shards):
        summary = score_top_k(numbers, out, 4, TopKOptions(shard=(number, shards)))
        parts = {path.name for path in out.glob("part-*")}
        added = {f"part-{part:05d}.parquet" for part in range(number, 7, shards)}
        assert parts - before == added and before <= parts
        assert summary["parts"] == len(added)
        assert summary["rows"] == sum(len(pq.read_table(out / name)) for name in added)
        assert summary["complete"] is (out / SUCCESS_FILE).exists() is (len(parts) == 7)
        before = parts
    read_all(out)
    for path in (tmp_path / "whole").iterdir():
        assert path.is_dir() or (out / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("shard", [(1, 1), (-1, 2), (2, 2), (0, 0), (0, -1)])
def test_an_impossible_shard_is_refused(shard, numbers, tmp_path):
    with pytest.raises(UsageError, match=f"--shard {shard[0]}/{shard[1]}"):
        score_top_k(numbers, tmp_path / "out", 3, TopKOptions(shard=shard))
    with pytest.raises(UsageError, match=f"--shard {shard[0]}/{shard[1]}"):
        score_pairs(numbers, tmp_path / "out", tmp_path / "no.csv", ScoreOptions(shard=shard))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_only_the_users_of_a_file(kind, trained, tmp_path, monkeypatch):
    ids, catalogue = trained.dataset.users.ids.to_pylist(), trained.dataset.graph.num_items
    rated = rated_items(trained)
    chosen = [ids[user] for user in range(len(ids)) if len(rated[user]) < catalogue][5:20:3]
    frame = pd.DataFrame({"note": "x", "user_id": [*chosen[::-1], chosen[0]]})  # one twice
    file = tmp_path / f"users.{kind}"
    frame.to_csv(file, index=False) if kind == "csv" else frame.to_parquet(file)
    summary = score_top_k(trained, tmp_path / "out", 4, TopKOptions(users=file))
    assert summary["users"] == len(chosen)
    table = read_all(tmp_path / "out")
    assert list(by_user(table)) == chosen
    score_top_k(trained, tmp_path / "all", 4)
    whole = read_all(tmp_path / "all")
    of_chosen = [user_id in chosen for user_id in whole.column("user_id").to_pylist()]
    assert_same_lists(table, whole.filter(pa.array(of_chosen)))
    in_small_parts(monkeypatch, users=2)
    for number in (1, 0):
        options = TopKOptions(users=file, shard=(number, 2))
        score_top_k(trained, tmp_path / "halves", 4, options)
    assert read_all(tmp_path / "halves").column("item_id") == table.column("item_id")


def test_unknown_users_are_refused_with_their_number(numbers, tmp_path):
    file = tmp_path / "users.csv"
    file.write_text("user_id\n1\n501\n2\n502\n503\n504\n")
    with pytest.raises(DataError) as raised:
        score_top_k(numbers, tmp_path / "out", 3, TopKOptions(users=file))
    message = str(raised.value)
    assert "users.csv: user_id 501, 502, 503 unknown to the data set (4 rows)" in message
    assert "--unknown skip" in message
    assert not (tmp_path / "out").exists()


def test_unknown_users_and_items_can_be_left_out(numbers, tmp_path, capsys):
    items = numbers.dataset.items.ids.to_pylist()[3:12]
    users = listing(tmp_path / "users.csv", "user_id", [1, 501, 2, 502])
    known = listing(tmp_path / "known.csv", "item_id", items)
    mixed = listing(tmp_path / "items.csv", "item_id", [*items, -1, -2, -3])
    options = TopKOptions(users=users, items=mixed, unknown="skip")
    capsys.readouterr()
    score_top_k(numbers, tmp_path / "out", 3, options)
    said = capsys.readouterr().err
    assert f"{users}: 2 rows name an unknown user_id and are left out" in said
    assert f"{mixed}: 3 rows name an unknown item_id and are left out" in said
    users = listing(tmp_path / "two.csv", "user_id", [1, 2])
    score_top_k(numbers, tmp_path / "known", 3, TopKOptions(users=users, items=known))
    assert read_all(tmp_path / "out").equals(read_all(tmp_path / "known"))


@pytest.mark.parametrize("column", ["user_id", "item_id"])
def test_a_list_of_nothing_known_is_refused_though_unknown_ids_are_left_out(
    column, numbers, tmp_path
):
    file = listing(tmp_path / "list.csv", column, [100_001, 100_002])
    more = {"users": file} if column == "user_id" else {"items": file}
    with pytest.raises(DataError, match=f"{column} 100001, 100002 unknown to the data set"):
        score_top_k(numbers, tmp_path / "out", 3, TopKOptions(**more, unknown="skip"))
    assert not (tmp_path / "out").exists()


def test_lists_cannot_hold_what_is_unknown(numbers, tmp_path):
    with pytest.raises(UsageError, match="--unknown null goes with --pairs"):
        score_top_k(numbers, tmp_path / "out", 3, TopKOptions(unknown="null"))


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("include_seen", [False, True])
def test_only_the_items_of_a_file(include_seen, kind, trained, tmp_path):
    dataset = trained.dataset
    chosen = [1, 4, 5, 9, 13, 17, 18]
    ids = dataset.items.decode(np.array([*chosen[::-1], 4])).to_pylist()  # one twice
    file = listing(tmp_path / f"items.{kind}", "item_id", ids)
    options = TopKOptions(items=file, include_seen=include_seen)
    score_top_k(trained, tmp_path / "out", 5, options)
    lists = by_user(read_all(tmp_path / "out"))
    matrix, rated = all_scores(trained), rated_items(trained)
    others = set(range(dataset.graph.num_items)) - set(chosen)
    rated = [others if include_seen else others | own for own in rated]
    for user, user_id in enumerate(dataset.users.ids.to_pylist()):
        rows = lists.pop(user_id, [])
        items = [dataset.items.encode_one(str(row["item_id"])) for row in rows]
        assert_best(trained, user, items, [row["score"] for row in rows], 5, matrix, rated)
    assert not lists
    with pytest.raises(UsageError, match="k = 8: the catalogue has 7 items"):
        score_top_k(trained, tmp_path / "more", 8, options)


# --- users and items that training never saw -----------------------------------------------------


@pytest.fixture
def newcomers(trained, tmp_path):
    """A file with ratings of three new users, and the rows of each."""
    rng, dataset = np.random.default_rng(3), trained.dataset
    whole = dataset.users.ids.type == pa.int64()
    ids, rated = dataset.items.ids.to_pylist(), {}
    for user, count in zip(
        (5_007, 501, 5_001) if whole else ("007", "v", "b"), (6, 1, 9), strict=True
    ):
        items = rng.permutation(len(ids))[:count]
        rated[user] = [(ids[item], int(rng.integers(1, 6))) for item in items]
    rows = [(user, *row) for user, own in rated.items() for row in own]
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "rating"])
    # One user's rows need not stand together.
    frame.sample(frac=1, random_state=1).to_csv(tmp_path / "new.csv", index=False)
    return tmp_path / "new.csv", rated


def test_new_users_in_bulk_get_what_each_would_get_alone(trained, newcomers, tmp_path, monkeypatch):
    file, rated = newcomers
    in_small_parts(monkeypatch, users=2)
    summary = score_top_k(trained, tmp_path / "out", 6, TopKOptions(ratings=file))
    known = trained.dataset.users.ids.to_pylist()
    assert summary["users"] == len(known) + 3
    table = read_all(tmp_path / "out")
    assert table.schema.types[:2] == [
        trained.dataset.users.ids.type,
        trained.dataset.items.ids.type,
    ]
    lists = by_user(table)
    assert list(lists)[-3:] == sorted(rated)  # behind those that are known
    for user, rows in rated.items():
        alone = recommend(trained, None, 6, ratings=ratings_file(tmp_path, rows))
        assert [row["item_id"] for row in lists[user]] == [one.item_id for one in alone]
        assert [row["rank"] for row in lists[user]] == [one.rank for one in alone]
        assert [row["score"] for row in lists[user]] == pytest.approx(
            [one.score for one in alone], abs=1e-5
        )
    score_top_k(trained, tmp_path / "known", 6)
    of_known = pa.array([user not in rated for user in table.column("user_id").to_pylist()])
    assert_same_lists(table.filter(of_known), read_all(tmp_path / "known"))


def test_a_list_of_users_may_name_some_of_both(trained, newcomers, tmp_path):
    file, rated = newcomers
    chosen = [*sorted(rated)[:2], *trained.dataset.users.ids.to_pylist()[3:5]]
    users = listing(tmp_path / "users.csv", "user_id", chosen)
    score_top_k(trained, tmp_path / "out", 4, TopKOptions(ratings=file, users=users))
    table = read_all(tmp_path / "out")
    assert list(by_user(table)) == [*chosen[2:], *chosen[:2]]
    score_top_k(trained, tmp_path / "all", 4, TopKOptions(ratings=file))
    whole = read_all(tmp_path / "all")
    of_chosen = pa.array([user in chosen for user in whole.column("user_id").to_pylist()])
    assert_same_lists(table, whole.filter(of_chosen))
    with pytest.raises(DataError, match="unknown to the data set"):
        score_top_k(trained, tmp_path / "other", 4, TopKOptions(users=users))


def test_with_seen_items_included_new_users_are_shown_theirs_too(trained, newcomers, tmp_path):
    file, rated = newcomers
    k = trained.dataset.graph.num_items
    score_top_k(trained, tmp_path / "out", k, TopKOptions(ratings=file, include_seen=True))
    lists = by_user(read_all(tmp_path / "out"))
    score_top_k(trained, tmp_path / "unseen", k, TopKOptions(ratings=file))
    unseen = by_user(read_all(tmp_path / "unseen"))
    for user, rows in rated.items():
        assert len(lists[user]) == k
        assert len(unseen[user]) == k - len(rows)
        assert not {row["item_id"] for row in unseen[user]} & {item for item, _ in rows}


def test_pairs_of_new_users_have_the_values_of_their_lists(trained, newcomers, tmp_path):
    file, rated = newcomers
    options = TopKOptions(ratings=file, include_seen=True)
    score_top_k(trained, tmp_path / "lists", 10, options)
    table = read_all(tmp_path / "lists")
    pairs = tmp_path / "pairs.parquet"
    pq.write_table(table.select(["user_id", "item_id"]), pairs)
    score_pairs(trained, tmp_path / "pairs", pairs, ScoreOptions(ratings=file))
    found = read_all(tmp_path / "pairs")
    assert set(rated) < set(found.column("user_id").to_pylist())
    assert np.allclose(found.column("score"), table.column("score"), atol=1e-5)


def test_ids_of_new_users_keep_their_type(numbers, texts, tmp_path):
    """What a CSV file would have as a number is text where ids are text."""
    file = tmp_path / "new.csv"
    file.write_text("user_id,item_id,rating\n007,i01,5\n7,i02,1\n")
    score_top_k(texts, tmp_path / "texts", 3, TopKOptions(ratings=file))
    assert list(by_user(read_all(tmp_path / "texts")))[-2:] == ["007", "7"]
    item = numbers.dataset.items.ids[0].as_py()
    frame = pd.DataFrame({"user_id": ["900"], "item_id": [item], "rating": [5]})
    frame.to_parquet(tmp_path / "new.parquet")
    options = TopKOptions(ratings=tmp_path / "new.parquet")
    score_top_k(numbers, tmp_path / "numbers", 3, options)
    table = read_all(tmp_path / "numbers")
    assert table.schema.field("user_id").type == pa.int64()
    assert list(by_user(table))[-1] == 900


@pytest.mark.parametrize("pairs", [False, True])
def test_new_users_that_are_known_are_refused(pairs, numbers, tmp_path):
    item = numbers.dataset.items.ids[0].as_py()
    file = tmp_path / "new.csv"
    rows = [f"{user},{item},5" for user in (900, 4, 3, 901, 2, 1, 1)]
    file.write_text("\n".join(["user_id,item_id,rating", *rows]) + "\n")
    fragment = r"new.csv: user_id 1, 2, 3 known to the data set \(4\); --ratings takes users that"
    with pytest.raises(DataError, match=fragment):
        if pairs:
            listing(tmp_path / "pairs.csv", "user_id", [900])
            options = ScoreOptions(ratings=file)
            score_pairs(numbers, tmp_path / "out", tmp_path / "pairs.csv", options)
        else:
            score_top_k(numbers, tmp_path / "out", 3, TopKOptions(ratings=file))
    assert not (tmp_path / "out").exists()


def test_of_what_new_users_rated_unknown_items_are_left_out_and_said(texts, tmp_path, capsys):
    file, mixed = tmp_path / "new.csv", tmp_path / "mixed.csv"
    known = "user_id,item_id,rating\nx,i01,5\nx,i02,1\ny,i03,4\n"
    file.write_text(known)
    mixed.write_text(known + "x,nothing,5\ny,nothing,2\ny,nowhere,3\n")
    score_top_k(texts, tmp_path / "known", 4, TopKOptions(ratings=file))
    capsys.readouterr()
    score_top_k(texts, tmp_path / "mixed", 4, TopKOptions(ratings=mixed))
    said = capsys.readouterr().err
    assert f"{mixed}: 3 ratings are of unknown items and left out (items nothing, nowhere)" in said
    assert read_all(tmp_path / "mixed").equals(read_all(tmp_path / "known"))


def test_new_users_of_whom_nothing_is_known_all_get_the_same(texts, tmp_path, capsys):
    file = tmp_path / "new.csv"
    file.write_text("user_id,item_id,rating\nx,i01,5\np,nothing,5\nq,nowhere,2\n")
    capsys.readouterr()
    score_top_k(texts, tmp_path / "out", ITEMS, TopKOptions(ratings=file))
    said = capsys.readouterr().err
    assert f"{file}: 2 users rate no item that training saw; they are scored like users" in said
    lists = by_user(read_all(tmp_path / "out"))
    p, q = ([(row["item_id"], row["score"]) for row in lists[user]] for user in "pq")
    assert p == q and len(p) == ITEMS
    nobody = Adjacency(np.array([0, 0]), np.empty(0, np.int32), np.empty(0, np.uint8))
    biases = texts.dataset.biases.of_new_users(nobody, texts.dataset.scale)
    vector = embed_new_users(
        texts.model, texts.embeddings, nobody, texts.dataset.scale, biases
    ).nodes
    values = predicted(texts, vector, biases.users, texts.embeddings.nodes.items)
    expected = clip(values, texts.dataset.scale)[0]
    for item, score in p:
        assert score == pytest.approx(float(expected[int(item[1:])]), abs=1e-5)


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        ("user_id,item_id,rating\nx,nothing,3\n", "rates no item of"),
        ("user_id,item_id,rating\nx,i01,6\n", "row 2: rating is off the scale of 1 to 5"),
        ("user_id,item_id,rating\nx,i01,3\nx,i02,good\n", "row 3"),
        ("item_id,rating\ni01,3\n", "no column user_id; found item_id, rating"),
        ("user_id,rating\nx,3\n", "no column item_id; found user_id, rating"),
        ("", "is empty"),
    ],
)
def test_bad_ratings_of_new_users_are_refused(content, fragment, texts, tmp_path):
    file = tmp_path / "new.csv"
    file.write_text(content)
    with pytest.raises(DataError, match=fragment) as raised:
        score_top_k(texts, tmp_path / "out", 3, TopKOptions(ratings=file))
    assert str(file) in str(raised.value)
    assert not (tmp_path / "out").exists()


NEW_ITEMS = [
    (800_002, "Comedy, School"),
    (800_001, "Action"),
    (800_003, ""),
]


@pytest.fixture
def season(tmp_path):
    """A file with items that `numbers` does not know."""
    frame = pd.DataFrame(NEW_ITEMS, columns=["item_id", "genres"])
    frame.to_csv(tmp_path / "season.csv", index=False)
    return tmp_path / "season.csv"


def scores_of_new_items(numbers):
    """float32 [U, 3]: ratings of the new items by id, clipped."""
    dataset = numbers.dataset
    table = pd.DataFrame(
        {
            "item_id": [item for item, _ in sorted(NEW_ITEMS)],
            "title": "",
            "genres": [genres.split(", ") if genres else [] for _, genres in sorted(NEW_ITEMS)],
            "synopsis": None,
        }
    )
    items = embed_new_items(numbers.model, dataset.encode_items(table)).nodes
    users, none = numbers.embeddings.nodes.users, torch.zeros(len(table))
    return clip(predicted(numbers, users, dataset.biases.users, items, none), dataset.scale).numpy()


def test_new_items_compete_with_the_others(numbers, season, tmp_path, monkeypatch):
    in_small_parts(monkeypatch, users=20)
    dataset, k = numbers.dataset, 9
    score_top_k(numbers, tmp_path / "out", k, TopKOptions(new_items=season))
    table = read_all(tmp_path / "out")
    assert table.schema.field("item_id").type == dataset.items.ids.type
    lists, rated = by_user(table), rated_items(numbers)
    new = scores_of_new_items(numbers)
    assert new.std(0).max() > 0 and len(set(new[0])) == 3  # they are not all alike
    matrix = np.concatenate((all_scores(numbers), new), axis=1)
    places = {
        item: place
        for place, item in enumerate([*dataset.items.ids.to_pylist(), 800_001, 800_002, 800_003])
    }
    for user, user_id in enumerate(dataset.users.ids.to_pylist()):
        items = [places[row["item_id"]] for row in lists[user_id]]
        scores = [row["score"] for row in lists[user_id]]
        assert_best(numbers, user, items, scores, k, matrix, rated)
    assert {800_001, 800_002, 800_003} & set(table.column("item_id").to_pylist())


def test_new_items_alone_can_be_the_catalogue(numbers, season, tmp_path):
    options = TopKOptions(new_items=season, items=season)
    score_top_k(numbers, tmp_path / "out", 3, options)
    new = scores_of_new_items(numbers)
    table = read_all(tmp_path / "out")
    lists = by_user(table)
    assert len(lists) == len(numbers.dataset.users)
    for user, rows in enumerate(lists.values()):
        assert {row["item_id"] for row in rows} == {800_001, 800_002, 800_003}
        for row in rows:
            expected = new[user, row["item_id"] - 800_001]
            assert row["score"] == pytest.approx(float(expected), abs=1e-5)
    with pytest.raises(UsageError, match="k = 4: the catalogue has 3 items"):
        score_top_k(numbers, tmp_path / "more", 4, options)


def test_pairs_of_new_items_have_their_values(numbers, season, tmp_path):
    users = numbers.dataset.users.ids.to_pylist()[::-1]
    frame = pd.DataFrame([(user, item) for item, _ in NEW_ITEMS for user in users])
    frame.columns = ["user_id", "item_id"]
    frame.to_csv(tmp_path / "pairs.csv", index=False)
    options = ScoreOptions(new_items=season)
    score_pairs(numbers, tmp_path / "out", tmp_path / "pairs.csv", options)
    new = scores_of_new_items(numbers)
    expected = [new[row.user_id, row.item_id - 800_001] for row in frame.itertuples()]
    assert np.allclose(read_all(tmp_path / "out").column("score"), expected, atol=1e-5)
    with pytest.raises(DataError, match=r"item_id 800002, 800001, 800003 .*\(210 rows\)"):
        score_pairs(numbers, tmp_path / "other", tmp_path / "pairs.csv")


def test_a_new_item_that_a_new_user_has_rated_is_not_shown_to_it(numbers, season, tmp_path):
    known = numbers.dataset.items.ids[3].as_py()
    file = tmp_path / "new.csv"
    file.write_text(f"user_id,item_id,rating\n900,{known},5\n900,800001,4\n901,{known},5\n")
    options = TopKOptions(new_items=season, ratings=file)
    score_top_k(numbers, tmp_path / "out", 43, options)
    lists = by_user(read_all(tmp_path / "out"))
    items = [{row["item_id"] for row in lists[user]} for user in (900, 901)]
    assert items[1] - items[0] == {800_001}
    # What it gave that item says nothing of it: nobody else has rated it.
    scores = [{row["item_id"]: row["score"] for row in lists[user]} for user in (900, 901)]
    assert [scores[0][item] for item in items[0]] == pytest.approx(
        [scores[1][item] for item in items[0]], abs=1e-5
    )


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        ("item_id,genres\n{known},Action\n800001,Action\n", "item_id {known} known to the data"),
        ("item_id,genres\n800001,Action\n800001,Comedy\n", "is there twice"),
        ("item_id,genres\nx,Action\n", "row 2: item_id"),
        ("genres\nAction\n", "no column item_id; found genres"),
        ("", "is empty"),
    ],
)
def test_bad_new_items_are_refused(content, fragment, numbers, tmp_path):
    known = numbers.dataset.items.ids[3].as_py()
    file = tmp_path / "season.csv"
    file.write_text(content.format(known=known))
    with pytest.raises(DataError, match=fragment.format(known=known)) as raised:
        score_top_k(numbers, tmp_path / "out", 3, TopKOptions(new_items=file))
    assert str(file) in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_a_model_that_does_not_look_at_features_refuses_new_items(numbers, texts, season, tmp_path):
    """Nor can one whose data set has none."""
    model = {**MODEL, "item_features": False}
    settings = build_settings({"train": {"epochs": 1}, "model": model})
    train(numbers.dataset, tmp_path / "run", settings)
    for trained in (open_run(tmp_path / "run"), texts):
        with pytest.raises(UsageError, match="--new-items .*season.csv: the model uses no genres"):
            score_top_k(trained, tmp_path / "out", 3, TopKOptions(new_items=season))
    assert not (tmp_path / "out").exists()


# --- pairs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "parquet"])
@pytest.mark.parametrize("part_rows", [1 << 20, 77])
def test_pairs_keep_their_order_and_have_the_models_values(
    part_rows, kind, trained, tmp_path, monkeypatch
):
    monkeypatch.setattr("dglrec.ingest.stream._BLOCK_BYTES", 512)
    monkeypatch.setattr("dglrec.ingest.typed._PARQUET_ROWS", 50)
    in_small_parts(monkeypatch, rows=part_rows)
    dataset, matrix = trained.dataset, all_scores(trained)
    rng = np.random.default_rng(1)
    users = rng.integers(dataset.graph.num_users, size=300)
    items = rng.integers(dataset.graph.num_items, size=300)  # repeats and rated pairs too
    user_ids = dataset.users.decode(users).to_pylist()
    item_ids = dataset.items.decode(items).to_pylist()
    frame = pd.DataFrame({"item_id": item_ids, "more": 1, "user_id": user_ids})
    file = tmp_path / f"pairs.{kind}"
    frame.to_parquet(file) if kind == "parquet" else frame.to_csv(file, index=False)
    summary = score_pairs(trained, tmp_path / "out", file)
    table = read_all(tmp_path / "out")
    assert summary == {
        "out": str(tmp_path / "out"),
        "rows": 300,
        "parts": 4 if part_rows == 77 else 1,
        "kept": 0,
        "complete": True,
    }
    assert table.column_names == ["user_id", "item_id", "score", "rating"]
    types = [dataset.users.ids.type, dataset.items.ids.type, pa.float32(), pa.float32()]
    assert table.schema.types == types
    assert table.column("user_id").to_pylist() == user_ids
    assert table.column("item_id").to_pylist() == item_ids
    assert np.allclose(table.column("rating"), matrix[users, items], atol=1e-6)
    # The score is the same before it is clipped, and tells apart what the scale's end does not.
    scale, scores = dataset.scale, table.column("score").to_numpy()
    assert np.allclose(np.clip(scores, scale.minimum, scale.maximum), table.column("rating"))
    ranked = trained.rank_pairs(torch.from_numpy(users), torch.from_numpy(items))
    assert np.allclose(scores, ranked, atol=1e-5)


@pytest.mark.parametrize(
    ("rows", "fragment"),
    [
        ("1,1\n777,1\n", "user_id 777 unknown to the data set (1 rows); --unknown skip or null"),
        ("1,-5\n1,-6\n1,-7\n1,-8\n", "item_id -5, -6, -7 unknown to the data set (4 rows);"),
        ("1,x\n", "row 2: item_id is no whole number ('x')"),
        ("1\n", "row 2: 1 fields where 2 were expected ('1')"),
    ],
)
def test_bad_pairs_are_refused(rows, fragment, numbers, tmp_path):
    known = numbers.dataset.items.ids[0].as_py()
    file, out = tmp_path / "pairs.csv", tmp_path / "out"
    file.write_text("user_id,item_id\n" + rows.replace(",1\n", f",{known}\n"))
    with pytest.raises(DataError) as raised:
        score_pairs(numbers, out, file)
    assert str(raised.value).startswith(f"{file}: {fragment}")
    assert not list(out.rglob("*.parquet"))
    # Nothing is lost by that: the same folder takes them once they are right.
    file.write_text(f"user_id,item_id\n1,{known}\n")
    score_pairs(numbers, out, file)
    assert len(read_all(out)) == 1


def mixed_pairs(numbers, file, known=400):
    """Pairs, some of them unknown, in many blocks; the rows, and which of them are known.

    Unknown are users 5xx in rows 101, 103, ... and items -x in rows 102, 104, ..., and one of both.
    """
    users = numbers.dataset.users.ids.to_pylist()
    items = numbers.dataset.items.ids.to_pylist()
    rows = [(users[n * 7 % len(users)], items[n * 3 % len(items)]) for n in range(known)]
    for n in range(5):
        rows.insert(101 + 2 * n, (501 + n, items[0]))
        rows.insert(102 + 2 * n, (users[0], -1 - n))
    rows.insert(300, (599, -99))
    frame = pd.DataFrame(rows, columns=["user_id", "item_id"])
    frame.to_parquet(file) if file.suffix == ".parquet" else frame.to_csv(file, index=False)
    return rows, [user < 500 and item >= 0 for user, item in rows]


@pytest.fixture(params=["csv", "parquet"])
def mixed(request, numbers, tmp_path, monkeypatch):
    """Read in short stretches, written in parts of 50 rows."""
    monkeypatch.setattr("dglrec.ingest.stream._BLOCK_BYTES", 512)
    monkeypatch.setattr("dglrec.ingest.typed._PARQUET_ROWS", 60)
    in_small_parts(monkeypatch, rows=50)
    file = tmp_path / f"pairs.{request.param}"
    return file, *mixed_pairs(numbers, file)


def test_unknown_ids_of_pairs_are_an_error_that_counts_all_of_the_file(numbers, mixed, tmp_path):
    file, _, _ = mixed
    with pytest.raises(DataError) as raised:
        score_pairs(numbers, tmp_path / "out", file)
    assert str(raised.value) == (
        f"{file}: user_id 501, 502, 503 unknown to the data set (6 rows) and item_id -1, -2, -3 "
        "unknown to the data set (6 rows); --unknown skip or null goes on without them"
    )
    # What came before is finished, and kept when it goes on.
    kept = sorted(path.name for path in (tmp_path / "out").glob("part-*"))
    assert kept == ["part-00000.parquet", "part-00001.parquet"]
    summary = score_pairs(numbers, tmp_path / "out", file, ScoreOptions(unknown="skip"))
    assert summary["kept"] == 2
    assert len(read_all(tmp_path / "out")) == 400


def test_unknown_pairs_are_left_out(numbers, mixed, tmp_path, capsys):
    file, rows, known = mixed
    capsys.readouterr()
    summary = score_pairs(numbers, tmp_path / "out", file, ScoreOptions(unknown="skip"))
    said = capsys.readouterr().err
    assert "11 rows name a user or an item that the data set lacks" in said
    assert (summary["rows"], summary["unknown_rows"], summary["parts"]) == (400, 11, 9)
    assert json.loads((tmp_path / "out" / MANIFEST_FILE).read_text())["unknown_rows"] == 11
    table = read_all(tmp_path / "out")
    assert [(row["user_id"], row["item_id"]) for row in table.to_pylist()] == [
        row for row, is_known in zip(rows, known, strict=True) if is_known
    ]
    assert_scores_of_known_pairs(numbers, table.to_pylist())


def test_unknown_pairs_get_no_score(numbers, mixed, tmp_path):
    file, rows, known = mixed
    summary = score_pairs(numbers, tmp_path / "out", file, ScoreOptions(unknown="null"))
    assert (summary["rows"], summary["unknown_rows"], summary["parts"]) == (411, 11, 9)
    table = read_all(tmp_path / "out").to_pylist()
    assert [(row["user_id"], row["item_id"]) for row in table] == rows
    assert [row["score"] is not None for row in table] == known
    assert [row["rating"] is not None for row in table] == known
    assert_scores_of_known_pairs(numbers, [row for row in table if row["score"] is not None])
    # The figure is the same where nothing had to be done.
    again = score_pairs(numbers, tmp_path / "out", file, ScoreOptions(unknown="null"))
    assert again == {**summary, "kept": 9}


def assert_scores_of_known_pairs(numbers, rows):
    dataset, matrix = numbers.dataset, all_scores(numbers)
    for row in rows:
        user = dataset.users.encode_one(str(row["user_id"]))
        item = dataset.items.encode_one(str(row["item_id"]))
        assert row["rating"] == pytest.approx(float(matrix[user, item]), abs=1e-6)


@pytest.mark.parametrize("unknown", ["skip", "null"])
def test_pairs_that_are_all_unknown_come_to_no_score(unknown, numbers, tmp_path):
    (tmp_path / "pairs.csv").write_text("user_id,item_id\n901,-1\n902,-2\n")
    options = ScoreOptions(unknown=unknown)
    summary = score_pairs(numbers, tmp_path / "out", tmp_path / "pairs.csv", options)
    assert (summary["rows"], summary["unknown_rows"]) == (2 if unknown == "null" else 0, 2)
    table = read_all(tmp_path / "out")
    assert table.column("score").to_pylist() == [None] * summary["rows"]


# --- the folder ----------------------------------------------------------------------------------


def test_parts_are_bounded(numbers, tmp_path, monkeypatch):
    score_top_k(numbers, tmp_path / "one", 5)
    assert len(list((tmp_path / "one").glob("part-*"))) == 1
    in_small_parts(monkeypatch, users=1 << 14, rows=60)
    score_top_k(numbers, tmp_path / "many", 5)
    manifest = json.loads((tmp_path / "many" / MANIFEST_FILE).read_text())
    sizes = [part["rows"] for part in manifest["parts"]]
    assert len(sizes) == 6  # 12 users each
    assert all(0 < size <= 60 for size in sizes)
    assert sum(sizes) == manifest["rows"]
    assert_same_lists(read_all(tmp_path / "many"), read_all(tmp_path / "one"))
    # Even one user's list may be longer than that.
    in_small_parts(monkeypatch, rows=3)
    score_top_k(numbers, tmp_path / "users", 5)
    assert len(list((tmp_path / "users").glob("part-*"))) == 70
    assert_same_lists(read_all(tmp_path / "users"), read_all(tmp_path / "one"))


def test_parts_of_pairs_are_bounded(numbers, tmp_path, monkeypatch):
    monkeypatch.setattr("dglrec.ingest.typed._PARQUET_ROWS", 100)
    in_small_parts(monkeypatch, rows=250)
    known = numbers.dataset.items.ids[0].as_py()
    frame = pd.DataFrame({"user_id": np.arange(1_010) % 70, "item_id": known})
    frame.to_parquet(tmp_path / "pairs.parquet")
    score_pairs(numbers, tmp_path / "out", tmp_path / "pairs.parquet")
    manifest = json.loads((tmp_path / "out" / MANIFEST_FILE).read_text())
    assert [part["rows"] for part in manifest["parts"]] == [250, 250, 250, 250, 10]
    assert read_all(tmp_path / "out").column("user_id").to_pylist() == frame.user_id.tolist()


def test_who_reads_the_folder_finds_the_rows_and_nothing_else(numbers, tmp_path, monkeypatch):
    in_small_parts(monkeypatch)
    score_top_k(numbers, tmp_path / "out", 3)
    expected = read_all(tmp_path / "out")
    assert pq.read_table(tmp_path / "out").equals(expected)
    assert pd.read_parquet(tmp_path / "out").equals(expected.to_pandas())


def test_the_manifest_says_what_scored(numbers, tmp_path):
    users = listing(tmp_path / "mine.csv", "user_id", [1, 2, 3])
    score_top_k(numbers, tmp_path / "out", 3, TopKOptions(users=users))
    manifest = json.loads((tmp_path / "out" / MANIFEST_FILE).read_text())
    assert manifest["dataset"] == numbers.dataset.fingerprint
    assert manifest["model"]["epoch"] == numbers.meta["epoch"]
    weights = numbers.dataset.path.parent / "run" / "checkpoints" / "best" / "model.safetensors"
    assert manifest["model"]["weights"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert manifest["kind"] == "top-k lists" and manifest["options"]["top_k"] == 3
    sha256 = hashlib.sha256(users.read_bytes()).hexdigest()
    assert manifest["options"]["users"] == {"file": "mine.csv", "sha256": sha256}
    assert manifest["dglrec"] == dglrec.__version__


@pytest.mark.parametrize("order", ["lists", "rating"])
@pytest.mark.parametrize("explain", [False, True])
def test_files_without_rows_are_nothing_to_do(numbers, order, explain, tmp_path, capsys):
    """Some nights nobody is new, and nobody asks."""
    trained = numbers.ordered_by(order)
    empty = {
        "ratings": write_text(tmp_path / "new.csv", "user_id,item_id,rating\n"),
        "new_items": write_text(tmp_path / "season.csv", "item_id,genres\n"),
    }
    score_top_k(trained, tmp_path / "plain", 3, TopKOptions(explain=explain))
    capsys.readouterr()
    score_top_k(trained, tmp_path / "out", 3, TopKOptions(**empty, explain=explain))
    said = capsys.readouterr().err
    assert "new.csv: holds no rating, so it adds no users" in said
    assert "season.csv: holds no row, so there are no new items" in said
    plain = read_all(tmp_path / "plain")
    assert read_all(tmp_path / "out").equals(plain)
    users = write_text(tmp_path / "users.csv", "user_id\n")
    options = TopKOptions(users=users, explain=explain)
    summary = score_top_k(trained, tmp_path / "nobody", 3, options)
    assert "users.csv: holds no row, so there are no users to score" in capsys.readouterr().err
    assert (summary["users"], summary["rows"], summary["complete"]) == (0, 0, True)
    assert read_all(tmp_path / "nobody").schema.equals(plain.schema)


def test_pairs_without_rows_are_nothing_to_do(trained, tmp_path, capsys):
    pairs = write_text(tmp_path / "pairs.csv", "user_id,item_id\n")
    for kept in (0, 1):
        summary = score_pairs(trained, tmp_path / "out", pairs)
        assert "pairs.csv: holds no row, so there is nothing to score" in capsys.readouterr().err
        assert (summary["rows"], summary["kept"], summary["complete"]) == (0, kept, True)
    dataset, table = trained.dataset, read_all(tmp_path / "out")
    types = [dataset.users.ids.type, dataset.items.ids.type, pa.float32(), pa.float32()]
    assert (table.schema.types, len(table)) == (types, 0)


def test_it_says_that_other_shards_have_to_add_theirs(numbers, tmp_path, monkeypatch, capsys):
    in_small_parts(monkeypatch)
    capsys.readouterr()
    summary = score_top_k(numbers, tmp_path / "out", 3, TopKOptions(shard=(1, 2)))
    assert summary["complete"] is False and summary["parts"] == 3
    said = capsys.readouterr().err
    assert f"{tmp_path / 'out'}: 7 parts are to be there; other shards have to add theirs" in said
    for name in (MANIFEST_FILE, SUCCESS_FILE):
        assert not (tmp_path / "out" / name).exists()


def files_of(out):
    """Of all files but locks: what they hold."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file() and path.suffix != ".lock"
    }


def test_an_existing_folder_is_replaced_only_when_told_to(numbers, tmp_path, monkeypatch):
    in_small_parts(monkeypatch)
    out = tmp_path / "out"
    score_top_k(numbers, out, 3)
    before = files_of(out)
    pairs = tmp_path / "pairs.csv"
    pairs.write_text(f"user_id,item_id\n1,{numbers.dataset.items.ids[0]}\n")
    with pytest.raises(UsageError, match="begun with top_k 3, now 5; .*--overwrite"):
        score_top_k(numbers, out, 5)
    with pytest.raises(UsageError, match="begun with top-k lists, not pairs; .*--overwrite"):
        score_pairs(numbers, out, pairs)
    assert files_of(out) == before
    score_pairs(numbers, out, pairs, ScoreOptions(overwrite=True))
    assert len(read_all(out)) == 1  # and no part of before is left
    with pytest.raises(UsageError, match="begun with pairs, not top-k lists"):
        score_top_k(numbers, out, 3)
    score_top_k(numbers, out, 3, TopKOptions(overwrite=True))
    assert files_of(out) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "pairs.csv"]


@pytest.mark.parametrize("name", ["part-00000.parquet", "_parts", "_SUCCESS"])
def test_a_foreign_folder_is_never_removed(name, numbers, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    if name == "_parts":
        (mine / name).mkdir()
        (mine / name / "thesis.tex").write_text("not of ours")
    else:
        (mine / name).write_text("not of ours")
    before = files_of(mine)
    with pytest.raises(UsageError, match="mine exists"):
        score_top_k(numbers, mine, 3)
    with pytest.raises(UsageError, match="holds no _plan.json"):
        score_top_k(numbers, mine, 3, TopKOptions(overwrite=True))
    assert files_of(mine) == before
    assert [path.name for path in mine.iterdir()] == [name]


def test_shards_do_not_replace_each_others_parts(numbers, tmp_path, monkeypatch):
    in_small_parts(monkeypatch)
    score_top_k(numbers, tmp_path / "out", 3, TopKOptions(shard=(0, 2)))
    before = files_of(tmp_path / "out")
    with pytest.raises(UsageError, match="--overwrite would remove what other shards write"):
        score_top_k(numbers, tmp_path / "out", 3, TopKOptions(shard=(1, 2), overwrite=True))
    assert files_of(tmp_path / "out") == before


def no_work(*arguments, **options):
    raise AssertionError("work was done")


def test_a_folder_that_may_not_be_written_is_refused_before_any_work(
    numbers, tmp_path, monkeypatch
):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    pairs = tmp_path / "pairs.csv"
    pairs.write_text(f"user_id,item_id\n1,{numbers.dataset.items.ids[0]}\n")
    monkeypatch.setattr(Roster, "scorer", no_work)
    monkeypatch.setattr(jobs, "stream_columns", no_work)
    with pytest.raises(UsageError, match="out exists"):
        score_top_k(numbers, tmp_path / "out", 3)
    with pytest.raises(UsageError, match="out exists"):
        score_pairs(numbers, tmp_path / "out", pairs)


# --- what was begun ------------------------------------------------------------------------------


@pytest.fixture
def inputs(numbers, tmp_path):
    """A file for each option that takes one."""
    items = numbers.dataset.items.ids.to_pylist()
    listing(tmp_path / "users.csv", "user_id", range(50))
    listing(tmp_path / "items.csv", "item_id", items[:30])
    rated = f"900,{items[3]},5\n901,{items[4]},2\n"
    (tmp_path / "new.csv").write_text("user_id,item_id,rating\n" + rated)
    (tmp_path / "season.csv").write_text("item_id,genres\n800001,Action\n800002,Comedy\n")
    return {
        "users": tmp_path / "users.csv",
        "items": tmp_path / "items.csv",
        "ratings": tmp_path / "new.csv",
        "new_items": tmp_path / "season.csv",
    }


FIRST_SHARD = (0, 4)  # two of seven parts


def assert_refused(numbers, out, k, options, fragment):
    before = files_of(out)
    with pytest.raises(UsageError, match=fragment) as raised:
        score_top_k(numbers, out, k, options)
    assert str(out) in str(raised.value) and "--overwrite" in str(raised.value)
    assert files_of(out) == before


@pytest.mark.parametrize("name", ["users", "items", "ratings", "new_items"])
def test_a_file_given_or_changed_between_attempts_is_refused_by_name(
    name, numbers, inputs, tmp_path, monkeypatch
):
    in_small_parts(monkeypatch)
    file, out = inputs[name], tmp_path / "out"
    with_file = TopKOptions(shard=FIRST_SHARD, **{name: file})
    without = TopKOptions(shard=FIRST_SHARD)
    score_top_k(numbers, out, 3, with_file)
    assert_refused(numbers, out, 3, without, rf"{name} of file {file.name} \(.{{8}}\), now not giv")
    # The same content under another name is the same.
    renamed = shutil.copy(file, tmp_path / "renamed.csv")
    again = score_top_k(numbers, out, 3, dataclasses.replace(with_file, **{name: renamed}))
    assert again["kept"] == again["parts"] == 2
    header, *rows = file.read_text().splitlines()
    file.write_text("\n".join([header, *rows[1:]]) + "\n")
    changed = rf"{name} of file {file.name} \(.{{8}}\), now of file {file.name} \(.{{8}}\)"
    assert_refused(numbers, out, 3, with_file, changed)
    score_top_k(numbers, tmp_path / "other", 3, without)
    fragment = rf"begun with {name} not given, now of file {file.name}"
    assert_refused(numbers, tmp_path / "other", 3, with_file, fragment)


def test_options_that_changed_between_attempts_are_refused_by_name(numbers, tmp_path, monkeypatch):
    in_small_parts(monkeypatch)
    out, options = tmp_path / "out", TopKOptions(shard=FIRST_SHARD)
    score_top_k(numbers, out, 3, options)
    assert_refused(numbers, out, 4, options, "begun with top_k 3, now 4;")
    seen = dataclasses.replace(options, include_seen=True)
    assert_refused(numbers, out, 3, seen, "begun with include_seen false, now true;")
    assert_refused(numbers, out, 4, seen, "top_k 3, now 4; include_seen false, now true;")
    in_small_parts(monkeypatch, users=11)
    assert_refused(numbers, out, 3, options, "begun with another version of dglrec")


def test_other_pairs_are_refused(numbers, tmp_path):
    item = numbers.dataset.items.ids[0].as_py()
    for name, users in (("a.csv", (1, 2)), ("b.csv", (1, 3))):
        frame = pd.DataFrame({"user_id": users, "item_id": item})
        frame.to_csv(tmp_path / name, index=False)
    score_pairs(numbers, tmp_path / "out", tmp_path / "a.csv")
    before = files_of(tmp_path / "out")
    with pytest.raises(UsageError, match=r"begun with pairs of file a.csv \(.*\), now of file b"):
        score_pairs(numbers, tmp_path / "out", tmp_path / "b.csv")
    assert files_of(tmp_path / "out") == before


def test_what_unknown_ids_mean_may_change_only_while_they_are_an_error(
    numbers, tmp_path, monkeypatch
):
    in_small_parts(monkeypatch, rows=50)
    file = tmp_path / "pairs.csv"
    mixed_pairs(numbers, file)
    for first, second in (("skip", "error"), ("skip", "null"), ("null", "skip")):
        out = tmp_path / f"{first}-{second}"
        score_pairs(numbers, out, file, ScoreOptions(unknown=first, shard=FIRST_SHARD))
        before = files_of(out)
        with pytest.raises(UsageError, match=f'begun with unknown "{first}", now "{second}"'):
            score_pairs(numbers, out, file, ScoreOptions(unknown=second, shard=FIRST_SHARD))
        assert files_of(out) == before
    for second in ("skip", "null"):
        out = tmp_path / second
        with pytest.raises(DataError, match="unknown to the data set"):
            score_pairs(numbers, out, file)
        score_pairs(numbers, out, file, ScoreOptions(unknown=second))
        score_pairs(numbers, tmp_path / f"{second}-alone", file, ScoreOptions(unknown=second))
        assert files_of(out) == files_of(tmp_path / f"{second}-alone")


def test_a_folder_of_another_model_is_refused(numbers, texts, tmp_path, monkeypatch):
    in_small_parts(monkeypatch)
    score_top_k(numbers, tmp_path / "out", 3, TopKOptions(shard=FIRST_SHARD))
    assert_refused(texts, tmp_path / "out", 3, TopKOptions(), "begun with another model;")
    later = dataclasses.replace(numbers, meta={**numbers.meta, "epoch": 77})
    assert_refused(later, tmp_path / "out", 3, TopKOptions(), "begun with another model;")


def test_a_folder_of_another_data_set_is_refused(numbers, tmp_path, monkeypatch):
    in_small_parts(monkeypatch)
    score_top_k(numbers, tmp_path / "out", 3, TopKOptions(shard=FIRST_SHARD))
    monkeypatch.setattr(numbers.dataset, "fingerprint", "0" * 64)
    assert_refused(numbers, tmp_path / "out", 3, TopKOptions(), "begun with another data set;")


class CutOff(BaseException):
    """Stands for whatever ends a process."""


def test_where_no_part_is_finished_another_plan_may_take_over(numbers, tmp_path, monkeypatch):
    in_small_parts(monkeypatch)
    out = tmp_path / "out"

    def cut_off(*arguments):
        raise CutOff

    with monkeypatch.context() as patch:
        patch.setattr(PartsFolder, "write", cut_off)
        with pytest.raises(CutOff):
            score_top_k(numbers, out, 3)
    assert not list(out.glob("part-*"))
    score_top_k(numbers, out, 5, TopKOptions(include_seen=True))
    score_top_k(numbers, tmp_path / "whole", 5, TopKOptions(include_seen=True))
    read_all(out)
    assert files_of(out) == files_of(tmp_path / "whole")


@pytest.mark.parametrize("plan", ["", "{", "[]", "{}", '{"schema_version": 0}'])
def test_a_damaged_plan_is_refused(plan, numbers, tmp_path, monkeypatch):
    in_small_parts(monkeypatch)
    out = tmp_path / "out"
    score_top_k(numbers, out, 3, TopKOptions(shard=FIRST_SHARD))
    (out / PLAN_FILE).write_text(plan)
    before = files_of(out)
    with pytest.raises((UsageError, DataError), match=str(out)):
        score_top_k(numbers, out, 3)
    assert files_of(out) == before


def identities(out):
    """Of each part what shows whether it was written anew."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in out.glob("part-*")}


def test_a_finished_folder_given_again_is_left_as_it_is(numbers, tmp_path, monkeypatch):
    in_small_parts(monkeypatch)
    first = score_top_k(numbers, tmp_path / "out", 3)
    before, written = files_of(tmp_path / "out"), identities(tmp_path / "out")
    monkeypatch.setattr(Roster, "scorer", no_work)
    monkeypatch.setattr(PartsFolder, "write", no_work)
    again = score_top_k(numbers, tmp_path / "out", 3)
    assert first == {**again, "kept": 0}
    assert again["complete"] is True and again["kept"] == again["parts"] == 7
    assert files_of(tmp_path / "out") == before and identities(tmp_path / "out") == written
    # By shards, too, however many.
    again = score_top_k(numbers, tmp_path / "out", 3, TopKOptions(shard=(1, 3)))
    assert (again["kept"], again["parts"], again["complete"]) == (2, 2, True)


def test_finished_pairs_given_again_are_left_as_they_are(numbers, tmp_path, monkeypatch):
    in_small_parts(monkeypatch, rows=50)
    file, options = tmp_path / "pairs.csv", ScoreOptions(unknown="null")
    mixed_pairs(numbers, file)
    first = score_pairs(numbers, tmp_path / "out", file, options)
    before, written = files_of(tmp_path / "out"), identities(tmp_path / "out")
    monkeypatch.setattr(PartsFolder, "write", no_work)
    monkeypatch.setattr(jobs.PairsJob, "_make", no_work)
    again = score_pairs(numbers, tmp_path / "out", file, options)
    assert again == {**first, "kept": 9} and first["kept"] == 0
    assert files_of(tmp_path / "out") == before and identities(tmp_path / "out") == written


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGE = {
    "a flipped bit": ("part-00002.parquet", flip, "damaged since it was written"),
    "half of it gone": ("part-00002.parquet", halve, "damaged since it was written"),
    "all of it gone": ("part-00002.parquet", lambda path: path.unlink(), "gone since it was"),
    "half of its note gone": ("_parts/00002.json", halve, "damaged; making its part again"),
    "another's note": (
        "_parts/00002.json",
        lambda path: path.write_text('{"rows": 1}'),
        "damaged; making its part again",
    ),
}


@pytest.fixture
def written(monkeypatch):
    """The numbers of the parts that are written, and whether the folder seemed finished then."""
    found, original = [], PartsFolder.write

    def noting(self, number, *arguments):
        found.append((number, (self.out / SUCCESS_FILE).exists()))
        return original(self, number, *arguments)

    monkeypatch.setattr(PartsFolder, "write", noting)
    return found


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("pairs", [False, True])
def test_a_damaged_part_is_made_again(
    pairs, damage, numbers, tmp_path, monkeypatch, capsys, written
):
    in_small_parts(monkeypatch, rows=50)
    out, file = tmp_path / "out", tmp_path / "pairs.csv"
    mixed_pairs(numbers, file)

    def score():
        if pairs:
            return score_pairs(numbers, out, file, ScoreOptions(unknown="skip"))
        return score_top_k(numbers, out, 5)

    count = score()["parts"]
    before, identity = files_of(out), identities(out)
    name, spoil, message = DAMAGE[damage]
    spoil(out / name)
    assert files_of(out) != before
    written.clear()
    capsys.readouterr()
    again = score()
    assert (again["parts"], again["kept"], again["complete"]) == (count, count - 1, True)
    assert written == [(2, False)]  # and meanwhile nobody could take it for finished
    assert f"{out / name}: {message}" in capsys.readouterr().err
    assert files_of(out) == before
    read_all(out)
    after = identities(out)
    assert [one for one in after if after[one] != identity[one]] == ["part-00002.parquet"]


def change_number(path):
    text = path.read_text()
    path.write_text(text.replace('"top_k": 5', '"top_k": 6') if "top_k" in text else text)
    assert path.read_text() != text


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        (MANIFEST_FILE, change_number, "altered since it was written; making it again"),
        (MANIFEST_FILE, halve, "not readable as JSON .*; making it again"),
        (SUCCESS_FILE, lambda path: path.write_text("x"), "holds something; making it again"),
    ],
)
def test_what_says_that_all_is_there_is_made_again(
    name, spoil, message, numbers, tmp_path, monkeypatch, capsys
):
    in_small_parts(monkeypatch)
    out = tmp_path / "out"
    score_top_k(numbers, out, 5)
    before, written = files_of(out), identities(out)
    spoil(out / name)
    capsys.readouterr()
    assert score_top_k(numbers, out, 5)["complete"] is True
    assert re.search(f"{out / name}: {message}", capsys.readouterr().err)
    assert files_of(out) == before and identities(out) == written


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (change_number, "altered since it was written"),
        (lambda path: path.unlink(), "no such file, though .* holds scores"),
        (lambda path: (path.unlink(), path.mkdir()), "no such file, though .* holds scores"),
    ],
)
def test_scores_whose_plan_was_altered_are_no_other_jobs(
    spoil, message, numbers, tmp_path, monkeypatch
):
    in_small_parts(monkeypatch)
    out = tmp_path / "out"
    score_top_k(numbers, out, 5)
    spoil(out / PLAN_FILE)
    before = files_of(out)
    with pytest.raises(DataError, match=f"{PLAN_FILE}: {message}"):
        score_top_k(numbers, out, 5)
    assert files_of(out) == before


@pytest.mark.parametrize("name", ["part-00001.parquet", "_parts/00001.json", SUCCESS_FILE])
def test_a_folder_where_a_file_of_scores_belongs_is_named(name, numbers, tmp_path, monkeypatch):
    in_small_parts(monkeypatch)
    out = tmp_path / "out"
    score_top_k(numbers, out, 3)
    (out / name).unlink()
    (out / name).mkdir()
    with pytest.raises(DataError, match=f"{out / name}: is a folder where a file belongs"):
        score_top_k(numbers, out, 3)
    (out / name).rmdir()
    assert score_top_k(numbers, out, 3)["complete"] is True


@pytest.mark.parametrize("missing", ["part-00001.parquet", "_parts/00001.json"])
def test_a_shard_does_not_call_finished_what_lacks_anothers_part(
    missing, numbers, tmp_path, monkeypatch
):
    in_small_parts(monkeypatch)
    out = tmp_path / "out"
    for number in range(2):
        score_top_k(numbers, out, 3, TopKOptions(shard=(number, 2)))
    whole = files_of(out)
    (out / missing).unlink()
    summary = score_top_k(numbers, out, 3, TopKOptions(shard=(0, 2)))
    assert summary["complete"] is False
    assert not (out / SUCCESS_FILE).exists()
    assert score_top_k(numbers, out, 3, TopKOptions(shard=(1, 2)))["complete"] is True
    assert files_of(out) == whole


def test_a_part_of_another_plan_is_refused(numbers, tmp_path, monkeypatch):
    """As when somebody copies parts of one folder into another."""
    in_small_parts(monkeypatch)
    out, other = tmp_path / "out", tmp_path / "other"
    score_top_k(numbers, out, 3, TopKOptions(shard=FIRST_SHARD))
    score_top_k(numbers, other, 4, TopKOptions(shard=FIRST_SHARD))
    for name in ("part-00004.parquet", "_parts/00004.json"):
        shutil.copy(other / name, out / name)
    with pytest.raises(DataError, match="part-00004.parquet: made with other options than _plan"):
        score_top_k(numbers, out, 3)
    # By a shard whose own part it is not, too.
    with pytest.raises(DataError, match="part-00004.parquet: made with other options than _plan"):
        score_top_k(numbers, out, 3, TopKOptions(shard=(1, 4)))
    assert not (out / SUCCESS_FILE).exists()


def test_finished_scores_whose_notes_are_gone_are_not_replaced_by_others(numbers, tmp_path):
    """As where a copy took everything but names that begin with an underscore and are folders."""
    out = tmp_path / "out"
    score_top_k(numbers, out, 3)
    shutil.rmtree(out / NOTES_FOLDER)
    before = {path.name: path.read_bytes() for path in out.glob("part-*")}
    with pytest.raises(UsageError, match="begun with top_k 3, now 4"):
        score_top_k(numbers, out, 4)
    assert {path.name: path.read_bytes() for path in out.glob("part-*")} == before
    assert score_top_k(numbers, out, 3)["complete"] is True
    assert {path.name: path.read_bytes() for path in out.glob("part-*")} == before


def test_parts_that_took_unknown_ids_otherwise_are_not_mixed_in(numbers, tmp_path, monkeypatch):
    in_small_parts(monkeypatch, rows=50)
    file = tmp_path / "pairs.csv"
    mixed_pairs(numbers, file)
    for mode in ("skip", "null"):
        score_pairs(numbers, tmp_path / mode, file, ScoreOptions(unknown=mode))
    noted = {
        path: json.loads(path.read_text()) for path in (tmp_path / "null").glob("_parts/*.json")
    }
    (path,) = [path for path, note in noted.items() if note["unknown_rows"]][:1]
    number = path.stem
    for name in (f"_parts/{number}.json", f"part-{number}.parquet"):
        shutil.copy(tmp_path / "null" / name, tmp_path / "skip" / name)
    with pytest.raises(DataError, match=f"part-{number}.parquet: made with other options"):
        score_pairs(numbers, tmp_path / "skip", file, ScoreOptions(unknown="skip"))


def test_ids_that_cannot_be_kept_are_no_null_rows(numbers, tmp_path):
    frame = pd.DataFrame(
        {"user_id": ["1", "abc"], "item_id": [str(numbers.dataset.items.ids[0])] * 2}
    )
    frame.to_parquet(tmp_path / "pairs.parquet")
    with pytest.raises(DataError, match="column user_id holds .*string, and not all of it can be"):
        score_pairs(
            numbers, tmp_path / "out", tmp_path / "pairs.parquet", ScoreOptions(unknown="null")
        )


# --- reasons -------------------------------------------------------------------------------------


def test_reasons_stand_beside_each_recommendation(trained, tmp_path, monkeypatch):
    in_small_parts(monkeypatch, users=20)
    score_top_k(trained, tmp_path / "plain", 4)
    score_top_k(trained, tmp_path / "out", 4, TopKOptions(explain=True))
    table, plain = read_all(tmp_path / "out"), read_all(tmp_path / "plain")
    assert table.select(plain.column_names) == plain
    dataset = trained.dataset
    assert table.schema.field("because").type == pa.list_(dataset.items.ids.type)
    assert table.schema.field("contribution").type == pa.list_(pa.float32())
    by_user, some = dataset.graph.by_user, 0
    for row in table.to_pylist():
        user = dataset.users.encode_one(str(row["user_id"]))
        rated = dataset.items.decode(by_user.neighbours[by_user.of(user)]).to_pylist()
        assert len(row["because"]) == len(row["contribution"]) <= 3
        assert set(row["because"]) <= set(rated)
        assert sorted(row["contribution"], reverse=True) == row["contribution"]
        assert all(value > 0 for value in row["contribution"])
        some += len(row["because"])
    assert some > len(table)
    # The same for one user, to look at.
    row = table.to_pylist()[0]
    found = recommend(trained, str(row["user_id"]), 4, explain=True)[0]
    assert [one.item_id for one in found.because] == row["because"]
    contributions = [one.contribution for one in found.because]
    assert contributions == pytest.approx(row["contribution"], abs=1e-5)
    user = dataset.users.encode_one(str(row["user_id"]))
    places = by_user.neighbours[by_user.of(user)]
    ratings = dataset.scale.decode(by_user.codes[by_user.of(user)])
    given = dict(zip(dataset.items.decode(places).to_pylist(), ratings.tolist(), strict=True))
    assert [one.rating for one in found.because] == [given[one.item_id] for one in found.because]


def test_new_users_get_reasons_from_their_file(texts, tmp_path):
    rows = [("i01", 5), ("i02", 1), ("i07", 4), ("i11", 5)]
    lines = [f"someone,{item},{rating}" for item, rating in rows]
    file = tmp_path / "new.csv"
    file.write_text("\n".join(["user_id,item_id,rating", *lines]) + "\n")
    options = TopKOptions(ratings=file, explain=True)
    score_top_k(texts, tmp_path / "out", 5, options)
    found = [row for row in read_all(tmp_path / "out").to_pylist() if row["user_id"] == "someone"]
    assert len(found) == 5 and any(row["because"] for row in found)
    assert {item for row in found for item in row["because"]} <= {item for item, _ in rows}
    mine = ratings_file(tmp_path, rows)
    for row, one in zip(found, recommend(texts, None, 5, ratings=mine, explain=True), strict=True):
        assert [reason.item_id for reason in one.because] == row["because"]


def test_who_has_rated_everything_gets_no_reasons_and_no_error(texts):
    assert recommend(texts, "all", 5, explain=True) == []
