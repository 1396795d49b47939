"""Numbers for the nodes of a step, in the order in which they are met."""

import numpy as np
import torch
from torch import Tensor

from dglrec.kernels.edges import check_rows
from dglrec.kernels.parallel import compiled, runs_compiled


def number_rows(ids: Tensor, table: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Give the next number to each id that has none; the cost depends on the ids alone.

    Args:
        ids: int32 or int64 [n], rows of `table`.
        table: int32 [N], on the ids' device; each row's number, -1 for a row without one. New
            numbers are written into it.
        count: how many numbers are taken already.

    Returns:
        int32 [n] the number of each id, and int64 the ids that got a new number, in the order of
        these numbers, in which they are met.

    Raises:
        IndexError: the table has no row for an id.
    """
    if not runs_compiled(ids):
        fresh = in_order_met(ids[table.index_select(0, ids) < 0]).long()
        numbers = torch.arange(count, count + len(fresh), dtype=table.dtype, device=table.device)
        table[fresh] = numbers
        return table.index_select(0, ids), fresh
    check_rows(ids, len(table), "ids")
    places = np.empty(len(ids), dtype=np.int32)
    fresh_ids = np.empty(min(len(ids), len(table)), dtype=np.int64)
    found = _number_rows(ids.contiguous().numpy(), table.numpy(), count, places, fresh_ids)
    return torch.from_numpy(places), torch.from_numpy(fresh_ids[:found])


def in_order_met(ids: Tensor) -> Tensor:
    """The distinct ones of n whole numbers, in the order of their first place, by torch.

    Args:
        ids: int [n].
    """
    ascending, places = torch.unique(ids, return_inverse=True)
    positions = torch.arange(len(ids), device=ids.device)
    first = positions.new_zeros(len(ascending))
    first.scatter_reduce_(0, places, positions, "amin", include_self=False)
    met: Tensor = ascending.index_select(0, torch.argsort(first))
    return met


@compiled
def _number_rows(ids, table, count, places, fresh):  # type: ignore[no-untyped-def]
    found = 0
    for n in range(len(ids)):
        number = table[ids[n]]
        if number < 0:
            number = count + found
            table[ids[n]] = number
            fresh[found] = ids[n]
            found += 1
        places[n] = number
    return found
