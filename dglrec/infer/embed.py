"""Exact embeddings: every node over all of its training edges, layer by layer, in chunks.

A layer is computed for all nodes before the next one starts, so each edge is read once a layer
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
from dglrec.infer.told import Others
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
_CHUNK_EDGES_OF_MANY = 1 << 19  # a fifth slower, and processes share a machine's memory


@dataclass(frozen=True)
class Embeddings:
    """What the encoder makes of every node.

    Attributes:
        nodes: float32 [U, H] and [I, H]; the last layer's.
        item_layers: float32 [I, H] a layer, inputs first, the last layer's left out: what a user
            that training never saw is encoded from.
        lists: what the list head makes of all users, and of all items; None without one.
        told_users: float32 [U, H] a layer, what users are told along relations beside that of
            ratings; none where no such relation ends in users.
        cosines: [2] of the inputs, of each layer and, where they are combined, of what they make:
            see `mean_cosines`; none where nobody asked.
        item_network: what items without ratings are made by; None where the encoder makes them.
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
        lists: what the list head makes of them; None without one.
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
        model: in whatever mode; dropout is off meanwhile.
        graph: all training ratings.
        biases: fitted to them.
        world: processes that each compute a share of the nodes, about equal in edges; all of them
            end up with all embeddings.
        directions: of the relations that the model reads.
        with_cosines: whether to say how alike nodes become layer by layer.
    """
    edges_read = 2 * model.config.layers * graph.num_edges // world.size
    shown = progress("embedding all nodes", edges_read, "edges", shown=world.is_first)
    with evaluating(model), shown as advance:
        nodes = _inputs(model, graph.num_users, biases)
        item_layers, cosines = [], [mean_cosines(nodes)] if with_cosines else []
        results = _Results(model.encoder, nodes)
        of_users, of_items, others = _edges(model, graph, biases, world, directions)
        told_users = []
        for number, layer in enumerate(model.encoder.hops):
            item_layers.append(nodes.items)
            of_layer = layer, of_users, of_items, world, advance
            if others.is_empty:
                nodes = _hop(nodes, *of_layer)
            else:
                told = Messages(
                    *(others.told(number, nodes, kind) for kind in (USER_TYPE, ITEM_TYPE))
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
    """What users or items would be had a direction told them nothing, by its name.

    Each has been told nothing along it in any layer; those whose values it reads are as they are.

    Args:
        model: as in `embed_all`, and the others likewise.
        graph: all training ratings.
        biases: fitted to them.
        world: the processes.
        directions: of the relations that the model reads.
        item_network: that of `Embeddings`.
    """
    kinds = {one.name: one.destination_type for one in directions}
    edges_read = (2 + len(kinds)) * model.config.layers * graph.num_edges // world.size
    shown = progress("leaving relations out", edges_read, "edges", shown=world.is_first)
    with evaluating(model), shown as advance:
        nodes = _inputs(model, graph.num_users, biases)
        of_users, of_items, others = _edges(model, graph, biases, world, directions)
        layers = {
            name: [nodes.users if kind == USER_TYPE else nodes.items]
            for name, kind in kinds.items()
        }
        for number, layer in enumerate(model.encoder.hops):
            for name, kind in kinds.items():
                told = others.told(number, nodes, kind, without=name)
                to_users = kind == USER_TYPE
                update = layer.update_users if to_users else layer.update_items
                given, sources = (of_users, nodes.items) if to_users else (of_items, nodes.users)
                before = layers[name][-1]
                of_hop = update, given, before, sources, world, advance
                layers[name].append(_update(*of_hop, told=told))
            told_all = Messages(
                *(others.told(number, nodes, kind) for kind in (USER_TYPE, ITEM_TYPE))
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

    When they gave them is not known here: where older ratings weigh less, theirs weigh the same.

    Args:
        model: the model that made the embeddings.
        embeddings: exact ones.
        ratings: of the n users, the neighbours being items of the embeddings.
        scale: what the codes of the ratings stand for.
        biases: of these users, as `Biases.of_new_users` makes them.
        world: as in `embed_all`.
        features: float32 [n, F] of these users, as `RatingDataset.user_features` has them; None
            where nothing is known of them.
        told: float32 [n, H] a layer, what these users are told along other relations; none for
            nothing. `Embeddings.told_users` has it of the users of the data set.
        identities: int64 [n] which users of the embeddings they are, whose ratings are now others;
            None for users that training never saw. What they are, and are told, is known then.
        shown: whether to show progress; not where this is a step of something that does.
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
            told = [one.index_select(0, identities) for one in embeddings.told_users]
        edges = EdgeTensors.of(ratings, scale, torch.device("cpu"))
        given = _Given(ratings.offsets, edges, biases, to_users=True)
        every_layer = [users]
        for number, (layer, items) in enumerate(layers):
            of_layer = told[number] if told else None
            users = _update(layer.update_users, given, users, items, world, advance, told=of_layer)
            every_layer.append(users)
        users = model.encoder.combine(every_layer)
        lists = None
        if model.list_head is not None:
            lists = _list_terms(model, given, users, world)
    return EncodedNodes(users, lists)


@torch.inference_mode()
def embed_new_items(
    model: RatingModel,
    features: Tensor,
    others: Sequence[RelationBlock] = (),
    item_network: ItemNetwork | None = None,
) -> EncodedNodes:
    """Encode m items that nobody has rated from what they are.

    Args:
        model: the model.
        features: float32 [m, F].
        others: their labels, along the relations that the model reads; see `blocks_of_labels`.
        item_network: that of `Embeddings`.
    """
    device = next(model.parameters()).device
    with evaluating(model):
        features = model.inputs.chosen(features.to(device))
        if item_network is None:
            nodes = model.new_items(features, [one.to(device) for one in others])
        else:
            nodes = item_network(features)
        lists = None
        if model.list_head is not None:
            lists = model.list_head.of_items(nodes, nodes.new_zeros(len(nodes), INPUTS), None)
    return EncodedNodes(nodes, lists)


def _item_network(model: RatingModel, biases: Biases, items: Tensor) -> ItemNetwork | None:
    """What maps features to the embeddings of rated items; None where the encoder does."""
    if model.config.new_items == "encoder":
        return None
    # A vector of few ratings says little of its item, and counts as much as it does in the model.
    degrees = biases.item_degrees.to(items.device)
    importance = degrees / (degrees + model.config.identity_damping).clamp(min=1)
    return fit_item_network(model.inputs.features, items, importance)


def _mapped(model: RatingModel, biases: Biases, items: Tensor, network: ItemNetwork) -> Tensor:
    """Embeddings of all items, those without ratings made of their features."""
    new = (biases.item_degrees == 0).to(items.device)
    return items.masked_scatter(new.unsqueeze(1), network(model.inputs.features[new]))


@contextmanager
def evaluating(model: RatingModel) -> Iterator[None]:
    """Without dropout, whatever mode the model is in before and after."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _inputs(model: RatingModel, num_users: int, biases: Biases) -> NodeValues:
    """What all nodes are before any message."""
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
) -> tuple["_Given", "_Given", Others]:
    """All edges that end in users, those that end in items, and those of other relations."""
    near = graph.where(next(model.parameters()).device)
    by_user, by_item = graph.on(near)
    times = graph.times_on(near) if model.config.reads_times else (None, None)
    return (
        _Given(graph.by_user.offsets, by_user, biases.to(near), to_users=True, times=times[0]),
        _Given(graph.by_item.offsets, by_item, biases.to(near), to_users=False, times=times[1]),
        Others(model, directions, near, world),
    )


def _item_terms(model: RatingModel, biases: Biases, items: Tensor) -> ListTerms:
    """What the list head makes of all items."""
    assert model.list_head is not None
    inputs = biases.item_inputs(slice(None)).to(items.device)
    return model.list_head.of_items(items, inputs, model.list_head.every_row().own)


class _Results:
    """The layers' results that the encoder combines: of `last` the last one alone is kept."""

    def __init__(self, encoder: HeteroEncoder, inputs: NodeValues) -> None:
        self._encoder, self._values = encoder, [inputs]

    def add(self, values: NodeValues) -> None:
        """Those of the next layer."""
        if self._encoder.combination == "last":
            self._values.clear()
        self._values.append(values)

    def combined(self) -> NodeValues:
        """What the encoder makes of all layers."""
        combine = self._encoder.combine
        return NodeValues(
            combine([values.users for values in self._values]),
            combine([values.items for values in self._values]),
        )


@dataclass(frozen=True)
class _Given:
    """The edges that end in the nodes of one type, and what of their ratings biases explain.

    Attributes:
        offsets: int64 [N + 1], on the host.
        edges: the same and all else, here or on the device.
        biases: where the edges are.
        to_users: whether the nodes are users.
        times: when the ratings were given; None where the model does not ask for that.
    """

    offsets: npt.NDArray[np.int64]
    edges: EdgeTensors
    biases: Biases
    to_users: bool
    times: EdgeTimes | None = None

    def block(self, first: int, last: int) -> Block:
        """All edges of the nodes first..last-1, their sources being all nodes of the other type."""
        edges, biases = self.edges, self.biases
        low, high = int(self.offsets[first]), int(self.offsets[last])
        offsets = edges.offsets[first : last + 1] - low
        neighbours = edges.neighbours[low:high].long()
        residuals = edges.ratings(slice(low, high))
        degrees = edges.counts[first:last]
        nodes = torch.arange(first, last, device=offsets.device)
        own = torch.repeat_interleave(nodes, degrees, output_size=high - low)
        users, items = (own, neighbours) if self.to_users else (neighbours, own)
        residuals -= biases.predict(users, items)
        others = biases.item_degrees if self.to_users else biases.user_degrees
        ages = None
        if self.times is not None:
            ages = self.times.ages(torch.arange(low, high, device=degrees.device), degrees)
        return Block(offsets, neighbours, residuals, degrees.float(), others, ages=ages)


def _list_terms(model: RatingModel, given: _Given, users: Tensor, world: World) -> ListTerms:
    """What the list head makes of users with all of their edges."""
    head = model.list_head
    assert head is not None
    factors = users.new_empty(len(users), head.width)
    rows = head.every_row()

    def update(block: Block, sources: Tensor, own: Tensor) -> Tensor:
        return head.of_users(own, block if head.reads_items else None, rows).factors

    _update(update, given, users, users, world, lambda count: None, factors)
    return ListTerms(factors, factors.new_zeros(len(factors)))


def _hop(
    nodes: NodeValues,
    layer: Layer,
    of_users: _Given,
    of_items: _Given,
    world: World,
    advance: Advance,
    told: Messages = NO_MESSAGES,
) -> NodeValues:
    """What a layer makes of all nodes."""
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
    given: _Given,
    own: Tensor,
    sources: Tensor,
    world: World,
    advance: Advance,
    out: Tensor | None = None,
    told: Tensor | None = None,
) -> Tensor:
    """One layer's new values of all nodes of a type, from all their edges; into `out` if given.

    `told` is what comes to them along other relations, None for nothing.
    """
    offsets = given.offsets
    out = torch.empty_like(own) if out is None else out
    bounds = world.cut(torch.from_numpy(offsets[1:]))
    start, end = bounds[world.rank], bounds[world.rank + 1]
    edges = _CHUNK_EDGES if world.size == 1 else _CHUNK_EDGES_OF_MANY
    for first, last in node_chunks(offsets[start : end + 1], edges):
        first, last = start + first, start + last
        block = given.block(first, last).to(own.device)
        values = own[first:last]
        if told is None:
            out[first:last] = update(block, sources, values)
        else:
            out[first:last] = update(block, sources, values, told[first:last])
        advance(len(block.neighbours))
    world.share_rows(out, bounds)
    return out
