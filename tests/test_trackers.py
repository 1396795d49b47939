"""Trackers: what each stores, read back with its own reader, and trainings that outlive them."""

import json
import os
import threading
import time

import pytest
from damage import victims
from runs import lines_of, make_settings, planted, same_run, train_one_epoch

from dglrec import cli, trackers, verify
from dglrec.errors import DataError, UnusableEnvironmentError
from dglrec.run import RESULTS_FILE, SELECTION, TRACKER
from dglrec.trackers import TRACKERS, check_tracker
from dglrec.train import read_note, tracking, train

REAL = ("tensorboard", "mlflow", "wandb")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return planted(tmp_path_factory.mktemp("trackers"), 40, 30, 900)


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    """Nothing of this machine says where trackers write."""
    for name in [one for one in os.environ if one.startswith(("MLFLOW_", "WANDB_"))]:
        monkeypatch.delenv(name)


def settings_with(logger, **fitting):
    return make_settings(**{"epochs": 3, "logger": logger, **fitting})


def results_of(run):
    return json.loads((run / RESULTS_FILE).read_text())


class Recorder:
    """A tracker that keeps what it is told, and fails where it is asked to."""

    told: list
    fails_at = None

    @staticmethod
    def load():
        pass

    def __init__(self, folder, name, run_id, step):
        self.run_id = run_id or "recorded"
        self._say("begin", name, run_id, step)

    def _say(self, *what):
        if what[0] == type(self).fails_at:
            raise OSError(f"no {what[0]} today\nand a second line")
        type(self).told.append((what, threading.current_thread().name))

    def settings(self, values):
        self._say("settings", dict(values))

    def figures(self, figures, step):
        self._say("figures", figures, step)

    def close(self, ending):
        self._say("close", ending)

    @classmethod
    def heard(cls, kind):
        return [what[1:] for what, _ in cls.told if what[0] == kind]


@pytest.fixture
def recorder(monkeypatch):
    monkeypatch.setattr(Recorder, "told", [], raising=False)
    monkeypatch.setattr(Recorder, "fails_at", None)
    monkeypatch.setattr(trackers, "TRACKERS", TRACKERS)
    monkeypatch.setitem(TRACKERS, "tensorboard", Recorder)
    return Recorder


@pytest.fixture(scope="module")
def untracked(dataset, tmp_path_factory):
    run = tmp_path_factory.mktemp("untracked") / "run"
    train(dataset, run, settings_with("none"))
    assert not (run / TRACKER).exists()
    return run


# What is told, and when.


def test_a_tracker_is_told_settings_epochs_and_results(dataset, tmp_path, recorder, untracked):
    run = tmp_path / "run"
    results = train(dataset, run, settings_with("tensorboard"))
    assert recorder.heard("begin") == [("run", None, 0)]
    ((values,),) = recorder.heard("settings")
    assert (values["train.epochs"], values["train.logger"]) == (3, "tensorboard")
    assert values["loader.user_fanouts"] == "[5, 5]"
    *epochs, (final, step) = recorder.heard("figures")
    assert [{"epoch": step, **figures} for figures, step in epochs] == lines_of(run)
    assert {"ratings_per_second", "peak_memory_bytes"} < set(epochs[0][0])
    assert (step, final["test/rmse"]) == (3, results["test"]["rmse"])
    assert final["final/peak_memory_bytes"] == results["peak_memory_bytes"]
    assert recorder.heard("close") == [("finished",)]
    assert {thread for _, thread in recorder.told} == {"tracker"}
    assert read_note(run / TRACKER / "tensorboard.json") == ("recorded", 3, 3)
    assert same_run(run, untracked)


def test_a_resumed_training_goes_on_with_the_same_run(dataset, tmp_path, monkeypatch, recorder):
    run, settings = tmp_path / "run", settings_with("tensorboard")
    train_one_epoch(monkeypatch, dataset, run, settings)
    assert recorder.heard("close") == [("stopped",)]
    train(dataset, run, settings, resume=True)
    train(dataset, run, settings, resume=True)  # finished: there is nothing to tell again
    begun = [("run", None, 0), ("run", "recorded", 0), ("run", "recorded", 3)]
    assert recorder.heard("begin") == begun
    assert len(recorder.heard("settings")) == 1
    assert [step for _, step in recorder.heard("figures")] == [1, 2, 3, 3]
    assert recorder.heard("close")[1:] == [("finished",), ("finished",)]


def test_who_begins_to_follow_later_is_told_all(dataset, tmp_path, monkeypatch, recorder):
    run = tmp_path / "run"
    train_one_epoch(monkeypatch, dataset, run, settings_with("none"))
    train(dataset, run, settings_with("tensorboard"), resume=True)
    assert [step for _, step in recorder.heard("figures")] == [1, 2, 3, 3]


def test_a_new_training_begins_a_new_run_of_the_tracker(dataset, tmp_path, recorder):
    run, settings = tmp_path / "run", settings_with("tensorboard", epochs=1)
    for overwrite in (False, True):
        train(dataset, run, settings, overwrite=overwrite)
    assert recorder.heard("begin") == [("run", None, 0)] * 2


def test_a_refit_and_a_baseline_are_followed_too(dataset, tmp_path, recorder):
    train(dataset, tmp_path / "run", settings_with("tensorboard", epochs=1, refit="valid"))
    assert [name for name, *_ in recorder.heard("begin")] == [f"run/{SELECTION}", "run"]
    recorder.told.clear()
    baseline = make_settings({"kind": "bias"}, logger="tensorboard")
    train(dataset, tmp_path / "bias", baseline)
    train(dataset, tmp_path / "bias", baseline, resume=True)  # finished, and told
    (line, _), (final, _) = recorder.heard("figures")
    assert line["valid_rmse"] == final["valid/rmse"] and "test/rmse" in final


@pytest.mark.parametrize("fails_at", ["begin", "settings", "figures", "close"])
def test_a_tracker_that_fails_is_said_once_and_loses_nothing(
    fails_at, dataset, tmp_path, monkeypatch, recorder, untracked, capsys
):
    run, settings = tmp_path / "run", settings_with("tensorboard")
    monkeypatch.setattr(recorder, "fails_at", fails_at)
    train(dataset, run, settings)
    said = capsys.readouterr().err
    assert said.count("train.logger = tensorboard failed") == 1
    assert f"no {fails_at} today; training goes on" in said and "second line" not in said
    assert same_run(run, untracked)
    monkeypatch.setattr(recorder, "fails_at", None)
    recorder.told.clear()
    train(dataset, run, settings, resume=True)  # which tells what was missed
    missed = [] if fails_at == "close" else [1, 2, 3, 3]
    assert [step for _, step in recorder.heard("figures")] == missed


def test_a_tracker_that_hangs_is_waited_for_no_longer(
    dataset, tmp_path, monkeypatch, recorder, untracked, capsys
):
    released = threading.Event()
    monkeypatch.setattr(tracking, "_WAIT_SECONDS", 0.1)
    monkeypatch.setattr(recorder, "figures", lambda *_: released.wait(60))
    try:
        train(dataset, tmp_path / "run", settings_with("tensorboard"))
    finally:
        released.set()
        for thread in threading.enumerate():  # it still has the rest to tell
            if thread.name == "tracker":
                thread.join(30)
    assert "has not taken all within" in capsys.readouterr().err
    assert same_run(tmp_path / "run", untracked)


def test_other_processes_tell_nothing(tmp_path, recorder):
    with tracking.tracked(tmp_path, settings_with("tensorboard"), here=False) as following:
        following.follow(1)
        following.finish({"epochs": 1})
    assert recorder.told == [] and list(tmp_path.iterdir()) == []


# Refusals.


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("model", [{}, {"kind": "bias"}, {"refit": "valid"}])
def test_a_tracker_that_is_not_installed_is_refused_first(
    name, model, dataset, tmp_path, monkeypatch
):
    def missing():
        raise ImportError(f"No module named '{name}'\nmore")

    monkeypatch.setattr(TRACKERS[name], "load", staticmethod(missing))
    fitting = {"refit": model.pop("refit")} if "refit" in model else {}
    with pytest.raises(UnusableEnvironmentError) as caught:
        train(dataset, tmp_path / "run", make_settings(dict(model), logger=name, **fitting))
    assert "\n" not in str(caught.value) and f"pip install 'dglrec[{name}]'" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_the_command_refuses_an_unknown_tracker(dataset, tmp_path, capsys, monkeypatch):
    arguments = ["dglrec", "train", str(dataset.path), str(tmp_path / "run")]
    monkeypatch.setattr("sys.argv", [*arguments, "--set", "train.logger=neptune"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2 and "train.logger" in capsys.readouterr().err
    check_tracker("none")


# Notes, and what doctor says of them.


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"run_id": "a", "epochs": "x"}'])
def test_a_damaged_note_is_said_and_begins_another_run(
    content, dataset, tmp_path, recorder, capsys
):
    run, settings = tmp_path / "run", settings_with("tensorboard", epochs=1)
    train(dataset, run, settings)
    note = run / TRACKER / "tensorboard.json"
    note.write_text(content)
    with pytest.raises(DataError, match="tensorboard.json"):
        read_note(note)
    (check,) = (one for one in verify.verify(run) if one.level == "failure")
    assert "tensorboard.json" in check.found and "remove" in check.mend
    train(dataset, run, settings, resume=True)
    assert "the tracker begins another run" in capsys.readouterr().err
    assert not [one for one in verify.verify(run) if one.level != "ok"]


# The libraries themselves.


def resumed_run(dataset, folder, monkeypatch, settings):
    """A run that was stopped after an epoch and gone on with."""
    run = folder / "run"
    train_one_epoch(monkeypatch, dataset, run, settings)
    train(dataset, run, settings, resume=True)
    return run


def test_what_tensorboard_stores(dataset, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard", reason="pip install 'dglrec[tensorboard]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = resumed_run(dataset, tmp_path, monkeypatch, settings_with("tensorboard"))
    folder = run / TRACKER / "tensorboard"
    stored = EventAccumulator(str(folder))
    stored.Reload()
    for line in lines_of(run):
        for name in ("train_rmse", "valid_rmse", "ratings_per_second", "peak_memory_bytes"):
            found = {one.step: one.value for one in stored.Scalars(name)}
            assert found[line["epoch"]] == pytest.approx(line[name])
    assert [one.step for one in stored.Scalars("valid_rmse")] == [1, 2, 3]
    ((final,),) = (stored.Scalars("test/rmse"),)
    assert (final.step, final.value) == (3, pytest.approx(results_of(run)["test"]["rmse"]))
    (text,) = stored.Tensors("settings/text_summary")
    assert b"    model.embedding_size = 4" in text.tensor_proto.string_val[0]
    # Its files are its own: what becomes of them changes nothing of the run.
    for victim in victims(folder, folder, [one.name for one in folder.iterdir()]).values():
        victim.damage("missing")
    assert not [one for one in verify.verify(run) if one.level != "ok"]


def test_what_mlflow_stores(dataset, tmp_path, monkeypatch, capfd):
    mlflow = pytest.importorskip("mlflow", reason="pip install 'dglrec[mlflow]'")
    run = resumed_run(dataset, tmp_path, monkeypatch, settings_with("mlflow"))
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{run / TRACKER / 'mlflow' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("dglrec")
    (stored,) = client.search_runs([experiment.experiment_id])
    assert (stored.info.run_name, stored.info.status) == ("run", "FINISHED")
    assert stored.data.params["model.embedding_size"] == "4"
    for name in ("valid_rmse", "peak_memory_bytes"):
        history = client.get_metric_history(stored.info.run_id, name)
        found = [(one.step, one.value) for one in history]
        assert sorted(found) == [(line["epoch"], line[name]) for line in lines_of(run)]
    assert stored.data.metrics["test/rmse"] == results_of(run)["test"]["rmse"]
    said = capfd.readouterr()
    assert "INFO" not in said.err and said.out == ""


def test_what_wandb_stores_offline(dataset, tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="pip install 'dglrec[wandb]'")
    monkeypatch.setattr(tracking, "_WAIT_SECONDS", 300)  # its service may start slowly
    run = tmp_path / "run"
    train(dataset, run, settings_with("wandb", epochs=1))
    run_id, epochs, results = read_note(run / TRACKER / "wandb.json")
    assert (epochs, results) == (1, 1)
    (stored,) = (run / TRACKER / "wandb").glob(f"wandb/offline-run-*/run-{run_id}.wandb")
    words = (b"valid_rmse", b"test/rmse", b"model.embedding_size")
    deadline = time.monotonic() + 120  # wandb's own process writes the file, and may be late
    while not all(word in stored.read_bytes() for word in words) and time.monotonic() < deadline:
        time.sleep(0.1)
    for word in words:
        assert word in stored.read_bytes()
