"""A loader whose batches hold the whole graph, for layers that are cheap for each edge.

Each layer reads all edges except the targets, without sampling. A linear encoder propagates over
the whole graph in each step, so steps are large to make that worth it.
"""

import torch
from torch import Tensor

from dglrec.biases import Biases
from dglrec.blocks import Block, EdgeBatch, LayerBlocks
from dglrec.distributed import ALONE, World
from dglrec.graph import EdgeTensors, RatingGraph
from dglrec.kernels import kept_edges, runs_compiled
from dglrec.sampling.config import LoaderConfig
from dglrec.sampling.draws import Draw
from dglrec.sampling.folds import Split
from dglrec.sampling.tensors import offsets_of, take
from dglrec.sampling.time_folds import AnyFold
from dglrec.sampling.users import UserBatchLoader


class FullGraphLoader(UserBatchLoader):
    """Steps of whole users, as `UserBatchLoader` deals them, with the whole graph in each batch.

    Each process reads the whole graph, and predicts the targets of its share of a step's users.

    Args:
        graph: the training ratings.
        biases: fitted to them.
        config: batch size and folds; fan-outs and unseen items are not used.
        seed: with the epoch, it decides the order of the users and the folds.
        device: where graph and batches live.
        world: the processes that share each step.
        draw: draws the items that lists are learned from; None without lists.
        layers: how many the model has.
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
        *,
        layers: int = 2,
    ) -> None:
        super().__init__(graph, biases, config, seed, device, world, draw)
        self._layers = layers
        self._edges_by_item = torch.from_numpy(graph.edges_by_item).to(self.device)

    def _batch(self, users: Tensor, fold: AnyFold, number: int) -> EdgeBatch | None:
        lists = self._by_user
        starts, counts = take(lists.starts, users), take(lists.counts, users)
        bounds = self.world.cut(counts.cumsum(0))
        split = fold.split(users, starts, counts, lists.neighbours)
        if not len(split.targets):
            return None
        ratings = lists.ratings(split.targets)
        owners = take(users, split.owners)
        biases = self._biases
        if self.config.exclude_targets:
            biases = biases.without(owners, split.items, ratings)
        blocks = self._blocks(split, biases)
        own = self._own_targets(split, bounds[self.world.rank], bounds[self.world.rank + 1])
        owners, items, ratings = owners[own], split.items[own], ratings[own]
        every_user = torch.arange(len(lists.counts), device=self.device)
        every_item = torch.arange(self._num_items, device=self.device)
        return EdgeBatch(
            user_nodes=every_user,
            item_nodes=every_item,
            user_inputs=biases.user_inputs(slice(None)),
            item_inputs=biases.item_inputs(slice(None)),
            layers=(blocks,) * self._layers,
            users=owners,
            items=items,
            ratings=ratings,
            baselines=biases.predict(owners, items),
            edges=split.targets[own],
            unseen=torch.empty(0, dtype=torch.int64, device=self.device),
            every_item=True,
            pool=self._pool(items, ratings, number, fold),
        )

    def _own_targets(self, split: Split, first: int, last: int) -> slice:
        """Where the targets of this process's users are among all targets."""
        ends = torch.tensor([first, last], device=self.device)
        low, high = torch.searchsorted(split.owners, ends).tolist()
        return slice(low, high)

    def _blocks(self, split: Split, biases: Biases) -> LayerBlocks:
        """The whole graph in both directions, without the targets."""
        keep = None
        if self.config.exclude_targets:
            count = len(self._by_user.neighbours)
            keep = torch.ones(count, dtype=torch.bool, device=self.device)
            keep[split.targets] = False
        sides = biases.users, biases.items
        by_user = self._kept_edges(self._by_user, sides, biases.mean, keep)
        by_item = self._kept_edges(
            self._by_item, sides[::-1], biases.mean, keep, self._edges_by_item
        )
        # Each direction's edges are the other direction's, sorted by source.
        degrees = biases.user_degrees, biases.item_degrees
        to_users = Block(*by_user, *degrees, by_item[:2])
        to_items = Block(*by_item, *degrees[::-1], by_user[:2])
        return LayerBlocks(to_users, to_items)

    def _kept_edges(
        self,
        lists: EdgeTensors,
        sides: tuple[Tensor, Tensor],
        mean: float,
        keep: Tensor | None,
        numbers: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The kept edges of all nodes of a type; see `kept_edges`."""
        edges = lists.offsets, lists.neighbours, lists.codes, lists.levels
        if runs_compiled(lists.neighbours):
            return kept_edges(*edges, (*sides, mean), keep, numbers)
        # `kept_edges` in torch's operations.
        owners = torch.repeat_interleave(lists.counts, output_size=len(lists.neighbours))
        ends, ratings, counts = lists.neighbours, lists.ratings(slice(None)), lists.counts
        if keep is not None:
            here = keep if numbers is None else take(keep, numbers)
            counts = counts - torch.bincount(owners[~here], minlength=len(counts))
            owners, ends, ratings = owners[here], ends[here], ratings[here]
        explained = take(sides[0], owners).add_(take(sides[1], ends)) + mean
        return offsets_of(counts), ends, ratings - explained
