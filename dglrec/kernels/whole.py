"""The edges of a whole graph without some of them, and their ratings' residuals over the biases.

Shapes: N nodes of one type, M nodes of the other type, E edges, K edges that are kept.
"""

from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dglrec.kernels.parallel import (
    arrays_of,
    compiled_as_written,
    even_parts,
    run_side_by_side,
)

_WORK_AN_EDGE = 8  # numbers read and written for each edge; see `even_parts`


def kept_edges(
    offsets: Tensor,
    neighbours: Tensor,
    codes: Tensor,
    levels: Tensor,
    biases: tuple[Tensor, Tensor, float],
    keep: Tensor | None = None,
    numbers: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The kept edges of all nodes, on a CPU: their other ends, and their ratings' residuals.

    Each edge is read twice and written once, and no other array with an entry for each edge is
    made.

    Args:
        offsets: int64 [N + 1]; node n's edges stand at `offsets[n]:offsets[n + 1]`.
        neighbours: int32 [E]; the edges' other ends.
        codes: uint8 or int16 [E]; the edges' ratings, as `EdgeTensors.codes`.
        levels: float32 [L]; the rating that each code stands for.
        biases: float32 [N] of the nodes, float32 [M] of the other ends, and the mean.
        keep: bool [E]; whether the edge of each number is kept; None for all edges.
        numbers: int32 or int64 [E]; the edges' numbers; None where an edge's place is its number.

    Returns:
        int64 [N + 1] where each node's edges start, int32 [K] other ends, float32 [K] residuals:
        the rating less both biases and the mean.

    Raises:
        ValueError: an argument does not have an entry for each edge or node, or the offsets do not
            end at E.
    """
    of_nodes, of_others, mean = biases
    lengths = {len(one) for one in (neighbours, codes, keep, numbers) if one is not None}
    if lengths != {int(offsets[-1])} or len(of_nodes) != len(offsets) - 1:
        raise ValueError(
            f"offsets of {len(offsets) - 1} nodes end at {int(offsets[-1])}; there are "
            f"{sorted(lengths)} edges and {len(of_nodes)} biases"
        )
    kept = np.empty(0, dtype=np.bool_) if keep is None else keep.numpy()
    named = np.empty(0, dtype=np.int32) if numbers is None else numbers.numpy()
    arrays: list[Any] = [*arrays_of(offsets, neighbours, codes, levels), kept, named]
    edges = _Edges(*arrays)
    node_biases, other_biases = arrays_of(of_nodes, of_others)
    explained = _Biases(node_biases, other_biases, np.float32(mean))
    parts = even_parts(edges.offsets, _WORK_AN_EDGE)
    starts = edges.offsets.copy()
    if keep is not None:
        starts[0] = 0
        run_side_by_side([partial(_count, edges, starts, *part) for part in parts])
        np.cumsum(starts, out=starts)
    # Room for all edges, whatever is kept: a step then asks for memory blocks of the same size as
    # the step before, which are free by now.
    count, room = int(starts[-1]), len(edges.neighbours)
    out = _Kept(
        starts,
        np.empty(room, dtype=np.int32)[:count],
        np.empty(room, dtype=np.float32)[:count],
    )
    run_side_by_side([partial(_write, edges, explained, out, *part) for part in parts])
    starts_of_kept, ends, residuals = map(torch.from_numpy, out)
    return starts_of_kept, ends, residuals


class _Edges(NamedTuple):
    """The arguments of `kept_edges` as arrays; `keep` and `numbers` are empty for None."""

    offsets: npt.NDArray[np.int64]
    neighbours: npt.NDArray[np.int32]
    codes: npt.NDArray[Any]
    levels: npt.NDArray[np.float32]
    keep: npt.NDArray[np.bool_]
    numbers: npt.NDArray[Any]


class _Biases(NamedTuple):
    """What biases say of a rating: those of the nodes and of the other ends, and the mean."""

    nodes: npt.NDArray[np.float32]
    others: npt.NDArray[np.float32]
    mean: np.float32


class _Kept(NamedTuple):
    """The edges that are kept: where each node's start, and what belongs to each of them."""

    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int32]
    residuals: npt.NDArray[np.float32]


@compiled_as_written
def _count(edges, counts, low, high):  # type: ignore[no-untyped-def]
    offsets, keep, numbers = edges.offsets, edges.keep, edges.numbers
    for n in range(low, high):
        kept = 0
        for e in range(offsets[n], offsets[n + 1]):
            kept += keep[numbers[e] if len(numbers) else e]
        counts[n + 1] = kept


@compiled_as_written
def _write(edges, biases, out, low, high):  # type: ignore[no-untyped-def]
    offsets, neighbours, codes, levels, keep, numbers = edges
    for n in range(low, high):
        place = out.starts[n]
        for e in range(offsets[n], offsets[n + 1]):
            if len(keep) and not keep[numbers[e] if len(numbers) else e]:
                continue
            other = neighbours[e]
            out.ends[place] = other
            # Added in this order from either side, so that both directions have the same bits.
            explained = (biases.nodes[n] + biases.others[other]) + biases.mean
            out.residuals[place] = levels[np.int64(codes[e]) & 0xFFFF] - explained
            place += 1
