"""Drift: tastes that turn from one direction to another over time."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

START = 1_420_070_400
"""The first second of 2015, and the earliest time of a rating."""
PERIOD = 5 * 365 * 86_400
"""The seconds during which ratings come; a session that begins at the end may go on beyond."""


def angles(strength: float, timestamps: npt.NDArray[Any]) -> F64:
    """How far taste has turned at [N] times, in radians: 0 in the middle of the period."""
    elapsed = (np.asarray(timestamps, dtype=np.float64) - START) / PERIOD
    return np.asarray(strength * (math.pi / 2) * (elapsed - 0.5))


@dataclass(frozen=True, eq=False)
class Drift:
    """How tastes turn.

    At time t the taste of user u is cos(a) p_u + sin(a) turn_u, where

        a = strength * pi / 2 * ((t - START) / PERIOD - 1 / 2)

    p_u is the user's vector in `Truth`, and turn_u is orthogonal to it and has the same length.

    Attributes:
        strength: quarter turns from the first day to the last, above 0.
        turns: float32 [U, K].
    """

    strength: float
    turns: F32

    def taste(
        self,
        user_vectors: F32,
        item_vectors: F32,
        users: npt.NDArray[Any],
        items: npt.NDArray[Any],
        timestamps: npt.NDArray[Any],
    ) -> F32:
        """[N] products of [N] users' tastes at [N] times with [N] items' vectors."""
        at = angles(self.strength, timestamps)[:, None]
        tastes = np.cos(at) * user_vectors[users] + np.sin(at) * self.turns[users]
        return np.asarray(np.einsum("nk,nk->n", tastes.astype(np.float32), item_vectors[items]))


def draw_turns(directions: F32, rng: np.random.Generator) -> F32:
    """[U, K] vectors of length 1, each orthogonal to its user's direction and otherwise random."""
    turns = rng.standard_normal(directions.shape)
    turns -= np.einsum("uk,uk->u", turns, directions)[:, None] * directions
    lengths = np.linalg.norm(turns, axis=1, keepdims=True)
    return (turns / np.where(lengths > 1e-6, lengths, np.inf)).astype(np.float32)
