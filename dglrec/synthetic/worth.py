"""What a planted relation is worth: RMSEs of the best linear prediction without it and with it.

A user is unknown but for what is given: the bias b and the taste p (and, if tastes drift, the
direction that p turns to) are normal a priori, with the variances that were planted. Items,
thresholds and noise are known. Then

- each of the user's known ratings is a noisy observation of b + p . q: the mean latent value of
  that rating, with the variance of the noise and that of cutting;
- each item the user rated is a noisy observation of p, as taste decides who rates what: q = B p +
  rest, where B and the covariance of the rest are fitted to the drawn pairs;
- the table of users, if there is one, gives b and p other means and smaller variances;
- the users of a circle have a part of b and p in common. It is estimated from the known ratings of
  all users that the user trusts or is trusted by, each of whom is as unknown as the user.

All this is linear and normal, so the posterior and the expected rating have closed forms. "Without"
leaves a relation out, "with" has all that are planted. For studios, items are unknown and users are
known; genres and themes are known in both cases, and a studio's part is estimated from the known
ratings of its other items. For drift, "without" knows the average over the times at which users
rate, but not the time of any rating.

This is the best that could be known (but for what is not linear) from a few ratings of an item or a
user if all else were known; a model must learn all else from the same ratings.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch

from dglrec.synthetic.drift import angles
from dglrec.synthetic.planted import PlantedModel
from dglrec.synthetic.truth import latent_bias

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

KNOWN = (0, 1, 2, 5, 10, 20, 50)
"""How many ratings of a user, or an item, are known."""
HELD_OUT = 0.2
"""The share of ratings that is held out, as `prepare` does: a tenth validates, a tenth tests."""

_TARGETS = 1_000  # users, or items, that are predicted
_TESTED = 20  # the most held-out ratings of each that are predicted
_MOST_KNOWN = 512  # the most ratings of a node that are used
_SAMPLE = 1 << 17
_PAIRS = 1 << 18


@dataclass(frozen=True, eq=False)
class Drawn:
    """R ratings of U users, users in order.

    Attributes:
        offsets: int64 [U + 1].
        items: int32 [R] indices.
        ratings: int8 [R].
        times: int64 [R]; None if ratings have no times.
    """

    offsets: I64
    items: npt.NDArray[np.int32]
    ratings: npt.NDArray[np.int8]
    times: I64 | None

    def users(self, rows: I64) -> I64:
        """The users of some rows."""
        return np.searchsorted(self.offsets, rows, side="right") - 1


@dataclass(frozen=True, eq=False)
class Group:
    """Pairs of nodes that have a part in common, int64 [P] each; both orders count."""

    left: I64
    right: I64

    def mates_of(self, node: int) -> I64:
        """Distinct nodes that form a pair with a node."""
        return np.unique(np.r_[self.right[self.left == node], self.left[self.right == node]])


class _Blind(NamedTuple):
    """Averages that stand for the moments of ratings whose times are not known.

    Attributes:
        known: [M], of known ratings.
        tested: [M], of ratings to be predicted.
    """

    known: F64
    tested: F64


class Side(Protocol):
    """The users, or the items, of a model, as the unknown nodes; the other side is known."""

    vectors: F64  # [N, K]
    bias: F64  # [N]
    turns: F64 | None  # [N, K]

    def rows_of(self, node: int) -> I64:
        """All rows of a node."""

    def others(self, rows: I64) -> tuple[F64, F64]:
        """Vectors [n, K] and biases [n] of the other side."""

    def moments(self, rows: I64) -> F64:
        """[n, M]: the coefficients of the node's vector, and of its turn, in each row."""

    def nodes(self, rows: I64) -> I64:
        """The nodes of rows."""

    def times(self, rows: I64) -> I64:
        """The times of rows, to order them; all 0 if there are none."""


class UserSide:
    """Users are the unknown nodes."""

    def __init__(self, model: PlantedModel, drawn: Drawn) -> None:
        self._model, self._drawn = model, drawn
        self.vectors = model.user_vectors.astype(np.float64)
        self.bias = model.user_bias.astype(np.float64)
        self.turns = None if model.drift is None else model.drift.turns.astype(np.float64)

    def rows_of(self, node: int) -> I64:
        """All rows of a node."""
        return np.arange(self._drawn.offsets[node], self._drawn.offsets[node + 1])

    def others(self, rows: I64) -> tuple[F64, F64]:
        """Vectors and biases of the other side."""
        items = self._drawn.items[rows]
        vectors, bias = self._model.item_vectors[items], self._model.item_bias[items]
        return vectors.astype(np.float64), bias.astype(np.float64)

    def moments(self, rows: I64) -> F64:
        """The coefficients of vectors and turns."""
        return _moments(self._model, self._drawn, rows)

    def nodes(self, rows: I64) -> I64:
        """The users of rows."""
        return self._drawn.users(rows)

    def times(self, rows: I64) -> I64:
        """The times of rows."""
        times = self._drawn.times
        return np.zeros(len(rows), dtype=np.int64) if times is None else times[rows]


class ItemSide:
    """Items are the unknown nodes.

    Args:
        model: the planted model.
        drawn: all ratings.
        wanted: the items whose rows are needed.
    """

    turns: F64 | None = None

    def __init__(self, model: PlantedModel, drawn: Drawn, wanted: I64) -> None:
        self._model, self._drawn = model, drawn
        self.vectors = model.item_vectors.astype(np.float64)
        self.bias = model.item_bias.astype(np.float64)
        is_wanted = np.zeros(len(self.bias), dtype=np.bool_)
        is_wanted[wanted] = True
        rows = np.flatnonzero(is_wanted[drawn.items])
        order = np.argsort(drawn.items[rows], kind="stable")
        self._rows = rows[order]
        self._starts = np.searchsorted(drawn.items[self._rows], np.arange(len(self.bias) + 1))

    def rows_of(self, node: int) -> I64:
        """All rows of a node."""
        return self._rows[self._starts[node] : self._starts[node + 1]]

    def others(self, rows: I64) -> tuple[F64, F64]:
        """Vectors and biases of the other side."""
        users, model = self._drawn.users(rows), self._model
        vectors = model.user_vectors[users].astype(np.float64)
        if model.drift is not None:
            at = _moments(model, self._drawn, rows)
            vectors = at[:, :1] * vectors + at[:, 1:] * model.drift.turns[users]
        return vectors, model.user_bias[users].astype(np.float64)

    def moments(self, rows: I64) -> F64:
        """The coefficients of vectors; items have no turns."""
        return np.ones((len(rows), 1))

    def nodes(self, rows: I64) -> I64:
        """The items of rows."""
        return self._drawn.items[rows].astype(np.int64)

    def times(self, rows: I64) -> I64:
        """Zeros: items' rows are not ordered by time."""
        return np.zeros(len(rows), dtype=np.int64)


class Estimate:
    """Predicts held-out ratings of sampled nodes, with or without what is planted.

    A node has D = 1 + M K unknowns: its bias, its vector and, if M is 2, its turn.

    Args:
        model: the planted model.
        drawn: all ratings.
        side: the side whose nodes are unknown.
        part: the part of biases and vectors from a table, or from content; None if there is none.
        group: pairs with a part in common; None if there are no pairs, or no such part.
        targets: the nodes to be predicted.
        latest: whether a node's latest ratings are held out; else random ones.
        rng: chooses ratings.
    """

    def __init__(
        self,
        model: PlantedModel,
        drawn: Drawn,
        side: Side,
        *,
        part: tuple[F64, F64] | None,
        group: Group | None,
        targets: I64,
        rng: np.random.Generator,
        latest: bool = False,
    ) -> None:
        self._model, self._drawn, self._side = model, drawn, side
        sample = np.sort(rng.integers(len(drawn.items), size=min(_SAMPLE, 4 * len(drawn.items))))
        self._scores, self._cut = _latent_scores(model, drawn, sample, rng)
        self._noise = model.noise_sd**2 + self._cut
        self._fit_exposure(sample)
        self._set_prior(part, group)
        self._evidence_of_mates: dict[int, tuple[F64, F64]] = {}
        self._priors: dict[tuple[int, bool, bool], tuple[F64, F64]] = {}
        self._group = None if group is None else pairs_around(group, targets, len(side.bias))
        self._rng, self._targets = rng, targets
        self._cases = [self._case(int(node), latest=latest) for node in targets]

    def rmse(
        self, known: int | None, *, part: bool = True, group: bool = True, timed: bool = True
    ) -> tuple[float, int]:
        """RMSE of held-out ratings, and how many these are.

        Args:
            known: how many other ratings of each node are known; nodes with fewer are left out.
                None: all that are not held out; then nodes count by their held-out ratings.
            part: whether the part from a table or from content is known.
            group: whether the pairs of the group are known.
            timed: whether the times of ratings are known.
        """
        blind = None if timed or self._side.turns is None else self._blind()
        total = weight = 0.0
        count = 0
        for node, tested, others, held in self._cases:
            if not len(tested) or (known is not None and len(others) < known):
                continue
            key = node, part, group
            if key not in self._priors:
                self._priors[key] = self._prior(node, part=part, group=group)
            mean, variance = self._priors[key]
            rows = others[:known]
            if len(rows):
                information, pull = self._evidence(rows, blind)
                pull = pull - information @ mean
                seen = np.eye(len(mean)) + variance @ information
                variance = np.asarray(np.linalg.solve(seen, variance), dtype=np.float64)
                mean = mean + variance @ pull
            errors = (self._predict(tested, mean, variance, blind) - self._ratings(tested)) ** 2
            each = held / len(tested) if known is None else 1.0
            total, weight = total + each * float(errors.sum()), weight + each * len(tested)
            count += len(tested)
        # Rounded, as the last digits depend on the number of threads that fit the exposure.
        return (round(float(np.sqrt(total / weight)), 5) if weight else float("nan")), count

    def _case(self, node: int, *, latest: bool) -> tuple[int, I64, I64, int]:
        """A node, some of its held-out rows, some other rows, and how many rows are held out."""
        rows = self._rng.permutation(self._side.rows_of(node))
        held = max(round(HELD_OUT * len(rows)), 1) if len(rows) else 0
        if latest:
            rows = rows[np.argsort(-self._side.times(rows), kind="stable")]
        others = self._rng.permutation(rows[held:])[:_MOST_KNOWN]
        return node, self._rng.permutation(rows[:held])[:_TESTED], others, held

    def _ratings(self, rows: I64) -> F64:
        return self._drawn.ratings[rows].astype(np.float64)

    def _design(self, rows: I64, moments: F64) -> tuple[F64, F64, F64]:
        """[n, D] coefficients of the unknowns in each row; vectors and biases of the other side."""
        vectors, bias = self._side.others(rows)
        turned = moments[:, :, None] * vectors[:, None, :]
        design = np.concatenate([np.ones((len(rows), 1)), turned.reshape(len(rows), -1)], axis=1)
        return design, vectors, bias

    def _spread(self, moments: F64) -> float:
        """Variance of a dimension of taste around its average over times."""
        return self._taste_variance * max(1.0 - float(moments @ moments), 0.0)

    def _evidence(self, rows: I64, blind: _Blind | None = None) -> tuple[F64, F64]:
        """Information [D, D] and pull [D] of a node's ratings: their part of the posterior."""
        moments = self._side.moments(rows)
        spread = 0.0
        if blind is not None:
            moments = np.broadcast_to(blind.known, moments.shape)
            spread = self._spread(blind.known)
        design, vectors, bias = self._design(rows, moments)
        weights = 1.0 / (self._noise + spread * (vectors**2).sum(axis=1))
        scores = self._scores[self._drawn.ratings[rows]] - bias
        weighted = design * weights[:, None]
        information, pull = weighted.T @ design, weighted.T @ scores
        slope, centre, rest = self._exposure
        toward = np.linalg.solve(rest + spread * slope @ slope.T, slope)
        information[1:, 1:] += np.kron(moments.T @ moments, slope.T @ toward)
        pull[1:] += (moments.T @ ((vectors - centre) @ toward)).ravel()
        return information, pull

    def _predict(self, rows: I64, mean: F64, variance: F64, blind: _Blind | None) -> F64:
        """Expected ratings, [n]."""
        moments = self._side.moments(rows)
        spread = 0.0
        if blind is not None:
            moments = np.broadcast_to(blind.tested, moments.shape)
            spread = self._spread(blind.tested)
        design, vectors, bias = self._design(rows, moments)
        latent = design @ mean + bias
        unsure = np.einsum("nd,de,ne->n", design, variance, design)
        unsure += spread * (vectors**2).sum(axis=1)
        deviation = np.sqrt(self._model.noise_sd**2 + np.maximum(unsure, 0.0))
        reached = (latent[:, None] - self._model.thresholds) / deviation[:, None]
        return np.asarray(1.0 + torch.special.ndtr(torch.from_numpy(reached)).numpy().sum(axis=1))

    def _prior(self, node: int, *, part: bool, group: bool) -> tuple[F64, F64]:
        """Mean [D] and covariance [D, D] of a node before its ratings are known."""
        own = self._own_variance + (0.0 if part else self._part_variance)
        mean = self._part_mean(node) if part else np.zeros(len(own))
        if self._group is None:
            return mean, np.diag(own)
        if not group:
            return mean, np.diag(own + self._common_variance)
        information, pull = np.zeros((len(own), len(own))), np.zeros(len(own))
        for mate in self._group.mates_of(node):
            of_mate, pull_of_mate = self._evidence_of(int(mate))
            if part:
                pull_of_mate = pull_of_mate - of_mate @ self._part_mean(int(mate))
            # The part that only the mate has is noise to the part it has in common with others.
            seen = np.linalg.solve(np.eye(len(own)) + of_mate * own, np.c_[of_mate, pull_of_mate])
            information += seen[:, :-1]
            pull += seen[:, -1]
        root = np.sqrt(self._common_variance)
        inner = np.linalg.inv(np.eye(len(own)) + root[:, None] * information * root)
        common = root[:, None] * inner * root
        return mean + common @ pull, np.diag(own) + common

    def _evidence_of(self, mate: int) -> tuple[F64, F64]:
        if mate not in self._evidence_of_mates:
            rows = self._rng.permutation(self._side.rows_of(mate))
            rows = rows[round(HELD_OUT * len(rows)) :][:_MOST_KNOWN]
            size = len(self._own_variance)
            self._evidence_of_mates[mate] = (
                self._evidence(rows) if len(rows) else (np.zeros((size, size)), np.zeros(size))
            )
        return self._evidence_of_mates[mate]

    def _part_mean(self, node: int) -> F64:
        mean = np.zeros(len(self._own_variance))
        bias, taste = self._part
        mean[0] = bias[node]
        mean[1 : 1 + taste.shape[1]] = taste[node]
        return mean

    def _blind(self) -> _Blind:
        known = np.concatenate([others for _, _, others, _ in self._cases])
        tested = np.concatenate([rows for _, rows, _, _ in self._cases])
        of_tested = self._side.moments(tested).mean(axis=0)
        # If no rating is known of any node, the average over known times is never used.
        of_known = self._side.moments(known).mean(axis=0) if len(known) else of_tested
        return _Blind(of_known, of_tested)

    def _fit_exposure(self, rows: I64) -> None:
        """Fit q = B p + rest to drawn pairs."""
        side = self._side
        nodes, moments = side.nodes(rows), side.moments(rows)
        tastes = moments[:, :1] * side.vectors[nodes]
        if side.turns is not None:
            tastes = tastes + moments[:, 1:] * side.turns[nodes]
        vectors, _ = side.others(rows)
        design = np.c_[np.ones(len(rows)), tastes]
        # Vectors are float32: directions smaller than their rounding are ignored.
        fitted, *_ = np.linalg.lstsq(design, vectors, rcond=1e-6)
        rest = np.cov((vectors - design @ fitted).T, ddof=0)
        rest += np.eye(len(rest)) * max(1e-3 * float(np.trace(rest)), 1e-9)
        self._exposure = fitted[1:].T, fitted[0], rest

    def _set_prior(self, part: tuple[F64, F64] | None, group: Group | None) -> None:
        """Measure the parts of biases and vectors: from the table, in common, and of the node."""
        bias, vectors = self._side.bias, self._side.vectors
        zeros = np.zeros_like(bias), np.zeros_like(vectors)
        given = zeros if part is None else part
        self._part = tuple(
            values * float((values * whole).sum() / max((values**2).sum(), 1e-12))
            for values, whole in zip(given, (bias, vectors), strict=True)
        )
        rest_bias, rest = bias - self._part[0], vectors - self._part[1]
        common_bias = common = 0.0
        if group is not None:
            few = slice(None, None, len(group.left) // _PAIRS + 1)
            left, right = group.left[few], group.right[few]
            common_bias = max(float((rest_bias[left] * rest_bias[right]).mean()), 0.0)
            common = max(float((rest[left] * rest[right]).mean()), 0.0)
        self._taste_variance = float((vectors**2).mean())
        own_bias = max(float((rest_bias**2).mean()) - common_bias, 1e-9)
        own = max(float((rest**2).mean()) - common, 1e-9)
        of_part_bias = float((bias**2).mean()) - float((rest_bias**2).mean())
        of_part = self._taste_variance - float((rest**2).mean())
        width = vectors.shape[1]
        turned = [] if self._side.turns is None else [self._taste_variance] * width
        still = [0.0] * len(turned)
        self._own_variance = np.array([own_bias, *[own] * width, *turned])
        self._common_variance = np.array([common_bias, *[common] * width, *still])
        self._part_variance = np.maximum([of_part_bias, *[of_part] * width, *still], 0.0)


def sample_targets(count: int, rng: np.random.Generator) -> I64:
    """Choose nodes to be predicted, out of `count`; ascending."""
    return np.sort(rng.choice(count, min(_TARGETS, count), replace=False))


def worth_of(estimate: Estimate, **left_out: bool) -> list[dict[str, float | int | None]]:
    """RMSEs with and without a relation, by how many ratings of a node are known.

    Args:
        estimate: of the planted model.
        left_out: the arguments of `Estimate.rmse` for a prediction without the relation.

    Returns:
        For each number of `KNOWN`, and None for all that are not held out: `known`, `rows`,
        `rmse_without` and `rmse_with`. Numbers of ratings that no node has are left out.
    """
    found: list[dict[str, float | int | None]] = []
    for known in (*KNOWN, None):
        without, rows = estimate.rmse(known, **left_out)
        if rows:
            with_it, _ = estimate.rmse(known)
            found.append(
                {"known": known, "rows": rows, "rmse_without": without, "rmse_with": with_it}
            )
    return found


def pairs_of_labels(labels: I64) -> Group:
    """All pairs of nodes with the same label, out of [N] labels, each pair once."""
    order = np.argsort(labels, kind="stable")
    sizes = np.bincount(labels)
    left, right = [], []
    for members in np.split(order, np.cumsum(sizes)[:-1]):
        first, second = np.triu_indices(len(members), 1)
        left.append(members[first])
        right.append(members[second])
    return Group(np.concatenate(left), np.concatenate(right))


def _moments(model: PlantedModel, drawn: Drawn, rows: I64) -> F64:
    if model.drift is None:
        return np.ones((len(rows), 1))
    assert drawn.times is not None
    at = angles(model.drift.strength, drawn.times[rows])
    return np.stack([np.cos(at), np.sin(at)], axis=1)


def _latent_scores(
    model: PlantedModel, drawn: Drawn, sample: I64, rng: np.random.Generator
) -> tuple[F64, float]:
    """A latent value for each rating, and the variance that cutting adds to it.

    The mean latent value of a rating varies less than latent values do: c is the ratio of the
    variances. Divided by c around the mean, it equals the latent value plus an error that is not
    correlated with it; the error's variance is (1 / c - 1) times that of latent values.

    Returns:
        [11] values, by rating from 0 (which does not occur) to 10; and the variance.
    """
    users, items = drawn.users(sample), drawn.items[sample]
    times = None if drawn.times is None else drawn.times[sample]
    latent = latent_bias(model.user_bias, model.item_bias, users, items).astype(np.float64)
    latent += model.taste(users, items, times)
    latent += model.noise_sd * rng.standard_normal(len(sample))
    rating = np.searchsorted(model.thresholds, latent, side="right") + 1
    size = len(model.thresholds) + 2
    counts = np.bincount(rating, minlength=size)
    means = np.bincount(rating, latent, minlength=size) / np.maximum(counts, 1)
    # The value of a rating that the sample lacks is the middle between its thresholds.
    ends = np.r_[model.thresholds[0], model.thresholds, model.thresholds[-1]]
    means[1:] = np.where(counts[1:] > 0, means[1:], (ends[1:] + ends[:-1]) / 2)
    centre, variance = float(latent.mean()), max(float(latent.var()), 1e-12)
    kept = min(max(float(means[rating].var()) / variance, 1e-3), 1.0)
    return centre + (means - centre) / kept, variance * (1.0 / kept - 1.0)


def pairs_around(group: Group, nodes: I64, count: int) -> Group:
    """The pairs that contain any of `nodes`, out of `count` nodes."""
    wanted = np.zeros(count, dtype=np.bool_)
    wanted[nodes] = True
    touches = wanted[group.left] | wanted[group.right]
    return Group(group.left[touches], group.right[touches])
