"""Maps of relations: what they add up to, and that they begin by saying nearly nothing."""

import numpy as np
import pytest
import torch
from relations import Related

from dglrec.blocks import Block, RelationBlock
from dglrec.config import load_settings
from dglrec.errors import UsageError
from dglrec.infer import embed_all
from dglrec.nn import NodeValues, RelationMaps

SIZE = 8


@pytest.fixture(scope="module")
def data():
    return Related()


def block_of(offsets, neighbours, weights=None):
    weights = torch.ones(len(neighbours)) if weights is None else torch.tensor(weights)
    offsets = torch.tensor(offsets)
    return Block(offsets, torch.tensor(neighbours), weights, offsets.diff().float())


def test_messages_are_maps_of_weighed_means_added_up(data):
    maps = RelationMaps(SIZE, 2, data.directions())
    nodes = NodeValues(torch.randn(4, SIZE), torch.randn(5, SIZE))
    trusted = block_of([0, 2, 2], [1, 3], [1.5, 0.5])
    homes = block_of([0, 1, 3], [2, 0, 1])
    kinds = block_of([0, 0, 1, 1], [3])
    told = maps.messages(
        1,
        (
            RelationBlock("trusts", "user", "user", trusted),
            RelationBlock("rev_has_home", "user", "home", homes),
            RelationBlock("rev_has_kind", "item", "kind", kinds),
        ),
        nodes,
    )
    of_layer = {name: maps.layers[1][f"by_{name}"] for name in maps.names}
    labels = maps.label_vectors("home")
    mean = (1.5 * nodes.users[1] + 0.5 * nodes.users[3]) / 2
    expected = of_layer["trusts"](mean) + of_layer["rev_has_home"](labels[2])
    torch.testing.assert_close(told.users[0], expected)
    expected = of_layer["rev_has_home"]((labels[0] + labels[1]) / 2)
    torch.testing.assert_close(told.users[1], expected)
    torch.testing.assert_close(
        told.items[1], of_layer["rev_has_kind"](maps.label_vectors("kind")[3])
    )
    assert not told.items[[0, 2]].any()


def test_other_weights_are_what_they_are_without_relations(data):
    without = data.model("trusts", noise=0.0, heads="both")
    torch.manual_seed(1)
    plain = type(without)(
        without.config.model_copy(update={"relations": ()}), 60, torch.randn(45, 4)
    )
    weights, few = without.state_dict(), plain.state_dict()
    assert few.keys() < weights.keys()
    assert all(name.startswith("relations.") for name in weights.keys() - few.keys())
    assert all(torch.equal(weights[name], value) for name, value in few.items())


def test_a_relation_begins_by_saying_nearly_nothing(data):
    related = data.model(noise=0.0)
    torch.manual_seed(1)
    plain = type(related)(
        related.config.model_copy(update={"relations": ()}), 60, torch.randn(45, 4)
    ).eval()
    one = embed_all(related, data.graph, data.biases, directions=data.directions()).nodes
    other = embed_all(plain, data.graph, data.biases).nodes
    for found, expected in zip(one, other, strict=True):
        assert not torch.equal(found, expected)
        assert float((found - expected).std()) < 0.15 * float(expected.std())


def test_inference_along_other_relations_than_the_models_is_refused(data):
    with pytest.raises(ValueError, match="the model reads"):
        embed_all(data.model("trusts"), data.graph, data.biases)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["model.convolution=lightgcn"], "relations are read by convolution sage, gcn, "),
        (["model.layers=0"], "layers is 0"),
        (["model.relations=trusts,trusts"], "name each once"),
        (["loader.relation_fanout=0"], "relation_fanout 0"),
    ],
)
def test_what_reads_no_relations_is_refused_by_name(settings, message):
    with pytest.raises(UsageError, match=message):
        load_settings(assignments=["model.relations=trusts", *settings])


def test_names_between_commas_are_several():
    settings = load_settings(assignments=["model.relations=trusts,has_kind"])
    assert settings.model.relations == ("trusts", "has_kind")
    settings = load_settings(assignments=['model.relations=["trusts"]'])
    assert settings.model.relations == ("trusts",)
    assert load_settings().model.relations == ()


def test_labels_and_maps_learn(data):
    model = data.model(noise=0.0).train()
    maps = model.relations
    names = [f"by_{one.name}" for one in data.directions()]
    assert [sorted(layer) for layer in maps.layers] == [sorted(names)] * 2
    nodes = NodeValues(torch.randn(4, SIZE), torch.randn(5, SIZE))
    kinds = block_of([0, 2], [0, 3])
    told = maps.messages(0, (RelationBlock("rev_has_kind", "item", "kind", kinds),), nodes)
    told.items.square().sum().backward()
    gradient = maps.label_vectors("kind").grad
    assert np.flatnonzero(gradient.abs().sum(1)).tolist() == [0, 3]
    assert maps.layers[0]["by_rev_has_kind"].weight.grad.any()
