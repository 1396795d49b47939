"""Batches of fixed shapes say what those of the other loader say, whatever makes them."""

from functools import partial
from itertools import islice

import pytest
import torch
from batches import Ratings, graph_of
from hypothesis import given, settings
from hypothesis import strategies as st
from ranks import in_ranks
from relations import NAMES, Related

from dglrec.biases import fit_biases, no_biases
from dglrec.blocks import Pool
from dglrec.distributed import ALONE, World
from dglrec.kernels import parallel
from dglrec.nn import ModelConfig, RatingModel
from dglrec.sampling import LoaderConfig, PackedBatchLoader, UserBatchLoader, why_unpacked
from dglrec.train.objectives import RankingConfig, make_objective
from dglrec.train.objectives import ranking as ranking_module

FANOUTS = [
    {"user_fanouts": (-1,), "item_fanouts": (3,)},
    {"user_fanouts": (3, -1), "item_fanouts": (3, 2)},
    {"user_fanouts": (4, 5), "item_fanouts": (60, 1)},  # that many samples are all users
    {"user_fanouts": (2, 3, -1), "item_fanouts": (3, 2, 1)},
]
ALL_FANOUTS = [
    {"user_fanouts": (-1, -1), "item_fanouts": (3, 2)},
    {"user_fanouts": (-1, 4), "item_fanouts": (2, -1)},
    {"user_fanouts": (3, -1, -1), "item_fanouts": (-1, 3, -1)},
]


@pytest.fixture(scope="module")
def ratings():
    """Of more users than the fan-outs above sample of the items' raters, but for the third."""
    return Ratings(num_users=300, edges=900)


@pytest.fixture(params=["compiled", "anywhere"])
def route(request, monkeypatch):
    """Compiled loops, as a CPU has them, and torch's operations, as a GPU does."""

    def switch(anywhere):
        monkeypatch.setattr(parallel, "_COMPILED_FOR", "none" if anywhere else "cpu")

    yield lambda on: switch(on and request.param == "anywhere")
    switch(False)


def loaders(graph, biases, seed=3, world=ALONE, draw=None, directions=(), **config):
    config = LoaderConfig(
        **{"batch_size": 64, "folds": 2, "items": "all", "unseen_items": 0.1, **config}
    )
    return tuple(
        make(graph, biases, config, seed, world=world, draw=draw, directions=directions)
        for make in (UserBatchLoader, PackedBatchLoader)
    )


def model_of(ratings, layers, **config):
    torch.manual_seed(0)
    config = {"embedding_size": 8, "refinement": 4, "decoder_size": 8, "list_size": 8, **config}
    config = ModelConfig(heads="both", layers=layers, dropout=0.0, **config)
    return RatingModel(config, ratings.num_users, torch.randn(ratings.num_items, 5))


def objective_of(ratings, **ranking):
    dataset = type("Dataset", (), {"has_ratings": True, "scale": ratings.graph.scale})()
    dataset.graph, dataset.biases = ratings.graph, ratings.biases
    dataset.mean_rating = ratings.biases.mean
    ranking = RankingConfig(**{"negatives": "catalogue", **ranking})
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


def figures(model, objective, batch, world=ALONE):
    """A batch's costs, and the gradients of all weights that it reaches."""
    all_items = partial(world.all_rows, total=len(model.inputs.features))
    costs = objective.costs(model, model.encode(batch, all_items), batch)
    weights = list(model.parameters())
    gradients = torch.autograd.grad(costs.total, weights, allow_unused=True)
    values = torch.stack([cost.detach().double() for cost in costs])
    return values, [one for one in gradients if one is not None]


def assert_same_figures(found, expected):
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=1e-5)
    for one, other in zip(found[1], expected[1], strict=True):
        room = 1e-4 * float(other.abs().max()) + 1e-5
        torch.testing.assert_close(one, other, rtol=0, atol=room)


def assert_same_batches(plain, packed, route, figures_of, epochs=(0, 1), steps=None):
    """Compares the figures of both loaders' batches, step by step; returns how many there were."""
    compared = 0
    for epoch in epochs:
        plain.set_epoch(epoch)
        packed.set_epoch(epoch)
        batches = iter(packed)
        for batch in islice(plain, steps):
            route(True)
            fixed = next(batches)
            route(False)
            assert (batch is None) == (fixed is None)
            if batch is None:
                continue
            expected = figures_of(batch)
            route(True)
            found = figures_of(fixed)
            route(False)
            assert_same_figures(found, expected)
            compared += 1
        if steps is None:
            assert next(batches, "end") == "end"
    return compared


@pytest.mark.parametrize(
    ("fanouts", "aggregator"), list(zip(ALL_FANOUTS, ("attention", "pool", "mean"), strict=True))
)
def test_all_that_is_rated_may_be_read(ratings, route, fanouts, aggregator):
    """In layers before the last, and by items: then all users are in each batch."""
    plain, packed = loaders(ratings.graph, ratings.biases, **fanouts)
    assert packed._in_full
    model = model_of(ratings, len(fanouts["item_fanouts"]), aggregator=aggregator)
    figures_of = partial(figures, model, objective_of(ratings))
    assert assert_same_batches(plain, packed, route, figures_of, steps=6) >= 12


@pytest.mark.parametrize("aggregator", ["mean", "sum", "pool", "attention"])
@pytest.mark.parametrize("fanouts", FANOUTS)
def test_costs_and_gradients_are_those_of_the_other_loader(ratings, route, fanouts, aggregator):
    """The same samples and targets, so the same figures but for the order of their sums."""
    plain, packed = loaders(ratings.graph, ratings.biases, **fanouts)
    assert packed._in_full == (fanouts is FANOUTS[2])
    model = model_of(ratings, len(fanouts["item_fanouts"]), aggregator=aggregator)
    if aggregator == "sum":
        # A mean times the degree, layer upon layer: left as it is, rounding grows with it.
        with torch.no_grad():
            for layer in model.encoder.convolution_layers:
                layer.to_users.bare.neighbour.weight.mul_(0.1)
                layer.to_items.bare.neighbour.weight.mul_(0.1)
    objective = objective_of(ratings, vector_l2=0.01, positive_weights="rating")
    assert assert_same_batches(plain, packed, route, partial(figures, model, objective)) > 15


@pytest.fixture(scope="module")
def related():
    return Related()


OF_RELATIONS = {
    "users read": (NAMES, {"relation_fanout": 2, **FANOUTS[1]}),
    "users not read": (
        ("similar", "has_home", "has_kind"),
        {"relation_fanout": 3, "user_fanouts": (-1,), "item_fanouts": (1,)},
    ),
}


@pytest.mark.parametrize("case", OF_RELATIONS)
def test_relations_say_what_they_say_in_the_other_loader(related, route, case):
    """With the same samples, and without the pairs of targets; and labels of unseen items."""
    names, config = OF_RELATIONS[case]
    directions = related.directions(*names)
    both = loaders(related.graph, related.biases, directions=directions, **config)
    assert both[1]._in_full == (names is NAMES)
    model = related.model(*names, heads="both", layers=len(config["user_fanouts"]))
    figures_of = partial(figures, model, objective_of(related))
    assert assert_same_batches(*both, route, figures_of, steps=8) == 16
    labels = {one.name for batch in islice(both[1], 8) for one in batch.unseen_others}
    assert labels == {"rev_has_kind"}


POOLS = [
    {"negatives": "uniform", "pool": 20},
    {"negatives": "popularity", "pool": 200, "correction": 0.5, "temperature": 0.5},
    {"negatives": "in_batch", "pool": 12, "positives_from": 8.0},
    {"negatives": "hard", "loss": "bpr", "pool": 30, "negatives_a_target": 60},
    {"negatives": "uniform", "loss": "bce", "pool": 15, "negatives_a_target": 4},
    {
        **{"negatives": "popularity", "loss": "cosine", "normalised": True},
        **{"pool": 15, "negatives_a_target": 3, "vector_l2": 0.01},
    },
]


@pytest.mark.parametrize("ranking", POOLS, ids=lambda one: one["negatives"])
def test_pools_are_those_of_the_other_loader(ratings, route, ranking, monkeypatch):
    """Each item once, the same ones with the same weights, and so the same costs."""

    def first_ones(pool, shape):  # what is chosen of a pool is chance's, and differs
        count = len(pool.items) if pool.count is None else pool.count
        return (torch.arange(shape[1]) % count).expand(shape)

    monkeypatch.setattr(ranking_module, "_choose", first_ones)
    objective = objective_of(ratings, **ranking)
    draw = objective.sampler(torch.device("cpu"))
    both = loaders(ratings.graph, ratings.biases, draw=draw, **FANOUTS[1])
    drawn = 0
    for batch, fixed in zip(*both, strict=True):
        if batch is None:
            continue
        count = int(fixed.pool.count)
        if ranking["negatives"] != "in_batch" or len(batch.pool.items):
            assert torch.equal(fixed.pool.items[:count], batch.pool.items)
            assert torch.equal(fixed.pool.rows[:count], batch.pool.rows)
            torch.testing.assert_close(fixed.pool.log_weights[:count], batch.pool.log_weights)
        assert (fixed.pool.items[count:] == ratings.num_items).all()
        assert fixed.pool.log_weights[count:].isneginf().all() and count < len(fixed.pool.items)
        drawn += count
    assert drawn > 50
    model = model_of(ratings, 2)
    assert assert_same_batches(*both, route, partial(figures, model, objective), steps=8) > 12


def test_what_is_chosen_of_a_pool_is_in_it():
    """And each of its items is, about as often."""
    pool = Pool(torch.arange(9), torch.arange(9), torch.zeros(9), torch.tensor(5))
    counts = torch.bincount(ranking_module._choose(pool, (1000, 10)).flatten(), minlength=9)
    assert counts[5:].sum() == 0 and (counts[:5] / 2000 - 1).abs().max() < 0.15


def switch(anywhere):
    """As `route` does, in a process of its own."""
    parallel._COMPILED_FOR = "none" if anywhere else "cpu"


@pytest.mark.parametrize("size", [2, 3])
def test_so_they_are_in_each_of_several_processes(ratings, related, size):
    """Which exchange items on the way, and gradients of them back."""

    def compared(world):
        count = 0
        for number, fanouts in enumerate([FANOUTS[1], FANOUTS[3], ALL_FANOUTS[1]]):
            objective = objective_of(ratings, **(POOLS[2] if number == 1 else {}))
            draw = objective.sampler(torch.device("cpu"))
            both = loaders(ratings.graph, ratings.biases, world=world, draw=draw, **fanouts)
            model = model_of(ratings, len(fanouts["item_fanouts"]))
            figures_of = partial(figures, model, objective, world=world)
            count += assert_same_batches(*both, switch, figures_of, epochs=(0,), steps=4)
        names, config = OF_RELATIONS["users read"]
        options = {"directions": related.directions(*names), "world": world, **config}
        both = loaders(related.graph, related.biases, **options)
        model = related.model(*names, heads="both")
        figures_of = partial(figures, model, objective_of(related), world=world)
        return count + assert_same_batches(*both, switch, figures_of, epochs=(0,), steps=4)

    assert in_ranks(size, compared) == [16] * size


@pytest.mark.parametrize("size", [2, 7])
def test_processes_share_users_and_items_as_those_of_the_other_loader_do(ratings, size):
    """Each has its stretch; one may have no target."""
    predicted, without = [], 0
    draw = objective_of(ratings, negatives="uniform", pool=5).sampler(torch.device("cpu"))
    options = {"batch_size": 24, "draw": draw, **FANOUTS[1]}
    for rank in range(size):
        both = loaders(ratings.graph, ratings.biases, world=World(rank, size), **options)
        for batch, fixed in zip(*both, strict=True):
            assert (batch is None) == (fixed is None)
            if batch is None:
                continue
            count = fixed.num_targets
            for name in ("edges", "ratings", "baselines"):
                torch.testing.assert_close(getattr(fixed, name)[:count], getattr(batch, name))
            assert torch.equal(fixed.item_nodes, batch.item_nodes)
            assert fixed.items_are_shared and fixed.every_item
            # Whose costs ask for one though nothing is held against it.
            assert batch.pool is not None and fixed.pool is not None
            predicted += fixed.edges[:count].tolist()
            without += count == 0
    assert sorted(predicted) == list(range(ratings.graph.num_edges))
    assert without > 0 or size == 2


@pytest.mark.parametrize("fanouts", [*FANOUTS, *ALL_FANOUTS])
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
    st.sampled_from([FANOUTS[1], ALL_FANOUTS[1]]),
    st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_any_ratings_can_be_packed(pairs, seed, batch_size, fanouts, in_full):
    """Users with everything, with nothing, steps with a single target or none."""
    users, items = zip(*pairs, strict=True)
    graph = graph_of(users, items, [5 + n % 4 for n in range(len(pairs))], 6, 8)
    for biases in (fit_biases(graph), no_biases(graph)):
        plain, packed = loaders(graph, biases, seed, batch_size=batch_size, **fanouts)
        if fanouts is FANOUTS[1]:
            packed._in_full = in_full
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
    ("config", "why"),
    [
        ({"user_fanouts": (3, -1), "item_fanouts": (3, 2)}, ""),
        ({"user_fanouts": (-1, -1), "item_fanouts": (3, -1)}, ""),
        ({"items": "reached"}, "loader.items"),
        ({"exclude_targets": False}, "loader.exclude_targets"),
        ({"unseen_users": 0.1}, "loader.unseen_users"),
        ({"kind": "full"}, "loader.kind is full"),
        ({"relation_fanout": -1}, ""),
    ],
)
def test_what_can_be_packed(ratings, related, config, why):
    fanouts = {"user_fanouts": (3, -1), "item_fanouts": (3, 2)}
    config = LoaderConfig(**{"items": "all", "batch_size": 64, "folds": 2, **fanouts, **config})
    assert why_unpacked(config).startswith(why) and bool(why_unpacked(config)) == bool(why)
    if why and config.kind == "users":
        with pytest.raises(ValueError, match="no fixed shapes"):
            PackedBatchLoader(ratings.graph, ratings.biases, config)
    if config.relation_fanout < 0:
        assert why_unpacked(config, related.directions()) == "loader.relation_fanout is all"
