"""Recommendations and scores of a trained model: for a single user, or for all as Parquet.

`recommend.py` serves a single user, `jobs.py` makes the rows of many users or pairs, which go to
files (`batch.py`) or into a table (`tables.py`), and `similar.py` finds similar items. `roster.py`
and `fitted.py` hold the users and items to score, `added.py`, `described.py` and `listed.py` read
them from files, `fill.py` divides the work among processes, and `parts.py` keeps the finished parts
of a folder.
"""

from dglrec.score.batch import score_pairs, score_top_k
from dglrec.score.jobs import ScoreOptions, TopKOptions
from dglrec.score.parts import MANIFEST_FILE
from dglrec.score.recommend import Reason, Recommendation, own_id, recommend
from dglrec.score.similar import similar_table, write_similar
from dglrec.score.tables import pairs_table, reasons_table, top_k_table

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
    "write_similar",
]
