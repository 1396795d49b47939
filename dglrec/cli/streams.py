"""stdout and stderr for commands: results that cannot be written are an error, messages are not.

The reader of stderr may go away, a terminal may vanish, a disk may fill up: the command goes on,
since its purpose is the results on stdout.
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
    """stdout, which raises errors that name it.

    Args:
        stream: where to write; None if stdout was closed from the start.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text.

        Raises:
            DglrecError: the text cannot be written.
            BrokenPipeError: the reader is gone.
        """
        if self._stream is None:
            raise DglrecError("stdout is closed, so results cannot be printed")
        with _stdout_errors():
            return self._stream.write(text)

    def flush(self) -> None:
        """Write what is buffered; raises the errors of `write`."""
        if self._stream is not None:
            with _stdout_errors():
                self._stream.flush()

    @property
    def encoding(self) -> str:
        """The encoding of the stream."""
        return "utf-8" if self._stream is None else self._stream.encoding

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
        return self._stream is not None and self._stream.isatty()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _stdout_errors() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise DglrecError(f"stdout: results cannot be printed ({error.strerror})") from error


@contextmanager
def guarded() -> Iterator[None]:
    """Make `sys.stdout` `Results` and `sys.stderr` `Messages`, on descriptors that are open.

    The number of a closed descriptor is given to the next file that is opened, which would then get
    whatever a library prints.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it gets the lowest number
    before = sys.stdout, sys.stderr
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Characters of a title that the encoding lacks are shown by their codes.
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
    """Drop what cannot be written: at its end, Python would try to write it again, and fail."""
    if stream is None:
        return
    try:
        stream.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
