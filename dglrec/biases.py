"""Damped user and item biases: the baseline that the model corrects, and the centre of messages.

A rating is predicted as mean + user bias + item bias. The biases minimise

    sum over ratings (r - mean - b_u - b_i)^2 + users' damping * sum_u b_u^2
                                              + items' damping * sum_i b_i^2

(Koren, Bell and Volinsky, "Matrix factorization techniques for recommender systems", IEEE
Computer 42(8), 2009, equations 3 and 5 without factors), and are found by alternating exact
half-steps.

The dampings are found from the same ratings: if biases and noise are normally distributed, the best
damping is the variance of the noise divided by that of the biases; see `_dampings`.
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
    """How many ratings of exactly average value are added to those of each node.

    Attributes:
        users: for each user.
        items: for each item.
    """

    users: float
    items: float


DAMPING = Damping(5.0, 5.0)
"""The start of the search for the dampings; with hardly any ratings, they stay near it."""

INPUTS = 3
"""How many inputs a node has beside its messages; see `Biases.inputs`."""

_SWEEPS = 50
_SPREAD_DAMPING = 10.0  # ratings of average spread that are added to those of each node
_LEAST_VARIANCE = 1e-6  # if every rating equals mean and biases
_TOLERANCE = 1e-5  # of a rating step, root mean square of a sweep's change of the user biases
_LEAST_DAMPING, _MOST_DAMPING = 0.1, 1000.0
_DAMPING_TOLERANCE = 1e-3  # a damping whose relative change is below this has converged
_PRIOR_NODES = 1.0  # well-determined biases that are added to those of each side
_ROUNDING_VARIANCE = 1 / 12  # of rounding to whole steps, in squared steps: the least noise


_Known = tuple[Tensor, Tensor, Tensor]  # biases, degrees and squares of nodes of one type


class Ends(NamedTuple):
    """The users, or the items, of n ratings.

    Attributes:
        nodes: int64 [m] users, or items, each once.
        places: int32 or int64 [n]; each rating's index in `nodes`.
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
        damping: with which the biases of users and of items were fitted.
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
        """These biases on another device."""
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
        """A copy on a device, which shares no tensors with this one, for `leaving_out`."""
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
        """These biases with a further user, without ratings, for the padding of fixed shapes."""
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
        """Within the block, make these the biases without n of the training ratings; see `without`.

        The rows of the ratings' users and items are changed in place and restored afterwards, so
        that the cost depends on n and not on how many users and items there are.

        Args:
            users: of the ratings to take out, all of which are in the training set.
            items: of the same ratings.
            ratings: float32 [n].
            present: float32 [n]; 1 for a rating, 0 for padding; None if all are ratings.
        """
        of_users, of_items = self._tables
        before = _rows(of_users, users.nodes), _rows(of_items, items.nodes)
        reduced = self._without_ratings(before, (users.places, items.places), ratings, present)
        _put(of_users, users.nodes, reduced[0])
        _put(of_items, items.nodes, reduced[1])
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

    def _without_ratings(
        self,
        known: tuple[_Known, _Known],
        places: tuple[Tensor, Tensor],
        ratings: Tensor,
        present: Tensor | None = None,
    ) -> tuple[_Known, _Known]:
        """Biases, degrees and squares of some users and items, without n of their ratings.

        Args:
            known: of the users, and of the items, with the ratings.
            places: int [n] each; the rows of the ratings' users and items in `known`.
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
        """The biases as they would be without n of the training ratings.

        A user's bias is its damped mean of r - mean - b_i, so taking ratings out of it is exact
        given the item biases; likewise an item's. (The effect of the ratings on *other* nodes'
        biases stays; it is smaller by another factor of a degree.) Predicting a target from biases
        that were fitted to it would tell the model the answer; see DESIGN, "no leak".

        Args:
            users: int64 [n] users of the ratings to take out, all of which are in the training set.
            items: int64 [n] items of the same ratings.
            ratings: float32 [n].
        """
        of_users, of_items = self._without_ratings(self._tables, (users, items), ratings)
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
        """The users' inputs to the model beside their messages, float32 [n, 3]; see `inputs`."""
        return self.inputs(
            self.users[users],
            self.user_degrees[users],
            self.user_squares[users],
            self.damping.users,
        )

    def item_inputs(self, items: Tensor | slice) -> Tensor:
        """The same for items."""
        return self.inputs(
            self.items[items],
            self.item_degrees[items],
            self.item_squares[items],
            self.damping.items,
        )

    def inputs(self, bias: Tensor, degrees: Tensor, squares: Tensor, damping: float) -> Tensor:
        """Bias, log(1 + degree) and log spread of n nodes, float32 [n, 3].

        The spread is the standard deviation of a node's ratings less mean and biases, damped, and
        divided by that of all ratings: people differ in how much of the scale they use. A node
        without ratings has zeros.

        Args:
            bias: float32 [n].
            degrees: float32 [n].
            squares: float32 [n], as `user_squares`.
            damping: with which the n biases were fitted.
        """
        residual_squares = _residual_squares(squares, bias, degrees, damping)
        damped = residual_squares.clamp(min=0) + _SPREAD_DAMPING * self.variance
        spread = torch.log(damped / ((degrees + _SPREAD_DAMPING) * self.variance)) / 2
        return torch.stack((bias, torch.log1p(degrees), spread), dim=1)

    def of_new_users(self, ratings: Adjacency, scale: RatingScale) -> "Biases":
        """Biases of n users that training never saw, with the item biases of this.

        Args:
            ratings: of the n users; the neighbours are items that have a bias here.
            scale: the rating scale of the codes.
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
                # out: with the sums over each node's ratings, no rating has to be read again.
                squares = total + np.sum(item_bias * (item_degrees * item_bias - 2 * item_sums))
                squares += np.sum(user_bias * (user_degrees * user_bias - 2 * beyond))
                sides = (user_bias, user_degrees), (item_bias, item_degrees)
                found = _dampings(*sides, float(squares), least_noise, used)
                if not np.allclose(found, used, rtol=_DAMPING_TOLERANCE, atol=0):
                    wanted, still = found, False
            if still:
                break
    user_squares = _squares(by_user, centred, item_bias)
    residual_squares = _residual_squares(user_squares, user_bias, user_degrees, used.users)
    return Biases(
        mean,
        _float32(user_bias),
        _float32(item_bias),
        _float32(user_degrees),
        _float32(item_degrees),
        _float32(user_squares),
        _float32(_squares(by_item, centred, user_bias)),
        max(float(residual_squares.sum()) / len(by_user.neighbours), _LEAST_VARIANCE),
        used,
    )


_Side = tuple[
    npt.NDArray[np.float64], npt.NDArray[np.int64]
]  # biases and degrees of users or items


def _dampings(
    users: _Side, items: _Side, squares: float, least_noise: float, used: Damping
) -> Damping:
    """The dampings with the highest evidence, given biases fitted with the dampings so far.

    A step of the fixed point of MacKay, "Bayesian interpolation", Neural Computation 4(3), 1992,
    section 4.4, for two groups of parameters. For a node with n ratings and a damping d, the share
    n / (n + d) of its bias is determined by its ratings, and the rest by the damping. The sum of
    these shares over the nodes of a side is gamma, its number of well-determined biases. Then

        noise = squares / (ratings - gamma of users - gamma of items)
        variance of a side's biases = sum of their squares / gamma
        damping of a side = noise / variance of its biases

    `_PRIOR_NODES` well-determined biases are added to each side, with the variance that `DAMPING`
    implies. Beside thousands of nodes they make no difference; with hardly any nodes they decide.

    Args:
        users: float64 [U] biases and int64 [U] degrees.
        items: float64 [I] and int64 [I].
        squares: sum over the ratings of (r - mean - b_u - b_i)^2.
        least_noise: the least variance of the noise.
        used: the dampings that the biases were fitted with.
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
    """The biases of interactions, whose values are all 1: zeros.

    Mean, biases and squares are zero, whatever rows are taken out, so the residual of a row is its
    value. Only degrees are known.
    """

    def to(self, device: torch.device) -> "NoBiases":
        """These biases on another device."""
        return self._with_degrees(self.user_degrees.to(device), self.item_degrees.to(device))

    def _without_ratings(
        self,
        known: tuple[_Known, _Known],
        places: tuple[Tensor, Tensor],
        ratings: Tensor,
        present: Tensor | None = None,
    ) -> tuple[_Known, _Known]:
        """As `Biases._without_ratings`, but only degrees change."""
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
        """For n users that training never saw, as `Biases.of_new_users`."""
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
    """The biases of a graph of interactions: zeros.

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
    """Each training rating less mean and biases, float32 [E], in the order of the edges' ids."""
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
    """For each node the sum over its ratings of (level - bias of the other end)^2."""
    return segment_squares(ratings.offsets, levels, ratings.codes, explained, ratings.neighbours)


_Values = TypeVar("_Values", Tensor, npt.NDArray[Any])


def _residual_squares(squares: _Values, bias: _Values, degrees: _Values, damping: float) -> _Values:
    """For each node the sum over its ratings of (rating less mean and both biases)^2.

    For x, a rating less mean and the other end's bias, `squares` is the sum of x^2, and the sum of
    x is bias * (degree + damping).
    """
    residual_squares: _Values = squares - bias * bias * (degrees + 2 * damping)
    return residual_squares


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
    """Biases, degrees and squares of all nodes, without n of their ratings."""
    bias, degrees, squares = known
    remaining, residuals = _count_down(degrees, nodes, present), residuals.double()
    if present is not None:
        residuals = residuals * present
    sums = bias.double() * (degrees.double() + damping)
    sums.index_add_(0, nodes, residuals, alpha=-1)
    remaining_squares = squares.double().index_add_(0, nodes, residuals.square(), alpha=-1)
    return (
        (sums / (remaining + damping)).to(bias.dtype),
        remaining.to(degrees.dtype),
        remaining_squares.to(squares.dtype),
    )


def _count_down(degrees: Tensor, nodes: Tensor, present: Tensor | None) -> Tensor:
    """float64 degrees less 1 for each of n ratings; float32 counts exactly only up to 2^24."""
    if present is not None:
        return degrees.double().index_add_(0, nodes, present.double(), alpha=-1)
    return degrees.double() - torch.bincount(nodes, minlength=len(degrees))
