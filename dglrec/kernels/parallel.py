"""How functions are compiled, and how work is divided among as many threads as torch has."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

# Sums may be reordered, so that they vectorise. NaN and infinity are kept, and a division by zero
# gives one of them, as in torch.
compiled: Any = numba.njit(
    nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz", "arcp"}
)

# Every operation in the order written: where a random choice depends on the last bit of a number,
# it must not depend on how a loop was vectorised.
compiled_as_written: Any = numba.njit(nogil=True, error_model="numpy")

SMALL = 1 << 18  # numbers of work for each thread; with less, a thread costs more than it saves


_COMPILED_FOR = "cpu"


def compiles_for(device: torch.device) -> bool:
    """Whether a device has compiled loops; on other devices, torch's operations do the same.

    On other devices no value is read on the host, as that would wait for the device.
    """
    return device.type == _COMPILED_FOR


def runs_compiled(tensor: Tensor) -> bool:
    """Whether a tensor's device has compiled loops; see `compiles_for`."""
    return compiles_for(tensor.device)


def parts_of(count: int, work: int, table: int = 0) -> list[tuple[int, int]]:
    """Divide `count` things into one range for each thread.

    Args:
        count: how many things there are.
        work: numbers that are read and written for all of them.
        table: size of the table that each thread fills separately, before the tables are summed; it
            limits the threads to what the work outweighs.
    """
    threads = max(1, min(torch.get_num_threads(), work // SMALL, 2 * work // max(1, table)))
    cuts = [count * number // threads for number in range(threads + 1)]
    return list(pairwise(cuts))


def even_parts(offsets: npt.NDArray[Any], width: int, table: int = 0) -> list[tuple[int, int]]:
    """Divide nodes into one range for each thread, about equal in edges; see `parts_of`."""
    edges = int(offsets[-1])
    wanted = [low for low, _ in parts_of(edges, edges * width, table)][1:]
    cuts = [0, *np.searchsorted(offsets, wanted).tolist(), len(offsets) - 1]
    return list(pairwise(cuts))


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="dglrec")


# A forked process inherits the pool without its threads.
os.register_at_fork(after_in_child=_pool.cache_clear)


def run_side_by_side(tasks: Sequence[Callable[[], None]]) -> None:
    """Run tasks in parallel, the first on this thread; compiled code releases Python's lock."""
    if len(tasks) == 1:
        tasks[0]()
        return
    others = [_pool(torch.get_num_threads()).submit(task) for task in tasks[1:]]
    tasks[0]()
    for other in others:
        other.result()


def arrays_of(*tensors: Tensor) -> tuple[npt.NDArray[Any], ...]:
    """Tensors as arrays for compiled code: views of contiguous tensors, copies of others."""
    return tuple(tensor.detach().contiguous().numpy() for tensor in tensors)


def total_of(tables: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """The sum of the tables that threads have filled; written into the first table."""
    total = tables[0]
    for table in tables[1:]:
        total += table
    return total
