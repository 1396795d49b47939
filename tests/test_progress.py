import io
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from dglrec import progress as progress_module
from dglrec.progress import HEARTBEAT_SECONDS, log, progress


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress_module.time, "monotonic", clock)
    return clock


def test_log_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    log("three users")
    assert capsys.readouterr() == ("", "three users\n")


@pytest.mark.parametrize("text", ["\x1b[31m", "\x07", "\x9b31m", "\x7f", "\u202e", "\udcff"])
def test_nothing_that_a_terminal_acts_on_is_printed(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    log(f"a{text}b\nc")
    said = capsys.readouterr().err
    assert said.startswith("a\ufffd") and said.endswith("b\nc\n") and text[0] not in said


def test_short_work_prints_nothing(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress("reading ratings", 100, "rows") as advance:
        for _ in range(100):
            clock.now += 0.99 * HEARTBEAT_SECONDS / 100
            advance(1)
    assert capsys.readouterr() == ("", "")


def test_heartbeat_line(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress("reading ratings", 10_000, "rows") as advance:
        clock.now += 4
        advance(2_000)
        clock.now += 6
        advance(500)
    assert capsys.readouterr() == (
        "",
        "reading ratings: 2,500 of 10,000 rows (25%), 83.3 rows/s, 90 s left\n",
    )


def test_a_first_unit_that_waits_for_compiled_code_says_nothing_of_the_time_left(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress("epoch 1", 152, "batches") as advance:
        clock.now += 30
        advance(1)
        for _ in range(20):
            clock.now += 0.5
            advance(1)
    assert capsys.readouterr().err.splitlines() == [
        "epoch 1: 1 of 152 batches (1%), 0.0 batches/s",
        "epoch 1: 21 of 152 batches (14%), 2.0 batches/s, 66 s left",
    ]


def test_heartbeat_without_a_total(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress("reading ratings", None, "rows") as advance:
        clock.now += 10
        advance(25_000_000)
    assert capsys.readouterr().err == "reading ratings: 25,000,000 rows, 2.5M rows/s\n"


def test_heartbeat_comes_once_in_its_interval(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress("training", 1_000_000, "edges") as advance:
        for _ in range(105):
            clock.now += 1
            advance(1_000)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert lines[-1] == "training: 100,000 of 1,000,000 edges (10%), 1.0k edges/s, 15 min left"


@pytest.mark.parametrize(
    ("total", "done", "expected"),
    [
        (10, 0, "work: 0 of 10 steps (0%), 0.0 steps/s\n"),  # no rate, no time left
        (10, 20, "work: 20 of 10 steps (200%), 2.0 steps/s\n"),
        (0, 0, "work: 0 steps, 0.0 steps/s\n"),
    ],
)
def test_heartbeat_at_the_ends(
    clock: Clock, capsys: pytest.CaptureFixture[str], total: int, done: int, expected: str
) -> None:
    with progress("work", total, "steps") as advance:
        clock.now += 10
        advance(done)
    assert capsys.readouterr().err == expected


def test_time_left_is_never_negative(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress("work", 10, "steps") as advance:
        for _ in range(2):
            clock.now += 5
            advance(10)
    said = capsys.readouterr().err
    assert said == "work: 20 of 10 steps (200%), 2.0 steps/s, 0 s left\n"


def test_an_error_inside_passes_through() -> None:
    with pytest.raises(KeyError, match="x"), progress("work", 10, "steps") as advance:
        advance(1)
        raise KeyError("x")


def on_a_terminal(code: str) -> tuple[int, str, str]:
    """Run Python with stderr on a terminal: exit code, stdout, and what the terminal got."""
    terminal, far_end = pty.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=Path(progress_module.__file__).parent.parent,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
            stdout=subprocess.PIPE,
            stderr=far_end,
            text=True,
        )
    finally:
        os.close(far_end)
    shown = b""
    try:
        while chunk := os.read(terminal, 65_536):
            shown += chunk
    except OSError:
        pass  # Linux says so when the last process has closed the far end
    finally:
        os.close(terminal)
    stdout, _ = process.communicate(timeout=60)
    return process.returncode, stdout, shown.decode()


@pytest.mark.parametrize(("total", "counted"), [("200", "200/200"), ("None", "200/?")])
def test_bar_on_a_terminal(total: str, counted: str) -> None:
    code = f"""
from dglrec.progress import progress
with progress("reading ratings", {total}, "rows") as advance:
    for _ in range(2):
        advance(100)
print("result")
"""
    returncode, stdout, shown = on_a_terminal(code)
    assert returncode == 0, shown
    assert stdout == "result\n"
    for part in ("reading ratings", counted, "rows/s"):
        assert part in shown


def test_bar_gives_the_terminal_back_after_an_error() -> None:
    code = """
from dglrec.progress import progress
with progress("reading ratings", 10, "rows") as advance:
    raise SystemExit(3)
"""
    returncode, _, shown = on_a_terminal(code)
    assert returncode == 3
    hidden, visible = "\x1b[?25l", "\x1b[?25h"
    assert hidden in shown
    assert shown.rindex(visible) > shown.rindex(hidden)


def test_a_notebook_gets_one_line_that_is_written_over(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel_stream = type("OutStream", (io.StringIO,), {"__module__": "ipykernel.iostream"})()
    monkeypatch.setattr(sys, "stderr", kernel_stream)
    with progress("reading ratings", 100, "rows") as advance:
        for _ in range(4):
            clock.now += 0.3
            advance(25)
    first, second, blank, end = kernel_stream.getvalue().split("\r")[1:]
    assert first == "reading ratings: 50 of 100 rows (50%), 83.3 rows/s, 1 s left"
    assert second.rstrip() == "reading ratings: 100 of 100 rows (100%), 83.3 rows/s, 0 s left"
    assert blank == " " * len(second.rstrip()) and end == ""


def test_short_work_leaves_a_notebook_as_it_is(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel_stream = type("OutStream", (io.StringIO,), {"__module__": "ipykernel.iostream"})()
    monkeypatch.setattr(sys, "stderr", kernel_stream)
    with progress("reading ratings", 100, "rows") as advance:
        advance(100)
    assert kernel_stream.getvalue() == ""
