"""A run that was cut off anywhere, by anything, goes on to the same end, to the last bit."""

import contextlib
import fcntl
import itertools
import json
import math
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from ranks import in_ranks
from runs import (
    BATCHES,
    lines_of,
    make_settings,
    planted,
    same_run,
)

from dglrec import cli
from dglrec.checkpoint import (
    load_checkpoint,
    load_state,
    newest_whole,
    older_checkpoints,
    pack_checkpoint,
    save_checkpoint,
    unpack_checkpoint,
)
from dglrec.config import resumed_settings
from dglrec.dataset import PrepareOptions, RatingDataset, prepare
from dglrec.errors import DataError, UnusableEnvironmentError, UsageError
from dglrec.interrupts import Interrupts
from dglrec.run import BEST, CONFIG_FILE, LAST, LOCK_FILE, LOG_FILE, RESULTS_FILE, locked
from dglrec.train import describe as describe_module
from dglrec.train import finish as finish_module
from dglrec.train import loop as loop_module
from dglrec.train import memory, train
from dglrec.train import state as state_module
from dglrec.train import validation as validation_module
from dglrec.train.step import TrainingStep

EPOCHS = 3
TEMPORARY = ".dglrec-tmp-*"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return planted(tmp_path_factory.mktemp("small"), 80, 40, 2_000)


@pytest.fixture(scope="module")
def undisturbed(dataset, tmp_path_factory):
    """Finds the undisturbed run of given settings, training it when first asked."""
    place, runs = tmp_path_factory.mktemp("undisturbed"), {}

    def find(settings, data=dataset):
        key = json.dumps([str(data.path), settings.to_dict()])
        if key not in runs:
            runs[key] = place / str(len(runs))
            train(data, runs[key], settings)
        return runs[key]

    return find


class CutOff(BaseException):
    """Stands for whatever ends a process."""


def cut_off_in(monkeypatch, owner, name, call, *, after=False):
    """Make the n-th call of a function the last, before or after it has done its work."""
    original, calls = getattr(owner, name), itertools.count(1)

    def cutting(*arguments, **options):
        now = next(calls) == call
        if now and not after:
            raise CutOff
        returned = original(*arguments, **options)
        if now:
            raise CutOff
        return returned

    monkeypatch.setattr(owner, name, cutting)


@pytest.fixture
def steps_taken(monkeypatch):
    """A list that each batch's number of its step is added to; see `TrainingStep.number`."""
    numbers, original = [], TrainingStep.__call__

    def counting(self, *arguments, **options):
        numbers.append(self.number)
        return original(self, *arguments, **options)

    monkeypatch.setattr(TrainingStep, "__call__", counting)
    return numbers


def settings_with(kind="users", **fitting):
    """Dropout and users' own vectors in, so that all there is to go on from is."""
    loader = {"kind": kind}
    return make_settings(
        {"user_identity": True, "dropout": 0.2}, loader, **{"epochs": EPOCHS, **fitting}
    )


# ---------------------------------------------------------------- in one process


ADAM = {"optimizer": "adam", "weight_decay": 0.1}


@pytest.mark.parametrize(
    ("kind", "checkpoint_steps", "fitting"),
    [
        ("users", 1, {}),
        ("users", 2, {}),
        ("users", 3, ADAM),
        ("users", 1, {"accumulation_steps": 3, **ADAM}),
        ("users", 2, {"accumulation_steps": 3}),
        ("neighbor", 2, ADAM),
        ("neighbor", 1, {"accumulation_steps": 3, "weight_decay": 0.1}),
    ],
    ids=str,
)
def test_cut_off_at_any_batch_it_goes_on_as_if_nothing_had_been(
    dataset, undisturbed, tmp_path, monkeypatch, steps_taken, kind, fitting, checkpoint_steps
):
    """And no more is done again than what the interval says."""
    settings = settings_with(kind, checkpoint_steps=checkpoint_steps, **fitting)
    whole = undisturbed(settings)
    a_step = fitting.get("accumulation_steps", 1)
    steps_an_epoch = math.ceil(BATCHES / a_step)
    # All of one combination, and of the others some.
    every = 1 if (kind, checkpoint_steps, fitting) == ("users", 2, {}) else 4
    for call in range(checkpoint_steps, BATCHES * EPOCHS + 1, every):
        run = tmp_path / str(call)
        with monkeypatch.context() as patch:
            cut_off_in(patch, TrainingStep, "__call__", call)
            with pytest.raises(CutOff):
                train(dataset, run, settings)
        epoch, batches = divmod(call - 1, BATCHES)
        taken = epoch * steps_an_epoch + batches // a_step
        saved = max(epoch * steps_an_epoch, taken // checkpoint_steps * checkpoint_steps)
        steps_taken.clear()
        train(dataset, run, settings, resume=True)
        assert steps_taken[0] == saved
        assert steps_taken[-1] == EPOCHS * steps_an_epoch - 1
        assert [line["epoch"] for line in lines_of(run)] == list(range(1, EPOCHS + 1))
        assert same_run(run, whole)


@pytest.mark.parametrize(
    "fitting",
    [
        {"precision": "bfloat16"},
        {"loss": "weighted_mse", "schedule": "linear"},
        {"optimizer": "adam", "schedule": "constant"},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["users", "neighbor"])
def test_whatever_the_settings_it_goes_on_as_if_nothing_had_been(
    dataset, undisturbed, tmp_path, monkeypatch, kind, fitting
):
    settings = settings_with(kind, checkpoint_steps=1, **fitting)
    with monkeypatch.context() as patch:
        cut_off_in(patch, TrainingStep, "__call__", 7)
        with pytest.raises(CutOff):
            train(dataset, tmp_path / "run", settings)
    train(dataset, tmp_path / "run", settings, resume=True)
    assert same_run(tmp_path / "run", undisturbed(settings))


def test_cut_off_again_and_again_it_still_comes_to_the_same_end(
    dataset, undisturbed, tmp_path, monkeypatch, steps_taken
):
    run, settings = tmp_path / "run", settings_with(checkpoint_steps=1)
    for turn in range(BATCHES * EPOCHS):
        with monkeypatch.context() as patch:
            cut_off_in(patch, TrainingStep, "__call__", 2)  # one step gets through
            with pytest.raises(CutOff):
                train(dataset, run, settings, resume=turn > 0)
        assert load_checkpoint(run / LAST).meta["step"] == turn + 1
        if turn == BATCHES * EPOCHS - 2:
            break
    steps_taken.clear()
    train(dataset, run, settings, resume=True)
    assert steps_taken == [BATCHES * EPOCHS - 1]
    assert same_run(run, undisturbed(settings))


@pytest.mark.parametrize("checkpoint_steps", [0, 4])
@pytest.mark.parametrize(
    ("place", "call", "after"),
    [
        ((validation_module, "embed_all"), 2, False),
        ((validation_module, "measure"), 2, False),
        ((loop_module, "append_line"), 2, False),
        ((loop_module, "append_line"), 2, True),
        ((state_module.Checkpoints, "save_best"), 1, False),
        ((state_module.Checkpoints, "save_best"), 1, True),
        ((state_module.Checkpoints, "save_last"), 2, True),
        ((state_module.Checkpoints, "load_best"), 1, False),
        ((finish_module, "evaluate"), 1, False),
        ((finish_module, "evaluate"), 2, False),
        ((describe_module, "write_json"), 1, False),
        ((loop_module, "write_json"), 1, False),
    ],
    ids=str,
)
def test_cut_off_between_steps_it_goes_on_as_if_nothing_had_been(
    dataset, undisturbed, tmp_path, monkeypatch, place, call, after, checkpoint_steps
):
    """With an interval of an epoch's length there is a checkpoint of all batches before its end."""
    run, settings = tmp_path / "run", settings_with(checkpoint_steps=checkpoint_steps)
    with monkeypatch.context() as patch:
        cut_off_in(patch, *place, call, after=after)
        with pytest.raises(CutOff):
            train(dataset, run, settings)
    assert not (run / RESULTS_FILE).exists()
    train(dataset, run, settings, resume=True)
    assert same_run(run, undisturbed(settings))


def test_checkpoints_by_time_are_written_and_gone_on_from(
    dataset, undisturbed, tmp_path, monkeypatch, steps_taken
):
    run, settings = tmp_path / "run", settings_with(checkpoint_seconds=1e-6)
    with monkeypatch.context() as patch:
        cut_off_in(patch, TrainingStep, "__call__", 7)
        with pytest.raises(CutOff):
            train(dataset, run, settings)
    steps_taken.clear()
    # In larger intervals: how often it is saved changes nothing that is learned.
    train(dataset, run, settings_with(checkpoint_seconds=600.0), resume=True)
    assert steps_taken[0] == 6
    assert same_run(run, undisturbed(settings_with()))


def test_as_many_are_kept_as_was_asked_for(dataset, tmp_path):
    run = tmp_path / "run"
    train(dataset, run, settings_with(checkpoint_steps=1, keep_checkpoints=4))
    # The last step was saved twice: as a step, and as its epoch's end.
    names = [path.name for path in older_checkpoints(run / LAST)]
    assert names == [f"step-{step:09d}" for step in (12, 11, 10)]
    assert load_checkpoint(run / LAST).meta["epoch"] == EPOCHS


# ---------------------------------------------------------------- damage


def spoil(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_run(dataset, run, settings, monkeypatch, call):
    with monkeypatch.context() as patch:
        cut_off_in(patch, TrainingStep, "__call__", call)
        with pytest.raises(CutOff):
            train(dataset, run, settings)


def test_of_a_damaged_checkpoint_the_one_before_is_gone_on_from(
    dataset, undisturbed, tmp_path, monkeypatch, steps_taken, capsys
):
    run, settings = tmp_path / "run", settings_with(checkpoint_steps=1)
    cut_run(dataset, run, settings, monkeypatch, 8)
    spoil(run / LAST / "model.safetensors")
    steps_taken.clear()
    capsys.readouterr()
    train(dataset, run, settings, resume=True)
    said = capsys.readouterr().err
    assert "damaged or altered" in said and "going back to" in said and "damaged" in said
    assert f"resuming {run} after batch 2 of epoch 2" in said
    assert steps_taken[0] == 6
    assert same_run(run, undisturbed(settings))


def test_where_all_are_damaged_nothing_is_lost(dataset, tmp_path, monkeypatch):
    run, settings = tmp_path / "run", settings_with(checkpoint_steps=1)
    cut_run(dataset, run, settings, monkeypatch, 8)
    for path in (run / LAST, *older_checkpoints(run / LAST)):
        spoil(path / "state.pt")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(DataError, match="none of 2 checkpoints is whole"):
        train(dataset, run, settings, resume=True)
    after = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert {path: content for path, content in after.items() if path.name != LOCK_FILE} == {
        path: content for path, content in before.items() if path.name != LOCK_FILE
    }


@pytest.mark.parametrize("lacking", ["step", "progress", "epoch"])
def test_a_state_that_lacks_something_is_bad_data(dataset, tmp_path, monkeypatch, lacking):
    run, settings = tmp_path / "run", settings_with(checkpoint_steps=1)
    cut_run(dataset, run, settings, monkeypatch, 8)
    checkpoint, state = load_checkpoint(run / LAST), load_state(run / LAST)
    del (state["progress"] if lacking == "epoch" else state)[lacking]
    if lacking == "epoch":
        state["progress"]["era"] = 1
    meta = {name: value for name, value in checkpoint.meta.items() if name != "sha256"}
    save_checkpoint(run / LAST, checkpoint.weights, state, meta)
    with pytest.raises(DataError, match="last: its state is not one of this program"):
        train(dataset, run, settings, resume=True)


def test_a_damaged_best_is_said_and_taken_over_by_the_next(dataset, tmp_path, monkeypatch, capsys):
    run, settings = tmp_path / "run", settings_with(checkpoint_steps=1)
    cut_run(dataset, run, settings, monkeypatch, 8)
    spoil(run / BEST / "model.safetensors")
    capsys.readouterr()
    results = train(dataset, run, settings, resume=True)
    said = capsys.readouterr().err
    assert str(run / BEST) in said and "the next epoch's model will take its place" in said
    assert results["best_epoch"] >= 2
    assert load_checkpoint(run / BEST).meta["epoch"] == results["best_epoch"]


def test_a_missing_best_is_made_up_for_too(dataset, tmp_path, monkeypatch):
    run, settings = tmp_path / "run", settings_with(checkpoint_steps=1)
    cut_run(dataset, run, settings, monkeypatch, 8)
    shutil.rmtree(run / BEST)
    train(dataset, run, settings, resume=True)


def test_overwriting_clears_what_was_moved_aside(dataset, tmp_path, monkeypatch):
    run, settings = tmp_path / "run", settings_with(checkpoint_steps=1)
    cut_run(dataset, run, settings, monkeypatch, 8)
    spoil(run / LAST / "state.pt")
    train(dataset, run, settings, resume=True)
    train(dataset, run, settings, overwrite=True)
    assert not (run / "checkpoints" / "damaged").exists()


def test_what_killed_processes_left_is_swept_when_it_goes_on(dataset, tmp_path, monkeypatch):
    run, settings = tmp_path / "run", settings_with(checkpoint_steps=1)
    cut_run(dataset, run, settings, monkeypatch, 8)
    half = run / "checkpoints" / ".dglrec-tmp-abc"
    shutil.copytree(run / LAST, half)
    (run / ".dglrec-tmp-7-config.toml").write_text("[model]\n")
    (run / "notes.txt").write_text("mine")
    train(dataset, run, settings, resume=True)
    assert not list(run.rglob(TEMPORARY))
    assert (run / "notes.txt").read_text() == "mine"


# ---------------------------------------------------------------- what may change


def test_what_would_change_is_named(dataset, tmp_path):
    run = tmp_path / "run"
    train(dataset, run, make_settings(epochs=1))
    with pytest.raises(
        UsageError, match=r"would change: model\.dropout, loader\.folds, train\.seed;"
    ):
        resumed_settings(
            run, None, ["train.seed=4", "model.dropout=0.5", "loader.folds=3"], os.environ
        )
    may = ["train.checkpoint_seconds=5.0", "train.checkpoint_steps=7", "train.keep_checkpoints=9"]
    found = resumed_settings(run, None, may, {}).train
    assert (found.checkpoint_seconds, found.checkpoint_steps, found.keep_checkpoints) == (5.0, 7, 9)


def test_how_often_is_saved_may_change_and_changes_nothing_else(
    dataset, undisturbed, tmp_path, monkeypatch, steps_taken
):
    run = tmp_path / "run"
    cut_run(dataset, run, settings_with(checkpoint_steps=2), monkeypatch, 6)
    other = settings_with(checkpoint_steps=3, checkpoint_seconds=0.0, keep_checkpoints=3)
    train(dataset, run, other, resume=True)
    assert same_run(run, undisturbed(settings_with()))
    assert "checkpoint_steps = 3" in (run / CONFIG_FILE).read_text()
    assert len(older_checkpoints(run / LAST)) == 2


def test_what_differs_in_another_data_set_is_said(dataset, tmp_path):
    source = dataset.path.parent / "source"
    other = prepare(source, tmp_path / "other", PrepareOptions(text=False, valid=0.2))
    run = tmp_path / "run"
    train(dataset, run, make_settings(epochs=1))
    before = {path: path.read_bytes() for path in (run / "checkpoints").rglob("*.*")}
    with pytest.raises(DataError, match=rf"{other.path}: not the data set.*differs in: \w+"):
        train(other, run, make_settings(epochs=2), resume=True)
    assert {path: path.read_bytes() for path in (run / "checkpoints").rglob("*.*")} == before


# ---------------------------------------------------------------- the number of threads


@contextlib.contextmanager
def on_threads(count):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def told_of_threads(capsys):
    return [line for line in capsys.readouterr().err.splitlines() if "to the bit" in line]


def test_on_the_same_number_of_threads_it_comes_to_the_same_end(tmp_path, monkeypatch, capsys):
    """With batches that are large enough for torch to cut them into a piece a thread."""
    data = planted(tmp_path, 100, 40, 4_000)
    sizes = {"embedding_size": 64, "decoder_size": 64}
    settings = make_settings(sizes, {"batch_size": 2000}, epochs=1, checkpoint_steps=1)
    run, whole = tmp_path / "run", tmp_path / "whole"
    with on_threads(2):
        train(data, whole, settings)
        cut_run(data, run, settings, monkeypatch, 2)
        train(data, run, settings, resume=True)
    assert same_run(run, whole)
    assert told_of_threads(capsys) == []
    assert load_checkpoint(run / LAST).meta["threads"] == 2


@pytest.mark.parametrize(
    ("before", "after", "was"), [(2, 1, "2 threads"), (1, 2, "1 thread")], ids=str
)
def test_another_number_of_threads_is_said_once_and_not_refused(
    dataset, tmp_path, monkeypatch, capsys, before, after, was
):
    run, settings = tmp_path / "run", make_settings(epochs=1, checkpoint_steps=1)
    with on_threads(before):
        cut_run(dataset, run, settings, monkeypatch, 3)
    assert told_of_threads(capsys) == []
    with on_threads(after):
        train(dataset, run, settings, resume=True)
    assert told_of_threads(capsys) == [
        f"{run} was trained on {was} and goes on with {after}: results are no longer the same to "
        f"the bit; set OMP_NUM_THREADS={before} to keep them the same"
    ]
    assert (run / RESULTS_FILE).exists()
    with on_threads(after):  # by now it is a run of so many
        train(dataset, run, make_settings(epochs=2), resume=True)
    assert told_of_threads(capsys) == []


def test_a_checkpoint_that_does_not_say_its_threads_is_gone_on_from(
    dataset, undisturbed, tmp_path, monkeypatch, capsys
):
    """As those written before the number was kept."""
    run, settings = tmp_path / "run", settings_with(checkpoint_steps=1)
    describe = state_module.Checkpoints._describe

    def without_threads(*arguments):
        found = describe(*arguments)
        del found["threads"]
        return found

    with monkeypatch.context() as patch:
        patch.setattr(state_module.Checkpoints, "_describe", without_threads)
        cut_run(dataset, run, settings, monkeypatch, 7)
    train(dataset, run, settings, resume=True)
    (said,) = told_of_threads(capsys)
    assert said.startswith(f"{run}: its checkpoint does not say on how many threads")
    assert same_run(run, undisturbed(settings))


# ---------------------------------------------------------------- what judges an epoch


def settings_of_both(**fitting):
    """Of ratings and lists, so that an epoch is judged by two figures."""
    settings = settings_with(checkpoint_steps=1, **fitting)
    return replace(settings, model=settings.model.model_copy(update={"heads": "both"}))


def as_saved_before(monkeypatch):
    """Checkpoints that keep one figure of the best epoch and no record, as those before did."""
    original = state_module.save_checkpoint

    def save(path, weights, state, meta, **options):
        if "progress" in state:
            progress = dict(state["progress"])
            del progress["records"], progress["progress_epoch"]
            progress["best"] = None if progress["best"] is None else 0.5
            state = {**state, "progress": progress}
        original(path, weights, state, meta, **options)

    monkeypatch.setattr(state_module, "save_checkpoint", save)


@pytest.mark.parametrize("call", [3, 6, 11])
def test_what_epochs_are_judged_by_is_gone_on_with(
    dataset, undisturbed, tmp_path, monkeypatch, call
):
    run, settings = tmp_path / "run", settings_of_both()
    whole = undisturbed(settings)
    cut_run(dataset, run, settings, monkeypatch, call)
    train(dataset, run, settings, resume=True)
    assert same_run(run, whole)
    progresses = [
        unpack_checkpoint(pack_checkpoint(folder / LAST))[1]["progress"] for folder in (run, whole)
    ]
    for name in ("best", "best_epoch", "records", "progress_epoch"):
        assert progresses[0][name] == progresses[1][name]
    assert set(progresses[0]["records"]) == {"rmse", "ndcg@10"}
    assert "ndcg@10_standard_error" in progresses[0]["best"]


@pytest.mark.parametrize("call", [3, 6, 11])
@pytest.mark.parametrize("heads", ["rating", "both"])
def test_a_checkpoint_with_one_figure_of_the_best_epoch_is_gone_on_from(
    dataset, undisturbed, tmp_path, monkeypatch, heads, call
):
    """As those written before records were kept; the best checkpoint has what they lack."""
    run = tmp_path / "run"
    settings = settings_of_both() if heads == "both" else settings_with(checkpoint_steps=1)
    with monkeypatch.context() as patch:
        as_saved_before(patch)
        cut_run(dataset, run, settings, monkeypatch, call)
    train(dataset, run, settings, resume=True)
    assert same_run(run, undisturbed(settings))


# ---------------------------------------------------------------- another number of epochs


def told_of_the_rate(capsys):
    return [line for line in capsys.readouterr().err.splitlines() if "learning rate goes" in line]


def test_with_other_epochs_the_height_of_the_learning_rate_is_said_once(dataset, tmp_path, capsys):
    """Cosine from 12 steps to 24: of step 12 (1 + cos(pi / 2)) / 2 in place of 0."""
    run = tmp_path / "run"
    train(dataset, run, settings_with(epochs=3))
    assert told_of_the_rate(capsys) == []
    train(dataset, run, settings_with(epochs=3), resume=True)
    assert told_of_the_rate(capsys) == []
    train(dataset, run, settings_with(epochs=6), resume=True)
    assert told_of_the_rate(capsys) == [
        f"{run}: train.epochs was 3 and is 6: the learning rate goes on at 50 % of its highest in "
        "place of 0 %"
    ]
    meta = load_checkpoint(run / LAST).meta
    assert (meta["epochs"], meta["steps"]) == (6, 6 * BATCHES)
    train(dataset, run, settings_with(epochs=6), resume=True)
    train(dataset, run, settings_with(epochs=2), resume=True)  # nothing is left to train
    assert told_of_the_rate(capsys) == []


def test_fewer_epochs_lower_the_rate_in_the_middle_of_an_epoch(
    dataset, tmp_path, monkeypatch, capsys
):
    """Linear, cut off before step 6 of 16, and 8 from there on; 6 / 9 of the warm-up."""
    run, fitting = tmp_path / "run", {"schedule": "linear", "warmup_steps": 8}
    settings = settings_with(epochs=4, checkpoint_steps=1, **fitting)
    cut_run(dataset, run, settings, monkeypatch, 6)
    train(dataset, run, settings_with(epochs=2, **fitting), resume=True)
    assert told_of_the_rate(capsys) == [
        f"{run}: train.epochs was 4 and is 2: the learning rate goes on at 25 % of its highest in "
        "place of 46 %"  # 6 / 9 * 3 / 8 in place of 6 / 9 * 11 / 16
    ]


def test_a_constant_rate_stays_where_it_is_and_nothing_is_said(dataset, tmp_path, capsys):
    train(dataset, tmp_path / "run", settings_with(epochs=1, schedule="constant"))
    train(dataset, tmp_path / "run", settings_with(epochs=2, schedule="constant"), resume=True)
    assert told_of_the_rate(capsys) == []


def test_of_a_checkpoint_that_does_not_say_its_steps_nothing_is_said(
    dataset, tmp_path, monkeypatch, capsys
):
    """As those written before the number was kept."""
    describe = state_module.Checkpoints._describe

    def without_steps(*arguments):
        return {key: value for key, value in describe(*arguments).items() if key != "steps"}

    with monkeypatch.context() as patch:
        patch.setattr(state_module.Checkpoints, "_describe", without_steps)
        train(dataset, tmp_path / "run", settings_with(epochs=1))
    train(dataset, tmp_path / "run", settings_with(epochs=2), resume=True)
    assert told_of_the_rate(capsys) == []
    assert lines_of(tmp_path / "run")[-1]["epoch"] == 2


# ---------------------------------------------------------------- signals


def in_fork(function, *arguments, wait=True):
    """Call a function in a forked process; its wait status, or with `wait=False` its id."""
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process == 0:
        code = 99
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.default_int_handler)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            function(*arguments)
            code = 0
        except SystemExit as error:
            code = error.code
        except KeyboardInterrupt:
            code = 130
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) if wait else process


def at_call(owner, name, actions):
    """Do something at some calls of a function, by their number from 1; for a forked process."""
    original, calls = getattr(owner, name), itertools.count(1)

    def acting(*arguments, **options):
        action = actions.get(next(calls))
        if action is not None:
            action()
        return original(*arguments, **options)

    setattr(owner, name, acting)


def raising(number):
    return lambda: signal.raise_signal(number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("owner", "name", "call", "step"),
    [
        (TrainingStep, "_update", 6, 6),
        (validation_module, "measure", 1, 4),
        (validation_module, "embed_all", 2, 8),
        (state_module.Checkpoints, "save_last", 1, 4),
        (state_module.Checkpoints, "save_last", 3, 12),
    ],
    ids=str,
)
def test_a_signal_ends_the_step_saves_and_says_how_to_go_on(
    dataset, undisturbed, tmp_path, capfd, number, owner, name, call, step
):
    run, settings = tmp_path / "run", settings_with()

    def stopped():
        at_call(owner, name, {call: raising(number)})
        train(dataset, run, settings)

    assert in_fork(stopped) == 130
    assert re.search(r"stopped after epoch .*; go on with --resume", capfd.readouterr().err)
    assert load_checkpoint(run / LAST).meta["step"] == step
    assert not (run / RESULTS_FILE).exists() and not list(run.rglob(TEMPORARY))
    train(dataset, run, settings, resume=True)
    assert same_run(run, undisturbed(settings))


def test_a_second_interrupt_stops_at_once(dataset, undisturbed, tmp_path, capfd):
    run, settings = tmp_path / "run", settings_with(checkpoint_steps=1)

    def again():
        time.sleep(1.2)  # no echo of the first one
        signal.raise_signal(signal.SIGINT)

    def stopped():
        at_call(TrainingStep, "_update", {6: raising(signal.SIGINT)})
        at_call(state_module, "save_checkpoint", {8: again})
        train(dataset, run, settings)

    assert in_fork(stopped) == 130
    assert "stopped after" not in capfd.readouterr().err
    assert load_checkpoint(run / LAST).meta["step"] == 5
    train(dataset, run, settings, resume=True)
    assert same_run(run, undisturbed(settings))


def test_a_signal_in_the_last_evaluation_stops_at_once(dataset, undisturbed, tmp_path):
    run, settings = tmp_path / "run", settings_with()

    def stopped():
        at_call(finish_module, "evaluate", {2: raising(signal.SIGTERM)})
        train(dataset, run, settings)

    assert in_fork(stopped) == 130
    assert not (run / RESULTS_FILE).exists()
    train(dataset, run, settings, resume=True)
    assert same_run(run, undisturbed(settings))


def test_a_signal_that_was_ignored_stays_ignored(dataset, undisturbed, tmp_path):
    run, settings = tmp_path / "run", settings_with()

    def undeterred():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        at_call(TrainingStep, "_update", {2: raising(signal.SIGINT)})
        train(dataset, run, settings)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN

    assert in_fork(undeterred) == 0
    assert same_run(run, undisturbed(settings))


def test_handlers_are_as_before_afterwards(dataset, tmp_path, monkeypatch):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    train(dataset, tmp_path / "run", make_settings(epochs=1))
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before
    cut_run(dataset, tmp_path / "other", make_settings(), monkeypatch, 2)
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before


def test_training_outlives_its_terminal(dataset, undisturbed, tmp_path):
    """SIGHUP comes, and from then on nothing that is said can be written."""
    run, settings = tmp_path / "run", settings_with()

    def gone():
        reader, writer = os.pipe()
        os.close(reader)
        os.dup2(writer, 2)
        signal.raise_signal(signal.SIGHUP)

    def abandoned():
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115 - pytest's own is no pipe
        at_call(TrainingStep, "_update", {6: gone})
        train(dataset, run, settings)
        sys.stderr = sys.__stderr__

    assert in_fork(abandoned) == 0
    assert same_run(run, undisturbed(settings))
    said = (run / LOG_FILE).read_text()
    assert [line.split(" ", 1)[1][:12] for line in said.splitlines()][1:] == [
        f"epoch {epoch} of {EPOCHS}" for epoch in range(1, EPOCHS + 1)
    ]


def test_the_log_of_a_run_says_what_ended_it_and_goes_on(dataset, tmp_path):
    run, settings = tmp_path / "run", settings_with()

    def stopped():
        at_call(TrainingStep, "_update", {6: raising(signal.SIGINT)})
        train(dataset, run, settings)

    assert in_fork(stopped) == 130
    said = (run / LOG_FILE).read_text().splitlines()
    assert "; go on with --resume" in said[-2] and said[-1].endswith(" ended early: interrupted")
    train(dataset, run, settings, resume=True)
    assert (run / LOG_FILE).read_text().splitlines()[: len(said)] == said
    train(dataset, run, settings, overwrite=True)
    assert "ended early" not in (run / LOG_FILE).read_text()


def test_signals_are_put_off_only_within_the_block():
    def handled():
        with pytest.raises(KeyboardInterrupt), Interrupts():
            signal.raise_signal(signal.SIGTERM)
        with Interrupts() as interrupts:
            with interrupts.put_off():
                signal.raise_signal(signal.SIGTERM)
                assert interrupts.requested
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)

    assert in_fork(handled) == 0


def test_training_in_another_thread_leaves_signals_alone(dataset, undisturbed, tmp_path):
    raised = []

    def work():
        torch.set_num_threads(1)
        try:
            train(dataset, tmp_path / "run", settings_with())
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not raised
    assert same_run(tmp_path / "run", undisturbed(settings_with()))


# ---------------------------------------------------------------- one at a time


def in_command(*arguments):
    """The entry point, as the console script calls it, in this process."""
    sys.argv = ["dglrec", *map(str, arguments)]
    cli.main()


@contextlib.contextmanager
def holding(run):
    """Another process that has the run's lock; its id."""
    reader, writer = os.pipe()

    def hold():
        with locked(run):
            os.write(writer, b"x")
            time.sleep(600)

    process = in_fork(hold, wait=False)
    os.close(writer)
    assert os.read(reader, 1) == b"x"
    os.close(reader)
    try:
        yield process
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)


@pytest.mark.parametrize("option", ["--resume", "--overwrite"])
def test_a_run_in_use_is_left_alone(dataset, tmp_path, option, capfd):
    run = tmp_path / "run"
    train(dataset, run, make_settings(epochs=1))
    (run / "checkpoints" / ".dglrec-tmp-abc").mkdir()  # what the other is writing
    with holding(run) as other:
        before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
        capfd.readouterr()
        code = in_fork(in_command, "train", dataset.path, run, option, "--device", "cpu")
        said = capfd.readouterr().err
        assert code == 2
        assert f"error: {run}: in use by process {other} on {socket.gethostname()}" in said
        assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
        assert (run / "checkpoints" / ".dglrec-tmp-abc").is_dir()
    # The lock went with the process that was killed.
    train(dataset, run, make_settings(epochs=2), resume=True)


def test_a_lock_is_given_back(dataset, tmp_path):
    again = locked(tmp_path / "run")
    with (
        locked(tmp_path / "run"),
        pytest.raises(UsageError, match=f"in use by process {os.getpid()}"),
        again,
    ):
        pass
    with locked(tmp_path / "run"):
        pass
    # A folder that holds no more than a lock may be trained into.
    assert [path.name for path in (tmp_path / "run").iterdir()] == [LOCK_FILE]
    train(dataset, tmp_path / "run", make_settings(epochs=1))


def test_without_locks_training_goes_on_and_says_so(dataset, tmp_path, monkeypatch, capsys):
    def flock(descriptor, operation):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    train(dataset, tmp_path / "run", make_settings(epochs=1))
    assert "no lock to be had (Function not implemented)" in capsys.readouterr().err


def test_too_little_memory_leaves_no_folder(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 1000)
    with pytest.raises(UnusableEnvironmentError, match="training needs about"):
        train(dataset, tmp_path / "run", make_settings())
    assert not list(tmp_path.iterdir())


def test_killed_before_its_configuration_was_written_a_run_can_be_started_again(dataset, tmp_path):
    run = tmp_path / "run"

    def killed():
        at_call(os, "replace", {1: raising(signal.SIGKILL)})
        train(dataset, run, make_settings())

    assert in_fork(killed) == -signal.SIGKILL
    train(dataset, run, make_settings(epochs=1))


# ---------------------------------------------------------------- killed


# What touches the disk; Python tells of it before it happens.
_TOUCHES = {
    "open",
    "os.chmod",
    "os.mkdir",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.truncate",
    "shutil.rmtree",
    "tempfile.mkdtemp",
    "ctypes.dlsym",
}


def kill_at_touch(number, within):
    """Kill this process at the n-th time that it touches the disk from a call of `within` on."""
    begun, left, original = False, number, state_module.save_checkpoint

    def hook(event, _):
        nonlocal left
        if begun and event in _TOUCHES:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    calls = itertools.count(1)

    def save(*arguments, **options):
        nonlocal begun
        begun = next(calls) == within
        original(*arguments, **options)
        if begun:
            os._exit(0)  # it was through before

    sys.addaudithook(hook)
    state_module.save_checkpoint = save


@pytest.mark.parametrize(("save", "goes_on_from"), [(3, {4}), (5, {4, 6})])  # best, last
def test_killed_anywhere_in_a_checkpoint_it_goes_on_as_if_nothing_had_been(
    dataset, undisturbed, tmp_path, steps_taken, save, goes_on_from
):
    settings = settings_with(checkpoint_steps=2, epochs=2)
    whole, redone = undisturbed(settings), []
    # One of three; `test_checkpoint.py` has every line.
    for touch in range(1, 1000, 3):
        run = tmp_path / str(touch)

        def killed(run=run, touch=touch):
            kill_at_touch(touch, save)
            train(dataset, run, settings)

        if in_fork(killed) == 0:
            break
        steps_taken.clear()
        train(dataset, run, settings, resume=True)
        redone.append(steps_taken[0])
        assert same_run(run, whole)
        assert not list(run.rglob(TEMPORARY))
        shutil.rmtree(run)
    assert touch > 15
    assert set(redone) == goes_on_from and redone == sorted(redone)


# ---------------------------------------------------------------- of several processes


def train_in_rank(world, path, run, call, resume):
    settings = settings_with(checkpoint_steps=1)
    if call:
        original, calls = TrainingStep.__call__, itertools.count(1)

        def cutting(self, *arguments, **options):
            if next(calls) == call:
                raise CutOff
            return original(self, *arguments, **options)

        TrainingStep.__call__ = cutting
    try:
        results = train(
            RatingDataset.open(Path(path)), Path(run), settings, resume=resume, world=world
        )
    except CutOff:
        return None
    return results["valid"]["rmse"]


def test_two_processes_cut_off_go_on_alike_and_in_any_number(dataset, tmp_path):
    whole = tmp_path / "whole"
    (rmse, _) = in_ranks(2, train_in_rank, str(dataset.path), str(whole), 0, False)
    for call in (3, 8):
        run = tmp_path / str(call)
        in_ranks(2, train_in_rank, str(dataset.path), str(run), call, False)
        assert load_checkpoint(run / LAST).meta["step"] == call - 1
        for size in (1, 3):
            shutil.copytree(run, tmp_path / f"{call}-{size}")
        assert in_ranks(2, train_in_rank, str(dataset.path), str(run), 0, True) == [rmse, rmse]
        assert same_run(run, whole)
        for size in (1, 3):
            other = tmp_path / f"{call}-{size}"
            found = in_ranks(size, train_in_rank, str(dataset.path), str(other), 0, True)
            assert found == [pytest.approx(rmse, rel=0.01)] * size
            assert [line["epoch"] for line in lines_of(other)] == [1, 2, 3]
            assert load_checkpoint(other / LAST).meta["step"] == EPOCHS * BATCHES


# ---------------------------------------------------------------- the command itself


@pytest.fixture(scope="module")
def larger(tmp_path_factory):
    """Enough for a second or two."""
    return planted(tmp_path_factory.mktemp("larger"), 400, 80, 20_000)


_OPTIONS = {
    "train.epochs": "6",
    "train.patience": "99",
    "loader.batch_size": "512",
    "model.embedding_size": "16",
    "model.user_identity": "true",
    "train.checkpoint_seconds": "0.0",
}


def command(data, run, *more, **options):
    found = [sys.executable, "-m", "dglrec", "train", str(data.path), str(run), "--device", "cpu"]
    for key, value in {**_OPTIONS, **{f"train.{k}": str(v) for k, v in options.items()}}.items():
        found += ["--set", f"{key}={value}"]
    return [*found, *more]


# Weights depend on the number of threads, so all that is compared is trained on the same.
THREADS = 1

# The command. Before each step it notes how many are done; before a given one it waits for a file,
# so that what is killed or interrupted there cannot have come to its end before, however slow the
# machine is.
_TRACED = """
import os, sys, time
from dglrec.cli import main
from dglrec.train.step import TrainingStep

trace, release, hold, *sys.argv[1:] = sys.argv[1:]
trace, step = os.open(trace, os.O_WRONLY | os.O_CREAT), TrainingStep.__call__

def noting(self, *arguments, **options):
    os.pwrite(trace, f"{self.number:09d}".encode(), 0)
    while self.number >= int(hold) and not os.path.exists(release):
        time.sleep(0.001)
    return step(self, *arguments, **options)

TrainingStep.__call__ = noting
main()
"""


def environment():
    return {**os.environ, "OMP_NUM_THREADS": str(THREADS)}


def forked_command(data, run, *more, **options):
    """The command in a fork, with all modules imported already; its process id."""

    def call():
        torch.set_num_threads(THREADS)
        in_command(*command(data, run, *more, **options)[3:])

    return in_fork(call, wait=False)


def traced_fork(arguments):
    def call():
        torch.set_num_threads(THREADS)
        sys.argv = ["dglrec", *arguments]
        exec(_TRACED, {})

    return in_fork(call, wait=False)


def traced_process(arguments):
    return os.posix_spawn(
        sys.executable, [sys.executable, "-c", _TRACED, *arguments], environment()
    )


@pytest.fixture(scope="module")
def larger_whole(larger, tmp_path_factory):
    run = tmp_path_factory.mktemp("whole") / "run"
    process = forked_command(larger, run)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
    return run


def steps_of(run):
    """How many steps a finished run took."""
    return load_checkpoint(run / LAST).meta["step"]


@pytest.mark.slow
def test_an_interrupted_command_says_how_to_go_on_and_goes_on(larger, larger_whole, tmp_path):
    run, trace, release = (tmp_path / name for name in ("run", "trace", "release"))
    hold = steps_of(larger_whole) // 2
    process = subprocess.Popen(
        [sys.executable, "-c", _TRACED, trace, release, str(hold), *command(larger, run)[3:]],
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # A parent that ignores it, as a shell does for what runs in the background, hands that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while number_in(trace) < hold:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    release.touch()
    _, said = process.communicate()
    assert process.returncode == 130, said
    assert re.search(r"stopped after epoch \d.*; go on with --resume", said)
    assert said.splitlines()[-1] == "interrupted"
    assert not (run / RESULTS_FILE).exists()
    assert saved_step(run) == hold + 1  # the step under way was ended
    other = forked_command(larger, run, "--resume")
    assert os.waitstatus_to_exitcode(os.waitpid(other, 0)[1]) == 0
    assert same_run(run, larger_whole)


def is_running(process):
    """Whether a child process is; it can still be waited for afterwards."""
    return os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def number_in(path, find=int):
    try:
        return find(path.read_text() or "0")
    except FileNotFoundError:
        return 0


def saved_step(run):
    return number_in(run / LAST / "meta.json", lambda text: json.loads(text)["step"])


def killed_again_and_again(start, data, run, steps, kills, seconds, interval, seed):
    """Kill a training at random moments and go on with it; then let it end.

    The moments are spread over all its steps: before the last step of its share each process waits
    to be killed.

    Args:
        start: starts the traced command.
        data: what is trained on.
        run: where.
        steps: that the training has in all.
        kills: how many times it is killed.
        seconds: a process is killed at most so long after its first step.
        interval: steps between checkpoints.
        seed: of the moments.

    Returns:
        Of each kill how many steps it undid, and whether it fell within a checkpoint's writing.
    """
    trace, lock, chance = run.with_name("trace"), run / LOCK_FILE, random.Random(seed)
    never = str(run.with_name("never"))
    undone, within = [], []
    while True:
        more = ["--resume"] if (run / CONFIG_FILE).exists() else []
        options = {"checkpoint_steps": interval, "epochs": 6}
        trace.unlink(missing_ok=True)
        hold = steps * (len(undone) + 1) // (kills + 1)  # after the last kill: the end
        process = start([str(trace), never, str(hold), *command(data, run, *more, **options)[3:]])
        if len(undone) == kills:
            assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
            return undone, within
        begun = None  # a step must be done: its start is not what is to be hit
        while begun is None or number_in(trace) == begun:
            assert is_running(process)
            if begun is None and trace.exists() and trace.read_text():
                begun = number_in(trace)
            time.sleep(0.001)
        time.sleep(chance.uniform(0, seconds))
        os.kill(process, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL
        assert lock.read_text().startswith(f"process {process} on ")
        taken, saved = number_in(trace), saved_step(run)
        assert saved >= taken // interval * interval
        undone.append(max(0, taken - saved))
        within.append(bool(list((run / LAST).parent.glob(TEMPORARY))))
        if saved:
            assert newest_whole(run / LAST) == run / LAST


def report(capsys, undone, within, interval):
    with capsys.disabled():
        print(
            f"\n{len(undone)} kills, {sum(within)} of them within a checkpoint's writing; at most "
            f"{max(undone)} whole steps undone, with a checkpoint every {interval}: {undone}"
        )


@pytest.mark.slow
def test_killed_at_random_moments_it_comes_to_the_same_end(larger, larger_whole, tmp_path, capsys):
    run, interval = tmp_path / "run", 5
    steps = steps_of(larger_whole)
    found = killed_again_and_again(traced_fork, larger, run, steps, 3, 0.5, interval, 1)
    report(capsys, *found, interval)
    assert same_run(run, larger_whole)


@pytest.mark.slow
@pytest.mark.parametrize("interval", [1, 7])
def test_a_command_killed_twenty_times_comes_to_the_same_end(
    larger, larger_whole, tmp_path, capsys, interval
):
    run = tmp_path / "run"
    steps = steps_of(larger_whole)
    found = killed_again_and_again(traced_process, larger, run, steps, 20, 0.15, interval, interval)
    report(capsys, *found, interval)
    assert same_run(run, larger_whole)
