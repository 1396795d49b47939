"""V-SKNN as a model that ranks the whole catalogue by what follows users' last sessions."""

import numpy as np
import numpy.typing as npt
from scipy import sparse

from dglrec.baselines.config import BaselineConfig, fixed
from dglrec.baselines.positives import kept_of
from dglrec.baselines.ranker import Floats, Known
from dglrec.baselines.recent import gap_of, recent_rows, times_of
from dglrec.baselines.refitted import RefittedRanker
from dglrec.baselines.session_neighbours import SessionNeighbours
from dglrec.dataset import RatingDataset
from dglrec.derived import cut_sessions


class SessionRanker(RefittedRanker):
    """Ranks by past sessions that share the latest items of the user's last session.

    The user's last session is itself a past session; this does no harm, as it holds only items that
    the user has already.

    Args:
        rows: float32 [U, I], the items of users' last sessions, with values that grow with time.
        degrees: int64 [I] training rows of each item.
        neighbours: the past sessions.
    """

    bytes_an_edge = 96

    def __init__(
        self,
        rows: sparse.csr_array,
        degrees: npt.NDArray[np.int64],
        neighbours: SessionNeighbours,
    ) -> None:
        super().__init__(rows, degrees)
        self.neighbours = neighbours

    @classmethod
    def fit(
        cls, dataset: RatingDataset, config: BaselineConfig, known: Known | None = None
    ) -> "SessionRanker":
        """Cut the training rows into sessions.

        Raises:
            UsageError: the data set has no timestamps, or no item is positive.
        """
        graph, times = dataset.graph, times_of(dataset, "vsknn")
        kept = kept_of(dataset, fixed(config.positives))
        users = np.repeat(np.arange(graph.num_users), graph.by_user.degrees)[kept]
        items = np.asarray(graph.by_user.neighbours)[kept]
        sessions = cut_sessions(users, items, np.asarray(times)[kept], gap_of(config))
        neighbours = SessionNeighbours(
            sessions,
            graph.num_items,
            neighbours=fixed(config.neighbours),
            candidates=config.session_candidates,
        )
        rows = recent_rows(dataset, config, "vsknn", whole_history=False)
        return cls(rows, graph.by_item.degrees, neighbours)

    def score_rows(self, rows: sparse.csr_array) -> Floats:
        """Scores by the neighbours of n sessions, float32 [n, I].

        A row is a session: its items, in the order of their values.
        """
        scores = np.zeros(rows.shape, dtype=np.float32)
        for row in range(rows.shape[0]):
            part = slice(rows.indptr[row], rows.indptr[row + 1])
            session = rows.indices[part][np.argsort(rows.data[part], kind="stable")]
            scores[row] = self.neighbours.scores(session)
        return scores
