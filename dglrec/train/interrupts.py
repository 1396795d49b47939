"""Signals that ask training to stop: put off until a step is done and saved."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_ECHO_SECONDS = 1.0


class Interrupts:
    """While the block runs, SIGTERM raises `KeyboardInterrupt`, as SIGINT does.

    Schedulers send it before they kill. In a thread other than the first nothing is changed, since
    signals do not reach it.

    A second SIGINT, from somebody who will not wait, is not put off. But one that follows at once
    is the first one's echo: `torchrun` passes on what the terminal has sent to all. And a second
    SIGTERM says no more than the first.

    Attributes:
        requested: whether one came while they were put off.
    """

    def __init__(self) -> None:
        self.requested = False
        self._put_off = False
        self._first = 0.0
        self._before: dict[signal.Signals, Callable[..., object] | int | None] = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if signal.getsignal(number) != signal.SIG_IGN:  # as in a shell's background job
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
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

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        insists = number == signal.SIGINT and now - self._first > _ECHO_SECONDS
        if not self._put_off or (self.requested and insists):
            raise KeyboardInterrupt
        if not self.requested:
            self.requested, self._first = True, now
