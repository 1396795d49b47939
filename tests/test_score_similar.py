"""Similar items: the largest cosines, none of items that the model knows nothing of."""

import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from runs import make_settings
from stores import clear_memory
from test_cli import dglrec_command, refused  # noqa: F401 - fixtures

from dglrec.config import build_settings
from dglrec.dataset import PrepareOptions, prepare
from dglrec.errors import DataError, DglrecError, UsageError
from dglrec.infer import comparable_items, nearest_items
from dglrec.ingest import Frame
from dglrec.places import place_of
from dglrec.run import open_run
from dglrec.score import similar, similar_table, write_similar
from dglrec.train import train

ITEMS = [f"i{number:02d}" for number in range(20)]
NEW = ["z1", "z2", "z3"]  # in test rows alone
TAGGED = NEW[0]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Clicks on 20 items, three more in test rows alone; one of these has a tag."""
    folder = tmp_path_factory.mktemp("data")
    pairs = np.random.default_rng(0).permutation(30 * 20)[:300]
    clicks = pd.DataFrame({"user_id": pairs // 20, "item_id": [ITEMS[n] for n in pairs % 20]})
    held_out = pd.DataFrame({"user_id": [0, 1, 2], "item_id": NEW})
    clicks.to_csv(folder / "train.csv", index=False)
    held_out.to_csv(folder / "test.csv", index=False)
    items = pd.DataFrame({"item_id": [*ITEMS, *NEW], "genres": "", "maker": ""})
    items.loc[::2, ["genres", "maker"]] = "a", "b"
    items.loc[items["item_id"].isin(NEW), ["genres", "maker"]] = ""
    items.loc[items["item_id"] == TAGGED, ["genres", "maker"]] = "a", "b"
    items.to_csv(folder / "items.csv", index=False)
    return prepare(
        folder / "train.csv",
        folder / "data",
        PrepareOptions(
            text=False,
            item_table=folder / "items.csv",
            train_file=folder / "train.csv",
            test_file=folder / "test.csv",
        ),
    )


def trained_with(data, folder, **model):
    train(data, folder, make_settings({"heads": "lists", "item_items": "none", **model}, epochs=1))
    return open_run(folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return tmp_path_factory.mktemp("model") / "run"


@pytest.fixture(scope="module")
def trained(data, run):
    """A model that reads clicks alone."""
    return trained_with(data, run, item_features=False)


def asked(*ids):
    return Frame.of(pd.DataFrame({"item_id": ids}), "items")


def test_neighbours_are_the_largest_cosines_of_the_candidates():
    random = torch.Generator().manual_seed(0)
    vectors = torch.randn(40, 5, generator=random)
    vectors[7] = vectors[3] * 2  # of equal cosines the first
    among = torch.arange(0, 40, 3)
    wanted = torch.tensor([3, 8, 39])
    for candidates in (None, among):
        allowed = np.arange(40) if candidates is None else candidates.numpy()
        cosines, nearest = nearest_items(vectors, wanted, 6, candidates)
        units = vectors.double().numpy()
        units = units / np.linalg.norm(units, axis=1, keepdims=True)
        for item, found, values in zip(wanted, nearest, cosines, strict=True):
            others = allowed[allowed != int(item)]
            expected = units[others] @ units[item]
            best = others[np.argsort(-expected.astype(np.float32), kind="stable")[:6]]
            assert found.tolist() == best.tolist()
            np.testing.assert_allclose(values, np.sort(expected)[::-1][:6], atol=1e-6)


def test_a_vector_that_is_not_finite_is_an_error():
    with pytest.raises(DglrecError, match="not finite"):
        nearest_items(torch.tensor([[1.0], [torch.nan]]), torch.tensor([0]), 1)


@pytest.mark.parametrize(
    "model",
    [
        {"item_features": ["genres"]},
        {"item_features": False, "relations": ["has_maker"]},
    ],
)
def test_items_that_a_model_reads_something_of_can_be_compared(data, tmp_path, model):
    found = trained_with(data, tmp_path / "run", **model)
    comparable = comparable_items(found.model, data.graph, found.directions)
    assert data.items.decode(comparable.nonzero().squeeze(1).numpy()).to_pylist() == [
        *ITEMS,
        TAGGED,
    ]
    table = similar_table(found, None, 3).to_pandas()
    assert table["item_id"].unique().tolist() == [*ITEMS, TAGGED]
    assert not {*NEW[1:]} & set(table["similar_id"])


def test_items_without_a_row_are_left_out_of_all(trained, capfd):
    table = similar_table(trained, None, 19).to_pandas()
    assert len(table) == 20 * 19 and set(table["similar_id"]) == set(ITEMS)
    assert "3 items left out: no training row" in capfd.readouterr().err
    vectors = trained.embeddings.nodes.items.double().numpy()[:20]
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    expected = units @ units.T
    np.fill_diagonal(expected, -np.inf)
    found = table["similarity"].to_numpy().reshape(20, 19)
    np.testing.assert_allclose(found, -np.sort(-expected)[:, :19], atol=1e-6)


def test_an_item_without_a_row_is_refused_or_left_out(trained, capfd):
    with pytest.raises(DataError, match=r"items: item_id z1, z3 \(2 items in all\)") as raised:
        similar_table(trained, asked("z3", "i04", "z1"), 2)
    assert "--unknown skip" in str(raised.value)
    found = similar_table(trained, asked("z3", "i04", "nobody"), 2, "skip")
    assert found["item_id"].to_pylist() == ["i04"] * 2
    assert "1 item left out" in capfd.readouterr().err
    with pytest.raises(DataError, match=r"z1, z2, z3 \(3 items in all\)") as raised:
        similar_table(trained, asked(*NEW), 2, "skip")
    assert "--unknown" not in str(raised.value)


@pytest.mark.parametrize("k", [-1, 0, 20])
def test_k_is_held_against_the_items_that_can_be_compared(trained, k):
    with pytest.raises(UsageError, match=f"k = {k}: must be from 1 to 19, the number of other"):
        similar_table(trained, None, k)


def test_a_file_holds_the_rows_of_the_table(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(similar, "_ROWS_AT_ONCE", 12)
    figures = write_similar(trained, tmp_path / "new" / "out.parquet", None, 4)
    assert figures | {"out": ""} == {"out": "", "items": 20, "left_out": 3, "rows": 80}
    written = pq.read_table(tmp_path / "new" / "out.parquet")
    assert written.equals(similar_table(trained, None, 4))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out.parquet"]


def test_a_file_in_a_store_is_the_same(trained):
    clear_memory()
    out = place_of("memory://lake/out.parquet")
    write_similar(trained, out, asked("i03"), 4)
    written = pq.read_table(out.store.filesystem.open_input_file(out.address))
    assert written.equals(similar_table(trained, asked("i03"), 4))
    with pytest.raises(UsageError, match=r"memory://lake/out.parquet exists"):
        write_similar(trained, out, None, 4)
    assert write_similar(trained, out, None, 4, overwrite=True)["items"] == 20


def test_the_verb(run, trained, tmp_path, dglrec_command, refused):  # noqa: F811
    out = tmp_path / "out.parquet"
    (tmp_path / "items.csv").write_text("item_id\ni07\nz1\n")
    command = ["similar", run, out, "--top-k", 3]
    some = [*command, "--items", tmp_path / "items.csv"]
    assert "item_id z1 (1 item in all)" in refused(3, *some)
    assert "must be from 1 to 19" in refused(2, *command[:-1], 20)
    assert "Missing option '--top-k'" in refused(2, *command[:-2])
    assert not out.exists()
    outcome = dglrec_command(*some, "--unknown", "skip", "--json")
    assert outcome.code == 0
    assert json.loads(outcome.out) == {"out": str(out), "items": 1, "left_out": 1, "rows": 3}
    assert "1 item left out" in outcome.err
    table = pd.read_parquet(out)
    assert table.columns.tolist() == ["item_id", "similar_id", "rank", "similarity"]
    assert table["rank"].tolist() == [1, 2, 3] and set(table["item_id"]) == {"i07"}
    assert f"{out} exists" in refused(2, *command)
    outcome = dglrec_command(*command, "--overwrite")
    assert (outcome.code, "rows: 60" in outcome.out) == (0, True)
    clicks = tmp_path / "items.csv"
    for mine in (clicks, trained.dataset.path / "test.parquet"):
        before = mine.read_bytes()
        message = refused(2, "similar", run, mine, "--top-k", 3, "--overwrite")
        assert "is no file of dglrec similar" in message and mine.read_bytes() == before
    assert "is a folder" in refused(2, "similar", run, tmp_path, "--top-k", 3)


def test_a_baseline_has_no_vectors(data, tmp_path, refused):  # noqa: F811
    train(data, tmp_path / "run", build_settings({"model": {"kind": "popularity"}}))
    message = refused(2, "similar", tmp_path / "run", tmp_path / "out.parquet", "--top-k", 3)
    assert "is a run of the popularity baseline" in message and "needs a graph model" in message
