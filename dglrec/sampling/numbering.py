"""The nodes of one type that a step reads, and their numbers in the step."""

from typing import Protocol

import torch
from torch import Tensor

from dglrec.kernels import number_rows


class Numbering(Protocol):
    """The nodes of one type that a step reads; the destinations of each layer come first."""

    @property
    def nodes(self) -> Tensor:
        """int64 [N] indices of the data set, in the order of their numbers."""

    def number(self, ids: Tensor) -> Tensor:
        """int32 or int64 [n] numbers of n indices of the data set; gives new ones the next."""

    def forget(self) -> None:
        """Reset the table that holds the numbers."""


class Every:
    """All nodes of a type, in their order: a node's number is its index.

    Args:
        first: the first of this process's share.
        last: one past the share's last.
        device: of the indices.
    """

    def __init__(self, first: int, last: int, device: torch.device) -> None:
        self.nodes = torch.arange(first, last, device=device)

    def number(self, ids: Tensor) -> Tensor:
        """The indices, which are the numbers."""
        return ids

    def forget(self) -> None:
        """There is no table to reset."""


class Reached:
    """The nodes that were asked for, numbered in the order in which they were met.

    Args:
        table: int32 [N], -1 everywhere; used until `forget`.
    """

    def __init__(self, table: Tensor) -> None:
        self._table = table
        self._parts: list[Tensor] = []
        self._count = 0

    @property
    def nodes(self) -> Tensor:
        """int64 [N]: the nodes met so far."""
        if len(self._parts) != 1:
            none = torch.empty(0, dtype=torch.int64, device=self._table.device)
            self._parts = [torch.cat(self._parts or [none])]
        return self._parts[0]

    def number(self, ids: Tensor) -> Tensor:
        """int32 [n]: the numbers of n indices of the data set."""
        numbers, fresh = number_rows(ids, self._table, self._count)
        if len(fresh):
            self._parts.append(fresh)
            self._count += len(fresh)
        return numbers

    def forget(self) -> None:
        """Remove the numbers from the table, so that another step can use it."""
        self._table[self.nodes] = -1
