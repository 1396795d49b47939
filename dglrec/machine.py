"""What this machine gives a process: cores and memory, as its container allows them."""

import ctypes
import math
import os
import resource
import sys
from pathlib import Path

GIB = 1 << 30

# Where Linux says what a container may use.
_CGROUP = Path("/sys/fs/cgroup")
_CACHED = ("active", "inactive")  # pages of files, read again when they are wanted
_STATUS = Path("/proc/self/status")
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # as in glibc's malloc.h


def usable_cores() -> int:
    """How many cores this process may use: its affinity, and the share its container has."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    quota, _, period = _read_cgroup("cpu.max").partition(" ")
    if quota.isdigit() and period.isdigit():
        cores = min(cores, math.ceil(int(quota) / int(period)))
    return max(cores, 1)


def memory_limit() -> int | None:
    """Bytes that the container allows all of its processes; None if the machine has no more."""
    import psutil  # here, so that `doctor` runs where it is missing

    limit = _read_cgroup("memory.max")
    if limit.isdigit() and int(limit) < psutil.virtual_memory().total:
        return int(limit)
    return None


def available_memory() -> int:
    """Bytes that can be had without swapping, those that only cache files included."""
    import psutil

    available = int(psutil.virtual_memory().available)
    limit, used = memory_limit(), _read_cgroup("memory.current")
    if limit is None or not used.isdigit():
        return available if limit is None else min(available, limit)
    cached = dict(line.split() for line in _read_cgroup("memory.stat").splitlines())
    used_for_good = int(used) - sum(int(cached.get(f"{kind}_file", 0)) for kind in _CACHED)
    return max(0, min(available, limit - used_for_good))


def peak_memory() -> int:
    """The most bytes that this process has had resident; mapped files that it read count."""
    try:
        lines = _STATUS.read_text(encoding="ascii").splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    # It may be that of a parent, before another program took the process over.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10


def give_back_memory() -> None:
    """Return to the system what is free in this process, and kept for later.

    Worth it between kinds of work of different sizes, where processes share a machine. Freed blocks
    are kept by the C library and by Arrow; not every C library has a way to return them.
    """
    import pyarrow as pa

    pa.default_memory_pool().release_unused()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def keep_freed_memory() -> None:
    """Have the C library keep what is freed for what is asked for next, up to `give_back_memory`.

    By default it maps each large block anew and unmaps it when it is freed. A training step asks
    for the same blocks as the one before, and would have each of their pages made, and zeroed, over
    and over: up to a third of its time. It is glibc's (`mallopt(3)`); other libraries do without.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version"):
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


def gib(count: float) -> str:
    """A number of bytes, for people."""
    return f"{count / GIB:.1f} GiB"


def _read_cgroup(name: str) -> str:
    """The container's file of a name; empty where there is none to read."""
    try:
        return (_CGROUP / name).read_text(encoding="ascii").strip()
    except OSError:
        return ""
