"""What all loaders of whole users share: the users of each step, and the keys of samples."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from dglrec.biases import Biases
from dglrec.blocks import EdgeBatch, Pool
from dglrec.distributed import ALONE, World
from dglrec.graph import RatingGraph
from dglrec.relations import Direction, DirectionTensors
from dglrec.sampling.config import LoaderConfig, seed_of
from dglrec.sampling.draws import Draw
from dglrec.sampling.tensors import take
from dglrec.sampling.time_folds import AnyFold


class UserSchedule:
    """Deals all users into steps, anew in each pass of an epoch; see `UserBatchLoader`.

    Args:
        graph: the training ratings.
        biases: fitted to them.
        config: batch size, folds, items and fan-outs.
        seed: with the epoch, it decides the order of the users, the folds and every sample.
        device: where graph and batches live.
        world: the processes that share each step.
        draw: draws the items that lists are learned from; None without lists.
        directions: of the relations that layers read in addition to the ratings.
    """

    def __init__(
        self,
        graph: RatingGraph,
        biases: Biases,
        config: LoaderConfig,
        seed: int = 0,
        device: torch.device | None = None,
        world: World = ALONE,
        draw: Draw | None = None,
        directions: Sequence[Direction] = (),
    ) -> None:
        self.config = config = config.resolved(graph.num_edges, graph.num_items)
        self.batch_size = config.edges_a_batch(graph.num_edges)
        self._folds = int(config.folds)
        self.seed = seed
        self.epoch = 0
        self.start = 0
        self.device = device or torch.device("cpu")
        self.world = world
        self._draw = draw
        self._biases = biases.copied(self.device)  # a step changes rows, and restores them
        self._by_user, self._by_item = graph.on(self.device)
        self._active = torch.from_numpy(np.flatnonzero(graph.by_user.degrees)).to(self.device)
        self._num_items = graph.num_items
        self._num_edges = graph.num_edges
        self._every_item = config.items != "reached"
        self._directions = [DirectionTensors.of(one, self.device) for one in directions]
        self._set_up(graph, directions)

    def _set_up(self, graph: RatingGraph, directions: Sequence[Direction]) -> None:
        """Prepare what a subclass needs; `__init__` calls it last."""

    def __len__(self) -> int:
        """Batches in an epoch."""
        return self._folds * self._steps_a_pass()

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Choose the epoch of the next iteration, and the batch that it starts with.

        An iteration that has started does not change.
        """
        self.epoch, self.start = epoch, start

    def __iter__(self) -> Iterator[EdgeBatch | None]:
        """The epoch's batches; None for a step without a target.

        Where processes share the items, a step is None on all of them or on none. Where each
        process encodes the items in reach, a step is None on a process without a target of it.
        """
        return self._batches(self.epoch, self.start)

    def _batches(self, epoch: int, start: int) -> Iterator[EdgeBatch | None]:
        raise NotImplementedError

    def _steps_a_pass(self) -> int:
        return self.config.steps_a_pass(self._num_edges)

    def _order(self, epoch: int, fold: int) -> tuple[Tensor, list[int]]:
        """All users of a pass in their order, where each step starts, and where the last ends.

        Steps are about equal in edges. A user with more ratings than a step fills one step; the
        steps it would have spilled into stay empty.
        """
        generator = torch.Generator().manual_seed(seed_of("order", self.seed, epoch, fold))
        shuffled = torch.randperm(len(self._active), generator=generator).to(self.device)
        order = take(self._active, shuffled)
        steps = self._steps_a_pass()
        ends = take(self._by_user.counts, order).cumsum(0)
        bounds = torch.arange(1, steps, device=self.device) * self._num_edges // steps
        cuts = torch.searchsorted(ends, bounds, right=True).tolist()
        return order, [0, *cuts, len(order)]

    def _sample_keys(self, fold: AnyFold, number: int) -> list[tuple[int, int]]:
        """Keys of a step's samples of users' and of items' edges, last layer first.

        They are the same on all processes.
        """
        place = self.seed, fold.epoch, number
        return [
            (seed_of("samples", *place, layer, 0) << 31, seed_of("samples", *place, layer, 1) << 31)
            for layer in reversed(range(len(self.config.fanouts)))
        ]

    def _relation_keys(self, fold: AnyFold, number: int) -> list[list[int]]:
        """Keys of a step's samples of each direction of relations, last layer first.

        They are the same on all processes.
        """
        place = self.seed, fold.epoch, number
        return [
            [
                seed_of("relations", *place, layer, direction) << 31
                for direction in range(len(self._directions))
            ]
            for layer in reversed(range(len(self.config.fanouts)))
        ]

    def _pool(self, items: Tensor, ratings: Tensor, number: int, fold: AnyFold) -> Pool | None:
        """The items that this process's targets are compared with; None without lists."""
        if self._draw is None:
            return None
        seed = self._pool_seed(number, fold)
        return self._draw(items, ratings, torch.Generator(self.device).manual_seed(seed))

    def _pool_seed(self, number: int, fold: AnyFold) -> int:
        """The seed of this process's pool of a step."""
        place = number * self.world.size + self.world.rank
        return seed_of("pool", self.seed, fold.epoch, place)
