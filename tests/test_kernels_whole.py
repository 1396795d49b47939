"""What is left of a whole graph's edges, held against plain Python."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dglrec.kernels import kept_edges


def drawn(seed, nodes, others, edges, wide):
    """Edges of nodes, with codes, biases and the numbers that the edges have elsewhere."""
    rng = np.random.default_rng(seed)
    owners = np.sort(rng.integers(0, nodes, edges))
    offsets = np.concatenate(([0], np.bincount(owners, minlength=nodes).cumsum()))
    codes = rng.integers(0, 40_000 if wide else 5, edges)
    levels = np.linspace(1, 5, 40_000 if wide else 5, dtype=np.float32)
    arrays = {
        "offsets": offsets.astype(np.int64),
        "neighbours": rng.integers(0, others, edges).astype(np.int32),
        "codes": codes.astype(np.uint16).view(np.int16) if wide else codes.astype(np.uint8),
        "levels": levels,
    }
    biases = (rng.normal(size=count).astype(np.float32) for count in (nodes, others))
    tensors = {name: torch.from_numpy(one) for name, one in arrays.items()}
    return tensors, (*map(torch.from_numpy, biases), 3.2), rng, (owners, codes)


@given(st.integers(0, 10_000), st.integers(1, 9), st.integers(0, 60), st.booleans())
@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize("numbered", [True, False])
def test_is_each_edge_that_is_kept_in_order(numbered, seed, nodes, edges, wide):
    tensors, biases, rng, (owners, codes) = drawn(seed, nodes, 7, edges, wide)
    keep = torch.from_numpy(rng.random(edges) < 0.6)
    numbers = torch.from_numpy(rng.permutation(edges).astype(np.int32)) if numbered else None
    offsets, ends, residuals = kept_edges(*tensors.values(), biases, keep, numbers)
    counts, expected = np.zeros(nodes, dtype=int), []
    own, others, mean = biases
    for place, owner in enumerate(owners):
        if not keep[place if numbers is None else numbers[place]]:
            continue
        counts[owner] += 1
        other = tensors["neighbours"][place]
        rating = tensors["levels"][int(codes[place])]
        # In this order in float32: to the bit.
        expected.append((int(other), float(rating - ((own[owner] + others[other]) + mean))))
    assert offsets.diff().tolist() == counts.tolist() and int(offsets[0]) == 0
    assert list(zip(ends.tolist(), residuals.tolist(), strict=True)) == expected


def test_without_marks_all_are_left():
    tensors, biases, _, _ = drawn(3, 5, 7, 40, wide=False)
    every = torch.ones(40, dtype=torch.bool)
    for one, other in zip(
        kept_edges(*tensors.values(), biases),
        kept_edges(*tensors.values(), biases, every),
        strict=True,
    ):
        assert torch.equal(one, other)


def test_what_does_not_fit_together_is_refused():
    tensors, biases, _, _ = drawn(3, 5, 7, 40, wide=False)
    with pytest.raises(ValueError, match="5 nodes end at 40"):
        kept_edges(*tensors.values(), biases, torch.ones(39, dtype=torch.bool))
    with pytest.raises(ValueError, match="4 biases"):
        kept_edges(*tensors.values(), (biases[0][:4], *biases[1:]))
