"""Exact embeddings: every node over all of its training edges, layer by layer, in chunks.

A layer is computed for all nodes before the next one starts, so each edge is read once a layer
and no neighbourhood is ever expanded.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dglrec.biases import Biases
from dglrec.distributed import ALONE, World
from dglrec.graph import Adjacency, RatingGraph, node_chunks
from dglrec.nn import NodeValues, RatingModel, SAGELayer
from dglrec.progress import Advance, progress
from dglrec.sampling import Block

_CHUNK_EDGES = 1 << 21
_CHUNK_EDGES_OF_MANY = 1 << 19  # a fifth slower, and processes share a machine's memory
_CHUNK_PAIRS = 1 << 16
_PAIR_UNITS = 1 << 25  # hidden units of the pairs scored at once: 128 MiB


@dataclass(frozen=True)
class Embeddings:
    """What the encoder makes of every node.

    Attributes:
        nodes: float32 [U, H] and [I, H]; the last layer's.
        item_layers: float32 [I, H] a layer, inputs first, the last layer's left out: what a user
            that training never saw is encoded from.
    """

    nodes: NodeValues
    item_layers: tuple[Tensor, ...]


@torch.inference_mode()
def embed_all(
    model: RatingModel, graph: RatingGraph, biases: Biases, world: World = ALONE
) -> Embeddings:
    """Exact embeddings of all nodes, on the model's device.

    Args:
        model: in whatever mode; dropout is off meanwhile.
        graph: all training ratings.
        biases: fitted to them.
        world: processes that each compute a share of the nodes, about equal in edges; all of them
            end up with all embeddings.
    """
    device = next(model.parameters()).device
    edges_read = 2 * model.config.layers * graph.num_edges // world.size
    shown = progress("embedding all nodes", edges_read, "edges", shown=world.is_first)
    with _evaluating(model), shown as advance:
        users = model.inputs.users(
            torch.arange(graph.num_users, device=device),
            biases.user_inputs(slice(None)).to(device),
        )
        items = model.inputs.items(
            torch.arange(graph.num_items, device=device),
            biases.item_inputs(slice(None)).to(device),
        )
        nodes = NodeValues(users, items)
        del users, items  # so that each layer's values go when the next one's are there
        item_layers = []
        for layer in model.encoder.layers:
            assert isinstance(layer, SAGELayer)
            item_layers.append(nodes.items)
            nodes = NodeValues(
                _update(layer.update_users, graph, biases, True, nodes, world, advance),
                _update(layer.update_items, graph, biases, False, nodes, world, advance),
            )
    return Embeddings(nodes, tuple(item_layers))


@torch.inference_mode()
def embed_new_user(
    model: RatingModel, biases: Biases, embeddings: Embeddings, items: Tensor, ratings: Tensor
) -> tuple[Tensor, float]:
    """Encode a user that training never saw from its ratings, as a training user is encoded.

    Args:
        model: the model that made the embeddings.
        biases: of the training ratings.
        embeddings: exact ones.
        items: int64 [n] item indices, n at least 1.
        ratings: float32 [n].

    Returns:
        float32 [1, H] the user's embedding, and its bias.
    """
    device = embeddings.nodes.items.device
    bias = biases.of_new_user(items, ratings)
    residuals = ratings - biases.mean - bias - biases.items[items]
    block = Block(
        offsets=torch.tensor([0, len(items)]),
        neighbours=items,
        residuals=residuals,
        degrees=torch.tensor([float(len(items))]),
    ).to(device)
    inputs = torch.tensor([[bias, np.log1p(len(items))]], dtype=torch.float32, device=device)
    with _evaluating(model):
        user = model.inputs.new_users(inputs)
        for layer, values in zip(model.encoder.layers, embeddings.item_layers, strict=True):
            assert isinstance(layer, SAGELayer)
            user = layer.update_users(block, values, user)
    return user, bias


@contextmanager
def _evaluating(model: RatingModel) -> Iterator[None]:
    """Without dropout, whatever mode the model is in before and after."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _update(
    update: Any,
    graph: RatingGraph,
    biases: Biases,
    to_users: bool,
    nodes: NodeValues,
    world: World,
    advance: Advance,
) -> Tensor:
    """One layer's new values of all users, or of all items, from all edges."""
    adjacency = graph.by_user if to_users else graph.by_item
    own, sources = (nodes.users, nodes.items) if to_users else (nodes.items, nodes.users)
    levels = torch.from_numpy(graph.scale.decode(np.arange(graph.scale.levels)))
    out = torch.empty_like(own)
    bounds = world.cut(torch.from_numpy(adjacency.offsets[1:]))
    start, end = bounds[world.rank], bounds[world.rank + 1]
    edges = _CHUNK_EDGES if world.size == 1 else _CHUNK_EDGES_OF_MANY
    for first, last in node_chunks(adjacency.offsets[start : end + 1], edges):
        first, last = start + first, start + last
        block = _block(adjacency, biases, levels, to_users, first, last).to(own.device)
        out[first:last] = update(block, sources, own[first:last])
        advance(len(block.neighbours))
    world.share_rows(out, bounds)
    return out


def _block(
    adjacency: Adjacency, biases: Biases, levels: Tensor, to_users: bool, first: int, last: int
) -> Block:
    """All edges of the nodes first..last-1, their sources being all nodes of the other type."""
    low, high = int(adjacency.offsets[first]), int(adjacency.offsets[last])
    offsets = _tensor(adjacency.offsets[first : last + 1] - low)
    neighbours = _tensor(adjacency.neighbours[low:high]).long()
    ratings = levels[_tensor(adjacency.codes[low:high]).long()]
    degrees = offsets.diff()
    own = torch.repeat_interleave(torch.arange(first, last), degrees)
    users, items = (own, neighbours) if to_users else (neighbours, own)
    return Block(offsets, neighbours, ratings - biases.predict(users, items), degrees.float())


def _tensor(array: npt.NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


@torch.inference_mode()
def predict_pairs(
    model: RatingModel, embeddings: Embeddings, biases: Biases, users: Tensor, items: Tensor
) -> Tensor:
    """Predicted ratings of n pairs, float32 [n] on the CPU, not clipped to the scale.

    Args:
        model: the model that made the embeddings.
        embeddings: exact ones.
        biases: of the training ratings.
        users: int64 [n].
        items: int64 [n].
    """
    nodes = embeddings.nodes
    device = nodes.items.device
    parts = []
    for some_users, some_items in zip(
        users.split(_CHUNK_PAIRS), items.split(_CHUNK_PAIRS), strict=True
    ):
        # The decoder maps each node that it is given, and a chunk reads few of all users.
        near, places = torch.unique(some_users, return_inverse=True)
        given = NodeValues(nodes.users.index_select(0, near.to(device)), nodes.items)
        residuals = model.decoder(given, places.to(device), some_items.to(device)).cpu()
        parts.append(biases.predict(some_users, some_items) + residuals)
    return torch.cat(parts) if parts else torch.empty(0)


@torch.inference_mode()
def top_items(
    model: RatingModel,
    items: Tensor,
    item_bias: Tensor,
    users: Tensor,
    user_base: Tensor,
    seen: tuple[Tensor, Tensor],
    k: int,
) -> tuple[Tensor, Tensor]:
    """The items with the highest predicted ratings for each of n users, over the whole catalogue.

    Args:
        model: the model that made the embeddings.
        items: float32 [I, H] embeddings of all items.
        item_bias: float32 [I].
        users: float32 [n, H] embeddings.
        user_base: float32 [n]; mean + bias of each user.
        seen: int64 [s] positions among the n users and int64 [s] items, the pairs to leave out.
        k: how many; of fewer items all come back.

    Returns:
        Predicted ratings [n, k], best first, and items [n, k], on the CPU. Where fewer than k
        items are left, the rest is -inf, with any item.
    """
    device = items.device
    k = min(k, len(items))
    hidden = max(1, model.config.decoder_size)
    step = max(1, _PAIR_UNITS // (len(items) * hidden))
    scores = []
    for part, base in zip(users.split(step), user_base.split(step), strict=True):
        residuals = model.decoder.all_pairs(part, items)
        scores.append(residuals + base.to(device).unsqueeze(1) + item_bias.to(device))
    all_scores = torch.cat(scores)
    all_scores[seen[0].to(device), seen[1].to(device)] = -torch.inf
    best = all_scores.topk(k, dim=1)
    return best.values.cpu(), best.indices.cpu()


def items_of(adjacencies: Sequence[Adjacency], users: Tensor) -> tuple[Tensor, Tensor]:
    """What n users rated, by one or more sets of ratings.

    Returns:
        Positions among the n users, and items; int64 [s] each.
    """
    slices = [
        (position, np.asarray(adjacency.neighbours[adjacency.of(user)]))
        for adjacency in adjacencies
        for position, user in enumerate(users.tolist())
    ]
    items = [part for _, part in slices]
    counts = torch.tensor([len(part) for part in items], dtype=torch.int64)
    positions = torch.tensor([position for position, _ in slices], dtype=torch.int64)
    joined = np.concatenate(items) if items else np.empty(0, dtype=np.int32)
    return torch.repeat_interleave(positions, counts), torch.from_numpy(joined).long()
