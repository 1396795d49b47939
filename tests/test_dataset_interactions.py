"""Prepared data sets of interactions: no pair is lost, none is in two parts, all are worth 1."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dglrec import schema
from dglrec.biases import NoBiases
from dglrec.dataset import (
    DATASET_FILE,
    SCHEMA_VERSION,
    PrepareOptions,
    RatingDataset,
    prepare,
)
from dglrec.errors import DataError, UsageError
from dglrec.score.added import read_user_to_add, read_users_to_add
from dglrec.synthetic import synthesize

NO_TEXT = PrepareOptions(text=False)
SHARES = PrepareOptions(text=False, valid=0.2, test=0.2)
PARTS = ("train", "valid", "test")


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def table_of(file, rows, columns=("user_id", "item_id")):
    """Rows as a CSV or Parquet file, as its ending says."""
    file.parent.mkdir(parents=True, exist_ok=True)
    frame = pd.DataFrame(rows, columns=list(columns))
    if file.suffix == ".parquet":
        frame.to_parquet(file)
    else:
        frame.to_csv(file, index=False)
    return file


def random_pairs(users, items, count, seed=0, text=False):
    """Distinct pairs in no order."""
    generator = np.random.default_rng(seed)
    chosen = generator.permutation(users * items)[:count].tolist()
    pairs = [(100 + pair // items, 7 + pair % items) for pair in chosen]
    return [(f"u{user}", f"i {item}") for user, item in pairs] if text else pairs


def pairs_of(dataset):
    """The pairs of each part under external ids; each pair once, each of the value 1."""
    users, items = dataset.users.ids.to_pylist(), dataset.items.ids.to_pylist()
    by_user, by_item = dataset.graph.by_user, dataset.graph.by_item
    found = {
        "train": [
            (users[user], items[item])
            for user in range(by_user.num_nodes)
            for item in by_user.neighbours[by_user.of(user)].tolist()
        ]
    }
    assert np.asarray(by_user.codes).tolist() == [1] * dataset.graph.num_edges
    assert np.asarray(by_item.codes).tolist() == [1] * dataset.graph.num_edges
    for part in ("valid", "test"):
        rows = dataset.held_out(part)
        assert rows.ratings.tolist() == [1.0] * len(rows)
        assert rows.expected is None
        found[part] = [
            (users[user], items[item])
            for user, item in zip(rows.users.tolist(), rows.items.tolist(), strict=True)
        ]
    for part in PARTS:
        assert len(set(found[part])) == len(found[part]) == dataset.meta["counts"][part]
    return {part: set(found[part]) for part in PARTS}


def assert_parts(dataset, pairs):
    """All distinct pairs are there, each in one part."""
    parts = pairs_of(dataset)
    assert set.union(*parts.values()) == set(pairs)
    assert sum(len(part) for part in parts.values()) == len(set(pairs))
    return parts


# --- what is made --------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
@pytest.mark.parametrize("text", [False, True])
def test_a_table_without_ratings(tmp_path, ending, text):
    pairs = random_pairs(9, 11, 70, text=text)
    dataset = prepare(table_of(tmp_path / f"clicks{ending}", pairs), tmp_path / "data", SHARES)
    parts = assert_parts(dataset, pairs)
    assert [len(parts[part]) for part in PARTS] == [42, 14, 14]
    assert not dataset.has_ratings
    assert dataset.meta["feedback"] == "interactions"
    assert dataset.scale == schema.INTERACTION_SCALE
    assert dataset.interactions_from is None
    assert dataset.meta["notes"]["rows_read"] == 70
    assert dataset.meta["notes"]["repeated_rows"] == 0
    assert dataset.users.ids.to_pylist() == sorted({user for user, _ in pairs})
    assert dataset.items.ids.to_pylist() == sorted({item for _, item in pairs})


def test_there_are_no_biases(tmp_path):
    pairs = random_pairs(9, 11, 70)
    dataset = prepare(table_of(tmp_path / "clicks.csv", pairs), tmp_path / "data", SHARES)
    train = pairs_of(dataset)["train"]
    biases = dataset.biases
    assert isinstance(biases, NoBiases)
    assert biases.mean == 0
    for zeros in (biases.users, biases.items, biases.user_squares, biases.item_squares):
        assert not zeros.any()
    users = [sum(pair[0] == user for pair in train) for user in dataset.users.ids.to_pylist()]
    items = [sum(pair[1] == item for pair in train) for item in dataset.items.ids.to_pylist()]
    assert biases.user_degrees.tolist() == users
    assert biases.item_degrees.tolist() == items


def test_describe_leaves_out_what_says_nothing_of_interactions(tmp_path):
    file = table_of(tmp_path / "clicks.csv", random_pairs(9, 11, 70))
    described = prepare(file, tmp_path / "data", NO_TEXT).describe()
    assert described["feedback"] == "interactions"
    assert not {"scale", "mean_rating", "level_counts"} & described.keys()
    assert json.loads(json.dumps(described)) == described
    rated = table_of(
        tmp_path / "rated.csv", [(1, n, n % 5) for n in range(30)], ("user_id", "item_id", "rating")
    )
    described = prepare(rated, tmp_path / "rated", NO_TEXT).describe()
    assert described["feedback"] == "ratings"
    assert described["mean_rating"] > 0 and described["scale"]["maximum"] == 4


def test_a_data_set_of_ratings_says_so(tmp_path):
    rows = [(user, item, (user + item) % 5 + 1) for user in range(8) for item in range(6)]
    file = table_of(tmp_path / "rated.csv", rows, ("user_id", "item_id", "rating"))
    dataset = prepare(file, tmp_path / "data", NO_TEXT)
    assert dataset.has_ratings and dataset.meta["feedback"] == "ratings"
    assert not isinstance(dataset.biases, NoBiases)
    assert "repeated_rows" not in dataset.meta["notes"]


# --- repeated pairs ------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_repeated_pairs_are_counted_and_kept_once(tmp_path, ending):
    pairs = random_pairs(9, 11, 60)
    rows = [*pairs, *pairs[:13], *pairs[:4]]
    dataset = prepare(table_of(tmp_path / f"clicks{ending}", rows), tmp_path / "data", NO_TEXT)
    assert_parts(dataset, pairs)
    assert dataset.meta["notes"]["repeated_rows"] == 17
    assert dataset.meta["notes"]["rows_read"] == 77
    assert "duplicate_rows_dropped" not in dataset.meta["notes"]


@pytest.mark.parametrize("newest_first", [False, True])
def test_a_repeated_pair_stands_at_its_latest_timestamp(tmp_path, newest_first):
    """So it tests where rows are split by time, wherever it stands in the file."""
    rows = [(1, item, 10 * item) for item in range(10)]
    again = (1, 0, 1_000)
    rows = [again, *rows] if newest_first else [*rows, again]
    file = table_of(tmp_path / "clicks.csv", rows, ("user_id", "item_id", "timestamp"))
    dataset = prepare(file, tmp_path / "data", replace(SHARES, split="time"))
    parts = assert_parts(dataset, [row[:2] for row in rows])
    assert parts["test"] == {(1, 0), (1, 9)}
    assert parts["valid"] == {(1, 7), (1, 8)}


def test_of_ratings_the_last_in_the_file_still_counts(tmp_path):
    """Timestamps decide for interactions alone."""
    rows = [(1, item, item % 5, 10 * item) for item in range(20)]
    rows = [(1, 3, 0, 1_000), *rows]
    file = table_of(tmp_path / "r.csv", rows, ("user_id", "item_id", "rating", "timestamp"))
    dataset = prepare(file, tmp_path / "data", replace(SHARES, split="time"))
    items = dataset.items.ids.to_pylist()
    tested = [items[item] for item in dataset.held_out("test").items.tolist()]
    assert sorted(tested) == [16, 17, 18, 19]


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=st.lists(
        st.tuples(st.integers(0, 9), st.integers(0, 6), st.integers(0, 3)),
        min_size=30,
        max_size=120,
    ),
    split=st.sampled_from(["random", "time", "user", "item"]),
    timed=st.booleans(),
    seed=st.integers(0, 5),
)
def test_no_distinct_pair_is_lost(tmp_path_factory, rows, split, timed, seed):
    folder = tmp_path_factory.mktemp("pairs")
    # Three users and three items at least, and enough pairs for every part.
    rows = [*rows, *((20 + user, 20 + item, 1) for user in range(4) for item in range(4))]
    columns = ("user_id", "item_id", "timestamp")
    if not timed:
        rows, columns = [row[:2] for row in rows], columns[:2]
    file = table_of(folder / "clicks.parquet", rows, columns)
    options = replace(SHARES, split=split, seed=seed)
    if split == "time" and not timed:
        with pytest.raises(DataError, match="--split time needs timestamps"):
            prepare(file, folder / "data", options)
        return
    dataset = prepare(file, folder / "data", options)
    pairs = {row[:2] for row in rows}
    assert_parts(dataset, pairs)
    assert dataset.meta["notes"]["repeated_rows"] == len(rows) - len(pairs)


# --- given files ---------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_given_files_that_overlap(tmp_path, ending):
    """The pairs of the test file are tested, all of them, and none of them is trained on."""
    pairs = random_pairs(12, 10, 90)
    train, test = pairs[:70], pairs[55:]
    train_file = table_of(tmp_path / f"train{ending}", [*train, *train[:9]])
    test_file = table_of(tmp_path / f"test{ending}", [*test, *test[:3]])
    options = replace(SHARES, train_file=train_file, test_file=test_file)
    dataset = prepare(train_file, tmp_path / "data", options)
    parts = assert_parts(dataset, pairs)
    assert parts["test"] == set(test)
    assert parts["train"] | parts["valid"] == set(pairs[:55])
    assert len(parts["valid"]) == 11
    notes = dataset.meta["notes"]
    assert notes["train_rows_in_test_file_dropped"] == 15
    assert notes["repeated_rows"] == 12
    assert notes["rows_read"] == 70 + 9 + 35 + 3
    assert dataset.meta["split"]["method"] == "given files"


def test_a_test_file_that_holds_all_of_the_train_file_leaves_nothing(tmp_path):
    pairs = random_pairs(12, 10, 40)
    train = table_of(tmp_path / "train.csv", pairs[:20])
    test = table_of(tmp_path / "test.csv", pairs)
    options = replace(SHARES, train_file=train, test_file=test)
    with pytest.raises(DataError, match="leaves no rows in train and valid"):
        prepare(train, tmp_path / "data", options)


def test_a_file_of_ratings_beside_one_of_interactions_is_refused(tmp_path):
    train = table_of(tmp_path / "train.csv", random_pairs(12, 10, 40))
    rated = [(user, item, 3) for user, item in random_pairs(12, 10, 20, seed=1)]
    test = table_of(tmp_path / "test.csv", rated, ("user_id", "item_id", "rating"))
    options = replace(SHARES, train_file=train, test_file=test)
    with pytest.raises(
        DataError, match=r"test\.csv: has a column rating, and .*train\.csv has non"
    ):
        prepare(train, tmp_path / "data", options)
    assert not (tmp_path / "data").exists()


# --- ratings that become interactions ------------------------------------------------------------


def rated_rows(users=12, items=10, seed=0):
    generator = np.random.default_rng(seed)
    rows = [(user, item) for user in range(users) for item in range(items)]
    return [
        (*rows[place], int(generator.integers(1, 6))) for place in generator.permutation(len(rows))
    ]


@pytest.mark.parametrize("format", ["table", "movielens", "anime"])
def test_ratings_of_a_level_become_interactions(tmp_path, format):
    rows = rated_rows()
    if format == "table":
        source = table_of(tmp_path / "r.parquet", rows, ("user_id", "item_id", "rating"))
    elif format == "movielens":
        source = tmp_path / "ml"
        write(source / "u.data", "".join(f"{u}\t{i}\t{r}\t5\n" for u, i, r in rows))
    else:
        source = tmp_path / "anime"
        table_of(source / "rating_complete.csv", rows, ("user_id", "anime_id", "rating"))
    dataset = prepare(source, tmp_path / "data", replace(SHARES, interactions_from=4))
    liked = [(user, item) for user, item, rating in rows if rating >= 4]
    assert_parts(dataset, liked)
    assert not dataset.has_ratings
    assert dataset.interactions_from == 4.0
    notes = dataset.meta["notes"]
    assert notes["rows_read"] == len(rows)
    assert notes["rows_below_level_dropped"] == len(rows) - len(liked)
    assert notes["unrated_rows_skipped"] == 0


def test_a_repeated_pair_is_an_interaction_where_one_of_its_ratings_is(tmp_path):
    rows = [*rated_rows(), (50, 60, 5), (50, 60, 1), (50, 61, 5), (50, 61, 4)]
    source = table_of(tmp_path / "r.csv", rows, ("user_id", "item_id", "rating"))
    dataset = prepare(source, tmp_path / "data", replace(SHARES, interactions_from=4))
    assert_parts(dataset, [row[:2] for row in rows if row[2] >= 4])
    assert dataset.meta["notes"]["repeated_rows"] == 1


def test_a_level_with_given_files(tmp_path):
    rows = rated_rows()
    columns = ("user_id", "item_id", "rating")
    train, test = (
        table_of(tmp_path / name, part, columns)
        for name, part in (("train.csv", rows[:90]), ("test.csv", rows[80:]))
    )
    options = replace(SHARES, train_file=train, test_file=test, interactions_from=3)
    dataset = prepare(train, tmp_path / "data", options)
    parts = assert_parts(dataset, [row[:2] for row in rows if row[2] >= 3])
    assert parts["test"] == {row[:2] for row in rows[80:] if row[2] >= 3}


def test_the_level_is_part_of_what_a_data_set_is(tmp_path):
    source = table_of(tmp_path / "r.csv", rated_rows(), ("user_id", "item_id", "rating"))
    prints = {
        prepare(
            source, tmp_path / f"d{level}", replace(SHARES, interactions_from=level)
        ).fingerprint
        for level in (None, 1, 1.5, 2)  # from 1.5 and from 2 the same rows stay
    }
    assert len(prints) == 4


@pytest.mark.parametrize("level", [float("nan"), float("inf")])
def test_a_level_that_is_no_number_is_refused(tmp_path, level):
    source = table_of(tmp_path / "r.csv", rated_rows(), ("user_id", "item_id", "rating"))
    with pytest.raises(UsageError, match="--interactions-from .*: give a rating"):
        prepare(source, tmp_path / "data", replace(SHARES, interactions_from=level))


def test_drawing_users_and_complete_items_work_on_interactions(tmp_path):
    rows = rated_rows()
    source = tmp_path / "anime"
    table_of(source / "rating_complete.csv", rows, ("user_id", "anime_id", "rating"))
    write(
        source / "anime.csv",
        "MAL_ID,Name,Genres\n" + "".join(f"{item},T,Drama\n" for item in range(7)),
    )
    options = replace(SHARES, interactions_from=4, complete_only=True, users=5)
    dataset = prepare(source, tmp_path / "data", options)
    liked = {row[:2] for row in rows if row[2] >= 4 and row[1] < 7}
    kept = set(dataset.users.ids.to_pylist())
    assert len(kept) == 5
    assert_parts(dataset, {pair for pair in liked if pair[0] in kept})


def test_interactions_have_no_planted_expectation(tmp_path):
    """What the truth expects is a rating."""
    synthesize(tmp_path / "source", users=60, items=30, ratings=900, seed=0)
    dataset = prepare(tmp_path / "source", tmp_path / "rated", NO_TEXT)
    assert dataset.held_out("test").expected is not None
    options = replace(NO_TEXT, interactions_from=7)
    dataset = prepare(tmp_path / "source", tmp_path / "liked", options)
    assert dataset.held_out("test").expected is None


def test_a_data_set_of_the_version_before_is_refused(tmp_path):
    file = table_of(tmp_path / "clicks.csv", random_pairs(9, 11, 70))
    prepare(file, tmp_path / "data", NO_TEXT)
    path = tmp_path / "data" / DATASET_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 2}))
    with pytest.raises(DataError, match="schema version 2; this program .* 3; prepare it again"):
        RatingDataset.open(tmp_path / "data")
    assert SCHEMA_VERSION == 3


# --- users that training never saw ---------------------------------------------------------------


@pytest.fixture(scope="module")
def clicks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clicks")
    file = table_of(folder / "clicks.csv", random_pairs(9, 11, 70))
    return SimpleNamespace(dataset=prepare(file, folder / "data", NO_TEXT))


def test_a_new_user_is_a_list_of_items(clicks, tmp_path):
    file = write(tmp_path / "mine.csv", "item_id\n9\n7\n9\n9999\n")
    new = read_user_to_add(clicks, file)
    items = clicks.dataset.items.ids.to_pylist()
    assert [items[item] for item in new.ratings.neighbours.tolist()] == [7, 9]
    assert new.ratings.codes.tolist() == [1, 1]
    biases = clicks.dataset.biases.of_new_users(new.ratings, clicks.dataset.scale)
    assert (biases.users.tolist(), biases.user_degrees.tolist()) == ([0.0], [2.0])
    inputs = biases.user_inputs(torch.tensor([0]))
    assert inputs.tolist() == [[0.0, pytest.approx(np.log(3)), 0.0]]


def test_new_users_are_lists_of_items(clicks, tmp_path):
    table = pa.table({"user_id": [900, 900, 800], "item_id": [8, 7, 10]})
    pq.write_table(table, tmp_path / "new.parquet")
    new = read_users_to_add(clicks, tmp_path / "new.parquet").new
    assert new.ids.to_pylist() == [800, 900]
    items = clicks.dataset.items.ids.to_pylist()
    assert [items[item] for item in new.rated.items.tolist()] == [10, 7, 8]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("item_id\n9999\n", "holds no item of"),
        ("item_id\n", "holds no interaction"),
        ("item\n9\n", "no column item_id"),
    ],
)
def test_bad_items_of_a_new_user_are_refused(clicks, tmp_path, content, message):
    file = write(tmp_path / "mine.csv", content)
    with pytest.raises(DataError, match=message) as raised:
        read_user_to_add(clicks, file)
    assert str(raised.value).startswith(f"{file}: ")


def test_known_users_are_refused_among_new_ones(clicks, tmp_path):
    file = write(tmp_path / "new.csv", "user_id,item_id\n900,8\n101,8\n")
    with pytest.raises(DataError, match="user_id 101 known to the data set"):
        read_users_to_add(clicks, file)


def test_new_users_of_a_data_set_made_of_ratings_are_held_to_its_level(tmp_path):
    source = table_of(tmp_path / "r.csv", rated_rows(), ("user_id", "item_id", "rating"))
    dataset = prepare(source, tmp_path / "data", replace(SHARES, interactions_from=4))
    file = write(tmp_path / "mine.csv", "item_id,rating\n3,4\n5,3\n7,5\n")
    new = read_user_to_add(SimpleNamespace(dataset=dataset), file)
    items = dataset.items.ids.to_pylist()
    assert [items[item] for item in new.ratings.neighbours.tolist()] == [3, 7]
