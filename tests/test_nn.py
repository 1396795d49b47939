"""Each convolution does on a block what DGL's does; the model reads all that it is given."""

import itertools

import dgl
import dgl.function as fn
import dgl.nn
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from dglrec.biases import fit_biases
from dglrec.blocks import Block, LayerBlocks
from dglrec.errors import UsageError
from dglrec.graph import RATED_BY, RATES, build_graph
from dglrec.infer import embed_new_items
from dglrec.nn import (
    ConvolutionLayer,
    EdgeRegressor,
    HeteroEncoder,
    ListHead,
    ModelConfig,
    NodeInputs,
    NodeValues,
    RatingConv,
    RatingModel,
    RefinementConv,
    RelationConv,
    SAGEConv,
    aggregate,
    map_and_aggregate,
)
from dglrec.sampling import LoaderConfig, NeighborEdgeLoader
from dglrec.schema import RatingScale

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
SIZE = 6


@pytest.fixture(autouse=True)
def same_weights():
    torch.manual_seed(0)


def to_block(relation_block, residuals, degrees):
    """What the loader makes of one relation of a DGL block; residuals stand in DGL's edge order."""
    offsets, neighbours, order = relation_block.adj_tensors("csc")
    return Block(offsets, neighbours, residuals[order] if len(order) else residuals, degrees)


@st.composite
def two_way_blocks(draw, min_edges=0):
    """A DGL block of both relations and the same as `LayerBlocks`; destinations come first.

    Edges stand in any order; some destinations have none, and pairs may even repeat.
    """
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    edges, sources, destinations = {}, {}, {}
    for name in ("user", "item"):
        destinations[name] = draw(st.integers(1, 6))
        sources[name] = destinations[name] + draw(st.integers(0, 5))
    for relation in (RATES, RATED_BY):
        count = draw(st.integers(min_edges, 25))
        edges[relation] = (
            torch.from_numpy(generator.integers(sources[relation[0]], size=count)),
            torch.from_numpy(generator.integers(destinations[relation[2]], size=count)),
        )
    block = dgl.create_block(edges, num_src_nodes=sources, num_dst_nodes=destinations)
    parts = {}
    for relation, (_, ends) in edges.items():
        residuals = torch.from_numpy(generator.normal(size=len(ends)).astype(np.float32))
        block.edges[relation].data["residuals"] = residuals
        sampled = torch.bincount(ends, minlength=destinations[relation[2]])
        hidden = torch.from_numpy(generator.integers(0, 50, size=len(sampled)))
        parts[relation] = to_block(block[relation], residuals, (sampled + hidden).float())
    values = {
        name: torch.from_numpy(generator.normal(size=(count, SIZE)).astype(np.float32))
        for name, count in sources.items()
    }
    return block, LayerBlocks(to_users=parts[RATED_BY], to_items=parts[RATES]), values


def of_items(given_blocks):
    """The one relation to items: DGL block, `Block`, sources, destinations."""
    block, blocks, values = given_blocks
    destinations = values["item"][: blocks.to_items.num_destinations]
    return block[RATES], blocks.to_items, values["user"], destinations


def dgl_sage(conv: SAGEConv):
    """DGL's convolution with the same weights."""
    size_in, size_out = conv.own.in_features, conv.own.out_features
    twin = dgl.nn.SAGEConv((size_in, size_in), size_out, conv.aggregator)
    with torch.no_grad():
        twin.fc_self.weight.copy_(conv.own.weight)
        twin.fc_self.bias.copy_(conv.own.bias)
        twin.fc_neigh.weight.copy_(conv.neighbour.weight)
        if conv.pool is not None:
            twin.fc_pool.weight.copy_(conv.pool.weight)
            twin.fc_pool.bias.copy_(conv.pool.bias)
    return twin


def dgl_rated(conv: RatingConv):
    """DGL's mean with edge weights, nothing of the node itself."""
    twin = dgl.nn.SAGEConv(conv.rating.in_features, conv.rating.out_features, "mean")
    with torch.no_grad():
        twin.fc_self.weight.zero_()
        twin.fc_self.bias.zero_()
        twin.fc_neigh.weight.copy_(conv.rating.weight)
    return twin


# ---------------------------------------------------------------- convolutions against DGL's


@pytest.mark.parametrize("aggregator", ["mean", "pool"])
@given(two_way_blocks(), st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_sage_conv_is_dgls(aggregator, given_blocks, size_out):
    dgl_block, block, sources, destinations = of_items(given_blocks)
    conv = SAGEConv(SIZE, size_out, aggregator)
    expected = dgl_sage(conv)(dgl_block, (sources, destinations))
    torch.testing.assert_close(conv(block, sources, destinations), expected, **CLOSE)


@given(two_way_blocks())
@settings(max_examples=40, deadline=None)
def test_sage_conv_with_sums_is_dgls_message_passing(given_blocks):
    """A sample's mean times what it was sampled from; of all neighbours it is their sum."""
    dgl_block, block, sources, destinations = of_items(given_blocks)
    conv = SAGEConv(SIZE, 4, "sum")
    with dgl_block.local_scope():
        dgl_block.srcdata["h"] = sources
        dgl_block.update_all(fn.copy_u("h", "m"), fn.sum("m", "sum"))
        sums = dgl_block.dstdata["sum"]
    sampled = block.offsets.diff()
    shares = (block.degrees / sampled.clamp(min=1)).unsqueeze(1)
    expected = conv.own(destinations) + conv.neighbour(sums * shares)
    torch.testing.assert_close(conv(block, sources, destinations), expected, **CLOSE)
    of_all = Block(block.offsets, block.neighbours, block.residuals, sampled.float())
    expected = conv.own(destinations) + conv.neighbour(sums)
    torch.testing.assert_close(conv(of_all, sources, destinations), expected, **CLOSE)


@given(two_way_blocks())
@settings(max_examples=40, deadline=None)
def test_sage_conv_with_attention_is_a_mean_by_a_softmax_over_each_nodes_edges(given_blocks):
    _, block, sources, destinations = of_items(given_blocks)
    conv = SAGEConv(SIZE, 4, "attention")
    rows = []
    for d, (first, last) in enumerate(itertools.pairwise(block.offsets.tolist())):
        mapped = conv.neighbour(sources[block.neighbours[first:last].long()])
        scores = conv.attend(mapped).squeeze(1) + conv.attend_own(destinations[d])
        weights = torch.nn.functional.leaky_relu(scores, 0.2).softmax(0)
        rows.append(conv.own(destinations[d]) + weights @ mapped)
    torch.testing.assert_close(conv(block, sources, destinations), torch.stack(rows), **CLOSE)


def test_attention_sums_what_is_bfloat16_in_float32():
    block = random_block(30, 3, 6_000)
    conv = SAGEConv(5, 4, "attention")
    with torch.no_grad():
        conv.own.weight.zero_(), conv.own.bias.zero_()
        sources, destinations = torch.randn(30, 5) + 3, torch.randn(3, 5)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = conv(block, sources, destinations)
            mapped = conv.neighbour(sources)
            of_own = conv.attend_own(destinations)
        assert mapped.dtype == of_own.dtype == torch.bfloat16 and found.dtype == torch.float32
        mapped, of_own = mapped.double(), of_own.double()
        of_sources = mapped @ conv.attend.weight.double().T
    for d in range(3):
        rows = block.neighbours[block.offsets[d] : block.offsets[d + 1]]
        scores = nn.functional.leaky_relu(of_sources[rows, 0] + of_own[d], 0.2)
        expected = scores.softmax(0) @ mapped[rows]
        torch.testing.assert_close(found[d].double(), expected, rtol=1e-5, atol=1e-6)


def test_a_list_heads_mean_of_item_vectors_is_float32_beside_maps_in_bfloat16():
    """Of 1,001 edges, of which bfloat16 would make 1,000."""
    head = ListHead(ModelConfig(embedding_size=4, list_size=3), num_items=40)
    block = random_block(40, 1, 1_001)
    users = torch.randn(1, 4)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = head.of_users(users, block, head.every_row()).factors
        mapped = head.from_user(users)
    summed = head.rated.weight.double()[block.neighbours].sum(0)
    weighed = head.weighed.weight.double()[block.neighbours]
    summed = summed + (block.residuals.double().unsqueeze(1) * weighed).sum(0)
    expected = mapped.double() + summed / 1_001**0.5
    assert mapped.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), expected.detach(), rtol=1e-5, atol=1e-6)


def test_attention_of_large_scores_is_a_number():
    block = random_block(5, 4, 30)
    conv = SAGEConv(SIZE, 4, "attention")
    sources = torch.full((5, SIZE), 1e4).requires_grad_()
    out = conv(block, sources, torch.full((4, SIZE), 1e4))
    out.sum().backward()
    assert out.isfinite().all() and sources.grad.isfinite().all()


@given(two_way_blocks())
@settings(max_examples=40, deadline=None)
def test_rating_conv_without_damping_is_dgls_weighted_mean(given_blocks):
    dgl_block, block, sources, destinations = of_items(given_blocks)
    conv = RatingConv(SIZE, 4)
    with torch.no_grad():
        conv.log_damping.fill_(-40.0)
    # Degree 0 over damping: no messages either way.
    expected = dgl_rated(conv)(
        dgl_block, (sources, destinations), edge_weight=dgl_block.edata["residuals"]
    )
    torch.testing.assert_close(conv(block, sources), expected, **CLOSE)


@pytest.mark.parametrize("by_column", [True, False])
@given(two_way_blocks(), st.lists(st.floats(0.1, 100), min_size=4, max_size=4))
@settings(max_examples=40, deadline=None)
def test_rating_conv_damps_by_the_degree_before_sampling(by_column, given_blocks, damping):
    dgl_block, block, sources, destinations = of_items(given_blocks)
    conv = RatingConv(SIZE, 4, by_column=by_column)
    damping = torch.tensor(damping if by_column else damping[:1])
    assert conv.log_damping.shape == damping.shape
    with torch.no_grad():
        conv.log_damping.copy_(damping.log())
    bare = dgl_rated(conv)(
        dgl_block, (sources, destinations), edge_weight=dgl_block.edata["residuals"]
    )
    degrees = block.degrees.unsqueeze(1)
    torch.testing.assert_close(conv(block, sources), bare * degrees / (degrees + damping), **CLOSE)


@given(two_way_blocks())
@settings(max_examples=20, deadline=None)
def test_relation_conv_is_the_sum_of_both(given_blocks):
    _, block, sources, destinations = of_items(given_blocks)
    conv = RelationConv(SIZE, ModelConfig())
    expected = conv.bare(block, sources, destinations) + conv.rated(block, sources)
    torch.testing.assert_close(conv(block, sources, destinations), expected, **CLOSE)
    bare = RelationConv(SIZE, ModelConfig(rating_messages=False))
    assert bare.rated is None
    assert torch.equal(bare(block, sources, destinations), bare.bare(block, sources, destinations))


@pytest.mark.parametrize("aggregator", ["mean", "pool"])
@given(two_way_blocks())
@settings(max_examples=25, deadline=None)
def test_a_layer_is_dgls_hetero_conv(aggregator, given_blocks):
    """Each relation's own convolution, and no value from the wrong type or relation."""
    dgl_block, blocks, values = given_blocks
    config = ModelConfig(embedding_size=SIZE, layers=1, aggregator=aggregator, refinement=0)
    encoder = HeteroEncoder(config).eval()
    (layer,) = encoder.layers
    for conv in (layer.to_users, layer.to_items):
        conv.rated.log_damping.data.fill_(-40.0)
    convs = {RATED_BY: layer.to_users, RATES: layer.to_items}
    bare = dgl.nn.HeteroGraphConv({name: dgl_sage(conv.bare) for name, conv in convs.items()})
    rated = dgl.nn.HeteroGraphConv({name: dgl_rated(conv.rated) for name, conv in convs.items()})
    weights = {name[1]: {"edge_weight": dgl_block.edges[name].data["residuals"]} for name in convs}
    bare_out, rated_out = bare(dgl_block, values), rated(dgl_block, values, mod_kwargs=weights)
    nodes = encoder((blocks,), NodeValues(values["user"], values["item"]))
    for name, found in (("user", nodes.users), ("item", nodes.items)):
        own = values[name][: len(found)]
        torch.testing.assert_close(found, bare_out[name] + rated_out[name] + own, **CLOSE)


@pytest.mark.parametrize("last", [False, True])
@given(two_way_blocks())
@settings(max_examples=15, deadline=None)
def test_only_the_last_layer_has_no_relu(last, given_blocks):
    _, blocks, values = given_blocks
    layer = ConvolutionLayer(ModelConfig(embedding_size=SIZE, refinement=0), last=last).eval()
    users = values["user"][: blocks.to_users.num_destinations]
    convolved = layer.to_users(blocks.to_users, values["item"], users)
    expected = users + (convolved if last else convolved.clamp(min=0))
    found = layer.update_users(blocks.to_users, values["item"], users)
    torch.testing.assert_close(found, expected, **CLOSE)


def refined_one_by_one(conv, block, sources, destinations):
    """What `RefinementConv` says it is, node by node in float64: a least squares with rows more."""
    source, width = conv.source, conv.source.out_features
    damping = conv.log_damping.double().exp().expand(width)
    rows = []
    for d, (first, last) in enumerate(itertools.pairwise(block.offsets.tolist())):
        guess = conv.guess.weight.double() @ destinations[d].double()
        near = sources[block.neighbours[first:last].long()].double()
        near = torch.nn.functional.linear(
            near,
            *(None if part is None else part.double() for part in (source.weight, source.bias)),
        )
        left = block.residuals[first:last].double() - near @ guess
        design = torch.cat((near, damping.sqrt().diag()))
        delta = torch.linalg.lstsq(design, torch.cat((left, left.new_zeros(width))).unsqueeze(1))
        rows.append(conv.out.weight.double() @ delta.solution.squeeze(1))
    return torch.stack(rows)


def spread_out(module):
    """Weights that matter all, and not a start that makes some parts nearly nothing."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return module


@pytest.mark.parametrize("by_column", [True, False])
@given(two_way_blocks(), st.integers(1, 5))
@settings(max_examples=20, deadline=None)
def test_refinement_is_a_ridge_regression_of_each_node(by_column, given_blocks, width):
    _, block, sources, destinations = of_items(given_blocks)
    conv = spread_out(RefinementConv(SIZE, width, by_column=by_column))
    assert conv.log_damping.shape == (width if by_column else 1,)
    found = conv(block, sources, destinations)
    expected = refined_one_by_one(conv, block, sources, destinations)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)
    upstream = torch.randn(found.shape)
    weights = list(conv.parameters())
    for name, one, other in zip(
        dict(conv.named_parameters()),
        torch.autograd.grad(found, weights, upstream),
        torch.autograd.grad(expected, weights, upstream.double()),
        strict=True,
    ):
        assert one.isfinite().all(), name
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


@given(two_way_blocks())
@settings(max_examples=15, deadline=None)
def test_behind_the_last_layer_users_look_again_at_what_they_rated(given_blocks):
    """At the items as the layer read them, with the embedding that the layer made of the user."""
    _, blocks, values = given_blocks
    layer = spread_out(
        ConvolutionLayer(ModelConfig(embedding_size=SIZE, refinement=3), last=True)
    ).eval()
    users = values["user"][: blocks.to_users.num_destinations]
    items = values["item"][: blocks.to_items.num_destinations]
    once = users + layer.to_users(blocks.to_users, values["item"], users)
    again = refined_one_by_one(layer.refinement, blocks.to_users, values["item"], once)
    nodes = layer(blocks, NodeValues(values["user"], values["item"]))
    torch.testing.assert_close(nodes.users.double(), once + again, rtol=1e-4, atol=1e-4)
    plain = items + layer.to_items(blocks.to_items, values["user"], items)
    torch.testing.assert_close(nodes.items, plain, **CLOSE)


def test_a_user_whose_ratings_are_explained_has_nothing_to_look_at_again():
    conv = spread_out(RefinementConv(SIZE, 3))
    block, sources, user = random_block(8, 1, 20), torch.randn(8, SIZE), torch.randn(1, SIZE)
    explained = conv.source(sources)[block.neighbours] @ conv.guess(user)[0]
    block = Block(block.offsets, block.neighbours, explained.detach(), block.degrees)
    assert conv(block, sources, user).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("config", "refined"),
    [
        ({"layers": 3}, [False, False, True]),
        ({"layers": 1}, [True]),
        ({"layers": 2, "refinement": 0}, [False, False]),
        ({"layers": 2, "rating_messages": False}, [False, False]),
        ({"layers": 0}, []),
        ({"layers": 3, "refined_layers": "last"}, [False, False, True]),
        ({"layers": 3, "refined_layers": "all"}, [True, True, True]),
        ({"layers": 2, "refined_layers": "all", "refinement": 0}, [False, False]),
        ({"layers": 2, "refined_layers": "all", "rating_messages": False}, [False, False]),
    ],
    ids=str,
)
def test_layers_refine_as_configured_and_only_where_messages_carry_ratings(config, refined):
    encoder = HeteroEncoder(ModelConfig(embedding_size=SIZE, **config))
    assert [layer.refinement is not None for layer in encoder.layers] == refined


def test_layers_are_chained_first_to_last():
    encoder = HeteroEncoder(ModelConfig(embedding_size=SIZE, layers=3))
    assert [layer.last for layer in encoder.layers] == [False, False, True]
    with pytest.raises(ValueError):  # as many blocks as layers
        encoder((), NodeValues(torch.zeros(1, SIZE), torch.zeros(1, SIZE)))


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_no_edges_at_all_give_zeros(mode):
    none = torch.empty(0, dtype=torch.int64)
    block = Block(torch.zeros(4, dtype=torch.int64), none, torch.empty(0), torch.zeros(3))
    assert torch.equal(aggregate(block, torch.randn(2, SIZE), mode), torch.zeros(3, SIZE))
    assert torch.equal(aggregate(block, torch.empty(0, SIZE), mode), torch.zeros(3, SIZE))


def test_aggregate_known_answer():
    block = Block(
        offsets=torch.tensor([0, 2, 2, 3]),
        neighbours=torch.tensor([1, 0, 1]),
        residuals=torch.tensor([2.0, -1.0, 0.5]),
        degrees=torch.tensor([2.0, 0.0, 1.0]),
    )
    sources = torch.tensor([[1.0, -4.0], [3.0, 2.0]])
    assert aggregate(block, sources, "sum").tolist() == [[4, -2], [0, 0], [3, 2]]
    assert aggregate(block, sources, "mean").tolist() == [[2, -1], [0, 0], [3, 2]]
    assert aggregate(block, sources, "max").tolist() == [[3, 2], [0, 0], [3, 2]]
    weighed = aggregate(block, sources, "sum", block.residuals)
    assert weighed.tolist() == [[5, 8], [0, 0], [1.5, 1]]
    weighed = aggregate(block, sources, "mean", block.residuals)
    assert weighed.tolist() == [[2.5, 4], [0, 0], [1.5, 1]]


# ---------------------------------------------------------------- map before or after the sums


def random_block(num_sources, num_destinations, edges, index=torch.int64, seed=0):
    generator = np.random.default_rng(seed)
    counts = np.bincount(
        generator.integers(num_destinations, size=edges), minlength=num_destinations
    )
    if num_destinations > 1:
        counts[1] += counts[0]  # the first destination has no edges
        counts[0] = 0
    return Block(
        offsets=torch.tensor([0, *np.cumsum(counts).tolist()]),
        neighbours=torch.from_numpy(generator.integers(num_sources, size=edges)).to(index),
        residuals=torch.from_numpy(generator.normal(size=edges).astype(np.float32)),
        degrees=torch.from_numpy(counts + 3.0).float(),
    )


def mapped_one_by_one(block, sources, weight, mode, weights):
    """Each destination's edges, mapped one by one in float64, and their sum or mean."""
    rows = []
    for first, last in itertools.pairwise(block.offsets.tolist()):
        row = torch.zeros(len(weight), dtype=torch.float64)
        for edge in range(first, last):
            value = weight.double() @ sources[int(block.neighbours[edge])].double()
            row = row + value * (1 if weights is None else float(weights[edge]))
        rows.append(row / max(last - first, 1) if mode == "mean" else row)
    return torch.stack(rows)


# Fewer sources than destinations, as many, and more: the map stands on either side of the sums.
SIDES = [(3, 20), (7, 7), (20, 3), (1, 9), (9, 1)]


@pytest.mark.parametrize("index", [torch.int32, torch.int64])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("sides", SIDES, ids=str)
def test_a_map_commutes_with_sums_and_means(sides, mode, weighted, index):
    block = random_block(*sides, 40, index)
    weights = block.residuals if weighted else None
    linear = torch.nn.Linear(SIZE, 4, bias=False)
    leaf = torch.randn(sides[0], SIZE).requires_grad_()
    found = map_and_aggregate(block, leaf, linear, mode, weights)
    expected = mapped_one_by_one(block, leaf, linear.weight, mode, weights)
    torch.testing.assert_close(found.double(), expected, **CLOSE)
    upstream = torch.randn(found.shape)
    leaves = (leaf, linear.weight)
    for one, other in zip(
        torch.autograd.grad(found, leaves, upstream),
        torch.autograd.grad(expected, leaves, upstream.double()),
        strict=True,
    ):
        torch.testing.assert_close(one, other, **CLOSE)


@pytest.mark.parametrize("sides", SIDES, ids=str)
def test_the_map_is_applied_where_there_are_fewer_nodes(sides):
    seen = []
    linear = torch.nn.Linear(SIZE, 4, bias=False)
    linear.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    map_and_aggregate(random_block(*sides, 40), torch.randn(sides[0], SIZE), linear, "mean")
    assert seen == [min(sides)]


@given(st.integers(1, 8), st.integers(1, 8), st.integers(0, 30), st.booleans(), st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_map_commutes_over_any_block(num_sources, num_destinations, edges, weighted, mean):
    block = random_block(num_sources, num_destinations, edges, seed=edges)
    weights, mode = block.residuals if weighted else None, "mean" if mean else "sum"
    linear = torch.nn.Linear(SIZE, 3, bias=False)
    sources = torch.randn(num_sources, SIZE)
    torch.testing.assert_close(
        map_and_aggregate(block, sources, linear, mode, weights),
        linear(aggregate(block, sources, mode, weights)),
        **CLOSE,
    )


@pytest.mark.parametrize("sides", SIDES, ids=str)
def test_convolutions_are_the_same_on_either_side(sides):
    """Of blocks with few sources too, which samples around a few targets never have."""
    block = random_block(*sides, 40)
    sources, destinations = torch.randn(sides[0], SIZE), torch.randn(sides[1], SIZE)
    sage = SAGEConv(SIZE, 4)
    expected = mapped_one_by_one(block, sources, sage.neighbour.weight, "mean", None)
    torch.testing.assert_close(
        sage(block, sources, destinations).double(), expected + sage.own(destinations), **CLOSE
    )
    rating = RatingConv(SIZE, 4)
    degrees = block.degrees.unsqueeze(1)
    shares = degrees / (degrees + rating.log_damping.exp())
    expected = mapped_one_by_one(block, sources, rating.rating.weight, "mean", block.residuals)
    torch.testing.assert_close(rating(block, sources).double(), expected * shares, **CLOSE)


def test_maps_that_are_summed_have_no_bias():
    """A constant does not commute with a sum: nodes without edges would get it or not by side."""
    model = RatingModel(ModelConfig(embedding_size=SIZE), 5, torch.randn(4, 3))
    for layer in model.encoder.layers:
        for conv in (layer.to_users, layer.to_items):
            assert conv.bare.neighbour.bias is None
            assert conv.rated.rating.bias is None
    refinement = model.encoder.layers[-1].refinement
    assert all(one.bias is None for one in (refinement.source, refinement.guess, refinement.out))


# ---------------------------------------------------------------- the edge regressor


@pytest.mark.parametrize("interaction", [False, True])
def test_edge_regressor_is_an_mlp_over_both_ends_and_a_dot_product(interaction):
    config = ModelConfig(embedding_size=SIZE, decoder_size=5, interaction=interaction)
    decoder = EdgeRegressor(config)
    torch.nn.init.normal_(decoder.out.weight)
    torch.nn.init.normal_(decoder.out.bias)
    nodes = NodeValues(torch.randn(7, SIZE), torch.randn(9, SIZE))

    mlp = torch.nn.Sequential(torch.nn.Linear(2 * SIZE, 5), torch.nn.ReLU(), torch.nn.Linear(5, 1))
    with torch.no_grad():
        mlp[0].weight.copy_(torch.cat((decoder.from_user.weight, decoder.from_item.weight), 1))
        mlp[0].bias.copy_(decoder.from_user.bias)
        mlp[2].load_state_dict(decoder.out.state_dict())
    users, items = torch.cartesian_prod(torch.arange(7), torch.arange(9)).T
    u, i = nodes.users[users], nodes.items[items]
    expected = mlp(torch.cat((u, i), dim=1)).squeeze(1)
    if interaction:
        factors = u @ decoder.factor_of_user.weight.T, i @ decoder.factor_of_item.weight.T
        expected = expected + (factors[0] * factors[1]).sum(1)
    found = decoder(nodes, users, items)
    torch.testing.assert_close(found, expected, **CLOSE)
    terms = decoder.of_users(nodes.users), decoder.of_items(nodes.items)
    assert all((of_nodes.factors is not None) == interaction for of_nodes in terms)
    torch.testing.assert_close(decoder.all_pairs(*terms).flatten(), expected, **CLOSE)
    torch.testing.assert_close(decoder.score(*terms, users, items), expected, **CLOSE)
    assert found.std() > 0.1  # not all alike


@pytest.mark.parametrize("interaction", [False, True])
def test_rows_of_terms_are_the_terms_of_rows(interaction):
    """So that nodes pass the decoder once, whichever of them are paired afterwards."""
    decoder = EdgeRegressor(ModelConfig(embedding_size=SIZE, interaction=interaction))
    users, items = torch.randn(7, SIZE), torch.randn(9, SIZE)
    some_users, some_items = torch.tensor([6, 0, 6]), torch.tensor([8, 1])
    expected = decoder.all_pairs(decoder.of_users(users), decoder.of_items(items))
    found = decoder.all_pairs(decoder.of_users(users[some_users]), decoder.of_items(items[[8, 1]]))
    assert found.shape == (3, 2)
    torch.testing.assert_close(found, expected[some_users][:, some_items], **CLOSE)


def test_edge_regressor_takes_one_pair_and_none():
    decoder = EdgeRegressor(ModelConfig(embedding_size=SIZE))
    nodes = NodeValues(torch.randn(3, SIZE), torch.randn(2, SIZE))
    one = torch.tensor([1])
    assert decoder(nodes, one, one).shape == (1,)
    assert decoder(nodes, one[:0], one[:0]).shape == (0,)
    terms = decoder.of_users(nodes.users[:1]), decoder.of_items(nodes.items[:1])
    assert decoder.all_pairs(*terms).shape == (1, 1)
    nobody = decoder.of_users(nodes.users[:0])
    assert decoder.all_pairs(nobody, terms[1]).shape == (0, 1)


# ---------------------------------------------------------------- inputs


@pytest.mark.parametrize("damping", [0.0, 1.0, 100.0])
def test_inputs_are_the_sum_of_what_is_known(damping):
    features = torch.randn(4, 3)
    config = ModelConfig(embedding_size=SIZE, user_identity=True, identity_damping=damping)
    inputs = NodeInputs(config, 5, features).eval()
    degrees = torch.tensor([30.0, 2.0])
    known = torch.stack((torch.randn(2), degrees.log1p(), torch.randn(2)), dim=1)
    nodes = torch.tensor([3, 0])
    counts = (degrees / (degrees + damping)).unsqueeze(1)
    torch.testing.assert_close(
        inputs.users(nodes, known),
        inputs.from_user_inputs(known * inputs.input_scale)
        + counts * inputs.user_vectors.weight[nodes],
    )
    torch.testing.assert_close(
        inputs.items(nodes, known),
        inputs.from_item_inputs(known * inputs.input_scale)
        + features[nodes] @ inputs.from_features.weight.T
        + counts * inputs.item_vectors.weight[nodes],
    )
    # A user that training never saw has no vector.
    torch.testing.assert_close(
        inputs.new_users(known), inputs.from_user_inputs(known * inputs.input_scale)
    )


@pytest.mark.parametrize("spread", [True, False])
def test_the_spread_counts_where_used(spread):
    inputs = NodeInputs(ModelConfig(embedding_size=SIZE, spread=spread), 5, torch.randn(4, 3))
    inputs, nodes, known = inputs.eval(), torch.tensor([1]), torch.tensor([[0.5, 1.0, 0.3]])
    wider = torch.tensor([[0.5, 1.0, 0.9]])
    for values in (inputs.users, inputs.items):
        assert torch.equal(values(nodes, known), values(nodes, wider)) != spread


def test_a_vector_of_a_node_without_ratings_is_not_read_and_learns_nothing():
    inputs = NodeInputs(ModelConfig(embedding_size=SIZE), 5, torch.randn(4, 3)).eval()
    with torch.no_grad():
        inputs.item_vectors.weight[2] = torch.nan
        inputs.item_vectors.weight[2] = 1e30
    known = torch.zeros(1, 3)
    out = inputs.items(torch.tensor([2]), known)
    torch.testing.assert_close(out, inputs.new_items(inputs.features[2:3]))
    out.sum().backward()
    assert not inputs.item_vectors.weight.grad.any()


@pytest.mark.parametrize("changes", [{}, {"item_features": False}, {"item_identity": True}])
def test_inputs_of_a_new_item_are_those_of_an_item_without_ratings(changes):
    """Nothing is learned by heart of either."""
    features = torch.randn(4, 3)
    config = {"embedding_size": SIZE, "item_identity": False, **changes}
    inputs = NodeInputs(ModelConfig(**config), 5, features).eval()
    assert (inputs.item_vectors is not None) == bool(changes.get("item_identity"))
    expected = inputs.items(torch.tensor([3]), torch.zeros(1, 3))
    found = inputs.new_items(inputs.chosen(features[3:]))
    torch.testing.assert_close(found, expected, **CLOSE)
    others = inputs.new_items(inputs.chosen(torch.randn(2, 3)))
    assert torch.equal(others[0], others[1]) == (changes == {"item_features": False})


WIDTHS = {"genres": 2, "text": 3, "numeric": 1}


@pytest.mark.parametrize(
    ("names", "columns"),
    [
        (("genres",), [0, 1]),
        (("text",), [2, 3, 4]),
        (("numeric", "genres"), [0, 1, 5]),  # in the order of the data set
        (("text", "text"), [2, 3, 4]),
        (("genres", "numeric", "text"), [0, 1, 2, 3, 4, 5]),
        (True, [0, 1, 2, 3, 4, 5]),
        ((), []),
        (False, []),
    ],
)
def test_named_features_are_their_columns_of_known_and_of_new_items(names, columns):
    features = torch.randn(4, 6)
    config = ModelConfig(embedding_size=SIZE, item_features=names)
    inputs = NodeInputs(config, 5, features, WIDTHS).eval()
    assert torch.equal(inputs.features, features[:, columns])
    assert (inputs.from_features is None) == (not columns)
    known, nodes, others = torch.randn(4, 3), torch.arange(4), features.clone()
    left = [column for column in range(6) if column not in columns]
    others[:, left] = torch.randn(4, len(left))
    new = inputs.new_items(inputs.chosen(features))
    assert torch.equal(new, inputs.new_items(inputs.chosen(others)))
    torch.manual_seed(7)
    twins = [NodeInputs(config, 5, values, WIDTHS).eval() for values in (features, others)]
    twins[1].load_state_dict(twins[0].state_dict())
    assert torch.equal(twins[0].items(nodes, known), twins[1].items(nodes, known))
    moved = inputs.new_items(inputs.chosen(features + 1))
    assert torch.equal(new, moved) == (not columns)


def test_a_model_trained_on_few_features_takes_all_of_a_new_item():
    model = RatingModel(
        ModelConfig(embedding_size=SIZE, item_features=("text",)), 5, torch.randn(4, 6), WIDTHS
    )
    new = torch.randn(2, 6)
    found = embed_new_items(model, new).nodes
    new[:, [0, 1, 5]] = torch.nan
    assert torch.equal(embed_new_items(model, new).nodes, found)


def test_features_that_there_are_not_are_refused():
    def make(names, widths, columns=6):
        config = ModelConfig(embedding_size=SIZE, item_features=names)
        return NodeInputs(config, 5, torch.randn(4, columns), widths)

    with pytest.raises(UsageError, match=r"has no poster; it has genres, text, numeric$"):
        make(("genres", "poster"), WIDTHS)
    with pytest.raises(UsageError, match=r"has no poster and no plot; it has"):
        make(("poster", "plot"), WIDTHS)
    with pytest.raises(UsageError, match=r"has no genres; it has no features$"):
        make(("genres",), {}, 0)
    with pytest.raises(UsageError, match=r"has no genres"):
        make(("genres",), None)
    with pytest.raises(ValueError, match="6 columns"):
        make(("genres",), {"genres": 2})


OF_USERS = {"age": 2, "gender": 2}


@pytest.mark.parametrize(
    ("names", "columns"),
    [(True, [0, 1, 2, 3]), (("gender",), [2, 3]), (False, []), ((), [])],
)
def test_features_of_users_are_their_columns_of_known_and_of_new_users(names, columns):
    features = torch.randn(5, 4)
    config = ModelConfig(embedding_size=SIZE, user_features=names)
    inputs = NodeInputs(config, 5, torch.randn(3, 2), WIDTHS, features, OF_USERS).eval()
    assert torch.equal(inputs.user_features, features[:, columns])
    known, nodes = torch.randn(3, 3), torch.tensor([4, 1, 2])
    found = inputs.users(nodes, known)
    plain = inputs.new_users(known)
    if columns:
        plain = plain + inputs.from_user_features(features[nodes][:, columns])
    torch.testing.assert_close(found, plain)
    as_new = inputs.new_users(known, inputs.chosen_of_users(features[nodes]))
    torch.testing.assert_close(as_new, found)
    nothing = inputs.new_users(known, inputs.chosen_of_users(torch.zeros(3, 4)))
    assert torch.equal(nothing, inputs.new_users(known))


def test_features_of_users_change_nothing_where_there_are_none_or_none_are_used():
    def weights(features, used=True):
        torch.manual_seed(3)
        config = ModelConfig(embedding_size=SIZE, heads="both", user_features=used)
        model = RatingModel(config, 5, torch.ones(4, 3), user_features=features)
        return model.state_dict()

    plain = weights(None)
    for other in (weights(torch.empty(5, 0)), weights(torch.ones(5, 2), used=False)):
        assert other.keys() == plain.keys()
        assert all(torch.equal(other[name], plain[name]) for name in plain)
    used = weights(torch.ones(5, 2))
    assert used.keys() - plain.keys() == {"inputs.from_user_features.weight"}


def test_features_of_users_that_there_are_not_are_refused():
    config = ModelConfig(embedding_size=SIZE, user_features=("age", "income"))
    with pytest.raises(UsageError, match=r"user_features: .* no income; it has age, gender$"):
        NodeInputs(config, 5, torch.randn(4, 1), None, torch.randn(5, 4), OF_USERS)
    with pytest.raises(UsageError, match=r"has no age and no income; it has no features$"):
        NodeInputs(config, 5, torch.randn(4, 1))


def test_inputs_of_a_new_item_without_any_features():
    inputs = NodeInputs(ModelConfig(embedding_size=SIZE), 5, torch.empty(4, 0)).eval()
    assert inputs.new_items(torch.empty(2, 0)).shape == (2, SIZE)


def test_item_features_are_no_part_of_the_weights():
    model = RatingModel(ModelConfig(embedding_size=SIZE), 5, torch.randn(4, 3))
    assert not any(name.rsplit(".")[-1] == "features" for name in model.state_dict())
    assert "inputs.features" in dict(model.named_buffers())  # and move with the model


# ---------------------------------------------------------------- the model on real batches

SCALE = RatingScale(1, 10)
NUM_USERS, NUM_ITEMS = 30, 20


def rating_graph(seed=0, edges=250):
    generator = np.random.default_rng(seed)
    # The last user and the last item have no ratings.
    pairs = generator.choice((NUM_USERS - 1) * (NUM_ITEMS - 1), edges, replace=False)
    return build_graph(
        pairs // (NUM_ITEMS - 1),
        pairs % (NUM_ITEMS - 1),
        generator.integers(0, 10, edges),
        num_users=NUM_USERS,
        num_items=NUM_ITEMS,
        scale=SCALE,
    )


def one_batch(layers=2, batch_size=40, exclude_targets=True, unseen_items=0.1):
    graph = rating_graph()
    config = LoaderConfig(
        batch_size=batch_size,
        user_fanouts=(4,) * layers,
        item_fanouts=(3,) * layers,
        exclude_targets=exclude_targets,
        unseen_items=unseen_items,
    )
    return next(iter(NeighborEdgeLoader(graph, fit_biases(graph), config)))


def make_model(num_features=3, **config):
    config = {"embedding_size": 8, "decoder_size": 8, "dropout": 0.0, **config}
    features = torch.randn(NUM_ITEMS, num_features, generator=torch.Generator().manual_seed(3))
    return RatingModel(ModelConfig(**config), NUM_USERS, features)


VARIANTS = [
    {},
    {"user_identity": True},
    {"item_identity": False},
    {"item_identity": False, "item_features": False},
    {"num_features": 0},
    {"num_features": 0, "item_identity": False},
    {"rating_messages": False},
    {"interaction": False},
    {"aggregator": "pool"},
    {"aggregator": "sum"},
    {"aggregator": "attention"},
    {"convolution": "gcn", "combination": "weighted"},
    {"convolution": "gat", "combination": "max"},
    {"convolution": "gatv2", "attention_merge": "mean", "combination": "concat"},
    {"convolution": "gin", "residual": False},
    {"convolution": "pinsage"},
    {"layers": 1},
    {"layers": 3},
    {"dropout": 0.5},
    {"refinement": 0},
    {"refinement": 1, "column_damping": False},
    {"identity_damping": 0.0},
    {"embedding_size": 1, "decoder_size": 1},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_every_variant_predicts_and_learns_with_all_of_its_parameters(variant):
    model = make_model(**variant)
    batch = one_batch(model.config.layers)
    if model.config.embedding_size == 1:  # a ReLU of one unit may be shut for all of a batch
        for parameter in model.parameters():
            parameter.data.abs_()
    predictions = model(batch)
    assert predictions.shape == batch.ratings.shape and predictions.dtype == torch.float32
    assert predictions.isfinite().all()
    ((predictions - batch.ratings) ** 2).mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        gradient = parameter.grad.to_dense()
        assert gradient.isfinite().all() and (gradient != 0).any(), name
    tables = [name for name, p in model.named_parameters() if p.grad.is_sparse]
    assert tables == (["inputs.user_vectors.weight"] if model.config.user_identity else [])
    assert len(model.sparse_tables()) == len(tables)


def test_switched_off_means_left_out():
    names = set(make_model(user_identity=True).state_dict())
    for switch, *parts in (
        ("rating_messages", ".rated.", ".refinement."),
        ("refinement", ".refinement."),
        ("item_identity", "item_vectors"),
        ("user_identity", "user_vectors"),
        ("item_features", "from_features"),
        ("interaction", "factor_of_"),
    ):
        off = 0 if switch == "refinement" else False
        left = set(make_model(**{"user_identity": True, switch: off}).state_dict())
        assert left < names, switch
        assert all(any(part in name for part in parts) for name in names - left), switch
        assert not any(part in name for name in left for part in parts), switch


def test_an_untrained_model_predicts_about_what_the_biases_do():
    batch = one_batch()
    off = make_model()(batch) - batch.baselines
    assert off.abs().max() < SCALE.maximum - SCALE.minimum
    assert off.abs().mean() < 1


def replaced(batch, **changes):
    return type(batch)(**{**vars(batch), **changes})


def with_residuals(batch, change):
    """The batch with the residuals of its messages changed, and nothing else."""
    layers = tuple(
        LayerBlocks(
            *(
                Block(b.offsets, b.neighbours, change(b.residuals), b.degrees)
                for b in (layer.to_users, layer.to_items)
            )
        )
        for layer in batch.layers
    )
    return replaced(batch, layers=layers)


def test_ratings_of_neighbours_move_predictions_where_messages_carry_them():
    batch = one_batch()
    turned = with_residuals(batch, lambda residuals: -residuals)
    with_ratings, without = make_model(), make_model(rating_messages=False)
    assert (with_ratings(batch) - with_ratings(turned)).abs().max() > 1e-3
    assert torch.equal(without(batch), without(turned))


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_no_prediction_reads_the_targets_ratings(variant):
    model = make_model(**variant).eval()
    batch = one_batch(model.config.layers)
    other = replaced(batch, ratings=torch.full_like(batch.ratings, torch.nan))
    assert torch.equal(model(batch), model(other))


@pytest.mark.parametrize(
    "field", ["user_nodes", "item_nodes", "user_inputs", "item_inputs", "users", "items"]
)
def test_every_input_counts(field):
    model, batch = make_model(user_identity=True), one_batch()
    value = getattr(batch, field)
    changed = value + 1 if value.is_floating_point() else value.flip(0)
    assert not torch.allclose(model(batch), model(replaced(batch, **{field: changed})))


def test_features_of_items_count_where_used():
    batch = one_batch()
    for used in (True, False):
        model = make_model(item_features=used)
        before = model(batch)
        model.inputs.features.mul_(2)
        assert torch.equal(before, model(batch)) != used


def test_baselines_are_added_to_the_residuals():
    model, batch = make_model(), one_batch()
    raised = replaced(batch, baselines=batch.baselines + 1)
    torch.testing.assert_close(model(raised), model(batch) + 1)


def test_a_prediction_does_not_depend_on_the_others_of_the_batch():
    """No statistics over a batch: halves of the targets get what the whole got."""
    model, batch = make_model().eval(), one_batch()
    half = len(batch.users) // 2
    whole = model(batch)
    for part in (slice(0, half), slice(half, None)):
        names = ("users", "items", "ratings", "baselines", "edges")
        some = replaced(batch, **{name: getattr(batch, name)[part] for name in names})
        torch.testing.assert_close(model(some), whole[part])


def test_dropout_only_while_training():
    model, batch = make_model(dropout=0.5), one_batch()
    assert not torch.equal(model(batch), model(batch))
    model.eval()
    assert torch.equal(model(batch), model(batch))


@pytest.mark.parametrize(
    "wrong",
    [
        {"embedding_size": 0},
        {"layers": -1},
        {"layers": 2.5},
        {"identity_damping": -1.0},
        {"identity_damping": float("inf")},
        {"refinement": -1},
        {"item_features": ""},
        {"item_features": ("genres", 3)},
        {"aggregator": "median"},
        {"dropout": 1.0},
        {"dropout": -0.1},
        {"decoder_size": -1},
        {"unheard_of": 1},
        {"interaction": "yes"},
    ],
    ids=str,
)
def test_impossible_models_are_refused(wrong):
    with pytest.raises(ValidationError):
        ModelConfig(**wrong)
