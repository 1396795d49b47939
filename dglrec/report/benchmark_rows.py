"""Rows of a benchmark's JSON: what in them is measured, and by what a row is known.

Benchmarks have rows of different forms. A figure is told by the unit in its key (`step_ms`,
`edges_per_second`, `peak_memory_gb`); all else says what was measured (`loop`, `batch`).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import Any

from dglrec.report.html import number

Row = Mapping[str, Any]


class Measure(Enum):
    """What a figure is; the value is the heading of its pictures."""

    THROUGHPUT = "Throughput (higher is better)"
    TIME = "Time (lower is better)"
    MEMORY = "Memory (lower is better)"
    QUALITY = "Quality"


_WORDS = {
    Measure.TIME: {"seconds", "ms", "ns"},
    Measure.MEMORY: {"gb", "mb"},
    Measure.QUALITY: {"rmse", "mae", "accuracy", "recall", "ndcg", "efficiency", "share", "closed"},
}
_RATE = "per_second"
_HOW_LONG = "measured_seconds"  # chosen, and not measured
_BEST = "best"


def measure_of(key: str) -> Measure | None:
    """What a key of a row measures; None where it says what was measured, or how."""
    if key.endswith(_RATE):
        return Measure.THROUGHPUT
    if key == _HOW_LONG or key.endswith("error"):
        return None
    words = set(re.split(r"[_@]", key))
    return next((measure for measure, known in _WORDS.items() if words & known), None)


def title_of(key: str) -> str:
    """A key as headings have it, its unit last."""
    name, _, unit = key.rpartition("_")
    known = {"ms": "ms", "gb": "GB", "mb": "MB"}.get(unit)
    return f"{name.replace('_', ' ')}, {known}" if name and known else key.replace("_", " ")


def is_number(value: Any) -> bool:
    """Whether a value can be drawn."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def figures_of(rows: Sequence[Row]) -> dict[str, Measure]:
    """Keys that say something: measured in two rows or more, and not the same in all of them."""
    found = {}
    for key in keys_of(rows):
        measure = measure_of(key)
        values = [row[key] for row in rows if is_number(row.get(key))]
        if measure is not None and len(values) > 1 and len(set(values)) > 1:
            found[key] = measure
    return found


def keys_of(rows: Iterable[Row]) -> list[str]:
    """All keys, in the order in which they come."""
    return list(dict.fromkeys(key for row in rows for key in row))


def best_rows(rows: Sequence[Row]) -> list[Row]:
    """The rows that are marked as the best of their kind; all of them where none is."""
    return [row for row in rows if row.get(_BEST) is True] or list(rows)


def labels_of(rows: Sequence[Row]) -> list[str]:
    """A name for each row: as few of its entries as tell rows apart, words before numbers."""
    keys = [key for key in keys_of(rows) if measure_of(key) is None and key != _BEST]
    words = [key for key in keys if any(isinstance(row.get(key), str) for row in rows)]
    numbers = [
        key
        for key in keys
        if key not in words
        and all(row.get(key) is None or isinstance(row[key], int | float) for row in rows)
    ]
    chosen: list[str] = []
    for key in (*words, *numbers):
        apart = len(set(_entries(rows, chosen)))
        if apart == len(rows):
            break
        if len(set(_entries(rows, [*chosen, key]))) > apart:
            chosen.append(key)
    chosen = chosen or words[:1]
    labels = [", ".join(_said(key, row[key]) for key in chosen if _has(row, key)) for row in rows]
    return [label or f"row {place}" for place, label in enumerate(labels, start=1)]


def shown(value: Any) -> str:
    """An entry as tables and pictures show it: five digits, thousands with commas."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and abs(value) < 1_000:
        return f"{value:.5g}"
    if isinstance(value, list):
        return ", ".join(map(shown, value))
    return number(value)


def _entries(rows: Sequence[Row], keys: Sequence[str]) -> list[tuple[str, ...]]:
    return [tuple(str(row.get(key)) for key in keys) for row in rows]


def _has(row: Row, key: str) -> bool:
    return row.get(key) is not None and row[key] is not False


def _said(key: str, value: Any) -> str:
    name = key.replace("_", " ")
    if value is True:
        return name
    return str(value) if isinstance(value, str) else f"{name} {shown(value)}"
