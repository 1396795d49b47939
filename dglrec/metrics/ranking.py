"""Metrics of ranked lists, from the places of the relevant items among the first K.

Shapes: U users, L places of a list, K measured places, M metrics.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dglrec.distributed import World

RANKING_METRICS = ("precision", "recall", "ndcg", "hit_rate", "map", "mrr")
"""The names of the metrics at each K, in the order of the rows of `RankingSums.sums`."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RankingSums:
    """Sums over users of ranking metrics at several K; sums of parts add up to those of the whole.

    Attributes:
        ks: the lengths of lists that are measured.
        users: the number of users with a relevant item.
        sums: float64 [M, len(ks)]; each metric's sum over these users.
        squares: float64 [M, len(ks)]; the sum of each metric's squares over these users.
    """

    ks: tuple[int, ...]
    users: float
    sums: Floats
    squares: Floats

    @classmethod
    def zero(cls, ks: Sequence[int]) -> "RankingSums":
        """The sums over no users.

        Raises:
            ValueError: there is no K, or one is not positive.
        """
        if not ks or min(ks) < 1:
            raise ValueError(f"lengths of lists must be 1 or more, not {tuple(ks)}")
        shape = (len(RANKING_METRICS), len(ks))
        return cls(tuple(ks), 0.0, np.zeros(shape), np.zeros(shape))

    def __add__(self, other: "RankingSums") -> "RankingSums":
        if self.ks != other.ks:
            raise ValueError(f"sums at {self.ks} and at {other.ks} do not add up")
        return RankingSums(
            self.ks,
            self.users + other.users,
            self.sums + other.sums,
            self.squares + other.squares,
        )

    def over(self, world: World) -> "RankingSums":
        """The sums over the users of all processes; every process must call this."""
        both = np.stack((self.sums, self.squares))
        users, *totals = world.sum([self.users, *both.ravel().tolist()])
        sums, squares = np.array(totals).reshape(both.shape)
        return RankingSums(self.ks, users, sums, squares)

    def finish(self) -> dict[str, float | int]:
        """Means over users by name, such as `recall@10`, and `ranking_users`, the number of users.

        Raises:
            ValueError: there were no users with a relevant item.
        """
        self._check_users()
        return {**self._named(self.sums / self.users), "ranking_users": round(self.users)}

    def standard_errors(self) -> dict[str, float]:
        """The standard error of each mean, by the name of the metric.

        It is s / sqrt(U), where s^2 is the variance over the U users with divisor U - 1. For a
        single user it is 0.5, the largest deviation that a figure between 0 and 1 can have.

        Raises:
            ValueError: there were no users with a relevant item.
        """
        self._check_users()
        if self.users < 2:
            return self._named(np.full_like(self.sums, 0.5))
        # Where all users have the same figure, rounding can make this difference negative.
        deviations = np.maximum(self.squares - self.sums**2 / self.users, 0.0)
        return self._named(np.sqrt(deviations / (self.users - 1) / self.users))

    def _named(self, values: Floats) -> dict[str, float]:
        """Values [M, len(ks)] by name, such as `recall@10`."""
        return {
            f"{name}@{k}": float(value)
            for k, column in zip(self.ks, values.T, strict=True)
            for name, value in zip(RANKING_METRICS, column, strict=True)
        }

    def _check_users(self) -> None:
        if not self.users:
            raise ValueError("no user with a relevant item to rank")


def ranking_sums(
    relevant: npt.NDArray[np.bool_], totals: npt.NDArray[np.int64], ks: Sequence[int]
) -> RankingSums:
    """Sums of `ranking_values` over the users with a relevant item.

    Args:
        relevant: bool [U, L], as in `ranking_values`.
        totals: int64 [U]; relevant items of each user in the whole catalogue.
        ks: the lengths of lists to measure.

    Raises:
        ValueError: there is no K, or one is not positive.
    """
    zero = RankingSums.zero(ks)
    counted = totals > 0
    if not counted.any():
        return zero
    values = ranking_values(relevant[counted], totals[counted], ks)
    return RankingSums(
        zero.ks, float(counted.sum()), values.sum(axis=2), np.square(values).sum(axis=2)
    )


def ranking_values(
    relevant: npt.NDArray[np.bool_], totals: npt.NDArray[np.int64], ks: Sequence[int]
) -> Floats:
    """Metrics of each user's list, float64 [M, len(ks), U], in the order of `RANKING_METRICS`.

    For a user with R relevant items, h of them in the first K places of the list:

    - precision is h / K, recall is h / R, and the hit rate is 1 if h > 0, else 0;
    - nDCG is DCG with binary relevance and a logarithmic discount, divided by the DCG of the best
      possible list of K (Jarvelin and Kekalainen, "Cumulated gain-based evaluation of IR
      techniques", ACM TOIS 20(4), 2002);
    - MAP is the sum of the precisions at the places of the h items, divided by min(K, R);
    - MRR is 1 / the place of the first relevant item, 0 if the first K places hold none.

    Args:
        relevant: bool [U, L]; whether the item at each place is relevant, best place first. Places
            from L + 1 to K count as not relevant.
        totals: int64 [U]; relevant items of each user in the whole catalogue, 1 or more.
        ks: the lengths of lists to measure.
    """
    length = relevant.shape[1]
    places = np.arange(1, max(length, *ks) + 1)
    discounts = 1 / np.log2(places + 1)
    found = np.cumsum(relevant, axis=1, dtype=np.float64)
    gains = np.cumsum(relevant * discounts[:length], axis=1)
    precisions = np.cumsum(relevant * found / places[:length], axis=1)
    first_place = np.where(relevant.any(axis=1), relevant.argmax(axis=1) + 1.0, np.inf)
    best_gains = np.cumsum(discounts)
    values = np.empty((len(RANKING_METRICS), len(ks), len(totals)))
    for column, k in enumerate(ks):
        last = min(k, length) - 1
        reachable = np.minimum(totals, k)
        of_users = {
            "precision": found[:, last] / k,
            "recall": found[:, last] / totals,
            "ndcg": gains[:, last] / best_gains[reachable - 1],
            "hit_rate": found[:, last] > 0,
            "map": precisions[:, last] / reachable,
            "mrr": np.where(first_place <= k, 1 / first_place, 0.0),
        }
        values[:, column] = [of_users[name] for name in RANKING_METRICS]
    return values
