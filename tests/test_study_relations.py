"""The study of relations: its variants are those that the data set has anything of."""

import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from dglrec.dataset import PrepareOptions, prepare
from dglrec.errors import DataError, UsageError
from dglrec.study import discover, read_study, run_study, running
from dglrec.train import train

USERS, ITEMS = 40, 20
SMALL = ("train.epochs=1", "model.embedding_size=4", "model.decoder_size=4", "model.heads=both")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    rng = np.random.default_rng(2)

    def write(name, columns, rows):
        pd.DataFrame(rows, columns=columns).to_csv(folder / name, index=False)

    rows = [
        (user, item, int(rng.integers(1, 6)))
        for user in range(USERS)
        for item in rng.choice(ITEMS, 4 + user % 14, replace=False)
    ]
    write("ratings.csv", ["user_id", "item_id", "rating"], rows)
    write("items.csv", ["item_id", "genres"], [(n, ("Drama", "Comedy")[n % 2]) for n in range(20)])
    write("users.csv", ["user_id", "home"], [(n, ("north", "south")[n % 2]) for n in range(40)])
    write("trust.csv", ["user_id", "to_user_id"], [(n, (n + 3) % 40) for n in range(40)])
    write("likes.csv", ["item_id", "to_item_id"], [(n, (n + 3) % 20) for n in range(20)])
    return folder


def prepared(source, folder, **options):
    return prepare(source / "ratings.csv", folder, PrepareOptions(text=False, **options))


@pytest.fixture(scope="module")
def data(source, tmp_path_factory):
    relation = {"trusts": source / "trust.csv", "likes": source / "likes.csv"}
    tables = {"item_table": source / "items.csv", "user_table": source / "users.csv"}
    return prepared(source, tmp_path_factory.mktemp("data") / "data", relation=relation, **tables)


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("study") / "out"
    study = read_study("relations", assignments=SMALL)
    return out, run_study(study, data.path, out, seeds=[0])


def variants_on(dataset):
    return discover(read_study("relations"), lambda variant: dataset).variants


def test_variants_are_about_what_the_data_set_has(data, source, tmp_path):
    found = variants_on(data)
    assert {name: one.settings.model.relations for name, one in found.items()} == {
        "none": (),
        "item_columns": (),
        "item_nodes": ("has_genres",),
        "user_columns": (),
        "user_nodes": ("has_home",),
        "relation_trusts": ("trusts",),
        "relation_likes": ("likes",),
        "all": ("trusts", "likes"),
    }
    assert not any(one.of for one in found.values())
    assert "the relation trusts" in found["relation_trusts"].description
    assert [*variants_on(prepared(source, tmp_path / "bare"))] == ["none"]
    genres = prepared(source, tmp_path / "genres", item_table=source / "items.csv")
    assert [*variants_on(genres)] == ["none", "item_columns", "item_nodes"]
    trust = prepared(source, tmp_path / "trust", relation={"trusts": source / "trust.csv"})
    assert [*variants_on(trust)] == ["none", "relation_trusts"]


def test_all_of_it_is_trained_and_compared(data, finished, tmp_path, monkeypatch):
    out, result = finished
    rows = {row["name"]: row for row in result["variants"]}
    assert [*rows] == [*variants_on(data)]
    assert all(row["runs"] == 1 for row in rows.values())
    assert [name for name, row in rows.items() if row["difference"] is None] == ["none"]
    figures = {row["rmse"]["value"] for row in rows.values()}
    assert len(figures) == len(rows)  # each reads something that the others do not
    assert not any("same weights" in note for note in result["notes"])
    record = json.loads((out / "study.json").read_text())
    assert record["variants"]["relation_likes"]["model"]["relations"] == ["likes"]

    def refuse(*arguments, **options):
        raise AssertionError("a run was trained")

    monkeypatch.setattr(running, "train", refuse)
    study = read_study("relations", assignments=SMALL)
    assert run_study(study, data.path, out, seeds=[0])["variants"] == result["variants"]
    lists = run_study(study, data.path, out, seeds=[0], ranking=5)
    assert lists["metrics"][0] == "ndcg@5"


def test_users_with_few_ratings_stand_apart(data, finished, monkeypatch):
    out, _ = finished
    monkeypatch.setattr(running, "train", None)
    study = read_study("relations", assignments=SMALL)
    result = run_study(study, data.path, out, seeds=[0], at_most=6)
    assert result["at_most"] == 6
    assert result["notes"][0] == "only users with at most 6 training ratings"
    degrees = data.graph.by_user.degrees
    for row in result["variants"]:
        sums = pq.read_table(out / "sums" / row["name"] / "seed-0.parquet").to_pandas()
        few = sums[[degrees[int(user)] <= 6 for user in sums["user_id"]]]
        assert 0 < row["users"] < USERS and (row["users"], row["rows"]) == (
            len(few),
            few["n"].sum(),
        )
        assert row["rmse"]["value"] == pytest.approx(np.sqrt(few["rmse"].sum() / few["n"].sum()))
        assert row["baseline"] is None
    assert "at most 6" in (out / "results.md").read_text()
    with pytest.raises(DataError, match="no user of test has at most 0"):
        run_study(study, data.path, out, seeds=[0], at_most=0)


def test_a_source_is_prepared_before_its_relations_are_known(source, tmp_path, monkeypatch):
    given = [*SMALL, "prepare.text=false", f"prepare.relation=trusts={source / 'trust.csv'}"]
    study = read_study("relations", assignments=given)
    seen = []

    def watched(dataset, run, *arguments, **options):
        seen.append(run.parent.name)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return train(dataset, run, *arguments, **options)

    monkeypatch.setattr(running, "train", watched)
    with pytest.raises(KeyboardInterrupt):
        run_study(study, source / "ratings.csv", tmp_path / "out", seeds=[0])
    result = run_study(study, source / "ratings.csv", tmp_path / "out", seeds=[0])
    assert seen == ["none", "relation_trusts", "relation_trusts"]
    assert [row["name"] for row in result["variants"]] == ["none", "relation_trusts"]


def test_a_choice_is_one_of_what_there_is(data, tmp_path):
    study = read_study("relations", assignments=SMALL)
    with pytest.raises(UsageError, match="no such variant; did you mean relation_trusts"):
        run_study(study, data.path, tmp_path / "out", only=["relation_trust"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('of = "relations"', "write .* or a list of some of item_features"),
        ('of = ["genres"]', "write .* or a list of some of item_features"),
        ('of = ["each_relation", "relations"]', "each_relation"),
    ],
)
def test_what_variants_cannot_be_about_is_refused(line, message, tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(f'reference = "a"\nseeds = [0]\n[variants.a]\n[variants.b]\n{line}\n')
    with pytest.raises(UsageError, match=message):
        read_study(str(file))
    file.write_text('reference = "a"\nseeds = [0]\n[variants.a]\nof = ["relations"]\n')
    with pytest.raises(UsageError, match="reference 'a' has `of`"):
        read_study(str(file))
