"""What the verbs print on stdout."""

import json
from typing import Any

import click
from rich.console import Console
from rich.table import Table


def report(figures: dict[str, Any], as_json: bool) -> None:
    """Print figures by name, one a line."""
    if as_json:
        print_json(figures)
        return
    for name, value in figures.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {_number(part)}" for key, part in value.items())
        click.echo(f"{name}: {_number(value)}")


def print_json(value: dict[str, Any]) -> None:
    """Print one JSON object."""
    click.echo(json.dumps(value, ensure_ascii=False))


def print_results(results: dict[str, Any]) -> None:
    """Print how training went, and its metrics on the test rows."""
    click.echo(
        f"{results['epochs']} epochs in {results['training_seconds']:.0f} s, "
        f"the best was epoch {results['best_epoch']}"
    )
    print_metrics(results["test"])


def print_metrics(result: dict[str, Any]) -> None:
    """Print metrics beside the baselines' on the same rows."""
    table = Table(title=f"{result['n']:,} {result['split']} ratings")
    table.add_column("")
    names = ("rmse", "mae", "weighted_rmse", "accuracy")
    for name in names:
        table.add_column(name, justify="right")
    rows = {"model": result, **result["baselines"]}
    for row, metrics in rows.items():
        table.add_row(row, *(f"{metrics[name]:.4f}" for name in names))
    _print_table(table)
    if "gap_closed" in result:
        click.echo(
            f"irreducible rmse {result['irreducible_rmse']:.4f}; "
            f"gap closed {result['gap_closed']:.1%}"
        )
    for name, value in result.items():
        if "@" in name or name in ("ranking_users", "relevant_from"):
            click.echo(f"{name}: {_number(value)}")


def print_comparison(result: dict[str, Any]) -> None:
    """Print figures of runs with their intervals, and the differences between each two."""
    metrics = ("rmse", "mae", "accuracy")
    level = f"{100 * result['level']:g} % intervals"
    table = Table(
        title=f"{result['rows']:,} {result['split']} ratings of {result['users']:,} users, {level}"
    )
    table.add_column("")
    table.add_column("runs", justify="right")
    for name in metrics:
        table.add_column(name)
    for run in result["runs"]:
        cells = (f"{run[name]['value']:.4f} {_interval(run[name])}".rstrip() for name in metrics)
        table.add_row(run["name"], str(run["runs"]), *cells)
    _print_table(table)
    table = Table(title=f"Paired differences, {level}")
    for name in ("", "metric", "value", "interval", "p (Holm)", "percent", "d_z"):
        table.add_column(name, justify="left" if name in ("", "metric", "interval") else "right")
    for pair in result["differences"]:
        # One name a line: runs have long ones.
        for name, title in zip(metrics, (pair["a"], f"- {pair['b']}", ""), strict=True):
            found = pair[name]
            includes = found["low"] is not None and found["low"] <= 0 <= found["high"]
            whole = (pair["rmse_percent"], pair["d_z"]) if name == "rmse" else (None, None)
            table.add_row(
                title,
                name,
                f"{found['value']:+.4f}",
                _interval(found, "+") + (" (includes 0)" if includes else ""),
                "" if found["p_holm"] is None else f"{found['p_holm']:.4f}",
                *("" if value is None else f"{value:+.2f}" for value in whole),
                end_section=name == metrics[-1],
            )
    _print_table(table)
    for note in result["notes"]:
        click.echo(f"note: {note}")


def _interval(found: dict[str, Any], sign: str = "") -> str:
    if found["low"] is None:
        return ""
    return f"[{found['low']:{sign}.4f}, {found['high']:{sign}.4f}]"


def print_recommendations(found: list[Any]) -> None:
    """Print items with rank, title and score."""
    if not found:
        click.echo("nothing left to recommend: every item is rated")
        return
    table = Table()
    table.add_column("rank", justify="right")
    table.add_column("item", justify="right")
    table.add_column("title")
    table.add_column("score", justify="right")
    explained = any(one.because for one in found)
    if explained:
        table.add_column("because of")
    for one in found:
        reasons = (f"{reason.title} (+{reason.contribution:.2f})" for reason in one.because)
        cells = [str(one.rank), str(one.item_id), one.title, f"{one.score:.2f}"]
        table.add_row(*cells, *(["\n".join(reasons)] if explained else []))
    _print_table(table)


def _print_table(table: Table) -> None:
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
