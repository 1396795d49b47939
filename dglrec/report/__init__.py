"""Runs, studies, searches, comparisons and benchmarks -> one HTML page that needs nothing else.

`sources.py` says what a source is. Of runs `measure.py` takes figures from `evaluate` and
`compare`, and `sections.py` and `cards.py` make sections of them; `studies.py`, `searches.py`,
`comparisons.py` and `benchmarks.py` make sections of results that were written before. `chart.py`
and `axis.py` draw, `html.py` escapes all that is not markup of ours, `page.py` is what is around.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from dglrec.errors import UsageError
from dglrec.files import atomic_file, check_target_file, disk_errors
from dglrec.places import Place
from dglrec.report.benchmarks import benchmarks_page
from dglrec.report.cards import costs, data_card, examples, maps, model_card, settings
from dglrec.report.comparisons import comparisons_page
from dglrec.report.measure import Measured, Together, measure_runs
from dglrec.report.page import Content, page
from dglrec.report.searches import searches_page
from dglrec.report.sections import by_group, calibration, figures, lists, training
from dglrec.report.sources import Kind, Source, recognise
from dglrec.report.studies import studies_page
from dglrec.report.summary import summary

__all__ = ["Measured", "Together", "check_page", "measure_runs", "write_report"]

_MARK = b'<meta name="generator" content="dglrec'
_HEAD_BYTES = 4_096

_SECTIONS = (
    ("In short", "summary", summary),
    ("Metrics beside baselines", "metrics", figures),
    ("Lists", "lists", lists),
    ("Histories and lists", "examples", examples),
    ("Training", "training", training),
    ("Calibration", "calibration", calibration),
    ("Error by activity and popularity", "groups", by_group),
    ("Item map", "map", maps),
    ("Throughput and memory", "costs", costs),
    ("Configuration", "settings", settings),
    ("Data card", "data", data_card),
    ("Model card", "model", model_card),
)
_PAGES: dict[Kind, Callable[[Sequence[Source]], Content]] = {
    Kind.STUDY: studies_page,
    Kind.SEARCH: searches_page,
    Kind.COMPARISON: comparisons_page,
    Kind.BENCHMARK: benchmarks_page,
}


def write_report(
    sources: Sequence[Path],
    out: Path,
    *,
    split: str = "test",
    overwrite: bool = False,
    dataset: Path | None = None,
    device: torch.device | None = None,
) -> dict[str, Any]:
    """Write one page about runs, or about results of one kind.

    Args:
        sources: folders of runs, which must have the same held-out rows; or of studies; or of
            searches of `tune`; or files with the JSON of `compare`, or of one benchmark. What each
            is, its content says.
        out: the page's file.
        split: the rows that runs are measured on: `test` or `valid`.
        overwrite: whether a page that is there may be replaced.
        dataset: where the data set is of runs whose own is no longer in its place.
        device: where graph models compute; None for the CPU.

    Returns:
        `out`, `bytes`, and how many there are of each `Kind`.

    Raises:
        UsageError: the file cannot be written there, sources are of several kinds or of several
            benchmarks, one is given twice, or a run has learned from the rows.
        DataError: a source is of no kind, lacks results, is damaged or of another schema; or runs
            have other rows.
        DglrecError: the disk is full.
    """
    check_page(out, overwrite=overwrite)
    found = recognise(sources)
    kind = found[0].kind
    if kind is Kind.RUN:
        content = _runs_page(sources, split, dataset, device)
    else:
        content = _PAGES[kind](found)
    said = f"{content.said} A table lies behind each picture."
    written = page(f"Report: {', '.join(content.names)}", said, content.sections)
    encoded = written.encode("utf-8", errors="replace")
    with disk_errors(out):
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(out) as temporary:
        temporary.write_bytes(encoded)
    counts = {one.value: len(found) if one is kind else 0 for one in Kind}
    return {"out": str(out), "bytes": len(encoded), **counts}


def _runs_page(
    runs: Sequence[Path], split: str, dataset: Path | None, device: torch.device | None
) -> Content:
    together = measure_runs(runs, split, dataset=dataset, device=device)
    what = "One run" if len(runs) == 1 else f"{len(runs):,} runs side by side"
    return Content(
        [run.name for run in together.runs],
        f"{what}, measured on {split} rows.",
        [(title, anchor, make(together)) for title, anchor, make in _SECTIONS],
    )


def check_page(out: Path, *, overwrite: bool) -> None:
    """Refuse a file that must not be written, before any work is done.

    Raises:
        UsageError: it is a folder, is there already, or is no page of ours that may be replaced.
    """
    if out.is_dir():
        raise UsageError(f"{out}: is a folder; name the page's file last, such as report.html")
    check_target_file(out, _is_page, "page of dglrec report", overwrite=overwrite)


def _is_page(file: Place) -> bool:
    with file.open("rb") as opened:
        return _MARK in opened.read(_HEAD_BYTES)
