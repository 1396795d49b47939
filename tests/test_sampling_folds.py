"""Folds: the hash is what it says, and both ways of dealing by it agree."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dglrec.kernels import parallel, ragged
from dglrec.sampling import seed_of
from dglrec.sampling.folds import Fold, Split

MASK = (1 << 64) - 1


def murmur(key: int) -> int:
    """MurmurHash3's finalizer without its last shift, on Python's whole numbers."""
    for multiplier in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        key ^= key >> 33
        key = key * multiplier & MASK
    return key


def fold_of(fold: Fold, user: int, item: int) -> int:
    key = (seed_of("folds", fold.seed, fold.epoch) << 31) + user * fold.num_items + item
    return (murmur(key & MASK) >> 40) * fold.count >> 24


@given(
    st.integers(0, 2**31 - 1),
    st.integers(0, 100),
    st.integers(2, 1000),
    st.lists(st.tuples(st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 2)), min_size=1),
)
@settings(max_examples=60, deadline=None)
def test_every_rating_is_in_the_fold_that_its_hash_says(seed, epoch, count, pairs):
    fold = Fold(seed, epoch, 0, count, num_items=2**31 - 1)
    users, items = (torch.tensor(ends) for ends in zip(*pairs, strict=True))
    expected = [fold_of(fold, user, item) for user, item in pairs]
    for number in {0, count - 1, *expected}:
        here = dataclasses.replace(fold, number=number)
        wanted = [one == number for one in expected]
        assert here.holds(users, items).tolist() == wanted
        assert here.holds(users, items.int()).tolist() == wanted


def make_lists(num_users, num_items, density, seed=0):
    generator = np.random.default_rng(seed)
    rated = [np.flatnonzero(generator.random(num_items) < density) for _ in range(num_users)]
    counts = torch.tensor([len(items) for items in rated])
    neighbours = torch.from_numpy(np.concatenate(rated).astype(np.int32))
    return counts.cumsum(0) - counts, counts, neighbours


def same(one: Split, other: Split) -> bool:
    for field in dataclasses.fields(Split):
        a, b = getattr(one, field.name), getattr(other, field.name)
        assert (a is b is None) or (a.dtype == b.dtype and torch.equal(a, b)), field.name
    return True


@given(
    st.integers(1, 9),
    st.integers(1, 40),
    st.floats(0, 1),
    st.integers(2, 7),
    st.integers(0, 2**31 - 1),
)
@settings(max_examples=80, deadline=None)
def test_both_ways_deal_the_same(num_users, num_items, density, count, seed):
    starts, counts, neighbours = make_lists(num_users, num_items, density, seed)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(num_users))
    arguments = (order, starts[order], counts[order], neighbours)
    dealt = []
    for number in range(count):
        fold = Fold(seed, 3, number, count, num_items)
        compiled, anywhere = fold._split_compiled(*arguments), fold._split_anywhere(*arguments)
        assert same(compiled, anywhere)
        assert same(fold.split(*arguments), compiled)
        edges = torch.cat((compiled.targets, compiled.support))
        assert sorted(edges.tolist()) == list(range(len(neighbours)))
        assert torch.equal(neighbours[compiled.targets], compiled.items)
        assert int(compiled.support_counts.sum()) == len(compiled.support)
        dealt += compiled.targets.tolist()
    assert sorted(dealt) == list(range(len(neighbours)))  # each is a target in one fold


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_deal_the_same(threads, monkeypatch):
    starts, counts, neighbours = make_lists(300, 200, 0.5)
    arguments = (torch.arange(300), starts, counts, neighbours)
    monkeypatch.setattr(parallel, "SMALL", 1000)
    monkeypatch.setattr(parallel.torch, "get_num_threads", lambda: threads)
    fold = Fold(0, 0, 1, 4, 200)
    assert same(fold._split_compiled(*arguments), fold._split_anywhere(*arguments))


def test_nobody_and_nothing():
    fold = Fold(0, 0, 0, 2, 5)
    none = torch.zeros(0, dtype=torch.int64)
    neighbours = torch.tensor([1, 2, 3], dtype=torch.int32)
    for users, starts, counts in (
        (none, none, none),
        (torch.tensor([4]), torch.tensor([3]), torch.tensor([0])),
    ):
        arguments = (users, starts, counts, neighbours)
        split = fold._split_compiled(*arguments)
        assert same(split, fold._split_anywhere(*arguments))
        assert not len(split.targets) and not len(split.support)


def test_ragged_known_answer():
    found = ragged(torch.tensor([5, 0, 7]), torch.tensor([2, 0, 3]))
    assert found.tolist() == [5, 6, 7, 8, 9]
    assert ragged(found[:0], found[:0]).tolist() == []
