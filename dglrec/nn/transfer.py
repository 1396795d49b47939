"""A linear map from items' features to the encoder's embeddings of rated items.

Shapes: N items, F features, H embedding size.
"""

from typing import NamedTuple

import torch
from torch import Tensor

_STRENGTHS = 13  # ridges that are tried, between _LEAST and _MOST
_LEAST, _MOST = -4.0, 2.0  # log10 of a ridge, as a multiple of the features' mean variance
_TINY = 1e-12
_NOISE = 1e-7  # times the features' norm: smaller singular values may be rounding alone


class ItemNetwork(NamedTuple):
    """A linear map of features.

    Attributes:
        weight: float32 [F, H].
        bias: float32 [H].
    """

    weight: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """[m, F] features -> [m, H] embeddings."""
        return torch.addmm(self.bias, features, self.weight)


def fit_item_network(features: Tensor, vectors: Tensor, importance: Tensor) -> ItemNetwork:
    """The ridge regression from features to learned vectors.

    Gantner, Drumond, Freudenthaler, Rendle and Schmidt-Thieme, "Learning attribute-to-feature
    mappings for cold-start recommendations", ICDM 2010, section IV-B (linear maps, here the one
    with the least squared error of the vectors). The ridge is the one with the least leave-one-out
    squared error, which needs no further fits (Hastie, Tibshirani and Friedman, "The elements of
    statistical learning", equation 7.64).

    Args:
        features: float32 [N, F].
        vectors: float32 [N, H]; the targets of the map.
        importance: [N]; the items' weights, 0 for an item to be ignored.

    Raises:
        ValueError: all weights are 0.
    """
    used = importance > 0
    if not bool(used.any()):
        raise ValueError("no item counts, so there is nothing to learn from")
    x, y = features[used].double(), vectors[used].double()
    share = importance[used].double() / importance[used].sum()
    mean, middle = share @ x, share @ y
    noise = _NOISE * (share @ x.square()).sum().sqrt()
    root = share.sqrt().unsqueeze(1)
    x, y = (x - mean) * root, (y - middle) * root
    u, s, rows = _decomposed(x, noise)
    squares, along = s.square(), u.T @ y
    least, best = torch.inf, y.new_zeros(len(s))
    scale = squares.sum() / max(1, features.shape[1])
    for strength in torch.logspace(_LEAST, _MOST, _STRENGTHS, dtype=x.dtype).tolist():
        shrunk = squares / (squares + strength * scale)
        fitted = u @ (shrunk.unsqueeze(1) * along)
        # The leverage: by how much an item's own vector moves its fit, by the map and the mean.
        own = (u.square() @ shrunk + share).clamp(max=1 - _TINY)
        error = float(((y - fitted) / (1 - own).unsqueeze(1)).square().sum())
        if error < least:
            least, best = error, shrunk / s
    weight = rows.T @ (best.unsqueeze(1) * along)
    return ItemNetwork(weight.to(vectors.dtype), (middle - mean @ weight).to(vectors.dtype))


def _decomposed(x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The SVD of x, U [N, r], s [r] > noise, V^T [r, F]; for N > F from x^T x."""
    if x.shape[0] > x.shape[1]:
        squares, columns = torch.linalg.eigh(x.T @ x)
        s, rows = squares.clamp(min=0).sqrt(), columns.T
        s, rows = s[s > noise], rows[s > noise]
        return x @ (rows / s.unsqueeze(1)).T, s, rows
    u, s, rows = torch.linalg.svd(x, full_matrices=False)
    kept = s > noise
    return u[:, kept], s[kept], rows[kept]
