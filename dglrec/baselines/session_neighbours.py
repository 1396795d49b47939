"""V-SKNN: what comes next in a session, from past sessions that share its latest items.

Ludewig and Jannach, "Evaluation of session-based recommendation algorithms", User Modeling and
User-Adapted Interaction 28, 2018, section 3.2 ("vector multiplication session-based kNN"). The item
at position p of a session of l items weighs p / l, so the last item weighs 1. Of the m most recent
past sessions with an item of the session, the k most similar count; the similarity is the sum of
the weights of the items that both sessions have. A candidate's score is the sum of the similarities
of the counted sessions that have it.

It is a reference to be beaten; `session_ranker.py` builds a model of lists on it.
"""

import numpy as np
import numpy.typing as npt
from scipy import sparse

from dglrec.derived.sessions import Sessions

Floats = npt.NDArray[np.float32]
Whole = npt.NDArray[np.int64]


class SessionNeighbours:
    """Scores the items that may come next, by similar past sessions.

    Args:
        sessions: past sessions, in the order in which they ended.
        num_items: I, more than every item.
        neighbours: k, at least 1.
        candidates: m, at least 1: for how many of the most recent sessions the similarity is taken.

    Raises:
        ValueError: the sessions' arrays do not fit together, an item is not below I, or k or m is
            below 1.
    """

    def __init__(
        self, sessions: Sessions, num_items: int, *, neighbours: int = 100, candidates: int = 1000
    ) -> None:
        if neighbours < 1 or candidates < 1:
            raise ValueError(
                f"neighbours {neighbours} and candidates {candidates}: at least 1 is needed"
            )
        ones = np.ones(len(sessions.items), dtype=np.float32)
        shape = (sessions.num_sessions, num_items)
        held = sparse.csr_array((ones, sessions.items, sessions.offsets), shape=shape, copy=True)
        held.check_format(full_check=True)
        held.sum_duplicates()  # whether an item is in a session counts, not how often
        by_item = held.tocsc()
        self.num_items = num_items
        self.neighbours = neighbours
        self.candidates = candidates
        self._offsets, self._items = held.indptr.astype(np.int64), held.indices
        self._starts, self._sessions = by_item.indptr.astype(np.int64), by_item.indices

    def similar_sessions(self, session: npt.ArrayLike) -> tuple[Whole, npt.NDArray[np.float64]]:
        """The neighbours of a session and their similarities, the most similar first.

        Of equally similar sessions, the more recent comes first.

        Args:
            session: whole numbers [l], the items in the order of time; if an item comes twice, its
                later position counts.

        Returns:
            int64 [n] and float64 [n], n at most k.

        Raises:
            IndexError: there is no such item.
        """
        items, places, length = self._weighed(session)
        # The most recent m of each item are enough: they hold the most recent m of all items.
        stretches = [
            self._sessions[max(self._starts[item], self._starts[item + 1] - self.candidates) : end]
            for item, end in zip(items, self._starts[items + 1], strict=True)
        ]
        if not stretches:
            return np.empty(0, dtype=np.int64), np.empty(0)
        weights = np.repeat(places, [len(stretch) for stretch in stretches])
        found, which = np.unique(np.concatenate(stretches), return_inverse=True)
        # Sums of positions are whole numbers, so that equal sums compare as equal.
        sums = np.bincount(which, weights=weights, minlength=len(found)).astype(np.int64)
        found, sums = found[-self.candidates :].astype(np.int64), sums[-self.candidates :]
        best = np.lexsort((-found, -sums))[: self.neighbours]
        return found[best], sums[best] / max(1, length)

    def scores(self, session: npt.ArrayLike) -> Floats:
        """Each item's score as the next item, float32 [I]; 0 if no neighbour has it.

        Args:
            session: as for `similar_sessions`; an empty session gives zeros.

        Raises:
            IndexError: there is no such item.
        """
        neighbours, similarities = self.similar_sessions(session)
        firsts, lasts = self._offsets[neighbours], self._offsets[neighbours + 1]
        stretches = [self._items[a:b] for a, b in zip(firsts, lasts, strict=True)]
        if not stretches:
            return np.zeros(self.num_items, dtype=np.float32)
        weights = np.repeat(similarities, lasts - firsts)
        summed = np.bincount(np.concatenate(stretches), weights, minlength=self.num_items)
        return summed.astype(np.float32)

    def best(
        self, session: npt.ArrayLike, k: int, *, left_out: npt.ArrayLike = ()
    ) -> tuple[Whole, Floats]:
        """The items with the highest scores above 0, best first, and their scores.

        Of equal scores the lower index comes first.

        Args:
            session: as for `similar_sessions`.
            k: how many at most.
            left_out: items that are not candidates.

        Returns:
            int64 [n] and float32 [n], n at most k.

        Raises:
            IndexError: there is no such item.
        """
        scores = self.scores(session)
        scores[self._checked(left_out)] = 0
        order = np.argsort(-scores, kind="stable")[:k]
        order = order[scores[order] > 0]
        return order, scores[order]

    def _weighed(self, session: npt.ArrayLike) -> tuple[Whole, Whole, int]:
        """A session's items, each once, with their last positions; and the session's length."""
        items = self._checked(session)
        distinct, from_end = np.unique(items[::-1], return_index=True)
        return distinct, len(items) - from_end, len(items)

    def _checked(self, items: npt.ArrayLike) -> Whole:
        checked = np.asarray(items, dtype=np.int64).reshape(-1)
        if len(checked) and (checked.min() < 0 or checked.max() >= self.num_items):
            raise IndexError(
                f"items {checked.min()} to {checked.max()}, and there are {self.num_items}"
            )
        return checked
