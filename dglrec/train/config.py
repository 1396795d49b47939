"""The configuration of training, and `Settings`, all configurations of a training together."""

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from dglrec.baselines import BaselineConfig
from dglrec.dataset import RatingDataset
from dglrec.derived import DerivedConfig
from dglrec.errors import UsageError
from dglrec.graph import RatingGraph
from dglrec.nn import CONVOLUTIONS, ModelConfig
from dglrec.relations import DERIVED_AMONG_USERS, DERIVED_NAMES
from dglrec.sampling import WEIGHING, LoaderConfig
from dglrec.train.objectives.config import RankingConfig
from dglrec.train.objectives.rating import LOSSES

# Chosen on planted data of full size, where twice the rate diverges, and on the small real sets.
_RATE, _BATCH_OF_RATE, _ROOT = 0.01, 1 << 18, 5

_HIGHEST = 1_000.0  # of rate and decay: too high to learn anything, but no overflow in float32


class TrainConfig(BaseModel):
    """How the model is fitted."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    epochs: int = Field(10, ge=1, description="passes over the training ratings, at most")
    stop_after: int = Field(
        0,
        ge=0,
        description="epochs after which training ends, while the learning rate falls as over all "
        "of train.epochs; 0: none. What is trained again by train.refit has the best epoch here",
    )
    refit: Literal["none", "valid", "all"] = Field(
        "none",
        description="once the best epoch is known, train with the same settings for as many epochs "
        "on training and validation rows (valid), or on these and the test rows (all); none: keep "
        "the model that was chosen",
    )
    patience: int = Field(
        3,
        ge=1,
        description="epochs without progress on validation rows before training stops. Progress is "
        "the lowest RMSE so far, the highest ranking.metric of lists, or, where there are both, an "
        "epoch that is the best by the two together",
    )
    begin_with: str = Field(
        "",
        description="a run whose best model training begins with, as `train --from` sets it: its "
        "weights, and its vectors of the users and items that are known there; empty: with none",
    )
    loss: Annotated[str, AfterValidator(LOSSES.known)] = Field(
        "mse",
        description="mse, smooth_l1, or weighted_mse: squared errors weighed by how rare the "
        "rating is (the best epoch is still that of the lowest plain validation RMSE)",
    )
    optimizer: Literal["adam", "adamw"] = Field("adamw", description="adam or adamw")
    learning_rate: Annotated[float, Field(gt=0, le=_HIGHEST)] | Literal["auto"] = Field(
        "auto",
        description="highest learning rate; auto: 0.01 at a batch of 262,144, falling with the "
        "fifth root of the batch size",
    )
    weight_decay: float = Field(
        0.0, ge=0, le=_HIGHEST, description="adamw's decay; adam's L2 penalty"
    )
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="how the learning rate falls to zero over all epochs, or stays"
    )
    warmup_steps: int = Field(50, ge=0, description="steps over which the learning rate rises")
    precision: Annotated[
        Literal["float32", "bfloat16"],
        BeforeValidator(lambda name: {"fp32": "float32", "bf16": "bfloat16"}.get(name, name)),
    ] = Field(
        "float32",
        description="of messages and embeddings in training; weights, sums, heads and loss stay "
        "float32. bfloat16 (or bf16) saves a GPU memory traffic, and a CPU nothing",
    )
    compile: bool = Field(
        False,
        description="have torch.compile make fewer and larger kernels of a step, which takes it a "
        "minute or two first; on a GPU, with one process and batches of fixed shapes "
        "(loader.kind users, loader.items all; docs/benchmarks.md)",
    )
    accumulation_steps: int = Field(
        1, ge=1, description="batches whose gradients make one step; saves memory"
    )
    clip_norm: float = Field(1.0, gt=0, description="largest norm of a step's gradient")
    seed: int = Field(0, ge=0, lt=2**63, description="of weights, order, samples and dropout")
    checkpoint_seconds: float = Field(
        300.0,
        ge=0,
        allow_inf_nan=False,
        description="seconds between checkpoints within an epoch; 0: none by time",
    )
    checkpoint_steps: int = Field(0, ge=0, description="steps between them; 0: none by steps")
    keep_checkpoints: int = Field(
        2, ge=1, description="the last so many are kept, to go back to where one is damaged"
    )
    logger: Literal["none", "tensorboard", "mlflow", "wandb"] = Field(
        "none",
        description="a tracker that settings and figures go to as well, below the run's folder "
        "unless its own environment variables name another place; each is an extra of its name "
        "(docs/trackers.md)",
    )

    @property
    def is_refit(self) -> bool:
        """Whether this is the second training, after an epoch was chosen; see `refit`."""
        return self.refit != "none" and self.stop_after > 0

    @property
    def last_epoch(self) -> int:
        """The last epoch to train, from 1."""
        return min(self.epochs, self.stop_after) if self.stop_after else self.epochs


_FANOUT_OF_DECAY = 10


@dataclass(frozen=True)
class Settings:
    """All configurations of a training."""

    model: ModelConfig
    loader: LoaderConfig
    train: TrainConfig
    baseline: BaselineConfig = field(default_factory=BaselineConfig)
    ranking: RankingConfig = field(default_factory=lambda: RankingConfig.model_validate({}))
    derived: DerivedConfig = field(default_factory=lambda: DerivedConfig.model_validate({}))

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Plain values by section and key, as in `config.toml`."""
        return {name: section.model_dump(mode="json") for name, section in self._sections().items()}

    def given(self) -> dict[str, dict[str, Any]]:
        """The same for the values that were set, even if to their defaults."""
        return {
            name: section.model_dump(mode="json", exclude_unset=True)
            for name, section in self._sections().items()
        }

    def _sections(self) -> dict[str, BaseModel]:
        return {
            "model": self.model,
            "loader": self.loader,
            "train": self.train,
            "baseline": self.baseline,
            "ranking": self.ranking,
            "derived": self.derived,
        }

    def resolved(
        self, graph: RatingGraph, *, has_ratings: bool = True, among_users: Collection[str] = ()
    ) -> "Settings":
        """The settings with each `auto` resolved for these training ratings.

        The settings of a baseline are returned unchanged.

        Args:
            graph: the training ratings.
            has_ratings: whether they are ratings, and not interactions.
            among_users: names of the data set's relations between users.

        Raises:
            UsageError: settings do not go together or with the data: a sampling loader has no
                layer, or a head or convolution that it cannot serve; ratings are to be predicted
                from interactions; the loader does not read relations; users count as unseen while
                the model reads data derived from their ratings; timestamps are missing; or an LSTM
                is to be compiled.
        """
        if self.model.kind != "graph":
            return self
        heads, kind = self.model.heads, self.loader.kind
        samples = kind in ("neighbor", *WEIGHING)  # and encodes what it samples alone
        if heads == "auto" and has_ratings:
            heads = "rating" if samples else "both"
        elif heads == "auto":
            heads = "lists"
        if heads != "rating" and samples:
            raise UsageError(
                f"model.heads = {heads}: lists are learned over all items, but "
                f"loader.kind={kind} encodes only those of a batch; take kind users or full"
            )
        if heads != "lists" and not has_ratings:
            raise UsageError(
                f"model.heads = {heads}: the data set holds interactions, and no rating to "
                "predict; leave it out, or take lists"
            )
        if samples and not self.model.layers:
            raise UsageError(
                f"model.layers = 0 leaves loader.kind={kind} nothing to sample; take kind users"
            )
        if kind in WEIGHING:
            self._check_weighed()
        if self.model.relations and self.loader.kind != "users":
            raise UsageError(
                f"model.relations = {', '.join(self.model.relations)}: loader.kind="
                f"{self.loader.kind} reads ratings alone; take kind users"
            )
        of_ratings = [name for name in ("agreeing_users",) if name in self.model.relations]
        of_ratings += ["graph_features"] if self.model.graph_features else []
        if of_ratings and self.loader.unseen_users:
            raise UsageError(
                f"loader.unseen_users = {self.loader.unseen_users:g} treats users as though they "
                f"had rated nothing, but {' and '.join(of_ratings)} would reveal what they rated; "
                "leave one of them out"
            )
        made = [name for name in self.model.relations if name in DERIVED_NAMES]
        made += ["graph_features"] if self.model.graph_features else []
        self._check_times(graph, made)
        signals = self.model.convolution == "graph_filter"
        if signals and (self.loader.kind != "users" or self.loader.items == "reached"):
            raise UsageError(
                "model.convolution = graph_filter: a user's signal is over all items; take "
                "loader.kind users and loader.items all"
            )
        if self.train.compile and self.model.aggregator == "lstm":
            raise UsageError(
                "train.compile = true takes batches of fixed shapes, and model.aggregator = lstm "
                "has others for each; leave one of them out"
            )
        loader = self._loader(graph)
        ranking = self.ranking
        if heads != "rating":
            every_item = loader.items != "reached"
            counts = graph.num_users, graph.num_items, graph.num_edges
            ranking = ranking.resolved(*counts, every_item=every_item)
        dropout = self.model.dropout_share(graph.num_edges / graph.num_items)
        rate = self.train.learning_rate
        if rate == "auto":
            targets = loader.edges_a_batch(graph.num_edges) * self.train.accumulation_steps
            rate = _RATE * (targets / _BATCH_OF_RATE) ** (1 / _ROOT)
        return replace(
            self,
            model=self.model.model_copy(
                update={
                    "dropout": dropout,
                    "refined_layers": self._refined_layers(loader, among_users),
                    "heads": heads,
                    # With graph filters a user's vector has a value for each item.
                    "embedding_size": graph.num_items if signals else self.model.embedding_size,
                    "list_size": self.model.list_width(graph.num_items, graph.num_edges),
                }
            ),
            loader=loader,
            ranking=ranking,
            train=self.train.model_copy(update={"learning_rate": rate}),
        )

    def resolved_for(self, dataset: RatingDataset) -> "Settings":
        """`resolved` for the training ratings of a data set.

        Raises:
            UsageError: see `resolved`.
        """
        return self.resolved(
            dataset.graph, has_ratings=dataset.has_ratings, among_users=dataset.among_users
        )

    def _refined_layers(self, loader: LoaderConfig, among_users: Collection[str]) -> str:
        """`model.refined_layers`, with `auto` resolved to `all` or kept, meaning the last layer.

        It is `all` only if training reads all ratings of a user: a refinement that is fitted to a
        sample of them differs from that in inference.
        """
        wanted = self.model.refined_layers
        of_users = {*among_users, *DERIVED_AMONG_USERS}
        hears_of_users = not of_users.isdisjoint(self.model.relations)
        reads_all = all(of_user < 0 for of_user, _ in loader.fanouts)
        return "all" if wanted == "auto" and hears_of_users and reads_all else wanted

    def _check_weighed(self) -> None:
        """Refuse aggregations other than sums over edges: edge weights correct only sums.

        Raises:
            UsageError: the model has another aggregation, or compiling needs fixed shapes.
        """
        if self.train.compile:
            raise UsageError(
                f"train.compile = true takes batches of fixed shapes, and loader.kind="
                f"{self.loader.kind} has none; leave it out, or take loader.kind users"
            )
        asked = f"aggregator = {self.model.aggregator}"
        sums = self.model.aggregator in ("mean", "sum")
        if self.model.convolution != "sage":
            asked = f"convolution = {self.model.convolution}"
            # A registered convolution may aggregate in any way.
            sums = self.model.convolution not in ("gat", "gatv2", *CONVOLUTIONS.added)
        if not sums:
            raise UsageError(
                f"model.{asked}: loader.kind={self.loader.kind} weighs the edges of a sample so "
                "that their sums are those of all edges, but this is not a sum; take convolution "
                "sage with aggregator mean or sum, or another one without attention, or "
                "loader.kind users, full or neighbor"
            )

    def _check_times(self, graph: RatingGraph, made: list[str]) -> None:
        """Refuse settings that need timestamps with data or a loader that lacks them.

        Args:
            graph: the training ratings.
            made: names of the relations and features derived from all training ratings that the
                model reads.

        Raises:
            UsageError: there is such a setting, or derived data would reveal later ratings.
        """
        by_time = self.loader.folds_by == "time" or (
            self.model.reads_times
            and self.loader.folds_by == "auto"
            and self.loader.exclude_targets
        )
        if by_time and made:
            raise UsageError(
                "loader.folds_by = time predicts ratings from earlier ones, and "
                f"{' and '.join(made)} would reveal what users rated later; leave one of them out"
            )
        asked = {
            "model.time_decay = true": self.model.time_decay,
            "model.time_trend = true": self.model.time_trend,
            "loader.folds_by = time": self.loader.folds_by == "time",
        }
        for setting in [name for name, is_asked in asked.items() if is_asked]:
            if self.loader.kind != "users" or self.train.compile:
                raise UsageError(
                    f"{setting}: timestamps are read by loader.kind=users, without train.compile; "
                    "leave these out, or the setting"
                )
            if graph.times is None:
                raise UsageError(
                    f"{setting}: the data set has no timestamps; leave it out, or prepare a source "
                    "with timestamps (a data set of an earlier version: again)"
                )

    def _check_related(self, graph: RatingGraph) -> None:
        """Refuse related negatives where they are not possible.

        Raises:
            UsageError: steps do not encode all items, compiling needs fixed shapes, or the range of
                places begins after the last item.
        """
        if self.loader.items == "reached":
            raise UsageError(
                "loader.items = reached: ranking.related_negatives draws items for each target, "
                "which a step has then not encoded; take loader.items all, or leave them out"
            )
        if self.train.compile:
            raise UsageError(
                "train.compile = true: ranking.related_negatives are more from epoch to epoch, "
                "and shapes with them; leave one of the two out"
            )
        first = self.ranking.related_places[0]
        if first > graph.num_items:
            raise UsageError(
                f"ranking.related_places begins at {first}, and there are {graph.num_items:,} "
                "items; take places further in front"
            )

    def _loader(self, graph: RatingGraph) -> LoaderConfig:
        """The resolved configuration of the loader, whose steps may have to encode all items.

        Raises:
            UsageError: steps are to encode only the items that they reach, which does not go with
                other settings; or layers are to read more nodes than there are.
        """
        loader = self.loader
        if loader.folds_by == "auto":
            by = "time" if self.model.reads_times and loader.exclude_targets else "chance"
            loader = loader.model_copy(update={"folds_by": by})
        if self.model.time_decay and loader.item_fanouts == "auto":
            # A decay cannot be learned from a single sampled rater, the default on large data.
            loader = loader.model_copy(
                update={"item_fanouts": (_FANOUT_OF_DECAY,) * self.model.layers}
            )
        catalogue = self.model.heads != "rating" and self.ranking.negatives == "catalogue"
        related = self.model.heads != "rating" and self.ranking.related_negatives > 0
        if related:
            self._check_related(graph)
        if catalogue and loader.items == "reached":
            raise UsageError(
                "loader.items = reached: ranking.negatives = catalogue scores all items in each "
                "step; take loader.items all, or a pool of negatives (uniform)"
            )
        if loader.items == "reached" and loader.kind != "users":
            raise UsageError(
                f"loader.items = reached goes with loader.kind=users; {loader.kind} says itself "
                "which items it encodes"
            )
        if catalogue or related or self.model.convolution == "graph_filter":
            loader = loader.model_copy(update={"items": "all"})
        if self.model.new_items == "transfer" and "unseen_items" not in loader.model_fields_set:
            # Items without ratings are not made by what this would train.
            loader = loader.model_copy(update={"unseen_items": 0.0})
        loader = loader.resolved(graph.num_edges, graph.num_items, self.model.layers)
        if loader.kind == "layerwise":
            counts = graph.num_edges, graph.num_users, graph.num_items
            loader = loader.with_layer_sizes(*counts)
        return loader
