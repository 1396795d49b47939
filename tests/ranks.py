"""Several processes of one job within a test: forked, so that each starts at once.

What a function returns in each rank comes back through JSON.
"""

import contextlib
import json
import os
import signal
import socket
import sys
import tempfile
import time
import traceback
from pathlib import Path

import torch

from dglrec.distributed import joined


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def launched(rank, size, port, **more):
    """The variables that torchrun sets for a rank on this machine."""
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        **more,
    }


def in_ranks(size, function, *arguments, timeout=120, environment=None):
    """What `function(world, *arguments)` returns in each of some ranks, by rank.

    Raises:
        AssertionError: a rank raised, with all ranks' tracebacks, or the timeout passed.
    """
    outcomes = outcomes_of(size, function, *arguments, timeout=timeout, environment=environment)
    failed = [
        f"rank {rank}: {what['raised']}" for rank, what in enumerate(outcomes) if "raised" in what
    ]
    assert not failed, "\n".join(failed)
    return [what["returned"] for what in outcomes]


def outcomes_of(size, function, *arguments, timeout=120, environment=None):
    """Of each rank {"returned": ...}, or {"raised": traceback, "kind", "message", "code"}."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        processes = []
        for rank in range(size):
            sys.stdout.flush()
            sys.stderr.flush()
            process = os.fork()
            if process == 0:
                os.environ.update(launched(rank, size, port, **(environment or {})))
                _be_rank(Path(folder) / f"{rank}.json", function, arguments, timeout)
            processes.append(process)
        _wait(processes, timeout)
        found = []
        for rank in range(size):
            file = Path(folder) / f"{rank}.json"
            found.append(json.loads(file.read_text()) if file.exists() else {"raised": "died"})
        return found


def _be_rank(file, function, arguments, timeout):
    code = 1
    try:
        torch.set_num_threads(1)
        try:
            with joined("cpu", timeout=timeout) as (world, _):
                outcome = {"returned": function(world, *arguments)}
            code = 0
        except BaseException as error:
            outcome = {
                "raised": traceback.format_exc(),
                "kind": type(error).__name__,
                "message": str(error),
                "code": getattr(error, "exit_code", None),
            }
        file.write_text(json.dumps(outcome))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # nothing of pytest's is to run here


def _wait(processes, timeout):
    deadline = time.monotonic() + timeout
    left = list(processes)
    while left and time.monotonic() < deadline:
        left = [process for process in left if os.waitpid(process, os.WNOHANG) == (0, 0)]
        time.sleep(0.01)
    for process in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    assert not left, f"{len(left)} of {len(processes)} ranks hung"
