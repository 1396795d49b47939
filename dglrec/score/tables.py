"""The rows of a job as a table in memory, in place of the files that `batch.py` writes.

Inputs may be files or data frames.
"""

import pyarrow as pa
import torch

from dglrec import schema
from dglrec.errors import UsageError
from dglrec.infer import nearest_items
from dglrec.ingest import Given
from dglrec.run import Predictor, TrainedBaseline
from dglrec.score.fill import Job
from dglrec.score.fitted import refused
from dglrec.score.jobs import (
    PairsJob,
    ReasonsJob,
    ScoreOptions,
    TopKJob,
    TopKOptions,
    check_options,
    check_top_k,
)
from dglrec.score.listed import Unknown, listed


def top_k_table(trained: Predictor, k: int, options: TopKOptions | None = None) -> pa.Table:
    """The rows that `score_top_k` writes; same arguments and errors, but for the folder."""
    options = options or TopKOptions()
    check_top_k(trained, k, options)
    return _table_of(TopKJob.of(trained, k, options))


def pairs_table(trained: Predictor, pairs: Given, options: ScoreOptions | None = None) -> pa.Table:
    """The rows that `score_pairs` writes; same arguments and errors, but for the folder."""
    options = options or ScoreOptions()
    check_options(trained, options)
    return _table_of(PairsJob.of(trained, pairs, options))


def reasons_table(
    trained: Predictor, pairs: Given, options: ScoreOptions | None = None
) -> pa.Table:
    """The rated items that the scores of pairs rest on: the rows of `ReasonsJob`.

    Raises:
        UsageError: the options are impossible, or the model gives no reasons.
        DataError: a file is bad or names unknown users or items.
    """
    options = options or ScoreOptions()
    check_options(trained, options, explain=True)
    return _table_of(ReasonsJob.of(trained, pairs, options))


def similar_table(
    trained: Predictor, items: Given | None, k: int, unknown: Unknown = "error"
) -> pa.Table:
    """The k items whose embeddings are most similar to an item's; see `infer.nearest_items`.

    Args:
        trained: a run's model.
        items: a table with a column `item_id`, the items to find similar items of; None for all.
        k: the number of similar items for each.
        unknown: how an unknown item is treated: `error` or `skip`.

    Returns:
        `item_id, similar_id, rank, similarity`, item by item in ascending order.

    Raises:
        UsageError: the model has no vectors of items, or k is not from 1 to the number of other
            items.
        DataError: the table is bad, or an item is unknown where that is an error.
    """
    if isinstance(trained, TrainedBaseline):
        raise refused(trained, "similar_items")
    if trained.model.config.convolution == "graph_filter":
        raise UsageError(
            "model.convolution = graph_filter: the model has no vectors of items to compare"
        )
    ids = trained.dataset.items
    if not 1 <= k < len(ids):
        raise UsageError(f"k = {k}: must be from 1 to {len(ids) - 1}, the number of other items")
    wanted = listed(items, schema.ITEM_ID, ids, unknown, trained.dataset.column_names)
    similarities, nearest = nearest_items(trained.embeddings.nodes.items.cpu(), wanted, k)
    ranks = torch.arange(1, k + 1, dtype=torch.int32).expand_as(nearest)
    return pa.table(
        {
            schema.ITEM_ID: ids.decode(wanted.repeat_interleave(k).numpy()),
            schema.SIMILAR_ID: ids.decode(nearest.flatten().numpy()),
            schema.RANK: ranks.flatten().numpy(),
            schema.SIMILARITY: similarities.flatten().numpy(),
        }
    )


def _table_of(job: Job) -> pa.Table:
    job.prepare()
    job.ready()
    tables = [make()[0] for _, make in job.parts(set(range(job.count or 0)))]
    return pa.concat_tables(tables).combine_chunks()
