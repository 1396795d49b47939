"""The folder of a recommender: a data set and a run, side by side."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from dglrec.dataset import DATASET_FILE
from dglrec.errors import DataError, UsageError
from dglrec.files import check_target_folder
from dglrec.run import (
    BEST,
    CONFIG_FILE,
    LAST,
    LOCK_FILE,
    RESULTS_FILE,
    SELECTION,
    holds_checkpoints,
)

DATA, RUN = "data", "run"
"""Folders of a recommender: what `dglrec prepare` makes, and what `dglrec train` makes."""


class Home(NamedTuple):
    """The folders of a recommender.

    Attributes:
        run: the run's folder.
        dataset: the data set's folder; None if only the run's own record says where it is.
    """

    run: Path
    dataset: Path | None


def existing_home(path: Path, dataset: str | Path | None) -> Home:
    """The folders of a recommender that was made before, whether or not they exist.

    Args:
        path: the recommender's folder, or a run's.
        dataset: where the data set is now, if it was moved.
    """
    run = path / RUN if (path / RUN).is_dir() else path
    beside = path / DATA if (path / DATA / DATASET_FILE).is_file() else None
    return Home(run, beside if dataset is None else Path(dataset))


def begun_home(path: Path, dataset: str | Path | None) -> tuple[Path, Path]:
    """The run's and the data set's folder of a training that was begun.

    Args:
        path: the recommender's folder, or a run's.
        dataset: where the data set is now, if it was moved.

    Raises:
        DataError: no training was begun there, or its data set is not beside it.
    """
    home = existing_home(path, dataset)
    if not _is_begun(home.run):
        raise DataError(f"{path}: no training was begun there; begin one with Recommender.fit")
    if home.dataset is None:
        raise DataError(f"{path}: holds no data set; say where the run's data set is: dataset=...")
    return home.run, home.dataset


@contextmanager
def home_of(path: Path | None, overwrite: bool) -> Iterator[Path]:
    """The folder to make a recommender in.

    If that fails before training has saved anything, the new folders are removed, unless they
    replace older ones.

    Args:
        path: the caller's folder; None for a temporary folder.
        overwrite: whether an earlier recommender may be replaced.

    Raises:
        UsageError: the folder holds something that may not be replaced.
    """
    home = Path(tempfile.mkdtemp(prefix="dglrec-")) if path is None else path
    made = [home / DATA, home / RUN]
    if path is not None:
        if not overwrite and _is_begun(made[1]) and not (made[1] / RESULTS_FILE).is_file():
            raise UsageError(
                f"{path}: holds a training that is not finished; go on with it by --resume, or "
                "replace it with --overwrite"
            )
        check_target_folder(made[0], marker=DATASET_FILE, overwrite=overwrite)
        check_target_folder(made[1], marker=CONFIG_FILE, overwrite=overwrite, ignored=LOCK_FILE)
    was_there, were_there = (
        home.exists() and path is not None,
        any(folder.exists() for folder in made),
    )
    try:
        yield home
    except BaseException:
        places = (home / RUN, home / RUN / SELECTION)
        saved = any((place / which).is_dir() for place in places for which in (LAST, BEST))
        if path is None or not (saved or were_there):
            for folder in made if was_there else [home]:
                shutil.rmtree(folder, ignore_errors=True)
        raise


def _is_begun(run: Path) -> bool:
    return (run / CONFIG_FILE).is_file() or holds_checkpoints(run)
