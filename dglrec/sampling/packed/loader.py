"""Batches of fixed shapes.

Data flow: a pass's users and steps are laid out once -> each step's ratings, in room for as many as
the largest step has -> split into targets and support by their hashes -> sampled raters and ratings
in rows of a fan-out each -> `EdgeBatch` with marks of what is there. No shape follows from a value,
so the host waits at the start of a pass alone, and each step launches the same kernels.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from dglrec.biases import Biases, Ends
from dglrec.blocks import EdgeBatch, LayerBlocks
from dglrec.distributed import ALONE, World
from dglrec.graph import RatingGraph
from dglrec.kernels import chances, sample_fixed
from dglrec.sampling.config import LoaderConfig
from dglrec.sampling.draws import Draw
from dglrec.sampling.folds import Fold
from dglrec.sampling.packed.parts import Edges, PackedStep, Readers, Room
from dglrec.sampling.packed.passes import SAMPLES, UNSEEN, PackedPasses
from dglrec.sampling.users import take


class PackedBatchLoader(PackedPasses):
    """The batches of `UserBatchLoader`, in fixed shapes.

    Each batch has the same targets, samples and biases as that loader's of the same number. What
    differs is how they stand: a step has room for as many users, ratings and targets as the largest
    step of the epoch so far; room that is not needed is a user who has rated nothing, and ratings
    and targets that weigh 0. Raters are not numbered: each sampled rating of an item is a user of
    the batch, and one who was sampled twice is encoded twice. A sampled rating that is a target
    weighs 0 instead of being taken out.

    Several processes deal the ratings of all of a step's users, as that loader does, and then those
    of their own users once more, which are what their batch holds.

    For steps that encode all items, where users' fan-outs before the last layer and items' fan-outs
    are numbers; see `why_unpacked`.

    Args:
        graph: the training ratings.
        biases: fitted to them.
        config: batch size, folds and fan-outs.
        seed: with the epoch it decides the order of the users, the folds and every sample.
        device: where graph and batches live.
        world: the processes that share each step.
        draw: draws the items that lists are learned from; None where none are wanted.
        compile: whether `torch.compile` is to make fewer, larger kernels of what makes a batch.

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
        *,
        compile: bool = False,
    ) -> None:
        super().__init__(graph, biases, config, seed, device, world, draw)
        if why := why_unpacked(self.config):
            raise ValueError(f"no fixed shapes: {why}")
        self._in_step = torch.full((graph.num_users + 1,), -1, device=self.device)
        self._share = slice(*world.share_of(graph.num_items))
        self._own_items = self._catalogue[self._share]
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
            users: int64 [N + 1], those of all processes.
            keys: int64, see `_keys`; with the users all that differs between steps.
            own: int64 [N' + 1], this process's users; None where it is alone.
            drawn: [M], what chance says of the pool; None without one.
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
        # The last user is nobody, who has the room that is left.
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
        # Room that is not needed reads the last rating, and weighs 0. Of the room for edges more
        # may be left than support has room for: that has no reader.
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
        """The batch of a step, whose targets the biases are without.

        Args:
            step: the users of all processes.
            mine: those of this one; the same where it is alone.
            keys: of the step.
        """
        biases = self._biases
        owners = take(mine.users, mine.owners)
        baselines = biases.predict(owners, mine.items)
        items, baselines, unseen = self._hide(mine.items, baselines, keys[UNSEEN])
        readers = self._readers(step, mine.users)
        item_degrees = take(biases.item_degrees, self._catalogue)
        layers = []
        of_layers = keys[SAMPLES:].view(-1, 2)
        for (of_user, of_item), (user_key, item_key) in zip(
            reversed(self.config.fanouts), of_layers, strict=True
        ):
            if of_user < 0:
                to_users = self._whole_support(mine)
            else:
                to_users = self._to_users(step, readers, of_user, user_key)
            to_items, raters = self._to_items(keys, len(readers.nodes), of_item, item_key)
            readers = readers.followed_by(self._readers(step, raters))
            degrees = take(biases.user_degrees, readers.nodes)
            layers.append(
                LayerBlocks(
                    to_users.given(degrees[: to_users.num_destinations], item_degrees),
                    to_items.given(item_degrees[self._share], degrees),
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
            items_are_shared=self.world.size > 1,
            every_item=True,
            present=mine.present,
            rated=mine.rated,
        )

    def _hide(self, items: Tensor, baselines: Tensor, key: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Positions of items and baselines, where some count as unseen, and those: `hide_items`."""
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

    def _whole_support(self, step: PackedStep) -> Edges:
        """All that the step's users are known by."""
        residuals = self._by_user.ratings(step.support)
        residuals -= self._biases.predict(take(step.users, step.support_owners), step.support_items)
        return Edges(
            step.support_offsets,
            step.support_items,
            residuals * step.support_present,
            step.support_present,
            step.support_counts,
        )

    def _to_users(self, step: PackedStep, readers: Readers, fanout: int, key: Tensor) -> Edges:
        """What users read of what they rated; those of the step of their support."""
        samples, there = sample_fixed(
            readers.starts, readers.counts, fanout, chances(readers.nodes, key)
        )
        of_support = samples - self._num_edges
        edges = torch.where(
            of_support >= 0,
            take(step.support, of_support.clamp(0, len(step.support) - 1).flatten()).view_as(
                samples
            ),
            samples,
        )
        edges = edges.clamp(max=self._num_edges - 1).flatten()
        items = take(self._by_user.neighbours, edges)
        owners = readers.nodes.unsqueeze(1).expand_as(samples).flatten()
        residuals = self._by_user.ratings(edges) - self._biases.predict(owners, items)
        return Edges.of_samples(items, residuals, there)

    def _to_items(self, keys: Tensor, first: int, fanout: int, key: Tensor) -> tuple[Edges, Tensor]:
        """What items read of their raters, no target's; and those, as users from `first` on."""
        lists, nodes = self._by_item, self._own_items
        starts, counts = lists.starts[self._share], lists.counts[self._share]
        samples, there = sample_fixed(starts, counts, fanout, chances(nodes, key))
        edges = samples.clamp(max=self._num_edges - 1).flatten()
        raters = take(lists.neighbours, edges).long()
        items = nodes.unsqueeze(1).expand_as(samples).flatten()
        held = (take(self._in_step, raters) >= 0) & self._is_target(raters, items, keys)
        there = there & ~held.view_as(there)
        residuals = lists.ratings(edges) - self._biases.predict(raters, items)
        slots = torch.arange(first, first + len(raters), device=self.device)
        return Edges.of_samples(slots, residuals, there), raters

    def _readers(self, step: PackedStep, raters: Tensor) -> Readers:
        """Where raters' ratings stand: of those who are users of the step, in its support."""
        places = take(self._in_step, raters)
        inside, places = places >= 0, places.clamp(min=0)
        starts = take(step.support_offsets, places) + self._num_edges
        counts = take(step.support_counts, places).long()
        return Readers(
            raters,
            torch.where(inside, starts, take(self._starts, raters)),
            torch.where(inside, counts, take(self._counts, raters)),
        )


def why_unpacked(config: LoaderConfig) -> str:
    """Why a resolved configuration's shapes cannot be fixed; empty where they can be."""
    fanouts = config.fanouts
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
    if any(of_item < 0 for _, of_item in fanouts) or any(
        of_user < 0 for of_user, _ in fanouts[:-1]
    ):
        return "a fan-out is all, other than the last layer's of users"
    return ""
