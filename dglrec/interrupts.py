"""Signals that ask a job to stop, and SIGHUP, which says that its terminal is gone."""

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

_active: list["Interrupts"] = []  # the innermost is last


class Interrupts:
    """Within the block, SIGTERM and SIGHUP raise `KeyboardInterrupt`, as SIGINT does.

    Schedulers send SIGTERM before they kill a job, and a terminal sends SIGHUP when it closes. In a
    thread other than the main thread nothing changes, since signals do not reach it.

    While signals are put off, a second SIGINT, from a user who will not wait, raises at once, but a
    second SIGTERM does not. A signal that follows the first within a second is ignored, so that it
    does not disturb cleaning up: `torchrun` passes on the SIGINT that a terminal has sent to all.

    An exception that is raised within a callback of compiled code, or while an object is deleted,
    is lost. So long work calls `check_interrupts`, which raises it again, and Python's traceback of
    the lost exception is not shown.

    Args:
        outlives_terminal: whether work continues after SIGHUP.

    Attributes:
        requested: whether a signal asked to stop.
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
                if (
                    signal.getsignal(number) != signal.SIG_IGN
                ):  # ignored in a shell's background job
                    self._before[number] = signal.signal(number, self._note)
            self._show_before, sys.unraisablehook = sys.unraisablehook, self._show
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._put_off = True  # nothing may be raised while the handlers are restored
        _active.remove(self)
        if self.requested and error is not None and _active:
            _active[-1].requested = True  # a library may have turned the exception into another
        if self._show_before is not None:
            sys.unraisablehook = self._show_before
        for number, handler in self._before.items():
            if handler is not None:  # None: not set from Python, so it cannot be set again
                signal.signal(number, handler)

    @contextmanager
    def put_off(self) -> Iterator[None]:
        """Within the block a signal only sets `requested`, except for a second SIGINT."""
        self._put_off = True
        try:
            yield
        finally:
            self._put_off = False

    def check(self) -> None:
        """Raise `KeyboardInterrupt` if a signal asked to stop and signals are not put off."""
        if self.requested and not self._put_off:
            raise KeyboardInterrupt

    def _show(self, lost: "sys.UnraisableHookArgs") -> None:
        """Show an exception that was lost, unless it is that of a signal, which is noted."""
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
    """From now on SIGHUP does not stop the work, even before a block that outlives it begins."""
    for interrupts in _active:
        interrupts._outlives = True


def asked_to_stop() -> bool:
    """Whether a signal asked to stop: its exception may have become another error on the way."""
    return bool(_active) and _active[-1].requested


def check_interrupts() -> None:
    """Raise `KeyboardInterrupt` if a signal asked to stop and its exception was lost."""
    if _active:
        _active[-1].check()
