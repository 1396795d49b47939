"""Users that count as unseen: a step is as though they had rated nothing but its targets."""

import pytest
import torch
from batches import ALL_FANOUTS, Ratings, config_of, directions, message_pairs, target_pairs
from ranks import in_ranks

from dglrec.config import load_settings
from dglrec.distributed import ALONE
from dglrec.errors import UsageError
from dglrec.sampling import UserBatchLoader

KINDS = ["users", "reached"]


@pytest.fixture(scope="module")
def data():
    return Ratings()


def loader_of(data, kind, share=0.3, world=ALONE, **config):
    config = {"batch_size": 120, "folds": 3, "unseen_items": 0.0, **ALL_FANOUTS, **config}
    config = config_of(kind, unseen_users=share, **config)
    return UserBatchLoader(data.graph, data.biases, config, seed=5, world=world)


def unseen_of(batch):
    """Users of a step of whom nothing is read: all have ratings, so that these are hidden."""
    block = batch.layers[-1].to_users
    users = batch.user_nodes[: block.num_destinations]
    return set(users[(block.counts == 0) & (block.degrees == 0)].tolist())


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_a_user_that_counts_as_unseen_is_read(data, kind):
    seen = 0
    for batch in loader_of(data, kind):
        unseen = unseen_of(batch)
        targets = target_pairs(batch)
        seen += sum(user in unseen for user, _ in targets)
        for _, to_users, block, destinations, sources in directions(batch):
            pairs = message_pairs(to_users, block, destinations, sources)
            assert not {user for user, _ in pairs} & unseen
        # Of its own, all but targets are left out too: biases, degrees and spread of both ends.
        of_unseen = {pair for pair in data.pairs if pair[0] in unseen}
        without = data.biases_without(of_unseen | set(targets))
        torch.testing.assert_close(
            batch.user_inputs,
            without.user_inputs(batch.user_nodes).float(),
            rtol=1e-4,
            atol=1e-4,
        )
        items = torch.tensor([item for _, item in targets])
        users = torch.tensor([user for user, _ in targets])
        expected = without.predict(users, items).float()
        torch.testing.assert_close(batch.baselines, expected, rtol=1e-4, atol=1e-4)
        hidden = torch.tensor([user in unseen for user in batch.user_nodes.tolist()])
        assert (batch.user_inputs[hidden].abs() < 1e-5).all()
    assert seen > 50


@pytest.mark.parametrize("kind", KINDS)
def test_targets_are_what_they_are_without(data, kind):
    """About the share of the users is chosen, anew in each step."""
    plain, hidden = (list(loader_of(data, kind, share)) for share in (0.0, 0.3))
    assert [one.edges.tolist() for one in plain] == [one.edges.tolist() for one in hidden]
    chosen = [user for batch in hidden for user in unseen_of(batch)]
    without = [user for batch in plain for user in unseen_of(batch)]
    steps = sum(len(batch.users.unique()) for batch in hidden)
    assert len(set(chosen)) > 30 and 0.15 * steps < len(chosen) - len(without) < 0.45 * steps


def test_processes_choose_the_same_users(data):
    def read(world):
        return [
            sorted(unseen_of(batch)) if batch is not None else []
            for batch in loader_of(data, "users", world=world)
        ]

    expected = [sorted(unseen_of(batch)) for batch in loader_of(data, "users")]
    first, second = in_ranks(2, read)
    assert [sorted(a + b) for a, b in zip(first, second, strict=True)] == expected


@pytest.mark.parametrize("other", ["kind=full", "kind=neighbor", "exclude_targets=false"])
def test_other_loaders_are_refused_them(other):
    assignments = ["loader.unseen_users=0.1", f"loader.{other}"]
    with pytest.raises(UsageError, match=r"unseen_users 0\.1: goes with kind users"):
        load_settings(assignments=assignments)
