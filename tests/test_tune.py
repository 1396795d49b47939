"""Searches: spaces checked, goals, trials shared, lost and gone on with, the table."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from runs import make_settings, planted, pretended_training

from dglrec import cli
from dglrec.config import SHIPPED, known_keys, load_settings
from dglrec.dataset import PrepareOptions, RatingDataset, prepare
from dglrec.errors import DataError, DivergedError, UnusableEnvironmentError, UsageError
from dglrec.run import METRICS_FILE
from dglrec.synthetic import synthesize
from dglrec.train import RankingConfig, train
from dglrec.tune import Choice, Goal, Range, read_space, run_tuning, running, shipped_spaces
from dglrec.tune import storage as storage_module

TINY = """
title = "A tiny search"
[common]
model.heads = "rating"
train.epochs = 2
model.decoder_size = 4
[space]
model.embedding_size = [4, 8]
train.learning_rate = { low = 1e-3, high = 1e-1, log = true }
model.layers = { low = 1, high = 2 }
"""

needs_optuna = pytest.mark.usefixtures("optuna")


@pytest.fixture
def optuna():
    return pytest.importorskip("optuna", reason="needs Optuna: pip install 'dglrec[tune]'")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return planted(tmp_path_factory.mktemp("tune"), 60, 40, 1_500)


def declared(folder, text=TINY, name="tiny", **options):
    path = folder / f"{name}.toml"
    path.write_text(text, encoding="utf-8")
    return read_space(str(path), **options)


def error_of(kind, folder, text, **options):
    with pytest.raises(kind) as caught:
        declared(folder, text, **options)
    return str(caught.value)


@pytest.fixture
def trainings(monkeypatch):
    """What trainings that only pretend were called with."""
    seen = []
    monkeypatch.setattr(running, "train", pretended_training(seen))
    return seen


# Spaces.


def test_a_space_says_what_is_fixed_and_what_is_searched(tmp_path):
    space = declared(tmp_path, assignments=["train.patience=7"])
    assert space.title == "A tiny search"
    assert space.seed == 0
    assert space.searched == {
        "model.embedding_size": Choice((4, 8)),
        "train.learning_rate": Range(1e-3, 1e-1, log=True),
        "model.layers": Range(1, 2),
    }
    settings = space.settings({"model.embedding_size": 8, "train.learning_rate": 0.5})
    assert (settings.model.embedding_size, settings.train.learning_rate) == (8, 0.5)
    assert (settings.train.epochs, settings.train.patience) == (2, 7)


def test_what_is_set_is_fixed_though_the_space_searches_it(tmp_path):
    environment = {"DGLREC_MODEL_LAYERS": "2", "DGLREC_TRAIN_EPOCHS": "9"}
    space = declared(tmp_path, assignments=["train.epochs=3"], environment=environment)
    assert set(space.searched) == {"model.embedding_size", "train.learning_rate"}
    assert space.fixed["model.layers"] == 2
    assert space.fixed["train.epochs"] == 3


@pytest.mark.parametrize("name", sorted(shipped_spaces()))
def test_shipped_spaces_are_sound(name):
    space = read_space(name)
    assert set(space.searched) <= set(known_keys())
    for end in (0, -1):
        space.settings({key: one.ends()[end] for key, one in space.searched.items()})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("model.layers =", "model.layer ="), "no setting model.layer; did you mean model.layers?"),
        (("[space]", "[spaces]"), "no key spaces in a space; did you mean space?"),
        (("low = 1, high = 2", "low = 2, high = 2"), "low = 2 is not below high = 2"),
        (("low = 1, high = 2", "low = 1, hgh = 2"), "no key hgh in a range; did you mean high?"),
        (("low = 1, high = 2", 'low = "1", high = 2'), "low = '1': write a number"),
        (("low = 1, high = 2", "high = 2"), "low = None: write a number"),
        (("low = 1, high = 2", "low = 1, high = inf"), "high = inf: write a number"),
        (("low = 1e-3", "low = 0.0"), "with log = true a range begins above 0"),
        (("log = true", "log = 1"), "log = 1: write true or false"),
        (("{ low = 1, high = 2 }", "2"), "what does not vary goes below [common]"),
        (("[4, 8]", "[4, 4]"), "name two choices or more, each once"),
        (("[4, 8]", "[4]"), "name two choices or more, each once"),
        (("[4, 8]", '[4, "wide"]'), "model.embedding_size = 'wide'"),
        (("[4, 8]", "[0, 8]"), "model.embedding_size = 0"),
        (('"rating"', '"auto"'), "nothing says what is measured; set model.heads in [common]"),
        (("train.epochs = 2", "train.epochs = 'two'"), "train.epochs = 'two'"),
        (("train.epochs = 2", "model.layers = 2"), "model.layers is in [common] and in [space]"),
        (("train.epochs = 2", "train.refit = 'all'"), "give --refit to the `train` of the best"),
        (("train.epochs = 2", "model.kind = 'item_knn'"), "only graph models are searched"),
        (("model.layers = {", "train.seed = {"), "train.seed cannot be searched: the best of sev"),
        (("model.layers = {", "ranking.at = {"), "ranking.at cannot be searched: it says what is"),
        (("title =", "seed = -1\ntitle ="), "seed = -1: write a whole number from 0 on"),
    ],
)
def test_a_bad_space_is_refused_by_name(tmp_path, change, said):
    text = TINY.replace(*change)
    assert text != TINY
    assert said in error_of(UsageError, tmp_path, text)


def test_a_space_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no space 'rating'; choose lists or ratings, or give"):
        read_space("rating")
    with pytest.raises(DataError, match="no such configuration file"):
        read_space(str(tmp_path / "none.toml"))
    assert "nothing is searched" in error_of(UsageError, tmp_path, '[common]\nmodel.heads="rating"')
    assert "no setting train.epoch;" in error_of(
        UsageError, tmp_path, TINY, assignments=["train.epoch=3"]
    )


# Goals.


def test_the_goal_is_the_objectives_own_figure(dataset):
    ranking = RankingConfig.model_validate({"metric": "recall", "at": 20})
    of_ratings = Goal.of("rating", ranking, dataset)
    assert (of_ratings.name, of_ratings.maximise) == ("RMSE", False)
    assert of_ratings.value({"rmse": 0.9}) == 0.9
    of_lists = Goal.of("lists", ranking, dataset)
    assert (of_lists.name, of_lists.maximise) == ("recall@20", True)
    assert of_lists.value({"rmse": 0.9, "recall@20": 0.3}) == 0.3
    of_both = Goal.of("both", ranking, dataset)
    assert (of_both.name, of_both.maximise) == ("recall@20 / RMSE^5", True)
    assert of_both.value({"rmse": 0.5, "recall@20": 0.3}) == pytest.approx(0.3 * 32)
    # A percent of RMSE is worth five of the lists, as it is for the objective.
    traded = of_both.value({"rmse": 0.5 * 1.01, "recall@20": 0.3 * 1.01**5})
    assert traded == pytest.approx(0.3 * 32)
    assert of_lists.value({"rmse": 0.9}) is None
    assert of_ratings.value({"rmse": float("nan")}) is None


def test_lists_are_no_longer_than_the_catalogue(dataset):
    ranking = RankingConfig.model_validate({"at": 1_000})
    assert Goal.of("lists", ranking, dataset).name == "ndcg@40"


# The hook of training.


def test_training_tells_each_epoch_and_stops_when_asked(dataset, tmp_path):
    told = []

    def after_epoch(epoch, figures):
        told.append((epoch, figures["rmse"]))
        return epoch == 2

    results = train(
        dataset, tmp_path / "run", make_settings(), after_epoch=after_epoch, report=("valid",)
    )
    lines = (tmp_path / "run" / METRICS_FILE).read_text().splitlines()
    assert told == [(one["epoch"], one["valid_rmse"]) for one in map(json.loads, lines)]
    assert (results["epochs"], len(told)) == (2, 2)
    assert "test" not in results
    assert results["valid"]["rmse"] == pytest.approx(min(value for _, value in told), rel=1e-5)


# Searches.


@needs_optuna
def test_a_search_finds_what_was_planted(dataset, tmp_path, trainings):
    space = declared(tmp_path)
    result = run_tuning(space, dataset.path, tmp_path / "out", trials=25)
    assert len(result["trials"]) == len(trainings) == 25
    assert result["best"] == result["trials"][0]
    finished = [row["value"] for row in result["trials"] if row["state"] == "finished"]
    assert finished == sorted(finished)
    assert result["best"]["parameters"]["model.embedding_size"] == 8
    assert result["best"]["parameters"]["train.learning_rate"] == pytest.approx(0.02, abs=0.01)
    assert result["importances"]["model.layers"] < max(result["importances"].values())
    settings = load_settings(file=tmp_path / "out" / "best.toml")
    parameters = result["best"]["parameters"]
    assert settings == space.settings(parameters)
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == result
    table = (tmp_path / "out" / "results.md").read_text()
    assert "| trial | RMSE | state |" in table
    assert "## Slices" in table
    slices = result["slices"]["model.embedding_size"]
    assert sum(one["trials"] for one in slices) == len(finished)


@needs_optuna
def test_a_search_begins_with_the_defaults_where_the_space_has_them(dataset, tmp_path, trainings):
    text = TINY.replace("[4, 8]", "[4, 64]")
    run_tuning(declared(tmp_path, text), dataset.path, tmp_path / "out", trials=1)
    settings = load_settings(assignments=["model.heads=rating"]).resolved_for(dataset)
    rate = settings.train.learning_rate
    assert trainings == [(0, 64, rate, 2)]


@needs_optuna
def test_a_search_begins_with_the_configuration_that_it_names(dataset, tmp_path, trainings):
    (tmp_path / "base.toml").write_text(
        "[model]\nembedding_size = 8\nlayers = 1\n[train]\nlearning_rate = 0.05\n"
    )
    text = TINY.replace("[common]", 'config = "base.toml"\n[common]')
    space = declared(tmp_path, text)
    run_tuning(space, dataset.path, tmp_path / "out", trials=1)
    assert trainings == [(0, 8, 0.05, 1)]
    assert space.settings({"model.layers": 2}).model.layers == 2


def test_the_shipped_search_for_lists_begins_with_its_preset():
    space = read_space("lists")
    preset = load_settings(file=SHIPPED / "lightgcn_softmax.toml").to_dict()
    assert space.settings({}).to_dict() == preset


@needs_optuna
def test_trials_without_hope_are_pruned(dataset, tmp_path, trainings, monkeypatch):
    text = TINY.replace("train.epochs = 2", "train.epochs = 13")
    result = run_tuning(declared(tmp_path, text), dataset.path, tmp_path / "out", trials=20)
    pruned = [row for row in result["trials"] if row["state"] == "pruned"]
    assert pruned
    assert all(3 <= row["epochs"] < 13 for row in pruned)
    assert min(row["epochs"] for row in pruned) == 3  # a quarter of them
    assert result["best"]["epochs"] == 13


@needs_optuna
def test_a_search_goes_on_as_if_it_had_not_been_stopped(dataset, tmp_path, trainings, monkeypatch):
    space = declared(tmp_path)
    whole = run_tuning(space, dataset.path, tmp_path / "whole", trials=14)
    expected = [one[1:] for one in trainings]
    trainings.clear()
    fake = running.train

    def stopped(dataset, run, settings, **options):
        if int(run.name) in (3, 12):
            raise KeyboardInterrupt
        return fake(dataset, run, settings, **options)

    # What is in a search's folder is read without unpickling anything.
    def refuse(*arguments, **options):
        raise AssertionError("something was unpickled")

    with monkeypatch.context() as patch:
        patch.setattr(running, "train", stopped)
        for name in ("load", "loads", "Unpickler"):
            patch.setattr(pickle, name, refuse)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                run_tuning(space, dataset.path, tmp_path / "out", trials=14)
    result = run_tuning(space, dataset.path, tmp_path / "out", trials=14)
    assert [one[1:] for one in trainings] == expected
    assert len(result["trials"]) == 14
    assert all(row["state"] in ("finished", "pruned") for row in result["trials"])
    assert result["best"]["value"] == whole["best"]["value"]
    again = run_tuning(space, dataset.path, tmp_path / "out", trials=14)
    assert (again["trials"], len(trainings)) == (result["trials"], 14)
    assert len(run_tuning(space, dataset.path, tmp_path / "out", trials=15)["trials"]) == 15


@needs_optuna
def test_a_trial_that_another_process_has_is_left_to_it(dataset, tmp_path, trainings):
    space = declared(tmp_path)
    run_tuning(space, dataset.path, tmp_path / "out", trials=1)
    trials = storage_module.Trials(space, tmp_path / "out", maximise=False)
    number = trials.ask().number
    with trials.held(number):
        result = run_tuning(space, dataset.path, tmp_path / "out", trials=4)
        states = {row["trial"]: row["state"] for row in result["trials"]}
        assert states[number] == "under way"
        assert len(trainings) == 3
    result = run_tuning(space, dataset.path, tmp_path / "out", trials=4)
    assert len(trainings) == 4
    assert number not in {row["trial"] for row in result["trials"]}


@needs_optuna
def test_a_lost_trial_is_enqueued_once_whenever_the_process_ends(dataset, tmp_path, trainings):
    space = declared(tmp_path)
    run_tuning(space, dataset.path, tmp_path / "out", trials=1)
    trials = storage_module.Trials(space, tmp_path / "out", maximise=False)
    parameters = trials.parameters(trials.ask())
    tell, trials.study.tell = trials.study.tell, lambda *arguments, **options: None
    assert trials.recover() == [1]
    trials.study.tell = tell
    assert trials.recover() == [1]
    assert trials.recover() == []
    assert [trial.state.name for trial in trials.all()] == ["COMPLETE", "WAITING"]
    assert trials.parameters(trials.ask()) == parameters


@needs_optuna
def test_impossible_trials_are_noted_and_the_search_goes_on(
    dataset, tmp_path, trainings, monkeypatch
):
    fake = running.train

    def partly(dataset, run, settings, **options):
        if settings.model.embedding_size == 4:
            raise DivergedError("epoch 1: validation RMSE nan")
        return fake(dataset, run, settings, **options)

    monkeypatch.setattr(running, "train", partly)
    fixed = "train.epochs = 2\nloader.user_fanouts = [5, 5]\nloader.item_fanouts = [5, 5]"
    space = declared(tmp_path, TINY.replace("train.epochs = 2", fixed))
    result = run_tuning(space, dataset.path, tmp_path / "out", trials=12)
    assert len(result["trials"]) == 12
    for row in result["trials"]:
        one_layer = row["parameters"]["model.layers"] == 1
        bad = one_layer or row["parameters"]["model.embedding_size"] == 4
        assert row["state"] == "failed" if bad else row["state"] in ("finished", "pruned")
        if bad:
            assert ("model.layers is 1" if one_layer else "RMSE nan") in row["reason"]
    assert any("of 12 trials failed" in note for note in result["notes"])


@needs_optuna
def test_a_space_without_a_possible_trial_ends_the_search(dataset, tmp_path, trainings):
    fixed = "train.epochs = 2\nloader.user_fanouts = [5, 5, 5]\nloader.item_fanouts = [5, 5, 5]"
    space = declared(tmp_path, TINY.replace("train.epochs = 2", fixed))
    with pytest.raises(UsageError, match="each of its 3 trials failed; the first: model.layers is"):
        run_tuning(space, dataset.path, tmp_path / "out", trials=3)
    assert not trainings
    assert not (tmp_path / "out" / "best.toml").exists()
    assert len(json.loads((tmp_path / "out" / "results.json").read_text())["trials"]) == 3


@needs_optuna
def test_a_folder_of_another_search_is_refused(dataset, tmp_path, trainings):
    out = tmp_path / "out"
    run_tuning(declared(tmp_path), dataset.path, out, trials=2)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    other = planted(tmp_path, 50, 30, 900)
    with pytest.raises(UsageError, match="begun on another data set than"):
        run_tuning(declared(tmp_path), other.path, out, trials=2)
    wider = declared(tmp_path, TINY.replace("[4, 8]", "[4, 16]"))
    with pytest.raises(UsageError, match=r"embedding_size was \[4, 8\] and is \[4, 16\]"):
        run_tuning(wider, dataset.path, out, trials=2)
    longer = declared(tmp_path, assignments=["train.epochs=3"])
    with pytest.raises(UsageError, match=r"train.epochs was 2 and is 3"):
        run_tuning(longer, dataset.path, out, trials=2)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(UsageError, match=r"exists and holds no tune.json"):
        run_tuning(declared(tmp_path), dataset.path, tmp_path / "mine", trials=2)
    after = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    locks = {out / ".lock"}
    assert {p: b for p, b in after.items() if p not in locks} == {
        p: b for p, b in before.items() if p not in locks
    }


@needs_optuna
def test_a_torn_or_damaged_journal(dataset, tmp_path, trainings):
    space, out = declared(tmp_path), tmp_path / "out"
    run_tuning(space, dataset.path, out, trials=2)
    journal = out / storage_module.JOURNAL_FILE
    with journal.open("ab") as file:
        file.write(b'{"op_code":4,"wor')  # a line that a loss of power cut
    assert len(run_tuning(space, dataset.path, out, trials=3)["trials"]) == 3
    journal.write_bytes(b"not a journal\n" + journal.read_bytes())
    with pytest.raises(DataError, match=r"study.journal: no journal of this search"):
        run_tuning(space, dataset.path, out, trials=4)


@needs_optuna
def test_a_search_ends_when_its_time_is_over(dataset, tmp_path, trainings):
    result = run_tuning(declared(tmp_path), dataset.path, tmp_path / "out", trials=5, timeout=0)
    assert result["best"] is None
    assert not trainings


@needs_optuna
def test_no_validation_rows(tmp_path):
    synthesize(tmp_path / "source", users=60, items=40, ratings=900, seed=1)
    data = prepare(tmp_path / "source", tmp_path / "data", PrepareOptions(text=False, valid=0.0))
    with pytest.raises(UsageError, match="has no valid rows"):
        run_tuning(declared(tmp_path), data.path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_optuna_the_extra_is_named(dataset, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UnusableEnvironmentError, match=r"pip install 'dglrec\[tune\]'"):
        run_tuning(declared(tmp_path), dataset.path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@needs_optuna
def test_three_real_trials_read_no_test_row(dataset, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        RatingDataset, "_read_held_out", refusing(RatingDataset._read_held_out, "test")
    )
    declared(tmp_path)
    arguments = [str(tmp_path / "tiny.toml"), str(dataset.path), str(tmp_path / "out")]
    monkeypatch.setattr(
        sys, "argv", ["dglrec", "tune", *arguments, "--trials", "3", "--device", "cpu", "--json"]
    )
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    result = json.loads(capsys.readouterr().out)
    assert [row["state"] for row in result["trials"]] == ["finished"] * 3
    for row in result["trials"]:
        run = tmp_path / "out" / "trials" / str(row["trial"])
        lines = list(map(json.loads, (run / METRICS_FILE).read_text().splitlines()))
        assert row["value"] == pytest.approx(min(one["valid_rmse"] for one in lines), rel=1e-5)
        assert not (run / "checkpoints" / "best").exists()


def refusing(read, split):
    """The same, but for one split."""

    def checked(self, name, *arguments, **options):
        assert name != split, f"a {split} row was read"
        return read(self, name, *arguments, **options)

    return checked


@pytest.mark.slow
@needs_optuna
def test_two_processes_share_a_search_and_one_is_killed(dataset, tmp_path):
    text = TINY.replace("train.epochs = 2", "train.epochs = 12\ntrain.patience = 99")
    declared(tmp_path, text)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "dglrec", "tune", str(tmp_path / "tiny.toml")]
    command += [str(dataset.path), str(out), "--trials", "6", "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    both = [subprocess.Popen(command, env=environment) for _ in range(2)]
    deadline = time.monotonic() + 120
    while len(list(out.glob("trials/*/metrics.jsonl"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    both[0].send_signal(signal.SIGKILL)
    both[0].wait()
    assert both[1].wait(timeout=240) == 0
    assert subprocess.run(command, env=environment).returncode == 0
    result = json.loads((out / "results.json").read_text())
    assert len(result["trials"]) == 6
    assert {row["state"] for row in result["trials"]} <= {"finished", "pruned"}
    assert Path(out / "best.toml").is_file()
    lost = len(list(out.glob("trials/[0-9]*"))) == 7
    assert lost == (6 in {row["trial"] for row in result["trials"]})
