"""The loaders by name, and what the training loop asks of one."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch

from dglrec.biases import Biases
from dglrec.blocks import EdgeBatch
from dglrec.distributed import ALONE, World
from dglrec.errors import UsageError
from dglrec.graph import RatingGraph, import_dgl
from dglrec.relations import Direction
from dglrec.sampling import (
    Draw,
    FullGraphLoader,
    LoaderConfig,
    NeighborEdgeLoader,
    PackedBatchLoader,
    UserBatchLoader,
    can_pack,
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
    if config.kind == "neighbor":
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
    compile: bool = False,
    ages: bool = False,
) -> Loader:
    """The loader that a configuration names.

    Args:
        graph: the training ratings.
        biases: fitted to them.
        config: the loader's.
        seed: of order and samples.
        device: where batches are wanted.
        world: the processes that share each batch.
        draw: draws the items that lists are learned from; DGL's loader has no use for it.
        directions: of the relations that the model reads; the loader of kind users takes them, and
            `Settings.resolved` refuses them of the others.
        layers: of the model; the other loaders have a fan-out for each.
        compile: whether `torch.compile` is wanted, which takes batches of fixed shapes.
        ages: whether the model asks for the ages of ratings; the loader of kind users gives them.

    Raises:
        UnusableEnvironmentError: as `check_loader`.
        UsageError: shapes cannot be fixed here, and `compile` wants them to be; or folds in time do
            not go with a relation.
    """
    if config.kind == "users":
        config = config.resolved(graph.num_edges, graph.num_items, layers)
        alone = device.type != "cpu" and world.size == 1
        if alone and draw is None and not directions and not ages and can_pack(config):
            return PackedBatchLoader(graph, biases, config, seed, device, compile=compile)
    if compile:
        raise UsageError(
            "train.compile = true takes batches of fixed shapes: a GPU that holds the graph, one "
            "process, no model.relations, loader.kind users with items all, ranking.negatives "
            "catalogue (or no lists), and fan-outs that are numbers (the last layer's of users may "
            "be all); see loader.user_fanouts and loader.item_fanouts"
        )
    if config.kind == "full":
        return FullGraphLoader(graph, biases, config, seed, device, world, draw, layers=layers)
    if config.kind == "neighbor":
        return NeighborEdgeLoader(graph, biases, config, seed, world)
    return UserBatchLoader(graph, biases, config, seed, device, world, draw, directions, ages=ages)
