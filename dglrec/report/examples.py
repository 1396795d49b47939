"""Some users' histories beside their lists, as `recommend` makes them."""

from dataclasses import dataclass

import numpy as np

from dglrec.dataset import HeldOut, RatingDataset
from dglrec.run import Predictor
from dglrec.score import Recommendation, recommend

_SHARES = (0.1, 0.5, 0.9)  # of the users with held-out rows, the least active first
_SHOWN = 10


@dataclass(frozen=True)
class Example:
    """One user.

    Attributes:
        user: its external id.
        rated: how many training ratings it has.
        history: titles of some of the items, with the rating; the best rated first. None of
            interactions.
        listed: its list.
    """

    user: str
    rated: int
    history: list[tuple[str, float | None]]
    listed: list[Recommendation]


def users_to_show(dataset: RatingDataset, rows: HeldOut) -> list[str]:
    """External ids of a little, a middling and a very active user with held-out rows."""
    degrees = dataset.graph.by_user.degrees
    users = np.unique(rows.users.numpy())
    users = users[degrees[users] > 0]
    ordered = users[np.argsort(degrees[users], kind="stable")]
    places = dict.fromkeys(int(share * len(ordered)) for share in _SHARES if len(ordered))
    return [str(dataset.users.ids[int(ordered[place])].as_py()) for place in places]


def examples_of(trained: Predictor, users: list[str], explain: bool) -> list[Example]:
    """The histories and lists of users.

    Raises:
        UsageError: reasons are asked for, and the model gives none.
        DataError: a user is unknown.
    """
    dataset = trained.dataset
    found = []
    for user in users:
        listed = recommend(trained, user, _SHOWN, explain=explain)
        index = dataset.users.encode_one(user)
        own = dataset.graph.by_user.of_nodes(index, index + 1)
        items = own.neighbours.tolist()
        ratings: list[float | None] = [None] * len(items)
        if dataset.has_ratings:
            ratings = dataset.scale.decode(own.codes).tolist()
        order = sorted(range(len(items)), key=lambda at: -(ratings[at] or 0.0))[:_SHOWN]
        history = [(str(dataset.titles[items[at]].as_py()), ratings[at]) for at in order]
        found.append(Example(user, len(items), history, listed))
    return found
