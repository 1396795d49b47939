"""`Recommender`: trains a model from data frames, and gives its results as data frames."""

import shutil
import weakref
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from dglrec import schema
from dglrec.api.given import (
    columns_of,
    frame_of,
    holds_ratings,
    ids_frame,
    in_schema_names,
    is_frame,
    optional_frame,
    pairs_frame,
)
from dglrec.api.home import DATA, RUN, begun_home, existing_home, home_of
from dglrec.api.out import figures_frame, in_order_of, titled, to_pandas
from dglrec.api.words import in_python, speaks_python, without_path
from dglrec.config import load_settings, resumed_settings
from dglrec.dataset import TRAIN, PrepareOptions, RatingDataset, prepare
from dglrec.distributed import choose_device
from dglrec.errors import UnknownIdsError
from dglrec.evaluate import evaluate
from dglrec.features import parse_kinds
from dglrec.files import atomic_folder, read_json
from dglrec.infer import WEIGHT, Diversity
from dglrec.infer.diverse import DiverseBy
from dglrec.ingest import Frame
from dglrec.progress import Manner, spoken
from dglrec.run import (
    CONFIG_FILE,
    LOCK_FILE,
    RESULTS_FILE,
    History,
    Order,
    Predictor,
    open_predictor,
)
from dglrec.schema import RatingScale
from dglrec.score import (
    ScoreOptions,
    TopKOptions,
    pairs_table,
    reasons_table,
    similar_table,
    top_k_table,
)
from dglrec.score.added import Known
from dglrec.score.listed import Unknown
from dglrec.train import train

_NEWCOMERS = "; for users that training never saw give a frame of their ratings in place of ids"


class Recommender:
    """A trained model with the data set that it reads.

    `fit`, `resume` and `load` make one. Each method does what a verb of the command line does, by
    the same code and with the same figures. Frames given to it are of pandas, polars, pyarrow, or
    any other library that narwhals takes; frames that it returns are of pandas, with ids as the
    caller gave them: whole numbers or text.

    Errors are `DglrecError`s: `UsageError` for wrong arguments, `DataError` for the content of a
    frame. Messages number a frame's rows from 1.

    Attributes:
        path: the folder that holds the data set (`data`) and the run (`run`); for a recommender
            that was loaded from a run's folder, that folder.
        results: what training reports, as `dglrec train --json` does: epochs, seconds, figures.
    """

    def __init__(self, path: Path, run: Path, dataset: Path | None, device: torch.device) -> None:
        self.path = path
        self._run, self._dataset, self._device = run, dataset, device
        self._opened: dict[tuple[History, Order], Predictor] = {}
        self.results: dict[str, Any] = {}

    def __repr__(self) -> str:
        dataset = self.dataset
        kind = self._open().meta["model"]["kind"]
        return (
            f"Recommender({str(self.path)!r}: {kind}, {len(dataset.users):,} users, "
            f"{len(dataset.items):,} items, {dataset.meta['counts']['train']:,} training rows)"
        )

    @classmethod
    @speaks_python
    def fit(
        cls,
        ratings: Any,
        items: Any = None,
        users: Any = None,
        relations: Mapping[str, Any] | None = None,
        *,
        config: str | Path | None = None,
        settings: Mapping[str, Any] | None = None,
        path: str | Path | None = None,
        split: str = "random",
        valid: float = 0.1,
        test: float = 0.1,
        seed: int = 0,
        columns: Mapping[str, str] | None = None,
        scale: tuple[float, ...] | None = None,
        interactions_from: float | None = None,
        attributes: Mapping[str, str] | None = None,
        text: bool = True,
        device: str = "auto",
        overwrite: bool = False,
        quiet: bool = False,
    ) -> "Recommender":
        """Prepare frames and train a model on them: `dglrec prepare` and `dglrec train`.

        Args:
            ratings: a frame of `user_id`, `item_id`, and perhaps `rating` and `timestamp`. Without
                ratings its rows are interactions: clicks, plays, purchases.
            items: a frame of `item_id` and the items' attributes: `title`, `genres`, `synopsis`,
                and any other columns.
            users: a frame of `user_id` and the users' attributes.
            relations: frames of further edges, by name; see `docs/relations.md`.
            config: the name of a configuration that comes with the package, or a TOML file.
            settings: single settings, like `{"train.epochs": 5}`, which override the configuration.
                Environment variables are not read.
            path: a folder for the data set and the run, which the verbs take, and in which `resume`
                continues a training that was interrupted; None for a folder that is removed with
                the recommender.
            split: how held-out rows are chosen: `random`, `time`, `last`, `user` or `item`.
            valid: share of rows that validates.
            test: share of rows that tests.
            seed: of the split; `settings={"train.seed": ...}` is that of training.
            columns: the names of the columns of `ratings` where they differ from the schema's, by
                `user`, `item`, `rating` and `timestamp`. Frames given to the model later may have
                these names, too.
            scale: (minimum, maximum) or (minimum, maximum, step) of ratings; None to find out.
            interactions_from: make interactions of the ratings of this level or more.
            attributes: kinds of columns of `items` and `users`, where they are not to be inferred:
                number, category, categories, text, date, none, or a registered kind.
            text: whether synopses and other texts become features.
            device: `auto`, `cpu`, `cuda` or `cuda:N`.
            overwrite: whether what an earlier `fit` left in `path` may be replaced; it is removed
                once the new data set is complete.
            quiet: whether no messages are printed on stderr.

        Raises:
            UsageError: options contradict each other, a setting is unknown, or `path` may not be
                written.
            DataError: a frame lacks a column, or a row is bad.
            UnusableEnvironmentError: the text model, the device or memory is missing.
            DglrecError: training failed, or the disk is full.
            KeyboardInterrupt: SIGINT or SIGTERM arrived; the current step was completed and saved.
        """
        options = PrepareOptions(
            split=split,
            valid=valid,
            test=test,
            seed=seed,
            columns=columns_of(columns),
            scale=None if scale is None else RatingScale.parse(":".join(map(str, scale))),
            interactions_from=interactions_from,
            text=text,
            item_table=optional_frame(items, "items"),
            user_table=optional_frame(users, "users"),
            attribute=parse_kinds([f"{name}={kind}" for name, kind in (attributes or {}).items()]),
            relation={
                name: frame_of(frame, f"relation {name}")
                for name, frame in (relations or {}).items()
            },
            overwrite=overwrite,
        )
        options.check()
        source = frame_of(ratings, "ratings")
        chosen = load_settings(file=None if config is None else Path(config), given=settings)
        where = choose_device(device)
        folder = None if path is None else Path(path)
        with _spoken(quiet, kept=folder is not None), home_of(folder, overwrite) as home:
            dataset = prepare(source, home / DATA, options)
            results = train(dataset, home / RUN, chosen, device=where, overwrite=overwrite)
        fitted = cls(home, home / RUN, home / DATA, where)
        fitted.results = results
        if folder is None:
            weakref.finalize(fitted, shutil.rmtree, home, ignore_errors=True)
        return fitted

    @classmethod
    @speaks_python
    def resume(
        cls,
        path: str | Path,
        *,
        settings: Mapping[str, Any] | None = None,
        dataset: str | Path | None = None,
        device: str = "auto",
        quiet: bool = False,
    ) -> "Recommender":
        """Continue a training that was interrupted, as if it had not been.

        The same as `dglrec train --resume`: weights and figures are those of a training without an
        interruption, to the last bit. A training that is finished is not continued, unless
        `settings` give it more epochs.

        Args:
            path: the folder that `fit` was given, or the folder of a run of `dglrec train`.
            settings: how long to train, and how often to save: `train.epochs`, `train.patience`,
                `train.checkpoint_seconds`, `train.checkpoint_steps`, `train.keep_checkpoints`. All
                other settings stay as they were.
            dataset: where the data set is, if it is not in `path`.
            device: where to compute.
            quiet: whether no messages are printed on stderr.

        Raises:
            DataError: no training was begun there, its data set is missing or another one, or a
                checkpoint is damaged.
            UsageError: a setting would change what is learned, or another process trains there.
            UnusableEnvironmentError: the device or memory is missing.
            DglrecError: training failed, or the disk is full.
            KeyboardInterrupt: SIGINT or SIGTERM arrived; the current step was completed and saved.
        """
        run, data = begun_home(Path(path), dataset)
        chosen = resumed_settings(run, None, (), {}, given=settings)
        where = choose_device(device)
        with _spoken(quiet):
            results = train(RatingDataset.open(data), run, chosen, device=where, resume=True)
        resumed = cls(Path(path), run, data, where)
        resumed.results = results
        return resumed

    @classmethod
    @speaks_python
    def load(
        cls, path: str | Path, *, dataset: str | Path | None = None, device: str = "auto"
    ) -> "Recommender":
        """Open what `save`, `fit(path=...)` or `dglrec train` wrote.

        Args:
            path: a recommender's folder, or a run's.
            dataset: where the data set is now, if it was moved.
            device: where to compute.

        Raises:
            DataError: there is no complete recommender, or its data set is missing or another one.
        """
        path = Path(path)
        run, place = existing_home(path, dataset)
        loaded = cls(path, run, place, choose_device(device))
        loaded._open()  # so that errors are raised now
        if (run / RESULTS_FILE).is_file():
            loaded.results = read_json(run / RESULTS_FILE)
        return loaded

    @speaks_python
    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Copy the data set and the run into a folder, which `load` and the verbs take.

        Args:
            path: the folder; it is written whole or not at all.
            overwrite: whether another recommender there may be replaced.

        Raises:
            UsageError: the folder may not be written.
            DglrecError: the disk is full.
        """
        path = Path(path)
        left_out = shutil.ignore_patterns(LOCK_FILE)
        marker = f"{RUN}/{CONFIG_FILE}"
        with atomic_folder(path, marker=marker, overwrite=overwrite) as folder:
            shutil.copytree(self.dataset.path, folder / DATA)
            shutil.copytree(self._run, folder / RUN, ignore=left_out)
        return path

    @property
    def dataset(self) -> RatingDataset:
        """The prepared data set."""
        return self._open().dataset

    @speaks_python
    def predict(
        self,
        pairs: Any,
        *,
        ratings: Any = None,
        known: Known = "replace",
        user_table: Any = None,
        new_items: Any = None,
        unknown: Unknown = "error",
    ) -> pd.DataFrame:
        """Predict pairs of a user and an item, in their order: `dglrec score --pairs`.

        Args:
            pairs: a frame of `user_id` and `item_id`, or pairs like `(user, item)`.
            ratings: ratings of users that training never saw, who may then be among the pairs.
            known: what ratings of users that training saw mean: all that they have rated
                (`replace`), more ratings (`extend`), or an error.
            user_table: attributes of users that training never saw.
            new_items: items that training never saw, with their attributes.
            unknown: what an unknown id means: `error`, `skip` the row, or `null` for no score.

        Returns:
            `user_id, item_id, score`, and for a model that predicts ratings `rating`: the score
            clipped to the scale. For other models the score is what lists are ordered by.

        Raises:
            UnknownIdsError: a user or an item is unknown, and `unknown` is `error`.
            DataError: a frame is bad.
            UsageError: the model cannot do what is asked.
        """
        options = ScoreOptions(
            ratings=self._optional(ratings, "ratings"),
            known=known,
            user_table=optional_frame(user_table, "user_table"),
            new_items=optional_frame(new_items, "new_items"),
            unknown=unknown,
        )
        return to_pandas(pairs_table(self._open(), self._named(pairs_frame(pairs)), options))

    @speaks_python
    def recommend(
        self,
        users: Any = None,
        k: int = 10,
        *,
        items: Any = None,
        exclude_seen: bool = True,
        explain: bool = False,
        order: Order = "lists",
        diverse: DiverseBy | None = None,
        diversity: float = WEIGHT,
        known: Known = "replace",
        user_table: Any = None,
        new_items: Any = None,
        unknown: Unknown = "error",
    ) -> pd.DataFrame:
        """The best items for users: `dglrec score --top-k`.

        Args:
            users: ids of users; or a frame of ratings (`user_id`, `item_id`, `rating`), of users
                that training never saw or of others; None for all users.
            k: items for each user; fewer if fewer remain.
            items: ids of the items to choose from; None for all.
            exclude_seen: leave out the items that a user has rated.
            explain: whether to add the rated items that each recommendation rests on.
            order: what orders the lists: `lists`, the list head, or `rating`, predicted ratings.
            diverse: make items of a list unlike each other by `genres`, `embedding` or `series`.
            diversity: the weight of likeness then, from 0 to 1.
            known: what ratings of users that training saw mean: all that they have rated
                (`replace`), more ratings (`extend`), or an error.
            user_table: attributes of users that training never saw.
            new_items: items that training never saw, with their attributes.
            unknown: what an unknown id means: `error` or `skip`.

        Returns:
            `user_id, item_id, title, rank, score`, and for a model that predicts ratings `rating`;
            with `explain` lists `because` and `contribution`, as `score_top_k` has them. Users are
            in the order in which they are given.

        Raises:
            UnknownIdsError: a user or an item is unknown, and `unknown` is `error`.
            DataError: a frame is bad.
            UsageError: the model cannot do what is asked, or k is impossible.
        """
        given = None if users is None else self._named(ids_frame(users, schema.USER_ID, "users"))
        rated = given if given is not None and is_frame(users) and holds_ratings(given) else None
        options = TopKOptions(
            ratings=rated,
            known=known,
            user_table=optional_frame(user_table, "user_table"),
            new_items=optional_frame(new_items, "new_items"),
            unknown=unknown,
            users=given,
            items=None if items is None else ids_frame(items, schema.ITEM_ID, "items"),
            include_seen=not exclude_seen,
            explain=explain,
            diversity=None if diverse is None else Diversity(diverse, diversity),
        )
        trained = self._open(order=order)
        try:
            table = top_k_table(trained, k, options)
        except UnknownIdsError as error:
            if rated is None and str(error).startswith("users:"):
                raise UnknownIdsError(f"{error}{_NEWCOMERS}") from error
            raise
        return titled(in_order_of(given, table, schema.USER_ID), schema.ITEM_ID, self.dataset)

    @speaks_python
    def explain(
        self,
        pairs: Any,
        *,
        ratings: Any = None,
        known: Known = "replace",
        unknown: Unknown = "error",
    ) -> pd.DataFrame:
        """The rated items that a user's score for an item rests on, up to three for each pair.

        Args:
            pairs: a frame of `user_id` and `item_id`, such as `recommend` gives, or pairs.
            ratings: ratings of users that training never saw, who may then be among the pairs.
            known: what ratings of users that training saw mean, as for `predict`.
            unknown: what an unknown id means: `error` or `skip`.

        Returns:
            `user_id, item_id, because, title, contribution`, a row for each reason: the rated item,
            its title, and by how much lower the score would be without its rating.

        Raises:
            UnknownIdsError: a user or an item is unknown, and `unknown` is `error`.
            UsageError: the model gives no reasons.
        """
        options = ScoreOptions(
            ratings=self._optional(ratings, "ratings"), known=known, unknown=unknown
        )
        table = reasons_table(self._open(), self._named(pairs_frame(pairs)), options)
        return titled(table, schema.BECAUSE, self.dataset)

    @speaks_python
    def similar_items(
        self, items: Any = None, k: int = 10, *, unknown: Unknown = "error"
    ) -> pd.DataFrame:
        """The items most like an item, by the cosine of the model's embeddings.

        Items without a training row, and without a feature or a relation that the model reads, are
        similar to none.

        Args:
            items: ids of items; None for all that can be compared.
            k: how many similar items for each.
            unknown: what an unknown id means, or one of an item that is similar to none: `error` or
                `skip`.

        Returns:
            `item_id, similar_id, title, rank, similarity`; the title is that of the similar item.

        Raises:
            UnknownIdsError: an item is unknown, and `unknown` is `error`.
            DataError: an item is similar to none, and `unknown` is `error`; or no item is left.
            UsageError: the model has no embeddings of items, or k is impossible.
        """
        given = None if items is None else ids_frame(items, schema.ITEM_ID, "items")
        table = similar_table(self._open(), given, k, unknown)
        return titled(in_order_of(given, table, schema.ITEM_ID), schema.SIMILAR_ID, self.dataset)

    def evaluate(self, split: str = "test", **options: Any) -> pd.DataFrame:
        """The figures of `report`: a row for the model, and a row for each baseline.

        Args:
            split: `test`, `valid` or `train`.
            options: those of `report`.
        """
        return figures_frame(self.report(split, **options))

    @speaks_python
    def report(
        self,
        split: str = "test",
        *,
        ranking: int | Sequence[int] | None = None,
        relevant_from: float | None = None,
        details: bool = False,
        given: int | None = None,
        candidates: int | None = None,
        seed: int = 0,
        order: Order = "lists",
        history: History = "train",
        diverse: DiverseBy | None = None,
        diversity: float = WEIGHT,
    ) -> dict[str, Any]:
        """Everything that `dglrec evaluate --json` reports.

        Args:
            split: `test`, `valid` or `train`.
            ranking: K, or several, to add metrics of lists of K items.
            relevant_from: the least rating of a relevant item.
            details: whether to report calibration, and figures by activity and popularity.
            given: how many ratings of each new user the model may read.
            candidates: how many items to draw for each relevant item.
            seed: of the draws.
            order: what lists are ordered by.
            history: the rows that the model reads: `train`, or `valid` for validation rows as well.
            diverse: make items of the lists unlike each other by `genres`, `embedding`, `series`.
            diversity: the weight of likeness.

        Raises:
            UsageError: options contradict each other, or the model cannot do what is asked.
        """
        return evaluate(
            self._open(history, order),
            split,
            ranking=ranking,
            relevant_from=relevant_from,
            details=details,
            given=given,
            candidates=candidates,
            seed=seed,
            diversity=None if diverse is None else Diversity(diverse, diversity),
        )

    def _open(self, history: History = "auto", order: Order = "lists") -> Predictor:
        """The run's model, for a history and an order; each combination is opened only once."""
        usual = self._opened.get(("auto", "lists"))
        if history == "train" and usual is not None and usual.learned_from == (TRAIN,):
            history = "auto"  # the same rows
        found = self._opened.get((history, order))
        if found is None:
            found = self._opened.get((history, "lists")) or open_predictor(
                self._run, dataset=self._dataset, device=self._device, history=history
            )
            self._opened.setdefault((history, "lists"), found)
            found = self._opened[history, order] = found.ordered_by(order)
        return found

    def _named(self, frame: Frame) -> Frame:
        """A frame with the schema's names in place of the column names that `fit` was given."""
        return in_schema_names(frame, self.dataset.columns)

    def _optional(self, given: Any, name: str) -> Frame | None:
        return None if given is None else self._named(frame_of(given, name))


def _spoken(quiet: bool, *, kept: bool = True) -> AbstractContextManager[None]:
    """Messages of a training in Python's words; `kept` says whether its folder stays."""
    return spoken(Manner(quiet=quiet, words=in_python if kept else without_path))
