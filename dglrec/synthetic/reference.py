"""The figures of the best possible lists, and of popularity, on a reference split."""

import numpy as np
import numpy.typing as npt
import torch

from dglrec.kernels import ItemLists
from dglrec.synthetic.oracle import PlantedLists
from dglrec.synthetic.truth import ReferenceLists

K = 10
HELD_OUT = 0.1
USERS = 2_000


def reference_lists(
    planted: PlantedLists,
    lists: ItemLists,
    ratings: npt.NDArray[np.int8],
    item_counts: npt.NDArray[np.int64],
    relevant_from: int,
    rng: np.random.Generator,
) -> ReferenceLists | None:
    """Hold out a random tenth of some users' ratings, and measure which lists find them.

    Args:
        planted: of these n users and all I items.
        lists: the items that each of the n users rated.
        ratings: [items of all lists], the rating of each.
        item_counts: [I] ratings that each item has, from all users of the data set.
        relevant_from: the least rating of a relevant item.
        rng: chooses the held-out ratings.

    Returns:
        None if no user has a relevant held-out item.
    """
    k = min(K, len(item_counts))
    held = rng.random(len(ratings)) < HELD_OUT
    counts = np.diff(lists.offsets)
    owners = np.repeat(np.arange(len(counts)), counts)
    known_counts = np.bincount(owners[~held], minlength=len(counts))
    known = ItemLists(np.concatenate([[0], np.cumsum(known_counts)]), lists.items[~held])
    wanted = held & (ratings >= relevant_from)
    users = np.unique(owners[wanted])
    if not len(users):
        return None
    unseen = torch.from_numpy((1.0 - known_counts[users] / counts[users]).astype(np.float32))
    _, best = planted.best(torch.from_numpy(users), unseen, known, k, relevant_from)
    popularity = item_counts - np.bincount(lists.items[held], minlength=len(item_counts))
    order = np.argsort(-popularity, kind="stable")
    of_oracle, of_popularity = [], []
    for user, best_of_user in zip(users.tolist(), best.numpy(), strict=True):
        rows = slice(lists.offsets[user], lists.offsets[user + 1])
        relevant = lists.items[rows][wanted[rows]]
        seen = lists.items[rows][~held[rows]]
        # Of the first items by popularity, at most as many as were seen can drop out.
        popular = order[: k + len(seen)]
        popular = popular[~np.isin(popular, seen)][:k]
        of_oracle.append(list_figures(best_of_user, relevant, k))
        of_popularity.append(list_figures(popular, relevant, k))
    return ReferenceLists(
        k=k,
        users=len(users),
        held_out=HELD_OUT,
        relevant_from=relevant_from,
        oracle=_means(of_oracle),
        popularity=_means(of_popularity),
    )


def list_figures(
    listed: npt.NDArray[np.int64], relevant: npt.NDArray[np.int32], k: int
) -> tuple[float, float]:
    """The nDCG and the recall of a list of at most k items; the best possible list has 1 for both.

    Both are defined as in `evaluate --ranking` (`metrics.ranking_sums`).
    """
    found = np.isin(listed, relevant)
    discounts = 1.0 / np.log2(np.arange(2, k + 2))
    reachable = min(len(relevant), k)
    ndcg = float((found * discounts[: len(found)]).sum() / discounts[:reachable].sum())
    return ndcg, float(found.sum() / reachable)


def _means(figures: list[tuple[float, float]]) -> dict[str, float]:
    ndcg, recall = np.mean(figures, axis=0)
    return {"ndcg": float(ndcg), "recall": float(recall)}
