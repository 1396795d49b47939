"""`benchmarks/gpu_check.py`: the time that parts get, what becomes of those that fail, and why."""

import argparse
import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from dglrec.dataset import PrepareOptions, prepare
from dglrec.synthetic import synthesize

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def check() -> Iterator[Any]:
    sys.path.insert(0, str(FOLDER))
    yield importlib.import_module("gpu_check")
    sys.path.remove(str(FOLDER))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planted")
    synthesize(folder / "source", users=60, items=40, ratings=900, seed=1)
    prepare(folder / "source", folder / "data", PrepareOptions(text=False))
    return folder / "data"


def options(**changed: Any) -> argparse.Namespace:
    given = {"device": "cuda", "minutes": 1.0, "data": None, "scale": None}
    return argparse.Namespace(**{**given, "batch": [500], "seconds": 0.1, **changed})


def test_a_part_gets_its_share_of_what_is_left(check: Any) -> None:
    parts = list(check.SHARES)
    total = sum(check.SHARES.values())
    assert check.shares(total, parts) == pytest.approx(check.SHARES["data"])
    # The last one may take all that the others have left.
    assert check.shares(100.0, parts[-1:]) == 100.0


def test_failed_and_unreached_parts_are_recorded(
    check: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(check.time, "monotonic", lambda: now[0])
    shares: dict[str, float] = {}

    def rows(self: Any, part: str, share: float) -> Iterator[dict[str, Any]]:
        shares[part] = share
        now[0] += share / 2
        if part == "data":
            self.data = tmp_path
        yield {"what": part}
        if part == "correctness":
            raise check.PartError("RuntimeError: CUDA error")
        if part == "training":
            yield {"error": "OutOfMemoryError: a row"}
            yield {"edges_per_second": 1}
        if part == "epoch":
            now[0] = 1059.5  # all but half a second is gone

    monkeypatch.setattr(check.Check, "rows", rows)
    made = check.Check(options(), 1, tmp_path)
    made.run()
    states = {row["part"]: (row["state"], row.get("why")) for row in made.report.parts}
    assert states["data"] == ("done", None)
    assert states["correctness"] == ("failed", "RuntimeError: CUDA error")
    assert states["training"] == ("failed", "OutOfMemoryError: a row")
    assert states["epoch"] == ("done", None)
    for part in ("inference", "validation", "scoring", "profile", "torchrun"):
        assert states[part] == ("not run", "no time was left")
    assert made.report.failed
    # What failed parts had measured stays, each row under its part.
    assert {"part": "correctness", "what": "correctness"} in made.report.rows
    assert {"part": "training", "edges_per_second": 1} in made.report.rows
    # The data took half of its share, so what is left for the others is more than their weights.
    total = sum(check.SHARES.values())
    assert shares["data"] == pytest.approx(60 * check.SHARES["data"] / total)
    assert shares["correctness"] == pytest.approx(
        (60 - shares["data"] / 2) * check.SHARES["correctness"] / (total - check.SHARES["data"])
    )


def test_without_data_nothing_else_is_run(
    check: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rows(self: Any, part: str, share: float) -> Iterator[dict[str, Any]]:
        raise check.ChildError("took longer than its 9 s")
        yield

    monkeypatch.setattr(check.Check, "rows", rows)
    made = check.Check(options(), 1, tmp_path)
    made.run()
    states = {row["part"]: (row["state"], row["why"]) for row in made.report.parts}
    assert states.pop("data") == ("failed", "took longer than its 9 s")
    assert set(states.values()) == {("not run", "there is no data")}
    assert set(states) == set(check.SHARES) - {"data"}


@pytest.mark.slow
def test_a_part_that_fails_or_takes_too_long_is_ended(
    check: Any, data: Path, tmp_path: Path
) -> None:
    job = {"dataset": str(data), "device": "cpu", "batches": [500], "most_seconds": 0.1}
    worker = check.Worker(job, tmp_path)
    with pytest.raises(check.PartError, match=r"took longer than its share of 0 s"):
        list(worker.rows("inference", 0.0))
    assert worker.ended
    worker = check.Worker(job, tmp_path)
    (row,) = worker.rows("inference", 60.0)
    assert row["nodes"] == 100 and not worker.ended
    with pytest.raises(check.PartError, match="KeyError: 'nonsense'"):
        list(worker.rows("nonsense", 60.0))
    assert worker.ended
    worker = check.Worker({**job, "dataset": str(tmp_path / "nothing")}, tmp_path)
    with pytest.raises(check.PartError, match="the process exited with 1"):
        list(worker.rows("inference", 60.0))


def test_without_a_card_it_says_so_and_exits_with_4(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a card here")
    target = tmp_path / "gpu.json"
    done = subprocess.run(
        [sys.executable, str(FOLDER / "gpu_check.py"), "--json", str(target)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 4
    assert "no card that can be used: torch" in done.stderr and "--device cpu" in done.stderr
    assert not target.exists()


def test_differences_from_the_cpu_are_relative_to_the_largest_value(check: Any) -> None:
    parts = importlib.import_module("gpu_parts")
    expected = torch.tensor([4.0, -8.0, -torch.inf])
    assert parts.difference(expected.clone(), expected) == 0.0
    near = torch.tensor([4.0, -8.004, -torch.inf])
    assert parts.difference(near, expected) == pytest.approx(0.0005, rel=1e-3)
    assert parts.difference(torch.tensor([4.0, -8.0, 1.0]), expected) == float("inf")
    assert parts.difference(torch.tensor([4.0, torch.nan, -torch.inf]), expected) == float("inf")
    assert "error" not in parts.judged({}, {"ratings": 1e-5})
    row = parts.judged({}, {"ratings": 2e-5, "loss": 1e-7, "items": float("inf")})
    assert row["error"] == "differs from the CPU by more than 1e-05: ratings 2e-05, items inf"
    assert row["ratings"] == 2e-5 and row["items"] is None


def test_launches_and_waits_are_counted_by_name(check: Any) -> None:
    parts = importlib.import_module("gpu_parts")

    def event(key: str, count: int, device_us: float) -> argparse.Namespace:
        times = {"self_device_time_total": device_us, "self_cpu_time_total": 1.0}
        return argparse.Namespace(key=key, count=count, **times)

    averages = [
        event("aten::mm", 3, 0.0),
        event("cudaLaunchKernel", 5, 0.0),
        event("cudaLaunchKernelExC", 2, 0.0),
        event("cudaStreamSynchronize", 4, 0.0),
        event("cudaDeviceSynchronize", 9, 0.0),  # the profiler's
        event("Memcpy DtoH (Device -> Pageable)", 2, 10.0),
        event("gemm", 7, 2_000.0),
    ]
    row = parts.summed([(0.004, averages), (0.004, averages)], on_card=True)
    assert (row["ms"], row["operations"], row["kernel_launches"]) == (4.0, 3, 7)
    assert (row["host_waits"], row["copies_to_host"], row["copies_to_card"]) == (4, 2, 0)
    assert row["card_ms"] == 2.01
    assert row["top"][0] == {"name": "gemm", "calls": 7, "ms": 2.0}


@pytest.mark.slow
def test_processes_sum_and_say_so_once(check: Any) -> None:
    """What NCCL does on cards, with Gloo."""
    job = {"do": "collective", "device": "cpu", "megabytes": 1}
    command = [*check.torchrun(2), str(FOLDER / "gpu_check.py"), check.CHILD, json.dumps(job)]
    done = check.run_measured(command, limit=120.0)
    (line,) = done.out.splitlines()
    row = json.loads(line)
    assert (row["backend"], row["processes"], row["megabytes"]) == ("gloo", 2, 1)
    assert row["ms"] > 0


def test_a_child_that_takes_too_long_is_killed_with_what_it_started(
    check: Any, tmp_path: Path
) -> None:
    script = "import subprocess, sys; print('x', flush=True); subprocess.run(['sleep', '600'])"
    with pytest.raises(check.ChildError, match="took longer than its 0 s"):
        # It would not return before the grandchild, which holds the pipe, has ended.
        check.run_measured([sys.executable, "-c", script], limit=0.3)


@pytest.mark.slow
def test_data_are_as_large_as_their_time_allows(check: Any, tmp_path: Path) -> None:
    parts = importlib.import_module("gpu_parts")
    row = parts.make_data(str(tmp_path), None, 0.0)
    assert row["scale"] == 0.02 and (tmp_path / "dataset" / "dataset.json").is_file()
