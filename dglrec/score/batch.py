"""Offline batch scoring: the best items of all users, or the ratings of pairs, as Parquet.

Data flow: plan -> folder -> the parts of a job (`jobs.py`) that are not there yet -> files.
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

    The score is what lists are ordered by; the rating is left out where the model predicts none.

    With `explain`, besides, lists of up to three of the user's rated items, `because`, and of their
    `contribution` to the score, in ratings; of a model with relations `relations`, too: lists of
    `kind`, `of`, `names`, `count` and `contribution`, as `RelationReason` has them.

    Args:
        trained: a run's model; the processes of its world share the work.
        out: a folder of Parquet files, here or in a store, begun or not; see `parts`.
        k: items for each user; fewer where fewer are left.
        options: see `TopKOptions`.

    Returns:
        `out`; `users`, how many are wanted, of all shards; `rows` and `parts` of this shard, how
        many parts were there already (`kept`), and whether the folder is `complete`.

    Raises:
        UsageError: the options are impossible, or `out` is another folder.
        DataError: a file is bad or names what is unknown.
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
    """Write what is predicted of each pair of a file, in its order.

    Columns are `user_id, item_id, score, rating`: the score is what pairs are ordered by, which is
    the predicted rating before it is clipped, and the rating is on the scale. Of a model without a
    rating head the score is what lists are ordered by, and there is no rating.

    The file is streamed: memory does not grow with it.

    Args:
        trained: as in `score_top_k`.
        out: likewise.
        pairs: CSV or Parquet with columns `user_id` and `item_id`.
        options: see `ScoreOptions`.

    Returns:
        As `score_top_k`, without `users`; `unknown_rows`, where there are any.

    Raises:
        UsageError: the options are impossible, or `out` is another folder.
        DataError: a file is bad or names what is unknown.
        DglrecError: the disk is full.
    """
    options = options or ScoreOptions()
    with trained.world.together():
        check_options(trained, options)
        options, pairs = found(options), find(pairs)
        described: dict[str, Any] = {"pairs": _described(pairs)}
        if trained.rates:
            described["rating"] = True  # earlier versions wrote it as the score, and no column
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
    """The folder, with a plan that says what its parts hold."""
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
    """What a plan says of the rows that a model reads; nothing of those that it learned from."""
    parts = trained.dataset.parts
    return {} if parts == trained.learned_from else {"history": list(parts)}


def _described(file: Given | None) -> dict[str, Any] | None:
    """A file by its name, for people, and its content."""
    if file is None:
        return None
    require_file(file)
    return describe(file)
