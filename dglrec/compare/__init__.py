"""Runs side by side on the same held-out rows.

`runs.py` opens runs and sees to it that their rows are the same, `statistics.py` redraws users,
`groups.py` puts together what is said of runs and of each two of them.
"""

from dglrec.compare.groups import (
    Comparison,
    Difference,
    Estimate,
    GroupFigures,
    PairedEstimate,
    check_options,
    compare,
    notes_on_seeds,
)
from dglrec.compare.runs import SPLITS, compare_runs, predict_held_out
from dglrec.compare.statistics import (
    METRICS,
    UserSums,
    bootstrap,
    difference,
    effect_size,
    figures,
    holm,
    interval,
    p_value,
    redraw_runs,
    user_sums,
)

__all__ = [
    "METRICS",
    "SPLITS",
    "Comparison",
    "Difference",
    "Estimate",
    "GroupFigures",
    "PairedEstimate",
    "UserSums",
    "bootstrap",
    "check_options",
    "compare",
    "compare_runs",
    "difference",
    "effect_size",
    "figures",
    "holm",
    "interval",
    "notes_on_seeds",
    "p_value",
    "predict_held_out",
    "redraw_runs",
    "user_sums",
]
