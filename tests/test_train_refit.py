"""A training once more on validation rows, or on all rows; and trainings without validation."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ranks import in_ranks
from runs import (
    lines_of,
    make_settings,
    planted,
    same_run,
    same_weights,
    weights_of,
    without_times,
)

from dglrec.compare import compare_runs
from dglrec.config import build_settings, resumed_settings
from dglrec.dataset import PrepareOptions, RatingDataset, prepare
from dglrec.errors import UsageError
from dglrec.evaluate import evaluate
from dglrec.files import CHECKSUMS_FILE
from dglrec.run import BEST, CONFIG_FILE, ITEM_ITEMS, LAST, RESULTS_FILE, SELECTION, open_predictor
from dglrec.train import loop as loop_module
from dglrec.train import train
from dglrec.train.step import TrainingStep
from dglrec.verify import verify

EPOCHS = 3


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return planted(tmp_path_factory.mktemp("small"), 80, 40, 2_000)


RATE = {"learning_rate": 0.03}  # with which the second epoch is the best


def refit(kind="all", **fitting):
    return make_settings(**{"epochs": EPOCHS, "refit": kind, **RATE, **fitting})


def results_of(run):
    return json.loads((run / RESULTS_FILE).read_text())


@pytest.fixture(scope="module")
def runs(dataset, tmp_path_factory):
    """One refitted run of each kind, trained when it is first asked for."""
    place = tmp_path_factory.mktemp("runs")

    def find(kind):
        if not (place / kind).exists():
            train(dataset, place / kind, refit(kind))
        return place / kind

    return find


@pytest.mark.parametrize(("kind", "splits"), [("valid", ["valid"]), ("all", ["valid", "test"])])
def test_a_refitted_run_is_the_plain_training_on_more_rows(dataset, runs, tmp_path, kind, splits):
    run = runs(kind)
    plain = tmp_path / "plain"
    train(dataset, plain, make_settings(epochs=EPOCHS, **RATE))
    assert same_run(run / SELECTION, plain)

    best = results_of(plain)["best_epoch"]
    assert 1 < best < EPOCHS  # else there is less to be seen
    more = tmp_path / "more"
    resolved = make_settings(epochs=EPOCHS, stop_after=best, **RATE).resolved(dataset.graph)
    train(dataset.with_rows(splits), more, resolved)
    assert same_weights(weights_of(run, BEST), weights_of(more, BEST))
    assert [line["epoch"] for line in lines_of(run)] == list(range(1, best + 1))
    assert not same_weights(weights_of(run, BEST), weights_of(plain, BEST))


def test_the_results_say_what_was_learned_from_and_hold_no_figure_of_it(dataset, runs):
    found = results_of(runs("valid"))
    assert found["learned_from"] == ["train", "valid"]
    assert "valid" not in found and found["test"]["n"] == dataset.meta["counts"]["test"]
    assert found["test"]["learned_from"] == ["train", "valid"]
    assert found["selection"] == results_of(runs("valid") / SELECTION)
    found = results_of(runs("all"))
    assert found["learned_from"] == ["train", "valid", "test"]
    assert "valid" not in found and "test" not in found
    assert found["selection"]["test"]["n"] == dataset.meta["counts"]["test"]


@pytest.mark.parametrize(("kind", "split"), [("valid", "valid"), ("all", "valid"), ("all", "test")])
def test_rows_that_were_learned_from_are_refused_by_name(runs, kind, split):
    trained = open_predictor(runs(kind))
    with pytest.raises(UsageError, match=f"learned from {split} rows .train --refit {kind}"):
        evaluate(trained, split)


def test_a_refitted_run_that_has_seen_validation_rows_is_measured_on_test_rows(dataset, runs):
    trained = open_predictor(runs("valid"))
    found = evaluate(trained, "test")
    assert found == results_of(runs("valid"))["test"]
    assert evaluate(trained, "train")["n"] == sum(
        dataset.meta["counts"][part] for part in ("train", "valid")
    )


def test_the_graph_with_more_rows_is_that_of_all_of_them_together(dataset):
    whole = dataset.with_rows(["valid", "test"])
    pairs = []
    for part in ("valid", "test"):
        rows = dataset.held_out(part)
        pairs += zip(rows.users.tolist(), rows.items.tolist(), rows.ratings.tolist(), strict=True)
    graph = dataset.graph
    owners = np.repeat(np.arange(graph.num_users), graph.by_user.degrees)
    ratings = dataset.scale.decode(graph.by_user.codes)
    pairs += zip(owners.tolist(), graph.by_user.neighbours.tolist(), ratings.tolist(), strict=True)
    wanted = sorted(pairs)
    both = whole.graph
    owners = np.repeat(np.arange(both.num_users), both.by_user.degrees).tolist()
    found = zip(
        owners,
        both.by_user.neighbours.tolist(),
        dataset.scale.decode(both.by_user.codes).tolist(),
        strict=True,
    )
    assert list(found) == wanted
    of_items = np.repeat(np.arange(both.num_items), both.by_item.degrees)
    edges = both.edges_by_item
    assert (np.array(owners)[edges] == both.by_item.neighbours).all()
    assert (both.by_user.neighbours[edges] == of_items).all()
    assert (both.by_user.codes[edges] == both.by_item.codes).all()
    assert whole.biases.mean == pytest.approx(np.mean([rating for *_, rating in wanted]))
    assert whole.held_out_splits == () and dataset.held_out_splits == ("valid", "test")
    assert whole.with_rows(["valid"]) is whole
    rated = whole.rated_items()
    assert rated.items.tolist() == [item for _, item, _ in wanted]
    for split in ("valid", "test"):
        with pytest.raises(UsageError, match=f"its {split} rows are among those"):
            whole.held_out(split)


def test_what_is_relevant_does_not_hang_on_what_was_learned_from(dataset):
    whole = dataset.with_rows(["valid", "test"])
    assert whole.mean_rating == dataset.mean_rating == dataset.biases.mean
    assert whole.level_counts.tolist() == dataset.graph.level_counts.tolist()


class CutOff(BaseException):
    """Stands for whatever ends a process."""


@pytest.mark.parametrize("epochs", [1, EPOCHS + 1], ids=["while choosing", "while refitting"])
def test_a_refitted_run_that_was_cut_off_goes_on_to_the_same_end(
    dataset, runs, tmp_path, monkeypatch, epochs
):
    run, whole_epoch, ended = tmp_path / "run", loop_module._end_epoch, []

    def stop(*arguments):
        whole_epoch(*arguments)
        ended.append(arguments)
        if len(ended) == epochs:
            raise CutOff

    with monkeypatch.context() as patch:
        patch.setattr(loop_module, "_end_epoch", stop)
        with pytest.raises(CutOff):
            train(dataset, run, refit("valid"))
    assert not (run / RESULTS_FILE).exists()
    train(dataset, run, resumed_settings(run, None, (), {}), resume=True)
    assert same_run(run, runs("valid"))
    assert same_run(run / SELECTION, runs("valid") / SELECTION)
    # And a finished one stays what it is.
    train(dataset, run, resumed_settings(run, None, (), {}), resume=True)
    assert same_run(run, runs("valid"))


def test_a_run_does_not_go_on_with_other_rows(dataset, runs, tmp_path):
    run = tmp_path / "run"
    train(dataset.with_rows(["valid"]), run, make_settings(epochs=1))
    with pytest.raises(UsageError, match="trained on training and validation rows"):
        train(dataset, run, make_settings(epochs=2), resume=True)


def test_replacing_a_refitted_run_leaves_nothing_of_its_selection(dataset, tmp_path):
    run = tmp_path / "run"
    train(dataset, run, refit("valid"))
    train(dataset, run, make_settings(epochs=1), overwrite=True)
    assert not (run / SELECTION).exists()
    assert "learned_from" not in results_of(run)


def test_lists_get_the_item_item_weights_that_validation_chose(dataset, tmp_path):
    heads = {"heads": "both"}
    train(dataset, tmp_path / "run", make_settings(model=heads, epochs=2, refit="all"))
    chosen, again = (
        json.loads((place / ITEM_ITEMS / "meta.json").read_text())["chosen"]
        for place in (tmp_path / "run" / SELECTION, tmp_path / "run")
    )
    assert chosen == again
    trained = open_predictor(tmp_path / "run")
    assert trained.item_weights is not None
    assert trained.dataset.parts == ("train", "valid", "test")


def test_a_baseline_takes_the_settings_that_were_chosen(dataset, tmp_path):
    settings = build_settings({"model": {"kind": "ease"}, "train": {"refit": "valid"}})
    train(dataset, tmp_path / "run", settings)
    metas = [
        json.loads((place / BEST / "meta.json").read_text())
        for place in (tmp_path / "run" / SELECTION, tmp_path / "run")
    ]
    assert metas[0]["baseline"] == metas[1]["baseline"]
    assert metas[1]["learned_from"] == ["train", "valid"]
    found = results_of(tmp_path / "run")
    assert "valid" not in found and "ndcg@10" in found["test"]
    trained = open_predictor(tmp_path / "run")
    assert evaluate(trained, "test")["ndcg@10"] == found["test"]["ndcg@10"]
    with pytest.raises(UsageError, match="--history all: the ease baseline"):
        open_predictor(tmp_path / "run", history="all")


def test_doctor_looks_at_the_selection_too(runs, dataset, tmp_path):
    run = tmp_path / "run"
    train(dataset, run, refit("all"))
    assert all(check.ok for check in verify(run))
    (run / SELECTION / RESULTS_FILE).write_text("{}")
    wrong = {check.name for check in verify(run) if not check.ok}
    assert wrong == {"selection: run", "selection: files"}
    assert (run / SELECTION / CHECKSUMS_FILE).is_file()


@pytest.fixture(scope="module")
def without_validation(dataset):
    place = dataset.path.parent / "no-valid"
    return prepare(
        dataset.path.parent / "source", place, PrepareOptions(text=False, valid=0.0, test=0.2)
    )


@pytest.fixture(scope="module")
def all_train(dataset):
    place = dataset.path.parent / "all-train"
    return prepare(
        dataset.path.parent / "source", place, PrepareOptions(text=False, valid=0.0, test=0.0)
    )


def test_without_validation_rows_the_last_of_the_given_epochs_is_kept(without_validation, tmp_path):
    counts = without_validation.meta["counts"]
    assert (counts["valid"], counts["test"]) == (0, 400)
    found = train(without_validation, tmp_path / "run", make_settings(epochs=2, patience=1))
    assert found["epochs"] == found["best_epoch"] == 2
    assert "valid" not in found and found["test"]["n"] == 400
    assert same_weights(weights_of(tmp_path / "run", BEST), weights_of(tmp_path / "run", LAST))
    assert all("valid_rmse" not in line for line in lines_of(tmp_path / "run"))
    with pytest.raises(UsageError, match="no valid rows .prepare --valid 0"):
        evaluate(open_predictor(tmp_path / "run"), "valid")


def test_without_validation_rows_a_number_of_epochs_has_to_be_given(without_validation, tmp_path):
    default = make_settings()
    unset = replace(default, train=type(default.train)(learning_rate=0.01))
    with pytest.raises(UsageError, match="train.epochs: .* no validation rows"):
        train(without_validation, tmp_path / "run", unset)
    with pytest.raises(UsageError, match="train.refit = all: .* no validation rows"):
        train(without_validation, tmp_path / "run", refit("all"))
    assert not (tmp_path / "run").exists()


def test_the_last_epoch_is_not_given_where_it_is_to_be_found(dataset, tmp_path):
    with pytest.raises(UsageError, match="train.stop_after: with train.refit"):
        train(dataset, tmp_path / "run", refit("all", stop_after=2))
    assert not (tmp_path / "run").exists()


def test_what_is_chosen_on_validation_rows_says_that_there_are_none(all_train, tmp_path, capsys):
    train(all_train, tmp_path / "run", make_settings(model={"heads": "both"}, epochs=1))
    said = capsys.readouterr().err
    assert "model.item_items = auto: their settings are chosen on validation rows" in said
    assert "without validation: for 1 epoch, the last of which is kept" in said
    assert not (tmp_path / "run" / ITEM_ITEMS).exists()
    settings = build_settings({"model": {"kind": "ease"}})
    found = train(all_train, tmp_path / "ease", settings)
    assert "there are no validation rows, so settings are not searched" in capsys.readouterr().err
    assert "valid" not in found and "test" not in found
    with pytest.raises(UsageError, match="no test rows .prepare --test 0"):
        evaluate(open_predictor(tmp_path / "run"))
    with pytest.raises(UsageError, match="run: .* no test rows .prepare --test 0"):
        compare_runs({"a": [tmp_path / "run"], "b": [tmp_path / "ease"]})


def test_the_last_two_rows_of_each_user_may_all_train(dataset, tmp_path):
    source = tmp_path / "rows.csv"
    rows = [f"{user},{item},{1 + item % 5},{item}" for user in range(9) for item in range(3)]
    source.write_text("\n".join(["user_id,item_id,rating,timestamp", *rows]))
    options = PrepareOptions(split="last", valid=0.0, text=False)
    data = prepare(source, tmp_path / "data", options)
    assert data.meta["counts"] == {"users": 9, "items": 3, "train": 18, "valid": 0, "test": 9}
    assert data.held_out("test").items.tolist() == [2] * 9
    whole = data.with_rows(["test"])
    assert whole.graph.times.tolist() == [0, 1, 2] * 9
    assert RatingDataset.open(data.path).held_out_splits == ("test",)
    assert torch.equal(whole.biases.user_degrees, torch.full((9,), 3.0))


def test_the_configuration_of_a_refitted_run_says_what_it_was(runs):
    own = resumed_settings(runs("all"), None, (), {})
    assert own.train.is_refit
    assert own.train.stop_after == results_of(runs("all"))["selection"]["best_epoch"]
    chose = resumed_settings(runs("all") / SELECTION, None, (), {})
    assert chose.train.refit == "none" and not chose.train.stop_after
    assert (runs("all") / CONFIG_FILE).is_file()


# --- in many processes ---------------------------------------------------------------------------


def train_in_rank(world, path, run, settings, parts=(), resume=False, cut=0):
    """The first process alone sees the run's folder, as on machines that share no disk."""
    place = Path(run) if world.is_first else Path("/nowhere") / "run"
    dataset = RatingDataset.open(Path(path)).with_rows(parts)
    if cut:
        step, calls = TrainingStep.__call__, itertools.count(1)

        def cutting(self, *arguments, **options):
            if next(calls) == cut:
                raise CutOff
            return step(self, *arguments, **options)

        TrainingStep.__call__ = cutting
    try:
        return without_times(train(dataset, place, settings, resume=resume, world=world))
    except CutOff:
        return None


def refit_of_lists(**fitting):
    return make_settings(model={"heads": "both"}, epochs=EPOCHS, **RATE, **fitting)


def test_processes_refit_together_and_the_first_alone_sees_the_folder(dataset, tmp_path):
    def trained(name, settings, *arguments):
        run = tmp_path / name
        found = in_ranks(2, train_in_rank, str(dataset.path), str(run), settings, *arguments)
        assert found == [found[0]] * 2
        return run, found[0]

    run, found = trained("run", refit_of_lists(refit="valid"))
    assert found == without_times(results_of(run))
    assert found["learned_from"] == ["train", "valid"]
    plain, chosen = trained("plain", refit_of_lists())
    assert same_run(run / SELECTION, plain)
    resolved = refit_of_lists(stop_after=chosen["best_epoch"]).resolved(dataset.graph)
    more, _ = trained("more", resolved, ("valid",))
    assert same_weights(weights_of(run, BEST), weights_of(more, BEST))


@pytest.mark.slow
@pytest.mark.parametrize("cut", [5, 14], ids=["while choosing", "while refitting"])
def test_processes_that_were_cut_off_refit_to_the_same_end(dataset, tmp_path, cut):
    settings = refit_of_lists(refit="valid", checkpoint_steps=1)
    runs = [tmp_path / name for name in ("whole", "run")]
    of_both = [in_ranks(2, train_in_rank, str(dataset.path), str(runs[0]), settings)]
    stopped = in_ranks(2, train_in_rank, str(dataset.path), str(runs[1]), settings, (), False, cut)
    assert stopped == [None, None]
    own = resumed_settings(runs[1], None, (), {})
    of_both.append(in_ranks(2, train_in_rank, str(dataset.path), str(runs[1]), own, (), True))
    assert of_both[0] == of_both[1]
    assert same_weights(*(weights_of(run, BEST) for run in runs))
    assert same_weights(*(weights_of(run / SELECTION, BEST) for run in runs))
