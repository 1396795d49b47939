"""The end of a training: item-item weights for the best model, and its figures."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from dglrec.checkpoint import load_checkpoint, pack_checkpoint, unpack_checkpoint
from dglrec.evaluate import evaluate
from dglrec.progress import log
from dglrec.run import ITEM_ITEMS, SELECTION, TrainedModel, item_weights_of, save_item_weights
from dglrec.train.config import Settings
from dglrec.train.item_items import fit_item_items, item_items_of, refit_item_items
from dglrec.train.objectives import Objective, positives_from
from dglrec.train.state import remove_item_weights
from dglrec.train.validation import relevant_users


def with_item_weights(
    trained: TrainedModel, settings: Settings, objective: Objective, run: Path
) -> TrainedModel:
    """The model with item-item weights, if its settings ask for them and they improve its lists.

    The first process fits and writes them, and sends them to the others.
    """
    dataset, world = trained.dataset, trained.world
    with world.together():
        if world.is_first:
            remove_item_weights(run)
    with world.together():
        kind = item_items_of(settings.model, dataset)
    if kind == "none":
        return trained
    trained.prepare()
    with world.together():
        if world.is_first:
            level = positives_from(settings.ranking, dataset)
            if "valid" in dataset.held_out_splits:
                found = fit_item_items(trained, objective, level, kind)
            else:
                found = refit_item_items(trained, level, _chosen(run, settings))
            if found is not None:
                save_item_weights(run, *found, trained.meta)

    def packed() -> bytes:
        return pack_checkpoint(run / ITEM_ITEMS) if (run / ITEM_ITEMS).is_dir() else b""

    data = world.from_first(packed)
    if not data:
        return trained
    weights = item_weights_of(unpack_checkpoint(data)[0], run, trained.meta, dataset)
    return replace(trained, item_weights=weights)


def _chosen(run: Path, settings: Settings) -> dict[str, Any] | None:
    """The settings of item-item weights for a run without validation rows; None for no weights.

    A refitted run takes those that its selection chose.

    Raises:
        DataError: the selection's weights are damaged.
    """
    place = run / SELECTION / ITEM_ITEMS
    if not settings.train.is_refit:
        log(
            f"model.item_items = {settings.model.item_items}: their settings are chosen on "
            "validation rows, and there are none; lists are made without them"
        )
        return None
    return dict(load_checkpoint(place).meta["chosen"]) if place.is_dir() else None


def measured(trained: TrainedModel, split: str, objective: Objective) -> dict[str, Any]:
    """The report of `evaluate` on ratings, and on lists if the model makes lists."""
    length = objective.list_length
    listed = length is not None and relevant_users(trained.dataset, split, 1) is not None
    if not listed and not trained.rates:
        return {"split": split, "notes": [f"no {split} row is relevant: no lists to measure"]}
    return evaluate(trained, split, ranking=length if listed else None)
