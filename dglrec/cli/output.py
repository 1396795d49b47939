"""The results that the verbs print on stdout."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from dglrec.progress import UNPRINTABLE, counted, printable

_FIGURES = ("rmse", "bias rmse", "mae", "accuracy")
_NOTES = "notes"
_SHARE = "share_of_the_way"
_TELLING = 0.005  # of a reason: less is shown as 0.00
_AS_JSON = {code: f"\\u{code:04x}" for code in UNPRINTABLE}
_OF_TABLES = ("items_without_table_row", "items_without_synopsis")
_MOST = 0.5
_BARELY = 1.05  # times the figure of popularity lists
_FEW_USERS = 20
FEW_PAIRS = 20
_LIST_FIGURES = ("coverage", "gini", "novelty", "diversity", "tail_share", "popularity_lift")


def say(text: str) -> None:
    """Print a text on stdout, as `printable`, since it may name things from files and folders."""
    print(printable(text))


def report(figures: dict[str, Any], as_json: bool) -> None:
    """Print figures by name, a line each."""
    if as_json:
        print_json(figures)
        return
    for name, value in figures.items():
        if name == _NOTES and isinstance(value, dict):
            _print_notes(value, figures.get("counts", {}))
            continue
        if isinstance(value, dict):
            value = ", ".join(f"{key} {_number(part)}" for key, part in value.items())
        say(f"{name}: {_number(value)}")


def _print_notes(counts: dict[str, Any], rows: dict[str, int]) -> None:
    """Print the counts of `prepare` that say something, a line each.

    Args:
        counts: by name.
        rows: numbers of users, items, and of the rows of each split.
    """
    for name, count in counts.items():
        # Without a table of items no item is in it.
        if count and not (name in _OF_TABLES and count == rows.get("items")):
            say(f"note: {name.replace('_', ' ')}: {_number(count)}")
    for kind in ("users", "items"):
        share = counts.get(f"test_rows_of_new_{kind}", 0) / max(rows.get("test", 0), 1)
        if share > _MOST:
            say(
                f"note: {share:.0%} of the test rows are of {kind} without training rows: figures "
                f"tell how well the model does for new {kind}"
            )


def print_json(value: dict[str, Any]) -> None:
    """Print a JSON object."""
    print(_json_of(value))


def _json_of(value: dict[str, Any]) -> str:
    """JSON on a single line, with all control characters escaped: JSON allows some of them."""
    # In encodings other than UTF-8, non-ASCII letters would not be the bytes of JSON.
    utf8 = "utf" in str(sys.stdout.encoding).lower()
    text = json.dumps(value, ensure_ascii=not utf8)
    return text.translate(_AS_JSON)


def print_results(results: dict[str, Any]) -> None:
    """Print epochs and seconds of a training, and its metrics on the test rows."""
    seconds = f"{results['training_seconds']:.0f} s"
    if "kind" in results:
        say(f"{results['kind']} fitted in {seconds}")
    else:
        epochs, best = results["epochs"], results["best_epoch"]
        chosen = f", the best was epoch {best}" if results.get("valid") else ""
        say(f"{counted(epochs, 'epoch')} in {seconds}{chosen}")
        if best == epochs and chosen:
            say("note: the best epoch was the last: a higher train.epochs may help")
    if chose := results.get("selection"):
        epochs = counted(chose["epochs"], "epoch")
        say(f"before that, {epochs} in {chose['training_seconds']:.0f} s chose that number")
    if "learned_from" in results:
        say(f"learned from {_parts(results['learned_from'])} rows")
    if "test" in results:
        print_metrics(results["test"])
        return
    say("note: there are no test rows that the model has not learned from, so nothing measures it")
    if "test" in results.get("selection", {}):
        say("the same settings, trained only on training rows:")
        print_metrics(results["selection"]["test"])


def _parts(parts: list[str]) -> str:
    """The names of a split's parts, separated by commas."""
    return ", ".join({"train": "training", "valid": "validation"}.get(part, part) for part in parts)


def print_metrics(result: dict[str, Any]) -> None:
    """Print metrics beside the baselines' on the same rows: of ratings, of lists, or of both."""
    if "rmse" in result:
        _print_rating_metrics(result)
    if "ranking_users" in result:
        title = f"lists of {result['ranking_users']:,} users with relevant {result['split']} items"
        if result.get("relevant_from"):  # of interactions every item is relevant
            title += f", rated {result['relevant_from']:g} or more"
        _print_ranking(title, result)
        _compare_lists(result)


def _compare_lists(result: dict[str, Any]) -> None:
    """Print how the model's lists compare with lists of the most popular items."""
    name = next((key for key in result if key.startswith("ndcg@")), "")
    popular = result["baselines"].get("popularity", {}).get(name, 0.0)
    if popular:
        ratio = result[name] / popular
        say(f"the model's {name} is {ratio:.2f} times that of the most popular items")
        if ratio < _BARELY:
            say("note: that is hardly better; `dglrec compare` says what may be chance, and")
            say("docs/which-model.md which other models there are")


def print_evaluation(result: dict[str, Any]) -> None:
    """Print metrics, including those of groups of rows and users."""
    for name, what in (("learned_from", "learned from"), ("history", "reads")):
        if name in result:
            say(f"the model {what} {_parts(result[name])} rows")
    print_metrics(result)
    if result.get("users_left_out"):
        say(f"new users left out, with too few ratings: {result['users_left_out']:,}")
    groups = ("new_users", "new_items", "head_items", "tail_items")
    _print_rows(
        "by training ratings of user and item",
        ("", "ratings", *_FIGURES),
        [
            [name.replace("_", " "), *_figures(result[name])]
            for name in groups
            if "rmse" in result.get(name, {})
        ],
    )
    for name, what in (
        ("new_users", "users without training items"),
        ("new_items", "users with relevant new items, of which only these count here"),
    ):
        if "ranking_users" in result.get(name, {}):
            _print_group(f"lists of {result[name]['ranking_users']:,} {what}", result[name])
    if "lists" in result:
        lists = result["lists"]
        names = [name for name in _LIST_FIGURES if name in lists]
        _print_rows(
            f"properties of lists of {lists['k']}",
            ("", *(name.replace("_", " ") for name in names)),
            [
                [row, *(_number(figures.get(name, "")) for name in names)]
                for row, figures in {"model": lists, **lists["baselines"]}.items()
            ],
        )
    if "sampled" in result:
        sampled = result["sampled"]
        _print_ranking(
            f"{sampled['pairs']:,} relevant items, each among {sampled['candidates']:,} drawn ones",
            sampled,
        )
        say(f"note: {sampled['note']}")
    if "details" in result:
        _print_details(result["details"])
    for note in result.get("notes", []):
        say(f"note: {note}")
    say("what each figure means: docs/evaluation.md")


def _print_group(title: str, figures: dict[str, Any]) -> None:
    """Print metrics of the lists of some users, if there are any hits and enough users."""
    if figures["ranking_users"] < _FEW_USERS:
        say(f"note: {title}:\ntoo few to say anything; --json has the figures")
    elif not any(figures[key] for key in figures if "@" in key):
        say(f"note: {title}:\nno list of the model holds one of them")
    else:
        _print_ranking(title, figures)


def _print_rating_metrics(result: dict[str, Any]) -> None:
    """Print metrics of predicted ratings, the model's above those of the baselines."""
    title = f"{result['n']:,} {result['split']} ratings"
    if "given" in result:
        title += f" of {result['users']:,} new users, {result['given']:,} of each given"
    names = ("rmse", "mae", "weighted_rmse", "accuracy")
    rows = {"model": result, **result["baselines"]}
    _print_rows(
        title,
        ("", *names),
        [
            [row, *(f"{metrics[name]:.4f}" for name in names)]
            for row, metrics in rows.items()
            if "rmse" in metrics
        ],
    )
    if bias := result["baselines"].get("bias", {}).get("rmse"):
        difference = 1 - result["rmse"] / bias
        than = "lower" if difference > 0 else "higher"
        say(f"the model's rmse is {abs(difference):.1%} {than} than that of the biases alone")
    if "gap_closed" in result:
        say(
            f"irreducible rmse {result['irreducible_rmse']:.4f}; "
            f"gap closed {result['gap_closed']:.1%}"
        )


def _print_ranking(title: str, result: dict[str, Any]) -> None:
    """Print `metric@K` of a model and of the baselines that rank, a line for each K and ranker."""
    keys = [key.split("@") for key in result if "@" in key and not key.startswith(_SHARE)]
    names = list(dict.fromkeys(name for name, _ in keys))
    lengths = list(dict.fromkeys(k for _, k in keys))
    rankers = {"model": result, **result["baselines"]}
    _print_rows(
        title,
        ("", "K", *(name.replace("_", " ") for name in names)),
        [
            [row, k, *(f"{metrics[f'{name}@{k}']:.4f}" for name in names)]
            for k in lengths
            for row, metrics in rankers.items()
            if f"{names[0]}@{k}" in metrics
        ],
    )
    for k in lengths:
        if f"{_SHARE}@{k}" in result:
            share = result[f"{_SHARE}@{k}"]
            say(f"way from popularity to the best possible lists of {k}: {share:.1%} (ndcg)")


def _figures(group: dict[str, Any]) -> list[str]:
    """A group's number of rows and figures, in the order of the columns."""
    bias = group["baselines"]["bias"]["rmse"]
    values = (group["rmse"], bias, group["mae"], group["accuracy"])
    return [f"{group['n']:,}", *(f"{value:.4f}" for value in values)]


def _print_details(details: dict[str, Any]) -> None:
    if "by_rating" in details:
        _print_details_of_ratings(details)
    _print_rows(
        "mean cosine between random nodes, by layer (0: before any message)",
        ("layer", "users", "items"),
        [
            [str(layer["layer"]), *(_number(layer[what]) for what in ("users", "items"))]
            for layer in details.get("by_layer", [])
        ],
    )


def _print_details_of_ratings(details: dict[str, Any]) -> None:
    if "calibration" in details:
        found = details["calibration"]
        _print_rows(
            f"calibration, expected error {found['expected_calibration_error']:.4f}",
            ("predictions", "ratings", "mean prediction", "mean rating", "rmse"),
            [
                [
                    f"{row['lowest']:.2f} to {row['highest']:.2f}",
                    f"{row['n']:,}",
                    *(f"{row[key]:.4f}" for key in ("mean_prediction", "mean_rating", "rmse")),
                ]
                for row in found["groups"]
            ],
        )
    for key, what in (("by_user_activity", "users"), ("by_item_popularity", "items")):
        _print_rows(
            f"by training ratings of the {what.removesuffix('s')}",
            ("training ratings", what, "ratings", *_FIGURES, "mean error"),
            [
                [
                    row["training_ratings"],
                    f"{row[what]:,}",
                    *_figures(row),
                    f"{row['mean_error']:+.4f}",
                ]
                for row in details[key]
            ],
        )
    _print_rows(
        "by rating",
        ("rating", "ratings", "mean prediction", "rmse"),
        [
            [
                f"{row['rating']:g}",
                f"{row['n']:,}",
                *(f"{row[name]:.4f}" for name in ("mean_prediction", "rmse")),
            ]
            for row in details["by_rating"]
        ],
    )
    _print_rows(
        "by time since the user's last training rating, as timestamps count it",
        ("age", "ratings", *_FIGURES, "mean error"),
        [
            [
                f"{row['from']:,} to {row['to']:,}",
                *_figures(row),
                f"{row['mean_error']:+.4f}",
            ]
            for row in details.get("by_age", [])
        ],
    )


def _print_rows(title: str, columns: Sequence[str], rows: list[list[str]]) -> None:
    """Print a table of figures; nothing if there are no rows."""
    if not rows:
        return
    table = Table(title=printable(title))
    for number, name in enumerate(columns):
        table.add_column(name, justify="right" if number else "left")
    for row in rows:
        add_row(table, *row)
    print_table(table)


def print_pairs(folder: Path) -> None:
    """Print the scores of a few pairs; of many, nothing: they are read from the folder's files."""
    import pyarrow.dataset as parts

    scores = parts.dataset(folder, format="parquet")
    if scores.count_rows() <= FEW_PAIRS:
        rows = [list(row.values()) for row in scores.to_table().to_pylist()]
        shown = [["" if value is None else _number(value) for value in row] for row in rows]
        _print_rows("predicted", scores.schema.names, shown)


def print_comparison(result: dict[str, Any]) -> None:
    """Print the figures of runs with their intervals, and the differences between each pair."""
    metrics = result["metrics"]
    level = f"{100 * result['level']:g} % intervals"
    what = (
        f"lists of {result['users']:,} users with relevant {result['split']} items"
        if result.get("ranking")
        else f"{result['rows']:,} {result['split']} ratings of {result['users']:,} users"
    )
    table = Table(title=f"{what}, {level}")
    table.add_column("")
    table.add_column("runs", justify="right")
    for name in metrics:
        table.add_column(name)
    for run in result["runs"]:
        cells = (f"{run[name]['value']:.4f} {_interval(run[name])}".rstrip() for name in metrics)
        add_row(table, run["name"], str(run["runs"]), *cells)
    print_table(table)
    table = Table(title=f"Paired differences, {level}")
    for name in ("", "metric", "value", "interval", "p (Holm)", "percent", "d_z"):
        table.add_column(name, justify="left" if name in ("", "metric", "interval") else "right")
    for pair in result["differences"]:
        # Each run's name has a line to itself: names can be long.
        for name, title in zip(metrics, (pair["a"], f"- {pair['b']}", ""), strict=True):
            found = pair[name]
            includes = found["low"] is not None and found["low"] <= 0 <= found["high"]
            whole = (pair["percent"], pair["d_z"]) if name == metrics[0] else (None, None)
            add_row(
                table,
                title,
                name,
                f"{found['value']:+.4f}",
                _interval(found, "+") + (" (includes 0)" if includes else ""),
                "" if found["p_holm"] is None else f"{found['p_holm']:.4f}",
                *("" if value is None else f"{value:+.2f}" for value in whole),
                end_section=name == metrics[-1],
            )
    print_table(table)
    for note in result["notes"]:
        say(f"note: {note}")


def print_study(result: dict[str, Any]) -> None:
    """Print a study's table: figures, then each variant's difference from the reference."""
    level = f"{100 * result['level']:g} % intervals"
    metrics = result["metrics"]
    table = Table(title=printable(f"{result['title']}: {result['split']} rows, {level}"))
    table.add_column("")
    for name in ("runs", *metrics):
        table.add_column(name, justify="right" if name == "runs" else "left")
    for row in result["variants"]:
        figures = (f"{row[name]['value']:.4f} {_interval(row[name])}".rstrip() for name in metrics)
        add_row(table, row["name"], str(row["runs"]), *figures)
    print_table(table)
    leading = "RMSE" if metrics[0] == "rmse" else metrics[0]
    table = Table(title=f"{leading} against {result['reference']}, {level}")
    beside = ("valid", result["baseline"], "seconds")
    for name in ("", "percent", "interval", "includes 0", "p (Holm)", *beside):
        table.add_column(
            name, justify="left" if name in ("", "interval", "includes 0") else "right"
        )
    for row in result["variants"]:
        apart = row["difference"]
        cells = ["", "", "", ""]
        if apart is not None:
            percent, low, high = (apart["percent"][name] for name in ("value", "low", "high"))
            cells = [
                "" if percent is None else f"{percent:+.2f}",
                "" if low is None else f"[{low:+.2f}, {high:+.2f}]",
                {True: "yes", False: "no", None: ""}[apart["includes_0"]],
                "" if apart["p_holm"] is None else f"{apart['p_holm']:.4f}",
            ]
        cells += ["" if row[key] is None else f"{row[key]:.4f}" for key in ("valid", "baseline")]
        add_row(table, row["name"], *cells, f"{row['training_seconds']:.1f}")
    print_table(table)
    for note in result["notes"]:
        say(f"note: {note}")


def _interval(found: dict[str, Any], sign: str = "") -> str:
    if found["low"] is None:
        return ""
    return f"[{found['low']:{sign}.4f}, {found['high']:{sign}.4f}]"


def print_recommendations(found: list[Any]) -> None:
    """Print items with rank, title, score and predicted rating."""
    if not found:
        say("nothing left to recommend: every item is rated")
        return
    table = Table()
    table.add_column("rank", justify="right")
    table.add_column("item", justify="right")
    table.add_column("title")
    table.add_column("score", justify="right")
    rated = any(item.rating is not None for item in found)
    if rated:
        table.add_column("rating", justify="right")
    explained = any(item.because or item.relations for item in found)
    if explained:
        table.add_column("because of")
    for item in found:
        reasons = [_reason(reason) for reason in item.because]
        reasons += [f"{told.text} (+{told.contribution:.2f})" for told in item.relations or ()]
        cells = [str(item.rank), str(item.item_id), item.title, f"{item.score:.2f}"]
        cells += [_rating(item)] if item.rating is not None else []
        cells += ["\n".join(" ".join(text.split()) for text in reasons)] if explained else []
        add_row(table, *cells)
    print_table(table)
    most = max((abs(reason.contribution) for item in found for reason in item.because), default=1.0)
    if most < _TELLING:
        say(
            "note: no single rated item moves a score by 0.01: so many share the weight that these "
            "reasons mean little"
        )


def _rating(recommendation: Any) -> str:
    """A predicted rating clipped to the scale; if it was beyond, also the prediction itself."""
    rating = f"{recommendation.rating:.2f}"
    beyond = recommendation.predicted is not None and f"{recommendation.predicted:.2f}" != rating
    return f"{rating} ({recommendation.predicted:.2f})" if beyond else rating


def _reason(reason: Any) -> str:
    """A rated item with its rating and its contribution."""
    rated = "" if reason.rating is None else f", rated {reason.rating:g}"
    return f"{reason.title}{rated} (+{reason.contribution:.2f})"


def add_row(table: Table, *cells: str, end_section: bool = False) -> None:
    """Add a row to a table, its cells as `printable`."""
    table.add_row(*map(printable, cells), end_section=end_section)


def print_table(table: Table) -> None:
    """Print a table; 100 characters wide if stdout is no terminal."""
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=100)
    console.print(table)


def _number(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
