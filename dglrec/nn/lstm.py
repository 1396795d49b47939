"""GraphSAGE's LSTM over a node's neighbours in a random order.

Shapes: S sources, D destinations, K edges, H width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from dglrec.blocks import Block
from dglrec.kernels import chances

_FIXED_KEY = 0  # key of the order outside training


class LSTMAggregator(nn.Module):
    """The last state of an LSTM that reads a node's neighbours in a random order.

    Hamilton, Ying and Leskovec, "Inductive representation learning on large graphs", NeurIPS 2017,
    section 3.3. For the same order, the result is that of `dgl.nn.SAGEConv` with "lstm", which
    reads edges in their order. In training the order is drawn anew in each step; outside training
    it depends only on an edge's place among its node's edges, so that it is always the same. An
    LSTM takes a step for each neighbour, so it reads at most `most` neighbours of a node, the first
    in this order: a new sample in each step of training, and a fixed one in inference.

    Nodes with the same number of neighbours are read together, without padding.

    Args:
        size: H.
        most: how many neighbours of a node are read at most.
    """

    def __init__(self, size: int, most: int) -> None:
        super().__init__()
        self.most = most
        self.lstm = nn.LSTM(size, size)

    def forward(self, block: Block, sources: Tensor) -> Tensor:
        """[S, H] sources -> [D, H]; zeros where there is no edge."""
        places, counts = self._in_order(block)
        steps, starts = counts.clamp(max=self.most), counts.cumsum(0) - counts
        out = sources.new_zeros(block.num_destinations, self.lstm.hidden_size)
        nodes, edges, shapes = [], [], []
        for length in steps.unique().tolist():
            if length:
                alike = (steps == length).nonzero().squeeze(1)
                turns = torch.arange(length, device=alike.device).unsqueeze(1)
                nodes.append(alike)
                edges.append((starts.index_select(0, alike) + turns).flatten())
                shapes.append((length, len(alike)))
        if not nodes:
            # Zeros with a gradient: all processes of a step need gradients of the same weights.
            return out + 0.0 * sum(one.sum() for one in self.lstm.parameters())
        # Gathered at once, so that the sources get one gradient in all, not one for each length.
        read = block.neighbours.index_select(0, places.index_select(0, torch.cat(edges)))
        parts = functional.embedding(read, sources).split([len(one) for one in edges])
        states = [
            self.lstm(part.unflatten(0, shape))[1][0].squeeze(0)
            for part, shape in zip(parts, shapes, strict=True)
        ]
        state = torch.cat(states)
        return out.to(state.dtype).index_copy(0, torch.cat(nodes), state)

    def _in_order(self, block: Block) -> tuple[Tensor, Tensor]:
        """int64 [K] edges in the order in which each node reads them; [D] how many each has."""
        counts = block.offsets.diff()
        owners = torch.repeat_interleave(counts, output_size=len(block.neighbours))
        edges = torch.arange(len(owners), device=owners.device)
        drawn = self._chances(edges, block.offsets.index_select(0, owners))
        if block.present is not None:
            # Padding comes last.
            drawn = drawn + (block.present == 0)
            counts = block.counts.long()
        by_chance = drawn.argsort(stable=True)
        in_order = by_chance.index_select(0, owners.index_select(0, by_chance).argsort(stable=True))
        if block.present is not None:
            in_order = in_order[block.present.index_select(0, in_order) > 0]
        return in_order, counts

    def _chances(self, edges: Tensor, starts: Tensor) -> Tensor:
        """float64 [K] random numbers that edges are sorted by.

        Args:
            edges: int64 [K]; the edges' places in the block.
            starts: int64 [K]; where the edges of each edge's destination start.
        """
        if self.training:
            return chances(edges, int(torch.randint(2**62, ())))
        return chances(edges - starts, _FIXED_KEY)
