"""How much memory a training takes, and whether it is there, before it starts."""

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

# Found by watching the resident memory of training at full size, for both loaders; what they
# predict was 0.9 to 1.6 times what was seen. An edge of a step is an id, an owner, an item, a hash
# and masks; a message is a neighbour, a residual and their temporaries; a node of a layer is its
# value, those of its messages and of its maps, and the gradients of all of them.
_STEP_EDGE_BYTES = 100
_WHOLE_EDGE_BYTES = (
    80  # of a step of the whole graph: both ends, residuals, what leaves targets out
)
_MESSAGE_BYTES, _DGL_MESSAGE_BYTES = 16, 32
_SAMPLE_BYTES = 28  # of each place in nodes x fan-out, filled or not
_VALUES_A_NODE, _VALUES_OF_RATED = 5, 5
_TABLE_BYTES = 40  # of each user and item there is: what importance is added up in, and drawn from
_VALUES_OF_LSTM = 16  # of a neighbour that it reads: gates, states, and gradients of them
_VALUES_OF_FILTERS, _COPIES_OF_SIGNALS = 6, 3  # of a user at an item, for each feature
# DGL keeps both relations as int64, builds more beside them, and shuffles all edge ids.
_DGL_EDGE_BYTES = 110
_COPIES_OF_WEIGHTS = 5  # with gradient, two moments, and what a checkpoint is written from
_FREE_SHARE = 0.9  # what others on a GPU, and torch's own cache, leave


@dataclass(frozen=True)
class Footprint:
    """Bytes of memory that a training takes of each process, about.

    Attributes:
        graph: adjacency and ratings.
        model: weights, gradients, moments, features, and a table of related negatives.
        step: the largest that is alive during a step.
        graph_is_mapped: whether the graph can be read from disk piece by piece.
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
    """What training on a graph takes of each process.

    Args:
        graph: the training ratings.
        model: wherever it is.
        settings: resolved ones.
        world: the processes that share each batch.
        directions: of the relations that the model reads.
    """
    sides = (graph.by_user, graph.by_item)
    mapped = sum(s.neighbours.nbytes + s.codes.nbytes + s.offsets.nbytes for s in sides)
    mapped += sum(one.nbytes for one in directions)
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
    """Memory of the items that users are somewhat related to; see `RelatedSampler`."""
    ranking = settings.ranking
    if settings.model.heads == "rating" or not ranking.related_negatives:
        return 0
    first, last = ranking.related_places
    return 4 * graph.num_users * max(1, min(last, graph.num_items) - first + 1)


def _step_bytes(
    graph: RatingGraph, settings: Settings, processes: int, directions: Sequence[Direction]
) -> int:
    """Memory of a step: its edges, and layer by layer outwards its nodes and messages."""
    loader = settings.loader
    if loader.kind == "full":
        return _whole_graph_bytes(graph, settings)
    if loader.kind == "cluster":
        # Clusters have about as many ends of ratings each; at most so many are within.
        share = 1 / loader.steps_a_pass(graph.num_edges)
        nodes = share * (graph.num_users + graph.num_items)
        return _subgraph_bytes(settings, nodes, share * graph.num_edges)
    if loader.kind == "saint":
        # At most: which nodes are met is known once chances are.
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
    # The ridge regression of each user that a layer makes keeps a float64 square.
    square = 8 * settings.model.ridge_width**2
    refines_all, squares = settings.model.refines(last=False), square * users
    # For a trend in time it has a row for each rating, and the gradient of that.
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
        for one in directions:
            readers = users if one.destination_type == USER_TYPE else items
            degree, most_read = one.edges.num_edges / one.edges.num_nodes, loader.relation_fanout
            told = readers * (degree if most_read < 0 else min(most_read, degree))
            messages += told
            sampled += readers * max(most_read, 0)
            of_users += told if one.source_type == USER_TYPE else 0
            of_items += told if one.source_type == ITEM_TYPE else 0
        users = min(users + to_items + of_users, graph.num_users)
        items = min(items + to_users + of_items, graph.num_items)
        nodes += users + items
        squares += square * users if refines_all and number else 0
    values = _VALUES_A_NODE + (_VALUES_OF_RATED if settings.model.rating_messages else 0)
    row = 4 * settings.model.embedding_size * values
    message = _MESSAGE_BYTES if loader.kind == "users" else _DGL_MESSAGE_BYTES
    # Each thread sums the regressor's gradients into tables of its own.
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
    """How many of some nodes' edges an LSTM reads; none where there is none."""
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
    # What an edge weighs for each head: GATv2 keeps it of all layers and both sides until it has
    # gone back, GAT makes it again for one at a time, and both make gradients of that size.
    per_head = 4 * settings.model.attention_heads * graph.num_edges
    kept = {"gat": 1, "gatv2": 2 * layers + 1}.get(settings.model.convolution, 0)
    edges = _WHOLE_EDGE_BYTES * graph.num_edges + per_head * kept
    return int(edges + row * nodes * (layers + 1) + of_lstm * layers)


def _subgraph_bytes(settings: Settings, nodes: float, edges: float) -> int:
    """Memory of a step that reads one subgraph in all layers.

    Args:
        settings: resolved ones.
        nodes: of a step.
        edges: of its users, whether or not they end in the subgraph.
    """
    model = settings.model
    values = _VALUES_A_NODE + (_VALUES_OF_RATED if model.rating_messages else 0)
    row = 4 * model.embedding_size * values * (model.layers + 1)
    return int(2 * _STEP_EDGE_BYTES * edges + (row + 8 * model.ridge_width**2) * nodes)


def _layerwise_bytes(graph: RatingGraph, settings: Settings, processes: int) -> int:
    """Memory of a step whose layers have their destinations and a number of drawn nodes each.

    Of the ratings between a layer's destinations and its sources there are at most those of so many
    nodes of either side that have the most.
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
            min(own + -(-size // processes), count)
            for own, size, count in zip((users, items), loader.layer_sizes, counts, strict=True)
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
    """int64 [N + 1]: how many edges n nodes have at most, n from 0 to all."""
    descending = np.sort(side.degrees)[::-1]
    return np.concatenate(([0], np.cumsum(descending, dtype=np.int64)))


def _signal_bytes(graph: RatingGraph, settings: Settings, processes: int) -> int:
    """Memory of graph filters: of each of a step's users some values at each item.

    A layer has the values that it reads and makes, before and behind ReLU, those of a tap and their
    gradients. Beside them are the users and the items of a step and, after an epoch,
    of all users.
    """
    loader, model = settings.loader, settings.model
    user_degree = max(1.0, graph.num_edges / graph.num_users)
    edges = loader.edges_a_batch(graph.num_edges) * int(loader.folds) / processes
    users = min(edges / user_degree, graph.num_users)
    values = sum(model.filter_taps + _VALUES_OF_FILTERS * width for width in model.filter_features)
    nodes = graph.num_users + graph.num_items
    return int(4 * graph.num_items * (values * users + _COPIES_OF_SIGNALS * nodes))


def place_graph(needs: Footprint, device: torch.device, world: World = ALONE) -> torch.device:
    """Where the graph that is sampled from is to live; says so where that is not with the model.

    The same for all processes: with their models where it fits beside each of them. All of them
    call this, outside of `World.together`.

    Args:
        needs: what the training takes of each process.
        device: where it computes.
        world: the processes; those on one machine share its memory, and one mapped graph.

    Raises:
        UnusableEnvironmentError: it does not fit; the message says what is needed and what is free.
        PeerError: it does not fit on another process.
    """
    with world.together():
        free = _check_memory(needs, device, world)
    if device.type != "cuda":
        return device
    if not needs.graph_is_mapped:
        return torch.device("cpu")  # DGL samples there
    # Behind `together` all processes come here or none: none waits for figures that never come.
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
    """Bytes that are free where this process computes.

    Raises:
        UnusableEnvironmentError: what has to be in memory does not fit.
    """
    here, says = world.local_size, world.local_rank == 0
    # DGL's, on the host in any case, and each process's own
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
