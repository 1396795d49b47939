"""Tensors that a run stores beside its weights: item-item weights, and derived relations."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dglrec.checkpoint import MODEL_FILE, Checkpoint, load_checkpoint, save_checkpoint
from dglrec.dataset import DerivedDataset, RatingDataset
from dglrec.errors import DataError
from dglrec.infer import ItemWeights
from dglrec.run.folder import BEST, DERIVED, ITEM_ITEMS
from dglrec.run.models import described_model


def save_item_weights(
    run: Path, weights: ItemWeights, chosen: dict[str, Any], best: dict[str, Any]
) -> None:
    """Write the item-item weights of a run's best model.

    Args:
        run: the run's folder.
        weights: the item-item weights.
        chosen: the settings of the weights that validation chose.
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
        checkpoint: written by `save_item_weights`.
        run: the run's folder, for messages.
        best: the description of the best checkpoint.
        dataset: the data set that the run was trained on.

    Raises:
        DataError: the weights are damaged, of another model, or of another catalogue.
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
    """Write the relations derived from training rows that a run's model reads: `dataset.derive`."""
    save_checkpoint(run / DERIVED, made, {}, {})


def with_derived(
    dataset: RatingDataset, names: Sequence[str], made: Mapping[str, Tensor], run: Path
) -> DerivedDataset:
    """A data set with the relations derived from its training rows.

    Args:
        dataset: the data set that the run is trained on.
        names: the names of the derived relations, as in `dataset.derive`.
        made: written by `save_derived`.
        run: the run's folder, for messages.

    Raises:
        DataError: `made` is damaged, or of another data set.
    """
    try:
        return DerivedDataset(dataset, names, made)
    except (TypeError, ValueError) as error:  # TypeError: a number type that numpy lacks
        raise DataError(f"{run / DERIVED}: {error}; train the run again") from error


def with_derived_of(run: Path, meta: dict[str, Any], dataset: RatingDataset) -> RatingDataset:
    """The data set with the derived relations that a run's model reads; unchanged without any.

    Raises:
        DataError: the derived relations are missing, damaged, or of another model.
    """
    config = described_model(meta, run)
    names = config.derived_names(dataset.relations)
    if not names:
        return dataset
    derived = with_derived(dataset, names, load_checkpoint(run / DERIVED).weights, run)
    check_same_derived(meta, derived, run)
    return derived


def check_same_derived(meta: dict[str, Any], dataset: RatingDataset, run: Path) -> None:
    """Refuse derived edges other than those that a checkpoint was trained with.

    Args:
        meta: the checkpoint's description.
        dataset: the data set with the derived relations.
        run: the run's folder.

    Raises:
        DataError: the derived relations differ.
    """
    if meta.get("derived") != dataset.derived_digest:
        raise DataError(
            f"{run / DERIVED}: is not what the run's model was trained with; train the run again"
        )
