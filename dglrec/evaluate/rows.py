"""Rows of a data set, and the sums of a predictor's errors over all rows and groups of rows."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dglrec.dataset import HeldOut, RatingDataset
from dglrec.distributed import ALONE, World
from dglrec.errors import UsageError
from dglrec.infer import Embeddings, predict_pairs
from dglrec.metrics import RatingSums, class_weights, rating_terms
from dglrec.nn import RatingModel
from dglrec.progress import progress

SPLITS = ("test", "valid", "train")

_ROWS_AT_ONCE = 1 << 18

Predict = Callable[[Tensor, Tensor], Tensor]
"""int64 [n] users and int64 [n] items -> float32 [n] predicted ratings, on the CPU."""

PredictRows = Callable[[slice], Tensor]
"""A slice of some rows -> float32 [n] predicted ratings."""


@dataclass(frozen=True)
class Grouping:
    """A division of rows into groups.

    Attributes:
        count: the number of groups; some may be empty.
        of: a slice of the rows -> the group of each row, [n] from 0.
    """

    count: int
    of: Callable[[slice], npt.NDArray[Any]]


def measure(
    model: RatingModel,
    embeddings: Embeddings,
    dataset: RatingDataset,
    rows: HeldOut,
    world: World = ALONE,
) -> RatingSums:
    """Sums of the model's errors over some rows of all processes."""

    def predict(users: Tensor, items: Tensor) -> Tensor:
        return predict_pairs(model, embeddings, dataset.biases, users, items)

    return sums_of(on_rows(predict, rows), rows, dataset, world)


def on_rows(predict: Predict, rows: HeldOut) -> PredictRows:
    """A predictor of pairs as a predictor of slices of some rows."""
    return lambda part: predict(rows.users[part], rows.items[part])


def predict_rows(predict: Predict, rows: HeldOut, world: World = ALONE) -> Tensor:
    """float32 [n]: the predictions for this process's share of the rows."""
    predictions = torch.empty(len(rows))
    shown = progress("predicting ratings", len(rows), "ratings", shown=world.is_first)
    with shown as advance:
        for part in stretches(rows):
            predictions[part] = on_rows(predict, rows)(part)
            advance(len(predictions[part]))
    return predictions


def stretches(rows: HeldOut) -> Iterator[slice]:
    """Slices of at most `_ROWS_AT_ONCE` rows, which keep memory small."""
    for first in range(0, len(rows), _ROWS_AT_ONCE):
        yield slice(first, min(first + _ROWS_AT_ONCE, len(rows)))


def sums_of(
    predict: PredictRows, rows: HeldOut, dataset: RatingDataset, world: World = ALONE
) -> RatingSums:
    """Sums of a predictor's errors over some rows.

    Args:
        predict: a slice of the rows -> float32 [n] predictions; called slice by slice.
        rows: this process's share.
        dataset: the data set of the rows.
        world: the processes that share the rows.
    """
    return grouped_sums(predict, rows, dataset, [], world)[0]


def grouped_sums(
    predict: PredictRows,
    rows: HeldOut,
    dataset: RatingDataset,
    groupings: Sequence[Grouping],
    world: World = ALONE,
) -> tuple[RatingSums, list[list[RatingSums]]]:
    """Sums of a predictor's errors over some rows and over groups of them.

    All rating metrics come from this function.

    Args:
        predict: as in `sums_of`.
        rows: this process's share.
        dataset: the data set of the rows.
        groupings: independent divisions of the rows.
        world: the processes that share the rows.

    Returns:
        The sums over all rows, and for each grouping the sums of each group.
    """
    weights = class_weights(dataset.level_counts)
    total = RatingSums()
    tables = [np.zeros((len(fields(RatingSums)), grouping.count)) for grouping in groupings]
    for part in stretches(rows):
        terms = rating_terms(predict(part), rows.ratings[part], dataset.scale, weights)
        total = total + RatingSums(*terms.sum(1).tolist())
        for grouping, table in zip(groupings, tables, strict=True):
            groups = grouping.of(part)
            for sums, values in zip(table, terms.numpy(), strict=True):
                sums += np.bincount(groups, values, minlength=grouping.count)
    summed = [
        np.array(world.sum(table.flatten().tolist())).reshape(table.shape) for table in tables
    ]
    return of_all(total, world), [
        [RatingSums(*group) for group in table.T.tolist()] for table in summed
    ]


def rows_of(dataset: RatingDataset, split: str, world: World = ALONE) -> HeldOut:
    """This process's share of the rows of `train`, `valid` or `test`.

    Raises:
        UsageError: there is no such split.
    """
    check_split(split)
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


def check_split(split: str) -> None:
    """Refuse a name that no split has.

    Raises:
        UsageError: there is no such split.
    """
    if split not in SPLITS:
        raise UsageError(f"no split {split!r}; choose {', '.join(SPLITS)}")


def baseline_predictors(dataset: RatingDataset) -> dict[str, Predict]:
    """The predictors `global_mean`, and `bias`: mean + user bias + item bias."""
    biases = dataset.biases
    return {
        "global_mean": lambda users, items: torch.full((len(users),), biases.mean),
        "bias": biases.predict,
    }


def baselines(
    dataset: RatingDataset, rows: HeldOut, world: World = ALONE
) -> dict[str, dict[str, float | int]]:
    """Metrics of the `baseline_predictors` on some rows."""
    return {
        name: sums_of(on_rows(predict, rows), rows, dataset, world).finish()
        for name, predict in baseline_predictors(dataset).items()
    }


def of_all(sums: RatingSums, world: World) -> RatingSums:
    """The sums over all processes."""
    return RatingSums(*world.sum(astuple(sums)))
