"""The folder of a recommender: a data set and a run, side by side."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dglrec.dataset import DATASET_FILE
from dglrec.files import check_target_folder
from dglrec.run import BEST, CONFIG_FILE, LAST, LOCK_FILE

DATA, RUN = "data", "run"
"""Folders of a recommender: what `dglrec prepare` makes, and what `dglrec train` makes."""


@contextmanager
def home_of(path: Path | None, overwrite: bool) -> Iterator[Path]:
    """The folder to make a recommender in.

    Where that fails before training has saved anything, what was made there is removed, unless it
    stands in the place of something older.

    Args:
        path: the caller's; None for a temporary one.
        overwrite: whether what an earlier call made may be replaced.

    Raises:
        UsageError: it holds something that may not be replaced.
    """
    home = Path(tempfile.mkdtemp(prefix="dglrec-")) if path is None else path
    made = [home / DATA, home / RUN]
    if path is not None:
        check_target_folder(made[0], marker=DATASET_FILE, overwrite=overwrite)
        check_target_folder(made[1], marker=CONFIG_FILE, overwrite=overwrite, ignored=LOCK_FILE)
    was_there, were_there = home.exists() and path is not None, any(one.exists() for one in made)
    try:
        yield home
    except BaseException:
        saved = any((home / RUN / which).is_dir() for which in (LAST, BEST))
        if path is None or not (saved or were_there):
            for folder in made if was_there else [home]:
                shutil.rmtree(folder, ignore_errors=True)
        raise
