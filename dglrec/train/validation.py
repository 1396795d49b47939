"""Validation figures of an epoch: exact embeddings -> predicted ratings and lists -> metrics."""

import numpy as np
import torch

from dglrec.dataset import RatingDataset
from dglrec.distributed import ALONE, World
from dglrec.evaluate import RankingTargets, measure, next_level, rank_lists, rows_of
from dglrec.infer import ListScorer, embed_all
from dglrec.nn import ModelConfig, RatingModel
from dglrec.run import read_directions
from dglrec.train.objectives import Objective, standard_error_of

LISTED_USERS = 20_000
"""The largest number of users whose lists are measured after each epoch: a fixed random sample."""


class Validation:
    """Measures a model on the validation rows after each epoch; no figures without such rows.

    Args:
        dataset: the data set, with its validation rows.
        objective: it defines the length of lists, and the figure that decides.
        model: the model's configuration, with resolved heads.
        world: the processes that share the rows and the users.
    """

    def __init__(
        self,
        dataset: RatingDataset,
        objective: Objective,
        model: ModelConfig,
        world: World = ALONE,
    ) -> None:
        self.objective = objective
        self.rates, self.lists = model.rates, model.lists
        self._dataset, self._world = dataset, world
        self._directions = read_directions(model, dataset)
        validates = "valid" in dataset.held_out_splits
        self._rows = rows_of(dataset, "valid", world) if self.rates and validates else None
        self._targets = None
        if self.lists and validates and (found := relevant_users(dataset, "valid", LISTED_USERS)):
            self._targets = RankingTargets.of(dataset, "valid", *found)
        length = objective.list_length
        self.shown = {"rmse", objective.list_metric, f"ndcg@{length}"}

    def figures(self, model: RatingModel) -> dict[str, float]:
        """Metrics by name, the same on all processes; all of them must call this.

        They include the standard error over users of the metric of lists that judges an epoch,
        under the name that `standard_error_of` gives.
        """
        dataset, world = self._dataset, self._world
        if self._rows is None and "valid" not in dataset.held_out_splits:
            return {}
        embeddings = embed_all(model, dataset.graph, dataset.biases, world, self._directions)
        found: dict[str, float] = {}
        if self._rows is not None:
            found |= measure(model, embeddings, dataset, self._rows, world).finish()
        length = self.objective.list_length
        if self._targets is not None and length is not None and embeddings.lists is not None:
            scorer = ListScorer(*embeddings.lists)
            sums = rank_lists(scorer.best, self._targets, [length], world)
            name = self.objective.list_metric
            found |= {**sums.finish(), standard_error_of(name): sums.standard_errors()[name]}
        return found


def relevant_users(
    dataset: RatingDataset, split: str, most: int
) -> tuple[float, torch.Tensor] | None:
    """The lowest rating of a relevant item, and users with a relevant item: int64, ascending.

    Args:
        dataset: the data set, with its held-out rows.
        split: `valid` or `test`.
        most: the largest number of users; of more, a fixed random sample is taken.

    Returns:
        None where no row is relevant.
    """
    rows = dataset.held_out(split)
    relevant_from = next_level(dataset.mean_rating, dataset) if dataset.has_ratings else -np.inf
    users = rows.users[rows.ratings >= relevant_from].unique()
    if len(users) > most:
        drawn = np.random.default_rng(0).permutation(len(users))[:most]
        users = users[torch.from_numpy(np.sort(drawn))]
    return (relevant_from, users) if len(users) else None
