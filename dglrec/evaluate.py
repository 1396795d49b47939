"""A model on held-out rows -> metrics, with the baselines on the same rows beside it."""

from collections.abc import Callable
from dataclasses import astuple
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from dglrec.dataset import HeldOut, RatingDataset
from dglrec.distributed import ALONE, World
from dglrec.errors import UsageError
from dglrec.infer import Embeddings, predict_pairs
from dglrec.metrics import (
    RankingSums,
    RatingSums,
    class_weights,
    clip,
    level_of,
    ranking_sums,
    rating_sums,
)
from dglrec.nn import RatingModel
from dglrec.progress import progress
from dglrec.run import TrainedModel

SPLITS = ("test", "valid", "train")

_USERS_AT_ONCE = 256
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
    return _of_all(total, world)


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


def _of_all(sums: _Sums, world: World) -> _Sums:
    """The sums over all processes."""
    return type(sums)(*world.sum(astuple(sums)))


def evaluate(
    trained: TrainedModel,
    split: str = "test",
    *,
    ranking: int | None = None,
    relevant_from: float | None = None,
) -> dict[str, Any]:
    """All that `dglrec evaluate` reports.

    Rows of `train` are in the graph that the model reads, so its figures there are flattered.

    Args:
        trained: a run's model; of a world of several processes each measures a share, and all come
            to the same result.
        split: `test`, `valid` or `train`.
        ranking: K, for full-catalogue ranking metrics at K as well.
        relevant_from: the least rating of a relevant item; None for the mean training rating,
            rounded up to the scale.

    Returns:
        `rmse`, `mae`, `weighted_rmse`, `accuracy`, `n`, `split`, `baselines`; where the data came
        with a truth, `irreducible_rmse` and `gap_closed` (DESIGN, Terms); with ranking,
        `recall@K`, `ndcg@K`, `hit_rate@K`, `ranking_users` and `relevant_from`.

    Raises:
        UsageError: there is no such split, or ranking is not possible on it.
    """
    dataset, world = trained.dataset, trained.world
    with world.together():
        if ranking is not None:
            relevant_from = _check_ranking(dataset, split, ranking, relevant_from)
    embeddings = trained.embeddings  # before the rows are there: each takes much memory
    with world.together():
        rows = rows_of(dataset, split, world)
    result: dict[str, Any] = {"split": split}
    result |= measure(trained.model, embeddings, dataset, rows, world).finish()
    result["baselines"] = baselines(dataset, rows, world)
    if rows.expected is not None:
        irreducible = sums_of(rows.expected.__getitem__, rows, dataset, world).finish()["rmse"]
        bias = result["baselines"]["bias"]["rmse"]
        result["irreducible_rmse"] = irreducible
        result["gap_closed"] = (bias**2 - result["rmse"] ** 2) / (bias**2 - irreducible**2)
    if ranking is not None and relevant_from is not None:
        result |= _ranking(trained, split, ranking, relevant_from)
    return result


def _check_ranking(
    dataset: RatingDataset, split: str, k: int, relevant_from: float | None
) -> float:
    """The least rating of a relevant item.

    Raises:
        UsageError: ranking is not possible.
    """
    if split == "train":
        raise UsageError("--ranking leaves out what a user rated in training; choose test or valid")
    if not 1 <= k <= dataset.graph.num_items:
        raise UsageError(
            f"--ranking {k}: must be from 1 to the catalogue's {dataset.graph.num_items} items"
        )
    if relevant_from is None:
        relevant_from = _next_level(dataset.biases.mean, dataset)
    if not (dataset.held_out(split).ratings >= relevant_from).any():
        raise UsageError(f"no {split} row is rated {relevant_from:g} or more; nothing to rank")
    return relevant_from


def _ranking(trained: TrainedModel, split: str, k: int, relevant_from: float) -> dict[str, Any]:
    dataset, graph, world = trained.dataset, trained.dataset.graph, trained.world
    rows = dataset.held_out(split)  # all of them: users are shared here, not rows
    wanted_rows = dataset.held_out_by_user(split)
    # Ranking test rows, what validation holds is no candidate either: it was rated.
    rated = dataset.rated_items(["valid"] if split == "test" else [])
    users = rows.users[rows.ratings >= relevant_from].unique()
    users = users.tensor_split(world.size)[world.rank]
    total = RankingSums()
    with progress("ranking the catalogue", len(users), "users", shown=world.is_first) as advance:
        for part in users.split(_USERS_AT_ONCE):
            scores, best = trained.scorer.best(part, rated, k)
            wanted = torch.zeros(len(part), graph.num_items, dtype=torch.bool)
            for position, user in enumerate(part.tolist()):
                row = wanted_rows.of(user)
                # Ratings, not codes: the threshold may lie between two of them, or off the scale.
                liked = dataset.scale.decode(wanted_rows.codes[row]) >= relevant_from
                wanted[position, torch.from_numpy(wanted_rows.neighbours[row][liked]).long()] = True
            hits = wanted.gather(1, best) & scores.isfinite()
            total = total + ranking_sums(hits, wanted.sum(1))
            advance(len(part))
    return {**_of_all(total, world).finish(k), "relevant_from": relevant_from}


def _next_level(rating: float, dataset: RatingDataset) -> float:
    """The least value of the scale that is not below a rating."""
    scale = dataset.scale
    value = torch.tensor([rating], dtype=torch.float64)
    level = int(level_of(clip(value, scale), scale))
    below = scale.minimum + level * scale.step < rating
    return scale.minimum + min(level + below, scale.levels - 1) * scale.step
