"""Over-smoothing: how alike nodes become from layer to layer.

Where layers average neighbours, all nodes of a connected graph tend to the same vector, or to its
multiples (Li, Han and Wu, "Deeper insights into graph convolutional networks for semi-supervised
learning", AAAI 2018, section 3). The mean cosine of random pairs of nodes measures this: it is 1
where all vectors have the same direction.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from dglrec.nn import NodeValues

_PAIRS, _NUMBERS = 10_000, 1 << 22  # the most pairs, and the most values read for them


def mean_cosines(nodes: NodeValues) -> Tensor:
    """[2], the mean cosines of random pairs of users and of items; nan for fewer than two nodes.

    The pairs depend on the number of nodes alone. The cosine of a zero vector to any other is 0.

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
    firsts = torch.randint(count, (pairs,), generator=generator)
    seconds = (firsts + torch.randint(1, count, (pairs,), generator=generator)) % count
    first, second = (
        values.index_select(0, places.to(values.device)) for places in (firsts, seconds)
    )
    return functional.cosine_similarity(first, second).mean()


def cosines_by_layer(cosines: Sequence[Tensor], *, combined: bool) -> list[dict[str, Any]]:
    """For each layer its number, 0 for the inputs, and the mean cosines of `users` and `items`.

    Args:
        cosines: the `mean_cosines` of each layer, and perhaps of the layers' combination at the
            end.
        combined: whether the last entry is of the combination; it is then named `combined`.
    """
    names: list[int | str] = list(range(len(cosines)))
    if combined:
        names[-1] = "combined"
    found = []
    for name, pair in zip(names, cosines, strict=True):
        users, items = (None if value != value else value for value in pair.tolist())
        found.append({"layer": name, "users": users, "items": items})
    return found
