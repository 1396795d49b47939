"""The compiled loops of `attention.py`: each goes over a range of destinations, or of sources.

Arrays are those of `attention.py` with a dimension for the heads, so that inner loops begin at 0
and vectorise: rows [S, A, F], attention and bias [A, F], scores, weights and products [K, A],
destinations, out and gradient [D, A, F]. Each loop does one thing: the compiler vectorises little
of a loop that does several.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dglrec.kernels.parallel import compiled

SLOPE = 0.2
"""LeakyReLU's negative slope, the value of GAT's and GATv2's authors."""

_CHUNK = 256  # destinations at a time: their edges' rows are still cached when read again


Array = npt.NDArray[Any]


class Edges(NamedTuple):
    """A block's edges by their destinations.

    Attributes:
        offsets: int64 [D + 1].
        neighbours: int32 [K].
        present: float32 [K], 0 for padding; [0] where there is no padding.
    """

    offsets: Array
    neighbours: Array
    present: Array


class TurnedEdges(NamedTuple):
    """The same edges by their sources; see `turned_edges`.

    Attributes:
        starts: int64 [S + 1].
        destinations: int32 [K].
        places: int32 [K].
        present: as in `Edges`, by an edge's place there.
    """

    starts: Array
    destinations: Array
    places: Array
    present: Array


class Norms(NamedTuple):
    """What softmax is made with: a weight is exp(score - largest) * share; [D, A] each."""

    largest: Array
    shares: Array


class JointScores(NamedTuple):
    """What GATv2's scores are made of: rows [S, A, F], attention [A, F], destinations [D, A, F]."""

    rows: Array
    attention: Array
    destinations: Array


class Upstream(NamedTuple):
    """What comes from the result: its gradient, [D, A, F], and what softmax takes off, [D, A]."""

    gradient: Array
    along: Array


class JointGradients(NamedTuple):
    """Gradients of edges' scores [K, A], of destinations [D, A, F] and of attention [A, F]."""

    edges: Array
    destinations: Array
    attention: Array


class Gradients(NamedTuple):
    """Gradients of edges' scores [K, A], of rows [S, A, F] and of attention [A, F]."""

    edges: Array
    rows: Array
    attention: Array


@compiled
def _fetch(edges, rows, low, high):  # type: ignore[no-untyped-def]
    """Read the rows of some destinations' edges into the cache: many at once, and nothing else.

    The result means nothing; without it the compiler would leave the reading out.
    """
    offsets, neighbours, _ = edges
    total = rows.dtype.type(0)
    for k in range(offsets[low], offsets[high]):
        row = rows[neighbours[k]]
        for a in range(row.shape[0]):
            total += row[a, 0]
    return total


@compiled
def score_sources(rows, attention, out, low, high):  # type: ignore[no-untyped-def]
    """Products of the attention with rows, of each source and head, [S, A]."""
    heads, size = attention.shape
    for s in range(low, high):
        for a in range(heads):
            total = rows.dtype.type(0)
            for f in range(size):
                total += attention[a, f] * rows[s, a, f]
            out[s, a] = total


@compiled
def _add_scores(edges, of_sources, of_destinations, scores, base, low, high):  # type: ignore[no-untyped-def]
    """GAT's scores of edges: the sum of their ends' numbers, through LeakyReLU."""
    offsets, neighbours, _ = edges
    slope, zero = scores.dtype.type(SLOPE), scores.dtype.type(0)
    for d in range(low, high):
        for k in range(offsets[d], offsets[d + 1]):
            s = neighbours[k]
            for a in range(scores.shape[1]):
                score = of_sources[s, a] + of_destinations[d, a]
                scores[k - base, a] = slope * score if score < zero else score


@compiled
def _score_jointly(edges, joint, scores, low, high):  # type: ignore[no-untyped-def]
    """GATv2's scores of edges."""
    offsets, neighbours, _ = edges
    rows, attention, destinations = joint
    heads, size = attention.shape
    slope, zero = rows.dtype.type(SLOPE), rows.dtype.type(0)
    for d in range(low, high):
        destination = destinations[d]
        for k in range(offsets[d], offsets[d + 1]):
            row = rows[neighbours[k]]
            for a in range(heads):
                score = zero
                for f in range(size):
                    both = row[a, f] + destination[a, f]
                    score += attention[a, f] * (slope * both if both < zero else both)
                scores[k, a] = score


@compiled
def _soften(edges, weights, norms, base, low, high):  # type: ignore[no-untyped-def]
    """Scores of each destination's edges, in place, to weights whose sum is 1.

    Padding weighs 0. Each head's largest score is subtracted, so that nothing
    overflows.
    """
    offsets, _, present = edges
    largest, shares = norms
    heads = weights.shape[1]
    zero, masked = weights.dtype.type(0), len(present) > 0
    for d in range(low, high):
        first, last = offsets[d], offsets[d + 1]
        for a in range(heads):
            largest[d, a], shares[d, a] = -np.inf, zero
        for k in range(first, last):
            if masked and present[k] == 0:
                continue
            for a in range(heads):
                if not weights[k - base, a] <= largest[d, a]:  # NaN stays
                    largest[d, a] = weights[k - base, a]
        for k in range(first, last):
            absent = masked and present[k] == 0
            for a in range(heads):
                weight = zero if absent else np.exp(weights[k - base, a] - largest[d, a])
                shares[d, a] += weight
                weights[k - base, a] = weight
        for a in range(heads):
            shares[d, a] = 1 / shares[d, a] if shares[d, a] != zero else zero
        for k in range(first, last):
            for a in range(heads):
                weights[k - base, a] *= shares[d, a]


@compiled
def _sum_weighed(edges, rows, weights, bias, out, base, low, high):  # type: ignore[no-untyped-def]
    """The bias, plus the rows of each destination's edges, each times its weight."""
    offsets, neighbours, _ = edges
    heads, size = bias.shape
    for d in range(low, high):
        total = out[d]
        for a in range(heads):
            for f in range(size):
                total[a, f] = bias[a, f]
        for k in range(offsets[d], offsets[d + 1]):
            row = rows[neighbours[k]]
            for a in range(heads):
                weight = weights[k - base, a]
                for f in range(size):
                    total[a, f] += weight * row[a, f]


@compiled
def attend_rows(edges, rows, of_sources, of_destinations, bias, norms, out, low, high):  # type: ignore[no-untyped-def]
    """GAT's weighed sums of destinations `low` to `high`; a chunk's weights are kept no longer."""
    offsets = edges.offsets
    fetched, most = rows.dtype.type(0), 0
    for first in range(low, high, _CHUNK):
        most = max(most, offsets[min(first + _CHUNK, high)] - offsets[first])
    weights = np.empty((most, norms.shares.shape[1]), dtype=rows.dtype)
    for first in range(low, high, _CHUNK):
        base, last = offsets[first], min(first + _CHUNK, high)
        fetched += _fetch(edges, rows, first, last)
        _add_scores(edges, of_sources, of_destinations, weights, base, first, last)
        _soften(edges, weights, norms, base, first, last)
        _sum_weighed(edges, rows, weights, bias, out, base, first, last)
    return fetched


@compiled
def attend_rows_jointly(edges, joint, bias, norms, weights, out, low, high):  # type: ignore[no-untyped-def]
    """Weights of GATv2's attention, and weighed sums, of destinations `low` to `high`."""
    rows = joint.rows
    fetched = rows.dtype.type(0)
    for first in range(low, high, _CHUNK):
        last = min(first + _CHUNK, high)
        fetched += _fetch(edges, rows, first, last)
        _score_jointly(edges, joint, weights, first, last)
        _soften(edges, weights, norms, 0, first, last)
        _sum_weighed(edges, rows, weights, bias, out, 0, first, last)
    return fetched


@compiled
def dot_heads(gradient, summed, bias, out, low, high):  # type: ignore[no-untyped-def]
    """Dot products, head by head, of the gradient with the result less the bias, [D, A]."""
    for d in range(low, high):
        for a in range(out.shape[1]):
            total = gradient.dtype.type(0)
            for f in range(gradient.shape[2]):
                total += gradient[d, a, f] * (summed[d, a, f] - bias[a, f])
            out[d, a] = total


@compiled
def sum_edges(offsets, of_edges, out, low, high):  # type: ignore[no-untyped-def]
    """Sums over each destination's edges, [K, A] -> [D, A]."""
    for d in range(low, high):
        for a in range(out.shape[1]):
            out[d, a] = 0
        for k in range(offsets[d], offsets[d + 1]):
            for a in range(out.shape[1]):
                out[d, a] += of_edges[k, a]


@compiled
def attend_back(turned, rows, attention, of_sources, terms, gradient, out, low, high):  # type: ignore[no-untyped-def]
    """Gradients of rows, of edges' scores and of the attention, source by source.

    A destination's `terms`, [D, 4, A], are: what it adds to scores, the largest of these, the
    share, and the product of its gradient with its result.
    """
    starts, destinations, places, present = turned
    of_edges, of_rows, of_attention = out
    heads, size = attention.shape
    slope, zero, masked = rows.dtype.type(SLOPE), rows.dtype.type(0), len(present) > 0
    of_scores = np.empty(heads, dtype=rows.dtype)
    for s in range(low, high):
        row, total = rows[s], of_rows[s]
        total[:, :] = 0
        of_scores[:] = 0
        for at in range(starts[s], starts[s + 1]):
            d, k = destinations[at], places[at]
            if masked and present[k] == 0:
                of_edges[k, :] = 0
                continue
            upstream, term = gradient[d], terms[d]
            for a in range(heads):
                dot = zero
                for f in range(size):
                    dot += upstream[a, f] * row[a, f]
                score = of_sources[s, a] + term[0, a]
                scale = slope if score < zero else rows.dtype.type(1)
                weight = np.exp(scale * score - term[1, a]) * term[2, a]
                back = scale * weight * (dot - term[3, a])
                of_edges[k, a] = back
                of_scores[a] += back
                for f in range(size):
                    total[a, f] += weight * upstream[a, f]
        for a in range(heads):
            back = of_scores[a]
            for f in range(size):
                total[a, f] += back * attention[a, f]
            for f in range(size):
                of_attention[a, f] += back * row[a, f]


@compiled
def joint_scores_back(edges, joint, weights, upstream, out, low, high):  # type: ignore[no-untyped-def]
    """Gradients of edges' scores, of destinations and of the attention."""
    offsets, neighbours, _ = edges
    rows, attention, destinations = joint
    gradients, along = upstream
    of_edges, of_destinations, of_attention = out
    heads, size = attention.shape
    slope, zero, one = rows.dtype.type(SLOPE), rows.dtype.type(0), rows.dtype.type(1)
    for d in range(low, high):
        destination, gradient, total = destinations[d], gradients[d], of_destinations[d]
        total[:, :] = 0
        for k in range(offsets[d], offsets[d + 1]):
            row = rows[neighbours[k]]
            for a in range(heads):
                dot = zero
                for f in range(size):
                    dot += gradient[a, f] * row[a, f]
                back = weights[k, a] * (dot - along[d, a])
                of_edges[k, a] = back
                # Each inner loop writes one array, or it does not vectorise.
                for f in range(size):
                    both = row[a, f] + destination[a, f]
                    total[a, f] += back * attention[a, f] * (slope if both < zero else one)
                for f in range(size):
                    both = row[a, f] + destination[a, f]
                    of_attention[a, f] += back * (slope * both if both < zero else both)


@compiled
def joint_rows_back(turned, joint, weights, gradients, of_edges, of_rows, low, high):  # type: ignore[no-untyped-def]
    """Gradients of rows, source by source, from those of edges' scores."""
    starts, ends, places, _ = turned
    rows, attention, destinations = joint
    heads, size = attention.shape
    slope, zero, one = rows.dtype.type(SLOPE), rows.dtype.type(0), rows.dtype.type(1)
    for s in range(low, high):
        row, total = rows[s], of_rows[s]
        total[:, :] = 0
        for at in range(starts[s], starts[s + 1]):
            d, k = ends[at], places[at]
            gradient, destination = gradients[d], destinations[d]
            for a in range(heads):
                weight, back = weights[k, a], of_edges[k, a]
                for f in range(size):
                    both = row[a, f] + destination[a, f]
                    of_score = back * attention[a, f] * (slope if both < zero else one)
                    total[a, f] += weight * gradient[a, f] + of_score
