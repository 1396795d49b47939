"""The section of a page about a study: its table, and differences to the reference."""

from collections.abc import Sequence
from typing import Any

from dglrec.errors import DataError
from dglrec.report.chart import COLOURS, Bar, bar_figure
from dglrec.report.html import Html, number, table, tag, with_interval
from dglrec.report.page import Content
from dglrec.report.sections import grid, note_list, section, title_of
from dglrec.report.sources import Source, read_values
from dglrec.run import RESULTS_FILE


def studies_page(sources: Sequence[Source]) -> Content:
    """The content of a page about studies, one after the other.

    Raises:
        DataError: the table of one is not there yet, or is damaged.
    """
    results = [read_study_results(source) for source in sources]
    sections = [
        (f"Study: {result['title']}", f"study-{place}", study_section(result, place))
        for place, result in enumerate(results, start=1)
    ]
    said = "One study." if len(results) == 1 else f"{len(results):,} studies."
    return Content([f"study {result['title']}" for result in results], said, sections)


def read_study_results(source: Source) -> dict[str, Any]:
    """A study's `results.json`.

    Raises:
        DataError: it is not there yet, or is no table of a study.
    """
    result, path = source.values, source.path
    if path.is_dir():
        path = path / RESULTS_FILE
        if not path.is_file():
            raise DataError(
                f"{source.path}: the study holds no {RESULTS_FILE} yet; go on with it: dglrec "
                f"study STUDY SOURCE {source.path}"
            )
        result = read_values(path)
    wanted = {"metrics", "variants", "reference", "split", "level", "draws", "title"}
    if missing := sorted(wanted - set(result)):
        raise DataError(f"{path}: lacks {', '.join(missing)}, so it is no table of a study")
    return result


def study_section(result: dict[str, Any], place: int) -> Html:
    """A study's pictures and table.

    Args:
        result: its `results.json`.
        place: among the studies of the page.

    Raises:
        DataError: a variant lacks what the table has of each.
    """
    try:
        return _section(result, place)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{RESULTS_FILE} of the study {result['title']}: damaged ({error!r}); run it again"
        ) from error


def _section(result: dict[str, Any], place: int) -> Html:
    metrics, variants = result["metrics"], result["variants"]
    leading, reference = title_of(metrics[0]), result["reference"]
    shown = [
        bar_figure(
            title_of(metric),
            [
                Bar(row["name"], *_ends(row[metric]), colour=int(row["name"] == reference))
                for row in variants
            ],
        )
        for metric in metrics[:1]
        if variants
    ]
    apart = [row for row in variants if row["difference"] is not None]
    if apart:
        bars = [
            Bar(
                row["name"],
                *_ends(row["difference"]["value"]),
                colour=at % COLOURS,
                p=row["difference"]["p_holm"],
            )
            for at, row in enumerate(apart)
        ]
        shown.append(
            bar_figure(f"Difference of {leading} to {reference}", bars, zero=True,
                       note="An interval that holds 0 tells no difference from chance.")
        )  # fmt: skip
    columns = [
        *("variant", "runs", *map(title_of, metrics), f"difference of {leading}", "p (Holm)"),
        *(f"validation {leading}", f"{result.get('baseline', 'baseline')} {leading}", "seconds"),
    ]
    rows = [
        [
            tag("span", row["name"], title=row.get("description") or None),
            row["runs"],
            *(with_interval(*_ends(row[metric])) for metric in metrics),
            with_interval(*_ends(row["difference"]["value"])) if row["difference"] else "",
            number(row["difference"]["p_holm"]) if row["difference"] else "",
            number(row["valid"]),
            number(row["baseline"]),
            f"{row['training_seconds']:.1f}",
        ]
        for row in variants
    ]
    described = [
        tag("li", tag("strong", row["name"]), f": {row['description']}")
        for row in variants
        if row.get("description")
    ]
    said = (
        f"Figures of {result['split']} rows, means over runs with different seeds, with "
        f"{100 * result['level']:g} % intervals from redrawn users and runs ({result['draws']:,} "
        f"draws). Differences are to {reference}; p-values are Holm's over all of them."
    )
    return section(
        f"Study: {result['title']}", f"study-{place}", tag("p", said),
        table("All variants", columns, rows), grid(shown),
        tag("ul", *described) if described else None, note_list(result.get("notes", [])),
    )  # fmt: skip


def _ends(estimate: dict[str, Any]) -> tuple[float, float | None, float | None]:
    return estimate["value"], estimate["low"], estimate["high"]
