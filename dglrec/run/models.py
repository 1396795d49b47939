"""The model that a run describes, and the features and relations that it reads."""

from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
from pydantic import BaseModel, ValidationError

from dglrec.blocks import RelationBlock, WeightedEdges
from dglrec.dataset import RatingDataset
from dglrec.derived import WeightedAdjacency
from dglrec.errors import DataError, UsageError
from dglrec.infer import blocks_of_labels
from dglrec.nn import ModelConfig, RatingModel
from dglrec.relations import DERIVED_NAMES, ITEM_TYPE, USER_TYPE, Direction, directions_of
from dglrec.run.folder import BEST

_Config = TypeVar("_Config", bound=BaseModel)


def misfit(run: Path) -> str:
    """The message for a run whose weights do not fit its model."""
    return f"{run / BEST}: its weights do not fit the model it describes"


def build_model(meta: dict[str, Any], dataset: RatingDataset, run: Path) -> RatingModel:
    """The model that a checkpoint describes, with new weights.

    Raises:
        DataError: the checkpoint does not describe a model.
    """
    return new_model(described_model(meta, run), dataset)


def new_model(config: ModelConfig, dataset: RatingDataset) -> RatingModel:
    """A graph model for a data set, with new weights.

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
    """`new_model` with shapes only: it allocates no memory and draws no random numbers.

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
    """The item graph of a model's graph filters, scaled to the largest eigenvalue 1; None without.

    Raises:
        UsageError: there is no relation `similar`, or a file gave one that is not between items or
            not symmetric.
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
            "relation between items, such as the one that is made where no file gives another"
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
                f"{relation.destination_type}, and so sends no messages to users or items"
            )
        found += directions
    return tuple(found)


def blocks_of_new_items(
    config: ModelConfig, dataset: RatingDataset, items: pd.DataFrame
) -> tuple[RelationBlock, ...]:
    """The label edges of new items, along the relations that a model reads.

    Args:
        config: the model's configuration.
        dataset: the data set that it was trained on.
        items: the new items, with their attributes as columns.
    """
    names = read_attributes_of(ITEM_TYPE, config, dataset)
    return blocks_of_labels(directions_of([dataset.label_items(items, name) for name in names]))


def blocks_of_new_users(
    config: ModelConfig, dataset: RatingDataset, users: pd.DataFrame
) -> tuple[RelationBlock, ...]:
    """The label edges of new users; see `blocks_of_new_items`."""
    names = read_attributes_of(USER_TYPE, config, dataset)
    return blocks_of_labels(directions_of([dataset.label_users(users, name) for name in names]))


def read_attributes_of(node_type: str, config: ModelConfig, dataset: RatingDataset) -> list[str]:
    """The attributes whose labels are nodes that send messages to a model's items or users."""
    if not config.relations:
        return []
    return [
        name
        for name, attribute in dataset.attributes.items()
        if attribute.node_type == node_type and attribute.relation.name in config.relations
    ]


def described_model(meta: dict[str, Any], run: Path) -> ModelConfig:
    """The configuration of the model that a checkpoint describes.

    Raises:
        DataError: the description is not valid in this version.
    """
    return described(ModelConfig, meta.get("model"), run)


def described(kind: type[_Config], values: Any, run: Path) -> _Config:
    """The configuration that a checkpoint holds.

    Raises:
        DataError: the values are not valid.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        what = ".".join(map(str, first["loc"][:1]))
        raise DataError(
            f"{run}: its checkpoint describes no model of this version ({what}: {first['msg']})"
        ) from error
