"""Samples of stretches and numbers of nodes: both routes against Python, and even odds."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dglrec.kernels import number_rows, parallel, sample_stretches
from dglrec.kernels.sampling import _anywhere

stretches = st.lists(
    st.tuples(st.integers(0, 1000), st.integers(0, 70), st.floats(0, 1, exclude_max=True)),
    max_size=20,
)


def columns(rows):
    starts, counts, chances = zip(*rows, strict=True) if rows else ((), (), ())
    as_int = [torch.tensor(column, dtype=torch.int64) for column in (starts, counts)]
    return *as_int, torch.tensor(chances, dtype=torch.float64)


def elsewhere(starts, counts, chances, fanout):
    """The route of other devices, on this one."""
    taken = counts.clamp(max=fanout)
    return _anywhere(starts, counts, taken, taken.cumsum(0), chances, int(taken.sum()))


# 17 * (48 / 34) is 24, and 48 * (1 / 34) * 17, which a compiler may make of it, a little less.
@example([(0, 48, 0.0)], 34)
@given(stretches, st.integers(1, 80))
@settings(max_examples=150, deadline=None)
def test_a_sample_is_within_its_stretch_ascending_and_of_the_right_size(rows, fanout):
    starts, counts, chances = columns(rows)
    places, taken = sample_stretches(starts, counts, fanout, chances)
    assert taken.tolist() == [min(count, fanout) for _, count, _ in rows]
    for own, (start, count, chance) in zip(places.split(taken.tolist()), rows, strict=True):
        found = own.tolist()
        assert found == sorted(set(found))
        assert all(start <= place < start + count for place in found)
        if count <= fanout:
            assert found == list(range(start, start + count))
        else:
            expected = [int((k + chance) * (count / fanout)) for k in range(fanout)]
            assert found == [start + min(place, count - 1) for place in expected]
    assert torch.equal(elsewhere(starts, counts, chances, fanout), places)


@pytest.mark.parametrize("chance", [0.0, 0.5, np.nextafter(1.0, 0.0)])
@pytest.mark.parametrize("count", [7, 2**31 + 11, 2**40 + 1])
def test_the_last_place_is_in_the_stretch_however_long_it_is(count, chance):
    rows = torch.tensor([5]), torch.tensor([count]), torch.tensor([chance], dtype=torch.float64)
    places, _ = sample_stretches(rows[0], rows[1], 6, rows[2])
    assert len(set(places.tolist())) == 6
    assert int(places.min()) >= 5 and int(places.max()) < 5 + count
    assert torch.equal(elsewhere(*rows, 6), places)


@pytest.mark.parametrize("count", [7, 8, 9, 11, 12, 13, 40])
def test_each_place_is_taken_equally_often_and_samples_are_spread(count):
    """Chi-square of the places within 5 deviations; and no long stretch is left out.

    Between one and two fan-outs a sampler that takes a stretch would leave out another.
    """
    fanout, repeats = 6, 20_000
    chances = torch.rand(repeats, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    starts = torch.zeros(repeats, dtype=torch.int64)
    places, _ = sample_stretches(starts, starts + count, fanout, chances)
    share = fanout / count
    counts = np.bincount(places.numpy(), minlength=count)
    variance = repeats * share * (1 - share)
    chi = np.sum((counts - repeats * share) ** 2) / variance / count
    assert chi < 1 + 5 * np.sqrt(2 / count)
    rows = places.view(repeats, fanout)
    left_out = torch.cat((rows[:, :1], rows.diff(dim=1) - 1, count - 1 - rows[:, -1:]), dim=1)
    assert int(left_out.max()) < -(-count // fanout)


def test_several_threads_sample_the_same(monkeypatch):
    monkeypatch.setattr(parallel, "SMALL", 64)
    generator = np.random.default_rng(0)
    counts = torch.from_numpy(generator.integers(0, 60, 3_000))
    starts = counts.cumsum(0) - counts
    chances = torch.from_numpy(generator.random(3_000))
    expected = sample_stretches(starts, counts, 7, chances)
    torch.set_num_threads(4)
    try:
        found = sample_stretches(starts, counts, 7, chances)
    finally:
        torch.set_num_threads(1)
    assert all(map(torch.equal, expected, found))


def test_what_does_not_fit_is_refused():
    two, one = torch.zeros(2, dtype=torch.int64), torch.zeros(1, dtype=torch.float64)
    with pytest.raises(ValueError, match="2 starts, 2 counts, 1 chances"):
        sample_stretches(two, two, 3, one)
    with pytest.raises(ValueError, match="fan-out 0"):
        sample_stretches(two, two, 0, two.double())


@given(st.lists(st.lists(st.integers(0, 30), max_size=40), max_size=4), st.booleans())
@settings(max_examples=100, deadline=None)
def test_rows_are_numbered_as_they_are_met(parts, wide):
    table = torch.full((31,), -1, dtype=torch.int32)
    known = {}
    for part in parts:
        ids = torch.tensor(part, dtype=torch.int64 if wide else torch.int32)
        numbers, fresh = number_rows(ids, table, len(known))
        new = [one for one in dict.fromkeys(part) if one not in known]
        assert fresh.tolist() == new and fresh.dtype == torch.int64
        known |= {one: len(known) + place for place, one in enumerate(new)}
        assert numbers.tolist() == [known[one] for one in part]
    assert table.tolist() == [known.get(one, -1) for one in range(31)]


def test_rows_are_numbered_alike_on_other_devices(monkeypatch):
    ids, tables = torch.tensor([7, 3, 7, 9, 0, 3]), torch.full((2, 10), -1, dtype=torch.int32)
    tables[:, 9] = 0
    here = number_rows(ids, tables[0], 1)
    monkeypatch.setattr(parallel, "_COMPILED_FOR", "none")
    there = number_rows(ids, tables[1], 1)
    assert torch.equal(*tables) and here[1].tolist() == there[1].tolist() == [7, 3, 0]
    assert here[0].tolist() == there[0].tolist() == [1, 2, 1, 0, 3, 2]


@pytest.mark.parametrize("wrong", [-1, 5])
def test_a_row_that_is_not_there_is_refused(wrong):
    table = torch.full((5,), -1, dtype=torch.int32)
    with pytest.raises(IndexError, match="ids"):
        number_rows(torch.tensor([0, wrong]), table, 0)
    assert table.tolist() == [-1] * 5
