"""Items on a plane: the first two principal components of their embeddings."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dglrec.dataset import RatingDataset
from dglrec.relations import ITEM_TYPE, Attribute
from dglrec.report.chart import COLOURS, Point
from dglrec.run import TrainedModel

OTHER = "other"

_MOST_POINTS = 1_500  # on a page: as many as can be told apart, and small enough to send
_PREFERRED = "genres"


@dataclass(frozen=True)
class ItemMap:
    """Where items stand.

    Attributes:
        points: of the most rated items.
        items: how many there are in all.
        attribute: what they are coloured by; None for nothing.
        groups: in the order of colours.
        explained: share of the embeddings' variance that each axis has.
    """

    points: list[Point]
    items: int
    attribute: str | None
    groups: list[str]
    explained: tuple[float, float]


def map_items(trained: TrainedModel, of_runs: int = 1) -> ItemMap:
    """The map of a run's items.

    Args:
        trained: a graph model.
        of_runs: how many maps share the page.
    """
    dataset = trained.dataset
    places, explained = principal_plane(trained.embeddings.nodes.items)
    degrees = dataset.graph.by_item.degrees
    shown = np.argsort(-degrees, kind="stable")[: max(100, _MOST_POINTS // of_runs)]
    attribute, groups, group_of = _groups(dataset)
    points = [
        Point(
            x=float(places[item, 0]),
            y=float(places[item, 1]),
            label=str(dataset.titles[int(item)].as_py()),
            group=group_of[item],
            weight=int(degrees[item]),
        )
        for item in shown.tolist()
    ]
    return ItemMap(points, len(degrees), attribute, groups, explained)


def principal_plane(vectors: Tensor) -> tuple[Tensor, tuple[float, float]]:
    """The first two principal components of n vectors, float64 [n, 2].

    An axis points to where its eigenvector's largest entry is positive, so that the same vectors
    give the same picture.

    Returns:
        The places, and the share of the variance along each axis.
    """
    centred = vectors.detach().cpu().double()
    centred = centred - centred.mean(0)
    if centred.shape[1] < 2:
        centred = torch.nn.functional.pad(centred, (0, 2 - centred.shape[1]))
    values, axes = torch.linalg.eigh(centred.T @ centred)
    axes = axes[:, [-1, -2]]
    largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))
    axes = axes * torch.where(largest < 0, -1.0, 1.0)
    total = float(values.clamp(min=0).sum()) or 1.0
    shares = (max(0.0, float(values[-1])) / total, max(0.0, float(values[-2])) / total)
    return centred @ axes, shares


def _groups(dataset: RatingDataset) -> tuple[str | None, list[str], npt.NDArray[np.object_]]:
    """What items are coloured by, its labels that have a colour, and the label of each item.

    The labels with most items have colours; an item with several of them takes the rarest, as
    common ones say little.
    """
    group_of = np.full(dataset.graph.num_items, OTHER, dtype=object)
    attribute = _attribute(dataset)
    if attribute is None:
        return None, [], group_of
    edges = attribute.relation.forward
    counts = np.bincount(edges.neighbours, minlength=len(attribute.vocabulary))
    common = np.argsort(-counts, kind="stable")[: COLOURS - 1]
    owners = np.repeat(np.arange(len(group_of)), edges.degrees)
    for label in common.tolist():  # rarer labels come later, and replace commoner ones
        group_of[owners[edges.neighbours == label]] = attribute.vocabulary[label]
    return (
        attribute.name,
        [*(attribute.vocabulary[label] for label in common.tolist()), OTHER],
        group_of,
    )


def _attribute(dataset: RatingDataset) -> Attribute | None:
    of_items = [one for one in dataset.attributes.values() if one.node_type == ITEM_TYPE]
    genres = [one for one in of_items if one.name == _PREFERRED]
    return next(iter(genres + of_items), None)
