"""Statistics on arrays: sums by user -> bootstrap samples -> intervals, p-values, effect sizes.

The sums are those of errors of predicted ratings, or of figures of lists. Ratings of the same user
are correlated, so rows are not independent samples, but users are. Users are therefore resampled
with replacement: the bootstrap (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993)
over clusters (Field and Welsh, "Bootstrapping clustered data", J. R. Statist. Soc. B 69(3), 2007).
All runs see the same samples, so differences are paired.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dglrec.progress import progress

_COUNTS_AT_ONCE = 1 << 23  # 64 MiB of counts, how often a draw takes each user
_ROUNDING = 1e-12  # relative to a figure: smaller differences are rounding errors

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class UserSums:
    """The sums behind a run's figures: a row for each of U users, a column for each of M metrics.

    A metric's figure is the sum of its column divided by the sum of `n`; for RMSE the square root
    of that.

    Attributes:
        users: int64 [U] user indices, ascending; the same in all runs that are compared.
        n: float64 [U] the weight of each user: the number of its rows, or 1 for a list.
        metrics: names, [M]; the first is the leading metric.
        sums: float64 [U, M]; for RMSE the sums of squared errors.
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
    """Figures of runs on users resampled with replacement, float64 [draws, runs, M].

    Time grows with draws * users; memory does not.

    Args:
        sums: of runs on the same rows.
        draws: the number of samples, of U users each.
        seed: the seed; with more draws, the first draws stay the same.

    Raises:
        ValueError: there are no runs, no users, or not the same users in each run.
    """
    users, metrics = check_same_users(sums), sums[0].metrics
    columns = np.column_stack([sums[0].n, *(run_sums.sums for run_sums in sums)])
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
    """The number of users, if all runs have the same users with the same numbers of rows.

    Raises:
        ValueError: there are no runs, no users, or not the same users or metrics in each run.
    """
    if not sums or not len(sums[0]):
        raise ValueError("no runs, or no rows, to take figures of")
    first = sums[0]
    for other in sums[1:]:
        same = np.array_equal(other.users, first.users) and np.array_equal(other.n, first.n)
        if not same:
            raise ValueError("runs are not on the same users and rows")
        if other.metrics != first.metrics:
            raise ValueError(f"metrics differ: {first.metrics} and {other.metrics}")
    return len(first)


def redraw_runs(samples: Floats, generator: np.random.Generator) -> Floats:
    """The mean over a group's runs, which are resampled as well, float64 [draws, M].

    Users and runs are resampled independently (Owen, "The pigeonhole bootstrap", Ann. Appl. Stat.
    1(2), 2007). Each draw takes S - 1 of S runs: taking S of so few runs would make the variance of
    the mean (S - 1) / S times what it should be (Rao and Wu, "Resampling inference with complex
    survey data", J. Am. Stat. Assoc. 83(401), 1988).

    Args:
        samples: float64 [draws, S, M], from `bootstrap`; the samples of a single run are returned
            unchanged.
        generator: draws the runs.
    """
    draws, runs = samples.shape[:2]
    if runs == 1:
        return samples[:, 0]
    drawn = generator.integers(runs, size=(draws, runs - 1))
    return np.asarray(np.take_along_axis(samples, drawn[:, :, None], axis=1).mean(axis=1))


def difference(a: npt.ArrayLike, b: npt.ArrayLike) -> Floats:
    """The difference a - b; 0 where it is within rounding errors."""
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    differences = x - y
    is_rounding = np.abs(differences) <= _ROUNDING * np.maximum(np.abs(x), np.abs(y))
    return np.where(is_rounding, 0.0, differences)


def interval(samples: Floats, level: float) -> tuple[float, float] | None:
    """The percentile interval of a figure; None where all draws give the same value.

    Args:
        samples: float64 [draws].
        level: the share of draws inside the interval, such as 0.95.
    """
    if _is_constant(samples):
        return None
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def p_value(samples: Floats) -> float | None:
    """Two-sided p-value of a difference of 0; None where all draws give the same value.

    It is twice the share of draws on the rarer side of 0; draws of exactly 0 count on both sides.
    The observed difference counts as a further draw, so that no p-value is 0.

    Args:
        samples: float64 [draws] of the difference.
    """
    if _is_constant(samples):
        return None
    rarer = min(int((samples <= 0).sum()), int((samples >= 0).sum()))
    return min(1.0, 2 * (1 + rarer) / (len(samples) + 1))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """P-values after Holm's step-down correction; None stands for what was not tested.

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
    """Cohen's d_z over users, of the difference a - b of their first metric.

    It is the mean of the users' differences divided by their standard deviation (Lakens,
    "Calculating and reporting effect sizes", Front. Psychol. 4:863, 2013). For RMSE a user's figure
    is the mean squared error, without the root. None with a single user, or where all users have
    the same difference.
    """
    of_a, of_b = a.sums[:, 0] / a.n, b.sums[:, 0] / b.n
    differences = difference(of_a, of_b)
    if len(differences) < 2 or np.ptp(differences) <= _ROUNDING * max(of_a.max(), of_b.max()):
        return None
    return float(differences.mean() / differences.std(ddof=1))


def _finish(n: Any, sums: Floats, metrics: tuple[str, ...]) -> Floats:
    """Figures from sums, with metrics along the last axis."""
    found: Floats = sums / n
    for place, name in enumerate(metrics):
        if name == "rmse":
            found[..., place] = np.sqrt(found[..., place])
    return found


def _is_constant(samples: Floats) -> bool:
    return bool(np.ptp(samples) <= _ROUNDING * np.abs(samples).max())
