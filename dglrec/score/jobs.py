"""Scoring jobs, part by part: the best items of users, scores of pairs, or reasons for scores.

Data flow: files or frames of users and items -> roster -> parts by number -> for each part: indices
-> scores -> ids. `batch.py` writes the parts into a folder, `tables.py` joins them in a table.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from dglrec import schema
from dglrec.errors import DataError, EmptyFileError, UsageError
from dglrec.ids import to_type
from dglrec.infer import REASONS, Diverse, Diversity, check_explainable
from dglrec.ingest import Given, Stretch, find, stream_columns
from dglrec.kernels import ItemLists
from dglrec.metrics import clip
from dglrec.places import Place
from dglrec.progress import Advance, log, progress
from dglrec.run import Predictor, TrainedBaseline
from dglrec.score.added import Known, read_items_to_add, read_users_to_add
from dglrec.score.described import read_described_users
from dglrec.score.fill import Part
from dglrec.score.fitted import BaselineRoster, BaselineScorer, refused
from dglrec.score.listed import Unknown, cut, listed, refuse_unknown
from dglrec.score.recommend import check_k
from dglrec.score.roster import Roster

_PART_USERS = 1 << 14
_PART_ROWS = 1 << 20
_USERS_AT_ONCE = 1 << 13
_RELATIONS = pa.list_(
    pa.struct(
        [
            ("kind", pa.string()),
            ("of", pa.string()),
            ("names", pa.list_(pa.string())),
            ("count", pa.int64()),
            ("contribution", pa.float32()),
        ]
    )
)


def users_in_part(k: int) -> int:
    """The number of users in a part, for lists of k items."""
    return max(1, min(_PART_USERS, _PART_ROWS // k))


def rows_in_part() -> int:
    """The number of pairs in a part."""
    return _PART_ROWS


@dataclass(frozen=True)
class ScoreOptions:
    """Options of scoring top-k lists and of scoring pairs.

    Attributes:
        ratings: a file with ratings of users that training never saw, who are scored as well.
        known: how ratings of users of the data set in that file are treated: as an error, as
            additional ratings (`extend`), or as all ratings of the user (`replace`).
        user_table: a file with attributes of users that training never saw, with or without
            ratings.
        new_items: a file with items that training never saw, which are scored as well.
        unknown: how an unknown user or item in a list is treated: as an error, by leaving out its
            row (`skip`), or, for pairs, by a missing score (`null`).
        shard: (i, n): only every n-th part from the i-th on, i from 0.
        overwrite: whether to remove existing scores from the folder first.
    """

    ratings: Given | None = None
    known: Known = "error"
    user_table: Given | None = None
    new_items: Given | None = None
    unknown: Unknown = "error"
    shard: tuple[int, int] = (0, 1)
    overwrite: bool = False

    def check(self) -> None:
        """Refuse impossible options.

        Raises:
            UsageError: the shard does not exist, or `overwrite` is given for one of several shards.
        """
        number, shards = self.shard
        if not 0 <= number < shards:
            runs = f"the first figure runs from 0 to {shards - 1}"
            mend = runs if shards > 0 else "the second figure is how many shards there are"
            raise UsageError(f"--shard {number}/{shards}: {mend}")
        if self.overwrite and shards > 1:
            raise UsageError(
                "--overwrite would remove what other shards write; remove the folder by hand first"
            )


@dataclass(frozen=True)
class TopKOptions(ScoreOptions):
    """Options of scoring top-k lists.

    Attributes:
        users: a file with a column `user_id`: only these users get lists.
        items: a file with a column `item_id`: only these items are candidates.
        include_seen: whether items that the user has rated are candidates.
        explain: whether each item comes with the reasons for its score.
        diversity: how to make lists diverse; None for lists by score alone. Scores of diverse
            lists need not descend; `rank` gives the order.
    """

    users: Given | None = None
    items: Given | None = None
    include_seen: bool = False
    explain: bool = False
    diversity: Diversity | None = None


_Options = TypeVar("_Options", bound=ScoreOptions)


def found(options: _Options) -> _Options:
    """The same options with their tables located: single files, or the parts of a table.

    Raises:
        DataError: a folder or a pattern has no part, or a part that is no table.
    """
    given = {option.name: getattr(options, option.name) for option in fields(options)}
    tables: dict[str, Any] = {
        name: find(option) for name, option in given.items() if isinstance(option, Place)
    }
    return replace(options, **tables)


class TopKJob:
    """Lists of the best items, in parts of consecutive users; columns are those of `score_top_k`.

    Args:
        trained: a run's model.
        roster: the users and items to score.
        users: int64, the users of each part.
        catalogue: int64 [C] the items to choose from, ascending.
        k: items for each user.
        options: see `TopKOptions`.

    Attributes:
        count: the number of parts.
    """

    def __init__(
        self,
        trained: Predictor,
        roster: Roster | BaselineRoster,
        users: Sequence[Tensor],
        catalogue: Tensor,
        k: int,
        options: TopKOptions,
    ) -> None:
        self.count: int | None = len(users)
        self._trained, self._roster = trained, roster
        self._users, self._catalogue = users, catalogue
        self._k, self._options = k, options

    @classmethod
    def of(cls, trained: Predictor, k: int, options: TopKOptions) -> "TopKJob":
        """The job for options that `check_top_k` accepts.

        Raises:
            UsageError: there are fewer items than a list has places.
            DataError: a file is bad or names unknown users or items.
        """
        roster, names = read_roster(trained, options), trained.dataset.column_names
        try:
            users = listed(options.users, schema.USER_ID, roster.users, options.unknown, names)
        except EmptyFileError as error:
            log(f"{error}, so there are no users to score")
            users = torch.empty(0, dtype=torch.int64)
        catalogue = listed(options.items, schema.ITEM_ID, roster.items, options.unknown, names)
        check_k(k, len(catalogue))
        return cls(trained, roster, users.split(users_in_part(k)), catalogue, k, options)

    @property
    def num_users(self) -> int:
        """The number of users who get lists."""
        return sum(len(part) for part in self._users)

    def prepare(self) -> None:
        """Compute the embeddings."""
        self._roster.prepare()

    def ready(self) -> None:
        """Compute the decoder's terms of all nodes, and find the items that each user has rated."""
        self._ranker = self._roster.ranker(self._catalogue)
        self._best = self._ranker.best
        if self._options.diversity is not None:
            asked = self._options.diversity
            self._best = Diverse(self._best, self._roster.likeness(asked.by), asked.weight).best
        self._relations = None
        if self._options.explain:
            assert isinstance(self._roster, Roster)
            assert not isinstance(self._ranker, BaselineScorer)
            self._relations = self._roster.relation_reasons(self._ranker)
        # The column `rating`: the same scorer, where lists are ordered by predicted rating.
        self._ratings = None
        if self._trained.rates:
            same = not self._trained.orders_by_lists
            self._ratings = self._ranker if same else self._roster.scorer()
        if self._options.include_seen:
            nothing = np.zeros(self._roster.count + 1, dtype=np.int64)
            self._left_out = ItemLists(nothing, np.empty(0, dtype=np.int32))
        else:
            self._left_out = self._roster.rated

    def parts(self, missing: set[int]) -> Iterator[Part]:
        """The parts, a stretch of users each."""
        total = sum(len(self._users[number]) for number in missing)
        shown = self._trained.world.is_first
        with progress("scoring users", total, "users", shown=shown) as advance:
            for number, users in enumerate(self._users):
                yield Part(number, partial(self._make, users, advance))

    def _make(self, users: Tensor, advance: Advance) -> tuple[pa.Table, int]:
        if not len(users):
            nothing = torch.empty((0, self._k))
            return self._table(users, nothing, nothing.long()), 0
        tables = []
        for chunk in users.split(_USERS_AT_ONCE):
            places = self._roster.places(chunk)
            tables.append(self._table(chunk, *self._best(places, self._left_out, self._k)))
            advance(len(chunk))
        return pa.concat_tables(tables).combine_chunks(), 0

    def _table(self, users: Tensor, scores: Tensor, items: Tensor) -> pa.Table:
        listed_places = torch.isfinite(scores)
        ranks = torch.arange(1, scores.shape[1] + 1, dtype=torch.int32).expand_as(scores)
        rows = users.unsqueeze(1).expand_as(scores)
        columns: dict[str, Any] = {
            schema.USER_ID: self._roster.users.decode(rows[listed_places].numpy()),
            schema.ITEM_ID: self._roster.items.decode(items[listed_places].numpy()),
            schema.RANK: ranks[listed_places].numpy(),
            schema.SCORE: scores[listed_places].numpy(),
        }
        if self._ratings is not None:
            ratings = scores[listed_places]
            if self._ratings is not self._ranker:
                ratings = self._ratings.pairs(
                    self._roster.places(rows[listed_places]), items[listed_places]
                )
            columns[schema.RATING] = clip(ratings, self._trained.dataset.scale).numpy()
        if self._options.explain:
            assert isinstance(self._roster, Roster) and not isinstance(self._ranker, BaselineScorer)
            places = self._roster.places(users)
            reasons = self._roster.reasons(self._ranker, places, items)
            because, contributions = (part[listed_places.numpy()] for part in reasons)
            there = because >= 0
            ends = np.concatenate(([0], np.cumsum(there.sum(1)))).astype(np.int32)
            rated = self._roster.items.decode(because[there])
            columns[schema.BECAUSE] = pa.ListArray.from_arrays(ends, rated)
            columns[schema.CONTRIBUTION] = pa.ListArray.from_arrays(ends, contributions[there])
            if self._relations is not None:
                known = torch.where(users < len(self._trained.dataset.users), users, -1)
                known = torch.where(places == users, known, -1)  # the file changed their ratings
                found = self._relations.find(places, items, known)
                rows_of = zip(found, listed_places.tolist(), strict=True)
                wanted = [
                    [asdict(reason) for reason in item_reasons]
                    for of_user, listed_of_user in rows_of
                    for item_reasons, is_listed in zip(of_user, listed_of_user, strict=True)
                    if is_listed
                ]
                columns[schema.RELATIONS] = pa.array(wanted, _RELATIONS)
        return pa.table(columns)


class _EncodedPairs(NamedTuple):
    """Pairs as indices, which are arbitrary for unknown ids.

    Attributes:
        columns: the ids, in the data set's types.
        places: int64 [n] the users' rows in the roster.
        items: int64 [n].
        known: bool [n], whether user and item are known.
    """

    columns: dict[str, Any]
    places: Tensor
    items: Tensor
    known: Tensor


class PairsJob:
    """Predicted ratings of pairs, or their scores in lists, in parts of consecutive rows.

    Columns are those of `score_pairs`.

    Args:
        trained: a run's model.
        roster: the users and items to score.
        file: the pairs.
        unknown: how unknown ids are treated.

    Attributes:
        count: None, as the number of parts is known only at the end of the file.
    """

    count: int | None = None

    def __init__(
        self, trained: Predictor, roster: Roster | BaselineRoster, file: Given, unknown: Unknown
    ) -> None:
        self._trained, self._roster = trained, roster
        self._file, self._unknown = file, unknown

    @classmethod
    def of(cls, trained: Predictor, pairs: Given, options: ScoreOptions) -> "PairsJob":
        """The job for options that `check_options` accepts.

        Raises:
            DataError: a file is bad.
        """
        job = cls(trained, read_roster(trained, options), pairs, options.unknown)
        job._check()
        return job

    def _check(self) -> None:
        """Refuse a file without the columns before any work; log it if the file has no row.

        Raises:
            DataError: the file is bad.
        """
        if next(self._stretches(), None) is None:
            log(f"{self._file}: holds no row, so there is nothing to score")

    def prepare(self) -> None:
        """Compute the embeddings."""
        self._roster.prepare()

    def ready(self) -> None:
        """Compute the decoder's terms of all nodes."""
        rates = self._trained.rates
        self._scorer = self._roster.scorer() if rates else self._roster.ranker()

    def parts(self, missing: set[int]) -> Iterator[Part]:
        """The parts, a stretch of the file each."""
        number = -1
        for number, table in enumerate(cut(self._stretches(), rows_in_part())):
            yield Part(number, partial(self._make, table))
        if number < 0:  # a part without rows, so that readers of the folder find the columns
            ids = {schema.USER_ID: self._roster.users.ids, schema.ITEM_ID: self._roster.items.ids}
            nothing = pa.table({name: of_end[:0] for name, of_end in ids.items()})
            yield Part(0, partial(self._make, nothing))

    def _stretches(self) -> Iterator[Stretch]:
        ids = self._roster.users.ids, self._roster.items.ids
        kinds = {schema.USER_ID: ids[0].type, schema.ITEM_ID: ids[1].type}
        return stream_columns(self._file, kinds, self._trained.dataset.column_names)

    def _encoded(self, table: pa.Table) -> "_EncodedPairs":
        """The pairs of a stretch as indices.

        Raises:
            DataError: an id is unknown where that is an error; or an id does not have the type of
                the data set's ids where unknown ids are kept (`null`).
        """
        ids = {schema.USER_ID: self._roster.users, schema.ITEM_ID: self._roster.items}
        columns = {name: to_type(table.column(name), map_.ids.type) for name, map_ in ids.items()}
        users, items = (
            torch.from_numpy(map_.encode(columns[name])).long() for name, map_ in ids.items()
        )
        known = (users >= 0) & (items >= 0)
        if self._unknown == "error" and not known.all():
            refuse_unknown(self._file, ids, "skip or null", self._trained.dataset.column_names)
        for name, column in columns.items():
            if self._unknown == "null" and column.null_count:
                raise DataError(
                    f"{self._file}: column {name} holds {table.column(name).type}, and not all of "
                    f"it can be {column.type}, as the data set's ids are; --unknown skip leaves "
                    "such rows out"
                )
        places = self._roster.places(users.clamp(min=0))
        return _EncodedPairs(columns, places, items.clamp(min=0), known)

    def _make(self, table: pa.Table) -> tuple[pa.Table, int]:
        columns, places, items, known = self._encoded(table)
        scores = self._scorer.pairs(places, items)
        mask = ~known.numpy()
        columns[schema.SCORE] = pa.array(scores.numpy(), mask=mask)
        if self._trained.rates:
            ratings = clip(scores, self._trained.dataset.scale)
            columns[schema.RATING] = pa.array(ratings.numpy(), mask=mask)
        made = pa.table(columns)
        if self._unknown == "skip":
            made = made.filter(pa.array(known.numpy()))
        return made.combine_chunks(), int((~known).sum())


class ReasonsJob(PairsJob):
    """For each pair up to three reasons: rated items of the user that raise the pair's score.

    Columns are `user_id, item_id, because, contribution`, a row for each reason, the largest
    contribution first; see `infer.explain`. The score is the one that lists are ordered by. A pair
    without a reason has no row.
    """

    def ready(self) -> None:
        """Make the ranker."""
        self._ranker = self._roster.ranker()

    def _make(self, table: pa.Table) -> tuple[pa.Table, int]:
        assert isinstance(self._roster, Roster) and not isinstance(self._ranker, BaselineScorer)
        columns, places, items, known = self._encoded(table)
        shape = (len(places), REASONS)
        because, contributions = np.full(shape, -1, np.int32), np.zeros(shape, np.float32)
        here = torch.nonzero(known).squeeze(1)
        # All items of a user at once: leaving out the user's ratings is then computed only once.
        by_user = here[torch.argsort(places[here], stable=True)]
        _, counts = torch.unique_consecutive(places[by_user], return_counts=True)
        for rows in by_user.split(counts.tolist()) if len(here) else ():
            found = self._roster.reasons(self._ranker, places[rows[:1]], items[rows].unsqueeze(0))
            at = rows.numpy()
            because[at], contributions[at] = found.items[0], found.contributions[0]
        row, place = np.nonzero(because >= 0)
        made = {name: column.take(pa.array(row)) for name, column in columns.items()}
        made[schema.BECAUSE] = self._roster.items.decode(because[row, place])
        made[schema.CONTRIBUTION] = pa.array(contributions[row, place])
        return pa.table(made).combine_chunks(), int((~known).sum())


def check_top_k(trained: Predictor, k: int, options: TopKOptions) -> None:
    """Refuse lists that cannot be made, before any work.

    Raises:
        UsageError: the options are impossible, or the model does not support them.
    """
    check_options(trained, options)
    check_k(k)
    if options.unknown == "null":
        raise UsageError("--unknown null goes with --pairs; choose error or skip")


def check_options(trained: Predictor, options: ScoreOptions, *, explain: bool = False) -> None:
    """Refuse, before any work, impossible options and options that the model does not support.

    Args:
        trained: a run's model.
        options: the options to check.
        explain: whether reasons are wanted even if the options do not say so.

    Raises:
        UsageError: the options are impossible, or the model does not support them.
    """
    options.check()
    explain = explain or (isinstance(options, TopKOptions) and options.explain)
    if not isinstance(trained, TrainedBaseline):
        if explain:
            check_explainable(trained.model)
        return
    given = {
        "--ratings": options.ratings,
        "--user-table": options.user_table,
        "--new-items": options.new_items,
        "--items": options.items if isinstance(options, TopKOptions) else None,
        "--explain": explain or None,
    }
    for name, value in given.items():
        if value is not None:
            raise refused(trained, name)


def read_roster(trained: Predictor, options: ScoreOptions) -> Roster | BaselineRoster:
    """The users and items of a model's data set, and those that the options add.

    Raises:
        UsageError: the model reads no attributes of users or items, and the options give some.
        DataError: a file is bad.
    """
    if isinstance(trained, TrainedBaseline):
        return BaselineRoster(trained)
    new_items = None
    new_users = changed = None
    if options.new_items is not None:
        try:
            new_items = read_items_to_add(trained, options.new_items)
        except EmptyFileError as error:
            log(f"{error}, so there are no new items")
    table = None
    if options.user_table is not None:
        table = read_described_users(trained, options.user_table)
    described = table is not None and len(table.ids) > 0
    if options.ratings is not None:
        try:
            new_users, changed = read_users_to_add(
                trained, options.ratings, new_items, table=table, known=options.known
            )
        except EmptyFileError as error:
            log(f"{error}, so it adds no users")
    if new_users is None and described:
        new_users, _ = read_users_to_add(trained, None, new_items, table=table)
    explains = isinstance(options, TopKOptions) and options.explain
    return Roster(trained, new_users, new_items, changed, explains=explains)
