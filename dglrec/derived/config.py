"""The configuration of graphs among items and among users."""

from pydantic import BaseModel, ConfigDict, Field


class DerivedConfig(BaseModel):
    """How `model.relations` and `model.graph_features` are made from training rows."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    similar_neighbours: int = Field(
        10, ge=1, description="similar: nearest items of each item, by Pearson correlation"
    )
    similar_shrinkage: float = Field(
        10.0,
        ge=0,
        allow_inf_nan=False,
        description="similar: common ratings at which a correlation counts half",
    )
    similar_min_support: int = Field(
        2, ge=2, description="similar: the fewest common ratings of two neighbours"
    )
    visited_neighbours: int = Field(
        50, ge=1, description="visited_with: items that an item's walks visit most, so many of them"
    )
    visited_hops: int = Field(
        1000,
        ge=1,
        le=1 << 24,
        description="visited_with: hops from item to item that each item's walks take together",
    )
    visited_restart: float = Field(
        0.5,
        ge=0,
        le=1,
        description="visited_with: how likely a walk returns to its start before a hop; 1 leaves "
        "walks of one hop: items that users share, by how often",
    )
    session_gap: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="next: time without a rating after which a user's session ends, in the unit of "
        "the timestamps; 0 for one session a user",
    )
    agreement_share: float = Field(
        0.005,
        gt=0,
        le=1,
        description="agreeing_users: users are joined who rated so large a share of all items "
        "alike; 0.005 is that of the GHRS paper's code",
    )
    clusters: int = Field(
        8, ge=0, description="with model.graph_features, clusters of users; 0 for none"
    )
    pivots: int = Field(
        2000,
        ge=1,
        description="with model.graph_features, users that shortest paths start from; in a graph "
        "of more users closeness and betweenness are estimates",
    )
    seed: int = Field(0, ge=0, lt=1 << 63, description="of walks, pivots and clusters")
