"""The items that make a user's row in models that only rank: all training items, or the liked."""

import math
from typing import Any, Literal

import numpy as np
from scipy import sparse

from dglrec.dataset import RatingDataset
from dglrec.errors import UsageError
from dglrec.graph import RatingGraph


def liked_from(dataset: RatingDataset) -> float:
    """The first level of the scale that is not below the mean training rating."""
    scale = dataset.scale
    mean = min(max(dataset.mean_rating, scale.minimum), scale.maximum)
    # The nearest level, or the next: the division may end just above a whole number.
    nearest = math.floor((mean - scale.minimum) / scale.step + 0.5)
    level = nearest + (scale.minimum + nearest * scale.step < mean)
    return scale.minimum + min(level, scale.levels - 1) * scale.step


def positives_of(
    dataset: RatingDataset, which: Literal["all", "liked"] | float
) -> sparse.csr_array:
    """Ones where a user has a positive training item, float32 [U, I], items ascending.

    Args:
        dataset: a prepared data set.
        which: `all` training items, those `liked`, or those rated this or higher.

    Raises:
        UsageError: there is no such item.
    """
    return _rows(dataset.graph, kept_of(dataset, which))


def kept_of(dataset: RatingDataset, which: Literal["all", "liked"] | float) -> Any:
    """Which training rows are positive, bool [E] by edge id; arguments as for `positives_of`.

    Raises:
        UsageError: no row is positive.
    """
    graph = dataset.graph
    if which == "all" or not dataset.has_ratings:
        keep = np.ones(graph.num_edges, dtype=bool)
        level = dataset.scale.minimum
    else:
        level = liked_from(dataset) if which == "liked" else float(which)
        keep = (dataset.scale.decode(np.arange(dataset.scale.levels)) >= level)[graph.by_user.codes]
    if not keep.any():
        raise UsageError(
            f"baseline.positives = {level:g}: no training rating is that high; the scale is "
            f"{dataset.scale}"
        )
    return keep


def _rows(graph: RatingGraph, keep: Any) -> sparse.csr_array:
    kept_before = np.concatenate([[0], np.cumsum(keep)])
    offsets = kept_before[graph.by_user.offsets]
    items = np.asarray(graph.by_user.neighbours)[keep]
    ones = np.ones(len(items), dtype=np.float32)
    return sparse.csr_array((ones, items, offsets), shape=(graph.num_users, graph.num_items))
