"""How well the next item of a session can be predicted, with planted transitions and without."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from dglrec.synthetic.drift import angles
from dglrec.synthetic.planted import PlantedModel
from dglrec.synthetic.sequence import SESSION_GAP, Transitions
from dglrec.synthetic.worth import Drawn

I64 = npt.NDArray[np.int64]

K = 10


def next_item_worth(
    model: PlantedModel,
    transitions: Transitions,
    drawn: Drawn,
    popularity: npt.NDArray[np.float64],
    strength: float,
    chosen: I64,
) -> dict[str, Any]:
    """Rank the last item of users' sequences that continues a session, given all items before it.

    Candidates are all items that the user has not met before. They are ranked by the number of
    their ratings (popularity); by the rates at which the user meets them (taste), the best ranking
    without knowledge of transitions; and by strength * transitions + (1 - strength) * rates, the
    planted probability.

    Args:
        model: the planted model.
        transitions: which items follow which.
        drawn: all ratings, with times.
        popularity: float64 [I], by which items were drawn.
        strength: the weight of taste in who rates what, in units of the model's taste.
        chosen: ascending users; users without a session of two items are left out.

    Returns:
        `users`, `k`, and for each of the three rankings `hit_rate` and `ndcg`.
    """
    assert drawn.times is not None
    counts = np.bincount(drawn.items, minlength=len(popularity)).astype(np.float64)
    ranks: dict[str, list[int]] = {"popularity": [], "taste": [], "transitions": []}
    for user in chosen.tolist():
        rows = np.arange(drawn.offsets[user], drawn.offsets[user + 1])
        rows = rows[np.argsort(drawn.times[rows], kind="stable")]
        items, times = drawn.items[rows], drawn.times[rows]
        continued = np.flatnonzero(np.diff(times) < SESSION_GAP) + 1
        if not len(continued):
            continue
        last = int(continued[-1])
        new = np.ones(len(popularity), dtype=np.bool_)
        new[items[:last]] = False
        taste = model.user_vectors[user].astype(np.float64)
        if model.drift is not None:
            at = angles(model.drift.strength, times[last : last + 1])
            taste = np.cos(at) * taste + np.sin(at) * model.drift.turns[user]
        rates = popularity * np.exp(strength * (model.item_vectors @ taste)) * new
        rates /= rates.sum()
        follows = np.zeros(len(popularity))
        after = transitions.successors[items[last - 1]]
        follows[after] = transitions.weights
        follows *= new
        # If all successors are met already, the next item comes only by rates.
        chance = transitions.strength if follows.any() else 0.0
        follows /= max(float(follows.sum()), 1e-12)
        both = chance * follows + (1.0 - chance) * rates
        for name, scores in (("popularity", counts), ("taste", rates), ("transitions", both)):
            ranks[name].append(_rank(np.where(new, scores, -1.0), int(items[last])))
    users = len(ranks["taste"])
    figures = {name: _figures(found) for name, found in ranks.items()} if users else {}
    return {"users": users, "k": K, **figures}


def _rank(scores: npt.NDArray[np.float64], item: int) -> int:
    """The rank of an item in a list, from 0; of equal scores the lower index comes first."""
    return int((scores > scores[item]).sum() + (scores[:item] == scores[item]).sum())


def _figures(ranks: list[int]) -> dict[str, float]:
    gains = [1.0 / math.log2(rank + 2) if rank < K else 0.0 for rank in ranks]
    return {
        "hit_rate": float(np.mean([rank < K for rank in ranks])),
        "ndcg": float(np.mean(gains)),
    }
