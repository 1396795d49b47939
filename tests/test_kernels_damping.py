"""Damped means: values and gradients are those of the formula, of any shape, type and thread."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dglrec.kernels import damp_means, parallel

EXACT = {"rtol": 1e-11, "atol": 1e-12}


def plain(means, degrees, damping):
    return means * (degrees.unsqueeze(1) / (degrees.unsqueeze(1) + damping))


def case(nodes, columns, seed=0, dtype=torch.float64):
    """Means, degrees with zeros among them, and dampings."""
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(nodes, columns, generator=generator, dtype=torch.float64).to(dtype),
        torch.randint(9, (nodes,), generator=generator).to(dtype),
        torch.randn(columns, generator=generator, dtype=torch.float64).exp().to(dtype),
    )


def with_gradients(function, means, degrees, damping):
    leaves = [one.detach().clone().requires_grad_() for one in (means, damping)]
    out = function(leaves[0], degrees, leaves[1])
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(5)).to(out.dtype)
    return [out.detach(), *torch.autograd.grad(out, leaves, upstream)]


def assert_same(found, expected, **tolerance):
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, equal_nan=True, **tolerance)


@given(st.integers(0, 40), st.integers(0, 9), st.integers(0, 2**16))
@settings(max_examples=80, deadline=None)
def test_values_and_gradients_are_torchs(nodes, columns, seed):
    arguments = case(nodes, columns, seed)
    assert_same(with_gradients(damp_means, *arguments), with_gradients(plain, *arguments), **EXACT)


def test_known_answer():
    found = damp_means(
        torch.tensor([[2.0, -4.0], [1.0, 1.0]]), torch.tensor([3.0, 0.0]), torch.tensor([1.0, 5.0])
    )
    assert found.tolist() == [[1.5, -1.5], [0.0, 0.0]]


def test_gradcheck():
    means, degrees, damping = case(6, 3)
    leaves = means.requires_grad_(), damping.requires_grad_()
    assert torch.autograd.gradcheck(lambda m, d: damp_means(m, degrees, d), leaves)


def test_one_damping_for_all_columns_may_be_expanded_and_nothing_is_changed():
    means, degrees, _ = case(20, 4)
    spread = means.T.contiguous().T
    one = torch.tensor([2.5], dtype=torch.float64, requires_grad=True)
    before = spread.clone(), degrees.clone()
    out = damp_means(spread, degrees, one.expand(4))
    torch.testing.assert_close(out, plain(means, degrees, one.expand(4)), **EXACT)
    out.sum().backward()  # a gradient that is one number, stretched
    other = torch.tensor([2.5], dtype=torch.float64, requires_grad=True)
    plain(means, degrees, other.expand(4)).sum().backward()
    torch.testing.assert_close(one.grad, other.grad, **EXACT)
    assert torch.equal(spread, before[0]) and torch.equal(degrees, before[1])


def test_threads_change_the_result_by_rounding_alone_and_repeat_to_the_bit(monkeypatch):
    arguments = case(50, 6)
    alone = with_gradients(damp_means, *arguments)
    monkeypatch.setattr(parallel, "SMALL", 1)
    monkeypatch.setattr(parallel.torch, "get_num_threads", lambda: 3)
    several = with_gradients(damp_means, *arguments)
    assert_same(several, alone, **EXACT)
    assert torch.equal(several[0], alone[0])
    again = with_gradients(damp_means, *arguments)
    assert all(torch.equal(one, other) for one, other in zip(several, again, strict=True))


def test_what_is_not_finite_stays_where_it_is():
    means, degrees, damping = case(6, 3)
    means[1, 2], means[3, 0] = torch.nan, torch.inf
    degrees[:] = 2
    assert_same(
        with_gradients(damp_means, means, degrees, damping),
        with_gradients(plain, means, degrees, damping),
        **EXACT,
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_short_floats_count_as_float32(dtype):
    means, degrees, damping = case(9, 4, dtype=dtype)
    found, *gradients = with_gradients(damp_means, means, degrees, damping)
    assert found.dtype == torch.float32
    assert {one.dtype for one in gradients} == {dtype}
    torch.testing.assert_close(found, plain(means.float(), degrees.float(), damping.float()))


@pytest.mark.parametrize("shapes", [(4, 3, 3), (4, 4, 2), (4, 4, 1)], ids=str)
def test_what_does_not_fit_is_refused(shapes):
    nodes, degrees, columns = shapes
    with pytest.raises(ValueError, match="do not fit"):
        damp_means(torch.zeros(nodes, 3), torch.zeros(degrees), torch.ones(columns))
