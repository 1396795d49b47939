"""The planted model of a generated data set: `Truth`, written as `truth.json`.

The planted model is ordinal. A latent value z = user bias + item bias + p_u . q_i + noise is cut by
nine thresholds into the ratings 1..10, so that the expected rating has a closed form. The
probability that a user rates an item has one, too (`Exposure`); it also grows with p_u . q_i.
"""

import math
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dglrec.errors import DataError
from dglrec.files import read_json, write_json
from dglrec.places import Place
from dglrec.synthetic.drift import Drift
from dglrec.synthetic.oracle import PlantedLists
from dglrec.synthetic.packing import finite, pack, unpack, whole
from dglrec.synthetic.sequence import Transitions

TRUTH_FILE = "truth.json"
TRUTH_VERSION = 2
_WITHOUT_EXPOSURE = 1  # the version before exposure; everything else is the same
_WITH_RELATIONS = 3  # the version if relations, attributes or times are planted
LEVELS = 10  # ratings are 1..LEVELS

_CHUNK = 1 << 20  # rows at a time: a chunk takes less than 200 MB
_NODES = 16_384
_TAIL = 8.0  # standard deviations past the outer thresholds, where a rating is certain to 1e-15

FloatArray = npt.NDArray[np.float32] | npt.NDArray[np.float64]


def expected_rating(
    latent: npt.NDArray[np.float64], thresholds: npt.NDArray[np.float64], noise_sd: float
) -> npt.NDArray[np.float64]:
    """E[rating] of an ordinal model: 1 + sum over k of Phi((latent - threshold_k) / noise_sd).

    Args:
        latent: [N] latent values without their noise.
        thresholds: [9] ascending; a rating is 1 + how many of them its latent value reaches.
        noise_sd: the standard deviation of the normal noise, above 0.

    Returns:
        [N] values from 1 to 10, exact to rounding. Slow: it calls the error function in a loop.
    """
    scaled = (latent[:, None] - thresholds[None, :]) / (noise_sd * math.sqrt(2.0))
    erf = np.fromiter((math.erf(x) for x in scaled.ravel()), np.float64, scaled.size)
    return np.asarray(1.0 + (0.5 + 0.5 * erf.reshape(scaled.shape)).sum(axis=1))


class RatingCurve:
    """`expected_rating` as a table of nodes, with linear interpolation: fast for many rows.

    With the default number of nodes the error is below 1e-5 if the thresholds span fewer than about
    a hundred standard deviations of the noise.
    """

    def __init__(
        self, thresholds: npt.NDArray[np.float64], noise_sd: float, nodes: int = _NODES
    ) -> None:
        low, high = thresholds[0] - _TAIL * noise_sd, thresholds[-1] + _TAIL * noise_sd
        self._grid = np.linspace(low, high, nodes)
        self._values = expected_rating(self._grid, thresholds, noise_sd)

    def __call__(self, latent: FloatArray) -> npt.NDArray[np.float64]:
        """[N] latent values -> [N] expected ratings."""
        return np.interp(latent, self._grid, self._values)


@dataclass(frozen=True, eq=False)
class Exposure:
    """The probability that a user rates an item.

    User u has rated item i with the probability 1 - exp(-x), where

        log x = user_reach_u + item_rate_i + strength * p_u . q_i
    """

    strength: float
    item_rate: npt.NDArray[np.float32]  # [I], logarithm of the popularity
    user_reach: npt.NDArray[np.float32]  # [U], logarithm of the time at which the user stopped


@dataclass(frozen=True)
class ReferenceLists:
    """Figures of lists of `k` items on a reference split: a tenth of some users' ratings held out.

    Attributes:
        k: length of the lists.
        users: how many users were measured: those drawn that have a relevant held-out item.
        held_out: the share of their ratings that was held out at random.
        relevant_from: the least rating of a relevant item: the first level not below the mean.
        oracle: `ndcg` and `recall` of the best possible lists.
        popularity: the same for lists of the items with most ratings, without held-out ratings.
    """

    k: int
    users: int
    held_out: float
    relevant_from: int
    oracle: dict[str, float]
    popularity: dict[str, float]


@dataclass(frozen=True, eq=False)
class Truth:
    """The planted model of a generated data set, and the errors that remain when it is known.

    U users, I items, K = rank of the taste space. Biases and vectors are in units of the latent
    value; RMSEs are in units of the rating.
    """

    seed: int
    users: int
    items: int
    ratings: int
    irreducible_rmse: float
    """RMSE of the planted expectation against all drawn ratings: no predictor can do better."""
    bias_rmse: float
    """The same for the expectation that knows only the biases and the distribution of taste."""
    taste_share: float
    """Share, explained by taste, of the squared error that biases leave."""
    noise_sd: float
    thresholds: npt.NDArray[np.float64]  # [9]
    user_bias: npt.NDArray[np.float32]  # [U]
    user_vectors: npt.NDArray[np.float32]  # [U, K]
    item_ids: npt.NDArray[np.int64]  # [I], ascending external ids; users' ids are 0..U-1
    item_bias: npt.NDArray[np.float32]  # [I]
    item_vectors: npt.NDArray[np.float32]  # [I, K]
    exposure: Exposure | None = None
    """None in files from before exposure followed taste, if taste drifts, and if items follow each
    other: then no best possible list is known."""
    lists: ReferenceLists | None = None
    """None in the same cases, and if no drawn user has a relevant held-out item."""
    planted: dict[str, Any] | None = None
    """What else is planted, by name, and what it is worth; None if nothing is."""
    drift: Drift | None = None
    """How tastes move; None if they do not."""
    transitions: Transitions | None = None
    """Which items follow which within sessions; None if there are no sessions."""

    @cached_property
    def curve(self) -> RatingCurve:
        """Latent value -> expected rating."""
        return RatingCurve(self.thresholds, self.noise_sd)

    def expectation(
        self,
        user_ids: npt.NDArray[Any],
        item_ids: npt.NDArray[Any],
        timestamps: npt.NDArray[np.int64] | None = None,
    ) -> npt.NDArray[np.float32]:
        """E[rating | user, item] of the planted model.

        Args:
            user_ids: [N] external user ids, whole numbers.
            item_ids: [N] external item ids, whole numbers.
            timestamps: [N] seconds since 1970, required if taste drifts.

        Returns:
            [N] expected ratings, 1 to 10.

        Raises:
            DataError: an id is not of this data set, or taste drifts and there are no timestamps.
            ValueError: the arrays differ in length.
        """
        if self.drift is not None and timestamps is None:
            raise DataError(f"{TRUTH_FILE}: tastes drift, and these ratings have no timestamps")
        users, wanted = np.asarray(user_ids), np.asarray(item_ids)
        if users.shape != wanted.shape or users.ndim != 1:
            raise ValueError(f"ids of shapes {users.shape} and {wanted.shape}; give two of [N]")
        if timestamps is not None and timestamps.shape != users.shape:
            raise ValueError(f"timestamps of shape {timestamps.shape}, and ids of {users.shape}")
        expected = np.empty(len(users), dtype=np.float32)
        for start in range(0, len(users), _CHUNK):
            part = slice(start, start + _CHUNK)
            user, item = self.user_indices(users[part]), self.item_indices(wanted[part])
            expected[part] = self.curve(
                latent_bias(self.user_bias, self.item_bias, user, item)
                + self._taste(user, item, None if timestamps is None else timestamps[part])
            )
        return expected

    def _taste(
        self,
        users: npt.NDArray[np.int64],
        items: npt.NDArray[np.int64],
        timestamps: npt.NDArray[np.int64] | None,
    ) -> npt.NDArray[np.float32]:
        if self.drift is None or timestamps is None:
            return latent_taste(self.user_vectors, self.item_vectors, users, items)
        return self.drift.taste(self.user_vectors, self.item_vectors, users, items, timestamps)

    def planted_lists(
        self, user_ids: npt.NDArray[Any], item_ids: npt.NDArray[Any]
    ) -> PlantedLists | None:
        """The parameters of the best lists of some items for some users, in the given order.

        Args:
            user_ids: [n] external user ids, whole numbers.
            item_ids: [m] external item ids, whole numbers.

        Returns:
            None if the file has no exposure.

        Raises:
            DataError: an id is not of this data set.
        """
        users, items = self.user_indices(user_ids), self.item_indices(item_ids)
        if self.exposure is None:
            return None
        return PlantedLists(
            strength=self.exposure.strength,
            noise_sd=self.noise_sd,
            thresholds=self.thresholds,
            user_bias=self.user_bias[users],
            user_vectors=self.user_vectors[users],
            user_reach=self.exposure.user_reach[users],
            item_bias=self.item_bias[items],
            item_vectors=self.item_vectors[items],
            item_rate=self.exposure.item_rate[items],
        )

    def user_indices(self, ids: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """Indices of users in the arrays, for [N] external ids: the ids themselves.

        Raises:
            DataError: an id is not of this data set.
        """
        users = _whole_ids("user", ids)
        bad = (users < 0) | (users >= self.users)
        if bad.any():
            raise DataError(f"{TRUTH_FILE}: knows no user {users[bad][0]}")
        return users

    def item_indices(self, ids: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """Indices of items in the arrays, for [N] external ids.

        Raises:
            DataError: an id is not of this data set.
        """
        wanted = _whole_ids("item", ids)
        index = np.minimum(np.searchsorted(self.item_ids, wanted), self.items - 1)
        bad = self.item_ids[index] != wanted
        if bad.any():
            raise DataError(f"{TRUTH_FILE}: knows no item {wanted[bad][0]}")
        return np.asarray(index)

    def write(self, path: Path) -> None:
        """Write the truth as JSON, arrays as base64 of their little-endian bytes."""
        value = {name: getattr(self, name) for name in (*_COUNTS, *_FIGURES)}
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        value["version"] = _WITHOUT_EXPOSURE
        if self.exposure is not None:
            value["version"] = TRUTH_VERSION
            value["exposure_strength"] = self.exposure.strength
            arrays |= {name: getattr(self.exposure, name) for name in _EXPOSURE_ARRAYS}
        value["lists"] = None if self.lists is None else asdict(self.lists)
        if self.planted is not None:
            value["version"] = _WITH_RELATIONS
            value["planted"] = self.planted
        if self.drift is not None:
            value["drift_strength"] = self.drift.strength
            arrays["user_turns"] = self.drift.turns
        if self.transitions is not None:
            value["transition_chance"] = self.transitions.strength
            value["transition_weights"] = [float(weight) for weight in self.transitions.weights]
            arrays["successors"] = self.transitions.successors
        value["thresholds"] = [float(threshold) for threshold in self.thresholds]
        kinds = _ARRAYS | _EXPOSURE_ARRAYS | _OTHER_ARRAYS
        value["arrays"] = {name: pack(array, kinds[name]) for name, array in arrays.items()}
        write_json(path, value)

    @classmethod
    def read(cls, path: Place) -> "Truth":
        """Read `truth.json`, from the file or folder `path`.

        Raises:
            DataError: the file is missing, has another version, is ill-formed, or its arrays do not
                fit its counts.
        """
        if path.is_dir():
            path = path / TRUTH_FILE
        value = read_json(path)
        if value.get("version") not in (_WITHOUT_EXPOSURE, TRUTH_VERSION, _WITH_RELATIONS):
            raise DataError(
                f"{path}: version {value.get('version')!r}; this package reads {_WITHOUT_EXPOSURE} "
                f"to {_WITH_RELATIONS}, so generate the data set again"
            )
        try:
            return cls._from_dict(value)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else error
            raise DataError(f"{path}: ill-formed ({reason}); generate it again") from error

    @classmethod
    def _from_dict(cls, value: dict[str, Any]) -> "Truth":
        counts = {name: whole(value[name], name) for name in _COUNTS}
        figures = {name: finite(value[name], name) for name in _FIGURES}
        has_relations = value["version"] == _WITH_RELATIONS
        has_exposure = value["version"] == TRUTH_VERSION or (
            has_relations and "exposure_strength" in value
        )
        drifts = has_relations and "drift_strength" in value
        has_transitions = has_relations and "transition_chance" in value
        others = [("user_turns", drifts), ("successors", has_transitions)]
        kinds = _ARRAYS | (_EXPOSURE_ARRAYS if has_exposure else {})
        kinds = kinds | {name: _OTHER_ARRAYS[name] for name, there in others if there}
        arrays = {name: unpack(value["arrays"][name], name, kind) for name, kind in kinds.items()}
        thresholds = np.array([finite(item, "thresholds") for item in value["thresholds"]])
        users, items = counts["users"], counts["items"]
        if min(users, items) < 1:
            raise ValueError("there are no users or no items")
        rank = arrays["user_vectors"].shape[-1]
        shapes = {
            "user_bias": (users,),
            "user_vectors": (users, rank),
            "item_ids": (items,),
            "item_bias": (items,),
            "item_vectors": (items, rank),
            "item_rate": (items,),
            "user_reach": (users,),
            "user_turns": (users, rank),
            "successors": (items, len(value.get("transition_weights", ()))),
        }
        for name in kinds:
            shape = shapes[name]
            if arrays[name].shape != shape:
                raise ValueError(f"{name} has shape {arrays[name].shape}, not {shape}")
        if thresholds.shape != (LEVELS - 1,) or not np.all(np.diff(thresholds) > 0):
            raise ValueError(f"thresholds are not {LEVELS - 1} ascending numbers")
        if not np.all(np.diff(arrays["item_ids"]) > 0):
            raise ValueError("item_ids are not ascending")
        if figures["noise_sd"] <= 0:
            raise ValueError("noise_sd is not above 0")
        exposure = None
        if has_exposure:
            strength = finite(value["exposure_strength"], "exposure_strength")
            exposure = Exposure(strength, **{name: arrays.pop(name) for name in _EXPOSURE_ARRAYS})
        drift = transitions = None
        if drifts:
            drift = Drift(
                finite(value["drift_strength"], "drift_strength"), arrays.pop("user_turns")
            )
        if has_transitions:
            chance = finite(value["transition_chance"], "transition_chance")
            transitions = _transitions(chance, arrays.pop("successors"), value, items)
        if has_relations and not isinstance(value["planted"], dict):
            raise ValueError("planted is not a table")
        lists = None if value.get("lists") is None else _reference_lists(value["lists"])
        return cls(
            **counts,  # type: ignore[arg-type]
            **figures,  # type: ignore[arg-type]
            **arrays,  # type: ignore[arg-type]
            thresholds=thresholds,
            exposure=exposure,
            lists=lists,
            planted=value["planted"] if has_relations else None,
            drift=drift,
            transitions=transitions,
        )


def _transitions(
    chance: float, successors: npt.NDArray[np.int32], value: dict[str, Any], items: int
) -> Transitions:
    weights = np.array(
        [finite(weight, "transition_weights") for weight in value["transition_weights"]]
    )
    if successors.size and (successors.min() < 0 or successors.max() >= items):
        raise ValueError(f"successors holds an item that is not from 0 to {items - 1}")
    return Transitions(chance, successors, weights)


def _reference_lists(value: dict[str, Any]) -> ReferenceLists:
    def reached(name: str) -> dict[str, float]:
        return {metric: finite(value[name][metric], metric) for metric in ("ndcg", "recall")}

    return ReferenceLists(
        k=whole(value["k"], "k"),
        users=whole(value["users"], "users"),
        held_out=finite(value["held_out"], "held_out"),
        relevant_from=whole(value["relevant_from"], "relevant_from"),
        oracle=reached("oracle"),
        popularity=reached("popularity"),
    )


def _whole_ids(name: str, ids: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """[N] ids as int64; an empty array may be of any type."""
    ids = np.asarray(ids)
    if ids.size and not np.issubdtype(ids.dtype, np.integer):
        raise DataError(f"{TRUTH_FILE}: {name} ids are {ids.dtype}, not whole numbers")
    return ids.astype(np.int64)


def latent_bias(
    user_bias: npt.NDArray[np.float32],
    item_bias: npt.NDArray[np.float32],
    users: npt.NDArray[Any],
    items: npt.NDArray[Any],
) -> npt.NDArray[np.float32]:
    """[N] sums of the biases of [N] user and item indices."""
    return np.asarray(user_bias[users] + item_bias[items])


def latent_taste(
    user_vectors: npt.NDArray[np.float32],
    item_vectors: npt.NDArray[np.float32],
    users: npt.NDArray[Any],
    items: npt.NDArray[Any],
) -> npt.NDArray[np.float32]:
    """[N] products p_u . q_i of [N] user and item indices."""
    return np.asarray(np.einsum("nk,nk->n", user_vectors[users], item_vectors[items]))


_COUNTS = ("seed", "users", "items", "ratings")
_FIGURES = ("irreducible_rmse", "bias_rmse", "taste_share", "noise_sd")
_ARRAYS = {
    "user_bias": "<f4",
    "user_vectors": "<f4",
    "item_ids": "<i8",
    "item_bias": "<f4",
    "item_vectors": "<f4",
}
_EXPOSURE_ARRAYS = {"item_rate": "<f4", "user_reach": "<f4"}
_OTHER_ARRAYS = {"user_turns": "<f4", "successors": "<i4"}
