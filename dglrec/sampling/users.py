"""The fast loader: steps made of whole users, each of a step's nodes encoded once.

Data flow: users in a random order -> cut into steps of about equal edges -> each step's ratings
split into targets and support by a hash -> sampled raters of every item, layer by layer from the
targets outwards -> `EdgeBatch`. All of it is index arithmetic on tensors, on any device.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from dglrec.biases import Biases
from dglrec.blocks import Block, EdgeBatch, LayerBlocks
from dglrec.distributed import ALONE, World
from dglrec.graph import Adjacency, RatingGraph
from dglrec.sampling.config import LoaderConfig, seed_of
from dglrec.sampling.folds import Fold, Split, ragged
from dglrec.sampling.unseen import UNSEEN, Targets, hide_items


class UserBatchLoader:
    """Batches of whole users, whose ratings are dealt into folds: one is predicted from the others.

    An epoch is as many passes over the users as there are folds. In pass f, a user's ratings of
    fold f are targets, and the rest, its *support*, are what its embedding is made of, so each
    rating is a target once an epoch. Folds are hashes of user, item and epoch: whether an edge is
    a target of the step is computed where the edge stands, and a target never enters a block, in
    neither direction and at no hop; nothing is searched for.

    Each user of a step is encoded once for all of its targets, and all items are encoded in each
    step. Items read sampled raters, who read sampled ratings of theirs, as in any neighbour-sampled
    GraphSAGE (Hamilton, Ying and Leskovec, 2017); a sample is taken without replacement, one from
    each of as many equal stretches of the node's edges, the first of which starts anywhere.

    The users of a step are the same on any number of processes. Each process encodes a stretch of
    them, about equal in edges, and an equal share of the items, which they exchange layer by layer
    (`EdgeBatch.items_are_shared`): together they do the work of one process, and no more.

    Args:
        graph: the training ratings.
        biases: fitted to them.
        config: batch size, folds and fan-outs.
        seed: with the epoch it decides the order of the users, the folds and every sample.
        device: where graph and batches live.
        world: the processes that share each step.
    """

    def __init__(
        self,
        graph: RatingGraph,
        biases: Biases,
        config: LoaderConfig,
        seed: int = 0,
        device: torch.device | None = None,
        world: World = ALONE,
    ) -> None:
        self.config = config = config.resolved(graph.num_edges)
        self.batch_size = config.edges_a_batch(graph.num_edges)
        self._folds = int(config.folds)
        self.seed = seed
        self.epoch = 0
        self.start = 0
        self.device = device or torch.device("cpu")
        self.world = world
        self._biases = biases.to(self.device)
        self._by_user = _Lists.of(graph.by_user, self.device)
        self._by_item = _Lists.of(graph.by_item, self.device)
        levels = graph.scale.decode(np.arange(graph.scale.levels))
        self._levels = torch.from_numpy(levels).to(self.device)
        self._active = self._by_user.counts.nonzero().squeeze(1)
        self._num_items = graph.num_items
        self._num_edges = graph.num_edges
        self._items = world.share_of(graph.num_items)
        # Scratch: each user's place among the step's users, and among a layer's.
        self._in_step = torch.full((graph.num_users,), -1, dtype=torch.int32, device=self.device)
        self._place = torch.zeros(graph.num_users, dtype=torch.int32, device=self.device)

    def __len__(self) -> int:
        """Batches in an epoch."""
        return self._folds * self._steps_a_pass()

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Choose the epoch that the next iteration is, and the batch that it begins with.

        An iteration under way stays what it is.
        """
        self.epoch, self.start = epoch, start

    def __iter__(self) -> Iterator[EdgeBatch | None]:
        """The epoch's batches; None where a step holds no target, on all processes alike."""
        return self._batches(self.epoch, self.start)

    def _batches(self, epoch: int, start: int) -> Iterator[EdgeBatch | None]:
        folds, steps = self._folds, self._steps_a_pass()
        for number_of_fold in range(start // steps, folds):
            fold = Fold(self.seed, epoch, number_of_fold, folds, self._num_items)
            schedule = self._schedule(epoch, number_of_fold)
            for number in range(max(start, number_of_fold * steps), (number_of_fold + 1) * steps):
                users = schedule[number % steps]
                yield self._batch(users, fold, number) if len(users) else None

    def _steps_a_pass(self) -> int:
        return -(-self._num_edges // (self.batch_size * self._folds))

    def _schedule(self, epoch: int, fold: int) -> list[Tensor]:
        """The users of each step of a pass: all of them once, the steps about equal in edges.

        Somebody with more ratings than a step takes the room of several, all but one then empty.
        """
        generator = torch.Generator().manual_seed(seed_of(self.seed, epoch, fold))
        shuffled = torch.randperm(len(self._active), generator=generator).to(self.device)
        order = take(self._active, shuffled)
        steps = self._steps_a_pass()
        ends = take(self._by_user.counts, order).cumsum(0)
        bounds = torch.arange(1, steps, device=self.device) * self._num_edges // steps
        cuts = torch.searchsorted(ends, bounds, right=True).tolist()
        return [order[first:last] for first, last in itertools.pairwise((0, *cuts, len(order)))]

    def _batch(self, users: Tensor, fold: Fold, number: int) -> EdgeBatch | None:
        step = self._step(users, fold)
        if not len(step.ratings):
            return None
        world = self.world
        generator = torch.Generator(self.device)
        place = number * world.size + world.rank
        generator.manual_seed(seed_of(self.seed, fold.epoch, self._folds, place))
        self._in_step[users] = torch.arange(len(users), dtype=torch.int32, device=self.device)
        layers = []
        nodes = own = users[step.first : step.last]
        for of_user, of_item in reversed(self.config.fanouts):
            to_users = self._to_users(step, nodes, of_user, generator)
            to_items, nodes = self._to_items(step, nodes, of_item, generator)
            layers.append(LayerBlocks(to_users, to_items))
        self._in_step[users] = -1
        biases, mine = step.biases, step.own_targets
        owners, items = step.split.owners[mine] - step.first, step.split.items[mine]
        none = torch.empty(0, dtype=torch.int64, device=self.device)
        targets = hide_items(
            Targets(items, biases.predict(take(own, owners), items), none),
            items,
            self._num_items,
            biases,
            self.config.unseen_items,
            seed_of(self.seed, fold.epoch, number, *UNSEEN),
        )
        return EdgeBatch(
            user_nodes=nodes,
            item_nodes=torch.arange(*self._items, device=self.device),
            user_inputs=biases.user_inputs(nodes),
            item_inputs=biases.item_inputs(slice(*self._items)),
            layers=tuple(reversed(layers)),
            users=owners,
            items=targets.items,
            ratings=step.ratings[mine],
            baselines=targets.baselines,
            edges=step.split.targets[mine],
            unseen=targets.unseen,
            items_are_shared=world.size > 1,
        )

    def _step(self, users: Tensor, fold: Fold) -> "_Step":
        """Deal the ratings of a step's users into targets and support.

        That is done for the users of all processes: what one of them predicts must not reach it by
        way of the items that another encodes.
        """
        lists, world = self._by_user, self.world
        starts, counts = take(lists.starts, users), take(lists.counts, users)
        bounds = world.cut(counts.cumsum(0))
        own = bounds[world.rank], bounds[world.rank + 1]
        split = fold.split(users, starts, counts, lists.neighbours)
        ratings = self._ratings(lists, split.targets)
        if not self.config.exclude_targets:
            support = ragged(starts, counts)
            return _Step(users, fold, split, ratings, self._biases, support, counts, *own)
        biases = self._biases.without(take(users, split.owners), split.items, ratings)
        return _Step(users, fold, split, ratings, biases, split.support, split.support_counts, *own)

    def _ratings(self, lists: "_Lists", edges: Tensor) -> Tensor:
        """float32 [n]; the ratings of n edges."""
        codes = take(lists.codes, edges).int()
        if lists.codes.dtype == torch.int16:
            codes &= 0xFFFF
        return take(self._levels, codes)

    def _to_users(
        self, step: "_Step", nodes: Tensor, fanout: int, generator: torch.Generator
    ) -> Block:
        """What users read: those of the step from their support, the others from all they rated."""
        lists, biases = self._by_user, step.biases
        mine = slice(step.first, step.last)
        own_counts = step.counts[mine]
        if fanout < 0:
            own_edges = step.own_support
        else:
            of_own, own_counts = _sample(step.starts[mine], own_counts, fanout, generator)
            own_edges = take(step.support, of_own)
        others = nodes[step.last - step.first :]
        of_others, other_counts = self._edges_of_others(step, others, fanout, generator)
        edges = torch.cat((own_edges, of_others))
        counts = torch.cat((own_counts, other_counts))
        neighbours = take(lists.neighbours, edges)
        own = torch.repeat_interleave(take(biases.users, nodes), counts, output_size=len(edges))
        residuals = self._ratings(lists, edges) - own
        residuals -= take(biases.items, neighbours) + biases.mean
        degrees = take(biases.user_degrees, nodes)
        return Block(offsets_of(counts), neighbours, residuals, degrees, biases.item_degrees)

    def _edges_of_others(
        self, step: "_Step", users: Tensor, fanout: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Sampled edges of users that only feed items, and how many of each.

        Among them may be users of the step that are other processes', which read their support.
        """
        starts, counts = take(self._by_user.starts, users), take(self._by_user.counts, users)
        if self.world.size == 1:
            return _sample(starts, counts, fanout, generator)
        places = take(self._in_step, users)
        inside = places >= 0
        places = places.clamp(min=0)
        # Positions in the step's support follow those in all edges.
        starts = torch.where(inside, take(step.starts, places) + self._num_edges, starts)
        counts = torch.where(inside, take(step.counts, places), counts)
        edges, taken = _sample(starts, counts, fanout, generator)
        supported = (edges >= self._num_edges).nonzero().squeeze(1)
        edges[supported] = take(step.support, edges[supported] - self._num_edges)
        return edges, taken

    def _to_items(
        self, step: "_Step", nodes: Tensor, fanout: int, generator: torch.Generator
    ) -> tuple[Block, Tensor]:
        """What items read, and the users that they read it from: `nodes`, and more behind them."""
        lists = self._by_item
        own = slice(*self._items)
        edges, counts = _sample(lists.starts[own], lists.counts[own], fanout, generator)
        raters = take(lists.neighbours, edges)
        items = torch.repeat_interleave(counts, output_size=len(edges)) + own.start
        if self.config.exclude_targets:
            suspects = (take(self._in_step, raters) >= 0).nonzero().squeeze(1)
            rated = take(raters, suspects).long(), take(items, suspects)
            targets = suspects.masked_select(step.fold.holds(*rated))
            keep = torch.ones(len(edges), dtype=torch.bool, device=self.device)
            keep[targets] = False
            edges, raters = edges.masked_select(keep), raters.masked_select(keep)
            lost = torch.bincount(take(items, targets) - own.start, minlength=len(counts))
            counts = counts - lost
            items = items.masked_select(keep)
        self._place.fill_(-1)
        self._place[raters] = 1
        self._place[nodes] = 0
        more = (self._place > 0).nonzero().squeeze(1)
        nodes = torch.cat((nodes, more))
        self._place[nodes] = torch.arange(len(nodes), dtype=torch.int32, device=self.device)
        biases = step.biases
        residuals = self._ratings(lists, edges) - biases.predict(raters, items)
        places = take(self._place, raters)
        block = Block(
            offsets_of(counts),
            places,
            residuals,
            biases.item_degrees[own],
            take(biases.user_degrees, nodes),
        )
        return block, nodes


@dataclass(frozen=True)
class _Lists:
    """An adjacency as tensors; S the first edge of each node."""

    starts: Tensor  # int64 [N]
    counts: Tensor  # int64 [N]
    neighbours: Tensor  # int32 [E]
    codes: Tensor  # uint8, or uint16 that says int16, [E]: torch picks none of uint16

    @staticmethod
    def of(adjacency: Adjacency, device: torch.device) -> "_Lists":
        offsets = torch.from_numpy(adjacency.offsets).to(device)
        codes = torch.from_numpy(adjacency.codes)
        return _Lists(
            offsets[:-1],
            offsets.diff(),
            torch.from_numpy(adjacency.neighbours).to(device),
            (codes.view(torch.int16) if codes.dtype == torch.uint16 else codes).to(device),
        )


@dataclass(frozen=True)
class _Step:
    """The users of a step, N of them, their B targets, and what they are predicted from."""

    users: Tensor  # int64 [N]
    fold: Fold
    split: Split
    ratings: Tensor  # float32 [B], the targets'
    biases: Biases  # as they stand without the targets
    support: Tensor  # int64 edge ids, one user's after the other's
    counts: Tensor  # int64 [N] support of each user
    first: int  # of the users that are this process's
    last: int  # one past them
    starts: Tensor = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "starts", self.counts.cumsum(0) - self.counts)

    @property
    def own_targets(self) -> slice:
        """Where the targets of this process's users stand among all, which are in users' order."""
        ends = torch.tensor([self.first, self.last], device=self.split.owners.device)
        low, high = torch.searchsorted(self.split.owners, ends).tolist()
        return slice(low, high)

    @property
    def own_support(self) -> Tensor:
        """That of this process's users."""
        before, own = self.counts[: self.first], self.counts[self.first : self.last]
        start = int(before.sum())
        return self.support[start : start + int(own.sum())]


def _sample(
    starts: Tensor, counts: Tensor, fanout: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Positions sampled from D stretches, and how many from each: the fan-out, or all there are.

    Args:
        starts: int64 [D].
        counts: int64 [D].
        fanout: -1 takes all.
        generator: of the positions' device.
    """
    if fanout < 0:
        return ragged(starts, counts), counts
    # No more columns than a node has edges: a fan-out may be meant as "all, up to very many".
    fanout = min(fanout, max(1, int(counts.max()))) if len(counts) else fanout
    taken = counts.clamp(max=fanout)
    device = counts.device
    sizes = (counts // fanout).unsqueeze(1)
    shape = (len(counts), fanout)
    first = torch.rand(len(counts), generator=generator, device=device, dtype=torch.float64)
    places = torch.rand(shape, generator=generator, device=device)
    places = places.mul_(sizes).long()
    number = torch.arange(fanout, device=device)
    places += number * sizes
    places += (first * counts).long().unsqueeze(1)
    places -= (places >= counts.unsqueeze(1)) * counts.unsqueeze(1)
    few = (counts < fanout).unsqueeze(1)
    places = torch.where(few, number, places).add_(starts.unsqueeze(1))
    if not bool(few.any()):
        return places.flatten(), taken
    return places.masked_select(number < taken.unsqueeze(1)), taken


def take(table: Tensor, index: Tensor) -> Tensor:
    """`table[index]`, several times as fast on a CPU."""
    return table.index_select(0, index)


def offsets_of(counts: Tensor) -> Tensor:
    """int64 [D] -> int64 [D + 1], where each stretch starts."""
    return torch.cat((counts.new_zeros(1), counts.cumsum(0)))
