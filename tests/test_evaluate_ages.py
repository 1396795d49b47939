"""Figures by age, held against pandas over the rows themselves."""

import numpy as np
import pandas as pd
import pytest
import torch

from dglrec.baselines import BaselineConfig, fit_model
from dglrec.cli.output import print_evaluation
from dglrec.dataset import PrepareOptions, prepare
from dglrec.distributed import ALONE
from dglrec.evaluate import evaluate
from dglrec.evaluate.ages import by_age
from dglrec.run import TrainedBaseline


def prepared(folder, split, *, timed=True):
    generator = np.random.default_rng(2)
    pairs = generator.permutation(60 * 40)[:900]
    first = generator.integers(0, 5000, 60)  # some users come late, and have no training rating
    rows = pd.DataFrame(
        {
            "user_id": pairs // 40,
            "item_id": pairs % 40,
            "rating": generator.integers(1, 6, 900),
            "timestamp": first[pairs // 40] + generator.integers(0, 2000, 900),
        }
    )
    rows = rows if timed else rows.drop(columns="timestamp")
    rows.to_csv(folder / "rows.csv", index=False)
    options = PrepareOptions(text=False, split=split, valid=0.1, test=0.2)
    return prepare(folder / "rows.csv", folder / "data", options)


def trained_on(dataset):
    model, _ = fit_model("bias", dataset, BaselineConfig())
    return TrainedBaseline(baseline=model, dataset=dataset, meta={}, world=ALONE)


@pytest.mark.parametrize("split", ["time", "random"])
def test_rows_are_grouped_by_time_since_the_users_last_rating(tmp_path, split, capsys):
    dataset = prepared(tmp_path, split)
    trained = trained_on(dataset)
    result = evaluate(trained, "test", details=True)
    found = result["details"]["by_age"]
    graph, rows = dataset.graph, dataset.held_out("test")
    users = np.repeat(np.arange(graph.num_users), graph.by_user.degrees)
    last = pd.Series(np.asarray(graph.times)).groupby(users).max()
    frame = pd.DataFrame(
        {
            "user": rows.users.numpy(),
            "time": rows.times.numpy(),
            "rating": rows.ratings.numpy(),
            "predicted": trained.predict(rows.users, rows.items).clamp(1, 5).numpy(),
        }
    )
    frame = frame[frame.user.isin(last.index)]
    assert len(frame) < len(rows) if split == "time" else len(frame) == len(rows)
    age = frame.time - frame.user.map(last)
    assert sum(one["n"] for one in found) == len(frame)
    assert len(found) == 5 and max(one["n"] for one in found) < len(frame) / 3
    for before, one in zip([None, *found], found, strict=False):
        group = frame[(age >= one["from"]) & (age <= one["to"])]
        assert len(group) == one["n"]
        assert one["from"] in set(age) and one["to"] in set(age)
        assert before is None or before["to"] < one["from"]
        error = group.predicted - group.rating
        assert one["rmse"] == pytest.approx(np.sqrt((error**2).mean()), rel=1e-5)
        assert one["mean_error"] == pytest.approx(error.mean(), abs=1e-5)
        assert one["baselines"]["bias"]["rmse"] == pytest.approx(one["rmse"], rel=1e-6)
    print_evaluation(result)
    assert "by time since the user's last training rating" in capsys.readouterr().out


def test_rows_without_timestamps_have_no_ages(tmp_path):
    dataset = prepared(tmp_path, "random", timed=False)
    assert "by_age" not in evaluate(trained_on(dataset), "test", details=True)["details"]
    (tmp_path / "timed").mkdir()
    timed = prepared(tmp_path / "timed", "random")
    assert "by_age" not in evaluate(trained_on(timed), "train", details=True)["details"]


def test_rows_of_the_same_age_are_one_group(tmp_path):
    dataset = prepared(tmp_path, "random")
    rows = dataset.held_out("test")
    last = dataset.graph.last_times()[rows.users.numpy()]
    rows = type(rows)(rows.users, rows.items, rows.ratings, None, torch.from_numpy(last + 7))
    ages = by_age(rows, dataset, ALONE)
    assert ages.ranges == [(7, 7)] and set(ages.grouping.of(slice(None))) == {0}
