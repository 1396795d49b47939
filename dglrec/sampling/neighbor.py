"""A loader over DGL's neighbour sampler, the reference for the faster loader."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from dglrec.biases import Biases
from dglrec.blocks import Block, EdgeBatch, LayerBlocks
from dglrec.distributed import ALONE, World
from dglrec.graph import (
    ITEM_TYPE,
    RATED_BY,
    RATES,
    USER_TYPE,
    RatingGraph,
    import_dgl,
    to_heterograph,
)
from dglrec.sampling.config import LoaderConfig, seed_of
from dglrec.sampling.unseen import Targets, hide_items

if TYPE_CHECKING:
    import dgl


class NeighborEdgeLoader:
    """DGL's uniform neighbour sampling, with the targets and their reverses excluded.

    It is the reference for correctness (`dgl.dataloading.as_edge_prediction_sampler` over
    `NeighborSampler`, Hamilton, Ying and Leskovec, "Inductive representation learning on large
    graphs", NeurIPS 2017, algorithm 2, for edges of two types).

    The same batches come again only in the process's first sampling thread: to each seed DGL adds
    the thread's number, counted in the order in which threads first sample.

    Args:
        graph: the training ratings.
        biases: fitted to them.
        config: batch size and fan-outs.
        seed: with the epoch, it decides the order of the edges and every sample.
        world: the processes that share each batch.

    Raises:
        UnusableEnvironmentError: DGL is not installed, or does not load.
    """

    def __init__(
        self,
        graph: RatingGraph,
        biases: Biases,
        config: LoaderConfig,
        seed: int = 0,
        world: World = ALONE,
    ) -> None:
        self._dgl = dgl = import_dgl()
        self.biases = biases
        self.config = config = config.resolved(graph.num_edges, graph.num_items)
        self.batch_size = config.edges_a_batch(graph.num_edges)
        self.seed = seed
        self.epoch = 0
        self.start = 0
        self.world = world
        self._heterograph = to_heterograph(graph)
        self._ratings = torch.from_numpy(graph.scale.decode(np.asarray(graph.by_user.codes)))
        self._sampler = dgl.dataloading.as_edge_prediction_sampler(
            dgl.dataloading.NeighborSampler(
                [{RATED_BY: of_user, RATES: of_item} for of_user, of_item in config.fanouts]
            ),
            exclude=_targets_and_reverses if config.exclude_targets else None,
        )

    def __len__(self) -> int:
        """Batches in an epoch."""
        return -(-len(self._ratings) // self.batch_size)

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Choose the epoch of the next iteration, and the batch that it starts with."""
        self.epoch, self.start = epoch, start

    def __iter__(self) -> Iterator[EdgeBatch | None]:
        """The epoch's batches; None for a batch without a target for this process."""
        if self.start >= len(self):
            return
        generator = torch.Generator().manual_seed(seed_of("order", self.seed, self.epoch))
        # The order is drawn here: DGL's shuffle draws it from numpy's global generator and permutes
        # the order of the epoch before, so that the seed would not decide it.
        order = torch.randperm(len(self._ratings), generator=generator)
        whole = order[self.start * self.batch_size :].split(self.batch_size)
        shares = [edges.tensor_split(self.world.size)[self.world.rank] for edges in whole]
        batches = self._batches(shares, generator)
        for number, edges in enumerate(shares, start=self.start):
            if not len(edges):
                yield None
                continue
            place = number * self.world.size + self.world.rank
            with _one_sampling_thread(self._dgl):
                self._dgl.seed(seed_of("samples", self.seed, self.epoch, place))
                input_nodes, targets, blocks = next(batches)
            seed_of_unseen = seed_of("unseen", self.seed, self.epoch, number)
            yield self._to_batch(input_nodes, targets, blocks, seed_of_unseen)

    def _batches(self, shares: list[Tensor], generator: torch.Generator) -> Iterator[Any]:
        """DGL's samples of each share that is not empty; all but the last are of one length."""
        if not len(shares[0]):
            return iter(())
        loader = self._dgl.dataloading.DataLoader(
            self._heterograph,
            {RATES: torch.cat(shares)},
            self._sampler,
            batch_size=len(shares[0]),
            shuffle=False,
            drop_last=False,
            num_workers=0,
            generator=generator,  # otherwise torch draws a number from its global generator
        )
        with warnings.catch_warnings():
            # The warning is about worker processes, which this loader does not use.
            warnings.filterwarnings("ignore", message="Dataloader CPU affinity")
            return iter(loader)

    def _to_batch(
        self,
        input_nodes: dict[str, Tensor],
        targets: "dgl.DGLHeteroGraph",
        blocks: list[Any],
        seed_of_unseen: int,
    ) -> EdgeBatch:
        dgl = self._dgl
        users, items = targets.edges(etype=RATES, order="eid")  # the order of .data
        edges = targets.edges[RATES].data[dgl.EID]
        ratings = self._ratings[edges]
        nodes = targets.ndata[dgl.NID]
        global_users, global_items = nodes[USER_TYPE][users], nodes[ITEM_TYPE][items]
        biases = self.biases
        if self.config.exclude_targets:
            biases = biases.without(global_users, global_items, ratings)
        hidden = hide_items(
            Targets.all_seen(items, biases.predict(global_users, global_items)),
            global_items,
            len(nodes[ITEM_TYPE]),
            biases.items[global_items],
            self.config.unseen_items,
            seed_of_unseen,
        )
        return EdgeBatch(
            user_nodes=input_nodes[USER_TYPE],
            item_nodes=input_nodes[ITEM_TYPE],
            user_inputs=biases.user_inputs(input_nodes[USER_TYPE]),
            item_inputs=biases.item_inputs(input_nodes[ITEM_TYPE]),
            layers=tuple(
                LayerBlocks(
                    to_users=self._to_block(block, RATED_BY, biases),
                    to_items=self._to_block(block, RATES, biases),
                )
                for block in blocks
            ),
            users=users,
            items=hidden.items,
            ratings=ratings,
            baselines=hidden.baselines,
            edges=edges,
            unseen=hidden.unseen,
        )

    def _to_block(self, block: Any, relation: tuple[str, str, str], biases: Biases) -> Block:
        dgl = self._dgl
        offsets, neighbours, order = block[relation].adj_tensors("csc")
        edges = block.edges[relation].data[dgl.EID]
        if len(order):
            edges = edges[order]
        sources = block.srcnodes[relation[0]].data[dgl.NID][neighbours]
        nodes = block.dstnodes[relation[2]].data[dgl.NID]
        destinations = torch.repeat_interleave(nodes, offsets.diff())
        if relation == RATES:
            baselines, degrees = biases.predict(sources, destinations), biases.item_degrees
        else:
            baselines, degrees = biases.predict(destinations, sources), biases.user_degrees
        others = biases.user_degrees if relation == RATES else biases.item_degrees
        of_sources = others[block.srcnodes[relation[0]].data[dgl.NID]]
        residuals = self._ratings[edges] - baselines
        return Block(offsets, neighbours, residuals, degrees[nodes], of_sources)


def _targets_and_reverses(targets: dict[tuple[str, str, str], Tensor]) -> dict[Any, Tensor]:
    """The edges to keep out of the messages: the targets and, under the same ids, their reverses.

    The same as DGL's `exclude="reverse_types"`, but with copies. DGL's C++ sorts the ids that it is
    given in place. Without a copy, these are also the ids that it reports as the batch's targets,
    which then no longer match the order of their ends.
    """
    edges = targets[RATES]
    return {RATES: edges.clone(), RATED_BY: edges.clone()}


@contextmanager
def _one_sampling_thread(dgl: Any) -> Iterator[None]:
    """Let DGL sample on one thread, as otherwise the seed does not decide the samples.

    Each of its threads has a separate generator, and the nodes that a thread gets differ between
    runs. This is DGL's setting, as torch's setting reaches DGL only where both load the same OpenMP
    library.
    """
    threads = dgl.utils.get_num_threads()
    dgl.utils.set_num_threads(1)
    try:
        yield
    finally:
        dgl.utils.set_num_threads(threads)
