"""The fast loader on a device that must not be waited for: batches of fixed shapes.

Data flow: a pass's users and steps are laid out once -> each step's ratings, in room for as many as
the largest step has -> split into targets and support by their hashes -> sampled raters and ratings
in rows of a fan-out each -> `EdgeBatch` with marks of what is there. No shape follows from a value,
so the host waits at the start of a pass alone, and each step launches the same kernels.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from dglrec.biases import Biases, Ends
from dglrec.blocks import Block, EdgeBatch, LayerBlocks
from dglrec.graph import RatingGraph, node_chunks
from dglrec.kernels import chances, sample_fixed
from dglrec.sampling.config import LoaderConfig, seed_of
from dglrec.sampling.folds import Fold, is_target
from dglrec.sampling.unseen import count_as_unseen
from dglrec.sampling.users import UserBatchLoader, take

_SPARE = 64  # a step's room is larger by this part than the largest step so far
_FOLD, _NUMBER, _UNSEEN, _SAMPLES = range(4)  # where a step's keys stand


class PackedBatchLoader(UserBatchLoader):
    """The batches of `UserBatchLoader`, in fixed shapes.

    Each batch has the same targets, samples and biases as that loader's of the same number. What
    differs is how they stand: a step has room for as many users, ratings and targets as the largest
    step of the epoch so far; room that is not needed is a user who has rated nothing, and ratings
    and targets that weigh 0. Raters are not numbered: each sampled rating of an item is a user of
    the batch, and one who was sampled twice is encoded twice. A sampled rating that is a target
    weighs 0 instead of being taken out.

    For one process that encodes all items, and whose users' fan-outs before the last layer and
    items' fan-outs are numbers.

    Args:
        graph: the training ratings.
        biases: fitted to them.
        config: batch size, folds and fan-outs.
        seed: with the epoch it decides the order of the users, the folds and every sample.
        device: where graph and batches live.
        compile: whether `torch.compile` is to make fewer, larger kernels of what makes a batch.

    Raises:
        ValueError: the configuration's shapes cannot be fixed; see `can_pack`.
    """

    def __init__(
        self,
        graph: RatingGraph,
        biases: Biases,
        config: LoaderConfig,
        seed: int = 0,
        device: torch.device | None = None,
        *,
        compile: bool = False,
    ) -> None:
        super().__init__(graph, biases, config, seed, device)
        if not can_pack(self.config):
            raise ValueError("fixed shapes take all items and fan-outs that are numbers")
        self._biases = self._biases.with_nobody()
        self._nobody = graph.num_users
        self._chunks = node_chunks(graph.by_user.offsets)
        self._offsets = graph.by_user.offsets
        none = torch.zeros(1, dtype=torch.int64, device=self.device)
        self._starts = torch.cat((self._by_user.starts, none))
        self._counts = torch.cat((self._by_user.counts, none))
        self._in_step = torch.full((graph.num_users + 1,), -1, device=self.device)
        self._catalogue = torch.arange(graph.num_items, device=self.device)
        self._room = _Room(0, 0, 0, 0, 0)
        self._make: Callable[[Tensor, Tensor], EdgeBatch] = self._packed
        if compile:
            self._make = torch.compile(self._packed, fullgraph=True, dynamic=False)

    def _batches(self, epoch: int, start: int) -> Iterator[EdgeBatch | None]:
        folds, steps = self._folds, self._steps_a_pass()
        for number_of_fold in range(start // steps, folds):
            fold = Fold(self.seed, epoch, number_of_fold, folds, self._num_items)
            layout = self._layout(fold)
            for number in range(max(start, number_of_fold * steps), (number_of_fold + 1) * steps):
                place = number % steps
                targets = layout.targets[place]
                if not targets:
                    yield None
                    continue
                batch = self._make(layout.users[place], layout.keys[place])
                yield replace(batch, num_present=targets)

    def _layout(self, fold: Fold) -> "_Layout":
        """Users and room of a pass's steps; the one place that waits for the device."""
        order, cuts = self._order(fold.epoch, fold.number)
        steps = len(cuts) - 1
        bounds = torch.tensor(cuts, device=self.device)
        zero = bounds.new_zeros(1)
        targets = self._targets_of_users(fold)
        edges_until = torch.cat((zero, take(self._counts, order).cumsum(0)))
        targets_until = torch.cat((zero, take(targets, order).cumsum(0)))
        edges, of_steps = take(edges_until, bounds).diff(), take(targets_until, bounds).diff()
        first = fold.number * steps
        keys = torch.tensor(
            [self._keys(fold, number) for number in range(first, first + steps)],
            device=self.device,
        )
        hidden = torch.stack([self._is_unseen(key[_UNSEEN]).sum() for key in keys])
        figures = torch.stack((edges, of_steps, edges - of_steps, hidden))
        most = figures.amax(1)
        most_users = max(last - first for first, last in itertools.pairwise(cuts))
        needed = most_users, *most.tolist()
        if any(map(int.__gt__, needed, self._room)):
            # With room to spare, as other shapes are compiled anew.
            self._room = _Room(
                *(
                    max(had, count + count // _SPARE, 1)
                    for had, count in zip(self._room, needed, strict=True)
                )
            )
        places = bounds[:-1].unsqueeze(1) + torch.arange(self._room.users + 1, device=self.device)
        inside = places < bounds[1:].unsqueeze(1)
        users = order[places.clamp(max=len(order) - 1)].masked_fill(~inside, self._nobody)
        return _Layout(users, of_steps.tolist(), keys)

    def _targets_of_users(self, fold: Fold) -> Tensor:
        """int64 [U + 1]: how many targets each user has in a pass."""
        found = torch.zeros(self._nobody + 1, dtype=torch.int64, device=self.device)
        for first, last in self._chunks:
            low, high = int(self._offsets[first]), int(self._offsets[last])
            users = torch.arange(first, last, device=self.device).repeat_interleave(
                self._counts[first:last], output_size=high - low
            )
            holds = fold.holds(users, self._by_user.neighbours[low:high])
            found.index_add_(0, users, holds.long())
        return found

    def _keys(self, fold: Fold, number: int) -> list[int]:
        """What chance decides by in a step: the fold, unseen items, and each layer's samples."""
        unseen = seed_of("unseen", self.seed, fold.epoch, number) << 31
        return [fold.key, fold.number, unseen, *itertools.chain(*self._sample_keys(fold, number))]

    def _is_target(self, users: Tensor, items: Tensor, keys: Tensor) -> Tensor:
        """Whether each of n ratings is a target of a step, bool [n]; see `Fold.holds`."""
        pairs = users * self._num_items + items
        return is_target(pairs, keys[_FOLD], self._folds, keys[_NUMBER])

    def _is_unseen(self, key: Tensor) -> Tensor:
        """Whether each item counts as unseen in a step, bool [I]; see `hide_items`."""
        return count_as_unseen(self._catalogue, self.config.unseen_items, key)

    def _packed(self, users: Tensor, keys: Tensor) -> EdgeBatch:
        """The batch of a step.

        Args:
            users: int64 [N + 1].
            keys: int64, see `_keys`; with the users all that differs between steps.
        """
        step = self._deal(users, keys)
        self._in_step[users] = torch.arange(len(users), device=self.device)
        ends = Ends(users, step.owners), Ends(self._catalogue, step.items)
        try:
            with self._biases.leaving_out(*ends, step.ratings, step.present):
                return self._encoded(step, keys)
        finally:
            self._in_step[users] = -1

    def _deal(self, users: Tensor, keys: Tensor) -> "_PackedStep":
        """The ratings of a step's users, dealt into targets and support."""
        lists, room = self._by_user, self._room
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
        return _PackedStep(
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

    def _encoded(self, step: "_PackedStep", keys: Tensor) -> EdgeBatch:
        """The batch of a step, whose targets the biases are without."""
        biases = self._biases
        owners = take(step.users, step.owners)
        baselines = biases.predict(owners, step.items)
        items, baselines, unseen = self._hide(step.items, baselines, keys[_UNSEEN])
        readers = _Readers(
            step.users,
            step.support_offsets[:-1] + self._num_edges,
            step.support_counts.long(),
        )
        item_degrees = take(biases.item_degrees, self._catalogue)
        layers = []
        of_layers = keys[_SAMPLES:].view(-1, 2)
        for (of_user, of_item), (user_key, item_key) in zip(
            reversed(self.config.fanouts), of_layers, strict=True
        ):
            if of_user < 0:
                to_users = self._whole_support(step)
            else:
                to_users = self._to_users(step, readers, of_user, user_key)
            to_items, raters = self._to_items(keys, len(readers.nodes), of_item, item_key)
            readers = readers.followed_by(self._readers(step, raters))
            degrees = take(biases.user_degrees, readers.nodes)
            layers.append(
                LayerBlocks(
                    to_users.given(degrees[: to_users.num_destinations], item_degrees),
                    to_items.given(item_degrees, degrees),
                )
            )
        nodes = readers.nodes
        return EdgeBatch(
            user_nodes=nodes.clamp(max=self._nobody - 1),
            item_nodes=self._catalogue,
            user_inputs=biases.user_inputs(nodes),
            item_inputs=biases.item_inputs(slice(None)),
            layers=tuple(reversed(layers)),
            users=step.owners,
            items=items,
            ratings=step.ratings,
            baselines=baselines,
            edges=step.edges,
            unseen=unseen,
            every_item=True,
            present=step.present,
            rated=step.rated,
        )

    def _hide(self, items: Tensor, baselines: Tensor, key: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Positions of items and baselines, where some count as unseen, and those: `hide_items`."""
        if not self.config.unseen_items:
            return items, baselines, items[:0]
        is_unseen = self._is_unseen(key)
        before = is_unseen.cumsum(0)
        slots = torch.where(is_unseen, before - 1, self._room.unseen)
        unseen = self._catalogue.new_zeros(self._room.unseen + 1).scatter_(
            0, slots, self._catalogue
        )
        hidden = take(is_unseen, items)
        positions = torch.where(hidden, take(slots, items) + self._num_items, items)
        without = baselines - take(self._biases.items, items) * hidden
        return positions, without, unseen[:-1]

    def _whole_support(self, step: "_PackedStep") -> "_Edges":
        """All that the step's users are known by."""
        residuals = self._by_user.ratings(step.support)
        residuals -= self._biases.predict(take(step.users, step.support_owners), step.support_items)
        return _Edges(
            step.support_offsets,
            step.support_items,
            residuals * step.support_present,
            step.support_present,
            step.support_counts,
        )

    def _to_users(
        self, step: "_PackedStep", readers: "_Readers", fanout: int, key: Tensor
    ) -> "_Edges":
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
        return _Edges.of_samples(items, residuals, there)

    def _to_items(
        self, keys: Tensor, first: int, fanout: int, key: Tensor
    ) -> tuple["_Edges", Tensor]:
        """What items read of their raters, no target's; and those, as users from `first` on."""
        lists = self._by_item
        samples, there = sample_fixed(
            lists.starts, lists.counts, fanout, chances(self._catalogue, key)
        )
        edges = samples.clamp(max=self._num_edges - 1).flatten()
        raters = take(lists.neighbours, edges).long()
        items = self._catalogue.unsqueeze(1).expand_as(samples).flatten()
        held = (take(self._in_step, raters) >= 0) & self._is_target(raters, items, keys)
        there = there & ~held.view_as(there)
        residuals = lists.ratings(edges) - self._biases.predict(raters, items)
        slots = torch.arange(first, first + len(raters), device=self.device)
        return _Edges.of_samples(slots, residuals, there), raters

    def _readers(self, step: "_PackedStep", raters: Tensor) -> "_Readers":
        """Where raters' ratings stand: of those who are users of the step, in its support."""
        places = take(self._in_step, raters)
        inside, places = places >= 0, places.clamp(min=0)
        starts = take(step.support_offsets, places) + self._num_edges
        counts = take(step.support_counts, places).long()
        return _Readers(
            raters,
            torch.where(inside, starts, take(self._starts, raters)),
            torch.where(inside, counts, take(self._counts, raters)),
        )


def can_pack(config: LoaderConfig) -> bool:
    """Whether a resolved configuration has shapes that can be fixed."""
    fanouts = config.fanouts
    return (
        config.kind == "users"
        and config.items != "reached"
        and config.exclude_targets
        and not config.unseen_users
        and config.folds_by != "time"
        and all(of_item > 0 for _, of_item in fanouts)
        and all(of_user > 0 for of_user, _ in fanouts[:-1])
    )


class _Room(NamedTuple):
    """How much a step has room for."""

    users: int
    edges: int
    targets: int
    support: int
    unseen: int


@dataclass(frozen=True)
class _Layout:
    """The steps of a pass."""

    users: Tensor  # int64 [steps, N + 1]; nobody where there are fewer, and at the end
    targets: list[int]  # how many each step has
    keys: Tensor  # int64 [steps, 3 + 2 L], see `_keys`


@dataclass(frozen=True)
class _PackedStep:
    """The users of a step, N of them and nobody, B targets and S ratings of their support."""

    users: Tensor  # int64 [N + 1]
    owners: Tensor  # int64 [B], the targets'
    items: Tensor  # int64 [B]
    edges: Tensor  # int64 [B]
    ratings: Tensor  # float32 [B]
    present: Tensor  # float32 [B]
    support: Tensor  # int64 [S] edge ids
    support_items: Tensor  # int64 [S]
    support_owners: Tensor  # int64 [S]
    support_offsets: Tensor  # int64 [N + 2]
    support_counts: Tensor  # float32 [N + 1], nobody's 0
    support_present: Tensor  # float32 [S]
    rated: tuple[Tensor, Tensor]  # int64 [N + 2] and [R], of all the ratings


class _Readers(NamedTuple):
    """Users who read, and where what they read stands: in all edges, or behind those in support."""

    nodes: Tensor
    starts: Tensor
    counts: Tensor

    def followed_by(self, other: "_Readers") -> "_Readers":
        """These and, behind them, others."""
        return _Readers(*(torch.cat(both) for both in zip(self, other, strict=True)))


class _Edges(NamedTuple):
    """A block that does not know its nodes' degrees yet."""

    offsets: Tensor
    neighbours: Tensor
    residuals: Tensor
    present: Tensor
    counts: Tensor
    fanout: int | None = None

    @staticmethod
    def of_samples(neighbours: Tensor, residuals: Tensor, there: Tensor) -> "_Edges":
        """Those of [D, f] samples, of which some are there."""
        present = there.float()
        flat = present.flatten()
        ends = torch.arange(0, there.numel() + 1, there.shape[1], device=there.device)
        return _Edges(ends, neighbours, residuals * flat, flat, present.sum(1), there.shape[1])

    @property
    def num_destinations(self) -> int:
        return len(self.offsets) - 1

    def given(self, degrees: Tensor, source_degrees: Tensor) -> Block:
        """The block, its nodes' degrees known."""
        return Block(
            offsets=self.offsets,
            neighbours=self.neighbours,
            residuals=self.residuals,
            degrees=degrees,
            source_degrees=source_degrees,
            present=self.present,
            present_counts=self.counts,
            fanout=self.fanout,
        )
