"""Trainings over sampled subgraphs: to the end, resumed, by several processes, and refused."""

import shutil

import pytest
import torch
from ranks import in_ranks
from runs import lines_of, make_settings, planted, same_run, weights_of

from dglrec.config import load_settings
from dglrec.dataset import RatingDataset
from dglrec.dataset import derived as derived_datasets
from dglrec.derived import metis_clusters
from dglrec.errors import UnusableEnvironmentError, UsageError
from dglrec.evaluate import evaluate
from dglrec.run import DERIVED, open_run
from dglrec.train import derived as derived_module
from dglrec.train import memory, train
from dglrec.train.step import TrainingStep

KINDS = {
    "cluster": {},
    "saint": {},
    "layerwise": {"layer_users": 10, "layer_items": 8},
    "layerwise fastgcn": {"importance": "fastgcn", "layer_users": 10, "layer_items": 8},
}
SHARED = ("cluster", "saint")  # all processes read the same subgraph
CLUSTERS = {}  # by number of ratings and of clusters


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return planted(tmp_path_factory.mktemp("small"), 60, 40, 1_000)


@pytest.fixture(params=sorted(KINDS))
def kind(request):
    return request.param


@pytest.fixture(autouse=True)
def same_clusters(monkeypatch):
    """METIS has no seed: without this two runs have other clusters. Forked ranks have it too."""

    def keep(graph, count):
        key = graph.num_edges, count
        if key not in CLUSTERS:
            CLUSTERS[key] = metis_clusters(graph, count)
        return CLUSTERS[key]

    monkeypatch.setattr(derived_datasets, "metis_clusters", keep)


def settings_of(kind, model=None, **fitting):
    loader = {"kind": kind.split()[0], "batch_size": 100, "folds": 2, **KINDS[kind]}
    model = {"user_identity": True, "dropout": 0.2, **(model or {})}
    return make_settings(model, loader, **{"epochs": 2, **fitting})


class CutOff(BaseException):
    """Stands for whatever ends a process."""


def test_cut_off_it_goes_on_as_if_nothing_had_been(dataset, kind, tmp_path, monkeypatch):
    settings = settings_of(kind, checkpoint_steps=1)
    train(dataset, tmp_path / "whole", settings)
    original, calls = TrainingStep.__call__, []

    def cutting(self, *arguments, **options):
        calls.append(self.number)
        if len(calls) == 6:
            raise CutOff
        return original(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingStep, "__call__", cutting)
        with pytest.raises(CutOff):
            train(dataset, tmp_path / "run", settings)
    with monkeypatch.context() as patch:
        patch.setattr(derived_module, "derive", None)  # what was made is read
        train(dataset, tmp_path / "run", settings, resume=True)
    assert same_run(tmp_path / "run", tmp_path / "whole")
    assert len(lines_of(tmp_path / "run")) == 2
    results = evaluate(open_run(tmp_path / "run"))
    assert 0 < results["rmse"] < 3


def in_a_rank(world, dataset, run, settings):
    train(RatingDataset.open(dataset), run, settings, world=world)


@pytest.mark.parametrize("kind", SHARED)
def test_two_processes_train_what_one_trains(dataset, kind, tmp_path):
    settings = settings_of(kind, {"dropout": 0.0}, epochs=1)
    train(dataset, tmp_path / "alone", settings)
    in_ranks(2, in_a_rank, dataset.path, tmp_path / "two", settings, timeout=1000)
    alone, two = weights_of(tmp_path / "alone"), weights_of(tmp_path / "two")
    far = {
        name: float((two[name] - value).abs().max())
        for name, value in alone.items()
        if not torch.allclose(two[name], value, rtol=0, atol=1e-5)
    }
    assert not far


def test_two_processes_that_draw_for_themselves_train_one_model(dataset, tmp_path):
    """About as good as what one trains: each draws its share of nodes for its share of targets."""
    settings = settings_of("layerwise")
    alone = train(dataset, tmp_path / "alone", settings)
    in_ranks(2, in_a_rank, dataset.path, tmp_path / "two", settings, timeout=1000)
    two = evaluate(open_run(tmp_path / "two"))
    assert two["n"] == alone["test"]["n"]
    assert two["rmse"] == pytest.approx(alone["test"]["rmse"], rel=0.05)


@pytest.mark.parametrize(
    "model",
    [
        {"convolution": "lightgcn", "item_identity": True, "combination": "mean"},
        {"convolution": "ngcf"},
        {"convolution": "gcn"},
        {"convolution": "gin"},
        {"aggregator": "sum", "layers": 3},
        {"rating_messages": False, "layers": 1},
    ],
    ids=str,
)
def test_all_encoders_that_sum_take_a_weighed_subgraph(dataset, kind, model, tmp_path):
    settings = settings_of(kind, model, epochs=1)
    loader = settings.loader.model_copy(update={"user_fanouts": "auto", "item_fanouts": "auto"})
    object.__setattr__(settings, "loader", loader)
    results = train(dataset, tmp_path / "run", settings)
    assert 0 < results["test"]["rmse"] < 10


REFUSED = {
    "model.heads=lists": "take kind users or full",
    "model.aggregator=pool": "aggregator mean or sum",
    "model.aggregator=lstm": "aggregator mean or sum",
    "model.convolution=gat": "aggregator mean or sum",
    "model.layers=0": "nothing to sample",
    "model.convolution=graph_filter": "graph_filter",
    "model.time_decay=true": "loader.kind=users",
    "loader.items=reached": "loader.items = reached",
    "loader.unseen_users=0.1": "unseen_users",
    "loader.folds_by=time": "folds_by",
    "train.compile=true": "train.compile",
}


@pytest.mark.parametrize("setting", sorted(REFUSED))
def test_what_it_cannot_do_is_refused_by_name(dataset, kind, setting, tmp_path):
    options = {"kind": kind.split()[0], **KINDS[kind]}
    assert_refused(
        dataset,
        [*(f"loader.{key}={value}" for key, value in options.items()), setting],
        REFUSED[setting],
        tmp_path / "run",
    )


def assert_refused(dataset, assignments, said, run):
    with pytest.raises(UsageError) as caught:
        train(dataset, run, load_settings(assignments=assignments))
    assert caught.value.exit_code == 2 and said in str(caught.value), str(caught.value)
    assert not run.exists()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["loader.kind=cluster", "loader.clusters=1000"], "take 100 clusters or fewer"),
        (["loader.kind=cluster", "loader.clusters=0"], "loader.clusters"),
        (["loader.clusters=10"], "go with kind cluster"),
        (["loader.kind=saint", "loader.walk_length=0"], "loader.walk_length"),
        (["loader.kind=layerwise", "loader.layer_users=0"], "loader.layer_users"),
        (["loader.kind=layerwise", "loader.layer_users=61"], "take 60 or fewer"),
        (["loader.kind=layerwise", "loader.layer_items=41"], "take 40 or fewer"),
        (["loader.layer_items=10"], "goes with kind layerwise"),
        (["loader.kind=layerwise", "loader.importance=degree"], "loader.importance"),
        (
            ["loader.kind=cluster", "loader.clusters=10", "loader.batch_size=10"],
            "or a larger loader.batch_size",
        ),
    ],
    ids=str,
)
def test_numbers_that_make_no_sense_are_refused(dataset, settings, said, tmp_path):
    assert_refused(dataset, settings, said, tmp_path / "run")


def test_too_little_memory_is_said_before_anything_is_written(dataset, kind, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 1_000)
    with pytest.raises(UnusableEnvironmentError, match=r"needs about .* a step .* are free"):
        train(dataset, tmp_path / "run", settings_of(kind))
    assert not (tmp_path / "run").exists()


def test_a_run_keeps_its_clusters_and_is_used_without_them(dataset, tmp_path):
    settings = settings_of("cluster", epochs=1)
    train(dataset, tmp_path / "run", settings)
    assert (tmp_path / "run" / DERIVED).is_dir()
    shutil.rmtree(tmp_path / "run" / DERIVED)
    assert evaluate(open_run(tmp_path / "run"))["n"] > 0
