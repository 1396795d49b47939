"""The first section of a page about runs: their main figures in sentences."""

from collections.abc import Iterator
from typing import Any

from dglrec.report.html import Html, join, number, tag
from dglrec.report.measure import Measured, Together
from dglrec.report.sections import section

_LENGTH = 10  # of the lists in the sentences


def summary(together: Together) -> Html:
    """What each run's figures mean to a reader who knows none of the metrics."""
    shown = []
    for run in together.runs:
        name = f"{run.name}: " if len(together.runs) > 1 else ""
        shown += [tag("p", f"{name}{said}") for said in _sentences(run)]
    return section("In short", "summary", join(shown))


def _sentences(run: Measured) -> Iterator[str]:
    figures = run.figures
    baselines = figures["baselines"]
    if "mae" in figures:
        scale = run.data.get("scale", {})
        ends = f" on the scale of {scale['minimum']:g} to {scale['maximum']:g}" if scale else ""
        yield (
            f"A predicted rating is {number(figures['mae'])} away from the true one on average"
            f"{ends}. Predicted from how generous a user and how good an item is, and nothing "
            f"else, it would be {number(baselines['bias']['mae'])} away."
        )
    key = f"hit_rate@{_LENGTH}"
    if key in figures:
        liked = "the user liked" if "mae" in figures else "the user took"
        yield (
            f"Of lists of {_LENGTH} items, {figures[key]:.0%} hold at least one that {liked}, as "
            f"rows say that training did not see{_popular(baselines, key)}."
        )


def _popular(baselines: dict[str, Any], key: str) -> str:
    popular = baselines.get("popularity", {})
    return f"; of lists of the most popular items, {popular[key]:.0%}" if key in popular else ""
