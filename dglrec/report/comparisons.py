"""Sections of a page about the JSON of `compare`: figures, differences, how they came about."""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, Field

from dglrec.compare import Comparison, Difference, Estimate, GroupFigures, PairedEstimate
from dglrec.report.html import Html, number, table, tag, with_interval
from dglrec.report.page import Content
from dglrec.report.sections import (
    differences,
    ends_of,
    grid,
    note_list,
    of_metric,
    section,
    title_of,
)
from dglrec.report.sources import Source, checked

_WHAT = "comparison"


class _Group(BaseModel):
    name: str
    runs: int


class _Pair(BaseModel):
    a: str
    b: str
    percent: float | None
    percent_low: float | None
    percent_high: float | None
    d_z: float | None


class _Written(BaseModel):
    """What `compare_runs` gives; `runs` and `differences` have a figure by metric beside."""

    split: str
    metrics: list[str] = Field(min_length=1)
    rows: int
    users: int
    draws: int
    level: float
    seed: int
    runs: list[dict[str, Any]] = Field(min_length=1)
    differences: list[dict[str, Any]]
    notes: list[str]
    ranking: int | None = None
    relevant_from: float | None = None


def comparisons_page(sources: Sequence[Source]) -> Content:
    """The content of a page about comparisons, one after the other.

    Raises:
        DataError: one is damaged.
    """
    sections = []
    names = []
    for place, source in enumerate(sources, start=1):
        written = checked(_Written, source.values, source.path, what=_WHAT)
        found = _comparison(written, source)
        named = ", ".join(run.name for run in found.runs)
        heading = f"Comparison: {named}" if len(sources) == 1 else f"{source.path.name}: {named}"
        names.append(f"comparison of {named}")
        made = _section(written, found, heading, f"comparison-{place}")
        sections.append((heading, f"comparison-{place}", made))
    said = "One comparison." if len(sources) == 1 else f"{len(sources):,} comparisons."
    return Content(names, said, sections)


def _comparison(written: _Written, source: Source) -> Comparison:
    def figures(form: type[Any], one: dict[str, Any]) -> dict[str, Any]:
        found = {name: one.get(name) for name in written.metrics}
        return {
            name: checked(form, value, source.path, what=f"{_WHAT}, in {name}")
            for name, value in found.items()
        }

    runs = [
        GroupFigures(
            **checked(_Group, one, source.path, what=_WHAT).model_dump(),
            figures=figures(Estimate, one),
        )
        for one in written.runs
    ]
    pairs = [
        Difference(
            **checked(_Pair, one, source.path, what=_WHAT).model_dump(),
            figures=figures(PairedEstimate, one),
        )
        for one in written.differences
    ]
    return Comparison(
        metrics=tuple(written.metrics),
        rows=written.rows,
        users=written.users,
        draws=written.draws,
        level=written.level,
        seed=written.seed,
        runs=runs,
        differences=pairs,
        notes=written.notes,
    )


def _section(written: _Written, found: Comparison, heading: str, anchor: str) -> Html:
    what = (
        f"Lists of {written.ranking} of {found.users:,} users with relevant {written.split} items"
        if written.ranking is not None
        else f"{found.rows:,} {written.split} ratings of {found.users:,} users"
    )
    if written.relevant_from is not None:
        what += f", rated {written.relevant_from:g} or more"
    said = (
        f"{what}, with {100 * found.level:g} % intervals: users are redrawn {found.draws:,} times "
        f"(seed {found.seed}), the same for all."
    )
    apart = [differences(found, metric) for metric in found.metrics] if found.differences else []
    return section(
        heading, anchor, tag("p", said), _all_figures(found),
        grid([of_metric(found, metric) for metric in found.metrics]),
        tag("h3", "Differences") if apart else None,
        tag("p", "p-values are Holm's over all pairs of a table.") if apart else None,
        grid(apart), _all_differences(found) if apart else None, note_list(found.notes),
    )  # fmt: skip


def _all_figures(found: Comparison) -> Html:
    columns = ["name", "runs", *map(title_of, found.metrics)]
    rows = [
        [
            run.name,
            number(run.runs),
            *(with_interval(*ends_of(run.figures[name])) for name in found.metrics),
        ]
        for run in found.runs
    ]
    return table("All figures", columns, rows)


def _all_differences(found: Comparison) -> Html:
    columns = [
        *("a", "b", "metric", "a \N{MINUS SIGN} b", "p", "p (Holm)"),
        *("percent of b", "d_z"),
    ]
    rows = []
    for pair in found.differences:
        ends = pair.percent, pair.percent_low, pair.percent_high
        percent = "" if pair.percent is None else with_interval(*ends, show=_signed)
        for place, name in enumerate(found.metrics):
            one = pair.figures[name]
            whole = (percent, number(pair.d_z)) if place == 0 else ("", "")
            figures = (with_interval(*ends_of(one)), number(one.p), number(one.p_holm), *whole)
            rows.append([pair.a, pair.b, title_of(name), *figures])
    return table("All differences", columns, rows, words=3)


def _signed(value: float) -> str:
    return f"{value:+.2f}"
