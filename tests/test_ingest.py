"""Ingest: every layout read right, every bad file refused with a message that helps."""

import contextlib
import gzip
import random
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dglrec.errors import DataError, UsageError
from dglrec.ids import IdMap
from dglrec.ingest import (
    RatingColumns,
    RatingReader,
    drop_duplicates,
    open_source,
    ratings,
    read_attributes,
    read_items,
    read_new_items,
    read_new_ratings,
    read_users,
    repeats,
    stream,
    stream_columns,
    typed,
)
from dglrec.schema import RatingScale

REAL_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
ANIME_HEADER = "user_id,anime_id,rating\n"
TABLE_HEADER = "user_id,item_id,rating\n"


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
    monkeypatch.setattr(ratings, "_CHUNK_ROWS", 5)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def anime(tmp_path, ratings_text=ANIME_HEADER + "1,5,7\n", name="rating_complete.csv", **tables):
    folder = tmp_path / "anime"
    write(folder / name, ratings_text)
    for stem, content in tables.items():
        write(folder / f"{stem}.csv", content)
    return folder


def rows_of(columns, users, items):
    """The ratings under their external ids."""
    found = [
        users.decode(columns.users).to_pylist(),
        items.decode(columns.items).to_pylist(),
        columns.ratings.tolist(),
    ]
    if columns.timestamps is not None:
        found.append(columns.timestamps.tolist())
    return list(zip(*found, strict=True))


def read_rows(path, spool, format="auto", scale=None):
    reader = RatingReader(open_source(path, format), spool, scale)
    assert reader.read() == 0
    (columns,), users, items, scale, counts = reader.finish()
    return rows_of(columns, users, items), scale, counts


# --- ratings -------------------------------------------------------------------------------------


def test_anime_ratings(tmp_path, spool):
    source = open_source(anime(tmp_path, ANIME_HEADER + "9,50,7\n2,8,10\n9,8,1\n"))
    assert (source.format, source.ratings_file.name) == ("anime", "rating_complete.csv")
    reader = RatingReader(source, spool)
    reader.read()
    (columns,), users, items, scale, counts = reader.finish()
    assert (users.ids.to_pylist(), items.ids.to_pylist()) == ([2, 9], [8, 50])
    assert columns.users.tolist() == [1, 0, 1]
    assert columns.items.tolist() == [1, 0, 0]
    assert (columns.users.dtype, columns.items.dtype) == (np.int32, np.int32)
    assert (columns.ratings.dtype, columns.ratings.tolist()) == (np.float32, [7, 10, 1])
    assert columns.timestamps is None
    assert isinstance(columns.users, np.memmap)
    assert not columns.users.flags.writeable
    assert scale == RatingScale(1, 10)
    assert (len(columns), counts.rows, counts.unrated) == (3, 3, 0)


def test_animelist_zeros_are_no_ratings_and_row_numbers_stay(tmp_path, spool):
    header = "user_id,anime_id,rating,watching_status,watched_episodes\n"
    text = header + "0,67,9,1,1\n0,68,0,6,0\n7,67,0,2,3\n1,68,4,2,3\n"
    rows, _, counts = read_rows(anime(tmp_path, text, "animelist.csv"), spool)
    assert rows == [(0, 67, 9), (1, 68, 4)]
    assert (counts.rows, counts.unrated) == (4, 2)

    write(tmp_path / "anime" / "animelist.csv", text + "1,69,11,1,1\n")
    with pytest.raises(DataError, match=r"animelist\.csv: row 6: rating is off the scale"):
        read_rows(tmp_path / "anime", spool)


def test_animelist_without_one_rating(tmp_path, spool):
    folder = anime(tmp_path, ANIME_HEADER + "1,2,0\n1,3,0\n", "animelist.csv")
    with pytest.raises(DataError, match="none of its 2 rows is a rating"):
        read_rows(folder, spool)


def test_ratings_only_are_preferred_and_zero_is_off_their_scale(tmp_path, spool):
    anime(tmp_path, ANIME_HEADER + "1,5,3\n", "animelist.csv")
    folder = anime(tmp_path, ANIME_HEADER + "1,5,0\n")
    assert open_source(folder).ratings_file.name == "rating_complete.csv"
    with pytest.raises(DataError, match=r"row 2: rating is off the scale of 1 to 10 .*\(0\.0\)"):
        read_rows(folder, spool)


@pytest.mark.parametrize("ending", [".csv.gz", ".parquet"])
@pytest.mark.parametrize("stem", ["rating_complete", "animelist"])
def test_anime_ratings_compressed_or_parquet(tmp_path, spool, stem, ending):
    folder = tmp_path / "anime"
    if ending == ".parquet":
        folder.mkdir()
        table = pa.table({"user_id": [3, 1, 3], "anime_id": [5, 5, 6], "rating": [8, 0, 9]})
        table = table if stem == "animelist" else table.take([0, 2])
        pq.write_table(table, folder / f"{stem}{ending}")
    else:
        zero = "1,5,0\n" if stem == "animelist" else ""
        text = ANIME_HEADER + "3,5,8\n" + zero + "3,6,9\n"
        write(folder / f"{stem}{ending}", gzip.compress(text.encode()))
    rows, _, counts = read_rows(folder, spool)
    assert rows == [(3, 5, 8), (3, 6, 9)]
    assert counts.unrated == (stem == "animelist")


@pytest.mark.parametrize(
    ("files", "scale"),
    [
        ({"u.data": "7\t3\t4\t100\n2\t9\t5\t90\n"}, RatingScale(1, 5)),
        ({"ratings.dat": "7::3::4::100\n2::9::5::90\n", "users.dat": ""}, RatingScale(1, 5)),
        ({"ratings.dat": "7::3::4::100\n2::9::5::90\n"}, RatingScale(0.5, 5, 0.5)),
        (
            {"ratings.csv": "userId,movieId,rating,timestamp\r\n7,3,4.0,100\r\n2,9,5.0,90\r\n"},
            RatingScale(0.5, 5, 0.5),
        ),
    ],
    ids=["100K", "1M", "10M", "20M"],
)
def test_movielens_ratings(tmp_path, spool, files, scale):
    for name, content in files.items():
        write(tmp_path / "ml" / name, content)
    rows, found, _ = read_rows(tmp_path / "ml", spool)
    assert rows == [(7, 3, 4, 100), (2, 9, 5, 90)]
    assert found == scale
    assert open_source(tmp_path / "ml").format == "movielens"


def test_given_files_share_one_id_space(tmp_path, spool):
    write(tmp_path / "ml" / "u.data", "1\t1\t1\t1\n")
    write(tmp_path / "ml" / "u1.base", "5\t1\t3\t10\n4\t9\t4\t20\n")
    write(tmp_path / "u1.test", "3\t9\t5\t30\n4\t2\t1\t40\n")
    reader = RatingReader(open_source(tmp_path / "ml"), spool)
    assert reader.read(Path("u1.base")) == 0  # found in the source's folder
    assert reader.read(tmp_path / "u1.test") == 1
    (train, test), users, items, _, counts = reader.finish()
    assert users.ids.to_pylist() == [3, 4, 5]
    assert items.ids.to_pylist() == [1, 2, 9]
    assert rows_of(train, users, items) == [(5, 1, 3, 10), (4, 9, 4, 20)]
    assert rows_of(test, users, items) == [(3, 9, 5, 30), (4, 2, 1, 40)]
    assert [file.rows for file in counts.files] == [2, 2]
    with pytest.raises(DataError, match=r"u9\.base: no such file"):
        RatingReader(open_source(tmp_path / "ml"), spool).read(Path("u9.base"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "rating,extra,item_id,user_id\n3.5,x y,20,1\n1,,3,2\n"),
        ("a.csv", "\ufeffuser_id,item_id,rating\n1,20,3.5\n2,3,1\n"),
        ("a.csv", '"user_id","item_id","rating"\r\n"1","20","3.5"\r\n"2","3","1"\r\n'),
        ("a.csv", "\nuser_id;item_id;rating\n1;20;3.5\n2;3;1"),
        ("a.tsv", "user_id\titem_id\trating\n1\t20\t3.5\n2\t3\t1\n"),
        ("a.txt", "user_id,item_id,rating\n1,20,3.5\n2,3,1\n"),
    ],
    ids=["any order", "BOM", "quoted", "semicolons", "tabs", "txt"],
)
@pytest.mark.parametrize("compressed", [False, True])
def test_tables_of_text(tmp_path, spool, name, content, compressed):
    data = content.encode()
    file = write(
        tmp_path / (name + ".gz" * compressed), gzip.compress(data) if compressed else data
    )
    rows, scale, _ = read_rows(file, spool)
    assert rows == [(1, 20, 3.5), (2, 3, 1)]
    assert scale == RatingScale(1, 3.5, 0.5)


def test_an_explicit_scale_wins(tmp_path, spool):
    file = write(tmp_path / "a.csv", TABLE_HEADER + "1,2,3\n1,3,4\n")
    assert read_rows(file, spool, scale=RatingScale(0, 5))[1] == RatingScale(0, 5)
    folder = anime(tmp_path, ANIME_HEADER + "1,5,0\n")
    assert read_rows(folder, spool, scale=RatingScale(0, 10))[0] == [(1, 5, 0)]


@pytest.mark.parametrize(
    ("ids", "kind"),
    [
        (["1", "20", "3"], pa.int64()),
        ([" 1", "2 ", "3"], pa.int64()),
        (["b", "a", "é"], pa.string()),
        (["007", "12", "13"], pa.string()),
        (["a1", "17", "b2"], pa.string()),
        (["1.5.2", "nan", "2020-01-01"], pa.string()),
        (["true", "false", "true"], pa.string()),
    ],
)
def test_ids_of_a_text_table_are_whole_numbers_or_text(tmp_path, spool, ids, kind):
    lines = "".join(f"{value},{place},{place + 1}\n" for place, value in enumerate(ids))
    reader = RatingReader(
        open_source(write(tmp_path / "a.csv", TABLE_HEADER + lines), "table"), spool
    )
    reader.read()
    (columns,), users, _, _, _ = reader.finish()
    assert users.ids.type == kind
    expected = [int(value) for value in ids] if kind == pa.int64() else ids
    assert users.decode(columns.users).to_pylist() == expected


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (["5", "4"], [5, 4]),
        (["5.0", "4.0"], [5, 4]),
        (["1970-01-01 00:00:01", "1970-01-01 00:00:00"], [1_000_000, 0]),
        (["1970-01-02", "1970-01-01"], [86_400_000_000, 0]),
        (["1970-01-01T00:00:01.500Z", "1970-01-01T00:00:00.000Z"], [1_500_000, 0]),
    ],
)
def test_timestamps_of_a_text_table(tmp_path, spool, times, expected):
    lines = "".join(f"1,{place},{place},{time}\n" for place, time in enumerate(times))
    file = write(tmp_path / "a.csv", "user_id,item_id,rating,timestamp\n" + lines)
    rows, _, _ = read_rows(file, spool)
    assert [row[3] for row in rows] == expected


def test_a_parquet_table(tmp_path, spool):
    table = pa.table(
        {
            "extra": [[1], [2], [3]],
            "rating": pa.array([1, 2, 2], pa.int8()),
            "timestamp": pa.array([3, 2, 1], pa.timestamp("ns")),
            "item_id": pa.array(["b", "a", "b"]).dictionary_encode(),
            "user_id": pa.array([7, 7, 5], pa.uint16()),
        }
    )
    table = table.set_column(2, "timestamp", pa.array([3000, 2000, 1000], pa.timestamp("ns")))
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    rows, scale, _ = read_rows(tmp_path / "a.parquet", spool)
    assert rows == [(7, "b", 1, 3), (7, "a", 2, 2), (5, "b", 2, 1)]
    assert scale == RatingScale(1, 2)


@pytest.mark.parametrize("ending", [".csv", ".csv.gz", ".tsv", ".parquet"])
@pytest.mark.parametrize("text_ids", [False, True])
def test_many_stretches_give_what_pandas_gives(tmp_path, spool, small_stretches, ending, text_ids):
    generator = np.random.default_rng(5)
    frame = pd.DataFrame(
        {
            "user_id": generator.integers(0, 40, 300),
            "item_id": generator.integers(0, 10**12, 300),
            "rating": generator.integers(1, 11, 300) / 2,
            "timestamp": generator.integers(0, 10**10, 300),
        }
    )
    if text_ids:
        frame["user_id"] = "u" + frame["user_id"].astype(str)
    file = tmp_path / f"a{ending}"
    if ending == ".parquet":
        frame.to_parquet(file)
    else:
        frame.to_csv(file, index=False, sep="\t" if ending == ".tsv" else ",")
    rows, scale, counts = read_rows(file, spool)
    assert rows == list(frame.itertuples(index=False, name=None))
    assert scale == RatingScale(0.5, 5, 0.5)
    assert counts.rows == 300


def test_reading_needs_no_more_memory_for_a_longer_file(tmp_path, spool, small_stretches):
    # By Arrow's own account: what is live at any time is a few stretches, not the file.
    peaks = []
    for rows in (500, 20_000):
        file = write(tmp_path / "a.csv", TABLE_HEADER + "1,2,3\n1,3,4\n" * rows)
        reader = RatingReader(open_source(file), spool)
        before = pa.total_allocated_bytes()
        live = []
        add = reader._users.add

        def watched(ids, add=add, live=live, before=before):
            live.append(pa.total_allocated_bytes() - before)
            return add(ids)

        reader._users.add = watched
        reader.read()
        peaks.append(max(live))
    assert peaks[1] < 4 * peaks[0] + 100_000 < 40_000 * 16


def test_finish_before_read_is_a_mistake(tmp_path, spool):
    with pytest.raises(ValueError, match="no file was read"):
        RatingReader(open_source(anime(tmp_path)), spool).finish()


# --- what SOURCE may not be ----------------------------------------------------------------------


def test_what_source_may_not_be(tmp_path):
    folder = anime(tmp_path)
    file = write(tmp_path / "a.csv", TABLE_HEADER + "1,2,3\n")
    write(tmp_path / "ml" / "u.data", "1\t2\t3\t4\n")
    write(tmp_path / "empty" / "notes.md", "")
    (tmp_path / "bare").mkdir()
    both = anime(tmp_path / "both")
    write(both / "u.data", "1\t2\t3\t4\n")
    dangling = write(tmp_path / "a.xlsx", "")
    cases = [
        (tmp_path / "nowhere", "auto", "nowhere: no such file or folder"),
        (tmp_path / "nowhere", "anime", "nowhere: no such file or folder"),
        (tmp_path / "empty", "auto", r"no ratings here; found notes\.md, expected rating_compl"),
        (tmp_path / "bare", "auto", "no ratings here; found an empty folder, expected"),
        (tmp_path / "ml", "anime", "neither rating_complete.csv nor animelist.csv"),
        (folder, "movielens", r"none of u\.data, ratings\.dat, ratings\.csv"),
        (folder, "table", "rating_complete.csv: no column item_id; .* to read the whole data set"),
        (tmp_path / "bare", "table", "holds no part of a table; found an empty folder, expected"),
        (file, "anime", "is a file; --format anime reads a folder"),
        (file, "movielens", "is a file; --format movielens reads a folder"),
        (both, "auto", "both layouts; choose with --format anime or movielens"),
        (tmp_path / "ml" / "u.data", "auto", "one file of a MovieLens data set; give its folder"),
        (dangling, "auto", r"not known by its ending; a table ends in \.csv"),
        (
            folder / "rating_complete.csv",
            "auto",
            "no column item_id; found user_id, anime_id, rating; to read the whole .* folder",
        ),
    ]
    for path, format, message in cases:
        with pytest.raises(DataError, match=message) as error:
            open_source(path, format)
        assert error.value.exit_code == 3
    with pytest.raises(UsageError, match="no format 'csv'; choose auto, anime, movielens, table"):
        open_source(file, "csv")
    assert open_source(both, "anime").format == "anime"


# --- bad ratings files ---------------------------------------------------------------------------

GOOD = "1,2,3\n" * 100
MANY = "1,2,3\n" * 3000

BAD_TABLES = {
    "empty": ("", "is empty"),
    "only line ends": ("\n\n\r\n", "holds only empty lines"),
    "only a header": (TABLE_HEADER, "holds a header and no rows"),
    "header cut short": ("user_id,ite", "no column item_id; found user_id, ite"),
    "header alone": ("user_id,item_id", "holds a header and no rows"),
    "missing column": (
        "user,item_id,rating\n1,2,3\n",
        "no column user_id; found user, item_id, ra",
    ),
    "ratings by another name": (
        "user_id,item_id,stars\n1,2,3\n",
        "no column rating; found .*; rename 'stars' to rating, or leave it out to read the rows as",
    ),
    "ratings in capitals": (
        "user_id,item_id, Rating\n1,2,3\n",
        "no column rating; found .*; rename ' Rating' to rating",
    ),
    "no header": (GOOD, "no column user_id, item_id; found 1, 2, 3"),
    "column twice": ("user_id,item_id,rating,rating\n1,2,3,4\n", "column rating is there 2 times"),
    "binary": (bytes(range(256)) * 10, "is no UTF-8 text|holds binary data"),
    "zeros": (b"\0" * 1000, "holds binary data, no text"),
    "binary below the header": (
        TABLE_HEADER.encode() + b"1,2,3\n" + bytes(range(256)),
        "holds binary data",
    ),
    "PNG": (b"\x89PNG\r\n\x1a\n" + b"\x01" * 50, "is no UTF-8 text"),
    "zip": (b"PK\x03\x04" + b"\0" * 50, "is a zip archive; unpack it"),
    "gzip by another name": (gzip.compress(GOOD.encode()), "is gzip data; name it .gz"),
    "parquet by another name": (b"PAR1" + b"\0" * 50, "is a Parquet file; name it .parquet"),
    "prose": ("Not found.\n", "no column user_id, item_id; found Not found"),
    "endless first line": ("x" * (2 << 20), "first line is longer than 1 MiB"),
    "UTF-16": ((TABLE_HEADER + GOOD).encode("utf-16"), "is UTF-16 text; save it as UTF-8"),
    "UTF-16 without a mark": ((TABLE_HEADER + GOOD).encode("utf-16-le"), "holds binary data"),
    "Latin-1 header": ("user_id,item_id,rating,é\n".encode("latin-1"), "is no UTF-8 text"),
    "Latin-1 ids": (
        TABLE_HEADER.encode() + b"Jos\xe9,2,3\nb,2,3\n",
        "row 2: user_id is no UTF-8 text; save the file as UTF-8",
    ),
    "Latin-1 ids far down": (
        TABLE_HEADER.encode() + b"a,2,3\n" * 3000 + b"Jos\xe9,2,3\n",
        "row 3002: user_id is no UTF-8 text",
    ),
    "short row": (TABLE_HEADER + GOOD + "7,8\n" + GOOD, "row 102: 2 fields where 3 were expected"),
    "cut last row": (TABLE_HEADER + MANY + "7,", "row 3002: 2 fields where 3 were expected .'7,'"),
    "long row": (TABLE_HEADER + GOOD + "7,8,9,1\n", "row 102: 4 fields where 3 were expected"),
    "open quote": (TABLE_HEADER + '1,2,3\n"4,5,1\n1,2,3\n', "row 3: 1 fields where 3"),
    "endless row": (TABLE_HEADER + "1,2," + "3" * (3 << 20) + "\n", "a row is longer than 1 MiB"),
    "off no scale": (
        TABLE_HEADER + "1,2,3\n1,3,3\n",
        "every rating is 3; there is nothing to lear",
    ),
    "not numbers": (TABLE_HEADER + GOOD + "1,2,good\n", r"row 102: rating is no number \('good'\)"),
    "decimal comma": ("user_id;item_id;rating\n1;2;3,5\n", r"row 2: rating is no number \('3,5'\)"),
    "NA": (TABLE_HEADER + MANY + "1,2,NA\n", r"row 3002: rating is no number \('NA'\)"),
    "NaN": (TABLE_HEADER + MANY + "1,2,nan\n", r"row 3002: rating is not a finite number \(nan\)"),
    "infinite": (TABLE_HEADER + "1,2,inf\n", r"row 2: rating is not a finite number \(inf\)"),
    "huge": (TABLE_HEADER + "1,2,1e60\n", r"row 2: rating is not a finite number \(inf\)"),
    "no rating": (TABLE_HEADER + MANY + "1,2,\n", "row 3002: rating is missing"),
    "no id": (TABLE_HEADER + MANY + ",2,3\n", "row 3002: user_id is missing"),
    "no text id": (TABLE_HEADER + "a,2,3\n,2,3\nb,2,3\n", "row 3: user_id is empty"),
    "all ids empty": (TABLE_HEADER + ",2,3\n" * 4, "row 2: user_id is empty"),
    "negative id": (TABLE_HEADER + MANY + "1,-2,3\n", r"row 3002: item_id is negative \(-2\)"),
    "overflowing id": (
        TABLE_HEADER + MANY + "9223372036854775808,2,3\n",
        r"row 3002: user_id is out of range; whole numbers must lie below 2\^63",
    ),
    "all ids overflow": (TABLE_HEADER + "99999999999999999999,2,3\n", "row 2: user_id is out of"),
    "decimal ids": (TABLE_HEADER + "1.0,2,3\n2.0,2,3\n", "column user_id holds decimal numbers"),
    "one decimal id": (TABLE_HEADER + MANY + "1.5,2,3\n", r"row 3002: user_id is no whole number"),
    "ids change type": (
        TABLE_HEADER + GOOD + "bob,2,3\n",
        r"row 102: .* no whole number \('bob'\)",
    ),
    "a zero before an id": (
        TABLE_HEADER + MANY + "007,2,3\n",
        r"row 3002: user_id begins with a zero \('007'\) where ids are whole numbers: write it",
    ),
    "a hexadecimal id": (
        TABLE_HEADER + GOOD + "1,0x5,3\n",
        r"row 102: item_id is no whole number \('0x5'\)",
    ),
    "ratings too fine": (
        TABLE_HEADER + "".join(f"1,2,{place / 7}\n" for place in range(9)),
        "finer than steps of 0.01; round them, or say the scale",
    ),
    "no timestamp": (
        "user_id,item_id,rating,timestamp\n1,2,3,4\n1,3,4,\n",
        "row 3: timestamp is missing",
    ),
    "timestamps are text": (
        "user_id,item_id,rating,timestamp\n1,2,3,noon\n",
        "row 2: timestamp 'noon' is no time; write whole seconds, or dates such as",
    ),
    "one timestamp is text": (
        "user_id,item_id,rating,timestamp\n1,2,3,4\n1,3,4,noon\n",
        r"row 3: timestamp is no whole number \('noon'\)",
    ),
    "timestamps change type": (
        "user_id,item_id,rating,timestamp\n" + "1,2,3,4\n" * 2000 + "1,2,3,noon\n",
        "row 2002: timestamp is no whole number",
    ),
    "timestamps with fractions": (
        "user_id,item_id,rating,timestamp\n1,2,3,4.5\n1,3,4,5\n",
        "column timestamp does not fit int64",
    ),
}


@pytest.mark.parametrize("name", BAD_TABLES)
@pytest.mark.parametrize("compressed", [False, True])
def test_a_bad_table_is_refused(tmp_path, spool, monkeypatch, name, compressed):
    # "Far down" is past the first stretch.
    monkeypatch.setattr(stream, "_BLOCK_BYTES", 1 << 20 if name == "endless row" else 4096)
    content, message = BAD_TABLES[name]
    data = content if isinstance(content, bytes) else content.encode()
    if compressed:
        file = write(tmp_path / "bad.csv.gz", gzip.compress(data))
    else:
        file = write(tmp_path / "bad.csv", data)
    with pytest.raises(DataError, match=message) as error:
        read_rows(file, spool)
    assert str(error.value).startswith(f"{file}: ")
    assert error.value.exit_code == 3
    assert len(str(error.value)) < len(str(file)) + 300
    assert "\n" not in str(error.value)


def test_any_cut_through_a_gzip_file_is_refused(tmp_path, spool):
    random.seed(1)
    text = TABLE_HEADER + "".join(f"{random.random()},{i},{i % 5}\n" for i in range(500))
    text = text.replace("0.", "u")
    data = gzip.compress(text.encode())
    for length in (5, 15, 100, len(data) // 2, len(data) - 9, len(data) - 4, len(data) - 1):
        file = write(tmp_path / "a.csv.gz", data[:length])
        with pytest.raises(DataError, match=r"gzip data end too early; fetch the file again|empty"):
            read_rows(file, spool)
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 0xFF
    with pytest.raises(DataError):
        read_rows(write(tmp_path / "a.csv.gz", bytes(flipped)), spool)
    with pytest.raises(DataError, match="is no gzip data, or damaged"):
        read_rows(write(tmp_path / "a.csv.gz", text), spool)


def test_a_folder_named_like_a_file(tmp_path):
    (tmp_path / "a.csv").mkdir()
    with pytest.raises(DataError, match="a.csv: holds no part of a table; found an empty folder"):
        open_source(tmp_path / "a.csv", "table")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"rating": [1.0, 2.0, None]}, "row 3: rating is missing"),
        ({"rating": [1.0, float("nan"), 2.0]}, "row 2: rating is not a finite number"),
        ({"rating": ["1", "2", "3"]}, "column rating holds string; ratings must be numbers"),
        ({"user_id": [1.0, 2.0, 3.0]}, "column user_id holds double; ids must be whole numbers"),
        ({"user_id": [1, 2, -3]}, r"row 3: user_id is negative \(-3\)"),
        ({"user_id": pa.array([1, 2, 2**63], pa.uint64())}, "user_id does not fit int64"),
        ({"user_id": [[1], [2], [3]]}, "column user_id holds list"),
        ({"user_id": [True, False, True]}, "column user_id holds bool; ids must be whole numbers"),
        ({"item_id": [{"a": 1}, {"a": 2}, {"a": 3}]}, "column item_id holds struct"),
        ({"item_id": ["a", None, "b"]}, "row 2: item_id is missing"),
        ({"timestamp": pa.array([1, 2, 3], pa.timestamp("ns"))}, "column is of an unusable type"),
        ({"timestamp": ["x", "y", "z"]}, "row 1: timestamp .x. is no time"),
    ],
)
def test_a_bad_parquet_table_is_refused(tmp_path, spool, columns, message):
    good = {"user_id": [1, 2, 3], "item_id": [1, 2, 3], "rating": [1.0, 2.0, 3.0]}
    pq.write_table(pa.table(good | columns), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=message) as error:
        read_rows(tmp_path / "a.parquet", spool)
    assert str(error.value).startswith(f"{tmp_path / 'a.parquet'}: ")


def test_ids_are_read_alike_in_every_file(tmp_path, spool):
    """A zero before an id, past the head of the first file or in a later one, is no other id."""
    first = write(tmp_path / "a.csv", TABLE_HEADER + "7,1,3\n8,2,4\n")
    later = write(tmp_path / "b.csv", TABLE_HEADER + "8,1,4\n007,1,3\n")
    reader = RatingReader(open_source(first), spool)
    reader.read()
    with pytest.raises(DataError, match=r"b\.csv: row 3: user_id begins with a zero \('007'\)"):
        reader.read(later)
    folder = anime(tmp_path, ANIME_HEADER + "1,5,7\n1,05,7\n")
    with pytest.raises(DataError, match="row 3: anime_id begins with a zero"):
        read_rows(folder, spool)
    known = IdMap(pa.array([1, 7, 8]))
    for kinds in ({"user_id": pa.int64()}, {"item_id": pa.int64(), "user_id": pa.int64()}):
        with pytest.raises(DataError, match="row 3: user_id begins with a zero"):
            list(stream_columns(later, kinds))
    with pytest.raises(DataError, match="row 3: user_id begins with a zero"):
        read_new_ratings(later, known, RatingScale(1, 5), pa.int64())
    pq.write_table(pa.table({"user_id": ["8", "0x7"], "item_id": [1, 7], "rating": [3, 4]}), later)
    parquet = later.rename(tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"row 2: user_id is no whole number \('0x7'\), as the"):
        read_new_ratings(parquet, known, RatingScale(1, 5), pa.int64())


@pytest.mark.parametrize("ids", [[True, False], [{"a": 1}, {"a": 2}], [[1], [2]], [1.5, 2.0]])
def test_what_parquet_has_in_place_of_ids_is_refused(ids, tmp_path, spool):
    file = tmp_path / "t.parquet"
    pq.write_table(pa.table({"item_id": ids, "user_id": ids, "genres": ["A", "B"]}), file)
    with pytest.raises(DataError, match=r"t\.parquet: column user_id holds .*; ids must be whole"):
        list(stream_columns(file, {"user_id": pa.int64()}))
    for read in (
        lambda: read_new_items(file, pa.int64()),
        lambda: read_new_items(file, pa.string()),
        lambda: read_attributes(file, "item_id"),
    ):
        with pytest.raises(DataError, match=r"t\.parquet: (row 1: item_id|column item_id) holds"):
            read()


def test_attributes_of_parquet_that_are_nested_are_refused(tmp_path):
    for value in ({"a": 1}, [[1]], b"x"):
        pq.write_table(pa.table({"item_id": [1], "studio": [value]}), tmp_path / "t.parquet")
        with pytest.raises(DataError, match=r"t\.parquet: column studio holds .*; give numb"):
            read_attributes(tmp_path / "t.parquet", "item_id")


def test_parquet_rows_are_numbered_across_stretches(tmp_path, spool, small_stretches):
    ratings_column = [3.0] * 40
    ratings_column[33] = float("nan")
    table = pa.table({"user_id": range(40), "item_id": range(40), "rating": ratings_column})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match="row 34: rating is not a finite number"):
        read_rows(tmp_path / "a.parquet", spool)


def test_corrupt_parquet_is_refused(tmp_path, spool):
    file = tmp_path / "a.parquet"
    table = pa.table({"user_id": range(5000), "item_id": range(5000), "rating": [1.0, 2.0] * 2500})
    pq.write_table(table, file, compression="gzip")
    data = file.read_bytes()
    for bad in (b"", b"PAR1", GOOD.encode(), data[: len(data) // 2], data[:-3]):
        with pytest.raises(DataError, match=r"a\.parquet: .*([Pp]arquet|not readable)"):
            read_rows(write(file, bad), spool)
    broken = bytearray(data)
    broken[40 : len(data) // 2] = b"\xaa" * (len(data) // 2 - 40)
    with pytest.raises(DataError, match=r"a\.parquet: "):
        read_rows(write(file, bytes(broken)), spool)
    pq.write_table(table.slice(0, 0), file)
    with pytest.raises(DataError, match="no rows"):
        read_rows(file, spool)
    pq.write_table(table.drop_columns(["item_id"]), file)
    with pytest.raises(DataError, match="no column item_id; found user_id, rating"):
        read_rows(file, spool)


def test_text_ids_in_a_layout_of_whole_numbers(tmp_path, spool):
    folder = tmp_path / "anime"
    folder.mkdir()
    table = pa.table({"user_id": ["a"], "anime_id": [5], "rating": ["8"]})
    pq.write_table(table, folder / "animelist.parquet")
    with pytest.raises(DataError, match="column rating holds string"):
        read_rows(folder, spool)
    pq.write_table(table.set_column(2, "rating", [[8]]), folder / "animelist.parquet")
    with pytest.raises(DataError, match="column user_id holds text; expected whole numbers"):
        read_rows(folder, spool)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("u.data", "1\t2\t3\n", r"row 1 has 3 fields; expected the 4 fields"),
        ("u.data", "1,2,3,4\n", "row 1 has 1 fields"),
        ("u.data", "user\titem\trating\ttime\n", "row 1: rating is no number"),
        ("u.data", "1\t2\t3\t4\n1\t2\t6\t4\n", "row 2: rating is off the scale of 1 to 5"),
        ("u.data", "1\t2\t3\t4\n1\t2\t3\n", "row 2: 3 fields where 4 were expected"),
        ("ratings.dat", "1::2::3\n", "row 1 has 3 fields"),
        ("ratings.dat", "1::2::3::4\n1::2::0.7::4\n", "row 2: rating is off the scale of 0.5 to 5"),
        ("ratings.csv", "userId,movieId,rating\n1,2,3\n", "no column timestamp; found userId"),
        ("ratings.csv", TABLE_HEADER + "1,2,3\n", "no column userId, movieId, timestamp; found"),
    ],
)
def test_bad_movielens_ratings(tmp_path, spool, name, content, message):
    write(tmp_path / "ml" / name, content)
    with pytest.raises(DataError, match=message) as error:
        read_rows(tmp_path / "ml", spool)
    assert str(error.value).startswith(f"{tmp_path / 'ml' / name}: ")


def test_a_second_file_is_held_to_the_first_ones_types(tmp_path, spool):
    source = open_source(write(tmp_path / "a.csv", TABLE_HEADER + "1,2,3\n"))
    texts = write(tmp_path / "b.csv", TABLE_HEADER + "x,2,3\n")
    reader = RatingReader(source, spool)
    reader.read()
    with pytest.raises(DataError, match=r"b\.csv: row 2: user_id is no whole number \('x'\)"):
        reader.read(texts)
    table = pa.table({"user_id": ["x"], "item_id": [2], "rating": [3]})
    pq.write_table(table, tmp_path / "c.parquet")
    reader = RatingReader(source, spool)
    reader.read()
    with pytest.raises(DataError, match=r"c\.parquet: user_id is int64 at first and string"):
        reader.read(tmp_path / "c.parquet")


def test_a_full_disk_is_named(tmp_path, spool, monkeypatch):
    from dglrec.errors import DglrecError

    class Full:
        def write(self, data):
            raise OSError(28, "No space left on device")

        def close(self):
            pass

    source = open_source(anime(tmp_path))
    opened = Path.open
    monkeypatch.setattr(
        Path, "open", lambda path, mode="r": Full() if mode == "wb" else opened(path, mode)
    )
    with pytest.raises(DglrecError, match="no space left on the disk") as error:
        RatingReader(source, spool).read()
    assert error.value.exit_code == 1


# --- duplicates ----------------------------------------------------------------------------------


def columns_of(users, items):
    users = np.asarray(users, dtype=np.int32)
    return RatingColumns(users, np.asarray(items, dtype=np.int32), np.ones(len(users), np.float32))


@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 6)), max_size=60),
    st.booleans(),
    st.integers(1, 60),
)
def test_the_last_of_each_pair_stays(pairs, grouped, at_once):
    if grouped:
        pairs = sorted(pairs, key=lambda pair: pair[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(repeats, "_KEYS_AT_ONCE", at_once)
        patch.setattr(repeats, "_CHUNK_ROWS", 7)
        columns = columns_of([user for user, _ in pairs], [item for _, item in pairs])
        keep, dropped = drop_duplicates(columns, 7)
    expected = sorted({pair: row for row, pair in enumerate(pairs)}.values())
    assert keep.tolist() == expected
    assert keep.dtype == np.int64
    assert dropped == len(pairs) - len(expected)


def test_duplicates_with_ids_past_32_bits_together():
    columns = columns_of([2_000_000, 2_000_000, 0], [1_999_999, 1_999_999, 1_999_999])
    keep, dropped = drop_duplicates(columns, 2_000_000)
    assert (keep.tolist(), dropped) == ([1, 2], 1)


# --- item tables ---------------------------------------------------------------------------------

NO_SYNOPSIS = (
    "No synopsis information has been added to this title. "
    "Help improve our database by adding a synopsis here."
)
SYNOPSES = (
    "MAL_ID,Name,Score,Genres,{name}\n"
    '30,Thirty,7.5,"Action, Sci-Fi","Two lines\nand ""quotes"", too"\n'
    f"10,Ten,Unknown,Unknown,{NO_SYNOPSIS}\n"
    "40,,6.5,Drama,\n"
)
ATTRIBUTES = (
    "MAL_ID,Name,Score,Genres,Type,Episodes,Members\n"
    '20,Twenty,8.5,"Drama, Drama, Unknown",TV,12,100\n'
    "30,Misread,7.6,Horror,Unknown,Unknown,200\n"
    "10,Ten,Unknown,Comedy,Movie,1,300\n"
)


@pytest.mark.parametrize("name", ["synopsis", "sypnopsis", "Synopsis"])
def test_anime_tables_are_merged(tmp_path, name):
    folder = anime(tmp_path, anime_with_synopsis=SYNOPSES.format(name=name), anime=ATTRIBUTES)
    items = read_items(open_source(folder))
    assert items["item_id"].tolist() == [10, 20, 30, 40]
    assert items["item_id"].dtype == np.int64
    assert items["title"].tolist() == ["Ten", "Twenty", "Thirty", ""]
    assert items["genres"].tolist() == [["Comedy"], ["Drama"], ["Horror"], ["Drama"]]
    assert items["synopsis"].tolist() == [None, None, 'Two lines\nand "quotes", too', None]
    assert items["Type"].tolist() == ["Movie", "TV", None, None]
    for column, expected in {
        "Score": [np.nan, 8.5, 7.6, 6.5],
        "Episodes": [1, 12, np.nan, np.nan],
        "Members": [300, 100, 200, np.nan],
    }.items():
        assert np.issubdtype(items[column].dtype, np.number)
        np.testing.assert_array_equal(items[column], expected)


def test_one_anime_table_is_enough(tmp_path):
    items = read_items(
        open_source(anime(tmp_path, anime_with_synopsis=SYNOPSES.format(name="synopsis")))
    )
    assert items.columns.tolist() == ["item_id", "title", "genres", "synopsis", "Score"]
    assert items["genres"].tolist() == [[], ["Action", "Sci-Fi"], ["Drama"]]
    items = read_items(open_source(anime(tmp_path / "other", anime=ATTRIBUTES)))
    assert items["synopsis"].tolist() == [None, None, None]
    assert items["Members"].dtype == np.int64


def test_no_item_table_gives_the_columns_and_no_rows(tmp_path):
    for path in (anime(tmp_path), write(tmp_path / "a.csv", TABLE_HEADER + "1,2,3\n")):
        source = open_source(path)
        assert read_items(source).columns.tolist() == ["item_id", "title", "genres", "synopsis"]
        assert len(read_items(source)) == 0
        assert read_users(source).columns.tolist() == ["user_id"]
        assert len(read_users(source)) == 0


def test_item_tables_compressed_or_parquet(tmp_path):
    folder = anime(tmp_path)
    data = SYNOPSES.format(name="synopsis").encode()
    write(folder / "anime_with_synopsis.csv.gz", gzip.compress(data))
    table = pa.table(
        {
            "MAL_ID": [10, 20],
            "Name": ["Ten", "Twenty"],
            "Genres": [["Comedy"], []],
            "Score": [None, 8.5],
        }
    )
    pq.write_table(table, folder / "anime.parquet")
    items = read_items(open_source(folder))
    assert items["title"].tolist() == ["Ten", "Twenty", "Thirty", ""]
    assert items["genres"].tolist() == [["Comedy"], [], ["Action", "Sci-Fi"], ["Drama"]]
    np.testing.assert_array_equal(items["Score"], [np.nan, 8.5, 7.5, 6.5])


@pytest.mark.parametrize(
    ("synopsis", "missing"),
    [
        (NO_SYNOPSIS, True),
        ("No synopsis has been added for this series yet.", True),
        ("Unknown", True),
        ("   ", True),
        ("No synopsis can do it justice.", False),
        ("Unknown to all, he fights.", False),
    ],
)
def test_placeholders_count_as_no_synopsis(tmp_path, synopsis, missing):
    text = f'MAL_ID,Name,Genres,synopsis\n1,One,Drama,"{synopsis}"\n'
    items = read_items(open_source(anime(tmp_path, anime_with_synopsis=text)))
    assert items["synopsis"].tolist() == [None if missing else synopsis]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("MAL_ID,Name,Genres\n1,One,Drama\n", "no column synopsis, sypnopsis or Synopsis; found"),
        ("Name,Genres,synopsis\nOne,Drama,x\n", "no column MAL_ID; found Name, Genres, synopsis"),
        ("MAL_ID,Name,Genres,synopsis\n1,One,Drama\n", "row 2: 3 fields where 4 were expected"),
        ("MAL_ID,Name,Genres,synopsis\nx,One,Drama,y\n", "row 2: MAL_ID is no whole number"),
        ("MAL_ID,Name,Genres,synopsis\n-1,One,Drama,y\n", "row 2: MAL_ID is negative"),
        (f"MAL_ID,Name,Genres,synopsis\n{2**63},A,B,y\n", "row 2: MAL_ID is out of range"),
        ("MAL_ID,Name,Genres,synopsis\n1,A,B,y\n1,A,B,y\n", "row 3: MAL_ID 1 is there twice"),
        ("MAL_ID,Name,Name,Genres,synopsis\n1,A,A,B,y\n", "more than one column Name"),
        (b"MAL_ID,Name,Genres,synopsis\n1,Pok\xe9mon,B,y\n", "row 2: Name is no UTF-8 text; save"),
        ("MAL_ID,Name,Genres,synopsis\n1,A,B,y\n".encode("utf-16"), "is UTF-16 text"),
        ('MAL_ID,Name,Genres,synopsis\n1,A,B,"open\n2,A,B,y\n', "row 2: the file ends inside quot"),
        ('MAL_ID,Name,Genres,synopsis\n1,A,B,y\n2,A,B,"He said ""no', "row 3: the file ends ins"),
        ('MAL_ID,Name,Genres,synopsis\n1,A,B,y\n2,A,"Dra', "row 3: 3 fields where 4"),
    ],
)
def test_a_bad_item_table_is_refused(tmp_path, content, message):
    folder = anime(tmp_path, anime_with_synopsis=content)
    with pytest.raises(DataError, match=message) as error:
        read_items(open_source(folder))
    assert str(error.value).startswith(f"{folder / 'anime_with_synopsis.csv'}: ")


def test_movielens_100k_tables(tmp_path):
    write(tmp_path / "ml" / "u.data", "1\t2\t3\t4\n")
    flags = ["0"] * 19
    flags[1] = flags[18] = "1"
    lines = "2|Él (1952)|01-Jan-1952||http://x|" + "|".join(flags) + "\n"
    lines += "1|unknown||||1" + "|0" * 18 + "\n"
    write(tmp_path / "ml" / "u.item", lines.encode("latin-1"))
    write(tmp_path / "ml" / "u.user", "2|53|F|other|94043\n1|24|M|technician|T8H1N\n")
    source = open_source(tmp_path / "ml")
    items = read_items(source)
    assert items["item_id"].tolist() == [1, 2]
    assert items["title"].tolist() == ["unknown", "Él (1952)"]
    assert items["genres"].tolist() == [[], ["Action", "Western"]]
    np.testing.assert_array_equal(items["year"], [np.nan, 1952])
    assert items["synopsis"].tolist() == [None, None]
    users = read_users(source)
    assert users.to_dict("list") == {
        "user_id": [1, 2],
        "age": [24, 53],
        "gender": ["M", "F"],
        "occupation": ["technician", "other"],
        "zip_code": ["T8H1N", "94043"],
    }


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
def test_movielens_1m_tables(tmp_path, encoding):
    write(tmp_path / "ml" / "ratings.dat", "1::2::3::4\n")
    movies = "2::Léon: The Pro (1994)::Crime|Drama\n3::X (2000)::(no genres listed)\n"
    write(tmp_path / "ml" / "movies.dat", movies.encode(encoding))
    write(tmp_path / "ml" / "users.dat", "1::F::18::10::48067\n")
    source = open_source(tmp_path / "ml")
    items = read_items(source)
    assert items["title"].tolist() == ["Léon: The Pro (1994)", "X (2000)"]
    assert items["genres"].tolist() == [["Crime", "Drama"], []]
    (user,) = read_users(source).to_dict("records")
    assert (user["user_id"], user["age"], user["gender"]) == (1, 18, "F")


def test_movielens_csv_tables(tmp_path):
    write(tmp_path / "ml" / "ratings.csv", "userId,movieId,rating,timestamp\n1,2,3.5,4\n")
    movies = 'movieId,title,genres\n7,"American, The (1995)",Comedy|IMAX\n2,Pi,(no genres listed)\n'
    write(tmp_path / "ml" / "movies.csv", movies)
    items = read_items(open_source(tmp_path / "ml"))
    assert items["item_id"].tolist() == [2, 7]
    assert items["title"].tolist() == ["Pi", "American, The (1995)"]
    assert items["genres"].tolist() == [[], ["Comedy", "IMAX"]]


def test_bad_movielens_tables(tmp_path):
    folder = tmp_path / "ml"
    write(folder / "u.data", "1\t2\t3\t4\n")
    for name, content, message, read in [
        ("u.item", "1|A|b\n", "row 1: 3 fields where 24 were expected", read_items),
        ("u.item", "", "is empty", read_items),
        ("u.item", b"\0\0", "holds binary data", read_items),
        ("u.user", "1|24|M|x|y\n1|24|M|x|y\n", "row 2: user_id 1 is there twice", read_users),
        ("u.user", "1|old|M|x|y\n", "row 1: age is no whole number", read_users),
    ]:
        write(folder / name, content)
        with pytest.raises(DataError, match=message) as error:
            read(open_source(folder))
        assert str(error.value).startswith(f"{folder / name}: ")


@given(data=st.binary(max_size=200))
def test_no_bytes_escape_as_anything_but_a_data_error(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("fuzz")
    for name in ("a.csv", "a.csv.gz", "a.parquet"):
        with contextlib.suppress(DataError):
            read_rows(write(folder / name, data), folder)
    for middle in (b"", b"1,2,3\n"):
        with contextlib.suppress(DataError):
            read_rows(write(folder / "a.csv", TABLE_HEADER.encode() + middle + data), folder)
    write(folder / "ml" / "u.data", data)
    write(folder / "ml" / "u.item", data)
    for read in (
        lambda: read_rows(folder / "ml", folder),
        lambda: read_items(open_source(folder / "ml")),
    ):
        with contextlib.suppress(DataError):
            read()


# --- ratings of users that training never saw ----------------------------------------------------

STARS = RatingScale(1, 10)
KNOWN = IdMap(pa.array([5, 8, 20, 21]))


def read_new(file, items=KNOWN, user_type=pa.int64()):  # noqa: B008 - types are constants
    """(user, item, rating) under external ids, the users, and how many ratings were left out."""
    new = read_new_ratings(file, items, STARS, user_type)
    assert (new.users.dtype, new.items.dtype, new.ratings.dtype) == (np.int32, np.int32, np.float32)
    ids = new.user_ids.to_pylist()
    rows = zip(
        [ids[user] for user in new.users],
        items.decode(new.items).to_pylist(),
        new.ratings.tolist(),
        strict=True,
    )
    return sorted(rows), ids, new.unknown


@pytest.mark.parametrize("header", [TABLE_HEADER, ANIME_HEADER, "userId,movieId,rating\n"])
@pytest.mark.parametrize("ending", [".csv", ".csv.gz", ".tsv"])
def test_new_ratings_of_several_users(tmp_path, header, ending):
    """In any order; ratings of unknown items are counted, and of a pair the last one stays."""
    text = header + "9,8,3\n2,5,7\n9,5,10\n9,99,1\n2,8,4\n9,8,6\n3,77,5\n2,99,1\n"
    text = text.replace(",", "\t") if ending == ".tsv" else text
    data = gzip.compress(text.encode()) if ending == ".csv.gz" else text
    file = write(tmp_path / f"new{ending}", data)
    rows, users, unknown = read_new(file)
    assert rows == [(2, 5, 7), (2, 8, 4), (9, 5, 10), (9, 8, 6)]
    assert users == [2, 3, 9]  # ascending; the one who rated nothing known too
    assert unknown == 3


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_new_ratings_in_many_stretches(tmp_path, small_stretches, ending):
    generator = np.random.default_rng(0)
    columns = {
        "user_id": generator.integers(100, 140, 400),
        "item_id": generator.choice([5, 8, 20, 21, 22], 400),
        "rating": generator.integers(1, 11, 400),
    }
    frame = pd.DataFrame(columns)
    file = tmp_path / f"new{ending}"
    if ending == ".csv":
        frame.to_csv(file, index=False)
    else:
        frame.to_parquet(file)
    rows, users, unknown = read_new(file)
    assert users == sorted(set(columns["user_id"].tolist()))
    assert unknown == (frame["item_id"] == 22).sum()
    last = frame[frame["item_id"] != 22].drop_duplicates(["user_id", "item_id"], keep="last")
    assert rows == sorted(last.itertuples(index=False, name=None))
    assert len(rows) < len(frame) - unknown  # some pairs were there twice


def test_new_ratings_with_text_ids(tmp_path):
    file = write(tmp_path / "new.csv", TABLE_HEADER + "zoe,5,3\n007,8,4\nzoe,x,5\n")
    items = IdMap(pa.array(["5", "8"]))
    rows, users, unknown = read_new(file, items, pa.string())
    assert rows == [("007", "8", 4), ("zoe", "5", 3)]
    assert (users, unknown) == (["007", "zoe"], 1)


@pytest.mark.parametrize(
    ("ids", "stored", "kind", "expected"),
    [
        ([7, 3], pa.int32(), pa.int64(), [3, 7]),
        ([7, 3], pa.uint64(), pa.int64(), [3, 7]),
        (["7", "3"], pa.string(), pa.int64(), [3, 7]),
        (["7", "3"], pa.large_string(), pa.int64(), [3, 7]),
        (["7", "3"], pa.dictionary(pa.int32(), pa.string()), pa.int64(), [3, 7]),
        ([7, 3], pa.int64(), pa.string(), ["3", "7"]),
        (["b", "a"], pa.large_string(), pa.string(), ["a", "b"]),
    ],
)
def test_user_ids_of_parquet_become_what_the_data_sets_are(tmp_path, ids, stored, kind, expected):
    columns = {"user_id": pa.array(ids, stored), "item_id": [8, 5], "rating": [1.0, 2.0]}
    pq.write_table(pa.table(columns), tmp_path / "new.parquet")
    rows, users, _ = read_new(tmp_path / "new.parquet", user_type=kind)
    assert users == expected
    assert rows == [(expected[0], 5, 2), (expected[1], 8, 1)]


@pytest.mark.parametrize("stored", [["5", "x", "20"], [5, 6, 20], [5.0, 6.5, 20.0]])
def test_item_ids_of_parquet_are_looked_up_whatever_their_type(tmp_path, stored):
    items = pa.array(stored, pa.int32() if stored[0] == 5 and stored[1] == 6 else None)
    columns = {"user_id": [1, 1, 2], "item_id": items, "rating": [1, 2, 3]}
    pq.write_table(pa.table(columns), tmp_path / "new.parquet")
    if stored[1] == 6.5:
        with pytest.raises(DataError, match="column item_id holds double"):
            read_new(tmp_path / "new.parquet")
    else:
        assert read_new(tmp_path / "new.parquet") == ([(1, 5, 1), (2, 20, 3)], [1, 2], 1)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user_id": ["7", "x"]}, "row 2: user_id is no whole number .*, as the data set's are"),
        ({"user_id": [None, 7]}, "row 1: user_id is missing"),
        ({"user_id": [3, -7]}, r"row 2: user_id is negative \(-7\)"),
        ({"user_id": [1.5, 2.0]}, "column user_id holds double"),
        ({"user_id": pa.array([1, 2**63], pa.uint64())}, "user_id does not fit int64"),
        ({"rating": [1, 11]}, r"row 2: rating is off the scale of 1 to 10 .*\(11\.0\)"),
        ({"rating": ["1", "2"]}, "column rating holds string"),
        ({"item_id": [5, None]}, "row 2: item_id is missing"),
    ],
)
def test_bad_new_ratings_of_parquet_are_refused(tmp_path, columns, message):
    whole = {"user_id": [3, 4], "item_id": [5, 8], "rating": [1, 2], **columns}
    pq.write_table(pa.table(whole), tmp_path / "new.parquet")
    with pytest.raises(DataError, match=message) as error:
        read_new(tmp_path / "new.parquet")
    assert str(error.value).startswith(f"{tmp_path / 'new.parquet'}: ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        (TABLE_HEADER, "holds no rating"),
        ("item_id,rating\n5,3\n", "no column user_id; found item_id, rating"),
        ("user_id,rating\n5,3\n", "no column item_id"),
        ("user_id,item_id\n5,8\n", "no column rating"),
        (TABLE_HEADER + "1,5,3\n1,8,0\n", "row 3: rating is off the scale of 1 to 10"),
        (TABLE_HEADER + "1,5,3\nx,8,4\n", "row 3: user_id"),
        (TABLE_HEADER + "1,5,3\n1,x,4\n", "row 3: item_id"),
        (TABLE_HEADER + "1,5,3\n1,8,good\n", "row 3: rating"),
        (TABLE_HEADER + "1,5,3\n1,8\n", "row 3: 2 fields where 3 were expected"),
        (TABLE_HEADER + "1,5,3\n,8,4\n", "user_id"),
        (TABLE_HEADER + "1,5,3\n-2,8,4\n", "row 3: user_id is negative"),
        (TABLE_HEADER + "1,5,3\n1,8,nan\n", "row 3: rating is"),
    ],
)
def test_bad_new_ratings_are_refused(tmp_path, content, message):
    file = write(tmp_path / "new.csv", content)
    with pytest.raises(DataError, match=message) as error:
        read_new(file)
    assert str(error.value).startswith(f"{file}: ")
    with pytest.raises(DataError, match="no such file"):
        read_new(tmp_path / "none.csv")


def test_a_bad_row_is_named_across_stretches(tmp_path, small_stretches):
    lines = "".join(f"{user},5,{3 if user != 200 else 30}\n" for user in range(300))
    file = write(tmp_path / "new.csv", TABLE_HEADER + lines)
    with pytest.raises(DataError, match="row 202: rating is off the scale"):
        read_new(file)


@pytest.mark.parametrize("header", ["item_id,rating\n", "movieId,rating\n", "anime_id,rating\n"])
def test_one_new_user_need_not_be_named(tmp_path, header):
    file = write(tmp_path / "mine.csv", header + "8,3\n5,7\n99,1\n8,6\n")
    rows, users, unknown = read_new(file, user_type=None)
    assert len(users) == 1
    assert [row[1:] for row in rows] == [(5, 7), (8, 6)]
    assert unknown == 1


@pytest.mark.parametrize("name", ["user_id", "userId"])
@pytest.mark.parametrize("user", ["4", "me"])
def test_one_new_user_may_be_named_by_any_id(tmp_path, name, user):
    file = write(tmp_path / "mine.csv", f"{name},item_id,rating\n{user},8,3\n{user},5,7\n")
    rows, users, _ = read_new(file, user_type=None)
    assert len(users) == 1 and [row[1:] for row in rows] == [(5, 7), (8, 3)]


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_several_users_are_refused_where_one_is_meant(tmp_path, small_stretches, ending):
    """Though the second one comes late."""
    frame = pd.DataFrame({"user_id": [1] * 60 + [2], "item_id": [5] * 61, "rating": [3] * 61})
    file = tmp_path / f"mine{ending}"
    if ending == ".csv":
        frame.to_csv(file, index=False)
    else:
        frame.to_parquet(file)
    with pytest.raises(DataError, match="holds ratings of several users; --ratings takes those of"):
        read_new(file, user_type=None)
    assert len(read_new(file)[0]) == 2


def test_nothing_known_is_no_rating_but_no_error(tmp_path):
    file = write(tmp_path / "new.csv", TABLE_HEADER + "1,99,3\n2,98,4\n")
    assert read_new(file) == ([], [1, 2], 2)


# --- items that a data set does not hold ---------------------------------------------------------


def new_items(file, kind=pa.int64()):  # noqa: B008 - types are constants
    items = read_new_items(file, kind)
    assert items.columns.tolist()[:4] == ["item_id", "title", "genres", "synopsis"]
    return items


def test_new_items_under_the_animes_names(tmp_path):
    items = new_items(write(tmp_path / "new.csv", SYNOPSES.format(name="sypnopsis")))
    assert items["item_id"].tolist() == [10, 30, 40]
    assert items["item_id"].dtype == np.int64
    assert items["title"].tolist() == ["Ten", "Thirty", "40"]  # its id for want of a title
    assert items["genres"].tolist() == [[], ["Action", "Sci-Fi"], ["Drama"]]
    assert items["synopsis"].tolist() == [None, 'Two lines\nand "quotes", too', None]
    np.testing.assert_array_equal(items["Score"], [np.nan, 7.5, 6.5])
    assert items.columns.tolist()[4:] == ["Score"]


@pytest.mark.parametrize("name", ["synopsis", "sypnopsis", "Synopsis"])
def test_new_items_are_what_read_items_makes_of_the_same_table(tmp_path, name):
    text = SYNOPSES.format(name=name).replace("40,,6.5", "40,Forty,6.5")
    known = read_items(open_source(anime(tmp_path, anime_with_synopsis=text)))
    pd.testing.assert_frame_equal(new_items(write(tmp_path / "new.csv", text)), known)


def test_new_items_under_movielens_names(tmp_path):
    text = (
        "movieId,title,genres\n"
        '7,"Heat, The (1995)",Action|Sci-Fi|Action\n'
        "3,Toy Story (1995),Children\n"
        "5,Nothing,(no genres listed)\n"
    )
    items = new_items(write(tmp_path / "movies.csv", text))
    assert items["item_id"].tolist() == [3, 5, 7]
    assert items["title"].tolist() == ["Toy Story (1995)", "Nothing", "Heat, The (1995)"]
    assert items["genres"].tolist() == [["Children"], [], ["Action", "Sci-Fi"]]
    assert items["synopsis"].tolist() == [None] * 3


@pytest.mark.parametrize("compressed", [False, True])
def test_an_id_is_all_that_a_new_item_needs(tmp_path, compressed):
    data = b"item_id\n9\n4\n"
    file = tmp_path / ("new.csv.gz" if compressed else "new.csv")
    items = new_items(write(file, gzip.compress(data) if compressed else data))
    assert items["item_id"].tolist() == [4, 9]
    assert items["title"].tolist() == ["4", "9"]
    assert items["genres"].tolist() == [[], []]
    assert items["synopsis"].tolist() == [None, None]


def test_new_items_of_parquet_with_genres_as_lists(tmp_path):
    table = pa.table(
        {
            "genres": [["Drama", "Drama", " Comedy "], None, ["(no genres listed)", "Unknown"]],
            "item_id": pa.array([8, 2, 5], pa.int32()),
            "title": ["Eight", None, " "],
            "synopsis": ["Words", None, NO_SYNOPSIS],
            "Members": [1.5, None, 3.0],
            "Type": ["TV", None, "Unknown"],
        }
    )
    pq.write_table(table, tmp_path / "new.parquet")
    items = new_items(tmp_path / "new.parquet")
    assert items["item_id"].tolist() == [2, 5, 8]
    assert items["title"].tolist() == ["2", "5", "Eight"]
    assert items["genres"].tolist() == [[], [], ["Drama", "Comedy"]]
    assert items["synopsis"].tolist() == [None, None, "Words"]
    np.testing.assert_array_equal(items["Members"], [np.nan, 3.0, 1.5])
    assert items["Type"].tolist() == [None, None, "TV"]


@pytest.mark.parametrize(
    "text", ["Action,Drama", "Action|Drama", " Action , Drama ,", "Action||Drama"]
)
def test_genres_stand_between_commas_or_bars(tmp_path, text):
    items = new_items(write(tmp_path / "new.csv", f'item_id,genres\n1,"{text}"\n'))
    assert items["genres"].tolist() == [["Action", "Drama"]]


def test_blanks_around_bars_are_no_part_of_a_genre(tmp_path):
    items = new_items(write(tmp_path / "new.csv", "item_id,genres\n1,Action | Drama\n"))
    assert items["genres"].tolist() == [["Action", "Drama"]]


def test_new_items_with_text_ids(tmp_path):
    """In the order that an id map has: of code points."""
    text = "item_id,title\nb,Bee\na10,Ten\nZ,Zed\n 007 ,Bond\n\xe9,Accent\na2,\n"
    items = new_items(write(tmp_path / "new.csv", text), pa.string())
    assert items["item_id"].tolist() == ["007", "Z", "a10", "a2", "b", "\xe9"]
    assert items["title"].tolist() == ["Bond", "Zed", "Ten", "a2", "Bee", "Accent"]
    IdMap(pa.array(items["item_id"], pa.string()))  # takes ascending ids only
    numbers = write(tmp_path / "numbers.csv", "item_id\n10\n9\n")
    assert new_items(numbers, pa.string())["item_id"].tolist() == ["10", "9"]


@pytest.mark.parametrize("first", [0, 1])
def test_the_first_of_several_names_for_a_column_counts(tmp_path, first):
    names = ["title,Name", "Name,title"][first]
    values = ["right,wrong", "wrong,right"][first]
    items = new_items(write(tmp_path / "new.csv", f"MAL_ID,{names},movieId\n1,{values},9\n"))
    assert items["item_id"].tolist() == [1]
    assert items["title"].tolist() == ["right"]
    assert items["Name"].tolist() == ["wrong"] and items["movieId"].tolist() == [9]


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        ("", pa.int64(), "is empty"),
        ("item_id,title\n", pa.int64(), "holds no row"),
        ("id,title\n1,One\n", pa.int64(), "no column item_id; found id, title"),
        ("item_id,genres\n1,Drama\n2\n", pa.int64(), "row 3: 1 fields where 2 were expected"),
        ("item_id,genres\nx,Drama\n", pa.int64(), r"row 2: item_id is no whole number \('x'\)"),
        ("item_id,genres\n-1,Drama\n", pa.int64(), "row 2: item_id is negative"),
        ("item_id,genres\n1,A\n1.5,B\n", pa.int64(), "row 3: item_id is no whole number"),
        (f"item_id,genres\n{2**63},A\n", pa.int64(), "row 2: item_id is out of range"),
        ("item_id,genres\n,Drama\n", pa.int64(), "row 2: item_id is missing"),
        ("item_id,genres\n1,A\n2,A\n1,A\n", pa.int64(), "row 4: item_id 1 is there twice"),
        ("item_id,genres\n1,A\n01,A\n", pa.int64(), "row 3: item_id begins with a zero"),
        ("item_id,genres\na,A\nb,A\na ,A\n", pa.string(), "row 4: item_id a is there twice"),
        ("item_id,genres\na,A\n  ,A\n", pa.string(), "row 3: item_id is missing"),
        ("item_id,genres,genres\n1,A,B\n", pa.int64(), "more than one column genres"),
        ('item_id,title\n1,"open\n', pa.int64(), "row 2: the file ends inside quotes"),
        (b"item_id,title\n1,Pok\xe9mon\n", pa.int64(), "row 2: title is no UTF-8 text"),
    ],
)
def test_bad_tables_of_new_items_are_refused(tmp_path, content, kind, message):
    file = write(tmp_path / "new.csv", content)
    with pytest.raises(DataError, match=message) as error:
        read_new_items(file, kind)
    assert str(error.value).startswith(f"{file}: ")


@pytest.mark.parametrize(
    ("ids", "kind", "message"),
    [
        ([5, None], pa.int64(), "row 2: item_id is missing"),
        ([5, 5], pa.int64(), "row 2: item_id 5 is there twice"),
        (["a", None], pa.string(), "row 2: item_id is missing"),
        ([], pa.int64(), "holds no row"),
    ],
)
def test_bad_parquet_tables_of_new_items_are_refused(tmp_path, ids, kind, message):
    file = tmp_path / "new.parquet"
    pq.write_table(pa.table({"item_id": pa.array(ids, kind)}), file)
    with pytest.raises(DataError, match=message):
        read_new_items(file, kind)
    with pytest.raises(DataError, match="no such file"):
        read_new_items(tmp_path / "none.csv", kind)


# --- real data -----------------------------------------------------------------------------------


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="the real data sets are not on this machine")
def test_the_real_data_sets_read_as_described(spool):
    reader = RatingReader(open_source(REAL_DATA / "anime-2020-sample"), spool)
    reader.read()
    (columns,), users, items, _, _ = reader.finish()
    assert (len(columns), len(users), len(items)) == (99_999, 575, 7_123)
    assert columns.ratings.mean(dtype=np.float64) == pytest.approx(7.6, abs=0.05)
    assert drop_duplicates(columns, len(items))[1] == 0
    described = read_items(open_source(REAL_DATA / "anime-2020-sample"))
    assert (len(described), described["synopsis"].notna().sum()) == (17_562, 269)

    source = open_source(REAL_DATA / "ml-100k")
    reader = RatingReader(source, spool)
    reader.read(Path("u1.base"))
    reader.read(Path("u1.test"))
    (train, test), users, items, _, _ = reader.finish()
    assert (len(train), len(test), len(users), len(items)) == (80_000, 20_000, 943, 1_682)
    assert len(read_items(source)) == 1_682
    assert len(read_users(source)) == 943


def test_a_parquet_file_is_not_kept_in_memory_while_it_is_read(tmp_path):
    rows, groups = 1 << 18, 16
    values = np.random.default_rng(0).integers(0, 2**62, rows)  # which nothing makes smaller
    file = tmp_path / "pairs.parquet"
    table = pa.table({"user_id": values, "item_id": values})
    with pq.ParquetWriter(file, table.schema) as writer:
        for _ in range(groups):
            writer.write_table(table)
    size = file.stat().st_size
    del table
    kinds = {"user_id": pa.int64(), "item_id": pa.int64()}
    before, most, seen = pa.total_allocated_bytes(), 0, 0
    for stretch in stream_columns(file, kinds):
        seen += len(stretch.table)
        most = max(most, pa.total_allocated_bytes() - before)
    assert seen == groups * rows and size > 60e6
    assert most < size / 2


# --- quotes that are not closed, ratings that stand alone ----------------------------------------

ITEMS = "item_id,title,genres\n"
SWALLOWED = {
    "one row": (
        ITEMS + '5,"Half,Drama\n6,"Other",Comedy\n7,Last,Drama\n',
        ("row 2 (line 2): title runs over 2 lines, 1 of which", "'6,Other\"'"),
    ),
    "rows up to the next quote": (
        ITEMS + '1,"Two\nlines",A\n5,"Half,Drama\n6,Other,Comedy\n7,Third,B\n8,"Next",Action\n',
        ("row 3 (line 4): title runs over 4 lines, 3 of which", "'6,Other,Comedy'"),
    ),
    "text ids": (
        "item_id,title,genres,year\n"
        'a,"Half,Drama,1\nb,Other,Comedy,2\nc,Third,B,3\nd,"Next",Action,4\n',
        ("row 2 (line 2): title runs over", "'b,Other,Comedy,2'"),
    ),
}


@pytest.mark.parametrize("name", SWALLOWED)
def test_rows_that_an_open_quote_swallows_are_named(tmp_path, name):
    content, fragments = SWALLOWED[name]
    file = write(tmp_path / "items.csv", content)
    for read in (
        lambda: read_attributes(file, "item_id"),
        lambda: read_new_items(file, pa.string() if name == "text ids" else pa.int64()),
    ):
        with pytest.raises(DataError) as raised:
            read()
        message = str(raised.value)
        assert message.startswith(f"{file}: {fragments[0]}") and fragments[1] in message
        assert message.endswith("or give the table as Parquet if they belong to it")


@pytest.mark.parametrize(
    "text",
    [
        "First line.\nSecond, with commas, and more.",
        "In\n1999, he left,\n12, rue de la Paix, Paris",
        'He said: "go\n6, then, 7".',
        "one\n\ntwo\n",
    ],
)
@pytest.mark.parametrize("ids", [["1", "2"], ["a", "b"]])
def test_synopses_of_several_lines_are_no_rows(tmp_path, text, ids):
    table = pd.DataFrame({"item_id": ids, "title": ["x", "y"], "synopsis": [text, "short"]})
    table.to_csv(tmp_path / "items.csv", index=False)
    found = read_attributes(tmp_path / "items.csv", "item_id")
    assert found.columns["synopsis"].tolist() == [text.strip(), "short"]


def test_the_scale_that_was_found_is_said_and_what_stands_alone_at_its_ends(
    tmp_path, spool, capsys
):
    file = write(tmp_path / "a.csv", TABLE_HEADER + "1,1,5\n1,2,1\n1,3,3\n2,1,1000\n2,2,4\n")
    _, scale, _ = read_rows(file, spool)
    said = capsys.readouterr().err
    assert scale == RatingScale(1, 1000)
    assert f"{file}: ratings are on the scale 1 to 1000 in steps of 1" in said
    assert f"{file}: a rating of 1000 stands alone (1 of them, the first number 4 of a.csv)" in said
    assert "the next is 5: if it is a mistake, remove it, or say --scale MIN:MAX:STEP" in said
    with pytest.raises(DataError, match="row 5: rating is off the scale of 1 to 5"):
        read_rows(file, spool, scale=RatingScale(1, 5))
    read_rows(write(tmp_path / "b.csv", TABLE_HEADER + "1,1,5\n1,2,1\n1,3,3\n"), spool)
    assert "stands alone" not in capsys.readouterr().err


@pytest.mark.parametrize(("mistakes", "is_said"), [(1, True), (2, True), (3, False)])
def test_a_rare_rating_apart_from_the_others_is_said(tmp_path, spool, capsys, mistakes, is_said):
    rows = [f"{n // 100},{n % 100},{n % 5 + 1}\n" for n in range(2_000 - mistakes)]
    rows += [f"{n},100,9\n" for n in range(mistakes)]
    read_rows(write(tmp_path / "a.csv", TABLE_HEADER + "".join(rows)), spool)
    said = capsys.readouterr().err
    assert (f"a rating of 9 stands alone ({mistakes} of them" in said) == is_said


@pytest.mark.parametrize(
    ("values", "lone"),
    [
        ([1, 2, 3, 4, 5], []),
        ([1, 5], []),
        ([1, 2, 10], [(10, 2)]),
        ([-9, 1, 2, 3], [(-9, 1)]),
        ([1, 3, 5], []),
        ([0, 6, 7, 8, 9, 10], [(0, 6)]),
    ],
)
def test_ends_that_stand_alone(values, lone):
    scale = RatingScale.infer(np.array(values, dtype=float), "file")
    assert scale.lone_ends(np.array(values, dtype=float)) == lone
