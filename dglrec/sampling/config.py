"""How target edges are batched."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator


class LoaderConfig(BaseModel):
    """How target edges are batched and their neighbourhoods sampled."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    batch_size: int = Field(1024, ge=1, description="target edges in a batch")
    user_fanouts: tuple[int, ...] = Field(
        (10, 100),
        min_length=1,
        strict=False,
        description="rated items sampled for each user, one figure a layer, the layer that reads "
        "the inputs first; -1 takes all",
    )
    item_fanouts: tuple[int, ...] = Field(
        (10, 10),
        min_length=1,
        strict=False,
        description="raters sampled for each item, likewise",
    )
    exclude_targets: bool = Field(
        True,
        description="keep target edges out of the messages that predict them; off is a leak, "
        "there to show what one does",
    )

    @field_validator("user_fanouts", "item_fanouts", mode="before")
    @classmethod
    def _one_layer(cls, value: Any) -> Any:
        """A lone figure is that of a lone layer."""
        return (value,) if isinstance(value, int) and not isinstance(value, bool) else value

    def model_post_init(self, context: Any) -> None:
        """Refuse fan-outs that sample nothing, or that differ in the number of layers."""
        for name in ("user_fanouts", "item_fanouts"):
            fanouts = getattr(self, name)
            if any(fanout == 0 or fanout < -1 for fanout in fanouts):
                raise ValueError(f"{name} {fanouts}: each must be 1 or more, or -1 for all")
        if len(self.user_fanouts) != len(self.item_fanouts):
            raise ValueError(
                f"user_fanouts {self.user_fanouts} and item_fanouts {self.item_fanouts}: "
                "must name the same number of layers"
            )
