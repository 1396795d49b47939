"""A step: its users, their targets, and the ratings that these are predicted from."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from dglrec.sampling.folds import Split
from dglrec.sampling.tensors import take
from dglrec.sampling.time_folds import AnyFold


@dataclass(frozen=True)
class Step:
    """The N users of a step, their B targets, and the support that these are predicted from."""

    users: Tensor  # int64 [N]
    fold: AnyFold
    split: Split
    ratings: Tensor  # float32 [B], of the targets
    support: Tensor  # int64 edge ids, user by user
    counts: Tensor  # int64 [N], how many of these each user has
    first: int  # the first of this process's users
    last: int  # one past its last
    hidden: "Hidden | None" = None  # None where nothing is hidden
    starts: Tensor = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "starts", self.counts.cumsum(0) - self.counts)

    def without_ratings_of(self, unseen: Tensor) -> "Step":
        """The same without the support of some users, bool [N]."""
        owners = torch.repeat_interleave(self.counts, output_size=len(self.support))
        lost = take(unseen, owners)
        hidden = Hidden(unseen, self.support[lost], owners[lost])
        if self.hidden is not None:
            hidden = hidden.beside(self.hidden)
        return replace(
            self,
            support=self.support[~lost],
            counts=self.counts.masked_fill(unseen, 0),
            hidden=hidden,
        )

    @property
    def own_targets(self) -> slice:
        """Where the targets of this process's users are among all, which are in users' order."""
        ends = torch.tensor([self.first, self.last], device=self.split.owners.device)
        low, high = torch.searchsorted(self.split.owners, ends).tolist()
        return slice(low, high)

    @property
    def own_support(self) -> Tensor:
        """The support of this process's users."""
        before, own = self.counts[: self.first], self.counts[self.first : self.last]
        start = int(before.sum())
        return self.support[start : start + int(own.sum())]


@dataclass(frozen=True)
class Hidden:
    """Ratings that are not targets but must not be read: those of unseen users, and later ones."""

    users: Tensor  # bool [N], which users count as unseen
    edges: Tensor  # int64 [R] edge ids: the support of these, and ratings later than targets
    owners: Tensor  # int64 [R], each rating's user, as a position among the step's

    def beside(self, other: "Hidden") -> "Hidden":
        """The ratings that either of two hides; no edge may be hidden by both."""
        return Hidden(
            self.users | other.users,
            torch.cat((self.edges, other.edges)),
            torch.cat((self.owners, other.owners)),
        )
