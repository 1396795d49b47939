"""The users and items that can be scored: those of a data set, and those that files add."""

from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from dglrec.biases import Biases
from dglrec.infer import (
    REASONS,
    EncodedNodes,
    ListScorer,
    Rated,
    Reasons,
    Scorer,
    embed_new_items,
    embed_new_users,
    find_reasons,
    likeness_of,
)
from dglrec.infer.diverse import DiverseBy, Likeness
from dglrec.kernels import ItemLists
from dglrec.nn import ListTerms, NodeValues
from dglrec.relations import USER_TYPE
from dglrec.run import TrainedModel, blocks_of_new_items
from dglrec.score.added import NewItems, NewUsers, with_new_items
from dglrec.score.relation_reasons import Ranker, RelationReasons, replaced


class Roster:
    """Users and items under a common numbering: those of the data set first, then the new ones.

    Args:
        trained: a run's model.
        new_users: users that a file adds.
        new_items: items that a file adds.
        changed: users of the data set whose ratings a file extends or replaces.
        explains: whether `relation_reasons` will be called.

    Attributes:
        users: external ids of the data set's users, followed by those of the new users.
        items: external ids of the data set's items, followed by those of the new items.
    """

    def __init__(
        self,
        trained: TrainedModel,
        new_users: NewUsers | None = None,
        new_items: NewItems | None = None,
        changed: NewUsers | None = None,
        *,
        explains: bool = False,
    ) -> None:
        self._trained, self._explains = trained, explains
        self._new_items = new_items
        # Changed users get further rows after all others; `places` maps users to these.
        self._added = [users for users in (new_users, changed) if users is not None]
        dataset = trained.dataset
        self.items = with_new_items(dataset.items, new_items)
        self.users = dataset.users.extended(new_users.ids) if new_users else dataset.users
        self._places = torch.arange(len(self.users))
        if changed is not None and changed.identities is not None:
            count = len(changed.identities)
            self._places[changed.identities] = torch.arange(count) + len(self.users)

    @property
    def count(self) -> int:
        """The number of user rows, including those of changed users; all `places` are below it."""
        changed = (users.identities for users in self._added)
        return len(self.users) + sum(len(users) for users in changed if users is not None)

    def places(self, users: Tensor) -> Tensor:
        """The rows of users, int64 [n], which the other methods take; users index `self.users`."""
        return self._places[users]

    def prepare(self) -> None:
        """Encode all users and items; all processes must call this together."""
        _ = self._encoded
        if self._explains and self._trained.directions:
            _ = self._trained.without_relations

    @property
    def nodes(self) -> NodeValues:
        """Exact embeddings of all users and items."""
        return self._encoded[0]

    @cached_property
    def _encoded(self) -> tuple[NodeValues, tuple[ListTerms, ListTerms] | None]:
        """Exact embeddings of all users and items, and the list head's terms of them."""
        model, embeddings = self._trained.model, self._trained.embeddings
        users, items = embeddings.nodes
        lists = embeddings.lists
        for group, biases in zip(self._added, self._added_biases, strict=True):
            new = embed_new_users(
                model,
                embeddings,
                group.ratings,
                self._trained.dataset.scale,
                biases,
                self._trained.world,
                features=group.features,
                told=group.told,
                identities=group.identities,
            )
            users = torch.cat((users, new.nodes))
            if lists is not None and new.lists is not None:
                lists = _appended(lists[0], new.lists), lists[1]
        if self._new_items is not None:
            table = self._new_items.table
            others = blocks_of_new_items(model.config, self._trained.dataset, table)
            added = embed_new_items(
                model, self._new_items.features, others, embeddings.item_network
            )
            items = torch.cat((items, added.nodes))
            if lists is not None and added.lists is not None:
                lists = lists[0], _appended(lists[1], added.lists)
        return NodeValues(users, items), lists

    @cached_property
    def biases(self) -> Biases:
        """The biases of all users and items; 0 for new items."""
        known = self._trained.dataset.biases
        users, user_degrees, user_squares = known.users, known.user_degrees, known.user_squares
        items, item_degrees, item_squares = known.items, known.item_degrees, known.item_squares
        for more in self._added_biases:
            users = torch.cat((users, more.users))
            user_degrees = torch.cat((user_degrees, more.user_degrees))
            user_squares = torch.cat((user_squares, more.user_squares))
        if self._new_items is not None:
            zeros = torch.zeros(len(self._new_items.table))
            items, item_degrees = torch.cat((items, zeros)), torch.cat((item_degrees, zeros))
            item_squares = torch.cat((item_squares, zeros))
        return replace(
            known,
            users=users,
            items=items,
            user_degrees=user_degrees,
            item_degrees=item_degrees,
            user_squares=user_squares,
            item_squares=item_squares,
        )

    @cached_property
    def _added_biases(self) -> list[Biases]:
        dataset = self._trained.dataset
        return [dataset.biases.of_new_users(users.ratings, dataset.scale) for users in self._added]

    def reasons(self, scorer: Scorer | ListScorer, users: Tensor, items: Tensor) -> Reasons:
        """The rated items that predictions rest on.

        Args:
            scorer: a scorer or ranker of this roster.
            users: int64 [n] `places` of users.
            items: int64 [n, k] the items predicted for each user.
        """
        trained = self._trained
        graph, known = trained.dataset.graph, len(trained.dataset.users)
        old = Rated(graph.by_user, graph.scale, trained.dataset.biases, torch.arange(known))
        groups = [(old, users < known, 0)]
        first = known
        for added, biases in zip(self._added, self._added_biases, strict=True):
            made_of = Rated(
                added.ratings,
                graph.scale,
                biases,
                added.identities,
                added.features,
                added.told,
            )
            last = first + added.ratings.num_nodes
            groups.append((made_of, (users >= first) & (users < last), first))
            first = last
        shape = (*items.shape, REASONS)
        found = Reasons(np.full(shape, -1, dtype=np.int32), np.zeros(shape, dtype=np.float32))
        for rated, mask, first in groups:
            group_users = users[mask]
            part = find_reasons(
                trained.model,
                trained.embeddings,
                scorer,
                rated,
                group_users - first,
                group_users,
                items[mask],
            )
            found.items[mask.numpy()] = part.items
            found.contributions[mask.numpy()] = part.contributions
        return found

    def likeness(self, by: DiverseBy) -> Likeness:
        """The similarity of the items.

        Raises:
            UsageError: `by` is `genres`, and the data set has none.
        """
        more = None if self._new_items is None else self._new_items.features
        return likeness_of(by, self._trained.dataset, self.nodes.items, more)

    def relation_reasons(self, ranker: Ranker) -> RelationReasons | None:
        """Finds the relations that lists rest on; None for a model that reads no relations."""
        if not self._trained.directions:
            return None
        return RelationReasons(self._trained, ranker, self._ranker_without)

    def _ranker_without(self, node_type: str, without: EncodedNodes) -> Ranker:
        """The ranker in which the data set's users, or items, are replaced by the given nodes."""
        users, items = self.nodes
        lists = self._encoded[1]
        if node_type == USER_TYPE:
            users = replaced(users, without.nodes)
        else:
            items = replaced(items, without.nodes)
        if lists is not None and without.lists is not None:
            place = 0 if node_type == USER_TYPE else 1
            terms = map(replaced, lists[place], without.lists)
            of_type = ListTerms(*terms)
            lists = (of_type, lists[1]) if node_type == USER_TYPE else (lists[0], of_type)
        return self._ranker_of(NodeValues(users, items), lists)

    @cached_property
    def rated(self) -> ItemLists:
        """The items that each user rated, in any split or in a file."""
        known = self._trained.dataset.rated_items()
        for users in self._added:
            known = ItemLists(
                np.concatenate((known.offsets, known.offsets[-1] + users.rated.offsets[1:])),
                np.concatenate((known.items, users.rated.items)),
            )
        return known

    def scorer(self, catalogue: Tensor | None = None) -> Scorer:
        """Predicts ratings of these users and items; see `Scorer`."""
        return Scorer(self._trained.model, self.nodes, self.biases, catalogue)

    def ranker(self, catalogue: Tensor | None = None) -> Ranker:
        """Makes the lists of these users and items."""
        return self._ranker_of(*self._encoded, catalogue)

    def _ranker_of(
        self,
        nodes: NodeValues,
        lists: tuple[ListTerms, ListTerms] | None,
        catalogue: Tensor | None = None,
    ) -> Ranker:
        if not self._trained.orders_by_lists:
            return Scorer(self._trained.model, nodes, self.biases, catalogue)
        assert lists is not None
        rated = self._trained.dataset.graph.by_user
        for users in self._added:
            rated = rated.followed_by(users.ratings)
        added = self._trained.item_items(rated)
        return ListScorer(*lists, catalogue, added, self._trained.model.list_head)


def _appended(terms: ListTerms, more: ListTerms) -> ListTerms:
    return ListTerms(*(torch.cat(both) for both in zip(terms, more, strict=True)))
