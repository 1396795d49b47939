"""Lists of items, all in one array: merged row by row, and the largest values of each."""

from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dglrec.kernels.parallel import compiled, parts_of, run_side_by_side


class ItemLists(NamedTuple):
    """A list of items for each of N rows.

    Attributes:
        offsets: int64 [N + 1]; row v's items stand at `offsets[v]:offsets[v + 1]`.
        items: int32 [K], ascending within a row.
    """

    offsets: npt.NDArray[np.int64]
    items: npt.NDArray[np.int32]


def merge_lists(lists: list[ItemLists]) -> ItemLists:
    """Lists of N rows merged row by row, ascending; an item that is in two lists comes twice.

    Raises:
        ValueError: offsets do not ascend to the end of their items, or differ in number.
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
    """Refuse offsets by which compiled code would read or write outside the arrays."""
    starts = lists.offsets
    ascending = (
        starts[0] == 0 and starts[-1] == len(lists.items) and (starts[1:] >= starts[:-1]).all()
    )
    if len(starts) != offsets or not ascending:
        raise ValueError(f"{len(starts)} offsets do not fit {len(lists.items)} items")


def pick_largest(
    offsets: npt.NDArray[np.int64], values: npt.NDArray[np.float32], count: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """The largest values above 0 in each column of each of n ranges of rows.

    Args:
        offsets: int64 [n + 1]; range v's rows are `offsets[v]:offsets[v + 1]`.
        values: float32 [K, k].
        count: R, how many values to pick.

    Returns:
        Rows [n, k, R], -1 where fewer values are above 0, and values [n, k, R], largest first; of
        equal values, the first row's comes first.
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
                best, best_rows = largest[v, column], rows[v, column]
                while at > 0 and value > best[at - 1]:
                    at -= 1
                if at == count:
                    continue
                for behind in range(count - 1, at, -1):
                    best[behind], best_rows[behind] = best[behind - 1], best_rows[behind - 1]
                best[at], best_rows[at] = value, row


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
