"""What there is to read beside figures: maps, examples, costs, settings, data card, model card."""

from collections.abc import Sequence
from typing import Any

from dglrec.report.chart import map_figure
from dglrec.report.examples import Example
from dglrec.report.html import Html, details, join, number, table, tag
from dglrec.report.measure import Measured, Together, flat
from dglrec.report.sections import curve, grid, note_list, section

_LIMITS = (
    "Figures are of held-out rows of this data set, split as the data card says. They do not say "
    "what people would do who were shown these lists.",
    "Where rows are split by chance, the model may have learned from later rows than those it is "
    "measured on.",
    "Who rates much, and what is rated much, counts more in means over rows; the section on "
    "activity and popularity says how the error depends on it.",
    "Predictions follow the ratings that were collected, with whatever bias these have. Nothing "
    "here looks at groups of people.",
)

_MEMORY = {
    "most memory of a process": "peak_memory_bytes",
    "most memory on its GPU": "peak_gpu_memory_bytes",
}


def maps(together: Together) -> Html:
    """Where items stand, of each graph model."""
    shown = []
    for run in together.runs:
        found = run.item_map
        if found is None or not found.points:
            continue
        first, second = (f"{100 * share:.0f} %" for share in found.explained)
        note = (
            f"The first two principal components of the items' embeddings, {first} and {second} of "
            f"their variance. {len(found.points):,} of {found.items:,} items, the most rated."
        )
        if found.attribute:
            note += f" Colours: {found.attribute}; an item with several has its rarest."
        title = f"Items of {run.name}"
        shown.append(
            map_figure(title, found.points, found.groups, weight="training ratings", note=note)
        )
    without = [run.name for run in together.runs if run.item_map is None]
    said = f"No embeddings, and so no map: {', '.join(without)}." if without else None
    return section("Item map", "map", grid(shown, "wide"), said and tag("p", said))


def examples(together: Together) -> Html:
    """Some users' histories beside their lists."""
    parts: list[Any] = []
    first = together.runs[0]
    for place, one in enumerate(first.examples):
        name = f"User {one.user}, {one.rated:,} training ratings"
        shown = [_history(one)]
        shown += [_listed(run.name, run.examples[place]) for run in together.runs]
        parts += [tag("h3", name), grid(shown)]
    if not parts:
        parts.append(tag("p", "No user with held-out rows has a training rating."))
    notes = [f"{run.name}: {note}" for run in together.runs for note in run.notes]
    said = (
        "Users with little, middling and much activity among those with held-out rows. Lists leave "
        "out all that a user has rated. Below an item: what the score would lose without a rating."
    )
    return section("Histories and lists", "examples", tag("p", said), *parts, note_list(notes))


def _history(example: Example) -> Html:
    if all(rating is None for _, rating in example.history):
        return table("In training", ("item",), [(title,) for title, _ in example.history])
    rows = [(title, f"{rating:g}") for title, rating in example.history]
    return table("Best rated in training", ("item", "rating"), rows)


def _listed(run: str, example: Example) -> Html:
    rated = any(one.rating is not None for one in example.listed)
    rows = [
        [
            join((one.title, _reasons(one))),
            f"{one.score:.3f}",
            *([number(one.rating)] if rated else []),
        ]
        for one in example.listed
    ]
    columns = ("item", "score", "predicted rating") if rated else ("item", "score")
    return table(f"List of {run}", columns, rows)


def _reasons(one: Any) -> Html | None:
    said = [f"{reason.title} ({reason.contribution:+.3f})" for reason in one.because]
    said += [f"{reason.text} ({reason.contribution:+.3f})" for reason in one.relations or ()]
    return tag("span", f"because of {'; '.join(said)}", class_="reason") if said else None


def costs(together: Together) -> Html:
    """Time, throughput and memory of training, as far as the runs say."""
    rows: list[list[Any]] = []
    of_each = [_costs(run) for run in together.runs]
    for name in dict.fromkeys(name for found in of_each for name in found):
        rows.append([name, *(found.get(name, "") for found in of_each)])
    columns = ("entry", *(run.name for run in together.runs))
    made = table("Training: time, throughput, memory and machine", columns, rows)
    silent = [run.name for run in together.runs if "peak_memory_bytes" not in run.kept.results]
    note = f"Memory was not recorded by: {', '.join(silent)}." if silent else None
    curves = curve(together.runs, "Training ratings a second", (("ratings_per_second", ""),))
    return section(
        "Throughput and memory", "costs", made, note and tag("p", note, class_="note"),
        grid(list(curves)),
    )  # fmt: skip


def _costs(run: Measured) -> dict[str, str]:
    results, epochs = run.kept.results, run.kept.results.get("epochs")
    seconds = float(results.get("training_seconds") or 0.0)
    found = {"training seconds": f"{seconds:,.1f}"}
    if epochs and seconds and run.kind == "graph":
        counts = run.data["counts"]
        read = sum(counts.get(part, 0) for part in run.figures.get("learned_from", ["train"]))
        found |= {
            "epochs": f"{epochs:,}",
            "seconds an epoch, validation included": f"{seconds / epochs:,.1f}",
            "training ratings a second": f"{read * epochs / seconds:,.0f}",
        }
    memory = {name: _bytes(results[key]) for name, key in _MEMORY.items() if key in results}
    return found | memory | {key: str(value) for key, value in flat(run.kept.environment)}


def _bytes(count: Any) -> str:
    """A number of bytes as the page shows it; what is none as it is."""
    if not isinstance(count, int):
        return str(count)
    return f"{count / 1e9:,.2f} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"


def settings(together: Together) -> Html:
    """What runs were trained with; what differs among them comes first."""
    of_each = [run.kept.settings for run in together.runs]
    names = list(dict.fromkeys(name for found in of_each for name in found))
    columns = ("setting", *(run.name for run in together.runs))

    def rows(chosen: Sequence[str]) -> list[list[str]]:
        return [[name, *(_setting(found.get(name)) for found in of_each)] for name in chosen]

    apart = [name for name in names if len({str(found.get(name)) for found in of_each}) > 1]
    shown = table("Settings that differ", columns, rows(apart)) if apart else None
    every = details("All settings", table("All settings", columns, rows(names)))
    return section("Configuration", "settings", shown, every)


def _setting(value: Any) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def data_card(together: Together) -> Html:
    """What the runs' data sets say of themselves."""
    shown: list[Html] = []
    seen: list[dict[str, Any]] = []
    for run in together.runs:
        data = {key: value for key, value in run.data.items() if key != "sources"}
        if data in seen:
            continue
        seen.append(data)
        rows = [(name, _setting(value)) for name, value in flat(data)]
        for source in run.data["sources"]:
            rows.append((f"source {source.get('file')}", f"SHA-256 {source.get('sha256')}"))
        shown.append(table(f"Data set of {run.name}", ("entry", "value"), rows, words=2))
    return section("Data card", "data", *shown)


def model_card(together: Together) -> Html:
    """What the models are, what they are for, and where they end."""
    rows = []
    for run in together.runs:
        learned = ", ".join(run.figures.get("learned_from", ["train"]))
        size = f"{run.parameters:,}" if run.parameters else "closed form"
        version = str(run.kept.environment.get("dglrec", ""))
        rows.append((run.name, run.kind, size, learned, version))
    columns = ("run", "kind", "parameters", "learned from", "dglrec")
    notes = [
        f"{run.name}: {note}" for run in together.runs for note in run.figures.get("notes", [])
    ]
    rated = any("rmse" in run.figures for run in together.runs)
    use = "Lists of items for users of the same catalogue, made offline"
    use += ", and predicted ratings of pairs of user and item" if rated else ""
    return section(
        "Model card", "model", table("Models", columns, rows, words=5),
        tag("h3", "Intended use"), tag("p", f"{use}."),
        tag("h3", "Limits"), tag("ul", *(tag("li", limit) for limit in _LIMITS)),
        note_list(notes),
    )  # fmt: skip
