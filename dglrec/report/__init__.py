"""Runs and studies -> one HTML page that needs nothing else.

`measure.py` opens runs and takes their figures from `evaluate` and `compare`; `sections.py` and
`cards.py` make sections of them, `studies.py` of a study's table, with the pictures of `chart.py`;
`html.py` escapes all that is not markup of ours; `page.py` is what is around them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from dglrec.errors import DataError, UsageError
from dglrec.files import atomic_file, check_possible, disk_errors
from dglrec.report.cards import costs, data_card, examples, maps, model_card, settings
from dglrec.report.html import Html
from dglrec.report.measure import Measured, Together, measure_runs
from dglrec.report.page import page
from dglrec.report.sections import by_group, calibration, figures, lists, training
from dglrec.report.studies import is_study, read_study_results, study_section

__all__ = ["Measured", "Together", "check_page", "measure_runs", "write_report"]

_MARK = b'<meta name="generator" content="dglrec'
_HEAD_BYTES = 4_096

_SECTIONS = (
    ("Metrics beside baselines", "metrics", figures),
    ("Lists", "lists", lists),
    ("Training", "training", training),
    ("Calibration", "calibration", calibration),
    ("Error by activity and popularity", "groups", by_group),
    ("Item map", "map", maps),
    ("Histories and lists", "examples", examples),
    ("Throughput and memory", "costs", costs),
    ("Configuration", "settings", settings),
    ("Data card", "data", data_card),
    ("Model card", "model", model_card),
)


def write_report(
    sources: Sequence[Path],
    out: Path,
    *,
    split: str = "test",
    overwrite: bool = False,
    dataset: Path | None = None,
    device: torch.device | None = None,
) -> dict[str, Any]:
    """Write one page about runs and studies.

    Args:
        sources: folders of runs, which must have the same held-out rows, and of studies.
        out: the page's file.
        split: the rows that runs are measured on: `test` or `valid`.
        overwrite: whether a page that is there may be replaced.
        dataset: where the data set is of runs whose own is no longer in its place.
        device: where graph models compute; None for the CPU.

    Returns:
        `out`, `bytes`, `runs` and `studies`.

    Raises:
        UsageError: the file cannot be written there, or a run is given twice or has learned from
            the rows.
        DataError: a folder is neither a run nor a study, lacks results or is damaged; or runs have
            other rows.
        DglrecError: the disk is full.
    """
    check_page(out, overwrite=overwrite)
    for source in sources:
        if not source.is_dir():
            raise DataError(f"{source}: no such folder; name a run or a study")
    studies = [source for source in sources if is_study(source)]
    runs = [source for source in sources if source not in studies]
    results = [read_study_results(study) for study in studies]
    sections: list[tuple[str, str, Html]] = []
    names: list[str] = []
    if runs:
        together = measure_runs(runs, split, dataset=dataset, device=device)
        names = [run.name for run in together.runs]
        sections += [(title, anchor, make(together)) for title, anchor, make in _SECTIONS]
    for place, result in enumerate(results, start=1):
        heading = f"Study: {result['title']}"
        sections.append((heading, f"study-{place}", study_section(result, place)))
    about = [*names, *(f"study {result['title']}" for result in results)]
    written = page(f"Report: {', '.join(about)}", _said(names, results, split), sections)
    content = written.encode("utf-8", errors="replace")
    with disk_errors(out):
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(out) as temporary:
        temporary.write_bytes(content)
    return {"out": str(out), "bytes": len(content), "runs": len(runs), "studies": len(studies)}


def check_page(out: Path, *, overwrite: bool) -> None:
    """Refuse a file that must not be written, before any work is done.

    Raises:
        UsageError: it is a folder, is there already, or is no page of ours that may be replaced.
    """
    check_possible(out)
    if out.is_dir():
        raise UsageError(f"{out}: is a folder; name the page's file last, such as report.html")
    if not out.exists():
        return
    if not overwrite:
        raise UsageError(f"{out} exists; choose another name, or replace it with --overwrite")
    with out.open("rb") as file:
        if _MARK not in file.read(_HEAD_BYTES):
            raise UsageError(
                f"{out} exists and is no page of dglrec report, so --overwrite will not replace "
                "it; remove it by hand if that is what you want"
            )


def _said(names: Sequence[str], results: Sequence[Any], split: str) -> str:
    said = []
    if names:
        what = "One run" if len(names) == 1 else f"{len(names):,} runs side by side"
        said.append(f"{what}, measured on {split} rows.")
    if results:
        said.append("One study." if len(results) == 1 else f"{len(results):,} studies.")
    return f"{' '.join(said)} A table lies behind each picture."
