"""Coverage, novelty, diversity and popularity of recommended lists, whatever their accuracy."""

from dataclasses import astuple, dataclass, fields

import numpy as np
import numpy.typing as npt

from dglrec.distributed import World

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ListSums:
    """Sums over users' lists; the sums of parts add up to the sums of the whole.

    Attributes:
        counts: float64 [I]; the number of lists that hold each item of the catalogue.
        lists: the number of lists that hold an item; a user who has seen everything gets none.
        novelty: sum over lists of the mean self-information of their items, in bits.
        tail: sum over lists of the share of their items that are not in the head.
        comparable: the number of lists with two items or more, where items have features.
        similarity: sum over the comparable lists of the mean cosine between two items.
        profiles: the number of lists of users who have training items.
        list_popularity: sum over these users of the mean popularity of the list's items.
        profile_popularity: sum over these users of the mean popularity of their training items.
    """

    counts: Floats
    lists: float = 0.0
    novelty: float = 0.0
    tail: float = 0.0
    comparable: float = 0.0
    similarity: float = 0.0
    profiles: float = 0.0
    list_popularity: float = 0.0
    profile_popularity: float = 0.0

    def __add__(self, other: "ListSums") -> "ListSums":
        return ListSums(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def over(self, world: World) -> "ListSums":
        """The sums over the lists of all processes; every process must call this."""
        counts, *others = astuple(self)
        found = world.sum([*others, *counts.tolist()])
        return ListSums(np.array(found[len(others) :]), *found[: len(others)])

    def finish(self) -> dict[str, float]:
        """The figures of the lists; a figure that is not defined is left out.

        - `coverage`: the share of the catalogue's items that are in at least one list.
        - `gini`: how unevenly the catalogue is recommended, see `gini`.
        - `novelty`: mean self-information of the recommended items, -log2 of the share of training
          users who have an item (Vargas and Castells, "Rank and relevance in novelty and diversity
          metrics for recommender systems", RecSys 2011).
        - `diversity`: 1 - the mean cosine between the features of two items of a list (Ziegler et
          al., "Improving recommendation lists through topic diversification", WWW 2005).
        - `tail_share`: the share of recommended items that are not in the head of the catalogue.
        - `popularity_lift`: mean popularity in the lists over mean popularity in the users'
          training items, less 1 (Abdollahpouri et al., "The unfairness of popularity bias in
          recommendation", RMSE at RecSys 2019).
        """
        found = {"coverage": float(np.count_nonzero(self.counts)) / len(self.counts)}
        if self.lists:
            found["gini"] = gini(self.counts)
            found["novelty"] = self.novelty / self.lists
        if self.comparable:
            found["diversity"] = 1 - self.similarity / self.comparable
        if self.lists:
            found["tail_share"] = self.tail / self.lists
        if self.profiles:
            found["popularity_lift"] = self.list_popularity / self.profile_popularity - 1
        return found


def gini(counts: Floats) -> float:
    """The Gini index of n numbers that are not negative, and not all zero.

    It is half the mean absolute difference between two numbers, divided by their mean: 0 where all
    are equal, 1 - 1/n where all but one are zero.

    >>> gini(np.array([2.0, 2.0])), gini(np.array([0.0, 3.0]))
    (0.0, 0.5)
    """
    ascending = np.sort(counts)
    n = len(counts)
    return float((2 * np.arange(1, n + 1) - n - 1) @ ascending / (n * ascending.sum()))
