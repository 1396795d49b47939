"""The initial weights of a training: random, from the graph's spectrum, or from another run.

From another run's model, weights that are shared by all nodes are copied. Vectors of users and
items are matched by their external ids, vectors of labels and columns of features by the labels;
weights without a counterpart there are initialised as in any new training.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from torch import Tensor

from dglrec.checkpoint import Checkpoint, pack_checkpoint, unpack_checkpoint
from dglrec.dataset import RatingDataset
from dglrec.distributed import World
from dglrec.errors import UsageError
from dglrec.nn import ModelConfig, RatingModel
from dglrec.progress import log
from dglrec.relations import ITEM_TYPE, USER_TYPE
from dglrec.run import (
    BEST,
    CONFIG_FILE,
    best_checkpoint,
    described_model,
    identity_of,
    learned_from,
    open_dataset_of,
)
from dglrec.train.config import Settings
from dglrec.train.spectral import start_vectors

# These settings determine the initial weights, the regularisation, and what is fitted after
# training; they do not change the meaning of weights.
_NO_ARCHITECTURE = ("dropout", "identity_start", "spectral_std", "item_items")


@dataclass(frozen=True)
class Source:
    """The best model of another run.

    Attributes:
        run: the folder of that run.
        checkpoint: its weights and their description.
        config: the configuration of its model.
    """

    run: Path
    checkpoint: Checkpoint
    config: ModelConfig

    def adopted(self, settings: Settings) -> Settings:
        """The settings, with `auto` in the model's replaced by the values resolved in this run."""
        given = settings.model.model_dump()
        came_to = self.config.model_dump()
        update = {
            name: came_to[name]
            for name, value in given.items()
            if value == "auto" and name not in _NO_ARCHITECTURE
        }
        return replace(settings, model=settings.model.model_copy(update=update))

    def check_architecture(self, config: ModelConfig) -> None:
        """Refuse a model of another architecture than these weights.

        Args:
            config: the resolved configuration of the model to be trained.

        Raises:
            UsageError: the architectures differ; the message names the settings that differ.
        """
        given, of_source = config.model_dump(), self.config.model_dump()
        skipped = set(_NO_ARCHITECTURE)
        if config.convolution == self.config.convolution == "graph_filter":
            skipped.add("embedding_size")  # the number of items, which may differ
        differing = [
            f"model.{name} is {_shown(of_source[name])} there and {_shown(value)} here"
            for name, value in given.items()
            if name not in skipped and value != of_source[name]
        ]
        if differing:
            raise UsageError(
                f"--from {self.run}: is a run of another architecture: {'; '.join(differing)}; "
                f"take its settings: --config {self.run / CONFIG_FILE}"
            )


def resolve_beginning(
    dataset: RatingDataset, run: Path, settings: Settings, world: World, *, begins: bool = True
) -> tuple[Source | None, Settings]:
    """The run that a training begins with, and the settings with `auto` resolved.

    Args:
        dataset: the data set to train on.
        run: the folder of the training.
        settings: the given settings.
        world: the processes that train together, all of which must call this.
        begins: whether the training is new; a resumed training reads no other run.

    Raises:
        UsageError: see `read_source`, `Source.check_architecture` and `Settings.resolved`.
        DataError: there is no such run, or it is damaged.
    """
    source = read_source(run, settings.train.begin_with, world) if begins else None
    settings = settings if source is None else source.adopted(settings)
    settings = settings.resolved_for(dataset)
    if source is not None:
        source.check_architecture(settings.model)
    return source, settings


def read_source(run: Path, source: str, world: World) -> Source | None:
    """The run that a training begins with; None where `source` is empty.

    Args:
        run: the folder of the training.
        source: `train.begin_with`.
        world: the processes that train together, all of which must call this; the first reads.

    Raises:
        UsageError: the source is the training's own folder, or the run of a baseline.
        DataError: there is no such run, or it is damaged.
    """
    if not source:
        return None
    folder = Path(source)

    def packed() -> bytes:
        if folder.resolve() == run.resolve():
            raise UsageError(
                f"--from {folder}: is the run that is to be trained; go on with it by --resume, or "
                "train into another folder"
            )
        kind = described_model(best_checkpoint(folder).meta, folder).kind
        if kind != "graph":
            raise UsageError(
                f"--from {folder}: is a run of the {kind} baseline, which is fitted in one go; "
                "begin with the run of a graph model"
            )
        return pack_checkpoint(folder / BEST)

    checkpoint, _ = unpack_checkpoint(world.from_first(packed))
    return Source(folder, checkpoint, described_model(checkpoint.meta, folder))


def begin(
    model: RatingModel,
    dataset: RatingDataset,
    settings: Settings,
    source: Source | None,
    world: World,
) -> dict[str, Any] | None:
    """Set the initial weights of a new model in place.

    Args:
        model: the model, on the CPU.
        dataset: the data set to train on.
        settings: the resolved settings.
        source: another run's model; None without.
        world: the processes that train together, all of which must call this.

    Returns:
        Notes on the other run, for the run's folder; None without a source.

    Raises:
        UsageError: the other run's weights do not fit the model.
        DataError: the other run's data set is missing or damaged.
    """
    with world.together():
        if settings.model.identity_start == "spectral":
            start_vectors(model, dataset.graph, settings.train.seed)
    if source is None:
        return None
    notes: dict[str, Any] = {}

    def made() -> bytes:
        meta = source.checkpoint.meta
        same = meta.get("fingerprint") == dataset.fingerprint
        learned = learned_from(meta)[1:]
        known = open_dataset_of(
            source.run,
            meta,
            fallback=dataset.path if same else None,
            mend="put it back: the ids of the run's users and items are in it",
        ).with_rows(learned)
        weights, matched = _weights(source, known, model, dataset)
        notes.update(_notes(source, matched, known, dataset))
        return safetensors.torch.save(weights)

    weights = safetensors.torch.load(world.from_first(made))
    model.load_state_dict(weights)
    return notes


def _weights(
    source: Source, known: RatingDataset, model: RatingModel, dataset: RatingDataset
) -> tuple[dict[str, Tensor], dict[str, npt.NDArray[np.int64]]]:
    """The initial weights, and for each node type the rows of its nodes in the source, or -1.

    Raises:
        UsageError: a weight is missing in the source, or has another shape.
    """
    tables, fresh = model.tables(), model.state_dict()
    source_weights = source.checkpoint.weights
    matched = {
        USER_TYPE: known.users.encode(dataset.users.ids).astype(np.int64),
        ITEM_TYPE: known.items.encode(dataset.items.ids).astype(np.int64),
    }
    labels = {name: _labels_of(dataset, known, name) for name in set(tables.values()) - {*matched}}
    places = {**matched, **labels}
    columns = _columns(source.config, known, dataset)
    _check_names(source, set(fresh) ^ set(source_weights))
    weights = {}
    for name, tensor in fresh.items():
        old = source_weights[name]
        if name in tables:
            new = _of_places(tensor, old, places[tables[name]])
        elif name in columns:
            new = _of_places(tensor.T, old.T, columns[name])
            new = None if new is None else new.T.contiguous()
        else:
            new = old if old.shape == tensor.shape else None
        if new is None:
            raise UsageError(
                f"--from {source.run}: its {name} has shape {tuple(old.shape)}, and is to have "
                f"{tuple(tensor.shape)}; train without --from"
            )
        weights[name] = new
    return weights, matched


def _check_names(source: Source, differing: set[str]) -> None:
    """Refuse weights that only one of the two models has, although their configurations agree.

    Raises:
        UsageError: there are such weights, as only one of the data sets has features or relations.
    """
    if differing:
        of = {
            "inputs.from_features": "features of items (model.item_features)",
            "inputs.from_user_features": "features of users (model.user_features)",
        }
        named = {of.get(name.rpartition(".")[0], name) for name in differing}
        raise UsageError(
            f"--from {source.run}: one of the two data sets alone has {', '.join(sorted(named))}; "
            "prepare them alike, or train without --from"
        )


def _of_places(fresh: Tensor, old: Tensor, places: npt.NDArray[np.int64]) -> Tensor | None:
    """[n, H]: rows of `old` where they exist, rows of `fresh` elsewhere; None where H differs.

    Args:
        fresh: [n, H].
        old: [m, H].
        places: [n] the row of each node in `old`; -1 where there is none.
    """
    if old.shape[1:] != fresh.shape[1:] or (len(places) and places.max() >= len(old)):
        return None
    found = torch.from_numpy(places)
    is_found = found >= 0
    new = fresh.clone()
    new[is_found] = old[found[is_found]]
    return new


def _labels_of(
    dataset: RatingDataset, known: RatingDataset, attribute: str
) -> npt.NDArray[np.int64]:
    """The position of each label in the source's vocabulary; -1 where there is none."""
    of_source = known.attributes.get(attribute)
    old = () if of_source is None else of_source.vocabulary
    return _matched(dataset.attributes[attribute].vocabulary, old)


def _columns(
    config: ModelConfig, known: RatingDataset, dataset: RatingDataset
) -> dict[str, npt.NDArray[np.int64]]:
    """For each feature map by name, the position of its columns in the source; -1 for none."""
    of_items = [_keys_of_items(data, config) for data in (dataset, known)]
    of_users = [_keys_of_users(data, config) for data in (dataset, known)]
    return {
        "inputs.from_features.weight": _matched(*of_items),
        "inputs.from_user_features.weight": _matched(*of_users),
    }


def _keys_of_items(dataset: RatingDataset, config: ModelConfig) -> list[Hashable]:
    return _keys(dataset, dataset.meta["features"], config.item_features, ITEM_TYPE)


def _keys_of_users(dataset: RatingDataset, config: ModelConfig) -> list[Hashable]:
    widths = dataset.user_feature_widths
    return _keys(dataset, widths, config.read_user_features, USER_TYPE)


def _keys(
    dataset: RatingDataset,
    widths: Mapping[str, int],
    wanted: bool | Sequence[str],
    node_type: str,
) -> list[Hashable]:
    """The meaning of each column of the features that a model reads, as keys to match by.

    Args:
        dataset: the data set of the features.
        widths: the number of columns of each feature by name, in order.
        wanted: the features that the model reads: all, none, or some by name.
        node_type: the node type that has the features.
    """
    keys: list[Hashable] = []
    for name, width in widths.items():
        if wanted is not True and name not in (wanted or ()):
            continue
        keys += [(name, what) for what in _meaning(dataset, name, width, node_type)]
    return keys


def _meaning(dataset: RatingDataset, name: str, width: int, node_type: str) -> Sequence[Hashable]:
    """Keys of the columns of a feature: labels, names of numeric columns, or positions."""
    for attribute in (dataset.attributes.get(f"user_{name}"), dataset.attributes.get(name)):
        if attribute is None or attribute.node_type != node_type:
            continue
        if len(attribute.vocabulary) == width:
            return attribute.vocabulary
    if name == "numeric" and node_type == ITEM_TYPE:
        return [(number, part) for number in dataset.meta["numeric"] for part in range(2)]
    # The columns of a text feature have the meaning that the text model gives them.
    model = dataset.meta.get("text_model") if width > 2 else None
    return [(model, place) for place in range(width)]


def _matched(new: Sequence[Hashable], old: Sequence[Hashable]) -> npt.NDArray[np.int64]:
    """[n] the position of each new key among the old keys; -1 where it is not among them."""
    places = {key: place for place, key in enumerate(old)}
    return np.array([places.get(key, -1) for key in new], dtype=np.int64)


def _notes(
    source: Source,
    matched: Mapping[str, npt.NDArray[np.int64]],
    known: RatingDataset,
    dataset: RatingDataset,
) -> dict[str, Any]:
    """A run's notes on the run that it began with; also logs them."""
    counts = {f"{kind}s": int((places >= 0).sum()) for kind, places in matched.items()}
    seen = _seen_before(matched, known, dataset)
    log(
        f"beginning with {source.run}, epoch {source.checkpoint.meta['epoch']}: of "
        f"{len(dataset.users):,} users {counts['users']:,} are among its {len(known.users):,}, and "
        f"of {len(dataset.items):,} items {counts['items']:,} among its {len(known.items):,}"
    )
    if any(seen.values()):
        told = " and ".join(f"{count:,} {split} rows" for split, count in seen.items() if count)
        log(
            f"{told} of {dataset.path} were training rows of {source.run}: figures on them are "
            "too good"
        )
    return {
        "run": str(source.run.resolve()),
        **identity_of(source.checkpoint.meta),
        "matched": counts,
        "held_out_rows_trained_on": seen,
    }


def _seen_before(
    matched: Mapping[str, npt.NDArray[np.int64]], known: RatingDataset, dataset: RatingDataset
) -> dict[str, int]:
    """The number of held-out rows of a data set that were training rows of the source, by split."""
    by_user, num_items = known.graph.by_user, known.graph.num_items
    owners = np.repeat(np.arange(known.graph.num_users), by_user.degrees)
    keys = owners * num_items + by_user.neighbours  # ascending
    last = max(len(keys) - 1, 0)
    seen = {}
    for split in dataset.held_out_splits:
        rows = dataset.held_out(split)
        users = matched[USER_TYPE][rows.users.numpy()]
        items = matched[ITEM_TYPE][rows.items.numpy()]
        wanted = (users * num_items + items)[(users >= 0) & (items >= 0)]
        found = keys[np.searchsorted(keys, wanted).clip(max=last)] == wanted
        seen[split] = int(found.sum())
    return seen


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(map(str, value)) or "none" if isinstance(value, tuple) else str(value)
