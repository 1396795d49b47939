"""Prepared data sets: every source rating is found again, nothing leaks, damage is noticed."""

import importlib
import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from proofs import as_of_an_earlier_version, read_meta, sign

from dglrec import dataset as dataset_module
from dglrec.biases import Damping, fit_biases
from dglrec.dataset import (
    DATASET_FILE,
    HeldOut,
    PrepareOptions,
    RatingDataset,
    attributes,
    prepare,
)
from dglrec.errors import DataError, UnusableEnvironmentError, UsageError
from dglrec.features import TextCleaning
from dglrec.files import TEMPORARY
from dglrec.graph import build_graph
from dglrec.ingest import open_source, read_items
from dglrec.schema import RatingScale
from dglrec.synthetic import Truth, synthesize

NO_TEXT = PrepareOptions(text=False)
SPLITS = ("valid", "test")
PREPARE = importlib.import_module("dglrec.dataset.prepare")  # the function hides the module


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def grid(users, items, levels, *, first_user=0, first_item=0, seed=0):
    """Distinct rows (user, item, rating), users in no order, three of four pairs rated."""
    rng = np.random.default_rng(seed)
    pairs = rng.permutation(users * items)[: users * items * 3 // 4]
    ratings = rng.choice(levels, len(pairs)).tolist()
    return [
        (first_user + int(pair) // items, first_item + int(pair) % items, rating)
        for pair, rating in zip(pairs, ratings, strict=True)
    ]


def training_rows(dataset):
    """(user, item) -> rating of the training rows, external ids, by users' adjacency."""
    users, items = dataset.users.ids.to_pylist(), dataset.items.ids.to_pylist()
    adjacency, found = dataset.graph.by_user, {}
    for user in range(adjacency.num_nodes):
        row = adjacency.of(user)
        ratings = dataset.scale.decode(np.asarray(adjacency.codes[row])).tolist()
        for item, rating in zip(adjacency.neighbours[row].tolist(), ratings, strict=True):
            assert (users[user], items[item]) not in found
            found[users[user], items[item]] = rating
    return found


def training_rows_by_item(dataset):
    users, items = dataset.users.ids.to_pylist(), dataset.items.ids.to_pylist()
    adjacency, found = dataset.graph.by_item, {}
    for item in range(adjacency.num_nodes):
        row = adjacency.of(item)
        ratings = dataset.scale.decode(np.asarray(adjacency.codes[row])).tolist()
        for user, rating in zip(adjacency.neighbours[row].tolist(), ratings, strict=True):
            found[users[user], items[item]] = rating
    return found


def held_out_rows(dataset, split):
    users, items = dataset.users.ids.to_pylist(), dataset.items.ids.to_pylist()
    part, found = dataset.held_out(split), {}
    columns = (part.users.tolist(), part.items.tolist(), part.ratings.tolist())
    for user, item, rating in zip(*columns, strict=True):
        assert (users[user], items[item]) not in found
        found[users[user], items[item]] = rating
    return found


def assert_holds(dataset, rows):
    """Every source row is in exactly one part, with its rating, and nothing else is anywhere."""
    parts = [training_rows(dataset), *(held_out_rows(dataset, split) for split in SPLITS)]
    assert training_rows_by_item(dataset) == parts[0]
    whole = {}
    for part in parts:
        assert not whole.keys() & part.keys()
        whole |= part
    expected = {(user, item): rating for user, item, rating in rows}
    assert whole.keys() == expected.keys()
    for pair, rating in expected.items():
        assert whole[pair] == pytest.approx(rating, abs=1e-6)
    counts = dataset.meta["counts"]
    assert [counts[name] for name in ("train", *SPLITS)] == [len(part) for part in parts]
    assert counts["users"] == len({user for user, _, _ in rows})
    assert counts["items"] == len({item for _, item, _ in rows})
    assert dataset.graph.num_edges == len(parts[0])


# --- every format --------------------------------------------------------------------------------


def anime_source(folder, rows, items_from=0):
    text = "user_id,anime_id,rating\n" + "".join(f"{u},{i},{r}\n" for u, i, r in rows)
    write(folder / "rating_complete.csv", text)
    items = sorted({item for _, item, _ in rows})
    synopses = "MAL_ID,Name,Score,Genres,sypnopsis\n" + "".join(
        f'{item},"Title, {item}",7,"Action, Drama","Words about {item}"\n' for item in items[::2]
    )
    write(folder / "anime_with_synopsis.csv", synopses)
    table = "MAL_ID,Name,Genres,Members\n" + "".join(
        f'{item},Title {item},"Comedy",{100 + item}\n' for item in items
    )
    write(folder / "anime.csv", table)
    return folder


def test_the_anime_layout(tmp_path):
    rows = grid(12, 10, range(1, 11), first_user=5, first_item=100)
    source = anime_source(tmp_path / "anime", rows)
    dataset = prepare(source, tmp_path / "data", NO_TEXT)
    assert_holds(dataset, rows)
    assert dataset.meta["format"] == "anime"
    assert dataset.scale == RatingScale(1, 10)
    assert dataset.users.ids.to_pylist() == list(range(5, 17))
    assert dataset.items.ids.to_pylist() == list(range(100, 110))
    assert dataset.titles.to_pylist()[:2] == ["Title, 100", "Title 101"]
    assert dataset.meta["notes"]["items_without_synopsis"] == 5
    assert list(dataset.meta["features"]) == ["genres"]


def test_animelist_zeros_are_no_ratings(tmp_path):
    rows = grid(12, 10, range(0, 11))
    text = "user_id,anime_id,rating\n" + "".join(f"{u},{i},{r}\n" for u, i, r in rows)
    write(tmp_path / "s" / "animelist.csv", text)
    dataset = prepare(tmp_path / "s", tmp_path / "data", NO_TEXT)
    rated = [row for row in rows if row[2]]
    assert_holds(dataset, rated)
    assert dataset.meta["notes"]["unrated_rows_skipped"] == len(rows) - len(rated) > 0
    assert dataset.meta["notes"]["rows_read"] == len(rows)


def movielens_100k(folder, rows):
    lines = [
        f"{user}\t{item}\t{rating}\t{880_000_000 + n}\n"
        for n, (user, item, rating) in enumerate(rows)
    ]
    write(folder / "u.data", "".join(lines))
    write(folder / "u1.base", "".join(lines[: len(lines) * 4 // 5]))
    write(folder / "u1.test", "".join(lines[len(lines) * 4 // 5 :]))
    items = sorted({item for _, item, _ in rows})
    flags = "|".join(["0"] * 5 + ["1"] + ["0"] * 13)  # Comedy
    table = "".join(f"{item}|Café {item} (1995)|01-Jan-1995||http://x|{flags}\n" for item in items)
    write(folder / "u.item", table.encode("latin-1"))
    users = sorted({user for user, _, _ in rows})
    write(folder / "u.user", "".join(f"{user}|24|M|writer|85711\n" for user in users))
    return folder


def test_movielens_100k(tmp_path):
    rows = grid(10, 9, range(1, 6), first_user=1, first_item=1)
    dataset = prepare(movielens_100k(tmp_path / "ml", rows), tmp_path / "data")
    assert_holds(dataset, rows)
    assert dataset.scale == RatingScale(1, 5)
    assert dataset.titles.to_pylist()[0] == "Café 1 (1995)"
    users = pq.read_table(tmp_path / "data" / "users.parquet")
    assert users.column_names == ["user_id", "age", "gender", "occupation", "zip_code"]
    assert users.column("occupation").to_pylist() == ["writer"] * 10


def test_train_and_test_files_replace_ratings_and_split(tmp_path):
    rows = grid(10, 9, range(1, 6), first_user=1, first_item=1)
    source = movielens_100k(tmp_path / "ml", rows)
    (source / "u.data").write_text("1\t1\t1\t1\n")  # not read, but for its layout
    options = replace(NO_TEXT, train_file=Path("u1.base"), test_file=Path("u1.test"))
    dataset = prepare(source, tmp_path / "data", options)
    assert_holds(dataset, rows)
    cut = len(rows) * 4 // 5
    assert held_out_rows(dataset, "test") == {(u, i): r for u, i, r in rows[cut:]}
    assert dataset.meta["counts"]["valid"] == round(cut * 0.1)
    assert dataset.meta["split"]["method"] == "given files"
    names = [entry["file"] for entry in dataset.meta["sources"]]
    assert names[:2] == ["u1.base", "u1.test"]
    assert "u.data" not in names


def test_a_test_row_that_the_train_file_holds_too_only_tests(tmp_path):
    rows = grid(10, 9, range(1, 6))
    table = "user_id,item_id,rating\n"
    lines = [f"{user},{item},{rating}\n" for user, item, rating in rows]
    base = write(tmp_path / "base.csv", table + "".join(lines))
    test = write(tmp_path / "test.csv", table + "".join(lines[:8]))
    options = replace(NO_TEXT, train_file=base, test_file=test)
    dataset = prepare(base, tmp_path / "data", options)
    assert_holds(dataset, rows)
    assert held_out_rows(dataset, "test") == {(u, i): r for u, i, r in rows[:8]}
    assert dataset.meta["notes"]["train_rows_in_test_file_dropped"] == 8
    assert dataset.meta["notes"]["duplicate_rows_dropped"] == 0


def test_given_files_come_together(tmp_path):
    file = write(tmp_path / "a.csv", "user_id,item_id,rating\n")
    for options in (replace(NO_TEXT, train_file=file), replace(NO_TEXT, test_file=file)):
        with pytest.raises(UsageError, match="given together"):
            prepare(file, tmp_path / "data", options)


@pytest.mark.parametrize("half_stars", [False, True])
def test_movielens_1m_and_10m(half_stars, tmp_path):
    levels = np.arange(1, 11) / 2 if half_stars else range(1, 6)
    rows = grid(10, 9, levels, first_user=1, first_item=1)
    text = "".join(f"{u}::{i}::{r:g}::{978_300_000 + n}\n" for n, (u, i, r) in enumerate(rows))
    write(tmp_path / "ml" / "ratings.dat", text)
    movies = "".join(f"{item}::Movie: the {item}th (1990)::Drama|Comedy\n" for item in range(1, 10))
    write(tmp_path / "ml" / "movies.dat", movies)
    if not half_stars:
        users = "".join(f"{user}::F::25::4::90210\n" for user in range(1, 11))
        write(tmp_path / "ml" / "users.dat", users)
    dataset = prepare(tmp_path / "ml", tmp_path / "data")
    assert_holds(dataset, rows)
    expected = RatingScale(0.5, 5, 0.5) if half_stars else RatingScale(1, 5)
    assert dataset.scale == expected
    assert dataset.meta["features"] == {"genres": 2}
    assert dataset.titles.to_pylist()[0] == "Movie: the 1th (1990)"


def test_movielens_csv(tmp_path):
    rows = grid(10, 9, np.arange(1, 11) / 2, first_user=1, first_item=1)
    text = "userId,movieId,rating,timestamp\n" + "".join(
        f"{u},{i},{r},{n}\n" for n, (u, i, r) in enumerate(rows)
    )
    write(tmp_path / "ml" / "ratings.csv", text)
    movies = "movieId,title,genres\n" + "".join(
        f'{item},"Movie, The {item}",{"(no genres listed)" if item > 5 else "Drama|War"}\n'
        for item in range(1, 10)
    )
    write(tmp_path / "ml" / "movies.csv", movies)
    dataset = prepare(tmp_path / "ml", tmp_path / "data")
    assert_holds(dataset, rows)
    genres = dataset.item_features.numpy()
    assert genres.tolist() == [[1.0, 1.0]] * 5 + [[0.0, 0.0]] * 4


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "parquet"])
@pytest.mark.parametrize("ids", ["numbers", "text"])
def test_tables(kind, ids, tmp_path):
    rows = grid(11, 9, [-1, 0, 1, 2])
    if ids == "text":
        rows = [(f"user {user:02d} é", f"B00{item}", rating) for user, item, rating in rows]
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "rating"])
    frame["timestamp"] = np.arange(len(frame))[::-1]
    frame["comment"] = "of no interest"
    path = tmp_path / f"ratings.{kind}"
    if kind == "parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False)
    dataset = prepare(path, tmp_path / "data", PrepareOptions(split="time"))
    assert_holds(dataset, rows)
    assert dataset.scale == RatingScale(-1, 2)
    kind_of_id = pa.string() if ids == "text" else pa.int64()
    assert dataset.users.ids.type == kind_of_id
    assert dataset.items.ids.type == kind_of_id
    assert dataset.meta["features"] == {}
    assert dataset.item_features.shape == (9, 0)
    # The latest rows, here the first of the file, test; those after them validate.
    counts = dataset.meta["counts"]
    tested = {(u, i): r for u, i, r in rows[: counts["test"]]}
    assert held_out_rows(dataset, "test") == pytest.approx(tested)
    validated = {(u, i): r for u, i, r in rows[counts["test"] : counts["test"] + counts["valid"]]}
    assert held_out_rows(dataset, "valid") == pytest.approx(validated)


@pytest.mark.parametrize("split", ["random", "user", "item"])
def test_every_split_keeps_every_rating(split, tmp_path):
    rows = grid(20, 15, range(1, 6))
    dataset = prepare(table_of(tmp_path, rows), tmp_path / "data", PrepareOptions(split=split))
    assert_holds(dataset, rows)
    column = {"user": 0, "item": 1}.get(split)
    if column is not None:
        sets = [{pair[column] for pair in training_rows(dataset)}]
        sets += [{pair[column] for pair in held_out_rows(dataset, part)} for part in SPLITS]
        assert not sets[0] & sets[1]
        assert not sets[0] & sets[2]
        assert not sets[1] & sets[2]


def table_of(folder, rows, name="ratings.csv"):
    lines = "".join(f"{user},{item},{rating}\n" for user, item, rating in rows)
    return write(folder / name, "user_id,item_id,rating\n" + lines)


# --- the scale -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        ([1, 2, 3, 4, 5], RatingScale(1, 5)),
        ([0.5, 1, 3.5, 5], RatingScale(0.5, 5, 0.5)),
        ([0, 100], RatingScale(0, 100)),
        ([-10, 10, 3.2], RatingScale(-10, 10, 0.2)),
    ],
)
def test_a_tables_scale_is_found_out(levels, expected, tmp_path):
    rows = grid(12, 10, levels)
    dataset = prepare(table_of(tmp_path, rows), tmp_path / "data", NO_TEXT)
    assert dataset.scale == expected
    assert_holds(dataset, rows)


def test_a_given_scale_is_kept(tmp_path):
    rows = grid(12, 10, [2, 3])
    options = replace(NO_TEXT, scale=RatingScale(0, 5, 0.25))
    dataset = prepare(table_of(tmp_path, rows), tmp_path / "data", options)
    assert dataset.scale == RatingScale(0, 5, 0.25)
    assert_holds(dataset, rows)
    assert dataset.graph.level_counts.sum() == dataset.graph.num_edges
    with pytest.raises(DataError, match="off the scale"):
        prepare(
            tmp_path / "ratings.csv", tmp_path / "d2", replace(NO_TEXT, scale=RatingScale(1, 2))
        )


# --- no leak -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A generated source and its data set, which no test changes."""
    folder = tmp_path_factory.mktemp("planted")
    synthesize(folder / "source", users=80, items=40, ratings=1_600, seed=3)
    return folder / "source", prepare(folder / "source", folder / "data", NO_TEXT)


def test_no_held_out_pair_is_in_the_graph(planted):
    _, dataset = planted
    for split in SPLITS:
        part = dataset.held_out(split)
        for user, item in zip(part.users.tolist(), part.items.tolist(), strict=True):
            by_user, by_item = dataset.graph.by_user, dataset.graph.by_item
            assert item not in by_user.neighbours[by_user.of(user)]
            assert user not in by_item.neighbours[by_item.of(item)]


def test_biases_are_those_of_the_training_rows_alone(planted):
    _, dataset = planted
    pairs = training_rows(dataset)
    users = dataset.users.encode(pa.array([user for user, _ in pairs]))
    items = dataset.items.encode(pa.array([item for _, item in pairs]))
    graph = build_graph(
        users,
        items,
        dataset.scale.encode(np.array(list(pairs.values()))),
        num_users=dataset.graph.num_users,
        num_items=dataset.graph.num_items,
        scale=dataset.scale,
    )
    biases = fit_biases(graph)
    assert dataset.biases.mean == pytest.approx(np.mean(list(pairs.values())))
    assert dataset.biases.damping == biases.damping
    assert dataset.meta["damping"] == {
        "users": biases.damping.users,
        "items": biases.damping.items,
    }
    assert torch.allclose(dataset.biases.users, biases.users, atol=1e-6)
    assert torch.allclose(dataset.biases.items, biases.items, atol=1e-6)
    assert torch.allclose(dataset.biases.user_squares, biases.user_squares, rtol=1e-5)
    assert torch.allclose(dataset.biases.item_squares, biases.item_squares, rtol=1e-5)
    assert dataset.biases.variance == pytest.approx(biases.variance, rel=1e-6)
    degrees = torch.from_numpy(np.bincount(users, minlength=len(biases.users))).float()
    assert torch.equal(dataset.biases.user_degrees, degrees)
    assert np.array_equal(dataset.graph.level_counts, dataset.meta["level_counts"])


def change_held_out_ratings(rows, dataset, new_rating):
    held = {**held_out_rows(dataset, "valid"), **held_out_rows(dataset, "test")}
    return [(u, i, new_rating if (u, i) in held else r) for u, i, r in rows]


def test_held_out_ratings_change_nothing_that_training_sees(tmp_path):
    """A planted leak would show: every held-out rating is set to another value."""
    rows = grid(20, 15, range(1, 6))
    options = replace(NO_TEXT, scale=RatingScale(1, 5))
    first = prepare(table_of(tmp_path, rows, "a.csv"), tmp_path / "a", options)
    changed = change_held_out_ratings(rows, first, 1)
    second = prepare(table_of(tmp_path, changed, "b.csv"), tmp_path / "b", options)
    assert_holds(second, changed)
    assert training_rows(first) == training_rows(second)
    assert first.meta["mean_rating"] == second.meta["mean_rating"]
    assert first.meta["variance"] == second.meta["variance"]
    files = sorted(path.relative_to(first.path) for path in first.path.rglob("*.npy"))
    assert len(files) >= 9
    for file in files:
        assert (first.path / file).read_bytes() == (second.path / file).read_bytes()
    assert first.fingerprint != second.fingerprint


def test_features_are_fitted_on_training_items(tmp_path):
    """Items that only held-out rows rate bring no genre and move no mean."""
    rows = grid(20, 30, range(1, 11))
    source = tmp_path / "s"
    text = "user_id,anime_id,rating\n" + "".join(f"{u},{i},{r}\n" for u, i, r in rows)
    write(source / "rating_complete.csv", text)
    table = "MAL_ID,Name,Genres,Members\n"
    table += "".join(f'{i},T{i},"Genre {i:02d}, Common",{i**3}\n' for i in range(30))
    write(source / "anime.csv", table)
    options = PrepareOptions(split="item", text=False, numeric=("Members",))
    dataset = prepare(source, tmp_path / "data", options)
    trained = sorted({item for _, item in training_rows(dataset)})
    held_out = sorted(set(range(30)) - set(trained))
    assert held_out
    assert dataset.meta["notes"]["items_without_training_rating"] == len(held_out)
    assert dataset.meta["features"] == {"genres": len(trained) + 1, "numeric": 2}
    genres = np.load(dataset.path / "features" / "genres.npy")
    assert np.all(genres.sum(axis=0) > 0)
    assert genres[trained].sum(axis=1).tolist() == [2.0] * len(trained)
    assert genres[held_out].sum(axis=1).tolist() == [1.0] * len(held_out)
    members = np.arange(30, dtype=np.float64) ** 3
    expected = (members - members[trained].mean()) / members[trained].std()
    numeric = np.load(dataset.path / "features" / "numeric.npy")
    assert np.allclose(numeric[:, 0], expected, atol=1e-5)
    assert numeric[:, 1].tolist() == [1.0] * 30
    assert dataset.item_features.shape == (30, len(trained) + 3)


# --- features and options ------------------------------------------------------------------------


def test_numeric_columns_must_be_there(tmp_path):
    source = anime_source(tmp_path / "s", grid(12, 10, range(1, 11)))
    with pytest.raises(UsageError, match="--numeric Weight: .*found .*Members"):
        prepare(source, tmp_path / "data", replace(NO_TEXT, numeric=("Weight",)))
    with pytest.raises(UsageError, match="--numeric Name"):
        prepare(source, tmp_path / "data", replace(NO_TEXT, numeric=("Name",)))
    table = table_of(tmp_path, grid(12, 10, range(1, 6)))
    with pytest.raises(UsageError, match="found none"):
        prepare(table, tmp_path / "data", replace(NO_TEXT, numeric=("year",)))
    assert not (tmp_path / "data").exists()


def incomplete_source(folder):
    """30 items: every third has no genre, every fifth no synopsis."""
    rows = grid(20, 30, range(1, 11))
    text = "user_id,anime_id,rating\n" + "".join(f"{u},{i},{r}\n" for u, i, r in rows)
    write(folder / "rating_complete.csv", text)
    table = "MAL_ID,Name,Genres,sypnopsis\n" + "".join(
        f"{i},T{i},{'Unknown' if i % 3 == 0 else 'Drama'},{'' if i % 5 == 0 else 'Words'}\n"
        for i in range(29)  # the last one has no row
    )
    write(folder / "anime_with_synopsis.csv", table)
    return folder, rows


@pytest.mark.parametrize("text", [False, True])
def test_complete_only_leaves_items_with_gaps_out(text, tmp_path, monkeypatch):
    monkeypatch.setattr(attributes, "SequenceEncoder", FakeTextEncoder)
    source, rows = incomplete_source(tmp_path / "s")
    dataset = prepare(source, tmp_path / "data", PrepareOptions(text=text, complete_only=True))
    kept = [i for i in range(29) if i % 3 and (i % 5 or not text)]
    assert dataset.items.ids.to_pylist() == kept
    stay = [row for row in rows if row[1] in kept]
    assert_holds(dataset, stay)
    assert dataset.meta["notes"]["incomplete_item_rows_dropped"] == len(rows) - len(stay)
    assert dataset.titles.to_pylist() == [f"T{item}" for item in kept]


def test_complete_only_with_nothing_complete_is_refused(tmp_path):
    table = table_of(tmp_path, grid(12, 10, range(1, 6)))
    with pytest.raises(DataError, match="leaves no rating"):
        prepare(table, tmp_path / "data", replace(NO_TEXT, complete_only=True))
    assert not (tmp_path / "data").exists()


class FakeTextEncoder:
    """Stands in for the sentence model: a text's length, and whether there is one."""

    def __init__(self, model, cleaning):
        pass

    def encode(self, texts):
        rows = [[len(text or ""), float(text is not None)] for text in texts]
        return np.array(rows, dtype=np.float32)


def ratings_of(dataset):
    """External (user, item, rating) of all parts, as a set."""
    graph = dataset.graph.by_user
    users = np.repeat(np.arange(graph.num_nodes), graph.degrees)
    parts = [(users, graph.neighbours, dataset.scale.decode(np.asarray(graph.codes)))]
    for split in ("valid", "test"):
        rows = dataset.held_out(split)
        parts.append((rows.users.numpy(), rows.items.numpy(), rows.ratings.numpy()))
    return {
        one
        for user, item, rating in parts
        for one in zip(
            dataset.users.decode(user).to_pylist(),
            dataset.items.decode(item).to_pylist(),
            np.asarray(rating).tolist(),
            strict=True,
        )
    }


def test_drawn_users_keep_their_ratings_and_smaller_draws_are_in_larger_ones(tmp_path):
    rows = [
        (user, item, 1 + (user * item) % 5) for user in range(40) for item in range(user % 7 + 3)
    ]
    rows += [(user, 100 + user, 3) for user in range(40)]  # an item of each user's own
    table = write(
        tmp_path / "t.csv",
        "user_id,item_id,rating\n" + "".join(f"{u},{i},{r}\n" for u, i, r in rows),
    )
    drawn = {}
    for count in (5, 10, 39, 40):
        dataset = prepare(table, tmp_path / str(count), replace(NO_TEXT, users=count, seed=3))
        kept = drawn[count] = set(dataset.users.ids.to_pylist())
        assert len(kept) == count
        wanted = {row for row in rows if row[0] in kept}
        assert ratings_of(dataset) == wanted
        assert set(dataset.items.ids.to_pylist()) == {item for _, item, _ in wanted}
        assert dataset.meta["users_drawn"] == count
        notes = dataset.meta["notes"]
        assert notes["rows_of_other_users_dropped"] == len(rows) - len(wanted)
        assert notes["items_without_table_row"] == len(dataset.items)
    assert drawn[5] < drawn[10] < drawn[39] < drawn[40] == set(range(40))
    other = prepare(table, tmp_path / "other", replace(NO_TEXT, users=10, seed=4))
    assert set(other.users.ids.to_pylist()) != drawn[10]
    whole = prepare(table, tmp_path / "whole", replace(NO_TEXT, seed=3))
    assert "users_drawn" not in whole.meta
    assert ratings_of(whole) == set(rows)


def test_users_are_drawn_from_those_whose_ratings_stay(tmp_path):
    rows = [(user, item, 1 + (user + item) % 5) for user in range(30) for item in range(10)]
    rows += [(user, 99, 4) for user in range(30, 60)]  # an item that no table describes
    source = anime_source(tmp_path / "anime", rows)
    listed = (source / "anime_with_synopsis.csv").read_text().splitlines(keepends=True)
    write(source / "anime_with_synopsis.csv", "".join(x for x in listed if x[:3] != "99,"))
    listed = (source / "anime.csv").read_text().splitlines(keepends=True)
    write(source / "anime.csv", "".join(x for x in listed if x[:3] != "99,"))
    options = replace(NO_TEXT, complete_only=True, users=30)
    dataset = prepare(source, tmp_path / "data", options)
    assert dataset.users.ids.to_pylist() == list(range(30))
    with pytest.raises(DataError, match="--users 31: .* ratings of 30 users"):
        prepare(source, tmp_path / "more", replace(options, users=31))
    assert not (tmp_path / "more").exists()


def test_users_are_drawn_from_given_files_too(tmp_path):
    header = "user_id,item_id,rating\n"
    pairs = [(user, item) for user in range(20) for item in range(8)]
    for name, first in (("train", 0), ("test", 6)):
        lines = (f"{u},{i},{1 + (u + i) % 5}\n" for u, i in pairs if first <= i < first + 6)
        write(tmp_path / f"{name}.csv", header + "".join(lines))
    given = replace(
        NO_TEXT, train_file=tmp_path / "train.csv", test_file=tmp_path / "test.csv", users=7
    )
    dataset = prepare(tmp_path / "train.csv", tmp_path / "data", given)
    assert len(dataset.users) == 7
    test = dataset.held_out("test")
    assert set(dataset.items.decode(test.items.numpy()).to_pylist()) == {6, 7}
    assert len(test) == 7 * 2


def test_text_features_are_those_of_each_items_own_synopsis(tmp_path, monkeypatch):
    monkeypatch.setattr(attributes, "SequenceEncoder", FakeTextEncoder)
    rows = grid(12, 10, range(1, 11), first_item=7)
    source = anime_source(tmp_path / "s", rows)
    dataset = prepare(source, tmp_path / "data")
    expected = [
        [float(len(f"Words about {item}")), 1.0] if n % 2 == 0 else [0.0, 0.0]
        for n, item in enumerate(range(7, 17))
    ]
    assert np.load(dataset.path / "features" / "text.npy").tolist() == expected
    assert dataset.meta["text_model"] == "auto"


def test_a_text_model_that_is_not_there_leaves_nothing(tmp_path):
    source = anime_source(tmp_path / "s", grid(12, 10, range(1, 11)))
    options = PrepareOptions(text_model=str(tmp_path / "no-model"))
    with pytest.raises((UnusableEnvironmentError, DataError, UsageError), match="no-model"):
        prepare(source, tmp_path / "data", options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s"]


# --- items that the data set does not hold -------------------------------------------------------


def attributed_source(folder):
    """30 items with genres and two numbers, some of which are missing; text of every second one."""
    rows = grid(20, 30, range(1, 11))
    text = "user_id,anime_id,rating\n" + "".join(f"{u},{i},{r}\n" for u, i, r in rows)
    write(folder / "rating_complete.csv", text)
    table = "MAL_ID,Name,Genres,Members,Score,synopsis\n" + "".join(
        f'{i},T{i},"{"" if i % 7 == 0 else f"Genre {i % 5}, Common"}",{i**3},'
        f"{'Unknown' if i % 4 == 0 else i / 10},{'' if i % 2 else f'Words about {i}'}\n"
        for i in range(30)
    )
    write(folder / "anime_with_synopsis.csv", table)
    return folder


WITH_NUMBERS = replace(NO_TEXT, numeric=("Members", "Score"), split="item")


@pytest.fixture(scope="module")
def attributed(tmp_path_factory):
    """A data set, and its items as their table has them."""
    folder = tmp_path_factory.mktemp("attributed")
    source = attributed_source(folder / "source")
    dataset = prepare(source, folder / "data", WITH_NUMBERS)
    return dataset, read_items(open_source(source))


def test_known_items_encoded_again_have_the_features_that_are_stored(attributed):
    """So new ones are encoded by what training items were, whatever stands beside them."""
    dataset, items = attributed
    assert dataset.meta["notes"]["items_without_training_rating"] > 0
    found = dataset.encode_items(items)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, dataset.item_features, rtol=1e-6, atol=1e-6)
    assert found.std(0).count_nonzero() >= 7  # and no column is all alike for nothing
    some = [17, 3, 17, 28]
    torch.testing.assert_close(dataset.encode_items(items.iloc[some]), found[some])
    assert dataset.encode_items(items.iloc[:0]).shape == (0, dataset.item_features.shape[1])


def test_what_is_not_known_of_a_new_item_is_zero(attributed):
    dataset = attributed[0]
    width = dataset.meta["features"]["genres"]
    new = pd.DataFrame(
        {
            "genres": [["Western"], ["Western", "Common"], []],
            "synopsis": [None, "Words", None],
            "Members": [np.nan, 27.0, 27.0],
            "Score": [np.nan, np.nan, 0.3],
            "more": [1, 2, 3],
        }
    )
    genres, numbers = dataset.encode_items(new).split([width, 4], dim=1)
    assert genres.sum(1).tolist() == [0, 1, 0]
    assert genres[1, 0] == 1  # Common comes first
    known = dataset.item_features[:, width:]
    assert numbers[0].tolist() == [0, 0, 0, 0]
    torch.testing.assert_close(numbers[1], torch.tensor([*known[3, :2], 0, 0]))
    torch.testing.assert_close(numbers[2], known[3])


@pytest.mark.parametrize("gone", [["Members"], ["Members", "Score"]])
def test_new_items_need_the_numbers_that_the_data_set_uses(attributed, gone):
    dataset, items = attributed
    with pytest.raises(DataError, match=f"no column {', '.join(gone)}, which .*as numbers"):
        dataset.encode_items(items.drop(columns=gone))


@pytest.mark.parametrize("value", ["many", True, np.inf, 1e300])
def test_new_items_whose_numbers_are_none_are_refused(attributed, value):
    """As `read_new_items` has them: text where one of a column's values is no finite number."""
    dataset, items = attributed
    members = pd.Series([str(number) for number in items["Members"]], dtype=object)
    members[4] = str(value)
    if isinstance(value, float):
        members = pd.Series([value if n == 4 else 1.0 for n in range(len(items))])
    with pytest.raises(DataError):
        dataset.encode_items(items.assign(Members=members))


def test_new_items_of_a_data_set_without_features_have_none(tmp_path):
    dataset = prepare(table_of(tmp_path, grid(12, 10, range(1, 6))), tmp_path / "data", NO_TEXT)
    new = pd.DataFrame({"genres": [["Drama"], []], "synopsis": ["x", None]})
    assert dataset.encode_items(new).shape == (2, 0)


class OtherTextEncoder(FakeTextEncoder):
    """Another model, whose embeddings are as wide."""

    def encode(self, texts):
        return super().encode(texts) + 0.01


class WiderTextEncoder(FakeTextEncoder):
    """Another model, whose embeddings are wider."""

    def encode(self, texts):
        return np.repeat(super().encode(texts), 2, axis=1)


def test_new_items_texts_are_embedded_as_the_data_sets_own(tmp_path, monkeypatch):
    monkeypatch.setattr(attributes, "SequenceEncoder", FakeTextEncoder)
    source = attributed_source(tmp_path / "s")
    options = replace(WITH_NUMBERS, text=True)
    dataset = prepare(source, tmp_path / "data", options)
    items = read_items(open_source(source))
    assert list(dataset.meta["features"]) == ["genres", "numeric", "text"]
    torch.testing.assert_close(dataset.encode_items(items), dataset.item_features)
    new = items.iloc[:2].assign(synopsis=["Words", None])
    assert dataset.encode_items(new)[:, -2:].tolist() == [[5, 1], [0, 0]]


@pytest.mark.parametrize("encoder", [OtherTextEncoder, WiderTextEncoder])
def test_another_text_model_than_the_data_sets_is_noticed(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(attributes, "SequenceEncoder", FakeTextEncoder)
    source = attributed_source(tmp_path / "s")
    dataset = prepare(source, tmp_path / "data", replace(WITH_NUMBERS, text=True))
    monkeypatch.setattr(attributes, "SequenceEncoder", encoder)
    with pytest.raises(DataError, match="text features differ from those that the data set holds"):
        dataset.encode_items(read_items(open_source(source)))


# --- the planted expectation ---------------------------------------------------------------------


def test_the_expected_column_is_the_truths(planted):
    source, dataset = planted
    truth = Truth.read(source)
    for split in SPLITS:
        part = dataset.held_out(split)
        users = dataset.users.decode(part.users.numpy()).to_numpy()
        items = dataset.items.decode(part.items.numpy()).to_numpy()
        assert part.expected is not None
        assert np.array_equal(part.expected.numpy(), truth.expectation(users, items))


def test_without_a_truth_there_is_no_expectation(tmp_path):
    dataset = prepare(table_of(tmp_path, grid(12, 10, range(1, 6))), tmp_path / "data", NO_TEXT)
    assert dataset.held_out("test").expected is None


# --- the same again ------------------------------------------------------------------------------


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_the_same_seed_gives_the_same_bytes(planted, tmp_path):
    source, dataset = planted
    again = prepare(source, tmp_path / "again", NO_TEXT)
    assert again.fingerprint == dataset.fingerprint
    assert contents(again.path) == contents(dataset.path)


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"valid": 0.2},
        {"split": "user"},
        {"numeric": ("Members",)},
        {"numeric": ("Episodes",)},
        {"complete_only": True},
    ],
)
def test_other_options_give_another_fingerprint(other, planted, tmp_path):
    source, dataset = planted
    assert prepare(source, tmp_path / "data", replace(NO_TEXT, **other)).fingerprint != (
        dataset.fingerprint
    )


def test_features_of_the_same_shape_are_told_apart(tmp_path, monkeypatch):
    """A run must not take a data set whose columns mean something else."""
    monkeypatch.setattr(attributes, "SequenceEncoder", FakeTextEncoder)
    source = anime_source(tmp_path / "s", grid(12, 10, range(1, 11)))
    fingerprints = {
        prepare(source, tmp_path / f"d{n}", PrepareOptions(**options)).fingerprint
        for n, options in enumerate(
            [
                {},
                {"cleaning": TextCleaning(remove_stop_words=True)},
                {"cleaning": TextCleaning(per_sentence=True)},
                {"text_model": "another"},
                {"numeric": ("Members",)},
                {"numeric": ("Score",)},
            ]
        )
    }
    assert len(fingerprints) == 6


def test_swapped_train_and_test_files_are_told_apart(tmp_path):
    rows = grid(12, 10, range(1, 6))
    half = len(rows) // 2
    one = table_of(tmp_path / "one", rows[:half])
    two = table_of(tmp_path / "two", rows[half : 2 * half])  # of the same name
    first = replace(NO_TEXT, train_file=one, test_file=two)
    second = replace(NO_TEXT, train_file=two, test_file=one)
    a = prepare(one, tmp_path / "a", first)
    b = prepare(one, tmp_path / "b", second)
    assert len(a.meta["sources"]) == 2
    assert a.meta["counts"] == b.meta["counts"]
    assert a.fingerprint != b.fingerprint


# --- opening -------------------------------------------------------------------------------------


def test_opening_maps_and_does_not_read(planted):
    _, dataset = planted
    first, second = RatingDataset.open(dataset.path), RatingDataset.open(dataset.path)
    for opened in (first, second):
        assert "graph" not in vars(opened)
        codes = opened.graph.by_user.codes
        assert not codes.flags.owndata
    assert np.array_equal(first.graph.by_user.neighbours, second.graph.by_user.neighbours)
    assert "held_out" not in vars(first)
    shown = Path("/proc/self/maps").read_text()
    name = str(dataset.path / "train" / "by_user_neighbours.npy")
    assert shown.count(name) >= 2


def test_writing_to_an_opened_array_does_not_reach_the_file(planted):
    _, dataset = planted
    opened = RatingDataset.open(dataset.path)
    before = (dataset.path / "train" / "user_bias.npy").read_bytes()
    opened.biases.users.add_(1.0)
    assert (dataset.path / "train" / "user_bias.npy").read_bytes() == before
    assert not torch.equal(RatingDataset.open(dataset.path).biases.users, opened.biases.users)


@pytest.fixture
def copy(planted, tmp_path):
    return shutil.copytree(planted[1].path, tmp_path / "copy")


FILES = [
    "dataset.json",
    "users.parquet",
    "items.parquet",
    "valid.parquet",
    "test.parquet",
    "train/by_user_offsets.npy",
    "train/by_user_neighbours.npy",
    "train/by_user_codes.npy",
    "train/by_item_offsets.npy",
    "train/by_item_neighbours.npy",
    "train/by_item_codes.npy",
    "train/by_item_edges.npy",
    "train/user_bias.npy",
    "train/item_bias.npy",
    "train/user_squares.npy",
    "train/item_squares.npy",
    "features/genres.npy",
    "planted/item_bias.npy",
    "planted/item_rate.npy",
    "planted/item_vectors.npy",
    "planted/user_bias.npy",
    "planted/user_reach.npy",
    "planted/user_vectors.npy",
]


def test_these_are_all_files_of_a_data_set(copy):
    assert sorted(contents(copy)) == sorted(FILES)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["missing", "empty", "truncated", "nonsense", "folder"])
def test_a_damaged_file_is_refused_on_opening(name, how, copy):
    file = copy / name
    content = file.read_bytes()
    if how in ("missing", "folder"):
        file.unlink()
        if how == "folder":
            file.mkdir()
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "truncated":
        file.write_bytes(content[:-4])
    else:
        file.write_bytes(b"\x93NUMPY" + bytes(range(200)))
    with pytest.raises(DataError) as raised:
        RatingDataset.open(copy)
    assert str(copy) in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize("side", ["by_user", "by_item"])
def test_offsets_that_go_back_are_refused(side, copy):
    file = copy / "train" / f"{side}_offsets.npy"
    offsets = np.load(file)
    offsets[3] = offsets[-1] + 7
    np.save(file, offsets)
    with pytest.raises(DataError, match=f"{side}_offsets.npy: damaged .offsets do not ascend"):
        RatingDataset.open(copy)


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".npy")])
@pytest.mark.parametrize("how", ["shorter", "longer", "of another type", "of objects"])
def test_an_array_that_does_not_fit_is_refused(name, how, copy):
    array = np.load(copy / name)
    if how == "shorter":
        array = array[:-1]
    elif how == "longer":
        array = np.concatenate((array, array[-1:]))
    elif how == "of another type":
        array = array.astype(np.complex64)
    else:
        array = np.array([{}] * len(array), dtype=object)
    np.save(copy / name, array, allow_pickle=True)
    with pytest.raises(DataError) as raised:
        RatingDataset.open(copy)
    assert str(copy) in str(raised.value)


@pytest.mark.parametrize("name", ["users", "items", "valid", "test"])
def test_a_table_with_rows_missing_is_refused(name, copy):
    file = copy / f"{name}.parquet"
    pq.write_table(pq.read_table(file).slice(1), file)
    with pytest.raises(DataError, match=f"{name}.parquet"):
        RatingDataset.open(copy)


@pytest.mark.parametrize(
    "change",
    [
        {"mean_rating": 1.0},
        {"variance": 1.0},
        {"scale": {"minimum": 1, "maximum": 9, "step": 1}},
        {"counts": {}},
        {"fingerprint": "0" * 64},
        {"extra": 1},
    ],
)
def test_an_altered_description_is_refused(change, copy):
    file = copy / DATASET_FILE
    meta = json.loads(file.read_text())
    file.write_text(json.dumps({**meta, **change}))
    with pytest.raises(DataError, match="altered since it was written"):
        RatingDataset.open(copy)
    file.write_text(json.dumps(meta))  # laid out otherwise, it says the same
    RatingDataset.open(copy)


def test_the_single_damping_of_an_earlier_version_is_that_of_both_sides(copy):
    meta = read_meta(as_of_an_earlier_version(copy))
    sign(copy, {**meta, "damping": 5.0})
    assert RatingDataset.open(copy).biases.damping == Damping(users=5.0, items=5.0)


@pytest.mark.parametrize("content", ["[]", "{}", "null", "{"])
def test_a_description_that_is_none_is_refused(content, copy):
    (copy / DATASET_FILE).write_text(content)
    with pytest.raises(DataError, match=DATASET_FILE + "|schema version None"):
        RatingDataset.open(copy)


def test_what_is_no_data_set_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such data set"):
        RatingDataset.open(tmp_path / "nowhere")
    with pytest.raises(DataError, match="holds no dataset.json"):
        RatingDataset.open(tmp_path)


def test_a_moved_data_set_opens(copy, planted):
    moved = RatingDataset.open(copy)
    assert moved.fingerprint == planted[1].fingerprint
    assert training_rows(moved) == training_rows(planted[1])


# --- held-out rows -------------------------------------------------------------------------------


def test_held_out_by_user_holds_the_same_rows(tmp_path):
    rows = grid(20, 15, range(1, 6))  # users in no order
    dataset = prepare(table_of(tmp_path, rows), tmp_path / "data", NO_TEXT)
    for split in SPLITS:
        part, adjacency = dataset.held_out(split), dataset.held_out_by_user(split)
        assert isinstance(part, HeldOut)
        assert part.users.dtype == part.items.dtype == torch.int64
        assert part.ratings.dtype == torch.float32
        users = np.repeat(np.arange(adjacency.num_nodes), adjacency.degrees)
        ratings = dataset.scale.decode(adjacency.codes)
        columns = (part.users.tolist(), part.items.tolist(), part.ratings.tolist())
        found = zip(users.tolist(), adjacency.neighbours.tolist(), ratings.tolist(), strict=True)
        found = list(found)
        assert found == sorted(zip(*columns, strict=True))  # by user, and by item within a user
        assert adjacency.num_nodes == dataset.graph.num_users


def rated_by_brute_force(dataset, held_out):
    """Each user's items of the training rows and some of the others, ascending."""
    users, items = dataset.users.ids.to_pylist(), dataset.items.ids.to_pylist()
    pairs = [*training_rows(dataset), *(pair for part in held_out for pair in part)]
    return [sorted(items.index(i) for u, i in pairs if u == user) for user in users]


@pytest.mark.parametrize("held_out", [[], ["valid"], ["test"], ["valid", "test"], None])
@pytest.mark.parametrize("split", ["random", "item"])
def test_rated_items_are_all_that_a_user_rated(split, held_out, tmp_path):
    rows = grid(20, 15, range(1, 6), first_user=3, first_item=50)
    options = replace(NO_TEXT, split=split, valid=0.2, test=0.3)
    dataset = prepare(table_of(tmp_path, rows), tmp_path / "data", options)
    if held_out is None:
        held_out, lists = SPLITS, dataset.rated_items()
    else:
        lists = dataset.rated_items(held_out)
    assert (lists.offsets.dtype, lists.items.dtype) == (np.int64, np.int32)
    found = [part.tolist() for part in np.split(lists.items, lists.offsets[1:-1])]
    assert found == rated_by_brute_force(dataset, [held_out_rows(dataset, s) for s in held_out])
    if len(held_out) == 2:
        assert sum(map(len, found)) == len(rows)


def test_there_are_two_held_out_splits(planted):
    with pytest.raises(UsageError, match="no split 'train'"):
        planted[1].held_out("train")


def test_describe_says_what_was_made(planted):
    described = planted[1].describe()
    assert described["counts"]["train"] + 2 * 160 == 1_600
    assert json.loads(json.dumps(described)) == described
    assert described["notes"]["rows_read"] == 1_600


def test_prepare_leaves_no_spool_behind(planted):
    assert all("spool" not in name for name in contents(planted[1].path))
    assert set(dataset_module.__all__) >= {"prepare", "RatingDataset", "HeldOut"}


_KILLED = """
import importlib, os, signal, sys
from pathlib import Path
module = importlib.import_module("dglrec.dataset.prepare")
source, target, place, when = sys.argv[1:]
original = getattr(module, place)

def killing(*arguments, **options):
    if when == "after":
        original(*arguments, **options)
    os.kill(os.getpid(), signal.SIGKILL)

setattr(module, place, killing)
module.prepare(Path(source), Path(target), module.PrepareOptions(text=False, overwrite=True))
"""


@pytest.mark.parametrize("there", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize(
    ("place", "when"),
    [("read_rows", "after"), ("write_dataset", "before"), ("write_dataset", "after")],
)
def test_a_killed_prepare_leaves_nothing_that_opens(place, when, there, tmp_path):
    """Or, where a data set was to be replaced, leaves that one."""
    source, target = table_of(tmp_path, grid(20, 15, range(1, 6))), tmp_path / "data"
    if there:
        before = prepare(source, target, NO_TEXT).fingerprint
    command = [sys.executable, "-c", _KILLED, str(source), str(target), place, when]
    killed = subprocess.run(command, cwd=Path(PREPARE.__file__).parents[2])
    assert killed.returncode == -signal.SIGKILL
    if there:
        assert RatingDataset.open(target).fingerprint == before
    else:
        with pytest.raises(DataError, match="no such data set"):
            RatingDataset.open(target)
    again = prepare(source, target, PrepareOptions(text=False, overwrite=True))
    assert len(training_rows(again)) == again.graph.num_edges > 0
    assert nothing_left(tmp_path)


def nothing_left(folder):
    return not list(folder.rglob(f"{TEMPORARY}*"))


_TERMINATED = """
import importlib, os, signal, sys, time
from dglrec import cli
module = importlib.import_module("dglrec.dataset.prepare")

def terminated(*arguments, **options):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(30)

module.write_dataset = terminated
sys.argv = ["dglrec", "prepare", *sys.argv[1:], "--no-text"]
cli.main()
"""


def test_a_terminated_prepare_leaves_nothing_behind(tmp_path):
    source, target = table_of(tmp_path, grid(20, 15, range(1, 6))), tmp_path / "data"
    command = [sys.executable, "-c", _TERMINATED, str(source), str(target)]
    ended = subprocess.run(
        command, cwd=Path(PREPARE.__file__).parents[2], capture_output=True, text=True
    )
    assert ended.returncode == 130
    assert ended.stderr.splitlines()[-1] == "interrupted"
    assert nothing_left(tmp_path) and not target.exists()


def test_a_second_prepare_into_one_folder_is_refused(tmp_path, monkeypatch):
    source, target = table_of(tmp_path, grid(20, 15, range(1, 6))), tmp_path / "data"
    write = PREPARE.write_dataset

    def meanwhile(*arguments, **options):
        monkeypatch.setattr(PREPARE, "write_dataset", write)
        with pytest.raises(UsageError, match="another process is writing it"):
            prepare(source, target, replace(NO_TEXT, seed=7))
        write(*arguments, **options)

    monkeypatch.setattr(PREPARE, "write_dataset", meanwhile)
    assert prepare(source, target, NO_TEXT).meta["split"]["seed"] == 0
    with pytest.raises(UsageError, match="exists"):
        prepare(source, target, replace(NO_TEXT, seed=7))
    assert nothing_left(tmp_path)
