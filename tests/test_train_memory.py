"""What does not fit is refused before anything is written, with what it needs and what there is."""

import dataclasses
import re

import pytest
import torch
from ranks import in_ranks, outcomes_of

from dglrec import machine
from dglrec.dataset import PrepareOptions, RatingDataset, prepare
from dglrec.distributed import World
from dglrec.errors import UnusableEnvironmentError
from dglrec.machine import GIB
from dglrec.nn import ModelConfig, RatingModel
from dglrec.run import new_model
from dglrec.sampling import LoaderConfig
from dglrec.synthetic import synthesize
from dglrec.train import Settings, TrainConfig, memory, train
from dglrec.train import loop as loop_module
from dglrec.train.memory import Footprint, footprint, place_graph

CPU, GPU = torch.device("cpu"), torch.device("cuda:0")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("memory")
    synthesize(folder / "source", users=80, items=40, ratings=2_000, seed=1)
    return prepare(folder / "source", folder / "data", PrepareOptions(text=False))


def make_settings(model=None, **loader):
    return Settings(
        ModelConfig(embedding_size=4, decoder_size=4, **(model or {})),
        LoaderConfig(batch_size=400, **loader),
        TrainConfig(epochs=1),
    )


def footprint_of(dataset, settings):
    model = RatingModel(settings.model, dataset.graph.num_users, dataset.item_features)
    return footprint(dataset.graph, model, settings.resolved(dataset.graph))


def free(monkeypatch, size):
    monkeypatch.setattr(memory, "available_memory", lambda: size)


def test_a_footprint_follows_what_is_trained(dataset):
    small = footprint_of(dataset, make_settings())
    by_user, by_item = dataset.graph.by_user, dataset.graph.by_item
    assert small.graph == sum(
        array.nbytes
        for side in (by_user, by_item)
        for array in (side.offsets, side.neighbours, side.codes)
    )
    assert small.graph_is_mapped
    assert footprint_of(dataset, make_settings({"user_identity": True})).model > small.model
    wide = make_settings()
    wide = dataclasses.replace(wide, model=wide.model.model_copy(update={"embedding_size": 64}))
    assert footprint_of(dataset, wide).step > small.step
    assert footprint_of(dataset, wide).model > small.model
    squares = make_settings({"refinement": 64})
    assert footprint_of(dataset, squares).step > small.step
    all_squares = make_settings({"refinement": 64, "refined_layers": "all"})
    assert footprint_of(dataset, all_squares).step > footprint_of(dataset, squares).step
    reference = footprint_of(dataset, make_settings(kind="neighbor"))
    assert reference.graph > 5 * small.graph and not reference.graph_is_mapped


@pytest.mark.parametrize("kind", ["users", "neighbor"])
def test_larger_batches_and_fan_outs_take_more(dataset, kind):
    def step(batch_size, user_fanouts, item_fanouts):
        return footprint_of(
            dataset,
            dataclasses.replace(
                make_settings(),
                loader=LoaderConfig(
                    kind=kind,
                    batch_size=batch_size,
                    user_fanouts=user_fanouts,
                    item_fanouts=item_fanouts,
                ),
            ),
        ).step

    sizes = [
        step(10, (2, 2), (2, 2)),
        step(200, (2, 2), (2, 2)),
        step(200, (2, 2), (9, 9)),
        step(200, (9, 9), (9, 9)),
        step(200, (-1, -1), (-1, -1)),
    ]
    # Of all neighbours there are 20 an item at most, so the last is no larger for certain.
    assert sizes == sorted(sizes) and sizes[0] < sizes[1] < sizes[2]


@pytest.mark.parametrize("kind", ["users", "neighbor"])
def test_too_little_memory_is_said_before_anything_is_touched(dataset, tmp_path, monkeypatch, kind):
    settings = make_settings(kind=kind)
    train(dataset, tmp_path / "old", settings)
    before = {path: path.read_bytes() for path in (tmp_path / "old").rglob("*") if path.is_file()}
    free(monkeypatch, 1000)
    for run in ("new", "old"):
        with pytest.raises(UnusableEnvironmentError) as caught:
            train(dataset, tmp_path / run, settings, overwrite=True)
    parts = "model .*, a step .*" if kind == "users" else "graph .*, model .*, a step .*"
    assert re.search(
        rf"needs about .* GiB \({parts}\) and 0.0 GiB are free of memory; "
        r"try a smaller loader.batch_size" + (r"$" if kind == "users" else r", or loader.kind"),
        str(caught.value),
    )
    assert not (tmp_path / "new").exists()
    assert before == {
        path: path.read_bytes() for path in (tmp_path / "old").rglob("*") if path.is_file()
    }


NEEDS = Footprint(graph=8 * GIB, model=GIB, step=2 * GIB, graph_is_mapped=True)


def test_a_mapped_graph_larger_than_memory_is_slow_and_no_error(monkeypatch, capsys):
    free(monkeypatch, 20 * GIB)
    assert place_graph(NEEDS, CPU) == CPU
    assert capsys.readouterr().err == ""
    free(monkeypatch, 5 * GIB)
    assert place_graph(NEEDS, CPU) == CPU
    found = capsys.readouterr().err
    assert "graph takes 8.0 GiB and 5.0 GiB of memory are free" in found and "slow" in found
    with pytest.raises(UnusableEnvironmentError, match=r"about 11.0 GiB .* 5.0 GiB are free of"):
        place_graph(dataclasses.replace(NEEDS, graph_is_mapped=False), CPU)


def test_a_graph_that_does_not_fit_the_card_stays_with_the_host(monkeypatch, capsys):
    free(monkeypatch, 64 * GIB)
    on_card = 80 * GIB
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (on_card, 96 * GIB))
    assert place_graph(NEEDS, GPU) == GPU
    assert capsys.readouterr().err == ""
    on_card = 10 * GIB
    assert place_graph(NEEDS, GPU) == CPU
    assert "8.0 GiB and 10.0 GiB are free on cuda:0: it stays in" in capsys.readouterr().err
    on_card = 2 * GIB
    with pytest.raises(UnusableEnvironmentError, match=r"2.0 GiB are free on cuda:0; try a sma"):
        place_graph(NEEDS, GPU)
    on_card = 10 * GIB
    assert place_graph(dataclasses.replace(NEEDS, graph_is_mapped=False), GPU) == CPU
    assert capsys.readouterr().err == ""  # DGL samples on the host in any case
    free(monkeypatch, 4 * GIB)
    with pytest.raises(UnusableEnvironmentError) as caught:
        place_graph(dataclasses.replace(NEEDS, graph_is_mapped=False), GPU)
    assert str(caught.value) == (
        "training needs about 8.0 GiB (graph 8.0 GiB) and 4.0 GiB are free of the host's memory; "
        "try loader.kind=users"
    )


def placed(world, free_of, needs=NEEDS):
    """Where each rank's graph is to live, and what it said, with so much free on each card."""
    said = []
    with pytest.MonkeyPatch.context() as patch:
        free(patch, 64 * GIB)
        patch.setattr(memory, "log", said.append)
        card = (free_of[world.rank] * GIB, 96 * GIB)
        patch.setattr(torch.cuda, "mem_get_info", lambda device: card)
        device = place_graph(needs, torch.device("cuda", world.rank), world)
    return [str(device), said]


@pytest.mark.parametrize(("free_of", "tightest"), [((80, 10, 11), 1), ((9, 80, 80), 0)])
def test_what_fits_one_card_but_not_another_stays_with_the_host_for_all(free_of, tightest):
    expected = (
        f"the graph takes 8.0 GiB and {free_of[tightest]}.0 GiB are free on the GPU of rank "
        f"{tightest}: it stays in the host's memory, and batches are made there"
    )
    assert in_ranks(3, placed, free_of) == [["cpu", [expected]], ["cpu", []], ["cpu", []]]


def test_what_fits_every_card_lives_on_each():
    assert in_ranks(2, placed, (80, 20)) == [["cuda:0", []], ["cuda:1", []]]


@pytest.mark.parametrize("short", [0, 1])
def test_where_one_rank_has_too_little_all_stop_and_none_hangs(short):
    free_of = (2, 80) if short == 0 else (80, 2)
    found = outcomes_of(2, placed, free_of, timeout=30)
    words = f"2.0 GiB are free on cuda:{short}; try a smaller loader.batch_size"
    assert found[short]["kind"] == "UnusableEnvironmentError"
    assert words in found[short]["message"]
    assert found[1 - short]["kind"] == "PeerError"
    assert f"rank {short} failed" in found[1 - short]["message"]
    assert words in found[1 - short]["message"]
    assert [one["code"] for one in found] == [4, 4]


@pytest.mark.parametrize("failing", [0, 1])
def test_a_rank_that_fails_before_its_graph_is_placed_keeps_nobody_waiting(
    dataset, tmp_path, failing
):
    def work(world):
        def make_model(*arguments):
            if world.rank == failing:
                raise ValueError("no model")
            return new_model(*arguments)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop_module, "new_model", make_model)
            train(RatingDataset.open(dataset.path), tmp_path / "run", make_settings(), world=world)

    found = outcomes_of(2, work, timeout=30)
    assert (found[failing]["kind"], found[failing]["message"]) == ("ValueError", "no model")
    assert found[1 - failing]["kind"] == "PeerError"
    assert found[1 - failing]["message"] == f"stopped, as rank {failing} failed: no model"


def test_the_memory_that_is_asked_for_is_this_machines():
    assert memory.available_memory is machine.available_memory


def test_threads_and_very_wide_fan_outs_count(dataset, monkeypatch):
    settings = make_settings(user_fanouts=(5, 5), item_fanouts=(5, 5))
    few = footprint_of(dataset, settings).step
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    assert footprint_of(dataset, settings).step >= few + 60 * 4 * dataset.graph.num_items * 8
    monkeypatch.undo()
    wide = footprint_of(dataset, make_settings(user_fanouts=(5, 5), item_fanouts=(10**6, 10**6)))
    most = int(dataset.graph.by_item.degrees.max())
    assert few + 2 * 28 * dataset.graph.num_items * (most - 5) <= wide.step < 50 * few


def test_layers_of_drawn_nodes_count_at_most_the_ratings_that_they_can_have(dataset):
    def step_of(processes=1, **loader):
        settings = make_settings(kind="layerwise", folds=2, layer_items=5, **loader)
        model = RatingModel(settings.model, dataset.graph.num_users, dataset.item_features)
        settings = settings.resolved(dataset.graph)
        return footprint(dataset.graph, model, settings, World(0, processes)).step

    assert step_of(layer_users=5) < step_of(layer_users=20) < step_of(layer_users=40)
    assert step_of(2, layer_users=20) < step_of(layer_users=20)
    most = memory._most_edges(dataset.graph.by_user)
    degrees = dataset.graph.by_user.degrees
    assert most[0] == 0 and most[1] == degrees.max() and most[-1] == dataset.graph.num_edges
    assert len(most) == len(degrees) + 1
