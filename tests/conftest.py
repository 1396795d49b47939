"""What all tests share."""

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

SLOW_SECONDS = 1800
"""After which a slow test has hung. Most of them start many processes, and none is to fail because
others use the machine as well. For the rest pyproject.toml says how long."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the slow tests their time."""
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.timeout(SLOW_SECONDS))


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
    subprocess.run(["umount", str(disk)], check=True)
