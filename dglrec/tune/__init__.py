"""A search for settings: trials of a declared space, each an ordinary training, and their table.

tune.json                 the record of the search: data set, space, fixed settings
study.journal             all trials, as Optuna's journal: a line of JSON for each change
trials/N/                 the run of trial N, without checkpoints
results.json, results.md  the table of trials, best first
best.toml                 the settings of the best trial, for `train --config`

`space.py` reads and checks a space, `goal.py` defines the figure to optimise, `record.py` compares
a search with the one that its folder was begun with, `storage.py` stores the trials, `table.py`
makes the table, `running.py` does the work. Test rows are never read.
"""

from dglrec.tune.goal import Goal
from dglrec.tune.running import run_tuning
from dglrec.tune.space import Choice, Range, Space, read_space, shipped_spaces
from dglrec.tune.table import as_markdown

__all__ = [
    "Choice",
    "Goal",
    "Range",
    "Space",
    "as_markdown",
    "read_space",
    "run_tuning",
    "shipped_spaces",
]
