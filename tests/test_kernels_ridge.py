"""A ridge regression a node: its values, its gradients, and both routes to them."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dglrec.kernels import fit_ridge, parallel, ridge

EXACT = {"rtol": 1e-9, "atol": 1e-9}


@pytest.fixture(params=["compiled", "anywhere"])
def route(request):
    """What a CPU does, and what a GPU does."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "anywhere":
            patch.setattr(ridge, "_fit_compiled", ridge._fit_anywhere)
            patch.setattr(ridge, "_back_compiled", ridge._back_anywhere)
            patch.setattr(ridge, "_CHUNK", 3)  # edges of a node fall into several chunks,
            patch.setattr(ridge, "_CHUNKS_AT_ONCE", 2)  # on both sides of a stretch
        yield request.param


def case(counts, num_sources, width, seed=0, dtype=torch.float64, index=torch.int64):
    """Arguments of `fit_ridge` for destinations of so many edges each."""
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    counts = torch.tensor(counts, dtype=torch.int64)
    edges = int(counts.sum())
    return (
        torch.cat((counts.new_zeros(1), counts.cumsum(0))),
        torch.randint(max(num_sources, 1), (edges,), generator=generator).to(index),
        randn(num_sources, width),
        randn(len(counts), width),
        randn(edges),
        randn(width).exp(),
    )


def plain(offsets, neighbours, sources, guess, ratings, damping):
    """Destination by destination, with torch's own gradients."""
    out = []
    for d, (first, last) in enumerate(itertools.pairwise(offsets.tolist())):
        rows = sources[neighbours[first:last].long()]
        left = ratings[first:last] - rows @ guess[d]
        out.append(torch.linalg.solve(rows.T @ rows + damping.diag(), rows.T @ left))
    return torch.stack(out) if out else guess


def with_gradients(function, arguments, seed=5):
    """The result, and what of a random gradient of it comes to sources, guess and damping."""
    offsets, neighbours, sources, guess, ratings, damping = arguments
    leaves = [one.detach().clone().requires_grad_() for one in (sources, guess, damping)]
    out = function(offsets, neighbours, leaves[0], leaves[1], ratings, leaves[2])
    upstream = torch.randn(
        out.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    return [out.detach(), *torch.autograd.grad(out, leaves, upstream.to(out.dtype))]


def assert_same(found, expected, **tolerance):
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, **tolerance)


@pytest.mark.parametrize("index", [torch.int32, torch.int64])
@pytest.mark.parametrize("width", [1, 4, 16])
def test_values_and_gradients_are_torchs(width, index, route):
    arguments = case([3, 0, 1, 12, 0, 40, 2], 9, width, index=index)
    expected = with_gradients(plain, arguments)
    assert expected[0][5].abs().max() > 1e-2
    assert_same(with_gradients(fit_ridge, arguments), expected, **EXACT)


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=8),
    st.integers(1, 6),
    st.integers(1, 5),
    st.integers(0, 2**16),
)
@settings(max_examples=60, deadline=None)
def test_of_any_shape_they_are_torchs(counts, num_sources, width, seed):
    arguments = case(counts, num_sources, width, seed)
    expected = with_gradients(plain, arguments)
    assert_same(with_gradients(fit_ridge, arguments), expected, rtol=1e-7, atol=1e-7)


def test_no_other_change_of_the_guess_explains_the_ratings_better():
    offsets, neighbours, sources, guess, ratings, damping = case([30, 2, 7], 12, 4)
    delta = fit_ridge(offsets, neighbours, sources, guess, ratings, damping)
    owners = torch.repeat_interleave(offsets.diff())

    def loss(delta):
        left = ratings - ((guess + delta)[owners] * sources[neighbours]).sum(1)
        return left.square().sum() + (damping * delta.square()).sum()

    for seed in range(20):
        away = torch.randn(delta.shape, generator=torch.Generator().manual_seed(seed)).double()
        assert loss(delta) < loss(delta + 1e-3 * away)


def test_gradcheck(route):
    offsets, neighbours, sources, guess, ratings, damping = case([2, 0, 5], 4, 3)
    leaves = [one.requires_grad_() for one in (sources, guess, damping)]

    def fitted(sources, guess, damping):
        return fit_ridge(offsets, neighbours, sources, guess, ratings, damping)

    assert torch.autograd.gradcheck(fitted, leaves)


def test_a_destination_without_edges_stays_at_its_guess(route):
    """And pulls at nothing, be there other edges or none."""
    for counts in ([0, 4, 0], [0, 0, 0]):
        arguments = case(counts, 5, 3)
        found, of_sources, of_guess, of_damping = with_gradients(fit_ridge, arguments)
        assert not found[[0, 2]].any() and not of_guess[[0, 2]].any()
        assert of_sources.any() == of_damping.any() == (counts[1] > 0)


@pytest.mark.parametrize("counts", [[], [0], [0, 0]])
def test_no_sources_and_no_destinations(counts, route):
    arguments = case(counts, 0, 3)
    found, of_sources, of_guess, of_damping = with_gradients(fit_ridge, arguments)
    assert found.shape == of_guess.shape == (len(counts), 3)
    assert of_sources.shape == (0, 3)
    assert not found.any() and not of_damping.any()


def test_much_damping_keeps_the_guess_and_hardly_any_explains_the_ratings(route):
    offsets, neighbours, sources, guess, ratings, damping = case([3], 8, 5)
    neighbours = torch.tensor([0, 3, 5])
    arguments = offsets, neighbours, sources, guess, ratings
    assert fit_ridge(*arguments, 1e12 * damping).abs().max() < 1e-9
    near = guess + fit_ridge(*arguments, 1e-9 * damping)
    torch.testing.assert_close(sources[neighbours] @ near[0], ratings, rtol=0, atol=1e-5)


def test_ratings_get_no_gradient(route):
    offsets, neighbours, sources, guess, ratings, damping = case([3, 2], 4, 3)
    ratings.requires_grad_()
    out = fit_ridge(offsets, neighbours, sources.requires_grad_(), guess, ratings, damping)
    out.sum().backward()
    assert ratings.grad is None and sources.grad.any()
    assert not fit_ridge(
        offsets, neighbours, sources.detach(), guess, ratings, damping
    ).requires_grad


def test_inputs_may_lie_anyhow_and_stay_as_they_are(route):
    """A damping for all columns is expanded, and of other tensors some are parts of larger ones."""
    offsets, neighbours, sources, guess, ratings, _ = case([4, 0, 9], 6, 3)
    damping = torch.tensor([2.0], dtype=torch.float64).expand(3)
    expected = with_gradients(plain, (offsets, neighbours, sources, guess, ratings, damping))
    turned = sources.T.contiguous().T, torch.stack((guess, guess), 2)[:, :, 1]
    spread = torch.stack((ratings, ratings), 1)[:, 0]
    arguments = offsets, neighbours, *turned, spread, damping
    before = [one.clone() for one in arguments]
    assert_same(with_gradients(fit_ridge, arguments), expected, **EXACT)
    assert all(torch.equal(one, other) for one, other in zip(arguments, before, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_short_floats_count_as_float32(dtype, route):
    arguments = case([5, 0, 9], 6, 4, dtype=dtype)
    expected = plain(*(one.double() if one.is_floating_point() else one for one in arguments))
    found, *gradients = with_gradients(fit_ridge, arguments)
    assert found.dtype == torch.float32
    assert {one.dtype for one in gradients} == {dtype}
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-3)


def test_threads_change_the_result_by_rounding_alone_and_repeat_to_the_bit(monkeypatch):
    counts = np.random.default_rng(0).integers(0, 20, 50).tolist()
    arguments = case(counts, 12, 6)
    alone = with_gradients(fit_ridge, arguments)
    monkeypatch.setattr(parallel, "SMALL", 1)
    monkeypatch.setattr(parallel.torch, "get_num_threads", lambda: 3)
    assert len(ridge._parts(arguments[0].numpy(), arguments[2])) > 1
    several = with_gradients(fit_ridge, arguments)
    assert_same(several, alone, **EXACT)
    assert torch.equal(several[0], alone[0])  # each destination is one thread's
    again = with_gradients(fit_ridge, arguments)
    assert all(torch.equal(one, other) for one, other in zip(several, again, strict=True))


def test_what_is_not_finite_stays_with_its_destination(route):
    """So that training can say that a loss is no number, whatever computes it."""
    offsets, neighbours, sources, guess, ratings, damping = case([2, 3], 5, 3)
    neighbours = torch.tensor([0, 1, 2, 3, 4])
    expected = fit_ridge(offsets, neighbours, sources, guess, ratings, damping)
    for table, row in ((sources, 4), (guess, 1), (ratings, 4)):
        kept = table[row].clone()
        table[row] = torch.nan
        found = fit_ridge(offsets, neighbours, sources, guess, ratings, damping)
        assert found[1].isnan().all()
        torch.testing.assert_close(found[0], expected[0])
        table[row] = kept


@pytest.mark.parametrize("edges", [300, 3_000])
def test_a_node_of_many_edges_whose_sources_span_less_than_all_columns(edges, route):
    """As where embeddings are narrower than the refinement: only the damping fills the rest."""
    generator = torch.Generator().manual_seed(0)
    narrow = 1 + torch.randn(edges, 4, generator=generator)
    sources = narrow @ torch.randn(4, 12, generator=generator)
    offsets, _, _, guess, ratings, _ = case([edges], 1, 12, dtype=torch.float32)
    arguments = offsets, torch.arange(edges), sources, guess, ratings, torch.ones(12)
    expected = plain(*(one.double() if one.is_floating_point() else one for one in arguments))
    found = fit_ridge(*arguments).double()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "change",
    [
        {"sources": torch.zeros(4, 2)},
        {"guess": torch.zeros(2, 2)},
        {"guess": torch.zeros(3, 3)},
        {"ratings": torch.zeros(4)},
        {"damping": torch.zeros(1)},
        {"neighbours": torch.tensor([0, 1, 2, 3, 4])},
        {"neighbours": torch.tensor([0, 1, -1, 3, 3])},
        {"neighbours": torch.tensor([0, 1, 2, 3, 3, 3])},
        {"offsets": torch.tensor([0, 2, 4])},
        {"offsets": torch.tensor([0, 2, 6])},
        {"offsets": torch.tensor([0, 2])},
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(change):
    arguments = {
        "offsets": torch.tensor([0, 2, 5]),
        "neighbours": torch.tensor([0, 1, 2, 3, 3]),
        "sources": torch.zeros(4, 3),
        "guess": torch.zeros(2, 3),
        "ratings": torch.zeros(5),
        "damping": torch.ones(3),
    }
    assert fit_ridge(**arguments).shape == (2, 3)
    with pytest.raises(ValueError, match="do not fit"):
        fit_ridge(**{**arguments, **change})


def with_weights(arguments, weights, function):
    """The result, and what of a random gradient comes to sources, guess, damping and weights."""
    offsets, neighbours, sources, guess, ratings, damping = arguments
    leaves = [one.detach().clone().requires_grad_() for one in (sources, guess, damping, weights)]
    out = function(offsets, neighbours, leaves[0], leaves[1], ratings, *leaves[2:])
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(3)).to(out.dtype)
    return [out.detach(), *torch.autograd.grad(out, leaves, upstream)]


def plain_weighed(offsets, neighbours, sources, guess, ratings, damping, weights):
    out = []
    for d, (first, last) in enumerate(itertools.pairwise(offsets.tolist())):
        rows, of_edges = sources[neighbours[first:last].long()], weights[first:last]
        left = of_edges * (ratings[first:last] - rows @ guess[d])
        squares = rows.T @ (of_edges.unsqueeze(1) * rows) + damping.diag()
        out.append(torch.linalg.solve(squares, rows.T @ left))
    return torch.stack(out)


def fit_weighed(*arguments):
    return fit_ridge(*arguments[:6], weights=arguments[6])


@pytest.mark.parametrize("counts", [[3, 0, 1, 12, 40, 2], [0, 5], [70]])
def test_weights_and_their_gradients_are_torchs(counts, route):
    arguments = case(counts, 9, 4)
    weights = torch.rand(sum(counts), generator=torch.Generator().manual_seed(1)).double()
    weights[::5] = 0  # an edge that weighs nothing has a gradient all the same
    expected = with_weights(arguments, weights, plain_weighed)
    assert expected[4][::5].abs().max() > 1e-3
    assert_same(with_weights(arguments, weights, fit_weighed), expected, rtol=1e-7, atol=1e-7)


def test_weights_of_one_are_none_to_the_bit(route):
    arguments = case([3, 0, 17], 9, 4, dtype=torch.float32)
    expected = with_gradients(fit_ridge, arguments)
    found = with_weights(arguments, torch.ones(20), fit_weighed)
    assert torch.equal(found[0], expected[0])


def test_a_weight_of_two_is_an_edge_twice(route):
    offsets, neighbours, sources, guess, ratings, damping = case([4], 9, 3)
    once = fit_ridge(
        offsets,
        neighbours,
        sources,
        guess,
        ratings,
        damping,
        weights=torch.tensor([1.0, 2.0, 1.0, 1.0]).double(),
    )
    twice = torch.tensor([0, 1, 1, 2, 3])
    again = fit_ridge(
        torch.tensor([0, 5]), neighbours[twice], sources, guess, ratings[twice], damping
    )
    torch.testing.assert_close(once, again)


def test_weights_that_do_not_fit_are_refused():
    arguments = case([4], 9, 3)
    with pytest.raises(ValueError, match="3 weights of 4 edges"):
        fit_ridge(*arguments, weights=torch.ones(3))
    with pytest.raises(ValueError, match="or weights with present"):
        fit_ridge(*arguments, torch.ones(4), torch.ones(4))
