"""The settings that a search tries for models that only rank, where they are `auto`.

A search goes through stages, each of which tries changes of the best settings so far. Settings that
depend on each other share a stage; other settings have stages that add up instead of multiplying.
"""

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import numpy as np

from dglrec.baselines.config import BaselineConfig
from dglrec.baselines.cosine import MOST_NEIGHBOURS
from dglrec.baselines.graph_filter import MOST_DENSE
from dglrec.dataset import RatingDataset

Changes = list[dict[str, Any]]
Stage = Callable[[BaselineConfig], Changes]

MOST_TO_INVERT = 15_000
"""Up to this number of users or items, whichever are fewer, ease tries several ridges: an inverse
of this size takes about a minute on two cores."""

DEFAULTS: dict[str, dict[str, Any]] = {
    "ease": {"positives": "all", "ridge": 200.0},
    "graph_filter": {
        "positives": "all",
        "filter": "turbo_cf",
        "low_pass_weight": 0.3,
        "user_exponent": 0.5,
        "similarity_power": 1.0,
        "filter_order": 1,
    },
    "item_knn": {"neighbours": 100, "shrinkage": 10.0},
    "session": {
        "positives": "all",
        "session_gap": 0.0,
        "session_last": 100,
        "session_hops": 2,
        "session_exponent": 1.0,
        "session_both_ways": True,
    },
    "vsknn": {"positives": "all", "session_gap": 0.0, "session_last": 100, "neighbours": 100},
}
"""Where a search begins, by kind; settings keep these values if there is nothing to choose by."""

_RIDGES = (30.0, 100.0, 300.0, 1000.0, 3000.0)
_EXPONENTS, _POWERS, _ORDERS = (0.3, 0.4, 0.5, 0.6), (0.5, 0.7, 1.0, 1.3), (2, 3)
_WEIGHTS = (0.1, 0.3, 1.0)
_NEIGHBOURS, _SHRINKAGES = (20, 50, 200, MOST_NEIGHBOURS), (0.0, 30.0, 100.0)
_LAST_ITEMS, _FOLLOWED = (1, 5, 20, 1000), (0.3, 0.5, 0.7, 1.0)
_SESSION_NEIGHBOURS = (20, 50, 200, 500)
_GAPS = (0.5, 0.9, 0.99)  # quantiles of the times above 0 between two rows of a user
_MOST_TO_MULTIPLY = 8_000  # items up to which a product of square matrices takes seconds


def start_of(kind: str, dataset: RatingDataset, config: BaselineConfig) -> BaselineConfig:
    """The settings that a search begins with; no setting that matters to the kind is `auto`."""
    values = DEFAULTS.get(kind, {})
    if kind == "graph_filter" and dataset.graph.num_items > MOST_DENSE:
        values = {**values, "filter": "gf_cf"}
    return config.with_values(values)


def stages_of(
    kind: str, dataset: RatingDataset, config: BaselineConfig
) -> list[Callable[[BaselineConfig], list[BaselineConfig]]]:
    """The stages of a search: functions from the best settings so far to the settings to try.

    Settings that `config` fixes stay as they are.

    Args:
        kind: as in `model.kind`.
        dataset: for its training rows.
        config: the baseline's settings.
    """
    return [partial(_candidates, config, stage) for stage in _stages(kind, dataset, config)]


def _candidates(config: BaselineConfig, stage: Stage, best: BaselineConfig) -> list[BaselineConfig]:
    """The settings that a stage tries: changes of the best so far in settings that are `auto`."""
    found: list[BaselineConfig] = []
    for change in stage(best):
        allowed = {key: value for key, value in change.items() if getattr(config, key) == "auto"}
        candidate = best.model_copy(update=allowed)
        if candidate != best and candidate not in found:
            found.append(candidate)
    return found


def _stages(kind: str, dataset: RatingDataset, config: BaselineConfig) -> list[Stage]:
    # All interactions are positive, so there is nothing else to try.
    levels = ("liked",) if dataset.has_ratings else ()
    if kind == "ease":
        return _ease_stages(dataset, levels)
    if kind == "graph_filter":
        return _filter_stages(dataset, config, levels)
    if kind == "item_knn":
        return [
            lambda best: [{"shrinkage": value} for value in _SHRINKAGES],
            lambda best: [{"neighbours": value} for value in _NEIGHBOURS],
        ]
    if kind in ("session", "vsknn"):
        return _session_stages(kind, dataset, levels)
    return []


def _session_stages(kind: str, dataset: RatingDataset, levels: tuple[str, ...]) -> list[Stage]:
    gaps = [{"session_gap": gap} for gap in _gaps(dataset)]
    first: list[Stage] = [
        lambda best: [{"session_last": last} for last in _LAST_ITEMS],
        lambda best: [{"positives": level} for level in levels],
    ]
    if kind == "vsknn":
        neighbours: Stage = lambda best: [{"neighbours": k} for k in _SESSION_NEIGHBOURS]  # noqa: E731
        return [*first, lambda best: gaps, neighbours]
    return [
        *first,
        lambda best: [
            {"session_both_ways": both, "session_exponent": exponent}
            for both in (False, True)
            for exponent in _FOLLOWED
        ],
        lambda best: [{"session_hops": hops} for hops in (1, 3)],
        lambda best: gaps,
    ]


def _gaps(dataset: RatingDataset) -> list[float]:
    """Gaps that may end a session: quantiles of the times above 0 between two rows of a user."""
    graph = dataset.graph
    if graph.times is None:
        return []
    users = np.repeat(np.arange(graph.num_users), graph.by_user.degrees)
    order = np.lexsort((graph.times, users))
    users, times = users[order], graph.times[order]
    between = np.diff(times)[users[1:] == users[:-1]]
    between = between[between > 0]
    if not len(between):
        return []
    found = np.quantile(between, _GAPS, method="higher").astype(float)
    return list(dict.fromkeys(found.tolist()))


def _ease_stages(dataset: RatingDataset, levels: tuple[str, ...]) -> list[Stage]:
    if min(dataset.graph.num_users, dataset.graph.num_items) > MOST_TO_INVERT:
        return []
    return [
        lambda best: [{"ridge": ridge} for ridge in _RIDGES],
        lambda best: [
            {"positives": level, "ridge": ridge} for level in levels for ridge in _RIDGES
        ],
    ]


def _filter_stages(
    dataset: RatingDataset, config: BaselineConfig, levels: tuple[str, ...]
) -> list[Stage]:
    size = dataset.graph.num_items
    is_large = size > MOST_DENSE
    if is_large and config.filter != "turbo_cf":
        return []  # ranking a large catalogue takes minutes for each setting
    powers = (1.0,) if is_large else _POWERS
    exponents = (0.5, 0.6) if is_large else _EXPONENTS
    orders = (2,) if is_large else _ORDERS if size <= _MOST_TO_MULTIPLY else ()
    low_pass: list[Stage] = [
        lambda best: [{"filter": "gf_cf", "low_pass_weight": weight} for weight in _WEIGHTS]
    ]
    polynomial: list[Stage] = [
        lambda best: [
            {"user_exponent": exponent, "similarity_power": power}
            for exponent, power in product(exponents, powers)
        ],
        lambda best: [{"positives": level} for level in levels],
        lambda best: [{"filter_order": order} for order in orders],
    ]
    if config.filter == "gf_cf":
        return [*low_pass, lambda best: [{"positives": level} for level in levels]]
    return polynomial if config.filter == "turbo_cf" else [*polynomial, *low_pass]
