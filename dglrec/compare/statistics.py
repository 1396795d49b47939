"""Sums by user -> draws of figures -> intervals, p-values, effect sizes: on arrays.

What is summed is errors of predicted ratings, or figures of lists. Ratings of one user are alike,
so rows are no independent draws; users are. Users are redrawn with
replacement: the bootstrap (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993) over
clusters (Field and Welsh, "Bootstrapping clustered data", J. R. Statist. Soc. B 69(3), 2007). All
runs see the same draws, so differences are paired.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dglrec.progress import progress

_COUNTS_AT_ONCE = 1 << 23  # 64 MiB of how often each user is drawn
_ROUNDING = 1e-12  # of a figure: what is nearer is the same

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class UserSums:
    """What a run's figures are made of: a row for each of U users, a column for each of M metrics.

    A metric's figure is the sum of its column over the sum of `n`, and of RMSE the root of that.

    Attributes:
        users: int64 [U] user indices, ascending; the same in all runs that are compared.
        n: float64 [U] what a user counts: its rows, or one list.
        metrics: names, [M]; the first is what runs are told apart by.
        sums: float64 [U, M]; of RMSE the squared errors.
    """

    users: npt.NDArray[np.int64]
    n: Floats
    metrics: tuple[str, ...]
    sums: Floats

    def __len__(self) -> int:
        return len(self.users)


def figures(sums: UserSums) -> Floats:
    """The metrics over all users, float64 [M]."""
    totals = np.array([np.ascontiguousarray(column).sum() for column in sums.sums.T])
    return _finish(sums.n.sum(), totals, sums.metrics)


def bootstrap(sums: Sequence[UserSums], draws: int, seed: int) -> Floats:
    """Figures of runs on users redrawn with replacement, float64 [draws, runs, M].

    Time grows with draws times users, memory does not.

    Args:
        sums: of runs on the same rows.
        draws: how often as many users are drawn as there are.
        seed: of the draws; the first ones are the same whatever their number.

    Raises:
        ValueError: there are no runs, no users, or not the same in each.
    """
    users, metrics = check_same_users(sums), sums[0].metrics
    columns = np.column_stack([sums[0].n, *(one.sums for one in sums)])
    generator = np.random.default_rng(seed)
    at_once = max(1, min(draws, _COUNTS_AT_ONCE // users))
    found = np.empty((draws, len(sums), len(metrics)))
    with progress("redrawing users", draws, "draws") as advance:
        for first in range(0, draws, at_once):
            counts = np.empty((min(at_once, draws - first), users))
            for row in counts:
                row[:] = np.bincount(generator.integers(users, size=users), minlength=users)
            totals = counts @ columns
            parts = totals[:, 1:].reshape(len(counts), len(sums), len(metrics))
            found[first : first + len(counts)] = _finish(totals[:, :1, None], parts, metrics)
            advance(len(counts))
    return found


def check_same_users(sums: Sequence[UserSums]) -> int:
    """The number of users, which are the same in all runs, with as many rows each.

    Raises:
        ValueError: there are no runs, no users, or not the same users or metrics in each.
    """
    if not sums or not len(sums[0]):
        raise ValueError("no runs, or no rows, to take figures of")
    first = sums[0]
    for one in sums[1:]:
        same = np.array_equal(one.users, first.users) and np.array_equal(one.n, first.n)
        if not same:
            raise ValueError("runs are not on the same users and rows")
        if one.metrics != first.metrics:
            raise ValueError(f"metrics differ: {first.metrics} and {one.metrics}")
    return len(first)


def redraw_runs(samples: Floats, generator: np.random.Generator) -> Floats:
    """The mean over a group's runs, which are redrawn too, float64 [draws, M].

    Users and runs are drawn apart from one another (Owen, "The pigeonhole bootstrap", Ann. Appl.
    Stat. 1(2), 2007). Of S runs S - 1 are drawn each time: of so few, drawing S would make the
    mean's variance (S - 1) / S of what it should be (Rao and Wu, "Resampling inference with complex
    survey data", J. Am. Stat. Assoc. 83(401), 1988).

    Args:
        samples: float64 [draws, S, M], as `bootstrap` gives them; of one run they stay as they are.
        generator: of the draws of runs.
    """
    draws, runs = samples.shape[:2]
    if runs == 1:
        return samples[:, 0]
    drawn = generator.integers(runs, size=(draws, runs - 1))
    return np.asarray(np.take_along_axis(samples, drawn[:, :, None], axis=1).mean(axis=1))


def difference(a: npt.ArrayLike, b: npt.ArrayLike) -> Floats:
    """What `a` is above `b`; 0 where that is no more than what rounding leaves."""
    left, right = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    apart = left - right
    nothing = np.abs(apart) <= _ROUNDING * np.maximum(np.abs(left), np.abs(right))
    return np.where(nothing, 0.0, apart)


def interval(samples: Floats, level: float) -> tuple[float, float] | None:
    """The percentile interval of one figure; None where all draws give the same.

    Args:
        samples: float64 [draws].
        level: the share of draws inside, like 0.95.
    """
    if _is_constant(samples):
        return None
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def p_value(samples: Floats) -> float | None:
    """Two-sided p-value of a difference of 0; None where all draws give the same.

    Twice the share of draws on the rarer side of 0, with 0 itself on both, and the difference that
    was found counted as one draw more: no p-value is 0.

    Args:
        samples: float64 [draws] of the difference.
    """
    if _is_constant(samples):
        return None
    rarer = min(int((samples <= 0).sum()), int((samples >= 0).sum()))
    return min(1.0, 2 * (1 + rarer) / (len(samples) + 1))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """P-values after Holm's step-down correction; None, of what was not tested, stays.

    Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Stat. 6(2), 1979.
    """
    adjusted: list[float | None] = [None] * len(p_values)
    tested = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    largest = 0.0
    for rank, (p, place) in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - rank) * p))
        adjusted[place] = largest
    return adjusted


def effect_size(a: UserSums, b: UserSums) -> float | None:
    """Cohen's d_z over users of the difference of their first metric, a less b.

    Of RMSE that is their mean squared error, without the root.

    The mean of the differences over their standard deviation (Lakens, "Calculating and reporting
    effect sizes", Front. Psychol. 4:863, 2013). None with one user, or where all users
    differ alike.
    """
    left, right = a.sums[:, 0] / a.n, b.sums[:, 0] / b.n
    apart = difference(left, right)
    if len(apart) < 2 or np.ptp(apart) <= _ROUNDING * max(left.max(), right.max()):
        return None
    return float(apart.mean() / apart.std(ddof=1))


def _finish(n: Any, sums: Floats, metrics: tuple[str, ...]) -> Floats:
    """Sums, metrics along the last axis, -> figures."""
    found: Floats = sums / n
    for place, name in enumerate(metrics):
        if name == "rmse":
            found[..., place] = np.sqrt(found[..., place])
    return found


def _is_constant(samples: Floats) -> bool:
    return bool(np.ptp(samples) <= _ROUNDING * np.abs(samples).max())
