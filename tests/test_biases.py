"""Biases: the ridge solution; and, without some ratings, what a refit of their nodes would give."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dglrec import biases as biases_module
from dglrec.biases import (
    DAMPING,
    Biases,
    Damping,
    NoBiases,
    fit_biases,
    no_biases,
    residuals_of,
)
from dglrec.graph import Adjacency, build_graph, group_by_user
from dglrec.kernels import parallel
from dglrec.schema import INTERACTION_SCALE, RatingScale

SCALE = RatingScale(1, 10)


class Ratings:
    """Random ratings with user and item effects; every fifth user and item has none."""

    def __init__(self, num_users=20, num_items=12, edges=90, seed=0, scale=SCALE):
        generator = np.random.default_rng(seed)
        users, items = (np.arange(n)[np.arange(n) % 5 != 4] for n in (num_users, num_items))
        pairs = generator.choice(len(users) * len(items), edges, replace=False)
        self.users, self.items = users[pairs // len(items)], items[pairs % len(items)]
        middle = (scale.minimum + scale.maximum) / 2
        effect = generator.normal(0, scale.step, num_users)[self.users]
        effect = effect + generator.normal(0, 2 * scale.step, num_items)[self.items]
        values = middle + effect + generator.normal(0, scale.step, edges)
        codes = scale.encode(np.clip(values, scale.minimum, scale.maximum))
        self.ratings = scale.decode(codes).astype(np.float64)
        self.num_users, self.num_items = num_users, num_items
        self.graph = build_graph(
            self.users, self.items, codes, num_users=num_users, num_items=num_items, scale=scale
        )

    def ridge(self, damping):
        """The minimum by least squares: a row for each rating, a row for each damped bias."""
        users, items, edges = self.num_users, self.num_items, len(self.ratings)
        rows = np.zeros((edges + users + items, users + items))
        rows[np.arange(edges), self.users] = 1
        rows[np.arange(edges), users + self.items] = 1
        rows[edges:] = np.diag(np.sqrt(np.repeat(damping, (users, items))))
        centred = np.concatenate([self.ratings - self.ratings.mean(), np.zeros(users + items)])
        solution = np.linalg.lstsq(rows, centred, rcond=None)[0]
        return solution[:users], solution[users:]

    def damped_user_means(self, item_biases, damping, keep):
        """Each user's bias given the items', by the definition, from the ratings to keep."""
        users, items, ratings = self.users[keep], self.items[keep], self.ratings[keep]
        residuals = ratings - self.ratings.mean() - item_biases[items]
        sums = np.bincount(users, residuals, self.num_users)
        return sums / (np.bincount(users, minlength=self.num_users) + damping)

    def damped_item_means(self, user_biases, damping, keep):
        users, items, ratings = self.users[keep], self.items[keep], self.ratings[keep]
        residuals = ratings - self.ratings.mean() - user_biases[users]
        sums = np.bincount(items, residuals, self.num_items)
        return sums / (np.bincount(items, minlength=self.num_items) + damping)

    def left_by(self, biases):
        """What each rating has beyond the biases."""
        users, items = biases.users.double().numpy(), biases.items.double().numpy()
        return self.ratings - self.ratings.mean() - users[self.users] - items[self.items]

    def spread(self, biases, keep=slice(None)):
        """Each user's and each item's `log_spread`, of the ratings to keep."""
        left = self.left_by(biases)[keep]
        return tuple(
            np.array([log_spread(left[ends[keep] == node], biases.variance) for node in range(n)])
            for ends, n in ((self.users, self.num_users), (self.items, self.num_items))
        )

    def take(self, rows):
        """Users, items and ratings of some rows, as `without` wants them."""
        return (
            torch.from_numpy(self.users[rows]),
            torch.from_numpy(self.items[rows]),
            torch.from_numpy(self.ratings[rows]).float(),
        )


def log_spread(left, variance):
    """Of what is left of a node's ratings and of ten more of average spread."""
    ten_more = np.full(10, np.sqrt(variance))
    return np.log(np.sqrt(np.mean(np.concatenate((left, ten_more)) ** 2) / variance))


@pytest.fixture
def converged(monkeypatch):
    """Fit until nothing moves: what is tested is where the fit ends, not how soon it stops."""
    monkeypatch.setattr(biases_module, "_TOLERANCE", 1e-9)
    monkeypatch.setattr(biases_module, "_SWEEPS", 10_000)


def assert_close(found, expected, tolerance):
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=0, atol=tolerance)


@pytest.mark.parametrize("damping", [DAMPING, Damping(2.0, 9.0), Damping(9.0, 2.0), None])
@pytest.mark.parametrize("seed", range(5))
def test_the_fit_is_the_ridge_solution(seed, damping):
    data = Ratings(seed=seed)
    fitted = fit_biases(data.graph, damping)
    users, items = data.ridge(fitted.damping)
    assert (fitted.damping == damping) == (damping is not None)
    assert fitted.mean == pytest.approx(data.ratings.mean(), abs=1e-9)
    assert_close(fitted.users, users, 1e-4)
    assert_close(fitted.items, items, 1e-4)


@pytest.mark.parametrize(
    "damping", [Damping(0.1, 0.1), Damping(1.0, 1.0), Damping(30.0, 30.0), Damping(0.3, 30.0), None]
)
@pytest.mark.parametrize("scale", [RatingScale(0.5, 5, 0.5), RatingScale(0, 400)])
def test_the_fit_converges_to_the_ridge_solution(converged, damping, scale):
    data = Ratings(scale=scale, seed=7)
    fitted = fit_biases(data.graph, damping)
    users, items = data.ridge(fitted.damping)
    assert_close(fitted.users / scale.step, users / scale.step, 1e-5)
    assert_close(fitted.items / scale.step, items / scale.step, 1e-5)


def test_a_dense_larger_graph_stops_near_the_ridge_solution():
    # Many ratings a node make the sweeps converge slowly; the predictions must be right anyway.
    data = Ratings(num_users=100, num_items=60, edges=3000)
    fitted = fit_biases(data.graph)
    users, items = data.ridge(fitted.damping)
    expected = data.ratings.mean() + users[data.users] + items[data.items]
    found = fitted.predict(torch.from_numpy(data.users), torch.from_numpy(data.items))
    assert_close(found, expected, 1e-3)


def test_the_fit_does_not_depend_on_the_number_of_threads(monkeypatch):
    data = Ratings()
    whole = fit_biases(data.graph)
    monkeypatch.setattr(parallel, "SMALL", 4)
    monkeypatch.setattr(parallel.torch, "get_num_threads", lambda: 3)
    cut = fit_biases(data.graph)
    assert torch.equal(cut.users, whole.users)
    assert torch.equal(cut.items, whole.items)


def test_degrees_and_nodes_without_ratings():
    data = Ratings()
    fitted = fit_biases(data.graph)
    assert fitted.user_degrees.tolist() == np.bincount(data.users, minlength=20).tolist()
    assert fitted.item_degrees.tolist() == np.bincount(data.items, minlength=12).tolist()
    assert torch.all(fitted.users[fitted.user_degrees == 0] == 0)
    assert torch.all(fitted.items[fitted.item_degrees == 0] == 0)
    assert {t.dtype for t in (fitted.users, fitted.items, fitted.user_degrees)} == {torch.float32}


def test_more_damping_brings_biases_nearer_to_zero():
    data = Ratings()
    dampings = [Damping(5.0, damping) for damping in (0.5, 5.0, 500.0)]
    sizes = [float(fit_biases(data.graph, damping).items.norm()) for damping in dampings]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < 0.05 * sizes[0]


def test_one_rating_alone():
    graph = build_graph(
        np.array([1]), np.array([0]), np.array([4], np.uint8), num_users=3, num_items=2, scale=SCALE
    )
    fitted = fit_biases(graph)
    assert fitted.mean == 5.0
    assert fitted.users.tolist() == [0, 0, 0]
    left = fitted.without(torch.tensor([1]), torch.tensor([0]), torch.tensor([5.0]))
    assert left.users.tolist() == [0, 0, 0]
    assert left.user_degrees.tolist() == [0, 0, 0]
    assert left.item_degrees.tolist() == [0, 0]


def test_predict_is_the_sum_unclipped():
    ends = torch.tensor([0.5, 3.0]), torch.tensor([-1.0, 2.0])
    fitted = Biases(9.0, *ends, *(torch.ones(2) for _ in range(4)), variance=1.0)
    assert fitted.predict(torch.tensor([0, 1]), torch.tensor([0, 1])).tolist() == [8.5, 14.0]


_dampings = st.none() | st.builds(Damping, *[st.floats(1.0, 100.0)] * 2)


@given(st.integers(0, 3), st.sets(st.integers(0, 89), max_size=90), _dampings)
def test_without_is_a_refit_of_each_node_given_the_others(seed, taken, damping):
    data = Ratings(seed=seed)
    fitted = fit_biases(data.graph, damping)
    rows = np.array(sorted(taken, key=lambda row: (row * 37) % 89), dtype=np.int64)
    keep = np.setdiff1d(np.arange(90), rows)
    left = fitted.without(*data.take(rows))
    # An item's bias stems from the user biases one sweep older than those reported.
    users = data.damped_user_means(fitted.items.double().numpy(), fitted.damping.users, keep)
    items = data.damped_item_means(fitted.users.double().numpy(), fitted.damping.items, keep)
    assert_close(left.users, users, 2e-5)
    assert_close(left.items, items, 2e-4)
    assert left.user_degrees.tolist() == np.bincount(data.users[keep], minlength=20).tolist()
    assert left.item_degrees.tolist() == np.bincount(data.items[keep], minlength=12).tolist()
    assert (left.mean, left.damping) == (fitted.mean, fitted.damping)


def test_without_leaves_the_fitted_biases_alone():
    data = Ratings()
    fitted = fit_biases(data.graph)
    before = [t.clone() for t in (fitted.users, fitted.items, fitted.user_degrees)]
    fitted.without(*data.take(np.arange(40)))
    now = (fitted.users, fitted.items, fitted.user_degrees)
    assert all(torch.equal(a, b) for a, b in zip(before, now, strict=True))


def test_without_nothing_is_the_same():
    data = Ratings()
    fitted = fit_biases(data.graph)
    left = fitted.without(*data.take(np.arange(0)))
    assert_close(left.users, fitted.users, 1e-6)
    assert_close(left.items, fitted.items, 1e-6)


def test_all_ratings_of_a_user_taken_out_leave_it_at_zero():
    data = Ratings()
    fitted = fit_biases(data.graph)
    rows = np.flatnonzero(data.users == data.users[0])
    assert len(rows) > 1
    left = fitted.without(*data.take(rows))
    assert float(left.users[data.users[0]]) == pytest.approx(0, abs=1e-5)
    assert float(left.user_degrees[data.users[0]]) == 0
    others = torch.arange(20) != data.users[0]
    assert_close(left.users[others], fitted.users[others], 1e-6)


def test_a_user_with_one_rating_is_known_by_nothing_else():
    users, items = np.array([0, 1, 1, 2, 2]), np.array([0, 0, 1, 0, 1])
    codes = np.array([9, 4, 5, 3, 6], dtype=np.uint8)
    graph = build_graph(users, items, codes, num_users=3, num_items=2, scale=SCALE)
    fitted = fit_biases(graph)
    left = fitted.without(torch.tensor([0]), torch.tensor([0]), torch.tensor([10.0]))
    assert abs(float(fitted.users[0])) > 0.1
    assert float(left.users[0]) == pytest.approx(0, abs=1e-6)
    assert left.user_inputs(torch.tensor([0]))[0].tolist() == pytest.approx([0] * 3, abs=1e-6)


def test_without_forgets_what_the_ratings_were():
    """However high a target's rating, the biases without it are the same, given the others'."""
    data = Ratings()
    fitted = fit_biases(data.graph)
    rows = np.array([3, 11, 12, 40])
    users, items, ratings = data.take(rows)
    seen = []
    for shift in (0.0, 4.0, -30.0):
        # The biases as they would be had the ratings been others, given the other side's.
        beyond = ratings - fitted.mean - fitted.items[items]
        weights = 1 / (fitted.user_degrees[users] + fitted.damping.users)
        changed = replace(
            fitted,
            users=fitted.users.index_add(0, users, shift * weights),
            user_squares=fitted.user_squares.index_add(0, users, (beyond + shift) ** 2 - beyond**2),
        )
        left = changed.without(users, items, ratings + shift)
        seen.append((left.users, left.user_inputs(slice(None))))
    for users_alone, inputs in seen[1:]:
        assert_close(users_alone, seen[0][0], 1e-4)
        assert_close(inputs, seen[0][1], 1e-3)


def test_a_target_moves_the_refitted_biases_without_it_by_a_degree_less(converged):
    """A full refit also moves other nodes' biases: an effect smaller by another degree."""
    data = Ratings(num_users=60, num_items=40, edges=1200)
    row = np.array([100])
    users, items, ratings = data.take(row)
    fitted = fit_biases(data.graph)
    changed = Ratings(num_users=60, num_items=40, edges=1200)
    changed.ratings[row] = 1.0 if data.ratings[row] > 5 else 10.0
    refitted = fit_biases(
        build_graph(
            changed.users,
            changed.items,
            SCALE.encode(changed.ratings),
            num_users=60,
            num_items=40,
            scale=SCALE,
        )
    )
    new_ratings = torch.from_numpy(changed.ratings[row]).float()
    moved_with = abs(float(refitted.predict(users, items) - fitted.predict(users, items)))
    left = fitted.without(users, items, ratings)
    left_of_changed = refitted.without(users, items, new_ratings)
    moved_without = abs(float(left_of_changed.predict(users, items) - left.predict(users, items)))
    assert moved_with > 0.2
    assert moved_without < 0.15 * moved_with


def test_inputs_are_bias_log_degree_and_log_spread():
    data = Ratings()
    fitted = fit_biases(data.graph)
    nodes = torch.tensor([4, 0, 0])  # the first has no ratings
    degrees = np.bincount(data.users, minlength=20)[nodes.numpy()]
    found = fitted.user_inputs(nodes)
    assert found.shape == (3, 3)
    assert found.dtype == torch.float32
    assert_close(found[:, 0], fitted.users[nodes], 0)
    assert_close(found[:, 1], np.log(1 + degrees), 1e-6)
    assert found[0].tolist() == pytest.approx([0] * 3, abs=1e-6)
    assert_close(found[:, 2], data.spread(fitted)[0][nodes.numpy()], 1e-5)
    items = fitted.item_inputs(slice(2, 6))
    assert_close(items[:, 0], fitted.items[2:6], 0)
    assert_close(items[:, 1], np.log1p(np.bincount(data.items, minlength=12)[2:6]), 1e-6)
    assert_close(items[:, 2], data.spread(fitted)[1][2:6], 1e-4)


@pytest.mark.parametrize(
    "damping", [Damping(0.1, 0.1), DAMPING, Damping(30.0, 30.0), Damping(2.0, 30.0), None]
)
def test_the_spread_is_that_of_what_biases_leave(converged, damping):
    """By the definition, rating by rating, and not by way of sums of squares."""
    data = Ratings(seed=3, scale=RatingScale(0, 400))
    fitted = fit_biases(data.graph, damping)
    assert fitted.variance == pytest.approx(np.mean(data.left_by(fitted) ** 2), rel=1e-5)
    of_users, of_items = data.spread(fitted)
    assert_close(fitted.user_inputs(slice(None))[:, 2], of_users, 1e-4)
    assert_close(fitted.item_inputs(slice(None))[:, 2], of_items, 1e-4)
    assert of_users.std() > 0.05 and of_items.std() > 0.05


@given(st.integers(0, 3), st.sets(st.integers(0, 89), max_size=90), _dampings)
def test_the_spread_without_some_ratings_is_that_of_the_others(seed, taken, damping):
    data = Ratings(seed=seed)
    fitted = fit_biases(data.graph, damping)
    rows = np.array(sorted(taken), dtype=np.int64)
    keep = np.setdiff1d(np.arange(90), rows)
    left = fitted.without(*data.take(rows))
    assert left.variance == fitted.variance
    # A node's bias is fitted anew, given the other side's as they were with all ratings.
    of_users, _ = data.spread(replace(fitted, users=left.users), keep)
    _, of_items = data.spread(replace(fitted, items=left.items), keep)
    assert_close(left.user_inputs(slice(None))[:, 2], of_users, 1e-4)
    assert_close(left.item_inputs(slice(None))[:, 2], of_items, 1e-3)


def test_the_spread_tells_who_uses_the_whole_scale():
    """Everybody's mean is the same: one gives ends only, the others hardly leave the middle."""
    codes = np.full((9, 40), 4)
    codes[:, ::2] = 5
    codes[0] = np.where(np.arange(40) % 2, 0, 9)
    users, items = np.divmod(np.arange(codes.size), 40)
    fitted = fit_biases(
        build_graph(users, items, codes.ravel(), num_users=9, num_items=40, scale=SCALE)
    )
    spread = fitted.user_inputs(slice(None))[:, 2]
    assert float(spread[0]) > 0.5
    assert torch.all(spread[1:] < -0.2)


def test_ratings_that_are_all_the_same_have_a_spread_of_numbers():
    users, items = np.divmod(np.arange(12), 3)
    graph = build_graph(users, items, np.full(12, 7), num_users=5, num_items=4, scale=SCALE)
    fitted = fit_biases(graph)
    assert fitted.variance > 0
    left = fitted.without(torch.tensor([0, 1]), torch.tensor([0, 0]), torch.tensor([8.0, 8.0]))
    for biases in (fitted, left):
        for inputs in (biases.user_inputs(slice(None)), biases.item_inputs(slice(None))):
            assert inputs.isfinite().all()
            assert torch.all(inputs[:, 2] <= 1e-6)  # nobody's is above that of all
            assert torch.all(inputs[-1].abs() < 1e-6)  # without ratings


@pytest.mark.parametrize("threads", [1, 3])
def test_sums_of_squares_are_numpys_on_any_number_of_threads(threads, monkeypatch):
    monkeypatch.setattr(parallel, "SMALL", 4)
    monkeypatch.setattr(parallel.torch, "get_num_threads", lambda: threads)
    data = Ratings()
    fitted = fit_biases(data.graph)
    beyond = data.ratings - data.ratings.mean()
    of_users = (beyond - fitted.items.double().numpy()[data.items]) ** 2
    of_items = (beyond - fitted.users.double().numpy()[data.users]) ** 2
    assert_close(fitted.user_squares, np.bincount(data.users, of_users, 20), 1e-4)
    assert_close(fitted.item_squares, np.bincount(data.items, of_items, 12), 1e-4)


def lists_of(rows):
    """A user's items and codes after the other's: what new users rated."""
    return Adjacency(
        np.cumsum([0, *map(len, rows)], dtype=np.int64),
        np.array([item for row in rows for item, _ in row], dtype=np.int32),
        np.array([code for row in rows for _, code in row], dtype=np.uint8),
    )


@pytest.mark.parametrize("damping", [DAMPING, Damping(2.0, 9.0), None])
def test_new_users_get_the_biases_that_training_on_them_would_give(damping):
    data = Ratings()
    fitted = fit_biases(data.graph, damping)
    rows = [[(0, 8), (3, 9), (5, 3)], [], [(5, 0)]]
    found = fitted.of_new_users(lists_of(rows), SCALE)
    items = fitted.items.double().numpy()
    expected = [
        sum(code + 1 - fitted.mean - items[item] for item, code in row)
        / (len(row) + fitted.damping.users)
        for row in rows
    ]
    assert_close(found.users, expected, 1e-6)
    assert found.users[1] == 0
    assert found.user_degrees.tolist() == [3, 0, 1]
    assert {found.users.dtype, found.user_degrees.dtype} == {torch.float32}
    # All that is known of items stays.
    assert torch.equal(found.items, fitted.items)
    assert torch.equal(found.item_degrees, fitted.item_degrees)
    assert (found.mean, found.damping) == (fitted.mean, fitted.damping)
    inputs = found.user_inputs(slice(None))
    assert_close(inputs[:, 1], np.log1p([3, 0, 1]), 1e-6)
    # One user's ratings after the other's, as though they were all there are.
    beyond = [
        [code + 1 - fitted.mean - items[item] - bias for item, code in row]
        for row, bias in zip(rows, expected, strict=True)
    ]
    assert_close(inputs[:, 2], [log_spread(part, fitted.variance) for part in beyond], 1e-5)
    assert found.variance == fitted.variance
    assert torch.equal(found.item_squares, fitted.item_squares)


@pytest.mark.parametrize("damping", [Damping(0.5, 0.5), DAMPING, Damping(0.5, 8.0), None])
@pytest.mark.parametrize("scale", [SCALE, RatingScale(0.5, 5, 0.5), RatingScale(0, 400)])
def test_users_of_training_given_as_new_ones_are_what_they_were(scale, damping):
    data = Ratings(scale=scale)
    fitted = fit_biases(data.graph, damping)
    again = fitted.of_new_users(data.graph.by_user, scale)
    assert_close(again.users / scale.step, fitted.users / scale.step, 1e-5)
    assert torch.equal(again.user_degrees, fitted.user_degrees)
    assert_close(again.user_squares / scale.step**2, fitted.user_squares / scale.step**2, 1e-2)
    assert_close(again.user_inputs(slice(None))[:, 2], fitted.user_inputs(slice(None))[:, 2], 1e-5)
    pairs = torch.from_numpy(data.users), torch.from_numpy(data.items)
    assert_close(again.predict(*pairs), fitted.predict(*pairs), 1e-5 * scale.step + 1e-4)


def test_no_new_users_have_no_biases():
    found = fit_biases(Ratings().graph).of_new_users(lists_of([]), SCALE)
    assert found.users.shape == found.user_degrees.shape == (0,)


def test_new_users_leave_the_fitted_biases_alone():
    fitted = fit_biases(Ratings().graph)
    before = [part.clone() for part in (fitted.users, fitted.items, fitted.user_degrees)]
    fitted.of_new_users(lists_of([[(0, 9)]]), SCALE)
    now = (fitted.users, fitted.items, fitted.user_degrees)
    assert all(torch.equal(one, other) for one, other in zip(before, now, strict=True))


# --- finding the dampings ------------------------------------------------------------------------


def planted(*, users, items, per_user, user_variance, item_variance, noise, seed):
    """The graph of ratings whose biases and noise have known variances, on a scale of 0.01."""
    generator = np.random.default_rng(seed)
    scale = RatingScale(0, 100, 0.01)
    # Popularity falls with an item's index, so that degrees differ as they do in catalogues.
    popularity = 1 / (10 + np.arange(items))
    rated = [
        generator.choice(items, size, replace=False, p=popularity / popularity.sum())
        for size in generator.integers(per_user // 2, 2 * per_user, users)
    ]
    at_users = np.repeat(np.arange(users), [len(part) for part in rated])
    at_items = np.concatenate(rated)
    values = 50 + generator.normal(0, np.sqrt(user_variance), users)[at_users]
    values += generator.normal(0, np.sqrt(item_variance), items)[at_items]
    values += generator.normal(0, np.sqrt(noise), len(values))
    assert values.min() > 0 and values.max() < 100
    codes = scale.encode(np.round(values, 2))
    return build_graph(at_users, at_items, codes, num_users=users, num_items=items, scale=scale)


@pytest.mark.parametrize(
    ("user_variance", "item_variance", "noise"),
    [(1.0, 4.0, 12.0), (6.0, 0.5, 9.0), (4.0, 4.0, 4.0), (0.5, 0.25, 20.0)],
)
def test_the_dampings_are_noise_over_the_planted_variances(user_variance, item_variance, noise):
    graph = planted(
        users=3000,
        items=1500,
        per_user=30,
        user_variance=user_variance,
        item_variance=item_variance,
        noise=noise,
        seed=1,
    )
    found = fit_biases(graph).damping
    assert found.users == pytest.approx(noise / user_variance, rel=0.15)
    assert found.items == pytest.approx(noise / item_variance, rel=0.15)


@pytest.mark.parametrize("seed", range(3))
def test_the_dampings_are_those_of_the_largest_evidence(converged, seed):
    """Against the likelihood of the ratings with both sides' biases integrated out, densely."""
    data = Ratings(num_users=60, num_items=40, edges=900, seed=seed)
    found = fit_biases(data.graph).damping
    centred = data.ratings - data.ratings.mean()
    same_user = data.users[:, None] == data.users
    same_item = data.items[:, None] == data.items

    def evidence(users, items):
        """Log likelihood, the noise's variance being the one that makes it largest."""
        covariance = np.eye(900) + same_user / users + same_item / items
        scaled = centred @ np.linalg.solve(covariance, centred)
        return -0.5 * (900 * np.log(scaled) + np.linalg.slogdet(covariance)[1])

    # The method takes the two sides' biases for independent, and adds a node to each: so it ends
    # near the largest evidence, not at it.
    best = evidence(*found)
    for factor in (0.7, 1.4):
        assert evidence(found.users * factor, found.items) < best
        assert evidence(found.users, found.items * factor) < best


def test_no_single_rating_tells_by_the_dampings_what_it_is(converged):
    """They come of all ratings, like the mean: a thousandth of the ratings hardly moves them."""
    data = Ratings(num_users=60, num_items=40, edges=1000)
    before = fit_biases(data.graph).damping
    codes = SCALE.encode(data.ratings).astype(int)
    moved = []
    for row in range(0, 1000, 25):
        changed = codes.copy()
        changed[row] = np.clip(codes[row] + (2 if codes[row] < 5 else -2), 0, 9)
        ends = {"num_users": 60, "num_items": 40, "scale": SCALE}
        now = fit_biases(build_graph(data.users, data.items, changed, **ends)).damping
        moved.append(np.abs(np.log(now) - np.log(before)))
    assert 0 < np.mean(moved) < 0.01
    assert np.max(moved) < 0.05


@pytest.mark.parametrize("scale", [RatingScale(1, 5), RatingScale(10, 50, 10)])
def test_the_dampings_do_not_depend_on_the_unit_of_ratings(scale):
    generator = np.random.default_rng(2)
    pairs = generator.choice(2000, 900, replace=False)
    codes = np.clip(pairs % 40 // 9 + generator.integers(-1, 2, 900), 0, 4)
    ends = pairs // 40, pairs % 40
    found, expected = (
        fit_biases(build_graph(*ends, codes, num_users=50, num_items=40, scale=of)).damping
        for of in (scale, RatingScale(0, 4))
    )
    assert found == pytest.approx(expected, rel=1e-6)


def of_codes(rows, scale=SCALE):
    """The graph of a user's codes of items 0, 1, ... after the other's."""
    rows = [np.atleast_1d(row) for row in rows]
    users = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    items = np.concatenate([np.arange(len(row)) for row in rows])
    sizes = {"num_users": len(rows), "num_items": int(items.max()) + 1}
    return build_graph(users, items, np.concatenate(rows), **sizes, scale=scale)


@pytest.mark.parametrize(
    "rows",
    [
        [[7]],
        [[7, 7, 7]],
        [[7], [7], [7]],
        [[3, 7]],
        [[2, 3], [4, 3]],
        [[0, 9, 4, 5, 5]],
        [[0], [9], [4], [5], [5]],
    ],
)
def test_a_handful_of_ratings_hardly_moves_the_dampings(rows):
    found = fit_biases(of_codes(rows)).damping
    for damping in found:
        assert 2 < damping < 12.5


def test_items_that_one_user_alone_rated_are_damped_about_as_before():
    """With one rating an item, nothing says what of it is the item's and what is noise."""
    codes = np.random.default_rng(0).integers(0, 10, 300)
    found = fit_biases(of_codes([codes])).damping
    assert 4 < found.items < 7
    assert 5 < found.users < 12.5


def test_ratings_that_are_all_the_same_have_finite_dampings_and_no_biases():
    fitted = fit_biases(of_codes([[7] * 60] * 90))
    assert fitted.users.tolist() == [0] * 90
    assert fitted.items.tolist() == [0] * 60
    for damping in fitted.damping:
        assert 5 < damping <= 1000


def test_ratings_without_noise_are_damped_as_little_as_may_be():
    """Users differ by four steps and items not at all."""
    fitted = fit_biases(of_codes([[1] * 200, [9] * 200] * 100))
    assert fitted.damping.users == 0.1
    assert fitted.damping.items > 100
    assert_close(fitted.users.abs(), np.full(200, 4.0), 0.01)


def test_the_reported_dampings_fitted_the_biases_when_sweeps_run_out(monkeypatch):
    monkeypatch.setattr(biases_module, "_SWEEPS", 2)
    data = Ratings()
    fitted = fit_biases(data.graph)
    assert fitted.damping != DAMPING
    everything = np.arange(len(data.ratings))
    items = fitted.items.double().numpy()
    users = data.damped_user_means(items, fitted.damping.users, everything)
    assert_close(fitted.users, users, 1e-5)


# --- interactions --------------------------------------------------------------------------------


def interactions():
    """Five rows of three users and three items, and their graph."""
    pairs = [(0, 0), (0, 1), (0, 2), (1, 1), (2, 1)]
    users, items = (np.array(column) for column in zip(*pairs, strict=True))
    graph = build_graph(
        users,
        items,
        np.ones(5, dtype=np.uint8),
        num_users=4,
        num_items=3,
        scale=INTERACTION_SCALE,
    )
    return graph, torch.from_numpy(users), torch.from_numpy(items)


def assert_nothing_but_degrees(found, user_degrees, item_degrees):
    assert isinstance(found, NoBiases)
    assert found.mean == 0
    for zeros in (found.users, found.user_squares, found.items, found.item_squares):
        assert not zeros.any()
    assert len(found.users) == len(found.user_squares) == len(user_degrees)
    assert found.user_degrees.tolist() == user_degrees
    assert found.item_degrees.tolist() == item_degrees
    users = torch.arange(len(user_degrees))
    expected = [[0.0, pytest.approx(np.log1p(degree)), 0.0] for degree in user_degrees]
    assert found.user_inputs(users).tolist() == expected
    expected = [[0.0, pytest.approx(np.log1p(degree)), 0.0] for degree in item_degrees]
    assert found.item_inputs(slice(None)).tolist() == expected


def test_interactions_have_no_biases_but_degrees():
    graph, users, items = interactions()
    found = no_biases(graph)
    assert_nothing_but_degrees(found, [3, 1, 1, 0], [1, 3, 1])
    assert found.predict(users, items).tolist() == [0.0] * 5
    assert found.variance > 0
    np.testing.assert_array_equal(residuals_of(graph, found), np.ones(5))


def test_without_interactions_only_degrees_change():
    """The biases of `Biases.without` would be below zero, and say which rows are targets."""
    graph, users, items = interactions()
    found = no_biases(graph)
    left = found.without(users[:3], items[:3], torch.ones(3))
    assert_nothing_but_degrees(left, [0, 1, 1, 0], [0, 2, 0])
    assert_nothing_but_degrees(found, [3, 1, 1, 0], [1, 3, 1])  # unchanged
    assert_nothing_but_degrees(left.to(torch.device("cpu")), [0, 1, 1, 0], [0, 2, 0])


def test_new_users_of_interactions_have_degrees_alone():
    graph, _, _ = interactions()
    new = group_by_user(
        np.array([0, 1, 1]),
        np.array([2, 0, 1]),
        np.ones(3, dtype=np.uint8),
        num_users=3,
        num_items=3,
    )
    found = no_biases(graph).of_new_users(new, INTERACTION_SCALE)
    assert_nothing_but_degrees(found, [1, 2, 0], [1, 3, 1])


@pytest.mark.parametrize("degree", [2**24 + 2, 2**25])
@pytest.mark.parametrize("kind", [Biases, NoBiases])
def test_degrees_beyond_the_whole_numbers_of_float32_are_counted_down(degree, kind):
    """One at a time float32 would take nothing off 2^25, and too much off 2^24 + 2."""
    zeros = torch.zeros(1)
    many = torch.full((1,), float(degree))
    given = kind(0.0, zeros, zeros, many, many, zeros, zeros, 1.0)
    nodes = torch.zeros(8, dtype=torch.int64)
    left = given.without(nodes, nodes, torch.ones(8))
    assert left.user_degrees.tolist() == left.item_degrees.tolist() == [degree - 8]
