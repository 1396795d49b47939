"""The list head: from a user's and an item's embedding to the item's score in the user's list."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from dglrec.blocks import Block
from dglrec.kernels import runs_compiled, score_edges
from dglrec.nn.aggregation import aggregate
from dglrec.nn.config import ModelConfig
from dglrec.nn.decay import TimeDecay, mean_of

_IDENTITY_STD = 0.05
_DEGREE = 1  # the column of `Biases.inputs` that holds log(1 + degree)


class ListTerms(NamedTuple):
    """The list head's terms of each node of one type, which do not depend on the other node.

    Attributes:
        factors: [N, F]; the score of a pair is the dot product of both sides' factors, plus `base`.
        base: [N]; the popularity of items, and zeros for users.
    """

    factors: Tensor
    base: Tensor

    def of(self, nodes: Tensor) -> "ListTerms":
        """The terms of some nodes, int64 [n]."""
        return ListTerms(self.factors.index_select(0, nodes), self.base.index_select(0, nodes))


class ListRows(NamedTuple):
    """The vectors of items that a batch reads, by row; None for a kind that the head does not have.

    Attributes:
        rated: [S, F]; p, of the items that users have rated.
        weighed: [S, F]; q, of the same items.
        own: [D, F]; y, of the items that are listed.
    """

    rated: Tensor | None
    weighed: Tensor | None
    own: Tensor | None


class ListHead(nn.Module):
    """Scores pairs for lists: z_u . v_i + b_i.

    With h the encoder's embeddings, S_u the user's rated items other than the targets, n their
    number and e_uj a rating's residual over the biases,

        z_u = A h_u + n^-1/2 sum over j in S_u of (p_j + e_uj q_j)
        v_i = B h_i + y_i,   b_i = c . h_i + d log(1 + degree_i)

    The sum over vectors p_j of the items is a factored item-item model (Kabbur, Ning and Karypis,
    "FISM: factored item similarity models for top-N recommender systems", KDD 2013, equation 6),
    or the encoder of a linear autoencoder without a hidden activation; the sum over vectors q_j
    weighs them by the ratings, as in Koren's asymmetric SVD ("Factorization meets the
    neighborhood", KDD 2008, equation 12). Users stay inductive: a user is defined by its ratings.

    Where older ratings weigh less, n^-1/2 times the sums becomes n^1/2 times weighted means, with n
    the equivalent number of equally weighted ratings.

    Without maps, z and v are the embeddings, and b is 0.

    Args:
        config: the model's.
        num_items: I.
    """

    rated: nn.Embedding | None
    weighed: nn.Embedding | None
    item_vectors: nn.Embedding | None

    def __init__(self, config: ModelConfig, num_items: int) -> None:
        super().__init__()
        size, width = config.encoded_size, config.list_width(num_items)
        self.maps, self.reads_items = config.list_maps, config.list_maps and config.layers > 0
        self.width = width if self.maps else size
        if not self.maps:
            self.rated = self.weighed = self.item_vectors = None
            self.decay = None
            return
        self.from_user = nn.Linear(size, width, bias=False)
        self.from_item = nn.Linear(size, width, bias=False)
        self.base = nn.Linear(size, 1, bias=False)
        self.popularity = nn.Parameter(torch.ones(()))
        self.rated = _table(num_items, width) if self.reads_items else None
        weighed = self.reads_items and config.rating_messages
        self.weighed = _table(num_items, width) if weighed else None
        self.item_vectors = _table(num_items, width) if config.item_identity else None
        self.decay = TimeDecay() if config.time_decay and self.reads_items else None
        with torch.no_grad():
            # So that lists start as a ranking by popularity.
            self.base.weight.zero_()

    def tables(self) -> list[nn.Embedding]:
        """The head's tables of item vectors."""
        tables = (self.rated, self.weighed, self.item_vectors)
        return [table for table in tables if table is not None]

    def every_row(self) -> ListRows:
        """The vectors of all items, in their order."""
        tables = (self.rated, self.weighed, self.item_vectors)
        return ListRows(*(None if table is None else table.weight for table in tables))

    def rows(self, sources: Tensor, listed: Tensor) -> ListRows:
        """The vectors of some items.

        Args:
            sources: int64 [S]; items that users have rated, each once.
            listed: int64 [D]; items that are listed, each once.
        """
        tables = ((self.rated, sources), (self.weighed, sources), (self.item_vectors, listed))
        return ListRows(*(None if table is None else table(items) for table, items in tables))

    def of_users(self, users: Tensor, block: Block | None, rows: ListRows) -> ListTerms:
        """The terms of users.

        Args:
            users: [n, H] embeddings.
            block: the last layer's edges of these users; None for a model without layers.
            rows: the vectors of the block's sources.
        """
        factors: Tensor = self.from_user(users) if self.maps else users
        if rows.rated is not None and block is not None:
            factors = factors + self._profiles(block, rows.rated, rows.weighed)
        return ListTerms(factors, factors.new_zeros(len(factors)))

    def _profiles(self, block: Block, rated: Tensor, weighed: Tensor | None) -> Tensor:
        """[S, F] p and q of a block's sources -> [n, F] sums over the items that users rated."""
        decay = None if self.decay is None else self.decay(block)
        if decay is None:
            summed = aggregate(block, rated, "sum")
            counts = block.counts.clamp(min=1).to(summed.dtype)
            if weighed is not None:
                summed = summed + aggregate(block, weighed, "sum", block.residuals)
            return summed * counts.rsqrt().unsqueeze(1)
        mean = mean_of(block, rated, decay)
        if weighed is not None:
            mean = mean + mean_of(block, weighed, decay, block.residuals)
        counts = block.counts.clamp(min=1).to(mean.dtype)
        profiles: Tensor = mean * (counts * decay.effective).sqrt().unsqueeze(1)
        return profiles

    def without_each(
        self, users: Tensor, block: Block, owners: Tensor, shifts: Tensor
    ) -> ListTerms:
        """The terms of users without one of their ratings, for each of K ratings.

        Args:
            users: [K, H]; the embedding of each rating's user without that rating.
            block: the K ratings; its sources are all items.
            owners: int64 [K]; each rating's user.
            shifts: [K]; by how much the residuals of the user's other ratings fall without it.
        """
        factors: Tensor = self.from_user(users) if self.maps else users
        if self.rated is not None:
            plain = self.rated.weight
            summed = aggregate(block, plain, "sum")[owners] - plain[block.neighbours]
            if self.weighed is not None:
                rows = self.weighed.weight
                of_edges = rows[block.neighbours]
                others = aggregate(block, rows, "sum")[owners] - of_edges
                summed = summed + aggregate(block, rows, "sum", block.residuals)[owners]
                summed -= block.residuals.unsqueeze(1) * of_edges + shifts.unsqueeze(1) * others
            left = (block.degrees[owners] - 1).clamp(min=1)
            factors = factors + summed * left.rsqrt().unsqueeze(1)
        return ListTerms(factors, factors.new_zeros(len(factors)))

    def of_items(self, items: Tensor, inputs: Tensor, own: Tensor | None) -> ListTerms:
        """The terms of items.

        Args:
            items: [m, H] embeddings.
            inputs: float32 [m, 3]; the items' `Biases.inputs`.
            own: [m, F]; the items' vectors y; None without these, as for items that training never
                saw.
        """
        if not self.maps:
            return ListTerms(items, items.new_zeros(len(items)))
        factors: Tensor = self.from_item(items)
        if own is not None:
            factors = factors + own
        base = self.base(items).squeeze(1) + self.popularity * inputs[:, _DEGREE]
        return ListTerms(factors, base)


_MANY = 1 << 24  # with more numbers in the rows of all pairs, these rows are not written out


def score_lists(of_users: ListTerms, of_items: ListTerms, users: Tensor, items: Tensor) -> Tensor:
    """Scores of B pairs of rows, [B]."""
    factors = of_users.factors, of_items.factors
    if len(users) * factors[0].shape[1] > _MANY and runs_compiled(factors[0]):
        none = factors[0][:, :0], factors[1][:, :0]
        products = score_edges(users, items, none, factors[0].new_empty(0), factors)
        return products + of_items.base.index_select(0, items)
    products = of_users.factors.index_select(0, users) * of_items.factors.index_select(0, items)
    return products.sum(1) + of_items.base.index_select(0, items)


def _table(count: int, width: int) -> nn.Embedding:
    table = nn.Embedding(count, width)
    nn.init.normal_(table.weight, std=_IDENTITY_STD)
    return table
