"""Graphs among items, or among users, derived from the training ratings alone.

`pearson.py` joins nodes that are rated alike, `walks.py` nodes that random walks visit together,
and `agreement.py` users who gave the same ratings; `related.py` ranks the items that a user's walks
visit. `centrality.py` measures the positions of nodes in such a graph, and `clusters.py` groups
nodes by these. `following.py` joins items that directly follow each other in a session;
`sessions.py` cuts sessions by timestamps. `partition.py` divides users and items into clusters with
few ratings between them. All graphs are a `WeightedAdjacency` (`adjacency.py`). `registry.py` names
the graphs that a model can read, and `config.py` has their settings.

Every function takes a `RatingGraph`, which holds nothing but training ratings, so that no held-out
rating can reach a derived graph.
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
