"""Baselines by name: fit them, search their settings, load them."""

import json
from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from dglrec.baselines.config import BaselineConfig
from dglrec.baselines.cosine import CosineNeighbours
from dglrec.baselines.ease import Ease
from dglrec.baselines.following import FollowingItems
from dglrec.baselines.graph_filter import GraphFilter
from dglrec.baselines.neighbours import ItemNeighbours, check_size
from dglrec.baselines.popularity import Popularity
from dglrec.baselines.ranker import Known, Ranker, check_fits
from dglrec.baselines.recent import times_of
from dglrec.baselines.search import stages_of, start_of
from dglrec.baselines.session_ranker import SessionRanker
from dglrec.baselines.simple import BiasBaseline, GlobalMean
from dglrec.dataset import RatingDataset
from dglrec.distributed import ALONE, World
from dglrec.kernels import ItemLists
from dglrec.progress import log


class Baseline(Protocol):
    """The interface of a fitted baseline."""

    rates: bool
    """Whether it predicts ratings; if not, it only ranks."""

    def predict(self, users: Tensor, items: Tensor) -> Tensor:
        """Predicted ratings of n pairs, float32 [n], not clipped to the scale.

        Args:
            users: int64 [n].
            items: int64 [n].

        Raises:
            UsageError: it only ranks.
        """

    def rank_pairs(self, users: Tensor, items: Tensor) -> Tensor:
        """The scores that lists are ordered by, for n pairs, float32 [n].

        Args:
            users: int64 [n].
            items: int64 [n].
        """

    def best(self, users: Tensor, left_out: ItemLists, k: int) -> tuple[Tensor, Tensor]:
        """The items that come first for each of n users; as `Scorer.best`."""

    def state(self) -> dict[str, Tensor]:
        """The tensors that a checkpoint keeps, by name."""


Score = Callable[[Baseline], float]
"""How good a model is on validation rows; higher is better."""

_RATING: dict[str, type[GlobalMean] | type[BiasBaseline] | type[ItemNeighbours]] = {
    "global_mean": GlobalMean,
    "bias": BiasBaseline,
    "item_knn": ItemNeighbours,
}
_RANKING: dict[str, type[Ranker]] = {
    "ease": Ease,
    "graph_filter": GraphFilter,
    "session": FollowingItems,
    "vsknn": SessionRanker,
    "item_knn": CosineNeighbours,  # for interactions; for ratings it is ItemNeighbours
}
_OF_SESSIONS = ("session", "vsknn")
_BROADCAST_AT_ONCE = 1 << 28  # numbers


def predicts_ratings(kind: str, *, has_ratings: bool) -> bool:
    """Whether a kind of baseline predicts ratings; if not, it only makes lists."""
    return has_ratings and kind in _RATING


def check_data(kind: str, dataset: RatingDataset) -> None:
    """Refuse a data set that lacks what a baseline reads, before anything else is done.

    Raises:
        UsageError: the baseline reads sessions, and there are no timestamps.
    """
    if kind in _OF_SESSIONS:
        times_of(dataset, kind)


def check_memory(
    kind: str, dataset: RatingDataset, config: BaselineConfig, world: World = ALONE
) -> None:
    """Refuse a model that takes too much memory, before a folder is made for it.

    Args:
        kind: as in `model.kind`.
        dataset: a prepared data set.
        config: the baseline's settings.
        world: the processes, which may share a machine's memory.

    Raises:
        DataError, UnusableEnvironmentError: the model takes too much memory.
    """
    ranker = _ranker_of(kind, dataset)
    if kind == "item_knn" and ranker is None:
        check_size(dataset)
    elif ranker is not None:
        _check_memory(kind, ranker, dataset, config, world, searching=False, said=False)


def _check_memory(
    kind: str,
    ranker: type[Ranker],
    dataset: RatingDataset,
    config: BaselineConfig,
    world: World,
    *,
    searching: bool,
    said: bool,
) -> None:
    start = start_of(kind, dataset, config)
    needed = ranker.footprint(dataset, start, world.local_size, searching)
    check_fits(kind, dataset.graph.num_items, needed, said=said)


def fit_model(
    kind: str,
    dataset: RatingDataset,
    config: BaselineConfig,
    world: World = ALONE,
    score: Score | None = None,
) -> tuple[Baseline, BaselineConfig]:
    """Fit a baseline to the training rows; every process has to call it.

    Args:
        kind: as in `model.kind`.
        dataset: a prepared data set.
        config: the baseline's settings.
        world: the processes, which all get the result. A model of ratings is fitted by all of them
            together; a model that only ranks, by the first.
        score: chooses settings that are `auto`; None takes defaults for them.

    Returns:
        The model and its settings; none is `auto` any more if it was to be chosen.

    Raises:
        UsageError: a setting does not fit the data set.
        DataError, UnusableEnvironmentError: the model takes too much memory.
    """
    if kind == "popularity":
        return Popularity(dataset.graph), config
    ranker = _ranker_of(kind, dataset)
    if ranker is None:
        return _RATING[kind].fit(dataset, config, world), config
    model: Ranker | None = None
    with world.together():
        searching = score is not None and bool(stages_of(kind, dataset, config))
        _check_memory(kind, ranker, dataset, config, world, searching=searching, said=True)
        if world.is_first:
            model, config = _search(kind, ranker, dataset, config, score)
    return _shared(ranker, model, config, dataset, world)


def load_model(
    kind: str, state: Mapping[str, Tensor], dataset: RatingDataset, config: BaselineConfig
) -> Baseline:
    """The baseline that `state` was taken from.

    Args:
        kind: as in `model.kind`.
        state: the result of its `state()`.
        dataset: the data set that it was fitted to.
        config: the settings that `fit_model` returned.

    Raises:
        ValueError: the state does not belong to this kind and data set.
    """
    if kind == "popularity":
        return Popularity.load(state, dataset, config)
    ranker = _ranker_of(kind, dataset)
    if ranker is not None:
        return ranker.load(state, dataset, config)
    return _RATING[kind].load(state, dataset, config)


def _ranker_of(kind: str, dataset: RatingDataset) -> type[Ranker] | None:
    """The class of a kind that only ranks; None for a kind that predicts ratings."""
    if kind in _RATING and dataset.has_ratings:
        return None
    return _RANKING.get(kind)


def _search(
    kind: str,
    ranker: type[Ranker],
    dataset: RatingDataset,
    config: BaselineConfig,
    score: Score | None,
) -> tuple[Ranker, BaselineConfig]:
    """The model with the best settings on validation rows, if any are to be chosen."""
    best = start_of(kind, dataset, config)
    known: Known = {}
    model = ranker.fit(dataset, best, known)
    stages = stages_of(kind, dataset, config)
    if best == config:
        return model, best
    if score is None or not stages:
        why = "the catalogue is large" if score is not None else "there are no validation rows"
        log(f"{kind}: {why}, so settings are not searched: {_shown(config, best)}")
        return model, best
    highest = score(model)
    log(f"{kind}: {_shown(config, best)}: validation NDCG {highest:.4f}")
    for stage in stages:
        for candidate in stage(best):
            found = ranker.fit(dataset, candidate, known)
            reached = score(found)
            log(f"{kind}: {_shown(config, candidate)}: validation NDCG {reached:.4f}")
            if reached > highest:
                highest, best, model = reached, candidate, found
    log(f"{kind}: chosen on validation rows: {_shown(config, best)}")
    return model, best


def _shown(config: BaselineConfig, chosen: BaselineConfig) -> str:
    """The settings that a search has chosen, as text."""
    values = chosen.model_dump()
    return ", ".join(
        f"{key} {value}" for key, value in values.items() if value != getattr(config, key)
    )


def _shared(
    ranker: type[Ranker],
    model: Ranker | None,
    config: BaselineConfig,
    dataset: RatingDataset,
    world: World,
) -> tuple[Ranker, BaselineConfig]:
    """The first process's model and settings, on all processes."""
    if world.size == 1:
        assert model is not None
        return model, config
    state = {} if model is None else model.state()

    def describe() -> bytes:
        tensors = {name: (str(tensor.dtype), list(tensor.shape)) for name, tensor in state.items()}
        return json.dumps({"config": config.model_dump(mode="json"), "tensors": tensors}).encode()

    described = json.loads(world.from_first(describe))
    for name, (dtype, shape) in described["tensors"].items():
        if not world.is_first:
            state[name] = torch.empty(shape, dtype=_DTYPES[dtype])
        for part in state[name].view(-1).split(_BROADCAST_AT_ONCE):
            world.share_rows(part, [0] + [len(part)] * world.size)
    if model is None:
        config = BaselineConfig.model_validate(described["config"])
        model = ranker.load(state, dataset, config)
    return model, config


_DTYPES = {str(one): one for one in (torch.float16, torch.float32, torch.int32, torch.int64)}
