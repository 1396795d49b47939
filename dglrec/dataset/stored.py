"""A prepared data set, memory-mapped: `RatingDataset`."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

from dglrec import schema
from dglrec.biases import Biases, Damping, NoBiases, fit_biases, no_biases
from dglrec.dataset.attributes import (
    ITEM_ATTRIBUTES,
    USER_ATTRIBUTES,
    USER_FEATURES,
    AttributeEncoder,
    AttributeOptions,
    ItemEncoder,
    check_attributes,
    check_reproduced,
    fit_user_encoder,
    used_kinds,
)
from dglrec.dataset.extended import extended
from dglrec.dataset.held_out import HeldOut, parquet_faults, read_held_out
from dglrec.dataset.layout import (
    FEATURES,
    FILES,
    HELD_OUT,
    ITEMS,
    TIMES,
    TRAIN,
    USERS,
)
from dglrec.dataset.mapped import MappedFiles, open_files
from dglrec.dataset.nodes import KnownOf, find_attributes
from dglrec.dataset.planted import read_planted
from dglrec.dataset.relations import RELATIONS, read_relations
from dglrec.dataset.tables import attribute_columns, attribute_kinds
from dglrec.errors import DataError, UsageError
from dglrec.features import TextCleaning, read_labels, stored_kind
from dglrec.graph import Adjacency, RatingGraph, group_by_user
from dglrec.ids import IdMap
from dglrec.ingest import ColumnNames, names_with
from dglrec.kernels import ItemLists, merge_lists
from dglrec.relations import ITEM_TYPE, USER_TYPE, Attribute, Relation, relate_labels
from dglrec.schema import RatingScale
from dglrec.synthetic import PlantedLists

_OF_RATINGS = ("scale", "mean_rating")  # entries that mean nothing for interactions


class RatingDataset:
    """A prepared data set. Opening maps files and reads none, so it is fast at any size.

    A file is verified when it is first used, or by `prove`: it is read once from end to end, and a
    `DataError` names it if it is damaged. An open data set stays what it was, even if its folder is
    replaced meanwhile, which is logged.

    Its rows are ratings, or interactions: ratings that all have the value 1 of `scale`, without
    biases. `has_ratings` says which.

    Its graph and biases are those of its training rows; after `with_rows`, also of held-out rows.
    All else is what `prepare` made from training rows: features, vocabularies, relations.

    Args:
        path: the data set's folder.
        meta: the content of `dataset.json`.
        files: the files in the folder.
        parts: the parts of the split whose rows are in the graph; `train` is the first.

    Attributes:
        derived_digest: identifies what was derived from training rows; None if nothing was.
        clusters: int32 [U + I], see `derived.metis_clusters`; None if none were made.
    """

    derived_digest: str | None = None
    clusters: Tensor | None = None

    def __init__(
        self,
        path: Path,
        meta: dict[str, Any],
        files: MappedFiles,
        parts: tuple[str, ...] = (TRAIN,),
    ) -> None:
        self.path = path
        self.meta = meta
        self.parts = parts
        self._files = files
        self.scale = RatingScale(**meta["scale"])
        self.fingerprint: str = meta["fingerprint"]

    @classmethod
    def open(cls, path: Path) -> "RatingDataset":
        """Open the data set in a folder.

        Raises:
            DataError: there is none, it has another schema version, or a file is missing or
                damaged.
        """
        path = Path(path)
        return cls(path, *open_files(path))

    def with_rows(self, splits: Sequence[str]) -> "RatingDataset":
        """The data set with held-out rows in its graph; itself if they are in it already.

        The rows are merged when the graph is first used, in memory: 18 bytes a row, 26 with
        timestamps, in time linear in the rows. Biases are fitted to all of them.

        Args:
            splits: of `valid` and `test`.

        Raises:
            UsageError: there is no such split.
        """
        for split in splits:
            _check_split(split)
        parts = (TRAIN, *(split for split in HELD_OUT if split in (*self.parts, *splits)))
        return (
            self if parts == self.parts else RatingDataset(self.path, self.meta, self._files, parts)
        )

    @property
    def rows_fingerprint(self) -> str:
        """Identifies the data set together with the parts of the split that its graph holds."""
        return " ".join((self.fingerprint, *self.parts))

    @property
    def held_out_splits(self) -> tuple[str, ...]:
        """Those of `valid` and `test` that have rows which the graph does not hold."""
        counts = self.meta["counts"]
        return tuple(name for name in HELD_OUT if counts[name] and name not in self.parts)

    def check_held_out(self, split: str) -> None:
        """Refuse a split that has no held-out rows, or none that the graph does not hold.

        Raises:
            UsageError: there are no such rows, or there is no such split.
        """
        _check_split(split)
        if split in self.parts:
            raise UsageError(
                f"{self.path}: its {split} rows are among those that the model reads, and a row "
                "that is read cannot be predicted; choose another split"
            )
        if not self.meta["counts"][split]:
            raise UsageError(
                f"{self.path}: has no {split} rows (prepare --{split} 0); choose another split, or "
                f"prepare the data set with --{split} above 0"
            )

    def prove(self) -> None:
        """Verify every file: its bytes are those that `prepare` wrote, and its values possible.

        Raises:
            DataError: a file is damaged.
        """
        self._files.prove()

    def faults(self) -> list[str]:
        """What `prove` would say of each damaged file."""
        return self._files.faults()

    @property
    def has_checksums(self) -> bool:
        """Whether `dataset.json` has checksums of the other files; earlier versions wrote none."""
        return FILES in self.meta

    @property
    def interactions_from(self) -> float | None:
        """The least rating that became an interaction; None if they were not made from ratings."""
        level = self.meta.get("interactions_from")
        return None if level is None else float(level)

    @property
    def has_ratings(self) -> bool:
        """Whether its rows are ratings; else they are interactions."""
        return bool(self.meta[schema.FEEDBACK] == schema.RATINGS)

    @property
    def has_times(self) -> bool:
        """Whether rows have timestamps; earlier versions kept none."""
        return bool(self.meta.get(TIMES))

    @cached_property
    def graph(self) -> RatingGraph:
        """The training ratings, memory-mapped, or merged in memory with held-out rows."""
        if self.parts == (TRAIN,):
            return self._stored_graph
        more = [self._read_held_out(name) for name in self.parts[1:]]
        return extended(self._stored_graph, more, self.path)

    @property
    def _stored_graph(self) -> RatingGraph:
        return RatingGraph(
            by_user=self._adjacency("user"),
            by_item=self._adjacency("item"),
            edges_by_item=self._train("by_item_edges"),
            scale=self.scale,
            times=self._train("by_user_times") if self.has_times else None,
        )

    @cached_property
    def biases(self) -> Biases:
        """The biases fitted to the training ratings; interactions have none."""
        if self.parts != (TRAIN,):
            return fit_biases(self.graph) if self.has_ratings else no_biases(self.graph)
        kind = Biases if self.has_ratings else NoBiases
        return kind(
            mean=self.meta["mean_rating"],
            users=torch.from_numpy(self._train("user_bias")),
            items=torch.from_numpy(self._train("item_bias")),
            user_degrees=torch.from_numpy(self.graph.by_user.degrees.astype(np.float32)),
            item_degrees=torch.from_numpy(self.graph.by_item.degrees.astype(np.float32)),
            user_squares=torch.from_numpy(self._train("user_squares")),
            item_squares=torch.from_numpy(self._train("item_squares")),
            variance=self.meta["variance"],
            damping=self._damping(),
        )

    @property
    def mean_rating(self) -> float:
        """Mean rating of the training rows that `prepare` chose, whatever rows the graph holds.

        It decides which ratings count as relevant, which must not depend on what a model has read.
        """
        return float(self.meta["mean_rating"])

    @property
    def level_counts(self) -> npt.NDArray[np.int64]:
        """int64 [levels]: how many of those training rows take each value of the scale."""
        return np.array(self.meta["level_counts"], dtype=np.int64)

    @cached_property
    def users(self) -> IdMap:
        """External user ids."""
        return self._ids(USERS, schema.USER_ID)

    @cached_property
    def items(self) -> IdMap:
        """External item ids."""
        return self._ids(ITEMS, schema.ITEM_ID)

    @cached_property
    def titles(self) -> pa.ChunkedArray:
        """[I] titles; the id in place of a missing title."""
        return self._table(ITEMS, [schema.TITLE]).column(0)

    @property
    def columns(self) -> Mapping[str, str]:
        """`user`, `item`, `rating`, `timestamp` -> the names that `prepare` was given for them."""
        found: Mapping[str, str] = self.meta.get("columns", {})
        return found

    @property
    def column_names(self) -> ColumnNames:
        """The names that columns may have in files given later: also those in the ratings."""
        return names_with(self.columns)

    @cached_property
    def planted(self) -> PlantedLists | None:
        """The planted parameters behind the best possible lists, if the data came with a truth."""
        return read_planted(self.path, self.meta, self._array)

    @cached_property
    def item_features(self) -> Tensor:
        """float32 [I, F]: all features of the items side by side; F may be 0."""
        parts = [self._features(name) for name in self.meta["features"]]
        if not parts:
            return torch.zeros(self.meta["counts"]["items"], 0)
        return torch.from_numpy(np.concatenate(parts, axis=1, dtype=np.float32))

    def encode_items(self, items: pd.DataFrame) -> Tensor:
        """Features of n items that the data set does not hold, float32 [n, F].

        Args:
            items: n rows with `genres`, `synopsis` and the numeric columns that the data set uses.

        Raises:
            DataError: a numeric column is missing or does not hold numbers, or the text model is
                not that which embedded the data set's synopses.
            UnusableEnvironmentError: the text model cannot be had.
        """
        if "numeric" not in self.meta:
            raise DataError(f"{self.path}: made by an earlier version; prepare it again")
        check_attributes(items, self.meta["numeric"])
        catalogue = self._catalogue()
        trained = self._is_trained("item")
        encoder = ItemEncoder.fit(catalogue, trained, AttributeOptions.of(self.meta))
        # A known item, with a synopsis if any has, shows whether features come out as before.
        known = int(catalogue[schema.SYNOPSIS].notna().to_numpy().argmax())
        before = {name: self._features(name)[known : known + 1] for name in self.meta["features"]}
        check_reproduced(encoder.encode(catalogue.iloc[[known]]), before)
        features = encoder.encode(items)
        no_features = np.zeros((len(items), 0), dtype=np.float32)
        return torch.from_numpy(
            np.concatenate([no_features, *(features[name] for name in before)], axis=1)
        )

    @cached_property
    def user_features(self) -> Tensor:
        """float32 [U, F]: all features of the users side by side; F may be 0."""
        if not self.user_feature_widths:
            return torch.zeros(self.meta["counts"]["users"], 0)
        return torch.from_numpy(self._array(f"{USER_FEATURES}.npy"))

    @property
    def user_feature_widths(self) -> dict[str, int]:
        """Columns of `user_features`: attribute name -> how many, in their order."""
        return dict(self.meta.get(USER_FEATURES, {}))

    @property
    def user_attributes(self) -> tuple[str, ...]:
        """The names of the users' attributes, whether or not they became features."""
        return tuple(attribute_columns(self._table(USERS).schema.empty_table().to_pandas()))

    @cached_property
    def user_encoder(self) -> AttributeEncoder:
        """Encodes users' attributes; fitted as it was when `user_features` were made.

        Raises:
            DataError: the text model is not that which embedded the data set's texts.
            UnusableEnvironmentError: the text model cannot be had.
        """
        widths = self.user_feature_widths
        known = self._table(USERS).to_pandas()
        encoder = fit_user_encoder(
            known,
            self._is_trained("user"),
            used_kinds(self.meta.get(USER_ATTRIBUTES, {}), widths),
            self.meta["text_model"] or "auto",
            TextCleaning(**(self.meta["cleaning"] or {})),
        )
        ends = np.cumsum(list(widths.values()))[:-1]
        first = np.split(self.user_features[:1].numpy(), ends, axis=1)
        before = dict(zip(widths, first, strict=False))  # without widths there is an empty one
        check_reproduced(encoder.encode(known.iloc[:1]), before)
        return encoder

    def encode_users(self, users: pd.DataFrame) -> Tensor:
        """Features of n users that the data set does not hold, float32 [n, F].

        Args:
            users: n rows with the attributes that the data set uses as columns.

        Raises:
            DataError: a column is missing or of another kind, or the text model is not that which
                embedded the data set's texts.
            UnusableEnvironmentError: the text model cannot be had.
        """
        widths = self.user_feature_widths
        if not widths:
            return torch.zeros(len(users), 0)
        features = self.user_encoder.encode(users)
        return torch.from_numpy(np.concatenate([features[name] for name in widths], axis=1))

    @cached_property
    def relations(self) -> Mapping[str, Relation]:
        """The relations that files gave, by name, memory-mapped; empty if no files did."""
        return read_relations(self.meta, self._array)

    @cached_property
    def attributes(self) -> Mapping[str, Attribute]:
        """The attributes of items and users that have labels, by name, each with its nodes.

        They are made from the tables when they are first used. If an attribute of items and one of
        users have the same name, the user's is called `user_<name>`.

        Raises:
            DataError: a relation's labels are not those of the tables.
        """
        items, users = self._catalogue(), self._table(USERS).to_pandas()
        kinds = (
            {name: stored_kind(name, kind) for name, kind in self.meta.get(entry, {}).items()}
            for entry in (ITEM_ATTRIBUTES, USER_ATTRIBUTES)
        )
        trained = (self._is_trained("item"), self._is_trained("user"))
        both = zip((ITEM_TYPE, USER_TYPE), (items, users), trained, kinds, strict=True)
        found = find_attributes(*(KnownOf(*known) for known in both))
        for relation in self.relations.values():
            for name, count in (
                (relation.source_type, relation.num_sources),
                (relation.destination_type, relation.num_destinations),
            ):
                labels = len(found[name].vocabulary) if name in found else 0
                if name not in (USER_TYPE, ITEM_TYPE) and labels != count:
                    raise DataError(
                        f"{self.path}: relation {relation.name} has {count:,} labels of {name}, "
                        f"the data set {labels:,}; prepare the data set again"
                    )
        return found

    def label_items(self, items: pd.DataFrame, name: str) -> Relation:
        """The labels of n items that the data set does not hold, in one of its attributes.

        Args:
            items: n rows; without the attribute's column, they have no labels.
            name: of an attribute of items.
        """
        return self._label(items, name, self._catalogue(), ITEM_ATTRIBUTES)

    def label_users(self, users: pd.DataFrame, name: str) -> Relation:
        """The same for n users and an attribute of users."""
        return self._label(users, name, self._table(USERS).to_pandas(), USER_ATTRIBUTES)

    def _label(self, table: pd.DataFrame, name: str, known: pd.DataFrame, entry: str) -> Relation:
        attribute, columns = self.attributes[name], attribute_columns(known)
        # `find_attributes` may have added a prefix to the name, which the column does not have.
        column_name = name if name in columns else name.removeprefix(f"{attribute.node_type}_")
        given = {key: stored_kind(key, kind) for key, kind in self.meta.get(entry, {}).items()}
        kind = attribute_kinds(known, given, [column_name])[column_name]
        column = attribute_columns(table).get(column_name)
        labels = [[]] * len(table) if column is None else read_labels(table[column], kind)
        return relate_labels(name, attribute.node_type, labels, attribute.vocabulary)

    def relation(self, name: str) -> Relation:
        """A relation by name: one of `relations`, or `has_<attribute>` of `attributes`.

        Raises:
            UsageError: there is no relation of that name.
        """
        if name in self.relations:
            return self.relations[name]
        of_attributes = {
            attribute.relation.name: attribute.relation for attribute in self.attributes.values()
        }
        if name not in of_attributes:
            there = ", ".join(self.relation_names) or "none"
            raise UsageError(f"{self.path}: no relation {name}; there is {there}")
        return of_attributes[name]

    @property
    def relation_names(self) -> tuple[str, ...]:
        """The names that `relation` takes."""
        return (
            *self.relations,
            *(attribute.relation.name for attribute in self.attributes.values()),
        )

    @property
    def among_users(self) -> tuple[str, ...]:
        """The names of relations from users to users."""
        ends = (USER_TYPE, USER_TYPE)
        given = self.relations.values()
        return tuple(
            relation.name
            for relation in given
            if (relation.source_type, relation.destination_type) == ends
        )

    def held_out(self, split: str, first: int = 0, last: int | None = None) -> HeldOut:
        """The validation rows (`valid`) or the test rows (`test`), or a range of them.

        Args:
            split: `valid` or `test`.
            first: the first row.
            last: one past the last; None for the end.

        Raises:
            UsageError: there is no such split, it has no rows, or they are in the graph.
        """
        self.check_held_out(split)
        return self._read_held_out(split, first, last)

    def _read_held_out(self, split: str, first: int = 0, last: int | None = None) -> HeldOut:
        last = self.meta["counts"][split] if last is None else last
        name, counts = f"{split}.parquet", self.meta["counts"]
        with parquet_faults(self.path / name):
            rows = read_held_out(self._files[name].table(), first, last)
            rows.check(counts["users"], counts["items"], self.scale)
        return rows

    def held_out_by_user(self, split: str) -> Adjacency:
        """The rows of `valid` or `test`, grouped by user, each user's ordered by item."""
        rows = self.held_out(split)
        return group_by_user(
            rows.users.numpy(),
            rows.items.numpy(),
            self.scale.encode(rows.ratings.numpy()),
            num_users=self.meta["counts"]["users"],
            num_items=self.meta["counts"]["items"],
        )

    def rated_items(self, held_out: Sequence[str] = HELD_OUT) -> ItemLists:
        """The items that each user rated, in training and in held-out rows: lists of U users.

        Args:
            held_out: which held-out rows count: `valid`, `test`. Splits without rows, and those
                that the graph holds already, add nothing.
        """
        lists = [self.graph.by_user.lists]
        more = [name for name in held_out if name in self.held_out_splits]
        return merge_lists([*lists, *(self.held_out_by_user(name).lists for name in more)])

    def describe(self) -> dict[str, Any]:
        """What `prepare` reports: counts, split, features; for ratings also their scale and mean.

        If there are any: items with a title, widths of users' features, edges of relations, labels
        of attributes; and how many test rows are of users or items without training rows.
        """
        keys = ["format", schema.FEEDBACK, "counts", "scale", "split", "mean_rating"]
        keys += ["features", "notes"]
        if not self.has_ratings:
            keys = [key for key in keys if key not in _OF_RATINGS]
        described = {"dataset": str(self.path), **{key: self.meta[key] for key in keys}}
        described["notes"] = {**described["notes"], **self._new_in_test()}
        ids = self.items.ids.cast(pa.string())
        if titled := pc.sum(pc.not_equal(self.titles, ids)).as_py():
            described["titles"] = titled
        if self.user_feature_widths:
            described[USER_FEATURES] = self.user_feature_widths
        if self.relations:
            described[RELATIONS] = {
                name: relation.num_edges for name, relation in self.relations.items()
            }
        if self.attributes:
            labels = {name: len(value.vocabulary) for name, value in self.attributes.items()}
            described["attributes"] = labels
        return described

    def _new_in_test(self) -> dict[str, int]:
        """How many test rows are of users, or of items, that have no training row."""
        if "test" not in self.held_out_splits:
            return {}
        rows = self.held_out("test")
        of_sides = {"user": rows.users.numpy(), "item": rows.items.numpy()}
        return {
            f"test_rows_of_new_{side}s": int(np.count_nonzero(~self._is_trained(side)[index]))
            for side, index in of_sides.items()
        }

    def _catalogue(self) -> pd.DataFrame:
        """The items' table, as `prepare` had it."""
        catalogue: pd.DataFrame = self._table(ITEMS).to_pandas()
        catalogue[schema.GENRES] = [list(row) for row in catalogue[schema.GENRES]]
        return catalogue

    def _damping(self) -> Damping:
        """The damping of the biases; earlier data sets have a single number for both sides."""
        damping = self.meta["damping"]
        return Damping(**damping) if isinstance(damping, dict) else Damping(damping, damping)

    def _adjacency(self, side: str) -> Adjacency:
        parts = (self._train(f"by_{side}_{part}") for part in ("offsets", "neighbours", "codes"))
        return Adjacency(*parts)

    def _is_trained(self, side: str) -> npt.NDArray[np.bool_]:
        """Which users or items have a training row, bool [N]; found without reading ratings."""
        return np.diff(self._files[f"{TRAIN}/by_{side}_offsets.npy"].offsets()) > 0

    def _train(self, name: str) -> npt.NDArray[Any]:
        return self._array(f"{TRAIN}/{name}.npy")

    def _features(self, name: str) -> npt.NDArray[Any]:
        return self._array(f"{FEATURES}/{name}.npy")

    def _array(self, name: str) -> npt.NDArray[Any]:
        return self._files[name].array()

    def _table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        with parquet_faults(self.path / name):
            return pq.read_table(self._files[name].table(), columns=columns)

    def _ids(self, name: str, column: str) -> IdMap:
        return IdMap(self._table(name, [column]).column(0).combine_chunks())


def _check_split(split: str) -> None:
    if split not in HELD_OUT:
        raise UsageError(f"no split {split!r}; choose {' or '.join(HELD_OUT)}")
