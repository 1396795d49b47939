"""Throughput and memory of every preset that ships, on one data set.

    python benchmarks/bench_presets.py --data DATASET --json benchmarks/results/presets.json

Each preset, and the default, is measured in a fresh process: warmed up, then some seconds of
training steps with sampling, forward, loss, backward and optimiser step inside the clock.
`epoch_seconds` is all training edges over that rate. What is made before the first step (graphs
made from training ratings, such as the walks of `pinsage`) is in `made_seconds`; spectral vectors
and validation are not measured. `footprint_gb` is what training says beforehand that it takes; a
preset that would take more than `--most-gb` is not run, and its row says so. Closed-form models
have no steps, and are left out.
"""

import argparse
import sys
import time
from pathlib import Path

from bench_train import ENVIRONMENT, DglrecLoop
from common import (
    ChildError,
    PartClock,
    Row,
    Workload,
    child_main,
    measure_loop,
    print_table,
    run_child,
    say,
    training_of,
    write_results,
)

DEFAULT = "default"
COLUMNS = (
    "preset",
    "edges_per_second",
    "epoch_seconds",
    "step_ms",
    "edges_per_step",
    "made_seconds",
    "footprint_gb",
    "peak_memory_gb",
    "error",
)


def measure(preset: str, dataset: str, seconds: float, most_gb: float) -> Row:
    """In a child: one preset's steps."""
    import torch

    from dglrec.config import load_settings
    from dglrec.dataset import RatingDataset
    from dglrec.distributed import ALONE
    from dglrec.errors import DglrecError
    from dglrec.run import read_directions, read_operator, sketched_model
    from dglrec.train.derived import derive_for
    from dglrec.train.memory import footprint

    settings = load_settings(file=None if preset == DEFAULT else Path(preset))
    opened = RatingDataset.open(Path(dataset))
    try:
        resolved = settings.resolved_for(opened)
    except DglrecError as error:
        return {"error": str(error)}
    started = time.perf_counter()
    opened = derive_for(opened, Path(), resolved, ALONE, resume=False)
    row: Row = {"made_seconds": round(time.perf_counter() - started, 2)}
    directions = read_directions(resolved.model, opened)
    model = sketched_model(resolved.model, opened)
    needs = footprint(opened.graph, model, resolved, directions=directions)
    graph = 0 if needs.graph_is_mapped else needs.graph
    row["footprint_gb"] = round((graph + needs.model + needs.step) / 1e9, 3)
    if row["footprint_gb"] > most_gb:
        return {**row, "error": f"takes more than {most_gb:g} GB"}
    workload = Workload(
        opened.graph,
        opened.biases,
        opened.item_features,
        opened.has_ratings,
        directions,
        read_operator(resolved.model, opened),
    )
    clock = PartClock()
    loop = DglrecLoop(*training_of(workload, settings, torch.device("cpu")), clock)
    row |= measure_loop(loop, seconds, clock)
    row["epoch_seconds"] = round(opened.graph.num_edges / row["edges_per_second"], 3)
    return row


def main() -> None:
    """Parse, measure, write."""
    from dglrec.config import load_settings, shipped_names

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="a prepared data set")
    parser.add_argument("--preset", nargs="+", help="these alone")
    parser.add_argument("--seconds", type=float, default=30.0, help="measured, for each preset")
    parser.add_argument("--most-gb", type=float, default=8.0, help="no preset that takes more")
    parser.add_argument("--json", type=Path, help="where the figures go")
    options = parser.parse_args()
    graphs = [
        name for name in shipped_names() if load_settings(file=Path(name)).model.kind == "graph"
    ]
    rows: list[Row] = []
    for preset in options.preset or [DEFAULT, *graphs]:
        job = {"do": "measure", "preset": preset, "dataset": str(options.data)}
        job |= {"seconds": options.seconds, "most_gb": options.most_gb}
        try:
            row = {"preset": preset, **run_child(__file__, job, environment=ENVIRONMENT["dglrec"])}
        except ChildError as error:
            row = {"preset": preset, "error": str(error)}
        rows.append(row)
        rate = row.get("edges_per_second")
        say(f"{preset}: {row['error'] if rate is None else f'{rate:,} edges/s'}")
    print_table("presets", COLUMNS, [{"error": "", **row} for row in rows])
    write_results(options.json, rows)
    if any("peak_memory_gb" not in row for row in rows):
        sys.exit(1)


if __name__ == "__main__" and not child_main({"measure": measure}):
    main()
