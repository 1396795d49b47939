"""An export says what the model says, by the reference that the documentation gives."""

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file

from dglrec import files
from dglrec.config import build_settings
from dglrec.dataset import PrepareOptions, prepare
from dglrec.errors import DglrecError, UsageError
from dglrec.export import export
from dglrec.files import sha256_of
from dglrec.metrics import clip
from dglrec.run import open_run
from dglrec.synthetic import synthesize
from dglrec.train import train

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module", params=[True, False], ids=["interaction", "no interaction"])
def trained(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    synthesize(folder / "source", users=60, items=30, ratings=900, seed=5)
    dataset = prepare(folder / "source", folder / "data", PrepareOptions(text=False))
    model = {"embedding_size": 8, "decoder_size": 5, "interaction": request.param}
    model["heads"] = "rating"
    train(dataset, folder / "run", build_settings({"train": {"epochs": 2}, "model": model}))
    return open_run(folder / "run")


def documented_reference():
    text = (ROOT / "docs" / "scoring.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (code,) = (block for block in blocks if "safetensors" in block)
    return code


def test_the_documented_reference_predicts_what_the_model_does(trained, tmp_path, monkeypatch):
    figures = export(trained, tmp_path / "exported")
    assert figures == {
        "out": str(tmp_path / "exported"),
        "users": 60,
        "items": trained.dataset.graph.num_items,
        "embedding_size": 8,
    }
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(documented_reference(), "scoring.md", "exec"), names)
    dataset = trained.dataset
    assert names["user_ids"] == dataset.users.ids.to_pylist()
    assert names["item_ids"] == dataset.items.ids.to_pylist()
    users, items = (np.arange(len(ids)) for ids in (dataset.users, dataset.items))
    users, items = (side.ravel() for side in np.meshgrid(users, items))
    expected = trained.scorer.pairs(torch.from_numpy(users), torch.from_numpy(items))
    found = names["predict"](users, items)
    assert np.allclose(found, clip(expected, dataset.scale), atol=1e-5)
    assert found.std() > 0.1  # not all the same


def test_the_documented_bias_of_somebody_new(trained, tmp_path):
    dataset = trained.dataset
    export(trained, tmp_path / "exported")
    damping = float(load_file(tmp_path / "exported" / "decoder.safetensors")["damping"])
    new = dataset.biases.of_new_users(dataset.graph.by_user, dataset.scale)
    by_user, biases = dataset.graph.by_user, dataset.biases
    row = by_user.of(7)
    ratings = dataset.scale.decode(by_user.codes[row])
    beyond = ratings - biases.mean - biases.items.numpy()[by_user.neighbours[row]]
    assert float(new.users[7]) == pytest.approx(beyond.sum() / (len(beyond) + damping), abs=1e-5)


def test_tables_are_typed_and_described(trained, tmp_path):
    export(trained, tmp_path / "out")
    described = json.loads((tmp_path / "out" / "export.json").read_text())
    assert described["sha256"] == {
        name: sha256_of(tmp_path / "out" / name)
        for name in ("users.parquet", "items.parquet", "decoder.safetensors")
    }
    assert described["dataset"] == trained.dataset.fingerprint
    assert described["model"]["weights"] == trained.meta["sha256"]["model.safetensors"]
    for name, ids in (("user", trained.dataset.users), ("item", trained.dataset.items)):
        table = pq.read_table(tmp_path / "out" / f"{name}s.parquet")
        assert table.column_names == [f"{name}_id", "embedding", "bias"]
        assert table.schema.types == [ids.ids.type, pa.list_(pa.float32(), 8), pa.float32()]
        assert table.column(0).to_pylist() == ids.ids.to_pylist()


def test_many_rows_are_written_a_stretch_at_a_time(trained, tmp_path, monkeypatch):
    export(trained, tmp_path / "whole")
    monkeypatch.setattr("dglrec.export._ROWS_AT_ONCE", 7)
    export(trained, tmp_path / "cut")
    for name in ("users.parquet", "items.parquet"):
        cut = pq.read_table(tmp_path / "cut" / name)
        assert cut.equals(pq.read_table(tmp_path / "whole" / name))


def test_an_existing_folder_is_replaced_only_when_told_to(trained, tmp_path):
    out = tmp_path / "out"
    export(trained, out)
    with pytest.raises(UsageError, match="--overwrite"):
        export(trained, out)
    (out / "users.parquet").write_text("old")
    export(trained, out, overwrite=True)
    assert pq.read_table(out / "users.parquet").num_rows == 60
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    with pytest.raises(UsageError, match=r"holds no export\.json"):
        export(trained, tmp_path / "mine", overwrite=True)


def test_a_full_disk_leaves_nothing(trained, tmp_path, monkeypatch):
    def full(path):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(files, "_flush", full)
    with pytest.raises(DglrecError, match="no space left"):
        export(trained, tmp_path / "out")
    assert not list(tmp_path.iterdir())
