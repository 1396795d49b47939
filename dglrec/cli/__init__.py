"""The command line: `verbs.py` up to a trained model, `scoring.py` what uses one.

`preparing.py` makes data sets, `comparing.py` holds several models against one another,
`studying.py` trains a grid of them. `options.py` holds what they share, `output.py` what they
print.

Whatever happens ends here, in an exit code and at most two lines on stderr.
"""

import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import click

from dglrec.cli import comparing, preparing, scoring, studying  # noqa: F401 - they add their verbs
from dglrec.cli.verbs import cli
from dglrec.errors import DataError, DglrecError
from dglrec.progress import printable

INTERRUPTED = 130


def main() -> None:
    """Run a command and turn every outcome into an exit code and at most two lines on stderr."""
    debug = "--debug" in sys.argv[1:]
    # Accepted anywhere on the line.
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        with _terminated_as_interrupted():
            code = cli.main(args=arguments, prog_name="dglrec", standalone_mode=False)
    except click.exceptions.Exit as error:
        code = error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()  # the help text
        code = error.exit_code
    except click.ClickException as error:
        click.echo(f"error: {_usage_in_short(error)}", err=True)
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        if os.environ.get("RANK", "0") == "0":
            click.echo("interrupted", err=True)
        code = INTERRUPTED
    except BrokenPipeError:
        # The reader of stdout has gone; there is nobody to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except Exception as error:
        if debug:
            traceback.print_exc()
        if not getattr(error, "told", False):
            click.echo(f"error: {_in_short(error)}", err=True)
        code = error.exit_code if isinstance(error, DglrecError) else 1
        if isinstance(error, PermissionError):
            code = DataError.exit_code
    sys.exit(code if isinstance(code, int) else 0)


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Within the block SIGTERM interrupts, as SIGINT does, so that what is half-written goes.

    A second one says no more than the first, and must not cut the cleaning up short.
    """
    if signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _usage_in_short(error: click.ClickException) -> str:
    """What click found wrong with the command line, on one line, and where the help is."""
    text = " ".join(error.format_message().split()).rstrip(".")
    context = getattr(error, "ctx", None)
    return f"{text}; see {context.command_path if context else 'dglrec'} --help"


def _in_short(error: Exception) -> str:
    if isinstance(error, DglrecError):
        return printable(str(error))
    if isinstance(error, PermissionError):
        return f"{error.filename}: no permission to read or write it"
    text = printable(" ".join(str(error).split())[:300])
    return f"unexpected {type(error).__name__}: {text} (--debug shows where)"
