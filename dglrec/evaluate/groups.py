"""Groups of rows: by new users and items, item popularity, user activity, rating and prediction.

All processes define the same groups, so that the sums of their shares add up group by group.
"""

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dglrec.dataset import HeldOut, RatingDataset
from dglrec.distributed import World
from dglrec.evaluate.ages import Ages, by_age
from dglrec.evaluate.rows import Grouping, PredictRows, grouped_sums, stretches
from dglrec.graph import RatingGraph
from dglrec.metrics import RatingSums, clip, level_of

HEAD_PERCENT = 80
"""The percentage of the training ratings that the head of the catalogue holds."""

_BOUNDS = (1, 5, 10, 20, 50, 100, 200, 500, 1000)  # the fewest training ratings of each group
_DECILES = 10
_BINS = 4096  # of the scale, from which the deciles are found

# A row has the kind of its item; `_KINDS` is added where its user is new.
_HEAD, _TAIL, _NEW, _KINDS = range(4)
_PARTS = {
    "new_users": (_KINDS + _HEAD, _KINDS + _TAIL, _KINDS + _NEW),
    "new_items": (_NEW, _KINDS + _NEW),
    "head_items": (_HEAD, _KINDS + _HEAD),
    "tail_items": (_TAIL, _NEW, _KINDS + _TAIL, _KINDS + _NEW),
}


def head_items(degrees: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """The items of the catalogue's head, bool [I]; the other items are its long tail.

    The head is the smallest set of most rated items that together hold 80 % of the training
    ratings. Measuring the few items with many ratings apart from the many items with few follows
    Park and Tuzhilin, "The long tail of recommender systems and how to leverage it", RecSys 2008,
    where errors grow towards the tail; 80 % is the usual rule of thumb.

    Args:
        degrees: int64 [I] training ratings of each item; ties are ordered by index.
    """
    order = np.argsort(-degrees, kind="stable")
    held = np.cumsum(degrees[order])
    is_head = np.zeros(len(degrees), dtype=bool)
    # Up to and including the first item with which the share is reached.
    is_head[order[: int(np.searchsorted(100 * held, HEAD_PERCENT * held[-1])) + 1]] = True
    return is_head


def by_kind(graph: RatingGraph, rows: HeldOut) -> Grouping:
    """Rows by whether their user is new, and whether their item is new, of the head or the tail."""
    degrees = graph.by_item.degrees
    of_items = np.where(head_items(degrees), _HEAD, np.where(degrees > 0, _TAIL, _NEW))
    of_users = np.where(graph.by_user.degrees > 0, 0, _KINDS)
    users, items = rows.users.numpy(), rows.items.numpy()
    return Grouping(2 * _KINDS, lambda part: of_users[users[part]] + of_items[items[part]])


def parts_by_kind(model: list[RatingSums], bias: list[RatingSums]) -> dict[str, Any]:
    """Figures of new users, new items, head and tail; a group without rows is left out.

    Args:
        model: the model's sums by kind.
        bias: the bias baseline's sums by kind.
    """
    parts = {}
    for name, kinds in _PARTS.items():
        of_model, of_bias = (_sum(sums[kind] for kind in kinds) for sums in (model, bias))
        if of_model.n:
            parts[name] = _beside(of_model, of_bias)
    return parts


def details_of(
    predictions: Tensor,
    bias: PredictRows,
    rows: HeldOut,
    dataset: RatingDataset,
    world: World,
    notes: list[str],
) -> dict[str, Any]:
    """What `--details` adds: calibration, and figures by activity, popularity, rating and age.

    Args:
        predictions: float32 [n] of this process's rows.
        bias: the bias baseline's predictions of these rows.
        rows: this process's share.
        dataset: the data set of the rows.
        world: the processes that share the rows.
        notes: a list to which notes on figures left out are appended.
    """
    graph, scale = dataset.graph, dataset.scale
    of_users, of_items = graph.by_user.degrees, graph.by_item.degrees
    by_user, by_item = by_degree(of_users, rows.users), by_degree(of_items, rows.items)
    by_level = Grouping(
        scale.levels, lambda part: level_of(rows.ratings[part].double(), scale).numpy()
    )
    deciles = by_prediction(predictions, rows, dataset, world)
    _, (user_sums, item_sums, level_sums, decile_sums) = grouped_sums(
        predictions.__getitem__, rows, dataset, [by_user, by_item, by_level, deciles], world
    )
    _, (user_bias, item_bias) = grouped_sums(bias, rows, dataset, [by_user, by_item], world)
    ages = by_age(rows, dataset, world)
    users, items = _present(rows.users, of_users, world), _present(rows.items, of_items, world)
    found: dict[str, Any] = {}
    calibration = _calibration(decile_sums, _ranges(predictions, deciles, rows, dataset, world))
    count = len(calibration["groups"])
    if count == 1:
        notes.append("calibration: left out, as predictions hardly differ")
    else:
        found["calibration"] = calibration
        if count < _DECILES:
            notes.append(
                f"calibration: {count} groups in place of {_DECILES}, as too few predictions differ"
            )
    return {
        **found,
        "by_user_activity": _by_degree_figures("users", users, user_sums, user_bias),
        "by_item_popularity": _by_degree_figures("items", items, item_sums, item_bias),
        "by_rating": [
            {
                "rating": round(scale.minimum + scale.step * level, 9),
                "n": round(sums.n),
                "mean_prediction": sums.predicted / sums.n,
                "rmse": sums.finish()["rmse"],
            }
            for level, sums in enumerate(level_sums)
            if sums.n
        ],
        **({} if ages is None else _by_age_figures(ages, predictions, bias, rows, dataset, world)),
    }


def _by_age_figures(
    ages: Ages,
    predictions: Tensor,
    bias: PredictRows,
    rows: HeldOut,
    dataset: RatingDataset,
    world: World,
) -> dict[str, Any]:
    """`by_age`: figures of each group of rows that has an age."""
    grouping = [ages.grouping]
    _, (of_model,) = grouped_sums(predictions.__getitem__, rows, dataset, grouping, world)
    _, (of_bias,) = grouped_sums(bias, rows, dataset, grouping, world)
    # The last group has no range: the rows without an age.
    parts = zip(ages.ranges, of_model, of_bias, strict=False)
    return {
        "by_age": [
            {
                "from": first,
                "to": last,
                "mean_error": (model.predicted - model.rated) / model.n,
                **_beside(model, other),
            }
            for (first, last), model, other in parts
        ]
    }


def by_degree(degrees: npt.NDArray[np.int64], nodes: Tensor) -> Grouping:
    """Rows by the number of training ratings of their user or item.

    Args:
        degrees: int64 [N] training ratings of each user or item.
        nodes: int64 [n] the users or items of the rows.
    """
    groups, ends = _group_of(degrees), nodes.numpy()
    return Grouping(len(_BOUNDS) + 1, lambda part: groups[ends[part]])


def by_prediction(
    predictions: Tensor, rows: HeldOut, dataset: RatingDataset, world: World
) -> Grouping:
    """Rows in up to ten groups by prediction, equal in size but for ties.

    The groups consist of whole bins of the scale, so that all processes divide rows alike. A bin
    belongs to the decile in which its middle row lies.
    """
    scale = dataset.scale
    per_rating = _BINS / (scale.maximum - scale.minimum)

    def bins(part: slice) -> npt.NDArray[np.int64]:
        steps = (clip(predictions[part].double(), scale) - scale.minimum) * per_rating
        return np.asarray(steps.long().clamp_(max=_BINS - 1).numpy())

    counts = np.zeros(_BINS)
    for part in stretches(rows):
        counts += np.bincount(bins(part), minlength=_BINS)
    counts = np.array(world.sum(counts.tolist()))
    middles = np.cumsum(counts) - counts / 2
    deciles = (_DECILES * middles / counts.sum()).astype(np.int64).clip(max=_DECILES - 1)
    return Grouping(_DECILES, lambda part: deciles[bins(part)])


def _ranges(
    predictions: Tensor, groups: Grouping, rows: HeldOut, dataset: RatingDataset, world: World
) -> list[tuple[float, float]]:
    """The lowest and the highest prediction of each group, clipped to the scale."""
    ends = torch.full((2, groups.count), torch.inf, dtype=torch.float64)
    for part in stretches(rows):
        values = clip(predictions[part].double(), dataset.scale)
        places = torch.from_numpy(groups.of(part))
        ends[0].scatter_reduce_(0, places, values, "amin")
        ends[1].scatter_reduce_(0, places, -values, "amin")
    low, high = torch.cat(world.gather_parts(ends.unsqueeze(0))).amin(0)
    return list(zip(low.tolist(), (-high).tolist(), strict=True))


def _calibration(groups: list[RatingSums], ranges: list[tuple[float, float]]) -> dict[str, Any]:
    """Mean prediction and mean rating of each group, and the expected calibration error.

    The expected calibration error is the mean over rows of |mean prediction - mean rating| in the
    row's group: the measure of Naeini, Cooper and Hauskrecht, "Obtaining well calibrated
    probabilities using Bayesian binning", AAAI 2015, for ratings in place of probabilities.
    """
    listed = [
        {
            "n": round(sums.n),
            "lowest": low,
            "highest": high,
            "mean_prediction": sums.predicted / sums.n,
            "mean_rating": sums.rated / sums.n,
            "rmse": sums.finish()["rmse"],
        }
        for sums, (low, high) in zip(groups, ranges, strict=True)
        if sums.n
    ]
    off = sum(abs(sums.predicted - sums.rated) for sums in groups)
    return {"expected_calibration_error": off / _sum(groups).n, "groups": listed}


def _by_degree_figures(
    what: str, present: npt.NDArray[np.int64], model: list[RatingSums], bias: list[RatingSums]
) -> list[dict[str, Any]]:
    """Figures of each group of degrees that has rows, and the number of its users or items."""
    return [
        {
            "training_ratings": _named(group),
            what: int(present[group]),
            "mean_error": (of_model.predicted - of_model.rated) / of_model.n,
            **_beside(of_model, of_bias),
        }
        for group, (of_model, of_bias) in enumerate(zip(model, bias, strict=True))
        if of_model.n
    ]


def _beside(model: RatingSums, bias: RatingSums) -> dict[str, Any]:
    """Figures of a group, and the bias baseline's error on the same rows."""
    whole = model.finish()
    return {
        **{name: whole[name] for name in ("n", "rmse", "mae", "accuracy")},
        "baselines": {"bias": {"rmse": bias.finish()["rmse"]}},
    }


def _sum(groups: Iterable[RatingSums]) -> RatingSums:
    return sum(groups, start=RatingSums())


def _group_of(degrees: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.searchsorted(_BOUNDS, degrees, side="right")


def _named(group: int) -> str:
    """The name of a group of degrees: "0", "1-4", ..., "1000+"."""
    names = ["0", *(f"{low}-{high - 1}" for low, high in pairwise(_BOUNDS)), f"{_BOUNDS[-1]}+"]
    return names[group]


def _present(nodes: Tensor, degrees: npt.NDArray[np.int64], world: World) -> npt.NDArray[np.int64]:
    """The number of users or items in each group of degrees, over the rows of all processes."""
    seen = torch.zeros(len(degrees), dtype=torch.bool)
    seen[nodes] = True
    seen[torch.cat(world.gather_parts(seen.nonzero().squeeze(1)))] = True
    return np.bincount(_group_of(degrees[seen.numpy()]), minlength=len(_BOUNDS) + 1)
