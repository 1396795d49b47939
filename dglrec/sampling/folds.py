"""Which ratings of a step's users are targets: a hash of user, item and epoch decides.

A user's ratings are dealt into folds; in each pass of an epoch one fold is predicted from the
others. Whether an edge is a target is computed from the edge, so nothing is searched for.
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dglrec.kernels import (
    compiled,
    even_parts,
    hash_part_of,
    hash_parts,
    ragged,
    run_side_by_side,
    runs_compiled,
)
from dglrec.sampling.config import seed_of

_WORK_AN_EDGE = 8  # numbers read and written for each edge; see `even_parts`


@dataclass(frozen=True)
class Split:
    """The ratings of N users, dealt into B targets and their support; in the order of the users.

    Attributes:
        targets: int64 [B]; edge ids.
        owners: int64 [B]; each target's user, as a position among the users.
        items: int32 [B]; each target's item.
        support: int64 [S]; edge ids, user by user.
        support_counts: int64 [N]; how many of these each user has.
        later: ratings that are neither, and must not be read; None without such ratings.
    """

    targets: Tensor
    owners: Tensor
    items: Tensor
    support: Tensor
    support_counts: Tensor
    later: "Later | None" = None


@dataclass(frozen=True)
class Later:
    """Ratings of a step's users that are later than its targets; see `TimeFold`.

    Attributes:
        edges: int64 [R]; edge ids.
        owners: int64 [R]; each rating's user, as a position among the users.
    """

    edges: Tensor
    owners: Tensor


def is_target(pairs: Tensor, key: int | Tensor, count: int, number: int | Tensor) -> Tensor:
    """Whether each of n ratings is in a fold, bool [n].

    Args:
        pairs: int64 [n], user * I + item.
        key: `Fold.key`.
        count: how many folds there are.
        number: of the fold.
    """
    return hash_parts(pairs, key, count) == number


@dataclass(frozen=True)
class Fold:
    """The targets of one pass.

    Attributes:
        seed: of the loader.
        epoch: number of the epoch; each deals the ratings anew.
        number: of the fold, 0..count-1.
        count: how many folds there are.
        num_items: I.
    """

    seed: int
    epoch: int
    number: int
    count: int
    num_items: int

    @property
    def key(self) -> int:
        """The key that gives each seed and epoch other hashes."""
        return seed_of("folds", self.seed, self.epoch) << 31

    def holds(self, users: Tensor, items: Tensor) -> Tensor:
        """Whether each of n ratings is a target; bool [n].

        Args:
            users: int64 [n].
            items: int32 or int64 [n].
        """
        return is_target(users * self.num_items + items, self.key, self.count, self.number)

    def split(self, users: Tensor, starts: Tensor, counts: Tensor, neighbours: Tensor) -> Split:
        """Deal the ratings of N users into targets and support.

        Args:
            users: int64 [N].
            starts: int64 [N]; where each user's edges start.
            counts: int64 [N]; how many edges each user has.
            neighbours: int32 [E]; the item of every edge.
        """
        split = self._split_compiled if runs_compiled(neighbours) else self._split_anywhere
        return split(users, starts, counts, neighbours)

    def _split_anywhere(
        self, users: Tensor, starts: Tensor, counts: Tensor, neighbours: Tensor
    ) -> Split:
        edges = ragged(starts, counts)
        owners = torch.repeat_interleave(counts, output_size=len(edges))
        items = neighbours.index_select(0, edges)
        is_target = self.holds(users.index_select(0, owners), items)
        owners = owners.masked_select(is_target)
        return Split(
            targets=edges.masked_select(is_target),
            owners=owners,
            items=items.masked_select(is_target),
            support=edges.masked_select(~is_target),
            support_counts=counts - torch.bincount(owners, minlength=len(users)),
        )

    def _split_compiled(
        self, users: Tensor, starts: Tensor, counts: Tensor, neighbours: Tensor
    ) -> Split:
        """The same, several times as fast: edges are read once to count and once to write."""
        ends = np.concatenate(([0], np.cumsum(counts.numpy())))
        ratings = _Ratings(*(one.numpy() for one in (users, starts, counts, neighbours)))
        numbers = (self.num_items, self.key, self.count, self.number)
        rule = _Rule(*(np.uint64(number) for number in numbers))
        parts = even_parts(ends, _WORK_AN_EDGE)

        target_counts = np.empty(len(users), dtype=np.int64)
        run_side_by_side([partial(_count, ratings, rule, target_counts, *part) for part in parts])
        num_targets = int(target_counts.sum())
        target_starts = np.cumsum(target_counts) - target_counts
        out = _Dealt(
            target_starts=target_starts,
            support_starts=ends[:-1] - target_starts,
            targets=np.empty(num_targets, dtype=np.int64),
            owners=np.empty(num_targets, dtype=np.int64),
            items=np.empty(num_targets, dtype=ratings.neighbours.dtype),
            support=np.empty(int(ends[-1]) - num_targets, dtype=np.int64),
        )
        run_side_by_side([partial(_write, ratings, rule, out, *part) for part in parts])
        return Split(
            targets=torch.from_numpy(out.targets),
            owners=torch.from_numpy(out.owners),
            items=torch.from_numpy(out.items),
            support=torch.from_numpy(out.support),
            support_counts=counts - torch.from_numpy(target_counts),
        )


class _Ratings(NamedTuple):
    """The arguments of `Fold.split` as arrays."""

    users: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    neighbours: npt.NDArray[np.int32]


class _Rule(NamedTuple):
    """What decides whether a rating is a target: the numbers that its hash takes."""

    num_items: np.uint64
    key: np.uint64
    folds: np.uint64
    fold: np.uint64


class _Dealt(NamedTuple):
    """Where the targets and the support of each user start, and room for the arrays of `Split`."""

    target_starts: npt.NDArray[np.int64]
    support_starts: npt.NDArray[np.int64]
    targets: npt.NDArray[np.int64]
    owners: npt.NDArray[np.int64]
    items: npt.NDArray[np.int32]
    support: npt.NDArray[np.int64]


@compiled
def _count(ratings, rule, target_counts, low, high):  # type: ignore[no-untyped-def]
    users, starts, counts, neighbours = ratings
    for n in range(low, high):
        base = np.uint64(users[n]) * rule.num_items + rule.key
        found = 0
        for edge in range(starts[n], starts[n] + counts[n]):
            found += hash_part_of(base + np.uint64(neighbours[edge]), rule.folds) == rule.fold
        target_counts[n] = found


@compiled
def _write(ratings, rule, out, low, high):  # type: ignore[no-untyped-def]
    users, starts, counts, neighbours = ratings
    for n in range(low, high):
        base = np.uint64(users[n]) * rule.num_items + rule.key
        target, other = out.target_starts[n], out.support_starts[n]
        for edge in range(starts[n], starts[n] + counts[n]):
            item = neighbours[edge]
            if hash_part_of(base + np.uint64(item), rule.folds) == rule.fold:
                out.targets[target] = edge
                out.owners[target] = n
                out.items[target] = item
                target += 1
            else:
                out.support[other] = edge
                other += 1
