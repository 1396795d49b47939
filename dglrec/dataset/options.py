"""The options of `prepare`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from dglrec import schema
from dglrec.errors import UsageError
from dglrec.features import Kind, TextCleaning
from dglrec.ingest import Given
from dglrec.relations import check_relation_name
from dglrec.schema import RatingScale
from dglrec.split import check_shares


@dataclass(frozen=True)
class PrepareOptions:
    """The options of `prepare`.

    Attributes:
        format: layout of the source; `auto` finds out.
        columns: names of a table's columns, as `ingest.parse_columns` gives them.
        split: how held-out rows are chosen; see `split.SPLIT_METHODS`.
        valid: share of rows that validate; 0 for none.
        test: share of rows that test; 0 for none.
        seed: of the split.
        train_file: ratings to train and validate on, in place of the source's; needs `test_file`.
        test_file: ratings to test on.
        text: whether synopses become features.
        text_model: a sentence-transformers name or folder; `auto` takes the packaged one.
        cleaning: how a synopsis is cleaned first.
        numeric: item columns to use as numbers.
        complete_only: leave out ratings of items without genres or, with text, without a synopsis.
        scale: the rating scale, where the source's layout does not say it.
        interactions_from: the least rating that becomes an interaction; rows below it are left out.
            None keeps ratings, where there are any.
        users: how many users to draw, by the seed, and keep; None keeps all. For one source and
            seed a smaller draw is part of every larger one, but rows fall into other parts of the
            split.
        item_table: a table of items, whose columns become attributes and features.
        user_table: a table of users, likewise.
        attribute: kinds of attributes, by name, where they are not to be inferred; an attribute of
            the source's item tables that is named here becomes a feature, too.
        relation: files of further edges, by the relation's name. These and the two tables may be
            frames.
        overwrite: whether an existing data set may be replaced.
    """

    format: str = "auto"
    columns: Mapping[str, str] = field(default_factory=dict)
    split: str = "random"
    valid: float = 0.1
    test: float = 0.1
    seed: int = 0
    train_file: Given | None = None
    test_file: Given | None = None
    text: bool = True
    text_model: str = "auto"
    cleaning: TextCleaning = field(default_factory=TextCleaning)
    numeric: tuple[str, ...] = ()
    complete_only: bool = False
    scale: RatingScale | None = None
    interactions_from: float | None = None
    users: int | None = None
    item_table: Given | None = None
    user_table: Given | None = None
    attribute: Mapping[str, Kind] = field(default_factory=dict)
    relation: Mapping[str, Given] = field(default_factory=dict)
    overwrite: bool = False

    def check(self) -> None:
        """Refuse options that are wrong for any source.

        Raises:
            UsageError: an option is out of range, or two contradict each other.
        """
        if (self.train_file is None) != (self.test_file is None):
            raise UsageError("--train-file and --test-file must be given together")
        if self.seed < 0:
            raise UsageError(f"--seed {self.seed}: must be 0 or more")
        if self.users is not None and self.users < 1:
            raise UsageError(f"--users {self.users}: must be 1 or more")
        if self.interactions_from is not None:
            if not math.isfinite(self.interactions_from):
                raise UsageError(f"--interactions-from {self.interactions_from:g}: give a rating")
            if self.scale is not None:
                raise UsageError(
                    "--scale and --interactions-from: interactions have no scale; give one of the "
                    "two"
                )
        for name in self.relation:
            check_relation_name(name)
        if schema.GENRES in self.attribute:
            raise UsageError(f"--attribute {schema.GENRES}: genres are always categories")
        check_shares(self.valid, None if self.test_file else self.test)
