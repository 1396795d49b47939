"""A checkpoint is read back as it was written, or refused; nothing in it ever runs."""

import errno
import hashlib
import json
import os
import pickle
import shutil
import signal
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from dglrec import checkpoint, files
from dglrec.checkpoint import (
    SCHEMA_VERSION,
    DamagedError,
    load_checkpoint,
    load_state,
    newest_whole,
    older_checkpoints,
    pack_checkpoint,
    save_checkpoint,
    unpack_checkpoint,
)
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
    meta["sha256"]["meta.json"] = files.json_digest(described)
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


@pytest.mark.parametrize("keep", [None, 2])
def test_one_that_lacks_its_description_is_moved_away_by_the_next(folder, keep):
    (folder / "meta.json").unlink()
    save_checkpoint(folder, weights(seed=1), {"step": 9}, {"step": 4}, keep=keep)
    assert load_checkpoint(folder).meta["step"] == 4
    assert sorted(path.name for path in folder.parent.iterdir()) == ["damaged-last", "last"]


def test_an_older_one_is_never_half_there(folder, monkeypatch):
    for step in (1, 2):
        save_checkpoint(folder, weights(), {}, {"step": step}, keep=2)

    def die(path, *arguments, **options):
        if "step-" in path.name:
            (path / "meta.json").unlink()
            raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", die)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(folder, weights(), {}, {"step": 3}, keep=2)
    monkeypatch.undo()
    assert [load_checkpoint(one).meta["step"] for one in older_checkpoints(folder)] == [2]
    files.sweep(folder.parent)
    assert {path.name for path in folder.parent.iterdir()} == {"last", "step-000000002"}


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


# ---------------------------------------------------------------- the last few


def save_steps(folder, *steps, keep):
    for step in steps:
        save_checkpoint(folder, weights(seed=step), {"step": step}, {"step": step}, keep=keep)


def step_of(folder):
    """Whose checkpoint it is, of those of `save_steps`; it must be whole."""
    loaded, loaded_state = load_all(folder)
    step = loaded.meta["step"]
    assert same(loaded.weights, weights(seed=step)) and loaded_state == {"step": step}
    return step


def steps_in(place):
    return {path.name: step_of(path) for path in place.iterdir()}


def tree(place):
    """Every file's bytes, by path."""
    return {path: path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file()}


@pytest.fixture
def three(tmp_path):
    """A checkpoint of step 9, and beside it those of steps 6 and 3."""
    folder = tmp_path / "run" / "last"
    save_steps(folder, 3, 6, 9, keep=3)
    return folder


@pytest.mark.parametrize("keep", [1, 2, 3, 5])
def test_the_last_so_many_are_kept_under_their_steps(tmp_path, keep):
    folder = tmp_path / "run" / "last"
    steps = [3, 6, 9, 12, 100]
    for count, step in enumerate(steps, 1):
        save_steps(folder, step, keep=keep)
        recent = steps[:count][-keep:]
        older = [f"step-{one:09d}" for one in recent[:-1]]
        assert steps_in(folder.parent) == {"last": step, **dict(zip(older, recent, strict=False))}
        assert older_checkpoints(folder) == [folder.with_name(name) for name in reversed(older)]


def test_older_ones_are_ordered_by_number_and_nothing_else_is_one(tmp_path):
    for name in (
        "step-9",
        "step-10",
        "step-000000011",
        "step-x",
        "step-12.bak",
        "astep-13",
        "best",
    ):
        (tmp_path / name).mkdir()
    (tmp_path / "step-14").write_text("a file")
    found = [path.name for path in older_checkpoints(tmp_path / "last")]
    assert found == ["step-000000011", "step-10", "step-9"]
    assert older_checkpoints(tmp_path / "nowhere" / "last") == []


def test_a_name_in_use_goes_to_the_later_of_the_same_step(tmp_path):
    """An epoch's end is often saved as a step first."""
    folder = tmp_path / "last"
    save_steps(folder, 2, keep=3)
    save_checkpoint(folder, weights(seed=4), {"step": 4}, {"step": 4, "epoch": 0}, keep=3)
    save_checkpoint(folder, weights(seed=4), {"step": 4}, {"step": 4, "epoch": 1}, keep=3)
    assert steps_in(tmp_path) == {"last": 4, "step-000000002": 2, "step-000000004": 4}
    save_steps(folder, 6, keep=3)
    assert steps_in(tmp_path) == {"last": 6, "step-000000002": 2, "step-000000004": 4}
    assert load_checkpoint(tmp_path / "step-000000004").meta["epoch"] == 1


def test_fewer_are_kept_once_fewer_are_wanted(tmp_path):
    save_steps(tmp_path / "last", 1, 2, 3, 4, 5, keep=4)
    save_steps(tmp_path / "last", 6, keep=2)
    assert steps_in(tmp_path) == {"last": 6, "step-000000005": 5}


def test_none_is_kept_once_only_one_is_wanted(tmp_path):
    save_steps(tmp_path / "last", 1, 2, 3, keep=3)
    save_steps(tmp_path / "last", 4, keep=1)
    assert steps_in(tmp_path) == {"last": 4}


def test_what_lies_ahead_of_the_last_is_not_kept_in_place_of_what_lies_before(tmp_path):
    """After going back, the one that was passed over must not push out those that are whole."""
    folder = tmp_path / "last"
    save_steps(folder, 3, 6, 9, keep=3)
    shutil.rmtree(folder)
    (tmp_path / "step-000000006" / "state.pt").write_bytes(b"")
    assert step_of(newest_whole(folder)) == 3
    save_steps(folder, 4, 5, keep=2)
    assert step_of(folder) == 5 and step_of(older_checkpoints(folder)[0]) == 4


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-20])


def other_version(path):
    meta = {**json.loads(path.read_text()), "schema_version": 99}
    path.write_text(json.dumps(meta))
    correct_checksums(path.parent)


DAMAGES = {
    "weights cut short": lambda folder: cut_short(folder / "model.safetensors"),
    "state missing": lambda folder: (folder / "state.pt").unlink(),
    "description cut short": lambda folder: cut_short(folder / "meta.json"),
    "another version": lambda folder: other_version(folder / "meta.json"),
    "description missing": lambda folder: (folder / "meta.json").unlink(),
    "empty": lambda folder: [path.unlink() for path in folder.iterdir()],
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("keep", [1, 3])
def test_what_was_damaged_meanwhile_does_not_keep_the_next_from_being_saved(three, damage, keep):
    DAMAGES[damage](three)
    save_steps(three, 12, keep=keep)
    assert step_of(three) == 12
    assert step_of(newest_whole(three)) == 12


# ---------------------------------------------------------------- the newest that is whole


def positions_in(size):
    """Many places to cut a file of a size at, both ends among them."""
    return sorted({0, 1, 7, 8, 9, size - 1, size - 2, *range(0, size, max(1, size // 25))})


def goes_back(folder, capsys, said):
    """The one of step 6 is used, which is said, and what was damaged is kept; then undo that."""
    before = tree(folder)
    assert newest_whole(folder) == folder.with_name("step-000000006")
    lines = capsys.readouterr().err.splitlines()
    assert str(folder) in lines[0] and said in lines[0]
    aside = folder.with_name("damaged-last")
    assert not folder.exists() and str(aside) in lines[1]
    assert "going back to" in lines[2] and "step-000000006" in lines[2]
    after = {folder / path.name: content for path, content in tree(aside).items()}
    assert after == before
    aside.rename(folder)


@pytest.mark.parametrize("name", FILES)
def test_of_a_truncated_one_the_one_before_takes_the_place(three, name, capsys):
    whole = (three / name).read_bytes()
    for length in positions_in(len(whole)):
        (three / name).write_bytes(whole[:length])
        if name == "meta.json" and length == len(whole) - 1:  # without its line's end
            assert newest_whole(three) == three
            assert capsys.readouterr().err == ""
        else:
            goes_back(three, capsys, name)
    (three / name).write_bytes(whole)
    assert steps_in(three.parent) == {"last": 9, "step-000000006": 6, "step-000000003": 3}
    assert newest_whole(three) == three


@pytest.mark.parametrize("name", FILES)
def test_of_an_incomplete_one_the_one_before_takes_the_place(three, name, capsys):
    (three / name).unlink()
    goes_back(three, capsys, f"{name}: no such file")


def flips(whole, step):
    for position in range(0, len(whole), step):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << (position * 5 % 8)
        yield position, bytes(flipped)


def version_line(whole):
    start = whole.index(b'"schema_version"')
    return range(start, whole.index(b"\n", start))


def parsed(content):
    try:
        return json.loads(content)
    except ValueError:
        return None


@pytest.mark.parametrize("name", FILES)
def test_of_one_with_a_flipped_bit_the_one_before_takes_the_place(three, name, capsys):
    whole = (three / name).read_bytes()
    described = name == "meta.json"
    skipped = version_line(whole) if described else ()
    for position, flipped in flips(whole, 1 if described else len(whole) // 100):
        (three / name).write_bytes(flipped)
        if described and parsed(flipped) == parsed(whole):  # a white space that became another
            assert newest_whole(three) == three
        elif position not in skipped:
            goes_back(three, capsys, name)


def test_a_flipped_bit_in_the_version_is_damage_as_any_other(three, capsys):
    whole = (three / "meta.json").read_bytes()
    for position, flipped in flips(whole, 1):
        if position in version_line(whole):
            (three / "meta.json").write_bytes(flipped)
            goes_back(three, capsys, "meta.json")


def test_of_several_damaged_ones_the_newest_whole_is_taken(three, capsys):
    cut_short(three / "model.safetensors")
    cut_short(three.with_name("step-000000006") / "state.pt")
    assert step_of(newest_whole(three)) == 3
    assert "last" in capsys.readouterr().err
    assert sorted(path.name for path in three.parent.iterdir()) == [
        "damaged-last",
        "damaged-step-000000006",
        "step-000000003",
    ]
    # A second time there is no `last`.
    before = tree(three.parent)
    assert step_of(newest_whole(three)) == 3
    assert f"{three} is not there; going on from" in capsys.readouterr().err
    assert tree(three.parent) == before


def test_a_missing_one_is_made_up_for_by_the_one_before(three, capsys):
    shutil.rmtree(three)
    before = tree(three.parent)
    assert step_of(newest_whole(three)) == 6
    assert f"{three} is not there; going on from" in capsys.readouterr().err
    assert tree(three.parent) == before


def test_a_damaged_one_takes_the_place_of_one_damaged_before(three, capsys):
    for content in (b"one", b"other"):
        save_steps(three, 9, keep=3)
        (three / "state.pt").write_bytes(content)
        assert step_of(newest_whole(three)) == 9
        assert (three.with_name("damaged-last") / "state.pt").read_bytes() == content


@pytest.mark.parametrize("damage", ["weights cut short", "state missing", "description missing"])
def test_where_none_is_whole_nothing_is_touched(three, damage, capsys):
    for path in (three, *older_checkpoints(three)):
        DAMAGES[damage](path)
    before = tree(three.parent)
    with pytest.raises(DamagedError, match="none of 3 checkpoints is whole") as caught:
        newest_whole(three)
    assert str(three) in str(caught.value) and caught.value.exit_code == 3
    assert tree(three.parent) == before
    assert capsys.readouterr().err == ""


def test_where_there_is_none_there_is_none(tmp_path):
    assert newest_whole(tmp_path / "last") is None
    assert newest_whole(tmp_path / "no" / "such" / "last") is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("which", ["last", "step-000000006"])
@pytest.mark.parametrize("kind", ["version", "pickle", "weights"])
def test_what_is_whole_and_yet_not_ours_is_refused_and_not_passed_over(
    three, tmp_path, which, kind, capsys
):
    """Somebody put it there, or another program is in use: not for us to go back behind it."""
    place, trace = three.with_name(which), tmp_path / "ran"
    if which != "last":
        DAMAGES["state missing"](three)
    if kind == "version":
        other_version(place / "meta.json")
    elif kind == "pickle":
        torch_zip(place / "state.pt", Payload(trace))
    else:
        torch_zip(place / "model.safetensors", Payload(trace))
    correct_checksums(place)
    before = tree(three.parent)
    wanted = {"version": "schema version 99", "pickle": "refused", "weights": "not readable"}
    with pytest.raises(DataError, match=wanted[kind]) as caught:
        newest_whole(three)
    assert not isinstance(caught.value, DamagedError) and str(place) in str(caught.value)
    assert tree(three.parent) == before and not trace.exists()


# ---------------------------------------------------------------- as bytes


def test_what_was_packed_is_unpacked(folder):
    unpacked, unpacked_state = unpack_checkpoint(pack_checkpoint(folder))
    loaded, loaded_state = load_all(folder)
    assert same(unpacked.weights, loaded.weights) and unpacked.meta == loaded.meta
    assert same(unpacked_state, loaded_state)


def test_packing_without_weights_or_state(tmp_path):
    save_checkpoint(tmp_path / "c", {}, {}, {})
    unpacked, unpacked_state = unpack_checkpoint(pack_checkpoint(tmp_path / "c"))
    assert (unpacked.weights, unpacked_state) == ({}, {})
    assert unpacked.meta["schema_version"] == SCHEMA_VERSION


@pytest.mark.parametrize("name", FILES)
def test_what_is_damaged_is_not_packed(folder, name):
    cut_short(folder / name)
    with pytest.raises(DamagedError, match=name):
        pack_checkpoint(folder)


def test_a_planted_pickle_does_not_run_when_it_is_unpacked(folder, tmp_path):
    trace = tmp_path / "ran"
    torch_zip(folder / "state.pt", Payload(trace))
    correct_checksums(folder)
    with pytest.raises(DataError, match="refused"):
        unpack_checkpoint(pack_checkpoint(folder))
    assert not trace.exists()


# ---------------------------------------------------------------- killed at any line of a save


# All that writes, and not what only computes.
WRITING = {
    "save_checkpoint",
    "_name_of_older",
    "atomic_folder",
    "atomic_file",
    "write_json",
    "_replace_folder",
    "_flush",
}


def killed_at_line(number, function, within):
    """Call a function in a process that kills itself at a line of `checkpoint` or `files`.

    Args:
        number: which of the lines, as they are come to.
        function: to call.
        within: functions whose lines count.

    Returns:
        Whether it was killed; if not, the function was through before.
    """
    sources, left = {checkpoint.__file__, files.__file__}, number

    def trace(frame, event, argument):
        nonlocal left
        code = frame.f_code
        if code.co_filename not in sources or code.co_name not in within:
            return None
        if event == "line":
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    process = os.fork()
    if process == 0:
        try:
            sys.settrace(trace)
            function()
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitpid(process, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def saves_killed_at_each_line(place, steps, keep, within):
    """Of each place to be killed at, the step that is found afterwards; 9 is the new one's."""
    found, number, killed = [], 0, True
    while killed:
        number += 1
        folder = place / str(number) / "last"
        save_steps(folder, *steps, keep=keep)
        killed = killed_at_line(number, lambda at=folder: save_steps(at, 9, keep=keep), within)
        files.sweep(folder.parent)
        whole = newest_whole(folder)
        found.append(whole and step_of(whole))
        save_steps(folder, 12, keep=keep)
        assert step_of(folder) == 12
        assert len(steps_in(folder.parent)) <= keep
        shutil.rmtree(folder.parent)
    return found


@pytest.mark.parametrize(
    ("steps", "keep"),
    [pytest.param((6,), 1, marks=pytest.mark.slow), ((3, 6), 2)],
    ids=str,
)
def test_a_save_killed_at_any_line_leaves_the_one_before_or_the_new_one(tmp_path, steps, keep):
    found = saves_killed_at_each_line(tmp_path, steps, keep, WRITING)
    assert len(found) > 60
    assert set(found) == {6, 9} and found == sorted(found)  # the new one from some line on


@pytest.mark.parametrize(("steps", "keep"), [((6,), 1), ((3, 6), 2)], ids=str)
def test_so_does_a_save_where_names_cannot_be_exchanged(tmp_path, steps, keep, monkeypatch):
    monkeypatch.setattr(files, "_exchange", lambda *names: False)
    found = saves_killed_at_each_line(tmp_path, steps, keep, {"atomic_folder", "_replace_folder"})
    assert len(found) > 20
    assert set(found) == {6, 9} and found == sorted(found)
