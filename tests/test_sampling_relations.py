"""What layers read along relations: samples of what there is, the same however it is shared out."""

from itertools import islice

import numpy as np
import pytest
import torch
from batches import config_of, target_pairs
from ranks import in_ranks
from relations import Related
from test_ranks import listed, make_step, state_of

from dglrec.distributed import ALONE
from dglrec.infer import blocks_of_labels, embed_all, embed_new_items, predict_pairs
from dglrec.relations import directions_of
from dglrec.sampling import UserBatchLoader

ALL = {"user_fanouts": (-1, -1), "item_fanouts": (-1, -1), "relation_fanout": -1}
KINDS = ["users", "reached"]


@pytest.fixture(scope="module")
def data():
    return Related()


def loader_of(data, kind, names=(), world=ALONE, **config):
    config = {"batch_size": 60, "folds": 3, "unseen_items": 0.1, **ALL, **config}
    return UserBatchLoader(
        data.graph,
        data.biases,
        config_of(kind, **config),
        seed=5,
        world=world,
        directions=data.directions(*names),
    )


def edges_read(data, batch):
    """(direction, destination, source) of every edge of every layer's other relations."""
    nodes = {"user": batch.user_nodes, "item": batch.item_nodes}
    for layer in batch.layers:
        counts = {
            "user": layer.to_users.num_destinations,
            "item": layer.to_items.num_destinations,
        }
        for one in layer.others:
            block = one.block
            assert block.num_destinations == counts[one.destination_type]
            ends = nodes[one.destination_type][: counts[one.destination_type]]
            ends = torch.repeat_interleave(ends, block.offsets.diff()).tolist()
            places = block.neighbours.long()
            sources = nodes[one.source_type][places] if one.source_type in nodes else places
            for end, source in zip(ends, sources.tolist(), strict=True):
                yield one.name, end, source
        nodes = {kind: nodes[kind][:count] for kind, count in counts.items()}


def there(data):
    return {
        (one.name, node, neighbour)
        for one in data.directions()
        for node in range(one.edges.num_nodes)
        for neighbour in one.edges.neighbours[one.edges.of(node)].tolist()
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_of_all_neighbours_predicts_what_exact_inference_does(data, kind):
    """Nothing is left out, so that a step reads what there is."""
    model = data.model(heads="both")
    embeddings = embed_all(model, data.graph, data.biases, directions=data.directions())
    assert len(embeddings.told_users) == 2
    count = 0
    for batch in loader_of(data, kind, exclude_targets=False, unseen_items=0.0):
        with torch.no_grad():
            found = model(batch)
        users, items = torch.tensor(target_pairs(batch)).T
        expected = predict_pairs(model, embeddings, data.biases, users, items)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        count += len(found)
    assert count == data.graph.num_edges
    without = data.model("similar", "wants", heads="both")
    plain = embed_all(
        without, data.graph, data.biases, directions=data.directions("similar", "wants")
    )
    assert not torch.allclose(plain.nodes.users, embeddings.nodes.users, atol=0.01)


def test_steps_of_items_in_reach_predict_what_steps_of_all_items_do(data):
    model = data.model()
    for of_all, reached in zip(loader_of(data, "users"), loader_of(data, "reached"), strict=True):
        with torch.no_grad():
            torch.testing.assert_close(model(of_all), model(reached), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_edges_are_sampled_of_those_there_are(data, kind):
    known, names = there(data), set()
    for batch in loader_of(data, kind, relation_fanout=2, user_fanouts=(3, -1)):
        for layer in batch.layers:
            for one in layer.others:
                block = one.block
                assert (block.counts <= block.degrees.clamp(max=2)).all()
                if one.name not in ("wants", "rev_wants"):
                    assert torch.equal(block.counts.float(), block.degrees.clamp(max=2))
                means = torch.zeros(block.num_destinations)
                owners = torch.repeat_interleave(block.offsets.diff())
                means.index_add_(0, owners, block.residuals)
                means /= block.counts.clamp(min=1)
                assert ((means - 1).abs() < 1e-5).logical_or(means == 0).all()
        read = set(edges_read(data, batch))
        assert read <= known
        names |= {name for name, _, _ in read}
    assert names == {one.name for one in data.directions()}


@pytest.mark.parametrize("kind", KINDS)
def test_the_pair_of_a_target_is_read_along_no_relation(data, kind):
    """And is, where targets are not left out: the planted leak."""
    leaked = {}
    for left_out in (True, False):
        leaked[left_out] = 0
        for batch in loader_of(data, kind, exclude_targets=left_out):
            targets = set(target_pairs(batch))
            for name, end, source in edges_read(data, batch):
                pair = {"wants": (source, end), "rev_wants": (end, source)}.get(name)
                leaked[left_out] += pair in targets
    assert leaked[True] == 0 and leaked[False] > 100


@pytest.mark.parametrize("kind", KINDS)
def test_items_that_count_as_unseen_have_their_labels(data, kind):
    model, count = data.model(), 0
    (labels,) = directions_of([data.relations["has_kind"]])
    (whole,) = blocks_of_labels([labels])
    assert torch.equal(whole.block.offsets, torch.from_numpy(labels.edges.offsets))
    everything = embed_new_items(model, model.inputs.features, [whole]).nodes
    assert not torch.allclose(everything, embed_new_items(model, model.inputs.features).nodes)
    for batch in loader_of(data, kind, unseen_items=0.3):
        with torch.no_grad():
            nodes = model.encode(batch).nodes.items
        unseen = nodes[len(nodes) - len(batch.unseen) :]
        torch.testing.assert_close(unseen, everything[batch.unseen])
        count += len(unseen)
    assert count > 20


@pytest.mark.parametrize("kind", KINDS)
def test_a_loader_leaves_its_tables_as_it_found_them(data, kind):
    loader = loader_of(data, kind, relation_fanout=2)
    for _ in loader:
        for table in (loader._in_step, loader._user_numbers, loader._item_numbers):
            assert (table == -1).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_of_two_processes_is_that_of_one(data, kind):
    """With samples of relations, which are the same on all processes.

    With items in reach a process knows nothing of the others' targets, so none are left out.
    """
    options = {"relation_fanout": 2, "batch_size": 100, "unseen_items": 0.0}
    options["exclude_targets"] = kind == "users"

    def steps(world):
        step = make_step(data.model(), world)
        for batch in islice(loader_of(data, kind, world=world, **options), 2):
            step(batch)
        return listed(state_of(step))

    alone = make_step(data.model(), ALONE)
    for batch in islice(loader_of(data, kind, **options), 2):
        alone(batch)
    found = in_ranks(2, steps)
    assert found[0] == found[1]
    # The moments, which follow the gradient: Adam moves weights of tiny gradients by their signs.
    for name, value in state_of(alone).items():
        if "moment" in name:
            shape, numbers = found[0][name]
            scale = float(value.abs().max())
            one = torch.tensor(numbers).reshape(shape)
            torch.testing.assert_close(one, value, rtol=1e-3, atol=1e-3 * scale + 1e-12)


def test_without_relations_batches_are_what_they_were(data):
    plain = UserBatchLoader(data.graph, data.biases, config_of("users", **ALL), seed=5)
    for batch in plain:
        assert batch.unseen_others == () and all(layer.others == () for layer in batch.layers)


def test_chance_of_a_relation_is_its_own(data):
    """A second relation leaves the first one's samples as they are."""
    sizes = {"relation_fanout": 1, "user_fanouts": (2, 2), "item_fanouts": (2, 2)}
    alone = loader_of(data, "users", ("trusts",), **sizes)
    both = loader_of(data, "users", ("trusts", "has_kind"), **sizes)
    for one, other in zip(alone, both, strict=True):
        for of_one, of_other in zip(one.layers, other.layers, strict=True):
            first, same = of_one.others[0].block, of_other.others[0].block
            assert torch.equal(first.neighbours, same.neighbours)


def test_a_mean_is_weighed_by_the_edges_weights(data):
    trusts = data.relations["trusts"]
    (direction, _) = directions_of([trusts])
    loader = loader_of(data, "users", ("trusts",))
    step = next(iter(loader))
    block = step.layers[-1].others[0].block
    assert step.layers[-1].others[0].name == "trusts"
    weighed = 0
    for place, user in enumerate(step.user_nodes[: block.num_destinations].tolist()):
        weights = direction.edges.weights[direction.edges.of(user)].astype(np.float64)
        found = block.residuals[block.offsets[place] : block.offsets[place + 1]]
        mean = weights.mean() if len(weights) else 1
        expected = weights / mean if mean else weights
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)
        weighed += len(weights) > 1
    assert weighed
