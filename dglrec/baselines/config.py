"""The settings of baselines."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

Auto = Literal["auto"]
_Value = TypeVar("_Value")
_Level = Annotated[float, Field(allow_inf_nan=False)]
_AboveZero = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Share = Annotated[float, Field(ge=0, le=1)]


class BaselineConfig(BaseModel):
    """The settings of baselines; `popularity`, `bias` and `global_mean` have none.

    Settings that are "auto" are chosen on validation rows by NDCG@10 for models that only rank;
    item_knn of ratings takes its defaults.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    positives: Literal["all", "liked"] | Auto | _Level = Field(
        default="auto",
        description="with ease, graph_filter, session, vsknn: training items that make a user's "
        "list; all, liked (rated at the first level not below the mean, or higher), a least "
        "rating, or auto",
    )
    ridge: _AboveZero | Auto = Field(
        default="auto", description="with ease: the ridge regression's penalty, or auto"
    )
    filter: Literal["gf_cf", "turbo_cf"] | Auto = Field(
        default="auto",
        description="with graph_filter: gf_cf (linear plus ideal low-pass), turbo_cf (polynomial "
        "of element-wise powers), or auto",
    )
    low_pass_weight: _NotNegative | Auto = Field(
        default="auto", description="with gf_cf: what the ideal low-pass filter counts, or auto"
    )
    low_pass_size: int = Field(
        default=256, ge=1, description="with gf_cf: singular vectors that the filter lets through"
    )
    user_exponent: _Share | Auto = Field(
        default="auto",
        description="with turbo_cf: power of a user's number of items that divides the user's "
        "row; items are divided by the rest to 1; or auto",
    )
    similarity_power: _AboveZero | Auto = Field(
        default="auto", description="with turbo_cf: element-wise power of similarities, or auto"
    )
    filter_order: Annotated[int, Field(ge=1, le=3)] | Auto = Field(
        default="auto", description="with turbo_cf: degree of the polynomial, 1 to 3, or auto"
    )
    neighbours: Annotated[int, Field(ge=1)] | Auto = Field(
        default="auto",
        description="with item_knn: of ratings, rated items that a prediction rests on (auto: 40); "
        "of interactions, similar items that each item has; with vsknn: past sessions that count",
    )
    shrinkage: _NotNegative | Auto = Field(
        default="auto",
        description="with item_knn: of ratings, common raters at which a similarity counts half "
        "(auto: 100); of interactions, what is added to the denominator of the cosine",
    )
    session_gap: _NotNegative | Auto = Field(
        default="auto",
        description="with session, vsknn: time without a row after which a user's session ends, in "
        "the unit of the timestamps; 0 for one session a user, or auto",
    )
    session_last: Annotated[int, Field(ge=1)] | Auto = Field(
        default="auto",
        description="with session, vsknn: the last items that stand for a user, the latest of "
        "which weighs most (of vsknn, those of the last session), or auto",
    )
    session_hops: Annotated[int, Field(ge=1, le=3)] | Auto = Field(
        default="auto",
        description="with session: how far to follow what comes next, 1 to 3, or auto",
    )
    session_exponent: _Share | Auto = Field(
        default="auto",
        description="with session: power of what follows an item that divides its row; columns are "
        "divided by the rest to 1; or auto",
    )
    session_both_ways: bool | Auto = Field(
        default="auto",
        description="with session: whether what comes right before an item counts as what comes "
        "after it, or auto",
    )
    session_candidates: int = Field(
        default=1000,
        ge=1,
        description="with vsknn: latest past sessions with an item of the user's that are compared",
    )
    min_support: int = Field(
        default=1, ge=1, description="with item_knn: fewest common users of similar items"
    )

    def with_values(self, values: Mapping[str, Any]) -> "BaselineConfig":
        """A copy with values for settings that are `auto`; the other settings stay.

        >>> BaselineConfig(ridge=7.0).with_values({"ridge": 300.0, "neighbours": 40}).ridge
        7.0
        """
        return self.model_copy(
            update={key: value for key, value in values.items() if getattr(self, key) == "auto"}
        )


def fixed(value: _Value | Auto) -> _Value:
    """The value of a setting that must not be `auto` any more.

    Raises:
        ValueError: it is `auto`.
    """
    if value == "auto":
        raise ValueError("a setting is auto, and was not chosen")
    return value
