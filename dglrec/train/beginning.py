"""What a training begins with: chance, the graph's spectrum, or what another run has learned.

Of another run's model all weights are taken over that are not about one node or one label. Vectors
of users and items are matched by their external ids, vectors of labels and the columns of features
by the labels; what has no counterpart there begins as in any new training.
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

# What decides where training begins, how it is regularised, and what comes beside the model once
# it is trained: no part of what weights mean.
_NO_ARCHITECTURE = ("dropout", "identity_start", "spectral_std", "item_items")


@dataclass(frozen=True)
class Source:
    """The best model of another run.

    Attributes:
        run: its folder.
        checkpoint: weights, and what describes them.
        config: of the model.
    """

    run: Path
    checkpoint: Checkpoint
    config: ModelConfig

    def adopted(self, settings: Settings) -> Settings:
        """The settings, where `auto` in those of the model is what it came to in this run."""
        given = settings.model.model_dump()
        came_to = self.config.model_dump()
        update = {
            name: came_to[name]
            for name, value in given.items()
            if value == "auto" and name not in _NO_ARCHITECTURE
        }
        return replace(settings, model=settings.model.model_copy(update=update))

    def check_architecture(self, config: ModelConfig) -> None:
        """Refuse a model that these weights are not those of.

        Args:
            config: of the model that is to begin with them, resolved.

        Raises:
            UsageError: they are another model's; the message names the settings that differ.
        """
        here, there = config.model_dump(), self.config.model_dump()
        skipped = set(_NO_ARCHITECTURE)
        if config.convolution == self.config.convolution == "graph_filter":
            skipped.add("embedding_size")  # a node's vector is as long as there are items
        differing = [
            f"model.{name} is {_shown(there[name])} there and {_shown(value)} here"
            for name, value in here.items()
            if name not in skipped and value != there[name]
        ]
        if differing:
            raise UsageError(
                f"--from {self.run}: is a run of another architecture: {'; '.join(differing)}; "
                f"take its settings: --config {self.run / CONFIG_FILE}"
            )


def resolve_beginning(
    dataset: RatingDataset, run: Path, settings: Settings, world: World, *, begins: bool = True
) -> tuple[Source | None, Settings]:
    """The run that a training is to begin with, and what `auto` comes to in its settings.

    Args:
        dataset: what is trained on.
        run: the folder of the training.
        settings: as they were given.
        world: the processes that train together, all of which call this.
        begins: whether there is nothing yet to go on from; if not, no other run is read.

    Raises:
        UsageError: as of `read_source`, `Source.check_architecture` and `Settings.resolved`.
        DataError: there is no such run, or it is damaged.
    """
    source = read_source(run, settings.train.begin_with, world) if begins else None
    settings = settings if source is None else source.adopted(settings)
    settings = settings.resolved_for(dataset)
    if source is not None:
        source.check_architecture(settings.model)
    return source, settings


def read_source(run: Path, source: str, world: World) -> Source | None:
    """The run that a training is to begin with; None where it names none.

    Args:
        run: the folder of the training.
        source: `train.begin_with`.
        world: the processes that train together, all of which call this; the first one reads.

    Raises:
        UsageError: it is the training's own folder, or a baseline's.
        DataError: there is no run, or it is damaged.
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
    """Give a fresh model the weights that training begins with, in place.

    Args:
        model: on the CPU.
        dataset: what is trained on.
        settings: resolved ones.
        source: another run's model; None for none.
        world: the processes that train together, all of which call this.

    Returns:
        Of another run's model what is to be noted of it; else None.

    Raises:
        UsageError: the other run's weights do not fit the model.
        DataError: the other run's data set is gone, or damaged.
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
    """The weights to begin with, and by type of node the matched ones' places in the source.

    Raises:
        UsageError: a weight is missing there, or has another form.
    """
    tables, fresh = model.tables(), model.state_dict()
    there = source.checkpoint.weights
    matched = {
        USER_TYPE: known.users.encode(dataset.users.ids).astype(np.int64),
        ITEM_TYPE: known.items.encode(dataset.items.ids).astype(np.int64),
    }
    labels = {name: _labels_of(dataset, known, name) for name in set(tables.values()) - {*matched}}
    places = {**matched, **labels}
    columns = _columns(source.config, known, dataset)
    _check_names(source, set(fresh) ^ set(there))
    weights = {}
    for name, tensor in fresh.items():
        old = there[name]
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
    """Refuse weights that only one of two models of the same configuration has.

    Raises:
        UsageError: there are some: one data set has features, or relations, and the other has none.
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
    """[n, H] rows of `old` where there are some, else those of `fresh`; None where H differs.

    Args:
        fresh: [n, H].
        old: [m, H].
        places: [n], each row's place in `old`; -1 where there is none.
    """
    if old.shape[1:] != fresh.shape[1:] or (len(places) and places.max() >= len(old)):
        return None
    found = torch.from_numpy(places)
    there = found >= 0
    new = fresh.clone()
    new[there] = old[found[there]]
    return new


def _labels_of(
    dataset: RatingDataset, known: RatingDataset, attribute: str
) -> npt.NDArray[np.int64]:
    """Each label's place in the source; -1 where there is none."""
    of_source = known.attributes.get(attribute)
    old = () if of_source is None else of_source.vocabulary
    return _matched(dataset.attributes[attribute].vocabulary, old)


def _columns(
    config: ModelConfig, known: RatingDataset, dataset: RatingDataset
) -> dict[str, npt.NDArray[np.int64]]:
    """Of the maps of features, by name, each column's place in the source; -1 for none."""
    of_items = [_keys_of_items(one, config) for one in (dataset, known)]
    of_users = [_keys_of_users(one, config) for one in (dataset, known)]
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
    """What each column of the features that a model reads is about.

    Args:
        dataset: whose features.
        widths: their columns by name, in their order.
        wanted: those that are read: all, none, or some by name.
        node_type: whose features.
    """
    keys: list[Hashable] = []
    for name, width in widths.items():
        if wanted is not True and name not in (wanted or ()):
            continue
        keys += [(name, what) for what in _meaning(dataset, name, width, node_type)]
    return keys


def _meaning(dataset: RatingDataset, name: str, width: int, node_type: str) -> Sequence[Hashable]:
    """What tells the columns of a feature apart: labels, names of numbers, or their places."""
    for attribute in (dataset.attributes.get(f"user_{name}"), dataset.attributes.get(name)):
        if attribute is None or attribute.node_type != node_type:
            continue
        if len(attribute.vocabulary) == width:
            return attribute.vocabulary
    if name == "numeric" and node_type == ITEM_TYPE:
        return [(number, part) for number in dataset.meta["numeric"] for part in range(2)]
    # Of a text what the columns mean is the text model's matter.
    model = dataset.meta.get("text_model") if width > 2 else None
    return [(model, place) for place in range(width)]


def _matched(new: Sequence[Hashable], old: Sequence[Hashable]) -> npt.NDArray[np.int64]:
    """[n] each one's place among the old ones; -1 where it is none of them."""
    places = {key: place for place, key in enumerate(old)}
    return np.array([places.get(key, -1) for key in new], dtype=np.int64)


def _notes(
    source: Source,
    matched: Mapping[str, npt.NDArray[np.int64]],
    known: RatingDataset,
    dataset: RatingDataset,
) -> dict[str, Any]:
    """What a run says of where it began, which is logged too."""
    counts = {f"{kind}s": int((places >= 0).sum()) for kind, places in matched.items()}
    seen = _seen_before(matched, known, dataset)
    log(
        f"beginning with {source.run}, epoch {source.checkpoint.meta['epoch']}: of "
        f"{len(dataset.users):,} users {counts['users']:,} are among its {len(known.users):,}, and "
        f"of {len(dataset.items):,} items {counts['items']:,} among its {len(known.items):,}"
    )
    if any(seen.values()):
        told = " and ".join(f"{count:,} {split} rows" for split, count in seen.items() if count)
        log(f"{told} of {dataset.path} were training rows of {source.run}: figures flatter there")
    return {
        "run": str(source.run.resolve()),
        **identity_of(source.checkpoint.meta),
        "matched": counts,
        "held_out_rows_trained_on": seen,
    }


def _seen_before(
    matched: Mapping[str, npt.NDArray[np.int64]], known: RatingDataset, dataset: RatingDataset
) -> dict[str, int]:
    """How many held-out rows of a data set were training rows of the source, by split."""
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
