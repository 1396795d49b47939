"""What comes next by the graph of items that follow each other: a user is its last items.

With C_ab how often item b came right after item a in a session (`derived.next_items`), or with
`session_both_ways` right before it too, r_a the sum of row a and c_b that of column b,

    P_ab = C_ab / (r_a^x c_b^(1-x)),    scores = w P + 1/2 w P^2 + 1/4 w P^3 ...

w being the user's row of last items (`recent_rows`) and the number of hops that of the terms. With
x = 1 and a hop it is a Markov chain of the first order (Rendle, Freudenthaler and Schmidt-Thieme,
"Factorizing personalized Markov chains for next-basket recommendation", WWW 2010, section 4.1) read
from several last items in place of one; smaller x take from what is popular.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import Tensor

from dglrec.baselines.config import BaselineConfig, fixed
from dglrec.baselines.dense import check_state
from dglrec.baselines.positives import kept_of
from dglrec.baselines.ranker import Floats, Known, Ranker
from dglrec.baselines.recent import gap_of, recent_rows, times_of
from dglrec.dataset import RatingDataset
from dglrec.derived import next_items

_EACH_HOP = np.float32(0.5)
_BYTES_AN_EDGE = 64  # sorted columns, and counts of pairs twice


class FollowingItems(Ranker):
    """Ranks by how items follow a user's last ones.

    Args:
        rows: float32 [U, I], the users' last items.
        degrees: int64 [I] training rows of each item.
        transitions: P, float32 [I, I].
        hops: how many terms there are, at least 1.
    """

    def __init__(
        self,
        rows: sparse.csr_array,
        degrees: npt.NDArray[np.int64],
        transitions: sparse.csr_array,
        hops: int,
    ) -> None:
        super().__init__(rows, degrees)
        transitions.check_format(full_check=True)
        self.transitions, self.hops = transitions, hops
        self._degrees = degrees

    @classmethod
    def fit(
        cls, dataset: RatingDataset, config: BaselineConfig, known: Known | None = None
    ) -> "FollowingItems":
        """Count what follows what.

        Raises:
            UsageError: the data set has no timestamps, or no item is positive.
        """
        times = times_of(dataset, "session")
        kept = kept_of(dataset, fixed(config.positives))
        # In-edges are columns here: a row holds what an item leads to.
        counts = next_items(dataset.graph, times, gap_of(config), kept=kept).matrix().T.tocsr()
        if fixed(config.session_both_ways):
            counts = (counts + counts.T).tocsr()
        return cls(
            recent_rows(dataset, config, "session", whole_history=True),
            dataset.graph.by_item.degrees,
            normalised_counts(counts, fixed(config.session_exponent)),
            fixed(config.session_hops),
        )

    @classmethod
    def load(
        cls, state: Mapping[str, Tensor], dataset: RatingDataset, config: BaselineConfig
    ) -> "FollowingItems":
        """The one that `state` came from: fitted again, which takes seconds.

        Raises:
            ValueError: it came from another model.
        """
        check_degrees(state, dataset)
        return cls.fit(dataset, config)

    @classmethod
    def footprint(
        cls, dataset: RatingDataset, config: BaselineConfig, processes: int, searching: bool
    ) -> int:
        """See `Ranker.footprint`."""
        return _BYTES_AN_EDGE * dataset.graph.num_edges * (processes + searching)

    def state(self) -> dict[str, Tensor]:
        """`degrees`, int64 [I]; all else is made of the training rows again."""
        return {"degrees": torch.from_numpy(self._degrees)}

    def score_rows(self, rows: sparse.csr_array) -> Floats:
        """What follows the items of n rows, float32 [n, I]."""
        step = rows @ self.transitions
        scores = step
        for _ in range(1, self.hops):
            step = (step @ self.transitions) * _EACH_HOP
            scores = scores + step
        out: Floats = scores.toarray().astype(np.float32, copy=False)
        return out


def normalised_counts(counts: sparse.csr_array, exponent: float) -> sparse.csr_array:
    """C_ab / (r_a^x c_b^(1-x)), float32 [I, I].

    Args:
        counts: C, float32 [I, I], 0 or more.
        exponent: x, 0 to 1.
    """
    of_rows, of_columns = (
        np.maximum(np.asarray(counts.sum(axis=axis), dtype=np.float64).ravel(), 1)
        for axis in (1, 0)
    )
    owners = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    values = counts.data / (
        of_rows[owners] ** exponent * of_columns[counts.indices] ** (1 - exponent)
    )
    return sparse.csr_array(
        (values.astype(np.float32), counts.indices, counts.indptr), shape=counts.shape
    )


def check_degrees(state: Mapping[str, Tensor], dataset: RatingDataset) -> None:
    """Refuse a state that is not of these training rows.

    Raises:
        ValueError: it is of others, or of another model.
    """
    degrees = dataset.graph.by_item.degrees
    check_state(state, {"degrees": (torch.int64, (len(degrees),))})
    if not np.array_equal(state["degrees"].numpy(), degrees):
        raise ValueError("degrees are those of other training rows")
