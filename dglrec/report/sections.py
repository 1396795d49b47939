"""The sections of a page about runs: figures -> headings, pictures and tables."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from dglrec.compare import Comparison, Estimate
from dglrec.report.chart import COLOURS, Bar, Series, bar_figure, line_figure
from dglrec.report.html import Html, join, number, table, tag
from dglrec.report.measure import Measured, Together

_CURVES = (
    ("RMSE", (("train_rmse", "training"), ("valid_rmse", "validation"))),
    ("MAE", (("valid_mae", "validation"),)),
)
_LIST_CURVES = ("ndcg", "recall")
_HIGHER = "higher is better"
_LOWER = "lower is better"
_DIRECTION = {"rmse": _LOWER, "mae": _LOWER, "accuracy": _HIGHER}
_NAMES = {
    "rmse": "RMSE",
    "mae": "MAE",
    "accuracy": "accuracy",
    "ndcg": "nDCG",
    "recall": "recall",
    "hit_rate": "hit rate",
}
_TRAITS = {
    "coverage": "Coverage: share of the catalogue that is in a list",
    "popularity_lift": "Popularity lift of lists over users' histories",
    "diversity": "Diversity: how unlike a list's items are",
    "novelty": "Novelty of listed items",
    "gini": "Gini index of how often items are listed",
    "tail_share": "Share of places with items of the long tail",
}


def section(title: str, anchor: str, *children: Any) -> Html:
    """A section with its heading; nothing where it holds nothing."""
    body = join(children)
    if not body:
        return Html("")
    return tag("section", tag("h2", title, id=f"{anchor}-title"), body, id=anchor,
               aria_labelledby=f"{anchor}-title")  # fmt: skip


def grid(figures: Sequence[Html], kind: str | None = None) -> Html | None:
    """Pictures side by side where there is room; of the kind `wide` two at most."""
    return tag("div", *figures, class_=f"grid {kind or ''}".rstrip()) if figures else None


def training(together: Together) -> Html:
    """Curves of training."""
    found: list[Html] = []
    for title, keys in _CURVES:
        found += curve(together.runs, title, keys)
    known = {key for _, keys in _CURVES for key, _ in keys}
    losses = [key for key in _keys(together.runs) if key.startswith("train_") and key not in known]
    for key in losses:
        title = key.removeprefix("train_").replace("_", " ")
        found += curve(together.runs, f"Training: {title}", ((key, "training"),))
    for key in _keys(together.runs):
        metric = key.removeprefix("valid_")
        if (
            key.startswith("valid_")
            and metric.partition("@")[0] in _LIST_CURVES
            and (not metric.endswith("_standard_error"))
        ):
            found += curve(together.runs, title_of(metric), ((key, "validation"),))
    found += curve(together.runs, "Learning rate", (("learning_rate", ""),))
    without = [run.name for run in together.runs if not run.kept.epochs]
    note = f"Fitted at once, without epochs: {', '.join(without)}." if without else None
    return section("Training", "training", grid(found), note and tag("p", note))


def _keys(runs: Sequence[Measured]) -> list[str]:
    return list(dict.fromkeys(key for run in runs for epoch in run.kept.epochs for key in epoch))


def curve(runs: Sequence[Measured], title: str, keys: Sequence[tuple[str, str]]) -> Iterator[Html]:
    """A picture of some figures by epoch; none where no run has them."""
    lines = []
    for place, run in enumerate(runs):
        for number_, (key, what) in enumerate(keys):
            points = [
                (float(epoch["epoch"]), float(epoch[key]))
                for epoch in run.kept.epochs
                if isinstance(epoch.get(key), int | float) and "epoch" in epoch
            ]
            colour = place if len(runs) > 1 else number_
            name = f"{run.name}, {what}" if what else run.name
            dashed = what == "training" and len(keys) > 1
            if points:
                lines.append(Series(name, points, colour % COLOURS, dashed=dashed))
    if lines:
        yield line_figure(title, lines, x="epoch", y=title)


def figures(together: Together) -> Html:
    """Metrics beside baselines, with intervals, and how far runs are apart."""
    shown: list[Html] = []
    apart: list[Html] = []
    notes: list[str] = []
    for found in (together.ratings, together.lists):
        if found is None:
            continue
        shown += [of_metric(found, metric) for metric in found.metrics]
        apart.append(differences(found, found.metrics[0]))
        notes += found.notes
    lists = together.lists
    level = f"{100 * lists.level:g} %"
    said = (
        f"Figures of {together.split} rows with {level} intervals: users are redrawn "
        f"{lists.draws:,} times, the same for all. Baselines are fitted to the same training rows."
    )
    return section(
        "Metrics beside baselines", "metrics", tag("p", said), grid(shown),
        tag("h3", "Differences"),
        tag("p", "p-values are Holm's over all pairs of a table."),
        grid(apart), all_figures(together), note_list(notes),
    )  # fmt: skip


def of_metric(found: Comparison, metric: str) -> Html:
    """A metric of all runs, with intervals."""
    bars = [
        Bar(run.name, *ends_of(run.figures[metric]), colour=place % COLOURS)
        for place, run in enumerate(found.runs)
    ]
    direction = _DIRECTION.get(metric, _HIGHER)
    return bar_figure(f"{title_of(metric)} ({direction})", bars)


def differences(found: Comparison, metric: str) -> Html:
    """The differences of a metric, with intervals; there has to be one."""
    bars = [
        Bar(
            f"{pair.a} \N{MINUS SIGN} {pair.b}",
            *ends_of(pair.figures[metric]),
            colour=place % COLOURS,
            p=pair.figures[metric].p_holm,
        )
        for place, pair in enumerate(found.differences)
    ]
    better = "Below" if _DIRECTION.get(metric) == _LOWER else "Above"
    note = f"{better} 0 the first of the two is better."
    return bar_figure(f"Difference of {title_of(metric)}", bars, zero=True, note=note)


def ends_of(estimate: Estimate) -> tuple[float, float | None, float | None]:
    """A figure, and the ends of its interval."""
    return estimate.value, estimate.low, estimate.high


def all_figures(together: Together) -> Html:
    """Every figure of `evaluate`, of each run and its baselines."""
    columns: list[tuple[str, Mapping[str, Any]]] = []
    for run in together.runs:
        columns.append((run.name, run.figures))
        columns += [
            (f"{run.name}: {name}", of_it) for name, of_it in run.figures["baselines"].items()
        ]
    names = dict.fromkeys(
        name
        for _, values in columns
        for name, value in values.items()
        if isinstance(value, int | float)
    )
    rows = [[name, *(number(values.get(name)) for _, values in columns)] for name in names]
    made = table("All figures of evaluate", ("figure", *(name for name, _ in columns)), rows)
    return tag("details", tag("summary", "All figures"), made)


def calibration(together: Together) -> Html:
    """What is predicted against what is rated, group by group."""
    lines = []
    said = []
    for place, run in enumerate(together.runs):
        found = run.figures.get("details", {}).get("calibration")
        if found is None:
            continue
        points = [(one["mean_prediction"], one["mean_rating"]) for one in found["groups"]]
        lines.append(Series(run.name, points, place % COLOURS))
        said.append(f"{run.name} {found['expected_calibration_error']:.4f}")
    if not lines:
        return Html("")
    made = line_figure(
        "Mean rating by mean prediction", lines, x="predicted", y="rated", diagonal=True,
        note=f"On the broken line predictions are right on average. Expected calibration error: "
        f"{', '.join(said)}.",
    )  # fmt: skip
    return section(
        "Calibration", "calibration",
        tag("p", "Rows in up to ten groups of about equal size, by what is predicted for them."),
        grid([made]),
    )  # fmt: skip


def by_group(together: Together) -> Html:
    """Errors by users' activity and items' popularity."""
    shown = []
    for key, who in (("by_user_activity", "users"), ("by_item_popularity", "items")):
        title = f"RMSE by training ratings of {who}"
        groups = {
            run.name: run.figures["details"][key]
            for run in together.runs
            if key in run.figures.get("details", {})
        }
        if not groups:
            continue
        present = {one["training_ratings"] for found in groups.values() for one in found}
        places = sorted(present, key=_first_number)
        lines: list[Series] = []
        for place, (name, found) in enumerate(groups.items()):
            lines.append(_by_place(name, found, places, place, lambda one: one["rmse"]))
        first = next(iter(groups.values()))
        lines.append(
            _by_place("bias (baseline)", first, places, len(groups),
                      lambda one: one["baselines"]["bias"]["rmse"], dashed=True)
        )  # fmt: skip
        counts = ", ".join(f"{one['training_ratings']}: {one['n']:,}" for one in first)
        shown.append(
            line_figure(title, lines, x=f"training ratings of {who}", y="RMSE", places=places,
                        note=f"Rows in each group: {counts}.")
        )  # fmt: skip
    return section("Error by activity and popularity", "groups", grid(shown))


def _by_place(
    name: str,
    found: Sequence[Mapping[str, Any]],
    places: Sequence[str],
    colour: int,
    value: Callable[[Mapping[str, Any]], float],
    *,
    dashed: bool = False,
) -> Series:
    points = [(float(places.index(one["training_ratings"])), float(value(one))) for one in found]
    return Series(name, points, colour % COLOURS, dashed=dashed)


def _first_number(group: str) -> int:
    return int(group.partition("-")[0].rstrip("+"))


def lists(together: Together) -> Html:
    """Recall and nDCG by length, and what lists are like, beside popularity."""
    rankers: list[tuple[str, Mapping[str, Any], Mapping[str, Any]]] = [
        (run.name, run.figures, run.figures["lists"]) for run in together.runs
    ]
    first = together.runs[0].figures
    for name, of_it in first["baselines"].items():
        if any("@" in key for key in of_it):
            traits = first["lists"]["baselines"].get(name, {})
            rankers.append((f"{name} (baseline)", of_it, traits))
    shown = []
    for metric in ("recall", "ndcg"):
        lines = [
            Series(name, points, place % COLOURS, dashed="baseline" in name)
            for place, (name, of_it, _) in enumerate(rankers)
            if (points := _by_length(of_it, metric))
        ]
        shown.append(
            line_figure(f"{title_of(metric)} by length of lists", lines, x="K",
                        y=title_of(metric))
        )  # fmt: skip
    for trait, title in _TRAITS.items():
        bars = [
            Bar(name, float(traits[trait]), colour=place % COLOURS)
            for place, (name, _, traits) in enumerate(rankers)
            if trait in traits
        ]
        if bars:
            shown.append(bar_figure(title, bars))
    relevant = first.get("relevant_from")
    said = f"Full catalogue, {first['ranking_users']:,} users with relevant {together.split} items"
    said += f", rated {relevant:g} or more" if relevant is not None else ""
    said += f". What lists are like is told of lists of {first['lists']['k']}."
    return section("Lists", "lists", tag("p", said), grid(shown))


def _by_length(of_it: Mapping[str, Any], metric: str) -> list[tuple[float, float]]:
    found = [
        (float(key.partition("@")[2]), float(value))
        for key, value in of_it.items()
        if key.startswith(f"{metric}@")
    ]
    return sorted(found)


def note_list(notes: Sequence[str]) -> Html | None:
    """Notes, each once."""
    if not notes:
        return None
    return tag("ul", *(tag("li", f"Note: {note}") for note in dict.fromkeys(notes)), class_="note")


def title_of(metric: str) -> str:
    """A metric as headings call it."""
    name, at, length = metric.partition("@")
    return f"{_NAMES.get(name, name)}{at}{length}"
