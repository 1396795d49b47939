"""The relations that a recommendation rests on, with the neighbours of the largest weights.

The contribution of a direction of a relation is the score minus the score in which the user, or
the item, receives no message along it in any layer: leave-one-relation-out (`infer.explain` leaves
out rated items). The neighbours' embeddings stay unchanged. The contribution says nothing about a
model trained without the relation, which would be a different model.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dglrec.infer import REASONS, EncodedNodes, ListScorer, Scorer
from dglrec.relations import DERIVED_NAMES, ITEM_TYPE, REVERSE_PREFIX, USER_TYPE, Direction
from dglrec.run import TrainedModel

_ROUNDING = 1e-5  # in ratings: smaller contributions are rounding errors

Ranker = Scorer | ListScorer


@dataclass(frozen=True)
class RelationReason:
    """The contribution of the messages that a user, or an item, receives along a direction.

    Attributes:
        kind: the direction's name: the neighbours by `trusts` are those that trust the user, by
            `rev_trusts` those whom the user trusts, by `rev_has_genres` an item's genres.
        of: `user` or `item`: the type of the node that receives the messages.
        names: up to three neighbours with the largest weights: labels, titles of items or ids of
            users.
        count: the number of neighbours.
        contribution: how much lower the score would be without these messages; for predicted
            ratings, before clipping.
    """

    kind: str
    of: str
    names: tuple[str, ...]
    count: int
    contribution: float

    @property
    def text(self) -> str:
        """A text for readers: `trusts from 5, 7 and 3 more`, `genres Drama, Comedy`.

        >>> RelationReason("rev_trusts", "user", ("5", "7"), 12, 0.1).text
        'trusts to 5, 7 and 10 more'
        >>> RelationReason("rev_has_genres", "item", ("Drama",), 1, 0.1).text
        'genres Drama'
        """
        name = self.kind.removeprefix(REVERSE_PREFIX)
        way = " to" if self.kind.startswith(REVERSE_PREFIX) else " from"
        # Labels, and relations derived from training rows except `next`, need no from and to.
        if name.startswith("has_") or (name in DERIVED_NAMES and name != "next"):
            name, way = name.removeprefix("has_"), ""
        more = self.count - len(self.names)
        rest = f" and {more} more" if more else ""
        return f"{name}{way} {', '.join(self.names)}{rest}"


class RelationReasons:
    """Finds the relations that recommendations rest on.

    Args:
        trained: a run's model, which reads relations.
        ranker: the ranker that made the lists.
        without: makes a ranker in which the data set's users, or items, are replaced by those
            encoded without a direction; its arguments are `user` or `item`, and these nodes.
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
            direction.name: without(direction.destination_type, found[direction.name])
            for direction in trained.directions
        }

    def find(
        self, users: Tensor, items: Tensor, indices: Tensor
    ) -> list[list[tuple[RelationReason, ...]]]:
        """For each of n users and each of its k items the relations that contributed most.

        Args:
            users: int64 [n] the users' rows in the ranker.
            items: int64 [n, k] the items recommended to each user.
            indices: int64 [n] the users' indices in the data set; -1 for other users, who have no
                relations.
        """
        flat = users.repeat_interleave(items.shape[1]), items.flatten()
        whole = self._ranker.pairs(*flat).view_as(items)
        contributions = {
            name: (whole - ranker.pairs(*flat).view_as(items)).tolist()
            for name, ranker in self._without.items()
        }
        directions = {direction.name: direction for direction in self._trained.directions}
        reasons = []
        for row, (user, items_of_user) in enumerate(
            zip(indices.tolist(), items.tolist(), strict=True)
        ):
            of_user = []
            for column, item in enumerate(items_of_user):
                pairs = ((name, values[row][column]) for name, values in contributions.items())
                largest = sorted((pair for pair in pairs if pair[1] >= _ROUNDING), key=_largest)
                found = (
                    self._reason(directions[name], user, item, value) for name, value in largest
                )
                of_user.append(tuple(reason for reason in found if reason is not None)[:REASONS])
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
        names = tuple(
            self._name(direction.source_type, int(neighbour)) for neighbour in neighbours[:REASONS]
        )
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
    """A table with its first rows, those of the data set, replaced; new users or items follow."""
    return torch.cat((rows, table[len(rows) :]))


def _largest(pair: tuple[str, float]) -> tuple[float, str]:
    return -pair[1], pair[0]
