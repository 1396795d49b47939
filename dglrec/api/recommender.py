"""`Recommender`: from data frames to a trained model, and from it to data frames."""

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

    `fit`, `resume` and `load` make one. All that it does a verb of the command line does as well,
    by the same code and with the same figures. Frames that come in are of pandas, polars, pyarrow,
    or whatever else narwhals takes; those that go out are of pandas, with ids as the caller gave
    them: whole numbers or text.

    Errors are `DglrecError`s: `UsageError` for what a caller asks, `DataError` for what a frame
    holds. A frame's rows count from 1 in messages.

    Attributes:
        path: the folder that holds the data set (`data`) and the run (`run`), or of what was loaded
            from a run's folder, that folder.
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
            items: a frame of `item_id` and what is known of items: `title`, `genres`, `synopsis`,
                and any other columns.
            users: the same of users, by `user_id`.
            relations: frames of further edges, by name; see `docs/relations.md`.
            config: the name of a configuration that comes with the package, or a TOML file.
            settings: single settings, like `{"train.epochs": 5}`; they beat the configuration.
                Variables of the environment are not read.
            path: a folder for the data set and the run, which the verbs take, and in which `resume`
                goes on with a training that was cut off; None for one that goes when the
                recommender does.
            split: how held-out rows are chosen: `random`, `time`, `last`, `user` or `item`.
            valid: share of rows that validates.
            test: share of rows that tests.
            seed: of the split; `settings={"train.seed": ...}` is that of training.
            columns: what the columns of `ratings` are called where their names are others: of
                `user`, `item`, `rating` and `timestamp`. Frames that the model is asked about may
                have these names.
            scale: (minimum, maximum) or (minimum, maximum, step) of ratings; None to find out.
            interactions_from: make interactions of the ratings of so much or more.
            attributes: kinds of columns of `items` and `users`, where they are not to be inferred:
                number, category, categories, text, date, none, or one that was registered.
            text: whether synopses and other texts become features.
            device: `auto`, `cpu`, `cuda` or `cuda:N`.
            overwrite: whether what another `fit` left in `path` may be replaced; it goes once the
                new data set is whole.
            quiet: whether nothing is said on stderr.

        Raises:
            UsageError: options do not go together, a setting is unknown, or `path` may not be
                written.
            DataError: a frame lacks a column, or a row is bad.
            UnusableEnvironmentError: the text model, the device or memory is missing.
            DglrecError: training failed, or the disk is full.
            KeyboardInterrupt: SIGINT or SIGTERM came; the step under way was ended and saved.
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
        """Go on with a training that was cut off, as though nothing had happened.

        The same as `dglrec train --resume`: weights and figures come out as those of a training
        that was not cut off, to the last bit. Of one that has come to its end nothing is trained
        again, unless `settings` give it more epochs.

        Args:
            path: the folder that `fit` was given, or a run's, of `dglrec train`.
            settings: how long to go on, and how often to save: `train.epochs`, `train.patience`,
                `train.checkpoint_seconds`, `train.checkpoint_steps`, `train.keep_checkpoints`. All
                else is as it was.
            dataset: where the data set is, if it is not in `path`.
            device: where to compute.
            quiet: whether nothing is said on stderr.

        Raises:
            DataError: no training was begun there, or its data set is gone or another one, or what
                was saved is damaged.
            UsageError: a setting would change that decides what is learned, or another process
                trains there.
            UnusableEnvironmentError: the device or memory is missing.
            DglrecError: training failed, or the disk is full.
            KeyboardInterrupt: SIGINT or SIGTERM came; the step under way was ended and saved.
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
        """Open what `save`, `fit(path=...)` or `dglrec train` left.

        Args:
            path: a recommender's folder, or a run's.
            dataset: where the data set is now, if it was moved.
            device: where to compute.

        Raises:
            DataError: nothing whole is there, or the data set is gone or another one.
        """
        path = Path(path)
        run, place = existing_home(path, dataset)
        loaded = cls(path, run, place, choose_device(device))
        loaded._open()  # what is wrong is said now
        if (run / RESULTS_FILE).is_file():
            loaded.results = read_json(run / RESULTS_FILE)
        return loaded

    @speaks_python
    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Copy the data set and the run into a folder, which `load` and the verbs take.

        Args:
            path: the folder; it appears whole or not at all.
            overwrite: whether another recommender there may be replaced.

        Raises:
            UsageError: it may not be written.
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
        """What is predicted of pairs of a user and an item, in their order: `dglrec score --pairs`.

        Args:
            pairs: a frame of `user_id` and `item_id`, or pairs like `(user, item)`.
            ratings: ratings of users that training never saw, who may then be among the pairs.
            known: what these mean of users that it saw: all that they have rated (`replace`), more
                ratings (`extend`), or an error.
            user_table: what is known of users that training never saw.
            new_items: items that training never saw, by what is known of them.
            unknown: what an unknown id means: `error`, `skip` the row, or `null` for no score.

        Returns:
            `user_id, item_id, score`, and of a model that predicts ratings `rating`: the score on
            the scale. Of other models the score is what lists are ordered by.

        Raises:
            UnknownIdsError: a user or an item is unknown, and that is an error.
            DataError: a frame is bad.
            UsageError: the model is not made for what is asked.
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
            k: items for each user; fewer where fewer are left.
            items: ids of the items to choose from; None for all.
            exclude_seen: leave out what a user has rated.
            explain: whether to add the rated items that each place rests on.
            order: what lists are made by: `lists`, the list head, or `rating`, predicted ratings.
            diverse: make items of a list unlike each other by `genres`, `embedding` or `series`.
            diversity: what likeness counts then, from 0 to 1.
            known: what ratings of users that training saw mean: all that they have rated
                (`replace`), more ratings (`extend`), or an error.
            user_table: what is known of users that training never saw.
            new_items: items that training never saw, by what is known of them.
            unknown: what an unknown id means: `error` or `skip`.

        Returns:
            `user_id, item_id, title, rank, score`, and of a model that predicts ratings `rating`;
            with `explain` lists `because` and `contribution`, as `score_top_k` has them. Users
            stand in the order in which they are given.

        Raises:
            UnknownIdsError: a user or an item is unknown, and that is an error.
            DataError: a frame is bad.
            UsageError: the model is not made for what is asked, or k is impossible.
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
        """Which rated items a user's score for an item rests on, up to three of each pair.

        Args:
            pairs: a frame of `user_id` and `item_id`, such as `recommend` gives, or pairs.
            ratings: ratings of users that training never saw, who may then be among the pairs.
            known: what these mean of users that it saw.
            unknown: what an unknown id means: `error` or `skip`.

        Returns:
            `user_id, item_id, because, title, contribution`, a row a reason: the rated item, its
            title, and by how much lower the score would be without its rating.

        Raises:
            UnknownIdsError: a user or an item is unknown, and that is an error.
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
        """The items that the model's embeddings say are most like an item: by their cosine.

        Args:
            items: ids of items; None for all.
            k: how many of each.
            unknown: what an unknown id means: `error` or `skip`.

        Returns:
            `item_id, similar_id, title, rank, similarity`; the title is that of the similar item.

        Raises:
            UnknownIdsError: an item is unknown, and that is an error.
            UsageError: the model has no embeddings of items, or k is impossible.
        """
        given = None if items is None else ids_frame(items, schema.ITEM_ID, "items")
        table = similar_table(self._open(), given, k, unknown)
        return titled(in_order_of(given, table, schema.ITEM_ID), schema.SIMILAR_ID, self.dataset)

    def evaluate(self, split: str = "test", **options: Any) -> pd.DataFrame:
        """The figures of `report`: a row for the model, and one for each baseline.

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
        """All that `dglrec evaluate --json` reports.

        Args:
            split: `test`, `valid` or `train`.
            ranking: K, or several, for metrics of lists of K items as well.
            relevant_from: the least rating of a relevant item.
            details: whether to report calibration, and figures by activity and popularity.
            given: how many ratings of each new user the model may look at.
            candidates: how many items to draw for each relevant one.
            seed: of what is drawn.
            order: what lists are ordered by.
            history: the rows that the model reads: `train`, or `valid` for validation rows too.
            diverse: make items of the lists unlike each other by `genres`, `embedding`, `series`.
            diversity: what likeness counts then.

        Raises:
            UsageError: what is asked for does not go together, or not with the model.
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
        """The run's model, which reads some rows and makes lists by something; opened once."""
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
        """A frame with the schema's names in place of those that `fit` was told."""
        return in_schema_names(frame, self.dataset.meta.get("columns", {}))

    def _optional(self, given: Any, name: str) -> Frame | None:
        return None if given is None else self._named(frame_of(given, name))


def _spoken(quiet: bool, *, kept: bool = True) -> AbstractContextManager[None]:
    """Messages of a training, whose folder is kept or not, in the words of a caller from Python."""
    return spoken(Manner(quiet=quiet, words=in_python if kept else without_path))
