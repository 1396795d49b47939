"""The verbs about many runs: study trains a declared grid, report writes a page."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dglrec.cli.options import (
    FOLDER_OR_FILE,
    option_dataset,
    option_device,
    option_json,
    option_overwrite,
)
from dglrec.cli.output import print_json, print_study, say
from dglrec.cli.output import report as print_figures
from dglrec.cli.verbs import cli
from dglrec.errors import UsageError
from dglrec.interrupts import outlive_terminal

if TYPE_CHECKING:
    from dglrec.study import Study


@cli.command()
@click.argument("study", required=False)
@click.argument("source", type=FOLDER_OR_FILE, required=False)
@click.argument("out", type=FOLDER_OR_FILE, required=False)
@click.option("--only", multiple=True, metavar="VARIANT", help="Train this variant; repeatable.")
@click.option("--seeds", metavar="N,N,...", help="Train with these seeds, not the study's.")
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="One setting for all variants that do not set it; repeatable.",
)
@click.option(
    "--ranking",
    type=int,
    metavar="K",
    help="A table of lists of K items, in place of predicted ratings; no run is trained anew.",
)
@click.option(
    "--at-most",
    type=click.IntRange(min=0),
    metavar="N",
    help="A table of users with at most N training ratings; no run is trained anew.",
)
@click.option("--list", "listed", is_flag=True, help="Print the variants of STUDY, and stop.")
@option_device
@option_json
def study(
    study: str | None,
    source: Path | None,
    out: Path | None,
    only: tuple[str, ...],
    seeds: str | None,
    assignments: tuple[str, ...],
    ranking: int | None,
    at_most: int | None,
    listed: bool,
    device: str,
    as_json: bool,
) -> None:
    """Train the variants of STUDY, each with several seeds, and leave a table in OUT.

    STUDY is `ablation`, `architectures`, `baselines`, `hybrid`, `lists`, `new_items`, `relations`,
    `samplers`, `scaling` or a TOML file. SOURCE is a prepared data set, or a source for `prepare`.
    The same command, given again, continues where it was stopped, and trains what was added. Only
    the `best` checkpoint of each run in OUT is kept. The table is of predicted ratings if all
    variants have some, and else of lists of 10.

    \b
    Examples:
      dglrec study ablation --list
      dglrec study ablation data ablation-out
      dglrec study ablation data ablation-out --only default --only no_graph --seeds 0,1
      dglrec study ablation data ablation-out --ranking 10
      dglrec study relations data relations-out --at-most 10
      dglrec study scaling ml-100k/ scaling-out --set prepare.seed=42
    """
    from dglrec.study import read_study, run_study, shipped_studies

    if study is None:
        if not listed:
            raise click.UsageError("Missing arguments STUDY, SOURCE and OUT.")
        _print_list([read_study(name) for name in shipped_studies()], as_json)
        return
    declared = read_study(study, assignments=assignments, environment=os.environ)
    if listed:
        _print_list([declared], as_json)
        return
    if source is None or out is None:
        raise click.UsageError("Missing arguments SOURCE and OUT.")
    from dglrec.distributed import choose_device

    outlive_terminal()
    result = run_study(
        declared,
        source,
        out,
        only=only,
        seeds=None if seeds is None else _parse_seeds(seeds),
        ranking=ranking,
        at_most=at_most,
        device=choose_device(device),
    )
    if as_json:
        print_json(result)
    else:
        print_study(result)


def _parse_seeds(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(f"--seeds {text}: write whole numbers, like 0,1,2") from error


def _print_list(studies: list["Study"], as_json: bool) -> None:
    found: list[dict[str, Any]] = [
        {
            "study": declared.name,
            "title": declared.title,
            "reference": declared.reference,
            "seeds": list(declared.seeds),
            "variants": {
                variant.name: variant.description for variant in declared.variants.values()
            },
        }
        for declared in studies
    ]
    if as_json:
        print_json({"studies": found})
        return
    for shown in found:
        seeds = ", ".join(map(str, shown["seeds"]))
        say(f"{shown['study']}: {shown['title']} (seeds {seeds})")
        width = max(map(len, shown["variants"]))
        for name, description in shown["variants"].items():
            mark = "; the reference" if name == shown["reference"] else ""
            say(f"  {name:{width}}  {description}{mark}")


@cli.command()
@click.argument("sources", metavar="SOURCE...", nargs=-1, type=FOLDER_OR_FILE, required=True)
@click.argument("out", metavar="OUT.html", type=FOLDER_OR_FILE)
@click.option("--split", type=click.Choice(["test", "valid"]), default="test", show_default=True)
@option_dataset
@option_device
@option_overwrite
@option_json
def report(
    sources: tuple[Path, ...],
    out: Path,
    split: str,
    dataset: Path | None,
    device: str,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write a page about runs, side by side, or about results, to look at in a browser.

    Of runs: curves of training, metrics beside baselines with intervals, calibration, errors by
    activity and popularity, properties of lists, a map of items, some users' lists, costs,
    settings, data card and model card. Runs must have the same held-out rows.

    A SOURCE may also be the folder of a study or of a search of tune, or a file with the JSON of
    compare, of study or of a benchmark. Its content says what it is; all of a page are of one kind.
    --split, --dataset and --device are for runs alone. The page needs no network.

    \b
    Examples:
      dglrec report run report.html
      dglrec report run other-run report.html --overwrite
      dglrec report ablation-out ablation.html
      dglrec report search search.html
      dglrec compare run other-run --json > comparison.json
      dglrec report comparison.json comparison.html
      dglrec report train.json other-machine.json benchmark.html
    """
    from dglrec.distributed import choose_device
    from dglrec.report import write_report

    result = write_report(
        sources,
        out,
        split=split,
        overwrite=overwrite,
        dataset=dataset,
        device=choose_device(device),
    )
    print_figures(result, as_json)
