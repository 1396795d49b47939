"""Graphs among items, or among users, made from the training ratings alone.

`pearson.py` joins those that are rated alike, `walks.py` those that random walks visit together
(and `related.py` the items that a user's walks visit),
`agreement.py` users who gave the same ratings; `centrality.py` says where a node stands in such a
graph, and `clusters.py` groups nodes by that. `following.py` joins items that come right after each
other in a session, which `sessions.py` cuts from timestamps. `partition.py` cuts users and items
into clusters that few ratings run between. `adjacency.py` is the form that all of
them share. `registry.py` says which of them a model reads, by name, and `config.py` how they are
made then.

Every function takes a `RatingGraph`, which holds training ratings and nothing else, so that no
held-out rating can reach what is made here.
"""

from dglrec.derived.adjacency import WeightedAdjacency
from dglrec.derived.agreement import agreeing_users
from dglrec.derived.centrality import GRAPH_FEATURES, graph_features
from dglrec.derived.clusters import cluster_rows
from dglrec.derived.config import DerivedConfig
from dglrec.derived.following import next_items
from dglrec.derived.partition import NO_CLUSTER, metis_clusters
from dglrec.derived.pearson import similar
from dglrec.derived.registry import DERIVED, Derivation, user_graph_features
from dglrec.derived.related import RelatedItems, related_items
from dglrec.derived.sessions import Sessions, cut_sessions, sessions_of
from dglrec.derived.walks import visited_with

__all__ = [
    "DERIVED",
    "GRAPH_FEATURES",
    "NO_CLUSTER",
    "Derivation",
    "DerivedConfig",
    "RelatedItems",
    "Sessions",
    "WeightedAdjacency",
    "agreeing_users",
    "cluster_rows",
    "cut_sessions",
    "graph_features",
    "metis_clusters",
    "next_items",
    "related_items",
    "sessions_of",
    "similar",
    "user_graph_features",
    "visited_with",
]
