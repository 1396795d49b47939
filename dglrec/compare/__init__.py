"""Comparison of runs on the same held-out rows, by their predicted ratings or by their lists.

`rows.py` checks that rows are the same, `sums.py` sums a run's errors or the figures of its lists
by user, `statistics.py` resamples users, `groups.py` puts together the figures of runs and the
differences between them, `runs.py` opens the runs.
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
from dglrec.compare.rows import SharedRows
from dglrec.compare.runs import SPLITS, SharedLists, compare_runs
from dglrec.compare.statistics import (
    UserSums,
    bootstrap,
    difference,
    effect_size,
    figures,
    holm,
    interval,
    p_value,
    redraw_runs,
)
from dglrec.compare.sums import (
    LIST_FIGURES,
    RATING_FIGURES,
    length_of_lists,
    list_sums,
    metrics_of,
    predict_rows,
    rows_of_run,
    user_sums,
)

__all__ = [
    "LIST_FIGURES",
    "RATING_FIGURES",
    "SPLITS",
    "Comparison",
    "Difference",
    "Estimate",
    "GroupFigures",
    "PairedEstimate",
    "SharedLists",
    "SharedRows",
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
    "length_of_lists",
    "list_sums",
    "metrics_of",
    "notes_on_seeds",
    "p_value",
    "predict_rows",
    "redraw_runs",
    "rows_of_run",
    "user_sums",
]
