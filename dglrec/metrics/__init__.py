"""Metrics as sums and counts, divided at the end: the same code for one process and for many.

`rating.py` measures predicted ratings, `ranking.py` the relevant items in lists, `lists.py` the
coverage, novelty and diversity of lists.
"""

from dglrec.metrics.lists import ListSums, gini
from dglrec.metrics.ranking import RANKING_METRICS, RankingSums, ranking_sums, ranking_values
from dglrec.metrics.rating import (
    RATING_METRICS,
    RatingSums,
    class_weights,
    clip,
    level_of,
    rating_sums,
    rating_terms,
)

__all__ = [
    "RANKING_METRICS",
    "RATING_METRICS",
    "ListSums",
    "RankingSums",
    "RatingSums",
    "class_weights",
    "clip",
    "gini",
    "level_of",
    "ranking_sums",
    "ranking_values",
    "rating_sums",
    "rating_terms",
]
