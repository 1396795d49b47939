"""Graph filters: a user's row times a polynomial of the normalised item-item graph.

With the rows X of users, their numbers of items d_u and the items' numbers of users d_i, let

    N = diag(d_u^-a) X diag(d_i^(a-1)),    P = N^T N

gf_cf (Shen et al., "How powerful is graph convolution for recommendation?", CIKM 2021), a = 1/2:
X (P + w D_i^-1/2 V V^T D_i^1/2), a linear filter and an ideal low-pass filter; the columns of V
are the first right singular vectors of N.

turbo_cf (Park, Shin and Shin, "Turbo-CF: matrix decomposition-free graph filtering for fast
recommendation", SIGIR 2024): with Q the element-wise power P^s, X times
Q; or 2 Q - Q^2; or Q + 0.01 (-Q^3 + 10 Q^2 - 29 Q).
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from scipy.sparse.linalg import svds
from torch import Tensor

from dglrec.baselines.config import BaselineConfig, fixed
from dglrec.baselines.dense import check_state
from dglrec.baselines.pairs import PairSums, gram, spread_rows
from dglrec.baselines.positives import positives_of
from dglrec.baselines.ranker import Floats, Known, Ranker, sum_rows
from dglrec.dataset import RatingDataset
from dglrec.progress import log, progress

MOST_DENSE = 20_000
"""The largest catalogue, in items, whose filter is a dense matrix."""

_SUMS_AT_ONCE = 1 << 24
_TOLERANCE = 1e-4  # relative, of a singular value
# Coefficients of Q, Q^2 and Q^3, by the polynomial's degree.
_POLYNOMIALS = {
    1: (1.0, 0.0, 0.0),
    2: (2.0, -1.0, 0.0),
    3: (1 - 0.01 * 29, 0.01 * 10, -0.01),
}


class GraphFilter(Ranker):
    """Ranks by filtered rows.

    Args:
        positives: float32 [U, I], the users' rows.
        degrees: int64 [I] training rows of each item.
        config: with no setting of this model at auto.
        vectors: float32 [K, I], the first singular vectors, with gf_cf; else None.
    """

    def __init__(
        self,
        positives: sparse.csr_array,
        degrees: npt.NDArray[np.int64],
        config: BaselineConfig,
        vectors: Floats | None = None,
    ) -> None:
        super().__init__(positives, degrees)
        self.vectors = vectors
        self.config = config
        self._degrees = degrees
        linear = vectors is not None
        exponent = 0.5 if linear else fixed(config.user_exponent)
        power = 1.0 if linear else fixed(config.similarity_power)
        self._polynomial = _POLYNOMIALS[1 if linear else fixed(config.filter_order)]
        self._normalised = normalised(positives, exponent)
        self._transposed = self._normalised.T.tocsr()
        self._dense: Floats | None = None
        self._powers: sparse.csr_array | None = None
        if positives.shape[1] <= MOST_DENSE:
            self._dense = _polynomial_of(
                gram(self._normalised) ** np.float32(power), self._polynomial
            )
            if vectors is not None:
                self._dense += self._low_pass(sparse.eye_array(len(degrees), format="csr"))
        elif power != 1:
            self._powers = _powers_of(self._normalised, power)

    @classmethod
    def fit(
        cls, dataset: RatingDataset, config: BaselineConfig, known: Known | None = None
    ) -> "GraphFilter":
        """Build the graph; for gf_cf, find singular vectors or take those in `known`.

        Raises:
            UsageError: no item is positive.
        """
        positives = positives_of(dataset, fixed(config.positives))
        vectors = None
        if fixed(config.filter) == "gf_cf":
            known = {} if known is None else known
            key = ("vectors", config.positives, config.low_pass_size)
            if key not in known:
                known[key] = singular_vectors(normalised(positives, 0.5), config.low_pass_size)
            vectors = known[key]
        return cls(positives, dataset.graph.by_item.degrees, config, vectors)

    @classmethod
    def load(
        cls, state: Mapping[str, Tensor], dataset: RatingDataset, config: BaselineConfig
    ) -> "GraphFilter":
        """The model that `state` was taken from.

        Raises:
            ValueError: `state` is that of another model.
        """
        graph = dataset.graph
        expected = {"degrees": (torch.int64, (graph.num_items,))}
        if fixed(config.filter) == "gf_cf":
            size = _size(graph.num_users, graph.num_items, config.low_pass_size)
            check_state(state, {**expected, "vectors": (torch.float32, (size, graph.num_items))})
            vectors = state["vectors"].numpy()
        else:
            check_state(state, expected)
            vectors = None
        if not np.array_equal(state["degrees"].numpy(), graph.by_item.degrees):
            raise ValueError("degrees are those of other training rows")
        positives = positives_of(dataset, fixed(config.positives))
        return cls(positives, graph.by_item.degrees, config, vectors)

    @classmethod
    def footprint(
        cls, dataset: RatingDataset, config: BaselineConfig, processes: int, searching: bool
    ) -> int:
        """See `Ranker.footprint`.

        If the catalogue is too large for a dense matrix, similarities that are raised to a power
        are kept where they are not 0: at most as many as there are pairs of items that a user has
        both of.
        """
        graph, size = dataset.graph, dataset.graph.num_items
        held = processes + searching
        rows = 3 * 12 * graph.num_edges * held
        if size <= MOST_DENSE:
            # With a polynomial, the last power and the next; with a low-pass filter, its sum.
            return 4 * size**2 * (held + 2) + rows
        low_pass = 4 * config.low_pass_size * (graph.num_users + 4 * size) * held
        if searching or config.similarity_power == 1 or config.filter == "gf_cf":
            return low_pass + rows
        pairs = int((graph.by_user.degrees.astype(np.float64) ** 2).sum())
        return 8 * min(size**2, pairs) * (held + 1) + rows

    def state(self) -> dict[str, Tensor]:
        """`degrees`, int64 [I], and with gf_cf `vectors`, float32 [K, I].

        The graph is built again from the training rows, in the same time as at first.
        """
        kept = {"degrees": torch.from_numpy(self._degrees)}
        return kept if self.vectors is None else {**kept, "vectors": torch.from_numpy(self.vectors)}

    def score_rows(self, rows: sparse.csr_array) -> Floats:
        """Rows times the filter, float32 [n, I]."""
        if self._dense is not None:
            return sum_rows(rows, self._dense)
        step = rows.toarray()
        scores = np.zeros(rows.shape, dtype=np.float32)
        for coefficient in np.trim_zeros(self._polynomial, "b"):
            step = self._times_graph(step)
            scores += np.float32(coefficient) * step
        return scores if self.vectors is None else scores + self._low_pass(rows)

    def _times_graph(self, rows: Floats) -> Floats:
        """Rows times Q, float32 [n, I]; no bit of a row depends on the other rows."""
        if self._powers is not None:
            return _times(rows, self._powers)
        return _times(_times(rows, self._transposed), self._normalised)

    def _low_pass(self, rows: sparse.csr_array) -> Floats:
        """Rows times w D_i^-1/2 V V^T D_i^1/2, float32 [n, I]."""
        assert self.vectors is not None
        degrees = np.bincount(self.positives.indices, minlength=rows.shape[1])
        weight = np.float32(fixed(self.config.low_pass_weight))
        inwards = self.vectors * _power_of(degrees, -0.5)
        outwards = self.vectors * np.sqrt(degrees, dtype=np.float32)
        spectrum = sum_rows(rows.astype(np.float32), np.ascontiguousarray(inwards.T))
        return sum_rows(sparse.csr_array(spectrum * weight), outwards)


def _times(rows: Floats, matrix: sparse.csr_array) -> Floats:
    out = np.zeros((len(rows), matrix.shape[1]), dtype=np.float32)
    spread_rows(rows, matrix, out)
    return out


def normalised(positives: sparse.csr_array, exponent: float) -> sparse.csr_array:
    """diag(d_u^-a) X diag(d_i^(a-1)), float32 [U, I]; rows and columns of zeros stay zeros.

    Args:
        positives: X, float32 [U, I], ones.
        exponent: a.
    """
    of_users = np.diff(positives.indptr)
    of_items = np.bincount(positives.indices, minlength=positives.shape[1])
    values = np.repeat(_power_of(of_users, -exponent), of_users)
    values *= _power_of(of_items, exponent - 1)[positives.indices]
    return sparse.csr_array((values, positives.indices, positives.indptr), shape=positives.shape)


def singular_vectors(rows: sparse.csr_array, count: int) -> Floats:
    """The right singular vectors with the largest singular values, float32 [K, I].

    Args:
        rows: float32 [U, I].
        count: how many are wanted; K is smaller if U or I is not larger than this.
    """
    size = _size(rows.shape[0], rows.shape[1], count)
    if not size:
        return np.zeros((0, rows.shape[1]), dtype=np.float32)
    log(f"finding {size} singular vectors of {rows.shape[0]:,} users and {rows.shape[1]:,} items")
    start = np.random.default_rng(0).normal(size=min(rows.shape)).astype(np.float32)
    _, _, vectors = svds(rows, k=size, v0=start, tol=_TOLERANCE, return_singular_vectors="vh")
    return np.ascontiguousarray(vectors, dtype=np.float32)


def _size(num_users: int, num_items: int, count: int) -> int:
    """How many singular vectors the solver can find: fewer than the matrix has rows or columns."""
    return max(0, min(count, num_users - 1, num_items - 1))


def _power_of(counts: npt.NDArray[np.int64], exponent: float) -> Floats:
    """Powers of counts, float32, 0 where the count is 0."""
    powers = np.maximum(counts, 1) ** float(exponent) * (counts > 0)
    return powers.astype(np.float32)


def _polynomial_of(graph: Floats, coefficients: tuple[float, ...]) -> Floats:
    """c_1 Q + c_2 Q^2 + c_3 Q^3 for Q, float32 [I, I]."""
    first, *higher = np.trim_zeros(coefficients, "b")
    q = torch.from_numpy(graph)
    out, power = q * first, q
    for coefficient in higher:
        power = power @ q
        out.add_(power, alpha=coefficient)
    return out.numpy()


def _powers_of(rows: sparse.csr_array, power: float) -> sparse.csr_array:
    """N^T N for rows N, to an element-wise power, as a sparse float32 [I, I]."""
    sums = PairSums(rows)
    size, parts = sums.num_items, []
    at_once = max(1, _SUMS_AT_ONCE // size)
    with progress("comparing items", size, "items") as advance:
        for first in range(0, size, at_once):
            part = sparse.csr_array(sums.of(first, min(first + at_once, size)))
            part.data **= np.float32(power)
            parts.append(part)
            advance(part.shape[0])
    return sparse.csr_array(sparse.vstack(parts, format="csr"))
