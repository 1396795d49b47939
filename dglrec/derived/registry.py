"""The relations that are derived from training rows, by their names in `model.relations`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dglrec.derived.adjacency import WeightedAdjacency
from dglrec.derived.agreement import agreeing_users
from dglrec.derived.centrality import graph_features
from dglrec.derived.clusters import cluster_rows
from dglrec.derived.config import DerivedConfig
from dglrec.derived.following import next_items
from dglrec.derived.pearson import similar
from dglrec.derived.walks import visited_with
from dglrec.errors import UsageError
from dglrec.graph import RatingGraph
from dglrec.relations import ITEM_TYPE, USER_TYPE, Edges, Relation


@dataclass(frozen=True)
class Derivation:
    """How a relation among nodes of one type is derived from training rows.

    Attributes:
        node_type: `user` or `item`.
        build: a function from the training graph and the settings to the edges; repeatable.
        one_way: whether nodes read along their in-edges alone.
    """

    node_type: str
    build: Callable[[RatingGraph, DerivedConfig], WeightedAdjacency]
    one_way: bool = True

    def relation(self, name: str, edges: WeightedAdjacency) -> Relation:
        """The edges as a relation of the given name."""
        turned = WeightedAdjacency.of_matrix(edges.matrix().T)
        forward, backward = (
            Edges(one.offsets, one.neighbours, one.weights) for one in (turned, edges)
        )
        kind = self.node_type
        return Relation(name, kind, kind, forward, backward, one_way=self.one_way)


def _similar(graph: RatingGraph, config: DerivedConfig) -> WeightedAdjacency:
    return similar(
        graph,
        neighbours=config.similar_neighbours,
        shrinkage=config.similar_shrinkage,
        min_support=config.similar_min_support,
    )


def _visited_with(graph: RatingGraph, config: DerivedConfig) -> WeightedAdjacency:
    return visited_with(
        graph,
        neighbours=config.visited_neighbours,
        hops=config.visited_hops,
        restart=config.visited_restart,
        seed=config.seed,
    )


def _next(graph: RatingGraph, config: DerivedConfig) -> WeightedAdjacency:
    if graph.times is None:
        raise UsageError(
            "model.relations = next: the data set has no timestamps; leave it out, or prepare a "
            "source with timestamps (a data set of an earlier version: again)"
        )
    return next_items(graph, graph.times, config.session_gap or np.inf)


def _agreeing_users(graph: RatingGraph, config: DerivedConfig) -> WeightedAdjacency:
    return agreeing_users(graph, share=config.agreement_share)


DERIVED: Mapping[str, Derivation] = {
    "similar": Derivation(ITEM_TYPE, _similar),
    "visited_with": Derivation(ITEM_TYPE, _visited_with),
    "next": Derivation(ITEM_TYPE, _next, one_way=False),
    "agreeing_users": Derivation(USER_TYPE, _agreeing_users),
}
"""The derivation of each of `relations.DERIVED_NAMES`."""


def user_graph_features(
    graph: RatingGraph, known: npt.NDArray[np.float32], config: DerivedConfig
) -> npt.NDArray[np.float32]:
    """GHRS's features of users from the graph of users who rate alike, float32 [U, 5 + C].

    They are `GRAPH_FEATURES` in the graph `agreeing_users`, standardised over users with a training
    row, and the user's cluster by these and its known features, as 0 or 1 for each of C clusters
    (Darban and Valipour, "GHRS", 2022, section 3, without its autoencoder). Users without a
    training row have zeros.

    Args:
        graph: the training rows, and no others.
        known: [U, F] features of users; F may be 0.
        config: the settings.

    Raises:
        UnusableEnvironmentError: there is too little memory.
    """
    trained = graph.by_user.degrees > 0
    among = agreeing_users(graph, share=config.agreement_share)
    found = graph_features(among, pivots=config.pivots, seed=config.seed)[trained]
    spread = found.std(axis=0)
    columns = [(found - found.mean(axis=0)) / np.where(spread > 0, spread, 1)]
    count = min(config.clusters, int(trained.sum()))
    if count:
        rows = np.concatenate((columns[0], known[trained]), axis=1)
        columns.append(np.eye(count)[cluster_rows(rows, count, seed=config.seed)])
    out = np.zeros((graph.num_users, sum(one.shape[1] for one in columns)), dtype=np.float32)
    out[trained] = np.concatenate(columns, axis=1)
    return out
