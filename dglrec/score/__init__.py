"""A trained model -> recommendations: for one user to look at, for all users as Parquet.

`recommend.py` is for one user, `batch.py` for all; `roster.py` says who they are, `parts.py` keeps
what is finished.
"""

from dglrec.score.batch import ScoreOptions, TopKOptions, score_pairs, score_top_k
from dglrec.score.parts import MANIFEST_FILE
from dglrec.score.recommend import Reason, Recommendation, own_id, recommend

__all__ = [
    "MANIFEST_FILE",
    "Reason",
    "Recommendation",
    "ScoreOptions",
    "TopKOptions",
    "own_id",
    "recommend",
    "score_pairs",
    "score_top_k",
]
