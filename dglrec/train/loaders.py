"""The loaders by name, and their interface to the training loop."""

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
    """The interface of a loader to the training loop."""

    def __len__(self) -> int:
        """Batches in an epoch, the same on all processes."""

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Set the epoch of the next iteration, and the batch that it begins with."""

    def __iter__(self) -> Iterator[EdgeBatch | None]:
        """Iterate over the epoch's batches; None for a batch without targets for this process."""


def check_loader(config: LoaderConfig) -> None:
    """Check that a loader can be made here, before anything is written or replaced.

    Raises:
        UnusableEnvironmentError: the loader needs DGL, which is not installed or does not load.
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
    """The loader that a configuration names; on a device without compiled loops it logs which.

    Args:
        graph: the training ratings.
        biases: fitted to these ratings.
        config: the loader's configuration.
        seed: the seed of order and samples.
        device: the device of the batches.
        world: the processes that share each batch.
        draw: draws the items that lists are learned from; for the loaders of kind users and full
            only, as `Settings.resolved` refuses lists with the others.
        directions: of the relations that the model reads; for the loader of kind users only, as
            `Settings.resolved` refuses relations with the others.
        layers: the number of layers of the model; kinds users and neighbor have a fan-out for each.
        by_rows: whether vectors of users are updated by rows, so that a batch may name each user
            only once.
        compile: whether the step is compiled by `torch.compile`, which needs fixed shapes.
        ages: whether the model reads the ages of ratings; the loader of kind users provides them.
        clusters: int32 [U + I], for the loader of kind cluster.

    Raises:
        UnusableEnvironmentError: see `check_loader`.
        UsageError: `compile` needs fixed shapes, which are not possible here; or folds in time do
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
    """Why batches do not have fixed shapes; empty if they do. Arguments are as in `make_loader`."""
    if compiles_for(device):
        return f"batches are made on {device}, by compiled loops"
    if why := why_unpacked(config, directions):
        return why
    if by_rows:
        return "model.user_identity updates rows, and such a batch may name a user twice"
    if ages:
        return "model.time_decay or time_trend reads the ages of edges"
    return ""
