"""Loaders whose steps read a sampled subgraph: their expectation, and that none leaks."""

import dataclasses

import numpy as np
import pytest
import torch
from batches import (
    Draws,
    Ratings,
    check_a_targets_rating_changes_no_prediction_of_its_step,
    directions,
    leaked,
    message_pairs,
    same,
    target_pairs,
)

from dglrec.derived import NO_CLUSTER
from dglrec.distributed import World
from dglrec.nn.aggregation import aggregate
from dglrec.sampling import ClusterLoader, LoaderConfig, SaintLoader
from dglrec.sampling.folds import Fold

KINDS = {
    "cluster": {"clusters": 12},
    # Counted by so many walks that what they miss is far below what few steps tell.
    "saint walk": {"draws": "walk", "walk_coverage": 5_000},
    "saint edge": {"draws": "edge"},
    "saint node": {"draws": "node"},
}
FOLDS = 3


def random_clusters(graph, count, seed=0):
    """Clusters by chance; nodes without a rating are in none."""
    rated = np.concatenate((graph.by_user.degrees, graph.by_item.degrees)) > 0
    chosen = np.random.default_rng(seed).integers(0, count, len(rated))
    return torch.from_numpy(np.where(rated, chosen, NO_CLUSTER).astype(np.int32))


def loader_of(kind, graph, biases, seed=0, world=None, layers=2, **options):
    options = {"batch_size": 60, "folds": FOLDS, "unseen_items": 0.0, **KINDS[kind], **options}
    config = LoaderConfig(kind=kind.split()[0], **options)
    rest = {"layers": layers, **({} if world is None else {"world": world})}
    if config.kind == "saint":
        return SaintLoader(graph, biases, config, seed, **rest)
    clusters = random_clusters(graph, options["clusters"])
    return ClusterLoader(graph, biases, config, clusters, seed, **rest)


def epochs_of(loader, count):
    """(fold, batch) of each batch of some epochs."""
    for epoch in range(count):
        loader.set_epoch(epoch)
        steps = len(loader) // FOLDS
        for number, batch in enumerate(loader):
            yield Fold(loader.seed, epoch, number // steps, FOLDS, loader._num_items), batch


@pytest.fixture(params=sorted(KINDS))
def kind(request):
    return request.param


def few_steps(kind, **options):
    """Steps so large that each has targets, as those without do not come as batches."""
    ratings = Ratings(num_users=30, num_items=20, edges=260, seed=3)
    return ratings, loader_of(kind, ratings.graph, ratings.biases, batch_size=44, **options)


def test_aggregation_is_in_expectation_that_of_all_ratings_but_the_folds(kind):
    """Of each node in a step, over many steps; and without weights it is another."""
    ratings, loader = few_steps(kind)
    values = torch.from_numpy(np.random.default_rng(1).normal(1, 1, size=50)).float()
    of_users, of_items = values[:30], values[30:]
    pairs = torch.tensor(ratings.pairs)
    sums, means, plain = Draws(50), Draws(50), Draws(50)
    for fold, batch in epochs_of(loader, 60):
        users, items = pairs[~fold.holds(pairs[:, 0], pairs[:, 1])].T
        for block, nodes, sources, first, ends, others in (
            (
                batch.layers[0].to_users,
                batch.user_nodes,
                batch.item_nodes,
                0,
                users,
                of_items[items],
            ),
            (
                batch.layers[0].to_items,
                batch.item_nodes,
                batch.user_nodes,
                30,
                items,
                of_users[users],
            ),
        ):
            whole = torch.zeros(30).index_add(0, ends, others)
            degrees = torch.bincount(ends, minlength=30)
            assert torch.equal(block.degrees, degrees[nodes].float())
            mean = whole / degrees.clamp(min=1)
            rows = (of_users if first else of_items)[sources].unsqueeze(1)
            bare = dataclasses.replace(block, weights=None)
            for draws, one, mode, wanted in (
                (sums, block, "sum", whole),
                (means, block, "mean", mean),
                (plain, bare, "sum", whole),
            ):
                found = aggregate(one, rows, mode).squeeze(1)
                draws.add(first + nodes, found - wanted[nodes])
    sums.assert_are_zero_but_for_chance()
    means.assert_are_zero_but_for_chance()
    assert plain.scores.abs().max() > 5


def test_the_loss_is_in_expectation_that_of_all_ratings(kind):
    """Of each epoch, by what the training step divides by; and without weights it is another."""
    ratings, loader = few_steps(kind)
    losses = torch.from_numpy(np.random.default_rng(2).uniform(1, 9, (260, 30))).float()
    # Of users with many ratings, which are more likely to be in a step, they are larger.
    degrees = torch.from_numpy(ratings.graph.by_user.degrees)
    losses *= degrees.repeat_interleave(degrees).unsqueeze(1)
    weighed, plain = Draws(30), Draws(30)
    for epoch in range(60):
        loader.set_epoch(epoch)
        sums = torch.zeros(2, 30)
        for batch in loader:
            of_targets = losses[batch.edges]
            sums[0] += (batch.weights.unsqueeze(1) * of_targets).sum(0) / batch.divisor
            sums[1] += of_targets.sum(0) / batch.divisor
        for draws, found in zip((weighed, plain), sums / len(loader) - losses.mean(0), strict=True):
            draws.add(torch.arange(30), found)
    weighed.assert_are_zero_but_for_chance()
    assert plain.scores.abs().max() > 5


def test_no_target_is_among_the_messages_and_without_exclusion_they_are(kind):
    ratings = Ratings()
    for exclude in (True, False):
        loader = loader_of(kind, ratings.graph, ratings.biases, exclude_targets=exclude)
        batches = [batch for batch in loader if batch is not None]
        assert len(batches) > len(loader) // 2
        count = sum(leaked(batch) for batch in batches)
        assert count == 0 if exclude else count > 100


def test_every_message_is_a_rating_with_its_residual(kind):
    ratings = Ratings()
    for batch in loader_of(kind, ratings.graph, ratings.biases, unseen_items=0.2):
        left = ratings.biases_without(set(target_pairs(batch)))
        assert len(batch.layers) == 2 and batch.layers[0] is batch.layers[1]
        for number, to_users, block, ends, sources in directions(batch):
            if number:
                continue
            pairs = message_pairs(to_users, block, ends, sources)
            wanted = torch.tensor([ratings.rating_of[pair] for pair in pairs])
            users, items = torch.tensor(pairs).reshape(-1, 2).T
            torch.testing.assert_close(
                block.residuals, wanted - left.predict(users, items).float(), rtol=0, atol=2e-5
            )
            assert (block.weights >= 1 - 1e-6).all() and (block.degrees >= 0).all()
            starts = block.source_degrees
            assert len(starts) == len(sources)
        assert (batch.weights > 0).all()


def test_a_targets_rating_changes_no_prediction_of_its_step(kind):
    check_a_targets_rating_changes_no_prediction_of_its_step(
        Ratings(),
        lambda graph, biases: next(
            batch for batch in loader_of(kind, graph, biases) if batch is not None
        ),
        lambda batch: next(iter(message_pairs(*next(directions(batch))[1:]))),
    )


def test_seed_and_epoch_decide_every_batch_and_an_epoch_goes_on_anywhere(kind):
    ratings = Ratings()
    loader = loader_of(kind, ratings.graph, ratings.biases, unseen_items=0.2)
    again = loader_of(kind, ratings.graph, ratings.biases, unseen_items=0.2)
    loader.set_epoch(2)
    whole = list(loader)
    assert len(whole) == len(loader)
    for start in range(0, len(loader) + 1, 5):
        again.set_epoch(2, start)
        rest = list(again)
        assert len(rest) == len(whole) - start
        assert all(same(a, b) for a, b in zip(rest, whole[start:], strict=True))
    again.set_epoch(3)
    assert not same(next(iter(again)), whole[0])
    other = loader_of(kind, ratings.graph, ratings.biases, seed=1, unseen_items=0.2)
    other.set_epoch(2)
    assert not same(next(iter(other)), whole[0])


@pytest.mark.parametrize("size", [2, 3])
def test_processes_share_the_targets_of_each_step(kind, size):
    """And read the same subgraph."""
    ratings = Ratings()
    whole = list(loader_of(kind, ratings.graph, ratings.biases, unseen_items=0.2))
    shares = [
        list(
            loader_of(
                kind, ratings.graph, ratings.biases, world=World(rank, size), unseen_items=0.2
            )
        )
        for rank in range(size)
    ]
    for batch, *parts in zip(whole, *shares, strict=True):
        parts = [part for part in parts if part is not None]
        if batch is None:
            assert not parts
            continue
        for name in ("edges", "ratings", "baselines", "users", "weights"):
            assert torch.equal(
                torch.cat([getattr(part, name) for part in parts]), getattr(batch, name)
            )
        assert [pair for part in parts for pair in target_pairs(part)] == target_pairs(batch)
        assert sum(part.divisor for part in parts) == pytest.approx(batch.divisor)
        for part in parts:
            assert same(part.layers, batch.layers) and torch.equal(
                part.user_inputs, batch.user_inputs
            )


def test_a_batch_moves_as_one(kind):
    ratings = Ratings()
    batch = next(one for one in loader_of(kind, ratings.graph, ratings.biases) if one is not None)
    moved = batch.to(torch.device("meta"))
    assert moved.weights.device.type == moved.layers[0].to_users.weights.device.type == "meta"
    assert moved.size == batch.size
    assert dataclasses.replace(batch, size=None).divisor == batch.num_targets
