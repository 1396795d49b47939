"""The parts of `gpu_check.py`: what one card (or, to rehearse, the CPU) is asked to do.

Each part is a generator of rows and gets a `Bench` and how many seconds it may take; it looks at
the clock between rows. A row that could not be measured carries `error` or `left_out`, with why.
"""

import copy
import gc
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from bench_train import loop_settings, measure_dglrec
from common import PartClock, Row, Workload, measure_loop, scaled_size, subset, training_of

if TYPE_CHECKING:
    import torch

    from dglrec.dataset import RatingDataset
    from dglrec.nn import RatingModel
    from dglrec.train import Settings

MODELS = ("plain", "default")
PRECISIONS = ("float32", "bfloat16")
BATCHES = (262_144, 2_097_152, 65_536)  # the default's first, in case the time ends
TOLERANCE = 1e-5
"""Relative, of float32 outputs: the largest difference over the largest value."""

_USERS_COMPARED = 2_000  # whose ratings the comparison with the CPU trains and embeds
_BATCH_COMPARED = 65_536
_USERS_AT_ONCE = 8_192  # as `dglrec score` has it
_STEPS_PROFILED = 3
_OPS_SHOWN = 15

# What the CUDA runtime calls a kernel launch, and what makes the host wait for the card. The
# profiler itself calls cudaDeviceSynchronize, which is left out for that.
_LAUNCHES = {
    "cudaLaunchKernel",
    "cudaLaunchKernelExC",
    "cuLaunchKernel",
    "cuLaunchKernelEx",
    "cudaGraphLaunch",
}
_WAITS = {"cudaStreamSynchronize", "cudaEventSynchronize"}


@dataclass
class Bench:
    """What the parts share.

    Attributes:
        dataset: a prepared data set.
        device: where to compute.
        batches: target edges a step, to be tried one after the other.
        most_seconds: that one loop is measured, at most.
    """

    dataset: "RatingDataset"
    device: "torch.device"
    batches: tuple[int, ...] = BATCHES
    most_seconds: float = 5.0

    @property
    def on_card(self) -> bool:
        return self.device.type == "cuda"

    @property
    def workload(self) -> Workload:
        """The whole data set, as a loop trains on it."""
        opened = self.dataset
        return Workload(opened.graph, opened.biases, opened.item_features)

    def model(self) -> "RatingModel":
        """An untrained model of the default configuration: weights do not change the work."""
        import torch

        from dglrec.run import new_model

        settings = loop_settings("default", self.batches[0]).resolved(self.dataset.graph)
        torch.manual_seed(0)
        return new_model(settings.model, self.dataset).to(self.device)

    def wait(self) -> None:
        """Until the card has done what it was given."""
        import torch

        if self.on_card:
            torch.cuda.synchronize(self.device)

    def seconds(self, job: Callable[[], object]) -> float:
        """That a job takes, with all that it left to the card."""
        self.wait()
        started = time.perf_counter()
        job()
        self.wait()
        return time.perf_counter() - started

    def repeated(self, job: Callable[[], object], limit: float) -> Row:
        """Seconds of the first run, and the median of those after it, of which there are few."""
        started = time.perf_counter()
        taken: list[float] = []
        first = self.seconds(job)
        while not taken or (len(taken) < 5 and time.perf_counter() - started < limit / 2):
            taken.append(self.seconds(job))
        return {
            "first_seconds": round(first, 4),
            "seconds": round(median(taken), 4),
            "repeats": len(taken),
        }

    @contextmanager
    def memory(self, row: Row) -> Iterator[None]:
        """Note in a row the most memory of the card, in 1e9 bytes, that a block takes."""
        import torch

        gc.collect()
        if self.on_card:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
        yield
        if self.on_card:
            row["gpu_memory_gb"] = round(torch.cuda.max_memory_allocated(self.device) / 1e9, 3)


def look(device: str) -> Row:
    """In a child: the cards of this machine, or why there is none that can be used."""
    import torch

    cards = []
    if device == "cuda" and torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            found = torch.cuda.get_device_properties(index)
            cards.append(
                {
                    "name": found.name,
                    "memory_gb": round(found.total_memory / 1e9, 1),
                    "capability": f"{found.major}.{found.minor}",
                    "multiprocessors": found.multi_processor_count,
                }
            )
    cuda = torch.version.cuda
    why = f"torch {torch.__version__} " + (
        f"for CUDA {cuda} finds no device" if cuda else "is built without CUDA"
    )
    return {"cards": cards, "why": None if cards else why, "cuda": cuda}


_TRIAL = 0.02
_MARGIN = 1.2


def make_data(folder: str, scale: float | None, seconds: float) -> Row:
    """In a child: generate and prepare a data set, without texts.

    Args:
        folder: where; the data set is `dataset` in there.
        scale: of the full size; None for as much of it as a trial says fits into the time.
        seconds: that it may take, trial included.
    """
    from dglrec.dataset import PrepareOptions, prepare
    from dglrec.synthetic import synthesize

    def make(name: str, scale: float) -> float:
        started = time.perf_counter()
        source = Path(folder) / f"{name}-source"
        size = scaled_size(scale)
        synthesize(source, seed=1, **size)  # type: ignore[arg-type]
        prepare(source, Path(folder) / name, PrepareOptions(text=False))
        for file in source.iterdir():
            file.unlink()
        return time.perf_counter() - started

    started = time.perf_counter()
    if scale is None:
        make("warm-up", 0.002)  # compiles
        rate = make("trial", _TRIAL) / _TRIAL  # too high, as the items cost the same at any scale
        left = seconds - (time.perf_counter() - started)
        scale = round(min(1.0, left / rate / _MARGIN), 2)
        if scale < _TRIAL:
            Path(folder, "trial").rename(Path(folder, "dataset"))
            return {"scale": _TRIAL, "seconds": round(time.perf_counter() - started, 1)}
    make("dataset", scale)
    return {"scale": scale, "seconds": round(time.perf_counter() - started, 1)}


def difference(found: "torch.Tensor", expected: "torch.Tensor") -> float:
    """The largest difference of two tensors over the largest finite value of the second."""
    found, expected = found.detach().double().cpu(), expected.detach().double().cpu()
    gaps = (found - expected).abs().masked_fill(found == expected, 0.0)  # of infinities as well
    if not gaps.any():
        return 0.0
    largest = expected[expected.isfinite()].abs()
    share = float(gaps.max() / largest.max()) if len(largest) else math.inf
    return math.inf if math.isnan(share) else share


def judged(row: Row, differences: dict[str, float]) -> Row:
    """A row with these differences, and with an error where one is above the tolerance."""
    row |= {name: rounded(value) for name, value in differences.items()}
    bad = [f"{name} {value:.2g}" for name, value in differences.items() if not value <= TOLERANCE]
    if bad:
        row["error"] = f"differs from the CPU by more than {TOLERANCE:g}: {', '.join(bad)}"
    return row


def rounded(value: float) -> float | None:
    """To three digits; None for what JSON has no number for."""
    return float(f"{value:.3g}") if math.isfinite(value) else None


def correctness(bench: Bench, seconds: float) -> Iterator[Row]:
    """A step's outputs, exact embeddings and lists on the device against those on the CPU."""
    import torch

    from dglrec.biases import fit_biases
    from dglrec.relations import directions_of
    from dglrec.train import RankingConfig

    del seconds
    whole = bench.dataset
    graph = subset(whole.graph, min(1.0, _USERS_COMPARED / whole.graph.num_users))
    workload = Workload(graph, fit_biases(graph, whole.biases.damping), whole.item_features)
    cpu = torch.device("cpu")
    pool = RankingConfig(negatives="uniform")
    cases = [("plain", "ratings", workload, RankingConfig()), ("default", "pool", workload, pool)]
    if "genres" in whole.attributes:
        related = replace(workload, directions=directions_of([whole.relation("has_genres")]))
        cases.append(("default", "pool, relation", related, pool))
    cases.append(("default", "catalogue", workload, RankingConfig()))
    for name, kind, trained, ranking in cases:
        settings = loop_settings(name, min(_BATCH_COMPARED, graph.num_edges))
        settings = replace(settings, ranking=ranking)
        loader, here = training_of(trained, settings, cpu)
        other_loader, there = training_of(trained, settings, bench.device)
        resolved = settings.resolved(graph)
        # Each from a batch of its own making: the samples are the same, the shapes are not.
        batch = next(made for made in loader if made is not None)
        expected, gradient = outputs(here.model, batch, resolved, workload)
        batch = next(made for made in other_loader if made is not None)
        found, other = outputs(there.model, batch, resolved, workload)
        for key, values in expected.items():
            if values.dim():
                found[key] = found[key][: len(values)]
        row: Row = {"what": "step", "model": name, "kind": kind, "targets": batch.num_targets}
        # Sums of many terms in another order; not an output, so told and not judged.
        row["gradient"] = rounded(difference(other, gradient))
        yield judged(row, {key: difference(found[key], expected[key]) for key in expected})
    yield from exact(workload, here.model, bench)


def outputs(
    model: "RatingModel", batch: Any, settings: "Settings", workload: Workload
) -> "tuple[dict[str, torch.Tensor], torch.Tensor]":
    """What a model without dropout says of a batch, and the gradient of what it costs."""
    import torch

    from dglrec.train import make_objective

    heads, loss, device = settings.model.heads, settings.train.loss, batch.ratings.device
    objective = make_objective(heads, loss, settings.ranking, workload, device)  # type: ignore[arg-type]
    encoded = model.eval().encode(batch)
    costs = objective.costs(model, encoded, batch)
    costs.total.backward()
    found = {"ratings": model.rate(encoded, batch), "loss": costs.total}
    if encoded.users is not None and encoded.items is not None:
        found |= {"list_users": encoded.users.factors, "list_items": encoded.items.factors}
    gradients = [p.grad.to_dense().flatten() for p in model.parameters() if p.grad is not None]
    return found, torch.cat(gradients)


def exact(workload: Workload, model: "RatingModel", bench: Bench) -> Iterator[Row]:
    """Embeddings of all nodes, and scores of the ten best items of some users."""
    import torch

    from dglrec.infer import ListScorer, Scorer, embed_all

    graph, biases = workload.graph, workload.biases
    users = torch.arange(min(200, graph.num_users))
    expected: dict[str, torch.Tensor] = {}
    found: dict[str, torch.Tensor] = {}
    for place, sink in ((torch.device("cpu"), expected), (bench.device, found)):
        twin = copy.deepcopy(model).to(place)
        embedded = embed_all(twin, graph, biases)
        sink["users"], sink["items"] = embedded.nodes
        scorers: list[tuple[str, Any]] = [("rated", Scorer(twin, embedded.nodes, biases))]
        if embedded.lists is not None:
            scorers.append(("listed", ListScorer(*embedded.lists)))
        for name, scorer in scorers:
            sink[name] = scorer.best(users, graph.by_user.lists, 10)[0]
    row = {"what": "exact", "model": "default", "users_scored": len(users)}
    yield judged(row, {key: difference(found[key], expected[key]) for key in expected})


def training(bench: Bench, seconds: float) -> Iterator[Row]:
    """Throughput of training: both models, several batches, both precisions."""
    started = time.perf_counter()
    edges = bench.dataset.graph.num_edges
    jobs: list[Row] = [
        {"model": model, "batch": batch, "precision": precision, "compile": compiled}
        for precision, compiled in (*((one, False) for one in PRECISIONS), ("float32", True))
        for batch in bench.batches
        for model in MODELS
    ]
    for number, job in enumerate(jobs):
        row: Row = dict(job)
        left = seconds - (time.perf_counter() - started)
        if job["batch"] > edges:
            row["left_out"] = f"more than all {edges:,} training ratings"
        elif job["compile"] and not bench.on_card:
            row["left_out"] = "train.compile is for a GPU"
        elif left <= 0:
            row["not_run"] = "no time was left"
        else:
            # Half for what is outside the clock: making the loop, and steps to warm up.
            wanted = min(bench.most_seconds, left / (len(jobs) - number) / 2)
            try:
                with bench.memory(row):
                    row |= measure_training(bench, job, wanted)
            except Exception as error:  # recorded with its words; the others still run
                row["error"] = in_one_line(error)
                check_alive(bench)
        yield row


def measure_training(bench: Bench, job: Row, seconds: float) -> Row:
    """One loop's figures; nothing of it is left on the card afterwards."""
    clock = PartClock()
    loop = measure_dglrec(
        bench.workload,
        job["batch"],
        job["model"],
        clock,
        str(bench.device),
        precision=job["precision"],
        compile=job["compile"],
    )
    return measure_loop(loop, seconds, clock)


def check_alive(bench: Bench) -> None:
    """After an error: raise it again where the card takes no more work from this process."""
    gc.collect()
    bench.wait()


def in_one_line(error: BaseException) -> str:
    """The kind of an error and its first words."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]


def epoch(bench: Bench, seconds: float) -> Iterator[Row]:
    """One epoch of the package's own training: sampling, steps, validation, checkpoints, test.

    Without item-item weights, which are fitted once after the last epoch, on the CPU.
    """
    from dglrec.config import build_settings
    from dglrec.train import train
    from dglrec.train.validation import Validation

    del seconds
    row: Row = {"what": "default", "training_ratings": bench.dataset.graph.num_edges}
    settings = build_settings({"train": {"epochs": 1}, "model": {"item_items": "none"}})
    taken: list[float] = []
    figures = Validation.figures

    def timed(self: Validation, model: Any) -> dict[str, float]:
        found: dict[str, float] = {}
        taken.append(bench.seconds(lambda: found.update(figures(self, model))))
        return found

    with tempfile.TemporaryDirectory() as temporary, bench.memory(row):
        Validation.figures = timed  # type: ignore[method-assign]
        try:
            run = Path(temporary) / "run"
            whole = bench.seconds(
                lambda: row.update(train(bench.dataset, run, settings, device=bench.device))
            )
        finally:
            Validation.figures = figures  # type: ignore[method-assign]
        line = json.loads((run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[0])
    row |= {
        "epoch_seconds": round(line["seconds"] + taken[0], 3),  # sampling and validation included
        "validation_seconds": round(taken[0], 3),
        "whole_job_seconds": round(whole, 3),
        "edges_per_second": round(row["training_ratings"] / line["seconds"]),
    }
    yield row


def inference(bench: Bench, seconds: float) -> Iterator[Row]:
    """Exact embeddings of all nodes."""
    from dglrec.infer import embed_all

    model, opened = bench.model(), bench.dataset
    row: Row = {"what": "embeddings of all nodes", "edges": opened.graph.num_edges}
    row["nodes"] = opened.graph.num_users + opened.graph.num_items
    with bench.memory(row):
        row |= bench.repeated(lambda: embed_all(model, opened.graph, opened.biases), seconds)
    row["edges_per_second"] = round(row["edges"] / row["seconds"])
    yield row


def validation(bench: Bench, seconds: float) -> Iterator[Row]:
    """What follows each epoch: exact embeddings, errors of the rows, lists of some users."""
    from dglrec.train import make_objective
    from dglrec.train.validation import Validation

    model, opened = bench.model(), bench.dataset
    settings = loop_settings("default", bench.batches[0]).resolved(opened.graph)
    loss, ranking = settings.train.loss, settings.ranking
    objective = make_objective(settings.model.heads, loss, ranking, opened, bench.device)
    judge = Validation(opened, objective, settings.model)
    row: Row = {"what": "validation", "rows": opened.meta["counts"]["valid"]}
    with bench.memory(row):
        row |= bench.repeated(lambda: judge.figures(model), seconds)
    yield row


def scoring(bench: Bench, seconds: float) -> Iterator[Row]:
    """The ten best items that a user has not rated, by predicted rating and by the list head."""
    import torch

    from dglrec.infer import ListScorer, Scorer, embed_all

    model = bench.model()
    embedded = embed_all(model, bench.dataset.graph, bench.dataset.biases)
    opened, lists = bench.dataset, bench.dataset.graph.by_user.lists
    scorers: list[tuple[str, Any]] = [
        ("predicted rating", Scorer(model, embedded.nodes, opened.biases))
    ]
    if embedded.lists is not None:
        scorers.append(("list head", ListScorer(*embedded.lists)))
    parts = torch.arange(opened.graph.num_users).split(_USERS_AT_ONCE)
    for name, scorer in scorers:
        row: Row = {"what": name, "items": opened.graph.num_items}
        limit = min(bench.most_seconds, seconds / len(scorers) / 3)
        with bench.memory(row):
            scorer.best(parts[0], lists, 10)
            started, users = time.perf_counter(), 0
            while (taken := time.perf_counter() - started) < limit:
                part = parts[users // _USERS_AT_ONCE % len(parts)]
                scorer.best(part, lists, 10)  # the lists come back to the host
                users += len(part)
        yield row | {"users": users, "users_per_second": round(users / taken)}


def profile(bench: Bench, seconds: float) -> Iterator[Row]:
    """A default step under torch's profiler: making the batch, and the step on it, apart."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    del seconds
    batch_size = min(bench.batches[0], bench.dataset.graph.num_edges)
    loop = measure_dglrec(bench.workload, batch_size, "default", PartClock(), str(bench.device))
    assert hasattr(loop, "loader") and hasattr(loop, "step")
    batches = _endless(loop.loader)
    for _ in range(3):
        float(loop.step(next(batches)).costs.squared)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if bench.on_card else [])]
    found: dict[str, list[Any]] = {"sampling": [], "step": []}
    made: list[Any] = []
    for _ in range(_STEPS_PROFILED):
        jobs: dict[str, Callable[[], object]] = {
            "sampling": lambda: made.append(next(batches)),
            "step": lambda: float(loop.step(made.pop()).costs.squared),
        }
        for name, job in jobs.items():
            with profiled(activities=activities) as profiler:
                taken = bench.seconds(job)
            found[name].append((taken, profiler.key_averages()))
    for name, runs in found.items():
        yield {"what": name, "model": "default", "batch": batch_size, **summed(runs, bench.on_card)}


def _endless(loader: Any) -> Iterator[Any]:
    number = 0
    while True:
        loader.set_epoch(number)
        yield from (batch for batch in loader if batch is not None)
        number += 1


def summed(runs: list[tuple[float, Any]], on_card: bool) -> Row:
    """Counts and times of one run, the mean of several; launches and waits on a card alone.

    Args:
        runs: seconds of each, and the profiler's averages by name.
        on_card: whether the times of operations are the card's or the host's.
    """
    calls: dict[str, float] = {}
    spent: dict[str, float] = {}
    for _, averages in runs:
        for event in averages:
            own = event.self_device_time_total if on_card else event.self_cpu_time_total
            calls[event.key] = calls.get(event.key, 0) + event.count / len(runs)
            spent[event.key] = spent.get(event.key, 0.0) + own / 1e3 / len(runs)

    def of(names: Callable[[str], bool]) -> float:
        return round(sum(count for name, count in calls.items() if names(name)), 1)

    row: Row = {
        "ms": round(1e3 * median([taken for taken, _ in runs]), 2),
        "operations": of(lambda name: name.startswith("aten::")),
    }
    if on_card:
        row |= {
            "kernel_launches": of(_LAUNCHES.__contains__),
            "host_waits": of(_WAITS.__contains__),
            "copies_to_host": of(lambda name: name.startswith("Memcpy DtoH")),
            "copies_to_card": of(lambda name: name.startswith("Memcpy HtoD")),
            "card_ms": round(sum(spent.values()), 3),
        }
    largest = sorted(spent, key=spent.__getitem__, reverse=True)[:_OPS_SHOWN]
    row["top"] = [
        {"name": name[:100], "calls": round(calls[name], 1), "ms": round(spent[name], 3)}
        for name in largest
    ]
    return row


def collective(device: str, megabytes: int) -> Row:
    """In each process of a job: one sum over all of them, checked, and how fast it goes.

    One process, too, makes a group here; training alone would not.
    """
    import torch
    import torch.distributed as dist

    backend = "nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend)
    rank, size = dist.get_rank(), dist.get_world_size()
    place = torch.device("cuda", rank) if device == "cuda" else torch.device("cpu")
    if device == "cuda":
        torch.cuda.set_device(place)
    values = torch.full((megabytes << 18,), rank + 1.0, device=place)
    dist.all_reduce(values)
    expected = size * (size + 1) / 2
    if not bool((values == expected).all()):
        raise RuntimeError(f"{backend} sums to {float(values[0]):g} and not to {expected:g}")
    taken = []
    for _ in range(10):
        started = time.perf_counter()
        dist.all_reduce(values.fill_(1.0))
        if device == "cuda":
            torch.cuda.synchronize(place)
        taken.append(time.perf_counter() - started)
    dist.destroy_process_group()
    row = {"what": "sum over processes", "backend": backend, "processes": size}
    row |= {"megabytes": megabytes, "ms": round(1e3 * median(taken), 3)}
    return row if rank == 0 else {}


PARTS: dict[str, Callable[[Bench, float], Iterator[Row]]] = {
    "correctness": correctness,
    "training": training,
    "epoch": epoch,
    "inference": inference,
    "validation": validation,
    "scoring": scoring,
    "profile": profile,
}
