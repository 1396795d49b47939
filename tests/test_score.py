"""Recommendations and batch scores, held against every pair predicted one by one."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from dglrec import score
from dglrec.config import build_settings
from dglrec.dataset import PrepareOptions, prepare
from dglrec.errors import DataError, UsageError
from dglrec.infer import embed_new_user, predict_pairs
from dglrec.metrics import clip
from dglrec.run import open_run
from dglrec.score import MANIFEST_FILE, recommend, score_pairs, score_top_k
from dglrec.synthetic import synthesize
from dglrec.train import train

SETTINGS = build_settings({"train": {"epochs": 2}, "model": {"embedding_size": 8}})
ITEMS = 20


def trained_on(source, folder, **options):
    dataset = prepare(source, folder / "dataset", PrepareOptions(text=False, **options))
    train(dataset, folder / "run", SETTINGS)
    return open_run(folder / "run")


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    """A model of generated data: ids are whole numbers, items have titles."""
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


def assert_best(trained, user, items, scores, k, matrix, rated):
    """`items` are the k best of those that the user has not rated, best first."""
    left = sorted(set(range(trained.dataset.graph.num_items)) - rated[user])
    assert not set(items) & rated[user]
    assert len(set(items)) == len(items) == min(k, len(left))
    assert np.allclose(scores, matrix[user, items], atol=1e-5)
    best = np.sort(matrix[user, left])[::-1][:k]
    assert np.allclose(scores, best, atol=1e-5)  # so nothing better was left out


def read_all(out):
    manifest = json.loads((out / MANIFEST_FILE).read_text())
    tables = [pq.read_table(out / part["file"]) for part in manifest["parts"]]
    assert [len(table) for table in tables] == [part["rows"] for part in manifest["parts"]]
    assert sorted(path.name for path in out.iterdir()) == sorted(
        [MANIFEST_FILE, *(part["file"] for part in manifest["parts"])]
    )
    return pa.concat_tables(tables)


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


@pytest.mark.parametrize("k", [0, -1, 41, 10**9])
def test_k_is_within_the_catalogue(k, numbers, tmp_path):
    with pytest.raises(UsageError, match=f"k = {k}"):
        score_top_k(numbers, tmp_path / "out", k)


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
    dataset = texts.dataset
    items = torch.tensor([1, 2, 7, 11])
    ratings = torch.tensor([5.0, 1.0, 4.0, 5.0])
    vector, bias = embed_new_user(texts.model, dataset.biases, texts.embeddings, items, ratings)
    with torch.inference_mode():
        residuals = texts.model.decoder.all_pairs(vector, texts.embeddings.nodes.items)[0]
    expected = clip(dataset.biases.mean + bias + dataset.biases.items + residuals, dataset.scale)
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
    assert "mine.csv: 3 rated items are unknown and left out" in captured.err
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


# --- top k for all -------------------------------------------------------------------------------


def test_score_top_k_is_recommend_for_everybody(trained, tmp_path):
    summary = score_top_k(trained, tmp_path / "out", 6)
    table = read_all(tmp_path / "out")
    dataset = trained.dataset
    assert table.column_names == ["user_id", "item_id", "rank", "score"]
    assert table.schema.types == [
        dataset.users.ids.type,
        dataset.items.ids.type,
        pa.int32(),
        pa.float32(),
    ]
    assert summary["rows"] == len(table)
    by_user = {}
    for row in table.to_pylist():
        by_user.setdefault(row["user_id"], []).append(row)
    for user_id in dataset.users.ids.to_pylist():
        expected = recommend(trained, str(user_id), 6)
        rows = by_user.pop(user_id, [])
        assert [row["rank"] for row in rows] == [one.rank for one in expected]
        assert [row["item_id"] for row in rows] == [one.item_id for one in expected]
        assert [row["score"] for row in rows] == pytest.approx(
            [one.score for one in expected], abs=1e-5
        )
    assert not by_user


def test_score_top_k_of_the_whole_catalogue(texts, tmp_path):
    score_top_k(texts, tmp_path / "out", ITEMS)
    table, rated = read_all(tmp_path / "out"), rated_items(texts)
    assert len(table) == sum(ITEMS - len(items) for items in rated)
    assert "all" not in table.column("user_id").to_pylist()


@pytest.mark.parametrize("at_once", [1, 3, 1_000])
def test_how_many_users_are_scored_at_once_changes_nothing(at_once, numbers, tmp_path, monkeypatch):
    score_top_k(numbers, tmp_path / "whole", 5)
    monkeypatch.setattr(score, "_USERS_AT_ONCE", at_once)
    score_top_k(numbers, tmp_path / "parts", 5)
    whole, parts = read_all(tmp_path / "whole"), read_all(tmp_path / "parts")
    for name in ("user_id", "item_id", "rank"):
        assert whole.column(name).to_pylist() == parts.column(name).to_pylist()
    assert np.allclose(whole.column("score"), parts.column("score"), atol=1e-5)


@pytest.mark.parametrize("shards", [1, 3, 69, 71, 100])
def test_shards_together_are_the_whole(shards, numbers, tmp_path):
    score_top_k(numbers, tmp_path / "whole", 4)
    tables, users = [], []
    for number in range(shards):
        out = tmp_path / f"shard-{number}"
        summary = score_top_k(numbers, out, 4, shard=(number, shards))
        assert summary["shard"] == f"{number}/{shards}"
        manifest = json.loads((out / MANIFEST_FILE).read_text())
        if not manifest["parts"]:  # more shards than users
            continue
        tables.append(read_all(out))
        users.append(set(tables[-1].column("user_id").to_pylist()))
    whole, joined = read_all(tmp_path / "whole"), pa.concat_tables(tables)
    assert sum(map(len, users)) == len(set().union(*users))  # no user in two shards
    for name in ("user_id", "item_id", "rank"):
        assert whole.column(name).to_pylist() == joined.column(name).to_pylist()
    assert np.allclose(whole.column("score"), joined.column("score"), atol=1e-5)


@pytest.mark.parametrize("shard", [(1, 1), (-1, 2), (2, 2), (0, 0), (0, -1)])
def test_an_impossible_shard_is_refused(shard, numbers, tmp_path):
    with pytest.raises(UsageError, match=f"--shard {shard[0]}/{shard[1]}"):
        score_top_k(numbers, tmp_path / "out", 3, shard=shard)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_only_the_users_of_a_file(kind, trained, tmp_path):
    ids, catalogue = trained.dataset.users.ids.to_pylist(), trained.dataset.graph.num_items
    rated = rated_items(trained)
    chosen = [ids[user] for user in range(len(ids)) if len(rated[user]) < catalogue][5:20:3]
    frame = pd.DataFrame({"note": "x", "user_id": [*chosen[::-1], chosen[0]]})  # one twice
    file = tmp_path / f"users.{kind}"
    frame.to_csv(file, index=False) if kind == "csv" else frame.to_parquet(file)
    score_top_k(trained, tmp_path / "out", 4, users=file)
    table = read_all(tmp_path / "out")
    assert list(dict.fromkeys(table.column("user_id").to_pylist())) == chosen
    score_top_k(trained, tmp_path / "all", 4)
    whole = [row for row in read_all(tmp_path / "all").to_pylist() if row["user_id"] in chosen]
    assert [(row["item_id"], row["rank"]) for row in table.to_pylist()] == [
        (row["item_id"], row["rank"]) for row in whole
    ]
    halves = []
    for number in range(2):
        out = tmp_path / f"half-{number}"
        score_top_k(trained, out, 4, users=file, shard=(number, 2))
        halves.append(read_all(out))
    assert pa.concat_tables(halves).column("item_id") == table.column("item_id")


def test_unknown_users_are_refused_with_their_number(numbers, tmp_path):
    file = tmp_path / "users.csv"
    file.write_text("user_id\n1\n501\n2\n502\n503\n504\n")
    with pytest.raises(DataError) as raised:
        score_top_k(numbers, tmp_path / "out", 3, users=file)
    message = str(raised.value)
    assert "users.csv: user_id 501, 502, 503 unknown to the data set (4 rows)" in message
    assert not (tmp_path / "out").exists()


# --- pairs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "parquet"])
def test_pairs_keep_their_order_and_have_the_models_values(kind, trained, tmp_path):
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
    assert summary == {"out": str(tmp_path / "out"), "rows": 300, "pairs": file.name}
    assert table.column_names == ["user_id", "item_id", "score"]
    types = [dataset.users.ids.type, dataset.items.ids.type, pa.float32()]
    assert table.schema.types == types
    assert table.column("user_id").to_pylist() == user_ids
    assert table.column("item_id").to_pylist() == item_ids
    assert np.allclose(table.column("score"), matrix[users, items], atol=1e-6)


@pytest.mark.parametrize(
    ("rows", "fragment"),
    [
        ("1,1\n777,1\n", "user_id 777 unknown to the data set (1 rows)"),
        ("1,-5\n1,-6\n1,-7\n1,-8\n", "item_id -5, -6, -7 unknown to the data set (4 rows)"),
        ("", "holds no row"),
        ("1,x\n", "row 2: item_id is no whole number ('x')"),
        ("1\n", "row 2: 1 fields where 2 were expected ('1')"),
    ],
)
def test_bad_pairs_are_refused(rows, fragment, numbers, tmp_path):
    known = numbers.dataset.items.ids[0].as_py()
    file = tmp_path / "pairs.csv"
    file.write_text("user_id,item_id\n" + rows.replace(",1\n", f",{known}\n"))
    with pytest.raises(DataError) as raised:
        score_pairs(numbers, tmp_path / "out", file)
    assert str(raised.value) == f"{file}: {fragment}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pairs.csv"]


def test_a_bad_row_far_down_leaves_nothing_either(numbers, tmp_path, monkeypatch):
    """Parts are being written when it is found."""
    monkeypatch.setattr("dglrec.ingest.stream._BLOCK_BYTES", 512)
    monkeypatch.setattr(score, "_PART_ROWS", 50)
    known = numbers.dataset.items.ids[0].as_py()
    file = tmp_path / "pairs.csv"
    file.write_text("user_id,item_id\n" + f"1,{known}\n" * 2_000 + f"999999,{known}\n")
    with pytest.raises(DataError, match="user_id 999999"):
        score_pairs(numbers, tmp_path / "out", file)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pairs.csv"]


# --- the folder ----------------------------------------------------------------------------------


def test_parts_are_bounded(numbers, tmp_path, monkeypatch):
    score_top_k(numbers, tmp_path / "one", 5)
    assert len(list((tmp_path / "one").glob("part-*"))) == 1
    monkeypatch.setattr(score, "_PART_ROWS", 60)
    monkeypatch.setattr(score, "_USERS_AT_ONCE", 4)  # 20 rows at a time
    score_top_k(numbers, tmp_path / "many", 5)
    manifest = json.loads((tmp_path / "many" / MANIFEST_FILE).read_text())
    sizes = [part["rows"] for part in manifest["parts"]]
    assert len(sizes) >= 4
    assert all(0 < size <= 60 for size in sizes)
    assert sum(sizes) == manifest["rows"]
    names = [part["file"] for part in manifest["parts"]]
    assert names == sorted(set(names))
    one, many = read_all(tmp_path / "one"), read_all(tmp_path / "many")
    assert one.column("item_id").to_pylist() == many.column("item_id").to_pylist()


def test_parts_of_pairs_are_bounded(numbers, tmp_path, monkeypatch):
    monkeypatch.setattr("dglrec.ingest.stream._PARQUET_ROWS", 100)
    monkeypatch.setattr(score, "_PART_ROWS", 250)
    known = numbers.dataset.items.ids[0].as_py()
    frame = pd.DataFrame({"user_id": np.arange(1_000) % 70, "item_id": known})
    frame.to_parquet(tmp_path / "pairs.parquet")
    score_pairs(numbers, tmp_path / "out", tmp_path / "pairs.parquet")
    manifest = json.loads((tmp_path / "out" / MANIFEST_FILE).read_text())
    assert [part["rows"] for part in manifest["parts"]] == [300, 300, 300, 100]
    assert read_all(tmp_path / "out").column("user_id").to_pylist() == frame.user_id.tolist()


def test_the_manifest_says_what_scored(numbers, tmp_path):
    score_top_k(numbers, tmp_path / "out", 3, shard=(1, 2))
    manifest = json.loads((tmp_path / "out" / MANIFEST_FILE).read_text())
    assert manifest["fingerprint"] == numbers.dataset.fingerprint
    assert manifest["epoch"] == numbers.meta["epoch"]
    assert (manifest["top_k"], manifest["shard"]) == (3, "1/2")


def test_an_existing_folder_is_replaced_only_when_told_to(numbers, tmp_path):
    out = tmp_path / "out"
    score_top_k(numbers, out, 3)
    before = (out / MANIFEST_FILE).read_text()
    pairs = tmp_path / "pairs.csv"
    pairs.write_text(f"user_id,item_id\n1,{numbers.dataset.items.ids[0]}\n")
    with pytest.raises(UsageError, match="--overwrite"):
        score_top_k(numbers, out, 5)
    with pytest.raises(UsageError, match="--overwrite"):
        score_pairs(numbers, out, pairs)
    assert (out / MANIFEST_FILE).read_text() == before
    score_pairs(numbers, out, pairs, overwrite=True)
    assert len(read_all(out)) == 1
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "part-00000.parquet").write_text("not of ours")
    with pytest.raises(UsageError, match="holds no _manifest.json"):
        score_top_k(numbers, mine, 3, overwrite=True)
    assert (mine / "part-00000.parquet").read_text() == "not of ours"


def test_a_folder_that_may_not_be_written_is_refused_before_any_work(
    numbers, tmp_path, monkeypatch
):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()

    def no_work(*arguments, **options):
        raise AssertionError("work was done")

    monkeypatch.setattr(score, "top_items", no_work)
    monkeypatch.setattr(score, "stream_columns", no_work)
    with pytest.raises(UsageError):
        score_top_k(numbers, tmp_path / "out", 3, users=tmp_path / "no.csv")
    with pytest.raises(UsageError):
        score_pairs(numbers, tmp_path / "out", tmp_path / "no.csv")


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
