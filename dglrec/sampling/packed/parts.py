"""What a step of fixed shape is put together from.

Shapes: N users of a step, B targets, S ratings of their support, R ratings of both kinds, D nodes
that read, K edges, f a fan-out.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dglrec.blocks import Block

_SPARE = 64  # room is larger by this part than the largest step so far


class Room(NamedTuple):
    """How much a step has room for."""

    users: int
    edges: int
    targets: int
    support: int
    unseen: int

    def holding(self, needed: "Room") -> "Room":
        """The same where it is enough, or else more than is needed: other shapes are made anew."""
        if not any(map(int.__gt__, needed, self)):
            return self
        return Room(
            *(max(had, count + count // _SPARE) for had, count in zip(self, needed, strict=True))
        )


LEAST_ROOM = Room(1, 1, 1, 1, 1)


@dataclass(frozen=True)
class Layout:
    """The steps of a pass.

    Attributes:
        users: int64 [steps, N + 1]; nobody where there are fewer, and at the end.
        own: int64 [steps, N' + 1] those of this process likewise; None where it is alone.
        held: whether each step holds a target of any process.
        targets: how many targets each step has of this process.
        keys: int64 [steps, k], what chance decides by in each step.
        drawn: [steps, M], what chance says of each step's pool, see `Draw`; None without pools.
    """

    users: Tensor
    own: Tensor | None
    held: list[bool]
    targets: list[int]
    keys: Tensor
    drawn: Tensor | None = None

    def arguments(self, step: int) -> tuple[Tensor | None, ...]:
        """What makes a step's batch: all that differs between steps."""
        rows = self.users, self.keys, self.own, self.drawn
        return tuple(None if one is None else one[step] for one in rows)


@dataclass(frozen=True)
class PackedStep:
    """N users and nobody, their B targets and the S ratings of their support."""

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


class Readers(NamedTuple):
    """Users who read, and where what they read stands: in all edges, or behind those in support."""

    nodes: Tensor
    starts: Tensor
    counts: Tensor

    def followed_by(self, other: "Readers") -> "Readers":
        """These and, behind them, others."""
        return Readers(*(torch.cat(both) for both in zip(self, other, strict=True)))


class Edges(NamedTuple):
    """A block that does not know its nodes' degrees yet."""

    offsets: Tensor
    neighbours: Tensor
    residuals: Tensor
    present: Tensor
    counts: Tensor
    fanout: int | None = None

    @staticmethod
    def of_samples(neighbours: Tensor, residuals: Tensor, there: Tensor) -> "Edges":
        """Those of [D, f] samples, of which some are there."""
        present = there.float()
        flat = present.flatten()
        ends = torch.arange(0, there.numel() + 1, there.shape[1], device=there.device)
        return Edges(ends, neighbours, residuals * flat, flat, present.sum(1), there.shape[1])

    @staticmethod
    def unless(held: Tensor, offsets: Tensor, neighbours: Tensor, residuals: Tensor) -> "Edges":
        """Those of K edges that are not held back, bool [K]."""
        there = ~held
        before = torch.cat((offsets.new_zeros(1), there.cumsum(0)))
        counts = before.index_select(0, offsets).diff()
        present = there.float()
        return Edges(offsets, neighbours, residuals * present, present, counts.float())

    def followed_by(self, other: "Edges") -> "Edges":
        """These and, behind them, those of other destinations that have no fan-out either."""
        return Edges(
            torch.cat((self.offsets, other.offsets[1:] + len(self.neighbours))),
            torch.cat((self.neighbours, other.neighbours)),
            torch.cat((self.residuals, other.residuals)),
            torch.cat((self.present, other.present)),
            torch.cat((self.counts, other.counts)),
        )

    @property
    def num_destinations(self) -> int:
        """D."""
        return len(self.offsets) - 1

    def given(self, degrees: Tensor, source_degrees: Tensor | None = None) -> Block:
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
