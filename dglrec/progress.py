"""Progress and messages: a bar on a terminal, an overwritten line in a notebook, else lines.

Everything here goes to stderr; stdout belongs to results.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Literal, TextIO, cast

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from dglrec.interrupts import check_interrupts

HEARTBEAT_SECONDS = 10.0
"""Seconds between two lines if stderr is no terminal; shorter work prints none."""

_TIME = "%Y-%m-%dT%H:%M:%S%z"

Advance = Callable[[int], None]


UNPRINTABLE = {
    code: "\ufffd"
    for codes in (range(32), range(127, 160), range(0x202A, 0x202F), range(0x2066, 0x206A))
    for code in codes
    if chr(code) != "\n"
} | dict.fromkeys(range(0xD800, 0xE000), "\ufffd")
"""A replacement for each control character other than a newline, each character that changes the
direction of text, and each surrogate, which stands for a byte that is no text."""


def printable(text: str) -> str:
    r"""Replace each character that a terminal may act on, except newlines.

    Titles, labels, ids and names of files come from others, and could otherwise change what a
    terminal shows.

    >>> printable("a\x1b[31mb") == "a\ufffd[31mb"
    True
    """
    return text.translate(UNPRINTABLE)


def counted(count: int, one: str, many: str = "") -> str:
    """A number and the noun it counts.

    >>> counted(1, "epoch"), counted(2_000, "epoch"), counted(0, "entry", "entries")
    ('1 epoch', '2,000 epochs', '0 entries')
    """
    return f"{count:,} {one if count == 1 else many or one + 's'}"


class Messages:
    """stderr, whose errors are ignored: if its reader is gone, the work should still go on.

    Args:
        stream: where to write; None if stderr was closed from the start.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text, if it can be written."""
        if self._stream is not None:
            with suppress(OSError, ValueError):  # ValueError: it has been closed
                self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Write what is buffered, if it can be written."""
        if self._stream is not None:
            with suppress(OSError, ValueError):
                self._stream.flush()

    def isatty(self) -> bool:
        """Whether it is a terminal, and still open."""
        try:
            return self._stream is not None and self._stream.isatty()
        except (OSError, ValueError):
            return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@dataclass(frozen=True)
class Manner:
    """How messages are printed.

    Attributes:
        quiet: whether stderr gets only errors, and no bars.
        as_json: whether each line is a JSON object of `time`, `level` and `message`.
        words: rewords a message that names a verb's options for this caller.
    """

    quiet: bool = False
    as_json: bool = False
    words: Callable[[str], str] | None = None


_manners = [Manner()]
_log_files: list[Path] = []

Level = Literal["info", "error"]


@contextmanager
def spoken(manner: Manner) -> Iterator[None]:
    """Within the block, print messages as `manner` says."""
    _manners.append(manner)
    try:
        yield
    finally:
        _manners.pop()


@contextmanager
def rephrased(words: Callable[[str], str]) -> Iterator[None]:
    """Within the block, messages are changed by a function before any other change."""
    manner = _manners[-1]
    others = manner.words

    def changed(message: str) -> str:
        return words(message) if others is None else others(words(message))

    with spoken(replace(manner, words=changed)):
        yield


def log(message: str, level: Level = "info") -> None:
    """Print a line on stderr, as `printable`, and add it to the files of `logged_to`."""
    manner = _manners[-1]
    text = printable(message if manner.words is None else manner.words(message))
    for file in _log_files:
        _add_line(file, text, level)
    if manner.quiet and level == "info":
        return
    if level == "error" and not manner.as_json:
        text = f"error: {text}"
    stream = Messages(sys.stderr)
    stream.write((_as_json(text, level) if manner.as_json else text) + "\n")
    stream.flush()


def _as_json(text: str, level: Level) -> str:
    return json.dumps({"time": time.strftime(_TIME), "level": level, "message": text})


@contextmanager
def logged_to(file: Path) -> Iterator[None]:
    """Within the block, `log` also adds its lines to a file, with times; so does an early end.

    If a terminal vanishes, nothing else says how far a job came. A line that cannot be written is
    left out, as it is no reason to stop.
    """
    _log_files.append(file)
    try:
        yield
    except BaseException as error:
        interrupted = isinstance(error, KeyboardInterrupt)
        said = "interrupted" if interrupted else str(error) or type(error).__name__
        _add_line(file, printable(f"ended early: {said}"), "error")
        raise
    finally:
        _log_files.remove(file)


def _add_line(file: Path, text: str, level: Level) -> None:
    line = f"{time.strftime(_TIME)} {'error: ' if level == 'error' else ''}{text}"
    with suppress(OSError), file.open("a", encoding="utf-8") as opened:
        opened.write((_as_json(text, level) if _manners[-1].as_json else line) + "\n")


@contextmanager
def progress(
    description: str, total: int | None, unit: str, *, shown: bool = True
) -> Iterator[Advance]:
    """Show the progress of a long step.

    Args:
        description: of the step, as a phrase ("reading ratings").
        total: how many units there are; None if that is not known.
        unit: what is counted, in the plural ("rows").
        shown: whether to show anything; of several processes only one should.

    Yields:
        A function that takes how many further units are done; it also raises `KeyboardInterrupt`
        where `check_interrupts` does.
    """
    manner = _manners[-1]
    if not shown or manner.quiet:
        yield lambda count: check_interrupts()
    elif Messages(sys.stderr).isatty() and not manner.as_json:
        with _bar(description, total, unit) as advance:
            yield advance
    elif _is_notebook(sys.stderr) and not manner.as_json:
        line = _Line(description, total, unit)
        try:
            yield line
        finally:
            line.clear()
    else:
        yield _Heartbeat(description, total, unit)


@contextmanager
def _bar(description: str, total: int | None, unit: str) -> Iterator[Advance]:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        _RateColumn(unit),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    console = Console(file=cast(IO[str], Messages(sys.stderr)))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(printable(description), total=total)

        def advance(count: int) -> None:
            check_interrupts()
            bar.advance(task, count)

        yield advance


class _RateColumn(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{_count(speed)} {self.unit}/s" if speed else f"- {self.unit}/s")


def _is_notebook(stream: TextIO | None) -> bool:
    """Whether a stream leads into a notebook, where a line can be overwritten as on a terminal."""
    return type(stream).__module__.startswith("ipykernel.")


class _Heartbeat:
    """Prints a line every `HEARTBEAT_SECONDS`: share done, rate, time left.

    The first units may wait for code to be compiled or a file to be opened. The rate is that of the
    units after them, once there are any; until then no time left is given.
    """

    every = HEARTBEAT_SECONDS

    def __init__(self, description: str, total: int | None, unit: str) -> None:
        self.description = description
        self.total = total
        self.unit = unit
        self.done = 0
        self.started = self.printed = time.monotonic()
        self.first: tuple[int, float] | None = None  # units of the first call, and when it came

    def __call__(self, count: int) -> None:
        check_interrupts()
        self.done += count
        now = time.monotonic()
        first_done, first_at = self.first = self.first or (count, now)
        if now - self.printed < self.every:
            return
        self.printed = now
        is_warm = self.done > first_done and now > first_at
        rate = (
            (self.done - first_done) / (now - first_at)
            if is_warm
            else self.done / (now - self.started)
        )
        line = f"{self.description}: {self.done:,}"
        if self.total:
            line += f" of {self.total:,} {self.unit} ({self.done / self.total:.0%})"
        else:
            line += f" {self.unit}"
        line += f", {_count(rate)} {self.unit}/s"
        if self.total and is_warm:
            line += f", {_duration(max(self.total - self.done, 0) / rate)} left"
        self._show(line)

    def _show(self, line: str) -> None:
        log(line)


class _Line(_Heartbeat):
    """The same as a line of a notebook, overwritten every half second and removed at the end."""

    every = 0.5

    def __init__(self, description: str, total: int | None, unit: str) -> None:
        super().__init__(description, total, unit)
        self.shown = 0

    def _show(self, line: str) -> None:
        text = printable(line)
        stream = Messages(sys.stderr)
        stream.write("\r" + text.ljust(self.shown))
        stream.flush()
        self.shown = len(text)

    def clear(self) -> None:
        """Remove the line."""
        if self.shown:
            Messages(sys.stderr).write("\r" + " " * self.shown + "\r")


def _duration(seconds: float) -> str:
    """A time left, as exactly as anybody plans with it.

    >>> _duration(59.6), _duration(240), _duration(5_000)
    ('60 s', '4 min', '1 h 23 min')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def _count(value: float) -> str:
    for bound, suffix in ((1e6, "M"), (1e3, "k")):
        if value >= bound:
            return f"{value / bound:.1f}{suffix}"
    return f"{value:.1f}"
