"""A model on held-out rows -> metrics, with the baselines on the same rows beside it.

`rows.py` sums a predictor's errors, on groups of rows too; `groups.py` says what the groups are;
`ranking.py` ranks the catalogue, `traits.py` knows what lists are like, `candidates.py` ranks among
drawn items; `given.py` measures users that training never saw; `report.py` puts together what
`dglrec evaluate` reports.
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
