"""The verb that compares runs: compare."""

from pathlib import Path

import click

from dglrec.cli.options import FOLDER_OR_FILE, SEED, option_device, option_json
from dglrec.cli.output import print_comparison, print_json
from dglrec.cli.verbs import cli
from dglrec.errors import UsageError

_FORM = "write RUN, or NAME=RUN,RUN,..."


@cli.command()
@click.argument("runs", metavar="RUN RUN...", nargs=-1)
@click.option("--split", type=click.Choice(["test", "valid"]), default="test", show_default=True)
@click.option(
    "--ranking",
    type=int,
    metavar="K",
    help="Compare lists of K items, in place of predicted ratings; 10 if the first run predicts "
    "none.",
)
@click.option("--relevant-from", type=float, help="With --ranking: the least relevant rating.")
@click.option(
    "--bootstrap",
    type=int,
    default=2_000,
    show_default=True,
    metavar="B",
    help="How often users are redrawn.",
)
@click.option(
    "--level",
    type=float,
    default=0.95,
    show_default=True,
    help="Confidence of the intervals.",
)
@click.option("--seed", type=SEED, default=0, show_default=True, help="Seed of the redrawing.")
@click.option(
    "--dataset",
    type=FOLDER_OR_FILE,
    help="Where the data set is now, for runs whose data set was moved.",
)
@option_device
@option_json
def compare(
    runs: tuple[str, ...],
    split: str,
    ranking: int | None,
    relevant_from: float | None,
    bootstrap: int,
    level: float,
    seed: int,
    dataset: Path | None,
    device: str,
    as_json: bool,
) -> None:
    """Measure runs on the same held-out rows, with intervals and paired differences.

    Runs are compared by their predicted ratings, or by their lists.

    NAME=RUN,RUN,... in place of RUN takes several runs of one configuration, trained with different
    seeds, as one: its figures are the means over them. Data sets may differ in all but the rows.
    Users are redrawn to tell a difference from chance; p-values are Holm's over all pairs.

    \b
    Examples:
      dglrec compare run other-run
      dglrec compare run other-run --ranking 10
      dglrec compare run other-run third-run --split valid --json
      dglrec compare text=text-1,text-2,text-3 none=none-1,none-2,none-3
    """
    from dglrec.compare import compare_runs
    from dglrec.distributed import choose_device

    result = compare_runs(
        _parse_groups(runs),
        split,
        ranking=ranking,
        relevant_from=relevant_from,
        draws=bootstrap,
        level=level,
        seed=seed,
        dataset=dataset,
        device=choose_device(device),
    )
    if as_json:
        print_json(result)
    else:
        print_comparison(result)


def _parse_groups(arguments: tuple[str, ...]) -> dict[str, list[Path]]:
    """Runs by name; a run without a name is named as it is given."""
    groups: dict[str, list[Path]] = {}
    for argument in arguments:
        name, equals, listed = argument.partition("=")
        # A folder may be named lr=0.02.
        if Path(argument).is_dir() or not equals:
            if not Path(argument).is_dir() and "," in argument:
                raise UsageError(f"{argument}: several runs need a name; {_FORM}")
            name, runs = argument, [argument]
        else:
            runs = listed.split(",")
        if not name or not all(runs):
            raise UsageError(f"{argument or repr(argument)}: a name or a run is missing; {_FORM}")
        if name in groups:
            raise UsageError(f"{name}: given twice; give each run once, and each name")
        groups[name] = [Path(run) for run in runs]
    return groups
