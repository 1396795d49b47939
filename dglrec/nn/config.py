"""The configuration of the model."""

import re
from collections.abc import Callable, Collection, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from dglrec.nn.values import Convolution
from dglrec.registry import Registry
from dglrec.relations import DERIVED_NAMES
from dglrec.schema import OF_GRAPH

Aggregator = Literal["mean", "sum", "pool", "attention", "lstm"]

_WHOLE_LAYERS = ("lightgcn", "lr_gccf", "ngcf", "graph_filter")

CONVOLUTIONS: Registry[Callable[[int, "ModelConfig"], Convolution]] = Registry(
    "convolution", "model.convolution", "register_convolution", _WHOLE_LAYERS
)
"""Convolutions along one relation by name: each entry makes one from the width H and the
configuration. Ratings, relations and residuals go with all of them. `bare.py` fills it."""

_ATTENTION = ("gat", "gatv2")

# Without dropout, models close more of the gap on planted data sets (0.82 against 0.69 at full
# size); with it, they do better on small real ones, with 11 and 43 ratings for each item.
_DROPOUT, _RATINGS_WITHOUT_DROPOUT = 0.1, 200

# More than any model needs: above it, even counting the weights takes long.
_WIDEST, _DEEPEST = 1 << 20, 64

# Numbers of a table of the list head, 64 MiB: it has three tables of items, each with two moments.
_LIST_SIZE, _LEAST_LIST_SIZE, _LIST_NUMBERS = 128, 16, 1 << 24
# With few ratings for each item, wide vectors learn nothing and make most of a step's cost.
_SPARSE_LIST_SIZE, _RATINGS_OF_WIDE_LISTS = 32, 5

# The settings that convolution graph_filter needs: it has no vectors of nodes.
_OF_SIGNALS: dict[str, Any] = {
    "heads": "rating",
    "combination": "last",
    "layers": 1,
    "node_inputs": False,
    "item_identity": False,
    "user_identity": False,
    "item_features": False,
    "user_features": False,
    "graph_features": False,
    "decoder_size": 0,
    "interaction": True,
    "dropout": 0.0,
}


class ModelConfig(BaseModel):
    """The configuration of the model."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    kind: Literal[
        "graph",
        "item_knn",
        "bias",
        "global_mean",
        "popularity",
        "ease",
        "graph_filter",
        "session",
        "vsknn",
    ] = Field(
        "graph",
        description="graph: GraphSAGE; or a baseline, which takes none of the settings below: "
        "item_knn (similar items), bias (mean and biases), global_mean; or one that only ranks: "
        "popularity, ease, graph_filter, session (what follows the last items), vsknn (similar "
        "sessions)",
    )
    heads: Literal["auto", "rating", "lists", "both"] = Field(
        "auto",
        description="what the model predicts: rating, lists, or both by one encoder; auto: both "
        "where there are ratings (rating with DGL's loader), lists where there are interactions",
    )
    embedding_size: int = Field(64, ge=1, le=_WIDEST, description="width of every node embedding")
    convolution: Annotated[str, AfterValidator(CONVOLUTIONS.known)] = Field(
        "sage",
        description="what a layer does with neighbours: sage (GraphSAGE), gcn, gat, gatv2, gin or "
        "pinsage, beside which there are rated messages and the ridge; or a layer of collaborative "
        "filtering on bare edges: lightgcn, lr_gccf, ngcf; or graph_filter: a user's ratings as a "
        "signal on the graph of similar items, see --config gsp",
    )
    attention_heads: int = Field(4, ge=1, description="of convolutions gat and gatv2")
    attention_merge: Literal["concat", "mean"] = Field(
        "concat",
        description="what is made of the heads' results: concat, of embedding_size / "
        "attention_heads columns each, or the mean of heads of embedding_size columns",
    )
    residual: bool | Literal["auto"] = Field(
        "auto",
        description="whether a layer adds what a node was before to what it makes of it; auto: "
        "with sage, gcn, gat, gatv2 and gin, but not with pinsage, which divides "
        "by the length; the other layers have none",
    )
    unit_length: bool | Literal["auto"] = Field(
        "auto",
        description="whether a layer divides what it makes of a node by its length, before the "
        "residual; auto: with pinsage; lightgcn and lr_gccf do not, and ngcf does, in any case",
    )
    filter_features: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(strict=False)] = (
        Field(
            (64, 32),
            min_length=1,
            description="with convolution graph_filter, features of each layer of graph filters",
        )
    )
    filter_taps: int = Field(
        5,
        ge=1,
        description="with convolution graph_filter, taps of each filter: it reads items up to so "
        "many edges away, less one",
    )
    combination: Literal["last", "mean", "concat", "weighted", "max"] = Field(
        "last",
        description="what is made of all layers' results and the inputs: the last, their mean, all "
        "of them side by side, their mean by weights that are learned, or the maximum of each "
        "column",
    )
    layers: int = Field(
        2,
        ge=0,
        le=_DEEPEST,
        description="graph convolutions, and so hops; 0 is a factorisation, without graph",
    )
    aggregator: Aggregator = Field(
        "mean",
        description="with convolution sage, how a node's bare messages become one: mean, sum, pool "
        "(maximum), attention, or lstm (in a random order)",
    )
    lstm_neighbours: int = Field(
        32,
        ge=1,
        description="with aggregator lstm, of how many of its neighbours at most a node is told: a "
        "new sample in each step of training, a fixed one in inference",
    )
    rating_messages: bool = Field(
        True, description="messages carry the centred rating too; off is GraphSAGE on bare edges"
    )
    column_damping: bool = Field(
        True, description="how much few ratings count is learned for each column, not once for all"
    )
    spread: bool = Field(
        True,
        description="nodes are known by the spread of their ratings too, beside bias and count",
    )
    node_inputs: bool = Field(
        True, description="nodes are known by bias, degree and spread; off leaves their vectors"
    )
    item_identity: bool = Field(True, description="a learned vector for each item")
    user_identity: bool = Field(
        False, description="a learned vector for each user; off serves users never trained on"
    )
    identity_damping: float = Field(
        100.0,
        ge=0,
        allow_inf_nan=False,
        description="ratings at which a node's learned vector counts half; the fewer a node has, "
        "the less its vector counts",
    )
    item_features: bool | Annotated[tuple[str, ...], Field(strict=False)] = Field(
        True,
        description="use all features of the items, none, or those named: genres, text, numeric",
    )
    new_items: Literal["encoder", "transfer"] = Field(
        "encoder",
        description="what items without ratings are made of: encoder (the model itself, trained "
        "for it by loader.unseen_items), or transfer (a ridge regression from features to the "
        "embeddings of rated items, fitted after training; loader.unseen_items is then 0 unless "
        "it is set)",
    )
    user_features: bool | Annotated[tuple[str, ...], Field(strict=False)] = Field(
        True,
        description="use all features of the users, none, or those named, like age or occupation",
    )
    relations: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        (),
        description="relations of the data set, beside the ratings, along which users and items "
        "are told something: like trusts, or has_genres for genres as nodes; or of those made from "
        "training rows: similar, visited_with, agreeing_users",
    )
    graph_features: bool = Field(
        False,
        description="features of users by their place among users who rated alike (PageRank, "
        "degree, closeness, betweenness, clusters), made from training rows",
    )
    time_decay: bool = Field(
        False,
        description="older ratings of a user or an item weigh less in messages, the ridge and "
        "lists, by half-lives that are learned; needs timestamps",
    )
    time_trend: bool = Field(
        False,
        description="the ridge regression fits a user's taste as a line in time, and not as a "
        "point; needs timestamps",
    )
    refinement: int = Field(
        16,
        ge=0,
        description="width of the ridge regression that fits users' embeddings to their ratings; "
        "0 for none",
    )
    refined_layers: Literal["auto", "last", "all"] = Field(
        "auto",
        description="behind which layers the ridge regression is: the last, or all, so that users "
        "who are told something by users hear of tastes that are fitted; auto: all with a relation "
        "between users, where steps read all ratings of a user in each layer, else last",
    )
    decoder_size: int = Field(
        64, ge=0, description="hidden units of the edge regressor; 0 leaves the dot product"
    )
    interaction: bool = Field(
        True, description="add a dot product of the two embeddings to the edge regressor"
    )
    identity_start: Literal["normal", "spectral"] = Field(
        "normal",
        description="where the learned vectors of users and items begin: normal (by chance), or "
        "spectral (the largest singular vectors of the normalised adjacency)",
    )
    spectral_std: float = Field(
        0.1,
        gt=0,
        allow_inf_nan=False,
        description="standard deviation of the vectors that identity_start spectral begins with: "
        "with bpr large ones leave less of the spectrum to be learned again",
    )
    list_maps: bool = Field(
        True,
        description="whether lists have maps and item vectors of their own; off takes the dot "
        "product of the embeddings as they are",
    )
    list_size: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto",
        description="width of the vectors that lists are made with; auto: 128 up to 131,072 items, "
        "fewer above, and 16 from a million on; at most 32 where items have fewer than 5 training "
        "ratings on average",
    )
    item_items: Literal["auto", "none", "ease", "graph"] = Field(
        "auto",
        description="item-item weights that are added to the lists' scores after training, as "
        "validation says: ease, or the normalised graph of items that users share; auto: ease up "
        "to 10,000 items, else graph where it takes minutes, and half a GB, at most",
    )
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] | Literal["auto"] = Field(
        "auto",
        description="share of embedding units dropped; auto: 0.1, or 0 where items have 200 "
        "training ratings or more on average",
    )

    @field_validator("item_features", "user_features", "relations", mode="before")
    @classmethod
    def _split_names(cls, value: Any) -> Any:
        """Split a string of names at its commas."""
        return tuple(value.replace(" ", "").split(",")) if isinstance(value, str) else value

    def model_post_init(self, context: Any) -> None:
        """Refuse a decoder without any term, and parts that do not go together."""
        convolves = self.convolution in CONVOLUTIONS
        if self.relations and not convolves:
            raise ValueError(
                f"relations are read by convolution {_either(tuple(CONVOLUTIONS))}, and not by "
                f"{self.convolution}; leave relations out, or take one of these"
            )
        if self.residual is True and not convolves:
            raise ValueError(
                f"residual goes with convolution {_either(tuple(CONVOLUTIONS))}; "
                f"{self.convolution} has none, and takes combination mean or concat in its place"
            )
        if self.unit_length is True and not convolves:
            raise ValueError(
                f"unit_length goes with convolution {_either(tuple(CONVOLUTIONS))}; leave it out "
                f"with {self.convolution}, whose layers are as their paper has them"
            )
        if self.convolution in _ATTENTION and self.attention_merge == "concat":
            self._check_heads()
        if self.relations and not self.layers:
            raise ValueError("relations are read by layers, and layers is 0; take 1 or more")
        for key in ("item_features", "user_features"):
            named = getattr(self, key)
            if not isinstance(named, bool) and "" in named:
                raise ValueError(f"{key}: a name is empty; take names, true or false")
        for name in self.relations:
            if not re.fullmatch("[a-z0-9_]+", name):
                raise ValueError(
                    f"relations: {name!r} is no name; names have lowercase letters, digits and _"
                )
        if len(set(self.relations)) < len(self.relations):
            raise ValueError(f"relations {', '.join(self.relations)}: name each once")
        if self.time_decay and (self.convolution != "sage" or self.aggregator != "mean"):
            raise ValueError(
                "time_decay weighs means of messages: it goes with convolution sage and "
                f"aggregator mean, and not with {self.convolution} and {self.aggregator}"
            )
        if self.time_decay and not self.layers:
            raise ValueError("time_decay weighs messages, and layers is 0; take 1 or more")
        if self.time_trend and not (convolves and self.layers and self.refines(last=True)):
            raise ValueError(
                "time_trend is part of the ridge regression after the layers: it goes with "
                f"convolution {_either(tuple(CONVOLUTIONS))}, layers and refinement of 1 or more, "
                "and rating_messages"
            )
        if not self.decoder_size and not self.interaction:
            raise ValueError("decoder_size 0 and no interaction leave nothing but the biases")
        if self.convolution == "graph_filter":
            self._check_signals()
        elif not self.node_inputs and not (self.item_identity and self.user_identity):
            raise ValueError(
                "with node_inputs off, nodes need an identity: set user_identity and item_identity"
            )
        if self.identity_start == "spectral" and not (self.item_identity and self.user_identity):
            raise ValueError(
                "identity_start spectral needs a vector for each node: set user_identity and "
                "item_identity"
            )
        if self.new_items == "transfer" and not self.item_features:
            raise ValueError(
                "new_items transfer maps features of items, and item_features is off; name some, "
                "or take new_items encoder"
            )
        if not self.list_maps and self.heads == "rating":
            raise ValueError("list_maps goes with a list head; take heads lists or both")

    def _check_heads(self) -> None:
        """Refuse a number of attention heads that does not divide the width of an embedding.

        Raises:
            ValueError: it does not.
        """
        heads, size = self.attention_heads, self.embedding_size
        if size % heads:
            fitting = max(one for one in range(1, min(heads, size) + 1) if size % one == 0)
            raise ValueError(
                f"attention_heads {heads} do not divide embedding_size {size}: take {fitting}, or "
                f"embedding_size {-(-size // heads) * heads}, or attention_merge mean"
            )

    def _check_signals(self) -> None:
        """Refuse settings of node vectors, which graph filters do not have.

        Raises:
            ValueError: such a setting differs from `_OF_SIGNALS`.
        """
        wrong = [name for name, value in _OF_SIGNALS.items() if getattr(self, name) != value]
        if wrong:
            wanted = ", ".join(f"{name} {_OF_SIGNALS[name]}" for name in wrong)
            raise ValueError(
                f"convolution graph_filter reads ratings and the graph of items alone, and takes "
                f"{wanted}; start from --config gsp"
            )

    @property
    def read_user_features(self) -> bool | tuple[str, ...]:
        """`user_features`, plus those of the graph with `graph_features`."""
        if not self.graph_features or self.user_features is True:
            return self.user_features
        return (*(self.user_features or ()), OF_GRAPH)

    def derived_names(self, relations: Collection[str]) -> list[str]:
        """The names of what has to be made from training rows for the model.

        Args:
            relations: names of the relations that files gave, which take precedence.
        """
        if self.kind != "graph":
            return []
        wanted = ("similar",) if self.convolution == "graph_filter" else self.relations
        names = [one for one in wanted if one in DERIVED_NAMES and one not in relations]
        return [*names, OF_GRAPH] if self.graph_features else names

    def refines(self, *, last: bool) -> bool:
        """Whether there is a ridge regression after the last layer, or after the other layers."""
        refined = last or self.refined_layers == "all"
        return refined and self.rating_messages and self.refinement > 0

    @property
    def ridge_width(self) -> int:
        """Columns of the ridge regression; a trend in time doubles them."""
        return self.refinement * (2 if self.time_trend else 1)

    @property
    def reads_times(self) -> bool:
        """Whether layers need the ages of ratings."""
        return self.time_decay or self.time_trend

    @property
    def adds_residual(self) -> bool:
        """Whether layers add a node's previous value to its new one."""
        if self.residual == "auto":
            return self.convolution in CONVOLUTIONS and not self.pools_by_importance
        return self.residual

    @property
    def has_unit_lengths(self) -> bool:
        """Whether layers divide a node's new value by its length."""
        if self.unit_length == "auto":
            return self.pools_by_importance
        return self.unit_length

    @property
    def pools_by_importance(self) -> bool:
        """Whether layers are PinSage's: they map neighbours first, and all end with a ReLU."""
        return self.convolution == "pinsage"

    @property
    def encoded_size(self) -> int:
        """The width of the encoder's embedding of a node."""
        concatenated = self.combination == "concat"
        return self.embedding_size * (self.layers + 1 if concatenated else 1)

    @property
    def rates(self) -> bool:
        """Whether there is a rating head."""
        return self.heads in ("rating", "both")

    @property
    def lists(self) -> bool:
        """Whether there is a list head."""
        return self.heads in ("lists", "both")

    def list_width(self, num_items: int, num_edges: int | None = None) -> int:
        """The width of the vectors that lists are made with; see `list_size`.

        Args:
            num_items: I.
            num_edges: E; None where it is not known, which counts as many.
        """
        if self.list_size != "auto":
            return self.list_size
        few = num_edges is not None and num_edges < _RATINGS_OF_WIDE_LISTS * num_items
        most = _SPARSE_LIST_SIZE if few else _LIST_SIZE
        return min(most, max(_LEAST_LIST_SIZE, _LIST_NUMBERS // max(num_items, 1)))

    def missing_features(self, there: Collection[str]) -> list[str]:
        """The named features of items that a data set lacks."""
        return missing(self.item_features, there)

    def missing_user_features(self, there: Collection[str]) -> list[str]:
        """The named features of users that a data set lacks."""
        return missing(self.user_features, there)

    def dropout_share(self, ratings_an_item: float = 0.0) -> float:
        """The share of units to drop; see `dropout`."""
        if self.dropout != "auto":
            return self.dropout
        return 0.0 if ratings_an_item >= _RATINGS_WITHOUT_DROPOUT else _DROPOUT


def _either(names: Sequence[str]) -> str:
    """The names as alternatives, for a message."""
    return f"{', '.join(names[:-1])} or {names[-1]}"


def missing(wanted: bool | Sequence[str], there: Collection[str]) -> list[str]:
    """The wanted names that are not in `there`; `True` and `False` name nothing."""
    names = () if isinstance(wanted, bool) else wanted
    return [name for name in names if name not in there]
