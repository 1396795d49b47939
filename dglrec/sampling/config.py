"""How target edges are batched."""

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator


class LoaderConfig(BaseModel):
    """How target edges are batched and their neighbourhoods sampled."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    kind: Literal["users", "neighbor"] = Field(
        "users",
        description="users: steps of whole users, fast; neighbor: DGL's own loader, the reference",
    )
    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto",
        description="target edges in a batch (with kind users, about); auto: 1/150 of an epoch, "
        "2,048 to 262,144, or 1,024 with kind neighbor",
    )
    folds: int = Field(
        4,
        ge=2,
        le=1000,
        description="with kind users: parts of a user's ratings, each predicted from the others",
    )
    user_fanouts: tuple[int, ...] = Field(
        (10, -1),
        min_length=1,
        strict=False,
        description="rated items sampled for each user, one figure a layer, the layer that reads "
        "the inputs first; -1 takes all",
    )
    item_fanouts: tuple[int, ...] = Field(
        (3, 3),
        min_length=1,
        strict=False,
        description="raters sampled for each item, likewise",
    )
    exclude_targets: bool = Field(
        True,
        description="keep target edges out of the messages that predict them; off is a leak, "
        "there to show what one does",
    )

    def edges_a_batch(self, num_edges: int) -> int:
        """The batch size for a number of training edges, where it is left to us."""
        if self.batch_size != "auto":
            return self.batch_size
        if self.kind == "neighbor":
            return 1024
        return min(max(num_edges // 150, 2048), 262_144)

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


def seed_of(*words: int) -> int:
    """One seed from several numbers, of 31 bits: DGL reads its seed as a 32-bit signed number."""
    return int(np.random.SeedSequence(words).generate_state(1)[0] >> 1)
