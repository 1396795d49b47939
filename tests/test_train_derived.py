"""What is made from training rows, in a run: once, kept, and read by all that comes after."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from ranks import in_ranks
from runs import make_settings, planted, same_run, train_one_epoch, weights_of

from dglrec.checkpoint import load_checkpoint, save_checkpoint
from dglrec.config import load_settings
from dglrec.dataset import RatingDataset
from dglrec.derived import DerivedConfig
from dglrec.errors import DataError, UsageError
from dglrec.evaluate import evaluate
from dglrec.export import export
from dglrec.infer import embed_new_items
from dglrec.relations import DERIVED_NAMES
from dglrec.run import BEST, DERIVED, blocks_of_new_items, open_run, read_directions
from dglrec.schema import OF_GRAPH
from dglrec.score import TopKOptions, score_top_k
from dglrec.train import derived as derived_module
from dglrec.train import train

# Generated ratings have no timestamps here.
NAMES = tuple(name for name in DERIVED_NAMES if name != "next")
MODEL = {"relations": NAMES, "graph_features": True}
CONFIG = DerivedConfig(visited_hops=50, agreement_share=0.05, clusters=3)


def settings_of(model=None, **fitting):
    found = make_settings(MODEL if model is None else model, epochs=2, **fitting)
    object.__setattr__(found, "derived", CONFIG)
    return found


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return planted(tmp_path_factory.mktemp("small"), 80, 40, 2_000)


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(dataset, folder, settings_of())
    return folder


@pytest.fixture
def made_never(monkeypatch):
    def refuse(*arguments):
        raise AssertionError("made again")

    monkeypatch.setattr(derived_module, "derive", refuse)


def test_a_moved_run_reads_the_edges_it_was_trained_with(dataset, run, made_never, tmp_path):
    moved = tmp_path / "elsewhere" / "run"
    shutil.copytree(run, moved)
    trained = open_run(moved)
    results = json.loads((run / "results.json").read_text())
    assert evaluate(trained)["rmse"] == results["test"]["rmse"]
    assert trained.dataset.relation_names[-3:] == NAMES
    assert [one.name for one in read_directions(trained.model.config, trained.dataset)] == [*NAMES]
    assert trained.model.inputs.user_features.shape[1] == 5 + 3
    score_top_k(trained, tmp_path / "out", 3, TopKOptions())
    export(trained, tmp_path / "exported")


def test_what_is_read_counts(run):
    trained = open_run(run)
    before = evaluate(trained)["rmse"]
    for name in (*(f"relations.layers.1.by_{one}.weight" for one in NAMES),):
        again = open_run(run)
        with torch.no_grad():
            again.model.state_dict()[name].mul_(100)
        assert evaluate(again)["rmse"] != before
    again = open_run(run)
    again.model.inputs.user_features.zero_()
    assert evaluate(again)["rmse"] != before


def test_new_items_have_none_of_these_edges(run):
    trained = open_run(run)
    items = pd.DataFrame({"item_id": [10**6], "title": ["new"], "genres": [["Action"]]})
    config, dataset = trained.model.config, trained.dataset
    assert blocks_of_new_items(config, dataset, items) == ()
    features = dataset.item_features[:1]
    alone = embed_new_items(trained.model, features).nodes
    assert torch.isfinite(alone).all() and alone.any()


@pytest.mark.parametrize("place", ["model.safetensors", "meta.json", None])
def test_damaged_edges_are_refused(dataset, run, place, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    if place is None:
        shutil.rmtree(copy / DERIVED)
    else:
        content = bytearray((copy / DERIVED / place).read_bytes())
        content[-20] ^= 1
        (copy / DERIVED / place).write_bytes(content)
    with pytest.raises(DataError) as caught:
        open_run(copy)
    assert caught.value.exit_code == 3 and "derived" in str(caught.value)
    if place is None:  # made again, and the same
        train(dataset, copy, settings_of(), resume=True)
        open_run(copy)
        return
    with pytest.raises(DataError):
        train(dataset, copy, settings_of(), resume=True)


def test_edges_of_another_run_are_refused(dataset, run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    made = load_checkpoint(run / DERIVED).weights
    made["similar.weights"] = made["similar.weights"] * 2
    save_checkpoint(copy / DERIVED, made, {}, {})
    for use in (lambda: open_run(copy), lambda: train(dataset, copy, settings_of(), resume=True)):
        with pytest.raises(DataError, match="derived: is not what the run's model was trained"):
            use()
    made["similar.neighbours"] = made["similar.neighbours"] + 40
    save_checkpoint(copy / DERIVED, made, {}, {})
    with pytest.raises(DataError, match="derived: .*train the run again"):
        open_run(copy)


def test_a_resumed_run_reads_its_edges_and_ends_the_same(dataset, run, tmp_path, monkeypatch):
    stopped = tmp_path / "run"
    train_one_epoch(monkeypatch, dataset, stopped, settings_of())
    monkeypatch.setattr(derived_module, "derive", None)
    train(dataset, stopped, settings_of(), resume=True)
    assert same_run(run, stopped)


def test_a_run_that_takes_anothers_place_keeps_nothing_of_it(dataset, run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    train(dataset, copy, settings_of({}), overwrite=True)
    assert not (copy / DERIVED).exists()
    assert open_run(copy).dataset.derived_digest is None


def _train_in(world, path, folder):
    dataset = RatingDataset.open(path)
    calls, make = [], derived_module.derive
    derived_module.derive = lambda *given: calls.append(1) or make(*given)
    try:
        found = train(dataset, folder, settings_of(), world=world)
    finally:
        derived_module.derive = make
    return [len(calls), found["test"]["rmse"]]


def test_the_first_of_several_processes_makes_them_for_all(dataset, run, tmp_path):
    (first, rmse), (second, again) = in_ranks(2, _train_in, dataset.path, tmp_path / "run")
    assert (first, second) == (1, 0) and rmse == again
    edges = [load_checkpoint(folder / DERIVED).weights for folder in (run, tmp_path / "run")]
    assert all(torch.equal(edges[0][name], edges[1][name]) for name in edges[0])
    assert abs(rmse - json.loads((run / "results.json").read_text())["test"]["rmse"]) < 0.05


def test_without_the_setting_nothing_is_made_or_noted(dataset, made_never, tmp_path):
    train(dataset, tmp_path / "run", settings_of({}))
    assert not (tmp_path / "run" / DERIVED).exists()
    assert "derived" not in load_checkpoint(tmp_path / "run" / BEST).meta
    assert not any("relations" in name for name in weights_of(tmp_path / "run"))


@pytest.mark.parametrize("model", [{"relations": ("agreeing_users",)}, {"graph_features": True}])
def test_users_that_count_as_unseen_must_not_be_known_by_what_they_rated(dataset, tmp_path, model):
    settings = make_settings(model, {"unseen_users": 0.1})
    with pytest.raises(UsageError, match=r"loader.unseen_users = 0.1 treats users as though"):
        train(dataset, tmp_path / "run", settings)
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_made_is_refused_before_anything_is_written(dataset, tmp_path):
    settings = settings_of({"relations": ("similar",)})
    object.__setattr__(settings, "derived", DerivedConfig(similar_min_support=10**6))
    with pytest.raises(UsageError, match="similar has no edge"):
        train(dataset, tmp_path / "run", settings)
    assert not (tmp_path / "run").exists()


def test_features_of_the_graph_go_with_any_choice_of_the_others():
    def read(*assignments):
        return load_settings(assignments=assignments).model.read_user_features

    graph = "model.graph_features=true"
    assert read() is True and read(graph) is True
    assert read("model.user_features=false") is False
    assert read(graph, "model.user_features=false") == (OF_GRAPH,)
    assert read(graph, 'model.user_features=["age", "sex"]') == ("age", "sex", OF_GRAPH)


def test_the_settings_stand_in_a_runs_configuration(run):
    settings = load_settings(file=run / "config.toml")
    assert settings.derived == CONFIG
    assert settings.model.relations == NAMES
    assert np.isclose(load_settings().derived.agreement_share, 0.005)
