"""The interface through which loaders draw the items that lists are learned from."""

from typing import Protocol

import torch
from torch import Tensor

from dglrec.blocks import Pool


class Draw(Protocol):
    """Draws a step's pool of items: at once, or random numbers first and the items later.

    With fixed shapes, the random numbers of a pass are drawn on the host beforehand, so that no
    step waits for them, and every device draws the same items. Both ways give the same items.
    """

    @property
    def least(self) -> float | None:
        """The least rating with which a target's item may be drawn; None where any may be."""

    def __call__(self, items: Tensor, ratings: Tensor, generator: torch.Generator) -> Pool:
        """A pool, whose rows are still the items themselves.

        Args:
            items: int32 or int64 [B] of the step's targets.
            ratings: float32 [B] of the targets.
            generator: on the pool's device.
        """

    def numbers(self, liked: int, generator: torch.Generator) -> Tensor:
        """[M] numbers that decide which items are drawn, on the generator's device.

        Args:
            liked: how many targets have a rating of `least` or more.
            generator: of the random numbers.
        """

    def fixed(self, numbers: Tensor, items: Tensor, ratings: Tensor, present: Tensor) -> Pool:
        """The same pool in a shape that depends on the number of draws alone.

        Args:
            numbers: from `numbers`, on the pool's device.
            items: int64 [B].
            ratings: float32 [B].
            present: float32 [B]; 1 for a target, 0 for padding.
        """
