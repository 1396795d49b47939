"""Ridge regressions, one a node: of its edges' ratings on what its neighbours are.

For destination d with edges k, q_k the row of an edge's source and e_k its rating, and a guess p:

    A = sum q_k q_k^T + diag(damping),   delta = A^-1 sum (e_k - p . q_k) q_k

so p + delta minimises sum (e_k - x . q_k)^2 + |x - p|^2 weighed by the damping. With z = A^-1 g, g
being the gradient of delta, and w = p + delta, the gradients are

    of q_k: (e_k - w . q_k) z - (z . q_k) w,   of p: -(A - diag(damping)) z,
    of the damping: -sum over d of z * delta.

Sums of q q^T and what is solved with them are float64: where sources span fewer directions than W,
the damping alone keeps A from being singular, and float32 would lose it among thousands of edges.

Shapes: S sources, D destinations, K edges, W columns.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from dglrec.kernels.parallel import compiled, even_parts, run_side_by_side

_SQUARES_AT_ONCE = 1 << 16  # edges whose q q^T a GPU writes out


def fit_ridge(
    offsets: Tensor,
    neighbours: Tensor,
    sources: Tensor,
    guess: Tensor,
    ratings: Tensor,
    damping: Tensor,
) -> Tensor:
    """What each destination's edges move its guess by: delta, [D, W]; zeros where it has none.

    Args:
        offsets: int64 [D + 1]; destination d's edges stand at `offsets[d]:offsets[d + 1]`.
        neighbours: int32 or int64 [K]; each edge's source.
        sources: q, [S, W]; of less than 32 bits, values count as float32.
        guess: p, [D, W].
        ratings: e, [K]; no gradient reaches them.
        damping: [W], above 0.

    Raises:
        ValueError: the arguments do not fit together.
    """
    dtype = torch.promote_types(sources.dtype, torch.float32)
    sources, guess, damping = sources.to(dtype), guess.to(dtype), damping.to(dtype)
    ratings = ratings.detach().to(dtype)
    _check(offsets, neighbours, sources, guess, ratings, damping)
    fitted: Tensor = _FitRidge.apply(offsets, neighbours, sources, guess, ratings, damping)  # type: ignore[no-untyped-call]
    return fitted


def _check(
    offsets: Tensor,
    neighbours: Tensor,
    sources: Tensor,
    guess: Tensor,
    ratings: Tensor,
    damping: Tensor,
) -> None:
    width = sources.shape[1]
    if (
        guess.shape != (len(offsets) - 1, width)
        or damping.shape != (width,)
        or len(ratings) != len(neighbours)
    ):
        shapes = ", ".join(
            str(list(one.shape)) for one in (offsets, neighbours, sources, guess, ratings, damping)
        )
        raise ValueError(
            f"offsets, neighbours, sources, guess, ratings and damping do not fit: {shapes}"
        )
    if sources.device.type == "cpu":
        # Compiled code would read, and in the gradient write, outside the table.
        low, high = (int(bound) for bound in neighbours.aminmax()) if len(neighbours) else (0, -1)
        if low < 0 or high >= len(sources) or int(offsets[-1]) != len(neighbours):
            raise ValueError(
                f"sources {low} to {high} of {len(sources)}, and offsets that end at "
                f"{int(offsets[-1])} of {len(neighbours)} edges, do not fit"
            )


class _FitRidge(Function):
    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> Tensor:
        fit = _fit_compiled if tensors[2].device.type == "cpu" else _fit_anywhere
        delta = fit(*tensors)
        ctx.save_for_backward(*tensors, delta)
        return delta

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        *tensors, delta = ctx.saved_tensors
        on_cpu = delta.device.type == "cpu"
        back: Any = _back_compiled if on_cpu else _back_anywhere
        of_sources, of_guess, z = back(*tensors, delta, gradient)
        return None, None, of_sources, of_guess, None, -(z * delta).sum(0)


def _fit_compiled(*tensors: Tensor) -> Tensor:
    arrays = _arrays(*tensors)
    out = np.empty_like(arrays[3])
    run_side_by_side([partial(_fit, *arrays, out, *part) for part in _parts(*arrays[:3])])
    return torch.from_numpy(out)


def _back_compiled(*tensors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    arrays = _arrays(*tensors)
    sources, guess = arrays[2:4]
    of_guess, z = np.empty_like(guess), np.empty_like(guess)
    parts = _parts(*arrays[:3])
    # Two threads may meet at a source, so each sums into a table of its own.
    tables = [np.zeros_like(sources) for _ in parts]
    run_side_by_side(
        [
            partial(_fit_back, *arrays, table, of_guess, z, *part)
            for part, table in zip(parts, tables, strict=True)
        ]
    )
    total = tables[0]
    for table in tables[1:]:
        total += table
    return torch.from_numpy(total), torch.from_numpy(of_guess), torch.from_numpy(z)


def _parts(offsets: Any, neighbours: Any, sources: Any) -> list[tuple[int, int]]:
    return even_parts(offsets, sources.shape[1] ** 2, sources.size)


def _fit_anywhere(
    offsets: Tensor,
    neighbours: Tensor,
    sources: Tensor,
    guess: Tensor,
    ratings: Tensor,
    damping: Tensor,
) -> Tensor:
    """The same by torch's operations: what a GPU does."""
    squares, sums = _squares_of(guess), torch.zeros_like(guess, dtype=torch.float64)
    for owners, rows, rated in _edges(offsets, neighbours, sources, ratings):
        rows = rows.double()
        squares.index_add_(0, owners, rows.unsqueeze(2) * rows.unsqueeze(1))
        sums.index_add_(0, owners, rated.double().unsqueeze(1) * rows)
    left = sums - (squares @ guess.double().unsqueeze(2)).squeeze(2)
    return _solve(squares, damping, left).to(guess.dtype)


def _back_anywhere(
    offsets: Tensor,
    neighbours: Tensor,
    sources: Tensor,
    guess: Tensor,
    ratings: Tensor,
    damping: Tensor,
    delta: Tensor,
    gradient: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    squares = _squares_of(guess)
    for owners, rows, _ in _edges(offsets, neighbours, sources, ratings):
        rows = rows.double()
        squares.index_add_(0, owners, rows.unsqueeze(2) * rows.unsqueeze(1))
    solved, w = _solve(squares, damping, gradient.double()), guess + delta
    z = solved.to(guess.dtype)
    of_sources, first = torch.zeros_like(sources), 0
    for owners, rows, rated in _edges(offsets, neighbours, sources, ratings):
        near, along = w[owners], z[owners]
        left = (rated - (rows * near).sum(1)).unsqueeze(1)
        parts = left * along - (rows * along).sum(1, keepdim=True) * near
        of_sources.index_add_(0, neighbours[first : first + len(owners)].long(), parts)
        first += len(owners)
    return of_sources, -(squares @ solved.unsqueeze(2)).squeeze(2).to(guess.dtype), z


def _edges(
    offsets: Tensor, neighbours: Tensor, sources: Tensor, ratings: Tensor
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Destinations, rows of the sources and ratings of some edges after the other."""
    owners = torch.repeat_interleave(offsets.diff(), output_size=len(neighbours))
    for some, near, rated in zip(
        owners.split(_SQUARES_AT_ONCE),
        neighbours.split(_SQUARES_AT_ONCE),
        ratings.split(_SQUARES_AT_ONCE),
        strict=True,
    ):
        if len(some):
            yield some, sources.index_select(0, near), rated


def _squares_of(guess: Tensor) -> Tensor:
    """Zeros to sum q q^T in."""
    return guess.new_zeros(*guess.shape, guess.shape[1], dtype=torch.float64)


def _solve(squares: Tensor, damping: Tensor, right: Tensor) -> Tensor:
    # Without a word where a number is not finite: training says of which batch it is.
    factor, failed = torch.linalg.cholesky_ex(squares + torch.diag(damping.double()))
    factor = factor.masked_fill((failed > 0).view(-1, 1, 1), torch.nan)
    return torch.cholesky_solve(right.unsqueeze(2), factor).squeeze(2)


def _arrays(*tensors: Tensor) -> tuple[npt.NDArray[Any], ...]:
    return tuple(tensor.detach().contiguous().numpy() for tensor in tensors)


@compiled
def _sum_squares(rows_of, first, last, sources, squares):  # type: ignore[no-untyped-def]
    width = sources.shape[1]
    squares[:] = 0
    for k in range(first, last):
        row = sources[rows_of[k]]
        for a in range(width):
            factor = row[a]
            line = squares[a]
            for c in range(width):
                line[c] += factor * row[c]


@compiled
def _factorise(squares, damping, lower):  # type: ignore[no-untyped-def]
    """Cholesky's factor of squares + diag(damping)."""
    width = len(damping)
    for a in range(width):
        for c in range(a + 1):
            total = squares[a, c]
            if a == c:
                total += damping[a]
            for h in range(c):
                total -= lower[a, h] * lower[c, h]
            lower[a, c] = np.sqrt(total) if a == c else total / lower[c, c]


@compiled
def _substitute(lower, right, out):  # type: ignore[no-untyped-def]
    width = len(right)
    for a in range(width):
        total = right[a]
        for h in range(a):
            total -= lower[a, h] * out[h]
        out[a] = total / lower[a, a]
    for a in range(width - 1, -1, -1):
        total = out[a]
        for h in range(a + 1, width):
            total -= lower[h, a] * out[h]
        out[a] = total / lower[a, a]


@compiled
def _fit(offsets, neighbours, sources, guess, ratings, damping, out, low, high):  # type: ignore[no-untyped-def]
    width = guess.shape[1]
    squares = np.empty((width, width))
    lower, left, solved = np.empty_like(squares), np.empty(width), np.empty(width)
    for d in range(low, high):
        first, last = offsets[d], offsets[d + 1]
        _sum_squares(neighbours, first, last, sources, squares)
        left[:] = 0
        for k in range(first, last):
            row, rating = sources[neighbours[k]], ratings[k]
            for c in range(width):
                left[c] += rating * row[c]
        for a in range(width):
            for c in range(width):
                left[a] -= squares[a, c] * guess[d, c]
        _factorise(squares, damping, lower)
        _substitute(lower, left, solved)
        for c in range(width):
            out[d, c] = solved[c]


@compiled
def _fit_back(  # type: ignore[no-untyped-def]
    offsets, neighbours, sources, guess, ratings, damping, delta, gradient,
    of_sources, of_guess, z, low, high,
):  # fmt: skip
    zero = guess.dtype.type(0)
    width = guess.shape[1]
    squares = np.empty((width, width))
    lower, w = np.empty_like(squares), np.empty(width, dtype=guess.dtype)
    solved = np.empty(width)
    for d in range(low, high):
        first, last = offsets[d], offsets[d + 1]
        _sum_squares(neighbours, first, last, sources, squares)
        _factorise(squares, damping, lower)
        _substitute(lower, gradient[d], solved)
        along = z[d]
        for c in range(width):
            along[c] = solved[c]
        for a in range(width):
            w[a] = guess[d, a] + delta[d, a]
            total = zero
            for c in range(width):
                total -= squares[a, c] * along[c]
            of_guess[d, a] = total
        for k in range(first, last):
            row, to = sources[neighbours[k]], of_sources[neighbours[k]]
            left, dot = ratings[k], zero
            for c in range(width):
                left -= row[c] * w[c]
            for c in range(width):
                dot += row[c] * along[c]
            for c in range(width):
                to[c] += left * along[c] - dot * w[c]
