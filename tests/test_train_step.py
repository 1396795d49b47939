"""One step, from a loader's batch to weights: in either precision."""

import math

import pytest
import torch
from runs import planted

from dglrec.nn import ModelConfig
from dglrec.run import new_model
from dglrec.sampling import LoaderConfig
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
        loader = {"kind": "full" if "convolution" in model else "users", "batch_size": 1_000}
        settings = Settings(
            ModelConfig(embedding_size=16, decoder_size=8, dropout=0.0, **model),
            LoaderConfig(**loader),
            TrainConfig(learning_rate=0.01, warmup_steps=0, precision=precision),
            ranking=RankingConfig(**(ranking or {})),
        ).resolved(dataset.graph, has_ratings=dataset.has_ratings)
        torch.manual_seed(4)
        self.model = new_model(settings.model, dataset)
        self.objective = make_objective(settings.model.heads, "mse", settings.ranking, dataset, CPU)
        self.batch = next(
            iter(make_loader(dataset.graph, dataset.biases, settings.loader, 0, CPU, layers=2))
        )
        self.step = TrainingStep(self.model, settings.train, self.objective, steps=10)

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
            nodes, users, items = case.model.encode(case.batch)
        as_float32 = [
            None if values is None else type(values)(*(one.float() for one in values))
            for values in (nodes, users, items)
        ]
        encoded = type(case.model.encode(case.batch))(*as_float32)
        expected = case.objective.costs(case.model, encoded, case.batch)
    costs = case.step(case.batch).costs
    assert costs.total.dtype == torch.float32
    for found, wanted in zip(costs, expected, strict=True):
        assert float(found) == pytest.approx(float(wanted), rel=1e-6)
