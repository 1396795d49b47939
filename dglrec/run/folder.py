"""A run's folder, and the lock of the process that writes into it.

config.toml           the settings of the training
environment.json      versions and machine
metrics.jsonl         a line for each epoch
results.json          metrics of the best epoch's model
checksums.json        of the files above: of the first two from the start, of all once training has
                      finished. Until then each checkpoint holds a digest of the lines of metrics
train.log             the messages of training, with times
checkpoints/last/     the checkpoint that training resumes from
checkpoints/step-N/   older checkpoints, kept in case the last is damaged
checkpoints/best/     the epoch with the best validation figure
checkpoints/items/    item-item weights of the best model, if it has any
checkpoints/derived/  relations derived from training rows that the model reads, if any
tracker/              the note of what was sent to a tracker (`train.logger`), and the tracker's
                      files; without checksums, since trackers change them later
selection/            for a refitted run (`train.refit`): the run on training rows alone, which
                      chose the settings and epochs of this run by validation rows
.lock                 locked by the process that trains
"""

import errno
import fcntl
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import xxhash

from dglrec.checkpoint import Checkpoint, load_checkpoint
from dglrec.dataset import DATASET_FILE
from dglrec.errors import DataError, UsageError
from dglrec.files import (
    TEMPORARY,
    check_checksums,
    check_possible,
    disk_errors,
    read_checksums,
    read_errors,
)
from dglrec.progress import log

CONFIG_FILE = "config.toml"
ENVIRONMENT_FILE = "environment.json"
METRICS_FILE = "metrics.jsonl"
RESULTS_FILE = "results.json"
LOG_FILE = "train.log"
LOCK_FILE = ".lock"
LAST = Path("checkpoints") / "last"
BEST = Path("checkpoints") / "best"
SELECTION = "selection"
TRACKER = "tracker"
ITEM_ITEMS = Path("checkpoints") / "items"
DERIVED = Path("checkpoints") / "derived"


@contextmanager
def locked(
    folder: Path, name: str = LOCK_FILE, *, shown: Path | None = None, wait: bool = False
) -> Iterator[bool]:
    """Lock a folder, so that no other process writes into it; a missing folder is made.

    The lock is released when the process ends, even by a kill.

    Args:
        folder: a run's folder, or another.
        name: the name of the lock's file.
        shown: the folder's name in messages; None for `folder`.
        wait: whether to wait for another process.

    Yields:
        Whether the folder is locked; not every file system has locks.

    Raises:
        UsageError: another process holds the lock.
    """
    what = shown or folder
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o666)
    held = True
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                held = False
                log(f"{what}: no lock to be had ({error.strerror}); let nothing else write there")
            else:
                holder = os.pread(descriptor, 200, 0).decode(errors="replace") or "another process"
                raise UsageError(
                    f"{what}: in use by {holder}; wait for it, or choose another folder"
                ) from error
        with disk_errors(folder):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield held
    finally:
        os.close(descriptor)


def check_folder_with(out: Path, marker: str) -> None:
    """Refuse a folder for runs that belongs to something else, which has no marker in it.

    Args:
        out: the folder for runs; it may hold only a lock and half-written files.
        marker: the file that marks the folder, such as a study's record.

    Raises:
        UsageError: it is a file, or holds other things and no marker.
    """
    check_possible(out)
    if not out.exists() or (out / marker).is_file():
        return
    if not out.is_dir():
        raise UsageError(f"{out} is a file; name a folder")
    if any(not path.name.startswith((LOCK_FILE, TEMPORARY)) for path in out.iterdir()):
        raise UsageError(f"{out} exists and holds no {marker}; choose another name")


def best_checkpoint(run: Path) -> Checkpoint:
    """A run's best model.

    Raises:
        DataError: there is no run, it is damaged, or its training has not finished an epoch.
    """
    if not run.is_dir():
        raise DataError(f"{run}: no such run; make one with `dglrec train`")
    if (run / DATASET_FILE).is_file():
        raise DataError(f"{run}: is a data set and no run; make one: dglrec train {run} RUN")
    if not (run / BEST).is_dir():
        raise DataError(
            f"{run}: holds no {BEST}; its training has not finished an epoch"
            "; train --resume goes on with it"
        )
    check_checksums(run, all_there=True)
    return load_checkpoint(run / BEST)


def check_is_run(run: Path) -> None:
    """Refuse to resume from a folder that does not hold a run.

    Raises:
        DataError: there is no run, it was never started, or it is damaged.
    """
    config = run / CONFIG_FILE
    if not config.is_file() and holds_checkpoints(run):
        raise DataError(
            f"{config}: no such file, though {run} holds checkpoints; get it back, or train again "
            "in another folder"
        )
    if not config.is_file():
        raise DataError(f"{run}: no such run to resume; leave out --resume to start it")
    check_checksums(run)


def is_finished(run: Path) -> bool:
    """Whether a training is finished: there are results, and their checksum.

    Runs of earlier versions have no checksums, or have them only once they are finished.

    Raises:
        DataError: the checksums are damaged.
    """
    if not (run / RESULTS_FILE).is_file():
        return False
    sums = read_checksums(run)
    return sums is None or RESULTS_FILE in sums


def holds_checkpoints(run: Path) -> bool:
    """Whether a run's folder holds checkpoints, damaged or not."""
    places = (run / BEST).parent
    return places.is_dir() and any(places.iterdir())


def metrics_lines(run: Path, epochs: int) -> bytes:
    """The lines of a run's metrics of its first epochs, as far as they exist.

    Raises:
        DataError: the file cannot be read.
    """
    path = run / METRICS_FILE
    if not path.exists():
        return b""
    with read_errors(path):
        return b"".join(path.read_bytes().splitlines(keepends=True)[:epochs])


def metrics_digest(run: Path, epochs: int) -> str:
    """XXH128 of `metrics_lines`, which a checkpoint holds."""
    return xxhash.xxh3_128_hexdigest(metrics_lines(run, epochs))


def check_metrics(run: Path, meta: Mapping[str, Any]) -> None:
    """Refuse metrics whose lines have changed since a checkpoint was written.

    Args:
        run: the run's folder.
        meta: the checkpoint's description; those of earlier versions hold no digest.

    Raises:
        DataError: the lines differ, or some are missing.
    """
    wanted = meta.get("metrics")
    if wanted is not None and metrics_digest(run, meta["epoch"]) != wanted:
        raise DataError(
            f"{run / METRICS_FILE}: damaged or altered since it was written (the first "
            f"{meta['epoch']} lines are not those that the checkpoint saw); get it back, or train "
            "again"
        )
