"""Sections of a page about the JSON of one benchmark, of one machine or of several side by side."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel, ConfigDict

from dglrec.errors import UsageError
from dglrec.report.benchmark_rows import (
    Measure,
    Row,
    best_rows,
    figures_of,
    is_number,
    keys_of,
    labels_of,
    shown,
    title_of,
)
from dglrec.report.chart import COLOURS, Bar, Series, bar_figure, line_figure
from dglrec.report.html import Html, details, table, tag
from dglrec.report.measure import flat, named
from dglrec.report.page import Content
from dglrec.report.sections import grid, section
from dglrec.report.sources import Source, checked

_FILE = "file of figures"
_MOST_BARS = 40
_MOST_COLUMNS = 8  # that an object in a row may bring; larger ones are settings
_MACHINES = ("cpu", "cores", "gpu")  # what figures depend on most


class _Written(BaseModel):
    """What `benchmarks/common.py` writes; entries besides are of each benchmark alone."""

    model_config = ConfigDict(extra="allow")

    machine: dict[str, Any]
    rows: list[dict[str, Any]]
    command: str = ""
    commands: list[str] = []
    date: str | None = None
    commit: dict[str, Any] | None = None
    schema_version: int | None = None


@dataclass(frozen=True)
class _Measured:
    """A file's rows.

    Attributes:
        name: of the file, without its suffix.
        written: what it holds.
        commands: that were given.
        benchmark: the script's name.
    """

    name: str
    written: _Written
    commands: list[str]
    benchmark: str

    @classmethod
    def of(cls, name: str, source: Source) -> "_Measured":
        written = checked(_Written, source.values, source.path, what="JSON of a benchmark")
        commands = [written.command] if written.command else written.commands
        words = " ".join(commands).split()
        benchmark = PurePosixPath(words[0]).stem if words else name
        return cls(name, written, commands, benchmark)


def benchmarks_page(sources: Sequence[Source]) -> Content:
    """The content of a page about one benchmark.

    Raises:
        UsageError: files are of several benchmarks.
        DataError: one is damaged.
    """
    paths = named([source.path for source in sources])
    names = [Path(name).stem if "/" not in name else name for name in paths]
    files = [_Measured.of(*one) for one in zip(names, sources, strict=True)]
    for other, source in zip(files, sources, strict=True):
        if other.benchmark != files[0].benchmark:
            raise UsageError(
                f"{source.path}: is of the benchmark {other.benchmark}, and {sources[0].path} of "
                f"{files[0].benchmark}; a page is about one benchmark, so write two"
            )
    what = "One file" if len(files) == 1 else f"{len(files):,} files side by side"
    return Content(
        [f"benchmark {files[0].benchmark}"],
        f"{what}: {', '.join(names)}.{_on_machines(files)}",
        [
            ("Figures", "figures", _pictures(files)),
            ("Curves", "curves", _curves(files)),
            ("All rows", "rows", section("All rows", "rows", *_tables(files))),
            ("Machine and command", "machine", _machine(files)),
            ("Settings", "settings", _settings(files)),
        ],
    )


def _pictures(files: Sequence[_Measured]) -> Html:
    """Bars of what was measured, of the best rows where rows are marked so."""
    every = _every_row(files)
    rows = _every_row(files, best_rows)
    figures = figures_of(rows)
    parts: list[Html | None] = []
    for measure in Measure:
        keys = [key for key, of in figures.items() if of is measure]
        if keys:
            parts += [tag("h3", measure.value), grid([_bars(rows, key, measure) for key in keys])]
    if not parts:
        return Html("")
    note = "Of the rows that are marked as the best of their kind; the table has all."
    marked = len(rows) < len(every)
    return section("Figures", "figures", tag("p", note) if marked else None, *parts)


def _every_row(
    files: Sequence[_Measured], choose: Callable[[Sequence[Row]], Sequence[Row]] = list
) -> list[Row]:
    """The rows of all files, or some of each, with their file where there are several."""
    if len(files) == 1:
        return list(choose(files[0].written.rows))
    return [{_FILE: file.name, **row} for file in files for row in choose(file.written.rows)]


def _bars(rows: Sequence[Row], key: str, measure: Measure) -> Html:
    rows = [row for row in rows if is_number(row.get(key))]
    labels = labels_of(rows)
    groups = list(dict.fromkeys(label.partition(",")[0] for label in labels))
    bars = [
        Bar(label, row[key], colour=groups.index(label.partition(",")[0]) % COLOURS)
        for label, row in zip(labels, rows, strict=True)
    ]
    note = None
    if len(bars) > _MOST_BARS:
        note = f"The first {_MOST_BARS} of {len(bars):,}; the table of all rows has them all."
    lengths = measure is not Measure.QUALITY and all(bar.value >= 0 for bar in bars)
    return bar_figure(title_of(key), bars[:_MOST_BARS], lengths=lengths, show=shown, note=note)


def _curves(files: Sequence[_Measured]) -> Html:
    """Validation figures over time, of rows that hold such a list."""
    lines: dict[tuple[str, str], list[Series]] = {}
    rows = _every_row(files)
    for label, row in zip(labels_of(rows), rows, strict=True):
        for x, y, points in _curves_of(row):
            found = lines.setdefault((x, y), [])
            found.append(Series(label, points, len(found) % COLOURS))
    pictures = [
        line_figure(f"{y.removeprefix('valid_')} of validation rows", found, x=x, y=y)
        for (x, y), found in lines.items()
    ]
    return section("Curves", "curves", grid(pictures))


def _curves_of(row: Row) -> Iterator[tuple[str, str, list[tuple[float, float]]]]:
    """What the axes of a row's curves say, and the points."""
    for entry in row.values():
        steps = (
            [step for step in entry if isinstance(step, dict)] if isinstance(entry, list) else []
        )
        x = next((x for x in ("seconds", "epoch") if steps and x in steps[0]), None)
        if x is None:
            continue
        for y in keys_of(steps):
            points = [
                (float(step[x]), float(step[y]))
                for step in steps
                if is_number(step.get(x)) and is_number(step.get(y))
            ]
            if y.startswith("valid_") and points:
                yield x, y, points


def _tables(files: Sequence[_Measured]) -> list[Html]:
    """All rows of each file, and lists of rows that it has besides."""
    found = []
    for file in files:
        more = {
            key: value
            for key, value in (file.written.model_extra or {}).items()
            if isinstance(value, list) and value and all(isinstance(one, dict) for one in value)
        }
        for key, rows in {"rows": file.written.rows, **more}.items():
            found.append(_table(f"{file.name}: {key.replace('_', ' ')}", rows))
    return found


def _table(caption: str, rows: Sequence[Row]) -> Html:
    cells = [_cells(row) for row in rows]
    every = keys_of(cells)
    words = [key for key in every if all(isinstance(row.get(key, ""), str) for row in cells)]
    columns = [*words, *(key for key in every if key not in words)]
    filled = [
        [f"{place}", *(shown(row.get(key)) for key in columns)]
        for place, row in enumerate(cells, start=1)
    ]
    heads = ["row", *map(title_of, columns)]
    return table(caption, heads, filled, words=1 + len(words))


def _cells(row: Row) -> dict[str, Any]:
    """A row's entries, small objects spread over columns; settings and curves are elsewhere."""
    found: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, Mapping):
            inner = dict(flat(value, f"{key} "))
            found |= inner if len(inner) <= _MOST_COLUMNS else {}
        elif not (isinstance(value, list) and any(isinstance(one, dict) for one in value)):
            found[key] = value
    return found


def _machine(files: Sequence[_Measured]) -> Html:
    """Where, when and how the figures were taken."""
    of_each = []
    for file in files:
        written = file.written
        commit = written.commit or {}
        changed = ", with changes" if commit.get("dirty") else ""
        said = {
            "command": "; ".join(file.commands),
            "date": written.date,
            "commit": f"{commit['hash']}{changed}" if commit.get("hash") else None,
        }
        of_each.append({**said, **dict(flat(written.machine))})
    made = _side_by_side("Machine, versions and command", files, of_each)
    return section("Machine and command", "machine", made)


def _on_machines(files: Sequence[_Measured]) -> str:
    """What is to be known of files of several machines."""
    machines = {tuple(str(one.written.machine.get(key)) for key in _MACHINES) for one in files}
    if len(machines) == 1:
        return ""
    return " They are of different machines, which is part of what sets their figures apart."


def _settings(files: Sequence[_Measured]) -> Html:
    """What a file says of all its rows, and the settings that rows were measured with."""
    of_each = [
        {
            key: value
            for key, value in flat(file.written.model_extra or {})
            if not (isinstance(value, list) and any(isinstance(one, dict) for one in value))
        }
        for file in files
    ]
    parts: list[Html | None] = (
        [_side_by_side("Of all rows", files, of_each)] if any(of_each) else []
    )
    for file in files:
        labels = labels_of(file.written.rows)
        for key in keys_of(file.written.rows):
            of_rows = [row.get(key) for row in file.written.rows]
            parts.append(_of_rows(f"{file.name}: {key.replace('_', ' ')}", labels, of_rows))
    return section("Settings", "settings", *parts)


def _of_rows(caption: str, labels: Sequence[str], values: Sequence[Any]) -> Html | None:
    """An object that rows hold, a column for all rows that have the same one."""
    columns: dict[str, dict[str, Any]] = {}
    owners: dict[str, list[str]] = {}
    for label, value in zip(labels, values, strict=True):
        inner = dict(flat(value)) if isinstance(value, Mapping) else {}
        if len(inner) > _MOST_COLUMNS:
            columns[str(inner)] = inner
            owners.setdefault(str(inner), []).append(label)
    if not columns:
        return None
    heads = [
        found[0] if len(found) == 1 else f"{found[0]} and {len(found) - 1} more"
        for found in owners.values()
    ]
    names = keys_of(columns.values())
    rows = [[name, *(shown(one.get(name)) for one in columns.values())] for name in names]
    return details(caption, table(caption, ("setting", *heads), rows, words=1 + len(heads)))


def _side_by_side(
    caption: str, files: Sequence[_Measured], of_each: Sequence[Mapping[str, Any]]
) -> Html:
    rows = [
        [name, *(shown(found.get(name)) for found in of_each)]
        for name in keys_of(of_each)
        if any(found.get(name) is not None for found in of_each)
    ]
    columns = ("entry", *(file.name for file in files))
    return table(caption, columns, rows, words=len(columns))
