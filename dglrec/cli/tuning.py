"""The verb that searches for settings: tune."""

import os
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from dglrec.cli.options import FOLDER_OR_FILE, option_device, option_json
from dglrec.cli.output import add_row, print_json, print_table, say
from dglrec.cli.verbs import cli
from dglrec.progress import printable

_MOST_SHOWN = 10


@cli.command()
@click.argument("space")
@click.argument("dataset", type=FOLDER_OR_FILE)
@click.argument("out", type=FOLDER_OR_FILE)
@click.option(
    "--trials",
    type=click.IntRange(min=1),
    default=30,
    show_default=True,
    metavar="N",
    help="How many trials OUT is to have, counting those of earlier calls and other processes.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    metavar="S",
    help="Seconds after which no other trial is begun; the current trial is finished.",
)
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="One setting for all trials, which is then not searched; repeatable.",
)
@option_device
@option_json
def tune(
    space: str,
    dataset: Path,
    out: Path,
    trials: int,
    timeout: float | None,
    assignments: tuple[str, ...],
    device: str,
    as_json: bool,
) -> None:
    """Search SPACE for settings that are the best on DATASET's validation rows.

    SPACE is `ratings`, `lists` or a TOML file. OUT gets a table of the trials, best first, and
    best.toml for `train --config`. No test row is read. The same command, given again, continues
    where it was stopped; if it runs several times at once, the processes share the trials. Needs
    Optuna: pip install 'dglrec[tune]'.

    \b
    Examples:
      dglrec tune ratings data search
      dglrec tune lists data search --trials 50 --set train.epochs=20
      dglrec tune mine.toml data search --timeout 3600
      dglrec train data run --config search/best.toml
    """
    from dglrec.distributed import choose_device
    from dglrec.tune import read_space, run_tuning

    declared = read_space(space, assignments=assignments, environment=os.environ)
    result = run_tuning(
        declared, dataset, out, trials=trials, timeout=timeout, device=choose_device(device)
    )
    if as_json:
        print_json(result)
    else:
        _print_tuning(result, out)


def _print_tuning(result: dict[str, Any], out: Path) -> None:
    """Print the first trials, and the settings that differ between them."""
    keys = list(result["slices"])
    table = Table(title=printable(f"{result['title']}: validation rows, best first"))
    for name in ("trial", result["metric"], "state", "epochs", "seconds"):
        table.add_column(name, justify="left" if name == "state" else "right")
    table.add_column("settings")
    for row in result["trials"][:_MOST_SHOWN]:
        add_row(
            table,
            str(row["trial"]),
            "" if row["value"] is None else f"{row['value']:.4f}",
            row["state"],
            "" if row["epochs"] is None else str(row["epochs"]),
            "" if row["seconds"] is None else f"{row['seconds']:.1f}",
            ", ".join(
                f"{key}={_short(row['parameters'][key])}"
                for key in keys
                if key in row["parameters"]
            ),
        )
    print_table(table)
    if len(result["trials"]) > _MOST_SHOWN:
        say(f"{len(result['trials']) - _MOST_SHOWN} more in {out / 'results.md'}")
    if result["importances"]:
        shares = ", ".join(f"{key} {share:.2f}" for key, share in result["importances"].items())
        say(f"share of the variance: {shares}")
    for note in result["notes"]:
        say(f"note: {note}")
    if result["best"] is not None:
        say(f"best settings: {out / 'best.toml'}, for train --config")


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
