"""Estimates of the memory that a training needs, and the check that it is free beforehand."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from dglrec.distributed import ALONE, World
from dglrec.errors import UnusableEnvironmentError
from dglrec.graph import Adjacency, RatingGraph
from dglrec.machine import available_memory, gib
from dglrec.nn import RatingModel
from dglrec.progress import log
from dglrec.relations import ITEM_TYPE, USER_TYPE, Direction
from dglrec.train.config import Settings

# Measured as resident memory of training at full size, for both loaders; the estimates were 0.9 to
# 1.6 times the measured values. An edge of a step takes an id, a destination, an item, a hash and
# masks; a message takes a neighbour, a residual and temporaries; a node of a layer takes its value,
# those of its messages and maps, and the gradients of all of these.
_STEP_EDGE_BYTES = 100
_WHOLE_EDGE_BYTES = 80  # in a step of the whole graph: both nodes, residuals, masks of targets
_MESSAGE_BYTES, _DGL_MESSAGE_BYTES = 16, 32
_SAMPLE_BYTES = 28  # for each of nodes x fan-out places, filled or not
_VALUES_A_NODE, _VALUES_OF_RATED = 5, 5
_TABLE_BYTES = 40  # for each user and item: tables in which importance is summed and drawn from
_VALUES_OF_LSTM = 16  # for each neighbour that it reads: gates, states, and their gradients
_VALUES_OF_FILTERS, _COPIES_OF_SIGNALS = 6, 3  # for each pair of user and item, and each feature
# DGL stores both relations as int64, builds further structures, and shuffles all edge ids.
_DGL_EDGE_BYTES = 110
_COPIES_OF_WEIGHTS = 5  # weights, gradients, two moments, and the copy for a checkpoint
_FREE_SHARE = 0.9  # of free GPU memory; the rest is for other programs and torch's cache


@dataclass(frozen=True)
class Footprint:
    """The approximate memory of a training, in bytes for each process.

    Attributes:
        graph: adjacency and ratings.
        model: weights, gradients, moments, features, and the table of related negatives.
        step: the peak of a step's temporary memory.
        graph_is_mapped: whether the graph is memory-mapped, so that it need not fit in memory.
    """

    graph: int
    model: int
    step: int
    graph_is_mapped: bool


def footprint(
    graph: RatingGraph,
    model: RatingModel,
    settings: Settings,
    world: World = ALONE,
    directions: Sequence[Direction] = (),
) -> Footprint:
    """The memory of a training on a graph, for each process.

    Args:
        graph: the training ratings.
        model: the model, on any device.
        settings: the resolved settings.
        world: the processes that share each batch.
        directions: of the relations that the model reads.
    """
    sides = (graph.by_user, graph.by_item)
    mapped = sum(s.neighbours.nbytes + s.codes.nbytes + s.offsets.nbytes for s in sides)
    mapped += sum(direction.nbytes for direction in directions)
    weights = sum(parameter.nbytes for parameter in model.parameters())
    features = model.inputs.features.nbytes + model.inputs.user_features.nbytes
    by_users = settings.loader.kind != "neighbor"
    return Footprint(
        graph=mapped if by_users else mapped + _DGL_EDGE_BYTES * graph.num_edges,
        model=_COPIES_OF_WEIGHTS * weights + features + _related_bytes(graph, settings),
        step=_step_bytes(graph, settings, world.size, directions),
        graph_is_mapped=by_users,
    )


def _related_bytes(graph: RatingGraph, settings: Settings) -> int:
    """Memory of the table of related negatives; see `RelatedSampler`."""
    ranking = settings.ranking
    if settings.model.heads == "rating" or not ranking.related_negatives:
        return 0
    first, last = ranking.related_places
    return 4 * graph.num_users * max(1, min(last, graph.num_items) - first + 1)


def _step_bytes(
    graph: RatingGraph, settings: Settings, processes: int, directions: Sequence[Direction]
) -> int:
    """Memory of a step: its edges, and its nodes and messages from the last layer to the first."""
    loader = settings.loader
    if loader.kind == "full":
        return _whole_graph_bytes(graph, settings)
    if loader.kind == "cluster":
        # Clusters have about equal numbers of edge ends, which bounds the edges within them.
        share = 1 / loader.steps_a_pass(graph.num_edges)
        nodes = share * (graph.num_users + graph.num_items)
        return _subgraph_bytes(settings, nodes, share * graph.num_edges)
    if loader.kind == "saint":
        # An upper bound: the number of sampled nodes depends on chances that are computed later.
        nodes = graph.num_users + graph.num_items
        return _subgraph_bytes(settings, nodes, graph.num_edges)
    if loader.kind == "layerwise":
        return _layerwise_bytes(graph, settings, processes)
    if settings.model.convolution == "graph_filter":
        return _signal_bytes(graph, settings, processes)
    edges = -(-loader.edges_a_batch(graph.num_edges) // processes)
    user_degree = max(1.0, graph.num_edges / graph.num_users)
    item_degree = max(1.0, graph.num_edges / graph.num_items)
    users, items = float(min(edges, graph.num_users)), float(min(edges, graph.num_items))
    if loader.kind == "users":
        edges = min(edges * int(loader.folds), graph.num_edges)
        users = min(edges / user_degree, graph.num_users)
        if loader.items == "reached":
            items = min(items + settings.ranking.pool, graph.num_items)
        else:
            items = graph.num_items / processes
    listed = items if loader.items == "reached" else graph.num_items
    # A layer's ridge regression keeps a float64 [W, W] matrix for each user.
    square = 8 * settings.model.ridge_width**2
    refines_all, squares = settings.model.refines(last=False), square * users
    # With a trend in time it also keeps a row for each rating, and its gradient.
    trend_row = 8 * settings.model.ridge_width if settings.model.time_trend else 0
    trend = 0.0
    messages = sampled = nodes = read = 0.0
    most = [int(side.degrees.max(initial=0)) for side in (graph.by_user, graph.by_item)]
    for number, (of_user, of_item) in reversed(list(enumerate(loader.fanouts))):
        to_users = users * (user_degree if of_user < 0 else min(of_user, user_degree))
        to_items = items * (item_degree if of_item < 0 else min(of_item, item_degree))
        messages += to_users + to_items
        trend = trend + trend_row * to_users if refines_all or not trend else trend
        read += _read_by_lstm(settings, to_users, users) + _read_by_lstm(settings, to_items, items)
        sampled += users * max(0, min(of_user, most[0])) + items * max(0, min(of_item, most[1]))
        of_users = of_items = 0.0
        for direction in directions:
            readers = users if direction.destination_type == USER_TYPE else items
            degree, most_read = (
                direction.edges.num_edges / direction.edges.num_nodes,
                loader.relation_fanout,
            )
            told = readers * (degree if most_read < 0 else min(most_read, degree))
            messages += told
            sampled += readers * max(most_read, 0)
            of_users += told if direction.source_type == USER_TYPE else 0
            of_items += told if direction.source_type == ITEM_TYPE else 0
        users = min(users + to_items + of_users, graph.num_users)
        items = min(items + to_users + of_items, graph.num_items)
        nodes += users + items
        squares += square * users if refines_all and number else 0
    values = _VALUES_A_NODE + (_VALUES_OF_RATED if settings.model.rating_messages else 0)
    row = 4 * settings.model.embedding_size * values
    message = _MESSAGE_BYTES if loader.kind == "users" else _DGL_MESSAGE_BYTES
    # Each thread sums the decoder's gradients in a separate table.
    tables = (
        4 * torch.get_num_threads() * (settings.model.decoder_size + settings.model.embedding_size)
    )
    return int(
        _STEP_EDGE_BYTES * edges
        + message * messages
        + _SAMPLE_BYTES * sampled
        + row * nodes
        + 4 * settings.model.embedding_size * _VALUES_OF_LSTM * read
        + squares
        + trend
        + tables * listed
    )


def _read_by_lstm(settings: Settings, edges: float, nodes: float) -> float:
    """The number of the nodes' edges that the LSTM aggregator reads; 0 without it."""
    model = settings.model
    return min(edges, nodes * model.lstm_neighbours) if model.aggregator == "lstm" else 0.0


def _whole_graph_bytes(graph: RatingGraph, settings: Settings) -> int:
    """Memory of a step that reads the whole graph."""
    row = 4 * settings.model.embedding_size * _VALUES_A_NODE
    nodes, layers = graph.num_users + graph.num_items, settings.model.layers
    read = sum(
        _read_by_lstm(settings, graph.num_edges, count)
        for count in (graph.num_users, graph.num_items)
    )
    of_lstm = 4 * settings.model.embedding_size * _VALUES_OF_LSTM * read
    # Attention weights of each edge and head: GATv2 keeps those of all layers and both directions
    # for the backward pass, GAT recomputes them one layer at a time; both make gradients of this
    # size.
    per_head = 4 * settings.model.attention_heads * graph.num_edges
    kept = {"gat": 1, "gatv2": 2 * layers + 1}.get(settings.model.convolution, 0)
    edges = _WHOLE_EDGE_BYTES * graph.num_edges + per_head * kept
    return int(edges + row * nodes * (layers + 1) + of_lstm * layers)


def _subgraph_bytes(settings: Settings, nodes: float, edges: float) -> int:
    """Memory of a step that reads the same subgraph in all layers.

    Args:
        settings: the resolved settings.
        nodes: the number of nodes of a step.
        edges: the number of its users' edges, including those that leave the subgraph.
    """
    model = settings.model
    values = _VALUES_A_NODE + (_VALUES_OF_RATED if model.rating_messages else 0)
    row = 4 * model.embedding_size * values * (model.layers + 1)
    return int(2 * _STEP_EDGE_BYTES * edges + (row + 8 * model.ridge_width**2) * nodes)


def _layerwise_bytes(graph: RatingGraph, settings: Settings, processes: int) -> int:
    """Memory of a step in which each layer has its destinations and a number of sampled nodes.

    The number of edges between n destinations and m sources is at most the number of edges of the n
    destinations, or of the m sources, with the highest degrees.
    """
    loader, model = settings.loader, settings.model
    of_step = min(loader.edges_a_batch(graph.num_edges) * int(loader.folds), graph.num_edges)
    counts = graph.num_users, graph.num_items
    targets = -(-of_step // (int(loader.folds) * processes))
    mean_degree = max(1.0, graph.num_edges / max(1, int((graph.by_user.degrees > 0).sum())))
    users = min(int(of_step / processes / mean_degree) + 1, counts[0])
    items = min(targets, counts[1])
    ridge = 8 * model.refinement**2 * users
    most = [_most_edges(side) for side in (graph.by_user, graph.by_item)]
    nodes, edges = users + items, 0
    for _ in range(model.layers):
        read = [
            min(destinations + -(-size // processes), count)
            for destinations, size, count in zip(
                (users, items), loader.layer_sizes, counts, strict=True
            )
        ]
        edges += int(min(most[0][users], most[1][read[1]]))
        edges += int(min(most[1][items], most[0][read[0]]))
        users, items = read
        nodes += users + items
    values = _VALUES_A_NODE + (_VALUES_OF_RATED if model.rating_messages else 0)
    tables = _TABLE_BYTES * sum(counts)
    row = 4 * model.embedding_size * values
    return int(_STEP_EDGE_BYTES * (of_step + edges) + row * nodes + ridge + tables)


def _most_edges(side: Adjacency) -> npt.NDArray[np.int64]:
    """int64 [N + 1]: the largest number of edges that n nodes have together, for n = 0..N."""
    descending = np.sort(side.degrees)[::-1]
    return np.concatenate(([0], np.cumsum(descending, dtype=np.int64)))


def _signal_bytes(graph: RatingGraph, settings: Settings, processes: int) -> int:
    """Memory of graph filters: a few values for each pair of a user of the step and an item.

    A layer keeps its inputs, its outputs before and after ReLU, the values of a tap, and the
    gradients of these. In addition there are the signals of the step's users and items and, after
    an epoch, those of all users.
    """
    loader, model = settings.loader, settings.model
    user_degree = max(1.0, graph.num_edges / graph.num_users)
    edges = loader.edges_a_batch(graph.num_edges) * int(loader.folds) / processes
    users = min(edges / user_degree, graph.num_users)
    values = sum(model.filter_taps + _VALUES_OF_FILTERS * width for width in model.filter_features)
    nodes = graph.num_users + graph.num_items
    return int(4 * graph.num_items * (values * users + _COPIES_OF_SIGNALS * nodes))


def place_graph(needs: Footprint, device: torch.device, world: World = ALONE) -> torch.device:
    """The device for the graph that is sampled from; logs it if that is not the model's device.

    It is the same for all processes: the models' device if the graph fits there on each of them.
    All processes must call this, outside of `World.together`.

    Args:
        needs: the memory of the training, for each process.
        device: the device of the model.
        world: the processes; those on a machine share its memory, and a mapped graph.

    Raises:
        UnusableEnvironmentError: the training does not fit; the message says what is needed and
            what is free.
        PeerError: the training does not fit on another process.
    """
    with world.together():
        free = _check_memory(needs, device, world)
    if device.type != "cuda":
        return device
    if not needs.graph_is_mapped:
        return torch.device("cpu")  # DGL samples there
    # After `together`, either all processes reach this sum or none, so that none waits forever.
    missing, free_of = [0.0] * world.size, [0.0] * world.size
    missing[world.rank] = needs.model + needs.step + needs.graph - _FREE_SHARE * free
    free_of[world.rank] = free
    both = world.sum([*missing, *free_of])
    missing, free_of = both[: world.size], both[world.size :]
    if max(missing) <= 0:
        return device
    if world.is_first:
        rank = missing.index(max(missing))
        where = str(device) if world.size == 1 else f"the GPU of rank {rank}"
        free = int(free_of[rank])
        log(
            f"the graph takes {gib(needs.graph)} and {gib(free)} are free on {where}: it stays in "
            "the host's memory, and batches are made there"
        )
    return torch.device("cpu")


def _check_memory(needs: Footprint, device: torch.device, world: World) -> int:
    """The free memory, in bytes, of this process's device.

    Raises:
        UnusableEnvironmentError: the training does not fit in memory.
    """
    here, says = world.local_size, world.local_rank == 0
    # DGL's graph is in the host's memory on any device, once for each process.
    host_graph = 0 if needs.graph_is_mapped else here * needs.graph
    if device.type != "cuda":
        free = available_memory()
        _check_fits(here * needs.model, here * needs.step, host_graph, free, "of memory")
        if says and here * (needs.model + needs.step) + needs.graph > free:
            log(
                f"the graph takes {gib(needs.graph)} and {gib(free)} of memory are free: it is "
                "read from disk over and over, which is slow"
            )
        return free
    free = int(torch.cuda.mem_get_info(device)[0])
    _check_fits(needs.model, needs.step, 0, free, f"on {device}")
    if host_graph:
        _check_fits(0, 0, host_graph, available_memory(), "of the host's memory")
    return free


def _check_fits(model: int, step: int, graph: int, free: int, where: str) -> None:
    if model + step + graph <= free:
        return
    parts = {"graph": graph, "model": model, "a step": step}
    named = ", ".join(f"{name} {gib(size)}" for name, size in parts.items() if size)
    mends = ["a smaller loader.batch_size"] if step else []
    if model > step:
        mends.insert(0, "a smaller model.embedding_size and model.list_size")
    mends += ["loader.kind=users"] if graph else []
    raise UnusableEnvironmentError(
        f"training needs about {gib(model + step + graph)} ({named}) and {gib(free)} are free "
        f"{where}; try {', or '.join(mends)}"
    )
