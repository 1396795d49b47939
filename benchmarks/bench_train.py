"""Training throughput against subset size: dglrec beside stock DGL and PyG.

    python benchmarks/bench_train.py --data DATASET --scale 0.01 0.1 1.0 --against dgl pyg \
        --json benchmarks/results/train.json

A subset is all training ratings of a random share of the users, over all items. Each row of the
results is one loop on one subset with one batch size, measured in a fresh process: warmed up, then
run for some seconds with sampling, forward, loss, backward and optimiser step inside the clock.
`best` marks the batch size with the most target edges a second of each loop and subset.
"""

import argparse
import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import (
    ChildError,
    Loop,
    PartClock,
    Row,
    Workload,
    child_main,
    make_dataset,
    make_subset,
    measure_loop,
    open_workload,
    print_table,
    run_child,
    say,
    training_of,
    write_results,
    write_subset,
)

if TYPE_CHECKING:
    from dglrec.train import Settings

# Up to 22 steps an epoch at full size. A batch of more than all edges is left out.
BATCHES = {
    "dglrec": (32_768, 262_144, 524_288, 2_097_152),
    "dgl": (1_024, 32_768, 131_072, 262_144, 524_288, 2_097_152),
    "pyg": (1_024, 32_768, 131_072, 262_144, 524_288, 2_097_152),
}
MODELS = {"dglrec": ("plain", "ratings", "default"), "dgl": ("plain",), "pyg": ("plain",)}
LOOPS = tuple(BATCHES)

# Each at its best. The peers leave many short parallel regions to OpenMP, between which spinning
# threads save the time of waking up: 5 to 33 % on two idle cores. dglrec runs as it is installed.
ENVIRONMENT = {
    "dglrec": {"OMP_WAIT_POLICY": "passive"},
    "dgl": {"OMP_WAIT_POLICY": "active"},
    "pyg": {"OMP_WAIT_POLICY": "active"},
}

COLUMNS = (
    "loop",
    "model",
    "scale",
    "edges",
    "batch",
    "edges_per_second",
    "ns_per_edge",
    "step_ms",
    "peak_memory_gb",
    "best",
)


def loop_settings(
    model: str, batch: int, precision: str = "float32", *, compile: bool = False
) -> "Settings":
    """What the package's own loop is trained with.

    Args:
        model: `plain` for what the peers compute (64 wide, two layers, fan-outs 10 and 5, bare
            messages, an MLP); `default` for the package's default configuration, which learns
            ratings and lists; `ratings` for the same with the rating head alone.
        batch: target edges a step, about.
        precision: `float32` or `bfloat16`.
        compile: `train.compile`.
    """
    from dglrec.nn import ModelConfig
    from dglrec.sampling import LoaderConfig
    from dglrec.train import Settings, TrainConfig

    fitting: dict[str, Any] = {"precision": precision, "compile": compile}
    if model in ("default", "ratings"):
        heads = ModelConfig() if model == "default" else ModelConfig(heads="rating")
        return Settings(heads, LoaderConfig(batch_size=batch), TrainConfig(**fitting))
    return Settings(
        ModelConfig(
            heads="rating",
            rating_messages=False,
            refinement=0,
            spread=False,
            identity_damping=0.0,
            item_features=False,
            interaction=False,
            dropout=0.0,
        ),
        LoaderConfig(
            batch_size=batch,
            folds=2,
            user_fanouts=(10, 5),
            item_fanouts=(10, 5),
            unseen_items=0.0,
        ),
        TrainConfig(optimizer="adam", learning_rate=1e-3, schedule="constant", **fitting),
    )


def measure_dglrec(
    workload: Workload,
    batch: int,
    model: str,
    clock: PartClock,
    device: str,
    *,
    precision: str = "float32",
    compile: bool = False,
) -> Loop:
    """The package's own loader, model and training step.

    Args:
        workload: what to train on; `plain` uses none of its item features.
        batch: target edges a step, about.
        model: as `loop_settings` takes it.
        clock: takes the time of the parts of a step; a step ends with a figure read from its
            device, so nothing is left to run on a GPU.
        device: where graph, batches and model live.
        precision: as `loop_settings` takes it.
        compile: likewise.
    """
    import torch

    settings = loop_settings(model, batch, precision, compile=compile)
    loader, step = training_of(workload, settings, torch.device(device))
    return DglrecLoop(loader, step, clock)


class DglrecLoop:
    """Epochs of the package's loader and training step."""

    def __init__(self, loader: Any, step: Any, clock: PartClock) -> None:
        self.loader, self.step, self.clock = loader, step, clock
        self.epoch = 0

    def steps(self) -> Iterator[int]:
        self.loader.set_epoch(self.epoch)
        self.epoch += 1
        for batch in self.clock.batches(self.loader):
            with self.clock.part("step"):
                float(self.step(batch).costs.squared)
            count = batch.num_targets  # what a fixed shape has room for besides is no target
            del batch
            yield count


def measure_dgl(workload: Any, batch: int, model: str, clock: PartClock, device: str) -> Loop:
    from peers.dgl_loop import DGLLoop

    del model, device  # there is one
    return DGLLoop(workload, batch, clock)


def measure_pyg(workload: Any, batch: int, model: str, clock: PartClock, device: str) -> Loop:
    from peers.pyg_loop import PyGLoop

    del model, device  # there is one
    return PyGLoop(workload, batch, clock)


MAKERS: dict[str, Callable[[Any, int, str, PartClock, str], Loop]] = {
    "dglrec": measure_dglrec,
    "dgl": measure_dgl,
    "pyg": measure_pyg,
}


def measure(
    loop: str,
    model: str,
    dataset: str,
    folder: str | None,
    batch: int,
    seconds: float,
    device: str,
) -> Row:
    """In a child: build one loop and measure it."""
    import torch

    clock = PartClock()
    made = MAKERS[loop](open_workload(dataset, folder), batch, model, clock, device)
    figures = measure_loop(made, seconds, clock)
    if device != "cpu":
        figures["gpu_memory_gb"] = round(torch.cuda.max_memory_allocated(device) / 1e9, 3)
    return {
        **figures,
        "threads": torch.get_num_threads(),
        "omp_wait_policy": os.environ["OMP_WAIT_POLICY"],
    }


def unusable(loop: str) -> str | None:
    """Why a loop cannot be measured here, or None."""
    if loop != "pyg":
        return None
    if importlib.util.find_spec("torch_geometric") is None:
        return "torch_geometric is not installed"
    if not any(importlib.util.find_spec(name) for name in ("pyg_lib", "torch_sparse")):
        return "PyG samples with pyg-lib or torch-sparse, and neither is installed"
    return None


def sweep(dataset: Path, arguments: argparse.Namespace, loops: list[str]) -> Iterator[Row]:
    """All rows, as they are measured."""
    for scale in arguments.scale:
        with tempfile.TemporaryDirectory() as temporary:
            folder, sizes = make_subset(__file__, dataset, scale, arguments.seed, Path(temporary))
            for loop, model in [(name, model) for name in loops for model in MODELS[name]]:
                for batch in arguments.batch or BATCHES[loop]:
                    row = {"loop": loop, "model": model, "scale": scale, **sizes, "batch": batch}
                    if batch > sizes["edges"]:
                        say(f"{loop} at {scale:g}: {batch:,} is more than all edges, left out")
                        continue
                    if loop == "dglrec":
                        row["device"] = arguments.device
                    yield {**row, **one(dataset, folder, row, arguments.seconds)}


def one(dataset: Path, folder: str | None, row: Row, seconds: float) -> Row:
    """One row's figures; where its process failed (for want of memory, say), that it did."""
    name = f"{row['loop']} ({row['model']}) at {row['scale']:g}, batch {row['batch']:,}"
    job = {key: row[key] for key in ("loop", "model", "batch")}
    job |= {"do": "measure", "dataset": str(dataset), "folder": folder, "seconds": seconds}
    job |= {"device": row.get("device", "cpu")}
    try:
        figures = run_child(__file__, job, environment=ENVIRONMENT[row["loop"]])
    except ChildError as error:
        say(f"{name}: {error}")
        return {"error": str(error)}
    say(f"{name}: {figures['edges_per_second']:,} edges/s, {figures['peak_memory_gb']:.2f} GB")
    return figures


def mark_best(rows: list[Row]) -> None:
    """Mark each loop's, model's and subset's row with the most edges a second."""
    best: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        row["best"] = False
        key = (row["loop"], row["model"], row["scale"])
        if "error" not in row and (
            key not in best or row["edges_per_second"] > best[key]["edges_per_second"]
        ):
            best[key] = row
    for row in best.values():
        row["best"] = True


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="a prepared data set; default: one is generated")
    parser.add_argument("--scale", type=float, nargs="+", default=[0.01, 0.1, 1.0])
    parser.add_argument("--against", nargs="*", default=["dgl", "pyg"], choices=LOOPS[1:])
    parser.add_argument("--without-dglrec", action="store_true", help="measure the peers alone")
    parser.add_argument("--batch", type=int, nargs="+", help="these batch sizes for all loops")
    parser.add_argument("--device", default="cpu", help="of dglrec; the peers' DGL knows no GPU")
    parser.add_argument("--seconds", type=float, default=20.0, help="measured, for each row")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of users")
    parser.add_argument("--json", type=Path, help="where the figures go")
    arguments = parser.parse_args()
    loops = []
    for loop in (*(() if arguments.without_dglrec else LOOPS[:1]), *arguments.against):
        if reason := unusable(loop):
            say(f"{loop} is left out: {reason}")
        else:
            loops.append(loop)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as temporary:
        dataset = arguments.data or make_dataset(Path(temporary))
        try:
            for row in sweep(dataset, arguments, loops):
                rows.append(row)
        finally:
            # An interrupted sweep keeps what it has.
            mark_best(rows)
            print_table("training", COLUMNS, rows)
            write_results(arguments.json, rows)
    if any("error" in row for row in rows):
        sys.exit(1)


if __name__ == "__main__" and not child_main({"subset": write_subset, "measure": measure}):
    main()
