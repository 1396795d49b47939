"""Who trusts whom: edges within circles of users, and what the users of a circle have in common."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import csv as pa_csv

from dglrec.synthetic.planting import Part, standardised

I64 = npt.NDArray[np.int64]

TRUST_FILE = "trust.csv"

_PAIRS_PER_EDGE = 2.0  # in a circle, about half of all pairs are edges
_SMALLEST_CIRCLE = 4
_SPREAD = 0.7  # of the logarithms of how readily a user trusts, and is trusted


@dataclass(frozen=True, eq=False)
class Circles:
    """U users in circles, and N edges within them.

    Attributes:
        of_user: int64 [U] the circle of each user.
        sources: int64 [N] ascending: the users who trust.
        targets: int64 [N] the users whom they trust; ascending for each source.
    """

    of_user: I64
    sources: I64
    targets: I64

    def part(self, share: float, rank: int, rng: np.random.Generator) -> Part:
        """The part that each user has in common with all users of its circle."""
        count = int(self.of_user.max()) + 1
        taste = rng.standard_normal((count, rank))[self.of_user]
        return Part(
            share, standardised(taste), standardised(rng.standard_normal(count)[self.of_user])
        )

    def write(self, path: Path) -> None:
        """Write the edges as CSV."""
        table = pa.table({"user_id": self.sources, "to_user_id": self.targets})
        with path.open("wb") as file:
            file.write(b"user_id,to_user_id\n")  # pyarrow would quote the names
            pa_csv.write_csv(table, file, pa_csv.WriteOptions(include_header=False))


def draw_circles(users: int, edges: int, rng: np.random.Generator) -> Circles:
    """Draw circles, and exactly `edges` edges, all distinct and none from a user to itself.

    Circles have random members, and half to one and a half times the mean size. Edges are drawn
    from all ordered pairs within circles, without replacement, with a weight: how readily the first
    user trusts times how readily the second is trusted, both log-normal. Memory is about 100 bytes
    an edge.

    Args:
        users: U.
        edges: N, at most U (U - 1).
        rng: the source of random numbers.
    """
    size = max(_PAIRS_PER_EDGE * edges / users + 1, _SMALLEST_CIRCLE)
    bounds = _cut(users, size, rng)
    while int((np.diff(bounds) * (np.diff(bounds) - 1)).sum()) < edges:
        size *= 1.5
        bounds = _cut(users, size, rng)
    sizes = np.diff(bounds)
    members = rng.permutation(users)
    of_user = np.empty(users, dtype=np.int64)
    of_user[members] = np.repeat(np.arange(len(sizes)), sizes)
    trusting, trusted = _SPREAD * rng.standard_normal((2, users)).astype(np.float32)

    # All ordered pairs of a circle: each member with each position of the circle.
    mates = np.repeat(sizes, sizes)  # [U] the size of each member's circle
    first = np.repeat(np.arange(users, dtype=np.int32), mates)
    within = np.arange(len(first), dtype=np.int64) - np.repeat(np.cumsum(mates) - mates, mates)
    second = (np.repeat(np.repeat(bounds[:-1], sizes), mates) + within).astype(np.int32)
    del within
    others = first != second
    source, target = members[first[others]], members[second[others]]
    del first, second, others
    # The largest of log weight + Gumbel noise are a draw without replacement by weight.
    keys = trusting[source] + trusted[target]
    keys -= np.log(rng.standard_exponential(len(keys), dtype=np.float32))
    chosen = np.argpartition(keys, len(keys) - edges)[len(keys) - edges :]
    del keys
    source, target = source[chosen], target[chosen]
    order = np.lexsort((target, source))
    return Circles(of_user, source[order], target[order])


def _cut(users: int, size: float, rng: np.random.Generator) -> I64:
    """Bounds of circles of about `size` users each, from 0 to `users`."""
    if size >= users:
        return np.array([0, users])
    sizes = np.maximum(rng.uniform(0.5, 1.5, int(3 * users / size) + 3) * size, 2).astype(np.int64)
    ends = np.cumsum(sizes)
    inner = ends[ends <= users - max(size / 2, 2)]  # so that the last circle is not too small
    return np.concatenate([[0], inner, [users]])
