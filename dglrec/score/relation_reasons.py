"""Which relations a recommendation rests on, and whose word that was.

The contribution of a direction of a relation is the score as it is, less the score had the user, or
the item, been told nothing along it in any layer: leave-one-relation-out, for rated items see
`infer.explain`. Users and items that they read are as they are. A model that had been trained
without the relation would be another one; the figure says nothing about that.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dglrec.infer import REASONS, EncodedNodes, ListScorer, Scorer
from dglrec.relations import DERIVED_NAMES, ITEM_TYPE, REVERSE_PREFIX, USER_TYPE, Direction
from dglrec.run import TrainedModel

_ROUNDING = 1e-5  # of a rating: what is less says nothing

Ranker = Scorer | ListScorer


@dataclass(frozen=True)
class RelationReason:
    """What a user, or an item, is told along a direction of a relation.

    Attributes:
        kind: the direction's name: `trusts` are those that trust the user, `rev_trusts` those whom
            it trusts, `rev_has_genres` an item's genres.
        of: `user` or `item`: who is told it.
        names: up to three of those that tell it, of the largest weights: labels, titles of items or
            ids of users.
        count: how many tell it.
        contribution: by how much lower what the list is ordered by would be without; a predicted
            rating before clipping.
    """

    kind: str
    of: str
    names: tuple[str, ...]
    count: int
    contribution: float

    @property
    def text(self) -> str:
        """For people: `trusts from 5, 7 and 3 more`, `genres Drama, Comedy`.

        >>> RelationReason("rev_trusts", "user", ("5", "7"), 12, 0.1).text
        'trusts to 5, 7 and 10 more'
        >>> RelationReason("rev_has_genres", "item", ("Drama",), 1, 0.1).text
        'genres Drama'
        """
        name = self.kind.removeprefix(REVERSE_PREFIX)
        way = " to" if self.kind.startswith(REVERSE_PREFIX) else " from"
        # Neither labels nor what is made from training rows has another way, but for `next`.
        if name.startswith("has_") or (name in DERIVED_NAMES and name != "next"):
            name, way = name.removeprefix("has_"), ""
        more = self.count - len(self.names)
        rest = f" and {more} more" if more else ""
        return f"{name}{way} {', '.join(self.names)}{rest}"


class RelationReasons:
    """Finds them.

    Args:
        trained: a run's model, which reads relations.
        ranker: what lists are made with.
        without: makes the same of users, or of items, that a direction told nothing; its
            arguments are `user` or `item`, and these.
    """

    def __init__(
        self,
        trained: TrainedModel,
        ranker: Ranker,
        without: Callable[[str, EncodedNodes], Ranker],
    ) -> None:
        self._trained, self._ranker = trained, ranker
        found = trained.without_relations
        self._without: Mapping[str, Ranker] = {
            one.name: without(one.destination_type, found[one.name]) for one in trained.directions
        }

    def find(
        self, users: Tensor, items: Tensor, indices: Tensor
    ) -> list[list[tuple[RelationReason, ...]]]:
        """For each of n users and each of its k items the relations that contributed most.

        Args:
            users: int64 [n] as the ranker numbers them.
            items: int64 [n, k] what is recommended to each.
            indices: int64 [n] the users of the data set; -1 for others, who have no relations.
        """
        flat = users.repeat_interleave(items.shape[1]), items.flatten()
        whole = self._ranker.pairs(*flat).view_as(items)
        lost = {
            name: (whole - ranker.pairs(*flat).view_as(items)).tolist()
            for name, ranker in self._without.items()
        }
        directions = {one.name: one for one in self._trained.directions}
        reasons = []
        for row, (user, some) in enumerate(zip(indices.tolist(), items.tolist(), strict=True)):
            of_user = []
            for column, item in enumerate(some):
                pairs = ((name, values[row][column]) for name, values in lost.items())
                largest = sorted((pair for pair in pairs if pair[1] >= _ROUNDING), key=_largest)
                found = (
                    self._reason(directions[name], user, item, value) for name, value in largest
                )
                of_user.append(tuple(one for one in found if one is not None)[:REASONS])
            reasons.append(of_user)
        return reasons

    def _reason(
        self, direction: Direction, user: int, item: int, contribution: float
    ) -> RelationReason | None:
        """None for a node that the data set does not hold."""
        node = user if direction.destination_type == USER_TYPE else item
        if not 0 <= node < direction.edges.num_nodes:
            return None
        edges = direction.edges
        stretch = slice(int(edges.offsets[node]), int(edges.offsets[node + 1]))
        neighbours = np.asarray(edges.neighbours[stretch])
        if edges.weights is not None:
            order = np.argsort(-np.asarray(edges.weights[stretch]), kind="stable")
            neighbours = neighbours[order]
        names = tuple(self._name(direction.source_type, int(one)) for one in neighbours[:REASONS])
        of = direction.destination_type
        return RelationReason(direction.name, of, names, len(neighbours), contribution)

    def _name(self, node_type: str, node: int) -> str:
        dataset = self._trained.dataset
        if node_type == USER_TYPE:
            return str(dataset.users.ids[node].as_py())
        if node_type == ITEM_TYPE:
            return str(dataset.titles[node].as_py())
        return dataset.attributes[node_type].vocabulary[node]


def replaced(table: Tensor, rows: Tensor) -> Tensor:
    """A table with others in place of its first rows: those of the data set, before new ones."""
    return torch.cat((rows, table[len(rows) :]))


def _largest(pair: tuple[str, float]) -> tuple[float, str]:
    return -pair[1], pair[0]
