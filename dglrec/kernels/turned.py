"""A block's edges, checked, and sorted by source.

Gradients are then summed source by source, instead of by random additions to a table.

Shapes: S sources, D destinations, K edges.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dglrec.kernels.edges import check_rows
from dglrec.kernels.parallel import compiled

_MOST = 1 << 31  # so many edges or sources are too many for int32


def check_block(
    offsets: Tensor, neighbours: Tensor, num_sources: int, weights: Tensor | None = None
) -> None:
    """Refuse edges that do not fit together, or whose sources a table of S rows lacks.

    Args:
        offsets: int64 [D + 1].
        neighbours: whole numbers [K].
        num_sources: S.
        weights: [K] of the edges; None where they have none.

    Raises:
        ValueError: offsets, neighbours and weights do not fit together, or are too many to count.
        IndexError: a source does not exist.
    """
    ends, edges = offsets[[0, -1]].tolist(), len(neighbours)
    lengths = {edges} if weights is None else {edges, len(weights)}
    if ends != [0, edges] or len(lengths) > 1 or bool((offsets.diff() < 0).any()):
        raise ValueError(
            f"offsets from {ends[0]} to {ends[1]} and {sorted(lengths)} edges do not fit together"
        )
    if max(edges, num_sources) >= _MOST:
        raise ValueError(f"{edges} edges of {num_sources} sources: {_MOST} of either are too many")
    check_rows(neighbours, num_sources, "sources")


def edge_arrays(
    offsets: Tensor, neighbours: Tensor
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """A block's offsets and sources for compiled code; of one type, so that it compiles once."""
    return offsets.contiguous().numpy(), neighbours.to(torch.int32).contiguous().numpy()


def present_array(present: Tensor | None) -> npt.NDArray[Any]:
    """`present` as float32 [K] for compiled code; [0] where there is no padding."""
    if present is None:
        return np.empty(0, dtype=np.float32)
    there: npt.NDArray[Any] = present.detach().float().contiguous().numpy()
    return there


def turned_edges(
    offsets: npt.NDArray[np.int64], neighbours: npt.NDArray[np.int32], num_sources: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """A block's edges sorted by source.

    Returns:
        int64 [S + 1] where each source's edges start; int32 [K] the edges' destinations; int32 [K]
        their places among the block's edges.
    """
    starts = np.zeros(num_sources + 1, dtype=np.int64)
    destinations = np.empty(len(neighbours), dtype=np.int32)
    places = np.empty(len(neighbours), dtype=np.int32)
    _turn(offsets, neighbours, starts, destinations, places)
    return starts, destinations, places


@compiled
def _turn(offsets, neighbours, starts, destinations, places):  # type: ignore[no-untyped-def]
    for k in range(len(neighbours)):
        starts[neighbours[k] + 1] += 1
    for s in range(len(starts) - 1):
        starts[s + 1] += starts[s]
    following = starts[:-1].copy()
    for d in range(len(offsets) - 1):
        for k in range(offsets[d], offsets[d + 1]):
            place = following[neighbours[k]]
            following[neighbours[k]] += 1
            destinations[place] = d
            places[place] = k
