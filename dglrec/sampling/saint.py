"""GraphSAINT: a step reads the ratings between users and items that random draws have met.

Zeng et al., "GraphSAINT: graph sampling based inductive learning method", ICLR 2020, over the
bipartite graph of the training ratings: algorithm 1 for the steps, section 3.4 for the samplers,
section 3.2 for the normalisations of messages and loss.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from dglrec.graph import RatingGraph
from dglrec.relations import Direction
from dglrec.sampling.config import seed_of
from dglrec.sampling.meetings import Meetings, meetings_of
from dglrec.sampling.subgraphs import Edges, Shares, Subgraph, SubgraphLoader
from dglrec.sampling.tensors import take

_MOST_OF_GRAPH = 0.9  # share of the ratings; to meet all of them would take draws without end
_ENOUGH = 1 << 62  # draws


class SaintLoader(SubgraphLoader):
    """Steps of the nodes that n independent draws meet, and of all ratings between these.

    A draw is a node, a rating with both of its ends, or a walk (`Meetings`). With P_v the
    probability that a draw meets node v, and P_e that it meets both ends of rating e = (u, v), a
    step has

        v with p_v = 1 - (1 - P_v)^n
        e with p_e = 1 - (1 - P_u)^n - (1 - P_v)^n + (1 - P_u - P_v + P_e)^n

    So a message along e stands for p_v / p_e of v's messages in the whole graph (proposition 3.1),
    and e as a target for 1 / p_e ratings. n is chosen so that a step has about `batch_size`
    targets.

    Args:
        graph: the training ratings.
        biases: fitted to them.
        config: batch size, folds, and the kind of draw.
        seed: with the epoch, it decides draws and folds.
        device: where graph and batches live.
        world: the processes that share each step.
        layers: how many the model has.

    Attributes:
        draws: n.
    """

    def _set_up(self, graph: RatingGraph, directions: Sequence[Direction]) -> None:
        super()._set_up(graph, directions)
        self._meetings: Meetings = meetings_of(graph, self.config, self.seed, self.device)
        wanted = min(self.batch_size * self._folds / self._num_edges, _MOST_OF_GRAPH)
        self.draws = self._draws_for(wanted * self._num_edges)

    def _subgraphs(self, epoch: int, number_of_fold: int, first: int) -> Iterator[Subgraph]:
        steps = self._steps_a_pass()
        for number in range(number_of_fold * steps + first, (number_of_fold + 1) * steps):
            generator = torch.Generator().manual_seed(seed_of("samples", self.seed, epoch, number))
            nodes = torch.unique(self._meetings.draw(self.draws, generator).to(self.device))
            yield self._subgraph(nodes)

    def _shares(self, step: Subgraph, edges: Edges) -> Shares:
        users, items = take(step.users, edges.users), take(step.items, edges.items)
        of_users, of_items, of_edges = self._chances(edges.ids, users, items, self.draws)
        steps = self._steps_a_pass()
        return Shares(
            (of_users / of_edges).float(),
            (of_items / of_edges).float(),
            (1 / (steps * of_edges)).float(),
        )

    def _chances(
        self, ids: Tensor, users: Tensor, items: Tensor, draws: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """float64 [K] each: probabilities that a step has the users, items and ratings of K edges.

        Args:
            ids: int64 [K] edge ids.
            users: int64 [K].
            items: int64 [K].
            draws: n.
        """
        of_users = take(self._meetings.nodes, users)
        of_items = take(self._meetings.nodes, items + self._num_users)
        both = self._meetings.of_edges(ids, users, items)
        neither = torch.exp(draws * torch.log1p(-(of_users + of_items - both)))
        no_user, no_item = (torch.exp(draws * torch.log1p(-one)) for one in (of_users, of_items))
        return 1 - no_user, 1 - no_item, 1 - no_user - no_item + neither

    def _draws_for(self, edges: float) -> int:
        """How many draws give `edges` ratings between their nodes, in expectation.

        Args:
            edges: less than E.
        """

        def expected(draws: int) -> float:
            total = 0.0
            for stretch, users, items in self._stretches():
                ids = torch.arange(stretch.start, stretch.stop, device=self.device)
                total += float(self._chances(ids, users, items.long(), draws)[2].sum())
            return total

        low, high = 0, 1
        while high < _ENOUGH and expected(high) < edges:
            low, high = high, 2 * high
        while high - low > max(low // 256, 1):
            middle = (low + high) // 2
            low, high = (middle, high) if expected(middle) < edges else (low, middle)
        return high
