"""The command line: what every bad input gets, exit codes, and what goes to which stream."""

import contextlib
import errno
import gzip
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import dglrec
from dglrec import cli
from dglrec.config import build_settings, load_settings
from dglrec.dataset import DATASET_FILE, PrepareOptions, RatingDataset, prepare
from dglrec.errors import DataError
from dglrec.study import shipped_studies
from dglrec.synthetic import synthesize
from dglrec.train import train

TABLE = "user_id,item_id,rating\n"
ANIME = "user_id,anime_id,rating\n"
FAST = ["--set", "train.epochs=1", "--set", "model.embedding_size=8"]
TEMPORARY = ".dglrec-tmp-"


@dataclass(frozen=True)
class World:
    source: Path
    dataset: Path
    run: Path


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A source, a data set and a run that no test changes."""
    folder = tmp_path_factory.mktemp("world")
    made = World(folder / "source", folder / "dataset", folder / "run")
    synthesize(made.source, users=200, items=60, ratings=6_000, seed=0)
    dataset = prepare(made.source, made.dataset, PrepareOptions(text=False))
    settings = build_settings({"train": {"epochs": 2}, "model": {"embedding_size": 8}})
    train(dataset, made.run, settings)
    return made


@pytest.fixture
def own_run(world, tmp_path):
    """A copy of the run, to be tampered with."""
    return shutil.copytree(world.run, tmp_path / "own-run")


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


@pytest.fixture
def dglrec_command(monkeypatch, capfd):
    """Runs the entry point as the console script does; what C code prints is caught as well."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["dglrec", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        out, err = capfd.readouterr()
        return Outcome(exit_.value.code, out, err)

    return call


@pytest.fixture
def refused(dglrec_command):
    """Runs a command that must fail, and holds it to what every error owes the user."""

    def call(code, *arguments):
        outcome = dglrec_command(*arguments)
        assert outcome.code == code, outcome.err
        assert outcome.out == ""
        lines = outcome.err.splitlines()
        assert 1 <= len(lines) <= 2, outcome.err
        assert lines[-1].startswith("error: ") or lines[0].startswith("error: ")
        assert "Traceback" not in outcome.err
        assert "unexpected" not in outcome.err
        return outcome.err

    return call


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def rows(count=40, users=8, items=10):
    """Distinct good rows of a table, ratings 1 to 5."""
    return "".join(
        f"{n % users},{n // users},{n % 5 + 1}\n" for n in range(min(count, users * items))
    )


def pairs(count=40, users=8):
    """Distinct rows of a table without ratings."""
    return "".join(f"{n % users},{n // users}\n" for n in range(count))


def rewrite_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


# --- prepare: bad sources ------------------------------------------------------------------------

BAD_TABLES = {
    "missing column": (
        "ratings.csv",
        "user_id,item_id,stars\n1,2,3\n",
        ["no column rating", "found user_id, item_id, stars"],
    ),
    "columns spelled otherwise": (
        "ratings.csv",
        "User ID, item_id,rating\n1,2,3\n",
        ["no column user_id, item_id", "rename 'User ID' to user_id; rename ' item_id' to item_id"],
    ),
    "empty file": ("ratings.csv", b"", ["is empty"]),
    "blank lines only": ("ratings.csv", b"\n\n\n", ["only empty lines"]),
    "header only": ("ratings.csv", TABLE, ["holds a header and no rows"]),
    "not CSV": ("ratings.csv", bytes(range(256)) * 4, ["ratings.csv: "]),
    "binary after a header": (
        "ratings.csv",
        TABLE.encode() + b"\x00\x01\x02\x03" * 50,
        ["binary data"],
    ),
    "a Parquet file named .csv": ("ratings.csv", b"PAR1" + b"\0" * 64, ["name it .parquet"]),
    "truncated row": ("ratings.csv", TABLE + rows(4) + "3,1", ["row 6", "2 fields where 3"]),
    "too many fields": ("ratings.csv", TABLE + "1,1,1\n2,2,2,2\n", ["row 3", "4 fields where 3"]),
    "truncated gzip": (
        "ratings.csv.gz",
        gzip.compress((TABLE + rows(80)).encode())[:-30],
        ["end too early"],
    ),
    "no gzip": ("ratings.csv.gz", TABLE + rows(8), ["no gzip data"]),
    "UTF-16": ("ratings.csv", (TABLE + rows(8)).encode("utf-16"), ["UTF-16", "save it as UTF-8"]),
    "Latin-1 ids": (
        "ratings.csv",
        (TABLE + "anna,1,3\nzoë,1,4\n").encode("latin-1"),
        ["row 3", "user_id", "UTF-8"],
    ),
    "Latin-1 header": (
        "ratings.csv",
        "user_id,item_id,rating,größe\n".encode("latin-1"),
        ["UTF-8"],
    ),
    "rating is no number": ("ratings.csv", TABLE + "1,1,3\n1,2,good\n", ["row 3", "'good'"]),
    "rating is missing": ("ratings.csv", TABLE + "1,1,3\n1,2,\n", ["row 3", "rating is missing"]),
    "rating NaN": ("ratings.csv", TABLE + "1,1,3\n1,2,nan\n", ["row 3", "not a finite number"]),
    "rating infinite": ("ratings.csv", TABLE + "1,1,inf\n", ["row 2", "not a finite number"]),
    "one rating value": ("ratings.csv", TABLE + "1,1,3\n1,2,3\n2,1,3\n", ["nothing to learn"]),
    "ratings without steps": ("ratings.csv", TABLE + "1,1,3\n1,2,3.14159\n", ["--scale"]),
    "negative user": ("ratings.csv", TABLE + "1,1,3\n-1,2,3\n", ["row 3", "user_id is negative"]),
    "negative item": ("ratings.csv", TABLE + "1,-7,3\n", ["row 2", "item_id is negative", "-7"]),
    "overflowing user": (
        "ratings.csv",
        TABLE + "1,1,3\n9223372036854775808,2,3\n",
        ["row 3", "user_id", "out of range"],
    ),
    "overflowing item": (
        "ratings.csv",
        TABLE + "1,1,3\n1,99999999999999999999999,3\n",
        ["row 3", "item_id", "out of range"],
    ),
    "fractional user": ("ratings.csv", TABLE + "1,1,3\n1.5,2,3\n", ["user_id holds decimal"]),
    "empty id": ("ratings.csv", TABLE + "anna,1,3\n,2,3\n", ["row 3", "user_id is"]),
    "column twice": (
        "ratings.csv",
        "user_id,item_id,rating,rating\n1,1,1,1\n",
        ["column rating is there 2 times"],
    ),
    "too few rows to split": (
        "ratings.csv",
        TABLE + rows(3),
        ["leaves no rows in valid and test", "other shares"],
    ),
    "no Parquet": ("ratings.parquet", b"PAR1 nonsense PAR1", ["ratings.parquet", "Parquet"]),
    "unknown ending": ("ratings.xlsx", b"x", ["not known by its ending"]),
}


def assert_nothing_left(folder, *expected):
    assert sorted(path.name for path in folder.iterdir()) == sorted(expected)


@pytest.mark.parametrize("case", BAD_TABLES)
def test_prepare_refuses_a_bad_table(case, tmp_path, refused):
    name, content, fragments = BAD_TABLES[case]
    file = write(tmp_path / name, content)
    message = refused(3, "prepare", file, tmp_path / "data")
    assert name in message or case == "too few rows to split"
    for fragment in fragments:
        assert fragment in message
    assert_nothing_left(tmp_path, name)


BAD_COLUMNS = {
    "NaN": ({"rating": [1.0, float("nan"), 3.0]}, ["row 2", "not a finite number"]),
    "null": ({"rating": pa.array([1.0, None, 3.0])}, ["row 2", "rating is missing"]),
    "text": ({"rating": ["1", "2", "3"]}, ["rating holds string", "must be numbers"]),
    "negative": ({"user_id": [1, 2, -3]}, ["row 3", "user_id is negative"]),
    "overflowing": (
        {"item_id": pa.array([1, 2, 2**63 + 1], type=pa.uint64())},
        ["item_id does not fit int64"],
    ),
    "floating ids": ({"item_id": [1.0, 2.0, 3.0]}, ["item_id holds double"]),
}


@pytest.mark.parametrize("case", BAD_COLUMNS)
def test_prepare_refuses_a_bad_parquet_column(case, tmp_path, refused):
    changed, fragments = BAD_COLUMNS[case]
    columns = {"user_id": [1, 2, 3], "item_id": [1, 2, 3], "rating": [1.0, 2.0, 3.0], **changed}
    pq.write_table(pa.table(columns), tmp_path / "ratings.parquet")
    message = refused(3, "prepare", tmp_path / "ratings.parquet", tmp_path / "data")
    for fragment in ["ratings.parquet", *fragments]:
        assert fragment in message
    assert_nothing_left(tmp_path, "ratings.parquet")


def test_prepare_refuses_a_truncated_parquet_file(tmp_path, refused):
    file = tmp_path / "ratings.parquet"
    pq.write_table(pa.table({"user_id": [1], "item_id": [1], "rating": [1]}), file)
    file.write_bytes(file.read_bytes()[:-20])
    assert "ratings.parquet" in refused(3, "prepare", file, tmp_path / "data")
    assert_nothing_left(tmp_path, "ratings.parquet")


BAD_ANIME = {
    "rating off the scale": ({"rating_complete.csv": ANIME + "1,1,10\n1,2,11\n"}, ["row 3", "11"]),
    "rating zero": ({"rating_complete.csv": ANIME + "1,1,0\n"}, ["row 2", "off the scale"]),
    "nothing rated": ({"animelist.csv": ANIME + "1,1,0\n"}, ["none of its 1 rows is a rating"]),
    "negative id": ({"rating_complete.csv": ANIME + "1,-1,5\n"}, ["anime_id", "negative"]),
    "id of text": ({"rating_complete.csv": ANIME + "x,1,5\n"}, ["row 2", "user_id"]),
    "overflowing id": (
        {"rating_complete.csv": ANIME + "1,9223372036854775808,5\n"},
        ["anime_id is out of range"],
    ),
    "missing column": (
        {"rating_complete.csv": "user_id,rating\n1,5\n"},
        ["no column anime_id", "found user_id, rating"],
    ),
    "item table without a column": (
        {"rating_complete.csv": ANIME + "1,1,5\n", "anime.csv": "MAL_ID,Name\n1,x\n"},
        ["anime.csv", "no column Genres", "found MAL_ID, Name"],
    ),
    "item table cut short": (
        {
            "rating_complete.csv": ANIME + "1,1,5\n",
            "anime_with_synopsis.csv": 'MAL_ID,Name,Genres,sypnopsis\n1,x,Drama,"Once upon',
        },
        ["anime_with_synopsis.csv", "ends inside quotes"],
    ),
    "item twice": (
        {
            "rating_complete.csv": ANIME + "1,1,5\n",
            "anime.csv": "MAL_ID,Name,Genres\n1,x,Drama\n1,y,Drama\n",
        },
        ["anime.csv", "row 3", "twice"],
    ),
    "no ratings": ({"anime.csv": "MAL_ID,Name,Genres\n"}, ["no ratings here", "found anime.csv"]),
    "both layouts": (
        {"rating_complete.csv": ANIME + "1,1,5\n", "u.data": "1\t1\t1\t1\n"},
        ["holds both layouts", "--format"],
    ),
}


@pytest.mark.parametrize("case", BAD_ANIME)
def test_prepare_refuses_a_bad_folder(case, tmp_path, refused):
    files, fragments = BAD_ANIME[case]
    for name, content in files.items():
        write(tmp_path / "source" / name, content)
    message = refused(3, "prepare", tmp_path / "source", tmp_path / "data")
    for fragment in fragments:
        # The file may call the column by another name than the message does.
        assert fragment in message or fragment.replace("anime_id", "item_id") in message
    assert_nothing_left(tmp_path, "source")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("nowhere.csv", []),
        ("nowhere", []),
        ("nowhere", ["--format", "anime"]),
        ("no/such/folder/ratings.parquet", []),
    ],
)
def test_prepare_refuses_a_missing_source(name, options, tmp_path, refused):
    message = refused(3, "prepare", tmp_path / name, tmp_path / "data", *options)
    assert f"{tmp_path / name}: no such file or folder" in message
    assert_nothing_left(tmp_path)


def test_prepare_refuses_ratings_off_a_given_scale(tmp_path, refused):
    file = write(tmp_path / "ratings.csv", TABLE + "1,1,5\n1,2,3.5\n1,3,6\n")
    message = refused(3, "prepare", file, tmp_path / "data", "--scale", "1:5:0.5")
    assert "row 4" in message
    assert "off the scale of 1 to 5 in steps of 0.5" in message
    message = refused(3, "prepare", file, tmp_path / "data", "--scale", "1:6")
    assert "row 3" in message
    assert_nothing_left(tmp_path, "ratings.csv")


def test_prepare_needs_timestamps_to_split_by_time(tmp_path, refused):
    file = write(tmp_path / "ratings.csv", TABLE + rows())
    assert "timestamp" in refused(3, "prepare", file, tmp_path / "data", "--split", "time")
    assert_nothing_left(tmp_path, "ratings.csv")


def test_prepare_refuses_a_missing_train_file(tmp_path, refused):
    file = write(tmp_path / "ratings.csv", TABLE + rows())
    options = ["--train-file", tmp_path / "no.csv", "--test-file", file]
    assert "no.csv: no such file" in refused(3, "prepare", file, tmp_path / "data", *options)
    assert_nothing_left(tmp_path, "ratings.csv")


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        (["--valid", "-0.1"], "--valid -0.1"),
        (["--test", "1"], "--test 1"),
        (["--valid", "0.5", "--test", "0.5"], "leave no rows to train on"),
        (["--train-file", "x.csv"], "--train-file and --test-file must be given together"),
        (["--scale", "5:1"], "minimum"),
        (["--scale", "five"], "MIN:MAX"),
        (["--numeric", "Weight"], "--numeric Weight"),
        (["--format", "excel"], "excel"),
        (["--split", "luck"], "luck"),
        (["--valid", "much"], "much"),
        (["--nosuch"], "--nosuch"),
        (["--seed", "-1"], "seed"),
        (["--users", "0"], "--users 0: must be 1 or more"),
        (["--users", "many"], "many"),
        (["--interactions-from", "four"], "four"),
        (["--interactions-from", "nan"], "--interactions-from nan: give a rating"),
        (["--interactions-from", "4", "--scale", "1:5"], "--scale and --interactions-from"),
        (["--relation", "trusts"], "--relation 'trusts': write NAME=FILE"),
        (["--relation", "rates=x.csv"], "--relation rates: rates, rated_by, similar, "),
        (["--relation", "../x=x.csv"], "lowercase letters"),
        (
            ["--relation", "a=x.csv", "--relation", "a=y.csv"],
            "--relation a: two files, x.csv and y",
        ),
        (["--attribute", "age=words"], "KIND being one of number"),
        (["--attribute", "age=number"], "--attribute age: no such attribute"),
        (["--attribute", "genres=text"], "genres are always categories"),
    ],
)
def test_prepare_refuses_wrong_options(options, fragment, tmp_path, refused):
    file = write(tmp_path / "ratings.csv", TABLE + rows())
    assert fragment in refused(2, "prepare", file, tmp_path / "data", *options)
    assert_nothing_left(tmp_path, "ratings.csv")


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        ("user_id,to_user_id,weight\n1,2,1\n1,3,-2\n", "row 3: weight is negative (-2.0)"),
        ("user_id,to_user_id,weight\n1,2,x\n", "row 2: weight is no number ('x')"),
        ("user_id,to_user_id\n1,\n", "row 2: to_user_id is empty"),
        ("user_id,friend\n1,2\n", "a relation has two columns of ids, and this file has user_id"),
        ("user_id,to_user_id\n77,78\n", "relation trusts (user -> user) has no edge"),
        (None, "trust.csv: no such file"),
    ],
)
def test_prepare_refuses_a_bad_relation(content, fragment, tmp_path, refused):
    source = write(tmp_path / "ratings.csv", TABLE + rows())
    table = write(tmp_path / "users.csv", "user_id,age,name\n1,30,Al\n2,35,Bo\n")
    file = tmp_path / "trust.csv"
    if content is not None:
        write(file, content)
    options = ["--user-table", table, "--relation", f"trusts={file}"]
    message = refused(3, "prepare", source, tmp_path / "data", *options)
    assert fragment in message
    assert str(file) in message
    there = [file.name] if content is not None else []
    assert_nothing_left(tmp_path, "ratings.csv", "users.csv", *there)


def test_prepare_says_what_relations_and_attributes_there_are(tmp_path, dglrec_command):
    source = write(tmp_path / "ratings.csv", TABLE + rows())
    table = write(tmp_path / "items.csv", "item_id,kind\n0,A\n1,B\n2,A\n3,B\n4,A\n99,C\n")
    file = write(tmp_path / "trust.csv", "user_id,to_user_id\n1,2\n1,1\n2,88\n2,3\n")
    options = ["--item-table", table, "--relation", f"trusts={file}"]
    outcome = dglrec_command("prepare", source, tmp_path / "data", *options)
    assert outcome.code == 0, outcome.err
    assert "item attribute kind: category" in outcome.err
    assert "relation trusts (user -> user) has 2 edges; left out: 1 of unknown" in outcome.err
    assert "relations: trusts 2" in outcome.out
    assert "attributes: kind 2" in outcome.out
    assert "note: item table rows of unknown ids: 1" in outcome.out
    outcome = dglrec_command("prepare", source, tmp_path / "json", *options, "--json")
    described = json.loads(outcome.out)
    assert (described["relations"], described["attributes"]) == ({"trusts": 2}, {"kind": 2})


@pytest.mark.parametrize(
    ("options", "code", "fragment"),
    [
        (["--interactions-from", "4"], 2, "has no column rating, so its rows are interactions alr"),
        (["--scale", "1:5"], 2, "has no column rating, so its rows are interactions, which have n"),
        (["--split", "time"], 3, "--split time needs timestamps"),
    ],
)
def test_prepare_refuses_what_interactions_cannot_have(options, code, fragment, tmp_path, refused):
    file = write(tmp_path / "clicks.csv", "user_id,item_id\n" + pairs())
    command = ["prepare", file, tmp_path / "data", *options]
    assert fragment in refused(code, *command)
    assert_nothing_left(tmp_path, "clicks.csv")


def test_prepare_refuses_a_level_that_leaves_nothing(tmp_path, refused):
    file = write(tmp_path / "ratings.csv", TABLE + rows())
    message = refused(3, "prepare", file, tmp_path / "data", "--interactions-from", "5.5")
    assert f"{file}: no rating of 5.5 or more; the highest is 5: give " in message
    assert_nothing_left(tmp_path, "ratings.csv")


# --- prepare: odd but good sources ---------------------------------------------------------------


def test_clicks_become_interactions_and_repeated_ones_are_counted(tmp_path, dglrec_command):
    file = write(tmp_path / "clicks.csv", "user_id,item_id\n" + pairs() + "0,0\n3,1\n0,0\n")
    outcome = dglrec_command("prepare", file, tmp_path / "data", "--json")
    assert outcome.code == 0
    assert f"{file}: no column rating, so each row is an interaction" in outcome.err
    described = json.loads(outcome.out)
    assert described["feedback"] == "interactions"
    assert described["notes"]["repeated_rows"] == 3
    assert "mean_rating" not in described and "scale" not in described
    assert every_rating(RatingDataset.open(tmp_path / "data")) == {
        (n % 8, n // 8): 1.0 for n in range(40)
    }
    shown = dglrec_command("prepare", file, tmp_path / "data", "--overwrite").out
    assert "feedback: interactions" in shown and "note: repeated rows: 3" in shown


def test_ratings_become_interactions(tmp_path, dglrec_command):
    file = write(tmp_path / "ratings.csv", TABLE + rows())
    outcome = dglrec_command("prepare", file, tmp_path / "data", "--interactions-from", "4")
    assert outcome.code == 0
    assert "note: rows below level dropped: 24" in outcome.out
    liked = {(n % 8, n // 8) for n in range(40) if n % 5 + 1 >= 4}
    assert every_rating(RatingDataset.open(tmp_path / "data")).keys() == liked


def every_rating(dataset):
    """External (user, item) -> rating, of all parts of a data set."""
    graph, found = dataset.graph.by_user, {}
    users, items = dataset.users.ids.to_pylist(), dataset.items.ids.to_pylist()
    for user in range(graph.num_nodes):
        row = graph.of(user)
        ratings = dataset.scale.decode(np.asarray(graph.codes[row])).tolist()
        for item, rating in zip(graph.neighbours[row].tolist(), ratings, strict=True):
            found[users[user], items[item]] = rating
    for split in ("valid", "test"):
        part = dataset.held_out(split)
        columns = (part.users.tolist(), part.items.tolist(), part.ratings.tolist())
        for user, item, rating in zip(*columns, strict=True):
            assert (users[user], items[item]) not in found
            found[users[user], items[item]] = rating
    return found


def test_of_duplicates_the_last_is_kept_and_their_number_said(tmp_path, dglrec_command):
    repeated = "0,0,5\n3,1,5\n0,0,4\n"  # (0, 0) stands in the file three times, (3, 1) twice
    file = write(tmp_path / "ratings.csv", TABLE + rows() + repeated)
    outcome = dglrec_command("prepare", file, tmp_path / "data", "--json")
    assert outcome.code == 0
    assert json.loads(outcome.out)["notes"]["duplicate_rows_dropped"] == 3
    found = every_rating(RatingDataset.open(tmp_path / "data"))
    assert len(found) == 40
    assert found[0, 0] == 4
    assert found[3, 1] == 5
    outcome = dglrec_command("prepare", file, tmp_path / "data", "--overwrite")
    assert "note: duplicate rows dropped: 3" in outcome.out


def test_an_item_that_no_table_has_is_kept_and_counted(tmp_path, dglrec_command):
    ratings = "".join(f"{n % 8},{n // 8},{n % 10 + 1}\n" for n in range(40))
    write(tmp_path / "s" / "rating_complete.csv", ANIME + ratings)
    table = "MAL_ID,Name,Genres\n" + "".join(f"{n},Title {n},Drama\n" for n in range(3))
    write(tmp_path / "s" / "anime.csv", table)
    outcome = dglrec_command("prepare", tmp_path / "s", tmp_path / "data", "--no-text")
    assert outcome.code == 0
    assert "note: items without table row: 2" in outcome.out and "titles: 3\n" in outcome.out
    dataset = RatingDataset.open(tmp_path / "data")
    assert dataset.items.ids.to_pylist() == [0, 1, 2, 3, 4]
    assert dataset.titles.to_pylist() == ["Title 0", "Title 1", "Title 2", "3", "4"]
    assert len(every_rating(dataset)) == 40


def test_a_user_with_one_rating_goes_all_the_way(tmp_path, dglrec_command):
    file = write(
        tmp_path / "ratings.csv",
        TABLE
        + rows(80)
        + "".join(f"{user},{user % 10},{user % 5 + 1}\n" for user in range(100, 112)),
    )
    data, run = tmp_path / "data", tmp_path / "run"
    outcome = dglrec_command("prepare", file, data, "--json")
    notes = json.loads(outcome.out)["notes"]
    single = notes["users_with_one_training_rating"] + notes["users_without_training_rating"]
    assert single == 12
    dataset = RatingDataset.open(data)
    unknown = dataset.graph.by_user.degrees[dataset.held_out("test").users.numpy()] == 0
    assert notes["test_rows_of_new_users"] == unknown.sum()
    assert notes["test_rows_of_new_items"] == 0
    assert dglrec_command("train", data, run, *FAST).code == 0
    assert dglrec_command("evaluate", run).code == 0
    outcome = dglrec_command("recommend", run, "--user", 103, "--json")
    assert outcome.code == 0
    items = [one["item_id"] for one in json.loads(outcome.out)["recommendations"]]
    assert sorted(items) == [0, 1, 2, 4, 5, 6, 7, 8, 9]


# --- folders that exist --------------------------------------------------------------------------


def writers(world, out):
    """A command of each verb that makes a folder, and what it says its folder holds."""
    return {
        "synth": (["synth", out, "--users", 20, "--items", 10, "--ratings", 100], "truth.json"),
        "prepare": (["prepare", world.source, out, "--no-text"], "dataset.json"),
        "train": (["train", world.dataset, out, *FAST], "config.toml"),
        "score": (["score", world.run, out, "--top-k", 3], "_plan.json"),
    }


@pytest.mark.parametrize("verb", ["synth", "prepare", "train"])
def test_an_existing_folder_is_replaced_only_with_overwrite(
    verb, world, tmp_path, dglrec_command, refused
):
    out = tmp_path / "out"
    command, marker = writers(world, out)[verb]
    out.mkdir()  # an empty folder is no loss
    assert dglrec_command(*command).code == 0
    before = (out / marker).stat().st_mtime_ns
    message = refused(2, *command)
    assert f"{out} exists" in message
    assert "--overwrite" in message
    assert (out / marker).stat().st_mtime_ns == before
    assert dglrec_command(*command, "--overwrite").code == 0
    assert (out / marker).stat().st_mtime_ns > before
    assert_nothing_left(tmp_path, "out")


def test_scores_that_are_there_are_gone_on_with_or_replaced(
    world, tmp_path, dglrec_command, refused
):
    out = tmp_path / "out"
    out.mkdir()
    command, marker = writers(world, out)["score"]
    first = json.loads(dglrec_command(*command, "--json").out)
    assert (first["complete"], first["parts"], first["kept"]) == (True, 1, 0)
    part = out / "part-00000.parquet"
    before = part.stat().st_mtime_ns
    # The same again finds all done.
    outcome = dglrec_command(*command, "--json")
    assert (outcome.code, outcome.err) == (0, "")
    assert json.loads(outcome.out) == {**first, "kept": 1}
    message = refused(2, *command[:-1], 4)
    assert f"{out}: begun with top_k 3, now 4" in message and "--overwrite" in message
    assert part.stat().st_mtime_ns == before
    outcome = dglrec_command(*command[:-1], 4, "--overwrite", "--json")
    assert json.loads(outcome.out)["kept"] == 0
    assert json.loads((out / marker).read_text())["options"]["top_k"] == 4
    assert part.stat().st_mtime_ns > before
    assert_nothing_left(tmp_path, "out")


@pytest.mark.parametrize("verb", ["synth", "prepare", "train", "score"])
@pytest.mark.parametrize("kind", ["other files", "file"])
def test_overwrite_replaces_nothing_of_another_kind(verb, kind, world, tmp_path, refused):
    out = tmp_path / "out"
    command, marker = writers(world, out)[verb]
    mine = write(out / "thesis.tex" if kind == "other files" else out, "ten years of work")
    assert "exists" in refused(2, *command)
    message = refused(2, *command, "--overwrite")
    assert marker in message
    assert "will not replace it" in message
    assert mine.read_text() == "ten years of work"
    assert_nothing_left(tmp_path, "out")


def test_a_failed_overwrite_leaves_the_old_data_set(tmp_path, dglrec_command, refused):
    file = write(tmp_path / "ratings.csv", TABLE + rows())
    assert dglrec_command("prepare", file, tmp_path / "data").code == 0
    before = RatingDataset.open(tmp_path / "data").fingerprint
    write(file, TABLE + rows() + "1,1,bad\n")
    refused(3, "prepare", file, tmp_path / "data", "--overwrite")
    assert RatingDataset.open(tmp_path / "data").fingerprint == before
    assert_nothing_left(tmp_path, "data", "ratings.csv")


# --- data sets and runs that do not fit ----------------------------------------------------------


def fingerprint_of(meta):
    proofs = ("fingerprint", "files", "checksum")
    rest = {key: value for key, value in meta.items() if key not in proofs}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


@pytest.mark.parametrize("version", [1, 2, 4, None, "3"])
def test_a_data_set_of_another_version_is_refused(version, world, tmp_path, refused):
    data = shutil.copytree(world.dataset, tmp_path / "data")
    rewrite_json(data / DATASET_FILE, schema_version=version)
    for command in (["train", data, tmp_path / "run"], ["evaluate", world.run, "--dataset", data]):
        message = refused(3, *command)
        assert f"schema version {version}" in message
        assert "prepare it again" in message
    assert not (tmp_path / "run").exists()


def test_a_run_of_another_version_is_refused(world, own_run, refused):
    for name in ("best", "last"):
        meta = own_run / "checkpoints" / name / "meta.json"
        rewrite_json(meta, schema_version=99)
        rest = {
            key: value for key, value in json.loads(meta.read_text()).items() if key != "sha256"
        }
        digest = hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
        checksums = json.loads(meta.read_text())["sha256"]
        rewrite_json(meta, sha256={**checksums, "meta.json": digest})
    for command in (
        ["evaluate", own_run],
        ["recommend", own_run, "--user", 1],
        ["train", world.dataset, own_run, "--resume"],
    ):
        message = refused(3, *command)
        assert "schema version 99" in message
        assert "this program reads version 1" in message


def test_a_missing_or_unfinished_run_is_refused(world, tmp_path, refused):
    assert "no such run" in refused(3, "evaluate", tmp_path / "nowhere")
    (tmp_path / "begun").mkdir()
    assert "not finished an epoch" in refused(3, "evaluate", tmp_path / "begun")
    assert "no such data set" in refused(3, "train", tmp_path / "nowhere", tmp_path / "run")
    assert "holds no dataset.json" in refused(3, "train", world.source, tmp_path / "run")
    command = ["train", world.dataset, tmp_path / "nowhere", "--resume"]
    assert "nowhere" in refused(3, *command)
    assert_nothing_left(tmp_path, "begun")


def test_another_data_set_than_the_runs_is_refused(world, tmp_path, dglrec_command, refused):
    other = tmp_path / "other"
    dglrec_command("prepare", world.source, other, "--no-text", "--seed", 1)
    message = refused(3, "evaluate", world.run, "--dataset", other)
    assert "not the data set" in message
    missing = refused(3, "evaluate", world.run, "--dataset", tmp_path / "gone")
    assert "--dataset" in missing


def test_a_run_finds_a_data_set_that_moved_with_it(world, tmp_path, dglrec_command, refused):
    """Where it was is looked at first, and what is found has to be the same data set."""
    for name in ("dataset", "run"):
        shutil.copytree(getattr(world, name), tmp_path / "there" / name)
    meta = tmp_path / "there" / "run" / "checkpoints" / "best" / "meta.json"
    assert json.loads(meta.read_text())["dataset_from_run"] == "../dataset"
    world.dataset.rename(world.dataset.with_name("elsewhere"))
    try:
        outcome = dglrec_command("recommend", tmp_path / "there" / "run", "--user", 3)
        assert outcome.code == 0, outcome.err
        shutil.rmtree(tmp_path / "there" / "dataset")
        message = refused(3, "recommend", tmp_path / "there" / "run", "--user", 3)
        run = tmp_path / "there" / "run"
        assert f"{world.dataset}: the data set of {run} is not there" in message
    finally:
        world.dataset.with_name("elsewhere").rename(world.dataset)


def test_a_moved_data_set_is_found_with_dataset(world, own_run, tmp_path, dglrec_command, refused):
    moved = shutil.copytree(world.dataset, tmp_path / "moved")
    best = own_run / "checkpoints" / "best"
    meta = json.loads((best / "meta.json").read_text())
    meta["dataset"] = str(tmp_path / "gone")
    described = {key: value for key, value in meta.items() if key != "sha256"}
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
    meta["sha256"]["meta.json"] = digest
    (best / "meta.json").write_text(json.dumps(meta))
    assert "--dataset" in refused(3, "evaluate", own_run)
    outcome = dglrec_command("evaluate", own_run, "--dataset", moved, "--json")
    assert outcome.code == 0
    assert json.loads(outcome.out)["rmse"] == pytest.approx(
        json.loads((world.run / "results.json").read_text())["test"]["rmse"]
    )


# --- checkpoints that were tampered with ---------------------------------------------------------


@pytest.mark.parametrize("name", ["model.safetensors", "meta.json"])
@pytest.mark.parametrize("how", ["altered", "truncated", "missing", "nonsense"])
def test_a_tampered_checkpoint_is_refused(name, how, own_run, refused):
    file = own_run / "checkpoints" / "best" / name
    content = file.read_bytes()
    if how == "altered":
        text = content.replace(b'"epoch": ', b'"epoch":  1')
        file.write_bytes(text if name == "meta.json" else content[:-1] + bytes([content[-1] ^ 1]))
    elif how == "truncated":
        file.write_bytes(content[: len(content) // 2])
    elif how == "missing":
        file.unlink()
    else:
        file.write_bytes(b"\x80\x04nonsense")
    for command in (["evaluate", own_run], ["recommend", own_run, "--user", "1"]):
        assert str(file) in refused(3, *command)


class Malicious:
    """Runs a command when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (os.system, (f"touch '{self.mark}'",))


@pytest.mark.parametrize("place", ["whole state", "in the optimizer"])
def test_no_code_of_a_checkpoint_ever_runs(place, world, own_run, tmp_path, refused):
    mark, last = tmp_path / "mark", own_run / "checkpoints" / "last"
    state = torch.load(last / "state.pt", weights_only=True)
    if place == "whole state":
        torch.save(Malicious(mark), last / "state.pt")
    else:
        torch.save({**state, "optimizer": Malicious(mark)}, last / "state.pt")
    meta = json.loads((last / "meta.json").read_text())
    meta["sha256"]["state.pt"] = hashlib.sha256((last / "state.pt").read_bytes()).hexdigest()
    (last / "meta.json").write_text(json.dumps(meta))
    torch.load(last / "state.pt", weights_only=False)  # the trap itself works
    assert mark.exists()
    mark.unlink()
    command = ["train", world.dataset, own_run, "--resume", "--set", "train.epochs=3"]
    message = refused(3, *command)
    assert "state.pt: refused" in message
    assert "weights_only" not in message  # torch's advice would run it
    assert not mark.exists()


# --- configuration -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("assignment", "fragments"),
    [
        ("train.epoch=3", ["no setting train.epoch", "did you mean train.epochs?"]),
        ("model.embeding_size=3", ["did you mean model.embedding_size?"]),
        ("trian.epochs=3", ["did you mean train.epochs?"]),
        ("epochs=3", ["no setting epochs", "did you mean"]),
        ("train.epochs", ["write section.key=value"]),
        ("train.epochs=many", ["train.epochs = 'many'", "integer"]),
        ("train.epochs=1.5", ["train.epochs = 1.5", "integer"]),
        ("train.epochs=true", ["train.epochs = True", "integer"]),
        ("train.epochs=0", ["train.epochs = 0", "greater than or equal to 1"]),
        ("train.loss=huber", ["train.loss = 'huber'", "smooth_l1"]),
        ("model.rating_messages=1", ["model.rating_messages", "boolean"]),
        ("train.learning_rate=nan", ["train.learning_rate"]),
        ("train.learning_rate=1e30", ["train.learning_rate", "less than or equal to 1000"]),
        ("train.weight_decay=1e30", ["train.weight_decay", "less than or equal to 1000"]),
        ("train.seed=9223372036854775808", ["train.seed", "9223372036854775808"]),
        ("train.seed=99999999999999999999999", ["train.seed", "less than 9223372036854775808"]),
        ("train.epochs=2020-01-01", ["train.epochs", "valid integer"]),
        ("train.epochs={a = 1}", ["train.epochs", "valid integer"]),
        ("model.layers=100000", ["model.layers", "less than or equal to 64"]),
        ("model.embedding_size=10000000", ["model.embedding_size", "less than or equal to"]),
        ("train.learning_rate=inf", ["train.learning_rate"]),
        ("loader.user_fanouts=0,3", ["user_fanouts"]),
        ("loader.user_fanouts=10", ["user_fanouts"]),
        ("loader.item_fanouts=3", ["model.layers is 2", "a figure for each layer"]),
        ('model.item_features=["poster"]', ["model.item_features", "no poster", "it has genres"]),
    ],
)
def test_a_wrong_setting_is_refused(assignment, fragments, world, tmp_path, refused):
    message = refused(2, "train", world.dataset, tmp_path / "run", "--set", assignment)
    for fragment in fragments:
        assert fragment in message
    assert_nothing_left(tmp_path)


@pytest.mark.parametrize(
    ("content", "code", "fragments"),
    [
        ("[train]\nepochs = \n", 3, ["not readable as TOML", "line 2"]),
        (b"[train]\nloss = '\xff'\n", 3, ["not readable as TOML"]),
        ("[train]\nepoch = 3\n", 2, ["did you mean train.epochs?"]),
        ("[training]\nepochs = 3\n", 2, ["no section [training]", "did you mean train?"]),
        ("epochs = 3\n", 2, ["epochs"]),
        ("model = [1, 2]\n", 2, ["model = [1, 2]: is a section; write [model]"]),
        ("[train]\nepochs = 2020-01-01\n", 2, ["train.epochs", "valid integer"]),
        ("[train.epochs]\nx = 1\n", 2, ["train.epochs", "valid integer"]),
        ("[train]\nepochs = '3'\n", 2, ["train.epochs = '3'"]),
    ],
)
def test_a_bad_configuration_file_is_refused(content, code, fragments, world, tmp_path, refused):
    file = write(tmp_path / "my.toml", content)
    message = refused(code, "train", world.dataset, tmp_path / "run", "--config", file)
    for fragment in fragments:
        assert fragment in message
    assert_nothing_left(tmp_path, "my.toml")


def test_a_missing_configuration_file_is_refused(world, tmp_path, monkeypatch, refused):
    command = ["train", world.dataset, tmp_path / "run", "--config"]
    assert "no such configuration file" in refused(3, *command, tmp_path / "no.toml")
    assert "is a folder" in refused(3, *command, tmp_path)
    (tmp_path / "bare").mkdir()
    monkeypatch.chdir(tmp_path)
    assert "bare: is a folder" in refused(3, *command, "bare")


def test_an_unknown_variable_is_refused(world, tmp_path, monkeypatch, refused):
    monkeypatch.setenv("DGLREC_TRAIN_EPOCH", "3")
    message = refused(2, "train", world.dataset, tmp_path / "run")
    assert "DGLREC_TRAIN_EPOCH" in message
    assert "did you mean DGLREC_TRAIN_EPOCHS?" in message


def test_resume_refuses_other_settings(world, own_run, refused):
    before = (own_run / "config.toml").read_bytes()
    command = ["train", world.dataset, own_run, "--resume", "--set", "train.seed=5"]
    assert "train.seed" in refused(2, *command)
    assert (own_run / "config.toml").read_bytes() == before


def test_resume_goes_on(world, own_run, dglrec_command):
    command = ["train", world.dataset, own_run, "--resume", "--set", "train.epochs=3", "--json"]
    outcome = dglrec_command(*command)
    assert outcome.code == 0
    assert json.loads(outcome.out)["epochs"] == 3
    assert "after epoch 2" in outcome.err
    lines = (own_run / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3]


def test_a_device_that_is_not_there_is_refused(world, tmp_path, refused):
    for device in ("cuda:99", "abacus"):
        code = 2 if device == "abacus" else 4
        message = refused(code, "train", world.dataset, tmp_path / "run", "--device", device)
        assert device in message
    assert_nothing_left(tmp_path)


# --- recommend and score -------------------------------------------------------------------------


def test_a_data_set_is_no_run(world, tmp_path, refused):
    for command in (["recommend"], ["evaluate"], ["score"], ["export"]):
        more = {"recommend": ["--user", 3], "score": [tmp_path / "o", "--top-k", 3]}
        more |= {"evaluate": [], "export": [tmp_path / "o"]}
        message = refused(3, *command, world.dataset, *more[command[0]])
        assert f"{world.dataset}: is a data set and no run; make one: dglrec train" in message


def test_recommend_gives_ids_in_their_own_type(world, tmp_path, dglrec_command):
    item = RatingDataset.open(world.dataset).items.ids[0]
    mine = write(tmp_path / "mine.csv", f"item_id,rating\n{item},8\n")
    for options, expected in (
        (["--user", "3"], 3),
        (["--user", " 3"], 3),
        (["--user", "anna", "--ratings", mine], "anna"),
        (["--ratings", mine], None),
    ):
        outcome = dglrec_command("recommend", world.run, *options, "-k", 2, "--json")
        assert outcome.code == 0, outcome.err
        assert json.loads(outcome.out)["user_id"] == expected


def test_bytes_that_are_no_text_name_nobody(world, refused):
    assert "no user \ufffd in" in refused(3, "recommend", world.run, "--user", "\udcff")


@pytest.mark.parametrize("place", ["file/below", "file/far/below", "x" * 300])
def test_an_output_that_cannot_be_made_is_refused_before_any_work(place, world, tmp_path, refused):
    (tmp_path / "file").write_text("")
    out, ratings = tmp_path / place, write(tmp_path / "r.csv", TABLE + rows())
    for command in (
        ["synth", out],
        ["prepare", ratings, out],
        ["train", world.dataset, out],
        ["score", world.run, out, "--top-k", 3],
        ["export", world.run, out],
        ["similar", world.run, out, "--top-k", 3],
        ["study", "ablation", world.dataset, out],
        ["quickstart", out],
    ):
        message = refused(2, *command)
        assert "is a file; choose a path below" in message or "name too long" in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "r.csv"]


@pytest.mark.parametrize("seed", ["-1", "9223372036854775808", "99999999999999999999999"])
def test_seeds_are_whole_numbers_of_63_bits(seed, world, tmp_path, refused):
    ratings = write(tmp_path / "r.csv", TABLE + rows())
    for command in (
        ["synth", tmp_path / "s"],
        ["prepare", ratings, tmp_path / "d"],
        ["evaluate", world.run, "--candidates", 5],
        ["compare", world.run, world.run],
    ):
        assert "--seed" in refused(2, *command, "--seed", seed)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("[enforce] can't allocate memory")])
def test_running_out_of_memory_is_the_machines_fault(error, tmp_path, monkeypatch, refused):
    def exhausted(*arguments, **options):
        raise error

    monkeypatch.setattr("dglrec.synthetic.synthesize", exhausted)
    assert "out of memory" in refused(4, "synth", tmp_path / "out")


def test_wrong_use_of_recommend(world, tmp_path, refused):
    message = refused(3, "recommend", world.run, "--user", "999999")
    assert "no user 999999" in message
    assert "0, 1, 2" in message
    assert "no user anna" in refused(3, "recommend", world.run, "--user", "anna")
    assert "--ratings" in refused(2, "recommend", world.run)
    for k in ("0", "-3"):
        assert f"k = {k}" in refused(2, "recommend", world.run, "--user", "1", "-k", k)
    mine = write(tmp_path / "mine.csv", "item_id,stars\n1,2\n")
    assert "no column rating" in refused(3, "recommend", world.run, "--ratings", mine)
    assert "no such file" in refused(3, "recommend", world.run, "--ratings", tmp_path / "no.csv")


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        ([], "--top-k or --pairs"),
        (["--top-k", "3", "--pairs", "x.csv"], "--top-k or --pairs"),
        (["--pairs", "x.csv", "--users", "y.csv"], "go with --top-k"),
        (["--pairs", "x.csv", "--items", "y.csv"], "go with --top-k"),
        (["--pairs", "x.csv", "--include-seen"], "go with --top-k"),
        (["--pairs", "x.csv", "--shard", "2/2"], "0 to 1"),
        (["--top-k", "3", "--unknown", "null"], "--unknown null goes with --pairs"),
        (["--top-k", "3", "--unknown", "ignore"], "'ignore' is not one of"),
        (["--top-k", "3", "--shard", "0/2", "--overwrite"], "what other shards write"),
        (["--top-k", "0"], "k = 0"),
        (["--top-k", "61"], "60 items"),
        (["--top-k", "3", "--shard", "2/2"], "0 to 1"),
        (["--top-k", "3", "--shard", "-1/2"], "0 to 1"),
        (["--top-k", "3", "--shard", "0/0"], "--shard 0/0"),
        (["--top-k", "3", "--shard", "half"], "write i/n"),
    ],
)
def test_wrong_use_of_score(options, fragment, world, tmp_path, refused):
    assert fragment in refused(2, "score", world.run, tmp_path / "out", *options)
    assert_nothing_left(tmp_path)


@pytest.mark.parametrize(
    ("option", "content", "fragments"),
    [
        ("--users", "user_id\n1\n777777\n888888\n", ["user_id 777777, 888888", "2 rows"]),
        ("--users", "id\n1\n", ["no column user_id", "found id"]),
        ("--users", b"", ["is empty"]),
        ("--items", "item_id\n999999\n", ["item_id 999999", "1 rows"]),
        ("--items", "id\n1\n", ["no column item_id", "found id"]),
        ("--ratings", "user_id,item_id,rating\n900,999999,5\n", ["rates no item of"]),
        ("--ratings", "item_id,rating\n1,5\n", ["no column user_id"]),
        ("--new-items", "genres\nAction\n", ["no column item_id"]),
        ("--new-items", "item_id\n1\n1\n", ["1 is there twice"]),
        ("--pairs", "user_id,item_id\n1,999999\n", ["item_id 999999", "1 rows"]),
        ("--pairs", "user_id\n1\n", ["no column item_id", "found user_id"]),
        ("--pairs", "user_id,item_id\n1\n", ["row 2"]),
    ],
)
def test_score_refuses_a_bad_file(option, content, fragments, world, tmp_path, refused):
    file = write(tmp_path / "file.csv", content)
    top_k = [] if option == "--pairs" else ["--top-k", 3]
    message = refused(3, "score", world.run, tmp_path / "out", *top_k, option, file)
    for fragment in [str(file), *fragments]:
        assert fragment in message
    if option == "--pairs":  # which is read part by part: a folder may have been begun
        assert not list(tmp_path.rglob("*.parquet")) and not list(tmp_path.rglob("_SUCCESS"))
        assert {path.name for path in tmp_path.iterdir()} - {"out"} == {"file.csv"}
    else:
        assert_nothing_left(tmp_path, "file.csv")


def test_score_takes_new_users_and_new_items(world, tmp_path, dglrec_command):
    dataset = RatingDataset.open(world.dataset)
    item = dataset.items.ids[0].as_py()
    ratings = write(tmp_path / "new.csv", f"user_id,item_id,rating\n900,{item},5\n901,{item},2\n")
    items = write(tmp_path / "season.csv", "item_id,genres\n800001,Action\n")
    users = write(tmp_path / "users.csv", "user_id\n901\n3\n77777\n")
    out = tmp_path / "out"
    options = ["--users", users, "--items", items, "--unknown", "skip", "--include-seen"]
    more = ["--ratings", ratings, "--new-items", items, "--json"]
    outcome = dglrec_command("score", world.run, out, "--top-k", 1, *options, *more)
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["rows"] == 2
    assert f"{users}: 1 rows name an unknown user_id" in outcome.err
    table = pq.read_table(out).to_pydict()
    assert (table["user_id"], table["item_id"]) == ([3, 901], [800_001, 800_001])


def test_a_zero_before_an_id_makes_another_id(world, tmp_path, refused):
    """A user 7 is not shown what was asked for by 007."""
    assert "no user 07 in" in refused(3, "recommend", world.run, "--user", "07")
    assert "no user 0x7 in" in refused(3, "recommend", world.run, "--user", "0x7")
    file = write(tmp_path / "p.csv", "user_id,item_id,rating\n7,1,5\n07,1,5\n")
    options = {"--pairs": [], "--users": ["--top-k", 3], "--ratings": ["--top-k", 3]}
    for option, more in options.items():
        out = tmp_path / option.strip("-")
        message = refused(3, "score", world.run, out, option, file, *more)
        assert f"{file}: row 3: user_id begins with a zero ('07')" in message
    pq.write_table(pa.table({"user_id": ["7", "07"], "item_id": [1, 1]}), tmp_path / "p.parquet")
    message = refused(3, "score", world.run, tmp_path / "q", "--pairs", tmp_path / "p.parquet")
    assert "user_id 07 unknown to the data set (1 rows)" in message


def test_evaluate_refuses_impossible_rankings(world, refused):
    assert "60 items" in refused(2, "evaluate", world.run, "--ranking", 61)
    assert "choose test or valid" in refused(
        2, "evaluate", world.run, "--ranking", 5, "--split", "train"
    )
    command = ["evaluate", world.run, "--ranking", 5, "--relevant-from", 11]
    assert "nothing to rank" in refused(2, *command)


def test_evaluate_in_detail(world, dglrec_command, refused):
    outcome = dglrec_command("evaluate", world.run, "--details")
    assert outcome.code == 0, outcome.err
    for words in (
        "head items",
        "calibration",
        "by training ratings of the user",
        "by rating",
        "by layer",
    ):
        assert words in outcome.out
    details = json.loads(dglrec_command("evaluate", world.run, "--details", "--json").out)[
        "details"
    ]
    of_ratings = {"calibration", "by_user_activity", "by_item_popularity", "by_rating"}
    assert of_ratings | {"by_layer"} == set(details)
    assert "--split user" in refused(2, "evaluate", world.run, "--given", 5)
    assert "--given" in refused(2, "evaluate", world.run, "--seed", 5)


# --- a disk that fills up ------------------------------------------------------------------------


@pytest.mark.parametrize("kib", [0, 40, 92, 150, 200])
def test_prepare_on_a_full_disk(kib, world, small_disk, refused):
    disk = small_disk.leave(kib)
    message = refused(1, "prepare", world.source, disk / "data", "--no-text")
    assert str(disk / "data") in message
    assert "no space left" in message
    assert_nothing_left(disk, "ballast")


@pytest.mark.parametrize("kib", [0, 4, 24, 60])
def test_train_on_a_full_disk(kib, world, small_disk, dglrec_command):
    disk = small_disk.leave(kib)
    command = ["train", world.dataset, disk / "run", *FAST]
    outcome = dglrec_command(*command)
    assert outcome.code == 1
    assert outcome.out == ""
    last = outcome.err.splitlines()[-1]
    assert last.startswith(f"error: {disk / 'run'}")
    assert "no space left" in last
    assert not (disk / "run" / "results.json").exists()
    assert not list(disk.rglob(f"{TEMPORARY}*"))
    for name in ("last", "best"):
        checkpoint = disk / "run" / "checkpoints" / name
        assert not checkpoint.exists() or (checkpoint / "meta.json").exists()
    # With space again, the same command goes through.
    (disk / "ballast").unlink()
    assert dglrec_command(*command, "--overwrite").code == 0


def test_score_on_a_full_disk(world, small_disk, dglrec_command, refused):
    disk = small_disk.leave(8)
    command = ["score", world.run, disk / "out", "--top-k", 30]
    message = refused(1, *command)
    assert str(disk / "out") in message and "no space left on the disk" in message
    assert not list(disk.rglob("*.parquet")) and not list(disk.rglob("_SUCCESS"))
    assert_nothing_left(disk, "ballast", "out")
    # With space again, the same command goes through.
    (disk / "ballast").unlink()
    assert dglrec_command(*command).code == 0
    assert (disk / "out" / "_SUCCESS").exists()


# --- the command line itself ---------------------------------------------------------------------

VERBS = [
    *("doctor", "synth", "prepare", "train", "evaluate", "recommend", "score", "compare"),
    *("study", "report", "quickstart", "similar"),
]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb, dglrec_command):
    for option in ("-h", "--help"):
        outcome = dglrec_command(verb, option)
        assert outcome.code == 0
        assert outcome.out.startswith(f"Usage: dglrec {verb}")
        assert outcome.err == ""


def test_the_help_of_study_names_all_that_are_shipped(dglrec_command):
    help_ = dglrec_command("study", "--help").out
    assert [name for name in shipped_studies() if f"`{name}`" not in help_] == []


def test_help_and_version(dglrec_command):
    outcome = dglrec_command("-h")
    assert outcome.code == 0
    for verb in VERBS:
        assert re.search(rf"^  {verb} ", outcome.out, re.MULTILINE)
    outcome = dglrec_command("--version")
    assert (outcome.code, outcome.out) == (0, f"dglrec, version {dglrec.__version__}\n")


def test_no_arguments_show_the_help(dglrec_command):
    outcome = dglrec_command()
    assert outcome.code == 2
    assert outcome.out == ""
    assert "Usage: dglrec" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (["conjure"], ["No such command 'conjure'", "see dglrec --help"]),
        (["train"], ["Missing arguments DATASET and RUN", "see dglrec train --help"]),
        (["prepare", "x"], ["Missing argument 'DATASET'"]),
        (["evaluate", "run", "--split", "all"], ["'all' is not one of"]),
        (["synth", "out", "--users", "many"], ["'many' is not a valid integer"]),
        (["synth", "out", "--users", "0"], ["--users 0: must be 1 or more"]),
        (["synth", "out", "--users", "5", "--items", "5", "--ratings", "26"], ["25 pairs"]),
    ],
)
def test_wrong_usage_is_one_line(arguments, fragments, tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    message = refused(2, *arguments)
    assert len(message.splitlines()) == 1
    for fragment in fragments:
        assert fragment in message
    assert_nothing_left(tmp_path)


def test_print_config_is_a_configuration_file_on_stdout(tmp_path, dglrec_command):
    outcome = dglrec_command("train", "--print-config")
    assert outcome.code == 0
    file = write(tmp_path / "my.toml", outcome.out)
    assert load_settings(file=file) == build_settings({})
    assert outcome.err == ""


def test_print_config_shows_what_would_be_trained_with(dglrec_command, tmp_path):
    command = ["train", "--print-config", "--config", "item_knn", "--set", "baseline.neighbours=9"]
    outcome = dglrec_command(*command)
    assert outcome.code == 0
    found = load_settings(file=write(tmp_path / "my.toml", outcome.out))
    assert (found.model.kind, found.baseline.neighbours) == ("item_knn", 9)


def test_baselines_go_through_the_same_verbs(world, tmp_path, dglrec_command, refused):
    run = tmp_path / "run"
    outcome = dglrec_command("train", world.dataset, run, "--config", "item_knn")
    assert outcome.code == 0
    assert outcome.out.startswith("item_knn fitted in ")
    assert "fitting item_knn" in outcome.err
    outcome = dglrec_command("train", world.dataset, run, "--resume", "--json")
    assert outcome.code == 0 and "finished" in outcome.err
    results = json.loads(outcome.out)
    outcome = dglrec_command("evaluate", run, "--ranking", "5", "--json")
    assert outcome.code == 0
    measured = json.loads(outcome.out)
    assert measured["rmse"] == results["test"]["rmse"] and 0 < measured["ndcg@5"] < 1
    # What needs embeddings says what it needs, and leaves nothing.
    message = refused(2, "export", run, tmp_path / "out")
    assert f"{run}: is a run of the item_knn baseline" in message
    assert "needs a graph model" in message
    for option in (["--explain"], ["--ratings", tmp_path / "mine.csv"]):
        message = refused(2, "recommend", run, "--user", "1", *option)
        assert f"{option[0]} needs a graph model" in message and "item_knn" in message
    message = refused(2, "train", world.dataset, run, "--resume", "--set", "model.kind=bias")
    assert "model.kind" in message
    assert_nothing_left(tmp_path, "run")


def test_a_configuration_that_is_not_shipped_is_refused(world, tmp_path, refused):
    message = refused(3, "train", world.dataset, tmp_path / "run", "--config", "nope")
    assert "nope" in message and "item_knn" in message
    assert_nothing_left(tmp_path)


def json_commands(world, folder):
    return {
        "doctor": ["doctor"],
        "synth": ["synth", folder / "s", "--users", 20, "--items", 10, "--ratings", 100],
        "prepare": ["prepare", world.source, folder / "d", "--no-text"],
        "train": ["train", world.dataset, folder / "r", *FAST],
        "evaluate": ["evaluate", world.run, "--ranking", 5],
        "recommend": ["recommend", world.run, "--user", "3", "-k", 5],
        "score": ["score", world.run, folder / "o", "--top-k", 5],
        "similar": ["similar", world.run, folder / "s.parquet", "--top-k", 5],
        "score pairs": ["score", world.run, folder / "o", "--pairs", folder / "pairs.csv"],
        "recommend new": ["recommend", world.run, "--ratings", folder / "mine.csv"],
    }


NEEDS_FILES = {
    "score pairs": ("pairs.csv", "user_id,item_id\n{user},{item}\n"),
    "recommend new": ("mine.csv", "item_id,rating\n{item},8\n"),
}
ELSEWHERE = {"compare", "study", "report", "quickstart"}  # in tests of their own
REPORTING = [*(verb for verb in VERBS if verb not in ELSEWHERE), *NEEDS_FILES]


def make_files(verb, world, folder):
    if verb in NEEDS_FILES:
        name, text = NEEDS_FILES[verb]
        dataset = RatingDataset.open(world.dataset)
        user, item = dataset.users.ids[0], dataset.items.ids[0]
        write(folder / name, text.format(user=user, item=item))


@pytest.mark.parametrize("verb", REPORTING)
def test_json_is_one_object_and_nothing_else(verb, world, tmp_path, dglrec_command):
    make_files(verb, world, tmp_path)
    outcome = dglrec_command(*json_commands(world, tmp_path)[verb], "--json")
    assert outcome.code == 0, outcome.err
    assert len(outcome.out.splitlines()) == 1

    def no_constant(name):
        raise AssertionError(f"{name} is no JSON")

    assert isinstance(json.loads(outcome.out, parse_constant=no_constant), dict)
    assert "Warning" not in outcome.err
    if verb != "train":
        assert outcome.err == ""


@pytest.mark.parametrize("verb", [verb for verb in REPORTING if verb != "doctor"])
def test_results_for_people_go_to_stdout(verb, world, tmp_path, dglrec_command):
    make_files(verb, world, tmp_path)
    outcome = dglrec_command(*json_commands(world, tmp_path)[verb])
    assert outcome.code == 0, outcome.err
    assert outcome.out.strip()
    assert "nan" not in outcome.out
    if verb in ("train", "evaluate"):
        for word in ("model", "global_mean", "bias", "rmse", "gap closed"):
            assert word in outcome.out


def test_evaluate_reports_what_the_design_says(world, dglrec_command):
    for split in ("test", "valid", "train"):
        outcome = dglrec_command("evaluate", world.run, "--split", split, "--json")
        result = json.loads(outcome.out)
        assert result["split"] == split
        for name in ("rmse", "mae", "weighted_rmse", "accuracy", "n"):
            assert name in result
        assert set(result["baselines"]) == {"global_mean", "bias"}
        assert result["baselines"]["bias"]["n"] == result["n"]
    result = json.loads(dglrec_command("evaluate", world.run, "--ranking", 7, "--json").out)
    assert {"recall@7", "ndcg@7", "hit_rate@7"} <= set(result)


def test_debug_shows_a_traceback(tmp_path, dglrec_command):
    for arguments in (["--debug", "prepare"], ["prepare", "--debug"]):
        outcome = dglrec_command(*arguments, tmp_path / "no.csv", tmp_path / "data")
        assert outcome.code == 3
        assert "Traceback (most recent call last)" in outcome.err
        assert outcome.err.splitlines()[-1].startswith("error: ")


def test_an_unforeseen_error_exits_1_on_one_line(tmp_path, monkeypatch, dglrec_command):
    def broken(*arguments, **options):
        raise RuntimeError("first line\nsecond line " + "x" * 1_000)

    monkeypatch.setattr("dglrec.synthetic.synthesize", broken)
    outcome = dglrec_command("synth", tmp_path / "out")
    assert outcome.code == 1
    assert outcome.err.startswith("error: unexpected RuntimeError: first line second line xxx")
    assert len(outcome.err.splitlines()) == 1
    assert len(outcome.err) < 500
    outcome = dglrec_command("synth", tmp_path / "out", "--debug")
    assert "Traceback" in outcome.err


def test_doctor_exits_4_where_dglrec_cannot_work(monkeypatch, dglrec_command):
    from dglrec import doctor

    bad = doctor.Check("DGL", "failure", "not there", "install it")
    monkeypatch.setattr(doctor, "examine", lambda: [bad])
    outcome = dglrec_command("doctor")
    assert outcome.code == 4
    assert "mend: install it" in outcome.out


def test_training_outlives_its_terminal_before_it_begins(
    world, tmp_path, monkeypatch, dglrec_command
):
    opened = RatingDataset.open

    def terminal_goes(path):
        signal.raise_signal(signal.SIGHUP)
        return opened(path)

    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    monkeypatch.setattr(RatingDataset, "open", terminal_goes)
    assert dglrec_command("train", world.dataset, tmp_path / "run", *FAST).code == 0
    assert dglrec_command("evaluate", tmp_path / "run").code == 130
    signal.signal(signal.SIGHUP, before)


def test_a_signal_that_became_another_error_is_still_one(tmp_path, monkeypatch, dglrec_command):
    def interrupted(*arguments, **options):
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            raise RuntimeError("of a library that was just being loaded") from None

    monkeypatch.setattr("dglrec.synthetic.synthesize", interrupted)
    outcome = dglrec_command("synth", tmp_path / "out")
    assert (outcome.code, outcome.out, outcome.err) == (130, "", "interrupted\n")


def test_ctrl_c_while_the_command_is_loaded_ends_quietly():
    script = (
        "import runpy, sys\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'click': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        "runpy.run_module('dglrec', run_name='__main__')\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout, ran.stderr) == (130, "", "interrupted\n")


@pytest.mark.parametrize("error", [KeyboardInterrupt, BrokenPipeError])
def test_interruptions_end_quietly(error, tmp_path, monkeypatch, dglrec_command):
    def interrupted(*arguments, **options):
        raise error

    monkeypatch.setattr("dglrec.synthetic.synthesize", interrupted)
    if error is BrokenPipeError:
        monkeypatch.setattr(os, "dup2", lambda *descriptors: None)
    outcome = dglrec_command("synth", tmp_path / "out")
    assert outcome.code == (130 if error is KeyboardInterrupt else 1)
    assert "Traceback" not in outcome.err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_named(tmp_path, refused):
    file = write(tmp_path / "ratings.csv", TABLE + rows())
    file.chmod(0)
    assert "ratings.csv" in refused(3, "prepare", file, tmp_path / "data")


# --- as a process of its own ---------------------------------------------------------------------


def process(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "dglrec", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        # A suite that was started in the background ignores it, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **options,
    )


def test_the_module_runs(tmp_path):
    ran = process("--version")
    assert ran.communicate(timeout=60) == (f"dglrec, version {dglrec.__version__}\n", "")
    assert ran.returncode == 0
    ran = process("prepare", tmp_path / "nowhere.csv", tmp_path / "data")
    out, err = ran.communicate(timeout=120)
    assert ran.returncode == 3
    assert out == ""
    assert err == f"error: {tmp_path / 'nowhere.csv'}: no such file or folder\n"


def test_ctrl_c_during_training_exits_130_and_the_run_goes_on(world, tmp_path, dglrec_command):
    run = tmp_path / "run"
    long = ["--set", "train.epochs=100000", "--set", "train.patience=100000"]
    ran = process("train", world.dataset, run, "--set", "model.embedding_size=8", *long)
    with contextlib.ExitStack() as stack:
        stack.callback(ran.kill)
        lines = []
        for line in ran.stderr:  # ends with the process, if that fails
            lines.append(line)
            if "epoch 2 of" in line:  # so the first one's checkpoints are there
                break
        assert lines, "training never finished an epoch"
        ran.send_signal(signal.SIGINT)
        out, err = ran.communicate(timeout=60)
    assert ran.returncode == 130
    assert out == ""
    assert err.splitlines()[-1] == "interrupted"
    assert "Traceback" not in err
    assert not list(tmp_path.rglob(f"{TEMPORARY}*"))
    done = json.loads((run / "checkpoints" / "last" / "meta.json").read_text())["epoch"]
    more = ["--set", f"train.epochs={done + 1}"]
    outcome = dglrec_command("train", world.dataset, run, "--resume", *more, "--json")
    assert outcome.code == 0
    assert json.loads(outcome.out)["epochs"] == done + 1


def test_the_users_of_a_table_are_those_of_its_file(world):
    """Guards the fixture: what the tests above rely on."""
    frame = pd.read_csv(world.source / "rating_complete.csv")
    dataset = RatingDataset.open(world.dataset)
    assert dataset.users.ids.to_pylist() == sorted(frame.user_id.unique())
    assert fingerprint_of(dataset.meta) == dataset.fingerprint


def test_recommend_gives_fewer_where_the_catalogue_is_smaller(world, dglrec_command):
    found = dglrec_command("recommend", world.run, "--user", "1", "-k", "1000", "--json")
    assert 0 < len(json.loads(found.out)["recommendations"]) < 60


def test_the_ratings_of_several_users_are_not_those_of_one(world, tmp_path, refused):
    table = write(tmp_path / "all.csv", "user_id,item_id,rating\n1,1,5\n2,1,6\n")
    assert "several users" in refused(3, "recommend", world.run, "--ratings", table)


def test_processes_that_cannot_work_together_are_refused_before_anything_is_written(
    world, tmp_path, refused, dglrec_command, monkeypatch
):
    monkeypatch.setenv("WORLD_SIZE", "2")
    missing = "RANK, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT not set"
    for command in (
        ["train", world.dataset, tmp_path / "run"],
        ["evaluate", world.run],
        ["score", world.run, tmp_path / "run", "--top-k", 3],
    ):
        message = refused(2, *command)
        assert missing in message and "start them with torchrun" in message
    for command in (
        ["synth", tmp_path / "run"],
        ["prepare", world.source, tmp_path / "run"],
        ["recommend", world.run, "--user", 1],
        ["compare", world.run, world.run],
        ["quickstart", tmp_path / "run"],
    ):
        message = refused(2, *command)
        assert f"{command[0]} is not shared among processes (WORLD_SIZE is 2)" in message
    monkeypatch.setenv("RANK", "1")  # it is said once
    outcome = dglrec_command("prepare", world.source, tmp_path / "run")
    assert (outcome.code, outcome.out, outcome.err) == (2, "", "")
    assert not (tmp_path / "run").exists()


def test_options_that_contradict_each_other(world, tmp_path, refused):
    both = ("--resume", "--overwrite")
    assert "--overwrite" in refused(2, "train", world.dataset, world.run, *both)
    assert "--ranking" in refused(2, "evaluate", world.run, "--relevant-from", "7")
    missing = tmp_path / "nothere"
    assert "leave out --resume" in refused(3, "train", world.dataset, missing, "--resume")


def test_another_number_of_layers_is_a_matter_of_one_setting_or_of_three(
    world, tmp_path, refused, dglrec_command
):
    small = ["--set", "train.epochs=1", "--set", "model.embedding_size=4"]
    one = ["--set", "model.layers=1", *small]
    assert dglrec_command("train", world.dataset, tmp_path / "auto", *one).code == 0
    settings = ["--set", "model.layers=1", "--set", "loader.user_fanouts=100,100"]
    message = refused(2, "train", world.dataset, tmp_path / "run", *settings)
    assert "--set loader.user_fanouts=100 --set loader.item_fanouts=10" in message
    settings = [*one, "--set", "loader.user_fanouts=100", "--set", "loader.item_fanouts=10"]
    assert dglrec_command("train", world.dataset, tmp_path / "run", *settings).code == 0


def test_a_truth_that_does_not_know_the_items_says_how_to_go_on(tmp_path, dglrec_command, refused):
    source = tmp_path / "source"
    assert dglrec_command("synth", source, "--users", 30, "--items", 20, "--ratings", 300).code == 0
    with (source / "rating_complete.csv").open("a") as file:
        file.writelines(f"{user},999999,7\n" for user in range(30))
    message = refused(3, "prepare", source, tmp_path / "data", "--no-text")
    assert "Remove it" in message
    assert str(source) in message


# --- limits of the machine -----------------------------------------------------------------------


def test_what_the_machine_lacks_is_said(tmp_path, monkeypatch, refused):
    def fail(error):
        def failing(*arguments, **options):
            raise error

        return failing

    too_many = OSError(errno.EMFILE, os.strerror(errno.EMFILE), "x")
    monkeypatch.setattr("dglrec.synthetic.synthesize", fail(too_many))
    assert "ulimit -n" in refused(4, "synth", tmp_path / "out")
    monkeypatch.setattr("dglrec.synthetic.synthesize", fail(DataError("x" * 100_000)))
    assert len(refused(3, "synth", tmp_path / "out")) < 5_000


def test_a_current_folder_that_is_gone_is_said(tmp_path, monkeypatch, world, refused):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert "current folder is gone" in refused(4, "prepare", world.source, "data", "--no-text")


def test_names_that_are_too_long_are_wrong_usage(world, refused):
    assert "too long" in refused(2, "evaluate", "x" * 300)
    assert "too long" in refused(2, "recommend", world.run, "--ratings", "x" * 300)


def test_pipes_and_devices_are_no_files_of_data(world, tmp_path, refused):
    os.mkfifo(tmp_path / "pairs.csv")
    for file in (tmp_path / "pairs.csv", "/dev/null"):
        message = refused(3, "score", world.run, tmp_path / "out", "--pairs", file)
        assert f"{file}: is a pipe or a device" in message


def test_unreadable_files_are_bad_data_and_not_wrong_usage(world, tmp_path, monkeypatch, refused):
    write(tmp_path / "t.csv", TABLE + rows())
    opened = Path.open

    def closed(self, *arguments, **options):
        if self.name == "t.csv":
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return opened(self, *arguments, **options)

    monkeypatch.setattr(os, "access", lambda *arguments, **options: False)
    monkeypatch.setattr(Path, "open", closed)
    assert "t.csv" in refused(3, "prepare", tmp_path / "t.csv", tmp_path / "data")


def test_what_is_nested_too_deeply_is_no_configuration(world, tmp_path, refused):
    deep = "[" * 2_000 + "]" * 2_000
    file = write(tmp_path / "c.toml", f"[train]\nepochs = {deep}\n")
    refused(3, "train", world.dataset, tmp_path / "run", "--config", file)
    refused(2, "train", world.dataset, tmp_path / "run", "--set", f"train.epochs={deep}")


def test_a_scale_that_cannot_be_names_its_option(world, tmp_path, refused):
    for scale in ("5:1", "1:5:0", "nan:5", "1", "1:2:3:4"):
        message = refused(2, "prepare", world.source, tmp_path / "data", "--scale", scale)
        assert message.startswith(f"error: --scale {scale}: ")


def test_a_study_of_no_list_makes_no_folder(world, tmp_path, refused):
    refused(2, "study", "ablation", world.dataset, tmp_path / "out", "--ranking", "0")
    assert not (tmp_path / "out").exists()


def test_the_next_command_names_the_run_that_can_be_measured(world, tmp_path, dglrec_command):
    bias = ["--set", "model.kind=bias"]
    for name, more, measured in (
        ("plain", [], "plain"),
        ("refitted", ["--set", "train.refit=all"], "refitted/selection"),
    ):
        outcome = dglrec_command("train", world.dataset, tmp_path / name, *bias, *more)
        following = f"Next: dglrec evaluate {tmp_path / measured} --ranking 10"
        assert outcome.code == 0 and following in outcome.out
        assert dglrec_command("evaluate", tmp_path / measured, "--ranking", 10).code == 0
