"""New users: the model is given some of their ratings and predicts the others.

New users are those without a training rating, as `prepare --split user` makes them. A user's
embedding and bias are computed from the given ratings as from training ratings; no parameter of the
model changes.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dglrec.biases import Biases
from dglrec.dataset import HeldOut, RatingDataset
from dglrec.errors import UsageError
from dglrec.evaluate.rows import Predict, baseline_predictors, check_split
from dglrec.graph import Adjacency, group_by_user
from dglrec.infer import Embeddings, embed_new_users, predict_pairs
from dglrec.kernels import segment_sums
from dglrec.nn import NodeValues
from dglrec.run import TrainedModel


@dataclass(frozen=True)
class NewUsers:
    """n users without training ratings, with their given ratings and those to predict.

    Attributes:
        users: int64 [n] indices, ascending.
        given: the ratings that the model may read, the same number for each user.
        rows: the ratings to predict, by user.
        left_out: how many users without training ratings have no rating to predict.
        known: how many users of the split have training ratings.
    """

    users: npt.NDArray[np.int64]
    given: Adjacency
    rows: HeldOut
    left_out: int
    known: int


def deal(dataset: RatingDataset, split: str, count: int, seed: int = 0) -> NewUsers:
    """Divide the held-out ratings of users without training ratings into given and predicted ones.

    With the same seed, a larger count gives the ratings that a smaller count gives, and more.

    Args:
        dataset: a data set.
        split: `valid` or `test`; no user of `train` is new.
        count: the number of given ratings of each user.
        seed: the seed of the choice.

    Raises:
        UsageError: the count is not positive, there is no such split, or the split has no new user
            with enough ratings.
    """
    if count < 1:
        raise UsageError(f"--given {count}: must be 1 or more")
    if seed < 0:
        raise UsageError(f"--seed {seed}: must be 0 or more")
    check_split(split)
    nobody = UsageError(
        f"--given {count}: every user of {split} has training ratings; prepare the data set with "
        "--split user"
    )
    if split == "train":
        raise nobody
    rows, num_users = dataset.held_out(split), dataset.graph.num_users
    users = rows.users.numpy()
    sizes = np.bincount(users, minlength=num_users)
    is_new = (dataset.graph.by_user.degrees == 0) & (sizes > 0)
    if not is_new.any():
        raise nobody
    chosen = is_new & (sizes > count)
    if not chosen.any():
        raise UsageError(
            f"--given {count}: users of {split} without training ratings have at most "
            f"{sizes[is_new].max()} ratings, and at least one has to be predicted; give fewer"
        )
    # Ordered by user; a user's ratings are in random order.
    chance = np.random.default_rng(seed).permutation(len(users))
    order = np.lexsort((chance, users))
    order = order[chosen[users[order]]]
    owners = np.flatnonzero(chosen)
    ends = np.cumsum(sizes[owners])
    starts = np.repeat(ends - sizes[owners], sizes[owners])
    is_given = np.arange(len(order)) - starts < count
    given, rest = order[is_given], torch.from_numpy(order[~is_given])
    return NewUsers(
        users=owners,
        given=group_by_user(
            np.searchsorted(owners, users[given]),
            rows.items.numpy()[given],
            dataset.scale.encode(rows.ratings.numpy()[given]),
            num_users=len(owners),
            num_items=dataset.graph.num_items,
        ),
        rows=HeldOut(
            rows.users[rest],
            rows.items[rest],
            rows.ratings[rest],
            None if rows.expected is None else rows.expected[rest],
            None if rows.times is None else rows.times[rest],
        ),
        left_out=int(np.count_nonzero(is_new & ~chosen)),
        known=int(np.count_nonzero((sizes > 0) & ~is_new)),
    )


class GivenRatings:
    """Predicts ratings of new users from their given ratings.

    Encoded users are not kept: each call encodes its users again, so that memory depends on the
    rows of a call only.

    Args:
        trained: a run's model.
        new: the users.
    """

    def __init__(self, trained: TrainedModel, new: NewUsers) -> None:
        self._trained, self._new = trained, new

    def predict(self, users: Tensor, items: Tensor) -> Tensor:
        """float32 [n]: predicted ratings of n pairs; users are indices of the data set."""
        given, biases, places = self._given_of(users)
        model, embeddings = self._trained.model, self._trained.embeddings
        dataset = self._trained.dataset
        indices = torch.from_numpy(self._new.users[self._positions_of(users)])
        encoded = embed_new_users(
            model,
            embeddings,
            given,
            dataset.scale,
            biases,
            features=dataset.user_features[indices],
            told=[messages[indices.to(messages.device)] for messages in embeddings.told_users],
            shown=False,
        )
        nodes = NodeValues(encoded.nodes, embeddings.nodes.items)
        return predict_pairs(model, Embeddings(nodes, ()), biases, places, items)

    def predict_bias(self, users: Tensor, items: Tensor) -> Tensor:
        """float32 [n]: mean + the user's bias, from its given ratings + the item's bias."""
        _, biases, places = self._given_of(users)
        return biases.predict(places, items)

    @property
    def baselines(self) -> dict[str, Predict]:
        """The baselines for new users."""
        means = item_means(self._trained.dataset)
        return {
            "global_mean": baseline_predictors(self._trained.dataset)["global_mean"],
            "item_mean": lambda users, items: means[items],
            "bias": self.predict_bias,
        }

    def _given_of(self, users: Tensor) -> tuple[Adjacency, Biases, Tensor]:
        """The given ratings of some users, their biases, and each row's position among the users.

        Users from the first to the last of the call are included. Rows are ordered by user, so
        these are few of all users; their ratings are not copied.
        """
        positions = self._positions_of(users)
        first, last = positions.start, positions.stop
        places = np.searchsorted(self._new.users, users.numpy())
        whole = self._new.given
        low, high = int(whole.offsets[first]), int(whole.offsets[last])
        given = Adjacency(
            whole.offsets[first : last + 1] - low,
            whole.neighbours[low:high],
            whole.codes[low:high],
        )
        dataset = self._trained.dataset
        biases = dataset.biases.of_new_users(given, dataset.scale)
        return given, biases, torch.from_numpy(places - first)

    def _positions_of(self, users: Tensor) -> slice:
        """The positions, among all new users, of some users and all users between them."""
        ends = np.array([int(users.min()), int(users.max())])
        first, last = np.searchsorted(self._new.users, ends).tolist()
        return slice(first, last + 1)


def item_means(dataset: RatingDataset) -> Tensor:
    """float32 [I]: each item's mean training rating; the mean of all ratings where it has none."""
    by_item, scale = dataset.graph.by_item, dataset.scale
    levels = scale.decode(np.arange(scale.levels)).astype(np.float64)
    sums = segment_sums(by_item.offsets, levels, by_item.codes)
    means = np.where(
        by_item.degrees > 0, sums / np.maximum(by_item.degrees, 1), dataset.biases.mean
    )
    return torch.from_numpy(means.astype(np.float32))
