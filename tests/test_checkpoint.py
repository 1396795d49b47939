"""A checkpoint is read back as it was written, or refused; nothing in it ever runs."""

import errno
import hashlib
import json
import pickle
import shutil
import zipfile
from pathlib import Path

import pytest
import torch

from dglrec import checkpoint
from dglrec.checkpoint import SCHEMA_VERSION, load_checkpoint, load_state, save_checkpoint
from dglrec.errors import DataError, DglrecError, UsageError

FILES = ("model.safetensors", "state.pt", "meta.json")
META = {"epoch": 3, "rmse": 1.0625, "config": {"fanouts": [10, -1], "name": "überall"}}


def weights(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "layer.weight": torch.randn(4, 3, generator=generator),
        "layer.bias": torch.randn(4, generator=generator),
        "half": torch.randn(2, generator=generator).to(torch.bfloat16),
        "counts": torch.arange(5),
        "empty": torch.empty(0, 3),
        "scalar": torch.tensor(2.5),
    }


def state():
    """What a training run goes on from: of an optimiser and of generators."""
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([parameter], lr=0.01)
    parameter.sum().backward()
    optimizer.step()
    return {
        "optimizer": optimizer.state_dict(),
        "generator": torch.get_rng_state(),
        "best": 0.5,
        "history": [1, None, "x", (2, 3.5), True],
    }


def same(a, b):
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "run" / "last"
    save_checkpoint(path, weights(), state(), META)
    return path


def load_all(folder):
    return load_checkpoint(folder), load_state(folder)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def correct_checksums(folder):
    """Make every checksum right again, as one who wants to be believed would."""
    meta = json.loads((folder / "meta.json").read_text())
    for name in ("model.safetensors", "state.pt"):
        meta["sha256"][name] = digest(folder / name)
    described = {name: value for name, value in meta.items() if name != "sha256"}
    meta["sha256"]["meta.json"] = checkpoint._digest(described)
    (folder / "meta.json").write_text(json.dumps(meta))


def test_what_was_written_is_read_back(folder):
    loaded, loaded_state = load_all(folder)
    assert same(loaded.weights, weights())
    assert same(loaded_state, state())
    assert {name: loaded.meta[name] for name in META} == META
    assert loaded.meta["schema_version"] == SCHEMA_VERSION
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    assert [path.name for path in folder.parent.iterdir()] == ["last"]  # nothing temporary


def test_weights_that_need_gradients_or_lie_across_memory(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    model = {
        "parameter": torch.nn.Parameter(base.clone()),
        "transposed": base.t(),
        "rows": base[1:],
    }
    save_checkpoint(tmp_path / "c", model, {}, {})
    loaded = load_checkpoint(tmp_path / "c").weights
    assert torch.equal(loaded["parameter"], base)
    assert torch.equal(loaded["transposed"], base.t())
    assert torch.equal(loaded["rows"], base[1:])


def test_a_model_goes_on_as_it_was(tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    model(torch.randn(5, 3))
    save_checkpoint(tmp_path / "c", model.state_dict(), {}, {})
    other = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    other.load_state_dict(load_checkpoint(tmp_path / "c").weights)
    assert same(dict(other.state_dict()), dict(model.state_dict()))


def test_a_later_checkpoint_takes_the_place_of_the_earlier(folder):
    save_checkpoint(folder, weights(seed=1), {"step": 9}, {"epoch": 4, 7: "a key becomes text"})
    loaded, loaded_state = load_all(folder)
    assert same(loaded.weights, weights(seed=1))
    assert loaded_state == {"step": 9}
    assert loaded.meta["epoch"] == 4
    assert loaded.meta["7"] == "a key becomes text"
    assert "rmse" not in loaded.meta
    assert [path.name for path in folder.parent.iterdir()] == ["last"]


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_refused(folder, name):
    whole = (folder / name).read_bytes()
    size = len(whole)
    # The last byte of meta.json is its line's end, which says nothing.
    last = size - 2 if name == "meta.json" else size - 1
    for length in sorted({0, 1, 7, 8, 9, size // 4, size // 2, 3 * size // 4, last}):
        (folder / name).write_bytes(whole[:length])
        with pytest.raises(DataError) as caught:
            load_all(folder)
        assert str(folder / name) in str(caught.value), length
        assert caught.value.exit_code == 3
    (folder / name).write_bytes(whole)
    load_all(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_refused_or_changes_nothing(folder, name):
    whole = bytearray((folder / name).read_bytes())
    expected, expected_state = load_all(folder)
    refused = 0
    positions = range(0, len(whole), 1 if name == "meta.json" else max(1, len(whole) // 60))
    for position in positions:
        damaged = bytearray(whole)
        damaged[position] ^= 1 << (position % 8)
        (folder / name).write_bytes(damaged)
        try:
            loaded, loaded_state = load_all(folder)
        except DataError:
            refused += 1
            continue
        # A space of meta.json that became another white space.
        assert same(loaded.weights, expected.weights), position
        assert same(loaded_state, expected_state)
        assert loaded.meta == expected.meta
    assert refused >= 0.8 * len(positions)
    if name != "meta.json":
        assert refused == len(positions)


def test_an_edited_description_is_refused(folder):
    meta = json.loads((folder / "meta.json").read_text())
    meta["config"]["fanouts"] = [5, -1]
    (folder / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(DataError, match="altered"):
        load_checkpoint(folder)
    with pytest.raises(DataError, match="altered"):
        load_state(folder)


def test_a_description_laid_out_otherwise_is_read(folder):
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps(dict(reversed(meta.items()))))
    assert load_checkpoint(folder).meta["config"] == META["config"]


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_missing(folder, name):
    (folder / name).unlink()
    with pytest.raises(DataError, match="no such file") as caught:
        load_all(folder)
    assert str(folder / name) in str(caught.value)


def test_a_checkpoint_that_is_missing(tmp_path):
    for load in (load_checkpoint, load_state):
        with pytest.raises(DataError, match="no such checkpoint"):
            load(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "file")


@pytest.mark.parametrize("version", [0, SCHEMA_VERSION + 1, None, "1"])
def test_another_schema_version_is_refused(folder, version):
    meta = json.loads((folder / "meta.json").read_text())
    meta["schema_version"] = version
    (folder / "meta.json").write_text(json.dumps(meta))
    correct_checksums(folder)
    for load in (load_checkpoint, load_state):
        with pytest.raises(DataError, match=f"schema version {version}"):
            load(folder)


@pytest.mark.parametrize("checksums", [None, [], "x", {}, {"state.pt": None}])
def test_a_description_without_checksums_is_refused(folder, checksums):
    meta = json.loads((folder / "meta.json").read_text())
    meta["sha256"] = checksums
    (folder / "meta.json").write_text(json.dumps(meta))
    for load in (load_checkpoint, load_state):
        with pytest.raises(DataError, match="checksum"):
            load(folder)


class Payload:
    """Unpickled by the plain pickle module, it makes a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


def plain_pickle(path, payload):
    path.write_bytes(pickle.dumps(payload, protocol=2))


def torch_zip(path, payload):
    torch.save({"best": payload}, path)


def torch_legacy(path, payload):
    torch.save({"best": payload}, path, _use_new_zipfile_serialization=False)


def payload_beside_the_state(path, payload):
    """The state as it was, its pickle alone swapped for another inside the archive."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(
                name, pickle.dumps(payload, 2) if name.endswith("data.pkl") else content
            )


@pytest.mark.parametrize(
    "plant",
    [plain_pickle, torch_zip, torch_legacy, payload_beside_the_state],
    ids=lambda f: f.__name__,
)
def test_a_planted_pickle_never_runs(folder, tmp_path, plant):
    trace = tmp_path / "ran"
    plant(folder / "state.pt", Payload(trace))
    with pytest.raises(DataError):  # by its checksum
        load_state(folder)
    correct_checksums(folder)
    with pytest.raises(DataError, match="refused") as caught:
        load_state(folder)
    assert str(folder / "state.pt") in str(caught.value)
    # torch's message names a way to load the file all the same, which nobody should be told.
    assert "weights_only" not in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 2
    load_checkpoint(folder)
    assert not trace.exists()
    # The payload is a real one: what is refused here would have run elsewhere.
    plain = tmp_path / "plain"
    plain_pickle(plain, Payload(trace))
    pickle.loads(plain.read_bytes())
    assert trace.exists()


def test_a_pickle_in_place_of_the_weights_never_runs(folder, tmp_path):
    trace = tmp_path / "ran"
    plain_pickle(folder / "model.safetensors", Payload(trace))
    correct_checksums(folder)
    with pytest.raises(DataError, match="not readable as safetensors"):
        load_checkpoint(folder)
    torch_zip(folder / "model.safetensors", Payload(trace))
    correct_checksums(folder)
    with pytest.raises(DataError, match="not readable as safetensors"):
        load_checkpoint(folder)
    assert not trace.exists()


def test_a_state_of_another_form_is_refused(folder):
    torch.save([1, 2], folder / "state.pt")
    correct_checksums(folder)
    with pytest.raises(DataError, match="holds no state"):
        load_state(folder)


STEPS = (
    "dglrec.checkpoint.save",
    "torch.save",
    "dglrec.checkpoint.sha256_of",
    "dglrec.checkpoint.write_json",
    "dglrec.files._flush",
)


@pytest.mark.parametrize("failing", STEPS)
@pytest.mark.parametrize("error", [OSError(5, "input/output error"), KeyboardInterrupt()])
def test_an_interrupted_save_leaves_the_old_one_whole(folder, monkeypatch, failing, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(failing, fail)
    with pytest.raises(type(error)):
        save_checkpoint(folder, weights(seed=1), {"step": 9}, {"epoch": 4})
    monkeypatch.undo()
    loaded, loaded_state = load_all(folder)
    assert same(loaded.weights, weights())
    assert same(loaded_state, state())
    assert loaded.meta["epoch"] == 3
    assert [path.name for path in folder.parent.iterdir()] == ["last"]


def test_a_full_disk_is_named_and_leaves_the_old_one_whole(folder, monkeypatch):
    def fill(path, content):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", fill)
    with pytest.raises(DglrecError, match="no space left") as caught:
        save_checkpoint(folder, weights(seed=1), {"step": 9}, {"epoch": 4})
    monkeypatch.undo()
    assert str(folder) in str(caught.value)
    assert load_checkpoint(folder).meta["epoch"] == 3


def test_an_interrupted_first_save_leaves_nothing(tmp_path, monkeypatch):
    def fail(*args):
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr("dglrec.checkpoint.write_json", fail)
    with pytest.raises(OSError, match="input/output"):
        save_checkpoint(tmp_path / "c", weights(), {}, {})
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_checkpoint_is_not_replaced(tmp_path):
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="holds no meta.json"):
        save_checkpoint(tmp_path / "c", weights(), {}, {})
    assert (tmp_path / "c" / "thesis.txt").read_text() == "mine"


def test_a_copied_checkpoint_is_read(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "elsewhere")
    assert same(load_checkpoint(tmp_path / "elsewhere").weights, weights())
