"""The users of a step: what of their ratings is predicted, and from what."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from dglrec.sampling.folds import Split
from dglrec.sampling.tensors import take
from dglrec.sampling.time_folds import AnyFold


@dataclass(frozen=True)
class Step:
    """The users of a step, N of them, their B targets, and what they are predicted from."""

    users: Tensor  # int64 [N]
    fold: AnyFold
    split: Split
    ratings: Tensor  # float32 [B], the targets'
    support: Tensor  # int64 edge ids, one user's after the other's
    counts: Tensor  # int64 [N] support of each user
    first: int  # of the users that are this process's
    last: int  # one past them
    hidden: "Hidden | None" = None  # None where nothing is
    starts: Tensor = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "starts", self.counts.cumsum(0) - self.counts)

    def without_ratings_of(self, unseen: Tensor) -> "Step":
        """The same, some of its users, bool [N], being known by no rating."""
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
        """Where the targets of this process's users stand among all, which are in users' order."""
        ends = torch.tensor([self.first, self.last], device=self.split.owners.device)
        low, high = torch.searchsorted(self.split.owners, ends).tolist()
        return slice(low, high)

    @property
    def own_support(self) -> Tensor:
        """That of this process's users."""
        before, own = self.counts[: self.first], self.counts[self.first : self.last]
        start = int(before.sum())
        return self.support[start : start + int(own.sum())]


@dataclass(frozen=True)
class Hidden:
    """Ratings that are no targets and must not be read: of unseen users all, and what is later."""

    users: Tensor  # bool [N], those that count as unseen
    edges: Tensor  # int64 [R] edge ids: the support of these, and what is later than targets
    owners: Tensor  # int64 [R] whose they are

    def beside(self, other: "Hidden") -> "Hidden":
        """What either of two hides, no edge being hidden by both."""
        return Hidden(
            self.users | other.users,
            torch.cat((self.edges, other.edges)),
            torch.cat((self.owners, other.owners)),
        )
