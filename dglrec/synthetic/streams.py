"""Sources of randomness: a named stream of random numbers for each use."""

from collections.abc import Iterator
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from dglrec.synthetic.draw import user_chunks


class Stream(IntEnum):
    """The use of each stream of random numbers; a new stream does not change the others."""

    CATALOGUE = 0
    ACTIVITY = 1
    POPULARITY = 2
    PAIRS = 3
    MODEL = 4
    NOISE = 5
    MEMBERS = 6
    TASTES = 7
    REFERENCE = 8
    TRUST = 9
    USER_TABLE = 10
    STUDIOS = 11
    TRANSITIONS = 12
    TURNS = 13
    TIMES = 14
    WORTH = 15


def generator(seed: int, stream: Stream, part: int = 0) -> np.random.Generator:
    """The generator of a stream, or of a part of it."""
    return np.random.default_rng([seed, stream, part])


def generators(
    seed: int, stream: Stream, counts: npt.NDArray[np.int64]
) -> Iterator[np.random.Generator]:
    """A generator for each chunk of users, so that chunks do not depend on each other."""
    return (generator(seed, stream, part) for part in range(len(user_chunks(counts))))
