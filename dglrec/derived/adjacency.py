"""Weighted edges among nodes of one type, and the two sides of the rating graph behind them.

Shapes: N nodes, E edges.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from scipy.sparse.linalg import eigsh

from dglrec.blocks import WeightedEdges
from dglrec.graph import Adjacency, RatingGraph

Side = Literal["items", "users"]

_DENSE = 64  # up to so many nodes, all eigenvalues are computed


@dataclass(frozen=True)
class WeightedAdjacency:
    """The weighted in-edges of N nodes, from nodes of the same type.

    Attributes:
        offsets: int64 [N + 1]; node v's edges stand at `offsets[v]:offsets[v + 1]`.
        neighbours: int32 [E]; the node at an edge's other end, ascending within a node.
        weights: float32 [E].
    """

    offsets: npt.NDArray[np.int64]
    neighbours: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32]

    @property
    def num_nodes(self) -> int:
        """N."""
        return len(self.offsets) - 1

    @property
    def degrees(self) -> npt.NDArray[np.int64]:
        """int64 [N]: how many in-edges each node has."""
        return np.diff(self.offsets)

    @classmethod
    def of_matrix(cls, matrix: Any) -> "WeightedAdjacency":
        """The adjacency of a square sparse matrix, whose row v holds the weights of v's in-edges.

        Raises:
            ValueError: the matrix is not square.
        """
        rows = sparse.csr_array(matrix)
        if rows.shape[0] != rows.shape[1]:
            raise ValueError(f"a matrix of {rows.shape[0]} rows and {rows.shape[1]} columns")
        rows.sum_duplicates()
        return cls(
            rows.indptr.astype(np.int64),
            rows.indices.astype(np.int32),
            rows.data.astype(np.float32),
        )

    def matrix(self) -> sparse.csr_array:
        """The same as a sparse matrix, float32 [N, N].

        Raises:
            ValueError: the arrays do not fit together, or an edge has a node that does not exist.
        """
        shape = (self.num_nodes, self.num_nodes)
        rows = sparse.csr_array((self.weights, self.neighbours, self.offsets), shape=shape)
        rows.check_format(full_check=True)
        return rows

    def edges(self) -> WeightedEdges:
        """The same as tensors."""
        arrays = (self.offsets, self.neighbours, self.weights)
        return WeightedEdges(*(torch.from_numpy(np.ascontiguousarray(one)) for one in arrays))

    def is_symmetric(self) -> bool:
        """Whether each edge has a reverse edge with the same weight."""
        matrix = self.matrix()
        return bool((matrix != matrix.T).nnz == 0)

    def largest_eigenvalue(self) -> float:
        """The largest eigenvalue of the matrix; 0 without edges.

        Raises:
            ValueError: the matrix is not symmetric.
        """
        if not self.is_symmetric():
            raise ValueError("the edges are not symmetric, so eigenvalues may be complex")
        if not len(self.weights):
            return 0.0
        matrix = self.matrix().astype(np.float64)
        if self.num_nodes <= _DENSE:
            return float(np.linalg.eigvalsh(matrix.toarray())[-1])
        # A fixed start makes the result repeatable. It is not constant, as a constant vector is an
        # eigenvector wherever all nodes have the same sum of weights.
        start = 1 + np.arange(self.num_nodes) / self.num_nodes
        return float(eigsh(matrix, k=1, which="LA", v0=start, return_eigenvectors=False)[0])

    def divided_by_largest_eigenvalue(self) -> "WeightedAdjacency":
        """The same with weights divided by `largest_eigenvalue`; unchanged without edges.

        Powers of the matrix then neither grow nor vanish, as graph filters need (Gama, Marques,
        Leus and Ribeiro, "Convolutional neural network architectures for signals supported on
        graphs", IEEE TSP 67(4), 2019).

        Raises:
            ValueError: the matrix is not symmetric, or its largest eigenvalue is not above 0.
        """
        if not len(self.weights):
            return self
        largest = self.largest_eigenvalue()
        if not largest > 0:
            raise ValueError(f"the largest eigenvalue is {largest:g}, and must be above 0")
        return replace(self, weights=(self.weights / largest).astype(np.float32))


def sides_of(graph: RatingGraph, of: Side) -> tuple[Adjacency, Adjacency]:
    """The edges of the nodes that are compared, and the edges of the nodes of the other type.

    Raises:
        ValueError: `of` is neither "items" nor "users".
        IndexError: an edge has a node that does not exist.
    """
    if of not in ("items", "users"):
        raise ValueError(f"of={of!r}: choose items or users")
    sides = graph.by_item, graph.by_user
    own, others = sides if of == "items" else sides[::-1]
    _check(own, others.num_nodes)
    _check(others, own.num_nodes)
    return own, others


def _check(adjacency: Adjacency, count: int) -> None:
    """Refuse edges by which compiled code would read or write outside the arrays."""
    offsets, neighbours, codes = adjacency.offsets, adjacency.neighbours, adjacency.codes
    ascending = (offsets[1:] >= offsets[:-1]).all()
    if offsets[0] != 0 or not offsets[-1] == len(neighbours) == len(codes) or not ascending:
        raise ValueError(
            f"offsets from {offsets[0]} to {offsets[-1]} do not fit {len(neighbours)} neighbours "
            f"and {len(codes)} codes"
        )
    if len(neighbours) and (neighbours.min() < 0 or neighbours.max() >= count):
        raise IndexError(
            f"neighbours {neighbours.min()} to {neighbours.max()}, and there are {count} nodes"
        )


class EdgeArrays(NamedTuple):
    """An `Adjacency` for compiled code: the edges of M nodes, E in all.

    Attributes:
        offsets: int64 [M + 1]; node v's edges stand at `offsets[v]:offsets[v + 1]`.
        neighbours: int32 [E].
        codes: [E]; the ratings.
    """

    offsets: npt.NDArray[np.int64]
    neighbours: npt.NDArray[np.int32]
    codes: npt.NDArray[Any]

    @classmethod
    def of(cls, adjacency: Adjacency) -> "EdgeArrays":
        """The arrays of an adjacency."""
        arrays = adjacency.offsets, adjacency.neighbours, adjacency.codes
        return cls(*(np.asarray(one) for one in arrays))


class NearestRows(NamedTuple):
    """Up to k weighed neighbours of each of N nodes, from the first column of its row on.

    Attributes:
        counts: int64 [N]; how many neighbours each node has.
        neighbours: int32 [N, k].
        weights: float32 [N, k].
    """

    counts: npt.NDArray[np.int64]
    neighbours: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32]

    @classmethod
    def empty(cls, size: int, most: int) -> "NearestRows":
        """Room for `most` neighbours of each of `size` nodes, which have none yet."""
        return cls(
            np.zeros(size, dtype=np.int64),
            np.zeros((size, most), dtype=np.int32),
            np.zeros((size, most), dtype=np.float32),
        )

    def pack(self) -> WeightedAdjacency:
        """The same as an adjacency, each node's neighbours in ascending order."""
        counts = self.counts
        offsets = np.zeros(len(counts) + 1, dtype=np.int64)
        np.cumsum(counts, out=offsets[1:])
        filled = np.arange(self.neighbours.shape[1]) < counts[:, None]
        shape = (len(counts), len(counts))
        arrays = (self.weights[filled], self.neighbours[filled], offsets)
        matrix = sparse.csr_array(arrays, shape=shape)
        matrix.sort_indices()
        return WeightedAdjacency.of_matrix(matrix)
