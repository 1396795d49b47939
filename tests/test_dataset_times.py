"""Prepared data sets with timestamps: each rating keeps its own, and nothing else changes."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from proofs import as_of_an_earlier_version

from dglrec import schema
from dglrec.config import build_settings
from dglrec.dataset import DATASET_FILE, PrepareOptions, RatingDataset, prepare
from dglrec.errors import DataError, UsageError
from dglrec.graph import build_graph
from dglrec.schema import RatingScale
from dglrec.train import train

TIMES_FILE = "train/by_user_times.npy"


def ratings(count=400, users=30, items=25, seed=0):
    """Distinct pairs in no order; the time of a pair follows from it, so that it can be checked."""
    generator = np.random.default_rng(seed)
    pairs = generator.permutation(users * items)[:count]
    user, item = pairs // items, pairs % items
    return pd.DataFrame(
        {
            "user_id": user + 100,
            "item_id": item + 7,
            "rating": generator.integers(1, 6, count),
            "timestamp": time_of(user + 100, item + 7),
        }
    )


def time_of(users, items):
    return 1_000_000_000 + (users * 7919 + items * 104_729) % 100_003


def prepared(tmp_path, frame, name="data", **options):
    frame.to_csv(tmp_path / f"{name}.csv", index=False)
    return prepare(tmp_path / f"{name}.csv", tmp_path / name, PrepareOptions(text=False, **options))


@pytest.mark.parametrize("split", ["random", "time", "last", "user"])
def test_each_rating_keeps_its_time(tmp_path, split):
    dataset = prepared(tmp_path, ratings(), split=split, valid=0.2, test=0.2)
    graph = dataset.graph
    users = dataset.users.decode(np.repeat(np.arange(graph.num_users), graph.by_user.degrees))
    items = dataset.items.decode(np.asarray(graph.by_user.neighbours))
    assert graph.times is not None and graph.times.dtype == np.int64
    assert np.array_equal(graph.times, time_of(users.to_numpy(), items.to_numpy()))
    for part in ("valid", "test"):
        rows = dataset.held_out(part)
        expected = time_of(
            dataset.users.decode(rows.users.numpy()).to_numpy(),
            dataset.items.decode(rows.items.numpy()).to_numpy(),
        )
        assert rows.times is not None and np.array_equal(rows.times.numpy(), expected)
        some = dataset.held_out(part, 3, 9)
        assert torch.equal(some.times, rows.times[3:9])
        if split == "time":
            assert int(rows.times.min()) >= graph.times.max()


def test_without_timestamps_nothing_is_written_and_with_them_one_file_more(tmp_path):
    frame = ratings()
    timed = prepared(tmp_path, frame, "timed")
    plain = prepared(tmp_path, frame.drop(columns="timestamp"), "plain")
    assert plain.graph.times is None and not plain.has_times
    assert plain.held_out("test").times is None
    assert "times" not in plain.meta
    there, here = (
        {file.relative_to(one.path).as_posix() for file in one.path.rglob("*") if file.is_file()}
        for one in (timed, plain)
    )
    assert there - here == {TIMES_FILE} and here <= there
    for name in here - {DATASET_FILE, "valid.parquet", "test.parquet"}:
        assert (timed.path / name).read_bytes() == (plain.path / name).read_bytes(), name


def test_a_data_set_of_an_earlier_version_opens_and_has_the_same_fingerprint(tmp_path):
    dataset = prepared(tmp_path, ratings())
    earlier = shutil.copytree(dataset.path, tmp_path / "earlier")
    (earlier / TIMES_FILE).unlink()
    as_of_an_earlier_version(earlier, "times")
    for part in ("valid", "test"):
        rows = pd.read_parquet(earlier / f"{part}.parquet")
        rows.drop(columns=schema.TIMESTAMP).to_parquet(earlier / f"{part}.parquet", index=False)
    opened = RatingDataset.open(earlier)
    assert opened.fingerprint == dataset.fingerprint
    assert opened.graph.times is None and opened.held_out("test").times is None


@pytest.mark.parametrize("how", ["missing", "short", "truncated", "floats"])
def test_damaged_times_are_refused_on_opening(tmp_path, how):
    dataset = prepared(tmp_path, ratings())
    file = dataset.path / TIMES_FILE
    times, content = np.load(file), file.read_bytes()
    file.unlink()
    if how == "short":
        np.save(file, times[:-1])
    elif how == "floats":
        np.save(file, times.astype(float))
    elif how == "truncated":
        file.write_bytes(content[:-8])
    with pytest.raises(DataError, match="times"):
        RatingDataset.open(dataset.path)


def test_times_are_memory_mapped(tmp_path):
    times = prepared(tmp_path, ratings()).graph.times
    assert not times.flags.owndata


def test_a_graph_of_rows_in_any_order_has_the_same_times():
    generator = np.random.default_rng(1)
    pairs = generator.permutation(20 * 15)[:120]
    users, items, times = pairs // 15, pairs % 15, generator.integers(-5, 10**15, 120)
    order = np.lexsort((items, users))
    graph = build_graph(
        users,
        items,
        np.zeros(120, dtype=np.uint8),
        num_users=21,
        num_items=15,
        scale=RatingScale(1, 5, 1),
        times=times,
    )
    assert np.array_equal(graph.times, times[order])


def test_a_refusal_leaves_the_run_that_was_to_be_replaced(tmp_path):
    pd.DataFrame({"user_id": [100, 101], "item_id": [7, 8]}).to_csv(tmp_path / "wants.csv")
    data = prepared(tmp_path, ratings(), relation={"wants": tmp_path / "wants.csv"})
    run, few = tmp_path / "run", {"train": {"epochs": 1}}
    train(data, run, build_settings(few))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    asked = build_settings({**few, "model": {"relations": ["wants"], "time_decay": True}})
    with pytest.raises(UsageError, match="relation wants is between users and items"):
        train(data, run, asked, overwrite=True)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
