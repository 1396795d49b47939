"""The protocol with sampled negatives: each relevant item is ranked among a few sampled items.

Sampled metrics say less than metrics over the whole catalogue: they can order models differently
(Krichene and Rendle, "On sampled metrics for item recommendation", KDD 2020). They serve to compare
with papers that report them.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dglrec.baselines import Popularity
from dglrec.dataset import RatingDataset
from dglrec.errors import DglrecError, UsageError
from dglrec.evaluate.ranking import RankingTargets
from dglrec.evaluate.rows import Predict
from dglrec.kernels import ItemLists, compiled
from dglrec.metrics import RankingSums, ranking_sums
from dglrec.progress import progress
from dglrec.run import Predictor

NOTE = (
    "each relevant item ranked among drawn items; not comparable with ranking the whole catalogue "
    "(Krichene and Rendle, KDD 2020)"
)
_REPORTED = ("ndcg", "hit_rate", "mrr")  # with one relevant item the other metrics add nothing
_PAIRS_AT_ONCE = 1 << 18


def check_candidates(
    dataset: RatingDataset, candidates: int, ks: tuple[int, ...], seed: int
) -> None:
    """Refuse a number of candidates that makes no sense.

    Raises:
        UsageError: the number is below 1, larger than the catalogue allows, or smaller than the
            longest list; or the seed is negative.
    """
    if seed < 0:
        raise UsageError(f"--seed {seed}: must be 0 or more")
    others = dataset.graph.num_items - 1
    if not 1 <= candidates <= others:
        raise UsageError(
            f"--candidates {candidates}: must be from 1 to the catalogue's {others} other items"
        )
    if candidates < max(ks):
        raise UsageError(
            f"--candidates {candidates}: lists of {max(ks)} would hold them all; draw more, or "
            "choose a smaller --ranking"
        )


def sampled_figures(
    trained: Predictor, targets: RankingTargets, ks: tuple[int, ...], candidates: int, seed: int
) -> dict[str, Any]:
    """Metrics of each relevant item, ranked among sampled items that its user has in no split.

    Candidates are sampled without replacement, anew for each pair, and depend on the seed alone. A
    candidate with the same score as the relevant item counts as ahead of it.

    Args:
        trained: the model. Pairs are scored by its `rank_pairs`, which gives the scores that its
            lists are ordered by, or by `predict` where it has no `rank_pairs`.
        targets: the relevant items.
        ks: the lengths of lists.
        candidates: the number of items sampled for each relevant item.
        seed: the seed of the sampling, 0 or more.

    Returns:
        `candidates`, `pairs`, `pairs_with_fewer` (pairs whose user has too few other items),
        `ndcg@K`, `hit_rate@K` and `mrr@K` as means over pairs, `baselines` and `note`.

    Raises:
        DglrecError: a score is not a number.
    """
    dataset, world = trained.dataset, trained.world
    seen = dataset.rated_items()
    popularity = Popularity(dataset.graph)
    scorers: list[Predict] = [
        getattr(trained, "rank_pairs", trained.predict),
        popularity.rank_pairs,
    ]
    sums = [RankingSums.zero(ks) for _ in scorers]
    fewer = 0
    step = max(1, _PAIRS_AT_ONCE // (candidates + 1))
    starts = range(0, len(targets.keys), step)
    shown = progress("ranking among drawn items", len(targets.keys), "pairs", shown=world.is_first)
    with world.together(), shown as advance:
        # Each chunk has a seed of its own, and processes take whole chunks: the sampled items do
        # not depend on the number of processes.
        for number in range(world.rank, len(starts), world.size):
            keys = targets.keys[starts[number] : starts[number] + step]
            users, items = keys // targets.num_items, keys % targets.num_items
            generator = np.random.default_rng([seed, number])
            chances = generator.random((len(keys), candidates))
            drawn, sizes = draw(seen, users, targets.num_items, chances)
            fewer += int(np.count_nonzero(sizes < candidates))
            for index, score in enumerate(scorers):
                ranks = _ranks(score, users, items, drawn, sizes)
                found = ranks[:, None] == np.arange(1, max(ks) + 1)
                sums[index] += ranking_sums(found, np.ones(len(keys), dtype=np.int64), ks)
            advance(len(keys) * world.size)
    of_model, of_popularity = (_reported(scorer_sums.over(world)) for scorer_sums in sums)
    return {
        "candidates": candidates,
        "pairs": len(targets.keys),
        "pairs_with_fewer": round(world.sum([fewer])[0]),
        **of_model,
        "baselines": {"popularity": of_popularity},
        "note": NOTE,
    }


def draw(
    seen: ItemLists,
    users: npt.NDArray[np.int64],
    num_items: int,
    chances: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """For each of n users, sample up to N different items that the user does not have.

    Every set of N such items is equally likely: Floyd's algorithm (Bentley and Floyd, "A sample of
    brilliance", Communications of the ACM 30(9), 1987).

    Args:
        seen: each user's items, ascending.
        users: int64 [n].
        num_items: I.
        chances: float64 [n, N] independent and uniform in [0, 1).

    Returns:
        Items int64 [n, N], and the number of items in each row, int64 [n]: less than N for a user
        with too few other items, whose row is filled up with 0.

    Raises:
        IndexError: a user's items do not ascend, or are not in the catalogue.
    """
    starts, ends = seen.offsets[users], seen.offsets[users + 1]
    if len(users) and (starts.min() < 0 or ends.max() > len(seen.items)):
        raise IndexError("the offsets of the users' items point outside them")
    drawn = np.zeros(chances.shape, dtype=np.int64)
    sizes = np.empty(len(users), dtype=np.int64)
    _draw(starts, ends, seen.items, num_items, chances, drawn, sizes)
    return drawn, sizes


@compiled
def _draw(starts, ends, seen, num_items, chances, drawn, sizes):  # type: ignore[no-untyped-def]
    before = np.empty(num_items, dtype=np.int64)  # for each item of the user, other items below it
    for row in range(len(starts)):
        count, last = 0, -1
        for at in range(starts[row], ends[row]):
            item = seen[at]
            if item < last or item >= num_items or item < 0:
                raise IndexError("a user's items do not ascend, or are not of the catalogue")
            if item > last:  # an item in two splits is listed twice
                before[count] = item - count
                count += 1
            last = item
        others = num_items - count
        size = min(drawn.shape[1], others)
        for i in range(size):
            highest = others - size + i
            pick = min(int(chances[row, i] * (highest + 1)), highest)
            for j in range(i):
                if drawn[row, j] == pick:
                    pick = highest
                    break
            drawn[row, i] = pick
        for i in range(size):
            pick = drawn[row, i]
            drawn[row, i] = pick + np.searchsorted(before[:count], pick, side="right")
        sizes[row] = size


def _ranks(
    score: Predict,
    users: npt.NDArray[np.int64],
    items: npt.NDArray[np.int64],
    drawn: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    """int64 [n]: the rank, from 1, of each of n items among the items sampled for it."""
    pairs: list[Tensor] = [
        torch.from_numpy(users).repeat_interleave(1 + drawn.shape[1]),
        torch.from_numpy(np.concatenate((items[:, None], drawn), axis=1)).flatten(),
    ]
    scores = score(*pairs).view(len(users), -1).numpy()
    if np.isnan(scores).any():
        raise DglrecError("some of the model's scores are not numbers; train it again")
    is_drawn = np.arange(drawn.shape[1]) < sizes[:, None]
    ahead = is_drawn & (scores[:, 1:] >= scores[:, :1])
    return np.asarray(1 + ahead.sum(1))


def _reported(sums: RankingSums) -> dict[str, float]:
    return {
        name: value for name, value in sums.finish().items() if name.partition("@")[0] in _REPORTED
    }
