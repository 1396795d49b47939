"""Sections of a page about searches of `tune`: best so far, importances, slices, trials, best."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from dglrec.errors import DataError
from dglrec.files import read_errors
from dglrec.progress import counted
from dglrec.report.chart import Bar, Series, bar_figure, line_figure
from dglrec.report.html import Html, number, table, tag
from dglrec.report.page import Content
from dglrec.report.sections import grid, note_list, section
from dglrec.report.sources import Source, checked, read_values
from dglrec.run import RESULTS_FILE
from dglrec.tune.running import BEST_FILE
from dglrec.tune.table import FINISHED, PRUNED

_STATES = (FINISHED, PRUNED)  # that have a figure, in the order of their colours
_BEST_COLOUR = 2
_WHAT = "table of a search"


class _Trial(BaseModel):
    trial: int
    state: str
    value: float | None
    epochs: int | None
    best_epoch: int | None
    seconds: float | None
    parameters: dict[str, Any]
    reason: str | None


class _Slice(BaseModel):
    values: str
    trials: int
    best: float | None
    median: float | None


class _Table(BaseModel):
    """What `tabulate` gives."""

    title: str
    version: str
    seed: int
    metric: str
    maximise: bool
    fixed: dict[str, Any]
    trials: list[_Trial]
    best: _Trial | None
    importances: dict[str, float] | None
    slices: dict[str, list[_Slice]]
    notes: list[str]


class _Range(BaseModel):
    low: float
    high: float
    log: bool


class _Space(BaseModel):
    searched: dict[str, _Range | list[Any]]


class _Begun(BaseModel):
    """What `tune.json` has of the space."""

    space: _Space


@dataclass(frozen=True)
class _Search:
    """A search's folder.

    Attributes:
        found: its table.
        searched: its space, by setting.
        best: `best.toml`; None where no trial has finished.
    """

    found: _Table
    searched: dict[str, _Range | list[Any]]
    best: str | None

    @property
    def has_figure(self) -> list[_Trial]:
        """Finished and pruned trials, in the order in which they were begun."""
        there = [one for one in self.found.trials if one.value is not None]
        return sorted((one for one in there if one.state in _STATES), key=lambda one: one.trial)


def searches_page(sources: Sequence[Source]) -> Content:
    """The content of a page about searches, one after the other.

    Raises:
        DataError: one has no table yet, or is damaged.
    """
    searches = [_read(source) for source in sources]
    sections = [
        (f"Search: {one.found.title}", f"search-{place}", _section(one, place))
        for place, one in enumerate(searches, start=1)
    ]
    said = "One search" if len(searches) == 1 else f"{len(searches):,} searches"
    said += " for settings. All figures are of validation rows; no test row was read."
    return Content([f"search {one.found.title}" for one in searches], said, sections)


def _read(source: Source) -> _Search:
    folder = source.path
    if not folder.is_dir():
        raise DataError(
            f"{folder}: is the table of a search; name the search's folder, as its page needs "
            f"{BEST_FILE} and the space too"
        )
    path = folder / RESULTS_FILE
    if not path.is_file():
        raise DataError(
            f"{folder}: the search holds no {RESULTS_FILE} yet; go on with it: dglrec tune SPACE "
            f"DATASET {folder}"
        )
    found = checked(_Table, read_values(path), path, what=_WHAT)
    begun = checked(_Begun, source.values, folder / "tune.json", what="record of a search")
    best = _read_text(folder / BEST_FILE) if found.best is not None else None
    return _Search(found, begun.space.searched, best)


def _read_text(path: Path) -> str:
    with read_errors(path):
        return path.read_text(encoding="utf-8", errors="replace")


def _section(search: _Search, place: int) -> Html:
    found = search.found
    counts = Counter(one.state for one in found.trials)
    states = ", ".join(f"{count:,} {state}" for state, count in counts.items())
    better = "higher" if found.maximise else "lower"
    said = (
        f"{counted(len(found.trials), 'trial')}: {states or 'none yet'}. {found.metric} on "
        f"validation rows ({better} is better). The best of many trials looks better on these "
        "rows than it is: measure what you choose once on test rows, by training with its settings."
    )
    pictures = [*_best_so_far(search), *_importances(found)]
    slices = [_slice(search, key) for key in found.slices if _points_of(search, key)]
    return section(
        f"Search: {found.title}", f"search-{place}", tag("p", said), grid(pictures),
        tag("h3", "Best settings"), *_best_settings(search),
        tag("h3", "Settings one by one") if slices else None, grid(slices), _slices(found),
        tag("h3", "Trials"), _trials(found), note_list(found.notes),
    )  # fmt: skip


def _best_so_far(search: _Search) -> list[Html]:
    """Figures of trials in the order of their numbers, and the best of the finished ones so far."""
    trials = search.has_figure
    finished = [one for one in trials if one.state == FINISHED]
    best = list(
        accumulate(
            (float(one.value or 0.0) for one in finished), max if search.found.maximise else min
        )
    )
    lines = [
        Series("best so far", [*zip((float(one.trial) for one in finished), best, strict=True)],
               _BEST_COLOUR)
    ] if finished else []  # fmt: skip
    for colour, state in enumerate(_STATES):
        points = [
            (float(one.trial), float(one.value or 0.0)) for one in trials if one.state == state
        ]
        if points:
            lines.append(Series(state, points, colour, joined=False))
    if not lines:
        return []
    note = "The figure of a pruned trial is of the epochs that it had."
    metric = search.found.metric
    return [line_figure(f"{metric} by trial", lines, x="trial", y=metric, note=note)]


def _importances(found: _Table) -> list[Html]:
    if not found.importances:
        return []
    bars = [Bar(key, share) for key, share in found.importances.items()]
    note = "Of the space as declared: a setting with a narrow range matters little."
    title = "Share of the variance that each setting explains"
    return [bar_figure(title, bars, lengths=True, note=note)]


def _slice(search: _Search, key: str) -> Html:
    """Figures of trials by one setting."""
    declared = search.searched.get(key)
    metric = search.found.metric
    points = _points_of(search, key)
    places: list[str] = []
    if not isinstance(declared, _Range):
        options = declared if declared is not None else [value for _, value, _ in points]
        places = list(dict.fromkeys(_option(value) for value in options))
        places += [one for one in dict.fromkeys(_option(value) for _, value, _ in points)
                   if one not in places]  # fmt: skip
    lines = []
    for colour, state in enumerate(_STATES):
        of_state = [
            (float(places.index(_option(value)) if places else value), figure)
            for one, value, figure in points
            if one == state
        ]
        if of_state:
            lines.append(Series(state, of_state, colour, joined=False))
    log = isinstance(declared, _Range) and declared.log
    return line_figure(
        f"{metric} by {key}", lines, x=f"{key} (logarithmic)" if log else key, y=metric,
        places=places, log=log,
    )  # fmt: skip


def _points_of(search: _Search, key: str) -> list[tuple[str, Any, float]]:
    """State, setting and figure of the trials that have both; numbers where the space has a range.

    A logarithmic axis has no room for what is not above 0.
    """
    declared = search.searched.get(key)
    found = []
    for one in search.has_figure:
        value = one.parameters.get(key)
        if isinstance(declared, _Range):
            fits = isinstance(value, int | float) and (not declared.log or value > 0)
        else:
            fits = key in one.parameters
        if fits:
            found.append((one.state, value, float(one.value or 0.0)))
    return found


def _option(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _slices(found: _Table) -> Html | None:
    rows = [
        [key, one.values, number(one.trials), number(one.best), number(one.median)]
        for key, slices in found.slices.items()
        for one in slices
    ]
    columns = ("setting", "values", "trials", f"best {found.metric}", f"median {found.metric}")
    return (
        table("Slices: finished trials by part of the values", columns, rows, words=2)
        if rows
        else None
    )


def _trials(found: _Table) -> Html:
    keys = list(found.slices)
    reasons = any(one.reason for one in found.trials)
    words = ["trial", "state", *(["reason"] if reasons else [])]
    columns = [*words, found.metric, "epochs", "best epoch", "seconds", *keys]
    rows = [
        [
            number(one.trial),
            one.state,
            *([tag("span", one.reason, class_="long") if one.reason else ""] if reasons else []),
            *map(number, (one.value, one.epochs, one.best_epoch)),
            "" if one.seconds is None else f"{one.seconds:,.1f}",
            *(_setting(one.parameters.get(key)) for key in keys),
        ]
        for one in found.trials
    ]
    return table("Trials, best first", columns, rows, words=len(words))


def _setting(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else _option(value)


def _best_settings(search: _Search) -> list[Html]:
    best = search.found.best
    if best is None or search.best is None:
        return [tag("p", "No trial has finished, so there are none.")]
    said = (
        f"Of trial {best.trial}, {search.found.metric} {number(best.value)} on validation rows. "
        f"This is {BEST_FILE}, for dglrec train --config."
    )
    code = tag("pre", tag("code", search.best), tabindex=0, role="group", aria_label=BEST_FILE)
    return [tag("p", said), code]
