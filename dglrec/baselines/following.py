"""What comes next, by the graph of items that follow each other; a user is a row of last items.

With C_ab how often item b came right after item a in a session (`derived.next_items`), or with
`session_both_ways` right before it too, r_a the sum of row a and c_b that of column b,

    P_ab = C_ab / (r_a^x c_b^(1-x)),    scores = w P + 1/2 w P^2 + 1/4 w P^3 ...

where w is the user's row of last items (`recent_rows`), and there are as many terms as hops. With
x = 1 and a single hop this is a Markov chain of the first order (Rendle, Freudenthaler and
Schmidt-Thieme, "Factorizing personalized Markov chains for next-basket recommendation", WWW 2010,
section 4.1), read from several last items rather than one; a smaller x lowers popular items.
"""

import numpy as np
import numpy.typing as npt
from scipy import sparse

from dglrec.baselines.config import BaselineConfig, fixed
from dglrec.baselines.positives import kept_of
from dglrec.baselines.ranker import Floats, Known
from dglrec.baselines.recent import gap_of, recent_rows, times_of
from dglrec.baselines.refitted import RefittedRanker
from dglrec.dataset import RatingDataset
from dglrec.derived import next_items

_EACH_HOP = np.float32(0.5)


class FollowingItems(RefittedRanker):
    """Ranks by how items follow a user's last items.

    Args:
        rows: float32 [U, I], the users' last items.
        degrees: int64 [I] training rows of each item.
        transitions: P, float32 [I, I].
        hops: the number of terms, at least 1.
    """

    bytes_an_edge = 64  # sorted columns, and two copies of the counts of pairs

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

    @classmethod
    def fit(
        cls, dataset: RatingDataset, config: BaselineConfig, known: Known | None = None
    ) -> "FollowingItems":
        """Count how often each item follows another.

        Raises:
            UsageError: the data set has no timestamps, or no item is positive.
        """
        times = times_of(dataset, "session")
        kept = kept_of(dataset, fixed(config.positives))
        # `matrix` has in-edges as rows; transposed, a row holds the items that follow its item.
        counts = next_items(dataset.graph, times, gap_of(config), kept=kept).matrix().T.tocsr()
        if fixed(config.session_both_ways):
            counts = (counts + counts.T).tocsr()
        return cls(
            recent_rows(dataset, config, "session", whole_history=True),
            dataset.graph.by_item.degrees,
            normalised_counts(counts, fixed(config.session_exponent)),
            fixed(config.session_hops),
        )

    def score_rows(self, rows: sparse.csr_array) -> Floats:
        """Scores of the items that follow those of n rows, float32 [n, I]."""
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
