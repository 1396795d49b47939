"""Layer-wise importance sampling: each layer of a step reads a fixed number of further nodes.

Chen, Ma and Xiao, "FastGCN: fast learning with graph convolutional networks via importance
sampling", ICLR 2018; Zou et al., "Layer-dependent importance sampling for training deep and large
graph convolutional networks" (LADIES), NeurIPS 2019; both directions of the bipartite graph.

Data flow: users in a random order -> steps, targets and support, as `UserBatchLoader` makes them ->
layer by layer from the targets outwards: destinations, which their layer reads anyway -> further
users and items, drawn by importance -> the ratings between destinations and all of these, weighed
by one over how likely these were drawn -> `EdgeBatch`.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from dglrec.biases import Biases
from dglrec.blocks import Block, LayerBlocks
from dglrec.distributed import ALONE, World
from dglrec.graph import EdgeTensors, RatingGraph
from dglrec.kernels import Left, Lists, edges_with, runs_compiled, turned_edges
from dglrec.sampling.config import LoaderConfig, seed_of
from dglrec.sampling.folds import Fold
from dglrec.sampling.importance import LayerDependent, LayerIndependent, Wanted
from dglrec.sampling.numbering import Numbering, Reached
from dglrec.sampling.step import Step
from dglrec.sampling.tensors import offsets_of, take
from dglrec.sampling.users import UserBatchLoader


class _Edges(NamedTuple):
    """K ratings that D destinations of one type read, one's after the other's.

    Attributes:
        sources: int32 or int64 [K] nodes of the other type.
        counts: int64 [D] how many each destination has.
        ratings: float32 [K].
        weights: float32 [K]; how many of its destination's ratings each stands for.
    """

    sources: Tensor
    counts: Tensor
    ratings: Tensor
    weights: Tensor


class _Direction:
    """What destinations of one type read of sources of the other.

    Args:
        destinations: the ratings of the destinations' type.
        sources: those of the other type.
        of_users: whether the destinations are users.
        numbers: int32 [N]; while a layer is made, at least 0 for its destinations: their places.
        importance: what sources are drawn by.
        size: how many are.
    """

    def __init__(
        self,
        destinations: EdgeTensors,
        sources: EdgeTensors,
        of_users: bool,
        numbers: Tensor,
        importance: str,
        size: int,
    ) -> None:
        self._of_destinations, self._of_sources = destinations, sources
        self._lists = Lists(
            destinations.starts, destinations.counts, destinations.neighbours, of_users
        )
        self._turned = Lists(sources.starts, sources.counts, sources.neighbours, not of_users)
        self._numbers = numbers
        self._draws: LayerDependent | LayerIndependent
        if importance == "ladies":
            self._draws = LayerDependent(self._lists, len(sources.counts), size)
        else:
            self._draws = LayerIndependent(destinations, sources, size)
        # Scratch, 0 but for what a layer writes and takes out again: how many ratings those of a
        # source stand for.
        self._shares = torch.zeros(len(sources.counts), device=numbers.device)

    def read(
        self, nodes: Tensor, known: Tensor, left: Left, chance: Tensor, seed_of_order: int
    ) -> _Edges:
        """The ratings between destinations and sources that are there anyway, or are drawn.

        Args:
            nodes: int64 [D] destinations.
            known: int64 sources that are there anyway, whose ratings stand for one each.
            left: the edges that are left out.
            chance: float64 scalar, at least 0 and below 1; what decides which sources are drawn.
            seed_of_order: see `LayerIndependent.draw`.
        """
        sources = known
        self._shares[known] = 1
        try:
            drawn = self._draws.draw(Wanted(nodes, self._shares, left), chance, seed_of_order)
            self._shares[drawn.nodes] = drawn.chances.reciprocal().float()
            sources = torch.cat((known, drawn.nodes))
            return self._edges(nodes, sources, left)
        finally:
            self._shares[sources] = 0

    def _edges(self, nodes: Tensor, sources: Tensor, left: Left) -> _Edges:
        """The ratings between destinations and sources, from the side that has fewer in all."""
        own, others = self._of_destinations, self._of_sources
        if int(take(own.counts, nodes).sum()) <= int(take(others.counts, sources).sum()):
            edges, counts = edges_with(nodes, self._lists, self._shares, 0, left)
            met, ratings = take(own.neighbours, edges), own.ratings(edges)
        else:
            edges, of_sources = edges_with(sources, self._turned, self._numbers, -1, left)
            ends = take(self._numbers, take(others.neighbours, edges))
            counts = torch.bincount(ends, minlength=len(nodes))
            order = _order_of(offsets_of(of_sources), ends, len(nodes))
            met = torch.repeat_interleave(sources, of_sources, output_size=len(edges))
            met, ratings = take(met, order), others.ratings(take(edges, order))
        return _Edges(met, counts, ratings, take(self._shares, met))


def _order_of(offsets: Tensor, ends: Tensor, count: int) -> Tensor:
    """The places of K edges in the order of their ends, those of each as they stand; int [K].

    Args:
        offsets: int64 [S + 1]; where the edges of each source stand.
        ends: int32 [K], 0..count-1.
        count: of destinations.
    """
    if not runs_compiled(ends):
        return torch.argsort(ends, stable=True)
    return torch.from_numpy(turned_edges(offsets.numpy(), ends.numpy(), count)[2])


class LayerwiseLoader(UserBatchLoader):
    """Steps of whole users, as `UserBatchLoader` deals them, each layer of which reads a sample.

    A layer's destinations are its first sources, as each reads itself. Beside them it has so many
    users and items that are drawn once for all of its destinations, by `loader.importance`, and the
    ratings between destinations and sources. So a step's nodes grow by the same number with each
    layer, and not by a factor.

    A node is drawn once or not at all, with a chance p that is known, in proportion to its
    importance but at most 1; each of its ratings then stands for 1 / p of them, and those of a
    destination for one. A destination's weighed sum is so in expectation that over all of its
    ratings but the step's targets, whatever the layer behind it has drawn. (FastGCN draws with
    replacement; LADIES makes a mean of what was drawn, which is biased.)

    Each process has its own share of a step's users, draws its share of a layer's nodes for their
    targets, and leaves out the targets of all processes, so that what it estimates does not depend
    on how many there are.

    Args:
        graph: the training ratings.
        biases: fitted to them.
        config: batch size, folds, importance, and how many nodes are drawn for a layer.
        seed: with the epoch it decides the order of the users, the folds and every draw.
        device: where graph and batches live.
        world: the processes that share each step.
        layers: of the model.

    Raises:
        UsageError: more nodes are to be drawn than there are.
    """

    def __init__(
        self,
        graph: RatingGraph,
        biases: Biases,
        config: LoaderConfig,
        seed: int = 0,
        device: torch.device | None = None,
        world: World = ALONE,
        *,
        layers: int = 2,
    ) -> None:
        super().__init__(graph, biases, config, seed, device, world)
        self.config = self.config.with_layer_sizes(
            graph.num_edges, graph.num_users, graph.num_items
        )
        self._num_layers = layers
        self._every_item, self._leaves_out_all = False, True
        of_users, of_items = (-(-size // world.size) for size in self.config.layer_sizes)
        users, items, importance = self._by_user, self._by_item, self.config.importance
        self._to_users = _Direction(users, items, True, self._user_numbers, importance, of_items)
        self._to_items = _Direction(items, users, False, self._item_numbers, importance, of_users)

    def _read_layers(
        self, step: Step, number: int, users_read: Reached, items_read: Numbering
    ) -> tuple[LayerBlocks, ...]:
        assert isinstance(step.fold, Fold)  # those in time are refused
        place = self.seed, step.fold.epoch
        orders = [seed_of("nodes", *place, step.fold.number, side) for side in range(2)]
        left, outwards = self._left(step.fold), []
        for layer in reversed(range(self._num_layers)):
            seed = seed_of("samples", *place, number, self.world.rank, layer)
            generator = torch.Generator().manual_seed(seed)
            chances = torch.rand(2, generator=generator, dtype=torch.float64).to(self.device)
            users, items = users_read.nodes, items_read.nodes
            of_users = self._to_users.read(users, items, left, chances[0], orders[0])
            of_items = self._to_items.read(items, users, left, chances[1], orders[1])
            outwards.append(self._blocks(users_read, items_read, of_users, of_items))
        return tuple(reversed(outwards))

    def _left(self, fold: Fold) -> Left:
        """The step's targets, which no layer reads."""
        number = fold.number if self.config.exclude_targets else fold.count
        return Left(self._in_step, self._num_items, fold.key, fold.count, number)

    def _blocks(
        self, users_read: Reached, items_read: Numbering, of_users: _Edges, of_items: _Edges
    ) -> LayerBlocks:
        """A layer of the ratings that its destinations read, whose other ends are read from now.

        Args:
            users_read: so far, which are its destinations.
            items_read: likewise.
            of_users: what users read.
            of_items: what items read.
        """
        biases, users, items = self._biases, users_read.nodes, items_read.nodes
        rated, raters = items_read.number(of_users.sources), users_read.number(of_items.sources)
        owners = torch.repeat_interleave(users, of_users.counts, output_size=len(rated))
        to_users = Block(
            offsets_of(of_users.counts),
            rated,
            of_users.ratings - biases.predict(owners, of_users.sources),
            take(biases.user_degrees, users),
            take(biases.item_degrees, items_read.nodes),
            weights=of_users.weights,
        )
        owners = torch.repeat_interleave(items, of_items.counts, output_size=len(raters))
        to_items = Block(
            offsets_of(of_items.counts),
            raters,
            of_items.ratings - biases.predict(of_items.sources, owners),
            take(biases.item_degrees, items),
            take(biases.user_degrees, users_read.nodes),
            weights=of_items.weights,
        )
        return LayerBlocks(to_users, to_items)
