"""The compiled loops of `attention.py`: they go over stretches of destinations, or of sources.

Arrays are as there, with a dimension for the heads, so that inner loops begin at 0 and vectorise:
rows [S, A, F], attention and bias [A, F], scores, weights and products [K, A], own, out and
gradient [D, A, F]. One loop does one thing: where it does several, little of it is vectorised.
"""

import numpy as np

from dglrec.kernels.parallel import compiled

SLOPE = 0.2
"""Of LeakyReLU, as the authors of GAT and of GATv2 have it."""

_CHUNK = 256  # destinations whose rows are read again while they are at hand


@compiled
def _fetch(offsets, neighbours, rows, low, high):  # type: ignore[no-untyped-def]
    """Have the rows of some edges brought near: many at once, as nothing else is to be done.

    What it gives means nothing; without it the compiler would see that nothing is read.
    """
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
def _add_scores(  # type: ignore[no-untyped-def]
    offsets, neighbours, of_sources, of_own, scores, base, low, high
):
    """GAT's scores of edges: what their ends add up to, through LeakyReLU."""
    slope, zero = scores.dtype.type(SLOPE), scores.dtype.type(0)
    for d in range(low, high):
        for k in range(offsets[d], offsets[d + 1]):
            s = neighbours[k]
            for a in range(scores.shape[1]):
                score = of_sources[s, a] + of_own[d, a]
                scores[k - base, a] = slope * score if score < zero else score


@compiled
def _score_jointly(  # type: ignore[no-untyped-def]
    offsets, neighbours, rows, attention, own, scores, low, high
):
    """GATv2's scores of edges."""
    heads, size = attention.shape
    slope, zero = rows.dtype.type(SLOPE), rows.dtype.type(0)
    for d in range(low, high):
        mine = own[d]
        for k in range(offsets[d], offsets[d + 1]):
            row = rows[neighbours[k]]
            for a in range(heads):
                score = zero
                for f in range(size):
                    both = row[a, f] + mine[a, f]
                    score += attention[a, f] * (slope * both if both < zero else both)
                scores[k, a] = score


@compiled
def _soften(  # type: ignore[no-untyped-def]
    offsets, present, weights, largest, shares, base, low, high
):
    """Scores of each destination's edges, in place, to weights that are 1 in sum.

    What is not there weighs 0. Each head's largest score is taken off, so that nothing overflows;
    the weight of a score is exp(score - largest) * share.
    """
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
            gone = masked and present[k] == 0
            for a in range(heads):
                weight = zero if gone else np.exp(weights[k - base, a] - largest[d, a])
                shares[d, a] += weight
                weights[k - base, a] = weight
        for a in range(heads):
            shares[d, a] = 1 / shares[d, a] if shares[d, a] != zero else zero
        for k in range(first, last):
            for a in range(heads):
                weights[k - base, a] *= shares[d, a]


@compiled
def _sum_weighed(  # type: ignore[no-untyped-def]
    offsets, neighbours, rows, weights, bias, out, base, low, high
):
    """The bias, and on top of it the rows of each destination's edges by their weights."""
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
def attend_rows(  # type: ignore[no-untyped-def]
    offsets, neighbours, present, rows, of_sources, of_own, bias, largest, shares, out, low, high
):
    """What GAT's attention makes of each destination's edges; weights last as long as a chunk."""
    fetched, most = rows.dtype.type(0), 0
    for first in range(low, high, _CHUNK):
        most = max(most, offsets[min(first + _CHUNK, high)] - offsets[first])
    weights = np.empty((most, shares.shape[1]), dtype=rows.dtype)
    for first in range(low, high, _CHUNK):
        base, last = offsets[first], min(first + _CHUNK, high)
        fetched += _fetch(offsets, neighbours, rows, first, last)
        _add_scores(offsets, neighbours, of_sources, of_own, weights, base, first, last)
        _soften(offsets, present, weights, largest, shares, base, first, last)
        _sum_weighed(offsets, neighbours, rows, weights, bias, out, base, first, last)
    return fetched


@compiled
def attend_rows_jointly(  # type: ignore[no-untyped-def]
    offsets,
    neighbours,
    present,
    rows,
    attention,
    own,
    bias,
    largest,
    shares,
    weights,
    out,
    low,
    high,
):
    """Weights of GATv2's attention, and what they make of each destination's edges."""
    fetched = rows.dtype.type(0)
    for first in range(low, high, _CHUNK):
        last = min(first + _CHUNK, high)
        fetched += _fetch(offsets, neighbours, rows, first, last)
        _score_jointly(offsets, neighbours, rows, attention, own, weights, first, last)
        _soften(offsets, present, weights, largest, shares, 0, first, last)
        _sum_weighed(offsets, neighbours, rows, weights, bias, out, 0, first, last)
    return fetched


@compiled
def dot_heads(left, right, less, out, low, high):  # type: ignore[no-untyped-def]
    """Products of the gradient with the result less what was added to it, [D, A]."""
    for d in range(low, high):
        for a in range(out.shape[1]):
            total = left.dtype.type(0)
            for f in range(left.shape[2]):
                total += left[d, a, f] * (right[d, a, f] - less[a, f])
            out[d, a] = total


@compiled
def sum_edges(offsets, of_edges, out, low, high):  # type: ignore[no-untyped-def]
    """What belongs to a destination's edges, summed, [D, A]."""
    for d in range(low, high):
        for a in range(out.shape[1]):
            out[d, a] = 0
        for k in range(offsets[d], offsets[d + 1]):
            for a in range(out.shape[1]):
                out[d, a] += of_edges[k, a]


@compiled
def attend_back(  # type: ignore[no-untyped-def]
    starts,
    destinations,
    places,
    present,
    rows,
    attention,
    of_sources,
    terms,
    gradient,
    of_edges,
    of_rows,
    of_attention,
    low,
    high,
):
    """Gradients of rows, of edges' scores and of the attention, source by source.

    A destination's `terms`, [D, 4, A], are what it adds to scores, the largest of these, the share,
    and the product of its gradient with its result.
    """
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
def joint_scores_back(  # type: ignore[no-untyped-def]
    offsets,
    neighbours,
    rows,
    attention,
    own,
    weights,
    gradient,
    along,
    of_edges,
    of_own,
    of_attention,
    low,
    high,
):
    """Gradients of edges' scores, of destinations and of the attention."""
    heads, size = attention.shape
    slope, zero, one = rows.dtype.type(SLOPE), rows.dtype.type(0), rows.dtype.type(1)
    for d in range(low, high):
        mine, upstream, total = own[d], gradient[d], of_own[d]
        total[:, :] = 0
        for k in range(offsets[d], offsets[d + 1]):
            row = rows[neighbours[k]]
            for a in range(heads):
                dot = zero
                for f in range(size):
                    dot += upstream[a, f] * row[a, f]
                back = weights[k, a] * (dot - along[d, a])
                of_edges[k, a] = back
                # One array written in each inner loop, or it does not vectorise.
                for f in range(size):
                    both = row[a, f] + mine[a, f]
                    total[a, f] += back * attention[a, f] * (slope if both < zero else one)
                for f in range(size):
                    both = row[a, f] + mine[a, f]
                    of_attention[a, f] += back * (slope * both if both < zero else both)


@compiled
def joint_rows_back(  # type: ignore[no-untyped-def]
    starts,
    destinations,
    places,
    rows,
    attention,
    own,
    weights,
    gradient,
    of_edges,
    of_rows,
    low,
    high,
):
    """Gradients of rows, source by source, those of edges' scores being known."""
    heads, size = attention.shape
    slope, zero, one = rows.dtype.type(SLOPE), rows.dtype.type(0), rows.dtype.type(1)
    for s in range(low, high):
        row, total = rows[s], of_rows[s]
        total[:, :] = 0
        for at in range(starts[s], starts[s + 1]):
            d, k = destinations[at], places[at]
            upstream, mine = gradient[d], own[d]
            for a in range(heads):
                weight, back = weights[k, a], of_edges[k, a]
                for f in range(size):
                    both = row[a, f] + mine[a, f]
                    of_score = back * attention[a, f] * (slope if both < zero else one)
                    total[a, f] += weight * upstream[a, f] + of_score
