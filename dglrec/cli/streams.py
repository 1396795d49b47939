"""stdout and stderr as commands need them: results that are lost are an error, messages are not.

Whoever reads stderr may go away, a terminal may vanish, a disk may fill up: what a command is there
for goes on. What it prints on stdout is what it is there for.
"""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

from dglrec.errors import DglrecError
from dglrec.progress import Messages


class Results:
    """stdout, whose faults are told as its own.

    Args:
        stream: what is written to; None where stdout was closed from the start.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text.

        Raises:
            DglrecError: it cannot be written.
            BrokenPipeError: nobody reads any more.
        """
        if self._stream is None:
            raise DglrecError("stdout is closed, so results cannot be printed")
        with _said():
            return self._stream.write(text)

    def flush(self) -> None:
        """Write what is held back; raises what `write` does."""
        if self._stream is not None:
            with _said():
                self._stream.flush()

    @property
    def encoding(self) -> str:
        """What letters become."""
        return "utf-8" if self._stream is None else self._stream.encoding

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self._stream is not None and self._stream.isatty()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _said() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise DglrecError(f"stdout: results cannot be printed ({error.strerror})") from error


@contextmanager
def guarded() -> Iterator[None]:
    """Within the block `sys.stdout` is `Results`, `sys.stderr` `Messages`, and neither a file's.

    A descriptor that is closed goes to the next file that is opened, which would then get whatever
    a library prints.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it gets the lowest number
    before = sys.stdout, sys.stderr
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A title that the encoding lacks is shown by its code.
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.stdout = cast(TextIO, Results(sys.stdout))
    sys.stderr = cast(TextIO, Messages(sys.stderr))
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        for stream in before:
            _let_go(stream)


def _let_go(stream: TextIO | None) -> None:
    """Drop what cannot be written any more: Python would try once more when it ends, and fail."""
    if stream is None:
        return
    try:
        stream.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
