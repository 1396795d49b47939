"""Convolutions on bare edges along one relation, by name.

They use only that an edge exists. `convolutions.py` adds what edges carry (ratings, ages) to any of
them. On a block with all edges of its nodes, each gives the result of its namesake in `dgl.nn`; on
a block with a sample of them, an estimate of that result.

Shapes: S sources, D destinations, H embedding size.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dglrec.blocks import Block
from dglrec.errors import UsageError
from dglrec.kernels import attend, runs_compiled
from dglrec.nn.aggregation import aggregate, map_and_aggregate, normalised_sum, plus
from dglrec.nn.attention import GATConv, GATv2Conv
from dglrec.nn.config import CONVOLUTIONS, Aggregator, ModelConfig
from dglrec.nn.decay import EdgeWeights
from dglrec.nn.lstm import LSTMAggregator
from dglrec.nn.values import Convolution


class SAGEConv(Convolution):
    """GraphSAGE over one relation: W_self h + W_neighbour AGG(h_neighbours) + b.

    Hamilton, Ying and Leskovec, "Inductive representation learning on large graphs", NeurIPS
    2017, algorithm 1, lines 4-5; "pool" is its equation 3, the maximum of relu(W_pool h + b_pool).
    The same as `dgl.nn.SAGEConv` for "mean", "pool" and "lstm" (`LSTMAggregator`). "sum" is the
    mean times the degree before sampling, so that a sample stands for the whole (Horvitz and
    Thompson, JASA 47, 1952).
    "attention" is a mean weighed by softmax(leaky_relu(a . W h_neighbour + b . h)) over a node's
    edges (Velickovic et al., "Graph attention networks", ICLR 2018, equation 3, with one head, and
    without the node itself, which W_self maps).

    Args:
        size_in: width of sources and destinations.
        size_out: width of the result.
        aggregator: AGG.
        most: how many neighbours the LSTM reads at most.
    """

    def __init__(
        self, size_in: int, size_out: int, aggregator: Aggregator = "mean", most: int = 32
    ) -> None:
        super().__init__()
        self.aggregator = aggregator
        self.own = nn.Linear(size_in, size_out)
        self.neighbour = nn.Linear(size_in, size_out, bias=False)
        self.pool = nn.Linear(size_in, size_in) if aggregator == "pool" else None
        self.lstm = LSTMAggregator(size_in, most) if aggregator == "lstm" else None
        attends = aggregator == "attention"
        self.attend = nn.Linear(size_out, 1, bias=False) if attends else None
        self.attend_own = nn.Linear(size_in, 1, bias=False) if attends else None

    def forward(
        self,
        block: Block,
        sources: Tensor,
        destinations: Tensor,
        decay: EdgeWeights | None = None,
    ) -> Tensor:
        """[S, size_in] sources and [D, size_in] destinations -> [D, size_out].

        `decay` weighs the edges of the aggregator "mean".
        """
        if self.pool is not None:
            messages = self.neighbour(aggregate(block, self.pool(sources), "max"))
        elif self.lstm is not None:
            messages = self.neighbour(self.lstm(block, sources))
        elif self.attend is not None and self.attend_own is not None:
            messages = attend(
                block.offsets,
                block.neighbours,
                self.neighbour(sources),
                self.attend.weight,
                self.attend_own(destinations),
                block.present,
            )
        else:
            messages = map_and_aggregate(block, sources, self.neighbour, "mean", decay=decay)
            if self.aggregator == "sum":
                messages = messages * block.degrees.unsqueeze(1)
        return plus(self.own(destinations), messages)

    def without_edges(self, destinations: Tensor) -> Tensor:
        """[D, size_in] destinations that have no edge -> [D, size_out]."""
        out: Tensor = self.own(destinations)
        return out


class GCNConv(Convolution):
    """GCN over one relation: W A h + b, where each node counts as a neighbour of itself.

    Kipf and Welling, "Semi-supervised classification with graph convolutional networks", ICLR 2017,
    equation 2: with d a node's degree including its self-loop, A h_v = h_v / d_v plus the sum over
    neighbours of h_w / sqrt(d_v d_w). The result is that of `dgl.nn.GraphConv` with self-loops.

    Args:
        size_in: width of sources and destinations.
        size_out: width of the result.
    """

    def __init__(self, size_in: int, size_out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(size_in, size_out)

    def forward(self, block: Block, sources: Tensor, destinations: Tensor) -> Tensor:
        """[S, size_in] sources and [D, size_in] destinations -> [D, size_out]."""
        summed = normalised_sum(block, sources, own=1)
        out: Tensor = self.linear(summed.addcdiv_(destinations, (block.degrees + 1).unsqueeze(1)))
        return out

    def without_edges(self, destinations: Tensor) -> Tensor:
        """[D, size_in] destinations that have no edge -> [D, size_out]."""
        out: Tensor = self.linear(destinations)
        return out


class GINConv(Convolution):
    """GIN over one relation: MLP((1 + epsilon) h + sum h_neighbours), with a learned epsilon.

    Xu, Hu, Leskovec and Jegelka, "How powerful are graph neural networks?", ICLR 2019, equation
    4.1; the MLP has one hidden layer and no batch normalisation, so that a node's result does not
    depend on the other nodes of a batch. The result is that of `dgl.nn.GINConv` with "sum".

    Args:
        size_in: width of sources and destinations.
        size_out: width of the result, and of the hidden layer.
    """

    def __init__(self, size_in: int, size_out: int) -> None:
        super().__init__()
        self.epsilon = nn.Parameter(torch.zeros(()))
        self.mlp = nn.Sequential(
            nn.Linear(size_in, size_out), nn.ReLU(), nn.Linear(size_out, size_out)
        )

    def forward(self, block: Block, sources: Tensor, destinations: Tensor) -> Tensor:
        """[S, size_in] sources and [D, size_in] destinations -> [D, size_out]."""
        summed = aggregate(block, sources, "sum")
        counts = block.counts
        # A sampled edge counts for several. Whether all edges are there is checked on a CPU alone:
        # for another device, the host would have to wait.
        if not runs_compiled(sources) or not torch.equal(block.degrees, counts.float()):
            summed = summed.mul_((block.degrees / counts.clamp(min=1)).unsqueeze(1))
        out: Tensor = self.mlp(plus(summed, (1 + self.epsilon) * destinations))
        return out

    def without_edges(self, destinations: Tensor) -> Tensor:
        """[D, size_in] destinations that have no edge -> [D, size_out]."""
        out: Tensor = self.mlp((1 + self.epsilon) * destinations)
        return out


class PinSageConv(Convolution):
    """PinSage's importance pooling over one relation: W h + W' n + w, n = mean relu(Q h' + q).

    Ying et al., "Graph convolutional neural networks for web-scale recommender systems", KDD 2018,
    algorithm 1, lines 1 and 2; [W W'] is the paper's matrix for the concatenation of h and n. The
    ReLU and the division by the length, lines 2 and 3, are the layer's (`ConvolutionLayer`), which
    applies them after it has added the messages of other relations. Neighbours are weighed by
    importance along relations with weights (`RelationMaps`), like `visited_with`, whose weights are
    counts of visits; edges of ratings weigh the same.

    Args:
        size_in: width of sources and destinations.
        size_out: width of the result.
    """

    def __init__(self, size_in: int, size_out: int) -> None:
        super().__init__()
        self.query = nn.Linear(size_in, size_in)
        self.own = nn.Linear(size_in, size_out)
        self.neighbour = nn.Linear(size_in, size_out, bias=False)

    def forward(self, block: Block, sources: Tensor, destinations: Tensor) -> Tensor:
        """[S, size_in] sources and [D, size_in] destinations -> [D, size_out]."""
        asked = functional.relu(self.query(sources))
        return plus(self.own(destinations), map_and_aggregate(block, asked, self.neighbour, "mean"))

    def without_edges(self, destinations: Tensor) -> Tensor:
        """[D, size_in] destinations that have no edge -> [D, size_out]."""
        out: Tensor = self.own(destinations)
        return out


def _attention(
    kind: type[GATConv] | type[GATv2Conv], size: int, config: ModelConfig
) -> Convolution:
    return kind(size, size, config.attention_heads, config.attention_merge)


CONVOLUTIONS.update(
    sage=lambda size, config: SAGEConv(size, size, config.aggregator, config.lstm_neighbours),
    gcn=lambda size, config: GCNConv(size, size),
    gat=lambda size, config: _attention(GATConv, size, config),
    gatv2=lambda size, config: _attention(GATv2Conv, size, config),
    gin=lambda size, config: GINConv(size, size),
    pinsage=lambda size, config: PinSageConv(size, size),
)


def make_convolution(size: int, config: ModelConfig) -> Convolution:
    """The convolution that a configuration names, from H columns to H columns."""
    return CONVOLUTIONS[config.convolution](size, config)


def prove_convolution(config: ModelConfig) -> None:
    """Try a registered convolution on a small block, before anything is trained with it.

    Raises:
        UsageError: it fails, its result has a wrong shape or is not finite, or `without_edges`
            differs from `forward` for a node without edges.
    """
    name = config.convolution
    if name not in CONVOLUTIONS.added:
        return
    size, where = config.embedding_size, f"{CONVOLUTIONS.key} = {name}"
    # The last of three destinations has no edge.
    block = Block(
        torch.tensor([0, 2, 3, 3]),
        torch.tensor([0, 3, 1]),
        torch.tensor([0.5, -1.0, 2.0]),
        torch.tensor([2.0, 1.0, 0.0]),
        source_degrees=torch.ones(4),
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        sources, destinations = torch.randn(4, size), torch.randn(3, size)
        try:
            convolution = make_convolution(size, config).eval()
            out = convolution(block, sources, destinations)
            bare = convolution.without_edges(destinations)
        except Exception as error:
            raise UsageError(
                f"{where}: fails on a block of 3 nodes ({type(error).__name__}: {error})"
            ) from error
    for what, found in (("forward", out), ("without_edges", bare)):
        if not isinstance(found, Tensor) or found.shape != destinations.shape:
            raise UsageError(
                f"{where}: {what} gives {_shape_of(found)} for 3 nodes; give [3, {size}], a row "
                "for each node, as wide as an embedding"
            )
        if not bool(found.isfinite().all()):
            raise UsageError(f"{where}: {what} gives no finite numbers")
    if not torch.allclose(out[2], bare[2], rtol=1e-3, atol=1e-4):
        raise UsageError(
            f"{where}: without_edges and forward give different results for a node without edges"
        )


def _shape_of(found: Any) -> str:
    return str(list(found.shape)) if isinstance(found, Tensor) else type(found).__name__
