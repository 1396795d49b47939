"""Training against the number of processes: throughput, efficiency, what each keeps for itself.

    python benchmarks/bench_scaling.py --data DATASET --json benchmarks/results/scaling.json

Each row is one job that torchrun starts: its processes share each step, as in `dglrec train`. Once
warm, it runs for some seconds with sampling, forward, loss, backward, the exchange of items and
gradients and the optimiser step inside the clock. `efficiency` is the throughput against that of
one process with as many threads, times the number of processes. Batches are the job's, not each
process's; with --weak they grow with the processes. Rows `apart` are as many jobs of one process at
the same time, which share no work: what the machine has to give, and so the most that processes
together could reach.

--identity adds rows for a table of user vectors, its gradient exchanged by rows or whole.
--train adds a whole epoch of `dglrec train`, validation and checkpoints included, watched from
outside: `private_gb` is the memory that a process shares with no other (of the one that has the
most); training ratings are mapped, and count once for a machine, in `shared_gb`.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from common import (
    CHILD,
    ChildError,
    Row,
    child_environment,
    child_main,
    dglrec_command,
    make_dataset,
    open_workload,
    print_table,
    run_measured,
    say,
    training_of,
    write_results,
)

COLUMNS = (
    "processes",
    "apart",
    "threads_each",
    "batch",
    "identity",
    "edges_per_second",
    "efficiency",
    "step_ms",
    "private_gb",
    "shared_gb",
    "seconds",
)
_WARM_UP_STEPS = 3
_LOOKS_A_SECOND = 5
_NAMES = {"Private_Clean": "private", "Private_Dirty": "private", "Pss": "fair"}


def memory_of(process: int) -> dict[str, float]:
    """Bytes that a process has to itself, and its fair share of all that it uses."""
    found = {"private": 0.0, "fair": 0.0}
    for line in Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii").splitlines():
        name, _, rest = line.partition(":")
        if name in _NAMES:
            found[_NAMES[name]] += 1024 * int(rest.split()[0])
    return found


class Watch:
    """Looks at the memory of some processes several times a second, from a thread."""

    def __init__(self, processes: Any) -> None:
        self.processes = processes
        self.private: dict[int, float] = {}
        self.shared = 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._done.wait(1 / _LOOKS_A_SECOND):
            fair = private = 0.0
            try:
                processes = self.processes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            for process in processes:
                try:
                    found = memory_of(process)
                except (FileNotFoundError, ProcessLookupError):
                    continue
                self.private[process] = max(self.private.get(process, 0.0), found["private"])
                fair, private = fair + found["fair"], private + found["private"]
            self.shared = max(self.shared, fair - private)


def measure(dataset: str, batch: int, identity: str, seconds: float, device: str) -> Row:
    """In each process of a job: take steps for some seconds; the figures of all in the first."""
    import torch

    from dglrec.distributed import joined
    from dglrec.nn import ModelConfig
    from dglrec.sampling import LoaderConfig
    from dglrec.train import Settings, TrainConfig

    with joined(device) as (world, place):
        workload = open_workload(dataset, None)
        settings = Settings(
            ModelConfig(user_identity=identity != "none"),
            LoaderConfig(batch_size=batch),
            TrainConfig(),
        )

        def change(model: Any) -> None:
            if identity == "whole":
                model.inputs.user_vectors.sparse = False

        loader, step = training_of(workload, settings, place, world, change)
        batches = _batches(loader)
        edges, taken = 0.0, []
        last = started = time.perf_counter()
        while True:
            made = next(batches)
            warm = step.number >= _WARM_UP_STEPS
            late = world.is_first and warm and last - started > seconds
            outcome = step(None if made is None else made.to(place), notes=[late])
            float(outcome.costs.squared)  # on a GPU: until it is done
            now = time.perf_counter()
            if warm:
                edges += outcome.count
                taken.append(now - last)
            else:
                started = now
            last = now
            if outcome.notes[0]:
                break
        (edges,) = world.sum([edges])
        row = {
            "threads_each": torch.get_num_threads(),
            "edges_per_second": round(edges / (last - started)),
            "step_ms": round(1e3 * sorted(taken)[len(taken) // 2], 1),
            "steps": len(taken),
        }
    return row if world.is_first else {}


def _batches(loader: Any) -> Iterator[Any]:
    epoch = 0
    while True:
        loader.set_epoch(epoch)
        yield from loader
        epoch += 1


def torchrun(processes: int) -> list[str]:
    """The command that starts a job on this machine."""
    module = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*module, "--nproc-per-node", str(processes)]


def run_job(processes: int, threads: int, job: Row) -> Row:
    """One row, out of a job's first process."""
    command = [*torchrun(processes), __file__, CHILD, json.dumps({"do": "measure", **job})]
    done = run_measured(command, environment={"OMP_NUM_THREADS": str(threads)})
    found: Row = json.loads(done.out)
    return found


def run_limits(processes: int, threads: int, job: Row, alone: float | None) -> list[Row]:
    """What the machine has to give: jobs that share nothing, at once, and one with all threads."""
    batch, together = job["batch"], {"identity": "none", "batch": job["batch"]}
    say(f"{processes} jobs of one process each at the same time, batch {batch:,}")
    with ThreadPoolExecutor(processes) as pool:
        found = list(pool.map(lambda _: run_job(1, threads, job), range(processes)))
    rate = sum(row["edges_per_second"] for row in found)
    apart = {**together, **found[0], "edges_per_second": rate}
    if alone:
        apart["efficiency"] = round(rate / alone / processes, 3)
    say(f"one process with {threads * processes} threads, batch {batch:,}")
    one = {**together, **run_job(1, threads * processes, job)}
    return [{"processes": processes, "apart": True, **apart}, {"processes": 1, **one}]


def run_training(dataset: Path, processes: int, threads: int, device: str) -> Row:
    """One epoch of `dglrec train`, and the memory of its processes, seen from outside."""
    with tempfile.TemporaryDirectory() as temporary:
        run = Path(temporary) / "run"
        command = [*torchrun(processes), *dglrec_command("train")[1:], str(dataset), str(run)]
        command += ["--set", "train.epochs=1", "--device", device, "--json"]
        environment = child_environment({"OMP_NUM_THREADS": str(threads)})
        job = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)

        def workers() -> list[int]:
            children = Path(f"/proc/{job.pid}/task/{job.pid}/children")
            return [int(child) for child in children.read_text(encoding="ascii").split()]

        with Watch(workers) as watch:
            out, _ = job.communicate()
        if job.returncode:
            raise ChildError(f"exited with {job.returncode}")
        results = json.loads(out)
        return {
            "threads_each": threads,
            "private_gb": round(max(watch.private.values()) / 1e9, 3),
            "shared_gb": round(watch.shared / 1e9, 3),
            "seconds": results["training_seconds"],
            "valid_rmse": results["valid"]["rmse"],
            "gap_closed": results["valid"].get("gap_closed"),
        }


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="a prepared data set; default: one is generated")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--batch", type=int, nargs="+", default=[262_144, 1_048_576])
    parser.add_argument("--weak", action="store_true", help="batches grow with the processes")
    parser.add_argument("--identity", action="store_true", help="measure user vectors too")
    parser.add_argument("--train", action="store_true", help="an epoch of `dglrec train` too")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="where the figures go")
    arguments = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as temporary:
        dataset = arguments.data or make_dataset(Path(temporary))
        for identity in ("none", "rows", "whole") if arguments.identity else ("none",):
            for batch in arguments.batch if identity == "none" else arguments.batch[:1]:
                alone = None
                for processes in arguments.processes:
                    size = batch * processes if arguments.weak else batch
                    say(f"{processes} processes, batch {size:,}, user vectors {identity}")
                    job = {"dataset": str(dataset), "batch": size, "identity": identity}
                    job |= {"seconds": arguments.seconds, "device": arguments.device}
                    row = run_job(processes, arguments.threads, job)
                    if processes == 1:
                        alone = row["edges_per_second"]
                    if alone:
                        row["efficiency"] = round(row["edges_per_second"] / alone / processes, 3)
                    rows.append(
                        {"processes": processes, "batch": size, "identity": identity, **row}
                    )
                most = max(arguments.processes)
                if identity == "none" and most > 1:
                    rows += run_limits(most, arguments.threads, {**job, "batch": batch}, alone)
        for processes in arguments.processes if arguments.train else ():
            say(f"an epoch of dglrec train in {processes} processes")
            row = run_training(dataset, processes, arguments.threads, arguments.device)
            rows.append({"processes": processes, "train": True, **row})
    print_table("training against the number of processes", COLUMNS, rows)
    write_results(arguments.json, rows)


if __name__ == "__main__" and not child_main({"measure": measure}):
    main()
