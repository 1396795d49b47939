"""Whom and what a fitted baseline can score: the users and items of its data set."""

from functools import cached_property

from torch import Tensor

from dglrec.errors import UsageError
from dglrec.ids import IdMap
from dglrec.infer import likeness_of
from dglrec.infer.diverse import DiverseBy, Likeness
from dglrec.kernels import ItemLists
from dglrec.run import TrainedBaseline


class BaselineScorer:
    """Lists and scores of a baseline; what `Scorer` and `ListScorer` are of a graph model.

    Args:
        trained: a run's baseline.
        by_rating: whether pairs get predicted ratings, in place of what lists are ordered by.
    """

    def __init__(self, trained: TrainedBaseline, *, by_rating: bool = False) -> None:
        self._trained, self._by_rating = trained, by_rating

    def best(self, users: Tensor, left_out: ItemLists, k: int) -> tuple[Tensor, Tensor]:
        """The best items for each of n users: `Scorer.best`."""
        return self._trained.best(users, left_out, k)

    def pairs(self, users: Tensor, items: Tensor) -> Tensor:
        """Scores of n pairs, float32 [n]."""
        if self._by_rating:
            return self._trained.predict(users, items)
        return self._trained.rank_pairs(users, items)


class BaselineRoster:
    """Users and items that a baseline knows, with the interface of `Roster`.

    Args:
        trained: a run's baseline.
    """

    def __init__(self, trained: TrainedBaseline) -> None:
        self._trained = trained
        self.users: IdMap = trained.dataset.users
        self.items: IdMap = trained.dataset.items

    @property
    def count(self) -> int:
        """How many rows of users there are."""
        return len(self.users)

    def places(self, users: Tensor) -> Tensor:
        """Where users stand: all of them where they always were."""
        return users

    def likeness(self, by: DiverseBy) -> Likeness:
        """How alike its items are.

        Raises:
            UsageError: the data set knows no genres of them, or they are to have embeddings.
        """
        return likeness_of(by, self._trained.dataset, None)

    def prepare(self) -> None:
        """Nothing: a baseline is ready."""

    @cached_property
    def rated(self) -> ItemLists:
        """What each user is known to have rated, held-out rows too."""
        return self._trained.dataset.rated_items()

    def scorer(self) -> BaselineScorer:
        """Predicts ratings."""
        return BaselineScorer(self._trained, by_rating=True)

    def ranker(self, catalogue: Tensor | None = None) -> BaselineScorer:
        """What lists are made with, of all items: others are refused before.

        Raises:
            ValueError: only some items are candidates.
        """
        if catalogue is not None and len(catalogue) < len(self.items):
            raise ValueError("a baseline ranks the whole catalogue")
        return BaselineScorer(self._trained)


def refused(trained: TrainedBaseline, option: str) -> UsageError:
    """What is said where an option needs a graph model."""
    return UsageError(
        f"{option} needs a graph model, and this is a run of the {trained.kind} baseline: it knows "
        "the users and items of its data set alone, and gives no reasons"
    )
