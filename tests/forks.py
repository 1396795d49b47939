"""Commands in forks of a process that has imported and compiled all: each starts at once."""

import os
import signal
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from dglrec import cli

HUNG = 97


def forked(arguments, out: Path, err: Path, before=None) -> int:
    """The entry point in a fork, with signals as a terminal leaves them; the process's id.

    Args:
        arguments: of the command.
        out: the file that gets what goes to stdout.
        err: likewise; it may be the same.
        before: what the fork calls first.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process:
        return process

    def exchange() -> None:
        os.setsid()
        for descriptor, path in ((1, out), (2, err)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666), descriptor)

    become(arguments, exchange, before)


def become(arguments, exchange, before=None) -> NoReturn:
    """Be a command, in a fork, with signals as a terminal leaves them, and end as it does.

    Args:
        arguments: of the command.
        exchange: puts the descriptors of its streams in place.
        before: what is called then, before the command.
    """
    code: object = 99
    try:
        exchange()  # what Python remembers of the streams is of other files
        sys.stdout, sys.stderr = (os.fdopen(one, "w", closefd=False) for one in (1, 2))
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.argv = ["dglrec", *map(str, arguments)]
        if before is not None:
            before()
        cli.main()
    except SystemExit as ended:
        code = ended.code
    except KeyboardInterrupt:  # before or after the command's own handlers
        code = 130
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 98)


def code_of(process: int, seconds: float = 180.0) -> int:
    """A process's exit code, -N for a signal; `HUNG` of one that is not through in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return HUNG
