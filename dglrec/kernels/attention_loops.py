"""The compiled loops of `attention.py`: they go over stretches of destinations, or of sources.

Arrays are as there, with a dimension for the heads, so that inner loops begin at 0 and vectorise:
rows [S, A, F], attention [A, F], weights [K, A], own, out and gradient [D, A, F].
"""

import numpy as np

from dglrec.kernels.parallel import compiled

SLOPE = 0.2
"""Of LeakyReLU, as the authors of GAT and of GATv2 have it."""


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
def sum_edges(offsets, of_edges, out, low, high):  # type: ignore[no-untyped-def]
    """What belongs to a destination's edges, summed, [D, A]."""
    for d in range(low, high):
        for a in range(out.shape[1]):
            out[d, a] = 0
        for k in range(offsets[d], offsets[d + 1]):
            for a in range(out.shape[1]):
                out[d, a] += of_edges[k, a]


@compiled
def _weigh(neighbours, present, rows, weights, total, first, last):  # type: ignore[no-untyped-def]
    """Scores of a destination's edges, in place, to weights; and the sum of rows weighed by them.

    What is not there weighs 0. Each head's largest score is taken off, so that nothing overflows.
    """
    heads, size = total.shape
    zero, masked = weights.dtype.type(0), len(present) > 0
    total[:, :] = 0
    for a in range(heads):
        largest = weights.dtype.type(-np.inf)
        for k in range(first, last):
            if not (masked and present[k] == 0):
                score = weights[k, a]
                if not score <= largest:  # NaN stays
                    largest = score
        summed = zero
        for k in range(first, last):
            if masked and present[k] == 0:
                weights[k, a] = zero
            else:
                weights[k, a] = np.exp(weights[k, a] - largest)
                summed += weights[k, a]
        for k in range(first, last):
            if summed > zero or summed != summed:
                weights[k, a] /= summed
    for k in range(first, last):
        if masked and present[k] == 0:
            continue
        row = rows[neighbours[k]]
        for a in range(heads):
            weight = weights[k, a]
            for f in range(size):
                total[a, f] += weight * row[a, f]


@compiled
def attend_rows(  # type: ignore[no-untyped-def]
    offsets, neighbours, present, rows, of_sources, of_own, bias, weights, out, low, high
):
    """Weights of GAT's attention, and what they make of each destination's edges."""
    slope, zero = rows.dtype.type(SLOPE), rows.dtype.type(0)
    for d in range(low, high):
        first, last = offsets[d], offsets[d + 1]
        for k in range(first, last):
            s = neighbours[k]
            for a in range(weights.shape[1]):
                score = of_sources[s, a] + of_own[d, a]
                weights[k, a] = slope * score if score < zero else score
        total = out[d]
        _weigh(neighbours, present, rows, weights, total, first, last)
        for a in range(weights.shape[1]):
            for f in range(total.shape[1]):
                total[a, f] += bias[a, f]
        # What is kept of a weight has the sign of its score.
        for k in range(first, last):
            s = neighbours[k]
            for a in range(weights.shape[1]):
                if of_sources[s, a] + of_own[d, a] < zero:
                    weights[k, a] = -weights[k, a]


@compiled
def attend_back(  # type: ignore[no-untyped-def]
    starts,
    destinations,
    places,
    rows,
    attention,
    weights,
    gradient,
    along,
    of_edges,
    of_rows,
    of_attention,
    low,
    high,
):
    """Gradients of rows, of edges' scores and of the attention, source by source."""
    heads, size = attention.shape
    slope, zero = rows.dtype.type(SLOPE), rows.dtype.type(0)
    of_scores = np.empty(heads, dtype=rows.dtype)
    for s in range(low, high):
        row, total = rows[s], of_rows[s]
        total[:, :] = 0
        of_scores[:] = 0
        for at in range(starts[s], starts[s + 1]):
            d, k = destinations[at], places[at]
            upstream = gradient[d]
            for a in range(heads):
                dot = zero
                for f in range(size):
                    dot += upstream[a, f] * row[a, f]
                weight = abs(weights[k, a])
                back = weight * (dot - along[d, a])
                if weights[k, a] < zero:
                    back *= slope
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
def attend_rows_jointly(  # type: ignore[no-untyped-def]
    offsets, neighbours, present, rows, attention, own, weights, out, low, high
):
    """Weights of GATv2's attention, and what they make of each destination's edges."""
    heads, size = attention.shape
    slope, zero = rows.dtype.type(SLOPE), rows.dtype.type(0)
    for d in range(low, high):
        first, last = offsets[d], offsets[d + 1]
        mine = own[d]
        for k in range(first, last):
            row = rows[neighbours[k]]
            for a in range(heads):
                score = zero
                for f in range(size):
                    both = row[a, f] + mine[a, f]
                    score += attention[a, f] * (slope * both if both < zero else both)
                weights[k, a] = score
        _weigh(neighbours, present, rows, weights, out[d], first, last)


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
