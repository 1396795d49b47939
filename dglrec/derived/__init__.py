"""Graphs among items, or among users, made from the training ratings alone.

`pearson.py` joins those that are rated alike, `walks.py` those that random walks visit together,
`agreement.py` users who gave the same ratings; `centrality.py` says where a node stands in such a
graph, and `clusters.py` groups nodes by that. `adjacency.py` is the form that all of them share.
`registry.py` says which of them a model reads, by name, and `config.py` how they are made then.

Every function takes a `RatingGraph`, which holds training ratings and nothing else, so that no
held-out rating can reach what is made here.
"""

from dglrec.derived.adjacency import WeightedAdjacency
from dglrec.derived.agreement import agreeing_users
from dglrec.derived.centrality import GRAPH_FEATURES, graph_features
from dglrec.derived.clusters import cluster_rows
from dglrec.derived.config import DerivedConfig
from dglrec.derived.pearson import similar
from dglrec.derived.registry import DERIVED, Derivation, user_graph_features
from dglrec.derived.walks import visited_with

__all__ = [
    "DERIVED",
    "GRAPH_FEATURES",
    "Derivation",
    "DerivedConfig",
    "WeightedAdjacency",
    "agreeing_users",
    "cluster_rows",
    "graph_features",
    "similar",
    "user_graph_features",
    "visited_with",
]
