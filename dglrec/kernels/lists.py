"""Lists of rows one behind the other: put together, and the largest values picked from each."""

from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dglrec.kernels.parallel import compiled, parts_of, run_side_by_side


class ItemLists(NamedTuple):
    """For each of N rows a list of items.

    Attributes:
        offsets: int64 [N + 1]; row v's items stand at `offsets[v]:offsets[v + 1]`.
        items: int32 [K], ascending within a row.
    """

    offsets: npt.NDArray[np.int64]
    items: npt.NDArray[np.int32]


def merge_lists(lists: list[ItemLists]) -> ItemLists:
    """Lists of N rows put together row by row, ascending; what stands in two is there twice.

    Raises:
        ValueError: the offsets of one do not ascend to its end, or their numbers differ.
    """
    for one in lists:
        _check(one, len(lists[0].offsets))
    merged = lists[0]
    for other in lists[1:]:
        offsets = merged.offsets + other.offsets
        items = np.empty(len(merged.items) + len(other.items), dtype=np.int32)
        rows = len(offsets) - 1
        run_side_by_side(
            [
                partial(_merge, *merged, *other, offsets, items, low, high)
                for low, high in parts_of(rows, len(items))
            ]
        )
        merged = ItemLists(offsets, items)
    return merged


def _check(lists: ItemLists, offsets: int) -> None:
    """Compiled code would read, and write, outside the arrays."""
    starts = lists.offsets
    ascending = (
        starts[0] == 0 and starts[-1] == len(lists.items) and (starts[1:] >= starts[:-1]).all()
    )
    if len(starts) != offsets or not ascending:
        raise ValueError(f"{len(starts)} offsets do not fit {len(lists.items)} items")


def pick_largest(
    offsets: npt.NDArray[np.int64], values: npt.NDArray[np.float32], count: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """The largest values above 0 in each column of each of n stretches of rows.

    Args:
        offsets: int64 [n + 1]; stretch v's rows are `offsets[v]:offsets[v + 1]`.
        values: float32 [K, k].
        count: R, how many.

    Returns:
        Rows [n, k, R], -1 where fewer are above 0, and values [n, k, R], largest first; of equal
        ones the first row's.
    """
    shape = (len(offsets) - 1, values.shape[1], count)
    rows, largest = np.full(shape, -1, dtype=np.int64), np.zeros(shape, dtype=np.float32)
    _pick(offsets, values, rows, largest)
    return rows, largest


@compiled
def _pick(offsets, values, rows, largest):  # type: ignore[no-untyped-def]
    count = rows.shape[2]
    for v in range(len(offsets) - 1):
        for row in range(offsets[v], offsets[v + 1]):
            for column in range(values.shape[1]):
                value, at = values[row, column], count
                mine, whose = largest[v, column], rows[v, column]
                while at > 0 and value > mine[at - 1]:
                    at -= 1
                if at == count:
                    continue
                for behind in range(count - 1, at, -1):
                    mine[behind], whose[behind] = mine[behind - 1], whose[behind - 1]
                mine[at], whose[at] = value, row


@compiled
def _merge(offsets, items, other_offsets, others, starts, out, low, high):  # type: ignore[no-untyped-def]
    for row in range(low, high):
        i, j, at = offsets[row], other_offsets[row], starts[row]
        end, other_end = offsets[row + 1], other_offsets[row + 1]
        while i < end and j < other_end:
            if items[i] <= others[j]:
                out[at] = items[i]
                i += 1
            else:
                out[at] = others[j]
                j += 1
            at += 1
        while i < end:
            out[at] = items[i]
            i, at = i + 1, at + 1
        while j < other_end:
            out[at] = others[j]
            j, at = j + 1, at + 1
