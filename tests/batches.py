"""Ratings to sample from, and readers of batches, for the tests of every loader."""

import numpy as np
import pytest
import torch

from dglrec import biases as biases_module
from dglrec.biases import Biases, fit_biases, no_biases
from dglrec.graph import build_graph
from dglrec.nn import ModelConfig, RatingModel
from dglrec.sampling import LoaderConfig, NeighborEdgeLoader, UserBatchLoader
from dglrec.schema import RatingScale

SCALE = RatingScale(1, 10)


class UsersWithTargets(UserBatchLoader):
    """Leaves out the steps that hold no target, as their batch is None."""

    def __iter__(self):
        return (batch for batch in super().__iter__() if batch is not None)


LOADERS = {
    "neighbor": NeighborEdgeLoader,
    "users": UsersWithTargets,  # all items in each step
    "reached": UsersWithTargets,  # those in reach
}


def config_of(kind, **options):
    """The configuration of a loader of `LOADERS`."""
    if kind == "neighbor":
        return LoaderConfig(kind="neighbor", **options)
    return LoaderConfig(items="reached" if kind == "reached" else "all", **options)


ALL_FANOUTS = {"user_fanouts": (-1, -1), "item_fanouts": (-1, -1)}
FANOUTS = [
    {"user_fanouts": (5,), "item_fanouts": (5,)},
    {"user_fanouts": (3, 5), "item_fanouts": (3, 5)},
    {"user_fanouts": (-1, 2), "item_fanouts": (4, -1)},
    {"user_fanouts": (-1, -1), "item_fanouts": (-1, -1)},
    {"user_fanouts": (2, 3, 2), "item_fanouts": (3, 2, 1)},
]


class Ratings:
    """Random ratings of users and items of very different degrees; some have one, some none."""

    def __init__(self, num_users=70, num_items=45, edges=650, seed=0, noise_only=False):
        generator = np.random.default_rng(seed)
        user_odds = 1 / np.arange(1, num_users - 2)  # the last three users have no ratings
        item_odds = 1 / np.sqrt(np.arange(1, num_items - 1))
        if noise_only:
            user_odds, item_odds = np.ones(num_users), np.ones(num_items)
        odds = np.outer(user_odds, item_odds).ravel()
        pairs = generator.choice(len(odds), edges, replace=False, p=odds / odds.sum())
        self.users, self.items = pairs // len(item_odds), pairs % len(item_odds)
        values = generator.normal(5.5, 1.8, edges)
        if not noise_only:
            values += generator.normal(0, 1, num_users)[self.users]
            values += generator.normal(0, 1, num_items)[self.items]
        self.num_users, self.num_items = num_users, num_items
        self.set_ratings(SCALE.encode(np.clip(values, 1, 10)))

    def set_ratings(self, codes, damping=None):
        self.codes = codes
        self.graph = build_graph(
            self.users,
            self.items,
            codes,
            num_users=self.num_users,
            num_items=self.num_items,
            scale=SCALE,
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(biases_module, "_TOLERANCE", 1e-9)
            patch.setattr(biases_module, "_SWEEPS", 5_000)
            self.biases = fit_biases(self.graph, damping)
        ratings = SCALE.decode(codes).tolist()
        self.rating_of = dict(
            zip(zip(self.users.tolist(), self.items.tolist(), strict=True), ratings, strict=True)
        )
        self.pairs = sorted(self.rating_of)  # by edge id

    def biases_without(self, pairs):
        """Means of the ratings that are left, damped, each node given the others."""
        fitted = self.biases
        users, items = fitted.users.double().numpy(), fitted.items.double().numpy()
        user_sums, user_degrees = np.zeros(self.num_users), np.zeros(self.num_users)
        item_sums, item_degrees = np.zeros(self.num_items), np.zeros(self.num_items)
        user_squares, item_squares = np.zeros(self.num_users), np.zeros(self.num_items)
        for (user, item), rating in self.rating_of.items():
            if (user, item) not in pairs:
                user_sums[user] += rating - fitted.mean - items[item]
                item_sums[item] += rating - fitted.mean - users[user]
                user_degrees[user] += 1
                item_degrees[item] += 1
                user_squares[user] += (rating - fitted.mean - items[item]) ** 2
                item_squares[item] += (rating - fitted.mean - users[user]) ** 2
        return Biases(
            fitted.mean,
            torch.from_numpy(user_sums / (user_degrees + fitted.damping.users)),
            torch.from_numpy(item_sums / (item_degrees + fitted.damping.items)),
            torch.from_numpy(user_degrees),
            torch.from_numpy(item_degrees),
            torch.from_numpy(user_squares),
            torch.from_numpy(item_squares),
            fitted.variance,
            fitted.damping,
        )

    def loader(self, kind="users", seed=0, **config):
        config = {"batch_size": 64, "folds": 2, "unseen_items": 0.1, **FANOUTS[1], **config}
        return make_loader(kind, self.graph, self.biases, config_of(kind, **config), seed)


def make_loader(kind, graph, biases, config, seed=0):
    return LOADERS[kind](graph, biases, config, seed)


def graph_of(users, items, codes, num_users, num_items):
    return build_graph(
        np.array(users),
        np.array(items),
        np.array(codes, dtype=np.uint8),
        num_users=num_users,
        num_items=num_items,
        scale=SCALE,
    )


def small_loader(kind, users, items, codes, num_users, num_items, **config):
    graph = graph_of(users, items, codes, num_users, num_items)
    config = {"batch_size": 10, "folds": 2, "unseen_items": 0.1, **FANOUTS[3], **config}
    return make_loader(kind, graph, fit_biases(graph), config_of(kind, **config))


def target_pairs(batch):
    """The (user, item) of each target, by way of the last layer's destinations."""
    last = batch.layers[-1]
    users = batch.user_nodes[: last.to_users.num_destinations][batch.users]
    seen = batch.item_nodes[: last.to_items.num_destinations]
    items = torch.cat((seen, batch.unseen))[batch.items]
    return list(zip(users.tolist(), items.tolist(), strict=True))


def directions(batch):
    """(layer, whether to users, block, its destinations' and sources' nodes) of every block."""
    user_nodes, item_nodes = batch.user_nodes, batch.item_nodes
    for number, layer in enumerate(batch.layers):
        users = user_nodes[: layer.to_users.num_destinations]
        items = item_nodes[: layer.to_items.num_destinations]
        yield number, True, layer.to_users, users, item_nodes
        yield number, False, layer.to_items, items, user_nodes
        user_nodes, item_nodes = users, items


def message_pairs(to_users, block, destinations, sources):
    """The (user, item) of each sampled edge of a block."""
    assert block.offsets[0] == 0
    assert block.offsets[-1] == len(block.neighbours) == len(block.residuals)
    assert torch.all(block.offsets.diff() >= 0)
    assert torch.all((block.neighbours >= 0) & (block.neighbours < len(sources)))
    ends = torch.repeat_interleave(destinations, block.offsets.diff()).tolist()
    starts = sources[block.neighbours.long()].tolist()
    return list(zip(ends, starts, strict=True) if to_users else zip(starts, ends, strict=True))


def all_message_pairs(batch):
    return [
        pair
        for _, to_users, block, destinations, sources in directions(batch)
        for pair in message_pairs(to_users, block, destinations, sources)
    ]


def tensors(value):
    """All tensors of a batch, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    if value is None or isinstance(value, (int, float, str)):
        return []
    parts = value if isinstance(value, tuple) else vars(value).values()
    return [tensor for part in parts for tensor in tensors(part)]


def same(one, other):
    return len(tensors(one)) == len(tensors(other)) and all(
        torch.equal(a, b) for a, b in zip(tensors(one), tensors(other), strict=True)
    )


def same_batches(one, other):
    one, other = list(one), list(other)
    return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))


def leaked(batch):
    """How many sampled edges, at any hop and in either direction, are targets of the batch."""
    targets = set(target_pairs(batch))
    return sum(pair in targets for pair in all_message_pairs(batch))


class Draws:
    """Sums over draws of K quantities, each of which is drawn in some of them."""

    def __init__(self, count):
        self.sums, self.squares, self.counts = torch.zeros(3, count, dtype=torch.float64)

    def add(self, places, values):
        self.sums[places] += values
        self.squares[places] += values.double() ** 2
        self.counts[places] += 1

    @property
    def scores(self):
        """Means over their standard errors, of quantities that differ between draws."""
        means = self.sums / self.counts
        errors = ((self.squares / self.counts - means**2) / self.counts).sqrt()
        return (means / errors)[(self.counts > 30) & (errors > 1e-9)]

    def assert_are_zero_but_for_chance(self):
        """Scores of nodes of one cluster depend on each other, so their spread is about 1 alone."""
        assert len(self.scores) > 15
        assert self.scores.abs().max() < 4.5 and 0.4 < self.scores.square().mean().sqrt() < 1.6


def check_a_targets_rating_changes_no_prediction_of_its_step(ratings, first_of, message_of):
    """To the bit: without biases, of which other nodes' hold a trace of it. A message's does.

    Args:
        ratings: `Ratings`.
        first_of: graph and biases -> the first batch of a loader of them.
        message_of: a batch -> a pair (user, item) that one of its messages is of.
    """
    biases = no_biases(ratings.graph)
    pairs = list(zip(ratings.users.tolist(), ratings.items.tolist(), strict=True))

    def first_with_others(rows):
        codes = ratings.codes.copy()
        codes[rows] = np.where(codes[rows] >= 5, 0, 9)
        counts = {"num_users": ratings.num_users, "num_items": ratings.num_items}
        scale = ratings.graph.scale
        graph = build_graph(ratings.users, ratings.items, codes, scale=scale, **counts)
        return first_of(graph, biases)

    first = first_of(ratings.graph, biases)
    targets = set(target_pairs(first))
    rows = [row for row, pair in enumerate(pairs) if pair in targets]
    assert len(rows) == len(targets) > 0
    second = first_with_others(rows)
    assert torch.equal(first.edges, second.edges)
    assert torch.all(first.ratings != second.ratings)
    torch.manual_seed(0)
    model = RatingModel(
        ModelConfig(embedding_size=4, decoder_size=4, heads="rating"),
        ratings.num_users,
        torch.zeros(ratings.num_items, 0),
    ).eval()
    assert torch.equal(model(first), model(second))
    third = first_with_others([pairs.index(message_of(first))])
    assert not torch.equal(model(first), model(third))
