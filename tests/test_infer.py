"""Exact embeddings are those of one batch over everything, however they are cut up."""

import numpy as np
import pytest
import torch

from dglrec import biases as biases_module
from dglrec import infer
from dglrec.biases import fit_biases
from dglrec.graph import Adjacency, build_graph
from dglrec.infer import embed_all, embed_new_user, items_of, predict_pairs, top_items
from dglrec.nn import ModelConfig, RatingModel
from dglrec.sampling import LoaderConfig, NeighborEdgeLoader
from dglrec.schema import RatingScale

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
SCALE = RatingScale(1, 10)
USERS, ITEMS, EDGES = 40, 25, 320

VARIANTS = [
    {},
    {"user_identity": True},
    {"rating_messages": False},
    {"aggregator": "pool"},
    {"interaction": False},
    {"item_features": False},
    {"layers": 1},
    {"layers": 3},
]


class World:
    """Ratings of nodes of very different degrees; the last users and items have none."""

    def __init__(self, seed=0):
        generator = np.random.default_rng(seed)
        odds = np.outer(1 / np.arange(1, USERS - 1), 1 / np.sqrt(np.arange(1, ITEMS - 1))).ravel()
        pairs = generator.choice(len(odds), EDGES, replace=False, p=odds / odds.sum())
        self.graph = build_graph(
            pairs // (ITEMS - 2),
            pairs % (ITEMS - 2),
            generator.integers(0, 10, EDGES),
            num_users=USERS,
            num_items=ITEMS,
            scale=SCALE,
        )
        with pytest.MonkeyPatch.context() as patch:  # to float32's last digits
            patch.setattr(biases_module, "_TOLERANCE", 1e-9)
            patch.setattr(biases_module, "_SWEEPS", 5_000)
            self.biases = fit_biases(self.graph)

    def ratings_of(self, user):
        row = self.graph.by_user.of(user)
        items = torch.from_numpy(self.graph.by_user.neighbours[row]).long()
        return items, torch.from_numpy(SCALE.decode(self.graph.by_user.codes[row]))


@pytest.fixture(scope="module")
def world():
    return World()


def make_model(**config):
    """Weights far from their start, so that every part of the model counts."""
    torch.manual_seed(0)
    config = {"embedding_size": 8, "decoder_size": 8, "dropout": 0.5, **config}
    model = RatingModel(ModelConfig(**config), USERS, torch.randn(ITEMS, 4))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def full_batch(world, layers):
    config = LoaderConfig(
        batch_size=EDGES,
        user_fanouts=(-1,) * layers,
        item_fanouts=(-1,) * layers,
        exclude_targets=False,
    )
    (batch,) = NeighborEdgeLoader(world.graph, world.biases, config)
    return batch


def same(a, b):
    parts = zip((*a.nodes, *a.item_layers), (*b.nodes, *b.item_layers), strict=True)
    return all(torch.equal(x, y) for x, y in parts)


# ---------------------------------------------------------------- all nodes


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_exact_inference_is_one_batch_over_all_neighbours(world, variant):
    model = make_model(**variant).eval()
    batch = full_batch(world, model.config.layers)
    with torch.no_grad():
        expected = model(batch)
    embeddings = embed_all(model, world.graph, world.biases)
    by_edge = torch.argsort(batch.edges)
    users = torch.from_numpy(np.repeat(np.arange(USERS), world.graph.by_user.degrees))
    items = torch.from_numpy(world.graph.by_user.neighbours).long()
    found = predict_pairs(model, embeddings, world.biases, users, items)
    torch.testing.assert_close(found, expected[by_edge], **CLOSE)
    assert expected.std() > 0.1  # and they are not all alike


@pytest.mark.parametrize("edges", [1, 7, 100, 10**9])
def test_chunks_change_nothing(world, monkeypatch, edges):
    model = make_model()
    whole = embed_all(model, world.graph, world.biases)
    monkeypatch.setattr(infer, "_CHUNK_EDGES", edges)
    found = embed_all(model, world.graph, world.biases)
    pairs = zip((*whole.nodes, *whole.item_layers), (*found.nodes, *found.item_layers), strict=True)
    for a, b in pairs:
        torch.testing.assert_close(a, b, **CLOSE)


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_off_meanwhile_and_the_mode_comes_back(world, training):
    model = make_model().train(training)
    first = embed_all(model, world.graph, world.biases)
    user, _ = embed_new_user(model, world.biases, first, *world.ratings_of(0))
    again, _ = embed_new_user(model, world.biases, first, *world.ratings_of(0))
    assert same(first, embed_all(model, world.graph, world.biases))
    assert torch.equal(user, again)
    assert model.training is training and model.encoder.layers[0].dropout.training is training


def test_an_error_on_the_way_leaves_the_mode_as_it_was(world, monkeypatch):
    model = make_model().train()

    def fails(*_):
        raise MemoryError

    monkeypatch.setattr(infer, "_block", fails)
    with pytest.raises(MemoryError):
        embed_all(model, world.graph, world.biases)
    assert model.training


def test_inference_leaves_no_gradients_behind(world):
    embeddings = embed_all(make_model(), world.graph, world.biases)
    assert not any(part.requires_grad for part in (*embeddings.nodes, *embeddings.item_layers))


def test_layers_of_items_are_inputs_first(world):
    model = make_model(layers=3).eval()
    embeddings = embed_all(model, world.graph, world.biases)
    assert len(embeddings.item_layers) == 3
    with torch.no_grad():
        inputs = model.inputs.items(torch.arange(ITEMS), world.biases.item_inputs(slice(None)))
    torch.testing.assert_close(embeddings.item_layers[0], inputs)
    for layer in embeddings.item_layers:
        assert not torch.allclose(layer, embeddings.nodes.items)


def test_nodes_without_edges_are_what_they_are_by_themselves(world):
    model = make_model(layers=1).eval()
    assert world.graph.by_user.degrees[-2:].tolist() == [0, 0]
    embeddings = embed_all(model, world.graph, world.biases)
    (layer,) = model.encoder.layers
    with torch.no_grad():
        for nodes, found, inputs, conv in (
            (USERS - 1, embeddings.nodes.users, model.inputs.users, layer.to_users),
            (ITEMS - 1, embeddings.nodes.items, model.inputs.items, layer.to_items),
        ):
            nothing_known = torch.zeros(1, 2)  # bias 0, and log(1 + 0)
            own = inputs(torch.tensor([nodes]), nothing_known)
            torch.testing.assert_close(found[nodes : nodes + 1], own + conv.bare.own(own), **CLOSE)
    everyone = torch.cat(tuple(embeddings.nodes))
    assert everyone.isfinite().all()


def test_a_user_is_what_it_rated_and_how(world):
    """Another user's rating moves it only by way of items, so never in one layer but by biases."""
    model = make_model(layers=1)
    before = embed_all(model, world.graph, world.biases).nodes.users
    codes = world.graph.by_user.codes.copy()
    row = world.graph.by_user.of(3)
    codes[row] = (codes[row] + 4) % 10
    changed = build_graph(
        np.repeat(np.arange(USERS), world.graph.by_user.degrees),
        world.graph.by_user.neighbours,
        codes,
        num_users=USERS,
        num_items=ITEMS,
        scale=SCALE,
    )
    after = embed_all(model, changed, world.biases).nodes.users  # of the same biases
    moved = (after - before).abs().amax(1) > 0
    assert moved.nonzero().flatten().tolist() == [3]


# ---------------------------------------------------------------- users never trained on


@pytest.mark.parametrize("variant", [v for v in VARIANTS if not v.get("user_identity")], ids=str)
def test_a_new_user_with_a_training_users_ratings_is_that_user(world, variant):
    model = make_model(**variant)
    embeddings = embed_all(model, world.graph, world.biases)
    for user in np.flatnonzero(world.graph.by_user.degrees)[::5].tolist():
        found, bias = embed_new_user(model, world.biases, embeddings, *world.ratings_of(user))
        assert bias == pytest.approx(float(world.biases.users[user]), abs=1e-5)
        torch.testing.assert_close(found, embeddings.nodes.users[user : user + 1], **CLOSE)


def test_with_biases_as_they_are_fitted_a_new_user_is_nearly_that_user(world):
    """The fit ends with a half-step for users, so their biases follow from the items' exactly."""
    biases = fit_biases(world.graph)
    model = make_model()
    embeddings = embed_all(model, world.graph, biases)
    for user in np.flatnonzero(world.graph.by_user.degrees)[::5].tolist():
        found, bias = embed_new_user(model, biases, embeddings, *world.ratings_of(user))
        assert bias == pytest.approx(float(biases.users[user]), abs=1e-5)
        torch.testing.assert_close(found, embeddings.nodes.users[user : user + 1], **CLOSE)


def test_a_new_user_does_not_depend_on_the_order_of_its_ratings(world):
    model = make_model()
    embeddings = embed_all(model, world.graph, world.biases)
    items, ratings = world.ratings_of(0)
    found, bias = embed_new_user(model, world.biases, embeddings, items, ratings)
    order = torch.randperm(len(items), generator=torch.Generator().manual_seed(0))
    again, same_bias = embed_new_user(model, world.biases, embeddings, items[order], ratings[order])
    torch.testing.assert_close(found, again, **CLOSE)
    assert bias == pytest.approx(same_bias, abs=1e-6)


def test_a_new_user_with_one_rating_of_an_item_nobody_rated(world):
    model = make_model(user_identity=True)
    embeddings = embed_all(model, world.graph, world.biases)
    user, bias = embed_new_user(
        model, world.biases, embeddings, torch.tensor([ITEMS - 1]), torch.tensor([10.0])
    )
    assert user.shape == (1, 8) and user.isfinite().all()
    assert bias == pytest.approx((10 - world.biases.mean) / (1 + world.biases.damping))


# ---------------------------------------------------------------- pairs


def test_pairs_in_chunks_are_pairs_at_once(world, monkeypatch):
    model = make_model()
    embeddings = embed_all(model, world.graph, world.biases)
    users, items = torch.cartesian_prod(torch.arange(USERS), torch.arange(ITEMS)).T
    whole = predict_pairs(model, embeddings, world.biases, users, items)
    assert whole.shape == (USERS * ITEMS,) and whole.dtype == torch.float32
    monkeypatch.setattr(infer, "_CHUNK_PAIRS", 7)
    found = predict_pairs(model, embeddings, world.biases, users, items)
    torch.testing.assert_close(found, whole, **CLOSE)
    none = users[:0]
    assert predict_pairs(model, embeddings, world.biases, none, none).shape == (0,)


def test_pairs_add_the_biases(world):
    model = make_model()
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.zero_()
    embeddings = embed_all(model, world.graph, world.biases)
    users, items = torch.tensor([0, 3, USERS - 1]), torch.tensor([2, ITEMS - 1, 0])
    found = predict_pairs(model, embeddings, world.biases, users, items)
    biases = world.biases
    expected = biases.mean + biases.users[users] + biases.items[items]
    torch.testing.assert_close(found, expected)
    assert found[2] == pytest.approx(biases.mean + float(biases.items[0]))  # an unknown user


# ---------------------------------------------------------------- the best items


def top_of(model, embeddings, world, users, seen, k):
    return top_items(
        model,
        embeddings.nodes.items,
        world.biases.items,
        embeddings.nodes.users[users],
        world.biases.mean + world.biases.users[users],
        seen,
        k,
    )


def brute_force(model, embeddings, world, user, seen, k):
    """All items by predicted rating, one pair after the other, those seen left out."""
    items = [item for item in range(ITEMS) if item not in seen]
    scores = predict_pairs(
        model,
        embeddings,
        world.biases,
        torch.full((len(items),), user),
        torch.tensor(items, dtype=torch.int64),
    ).tolist()
    return sorted(zip(scores, items, strict=True), reverse=True)[:k]


@pytest.mark.parametrize("units", [1, 300, 1 << 25])
@pytest.mark.parametrize("interaction", [True, False])
def test_top_items_are_those_of_brute_force(world, monkeypatch, units, interaction):
    monkeypatch.setattr(infer, "_PAIR_UNITS", units)
    model = make_model(interaction=interaction)
    embeddings = embed_all(model, world.graph, world.biases)
    users = torch.tensor([5, 0, USERS - 1, 17, 0, 1, 2, 3, 4])  # in no order, one of them twice
    seen = items_of([world.graph.by_user], users)
    k = 4
    scores, best = top_of(model, embeddings, world, users, seen, k)
    assert scores.shape == best.shape == (len(users), k)
    for row, user in enumerate(users.tolist()):
        rated = set(world.ratings_of(user)[0].tolist())
        expected = brute_force(model, embeddings, world, user, rated, k)
        left = len(expected)
        found = [(s, i) for s, i in zip(scores[row], best[row], strict=True) if s.isfinite()]
        assert len(found) == left == min(k, ITEMS - len(rated))
        assert [int(item) for _, item in found] == [item for _, item in expected]
        np.testing.assert_allclose([float(s) for s, _ in found], [s for s, _ in expected], 1e-5)
        assert not rated & {int(item) for _, item in found}


def test_where_too_few_items_are_left_the_rest_is_minus_infinity(world):
    model = make_model()
    embeddings = embed_all(model, world.graph, world.biases)
    users = torch.tensor([0, 1, 2])
    seen_by_first = [item for item in range(ITEMS) if item not in (4, 9)]
    positions = [0] * len(seen_by_first) + [2] * ITEMS  # the third has seen everything
    seen = (torch.tensor(positions), torch.tensor(seen_by_first + list(range(ITEMS))))
    scores, best = top_of(model, embeddings, world, users, seen, 5)
    assert scores.isfinite().sum(1).tolist() == [2, 5, 0]
    assert (scores[0, 2:] == -torch.inf).all() and (scores[2] == -torch.inf).all()
    assert set(best[0, :2].tolist()) == {4, 9}
    assert ((best >= 0) & (best < ITEMS)).all()  # any item, but an item


def test_more_than_the_catalogue_is_the_catalogue(world):
    model = make_model()
    embeddings = embed_all(model, world.graph, world.biases)
    nothing = torch.empty(0, dtype=torch.int64)
    scores, best = top_of(
        model, embeddings, world, torch.tensor([1]), (nothing, nothing), ITEMS + 50
    )
    assert sorted(best[0].tolist()) == list(range(ITEMS))
    assert (scores[0].diff() <= 0).all()


def test_items_of_users_by_position():
    first = Adjacency(np.array([0, 2, 2, 3]), np.array([5, 7, 1], np.int32), np.zeros(3, np.uint8))
    other = Adjacency(np.array([0, 1, 2, 2]), np.array([9, 4], np.int32), np.zeros(2, np.uint8))

    def found(adjacencies, users):
        positions, items = items_of(adjacencies, torch.tensor(users, dtype=torch.int64))
        assert positions.dtype == items.dtype == torch.int64
        return sorted(zip(positions.tolist(), items.tolist(), strict=True))

    assert found([first], [2, 0]) == [(0, 1), (1, 5), (1, 7)]
    assert found([first, other], [0, 1, 0]) == [
        (0, 5), (0, 7), (0, 9), (1, 4), (2, 5), (2, 7), (2, 9),
    ]  # fmt: skip
    assert found([first], [1]) == []
    assert found([first], []) == []
    assert found([], [0, 1]) == []
