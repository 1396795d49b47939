"""A declared grid of variants and seeds: resumable training of all runs, and a table of them.

study.json                     the declaration, with every setting written out
data/<options>/                data sets prepared with the options of a variant
runs/<variant>/seed-<n>/       runs, of whose checkpoints only `best` is kept
sums/<variant>/seed-<n>.parquet  errors summed by user, from which the table is made
results.json, results.md       the table

`declaration.py` reads and checks a study, `discovery.py` adapts it to the features and relations of
a data set, `record.py` compares it with the study that a folder was begun with, `sums.py` stores
sums of errors, `table.py` makes the table, `running.py` does the work.
"""

from dglrec.study.declaration import (
    PrepareKeys,
    Study,
    Variant,
    known_study_keys,
    read_study,
    select,
    shipped_studies,
)
from dglrec.study.discovery import discover
from dglrec.study.running import run_study
from dglrec.study.sums import RunSums, load_sums, save_sums, sums_of_run
from dglrec.study.table import FinishedRun, as_markdown, tabulate

__all__ = [
    "FinishedRun",
    "PrepareKeys",
    "RunSums",
    "Study",
    "Variant",
    "as_markdown",
    "discover",
    "known_study_keys",
    "load_sums",
    "read_study",
    "run_study",
    "save_sums",
    "select",
    "shipped_studies",
    "sums_of_run",
    "tabulate",
]
