"""Recommendations for a single user."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from dglrec.biases import Biases
from dglrec.dataset import RatingDataset
from dglrec.errors import DataError, UsageError
from dglrec.graph import Adjacency
from dglrec.infer import (
    Diverse,
    Diversity,
    EncodedNodes,
    ListScorer,
    Rated,
    Scorer,
    embed_new_users,
    find_reasons,
    likeness_of,
)
from dglrec.ingest import Given, find
from dglrec.kernels import ItemLists
from dglrec.metrics import clip
from dglrec.nn import ListTerms, NodeValues
from dglrec.relations import ITEM_TYPE
from dglrec.run import Predictor, TrainedBaseline, TrainedModel
from dglrec.schema import whole_numbers
from dglrec.score.added import Known, read_user_to_add
from dglrec.score.described import read_described_user
from dglrec.score.fitted import refused
from dglrec.score.relation_reasons import Ranker, RelationReason, RelationReasons


@dataclass(frozen=True)
class Reason:
    """A rated item that a recommendation rests on.

    Attributes:
        item_id: external id.
        title: the item's title, or its id where there is no title.
        contribution: how much lower the score would be without the user's rating of this item; for
            predicted ratings, before clipping.
        rating: the user's rating of this item; None for interactions.
    """

    item_id: Any
    title: str
    contribution: float
    rating: float | None = None


@dataclass(frozen=True)
class Recommendation:
    """One item for one user.

    Attributes:
        rank: from 1.
        item_id: external id.
        title: the item's title, or its id where there is no title.
        score: the score that the list is ordered by.
        rating: the predicted rating, clipped to the scale; None where the model predicts none.
        because: up to three rated items that it rests on; empty unless they were asked for.
        relations: up to three relations that it rests on; None unless they were asked for and the
            model reads relations.
        predicted: the predicted rating before clipping, which orders items that the end of the
            scale would make equal.
    """

    rank: int
    item_id: Any
    title: str
    score: float
    rating: float | None = None
    because: tuple[Reason, ...] = ()
    relations: tuple[RelationReason, ...] | None = None
    predicted: float | None = None


def recommend(
    trained: Predictor,
    user_id: str | None,
    k: int = 10,
    *,
    ratings: Given | None = None,
    user_table: Given | None = None,
    known: Known = "replace",
    explain: bool = False,
    diversity: Diversity | None = None,
) -> list[Recommendation]:
    """The best items that a user has not rated, by the score that orders the model's lists.

    Items that the user rated in any split, held-out rows included, are left out.

    Args:
        trained: a run's model.
        user_id: a user of the data set, as text; with `ratings` or `user_table` it may be any user,
            or None. Items that the data set has for that user are left out in any case.
        k: the number of items; a user with fewer candidates gets all of them.
        ratings: a file with the ratings of a user that training never saw.
        known: how these ratings are treated if the user is in the data set: as all ratings of the
            user (`replace`), as additional ratings (`extend`), or as an error.
        user_table: a file with the attributes of such a user, with or without ratings.
        explain: whether to give the reasons for each recommendation.
        diversity: how to make the list diverse; None for a list by score alone. Scores of a diverse
            list need not descend.

    Raises:
        UsageError: k is not positive, or a baseline is asked for reasons, or for the list of a user
            that training never saw.
        DataError: the user is unknown, or known where that is an error, or the file is bad or rates
            no known item.
    """
    dataset, biases = trained.dataset, trained.dataset.biases
    check_k(k)
    if isinstance(trained, TrainedBaseline):
        given = {"--explain": explain, "--ratings": ratings, "--user-table": user_table}
        for option, value in given.items():
            if value:
                raise refused(trained, option)
        return _by_baseline(trained, _index_of(dataset, user_id), k, diversity)
    ratings = None if ratings is None else find(ratings)
    table = None
    if user_table is not None:
        table, user_id = read_described_user(trained, find(user_table), user_id)
    is_new = ratings is not None or table is not None
    index = _index_of(dataset, user_id, anyone=is_new)
    user_row = slice(max(index, 0), index + 1)  # empty for a user that the data set lacks
    rated = dataset.rated_items() if index >= 0 else None
    seen = [] if rated is None else [rated.items[rated.offsets[index] : rated.offsets[index + 1]]]
    if is_new:
        new = read_user_to_add(trained, ratings, table=table, index=index, known=known)
        biases = biases.of_new_users(new.ratings, dataset.scale)
        encoded = embed_new_users(
            trained.model,
            trained.embeddings,
            new.ratings,
            dataset.scale,
            biases,
            features=new.features,
            told=new.told,
            identities=new.identities,
        )
        user, terms, of_user = encoded.nodes, encoded.lists, new.ratings
        seen.append(new.rated.items)
        made_of = Rated(new.ratings, dataset.scale, biases, new.identities, new.features, new.told)
    else:
        everybody = torch.arange(dataset.graph.num_users)
        made_of = Rated(dataset.graph.by_user, dataset.scale, biases, everybody)
        user = trained.embeddings.nodes.users[user_row]
        lists = trained.embeddings.lists
        terms = None if lists is None else lists[0].of(torch.tensor([index]))
        of_user = dataset.graph.by_user.of_nodes(index, index + 1)
        biases = replace(
            biases,
            users=biases.users[user_row],
            user_degrees=biases.user_degrees[user_row],
            user_squares=biases.user_squares[user_row],
        )
    left_out = np.unique(np.concatenate(seen))
    nodes = NodeValues(user, trained.embeddings.nodes.items)
    scorer = Scorer(trained.model, nodes, biases) if trained.rates else None
    made = _Lists(trained, biases, of_user)
    ranker = made.ranker(nodes, scorer, terms)
    best_of = ranker.best_of_few
    if diversity is not None:
        likeness = likeness_of(diversity.by, dataset, trained.embeddings.nodes.items)
        best_of = Diverse(best_of, likeness, diversity.weight).best
    scores, items = best_of(torch.tensor([0]), ItemLists(np.array([0, len(left_out)]), left_out), k)
    is_listed = torch.isfinite(scores[0])
    best = items[:, is_listed]
    values = scores[0][is_listed].tolist()
    predicted: Tensor | None = None
    if scorer is not None:
        predicted = scorer.pairs(torch.zeros_like(best[0]), best[0])
    because: list[tuple[Reason, ...]] = [() for _ in values]
    relations: list[tuple[RelationReason, ...] | None] = [None for _ in values]
    if explain:
        row, alone = torch.tensor([0 if is_new else index]), torch.tensor([0])
        found = find_reasons(trained.model, trained.embeddings, ranker, made_of, row, alone, best)
        rated_as = _given_ratings(dataset, of_user)
        because = [
            tuple(
                Reason(*_named(trained, item), float(contribution), rated_as.get(item))
                for item, contribution in zip(*reasons_of_item, strict=True)
                if item >= 0
            )
            for reasons_of_item in zip(
                found.items[0].tolist(), found.contributions[0].tolist(), strict=True
            )
        ]
    if explain and trained.directions:

        def without(node_type: str, others: EncodedNodes) -> Ranker:
            if node_type == ITEM_TYPE:
                return made.ranker(nodes._replace(items=others.nodes), None, terms, others.lists)
            if is_new:
                return ranker
            of_it = None if others.lists is None else others.lists.of(torch.tensor([index]))
            return made.ranker(nodes._replace(users=others.nodes[user_row]), None, of_it)

        indices = torch.tensor([-1 if is_new else index])
        relations[:] = RelationReasons(trained, ranker, without).find(alone, best, indices)[0]
    return [
        Recommendation(rank, *_named(trained, item), score, rating, reasons, others, unclipped)
        for rank, (item, score, (rating, unclipped), reasons, others) in enumerate(
            zip(
                best[0].tolist(),
                values,
                _both_ratings(predicted, dataset, len(values)),
                because,
                relations,
                strict=True,
            ),
            start=1,
        )
    ]


def _both_ratings(
    predicted: Tensor | None, dataset: RatingDataset, count: int
) -> list[tuple[float | None, float | None]]:
    """Predicted ratings clipped to the scale, and unclipped; None where there are none."""
    if predicted is None:
        return [(None, None)] * count
    clipped = clip(predicted, dataset.scale).tolist()
    return list(zip(clipped, predicted.tolist(), strict=True))


def _given_ratings(dataset: RatingDataset, of_user: Adjacency) -> dict[int, float]:
    """A user's ratings by item index; empty for interactions."""
    if not dataset.has_ratings:
        return {}
    ratings = dataset.scale.decode(of_user.codes)
    return dict(zip(of_user.neighbours.tolist(), ratings.tolist(), strict=True))


def own_id(dataset: RatingDataset, user_id: str | None) -> int | str | None:
    """A user's id, given as text, in the type of the data set's ids; the text if it has no such id.

    The text is also returned for a data set with text ids.
    """
    if user_id is None or dataset.users.ids.type == pa.string():
        return user_id
    try:
        number = whole_numbers(pa.array([user_id], type=pa.string()))[0].as_py()
    except UnicodeEncodeError:  # bytes of the command line that are no text
        return user_id
    return user_id if number is None else int(number)


def _index_of(dataset: RatingDataset, user_id: str | None, *, anyone: bool = False) -> int:
    """A user's index; -1 for a user that is not in the data set, if `anyone` is allowed.

    Raises:
        DataError: the data set has no such user.
    """
    index = dataset.users.encode_one(user_id) if user_id is not None else -1
    if index < 0 and not anyone:
        shown = ", ".join(str(known) for known in dataset.users.nearest())
        raise DataError(
            f"no user {user_id} in {dataset.path}; users are like {shown}, ...; for a user "
            "that training never saw give --ratings, or --user-table"
        )
    return index


def _by_baseline(
    trained: TrainedBaseline, index: int, k: int, diversity: Diversity | None
) -> list[Recommendation]:
    """The list of a user of the data set."""
    dataset, best_of = trained.dataset, trained.best
    if diversity is not None:
        best_of = Diverse(best_of, likeness_of(diversity.by, dataset, None), diversity.weight).best
    scores, items = best_of(torch.tensor([index]), dataset.rated_items(), k)
    is_listed = torch.isfinite(scores[0])
    best, values = items[0][is_listed], scores[0][is_listed]
    ratings = _both_ratings(values if trained.rates else None, dataset, len(best))
    return [
        Recommendation(rank, *_named(trained, item), score, rating, predicted=unclipped)
        for rank, (item, score, (rating, unclipped)) in enumerate(
            zip(best.tolist(), values.tolist(), ratings, strict=True), start=1
        )
    ]


@dataclass(frozen=True)
class _Lists:
    """Makes rankers for the list of a single user.

    Attributes:
        trained: a run's model.
        biases: of the user and all items.
        rated: the user's ratings.
    """

    trained: TrainedModel
    biases: Biases
    rated: Adjacency

    def ranker(
        self,
        nodes: NodeValues,
        scorer: Scorer | None,
        terms: ListTerms | None,
        of_items: ListTerms | None = None,
    ) -> Ranker:
        """The ranker of items for the user.

        Args:
            nodes: the embeddings of the user and of all items.
            scorer: the scorer of these nodes; None to make it here if it is needed.
            terms: the list head's terms of the user; None without a list head.
            of_items: the list head's terms of the items; None for those of the data set's items.
        """
        trained, lists = self.trained, self.trained.embeddings.lists
        if terms is not None and lists is not None and trained.orders_by_lists:
            added = trained.item_items(self.rated)
            return ListScorer(terms, of_items or lists[1], None, added, trained.model.list_head)
        return scorer or Scorer(trained.model, nodes, self.biases)


def _named(trained: Predictor, item: int) -> tuple[Any, str]:
    """An item's id and title."""
    dataset = trained.dataset
    return dataset.items.ids[item].as_py(), dataset.titles[item].as_py()


def check_k(k: int, catalogue: int | None = None) -> None:
    """Refuse an impossible length of lists.

    Raises:
        UsageError: k is not positive, or larger than the catalogue.
    """
    if k < 1:
        raise UsageError(f"k = {k}: must be 1 or more")
    if catalogue is not None and k > catalogue:
        raise UsageError(f"k = {k}: the catalogue has {catalogue} items")
