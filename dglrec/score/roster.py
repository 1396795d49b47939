"""Whom and what can be scored: the users and items of a data set, and those that files add."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from dglrec import schema
from dglrec.biases import Biases
from dglrec.errors import DataError, UsageError
from dglrec.graph import Adjacency, group_by_user
from dglrec.ids import IdMap
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
)
from dglrec.ingest import (
    AttributeTable,
    NewRatings,
    read_new_interactions,
    read_new_items,
    read_new_ratings,
)
from dglrec.kernels import ItemLists
from dglrec.nn import ListTerms, NodeValues
from dglrec.progress import log
from dglrec.relations import ITEM_TYPE, USER_TYPE
from dglrec.run import TrainedModel, blocks_of_new_items, read_attributes_of
from dglrec.score.described import describe_users
from dglrec.score.relation_reasons import Ranker, RelationReasons, replaced


@dataclass(frozen=True)
class NewItems:
    """Items that training never saw.

    Attributes:
        table: m rows, as `read_new_items` gives them.
        features: float32 [m, F].
    """

    table: pd.DataFrame
    features: Tensor


@dataclass(frozen=True)
class NewUsers:
    """Users that training never saw.

    Attributes:
        ids: [n] ascending.
        ratings: of the data set's items: what they are encoded from.
        rated: all items that they rated, new ones too.
        features: float32 [n, F] what is known of them beside; None for nothing.
        told: float32 [n, H] a layer, what their labels tell them; none for nothing.
    """

    ids: pa.Array
    ratings: Adjacency
    rated: ItemLists
    features: Tensor | None = None
    told: tuple[Tensor, ...] = ()


class Roster:
    """Users and items under one numbering: the data set's own, and behind them the new ones.

    Args:
        trained: a run's model.
        new_users: whom a file adds.
        new_items: what a file adds.
        explains: whether `relation_reasons` will be asked for.
    """

    def __init__(
        self,
        trained: TrainedModel,
        new_users: NewUsers | None = None,
        new_items: NewItems | None = None,
        *,
        explains: bool = False,
    ) -> None:
        self._trained, self._explains = trained, explains
        self._new_users, self._new_items = new_users, new_items
        dataset = trained.dataset
        self.items = with_new_items(dataset.items, new_items)
        self.users = dataset.users.extended(new_users.ids) if new_users else dataset.users

    def prepare(self) -> None:
        """Encode all users and items; for all processes to call together."""
        _ = self._encoded
        if self._explains and self._trained.directions:
            _ = self._trained.without_relations

    @property
    def nodes(self) -> NodeValues:
        """Exact embeddings of all users and items."""
        return self._encoded[0]

    @cached_property
    def _encoded(self) -> tuple[NodeValues, tuple[ListTerms, ListTerms] | None]:
        """Exact embeddings of all users and items, and what the list head makes of them."""
        model, embeddings = self._trained.model, self._trained.embeddings
        users, items = embeddings.nodes
        lists = embeddings.lists
        if self._new_users is not None:
            ratings, scale = self._new_users.ratings, self._trained.dataset.scale
            world = self._trained.world
            new = embed_new_users(
                model,
                embeddings,
                ratings,
                scale,
                self._new_biases,
                world,
                features=self._new_users.features,
                told=self._new_users.told,
            )
            users = torch.cat((users, new.nodes))
            if lists is not None and new.lists is not None:
                lists = _appended(lists[0], new.lists), lists[1]
        if self._new_items is not None:
            table = self._new_items.table
            others = blocks_of_new_items(model.config, self._trained.dataset, table)
            added = embed_new_items(model, self._new_items.features, others)
            items = torch.cat((items, added.nodes))
            if lists is not None and added.lists is not None:
                lists = lists[0], _appended(lists[1], added.lists)
        return NodeValues(users, items), lists

    @cached_property
    def biases(self) -> Biases:
        """Of all users and items; an item that nobody has rated has none."""
        known = self._trained.dataset.biases
        users, user_degrees, user_squares = known.users, known.user_degrees, known.user_squares
        items, item_degrees, item_squares = known.items, known.item_degrees, known.item_squares
        if self._new_users is not None:
            users = torch.cat((users, self._new_biases.users))
            user_degrees = torch.cat((user_degrees, self._new_biases.user_degrees))
            user_squares = torch.cat((user_squares, self._new_biases.user_squares))
        if self._new_items is not None:
            none = torch.zeros(len(self._new_items.table))
            items, item_degrees = torch.cat((items, none)), torch.cat((item_degrees, none))
            item_squares = torch.cat((item_squares, none))
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
    def _new_biases(self) -> Biases:
        assert self._new_users is not None
        dataset = self._trained.dataset
        return dataset.biases.of_new_users(self._new_users.ratings, dataset.scale)

    def reasons(self, scorer: Scorer | ListScorer, users: Tensor, items: Tensor) -> Reasons:
        """Which of their rated items predictions rest on.

        Args:
            scorer: of this roster.
            users: int64 [n].
            items: int64 [n, k] what is predicted for each.
        """
        trained = self._trained
        graph, known = trained.dataset.graph, len(trained.dataset.users)
        old = Rated(graph.by_user, graph.scale, trained.dataset.biases, torch.arange(known))
        groups = [(old, users < known, 0)]
        if self._new_users is not None:
            new = Rated(
                self._new_users.ratings,
                graph.scale,
                self._new_biases,
                None,
                self._new_users.features,
                self._new_users.told,
            )
            groups.append((new, users >= known, known))
        shape = (*items.shape, REASONS)
        found = Reasons(np.full(shape, -1, dtype=np.int32), np.zeros(shape, dtype=np.float32))
        for rated, mask, first in groups:
            some = users[mask]
            part = find_reasons(
                trained.model, trained.embeddings, scorer, rated, some - first, some, items[mask]
            )
            found.items[mask.numpy()] = part.items
            found.contributions[mask.numpy()] = part.contributions
        return found

    def relation_reasons(self, ranker: Ranker) -> RelationReasons | None:
        """Finds which relations lists rest on; None of a model that reads none."""
        if not self._trained.directions:
            return None
        return RelationReasons(self._trained, ranker, self._ranker_without)

    def _ranker_without(self, node_type: str, without: EncodedNodes) -> Ranker:
        """What lists are made with, of users or items of the data set that are as given."""
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
        """What each user is known to have rated, held-out rows too: it knows those items."""
        known = self._trained.dataset.rated_items()
        if self._new_users is None:
            return known
        new = self._new_users.rated
        return ItemLists(
            np.concatenate((known.offsets, known.offsets[-1] + new.offsets[1:])),
            np.concatenate((known.items, new.items)),
        )

    def scorer(self, catalogue: Tensor | None = None) -> Scorer:
        """Predicts ratings among them; see `Scorer`."""
        return Scorer(self._trained.model, self.nodes, self.biases, catalogue)

    def ranker(self, catalogue: Tensor | None = None) -> Ranker:
        """What lists of them are made with."""
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
        if self._new_users is not None:
            rated = rated.followed_by(self._new_users.ratings)
        added = self._trained.item_items(rated)
        return ListScorer(*lists, catalogue, added, self._trained.model.list_head)


def _appended(terms: ListTerms, more: ListTerms) -> ListTerms:
    return ListTerms(*(torch.cat(both) for both in zip(terms, more, strict=True)))


def read_items_to_add(trained: TrainedModel, file: Path) -> NewItems:
    """The items of `--new-items`.

    Raises:
        UsageError: the model does not look at what items are.
        DataError: the file is bad, or holds an item of the data set.
    """
    dataset = trained.dataset
    labelled = bool(read_attributes_of(ITEM_TYPE, trained.model.config, dataset))
    if not trained.model.inputs.features.shape[1] and not labelled:
        raise UsageError(
            f"--new-items {file}: the model uses no genres or text, and of a new item there is "
            "nothing else"
        )
    table = read_new_items(file, dataset.items.ids.type)
    ids = pa.array(table[schema.ITEM_ID], type=dataset.items.ids.type)
    _refuse_known(file, schema.ITEM_ID, ids, dataset.items, "--new-items takes others")
    try:
        features = dataset.encode_items(table)
    except DataError as error:
        raise DataError(f"{file}: {error}") from error
    bare = int((~features.any(1)).sum())
    if bare and not labelled:
        log(f"{file}: {bare} items have no genre or text that the model knows")
    return NewItems(table, features)


def read_users_to_add(
    trained: TrainedModel,
    file: Path | None,
    new_items: NewItems | None = None,
    *,
    table: AttributeTable | None = None,
    one: bool = False,
) -> NewUsers:
    """The users of `--ratings`, of `--user-table`, or of both.

    Args:
        trained: a run's model.
        file: their ratings; where the data set holds interactions, theirs. None for none.
        new_items: items that they may have rated, too.
        table: what they are, as `read_described_users` gives it; None where nothing is known.
        one: whether the rows are one user's, who need not be named, and who may be known.

    Raises:
        DataError: a file is bad, names no known item, or holds ratings of a known user.
    """
    dataset, scale = trained.dataset, trained.dataset.scale
    known_users, known_items = dataset.users, dataset.items
    items = with_new_items(known_items, new_items)
    if file is None:
        assert table is not None
        new, rate = _no_ratings(table.ids[:0]), "rate"
    else:
        user_type = None if one else known_users.ids.type
        if dataset.has_ratings:
            new = read_new_ratings(file, items, scale, user_type)
            rate, rates, rows = "rate", "rates", "ratings"
        else:
            new = read_new_interactions(file, items, user_type, dataset.interactions_from)
            rate, rates, rows = "have", "holds", "interactions"
        if not one:
            refusal = "--ratings takes users that training never saw"
            _refuse_known(file, schema.USER_ID, new.user_ids, known_users, refusal)
        if not len(new.items):
            raise DataError(f"{file}: {rates} no item of {dataset.path}")
        if new.unknown:
            shown = ", ".join(map(str, new.unknown_ids))
            log(f"{file}: {new.unknown} {rows} are of unknown items and left out (items {shown})")
    ids, users, described = new.user_ids, new.users, None
    if table is not None:
        ids = pc.unique(pa.concat_arrays([ids, table.ids]))
        ids = ids.take(pc.sort_indices(ids))
        users = IdMap(ids).encode(new.user_ids)[users]
        described = describe_users(trained, table, ids)
    codes, encoding = scale.encode(new.ratings), new.items < len(known_items)
    sizes = {"num_users": len(ids), "num_items": len(items)}
    rated = group_by_user(users, new.items, codes, **sizes)
    ratings = group_by_user(users[encoding], new.items[encoding], codes[encoding], **sizes)
    bare = ratings.degrees == 0
    if described is not None and table is not None:
        if without := int(np.count_nonzero(~described.has_row)):
            log(f"{file}: {without} users have no row in {table.file}; what they are is unknown")
        bare &= ~described.has_row
    if bare.any():
        count = int(np.count_nonzero(bare))
        log(f"{file}: {count} users {rate} no item that training saw; they are scored as nobody's")
    if described is None:
        return NewUsers(ids, ratings, rated.lists)
    return NewUsers(ids, ratings, rated.lists, described.features, described.told)


def _no_ratings(ids: pa.Array) -> NewRatings:
    """The ratings of nobody; of ids their type counts."""
    indices = np.empty(0, dtype=np.int32)
    return NewRatings(ids, indices, indices, np.empty(0, dtype=np.float32), 0)


def with_new_items(known: IdMap, new_items: NewItems | None) -> IdMap:
    """The ids of a data set's items and of new ones."""
    if new_items is None:
        return known
    return known.extended(pa.array(new_items.table[schema.ITEM_ID], type=known.ids.type))


def _refuse_known(file: Path, name: str, ids: pa.Array, known: IdMap, refusal: str) -> None:
    there = ids.filter(pc.is_in(ids, value_set=known.ids))
    if len(there):
        shown = ", ".join(str(one) for one in there[:3].to_pylist())
        raise DataError(f"{file}: {name} {shown} known to the data set ({len(there)}); {refusal}")
