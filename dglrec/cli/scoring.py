"""The verbs that use a trained model: recommend, score."""

from pathlib import Path

import click

from dglrec.cli.options import (
    FOLDER_OR_FILE,
    opened,
    option_dataset,
    option_device,
    option_json,
    option_overwrite,
    option_timeout,
)
from dglrec.cli.output import print_json, print_recommendations, report
from dglrec.cli.verbs import cli
from dglrec.errors import UsageError


@cli.command()
@click.argument("run", type=FOLDER_OR_FILE)
@click.option("--user", help="Id of a user of the data set.")
@click.option("-k", type=int, default=10, show_default=True, help="How many.")
@click.option(
    "--ratings",
    type=FOLDER_OR_FILE,
    help="A file item_id,rating of a user that training never saw.",
)
@option_dataset
@option_device
@option_json
def recommend(
    run: Path,
    user: str | None,
    k: int,
    ratings: Path | None,
    dataset: Path | None,
    device: str,
    as_json: bool,
) -> None:
    """Show the unseen items with the highest predicted ratings for one user.

    \b
    Examples:
      dglrec recommend run --user 42
      dglrec recommend run --ratings mine.csv -k 20
    """
    from dataclasses import asdict

    from dglrec.score import recommend as run_recommend

    if user is None and ratings is None:
        raise click.UsageError("Give --user, or --ratings for a user that training never saw.")
    with opened(run, dataset, device) as trained:
        found = run_recommend(trained, user, k, ratings=ratings)
    if as_json:
        print_json({"user_id": user, "recommendations": [asdict(one) for one in found]})
    else:
        print_recommendations(found)


@cli.command()
@click.argument("run", type=FOLDER_OR_FILE)
@click.argument("out", type=FOLDER_OR_FILE)
@click.option("--top-k", type=int, metavar="K", help="The K best unseen items of each user.")
@click.option("--users", type=FOLDER_OR_FILE, help="A file with a column user_id: only these.")
@click.option("--shard", metavar="i/n", default="0/1", help="Only part i of n of the users.")
@click.option("--pairs", type=FOLDER_OR_FILE, help="A file user_id,item_id: score these pairs.")
@option_dataset
@option_device
@option_timeout
@option_overwrite
@option_json
def score(
    run: Path,
    out: Path,
    top_k: int | None,
    users: Path | None,
    shard: str,
    pairs: Path | None,
    dataset: Path | None,
    device: str,
    timeout: float,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write predicted ratings as Parquet files into the folder OUT.

    \b
    Examples:
      dglrec score run scores --top-k 10
      dglrec score run scores --pairs pairs.parquet
    """
    from dglrec.score import score_pairs, score_top_k

    if (top_k is None) == (pairs is None):
        raise click.UsageError("Give either --top-k or --pairs.")
    if pairs is not None and (users is not None or shard != "0/1"):
        raise click.UsageError("--users and --shard go with --top-k, not with --pairs.")
    part = _parse_shard(shard)
    with opened(run, dataset, device, timeout) as trained:
        if pairs is not None:
            summary = score_pairs(trained, out, pairs, overwrite=overwrite)
        else:
            assert top_k is not None
            summary = score_top_k(trained, out, top_k, users=users, shard=part, overwrite=overwrite)
    if trained.world.is_first:
        report(summary, as_json)


def _parse_shard(text: str) -> tuple[int, int]:
    try:
        number, count = (int(part) for part in text.split("/"))
    except ValueError as error:
        raise UsageError(f"--shard {text}: write i/n, like 0/4") from error
    return number, count
