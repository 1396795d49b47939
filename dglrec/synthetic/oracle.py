"""The best possible lists of a generated data set, from everything that was planted."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dglrec.kernels import ItemLists, Terms, Tiles, ragged, rank_items

_PAIRS_AT_ONCE = 1 << 21  # at about 20 bytes
_USERS_AT_ONCE = 1 << 12
_MORE_LIKELY = 190  # how many items of the highest rates are looked at beyond the list's length
_ROUNDING = 1e-4  # relative, of float32 probabilities that are compared

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class PlantedLists:
    """The parameters of who rates what, and how, for U users and I items; K = rank of the tastes.

    User u has rated item i with the probability 1 - exp(-x), where

        log x = user_reach_u + item_rate_i + strength * p_u . q_i

    and a rating reaches level r with the probability Phi((z - threshold_(r-1)) / noise_sd), where
    z = user_bias_u + item_bias_i + p_u . q_i. Given the parameters, the two are independent.

    Attributes:
        strength: the weight of taste in who rates what.
        noise_sd: standard deviation of a rating's latent value.
        thresholds: float64 [L - 1], ascending; ratings are 1..L.
        user_bias, user_vectors, user_reach: float32 [U], [U, K] and [U].
        item_bias, item_vectors, item_rate: float32 [I], [I, K] and [I].
    """

    strength: float
    noise_sd: float
    thresholds: npt.NDArray[np.float64]
    user_bias: F32
    user_vectors: F32
    user_reach: F32
    item_bias: F32
    item_vectors: F32
    item_rate: F32

    def chances(
        self, users: Tensor, unseen: Tensor, relevant_from: float, *, interactions: bool = False
    ) -> Tensor:
        """The probability that an item which is not in a user's known rows is relevant to the user.

        A share of a user's rows is unseen, at random. If a is the probability that there is a row,
        and f the share, an item without a known row has an unseen row with the probability
        f a / (1 - a + f a) (Bayes). For rarely rated items that is about a * f, so that items are
        ordered by exposure times the probability of being liked.

        Args:
            users: int64 [n] indices.
            unseen: float32 [n] share of each user's rows that are not known, above 0.
            relevant_from: the least rating of a relevant item.
            interactions: whether only relevant ratings are rows at all, as in a data set of
                interactions that was made from ratings.

        Returns:
            float32 [n, I].
        """
        rows = users.numpy()
        taste = torch.from_numpy(self.user_vectors[rows]) @ torch.from_numpy(self.item_vectors).T
        every = slice(None)
        return self._chances(rows, every, taste, unseen, relevant_from, interactions=interactions)

    def best(
        self,
        users: Tensor,
        unseen: Tensor,
        left_out: ItemLists,
        k: int,
        relevant_from: float,
        *,
        interactions: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """The items that are relevant with the highest probability, except those left out.

        Args:
            users: int64 [n] indices.
            unseen: float32 [n], as for `chances`.
            left_out: for each of all U users, the items that are not candidates.
            k: how many; if the catalogue is smaller, all of it.
            relevant_from: as for `chances`.
            interactions: as for `chances`.

        Returns:
            Probabilities float32 [n, k], highest first, and items int64 [n, k]. If fewer than k
            candidates remain, the rest is -inf, with arbitrary items.

        Raises:
            IndexError: a user, or an item to be left out, does not exist.
        """
        k = min(k, len(self.item_rate))
        scores = torch.empty(len(users), k)
        places = torch.empty(len(users), k, dtype=torch.int64)
        certain = torch.zeros(len(users), dtype=torch.bool)
        for start in range(0, len(users), _USERS_AT_ONCE):
            part = slice(start, start + _USERS_AT_ONCE)
            scores[part], places[part], certain[part] = self._best_of_likely(
                users[part], unseen[part], left_out, k, relevant_from, interactions=interactions
            )
        rest = (~certain).nonzero().squeeze(1)
        for uncertain in rest.split(max(_PAIRS_AT_ONCE // len(self.item_rate), 1)):
            chances = self.chances(
                users[uncertain], unseen[uncertain], relevant_from, interactions=interactions
            )
            _strike(chances.numpy(), left_out, users[uncertain].numpy())
            scores[uncertain], places[uncertain] = chances.topk(k, dim=1)
        return scores, places

    def _best_of_likely(
        self,
        users: Tensor,
        unseen: Tensor,
        left_out: ItemLists,
        k: int,
        relevant_from: float,
        *,
        interactions: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The best of the items that are most likely rated, and whether they are the best of all.

        An item's probability of being relevant is at most what it would be if the user were sure to
        like it, and that bound falls with the rate. So if, among some items with the highest rates,
        the k-th best is above the bound of the last of them, no other item is better.

        Returns:
            As `best`, and bool [n]; where it is false, there may be better items.
        """
        rows = users.numpy()
        count = min(k + _MORE_LIKELY, len(self.item_rate))
        no_factors = np.empty((len(rows), 0), dtype=np.float32)
        rates = np.float32(self.strength) * self.user_vectors[rows]
        positions = np.arange(len(self.item_rate), dtype=np.int32)
        weights, base = np.empty(0, dtype=np.float32), np.zeros(len(rows), dtype=np.float32)
        terms = Terms(no_factors, rates, base)
        found, items = rank_items(self._tiles, weights, terms, left_out, rows, positions, count)
        vectors = torch.from_numpy(self.item_vectors[items])
        taste = (vectors @ torch.from_numpy(self.user_vectors[rows]).unsqueeze(2)).squeeze(2)
        chances = self._chances(
            rows, items, taste, unseen, relevant_from, interactions=interactions
        )
        listed = torch.from_numpy(found).isfinite()
        last = torch.from_numpy(found[:, -1] + self.user_reach[rows])
        bound = _held_out(-torch.expm1(-last.exp()), unseen)
        chances = torch.where(listed, chances, -torch.inf)
        scores, order = chances.topk(k, dim=1)
        certain = ~listed[:, -1] | (scores[:, -1] > bound * (1 + _ROUNDING))
        return scores, torch.from_numpy(items).long().gather(1, order), certain

    @cached_property
    def _tiles(self) -> Tiles:
        no_factors = np.empty((len(self.item_rate), 0), dtype=np.float32)
        return Tiles.of(
            Terms(no_factors, np.asarray(self.item_vectors), np.asarray(self.item_rate))
        )

    def _chances(
        self,
        rows: npt.NDArray[Any],
        items: npt.NDArray[Any] | slice,
        taste: Tensor,
        unseen: Tensor,
        relevant_from: float,
        *,
        interactions: bool,
    ) -> Tensor:
        """As `chances`, for n users and m items of each: the same m items, or [n, m] indices."""
        liked = self._liked(taste, rows, items, relevant_from)
        rated = taste * self.strength
        rated += torch.from_numpy(self.user_reach[rows]).unsqueeze(1)
        rated += torch.from_numpy(self.item_rate[items])
        rated.exp_().neg_().expm1_().neg_()
        if interactions:
            return _held_out(rated.mul_(liked), unseen.unsqueeze(1))
        return _held_out(rated, unseen.unsqueeze(1)).mul_(liked)

    def _liked(
        self,
        taste: Tensor,
        rows: npt.NDArray[Any],
        items: npt.NDArray[Any] | slice,
        relevant_from: float,
    ) -> Tensor:
        """The probabilities that a rating is at least `relevant_from`, [n, m] as the tastes."""
        level = math.ceil(relevant_from)
        if level <= 1:
            return torch.ones_like(taste)
        if level > len(self.thresholds) + 1:
            return torch.zeros_like(taste)
        latent = taste + torch.from_numpy(self.item_bias[items])
        missing = float(self.thresholds[level - 2]) - self.user_bias[rows].astype(np.float64)
        latent -= torch.from_numpy(missing.astype(np.float32)).unsqueeze(1)
        # Phi(x) = erfc(-x / sqrt 2) / 2, which is precise in the lower tail, too.
        return latent.mul_(-1.0 / (self.noise_sd * math.sqrt(2.0))).erfc_().mul_(0.5)


def _held_out(rated: Tensor, unseen: Tensor) -> Tensor:
    """The value f a / (1 - a + f a) for a = `rated`, which is overwritten, and f = `unseen`."""
    found = rated * unseen
    return found.div_(rated.neg_().add_(1.0).add_(found))


def _strike(scores: F32, left_out: ItemLists, users: npt.NDArray[np.int64]) -> None:
    """Set the scores of items to be left out to -inf, [n, I]."""
    starts, lengths = left_out.offsets[users], left_out.offsets[users + 1] - left_out.offsets[users]
    rows = np.repeat(np.arange(len(users)), lengths)
    entries = ragged(torch.from_numpy(starts), torch.from_numpy(lengths))
    scores[rows, left_out.items[entries.numpy()]] = -np.inf
