"""What nodes are told along relations, whoever computes it."""

import numpy as np
import pytest
import torch
from ranks import in_ranks
from relations import Related

from dglrec.distributed import ALONE
from dglrec.infer import embed_all, embed_without
from dglrec.infer import told as told_module


def embedded(world):
    """Embeddings, and what they are without each direction, as lists."""
    data = Related()
    model = data.model(heads="both")
    directions = data.directions()
    given = model, data.graph, data.biases, world, directions
    whole = embed_all(*given)
    found = {"users": whole.nodes.users, "items": whole.nodes.items}
    found |= {f"told {n}": one for n, one in enumerate(whole.told_users)}
    found |= {name: one.nodes for name, one in embed_without(*given).items()}
    return {name: values.tolist() for name, values in found.items()}


def counted(world):
    """How many edges of relations this process reads to embed all nodes."""
    data = Related()
    edges, block_of = [], told_module._block_of

    def watched(*arguments):
        block = block_of(*arguments)
        edges.append(len(block.neighbours))
        return block

    told_module._block_of = watched
    try:
        embed_all(data.model(), data.graph, data.biases, world, data.directions())
    finally:
        told_module._block_of = block_of
    return sum(edges)


def test_processes_share_what_nodes_are_told():
    alone = embedded(ALONE)
    for found in in_ranks(2, embedded):
        assert found.keys() == alone.keys()
        for name, values in found.items():
            np.testing.assert_allclose(values, alone[name], atol=1e-5, err_msg=name)


def test_each_process_reads_about_its_share():
    whole = counted(ALONE)
    assert whole == 2 * sum(len(one.edges.neighbours) for one in Related().directions())
    shares = in_ranks(3, counted)
    assert sum(shares) == whole
    assert max(shares) < 0.5 * whole


@pytest.mark.parametrize("kind", ["user", "item"])
def test_without_all_directions_nothing_is_told(kind):
    data = Related()
    model, (one, *_) = data.model("trusts"), data.directions("trusts")
    relations = told_module.RelationMessages(model, data.directions("trusts"), torch.device("cpu"))
    whole = embed_all(model, data.graph, data.biases, directions=data.directions("trusts"))
    if kind == "item":
        assert relations.messages_to(0, whole.nodes, "item") is None
        return
    told = relations.messages_to(0, whole.nodes, "user")
    parts = [
        relations.messages_to(0, whole.nodes, "user", without=name)
        for name in (one.name, "rev_trusts")
    ]
    torch.testing.assert_close(parts[0] + parts[1], told)
