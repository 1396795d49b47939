"""Sums over a node's edges, and scores of edges: by compiled code on a CPU, elsewhere by torch.

On a CPU torch writes each edge's row to memory and reads it back several times, forward and
backward. Here a row is read and used at once, which is eight times as fast for the scores and three
to four times for the sums (`benchmarks/bench_kernels.py`). The order in which gradients are summed
depends on the input and the number of threads alone, so they are repeatable.

Shapes: S sources, D destinations, K edges of a block, B target edges, H columns.
"""

from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional

from dglrec.kernels.parallel import (
    arrays_of,
    compiled,
    even_parts,
    parts_of,
    run_side_by_side,
    runs_compiled,
    total_of,
)


def sum_messages(
    offsets: Tensor,
    neighbours: Tensor,
    sources: Tensor,
    weights: Tensor | None = None,
    *,
    mean: bool = False,
    counts: Tensor | None = None,
    fanout: int | None = None,
    turned: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """For each destination the sum of its edges' sources: [S, H] -> [D, H].

    Args:
        offsets: int64 [D + 1]; destination d's edges stand at `offsets[d]:offsets[d + 1]`.
        neighbours: int32 or int64 [K]; each edge's source.
        sources: [S, H]; values of less than 32 bits are summed as float32 on a CPU, and with
            weights on any device, as the weights would otherwise be rounded to the sources' type.
        weights: [K] factors of the edges; they get no gradient.
        mean: divide each sum by the number of edges; a destination without edges gets zeros.
        counts: [D]; with `mean`, the number of edges without padding, which weighs 0.
        fanout: how many edges each destination has, where all have the same number.
        turned: without weights, the same edges sorted by source: int64 [S + 1] offsets and [K]
            destinations. A source's gradient is then a sum as well, instead of random additions to
            a table.

    Raises:
        ValueError: offsets, neighbours, weights and `turned` do not fit together.
        IndexError: `turned` names a destination that does not exist.
    """
    if mean and counts is not None:
        sums = sum_messages(offsets, neighbours, sources, weights, fanout=fanout, turned=turned)
        return sums / counts.clamp(min=1).unsqueeze(1)
    sources = _widened(sources) if weights is None else _at_least_float32(sources)
    if runs_compiled(sources):
        _check_edges(offsets, neighbours, weights)
    elif fanout is not None:
        return _sum_rows_of(neighbours, sources, weights, fanout, mean)
    if turned is not None:
        _check_turned(*turned, len(neighbours), len(sources), weighted=weights is not None)
    weights = None if weights is None else weights.detach().to(sources.dtype)
    if runs_compiled(sources) and sources.requires_grad and torch.is_grad_enabled():
        summed: Tensor = _SumMessages.apply(  # type: ignore[no-untyped-call]
            offsets, neighbours, sources, weights, mean, *(turned or (None, None))
        )
        return summed
    return _bag(offsets, neighbours, sources, weights, mean)


def score_edges(
    users: Tensor,
    items: Tensor,
    hidden: tuple[Tensor, Tensor],
    weights: Tensor,
    factors: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """Scores of B edges, w relu(a_u + c_i) + p_u . q_i: float [B].

    Args:
        users: int64 [B], rows of the users' tables.
        items: int32 or int64 [B], rows of the items' tables.
        hidden: a and c, [N_u, H] and [N_i, H].
        weights: w, [H].
        factors: p and q, [N_u, F] and [N_i, F]; None leaves the product out.

    Raises:
        IndexError: users or items name a row that a table lacks.
        ValueError: users and items, or the tables, differ in length, width or type.
    """
    if runs_compiled(weights):
        check_rows(users, len(hidden[0]), "users")
        check_rows(items, len(hidden[1]), "items")
        of_edges = factors or (hidden[0][:, :0], hidden[1][:, :0])
        tables = tuple(map(_widened, (*hidden, weights, *of_edges)))
        _check_tables(users, items, tables)
        scores: Tensor = _ScoreEdges.apply(users, items, *tables)  # type: ignore[no-untyped-call]
        return scores
    # `embedding` sums its gradient in a fixed order, for which it sorts: one call for each side.
    rows, width = functional.embedding, len(weights)
    if factors is None:
        return functional.relu(rows(users, hidden[0]) + rows(items, hidden[1])) @ weights
    of_users = rows(users, torch.cat((hidden[0], factors[0]), dim=1))
    of_items = rows(items, torch.cat((hidden[1], factors[1]), dim=1))
    out = functional.relu(of_users[:, :width] + of_items[:, :width]) @ weights
    return out + (of_users[:, width:] * of_items[:, width:]).sum(1)


def _widened(values: Tensor) -> Tensor:
    """As float32 for compiled code: numpy has no bfloat16, and long sums need more digits."""
    return _at_least_float32(values) if runs_compiled(values) else values


def _at_least_float32(values: Tensor) -> Tensor:
    return values.float() if values.itemsize < 4 else values


def ragged(starts: Tensor, counts: Tensor) -> Tensor:
    """The positions of D ranges, one range after the other; int64 [sum of counts]."""
    ends = counts.cumsum(0)
    total = int(ends[-1]) if len(ends) else 0
    shifts = torch.repeat_interleave(starts - ends + counts, counts, output_size=total)
    return shifts.add_(torch.arange(total, device=starts.device))


def check_rows(rows: Tensor, count: int, name: str) -> None:
    """Refuse rows that a table lacks: compiled code would read or write outside the table.

    Args:
        rows: whole numbers.
        count: how many rows the table has.
        name: of the rows, for the message.

    Raises:
        IndexError: the table lacks a row.
    """
    if len(rows):
        low, high = (int(bound) for bound in rows.aminmax())
        if low < 0 or high >= count:
            raise IndexError(f"{name} {low} to {high}: the table has {count} rows")


def _check_edges(offsets: Tensor, neighbours: Tensor, weights: Tensor | None) -> None:
    ends, edges = int(offsets[-1]), len(neighbours)
    if ends != edges or (weights is not None and len(weights) != edges):
        raise ValueError(
            f"offsets end at {ends}, and there are {edges} neighbours"
            + ("" if weights is None else f" and {len(weights)} weights")
        )


def _check_turned(
    starts: Tensor, destinations: Tensor, edges: int, sources: int, *, weighted: bool
) -> None:
    if weighted:
        raise ValueError("turned edges take no weights")
    if (len(starts), len(destinations)) != (sources + 1, edges):
        raise ValueError(
            f"turned edges: {len(destinations)} of {len(starts) - 1} sources; there are {edges} of "
            f"{sources}"
        )
    if runs_compiled(starts):
        _check_edges(starts, destinations, None)


def _check_tables(users: Tensor, items: Tensor, tables: tuple[Tensor, ...]) -> None:
    a, c, w, p, q = tables
    widths = [table.shape[1] for table in (a, c, p, q)]
    counts = [len(table) for table in (a, c, p, q)]
    if (
        len(users) != len(items)
        or widths[:2] != [len(w)] * 2
        or widths[2] != widths[3]
        or counts[:2] != counts[2:]
        or len({table.dtype for table in tables}) > 1
    ):
        shapes = ", ".join(f"{list(t.shape)} {t.dtype}" for t in (users, items, *tables))
        raise ValueError(f"users, items and tables do not fit together: {shapes}")


def _bag(
    offsets: Tensor, neighbours: Tensor, sources: Tensor, weights: Tensor | None, mean: bool
) -> Tensor:
    sums = functional.embedding_bag(
        neighbours,
        sources,
        offsets.to(neighbours.dtype),
        mode="mean" if mean and weights is None else "sum",
        include_last_offset=True,
        per_sample_weights=weights,
    )
    if mean and weights is not None:
        counts = offsets.diff().clamp(min=1).unsqueeze(1)
        return sums.div_(counts) if not sums.requires_grad else sums / counts
    return sums


def _sum_rows_of(
    neighbours: Tensor, sources: Tensor, weights: Tensor | None, fanout: int, mean: bool
) -> Tensor:
    """As `_bag`, where each destination has f edges: nothing is searched for or sorted."""
    rows: Tensor = sources.index_select(0, neighbours).unflatten(0, (-1, fanout))
    if weights is not None:
        rows = rows * weights.view(-1, fanout, 1)
    return rows.mean(1) if mean else rows.sum(1)


class _SumMessages(Function):
    @staticmethod
    def forward(
        ctx: Any,
        offsets: Tensor,
        neighbours: Tensor,
        sources: Tensor,
        weights: Tensor | None,
        mean: bool,
        starts: Tensor | None,
        destinations: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(offsets, neighbours, weights, starts, destinations)
        ctx.num_sources, ctx.mean = len(sources), mean
        return _bag(offsets, neighbours, sources, weights, mean)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        offsets, neighbours, weights, starts, destinations = ctx.saved_tensors
        nothing = (None, None, None, None)
        if starts is not None:
            if ctx.mean:
                gradient = gradient / offsets.diff().clamp(min=1).unsqueeze(1)
            read = _bag(starts, destinations, gradient.contiguous(), None, False)
            return None, None, read, *nothing
        arrays = (
            offsets.numpy(),
            neighbours.numpy(),
            (gradient.new_empty(0) if weights is None else weights).numpy(),
        )
        # A table for each thread is worth it where a source has several edges.
        out = _scatter if 4 * ctx.num_sources <= len(neighbours) else _gather
        result = out(*arrays, ctx.mean, gradient.contiguous().numpy(), ctx.num_sources)
        return None, None, torch.from_numpy(result), *nothing


class _Terms(NamedTuple):
    """The tables that scores are computed from, or their gradients.

    Attributes:
        user_hidden: [N_u, H]; a.
        item_hidden: [N_i, H]; c.
        weights: [H]; w.
        user_factors: [N_u, F]; p.
        item_factors: [N_i, F]; q.
    """

    user_hidden: npt.NDArray[Any]
    item_hidden: npt.NDArray[Any]
    weights: npt.NDArray[Any]
    user_factors: npt.NDArray[Any]
    item_factors: npt.NDArray[Any]

    @property
    def width(self) -> int:
        """H + F."""
        width: int = len(self.weights) + self.user_factors.shape[1]
        return width


class _ScoreEdges(Function):
    @staticmethod
    def forward(ctx: Any, users: Tensor, items: Tensor, *tables: Tensor) -> Tensor:
        ctx.save_for_backward(users, items, *tables)
        ends, terms = arrays_of(users, items), _Terms(*arrays_of(*tables))
        out = np.empty(len(users), dtype=terms.weights.dtype)
        parts = parts_of(len(users), len(users) * terms.width)
        run_side_by_side([partial(_score, *ends, terms, out, low, high) for low, high in parts])
        return torch.from_numpy(out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        users, items, *tables = arrays_of(*ctx.saved_tensors)
        terms = _Terms(*tables)
        upstream = gradient.contiguous().numpy()
        numbers = sum(table.size for table in terms)
        parts = parts_of(len(upstream), len(upstream) * terms.width, numbers)
        # Edges of two threads may share a node, so each thread sums into separate tables.
        sums = [_Terms(*map(np.zeros_like, terms)) for _ in parts]
        run_side_by_side(
            [
                partial(_score_back, users, items, terms, upstream, of_thread, low, high)
                for (low, high), of_thread in zip(parts, sums, strict=True)
            ]
        )
        return (
            None,
            None,
            *(torch.from_numpy(total_of(tables)) for tables in zip(*sums, strict=True)),
        )


def _scatter(
    offsets: npt.NDArray[Any],
    neighbours: npt.NDArray[Any],
    weights: npt.NDArray[Any],
    mean: bool,
    gradient: npt.NDArray[Any],
    num_sources: int,
) -> npt.NDArray[Any]:
    """Many edges for each source: each thread adds its destinations' edges to a separate table."""
    shape = (num_sources, gradient.shape[1])
    parts = even_parts(offsets, gradient.shape[1], shape[0] * shape[1])
    tables = [np.zeros(shape, dtype=gradient.dtype) for _ in parts]
    run_side_by_side(
        [
            partial(_add_to_sources, offsets, neighbours, weights, mean, gradient, table, low, high)
            for (low, high), table in zip(parts, tables, strict=True)
        ]
    )
    return total_of(tables)


def _gather(
    offsets: npt.NDArray[Any],
    neighbours: npt.NDArray[Any],
    weights: npt.NDArray[Any],
    mean: bool,
    gradient: npt.NDArray[Any],
    num_sources: int,
) -> npt.NDArray[Any]:
    """Few edges for each source: they are sorted by source, and summed source by source."""
    starts, destinations, turned = _transpose(offsets, neighbours, weights, mean, num_sources)
    out = np.empty((num_sources, gradient.shape[1]), dtype=gradient.dtype)
    run_side_by_side(
        [
            partial(_sum_rows, starts, destinations, turned, gradient, out, low, high)
            for low, high in even_parts(starts, gradient.shape[1])
        ]
    )
    return out


@compiled
def _add_to_sources(offsets, neighbours, weights, mean, gradient, table, low, high):  # type: ignore[no-untyped-def]
    weighted = len(weights) > 0
    width = table.shape[1]
    row = np.empty(width, dtype=gradient.dtype)
    for d in range(low, high):
        count = offsets[d + 1] - offsets[d]
        share = gradient.dtype.type(1 / count if mean and count else 1)
        for c in range(width):
            row[c] = share * gradient[d, c]
        for k in range(offsets[d], offsets[d + 1]):
            out = table[neighbours[k]]
            if weighted:
                weight = weights[k]
                for c in range(width):
                    out[c] += weight * row[c]
            else:
                for c in range(width):
                    out[c] += row[c]


@compiled
def _sum_rows(offsets, neighbours, weights, rows, out, low, high):  # type: ignore[no-untyped-def]
    weighted = len(weights) > 0
    width = out.shape[1]
    for d in range(low, high):
        total = out[d]
        total[:] = 0
        for k in range(offsets[d], offsets[d + 1]):
            row = rows[neighbours[k]]
            if weighted:
                weight = weights[k]
                for c in range(width):
                    total[c] += weight * row[c]
            else:
                for c in range(width):
                    total[c] += row[c]


@compiled
def _transpose(offsets, neighbours, weights, mean, num_sources):  # type: ignore[no-untyped-def]
    starts = np.zeros(num_sources + 1, dtype=np.int64)
    for k in range(len(neighbours)):
        starts[neighbours[k] + 1] += 1
    for s in range(num_sources):
        starts[s + 1] += starts[s]
    following = starts[:-1].copy()
    destinations = np.empty(len(neighbours), dtype=np.int32)
    weighted = len(weights) > 0
    turned = np.empty(len(neighbours) if weighted or mean else 0, dtype=weights.dtype)
    for d in range(len(offsets) - 1):
        count = offsets[d + 1] - offsets[d]
        share = weights.dtype.type(1 / count if mean and count else 1)
        for k in range(offsets[d], offsets[d + 1]):
            place = following[neighbours[k]]
            following[neighbours[k]] += 1
            destinations[place] = d
            if weighted:
                turned[place] = share * weights[k]
            elif mean:
                turned[place] = share
    return starts, destinations, turned


@compiled
def _score(users, items, terms, out, low, high):  # type: ignore[no-untyped-def]
    user_hidden, item_hidden, weights, user_factors, item_factors = terms
    zero = weights.dtype.type(0)
    for b in range(low, high):
        user, item = users[b], items[b]
        total = zero
        of_user, of_item = user_hidden[user], item_hidden[item]
        for h in range(len(weights)):
            value = of_user[h] + of_item[h]
            total += weights[h] * (zero if value <= zero else value)  # NaN stays
        of_user, of_item = user_factors[user], item_factors[item]
        for h in range(len(of_user)):
            total += of_user[h] * of_item[h]
        out[b] = total


@compiled
def _score_back(users, items, terms, gradient, sums, low, high):  # type: ignore[no-untyped-def]
    """Add the gradients of `terms` to `sums`, from the gradient of the scores."""
    _hidden_back(users, items, terms, gradient, sums, low, high)
    _factors_back(users, items, terms, gradient, sums, low, high)


@compiled
def _hidden_back(users, items, terms, gradient, sums, low, high):  # type: ignore[no-untyped-def]
    # A user's targets usually come one after the other: its row is read and added to once for all.
    user_hidden, item_hidden, weights = terms.user_hidden, terms.item_hidden, terms.weights
    of_users, of_items = sums.user_hidden, sums.item_hidden
    zero = weights.dtype.type(0)
    width = len(weights)
    user_row, user_sum = np.empty_like(weights), np.zeros_like(weights)
    value, back = np.empty_like(weights), np.empty_like(weights)
    weight_sum = np.zeros_like(weights)
    last = -1
    for b in range(low, high):
        user, item, factor = users[b], items[b], gradient[b]
        if user != last:
            if last >= 0:
                for h in range(width):
                    of_users[last, h] += user_sum[h]
            for h in range(width):
                user_sum[h] = zero
                user_row[h] = user_hidden[user, h]
            last = user
        # Each inner loop writes one array, or it does not vectorise. Where relu is 0, a zero is
        # selected, not multiplied by: 0 * infinity is NaN.
        for h in range(width):
            total = user_row[h] + item_hidden[item, h]
            value[h] = zero if total <= zero else total
        for h in range(width):
            weight_sum[h] += factor * value[h]
        for h in range(width):
            back[h] = zero if value[h] <= zero else factor * weights[h]
        for h in range(width):
            user_sum[h] += back[h]
        for h in range(width):
            of_items[item, h] += back[h]
    if last >= 0:
        for h in range(width):
            of_users[last, h] += user_sum[h]
    for h in range(width):
        sums.weights[h] += weight_sum[h]


@compiled
def _factors_back(users, items, terms, gradient, sums, low, high):  # type: ignore[no-untyped-def]
    user_factors, item_factors = terms.user_factors, terms.item_factors
    of_users, of_items = sums.user_factors, sums.item_factors
    width = user_factors.shape[1]
    for b in range(low, high):
        user, item, factor = users[b], items[b], gradient[b]
        for h in range(width):
            of_users[user, h] += factor * item_factors[item, h]
        for h in range(width):
            of_items[item, h] += factor * user_factors[user, h]
