"""What a loader asks of those who draw the items that lists are learned from."""

from typing import Protocol

import torch
from torch import Tensor

from dglrec.blocks import Pool


class Draw(Protocol):
    """Draws a step's pool: at once, or what chance says first and the items later.

    Where shapes are fixed all that chance says of a pass is drawn on the host beforehand, so that
    no step waits for it, and every device draws the same. Both ways come to the same items.
    """

    @property
    def least(self) -> float | None:
        """The least rating of a target whose item may be drawn; None where any item may be."""

    def __call__(self, items: Tensor, ratings: Tensor, generator: torch.Generator) -> Pool:
        """A pool, its rows yet the items themselves.

        Args:
            items: int32 or int64 [B] of the step's targets.
            ratings: float32 [B] of the targets.
            generator: of the pools' device.
        """

    def numbers(self, liked: int, generator: torch.Generator) -> Tensor:
        """[M] numbers that say which items are drawn, on the generator's device.

        Args:
            liked: how many targets have a rating of `least` or more.
            generator: as for a pool.
        """

    def fixed(self, numbers: Tensor, items: Tensor, ratings: Tensor, present: Tensor) -> Pool:
        """The same pool in a shape that follows from the number of draws alone.

        Args:
            numbers: as `numbers` gives them, on the pools' device.
            items: int64 [B].
            ratings: float32 [B].
            present: float32 [B]; 1 for a target, 0 for padding.
        """
