"""Lists by the list head, with and without item-item weights, against dense numpy."""

import numpy as np
import pytest
import torch

from dglrec.errors import DglrecError
from dglrec.graph import group_by_user
from dglrec.infer import ItemItems, ItemWeights, ListScorer
from dglrec.nn import ListTerms
from dglrec.train.item_items import graph_weights, sparse_weights

USERS, ITEMS, LEVELS = 11, 23, 3


class World:
    def __init__(self, seed=0):
        self.random = random = np.random.default_rng(seed)
        self.of_users = ListTerms(
            torch.from_numpy(random.normal(size=(USERS, 4)).astype(np.float32)),
            torch.zeros(USERS),
        )
        self.of_items = ListTerms(
            torch.from_numpy(random.normal(size=(ITEMS, 4)).astype(np.float32)),
            torch.from_numpy(random.normal(size=ITEMS).astype(np.float32)),
        )
        pairs = random.permutation(USERS * ITEMS)[:70]
        self.rows, self.columns = pairs // ITEMS, pairs % ITEMS
        self.codes = random.integers(0, LEVELS, len(pairs)).astype(np.uint8)
        self.rated = group_by_user(
            self.rows, self.columns, self.codes, num_users=USERS, num_items=ITEMS
        )
        self.square = random.normal(size=(ITEMS, ITEMS)).astype(np.float32)
        self.values = np.array([0.0, 0.5, 1.0], dtype=np.float32)

    def weights(self, kept=ITEMS):
        return sparse_weights(self.square, self.values, kept)

    def added(self, square=None):
        dense = np.zeros((USERS, ITEMS))
        dense[self.rows, self.columns] = self.values[self.codes]
        return dense @ (self.square if square is None else square)

    def scores(self):
        return (self.of_users.factors @ self.of_items.factors.T + self.of_items.base).numpy()


@pytest.fixture
def world():
    return World()


@pytest.mark.parametrize("weighed", [False, True])
@pytest.mark.parametrize("catalogue", [None, [2, 3, 5, 7, 11, 13, 17, 19]])
def test_the_best_are_those_of_a_full_sort(world, weighed, catalogue):
    added = ItemItems(world.weights(), world.rated) if weighed else None
    chosen = None if catalogue is None else torch.tensor(catalogue)
    scorer = ListScorer(world.of_users, world.of_items, chosen, added)
    scores = world.scores() + (world.added() if weighed else 0)
    seen = world.rated.lists
    users = torch.tensor([4, 0, 9])
    for best in (scorer.best, scorer.best_of_few):
        values, items = best(users, seen, 5)
        for user, row, row_values in zip(users.tolist(), items, values, strict=True):
            left = set(catalogue or range(ITEMS)) - set(world.columns[world.rows == user])
            expected = sorted(left, key=lambda item: -scores[user, item])[:5]
            assert row[: len(expected)].tolist() == expected
            np.testing.assert_allclose(
                row_values[: len(expected)], scores[user, expected], atol=1e-4
            )
            assert row_values[len(expected) :].isinf().all()
    pairs = torch.tensor([4, 4, 0]), torch.tensor([1, 22, 5])
    np.testing.assert_allclose(scorer.pairs(*pairs), scores[pairs], atol=1e-4)


def test_the_largest_weights_stay(world):
    weights = world.weights(kept=6)
    kept = np.zeros_like(world.square)
    for item in range(ITEMS):
        largest = np.argsort(-np.abs(world.square[item]))[:6]
        kept[item, largest] = world.square[item, largest]
    rows = ItemItems(weights, world.rated).rows(torch.arange(USERS), torch.arange(ITEMS))
    np.testing.assert_allclose(rows, world.added(kept), atol=1e-5)


def test_what_each_rating_adds_sums_up_to_the_whole(world):
    weights = world.weights(kept=9)
    users, items = torch.tensor([3, 7]), torch.tensor([[0, 5, 22], [1, 2, 3]])
    each = weights.of_each(world.rated, users, items)
    whole = ItemItems(weights, world.rated).rows_at(users, items)
    owners = np.repeat([0, 1], world.rated.degrees[[3, 7]])
    for row in (0, 1):
        np.testing.assert_allclose(each[owners == row].sum(0), whole[row], atol=1e-5)


def test_the_graph_of_shared_items_is_the_dense_product(world):
    from scipy import sparse

    dense = np.zeros((USERS, ITEMS), dtype=np.float32)
    dense[world.rows, world.columns] = 1.0
    weights = graph_weights(sparse.csr_array(dense), 0.4, world.values, ITEMS)
    users = np.maximum(dense.sum(1), 1)[:, None] ** -0.4
    items = np.maximum(dense.sum(0), 1)[None] ** (0.4 - 1)
    normalised = users * dense * items
    expected = normalised.T @ normalised
    np.fill_diagonal(expected, 0)
    found = np.zeros_like(expected)
    for item in range(ITEMS):
        part = slice(weights.offsets[item], weights.offsets[item + 1])
        found[item, weights.items[part]] = weights.weights[part]
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("items", lambda a: np.where(np.arange(len(a)) == 3, ITEMS, a).astype(np.int32)),
        ("items", lambda a: a[:-1]),
        ("items", lambda a: np.concatenate((a[1::-1], a[2:]))),
        ("offsets", lambda a: a[::-1].copy()),
        ("offsets", lambda a: a.astype(np.int32)),
        ("weights", lambda a: np.where(np.arange(len(a)) == 3, np.nan, a).astype(np.float32)),
        ("values", lambda a: a[:-1]),
    ],
)
def test_damaged_weights_are_refused(world, name, change):
    arrays = dict(vars(world.weights(kept=4)))
    assert ItemWeights.checked(arrays, num_items=ITEMS, levels=LEVELS)
    arrays[name] = change(arrays[name])
    with pytest.raises(ValueError):
        ItemWeights.checked(arrays, num_items=ITEMS, levels=LEVELS)


def test_unknown_users_are_refused(world):
    with pytest.raises(IndexError, match="users 0 to 11"):
        ItemItems(world.weights(), world.rated).rows(torch.tensor([0, 11]), torch.arange(ITEMS))


def test_scores_that_are_no_numbers_are_refused(world):
    world.of_items.base[2] = torch.nan
    with pytest.raises(DglrecError, match="not finite numbers"):
        ListScorer(world.of_users, world.of_items)
