"""Ingest of interactions: tables without ratings, and ratings that become interactions."""

import gzip

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dglrec import schema
from dglrec.errors import DataError, UsageError
from dglrec.ids import IdMap
from dglrec.ingest import (
    RatingColumns,
    RatingReader,
    drop_duplicates,
    open_source,
    read_new_interactions,
    read_new_ratings,
    repeats,
    stream,
    typed,
)
from dglrec.schema import RatingScale

PAIRS = "user_id,item_id\n"
TABLE = "user_id,item_id,rating\n"


@pytest.fixture
def spool(tmp_path):
    folder = tmp_path / "spool"
    folder.mkdir()
    return folder


@pytest.fixture
def small_stretches(monkeypatch):
    """Few rows a stretch, so that small files have many."""
    monkeypatch.setattr(stream, "_BLOCK_BYTES", 256)
    monkeypatch.setattr(typed, "_PARQUET_ROWS", 7)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(path, spool, *, files=(None,), level=None, scale=None):
    """The reader after reading, and (user, item[, timestamp]) of each file under external ids."""
    reader = RatingReader(open_source(path), spool, scale, level)
    for file in files:
        reader.read(file)
    parts, users, items, found_scale, counts = reader.finish()
    assert found_scale == schema.INTERACTION_SCALE
    assert reader.feedback == schema.INTERACTIONS
    rows = []
    for part in parts:
        assert part.ratings.dtype == np.float32
        assert part.ratings.tolist() == [1.0] * len(part)
        columns = [users.decode(part.users).to_pylist(), items.decode(part.items).to_pylist()]
        if part.timestamps is not None:
            columns.append(part.timestamps.tolist())
        rows.append(list(zip(*columns, strict=True)))
    return rows, counts


# --- tables without ratings ----------------------------------------------------------------------

TEXTS = "user_id,item_id\nzoe,b 1\nal,a\nzoe,a\n"


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.csv", PAIRS + "9,5\n3,7\n9,7\n", [(9, 5), (3, 7), (9, 7)]),
        ("a.csv.gz", gzip.compress((PAIRS + "9,5\n3,7\n").encode(), mtime=0), [(9, 5), (3, 7)]),
        ("a.tsv", "item_id\tuser_id\n5\t9\n7\t3\n", [(9, 5), (3, 7)]),
        ("a.csv", "user_id;item_id;shop\n9;5;x\n3;7;y\n", [(9, 5), (3, 7)]),
        ("a.csv", TEXTS, [("zoe", "b 1"), ("al", "a"), ("zoe", "a")]),
        ("a.csv", PAIRS + "007,5\n07,5\n", [("007", 5), ("07", 5)]),
        ("a.csv", "user_id,item_id,timestamp\n9,5,70\n3,7,60\n", [(9, 5, 70), (3, 7, 60)]),
        (
            "a.csv",
            "user_id,item_id,timestamp\n9,5,1970-01-01 00:00:01\n",
            [(9, 5, 1_000_000)],
        ),
    ],
)
def test_text_tables(tmp_path, spool, name, content, expected):
    rows, counts = read(write(tmp_path / name, content), spool)
    assert rows == [expected]
    assert (counts.rows, counts.unrated, counts.below_level) == (len(expected), 0, 0)


@pytest.mark.parametrize(
    ("users", "items", "kind"),
    [
        ([9, 3, 9], [5, 7, 7], pa.int32()),
        (["zoe", "al", "zoe"], ["x", "y", "y"], pa.string()),
        (["zoe", "al", "zoe"], ["x", "y", "y"], pa.dictionary(pa.int8(), pa.string())),
    ],
)
def test_parquet_tables(tmp_path, spool, users, items, kind):
    table = pa.table({"user_id": pa.array(users, kind), "item_id": pa.array(items, kind)})
    pq.write_table(table, tmp_path / "a.parquet")
    rows, _ = read(tmp_path / "a.parquet", spool)
    assert rows == [list(zip(users, items, strict=True))]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("rating_complete.csv", "user_id,anime_id\n9,5\n3,7\n"),
        ("animelist.csv", "user_id,anime_id,watching_status\n9,5,1\n3,7,2\n"),
        ("ratings.csv", "userId,movieId,timestamp\n9,5,70\n3,7,60\n"),
    ],
)
def test_folders_without_ratings(tmp_path, spool, file, content):
    write(tmp_path / "folder" / file, content)
    rows, _ = read(tmp_path / "folder", spool)
    assert [row[:2] for row in rows[0]] == [(9, 5), (3, 7)]


def test_what_is_not_read_is_said(tmp_path, spool, capsys):
    """Or else a column of ratings that has another name would be lost without a word."""
    file = write(tmp_path / "a.csv", "user_id,stars_given,item_id,shop\n9,5,5,x\n3,4,7,y\n")
    read(file, spool)
    assert (
        f"{file}: no column rating, so each row is an interaction; not read: stars_given, shop\n"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_many_stretches_give_what_pandas_gives(tmp_path, spool, small_stretches, ending):
    generator = np.random.default_rng(0)
    columns = {"user_id": generator.integers(0, 40, 300), "item_id": generator.integers(0, 9, 300)}
    frame = pd.DataFrame(columns)
    file = tmp_path / f"a{ending}"
    if ending == ".csv":
        frame.to_csv(file, index=False)
    else:
        frame.to_parquet(file)
    rows, counts = read(file, spool)
    assert rows == [list(frame.itertuples(index=False, name=None))]
    assert counts.rows == 300


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (PAIRS, "holds a header and no rows"),
        (PAIRS + "1,2\n1,3\n,3\n", "row 4: user_id is missing"),
        (PAIRS + "a,2\n,3\n", "row 3: user_id is empty"),
        (PAIRS + "1,2\n1,-3\n", r"row 3: item_id is negative \(-3\)"),
        (PAIRS + "1,2\n1\n", "row 3: 1 fields where 2 were expected"),
        (PAIRS + "1.5,2\n", "column user_id holds decimal numbers"),
        ("user_id,item_id,timestamp\n1,2,3\n1,3,\n", "row 3: timestamp is missing"),
        ("user_id,item_id,timestamp\n1,2,noon\n", "row 2: timestamp .noon. is no time"),
        ("user_id,user_id,item_id\n1,2,3\n", "column user_id is there 2 times"),
        ("user,item_id\n1,2\n", "no column user_id; found user, item_id"),
        ("user_id,item_id,Rating\n1,2,3\n", "no column rating; .* rename 'Rating' to rating"),
        ("user_id,item_id,stars\n1,2,3\n", "no column rating; .* rename 'stars' to rating"),
    ],
)
def test_bad_tables_are_refused(tmp_path, spool, content, message):
    file = write(tmp_path / "a.csv", content)
    with pytest.raises(DataError, match=message) as error:
        read(file, spool)
    assert str(error.value).startswith(f"{file}: ")


def test_a_scale_is_refused(tmp_path, spool):
    file = write(tmp_path / "a.csv", PAIRS + "1,2\n")
    with pytest.raises(
        UsageError, match=r"--scale: .*a\.csv has no column rating, .* leave the op"
    ):
        read(file, spool, scale=RatingScale(1, 5))


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (PAIRS + "1,2\n", TABLE + "1,2,3\n", r"b\.csv: has a column rating, and .*a\.csv has none"),
        (TABLE + "1,2,3\n", PAIRS + "1,2\n", r"b\.csv: has no column rating, and .*a\.csv has one"),
    ],
)
def test_files_of_both_kinds_are_refused(tmp_path, spool, first, second, message):
    files = [write(tmp_path / "a.csv", first), write(tmp_path / "b.csv", second)]
    with pytest.raises(DataError, match=message + "; give two files"):
        read(files[0], spool, files=files)


def test_what_the_rows_are_is_known_after_reading(tmp_path, spool):
    file = write(tmp_path / "a.csv", TABLE + "1,2,3\n1,3,4\n")
    reader = RatingReader(open_source(file), spool)
    with pytest.raises(ValueError, match="no file was read"):
        _ = reader.feedback
    reader.read()
    assert reader.feedback == schema.RATINGS


# --- ratings that become interactions ------------------------------------------------------------


def test_ratings_at_or_above_the_level_are_interactions(tmp_path, spool):
    """A user and an item without any are gone, too."""
    file = write(tmp_path / "a.csv", TABLE + "9,5,4\n3,7,3.5\n9,7,5\n1,5,0.5\n9,6,4.5\n")
    rows, counts = read(file, spool, level=4.0)
    assert rows == [[(9, 5), (9, 7), (9, 6)]]
    assert (counts.rows, counts.unrated, counts.below_level) == (5, 0, 2)


@pytest.mark.parametrize("level", [0.1, 2.3, 3.7, 4.1])
def test_a_rating_of_the_level_is_an_interaction_in_text_and_in_parquet(tmp_path, spool, level):
    """Though in float32 it is a little less or more than in float64."""
    below = round(level - 0.1, 1)
    text = write(tmp_path / "a.csv", TABLE + f"1,2,{level}\n1,3,{below}\n")
    for kind in (pa.float64(), pa.float32()):
        ratings = pa.array([level, below], kind)
        table = pa.table({"user_id": [1, 1], "item_id": [2, 3], "rating": ratings})
        pq.write_table(table, tmp_path / f"{kind}.parquet")
    for file in (text, tmp_path / "double.parquet", tmp_path / "float.parquet"):
        assert read(file, spool, level=level)[0] == [[(1, 2)]]


def test_unrated_rows_and_rows_below_are_counted_apart(tmp_path, spool):
    content = "user_id,anime_id,rating\n1,5,0\n1,6,7\n1,7,8\n2,5,10\n2,6,0\n2,7,6\n"
    write(tmp_path / "anime" / "animelist.csv", content)
    rows, counts = read(tmp_path / "anime", spool, level=8)
    assert rows == [[(1, 7), (2, 5)]]
    assert (counts.rows, counts.unrated, counts.below_level) == (6, 2, 2)


def test_movielens_ratings_become_interactions_with_timestamps(tmp_path, spool):
    write(tmp_path / "ml" / "u.data", "1\t5\t3\t70\n1\t6\t4\t80\n2\t5\t5\t90\n")
    assert read(tmp_path / "ml", spool, level=4)[0] == [[(1, 6, 80), (2, 5, 90)]]


def test_two_files_are_held_to_one_level(tmp_path, spool, small_stretches):
    rows = [(user, item, (3 * user + item) % 5 + 1) for user in range(30) for item in range(4)]
    files = [tmp_path / "train.csv", tmp_path / "test.csv"]
    for file, part in zip(files, (rows[:80], rows[80:]), strict=True):
        write(file, TABLE + "".join(f"{u},{i},{r}\n" for u, i, r in part))
    found, counts = read(files[0], spool, files=files, level=3)
    assert found == [[(u, i) for u, i, r in part if r >= 3] for part in (rows[:80], rows[80:])]
    assert counts.below_level == sum(r < 3 for _, _, r in rows)


def test_a_level_that_leaves_nothing_names_the_highest_rating(tmp_path, spool):
    file = write(tmp_path / "a.csv", TABLE + "1,2,3\n1,3,4.5\n2,3,1\n")
    with pytest.raises(DataError, match=r"a\.csv: no rating of 5 or more; the highest is 4\.5: "):
        read(file, spool, level=5)
    empty = write(tmp_path / "b.csv", TABLE)
    with pytest.raises(DataError, match="holds a header and no rows"):
        read(empty, spool, level=5)
    write(tmp_path / "s" / "animelist.csv", "user_id,anime_id,rating\n1,5,0\n")
    with pytest.raises(DataError, match="none of its 1 rows is a rating"):
        read(tmp_path / "s", spool, level=5)


def test_a_level_of_a_source_without_ratings_is_refused(tmp_path, spool):
    file = write(tmp_path / "a.csv", PAIRS + "1,2\n")
    with pytest.raises(
        UsageError, match=r"--interactions-from 4: .*a\.csv has no column rating, .* leave the opti"
    ):
        read(file, spool, level=4)


def test_ratings_that_are_no_ratings_stay_refused_with_a_level(tmp_path, spool):
    file = write(tmp_path / "a.csv", TABLE + "1,2,3\n1,3,nan\n")
    with pytest.raises(DataError, match="row 3: rating is not a finite number"):
        read(file, spool, level=3)
    write(tmp_path / "s" / "rating_complete.csv", "user_id,anime_id,rating\n1,5,8\n1,6,11\n")
    with pytest.raises(DataError, match="row 3: rating is off the scale of 1 to 10"):
        read(tmp_path / "s", spool, level=3)


# --- repeated pairs ------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4), st.integers(0, 3)), max_size=60),
    st.booleans(),
    st.integers(1, 60),
)
def test_the_latest_of_each_pair_stays(rows, grouped, at_once):
    """Of equal timestamps the row further down."""
    if grouped:
        rows = sorted(rows, key=lambda row: row[0])
    users, items, times = (np.array([row[place] for row in rows], dtype=int) for place in range(3))
    columns = RatingColumns(
        users.astype(np.int32), items.astype(np.int32), np.ones(len(rows), np.float32), times
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(repeats, "_KEYS_AT_ONCE", at_once)
        keep, dropped = drop_duplicates(columns, 5, latest=True)
    latest = {}
    for place, (user, item, time) in enumerate(rows):
        if (user, item) not in latest or time >= rows[latest[user, item]][2]:
            latest[user, item] = place
    assert keep.tolist() == sorted(latest.values())
    assert dropped == len(rows) - len(latest)


# --- interactions of users that training never saw -----------------------------------------------

KNOWN = IdMap(pa.array([5, 8, 20, 21]))


def read_new(file, user_type=pa.int64(), level=None):  # noqa: B008 - types are constants
    """(user, item) under external ids, the users, and how many rows were left out."""
    new = read_new_interactions(file, KNOWN, user_type, level)
    assert (new.users.dtype, new.items.dtype, new.ratings.dtype) == (np.int32, np.int32, np.float32)
    assert new.ratings.tolist() == [1.0] * len(new.items)
    ids = new.user_ids.to_pylist()
    items = KNOWN.decode(new.items).to_pylist()
    pairs = zip((ids[user] for user in new.users), items, strict=True)
    return sorted(pairs), ids, new.unknown


@pytest.mark.parametrize("header", ["item_id", "movieId", "anime_id", "item_id,shop"])
def test_one_new_users_items(tmp_path, header):
    """Repeated ones count once, and unknown ones are counted."""
    end = ",x" if "shop" in header else ""
    rows = "".join(f"{item}{end}\n" for item in (8, 5, 99, 8, 20))
    file = write(tmp_path / "mine.csv", f"{header}\n{rows}")
    pairs, ids, unknown = read_new(file, user_type=None)
    assert [item for _, item in pairs] == [5, 8, 20]
    assert (len(ids), unknown) == (1, 1)


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_several_new_users(tmp_path, small_stretches, ending):
    generator = np.random.default_rng(0)
    columns = {"user_id": generator.integers(50, 90, 300), "item_id": [5, 8, 20, 99, 21] * 60}
    frame = pd.DataFrame(columns)
    file = tmp_path / f"new{ending}"
    if ending == ".csv":
        frame.to_csv(file, index=False)
    else:
        frame.to_parquet(file)
    pairs, ids, unknown = read_new(file)
    known = frame[frame["item_id"] != 99]
    assert pairs == sorted(set(known.itertuples(index=False, name=None)))
    assert ids == sorted(set(columns["user_id"].tolist()))
    assert unknown == 60


def test_a_column_of_ratings_is_not_read_and_that_is_said(tmp_path, capsys):
    file = write(tmp_path / "mine.csv", "item_id,rating\n8,1\n5,good\n")
    assert [item for _, item in read_new(file, user_type=None)[0]] == [5, 8]
    assert f"{file}: column rating is not read" in capsys.readouterr().err


def test_new_ratings_are_held_to_the_level_of_the_data_set(tmp_path, capsys):
    file = write(tmp_path / "new.csv", TABLE + "1,5,4\n1,8,3.5\n2,8,5\n3,20,1\n2,99,4\n")
    assert read_new(file, level=4.0) == ([(1, 5), (2, 8)], [1, 2], 1)
    assert f"{file}: 2 ratings below 4 are no interactions" in capsys.readouterr().err
    without = write(tmp_path / "items.csv", "user_id,item_id\n1,5\n1,8\n")
    assert read_new(without, level=4.0) == ([(1, 5), (1, 8)], [1], 0)
    assert capsys.readouterr().err == ""
    low = write(tmp_path / "low.csv", TABLE + "1,5,3\n")
    with pytest.raises(DataError, match=r"low\.csv: holds no rating of 4 or more"):
        read_new(low, level=4.0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("user_id,item_id\n", "holds no interaction"),
        ("", "is empty"),
        ("item_id\n5\n", "no column user_id; found item_id"),
        ("user_id\n5\n", "no column item_id; found user_id"),
        ("user_id,item_id\n1,5\n1,x\n", "row 3: item_id"),
        ("user_id,item_id\n1,5\n-1,8\n", "row 3: user_id is negative"),
        ("user_id,item_id\n1,5\n1\n", "row 3: 1 fields where 2"),
    ],
)
def test_bad_new_interactions_are_refused(tmp_path, content, message):
    file = write(tmp_path / "new.csv", content)
    with pytest.raises(DataError, match=message) as error:
        read_new(file)
    assert str(error.value).startswith(f"{file}: ")


def test_items_of_several_users_are_refused_where_one_is_meant(tmp_path):
    file = write(tmp_path / "mine.csv", "user_id,item_id\n1,5\n2,5\n")
    with pytest.raises(DataError, match="holds ratings of several users; --ratings takes those of"):
        read_new(file, user_type=None)


def test_a_model_of_ratings_needs_ratings(tmp_path):
    file = write(tmp_path / "mine.csv", "item_id\n5\n")
    with pytest.raises(
        DataError, match=r"mine\.csv: no column rating; found item_id; the model was trained on ra"
    ):
        read_new_ratings(file, KNOWN, RatingScale(1, 10), None)
