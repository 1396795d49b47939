"""Cluster-GCN: a step reads the ratings within and between a few clusters of users and items.

Chiang et al., "Cluster-GCN: an efficient algorithm for training deep and large graph convolutional
networks", KDD 2019, algorithm 1 and section 3.2, over the bipartite graph of the training ratings.
"""

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from dglrec.biases import Biases
from dglrec.distributed import ALONE, World
from dglrec.graph import RatingGraph
from dglrec.sampling.config import LoaderConfig, seed_of
from dglrec.sampling.subgraphs import Edges, Shares, Subgraph, SubgraphLoader
from dglrec.sampling.tensors import offsets_of, take


class ClusterLoader(SubgraphLoader):
    """Steps of several clusters, which each pass of an epoch groups anew at random.

    A rating within a cluster is in one step of each pass. A rating between two clusters is in a
    step that has both: with q of C clusters in a step, in (q - 1) / (C - 1) of the steps that have
    its user or its item, so it stands for (C - 1) / (q - 1) ratings. (The paper does not weigh
    these edges, so they count less than in the whole graph.)

    Args:
        graph: the training ratings.
        biases: fitted to them.
        config: batch size, folds and the number of clusters.
        clusters: int32 [U + I]; see `derived.metis_clusters`.
        seed: with the epoch, it decides groups and folds.
        device: where graph and batches live.
        world: the processes that share each step.
        layers: how many the model has.

    Raises:
        ValueError: the clusters' number or length is not that of the configuration and the graph.
    """

    def __init__(
        self,
        graph: RatingGraph,
        biases: Biases,
        config: LoaderConfig,
        clusters: Tensor,
        seed: int = 0,
        device: torch.device | None = None,
        world: World = ALONE,
        *,
        layers: int = 2,
    ) -> None:
        super().__init__(graph, biases, config, seed, device, world, layers=layers)
        self._count = int(self.config.clusters)
        nodes = graph.num_users + graph.num_items
        if len(clusters) != nodes or int(clusters.max()) >= self._count:
            raise ValueError(f"need clusters 0 to {self._count - 1} of all {nodes} users and items")
        self._clusters = clusters.to(self.device)
        # The nodes of the clusters, cluster by cluster; nodes without a cluster are left out.
        rated = (self._clusters >= 0).nonzero().squeeze(1)
        owners = take(self._clusters, rated)
        self._nodes = take(rated, torch.argsort(owners, stable=True))
        self._starts = offsets_of(torch.bincount(owners, minlength=self._count))
        steps = self._steps_a_pass()
        self._bounds = [number * self._count // steps for number in range(steps + 1)]
        # In how many steps of a pass two clusters are together, summed over all ordered pairs.
        sizes = [last - first for first, last in itertools.pairwise(self._bounds)]
        self._pairs = sum(size * (size - 1) for size in sizes)

    def _subgraphs(self, epoch: int, number_of_fold: int, first: int) -> Iterator[Subgraph]:
        generator = torch.Generator().manual_seed(
            seed_of("order", self.seed, epoch, number_of_fold)
        )
        order = torch.randperm(self._count, generator=generator).tolist()
        for number in range(first, self._steps_a_pass()):
            chosen = order[self._bounds[number] : self._bounds[number + 1]]
            yield self._of_clusters(chosen)

    def _of_clusters(self, chosen: list[int]) -> Subgraph:
        """All nodes of some clusters."""
        parts = [self._nodes[int(self._starts[one]) : int(self._starts[one + 1])] for one in chosen]
        return self._subgraph(torch.cat(parts).sort().values, len(chosen))

    def _shares(self, step: Subgraph, edges: Edges) -> Shares:
        of_users = take(self._clusters, take(step.users, edges.users))
        of_items = take(self._clusters, take(step.items, edges.items) + self._num_users)
        between = of_users != of_items
        ones = torch.ones(len(between), device=self.device)
        others = self._count - 1
        of_messages = torch.where(between, others / max(step.clusters - 1, 1), ones)
        # Steps may differ by a cluster, so this is an average over pairs of clusters.
        as_targets = torch.where(between, self._count * others / max(self._pairs, 1), ones)
        return Shares(of_messages, of_messages, as_targets)
