"""Batches of fixed shapes say what those of the other loader say, whatever makes them."""

import pytest
import torch
from batches import Ratings, graph_of
from hypothesis import given, settings
from hypothesis import strategies as st

from dglrec.biases import fit_biases, no_biases
from dglrec.kernels import parallel
from dglrec.nn import ModelConfig, RatingModel
from dglrec.sampling import LoaderConfig, PackedBatchLoader, UserBatchLoader, can_pack
from dglrec.train.objectives import RankingConfig, make_objective

FANOUTS = [
    {"user_fanouts": (-1,), "item_fanouts": (3,)},
    {"user_fanouts": (3, -1), "item_fanouts": (3, 2)},
    {"user_fanouts": (4, 5), "item_fanouts": (60, 1)},
    {"user_fanouts": (2, 3, -1), "item_fanouts": (3, 2, 1)},
]


@pytest.fixture(scope="module")
def ratings():
    return Ratings()


@pytest.fixture(params=["compiled", "anywhere"])
def route(request, monkeypatch):
    """Compiled loops, as a CPU has them, and torch's operations, as a GPU does."""

    def switch(anywhere):
        monkeypatch.setattr(parallel, "_COMPILED_FOR", "none" if anywhere else "cpu")

    yield lambda on: switch(on and request.param == "anywhere")
    switch(False)


def loaders(graph, biases, seed=3, **config):
    config = LoaderConfig(
        **{"batch_size": 64, "folds": 2, "items": "all", "unseen_items": 0.1, **config}
    )
    return UserBatchLoader(graph, biases, config, seed), PackedBatchLoader(
        graph, biases, config, seed
    )


def model_of(ratings, layers, **config):
    torch.manual_seed(0)
    config = {"embedding_size": 8, "refinement": 4, "decoder_size": 8, "list_size": 8, **config}
    config = ModelConfig(heads="both", layers=layers, dropout=0.0, **config)
    return RatingModel(config, ratings.num_users, torch.randn(ratings.num_items, 5))


def objective_of(ratings, **ranking):
    dataset = type("Dataset", (), {"has_ratings": True, "scale": ratings.graph.scale})()
    dataset.graph, dataset.biases = ratings.graph, ratings.biases
    ranking = RankingConfig(negatives="catalogue", **ranking)
    return make_objective("both", "mse", ranking, dataset, torch.device("cpu"))


def message_pairs(batch):
    """(user, item) of each edge that is there, of every block."""
    users, items = batch.user_nodes, batch.item_nodes
    for layer in batch.layers:
        for to_users, block in ((True, layer.to_users), (False, layer.to_items)):
            nodes = (users if to_users else items)[: block.num_destinations]
            owners = torch.repeat_interleave(nodes, block.offsets.diff())
            others = (items if to_users else users)[block.neighbours.long()]
            there = block.present.bool()
            pair = (owners, others) if to_users else (others, owners)
            yield from zip(*(ends[there].tolist() for ends in pair), strict=True)
        users = users[: layer.to_users.num_destinations]
        items = items[: layer.to_items.num_destinations]


@pytest.mark.parametrize("aggregator", ["mean", "sum", "pool", "attention"])
@pytest.mark.parametrize("fanouts", FANOUTS)
def test_costs_and_gradients_are_those_of_the_other_loader(ratings, route, fanouts, aggregator):
    """The same samples and targets, so the same figures but for the order of their sums."""
    plain, packed = loaders(ratings.graph, ratings.biases, **fanouts)
    model = model_of(ratings, len(fanouts["item_fanouts"]), aggregator=aggregator)
    objective = objective_of(ratings, vector_l2=0.01, positive_weights="rating")
    weights = list(model.parameters())

    def figures(batch, on):
        route(on)
        costs = objective.costs(model, model.encode(batch), batch)
        gradients = torch.autograd.grad(costs.total, weights, allow_unused=True)
        route(False)
        values = [cost.detach().double() for cost in costs]
        return torch.stack(values), [g for g in gradients if g is not None]

    compared = 0
    for epoch in (0, 1):
        plain.set_epoch(epoch)
        packed.set_epoch(epoch)
        batches = iter(packed)
        for batch in plain:
            route(True)
            fixed = next(batches)
            route(False)
            assert (batch is None) == (fixed is None)
            if batch is None:
                continue
            expected, expected_gradients = figures(batch, on=False)
            found, gradients = figures(fixed, on=True)
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
            for one, other in zip(gradients, expected_gradients, strict=True):
                room = 1e-4 * float(other.abs().max()) + 1e-5
                torch.testing.assert_close(one, other, rtol=0, atol=room)
            compared += 1
        assert next(batches, "end") == "end"
    assert compared > 15


@pytest.mark.parametrize("fanouts", FANOUTS)
def test_targets_stand_first_and_take_part_in_no_message(ratings, fanouts):
    plain, packed = loaders(ratings.graph, ratings.biases, **fanouts)
    shapes = set()
    for batch, fixed in zip(plain, packed, strict=True):
        if batch is None:
            continue
        count = fixed.num_targets
        assert count == len(batch.ratings)
        assert fixed.present[:count].bool().all() and not fixed.present[count:].any()
        for name in ("edges", "ratings", "baselines"):
            torch.testing.assert_close(getattr(fixed, name)[:count], getattr(batch, name))
        targets = {ratings.pairs[edge] for edge in fixed.edges[:count].tolist()}
        assert targets.isdisjoint(message_pairs(fixed))
        shapes.add((len(fixed.ratings), len(fixed.user_nodes), len(fixed.rated[1])))
    assert len(shapes) <= 2  # the second pass may need more room than the first


class Leaky(PackedBatchLoader):
    """Takes nobody among the raters for a user of the step."""

    def _to_items(self, *arguments):
        in_step, self._in_step = self._in_step, torch.full_like(self._in_step, -1)
        try:
            return super()._to_items(*arguments)
        finally:
            self._in_step = in_step


def test_a_planted_leak_is_seen(ratings):
    """The test above fails where targets are not marked."""
    _, packed = loaders(ratings.graph, ratings.biases, **FANOUTS[1])
    batch = next(iter(Leaky(ratings.graph, ratings.biases, packed.config, 3)))
    targets = {ratings.pairs[edge] for edge in batch.edges[: batch.num_targets].tolist()}
    assert not targets.isdisjoint(message_pairs(batch))


def test_an_epoch_begins_anywhere_and_leaves_no_trace(ratings):
    _, packed = loaders(ratings.graph, ratings.biases, **FANOUTS[1])
    whole = list(packed)
    for start in (1, len(packed) // 2, len(packed) - 1):
        packed.set_epoch(0, start)
        for one, other in zip(packed, whole[start:], strict=True):
            count = one.num_targets
            assert torch.equal(one.edges[:count], other.edges[:count])
            torch.testing.assert_close(one.baselines[:count], other.baselines[:count])
    assert (packed._in_step == -1).all()
    torch.testing.assert_close(packed._biases.users[:-1], ratings.biases.users)
    torch.testing.assert_close(packed._biases.item_squares, ratings.biases.item_squares)


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 7)), min_size=1, max_size=40, unique=True),
    st.integers(0, 5),
    st.integers(1, 30),
)
@settings(max_examples=40, deadline=None)
def test_any_ratings_can_be_packed(pairs, seed, batch_size):
    """Users with everything, with nothing, steps with a single target or none."""
    users, items = zip(*pairs, strict=True)
    graph = graph_of(users, items, [5 + n % 4 for n in range(len(pairs))], 6, 8)
    for biases in (fit_biases(graph), no_biases(graph)):
        plain, packed = loaders(graph, biases, seed, batch_size=batch_size, **FANOUTS[1])
        predicted = []
        for batch, fixed in zip(plain, packed, strict=True):
            assert (batch is None) == (fixed is None)
            if batch is not None:
                count = fixed.num_targets
                assert torch.equal(batch.edges, fixed.edges[:count])
                torch.testing.assert_close(batch.baselines, fixed.baselines[:count])
                predicted += fixed.edges[:count].tolist()
        assert sorted(predicted) == list(range(len(pairs)))


@pytest.mark.parametrize(
    ("config", "can"),
    [
        ({"user_fanouts": (3, -1), "item_fanouts": (3, 2)}, True),
        ({"user_fanouts": (-1, -1), "item_fanouts": (3, 2)}, False),
        ({"user_fanouts": (3, -1), "item_fanouts": (3, -1)}, False),
        ({"user_fanouts": (3, -1), "item_fanouts": (3, 2), "items": "reached"}, False),
        ({"user_fanouts": (3, -1), "item_fanouts": (3, 2), "exclude_targets": False}, False),
        ({"user_fanouts": (3, -1), "item_fanouts": (3, 2), "kind": "full"}, False),
    ],
)
def test_what_can_be_packed(ratings, config, can):
    config = LoaderConfig(**{"items": "all", "batch_size": 64, "folds": 2, **config})
    assert can_pack(config) is can
    if not can and config.kind == "users":
        with pytest.raises(ValueError, match="fixed shapes"):
            PackedBatchLoader(ratings.graph, ratings.biases, config)
