"""The parts of a step of fixed shapes.

Shapes: N users of a step, B targets, S ratings of their support, R ratings of both kinds, D nodes
that read, K edges, f a fan-out.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dglrec.blocks import Block

_SPARE = 64  # new room is larger than needed by 1 / 64


class Room(NamedTuple):
    """The sizes that a step's tensors have room for."""

    users: int
    edges: int
    targets: int
    support: int
    unseen: int

    def holding(self, needed: "Room") -> "Room":
        """The same if it is enough, or else some more than needed, as new shapes recompile."""
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
        users: int64 [steps, N + 1]; padded with nobody, at least once.
        own: int64 [steps, N' + 1]; this process's users likewise; None for a single process.
        held: whether each step has a target of any process.
        targets: how many targets of this process each step has.
        keys: int64 [steps, k]; the keys of each step's random choices.
        drawn: [steps, M]; the random numbers of each step's pool, see `Draw`; None without pools.
    """

    users: Tensor
    own: Tensor | None
    held: list[bool]
    targets: list[int]
    keys: Tensor
    drawn: Tensor | None = None

    def arguments(self, step: int) -> tuple[Tensor | None, ...]:
        """The arguments of a step's batch, which are all that differs between steps."""
        rows = self.users, self.keys, self.own, self.drawn
        return tuple(None if one is None else one[step] for one in rows)


@dataclass(frozen=True)
class PackedStep:
    """N users and nobody, the users' B targets, and the S ratings of their support."""

    users: Tensor  # int64 [N + 1]
    owners: Tensor  # int64 [B], of the targets
    items: Tensor  # int64 [B]
    edges: Tensor  # int64 [B]
    ratings: Tensor  # float32 [B]
    present: Tensor  # float32 [B]
    support: Tensor  # int64 [S] edge ids
    support_items: Tensor  # int64 [S]
    support_owners: Tensor  # int64 [S]
    support_offsets: Tensor  # int64 [N + 2]
    support_counts: Tensor  # float32 [N + 1], 0 for nobody
    support_present: Tensor  # float32 [S]
    rated: tuple[Tensor, Tensor]  # int64 offsets [N + 2] and items [R] of all ratings


class Readers(NamedTuple):
    """Users who read, and where their ratings are: in all edges, or after these, in the support."""

    nodes: Tensor
    starts: Tensor
    counts: Tensor

    def followed_by(self, other: "Readers") -> "Readers":
        """These readers, followed by others."""
        return Readers(*(torch.cat(both) for both in zip(self, other, strict=True)))


class Edges(NamedTuple):
    """A block without its nodes' degrees."""

    offsets: Tensor
    neighbours: Tensor
    residuals: Tensor
    present: Tensor
    counts: Tensor
    fanout: int | None = None

    @staticmethod
    def of_samples(neighbours: Tensor, residuals: Tensor, there: Tensor) -> "Edges":
        """The edges of [D, f] samples, some of which are padding."""
        present = there.float()
        flat = present.flatten()
        ends = torch.arange(0, there.numel() + 1, there.shape[1], device=there.device)
        return Edges(ends, neighbours, residuals * flat, flat, present.sum(1), there.shape[1])

    @staticmethod
    def unless(held: Tensor, offsets: Tensor, neighbours: Tensor, residuals: Tensor) -> "Edges":
        """K edges, of which those in `held`, bool [K], weigh 0."""
        there = ~held
        before = torch.cat((offsets.new_zeros(1), there.cumsum(0)))
        counts = before.index_select(0, offsets).diff()
        present = there.float()
        return Edges(offsets, neighbours, residuals * present, present, counts.float())

    def followed_by(self, other: "Edges") -> "Edges":
        """These edges, followed by those of other destinations; both without a fan-out."""
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
        """The block with its nodes' degrees."""
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
