"""The single-film experiment: no leak from test users, and the fast model is the plain one."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dglrec.nn import shifts

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    sys.path.insert(0, str(FOLDER))
    yield importlib.import_module("gsp_movielens")
    sys.path.remove(str(FOLDER))


@pytest.fixture
def settings(driver: Any) -> Any:
    return driver.Settings(4, 5.0, (6, 4), 3, 2, 5, 5e-3)


@pytest.fixture
def samples(driver: Any) -> Any:
    generator = np.random.default_rng(1)
    inputs = generator.integers(1, 6, (50, 15)).astype(float)
    inputs[generator.random(inputs.shape) < 0.4] = 0
    inputs[:, 2] = 0
    return driver.Samples(inputs, generator.integers(1, 6, 50).astype(float), 2)


def test_splits_are_tenths_and_fall_apart(driver: Any) -> None:
    split = driver.split_of(583, 0)
    assert [len(rows) for rows in split] == [473, 52, 58]
    assert sorted(np.concatenate(split)) == list(range(583))
    assert driver.split_of(583, 1).test.tolist() != split.test.tolist()


def test_the_model_is_two_layers_read_at_the_target(driver: Any, samples: Any, settings: Any):
    """Against both layers over all films, and the readout of one."""
    adjacency = driver.film_graph(samples, np.arange(40), settings)
    assert adjacency.largest_eigenvalue() == pytest.approx(1, rel=1e-5)
    edges = adjacency.edges()
    shifted, near = driver.shifts_of(samples.inputs, adjacency, samples.target, settings.taps)
    torch.manual_seed(0)
    model = driver.local_model(settings, near)
    values = torch.from_numpy(samples.inputs.T).float().unsqueeze(2)
    hidden = torch.relu(model.first(edges, values))
    whole = model.readout(torch.relu(model.second(edges, hidden)))[samples.target].squeeze(1)
    torch.testing.assert_close(model(shifted), whole, rtol=1e-4, atol=1e-5)
    # Every film within reach is read.
    at_target = torch.eye(15)[:, [samples.target]]
    assert near.shape[1] == int(shifts(edges, at_target, 3).any(dim=1).sum())


def test_nothing_of_test_users_reaches_the_others(driver: Any, samples: Any, settings: Any) -> None:
    split = driver.split_of(len(samples.labels), 0)
    inputs, labels = samples.inputs.copy(), samples.labels.copy()
    inputs[split.test], labels[split.test] = 6 - inputs[split.test], 6 - labels[split.test]
    inputs[:, samples.target] = 0
    turned = driver.Samples(inputs, labels, samples.target)
    for method in driver.METHODS.values():
        one, chosen = method(samples, split, 0, settings)
        other, chosen_there = method(turned, split, 0, settings)
        np.testing.assert_array_equal(one[split.valid], other[split.valid])
        assert chosen == chosen_there


def test_references_are_what_they_say(driver: Any, samples: Any, settings: Any) -> None:
    split = driver.split_of(len(samples.labels), 0)
    labels = samples.labels[split.train]
    mean, _ = driver.item_mean(samples, split, 0, settings)
    np.testing.assert_allclose(mean, labels.mean())
    line, _ = driver.user_mean(samples, split, 0, settings)
    rated = np.where(samples.inputs > 0, samples.inputs, np.nan)
    means = np.nanmean(rated, axis=1)
    slope, level = np.polyfit(means[split.train], labels, 1)
    np.testing.assert_allclose(line, slope * means + level)
    found, penalty = driver.ridge_as_given(samples, split, 0, settings)
    train = samples.inputs[split.train]
    centre = train.mean(0)
    shifted = train - centre
    weights = np.linalg.solve(
        shifted.T @ shifted + penalty * np.eye(15), shifted.T @ (labels - labels.mean())
    )
    np.testing.assert_allclose(found, labels.mean() + (samples.inputs - centre) @ weights)


def test_a_film_that_too_few_rated_is_refused(driver: Any, tmp_path: Path) -> None:
    (tmp_path / "u.data").write_text("1\t7\t5\t0\n2\t7\t4\t0\n")
    with pytest.raises(SystemExit, match="2 users rated 7"):
        driver.read_samples(tmp_path, 7)
    with pytest.raises(SystemExit, match="0 users rated 8"):
        driver.read_samples(tmp_path, 8)
