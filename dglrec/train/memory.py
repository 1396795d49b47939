"""How much memory a training takes, and whether it is there, before it starts."""

from dataclasses import dataclass

import torch

from dglrec.errors import UnusableEnvironmentError
from dglrec.graph import RatingGraph
from dglrec.machine import available_memory, gib
from dglrec.nn import RatingModel
from dglrec.progress import log
from dglrec.train.config import Settings

# Found by watching the resident memory of training at full size, for both loaders; what they
# predict was 0.9 to 1.6 times what was seen. An edge of a step is an id, an owner, an item, a hash
# and masks; a message is a neighbour, a residual and their temporaries; a node of a layer is its
# value, those of its messages and of its maps, and the gradients of all of them.
_STEP_EDGE_BYTES = 100
_MESSAGE_BYTES, _DGL_MESSAGE_BYTES = 16, 32
_VALUES_A_NODE, _VALUES_OF_RATED = 5, 5
# DGL keeps both relations as int64, builds more beside them, and shuffles all edge ids.
_DGL_EDGE_BYTES = 110
_COPIES_OF_WEIGHTS = 5  # with gradient, two moments, and what a checkpoint is written from
_FREE_SHARE = 0.9  # what others on a GPU, and torch's own cache, leave


@dataclass(frozen=True)
class Footprint:
    """Bytes of memory that a training takes, about.

    Attributes:
        graph: adjacency and ratings.
        model: weights, gradients, moments, item features.
        step: the largest that is alive during a step.
        graph_is_mapped: whether the graph can be read from disk piece by piece.
    """

    graph: int
    model: int
    step: int
    graph_is_mapped: bool

    def __str__(self) -> str:
        parts = f"graph {gib(self.graph)}, model {gib(self.model)}, a step {gib(self.step)}"
        return f"about {gib(self.graph + self.model + self.step)} ({parts})"


def footprint(graph: RatingGraph, model: RatingModel, settings: Settings) -> Footprint:
    """What training on a graph takes.

    Args:
        graph: the training ratings.
        model: wherever it is.
        settings: resolved ones.
    """
    sides = (graph.by_user, graph.by_item)
    mapped = sum(s.neighbours.nbytes + s.codes.nbytes + s.offsets.nbytes for s in sides)
    weights = sum(parameter.nbytes for parameter in model.parameters())
    features = model.inputs.features.nbytes
    by_users = settings.loader.kind == "users"
    return Footprint(
        graph=mapped if by_users else mapped + _DGL_EDGE_BYTES * graph.num_edges,
        model=_COPIES_OF_WEIGHTS * weights + features,
        step=_step_bytes(graph, settings),
        graph_is_mapped=by_users,
    )


def _step_bytes(graph: RatingGraph, settings: Settings) -> int:
    """Memory of a step: its edges, and layer by layer outwards its nodes and messages."""
    loader = settings.loader
    edges = loader.edges_a_batch(graph.num_edges)
    user_degree = max(1.0, graph.num_edges / graph.num_users)
    item_degree = max(1.0, graph.num_edges / graph.num_items)
    users, items = float(min(edges, graph.num_users)), float(min(edges, graph.num_items))
    if loader.kind == "users":
        edges = min(edges * loader.folds, graph.num_edges)
        users, items = min(edges / user_degree, graph.num_users), float(graph.num_items)
    messages = nodes = 0.0
    for of_user, of_item in reversed(
        list(zip(loader.user_fanouts, loader.item_fanouts, strict=True))
    ):
        to_users = users * (user_degree if of_user < 0 else min(of_user, user_degree))
        to_items = items * (item_degree if of_item < 0 else min(of_item, item_degree))
        messages += to_users + to_items
        users = min(users + to_items, graph.num_users)
        items = min(items + to_users, graph.num_items)
        nodes += users + items
    values = _VALUES_A_NODE + (_VALUES_OF_RATED if settings.model.rating_messages else 0)
    row = 4 * settings.model.embedding_size * values
    message = _MESSAGE_BYTES if loader.kind == "users" else _DGL_MESSAGE_BYTES
    return int(_STEP_EDGE_BYTES * edges + message * messages + row * nodes)


def place_graph(needs: Footprint, device: torch.device) -> torch.device:
    """Where the graph that is sampled from is to live; says so where that is not with the model.

    Args:
        needs: what the training takes.
        device: where it computes.

    Raises:
        UnusableEnvironmentError: it does not fit; the message says what is needed and what is free.
    """
    on_gpu = device.type == "cuda"
    free = int(torch.cuda.mem_get_info(device)[0]) if on_gpu else available_memory()
    least = needs.model + needs.step
    if not on_gpu and not needs.graph_is_mapped:
        least += needs.graph
    if least > free:
        where = f"on {device}" if on_gpu else "of memory"
        raise UnusableEnvironmentError(
            f"training needs {needs} and {gib(free)} are free {where}; try a smaller "
            "loader.batch_size" + ("" if needs.graph_is_mapped else ", or loader.kind=users")
        )
    if not on_gpu:
        if least + needs.graph > free:
            log(
                f"the graph takes {gib(needs.graph)} and {gib(free)} of memory are free: it is "
                "read from disk over and over, which is slow"
            )
        return device
    if needs.graph_is_mapped and least + needs.graph <= _FREE_SHARE * free:
        return device
    if needs.graph_is_mapped:
        log(
            f"the graph takes {gib(needs.graph)} and {gib(free)} are free on {device}: it stays "
            "in the host's memory, and batches are made there"
        )
    return torch.device("cpu")
