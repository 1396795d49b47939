"""Metrics of a model on held-out rows, beside those of the baselines on the same rows.

`rows.py` sums a predictor's errors over rows and groups of rows; `groups.py` and `ages.py` define
the groups; `ranking.py` ranks the catalogue, `traits.py` measures the lists' coverage, novelty and
diversity, `candidates.py` ranks each relevant item among sampled items; `oracle.py` ranks planted
data as well as is possible; `given.py` measures users that training never saw; `report.py` puts
together what `dglrec evaluate` reports.
"""

from dglrec.evaluate.ranking import RankingTargets, next_level, rank_lists
from dglrec.evaluate.report import evaluate
from dglrec.evaluate.rows import SPLITS, baselines, measure, rows_of, sums_of

__all__ = [
    "SPLITS",
    "RankingTargets",
    "baselines",
    "evaluate",
    "measure",
    "next_level",
    "rank_lists",
    "rows_of",
    "sums_of",
]
