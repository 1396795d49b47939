"""Descriptions of a training, for the log and for the run's folder."""

import json
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dglrec import __version__
from dglrec.dataset import RatingDataset
from dglrec.distributed import ALONE, World
from dglrec.files import read_json, write_json
from dglrec.machine import peak_memory
from dglrec.progress import counted
from dglrec.run import ENVIRONMENT_FILE, metrics_lines
from dglrec.train.config import Settings


def describe_training(
    dataset: RatingDataset, settings: Settings, device: torch.device, world: World = ALONE
) -> str:
    """A line on the training rows, and the resolved settings.

    Args:
        dataset: whose graph has the training rows.
        settings: the resolved settings.
        device: the device of the model.
        world: the processes that train together.
    """
    loader, graph = settings.loader, dataset.graph
    what = "ratings" if dataset.has_ratings else "interactions"
    where = str(device) if device.type == "cuda" else counted(torch.get_num_threads(), "CPU thread")
    if world.size > 1:
        where = f"{world.size} processes, {'a GPU' if device.type == 'cuda' else where} each"
    samples = ", ".join(
        f"{name} {'/'.join('all' if fanout < 0 else str(fanout) for fanout in fanouts)}"
        for name, fanouts in zip(
            ("users", "items"), zip(*loader.fanouts, strict=True), strict=False
        )
    )
    parts = [f"loader {loader.kind}", f"batch {loader.batch_size:,}"]
    if loader.kind != "neighbor":
        parts.append(f"{loader.folds} folds")
    if loader.kind == "cluster":
        clusters, steps = int(loader.clusters), loader.steps_a_pass(graph.num_edges)
        parts.append(f"{clusters:,} clusters, about {clusters / steps:.3g} a step")
    if loader.kind == "saint":
        walks = f"walks of {loader.walk_length} hops"
        parts.append(f"subgraphs of {walks if loader.draws == 'walk' else f'{loader.draws}s'}")
    if loader.kind == "layerwise":
        users, items = loader.layer_sizes
        by = {"ladies": "LADIES", "fastgcn": "FastGCN"}[loader.importance]
        parts.append(f"{users:,} users and {items:,} items drawn for each layer, by {by}")
    if samples and loader.kind in ("users", "neighbor"):
        parts.append(f"fan-outs of {samples}")
    if loader.kind == "users":
        parts.append("items in reach" if loader.items == "reached" else "all items in each step")
    if settings.model.relations:
        most = "all" if loader.relation_fanout < 0 else f"{loader.relation_fanout}"
        parts.append(f"relations {' and '.join(settings.model.relations)}, {most} neighbours each")
    parts.append(f"learning rate {settings.train.learning_rate:.4g}")
    parts.append(f"dropout {settings.model.dropout:g}")
    return (
        f"{graph.num_edges:,} {what} by {graph.num_users:,} users of {graph.num_items:,} items, "
        f"on {where}: {', '.join(parts)}"
    )


def write_environment(
    run: Path, device: torch.device, world: World, origin: dict[str, Any] | None, *, begins: bool
) -> None:
    """Write versions and machine, and notes on another run's weights, into a run's folder.

    Args:
        run: the run's folder.
        device: the device of the model.
        world: the processes that train together.
        origin: notes on the run whose weights this run begins with; see `beginning.begin`.
        begins: whether the training is new; a resumed training keeps the notes that are there.
    """
    path = run / ENVIRONMENT_FILE
    if not begins and path.is_file():
        origin = read_json(path).get("from")
    said = {} if origin is None else {"from": origin}
    write_json(path, {**describe_environment(device, world), **said})


def peak_memory_of(device: torch.device, world: World = ALONE) -> dict[str, int]:
    """The largest peak memory of a process so far, over all processes; all must call this.

    Args:
        device: the device of this process.
        world: the processes that train together.

    Returns:
        `peak_memory_bytes`, of resident memory, and on a GPU `peak_gpu_memory_bytes`, of tensors.
    """
    peaks = {"peak_memory_bytes": peak_memory()}
    if device.type == "cuda":
        peaks["peak_gpu_memory_bytes"] = torch.cuda.max_memory_allocated(device)
    # Each process fills its places of the sum, and the others add 0 to these.
    of_all = [0.0] * (len(peaks) * world.size)
    of_all[world.rank :: world.size] = [float(peak) for peak in peaks.values()]
    found = world.sum(of_all)
    return {
        name: round(max(found[place * world.size : (place + 1) * world.size]))
        for place, name in enumerate(peaks)
    }


def peak_of_run(run: Path, epochs: int, last: dict[str, int], world: World) -> dict[str, int]:
    """The peak memory of a training, earlier attempts included; all processes must call this.

    Args:
        run: the run's folder, which the first process reads.
        epochs: the number of epochs. The line of each epoch in `metrics.jsonl` holds the peak of
            the processes that trained it; lines of earlier versions hold none.
        last: the peak of the current processes.
        world: the processes that train together.
    """

    def highest() -> bytes:
        lines = [json.loads(line) for line in metrics_lines(run, epochs).splitlines()]
        return json.dumps(
            {
                name: max(peak, *(line.get(name, 0) for line in lines)) if lines else peak
                for name, peak in last.items()
            }
        ).encode()

    found: dict[str, int] = json.loads(world.from_first(highest))
    return found


def describe_environment(device: torch.device, world: World = ALONE) -> dict[str, Any]:
    """Versions and machine, which a run's figures depend on."""
    return {
        "dglrec": __version__,
        "dgl": _installed("dgl"),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "threads": torch.get_num_threads(),
        "processes": world.size,
    }


def _installed(package: str) -> str | None:
    """A package's version, without importing it; None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
