"""Folds in the order of time: nothing of a user that is later than a target is read, at any hop."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from batches import ALL_FANOUTS, Ratings, all_message_pairs, config_of, directions, target_pairs
from relations import Related

from dglrec.distributed import ALONE, World
from dglrec.errors import UsageError
from dglrec.sampling import UserBatchLoader
from dglrec.sampling.time_folds import TimeFold

KINDS = ["users", "reached"]


class Timed(Ratings):
    """Ratings with times, some of them the same."""

    def __init__(self, seed=0):
        super().__init__(seed=seed)
        self.time(np.random.default_rng(seed + 1).integers(10**9, 10**9 + 200, len(self.pairs)))

    def time(self, times):
        self.graph = replace(self.graph, times=np.asarray(times, dtype=np.int64))
        # Of the same time chance decides which counts as earlier.
        ranks = self.graph.ranks_in_time().tolist()
        self.when = {
            pair: (int(time), rank)
            for pair, time, rank in zip(self.pairs, times, ranks, strict=True)
        }


@pytest.fixture(scope="module")
def data():
    return Timed()


def loader_of(data, kind, world=ALONE, *, ages=False, **config):
    config = {"batch_size": 120, "folds": 3, "unseen_items": 0.0, **ALL_FANOUTS, **config}
    config = config_of(kind, folds_by="time", **config)
    return UserBatchLoader(data.graph, data.biases, config, seed=5, world=world, ages=ages)


def batches(loader):
    return [batch for batch in loader if batch is not None]


def later_read(data, batch):
    """How many edges of a block are a target, or later than one of the same user."""
    first = {}
    for user, item in target_pairs(batch):
        first[user] = min(first.get(user, data.when[user, item]), data.when[user, item])
    return sum(
        user in first and data.when[user, item] >= first[user]
        for user, item in all_message_pairs(batch)
    )


@pytest.mark.parametrize("fanouts", [ALL_FANOUTS, {"user_fanouts": (3, 5), "item_fanouts": (3, 5)}])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_later_than_a_target_of_the_same_user_is_read(data, kind, fanouts):
    found = batches(loader_of(data, kind, **fanouts))
    assert sum(len(all_message_pairs(batch)) for batch in found) > 2000
    assert [later_read(data, batch) for batch in found] == [0] * len(found)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_later_would_be_seen(data, kind, monkeypatch):
    """A loader that forgets to hide it from the items is caught."""
    none = lambda self, users, edges: torch.zeros(len(users), dtype=torch.bool)  # noqa: E731
    monkeypatch.setattr(TimeFold, "hides", none)
    assert sum(later_read(data, batch) for batch in batches(loader_of(data, kind))) > 100


@pytest.mark.parametrize("kind", KINDS)
def test_each_rating_is_a_target_once_an_epoch(data, kind):
    loader = loader_of(data, kind)
    for epoch in (0, 1):
        loader.set_epoch(epoch)
        edges = torch.cat([batch.edges for batch in batches(loader)])
        assert edges.sort().values.tolist() == list(range(len(data.pairs)))


def test_a_users_support_is_all_that_is_earlier(data):
    """Of the last layer, where all of it is read; about a third of it more with each pass."""
    sizes = [0, 0, 0]
    loader = loader_of(data, "users")
    steps = len(loader) // 3
    for number, batch in enumerate(loader):
        if batch is None:
            continue
        _, _, block, users, items = next(one for one in directions(batch) if one[:2] == (1, True))
        targets = {}
        for user, item in target_pairs(batch):
            targets.setdefault(user, []).append(data.when[user, item])
        for place, user in enumerate(users.tolist()):
            if user not in targets:
                continue
            part = slice(int(block.offsets[place]), int(block.offsets[place + 1]))
            read = {(user, item) for item in items[block.neighbours[part].long()].tolist()}
            earlier = {
                pair
                for pair in data.pairs
                if pair[0] == user and data.when[pair] < min(targets[user])
            }
            assert read == earlier
            assert block.degrees[place] == len(earlier)
            sizes[number // steps] += len(read)
    assert sizes[0] == 0 < sizes[1] < sizes[2]


@pytest.mark.parametrize("kind", KINDS)
def test_biases_are_without_targets_and_without_what_is_later(data, kind):
    """Of all users of a step, whether or not they have a target in it."""
    loader = loader_of(data, kind)
    steps = len(loader) // 3
    for number, batch in enumerate(loader):
        if batch is None:
            continue
        fold = loader._fold(0, number // steps)
        users = loader._schedule(0, number // steps)[number % steps]
        hidden = set()
        for edge, (user, item) in enumerate(data.pairs):
            if user in users.tolist() and fold.hides(torch.tensor([user]), torch.tensor([edge])):
                hidden.add((user, item))
        assert set(target_pairs(batch)) <= hidden
        without = data.biases_without(hidden)
        expected = without.user_inputs(batch.user_nodes).float()
        torch.testing.assert_close(batch.user_inputs, expected, rtol=1e-4, atol=1e-4)
        expected = without.item_inputs(batch.item_nodes).float()
        torch.testing.assert_close(batch.item_inputs, expected, rtol=1e-4, atol=1e-4)


def test_users_that_count_as_unseen_are_hidden_too(data):
    plain = batches(loader_of(data, "users"))
    hidden = batches(loader_of(data, "users", unseen_users=0.3))
    assert [one.edges.tolist() for one in plain] == [one.edges.tolist() for one in hidden]
    assert [later_read(data, batch) for batch in hidden] == [0] * len(hidden)
    read = [sum(len(all_message_pairs(batch)) for batch in found) for found in (hidden, plain)]
    assert read[0] < 0.95 * read[1]


def test_cuts_move_with_the_epoch_and_not_with_anything_else(data):
    def dealt(epoch):
        loader = loader_of(data, "users")
        loader.set_epoch(epoch)
        steps = len(loader) // 3
        folds = [0] * len(data.pairs)
        for number, batch in enumerate(loader):
            for edge in [] if batch is None else batch.edges.tolist():
                folds[edge] = number // steps
        return folds

    assert dealt(0) == dealt(0) != dealt(1)
    for user in range(data.num_users):
        mine = [edge for edge, pair in enumerate(data.pairs) if pair[0] == user]
        in_time = sorted(mine, key=lambda edge: data.when[data.pairs[edge]])
        folds = [dealt(0)[edge] for edge in in_time] if len(mine) > 20 else []
        assert folds == sorted(folds)


@pytest.mark.parametrize("kind", KINDS)
def test_each_target_is_one_processs(data, kind):
    expected = torch.cat([batch.edges for batch in batches(loader_of(data, kind))])
    of_ranks = [batches(loader_of(data, kind, world=World(rank=r, size=2))) for r in (0, 1)]
    shares = torch.cat([batch.edges for found in of_ranks for batch in found])
    assert shares.sort().values.tolist() == expected.sort().values.tolist()
    assert all(batch.edges.numel() < len(expected) for found in of_ranks for batch in found)


@pytest.mark.parametrize("kind", KINDS)
def test_ages_are_those_behind_the_latest_edge_of_the_node(data, kind):
    units = data.graph.times_on(torch.device("cpu"))
    assert {round(one.unit) for one in units} != {1}
    for batch in batches(
        loader_of(data, kind, ages=True, user_fanouts=(2, 4), item_fanouts=(4, 3))
    ):
        for _, to_users, block, destinations, sources in directions(batch):
            unit = units[0 if to_users else 1].unit
            for place, node in enumerate(destinations.tolist()):
                part = slice(int(block.offsets[place]), int(block.offsets[place + 1]))
                near = sources[block.neighbours[part].long()].tolist()
                pairs = [(node, other) if to_users else (other, node) for other in near]
                times = [data.when[pair][0] for pair in pairs]
                expected = [(max(times) - time) / unit for time in times]
                assert block.ages[part].tolist() == pytest.approx(expected)


def test_units_are_mean_ages(data):
    for side, one in enumerate(data.graph.times_on(torch.device("cpu"))):
        latest = {}
        for pair in data.pairs:
            latest[pair[side]] = max(latest.get(pair[side], 0), data.when[pair][0])
        ages = [latest[pair[side]] - data.when[pair][0] for pair in data.pairs]
        assert one.unit == pytest.approx(np.mean(ages))


def test_ranks_follow_time_within_each_user_and_chance_where_times_are_equal(data):
    ranks = data.graph.ranks_in_time()
    ties = 0
    for user in range(data.num_users):
        mine = [edge for edge, pair in enumerate(data.pairs) if pair[0] == user]
        mine.sort(key=lambda edge: ranks[edge])
        assert [ranks[edge] for edge in mine] == list(range(len(mine)))
        times = [data.graph.times[edge] for edge in mine]
        assert times == sorted(times)
        pairs = list(zip(mine, mine[1:], times, times[1:], strict=False))
        ties += sum(time == later for *_, time, later in pairs)
    assert ties
    same = replace(data.graph, times=np.zeros_like(data.graph.times))
    found = same.ranks_in_time()
    assert found.tolist() == same.ranks_in_time().tolist()
    by_item = np.concatenate([np.arange(count) for count in same.by_user.degrees])
    assert sorted(found) == sorted(by_item) and (found != by_item).mean() > 0.5


def test_without_ages_blocks_are_what_they_were(data):
    config = config_of("users", batch_size=120, folds=3, **ALL_FANOUTS)
    loader = UserBatchLoader(data.graph, data.biases, config, seed=5)
    assert all(layer.to_users.ages is None for batch in batches(loader) for layer in batch.layers)


def test_relations_between_users_and_items_are_refused():
    related = Related()
    timed = replace(related.graph, times=np.arange(related.graph.num_edges))
    config = config_of("users", folds_by="time", **ALL_FANOUTS)
    between = [
        one
        for one in related.directions(*related.relations)
        if {one.source_type, one.destination_type} == {"user", "item"}
    ]
    assert between
    with pytest.raises(UsageError, match=f"relation {between[0].name} is between users and items"):
        UserBatchLoader(timed, related.biases, config, directions=between)
