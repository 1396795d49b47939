"""Presets of convolutions in the frame of NGCF's: the same but for the convolution."""

from pathlib import Path

import pytest
import torch
from runs import weights_of
from test_biases import Ratings
from test_nn_collaborative import dense
from torch.nn import functional

from dglrec.biases import fit_biases
from dglrec.config import load_settings
from dglrec.dataset import prepare
from dglrec.infer import embed_all
from dglrec.nn import RatingModel
from dglrec.run import open_run
from dglrec.sampling import FullGraphLoader
from dglrec.train import train

PRESETS = ["gcn", "gat", "gin", "graphsage"]
OF_THE_CONVOLUTION = {"convolution", "rating_messages", "residual", "unit_length"}
SMALL = ["model.embedding_size=8", "model.dropout=0.0"]


@pytest.fixture(scope="module")
def graph():
    return Ratings(num_users=14, num_items=9, edges=50, seed=4).graph


def settings_of(name, *assignments):
    return load_settings(file=Path(name), assignments=[*SMALL, *assignments])


def model_of(name, graph):
    torch.manual_seed(0)
    config = settings_of(name).resolved(graph, has_ratings=False).model
    return RatingModel(config, graph.num_users, torch.zeros(graph.num_items, 0)).eval()


@pytest.mark.parametrize("name", PRESETS)
def test_they_differ_from_ngcf_by_the_convolution_alone(name):
    found, frame = (load_settings(file=Path(one)).to_dict() for one in (name, "ngcf"))
    differing = {
        (section, key)
        for section, values in found.items()
        for key, value in values.items()
        if value != frame[section][key]
    }
    assert differing == {("model", key) for key in OF_THE_CONVOLUTION}


def gcn(conv, adjacency, sources, own):
    degrees = adjacency.sum(1, keepdim=True) + 1
    others = adjacency.sum(0) + 1
    return conv.linear((adjacency / (degrees * others).sqrt()) @ sources + own / degrees)


def gat(conv, adjacency, sources, own):
    heads, width = conv.attention.shape
    mapped = conv.neighbour(sources).view(-1, heads, width)
    scores = conv.attend_own(own).unsqueeze(1) + (mapped * conv.attention).sum(2)
    scores = functional.leaky_relu(scores, 0.2)
    shares = scores.masked_fill(adjacency[..., None] == 0, -torch.inf).softmax(1).nan_to_num(0)
    return torch.einsum("dsh,shf->dhf", shares, mapped).flatten(1) + conv.bias


def gin(conv, adjacency, sources, own):
    return conv.mlp((1 + conv.epsilon) * own + adjacency @ sources)


def graphsage(conv, adjacency, sources, own):
    means = (adjacency / adjacency.sum(1, keepdim=True).clamp(min=1)) @ sources
    return conv.own(own) + conv.neighbour(means)


def reference(name, model, adjacency):
    """All layers over dense matrices: in between a ReLU, each of length 1, side by side."""
    conv = {"gcn": gcn, "gat": gat, "gin": gin, "graphsage": graphsage}[name]
    users, items = model.inputs.user_vectors.weight, model.inputs.item_vectors.weight
    results = [(users, items)]
    for number, layer in enumerate(model.encoder.layers):
        both = (
            conv(layer.to_users.bare, adjacency, items, users),
            conv(layer.to_items.bare, adjacency.T, users, items),
        )
        last = number == len(model.encoder.layers) - 1
        both = [one if last else functional.relu(one) for one in both]
        users, items = (one / (one.square().sum(1, keepdim=True) + 1e-6).sqrt() for one in both)
        results.append((users, items))
    return [torch.cat(side, dim=1) for side in zip(*results, strict=True)]


@pytest.mark.parametrize("name", PRESETS)
def test_exact_embeddings_are_those_of_dense_matrices(name, graph):
    model = model_of(name, graph)
    found = embed_all(model, graph, fit_biases(graph)).nodes
    with torch.no_grad():
        expected = reference(name, model, dense(graph))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", PRESETS)
def test_a_step_reads_the_whole_graph_without_its_targets(name, graph):
    model = model_of(name, graph)
    config = settings_of(name, "loader.batch_size=9", "loader.folds=2").loader
    for batch in FullGraphLoader(graph, fit_biases(graph), config, layers=3):
        if batch is None:
            continue
        adjacency = dense(graph)
        adjacency[batch.users, batch.items.long()] = 0.0
        found, expected = model.encode(batch).nodes, reference(name, model, adjacency)
        sums = []
        for users, items in (found, expected):
            sums.append(torch.sin(users).sum() + torch.cos(3 * items).sum())
        parameters = [*model.encoder.parameters()]
        gradients = [torch.autograd.grad(one, parameters) for one in sums]
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
        for ours, theirs in zip(*gradients, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", PRESETS)
def test_they_train_on_interactions(name, tmp_path):
    rows = [(user, (3 * user + step) % 17) for user in range(30) for step in range(8)]
    source = tmp_path / "clicks.csv"
    source.write_text("user_id,item_id\n" + "".join(f"{u},{i}\n" for u, i in rows))
    dataset = prepare(source, tmp_path / "data")
    settings = settings_of(name, "train.epochs=2", "ranking.at=3")
    train(dataset, tmp_path / "run", settings)
    trained = open_run(tmp_path / "run")
    assert trained.model.config.encoded_size == 32
    assert all(one.isfinite().all() for one in weights_of(tmp_path / "run").values())
