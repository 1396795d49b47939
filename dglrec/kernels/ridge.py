"""A ridge regression for each node: of its edges' ratings on its neighbours' rows.

For destination d with edges k, with q_k the row of an edge's source, e_k its rating, and a guess p:

    A = sum q_k q_k^T + diag(damping),   delta = A^-1 sum (e_k - p . q_k) q_k

so x = p + delta minimises sum (e_k - x . q_k)^2 + sum of damping * (x - p)^2. With z = A^-1 g, g
being the gradient of delta, and w = p + delta, the gradients are

    of q_k: (e_k - w . q_k) z - (z . q_k) w,   of p: -(A - diag(damping)) z,
    of the damping: -sum over d of z * delta.

Edges may have weights, which multiply their terms in both sums and in the gradients of q and p; the
gradient of an edge's weight is (e_k - w . q_k) (z . q_k).

A and its solutions are float64: where the sources span fewer than W directions, only the damping
keeps A from being singular, and in float32 it would vanish beside the sums over thousands of edges.
The backward pass uses A's Cholesky factor, which is kept, and computes no sums of squares.

Shapes: S sources, D destinations, K edges, W columns.
"""

from collections.abc import Iterator
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
    run_side_by_side,
    runs_compiled,
    total_of,
)

_COLUMN = 64  # edges whose rows compiled code transposes at a time: they fit the cache
_CHUNK, _CHUNKS_AT_ONCE = 32, 1 << 15  # edges of a destination in a chunk, on a GPU


def fit_ridge(
    offsets: Tensor,
    neighbours: Tensor,
    sources: Tensor,
    guess: Tensor,
    ratings: Tensor,
    damping: Tensor,
    present: Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """By how much each destination's edges move its guess: delta, [D, W]; 0 without edges.

    Args:
        offsets: int64 [D + 1]; destination d's edges stand at `offsets[d]:offsets[d + 1]`.
        neighbours: int32 or int64 [K]; each edge's source.
        sources: q, [S, W]; values of less than 32 bits are computed as float32.
        guess: p, [D, W].
        ratings: e, [K]; they get no gradient.
        damping: [W], above 0.
        present: [K]; 1 for an edge, 0 for padding; None where there is no padding.
        weights: [K], 0 or more; None where all edges weigh 1. Not together with `present`.

    Raises:
        ValueError: the arguments do not fit together.
    """
    width = sources.shape[1]
    if (
        guess.shape != (len(offsets) - 1, width)
        or damping.shape != (width,)
        or len(ratings) != len(neighbours)
    ):
        given = (offsets, neighbours, sources, guess, ratings, damping)
        shapes = ", ".join(str(list(one.shape)) for one in given)
        raise ValueError(
            f"offsets, neighbours, sources, guess, ratings and damping do not fit: {shapes}"
        )
    if weights is not None and (present is not None or len(weights) != len(neighbours)):
        raise ValueError(
            f"{len(weights)} weights of {len(neighbours)} edges, or weights with present"
        )
    if runs_compiled(sources):
        # Compiled code would read, and in the backward pass write, outside the table.
        low, high = (int(bound) for bound in neighbours.aminmax()) if len(neighbours) else (0, -1)
        if low < 0 or high >= len(sources) or int(offsets[-1]) != len(neighbours):
            raise ValueError(
                f"sources {low} to {high} of {len(sources)}, and offsets that end at "
                f"{int(offsets[-1])} of {len(neighbours)} edges, do not fit"
            )
    dtype = torch.promote_types(sources.dtype, torch.float32)
    values = (one.to(dtype) for one in (sources, guess, ratings.detach(), damping))
    weights = None if weights is None else weights.to(dtype)
    fitted: Tensor = _FitRidge.apply(offsets, neighbours, *values, present, weights)  # type: ignore[no-untyped-call]
    return fitted


class _FitRidge(Function):
    @staticmethod
    def forward(
        ctx: Any,
        offsets: Tensor,
        neighbours: Tensor,
        sources: Tensor,
        guess: Tensor,
        ratings: Tensor,
        damping: Tensor,
        present: Tensor | None,
        weights: Tensor | None,
    ) -> Tensor:
        edges = (offsets, neighbours, sources, guess, ratings)
        compiled = runs_compiled(sources) and present is None
        there = present if weights is None else weights.sqrt()
        fit = _fit_compiled if compiled else _fit_anywhere
        delta, factors = fit(*edges, damping, there)
        ctx.save_for_backward(*edges, delta, factors, present, weights)
        return delta

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        offsets, neighbours, sources, guess, ratings, delta, factors, *rest = ctx.saved_tensors
        present, weights = rest
        z = _solve(factors, gradient).to(delta.dtype)
        edges = (offsets, neighbours, sources, guess + delta, ratings, z)
        compiled = runs_compiled(delta) and present is None
        there, weighed = (present, False) if weights is None else (weights, True)
        back = _back_compiled if compiled else _back_anywhere
        of_sources, of_guess, of_weights = back(*edges, there=there, weighed=weighed)
        of_damping = -(z * delta).sum(0)
        return None, None, of_sources, of_guess, None, of_damping, None, of_weights


def _fit_compiled(
    offsets: Tensor,
    neighbours: Tensor,
    sources: Tensor,
    guess: Tensor,
    ratings: Tensor,
    damping: Tensor,
    roots: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    roots = sources.new_empty(0) if roots is None else roots  # compiled code takes no None
    edges = _edges(offsets, neighbours, ratings, roots)
    tables = arrays_of(sources, guess, damping)
    width = guess.shape[1]
    out, factors = np.empty_like(tables[1]), np.zeros((len(guess), width, width))
    run_side_by_side(
        [
            partial(_fit, edges, *tables, out, factors, *part)
            for part in _parts(edges.offsets, sources)
        ]
    )
    return torch.from_numpy(out), torch.from_numpy(factors)


def _back_compiled(
    offsets: Tensor,
    neighbours: Tensor,
    sources: Tensor,
    fitted: Tensor,
    ratings: Tensor,
    solved: Tensor,
    there: Tensor | None = None,
    *,
    weighed: bool = False,
) -> tuple[Tensor, Tensor, Tensor | None]:
    weights = sources.new_empty(0) if there is None else there  # compiled code takes no None
    edges = _edges(offsets, neighbours, ratings, weights)
    tables = arrays_of(sources, fitted, solved)
    of_guess, of_weights = np.empty_like(tables[1]), np.empty_like(edges.weights)
    parts = _parts(edges.offsets, sources)
    # Edges of two threads may share a source, so each thread sums into a separate table.
    gradients = [_Gradients(np.zeros_like(tables[0]), of_guess, of_weights) for _ in parts]
    run_side_by_side(
        [
            partial(_fit_back, edges, *tables, of_thread, *part)
            for part, of_thread in zip(parts, gradients, strict=True)
        ]
    )
    return (
        torch.from_numpy(total_of([of_thread.sources for of_thread in gradients])),
        torch.from_numpy(of_guess),
        torch.from_numpy(of_weights) if weighed else None,
    )


class _Edges(NamedTuple):
    """The edges of D destinations: offsets [D + 1], and sources, ratings and weights [K].

    Weights are empty where all edges weigh 1; to fit, they are the square roots of the weights.
    """

    offsets: npt.NDArray[np.int64]
    neighbours: npt.NDArray[Any]
    ratings: npt.NDArray[Any]
    weights: npt.NDArray[Any]


class _Gradients(NamedTuple):
    """Gradients of the sources [S, W], of the guess [D, W] and of the edges' weights [K]."""

    sources: npt.NDArray[Any]
    guess: npt.NDArray[Any]
    weights: npt.NDArray[Any]


def _edges(offsets: Tensor, neighbours: Tensor, ratings: Tensor, weights: Tensor) -> _Edges:
    return _Edges(*arrays_of(offsets, neighbours, ratings, weights))


def _parts(offsets: npt.NDArray[Any], sources: Tensor) -> list[tuple[int, int]]:
    return even_parts(offsets, sources.shape[1] ** 2, sources.numel())


def _fit_anywhere(
    offsets: Tensor,
    neighbours: Tensor,
    sources: Tensor,
    guess: Tensor,
    ratings: Tensor,
    damping: Tensor,
    present: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The same by torch's operations, for GPUs.

    The edges of a destination are divided into chunks. A matrix product gives each chunk's sums,
    and these are added up for each destination. There are no random additions to a table, and no
    shape depends on a value, so that the host never waits for the device.

    Args:
        offsets: as in `fit_ridge`.
        neighbours: as in `fit_ridge`.
        sources: as in `fit_ridge`.
        guess: as in `fit_ridge`.
        ratings: as in `fit_ridge`.
        damping: as in `fit_ridge`.
        present: as in `fit_ridge`, or the square roots of the edges' weights.
    """
    width = guess.shape[1]
    totals = guess.new_zeros(len(guess), width * (width + 1), dtype=torch.float64)
    for part in _chunks(offsets, len(neighbours)):
        rows, rated = part.rows(neighbours, sources, ratings, present)
        rows = rows.double()
        guesses = guess.index_select(0, part.owners).double().unsqueeze(2)
        residuals = rated - (rows @ guesses).squeeze(2)
        squares = (rows.transpose(1, 2) @ rows).flatten(1)
        sums = (residuals.unsqueeze(1) @ rows).squeeze(1)
        totals += part.summed(torch.cat((squares, sums), dim=1))
    squares, sums = totals[:, : width * width], totals[:, width * width :]
    squares = squares.unflatten(1, (width, width)) + torch.diag(damping.double())
    # No error for values that are not finite: training reports the batch that they came from.
    factors, failed = torch.linalg.cholesky_ex(squares)
    factors = factors.masked_fill((failed > 0).view(-1, 1, 1), torch.nan)
    return _solve(factors, sums).to(guess.dtype), factors


def _back_anywhere(
    offsets: Tensor,
    neighbours: Tensor,
    sources: Tensor,
    fitted: Tensor,
    ratings: Tensor,
    solved: Tensor,
    there: Tensor | None = None,
    *,
    weighed: bool = False,
) -> tuple[Tensor, Tensor, Tensor | None]:
    of_sources = torch.zeros_like(sources)
    of_guess = torch.zeros_like(fitted, dtype=torch.float64)
    of_weights = torch.zeros_like(ratings) if weighed else None
    for part in _chunks(offsets, len(neighbours)):
        rows, rated = part.rows(neighbours, sources, ratings, None)
        w, z = fitted.index_select(0, part.owners), solved.index_select(0, part.owners)
        both = rows @ torch.stack((w, z), dim=2)
        residuals, along = rated - both[:, :, 0], both[:, :, 1]
        if of_weights is not None:
            of_places = (residuals * along * part.inside).flatten()
            of_weights.scatter_add_(0, part.places.flatten(), of_places)
        factor = part.there(there)
        residuals, along = residuals * factor, along * factor
        of_rows = torch.stack((residuals, -along), dim=2) @ torch.stack((z, w), dim=1)
        ends = neighbours.index_select(0, part.places.flatten())
        of_sources.index_add_(0, ends, of_rows.flatten(0, 1))
        of_guess -= part.summed((along.unsqueeze(1) @ rows).squeeze(1).double())
    return of_sources, of_guess.to(fitted.dtype), of_weights


class _Chunks(NamedTuple):
    """C chunks of up to `_CHUNK` edges, each of a single destination."""

    owners: Tensor  # int64 [C], destinations
    places: Tensor  # int64 [C, _CHUNK], edges; arbitrary where `inside` is False
    inside: Tensor  # bool [C, _CHUNK]
    bounds: Tensor  # int64 [D + 1], where each destination's chunks start

    def there(self, present: Tensor | None) -> Tensor:
        """[C, _CHUNK] bool or float32: the edges' weights, 0 for padding."""
        if present is None:
            return self.inside
        return self.inside * present.take(self.places)

    def rows(
        self, neighbours: Tensor, sources: Tensor, ratings: Tensor, present: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """[C, _CHUNK, W] rows of the edges' sources, and their ratings; both 0 for padding."""
        ends = neighbours.index_select(0, self.places.flatten())
        rows = sources.index_select(0, ends).unflatten(0, self.places.shape)
        there = self.there(present)
        return rows * there.unsqueeze(2), ratings.take(self.places) * there

    def summed(self, values: Tensor) -> Tensor:
        """[C, n] values of chunks -> [D, n], their sums over each destination's chunks."""
        every = torch.arange(len(values), device=values.device)
        return functional.embedding_bag(
            every, values, self.bounds, mode="sum", include_last_offset=True
        )


def _chunks(offsets: Tensor, edges: int) -> Iterator[_Chunks]:
    """The edges of D destinations, in chunks; `_CHUNKS_AT_ONCE` chunks at a time."""
    count, device = len(offsets) - 1, offsets.device
    needed = (offsets.diff() + (_CHUNK - 1)) // _CHUNK
    ends = needed.cumsum(0)
    starts = torch.cat((ends.new_zeros(1), ends))
    # The most chunks there can be: only the device knows how many there are.
    most = edges // _CHUNK + count if edges else 0
    for low in range(0, most, _CHUNKS_AT_ONCE):
        numbers = torch.arange(low, min(low + _CHUNKS_AT_ONCE, most), device=device)
        owners = torch.searchsorted(ends, numbers, right=True).clamp_(max=count - 1)
        first = numbers - starts.index_select(0, owners)
        places = (offsets.index_select(0, owners) + first * _CHUNK).unsqueeze(1)
        places = places + torch.arange(_CHUNK, device=device)
        inside = places < offsets.index_select(0, owners + 1).unsqueeze(1)
        bounds = (starts - low).clamp(0, len(numbers))
        yield _Chunks(owners, places.clamp_(max=edges - 1), inside, bounds)


def _solve(factors: Tensor, right: Tensor) -> Tensor:
    """A^-1 right: float64 [D, W, W] Cholesky factors of A and [D, W] -> float64 [D, W]."""
    return torch.cholesky_solve(right.double().unsqueeze(2), factors).squeeze(2)


class _Scratch(NamedTuple):
    """Some edges as columns [W, _COLUMN] and their residuals; and a destination's sums."""

    columns: npt.NDArray[np.float64]
    residuals: npt.NDArray[np.float64]
    squares: npt.NDArray[np.float64]
    sums: npt.NDArray[np.float64]


@compiled
def _sum_edges(edges, first, last, sources, guess, scratch):  # type: ignore[no-untyped-def]
    """Add some edges' q q^T, its lower half, to squares, and their (e - p . q) q to sums.

    Where edges have weights, whose roots `edges` holds, both q and e are multiplied by the root.

    The rows of some edges at a time are transposed, so that each sum is a dot product of two
    columns: a long loop that only reads, instead of many short loops that write.
    """
    columns, residuals, squares, sums = scratch
    width, most = columns.shape
    for start in range(first, last, most):
        count = min(most, last - start)
        for k in range(count):
            row = sources[edges.neighbours[start + k]]
            for c in range(width):
                columns[c, k] = row[c]
        for k in range(count):
            residuals[k] = edges.ratings[start + k]
        if len(edges.weights):
            for k in range(count):
                root = edges.weights[start + k]
                residuals[k] *= root
                for c in range(width):
                    columns[c, k] *= root
        for a in range(width):
            factor, column = guess[a], columns[a]
            for k in range(count):
                residuals[k] -= factor * column[k]
        for a in range(width):
            column, total = columns[a], 0.0
            for k in range(count):
                total += column[k] * residuals[k]
            sums[a] += total
            for c in range(a + 1):
                other, total = columns[c], 0.0
                for k in range(count):
                    total += column[k] * other[k]
                squares[a, c] += total


@compiled
def _factorise(squares, lower):  # type: ignore[no-untyped-def]
    """The Cholesky factor of `squares`, of which only the lower half is read."""
    width = len(squares)
    for a in range(width):
        for c in range(a + 1):
            total = squares[a, c]
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
def _fit(edges, sources, guess, damping, out, factors, low, high):  # type: ignore[no-untyped-def]
    width = guess.shape[1]
    scratch = _Scratch(
        np.empty((width, _COLUMN)), np.empty(_COLUMN), np.empty((width, width)), np.empty(width)
    )
    squares, sums, solved = scratch.squares, scratch.sums, np.empty(width)
    for d in range(low, high):
        squares[:] = 0
        sums[:] = 0
        for a in range(width):
            squares[a, a] = damping[a]
        _sum_edges(edges, edges.offsets[d], edges.offsets[d + 1], sources, guess[d], scratch)
        _factorise(squares, factors[d])
        _substitute(factors[d], sums, solved)
        for c in range(width):
            out[d, c] = solved[c]


@compiled
def _fit_back(edges, sources, fitted, solved, gradients, low, high):  # type: ignore[no-untyped-def]
    """The module's equations: `fitted` holds w, `solved` z, of each destination."""
    offsets, neighbours, ratings, weights = edges
    zero = fitted.dtype.type(0)
    width = fitted.shape[1]
    for d in range(low, high):
        w, z, of_guess = fitted[d], solved[d], gradients.guess[d]
        of_guess[:] = 0
        for k in range(offsets[d], offsets[d + 1]):
            row, of_source = sources[neighbours[k]], gradients.sources[neighbours[k]]
            residual, along = zero, zero
            for c in range(width):
                residual += row[c] * w[c]
            residual = ratings[k] - residual
            for c in range(width):
                along += row[c] * z[c]
            if len(weights):
                gradients.weights[k] = residual * along
                residual *= weights[k]
                along *= weights[k]
            for c in range(width):
                of_source[c] += residual * z[c] - along * w[c]
            for c in range(width):
                of_guess[c] -= along * row[c]
