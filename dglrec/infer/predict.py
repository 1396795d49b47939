"""Embeddings -> predicted ratings of pairs, and the best items of a catalogue."""

from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dglrec.biases import Biases
from dglrec.errors import DglrecError
from dglrec.infer.embed import Embeddings
from dglrec.infer.leave_out import LeftOut
from dglrec.kernels import ItemLists, Terms, Tiles, rank_items, runs_compiled
from dglrec.nn import DecoderTerms, NodeValues, RatingModel

_CHUNK_PAIRS = 1 << 16
_PAIRS_AT_ONCE = 1 << 18  # a GPU copies the terms of both nodes of each pair
_SCORES_AT_ONCE = 1 << 26  # 256 MiB on a GPU, and as much again for intermediate values
NOT_FINITE = (
    "the model's predictions are not finite numbers; train it again, with a smaller "
    "train.learning_rate"
)


@torch.inference_mode()
def predict_pairs(
    model: RatingModel, embeddings: Embeddings, biases: Biases, users: Tensor, items: Tensor
) -> Tensor:
    """Predicted ratings of n pairs, float32 [n] on the CPU, not clipped to the scale.

    The memory needed does not grow with the number of users; `Scorer` is for many calls.

    Args:
        model: the model that made the embeddings.
        embeddings: exact embeddings of the data set.
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
        # The decoder maps every node that it is given: it gets only the users of the chunk.
        distinct, places = torch.unique(some_users, return_inverse=True)
        chunk_nodes = NodeValues(nodes.users.index_select(0, distinct.to(device)), nodes.items)
        residuals = model.rating_head(chunk_nodes, places.to(device), some_items.to(device)).cpu()
        parts.append(biases.predict(some_users, some_items) + residuals)
    return torch.cat(parts) if parts else torch.empty(0)


class Scorer:
    """Predicts ratings of U users and I items; the decoder's terms of each are computed once.

    Args:
        model: the model that made the embeddings.
        nodes: float32 [U, H] and [I, H], on the model's device.
        biases: of these users and items.
        catalogue: int64 [C] the items to choose the best from, ascending; None for all.

    Raises:
        DglrecError: an embedding is not finite.
    """

    @torch.inference_mode()
    def __init__(
        self,
        model: RatingModel,
        nodes: NodeValues,
        biases: Biases,
        catalogue: Tensor | None = None,
    ) -> None:
        decoder = model.rating_head
        self._decoder, self._biases = decoder, biases
        self._users, self._items = decoder.of_users(nodes.users), decoder.of_items(nodes.items)
        tables = [*decoder.out.parameters(), biases.users, biases.items, *self._users, *self._items]
        # Every comparison with NaN is false: lists would silently come out short.
        if not all(bool(table.isfinite().all()) for table in tables if table is not None):
            raise DglrecError(NOT_FINITE)
        self._device = nodes.items.device
        self._catalogue = torch.arange(len(nodes.items)) if catalogue is None else catalogue

    @property
    def catalogue_size(self) -> int:
        """C, the number of items to choose from."""
        return len(self._catalogue)

    @torch.inference_mode()
    def pairs(self, users: Tensor, items: Tensor) -> Tensor:
        """Predicted ratings of n pairs, float32 [n] on the CPU, not clipped to the scale.

        Args:
            users: int64 [n].
            items: int64 [n].
        """
        parts = [torch.empty(0)]
        for ends in zip(users.split(_PAIRS_AT_ONCE), items.split(_PAIRS_AT_ONCE), strict=True):
            on_device = (rows.to(self._device) for rows in ends)
            residuals = self._decoder.score(self._users, self._items, *on_device)
            parts.append(self._biases.predict(*ends) + residuals.cpu())
        return torch.cat(parts)

    @torch.inference_mode()
    def rate(self, users: Tensor, bias: Tensor, items: Tensor) -> Tensor:
        """Predicted ratings by users outside the scorer, float32 [n, k] on the CPU, not clipped.

        Args:
            users: float32 [n, H] the users' embeddings, on the model's device.
            bias: float32 [n] the users' biases.
            items: int64 [n, k].
        """
        rows = torch.arange(len(users)).repeat_interleave(items.shape[1]).to(self._device)
        ends = rows, items.flatten().to(self._device)
        residuals = self._decoder.score(self._decoder.of_users(users), self._items, *ends).cpu()
        base = self._biases.mean + bias.cpu().unsqueeze(1) + self._biases.items[items]
        return base + residuals.view_as(items)

    def without_each(self, left_out: LeftOut, users: Tensor, items: Tensor) -> Tensor:
        """Predicted ratings of k items without each rating of the user, float32 [K, k].

        Args:
            left_out: the K ratings of n users.
            users: float32 [K, H] the users' embeddings without each rating.
            items: int64 [n, k].
        """
        return self.rate(users, left_out.bias, items[left_out.owners_here])

    @torch.inference_mode()
    def best(self, users: Tensor, left_out: ItemLists, k: int) -> tuple[Tensor, Tensor]:
        """The items of the catalogue with the highest predicted ratings for each of n users.

        Args:
            users: int64 [n].
            left_out: for each of the U users the items that are no candidates.
            k: the length of the lists; with a catalogue of C < k items they have C places.

        Returns:
            Predicted ratings [n, k], best first, not clipped, and items [n, k], on the CPU. A user
            with fewer than k candidates gets -inf, and an arbitrary item, in the places after them.
        """
        if not runs_compiled(self._items.hidden):
            return self.best_of_few(users, left_out, k)
        scores, places = self._best_compiled(users, left_out, min(k, self.catalogue_size))
        return scores, self._items_at(places)

    @cached_property
    def _positions(self) -> Tensor:
        """int32 [I]: each item's position in the catalogue, -1 for items outside it."""
        positions = torch.full((len(self._items.hidden),), -1, dtype=torch.int32)
        positions[self._catalogue] = torch.arange(self.catalogue_size, dtype=torch.int32)
        return positions

    @cached_property
    def _chosen(self) -> DecoderTerms:
        """The decoder's terms of the catalogue's items."""
        return self._items.of(self._catalogue.to(self._device))

    @cached_property
    def _tiles(self) -> Tiles:
        return Tiles.of(_terms(self._chosen, self._biases.items[self._catalogue]))

    def _best_compiled(self, users: Tensor, left_out: ItemLists, k: int) -> tuple[Tensor, Tensor]:
        base = self._biases.mean + self._biases.users[users] + self._decoder.out.bias
        scores, places = rank_items(
            self._tiles,
            self._decoder.out.weight.detach().squeeze(0).numpy(),
            _terms(self._users.of(users), base.detach()),
            left_out,
            users.numpy(),
            self._positions.numpy(),
            k,
        )
        return torch.from_numpy(scores), torch.from_numpy(places)

    @torch.inference_mode()
    def best_of_few(self, users: Tensor, left_out: ItemLists, k: int) -> tuple[Tensor, Tensor]:
        """The same as `best`, by torch's operations: for GPUs, and for few users on a CPU.

        On a CPU it scores only a few hundred users a second, but starts at once, while the compiled
        kernel needs some seconds before its first user. The order of equal scores is not defined.
        """
        k = min(k, self.catalogue_size)
        of_items, device = self._chosen, self._device
        item_base = self._biases.items[self._catalogue].to(device)
        step = max(1, _SCORES_AT_ONCE // max(1, self.catalogue_size))
        found = []
        for part in users.split(step):
            scores = self._decoder.all_pairs(self._users.of(part.to(device)), of_items)
            base = (self._biases.mean + self._biases.users[part]).to(device)
            scores += base.unsqueeze(1) + item_base
            rows, entries = entries_of(left_out.offsets, part)
            items = torch.from_numpy(left_out.items[entries.numpy()]).long()
            places = self._positions[items].long()
            listed = places >= 0
            scores[rows[listed].to(device), places[listed].to(device)] = -torch.inf
            best = scores.topk(k, dim=1)
            if best.values.isnan().any():
                raise DglrecError(NOT_FINITE)
            found.append((best.values.cpu(), best.indices.cpu()))
        if not found:
            return torch.empty(0, k), torch.empty(0, k, dtype=torch.int64)
        places = torch.cat([indices for _, indices in found])
        return torch.cat([scores for scores, _ in found]), self._items_at(places)

    def _items_at(self, places: Tensor) -> Tensor:
        return self._catalogue.index_select(0, places.flatten()).view_as(places)


def entries_of(offsets: npt.NDArray[np.int64], rows: Tensor) -> tuple[Tensor, Tensor]:
    """The entries of n rows: their row, as a position in `rows`, and their index; int64 [s] each.

    Args:
        offsets: int64 [N + 1]; the entries of row v are `offsets[v]:offsets[v + 1]`.
        rows: int64 [n].
    """
    ends = torch.from_numpy(offsets)
    starts = ends[rows]
    counts = ends[rows + 1] - starts
    positions = torch.repeat_interleave(torch.arange(len(rows)), counts)
    before = counts.cumsum(0) - counts
    return positions, torch.arange(len(positions)) + (starts - before)[positions]


def _terms(of_nodes: DecoderTerms, base: Tensor) -> Terms:
    hidden, factors = of_nodes
    width = 0 if factors is None else factors.shape[1]
    no_factors = np.empty((len(hidden), width), dtype=np.float32)
    return Terms(hidden.numpy(), no_factors if factors is None else factors.numpy(), base.numpy())
