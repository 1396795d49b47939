"""Batches of fixed shapes.

Data flow: a pass's users and steps are laid out once -> each step's ratings, padded to the size of
the largest step -> split into targets and support by their hashes -> sampled raters and ratings in
rows of the fan-out -> `EdgeBatch` with marks of padding. No shape depends on a value, so the host
waits only at the start of a pass, and each step launches the same kernels.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from dglrec.biases import Biases, Ends
from dglrec.blocks import EdgeBatch, LayerBlocks
from dglrec.distributed import ALONE, World
from dglrec.graph import RatingGraph
from dglrec.relations import Direction
from dglrec.sampling.config import LoaderConfig
from dglrec.sampling.draws import Draw
from dglrec.sampling.folds import Fold
from dglrec.sampling.packed.edges import PackedEdges
from dglrec.sampling.packed.parts import PackedStep, Room
from dglrec.sampling.packed.passes import SAMPLES, UNSEEN
from dglrec.sampling.tensors import take


class PackedBatchLoader(PackedEdges):
    """The batches of `UserBatchLoader`, in fixed shapes.

    Each batch has the targets, samples and biases of that loader's batch of the same number, in
    another layout: a step has room for as many users, ratings and targets as the largest step of
    the epoch so far, padded with a user without ratings, and with ratings and targets that weigh 0.
    A sampled rating that is a target weighs 0 instead of being removed.

    Raters are not numbered. Where items sample fewer raters, in all layers, than there are users,
    each sampled rating adds a user to the batch, and a user who is sampled twice is encoded twice.
    Otherwise, all users follow those of the step in the batch; so they do where items, or users
    before the last layer, read all their ratings, or where users are read along a relation.

    Each of several processes deals the ratings of all of a step's users, as that loader does, and
    then those of its users separately, which its batch holds.

    For steps that encode all items; see `why_unpacked`.

    Args:
        graph: the training ratings.
        biases: fitted to them.
        config: batch size, folds and fan-outs.
        seed: with the epoch, it decides the order of the users, the folds and every sample.
        device: where graph and batches live.
        world: the processes that share each step.
        draw: draws the items that lists are learned from; None without lists.
        directions: of the relations that layers read in addition to the ratings.
        compile: whether `torch.compile` compiles the making of a batch into fewer, larger kernels.

    Raises:
        ValueError: the configuration's shapes cannot be fixed.
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
        compile: bool = False,
    ) -> None:
        super().__init__(graph, biases, config, seed, device, world, draw, directions)
        if why := why_unpacked(self.config, directions):
            raise ValueError(f"no fixed shapes: {why}")
        self._make: Callable[..., EdgeBatch] = self._packed
        if compile:
            self._make = torch.compile(self._packed, fullgraph=True, dynamic=False)

    def _batches(self, epoch: int, start: int) -> Iterator[EdgeBatch | None]:
        folds, steps = self._folds, self._steps_a_pass()
        for number_of_fold in range(start // steps, folds):
            fold = Fold(self.seed, epoch, number_of_fold, folds, self._num_items)
            layout = self._layout(fold)
            for number in range(max(start, number_of_fold * steps), (number_of_fold + 1) * steps):
                place = number % steps
                if not layout.held[place]:
                    yield None
                    continue
                batch = self._make(*layout.arguments(place))
                yield replace(batch, num_present=layout.targets[place])

    def _packed(
        self,
        users: Tensor,
        keys: Tensor,
        own: Tensor | None = None,
        drawn: Tensor | None = None,
    ) -> EdgeBatch:
        """The batch of a step.

        Args:
            users: int64 [N + 1], the users of all processes.
            keys: int64, see `_keys`; steps differ in these and the users alone.
            own: int64 [N' + 1], this process's users; None for a single process.
            drawn: [M], the random numbers of the pool; None without a pool.
        """
        step = self._deal(users, keys, self._rooms[0])
        mine = step if own is None else self._deal(own, keys, self._rooms[1])
        self._in_step[users] = torch.arange(len(users), device=self.device)
        ends = Ends(users, step.owners), Ends(self._catalogue, step.items)
        try:
            with self._biases.leaving_out(*ends, step.ratings, step.present):
                batch = self._encoded(step, mine, keys)
        finally:
            self._in_step[users] = -1
        if drawn is None or self._draw is None:
            return batch
        pool = self._draw.fixed(drawn, mine.items, mine.ratings, mine.present)
        return replace(batch, pool=pool)

    def _deal(self, users: Tensor, keys: Tensor, room: Room) -> PackedStep:
        """The ratings of some of a step's users, dealt into targets and support."""
        lists = self._by_user
        starts = take(self._starts, users)
        ends = take(self._counts, users).cumsum(0)
        # The last user is padding, and gets the room that is left.
        offsets = torch.cat((ends.new_zeros(1), ends[:-1], ends.new_full((1,), room.edges)))
        places = torch.arange(room.edges, device=self.device)
        owners = torch.searchsorted(offsets[1:], places, right=True)
        there = places < ends[-1]
        edges = (places + take(starts - offsets[:-1], owners)).masked_fill(~there, 0)
        items = take(lists.neighbours, edges).long()
        of_fold = self._is_target(take(users, owners), items, keys) & there
        before = torch.cat((ends.new_zeros(1), of_fold.cumsum(0)))
        targets_before, last = before[1:], before[-1]
        # Support goes to the front in its order, targets behind the room for support.
        to = torch.where(of_fold, room.support + targets_before - 1, places - targets_before)
        # Padding reads the last rating, and weighs 0. The padding of edges may exceed the room for
        # support; nothing reads the rest.
        size = room.support + room.targets
        order = places.new_full((size + 1,), room.edges - 1)
        to = torch.where(there, to, size)
        order.scatter_(0, to, places)
        support, targets = order[: room.support], order[room.support : size]
        support_offsets = offsets - take(before, offsets)
        support_counts = (support_offsets.diff() * (users < self._nobody)).float()
        last_support = ends.new_full((1,), room.support)
        target_edges = take(edges, targets)
        return PackedStep(
            users=users,
            owners=take(owners, targets),
            items=take(items, targets),
            edges=target_edges,
            ratings=lists.ratings(target_edges),
            present=(places[: room.targets] < last).float(),
            support=take(edges, support),
            support_items=take(items, support),
            support_owners=take(owners, support),
            support_offsets=torch.cat((support_offsets[:-1], last_support)),
            support_counts=support_counts,
            support_present=(places[: room.support] < ends[-1] - last).float(),
            rated=(offsets, items),
        )

    def _encoded(self, step: PackedStep, mine: PackedStep, keys: Tensor) -> EdgeBatch:
        """The batch of a step; the biases are without its targets.

        Args:
            step: with the users of all processes.
            mine: with this process's users; the same as `step` for a single process.
            keys: of the step.
        """
        biases = self._biases
        owners = take(mine.users, mine.owners)
        baselines = biases.predict(owners, mine.items)
        items, baselines, unseen = self._hide(mine.items, baselines, keys[UNSEEN])
        readers = self._readers(step, mine.users)
        num_own = len(mine.users)
        item_degrees = take(biases.item_degrees, self._catalogue)
        layers = []
        of_layers = [
            of_layer.unbind()
            for of_layer in keys[SAMPLES:].view(-1, 2 + len(self._directions)).unbind()
        ]
        labels = self._labels_of(unseen, of_layers[0][2:], keys) if of_layers else ()
        for (of_user, of_item), (user_key, item_key, *others) in zip(
            reversed(self.config.fanouts), of_layers, strict=True
        ):
            told = self._others(readers.nodes, others, keys, num_own)
            to_users = self._read_by_users(step, mine, readers, of_user, user_key, keys)
            to_items = self._read_by_items(of_item, item_key, keys)
            readers, numbers = self._among(readers, to_items.neighbours, step, num_own)
            to_items = to_items._replace(neighbours=numbers)
            degrees = take(biases.user_degrees, readers.nodes)
            layers.append(
                LayerBlocks(
                    to_users.given(degrees[: to_users.num_destinations], item_degrees),
                    to_items.given(item_degrees[self._share], degrees),
                    told,
                )
            )
        nodes = readers.nodes
        return EdgeBatch(
            user_nodes=nodes.clamp(max=self._nobody - 1),
            item_nodes=self._own_items,
            user_inputs=biases.user_inputs(nodes),
            item_inputs=biases.item_inputs(self._share),
            layers=tuple(reversed(layers)),
            users=mine.owners,
            items=items,
            ratings=mine.ratings,
            baselines=baselines,
            edges=mine.edges,
            unseen=unseen,
            unseen_others=labels,
            items_are_shared=self.world.size > 1,
            every_item=True,
            present=mine.present,
            rated=mine.rated,
        )

    def _hide(self, items: Tensor, baselines: Tensor, key: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Positions of items, baselines, and the unseen items; see `hide_items`."""
        if not self.config.unseen_items:
            return items, baselines, items[:0]
        is_unseen = self._is_unseen(key)
        before = is_unseen.cumsum(0)
        room = self._rooms[0].unseen
        slots = torch.where(is_unseen, before - 1, room)
        unseen = self._catalogue.new_zeros(room + 1).scatter_(0, slots, self._catalogue)
        hidden = take(is_unseen, items)
        positions = torch.where(hidden, take(slots, items) + self._num_items, items)
        without = baselines - take(self._biases.items, items) * hidden
        return positions, without, unseen[:-1]


def why_unpacked(config: LoaderConfig, directions: Sequence[Direction] = ()) -> str:
    """The reason why a resolved configuration's shapes cannot be fixed; empty if they can.

    Args:
        config: of the loader.
        directions: of the relations that layers read.
    """
    if config.kind != "users":
        return f"loader.kind is {config.kind}"
    if config.items == "reached":
        return "loader.items is reached: how many items a step reaches follows from values"
    if not config.exclude_targets:
        return "loader.exclude_targets is off"
    if config.unseen_users:
        return "loader.unseen_users is set"
    if config.folds_by == "time":
        return "loader.folds_by is time"
    if directions and config.relation_fanout < 0:
        return "loader.relation_fanout is all"
    if not all(one.edges.num_edges for one in directions):
        return "a relation has no edge"
    return ""
