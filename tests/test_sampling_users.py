"""What `UserBatchLoader` promises beyond an `EdgeBatch`: whole users, folds, even samples.

The contract that it shares with DGL's loader is held in test_sampling.
"""

import itertools
import math
from functools import partial

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
    same_batches,
    small_loader,
    target_pairs,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from dglrec.biases import fit_biases
from dglrec.distributed import World
from dglrec.graph import build_graph
from dglrec.infer import embed_all
from dglrec.nn import ModelConfig, RatingModel
from dglrec.sampling import LoaderConfig, UserBatchLoader
from dglrec.schema import RatingScale
from dglrec.train import RatingObjective, TrainConfig, TrainingStep

ALL = {"user_fanouts": (-1,), "item_fanouts": (-1,)}


@pytest.fixture(scope="module")
def data():
    return Ratings()


def epochs_of(loader, count):
    """(epoch, batch) of the first epochs."""
    for epoch in range(count):
        loader.set_epoch(epoch)
        for batch in loader:
            yield epoch, batch


def step_users(batch):
    """The users of a step: the last layer's destinations."""
    return batch.user_nodes[: batch.layers[-1].to_users.num_destinations].tolist()


def folds_of(loader):
    """Targets of each pass of an epoch as sets of pairs: a pass ends where a user comes again."""
    passes, seen = [set()], set()
    for batch in loader:
        users = set(step_users(batch))
        if users & seen:
            passes.append(set())
            seen = set()
        seen |= users
        passes[-1] |= set(target_pairs(batch))
    return passes


def star(degrees, seed=0, num_items=None):
    """Ratings of users with the given degrees, of random items."""
    generator = np.random.default_rng(seed)
    num_items = num_items or max(degrees)
    users = np.repeat(np.arange(len(degrees)), degrees)
    items = np.concatenate([generator.permutation(num_items)[:degree] for degree in degrees])
    return users, items, generator.integers(0, 10, len(users)), len(degrees), num_items


# --- whole users, folds, steps -------------------------------------------------------------------


@pytest.mark.parametrize("folds", [2, 3, 5])
@pytest.mark.parametrize("batch_size", [1, 40, 10**6])
def test_a_steps_users_are_whole(data, folds, batch_size):
    """All of a user's ratings are the step's: its targets, and what stands beside them."""
    loader = data.loader(batch_size=batch_size, folds=folds, **FANOUTS[3])
    of_user = {user: {p for p in data.pairs if p[0] == user} for user in range(data.num_users)}
    for batch in loader:
        users, targets = step_users(batch), target_pairs(batch)
        assert len(set(users)) == len(users)
        _, _, block, destinations, sources = next(
            part for part in directions(batch) if part[0] == 1 and part[1]
        )
        support = message_pairs(True, block, destinations, sources)
        own = set().union(*(of_user[user] for user in users))
        assert set(targets) | set(support) == own
        assert len(targets) + len(support) == len(own)


@pytest.mark.parametrize("folds", [2, 3, 4, 5])
def test_every_rating_is_a_target_in_one_pass_of_each_epoch(data, folds):
    loader = data.loader(batch_size=30, folds=folds, **FANOUTS[0])
    for epoch in range(3):
        loader.set_epoch(epoch)
        passes = folds_of(loader)
        assert len(passes) == folds
        assert sum(len(targets) for targets in passes) == 650
        assert set().union(*passes) == set(data.pairs)


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_folds_are_balanced_over_edges_users_and_items(folds):
    """Within five standard deviations of an even deal, over all edges and over each node's."""
    ratings = Ratings(num_users=120, num_items=90, edges=6_000, noise_only=True)
    loader = ratings.loader(batch_size=10**6, folds=folds, **FANOUTS[0])
    share = 1 / folds
    squared = {"user": [], "item": []}
    for _, batch in epochs_of(loader, 4):
        pairs = np.array(target_pairs(batch))
        assert abs(len(pairs) - 6_000 * share) < 5 * math.sqrt(6_000 * share * (1 - share))
        for side, (name, degrees) in enumerate(
            (("user", ratings.graph.by_user.degrees), ("item", ratings.graph.by_item.degrees))
        ):
            counts = np.bincount(pairs[:, side], minlength=len(degrees))[degrees > 0]
            degrees = degrees[degrees > 0]
            scores = (counts - degrees * share) / np.sqrt(degrees * share * (1 - share))
            assert np.abs(scores).max() < 5
            squared[name].append(np.mean(scores**2))
    # Neither dealt out evenly, which would tell of a target by its absence, nor in clumps.
    for means in squared.values():
        assert 0.8 < np.mean(means) < 1.2


def test_folds_of_two_epochs_or_seeds_are_independent():
    ratings = Ratings(num_users=120, num_items=90, edges=6_000, noise_only=True)

    def folds(epoch, seed=0, folds=4):
        loader = ratings.loader(batch_size=10**6, folds=folds, seed=seed, **FANOUTS[0])
        loader.set_epoch(epoch)
        number = {p: fold for fold, batch in enumerate(loader) for p in target_pairs(batch)}
        return np.array([number[pair] for pair in ratings.pairs])

    deals = [folds(0), folds(1), folds(2), folds(100), folds(0, seed=1), folds(1, seed=1)]
    bound = 5 * math.sqrt(6_000 * 0.25 * 0.75)
    for one, other in itertools.combinations(deals, 2):
        for turn in range(4):  # nor are they the same folds, renamed
            assert abs(np.sum((one + turn) % 4 == other) - 6_000 / 4) < bound
    # Nor do neighbours in the table of pairs share a fold.
    assert abs(np.sum(deals[0][1:] == deals[0][:-1]) - 6_000 / 4) < bound


def test_a_pass_has_each_user_with_ratings_once_and_no_other(data):
    loader = data.loader(batch_size=40, **FANOUTS[0])
    rated = [user for user, degree in enumerate(data.graph.by_user.degrees) if degree]
    assert len(rated) < data.num_users
    orders = []
    for fold in range(2):
        orders.append([user for step in loader._schedule(0, fold) for user in step.tolist()])
        assert sorted(orders[-1]) == rated
    orders.append([user for step in loader._schedule(1, 0) for user in step.tolist()])
    assert len({tuple(order) for order in [*orders, rated]}) == 4  # each shuffled anew
    for batch in data.loader(exclude_targets=False, **FANOUTS[1]):
        assert set(batch.user_nodes.tolist()) <= set(rated)


@pytest.mark.parametrize("folds", [2, 5])
@pytest.mark.parametrize("batch_size", [7, 100, 333])
def test_steps_of_a_pass_are_about_equal_in_edges(folds, batch_size):
    ratings = Ratings(num_users=400, num_items=60, edges=5_000, noise_only=True)
    loader = ratings.loader(batch_size=batch_size, folds=folds, **FANOUTS[0])
    degrees = ratings.graph.by_user.degrees
    for fold in range(folds):
        sizes = [int(degrees[step.numpy()].sum()) for step in loader._schedule(0, fold)]
        wanted = 5_000 / -(-5_000 // (batch_size * folds))
        assert sum(sizes) == 5_000
        assert max(abs(size - wanted) for size in sizes) <= degrees.max()
        assert len(sizes) * folds <= len(loader)
        if wanted > 3 * degrees.max():
            assert len(sizes) * folds == len(loader)
    targets = [len(batch.edges) for batch in loader]
    assert np.mean(targets) <= 1.1 * batch_size or batch_size < 30


@pytest.mark.parametrize("folds", [2, 3])
@pytest.mark.parametrize("batch_size", [1, 2, 10, 64, 325, 649, 650, 10**9])
def test_there_are_never_more_batches_than_the_length_says(data, batch_size, folds):
    loader = data.loader(batch_size=batch_size, folds=folds, **FANOUTS[0])
    for epoch in range(5):
        loader.set_epoch(epoch)
        sizes = [len(batch.edges) for batch in loader]
        assert 0 < len(sizes) <= len(loader)
        assert sum(sizes) == 650
    if batch_size >= 650:
        assert len(sizes) == len(loader) == folds


def test_an_epoch_under_way_is_not_changed_by_the_next(data):
    """A loop may prepare its next epoch early; the folds that it is in must stay."""
    loader = data.loader(**FANOUTS[0])
    batches = iter(loader)
    edges = next(batches).edges.tolist()
    loader.set_epoch(1)
    edges += [edge for batch in batches for edge in batch.edges.tolist()]
    assert sorted(edges) == list(range(650))


def test_two_iterations_side_by_side_do_not_touch_each_other(data):
    """Scratch space is the loader's."""
    loader = data.loader()
    expected = list(loader)
    first, second = iter(loader), iter(loader)
    found, late = [next(first), next(first)], []
    for batch in second:
        late.append(batch)
        found += list(itertools.islice(first, 1))
    assert same_batches(found, expected)
    assert same_batches(late, expected)


# --- small and lopsided graphs -------------------------------------------------------------------


@pytest.mark.parametrize("folds", [2, 3, 5])
@pytest.mark.parametrize("fanouts", FANOUTS[:4])
def test_users_of_one_rating(fanouts, folds):
    """Nothing is left of them: a user without support is its bias of 0 and its degree of 0."""
    count = 40
    loader = small_loader(
        "users",
        np.arange(count),
        np.arange(count) % 7,
        np.arange(count) % 10,
        count,
        7,
        batch_size=5,
        folds=folds,
        **fanouts,
    )
    edges = []
    for batch in loader:
        assert leaked(batch) == 0
        edges += batch.edges.tolist()
        last = batch.layers[-1].to_users
        own = batch.users
        assert torch.equal(last.offsets.diff()[own], torch.zeros_like(own))
        assert last.degrees[own].abs().max() == 0
        assert batch.user_inputs[own].abs().max() < 1e-6
    assert sorted(edges) == list(range(count))


@pytest.mark.parametrize("degree", [1, 2, 3, 30])
@pytest.mark.parametrize("batch_size", [1, 4, 1000])
def test_one_user_only(degree, batch_size):
    loader = small_loader("users", *star([degree]), batch_size=batch_size)
    edges = []
    for batch in loader:
        assert step_users(batch) == batch.user_nodes.tolist() == [0]
        assert leaked(batch) == 0
        items = {item for _, item in target_pairs(batch)}
        assert {item for _, item in all_message_pairs(batch)} == set(range(degree)) - items
        # Who else rated the targets' items? Nobody.
        assert torch.all(batch.layers[-1].to_items.offsets.diff()[sorted(items)] == 0)
        edges += batch.edges.tolist()
    assert sorted(edges) == list(range(degree))


@pytest.mark.parametrize("batch_size", [1, 10, 60, 1000])
def test_a_user_with_half_of_all_edges(batch_size):
    loader = small_loader("users", *star([2] * 50 + [100]), batch_size=batch_size, **FANOUTS[1])
    for epoch in range(3):
        loader.set_epoch(epoch)
        edges, with_it = [], 0
        for batch in loader:
            assert leaked(batch) == 0
            edges += batch.edges.tolist()
            with_it += 50 in step_users(batch)
        assert sorted(edges) == list(range(200))
        assert with_it == 2
        assert len(edges) <= 200


def test_nodes_without_ratings_are_there_as_items_and_nowhere_as_users():
    loader = small_loader("users", [2, 2, 2, 4], [0, 3, 4, 3], [1, 5, 9, 2], 6, 7, batch_size=1)
    for _, batch in epochs_of(loader, 4):
        assert set(batch.user_nodes.tolist()) <= {2, 4}
        assert batch.item_nodes.tolist() == list(range(7))
        for layer in batch.layers:
            counts = layer.to_items.offsets.diff()
            assert counts[[1, 2, 5, 6]].tolist() == [0] * 4
            assert layer.to_items.degrees[[1, 2, 5, 6]].tolist() == [0] * 4
        assert batch.item_inputs[[1, 2, 5, 6]].abs().max() == 0


@pytest.mark.parametrize("kind", sorted(LOADERS))
def test_one_item_only(kind):
    loader = small_loader(kind, range(20), [0] * 20, np.arange(20) % 10, 20, 1, batch_size=3)
    edges = []
    for batch in loader:
        assert leaked(batch) == 0
        users = {user for user, _ in target_pairs(batch)}
        assert {user for user, _ in all_message_pairs(batch)} == set(range(20)) - users
        edges += batch.edges.tolist()
    assert sorted(edges) == list(range(20))


@pytest.mark.parametrize("batch_size", [1, 3, 10**6])
def test_all_items_are_nodes_in_their_order(data, batch_size):
    for batch in itertools.islice(data.loader(batch_size=batch_size), 20):
        assert batch.item_nodes.tolist() == list(range(data.num_items))
        assert all(layer.to_items.num_destinations == data.num_items for layer in batch.layers)


@pytest.mark.parametrize("levels", [900, 40_000])
@pytest.mark.parametrize("kind", sorted(LOADERS))
def test_a_scale_of_more_than_256_levels(kind, levels):
    scale = RatingScale(1, levels, 1)
    users, items, _, num_users, num_items = star([5] * 30, num_items=20)
    codes = np.random.default_rng(0).integers(0, scale.levels, len(users))
    graph = build_graph(users, items, codes, num_users=num_users, num_items=num_items, scale=scale)
    assert graph.by_user.codes.dtype == np.uint16
    expected = scale.decode(graph.by_user.codes)
    config = config_of(kind, batch_size=10, **FANOUTS[0])
    for batch in make_loader(kind, graph, fit_biases(graph), config):
        assert batch.ratings.tolist() == expected[batch.edges.numpy()].tolist()


# --- shared among processes ----------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize(
    "degrees",
    [
        [1] * 3,
        [7],
        [2] * 47,
        [2] * 50 + [100],
        list(range(1, 40)),
        [60, 1, 1, 1, 60, 2, 30],
        [1] * 200 + [20] * 20,
    ],
    ids=["few users", "one user", "prime", "half one user's", "rising", "uneven", "two kinds"],
)
@pytest.mark.parametrize("batch_size", [40, 10**6])
def test_ranks_share_a_steps_users_about_equally_in_edges(degrees, size, batch_size):
    users, items, codes, num_users, num_items = star(degrees)
    graph = build_graph(users, items, codes, num_users=num_users, num_items=num_items, scale=SCALE)
    config = LoaderConfig(items="all", batch_size=batch_size, folds=2, **ALL)
    alone, *loaders = (
        UserBatchLoader(graph, fit_biases(graph), config, world=world)
        for world in (World(), *(World(rank, size) for rank in range(size)))
    )
    for epoch in range(3):
        for loader in (alone, *loaders):
            loader.set_epoch(epoch)
        for step, *batches in zip(alone, *loaders, strict=True):
            assert {batch is None for batch in batches} == {step is None}
            if step is None:
                continue
            shares = [step_users(batch) for batch in batches]
            assert [user for share in shares for user in share] == step_users(step)
            edges = [int(graph.by_user.degrees[share].sum()) for share in shares]
            largest = int(graph.by_user.degrees[step_users(step)].max())
            mean = sum(edges) / size
            assert all(abs(own - mean) < largest + 0.5 for own in edges)


def test_ranks_share_the_items_and_read_all_support_of_their_users(data):
    config = LoaderConfig(items="all", batch_size=200, folds=2, **ALL)
    loaders = [
        UserBatchLoader(data.graph, data.biases, config, world=World(rank, 4)) for rank in range(4)
    ]
    rated = {user: {p for p in data.pairs if p[0] == user} for user in range(data.num_users)}
    for batches in zip(*loaders, strict=True):
        nodes = [batch.item_nodes.tolist() for batch in batches]
        assert [*itertools.chain(*nodes)] == list(range(data.num_items))
        assert max(map(len, nodes)) == -(-data.num_items // 4)
        every = torch.arange(data.num_items)
        for batch in batches:
            assert batch.items_are_shared
            (layer,) = batch.layers
            own = torch.tensor(step_users(batch))
            support = message_pairs(True, layer.to_users, own, every)
            items = torch.cat((every, batch.unseen))[batch.items]
            targets = zip(own[batch.users].tolist(), items.tolist(), strict=True)
            assert {*support, *targets} == set().union(*(rated[user] for user in own.tolist()))
            assert layer.to_items.num_destinations == len(batch.item_nodes)


@st.composite
def random_graphs(draw):
    num_users, num_items = draw(st.integers(1, 8)), draw(st.integers(1, 8))
    pairs = draw(
        st.sets(st.tuples(st.integers(0, num_users - 1), st.integers(0, num_items - 1)), min_size=1)
    )
    users, items = zip(*sorted(pairs), strict=True)
    layers = draw(st.integers(1, 3))
    fanouts = st.tuples(*[st.sampled_from([-1, 1, 2, 3, 9])] * layers)
    config = {
        "batch_size": draw(st.integers(1, 40)),
        "folds": draw(st.integers(2, 5)),
        "user_fanouts": draw(fanouts),
        "item_fanouts": draw(fanouts),
    }
    codes = [(3 * user + 5 * item) % 10 for user, item in zip(users, items, strict=True)]
    return (users, items, codes, num_users, num_items), config


@given(random_graphs(), st.integers(0, 3))
@settings(max_examples=100, deadline=None)
def test_any_graph_has_no_leak_and_each_edge_once(graph, epoch):
    ratings, config = graph
    loader = small_loader("users", *ratings, **config)
    loader.set_epoch(epoch)
    known = set(zip(ratings[0], ratings[1], strict=True))
    edges, batches = [], 0
    for batch in loader:
        batches += 1
        edges += batch.edges.tolist()
        assert leaked(batch) == 0
        targets = target_pairs(batch)
        assert targets == [sorted(known)[edge] for edge in batch.edges.tolist()]
        assert set(all_message_pairs(batch)) <= known
        assert len(set(batch.user_nodes.tolist())) == len(batch.user_nodes)
        left = known - set(targets)
        for number, to_users, block, destinations, sources in directions(batch):
            pairs = message_pairs(to_users, block, destinations, sources)
            assert len(set(pairs)) == len(pairs)
            side = 0 if to_users else 1
            degrees = [sum(p[side] == node for p in left) for node in destinations.tolist()]
            assert block.degrees.tolist() == degrees
            fanout = config["user_fanouts" if to_users else "item_fanouts"][number]
            if to_users and fanout > 0:
                assert block.offsets.diff().tolist() == [min(d, fanout) for d in degrees]
    assert sorted(edges) == list(range(len(known)))
    assert batches <= len(loader)


# --- samples -------------------------------------------------------------------------------------

FANOUT = 6
DEGREES = [1, 5, 6, 7, 8, 11, 12, 13, 20, 64, 101]  # below, at, just above, far above the fan-out


def drawn(loader, count, number, to_users, turned=False):
    """[batches, users or items, the others] which edges a layer's block holds, over epochs."""
    shape = (len(loader._by_user.counts), loader._num_items)
    out = []
    for _, batch in epochs_of(loader, count):
        for layer, direction, block, destinations, sources in directions(batch):
            if (layer, direction) == (number, to_users):
                table = np.zeros(shape, dtype=np.int64)
                pairs = np.array(message_pairs(to_users, block, destinations, sources))
                np.add.at(table, (pairs[:, 0], pairs[:, 1]), 1)
                out.append(table.T if turned else table)
    return np.stack(out)


def node_draws(to_users, count=400):
    """[batches, nodes of `DEGREES`, others]: samples of one side, nothing kept out."""
    users, items, codes, num_users, num_items = star(DEGREES)
    if not to_users:
        users, items, num_users, num_items = items, users, num_items, num_users
    loader = small_loader(
        "users",
        users,
        items,
        codes,
        num_users,
        num_items,
        batch_size=10**6,
        user_fanouts=(FANOUT,),
        item_fanouts=(FANOUT,),
        exclude_targets=False,
    )
    rated = np.zeros((num_users, num_items), dtype=bool)
    rated[users, items] = True
    return drawn(loader, count // 2, 0, to_users, not to_users), rated if to_users else rated.T


@pytest.mark.parametrize("to_users", [True, False])
def test_samples_are_without_replacement_of_the_right_size_and_even(to_users):
    draws, rated = node_draws(to_users)
    assert draws.max() == 1
    assert not draws[:, ~rated].any()
    for node, degree in enumerate(DEGREES):
        of_node = draws[:, node, rated[node]]
        assert np.all(of_node.sum(1) == min(degree, FANOUT))
        counts = of_node.sum(0)
        share = min(degree, FANOUT) / degree
        deviation = math.sqrt(len(draws) * share * (1 - share))
        assert np.all(np.abs(counts - len(draws) * share) <= 5 * deviation), degree
        if degree > FANOUT:  # chi-square over its degrees of freedom, about 1 where even
            chi = np.sum((counts - len(draws) * share) ** 2) / deviation**2 / degree
            assert chi < 1 + 5 * math.sqrt(2 / degree), degree
            # Each start of its even steps is met.
            starts = degree // math.gcd(degree, FANOUT)
            assert len(np.unique(of_node, axis=0)) >= min(starts, len(draws) // 10)


@pytest.mark.parametrize("to_users", [True, False])
@pytest.mark.parametrize("degree", [8, 11, 18])
def test_samples_of_different_nodes_are_not_in_lockstep(degree, to_users):
    """Nodes with the same neighbours draw differently; what one draws tells nothing of another."""
    nodes = 12
    users, items = np.divmod(np.arange(nodes * degree), degree)
    if not to_users:
        users, items = items, users
    shape = (nodes, degree) if to_users else (degree, nodes)
    loader = small_loader(
        "users",
        users,
        items,
        np.arange(len(users)) % 10,
        *shape,
        batch_size=10**6,
        user_fanouts=(FANOUT,),
        item_fanouts=(FANOUT,),
        exclude_targets=False,
    )
    draws = drawn(loader, 100, 0, to_users, not to_users)
    share = FANOUT / degree
    expected = len(draws) * FANOUT * share  # common picks of two independent samples
    common = np.einsum("bik,bjk->ij", draws, draws)[~np.eye(nodes, dtype=bool)]
    assert common.mean() == pytest.approx(expected, rel=0.03)
    assert np.abs(common - expected).max() < 6 * math.sqrt(expected)
    # Nor from batch to batch.
    following = np.einsum("bik,bik->i", draws[1:], draws[:-1])
    assert following.mean() == pytest.approx(expected, rel=0.06)


def test_layers_are_sampled_independently():
    """A node that two layers read is not given the same sample twice."""
    loader = small_loader(
        "users",
        *star([30] * 10),
        batch_size=10**6,
        user_fanouts=(FANOUT, FANOUT),
        item_fanouts=(2, 2),
        exclude_targets=False,
    )
    first, second = (drawn(loader, 50, number, True) for number in (0, 1))
    common = np.sum(first * second) / (len(first) * 10)
    assert common == pytest.approx(FANOUT * FANOUT / 30, rel=0.1)


def test_what_is_left_of_a_users_ratings_is_sampled_evenly():
    """With targets kept out, each rating is in a step's own sample as often as another."""
    draws = []
    loader = small_loader(
        "users",
        *star([40] * 6),
        batch_size=10**6,
        user_fanouts=(FANOUT,),
        item_fanouts=(2,),
    )
    draws = drawn(loader, 300, 0, True)
    assert np.all(draws.sum(2) == FANOUT)
    expected = len(draws) * FANOUT / 40
    deviation = math.sqrt(expected * (1 - FANOUT / 40))
    assert np.abs(draws.sum(0) - expected).max() < 5 * deviation


def test_raters_that_are_targets_are_dropped_from_items_and_the_others_kept_evenly():
    loader = small_loader(
        "users",
        *star([12] * 40, num_items=12),
        batch_size=10**6,
        user_fanouts=(2,),
        item_fanouts=(10,),
    )
    draws = drawn(loader, 150, 0, False)
    sizes = draws.sum(1)  # of ten sampled raters about half are targets of the pass
    assert sizes.max() <= 10
    assert sizes.mean() == pytest.approx(5, rel=0.03)
    expected = len(draws) * 5 / 40
    assert np.abs(draws.sum(0) - expected).max() < 5 * math.sqrt(expected)


def test_many_edges_on_several_threads_give_the_same_batches():
    """More than torch computes on one thread."""
    generator = np.random.default_rng(0)
    pairs = generator.choice(3_000 * 400, 120_000, replace=False)
    graph = build_graph(
        pairs // 400,
        pairs % 400,
        generator.integers(0, 10, len(pairs)),
        num_users=3_000,
        num_items=400,
        scale=SCALE,
    )
    biases = fit_biases(graph)
    config = LoaderConfig(batch_size=60_000, user_fanouts=(5, 30), item_fanouts=(50, 100))
    expected = list(make_loader("users", graph, biases, config))
    torch.set_num_threads(4)
    try:
        assert same_batches(expected, make_loader("users", graph, biases, config))
    finally:
        torch.set_num_threads(1)
    edges = torch.cat([batch.edges for batch in expected])
    assert torch.equal(edges.sort().values, torch.arange(len(pairs)))


# --- what it is for ------------------------------------------------------------------------------


class Planted:
    """Ratings of biases, two factors and noise; a sixth of them held out."""

    def __init__(self, num_users=200, num_items=100, edges=10_000):
        generator = np.random.default_rng(4)
        pairs = generator.choice(num_users * num_items, edges, replace=False)
        users, items = np.divmod(pairs, num_items)
        factors = generator.normal(size=(num_users, 2)), generator.normal(size=(num_items, 2))
        values = 5.5 + 1.2 * np.sum(factors[0][users] * factors[1][items], 1)
        values += generator.normal(0, 0.5, num_users)[users]
        values += generator.normal(0, 0.5, num_items)[items]
        values += generator.normal(0, 0.5, edges)
        codes = SCALE.encode(np.clip(np.round(values), 1, 10))
        held = edges // 6
        self.held = torch.from_numpy(users[:held]), torch.from_numpy(items[:held])
        self.answers = torch.from_numpy(SCALE.decode(codes[:held]))
        self.graph = build_graph(
            users[held:],
            items[held:],
            codes[held:],
            num_users=num_users,
            num_items=num_items,
            scale=SCALE,
        )
        self.biases = fit_biases(self.graph)

    def rmse(self, residuals):
        """Of held-out ratings, predicted as their biases and what a model adds."""
        found = self.biases.predict(*self.held) + residuals
        return math.sqrt((found.clamp(1, 10) - self.answers).square().mean())

    def train(self, kind, exclude_targets=True, epochs=10, **config):
        """RMSE of the last epoch's targets, and of the held-out ratings after it."""
        torch.manual_seed(0)
        features = torch.zeros(self.graph.num_items, 0)
        shape = ModelConfig(embedding_size=16, decoder_size=16, dropout=0.0, **config)
        model = RatingModel(shape, self.graph.num_users, features)
        config = config_of(
            kind,
            batch_size=150,
            folds=5,  # with fewer, users learn from a half of what they are known by later
            user_fanouts=(5, 20),
            item_fanouts=(5, 10),
            unseen_items=0.0,  # of an item without features nothing else would be known
            exclude_targets=exclude_targets,
        )
        loader = make_loader(kind, self.graph, self.biases, config)
        loss = partial(torch.nn.functional.mse_loss, reduction="none")
        steps = len(loader) * epochs
        step = TrainingStep(model, TrainConfig(learning_rate=2e-2), RatingObjective(loss), steps)
        squared = [0.0] * epochs
        for epoch, batch in epochs_of(loader, epochs):
            squared[epoch] += float(step(batch).costs.squared)
        with torch.no_grad():
            nodes = embed_all(model, self.graph, self.biases).nodes
            valid = self.rmse(model.decoder(nodes, *self.held))
        return math.sqrt(squared[-1] / self.graph.num_edges), valid


@pytest.fixture(scope="module")
def planted():
    return Planted()


@pytest.fixture(scope="module")
def trained_by_users(planted):
    return planted.train("users")


@pytest.mark.slow
def test_all_loaders_train_the_same_model(planted, trained_by_users):
    baseline = planted.rmse(0)
    _, reference = planted.train("neighbor")
    assert reference < 0.5 * baseline
    for found in (trained_by_users[1], planted.train("reached")[1]):
        assert found < 0.5 * baseline
        assert found == pytest.approx(reference, rel=0.03)


def test_training_errors_are_those_of_unseen_ratings_unless_targets_leak(planted):
    train, valid = planted.train("users", refinement=0)
    assert train > 1.05 * valid  # made earlier, from fewer ratings and neighbours
    train, valid = planted.train("users", exclude_targets=False, refinement=0)
    assert train < 0.98 * valid


def test_with_refinement_too_targets_that_leak_are_known(planted, trained_by_users):
    train, valid = trained_by_users
    assert train > valid
    train, valid = planted.train("users", exclude_targets=False)
    assert train < 0.95 * valid
