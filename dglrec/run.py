"""A run's folder, and the trained model in it.

config.toml           what it was trained with
environment.json      versions and machine
metrics.jsonl         one line an epoch
results.json          metrics of the best epoch's model
checksums.json        of the four files above, written once training has finished
train.log             what training said, with times
checkpoints/last/     what training goes on from
checkpoints/step-N/   older ones, kept in case that one is damaged
checkpoints/best/     the epoch with the best validation figure
checkpoints/items/    item-item weights beside its list head, where it has some
checkpoints/derived/  what the model reads that was made from training rows, where it does
selection/            of a refitted run (`train.refit`): the run, on training rows alone, whose
                      validation rows chose what this one was trained with
.lock                 held by the process that trains
"""

import errno
import fcntl
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import pandas as pd
import torch
from pydantic import BaseModel, ValidationError
from torch import Tensor

from dglrec.baselines import Baseline, BaselineConfig, load_model
from dglrec.biases import Biases
from dglrec.blocks import RelationBlock, WeightedEdges
from dglrec.checkpoint import MODEL_FILE, Checkpoint, load_checkpoint, save_checkpoint
from dglrec.dataset import (
    DATASET_FILE,
    HELD_OUT,
    PROOFS,
    TRAIN,
    DerivedDataset,
    RatingDataset,
)
from dglrec.derived import WeightedAdjacency
from dglrec.distributed import ALONE, World
from dglrec.errors import DataError, UsageError
from dglrec.files import check_checksums, disk_errors
from dglrec.graph import Adjacency, RatingGraph
from dglrec.infer import (
    Embeddings,
    EncodedNodes,
    ItemItems,
    ItemWeights,
    ListScorer,
    Scorer,
    blocks_of_labels,
    embed_all,
    embed_without,
    predict_pairs,
)
from dglrec.kernels import ItemLists
from dglrec.nn import ModelConfig, RatingModel
from dglrec.progress import log
from dglrec.relations import DERIVED_NAMES, ITEM_TYPE, USER_TYPE, Direction, directions_of

CONFIG_FILE = "config.toml"
ENVIRONMENT_FILE = "environment.json"
METRICS_FILE = "metrics.jsonl"
RESULTS_FILE = "results.json"
LOG_FILE = "train.log"
LOCK_FILE = ".lock"
LAST = Path("checkpoints") / "last"
BEST = Path("checkpoints") / "best"
SELECTION = "selection"
ITEM_ITEMS = Path("checkpoints") / "items"
DERIVED = Path("checkpoints") / "derived"

_Config = TypeVar("_Config", bound=BaseModel)

Order = Literal["lists", "rating"]

History = Literal["auto", "train", "valid", "all"]
"""Which rows a model reads: `train`, those that it was trained on; `valid`, validation rows as
well; `all`, all rows of the data set; `auto`, `all` where it was trained on more than training
rows, as of a model that nobody is going to measure, else `train`."""


@dataclass(frozen=True, kw_only=True)
class _Trained:
    """What is trained, with the data set that it was trained on.

    Attributes:
        dataset: whose training ratings it reads.
        meta: the checkpoint's description.
        world: the processes that have it, to share what is computed with it.
    """

    dataset: RatingDataset
    meta: dict[str, Any]
    world: World = ALONE

    @property
    def identity(self) -> dict[str, Any]:
        """What names it: see `identity_of`."""
        return identity_of(self.meta)

    @property
    def learned_from(self) -> tuple[str, ...]:
        """The parts of the split whose rows it was trained on."""
        return learned_from(self.meta)

    def check_unseen(self, split: str) -> None:
        """Refuse to be measured on rows that it has learned from, or reads.

        Raises:
            UsageError: the held-out rows of a split are such, or there are none.
        """
        if split in self.learned_from[1:]:
            refit = "all" if "test" in self.learned_from else "valid"
            raise UsageError(
                f"split {split}: the run has learned from {split} rows (train --refit {refit}), so "
                f"figures on them mean nothing; the run in its folder {SELECTION} has not"
            )
        self.dataset.check_held_out(split)


def identity_of(meta: dict[str, Any]) -> dict[str, Any]:
    """What names a trained model: the checksum of its weights, and the epoch that they are of.

    Of a model that learned from more than training rows, the parts of the split, too.

    Args:
        meta: its checkpoint's description.
    """
    named = {"weights": meta["sha256"][MODEL_FILE], "epoch": meta["epoch"]}
    learned = list(learned_from(meta))
    return named if learned == [TRAIN] else {**named, "learned_from": learned}


@dataclass(frozen=True, kw_only=True)
class TrainedModel(_Trained):
    """A graph model; `model` is in evaluation mode, on its device.

    Attributes:
        model: the model.
        order: what lists are ordered by, where the model has both heads: `lists` or `rating`.
        item_weights: what is added to the list head's scores; None for nothing.
    """

    model: RatingModel
    order: Order = "lists"
    item_weights: ItemWeights | None = None

    @property
    def rates(self) -> bool:
        """Whether it predicts ratings."""
        return self.model.decoder is not None

    @cached_property
    def embeddings(self) -> Embeddings:
        """Exact embeddings of all nodes, computed when first asked for, by all processes."""
        return embed_all(*self._embedded, with_cosines=True)

    @cached_property
    def without_relations(self) -> dict[str, EncodedNodes]:
        """What users or items would be had a direction told them nothing; likewise."""
        return embed_without(*self._embedded)

    @cached_property
    def directions(self) -> tuple[Direction, ...]:
        """Those of the relations that it reads."""
        return read_directions(self.model.config, self.dataset)

    @property
    def _embedded(self) -> tuple[RatingModel, RatingGraph, Biases, World, tuple[Direction, ...]]:
        dataset = self.dataset
        return self.model, dataset.graph, dataset.biases, self.world, self.directions

    @cached_property
    def scorer(self) -> Scorer:
        """Predicts ratings among all users and items of the data set."""
        return Scorer(self.model, self.embeddings.nodes, self.dataset.biases)

    @cached_property
    def list_scorer(self) -> ListScorer:
        """Orders all items of the data set for all of its users, by the list head."""
        lists = self.embeddings.lists
        if lists is None:
            raise ValueError("the model has no list head")
        return ListScorer(*lists, item_items=self.item_items(), head=self.model.list_head)

    def item_items(self, rated: Adjacency | None = None) -> ItemItems | None:
        """The item-item weights with the users whose items speak; None without weights.

        Args:
            rated: the users' ratings; None for those of the data set.
        """
        if self.item_weights is None:
            return None
        return ItemItems(self.item_weights, rated or self.dataset.graph.by_user)

    @property
    def ranker(self) -> Scorer | ListScorer:
        """What lists are made with."""
        return self.list_scorer if self.orders_by_lists else self.scorer

    def ordered_by(self, order: Order) -> "TrainedModel":
        """The same model, its lists made by the list head or by predicted ratings.

        Raises:
            UsageError: it has no such head.
        """
        if order == "rating" and not self.rates:
            raise UsageError(
                "--order rating: the model has no rating head; leave it out, or train with "
                "model.heads = both"
            )
        return self if order == self.order else replace(self, order=order)

    @property
    def orders_by_lists(self) -> bool:
        """Whether lists are made by the list head."""
        return self.model.config.lists and self.order == "lists"

    def prepare(self) -> None:
        """Compute what all predictions need; for every process to call before the first of them."""
        _ = self.embeddings

    def predict(self, users: Tensor, items: Tensor) -> Tensor:
        """Predicted ratings of n pairs, float32 [n] on the CPU, not clipped to the scale.

        Args:
            users: int64 [n].
            items: int64 [n].
        """
        return predict_pairs(self.model, self.embeddings, self.dataset.biases, users, items)

    def best(self, users: Tensor, left_out: ItemLists, k: int) -> tuple[Tensor, Tensor]:
        """The best items for each of n users, by what lists are ordered by: `Scorer.best`."""
        return self.ranker.best(users, left_out, k)

    def rank_pairs(self, users: Tensor, items: Tensor) -> Tensor:
        """The scores by which lists are ordered, of n pairs, float32 [n] on the CPU."""
        return self.ranker.pairs(users, items)


@dataclass(frozen=True, kw_only=True)
class TrainedBaseline(_Trained):
    """A baseline, on the CPU."""

    baseline: Baseline

    @property
    def kind(self) -> str:
        """Which one, as in `model.kind`."""
        return str(self.meta["model"]["kind"])

    @property
    def rates(self) -> bool:
        """Whether it predicts ratings; if not, it only ranks."""
        return self.baseline.rates

    @property
    def orders_by_lists(self) -> bool:
        """Whether lists are made by scores that are no ratings."""
        return not self.rates

    def ordered_by(self, order: Order) -> "TrainedBaseline":
        """The same, its lists made by scores or by predicted ratings; it has one of them.

        Raises:
            UsageError: it predicts no ratings.
        """
        if order == "rating" and not self.rates:
            raise UsageError(
                f"--order rating: the {self.kind} baseline predicts no ratings; leave it out"
            )
        return self

    def rank_pairs(self, users: Tensor, items: Tensor) -> Tensor:
        """The scores by which lists are ordered, of n pairs, float32 [n]."""
        return self.baseline.rank_pairs(users, items)

    def prepare(self) -> None:
        """Nothing: a baseline is ready to predict."""

    def predict(self, users: Tensor, items: Tensor) -> Tensor:
        """Predicted ratings of n pairs, float32 [n], not clipped to the scale.

        Args:
            users: int64 [n].
            items: int64 [n].
        """
        return self.baseline.predict(users, items)

    def best(self, users: Tensor, left_out: ItemLists, k: int) -> tuple[Tensor, Tensor]:
        """The items with the highest predicted ratings for each of n users; as `Scorer.best`."""
        return self.baseline.best(users, left_out, k)


Predictor = TrainedModel | TrainedBaseline
"""What `train` leaves in a run: it predicts ratings, and ranks the catalogue."""


@contextmanager
def locked(
    folder: Path, name: str = LOCK_FILE, *, shown: Path | None = None, wait: bool = False
) -> Iterator[bool]:
    """Be the only process that writes into a folder; it is made where it is missing.

    The lock goes with the process, however that ends.

    Args:
        folder: a run's folder, or another.
        name: the lock's file.
        shown: what messages call the folder.
        wait: whether to wait for another process.

    Yields:
        Whether there is a lock; not every file system has them.

    Raises:
        UsageError: another process is at it.
    """
    what = shown or folder
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o666)
    held = True
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                held = False
                log(f"{what}: no lock to be had ({error.strerror}); let nothing else write there")
            else:
                holder = os.pread(descriptor, 200, 0).decode(errors="replace") or "another process"
                raise UsageError(
                    f"{what}: in use by {holder}; wait for it, or choose another folder"
                ) from error
        with disk_errors(folder):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield held
    finally:
        os.close(descriptor)


def open_run(
    run: Path,
    *,
    dataset: Path | None = None,
    device: torch.device | None = None,
    world: World = ALONE,
    history: History = "train",
) -> TrainedModel:
    """Open a run's best model, which must be one with a graph.

    Args:
        run: the run's folder.
        dataset: where the data set is now, if it was moved.
        device: where the model computes; None for the CPU.
        world: the processes that open it; each reads the run's folder.
        history: the rows that it reads, in place of those that it was trained on; it learns nothing
            from them.

    Raises:
        DataError: there is no run or no whole checkpoint, or the data set is gone or another one.
        UsageError: the run is a baseline's.
    """
    run = Path(run)
    checkpoint = best_checkpoint(run)
    kind = described_model(checkpoint.meta, run).kind
    if kind != "graph":
        raise UsageError(
            f"{run}: is a run of the {kind} baseline, which has no embeddings; this needs a graph "
            "model: train one with --set model.kind=graph"
        )
    return _open_model(run, checkpoint, dataset, None, device, world, history)


def open_predictor(
    run: Path,
    *,
    dataset: Path | None = None,
    fallback: Path | None = None,
    device: torch.device | None = None,
    world: World = ALONE,
    history: History = "train",
) -> Predictor:
    """Open a run's best model, whatever its kind.

    Args:
        run: the run's folder.
        dataset: where the data set is now, if it was moved.
        fallback: where it is if it is not where it was.
        device: where a graph model computes, None for the CPU; baselines do on the CPU.
        world: the processes that open it; each reads the run's folder.
        history: as for `open_run`; a baseline reads the rows that it was fitted to.

    Raises:
        DataError: there is no run or no whole checkpoint, or the data set is gone or another one.
        UsageError: a baseline is to read other rows.
    """
    run = Path(run)
    checkpoint = best_checkpoint(run)
    kind = described_model(checkpoint.meta, run).kind
    if kind == "graph":
        return _open_model(run, checkpoint, dataset, fallback, device, world, history)
    if history in ("valid", "all"):
        raise UsageError(
            f"--history {history}: the {kind} baseline reads the rows that it was fitted to alone; "
            "leave it out, or train the baseline with --refit"
        )
    data = open_dataset_of(run, checkpoint.meta, dataset, fallback)
    config = _described(BaselineConfig, checkpoint.meta.get("baseline"), run)
    if kind in ("session", "vsknn"):
        _check_has_times(data, run)
    try:
        baseline = load_model(kind, checkpoint.weights, data, config)
    except ValueError as error:
        raise DataError(_misfit(run)) from error
    return TrainedBaseline(baseline=baseline, dataset=data, meta=checkpoint.meta, world=world)


def _open_model(
    run: Path,
    checkpoint: Checkpoint,
    dataset: Path | None,
    fallback: Path | None,
    device: torch.device | None,
    world: World,
    history: History,
) -> TrainedModel:
    data = open_dataset_of(run, checkpoint.meta, dataset, fallback)
    data = data.with_rows(_splits_read(checkpoint.meta, history))
    data = _with_derived(run, checkpoint.meta, data)
    model = build_model(checkpoint.meta, data, run)
    if model.config.reads_times:
        _check_has_times(data, run)
    try:
        model.load_state_dict(checkpoint.weights)
    except RuntimeError as error:
        raise DataError(_misfit(run)) from error
    model = model.to(device or torch.device("cpu")).eval()
    weights = None
    if (run / ITEM_ITEMS).is_dir():
        weights = item_weights_of(load_checkpoint(run / ITEM_ITEMS), run, checkpoint.meta, data)
    return TrainedModel(
        model=model, dataset=data, meta=checkpoint.meta, world=world, item_weights=weights
    )


def _splits_read(meta: Mapping[str, Any], history: History) -> tuple[str, ...]:
    """The held-out splits whose rows a model is to read besides those that it was trained on."""
    if history == "auto":
        history = "train" if learned_from(meta) == (TRAIN,) else "all"
    return {"train": (), "valid": ("valid",), "all": HELD_OUT}[history]


def _check_has_times(dataset: RatingDataset, run: Path) -> None:
    """Refuse a data set without the timestamps that a run was trained with.

    Timestamps are no part of a data set's fingerprint, and earlier versions did not keep them.

    Raises:
        DataError: it has none.
    """
    if not dataset.has_times:
        raise DataError(
            f"{dataset.path}: has no timestamps, which {run} was trained with; prepare it again"
        )


def save_item_weights(
    run: Path, weights: ItemWeights, chosen: dict[str, Any], best: dict[str, Any]
) -> None:
    """Write the item-item weights of a run's best model.

    Args:
        run: the run's folder.
        weights: what is added to the list head's scores.
        chosen: what validation chose.
        best: the description of the best checkpoint.
    """
    tensors = {name: torch.from_numpy(array) for name, array in vars(weights).items()}
    of = best["sha256"][MODEL_FILE]
    save_checkpoint(run / ITEM_ITEMS, tensors, {}, {"of": of, "chosen": chosen})


def item_weights_of(
    checkpoint: Checkpoint, run: Path, best: dict[str, Any], dataset: RatingDataset
) -> ItemWeights:
    """The item-item weights of a run's best model.

    Args:
        checkpoint: what `save_item_weights` wrote.
        run: the run's folder, for messages.
        best: the description of the best checkpoint.
        dataset: what the run was trained on.

    Raises:
        DataError: they are damaged, of another model, or of another catalogue.
    """
    if checkpoint.meta.get("of") != best["sha256"][MODEL_FILE]:
        raise DataError(
            f"{run / ITEM_ITEMS}: belongs to another model than {BEST}; train the run again"
        )
    try:
        return ItemWeights.checked(
            {name: tensor.numpy() for name, tensor in checkpoint.weights.items()},
            num_items=dataset.graph.num_items,
            levels=dataset.scale.levels,
        )
    except ValueError as error:
        raise DataError(f"{run / ITEM_ITEMS}: {error}; train the run again") from error


def save_derived(run: Path, made: dict[str, Tensor]) -> None:
    """Write what a run's model reads that was made from training rows; see `dataset.derive`."""
    save_checkpoint(run / DERIVED, made, {}, {})


def with_derived(
    dataset: RatingDataset, names: Sequence[str], made: Mapping[str, Tensor], run: Path
) -> DerivedDataset:
    """A data set with what was made from its training rows.

    Args:
        dataset: what the run is trained on.
        names: of what is to be there, as for `dataset.derive`.
        made: what `save_derived` wrote.
        run: the run's folder, for messages.

    Raises:
        DataError: it is damaged, or of another data set.
    """
    try:
        return DerivedDataset(dataset, names, made)
    except (TypeError, ValueError) as error:  # a type of numbers that numpy lacks is a TypeError
        raise DataError(f"{run / DERIVED}: {error}; train the run again") from error


def _with_derived(run: Path, meta: dict[str, Any], dataset: RatingDataset) -> RatingDataset:
    """The data set with what a run's model reads of it; itself where nothing was made.

    Raises:
        DataError: what was made is missing, damaged, or of another model.
    """
    config = described_model(meta, run)
    names = config.derived_names(dataset.relations)
    if not names:
        return dataset
    derived = with_derived(dataset, names, load_checkpoint(run / DERIVED).weights, run)
    check_same_derived(meta, derived, run)
    return derived


def check_same_derived(meta: dict[str, Any], dataset: RatingDataset, run: Path) -> None:
    """Refuse edges that are not those that a checkpoint was trained with.

    Args:
        meta: what the checkpoint says.
        dataset: with what is to be read.
        run: the run's folder.

    Raises:
        DataError: they are others.
    """
    if meta.get("derived") != dataset.derived_digest:
        raise DataError(
            f"{run / DERIVED}: is not what the run's model was trained with; train the run again"
        )


def best_checkpoint(run: Path) -> Checkpoint:
    """A run's best model.

    Raises:
        DataError: there is no run, it is damaged, or its training has not finished an epoch.
    """
    if not run.is_dir():
        raise DataError(f"{run}: no such run; make one with `dglrec train`")
    if (run / DATASET_FILE).is_file():
        raise DataError(f"{run}: is a data set and no run; make one: dglrec train {run} RUN")
    if not (run / BEST).is_dir():
        raise DataError(f"{run}: holds no {BEST}; its training has not finished an epoch")
    check_checksums(run)
    return load_checkpoint(run / BEST)


def open_dataset_of(
    run: Path,
    meta: dict[str, Any],
    dataset: Path | None = None,
    fallback: Path | None = None,
    *,
    mend: str = "say where with --dataset",
) -> RatingDataset:
    """The data set that a run was trained on, every file of it proved.

    Args:
        run: the run's folder.
        meta: what its checkpoint says.
        dataset: where the data set is now, if it was moved.
        fallback: where it is if it is not where it was.
        mend: what to do where it is not found.

    Raises:
        DataError: it is gone, damaged, or another one.
    """
    place = dataset or Path(str(meta.get("dataset", "")))
    from_run = meta.get("dataset_from_run")
    if dataset is None and not place.is_dir() and isinstance(from_run, str):
        beside = Path(os.path.normpath(run.resolve() / from_run))  # moved together with the run
        place = beside if beside.is_dir() else place
    if fallback is not None and not place.is_dir():
        place = fallback
    if not place.is_dir():
        raise DataError(f"{place}: the data set of {run} is not there; {mend}")
    data = RatingDataset.open(place)
    check_same_dataset(meta, data, run)
    data.prove()  # before there is a figure, and on all processes
    return data.with_rows(learned_from(meta)[1:])


def _misfit(run: Path) -> str:
    return f"{run / BEST}: its weights do not fit the model it describes"


def check_is_run(run: Path) -> None:
    """Refuse to resume what is no run.

    Raises:
        DataError: there is none, it was never started, or it is damaged.
    """
    if not (run / CONFIG_FILE).is_file():
        raise DataError(f"{run}: no such run to resume; leave out --resume to start it")
    check_checksums(run)


def build_model(meta: dict[str, Any], dataset: RatingDataset, run: Path) -> RatingModel:
    """A model of the kind that a checkpoint describes, with fresh weights.

    Raises:
        DataError: the description is not one.
    """
    return new_model(described_model(meta, run), dataset)


def new_model(config: ModelConfig, dataset: RatingDataset) -> RatingModel:
    """A graph model of a data set, with fresh weights.

    Raises:
        UsageError: the configuration names features or relations that the data set lacks.
    """
    return RatingModel(
        config,
        dataset.graph.num_users,
        dataset.item_features,
        dataset.meta["features"],
        user_features=dataset.user_features,
        user_widths=dataset.user_feature_widths,
        directions=read_directions(config, dataset),
        operator=read_operator(config, dataset),
    )


def sketched_model(config: ModelConfig, dataset: RatingDataset) -> RatingModel:
    """The same with shapes alone, which takes no memory and no random number.

    Raises:
        UsageError: the configuration names features or relations that the data set lacks.
    """
    of_items, of_users = dataset.item_features.to("meta"), dataset.user_features.to("meta")
    with torch.device("meta"):
        return RatingModel(
            config,
            dataset.graph.num_users,
            of_items,
            dataset.meta["features"],
            user_features=of_users,
            user_widths=dataset.user_feature_widths,
            directions=read_directions(config, dataset),
            operator=read_operator(config, dataset),
        )


def read_operator(config: ModelConfig, dataset: RatingDataset) -> WeightedEdges | None:
    """The graph of items that a model's graph filters take, its largest eigenvalue 1.

    Raises:
        UsageError: there is none, or a file gave one that is not among items, or not symmetric.
    """
    if config.convolution != "graph_filter":
        return None
    relation = dataset.relation("similar")
    edges = relation.backward
    weights = np.ones(edges.num_edges, np.float32) if edges.weights is None else edges.weights
    among = WeightedAdjacency(edges.offsets, edges.neighbours, weights)
    try:
        if {relation.source_type, relation.destination_type} != {ITEM_TYPE}:
            raise ValueError(f"leads from {relation.source_type} to {relation.destination_type}")
        return among.divided_by_largest_eigenvalue().edges()
    except ValueError as error:
        raise UsageError(
            f"model.convolution = graph_filter: relation similar: {error}; it takes a symmetric "
            "one among items, as is made where no file gives another"
        ) from error


def read_directions(config: ModelConfig, dataset: RatingDataset) -> tuple[Direction, ...]:
    """The directions of the relations that a model reads, in the order of the configuration.

    Raises:
        UsageError: the configuration names relations that the data set lacks, or that end in
            neither users nor items.
    """
    found: list[Direction] = []
    for name in config.relations:
        try:
            relation = dataset.relation(name)
        except UsageError as error:
            made = ", ".join(DERIVED_NAMES)
            raise UsageError(
                f"model.relations: {error}, and of those made from training rows {made}"
            ) from error
        directions = directions_of([relation])
        if not directions:
            raise UsageError(
                f"model.relations: {name} leads from {relation.source_type} to "
                f"{relation.destination_type}, and tells neither users nor items anything"
            )
        found += directions
    return tuple(found)


def blocks_of_new_items(
    config: ModelConfig, dataset: RatingDataset, items: pd.DataFrame
) -> tuple[RelationBlock, ...]:
    """What items that a data set does not hold read of labels, along the relations of a model.

    Args:
        config: the model's.
        dataset: what it was trained on.
        items: rows with the attributes as columns.
    """
    names = read_attributes_of(ITEM_TYPE, config, dataset)
    return blocks_of_labels(directions_of([dataset.label_items(items, name) for name in names]))


def blocks_of_new_users(
    config: ModelConfig, dataset: RatingDataset, users: pd.DataFrame
) -> tuple[RelationBlock, ...]:
    """The same of users that a data set does not hold."""
    names = read_attributes_of(USER_TYPE, config, dataset)
    return blocks_of_labels(directions_of([dataset.label_users(users, name) for name in names]))


def read_attributes_of(node_type: str, config: ModelConfig, dataset: RatingDataset) -> list[str]:
    """The attributes whose labels are nodes that a model's items, or its users, read."""
    if not config.relations:
        return []
    return [
        name
        for name, one in dataset.attributes.items()
        if one.node_type == node_type and one.relation.name in config.relations
    ]


def described_model(meta: dict[str, Any], run: Path) -> ModelConfig:
    """The configuration of the model that a checkpoint describes.

    Raises:
        DataError: it is none of this version.
    """
    return _described(ModelConfig, meta.get("model"), run)


def _described(kind: type[_Config], values: Any, run: Path) -> _Config:
    """The configuration that a checkpoint holds.

    Raises:
        DataError: it is none.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise DataError(f"{run}: its checkpoint describes no model of this version") from error


def describe_dataset(dataset: RatingDataset, run: Path) -> dict[str, Any]:
    """What a checkpoint says of the data set, for `check_same_dataset`, and where it is."""
    place = dataset.path.resolve()
    described = {
        "dataset": str(place),
        "dataset_from_run": os.path.relpath(place, run.resolve()),
        "data": {key: value for key, value in dataset.meta.items() if key not in PROOFS},
        "fingerprint": dataset.fingerprint,
    }
    if dataset.parts != (TRAIN,):
        described["learned_from"] = list(dataset.parts)
    derived = dataset.derived_digest
    return described if derived is None else {**described, "derived": derived}


def learned_from(meta: Mapping[str, Any]) -> tuple[str, ...]:
    """The parts of the split that a checkpoint was trained on; earlier versions knew `train`."""
    return tuple(meta.get("learned_from", (TRAIN,)))


def check_same_rows(meta: dict[str, Any], dataset: RatingDataset, run: Path) -> None:
    """Refuse rows that are not those that a checkpoint was trained on.

    Raises:
        UsageError: they are others.
    """
    before = learned_from(meta)
    if before != dataset.parts:
        raise UsageError(
            f"{run}: was trained on {shown_parts(before)} rows, and is to go on with "
            f"{shown_parts(dataset.parts)} rows; resume it as it was begun"
        )


def shown_parts(parts: Sequence[str]) -> str:
    """Parts of a split in words."""
    *others, last = ({TRAIN: "training", "valid": "validation"}.get(one, one) for one in parts)
    return f"{', '.join(others)} and {last}" if others else last


def check_same_dataset(meta: dict[str, Any], dataset: RatingDataset, run: Path) -> None:
    """Refuse a data set that is not the one a checkpoint was trained on.

    Raises:
        DataError: the fingerprints differ.
    """
    if meta.get("fingerprint") == dataset.fingerprint:
        return
    before = meta.get("data") or {}
    changed = [key for key in before if before[key] != dataset.meta.get(key)]
    difference = f"differs in: {', '.join(changed)}" if changed else "it is another one"
    raise DataError(
        f"{dataset.path}: not the data set that {run} was trained on: {difference}; train a new "
        "run on it"
    )
