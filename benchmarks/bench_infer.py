"""Exact embeddings of all nodes over all training edges: time, edges a second, peak memory.

    python benchmarks/bench_infer.py --data DATASET --json benchmarks/results/infer.json

The model is untrained, of the default configuration: weights do not change the work. An edge counts
once for each layer and direction in `edges_read`, and once in `edges`.
"""

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

from common import (
    Row,
    child_main,
    make_dataset,
    make_subset,
    open_workload,
    print_table,
    run_child,
    write_results,
    write_subset,
)

COLUMNS = (
    "scale",
    "nodes",
    "edges",
    "seconds",
    "edges_per_second",
    "ns_per_edge",
    "peak_memory_gb",
)


def measure(dataset: str, folder: str | None, repeats: int) -> Row:
    """In a child: embed all nodes some times over."""
    import torch

    from dglrec.infer import embed_all
    from dglrec.nn import ModelConfig, RatingModel

    workload = open_workload(dataset, folder)
    graph = workload.graph
    torch.manual_seed(0)
    config = ModelConfig.model_validate({})
    model = RatingModel(config, graph.num_users, workload.item_features)
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        embed_all(model, graph, workload.biases)
        taken.append(time.perf_counter() - started)
    seconds = median(taken)
    return {
        "seconds": round(seconds, 3),
        # The first run reads the graph from disk where it is not in memory yet, and compiles.
        "first_seconds": round(taken[0], 3),
        "edges_per_second": round(graph.num_edges / seconds),
        "ns_per_edge": round(1e9 * seconds / graph.num_edges, 2),
        "edges_read": 2 * config.layers * graph.num_edges,
    }


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="a prepared data set; default: one is generated")
    parser.add_argument("--scale", type=float, nargs="+", default=[0.01, 0.1, 1.0])
    parser.add_argument("--repeats", type=int, default=3, help="runs of each; the median counts")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of users")
    parser.add_argument("--json", type=Path, help="where the figures go")
    arguments = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as temporary:
        dataset = arguments.data or make_dataset(Path(temporary))
        for scale in arguments.scale:
            folder, sizes = make_subset(__file__, dataset, scale, arguments.seed, Path(temporary))
            job = {"do": "measure", "dataset": str(dataset), "folder": folder}
            figures = run_child(__file__, {**job, "repeats": arguments.repeats})
            nodes = sizes["users"] + sizes["items"]
            rows.append({"scale": scale, **sizes, "nodes": nodes, **figures})
    print_table("exact embeddings of all nodes", COLUMNS, rows)
    write_results(arguments.json, rows)


if __name__ == "__main__" and not child_main({"subset": write_subset, "measure": measure}):
    main()
