"""The verbs that use a trained model: recommend, score, similar, export."""

from pathlib import Path
from typing import Any

import click

from dglrec.cli.options import (
    FOLDER_OR_FILE,
    PLACE,
    diversity_of,
    opened,
    opened_predictor,
    option_dataset,
    option_device,
    option_diverse,
    option_history,
    option_json,
    option_known,
    option_order,
    option_overwrite,
    option_timeout,
)
from dglrec.cli.output import (
    FEW_PAIRS,
    print_json,
    print_pairs,
    print_recommendations,
    report,
)
from dglrec.cli.verbs import cli
from dglrec.errors import UsageError
from dglrec.places import Place


@cli.command()
@click.argument("run", type=FOLDER_OR_FILE)
@click.option(
    "--user",
    help="Id of a user of the data set. With --ratings or --user-table it may be any id; items "
    "that this user rated in the data set are left out, too.",
)
@click.option("-k", type=int, default=10, show_default=True, help="How many items.")
@click.option(
    "--ratings",
    type=PLACE,
    help="A file item_id,rating of a user that training never saw; only item_id if the model was "
    "trained on interactions.",
)
@click.option(
    "--user-table",
    type=PLACE,
    help="A file with that user's attributes: the columns of users that the data set has. With or "
    "without --ratings; of several rows, that of --user counts.",
)
@option_known("replace")
@click.option("--explain", is_flag=True, help="Say which rated items each recommendation rests on.")
@option_diverse
@option_history
@option_order
@option_dataset
@option_device
@option_json
def recommend(
    run: Path,
    user: str | None,
    k: int,
    ratings: Place | None,
    user_table: Place | None,
    known: Any,
    explain: bool,
    diverse: Any,
    diversity: float | None,
    history: Any,
    order: Any,
    dataset: Path | None,
    device: str,
    as_json: bool,
) -> None:
    """Show the best unseen items for a user, each with its predicted rating.

    \b
    Examples:
      dglrec recommend run --user 42
      dglrec recommend run --ratings mine.csv -k 20
      dglrec recommend run --user 42 --ratings last-week.csv --known extend
      dglrec recommend run --ratings mine.csv --user-table me.csv
      dglrec recommend run --user 42 --explain
    """
    from dataclasses import asdict

    from dglrec.score import own_id
    from dglrec.score import recommend as run_recommend

    if user is None and ratings is None and user_table is None:
        raise click.UsageError(
            "Give --user, or --ratings or --user-table for a user that training never saw."
        )
    with opened_predictor(run, dataset, device, order=order, history=history) as trained:
        options = {"ratings": ratings, "user_table": user_table, "known": known}
        wanted = diversity_of(diverse, diversity)
        found = run_recommend(trained, user, k, **options, explain=explain, diversity=wanted)
    if as_json:
        shown = [asdict(recommendation) for recommendation in found]
        for recommendation in shown:
            if recommendation["relations"] is None:  # the model reads no relations
                del recommendation["relations"]
        print_json({"user_id": own_id(trained.dataset, user), "recommendations": shown})
    else:
        print_recommendations(found)


@cli.command()
@click.argument("run", type=FOLDER_OR_FILE)
@click.argument("out", type=PLACE)
@click.option("--top-k", type=int, metavar="K", help="The K best items of each user.")
@click.option("--pairs", type=PLACE, help="A file user_id,item_id: score these pairs.")
@click.option("--users", type=PLACE, help="A file with a column user_id: only these.")
@click.option("--items", type=PLACE, help="A file with a column item_id: only of these.")
@click.option(
    "--exclude-seen/--include-seen",
    default=True,
    show_default=True,
    help="Leave out the items that a user has rated, or not.",
)
@click.option(
    "--ratings",
    type=PLACE,
    help="A file user_id,item_id,rating of users that training never saw, without rating if the "
    "model was trained on interactions; scored too.",
)
@click.option(
    "--user-table",
    type=PLACE,
    help="A file user_id and the columns of users that the data set has: attributes of users "
    "that training never saw, with ratings in --ratings or without; scored too.",
)
@option_known("error")
@click.option(
    "--new-items",
    type=PLACE,
    help="A file item_id,genres,synopsis of items that training never saw, with the columns that "
    "the data set uses as numbers; scored too.",
)
@click.option(
    "--explain",
    is_flag=True,
    help="Add up to three rated items that each recommendation rests on.",
)
@click.option(
    "--unknown",
    type=click.Choice(["error", "skip", "null"]),
    default="error",
    show_default=True,
    help="What an unknown id in --users, --items or --pairs means; null: a missing score, for "
    "pairs.",
)
@click.option(
    "--shard",
    metavar="i/n",
    default="0/1",
    help="Only every n-th part, from the i-th on; all shards write into the same OUT.",
)
@option_diverse
@option_history
@option_order
@option_dataset
@option_device
@option_timeout
@option_overwrite
@option_json
def score(
    run: Path,
    out: Place,
    top_k: int | None,
    pairs: Place | None,
    users: Place | None,
    items: Place | None,
    exclude_seen: bool,
    explain: bool,
    diverse: Any,
    diversity: float | None,
    shard: str,
    history: Any,
    order: Any,
    dataset: Path | None,
    device: str,
    timeout: float,
    as_json: bool,
    **options: Any,
) -> None:
    """Write lists, or scores of pairs, as Parquet files into the folder OUT.

    Lists hold user_id, item_id, rank, score, which orders them, and rating, the predicted rating
    clipped to the scale. Pairs hold user_id, item_id, score, the predicted rating before clipping,
    and rating; for a model without ratings the score is what lists are ordered by.

    The same command, given again, continues where it was stopped; --overwrite begins anew, and
    first removes what is there. OUT holds _SUCCESS once everything is written.

    OUT, and the files that options name, may be at a URI: s3://, gs://, ... Such a file may also be
    a folder of parts.

    \b
    Examples:
      dglrec score run scores --top-k 10
      dglrec score run scores --top-k 10 --shard 0/4
      dglrec score run scores --pairs pairs.parquet --unknown null
      dglrec score run s3://bucket/scores --top-k 10
      dglrec score run scores --top-k 10 --ratings newcomers.csv --new-items season.csv
      dglrec score run scores --top-k 10 --ratings last-week.csv --known extend
    """
    from dglrec.score import ScoreOptions, TopKOptions, score_pairs, score_top_k

    if (top_k is None) == (pairs is None):
        raise click.UsageError("Give either --top-k or --pairs.")
    narrowed = users is not None or items is not None
    if pairs is not None and (narrowed or not exclude_seen or explain or diverse):
        raise click.UsageError(
            "--users, --items, --include-seen, --explain and --diverse go with --top-k."
        )
    options["shard"] = _parse_shard(shard)
    opening = {"order": order, "history": history}
    with opened_predictor(run, dataset, device, timeout, **opening) as trained:
        if pairs is not None:
            summary = score_pairs(trained, out, pairs, ScoreOptions(**options))
        else:
            assert top_k is not None
            chosen = TopKOptions(
                **options,
                users=users,
                items=items,
                include_seen=not exclude_seen,
                explain=explain,
                diversity=diversity_of(diverse, diversity),
            )
            summary = score_top_k(trained, out, top_k, chosen)
    if trained.world.is_first:
        report(summary, as_json)
        few = summary["rows"] <= FEW_PAIRS
        if pairs is not None and few and not as_json and isinstance(out, Path):
            print_pairs(out)


@cli.command()
@click.argument("run", type=FOLDER_OR_FILE)
@click.argument("out", type=PLACE)
@click.option("--top-k", type=int, metavar="K", required=True, help="How many of each item.")
@click.option("--items", type=PLACE, help="A file with a column item_id: of these; default: all.")
@click.option(
    "--unknown",
    type=click.Choice(["error", "skip"]),
    default="error",
    show_default=True,
    help="What an id in --items means that is not known, or of an item without a training row.",
)
@option_history
@option_dataset
@option_device
@option_overwrite
@option_json
def similar(
    run: Path,
    out: Place,
    top_k: int,
    items: Place | None,
    unknown: Any,
    history: Any,
    dataset: Path | None,
    device: str,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write the items most similar to each item as one Parquet file OUT.

    It holds item_id, similar_id, rank and similarity: the cosine of the model's embeddings. Items
    without a training row are similar to none, unless the model reads features or relations of
    them. OUT, and the file of --items, may be at a URI: s3://, gs://, ...

    \b
    Examples:
      dglrec similar run similar.parquet --top-k 10
      dglrec similar run similar.parquet --top-k 10 --items season.csv --unknown skip
    """
    from dglrec.score import write_similar

    with opened(run, dataset, device, history=history) as trained:
        summary = write_similar(trained, out, items, top_k, unknown, overwrite=overwrite)
    report(summary, as_json)


@cli.command()
@click.argument("run", type=FOLDER_OR_FILE)
@click.argument("out", type=PLACE)
@option_history
@option_dataset
@option_device
@option_overwrite
@option_json
def export(
    run: Path,
    out: Place,
    history: Any,
    dataset: Path | None,
    device: str,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write embeddings and decoder into the folder OUT, to be used without dglrec.

    users.parquet and items.parquet hold id, embedding and bias, decoder.safetensors the rest;
    docs/scoring.md shows how to compute ratings from them. OUT may be at a URI (s3://, gs://, ...);
    export.json is written last.

    \b
    Example:  dglrec export run exported
    """
    from dglrec.export import export as run_export

    with opened(run, dataset, device, history=history) as trained:
        figures = run_export(trained, out, overwrite=overwrite)
    report(figures, as_json)


def _parse_shard(text: str) -> tuple[int, int]:
    try:
        number, count = (int(part) for part in text.split("/"))
    except ValueError as error:
        raise UsageError(f"--shard {text}: write i/n, like 0/4") from error
    return number, count
