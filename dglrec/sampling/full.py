"""A loader whose batches hold the whole graph: for layers that cost little an edge.

Each layer reads all edges but the targets, so nothing is sampled; a linear encoder propagates over
the whole graph once a step, and a step is large to make that worth it.
"""

import torch
from torch import Tensor

from dglrec.biases import Biases
from dglrec.blocks import Block, EdgeBatch, LayerBlocks
from dglrec.distributed import ALONE, World
from dglrec.graph import RatingGraph
from dglrec.kernels import ragged
from dglrec.sampling.config import LoaderConfig
from dglrec.sampling.draws import Draw
from dglrec.sampling.folds import Split
from dglrec.sampling.tensors import offsets_of, take
from dglrec.sampling.time_folds import AnyFold
from dglrec.sampling.users import UserBatchLoader


class FullGraphLoader(UserBatchLoader):
    """Steps of whole users, as `UserBatchLoader` deals them, with the whole graph in each batch.

    All processes read the whole graph, and predict the targets of their share of a step's users.

    Args:
        graph: the training ratings.
        biases: fitted to them.
        config: batch size and folds; there are no fan-outs, and no item counts as unseen.
        seed: with the epoch it decides the order of the users and the folds.
        device: where graph and batches live.
        world: the processes that share each step.
        draw: draws the items that lists are learned from; None where none are wanted.
        layers: of the model.
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
        users = torch.arange(graph.num_users, dtype=torch.int32, device=self.device)
        self._users_of_edges = torch.repeat_interleave(
            users, self._by_user.counts, output_size=graph.num_edges
        )

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
        own = self._own(split, bounds[self.world.rank], bounds[self.world.rank + 1])
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

    def _own(self, split: Split, first: int, last: int) -> slice:
        """Which targets are of this process's users."""
        ends = torch.tensor([first, last], device=self.device)
        low, high = torch.searchsorted(split.owners, ends).tolist()
        return slice(low, high)

    def _blocks(self, split: Split, biases: Biases) -> LayerBlocks:
        """The whole graph in both directions, without the targets."""
        users, items = self._users_of_edges, self._by_user.neighbours
        owners_by_item = self._by_item.neighbours
        of_items = torch.repeat_interleave(
            self._by_item.counts, output_size=len(owners_by_item)
        ).int()
        ratings, ratings_by_item = self._all_ratings
        user_counts, item_counts = self._by_user.counts, self._by_item.counts
        if self.config.exclude_targets:
            keep = torch.ones(len(users), dtype=torch.bool, device=self.device)
            keep[split.targets] = False
            keep_by_item = take(keep, self._edges_by_item)
            lost_users = take(users, split.targets).long()
            user_counts = user_counts - torch.bincount(lost_users, minlength=len(user_counts))
            lost_items = split.items.long()
            item_counts = item_counts - torch.bincount(lost_items, minlength=len(item_counts))
            users, items, ratings = users[keep], items[keep], ratings[keep]
            owners_by_item = owners_by_item[keep_by_item]
            of_items = of_items[keep_by_item]
            ratings_by_item = ratings_by_item[keep_by_item]
        # Each direction's edges are the other's, turned.
        by_user = offsets_of(user_counts), items
        by_item = offsets_of(item_counts), owners_by_item
        to_users = Block(
            *by_user,
            ratings - biases.predict(users, items),
            biases.user_degrees,
            biases.item_degrees,
            by_item,
        )
        to_items = Block(
            *by_item,
            ratings_by_item - biases.predict(owners_by_item, of_items),
            biases.item_degrees,
            biases.user_degrees,
            by_user,
        )
        return LayerBlocks(to_users, to_items)

    @property
    def _all_ratings(self) -> tuple[Tensor, Tensor]:
        """The ratings of all edges, in the order of users and in that of items."""
        every = ragged(self._by_user.starts, self._by_user.counts)
        ratings = self._by_user.ratings(every)
        return ratings, take(ratings, self._edges_by_item)
