"""What all tests share."""

import gc
import importlib.util
import os
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

SLOW_SECONDS = 1800
"""After which a slow test has hung. Most of them start many processes, and none is to fail because
others use the machine as well. For the rest pyproject.toml says how long."""

STARTUP = Path(__file__).resolve().parent / "startup"
"""What each Python reads that the tests start. It is no test."""

collect_ignore = [str(STARTUP)]


def pytest_configure(config: pytest.Config) -> None:
    """Let what the tests start find the package, and the kernels that others have compiled.

    Of several processes that share the tests, the first does so for all.
    """
    if hasattr(config, "workerinput"):
        return
    kernels = tempfile.mkdtemp(prefix="dglrec-kernels-")
    config.add_cleanup(lambda: shutil.rmtree(kernels, ignore_errors=True))
    os.environ["NUMBA_CACHE_DIR"] = kernels
    paths = [str(STARTUP), str(STARTUP.parents[1]), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    spec = importlib.util.spec_from_file_location("startup", STARTUP / "sitecustomize.py")
    assert spec is not None and spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give the slow tests their time.

    Where processes share the tests, a file each at a time, those that take long come first: what
    comes last is done by one process alone.
    """
    slow: Counter[Path] = Counter()
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.timeout(SLOW_SECONDS))
            slow[item.path] += 1
    if hasattr(config, "workerinput"):
        tests = Counter(item.path for item in items)
        items.sort(key=lambda item: (-slow[item.path], -tests[item.path]))


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """On tensors this small, threads that wait for each other are most of the time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@dataclass(frozen=True)
class SmallDisk:
    """A disk of 2 MiB, to be filled."""

    folder: Path

    def leave(self, kib: int) -> Path:
        """Leave so much of it free."""
        free = shutil.disk_usage(self.folder).free
        (self.folder / "ballast").write_bytes(bytes(free - kib * 1024))
        return self.folder

    def grow(self) -> None:
        """Make it 2 MiB larger."""
        subprocess.run(["mount", "-o", "remount,size=4m", str(self.folder)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A disk to fill, where mounting one is permitted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no `mount` here, so no small disk to fill")
    if mounted.returncode:
        pytest.skip(f"not permitted to mount a small disk: {mounted.stderr.strip()}")
    yield SmallDisk(disk)
    # What was killed may take a moment to let go of its files, and with Python 3.13 an error's
    # traceback may hold some until it is collected.
    for _ in range(50):
        gc.collect()
        if not subprocess.run(["umount", str(disk)], capture_output=True).returncode:
            return
        time.sleep(0.1)
    subprocess.run(["umount", str(disk)], check=True)
