"""How alike nodes are, layer by layer: with answers that are known, and beside numpy."""

import numpy as np
import pytest
import torch
from batches import Ratings

from dglrec.infer import cosines_by_layer, embed_all, mean_cosines, smoothing
from dglrec.nn import ModelConfig, NodeValues, RatingModel


def test_known_cosines():
    users = torch.outer(torch.arange(1.0, 8), torch.tensor([1.0, -2.0]))  # multiples of one
    items = torch.zeros(3, 2)
    assert mean_cosines(NodeValues(users, items)).tolist() == pytest.approx([1.0, 0.0])
    opposite = torch.tensor([[1.0, 2.0], [-2.0, -4.0]])
    assert mean_cosines(NodeValues(opposite, users)).tolist() == pytest.approx([-1.0, 1.0])


def test_it_is_the_mean_over_all_pairs_but_for_chance():
    values = torch.randn(300, 4, generator=torch.Generator().manual_seed(1)) + 0.5
    rows = (values / values.norm(dim=1, keepdim=True)).double().numpy()
    table = rows @ rows.T
    pairs = table[~np.eye(len(table), dtype=bool)]
    found = float(mean_cosines(NodeValues(values, values))[0])
    assert abs(found - pairs.mean()) < 4 * pairs.std() / 100  # of 10,000 pairs
    assert mean_cosines(NodeValues(values, values)).tolist() == [found, found]


def test_of_wide_nodes_fewer_pairs_are_read(monkeypatch):
    monkeypatch.setattr(smoothing, "_NUMBERS", 8)
    assert mean_cosines(NodeValues(torch.ones(5, 4), torch.ones(5, 40))).tolist() == [1.0, 1.0]


def test_one_node_has_no_pair():
    found = mean_cosines(NodeValues(torch.ones(1, 4), torch.ones(2, 4)))
    assert cosines_by_layer([found], combined=False) == [{"layer": 0, "users": None, "items": 1.0}]


def test_layers_that_average_make_nodes_alike():
    """Sums over neighbours without a map, as LightGCN has them, end at one direction."""
    ratings = Ratings(num_users=30, num_items=20, edges=300)
    config = ModelConfig(
        heads="lists",
        convolution="lightgcn",
        combination="mean",
        layers=6,
        node_inputs=False,
        user_identity=True,
        identity_damping=0.0,
        item_features=False,
        list_maps=False,
    )
    torch.manual_seed(0)
    model = RatingModel(config, ratings.num_users, torch.zeros(ratings.num_items, 0))
    embeddings = embed_all(model, ratings.graph, ratings.biases, with_cosines=True)
    found = cosines_by_layer(embeddings.cosines, combined=True)
    assert [one["layer"] for one in found] == [0, 1, 2, 3, 4, 5, 6, "combined"]
    of_items = [one["items"] for one in found]
    assert abs(of_items[0]) < 0.1 and of_items[6] > 0.5
    assert of_items[0] < of_items[2] < of_items[4] < of_items[6]
    last = mean_cosines(embeddings.nodes).tolist()
    assert [found[-1]["users"], found[-1]["items"]] == pytest.approx(last)
