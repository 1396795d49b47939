"""What a GPU would be asked to do, counted on tensors without values."""

import os
import re
import shutil
from collections import namedtuple
from dataclasses import replace

import numpy as np
import pytest
import torch
from batches import Ratings, tensors
from devices import DEVICE, Launches, pretended
from ranks import in_ranks
from relations import NAMES, Related
from runs import make_settings, planted, weights_of
from torch.nn.functional import pad

from dglrec.dataset import RatingDataset
from dglrec.distributed import ALONE, World
from dglrec.errors import UsageError
from dglrec.infer import ListScorer, Scorer, embed_all
from dglrec.kernels import parallel
from dglrec.nn import ModelConfig, RatingModel
from dglrec.sampling import LoaderConfig, PackedBatchLoader
from dglrec.sampling.folds import Fold
from dglrec.train import loaders as loaders_module
from dglrec.train import train
from dglrec.train.config import TrainConfig
from dglrec.train.loaders import make_loader
from dglrec.train.objectives import RankingConfig, make_objective
from dglrec.train.state import Progress, Tally
from dglrec.train.step import TrainingStep

# Of the default model on a large data set, as `Settings.resolved` makes it.
LOADER = LoaderConfig(
    batch_size=64, folds=2, items="all", user_fanouts=(10, -1), item_fanouts=(3, 1)
)
MOST_WAITS = 2
# What they are, so that they do not grow unseen: operation by operation, and with train.compile.
MOST_COMPILED = 300


@pytest.fixture(scope="module")
def ratings():
    """Of more users than a step samples of the items' raters."""
    return Ratings(num_users=300, edges=900)


def dataset_of(ratings):
    dataset = type("Dataset", (), {"has_ratings": True, "scale": ratings.graph.scale})()
    dataset.graph, dataset.biases = ratings.graph, ratings.biases
    dataset.mean_rating = ratings.biases.mean
    return dataset


def model_of(ratings, device, directions=()):
    """The default model, its dropout that of large data sets, with text and genres."""
    config = ModelConfig(heads="both", dropout=0.0, list_size=128)
    with device:
        features = torch.randn(ratings.num_items, 42)
        return RatingModel(config, ratings.num_users, features, directions=directions)


def objective_of(ratings, device, **ranking):
    ranking = RankingConfig(**{"negatives": "catalogue", **ranking})
    return make_objective("both", "mse", ranking, dataset_of(ratings), device)


def layout_of(ratings, config, **options):
    """A real pass's layout and room, taken where tensors have values."""
    real = PackedBatchLoader(ratings.graph, ratings.biases, config, 3, **options)
    return real._layout(Fold(3, 0, 0, 2, ratings.num_items)), real._rooms


def pretended_loader(ratings, config, layout, **options):
    """A loader on the device, which starts a pass without asking the device."""
    loader = make_loader(ratings.graph, ratings.biases, config, 3, DEVICE, **options)
    assert isinstance(loader, PackedBatchLoader)
    real, rooms = layout

    def begin(fold):
        loader._rooms = rooms
        empty = {
            name: torch.zeros(one.shape, dtype=one.dtype, device=DEVICE)
            for name, one in vars(real).items()
            if isinstance(one, torch.Tensor)
        }
        return replace(real, **empty)

    loader._layout = begin
    return loader


# What is trained, and the most launches of a step.
Case = namedtuple("Case", "launches world ranking fanouts relations", defaults=(ALONE, {}, {}, ()))
ALL = {"user_fanouts": (-1, -1), "item_fanouts": (10, -1)}
CASES = {
    "alone": Case(1100),
    "one of two processes": Case(1200, World(1, 2)),
    "a pool": Case(1150, ranking={"negatives": "uniform"}),
    "a pool of targets' items": Case(1250, World(0, 3), {"negatives": "in_batch", "loss": "bpr"}),
    "all is read": Case(1200, fanouts=ALL),
    "relations": Case(2150, relations=NAMES),
    "all in one of two processes": Case(2250, World(1, 2), {"negatives": "uniform"}, ALL, NAMES),
}


@pytest.fixture(scope="module")
def related():
    return Related()


@pytest.mark.parametrize("case", CASES)
def test_a_step_of_the_default_model_hardly_waits_and_crosses_nothing(ratings, related, case):
    """From a step's users to moved weights, with everything where it belongs.

    What other processes would send is left out: rows of items that are zeros.
    """
    most, world, ranking, fanouts, names = CASES[case]
    if names:
        ratings = related
    directions = related.directions(*names) if names else ()
    config = LOADER.model_copy(update=fanouts)
    options = {"world": world, "directions": directions}
    draw = objective_of(ratings, torch.device("cpu"), **ranking).sampler(torch.device("cpu"))
    layout = layout_of(ratings, config, draw=draw, **options)
    with pretended():
        model = model_of(ratings, DEVICE, directions)
        objective = objective_of(ratings, DEVICE, **ranking)
        options["draw"] = objective.sampler(DEVICE)
        step = TrainingStep(model, TrainConfig(learning_rate=0.01), objective, 10)
        step._summed.all_items = lambda rows: pad(rows, (0, 0, 0, ratings.num_items - len(rows)))
        batches = iter(pretended_loader(ratings, config, layout, **options))
        done = Progress()
        tally = Tally(done, DEVICE)

        def train():
            outcome = step(next(batches))
            tally.add(outcome.costs)
            done.count += outcome.count

        with Launches():
            train()  # makes the optimiser's state
        with Launches() as counted:
            train()
        with Launches() as asked:
            tally.write(done)
    print(f"\n{case}: {counted.total} launches, waits {dict(counted.waits)}")
    assert counted.waits.total() <= MOST_WAITS, counted.waits
    assert counted.crossings == []
    assert counted.total <= most, counted.kernels.most_common()
    assert asked.waits.total() + len(asked.crossings) > 0  # asking for the loss is a wait
    assert done.count > 0 and {p.device.type for p in model.parameters()} == {DEVICE.type}


def test_a_wait_is_seen():
    """The count above fails where somebody asks the device for a value."""
    with pretended(), Launches() as counted:
        values = torch.ones(3, device=DEVICE)
        assert bool(values.sum() > 0)
        values.to("cpu")
    assert counted.waits == {"_local_scalar_dense": 1}
    assert counted.crossings == [3]
    with pretended(), pytest.raises(RuntimeError, match="device"):
        torch.ones(3, device=DEVICE) + torch.ones(3)


def test_embeddings_and_lists_stay_on_the_device(ratings):
    """Validation and scoring: nothing is mixed, and edges that are there are not sent again."""
    graph, biases = ratings.graph, ratings.biases
    with pretended():
        model = model_of(ratings, DEVICE)
        graph.on(DEVICE)
        with Launches() as counted:
            embeddings = embed_all(model, graph, biases)
            users = torch.arange(5, device=DEVICE)
            scorer = Scorer(model, embeddings.nodes, biases)
            terms = scorer._users.of(users), scorer._items
            assert model.rating_head.all_pairs(*terms).device.type == DEVICE.type
            ListScorer(*embeddings.lists)
        for one in tensors(embeddings):
            assert one.device.type == DEVICE.type
    del graph._on_devices[DEVICE]
    # Biases: nothing of the edges.
    assert max(counted.crossings) <= 3 * ratings.num_users


@pytest.fixture
def torchs_route(monkeypatch):
    """What a GPU does, on a CPU, where it has values."""
    monkeypatch.setattr(parallel, "_COMPILED_FOR", "none")


def trained(ratings, compile_with=None, case="alone"):
    """A batch, its costs and gradients by name; perhaps by what `torch.compile` makes of both."""
    _, _, ranking, fanouts, names = CASES[case]
    directions, config = ratings.directions() if names else (), LOADER.model_copy(update=fanouts)
    torch.manual_seed(0)
    host = torch.device("cpu")
    model, objective = model_of(ratings, host, directions), objective_of(ratings, host, **ranking)
    options = {"draw": objective.sampler(host), "directions": directions}
    loader = PackedBatchLoader(ratings.graph, ratings.biases, config, 3, **options)
    summed = TrainingStep(model, TrainConfig(learning_rate=0.01), objective, 10)._summed
    make = loader._packed
    if compile_with:
        options = {"fullgraph": True, "dynamic": False, "backend": compile_with}
        make, summed = torch.compile(make, **options), torch.compile(summed, **options)
    layout = loader._layout(Fold(3, 0, 0, 2, ratings.num_items))
    batch = make(*layout.arguments(0))
    costs = summed(batch)
    costs[0].backward()
    return batch, costs, {name: p.grad for name, p in model.named_parameters()}, (make, summed)


def assert_same(one, other):
    for first, second in zip(tensors(one[0]), tensors(other[0]), strict=True):
        torch.testing.assert_close(first, second)
    torch.testing.assert_close(one[1], other[1], rtol=1e-5, atol=1e-5)
    for name, gradient in one[2].items():
        room = 1e-4 * float(gradient.abs().max()) + 1e-6
        torch.testing.assert_close(gradient, other[2][name], rtol=0, atol=room)


def test_a_step_is_one_graph(ratings, torchs_route):
    """`torch.compile` finds nothing that it would have to leave to Python."""
    assert_same(trained(ratings), trained(ratings, "aot_eager"))


@pytest.mark.slow
@pytest.mark.parametrize("case", ["a pool", "all is read", "relations"])
def test_other_steps_are_one_graph_too(ratings, related, torchs_route, case):
    data = related if case == "relations" else ratings
    assert_same(trained(data, case=case), trained(data, "aot_eager", case))


@pytest.mark.slow
@pytest.mark.skipif(
    not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))),
    reason="inductor needs a C++ compiler, and there is none",
)
def test_a_compiled_step_launches_few_kernels(ratings, torchs_route, capsys):
    """Counted on what inductor makes for a CPU: its loops, and the operations it leaves to torch.

    Triton's kernels are not these, but what is fused is decided by the same rules.
    """
    from torch._inductor import metrics

    before = metrics.generated_kernel_count
    batch, costs, gradients, (make, summed) = trained(ratings, "inductor")
    loops = metrics.generated_kernel_count - before
    assert_same(trained(ratings), (batch, costs, gradients))
    loader = PackedBatchLoader(ratings.graph, ratings.biases, LOADER, 3)
    layout = loader._layout(Fold(3, 0, 0, 2, ratings.num_items))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        summed(make(*layout.arguments(0)))[0].backward()
    names = r"aten::(mm|addmm|bmm|mv|cumsum|index_put_|cholesky.*|_embedding_bag.*_backward|.*bag)"
    left = {e.key: e.count for e in profile.key_averages() if re.fullmatch(names, e.key)}
    left.pop("aten::_embedding_bag_backward", None)  # calls the dense one
    with capsys.disabled():
        print(f"\n{loops} fused loops, and {sum(left.values())} other operations: {left}")
    assert 0 < loops + sum(left.values()) <= MOST_COMPILED
    assert np.isfinite(float(costs[0]))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return planted(tmp_path_factory.mktemp("planted"), users=60, items=30, ratings=600)


def trained_anywhere(world, dataset, run, settings, anywhere=True):
    """Trains by the device's route, in each of several processes; the loaders that were made."""
    before, made, original = parallel._COMPILED_FOR, [], loaders_module.PackedBatchLoader

    def make(*arguments, **options):
        made.append(arguments[5].size)
        return original(*arguments, **options)

    parallel._COMPILED_FOR = "none" if anywhere else "cpu"
    loaders_module.PackedBatchLoader = make
    try:
        train(RatingDataset.open(dataset.path), run, settings, world=world)
    finally:
        parallel._COMPILED_FOR, loaders_module.PackedBatchLoader = before, original
    return made


@pytest.mark.parametrize(("size", "negatives"), [(1, "catalogue"), (2, "uniform")])
def test_training_by_the_devices_route_is_training_by_a_cpus(dataset, tmp_path, size, negatives):
    """Weights and validation figures, after two epochs, of processes that exchange items."""
    loader = {"user_fanouts": (3, -1), "item_fanouts": (3, 2), "batch_size": 60, "items": "all"}
    settings = make_settings(
        {"heads": "both", "dropout": 0.0, "item_items": "none"}, loader, epochs=2
    )
    settings = replace(settings, ranking=RankingConfig(negatives=negatives, pool=20))
    for name, anywhere in (("cpu", False), ("device", True)):
        arguments = dataset, tmp_path / name, settings, anywhere
        if size == 1:
            made = [trained_anywhere(ALONE, *arguments)]
        else:
            made = in_ranks(size, trained_anywhere, *arguments)
        assert made == [[size] if anywhere else []] * size
    found, expected = weights_of(tmp_path / "device"), weights_of(tmp_path / "cpu")
    for name, value in expected.items():
        # Adam moves weights of tiny gradients by their signs.
        torch.testing.assert_close(found[name], value, rtol=0, atol=2e-3)
        assert float((found[name] - value).abs().mean()) < 1e-4


CHOICES = [
    ({}, {}, "of fixed shapes"),
    ({"user_fanouts": (-1, -1), "relation_fanout": -1}, {}, "of fixed shapes"),
    ({"unseen_users": 0.1}, {}, "each step waits for the device (loader.unseen_users is set)"),
    ({"kind": "full"}, {}, "(loader.kind is full)"),
    ({"items": "reached"}, {}, "(loader.items is reached: "),
    ({}, {"by_rows": True}, "(model.user_identity updates rows, "),
    ({}, {"world": World(1, 2)}, ""),  # the first process says it
]


@pytest.mark.parametrize(("loader", "options", "said"), CHOICES)
def test_which_batches_are_made_is_said(ratings, torchs_route, capsys, loader, options, said):
    config = LOADER.model_copy(update=loader)
    host = torch.device("cpu")
    made = make_loader(ratings.graph, ratings.biases, config, 3, host, **options)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == bool(said) and all(said in line for line in lines)
    assert isinstance(made, PackedBatchLoader) == (not said or "fixed" in said)


def test_of_a_device_with_compiled_loops_nothing_is_said(ratings, capsys):
    made = make_loader(ratings.graph, ratings.biases, LOADER, 3, torch.device("cpu"))
    assert not isinstance(made, PackedBatchLoader) and capsys.readouterr().err == ""


def test_a_step_that_cannot_be_compiled_is_refused_with_the_reason(ratings, monkeypatch):
    arguments = ratings.graph, ratings.biases, LOADER, 3, torch.device("cpu")
    with pytest.raises(UsageError, match="made on cpu, by compiled loops"):
        make_loader(*arguments, compile=True)
    monkeypatch.setattr(parallel, "_COMPILED_FOR", "none")
    with pytest.raises(UsageError, match="there are 2 processes"):
        make_loader(*arguments, World(0, 2), compile=True)
    with pytest.raises(UsageError, match="user_identity"):
        make_loader(*arguments, by_rows=True, compile=True)
