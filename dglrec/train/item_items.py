"""Item-item weights beside a trained list head: what they are made of, and how much they count.

EASE (Steck, WWW 2019) and vectors of a fixed width know different things: the one every pair of
items that is often rated together, the others what many pairs have in common. Their sum orders
better lists than either. Ratings speak by their value: a rating that is no positive counts as a
part of one, which validation chooses with the ridge and the scale.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse

from dglrec.baselines import ease_weights
from dglrec.dataset import RatingDataset
from dglrec.evaluate import RankingTargets, rank_lists
from dglrec.infer import ItemItems, ItemWeights, ListScorer
from dglrec.machine import available_memory, gib
from dglrec.nn import ModelConfig
from dglrec.progress import log
from dglrec.run import TrainedModel
from dglrec.train.objectives import Objective
from dglrec.train.validation import relevant_users

MOST_ITEMS = 10_000
"""The largest catalogue that `auto` makes item-item weights for: 0.4 GB while they are made."""

_KEPT = 512  # weights that each item keeps, the largest
_SHARES = (0.0, 0.3, 1.0)  # of a positive that counts for a rating which is none
_RIDGES = (100.0, 300.0, 1000.0)
_SCALES = (0.0, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0)  # times what makes both parts vary alike
_USERS = 5000  # that settings are chosen on, at most
_COPIES = 3  # squares that are alive at once


@dataclass(frozen=True)
class _Candidate:
    share: float
    ridge: float


def wants_item_items(config: ModelConfig, dataset: RatingDataset) -> bool:
    """Whether a model gets item-item weights.

    Args:
        config: the model's, its heads chosen.
        dataset: what it is trained on.
    """
    if not config.lists or config.item_items == "none":
        return False
    count = dataset.graph.num_items
    if config.item_items == "ease":
        return True
    needed = 4 * _COPIES * count * count
    if count > MOST_ITEMS:
        return False
    if needed > available_memory():
        log(f"no item-item weights: they would take {gib(needed)} of memory; lists do without")
        return False
    return True


def fit_item_items(
    trained: TrainedModel, objective: Objective, positives_from: float
) -> tuple[ItemWeights, dict[str, Any]] | None:
    """The weights that make the best validation lists together with the list head.

    Args:
        trained: the best epoch's model, without weights; its embeddings are computed already.
        objective: whose metric decides.
        positives_from: the least rating that counts whole.

    Returns:
        The weights and what was chosen, or None where lists are best without, or where no
        validation row is relevant.
    """
    dataset = trained.dataset
    found = relevant_users(dataset, "valid", _USERS)
    lists = trained.embeddings.lists
    if found is None or lists is None:
        return None
    targets = RankingTargets.of(dataset, "valid", *found)
    length = objective.list_length or 10
    name = objective.list_metric

    def figure(weights: ItemWeights | None) -> float:
        added = None if weights is None else ItemItems(weights, dataset.graph.by_user)
        scorer = ListScorer(*lists, item_items=added)
        return float(rank_lists(scorer.best, targets, [length]).finish()[name])

    best_figure, best = figure(None), None
    chosen: dict[str, Any] = {"scale": 0.0}
    log(f"lists of the list head alone: validation {name} {best_figure:.4f}")
    shares = _SHARES if dataset.has_ratings else (1.0,)
    unit: float | None = None
    candidates = [_Candidate(share, _RIDGES[1]) for share in shares]
    for stage in range(2):
        for candidate in candidates:
            weights = _weights(dataset, candidate, positives_from)
            if unit is None:
                unit = _unit(trained, weights)
            for scale in _SCALES[1:] if best is None or stage == 0 else _near(chosen["scale"]):
                scaled = _scaled(weights, scale * unit)
                reached = figure(scaled)
                if reached > best_figure:
                    best_figure, best = reached, scaled
                    chosen = {"share": candidate.share, "ridge": candidate.ridge, "scale": scale}
        if best is None:
            break
        candidates = [
            _Candidate(chosen["share"], ridge) for ridge in _RIDGES if ridge != chosen["ridge"]
        ]
    if best is None:
        log("item-item weights make no list better; lists do without")
        return None
    log(
        f"lists with item-item weights: validation {name} {best_figure:.4f} (a rating below "
        f"{positives_from:g} counts {chosen['share']:g}, ridge {chosen['ridge']:g}, scale "
        f"{chosen['scale']:g})"
    )
    return best, {**chosen, name: best_figure}


def _near(scale: float) -> tuple[float, ...]:
    """The scales around one."""
    return (scale / 2, scale / 1.4, scale, scale * 1.4, scale * 2)


def _weights(dataset: RatingDataset, candidate: _Candidate, positives_from: float) -> ItemWeights:
    graph, scale = dataset.graph, dataset.scale
    levels = scale.decode(np.arange(scale.levels))
    values = np.where(levels >= positives_from, 1.0, candidate.share).astype(np.float32)
    rows = sparse.csr_array(
        (
            values[np.asarray(graph.by_user.codes)],
            np.array(graph.by_user.neighbours),
            np.array(graph.by_user.offsets),
        ),
        shape=(graph.num_users, graph.num_items),
    )
    rows.eliminate_zeros()
    square = ease_weights(rows, candidate.ridge)
    return sparse_weights(square, values, _KEPT)


def sparse_weights(
    square: npt.NDArray[np.float32], values: npt.NDArray[np.float32], kept: int
) -> ItemWeights:
    """The largest weights of each item.

    Args:
        square: float32 [I, I]; row j is what item j says of all items.
        values: float32 [levels].
        kept: how many of each row stay.
    """
    count = len(square)
    if kept >= count:
        offsets = np.arange(count + 1, dtype=np.int64) * count
        items = np.tile(np.arange(count, dtype=np.int32), count)
        return ItemWeights(offsets, items, square.ravel(), values)
    offsets = np.arange(count + 1, dtype=np.int64) * kept
    items = np.empty((count, kept), dtype=np.int32)
    weights = np.empty((count, kept), dtype=np.float32)
    for row in range(count):
        largest = np.argpartition(-np.abs(square[row]), kept)[:kept]
        items[row] = np.sort(largest)
        weights[row] = square[row, items[row]]
    return ItemWeights(offsets, items.ravel(), weights.ravel(), values)


def _scaled(weights: ItemWeights, scale: float) -> ItemWeights:
    return ItemWeights(
        weights.offsets, weights.items, weights.weights * np.float32(scale), weights.values
    )


def _unit(trained: TrainedModel, weights: ItemWeights) -> float:
    """What weights are multiplied by for both parts of a user's scores to vary alike."""
    dataset, lists = trained.dataset, trained.embeddings.lists
    assert lists is not None
    active = np.flatnonzero(dataset.graph.by_user.degrees > 0)
    users = torch.from_numpy(np.random.default_rng(0).permutation(active)[:256])
    of_users = lists[0].factors[users.to(lists[0].factors.device)]
    scores = torch.addmm(lists[1].base, of_users, lists[1].factors.T)
    every = torch.arange(dataset.graph.num_items)
    added = ItemItems(weights, dataset.graph.by_user).rows(users, every)
    return float(scores.std(1).mean()) / max(float(added.std(axis=1).mean()), 1e-12)
