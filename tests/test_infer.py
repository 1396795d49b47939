"""Exact embeddings are those of one batch over everything, however they are cut up."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dglrec import biases as biases_module
from dglrec.biases import fit_biases
from dglrec.errors import DglrecError
from dglrec.graph import Adjacency, build_graph
from dglrec.infer import (
    Scorer,
    embed,
    embed_all,
    embed_new_items,
    embed_new_users,
    entries_of,
    predict,
    predict_pairs,
)
from dglrec.kernels import ItemLists
from dglrec.nn import ModelConfig, NodeValues, RatingModel
from dglrec.sampling import LoaderConfig, NeighborEdgeLoader, UserBatchLoader
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
    {"layers": 0, "user_identity": True},
    {"refinement": 0},
    {"refined_layers": "all", "layers": 3},
    {"aggregator": "sum"},
    {"aggregator": "attention"},
    {"convolution": "gat", "combination": "concat"},
    {"convolution": "gcn", "combination": "weighted"},
    {"convolution": "gatv2", "combination": "max"},
    {"convolution": "gin", "combination": "mean", "layers": 3, "residual": False},
    {"convolution": "gin", "unit_length": True, "residual": False},
    {"decoder_size": 0},
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

    def items_of(self, user):
        return self.graph.by_user.neighbours[self.graph.by_user.of(user)].tolist()

    def ratings_of(self, users):
        """What some training users rated, as if they were new ones."""
        by_user = self.graph.by_user
        rows = [by_user.of(user) for user in users]
        return adjacency_of(
            [by_user.neighbours[row].tolist() for row in rows],
            [by_user.codes[row].tolist() for row in rows],
        )


def lists_of(rows):
    """A list of items for each row."""
    return ItemLists(
        np.cumsum([0, *map(len, rows)], dtype=np.int64),
        np.array([item for row in rows for item in row], dtype=np.int32),
    )


def adjacency_of(rows, codes):
    """A list of items, and of codes, for each user."""
    flat = np.array([code for row in codes for code in row], dtype=np.uint8)
    return Adjacency(*lists_of(rows), flat)


NOTHING_LEFT_OUT = lists_of([[]] * USERS)


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
        unseen_items=0.0,
    )
    (batch,) = NeighborEdgeLoader(world.graph, world.biases, config)
    return batch


def new_users(model, biases, embeddings, ratings):
    """Embeddings and biases of users that training never saw."""
    of_users = biases.of_new_users(ratings, SCALE)
    return embed_new_users(model, embeddings, ratings, SCALE, of_users).nodes, of_users.users


ONE_ITEM = torch.ones(1, 4)


def same(a, b):
    parts = zip((*a.nodes, *a.item_layers), (*b.nodes, *b.item_layers), strict=True)
    return all(torch.equal(x, y) for x, y in parts)


def assert_alike(found, expected):
    """But for rounding, which follows the largest: some variants make values of hundreds."""
    atol = 1e-5 * max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=atol)


# ---------------------------------------------------------------- all nodes


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v.get("layers") != 0], ids=str)
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
    assert_alike(found, expected[by_edge])
    assert expected.std() > 0.1  # and they are not all alike


def test_exact_inference_without_layers_is_a_batch_of_whole_users(world):
    model = make_model(layers=0, user_identity=True).eval()
    config = LoaderConfig(
        user_fanouts=(), item_fanouts=(), exclude_targets=False, unseen_items=0.0, folds=2
    )
    batches = list(UserBatchLoader(world.graph, world.biases, config))
    with torch.no_grad():
        expected = torch.cat([model(batch) for batch in batches])
    edges = torch.cat([batch.edges for batch in batches])
    embeddings = embed_all(model, world.graph, world.biases)
    assert embeddings.item_layers == ()
    users = torch.from_numpy(np.repeat(np.arange(USERS), world.graph.by_user.degrees))[edges]
    items = torch.from_numpy(world.graph.by_user.neighbours).long()[edges]
    found = predict_pairs(model, embeddings, world.biases, users, items)
    torch.testing.assert_close(found, expected, **CLOSE)
    assert len(edges) == EDGES and expected.std() > 0.1


@pytest.mark.parametrize("edges", [1, 7, 100, 10**9])
def test_chunks_change_nothing(world, monkeypatch, edges):
    model = make_model()
    whole = embed_all(model, world.graph, world.biases)
    monkeypatch.setattr(embed, "_CHUNK_EDGES", edges)
    found = embed_all(model, world.graph, world.biases)
    pairs = zip((*whole.nodes, *whole.item_layers), (*found.nodes, *found.item_layers), strict=True)
    for a, b in pairs:
        torch.testing.assert_close(a, b, **CLOSE)


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_off_meanwhile_and_the_mode_comes_back(world, training):
    model = make_model().train(training)
    first = embed_all(model, world.graph, world.biases)
    user, again = (new_users(model, world.biases, first, world.ratings_of([0]))[0] for _ in (1, 2))
    item, same_item = (embed_new_items(model, torch.ones(2, 4)).nodes for _ in (1, 2))
    assert same(first, embed_all(model, world.graph, world.biases))
    assert torch.equal(user, again) and torch.equal(item, same_item)
    assert model.training is training and model.encoder.layers[0].dropout.training is training


def test_an_error_on_the_way_leaves_the_mode_as_it_was(world, monkeypatch):
    model = make_model().train()

    def fails(*_, **__):
        raise MemoryError

    monkeypatch.setattr(embed, "_update", fails)
    with pytest.raises(MemoryError):
        embed_all(model, world.graph, world.biases)
    assert model.training
    with pytest.raises(RuntimeError):
        embed_new_items(model, torch.ones(2, 7))  # features of another width
    assert model.training


def test_inference_leaves_no_gradients_behind(world):
    model = make_model()
    embeddings = embed_all(model, world.graph, world.biases)
    users, _ = new_users(model, world.biases, embeddings, world.ratings_of([0]))
    parts = (
        *embeddings.nodes,
        *embeddings.item_layers,
        users,
        embed_new_items(model, ONE_ITEM).nodes,
    )
    assert not any(part.requires_grad for part in parts)


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
            nothing_known = torch.zeros(1, 3)  # bias 0, log(1 + 0), and the spread of anybody
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
def test_new_users_with_training_users_ratings_are_those_users(world, variant):
    model = make_model(**variant)
    embeddings = embed_all(model, world.graph, world.biases)
    users = [7, 0, USERS - 1, 20, 7]  # in no order, one of them twice, one without ratings
    found, biases = new_users(model, world.biases, embeddings, world.ratings_of(users))
    assert found.shape == (5, model.config.encoded_size) and found.dtype == torch.float32
    torch.testing.assert_close(biases, world.biases.users[users], **CLOSE)
    assert_alike(found, embeddings.nodes.users[users])
    assert found[:4].std(0).min() > 1e-3  # and they are not all alike


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_new_users_together_are_each_of_them_alone(world, variant):
    model = make_model(**variant)
    embeddings = embed_all(model, world.graph, world.biases)
    users = [3, USERS - 2, 0, 11]
    found, biases = new_users(model, world.biases, embeddings, world.ratings_of(users))
    for place, user in enumerate(users):
        one, bias = new_users(model, world.biases, embeddings, world.ratings_of([user]))
        assert one.shape == (1, model.config.encoded_size)
        assert_alike(one[0], found[place])
        torch.testing.assert_close(bias[0], biases[place])


@pytest.mark.parametrize("edges", [1, 7])
def test_chunks_change_nothing_for_new_users(world, monkeypatch, edges):
    model = make_model(layers=3)
    embeddings = embed_all(model, world.graph, world.biases)
    ratings = world.ratings_of(range(0, USERS, 3))
    whole, _ = new_users(model, world.biases, embeddings, ratings)
    monkeypatch.setattr(embed, "_CHUNK_EDGES", edges)
    found, _ = new_users(model, world.biases, embeddings, ratings)
    torch.testing.assert_close(found, whole, **CLOSE)


def test_with_biases_as_they_are_fitted_new_users_are_nearly_those_users(world):
    """The fit ends with a half-step for users, so their biases follow from the items' exactly."""
    biases = fit_biases(world.graph)
    model = make_model()
    embeddings = embed_all(model, world.graph, biases)
    users = np.flatnonzero(world.graph.by_user.degrees)[::5].tolist()
    found, of_users = new_users(model, biases, embeddings, world.ratings_of(users))
    torch.testing.assert_close(of_users, biases.users[users], rtol=0, atol=1e-5)
    torch.testing.assert_close(found, embeddings.nodes.users[users], **CLOSE)


def test_what_a_new_user_gave_counts_and_only_for_that_user(world):
    model = make_model()
    embeddings = embed_all(model, world.graph, world.biases)
    ratings = adjacency_of([[1, 4], [2, 4], [4]], [[3, 9], [8, 2], [0]])
    before, _ = new_users(model, world.biases, embeddings, ratings)
    changed = adjacency_of([[1, 4], [2, 4], [4]], [[3, 9], [8, 9], [0]])
    after, _ = new_users(model, world.biases, embeddings, changed)
    moved = (after - before).abs().amax(1)
    assert moved[1] > 1e-3
    torch.testing.assert_close(after[[0, 2]], before[[0, 2]], **CLOSE)


def test_a_new_user_with_one_rating_of_an_item_nobody_rated(world):
    model = make_model(user_identity=True)
    embeddings = embed_all(model, world.graph, world.biases)
    ratings = adjacency_of([[ITEMS - 1]], [[9]])
    user, bias = new_users(model, world.biases, embeddings, ratings)
    assert user.shape == (1, 8) and user.isfinite().all()
    expected = (10 - world.biases.mean) / (1 + world.biases.damping.users)
    assert float(bias[0]) == pytest.approx(expected, abs=1e-6)


def test_a_new_user_without_ratings_is_anybody(world):
    model = make_model(user_identity=True)
    embeddings = embed_all(model, world.graph, world.biases)
    users, biases = new_users(model, world.biases, embeddings, adjacency_of([[], [3], []], [[9]]))
    assert biases[[0, 2]].tolist() == [0, 0]
    assert torch.equal(users[0], users[2])
    assert users.isfinite().all() and not torch.allclose(users[0], users[1])


def test_no_new_users_are_no_rows(world):
    model = make_model()
    embeddings = embed_all(model, world.graph, world.biases)
    users, biases = new_users(model, world.biases, embeddings, adjacency_of([], []))
    assert users.shape == (0, 8) and biases.shape == (0,)


# ---------------------------------------------------------------- items never trained on

OF_ITEMS = [v for v in VARIANTS if v.get("item_features", True)]


@pytest.mark.parametrize("variant", OF_ITEMS, ids=str)
def test_a_new_item_is_an_unrated_item_of_the_same_features(world, variant):
    """Features decide, so two items that nobody rated and that are alike are one."""
    model = make_model(item_identity=False, **variant)
    assert world.graph.by_item.degrees[-2:].tolist() == [0, 0]
    embeddings = embed_all(model, world.graph, world.biases)
    found = embed_new_items(model, model.inputs.features[-2:]).nodes
    assert found.shape == (2, model.config.encoded_size) and found.dtype == torch.float32
    torch.testing.assert_close(found, embeddings.nodes.items[-2:], **CLOSE)
    assert not torch.allclose(found[0], found[1])


def test_a_rated_items_features_alone_do_not_make_that_item(world):
    model = make_model(item_identity=False)
    embeddings = embed_all(model, world.graph, world.biases)
    found = embed_new_items(model, model.inputs.features[:1]).nodes
    assert not torch.allclose(found, embeddings.nodes.items[:1], atol=1e-2)


def test_a_new_item_of_a_model_with_vectors_of_items_has_none(world):
    """As no unrated item has, whatever its vector is."""
    model = make_model(item_identity=True)
    with torch.no_grad():
        model.inputs.item_vectors.weight[-1] = 1e6
    embeddings = embed_all(model, world.graph, world.biases)
    found = embed_new_items(model, model.inputs.features[-1:]).nodes
    torch.testing.assert_close(found, embeddings.nodes.items[-1:], **CLOSE)


def test_new_items_together_are_each_of_them_alone_and_none_are_no_rows():
    model = make_model()
    features = torch.randn(5, 4)
    whole = embed_new_items(model, features).nodes
    for one, expected in zip(features.split(1), whole.split(1), strict=True):
        torch.testing.assert_close(embed_new_items(model, one).nodes, expected, **CLOSE)
    assert embed_new_items(model, features[:0]).nodes.shape == (0, 8)


def test_where_embeddings_are_transferred_unrated_items_are_made_of_features_alone(world):
    """Rated ones stay what the encoder makes of them, and say what the features of others mean."""
    torch.manual_seed(3)
    plain = make_model()
    torch.manual_seed(3)
    model = make_model(new_items="transfer")
    expected = embed_all(plain, world.graph, world.biases)
    found = embed_all(model, world.graph, world.biases)
    assert expected.item_network is None and found.item_network is not None
    torch.testing.assert_close(found.nodes.items[:-2], expected.nodes.items[:-2])
    features = model.inputs.features[-2:]
    torch.testing.assert_close(found.nodes.items[-2:], found.item_network(features), **CLOSE)
    assert not torch.allclose(found.nodes.items[-2:], expected.nodes.items[-2:], atol=1e-2)
    added = embed_new_items(model, features, item_network=found.item_network)
    torch.testing.assert_close(added.nodes, found.nodes.items[-2:], **CLOSE)


# ---------------------------------------------------------------- pairs


def test_pairs_in_chunks_are_pairs_at_once(world, monkeypatch):
    model = make_model()
    embeddings = embed_all(model, world.graph, world.biases)
    users, items = torch.cartesian_prod(torch.arange(USERS), torch.arange(ITEMS)).T
    whole = predict_pairs(model, embeddings, world.biases, users, items)
    assert whole.shape == (USERS * ITEMS,) and whole.dtype == torch.float32
    monkeypatch.setattr(predict, "_CHUNK_PAIRS", 7)
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


@pytest.mark.parametrize("interaction", [True, False])
def test_a_scorers_pairs_are_predict_pairs(world, interaction):
    model = make_model(interaction=interaction)
    embeddings = embed_all(model, world.graph, world.biases)
    scorer = Scorer(model, embeddings.nodes, world.biases, torch.tensor([3, 8]))
    users, items = torch.cartesian_prod(torch.arange(USERS), torch.arange(ITEMS)).T
    order = torch.randperm(len(users), generator=torch.Generator().manual_seed(0))
    users, items = users[order], items[order]  # of any items, whatever the catalogue
    found = scorer.pairs(users, items)
    expected = predict_pairs(model, embeddings, world.biases, users, items)
    assert found.shape == (USERS * ITEMS,) and found.dtype == torch.float32
    assert not found.requires_grad
    torch.testing.assert_close(found, expected, **CLOSE)
    assert scorer.pairs(users[:0], items[:0]).shape == (0,)


# ---------------------------------------------------------------- the best items


def compiled(scorer, users, left_out, k):
    return scorer.best(users, left_out, k)


def broadcast(scorer, users, left_out, k):
    """What a GPU does."""
    return scorer.best_of_few(users, left_out, k)


ROUTES = [compiled, broadcast]


def make_scorer(world, catalogue=None, **config):
    """A scorer, and the predicted rating of every pair."""
    model = make_model(**config)
    embeddings = embed_all(model, world.graph, world.biases)
    users, items = torch.cartesian_prod(torch.arange(USERS), torch.arange(ITEMS)).T
    of_pairs = predict_pairs(model, embeddings, world.biases, users, items).view(USERS, ITEMS)
    return Scorer(model, embeddings.nodes, world.biases, catalogue), of_pairs


def brute_force(of_pairs, user, left_out, k, catalogue=range(ITEMS)):
    """All items by predicted rating, one after the other, those left out aside."""
    items = [item for item in catalogue if item not in left_out]
    return sorted(((float(of_pairs[user, item]), item) for item in items), reverse=True)[:k]


def assert_best(found, of_pairs, users, left_out, k, catalogue=range(ITEMS)):
    scores, items = found
    width = min(k, len(catalogue))
    assert scores.shape == items.shape == (len(users), width)
    assert scores.dtype == torch.float32 and items.dtype == torch.int64
    assert not scores.requires_grad
    assert not len(items) or set(items.flatten().tolist()) <= set(catalogue)
    for row, user in enumerate(users.tolist()):
        expected = brute_force(of_pairs, user, left_out[user], k, catalogue)
        left = len(expected)
        assert items[row, :left].tolist() == [item for _, item in expected]
        np.testing.assert_allclose(scores[row, :left], [s for s, _ in expected], 1e-5, 1e-5)
        assert torch.all(scores[row, left:] == -torch.inf)


@pytest.mark.parametrize("at_once", [1, 40, 1 << 25])
@pytest.mark.parametrize("interaction", [True, False])
@pytest.mark.parametrize("route", ROUTES)
def test_the_best_items_are_those_of_brute_force(world, monkeypatch, route, interaction, at_once):
    monkeypatch.setattr(predict, "_SCORES_AT_ONCE", at_once)
    scorer, of_pairs = make_scorer(world, interaction=interaction)
    users = torch.tensor([5, 0, USERS - 1, 17, 0, 1, 2, 3, 4])  # in no order, one of them twice
    rated = [set(world.items_of(user)) for user in range(USERS)]
    found = route(scorer, users, world.graph.by_user.lists, 4)
    assert_best(found, of_pairs, users, rated, 4)


@pytest.mark.parametrize("size", [{"embedding_size": 5, "decoder_size": 3}, {"decoder_size": 17}])
@pytest.mark.parametrize("interaction", [True, False])
@pytest.mark.parametrize("route", ROUTES)
def test_sizes_that_fill_no_block_are_ranked_right(world, route, interaction, size):
    scorer, of_pairs = make_scorer(world, interaction=interaction, **size)
    users = torch.arange(USERS)
    found = route(scorer, users, NOTHING_LEFT_OUT, 7)
    assert_best(found, of_pairs, users, [set()] * USERS, 7)


@pytest.mark.parametrize("catalogue", [[0], [24], [0, 7, 8, 24], list(range(1, ITEMS, 2))])
@pytest.mark.parametrize("route", ROUTES)
def test_only_items_of_the_catalogue_come_back(world, route, catalogue):
    """Items left out may or may not be in it."""
    scorer, of_pairs = make_scorer(world, torch.tensor(catalogue))
    assert scorer.catalogue_size == len(catalogue)
    users = torch.tensor([9, 8, 0, 8])
    left_out = [set(world.items_of(user)) | {catalogue[0]} for user in range(USERS)]
    lists = lists_of([sorted(row) for row in left_out])
    for k in (1, 3, ITEMS):
        found = route(scorer, users, lists, k)
        assert_best(found, of_pairs, users, left_out, k, catalogue)


@pytest.mark.parametrize("route", ROUTES)
def test_where_too_few_items_are_left_the_rest_is_minus_infinity(world, route):
    scorer, of_pairs = make_scorer(world)
    left_out = [set() for _ in range(USERS)]
    left_out[0] = set(range(ITEMS)) - {4, 9}
    left_out[2] = set(range(ITEMS))
    users = torch.tensor([2, 0, 1])
    found = route(scorer, users, lists_of([sorted(row) for row in left_out]), 5)
    assert_best(found, of_pairs, users, left_out, 5)
    scores, items = found
    assert scores.isfinite().sum(1).tolist() == [0, 2, 5]
    assert set(items[1, :2].tolist()) == {4, 9}


@pytest.mark.parametrize("route", ROUTES)
def test_an_item_left_out_twice_is_left_out(world, route):
    scorer, of_pairs = make_scorer(world)
    lists = lists_of([[0, 3, 3, 3, 24, 24]] * USERS)
    users = torch.tensor([6])
    found = route(scorer, users, lists, ITEMS)
    assert_best(found, of_pairs, users, [{0, 3, 24}] * USERS, ITEMS)


@pytest.mark.parametrize("k", [ITEMS, ITEMS + 50])
@pytest.mark.parametrize("route", ROUTES)
def test_more_than_the_catalogue_is_the_catalogue(world, route, k):
    scorer, of_pairs = make_scorer(world)
    users = torch.tensor([1])
    scores, items = route(scorer, users, NOTHING_LEFT_OUT, k)
    assert sorted(items[0].tolist()) == list(range(ITEMS))
    assert (scores[0].diff() <= 0).all()
    assert_best((scores, items), of_pairs, users, [set()] * USERS, k)


@pytest.mark.parametrize("route", ROUTES)
def test_no_users_and_no_catalogue_have_no_best_items(world, route):
    scorer, _ = make_scorer(world)
    scores, items = route(scorer, torch.empty(0, dtype=torch.int64), NOTHING_LEFT_OUT, 3)
    assert scores.shape == items.shape == (0, 3)
    scorer, _ = make_scorer(world, torch.empty(0, dtype=torch.int64))
    scores, items = route(scorer, torch.tensor([0, 4]), world.graph.by_user.lists, 3)
    assert scores.shape == items.shape == (2, 0)


def test_the_best_items_do_not_depend_on_who_else_asks(world):
    """Lists that are written in parts are the same however they are cut."""
    scorer, _ = make_scorer(world, decoder_size=20)
    left_out = world.graph.by_user.lists
    scores, items = scorer.best(torch.arange(USERS), left_out, 6)
    for size in (1, 2, 3, 7):
        for part in torch.arange(USERS).split(size):
            found = scorer.best(part, left_out, 6)
            assert torch.equal(found[0], scores[part]) and torch.equal(found[1], items[part])


def spoil(model, nodes, biases, which, value):
    """Put a value that is no number somewhere into what scores are made of."""
    table = {
        "users": nodes.users,
        "items": nodes.items,
        "user biases": biases.users,
        "item biases": biases.items,
        "the last weight": model.decoder.out.weight,
        "the last bias": model.decoder.out.bias,
    }[which]
    with torch.inference_mode():
        table.view(-1)[-1] = value


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf], ids=str)
@pytest.mark.parametrize(
    "which",
    ["users", "items", "user biases", "item biases", "the last weight", "the last bias"],
)
def test_what_is_not_finite_is_refused(world, which, value):
    model = make_model()
    nodes = NodeValues(
        *(part.clone() for part in embed_all(model, world.graph, world.biases).nodes)
    )
    known = world.biases
    biases = replace(known, users=known.users.clone(), items=known.items.clone())
    Scorer(model, nodes, biases)
    spoil(model, nodes, biases, which, value)
    with pytest.raises(DglrecError, match=r"not finite numbers.*train\.learning_rate"):
        Scorer(model, nodes, biases)


# ---------------------------------------------------------------- entries of rows


def test_entries_of_rows_by_position():
    offsets = np.array([0, 2, 2, 3, 7])

    def found(rows):
        positions, entries = entries_of(offsets, torch.tensor(rows, dtype=torch.int64))
        assert positions.dtype == entries.dtype == torch.int64
        return list(zip(positions.tolist(), entries.tolist(), strict=True))

    assert found([2, 0]) == [(0, 2), (1, 0), (1, 1)]
    assert found([0, 3, 1, 0]) == [
        (0, 0), (0, 1), (1, 3), (1, 4), (1, 5), (1, 6), (3, 0), (3, 1),
    ]  # fmt: skip
    assert found([1]) == []
    assert found([]) == []
