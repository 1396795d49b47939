"""Older edges weigh less: known weights, gradients of the rate, and no weights where it is 0."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from batches import Ratings

from dglrec.blocks import Block
from dglrec.config import build_settings
from dglrec.errors import UsageError
from dglrec.infer import embed_all
from dglrec.nn import ModelConfig, RatingModel, half_lives
from dglrec.nn.convolutions import RatingConv, RefinementConv, RelationConv
from dglrec.nn.decay import TimeDecay, mean_of
from dglrec.nn.lists import ListHead, ListRows
from dglrec.relations import DERIVED_NAMES
from dglrec.sampling import LoaderConfig, UserBatchLoader

COUNTS = [4, 0, 1, 7]
SOURCES, SIZE = 6, 5


def block_of(seed=0, counts=COUNTS):
    generator = torch.Generator().manual_seed(seed)
    counts = torch.tensor(counts)
    edges = int(counts.sum())
    ages = torch.rand(edges, generator=generator) * 3
    for first in (counts.cumsum(0) - counts)[counts > 0].tolist():
        ages[first] = 0  # the latest one
    return Block(
        torch.cat((counts.new_zeros(1), counts.cumsum(0))),
        torch.randint(SOURCES, (edges,), generator=generator),
        torch.randn(edges, generator=generator),
        counts.float(),
        ages=ages,
    )


def decay_of(rate):
    decay = TimeDecay()
    with torch.no_grad():
        decay.strength.fill_(math.log1p(rate) / 4)
    assert float(decay.rate.detach()) == pytest.approx(rate)
    return decay


def parts(block):
    for first, last in zip(block.offsets[:-1].tolist(), block.offsets[1:].tolist(), strict=True):
        yield slice(first, last)


def rows(seed=3):
    return torch.randn(SOURCES, SIZE, generator=torch.Generator().manual_seed(seed))


def test_a_mean_is_weighed_by_half_lives():
    block, decay, sources = block_of(), decay_of(math.log(2) / 1.5), rows()
    assert decay.half_life == pytest.approx(1.5)
    weights = decay(block)
    found = mean_of(block, sources, weights, block.residuals)
    for d, part in enumerate(parts(block)):
        of_edges = 0.5 ** (block.ages[part] / 1.5)
        expected = torch.zeros(SIZE)
        effective = 1.0
        if len(of_edges):
            messages = block.residuals[part].unsqueeze(1) * sources[block.neighbours[part]]
            expected = (of_edges.unsqueeze(1) * messages).sum(0) / of_edges.sum()
            effective = of_edges.sum() ** 2 / (of_edges**2).sum() / len(of_edges)
        torch.testing.assert_close(found[d], expected)
        assert float(weights.effective[d].detach()) == pytest.approx(float(effective))
        assert float(weights.of_ridge(block)[part].detach().sum()) == pytest.approx(
            float(effective) * len(of_edges), abs=1e-6
        )


def test_only_differences_of_time_within_a_node_count():
    block, decay = block_of(), decay_of(0.7)
    later = block.ages + torch.repeat_interleave(torch.tensor([5.0, 1, 9, 2]), block.counts)
    for one, other in zip(decay(block), decay(replace(block, ages=later)), strict=True):
        torch.testing.assert_close(one, other)


def line_one_by_one(conv, block, sources, destinations):
    """Each destination's level and slope by least squares, at the time that is looked at."""
    found = []
    damping = torch.cat((conv.damping, conv.log_trend_damping.exp().expand_as(conv.damping)))
    weights = torch.ones(len(block.ages)) if conv.decay is None else None
    if weights is None:
        weights = conv.decay(block).of_ridge(block)
    for d, part in enumerate(parts(block)):
        near = conv.source(sources)[block.neighbours[part]]
        left = block.residuals[part] - near @ conv.guess(destinations[d])
        root = weights[part].sqrt().unsqueeze(1)
        near = torch.cat((near, -block.ages[part].unsqueeze(1) * near), 1)
        design = torch.cat((root * near, damping.sqrt().diag())).double()
        aim = torch.cat((root[:, 0] * left, torch.zeros(6))).double()
        both = torch.linalg.lstsq(design, aim.unsqueeze(1)).solution.squeeze(1)
        found.append(conv.out.weight.double() @ (both[:3] + conv.ahead * both[3:]))
    return torch.stack(found)


@pytest.mark.parametrize("time_decay", [False, True])
def test_a_trend_is_a_line_in_time_by_least_squares(time_decay):
    torch.manual_seed(1)
    conv = RefinementConv(SIZE, 3, time_decay=time_decay, time_trend=True)
    with torch.no_grad():
        for parameter in conv.parameters():
            parameter.add_(0.3 * torch.rand_like(parameter))
    block, sources, destinations = block_of(), rows(), rows(4)[: len(COUNTS)]
    found = conv(block, sources, destinations)
    expected = line_one_by_one(conv, block, sources, destinations)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)
    upstream = torch.randn(found.shape)
    # The rate has a gradient by another way, which `test_the_rate...` holds.
    learned = {name: one for name, one in conv.named_parameters() if "decay" not in name}
    for name, one, other in zip(
        learned,
        torch.autograd.grad(found, list(learned.values()), upstream),
        torch.autograd.grad(expected, list(learned.values()), upstream.double()),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4, msg=name)


def test_a_trend_finds_a_taste_that_turns():
    """Ratings by a taste that moves from one direction to another; without times, their mean."""
    generator = torch.Generator().manual_seed(2)
    conv = RefinementConv(2, 2, time_trend=True)
    with torch.no_grad():
        for linear in (conv.source, conv.out):
            linear.weight.copy_(torch.eye(2))
        conv.guess.weight.zero_()
        conv.log_damping.fill_(-9), conv.log_trend_damping.fill_(-9)
    sources, ages = torch.randn(300, 2, generator=generator), torch.linspace(1, 0, 300)
    tastes = torch.stack((1 - ages, ages), 1)
    block = Block(
        torch.tensor([0, 300]),
        torch.arange(300),
        (sources * tastes).sum(1),
        torch.tensor([300.0]),
        ages=ages,
    )
    with torch.no_grad():
        now = conv(block, sources, torch.zeros(1, 2))
        flat = conv(replace(block, ages=None), sources, torch.zeros(1, 2))
        conv.ahead.fill_(-1.0)
        before = conv(block, sources, torch.zeros(1, 2))
    torch.testing.assert_close(now, torch.tensor([[1.0, 0.0]]), rtol=0, atol=1e-2)
    torch.testing.assert_close(before, torch.tensor([[0.0, 1.0]]), rtol=0, atol=1e-2)
    torch.testing.assert_close(flat, torch.tensor([[0.5, 0.5]]), rtol=0, atol=0.1)


def modules():
    """What reads a block, as functions of their parameters alone."""
    torch.manual_seed(0)
    config = ModelConfig(
        embedding_size=SIZE, refinement=3, time_decay=True, list_size=4, heads="both"
    )
    conv = RelationConv(SIZE, config)
    ridge = RefinementConv(SIZE, 3, time_decay=True)
    head = ListHead(config, SOURCES)
    lists = ListRows(head.rated.weight, head.weighed.weight, None)
    destinations = rows(4)[: len(COUNTS)]
    return {
        "messages": (conv, conv.decay, lambda block, s: conv(block, s, destinations.to(s.dtype))),
        "ridge": (ridge, ridge.decay, lambda block, s: ridge(block, s, destinations.to(s.dtype))),
        "lists": (
            head,
            head.decay,
            lambda block, s: head.of_users(destinations.to(s.dtype), block, lists)[0],
        ),
    }


@pytest.mark.parametrize("name", ["messages", "ridge", "lists"])
@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_the_rates_gradient_is_that_of_finite_differences(name, rate):
    module, decay, of = modules()[name]
    module.double()
    block = block_of()
    block = replace(block, ages=block.ages.double(), residuals=block.residuals.double())
    sources, upstream = rows().double(), None
    with torch.no_grad():
        decay.strength.fill_(math.log1p(rate) / 4)

    def loss():
        nonlocal upstream
        out = of(block, sources)
        if upstream is None:
            upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(7)).double()
        # So that the gradient is below 0, where a rate of 0 lets it pass.
        return -(out * upstream).sum() * sign

    sign = 1.0
    (gradient,) = torch.autograd.grad(loss(), decay.strength)
    if rate == 0 and gradient == 0:
        sign = -1.0
        (gradient,) = torch.autograd.grad(loss(), decay.strength)
    assert abs(float(gradient)) > 1e-3
    step = 1e-6
    with torch.no_grad():
        values = []
        for shift in (step, 0.0) if rate == 0 else (step, -step):
            decay.strength.add_(shift)
            values.append(float(loss()))
            decay.strength.sub_(shift)
    width = step if rate == 0 else 2 * step
    assert float(gradient) == pytest.approx((values[0] - values[1]) / width, rel=1e-3)


@pytest.mark.parametrize("name", ["messages", "ridge", "lists"])
def test_at_a_rate_of_0_all_is_as_without_ages(name):
    _, _, of = modules()[name]
    block = block_of()
    torch.testing.assert_close(of(block, rows()), of(replace(block, ages=None), rows()))


@pytest.mark.parametrize("name", ["messages", "ridge", "lists"])
def test_with_decay_something_changes(name):
    _, decay, of = modules()[name]
    block = block_of()
    before = of(block, rows())
    with torch.no_grad():
        decay.strength.fill_(0.3)
    changed = (of(block, rows()) - before).abs().amax(1)
    # Not where there is one edge or none.
    assert (changed[[0, 3]] > 1e-3).all() and (changed[[1, 2]] < 1e-5).all()


def test_the_rate_stays_at_0_where_it_would_fall_and_rises_from_there():
    decay = TimeDecay()
    for direction, expected in ((1.0, 0.0), (-1.0, 4.0)):
        (gradient,) = torch.autograd.grad(direction * decay.rate, decay.strength)
        assert float(gradient) == -expected
    with torch.no_grad():
        decay.strength.fill_(-0.2)
    assert float(decay.rate) == 0 and decay.half_life == math.inf
    (gradient,) = torch.autograd.grad(-decay.rate, decay.strength)
    assert float(gradient) < 0  # and comes back


def test_very_old_edges_weigh_nothing_and_break_nothing():
    block = block_of()
    block = replace(block, ages=block.ages * 1e6)
    decay = decay_of(5.0)
    weights = decay(block)
    assert all(bool(one.isfinite().all()) for one in weights)
    found = mean_of(block, rows(), weights)
    torch.testing.assert_close(found[3], rows()[block.neighbours[5]])  # the latest one alone
    found.sum().backward()
    assert bool(decay.strength.grad.isfinite())


def test_damping_counts_the_ratings_that_the_weighed_mean_stands_for():
    block, decay = block_of(), decay_of(0.8)
    conv = RatingConv(SIZE, SIZE)
    weights = decay(block)
    found = conv(block, rows(), weights)
    means = mean_of(block, conv.rating(rows()), weights, block.residuals)
    numbers = (block.degrees * weights.effective).unsqueeze(1)
    torch.testing.assert_close(found, means * numbers / (numbers + conv.damping))


class Timed(Ratings):
    def __init__(self):
        super().__init__(30, 20, 200)
        times = np.random.default_rng(4).integers(10**9, 10**9 + 10**6, 200)
        self.graph = replace(self.graph, times=times)

    def model(self, time_decay, strength=0.0, **trend):
        torch.manual_seed(1)
        config = ModelConfig(
            embedding_size=8,
            decoder_size=6,
            list_size=5,
            dropout=0.0,
            heads="both",
            time_decay=time_decay,
            **trend,
        )
        model = RatingModel(config, self.num_users, torch.zeros(self.num_items, 0))
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("decay.strength"):
                    parameter.fill_(strength)
                elif parameter.dim() > 1:
                    parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
        return model.eval()


@pytest.fixture(scope="module")
def data():
    return Timed()


def test_a_model_has_the_weights_that_it_has_without(data):
    plain, decaying = (data.model(one).state_dict() for one in (False, True))
    assert {name for name in decaying if name not in plain} == {
        *(
            f"encoder.layers.{n}.{to}.decay.strength"
            for n in (0, 1)
            for to in ("to_users", "to_items")
        ),
        "encoder.layers.1.refinement.decay.strength",
        "list_head.decay.strength",
    }
    assert all(torch.equal(plain[name], decaying[name]) for name in plain)


@pytest.mark.parametrize("trend", [{}, {"time_trend": True, "refined_layers": "all"}], ids=str)
def test_exact_embeddings_are_those_of_a_batch_of_all_edges(data, trend):
    """A step that leaves nothing out and samples nothing, which finds ages of its own."""
    model = data.model(True, strength=0.4, **trend)
    exact = embed_all(model, data.graph, data.biases)
    config = LoaderConfig(
        batch_size=10**6,
        folds=1,
        items="all",
        unseen_items=0.0,
        exclude_targets=False,
        user_fanouts=(-1, -1),
        item_fanouts=(-1, -1),
    )
    (batch,) = UserBatchLoader(data.graph, data.biases, config, ages=True)
    with torch.no_grad():
        encoded = model.encode(batch)
    users = batch.user_nodes[: len(encoded.nodes.users)]
    torch.testing.assert_close(encoded.nodes.users, exact.nodes.users[users], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(encoded.nodes.items, exact.nodes.items, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        encoded.users.factors, exact.lists[0].factors[users], rtol=1e-4, atol=1e-5
    )
    without = embed_all(data.model(False), data.graph, data.biases).nodes
    assert (without.users - exact.nodes.users).abs().max() > 1e-2
    if trend:
        return
    same = embed_all(data.model(True), data.graph, data.biases).nodes
    torch.testing.assert_close(same.users, without.users, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model": {"convolution": "lightgcn"}}, "and not with lightgcn"),
        ({"model": {"aggregator": "pool"}}, "and not with sage and pool"),
        ({"model": {"layers": 0}}, "layers is 0"),
    ],
)
def test_what_has_no_means_to_weigh_is_refused(values, message):
    with pytest.raises(UsageError, match=message):
        build_settings({"model": {"time_decay": True, **values["model"]}})


@pytest.mark.parametrize(
    "values",
    [{"refinement": 0}, {"layers": 0}, {"convolution": "ngcf"}, {"rating_messages": False}],
    ids=str,
)
def test_a_trend_without_a_ridge_regression_is_refused(values):
    with pytest.raises(UsageError, match="time_trend is part of the ridge regression"):
        build_settings({"model": {"time_trend": True, **values}})


@pytest.mark.parametrize(
    "values",
    [
        {"loader": {"kind": "full"}},
        {"loader": {"kind": "neighbor"}, "model": {"heads": "rating"}},
        {"train": {"compile": True}},
    ],
)
@pytest.mark.parametrize("setting", ["time_decay", "time_trend", "folds_by"])
def test_what_reads_no_timestamps_is_refused(data, values, setting):
    model = {**values.get("model", {}), **({} if setting == "folds_by" else {setting: True})}
    loader = {**values.get("loader", {}), **({"folds_by": "time"} if setting == "folds_by" else {})}
    with pytest.raises(UsageError, match=f"{setting}"):
        build_settings({**values, "model": model, "loader": loader}).resolved(data.graph)


def test_data_without_timestamps_are_refused(data):
    graph = replace(data.graph, times=None)
    for values in ({"model": {"time_decay": True}}, {"loader": {"folds_by": "time"}}):
        with pytest.raises(UsageError, match="the data set has no timestamps"):
            build_settings(values).resolved(graph)


def test_folds_follow_time_where_older_ratings_weigh_less(data):
    def folds_by(**model):
        return build_settings({"model": model}).resolved(data.graph).loader.folds_by

    assert folds_by(time_decay=True) == "time" and folds_by() == "chance"


def test_settings_that_a_run_keeps_can_be_read_again(data):
    given = {"model": {"time_decay": True}, "loader": {"exclude_targets": False}}
    resolved = build_settings(given).resolved(data.graph)
    assert resolved.loader.folds_by == "chance"  # folds in time leave targets out
    again = build_settings(resolved.to_dict()).resolved(data.graph)
    assert again.to_dict() == resolved.to_dict()


def test_of_items_more_than_one_rater_is_read_where_a_decay_is_to_be_learned(data):
    def fanouts(**values):
        return build_settings(values).resolved(data.graph).loader.item_fanouts

    decay = {"model": {"time_decay": True}}
    assert fanouts(**decay) == (10, 10)
    assert fanouts(**decay, loader={"item_fanouts": [3, 2]}) == (3, 2)


def test_times_as_far_apart_as_can_be_have_ages(data):
    ends = np.iinfo(np.int64).min, np.iinfo(np.int64).max
    count = data.graph.num_edges
    graph = replace(data.graph, times=np.resize(np.array(ends, dtype=np.int64), count))
    assert all(0 < unit < math.inf for unit in graph.time_units)
    (times, _) = graph.times_on(torch.device("cpu"))
    ages = times.ages(torch.arange(2), torch.tensor([2]))
    assert ages[1] == 0 and ages[0] * times.unit == pytest.approx(2.0**64)


@pytest.mark.parametrize(
    "model",
    [{"graph_features": True}, *({"relations": [name]} for name in DERIVED_NAMES)],
    ids=["features", *DERIVED_NAMES],
)
def test_what_tells_of_later_ratings_of_a_user_is_refused(data, model):
    for values in (
        {"model": {**model, "time_decay": True}},
        {"model": model, "loader": {"folds_by": "time"}},
    ):
        with pytest.raises(UsageError, match="would reveal what users rated later"):
            build_settings(values).resolved(data.graph)


def test_half_lives_are_told_in_the_unit_of_the_timestamps(data):
    model = data.model(True)
    assert set(half_lives(model, (3.0, 5.0)).values()) == {None}
    with torch.no_grad():
        model.encoder.layers[0].to_items.decay.strength.fill_(math.log1p(math.log(2) / 7) / 4)
        model.list_head.decay.strength.fill_(math.log1p(math.log(2) / 2) / 4)
    found = half_lives(model, (3.0, 5.0))
    assert found["encoder.layers.0.to_items"] == pytest.approx(35)
    assert found["list_head"] == pytest.approx(6)
    assert found["encoder.layers.1.refinement"] is None and len(found) == 6
    assert half_lives(data.model(False), (3.0, 5.0)) == {}
