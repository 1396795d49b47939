"""Clusters of users and items with few ratings between them, by METIS, for Cluster-GCN."""

import contextlib
import io
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dglrec.errors import UnusableEnvironmentError, UsageError
from dglrec.graph import RatingGraph, import_dgl
from dglrec.machine import available_memory, gib

_EDGE_BYTES = 200  # bytes of a rating in DGL's graph, its symmetric copy and METIS's graph

NO_CLUSTER = -1
"""The cluster of a node without a training rating."""


def metis_clusters(graph: RatingGraph, count: int) -> npt.NDArray[np.int32]:
    """The cluster of each user, then of each item, int32 [U + I].

    Few training ratings have their user and their item in different clusters, and clusters have
    about equal numbers of ends of ratings (Karypis and Kumar, "A fast and high quality multilevel
    scheme for partitioning irregular graphs", SIAM Journal on Scientific Computing 20(1), 1998). A
    node without a training rating has `NO_CLUSTER`. Clusters may be empty. DGL gives METIS no seed,
    so the result may differ between calls for the same graph: a caller that needs the same clusters
    again has to keep them.

    Args:
        graph: the training ratings, and no others.
        count: how many clusters.

    Raises:
        UsageError: there are fewer nodes with a training rating than clusters, or DGL was built
            without METIS.
        UnusableEnvironmentError: DGL is not installed or does not load, or there is too little
            memory.
    """
    rated = np.concatenate((graph.by_user.degrees > 0, graph.by_item.degrees > 0))
    nodes = int(rated.sum())
    if count > nodes:
        raise UsageError(
            f"loader.clusters = {count:,}: there are {nodes:,} users and items with a training "
            f"rating; take {nodes:,} clusters or fewer"
        )
    dgl = import_dgl()
    needed, available = _EDGE_BYTES * graph.num_edges, available_memory()
    if needed > available:
        raise UnusableEnvironmentError(
            f"loader.kind = cluster: METIS needs about {gib(needed)} of memory for "
            f"{graph.num_edges:,} ratings, and {gib(available)} are free; take loader.kind saint "
            "or users"
        )
    found = np.full(len(rated), NO_CLUSTER, dtype=np.int32)
    # With a single cluster, METIS ends the process by a division by zero.
    found[rated] = _partition(dgl, graph, rated, count) if count > 1 else 0
    return found


def _partition(
    dgl: Any, graph: RatingGraph, rated: npt.NDArray[np.bool_], count: int
) -> npt.NDArray[np.int32]:
    """The cluster of each node with a training rating."""
    numbers = np.cumsum(rated) - 1
    of_users, of_items = np.split(numbers, [graph.num_users])
    degrees = np.concatenate((graph.by_user.degrees, graph.by_item.degrees))[rated]
    offsets = np.concatenate(([0], np.cumsum(degrees)))
    neighbours = np.concatenate(
        (of_items[graph.by_user.neighbours], of_users[graph.by_item.neighbours])
    )
    columns = torch.from_numpy(offsets), torch.from_numpy(neighbours), torch.empty(0).long()
    whole = dgl.graph(("csc", columns), num_nodes=len(degrees))
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints how long each part took
            found = dgl.metis_partition_assignment(whole, count, balance_edges=True)
    except (AttributeError, NameError, NotImplementedError, dgl.DGLError) as error:
        raise _without_metis(error) from error
    if found is None:
        raise _without_metis(RuntimeError("it found no partition"))
    clusters: npt.NDArray[np.int32] = found.numpy().astype(np.int32)
    return clusters


def _without_metis(error: Exception) -> UsageError:
    why = " ".join(str(error).split())
    return UsageError(
        "loader.kind = cluster: the DGL that is installed makes no clusters with METIS "
        f'({type(error).__name__}: {why}); python -m pip install "dgl==1.1.3" does, or take '
        "loader.kind saint or users"
    )
