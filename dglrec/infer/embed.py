"""Exact embeddings of all nodes, from all of their training edges, layer by layer, in chunks.

A layer is computed for all nodes before the next layer starts, so each edge is read once a layer
and no neighbourhood is ever expanded.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dglrec.biases import INPUTS, Biases
from dglrec.blocks import Block, RelationBlock
from dglrec.distributed import ALONE, World
from dglrec.graph import Adjacency, EdgeTensors, EdgeTimes, RatingGraph, node_chunks
from dglrec.infer.smoothing import mean_cosines
from dglrec.infer.told import RelationMessages
from dglrec.nn import (
    NO_MESSAGES,
    HeteroEncoder,
    ItemNetwork,
    Layer,
    ListTerms,
    Messages,
    NodeValues,
    RatingModel,
    fit_item_network,
)
from dglrec.progress import Advance, progress
from dglrec.relations import ITEM_TYPE, USER_TYPE, Direction
from dglrec.schema import RatingScale

_CHUNK_EDGES = 1 << 21
_CHUNK_EDGES_OF_MANY = 1 << 19  # of many processes, which share memory; a fifth slower


@dataclass(frozen=True)
class Embeddings:
    """The embeddings of all nodes, with what encoding new users and items needs.

    Attributes:
        nodes: float32 [U, H] and [I, H]; the encoder's output.
        item_layers: float32 [I, H] for each layer, the inputs of the first layer first, without the
            output of the last: the values that a new user is encoded from.
        lists: the list head's terms of all users and of all items; None without a list head.
        told_users: float32 [U, H] for each layer, the messages that users receive along relations
            other than ratings; empty where no such relation ends in users.
        cosines: `mean_cosines`, [2], of the inputs, of each layer and, where layers are combined,
            of the combination; empty unless they were asked for.
        item_network: the network that embeds items without ratings; None where the encoder does.
    """

    nodes: NodeValues
    item_layers: tuple[Tensor, ...]
    lists: tuple[ListTerms, ListTerms] | None = None
    told_users: tuple[Tensor, ...] = ()
    cosines: tuple[Tensor, ...] = ()
    item_network: ItemNetwork | None = None


class EncodedNodes(NamedTuple):
    """Users or items that training never saw.

    Attributes:
        nodes: float32 [n, H], on the embeddings' device.
        lists: the list head's terms of the nodes; None without a list head.
    """

    nodes: Tensor
    lists: ListTerms | None


@torch.inference_mode()
def embed_all(
    model: RatingModel,
    graph: RatingGraph,
    biases: Biases,
    world: World = ALONE,
    directions: Sequence[Direction] = (),
    *,
    with_cosines: bool = False,
) -> Embeddings:
    """Exact embeddings of all nodes, on the model's device.

    Args:
        model: in training or evaluation mode; dropout is off during the call.
        graph: all training ratings.
        biases: fitted to these ratings.
        world: the processes, each of which computes a share of the nodes, with about equal numbers
            of edges; every process returns all embeddings.
        directions: of the relations that the model reads.
        with_cosines: whether to compute `Embeddings.cosines`.
    """
    edges_read = 2 * model.config.layers * graph.num_edges // world.size
    shown = progress("embedding all nodes", edges_read, "edges", shown=world.is_first)
    with evaluating(model), shown as advance:
        nodes = _inputs(model, graph.num_users, biases)
        item_layers, cosines = [], [mean_cosines(nodes)] if with_cosines else []
        results = _Results(model.encoder, nodes)
        of_users, of_items, relations = _edges(model, graph, biases, world, directions)
        told_users = []
        for number, layer in enumerate(model.encoder.hops):
            item_layers.append(nodes.items)
            of_layer = layer, of_users, of_items, world, advance
            if relations.is_empty:
                nodes = _hop(nodes, *of_layer)
            else:
                told = Messages(
                    *(relations.messages_to(number, nodes, kind) for kind in (USER_TYPE, ITEM_TYPE))
                )
                nodes = _hop(nodes, *of_layer, told)
                told_users += [] if told.users is None else [told.users]
            results.add(nodes)
            cosines += [mean_cosines(nodes)] if with_cosines else []
        nodes = results.combined()
        network = _item_network(model, biases, nodes.items)
        if network is not None:
            nodes = NodeValues(nodes.users, _mapped(model, biases, nodes.items, network))
        if with_cosines and model.config.combination != "last":
            cosines.append(mean_cosines(nodes))
        lists = None
        if model.list_head is not None:
            users_terms = _list_terms(model, of_users, nodes.users, world)
            lists = users_terms, _item_terms(model, biases, nodes.items)
    every_layer = tuple(item_layers), lists, tuple(told_users), tuple(cosines)
    return Embeddings(nodes, *every_layer, network)


@torch.inference_mode()
def embed_without(
    model: RatingModel,
    graph: RatingGraph,
    biases: Biases,
    world: World = ALONE,
    directions: Sequence[Direction] = (),
    item_network: ItemNetwork | None = None,
) -> dict[str, EncodedNodes]:
    """For each direction by name, its destination nodes encoded without its messages.

    A destination node receives no message along the direction in any layer. The other nodes,
    whose values it aggregates, keep the embeddings that they have with all directions.

    Args:
        model: as in `embed_all`.
        graph: all training ratings.
        biases: fitted to these ratings.
        world: as in `embed_all`.
        directions: of the relations that the model reads.
        item_network: `Embeddings.item_network`.
    """
    kinds = {direction.name: direction.destination_type for direction in directions}
    edges_read = (2 + len(kinds)) * model.config.layers * graph.num_edges // world.size
    shown = progress("leaving relations out", edges_read, "edges", shown=world.is_first)
    with evaluating(model), shown as advance:
        nodes = _inputs(model, graph.num_users, biases)
        of_users, of_items, relations = _edges(model, graph, biases, world, directions)
        layers = {
            name: [nodes.users if kind == USER_TYPE else nodes.items]
            for name, kind in kinds.items()
        }
        for number, layer in enumerate(model.encoder.hops):
            for name, kind in kinds.items():
                told = relations.messages_to(number, nodes, kind, without=name)
                to_users = kind == USER_TYPE
                update = layer.update_users if to_users else layer.update_items
                edges, sources = (of_users, nodes.items) if to_users else (of_items, nodes.users)
                before = layers[name][-1]
                of_hop = update, edges, before, sources, world, advance
                layers[name].append(_update(*of_hop, told=told))
            told_all = Messages(
                *(relations.messages_to(number, nodes, kind) for kind in (USER_TYPE, ITEM_TYPE))
            )
            nodes = _hop(nodes, layer, of_users, of_items, world, advance, told_all)
        found = {}
        for name, kind in kinds.items():
            values, lists = model.encoder.combine(layers.pop(name)), None
            if item_network is not None and kind == ITEM_TYPE:
                values = _mapped(model, biases, values, item_network)
            if model.list_head is not None and kind == USER_TYPE:
                lists = _list_terms(model, of_users, values, world)
            elif model.list_head is not None:
                lists = _item_terms(model, biases, values)
            found[name] = EncodedNodes(values, lists)
    return found


@torch.inference_mode()
def embed_new_users(
    model: RatingModel,
    embeddings: Embeddings,
    ratings: Adjacency,
    scale: RatingScale,
    biases: Biases,
    world: World = ALONE,
    *,
    features: Tensor | None = None,
    told: Sequence[Tensor] = (),
    identities: Tensor | None = None,
    shown: bool = True,
) -> EncodedNodes:
    """Encode n users from ratings that training never saw, as training users are encoded.

    The times of the ratings are not known here: a model in which older ratings weigh less gives
    all of these ratings the same weight.

    Args:
        model: the model that made the embeddings.
        embeddings: exact embeddings of the data set.
        ratings: of the n users; the neighbours are items of the embeddings.
        scale: translates the codes of the ratings.
        biases: of these users, from `Biases.of_new_users`.
        world: as in `embed_all`.
        features: float32 [n, F] of these users, in the form of `RatingDataset.user_features`; None
            where no features are known.
        told: float32 [n, H] for each layer, the messages that these users receive along other
            relations; empty for no messages. Not read where `identities` are given, as
            `Embeddings.told_users` has the messages of the data set's users.
        identities: int64 [n] the same users' rows in the embeddings, where users of the data set
            come with other ratings than in training: their inputs and their messages along other
            relations are then those of the data set. None for users that training never saw.
        shown: whether to show a progress bar; False within a step that shows progress itself.
    """
    device = embeddings.nodes.items.device
    layers = list(zip(model.encoder.hops, embeddings.item_layers, strict=True))
    edges_read = len(layers) * len(ratings.neighbours) // world.size
    bar = progress("embedding new users", edges_read, "edges", shown=shown and world.is_first)
    with evaluating(model), bar as advance:
        if features is not None:
            features = model.inputs.chosen_of_users(features.to(device))
        inputs = biases.user_inputs(slice(None)).to(device)
        if identities is None:
            users = model.inputs.new_users(inputs, features)
        else:
            identities = identities.to(device)
            users = model.inputs.users(identities, inputs)
            told = [messages.index_select(0, identities) for messages in embeddings.told_users]
        edges = EdgeTensors.of(ratings, scale, torch.device("cpu"))
        rating_edges = _RatingEdges(ratings.offsets, edges, biases, to_users=True)
        every_layer = [users]
        for number, (layer, items) in enumerate(layers):
            of_layer = told[number] if told else None
            users = _update(
                layer.update_users, rating_edges, users, items, world, advance, told=of_layer
            )
            every_layer.append(users)
        users = model.encoder.combine(every_layer)
        lists = None
        if model.list_head is not None:
            lists = _list_terms(model, rating_edges, users, world)
    return EncodedNodes(users, lists)


@torch.inference_mode()
def embed_new_items(
    model: RatingModel,
    features: Tensor,
    others: Sequence[RelationBlock] = (),
    item_network: ItemNetwork | None = None,
) -> EncodedNodes:
    """Encode m items without ratings from their features and labels.

    Args:
        model: the model.
        features: float32 [m, F].
        others: the items' labels along the relations that the model reads; see `blocks_of_labels`.
        item_network: `Embeddings.item_network`.
    """
    device = next(model.parameters()).device
    with evaluating(model):
        features = model.inputs.chosen(features.to(device))
        if item_network is None:
            nodes = model.new_items(features, [block.to(device) for block in others])
        else:
            nodes = item_network(features)
        lists = None
        if model.list_head is not None:
            lists = model.list_head.of_items(nodes, nodes.new_zeros(len(nodes), INPUTS), None)
    return EncodedNodes(nodes, lists)


def _item_network(model: RatingModel, biases: Biases, items: Tensor) -> ItemNetwork | None:
    """The network that embeds items from their features; None where the encoder does that."""
    if model.config.new_items == "encoder":
        return None
    # An embedding of few ratings says little about its item. It gets the weight in the fit that
    # the item's identity vector gets in the model.
    degrees = biases.item_degrees.to(items.device)
    importance = degrees / (degrees + model.config.identity_damping).clamp(min=1)
    return fit_item_network(model.inputs.features, items, importance)


def _mapped(model: RatingModel, biases: Biases, items: Tensor, network: ItemNetwork) -> Tensor:
    """Embeddings of all items; the network makes those of items without ratings."""
    new = (biases.item_degrees == 0).to(items.device)
    return items.masked_scatter(new.unsqueeze(1), network(model.inputs.features[new]))


@contextmanager
def evaluating(model: RatingModel) -> Iterator[None]:
    """Evaluation mode, without dropout, for the block; then the mode that the model was in."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _inputs(model: RatingModel, num_users: int, biases: Biases) -> NodeValues:
    """The inputs of the first layer, of all nodes."""
    device = next(model.parameters()).device
    users = model.inputs.users(
        torch.arange(num_users, device=device), biases.user_inputs(slice(None)).to(device)
    )
    return NodeValues(users, model.inputs.items(None, biases.item_inputs(slice(None)).to(device)))


def _edges(
    model: RatingModel,
    graph: RatingGraph,
    biases: Biases,
    world: World,
    directions: Sequence[Direction],
) -> tuple["_RatingEdges", "_RatingEdges", RelationMessages]:
    """The ratings as edges to users, the ratings as edges to items, and the other relations."""
    device = graph.where(next(model.parameters()).device)
    by_user, by_item = graph.on(device)
    times = graph.times_on(device) if model.config.reads_times else (None, None)
    return (
        _RatingEdges(
            graph.by_user.offsets, by_user, biases.to(device), to_users=True, times=times[0]
        ),
        _RatingEdges(
            graph.by_item.offsets, by_item, biases.to(device), to_users=False, times=times[1]
        ),
        RelationMessages(model, directions, device, world),
    )


def _item_terms(model: RatingModel, biases: Biases, items: Tensor) -> ListTerms:
    """The list head's terms of all items."""
    assert model.list_head is not None
    inputs = biases.item_inputs(slice(None)).to(items.device)
    return model.list_head.of_items(items, inputs, model.list_head.every_row().own)


class _Results:
    """The layers' values that the encoder combines; `last` keeps those of the last layer only."""

    def __init__(self, encoder: HeteroEncoder, inputs: NodeValues) -> None:
        self._encoder, self._values = encoder, [inputs]

    def add(self, values: NodeValues) -> None:
        """Add the values of the next layer."""
        if self._encoder.combination == "last":
            self._values.clear()
        self._values.append(values)

    def combined(self) -> NodeValues:
        """The encoder's combination of all layers."""
        combine = self._encoder.combine
        return NodeValues(
            combine([values.users for values in self._values]),
            combine([values.items for values in self._values]),
        )


@dataclass(frozen=True)
class _RatingEdges:
    """The ratings as edges to the nodes of one type, with the biases that centre them.

    Attributes:
        offsets: int64 [N + 1], on the CPU.
        edges: on the CPU or on the model's device.
        biases: on the same device as the edges.
        to_users: whether the destination nodes are users.
        times: the times of the ratings; None where the model does not read them.
    """

    offsets: npt.NDArray[np.int64]
    edges: EdgeTensors
    biases: Biases
    to_users: bool
    times: EdgeTimes | None = None

    def block(self, first: int, last: int) -> Block:
        """All edges of nodes first..last-1; their sources number all nodes of the other type."""
        edges, biases = self.edges, self.biases
        low, high = int(self.offsets[first]), int(self.offsets[last])
        offsets = edges.offsets[first : last + 1] - low
        neighbours = edges.neighbours[low:high].long()
        residuals = edges.ratings(slice(low, high))
        degrees = edges.counts[first:last]
        nodes = torch.arange(first, last, device=offsets.device)
        destinations = torch.repeat_interleave(nodes, degrees, output_size=high - low)
        users, items = (destinations, neighbours) if self.to_users else (neighbours, destinations)
        residuals -= biases.predict(users, items)
        others = biases.item_degrees if self.to_users else biases.user_degrees
        ages = None
        if self.times is not None:
            ages = self.times.ages(torch.arange(low, high, device=degrees.device), degrees)
        return Block(offsets, neighbours, residuals, degrees.float(), others, ages=ages)


def _list_terms(model: RatingModel, edges: _RatingEdges, users: Tensor, world: World) -> ListTerms:
    """The list head's terms of users, from all of their edges."""
    head = model.list_head
    assert head is not None
    factors = users.new_empty(len(users), head.width)
    rows = head.every_row()

    def update(block: Block, sources: Tensor, values: Tensor) -> Tensor:
        return head.of_users(values, block if head.reads_items else None, rows).factors

    _update(update, edges, users, users, world, lambda count: None, factors)
    return ListTerms(factors, factors.new_zeros(len(factors)))


def _hop(
    nodes: NodeValues,
    layer: Layer,
    of_users: _RatingEdges,
    of_items: _RatingEdges,
    world: World,
    advance: Advance,
    told: Messages = NO_MESSAGES,
) -> NodeValues:
    """A layer's new values of all nodes."""
    return NodeValues(
        _update(
            layer.update_users, of_users, nodes.users, nodes.items, world, advance, told=told.users
        ),
        _update(
            layer.update_items, of_items, nodes.items, nodes.users, world, advance, told=told.items
        ),
    )


def _update(
    update: Callable[..., Tensor],
    edges: _RatingEdges,
    nodes: Tensor,
    sources: Tensor,
    world: World,
    advance: Advance,
    out: Tensor | None = None,
    told: Tensor | None = None,
) -> Tensor:
    """A layer's new values of all nodes of one type, from all of their edges; into `out` if given.

    `told` holds the messages that the nodes receive along other relations, None for no messages.
    """
    offsets = edges.offsets
    out = torch.empty_like(nodes) if out is None else out
    bounds = world.cut(torch.from_numpy(offsets[1:]))
    start, end = bounds[world.rank], bounds[world.rank + 1]
    chunk_edges = _CHUNK_EDGES if world.size == 1 else _CHUNK_EDGES_OF_MANY
    for first, last in node_chunks(offsets[start : end + 1], chunk_edges):
        first, last = start + first, start + last
        block = edges.block(first, last).to(nodes.device)
        values = nodes[first:last]
        if told is None:
            out[first:last] = update(block, sources, values)
        else:
            out[first:last] = update(block, sources, values, told[first:last])
        advance(len(block.neighbours))
    world.share_rows(out, bounds)
    return out
