"""How baselines are fitted."""

from pydantic import BaseModel, ConfigDict, Field


class BaselineConfig(BaseModel):
    """How `model.kind` item_knn is fitted, and predicts; the other baselines have no settings."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    neighbours: int = Field(
        default=40,
        ge=1,
        description="with model.kind item_knn: rated items that a prediction rests on",
    )
    shrinkage: float = Field(
        default=100.0,
        ge=0,
        allow_inf_nan=False,
        description="with item_knn: common raters at which a similarity counts half",
    )
    min_support: int = Field(
        default=1, ge=1, description="with item_knn: fewest common raters of similar items"
    )
