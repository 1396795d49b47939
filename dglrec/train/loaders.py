"""The loaders by name, and what the training loop asks of one."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from dglrec.biases import Biases
from dglrec.blocks import EdgeBatch
from dglrec.distributed import ALONE, World
from dglrec.errors import UsageError
from dglrec.graph import RatingGraph, import_dgl
from dglrec.kernels import compiles_for
from dglrec.progress import log
from dglrec.relations import Direction
from dglrec.sampling import (
    ClusterLoader,
    Draw,
    FullGraphLoader,
    LayerwiseLoader,
    LoaderConfig,
    NeighborEdgeLoader,
    PackedBatchLoader,
    SaintLoader,
    UserBatchLoader,
    why_unpacked,
)


class Loader(Protocol):
    """What the training loop asks of a loader."""

    def __len__(self) -> int:
        """Batches in an epoch, the same on all processes."""

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Choose the epoch that the next iteration is, and the batch that it begins with."""

    def __iter__(self) -> Iterator[EdgeBatch | None]:
        """Iterate over the epoch's batches; None where one holds no target for this process."""


def check_loader(config: LoaderConfig) -> None:
    """Find out whether a loader can be made here before anything is written or replaced.

    Raises:
        UnusableEnvironmentError: it is DGL's, and DGL is not installed or does not load.
    """
    if config.kind in ("neighbor", "cluster"):
        import_dgl()


def make_loader(
    graph: RatingGraph,
    biases: Biases,
    config: LoaderConfig,
    seed: int,
    device: torch.device,
    world: World = ALONE,
    draw: Draw | None = None,
    *,
    directions: Sequence[Direction] = (),
    layers: int = 2,
    by_rows: bool = False,
    compile: bool = False,
    ages: bool = False,
    clusters: Tensor | None = None,
) -> Loader:
    """The loader that a configuration names; on a device that has no compiled loops it says which.

    Args:
        graph: the training ratings.
        biases: fitted to them.
        config: the loader's.
        seed: of order and samples.
        device: where batches are wanted.
        world: the processes that share each batch.
        draw: draws the items that lists are learned from; the loaders of kind users and full take
            it, and `Settings.resolved` refuses lists of the others.
        directions: of the relations that the model reads; the loader of kind users takes them, and
            `Settings.resolved` refuses them of the others.
        layers: of the model; the loaders of kind users and neighbor have a fan-out for each.
        by_rows: whether vectors of users are updated by rows, so that a batch may name each once.
        compile: whether `torch.compile` is wanted, which takes batches of fixed shapes.
        ages: whether the model asks for the ages of ratings; the loader of kind users gives them.
        clusters: int32 [U + I], for the loader of kind cluster.

    Raises:
        UnusableEnvironmentError: as `check_loader`.
        UsageError: shapes cannot be fixed here, and `compile` wants them to be; or folds in time do
            not go with a relation.
    """
    if config.kind == "users":
        config = config.resolved(graph.num_edges, graph.num_items, layers)
    why = _why_not_fixed(config, device, directions, by_rows=by_rows, ages=ages)
    if compile and (why or world.size > 1):
        raise UsageError(
            "train.compile = true takes one process, and batches of fixed shapes: "
            f"{why or f'there are {world.size} processes'}; leave it out"
        )
    if not compiles_for(device) and world.is_first:
        log(
            f"batches on {device}: shapes follow from values, so each step waits for the device "
            f"({why})"
            if why
            else f"batches on {device}: of fixed shapes, made without waiting for the device"
        )
    if not why:
        return PackedBatchLoader(
            graph, biases, config, seed, device, world, draw, directions, compile=compile
        )
    if config.kind == "full":
        return FullGraphLoader(graph, biases, config, seed, device, world, draw, layers=layers)
    if config.kind == "cluster":
        if clusters is None:
            raise ValueError("the loader of kind cluster needs clusters; see `derive_for`")
        arguments = graph, biases, config, clusters, seed, device, world
        return ClusterLoader(*arguments, layers=layers)
    if config.kind == "saint":
        return SaintLoader(graph, biases, config, seed, device, world, layers=layers)
    if config.kind == "layerwise":
        return LayerwiseLoader(graph, biases, config, seed, device, world, layers=layers)
    if config.kind == "neighbor":
        return NeighborEdgeLoader(graph, biases, config, seed, world)
    return UserBatchLoader(graph, biases, config, seed, device, world, draw, directions, ages=ages)


def _why_not_fixed(
    config: LoaderConfig,
    device: torch.device,
    directions: Sequence[Direction],
    *,
    by_rows: bool,
    ages: bool,
) -> str:
    """Why batches are not of fixed shapes; empty where they are. Arguments as of `make_loader`."""
    if compiles_for(device):
        return f"batches are made on {device}, by compiled loops"
    if why := why_unpacked(config, directions):
        return why
    if by_rows:
        return "model.user_identity updates rows, and such a batch may name a user twice"
    if ages:
        return "model.time_decay or time_trend reads the ages of edges"
    return ""
