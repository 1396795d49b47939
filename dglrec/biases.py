"""Damped user and item biases: the baseline that the model corrects, and what centres messages.

A rating is predicted as mean + user bias + item bias. The biases minimise

    sum over ratings (r - mean - b_u - b_i)^2 + damping * (sum_u b_u^2 + sum_i b_i^2)

(Koren, Bell and Volinsky, "Matrix factorization techniques for recommender systems", IEEE
Computer 42(8), 2009, equations 3 and 5 without factors), found by alternating exact half-steps.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dglrec.graph import Adjacency, RatingGraph, node_chunks
from dglrec.kernels import segment_sums
from dglrec.progress import progress
from dglrec.schema import RatingScale

DAMPING = 5.0
"""Ratings of exactly average value that each user and each item is thought to have on top."""

_SWEEPS = 50
_TOLERANCE = 1e-5  # of a rating step, root mean square of a sweep's change of the user biases


@dataclass(frozen=True)
class Biases:
    """Fitted biases, as torch tensors so that batches can gather from them.

    Attributes:
        mean: mean training rating.
        users: float32 [U].
        items: float32 [I].
        user_degrees: float32 [U], training ratings of each user.
        item_degrees: float32 [I].
        damping: what the biases were fitted with.
    """

    mean: float
    users: Tensor
    items: Tensor
    user_degrees: Tensor
    item_degrees: Tensor
    damping: float = DAMPING

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
            self.damping,
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
        centred = ratings - self.mean
        user_bias, user_degrees = _leave_out(
            self.users,
            self.user_degrees,
            users,
            centred - self.items.index_select(0, items),
            self.damping,
        )
        item_bias, item_degrees = _leave_out(
            self.items,
            self.item_degrees,
            items,
            centred - self.users.index_select(0, users),
            self.damping,
        )
        return Biases(self.mean, user_bias, item_bias, user_degrees, item_degrees, self.damping)

    def user_inputs(self, users: Tensor | slice) -> Tensor:
        """float32 [n, 2]: what is known of a user beside its messages: bias and log(1 + degree)."""
        return torch.stack((self.users[users], torch.log1p(self.user_degrees[users])), dim=1)

    def item_inputs(self, items: Tensor | slice) -> Tensor:
        """float32 [n, 2]: the same of an item."""
        return torch.stack((self.items[items], torch.log1p(self.item_degrees[items])), dim=1)

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
        bias = sums / (ratings.degrees + self.damping)
        return Biases(
            self.mean,
            torch.from_numpy(bias.astype(np.float32)),
            self.items,
            torch.from_numpy(ratings.degrees.astype(np.float32)),
            self.item_degrees,
            self.damping,
        )


def fit_biases(graph: RatingGraph, damping: float = DAMPING) -> Biases:
    """Fit the biases to all edges of the graph, in float64.

    Args:
        graph: the training ratings, at least one.
        damping: weight of the squared biases.
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
    with progress("fitting biases", None, "sweeps") as advance:
        for _ in range(_SWEEPS):
            explained = segment_sums(by_item.offsets, user_bias, by_item.neighbours)
            item_bias = (item_sums - explained) / (item_degrees + damping)
            explained = segment_sums(by_user.offsets, item_bias, by_user.neighbours)
            updated = (user_sums - explained) / (user_degrees + damping)
            change = float(np.sqrt(np.mean((updated - user_bias) ** 2)))
            user_bias = updated
            advance(1)
            if change <= _TOLERANCE * graph.scale.step:
                break
    return Biases(
        mean,
        torch.from_numpy(user_bias.astype(np.float32)),
        torch.from_numpy(item_bias.astype(np.float32)),
        torch.from_numpy(user_degrees.astype(np.float32)),
        torch.from_numpy(item_degrees.astype(np.float32)),
        damping,
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


def _leave_out(
    bias: Tensor, degrees: Tensor, nodes: Tensor, residuals: Tensor, damping: float
) -> tuple[Tensor, Tensor]:
    sums = (bias * (degrees + damping)).index_add(0, nodes, residuals, alpha=-1)
    left = degrees.index_add(0, nodes, torch.ones_like(residuals), alpha=-1)
    return sums / (left + damping), left
