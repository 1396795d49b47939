"""Stock DGL: `DataLoader` + `as_edge_prediction_sampler` + `HeteroGraphConv(SAGEConv)`.

After DGL 1.1's user guide, 6.2 "Training GNN for Edge Classification with Neighborhood Sampling".
The graph comes as compressed columns (`to_heterograph`), which spares DGL the conversion from the
edge list that the guide starts from, in time and in memory. Ids are int64; see `to_heterograph`.
"""

import warnings
from collections.abc import Iterator
from typing import Any

import dgl
import dgl.nn
import torch
from common import PartClock, Workload
from torch import Tensor, nn
from torch.nn import functional

from dglrec.graph import RATED_BY, RATES, to_heterograph
from peers.parts import FANOUTS, WIDTH, MLPRegressor, NodeInputs, user_features


class Encoder(nn.Module):
    """Two layers of GraphSAGE, mean aggregator, over both relations."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            dgl.nn.HeteroGraphConv(
                {
                    relation[1]: dgl.nn.SAGEConv(WIDTH, WIDTH, "mean")
                    for relation in (RATES, RATED_BY)
                },
                aggregate="sum",
            )
            for _ in FANOUTS
        )

    def forward(self, blocks: list[Any], nodes: dict[str, Tensor]) -> dict[str, Tensor]:
        for number, (layer, block) in enumerate(zip(self.layers, blocks, strict=True)):
            nodes = layer(block, nodes)
            if number < len(self.layers) - 1:
                nodes = {kind: functional.relu(value) for kind, value in nodes.items()}
        return nodes


class EdgeModel(nn.Module):
    """Inputs, encoder and regressor."""

    def __init__(self, num_items: int) -> None:
        super().__init__()
        self.inputs = NodeInputs(num_items)
        self.encoder = Encoder()
        self.regressor = MLPRegressor()

    def forward(self, targets: Any, blocks: list[Any], users: Tensor, items: Tensor) -> Tensor:
        nodes = self.encoder(blocks, self.inputs(users, items))
        with targets.local_scope():
            targets.ndata["h"] = nodes
            targets.apply_edges(
                lambda edges: {"rating": self.regressor(edges.src["h"], edges.dst["h"])},
                etype=RATES,
            )
            ratings: Tensor = targets.edges[RATES].data["rating"]
            return ratings


class DGLLoop:
    """The guide's training loop.

    Args:
        workload: what to train on.
        batch: target edges a step.
        clock: takes the time of the parts of a step.
        workers: sampling processes; 0 samples in this one, which is faster on two cores.
    """

    def __init__(self, workload: Workload, batch: int, clock: PartClock, workers: int = 0) -> None:
        torch.manual_seed(0)
        graph = workload.graph
        self.clock = clock
        heterograph = to_heterograph(graph)
        heterograph.nodes["user"].data["inputs"] = user_features(workload)
        codes = torch.from_numpy(graph.by_user.codes).int()
        heterograph.edges[RATES].data["rating"] = torch.from_numpy(
            graph.scale.decode(codes.numpy())
        )
        sampler = dgl.dataloading.as_edge_prediction_sampler(
            # DGL lists fan-outs from the inputs to the targets.
            dgl.dataloading.NeighborSampler(list(reversed(FANOUTS))),
            exclude=_targets_and_reverses,
        )
        # It is about worker processes, and comes at each epoch.
        warnings.filterwarnings("ignore", message="Dataloader CPU affinity")
        self.loader = dgl.dataloading.DataLoader(
            heterograph,
            {RATES: torch.arange(graph.num_edges)},
            sampler,
            batch_size=batch,
            shuffle=True,
            drop_last=False,
            num_workers=workers,
        )
        self.model = EdgeModel(graph.num_items)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)

    def steps(self) -> Iterator[int]:
        for input_nodes, targets, blocks in self.clock.batches(self.loader):
            with self.clock.part("forward"):
                users = blocks[0].srcnodes["user"].data["inputs"]
                predictions = self.model(targets, blocks, users, input_nodes["item"])
                loss = functional.mse_loss(predictions, targets.edges[RATES].data["rating"])
            with self.clock.part("backward"):
                self.optimizer.zero_grad()
                loss.backward()
            with self.clock.part("optimizer"):
                self.optimizer.step()
            yield len(predictions)


def _targets_and_reverses(targets: dict[Any, Tensor]) -> dict[Any, Tensor]:
    """The edges to keep out of the messages; an edge and its reverse share their id.

    This is what `exclude="reverse_types"` excludes, but over copies. DGL 1.1.3 sorts the ids that
    it is given in place, and without copies these are the ids by which the batch's ratings are
    looked up afterwards: nearly every edge then learns another edge's rating.
    """
    edges = targets[RATES]
    return {RATES: edges.clone(), RATED_BY: edges.clone()}
