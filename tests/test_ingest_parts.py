"""Tables in parts: as Spark, Dask and DuckDB write them, here and in a store."""

import functools
import itertools
import json
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stores import clear_memory, copied

from dglrec.dataset import PrepareOptions, RatingDataset, prepare
from dglrec.errors import DataError, EmptyFileError, UsageError
from dglrec.ids import IdMap
from dglrec.ingest import (
    Parts,
    RatingReader,
    find_edge_columns,
    find_table,
    open_source,
    parse_columns,
    ratings,
    read_attributes,
    read_new_ratings,
    sources,
    stream_columns,
    stream_edges,
    typed,
)
from dglrec.ingest.parts import describe_file
from dglrec.places import place_of
from dglrec.schema import RatingScale

NAMES = ["user_id", "item_id", "rating", "timestamp"]


@pytest.fixture
def spool(tmp_path):
    (tmp_path / "spool").mkdir()
    return tmp_path / "spool"


@pytest.fixture
def rows():
    """Ratings of 40 users, each pair once, in an order of their own."""
    generator = np.random.default_rng(3)
    pairs = generator.permutation(40 * 30)[:400]
    return pd.DataFrame(
        {
            "user_id": pairs // 30 + 1,
            "item_id": pairs % 30 + 100,
            "rating": generator.integers(1, 6, 400).astype(float),
            "timestamp": generator.integers(10**9, 2 * 10**9, 400),
        }
    )


def write(path, content=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, pd.DataFrame):
        if path.suffix == ".parquet":
            content.to_parquet(path, index=False)
        else:
            content.to_csv(path, index=False)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def cut(rows, count):
    """As many parts, of about as many rows each."""
    ends = np.linspace(0, len(rows), count + 1).astype(int)
    return [rows[start:end] for start, end in itertools.pairwise(ends)]


def in_parts(folder, rows, ending, count=4):
    for number, part in enumerate(cut(rows, count)):
        write(folder / f"part-{number:05d}{ending}", part)
    return folder


def as_spark(folder):
    """What else lies in a folder that Spark or Dask wrote, none of it data."""
    for name in ("_SUCCESS", "._SUCCESS.crc", "_metadata", "_common_metadata", ".part-0.csv.crc"):
        write(folder / name, "no data")
    write(folder / "_temporary" / "0" / "part-00009.csv", "no data")
    return folder


def read(place, spool, columns=None, format="auto"):
    reader = RatingReader(open_source(place_of(place), format, columns), spool)
    reader.read()
    (found,), users, items, _, counts = reader.finish()
    table = {
        "user_id": users.decode(found.users).to_pylist(),
        "item_id": items.decode(found.items).to_pylist(),
        "rating": found.ratings.tolist(),
    }
    if found.timestamps is not None:
        table["timestamp"] = found.timestamps.tolist()
    return pd.DataFrame(table), counts


# --- parts that hold what one file would ---------------------------------------------------------


@pytest.mark.parametrize("ending", [".parquet", ".csv", ".csv.gz", ".tsv"])
def test_parts_are_read_as_one_file_is(tmp_path, spool, rows, ending):
    folder = tmp_path / "ratings"
    for number, part in enumerate(cut(rows, 5)):
        file = write(folder / f"part-{number}{ending}", part)
        if ending == ".tsv":
            part.to_csv(file, index=False, sep="\t")
    as_spark(folder)
    found, counts = read(folder, spool)
    pd.testing.assert_frame_equal(found, rows, check_dtype=False)
    assert counts.rows == 400


@pytest.mark.parametrize("small", [False, True])
def test_hive_partitions_that_nobody_asks_for_are_ignored(
    tmp_path, spool, rows, small, monkeypatch
):
    if small:
        monkeypatch.setattr(typed, "_PARQUET_ROWS", 7)
        monkeypatch.setattr(ratings, "_CHUNK_ROWS", 5)
    folder = tmp_path / "ratings"
    rows["user_bucket"] = rows["user_id"] % 3
    rows.to_parquet(folder, partition_cols=["user_bucket"], index=False)
    as_spark(folder)
    found, _ = read(folder, spool)
    wanted = rows.sort_values("user_bucket", kind="stable")[NAMES].reset_index(drop=True)
    pd.testing.assert_frame_equal(found, wanted, check_dtype=False)


@pytest.mark.parametrize("ending", [".parquet", ".csv"])
def test_hive_partitions_may_be_columns(tmp_path, spool, rows, ending):
    """The year as the time, the rating, or the user."""
    for column, values in (
        ("year", 2000 + rows["item_id"] % 4),
        ("rating", rows["rating"].astype(int)),
        ("user_id", rows["user_id"]),
    ):
        folder = tmp_path / f"by {column}{ending}"
        table = rows.drop(columns=[column], errors="ignore")
        if column == "year":
            table = table.drop(columns=["timestamp"])
        parts = sorted(set(values), key=str)
        for value in parts:
            write(folder / f"{column}={value}" / f"a{ending}", table[values == value])
        found, _ = read(folder, spool, {"timestamp": "year"} if column == "year" else None)
        whole = rows.assign(timestamp=values) if column == "year" else rows
        wanted = pd.concat([whole[values == value] for value in parts], ignore_index=True)
        pd.testing.assert_frame_equal(found, wanted[list(found)], check_dtype=False)


def test_values_of_hive_partitions(tmp_path, spool):
    """Text where not all are whole numbers; written as in a URL; perhaps missing."""
    part = pd.DataFrame({"item_id": [1], "rating": [3.0]})
    for value in ("a%2Fb", "7", "c d"):
        write(tmp_path / "t" / f"user_id={value}" / "x.parquet", part)
    write(tmp_path / "t" / "user_id=7" / "y.parquet", part.assign(item_id=2, rating=4.0))
    found, _ = read(tmp_path / "t", spool)
    assert found["user_id"].tolist() == ["7", "7", "a/b", "c d"]
    write(tmp_path / "t" / "user_id=__HIVE_DEFAULT_PARTITION__" / "x.parquet", part)
    with pytest.raises(DataError, match=r"__HIVE_DEFAULT_PARTITION__/x\.parquet: row 1: user_id"):
        read(tmp_path / "t", spool)


def test_columns_may_stand_in_another_order_and_be_more(tmp_path, spool, rows):
    write(tmp_path / "t" / "a.csv", rows[:100])
    write(tmp_path / "t" / "b.csv", rows[100:].assign(more="x")[["more", *reversed(NAMES)]])
    found, _ = read(tmp_path / "t", spool)
    pd.testing.assert_frame_equal(found, rows, check_dtype=False)
    write(tmp_path / "p" / "a.parquet", rows[:100].astype({"user_id": "int32", "rating": "int64"}))
    write(tmp_path / "p" / "b.parquet", rows[100:].assign(more="x")[["more", *reversed(NAMES)]])
    found, _ = read(tmp_path / "p", spool)
    pd.testing.assert_frame_equal(found, rows, check_dtype=False)


def test_patterns_and_uris(tmp_path, spool, rows):
    folder = in_parts(tmp_path / "ratings", rows, ".parquet")
    write(folder / "notes.md", "no table, and no part of the pattern")
    half = rows[:200]
    for place, wanted in (
        (folder / "*.parquet", rows),
        (folder.as_uri() + "/part-*.parquet", rows),
        (f"{tmp_path}/**/part-0000[01].parquet", half),
        (f"{tmp_path}/rat*/part-0000[01]*", half),
        ((folder / "part-00000.parquet").as_uri(), rows[:100]),
    ):
        found, _ = read(place, spool)
        pd.testing.assert_frame_equal(found, wanted, check_dtype=False)


def test_a_folder_may_be_called_like_a_file_and_a_file_like_a_pattern(tmp_path, spool, rows):
    in_parts(tmp_path / "ratings.csv", rows, ".csv")
    found, _ = read(tmp_path / "ratings.csv", spool)
    pd.testing.assert_frame_equal(found, rows, check_dtype=False)
    found, _ = read(write(tmp_path / "a[1].csv", rows), spool)
    pd.testing.assert_frame_equal(found, rows, check_dtype=False)


def test_a_store_holds_parts_too(tmp_path, spool, rows):
    clear_memory()
    folder = as_spark(in_parts(tmp_path / "ratings", rows, ".parquet"))
    place = copied(folder, place_of("memory://lake/ratings"))
    (place / "one.csv.gz").put(write(tmp_path / "one.csv.gz", rows))
    for given_ in ("memory://lake/ratings/*.parquet", "memory://lake/ratings/one.csv.gz"):
        found, _ = read(given_, spool)
        pd.testing.assert_frame_equal(found, rows, check_dtype=False)
    with pytest.raises(DataError, match=r"part-00000.parquet: is of another kind than .*/one.csv"):
        read("memory://lake/ratings", spool)
    (place / "one.csv.gz").unlink()
    found, _ = read("memory://lake/ratings", spool)
    pd.testing.assert_frame_equal(found, rows, check_dtype=False)
    here, there = describe_file(find_table(folder)), describe_file(find_table(place))
    assert here == there
    with pytest.raises(DataError, match="memory://lake/nothing: no such file or folder"):
        read("memory://lake/nothing", spool)
    clear_memory()


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(0, 60), max_size=5), text=st.booleans(), ids=st.booleans())
def test_wherever_a_table_is_cut_it_is_the_same(tmp_path_factory, cuts, text, ids):
    folder = tmp_path_factory.mktemp("cut")
    table = pd.DataFrame({"user_id": np.arange(60) % 7, "item_id": range(60), "rating": 1.0})
    table["rating"] += table["item_id"] % 5
    if ids:
        table["user_id"] = "u" + table["user_id"].astype(str)
    ends = sorted({0, 60, *cuts})
    for number, (start, end) in enumerate(itertools.pairwise(ends)):
        write(folder / "t" / f"p{number}.{'csv' if text else 'parquet'}", table[start:end])
    (folder / "spool").mkdir()
    found, _ = read(folder / "t", folder / "spool")
    pd.testing.assert_frame_equal(found, table, check_dtype=False)


def test_memory_does_not_grow_with_the_number_of_parts(tmp_path, spool):
    # By Arrow's own account: what is live at any time is of one part.
    peaks = []
    for count in (3, 30):
        folder = tmp_path / str(count)
        table = pd.DataFrame({"user_id": range(5_000), "item_id": 1, "rating": 1.0})
        table["rating"] += table["user_id"] % 2
        for number in range(count):
            write(folder / f"{number:02d}.parquet", table.assign(item_id=number))
        reader = RatingReader(open_source(folder), spool)
        before, live = pa.total_allocated_bytes(), []
        add = reader._users.add

        def watched(ids, add=add, live=live, before=before):
            live.append(pa.total_allocated_bytes() - before)
            return add(ids)

        reader._users.add = watched
        reader.read()
        peaks.append(max(live))
    assert peaks[1] < 1.5 * peaks[0]


# --- columns by other names ----------------------------------------------------------------------


def test_columns_are_called_what_a_person_says(tmp_path, spool, rows):
    other = rows.set_axis(["uid", "product", "stars", "when"], axis=1)
    in_parts(tmp_path / "ratings", other, ".parquet")
    names = parse_columns("user=uid,item=product,rating=stars,timestamp=when")
    found, _ = read(tmp_path / "ratings", spool, names)
    pd.testing.assert_frame_equal(found, rows, check_dtype=False)
    # What is not named keeps its name, and what is there under none is not read.
    file = write(tmp_path / "a.csv", rows.rename(columns={"rating": "value"}))
    found, _ = read(file, spool, {"rating": "value"})
    pd.testing.assert_frame_equal(found, rows, check_dtype=False)


def test_columns_that_are_not_there(tmp_path, rows):
    file = write(tmp_path / "a.csv", rows)
    with pytest.raises(DataError, match="a.csv: no column u; found user_id, item_id, rating, time"):
        open_source(file, columns={"user": "u"})
    with pytest.raises(DataError, match="a.csv: no column stars; found user_id, item_id, rating"):
        open_source(file, columns={"rating": "stars"})
    with pytest.raises(DataError, match="found user_id, .*; say --columns user=user_id,rating=rat"):
        open_source(file, columns={"user": "userID", "rating": "Rating"})
    in_parts(tmp_path / "t", rows.rename(columns={"user_id": "uid"}), ".parquet")
    with pytest.raises(
        DataError, match=r"part-00000\.parquet: no column user_id; found uid, .*--columns user=NAME"
    ):
        open_source(tmp_path / "t")
    with pytest.raises(UsageError, match="--columns: the columns of --format anime have names"):
        open_source(file, "anime", {"user": "u"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "write KEY=NAME, with commas between, of the keys user, item, rating, timestamp"),
        ("user", "--columns 'user': write KEY=NAME"),
        ("users=u", "--columns 'users=u': write KEY=NAME"),
        ("user=", "--columns 'user=': write KEY=NAME"),
        ("user=a,user=b", "--columns 'user=b': the key or the column is there twice"),
        ("user=a,item=a", "--columns 'item=a': the key or the column is there twice"),
        ("weight=w", "--columns weight: ratings have no weight; edges of --relation have"),
    ],
)
def test_columns_that_cannot_be_meant(text, message):
    with pytest.raises(UsageError, match=message):
        parse_columns(text)


# --- what parts may not be -----------------------------------------------------------------------

GOOD = pd.DataFrame({"user_id": [1, 2], "item_id": [1, 2], "rating": [1.0, 2.0]})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "b.parquet",
            GOOD.drop(columns="rating"),
            "no column rating, which .*a.parquet has",
        ),
        (
            "b.parquet",
            GOOD.astype({"user_id": str}),
            "column user_id holds .*string, and in .*int64",
        ),
        (
            "b.parquet",
            GOOD.astype({"rating": str}),
            "column rating holds .*string, and in .*double",
        ),
        ("b.parquet", b"", "not readable as Parquet|damaged Parquet"),
        ("b.parquet", b"PAR1 and no more", "not readable as Parquet|damaged Parquet"),
        ("b.parquet", GOOD.assign(rating=[1.0, None]), "row 2: rating is missing"),
        ("b.csv", GOOD, "is of another kind than .*a.parquet"),
        ("notes.md", "x", "is neither CSV nor Parquet by its name; parts of a table end in .csv"),
        ("y=1/b.parquet", GOOD, "lies in partitions of y, and .*a.parquet of none"),
    ],
)
def test_a_bad_part_is_named(tmp_path, spool, name, content, message):
    write(tmp_path / "t" / "a.parquet", GOOD)
    bad = write(tmp_path / "t" / name, content)
    with pytest.raises(DataError, match=message) as error:
        read(tmp_path / "t", spool)
    assert str(error.value).startswith(f"{bad}: ")
    with pytest.raises(DataError, match=message):
        prepare(tmp_path / "t", tmp_path / "data", PrepareOptions(text=False))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["spool", "t"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("user_id,rating,item\n1,2,3\n", "b.csv: no column item_id, which .*a.csv has; found user"),
        ("user_id,item_id,rating\n1,2,3\n1,x,3\n", r"b\.csv: row 3: item_id is no whole number"),
        ("user_id,item_id,rating\n1,2\n", r"b\.csv: row 2: 2 fields where 3 were expected"),
        ("", r"b\.csv: is empty"),
        ("\0\1", r"b\.csv: holds binary data"),
        ("user_id;item_id;rating\n1;2;3\n", r"b\.csv: no column user_id"),
    ],
)
def test_a_bad_part_of_text_is_named(tmp_path, spool, content, message):
    write(tmp_path / "t" / "a.csv", GOOD)
    write(tmp_path / "t" / "b.csv", content)
    with pytest.raises(DataError, match=message):
        read(tmp_path / "t", spool)


def test_where_nothing_is(tmp_path, spool):
    (tmp_path / "bare").mkdir()
    write(tmp_path / "marks" / "_SUCCESS")
    write(tmp_path / "delta" / "_delta_log" / "0.json")
    write(tmp_path / "delta" / "a.parquet", GOOD)
    for place, format, message in (
        ("bare", "table", "bare: holds no part of a table; found an empty folder, expected files"),
        ("marks", "table", "marks: holds no part of a table; found _SUCCESS"),
        ("bare/*.csv", "auto", r"bare/\*\.csv: matches no file; found nothing in .*bare"),
        ("delta/*.csv", "auto", r"is a Delta table"),
        ("delta", "auto", "delta: is a Delta table, whose files may hold rows that were deleted"),
        ("nowhere/*.csv", "auto", "matches no file; found nothing in .*nowhere"),
    ):
        with pytest.raises(DataError, match=message) as error:
            read(f"{tmp_path}/{place}", spool, format=format)
        assert error.value.exit_code == 3


@pytest.mark.parametrize("ending", [".parquet", ".csv"])
def test_parts_and_partitions_without_rows_are_told(tmp_path, spool, rows, ending, capsys):
    for bucket in (0, 1):
        folder = tmp_path / "t" / f"bucket={bucket}"
        write(folder / f"a{ending}", rows[:0])
        write(folder / f"b{ending}", rows[200 * bucket : 200 * bucket + 200])
    (tmp_path / "t" / "bucket=2").mkdir()
    found, _ = read(tmp_path / "t", spool)
    pd.testing.assert_frame_equal(found, rows, check_dtype=False)
    told = capsys.readouterr().err
    assert "t: 1 partition without a part, bucket=2 the first; nothing is read of it" in told
    assert f"t: 2 parts without a row, bucket=0/a{ending} the first" in told
    for file in (tmp_path / "t").rglob(f"b{ending}"):
        file.unlink()
    with pytest.raises(DataError, match="t: holds (a header and )?no rows"):
        read(tmp_path / "t", spool)


# --- the other tables ----------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".parquet", ".csv"])
def test_other_tables_may_lie_in_parts(tmp_path, rows, ending):
    in_parts(tmp_path / "pairs", rows, ending)
    table = find_table(tmp_path / "pairs")
    assert isinstance(table, Parts)
    kinds = {"user_id": pa.int64(), "item_id": pa.int64()}
    stretches = list(stream_columns(table, kinds))
    found = pa.concat_tables([one.table for one in stretches]).to_pandas()
    pd.testing.assert_frame_equal(found, rows[["user_id", "item_id"]], check_dtype=False)
    assert [one.file.name for one in stretches] == [Path(name).name for name in table.names]
    new = read_new_ratings(table, IdMap(pa.array(range(130))), RatingScale(1, 5), pa.int64())
    assert (len(new.users), new.unknown) == (400, 0)
    edges = rows.rename(columns={"item_id": "to_user_id", "rating": "weight"})
    table = find_table(in_parts(tmp_path / "edges", edges, ending))
    columns = find_edge_columns(table, {"user": ("user_id",), "item": ("item_id",)})
    found = pa.concat_tables([one.table for one in stream_edges(table, columns)]).to_pandas()
    assert found["weight"].tolist() == rows["rating"].tolist()
    items = pd.DataFrame({"item_id": range(8), "studio": list("abcdabcd"), "year": range(8)})
    known = read_attributes(find_table(in_parts(tmp_path / "items", items, ending)), "item_id")
    assert known.ids.to_pylist() in ([*range(8)], [*"01234567"])
    assert known.columns["studio"].tolist() == list("abcdabcd")
    assert known.columns["year"].tolist() == [*range(8)]


def test_a_bad_part_of_another_table_is_named(tmp_path, rows):
    in_parts(tmp_path / "pairs", rows, ".csv", count=2)
    write(tmp_path / "pairs" / "part-00001.csv", "user_id,item_id\n1,2\n1,x\n")
    with pytest.raises(DataError, match=r"part-00001\.csv: row 3: item_id is no whole number"):
        list(stream_columns(find_table(tmp_path / "pairs"), {"item_id": pa.int64()}))
    write(tmp_path / "items" / "a.csv", "item_id,x\n1,2\n")
    write(tmp_path / "items" / "b.csv", "item_id,y\n1,2\n")
    with pytest.raises(DataError, match=r"b\.csv: has the columns item_id, y, and .*a\.csv item_i"):
        read_attributes(find_table(tmp_path / "items"), "item_id")
    write(tmp_path / "new" / "a.csv", "user_id,item_id,rating\n")
    write(tmp_path / "new" / "b.csv", "user_id,item_id,rating\n")
    with pytest.raises(EmptyFileError, match="new: holds no rating"):
        scale, known = RatingScale(1, 5), IdMap(pa.array([1]))
        read_new_ratings(find_table(tmp_path / "new"), known, scale, pa.int64())


# --- prepared data sets --------------------------------------------------------------------------


def arrays_of(path):
    return {
        file.relative_to(path).as_posix(): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name != "dataset.json"
    }


def test_a_data_set_is_the_same_from_parts(tmp_path, rows):
    """To the byte, but for what it says of its sources; those of a copy it calls the same."""
    clear_memory()
    folder = as_spark(in_parts(tmp_path / "ratings", rows, ".parquet"))
    place = copied(folder, place_of("memory://lake/ratings"))
    file = write(tmp_path / "ratings.parquet", rows)
    items = pd.DataFrame({"item_id": range(100, 130), "studio": [*"abc"] * 10})
    in_parts(tmp_path / "items", items, ".csv")
    trusts = rows[:50].rename(columns={"item_id": "to_user_id"}).assign(to_user_id=lambda t: 7)
    in_parts(tmp_path / "trust", trusts[["user_id", "to_user_id"]], ".csv")
    for name, source in (("file", file), ("folder", folder), ("store", place), ("uri", str(place))):
        options = PrepareOptions(
            text=False,
            item_table=tmp_path / "items",
            relation={"trusts": place_of(f"{tmp_path}/trust/*.csv")},
        )
        prepare(source, tmp_path / name, options)
    whole = arrays_of(tmp_path / "file")
    assert all(arrays_of(tmp_path / name) == whole for name in ("folder", "store", "uri"))
    metas = {
        name: json.loads((tmp_path / name / "dataset.json").read_text())
        for name in ("file", "folder", "store", "uri")
    }
    assert metas["folder"] == metas["store"] == metas["uri"]
    source, table, relation = metas["store"]["sources"]
    assert (source["file"], source["parts"]) == ("ratings", 4)
    assert (table["file"], table["parts"], table["as"]) == ("items", 4, "item table")
    assert (relation["file"], relation["parts"]) == ("*.csv", 4)
    assert RatingDataset.open(tmp_path / "store").faults() == []
    clear_memory()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def test_a_file_at_an_address_of_the_web_is_read_and_its_token_kept_back(tmp_path, rows, capsys):
    pytest.importorskip("aiohttp", reason="no aiohttp, by which fsspec reads http://")
    (tmp_path / "web").mkdir()
    write(tmp_path / "web" / "a.csv", rows)
    handler = functools.partial(_Quiet, directory=tmp_path / "web")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        prepare(f"{address}/a.csv?token=verysecret", tmp_path / "there", PrepareOptions(text=False))
        with pytest.raises(DataError, match=r"/no\.csv: no such file or folder$") as error:
            prepare(f"{address}/no.csv?token=verysecret", tmp_path / "no")
        server.shutdown()
    prepare(tmp_path / "web" / "a.csv", tmp_path / "here", PrepareOptions(text=False))
    assert arrays_of(tmp_path / "there") == arrays_of(tmp_path / "here")
    written = [(tmp_path / name / "dataset.json").read_text() for name in ("here", "there")]
    told = str(error.value) + capsys.readouterr().err
    assert written[0] == written[1] and "verysecret" not in told + written[1]


def test_train_and_test_files_may_lie_in_parts(tmp_path, rows):
    file = write(tmp_path / "ratings.csv", rows)
    in_parts(tmp_path / "train", rows[:300], ".csv")
    in_parts(tmp_path / "test", rows[300:], ".csv")
    write(tmp_path / "train.csv", rows[:300])
    write(tmp_path / "test.csv", rows[300:])
    given_ = {"train_file": tmp_path / "train", "test_file": tmp_path / "test"}
    prepare(file, tmp_path / "parts", PrepareOptions(text=False, **given_))
    given_ = {name: path.with_suffix(".csv") for name, path in given_.items()}
    prepare(file, tmp_path / "whole", PrepareOptions(text=False, **given_))
    assert arrays_of(tmp_path / "parts") == arrays_of(tmp_path / "whole")


def test_a_data_set_is_kept_here(tmp_path, rows):
    with pytest.raises(UsageError, match="s3://b/data: is in a store; give a path of this machine"):
        prepare(write(tmp_path / "a.csv", rows), "s3://key:secret@b/data")


def test_named_columns_are_part_of_what_a_data_set_is(tmp_path, rows):
    file = write(tmp_path / "a.csv", rows.assign(other=rows["rating"].to_numpy()[::-1]))
    options = PrepareOptions(text=False, columns={"rating": "other"})
    by_name, plain = (
        prepare(file, tmp_path / name, one)
        for name, one in (("a", options), ("b", PrepareOptions(text=False)))
    )
    assert by_name.meta["columns"] == {"rating": "other"} and "columns" not in plain.meta
    assert by_name.fingerprint != plain.fingerprint


def test_layouts_are_found_before_parts(tmp_path):
    """A folder of MovieLens or the anime data set is none of parts, and one that lacks the ratings
    is told so."""
    write(tmp_path / "ml" / "u.data", "1\t2\t3\t4\n")
    write(tmp_path / "ml" / "other.csv", "x\n")
    assert open_source(tmp_path / "ml").format == sources.MOVIELENS
    write(tmp_path / "anime" / "anime.csv", "MAL_ID,Name,Genres\n")
    with pytest.raises(DataError, match=r"no ratings here; found anime\.csv, expected"):
        open_source(tmp_path / "anime")
