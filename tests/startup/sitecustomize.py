"""Read by every Python that the tests start: compiled kernels are kept for the next process.

To compile is two thirds of what a process spends that trains on a few thousand ratings. The folder
is of one session of tests, as Numba does not see that a function changed which another one calls.
"""

import functools
import importlib.util
import sys
import uuid
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def keep_kernels(numba: ModuleType) -> None:
    """Let what `numba.njit` compiles be kept in NUMBA_CACHE_DIR, by many processes at once."""
    from numba.core.caching import IndexDataCacheFile

    numba.njit = functools.partial(numba.njit, cache=True)
    # Numbered, as they come, two files of two processes have the same name, and one of the two then
    # runs what was compiled for other types.
    IndexDataCacheFile._data_name = lambda self, _: f"{self._index_name}.{uuid.uuid4().hex}"


class _OnceImported(MetaPathFinder):
    """Changes Numba when it is imported: most processes do without it."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if name != "numba":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def run_and_change(module: ModuleType) -> None:
                run(module)
                keep_kernels(module)

            spec.loader.exec_module = run_and_change  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, _OnceImported())
