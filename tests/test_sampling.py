"""Batches hold real training edges, no target among them, and nothing that a target's rating moves.

Every check reads the batch's tensors alone and holds them against the ratings themselves.
"""

import itertools
import os
import subprocess
import sys
import warnings
from pathlib import Path

import dgl
import numpy as np
import pytest
import torch
from batches import (
    FANOUTS,
    LOADERS,
    SCALE,
    Ratings,
    all_message_pairs,
    config_of,
    directions,
    leaked,
    make_loader,
    message_pairs,
    same,
    same_batches,
    small_loader,
    target_pairs,
    tensors,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from dglrec.biases import Damping, fit_biases
from dglrec.blocks import Block
from dglrec.distributed import ALONE, World
from dglrec.graph import build_graph
from dglrec.sampling import LoaderConfig, NeighborEdgeLoader, UserBatchLoader


@pytest.fixture(scope="module")
def data():
    return Ratings()


@pytest.fixture(params=sorted(LOADERS))
def kind(request):
    return request.param


# --- what is sampled -----------------------------------------------------------------------------


@pytest.mark.parametrize("exclude", [True, False])
@pytest.mark.parametrize("fanouts", FANOUTS)
def test_every_sampled_edge_is_a_training_edge_with_its_residual(kind, data, fanouts, exclude):
    """In every batch: DGL 1.1.3 corrupts all but the first where the graph is int32."""
    for batch in data.loader(kind, batch_size=150, exclude_targets=exclude, **fanouts):
        assert len(batch.layers) == len(fanouts["user_fanouts"])
        targets = set(target_pairs(batch))
        biases = data.biases_without(targets if exclude else set())
        found = 0
        for _, to_users, block, destinations, sources in directions(batch):
            pairs = message_pairs(to_users, block, destinations, sources)
            assert all(pair in data.rating_of for pair in pairs)
            assert len(set(pairs)) == len(pairs)  # sampled without replacement
            users, items = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).T
            ratings = torch.tensor([data.rating_of[pair] for pair in pairs], dtype=torch.float64)
            expected = ratings - biases.predict(users, items)
            torch.testing.assert_close(block.residuals.double(), expected, rtol=0, atol=1e-4)
            found += len(pairs)
        assert found > 100


@pytest.mark.parametrize("exclude", [True, False])
@pytest.mark.parametrize("fanouts", FANOUTS)
def test_a_node_gets_its_fan_out(kind, data, fanouts, exclude):
    degrees = {True: data.graph.by_user.degrees, False: data.graph.by_item.degrees}
    for batch in data.loader(kind, exclude_targets=exclude, **fanouts):
        targets = set(target_pairs(batch))
        for number, to_users, block, destinations, _ in directions(batch):
            fanout = fanouts["user_fanouts" if to_users else "item_fanouts"][number]
            wanted = degrees[to_users][destinations.numpy()]
            side = 0 if to_users else 1
            taken = [sum(pair[side] == node for pair in targets) for node in destinations.tolist()]
            left = wanted - np.array(taken) if exclude else wanted
            assert block.degrees.tolist() == left.tolist()
            counts = block.offsets.diff().numpy()
            most = left if fanout == -1 else np.minimum(left, fanout)
            if exclude and fanout != -1 and not (to_users and kind != "neighbor"):
                assert np.all(counts <= most)  # some of those sampled may have been targets
                assert np.all(counts >= np.minimum(wanted, fanout) - np.array(taken))
            else:
                assert counts.tolist() == most.tolist()


def test_all_neighbours_are_all_training_edges_but_the_targets(kind, data):
    for batch in data.loader(kind, **FANOUTS[3]):
        targets = set(target_pairs(batch))
        for _, to_users, block, destinations, sources in directions(batch):
            nodes = set(destinations.tolist())
            expected = {
                pair for pair in data.pairs if pair[0 if to_users else 1] in nodes
            } - targets
            assert set(message_pairs(to_users, block, destinations, sources)) == expected


def test_neighbours_are_sampled_evenly(kind, data):
    """Over many epochs each rating of the busiest user comes up as often as another."""
    user = int(np.argmax(data.graph.by_user.degrees))
    degree = int(data.graph.by_user.degrees[user])
    loader = data.loader(
        kind, batch_size=650, user_fanouts=(5,), item_fanouts=(1,), exclude_targets=False
    )
    seen = np.zeros(data.num_items)
    epochs = 200 if kind == "neighbor" else 100  # of two batches each
    batches = 0
    for epoch in range(epochs):
        loader.set_epoch(epoch)
        for batch in loader:
            batches += 1
            _, to_users, block, destinations, sources = next(directions(batch))
            for found, item in message_pairs(to_users, block, destinations, sources):
                seen[item] += found == user
    assert batches == len(loader) * epochs
    assert seen.sum() == 5 * batches
    expected = 5 * batches / degree
    counts = seen[[item for found, item in data.pairs if found == user]]
    assert np.all(np.abs(counts - expected) < 5 * np.sqrt(expected))


def test_types_and_shapes(kind, data):
    batch = next(iter(data.loader(kind)))
    for tensor in (batch.user_nodes, batch.item_nodes, batch.users, batch.edges):
        assert tensor.dtype == torch.int64
        assert tensor.ndim == 1
    assert batch.items.dtype in {torch.int32, torch.int64}
    assert batch.user_inputs.shape == (len(batch.user_nodes), 3)
    assert batch.item_inputs.shape == (len(batch.item_nodes), 3)
    assert batch.unseen.dtype == torch.int64
    floats = [batch.user_inputs, batch.item_inputs, batch.ratings, batch.baselines]
    for _, _, block, _, _ in directions(batch):
        assert block.offsets.dtype == torch.int64
        assert block.neighbours.dtype in {torch.int32, torch.int64}
        assert len(block.degrees) == block.num_destinations == len(block.offsets) - 1
        floats += [block.residuals, block.degrees]
    assert {tensor.dtype for tensor in floats} == {torch.float32}
    per_target = (batch.users, batch.items, batch.ratings, batch.baselines, batch.edges)
    assert {tensor.shape for tensor in per_target} == {batch.edges.shape}
    if kind == "neighbor":
        assert batch.edges.shape == (64,)


def test_destinations_are_the_first_of_the_sources(kind, data):
    """Each layer's destinations are the layer below's first nodes, and the targets' at the last."""
    for batch in data.loader(kind, **FANOUTS[4]):
        sizes = [
            (layer.to_users.num_destinations, layer.to_items.num_destinations)
            for layer in batch.layers
        ]
        sizes = [(len(batch.user_nodes), len(batch.item_nodes)), *sizes]
        assert all(a >= c and b >= d for (a, b), (c, d) in itertools.pairwise(sizes))
        assert len(batch.user_nodes.unique()) == len(batch.user_nodes)
        assert len(batch.item_nodes.unique()) == len(batch.item_nodes)
        users, items = zip(*[data.pairs[edge] for edge in batch.edges.tolist()], strict=True)
        last_users = set(batch.user_nodes[: sizes[-1][0]].tolist())
        last_items = set(batch.item_nodes[: sizes[-1][1]].tolist())
        if kind == "neighbor":
            assert (last_users, last_items) == (set(users), set(items))
        else:  # whole users, be there a target of theirs or not
            assert last_users >= set(users)
            assert last_items == (set(range(data.num_items)) if kind == "users" else set(items))


# --- targets -------------------------------------------------------------------------------------


@pytest.mark.parametrize("exclude", [True, False])
def test_a_targets_user_item_rating_and_edge_are_one_training_rating(kind, data, exclude):
    """DGL's own exclusion sorts the edge ids in place, beside ends that keep their order."""
    unsorted = batches = 0
    for batch in data.loader(kind, exclude_targets=exclude):
        pairs = target_pairs(batch)
        assert pairs == [data.pairs[edge] for edge in batch.edges.tolist()]
        assert batch.ratings.tolist() == [data.rating_of[pair] for pair in pairs]
        unsorted += not torch.equal(batch.edges, batch.edges.sort().values)
        batches += 1
    assert unsorted >= batches - 1 >= 7  # or else the test could not have seen the ids sorted


@pytest.mark.parametrize("batch_size", [2, 64, 649, 650, 651, 10**6])
def test_an_epoch_is_every_edge_once(kind, data, batch_size):
    loader = data.loader(kind, batch_size=batch_size, **FANOUTS[0])
    sizes, edges = [], []
    for batch in loader:
        sizes.append(len(batch.edges))
        edges += batch.edges.tolist()
    assert sorted(edges) == list(range(650))
    assert edges != sorted(edges)
    if kind == "neighbor":
        assert len(sizes) == len(loader) == -(-650 // batch_size)
        assert set(sizes[:-1]) <= {batch_size}
    else:
        assert 0 < len(sizes) <= len(loader)
        assert min(sizes) > 0


@pytest.mark.parametrize("exclude", [True, False])
def test_baselines_and_inputs_are_those_of_the_ratings_that_are_left(kind, data, exclude):
    for batch in data.loader(kind, exclude_targets=exclude):
        pairs = target_pairs(batch)
        biases = data.biases_without(set(pairs) if exclude else set())
        users, items = torch.tensor(pairs).T
        unseen = torch.isin(items, batch.unseen)
        baselines = biases.predict(users, items) - unseen * biases.items[items]
        for found, expected in (
            (batch.baselines, baselines),
            (batch.user_inputs, biases.user_inputs(batch.user_nodes)),
            (batch.item_inputs, biases.item_inputs(batch.item_nodes)),
        ):
            torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-4)


# --- no leak -------------------------------------------------------------------------------------


@pytest.mark.parametrize("fanouts", FANOUTS)
def test_no_target_is_among_the_messages_and_without_exclusion_they_are(kind, data, fanouts):
    for epoch in range(2):
        kept_out, let_in = (
            data.loader(kind, **fanouts),
            data.loader(kind, exclude_targets=False, **fanouts),
        )
        kept_out.set_epoch(epoch)
        let_in.set_epoch(epoch)
        assert not any(leaked(batch) for batch in kept_out)
        assert all(leaked(batch) > 0 for batch in let_in)


def test_without_exclusion_targets_leak_in_both_directions_and_at_both_hops(kind, data):
    """The leak test sees each way in which a target could come back."""
    seen = {}
    for batch in data.loader(kind, exclude_targets=False, **FANOUTS[3]):
        targets = set(target_pairs(batch))
        for number, to_users, block, destinations, sources in directions(batch):
            found = targets.intersection(message_pairs(to_users, block, destinations, sources))
            seen[number, to_users] = seen.get((number, to_users), 0) + len(found)
    assert seen == dict.fromkeys([(0, True), (0, False), (1, True), (1, False)], 650)


def probe_features(batch):
    """[B, 8] what one layer of messages and the baselines tell of each target.

    Like a model, it reads the messages that a user and an item get, and may match a message's
    item with the target's item: what a learned vector for each item would let a model do.
    """
    last = batch.layers[-1]
    sums = {}
    for name, block, own, other in (
        ("users", last.to_users, batch.users, batch.items),
        ("items", last.to_items, batch.items, batch.users),
    ):
        destination = torch.repeat_interleave(
            torch.arange(block.num_destinations), block.offsets.diff()
        )
        shape = (block.num_destinations, int(max(block.neighbours.max(), other.max())) + 1)
        table = torch.zeros(shape)
        table[destination, block.neighbours.long()] = block.residuals
        counts = block.offsets.diff().clamp(min=1)
        sums[name] = (table[own, other], (table.sum(1) / counts)[own], table.sum(1)[own])
    ones = torch.ones(len(batch.ratings))
    return torch.stack([*sums["users"], *sums["items"], batch.baselines, ones], dim=1).double()


def explained_by_a_probe(loader):
    """Share of unseen targets' variance that a linear probe, fitted to others, explains."""
    batches = list(loader)
    half = len(batches) // 2
    features = [
        torch.cat([probe_features(b) for b in part]) for part in (batches[:half], batches[half:])
    ]
    ratings = [
        torch.cat([b.ratings for b in part]).double() for part in (batches[:half], batches[half:])
    ]
    penalty = 10 * torch.eye(features[0].shape[1], dtype=torch.float64)
    mean = ratings[0].mean()
    weights = torch.linalg.solve(
        features[0].T @ features[0] + penalty, features[0].T @ (ratings[0] - mean)
    )
    left = ratings[1] - mean - features[1] @ weights
    return 1 - float((left**2).mean() / (ratings[1] - mean).square().mean())


@pytest.mark.parametrize("fanout", [5, -1])
def test_noise_teaches_nothing_unless_targets_leak(kind, fanout):
    """Ratings of pure noise cannot be predicted; what predicts them has seen them."""
    noise = Ratings(num_users=600, num_items=300, edges=9_000, seed=1, noise_only=True)
    config = {"batch_size": 256, "user_fanouts": (fanout,), "item_fanouts": (fanout,)}
    config["unseen_items"] = 0.0  # the probe reads what each target's item was sent
    assert abs(explained_by_a_probe(noise.loader(kind, **config))) < 0.02
    assert explained_by_a_probe(noise.loader(kind, exclude_targets=False, **config)) > 0.2


def test_a_bias_that_holds_its_target_leaks_too(kind):
    """The baseline alone explains noise, unless the target is taken out of the biases."""
    noise = Ratings(num_users=600, num_items=300, edges=3_000, seed=2, noise_only=True)

    def correlation(exclude):
        batches = list(noise.loader(kind, batch_size=256, exclude_targets=exclude, **FANOUTS[0]))
        both = torch.stack(
            [torch.cat([b.ratings for b in batches]), torch.cat([b.baselines for b in batches])]
        )
        return float(torch.corrcoef(both)[0, 1])

    assert correlation(exclude=False) > 0.3
    # Not quite 0: other nodes' biases hold a trace, of a thousandth of the variance.
    assert abs(correlation(exclude=True)) < 0.15


def moved_by_other_ratings(kind, exclude):
    """How far a batch's tensors move when its targets' ratings are others, biases fitted anew.

    The dampings are given: test_biases has by how little a rating moves those that are found.
    """
    one, other = (Ratings(num_users=90, num_items=60, edges=2_000, seed=5) for _ in range(2))
    damping = Damping(users=8.0, items=5.0)
    one.set_ratings(one.codes, damping)
    config = {"batch_size": 20, "exclude_targets": exclude, **FANOUTS[3]}
    first = next(iter(one.loader(kind, **config)))
    changed = {one.pairs[edge] for edge in first.edges.tolist()}
    rows = [
        row
        for row, pair in enumerate(zip(one.users.tolist(), one.items.tolist(), strict=True))
        if pair in changed
    ]
    codes = one.codes.copy()
    codes[rows] = np.where(codes[rows] >= 5, 0, 9)
    other.set_ratings(codes, damping)
    second = next(iter(other.loader(kind, **config)))
    assert torch.equal(first.edges, second.edges)  # the same batch
    assert torch.all(first.ratings != second.ratings)
    moved = {
        name: float((getattr(first, name) - getattr(second, name)).abs().mean())
        for name in ("baselines", "user_inputs", "item_inputs")
    }
    moved["messages"] = max(
        float((a.residuals - b.residuals).abs().mean())
        for (_, _, a, *_), (_, _, b, *_) in zip(directions(first), directions(second), strict=True)
    )
    moved["mean"] = abs(one.biases.mean - other.biases.mean)
    return moved


def test_what_a_batch_holds_does_not_follow_its_targets_ratings(kind):
    """To first order: other nodes' biases, and the mean, still hold a trace of them."""
    without, with_them = (moved_by_other_ratings(kind, exclude) for exclude in (True, False))
    assert with_them["baselines"] > 0.15
    assert without["baselines"] < 0.2 * with_them["baselines"] + without["mean"]
    for name in ("user_inputs", "item_inputs", "messages"):
        assert without[name] < 0.4 * with_them[name] + without["mean"], name


# --- what decides a batch ------------------------------------------------------------------------


def test_seed_and_epoch_decide_every_batch(kind, data):
    loader = data.loader(kind, seed=3)
    first = list(loader)
    assert same_batches(first, loader)  # the same loader again, in the same epoch
    assert same_batches(first, data.loader(kind, seed=3))
    loader.set_epoch(1)
    second = list(loader)
    assert not any(same(a, b) for a, b in zip(first, second, strict=True))
    assert [b.edges.tolist() for b in first] != [b.edges.tolist() for b in second]
    loader.set_epoch(0)
    assert same_batches(first, loader)
    assert not same_batches(first, data.loader(kind, seed=4))
    again = data.loader(kind, seed=3)
    again.set_epoch(1)
    assert same_batches(second, again)


def test_two_epochs_sample_anew_and_not_only_in_another_order(kind, data):
    loader = data.loader(kind, batch_size=650, exclude_targets=False)
    first = next(iter(loader))
    loader.set_epoch(1)
    second = next(iter(loader))
    assert sorted(all_message_pairs(first)) != sorted(all_message_pairs(second))


def test_nothing_else_that_is_drawn_changes_the_batches(kind, data):
    expected = list(data.loader(kind))
    np.random.seed(5)
    torch.manual_seed(5)
    dgl.seed(5)
    found = []
    other = iter(data.loader(kind, seed=9))
    for batch in data.loader(kind):
        found.append(batch)
        torch.rand(3)
        np.random.rand(3)
        next(other, None)  # another loader, like that of the validation rows, in between
    assert same_batches(expected, found)
    for _ in zip(data.loader(kind), range(3), strict=False):
        pass  # an epoch that is cut short
    assert same_batches(expected, data.loader(kind))


def test_sampling_leaves_the_callers_generators_and_threads_alone(kind, data):
    torch.manual_seed(1)
    np.random.seed(1)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()
    torch.set_num_threads(2)
    threads = torch.get_num_threads(), dgl.utils.get_num_threads()
    for _ in data.loader(kind):
        assert (torch.get_num_threads(), dgl.utils.get_num_threads()) == threads
    torch.set_num_threads(1)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before[1])
    assert np.random.get_state()[2] == numpy_before[2]


def test_sampling_leaves_the_graph_alone(kind, data):
    sides = (data.graph.by_user, data.graph.by_item)
    arrays = [array for side in sides for array in (side.offsets, side.neighbours, side.codes)]
    arrays += [data.graph.edges_by_item, data.biases.users.numpy(), data.biases.items.numpy()]
    before = [array.copy() for array in arrays]
    for _ in data.loader(kind):
        pass
    assert all(np.array_equal(a, b) for a, b in zip(before, arrays, strict=True))


DIGEST = """
import hashlib, sys
sys.path.insert(0, sys.argv[1])
from batches import LOADERS, Ratings, tensors
ratings = Ratings(num_users=300, num_items=200, edges=5000)
for kind in sorted(LOADERS):
    digest = hashlib.sha256()
    for batch in ratings.loader(kind, batch_size=512):
        for tensor in (batch.edges, batch.user_nodes, batch.item_nodes, *tensors(batch.layers)):
            digest.update(tensor.numpy().tobytes())
    print(kind, digest.hexdigest())
"""


def test_the_number_of_threads_does_not_change_the_batches():
    """Nor does one process differ from the next, as DGL's threads do left to themselves."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", DIGEST, str(Path(__file__).parent)],
            env={**os.environ, "OMP_NUM_THREADS": threads},
            stdout=subprocess.PIPE,
            text=True,
        )
        for threads in ("1", "4")
    ]
    one, several = (process.communicate(timeout=120)[0] for process in processes)
    assert [len(line.split()[1]) for line in one.splitlines()] == [64] * len(LOADERS)
    assert one == several


def test_no_warning_reaches_the_user(kind, data):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in data.loader(kind):
            pass


# --- moving, configuration, and small graphs -----------------------------------------------------


def test_a_batch_moves_as_one(kind, data):
    batch = next(iter(data.loader(kind)))
    moved = batch.to(torch.device("meta"))
    assert type(moved) is type(batch)
    assert len(tensors(moved)) == len(tensors(batch)) > 20
    assert {tensor.device.type for tensor in tensors(moved)} == {"meta"}
    assert [t.shape for t in tensors(moved)] == [t.shape for t in tensors(batch)]
    assert isinstance(moved.layers[0].to_users, Block)
    assert {tensor.device.type for tensor in tensors(batch)} == {"cpu"}
    stayed = batch.to(torch.device("cpu"))
    assert all(a is b for a, b in zip(tensors(stayed), tensors(batch), strict=True))


@pytest.mark.parametrize(
    "options",
    [
        {"user_fanouts": (0, 1)},
        {"item_fanouts": (1, 0)},
        {"user_fanouts": (-2, 1)},
        {"item_fanouts": (5, -10)},
        {"user_fanouts": (), "item_fanouts": (5, 5)},
        {"user_fanouts": (5,), "item_fanouts": (5, 5)},
        {"user_fanouts": 5, "item_fanouts": (5, 5)},
        {"user_fanouts": "all"},
        {"item_fanouts": 0},
        {"user_fanouts": ("5", 5)},
        {"user_fanouts": (2.5, 5)},
        {"item_fanouts": (True, 5)},
        {"batch_size": 0},
        {"batch_size": -1},
        {"batch_size": 1.5},
        {"batch_size": "64"},
        {"exclude_targets": "no"},
        {"batch_size": True},
        {"batch_size": "Auto"},
        {"folds": 1},
        {"folds": 0},
        {"folds": 2.5},
        {"folds": True},
        {"folds": "Auto"},
        {"unseen_items": 1.0},
        {"unseen_items": -0.1},
        {"unseen_items": float("nan")},
        {"unseen_items": "auto"},
        {"kind": "fast"},
        {"kind": None},
        {"fanouts": (5, 5)},
        {"batchsize": 64},
    ],
    ids=str,
)
def test_impossible_configurations_are_refused(options):
    with pytest.raises(ValidationError) as caught:
        LoaderConfig(**options)
    assert any(name in str(caught.value) for name in options)


def test_a_configuration_is_read_and_stays_as_it_is():
    config = LoaderConfig(user_fanouts=[3, -1], item_fanouts=[1, 2])  # lists, as TOML gives them
    assert config.user_fanouts == (3, -1)
    assert config.exclude_targets
    with pytest.raises(ValidationError):
        config.batch_size = 5
    assert LoaderConfig().exclude_targets  # the easy way is the safe one


SMALL = 2_000_000  # ratings; up to here all the sampling that helps is cheap


@pytest.mark.parametrize(
    ("num_edges", "folds", "before_the_last", "of_items"),
    [
        (1, (8, 3), (-1, 5), ((10, 10), (3, 3))),
        (SMALL, (8, 3), (-1, 5), ((10, 10), (3, 3))),
        (SMALL + 1, (2, 2), (10, 2), ((3, 1), (1, 1))),
        (10**10, (2, 2), (10, 2), ((3, 1), (1, 1))),
    ],
)
@pytest.mark.parametrize("layers", [0, 1, 2, 3])
def test_what_is_left_to_us_follows_the_ratings_and_the_layers(
    layers, num_edges, folds, before_the_last, of_items, kind
):
    reached = kind == "reached"
    folds, before_the_last, of_items = (
        both[reached] for both in (folds, before_the_last, of_items)
    )
    found = config_of(kind).resolved(num_edges, 100, layers)
    assert found.folds == folds
    of_users = [before_the_last] * (layers - 1) + [-1] * (layers > 0)
    of_items = [of_items[0]] * (layers - 1) + [of_items[1]] * (layers > 0)
    assert found.fanouts == list(zip(of_users, of_items, strict=True))
    assert found.batch_size == config_of(kind).edges_a_batch(num_edges, reached=reached)
    assert found.resolved(7, 8, 9) == found  # nothing is left to us any more
    assert LoaderConfig.model_validate(found.model_dump()) == found


@pytest.mark.parametrize(
    ("num_edges", "num_items", "items"),
    [
        (46_000_000, 16_872, "all"),  # the anime
        (100_000, 1_682, "all"),
        (226_095, 105_096, "reached"),  # Ciao
        (20_000_000, 1_000_000, "reached"),
    ],
)
def test_items_in_reach_are_encoded_where_a_step_has_fewer_ratings(num_edges, num_items, items):
    found = LoaderConfig().resolved(num_edges, num_items)
    assert found.items == items
    plain = LoaderConfig(items="all").resolved(num_edges, num_items)
    assert (plain.batch_size * plain.folds < num_items) == (items == "reached")
    for kind in ("neighbor", "full"):
        assert LoaderConfig(kind=kind).resolved(num_edges, num_items).items == "all"


def test_what_is_given_is_not_resolved():
    given = LoaderConfig(
        folds=3,
        folds_by="chance",
        user_fanouts=(5, 6),
        item_fanouts=(7, 8),
        batch_size=9,
        items="all",
    )
    assert given.resolved(10, 1_000) == given
    half = LoaderConfig(user_fanouts=(5, 6)).resolved(SMALL + 1, 100)
    assert half.fanouts == [(5, 3), (6, 1)]
    with pytest.raises(ValueError, match="resolved"):
        LoaderConfig(user_fanouts=(5, 6)).fanouts  # noqa: B018


def test_a_loader_resolves_what_is_left_to_it(kind, data):
    config = config_of(kind, exclude_targets=False)
    loader = make_loader(kind, data.graph, data.biases, config)
    assert loader.config == config.resolved(650, data.num_items)
    batch = next(iter(loader))
    assert len(batch.layers) == 2
    counts = batch.layers[0].to_items.offsets.diff()
    assert int(counts.max()) <= 10 and len(batch.layers[1].to_users.neighbours) > 0


def test_a_batch_size_left_to_us_is_one_and_one_that_is_given_stays(kind, data):
    for num_edges in (1, 650, 10**5, 10**7, 10**10):
        assert config_of(kind, batch_size=77).edges_a_batch(num_edges) == 77
        assert 1 <= config_of(kind).edges_a_batch(num_edges) <= 1 << 20
    batches = list(data.loader(kind, batch_size="auto"))
    assert sorted(torch.cat([batch.edges for batch in batches]).tolist()) == list(range(650))


def test_a_batch_of_all_ratings_leaves_no_message():
    loader = small_loader("neighbor", [0, 0, 1], [0, 1, 1], [2, 5, 9], 2, 2)
    (batch,) = loader
    assert all_message_pairs(batch) == []
    assert sorted(target_pairs(batch)) == [(0, 0), (0, 1), (1, 1)]
    # Nothing is left to know of the nodes: no bias, no degree.
    assert batch.user_inputs.abs().max() < 1e-6
    assert batch.item_inputs.abs().max() < 1e-6
    assert batch.baselines.tolist() == pytest.approx([19 / 3] * 3, abs=1e-5)


def test_a_single_rating():
    (batch,) = small_loader("neighbor", [0], [0], [4], 1, 1)
    assert target_pairs(batch) == [(0, 0)]
    assert batch.ratings.tolist() == [5]
    assert batch.baselines.tolist() == [5]
    assert all_message_pairs(batch) == []


def test_one_user_and_nodes_without_ratings():
    loader = small_loader("neighbor", [2, 2, 2], [0, 3, 4], [1, 5, 9], 5, 7, batch_size=1)
    edges = []
    for batch in loader:
        ((user, item),) = target_pairs(batch)
        edges += batch.edges.tolist()
        assert user == 2
        others = {0, 3, 4} - {item}
        assert set(batch.item_nodes.tolist()) == {0, 3, 4}
        assert batch.user_nodes.tolist() == [2]
        last = batch.layers[-1]
        assert last.to_items.offsets.tolist() == [0, 0]  # the item's one rater was the target's
        pairs = message_pairs(True, last.to_users, batch.user_nodes, batch.item_nodes)
        assert {found for _, found in pairs} == others
    assert sorted(edges) == [0, 1, 2]


# --- shared among processes ----------------------------------------------------------------------


def loader_of(kind, users, items, num_users, num_items, *, world=ALONE, seed=0, **config):
    """A loader as it is, which yields None where a rank has no target."""
    users, items = np.asarray(users), np.asarray(items)
    codes = (3 * users + 5 * items) % 10
    graph = build_graph(users, items, codes, num_users=num_users, num_items=num_items, scale=SCALE)
    config = config_of(kind, **{**FANOUTS[0], "folds": 2, **config})
    biases = fit_biases(graph)
    if kind == "neighbor":
        return NeighborEdgeLoader(graph, biases, config, seed, world)
    return UserBatchLoader(graph, biases, config, seed, world=world)


def of_ranks(size, *ratings, **config):
    return [loader_of(*ratings, world=World(rank, size), **config) for rank in range(size)]


def targets_of(batch):
    return [] if batch is None else batch.edges.tolist()


def pairs_of_rank(batch, num_items):
    """The (user, item) of each target and of each message, of a batch that may share the items."""
    if not batch.items_are_shared:
        return target_pairs(batch), all_message_pairs(batch)
    users = batch.user_nodes[: batch.layers[-1].to_users.num_destinations][batch.users]
    messages, nodes = [], batch.user_nodes
    every = torch.arange(1 << 10)  # items go by their number in the data set
    for layer in batch.layers:
        destinations = nodes[: layer.to_users.num_destinations]
        messages += message_pairs(True, layer.to_users, destinations, every)
        messages += message_pairs(False, layer.to_items, batch.item_nodes, nodes)
        nodes = destinations
    items = torch.cat((torch.arange(num_items), batch.unseen))[batch.items]
    return list(zip(users.tolist(), items.tolist(), strict=True)), messages


def hidden_of(batches):
    """The targets of some ranks' batches whose items count as unseen."""
    found = []
    for batch in (batch for batch in batches if batch is not None and len(batch.unseen)):
        first = int(batch.items.max()) + 1 - len(batch.unseen)  # each of them is somebody's target
        found += batch.edges[batch.items >= first].tolist()
    return sorted(found)


def same_or_both_none(one, other):
    return one is other if one is None or other is None else same(one, other)


@st.composite
def shared_ratings(draw):
    """Ratings of few users or many, a prime number of them, or half of them one user's."""
    shape = draw(st.sampled_from(["any", "prime", "few users", "half one user's"]))
    num_users = draw(st.integers(1, 2) if shape == "few users" else st.integers(1, 11))
    num_items = draw(st.integers(1, 9))
    pairs = st.tuples(st.integers(0, num_users - 1), st.integers(0, num_items - 1))
    known = draw(st.sets(pairs, min_size=1, max_size=37))
    if shape == "half one user's":
        rest = sorted(pair for pair in known if pair[0] != 0)
        known = {*rest[: num_items + 1], *((0, item) for item in range(num_items))}
    if shape == "prime":
        count = max(n for n in (1, 2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37) if n <= len(known))
        known = sorted(known)[:count]
    users, items = zip(*sorted(known), strict=True)
    return users, items, num_users, num_items


@pytest.mark.parametrize("loader", sorted(LOADERS))
@given(shared_ratings(), st.integers(1, 5), st.integers(1, 40), st.integers(0, 2), st.data())
@settings(max_examples=40, deadline=None)
def test_ranks_share_each_step_of_a_single_process(loader, ratings, size, batch_size, epoch, draw):
    config = {"batch_size": batch_size, "folds": draw.draw(st.integers(2, 4)), "seed": 3}
    config |= draw.draw(st.sampled_from([FANOUTS[0], FANOUTS[1], FANOUTS[3]]))
    config["unseen_items"] = draw.draw(st.sampled_from([0.0, 0.3, 0.99]))
    alone = loader_of(loader, *ratings, **config)
    loaders = of_ranks(size, loader, *ratings, **config)
    alone.set_epoch(epoch)
    for one in loaders:
        one.set_epoch(epoch)
    steps = list(alone)
    shares = [list(one) for one in loaders]
    assert {len(one) for one in loaders} == {len(alone)} == {len(steps)}
    assert {len(batches) for batches in shares} == {len(steps)}
    known = sorted(zip(ratings[0], ratings[1], strict=True))
    every = []
    for step, *batches in zip(steps, *shares, strict=True):
        found = [edge for batch in batches for edge in targets_of(batch)]
        assert sorted(found) == sorted(targets_of(step))
        assert hidden_of([step]) == hidden_of(batches)
        every += found
        together = {known[edge] for edge in found}
        for batch in (batch for batch in batches if batch is not None):
            targets, messages = pairs_of_rank(batch, ratings[3])
            assert targets == [known[edge] for edge in batch.edges.tolist()]
            assert set(messages) <= set(known)
            # Where ranks exchange items, another's targets would come back by way of these.
            kept_out = together if batch.items_are_shared else set(targets)
            assert not set(messages) & kept_out
    assert sorted(every) == list(range(len(known)))
    if size == 1:
        assert all(itertools.starmap(same_or_both_none, zip(steps, shares[0], strict=True)))
    # Begun anywhere, an epoch goes on as the whole of it does.
    start = draw.draw(st.integers(0, len(steps)))
    for one, batches in zip(loaders, shares, strict=True):
        one.set_epoch(epoch, start)
        assert len(one) == len(steps)
        tail = list(itertools.islice(one, len(steps) - start))
        assert len(tail) == len(steps) - start
        assert all(itertools.starmap(same_or_both_none, zip(tail, batches[start:], strict=True)))


def test_an_epoch_begun_at_its_end_has_no_batch(kind, data):
    config = config_of(kind, batch_size=100, **FANOUTS[0])
    make = NeighborEdgeLoader if kind == "neighbor" else UserBatchLoader
    loader = make(data.graph, data.biases, config)
    loader.set_epoch(0, len(loader))
    assert list(loader) == []
    loader.set_epoch(1)
    assert len(list(loader)) == len(loader)


def test_ranks_sample_each_for_itself_and_otherwise_in_each_epoch(kind, data):
    """Ranks that drew the same numbers would sample alike, and an epoch like the one before."""
    ratings = (kind, data.users, data.items, data.num_users, data.num_items)
    config = {"batch_size": 300, "exclude_targets": False, "item_fanouts": (3,)}
    config["user_fanouts"] = (-1,)  # so that with kind users all ranks draw as many numbers

    def raters(loader, epoch):
        loader.set_epoch(epoch)
        return [
            frozenset(message_pairs(*part[1:]))
            for batch in loader
            for part in directions(batch)
            if not part[1]
        ]

    loaders = of_ranks(3, *ratings, **config)
    drawn = [sampled for one in loaders for epoch in range(2) for sampled in raters(one, epoch)]
    assert len(drawn) >= 12
    assert len(set(drawn)) == len(drawn)
    assert raters(of_ranks(3, *ratings, **config)[2], 1) == raters(loaders[2], 1)
