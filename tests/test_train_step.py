"""One step, from a loader's batch to weights: in either precision, and of awkward graphs."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from batches import SCALE, graph_of
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import planted
from test_sampling_users import random_graphs, star

from dglrec.biases import fit_biases
from dglrec.nn import CONVOLUTIONS, ModelConfig
from dglrec.run import new_model
from dglrec.sampling import LoaderConfig, UserBatchLoader
from dglrec.train import RankingConfig, Settings, TrainConfig, TrainingStep
from dglrec.train.loaders import make_loader
from dglrec.train.objectives import make_objective

CPU = torch.device("cpu")
FACTORS = {"user_identity": True, "list_maps": False, "rating_messages": False}
MODELS = {
    "default": {},
    "attention": {"aggregator": "attention"},
    "pool": {"aggregator": "pool"},
    "sum": {"aggregator": "sum"},
    "ratings alone": {"heads": "rating"},
    "attention and ratings alone": {"heads": "rating", "aggregator": "attention"},
    "lists of bare embeddings": FACTORS,
    "gcn": {"convolution": "gcn", "combination": "max"},
    "gat": {"convolution": "gat", "attention_merge": "mean", "combination": "weighted"},
    "ngcf": {"convolution": "ngcf", "combination": "concat", **FACTORS},
    "lightgcn": {"convolution": "lightgcn", "combination": "mean", **FACTORS},
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return planted(tmp_path_factory.mktemp("planted"), users=120, items=50, ratings=3_000)


class Step:
    """A model, the first batch of an epoch, and what makes a step of it."""

    def __init__(self, dataset, model, precision, ranking=None):
        # Layers of collaborative filtering read the whole graph.
        whole = "convolution" in model and model["convolution"] not in CONVOLUTIONS
        loader = {"kind": "full" if whole else "users", "batch_size": 1_000}
        resolved = Settings(
            ModelConfig(embedding_size=16, decoder_size=8, dropout=0.0, **model),
            LoaderConfig(**loader),
            TrainConfig(learning_rate=0.01, warmup_steps=0, precision=precision),
            ranking=RankingConfig(**(ranking or {})),
        ).resolved(dataset.graph, has_ratings=dataset.has_ratings)
        torch.manual_seed(4)
        self.model = new_model(resolved.model, dataset)
        self.objective = make_objective(resolved.model.heads, "mse", resolved.ranking, dataset, CPU)
        draw = self.objective.sampler(CPU)
        graph, biases = dataset.graph, dataset.biases
        loader = make_loader(graph, biases, resolved.loader, 0, CPU, draw=draw, layers=2)
        self.batch = next(iter(loader))
        self.step = TrainingStep(self.model, resolved.train, self.objective, steps=10)

    def take(self):
        """The batch's costs by target, before the step; and every weight's change by it."""
        before = [weight.detach().clone() for weight in self.model.parameters()]
        torch.manual_seed(9)  # of pools
        outcome = self.step(self.batch)
        costs = [float(cost) / outcome.count for cost in outcome.costs]
        weights = zip(self.model.parameters(), before, strict=True)
        return costs, [after.detach() - old for after, old in weights]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("negatives", ["catalogue", "uniform"])
def test_a_step_in_bfloat16_is_about_that_of_float32(dataset, name, negatives):
    ranking = {"negatives": negatives}
    costs, changes = Step(dataset, MODELS[name], "float32", ranking).take()
    found, its_changes = Step(dataset, MODELS[name], "bfloat16", ranking).take()
    assert all(map(math.isfinite, found)) and found != costs
    assert found == pytest.approx(costs, rel=0.02)
    assert all(change.isfinite().all() and change.any() for change in its_changes)
    # Adam's first step moves a weight by its gradient's sign, so nearly all go the same way.
    one, other = (
        torch.cat([change.flatten() for change in those]) for those in (changes, its_changes)
    )
    assert float((one.sign() == other.sign()).float().mean()) > 0.9


@pytest.mark.parametrize("name", MODELS)
def test_heads_and_losses_are_float32_beside_an_encoder_in_bfloat16(dataset, name):
    case = Step(dataset, MODELS[name], "bfloat16", {"negatives": "catalogue"})
    with torch.no_grad():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            encoded = case.model.encode(case.batch)
        as_float32 = {
            name: type(values)(*(one.float() for one in values))
            for name in ("nodes", "users", "items")
            if (values := getattr(encoded, name)) is not None
        }
        encoded = encoded._replace(**as_float32)
        expected = case.objective.costs(case.model, encoded, case.batch)
    costs = case.step(case.batch).costs
    assert costs.total.dtype == torch.float32
    for found, wanted in zip(costs, expected, strict=True):
        assert float(found) == pytest.approx(float(wanted), rel=1e-6)


# --- graphs and batches at the edge of what there can be -----------------------------------------

EVERY = {"user_fanouts": (-1, -1), "item_fanouts": (-1, -1)}
LOSSES = {
    "catalogue": {"negatives": "catalogue"},
    "pool": {"negatives": "uniform", "pool": 4},
    "in batch": {"negatives": "in_batch"},
    "bpr": {"loss": "bpr", "negatives": "hard", "negatives_a_target": 3},
}


def take_epoch(graph, loader, model=None, ranking=None):
    """Steps over an epoch's batches of a graph; each one's number of targets.

    Of each step the squared errors are those of the predictions that the model makes before it, and
    loss and weights are numbers.
    """
    graph = graph_of(*graph)
    biases = fit_biases(graph)
    dataset = SimpleNamespace(
        graph=graph,
        biases=biases,
        mean_rating=biases.mean,
        scale=SCALE,
        has_ratings=True,
        item_features=torch.zeros(graph.num_items, 0),
        user_features=torch.zeros(graph.num_users, 0),
        user_feature_widths={},
        meta={"features": {}},
    )
    ranking = RankingConfig(**(ranking or {}))
    items = "all" if ranking.negatives == "catalogue" else "auto"
    loader = LoaderConfig(items=items, **loader).resolved(graph.num_edges, graph.num_items)
    every_item = loader.items == "all"
    counts = graph.num_users, graph.num_items, graph.num_edges
    ranking = ranking.resolved(*counts, every_item=every_item)
    model = ModelConfig(
        **{
            "heads": "both",
            "embedding_size": 4,
            "decoder_size": 4,
            "list_size": 4,
            "dropout": 0.0,
            "layers": len(loader.user_fanouts),
            "user_identity": True,
            **(model or {}),
        }
    )
    torch.manual_seed(2)
    model = new_model(model, dataset)
    if not every_item:
        model.read_items_by_rows()
    objective = make_objective("both", "mse", ranking, dataset, CPU)
    config = TrainConfig(learning_rate=0.01, warmup_steps=0)
    step = TrainingStep(model, config, objective, steps=10**6)
    counts = []
    for batch in UserBatchLoader(graph, dataset.biases, loader, draw=objective.sampler(CPU)):
        if batch is not None:
            with torch.no_grad():
                squared = (step.model(batch) - batch.ratings).double().square().sum()
        outcome = step(batch)
        counts.append(outcome.count)
        assert math.isfinite(float(outcome.costs.total))
        assert math.isfinite(float(outcome.costs.listed))
        assert all(weight.isfinite().all() for weight in step.model.state_dict().values())
        if batch is not None:
            assert float(outcome.costs.squared) == pytest.approx(float(squared), rel=1e-4, abs=1e-9)
    assert step.number == len(counts)
    return counts


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("unseen_items", [0.0, 0.9])
def test_batches_of_a_single_target(loss, unseen_items):
    graph = star([2] * 20, num_items=9)
    loader = {"batch_size": 1, "folds": 2, "unseen_items": unseen_items, **EVERY}
    counts = take_epoch(graph, loader, ranking=LOSSES[loss])
    assert sum(counts) == 40 and counts.count(1) > 10


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("rating", [0, 9])
def test_a_single_rating_is_all_there_is(loss, rating):
    graph = ([0], [0], [rating], 1, 1)
    counts = take_epoch(graph, {"batch_size": 1, "folds": 2, **EVERY}, ranking=LOSSES[loss])
    assert sum(counts) == 1


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("batch_size", [3, 1000])
def test_a_single_item(loss, batch_size):
    graph = (np.arange(20), np.zeros(20, dtype=int), np.arange(20) % 10, 20, 1)
    loader = {"batch_size": batch_size, "folds": 2, **EVERY}
    assert sum(take_epoch(graph, loader, ranking=LOSSES[loss])) == 20


@pytest.mark.parametrize("aggregator", ["mean", "sum", "pool", "attention"])
@pytest.mark.parametrize("batch_size", [1, 10, 1000])
@pytest.mark.parametrize("side", ["user", "item"])
def test_a_node_with_half_of_all_edges(side, batch_size, aggregator):
    users, items, codes, num_users, num_items = star([2] * 50 + [100])
    if side == "item":
        users, items, num_users, num_items = items, users, num_items, num_users
    loader = {"batch_size": batch_size, "folds": 2, "unseen_items": 0.2, **EVERY}
    graph = (users, items, codes, num_users, num_items)
    assert sum(take_epoch(graph, loader, {"aggregator": aggregator})) == 200


@given(random_graphs(), st.sampled_from(sorted(LOSSES)), st.sampled_from(["mean", "attention"]))
@settings(max_examples=40, deadline=None)
def test_an_epoch_of_any_graph_is_finite_and_has_each_edge_once(case, loss, aggregator):
    graph, loader = case
    counts = take_epoch(graph, loader, {"aggregator": aggregator}, LOSSES[loss])
    assert sum(counts) == len(graph[0])
