"""What the benchmarks share: child processes, machine and versions, subsets of a graph, results.

A figure is taken in a fresh process, whose peak memory is what the kernel says of that process.
The driver itself stays small (it imports neither torch nor numpy at its top): on Linux a process's
peak starts at the memory of the one that started it.
"""

import json
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor, device

    from dglrec.biases import Biases
    from dglrec.blocks import WeightedEdges
    from dglrec.distributed import World
    from dglrec.graph import RatingGraph
    from dglrec.nn import RatingModel
    from dglrec.relations import Direction
    from dglrec.schema import RatingScale
    from dglrec.train import Loader, Settings, TrainingStep

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"
CHILD = "--child"
SCHEMA_VERSION = 1  # of the JSON, which `dglrec report` shows

Row = dict[str, Any]


class ChildError(Exception):
    """A measured process failed; the message says how. Its own messages went to stderr."""


@dataclass(frozen=True)
class Finished:
    """A process that ended well.

    Attributes:
        out: what it printed on stdout.
        seconds: from its start to its end, imports included.
        peak_memory_gb: its largest resident set, in 1e9 bytes; mapped file pages it touched count.
    """

    out: str
    seconds: float
    peak_memory_gb: float


def child_environment(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables of a child: this process's, where to find the package, and some more."""
    paths = [str(ROOT), str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH", "")]
    # What `import dglrec` sets; here because some children import torch or DGL before it.
    defaults = {"DGLBACKEND": "pytorch", "OMP_WAIT_POLICY": "passive"}
    variables = {**defaults, **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    return {**variables, **(environment or {})}


def run_measured(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    limit: float | None = None,
) -> Finished:
    """Run a command to its end. Its stderr goes where this process's goes.

    Args:
        command: what to run.
        environment: variables on top of this process's.
        cwd: where to run it.
        limit: seconds after which it is killed, with all that it has started.

    Raises:
        ChildError: it did not exit with 0, or not in time.
    """
    started = time.monotonic()
    process = subprocess.Popen(
        list(command),
        stdout=subprocess.PIPE,
        env=child_environment(environment),
        cwd=cwd,
        text=True,
        start_new_session=limit is not None,
    )
    late = threading.Event()

    def kill() -> None:
        late.set()
        os.killpg(process.pid, signal.SIGKILL)  # there until it is waited for, below

    timer = threading.Timer(limit, kill) if limit is not None else None
    if timer:
        timer.start()
    assert process.stdout is not None
    out = process.stdout.read()
    # Not reaped yet, so that its number is nobody else's while it may still be killed.
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    if timer:
        timer.cancel()
        timer.join()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - started
    process.returncode = code = os.waitstatus_to_exitcode(status)
    if late.is_set():
        raise ChildError(f"took longer than its {limit:.0f} s")
    if code:
        raise ChildError(f"killed by signal {-code}" if code < 0 else f"exited with {code}")
    unit = 1 if sys.platform == "darwin" else 1024
    return Finished(out, seconds, usage.ru_maxrss * unit / 1e9)


def run_child(
    script: str | Path,
    job: Mapping[str, Any],
    *,
    environment: Mapping[str, str] | None = None,
    limit: float | None = None,
) -> Row:
    """Run one job of a benchmark script in a fresh process.

    Args:
        script: a file of this folder whose `main` hands over to `child_main`.
        job: what the child is to do, as JSON.
        environment: variables on top of this process's.
        limit: seconds after which it is killed.

    Returns:
        The child's JSON, with `peak_memory_gb` added.

    Raises:
        ChildError: the child failed, or did not end in time.
    """
    command = [sys.executable, str(script), CHILD, json.dumps(dict(job))]
    done = run_measured(command, environment=environment, limit=limit)
    row: Row = json.loads(done.out.splitlines()[-1])
    return {**row, "peak_memory_gb": round(done.peak_memory_gb, 3)}


def child_main(jobs: Mapping[str, Callable[..., Row]]) -> bool:
    """Where this process is a child: do its job, print the JSON, and say so.

    An empty row is not printed: lines of processes that write to one pipe run into each other.
    """
    if len(sys.argv) != 3 or sys.argv[1] != CHILD:
        return False
    job = json.loads(sys.argv[2])
    row = jobs[job.pop("do")](**job)
    if row:
        print(json.dumps(row), flush=True)
    return True


class Loop(Protocol):
    """A training loop that is measured."""

    def steps(self) -> Iterator[int]:
        """One epoch; after each finished training step, its number of target edges."""


@dataclass
class PartClock:
    """Adds up the seconds of the parts of a step."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started

    def batches(self, loader: Iterable[Any]) -> Iterator[Any]:
        """One epoch of a loader, the time that it takes counted as `sampling`.

        A step without targets, whose batch is None, is passed over.
        """
        with self.part("sampling"):
            batches = iter(loader)
        while True:
            with self.part("sampling"):
                try:
                    batch = next(batches)
                except StopIteration:
                    return
            if batch is not None:
                yield batch
            del batch  # the next one has its room

    def shares(self) -> dict[str, float]:
        """Each part's share of their sum."""
        total = sum(self.seconds.values())
        return {name: round(value / total, 3) for name, value in self.seconds.items()}


WARM_UP_STEPS = 2
_SLICES = 5


def measure_loop(loop: Loop, seconds: float, clock: PartClock | None = None) -> Row:
    """Throughput of a loop: epochs one after the other for some seconds, and at least three steps.

    Everything that a step takes is inside the clock: sampling, gathering, forward, loss, backward,
    optimiser, and at an epoch's end the start of the next. The warm-up steps are not, and neither
    is what the loop builds at its first step.

    Returns:
        `edges_per_second`, the median over slices of the run; `ns_per_edge`; `step_ms`, the
        median; `steps`; `edges_per_step`, the mean; `measured_seconds`; `breakdown`, shares of
        the time.
    """
    done: list[tuple[int, float]] = []  # edges and seconds of each step
    steps = _repeated(loop)
    for _ in range(WARM_UP_STEPS):
        next(steps)
    if clock:
        clock.seconds.clear()
    first = last = time.perf_counter()
    while len(done) < 3 or last - first < seconds:
        edges = next(steps)
        now = time.perf_counter()
        done.append((edges, now - last))
        last = now
    rate = median(_slice_rates(done))
    return {
        "edges_per_second": round(rate),
        "ns_per_edge": round(1e9 / rate, 1),
        "step_ms": round(1e3 * median([taken for _, taken in done]), 2),
        "steps": len(done),
        "edges_per_step": round(sum(edges for edges, _ in done) / len(done)),
        "measured_seconds": round(last - first, 2),
        "breakdown": clock.shares() if clock else {},
    }


def _repeated(loop: Loop) -> Iterator[int]:
    while True:
        yield from loop.steps()


def _slice_rates(done: Sequence[tuple[int, float]]) -> list[float]:
    """Edges a second in stretches of about equal time, none shorter than a step."""
    count = min(_SLICES, len(done))
    total = sum(taken for _, taken in done)
    rates: list[float] = []
    edges, spent, passed = 0, 0.0, 0.0
    for step_edges, taken in done:
        edges, spent, passed = edges + step_edges, spent + taken, passed + taken
        if passed >= total * (len(rates) + 1) / count - 1e-9:
            rates.append(edges / spent)
            edges, spent = 0, 0.0
    return rates


@dataclass(frozen=True)
class Workload:
    """What a loop trains on.

    Attributes:
        graph: the training ratings of a share of the users, memory-mapped; all items.
        biases: fitted to them.
        item_features: float32 [I, F].
        directions: of the relations that a model with them reads.
        operator: the graph of items that a model of graph filters takes.
    """

    graph: "RatingGraph"
    biases: "Biases"
    item_features: "Tensor"
    has_ratings: bool = True
    directions: "Sequence[Direction]" = ()
    operator: "WeightedEdges | None" = None

    @property
    def mean_rating(self) -> float:
        """Of the ratings that are trained on."""
        return self.biases.mean

    @property
    def scale(self) -> "RatingScale":
        """Of the ratings; with graph and biases all that an objective asks of a data set."""
        return self.graph.scale


def training_of(
    workload: Workload,
    settings: "Settings",
    device: "device",
    world: "World | None" = None,
    change: "Callable[[RatingModel], None]" = lambda model: None,
) -> "tuple[Loader, TrainingStep]":
    """The loader and the step that `dglrec train` goes through, without what stands around them.

    Args:
        workload: what to train on.
        settings: with `auto` in them.
        device: where graph, batches and model live.
        world: the processes that train together.
        change: called with the model before there is a step.
    """
    import torch

    from dglrec.distributed import ALONE
    from dglrec.machine import keep_freed_memory
    from dglrec.nn import RatingModel
    from dglrec.train import TrainingStep, make_loader, make_objective

    keep_freed_memory()  # as `train` does
    world, graph = world or ALONE, workload.graph
    settings = settings.resolved(graph)
    torch.manual_seed(0)
    directions = workload.directions
    features = workload.item_features
    sizes = settings.model, graph.num_users
    model = RatingModel(*sizes, features, directions=directions, operator=workload.operator)
    model.to(device)
    change(model)
    if settings.loader.items == "reached":
        model.read_items_by_rows()
    heads, train = settings.model.heads, settings.train
    objective = make_objective(heads, train.loss, settings.ranking, workload, device)  # type: ignore[arg-type]
    layers = settings.model.layers
    draw = objective.sampler(device)
    loader = make_loader(
        graph,
        workload.biases,
        settings.loader,
        0,
        device,
        world,
        draw,
        directions=directions,
        layers=layers,
        by_rows=bool(model.sparse_tables()),
        compile=train.compile,
    )
    return loader, TrainingStep(model, train, objective, 1_000_000, world)


def subset(graph: "RatingGraph", share: float, seed: int = 0) -> "RatingGraph":
    """All training edges of a random share of the users, who are numbered anew; all items stay."""
    import numpy as np

    from dglrec.graph import build_graph

    if not 0 < share <= 1:
        raise ValueError(f"a share of the users is above 0 and at most 1, not {share}")
    if share == 1:
        return graph
    count = max(1, round(share * graph.num_users))
    chosen = np.random.default_rng(seed).choice(graph.num_users, count, replace=False)
    chosen.sort()
    by_user = graph.by_user
    degrees = by_user.degrees[chosen]
    rows = np.repeat(by_user.offsets[chosen], degrees)
    rows += np.arange(len(rows)) - np.repeat(np.cumsum(degrees) - degrees, degrees)
    return build_graph(
        np.repeat(np.arange(count, dtype=np.int32), degrees),
        np.asarray(by_user.neighbours)[rows],
        np.asarray(by_user.codes)[rows],
        num_users=count,
        num_items=graph.num_items,
        scale=graph.scale,
    )


_SIDES = ("by_user", "by_item")
_PARTS = ("offsets", "neighbours", "codes")


def write_subset(dataset: str, share: float, seed: int, folder: str) -> Row:
    """Write a subset of a prepared data set for children to map, and say how large it is.

    A process that cuts its own subset would touch, and so be charged with, much of the whole.
    """
    from dglrec.biases import fit_biases
    from dglrec.dataset import RatingDataset

    opened = RatingDataset.open(Path(dataset))
    graph = subset(opened.graph, share, seed)
    sizes = {"users": graph.num_users, "items": graph.num_items, "edges": graph.num_edges}
    if share < 1:
        save_workload(graph, fit_biases(graph, opened.biases.damping), Path(folder))
    return sizes


def save_workload(graph: "RatingGraph", biases: "Biases", folder: Path) -> None:
    """Write a graph and its biases for children to map."""
    import numpy as np

    folder.mkdir(parents=True)
    for side in _SIDES:
        for part in _PARTS:
            np.save(folder / f"{side}_{part}.npy", getattr(getattr(graph, side), part))
    np.save(folder / "edges_by_item.npy", graph.edges_by_item)
    for name in ("users", "items", "user_squares", "item_squares"):
        np.save(folder / f"biases_{name}.npy", getattr(biases, name).numpy())
    fitted = {
        "mean": biases.mean,
        "variance": biases.variance,
        "damping": biases.damping,
        "scale": graph.scale.to_dict(),
    }
    (folder / "fitted.json").write_text(json.dumps(fitted), encoding="utf-8")


def make_subset(
    script: str, dataset: Path, share: float, seed: int, folder: Path
) -> tuple[str | None, Row]:
    """Have a child of a script write a subset where one is needed.

    Returns:
        what `open_workload` takes for its folder, and the subset's sizes.
    """
    target = None if share == 1 else str(folder / f"subset-{share:g}")
    job = {"do": "subset", "dataset": str(dataset), "share": share, "seed": seed}
    sizes = run_child(script, {**job, "folder": target or ""})
    del sizes["peak_memory_gb"]
    return target, sizes


def open_workload(dataset: str | None, folder: str | None) -> Workload:
    """Map what `save_workload` wrote, or, without a folder, the whole prepared data set.

    Args:
        dataset: where the item features are; None for no features.
        folder: of graph and biases; None for those of the data set.
    """
    import numpy as np
    import torch

    from dglrec.biases import Biases, Damping
    from dglrec.dataset import RatingDataset
    from dglrec.graph import Adjacency, RatingGraph
    from dglrec.schema import RatingScale

    opened = None if dataset is None else RatingDataset.open(Path(dataset))
    if folder is None:
        if opened is None:
            raise ValueError("a workload is a data set's, or a folder's")
        return Workload(opened.graph, opened.biases, opened.item_features)

    def mapped(name: str) -> Any:
        return np.asarray(np.load(Path(folder) / f"{name}.npy", mmap_mode="c"))

    by_user, by_item = (
        Adjacency(*(mapped(f"{side}_{part}") for part in _PARTS)) for side in _SIDES
    )
    fitted = json.loads((Path(folder) / "fitted.json").read_text(encoding="utf-8"))
    scale = RatingScale(**fitted["scale"])
    graph = RatingGraph(by_user, by_item, mapped("edges_by_item"), scale)
    biases = Biases(
        mean=fitted["mean"],
        users=torch.from_numpy(mapped("biases_users")),
        items=torch.from_numpy(mapped("biases_items")),
        user_degrees=torch.from_numpy(graph.by_user.degrees.astype(np.float32)),
        item_degrees=torch.from_numpy(graph.by_item.degrees.astype(np.float32)),
        user_squares=torch.from_numpy(mapped("biases_user_squares")),
        item_squares=torch.from_numpy(mapped("biases_item_squares")),
        variance=fitted["variance"],
        damping=Damping(*fitted["damping"]),
    )
    features = torch.zeros(graph.num_items, 0) if opened is None else opened.item_features
    return Workload(graph, biases, features)


def dglrec_command(*arguments: str) -> list[str]:
    """A verb of the package, run with this interpreter."""
    return [sys.executable, "-m", "dglrec", *arguments]


FULL_SIZE = {"users": 310_059, "items": 16_872, "ratings": 57_600_000}
"""The published anime rating graph's size."""


def scaled_size(scale: float) -> dict[str, int]:
    """The full size with a share of the users and of the ratings, and all items."""
    return {
        "users": round(FULL_SIZE["users"] * scale),
        "items": FULL_SIZE["items"],
        "ratings": round(FULL_SIZE["ratings"] * scale),
    }


def synth_command(source: Path, scale: float) -> list[str]:
    """The verb that generates a source of some scale."""
    options = [
        word for name, size in scaled_size(scale).items() for word in (f"--{name}", str(size))
    ]
    return dglrec_command("synth", str(source), *options, "--seed", "1")


def make_dataset(
    folder: Path, target: Path | None = None, *, scale: float = 1.0, text: bool = False
) -> Path:
    """Generate a planted data set in `folder` and prepare it, there or in `target`; its path."""
    source, target = folder / "source", target or folder / "dataset"
    say(f"generating a data set of scale {scale:g}")
    run_measured(synth_command(source, scale))
    say("preparing it")
    options = () if text else ("--no-text",)
    run_measured(dglrec_command("prepare", str(source), str(target), *options))
    return target


def say(message: str) -> None:
    """One line on stderr."""
    print(message, file=sys.stderr, flush=True)


def installed(package: str) -> str | None:
    """A package's version, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def describe_machine() -> Row:
    """Processor, memory, versions and GPU that figures belong to."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "platform": platform.platform(),
        "python": platform.python_version(),
        **{name: installed(name) for name in ("torch", "dgl", "numpy", "numba", "pandas")},
        "pyg": installed("torch_geometric"),
        "pyg_sampler": next(
            (
                f"{name} {installed(name)}"
                for name in ("pyg-lib", "torch-sparse")
                if installed(name)
            ),
            None,
        ),
        "gpu": _gpu(),
    }


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except FileNotFoundError:
        return platform.processor()
    names = [
        line.partition(":")[2].strip() for line in text.splitlines() if line[:10] == "model name"
    ]
    return names[0] if names else platform.processor()


def _gpu() -> str | None:
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    done = subprocess.run(query, stdout=subprocess.PIPE, text=True)
    return done.stdout.strip() or None if done.returncode == 0 else None


def describe_commit() -> Row:
    """The commit that was measured, and whether files differed from it."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()

    try:
        # Results are what a benchmark writes, and no part of what it measures.
        changed = git("status", "--porcelain", "--", ".", ":!benchmarks/results")
        return {"hash": git("rev-parse", "--short", "HEAD"), "dirty": bool(changed)}
    except (FileNotFoundError, subprocess.CalledProcessError):
        return {"hash": None, "dirty": None}


def describe_command() -> str:
    """The command line, paths cut to their last part."""
    words = [Path(word).name if "/" in word else word for word in sys.argv[1:]]
    return shlex.join(["benchmarks/" + Path(sys.argv[0]).name, *words])


def write_results(path: Path | None, rows: Sequence[Row], **more: Any) -> None:
    """Write the figures, with what they belong to, as JSON; to stdout without a path."""
    report = {
        "schema_version": SCHEMA_VERSION,
        "machine": describe_machine(),
        "commit": describe_commit(),
        "command": describe_command(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **more,
        "rows": list(rows),
    }
    text = json.dumps(report, indent=2) + "\n"
    if path is None:
        sys.stdout.write(text)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    say(f"wrote {path}")


def print_table(title: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
    """A table of some columns on stderr; the best rows stand out."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    for column in columns:
        table.add_column(column, justify="right")
    for row in rows:
        cells = [_cell(row.get(column)) for column in columns]
        table.add_row(*cells, style="bold" if row.get("best") else None)
    # In a log the table keeps its columns whole.
    Console(stderr=True, width=None if sys.stderr.isatty() else 160).print(table)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return str(value)
