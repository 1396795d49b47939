"""How alike nodes become layer by layer: over-smoothing.

Where layers average neighbours, all nodes of a connected graph tend to the same vector, or to its
multiples (Li, Han and Wu, "Deeper insights into graph convolutional networks for semi-supervised
learning", AAAI 2018, section 3). The mean cosine between nodes that have nothing to do with each
other says how far that has gone: 1 where all point the same way.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from dglrec.nn import NodeValues

_PAIRS, _NUMBERS = 10_000, 1 << 22  # of pairs at most, and of values that are read for them


def mean_cosines(nodes: NodeValues) -> Tensor:
    """[2], the mean cosines between random pairs of users, and of items; nan of fewer than two.

    The pairs follow from the number of nodes alone. A vector of zeros has the cosine 0 to any.

    Args:
        nodes: [N, H] of each type.
    """
    return torch.stack([_mean_cosine(values) for values in nodes])


def _mean_cosine(values: Tensor) -> Tensor:
    count = len(values)
    if count < 2:
        return values.new_full((), torch.nan)
    pairs = max(1, min(_PAIRS, _NUMBERS // values.shape[1]))
    generator = torch.Generator().manual_seed(0)
    ones = torch.randint(count, (pairs,), generator=generator)
    others = (ones + torch.randint(1, count, (pairs,), generator=generator)) % count
    one, other = (values.index_select(0, places.to(values.device)) for places in (ones, others))
    return functional.cosine_similarity(one, other).mean()


def cosines_by_layer(cosines: Sequence[Tensor], *, combined: bool) -> list[dict[str, Any]]:
    """Of each layer its number, 0 being the inputs, and the mean cosines of `users` and `items`.

    Args:
        cosines: of `mean_cosines`, of each layer and perhaps, behind them, of what they make.
        combined: whether the last is of what all layers make together.
    """
    names: list[int | str] = list(range(len(cosines)))
    if combined:
        names[-1] = "combined"
    found = []
    for name, pair in zip(names, cosines, strict=True):
        users, items = (None if value != value else value for value in pair.tolist())
        found.append({"layer": name, "users": users, "items": items})
    return found
