"""LightGCN, LR-GCCF and NGCF against dense matrices, and the loader that feeds them."""

import numpy as np
import pytest
import torch
from test_biases import Ratings

from dglrec.biases import fit_biases
from dglrec.infer import embed_all
from dglrec.nn import ModelConfig, RatingModel
from dglrec.sampling import FullGraphLoader, LoaderConfig
from dglrec.train.spectral import start_vectors

ONLY_VECTORS = {
    "heads": "lists",
    "embedding_size": 5,
    "node_inputs": False,
    "user_identity": True,
    "item_identity": True,
    "identity_damping": 0.0,
    "list_maps": False,
    "dropout": 0.0,
}


@pytest.fixture(scope="module")
def ratings():
    return Ratings(num_users=14, num_items=9, edges=50, seed=4)


def make_model(graph, **config):
    torch.manual_seed(0)
    model = RatingModel(
        ModelConfig(**{**ONLY_VECTORS, **config}), graph.num_users, torch.zeros(graph.num_items, 0)
    )
    return model.eval()


def dense(graph):
    out = np.zeros((graph.num_users, graph.num_items))
    by_user = graph.by_user
    out[np.repeat(np.arange(graph.num_users), by_user.degrees), by_user.neighbours] = 1.0
    return torch.from_numpy(out).float()


def reference(model, adjacency, convolution, combination, layers):
    """All layers by one dense matrix over users and items."""
    users, items = model.inputs.user_vectors.weight, model.inputs.item_vectors.weight
    size = sum(adjacency.shape)
    whole = torch.zeros(size, size)
    whole[: len(users), len(users) :] = adjacency
    whole[len(users) :, : len(users)] = adjacency.T
    own = float(convolution == "lr_gccf")
    roots = (whole.sum(1) + own).clamp(min=1).rsqrt()
    normalised = roots[:, None] * whole * roots
    values = torch.cat((users, items))
    results = [values]
    for number in range(layers):
        summed = normalised @ values
        if convolution == "lr_gccf":
            summed = summed + values / (whole.sum(1) + 1)[:, None]
        if convolution == "ngcf":
            layer = model.encoder.layers[number]
            mapped = layer.plain(values + summed) + layer.product(summed * values)
            summed = torch.nn.functional.leaky_relu(mapped, 0.2)
            # Of length 1, but for what keeps the gradient of a zero vector finite.
            summed = summed / (summed.square().sum(1, keepdim=True) + 1e-6).sqrt()
        values = summed
        results.append(values)
    if combination == "concat":
        out = torch.cat(results, dim=1)
    else:
        out = torch.stack(results).mean(0) if combination == "mean" else results[-1]
    return out[: len(users)], out[len(users) :]


@pytest.mark.parametrize("convolution", ["lightgcn", "lr_gccf", "ngcf"])
@pytest.mark.parametrize("combination", ["last", "mean", "concat"])
def test_exact_embeddings_are_those_of_the_dense_graph(ratings, convolution, combination):
    graph = ratings.graph
    model = make_model(graph, convolution=convolution, combination=combination, layers=3)
    found = embed_all(model, graph, fit_biases(graph)).nodes
    with torch.no_grad():
        users, items = reference(model, dense(graph), convolution, combination, 3)
    torch.testing.assert_close(found.users, users, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.items, items, rtol=0, atol=1e-5)


@pytest.mark.parametrize("exclude", [True, False])
@pytest.mark.parametrize("convolution", ["lightgcn", "lr_gccf", "ngcf"])
def test_a_batch_is_encoded_without_its_targets(ratings, convolution, exclude):
    graph = ratings.graph
    model = make_model(graph, convolution=convolution, combination="mean", layers=2)
    config = LoaderConfig(kind="full", batch_size=9, folds=2, exclude_targets=exclude)
    loader = FullGraphLoader(graph, fit_biases(graph), config, layers=2)
    edges = []
    for batch in loader:
        if batch is None:
            continue
        edges += batch.edges.tolist()
        adjacency = dense(graph)
        if exclude:
            adjacency[batch.users, batch.items.long()] = 0.0
        found = model.encode(batch).nodes
        expected = reference(model, adjacency, convolution, "mean", 2)
        tables = [model.inputs.user_vectors.weight, model.inputs.item_vectors.weight]
        gradients = []
        for users, items in (found, expected):
            torch.testing.assert_close(users, expected[0], rtol=0, atol=1e-5)
            torch.testing.assert_close(items, expected[1], rtol=0, atol=1e-5)
            summed = torch.sin(users).sum() + torch.cos(3 * items).sum()
            gradients.append(torch.autograd.grad(summed, tables))
        for ours, theirs in zip(*gradients, strict=True):
            torch.testing.assert_close(ours.to_dense(), theirs.to_dense(), rtol=1e-5, atol=1e-5)
        owners = np.repeat(np.arange(graph.num_users), graph.by_user.degrees)
        assert batch.users.tolist() == owners[batch.edges].tolist()
        assert batch.items.tolist() == graph.by_user.neighbours[batch.edges].tolist()
    assert sorted(edges) == list(range(graph.num_edges))


def test_combinations_and_starts_that_make_no_sense_are_refused():
    for wrong, message in (
        ({"node_inputs": False}, "user_identity"),
        ({"identity_start": "spectral"}, "user_identity"),
        ({"list_maps": False, "heads": "rating"}, "list head"),
    ):
        with pytest.raises(ValueError, match=message):
            ModelConfig(**wrong)


@pytest.mark.parametrize("std", [0.1, 0.5])
def test_vectors_may_begin_at_the_spectrum(ratings, std):
    """Their products are those of the largest singular vectors and values, with numpy."""
    graph, width = ratings.graph, 3
    config = {"embedding_size": width, "identity_start": "spectral", "spectral_std": std}
    model = make_model(graph, convolution="lightgcn", combination="mean", layers=1, **config)
    start_vectors(model, graph, seed=0)
    adjacency = dense(graph).double().numpy()
    roots = [np.maximum(adjacency.sum(axis), 1) ** -0.5 for axis in (1, 0)]
    left, singular, right = np.linalg.svd(roots[0][:, None] * adjacency * roots[1])
    users, items = (vectors[:, :width] * np.sqrt(singular[:width]) for vectors in (left, right.T))
    tables = model.inputs.user_vectors, model.inputs.item_vectors
    found = [table.weight.detach().double().numpy() for table in tables]
    for ours, theirs, side in zip(
        found, (users, items), (graph.by_user, graph.by_item), strict=True
    ):
        ours[side.degrees == 0] = 0  # a node without edges stays where chance has put it
        assert ours.std(ddof=1) == pytest.approx(std, rel=1e-4)
        # Signs are free, and rows of both are in proportion.
        scale = np.linalg.norm(ours) / np.linalg.norm(theirs)
        np.testing.assert_allclose(ours @ ours.T, scale**2 * theirs @ theirs.T, atol=1e-3)
