"""The ratings that explanations leave out in turn."""

from typing import NamedTuple

from torch import Tensor

from dglrec.blocks import Block
from dglrec.graph import Adjacency


class LeftOut(NamedTuple):
    """The K ratings of n users, each of which is left out once.

    Attributes:
        block: the ratings, on the model's device.
        owners: int64 [K] the user of each rating, 0..n-1, on the model's device.
        shifts: float32 [K] by how much the user's bias is higher without the rating, on the
            model's device.
        bias: float32 [K] the user's bias without the rating, on the CPU.
        owners_here: `owners` on the CPU.
        ratings: of all users that explanations may be asked for.
        users: int64 [n] rows of `ratings`.
    """

    block: Block
    owners: Tensor
    shifts: Tensor
    bias: Tensor
    owners_here: Tensor
    ratings: Adjacency
    users: Tensor
