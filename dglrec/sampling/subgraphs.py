"""What loaders share whose steps read a single sampled subgraph in all layers.

Data flow: random users and items -> the ratings between them -> split into targets and messages by
a hash -> both weighed by their probabilities to be in the step -> `EdgeBatch`.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from dglrec.biases import Biases, Ends
from dglrec.blocks import Block, EdgeBatch, LayerBlocks
from dglrec.distributed import ALONE, World
from dglrec.graph import EdgeTensors, RatingGraph, node_chunks
from dglrec.kernels import ragged
from dglrec.relations import Direction
from dglrec.sampling.config import LoaderConfig, seed_of
from dglrec.sampling.folds import Fold
from dglrec.sampling.schedule import UserSchedule
from dglrec.sampling.tensors import offsets_of, take
from dglrec.sampling.unseen import Targets, hide_items


class Subgraph(NamedTuple):
    """The nodes of a step.

    Attributes:
        users: int64 [N_u], ascending, each once.
        items: int64 [N_i], ascending, each once.
        clusters: how many clusters these nodes make up; 0 for loaders without clusters.
    """

    users: Tensor
    items: Tensor
    clusters: int = 0


class Edges(NamedTuple):
    """K ratings between the nodes of a step, ordered by user and, within a user, by item.

    Attributes:
        ids: int64 [K] edge ids.
        users: int64 [K] positions among the step's users.
        items: int64 [K] positions among its items.
    """

    ids: Tensor
    users: Tensor
    items: Tensor

    def where(self, mask: Tensor) -> "Edges":
        """The edges where a mask, bool [K], is true."""
        return Edges(*(one.masked_select(mask) for one in self))

    def part(self, first: int, last: int) -> "Edges":
        """The edges `first` to `last - 1`."""
        return Edges(*(one[first:last] for one in self))


class Shares(NamedTuple):
    """How many ratings each of K edges of a step stands for.

    Attributes:
        to_users: float32 [K]; how many of its user's ratings, given that the user is in the step.
        to_items: float32 [K]; how many of its item's ratings, given that the item is in the step.
        as_targets: float32 [K]; how many of all ratings of a pass.
    """

    to_users: Tensor
    to_items: Tensor
    as_targets: Tensor

    def where(self, mask: Tensor) -> "Shares":
        """The shares where a mask, bool [K], is true."""
        return Shares(*(one.masked_select(mask) for one in self))


class SubgraphLoader(UserSchedule):
    """Steps that read the ratings between some users and items, which are chosen at random.

    An epoch is a pass over the steps for each fold. In pass f, a step's ratings of fold f are its
    targets, and its other ratings are the messages of all layers. Weights make each step an
    estimate for the graph without fold f: the expected sum over a node's messages is the sum over
    all its ratings outside the fold, and the expected sum of the targets' losses is the sum over
    all ratings of the fold (Zeng et al., "GraphSAINT: graph sampling based inductive learning
    method", ICLR 2020, section 3.2).

    All processes read the step's subgraph, and each predicts an equal share of its targets.

    Args:
        graph: the training ratings.
        biases: fitted to them.
        config: batch size and folds; fan-outs are not used.
        seed: with the epoch, it decides subgraphs and folds.
        device: where graph and batches live.
        world: the processes that share each step.
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
        *,
        layers: int = 2,
    ) -> None:
        self._layers = layers
        super().__init__(graph, biases, config, seed, device, world)

    def _set_up(self, graph: RatingGraph, directions: Sequence[Direction]) -> None:
        super()._set_up(graph, directions)
        self._num_users = graph.num_users
        self._chunks = node_chunks(graph.by_user.offsets)
        self._offsets = graph.by_user.offsets
        # Scratch: nodes' places in the step; all -1 except while a step is made.
        self._user_places, self._item_places = (
            torch.full((count,), -1, dtype=torch.int32, device=self.device)
            for count in (graph.num_users, graph.num_items)
        )

    def _subgraph(self, nodes: Tensor, clusters: int = 0) -> Subgraph:
        """The subgraph of some nodes: int64 [N], ascending, with items numbered after users."""
        is_user = nodes < self._num_users
        items = nodes.masked_select(~is_user) - self._num_users
        return Subgraph(nodes.masked_select(is_user), items, clusters)

    def _stretches(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """All ratings in chunks: their edge ids, int64 users and int32 items."""
        for first, last in self._chunks:
            ids = slice(int(self._offsets[first]), int(self._offsets[last]))
            items = self._by_user.neighbours[ids]
            users = torch.arange(first, last, device=self.device).repeat_interleave(
                self._by_user.counts[first:last], output_size=len(items)
            )
            yield ids, users, items

    @abstractmethod
    def _subgraphs(self, epoch: int, number_of_fold: int, first: int) -> Iterator[Subgraph]:
        """The nodes of each step of a pass, from step `first` on, counted from 0."""

    @abstractmethod
    def _shares(self, step: Subgraph, edges: Edges) -> Shares:
        """How many ratings each of a step's edges stands for."""

    def _batches(self, epoch: int, start: int) -> Iterator[EdgeBatch | None]:
        steps = self._steps_a_pass()
        for number_of_fold in range(start // steps, self._folds):
            fold = Fold(self.seed, epoch, number_of_fold, self._folds, self._num_items)
            first = max(start - number_of_fold * steps, 0)
            degrees = self._degrees(fold)
            subgraphs = self._subgraphs(epoch, number_of_fold, first)
            for number, step in enumerate(subgraphs, start=number_of_fold * steps + first):
                yield self._batch(step, fold, degrees, number)

    def _degrees(self, fold: Fold) -> tuple[Tensor, Tensor]:
        """float32 [U] and [I]: how many ratings each node has outside a fold."""
        of_users, of_items = self._by_user.counts.clone(), self._by_item.counts.clone()
        if self.config.exclude_targets:
            for _, users, items in self._stretches():
                held = fold.holds(users, items)
                of_users -= torch.bincount(users[held], minlength=len(of_users))
                of_items -= torch.bincount(items[held].long(), minlength=len(of_items))
        return of_users.float(), of_items.float()

    def _edges(self, step: Subgraph) -> Edges:
        """All ratings between the nodes of a step."""
        lists: EdgeTensors = self._by_user
        counts = take(lists.counts, step.users)
        ids = ragged(take(lists.starts, step.users), counts)
        places = self._item_places
        places[step.items] = torch.arange(len(step.items), dtype=torch.int32, device=self.device)
        items = take(places, take(lists.neighbours, ids))
        places[step.items] = -1
        users = torch.repeat_interleave(counts, output_size=len(ids))
        return Edges(ids, users, items.long()).where(items >= 0)

    def _batch(
        self, step: Subgraph, fold: Fold, degrees: tuple[Tensor, Tensor], number: int
    ) -> EdgeBatch | None:
        """A step's batch; None without a target for this process.

        Args:
            step: its nodes.
            fold: the fold whose ratings are targets.
            degrees: see `_degrees`.
            number: of the step in its epoch.
        """
        edges = self._edges(step)
        shares = self._shares(step, edges)
        held = fold.holds(take(step.users, edges.users), take(step.items, edges.items))
        targets, weights = edges.where(held), shares.as_targets.masked_select(held)
        first, last = self.world.share_of(len(targets.ids))
        if first == last:
            return None
        if self.config.exclude_targets:
            edges, shares = edges.where(~held), shares.where(~held)
        with self._leaving_out(step, targets):
            blocks = self._blocks(step, edges, shares, degrees)
            batch = self._encoded_from(
                step,
                targets.part(first, last),
                blocks,
                seed_of("unseen", self.seed, fold.epoch, number),
            )
        # Over all processes, `size` adds up to the mean number of ratings that a step stands for.
        size = self._num_edges / len(self) * (last - first) / len(weights)
        return replace(batch, weights=weights[first:last], size=size)

    def _leaving_out(self, step: Subgraph, targets: Edges) -> AbstractContextManager[None]:
        """A context in which the biases are those without the targets of all processes."""
        if not self.config.exclude_targets:
            return nullcontext()
        ends = Ends(step.users, targets.users), Ends(step.items, targets.items)
        return self._biases.leaving_out(*ends, self._by_user.ratings(targets.ids))

    def _blocks(
        self, step: Subgraph, edges: Edges, shares: Shares, degrees: tuple[Tensor, Tensor]
    ) -> LayerBlocks:
        """The blocks of a layer, which are the same for all layers."""
        of_users, of_items = take(degrees[0], step.users), take(degrees[1], step.items)
        residuals = self._by_user.ratings(edges.ids)
        residuals -= self._biases.predict(
            take(step.users, edges.users), take(step.items, edges.items)
        )
        by_item = torch.argsort(edges.items, stable=True)
        counts = (
            torch.bincount(edges.users, minlength=len(step.users)),
            torch.bincount(edges.items, minlength=len(step.items)),
        )
        to_users = Block(
            offsets_of(counts[0]),
            edges.items,
            residuals,
            of_users,
            of_items,
            weights=shares.to_users,
        )
        to_items = Block(
            offsets_of(counts[1]),
            take(edges.users, by_item),
            take(residuals, by_item),
            of_items,
            of_users,
            weights=take(shares.to_items, by_item),
        )
        return LayerBlocks(to_users, to_items)

    def _encoded_from(
        self, step: Subgraph, targets: Edges, blocks: LayerBlocks, seed_of_unseen: int
    ) -> EdgeBatch:
        """The batch of this process's targets, not yet weighed; the biases are without them."""
        biases = self._biases
        users, items = take(step.users, targets.users), take(step.items, targets.items)
        known = hide_items(
            Targets.all_seen(targets.items, biases.predict(users, items)),
            items,
            len(step.items),
            take(biases.items, items),
            self.config.unseen_items,
            seed_of_unseen,
        )
        return EdgeBatch(
            user_nodes=step.users,
            item_nodes=step.items,
            user_inputs=biases.user_inputs(step.users),
            item_inputs=biases.item_inputs(step.items),
            layers=(blocks,) * self._layers,
            users=targets.users,
            items=known.items,
            ratings=self._by_user.ratings(targets.ids),
            baselines=known.baselines,
            edges=targets.ids,
            unseen=known.unseen,
        )
