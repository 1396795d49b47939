"""Ratings that are left out one by one, to see what a prediction rests on."""

from typing import NamedTuple

from torch import Tensor

from dglrec.blocks import Block
from dglrec.graph import Adjacency


class LeftOut(NamedTuple):
    """The K ratings of n users, each of which is left out once.

    Attributes:
        block: the ratings, on the model's device.
        owners: int64 [K] whose they are, on the model's device.
        shifts: float32 [K] by how much the user's bias is higher without the rating, likewise.
        bias: float32 [K] the user's bias without it.
        owners_here: `owners` on the CPU.
        ratings: of all users that may be asked for.
        users: int64 [n] rows of `ratings`.
    """

    block: Block
    owners: Tensor
    shifts: Tensor
    bias: Tensor
    owners_here: Tensor
    ratings: Adjacency
    users: Tensor
