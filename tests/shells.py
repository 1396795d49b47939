"""Shell blocks of the documentation, run by bash as they stand.

`dglrec` is there a process that has imported and compiled all, and forks for each command, so that
a block of ten commands takes a second and not a minute. It is started by `served`:

    python tests/shells.py SOCKET

A command's words, folder and environment come through the socket, and so do its three streams.
"""

import array
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from forks import become

ROOT = Path(__file__).resolve().parent.parent

COMMANDS = ("dglrec", "scripts/", "torchrun", "pip", "python", "docker", ".")
"""How a line begins that makes a shell block of a fence without a language."""

NOT_RUN = {
    "scripts/": "makes an environment; tests/test_quickstart.py has the same job",
    ". .venv/bin/activate": "there is no such environment beside the test's folder",
    "pip ": "installs",
    "docker ": "makes an image",
    "torchrun ": "many processes; tests/test_distributed.py starts them",
}
"""How lines begin that no test runs, and why."""

_FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

# Asks the server and ends with the code that it gives. Nothing is imported that takes time.
_CLIENT = """#!{python} -ISE
import array, json, os, socket, sys
asked = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
with socket.socket(socket.AF_UNIX) as server:
    server.connect({socket!r})
    streams = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))
    server.sendmsg([len(asked).to_bytes(4, "big")], [streams])
    server.sendall(asked)
    code = server.recv(1)
sys.exit(code[0] if code else 99)
"""


def shell_blocks(text: str) -> Iterator[str]:
    """The shell blocks of a page: fences of sh or bash, and those of no language that look so.

    >>> list(shell_blocks("```sh\\nls\\n```\\n```text\\nls\\n```\\n```\\ndglrec -h\\n```\\n"))
    ['ls\\n', 'dglrec -h\\n']
    """
    for language, block in _FENCE.findall(text):
        if language.strip() in ("sh", "bash") or (
            not language.strip() and block.startswith(COMMANDS)
        ):
            yield block


def to_run(block: str) -> str:
    """A block without the lines that no test runs.

    >>> to_run("pip install dglrec\\ndglrec doctor\\n")
    'dglrec doctor\\n'
    """
    lines = block.splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith(tuple(NOT_RUN)))


@contextmanager
def served(folder: Path) -> Iterator[Path]:
    """A folder for PATH whose `dglrec` is answered by one process, while the context lasts."""
    path = folder / "path"
    path.mkdir()
    place = folder / "socket"
    client = path / "dglrec"
    client.write_text(_CLIENT.format(python=sys.executable, socket=str(place)))
    client.chmod(0o755)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    server = subprocess.Popen([sys.executable, __file__, str(place)], env=environment)
    try:
        deadline = time.monotonic() + 120
        while not place.exists() and server.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        assert place.exists(), "the server of commands did not start"
        yield path
    finally:
        server.terminate()
        server.wait(30)


def run_block(block: str, folder: Path, path: Path, **environment: str) -> str:
    """Run a block by bash, which stops at the first failure; what it printed.

    Raises:
        AssertionError: it ended with another code than 0.
    """
    names = {key: value for key, value in os.environ.items() if not key.startswith("DGLREC_")}
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block],
        cwd=folder,
        env={**names, **environment, "PATH": f"{path}{os.pathsep}{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
    )
    assert ran.returncode == 0, f"{block}\nended with {ran.returncode}:\n{ran.stdout[-3000:]}"
    return ran.stdout


def serve(place: Path) -> None:
    """Answer commands until SIGTERM, one after the other."""
    import torch

    from dglrec.api import Recommender  # noqa: F401 - forks find it imported, and nearly all else

    torch.set_num_threads(1)
    with socket.socket(socket.AF_UNIX) as listening:
        hidden = place.with_suffix(".tmp")
        listening.bind(str(hidden))
        listening.listen()
        hidden.rename(place)  # from now on somebody answers
        while True:
            connection, _ = listening.accept()
            with connection:
                connection.sendall(bytes([_answer(connection, listening)]))


def _answer(connection: socket.socket, listening: socket.socket) -> int:
    """Run one command in a fork; its exit code, 128 + N for a signal."""
    streams = array.array("i")
    size, extra, _, _ = connection.recvmsg(4, socket.CMSG_SPACE(3 * streams.itemsize))
    streams.frombytes(extra[0][2])
    asked = b""
    while len(asked) < int.from_bytes(size, "big"):
        asked += connection.recv(1 << 16)
    process = os.fork()
    if not process:
        listening.close()
        connection.close()
        words, folder, environment = json.loads(asked)

        def exchange() -> None:
            for number, stream in enumerate(streams):
                os.dup2(stream, number)

        def begin() -> None:
            os.chdir(folder)
            os.environ.clear()
            os.environ.update(environment)

        become(words, exchange, begin)
    for stream in streams:
        os.close(stream)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
