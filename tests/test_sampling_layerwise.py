"""Layers of nodes drawn by importance: their expectation, and that no target leaks."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch
from batches import (
    Draws,
    Ratings,
    all_message_pairs,
    check_a_targets_rating_changes_no_prediction_of_its_step,
    directions,
    leaked,
    message_pairs,
    same,
    target_pairs,
    tensors,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dglrec.distributed import World
from dglrec.errors import UsageError
from dglrec.kernels import Excluded, Lists, add_importance, edges_with, parallel
from dglrec.nn.aggregation import aggregate
from dglrec.sampling import LayerwiseLoader, LoaderConfig
from dglrec.sampling.folds import Fold
from dglrec.sampling.importance import draw_systematically, inclusion_chances

FOLDS = 3
USERS, ITEMS = 30, 20


def loader_of(importance, ratings, seed=0, world=None, layers=2, biases=None, **options):
    options = {
        "batch_size": 60,
        "folds": FOLDS,
        "unseen_items": 0.0,
        "layer_users": 8,
        "layer_items": 6,
        **options,
    }
    config = LoaderConfig(kind="layerwise", importance=importance, **options)
    rest = {"layers": layers, **({} if world is None else {"world": world})}
    biases = ratings.biases if biases is None else biases
    return LayerwiseLoader(ratings.graph, biases, config, seed, **rest)


def batches_of(loader, epochs=1):
    for epoch in range(epochs):
        loader.set_epoch(epoch)
        yield from (batch for batch in loader if batch is not None)


@pytest.fixture(params=["fastgcn", "ladies"])
def importance(request):
    return request.param


@pytest.fixture(scope="module")
def few():
    """Of nodes that are drawn about as often, so that few draws tell what is expected."""
    return Ratings(num_users=USERS, num_items=ITEMS, edges=260, seed=3, noise_only=True)


VALUES = torch.from_numpy(np.random.default_rng(1).normal(1, 1, USERS + ITEMS)).float()


def ratings_but(ratings, pairs):
    """float32 [U, I]; 1 for each rating but some."""
    ones = torch.zeros(ratings.num_users, ratings.num_items)
    for pair in set(ratings.pairs) - set(pairs):
        ones[pair] = 1
    return ones


def steps_drawn_again(importance, ratings, draws, world=None, **options):
    """(place, batch, ratings but the targets) of a few steps, each of whose draws are many."""
    whole = loader_of(importance, ratings, **options)
    loader = loader_of(importance, ratings, world=world, **options)
    fold = Fold(whole.seed, 0, 0, FOLDS, ratings.num_items)
    for place, users in enumerate(whole._schedule(0, 0)):
        others = ratings_but(ratings, target_pairs(whole._batch(users, fold, 0)))
        for number in range(draws):
            yield place, loader._batch(users, fold, number), others


@pytest.mark.parametrize("rank", [None, 1])
def test_each_layers_aggregation_is_in_expectation_that_of_all_ratings(importance, few, rank):
    """Of each destination, at each hop and in both directions, also in one of two processes.

    And without weights it is another.
    """
    world = None if rank is None else World(rank, 2)
    sums, means, plain = (Draws(16 * USERS) for _ in range(3))
    for place, batch, ones in steps_drawn_again(importance, few, 120, world):
        for number, to_users, block, nodes, sources in directions(batch):
            first = USERS * (4 * place + 2 * number + to_users)
            others = VALUES[USERS:] if to_users else VALUES[:USERS]
            edges = ones if to_users else ones.T
            whole, degrees = edges @ others, edges.sum(1)
            assert torch.equal(block.degrees, degrees[nodes])
            rows = others[sources].unsqueeze(1)
            found = aggregate(block, rows, "sum").squeeze(1)
            sums.add(first + nodes, found - whole[nodes])
            found = aggregate(block, rows, "mean").squeeze(1)
            means.add(first + nodes, found - (whole / degrees.clamp(min=1))[nodes])
            bare = dataclasses.replace(block, weights=None)
            found = aggregate(bare, rows, "sum").squeeze(1)
            plain.add(first + nodes, found - whole[nodes])
    sums.assert_are_zero_but_for_chance()
    means.assert_are_zero_but_for_chance()
    assert plain.scores.abs().max() > 5


def test_two_hops_of_sums_are_in_expectation_those_of_all_ratings(importance, few):
    draws = Draws(4 * USERS)
    for place, batch, ones in steps_drawn_again(importance, few, 100, layer_users=4, layer_items=3):
        wanted = ones @ (ones.T @ VALUES[:USERS])
        first, last = batch.layers
        of_items = aggregate(first.to_items, VALUES[batch.user_nodes].unsqueeze(1), "sum")
        found = aggregate(last.to_users, of_items, "sum").squeeze(1)
        nodes = batch.user_nodes[: len(found)]
        draws.add(USERS * place + nodes, found - wanted[nodes])
    draws.assert_are_zero_but_for_chance()


def test_drawing_all_there_are_reads_the_whole_graph_but_the_targets(importance, few):
    loader = loader_of(importance, few, layer_users=USERS, layer_items=ITEMS)
    for batch in batches_of(loader):
        left = set(few.pairs) - set(target_pairs(batch))
        for _, to_users, block, nodes, sources in directions(batch):
            assert torch.equal(block.weights, torch.ones(len(block.weights)))
            own = set(nodes.tolist())
            wanted = sorted(pair for pair in left if pair[0 if to_users else 1] in own)
            assert sorted(message_pairs(to_users, block, nodes, sources)) == wanted


def test_a_layer_has_its_destinations_first_and_no_more_further_nodes_than_were_asked_for(
    importance,
):
    ratings = Ratings()
    most = Counter()
    for batch in batches_of(loader_of(importance, ratings, layers=3)):
        users, items = len(batch.user_nodes), len(batch.item_nodes)
        for layer in batch.layers:
            further = (
                users - layer.to_users.num_destinations,
                items - layer.to_items.num_destinations,
            )
            users, items = layer.to_users.num_destinations, layer.to_items.num_destinations
            assert 0 <= further[0] <= 8 and 0 <= further[1] <= 6
            most[further] += 1
        assert len(set(batch.user_nodes.tolist())) == len(batch.user_nodes)
        assert len(set(batch.item_nodes.tolist())) == len(batch.item_nodes)
    assert max(most)[0] >= 6


def test_no_target_is_among_the_messages_and_without_exclusion_they_are(importance):
    ratings = Ratings()
    for exclude in (True, False):
        loader = loader_of(importance, ratings, exclude_targets=exclude)
        batches = list(batches_of(loader))
        assert len(batches) > len(loader) // 2
        count = sum(leaked(batch) for batch in batches)
        assert count == 0 if exclude else count > 100


@pytest.mark.parametrize("direction", ["_to_users", "_to_items"])
def test_a_leak_of_one_direction_is_seen(importance, direction):
    """Planted: users, or items, read as though the step had no targets."""
    loader = loader_of(importance, Ratings())
    read = getattr(loader, direction).read

    def forgetful(nodes, known, left, *chances):
        return read(nodes, known, left._replace(fold=left.folds), *chances)

    getattr(loader, direction).read = forgetful
    assert sum(leaked(batch) for batch in batches_of(loader)) > 10


def test_every_message_is_a_rating_with_its_residual(importance):
    ratings = Ratings()
    for batch in batches_of(loader_of(importance, ratings, unseen_items=0.2)):
        left = ratings.biases_without(set(target_pairs(batch)))
        for number, to_users, block, ends, sources in directions(batch):
            pairs = message_pairs(to_users, block, ends, sources)
            assert len(set(pairs)) == len(pairs)
            wanted = torch.tensor([ratings.rating_of[pair] for pair in pairs])
            users, items = torch.tensor(pairs).reshape(-1, 2).T
            torch.testing.assert_close(
                block.residuals, wanted - left.predict(users, items).float(), rtol=0, atol=2e-5
            )
            assert (block.weights >= 1).all() and len(block.weights) == len(pairs)
            degrees = left.item_degrees if to_users else left.user_degrees
            torch.testing.assert_close(block.source_degrees.double(), degrees[sources])
            # Those that are there anyway stand for themselves alone.
            of_layer = batch.layers[number]
            known = (of_layer.to_items if to_users else of_layer.to_users).num_destinations
            assert (block.weights[block.neighbours < known] == 1).all()


def test_a_targets_rating_changes_no_prediction_of_its_step(importance):
    ratings = Ratings()

    def first_of(graph, biases):
        ratings.graph = graph
        return next(batches_of(loader_of(importance, ratings, biases=biases)))

    check_a_targets_rating_changes_no_prediction_of_its_step(
        ratings, first_of, lambda batch: all_message_pairs(batch)[0]
    )


def test_seed_and_epoch_decide_every_batch_and_an_epoch_goes_on_anywhere(importance):
    ratings = Ratings()
    loader = loader_of(importance, ratings, unseen_items=0.2)
    again = loader_of(importance, ratings, unseen_items=0.2)
    loader.set_epoch(2)
    whole = list(loader)
    assert len(whole) == len(loader)
    for start in range(0, len(loader) + 1, 5):
        again.set_epoch(2, start)
        rest = list(again)
        assert len(rest) == len(whole) - start
        assert all(same(a, b) for a, b in zip(rest, whole[start:], strict=True))
    # Two iterations side by side do not disturb each other.
    again.set_epoch(3)
    between = iter(again)
    assert not same(next(between), whole[0])
    for batch, wanted in zip(loader, whole, strict=True):
        next(between, None)
        assert same(batch, wanted)
    other = loader_of(importance, ratings, seed=1, unseen_items=0.2)
    other.set_epoch(2)
    assert not same(next(iter(other)), whole[0])


@pytest.mark.parametrize("size", [2, 3])
def test_processes_share_the_targets_of_each_step_and_leave_out_all_of_them(importance, size):
    ratings = Ratings()
    whole = list(loader_of(importance, ratings))
    shares = [list(loader_of(importance, ratings, world=World(n, size))) for n in range(size)]
    for batch, *parts in zip(whole, *shares, strict=True):
        parts = [part for part in parts if part is not None]
        if batch is None:
            assert not parts
            continue
        targets = target_pairs(batch)
        assert [pair for part in parts for pair in target_pairs(part)] == targets
        torch.testing.assert_close(torch.cat([part.baselines for part in parts]), batch.baselines)
        assert all(len(part.ratings) for part in parts)
        for part in parts:
            assert not set(all_message_pairs(part)) & set(targets)
            further = len(part.user_nodes) - part.layers[-1].to_users.num_destinations
            assert further <= 2 * -(-8 // size)


def test_other_devices_make_the_same_batches(importance, monkeypatch):
    ratings = Ratings()
    here = list(batches_of(loader_of(importance, ratings)))
    monkeypatch.setattr(parallel, "_COMPILED_FOR", "none")
    there = list(batches_of(loader_of(importance, ratings)))
    assert all(close(one, other) for one, other in zip(here, there, strict=True))


def close(one, other):
    """Whether all tensors of two batches are the same but for rounding."""
    pairs = list(zip(tensors(one), tensors(other), strict=True))
    return all(a.shape == b.shape and torch.allclose(a, b.to(a.dtype)) for a, b in pairs)


weights = st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=60)


@given(weights, st.integers(1, 70))
@example([15972105.0, 1e-09], 1)  # the first one's chance is 1 but for rounding
@settings(max_examples=200, deadline=None)
def test_inclusion_chances_add_up_and_are_in_proportion_below_one(values, size):
    given_weights = torch.tensor(values, dtype=torch.float64)
    chances = inclusion_chances(given_weights, size)
    assert (chances > 0).all() and (chances <= 1).all()
    if len(values) <= size:
        assert (chances == 1).all()
        return
    torch.testing.assert_close(chances.sum(), torch.tensor(float(size), dtype=torch.float64))
    below = chances < 1
    ratios = chances[below] / given_weights[below]
    torch.testing.assert_close(ratios, ratios[:1].expand_as(ratios))
    # What is certain has no less weight than what is not.
    if below.any() and not below.all():
        assert given_weights[~below].min() >= given_weights[below].max()


def test_a_systematic_draw_takes_each_as_often_as_its_chance_says():
    values = torch.tensor([5.0, 0.2, 1.0, 3.0, 0.7, 2.0, 0.01, 9.0], dtype=torch.float64)
    chances = inclusion_chances(values, 4)
    counts, draws = torch.zeros(8), 2_000
    for number in range(draws):
        chance = torch.tensor((number + 0.5) / draws, dtype=torch.float64)
        places = draw_systematically(chances.cumsum(0), 4, chance)
        assert len(set(places.tolist())) == 4
        counts[places] += 1
    torch.testing.assert_close(counts / draws, chances.float(), rtol=0, atol=2 / draws)


def graph_lists(generator, users, items):
    """Lists of random edges, and of each user its items."""
    rated = [np.flatnonzero(generator.random(items) < 0.3) for _ in range(users)]
    counts = torch.tensor([len(one) for one in rated])
    neighbours = torch.from_numpy(np.concatenate([*rated, []]).astype(np.int32))
    return Lists(counts.cumsum(0) - counts, counts, neighbours, True), rated


@pytest.mark.parametrize("anywhere", [False, True])
def test_sums_and_edges_are_those_of_loops_in_python(anywhere, monkeypatch):
    if anywhere:
        monkeypatch.setattr(parallel, "_COMPILED_FOR", "none")
    generator = np.random.default_rng(0)
    for of_users in (True, False):
        lists, ends = graph_lists(generator, 12, 9)
        lists = lists._replace(of_users=of_users)
        num_users, num_items = (12, 9) if of_users else (9, 12)
        in_step = torch.from_numpy(generator.integers(-1, 2, num_users).astype(np.int32))
        left = Excluded(in_step, num_items, 77 << 31, 3, 1)
        fold = Fold(0, 0, 1, 3, num_items)
        monkeypatch.setattr(Fold, "key", 77 << 31)
        nodes = torch.tensor([4, 0, 11, 7])
        worth = torch.from_numpy(generator.uniform(0.1, 1, 12))
        known = torch.from_numpy(generator.integers(0, 2, 9).astype(np.float32))

        def is_left(node, other, of_users=of_users, fold=fold, in_step=in_step):
            user, item = (node, other) if of_users else (other, node)
            held = fold.holds(torch.tensor([user]), torch.tensor([item]))
            return bool(held) and in_step[user] >= 0

        wanted_sums, edges, counts = torch.zeros(9, dtype=torch.float64), [], []
        for node in nodes.tolist():
            before = len(edges)
            for place, other in enumerate(ends[node].tolist()):
                if is_left(node, other):
                    continue
                if known[other]:
                    edges.append(int(lists.starts[node]) + place)
                else:
                    wanted_sums[other] += worth[node]
            counts.append(len(edges) - before)
        sums = torch.zeros(9, dtype=torch.float64)
        met = add_importance(nodes, lists, worth, known, left, sums)
        torch.testing.assert_close(sums, wanted_sums)
        assert sorted(met.tolist()) == wanted_sums.nonzero().squeeze(1).tolist()
        found, of_nodes = edges_with(nodes, lists, known, 0, left)
        assert found.tolist() == edges and of_nodes.tolist() == counts


def test_compiled_loops_get_no_index_that_is_not_there():
    lists, _ = graph_lists(np.random.default_rng(1), 6, 5)
    left = Excluded(torch.zeros(6, dtype=torch.int32), 5, 1, 2, 2)
    worth, sums = torch.ones(6).double(), torch.zeros(5).double()
    known, flags = torch.zeros(5), torch.ones(5)

    def both(nodes, lists, left, error):
        nodes = torch.tensor(nodes)
        with pytest.raises(error):
            add_importance(nodes, lists, worth, known, left, sums.clone())
        with pytest.raises(error):
            edges_with(nodes, lists, flags, 0, left)

    both([6], lists, left, IndexError)
    both([-1], lists, left, IndexError)
    every = list(range(6))
    for wrong in (5, -1):
        neighbours = torch.full_like(lists.neighbours, wrong)
        both(every, lists._replace(neighbours=neighbours), left, IndexError)
    both(every, lists._replace(starts=lists.starts + 100), left, IndexError)
    both(every, lists._replace(starts=lists.starts[:-1]), left, ValueError)
    both(every, lists, left._replace(in_step=left.in_step[:3]), ValueError)
    with pytest.raises(ValueError):
        add_importance(torch.tensor(every), lists, worth[:2], known, left, sums)


def test_more_nodes_than_there_are_are_refused_by_name():
    ratings = Ratings()
    for name, count in (("layer_users", 70), ("layer_items", 45)):
        with pytest.raises(UsageError, match=f"loader.{name} = 46|loader.{name} = 71") as caught:
            loader_of("ladies", ratings, **{name: count + 1})
        assert f"take {count} or fewer" in str(caught.value)
        loader_of("ladies", ratings, **{name: count})
