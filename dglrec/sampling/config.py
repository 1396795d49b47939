"""The configuration of loaders: how target edges are batched and neighbours sampled."""

import math
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from dglrec.errors import UsageError

_SMALL = 2_000_000  # edges; up to here samples as large as help accuracy are cheap


class _Defaults(NamedTuple):
    """What `auto` means for folds and fan-outs, except for users' fan-out in the last layer."""

    folds: int
    of_user: int
    of_item: tuple[int, int]  # in the layers before the last, and in the last


# By whether a step encodes only the items in reach, and whether there are few ratings. For items in
# reach, the fan-outs of all layers multiply.
_DEFAULTS = {
    (False, True): _Defaults(8, -1, (10, 10)),
    (False, False): _Defaults(2, 10, (3, 1)),
    (True, True): _Defaults(3, 5, (3, 3)),
    (True, False): _Defaults(2, 2, (1, 1)),
}


WEIGHING = ("cluster", "saint", "layerwise")
"""The loaders whose steps read a sample of the graph in which each edge is weighed."""

_CLUSTERS_A_STEP = 5  # where `clusters` is auto

# A layer-wise sample has a user, and an item, for each _TARGETS_A_NODE targets, or _LEAST_NODES.
_TARGETS_A_NODE, _LEAST_NODES = 4, 512


class LoaderConfig(BaseModel):
    """How target edges are batched and their neighbourhoods sampled."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    kind: Literal["users", "neighbor", "full", "cluster", "saint", "layerwise"] = Field(
        "users",
        description="users: steps of whole users, fast; neighbor: DGL's own loader, the reference; "
        "full: steps of whole users over the whole graph, for layers that cost little an edge; "
        "cluster: Cluster-GCN, some of METIS's clusters a step; saint: GraphSAINT, the nodes that "
        "loader.draws meet; layerwise: steps of whole users, each layer of which reads further "
        "users and items that loader.importance draws",
    )
    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto",
        description="target edges in a batch (with kind users, about); auto: 1/150 of an epoch, "
        "2,048 to 262,144, with items reached 1/200, from 16,384 (or 1/8 of an epoch) on; 1,024 "
        "with kind neighbor; 1/32 with kind full",
    )
    folds: Annotated[int, Field(ge=1, le=1000)] | Literal["auto"] = Field(
        "auto",
        description="with all kinds but neighbor, parts of a user's ratings, each predicted from "
        "the others; auto: 8 up to 2 million training ratings (3 with items reached), else 2; 1 "
        "takes all, and is for exclude_targets = false",
    )
    folds_by: Literal["auto", "chance", "time"] = Field(
        "auto",
        description="with kind users: chance deals a user's ratings into folds anew each epoch; "
        "time cuts them in the order of time, and predicts each fold from earlier ones alone; "
        "auto: time with model.time_decay or time_trend, else chance",
    )
    user_fanouts: Annotated[tuple[int, ...], Field(strict=False)] | Literal["auto"] = Field(
        "auto",
        description="rated items sampled for each user, one figure a layer, the layer that reads "
        "the inputs first; -1 takes all. auto: all in the last layer, in those before it 10, or "
        "all up to 2 million training ratings; with items reached 2, or 5",
    )
    item_fanouts: Annotated[tuple[int, ...], Field(strict=False)] | Literal["auto"] = Field(
        "auto",
        description="raters sampled for each item, likewise; auto: 1 in the last layer, in those "
        "before it 3, or 10 in each up to 2 million training ratings; with items reached 1 in "
        "each, or 3",
    )
    relation_fanout: int = Field(
        10,
        ge=-1,
        description="with model.relations, neighbours sampled for each node along each direction "
        "of each relation, in each layer; -1 takes all",
    )
    items: Literal["auto", "all", "reached"] = Field(
        "auto",
        description="with kind users, which items a step encodes: all, or those that its targets, "
        "their negatives and their sampled neighbourhoods reach; auto: those reached where a "
        "step's ratings are fewer than the items",
    )
    unseen_items: float = Field(
        0.02,
        ge=0,
        lt=1,
        allow_inf_nan=False,
        description="share of the items that a step treats as though nobody had rated them, so "
        "that new items are predicted from their features; 0 for none",
    )
    unseen_users: float = Field(
        0.0,
        ge=0,
        lt=1,
        allow_inf_nan=False,
        description="with kind users, share of the users that a step treats as though they had "
        "rated nothing, so that new users are predicted from features and relations; 0 for none",
    )
    clusters: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto",
        description="with kind cluster, into how many clusters of users and items METIS cuts the "
        "graph; a pass over all of them has as many steps as batch_size says, so a step has two or "
        "more; auto: 5 a step",
    )
    draws: Literal["walk", "edge", "node"] = Field(
        "walk",
        description="with kind saint, what users and items of a step are drawn by: walks from a "
        "node, ratings, or nodes; as many of them as make a batch of batch_size targets",
    )
    walk_length: int = Field(
        2, ge=1, description="with kind saint and draws walk, hops of a walk from its start"
    )
    walk_coverage: int = Field(
        50,
        ge=1,
        description="with kind saint and draws walk, how often walks that are taken before "
        "training meet a node on average, to count by how likely nodes and ratings are met",
    )
    importance: Literal["ladies", "fastgcn"] = Field(
        "ladies",
        description="with kind layerwise, what users and items of a layer are drawn by: ladies, by "
        "what they tell the layer's own destinations, all of whose ratings are read for that; "
        "fastgcn, by what they tell all, at a cost that follows from what is drawn",
    )
    layer_users: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto",
        description="with kind layerwise, users drawn for each layer, beside those that it reads "
        "anyway; auto: a fourth of batch_size, 512 or more",
    )
    layer_items: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto",
        description="items likewise",
    )
    exclude_targets: bool = Field(
        True,
        description="keep target edges out of the messages that predict them; off is a leak, "
        "there to show what one does",
    )

    def steps_a_pass(self, num_edges: int) -> int:
        """How many steps each fold's pass has; `folds` must be a number."""
        return -(-num_edges // (self.edges_a_batch(num_edges) * int(self.folds)))

    def edges_a_batch(self, num_edges: int, *, reached: bool = False) -> int:
        """The batch size for a number of training edges; see `batch_size`.

        Args:
            num_edges: E.
            reached: whether a step encodes only the items in reach: the targets of a larger step
                then share more of them.
        """
        if self.batch_size != "auto":
            return self.batch_size
        if self.kind == "neighbor":
            return 1024
        if self.kind == "full":
            return max(num_edges // 32, 1)
        if reached:
            return min(max(num_edges // 200, min(num_edges // 8, 16_384), 2048), 262_144)
        return min(max(num_edges // 150, 2048), 262_144)

    @property
    def fanouts(self) -> list[tuple[int, int]]:
        """The fan-outs of users and of items, layer by layer.

        Raises:
            ValueError: they are auto; see `resolved`.
        """
        if self.user_fanouts == "auto" or self.item_fanouts == "auto":
            raise ValueError("fan-outs must be numbers; see LoaderConfig.resolved")
        return list(zip(self.user_fanouts, self.item_fanouts, strict=True))

    def resolved(self, num_edges: int, num_items: int, layers: int = 2) -> "LoaderConfig":
        """The same with each `auto` replaced by its meaning for a number of training edges.

        Args:
            num_edges: E.
            num_items: I.
            layers: how many the model has, each with its fan-outs.
        """
        small = num_edges <= _SMALL
        items = self.items
        if items == "auto":
            folds = (8 if small else 2) if self.folds == "auto" else self.folds
            few = self.kind == "users" and self.edges_a_batch(num_edges) * folds < num_items
            items = "reached" if few else "all"
        reached = items == "reached"
        size = self.edges_a_batch(num_edges, reached=reached)
        values: dict[str, Any] = {"items": items, "batch_size": size}
        if self.folds_by == "auto":
            values["folds_by"] = "chance"
        defaults = _DEFAULTS[reached, small]
        if self.folds == "auto":
            values["folds"] = defaults.folds
        if self.user_fanouts == "auto":
            values["user_fanouts"] = (defaults.of_user,) * (layers - 1) + (-1,) * min(layers, 1)
        if self.item_fanouts == "auto":
            first, last = defaults.of_item
            values["item_fanouts"] = (first,) * (layers - 1) + (last,) * min(layers, 1)
        resolved = self.model_copy(update=values)
        return resolved.with_clusters(num_edges) if self.kind == "cluster" else resolved

    def with_clusters(self, num_edges: int) -> "LoaderConfig":
        """The same with a number of clusters; batch size and folds must be numbers.

        Args:
            num_edges: E.

        Raises:
            UsageError: a step would have a single cluster, and read no rating between clusters.
        """
        steps = self.steps_a_pass(num_edges)
        # E ratings have at least 2 sqrt(E) users and items.
        most = max(min(_CLUSTERS_A_STEP * steps, 2 * math.isqrt(num_edges)), 1)
        count = most if self.clusters == "auto" else self.clusters
        if steps > 1 and count < 2 * steps:
            more = "" if self.clusters == "auto" else f"{2 * steps:,} clusters or more, or "
            raise UsageError(
                f"loader.clusters = {count:,}: a pass has {steps:,} steps of about "
                f"{self.edges_a_batch(num_edges):,} targets, and a step takes two clusters or "
                f"more; take {more}a larger loader.batch_size"
            )
        return self.model_copy(update={"clusters": count})

    def with_layer_sizes(self, num_edges: int, num_users: int, num_items: int) -> "LoaderConfig":
        """The same with the numbers of users and items that are drawn for a layer.

        Args:
            num_edges: E.
            num_users: U.
            num_items: I.

        Raises:
            UsageError: more are to be drawn than exist.
        """
        auto = max(self.edges_a_batch(num_edges) // _TARGETS_A_NODE, _LEAST_NODES)
        sizes = {}
        for name, count in (("users", num_users), ("items", num_items)):
            size = getattr(self, f"layer_{name}")
            if size != "auto" and size > count:
                raise UsageError(
                    f"loader.layer_{name} = {size:,}: there are {count:,} {name}; take {count:,} "
                    "or fewer, or leave it out"
                )
            sizes[f"layer_{name}"] = min(auto, count) if size == "auto" else size
        return self.model_copy(update=sizes)

    @property
    def layer_sizes(self) -> tuple[int, int]:
        """How many users and items are drawn for a layer.

        Raises:
            ValueError: they are auto; see `with_layer_sizes`.
        """
        if self.layer_users == "auto" or self.layer_items == "auto":
            raise ValueError("layer sizes must be numbers; see LoaderConfig.with_layer_sizes")
        return self.layer_users, self.layer_items

    @field_validator("user_fanouts", "item_fanouts", mode="before")
    @classmethod
    def _one_layer(cls, value: Any) -> Any:
        """A single figure is the fan-out of a single layer."""
        return (value,) if isinstance(value, int) and not isinstance(value, bool) else value

    def model_post_init(self, context: Any) -> None:
        """Refuse fan-outs that sample nothing, or that differ in the number of layers."""
        if not self.relation_fanout:
            raise ValueError("relation_fanout 0: must be 1 or more, or -1 for all")
        for name in ("user_fanouts", "item_fanouts"):
            fanouts = getattr(self, name)
            if fanouts != "auto" and any(fanout == 0 or fanout < -1 for fanout in fanouts):
                raise ValueError(f"{name} {fanouts}: each must be 1 or more, or -1 for all")
        if self.clusters != "auto" and self.kind != "cluster":
            raise ValueError(
                f"clusters {self.clusters} go with kind cluster; leave them out with {self.kind}"
            )
        for name in ("layer_users", "layer_items"):
            if getattr(self, name) != "auto" and self.kind != "layerwise":
                raise ValueError(
                    f"{name} {getattr(self, name)} goes with kind layerwise; leave it out with "
                    f"{self.kind}"
                )
        if self.unseen_users and (self.kind != "users" or not self.exclude_targets):
            raise ValueError(
                f"unseen_users {self.unseen_users}: goes with kind users and exclude_targets; "
                "leave it at 0"
            )
        if self.folds_by == "time" and (self.kind != "users" or not self.exclude_targets):
            raise ValueError(
                "folds_by time goes with kind users and exclude_targets; leave it at auto"
            )
        if self.folds == 1 and self.exclude_targets:
            raise ValueError(
                "folds 1 leaves nothing to predict a user's targets from; take 2 or more, or "
                "exclude_targets = false"
            )
        if "auto" in (self.user_fanouts, self.item_fanouts):
            return
        if len(self.user_fanouts) != len(self.item_fanouts):
            raise ValueError(
                f"user_fanouts {self.user_fanouts} and item_fanouts {self.item_fanouts}: "
                "must name the same number of layers"
            )


Stream = Literal[
    "order",
    "samples",
    "folds",
    "unseen",
    "unseen users",
    "pool",
    "dropout",
    "relations",
    "walks",
    "nodes",
    "trials",
]
"""What a seed is for; each stream has different random numbers."""


def seed_of(stream: Stream, *words: int) -> int:
    """A seed of 31 bits, as DGL reads 32-bit signed ones, from a stream and several numbers."""
    entropy = (int.from_bytes(stream.encode(), "little"), *words)
    return int(np.random.SeedSequence(entropy).generate_state(1)[0] >> 1)
