"""The compiled inner loops beside what torch and numpy make of the same sums, forward and backward.

    python benchmarks/bench_kernels.py --json benchmarks/results/kernels.json

Sizes are those of a training step at full size with the default configuration. `scores` is the
edge regressor's; `sums` what the users around a step read, `damping` how much of it counts; `ridge`
fits the step's own users to half of their ratings; `segments` is half a sweep of the biases.
"""

import argparse
import functools
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from common import Row, print_table, write_results
from torch import Tensor
from torch.nn import functional

from dglrec.kernels import damp_means, fit_ridge, score_edges, segment_sums, sum_messages

TARGETS, USERS, ITEMS, RATERS, WIDTH = 262_144, 3_500, 16_872, 43_000, 64
RIDGE = 16
FANOUT = 10
EDGES = 46_000_000
COLUMNS = ("kernel", "by", "ms")


def plain_scores(
    users: Tensor,
    items: Tensor,
    hidden: tuple[Tensor, Tensor],
    w: Tensor,
    pq: tuple[Tensor, Tensor],
) -> Tensor:
    """The regressor written with torch's operations."""
    out = functional.relu(hidden[0][users] + hidden[1][items]) @ w
    return out + (pq[0][users] * pq[1][items]).sum(1)


def plain_sums(offsets: Tensor, neighbours: Tensor, sources: Tensor) -> Tensor:
    """The sum as one embedding bag."""
    return functional.embedding_bag(
        neighbours, sources, offsets, mode="sum", include_last_offset=True
    )


def plain_damping(means: Tensor, degrees: Tensor, damping: Tensor) -> Tensor:
    """Shares and product, one after the other."""
    return means * (degrees.unsqueeze(1) / (degrees.unsqueeze(1) + damping))


def plain_ridge(
    owners: Tensor,
    rated: Tensor,
    sources: Tensor,
    guess: Tensor,
    ratings: Tensor,
    damping: Tensor,
) -> Tensor:
    """Sums of outer products, and torch's own solver and gradients."""
    rows = sources[rated]
    left = ratings - (rows * guess[owners]).sum(1)
    squares = torch.diag(damping).repeat(len(guess), 1, 1)
    squares = squares.index_add(0, owners, rows.unsqueeze(2) * rows.unsqueeze(1))
    sums = torch.zeros_like(guess).index_add(0, owners, left.unsqueeze(1) * rows)
    return torch.linalg.solve(squares, sums)


def both_ways(forward: Callable[[], Tensor]) -> None:
    """Forward, and the gradient of the result's sum."""
    forward().sum().backward()


def timed(job: Callable[[], object], repeats: int) -> float:
    """Milliseconds, the median after a warm-up."""
    job()
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        job()
        taken.append(1e3 * (time.perf_counter() - started))
    return round(median(taken), 2)


def main() -> None:
    """Measure, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", type=Path, help="where the figures go")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    users, items = torch.randint(USERS, (TARGETS,)), torch.randint(ITEMS, (TARGETS,))
    tables = [torch.randn(size, WIDTH, requires_grad=True) for size in (USERS, ITEMS) * 2]
    w = torch.randn(WIDTH, requires_grad=True)
    hidden, factors = (tables[0], tables[1]), (tables[2], tables[3])
    offsets = torch.arange(RATERS + 1) * FANOUT
    rated = torch.randint(ITEMS, (RATERS * FANOUT,))
    degrees, damping = (
        torch.randint(1, 500, (RATERS,)).float(),
        torch.ones(WIDTH, requires_grad=True),
    )
    means = torch.randn(RATERS, WIDTH, requires_grad=True)
    of_users = torch.arange(USERS + 1) * (TARGETS // USERS)
    support = torch.randint(ITEMS, (int(of_users[-1]),))
    narrow = (
        torch.randn(ITEMS, RIDGE, requires_grad=True),
        torch.randn(USERS, RIDGE, requires_grad=True),
        torch.randn(len(support)),
        torch.ones(RIDGE, requires_grad=True),
    )
    owners = torch.repeat_interleave(of_users.diff())
    indices = torch.randint(ITEMS, (EDGES,)).int().numpy()
    ends = (torch.arange(310_001) * EDGES // 310_000).numpy()
    values = torch.randn(ITEMS).double().numpy()

    def both(forward: Callable[..., Tensor], *inputs: object) -> Callable[[], object]:
        return functools.partial(both_ways, functools.partial(forward, *inputs))

    jobs: list[tuple[str, str, Callable[[], object]]] = [
        ("scores", "torch", both(plain_scores, users, items, hidden, w, factors)),
        ("scores", "dglrec", both(score_edges, users, items, hidden, w, factors)),
        ("sums", "torch", both(plain_sums, offsets, rated, tables[1])),
        ("sums", "dglrec", both(sum_messages, offsets, rated, tables[1])),
        ("damping", "torch", both(plain_damping, means, degrees, damping)),
        ("damping", "dglrec", both(damp_means, means, degrees, damping)),
        ("ridge", "torch", both(plain_ridge, owners, support, *narrow)),
        ("ridge", "dglrec", both(fit_ridge, of_users, support, *narrow)),
        ("segments", "numpy", lambda: np.add.reduceat(values[indices], ends[:-1])),
        ("segments", "dglrec", functools.partial(segment_sums, ends, values, indices)),
    ]
    rows: list[Row] = [
        {"kernel": name, "by": by, "ms": timed(job, arguments.repeats)} for name, by, job in jobs
    ]
    print_table("kernels", COLUMNS, rows)
    write_results(arguments.json, rows)


if __name__ == "__main__":
    main()
