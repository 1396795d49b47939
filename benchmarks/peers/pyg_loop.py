"""PyG: `LinkNeighborLoader` + `to_hetero(SAGEConv)`.

After PyG's "Heterogeneous Graph Learning" and its link regression example on MovieLens. It needs
`torch_geometric` and one of `pyg-lib` and `torch-sparse`, whose C++ does the sampling.

PyG's loader leaves the target edges in the sampled neighbourhoods: a rating takes part in the
messages that predict it. Its documentation keeps some edges for supervision alone
(`RandomLinkSplit(disjoint_train_ratio=...)`), which would train on fewer than all of them; here it
trains on all, leak included, which is the least work that PyG can be given.
"""

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from common import PartClock, Workload
from torch import Tensor, nn
from torch.nn import functional
from torch_geometric.data import HeteroData
from torch_geometric.loader import LinkNeighborLoader
from torch_geometric.nn import SAGEConv, to_hetero

from dglrec.graph import RATED_BY, RATES
from peers.parts import FANOUTS, WIDTH, MLPRegressor, NodeInputs, user_features


class Encoder(nn.Module):
    """Two layers of GraphSAGE, mean aggregator; `to_hetero` makes it one for both relations."""

    def __init__(self) -> None:
        super().__init__()
        self.first = SAGEConv(WIDTH, WIDTH, aggr="mean")
        self.second = SAGEConv(WIDTH, WIDTH, aggr="mean")

    def forward(self, nodes: Tensor, edge_index: Tensor) -> Tensor:
        nodes = self.first(nodes, edge_index).relu()
        out: Tensor = self.second(nodes, edge_index)
        return out


class EdgeModel(nn.Module):
    """Inputs, encoder and regressor."""

    def __init__(self, num_items: int, metadata: Any) -> None:
        super().__init__()
        self.inputs = NodeInputs(num_items)
        self.encoder = to_hetero(Encoder(), metadata, aggr="sum")
        self.regressor = MLPRegressor()

    def forward(self, batch: HeteroData) -> Tensor:
        nodes = self.inputs(batch["user"].x, batch["item"].n_id)
        nodes = self.encoder(nodes, batch.edge_index_dict)
        users, items = batch[RATES].edge_label_index
        ratings: Tensor = self.regressor(nodes["user"][users], nodes["item"][items])
        return ratings


class PyGLoop:
    """The documentation's training loop.

    Args:
        workload: what to train on.
        batch: target edges a step.
        clock: takes the time of the parts of a step.
        workers: sampling processes; 0 samples in this one, which is no slower on two cores.
    """

    def __init__(self, workload: Workload, batch: int, clock: PartClock, workers: int = 0) -> None:
        torch.manual_seed(0)
        graph = workload.graph
        self.clock = clock
        data = HeteroData()
        data["user"].x = user_features(workload)
        data["item"].num_nodes = graph.num_items
        data[RATES].edge_index = _edge_index(graph.by_item)
        data[RATED_BY].edge_index = _edge_index(graph.by_user)
        ratings = torch.from_numpy(graph.scale.decode(graph.by_user.codes))
        # It asks for pyg-lib, which PyPI does not have; torch-sparse builds from there.
        warnings.filterwarnings("ignore", message="Using 'NeighborSampler' without a 'pyg-lib'")
        self.loader = LinkNeighborLoader(
            data,
            # PyG lists fan-outs from the targets outwards.
            num_neighbors=list(FANOUTS),
            edge_label_index=(RATES, data[RATED_BY].edge_index.flip(0)),
            edge_label=ratings,
            batch_size=batch,
            shuffle=True,
            # Both edge lists are sorted by destination, which spares PyG a sort and its memory.
            is_sorted=True,
            num_workers=workers,
            persistent_workers=workers > 0,
        )
        self.model = EdgeModel(graph.num_items, data.metadata())
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)

    def steps(self) -> Iterator[int]:
        for batch in self.clock.batches(self.loader):
            with self.clock.part("forward"):
                predictions = self.model(batch)
                loss = functional.mse_loss(predictions, batch[RATES].edge_label)
            with self.clock.part("backward"):
                self.optimizer.zero_grad()
                loss.backward()
            with self.clock.part("optimizer"):
                self.optimizer.step()
            yield len(predictions)


def _edge_index(adjacency: Any) -> Tensor:
    """int64 [2, E]: sources and destinations, by destination."""
    degrees = torch.from_numpy(adjacency.degrees)
    destinations = torch.repeat_interleave(torch.arange(adjacency.num_nodes), degrees)
    return torch.stack((torch.from_numpy(adjacency.neighbours).long(), destinations))
