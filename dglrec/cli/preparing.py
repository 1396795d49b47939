"""The verb `prepare`."""

from pathlib import Path
from typing import Any

import click

from dglrec.cli.options import FOLDER_OR_FILE, PLACE, SEED, option_json, option_overwrite
from dglrec.cli.output import report
from dglrec.cli.verbs import cli
from dglrec.places import Place


@cli.command()
@click.argument("source", type=PLACE)
@click.argument("dataset", type=FOLDER_OR_FILE)
@click.option(
    "--format",
    "format_",
    type=click.Choice(["auto", "anime", "movielens", "table"]),
    default="auto",
    show_default=True,
    help="Layout of SOURCE.",
)
@click.option(
    "--columns",
    metavar="KEY=NAME,...",
    help="Names of a table's columns: user=NAME,item=NAME,rating=NAME,timestamp=NAME; the "
    "defaults are user_id, item_id, rating, timestamp.",
)
@click.option(
    "--split",
    type=click.Choice(["random", "time", "last", "user", "item"]),
    default="random",
    show_default=True,
    help="How held-out rows are chosen: by chance, the latest, the last two of each user, whole "
    "users, whole items.",
)
@click.option(
    "--valid",
    type=float,
    default=0.1,
    show_default=True,
    help="Share that validates; with 0, train needs train.epochs.",
)
@click.option(
    "--test",
    type=float,
    default=0.1,
    show_default=True,
    help="Share that tests; with 0, there is nothing to evaluate on.",
)
@click.option(
    "--seed", type=SEED, default=0, show_default=True, help="Seed of the split and of --users."
)
@click.option("--train-file", type=PLACE, help="Rows to train and validate on.")
@click.option("--test-file", type=PLACE, help="Rows to test on.")
@click.option("--no-text", is_flag=True, help="Leave synopses out.")
@click.option(
    "--text-model",
    default="auto",
    show_default=True,
    help="A sentence-transformers name or folder.",
)
@click.option("--remove-stop-words", is_flag=True, help="Clean synopses of stop words.")
@click.option("--remove-punctuation", is_flag=True, help="Clean synopses of punctuation.")
@click.option("--per-sentence", is_flag=True, help="Embed each sentence and take the mean.")
@click.option("--numeric", multiple=True, help="An item column to use as a number; repeatable.")
@click.option("--complete-only", is_flag=True, help="Drop rows of items with gaps.")
@click.option("--scale", help="Rating scale MIN:MAX[:STEP] of a table; found out if not given.")
@click.option(
    "--interactions-from",
    type=float,
    metavar="LEVEL",
    help="Make interactions of the ratings of LEVEL or more, and drop the others.",
)
@click.option("--users", type=int, metavar="N", help="Keep N users, drawn by chance; default: all.")
@click.option(
    "--item-table",
    type=PLACE,
    metavar="FILE",
    help="Table of items: item_id, and columns that become attributes and features.",
)
@click.option("--user-table", type=PLACE, metavar="FILE", help="The same for users: user_id.")
@click.option(
    "--attribute",
    "attributes",
    multiple=True,
    metavar="NAME=KIND",
    help="Kind of an attribute, where it is not to be inferred: number, category, categories, "
    "text, date or none; repeatable.",
)
@click.option(
    "--relation",
    "relations",
    multiple=True,
    metavar="NAME=FILE",
    help="Edges between users, items or attributes; repeatable.",
)
@option_overwrite
@option_json
def prepare(
    source: Place,
    dataset: Path,
    format_: str,
    columns: str | None,
    scale: str | None,
    remove_stop_words: bool,
    remove_punctuation: bool,
    per_sentence: bool,
    no_text: bool,
    numeric: tuple[str, ...],
    attributes: tuple[str, ...],
    relations: tuple[str, ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Build a prepared data set in the folder DATASET from SOURCE.

    SOURCE is a folder in the published layout of the Anime Recommendation Database 2020 or of
    MovieLens, or a CSV or Parquet table with columns user_id, item_id, and perhaps rating and
    timestamp. Without a column of ratings its rows are interactions: clicks, plays, purchases.
    Repeated pairs are counted and kept once. --train-file and --test-file replace its rows and the
    split.

    Tables of items and users, and files of edges, are CSV or Parquet. A file of edges has two
    columns of ids, each named user_id, item_id or after an attribute, the second perhaps with a
    prefix (to_user_id), and perhaps weight and timestamp. Rows that cannot be edges are counted and
    left out.

    A table may be a file, a folder of parts, hive partitions included, or a pattern in quotes
    ("ratings/*.parquet"), on this machine or at a URI: s3://, gs://, abfs://, and others through
    fsspec. DATASET must be on this machine.

    \b
    Examples:
      dglrec prepare anime/ data
      dglrec prepare ratings.parquet data --split time --scale 1:5:0.5
      dglrec prepare ml-100k/ data --train-file u1.base --test-file u1.test
      dglrec prepare clicks.csv data
      dglrec prepare ml-100k/ data --interactions-from 4
      dglrec prepare ratings.csv data --relation trusts=trust.csv --item-table items.csv
      dglrec prepare s3://bucket/ratings/ data --columns user=uid,item=product,rating=stars
    """
    from dglrec.dataset import PrepareOptions
    from dglrec.dataset import prepare as run_prepare
    from dglrec.features import TextCleaning, parse_kinds
    from dglrec.ingest import parse_columns
    from dglrec.relations import parse_relations
    from dglrec.schema import RatingScale

    prepared = run_prepare(
        source,
        dataset,
        PrepareOptions(
            format=format_,
            columns={} if columns is None else parse_columns(columns),
            text=not no_text,
            cleaning=TextCleaning(remove_stop_words, remove_punctuation, per_sentence),
            numeric=numeric,
            attribute=parse_kinds(attributes),
            relation=parse_relations(relations),
            scale=RatingScale.parse(scale) if scale else None,
            **options,
        ),
    )
    report(prepared.describe(), as_json)
