"""Damped user and item biases: the baseline that the model corrects, and what centres messages.

A rating is predicted as mean + user bias + item bias. The biases minimise

    sum over ratings (r - mean - b_u - b_i)^2 + users' damping * sum_u b_u^2
                                              + items' damping * sum_i b_i^2

(Koren, Bell and Volinsky, "Matrix factorization techniques for recommender systems", IEEE
Computer 42(8), 2009, equations 3 and 5 without factors), found by alternating exact half-steps.

The dampings are found from the same ratings: if biases and noise are normally distributed, the
best damping is the variance of the noise over that of the biases; see `_dampings`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from dglrec.graph import Adjacency, RatingGraph, node_chunks
from dglrec.kernels import segment_squares, segment_sums
from dglrec.progress import progress
from dglrec.schema import RatingScale


class Damping(NamedTuple):
    """Ratings of exactly average value that each node is thought to have on top.

    Attributes:
        users: of each user.
        items: of each item.
    """

    users: float
    items: float


DAMPING = Damping(5.0, 5.0)
"""Where the search for the dampings starts, and where it stays if hardly any ratings decide."""

INPUTS = 3
"""How many figures are known of a node beside its messages; see `Biases.inputs`."""

_SWEEPS = 50
_SPREAD_DAMPING = 10.0  # ratings of average spread that each node is thought to have on top
_LEAST_VARIANCE = 1e-6  # where every rating is what the biases say
_TOLERANCE = 1e-5  # of a rating step, root mean square of a sweep's change of the user biases
_LEAST_DAMPING, _MOST_DAMPING = 0.1, 1000.0
_DAMPING_TOLERANCE = 1e-3  # relative change below which a damping stays as it is
_PRIOR_NODES = 1.0  # well-determined biases that each side is thought to have on top
_ROUNDING_VARIANCE = 1 / 12  # of rounding to whole steps, in squared steps: the least noise


_Known = tuple[Tensor, Tensor, Tensor]  # biases, degrees and squares of nodes of one type


class Ends(NamedTuple):
    """One end of each of n ratings.

    Attributes:
        nodes: int64 [m] users, or items, each once.
        places: int32 or int64 [n]; which of them each rating has.
    """

    nodes: Tensor
    places: Tensor


@dataclass(frozen=True)
class Biases:
    """Fitted biases, as torch tensors so that batches can gather from them.

    Attributes:
        mean: mean training rating.
        users: float32 [U].
        items: float32 [I].
        user_degrees: float32 [U], training ratings of each user.
        item_degrees: float32 [I].
        user_squares: float32 [U], sum over a user's ratings of (r - mean - item bias)^2.
        item_squares: float32 [I], sum over an item's ratings of (r - mean - user bias)^2.
        variance: mean of (r - mean - user bias - item bias)^2 over all ratings.
        damping: what the biases of users and of items were fitted with.
    """

    mean: float
    users: Tensor
    items: Tensor
    user_degrees: Tensor
    item_degrees: Tensor
    user_squares: Tensor
    item_squares: Tensor
    variance: float
    damping: Damping = DAMPING

    def predict(self, users: Tensor, items: Tensor) -> Tensor:
        """float32 [n]: mean + user bias + item bias of n pairs, not clipped to the scale."""
        # index_select is several times as fast as indexing on a CPU.
        return self.users.index_select(0, users).add_(self.items.index_select(0, items)) + self.mean

    def to(self, device: torch.device) -> "Biases":
        """The same on another device."""
        return Biases(
            self.mean,
            self.users.to(device),
            self.items.to(device),
            self.user_degrees.to(device),
            self.item_degrees.to(device),
            self.user_squares.to(device),
            self.item_squares.to(device),
            self.variance,
            self.damping,
        )

    def copied(self, device: torch.device) -> "Biases":
        """The same on a device, with tensors of its own, for `leaving_out`."""
        moved = self.to(device)
        return replace(
            moved,
            users=moved.users.clone(),
            items=moved.items.clone(),
            user_degrees=moved.user_degrees.clone(),
            item_degrees=moved.item_degrees.clone(),
            user_squares=moved.user_squares.clone(),
            item_squares=moved.item_squares.clone(),
        )

    def with_nobody(self) -> "Biases":
        """The same with one more user, who has rated nothing: padding of fixed shapes."""
        return replace(
            self,
            users=functional.pad(self.users, (0, 1)),
            user_degrees=functional.pad(self.user_degrees, (0, 1)),
            user_squares=functional.pad(self.user_squares, (0, 1)),
        )

    @contextmanager
    def leaving_out(
        self, users: Ends, items: Ends, ratings: Tensor, present: Tensor | None = None
    ) -> Iterator[None]:
        """Make these, for a while, the biases without n of the training ratings; see `without`.

        The rows of their users and items are changed in place and put back, so that the cost
        follows from n and not from how many users and items there are.

        Args:
            users: of the ratings to take out; all of them in the training set.
            items: theirs.
            ratings: float32 [n].
            present: float32 [n]; 1 for a rating, 0 for padding; None where all are ratings.
        """
        of_users, of_items = self._tables
        before = _rows(of_users, users.nodes), _rows(of_items, items.nodes)
        left = self._left(before, (users.places, items.places), ratings, present)
        _put(of_users, users.nodes, left[0])
        _put(of_items, items.nodes, left[1])
        try:
            yield
        finally:
            _put(of_users, users.nodes, before[0])
            _put(of_items, items.nodes, before[1])

    @property
    def _tables(self) -> tuple[_Known, _Known]:
        """Biases, degrees and squares of all users, and of all items."""
        return (
            (self.users, self.user_degrees, self.user_squares),
            (self.items, self.item_degrees, self.item_squares),
        )

    def _left(
        self,
        known: tuple[_Known, _Known],
        places: tuple[Tensor, Tensor],
        ratings: Tensor,
        present: Tensor | None = None,
    ) -> tuple[_Known, _Known]:
        """What is known of some users and items, without n ratings among them.

        Args:
            known: of the users, and of the items.
            places: int [n] each; the rows of both ends of the ratings.
            ratings: float32 [n].
            present: float32 [n]; see `leaving_out`.
        """
        (of_users, of_items), (by_user, by_item) = known, places
        centred = ratings - self.mean
        beyond_items = centred - of_items[0].index_select(0, by_item)
        beyond_users = centred - of_users[0].index_select(0, by_user)
        return (
            _leave_out(of_users, by_user, beyond_items, self.damping.users, present),
            _leave_out(of_items, by_item, beyond_users, self.damping.items, present),
        )

    def without(self, users: Tensor, items: Tensor, ratings: Tensor) -> "Biases":
        """The biases as they would be had n of the training ratings not been there.

        A user's bias is its damped mean of r - mean - b_i, so taking ratings out of it is exact
        given the item biases; likewise an item's. (What the ratings moved in *other* nodes'
        biases stays, an effect smaller by another factor of a degree.) Predicting a target from
        biases that hold it would tell the model the answer; see DESIGN, "no leak".

        Args:
            users: int64 [n] users of the ratings to take out; all of them in the training set.
            items: int64 [n] their items.
            ratings: float32 [n].
        """
        of_users, of_items = self._left(self._tables, (users, items), ratings)
        return replace(
            self,
            users=of_users[0],
            items=of_items[0],
            user_degrees=of_users[1],
            item_degrees=of_items[1],
            user_squares=of_users[2],
            item_squares=of_items[2],
        )

    def user_inputs(self, users: Tensor | slice) -> Tensor:
        """float32 [n, 3]: what is known of users beside their messages; see `inputs`."""
        return self.inputs(
            self.users[users],
            self.user_degrees[users],
            self.user_squares[users],
            self.damping.users,
        )

    def item_inputs(self, items: Tensor | slice) -> Tensor:
        """float32 [n, 3]: the same of items."""
        return self.inputs(
            self.items[items],
            self.item_degrees[items],
            self.item_squares[items],
            self.damping.items,
        )

    def inputs(self, bias: Tensor, degrees: Tensor, squares: Tensor, damping: float) -> Tensor:
        """Bias, log(1 + degree) and log spread of n nodes, float32 [n, 3].

        The spread is the standard deviation of what a node's ratings have beyond the biases, over
        that of all ratings, and damped: people differ in how much of the scale they use. A node
        without ratings has zeros.

        Args:
            bias: float32 [n].
            degrees: float32 [n].
            squares: float32 [n], as `user_squares`.
            damping: what the n biases were fitted with.
        """
        left = _beyond_own(squares, bias, degrees, damping)
        damped = left.clamp(min=0) + _SPREAD_DAMPING * self.variance
        spread = torch.log(damped / ((degrees + _SPREAD_DAMPING) * self.variance)) / 2
        return torch.stack((bias, torch.log1p(degrees), spread), dim=1)

    def of_new_users(self, ratings: Adjacency, scale: RatingScale) -> "Biases":
        """The same with n users that training never saw in place of its own.

        Args:
            ratings: of the n users, the neighbours being items that have a bias here.
            scale: what the codes of the ratings stand for.
        """
        levels = scale.decode(np.arange(scale.levels)).astype(np.float64) - self.mean
        explained = self.items.numpy().astype(np.float64)
        sums = segment_sums(ratings.offsets, levels, ratings.codes)
        sums -= segment_sums(ratings.offsets, explained, ratings.neighbours)
        bias = sums / (ratings.degrees + self.damping.users)
        return Biases(
            self.mean,
            _float32(bias),
            self.items,
            _float32(ratings.degrees),
            self.item_degrees,
            _float32(_squares(ratings, levels, explained)),
            self.item_squares,
            self.variance,
            self.damping,
        )


def fit_biases(graph: RatingGraph, damping: Damping | None = None) -> Biases:
    """Fit the biases to all edges of the graph, in float64.

    Args:
        graph: the training ratings, at least one.
        damping: weights of the squared biases; None finds them from the ratings.
    """
    by_user, by_item = graph.by_user, graph.by_item
    counts = graph.level_counts
    levels = graph.scale.decode(np.arange(graph.scale.levels)).astype(np.float64)
    mean = float(counts @ levels / counts.sum())
    centred = levels - mean

    user_sums = segment_sums(by_user.offsets, centred, by_user.codes)
    item_sums = segment_sums(by_item.offsets, centred, by_item.codes)
    user_degrees, item_degrees = by_user.degrees, by_item.degrees
    user_bias = np.zeros(graph.num_users)
    item_bias = np.zeros(graph.num_items)
    total = float(counts @ centred**2)
    least_noise = _ROUNDING_VARIANCE * graph.scale.step**2
    wanted = DAMPING if damping is None else damping
    with progress("fitting biases", None, "sweeps") as advance:
        for _ in range(_SWEEPS):
            used = wanted
            explained = segment_sums(by_item.offsets, user_bias, by_item.neighbours)
            item_bias = (item_sums - explained) / (item_degrees + used.items)
            explained = segment_sums(by_user.offsets, item_bias, by_user.neighbours)
            beyond = user_sums - explained
            updated = beyond / (user_degrees + used.users)
            change = float(np.sqrt(np.mean((updated - user_bias) ** 2)))
            user_bias = updated
            advance(1)
            still = change <= _TOLERANCE * graph.scale.step
            if damping is None:
                # Sum over all ratings of (centred rating - item bias - user bias)^2, multiplied
                # out: sums over a node's ratings are there already, so no rating is read again.
                squares = total + np.sum(item_bias * (item_degrees * item_bias - 2 * item_sums))
                squares += np.sum(user_bias * (user_degrees * user_bias - 2 * beyond))
                sides = (user_bias, user_degrees), (item_bias, item_degrees)
                found = _dampings(*sides, float(squares), least_noise, used)
                if not np.allclose(found, used, rtol=_DAMPING_TOLERANCE, atol=0):
                    wanted, still = found, False
            if still:
                break
    user_squares = _squares(by_user, centred, item_bias)
    left = _beyond_own(user_squares, user_bias, user_degrees, used.users)
    return Biases(
        mean,
        _float32(user_bias),
        _float32(item_bias),
        _float32(user_degrees),
        _float32(item_degrees),
        _float32(user_squares),
        _float32(_squares(by_item, centred, user_bias)),
        max(float(left.sum()) / len(by_user.neighbours), _LEAST_VARIANCE),
        used,
    )


_Side = tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]  # a side's biases and degrees


def _dampings(
    users: _Side, items: _Side, squares: float, least_noise: float, used: Damping
) -> Damping:
    """The dampings that the evidence asks for, given biases fitted with those used so far.

    One step of the fixed point of MacKay, "Bayesian interpolation", Neural Computation 4(3), 1992,
    section 4.4, for two groups of parameters. Of n ratings and a damping d, n / (n + d) of a bias
    is decided by its ratings and the rest by the damping: their sum over the nodes of a side is
    gamma, its number of well-determined biases. Then

        noise = squares / (ratings - gamma of users - gamma of items)
        variance of a side's biases = sum of their squares / gamma
        damping of a side = noise / variance of its biases

    Each side has `_PRIOR_NODES` more well-determined biases, of the variance that `DAMPING` stands
    for. Beside thousands of nodes they count for nothing; where there are hardly any they decide.

    Args:
        users: float64 [U] biases and int64 [U] degrees.
        items: float64 [I] and int64 [I].
        squares: sum over the ratings of (r - mean - b_u - b_i)^2.
        least_noise: variance that the noise has at least.
        used: what the biases were fitted with.
    """
    gammas = [
        float((degrees / (degrees + damping)).sum())
        for (_, degrees), damping in zip((users, items), used, strict=True)
    ]
    free = float(users[1].sum()) - sum(gammas)
    noise = max(squares / max(free, 1.0), least_noise)
    found = [
        noise * (gamma + _PRIOR_NODES) / (float(np.sum(bias**2)) + _PRIOR_NODES * noise / expected)
        for (bias, _), gamma, expected in zip((users, items), gammas, DAMPING, strict=True)
    ]
    return Damping(*(min(max(damping, _LEAST_DAMPING), _MOST_DAMPING) for damping in found))


class NoBiases(Biases):
    """What stands for biases where rows are interactions, whose values are all 1.

    Mean, biases and squares are zero, whatever rows are taken out, so what is left of a row is its
    value. Only degrees are known.
    """

    def to(self, device: torch.device) -> "NoBiases":
        """The same on another device."""
        return self._with_degrees(self.user_degrees.to(device), self.item_degrees.to(device))

    def _left(
        self,
        known: tuple[_Known, _Known],
        places: tuple[Tensor, Tensor],
        ratings: Tensor,
        present: Tensor | None = None,
    ) -> tuple[_Known, _Known]:
        """The same, whose degrees alone change; see `Biases`."""
        of_users, of_items = (
            (bias, _count_down(degrees, rows, present).to(degrees.dtype), squares)
            for (bias, degrees, squares), rows in zip(known, places, strict=True)
        )
        return of_users, of_items

    def inputs(self, bias: Tensor, degrees: Tensor, squares: Tensor, damping: float) -> Tensor:
        """float32 [n, 3]: zero, log(1 + degree), zero; see `Biases.inputs`."""
        zeros = torch.zeros_like(degrees)
        return torch.stack((zeros, torch.log1p(degrees), zeros), dim=1)

    def of_new_users(self, ratings: Adjacency, scale: RatingScale) -> "NoBiases":
        """The same with n users that training never saw in place of its own."""
        return self._with_degrees(_float32(ratings.degrees), self.item_degrees)

    def _with_degrees(self, user_degrees: Tensor, item_degrees: Tensor) -> "NoBiases":
        return NoBiases(
            mean=self.mean,
            users=torch.zeros_like(user_degrees),
            items=torch.zeros_like(item_degrees),
            user_degrees=user_degrees,
            item_degrees=item_degrees,
            user_squares=torch.zeros_like(user_degrees),
            item_squares=torch.zeros_like(item_degrees),
            variance=self.variance,
            damping=self.damping,
        )


def no_biases(graph: RatingGraph) -> NoBiases:
    """The biases of a graph of interactions: none.

    Args:
        graph: the training interactions.
    """
    return NoBiases(
        mean=0.0,
        users=torch.zeros(graph.num_users),
        items=torch.zeros(graph.num_items),
        user_degrees=_float32(graph.by_user.degrees),
        item_degrees=_float32(graph.by_item.degrees),
        user_squares=torch.zeros(graph.num_users),
        item_squares=torch.zeros(graph.num_items),
        variance=_LEAST_VARIANCE,
    )


def residuals_of(graph: RatingGraph, biases: Biases) -> npt.NDArray[np.float32]:
    """float32 [E]: each training rating less mean and biases, in the order of the edges' ids."""
    by_user = graph.by_user
    out = np.empty(graph.num_edges, dtype=np.float32)
    for first, last in node_chunks(by_user.offsets):
        part = slice(int(by_user.offsets[first]), int(by_user.offsets[last]))
        users = np.repeat(np.arange(first, last), by_user.degrees[first:last])
        items = torch.from_numpy(np.asarray(by_user.neighbours[part])).long()
        explained = biases.predict(torch.from_numpy(users), items).numpy()
        out[part] = graph.scale.decode(np.asarray(by_user.codes[part])) - explained
    return out


def _squares(
    ratings: Adjacency, levels: npt.NDArray[np.float64], explained: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """For each node the sum over its ratings of (level - what explains the other end)^2."""
    return segment_squares(ratings.offsets, levels, ratings.codes, explained, ratings.neighbours)


_Values = TypeVar("_Values", Tensor, npt.NDArray[Any])


def _beyond_own(squares: _Values, bias: _Values, degrees: _Values, damping: float) -> _Values:
    """For each node the sum over its ratings of (rating less mean and both biases)^2.

    Of x, a rating less mean and the other end's bias, `squares` is the sum of x^2, and the sum of x
    is bias * (degree + damping).
    """
    left: _Values = squares - bias * bias * (degrees + 2 * damping)
    return left


def _float32(values: npt.NDArray[Any]) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))


def _rows(tables: _Known, nodes: Tensor) -> _Known:
    bias, degrees, squares = (table.index_select(0, nodes) for table in tables)
    return bias, degrees, squares


def _put(tables: _Known, nodes: Tensor, rows: _Known) -> None:
    for table, of_nodes in zip(tables, rows, strict=True):
        table.index_copy_(0, nodes, of_nodes)


def _leave_out(
    known: _Known, nodes: Tensor, residuals: Tensor, damping: float, present: Tensor | None
) -> _Known:
    """Biases, degrees and squares of all nodes without n ratings of some of them."""
    bias, degrees, squares = known
    remaining, residuals = _count_down(degrees, nodes, present), residuals.double()
    if present is not None:
        residuals = residuals * present
    sums = bias.double() * (degrees.double() + damping)
    sums.index_add_(0, nodes, residuals, alpha=-1)
    left = squares.double().index_add_(0, nodes, residuals.square(), alpha=-1)
    return (
        (sums / (remaining + damping)).to(bias.dtype),
        remaining.to(degrees.dtype),
        left.to(squares.dtype),
    )


def _count_down(degrees: Tensor, nodes: Tensor, present: Tensor | None) -> Tensor:
    """float64 degrees less one for each of n ratings; float32 takes no 1 off 2^24 and more."""
    if present is not None:
        return degrees.double().index_add_(0, nodes, present.double(), alpha=-1)
    return degrees.double() - torch.bincount(nodes, minlength=len(degrees))
