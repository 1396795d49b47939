"""Sparse item-item weights, whose scores are added to those of the list head.

s_ui += sum over the user's items j of value(r_uj) W_ji
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dglrec.graph import Adjacency
from dglrec.infer.predict import entries_of
from dglrec.kernels import compiled, parts_of, run_side_by_side

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ItemWeights:
    """For each item j the items i whose scores it raises or lowers, with the weights W_ji.

    Attributes:
        offsets: int64 [I + 1]; row j is `offsets[j]:offsets[j + 1]`.
        items: int32 [N], i, ascending in each row.
        weights: float32 [N], W_ji times the factor with which they are added to scores.
        values: float32 [levels]; value(r) of each level of the rating scale.
    """

    offsets: npt.NDArray[np.int64]
    items: npt.NDArray[np.int32]
    weights: Floats
    values: Floats

    @classmethod
    def checked(
        cls, arrays: Mapping[str, npt.NDArray[Any]], *, num_items: int, levels: int
    ) -> "ItemWeights":
        """The weights in the arrays of a file.

        Raises:
            ValueError: the arrays are not item weights of so many items and levels.
        """
        wanted = {"offsets": np.int64, "items": np.int32, "weights": np.float32}
        wanted["values"] = np.float32
        found = {name: array.dtype for name, array in arrays.items()}
        if found != {name: np.dtype(dtype) for name, dtype in wanted.items()}:
            raise ValueError(f"holds {', '.join(map(str, found)) or 'nothing'}, not item weights")
        offsets, items, weights, values = (arrays[name] for name in wanted)
        if (
            any(array.ndim != 1 for array in arrays.values())
            or len(offsets) != num_items + 1
            or len(values) != levels
            or offsets[0] != 0
            or offsets[-1] != len(items)
            or len(items) != len(weights)
            or (offsets[1:] < offsets[:-1]).any()  # a difference could overflow
        ):
            raise ValueError("does not fit the data set")
        if len(items) and not 0 <= items.min() <= items.max() < num_items:
            raise ValueError(f"names items {items.min()} to {items.max()} of {num_items}")
        # Readers look for an item in a row by binary search.
        falls = np.flatnonzero(items[1:] <= items[:-1]) + 1
        if len(falls) and not np.isin(falls, offsets).all():
            raise ValueError("names items of a row out of order")
        if not (np.isfinite(weights).all() and np.isfinite(values).all()):
            raise ValueError("holds weights that are not finite numbers")
        return cls(offsets, items, weights, values)

    def of_each(self, rated: Adjacency, users: Tensor, items: Tensor) -> Tensor:
        """What each of the K ratings of n users adds to the scores of k items, float32 [K, k].

        Args:
            rated: the users' ratings.
            users: int64 [n] rows of `rated`.
            items: int64 [n, k].
        """
        owners, entries = entries_of(rated.offsets, users)
        speaking = np.asarray(rated.neighbours)[entries.numpy()]
        values = self.values[np.asarray(rated.codes)[entries.numpy()]]
        out = np.zeros((len(speaking), items.shape[1]), dtype=np.float32)
        wanted = items.numpy()[owners.numpy()]
        for number, item in enumerate(speaking.tolist()):
            part = slice(self.offsets[item], self.offsets[item + 1])
            named, weights = self.items[part], self.weights[part]
            if len(named):
                places = np.searchsorted(named, wanted[number]).clip(max=len(named) - 1)
                found = named[places] == wanted[number]
                out[number] = np.where(found, values[number] * weights[places], 0.0)
        return torch.from_numpy(out)


@dataclass(frozen=True)
class ItemItems:
    """Item-item weights, and the users to whose scores they are added.

    Attributes:
        weights: of I items.
        rated: the ratings of U users; their items are among the I.
    """

    weights: ItemWeights
    rated: Adjacency

    def rows(self, users: Tensor, catalogue: Tensor) -> Floats:
        """float32 [n, C]: what is added to the scores of a catalogue's items, int64 [C]."""
        rows = self._all(users)
        count = rows.shape[1]
        if len(catalogue) == count and int(catalogue[-1]) == count - 1:
            return rows
        out = np.zeros((len(users), len(catalogue)), dtype=np.float32)
        known = catalogue.numpy() < count
        out[:, known] = rows[:, catalogue.numpy()[known]]
        return out

    def pairs(self, users: Tensor, items: Tensor) -> Tensor:
        """float32 [n]: what is added to the scores of n pairs."""
        distinct, places = torch.unique(users, return_inverse=True)
        count = len(self.weights.offsets) - 1
        out = torch.zeros(len(users))
        known = items < count
        step = max(1, (1 << 24) // count)
        for first in range(0, len(distinct), step):
            rows = torch.from_numpy(self._all(distinct[first : first + step]))
            here = ((places >= first) & (places < first + step) & known).nonzero().squeeze(1)
            out[here] = rows[places[here] - first, items[here]]
        return out

    def with_rated(self, rated: Adjacency) -> "ItemItems":
        """The same weights, with other users."""
        return ItemItems(self.weights, rated)

    def rows_at(self, users: Tensor, items: Tensor) -> Tensor:
        """float32 [n, k]: what is added to the scores of k items of each of n users."""
        flat = users.repeat_interleave(items.shape[1]), items.flatten()
        return self.pairs(*flat).view_as(items)

    def _all(self, users: Tensor) -> Floats:
        """float32 [n, I]: what is added to all items' scores."""
        weights, rated = self.weights, self.rated
        count = len(weights.offsets) - 1
        rows = users.numpy()
        if len(rows) and (rows.min() < 0 or rows.max() >= rated.num_nodes):
            raise IndexError(f"users {rows.min()} to {rows.max()}: there are {rated.num_nodes}")
        out = np.zeros((len(rows), count), dtype=np.float32)
        ratings = _Ratings(rated.offsets, rated.neighbours, rated.codes)
        rows_of_items = _WeightRows(weights.offsets, weights.items, weights.weights, weights.values)
        work = len(rows) * count
        run_side_by_side(
            [
                partial(_add, rows, ratings, rows_of_items, out, low, high)
                for low, high in parts_of(len(rows), work)
            ]
        )
        return out


class _Ratings(NamedTuple):
    """An `Adjacency` by user, as the compiled loop takes it."""

    offsets: npt.NDArray[np.int64]
    items: npt.NDArray[np.int32]
    codes: npt.NDArray[Any]


class _WeightRows(NamedTuple):
    """`ItemWeights`, as the compiled loop takes them."""

    offsets: npt.NDArray[np.int64]
    items: npt.NDArray[np.int32]
    weights: Floats
    values: Floats


@compiled
def _add(users, ratings, weights, out, low, high):  # type: ignore[no-untyped-def]
    """Add the weighted rows of the users' items to `out[low:high]`."""
    for row in range(low, high):
        user = users[row]
        scores = out[row]
        for edge in range(ratings.offsets[user], ratings.offsets[user + 1]):
            value = weights.values[ratings.codes[edge]]
            if value == 0:
                continue
            item = ratings.items[edge]
            for n in range(weights.offsets[item], weights.offsets[item + 1]):
                scores[weights.items[n]] += value * weights.weights[n]
