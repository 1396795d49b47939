"""The log-sum-exp of a whole catalogue's scores, for each of many users, without storing scores.

For users z, items v with base b, and X_u the items that are left out for user u,

    l_u = log sum over i not in X_u of exp(z_u . v_i + b_i)

is computed for a few users at a time, whose scores of the whole catalogue fit a third-level cache;
the backward pass computes the scores again instead of reading them from memory (as Dao, Fu, Ermon,
Rudra and Re, "FlashAttention", NeurIPS 2022, section 3.1, do for attention's softmax).

Shapes: n users, I items, F factors, K items left out in all.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from dglrec.kernels.edges import check_rows
from dglrec.kernels.parallel import runs_compiled

_SCORES_AT_ONCE = 1 << 21  # 8 MiB of float32: a CPU's third-level cache
_SCORES_ON_A_DEVICE = 1 << 28  # 1 GiB: few launches, and usually a single one


def catalogue_log_sum_exp(
    users: Tensor, items: Tensor, base: Tensor, offsets: Tensor, left_out: Tensor
) -> Tensor:
    """The log-sum-exp of the scores of the catalogue, for each of n users.

    Args:
        users: [n, F].
        items: [I, F].
        base: [I]; added to each score of an item.
        offsets: int64 [n + 1]; the items left out for user u stand at `offsets[u]:offsets[u + 1]`.
        left_out: int64 [K]; items that do not count; an item may be repeated.

    Returns:
        [n]; -inf for a user without items. Users, items and base get gradients.

    Raises:
        IndexError: an item that is left out is not in the catalogue.
        ValueError: the shapes do not fit together.
    """
    compiled = runs_compiled(users)  # on other devices, reading a value would wait for the device
    if len(offsets) != len(users) + 1 or (compiled and int(offsets[-1]) != len(left_out)):
        raise ValueError(
            f"offsets for {len(offsets) - 1} users, which have to end at {len(left_out)} items "
            f"left out; there are {len(users)} users"
        )
    if users.shape[1:] != items.shape[1:] or base.shape != items.shape[:1]:
        raise ValueError(
            f"users {list(users.shape)}, items {list(items.shape)} and base {list(base.shape)} do "
            "not fit together"
        )
    if compiled:
        check_rows(left_out, len(items), "items left out")
    out: Tensor = _LogSumExp.apply(users, items, base, offsets, left_out)  # type: ignore[no-untyped-call]
    return out


class _LogSumExp(Function):
    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx, users: Tensor, items: Tensor, base: Tensor, offsets: Tensor, left_out: Tensor
    ) -> Tensor:
        sums = users.new_empty(len(users))
        for part, scores in _scores(users, items, base, offsets, left_out):
            largest = scores.amax(1, keepdim=True)
            # For a user without items the largest is -inf, and -inf - -inf would be NaN.
            largest.clamp_(min=torch.finfo(scores.dtype).min)
            sums[part] = scores.sub_(largest).exp_().sum(1).log_().add_(largest.squeeze(1))
        ctx.save_for_backward(users, items, base, offsets, left_out, sums)
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):  # type: ignore[no-untyped-def]
        users, items, base, offsets, left_out, sums = ctx.saved_tensors
        of_users, of_items = torch.empty_like(users), torch.zeros_like(items)
        of_base = torch.zeros_like(base)
        # exp(-inf - finite) is 0, the share of an item that is left out.
        sums = sums.clamp(min=torch.finfo(sums.dtype).min)
        for part, scores in _scores(users, items, base, offsets, left_out):
            shares = scores.sub_(sums[part].unsqueeze(1)).exp_()
            shares.mul_(gradient[part].unsqueeze(1))
            torch.mm(shares, items, out=of_users[part])
            of_items.addmm_(shares.T, users[part])
            of_base += shares.sum(0)
        return of_users, of_items, of_base, None, None


def _scores(
    users: Tensor, items: Tensor, base: Tensor, offsets: Tensor, left_out: Tensor
) -> Iterator[tuple[slice, Tensor]]:
    """Ranges of users, and their scores [m, I]; -inf for an item that is left out."""
    most = _SCORES_AT_ONCE if runs_compiled(users) else _SCORES_ON_A_DEVICE
    step = max(1, most // max(1, len(items)))
    rows = torch.repeat_interleave(offsets.diff(), output_size=len(left_out))
    # With all users in one range, no offset has to be read.
    ends = [0, len(left_out)] if step >= len(users) else [*offsets[::step].tolist(), len(left_out)]
    for number, first in enumerate(range(0, len(users), step)):
        part = slice(first, min(first + step, len(users)))
        scores = torch.addmm(base, users[part], items.T)
        entries = slice(ends[number], ends[number + 1])
        scores[rows[entries] - first, left_out[entries]] = -torch.inf
        yield part, scores
