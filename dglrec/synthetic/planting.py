"""What can be planted beside ratings, and how strongly: relations, attributes, times."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dglrec.errors import UsageError

F64 = npt.NDArray[np.float64]

_DEFAULT_STRENGTH = 0.5
_MOST_DRIFT = 4.0  # quarter turns: a full turn


@dataclass(frozen=True)
class Planting:
    """What a generated data set has beside ratings and item tables; nothing by default.

    Each strength is None (its default) if not given. With a strength of 0 the relation's file or
    column is still written, without any effect: the ratings are, to the byte, those of a data set
    without it.

    Attributes:
        trust: how many directed edges from users to users they trust.
        homophily: share of the variance of users' biases and tastes that circles of users who trust
            each other have in common, from 0 to below 1; 0.5 by default.
        user_attributes: whether there is a table of users.
        attribute_effect: share of the variance of users' biases and tastes that follows from age
            and occupation, half from each; 0.5 by default.
        studios: whether there is a table of items with the studio of each.
        studio_effect: share of the variance of items' biases and tastes that follows from the
            studio; 0.5 by default.
        timestamps: whether ratings have timestamps.
        drift: quarter turns that each user's taste makes from the first day to the last; 0 by
            default. Above 0 it needs timestamps.
        sessions: whether ratings come in sessions, which need timestamps.
        transitions: the probability that the next item of a session is a planted successor of the
            item before; 0.5 by default.
    """

    trust: int | None = None
    homophily: float | None = None
    user_attributes: bool = False
    attribute_effect: float | None = None
    studios: bool = False
    studio_effect: float | None = None
    timestamps: bool = False
    drift: float | None = None
    sessions: bool = False
    transitions: float | None = None

    @property
    def homophily_share(self) -> float:
        """The strength of homophily; 0 without edges."""
        return _strength(self.trust is not None, self.homophily)

    @property
    def attribute_share(self) -> float:
        """The strength of users' attributes; 0 without a table of users."""
        return _strength(self.user_attributes, self.attribute_effect)

    @property
    def studio_share(self) -> float:
        """The strength of studios; 0 without a table of them."""
        return _strength(self.studios, self.studio_effect)

    @property
    def transition_chance(self) -> float:
        """The strength of transitions; 0 without sessions."""
        return _strength(self.sessions, self.transitions)

    @property
    def turns(self) -> float:
        """The strength of drift."""
        return self.drift or 0.0

    @property
    def timed(self) -> bool:
        """Whether ratings have timestamps."""
        return self.timestamps or self.sessions or self.drift is not None

    def check(self, users: int, items: int) -> None:
        """Refuse combinations that cannot be planted.

        Raises:
            UsageError: a strength is out of range or given without its relation, or there are too
                few users or items.
        """
        for option, strength, switch, there in (
            ("--homophily", self.homophily, "--trust", self.trust is not None),
            (
                "--attribute-effect",
                self.attribute_effect,
                "--user-attributes",
                self.user_attributes,
            ),
            ("--studio-effect", self.studio_effect, "--studios", self.studios),
            ("--transitions", self.transitions, "--sessions", self.sessions),
        ):
            if strength is None:
                continue
            if not there:
                raise UsageError(f"{option}: goes with {switch}")
            if not 0 <= strength < 1:
                raise UsageError(f"{option} {strength:g}: must be from 0 to below 1")
        if self.drift is not None and not 0 <= self.drift <= _MOST_DRIFT:
            raise UsageError(f"--drift {self.drift:g}: must be from 0 to {_MOST_DRIFT:g}")
        if self.homophily_share + self.attribute_share >= 1:
            raise UsageError(
                f"--homophily {self.homophily_share:g} and --attribute-effect "
                f"{self.attribute_share:g}: both are shares of the same variance; they must be "
                "less than 1 together"
            )
        if self.trust is not None and not 1 <= self.trust <= users * (users - 1):
            raise UsageError(
                f"--trust {self.trust}: must be from 1 to the {users * (users - 1)} pairs of "
                f"--users {users}"
            )
        if self.sessions and items < 3:
            raise UsageError(f"--sessions: needs at least three items; --items is {items}")


@dataclass(frozen=True, eq=False)
class Part:
    """A part of the biases and tastes of N users or items, K = rank of the taste space.

    Attributes:
        share: of the variance of biases and of tastes.
        taste: [N, K] of mean square 1.
        bias: [N] of mean square 1.
    """

    share: float
    taste: F64
    bias: F64


def mix(independent: F64, parts: Sequence[tuple[float, F64]]) -> F64:
    """Combine independent values with parts, each by its share of the variance.

    Args:
        independent: values that follow from nothing else, of mean square 1.
        parts: shares, less than 1 together, and values in the shape of `independent`.

    Returns:
        `independent` itself, to the bit, if all shares are 0.
    """
    parts = [(share, values) for share, values in parts if share > 0]
    if not parts:
        return independent
    mixed: F64 = independent * np.sqrt(1.0 - sum(share for share, _ in parts))
    for share, values in parts:
        mixed = mixed + np.sqrt(share) * values
    return mixed


def standardised(values: F64) -> F64:
    """Values with mean 0 over the first axis, and mean square 1 over all."""
    centred = values - values.mean(axis=0)
    return np.asarray(centred / np.sqrt(max(float((centred**2).mean()), 1e-12)))


def _strength(there: bool, given: float | None) -> float:
    if not there:
        return 0.0
    return _DEFAULT_STRENGTH if given is None else given
