"""Recommenders without gradients, which a trained model should beat.

For ratings: the mean rating and biases (`simple.py`), similar items (`neighbours.py`). For lists,
without a predicted rating: `popularity.py`, `ease.py`, `graph_filter.py`, and `cosine.py`, the
similar items of interactions. `ranker.py` has what the ranking models share, `positives.py` the
rows they read, `pairs.py` and `inverse.py` their arithmetic, `search.py` the settings to try.
`models.py` finds all models by name; `dense.py` ranks a catalogue by predicted ratings.

For the next item, by timestamps: `following.py`, hops over the graph of items that follow each
other, and `session_neighbours.py`, V-SKNN, on which `session_ranker.py` builds a model of lists.
`recent.py` has the last items of users.
"""

from dglrec.baselines.config import BaselineConfig
from dglrec.baselines.cosine import CosineNeighbours
from dglrec.baselines.ease import Ease, ease_weights
from dglrec.baselines.following import FollowingItems
from dglrec.baselines.graph_filter import GraphFilter
from dglrec.baselines.models import (
    Baseline,
    check_data,
    check_memory,
    fit_model,
    load_model,
    predicts_ratings,
)
from dglrec.baselines.neighbours import ItemNeighbours
from dglrec.baselines.popularity import Popularity
from dglrec.baselines.positives import liked_from, positives_of
from dglrec.baselines.ranker import Ranker
from dglrec.baselines.session_neighbours import SessionNeighbours
from dglrec.baselines.session_ranker import SessionRanker
from dglrec.baselines.simple import BiasBaseline, GlobalMean
from dglrec.derived import Sessions, cut_sessions, sessions_of

__all__ = [
    "Baseline",
    "BaselineConfig",
    "BiasBaseline",
    "CosineNeighbours",
    "Ease",
    "FollowingItems",
    "GlobalMean",
    "GraphFilter",
    "ItemNeighbours",
    "Popularity",
    "Ranker",
    "SessionNeighbours",
    "SessionRanker",
    "Sessions",
    "check_data",
    "check_memory",
    "cut_sessions",
    "ease_weights",
    "fit_model",
    "liked_from",
    "load_model",
    "positives_of",
    "predicts_ratings",
    "sessions_of",
]
