"""Items at given ranks of a user's personalised PageRank, as moderately related items.

The PageRank of items is estimated by the walks of `walks.py`, started at a user: from there to one
of the user's items, on to one of the users who rated it, and so on, returning to the user with a
given probability (Fogaras, Racz, Csalogany and Sarlos, "Towards scaling fully personalized
PageRank", Internet Mathematics 2, 2005). Items that the walks visit most rank first.

Shapes: U users, I items, R places.
"""

from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dglrec.derived.adjacency import EdgeArrays
from dglrec.derived.walks import Walks, pick
from dglrec.graph import RatingGraph
from dglrec.kernels import run_side_by_side
from dglrec.kernels.hashing import mixed
from dglrec.kernels.parallel import compiled_as_written, parts_of
from dglrec.progress import progress

_DRAWS = np.uint64(2)  # hashes for each hop
_HALF, _LOW_HALF = np.uint64(32), np.uint64((1 << 32) - 1)
_NUMBERS_A_HOP = 8  # numbers read and written for each hop; see `parts_of`
_USERS_AT_ONCE = 4096
_KNOWN = -(1 << 30)  # initial visits of the user's items, which no number of hops raises above 0


class RelatedItems(NamedTuple):
    """The items at given places of each user's ranking, in order.

    Attributes:
        items: int32 [U, R]; padded with 0.
        counts: int64 [U]; how many items each user has.
    """

    items: npt.NDArray[np.int32]
    counts: npt.NDArray[np.int64]


def related_items(
    graph: RatingGraph,
    *,
    first: int,
    last: int,
    hops: int = 1000,
    restart: float = 0.5,
    seed: int = 0,
) -> RelatedItems:
    """The items at places `first` to `last` among those that walks from a user visit.

    Items that the user has rated are left out. Of equally often visited items, the lower index
    comes first. Each hop's random numbers are hashes of seed, user and hop, so the result does not
    depend on the number of threads. Memory is 4 U R bytes, plus 4 I + 8 hops bytes for each thread.

    Args:
        graph: the training ratings.
        first: place, from 1.
        last: place, at least `first`.
        hops: visits to items of all walks of a user together, from 1 to 16,777,216.
        restart: how likely a walk returns to the user before a hop, from 0 to 1.
        seed: at least 0 and below 2^63.

    Raises:
        ValueError: an argument is out of range.
    """
    if (
        not 1 <= first <= last
        or not 1 <= hops <= 1 << 24
        or not 0 <= restart <= 1
        or not 0 <= seed < 2**63
    ):
        raise ValueError(
            f"places {first} to {last}, hops {hops}, restart {restart:g}, seed {seed}: choose "
            "places from 1, 1 to 16777216 hops, a share from 0 to 1, and a seed from 0"
        )
    users, items = graph.by_user, graph.by_item
    last = max(first, min(last, hops, graph.num_items))
    found = RelatedItems(
        np.zeros((graph.num_users, last - first + 1), dtype=np.int32),
        np.zeros(graph.num_users, dtype=np.int64),
    )
    sides = EdgeArrays.of(users), EdgeArrays.of(items)
    walks = Walks.of(hops, restart, seed)
    with progress("walking from users", graph.num_users, "users") as advance:
        for low in range(0, graph.num_users, _USERS_AT_ONCE):
            high = min(low + _USERS_AT_ONCE, graph.num_users)
            stretches = parts_of(high - low, (high - low) * hops * _NUMBERS_A_HOP)
            walk = partial(_walk_from_users, *sides, walks, first - 1, found)
            run_side_by_side([partial(walk, low + start, low + end) for start, end in stretches])
            advance(high - low)
    return found


@compiled_as_written
def _walk_from_users(by_user, by_item, walks, skipped, out, low, high):  # type: ignore[no-untyped-def]
    """Walk from users `low` to `high`; the `skipped` most visited items of each are left out."""
    starts, rated = by_user.offsets, by_user.neighbours
    offsets, raters = by_item.offsets, by_item.neighbours
    hops, restart = walks.hops, walks.restart
    size, most = len(offsets) - 1, out.items.shape[1]
    visits = np.zeros(size, dtype=np.int32)
    # The sort key of each visited item: the hops that did not visit it, then its index.
    keys = np.empty(min(hops, size), dtype=np.int64)
    stream = mixed(walks.seed + np.uint64(1))
    for user in range(low, high):
        if starts[user] == starts[user + 1]:
            continue
        for place in range(starts[user], starts[user + 1]):
            visits[rated[place]] = _KNOWN
        key = mixed(stream + np.uint64(user))
        item, count = np.int64(0), 0
        for hop in range(hops):
            draw = mixed(key + _DRAWS * np.uint64(hop))
            at = np.int64(user)
            if hop and (draw & _LOW_HALF) >= restart:
                at = np.int64(raters[pick(offsets[item], offsets[item + 1], draw >> _HALF)])
            draw = mixed(key + _DRAWS * np.uint64(hop) + np.uint64(1))
            item = np.int64(rated[pick(starts[at], starts[at + 1], draw >> _HALF)])
            if visits[item] == 0:
                keys[count] = item
                count += 1
            visits[item] += 1
        for place in range(count):
            item = keys[place]
            keys[place] = (hops - visits[item]) * size + item
            visits[item] = 0
        for place in range(starts[user], starts[user + 1]):
            visits[rated[place]] = 0
        ordered = np.sort(keys[:count])
        found = min(max(count - skipped, 0), most)
        for place in range(found):
            out.items[user, place] = ordered[skipped + place] % size
        out.counts[user] = found
