"""The catalogue's log-sum-exp against torch's own."""

import pytest
import torch

from dglrec.kernels import catalogue_log_sum_exp
from dglrec.kernels import softmax as softmax_module


def case(users=37, items=50, width=6, dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)
    tensors = [
        torch.randn(*shape, generator=generator, dtype=dtype).requires_grad_()
        for shape in ((users, width), (items, width), (items,))
    ]
    counts = torch.randint(0, 12, (users,), generator=generator)
    offsets = torch.cat((torch.zeros(1, dtype=torch.int64), counts.cumsum(0)))
    left_out = torch.randint(0, items, (int(offsets[-1]),), generator=generator)  # some twice
    return tensors, offsets, left_out


def reference(tensors, offsets, left_out):
    users, items, base = tensors
    hidden = torch.zeros(len(users), len(items), dtype=torch.bool)
    hidden[torch.repeat_interleave(offsets.diff()), left_out] = True
    return (users @ items.T + base).masked_fill(hidden, -torch.inf).logsumexp(1)


@pytest.mark.parametrize("at_once", [1, 130, 1 << 21])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_values_and_gradients_are_torchs(monkeypatch, at_once, dtype):
    monkeypatch.setattr(softmax_module, "_SCORES_AT_ONCE", at_once)
    tensors, offsets, left_out = case(dtype=dtype)
    weights = torch.linspace(-1, 2, len(tensors[0]), dtype=dtype)
    found = catalogue_log_sum_exp(*tensors, offsets, left_out)
    expected = reference(tensors, offsets, left_out)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    gradients = torch.autograd.grad((found * weights).sum(), tensors)
    wanted = torch.autograd.grad((expected * weights).sum(), tensors)
    for one, other in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_gradients_are_those_of_finite_differences():
    tensors, offsets, left_out = case(users=5, items=7, width=3)
    assert torch.autograd.gradcheck(
        lambda *parts: catalogue_log_sum_exp(*parts, offsets, left_out), tensors
    )


def test_large_scores_do_not_overflow():
    users, items = torch.full((2, 1), 1e3), torch.tensor([[1.0], [1.0]])
    offsets, nothing = torch.zeros(3, dtype=torch.int64), torch.empty(0, dtype=torch.int64)
    found = catalogue_log_sum_exp(users, items, torch.zeros(2), offsets, nothing)
    torch.testing.assert_close(found, torch.full((2,), 1e3) + torch.tensor(2.0).log())


def test_a_user_for_whom_nothing_counts_has_no_sum_and_no_gradient():
    users = torch.ones(2, 3, requires_grad=True)
    items = torch.ones(4, 3, requires_grad=True)
    offsets, left_out = torch.tensor([0, 4, 4]), torch.arange(4)
    found = catalogue_log_sum_exp(users, items, torch.zeros(4), offsets, left_out)
    assert found[0] == -torch.inf and found[1].isfinite()
    # softplus of -inf - score is 0 and flat, so that is what reaches the sum.
    torch.nn.functional.softplus(found - 1.0).sum().backward()
    assert users.grad.isfinite().all() and items.grad.isfinite().all()
    assert not users.grad[0].any() and users.grad[1].any()


@pytest.mark.parametrize(
    ("offsets", "left_out", "error"),
    [
        ([0, 1, 2], [0, 9], IndexError),
        ([0, 1, 2], [0, -1], IndexError),
        ([0, 1, 3], [0, 1], ValueError),
        ([0, 2], [0, 1], ValueError),
    ],
)
def test_what_does_not_fit_is_refused(offsets, left_out, error):
    with pytest.raises(error):
        catalogue_log_sum_exp(
            torch.ones(2, 3),
            torch.ones(4, 3),
            torch.zeros(4),
            torch.tensor(offsets),
            torch.tensor(left_out),
        )
    with pytest.raises(ValueError, match="do not fit"):
        catalogue_log_sum_exp(
            torch.ones(2, 3),
            torch.ones(4, 2),
            torch.zeros(4),
            torch.tensor([0, 0, 0]),
            torch.empty(0, dtype=torch.int64),
        )
