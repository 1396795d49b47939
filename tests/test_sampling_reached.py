"""Steps that encode the items they reach: the same predictions as of all items, and nothing left.

What holds for every loader is in test_sampling, for which these steps are one more kind.
"""

from dataclasses import replace
from functools import partial

import pytest
import torch
from batches import FANOUTS, Ratings, config_of, directions, message_pairs, target_pairs
from hypothesis import given, settings
from hypothesis import strategies as st

from dglrec.biases import Ends, no_biases
from dglrec.blocks import Pool
from dglrec.kernels import parallel
from dglrec.nn import ModelConfig, RatingModel
from dglrec.sampling import UserBatchLoader
from dglrec.train import RatingObjective, TrainConfig, TrainingStep

ALL = FANOUTS[3]


@pytest.fixture(scope="module")
def data():
    return Ratings(num_users=90, num_items=160, edges=700)


def some_items(count, num_items):
    """Draws the same way for both kinds: a pool of items, ascending."""

    def draw(items, ratings, generator):
        assert len(items) == len(ratings)
        found = torch.randperm(num_items, generator=generator)[:count].sort().values
        return Pool(found, found, torch.zeros(count))

    return draw


def loader_of(data, kind, draw=None, **config):
    config = {"batch_size": 40, "folds": 3, "unseen_items": 0.1, **config}
    config = config_of(kind, **config)
    return UserBatchLoader(data.graph, data.biases, config, seed=5, draw=draw)


def model_of(data, **config):
    torch.manual_seed(1)
    config = {"embedding_size": 8, "decoder_size": 6, "list_size": 5, "dropout": 0.0, **config}
    features = torch.randn(data.num_items, 4)
    model = RatingModel(ModelConfig(**config), data.num_users, features)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


@pytest.mark.parametrize("layers", [0, 1, 2])
@pytest.mark.parametrize("convolution", ["sage", "lightgcn"])
def test_predictions_and_lists_are_those_of_steps_of_all_items(data, layers, convolution):
    """Nothing is sampled, so that only what nobody reads is left out."""
    fanouts = {"user_fanouts": (-1,) * layers, "item_fanouts": (-1,) * layers}
    model = model_of(data, layers=layers, heads="both", convolution=convolution)
    draw = some_items(12, data.num_items)
    pairs = zip(
        loader_of(data, "users", draw, **fanouts),
        loader_of(data, "reached", draw, **fanouts),
        strict=True,
    )
    fewer = 0
    for of_all, reached in pairs:
        assert torch.equal(of_all.edges, reached.edges)
        assert of_all.every_item and not reached.every_item
        assert torch.equal(of_all.pool.items, reached.pool.items)
        assert torch.equal(reached.item_nodes[reached.pool.rows], reached.pool.items)
        fewer += len(reached.item_nodes) < len(of_all.item_nodes)
        with torch.no_grad():
            one, other = model.encode(of_all), model.encode(reached)
            torch.testing.assert_close(
                model.rate(one, of_all), model.rate(other, reached), rtol=1e-5, atol=1e-5
            )
            lists = [
                encoded.users.factors[batch.users] @ encoded.items.factors[batch.pool.rows].T
                + encoded.items.base[batch.pool.rows]
                for encoded, batch in ((one, of_all), (other, reached))
            ]
        torch.testing.assert_close(*lists, rtol=1e-5, atol=1e-5)
    assert fewer or layers == 2


@pytest.mark.parametrize("fanouts", FANOUTS)
@pytest.mark.parametrize("size", [0, 20])
def test_the_items_read_are_those_that_something_reads(data, fanouts, size):
    draw = some_items(size, data.num_items) if size else None
    for batch in loader_of(data, "reached", draw, **fanouts):
        wanted = {item for _, item in target_pairs(batch)}
        if batch.pool is not None:
            wanted |= set(batch.pool.items.tolist())
        last = batch.item_nodes[: batch.layers[-1].to_items.num_destinations]
        # Unseen items are destinations as well, so that they are what they are to others.
        assert set(last.tolist()) == wanted
        read, users = set(wanted), set(batch.user_nodes[batch.users].tolist())
        for _, to_users, block, destinations, sources in directions(batch):
            pairs = message_pairs(to_users, block, destinations, sources)
            read |= {item for _, item in pairs}
            users |= {user for user, _ in pairs}
        assert set(batch.item_nodes.tolist()) == read
        own = set(batch.user_nodes[: batch.layers[-1].to_users.num_destinations].tolist())
        assert set(batch.user_nodes.tolist()) == users | own


@pytest.mark.parametrize("kind", ["users", "reached"])
def test_a_loader_leaves_its_tables_as_it_found_them(data, kind):
    """After each batch, and after one that failed."""
    fails = False

    def draw(items, ratings, generator):
        if fails:
            raise RuntimeError("planted")
        return some_items(9, data.num_items)(items, ratings, generator)

    loader = loader_of(data, kind, draw, **FANOUTS[1])
    names = ("users", "items", "user_degrees", "item_degrees", "user_squares", "item_squares")

    def check():
        for table in (loader._in_step, loader._user_numbers, loader._item_numbers):
            assert (table == -1).all()
        for name in names:
            assert torch.equal(getattr(loader._biases, name), getattr(data.biases, name)), name

    for _ in loader:
        check()
    fails = True
    with pytest.raises(RuntimeError, match="planted"):
        next(iter(loader))
    check()


@given(st.sets(st.integers(0, 699), max_size=60), st.booleans())
@settings(max_examples=40, deadline=None)
def test_biases_leave_out_in_place_what_they_leave_out_in_a_copy(rows, rated):
    data = GIVEN
    fitted = data.biases if rated else no_biases(data.graph)
    pairs = [data.pairs[row] for row in sorted(rows)]
    users, items = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).T
    ratings = torch.tensor([data.rating_of[pair] for pair in pairs])
    copied = fitted.copied(torch.device("cpu"))
    ends = [Ends(*torch.unique(nodes, return_inverse=True)) for nodes in (users, items)]
    expected = fitted.without(users, items, ratings)
    with copied.leaving_out(*ends, ratings):
        for name, value in vars(expected).items():
            if isinstance(value, torch.Tensor):
                torch.testing.assert_close(getattr(copied, name), value, rtol=1e-5, atol=1e-5)
    for name, value in vars(fitted).items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(getattr(copied, name), value)


GIVEN = Ratings(num_users=90, num_items=160, edges=700)


def step_of(data, model, heads_loss=torch.nn.functional.mse_loss):
    loss = partial(heads_loss, reduction="none")
    config = TrainConfig(learning_rate=0.01, warmup_steps=0, clip_norm=1e9)
    return TrainingStep(model, config, RatingObjective(loss), 10)


def test_vectors_are_updated_by_rows_as_the_whole_table_would_be(data):
    """One step: Adam moves a row that has a gradient as it moves the rows of a table."""
    batch = next(iter(loader_of(data, "reached", **ALL)))
    dense, by_rows = model_of(data, heads="rating"), model_of(data, heads="rating")
    by_rows.read_items_by_rows()
    before = dense.inputs.item_vectors.weight.detach().clone()
    for model in (dense, by_rows):
        step_of(data, model)(batch)
    expected, found = (m.inputs.item_vectors.weight.detach() for m in (dense, by_rows))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    untouched = torch.ones(data.num_items, dtype=torch.bool)
    untouched[batch.item_nodes] = False
    assert untouched.any() and torch.equal(found[untouched], before[untouched])
    assert (found != before).any()
    # The sum of squares over a table is no part of such a step.
    assert by_rows.inputs.item_vectors.weight.grad is None


def test_more_items_in_reach_than_there_are_numbers_for_are_refused(data):
    loader = loader_of(data, "reached", **FANOUTS[0])
    loader._item_numbers = loader._item_numbers[:3]
    with pytest.raises(IndexError, match="ids"):
        list(loader)


def test_what_is_read_moves_with_the_batch(data):
    draw = some_items(9, data.num_items)
    batch = next(iter(loader_of(data, "reached", draw, **FANOUTS[0])))
    moved = batch.to(torch.device("meta"))
    assert moved.pool.items.is_meta and moved.pool.rows.is_meta
    assert not moved.every_item
    assert replace(batch, pool=None).to(torch.device("meta")).pool is None


@pytest.mark.parametrize("kind", ["users", "reached"])
def test_devices_without_compiled_loops_get_the_same_batches(data, kind, monkeypatch):
    """Each target with the user and the item that its rating is of."""
    here = [batch for batch in loader_of(data, kind) if batch is not None]
    monkeypatch.setattr(parallel, "_COMPILED_FOR", "none")
    there = [batch for batch in loader_of(data, kind) if batch is not None]
    for one, other in zip(here, there, strict=True):
        assert target_pairs(other) == [data.pairs[edge] for edge in other.edges.tolist()]
        assert target_pairs(other) == target_pairs(one)
        assert torch.equal(other.user_nodes, one.user_nodes)
        assert torch.equal(other.item_nodes, one.item_nodes)
