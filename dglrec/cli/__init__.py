"""The command line: `verbs.py` up to a trained model, `scoring.py` for using a trained model.

`preparing.py` makes data sets, `comparing.py` compares several models, `studying.py` trains a grid
of models, `tuning.py` searches for settings. `options.py` has options that verbs share, `output.py`
what they print.

Whatever happens ends here, in an exit code and at most two lines on stderr.
"""

import errno
import os
import sys
import traceback
from contextlib import nullcontext
from pathlib import Path

import click

from dglrec.cli import comparing, preparing, scoring, studying, tuning  # noqa: F401 - they add their verbs
from dglrec.cli.streams import guarded
from dglrec.cli.verbs import cli
from dglrec.errors import DataError, DglrecError, UnusableEnvironmentError, UsageError
from dglrec.interrupts import INTERRUPTED, Interrupts, asked_to_stop
from dglrec.progress import Manner, log, logged_to, printable, spoken

_LONGEST = 4_000  # characters of a line of an error message, which may quote what was given

_FLAGS = ("--debug", "--quiet")
_COMMON = (*_FLAGS, "--log-file", "--log-format")


def main() -> None:
    """Run a command and turn every outcome into an exit code and at most two lines on stderr."""
    try:
        code = _guarded(sys.argv[1:])
    except KeyboardInterrupt:  # while the end was reported, or signal handlers were restored
        code = _interrupted()
    sys.exit(code)


def _guarded(arguments: list[str]) -> int:
    """Run a command with the streams and signal handlers that it needs; return its exit code."""
    # A process may be waiting for another one, and only a signal's default action ends that.
    alone = os.environ.get("WORLD_SIZE", "1") in ("", "1")
    with guarded(), Interrupts() if alone else nullcontext() as interrupts:
        try:
            code = _run(arguments)
        except KeyboardInterrupt:  # before the command began
            return _interrupted()
        if code == 0 and interrupts is not None and interrupts.requested:
            return _interrupted()  # the exception that the signal raised was swallowed
        return code


def _run(arguments: list[str]) -> int:
    """Run a command, with messages as the options say; return its exit code."""
    try:
        arguments, asked = _take_common(arguments)
    except UsageError as error:
        log(_in_short(error), "error")
        return error.exit_code
    manner = Manner(quiet=bool(asked["--quiet"]), as_json=asked["--log-format"] == "json")
    file = asked["--log-file"]
    with spoken(manner), logged_to(Path(str(file))) if file else nullcontext():
        return _reported(arguments, debug=bool(asked["--debug"]))


def _take_common(arguments: list[str]) -> tuple[list[str], dict[str, str | bool | None]]:
    """Split a line into the options that every verb has, found anywhere on it, and the rest.

    Raises:
        UsageError: such an option lacks its value or has an impossible one.
    """
    asked: dict[str, str | bool | None] = dict.fromkeys(_COMMON)
    rest: list[str] = []
    given = iter(arguments)
    for argument in given:
        if argument == "--":
            return [*rest, argument, *given], asked
        name, equals, value = argument.partition("=")
        if name not in _COMMON or (equals and name in _FLAGS):
            rest.append(argument)
        elif name in _FLAGS:
            asked[name] = True
        else:
            asked[name] = value if equals else next(given, "")
            if not asked[name]:
                raise UsageError(f"{name}: give a value; see dglrec --help")
    if asked["--log-format"] not in (None, "text", "json"):
        raise UsageError(f"--log-format {asked['--log-format']}: write text or json")
    if file := asked["--log-file"]:
        try:
            Path(str(file)).open("a").close()
        except OSError as error:
            raise UsageError(f"--log-file {file}: cannot be written ({error.strerror})") from error
    return rest, asked


def _reported(arguments: list[str], *, debug: bool) -> int:
    try:
        code = _invoke(arguments)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()  # the help text
        code = error.exit_code
    except click.ClickException as error:
        log(_usage_in_short(error), "error")
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        code = _interrupted()
    except BrokenPipeError:
        # The reader of stdout is gone, so nobody can be told.
        code = 1
    except Exception as error:
        if debug:
            traceback.print_exc()
        if asked_to_stop() and not isinstance(error, DglrecError):
            return _interrupted()
        if not getattr(error, "told", False):
            log(_in_short(error), "error")
        code = _code_of(error)
    return code


def _interrupted() -> int:
    if os.environ.get("RANK", "0") == "0":
        log("interrupted")
    return INTERRUPTED


def _invoke(arguments: list[str]) -> int:
    """Run a command to its end, and flush what it printed."""
    try:
        code = cli.main(args=arguments, prog_name="dglrec", standalone_mode=False)
    except click.exceptions.Exit as error:
        code = error.exit_code
    sys.stdout.flush()
    return code if isinstance(code, int) else 0


def _usage_in_short(error: click.ClickException) -> str:
    """What click found wrong with the command line, on a single line, and where the help is."""
    text = " ".join(error.format_message().split()).rstrip(".")
    context = getattr(error, "ctx", None)
    return printable(f"{text}; see {context.command_path if context else 'dglrec'} --help")


def _code_of(error: Exception) -> int:
    if isinstance(error, DglrecError):
        return error.exit_code
    if isinstance(error, PermissionError):
        return DataError.exit_code
    if _errno_of(error) == errno.ENAMETOOLONG:
        return UsageError.exit_code
    unusable = _is_out_of_memory(error) or _lacks_files(error) or _lacks_folder(error)
    return UnusableEnvironmentError.exit_code if unusable else 1


def _errno_of(error: Exception) -> int | None:
    return error.errno if isinstance(error, OSError) else None


def _lacks_files(error: Exception) -> bool:
    return _errno_of(error) in (errno.EMFILE, errno.ENFILE)


def _lacks_folder(error: Exception) -> bool:
    """Whether an error says that something is not found because the current folder is gone."""
    try:
        Path.cwd()
    except FileNotFoundError:
        return isinstance(error, FileNotFoundError)
    return False


def _is_out_of_memory(error: Exception) -> bool:
    # torch raises a plain RuntimeError for it on a CPU.
    return isinstance(error, MemoryError) or "can't allocate memory" in str(error)


def _in_short(error: Exception) -> str:
    if isinstance(error, DglrecError):
        first, *more = printable(str(error)).splitlines() or [type(error).__name__]
        lines = [first, " ".join(more)] if more else [first]
        return "\n".join(
            line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..." for line in lines
        )
    if isinstance(error, PermissionError):
        return printable(f"{error.filename}: no permission to read or write it")
    if _errno_of(error) == errno.ENAMETOOLONG:
        return printable(f"{getattr(error, 'filename', '')}: the name is too long for a file")
    if _lacks_files(error):
        return "too many open files; end other programs, or raise the limit (ulimit -n)"
    if _lacks_folder(error):
        return "the current folder is gone; change to one that is there"
    if _is_out_of_memory(error):
        return "out of memory; end other programs, or take a machine with more (--debug: where)"
    text = printable(" ".join(str(error).split())[:300])
    return f"unexpected {type(error).__name__}: {text} (--debug shows where)"
