"""Each convolution beside its namesake of DGL, forward and backward: time and peak memory.

    python benchmarks/bench_convolutions.py --json benchmarks/results/convolutions.json

One block, both sides of which need gradients: by default 118,000 sources, 50,000 destinations and
250,000 edges by chance, 64 columns, attention with 4 heads. Runs of both alternate, and figures are
medians. `cpu_ms` is the processor time of all threads, which says more than `ms` where a machine is
shared; `memory_mb` is by how much a run's peak is above what was there before it. While time is
taken the C library keeps what is freed, for both, as in training.
"""

import argparse
import ctypes
import gc
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import torch
from common import Row, print_table, write_results
from torch import Tensor, nn

from dglrec.blocks import Block
from dglrec.machine import keep_freed_memory
from dglrec.nn import GATConv, GATv2Conv, GCNConv, GINConv, SAGEConv

os.environ.setdefault("DGLBACKEND", "pytorch")

COLUMNS = ("convolution", "by", "forward_ms", "ms", "cpu_ms", "memory_mb")
_STATUS, _REFERENCES = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_MAP_FROM = -3  # the C library's M_MMAP_THRESHOLD
_PEAK_AGAIN = "5"  # what resets the kernel's record of the largest resident size


def make_pairs(size: int, heads: int, most: int) -> dict[str, tuple[nn.Module, nn.Module]]:
    """By name: ours, and what DGL has of that name."""
    import dgl.nn

    both = size, size
    alone = {"allow_zero_in_degree": True}
    mlp = nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, size))
    pairs: dict[str, tuple[nn.Module, nn.Module]] = {
        # Of DGL an LSTM reads all neighbours, so ours does.
        f"sage_{name}": (SAGEConv(size, size, name, most), dgl.nn.SAGEConv(both, size, name))
        for name in ("mean", "pool", "lstm")
    }
    return pairs | {
        "gcn": (GCNConv(size, size), dgl.nn.GraphConv(size, size, **alone)),
        "gat": (GATConv(size, size, heads), dgl.nn.GATConv(both, size // heads, heads, **alone)),
        "gatv2": (
            GATv2Conv(size, size, heads),
            dgl.nn.GATv2Conv(both, size // heads, heads, **alone),
        ),
        "gin": (GINConv(size, size), dgl.nn.GINConv(mlp, "sum", learn_eps=True)),
    }


def make_blocks(sources: int, destinations: int, edges: int) -> tuple[Block, object]:
    """Edges by chance, as each of the two reads them."""
    import dgl

    ends = torch.randint(destinations, (edges,)).sort().values
    starts = torch.randint(sources, (edges,))
    counts = torch.bincount(ends, minlength=destinations)
    offsets = torch.cat((torch.zeros(1, dtype=torch.int64), counts.cumsum(0)))
    degrees = torch.bincount(starts, minlength=sources).float()
    # As DGL's formats are made outside of the clock, so are the edges in their sources' order.
    order = starts.argsort(stable=True)
    turned = torch.cat((offsets[:1], degrees.long().cumsum(0))), ends[order].int()
    block = Block(offsets, starts.int(), torch.zeros(edges), counts.float(), degrees, turned)
    of_dgl = dgl.create_block((starts, ends), num_src_nodes=sources, num_dst_nodes=destinations)
    of_dgl.create_formats_()
    return block, of_dgl


def peak_and_resident() -> tuple[int, int]:
    """Bytes: the largest resident size since it was reset, and the size now."""
    lines = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
    peak, now = (1024 * int(lines[name].split()[0]) for name in ("VmHWM", "VmRSS"))
    return peak, now


def above(job: Callable[[], object]) -> float | None:
    """MB by which a job's peak is above what was there; None where no system says."""
    if not _REFERENCES.exists():
        job()
        return None
    system = ctypes.CDLL(None)
    # Each large array goes back to the system as soon as it is free.
    system.mallopt(_MAP_FROM, 1 << 20)
    gc.collect()
    system.malloc_trim(0)
    _REFERENCES.write_text(_PEAK_AGAIN)
    before = peak_and_resident()[1]
    job()
    found = round((peak_and_resident()[0] - before) / 1e6, 1)
    system.mallopt(_MAP_FROM, 1 << 25)
    return found


def run(conv: nn.Module, given: Callable[[], tuple[object, ...]], inputs: list[Tensor]) -> Row:
    """One time forward and backward."""
    for one in (*inputs, *conv.parameters()):
        one.grad = None
    clocks = time.perf_counter(), time.process_time()
    out = conv(*given())
    forward = time.perf_counter()
    out.backward(torch.ones_like(out))
    ends = time.perf_counter(), time.process_time()
    return {
        "forward_ms": 1e3 * (forward - clocks[0]),
        "ms": 1e3 * (ends[0] - clocks[0]),
        "cpu_ms": 1e3 * (ends[1] - clocks[1]),
    }


def jobs_of(
    pair: tuple[nn.Module, nn.Module], blocks: tuple[Block, object], inputs: list[Tensor]
) -> dict[str, Callable[[], Row]]:
    """A run of each of the two, by whose it is."""
    return {
        "dglrec": partial(run, pair[0], lambda: (blocks[0], *inputs), inputs),
        "dgl": partial(run, pair[1], lambda: (blocks[1], tuple(inputs)), inputs),
    }


def measure(jobs: dict[str, Callable[[], Row]], repeats: int) -> dict[str, Row]:
    """Medians of both, whose runs alternate."""
    done: dict[str, list[Row]] = {by: [] for by in jobs}
    for job in jobs.values():
        job()  # so that what was freed is there
    for _ in range(repeats):
        for by, job in jobs.items():
            done[by].append(job())
    return {
        by: {key: round(median(row[key] for row in rows), 2) for key in rows[0]}
        for by, rows in done.items()
    }


def main() -> None:
    """Measure, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for option, default in (
        ("sources", 118_000),
        ("destinations", 50_000),
        ("edges", 250_000),
        ("size", 64),
        ("heads", 4),
        ("threads", 2),
        ("repeats", 11),
    ):
        parser.add_argument(f"--{option}", type=int, default=default)
    parser.add_argument("--only", nargs="+", help="these convolutions alone")
    parser.add_argument("--note", default="", help="what is to be known of the machine")
    parser.add_argument("--json", type=Path, help="where the figures go")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(arguments.threads)
    blocks = make_blocks(arguments.sources, arguments.destinations, arguments.edges)
    inputs = [
        torch.randn(count, arguments.size, requires_grad=True)
        for count in (arguments.sources, arguments.destinations)
    ]
    pairs = make_pairs(arguments.size, arguments.heads, arguments.edges)
    wanted = {
        name: jobs_of(pair, blocks, inputs)
        for name, pair in pairs.items()
        if arguments.only is None or name in arguments.only
    }
    memory: dict[tuple[str, str], float | None] = {}
    for name, jobs in wanted.items():
        for by, job in jobs.items():
            job()  # compiles
            memory[name, by] = above(job)
    keep_freed_memory()  # as training does
    rows: list[Row] = []
    for name, jobs in wanted.items():
        for by, row in measure(jobs, arguments.repeats).items():
            whose = {"convolution": name, "by": by}
            rows.append({**whose, **row, "memory_mb": memory[name, by]})
    print_table("convolutions", COLUMNS, rows)
    write_results(arguments.json, rows, note=arguments.note, threads=arguments.threads)


if __name__ == "__main__":
    main()
