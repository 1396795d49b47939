"""Users as signals on a graph of items, against dense powers of the graph, and end to end."""

from pathlib import Path

import numpy as np
import pytest
import torch
from runs import planted, same_run, train_one_epoch

from dglrec.config import load_settings
from dglrec.derived import similar
from dglrec.distributed import ALONE
from dglrec.errors import UnusableEnvironmentError, UsageError
from dglrec.evaluate import evaluate
from dglrec.export import export
from dglrec.infer import embed_new_users
from dglrec.run import DERIVED, new_model, open_run, read_operator
from dglrec.sampling import UserBatchLoader
from dglrec.score import TopKOptions, recommend, score_top_k
from dglrec.train import memory, train
from dglrec.train.derived import derive_for

SMALL = ("model.filter_features=6,4", "model.filter_taps=3", "loader.batch_size=200")
QUICK = (
    "train.epochs=2",
    "derived.similar_neighbours=4",
    "derived.similar_shrinkage=10",
    "derived.similar_min_support=2",
)


def settings_of(*assignments):
    return load_settings(file=Path("gsp"), assignments=[*SMALL, *QUICK, *assignments])


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return planted(tmp_path_factory.mktemp("small"), 80, 40, 2_000)


@pytest.fixture(scope="module")
def dataset(plain, tmp_path_factory):
    return derive_for(
        plain, tmp_path_factory.mktemp("no") / "run", settings_of(), ALONE, resume=False
    )


@pytest.fixture(scope="module")
def run(plain, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(plain, folder, settings_of())
    return folder


def dense_values(model, matrix, signals):
    """[I, D] signals -> [D, I], in float64, by powers of the matrix."""
    values = signals.double().unsqueeze(2)
    layer = model.encoder.layers[0]
    for conv in layer.filters:
        weight, bias = (one.double() for one in conv.weights.parameters())
        by_tap = weight.view(len(weight), conv.taps, -1)
        powers = [torch.linalg.matrix_power(matrix, tap) for tap in range(conv.taps)]
        values = torch.relu(
            sum(
                torch.einsum("nm,mdf,gf->ndg", power, values, by_tap[:, tap])
                for tap, power in enumerate(powers)
            )
            + bias
        )
    return (values @ layer.readout.weight.double().T).squeeze(2).T


def shift_matrix(dataset):
    matrix = similar(dataset.graph, neighbours=4, shrinkage=10).matrix().toarray().astype(float)
    return torch.from_numpy(matrix / np.linalg.eigvalsh(matrix)[-1])


def model_of(dataset, noise=0.3):
    settings = settings_of().resolved(dataset.graph)
    torch.manual_seed(0)
    model = new_model(settings.model, dataset)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
    return model.eval(), settings


def test_a_steps_predictions_are_those_of_dense_powers(dataset):
    """Its users' signals hold their other ratings, less biases without the targets."""
    model, settings = model_of(dataset)
    graph, biases = dataset.graph, dataset.biases
    batch = next(iter(UserBatchLoader(graph, biases, settings.loader, 3)))
    found = model(batch)
    block = batch.layers[0].to_users
    signals = torch.zeros(graph.num_items, block.num_destinations)
    for user in range(block.num_destinations):
        places = slice(int(block.offsets[user]), int(block.offsets[user + 1]))
        signals[block.neighbours[places].long(), user] = block.residuals[places]
        rated = set(block.neighbours[places].tolist())
        own = batch.items[batch.users == user].tolist()
        assert not rated & set(own)
        assert len(rated) + len(own) == graph.by_user.degrees[batch.user_nodes[user]]
    values = dense_values(model, shift_matrix(dataset), signals)
    expected = batch.baselines + values[batch.users, batch.items.long()] + model.decoder.out.bias
    torch.testing.assert_close(found.double(), expected.double(), rtol=1e-4, atol=1e-4)
    assert (found - batch.baselines).std() > 0.01


def test_all_ratings_make_the_values_that_predict(run):
    trained = open_run(run)
    graph, biases, model = trained.dataset.graph, trained.dataset.biases, trained.model
    users = torch.from_numpy(np.repeat(np.arange(graph.num_users), graph.by_user.degrees))
    items = torch.from_numpy(np.asarray(graph.by_user.neighbours)).long()
    ratings = torch.from_numpy(graph.scale.decode(np.asarray(graph.by_user.codes)))
    signals = torch.zeros(graph.num_items, graph.num_users)
    signals[items, users] = ratings - biases.predict(users, items)
    with torch.no_grad():
        values = dense_values(model, shift_matrix(trained.dataset), signals)
    some = torch.tensor([0, 5, 79]), torch.tensor([39, 0, 17])
    with torch.no_grad():
        expected = biases.predict(*some) + values[some] + model.decoder.out.bias
    torch.testing.assert_close(
        trained.predict(*some).double(), expected.double(), rtol=1e-4, atol=1e-4
    )
    found = embed_new_users(
        model,
        trained.embeddings,
        graph.by_user.of_nodes(3, 6),
        graph.scale,
        biases.of_new_users(graph.by_user.of_nodes(3, 6), graph.scale),
    )
    assert found.nodes.shape == (3, graph.num_items)
    assert np.corrcoef(found.nodes.flatten(), values[3:6].flatten())[0, 1] > 0.95


def test_gradients_reach_every_weight(dataset):
    model, settings = model_of(dataset)
    batch = next(iter(UserBatchLoader(dataset.graph, dataset.biases, settings.loader, 3)))
    (model.train()(batch) - batch.ratings).square().sum().backward()
    assert all(one.grad.any() for one in model.parameters() if one.numel())


def test_the_preset_trains_evaluates_scores_and_resumes(plain, run, tmp_path, monkeypatch):
    trained = open_run(run)
    assert trained.model.config.embedding_size == 40
    assert (run / DERIVED).is_dir() and set(evaluate(trained)) >= {"rmse", "baselines"}
    score_top_k(trained, tmp_path / "out", 3, TopKOptions())
    with pytest.raises(UsageError, match="no vectors of users and items to export"):
        export(trained, tmp_path / "exported")
    assert len(recommend(trained, str(plain.users.ids[0]), 3)) == 3
    train_one_epoch(monkeypatch, plain, tmp_path / "run", settings_of())
    train(plain, tmp_path / "run", settings_of(), resume=True)
    assert same_run(run, tmp_path / "run")


def test_what_does_not_fit_in_memory_is_refused_before_anything_is_written(
    plain, tmp_path, monkeypatch
):
    settings = settings_of().resolved(plain.graph)
    step = memory.footprint(plain.graph, model_of_shapes(plain, settings), settings).step
    assert step > 4 * 40 * (80 + 40)
    monkeypatch.setattr(memory, "available_memory", lambda: step)
    with pytest.raises(UnusableEnvironmentError, match="a smaller loader.batch_size"):
        train(plain, tmp_path / "run", settings)
    assert not (tmp_path / "run").exists()


def model_of_shapes(plain, settings):
    dataset = derive_for(plain, plain.path, settings, ALONE, resume=False)
    return new_model(settings.model, dataset)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("model.heads=both", "takes heads rating; start from --config gsp"),
        ("model.layers=2", "takes layers 1"),
        ("model.item_identity=true", "takes item_identity False"),
        ("model.relations=similar", "relations are read by convolution sage"),
        ("model.filter_taps=0", "greater than or equal to 1"),
        ("model.filter_features=[]", "at least 1"),
    ],
)
def test_what_goes_with_vectors_is_refused(assignment, message):
    with pytest.raises(UsageError, match=message):
        settings_of("loader.user_fanouts=auto", "loader.item_fanouts=auto", assignment)


@pytest.mark.parametrize("assignment", ["loader.kind=full", "loader.items=reached"])
def test_signals_are_over_all_items(assignment, plain):
    with pytest.raises(UsageError, match="a user's signal is over all items"):
        settings_of(assignment).resolved(plain.graph)


def test_a_graph_that_is_not_symmetric_is_refused(dataset):
    settings = settings_of().resolved(dataset.graph)
    relation = dataset.relation("similar")
    relation.backward.weights[0] += 1
    try:
        with pytest.raises(UsageError, match=r"relation similar: .*not symmetric"):
            read_operator(settings.model, dataset)
    finally:
        relation.backward.weights[0] -= 1
