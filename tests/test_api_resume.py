"""A training from Python that was cut off goes on from Python, to the last bit."""

import os
import signal
import threading

import pytest
from runs import same_run
from test_api import SMALL, fit, make_ratings
from test_resume import at_call, in_fork, raising

from dglrec import DataError, Recommender, UsageError
from dglrec.api import recommender
from dglrec.dataset import RatingDataset
from dglrec.train import loop as loop_module
from dglrec.train import validation as validation_module
from dglrec.train.step import TrainingStep

SETTINGS = {
    "model.heads": "rating",
    "model.dropout": 0.2,
    "train.epochs": 3,
    "train.patience": 99,
    "train.checkpoint_steps": 1,
    "loader.batch_size": 200,
}


@pytest.fixture(scope="module")
def ratings():
    return make_ratings()


@pytest.fixture(scope="module")
def whole(ratings, tmp_path_factory):
    """A training that nothing disturbed."""
    return fit(ratings, settings=SETTINGS, path=tmp_path_factory.mktemp("whole") / "model")


def cut_off(ratings, path, owner, name, call, action, **settings):
    """`fit` in a forked process, with something done at a call of a function; how it ended."""

    def begun():
        at_call(owner, name, {call: action})
        Recommender.fit(ratings, settings={**SMALL, **SETTINGS, **settings}, path=path)

    return in_fork(begun)


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def same_as_whole(model, whole):
    assert same_run(model.path / "run", whole.path / "run")
    assert model.recommend(k=3).equals(whole.recommend(k=3))
    return True


@pytest.mark.parametrize(
    ("action", "code", "owner", "name", "call"),
    [
        (raising(signal.SIGINT), 130, TrainingStep, "_update", 6),
        (raising(signal.SIGTERM), 130, validation_module, "measure", 1),
        (kill, -signal.SIGKILL, TrainingStep, "_update", 6),
        (kill, -signal.SIGKILL, TrainingStep, "_update", 1),
        (kill, -signal.SIGKILL, loop_module, "make_loader", 1),
    ],
    ids=["SIGINT in a step", "SIGTERM in validation", "SIGKILL", "in step 1", "before a step"],
)
def test_what_was_cut_off_goes_on_to_the_last_bit(
    ratings, whole, tmp_path, capfd, action, code, owner, name, call
):
    path = tmp_path / "model"
    assert cut_off(ratings, path, owner, name, call, action) == code
    said = capfd.readouterr().err
    assert code != 130 or "; go on with Recommender.resume" in said
    assert "--" not in said
    with pytest.raises(UsageError, match=r"Recommender\.resume, or replace it with overwrite=True"):
        fit(ratings, settings=SETTINGS, path=path)
    model = Recommender.resume(path, quiet=True)
    assert same_as_whole(model, whole)
    assert capfd.readouterr().err == ""


def test_it_goes_on_in_another_thread_and_is_cut_off_again(ratings, whole, tmp_path):
    path = tmp_path / "model"
    assert cut_off(ratings, path, TrainingStep, "_update", 2, kill) == -signal.SIGKILL

    def again():
        at_call(TrainingStep, "_update", {4: kill})
        Recommender.resume(path)

    assert in_fork(again) == -signal.SIGKILL
    found = []
    thread = threading.Thread(target=lambda: found.append(Recommender.resume(path, quiet=True)))
    thread.start()
    thread.join()
    assert same_as_whole(found[0], whole)


def test_a_refit_goes_on_from_the_training_that_chooses(ratings, tmp_path):
    path, refit = tmp_path / "model", {"train.refit": "valid"}
    wanted = fit(ratings, settings={**SETTINGS, **refit}, path=tmp_path / "whole")
    code = cut_off(ratings, path, TrainingStep, "_update", 6, raising(signal.SIGINT), **refit)
    assert code == 130
    assert same_as_whole(Recommender.resume(path, quiet=True), wanted)


def test_what_has_ended_goes_on_for_more_epochs_alone(whole, tmp_path):
    copy = whole.save(tmp_path / "copy")
    again = Recommender.resume(copy, quiet=True)
    assert again.results["epochs"] == 3 and same_as_whole(again, whole)
    longer = Recommender.resume(copy, settings={"train.epochs": 4}, quiet=True)
    assert longer.results["epochs"] == 4
    with pytest.raises(UsageError, match=r"^\S+: Recommender\.resume goes on.*: model\.dropout;"):
        Recommender.resume(copy, settings={"model.dropout": 0.5})
    with pytest.raises(UsageError, match=r"settings: no setting train\.epoch; did you mean"):
        Recommender.resume(copy, settings={"train.epoch": 5})


def test_killed_before_training_there_is_nothing_to_go_on_with(ratings, tmp_path):
    path = tmp_path / "model"
    assert cut_off(ratings, path, recommender, "train", 1, kill) == -signal.SIGKILL
    with pytest.raises(DataError, match=r"no training was begun there; .*Recommender\.fit$"):
        Recommender.resume(path)
    with pytest.raises(UsageError, match="exists; .*overwrite=True"):
        fit(ratings, path=path)
    fit(ratings, path=path, overwrite=True)


def test_a_run_of_the_verbs_wants_its_data_set(ratings, whole, tmp_path):
    copy = whole.save(tmp_path / "copy")
    (copy / "data").rename(tmp_path / "data")
    with pytest.raises(DataError, match="copy/run: holds no data set; say where the run"):
        Recommender.resume(copy / "run")
    model = Recommender.resume(copy / "run", dataset=tmp_path / "data", quiet=True)
    assert model.results["epochs"] == 3
    other = fit(make_ratings(seed=1), config="bias", path=tmp_path / "other")
    with pytest.raises(DataError, match="not the data set that .* was trained on"):
        Recommender.resume(copy, dataset=other.path / "data", quiet=True)
    with pytest.raises(DataError, match="nothing: no training was begun"):
        Recommender.resume(tmp_path / "nothing")


def test_an_interrupt_before_anything_is_saved_leaves_nothing(ratings, tmp_path):
    path = tmp_path / "model"
    code = cut_off(ratings, path, RatingDataset, "prove", 1, raising(signal.SIGINT))
    assert code == 130
    assert not path.exists()


def test_without_a_path_it_is_said_that_nothing_is_kept(ratings, capfd):
    assert cut_off(ratings, None, TrainingStep, "_update", 6, raising(signal.SIGINT)) == 130
    assert "it is kept, to go on with, only with path=..." in capfd.readouterr().err
