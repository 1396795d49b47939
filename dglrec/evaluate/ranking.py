"""Full-catalogue ranking: what a model would recommend, against what held-out rows liked."""

from typing import Any

import torch

from dglrec.dataset import RatingDataset
from dglrec.errors import UsageError
from dglrec.evaluate.rows import of_all
from dglrec.metrics import RankingSums, clip, level_of, ranking_sums
from dglrec.progress import progress
from dglrec.run import TrainedModel

_USERS_AT_ONCE = 256


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


def ranking_figures(
    trained: TrainedModel, split: str, k: int, relevant_from: float
) -> dict[str, Any]:
    """Ranking metrics of the users with a relevant held-out item, those of all processes."""
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
    return {**of_all(total, world).finish(k), "relevant_from": relevant_from}


def next_level(rating: float, dataset: RatingDataset) -> float:
    """The least value of the scale that is not below a rating."""
    scale = dataset.scale
    value = torch.tensor([rating], dtype=torch.float64)
    level = int(level_of(clip(value, scale), scale))
    below = scale.minimum + level * scale.step < rating
    return scale.minimum + min(level + below, scale.levels - 1) * scale.step
