"""A data set together with relations and features derived from its training rows."""

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

from dglrec.biases import Biases
from dglrec.dataset.attributes import AttributeEncoder
from dglrec.dataset.stored import RatingDataset
from dglrec.derived import (
    DERIVED,
    DerivedConfig,
    WeightedAdjacency,
    metis_clusters,
    user_graph_features,
)
from dglrec.errors import UsageError
from dglrec.graph import RatingGraph
from dglrec.relations import USER_TYPE, Relation
from dglrec.schema import CLUSTERS, OF_GRAPH

_PARTS = {"offsets": torch.int64, "neighbours": torch.int32, "weights": torch.float32}


def derive(
    dataset: RatingDataset, names: Sequence[str], config: DerivedConfig, clusters: int = 0
) -> dict[str, Tensor]:
    """Derive relations of `derived.DERIVED`, user features, and clusters, from the training rows.

    Args:
        dataset: the data set; held-out rows are not read.
        names: of the relations, and `OF_GRAPH` and `CLUSTERS`.
        config: how relations and features are derived.
        clusters: how many clusters to make, if `names` has `CLUSTERS`.

    Returns:
        Tensors by name, as `DerivedDataset` takes them; a file can hold them.

    Raises:
        UsageError: a relation has no edge, or clusters cannot be made; see `metis_clusters`.
        UnusableEnvironmentError: there is too little memory, or no DGL for clusters.
    """
    made = {}
    for name in names:
        if name == CLUSTERS:
            made[name] = torch.from_numpy(metis_clusters(dataset.graph, clusters))
            continue
        if name == OF_GRAPH:
            known = dataset.user_features.numpy()
            made[name] = torch.from_numpy(user_graph_features(dataset.graph, known, config))
            continue
        edges = DERIVED[name].build(dataset.graph, config)
        if not len(edges.neighbours):
            raise UsageError(
                f"relation {name} has no edge among these training rows; leave out what reads it: "
                "model.relations, or model.convolution graph_filter"
            )
        made |= {f"{name}.{part}": torch.from_numpy(getattr(edges, part)) for part in _PARTS}
    return made


class DerivedDataset(RatingDataset):
    """A data set with relations and user features that were derived from its training rows.

    Args:
        dataset: the data set that they were derived from.
        names: what to use of `made`, as for `derive`.
        made: the tensors that `derive` returned, perhaps read from a file.

    Attributes:
        made: as given.
        derived_digest: SHA-256 of `made`.

    Raises:
        ValueError: something is missing, of another form, or does not fit the data set.
    """

    def __init__(
        self, dataset: RatingDataset, names: Sequence[str], made: Mapping[str, Tensor]
    ) -> None:
        super().__init__(dataset.path, dataset.meta, dataset._files, dataset.parts)
        self._plain, self._names = dataset, tuple(names)
        counts = dataset.graph.num_users, dataset.graph.num_items
        self.made = dict(made)
        self.derived_digest = _digest(made)
        # `relations` holds those that files gave.
        self._derived = {
            name: _relation(name, made, *counts)
            for name in names
            if name not in (OF_GRAPH, CLUSTERS)
        }
        if CLUSTERS in names:
            self.clusters = _checked(made, CLUSTERS, torch.int32, 1)
            if len(self.clusters) != sum(counts):
                raise ValueError(f"{len(self.clusters)} clusters of users and items")
        self._graph_features = None
        if OF_GRAPH in names:
            self._graph_features = _checked(made, OF_GRAPH, torch.float32, 2)
            if len(self._graph_features) != counts[0]:
                raise ValueError(f"{len(self._graph_features)} rows of features of users")
            if not bool(torch.isfinite(self._graph_features).all()):
                raise ValueError("a feature of users is not finite")

    def with_rows(self, splits: Sequence[str]) -> "DerivedDataset":
        """As for any data set; what was derived from the training rows is kept.

        Raises:
            UsageError: there is no such split.
        """
        return DerivedDataset(self._plain.with_rows(splits), self._names, self.made)

    @cached_property
    def graph(self) -> RatingGraph:
        """The graph of the plain data set, which may be in memory already."""
        return self._plain.graph

    @cached_property
    def biases(self) -> Biases:
        """The biases of the plain data set."""
        return self._plain.biases

    def relation(self, name: str) -> Relation:
        """A relation by name: of the plain data set, or derived from training rows.

        Raises:
            UsageError: there is no relation of that name.
        """
        return self._derived[name] if name in self._derived else super().relation(name)

    @property
    def relation_names(self) -> tuple[str, ...]:
        """The names that `relation` takes."""
        return (*super().relation_names, *self._derived)

    @cached_property
    def user_features(self) -> Tensor:
        """float32 [U, F + G]: the users' features, then the features of the graph."""
        features = self._plain.user_features
        more = self._graph_features
        return features if more is None else torch.cat((features, more), dim=1)

    @property
    def user_feature_widths(self) -> dict[str, int]:
        """Columns of `user_features`: attribute name -> how many, in their order."""
        more, widths = self._graph_features, self._plain.user_feature_widths
        return widths if more is None else {**widths, OF_GRAPH: more.shape[1]}

    @cached_property
    def user_encoder(self) -> AttributeEncoder:
        """Encodes users' attributes; not the features of the graph."""
        return self._plain.user_encoder

    def encode_users(self, users: pd.DataFrame) -> Tensor:
        """Features of n users that the data set does not hold; zeros for those of the graph.

        Args:
            users: as for `RatingDataset.encode_users`.

        Raises:
            DataError, UnusableEnvironmentError: as `RatingDataset.encode_users`.
        """
        features = self._plain.encode_users(users)
        width = sum(self.user_feature_widths.values())
        return functional.pad(features, (0, width - features.shape[1]))


def _relation(name: str, made: Mapping[str, Tensor], num_users: int, num_items: int) -> Relation:
    """A relation of `DERIVED`, checked.

    Raises:
        ValueError: its arrays do not describe edges between nodes of the data set.
    """
    kind = DERIVED[name]
    arrays = [_checked(made, f"{name}.{part}", dtype, 1).numpy() for part, dtype in _PARTS.items()]
    edges = WeightedAdjacency(*arrays)
    nodes = num_users if kind.node_type == USER_TYPE else num_items
    if len(edges.offsets) != nodes + 1 or edges.offsets[-1] != len(edges.neighbours):
        raise ValueError(f"the edges of {name} are not those of {nodes:,} nodes")
    if not (np.isfinite(edges.weights) & (edges.weights >= 0)).all():
        raise ValueError(f"a weight of {name} is below 0 or not finite")
    return kind.relation(name, edges)


def _checked(made: Mapping[str, Tensor], name: str, dtype: torch.dtype, ndim: int) -> Tensor:
    tensor = made.get(name)
    if tensor is None or tensor.dtype != dtype or tensor.ndim != ndim:
        raise ValueError(f"{name} is missing, or of another form")
    return tensor


def _digest(made: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(made.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
