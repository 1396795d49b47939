"""Signals that ask a job to stop, and the one that says that its terminal has gone."""

import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

INTERRUPTED = 130
"""The exit code of a command that was asked to stop."""

_STOPPING = (signal.SIGINT, signal.SIGTERM)
_ECHO_SECONDS = 1.0

_active: list["Interrupts"] = []  # the innermost last


class Interrupts:
    """While the block runs, SIGTERM and SIGHUP raise `KeyboardInterrupt`, as SIGINT does.

    Schedulers send the one before they kill, a terminal the other when it goes. In a thread other
    than the first nothing is changed, since signals do not reach it.

    A second SIGINT, from somebody who will not wait, is not put off. But what follows at once is
    the first one's echo, and disturbs no cleaning up: `torchrun` passes on what the terminal has
    sent to all. And while they are put off a second SIGTERM says no more than the first.

    What is raised within a callback of compiled code, or while an object is deleted, goes no
    further. So work that takes long calls `check_interrupts`, which raises it again, and Python
    shows no traceback of it.

    Args:
        outlives_terminal: whether work goes on where SIGHUP says that the terminal has gone.

    Attributes:
        requested: whether one came.
    """

    def __init__(self, *, outlives_terminal: bool = False) -> None:
        self.requested = False
        self._outlives = outlives_terminal
        self._put_off = False
        self._first = 0.0
        self._raised = -math.inf
        self._before: dict[signal.Signals, Callable[..., object] | int | None] = {}
        self._show_before: Callable[[sys.UnraisableHookArgs], object] | None = None

    def __enter__(self) -> "Interrupts":
        _active.append(self)
        if threading.current_thread() is threading.main_thread():
            for number in (*_STOPPING, signal.SIGHUP):
                if signal.getsignal(number) != signal.SIG_IGN:  # as in a shell's background job
                    self._before[number] = signal.signal(number, self._note)
            self._show_before, sys.unraisablehook = sys.unraisablehook, self._show
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._put_off = True  # it is over: nothing is to be raised while handlers are put back
        _active.remove(self)
        if self.requested and error is not None and _active:
            _active[-1].requested = True  # a library may have made another error of it
        if self._show_before is not None:
            sys.unraisablehook = self._show_before
        for number, handler in self._before.items():
            if handler is not None:  # not one of Python's, which cannot be set again
                signal.signal(number, handler)

    @contextmanager
    def put_off(self) -> Iterator[None]:
        """Within the block a signal only sets `requested`, but for a second SIGINT."""
        self._put_off = True
        try:
            yield
        finally:
            self._put_off = False

    def check(self) -> None:
        """Raise `KeyboardInterrupt` where a signal came and is not put off."""
        if self.requested and not self._put_off:
            raise KeyboardInterrupt

    def _show(self, lost: "sys.UnraisableHookArgs") -> None:
        """Show an exception that goes no further, but for one of a signal that is noted."""
        if self._show_before is not None and not (
            self.requested and lost.exc_type is KeyboardInterrupt
        ):
            self._show_before(lost)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP and self._outlives:
            return
        now = time.monotonic()
        if self._put_off:
            insists = self.requested and now - self._first > _ECHO_SECONDS
            at_once = number == signal.SIGINT and insists
        else:
            at_once = now - self._raised > _ECHO_SECONDS
        if not self.requested:
            self.requested, self._first = True, now
        if at_once:
            self._raised = now
            raise KeyboardInterrupt


def outlive_terminal() -> None:
    """From now on SIGHUP stops nothing that is under way, be it before the long work begins."""
    for one in _active:
        one._outlives = True


def asked_to_stop() -> bool:
    """Whether a signal asked to stop: what it raised may have become another error on its way."""
    return bool(_active) and _active[-1].requested


def check_interrupts() -> None:
    """Raise `KeyboardInterrupt` where a signal asks to stop, and what it raised was lost."""
    if _active:
        _active[-1].check()
