"""Initial vectors from the graph's spectrum.

Many layers of propagation converge to the largest singular vectors of the symmetrically normalised
adjacency (Shen et al., "How powerful is graph convolution for recommendation?", CIKM 2021, section
3), so training converges faster from these vectors.
"""

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import Tensor, nn

from dglrec.graph import RatingGraph
from dglrec.nn import RatingModel

_MORE, _ITERATIONS = 16, 3  # oversampling and power iterations of the randomised decomposition


def start_vectors(model: RatingModel, graph: RatingGraph, seed: int) -> None:
    """Set a model's user and item vectors to the graph's singular vectors; see `start_spectral`.

    Raises:
        ValueError: the model has no user vectors, or no item vectors.
    """
    users, items = model.inputs.user_vectors, model.inputs.item_vectors
    if users is None or items is None:
        raise ValueError("a spectral start needs a vector for each user and each item")
    start_spectral(users, items, graph, seed, model.config.spectral_std)


@torch.no_grad()
def start_spectral(
    users: nn.Embedding, items: nn.Embedding, graph: RatingGraph, seed: int, std: float
) -> None:
    """Set a vector for each user and item to its row of the singular vectors, in place.

    Halko, Martinsson and Tropp, "Finding structure with randomness", SIAM Review 53(2), 2011,
    algorithm 5.1 (`torch.svd_lowrank`). Both sides are multiplied by the square roots of the
    singular values. If H is larger than the number of singular vectors, the remaining columns keep
    their initial values.

    Args:
        users: [U, H].
        items: [I, H].
        graph: the training ratings.
        seed: the seed of the random projection.
        std: the standard deviation that each side's values are scaled to.
    """
    by_user = graph.by_user
    user_scale = _inverse_root(by_user.degrees)
    item_scale = _inverse_root(graph.by_item.degrees)
    values = np.repeat(user_scale, by_user.degrees) * item_scale[by_user.neighbours]
    matrix = sparse.csr_array(
        (values, np.asarray(by_user.neighbours), np.asarray(by_user.offsets)),
        shape=(graph.num_users, graph.num_items),
    ).tocoo()
    places = torch.from_numpy(np.stack(matrix.coords).astype(np.int64))
    normalised = torch.sparse_coo_tensor(
        places,
        torch.from_numpy(matrix.data.astype(np.float32)),
        matrix.shape,
        check_invariants=True,
    )
    width = min(users.embedding_dim, *matrix.shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        user_singular, singular, item_singular = torch.svd_lowrank(
            normalised, q=min(width + _MORE, *matrix.shape), niter=_ITERATIONS
        )
    for table, vectors in ((users, user_singular), (items, item_singular)):
        rows = vectors[:, :width] * singular[:width].sqrt()
        # Scaled, because the rows of an orthonormal matrix are the smaller the more there are.
        # A node without edges has a row of zeros, and keeps its random vector.
        has_edges = rows.any(1)
        table.weight[has_edges, :width] = (std * rows * _per_unit(rows))[has_edges]


def _inverse_root(degrees: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    scale: npt.NDArray[np.float64] = np.maximum(degrees, 1) ** -0.5
    return scale


def _per_unit(rows: Tensor) -> Tensor:
    """The factor that gives values a standard deviation of 1."""
    return 1 / rows.std().clamp(min=1e-12)
