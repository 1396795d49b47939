"""Training finds what was planted, comes out the same each time, and survives being cut off."""

import itertools
import json
import math
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from runs import (
    BATCHES,
    bytes_of,
    lines_of,
    make_settings,
    planted,
    same_run,
    same_weights,
    weights_of,
    without_times,
)

import dglrec
from dglrec.checkpoint import load_checkpoint
from dglrec.dataset import PrepareOptions, prepare
from dglrec.errors import DataError, DglrecError, UnusableEnvironmentError, UsageError
from dglrec.metrics import RatingSums
from dglrec.nn import ModelConfig
from dglrec.run import BEST, CONFIG_FILE, LAST, METRICS_FILE, RESULTS_FILE
from dglrec.sampling import LoaderConfig
from dglrec.train import Settings, TrainConfig, learning_rate_share, make_loss, train
from dglrec.train import finish as finish_module
from dglrec.train import state as state_module
from dglrec.train import validation as validation_module
from dglrec.train.objectives import kinds as kinds_module
from dglrec.train.step import TrainingStep
from dglrec.train.validation import Validation


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """1,600 training ratings: enough to go through the motions."""
    return planted(tmp_path_factory.mktemp("small"), 80, 40, 2_000)


@pytest.fixture(scope="module")
def undisturbed(dataset, tmp_path_factory):
    """A run of four epochs that nothing disturbed."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    train(dataset, run, make_settings())
    return run


# ---------------------------------------------------------------- what is learned


def test_training_finds_the_planted_taste(tmp_path):
    dataset = planted(tmp_path, 600, 60, 24_000)
    settings = make_settings(
        {"embedding_size": 32, "decoder_size": 16, "dropout": 0.1},
        {"batch_size": 1024, "user_fanouts": (20, -1), "item_fanouts": (20, 20)},
        epochs=8,
        learning_rate=0.03,
        warmup_steps=5,
    )
    results = train(dataset, tmp_path / "run", settings)
    assert results["test"]["gap_closed"] > 0.15
    assert results["valid"]["gap_closed"] > 0.15
    errors = [line["train_rmse"] for line in lines_of(tmp_path / "run")]
    assert len(errors) == 8 and errors[-1] < 0.99 * errors[0]
    # Without the ratings in messages, and with no users' vectors, taste cannot be seen.
    blind = make_settings(
        {**settings.model.model_dump(), "rating_messages": False},
        settings.loader.model_dump(),
        **{**settings.train.model_dump(), "epochs": 3},
    )
    cannot_see = train(dataset, tmp_path / "blind", blind)
    assert cannot_see["test"]["gap_closed"] < results["test"]["gap_closed"] / 2


def test_bfloat16_learns_about_the_same(dataset, undisturbed, tmp_path):
    results = train(dataset, tmp_path / "run", make_settings(precision="bfloat16"))
    expected = json.loads((undisturbed / RESULTS_FILE).read_text())
    assert results["valid"]["rmse"] == pytest.approx(expected["valid"]["rmse"], rel=0.01)
    assert not same_weights(weights_of(tmp_path / "run"), weights_of(undisturbed))
    assert all(value.dtype == torch.float32 for value in weights_of(tmp_path / "run").values())


def test_what_auto_came_to_is_said(dataset, tmp_path, capsys):
    settings = Settings(ModelConfig(embedding_size=4), LoaderConfig(), TrainConfig(epochs=1))
    train(dataset, tmp_path / "run", settings)
    line = capsys.readouterr().err.splitlines()[0]
    assert line.startswith("1,600 ratings by 80 users of 40 items, on ")
    assert line.endswith(
        "loader users, batch 2,048, 8 folds, fan-outs of users all/all, items 10/10, "
        "all items in each step, learning rate 0.003789, dropout 0.1"
    )


def test_what_there_is_none_of_is_not_said(dataset, tmp_path, capsys):
    for name, model, loader, says in (
        ("flat", {"layers": 0}, {}, "batch 2,048, 8 folds, all items in each step, l"),
        ("dgl", {}, {"kind": "neighbor"}, "batch 1,024, fan-outs of users all/all, items 10/10, l"),
    ):
        settings = Settings(
            ModelConfig(embedding_size=4, user_identity=True, **model),
            LoaderConfig(**loader),
            TrainConfig(epochs=1),
        )
        train(dataset, tmp_path / name, settings)
        assert says in capsys.readouterr().err.splitlines()[0]


@pytest.mark.parametrize(
    ("section", "changes"),
    [
        ("model", {"aggregator": "pool", "user_identity": True, "layers": 1}),
        ("train", {"loss": "smooth_l1", "optimizer": "adam", "schedule": "linear"}),
        ("train", {"loss": "weighted_mse", "schedule": "constant", "weight_decay": 0.1}),
        ("loader", {"batch_size": 10_000}),  # more than there are ratings
        ("loader", {"user_fanouts": (-1, -1), "exclude_targets": False}),
    ],
    ids=str,
)
def test_every_kind_of_training_runs(dataset, tmp_path, section, changes):
    parts = {"model": {}, "loader": {}, "train": {"epochs": 2}}
    parts[section] |= changes
    if changes.get("layers") == 1:
        parts["loader"] = {"user_fanouts": (5,), "item_fanouts": (5,)}
    results = train(
        dataset,
        tmp_path / "run",
        make_settings(parts["model"], parts["loader"], **parts["train"]),
    )
    assert results["epochs"] == 2
    assert results["test"]["rmse"] < results["test"]["baselines"]["global_mean"]["rmse"]


# ---------------------------------------------------------------- the same each time


def test_same_seed_same_weights_other_seed_others(dataset, undisturbed, tmp_path):
    torch.randn(7)  # whatever was drawn before
    np.random.seed(5)
    train(dataset, tmp_path / "again", make_settings())
    assert same_run(tmp_path / "again", undisturbed)
    train(dataset, tmp_path / "other", make_settings(seed=1, epochs=1))
    other, first = weights_of(tmp_path / "other"), weights_of(undisturbed)
    assert not any(torch.equal(other[name], first[name]) for name in first if "weight" in name)


def test_same_seed_same_weights_on_several_threads(tmp_path):
    # Batches large enough for torch to share them out: the gradient of `table[index]` would be
    # summed in whatever order the threads come.
    dataset = planted(tmp_path, 300, 60, 12_000)
    settings = make_settings({"embedding_size": 64, "decoder_size": 64}, {"batch_size": 4096})
    torch.set_num_threads(4)
    try:
        for run in ("one", "other"):
            train(dataset, tmp_path / run, settings)
    finally:
        torch.set_num_threads(1)
    assert same_weights(weights_of(tmp_path / "one"), weights_of(tmp_path / "other"))


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": "smooth_l1"},
        {"loss": "weighted_mse"},
        {"optimizer": "adam", "weight_decay": 0.1},
        {"weight_decay": 0.1},
        {"learning_rate": 0.02},
        {"schedule": "linear"},
        {"schedule": "constant"},
        {"warmup_steps": 0},
        {"clip_norm": 1e-3},
    ],
    ids=str,
)
def test_every_setting_changes_the_weights(dataset, tmp_path, changes):
    plain = {"epochs": 1}
    if "optimizer" in changes:  # without decay, adam and adamw are one
        plain["weight_decay"] = 0.1
    runs = []
    for number, fitting in enumerate((plain, {**plain, **changes})):
        runs.append(tmp_path / str(number))
        train(dataset, runs[-1], make_settings(**fitting))
    assert not same_weights(*(weights_of(run) for run in runs))


# ---------------------------------------------------------------- what a run leaves


def test_a_run_holds_what_it_says(dataset, undisturbed):
    lines = lines_of(undisturbed)
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4]
    results = json.loads((undisturbed / RESULTS_FILE).read_text())
    assert results["epochs"] == 4
    best = min(lines, key=lambda line: line["valid_rmse"])
    assert results["best_epoch"] == best["epoch"]
    meta = load_checkpoint(undisturbed / BEST).meta
    assert meta["epoch"] == best["epoch"]
    assert meta["valid"]["rmse"] == best["valid_rmse"]
    assert results["valid"]["rmse"] == pytest.approx(best["valid_rmse"], rel=1e-6)
    assert load_checkpoint(undisturbed / LAST).meta["epoch"] == 4
    assert meta["fingerprint"] == dataset.fingerprint
    environment = json.loads((undisturbed / "environment.json").read_text())
    assert environment["dglrec"] == dglrec.__version__ and environment["device"] == "cpu"
    assert lines[-1]["learning_rate"] == pytest.approx(0, abs=1e-9)  # cosine, at its end
    assert not list(undisturbed.rglob(".dglrec-tmp-*"))


def test_test_rows_choose_nothing(dataset, tmp_path, monkeypatch):
    """What is measured between epochs is the validation split alone."""
    asked = []
    original = type(dataset).held_out

    def held_out(self, split, *stretch):
        asked.append(split)
        return original(self, split, *stretch)

    monkeypatch.setattr(type(dataset), "held_out", held_out)
    monkeypatch.setattr(finish_module, "evaluate", lambda trained, split, **_: {})
    train(dataset, tmp_path / "run", make_settings(epochs=2))
    assert set(asked) == {"valid"}


def test_an_existing_run_is_not_replaced_unasked(dataset, undisturbed, tmp_path):
    before = bytes_of(undisturbed / LAST)
    with pytest.raises(UsageError, match="exists; choose another name, .*--overwrite"):
        train(dataset, undisturbed, make_settings())
    assert bytes_of(undisturbed / LAST) == before

    stopped = shutil.copytree(undisturbed, tmp_path / "stopped")
    (stopped / RESULTS_FILE).unlink()
    with pytest.raises(UsageError, match="exists; go on with its training with --resume, choose"):
        train(dataset, stopped, make_settings())

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(UsageError, match="holds no config.toml"):
        train(dataset, tmp_path / "mine", make_settings(), overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "x"


def test_overwriting_starts_anew(dataset, tmp_path, monkeypatch):
    run = tmp_path / "run"
    train(dataset, run, make_settings(seed=1, epochs=2))
    results = train(dataset, run, make_settings(epochs=1), overwrite=True)
    assert results["epochs"] == 1 and len(lines_of(run)) == 1
    train(dataset, tmp_path / "fresh", make_settings(epochs=1))
    assert same_run(run, tmp_path / "fresh")

    # Nothing of the run before is left, even where the new one never gets through an epoch.
    monkeypatch.setattr(kinds_module, "make_loss", failing_loss(1, math.nan))
    with pytest.raises(DglrecError):
        train(dataset, run, make_settings(), overwrite=True)
    assert not (run / LAST).exists() and not (run / BEST).exists()
    assert not (run / METRICS_FILE).exists() and not (run / RESULTS_FILE).exists()
    # And such a run can be replaced.
    monkeypatch.undo()
    assert train(dataset, run, make_settings(epochs=1), overwrite=True)["epochs"] == 1


# ---------------------------------------------------------------- early stopping


def scripted(monkeypatch, errors):
    """Validation RMSEs from a list, one an epoch."""
    left = iter(errors)

    def measure(*_):
        rmse = next(left)
        return RatingSums(n=1, squared=rmse**2, weighted=rmse**2, weights=1)

    monkeypatch.setattr(validation_module, "measure", measure)


@pytest.mark.parametrize(
    ("errors", "patience", "epochs", "best"),
    [
        ([1.5, 1.2, 1.3, 1.25, 1.0], 2, 4, 2),
        ([1.5, 1.2, 1.3, 1.1, 1.4, 1.0], 2, 6, 6),
        ([1.0, 1.0, 1.0, 0.5, 0.5, 0.5], 1, 2, 1),  # as good is no better
        ([1.0, 1.1, 1.2, 1.3, 1.4, 1.5], 3, 4, 1),
    ],
)
def test_early_stopping_keeps_the_best_epoch(
    dataset, tmp_path, monkeypatch, errors, patience, epochs, best
):
    scripted(monkeypatch, errors)
    settings = make_settings(epochs=6, patience=patience, schedule="constant")
    results = train(dataset, tmp_path / "run", settings)
    assert (results["epochs"], results["best_epoch"]) == (epochs, best)
    assert len(lines_of(tmp_path / "run")) == epochs
    monkeypatch.undo()
    # Its weights are those after that epoch.
    train(dataset, tmp_path / "short", make_settings(epochs=best, schedule="constant"))
    assert same_weights(weights_of(tmp_path / "run", BEST), weights_of(tmp_path / "short"))
    # Resuming a run that has stopped trains no more.
    resumed = train(dataset, tmp_path / "run", settings, resume=True)
    assert without_times(resumed) == without_times(results)
    assert len(lines_of(tmp_path / "run")) == epochs


# ---------------------------------------------------------------- going on


def test_two_epochs_and_two_more_are_four(dataset, tmp_path):
    run, whole = tmp_path / "run", tmp_path / "whole"
    train(dataset, run, make_settings(epochs=2, schedule="constant"))
    torch.randn(5)
    train(dataset, run, make_settings(schedule="constant"), resume=True)
    train(dataset, whole, make_settings(schedule="constant"))
    assert [line["epoch"] for line in lines_of(run)] == [1, 2, 3, 4]
    assert same_run(run, whole)


def test_resuming_a_whole_run_changes_nothing(dataset, undisturbed, tmp_path):
    run = tmp_path / "run"
    train(dataset, run, make_settings())
    before = bytes_of(run / LAST)
    train(dataset, run, make_settings(), resume=True)
    assert bytes_of(run / LAST) == before
    assert same_run(run, undisturbed)


class CutOff(BaseException):
    """Stands for whatever ends a process."""


@pytest.mark.parametrize("calls", [1, 2, 3, 4, 5, 6, 7])
def test_cut_off_at_any_checkpoint_it_goes_on_as_if_nothing_had_been(
    dataset, undisturbed, tmp_path, monkeypatch, calls
):
    """Best and last alternate, so some runs have a best that is an epoch ahead."""
    run, original, left = tmp_path / "run", state_module.save_checkpoint, itertools.count(1)

    def save(*arguments, **options):
        if next(left) == calls:
            raise CutOff
        original(*arguments, **options)

    monkeypatch.setattr(state_module, "save_checkpoint", save)
    try:
        train(dataset, run, make_settings())
    except CutOff:
        monkeypatch.undo()
        train(dataset, run, make_settings(), resume=True)
    assert [line["epoch"] for line in lines_of(run)] == [1, 2, 3, 4]
    assert same_run(run, undisturbed)


_KILLED = """
import json, os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from dglrec import checkpoint
from dglrec.dataset import RatingDataset
from dglrec.nn import ModelConfig
from dglrec.sampling import LoaderConfig
from dglrec.train import Settings, TrainConfig, step as module, train

data, run, place, sections = sys.argv[1:]
calls = 0

def killing(call_to_kill, function):
    def wrapped(*arguments, **options):
        global calls
        calls += 1
        if calls == call_to_kill:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return wrapped

if place == "in a step":
    module.TrainingStep._update = killing(7, module.TrainingStep._update)
elif place == "in a checkpoint":  # its weights are written, its description is not
    checkpoint.json_digest = killing(6, checkpoint.json_digest)
sections = json.loads(sections)
settings = Settings(
    ModelConfig.model_validate(sections["model"]),
    LoaderConfig.model_validate(sections["loader"]),
    TrainConfig.model_validate(sections["train"]),
)
train(RatingDataset.open(Path(data)), Path(run), settings)
"""


@pytest.mark.slow
def test_killed_anywhere_it_goes_on_as_if_nothing_had_been(dataset, undisturbed, tmp_path):
    settings = make_settings()
    processes = {}
    for place in ("in a step", "in a checkpoint"):
        run = tmp_path / place
        command = [sys.executable, "-c", _KILLED, str(dataset.path), str(run), place]
        command.append(json.dumps(settings.to_dict()))
        processes[run] = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
    for run, process in processes.items():
        _, errors = process.communicate()
        assert process.returncode == -signal.SIGKILL, errors.decode()
        assert (run / LAST).is_dir() and not (run / RESULTS_FILE).exists()
        train(dataset, run, settings, resume=True)
        assert [line["epoch"] for line in lines_of(run)] == [1, 2, 3, 4]
        assert same_run(run, undisturbed)


@pytest.mark.parametrize("where", ["in a step", "in a validation"])
def test_a_device_that_disappears_is_said_and_training_goes_on(
    dataset, undisturbed, tmp_path, monkeypatch, where
):
    """What torch raises of a card that fell off the bus, from a step or after an epoch."""
    lost = RuntimeError("CUDA error: unspecified launch failure\nCompile with TORCH_USE_CUDA_DSA")
    owner, name = (TrainingStep, "__call__") if where == "in a step" else (Validation, "figures")
    real, calls = getattr(owner, name), []

    def failing(*given, **named):
        calls.append(given)
        if len(calls) == (7 if where == "in a step" else 2):
            raise lost
        return real(*given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, failing)
        with pytest.raises(UnusableEnvironmentError, match=r"cpu failed \(CUDA error.*--resume"):
            train(dataset, tmp_path / "run", make_settings())
    train(dataset, tmp_path / "run", make_settings(), resume=True)
    assert same_run(tmp_path / "run", undisturbed)


def test_resuming_what_is_not_there(dataset, tmp_path):
    with pytest.raises(DataError, match="no such run to resume"):
        train(dataset, tmp_path / "none", make_settings(), resume=True)
    assert not (tmp_path / "none").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no such run to resume"):
        train(dataset, tmp_path / "empty", make_settings(), resume=True)
    assert not list((tmp_path / "empty").iterdir())


@pytest.mark.parametrize(
    "model", [{"embedding_size": 8}, {"user_identity": True}, {"rating_messages": False}], ids=str
)
def test_resuming_with_another_model_is_refused_and_changes_nothing(dataset, tmp_path, model):
    run = tmp_path / "run"
    train(dataset, run, make_settings(epochs=1))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match="does not fit the configuration"):
        train(dataset, run, make_settings(model, epochs=2), resume=True)
    # The configuration above all: `--resume` reads it.
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_resuming_on_another_data_set_is_refused(dataset, tmp_path):
    other = prepare(
        dataset.path.parent / "source", tmp_path / "other", PrepareOptions(text=False, seed=1)
    )
    run = tmp_path / "run"
    train(dataset, run, make_settings(epochs=1))
    config = (run / CONFIG_FILE).read_text()
    with pytest.raises(DataError, match="not the data set"):
        train(other, run, make_settings(epochs=2), resume=True)
    assert (run / CONFIG_FILE).read_text() == config


def test_resuming_from_a_damaged_checkpoint_is_refused(dataset, tmp_path):
    run = tmp_path / "run"
    train(dataset, run, make_settings(epochs=1))
    state = run / LAST / "state.pt"
    damaged = bytearray(state.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    state.write_bytes(damaged)
    with pytest.raises(DataError, match="damaged or altered"):
        train(dataset, run, make_settings(epochs=2), resume=True)


# ---------------------------------------------------------------- losses that are no number


def failing_loss(call, value):
    """In place of `make_loss`: squared errors, and the given value at one call."""

    def make(*_):
        calls = itertools.count(1)

        def loss(predictions, ratings):
            squared = (predictions - ratings) ** 2
            return squared * value if next(calls) == call else squared

        return loss

    return make


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_before_the_weights(
    dataset, tmp_path, monkeypatch, value, undisturbed
):
    run = tmp_path / "run"
    call = 2 * BATCHES + 3
    monkeypatch.setattr(kinds_module, "make_loss", failing_loss(call, value))
    with pytest.raises(
        DglrecError, match=r"epoch 3 of 4, batch 3 \(step 11\): loss (nan|inf).*learning_rate"
    ):
        train(dataset, run, make_settings())
    assert load_checkpoint(run / LAST).meta["epoch"] == 2
    assert len(lines_of(run)) == 2
    monkeypatch.undo()
    train(dataset, run, make_settings(), resume=True)
    assert same_run(run, undisturbed)


@pytest.mark.parametrize("batch_size", [400, 10_000])
def test_a_learning_rate_far_too_high_is_an_error_that_says_so(dataset, tmp_path, batch_size):
    """Of several batches the second fails; of a single one the validation that follows."""
    settings = make_settings(None, {"batch_size": batch_size}, learning_rate=1e3, warmup_steps=0)
    with pytest.raises(DglrecError, match="epoch 1.*learning_rate"):
        train(dataset, tmp_path / "run", settings)
    assert not (tmp_path / "run" / LAST).exists()
    assert not (tmp_path / "run" / METRICS_FILE).exists()


# ---------------------------------------------------------------- losses and schedules


def test_losses_known_answers(dataset):
    predictions, ratings = torch.tensor([7.0, 2.0, 8.5]), torch.tensor([8.0, 5.0, 8.0])
    assert make_loss("mse", dataset)(predictions, ratings).tolist() == pytest.approx([1, 9, 0.25])
    smooth = [0.5, 2.5, 0.125]
    assert make_loss("smooth_l1", dataset)(predictions, ratings).tolist() == pytest.approx(smooth)


def test_weighted_mse_weighs_rare_ratings_more_and_by_1_on_average(dataset):
    each = make_loss("weighted_mse", dataset)

    def loss(predictions, ratings):
        return each(predictions, ratings).mean()

    ratings = dataset.scale.decode(np.asarray(dataset.graph.by_user.codes))
    levels, counts = np.unique(ratings, return_counts=True)
    assert len(levels) > 5 and counts.max() > 5 * counts.min()
    raw = {level: counts.max() / count for level, count in zip(levels, counts, strict=True)}
    mean = np.mean([raw[rating] for rating in ratings])
    for level in levels:
        one = torch.tensor([level])
        assert loss(one + 2, one) == pytest.approx(4 * raw[level] / mean, rel=1e-5)
    # Over all training ratings the weights come to 1.
    everything = torch.from_numpy(ratings)
    assert loss(everything - 3, everything) == pytest.approx(9, rel=1e-5)
    rare, common = levels[counts.argmin()], levels[counts.argmax()]
    errors = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    both = torch.tensor([rare, common])
    assert loss(both + errors[0], both) > 5 * loss(both + errors[1], both)


@given(
    st.sampled_from(["cosine", "linear", "constant"]),
    st.integers(0, 30),
    st.integers(1, 200),
)
def test_learning_rate_rises_and_falls(schedule, warmup_steps, steps):
    config = TrainConfig(schedule=schedule, warmup_steps=warmup_steps)
    shares = [learning_rate_share(step, steps, config) for step in range(steps + 3)]
    assert all(0 <= share <= 1 for share in shares)
    assert shares[0] == pytest.approx(1 / (warmup_steps + 1))  # a first step that is one
    fallen = shares[warmup_steps:]
    assert all(b <= a + 1e-12 for a, b in itertools.pairwise(fallen))
    if schedule == "constant":
        assert set(fallen) <= {1.0}
    else:
        assert shares[steps:] == pytest.approx([0, 0, 0], abs=1e-12)
        assert all(share > 0 for share in shares[:steps])
        if warmup_steps <= steps // 2 and steps % 2 == 0:
            assert shares[steps // 2] == pytest.approx(0.5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"patience": 0},
        {"loss": "mae"},
        {"learning_rate": 0.0},
        {"learning_rate": "fast"},
        {"weight_decay": -1.0},
        {"clip_norm": 0.0},
        {"seed": -1},
        {"epoch": 3},
    ],
    ids=str,
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValidationError):
        TrainConfig(**wrong)
