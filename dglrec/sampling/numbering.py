"""Which nodes of one type a step reads, and what number each of them has in it."""

from typing import Protocol

import torch
from torch import Tensor

from dglrec.kernels import number_rows


class Numbering(Protocol):
    """Nodes of one type that a step reads; those of a layer's destinations come first."""

    @property
    def nodes(self) -> Tensor:
        """int64 [N] indices of the data set, in the order of their numbers."""

    def number(self, ids: Tensor) -> Tensor:
        """int32 or int64 [n] the numbers of n indices of the data set, which are read from now."""

    def forget(self) -> None:
        """Leave what the numbers were kept in as it was found."""


class Every:
    """All nodes there are, in their order: a node's number is its index.

    Args:
        first: of this process's share.
        last: one past it.
        device: where they are wanted.
    """

    def __init__(self, first: int, last: int, device: torch.device) -> None:
        self.nodes = torch.arange(first, last, device=device)

    def number(self, ids: Tensor) -> Tensor:
        """The indices themselves."""
        return ids

    def forget(self) -> None:
        """Nothing is kept."""


class Reached:
    """The nodes that were asked for, numbered as they were met.

    Args:
        table: int32 [N], -1 everywhere; used until `forget`.
    """

    def __init__(self, table: Tensor) -> None:
        self._table = table
        self._parts: list[Tensor] = []
        self._count = 0

    @property
    def nodes(self) -> Tensor:
        """int64 [N] those met so far."""
        if len(self._parts) != 1:
            none = torch.empty(0, dtype=torch.int64, device=self._table.device)
            self._parts = [torch.cat(self._parts or [none])]
        return self._parts[0]

    def number(self, ids: Tensor) -> Tensor:
        """int32 [n] the numbers of n indices of the data set."""
        numbers, fresh = number_rows(ids, self._table, self._count)
        if len(fresh):
            self._parts.append(fresh)
            self._count += len(fresh)
        return numbers

    def forget(self) -> None:
        """Take the numbers out of the table, so that another step can use it."""
        self._table[self.nodes] = -1
