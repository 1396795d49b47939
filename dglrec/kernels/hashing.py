"""Hashes of whole numbers, which make the random decisions about nodes and edges.

A decision is computed from the node's or edge's number whenever it is needed. Nothing is stored or
drawn in sequence, so every process and every caller gets the same answer, and pays only for the
numbers that it asks about.
"""

import numpy as np
from torch import Tensor

from dglrec.kernels.parallel import compiled

# The finalizer of MurmurHash3 (Appleby, 2016): every bit of the input moves every bit of the hash.
_MULTIPLIERS = (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53)
_SHIFT = 33
_SIGNED = tuple(multiplier - (1 << 64) for multiplier in _MULTIPLIERS)  # torch has no uint64
_UNSIGNED = tuple(np.uint64(multiplier) for multiplier in _MULTIPLIERS)

HASH_BITS = 24
"""A hash is from 0 to 2^24 - 1."""

_ROTATED, _DROPPED = np.uint64(_SHIFT), np.uint64(64 - HASH_BITS)
_BITS = np.uint64(HASH_BITS)


def chances(numbers: Tensor, key: int | Tensor) -> Tensor:
    """float64 [n], at least 0 and below 1: the hashes of n whole numbers; see `hashes`."""
    return hashes(numbers, key).double() / (1 << HASH_BITS)


def hashes(numbers: Tensor, key: int | Tensor) -> Tensor:
    """int64 [n] hashes of n whole numbers.

    Args:
        numbers: int64 [n].
        key: added to the numbers, so that other decisions have other hashes; below 2^63.
    """
    low_bits = (1 << (64 - _SHIFT)) - 1
    mixed = numbers + key
    for multiplier in _SIGNED:
        mixed ^= (mixed >> _SHIFT) & low_bits
        mixed *= multiplier
    return (mixed >> (64 - HASH_BITS)) & ((1 << HASH_BITS) - 1)


def hash_parts(numbers: Tensor, key: int | Tensor, count: int) -> Tensor:
    """int64 [n], 0..count-1: which of `count` equal parts each of n hashes is in; see `hashes`."""
    return (hashes(numbers, key) * count) >> HASH_BITS


@compiled
def mixed(number):  # type: ignore[no-untyped-def]
    """All 64 bits of the hash of a number, uint64; for compiled code."""
    number ^= number >> _ROTATED
    number *= _UNSIGNED[0]
    number ^= number >> _ROTATED
    number *= _UNSIGNED[1]
    return number ^ (number >> _ROTATED)


@compiled
def hash_of(number):  # type: ignore[no-untyped-def]
    """`hashes` of one number, uint64, the key added to it; for compiled code."""
    # The last shift of `mixed` does not change the highest bits.
    return mixed(number) >> _DROPPED


@compiled
def hash_part_of(number, count):  # type: ignore[no-untyped-def]
    """`hash_parts` of one number, uint64, the key added to it; for compiled code."""
    return (hash_of(number) * count) >> _BITS
