"""EASE: an item-item matrix with zero diagonal, from a single inverse.

Steck, "Embarrassingly shallow autoencoders for sparse data", WWW 2019: the B with zero diagonal
that minimises ||X - X B||^2 + ridge ||B||^2 over the users' rows X is

    P = (X^T X + ridge I)^-1,    B_ji = -P_ji / P_ii  for j != i

A user's scores are the sums of the rows of B that belong to the user's items.

If there are fewer users than items, a matrix of users is inverted instead: with
H = X^T (X X^T + ridge I)^-1 X, ridge P = I - H (Woodbury), so B_ji = H_ji / (1 - H_ii).
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import Tensor

from dglrec.baselines.config import BaselineConfig, fixed
from dglrec.baselines.dense import check_state
from dglrec.baselines.inverse import SingularError, invert_in_place
from dglrec.baselines.pairs import gram, spread_rows
from dglrec.baselines.positives import positives_of
from dglrec.baselines.ranker import Floats, Known, Ranker, sum_rows
from dglrec.dataset import RatingDataset
from dglrec.errors import UsageError
from dglrec.progress import progress

_ROWS_AT_ONCE = 256


def ease_weights(positives: sparse.csr_array, ridge: float) -> Floats:
    """EASE's matrix B, float32 [I, I]; a row of positives times B is the items' scores.

    It takes the memory of a float32 [I, I], and with fewer users than items of a [U, U] more, but
    little else. The time grows with the cube of the smaller number.

    Args:
        positives: float32 [U, I]; the items that users liked, usually ones.
        ridge: above 0; the larger, the smaller the weights.

    Raises:
        ValueError: the arrays of `positives` do not fit together.
        UsageError: float32 is too coarse for so small a ridge.
    """
    num_users, num_items = positives.shape
    if num_users >= num_items:
        weights = _inverse(positives, ridge)
        scale = 1 / weights.diagonal()
        for first in range(0, num_items, _ROWS_AT_ONCE):
            weights[first : first + _ROWS_AT_ONCE] *= -scale
    else:
        weights = _projection(positives, _inverse(positives.T.tocsr(), ridge))
        complement = 1 - weights.diagonal()
        if not (complement > 0).all():
            raise _too_small(ridge)
        for first in range(0, num_items, _ROWS_AT_ONCE):
            weights[first : first + _ROWS_AT_ONCE] /= complement
    np.fill_diagonal(weights, 0)
    return weights


def _inverse(rows: sparse.csr_array, ridge: float) -> Floats:
    """(X^T X + ridge I)^-1 for rows X."""
    square = gram(rows)
    np.fill_diagonal(square, square.diagonal() + np.float32(ridge))
    with progress("inverting", len(square), "rows") as advance:
        try:
            invert_in_place(torch.from_numpy(square), advance)
        except SingularError as error:
            raise _too_small(ridge) from error
    return square


def _projection(rows: sparse.csr_array, inverse: Floats) -> Floats:
    """X^T M X for rows X [U, I] and M [U, U], float32 [I, I]."""
    columns = rows.T.tocsr()
    out: npt.NDArray[np.float32] = np.zeros((rows.shape[1], rows.shape[1]), dtype=np.float32)
    with progress("comparing items", len(out), "items") as advance:
        for first in range(0, len(out), _ROWS_AT_ONCE):
            part = out[first : first + _ROWS_AT_ONCE]
            spread_rows(sum_rows(columns[first : first + len(part)], inverse), rows, part)
            advance(len(part))
    return out


def _too_small(ridge: float) -> UsageError:
    return UsageError(
        f"baseline.ridge = {ridge:g}: too small to invert a matrix of these items in float32; "
        "take a larger one, or auto"
    )


class Ease(Ranker):
    """Ranks by the sums of the weights between a user's items and the other items.

    Args:
        weights: float32 [I, I], zeros on the diagonal.
        positives: float32 [U, I], the users' rows.
        degrees: int64 [I] training rows of each item.
    """

    def __init__(
        self, weights: Floats, positives: sparse.csr_array, degrees: npt.NDArray[np.int64]
    ) -> None:
        super().__init__(positives, degrees)
        self.weights = weights

    @classmethod
    def fit(
        cls, dataset: RatingDataset, config: BaselineConfig, known: Known | None = None
    ) -> "Ease":
        """Compute the weights, with one inversion.

        Raises:
            UsageError: no item is positive, or the ridge is too small.
        """
        positives = positives_of(dataset, fixed(config.positives))
        weights = ease_weights(positives, fixed(config.ridge))
        for first in range(0, len(weights), _ROWS_AT_ONCE):
            part = weights[first : first + _ROWS_AT_ONCE]
            # Rounded as in a checkpoint, so that a run ranks the same when it is opened again.
            part[:] = part.astype(np.float16)
        return cls(weights, positives, dataset.graph.by_item.degrees)

    @classmethod
    def load(
        cls, state: Mapping[str, Tensor], dataset: RatingDataset, config: BaselineConfig
    ) -> "Ease":
        """The model that `state` was taken from.

        Raises:
            ValueError: `state` is that of another model.
        """
        size = dataset.graph.num_items
        check_state(state, {"weights": (torch.float16, (size, size))})
        positives = positives_of(dataset, fixed(config.positives))
        return cls(state["weights"].float().numpy(), positives, dataset.graph.by_item.degrees)

    @classmethod
    def footprint(
        cls, dataset: RatingDataset, config: BaselineConfig, processes: int, searching: bool
    ) -> int:
        """See `Ranker.footprint`.

        Each process keeps the weights; beside them, the first has a matrix of users while it fits,
        and later a copy from which a checkpoint is written.
        """
        users, items = dataset.graph.num_users, dataset.graph.num_items
        among_users = 4 * users**2 if users < items else 0
        written = 4 * items**2  # twice in float16
        return 4 * items**2 * (processes + searching) + max(among_users, written)

    def state(self) -> dict[str, Tensor]:
        """`weights`, float16 [I, I]: half the size, for a relative error of 0.0005 in each."""
        return {"weights": torch.from_numpy(self.weights).half()}

    def score_rows(self, rows: sparse.csr_array) -> Floats:
        """Sums of the weights of a row's items, float32 [n, I]."""
        return sum_rows(rows, self.weights)
