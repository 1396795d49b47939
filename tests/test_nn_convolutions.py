"""Each convolution on bare edges does, forward and backward, what its namesake of DGL does."""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import dgl
import dgl.nn
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from test_biases import Ratings
from test_nn import CLOSE, SIZE, dgl_sage, of_items, random_block, two_way_blocks
from torch import nn

from dglrec.blocks import Block
from dglrec.config import load_settings
from dglrec.errors import UsageError
from dglrec.kernels import attend, attend_jointly, attention, max_messages, maxima
from dglrec.nn import (
    CONVOLUTIONS,
    ConvolutionLayer,
    GATConv,
    GATv2Conv,
    GCNConv,
    GINConv,
    ModelConfig,
    RelationMaps,
    SAGEConv,
    lstm,
)
from dglrec.nn.bare import make_convolution
from dglrec.sampling import LoaderConfig
from dglrec.train import Settings, TrainConfig

# Of each convolution, and what GraphSAGE has several of.
KINDS = [
    {"convolution": "sage", "aggregator": "mean"},
    {"convolution": "sage", "aggregator": "sum"},
    {"convolution": "sage", "aggregator": "pool"},
    {"convolution": "sage", "aggregator": "attention"},
    {"convolution": "sage", "aggregator": "lstm", "lstm_neighbours": 50},
    {"convolution": "gcn"},
    {"convolution": "gat", "attention_heads": 2},
    {"convolution": "gat", "attention_heads": 3, "attention_merge": "mean"},
    {"convolution": "gatv2", "attention_heads": 3},
    {"convolution": "gin"},
    {"convolution": "pinsage"},
]


def name_of(kind):
    return "-".join(map(str, kind.values()))


def make(kind):
    torch.manual_seed(1)
    return make_convolution(SIZE, ModelConfig(embedding_size=SIZE, **kind))


def assert_same_gradients(found, expected, of_found, of_expected):
    """The same values, and the same gradients of a product with chance."""
    torch.testing.assert_close(found, expected, **CLOSE)
    upstream = torch.randn(found.shape, generator=torch.Generator().manual_seed(2))
    gradients = (
        torch.autograd.grad(out, inputs, upstream, allow_unused=True)
        for out, inputs in ((found, of_found), (expected, of_expected))
    )
    for ours, theirs in zip(*gradients, strict=True):
        if ours is None or theirs is None:  # where there is no edge
            assert all(one is None or not one.any() for one in (ours, theirs))
            continue
        # DGL has some weights transposed, or with a dimension more.
        turned = theirs.dim() == 2 and theirs.shape != ours.shape
        torch.testing.assert_close(ours, theirs.T if turned else theirs.view_as(ours), **CLOSE)


def with_gradients(*tensors):
    return tuple(one.clone().requires_grad_() for one in tensors)


def of_all_edges(block):
    """The block whose nodes have no other edges than those that it has."""
    sources = 1 + int(block.neighbours.max()) if len(block.neighbours) else 1
    return replace(
        block,
        degrees=block.offsets.diff().float(),
        source_degrees=torch.bincount(block.neighbours.long(), minlength=sources).float(),
    )


# ---------------------------------------------------------------- against DGL


@pytest.mark.parametrize("merge", ["concat", "mean"])
@given(two_way_blocks(), st.sampled_from([1, 2, 3]))
@settings(max_examples=12, deadline=None)
def test_gat_is_dgls(merge, given_blocks, heads):
    dgl_block, block, sources, destinations = of_items(given_blocks)
    conv = GATConv(SIZE, SIZE, heads, merge)
    width = SIZE // heads if merge == "concat" else SIZE
    twin = dgl.nn.GATConv((SIZE, SIZE), width, heads, allow_zero_in_degree=True)
    with torch.no_grad():
        twin.fc_src.weight.copy_(conv.neighbour.weight)
        twin.attn_l.copy_(conv.attention)
        conv.bias.normal_()
        twin.bias.copy_(conv.bias if merge == "concat" else conv.bias.repeat(heads))
        maps = twin.fc_dst.weight.view(heads, width, SIZE)
        conv.attend_own.weight.copy_((maps * twin.attn_r.view(heads, width, 1)).sum(1))
    ours, theirs = with_gradients(sources, destinations), with_gradients(sources, destinations)
    expected = twin(dgl_block, theirs)
    expected = expected.flatten(1) if merge == "concat" else expected.mean(1)
    assert_same_gradients(
        conv(block, *ours),
        expected,
        (*ours, conv.neighbour.weight, conv.attention),
        (*theirs, twin.fc_src.weight, twin.attn_l),
    )


@pytest.mark.parametrize("merge", ["concat", "mean"])
@given(two_way_blocks(), st.sampled_from([1, 2, 3]))
@settings(max_examples=12, deadline=None)
def test_gatv2_is_dgls(merge, given_blocks, heads):
    dgl_block, block, sources, destinations = of_items(given_blocks)
    conv = GATv2Conv(SIZE, SIZE, heads, merge)
    width = SIZE // heads if merge == "concat" else SIZE
    twin = dgl.nn.GATv2Conv((SIZE, SIZE), width, heads, allow_zero_in_degree=True)
    with torch.no_grad():
        for one, other in ((twin.fc_src, conv.neighbour), (twin.fc_dst, conv.own)):
            one.weight.copy_(other.weight)
            one.bias.copy_(other.bias)
        twin.attn.copy_(conv.attention)
    ours, theirs = with_gradients(sources, destinations), with_gradients(sources, destinations)
    expected = twin(dgl_block, theirs)
    expected = expected.flatten(1) if merge == "concat" else expected.mean(1)
    assert_same_gradients(
        conv(block, *ours),
        expected,
        (*ours, *conv.neighbour.parameters(), *conv.own.parameters(), conv.attention),
        (*theirs, *twin.fc_src.parameters(), *twin.fc_dst.parameters(), twin.attn),
    )


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 5), st.integers(0, 20))
@settings(max_examples=20, deadline=None)
def test_gcn_is_dgls_on_the_graph_of_users_and_items_with_self_loops(seed, users, items, edges):
    generator = torch.Generator().manual_seed(seed)
    pairs = torch.randperm(users * items, generator=generator)[:edges]
    owners, rated = pairs // items, pairs % items
    graph = dgl.graph(
        (torch.cat((owners, rated + users)), torch.cat((rated + users, owners))),
        num_nodes=users + items,
    )
    conv, twin = GCNConv(SIZE, 4), dgl.nn.GraphConv(SIZE, 4)
    with torch.no_grad():
        conv.linear.bias.normal_()
        twin.weight.copy_(conv.linear.weight.T)
        twin.bias.copy_(conv.linear.bias)
    values = torch.randn(users + items, SIZE, generator=generator)
    ours, theirs = with_gradients(values, values)
    expected = twin(dgl.add_self_loop(graph), theirs)
    degrees = [
        torch.bincount(ends, minlength=n).float() for ends, n in ((owners, users), (rated, items))
    ]
    found = []
    for ends, starts, own, other in ((owners, rated, *degrees), (rated, owners, *degrees[::-1])):
        order = torch.argsort(ends, stable=True)
        offsets = torch.cat((torch.zeros(1), own.cumsum(0))).long()
        block = Block(offsets, starts[order], torch.zeros(len(ends)), own, other)
        sides = (ours[users:], ours[:users]) if len(found) == 0 else (ours[:users], ours[users:])
        found.append(conv(block, *sides))
    assert_same_gradients(
        torch.cat(found),
        expected,
        (ours, *conv.parameters()),
        (theirs, twin.weight, twin.bias),
    )


@given(two_way_blocks(), st.floats(-2, 2))
@settings(max_examples=20, deadline=None)
def test_gin_is_dgls(given_blocks, epsilon):
    dgl_block, block, sources, destinations = of_items(given_blocks)
    conv = GINConv(SIZE, 4)
    mlp = nn.Sequential(nn.Linear(SIZE, 4), nn.ReLU(), nn.Linear(4, 4))
    mlp.load_state_dict(conv.mlp.state_dict())
    twin = dgl.nn.GINConv(mlp, "sum", learn_eps=True)
    with torch.no_grad():
        conv.epsilon.fill_(epsilon)
        twin.eps.fill_(epsilon)
    ours, theirs = with_gradients(sources, destinations), with_gradients(sources, destinations)
    assert_same_gradients(
        conv(of_all_edges(block), *ours),
        twin(dgl_block, theirs),
        (*ours, *conv.parameters()),
        (*theirs, twin.eps, *mlp.parameters()),
    )


@pytest.mark.parametrize("aggregator", ["mean", "pool"])
@given(two_way_blocks())
@settings(max_examples=20, deadline=None)
def test_gradients_of_sage_are_dgls(aggregator, given_blocks):
    dgl_block, block, sources, destinations = of_items(given_blocks)
    conv = SAGEConv(SIZE, 4, aggregator)
    twin = dgl_sage(conv)
    ours, theirs = with_gradients(sources, destinations), with_gradients(sources, destinations)
    weights = [(conv.own, twin.fc_self), (conv.neighbour, twin.fc_neigh)]
    weights += [(conv.pool, twin.fc_pool)] if aggregator == "pool" else []
    # DGL gives what a maximum of no edge says back to the first source.
    has_edges = (block.offsets.diff() > 0).float().unsqueeze(1)
    found, expected = conv(block, *ours), twin(dgl_block, theirs)
    torch.testing.assert_close(found, expected, **CLOSE)
    assert_same_gradients(
        found * has_edges,
        expected * has_edges,
        (*ours, *(one.weight for one, _ in weights)),
        (*theirs, *(other.weight for _, other in weights)),
    )


@given(two_way_blocks())
@settings(max_examples=20, deadline=None)
def test_pinsage_is_its_papers_algorithm(given_blocks):
    """Algorithm 1, node by node with numpy, importance coming with a relation's weights."""
    _, block, sources, destinations = of_items(given_blocks)
    config = ModelConfig(
        embedding_size=SIZE, convolution="pinsage", rating_messages=False, dropout=0.0
    )
    torch.manual_seed(3)
    layer = ConvolutionLayer(config, last=False)
    direction = SimpleNamespace(name="visited_with", source_type="item", reads_labels=False)
    relations = RelationMaps(SIZE, 1, [direction], asked=True)
    visits = 1 + torch.arange(len(block.neighbours)) % 4
    counts = block.offsets.diff()
    owners = torch.repeat_interleave(counts)
    totals = torch.zeros(len(counts)).index_add(0, owners, visits.float())
    weights = visits * (counts / totals)[owners]  # of mean 1, as relations have them
    told = relations.message(0, "visited_with", replace(block, residuals=weights), sources)
    found = layer.update_items(block, sources, destinations, told)
    conv = layer.to_items.bare
    maps = {
        name: [one.detach().numpy().astype(np.float64) for one in linear.parameters()]
        for name, linear in (
            ("q", conv.query),
            ("own", conv.own),
            ("neighbour", conv.neighbour),
            ("visited_q", relations.queries[0]["by_visited_with"]),
            ("visited", relations.layers[0]["by_visited_with"]),
        )
    }
    for d, (first, last) in enumerate(itertools.pairwise(block.offsets.tolist())):
        near = sources[block.neighbours[first:last].long()].numpy().astype(np.float64)
        pooled = np.zeros((2, SIZE))
        if last > first:
            importance = visits[first:last].numpy() / visits[first:last].sum().item()
            for row, (name, alpha) in enumerate(
                (("q", np.full(last - first, 1 / (last - first))), ("visited_q", importance))
            ):
                weight, bias = maps[name]
                pooled[row] = alpha @ np.maximum(near @ weight.T + bias, 0)
        own = maps["own"][0] @ destinations[d].numpy() + maps["own"][1]
        neighbours = maps["neighbour"][0] @ pooled[0] + maps["visited"][0] @ pooled[1]
        z = np.maximum(own + neighbours, 0)
        expected = z / np.sqrt((z**2).sum() + 1e-6)
        np.testing.assert_allclose(found[d].detach().numpy(), expected, rtol=1e-5, atol=1e-5)


def in_given_order(monkeypatch):
    """LSTMs read edges in the order in which they stand, as DGL's do."""
    monkeypatch.setattr(lstm, "chances", lambda numbers, key: numbers.double())


@given(two_way_blocks())
@settings(max_examples=25, deadline=None)
def test_sage_with_an_lstm_is_dgls(given_blocks):
    dgl_block, block, sources, destinations = of_items(given_blocks)
    conv = SAGEConv(SIZE, 4, "lstm")
    twin = dgl_sage(conv)
    twin.lstm.load_state_dict(conv.lstm.lstm.state_dict())
    ours, theirs = with_gradients(sources, destinations), with_gradients(sources, destinations)
    with pytest.MonkeyPatch.context() as patch:
        in_given_order(patch)
        found = conv(block, *ours)
    assert_same_gradients(
        found,
        twin(dgl_block, theirs),
        (*ours, conv.neighbour.weight, *conv.lstm.parameters()),
        (*theirs, twin.fc_neigh.weight, *twin.lstm.parameters()),
    )


# ---------------------------------------------------------------- what an LSTM reads


def test_an_lstm_reads_in_another_order_in_each_step_and_in_the_same_outside_of_training():
    conv, block = SAGEConv(SIZE, 4, "lstm", most=50), random_block(20, 9, 60)
    values = torch.randn(20, SIZE), torch.randn(9, SIZE)
    steps = [conv(block, *values) for _ in range(3)]
    assert len({tuple(step.flatten().tolist()) for step in steps}) == 3
    torch.manual_seed(5)
    before = conv(block, *values)
    torch.manual_seed(5)
    assert torch.equal(conv(block, *values), before)
    conv.eval()
    assert torch.equal(conv(block, *values), conv(block, *values))


def test_what_an_lstm_reads_of_many_neighbours():
    """So many of each node's own, each once, any of them in training, some in inference."""
    block, read = random_block(200, 9, 190), []
    aggregator = lstm.LSTMAggregator(SIZE, 4)
    places, counts = aggregator._in_order(block)
    assert counts.tolist() == block.offsets.diff().tolist()
    for first, last in itertools.pairwise(block.offsets.tolist()):
        assert sorted(places[first:last].tolist()) == list(range(first, last))
    sources = torch.randn(200, SIZE, requires_grad=True)
    for training in (True,) * 150 + (False,) * 2:
        aggregator.train(training)
        (gradient,) = torch.autograd.grad(aggregator(block, sources).square().sum(), sources)
        read.append((gradient != 0).any(1))
    most = block.offsets.diff().clamp(max=4).sum()
    assert all(0.8 * most < one.sum() <= most for one in read)  # some are of several nodes
    assert torch.equal(read[-1], read[-2])
    known = torch.zeros(200, dtype=torch.bool)
    known[block.neighbours.long()] = True
    assert torch.equal(torch.stack(read[:-2]).any(0), known)


def test_chunks_of_nodes_are_read_as_all_nodes_are():
    """Exact inference goes over nodes in chunks."""
    block = random_block(20, 9, 90)
    aggregator, sources = lstm.LSTMAggregator(SIZE, 3).eval(), torch.randn(20, SIZE)
    whole, parts = aggregator(block, sources), []
    for first, last in ((0, 4), (4, 9)):
        low, high = block.offsets[first], block.offsets[last]
        part = replace(
            block,
            offsets=block.offsets[first : last + 1] - low,
            neighbours=block.neighbours[low:high],
        )
        parts.append(aggregator(part, sources))
    torch.testing.assert_close(torch.cat(parts), whole)


# ---------------------------------------------------------------- what all of them have


def test_all_that_the_configuration_names_are_here():
    assert tuple(CONVOLUTIONS) == tuple(dict.fromkeys(kind["convolution"] for kind in KINDS))


@pytest.mark.parametrize("kind", KINDS, ids=name_of)
def test_room_for_edges_that_are_not_there_says_nothing(kind, monkeypatch):
    """A block of a fixed shape, with room, gives what the block of its edges alone gives."""
    in_given_order(monkeypatch)
    conv, block = make(kind), random_block(20, 9, 60)
    there = torch.rand(60) < 0.6
    there[block.offsets[3] : block.offsets[4]] = False
    ends = torch.cat((torch.zeros(1, dtype=torch.int64), there.cumsum(0)))[block.offsets]
    counts, degrees = ends.diff().float(), torch.rand(20) * 9
    roomy = replace(
        block,
        residuals=block.residuals * there,
        degrees=3 * counts,
        source_degrees=degrees,
        present=there.float(),
        present_counts=counts,
    )
    alone = Block(ends, block.neighbours[there], block.residuals[there], 3 * counts, degrees)
    sources, destinations = torch.randn(20, SIZE), torch.randn(9, SIZE)
    ours, theirs = with_gradients(sources, destinations), with_gradients(sources, destinations)
    assert_same_gradients(conv(roomy, *ours), conv(alone, *theirs), ours, theirs)
    torch.testing.assert_close(
        conv(alone, *theirs)[3:4], conv.without_edges(destinations[3:4]), **CLOSE
    )


@pytest.mark.parametrize("kind", KINDS, ids=name_of)
def test_what_a_device_does_is_what_compiled_loops_do(kind, monkeypatch):
    in_given_order(monkeypatch)
    conv, block = make(kind), replace(random_block(20, 9, 60), source_degrees=torch.rand(20) * 9)
    values = torch.randn(20, SIZE), torch.randn(9, SIZE)
    ours, theirs = with_gradients(*values), with_gradients(*values)
    compiled = conv(block, *ours)
    for module in (attention, maxima):
        monkeypatch.setattr(module, "runs_compiled", lambda tensor: False)
    weights = tuple(conv.parameters())
    assert_same_gradients(compiled, conv(block, *theirs), (*ours, *weights), (*theirs, *weights))


def test_gradients_do_not_depend_on_threads():
    block = random_block(3_000, 2_000, 9_000)
    found = []
    for threads in (1, 2):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            torch.manual_seed(0)
            for conv in (GATConv(64, 64, 4), GATv2Conv(64, 64, 4), SAGEConv(64, 64, "pool")):
                values = torch.randn(3_000, 64, requires_grad=True)
                conv(block, values, torch.randn(2_000, 64)).square().sum().backward()
                found.append(values.grad)
        finally:
            torch.set_num_threads(before)
    for one, other in zip(found[:3], found[3:], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-4)


def test_large_scores_are_numbers_and_no_number_stays_none():
    block = random_block(5, 4, 30)
    for conv in (GATConv(SIZE, SIZE, 2), GATv2Conv(SIZE, SIZE, 2)):
        sources = torch.full((5, SIZE), 1e4).requires_grad_()
        out = conv(block, sources, torch.full((4, SIZE), 1e4))
        out.sum().backward()
        assert out.isfinite().all() and sources.grad.isfinite().all()
        with torch.no_grad():
            assert conv(block, torch.full((5, SIZE), torch.nan), torch.ones(4, SIZE)).isnan().any()


# ---------------------------------------------------------------- what is refused


def test_compiled_loops_refuse_what_does_not_fit():
    offsets, neighbours = torch.tensor([0, 2, 3]), torch.tensor([0, 1, 4])
    rows, heads, own = torch.ones(5, 6), torch.ones(2, 3), torch.ones(2, 2)
    attend(offsets, neighbours, rows, heads, own)
    for wrong in (
        {"rows": torch.ones(5, 5)},
        {"attention": torch.ones(4, 2)},
        {"of_destinations": torch.ones(3, 2)},
        {"offsets": torch.tensor([0, 2, 2])},
        {"offsets": torch.tensor([0, 5, 3])},
        {"offsets": torch.tensor([-1, 2, 3])},
        {"present": torch.ones(2)},
    ):
        given = {
            "offsets": offsets, "neighbours": neighbours, "rows": rows, "attention": heads,
            "of_destinations": own, **wrong,
        }  # fmt: skip
        with pytest.raises(ValueError, match="fit"):
            attend(**given)
        given["destinations"] = given.pop("of_destinations").repeat(1, 3)
        with pytest.raises(ValueError, match="fit"):
            attend_jointly(**given)
    for place in (-1, 5):
        wrong = torch.tensor([0, 1, place])
        for call in (
            lambda ends: attend(offsets, ends, rows, heads, own),
            lambda ends: attend_jointly(offsets, ends, rows, heads, own.repeat(1, 3)),
            lambda ends: max_messages(offsets, ends, rows),
        ):
            with pytest.raises(IndexError, match="the table has 5 rows"):
                call(wrong)


def test_an_lstm_is_not_compiled_as_its_shapes_follow_from_values():
    settings = Settings(ModelConfig(aggregator="lstm"), LoaderConfig(), TrainConfig(compile=True))
    with pytest.raises(UsageError, match=r"train\.compile = true takes .*model.aggregator = lstm"):
        settings.resolved(Ratings().graph)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (
            {"convolution": "gat", "attention_heads": 5},
            "attention_heads 5 do not divide embedding_size 64: take 4, or embedding_size 65, or "
            "attention_merge mean",
        ),
        ({"convolution": "gatv2", "embedding_size": 3}, "take 3, or embedding_size 4"),
        ({"convolution": "gat", "attention_heads": 0}, "greater than or equal to 1"),
        ({"convolution": "lightgcn", "residual": True}, "residual goes with convolution sage"),
        ({"convolution": "ngcf", "unit_length": True}, "unit_length goes with convolution sage"),
        ({"convolution": "gat", "time_decay": True}, "and not with gat and mean"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(wrong, says):
    with pytest.raises(ValidationError, match=says):
        ModelConfig(**wrong)


def test_it_is_refused_before_anything_is_read_with_exit_code_2():
    heads = ["model.convolution=gat", "model.attention_heads=5"]
    with pytest.raises(UsageError, match="attention_heads 5 do not divide") as refused:
        load_settings(assignments=heads)
    assert refused.value.exit_code == 2


def test_heads_that_are_averaged_need_not_divide_the_width():
    assert ModelConfig(convolution="gat", attention_heads=5, attention_merge="mean")
    with pytest.raises(ValueError, match="5 heads do not divide 64"):
        GATConv(64, 64, 5)
