"""Drawing distinct items by weight for a few users at a time."""

import numpy as np
import numpy.typing as npt

from dglrec.kernels.parallel import compiled_as_written

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]


def products(users: F32, items: F32) -> F32:
    """[n, I] products of float32 [n, K] user vectors with [K, I] item vectors.

    BLAS would be as fast, but may sum in another order on another number of threads.
    """
    if users.shape[1] != items.shape[0]:
        raise ValueError(f"vectors of {users.shape[1]} and of {items.shape[0]} dimensions")
    out = np.zeros((len(users), items.shape[1]), dtype=np.float32)
    _products(users, items, out)
    return out


def draw_distinct(
    popularity: F64,
    tilt: F32,
    offsets: npt.NDArray[np.int64],
    uniforms: F64,
    items: npt.NDArray[np.int32],
    reach: F64,
) -> npt.NDArray[np.int64]:
    """Draw items by weight with replacement, and keep the distinct items of each user.

    For a user who wants c items, items are drawn until c are distinct, at most c * D times.

    Args:
        popularity: float64 [I], above 0.
        tilt: float32 [n, I], above 0; the weight of item i is popularity[i] * tilt[u, i].
        offsets: int64 [n + 1]; user u wants `offsets[u + 1] - offsets[u]` items.
        uniforms: float64 [D * offsets[n]] from 0 to 1; user u takes those from `D * offsets[u]` on.
        items: int32 [offsets[n]]; filled in, and sorted for users who get all the items they want.
        reach: float64 [n]; filled in with the number of draws / the sum of weights.

    Returns:
        int64 [n] how many items each user got.
    """
    count = len(tilt)
    if tilt.shape[1] != len(popularity) or len(reach) != count or len(offsets) != count + 1:
        raise ValueError("arrays of different numbers of users or items")
    ends = int(offsets[-1])
    if offsets[0] != 0 or (offsets[1:] < offsets[:-1]).any() or len(items) != ends:
        raise ValueError("the offsets do not fit the items")
    if ends and len(uniforms) % ends:
        raise ValueError("each wanted item needs the same number of draws")
    draws = len(uniforms) // ends if ends else 0
    found = np.zeros(count, dtype=np.int64)
    _draw_distinct(popularity, tilt, offsets, uniforms, draws, items, reach, found)
    return found


@compiled_as_written
def _products(users, items, out):  # type: ignore[no-untyped-def]
    for u in range(len(users)):
        row = out[u]
        for k in range(items.shape[0]):
            factor, column = users[u, k], items[k]
            for i in range(len(row)):
                row[i] += factor * column[i]


@compiled_as_written
def _draw_distinct(popularity, tilt, offsets, uniforms, draws, items, reach, found):  # type: ignore[no-untyped-def]
    count = len(popularity)
    cumulated = np.empty(count, dtype=np.float64)
    held = np.zeros(count, dtype=np.bool_)
    for u in range(len(tilt)):
        total, weights = 0.0, tilt[u]
        for i in range(count):
            total += popularity[i] * weights[i]
            cumulated[i] = total
        drawn = items[offsets[u] : offsets[u + 1]]
        chances = uniforms[draws * offsets[u] : draws * offsets[u + 1]]
        have, tried = 0, 0
        while have < len(drawn) and tried < len(chances):
            item = _first_above(cumulated, chances[tried] * total)
            tried += 1
            if not held[item]:
                held[item] = True
                drawn[have] = item
                have += 1
        for place in range(have):
            held[drawn[place]] = False
        if have == len(drawn):
            drawn.sort()
        reach[u] = tried / total
        found[u] = have


@compiled_as_written
def _first_above(ascending, value):  # type: ignore[no-untyped-def]
    """The first index whose number is above a value; the last index where no number is."""
    low, high = 0, len(ascending) - 1
    while low < high:
        middle = (low + high) // 2
        if ascending[middle] > value:
            high = middle
        else:
            low = middle + 1
    return low
