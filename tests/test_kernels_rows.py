"""Rows moved as torch's Adam moves them, and values dropped by a hash."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dglrec.kernels import AdamStep, drop_units, move_rows, parallel
from dglrec.kernels.rows import _move_anywhere
from dglrec.nn.dropout import Dropout

STEP = AdamStep(0.01, 0.9, 0.999, 0.5, 1e-8, 1.0, 0.0)


def adam_step(number, rate, decay=0.0, penalty=0.0):
    first, second = 1 - 0.9**number, 1 - 0.999**number
    return AdamStep(rate / first, 0.9, 0.999, second, 1e-8, 1 - rate * decay, penalty)


@pytest.mark.parametrize("move", [move_rows, _move_anywhere], ids=["compiled", "anywhere"])
@pytest.mark.parametrize("kind", ["adam", "adamw"])
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_rows_move_as_torch_moves_a_table_of_them(kind, decay, move):
    """Over several steps, of which each touches all rows: then lazy Adam is Adam."""
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(7, 5, generator=generator)
    expected = torch.nn.Parameter(table.clone())
    make = torch.optim.AdamW if kind == "adamw" else torch.optim.Adam
    optimizer = make([expected], lr=0.03, weight_decay=decay)
    moments = torch.zeros_like(table), torch.zeros_like(table)
    for number in range(1, 6):
        rows = torch.randperm(7, generator=generator)
        gradient = torch.randn(7, 5, generator=generator)
        expected.grad = torch.empty_like(gradient).index_copy_(0, rows, gradient)
        optimizer.step()
        decays = (decay, 0.0) if kind == "adamw" else (0.0, decay)
        move(table, moments, rows, gradient, adam_step(number, 0.03, *decays))
    torch.testing.assert_close(table, expected.detach(), rtol=1e-5, atol=1e-6)


def test_other_rows_stay_and_threads_do_not_matter(monkeypatch):
    monkeypatch.setattr(parallel, "SMALL", 64)
    generator = torch.Generator().manual_seed(1)
    table = torch.randn(500, 3, generator=generator)
    rows = torch.randperm(500, generator=generator)[:300]
    gradient = torch.randn(300, 3, generator=generator)
    found = []
    for threads in (1, 4):
        torch.set_num_threads(threads)
        moved, moments = table.clone(), (torch.zeros(500, 3), torch.zeros(500, 3))
        try:
            move_rows(moved, moments, rows, gradient, STEP)
        finally:
            torch.set_num_threads(1)
        found.append((moved, *moments))
    assert all(map(torch.equal, *found))
    others = torch.ones(500, dtype=torch.bool)
    others[rows] = False
    assert torch.equal(found[0][0][others], table[others])
    assert (found[0][0][rows] != table[rows]).all()
    assert not found[0][1][others].any() and found[0][1][rows].all()


@pytest.mark.parametrize("wrong", [-1, 4])
def test_a_row_that_is_not_there_is_refused(wrong):
    table = torch.zeros(4, 2)
    moments = torch.zeros(4, 2), torch.zeros(4, 2)
    with pytest.raises(IndexError, match="rows"):
        move_rows(table, moments, torch.tensor([0, wrong]), torch.ones(2, 2), STEP)
    assert not table.any()


def test_what_does_not_fit_is_refused():
    table, rows = torch.zeros(4, 2), torch.tensor([0])
    with pytest.raises(ValueError, match="moments"):
        move_rows(table, (torch.zeros(4, 2), torch.zeros(3, 2)), rows, torch.ones(1, 2), STEP)
    with pytest.raises(ValueError, match="gradient"):
        move_rows(table, (table.clone(), table.clone()), rows, torch.ones(1, 3), STEP)
    turned = torch.zeros(2, 4).T
    with pytest.raises(ValueError, match="contiguous"):
        move_rows(turned, (table.clone(), table.clone()), rows, torch.ones(1, 2), STEP)


@given(
    st.integers(0, 300), st.floats(0, 0.99), st.integers(0, 2**32), st.sampled_from([1, 3, 4, 64])
)
@settings(max_examples=80, deadline=None)
def test_values_are_dropped_or_scaled_and_gradients_alike(count, share, seed, width):
    values = torch.linspace(1, 2, count * width).view(count, width).requires_grad_()
    torch.manual_seed(seed)
    found = drop_units(values, share)
    kept = found != 0
    scale = found[kept] / values[kept]
    assert torch.allclose(
        scale, scale.new_tensor(1 / (1 - share)), rtol=1e-2 if share > 0.9 else 1e-3
    )
    found.sum().backward()
    assert torch.equal(values.grad != 0, kept)
    torch.testing.assert_close(values.grad[kept], scale.detach())
    torch.manual_seed(seed)
    assert torch.equal(drop_units(values, share), found)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_so_many_are_dropped_evenly_over_places_and_steps(share):
    """Within five standard deviations: of all, of each column, and of each pair of steps."""
    torch.manual_seed(3)
    values, steps = torch.ones(5_000, 13), 6
    dropped = np.stack([(drop_units(values, share) == 0).numpy() for _ in range(steps)])
    variance = share * (1 - share)
    assert abs(dropped.mean() - share) <= 5 * math.sqrt(variance / dropped.size) + 1 / 65_536
    away = np.abs(dropped.mean(axis=(0, 1)) - share)
    assert away.max() <= 5 * math.sqrt(variance / (steps * 5_000)) + 1 / 65_536
    both = dropped[1:] & dropped[:-1]
    bound = 5 * math.sqrt(share**2 * (1 - share**2) / both.size) + 1 / 32_768
    assert abs(both.mean() - share**2) <= bound
    beside = dropped[:, :, 1:] & dropped[:, :, :-1]
    assert abs(beside.mean() - share**2) <= 5 * math.sqrt(share**2 / beside.size) + 1 / 32_768


def test_several_threads_drop_the_same(monkeypatch):
    monkeypatch.setattr(parallel, "SMALL", 64)
    values = torch.randn(999, 7)
    found = []
    for threads in (1, 4):
        torch.manual_seed(0)
        torch.set_num_threads(threads)
        try:
            found.append(drop_units(values, 0.3))
        finally:
            torch.set_num_threads(1)
    assert torch.equal(*found)


def test_nothing_is_dropped_in_evaluation_and_of_a_share_of_none():
    values = torch.randn(50, 3)
    assert Dropout(0.5).eval()(values) is values
    assert Dropout(0.0).train()(values) is values
    assert (Dropout(0.5).train()(values) == 0).any()
