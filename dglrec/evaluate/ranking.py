"""Full-catalogue ranking: a model's lists, measured against the relevant held-out rows.

`rank_lists` computes the ranking metrics for `evaluate` and for validation during training.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dglrec.baselines import Popularity
from dglrec.dataset import RatingDataset
from dglrec.distributed import ALONE, World
from dglrec.errors import DglrecError, UsageError
from dglrec.evaluate.oracle import Oracle, share_of_the_way
from dglrec.evaluate.traits import ListTraits
from dglrec.kernels import ItemLists
from dglrec.metrics import ListSums, RankingSums, clip, level_of, ranking_sums
from dglrec.progress import progress
from dglrec.run import Predictor

DEFAULT_K = 10
"""The default length of lists, for models that can be measured by ranking only."""

_USERS_AT_ONCE = 4096
_PLACES_AT_ONCE = 1 << 20  # each place of a list takes a few numbers of 8 bytes

Best = Callable[[Tensor, ItemLists, int], tuple[Tensor, Tensor]]
"""Users int64 [n], items left out of each user's list, k -> scores and items [n, k], best first;
the contract of `Scorer.best`."""


@dataclass(frozen=True, eq=False)
class RankingTargets:
    """The relevant held-out items of n users, and the items that their lists may not hold.

    Attributes:
        users: int64 [n] the users with a relevant item, ascending.
        keys: int64 [R] `user * num_items + item` of each relevant pair, ascending.
        offsets: int64 [n + 1]; the pairs of `users[v]` are `keys[offsets[v]:offsets[v + 1]]`.
        left_out: for each of the U users the items that are no candidates.
        num_items: I.
    """

    users: npt.NDArray[np.int64]
    keys: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]
    left_out: ItemLists
    num_items: int

    @classmethod
    def of(
        cls,
        dataset: RatingDataset,
        split: str,
        relevant_from: float,
        users: Tensor | None = None,
    ) -> "RankingTargets":
        """The targets of a split.

        A user's training items are left out of its list; for `test`, its validation items as well.

        Args:
            dataset: a data set.
            split: `valid` or `test`.
            relevant_from: the lowest rating of a relevant item.
            users: int64 the users to include; None for all.
        """
        rows, num_items = dataset.held_out(split), dataset.graph.num_items
        # Ratings, not codes: the threshold may lie between two levels, or outside the scale.
        chosen = (rows.ratings >= relevant_from).numpy()
        if users is not None:
            wanted = np.zeros(dataset.graph.num_users, dtype=bool)
            wanted[users.numpy()] = True
            chosen &= wanted[rows.users.numpy()]
        # np.sort, not np.unique, which takes minutes for a million such numbers since numpy 2.3.
        keys = np.sort(rows.users.numpy()[chosen] * num_items + rows.items.numpy()[chosen])
        keys = keys[np.diff(keys, prepend=-1) > 0]
        owners = keys // num_items
        starts = np.flatnonzero(np.diff(owners, prepend=-1))
        return cls(
            users=owners[starts],
            keys=keys,
            offsets=np.append(starts, len(keys)),
            left_out=dataset.rated_items(["valid"] if split == "test" else []),
            num_items=num_items,
        )


@dataclass(frozen=True, eq=False)
class Lists:
    """Lists of k places for n users, compared with their relevant items.

    Attributes:
        users: int64 [n].
        items: int64 [n, k], best first.
        listed: bool [n, k]; whether a place holds an item. A list ends early where a user has fewer
            than k candidates.
        relevant: bool [n, k]; whether the item of a place is relevant.
        totals: int64 [n] the number of relevant items of each user.
        wanted: int64 [R] the relevant items, ordered by user.
    """

    users: npt.NDArray[np.int64]
    items: npt.NDArray[np.int64]
    listed: npt.NDArray[np.bool_]
    relevant: npt.NDArray[np.bool_]
    totals: npt.NDArray[np.int64]
    wanted: npt.NDArray[np.int64]

    def restricted_to(
        self, is_item: npt.NDArray[np.bool_]
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
        """`relevant` and `totals`, where only the items of a mask, bool [I], count as relevant."""
        owners = np.repeat(np.arange(len(self.users)), self.totals)[is_item[self.wanted]]
        totals = np.bincount(owners, minlength=len(self.users))
        return self.relevant & is_item[self.items], totals


def lists_of(
    best: Best, targets: RankingTargets, k: int, world: World = ALONE, what: str | None = None
) -> Iterator[Lists]:
    """The lists of this process's share of the users, some thousand users at a time.

    Args:
        best: ranks the catalogue.
        targets: the users, and the relevant items that their lists are compared with.
        k: the length of the lists; a smaller catalogue makes shorter lists.
        world: the processes that share the users.
        what: the label of the progress bar; None for no bar.

    Raises:
        DglrecError: a score is not a number.
    """
    first, last = world.share_of(len(targets.users))
    step = max(1, min(_USERS_AT_ONCE, _PLACES_AT_ONCE // k))
    shown = progress(what or "", last - first, "users", shown=what is not None and world.is_first)
    with shown as advance:
        for start in range(first, last, step):
            part = slice(start, min(start + step, last))
            yield _lists(best, targets, part, k)
            advance(part.stop - part.start)


def _lists(best: Best, targets: RankingTargets, part: slice, k: int) -> Lists:
    users, ends = targets.users[part], targets.offsets[part.start : part.stop + 1]
    found = best(torch.from_numpy(users), targets.left_out, k)
    scores, items = found[0].numpy(), found[1].numpy()
    if np.isnan(scores).any():
        raise DglrecError("some of the model's scores are not numbers; train it again")
    # A score of -inf marks the places after a list's last item.
    listed = scores > -np.inf
    keys = targets.keys[ends[0] : ends[-1]]
    asked = users[:, None] * targets.num_items + items
    places = np.searchsorted(keys, asked)
    relevant = listed & (keys[np.minimum(places, len(keys) - 1)] == asked)
    return Lists(users, items, listed, relevant, np.diff(ends), keys % targets.num_items)


def rank_lists(
    best: Best,
    targets: RankingTargets,
    ks: Sequence[int],
    world: World = ALONE,
    what: str | None = None,
) -> RankingSums:
    """Ranking metrics of all users with a relevant item, summed over all processes.

    Args:
        best: ranks the catalogue; each process calls it for its share of the users.
        targets: from `RankingTargets.of`; they can be used for many calls.
        ks: the lengths of lists; a single pass measures all of them.
        world: the processes that share the users; all of them must call this function.
        what: the label of the progress bar; None for no bar.

    Raises:
        DglrecError: a score is not a number.
    """
    total = RankingSums.zero(ks)
    with world.together():
        for lists in lists_of(best, targets, max(ks), world, what):
            total += ranking_sums(lists.relevant, lists.totals, ks)
    return total.over(world)


def lengths_of(ranking: int | Sequence[int]) -> tuple[int, ...]:
    """The requested lengths of lists, ascending and distinct."""
    return tuple(sorted({ranking} if isinstance(ranking, int) else set(ranking)))


def check_ranking(
    dataset: RatingDataset, split: str, ks: Sequence[int], relevant_from: float | None
) -> float:
    """Refuse ranking that is not possible, and return the lowest rating of a relevant item.

    Raises:
        UsageError: ranking is not possible.
    """
    if split == "train":
        raise UsageError("--ranking leaves out a user's training items; choose test or valid")
    num_items = dataset.graph.num_items
    if not ks:
        raise UsageError("--ranking: name a length of lists, such as 10")
    for k in ks:
        if not 1 <= k <= num_items:
            raise UsageError(f"--ranking {k}: must be from 1 to the catalogue's {num_items} items")
    is_rated = dataset.has_ratings
    if relevant_from is None:
        relevant_from = next_level(dataset.mean_rating, dataset) if is_rated else -np.inf
    if not (dataset.held_out(split).ratings >= relevant_from).any():
        raise UsageError(
            f"no {split} row is rated {relevant_from:g} or more; nothing to rank"
            if is_rated
            else f"there are no {split} rows; nothing to rank"
        )
    return relevant_from


@dataclass(frozen=True, eq=False)
class _Measured:
    """A ranker's sums over all lists, over those of new users, and over new items only."""

    total: RankingSums
    new_users: RankingSums
    new_items: RankingSums
    lists: ListSums

    def over(self, world: World) -> "_Measured":
        return _Measured(
            self.total.over(world),
            self.new_users.over(world),
            self.new_items.over(world),
            self.lists.over(world),
        )


def ranking_figures(
    trained: Predictor,
    targets: RankingTargets,
    ks: Sequence[int],
    relevant_from: float | None = None,
    best: Best | None = None,
) -> dict[str, Any]:
    """Metrics of a model's lists, with those of popularity under `baselines`.

    Args:
        trained: a run's model.
        targets: the relevant items that the lists are compared with.
        ks: the lengths of lists.
        relevant_from: the lowest rating of a relevant item, for the oracle of planted data; None
            leaves the oracle out.
        best: makes the lists; None for `trained.best`.

    Returns:
        `precision@K`, `recall@K`, `ndcg@K`, `hit_rate@K`, `map@K` and `mrr@K` for each K,
        `ranking_users`, `baselines`, and `lists`, the `ListSums` figures of the longest lists. If
        there are users without a training rating, `new_users` has their metrics; if there are
        relevant items without a training rating, `new_items` has the metrics that count only these
        items as relevant. Planted data adds `baselines.oracle` and `share_of_the_way@K`, the share
        of the way from popularity to the oracle in nDCG, or a note where the oracle is not above
        popularity.

    Raises:
        DglrecError: a score is not a number.
    """
    dataset, world = trained.dataset, trained.world
    traits = ListTraits(dataset)
    popularity = Popularity(dataset.graph)
    best, what = best or trained.best, "ranking the catalogue"
    of_model = _measure(best, targets, ks, dataset, traits, world, what)
    of_popularity = _measure(popularity.best, targets, ks, dataset, traits, world, None)
    result = _beside(of_model.total, of_popularity.total)
    if relevant_from is not None:
        _add_oracle(result, dataset, targets, ks, relevant_from, world)
    result["lists"] = {
        "k": max(ks),
        **of_model.lists.finish(),
        "baselines": {"popularity": of_popularity.lists.finish()},
    }
    if of_model.new_users.users:
        result["new_users"] = _beside(of_model.new_users, of_popularity.new_users)
    if of_model.new_items.users:
        result["new_items"] = _beside(of_model.new_items, of_popularity.new_items)
    return result


def _add_oracle(
    result: dict[str, Any],
    dataset: RatingDataset,
    targets: RankingTargets,
    ks: Sequence[int],
    relevant_from: float,
    world: World,
) -> None:
    """Add the oracle's metrics on planted data, and the model's share of the way to them."""
    interactions = not dataset.has_ratings
    level = dataset.interactions_from if interactions else relevant_from
    if level is None:
        return  # these interactions were not made from the planted ratings
    oracle = Oracle.of(dataset, level, interactions=interactions)
    if oracle is None:
        return
    found = rank_lists(oracle.best, targets, ks, world, "ranking as the oracle").finish()
    del found["ranking_users"]
    popularity = result["baselines"]["popularity"]
    result["baselines"]["oracle"] = found
    for k in ks:
        name = f"ndcg@{k}"
        share = share_of_the_way(result[name], popularity[name], found[name])
        if share is not None:
            result[f"share_of_the_way@{k}"] = share
        else:
            result.setdefault("notes", []).append(
                f"share_of_the_way@{k}: left out, as the oracle's lists are not above popularity's"
            )


def _measure(
    best: Best,
    targets: RankingTargets,
    ks: Sequence[int],
    dataset: RatingDataset,
    traits: ListTraits,
    world: World,
    what: str | None,
) -> _Measured:
    """Sums over the lists of all processes."""
    is_new_user = dataset.graph.by_user.degrees == 0
    is_new_item = dataset.graph.by_item.degrees == 0
    total = new_users = new_items = RankingSums.zero(ks)
    sums = traits.zero()
    with world.together():
        for lists in lists_of(best, targets, max(ks), world, what):
            total += ranking_sums(lists.relevant, lists.totals, ks)
            new = is_new_user[lists.users]
            new_users += ranking_sums(lists.relevant[new], lists.totals[new], ks)
            new_items += ranking_sums(*lists.restricted_to(is_new_item), ks)
            sums += traits.sums(lists.users, lists.items, lists.listed)
    return _Measured(total, new_users, new_items, sums).over(world)


def _beside(model: RankingSums, popularity: RankingSums) -> dict[str, Any]:
    """The model's metrics, with those of popularity for the same users under `baselines`."""
    beside = popularity.finish()
    del beside["ranking_users"]
    return {**model.finish(), "baselines": {"popularity": beside}}


def next_level(rating: float, dataset: RatingDataset) -> float:
    """The lowest level of the scale that is not below a rating."""
    scale = dataset.scale
    value = torch.tensor([rating], dtype=torch.float64)
    level = int(level_of(clip(value, scale), scale))
    below = scale.minimum + level * scale.step < rating
    return scale.minimum + min(level + below, scale.levels - 1) * scale.step
