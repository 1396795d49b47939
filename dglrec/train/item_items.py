"""Item-item weights whose scores are added to those of a trained list head: fitting and scaling.

EASE (Steck, WWW 2019) and vectors of a fixed width learn different things: EASE every pair of items
that is often rated together, vectors what many pairs have in common. The sum of their scores makes
better lists than either. The value of a rating matters: a rating that is not a positive counts as a
fraction of one. Validation chooses this fraction, the ridge and the scale.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse

from dglrec.baselines import ease_weights
from dglrec.dataset import RatingDataset
from dglrec.errors import UnusableEnvironmentError
from dglrec.evaluate import RankingTargets, rank_lists
from dglrec.infer import ItemItems, ItemWeights, ListScorer
from dglrec.machine import available_memory, gib
from dglrec.nn import ModelConfig
from dglrec.progress import log, progress
from dglrec.run import TrainedModel
from dglrec.train.objectives import Objective
from dglrec.train.validation import relevant_users

MOST_ITEMS = 10_000
"""The largest catalogue for which `auto` makes EASE weights: fitting them takes 1.2 GB."""

MOST_PAIRS = 4_000_000_000
"""The largest number of pairs of a user's items, over all users, for which `auto` makes the graph
of items."""

MOST_WEIGHTS = 64_000_000
"""The largest number of weights, of 8 bytes each, of a graph of items that `auto` makes."""

_KEPT = {"ease": 512, "graph": 1024}  # weights kept for each item, the largest
_SHARES = (0.3, 0.0, 1.0)  # fractions of a positive that other ratings count
_SETTINGS = {"ease": (300.0, 100.0, 1000.0), "graph": (0.4, 0.5, 0.3)}
_SCALES = (0.09, 0.18, 0.35, 0.7, 1.4, 2.8)  # relative to `_unit`
_USERS = 20_000  # the most users that settings are chosen on
_COPIES = 3  # [I, I] matrices in memory at the same time
_ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class _Candidate:
    """Settings of item-item weights.

    Attributes:
        kind: `ease` or `graph`.
        share: the fraction of a positive that a rating counts which is not a positive.
        setting: EASE's ridge, or the exponent of the users' degrees in the graph.
    """

    kind: str
    share: float
    setting: float


def item_items_of(config: ModelConfig, dataset: RatingDataset) -> str:
    """The kind of item-item weights that a model gets: `ease`, `graph` or `none`.

    Args:
        config: the model's configuration, with its heads resolved.
        dataset: the data set that it is trained on.

    Raises:
        UnusableEnvironmentError: `ease` is configured, and does not fit in memory.
    """
    if not config.lists or config.item_items == "none":
        return "none"
    count = dataset.graph.num_items
    needed, available = 4 * _COPIES * count * count, available_memory()
    if config.item_items == "ease" and needed > available:
        raise UnusableEnvironmentError(
            f"model.item_items = ease needs {gib(needed)} of memory for {count:,} items, and there "
            f"are {gib(available)}; take graph or none"
        )
    if config.item_items != "auto":
        return config.item_items
    if count <= MOST_ITEMS and needed <= available:
        return "ease"
    pairs = int((dataset.graph.by_user.degrees.astype(np.float64) ** 2).sum())
    kept = min(pairs, count * _KEPT["graph"])
    return "graph" if pairs <= MOST_PAIRS and kept <= MOST_WEIGHTS else "none"


def fit_item_items(
    trained: TrainedModel, objective: Objective, positives_from: float, kind: str
) -> tuple[ItemWeights, dict[str, Any]] | None:
    """The weights that make the best validation lists together with the list head.

    Args:
        trained: the best epoch's model, without weights; its embeddings are computed already.
        objective: its metric decides.
        positives_from: the lowest rating that counts as a whole positive.
        kind: `ease` or `graph`.

    Returns:
        The weights and their settings, or None where lists are best without weights, or where no
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
    log(f"lists of the list head alone: validation {name} {best_figure:.4f}")
    first, *others = _SETTINGS[kind]
    shares = _SHARES if dataset.has_ratings else (1.0,)
    chosen, scale = _Candidate(kind, shares[0], first), 0.0
    unit: float | None = None

    def search(candidate: _Candidate, scales: Sequence[float]) -> None:
        nonlocal best_figure, best, chosen, scale, unit
        weights = _weights(dataset, candidate, positives_from)
        # The size of the scores differs from setting to setting.
        unit = _unit(trained, weights)
        for factor in scales:
            scaled = _scaled(weights, factor * unit)
            reached = figure(scaled)
            if reached > best_figure:
                best_figure, best, chosen, scale = reached, scaled, candidate, factor

    for share in shares:
        search(replace(chosen, share=share), _SCALES)
    if best is None:
        log("item-item weights do not improve the lists, which are made without them")
        return None
    for setting in others:
        search(replace(chosen, setting=setting), _near(scale))
    what = "ridge" if kind == "ease" else "exponent"
    counts = f", a rating below {positives_from:g} counts {chosen.share:g}"
    log(
        f"lists with item-item weights: validation {name} {best_figure:.4f} ({kind}, {what} "
        f"{chosen.setting:g}, scale {scale:g}{counts if dataset.has_ratings else ''})"
    )
    return best, {**vars(chosen), "scale": scale, name: best_figure}


def refit_item_items(
    trained: TrainedModel, positives_from: float, chosen: Mapping[str, Any] | None
) -> tuple[ItemWeights, dict[str, Any]] | None:
    """Weights of these training rows, with the settings that `fit_item_items` chose in another run.

    Args:
        trained: the model, without weights; its embeddings are computed already.
        positives_from: the lowest rating that counts as a whole positive.
        chosen: the chosen settings; None for no weights.
    """
    if chosen is None:
        return None
    candidate = _Candidate(chosen["kind"], chosen["share"], chosen["setting"])
    weights = _weights(trained.dataset, candidate, positives_from)
    return _scaled(weights, chosen["scale"] * _unit(trained, weights)), dict(chosen)


def _near(scale: float) -> tuple[float, ...]:
    """The scales around a given scale."""
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
    if candidate.kind == "ease":
        return sparse_weights(ease_weights(rows, candidate.setting), values, _KEPT[candidate.kind])
    return graph_weights(rows, candidate.setting, values, _KEPT[candidate.kind])


def graph_weights(
    rows: sparse.csr_array, exponent: float, values: npt.NDArray[np.float32], kept: int
) -> ItemWeights:
    """The largest weights of each item in the normalised item graph, whose edges are shared users.

    P = N^T N with N = D_u^-a X D_i^(a - 1), X the rows and D the degrees (Park, Shin and Shin,
    "Turbo-CF: matrix decomposition-free graph filtering for fast recommendation", SIGIR 2024,
    equations 3-4), without the diagonal.

    Args:
        rows: float32 [U, I].
        exponent: a.
        values: float32 [levels].
        kept: the number of weights kept for each item.
    """
    ones = sparse.csr_array((np.ones_like(rows.data), rows.indices, rows.indptr), rows.shape)
    user_degrees = np.maximum(ones.sum(axis=1), 1.0)
    item_degrees = np.maximum(ones.sum(axis=0), 1.0)
    normalised = rows * (user_degrees**-exponent)[:, None] * (item_degrees ** (exponent - 1))[None]
    normalised = sparse.csr_array(normalised, dtype=np.float32)
    turned = normalised.T.tocsr()
    count = rows.shape[1]
    items: list[npt.NDArray[np.int32]] = []
    weights: list[npt.NDArray[np.float32]] = []
    sizes: list[npt.NDArray[np.int64]] = []
    with progress("comparing items", count, "items") as advance:
        for first in range(0, count, _ROWS_AT_ONCE):
            part = sparse.csr_array(turned[first : first + _ROWS_AT_ONCE] @ normalised)
            for row in range(part.shape[0]):
                low, high = part.indptr[row], part.indptr[row + 1]
                named, found = part.indices[low:high], part.data[low:high]
                other = named != first + row
                named, found = named[other], found[other]
                if len(named) > kept:
                    largest = np.argpartition(-found, kept)[:kept]
                    named, found = named[largest], found[largest]
                order = np.argsort(named)
                items.append(named[order].astype(np.int32))
                weights.append(found[order])
                sizes.append(np.array([len(named)], dtype=np.int64))
            advance(part.shape[0])
    offsets = np.concatenate(([0], np.cumsum(np.concatenate(sizes))))
    return ItemWeights(offsets, np.concatenate(items), np.concatenate(weights), values)


def sparse_weights(
    square: npt.NDArray[np.float32], values: npt.NDArray[np.float32], kept: int
) -> ItemWeights:
    """The largest weights of each item.

    Args:
        square: float32 [I, I]; row j holds the weights W_ji of item j.
        values: float32 [levels].
        kept: the number of weights kept in each row.
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
    """The factor for the weights with which both parts of a score have the same spread."""
    dataset, lists = trained.dataset, trained.embeddings.lists
    assert lists is not None
    active = np.flatnonzero(dataset.graph.by_user.degrees > 0)
    users = torch.from_numpy(np.random.default_rng(0).permutation(active)[:256])
    of_users = lists[0].factors[users.to(lists[0].factors.device)]
    scores = torch.addmm(lists[1].base, of_users, lists[1].factors.T)
    all_items = torch.arange(dataset.graph.num_items)
    added = ItemItems(weights, dataset.graph.by_user).rows(users, all_items)
    return float(scores.std(1).mean()) / max(float(added.std(axis=1).mean()), 1e-12)
