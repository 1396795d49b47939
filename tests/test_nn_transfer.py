"""The item network: a ridge regression from features to learned vectors."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from dglrec.nn import fit_item_network
from dglrec.nn.transfer import _LEAST, _MOST, _STRENGTHS


def drawn(items, features, seed=0, noise=0.5):
    """Features, vectors that are half of them and half chance, and importances with zeros."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(items, features)) @ np.diag(rng.uniform(0.1, 3, features)) + 2
    y = x @ rng.normal(size=(features, 3)) + noise * rng.normal(size=(items, 3)) - 1
    importance = rng.uniform(0.1, 1, items) * (rng.random(items) > 0.2)
    return x, y, importance


def fitted(x, y, importance):
    return fit_item_network(*(torch.from_numpy(one) for one in (x, y, importance)))


@pytest.mark.parametrize(("items", "features"), [(60, 5), (20, 40)])
def test_is_sklearns_ridge_of_the_least_error_of_items_left_out(items, features):
    x, y, importance = drawn(items, features)
    used = np.flatnonzero(importance)
    share = importance / importance.sum()
    scale = (share[:, None] * (x - share @ x) ** 2).sum() / features
    errors = {}
    for strength in np.logspace(_LEAST, _MOST, _STRENGTHS):
        left_out = []
        for item in used:
            others = used[used != item]
            # As the regression of all weighs its ridge, whoever is left out.
            model = Ridge(strength * scale).fit(x[others], y[others], share[others])
            left_out.append(share[item] * ((model.predict(x[[item]]) - y[item]) ** 2).sum())
        errors[strength] = sum(left_out)
    best = min(errors, key=errors.get)
    expected = Ridge(best * scale).fit(x[used], y[used], share[used])
    network = fitted(x, y, importance)
    np.testing.assert_allclose(network(torch.from_numpy(x)).numpy(), expected.predict(x), atol=1e-6)


def test_what_does_not_count_changes_nothing():
    x, y, importance = drawn(50, 4)
    expected = fitted(x, y, importance)
    y[importance == 0] = 1e6
    again = fitted(x, y, importance)
    torch.testing.assert_close(again.weight, expected.weight)


def test_without_any_that_says_something_items_get_the_mean():
    x, y, _ = drawn(30, 4)
    network = fitted(np.ones_like(x), y, np.ones(30))
    np.testing.assert_allclose(network(torch.from_numpy(x)).numpy(), np.tile(y.mean(0), (30, 1)))


def test_nothing_to_learn_from_is_refused():
    x, y, _ = drawn(5, 2)
    with pytest.raises(ValueError, match="no item counts"):
        fitted(x, y, np.zeros(5))
