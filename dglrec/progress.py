"""What a person sees while work goes on: a bar on a terminal, a heartbeat line elsewhere.

Everything here goes to stderr; stdout belongs to results.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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

HEARTBEAT_SECONDS = 10.0
"""Seconds between two lines where stderr is no terminal; shorter work prints none."""

Advance = Callable[[int], None]


# Control characters but for a new line; what turns the direction of text; halves of characters,
# which stand for bytes that are no text.
_UNPRINTABLE = {
    code: "\ufffd"
    for codes in (range(32), range(127, 160), range(0x202A, 0x202F), range(0x2066, 0x206A))
    for code in codes
    if chr(code) != "\n"
} | dict.fromkeys(range(0xD800, 0xE000), "\ufffd")


def printable(text: str) -> str:
    r"""A text with a mark for each character that a terminal may act on, but for new lines.

    Titles, labels, ids and names of files come from elsewhere, and could otherwise change what a
    terminal shows.

    >>> printable("a\x1b[31mb") == "a\ufffd[31mb"
    True
    """
    return text.translate(_UNPRINTABLE)


def log(message: str) -> None:
    """Print one line on stderr, as `printable`."""
    print(printable(message), file=sys.stderr, flush=True)


@contextmanager
def progress(
    description: str, total: int | None, unit: str, *, shown: bool = True
) -> Iterator[Advance]:
    """Show the progress of one long step.

    Args:
        description: what is going on, as a phrase ("reading ratings").
        total: how many units there are; None where that is not known.
        unit: what is counted, in the plural ("rows").
        shown: whether to show anything; of many processes one is enough.

    Yields:
        A function that takes how many further units are done.
    """
    if not shown:
        yield lambda count: None
    elif sys.stderr.isatty():
        with _bar(description, total, unit) as advance:
            yield advance
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
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(printable(description), total=total)
        yield lambda count: bar.advance(task, count)


class _RateColumn(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{_count(speed)} {self.unit}/s" if speed else f"- {self.unit}/s")


class _Heartbeat:
    """Prints a line every `HEARTBEAT_SECONDS`: share done, rate, time left."""

    def __init__(self, description: str, total: int | None, unit: str) -> None:
        self.description = description
        self.total = total
        self.unit = unit
        self.done = 0
        self.started = self.printed = time.monotonic()

    def __call__(self, count: int) -> None:
        self.done += count
        now = time.monotonic()
        if now - self.printed < HEARTBEAT_SECONDS:
            return
        self.printed = now
        rate = self.done / (now - self.started)
        line = f"{self.description}: {self.done:,}"
        if self.total:
            line += f" of {self.total:,} {self.unit} ({self.done / self.total:.0%})"
        else:
            line += f" {self.unit}"
        line += f", {_count(rate)} {self.unit}/s"
        if self.total and rate > 0:
            line += f", {max(self.total - self.done, 0) / rate:.0f} s left"
        log(line)


def _count(value: float) -> str:
    for bound, suffix in ((1e6, "M"), (1e3, "k")):
        if value >= bound:
            return f"{value / bound:.1f}{suffix}"
    return f"{value:.1f}"
