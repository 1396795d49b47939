"""Graph filters against dense powers of the matrix, values and gradients."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dglrec.derived import WeightedAdjacency
from dglrec.nn import GraphFilterConv, shifts

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def random_edges(size, share, seed):
    generator = np.random.default_rng(seed)
    matrix = generator.normal(size=(size, size)).astype(np.float32)
    matrix[generator.random(matrix.shape) > share] = 0
    return torch.from_numpy(matrix), WeightedAdjacency.of_matrix(matrix).edges()


@given(
    st.integers(1, 12),
    st.floats(0, 0.6),
    st.integers(1, 5),
    st.lists(st.integers(1, 3), max_size=2),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_a_filter_is_a_polynomial_of_the_matrix(size, share, taps, between, seed):
    """With an A that is not symmetric, and any dimensions between nodes and features."""
    matrix, edges = random_edges(size, share, seed)
    torch.manual_seed(seed)
    conv = GraphFilterConv(3, 4, taps)
    values = torch.randn(size, *between, 3, requires_grad=True)
    out = conv(edges, values)
    by_tap = conv.weights.weight.view(4, taps, 3)
    expected = sum(
        torch.einsum(
            "nm,m...f,gf->n...g", torch.linalg.matrix_power(matrix, k), values, by_tap[:, k]
        )
        for k in range(taps)
    )
    expected = expected + conv.weights.bias
    torch.testing.assert_close(out, expected, **CLOSE)
    weights = torch.randn_like(out)
    leaves = [values, conv.weights.weight, conv.weights.bias]
    found = torch.autograd.grad((out * weights).sum(), leaves)
    wanted = torch.autograd.grad((expected * weights).sum(), leaves)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def test_a_node_reads_as_far_as_there_are_taps():
    """On a path 0 - 1 - 2 - ... node 0 hears of node k from tap k on."""
    path = np.diag(np.ones(5), 1)
    edges = WeightedAdjacency.of_matrix(path + path.T).edges()
    found = shifts(edges, torch.eye(6), 4)
    assert found.shape == (6, 4, 6)
    assert [int(found[0, : k + 1].sum(0).count_nonzero()) for k in range(4)] == [1, 2, 3, 4]
    assert found[0, 2].tolist() == [1, 0, 1, 0, 0, 0]


def test_what_does_not_fit_is_refused():
    _, edges = random_edges(4, 0.5, 0)
    with pytest.raises(ValueError, match="values of 3 nodes, and the graph has 4"):
        shifts(edges, torch.zeros(3, 1), 2)
    with pytest.raises(ValueError, match="taps 0"):
        shifts(edges, torch.zeros(4, 1), 0)
    with pytest.raises(RuntimeError):
        shifts(type(edges)(edges.offsets, edges.neighbours + 4, edges.weights), torch.ones(4, 1), 2)
