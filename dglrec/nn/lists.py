"""The list head: a user's and an item's embedding -> the item's place in the user's list."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from dglrec.blocks import Block
from dglrec.nn.config import ModelConfig
from dglrec.nn.convolutions import aggregate

_IDENTITY_STD = 0.05
_DEGREE = 1  # the column of `Biases.inputs` that holds log(1 + degree)


class ListTerms(NamedTuple):
    """What the list head makes of each node of one type, whatever it is paired with.

    Attributes:
        factors: [N, F]; the score of a pair is the dot product of both sides' factors, plus `base`.
        base: [N]; of items how popular they are, of users zeros.
    """

    factors: Tensor
    base: Tensor

    def of(self, nodes: Tensor) -> "ListTerms":
        """Those of some nodes, int64 [n]."""
        return ListTerms(self.factors.index_select(0, nodes), self.base.index_select(0, nodes))


class ListHead(nn.Module):
    """Scores pairs for lists: z_u . v_i + b_i.

    With h the encoder's embeddings, S_u the user's rated items other than the targets, n their
    number and e_uj what biases leave of a rating,

        z_u = A h_u + n^-1/2 sum over j in S_u of (p_j + e_uj q_j)
        v_i = B h_i + y_i,   b_i = c . h_i + d log(1 + degree_i)

    The sum over vectors p_j of the items is a factored item-item model (Kabbur, Ning and Karypis,
    "FISM: factored item similarity models for top-N recommender systems", KDD 2013, equation 6),
    or the encoder of a linear autoencoder without a hidden activation; the second one weighs them
    by how they were rated, as in Koren's asymmetric SVD ("Factorization meets the neighborhood",
    KDD 2008, equation 12). Users stay inductive: a user is what it rated.

    Without maps z and v are the embeddings, and b is 0.

    Args:
        config: the model's.
        num_items: I.
    """

    rated: nn.Embedding | None
    weighed: nn.Embedding | None
    item_vectors: nn.Embedding | None

    def __init__(self, config: ModelConfig, num_items: int) -> None:
        super().__init__()
        size, width = config.encoded_size, config.list_size
        self.maps, self.reads_items = config.list_maps, config.list_maps and config.layers > 0
        self.width = width if self.maps else size
        if not self.maps:
            self.rated = self.weighed = self.item_vectors = None
            return
        self.from_user = nn.Linear(size, width, bias=False)
        self.from_item = nn.Linear(size, width, bias=False)
        self.base = nn.Linear(size, 1, bias=False)
        self.popularity = nn.Parameter(torch.ones(()))
        self.rated = _table(num_items, width) if self.reads_items else None
        weighed = self.reads_items and config.rating_messages
        self.weighed = _table(num_items, width) if weighed else None
        self.item_vectors = _table(num_items, width) if config.item_identity else None
        with torch.no_grad():
            # Lists begin as those of popularity.
            self.base.weight.zero_()

    def tables(self) -> list[nn.Parameter]:
        """The vectors of items, one a row."""
        tables = (self.rated, self.weighed, self.item_vectors)
        return [weight for table in tables if table is not None for weight in table.parameters()]

    def of_users(self, users: Tensor, block: Block | None, items: Tensor | None) -> ListTerms:
        """What users are to any item.

        Args:
            users: [n, H] embeddings.
            block: the edges of these users that they are known by, the last layer's; None where the
                model has no layer.
            items: int64 [S] which items the block's sources are; None where they are all items.
        """
        factors: Tensor = self.from_user(users) if self.maps else users
        if self.rated is not None and block is not None:
            counts = block.offsets.diff().clamp(min=1).to(factors.dtype)
            summed = aggregate(block, _rows(self.rated, items), "sum")
            if self.weighed is not None:
                rows = _rows(self.weighed, items)
                summed = summed + aggregate(block, rows, "sum", block.residuals)
            factors = factors + summed * counts.rsqrt().unsqueeze(1)
        return ListTerms(factors, factors.new_zeros(len(factors)))

    def without_each(
        self, users: Tensor, block: Block, owners: Tensor, shifts: Tensor
    ) -> ListTerms:
        """What users are to any item had they not rated each of their items.

        Args:
            users: [K, H] the embedding of each rating's user without that rating.
            block: the K ratings; its sources are all items.
            owners: int64 [K] whose they are.
            shifts: [K] by how much less biases leave of the user's other ratings then.
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

    def of_items(self, items: Tensor, inputs: Tensor, nodes: Tensor | None) -> ListTerms:
        """What items are to any user.

        Args:
            items: [m, H] embeddings.
            inputs: float32 [m, 3] their `Biases.inputs`.
            nodes: int64 [m] which items they are; None for items that training never saw, which
                have no vector of their own.
        """
        if not self.maps:
            return ListTerms(items, items.new_zeros(len(items)))
        factors: Tensor = self.from_item(items)
        if self.item_vectors is not None and nodes is not None:
            factors = factors + self.item_vectors(nodes)
        base = self.base(items).squeeze(1) + self.popularity * inputs[:, _DEGREE]
        return ListTerms(factors, base)


def score_lists(of_users: ListTerms, of_items: ListTerms, users: Tensor, items: Tensor) -> Tensor:
    """Scores of B pairs of rows, [B]."""
    products = of_users.factors.index_select(0, users) * of_items.factors.index_select(0, items)
    return products.sum(1) + of_items.base.index_select(0, items)


def _table(count: int, width: int) -> nn.Embedding:
    table = nn.Embedding(count, width)
    nn.init.normal_(table.weight, std=_IDENTITY_STD)
    return table


def _rows(table: nn.Embedding, items: Tensor | None) -> Tensor:
    rows: Tensor = table.weight if items is None else table(items)
    return rows
