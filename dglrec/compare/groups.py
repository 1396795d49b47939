"""Figures of groups of runs with intervals, and the differences between pairs of groups."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np

from dglrec.compare.statistics import (
    Floats,
    UserSums,
    bootstrap,
    check_same_users,
    difference,
    effect_size,
    figures,
    holm,
    interval,
    p_value,
    redraw_runs,
)
from dglrec.errors import UsageError

_FEW_USERS = 30
_FEW_RUNS = 5


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval, whose ends are None where there can be none."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class PairedEstimate(Estimate):
    """A difference, with its p-value before and after Holm's correction over all pairs."""

    p: float | None
    p_holm: float | None


@dataclass(frozen=True)
class GroupFigures:
    """Figures of a configuration: of a single run, or means over several runs.

    Attributes:
        name: the name of the configuration.
        runs: the number of runs.
        figures: by metric.
    """

    name: str
    runs: int
    figures: dict[str, Estimate]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, each metric under its name."""
        return {"name": self.name, "runs": self.runs, **_plain(self.figures)}


@dataclass(frozen=True)
class Difference:
    """Figures of group `a` minus those of group `b`.

    Attributes:
        a: the name of a group.
        b: the name of another group.
        figures: by metric; where `a` is better, errors are below 0 and all other metrics above 0.
        percent: the first metric's difference in percent of b's figure; None where that is 0.
        percent_low: the lower end of the interval of `percent`; None without an interval.
        percent_high: the upper end of the interval.
        d_z: `effect_size`.
    """

    a: str
    b: str
    figures: dict[str, PairedEstimate]
    percent: float | None
    percent_low: float | None
    percent_high: float | None
    d_z: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, each metric under its name."""
        others = {key: value for key, value in vars(self).items() if key != "figures"}
        return {**others, **_plain(self.figures)}


@dataclass(frozen=True)
class Comparison:
    """All figures of a comparison; `runs` and `differences` are in the order of the groups.

    Attributes:
        metrics: the names of the metrics; the first is the leading one, of `percent` and `d_z`.
        rows: the number of ratings, or of lists, that figures are means over.
        users: the number of users of these rows.
        draws: the number of bootstrap samples of users.
        level: the level of the intervals.
        seed: the seed of the bootstrap.
        runs: figures of each group.
        differences: between the requested pairs of groups.
        notes: remarks that readers of the figures need.
    """

    metrics: tuple[str, ...]
    rows: int
    users: int
    draws: int
    level: float
    seed: int
    runs: list[GroupFigures]
    differences: list[Difference]
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            **vars(self),
            "metrics": list(self.metrics),
            "runs": [run.to_dict() for run in self.runs],
            "differences": [pair.to_dict() for pair in self.differences],
        }


def compare(
    groups: Mapping[str, Sequence[UserSums]],
    *,
    draws: int = 2_000,
    level: float = 0.95,
    seed: int = 0,
    pairs: Sequence[tuple[str, str]] | None = None,
) -> Comparison:
    """Figures of each group of runs, and differences between groups.

    A group's figure is the mean over its runs. Each bootstrap sample takes the same users for all
    runs, and also resamples the runs within each group of several.

    Args:
        groups: the runs of each configuration, all on the same rows.
        draws: the number of bootstrap samples.
        level: the level of the intervals.
        seed: the seed of the bootstrap.
        pairs: names of the groups a and b to take differences of; p-values are corrected for the
            number of these pairs. None takes all pairs.

    Raises:
        UsageError: an option is out of range.
        ValueError: a group is empty, or runs are not on the same users, rows and metrics.
    """
    check_options(draws, level, seed)
    empty = [name for name, sums in groups.items() if not sums]
    if empty:
        raise ValueError(f"group {empty[0]} holds no run")
    all_sums = [run_sums for sums in groups.values() for run_sums in sums]
    users, metrics = check_same_users(all_sums), all_sums[0].metrics
    by_run = bootstrap(all_sums, draws, seed)
    generator = np.random.default_rng(np.random.SeedSequence(seed).spawn(1)[0])
    values: dict[str, Floats] = {}
    samples: dict[str, Floats] = {}
    first = 0
    for name, sums in groups.items():
        values[name] = np.mean([figures(run_sums) for run_sums in sums], axis=0)
        samples[name] = redraw_runs(by_run[:, first : first + len(sums)], generator)
        first += len(sums)
    runs = [
        GroupFigures(name, len(sums), _estimates(metrics, values[name], samples[name], level))
        for name, sums in groups.items()
    ]
    pairs = list(combinations(groups, 2)) if pairs is None else pairs
    differences = _differences(groups, pairs, values, samples, level)
    return Comparison(
        metrics=metrics,
        rows=round(float(all_sums[0].n.sum())),
        users=users,
        draws=draws,
        level=level,
        seed=seed,
        runs=runs,
        differences=differences,
        notes=_notes(users, runs, differences),
    )


def check_options(draws: int, level: float, seed: int) -> None:
    """Refuse options from which no interval can be computed.

    Raises:
        UsageError: names the option and its range.
    """
    if not 0 < level < 1:
        raise UsageError(f"--level {level:g}: must lie between 0 and 1, both excluded; try 0.95")
    # With fewer draws than this, not a single draw lies outside each end of the interval.
    least = math.ceil(round(2 / (1 - level), 6))
    if draws < least:
        raise UsageError(f"--bootstrap {draws}: a level of {level:g} needs {least:,} draws or more")
    if seed < 0:
        raise UsageError(f"--seed {seed}: must be 0 or more")


def _plain(figures: Mapping[str, Estimate]) -> dict[str, Any]:
    return {name: asdict(estimate) for name, estimate in figures.items()}


def _mean_of(sums: Sequence[UserSums]) -> UserSums:
    """The mean by user over a group's runs."""
    mean = np.mean([run_sums.sums for run_sums in sums], axis=0)
    return UserSums(sums[0].users, sums[0].n, sums[0].metrics, mean)


def _estimates(
    metrics: Sequence[str], values: Floats, samples: Floats, level: float
) -> dict[str, Estimate]:
    """An estimate for each metric, from values [M] and samples [draws, M]."""
    found = {}
    for name, value, column in zip(metrics, values.tolist(), samples.T, strict=True):
        ends = interval(column, level) or (None, None)
        found[name] = Estimate(value, *ends)
    return found


def _differences(
    groups: Mapping[str, Sequence[UserSums]],
    pairs: Sequence[tuple[str, str]],
    values: Mapping[str, Floats],
    samples: Mapping[str, Floats],
    level: float,
) -> list[Difference]:
    differences = [difference(samples[a], samples[b]) for a, b in pairs]
    p_values = [
        [p_value(column) for column in samples_of_pair.T] for samples_of_pair in differences
    ]
    # Each metric is a family of tests of its own; the result is [pairs][metrics].
    adjusted = list(
        zip(*(holm(of_metric) for of_metric in zip(*p_values, strict=True)), strict=True)
    )
    pooled = {name: _mean_of(sums) for name, sums in groups.items()}
    found = []
    for number, (a, b) in enumerate(pairs):
        metrics = groups[a][0].metrics
        value = difference(values[a], values[b])
        estimates = _estimates(metrics, value, differences[number], level)
        paired = {
            name: PairedEstimate(
                estimate.value,
                estimate.low,
                estimate.high,
                p_values[number][index],
                adjusted[number][index],
            )
            for index, (name, estimate) in enumerate(estimates.items())
        }
        base = float(values[b][0])
        percent = 100 * float(value[0]) / base if base else None
        below = samples[b][:, 0]
        ends = (
            interval(100 * differences[number][:, 0] / below, level) if (below > 0).all() else None
        )
        low, high = ends or (None, None)
        d_z = effect_size(pooled[a], pooled[b])
        found.append(Difference(a, b, paired, percent, low, high, d_z))
    return found


def _notes(
    users: int, runs: Sequence[GroupFigures], differences: Sequence[Difference]
) -> list[str]:
    """Remarks that readers need to interpret the figures."""
    notes = []
    if users == 1:
        notes.append(
            "all rows are of one user: nothing says how figures vary from user to user, so there "
            "are no intervals and no p-values"
        )
    else:
        if users < _FEW_USERS:
            notes.append(f"{users} users are few: intervals come out too narrow")
        named: list[tuple[str, Mapping[str, Estimate]]] = [
            *((run.name, run.figures) for run in runs),
            *((f"{pair.a} - {pair.b}", pair.figures) for pair in differences),
        ]
        without = [
            f"{metric} of {name}"
            for name, of_metrics in named
            for metric, estimate in of_metrics.items()
            if estimate.low is None
        ]
        if without:
            notes.append(
                f"the same in every draw, and so without interval or p-value: {'; '.join(without)}"
            )
    return [*notes, *notes_on_seeds(runs)]


def notes_on_seeds(runs: Sequence[GroupFigures]) -> list[str]:
    """Remarks on groups of a single run, or of few runs."""
    notes = []
    single = [run.name for run in runs if run.runs == 1]
    if single:
        notes.append(
            f"one run of {', '.join(single)}: intervals cover the choice of users, not what "
            "another training seed would change"
        )
    few = [run.name for run in runs if 1 < run.runs < _FEW_RUNS]
    if few:
        notes.append(
            f"fewer than {_FEW_RUNS} runs of {', '.join(few)}: what training seeds change is "
            "known roughly"
        )
    return notes
