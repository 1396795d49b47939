"""The planted model: biases, tastes and noise, scaled so that each explains its planned share."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from dglrec.synthetic.catalogue import Catalogue
from dglrec.synthetic.drift import Drift
from dglrec.synthetic.planting import Part, mix
from dglrec.synthetic.truth import RatingCurve, latent_bias, latent_taste

RANK = 8
RATING_SHARES = np.array([0.6, 0.7, 1.1, 2.4, 5.7, 11.0, 21.9, 25.8, 17.8, 13.0]) / 100.0
"""Share of each rating, 1 to 10, in the real sample."""
TASTE_SHARE = 1 / 3
"""Share, explained by taste, of the squared error that biases leave."""

# The real sample: RMSE 1.688 around the mean, 1.249 around user and item biases.
_BIAS_SHARE = 1 - (1.249 / 1.688) ** 2
# In the real sample, users' biases have about six tenths of the variance of all biases.
_USER_PART = 0.6
# Shares of the variance of an item's taste vector that genres and themes explain.
_GENRE_PART, _THEME_PART = 0.25, 0.25
EXPOSURE_SPREAD = 0.9
"""Standard deviation, over users and items, of the term that taste adds to the logarithm of the
rate at which a user meets an item. With it, the best possible lists have 2.4 (quickstart) to 3.8
times (full size) the NDCG@10 of popularity; in the real sample EASE has 2.2 times."""
_CENTRINGS = 12

_SAMPLE = 1 << 17
_ROUNDS = 60
_TOLERANCE = 1e-4
_TASTE_POINTS = 255
_BIAS_POINTS = 1024

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PlantedModel:
    """Parameters in units of the latent value. U users, I items, K = `RANK`."""

    user_bias: F32  # [U]
    user_vectors: F32  # [U, K]
    item_bias: F32  # [I]
    item_vectors: F32  # [I, K]
    thresholds: F64  # [9]
    noise_sd: float
    tastes: F64  # quantiles of p_u . q_i over the drawn pairs
    taste_scale: float  # p_u . q_i of these vectors, divided by that of the unscaled directions
    drift: Drift | None = None  # None: tastes do not move

    def taste(
        self,
        users: npt.NDArray[Any],
        items: npt.NDArray[Any],
        timestamps: npt.NDArray[np.int64] | None,
    ) -> F32:
        """Latent tastes of pairs, float32 [N]; timestamps are required if taste drifts."""
        if self.drift is None:
            return latent_taste(self.user_vectors, self.item_vectors, users, items)
        assert timestamps is not None
        return self.drift.taste(self.user_vectors, self.item_vectors, users, items, timestamps)

    def curve(self) -> RatingCurve:
        """E[rating | user, item] as a function of the sum of bias and taste."""
        return RatingCurve(self.thresholds, self.noise_sd)

    def bias_curve(self) -> tuple[F64, F64]:
        """Nodes and values of E[rating | user bias + item bias], averaged over taste."""
        reach = float(np.abs(self.user_bias).max() + np.abs(self.item_bias).max()) + 1e-6
        return _averaged(self.curve(), self.tastes, -reach, reach)


@dataclass(frozen=True, eq=False)
class Tastes:
    """Directions in a space of K = `RANK` dimensions: vectors of length 1.

    Taste decides who rates what, so a user likes the items it rates better than others. With
    vectors of different lengths this effect would be larger for some users than for others, and
    would act as a bias. With equal lengths only users who rate much of the catalogue, and items
    that nearly everybody rates, differ: they have little choice. Biases fitted to the ratings
    explain 3 to 8 % of the variance of taste, less for larger catalogues.
    """

    users: F32  # [U, K]
    items: F32  # [I, K]
    content: F64  # [I, K], of any scale: the part of items' vectors from genres and themes


def draw_tastes(
    catalogue: Catalogue,
    counts: npt.NDArray[np.int64],
    popularity: F64,
    rng: np.random.Generator,
    user_parts: Sequence[Part] = (),
    item_parts: Sequence[Part] = (),
) -> Tastes:
    """Draw the directions, centred over ratings: a mean taste would act as a bias.

    Args:
        catalogue: the items, with their genres and themes.
        counts: [U] ratings of each user.
        popularity: [I] each item's approximate share of the ratings.
        rng: the source of random numbers.
        user_parts: further parts of users' tastes.
        item_parts: further parts of items' tastes.
    """
    users = rng.standard_normal((len(counts), RANK))
    users = mix(users, [(part.share, part.taste) for part in user_parts])
    items, content = _item_vectors(catalogue, rng)
    items = mix(items, [(part.share, part.taste) for part in item_parts])
    return Tastes(
        _directions(users, counts / counts.sum()),
        _directions(items, popularity / popularity.sum()),
        content,
    )


def _directions(vectors: F64, weights: F64) -> F32:
    """Vectors of length 1 with a weighted mean of 0; only nearly so if a few have most weight."""
    for _ in range(_CENTRINGS):  # each leaves about an eighth of the mean
        vectors = vectors - weights @ vectors
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors = vectors / np.where(lengths > 1e-6, lengths, np.inf)
    return vectors.astype(np.float32)


def plant(
    tastes: Tastes,
    counts: npt.NDArray[np.int64],
    drawn: npt.NDArray[np.int32],
    rng: np.random.Generator,
    user_parts: Sequence[Part] = (),
    item_parts: Sequence[Part] = (),
    drift: Drift | None = None,
    timestamps: npt.NDArray[np.int64] | None = None,
) -> PlantedModel:
    """Draw the biases, and scale them and the tastes on a sample of the drawn pairs.

    Args:
        tastes: the directions by which the pairs were drawn.
        counts: [U] ratings of each user.
        drawn: [sum of counts] item indices, users in order.
        rng: the source of random numbers.
        user_parts: further parts of users' biases.
        item_parts: further parts of items' biases.
        drift: of directions of length 1; None if tastes do not move.
        timestamps: [sum of counts], required if taste drifts.
    """
    items = len(tastes.items)
    item_weights = np.bincount(drawn, minlength=items) / len(drawn)
    user_weights = counts / len(drawn)
    user_bias = rng.standard_normal(len(counts))
    user_bias = mix(user_bias, [(part.share, part.bias) for part in user_parts])
    item_bias = rng.standard_normal(items)
    item_bias = mix(item_bias, [(part.share, part.bias) for part in item_parts])
    model = PlantedModel(
        user_bias=_standard(user_bias, user_weights, _USER_PART),
        user_vectors=tastes.users,
        item_bias=_standard(item_bias, item_weights, 1.0 - _USER_PART),
        item_vectors=tastes.items,
        thresholds=np.empty(0),
        noise_sd=1.0,
        tastes=np.empty(0),
        taste_scale=1.0,
        drift=drift,
    )
    # With replacement, so that a data set of a few rows gets thresholds as well.
    rows = np.sort(rng.integers(len(drawn), size=_SAMPLE))
    users = np.searchsorted(np.cumsum(counts), rows, side="right")
    bias = latent_bias(model.user_bias, model.item_bias, users, drawn[rows]).astype(np.float64)
    taste = model.taste(users, drawn[rows], None if timestamps is None else timestamps[rows])
    return _calibrate(model, bias, taste.astype(np.float64), rng.standard_normal(_SAMPLE))


def _item_vectors(catalogue: Catalogue, rng: np.random.Generator) -> tuple[F64, F64]:
    """[I, K]: a quarter of the variance from genres, a quarter from themes, half of the item alone.

    Returns:
        The whole vectors, and their part from genres and themes.
    """
    items = len(catalogue.ids)
    parts = (
        (_GENRE_PART, catalogue.genres @ rng.standard_normal((catalogue.genres.shape[1], RANK))),
        (_THEME_PART, catalogue.themes @ rng.standard_normal((catalogue.themes.shape[1], RANK))),
        (1.0 - _GENRE_PART - _THEME_PART, rng.standard_normal((items, RANK))),
    )
    vectors = content = np.zeros((items, RANK))
    for share, part in parts:
        part = part - part.mean(axis=0)
        content, vectors = (
            vectors,
            vectors + part * np.sqrt(share / max(float((part**2).mean()), 1e-12)),
        )
    return vectors, content


def _calibrate(model: PlantedModel, bias: F64, taste: F64, noise: F64) -> PlantedModel:
    """Scale bias, taste and noise until biases and taste explain their shares of the rating.

    On the latent scale the shares would be ratios of variances. Cutting into ten ratings adds
    further variance, so each ratio is corrected by the share that it gave, until both shares fit.

    Args:
        model: the unscaled parameters.
        bias: [N] sums of unscaled biases over a sample of pairs.
        taste: [N] unscaled p_u . q_i of the same pairs.
        noise: [N] standard normal.
    """
    total = float(np.var(np.repeat(np.arange(10), np.round(RATING_SHARES * 1000).astype(int))))
    bias_scale, taste_scale = _inverse_deviation(bias), _inverse_deviation(taste)
    points = np.quantile(taste, (np.arange(_TASTE_POINTS) + 0.5) / _TASTE_POINTS)
    cuts = np.cumsum(RATING_SHARES)[:-1]
    bias_part, taste_part = _BIAS_SHARE, TASTE_SHARE
    for _ in range(_ROUNDS):
        by_bias = np.sqrt(bias_part) * bias_scale
        by_taste = np.sqrt((1 - bias_part) * taste_part) * taste_scale
        noise_sd = float(np.sqrt((1 - bias_part) * (1 - taste_part)))
        latent = by_bias * bias + by_taste * taste
        thresholds = np.quantile(latent + noise_sd * noise, cuts)
        curve = RatingCurve(thresholds, noise_sd, nodes=1024)
        nodes, values = _averaged(curve, by_taste * points, *_ends(by_bias * bias))
        expected = curve(latent)
        explained = float(np.mean((expected - np.interp(by_bias * bias, nodes, values)) ** 2))
        irreducible = max(total - float(np.var(expected)), 1e-9)
        bias_share = 1 - (explained + irreducible) / total
        taste_share = explained / (explained + irreducible)
        if max(abs(bias_share - _BIAS_SHARE), abs(taste_share - TASTE_SHARE)) < _TOLERANCE:
            break
        # A few users or items may have no variance to scale, so the parts are kept in bounds.
        bias_part = float(np.clip(bias_part + _BIAS_SHARE - bias_share, 0.05, 0.9))
        taste_part = float(np.clip(taste_part + TASTE_SHARE - taste_share, 0.05, 0.9))
    half = np.float32(np.sqrt(by_taste))
    return replace(
        model,
        user_bias=(by_bias * model.user_bias).astype(np.float32),
        item_bias=(by_bias * model.item_bias).astype(np.float32),
        user_vectors=half * model.user_vectors,
        drift=None if model.drift is None else replace(model.drift, turns=half * model.drift.turns),
        item_vectors=half * model.item_vectors,
        thresholds=thresholds,
        noise_sd=noise_sd,
        tastes=by_taste * points,
        taste_scale=float(by_taste),
    )


def _averaged(curve: RatingCurve, tastes: F64, low: float, high: float) -> tuple[F64, F64]:
    """Nodes from `low` to `high`, and the curve at the nodes, averaged over the tastes."""
    nodes = np.linspace(low, high, _BIAS_POINTS)
    values = curve((nodes[:, None] + tastes[None, :]).ravel()).reshape(_BIAS_POINTS, -1)
    return nodes, values.mean(axis=1)


def _ends(values: F64) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    return low, max(high, low + 1e-6)


def _inverse_deviation(values: F64) -> float:
    """1 / standard deviation, or 1 / root mean square if all values are equal.

    It is 0 if all values are 0.
    """
    for size in (float(values.std()), float(np.sqrt(np.mean(values**2)))):
        if size > 1e-6:
            return 1.0 / size
    return 0.0


def _standard(values: F64, weights: F64, variance: float) -> F32:
    """Values with weighted mean 0 and the given weighted variance; all 0 if they do not vary."""
    centred = values - weights @ values
    size = float(np.sqrt(weights @ centred**2))
    scale = np.sqrt(variance) / size if size > 1e-6 else 0.0
    return (centred * scale).astype(np.float32)
