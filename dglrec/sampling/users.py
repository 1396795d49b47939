"""The fast loader: steps of whole users, in which each node is encoded once.

Data flow: users in a random order -> cut into steps of about equal edges -> each step's ratings
split into targets and support by a hash -> the items to encode, all or those in reach -> sampled
raters and ratings, layer by layer from the targets outwards -> `EdgeBatch`. All of it is index
arithmetic on tensors, on any device.
"""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor

from dglrec.biases import Biases, Ends
from dglrec.blocks import Block, EdgeBatch, LayerBlocks, RelationBlock
from dglrec.distributed import ALONE, World
from dglrec.errors import UsageError
from dglrec.graph import RatingGraph
from dglrec.kernels import chances, ragged, sample_stretches
from dglrec.relations import ITEM_TYPE, USER_TYPE, Direction, DirectionTensors
from dglrec.sampling.config import LoaderConfig, seed_of
from dglrec.sampling.draws import Draw
from dglrec.sampling.folds import Fold
from dglrec.sampling.numbering import Every, Numbering, Reached
from dglrec.sampling.schedule import UserSchedule
from dglrec.sampling.step import Hidden, Step
from dglrec.sampling.tensors import offsets_of, take
from dglrec.sampling.time_folds import AnyFold, TimeFold
from dglrec.sampling.unseen import Targets, count_as_unseen, hide_items


class UserBatchLoader(UserSchedule):
    """Batches of whole users, whose ratings are dealt into folds, predicted from one another.

    An epoch is as many passes over the users as there are folds. In pass f, a user's ratings of
    fold f are targets, and the others, its *support*, give its embedding, so each rating is a
    target once in an epoch. Folds are hashes of user, item and epoch: whether an edge is a target
    is computed from the edge, without a search. A target never enters a block, in either direction
    or at any hop.

    Each user of a step is encoded once for all of its targets. A step encodes either all items, or
    those that its targets, its pool and their sampled neighbourhoods reach, as configured. Items
    read sampled raters, who read samples of their ratings, as in neighbour-sampled GraphSAGE
    (Hamilton, Ying and Leskovec, 2017); see `sample_stretches`.

    The users of a step are the same on any number of processes; each process has a range of them,
    about equal in edges. Where a step encodes all items, each process encodes an equal share of
    them, and the processes exchange them layer by layer (`EdgeBatch.items_are_shared`): together
    they do no more work than a single process. Where it encodes the items in reach, each process
    encodes those that its users reach, and nothing is exchanged.

    Args:
        graph: the training ratings.
        biases: fitted to them.
        config: batch size, folds, items and fan-outs.
        seed: with the epoch, it decides the order of the users, the folds and every sample.
        device: where graph and batches live.
        world: the processes that share each step.
        draw: draws the items that lists are learned from; None without lists.
        directions: of the relations that layers read in addition to the ratings. From relations
            between users and items, the pairs of a step's targets are left out, like its ratings.
        ages: whether layers need the ages of edges, for which the graph must have times.

    Raises:
        UsageError: folds are by time, and a relation is between users and items.
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
        *,
        ages: bool = False,
    ) -> None:
        super().__init__(graph, biases, config, seed, device, world, draw, directions)
        # Whether a process leaves out the targets of all processes, and not only of its users.
        self._leaves_out_all = self._every_item
        self._times = graph.times_on(self.device) if ages else None
        self._ranks: Tensor | None = None  # edges' ranks in time, for folds by time
        check_directions(self.config, directions)
        if self.config.folds_by == "time":
            self._ranks = torch.from_numpy(graph.ranks_in_time()).to(self.device)
            self._times_by_item = graph.times_on(self.device)[1]
        # Scratch, all -1 except while a step is made: each user's place among the step's users, and
        # the numbers of the users and items that the step reads.
        self._in_step, self._user_numbers, self._item_numbers = (
            torch.full((count,), -1, dtype=torch.int32, device=self.device)
            for count in (graph.num_users, graph.num_users, graph.num_items)
        )

    def _batches(self, epoch: int, start: int) -> Iterator[EdgeBatch | None]:
        folds, steps = self._folds, self._steps_a_pass()
        for number_of_fold in range(start // steps, folds):
            fold = self._fold(epoch, number_of_fold)
            schedule = self._schedule(epoch, number_of_fold)
            for number in range(max(start, number_of_fold * steps), (number_of_fold + 1) * steps):
                users = schedule[number % steps]
                yield self._batch(users, fold, number) if len(users) else None

    def _fold(self, epoch: int, number: int) -> AnyFold:
        if self._ranks is None:
            return Fold(self.seed, epoch, number, self._folds, self._num_items)
        degrees = self._by_user.counts
        return TimeFold(self.seed, epoch, number, self._folds, self._ranks, degrees)

    def _schedule(self, epoch: int, fold: int) -> list[Tensor]:
        """The users of each step of a pass; see `_order`."""
        order, cuts = self._order(epoch, fold)
        return [order[first:last] for first, last in itertools.pairwise(cuts)]

    def _batch(self, users: Tensor, fold: AnyFold, number: int) -> EdgeBatch | None:
        step = self._step(users, fold, number)
        # Where processes exchange items, all take part in a step that has targets for any of them.
        if not len(step.ratings if self._every_item else step.ratings[step.own_targets]):
            return None
        users_read, items_read = Reached(self._user_numbers), self._items()
        self._in_step[step.users] = torch.arange(
            len(step.users), dtype=torch.int32, device=self.device
        )
        try:
            with self._leaving_out(step):
                return self._encoded_from(step, number, users_read, items_read)
        finally:
            self._in_step[step.users] = -1
            users_read.forget()
            items_read.forget()

    def _encoded_from(
        self, step: Step, number: int, users_read: Reached, items_read: Numbering
    ) -> EdgeBatch:
        """The batch of a step; the biases are without its targets."""
        biases = self._biases
        own, mine = step.users[step.first : step.last], step.own_targets
        users_read.number(own)
        ratings, items = step.ratings[mine], step.split.items[mine]
        positions, pool = items_read.number(items), self._pool(items, ratings, number, step.fold)
        if pool is not None:
            pool = replace(pool, rows=items_read.number(pool.items).long())
        num_positions = self._num_items if self._every_item else len(items_read.nodes)
        owners = step.split.owners[mine] - step.first
        targets = hide_items(
            Targets.all_seen(positions, biases.predict(take(own, owners), items)),
            items,
            num_positions,
            take(biases.items, items),
            self.config.unseen_items,
            seed_of("unseen", self.seed, step.fold.epoch, number),
        )
        layers = self._read_layers(step, number, users_read, items_read)
        return EdgeBatch(
            user_nodes=users_read.nodes,
            item_nodes=items_read.nodes,
            user_inputs=biases.user_inputs(users_read.nodes),
            item_inputs=biases.item_inputs(items_read.nodes),
            layers=layers,
            users=owners,
            items=targets.items,
            ratings=ratings,
            baselines=targets.baselines,
            edges=step.split.targets[mine],
            unseen=targets.unseen,
            items_are_shared=self._every_item and self.world.size > 1,
            every_item=self._every_item,
            pool=pool,
            unseen_others=self._labels_of_unseen(step, targets.unseen, number),
        )

    def _items(self) -> Numbering:
        """The items that a step reads: this process's share of all items, or none so far."""
        if self._every_item:
            return Every(*self.world.share_of(self._num_items), self.device)
        return Reached(self._item_numbers)

    def _step(self, users: Tensor, fold: AnyFold, number: int) -> Step:
        """Deal the ratings of a step's users into targets and support.

        Where processes exchange items, the step has the users of all processes: a process's targets
        must not reach it through the items that another process encodes. Otherwise it has this
        process's users alone, unless `_leaves_out_all`.
        """
        lists, world = self._by_user, self.world
        starts, counts = take(lists.starts, users), take(lists.counts, users)
        bounds = world.cut(counts.cumsum(0))
        first, last = bounds[world.rank], bounds[world.rank + 1]
        if not self._leaves_out_all and self.world.size > 1:
            users, starts, counts = users[first:last], starts[first:last], counts[first:last]
            first, last = 0, len(users)
        split = fold.split(users, starts, counts, lists.neighbours)
        ratings = lists.ratings(split.targets)
        if not self.config.exclude_targets:
            return Step(users, fold, split, ratings, ragged(starts, counts), counts, first, last)
        step = Step(users, fold, split, ratings, split.support, split.support_counts, first, last)
        if split.later is not None:
            nobody = torch.zeros(len(users), dtype=torch.bool, device=self.device)
            hidden = Hidden(nobody, split.later.edges, split.later.owners)
            step = replace(step, hidden=hidden)
        if not self.config.unseen_users:
            return step
        key = seed_of("unseen users", self.seed, fold.epoch, number) << 31
        unseen = count_as_unseen(users, self.config.unseen_users, key)
        return step.without_ratings_of(unseen)

    def _leaving_out(self, step: Step) -> AbstractContextManager[None]:
        """A context in which the biases are those without the step's targets and hidden ratings.

        Unseen users then have no ratings, and items are as without these users. Ratings later than
        the targets of a fold by time are hidden too.
        """
        if not self.config.exclude_targets:
            return nullcontext()
        owners, rated, ratings = step.split.owners, step.split.items, step.ratings
        if step.hidden is not None:
            owners = torch.cat((owners, step.hidden.owners))
            rated = torch.cat((rated, take(self._by_user.neighbours, step.hidden.edges)))
            ratings = torch.cat((ratings, self._by_user.ratings(step.hidden.edges)))
        items = Reached(self._item_numbers)
        places = items.number(rated)
        ends = Ends(items.nodes, places)
        items.forget()
        return self._biases.leaving_out(Ends(step.users, owners), ends, ratings)

    def _read_layers(
        self, step: Step, number: int, users_read: Reached, items_read: Numbering
    ) -> tuple[LayerBlocks, ...]:
        """The blocks of all layers, in the order of their computation; see `_layer`.

        Args:
            step: users, targets and support.
            number: of the step in its epoch.
            users_read: this process's users of the step.
            items_read: the items of the targets and of the pool.
        """
        outwards = [
            self._layer(step, fanouts, users_read, items_read, keys, of_relations)
            for fanouts, keys, of_relations in zip(
                reversed(self.config.fanouts),
                self._sample_keys(step.fold, number),
                self._relation_keys(step.fold, number),
                strict=True,
            )
        ]
        return tuple(reversed(outwards))

    def _layer(
        self,
        step: Step,
        fanouts: tuple[int, int],
        users_read: Reached,
        items_read: Numbering,
        keys: tuple[int, int],
        relation_keys: Sequence[int],
    ) -> LayerBlocks:
        """A layer's blocks, whose destinations are the users and items that are read so far.

        Their neighbours are added to the nodes that are read.

        Args:
            step: users, targets and support.
            fanouts: of users and of items.
            users_read: the users so far.
            items_read: the items so far.
            keys: of the samples of users and of items.
            relation_keys: of the samples of each direction of relations.
        """
        lists, biases = (self._by_user, self._by_item), self._biases
        users, items = users_read.nodes, items_read.nodes
        by_user, of_users = self._edges_of_users(step, users, fanouts[0], keys[0])
        by_item, of_items, raters = self._edges_of_items(step, items, fanouts[1], keys[1])
        rated = take(lists[0].neighbours, by_user)
        places = items_read.number(rated), users_read.number(raters)
        numberings = {USER_TYPE: users_read, ITEM_TYPE: items_read}
        destinations = {USER_TYPE: users, ITEM_TYPE: items}
        others = tuple(
            self._relation_block(
                step,
                tensors,
                destinations[tensors.direction.destination_type],
                numberings.get(tensors.direction.source_type),
                key,
            )
            for tensors, key in zip(self._directions, relation_keys, strict=True)
        )
        owners = torch.repeat_interleave(users, of_users, output_size=len(by_user))
        residuals = lists[0].ratings(by_user)
        residuals -= biases.predict(owners, rated)
        to_users = Block(
            offsets_of(of_users),
            places[0],
            residuals,
            take(biases.user_degrees, users),
            # Shared items: the sources are the items of all processes.
            biases.item_degrees.clone()
            if self._every_item
            else take(biases.item_degrees, items_read.nodes),
            ages=None if self._times is None else self._times[0].ages(by_user, of_users),
        )
        owners = torch.repeat_interleave(items, of_items, output_size=len(by_item))
        residuals = lists[1].ratings(by_item)
        residuals -= biases.predict(raters, owners)
        to_items = Block(
            offsets_of(of_items),
            places[1],
            residuals,
            take(biases.item_degrees, items),
            take(biases.user_degrees, users_read.nodes),
            ages=None if self._times is None else self._times[1].ages(by_item, of_items),
        )
        return LayerBlocks(to_users, to_items, others)

    def _relation_block(
        self,
        step: Step,
        tensors: DirectionTensors,
        nodes: Tensor,
        sources: Numbering | None,
        key: int,
    ) -> RelationBlock:
        """The block of users or items along a direction of a relation.

        Args:
            step: the step whose targets are left out of relations between users and items.
            tensors: the direction's edges.
            nodes: int64 [D] destinations.
            sources: gives neighbours their numbers; None for labels, which keep their indices.
            key: of the sample.
        """
        kind = tensors.direction
        starts, degrees = take(tensors.starts, nodes), take(tensors.counts, nodes)
        edges, counts = _sample(nodes, starts, degrees, self.config.relation_fanout, key)
        neighbours = take(tensors.neighbours, edges)
        if self.config.exclude_targets and {kind.source_type, kind.destination_type} == {
            USER_TYPE,
            ITEM_TYPE,
        }:
            owners = torch.repeat_interleave(counts, output_size=len(edges))
            ends = take(nodes, owners), neighbours.long()
            users, items = ends if kind.destination_type == USER_TYPE else ends[::-1]
            # Pairs that are no ratings too, so that a missing edge gives nothing away.
            assert isinstance(step.fold, Fold)  # see `check_directions`
            held = (take(self._in_step, users) >= 0) & step.fold.holds(users, items)
            counts = counts - torch.bincount(owners[held], minlength=len(counts))
            edges, neighbours = edges[~held], neighbours[~held]
        block = Block(
            offsets_of(counts),
            neighbours if sources is None else sources.number(neighbours),
            tensors.shares(edges, counts),
            degrees.float(),
        )
        return RelationBlock(kind.name, kind.destination_type, kind.source_type, block)

    def _labels_of_unseen(
        self, step: Step, unseen: Tensor, number: int
    ) -> tuple[RelationBlock, ...]:
        """The labels that unseen items read; the last layer's, for all layers."""
        if not len(unseen) or not self._directions:
            return ()
        relation_keys = self._relation_keys(step.fold, number)
        return tuple(
            self._relation_block(step, tensors, unseen, None, key)
            for tensors, key in zip(self._directions, relation_keys[0], strict=True)
            if tensors.direction.reads_labels and tensors.direction.destination_type == ITEM_TYPE
        )

    def _edges_of_users(
        self, step: Step, nodes: Tensor, fanout: int, key: int
    ) -> tuple[Tensor, Tensor]:
        """The edges that users read, and how many each user reads.

        This process's users of the step come first and read from their support; other users read
        from all their ratings. Users of the step that belong to other processes may be among these,
        and read from their support too.
        """
        mine = slice(step.first, step.last)
        own_counts = step.counts[mine]
        num_own = step.last - step.first
        if fanout < 0:
            own_edges = step.own_support
        else:
            own = nodes[:num_own]
            of_own, own_counts = _sample(own, step.starts[mine], own_counts, fanout, key)
            own_edges = take(step.support, of_own)
        others = nodes[num_own:]
        starts, counts = take(self._by_user.starts, others), take(self._by_user.counts, others)
        if not self._every_item or self.world.size == 1:
            of_others, counts = _sample(others, starts, counts, fanout, key)
            return torch.cat((own_edges, of_others)), torch.cat((own_counts, counts))
        places = take(self._in_step, others)
        inside = places >= 0
        places = places.clamp(min=0)
        # Positions in the step's support are numbered after those in all edges.
        starts = torch.where(inside, take(step.starts, places) + self._num_edges, starts)
        counts = torch.where(inside, take(step.counts, places), counts)
        of_others, counts = _sample(others, starts, counts, fanout, key)
        supported = (of_others >= self._num_edges).nonzero().squeeze(1)
        of_others[supported] = take(step.support, of_others[supported] - self._num_edges)
        return torch.cat((own_edges, of_others)), torch.cat((own_counts, counts))

    def _edges_of_items(
        self, step: Step, nodes: Tensor, fanout: int, key: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The edges that items read, how many each item reads, and their raters; no targets."""
        lists = self._by_item
        starts, counts = take(lists.starts, nodes), take(lists.counts, nodes)
        edges, counts = _sample(nodes, starts, counts, fanout, key)
        raters = take(lists.neighbours, edges)
        if not self.config.exclude_targets:
            return edges, counts, raters
        suspects = (take(self._in_step, raters) >= 0).nonzero().squeeze(1)
        if not len(suspects):
            return edges, counts, raters
        owners = torch.repeat_interleave(counts, output_size=len(edges))
        places = take(owners, suspects)
        of_suspects = take(raters, suspects).long()
        if isinstance(step.fold, TimeFold):
            ids = self._times_by_item.edge_ids(take(edges, suspects))
            holds = step.fold.hides(of_suspects, ids)
        else:
            holds = step.fold.holds(of_suspects, take(nodes, places))
        if step.hidden is not None:
            in_step = take(self._in_step, take(raters, suspects))
            holds |= take(step.hidden.users, in_step)
        keep = torch.ones(len(edges), dtype=torch.bool, device=self.device)
        keep[suspects.masked_select(holds)] = False
        lost = torch.bincount(places.masked_select(holds), minlength=len(counts))
        return edges.masked_select(keep), counts - lost, raters.masked_select(keep)


def check_directions(config: LoaderConfig, directions: Sequence[Direction]) -> None:
    """Refuse relations between users and items where folds are cut by time.

    A pair that is no rating has no time, so it cannot be left out of the relation as a rating of
    the same time would be.

    Raises:
        UsageError: there is such a relation.
    """
    if config.folds_by != "time":
        return
    for one in directions:
        if {one.source_type, one.destination_type} == {USER_TYPE, ITEM_TYPE}:
            raise UsageError(
                f"loader.folds_by = time: relation {one.name} is between users and items, and its "
                "pairs have no place in time; leave it out of model.relations, or take folds_by "
                "chance"
            )


def _sample(
    nodes: Tensor, starts: Tensor, counts: Tensor, fanout: int, key: int
) -> tuple[Tensor, Tensor]:
    """Positions sampled from D ranges, and how many from each: the fan-out, or all it has.

    Args:
        nodes: int64 [D]; the nodes of the ranges; with the key they decide the samples.
        starts: int64 [D].
        counts: int64 [D].
        fanout: -1 takes all.
        key: below 2^63; different for each layer of each step.
    """
    if fanout < 0:
        return ragged(starts, counts), counts
    return sample_stretches(starts, counts, fanout, chances(nodes, key))
