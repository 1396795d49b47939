"""The users and items that a fitted baseline can score: those of its data set."""

from functools import cached_property

from torch import Tensor

from dglrec.errors import UsageError
from dglrec.ids import IdMap
from dglrec.infer import likeness_of
from dglrec.infer.diverse import DiverseBy, Likeness
from dglrec.kernels import ItemLists
from dglrec.run import TrainedBaseline


class BaselineScorer:
    """Lists and scores of a baseline, with the interface of `Scorer` and `ListScorer`.

    Args:
        trained: a run's baseline.
        by_rating: whether `pairs` returns predicted ratings, not the scores that order lists.
    """

    def __init__(self, trained: TrainedBaseline, *, by_rating: bool = False) -> None:
        self._trained, self._by_rating = trained, by_rating

    def best(self, users: Tensor, left_out: ItemLists, k: int) -> tuple[Tensor, Tensor]:
        """The best items for each of n users; see `Scorer.best`."""
        return self._trained.best(users, left_out, k)

    def pairs(self, users: Tensor, items: Tensor) -> Tensor:
        """Scores of n pairs, float32 [n]."""
        if self._by_rating:
            return self._trained.predict(users, items)
        return self._trained.rank_pairs(users, items)


class BaselineRoster:
    """The users and items of a baseline, with the interface of `Roster`.

    Args:
        trained: a run's baseline.
    """

    def __init__(self, trained: TrainedBaseline) -> None:
        self._trained = trained
        self.users: IdMap = trained.dataset.users
        self.items: IdMap = trained.dataset.items

    @property
    def count(self) -> int:
        """The number of user rows."""
        return len(self.users)

    def places(self, users: Tensor) -> Tensor:
        """The rows of users, which are their indices here; see `Roster.places`."""
        return users

    def likeness(self, by: DiverseBy) -> Likeness:
        """The similarity of the items.

        Raises:
            UsageError: the data set has no genres, or `by` is `embedding`.
        """
        return likeness_of(by, self._trained.dataset, None)

    def prepare(self) -> None:
        """Nothing to prepare."""

    @cached_property
    def rated(self) -> ItemLists:
        """The items that each user rated, in any split."""
        return self._trained.dataset.rated_items()

    def scorer(self) -> BaselineScorer:
        """Predicts ratings of pairs."""
        return BaselineScorer(self._trained, by_rating=True)

    def ranker(self, catalogue: Tensor | None = None) -> BaselineScorer:
        """Makes lists of all items; a smaller catalogue is refused with its option.

        Raises:
            ValueError: the catalogue does not hold all items.
        """
        if catalogue is not None and len(catalogue) < len(self.items):
            raise ValueError("a baseline ranks the whole catalogue")
        return BaselineScorer(self._trained)


def refused(trained: TrainedBaseline, option: str) -> UsageError:
    """The error for an option that needs a graph model."""
    return UsageError(
        f"{option} needs a graph model, and this is a run of the {trained.kind} baseline: it knows "
        "the users and items of its data set alone, and gives no reasons"
    )
