"""The rows of a job as a table in memory, in place of the files that `batch.py` writes.

Inputs may be files or data frames.
"""

import pyarrow as pa

from dglrec.ingest import Given
from dglrec.run import Predictor
from dglrec.score.fill import Job
from dglrec.score.jobs import (
    PairsJob,
    ReasonsJob,
    ScoreOptions,
    TopKJob,
    TopKOptions,
    check_options,
    check_top_k,
)


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


def _table_of(job: Job) -> pa.Table:
    job.prepare()
    job.ready()
    tables = [make()[0] for _, make in job.parts(set(range(job.count or 0)))]
    return pa.concat_tables(tables).combine_chunks()
