"""Items whose vectors are most like those of others, and items whose vectors mean anything."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dglrec.graph import RatingGraph
from dglrec.infer.lists import ListScorer
from dglrec.kernels import ItemLists
from dglrec.nn import ListTerms, RatingModel
from dglrec.relations import ITEM_TYPE, Direction


def nearest_items(
    vectors: Tensor, items: Tensor, k: int, among: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The k other items whose vectors have the largest cosines with an item's.

    Args:
        vectors: float32 [I, H], of all items.
        items: int64 [n].
        k: how many neighbours; less than the number of items that may be neighbours.
        among: int64 [C] the items that may be neighbours, ascending; None for all.

    Returns:
        Cosines float32 [n, k], the largest first, and items int64 [n, k]; of equal cosines the item
        with the lowest index comes first.

    Raises:
        DglrecError: a vector is not finite.

    >>> vectors = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 1.0]])
    >>> nearest_items(vectors, torch.tensor([0]), 1)[1].tolist()
    [[2]]
    >>> nearest_items(vectors, torch.tensor([0]), 1, among=torch.tensor([0, 1]))[1].tolist()
    [[1]]
    """
    units = functional.normalize(vectors.float(), dim=1)
    terms = ListTerms(units, units.new_zeros(len(units)))  # the dot product of units is the cosine
    itself = ItemLists(np.arange(len(units) + 1), np.arange(len(units), dtype=np.int32))
    return ListScorer(terms, terms, among).best(items, itself, k)


def comparable_items(
    model: RatingModel, graph: RatingGraph, directions: Sequence[Direction] = ()
) -> Tensor:
    """Whether the model reads a rating, a feature or an edge of a relation of each item, bool [I].

    The vectors of other items say nothing of them: all are the same, or as training began with
    them. A feature of 0 counts as none.

    Args:
        model: the model.
        graph: the ratings that it reads.
        directions: of the relations that it reads.
    """
    found = torch.from_numpy(graph.by_item.degrees > 0)
    found |= model.inputs.features.any(dim=1).cpu()
    for direction in directions:
        if direction.destination_type == ITEM_TYPE:
            found |= torch.from_numpy(direction.edges.degrees > 0)
    return found
