"""stdout and stderr that are full, closed, gone, or of another encoding."""

import json
import os
import pty
import subprocess
import sys

import pytest

SCRIPT = """
import sys
from dglrec.cli import cli, main
from dglrec.cli.output import print_json, print_recommendations, report, say
from dglrec.progress import log, progress

@cli.command()
def words():
    log("a message \\u00fc")
    with progress("working", 2, "steps") as advance:
        advance(1)
    say("T\\u00fcr \\u6771")
    print_json({"title": "T\\u00fcr \\u6771"})

@cli.command()
def table():
    from rich.table import Table
    from dglrec.cli.output import add_row, print_table
    shown = Table()
    shown.add_column("title")
    add_row(shown, "T\\u00fcr \\u6771")
    print_table(shown)

@cli.command()
def figures():
    print_json({"title": "T\\u00fcr"})

main()
"""


def run(verb, *, shell="", encoding="utf-8", **streams):
    """The outcome of a verb, called through a shell, which closes and redirects."""
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "SCRIPT": SCRIPT}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
    return subprocess.run(
        ["sh", "-c", f'exec {sys.executable} -c "$SCRIPT" {verb} {shell}'],
        env=environment,
        timeout=120,
        **streams,
    )


def test_stdout_that_is_full_or_closed_is_said_and_is_no_success():
    for shell, what in (
        (">/dev/full", "stdout: results cannot be printed (No space left on device)"),
        (">&-", "stdout is closed, so results cannot be printed"),
    ):
        ran = run("words", shell=shell)
        assert ran.returncode == 1
        assert ran.stderr.decode() == f"a message ü\nerror: {what}\n"
    ran = run("figures", shell=">&-")
    assert (ran.returncode, ran.stderr.decode()) == (
        1,
        "error: stdout is closed, so results cannot be printed\n",
    )
    ran = run("--version", shell=">/dev/full")
    assert (ran.returncode, ran.stderr) == (
        1,
        b"error: stdout: results cannot be printed (No space left on device)\n",
    )


@pytest.mark.parametrize("shell", ["2>&-", "2>/dev/full", "2>&- <&-"])
def test_messages_that_cannot_be_written_stop_nobody(shell):
    ran = run("words", shell=shell)
    assert ran.returncode == 0
    first, second = ran.stdout.decode().splitlines()
    assert first == "Tür 東" and json.loads(second) == {"title": "Tür 東"}


def test_a_reader_of_messages_may_go_away():
    reader, writer = os.pipe()
    os.close(reader)
    ran = run("words", stderr=writer)
    os.close(writer)
    assert (ran.returncode, len(ran.stdout.splitlines())) == (0, 2)


def test_a_terminal_may_vanish():
    terminal, end = pty.openpty()
    os.close(terminal)
    ran = run("words", stderr=end)
    os.close(end)
    assert (ran.returncode, len(ran.stdout.splitlines())) == (0, 2)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437"])
def test_other_encodings_get_codes_of_what_they_lack_and_json_stays_json(encoding):
    ran = run("words", encoding=encoding)
    assert ran.returncode == 0, ran.stderr
    first, second = ran.stdout.splitlines()
    ue = "T\\xfcr" if encoding == "ascii" else "Tür"
    assert first.decode(encoding) == f"{ue} \\u6771"
    assert json.loads(second.decode("utf-8")) == {"title": "Tür 東"}
    ran = run("table", encoding=encoding)
    assert ran.returncode == 0, ran.stderr
    assert f"{ue} \\u6771" in ran.stdout.decode(encoding)
