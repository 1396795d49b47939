"""The layout of all steps of a pass: their users, the keys of random choices, and their room."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from dglrec.graph import RatingGraph, node_chunks
from dglrec.relations import Direction
from dglrec.sampling.config import seed_of
from dglrec.sampling.draws import Draw
from dglrec.sampling.folds import Fold, is_target
from dglrec.sampling.packed.parts import LEAST_ROOM, Layout, Room
from dglrec.sampling.schedule import UserSchedule
from dglrec.sampling.tensors import take
from dglrec.sampling.unseen import count_as_unseen

FOLD, NUMBER, UNSEEN, SAMPLES = range(4)  # places of a step's keys


class PackedPasses(UserSchedule):
    """Lays out passes for batches of fixed shapes; see `PackedBatchLoader`.

    Arguments are those of `UserSchedule`.
    """

    def _set_up(self, graph: RatingGraph, directions: Sequence[Direction]) -> None:
        super()._set_up(graph, directions)
        self._biases = self._biases.with_nobody()
        self._nobody = graph.num_users
        self._chunks = node_chunks(graph.by_user.offsets)
        self._offsets = graph.by_user.offsets
        none = torch.zeros(1, dtype=torch.int64, device=self.device)
        self._starts = torch.cat((self._by_user.starts, none))
        self._counts = torch.cat((self._by_user.counts, none))
        self._catalogue = torch.arange(graph.num_items, device=self.device)
        # Of all of a step, and of this process's part; the same for a single process.
        self._rooms = LEAST_ROOM, LEAST_ROOM

    def _layout(self, fold: Fold) -> Layout:
        """Users and room of a pass's steps; the only place where the host waits for the device."""
        order, cuts = self._order(fold.epoch, fold.number)
        steps = len(cuts) - 1
        first = fold.number * steps
        keys = torch.tensor(
            [self._keys(fold, number) for number in range(first, first + steps)],
            device=self.device,
        )
        edges_until = _until(take(self._counts, order))
        targets_until = _until(take(self._targets_of_users(fold), order))
        hidden = torch.stack([self._is_unseen(key[UNSEEN]).sum() for key in keys])
        parts = [list(itertools.pairwise(cuts))]
        if self.world.size > 1:
            parts.append(self._own_parts(edges_until.cpu(), cuts))
        bounds = torch.tensor(parts, device=self.device)
        edges, of_steps = _between(edges_until, bounds), _between(targets_until, bounds)
        figures = torch.stack((edges, of_steps, edges - of_steps, hidden.expand_as(edges)))
        most, counts = figures.amax(2).T.tolist(), of_steps.tolist()
        self._rooms = self._room_for(parts[0], most[0], 0), self._room_for(parts[-1], most[-1], 1)
        own = None
        if self.world.size > 1:
            own = self._users_of(order, bounds[1], self._rooms[1])
        return Layout(
            users=self._users_of(order, bounds[0], self._rooms[0]),
            own=own,
            held=[count > 0 for count in counts[0]],
            targets=counts[-1],
            keys=keys,
            drawn=None if self._draw is None else self._numbers(self._draw, fold, order, bounds),
        )

    def _numbers(self, draw: Draw, fold: Fold, order: Tensor, bounds: Tensor) -> Tensor:
        """[steps, M] random numbers of this process's pools, drawn on the host."""
        liked = [0] * bounds.shape[1]
        if draw.least is not None:
            until = _until(take(self._targets_of_users(fold, draw.least), order))
            liked = _between(until, bounds[-1]).tolist()
        first, host = fold.number * len(liked), torch.Generator()
        return torch.stack(
            [
                draw.numbers(count, host.manual_seed(self._pool_seed(number, fold)))
                for number, count in enumerate(liked, start=first)
            ]
        ).to(self.device)

    def _own_parts(self, edges_until: Tensor, cuts: list[int]) -> list[tuple[int, int]]:
        """This process's users of each step: the first, and one past the last."""
        rank, found = self.world.rank, []
        for first, last in itertools.pairwise(cuts):
            bounds = self.world.cut(edges_until[first + 1 : last + 1] - edges_until[first])
            found.append((first + bounds[rank], first + bounds[rank + 1]))
        return found

    def _room_for(self, parts: list[tuple[int, int]], most: list[int], number: int) -> Room:
        """The room so far, or more if a step needs it."""
        users = max(last - first for first, last in parts)
        return self._rooms[number].holding(Room(users, *most))

    def _users_of(self, order: Tensor, bounds: Tensor, room: Room) -> Tensor:
        """int64 [steps, N + 1]: the users between bounds, padded with nobody."""
        places = bounds[:, :1] + torch.arange(room.users + 1, device=self.device)
        inside = places < bounds[:, 1:]
        return order[places.clamp(max=len(order) - 1)].masked_fill(~inside, self._nobody)

    def _targets_of_users(self, fold: Fold, least: float | None = None) -> Tensor:
        """int64 [U + 1]: how many targets each user has in a pass, with ratings from `least` on."""
        found = torch.zeros(self._nobody + 1, dtype=torch.int64, device=self.device)
        for first, last in self._chunks:
            low, high = int(self._offsets[first]), int(self._offsets[last])
            users = torch.arange(first, last, device=self.device).repeat_interleave(
                self._counts[first:last], output_size=high - low
            )
            holds = fold.holds(users, self._by_user.neighbours[low:high])
            if least is not None:
                holds &= self._by_user.ratings(slice(low, high)) >= least
            found.index_add_(0, users, holds.long())
        return found

    def _keys(self, fold: Fold, number: int) -> list[int]:
        """Keys of a step's random choices: the fold, unseen items, and each layer's samples.

        A layer samples for users, for items, and for each direction of relations.
        """
        unseen = seed_of("unseen", self.seed, fold.epoch, number) << 31
        of_ratings = self._sample_keys(fold, number)
        of_layers = zip(of_ratings, self._relation_keys(fold, number), strict=True)
        samples = itertools.chain(*((*keys, *others) for keys, others in of_layers))
        return [fold.key, fold.number, unseen, *samples]

    def _is_target(self, users: Tensor, items: Tensor, keys: Tensor) -> Tensor:
        """Whether each of n ratings is a target of a step, bool [n]; see `Fold.holds`."""
        pairs = users * self._num_items + items
        return is_target(pairs, keys[FOLD], self._folds, keys[NUMBER])

    def _is_unseen(self, key: Tensor) -> Tensor:
        """Whether each item counts as unseen in a step, bool [I]; see `hide_items`."""
        return count_as_unseen(self._catalogue, self.config.unseen_items, key)


def _until(counts: Tensor) -> Tensor:
    """int64 [n] -> int64 [n + 1] running sums, from 0 on."""
    return torch.cat((counts.new_zeros(1), counts.cumsum(0)))


def _between(until: Tensor, bounds: Tensor) -> Tensor:
    """int64 [...]: differences of running sums between bounds, int64 [..., 2]."""
    return take(until, bounds.flatten()).view_as(bounds).diff(dim=-1).squeeze(-1)
