"""Layer-wise importance sampling: each layer of a step reads a fixed number of further nodes.

Chen, Ma and Xiao, "FastGCN: fast learning with graph convolutional networks via importance
sampling", ICLR 2018; Zou et al., "Layer-dependent importance sampling for training deep and large
graph convolutional networks" (LADIES), NeurIPS 2019; both directions of the bipartite graph.

Data flow: users in a random order -> steps, targets and support, as `UserBatchLoader` makes them ->
layer by layer from the targets outwards: destinations, which their layer reads in any case ->
further users and items, drawn by importance -> the ratings between destinations and all of these,
weighed by one over the probability that the node was drawn -> `EdgeBatch`.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from dglrec.biases import Biases
from dglrec.blocks import Block, LayerBlocks
from dglrec.distributed import ALONE, World
from dglrec.graph import EdgeTensors, RatingGraph
from dglrec.kernels import Excluded, Lists, edges_with, runs_compiled, turned_edges
from dglrec.sampling.config import LoaderConfig, seed_of
from dglrec.sampling.folds import Fold
from dglrec.sampling.importance import LayerDependent, LayerIndependent, Wanted
from dglrec.sampling.numbering import Numbering, Reached
from dglrec.sampling.step import Step
from dglrec.sampling.tensors import offsets_of, take
from dglrec.sampling.users import UserBatchLoader


class _Edges(NamedTuple):
    """K ratings that D destinations of one type read, destination by destination.

    Attributes:
        sources: int32 or int64 [K]; nodes of the other type.
        counts: int64 [D]; how many ratings each destination has.
        ratings: float32 [K].
        weights: float32 [K]; how many of its destination's ratings each rating stands for.
    """

    sources: Tensor
    counts: Tensor
    ratings: Tensor
    weights: Tensor


class _Direction:
    """Chooses what destinations of one type read of sources of the other type.

    Args:
        destinations: the ratings of the destinations' type.
        sources: the ratings of the other type.
        of_users: whether the destinations are users.
        numbers: int32 [N]; while a layer is made, its destinations' places, and -1 for other nodes.
        importance: by which sources are drawn: `ladies` or `fastgcn`.
        size: how many sources are drawn.
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
        # Scratch: how many ratings each rating of a source stands for; all 0 except while a layer
        # is made.
        self._shares = torch.zeros(len(sources.counts), device=numbers.device)

    def read(
        self, nodes: Tensor, known: Tensor, excluded: Excluded, chance: Tensor, seed_of_order: int
    ) -> _Edges:
        """The ratings between destinations and sources, both the known and the drawn ones.

        Args:
            nodes: int64 [D] destinations.
            known: int64 sources that are read in any case, whose ratings stand for one rating each.
            excluded: the edges that are left out.
            chance: float64 scalar, at least 0 and below 1; decides which sources are drawn.
            seed_of_order: see `LayerIndependent.draw`.
        """
        sources = known
        self._shares[known] = 1
        try:
            drawn = self._draws.draw(Wanted(nodes, self._shares, excluded), chance, seed_of_order)
            self._shares[drawn.nodes] = drawn.chances.reciprocal().float()
            sources = torch.cat((known, drawn.nodes))
            return self._edges(nodes, sources, excluded)
        finally:
            self._shares[sources] = 0

    def _edges(self, nodes: Tensor, sources: Tensor, excluded: Excluded) -> _Edges:
        """The ratings between destinations and sources, read from the side with fewer ratings."""
        own, others = self._of_destinations, self._of_sources
        if int(take(own.counts, nodes).sum()) <= int(take(others.counts, sources).sum()):
            edges, counts = edges_with(nodes, self._lists, self._shares, 0, excluded)
            met, ratings = take(own.neighbours, edges), own.ratings(edges)
        else:
            edges, of_sources = edges_with(sources, self._turned, self._numbers, -1, excluded)
            ends = take(self._numbers, take(others.neighbours, edges))
            counts = torch.bincount(ends, minlength=len(nodes))
            order = _order_of(offsets_of(of_sources), ends, len(nodes))
            met = torch.repeat_interleave(sources, of_sources, output_size=len(edges))
            met, ratings = take(met, order), others.ratings(take(edges, order))
        return _Edges(met, counts, ratings, take(self._shares, met))


def _order_of(offsets: Tensor, ends: Tensor, count: int) -> Tensor:
    """The order that sorts K edges by destination, stable; int [K].

    Args:
        offsets: int64 [S + 1]; where the edges of each source start.
        ends: int32 [K], 0..count-1.
        count: of destinations.
    """
    if not runs_compiled(ends):
        return torch.argsort(ends, stable=True)
    return torch.from_numpy(turned_edges(offsets.numpy(), ends.numpy(), count)[2])


class LayerwiseLoader(UserBatchLoader):
    """Steps of whole users, as `UserBatchLoader` deals them, each layer of which reads a sample.

    A layer's destinations are its first sources, as each reads itself. In addition, the layer reads
    a fixed number of users and items, drawn once for all its destinations by `loader.importance`,
    and the ratings between destinations and sources. So each layer adds the same number of nodes to
    a step, instead of multiplying them.

    A node is drawn at most once, with a known probability p, in proportion to its importance but at
    most 1. Each of its ratings then stands for 1 / p ratings, and each rating of a destination for
    one. The expectation of a destination's weighted sum is therefore its sum over all ratings
    except the step's targets, whatever the next layer has drawn. (FastGCN draws with replacement;
    LADIES takes a mean over what was drawn, which is biased.)

    Each process has a share of a step's users, draws its share of a layer's nodes for their
    targets, and leaves out the targets of all processes, so that what it estimates does not depend
    on the number of processes.

    Args:
        graph: the training ratings.
        biases: fitted to them.
        config: batch size, folds, importance, and how many nodes are drawn for a layer.
        seed: with the epoch, it decides the order of the users, the folds and every draw.
        device: where graph and batches live.
        world: the processes that share each step.
        layers: how many the model has.

    Raises:
        UsageError: more nodes are to be drawn than exist.
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
        assert isinstance(step.fold, Fold)  # the configuration refuses folds by time
        place = self.seed, step.fold.epoch
        orders = [seed_of("nodes", *place, step.fold.number, side) for side in range(2)]
        excluded, outwards = self._excluded(step.fold), []
        for layer in reversed(range(self._num_layers)):
            seed = seed_of("samples", *place, number, self.world.rank, layer)
            generator = torch.Generator().manual_seed(seed)
            chances = torch.rand(2, generator=generator, dtype=torch.float64).to(self.device)
            users, items = users_read.nodes, items_read.nodes
            of_users = self._to_users.read(users, items, excluded, chances[0], orders[0])
            of_items = self._to_items.read(items, users, excluded, chances[1], orders[1])
            outwards.append(self._blocks(users_read, items_read, of_users, of_items))
        return tuple(reversed(outwards))

    def _excluded(self, fold: Fold) -> Excluded:
        """The step's targets, which no layer reads."""
        number = fold.number if self.config.exclude_targets else fold.count
        return Excluded(self._in_step, self._num_items, fold.key, fold.count, number)

    def _blocks(
        self, users_read: Reached, items_read: Numbering, of_users: _Edges, of_items: _Edges
    ) -> LayerBlocks:
        """A layer's blocks; the other ends of its ratings become destinations of the next layer.

        Args:
            users_read: the users so far, which are the layer's destinations.
            items_read: the items so far, likewise.
            of_users: the ratings that users read.
            of_items: the ratings that items read.
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
