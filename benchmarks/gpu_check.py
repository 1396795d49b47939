"""Every figure that a card can give, in one command and a few minutes.

    python benchmarks/gpu_check.py --json benchmarks/results/gpu.json

It makes its own data, without texts and without the network, and runs without DGL. Of --minutes
each part is given a share, and what one leaves goes to those after it:

data         the anime graph's size, or as much of it as can be made in its share of the time
correctness  a step's outputs, embeddings and lists against the CPU's, to 1e-5
training     target edges a second, ms a step and memory: plain and default, batches, precisions
epoch        one epoch of `dglrec train` on the whole graph, sampling and validation included
inference    exact embeddings of all nodes
validation   what follows each epoch
scoring      the ten best items: users a second
profile      kernel launches, waits of the host and the longest operations of a default step
torchrun     a sum over NCCL, and training, with a process for each card

In the JSON `parts` says of each: done, failed (with the message), left out, or not run. The exit
code is 1 where one failed, and 4 where there is no card. `--device cpu` rehearses all but
`torchrun` without one; its figures say nothing of a card.
"""

import argparse
import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench_scaling import torchrun
from common import (
    CHILD,
    ChildError,
    Row,
    child_environment,
    child_main,
    print_table,
    run_child,
    run_measured,
    say,
    write_results,
)
from gpu_parts import BATCHES, PARTS, Bench, collective, in_one_line, look, make_data

# Weights of the parts in what is left of the time.
SHARES = {
    "data": 70.0,
    "correctness": 25.0,  # compiles the CPU's side
    "training": 45.0,
    "epoch": 25.0,
    "inference": 6.0,
    "validation": 8.0,
    "scoring": 8.0,
    "profile": 10.0,
    "torchrun": 18.0,
}
LEAST_SHARE = 1.0  # seconds; a part with less is not begun
NO_CARD_CODE = 4
_LAST_SECONDS = 10.0  # of a process that is ending by itself

COLUMNS = {
    "correctness": (
        "what",
        "model",
        "kind",
        "ratings",
        "loss",
        "users",
        "items",
        "rated",
        "gradient",
    ),
    "training": (
        *("model", "precision", "batch", "edges_per_second", "step_ms", "gpu_memory_gb"),
        *("left_out", "not_run", "error"),
    ),
    "epoch": ("training_ratings", "epoch_seconds", "validation_seconds", "edges_per_second"),
    "inference": ("nodes", "edges", "seconds", "edges_per_second", "gpu_memory_gb"),
    "validation": ("rows", "seconds", "gpu_memory_gb"),
    "scoring": ("what", "items", "users_per_second", "gpu_memory_gb"),
    "profile": ("what", "batch", "ms", "operations", "kernel_launches", "host_waits", "card_ms"),
    "torchrun": ("what", "processes", "backend", "ms", "edges_per_second", "step_ms"),
}


class PartError(Exception):
    """A part failed, or took longer than its share."""


@dataclass
class Report:
    """What was found.

    Attributes:
        rows: figures, each with its `part`.
        parts: of each part its `state`, its seconds, and why where it is not done.
    """

    rows: list[Row] = field(default_factory=list)
    parts: list[Row] = field(default_factory=list)

    def note(self, part: str, state: str, why: str = "", **figures: Any) -> None:
        """Say what became of a part."""
        say(f"{part}: {state}{f' ({why})' if why else ''}")
        self.parts.append(
            {"part": part, "state": state, **({"why": why} if why else {}), **figures}
        )

    @property
    def failed(self) -> bool:
        return any(row["state"] == "failed" for row in self.parts)


class Worker:
    """A process that does parts one after the other: torch and the graph are loaded once.

    Args:
        job: what `work` takes.
        folder: for its temporary files, which it may leave behind.
    """

    def __init__(self, job: Mapping[str, Any], folder: Path) -> None:
        command = [sys.executable, __file__, CHILD, json.dumps({"do": "work", **job})]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=child_environment({"TMPDIR": str(folder)}),
            text=True,
            start_new_session=True,  # so that what it has started ends with it
        )
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def rows(self, part: str, seconds: float) -> Iterator[Row]:
        """The rows of a part, as they come.

        Raises:
            PartError: it failed, or did not end in time; the process is gone then.
        """
        assert self.process.stdin is not None
        until = time.monotonic() + seconds
        try:
            self.process.stdin.write(json.dumps({"part": part, "seconds": seconds}) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise self.gone() from None
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                self.end()
                raise PartError(f"took longer than its share of {seconds:.0f} s") from None
            if not line:
                raise self.gone()
            row = json.loads(line)
            if "done" in row:
                return
            if "failed" in row:
                self.end()  # a card that failed once may take no more work from this process
                raise PartError(row["failed"])
            yield row

    def gone(self) -> PartError:
        """What to say of a process that has closed its output: how it ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_LAST_SECONDS)
        self.end()
        return PartError(f"the process exited with {self.process.returncode}")

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def end(self) -> None:
        """End it, and wait until its memory is free."""
        if not self.ended:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def work(dataset: str, device: str, batches: list[int], most_seconds: float) -> Row:
    """In a child: do the parts that come on stdin, and write their rows on stdout.

    Each line in is `{"part", "seconds"}`; each line out a row, and after the last one `{"done"}`,
    or `{"failed"}` with why.
    """
    import torch

    from dglrec.dataset import RatingDataset

    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever libraries print

    def write(row: Row) -> None:
        out.write(json.dumps(row) + "\n")
        out.flush()

    opened = RatingDataset.open(Path(dataset))
    bench = Bench(opened, torch.device(device), tuple(batches), most_seconds)
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            for row in PARTS[asked["part"]](bench, asked["seconds"]):
                write(row)
        except Exception as error:  # told to the parent, which records it
            write({"failed": in_one_line(error)})
        else:
            write({"done": True})
    return {}


def shares(left: float, parts: list[str]) -> float:
    """Seconds of the first of some parts, of those that are left for all of them."""
    return left * SHARES[parts[0]] / sum(SHARES[part] for part in parts)


class Check:
    """One run of all parts.

    Args:
        arguments: the command line's.
        cards: how many there are; 0 on the CPU.
        folder: where data may be written.
    """

    def __init__(self, arguments: argparse.Namespace, cards: int, folder: Path) -> None:
        self.device, self.batches = arguments.device, arguments.batch
        self.data, self.scale = arguments.data, arguments.scale
        self.seconds = arguments.seconds
        self.cards, self.folder = cards, folder
        self.until = time.monotonic() + 60 * arguments.minutes
        self.report = Report()
        self.worker: Worker | None = None

    def run(self) -> None:
        """Do all parts, each in its share of what is left of the time."""
        parts = list(SHARES)
        try:
            while parts:
                part = parts[0]
                share = shares(self.until - time.monotonic(), parts)
                parts.pop(0)
                if reason := self.left_out(part):
                    self.report.note(part, "left out", reason)
                elif part != "data" and self.data is None:
                    self.report.note(part, "not run", "there is no data")
                elif share < LEAST_SHARE:
                    self.report.note(part, "not run", "no time was left")
                else:
                    self.one(part, share)
        finally:
            if self.worker is not None:
                self.worker.end()

    def left_out(self, part: str) -> str:
        """Why a part is left out; empty where it is not."""
        if part == "data" and self.data is not None:
            return "it was given"
        if part == "torchrun" and not self.cards:
            return "NCCL needs a card"
        return ""

    def one(self, part: str, share: float) -> None:
        """Do a part, and note what became of it."""
        say(f"{part}: has {share:.0f} s")
        started, why = time.monotonic(), ""
        try:
            for row in self.rows(part, share):
                self.report.rows.append({"part": part, **row})
                why = row.get("error", why)
        except (PartError, ChildError) as error:
            why = str(error)
        taken = {"seconds": round(time.monotonic() - started, 1), "share": round(share, 1)}
        self.report.note(part, "failed" if why else "done", why, **taken)

    def rows(self, part: str, share: float) -> Iterator[Row]:
        """A part's rows, as they are measured."""
        if part == "data":
            job = {"do": "data", "folder": str(self.folder), "scale": self.scale}
            yield run_child(__file__, {**job, "seconds": 0.8 * share}, limit=share)
            self.data = self.folder / "dataset"
        elif part == "torchrun":
            if self.worker is not None:
                self.worker.end()  # the card's memory is wanted
            yield from self.of_all_cards(share)
        else:
            if self.worker is None or self.worker.ended:
                job = {"dataset": str(self.data), "device": self.device, "batches": self.batches}
                job |= {"most_seconds": self.seconds}
                self.worker = Worker(job, self.folder)
            yield from self.worker.rows(part, share)

    def of_all_cards(self, share: float) -> Iterator[Row]:
        """A sum over NCCL, then training, with a process for each card."""
        train = {"dataset": str(self.data), "batch": self.batches[0], "identity": "none"}
        train |= {"do": "measure", "device": self.device, "seconds": min(self.seconds, share / 8)}
        sums = {"do": "collective", "device": self.device, "megabytes": 256}
        driver = str(Path(__file__).with_name("bench_scaling.py"))
        for script, job, about in (
            (__file__, sums, {}),
            (driver, train, {"what": "training", "batch": train["batch"]}),
        ):
            command = [*torchrun(self.cards), script, CHILD, json.dumps(job)]
            done = run_measured(command, limit=share / 2)
            yield {**about, "processes": self.cards, **json.loads(done.out.splitlines()[-1])}


def main() -> None:
    """Parse, look for a card, measure, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: rehearse")
    parser.add_argument("--minutes", type=float, default=7.5, help="for all parts together")
    parser.add_argument("--data", type=Path, help="a prepared data set; default: one is generated")
    parser.add_argument("--scale", type=float, help="of generated data; default: 1, if time allows")
    parser.add_argument("--batch", type=int, nargs="+", default=list(BATCHES))
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="measured, for each loop at most"
    )
    parser.add_argument("--json", type=Path, help="where the figures go")
    arguments = parser.parse_args()
    found = run_child(__file__, {"do": "look", "device": arguments.device})
    if arguments.device == "cuda" and not found["cards"]:
        say(f"no card that can be used: {found['why']}; --device cpu rehearses without one")
        sys.exit(NO_CARD_CODE)
    name = found["cards"][0]["name"] if found["cards"] else None
    say(f"{len(found['cards'])} x {name}" if name else "rehearsal on the CPU")
    with tempfile.TemporaryDirectory() as temporary:
        check = Check(arguments, len(found["cards"]), Path(temporary))
        try:
            check.run()
        finally:
            # An interrupted check keeps what it has.
            rows = check.report.rows
            for part, columns in COLUMNS.items():
                if mine := [row for row in rows if row["part"] == part]:
                    print_table(part, columns, mine)
            write_results(
                arguments.json,
                rows,
                card=name,
                cards=found["cards"],
                cuda=found["cuda"],
                device=arguments.device,
                rehearsal=arguments.device == "cpu",
                minutes=arguments.minutes,
                parts=check.report.parts,
            )
    sys.exit(1 if check.report.failed else 0)


JOBS: dict[str, Callable[..., Row]] = {
    "look": look,
    "data": make_data,
    "work": work,
    "collective": collective,
}

if __name__ == "__main__" and not child_main(JOBS):
    main()
