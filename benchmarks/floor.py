"""The least that a training step could take on this machine, beside what it does take.

    python benchmarks/floor.py --data DATASET --json benchmarks/results/floor.json

Of real steps it counts the arithmetic (torch's own counter for matrix products, and by hand what
the compiled kernels do) and the bytes that any implementation of the same model has to move: each
step edge's neighbour and rating, each message's row, each target's rows, each node's values. Then
it measures how fast this machine multiplies matrices and fetches rows, and divides.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from bench_train import measure_dglrec
from common import (
    PartClock,
    Row,
    child_main,
    measure_loop,
    open_workload,
    print_table,
    run_child,
    write_results,
)

COLUMNS = (
    "model",
    "batch",
    "flop_per_edge",
    "bytes_per_edge",
    "arithmetic_ns",
    "memory_ns",
    "ns_per_edge",
    "share_of_floor",
    "sampling_share",
)
BATCHES = {"plain": 2_097_152, "ratings": 262_144, "default": 262_144}
_EDGE_BYTES = 4 + 1  # neighbour, rating code
_FLOAT = 4


def rates(repeats: int, device: str) -> Row:
    """In a child: GFLOP a second of matrix products, GB a second of fetched rows and of copies."""
    import torch
    from torch.nn import functional

    torch.manual_seed(0)
    torch.set_default_device(device)
    nodes, width, messages = 16_872, 64, 1_000_000
    values, weight = torch.randn(nodes, width), torch.randn(width, width)
    index = torch.randint(nodes, (messages,), dtype=torch.int32)
    offsets = torch.arange(0, messages + 1, 10, dtype=torch.int32)
    large = torch.empty(64 << 20)

    def wait() -> None:
        if device != "cpu":
            torch.cuda.synchronize(device)

    def seconds(job: Callable[[], object]) -> float:
        job()
        taken = []
        for _ in range(repeats):
            wait()
            started = time.perf_counter()
            job()
            wait()
            taken.append(time.perf_counter() - started)
        return min(taken)  # a floor asks what the machine can do, not what it does on a busy day

    def fetch() -> object:
        return functional.embedding_bag(
            index, values, offsets, mode="sum", include_last_offset=True
        )

    multiplied = seconds(lambda: values @ weight)
    copied = seconds(large.clone)
    return {
        "device": torch.cuda.get_device_name(device) if device != "cpu" else "CPU",
        "gflop_per_second": round(2 * nodes * width**2 / multiplied / 1e9, 1),
        "fetched_gb_per_second": round(messages * width * _FLOAT / seconds(fetch) / 1e9, 1),
        "copied_gb_per_second": round(2 * large.nbytes / copied / 1e9, 1),
    }


def count(model: Any, batch: Any, folds: int, matrix_flop: int) -> tuple[float, float]:
    """Operations and bytes of one step, forward and backward.

    Args:
        model: the `RatingModel`.
        batch: the step's.
        folds: of the loader; a step reads that many times its targets.
        matrix_flop: of all matrix products, as counted.
    """
    width, hidden = model.config.embedding_size, model.config.decoder_size
    sums = 2 if model.config.rating_messages else 1  # bare and rated
    factors = width if model.config.interaction else 0
    targets = len(batch.ratings)
    messages = nodes = 0
    for layer in batch.layers:
        for block in (layer.to_users, layer.to_items):
            messages += sums * len(block.neighbours)
            nodes += block.num_destinations
    inputs = len(batch.user_nodes) + len(batch.item_nodes)
    flop = matrix_flop
    flop += 2 * 2 * messages * width  # multiplied and added, there and back
    flop += targets * 3 * (4 * hidden + 2 * factors)
    moved = folds * targets * _EDGE_BYTES
    moved += 2 * messages * (width + 1) * _FLOAT
    # An item's row a target and a user's row a user: read forward; read, and added to, backward.
    users = len(batch.users.unique())
    moved += 4 * (targets + users) * (hidden + factors) * _FLOAT
    moved += 4 * (nodes + inputs) * width * _FLOAT  # written and read, there and back
    return flop, moved


def steps(dataset: str, model: str, batch: int, seconds: float, device: str) -> Row:
    """In a child: real steps, counted and timed."""
    from torch.utils.flop_counter import FlopCounterMode

    clock = PartClock()
    workload = open_workload(dataset, None)
    loop: Any = measure_dglrec(workload, batch, model, clock, device)
    folds = loop.loader.config.folds
    counted = []
    batches = iter(loop.loader)
    for _ in range(2):
        made = next(batches)
        with FlopCounterMode(display=False) as counter:
            loop.step(made)
        found = count(loop.step.model, made, folds, counter.get_total_flops())
        counted.append([figure / len(made.ratings) for figure in found])
    measured = measure_loop(loop, seconds, clock)
    return {
        "flop_per_edge": round(median([pair[0] for pair in counted])),
        "bytes_per_edge": round(median([pair[1] for pair in counted])),
        "ns_per_edge": measured["ns_per_edge"],
        "sampling_share": measured["breakdown"]["sampling"],
    }


def main() -> None:
    """Measure, divide, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="a prepared data set")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda")
    parser.add_argument("--seconds", type=float, default=8.0, help="measured, for each model")
    parser.add_argument("--repeats", type=int, default=101, help="of the machine's rates; the best")
    parser.add_argument("--json", type=Path, help="where the figures go")
    arguments = parser.parse_args()
    place = {"device": arguments.device}
    machine = run_child(__file__, {"do": "rates", "repeats": arguments.repeats, **place})
    del machine["peak_memory_gb"]
    rows: list[Row] = []
    for model in BATCHES:
        job = {"dataset": str(arguments.data), "model": model, "batch": BATCHES[model]}
        job |= {"seconds": arguments.seconds, **place}
        figures = run_child(__file__, {"do": "steps", **job})
        arithmetic = figures["flop_per_edge"] / machine["gflop_per_second"]
        memory = figures["bytes_per_edge"] / machine["fetched_gb_per_second"]
        rows.append(
            {
                "model": model,
                "batch": BATCHES[model],
                **figures,
                "arithmetic_ns": round(arithmetic, 1),
                "memory_ns": round(memory, 1),
                # Of one core's units, one waits for the other at worst: the floor is the larger.
                "share_of_floor": round(max(arithmetic, memory) / figures["ns_per_edge"], 3),
            }
        )
    print_table("the floor", COLUMNS, rows)
    write_results(arguments.json, rows, rates=machine)


if __name__ == "__main__" and not child_main({"rates": rates, "steps": steps}):
    main()
