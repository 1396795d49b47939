"""Clusters that few ratings run between, and what happens where there is no METIS."""

import sys

import dgl
import numpy as np
import pytest
from batches import graph_of

from dglrec.derived import NO_CLUSTER, metis_clusters
from dglrec.derived import partition as partition_module
from dglrec.errors import UnusableEnvironmentError, UsageError


@pytest.fixture(scope="module")
def graph():
    """120 users and 80 items in 8 circles, with 3 ratings in 4 within a circle."""
    generator = np.random.default_rng(0)
    users = generator.integers(0, 120, 1_600)
    within = generator.random(1_600) < 0.75
    items = np.where(
        within, users % 8 + 8 * generator.integers(0, 10, 1_600), generator.integers(0, 80, 1_600)
    )
    pairs = np.unique(users * 80 + items)
    # One more user and one more item, without a rating.
    return graph_of(pairs // 80, pairs % 80, pairs % 10, 121, 81)


def cut(graph, clusters):
    """How many ratings have their ends in two clusters."""
    owners = np.repeat(np.arange(graph.num_users), graph.by_user.degrees)
    ends = clusters[owners], clusters[graph.num_users + graph.by_user.neighbours]
    return int((ends[0] != ends[1]).sum())


def test_they_cut_fewer_ratings_than_clusters_by_chance(graph, capsys):
    clusters = metis_clusters(graph, 8)
    assert clusters.dtype == np.int32 and len(clusters) == 121 + 81
    assert clusters[120] == clusters[-1] == NO_CLUSTER
    rated = np.delete(clusters, [120, 201])
    assert set(rated.tolist()) == set(range(8))
    ends = np.bincount(
        rated, np.delete(np.r_[graph.by_user.degrees, graph.by_item.degrees], [120, 201])
    )
    assert ends.max() < 1.3 * ends.mean()
    shuffled = clusters.copy()
    shuffled[:120] = np.random.default_rng(1).permutation(clusters[:120])
    shuffled[121:-1] = np.random.default_rng(2).permutation(clusters[121:-1])
    edges = graph.num_edges
    # A quarter of the ratings runs anywhere, which 8 clusters cut in 7 of 8 cases.
    assert cut(graph, clusters) < 0.35 * edges < 0.8 * edges < cut(graph, shuffled)
    assert capsys.readouterr().out == ""  # which is for results alone


def test_one_cluster_and_as_many_as_there_are_nodes(graph):
    assert set(metis_clusters(graph, 1).tolist()) == {0, NO_CLUSTER}
    assert metis_clusters(graph, 200).max() < 200
    with pytest.raises(UsageError, match=r"clusters = 201: .* 200 users and items .* take 200 clu"):
        metis_clusters(graph, 201)


@pytest.mark.parametrize("how", ["absent", "not registered", "refused", "nothing found"])
def test_a_dgl_without_metis_is_refused_by_name(graph, monkeypatch, how):
    def fail(*arguments, **options):
        if how == "nothing found":
            return None
        error = dgl.DGLError if how == "refused" else NameError
        raise error("name '_CAPI_DGLMetisPartition_Hetero' is not defined")

    if how == "absent":
        monkeypatch.delattr(dgl, "metis_partition_assignment")
    else:
        monkeypatch.setattr(dgl, "metis_partition_assignment", fail)
    with pytest.raises(
        UsageError, match=r"loader.kind = cluster: .*METIS.*take loader.kind"
    ) as caught:
        metis_clusters(graph, 4)
    assert caught.value.exit_code == 2


def test_without_dgl_and_without_memory_it_says_what_would_do(graph, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(partition_module, "available_memory", lambda: 1_000)
        with pytest.raises(UnusableEnvironmentError, match=r"METIS needs about .* free"):
            metis_clusters(graph, 4)
    monkeypatch.setitem(sys.modules, "dgl", None)
    with pytest.raises(UnusableEnvironmentError, match="cluster"):
        metis_clusters(graph, 4)
