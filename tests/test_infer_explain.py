"""What a prediction rests on: held against encoding each user again without each rating."""

import itertools

import numpy as np
import pytest
import torch

from dglrec.biases import fit_biases
from dglrec.blocks import Block
from dglrec.graph import Adjacency, build_graph
from dglrec.infer import Rated, Scorer, embed_all, embed_new_users, find_reasons
from dglrec.infer.explain import _refit
from dglrec.kernels import pick_largest
from dglrec.nn import ModelConfig, NodeValues, RatingModel
from dglrec.schema import RatingScale

SCALE = RatingScale(1, 5, 0.5)
USERS, ITEMS = 12, 17
ALL = 100  # reasons: more than anybody has ratings
NOISE = 1e-4  # contributions below it are what rounding leaves, of predictions up to 8


@pytest.fixture(scope="module")
def graph():
    """User 0 rated nothing, user 1 one item, user 2 all but one, the others a few."""
    rng = np.random.default_rng(0)
    counts = [0, 1, ITEMS - 1, *rng.integers(2, 9, USERS - 3)]
    users = np.repeat(np.arange(USERS), counts)
    items = np.concatenate([rng.permutation(ITEMS)[:count] for count in counts])
    codes = rng.integers(0, SCALE.levels, len(users))
    return build_graph(users, items, codes, num_users=USERS, num_items=ITEMS, scale=SCALE)


class Setting:
    def __init__(self, graph, **config):
        torch.manual_seed(1)
        self.graph, self.biases = graph, fit_biases(graph)
        features = torch.randn(ITEMS, 3)
        settings = ModelConfig(**{"embedding_size": 6, "decoder_size": 5, **config})
        self.model = RatingModel(settings, USERS, features).eval()
        with torch.no_grad():
            for name, weights in self.model.named_parameters():
                if "log_damping" not in name:
                    weights.normal_(std=0.3)
                else:  # each column's own, and so that refinement counts
                    weights.uniform_(-1, 2)
        self.embeddings = embed_all(self.model, graph, self.biases)
        self.scorer = Scorer(self.model, self.embeddings.nodes, self.biases)
        self.rated = Rated(graph.by_user, SCALE, self.biases, torch.arange(USERS))
        pairs = torch.cartesian_prod(torch.arange(USERS), torch.arange(ITEMS)).T
        self.noise = NOISE * max(1.0, float(self.scorer.pairs(*pairs).abs().max()) / 8)

    def find(self, users, items, count=ALL):
        users = torch.tensor(users)
        return find_reasons(
            self.model,
            self.embeddings,
            self.scorer,
            self.rated,
            users,
            users,
            torch.tensor(items),
            count,
        )

    def ratings_of(self, user, without=None):
        by_user = self.graph.by_user
        row = by_user.of(user)
        items, codes = np.array(by_user.neighbours[row]), np.array(by_user.codes[row])
        keep = items != without
        return Adjacency(np.array([0, keep.sum()]), items[keep], codes[keep])

    def predictions(self, user, ratings):
        """All items' predicted ratings by a user had it these ratings."""
        biases = self.biases.of_new_users(ratings, SCALE)
        inputs, count = self.model.inputs, len(ratings.neighbours)
        with pytest.MonkeyPatch.context() as patch:
            if inputs.user_vectors is not None:
                vector, as_new = inputs.user_vectors.weight[user], inputs.new_users
                counts = count / (count + inputs.damping)
                patch.setattr(
                    inputs, "new_users", lambda known, features: as_new(known) + counts * vector
                )
            user = embed_new_users(self.model, self.embeddings, ratings, SCALE, biases).nodes
        scorer = Scorer(self.model, NodeValues(user, self.embeddings.nodes.items), biases)
        return scorer.pairs(torch.zeros(ITEMS, dtype=torch.int64), torch.arange(ITEMS)).numpy()

    def contributions(self, user):
        """For each rated item what it adds to each item's prediction."""
        whole = self.predictions(user, self.ratings_of(user))
        rated = self.ratings_of(user).neighbours.tolist()
        found = {
            item: whole - self.predictions(user, self.ratings_of(user, without=item))
            for item in rated
        }
        for item in rated:
            found[item][item] = 0.0
        return found


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"layers": 1},
        {"layers": 3},
        {"aggregator": "pool"},
        {"aggregator": "pool", "layers": 3},
        {"aggregator": "sum", "refinement": 3},
        {"refined_layers": "all", "refinement": 3},
        {"rating_messages": False},
        {"user_identity": True},
        {"interaction": False},
        {"refinement": 0, "residual": False},
        {"unit_length": True, "aggregator": "pool", "residual": False},
        {"refinement": 3, "column_damping": False, "spread": False},
        {"refinement": 2, "aggregator": "sum", "user_identity": True, "identity_damping": 3.0},
        {"layers": 0, "user_identity": True, "identity_damping": 3.0},
        {"decoder_size": 0},
    ],
    ids=str,
)
@pytest.mark.parametrize("edges", [1, 7, 1 << 14])
def test_contributions_are_what_is_lost_without_a_rating(config, edges, graph, monkeypatch):
    monkeypatch.setattr("dglrec.infer.explain._EDGES", edges)
    monkeypatch.setattr("dglrec.infer.explain._EDGES_OF_SQUARES", edges)
    setting = Setting(graph, **config)
    users = [*range(USERS), 2]
    items = [[(user + step) % ITEMS for step in (0, 3, 5, 11)] for user in users]
    reasons = setting.find(users, items)
    named = 0
    for row, user in enumerate(users):
        expected = setting.contributions(user)
        for column, item in enumerate(items[row]):
            of_items = {rated: values[item] for rated, values in expected.items()}
            largest = {rated: value for rated, value in of_items.items() if value > setting.noise}
            there = reasons.items[row, column] >= 0
            found = dict(
                zip(
                    reasons.items[row, column][there].tolist(),
                    reasons.contributions[row, column][there].tolist(),
                    strict=True,
                )
            )
            assert largest.keys() <= found.keys()
            for rated, value in found.items():
                assert value == pytest.approx(of_items[rated], abs=setting.noise / 2)
            values = list(found.values())
            assert values == sorted(values, reverse=True)
            named += len(largest)
    assert named > USERS  # the comparison is of something


def test_a_refit_over_nearly_equal_items_is_that_of_float64():
    """Sums of q q^T of a million beside a damping of 0.1: their condition number is 10^8."""
    rng, counts, width = np.random.default_rng(3), [1, 300, 2_000], 4
    offsets = np.concatenate(([0], np.cumsum(counts)))
    items = np.concatenate([rng.permutation(2_500)[:count] for count in counts])
    sources = (20 + 0.01 * rng.normal(size=(2_500, width))).astype(np.float32)
    guess = rng.normal(size=(len(items), width), scale=0.1).astype(np.float32)
    residuals, shifts = rng.normal(size=(2, len(items))).astype(np.float32)
    damping = np.array([0.1, 0.2, 0.3, 0.4], dtype=np.float32)
    expected = np.zeros(guess.shape)
    for low, high in itertools.pairwise(offsets):
        for edge in range(low, high):
            others = np.r_[low:edge, edge + 1 : high]
            q = sources[items[others]].astype(np.float64)
            e = residuals[others].astype(np.float64) - shifts[edge]
            squares = q.T @ q + np.diag(damping.astype(np.float64))
            expected[edge] = np.linalg.solve(squares, q.T @ (e - q @ guess[edge]))
    owners = np.repeat(np.arange(len(counts)), counts)
    block = Block(
        *(torch.from_numpy(array) for array in (offsets, items, residuals)),
        degrees=torch.tensor(counts).float(),
    )
    found = _refit(
        block, *(torch.from_numpy(array) for array in (sources, guess, owners, shifts, damping))
    )
    assert found.dtype == torch.float32 and np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_a_user_without_ratings_has_no_reasons(graph):
    reasons = Setting(graph).find([0], [[1, 2]], 3)
    assert (reasons.items == -1).all() and not reasons.contributions.any()


def test_the_first_few_are_the_largest_of_all(graph):
    setting = Setting(graph)
    users, items = [2, 5, 7], [[0, 1], [2, 3], [4, 5]]
    some, all_ = setting.find(users, items, 2), setting.find(users, items)
    assert np.array_equal(some.items, all_.items[..., :2])
    assert np.array_equal(some.contributions, all_.contributions[..., :2])


def test_new_users_are_explained_like_those_of_the_data_set(graph):
    """The same ratings, once known to the data set and once not."""
    setting = Setting(graph)
    users = torch.tensor([2, 5])
    items = torch.tensor([[0, 1, 2], [3, 4, 5]])
    old = setting.find(users.tolist(), items.tolist())
    new = Rated(
        graph.by_user, SCALE, setting.biases.of_new_users(graph.by_user, SCALE), identities=None
    )
    found = find_reasons(
        setting.model, setting.embeddings, setting.scorer, new, users, users, items, ALL
    )
    assert np.array_equal(found.items, old.items)
    assert np.allclose(found.contributions, old.contributions, atol=1e-5)


def test_the_largest_of_each_stretch_and_column():
    rng = np.random.default_rng(0)
    counts = np.array([0, 1, 5, 0, 40, 2])
    offsets = np.concatenate(([0], np.cumsum(counts)))
    values = rng.integers(-3, 6, (counts.sum(), 4)).astype(np.float32)  # with ties
    rows, largest = pick_largest(offsets, values, 3)
    assert rows.shape == largest.shape == (6, 4, 3)
    for v, (low, high) in enumerate(itertools.pairwise(offsets)):
        for column in range(4):
            part = values[low:high, column]
            order = [row for row in np.argsort(-part, kind="stable") if part[row] > 0][:3]
            missing = 3 - len(order)
            assert rows[v, column].tolist() == [low + row for row in order] + [-1] * missing
            assert largest[v, column].tolist() == [part[row] for row in order] + [0.0] * missing
