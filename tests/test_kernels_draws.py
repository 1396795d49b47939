"""Drawing distinct items, against the same draws one by one in numpy."""

import numpy as np
import pytest

from dglrec.kernels.draws import draw_distinct, products

USERS, ITEMS, DRAWS = 40, 30, 3


@pytest.fixture
def case():
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 25, USERS)
    counts[5] = ITEMS  # never done within three draws for each
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return {
        "popularity": rng.random(ITEMS) + 0.01,
        "tilt": np.exp(rng.standard_normal((USERS, ITEMS))).astype(np.float32),
        "offsets": offsets,
        "uniforms": rng.random(DRAWS * offsets[-1]),
        "items": np.full(offsets[-1], -1, dtype=np.int32),
        "reach": np.zeros(USERS),
    }


def test_draws_are_those_of_numpy(case):
    found = draw_distinct(**case)
    offsets = case["offsets"]
    for user in range(USERS):
        weights = case["popularity"] * case["tilt"][user]
        cumulated = np.cumsum(weights)
        wanted = offsets[user + 1] - offsets[user]
        mine, tried = [], 0
        for uniform in case["uniforms"][DRAWS * offsets[user] : DRAWS * offsets[user + 1]]:
            if len(mine) == wanted:
                break
            item = int(np.searchsorted(cumulated, uniform * cumulated[-1], side="right"))
            tried += 1
            if item not in mine:
                mine.append(item)
        got = case["items"][offsets[user] : offsets[user + 1]]
        assert found[user] == len(mine)
        assert got[: len(mine)].tolist() == (sorted(mine) if len(mine) == wanted else mine)
        assert (got[len(mine) :] == -1).all()
        assert case["reach"][user] == pytest.approx(tried / cumulated[-1], rel=1e-12)
    assert found[5] < ITEMS
    assert (found == np.diff(offsets)).sum() > USERS // 2


def test_a_uniform_of_nearly_one_stays_in_the_catalogue():
    items = np.zeros(1, dtype=np.int32)
    one = np.nextafter(1.0, 0.0)
    popularity, tilt = np.array([0.1, 0.7, 0.3]), np.ones((1, 3), dtype=np.float32)
    draw_distinct(popularity, tilt, np.array([0, 1]), np.array([one]), items, np.zeros(1))
    assert items.tolist() == [2]


def test_products_are_those_of_numpy():
    rng = np.random.default_rng(1)
    users = rng.standard_normal((7, 8)).astype(np.float32)
    items = rng.standard_normal((8, 50)).astype(np.float32)
    np.testing.assert_allclose(
        products(users, items), users.astype(float) @ items.astype(float), atol=1e-5
    )
    with pytest.raises(ValueError, match="vectors of 8 and of 7"):
        products(users, items[:7])


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("tilt", lambda tilt: tilt[:, 1:]),
        ("tilt", lambda tilt: tilt[1:]),
        ("reach", lambda reach: reach[1:]),
        ("offsets", lambda offsets: offsets[1:]),
        ("offsets", lambda offsets: offsets + 1),
        ("offsets", lambda offsets: np.concatenate([[0], offsets[:0:-1]])),
        ("items", lambda items: items[1:]),
        ("uniforms", lambda uniforms: uniforms[1:]),
    ],
)
def test_arrays_that_do_not_fit_are_refused(case, name, change):
    case[name] = change(case[name])
    with pytest.raises(ValueError, match="fit|number"):
        draw_distinct(**case)
