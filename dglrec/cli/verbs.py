"""The verbs; each of them parses, calls a function, and prints.

Results go to stdout, progress and logs to stderr. Heavy imports are inside the verbs, so that
`--help` is fast and `doctor` works where torch or DGL does not.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import click

from dglrec import __version__
from dglrec.cli.options import (
    FOLDER_OR_FILE,
    PLACE,
    SEED,
    diversity_of,
    opened_predictor,
    option_dataset,
    option_device,
    option_diverse,
    option_json,
    option_order,
    option_overwrite,
    option_timeout,
    parse_lengths,
)
from dglrec.cli.output import (
    print_evaluation,
    print_json,
    print_recommendations,
    print_results,
    report,
    say,
)
from dglrec.errors import DataError
from dglrec.interrupts import outlive_terminal
from dglrec.places import Place

# Verbs that several processes can run, together or each for itself; the others need a single one.
_SHARED = ("train", "evaluate", "score", "doctor")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="dglrec")
@click.option("--debug", is_flag=True, help="Show a traceback with an error.")
@click.option("--quiet", is_flag=True, help="Only errors on stderr, and no progress.")
@click.option("--log-file", metavar="FILE", help="Also add messages to FILE, with times.")
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    help="Messages as text, or as JSON: a line of time, level and message.",
)
def cli(**common: Any) -> None:
    """Train graph neural networks that predict ratings, and recommend with them.

    \b
    A first look:         dglrec quickstart
    With your ratings:    dglrec prepare ratings.csv data
                          dglrec train data run
                          dglrec evaluate run
                          dglrec recommend run --user 42
    """
    del common  # read by main(), from anywhere on the line
    verb = click.get_current_context().invoked_subcommand
    if os.environ.get("WORLD_SIZE", "1") != "1" and verb not in _SHARED:
        from dglrec.distributed import check_one_process

        check_one_process(os.environ, str(verb))


@cli.command()
@click.argument("folder", type=PLACE, required=False)
@option_json
def doctor(folder: Place | None, as_json: bool) -> None:
    """Check versions, DGL, torch, devices, memory and the text model; or the content of FOLDER.

    Each thing that is wrong comes with its mend. Exits 4 where dglrec cannot work. With FOLDER, a
    prepared data set, a run, scores or an export, every byte is compared with its checksum; exits 3
    if something is damaged. Scores and exports may be at a URI.

    \b
    Examples:
      dglrec doctor
      dglrec doctor data
    """
    from dataclasses import asdict

    if folder is None:
        from dglrec.doctor import examine

        checks = examine()
    else:
        from dglrec.verify import verify

        checks = verify(folder)
    if as_json:
        print_json({"checks": [asdict(check) for check in checks]})
    else:
        for check in checks:
            say(f"{check.level:8} {check.name}: {check.found}")
            if check.mend:
                say(f"{'':8} mend: {check.mend}")
    if not all(check.ok for check in checks):
        sys.exit(4 if folder is None else DataError.exit_code)


@cli.command()
@click.argument("out", type=FOLDER_OR_FILE)
@click.option("--users", type=int, default=2_500, show_default=True)
@click.option("--items", type=int, default=600, show_default=True)
@click.option("--ratings", type=int, default=400_000, show_default=True)
@click.option("--seed", type=SEED, default=0, show_default=True)
@click.option(
    "--trust", type=int, metavar="N", help="Write trust.csv: N edges within circles of users."
)
@click.option(
    "--homophily",
    type=float,
    metavar="S",
    help="Share of users' tastes and biases that a circle has in common; default: 0.5.",
)
@click.option("--user-attributes", is_flag=True, help="Write users.csv: age, gender, occupation.")
@click.option(
    "--attribute-effect",
    type=float,
    metavar="S",
    help="Share of tastes and biases that follows from age and occupation; default: 0.5.",
)
@click.option("--studios", is_flag=True, help="Write items.csv: the studio of each item.")
@click.option(
    "--studio-effect",
    type=float,
    metavar="S",
    help="Share of items' tastes and biases that follows from the studio; default: 0.5.",
)
@click.option("--timestamps", is_flag=True, help="Give ratings a column timestamp: five years.")
@click.option(
    "--drift",
    type=float,
    metavar="S",
    help="Let tastes turn by S quarter turns in the five years; with timestamps.",
)
@click.option("--sessions", is_flag=True, help="Let ratings come in sessions; with timestamps.")
@click.option(
    "--transitions",
    type=float,
    metavar="S",
    help="Probability that the last item of a session decides the next; default: 0.5.",
)
@option_overwrite
@option_json
def synth(
    out: Path,
    users: int,
    items: int,
    ratings: int,
    seed: int,
    overwrite: bool,
    as_json: bool,
    **planting: Any,
) -> None:
    """Write a generated data set in the layout of the Anime Recommendation Database 2020.

    The ratings come from a planted model; truth.json says how well they can be predicted at best.
    More can be planted: what users who trust each other have in common, what follows from age and
    occupation or from an item's studio, tastes that change, items that follow each other.
    truth.json says how much each is worth. With a strength of 0 the file or the column is there,
    and has no effect.

    \b
    Examples:
      dglrec synth source --users 5000 --items 1000 --ratings 500000
      dglrec synth source --trust 30000 --homophily 0.8
      dglrec synth source --drift 1
    """
    from dglrec.synthetic import Planting, synthesize

    truth = synthesize(
        out,
        users=users,
        items=items,
        ratings=ratings,
        seed=seed,
        planting=Planting(**planting),
        overwrite=overwrite,
    )
    report(
        {
            "out": str(out),
            "users": truth.users,
            "items": truth.items,
            "ratings": truth.ratings,
            "irreducible_rmse": truth.irreducible_rmse,
            "bias_rmse": truth.bias_rmse,
            **({} if truth.planted is None else {"planted": truth.planted}),
        },
        as_json,
    )


@cli.command()
@click.argument("dataset", type=FOLDER_OR_FILE, required=False)
@click.argument("run", type=FOLDER_OR_FILE, required=False)
@click.option(
    "--config",
    "config_file",
    type=FOLDER_OR_FILE,
    help="A TOML file, or the name of a configuration that comes with dglrec.",
)
@click.option(
    "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="One setting; repeatable."
)
@click.option(
    "--from",
    "source",
    type=FOLDER_OR_FILE,
    metavar="RUN1",
    help="Begin with the best model of another run, its vectors matched by ids.",
)
@click.option(
    "--refit",
    type=click.Choice(["valid", "all"]),
    help="Once the best epoch is known, train for as many epochs on training and validation rows, "
    "or on all rows; the same as --set train.refit=...",
)
@click.option("--resume", is_flag=True, help="Continue from the run's last checkpoint.")
@click.option("--print-config", is_flag=True, help="Print all settings, and stop.")
@option_device
@option_timeout
@option_overwrite
@option_json
def train(
    dataset: Path | None,
    run: Path | None,
    config_file: Path | None,
    assignments: tuple[str, ...],
    source: Path | None,
    refit: str | None,
    resume: bool,
    print_config: bool,
    device: str,
    timeout: float,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Train on the prepared data set DATASET and leave the model in the folder RUN.

    Settings come from --set, then DGLREC_* variables, then --config, then defaults;
    --print-config lists them. Baselines are trained likewise: item_knn, bias, global_mean.

    \b
    Examples:
      dglrec train data run
      dglrec train data run --set train.epochs=30 --set model.embedding_size=128
      dglrec train data knn-run --config item_knn
      dglrec train data final --refit all
      dglrec train data run --resume
      dglrec train newer-data newer-run --from run --config run/config.toml
      torchrun --standalone --nproc-per-node 4 -m dglrec train data run
    """
    from dglrec import config

    if source is not None:
        place = json.dumps(str(source.resolve()), ensure_ascii=False)
        assignments = (*assignments, f"train.begin_with={place}")
    if refit is not None:
        assignments = (*assignments, f"train.refit={refit}")
    if print_config:
        shown = config.load_settings(
            file=config_file, assignments=assignments, environment=os.environ
        )
        click.echo(config.describe(shown), nl=False)
        return
    if dataset is None or run is None:
        raise click.UsageError("Missing arguments DATASET and RUN.")
    if resume and overwrite:
        raise click.UsageError("--resume keeps the run and --overwrite replaces it: give one.")
    outlive_terminal()
    from dglrec.dataset import RatingDataset
    from dglrec.distributed import joined
    from dglrec.run import SELECTION
    from dglrec.train import job_of
    from dglrec.train import train as run_train

    with joined(device, timeout=timeout) as (world, chosen):
        if world.has_started(job_of(run)):
            # This process replaces one that torchrun lost: the run is this job's, so continue it.
            resume, overwrite = True, False
        settings = config.shared_settings(
            world, run if resume else None, config_file, assignments, os.environ
        )
        with world.together():
            opened = RatingDataset.open(dataset)
        results = run_train(
            opened,
            run,
            settings,
            device=chosen,
            resume=resume,
            overwrite=overwrite,
            world=world,
        )
    if as_json and world.is_first:
        print_json(results)
    elif world.is_first:
        print_results(results)
        measured = run / SELECTION if SELECTION in results else run
        say(f"\nNext: dglrec evaluate {measured} --ranking 10")


@cli.command()
@click.argument("run", type=FOLDER_OR_FILE)
@click.option(
    "--split",
    type=click.Choice(["test", "valid", "train"]),
    default="test",
    show_default=True,
)
@click.option(
    "--ranking",
    callback=parse_lengths,
    metavar="K[,K...]",
    help="Full-catalogue ranking metrics at each K too; default if no rating is predicted: 10.",
)
@click.option(
    "--relevant-from",
    type=float,
    help="Least rating of a relevant item in rankings; default: the mean rating, rounded up.",
)
@click.option(
    "--details",
    is_flag=True,
    help="Calibration, figures by activity, popularity and rating, and how alike nodes become.",
)
@click.option(
    "--given",
    type=int,
    metavar="N",
    help="Measure only users without training ratings, with N ratings of each given to the model.",
)
@click.option(
    "--candidates",
    type=int,
    metavar="N",
    help="Rank each relevant item among N drawn ones as well, as some papers do.",
)
@click.option("--seed", type=SEED, help="Seed of what is given, or drawn; default: 0.")
@option_diverse
@click.option(
    "--history",
    type=click.Choice(["train", "valid"]),
    default="train",
    show_default=True,
    help="Rows that the model reads: those it was trained on, or validation rows too, for test "
    "rows that come after them, as of prepare --split last or time.",
)
@option_order
@option_dataset
@option_device
@option_timeout
@option_json
def evaluate(
    run: Path,
    split: str,
    ranking: tuple[int, ...] | None,
    relevant_from: float | None,
    details: bool,
    given: int | None,
    candidates: int | None,
    seed: int | None,
    diverse: Any,
    diversity: float | None,
    history: Any,
    order: Any,
    dataset: Path | None,
    device: str,
    timeout: float,
    as_json: bool,
) -> None:
    """Measure the model of RUN on held-out rows: ratings beside biases, lists beside popularity.

    \b
    Examples:
      dglrec evaluate run --ranking 10
      dglrec evaluate run --ranking 5,10,20 --candidates 100
      dglrec evaluate run --details
      dglrec evaluate run --given 5     (after prepare --split user)
      dglrec evaluate run --history valid     (after prepare --split last)
    """
    if seed is not None and given is None and candidates is None:
        raise click.UsageError("--seed goes with --given or --candidates.")
    from dglrec.evaluate import evaluate as run_evaluate

    opening = {"order": order, "history": history}
    with opened_predictor(run, dataset, device, timeout, **opening) as trained:
        result = run_evaluate(
            trained,
            split,
            ranking=ranking,
            relevant_from=relevant_from,
            details=details,
            given=given,
            candidates=candidates,
            seed=seed or 0,
            diversity=diversity_of(diverse, diversity),
        )
    if as_json and trained.world.is_first:
        print_json(result)
    elif trained.world.is_first:
        print_evaluation(result)


@cli.command()
@click.argument("out", type=FOLDER_OR_FILE, required=False)
@click.option("--no-text", is_flag=True, help="Leave synopses out.")
@click.option("--interactions", is_flag=True, help="Take ratings of 8 and more for interactions.")
@option_device
@option_overwrite
@option_json
def quickstart(
    out: Path | None,
    no_text: bool,
    interactions: bool,
    device: str,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Generate data, prepare, train, evaluate and recommend: a few minutes on two cores.

    Everything goes into the folder OUT; without OUT into quickstart-out, where it replaces what an
    earlier quickstart left.
    """
    from dataclasses import asdict

    from dglrec.distributed import choose_device
    from dglrec.quickstart import quickstart as run_quickstart

    # Without OUT, no folder of the user's is at risk: only an earlier quickstart is replaced.
    overwrite = overwrite or out is None
    out = out or Path("quickstart-out")
    shown = run_quickstart(
        out,
        text=not no_text,
        interactions=interactions,
        overwrite=overwrite,
        device=choose_device(device),
    )
    if as_json:
        print_json(asdict(shown))
        return
    print_results(shown.results)
    say(f"\nFor user {shown.user_id}:")
    print_recommendations(shown.recommendations)
    say(f"\nNext: dglrec recommend {out / 'run'} --user 42")
