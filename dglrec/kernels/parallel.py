"""Compiled functions, and work cut into a stretch a thread, run on as many as torch has."""

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

# Sums may be reordered, so that they vectorise; NaN and infinity stay what they are, and a division
# by zero gives one of them, as torch's does.
compiled: Any = numba.njit(
    nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz", "arcp"}
)

# Every operation as it is written: where what is drawn follows from the last bit of a number, it
# must not depend on how a loop was vectorised.
compiled_as_written: Any = numba.njit(nogil=True, error_model="numpy")

SMALL = 1 << 18  # numbers; less work than this is not worth a second thread


_COMPILED_FOR = "cpu"


def compiles_for(device: torch.device) -> bool:
    """Whether a device has compiled loops; where not, torch's operations do the same.

    Of a device without them nothing is asked that it would have to be waited for.
    """
    return device.type == _COMPILED_FOR


def runs_compiled(tensor: Tensor) -> bool:
    """Whether compiled loops take a tensor; see `compiles_for`."""
    return compiles_for(tensor.device)


def parts_of(count: int, work: int, own: int = 0) -> list[tuple[int, int]]:
    """Cut `count` things into a stretch a thread.

    Args:
        count: of the things.
        work: numbers that are read and written for all of them.
        own: numbers of a table that each thread fills for itself, and that are then added up; no
            more threads than the work outweighs.
    """
    threads = max(1, min(torch.get_num_threads(), work // SMALL, 2 * work // max(1, own)))
    cuts = [count * number // threads for number in range(threads + 1)]
    return list(pairwise(cuts))


def even_parts(offsets: npt.NDArray[Any], width: int, own: int = 0) -> list[tuple[int, int]]:
    """Cut nodes into a stretch a thread, about equal in edges."""
    edges = int(offsets[-1])
    wanted = [low for low, _ in parts_of(edges, edges * width, own)][1:]
    cuts = [0, *np.searchsorted(offsets, wanted).tolist(), len(offsets) - 1]
    return list(pairwise(cuts))


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="dglrec")


# A forked process has the pool and none of its threads.
os.register_at_fork(after_in_child=_pool.cache_clear)


def run_side_by_side(tasks: Sequence[Callable[[], None]]) -> None:
    """Run tasks side by side, the first on this thread; compiled code lets go of Python's lock."""
    if len(tasks) == 1:
        tasks[0]()
        return
    others = [_pool(torch.get_num_threads()).submit(task) for task in tasks[1:]]
    tasks[0]()
    for other in others:
        other.result()


def arrays_of(*tensors: Tensor) -> tuple[npt.NDArray[Any], ...]:
    """What compiled code reads of tensors: a view where one lies in order, or else a copy."""
    return tuple(tensor.detach().contiguous().numpy() for tensor in tensors)


def total_of(tables: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """The sum of tables that threads have filled, left in the first."""
    total = tables[0]
    for table in tables[1:]:
        total += table
    return total
