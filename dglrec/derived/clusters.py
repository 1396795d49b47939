"""Clusters of nodes by their features: k-means, with which GHRS groups users."""

import numpy as np
import numpy.typing as npt

_STARTS = 10


def cluster_rows(
    features: npt.NDArray[np.floating], count: int, *, seed: int = 0
) -> npt.NDArray[np.int32]:
    """The cluster of each of N rows by k-means, int32 [N]; the largest cluster is 0.

    Columns are first scaled to mean 0 and standard deviation 1; a constant column is ignored. The
    best of ten starts by k-means++ is taken (Arthur and Vassilvitskii, "k-means++: the advantages
    of careful seeding", SODA 2007), as computed by scikit-learn. Clusters of equal size are
    numbered by their first row. With few distinct rows there may be fewer clusters than asked for.

    Args:
        features: [N, F], finite.
        count: clusters, from 1 to N.
        seed: of the starts.

    Raises:
        ValueError: `count` is not from 1 to N, or a value is not finite.
    """
    from sklearn.cluster import KMeans

    values = np.asarray(features, dtype=np.float64)
    if not 1 <= count <= len(values):
        raise ValueError(f"{count} clusters of {len(values)} rows")
    if not np.isfinite(values).all():
        raise ValueError("a feature is not finite")
    spread = values.std(axis=0)
    values = (values - values.mean(axis=0)) / np.where(spread > 0, spread, 1)
    distinct = len(np.unique(values, axis=0))
    means = KMeans(min(count, distinct), n_init=_STARTS, random_state=seed)
    found: npt.NDArray[np.int32] = means.fit_predict(values)
    _, first, numbers, sizes = np.unique(
        found, return_index=True, return_inverse=True, return_counts=True
    )
    order = np.lexsort((first, -sizes))
    places = np.empty(len(order), dtype=np.int32)
    places[order] = np.arange(len(order))
    return places[numbers]
