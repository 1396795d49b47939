"""The compiled kernels do what plain torch does: values, gradients, NaN, any shape and thread."""

import itertools
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from dglrec import kernels
from dglrec.kernels import (
    ItemLists,
    Terms,
    Tiles,
    merge_lists,
    parallel,
    pick_largest,
    rank_items,
    score_edges,
    sum_messages,
)
from dglrec.kernels import edges as edges_module

EXACT = {"rtol": 0, "atol": 1e-12}  # of float64 sums of some hundred numbers
CLOSE = {"rtol": 1e-4, "atol": 1e-4}
ROOT = Path(kernels.__file__).parents[2]
FEW_SOURCES, MANY_SOURCES = (7, 40), (40, 7)  # (S, D): the gradient is scattered, gathered


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def make_edges(num_sources, num_destinations, edges, index=torch.int64, seed=0):
    """Offsets and neighbours; a third of the destinations have no edges."""
    generator = np.random.default_rng(seed)
    ends = generator.choice(
        np.arange(num_destinations)[:: 3 if num_destinations > 2 else 1], size=edges
    )
    ends[ends % 2 == 1] -= 1
    counts = torch.from_numpy(np.bincount(ends, minlength=num_destinations))
    offsets = torch.cat((torch.zeros(1, dtype=torch.int64), counts.cumsum(0)))
    return offsets, torch.from_numpy(generator.integers(num_sources, size=edges)).to(index)


def plain_sums(offsets, neighbours, sources, weights=None, *, mean=False):
    """Each edge's row written out and added to its destination."""
    rows = sources[neighbours.long()]
    if weights is not None:
        rows = rows * weights.to(rows.dtype).unsqueeze(1)
    ends = torch.repeat_interleave(torch.arange(len(offsets) - 1), offsets.diff())
    out = torch.zeros(len(offsets) - 1, sources.shape[1], dtype=sources.dtype)
    out = out.index_add(0, ends, rows)
    return out / offsets.diff().clamp(min=1).unsqueeze(1) if mean else out


def plain_scores(users, items, hidden, weights, factors):
    users, items = users.long(), items.long()
    out = functional.relu(hidden[0][users] + hidden[1][items]) @ weights
    return out if factors is None else out + (factors[0][users] * factors[1][items]).sum(1)


def gradients(function, leaves, seed=9):
    """The result, and the gradient of each leaf for a random gradient of the result."""
    leaves = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    out = function(*leaves)
    out.backward(randn(*out.shape, seed=seed, dtype=out.dtype))
    return out.detach(), [leaf.grad for leaf in leaves]


def assert_same(one, other, **tolerance):
    torch.testing.assert_close(one[0], other[0], equal_nan=True, **tolerance)
    for a, b in zip(one[1], other[1], strict=True):
        torch.testing.assert_close(a, b, equal_nan=True, **tolerance)


def make_pairs(num_users=6, num_items=9, edges=50, index=torch.int64, seed=0):
    generator = np.random.default_rng(seed)
    users = torch.from_numpy(generator.integers(num_users, size=edges))
    return users, torch.from_numpy(generator.integers(num_items, size=edges)).to(index)


def make_tables(hidden, factors, num_users=6, num_items=9, dtype=torch.float64):
    """a, c, w and, unless factors is None, p and q."""
    tables = [
        randn(num_users, hidden, seed=1, dtype=dtype),
        randn(num_items, hidden, seed=2, dtype=dtype),
        randn(hidden, seed=3, dtype=dtype),
    ]
    if factors is not None:
        tables.append(randn(num_users, factors, seed=4, dtype=dtype))
        tables.append(randn(num_items, factors, seed=5, dtype=dtype))
    return tables


def scoring(function, users, items):
    """The function of its tables alone: a, c, w and perhaps p, q."""

    def of_tables(a, c, w, *factors):
        return function(users, items, (a, c), w, factors or None)

    return of_tables


@contextmanager
def threads(count):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.fixture
def strategy_seen(monkeypatch):
    """The names of the ways in which gradients of sums were computed."""
    seen = []

    def noting(name, function):
        def noted(*arguments):
            seen.append(name)
            return function(*arguments)

        monkeypatch.setattr(edges_module, name, noted)

    for name in ("_scatter", "_gather"):
        noting(name, getattr(edges_module, name))
    return seen


# --- sums ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1, 3, 16, 50])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("index", [torch.int32, torch.int64])
@pytest.mark.parametrize("shape", [FEW_SOURCES, MANY_SOURCES, (12, 12)], ids=str)
def test_sums_and_their_gradients_are_torchs(shape, index, mean, weighted, width):
    offsets, neighbours = make_edges(*shape, 130, index)
    assert (offsets.diff() == 0).any()
    weights = randn(130, seed=2) if weighted else None
    sources = randn(shape[0], width, seed=1)

    def summed(function):
        return lambda s: function(offsets, neighbours, s, weights, mean=mean)

    found = gradients(summed(sum_messages), [sources])
    assert_same(found, gradients(summed(plain_sums), [sources]), **EXACT)
    # Nothing to train below: another way to the same sums.
    torch.testing.assert_close(summed(sum_messages)(sources), found[0], **EXACT)
    with torch.no_grad():
        unrecorded = summed(sum_messages)(sources.requires_grad_())
    assert not unrecorded.requires_grad
    torch.testing.assert_close(unrecorded, found[0], **EXACT)


@pytest.mark.parametrize("shape", [FEW_SOURCES, MANY_SOURCES], ids=str)
def test_both_ways_to_the_gradient_are_taken_and_are_float32(shape, strategy_seen):
    offsets, neighbours = make_edges(*shape, 70)
    weights, sources = randn(70, dtype=torch.float32), randn(shape[0], 5, dtype=torch.float32)
    _, (found,) = gradients(lambda s: sum_messages(offsets, neighbours, s, weights), [sources])
    assert strategy_seen == ["_scatter" if shape == FEW_SOURCES else "_gather"]
    assert found.dtype == torch.float32
    _, (expected,) = gradients(lambda s: plain_sums(offsets, neighbours, s, weights), [sources])
    torch.testing.assert_close(found, expected, **CLOSE)


def turned_edges(offsets, neighbours, sources):
    """The same edges by source, with numpy."""
    destinations = np.repeat(np.arange(len(offsets) - 1), offsets.diff().numpy())
    order = np.argsort(neighbours.numpy(), kind="stable")
    counts = np.bincount(neighbours.numpy(), minlength=sources)
    starts = torch.from_numpy(np.concatenate([[0], np.cumsum(counts)]))
    return starts, torch.from_numpy(destinations[order]).to(neighbours.dtype)


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("index", [torch.int32, torch.int64])
@pytest.mark.parametrize("shape", [FEW_SOURCES, MANY_SOURCES, (12, 12)], ids=str)
def test_turned_edges_give_the_same_gradient(shape, index, mean, strategy_seen):
    offsets, neighbours = make_edges(*shape, 130, index)
    sources = randn(shape[0], 7, seed=1)
    turned = turned_edges(offsets, neighbours, shape[0])
    found = gradients(
        lambda s: sum_messages(offsets, neighbours, s, mean=mean, turned=turned), [sources]
    )
    assert not strategy_seen  # neither of the ways that do without
    expected = gradients(lambda s: plain_sums(offsets, neighbours, s, None, mean=mean), [sources])
    assert_same(found, expected, **EXACT)


def test_turned_edges_that_are_others_are_refused():
    offsets, neighbours = make_edges(6, 9, 40, torch.int32)
    sources = randn(6, 2).requires_grad_()
    starts, destinations = turned_edges(offsets, neighbours, 6)
    beyond = destinations.clone()
    beyond[3] = 9
    short = starts.clone()
    short[-1] = 39
    for turned, error in [
        ((starts, destinations[:-1]), ValueError),
        ((starts[:-1], destinations), ValueError),
        ((short, destinations), ValueError),
        ((starts, beyond), (IndexError, RuntimeError)),
    ]:
        with pytest.raises(error):
            sum_messages(offsets, neighbours, sources, turned=turned).sum().backward()
    with pytest.raises(ValueError, match="turned edges take no weights"):
        sum_messages(offsets, neighbours, sources, randn(40), turned=(starts, destinations))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("shape", [FEW_SOURCES, MANY_SOURCES], ids=str)
def test_gradcheck_of_sums(shape, mean, weighted):
    offsets, neighbours = make_edges(*shape, 60, torch.int32)
    weights = randn(60) if weighted else None
    sources = randn(shape[0], 2).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda s: sum_messages(offsets, neighbours, s, weights, mean=mean), (sources,)
    )


@pytest.mark.parametrize(
    ("num_sources", "num_destinations"), [(4, 6), (6, 4), (0, 3), (0, 0), (3, 0)]
)
@pytest.mark.parametrize("width", [0, 3])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("mean", [False, True])
def test_no_edges_at_all(num_sources, num_destinations, width, mean, weighted):
    offsets = torch.zeros(num_destinations + 1, dtype=torch.int64)
    neighbours = torch.empty(0, dtype=torch.int32)
    weights = torch.empty(0, dtype=torch.float64) if weighted else None
    sources = randn(num_sources, width)
    out, (gradient,) = gradients(
        lambda s: sum_messages(offsets, neighbours, s, weights, mean=mean), [sources]
    )
    assert torch.equal(out, torch.zeros(num_destinations, width, dtype=torch.float64))
    assert torch.equal(gradient, torch.zeros(num_sources, width, dtype=torch.float64))


@pytest.mark.parametrize("shape", [(1, 30), (30, 1)], ids=str)
def test_one_node_with_all_edges(shape):
    offsets, neighbours = make_edges(*shape, 500)
    sources = randn(shape[0], 3)
    assert_same(
        gradients(lambda s: sum_messages(offsets, neighbours, s), [sources]),
        gradients(lambda s: plain_sums(offsets, neighbours, s), [sources]),
        rtol=1e-12,
        atol=1e-11,
    )


@pytest.mark.parametrize("shape", [FEW_SOURCES, MANY_SOURCES], ids=str)
def test_sums_of_inputs_that_do_not_lie_in_a_row(shape):
    offsets, neighbours = make_edges(*shape, 90)
    weights, sources = randn(90), randn(shape[0], 5)
    spread_neighbours = neighbours.repeat_interleave(2)[::2]
    spread_weights = weights.repeat_interleave(3)[::3]
    spread_sources = sources.t().contiguous().t()
    spread_offsets = offsets.repeat_interleave(2)[::2]
    for part in (spread_neighbours, spread_weights, spread_sources, spread_offsets):
        assert not part.is_contiguous()
    spread_sources.requires_grad_()
    out = sum_messages(spread_offsets, spread_neighbours, spread_sources, spread_weights)
    gradient = randn(shape[1], 10)[:, ::2]
    out.backward(gradient)
    sources.requires_grad_()
    expected = plain_sums(offsets, neighbours, sources, weights)
    expected.backward(gradient)
    torch.testing.assert_close(out, expected, **EXACT)
    torch.testing.assert_close(spread_sources.grad, sources.grad, **EXACT)
    # Nor does the gradient: that of a sum is one number, stretched.
    spread_sources.grad = sources.grad = None
    sum_messages(spread_offsets, spread_neighbours, spread_sources, spread_weights).sum().backward()
    plain_sums(offsets, neighbours, sources, weights).sum().backward()
    torch.testing.assert_close(spread_sources.grad, sources.grad, **EXACT)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [FEW_SOURCES, MANY_SOURCES], ids=str)
def test_what_is_not_finite_goes_through_the_sums_as_in_torch(shape, weighted):
    offsets, neighbours = make_edges(*shape, 60)
    weights = randn(60) if weighted else None
    sources = randn(shape[0], 3)
    sources[0, 0], sources[1, 1], sources[2, 2] = torch.nan, torch.inf, -torch.inf
    upstream = randn(shape[1], 3)
    upstream[0, 0], upstream[3, 1], upstream[6 % shape[1], 2] = torch.nan, torch.inf, -torch.inf
    found, expected = (
        (function(offsets, neighbours, leaf, weights), leaf)
        for function, leaf in (
            (sum_messages, sources.clone().requires_grad_()),
            (plain_sums, sources.clone().requires_grad_()),
        )
    )
    for out, _ in (found, expected):
        out.backward(upstream)
    for one, other in ((found[0], expected[0]), (found[1].grad, expected[1].grad)):
        assert not other.isfinite().all() and other.isfinite().any()
        torch.testing.assert_close(one, other, equal_nan=True, **EXACT)


@pytest.mark.parametrize("wanted", [True, False])
def test_no_gradient_reaches_the_factors_of_edges(wanted):
    offsets, neighbours = make_edges(*FEW_SOURCES, 60)
    weights = randn(60).requires_grad_()
    sources = randn(7, 3).requires_grad_(wanted)
    out = sum_messages(offsets, neighbours, sources, weights)
    assert out.requires_grad == wanted
    if wanted:
        out.sum().backward()
    assert weights.grad is None


def test_sums_leave_their_inputs_alone():
    offsets, neighbours = make_edges(*MANY_SOURCES, 60)
    weights, sources = randn(60), randn(40, 3)
    before = [tensor.clone() for tensor in (offsets, neighbours, weights, sources)]
    gradients(lambda s: sum_messages(offsets, neighbours, s, weights), [sources])
    for tensor, copy in zip((offsets, neighbours, weights, sources), before, strict=True):
        assert torch.equal(tensor, copy)


def test_sums_chain_with_other_operations_and_may_be_taken_twice():
    """Gradients of two sums over the same sources add up."""
    offsets, neighbours = make_edges(*FEW_SOURCES, 60)
    weights = randn(60)

    def twice(function):
        def of_sources(s):
            mapped = s.tanh()
            bare = function(offsets, neighbours, mapped)
            return bare.relu() + 2 * function(offsets, neighbours, mapped, weights)

        return of_sources

    sources = randn(7, 4)
    assert_same(
        gradients(twice(sum_messages), [sources]), gradients(twice(plain_sums), [sources]), **EXACT
    )


@st.composite
def random_blocks(draw):
    num_sources, num_destinations = draw(st.integers(1, 9)), draw(st.integers(0, 9))
    counts = draw(st.lists(st.integers(0, 6), min_size=num_destinations, max_size=num_destinations))
    index = draw(st.sampled_from([torch.int32, torch.int64]))
    seed = draw(st.integers(0, 2**31))
    offsets = torch.tensor([0, *np.cumsum(counts).tolist()])
    neighbours = torch.from_numpy(
        np.random.default_rng(seed).integers(num_sources, size=sum(counts))
    ).to(index)
    weights = randn(sum(counts), seed=seed) if draw(st.booleans()) else None
    sources = randn(num_sources, draw(st.integers(0, 5)), seed=seed + 1)
    return offsets, neighbours, sources, weights


@given(random_blocks(), st.booleans())
@settings(max_examples=150, deadline=None)
def test_sums_and_means_over_any_block(block, mean):
    offsets, neighbours, sources, weights = block
    assert_same(
        gradients(lambda s: sum_messages(offsets, neighbours, s, weights, mean=mean), [sources]),
        gradients(lambda s: plain_sums(offsets, neighbours, s, weights, mean=mean), [sources]),
        **EXACT,
    )


# --- scores --------------------------------------------------------------------------------------


@pytest.mark.parametrize("factors", [None, 0, 1, 3, 50])
@pytest.mark.parametrize("hidden", [0, 1, 3, 16, 50])
@pytest.mark.parametrize("index", [torch.int32, torch.int64])
def test_scores_and_their_gradients_are_torchs(index, hidden, factors):
    users, items = make_pairs(index=index)
    tables = make_tables(hidden, factors)
    assert_same(
        gradients(scoring(score_edges, users, items), tables),
        gradients(scoring(plain_scores, users, items), tables),
        **EXACT,
    )


@pytest.mark.parametrize("factors", [None, 3])
def test_scores_are_float32_and_close(factors):
    users, items = make_pairs(edges=300)
    tables = make_tables(20, factors, dtype=torch.float32)
    found = gradients(scoring(score_edges, users, items), tables)
    assert {t.dtype for t in (found[0], *found[1])} == {torch.float32}
    double = [table.double() for table in tables]
    out, of_tables = gradients(scoring(plain_scores, users, items), double)
    torch.testing.assert_close(found[0].double(), out, **CLOSE)
    upstream = randn(300, seed=9, dtype=torch.float32)  # not the same numbers as in float64
    leaves = [table.requires_grad_() for table in double]
    scoring(plain_scores, users, items)(*leaves).backward(upstream.double())
    for one, leaf in zip(found[1], leaves, strict=True):
        torch.testing.assert_close(one.double(), leaf.grad, **CLOSE)
    assert len(of_tables) == len(leaves)


@pytest.mark.parametrize("factors", [None, 2])
def test_gradcheck_of_scores(factors):
    users, items = make_pairs(edges=30, index=torch.int32)
    tables = [table.requires_grad_() for table in make_tables(3, factors)]
    assert torch.autograd.gradcheck(scoring(score_edges, users, items), tables)


def test_one_edge_and_none():
    tables = make_tables(4, 2)
    for count in (0, 1):
        users, items = make_pairs(edges=count)
        found = gradients(scoring(score_edges, users, items), tables)
        assert found[0].shape == (count,)
        assert_same(found, gradients(scoring(plain_scores, users, items), tables), **EXACT)


def test_known_scores():
    hidden = torch.tensor([[1.0, -2.0], [0.0, 1.0]]), torch.tensor([[1.0, 1.0]])
    weights = torch.tensor([2.0, 10.0])
    users, items = torch.tensor([0, 1]), torch.tensor([0, 0])
    assert score_edges(users, items, hidden, weights, None).tolist() == [4, 22]
    factors = torch.tensor([[3.0], [5.0]]), torch.tensor([[-7.0]])
    assert score_edges(users, items, hidden, weights, factors).tolist() == [4 - 21, 22 - 35]


def test_a_sum_of_exactly_zero_passes_no_gradient():
    """As in torch: relu's gradient at 0 is 0."""
    one = torch.zeros(1, dtype=torch.int64)
    tables = [torch.ones(1, 2), -torch.ones(1, 2), torch.ones(2)]
    _, found = gradients(scoring(score_edges, one, one), tables)
    assert all(torch.equal(gradient, torch.zeros_like(gradient)) for gradient in found)


@pytest.mark.parametrize("frozen", range(5))
def test_frozen_tables_get_no_gradient_and_the_others_theirs(frozen):
    users, items = make_pairs()
    _, expected = gradients(scoring(plain_scores, users, items), make_tables(3, 2))
    tables = [t.requires_grad_(number != frozen) for number, t in enumerate(make_tables(3, 2))]
    out = scoring(score_edges, users, items)(*tables)
    out.backward(randn(50, seed=9))
    for number, (table, gradient) in enumerate(zip(tables, expected, strict=True)):
        if number == frozen:
            assert table.grad is None
        else:
            torch.testing.assert_close(table.grad, gradient, **EXACT)


def test_all_frozen_needs_no_gradient():
    users, items = make_pairs()
    assert not scoring(score_edges, users, items)(*make_tables(3, 2)).requires_grad
    with torch.no_grad():
        tables = [table.requires_grad_() for table in make_tables(3, 2)]
        assert not scoring(score_edges, users, items)(*tables).requires_grad


def test_scores_of_inputs_that_do_not_lie_in_a_row():
    users, items = make_pairs()
    tables = make_tables(6, 4)
    spread = [
        table.t().contiguous().t() if table.ndim == 2 else table.repeat_interleave(2)[::2]
        for table in tables
    ]
    assert not any(table.is_contiguous() for table in spread)
    leaves = [table.requires_grad_() for table in spread]
    far = users.repeat_interleave(2)[::2], items.repeat_interleave(2)[::2]
    scoring(score_edges, *far)(*leaves).backward(randn(100, seed=9)[::2])
    others = [table.requires_grad_() for table in tables]
    scoring(plain_scores, users, items)(*others).backward(randn(100, seed=9)[::2])
    for one, other in zip(leaves, others, strict=True):
        torch.testing.assert_close(one.grad, other.grad, **EXACT)
    for leaf in (*leaves, *others):
        leaf.grad = None
    scoring(score_edges, *far)(*leaves).sum().backward()  # one number, stretched
    scoring(plain_scores, users, items)(*others).sum().backward()
    for one, other in zip(leaves, others, strict=True):
        torch.testing.assert_close(one.grad, other.grad, **EXACT)


NOT_FINITE = [torch.nan, torch.inf, -torch.inf]


@pytest.mark.parametrize("value", NOT_FINITE, ids=str)
@pytest.mark.parametrize("table", range(5))
def test_what_is_not_finite_reaches_the_scores_that_torch_says(table, value):
    users, items = make_pairs()
    tables = make_tables(3, 2)
    tables[table].view(-1)[1] = value
    found = scoring(score_edges, users, items)(*tables)
    expected = scoring(plain_scores, users, items)(*tables)
    if table != 2 and not (value == -torch.inf and table < 2):  # w reaches all; relu(-inf) is 0
        assert not expected.isfinite().all() and expected.isfinite().any()
    torch.testing.assert_close(found, expected, equal_nan=True, **EXACT)


@pytest.mark.parametrize("value", NOT_FINITE, ids=str)
@pytest.mark.parametrize("table", range(5))
def test_what_is_not_finite_reaches_the_gradients_that_torch_says(table, value):
    users, items = make_pairs()
    tables = make_tables(3, 2)
    tables[table].view(-1)[1] = value
    assert_same(
        gradients(scoring(score_edges, users, items), tables),
        gradients(scoring(plain_scores, users, items), tables),
        **EXACT,
    )


def test_scores_leave_their_inputs_alone():
    users, items = make_pairs()
    inputs = [users, items, *make_tables(3, 2)]
    before = [tensor.clone() for tensor in inputs]
    leaves = [table.requires_grad_() for table in inputs[2:]]
    scoring(score_edges, users, items)(*leaves).sum().backward()
    assert all(torch.equal(a, b) for a, b in zip(inputs, before, strict=True))


@given(
    st.tuples(*[st.integers(1, 5)] * 2),
    st.integers(0, 20),
    st.integers(0, 6),
    st.none() | st.integers(0, 6),
    st.integers(0, 2**31),
)
@settings(max_examples=100, deadline=None)
def test_scores_of_any_edges(sizes, edges, hidden, factors, seed):
    users, items = make_pairs(*sizes, edges, seed=seed)
    tables = make_tables(hidden, factors, *sizes)
    assert_same(
        gradients(scoring(score_edges, users, items), tables),
        gradients(scoring(plain_scores, users, items), tables),
        **EXACT,
    )


@pytest.mark.parametrize("end", ["users", "items"])
@pytest.mark.parametrize("off", [-1, 0])
def test_a_row_that_no_table_has_is_refused(end, off):
    """As by torch, which raises; compiled code reads, and in the gradient writes, past the end."""
    users, items = make_pairs()
    wrong = users if end == "users" else items
    wrong[3] = -1 if off else (6 if end == "users" else 9)
    with pytest.raises((IndexError, RuntimeError)):
        scoring(score_edges, users, items)(*make_tables(3, 2))


@pytest.mark.parametrize("device", ["meta"])
def test_on_other_devices_torch_does_it(device):
    """Shapes only; the same operations serve a GPU."""
    offsets, neighbours = make_edges(*MANY_SOURCES, 60)
    tables = [table.to(device) for table in make_tables(3, 2)]
    users, items = (ends.to(device) for ends in make_pairs())
    assert scoring(score_edges, users, items)(*tables).shape == (50,)
    assert scoring(score_edges, users, items)(*tables[:3]).device.type == device
    sums = sum_messages(offsets.to(device), neighbours.to(device), randn(40, 3).to(device))
    assert sums.shape == (7, 3)


# --- the best of a catalogue ---------------------------------------------------------------------


def lists_of(rows):
    """Rows of items, ascending, one after the other."""
    return ItemLists(
        np.cumsum([0, *map(len, rows)], dtype=np.int64),
        np.array([item for row in rows for item in row], dtype=np.int32),
    )


def rows_of(lists):
    ends = lists.offsets.tolist()
    return [lists.items[low:high].tolist() for low, high in itertools.pairwise(ends)]


class Catalogue:
    """Users and items to be ranked; some items have no place in the catalogue.

    Args:
        places: I, how many items the catalogue has.
        users: n.
        hidden: D.
        factors: F.
        spread: numbers are whole and at most this, so that sums are exact and scores are often
            equal; None for any numbers.
        left_out: the share of its items that a user's list names.
        others: how many items have no place.
    """

    def __init__(self, places, users, hidden, factors, spread=None, left_out=0.2, others=0, seed=0):
        generator = np.random.default_rng(seed)

        def draw(*shape):
            if spread is None:
                return generator.normal(size=shape).astype(np.float32)
            return generator.integers(-spread, spread + 1, size=shape).astype(np.float32)

        self.items = Terms(draw(places, hidden), draw(places, factors), draw(places))
        self.users = Terms(draw(users, hidden), draw(users, factors), draw(users))
        self.weights = draw(hidden)
        chosen = generator.permutation(places + others)[:places]
        chosen.sort()
        self.positions = np.full(places + others, -1, dtype=np.int32)
        self.positions[chosen] = np.arange(places, dtype=np.int32)
        everything = np.arange(places + others)
        named = [everything[generator.random(len(everything)) < left_out] for _ in range(users + 2)]
        self.lists = lists_of(named)
        self.rows = generator.integers(0, users + 2, users)  # two may share a list

    def rank(self, k, users=None):
        """The best k of all users, or of some."""
        some = slice(None) if users is None else users
        return rank_items(
            Tiles.of(self.items),
            self.weights,
            Terms(*(table[some] for table in self.users)),
            self.lists,
            self.rows[some],
            self.positions,
            k,
        )

    def scores(self):
        """float64 [n, I] from the definition; -inf for what is left out."""
        (a, p, of_users), (c, q, of_items) = (
            [table.astype(np.float64) for table in terms] for terms in (self.users, self.items)
        )
        hidden = np.maximum(a[:, None] + c[None], 0) @ self.weights.astype(np.float64)
        scores = hidden + p @ q.T + of_users[:, None] + of_items
        for user, row in enumerate(self.rows):
            places = self.positions[self.lists.items[slice(*self.lists.offsets[row : row + 2])]]
            scores[user, places[places >= 0]] = -np.inf
        return scores

    def check(self, k):
        """The best k are those of sorting all scores, equal ones in the catalogue's order."""
        found, places = self.rank(k)
        expected = self.scores()
        order = np.argsort(-expected, axis=1, kind="stable")[:, :k]
        expected = np.take_along_axis(expected, order, axis=1)
        assert found.shape == places.shape == order.shape
        assert (found.dtype, places.dtype) == (np.float32, np.int32)
        np.testing.assert_array_equal(found, expected.astype(np.float32))
        np.testing.assert_array_equal(places[expected > -np.inf], order[expected > -np.inf])


@st.composite
def catalogues(draw):
    """Small and odd shapes, of one to three tiles."""
    places = draw(st.integers(1, 40) | st.sampled_from([479, 480, 481, 959, 960, 1100]))
    few = places > 40
    catalogue = Catalogue(
        places,
        draw(st.integers(0, 9)),
        draw(st.integers(0, 5 if few else 20)),
        draw(st.integers(0, 5 if few else 20)),
        draw(st.sampled_from([0, 1, 3, 20])),
        draw(st.sampled_from([0, 0.1, 0.5, 0.97, 1])),
        draw(st.sampled_from([0, 1, 30])),
        draw(st.integers(0, 2**31)),
    )
    return catalogue, draw(st.sampled_from([1, places]) | st.integers(1, places))


@given(catalogues(), st.integers(1, 3))
@settings(max_examples=150, deadline=None)
def test_the_best_of_any_catalogue_are_those_of_sorting_it(catalogue_and_k, count):
    catalogue, k = catalogue_and_k
    with threads(count), pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel, "SMALL", 1)
        catalogue.check(k)


@pytest.mark.parametrize("users", [1, 127, 128, 129, 300])
def test_as_many_users_as_pass_a_tile_together_and_one_more(users):
    Catalogue(500, users, 3, 2, spread=3, others=9).check(20)


def test_of_equal_scores_the_first_places_stay():
    """All of a catalogue of three tiles are equal, but for a few."""
    catalogue = Catalogue(1000, 5, 2, 1, spread=0, left_out=0)
    catalogue.items.base[[3, 470, 480, 999]] = [-1, 2, 1, 2]
    scores, places = catalogue.rank(7)
    assert places.tolist() == [[470, 999, 480, 0, 1, 2, 4]] * 5
    assert scores.tolist() == [[2, 2, 1, 0, 0, 0, 0]] * 5


@pytest.mark.parametrize("order", [1, -1], ids=["rising", "falling"])
@pytest.mark.parametrize("k", [1, 2, 31, 32, 33, 480, 700])
def test_scores_that_rise_or_fall_along_the_catalogue(order, k):
    """Each item pushes another out, or none does."""
    catalogue = Catalogue(700, 2, 0, 0, left_out=0)
    catalogue.users.base[:] = 0
    catalogue.items.base[:] = order * np.arange(700)
    scores, places = catalogue.rank(k)
    expected = np.arange(700)[::-order][:k]
    assert places.tolist() == [expected.tolist()] * 2
    assert scores.tolist() == [(order * expected).tolist()] * 2


def test_nothing_is_left_where_all_is_left_out():
    catalogue = Catalogue(600, 6, 3, 2, left_out=1, others=5)
    scores, places = catalogue.rank(600)
    assert np.all(scores == -np.inf)
    assert np.all((places >= 0) & (places < 600))


def test_no_user_and_an_empty_catalogue():
    nobody = Catalogue(10, 0, 3, 2)
    assert [part.shape for part in nobody.rank(4)] == [(0, 4), (0, 4)]
    nothing = Catalogue(0, 3, 3, 2, others=4)
    assert [part.shape for part in nothing.rank(0)] == [(3, 0), (3, 0)]


@pytest.mark.parametrize(("hidden", "factors"), [(1, 0), (7, 3), (20, 20), (64, 64)])
def test_scores_of_any_numbers_are_close(hidden, factors):
    catalogue = Catalogue(700, 20, hidden, factors, others=50)
    scores, places = catalogue.rank(30)
    expected = catalogue.scores()
    at_places = np.take_along_axis(expected, places.astype(np.int64), axis=1)
    np.testing.assert_allclose(scores, at_places, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(scores, -np.sort(-expected, axis=1)[:, :30], rtol=1e-4, atol=1e-4)
    assert np.all(np.diff(scores, axis=1) <= 0)


@pytest.mark.parametrize(("hidden", "factors"), [(1, 0), (7, 3), (20, 20), (64, 64)])
def test_threads_do_not_change_what_is_best_by_a_bit(hidden, factors, monkeypatch):
    monkeypatch.setattr(parallel, "SMALL", 1)
    catalogue = Catalogue(700, 150, hidden, factors)
    with threads(1):
        scores, places = catalogue.rank(25)
    for count in (2, 3, 4):
        with threads(count):
            found = catalogue.rank(25)
        assert np.array_equal(found[0], scores) and np.array_equal(found[1], places)


@pytest.mark.parametrize(("hidden", "factors"), [(1, 0), (7, 3), (20, 20), (64, 64)])
def test_who_stands_beside_a_user_does_not_change_its_best_by_a_bit(hidden, factors):
    catalogue = Catalogue(500, 37, hidden, factors)
    scores, places = catalogue.rank(25)
    generator = np.random.default_rng(0)
    for size in (*range(1, 12), 36):
        some = generator.permutation(37)[:size]
        found = catalogue.rank(25, some)
        assert np.array_equal(found[1], places[some])
        assert np.array_equal(found[0], scores[some])


def test_ranking_leaves_its_inputs_alone():
    catalogue = Catalogue(500, 7, 5, 3, others=4)
    arrays = [
        *catalogue.items,
        *catalogue.users,
        *catalogue.lists,
        catalogue.weights,
        catalogue.rows,
        catalogue.positions,
    ]
    before = [array.copy() for array in arrays]
    catalogue.rank(5)
    assert all(np.array_equal(one, other) for one, other in zip(arrays, before, strict=True))


ITEM_ROWS = st.lists(st.lists(st.integers(0, 20), max_size=6).map(sorted), min_size=4, max_size=4)


@given(st.lists(ITEM_ROWS, min_size=1, max_size=4), st.integers(1, 3))
@settings(max_examples=100, deadline=None)
def test_merged_lists_hold_all_of_each_row_ascending(parts, count):
    with threads(count), pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel, "SMALL", 1)
        merged = merge_lists([lists_of(rows) for rows in parts])
    expected = [sorted(itertools.chain(*rows)) for rows in zip(*parts, strict=True)]
    assert rows_of(merged) == expected
    assert (merged.offsets.dtype, merged.items.dtype) == (np.int64, np.int32)


def test_lists_of_no_rows_merge_to_none():
    merged = merge_lists([lists_of([]), lists_of([])])
    assert merged.offsets.tolist() == [0] and merged.items.tolist() == []


@given(
    st.lists(st.integers(0, 6), max_size=5),
    st.integers(0, 3),
    st.integers(1, 5),
    st.integers(0, 2**31),
)
@settings(max_examples=100, deadline=None)
def test_the_largest_of_each_stretch_are_those_of_sorting_it(counts, columns, wanted, seed):
    """Small whole numbers, so that many are equal; what is not above 0 is none of them."""
    offsets = np.cumsum([0, *counts], dtype=np.int64)
    values = np.random.default_rng(seed).integers(-2, 4, (sum(counts), columns)).astype(np.float32)
    rows, largest = pick_largest(offsets, values, wanted)
    assert rows.shape == largest.shape == (len(counts), columns, wanted)
    for stretch, (low, high) in enumerate(itertools.pairwise(offsets.tolist())):
        for column in range(columns):
            positive = [row for row in range(low, high) if values[row, column] > 0]
            best = sorted(positive, key=lambda row: (-values[row, column], row))[:wanted]
            missing = wanted - len(best)
            assert rows[stretch, column].tolist() == best + [-1] * missing
            assert largest[stretch, column].tolist() == [
                *(float(values[row, column]) for row in best),
                *[0.0] * missing,
            ]


# --- threads -------------------------------------------------------------------------------------


def many_edges(num_sources, num_destinations):
    """Enough for four threads; one destination has a third of the edges, many have none."""
    generator = np.random.default_rng(0)
    edges = 4 * parallel.SMALL // 16 + 77
    ends = generator.integers(num_destinations, size=edges) // 2 * 2
    ends[: edges // 3] = min(10, num_destinations - 1)
    counts = torch.from_numpy(np.bincount(ends, minlength=num_destinations))
    offsets = torch.cat((torch.zeros(1, dtype=torch.int64), counts.cumsum(0)))
    return offsets, torch.from_numpy(generator.integers(num_sources, size=edges))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(30, 500), (50_000, 30), (1, 3), (3, 1)], ids=str)
def test_threads_change_sums_by_rounding_alone_and_repeat_to_the_bit(
    shape, weighted, strategy_seen
):
    offsets, neighbours = many_edges(*shape)
    weights = randn(len(neighbours)) if weighted else None
    sources = randn(shape[0], 16)
    expected = gradients(lambda s: plain_sums(offsets, neighbours, s, weights), [sources])
    for count in (1, 2, 3, 4):
        with threads(count):
            found, again = (
                gradients(lambda s: sum_messages(offsets, neighbours, s, weights), [sources])
                for _ in range(2)
            )
        assert_same(found, expected, rtol=1e-9, atol=1e-9)
        assert torch.equal(found[0], again[0])
        assert torch.equal(found[1][0], again[1][0])
    assert set(strategy_seen) == {"_gather" if shape[0] == 50_000 else "_scatter"}


def test_threads_change_scores_by_rounding_alone_and_repeat_to_the_bit():
    """Edges of several threads share nodes, whose gradients must not be lost or raced for."""
    users, items = make_pairs(5, 7, 4 * parallel.SMALL // 24 + 77)
    tables = make_tables(16, 8, 5, 7)
    expected = gradients(scoring(plain_scores, users, items), tables)
    for count in (1, 2, 3, 4):
        with threads(count):
            found, again = (gradients(scoring(score_edges, users, items), tables) for _ in range(2))
        assert_same(found, expected, rtol=1e-9, atol=1e-9)
        assert torch.equal(found[0], again[0])
        assert all(torch.equal(one, other) for one, other in zip(found[1], again[1], strict=True))


@pytest.mark.parametrize("count", [2, 3, 4])
def test_work_is_cut_into_stretches_that_miss_nothing(count):
    with threads(count):
        for number in (0, 1, 2, 1000, 10**6 + 1):
            parts = parallel.parts_of(number, 10**9)
            assert len(parts) == count
            assert parts[0][0] == 0 and parts[-1][1] == number
            assert all(a[1] == b[0] for a, b in itertools.pairwise(parts))
            assert max(b - a for a, b in parts) - min(b - a for a, b in parts) <= 1
        assert parallel.parts_of(10, 10) == [(0, 10)]  # too little for a second thread


def test_a_failing_thread_is_heard_of():
    def fail():
        raise ZeroDivisionError

    with threads(2), pytest.raises(ZeroDivisionError):
        kernels.run_side_by_side([lambda: None, fail])


# --- less than 32 bits ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_short_floats_are_summed_as_float32(dtype):
    offsets, neighbours = make_edges(*MANY_SOURCES, 60)
    sources, weights = randn(40, 3).to(dtype).requires_grad_(), randn(60)
    out = sum_messages(offsets, neighbours, sources, weights)
    assert out.dtype == torch.float32
    assert torch.equal(out, sum_messages(offsets, neighbours, sources.detach().float(), weights))
    # Nor does any other device round the weights to the sources' type.
    elsewhere = (one.to("meta") for one in (offsets, neighbours, sources, weights))
    assert sum_messages(*elsewhere).dtype == torch.float32
    out.sum().backward()
    assert sources.grad.dtype == dtype and sources.grad.isfinite().all() and sources.grad.any()
    users, items = make_pairs()
    tables = [table.float() for table in make_tables(3, 2)]
    mixed = [tables[0].to(dtype), tables[1].to(dtype), tables[2], *tables[3:]]
    expected = scoring(score_edges, users, items)(*(table.float() for table in mixed))
    assert torch.equal(scoring(score_edges, users, items)(*mixed), expected)


# --- what does not fit together ------------------------------------------------------------------


@pytest.mark.parametrize("which", ["users", "a", "c", "w", "q", "q rows", "type"])
def test_tables_that_do_not_fit_are_refused(which):
    users, items = make_pairs()
    a, c, w, p, q = make_tables(3, 2)
    if which == "users":
        users = users[:-1]
    elif which == "type":
        c = c.float()
    elif which == "q rows":
        q = q[:-1]
    else:
        a, c, w, p, q = (
            table[..., :-1] if which == name else table
            for name, table in zip("acwpq", (a, c, w, p, q), strict=True)
        )
    with pytest.raises(ValueError, match="do not fit together"):
        score_edges(users, items, (a, c), w, (p, q))


def test_edges_that_do_not_fit_are_refused():
    offsets, neighbours = make_edges(*FEW_SOURCES, 60)
    sources = randn(7, 3).requires_grad_()
    for bad in ((offsets, neighbours[:-1], None), (offsets, neighbours, randn(59))):
        with pytest.raises(ValueError, match="offsets end at 60"):
            sum_messages(bad[0], bad[1], sources, bad[2])


def test_no_more_threads_than_their_tables_are_worth(monkeypatch):
    monkeypatch.setattr(parallel.torch, "get_num_threads", lambda: 16)
    work = 20 * parallel.SMALL
    assert len(parallel.parts_of(1000, work)) == 16
    assert len(parallel.parts_of(1000, work, work // 4)) == 8
    assert len(parallel.parts_of(1000, work, 10 * work)) == 1


_FORKED = """
import os, sys
import numpy as np, torch
torch.set_num_threads(2)
from dglrec import kernels

def total():
    offsets = np.array([0, 500_000, 1_000_000])
    return kernels.segment_sums(offsets, np.ones(3), np.zeros(1_000_000, dtype=np.int32)).tolist()

assert total() == [500_000.0] * 2
child = os.fork()
if not child:
    os._exit(0 if total() == [500_000.0] * 2 else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_forked_process_has_threads_of_its_own():
    done = subprocess.run([sys.executable, "-c", _FORKED], cwd=ROOT, timeout=60)
    assert done.returncode == 0


@pytest.mark.parametrize("offsets", [[0, 9, 4, 6], [1, 2, 4, 6], [0, 2, 4, 5], [0, 2, 6]])
def test_lists_that_do_not_fit_are_not_merged(offsets):
    whole = ItemLists(np.array([0, 2, 4, 6]), np.arange(6, dtype=np.int32))
    bad = ItemLists(np.array(offsets), np.arange(6, dtype=np.int32))
    for lists in ([whole, bad], [bad, whole]):
        with pytest.raises(ValueError, match="offsets do not fit"):
            merge_lists(lists)


def test_lists_that_name_what_is_not_there_are_not_left_out():
    """Compiled code would read, and write, elsewhere."""
    catalogue = Catalogue(places=20, users=6, hidden=3, factors=2)
    good = catalogue.lists
    catalogue.lists = good._replace(items=np.full_like(good.items, 20))
    with pytest.raises(IndexError, match="unknown"):
        catalogue.rank(3)
    for offsets in (good.offsets + 10**6, good.offsets - 1, good.offsets[::-1].copy()):
        catalogue.lists = good._replace(offsets=offsets)
        with pytest.raises(ValueError, match="do not fit"):
            catalogue.rank(3)
    catalogue.lists, catalogue.rows = good, catalogue.rows + 8
    with pytest.raises(IndexError):
        catalogue.rank(3)
