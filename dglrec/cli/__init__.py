"""The command line: `verbs.py` up to a trained model, `scoring.py` what uses one.

`preparing.py` makes data sets, `comparing.py` holds several models against one another,
`studying.py` trains a grid of them. `options.py` holds what they share, `output.py` what they
print.

Whatever happens ends here, in an exit code and at most two lines on stderr.
"""

import os
import sys
import traceback
from contextlib import nullcontext

import click

from dglrec.cli import comparing, preparing, scoring, studying  # noqa: F401 - they add their verbs
from dglrec.cli.streams import guarded
from dglrec.cli.verbs import cli
from dglrec.errors import DataError, DglrecError, UnusableEnvironmentError
from dglrec.interrupts import Interrupts
from dglrec.progress import log, printable

INTERRUPTED = 130


def main() -> None:
    """Run a command and turn every outcome into an exit code and at most two lines on stderr."""
    # One of several processes may be waiting for another, where only a signal's own effect ends it.
    alone = os.environ.get("WORLD_SIZE", "1") in ("", "1")
    with guarded(), Interrupts() if alone else nullcontext() as interrupts:
        code = _run(sys.argv[1:])
        if code == 0 and interrupts is not None and interrupts.requested:
            code = INTERRUPTED  # what the signal raised was lost
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    debug = "--debug" in arguments
    # Accepted anywhere on the line.
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        code = _invoke(arguments)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()  # the help text
        code = error.exit_code
    except click.ClickException as error:
        log(f"error: {_usage_in_short(error)}")
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        if os.environ.get("RANK", "0") == "0":
            log("interrupted")
        code = INTERRUPTED
    except BrokenPipeError:
        # The reader of stdout has gone; there is nobody to tell.
        code = 1
    except Exception as error:
        if debug:
            traceback.print_exc()
        if not getattr(error, "told", False):
            log(f"error: {_in_short(error)}")
        code = _code_of(error)
    return code


def _invoke(arguments: list[str]) -> int:
    """Run a command to its end, with all that it printed."""
    try:
        code = cli.main(args=arguments, prog_name="dglrec", standalone_mode=False)
    except click.exceptions.Exit as error:
        code = error.exit_code
    sys.stdout.flush()
    return code if isinstance(code, int) else 0


def _usage_in_short(error: click.ClickException) -> str:
    """What click found wrong with the command line, on one line, and where the help is."""
    text = " ".join(error.format_message().split()).rstrip(".")
    context = getattr(error, "ctx", None)
    return printable(f"{text}; see {context.command_path if context else 'dglrec'} --help")


def _code_of(error: Exception) -> int:
    if isinstance(error, DglrecError):
        return error.exit_code
    if isinstance(error, PermissionError):
        return DataError.exit_code
    return UnusableEnvironmentError.exit_code if _is_out_of_memory(error) else 1


def _is_out_of_memory(error: Exception) -> bool:
    # torch raises a plain RuntimeError for it on a CPU.
    return isinstance(error, MemoryError) or "can't allocate memory" in str(error)


def _in_short(error: Exception) -> str:
    if isinstance(error, DglrecError):
        first, *more = printable(str(error)).splitlines() or [type(error).__name__]
        return "\n".join([first, " ".join(more)] if more else [first])
    if isinstance(error, PermissionError):
        return printable(f"{error.filename}: no permission to read or write it")
    if _is_out_of_memory(error):
        return "out of memory; end other programs, or take a machine with more (--debug: where)"
    text = printable(" ".join(str(error).split())[:300])
    return f"unexpected {type(error).__name__}: {text} (--debug shows where)"
