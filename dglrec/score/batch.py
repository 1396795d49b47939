"""Offline batch scoring: the best items of all users, or the ratings of pairs, as Parquet.

Data flow: plan -> folder -> the parts of a job (`jobs.py`) that are missing -> files.
"""

from typing import Any

from dglrec.ingest import Given, describe, find, require_file
from dglrec.places import Place
from dglrec.run import Predictor
from dglrec.score.fill import Job, fill
from dglrec.score.jobs import (
    PairsJob,
    ScoreOptions,
    TopKJob,
    TopKOptions,
    check_options,
    check_top_k,
    found,
    rows_in_part,
    users_in_part,
)
from dglrec.score.parts import PartsFolder


def score_top_k(
    trained: Predictor, out: Place, k: int, options: TopKOptions | None = None
) -> dict[str, Any]:
    """Write every user's best items: `user_id, item_id, rank, score`, and `rating`.

    Lists are ordered by score. Where the model predicts no ratings, the column `rating` is missing.

    With `explain`, the columns `because` and `contribution` hold up to three of the user's rated
    items for each recommendation and their contributions to the score, in ratings. For a model with
    relations, `relations` holds lists of `kind`, `of`, `names`, `count` and `contribution`; see
    `RelationReason`.

    Args:
        trained: a run's model; the processes of its world share the work.
        out: a folder of Parquet files, local or in a store, new or begun earlier; see `parts`.
        k: items for each user; a user with fewer candidates gets all of them.
        options: see `TopKOptions`.

    Returns:
        `out`; `users`, the number of users of all shards; `rows` and `parts` of this shard, the
        number of parts that were there already (`kept`), and whether the folder is `complete`.

    Raises:
        UsageError: the options are impossible, or `out` is a folder of something else.
        DataError: a file is bad or names unknown users or items.
        DglrecError: the disk is full.
    """
    options = options or TopKOptions()
    with trained.world.together():
        check_top_k(trained, k, options)
        options = found(options)
        described: dict[str, Any] = {
            "top_k": k,
            "include_seen": options.include_seen,
            "explain": options.explain,
            "order": "lists" if trained.orders_by_lists else "rating",
            "users": _described(options.users),
            "items": _described(options.items),
        }
        if options.diversity is not None:
            described["diverse"] = [options.diversity.by, options.diversity.weight]
        folder = _folder(trained, out, "top-k lists", options, described, users_in_part(k))
        job = TopKJob.of(trained, k, options)
    return {"out": str(out), "users": job.num_users, **_filled(trained, folder, job, options)}


def score_pairs(
    trained: Predictor, out: Place, pairs: Given, options: ScoreOptions | None = None
) -> dict[str, Any]:
    """Write the predictions for each pair of a file, in the order of the file.

    Columns are `user_id, item_id, score, rating`: the score is the predicted rating before
    clipping, and the rating is clipped to the scale. A model without a rating head gives the score
    that its lists are ordered by, and no column `rating`.

    The file is streamed: memory does not grow with its size.

    Args:
        trained: as in `score_top_k`.
        out: as in `score_top_k`.
        pairs: CSV or Parquet with columns `user_id` and `item_id`.
        options: see `ScoreOptions`.

    Returns:
        As `score_top_k`, without `users`; `unknown_rows`, where there are any.

    Raises:
        UsageError: the options are impossible, or `out` is a folder of something else.
        DataError: a file is bad or names unknown users or items.
        DglrecError: the disk is full.
    """
    options = options or ScoreOptions()
    with trained.world.together():
        check_options(trained, options)
        options, pairs = found(options), find(pairs)
        described: dict[str, Any] = {"pairs": _described(pairs)}
        if trained.rates:
            described["rating"] = True  # earlier versions wrote the clipped rating as the score
        folder = _folder(trained, out, "pairs", options, described, rows_in_part())
        job = PairsJob.of(trained, pairs, options)
    return {"out": str(out), **_filled(trained, folder, job, options)}


def _filled(
    trained: Predictor, folder: PartsFolder, job: Job, options: ScoreOptions
) -> dict[str, Any]:
    return fill(trained.world, folder, job, options.shard, overwrite=options.overwrite)


def _folder(
    trained: Predictor,
    out: Place,
    kind: str,
    options: ScoreOptions,
    described: dict[str, Any],
    in_part: int,
) -> PartsFolder:
    """The folder, with the plan that determines the rows of its parts."""
    plan = {
        "kind": kind,
        "model": trained.identity,
        "dataset": trained.dataset.fingerprint,
        "options": {
            **described,
            "ratings": _described(options.ratings),
            "new_items": _described(options.new_items),
            **({"user_table": _described(options.user_table)} if options.user_table else {}),
            **({} if options.known == "error" else {"known": options.known}),
            **_history(trained),
        },
        "unknown": options.unknown,
        "in_part": in_part,
    }
    folder = PartsFolder(out, plan)
    if trained.world.is_first:
        folder.refuse_other_folder(options.overwrite)
    return folder


def _history(trained: Predictor) -> dict[str, Any]:
    """The parts of the data set that the model reads, if they are not those it learned from."""
    parts = trained.dataset.parts
    return {} if parts == trained.learned_from else {"history": list(parts)}


def _described(file: Given | None) -> dict[str, Any] | None:
    """A file as a plan records it: its name, for readers, and the checksum of its content."""
    if file is None:
        return None
    require_file(file)
    return describe(file)
