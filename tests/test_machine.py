"""Cores and memory as a container allows them."""

import types
from pathlib import Path

import psutil
import pytest

from dglrec import machine

GIB = 1 << 30


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        ("100000 100000", 1),
        ("150000 100000", 2),
        ("10000 100000", 1),
        ("6400000 100000", 3),
        ("max 100000", 3),
        (None, 3),
    ],
)
def test_cores_of_a_container(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quota: str | None, cores: int
) -> None:
    if quota is not None:
        (tmp_path / "cpu.max").write_text(quota + "\n")
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda pid: {0, 1, 5}, raising=False)
    assert machine.usable_cores() == cores


@pytest.mark.parametrize(
    ("limit", "used", "cached", "expected"),
    [
        (None, None, None, 64),
        ("max", 5, 1, 64),
        (8, 6, 1, 3),
        (8, 5, 4, 7),  # what only caches files is given back on demand
        (8, 10, 1, 0),
        (8, None, None, 8),
        (100, 5, 1, 64),  # the container may have more than the machine has free
        (300, 5, 1, 64),
    ],
)
def test_available_memory(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    limit: int | str | None,
    used: int | None,
    cached: int | None,
    expected: int,
) -> None:
    def write(name: str, text: str) -> None:
        (tmp_path / name).write_text(text + "\n")

    if limit is not None:
        write("memory.max", limit if isinstance(limit, str) else str(limit * GIB))
    if used is not None and cached is not None:
        write("memory.current", str(used * GIB))
        write("memory.stat", f"anon 17\ninactive_file {cached * GIB - 3}\nactive_file 3")
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    memory = types.SimpleNamespace(available=64 * GIB, total=128 * GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    assert machine.available_memory() == expected * GIB
    small = isinstance(limit, int) and limit < 128
    assert machine.memory_limit() == (limit * GIB if small else None)


def test_this_machine_has_some() -> None:
    assert machine.usable_cores() >= 1
    assert 0 < machine.available_memory() <= psutil.virtual_memory().total
    assert machine.gib(1.5 * GIB) == "1.5 GiB"


def test_peak_memory_rises_with_what_is_held_and_falls_no_more() -> None:
    before = machine.peak_memory()
    resident = psutil.Process().memory_info().rss
    assert before >= 0.99 * resident
    held = b"x" * (before - resident + (64 << 20))
    after = machine.peak_memory()
    assert after >= before + (32 << 20)
    del held
    assert machine.peak_memory() >= 0.99 * after  # the kernel counts in batches


def test_peak_memory_where_there_is_no_proc(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = machine.peak_memory()
    monkeypatch.setattr(machine, "_STATUS", tmp_path / "status")
    assert 0.9 * found <= machine.peak_memory()
