"""Rows by age: the time from the user's last training rating to the rating of the row.

The age says how old the model's knowledge of the user is. Rows of users without a training rating
have no age.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from dglrec.dataset import HeldOut, RatingDataset
from dglrec.distributed import World
from dglrec.evaluate.rows import Grouping

_GROUPS = 5


class Ages(NamedTuple):
    """Rows in up to five groups by age, equal in size but for ties; then a group without an age.

    Attributes:
        grouping: of this process's rows.
        ranges: the lowest and the highest age in each group but the last, over the rows of all
            processes, in the unit of the timestamps.
    """

    grouping: Grouping
    ranges: list[tuple[int, int]]


def by_age(rows: HeldOut, dataset: RatingDataset, world: World) -> Ages | None:
    """Rows by age; None where they have no timestamps, or none has an age.

    Args:
        rows: this process's share.
        dataset: the data set of the rows.
        world: the processes that share the rows; all of them get the same groups.
    """
    if dataset.graph.times is None or rows.times is None:
        return None
    users = rows.users.numpy()
    is_known = (dataset.graph.by_user.degrees > 0)[users]
    ages = rows.times.numpy() - dataset.graph.last_times()[users]
    known_ages = torch.from_numpy(ages[is_known])
    all_ages = np.sort(torch.cat(world.gather_parts(known_ages)).numpy())
    if not len(all_ages):
        return None
    cuts = np.unique(all_ages[np.arange(1, _GROUPS) * len(all_ages) // _GROUPS])
    cuts = cuts[cuts > all_ages[0]]
    starts = np.searchsorted(all_ages, cuts)
    firsts, lasts = np.concatenate(([0], starts)), np.concatenate((starts, [len(all_ages)]))
    ranges = [
        (int(all_ages[first]), int(all_ages[last - 1]))
        for first, last in zip(firsts, lasts, strict=True)
    ]

    def group(part: slice) -> npt.NDArray[np.int64]:
        groups = np.searchsorted(cuts, ages[part], side="right")
        return np.where(is_known[part], groups, len(ranges))

    return Ages(Grouping(len(ranges) + 1, group), ranges)
