"""A trained model -> recommendations: for one user to look at, for all users as Parquet.

`recommend.py` is for one user, `jobs.py` for many, whose rows go into files (`batch.py`) or a table
(`tables.py`); `roster.py` says who they are, `parts.py` keeps what is finished.
"""

from dglrec.score.batch import score_pairs, score_top_k
from dglrec.score.jobs import ScoreOptions, TopKOptions
from dglrec.score.parts import MANIFEST_FILE
from dglrec.score.recommend import Reason, Recommendation, own_id, recommend
from dglrec.score.tables import pairs_table, reasons_table, similar_table, top_k_table

__all__ = [
    "MANIFEST_FILE",
    "Reason",
    "Recommendation",
    "ScoreOptions",
    "TopKOptions",
    "own_id",
    "pairs_table",
    "reasons_table",
    "recommend",
    "score_pairs",
    "score_top_k",
    "similar_table",
    "top_k_table",
]
