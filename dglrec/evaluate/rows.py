"""Rows of a data set, and the sums of a predictor's errors on them."""

from collections.abc import Callable
from dataclasses import astuple
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from dglrec.dataset import HeldOut, RatingDataset
from dglrec.distributed import ALONE, World
from dglrec.errors import UsageError
from dglrec.infer import Embeddings, predict_pairs
from dglrec.metrics import RankingSums, RatingSums, class_weights, rating_sums
from dglrec.nn import RatingModel

SPLITS = ("test", "valid", "train")

_ROWS_AT_ONCE = 1 << 18

_Sums = TypeVar("_Sums", RatingSums, RankingSums)


def measure(
    model: RatingModel,
    embeddings: Embeddings,
    dataset: RatingDataset,
    rows: HeldOut,
    world: World = ALONE,
) -> RatingSums:
    """Sums of the model's errors on some rows, those of all processes together."""

    def predict(part: slice) -> Tensor:
        users, items = rows.users[part], rows.items[part]
        return predict_pairs(model, embeddings, dataset.biases, users, items)

    return sums_of(predict, rows, dataset, world)


def sums_of(
    predict: Callable[[slice], Tensor], rows: HeldOut, dataset: RatingDataset, world: World = ALONE
) -> RatingSums:
    """Sums of any predictor's errors on some rows: the one way to a rating metric.

    Args:
        predict: a stretch of the rows -> float32 [n] predictions; not for all rows at once.
        rows: this process's share.
        dataset: theirs.
        world: processes whose rows count together.
    """
    weights = class_weights(dataset.graph.level_counts)
    total = RatingSums()
    for first in range(0, len(rows), _ROWS_AT_ONCE):
        part = slice(first, first + _ROWS_AT_ONCE)
        total = total + rating_sums(predict(part), rows.ratings[part], dataset.scale, weights)
    return of_all(total, world)


def rows_of(dataset: RatingDataset, split: str, world: World = ALONE) -> HeldOut:
    """This process's share of the rows of `train`, `valid` or `test`.

    Raises:
        UsageError: there is no such split.
    """
    if split not in SPLITS:
        raise UsageError(f"no split {split!r}; choose {', '.join(SPLITS)}")
    if split != "train":
        return dataset.held_out(split, *world.share_of(dataset.meta["counts"][split]))
    by_user = dataset.graph.by_user
    first, last = world.share_of(len(by_user.neighbours))
    users = np.repeat(np.arange(by_user.num_nodes), by_user.degrees)[first:last]
    return HeldOut(
        users=torch.from_numpy(users),
        items=torch.from_numpy(np.asarray(by_user.neighbours[first:last])).long(),
        ratings=torch.from_numpy(dataset.scale.decode(np.asarray(by_user.codes[first:last]))),
    )


def baselines(
    dataset: RatingDataset, rows: HeldOut, world: World = ALONE
) -> dict[str, dict[str, float | int]]:
    """Metrics of the global mean, and of mean and biases, on some rows."""
    biases = dataset.biases
    predictors: dict[str, Callable[[slice], Tensor]] = {
        "global_mean": lambda part: torch.full_like(rows.ratings[part], biases.mean),
        "bias": lambda part: biases.predict(rows.users[part], rows.items[part]),
    }
    return {
        name: sums_of(predict, rows, dataset, world).finish()
        for name, predict in predictors.items()
    }


def of_all(sums: _Sums, world: World) -> _Sums:
    """The sums over all processes."""
    return type(sums)(*world.sum(astuple(sums)))
