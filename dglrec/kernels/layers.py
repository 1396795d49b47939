"""For layer-wise sampling: the importance of a step's neighbours, and the edges to chosen ones.

An edge is a rating of a user and an item, seen from nodes of either type. Edges that `Excluded`
describes are left out.

Shapes: D nodes whose edges are read, N nodes of the other type, E edges of all nodes.
"""

from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dglrec.kernels.edges import check_rows, ragged
from dglrec.kernels.hashing import hash_part_of, hash_parts
from dglrec.kernels.numbering import in_order_met
from dglrec.kernels.parallel import (
    arrays_of,
    compiled,
    compiled_as_written,
    even_parts,
    run_side_by_side,
    runs_compiled,
)

_WORK_AN_EDGE = 8  # numbers read and written for each edge; see `even_parts`


class Lists(NamedTuple):
    """The edges of all nodes of one type.

    Attributes:
        starts: int64 [M]; each node's first edge.
        counts: int64 [M]; how many edges each node has.
        neighbours: int32 [E]; the neighbour at each edge's other end.
        of_users: whether the nodes are users and the neighbours items, or the reverse.
    """

    starts: Tensor
    counts: Tensor
    neighbours: Tensor
    of_users: bool


class Excluded(NamedTuple):
    """The edges that are left out: a fold's ratings of the users of a step.

    Attributes:
        in_step: int32 [U]; at least 0 for the users of the step.
        num_items: I.
        key: of the folds; see `sampling.folds.Fold`.
        folds: how many folds there are.
        fold: the number of the fold that is left out; `folds` leaves nothing out.
    """

    in_step: Tensor
    num_items: int
    key: int
    folds: int
    fold: int

    def holds(self, users: Tensor, items: Tensor) -> Tensor:
        """Whether each of n edges is left out, bool [n]; of users and items int64 [n]."""
        numbers = hash_parts(users * self.num_items + items, self.key, self.folds)
        return (self.in_step.index_select(0, users) >= 0) & (numbers == self.fold)


def add_importance(
    nodes: Tensor, lists: Lists, worth: Tensor, known: Tensor, excluded: Excluded, sums: Tensor
) -> Tensor:
    """Sum, for each neighbour of some nodes, what their edges to it are worth; skip known ones.

    Args:
        nodes: int64 [D].
        lists: of the nodes' type.
        worth: float64 [M], above 0; of each edge of a node.
        known: float32 [N]; above 0 for the neighbours to skip.
        excluded: the edges that are left out.
        sums: float64 [N], zeros; added to.

    Returns:
        int64 the neighbours that have a sum, in the order in which they are met.

    Raises:
        ValueError: the tables' lengths do not fit together.
        IndexError: a node or an edge does not exist.
    """
    _check_tables(nodes, lists, known, excluded)
    if len(worth) != len(lists.counts) or len(sums) != len(known):
        raise ValueError(f"{len(worth)} nodes and {len(sums)} sums do not fit the lists")
    if not runs_compiled(nodes):
        edges, owners = _read(nodes, lists)
        others = lists.neighbours.index_select(0, edges).long()
        of_edges = worth.index_select(0, nodes).index_select(0, owners)
        keep = (known.index_select(0, others) <= 0) & ~_are_excluded(
            nodes, owners, others, lists, excluded
        )
        sums.index_add_(0, others[keep], of_edges[keep])
        return in_order_met(others[keep])
    most = min(int(lists.counts.index_select(0, nodes).sum()), len(sums))
    met = np.empty(most, dtype=np.int64)
    arrays = arrays_of(worth, known)
    found = _add_importance(
        nodes.numpy(), _arrays_of_lists(lists), *arrays, _rule(excluded), sums.numpy(), met
    )
    _check(found)
    return torch.from_numpy(met[:found])


def edges_with(
    nodes: Tensor, lists: Lists, known: Tensor, least: float, excluded: Excluded
) -> tuple[Tensor, Tensor]:
    """The edges of some nodes to known neighbours.

    Args:
        nodes: int64 [D].
        lists: of the nodes' type.
        known: int32 or float32 [N]; above `least` for known neighbours.
        least: see `known`.
        excluded: the edges that are left out.

    Returns:
        int64 [K] positions of edges, node by node, and int64 [D] how many each node has.

    Raises:
        ValueError: the tables' lengths do not fit together.
        IndexError: a node or an edge does not exist.
    """
    _check_tables(nodes, lists, known, excluded)
    if not runs_compiled(nodes):
        edges, owners = _read(nodes, lists)
        others = lists.neighbours.index_select(0, edges).long()
        keep = (known.index_select(0, others) > least) & ~_are_excluded(
            nodes, owners, others, lists, excluded
        )
        return edges[keep], torch.bincount(owners[keep], minlength=len(nodes))
    read, table = nodes.numpy(), (*arrays_of(known), np.float32(least))
    arrays = (read, _arrays_of_lists(lists), *table, _rule(excluded))
    counts = np.zeros(len(nodes), dtype=np.int64)
    ends = np.concatenate(([0], np.cumsum(arrays[1].counts[read])))
    parts = even_parts(ends, _WORK_AN_EDGE)
    run_side_by_side([partial(_count_edges, *arrays, counts, *part) for part in parts])
    _check(int(counts.min(initial=0)))
    starts = np.cumsum(counts) - counts
    out = np.empty(int(counts.sum()), dtype=np.int64)
    run_side_by_side([partial(_write_edges, *arrays, starts, out, *part) for part in parts])
    return torch.from_numpy(out), torch.from_numpy(counts)


def _check_tables(nodes: Tensor, lists: Lists, known: Tensor, excluded: Excluded) -> None:
    """Refuse tables that compiled code would read past; edges' neighbours it checks itself."""
    num_users = len(lists.counts) if lists.of_users else len(known)
    if len(lists.starts) != len(lists.counts) or len(excluded.in_step) != num_users:
        raise ValueError(
            f"{len(lists.starts)} starts, {len(lists.counts)} counts and "
            f"{len(excluded.in_step)} of {num_users} users"
        )
    check_rows(nodes, len(lists.counts), "nodes")


def _read(nodes: Tensor, lists: Lists) -> tuple[Tensor, Tensor]:
    """All edges of D nodes, and each edge's node as a position among them, by torch."""
    counts = lists.counts.index_select(0, nodes)
    edges = ragged(lists.starts.index_select(0, nodes), counts)
    return edges, torch.repeat_interleave(counts, output_size=len(edges))


def _are_excluded(
    nodes: Tensor, owners: Tensor, others: Tensor, lists: Lists, excluded: Excluded
) -> Tensor:
    """Whether each edge is left out, bool [n]."""
    ends = nodes.index_select(0, owners), others
    return excluded.holds(*(ends if lists.of_users else ends[::-1]))


class _Lists(NamedTuple):
    """`Lists` as arrays."""

    starts: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    neighbours: npt.NDArray[np.int32]
    of_users: bool


class _Rule(NamedTuple):
    """`Excluded` for compiled code: an array, and the numbers in the hash's type."""

    in_step: npt.NDArray[np.int32]
    num_items: np.uint64
    key: np.uint64
    folds: np.uint64
    fold: np.uint64


def _arrays_of_lists(lists: Lists) -> _Lists:
    starts, counts, neighbours = arrays_of(lists.starts, lists.counts, lists.neighbours)
    return _Lists(starts, counts, neighbours, lists.of_users)


def _rule(excluded: Excluded) -> _Rule:
    num_items, key, folds, fold = (
        np.uint64(number)
        for number in (excluded.num_items, excluded.key, excluded.folds, excluded.fold)
    )
    (in_step,) = arrays_of(excluded.in_step)
    return _Rule(in_step, num_items, key, folds, fold)


def _check(found: int) -> None:
    if found < 0:
        raise IndexError("a node's edges are outside the table of edges")


@compiled
def _is_excluded(rule, of_users, node, other):  # type: ignore[no-untyped-def]
    user, item = (node, other) if of_users else (other, node)
    if rule.in_step[user] < 0:
        return False
    number = np.uint64(user) * rule.num_items + np.uint64(item) + rule.key
    return hash_part_of(number, rule.folds) == rule.fold


@compiled
def _is_there(lists, node):  # type: ignore[no-untyped-def]
    """Whether a node's edges are within the table of edges."""
    first, count = lists.starts[node], lists.counts[node]
    return first >= 0 and count >= 0 and first + count <= len(lists.neighbours)


@compiled_as_written
def _add_importance(nodes, lists, worth, known, rule, sums, met):  # type: ignore[no-untyped-def]
    found = 0
    for n in range(len(nodes)):
        node = nodes[n]
        if not _is_there(lists, node):
            return -1
        for edge in range(lists.starts[node], lists.starts[node] + lists.counts[node]):
            other = lists.neighbours[edge]
            if other < 0 or other >= len(sums):
                return -1
            if known[other] > 0 or _is_excluded(rule, lists.of_users, node, other):
                continue
            if sums[other] == 0.0:
                if found == len(met):
                    return -1
                met[found] = other
                found += 1
            sums[other] += worth[node]
    return found


@compiled
def _count_edges(nodes, lists, known, least, rule, out, low, high):  # type: ignore[no-untyped-def]
    for n in range(low, high):
        node, found = nodes[n], 0
        if not _is_there(lists, node):
            out[n] = -1
            continue
        for edge in range(lists.starts[node], lists.starts[node] + lists.counts[node]):
            other = lists.neighbours[edge]
            if other < 0 or other >= len(known):
                found = -1
                break
            if known[other] > least and not _is_excluded(rule, lists.of_users, node, other):
                found += 1
        out[n] = found


@compiled
def _write_edges(nodes, lists, known, least, rule, places, out, low, high):  # type: ignore[no-untyped-def]
    for n in range(low, high):
        node, place = nodes[n], places[n]
        for edge in range(lists.starts[node], lists.starts[node] + lists.counts[node]):
            other = lists.neighbours[edge]
            if known[other] > least and not _is_excluded(rule, lists.of_users, node, other):
                out[place] = edge
                place += 1
