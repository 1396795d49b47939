"""Runs -> all that their page shows: figures as `evaluate` and `compare` have them, nothing else.

One pass over each run: it is opened, measured, looked into and let go, so that memory holds one
model at a time.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import torch

from dglrec.baselines import Popularity
from dglrec.compare import (
    Comparison,
    SharedLists,
    SharedRows,
    UserSums,
    compare,
    list_sums,
    predict_rows,
    rows_of_run,
    user_sums,
)
from dglrec.config import read_toml
from dglrec.errors import DataError, UsageError
from dglrec.evaluate import RankingTargets, evaluate
from dglrec.evaluate.rows import baseline_predictors
from dglrec.files import read_errors, read_json
from dglrec.report.examples import Example, examples_of, users_to_show
from dglrec.report.item_map import ItemMap, map_items
from dglrec.report.sources import check_once
from dglrec.run import (
    CONFIG_FILE,
    ENVIRONMENT_FILE,
    METRICS_FILE,
    RESULTS_FILE,
    Predictor,
    TrainedModel,
    best_checkpoint,
    open_predictor,
)

LENGTHS = (5, 10, 20, 50)
"""Of lists that recall and nDCG are shown of, as far as the catalogue goes."""

BIAS, POPULARITY = "bias (baseline)", "popularity (baseline)"

_LIST_LENGTH = 10  # of the lists that runs are compared by


@dataclass(frozen=True)
class Kept:
    """What training left in a run's folder.

    Attributes:
        name: what the page calls the run.
        run: its folder.
        results: `results.json`.
        epochs: `metrics.jsonl`, a line an epoch; none of a baseline.
        environment: `environment.json`.
        settings: `config.toml` by dotted key.
    """

    name: str
    run: Path
    results: dict[str, Any]
    epochs: list[dict[str, Any]]
    environment: dict[str, Any]
    settings: dict[str, Any]


@dataclass(frozen=True)
class Measured:
    """A run as the page shows it.

    Attributes:
        kept: what training left.
        kind: `graph`, or which baseline.
        parameters: numbers in its weights.
        figures: as `evaluate --details --ranking` has them.
        data: what its data set says of itself, and the sources that it was made of.
        item_map: places of items; None of a baseline.
        examples: some users' histories and lists.
        notes: what the page leaves out of it, and why.
    """

    kept: Kept
    kind: str
    parameters: int
    figures: dict[str, Any]
    data: dict[str, Any]
    item_map: ItemMap | None
    examples: list[Example]
    notes: list[str]

    @property
    def name(self) -> str:
        """What the page calls it."""
        return self.kept.name


@dataclass
class _Shared:
    """What all runs have in common, taken from the first, and sums of each by user."""

    rows: SharedRows
    lists: SharedLists
    users: list[str]
    ratings: dict[str, list[UserSums]] = field(default_factory=dict)
    ranked: dict[str, list[UserSums]] = field(default_factory=dict)

    @classmethod
    def of(cls, trained: Predictor, run: Path, split: str) -> "_Shared":
        rows = rows_of_run(trained, run, split)
        length = min(_LIST_LENGTH, trained.dataset.graph.num_items)
        lists = SharedLists.of(trained, split, length, None)
        assert lists is not None  # as a length was named
        shared = SharedRows.of(trained.dataset, run, split, rows)
        return cls(shared, lists, users_to_show(trained.dataset, rows))

    def add(self, trained: Predictor, kept: Kept) -> None:
        """A run's sums, its rows held against those of the first."""
        rows = rows_of_run(trained, kept.run, self.rows.split)
        order = torch.from_numpy(self.rows.order_of(trained.dataset, kept.run, rows))
        if trained.dataset.has_ratings and trained.rates:
            found = predict_rows(trained, kept.run, rows)[order]
            self.ratings[kept.name] = [self._by_user(found)]
        self.ranked[kept.name] = [self.lists.sums(trained, kept.run, self.rows)]

    def add_baselines(self, first: Predictor) -> None:
        """Sums of the biases and of popularity, fitted to the first run's training rows."""
        rows, dataset = self.rows.rows, first.dataset
        if self.ratings:
            bias = baseline_predictors(dataset)["bias"]
            self.ratings[BIAS] = [self._by_user(bias(rows.users, rows.items))]
        targets = RankingTargets.of(dataset, self.rows.split, self.lists.relevant_from)
        best = Popularity(dataset.graph).best
        self.ranked[POPULARITY] = [list_sums(best, targets, self.lists.k)]

    def _by_user(self, predictions: torch.Tensor) -> UserSums:
        return user_sums(predictions, self.rows.rows, self.rows.scale, len(self.rows.users))


@dataclass(frozen=True)
class Together:
    """Runs on the same rows.

    Attributes:
        split: whose rows they are.
        runs: in the order in which they were given.
        ratings: figures of predicted ratings with intervals, beside the biases; None without any.
        lists: likewise of lists, beside popularity.
    """

    split: str
    runs: list[Measured]
    ratings: Comparison | None
    lists: Comparison


def measure_runs(
    runs: Sequence[Path],
    split: str = "test",
    *,
    dataset: Path | None = None,
    device: torch.device | None = None,
) -> Together:
    """Open and measure runs, all on the same held-out rows.

    Args:
        runs: their folders.
        split: `test` or `valid`.
        dataset: where the data set is of runs whose own is no longer in its place.
        device: where graph models compute; None for the CPU.

    Raises:
        UsageError: a run is given twice, or has learned from the rows.
        DataError: one has no results, or cannot be opened; or their rows are not the same.
    """
    every = [read_kept(run, name) for name, run in named(runs).items()]
    shared: _Shared | None = None
    measured: list[Measured] = []
    for kept in every:
        trained = open_predictor(kept.run, fallback=dataset, device=device)
        if shared is None:
            shared = _Shared.of(trained, kept.run, split)
        shared.add(trained, kept)
        if kept is every[-1]:
            shared.add_baselines(trained)
        measured.append(_look_into(trained, kept, split, shared, len(runs)))
    assert shared is not None
    names = [kept.name for kept in every]
    compared = [
        compare(sums, pairs=_pairs(names, sums)) if sums else None
        for sums in (shared.ratings, shared.ranked)
    ]
    assert compared[1] is not None
    return Together(split, measured, compared[0], compared[1])


def named(runs: Sequence[Path]) -> dict[str, Path]:
    """Runs by the name of their folder, or by their path where names are the same.

    Raises:
        UsageError: one is given twice.
    """
    check_once(runs)
    places = [run.resolve() for run in runs]
    short = [place.name for place in places]
    alike = len(set(short)) < len(short)
    return {str(run) if alike else name: run for name, run in zip(short, runs, strict=True)}


def read_kept(run: Path, name: str) -> Kept:
    """What training left in a run's folder.

    Raises:
        DataError: it is no run, is damaged, or has not finished training.
    """
    best_checkpoint(run)  # says what else the folder is
    if not (run / RESULTS_FILE).is_file():
        raise DataError(
            f"{run}: holds no {RESULTS_FILE}, as its training has not finished; finish it: "
            "dglrec train DATASET RUN --resume"
        )
    results = read_json(run / RESULTS_FILE)
    fitted_at_once = "kind" in results  # a baseline, whose only line says what results.json says
    return Kept(
        name,
        run,
        results,
        [] if fitted_at_once else read_epochs(run / METRICS_FILE),
        read_json(run / ENVIRONMENT_FILE),
        dict(flat(read_toml(run / CONFIG_FILE))),
    )


def read_epochs(path: Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`.

    Raises:
        DataError: one is no JSON object.
    """
    found = []
    with read_errors(path):
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            value = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}, line {number}: not readable as JSON ({error})") from error
        if not isinstance(value, dict):
            raise DataError(f"{path}, line {number}: holds no JSON object")
        found.append(value)
    return found


def flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested values by dotted key."""
    found: list[tuple[str, Any]] = []
    for key, value in values.items():
        nested = isinstance(value, Mapping)
        found += flat(value, f"{prefix}{key}.") if nested else [(f"{prefix}{key}", value)]
    return found


def _pairs(names: Sequence[str], sums: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Each run and the baseline, and each two runs."""
    there = [name for name in names if name in sums]
    baselines = [name for name in sums if name not in names]
    return [*((name, other) for name in there for other in baselines), *combinations(there, 2)]


def _look_into(
    trained: Predictor, kept: Kept, split: str, shared: _Shared, of_runs: int
) -> Measured:
    graph = isinstance(trained, TrainedModel)
    dataset = trained.dataset
    rated = dataset.has_ratings
    figures = evaluate(
        trained,
        split,
        ranking=[k for k in LENGTHS if k < dataset.graph.num_items] or [1],
        relevant_from=shared.lists.relevant_from if rated else None,
        details=graph or (rated and trained.rates),
    )
    notes: list[str] = []
    examples = _noted(notes, lambda explain: examples_of(trained, shared.users, explain), graph)
    described = {**dataset.describe(), "sources": dataset.meta.get("sources", [])}
    described["dataset"] = dataset.path.resolve().name
    model = trained.model.parameters() if isinstance(trained, TrainedModel) else ()
    return Measured(
        kept,
        "graph" if isinstance(trained, TrainedModel) else trained.kind,
        sum(weights.numel() for weights in model),
        figures,
        described,
        map_items(trained, of_runs) if isinstance(trained, TrainedModel) else None,
        examples,
        notes,
    )


def _noted(notes: list[str], make: Callable[[bool], list[Example]], explain: bool) -> list[Example]:
    """Examples with reasons; without, and a note, where the model gives none."""
    if explain:
        try:
            return make(True)
        except UsageError as error:
            notes.append(f"lists without reasons: {error}")
    return make(False)
