"""Folds of a user's ratings in the order of time: each is predicted from earlier ratings alone.

With random folds, a rating is predicted from ratings before and after it, so a model cannot learn
how the age of a rating matters for the next ones. Here a user's ratings are cut into periods; the
targets of pass f are the ratings of period f, and the support is the earlier ratings. The ratings
of the first period are predicted as for a user without ratings. Later ratings are hidden: from the
user, and from the items that it rated, at every hop.

Other users' ratings count whenever they were given. To leave out those later than a target, each
item would have to be encoded once for each target's time.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dglrec.kernels import chances, ragged
from dglrec.sampling.config import seed_of
from dglrec.sampling.folds import Fold, Later, Split


@dataclass(frozen=True)
class TimeFold:
    """The targets of one pass.

    In each epoch a random shift, shorter than a period, moves the starts of a user's periods; the
    last period is longer by as much.

    Attributes:
        seed: of the loader.
        epoch: number of the epoch.
        number: of the fold, 0..count-1, in the order of time.
        count: how many folds there are.
        ranks: int32 [E]; see `RatingGraph.ranks_in_time`.
        degrees: int64 [U]; how many ratings each user has.
    """

    seed: int
    epoch: int
    number: int
    count: int
    ranks: Tensor
    degrees: Tensor

    def numbers(self, users: Tensor, edges: Tensor) -> Tensor:
        """int64 [n]: the folds of n ratings.

        Args:
            users: int64 [n]; each rating's user.
            edges: int64 [n] edge ids.
        """
        shifts = chances(users, seed_of("folds", self.seed, self.epoch) << 31)
        ranks = self.ranks.index_select(0, edges).double()
        places = ranks * self.count / self.degrees.index_select(0, users) + shifts
        return places.long().clamp_(max=self.count - 1)

    def hides(self, users: Tensor, edges: Tensor) -> Tensor:
        """Whether each of n ratings is a target, or later than its user's targets; bool [n].

        Args:
            users: int64 [n]; each rating's user.
            edges: int64 [n] edge ids.
        """
        return self.numbers(users, edges) >= self.number

    def split(self, users: Tensor, starts: Tensor, counts: Tensor, neighbours: Tensor) -> Split:
        """Deal the ratings of N users into targets, support, and ratings later than both.

        Args:
            users: int64 [N].
            starts: int64 [N]; where each user's edges start.
            counts: int64 [N]; how many edges each user has.
            neighbours: int32 [E]; the item of every edge.
        """
        edges = ragged(starts, counts)
        owners = torch.repeat_interleave(counts, output_size=len(edges))
        numbers = self.numbers(users.index_select(0, owners), edges)
        is_target, is_later = numbers == self.number, numbers > self.number
        is_support = numbers < self.number
        targets = edges.masked_select(is_target)
        return Split(
            targets=targets,
            owners=owners.masked_select(is_target),
            items=neighbours.index_select(0, targets),
            support=edges.masked_select(is_support),
            support_counts=torch.bincount(owners.masked_select(is_support), minlength=len(users)),
            later=Later(edges.masked_select(is_later), owners.masked_select(is_later)),
        )


AnyFold = Fold | TimeFold
"""The targets of one pass, by a hash or by time."""
