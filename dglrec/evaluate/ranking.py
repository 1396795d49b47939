"""Full-catalogue ranking: what a model would recommend, against what held-out rows liked."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dglrec.dataset import RatingDataset
from dglrec.errors import UsageError
from dglrec.evaluate.rows import of_all
from dglrec.graph import RatingGraph
from dglrec.kernels import ItemLists, Terms, Tiles, rank_items
from dglrec.metrics import RankingSums, clip, level_of, ranking_sums
from dglrec.progress import progress
from dglrec.run import Predictor

_USERS_AT_ONCE = 256


@dataclass(frozen=True)
class Ranking:
    """What ranking comes to.

    Attributes:
        figures: of the model, and of how it was measured.
        baselines: metrics by baseline.
    """

    figures: dict[str, float | int]
    baselines: dict[str, dict[str, float | int]]


class Popularity:
    """Ranks items by their number of training ratings, the same for each user.

    Args:
        graph: the training ratings.
    """

    def __init__(self, graph: RatingGraph) -> None:
        order = np.argsort(-graph.by_item.degrees, kind="stable")
        # Places, not degrees: these differ, and float32 holds them exactly.
        scores = np.empty(graph.num_items, dtype=np.float32)
        scores[order] = -np.arange(graph.num_items, dtype=np.float32)
        self._tiles = Tiles.of(_nothing_but(scores))
        self._positions = np.arange(graph.num_items, dtype=np.int32)

    def best(self, users: Tensor, left_out: ItemLists, k: int) -> tuple[Tensor, Tensor]:
        """The most popular items for each of n users; arguments and result as in `Scorer.best`.

        The scores say the order and nothing else.
        """
        scores, items = rank_items(
            self._tiles,
            np.empty(0, dtype=np.float32),
            _nothing_but(np.zeros(len(users), dtype=np.float32)),
            left_out,
            users.numpy(),
            self._positions,
            k,
        )
        return torch.from_numpy(scores), torch.from_numpy(items).long()


def check_ranking(dataset: RatingDataset, split: str, k: int, relevant_from: float | None) -> float:
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
        relevant_from = next_level(dataset.biases.mean, dataset)
    if not (dataset.held_out(split).ratings >= relevant_from).any():
        raise UsageError(f"no {split} row is rated {relevant_from:g} or more; nothing to rank")
    return relevant_from


def ranking_figures(trained: Predictor, split: str, k: int, relevant_from: float) -> Ranking:
    """Ranking metrics of the users with a relevant held-out item, those of all processes."""
    dataset, graph, world = trained.dataset, trained.dataset.graph, trained.world
    rows = dataset.held_out(split)  # all of them: users are shared here, not rows
    wanted_rows = dataset.held_out_by_user(split)
    # Ranking test rows, what validation holds is no candidate either: it was rated.
    rated = dataset.rated_items(["valid"] if split == "test" else [])
    users = rows.users[rows.ratings >= relevant_from].unique()
    users = users.tensor_split(world.size)[world.rank]
    popularity = Popularity(graph)
    of_model, of_popularity = RankingSums(), RankingSums()
    with progress("ranking the catalogue", len(users), "users", shown=world.is_first) as advance:
        for part in users.split(_USERS_AT_ONCE):
            wanted = torch.zeros(len(part), graph.num_items, dtype=torch.bool)
            for position, user in enumerate(part.tolist()):
                row = wanted_rows.of(user)
                # Ratings, not codes: the threshold may lie between two of them, or off the scale.
                liked = dataset.scale.decode(wanted_rows.codes[row]) >= relevant_from
                wanted[position, torch.from_numpy(wanted_rows.neighbours[row][liked]).long()] = True
            of_model += _sums(trained.best(part, rated, k), wanted)
            of_popularity += _sums(popularity.best(part, rated, k), wanted)
            advance(len(part))
    names = [f"{name}@{k}" for name in ("recall", "ndcg", "hit_rate")]
    found = of_all(of_popularity, world).finish(k)
    return Ranking(
        {**of_all(of_model, world).finish(k), "relevant_from": relevant_from},
        {"popularity": {name: found[name] for name in names}},
    )


def _nothing_but(base: npt.NDArray[np.float32]) -> Terms:
    """Terms of scores that no user's taste has a part in."""
    none = np.empty((len(base), 0), dtype=np.float32)
    return Terms(none, none, base)


def _sums(best: tuple[Tensor, Tensor], wanted: Tensor) -> RankingSums:
    """Sums over users of a list of K items each.

    Args:
        best: scores, -inf where a list has ended, and items, [U, K] each.
        wanted: bool [U, I] the relevant items.
    """
    scores, items = best
    return ranking_sums(wanted.gather(1, items) & scores.isfinite(), wanted.sum(1))


def next_level(rating: float, dataset: RatingDataset) -> float:
    """The least value of the scale that is not below a rating."""
    scale = dataset.scale
    value = torch.tensor([rating], dtype=torch.float64)
    level = int(level_of(clip(value, scale), scale))
    below = scale.minimum + level * scale.step < rating
    return scale.minimum + min(level + below, scale.levels - 1) * scale.step
