"""GraphSAINT's draws: the nodes that a draw meets, and the probabilities of meeting them.

Users and items are numbered together: users 0..U-1, items from U on. Nodes without a training
rating are never met.
"""

from typing import Protocol

import torch
from torch import Tensor

from dglrec.graph import EdgeTensors, RatingGraph
from dglrec.sampling.config import LoaderConfig, seed_of
from dglrec.sampling.tensors import sum_neighbours, take

_WALKS_AT_ONCE = 1 << 17


class Meetings(Protocol):
    """Independent draws of nodes.

    Attributes:
        nodes: float64 [U + I]; the probability that a draw meets each node.
    """

    nodes: Tensor

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """int64 [n]: the nodes that `count` draws meet; a node may come several times.

        Args:
            count: how many draws.
            generator: on the CPU.
        """

    def of_edges(self, ids: Tensor, users: Tensor, items: Tensor) -> Tensor:
        """float64 [K]: how likely a draw meets both ends of each of K ratings; int64 [K] each."""


def meetings_of(
    graph: RatingGraph, config: LoaderConfig, seed: int, device: torch.device
) -> Meetings:
    """The draws of a configuration.

    Args:
        graph: the training ratings.
        config: with the kind of draw.
        seed: of the walks by which probabilities are estimated.
        device: of the ratings and the probabilities.
    """
    sides = _Sides(*graph.on(device))
    if config.draws == "node":
        return NodeMeetings(sides)
    if config.draws == "edge":
        return EdgeMeetings(sides)
    walks = -(-config.walk_coverage * sides.num_rated // (config.walk_length + 1))
    generator = torch.Generator().manual_seed(seed_of("walks", seed))
    return WalkMeetings(sides, config.walk_length, walks, generator)


class _Sides:
    """All ratings seen from both sides, as one graph.

    Args:
        by_user: each user's ratings.
        by_item: each item's.
    """

    def __init__(self, by_user: EdgeTensors, by_item: EdgeTensors) -> None:
        self.by_user, self.by_item = by_user, by_item
        self.num_users, self.num_items = len(by_user.counts), len(by_item.counts)
        self.counts = torch.cat((by_user.counts, by_item.counts))
        self.rated = self.counts.nonzero().squeeze(1)
        self.num_rated = len(self.rated)

    def sums(self, values: Tensor) -> Tensor:
        """[U + I]: the sum of each node's neighbours' values, which are float64 [U + I]."""
        of_users, of_items = values.split((self.num_users, self.num_items))
        return torch.cat(
            (sum_neighbours(self.by_user, of_items), sum_neighbours(self.by_item, of_users))
        )

    def neighbours(self, nodes: Tensor, chances: Tensor) -> Tensor:
        """int64 [n]: a neighbour of each of n rated nodes.

        Args:
            nodes: int64 [n].
            chances: float64 [n] from 0 to 1; decide which neighbour.
        """
        found = torch.empty_like(nodes)
        is_user = nodes < self.num_users
        for here, lists, own, other in (
            (is_user, self.by_user, 0, self.num_users),
            (~is_user, self.by_item, self.num_users, 0),
        ):
            some = nodes[here] - own
            counts = take(lists.counts, some)
            steps = (chances[here] * counts).long().clamp_(max=counts - 1)
            edges = take(lists.starts, some) + steps
            found[here] = take(lists.neighbours, edges).long() + other
        return found

    def rated_nodes(self, count: int, generator: torch.Generator) -> Tensor:
        """int64 [count] rated nodes, drawn uniformly."""
        places = torch.randint(self.num_rated, (count,), generator=generator)
        return take(self.rated, places.to(self.rated.device))

    def draw_neighbours(self, nodes: Tensor, generator: torch.Generator) -> Tensor:
        """int64 [n]: a neighbour of each of n rated nodes, drawn uniformly."""
        chances = torch.rand(len(nodes), generator=generator, dtype=torch.float64)
        return self.neighbours(nodes, chances.to(nodes.device))


class NodeMeetings:
    """A draw is a node, in proportion to the squared weights of its messages (section 3.4).

    A node's message to a neighbour of degree d weighs 1 / d, so P_v is in proportion to the sum of
    1 / d^2 over v's neighbours.
    """

    def __init__(self, sides: _Sides) -> None:
        inverse = sides.counts.clamp(min=1).double().reciprocal()
        weights = sides.sums(inverse.square())
        self.nodes = weights / weights.sum()
        self._until = self.nodes.cumsum(0).cpu()
        self._last = int(sides.rated[-1])

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """int64 [count] nodes."""
        chances = torch.rand(count, generator=generator, dtype=torch.float64) * self._until[-1]
        return torch.searchsorted(self._until, chances, right=True).clamp_(max=self._last)

    def of_edges(self, ids: Tensor, users: Tensor, items: Tensor) -> Tensor:
        """float64 [K] zeros: no draw meets two nodes."""
        return self.nodes.new_zeros(len(ids))


class EdgeMeetings:
    """A draw is a rating, in proportion to 1 / d_u + 1 / d_v of its ends (theorem 3.2).

    That is the same as drawing a node uniformly, and then one of its ratings uniformly.
    """

    def __init__(self, sides: _Sides) -> None:
        self._sides = sides
        self._inverse = sides.counts.clamp(min=1).double().reciprocal()
        self.nodes = ((sides.counts > 0) + sides.sums(self._inverse)) / sides.num_rated

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """int64 [2 count] nodes, both ends of each rating."""
        nodes = self._sides.rated_nodes(count, generator)
        return torch.cat((nodes, self._sides.draw_neighbours(nodes, generator)))

    def of_edges(self, ids: Tensor, users: Tensor, items: Tensor) -> Tensor:
        """float64 [K]: the probability of drawing each rating."""
        of_users = take(self._inverse, users)
        of_items = take(self._inverse, items + self._sides.num_users)
        return (of_users + of_items) / self._sides.num_rated


class WalkMeetings:
    """A draw is a walk of some hops from a node, which is drawn uniformly.

    Probabilities are estimated from walks taken beforehand, as in the paper, and raised to their
    known lower bounds: a walk starts at a given node with probability 1 / N, and its first hop is a
    given rating with probability (1 / d_u + 1 / d_v) / N.

    Args:
        sides: the ratings.
        length: hops of a walk.
        walks: how many walks to estimate from.
        generator: on the CPU.
    """

    def __init__(self, sides: _Sides, length: int, walks: int, generator: torch.Generator) -> None:
        self._sides, self._length = sides, length
        num_edges = len(sides.by_user.neighbours)
        nodes = torch.zeros(len(sides.counts), dtype=torch.int64, device=sides.counts.device)
        edges = torch.zeros(num_edges, dtype=torch.int64, device=sides.counts.device)
        owners = torch.arange(sides.num_users, device=nodes.device).repeat_interleave(
            sides.by_user.counts, output_size=num_edges
        )
        # Ascending, as edges are numbered by user and, within a user, by item.
        keys = owners * sides.num_items + sides.by_user.neighbours
        for first in range(0, walks, _WALKS_AT_ONCE):
            met = self._walk(min(_WALKS_AT_ONCE, walks - first), generator)
            nodes += _counts_of(met, len(nodes))
            edges += _counts_of(self._edges_between(met, keys), num_edges + 1)[:-1]
        least = (sides.counts > 0) / float(sides.num_rated)
        self.nodes = torch.maximum(nodes.double() / walks, least)
        self._edges = (edges.double() / walks).float()

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """int64 [count (length + 1)] nodes."""
        return self._walk(count, generator).flatten()

    def of_edges(self, ids: Tensor, users: Tensor, items: Tensor) -> Tensor:
        """float64 [K]: the probability that a walk meets both ends, by any hops between them."""
        sides = self._sides
        of_users = take(self.nodes, users)
        of_items = take(self.nodes, items + sides.num_users)
        of_counts = (
            take(sides.counts, users).double().reciprocal()
            + take(sides.counts, items + sides.num_users).double().reciprocal()
        )
        found = torch.maximum(take(self._edges, ids).double(), of_counts / sides.num_rated)
        return torch.minimum(found, torch.minimum(of_users, of_items))

    def _walk(self, count: int, generator: torch.Generator) -> Tensor:
        """int64 [count, length + 1] nodes, in their order."""
        met = [self._sides.rated_nodes(count, generator)]
        for _ in range(self._length):
            met.append(self._sides.draw_neighbours(met[-1], generator))
        return torch.stack(met, dim=1)

    def _edges_between(self, met: Tensor, keys: Tensor) -> Tensor:
        """int64 [n, pairs]: ids of ratings between the nodes of n walks; E where there is none.

        Args:
            met: int64 [n, length + 1].
            keys: int64 [E] user * I + item of each rating, ascending.
        """
        found, sides = [], self._sides
        for first in range(self._length + 1):
            for last in range(first + 1, self._length + 1, 2):
                ends = torch.stack((met[:, first], met[:, last]))
                users, items = ends.amin(0), ends.amax(0) - sides.num_users
                wanted = users * sides.num_items + items
                places = torch.searchsorted(keys, wanted)
                there = take(keys, places.clamp(max=len(keys) - 1)) == wanted
                found.append(torch.where(there, places, len(keys)))
        return torch.stack(found, dim=1)


def _counts_of(met: Tensor, count: int) -> Tensor:
    """int64 [count]: how many rows of int64 [n, m], all below `count`, contain each number."""
    ascending = met.sort(dim=1).values
    fresh = torch.ones_like(ascending, dtype=torch.bool)
    fresh[:, 1:] = ascending[:, 1:] != ascending[:, :-1]
    return torch.bincount(ascending[fresh], minlength=count)
