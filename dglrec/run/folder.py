"""A run's folder, and who may write into it.

config.toml           what it was trained with
environment.json      versions and machine
metrics.jsonl         one line an epoch
results.json          metrics of the best epoch's model
checksums.json        of the files above: of the first two from the start, of all once training has
                      finished. Before that each checkpoint says what the lines of metrics were
train.log             what training said, with times
checkpoints/last/     what training goes on from
checkpoints/step-N/   older ones, kept in case that one is damaged
checkpoints/best/     the epoch with the best validation figure
checkpoints/items/    item-item weights beside its list head, where it has some
checkpoints/derived/  what the model reads that was made from training rows, where it does
tracker/              what a tracker was told, and its files (`train.logger`); without checksums,
                      since trackers change them later
selection/            of a refitted run (`train.refit`): the run, on training rows alone, whose
                      validation rows chose what this one was trained with
.lock                 held by the process that trains
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
    """Be the only process that writes into a folder; it is made where it is missing.

    The lock goes with the process, however that ends.

    Args:
        folder: a run's folder, or another.
        name: the lock's file.
        shown: what messages call the folder.
        wait: whether to wait for another process.

    Yields:
        Whether there is a lock; not every file system has them.

    Raises:
        UsageError: another process is at it.
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
    """Refuse a folder that is somebody else's: of runs, whose own file is not in it.

    Args:
        out: where runs are to be; a folder that holds no more than a lock or what was half written
            is free.
        marker: the file that says whose it is.

    Raises:
        UsageError: it is a file, or holds other things.
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
        raise DataError(f"{run}: holds no {BEST}; its training has not finished an epoch")
    check_checksums(run, all_there=True)
    return load_checkpoint(run / BEST)


def check_is_run(run: Path) -> None:
    """Refuse to resume what is no run.

    Raises:
        DataError: there is none, it was never started, or it is damaged.
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
    """Whether a training came to its end: there are results, and their checksum.

    Runs of earlier versions have no checksums, or none until the end.

    Raises:
        DataError: the checksums are damaged.
    """
    if not (run / RESULTS_FILE).is_file():
        return False
    sums = read_checksums(run)
    return sums is None or RESULTS_FILE in sums


def holds_checkpoints(run: Path) -> bool:
    """Whether there are any in a run's folder, whole or damaged."""
    places = (run / BEST).parent
    return places.is_dir() and any(places.iterdir())


def metrics_lines(run: Path, epochs: int) -> bytes:
    """The lines of a run's metrics of its first epochs, as far as they are there.

    Raises:
        DataError: the file cannot be read.
    """
    path = run / METRICS_FILE
    if not path.exists():
        return b""
    with read_errors(path):
        return b"".join(path.read_bytes().splitlines(keepends=True)[:epochs])


def metrics_digest(run: Path, epochs: int) -> str:
    """XXH128 of `metrics_lines`, which a checkpoint keeps."""
    return xxhash.xxh3_128_hexdigest(metrics_lines(run, epochs))


def check_metrics(run: Path, meta: Mapping[str, Any]) -> None:
    """Refuse metrics whose lines are not those that a checkpoint saw.

    Args:
        run: the run's folder.
        meta: what the checkpoint says; one of an earlier version says nothing of them.

    Raises:
        DataError: they are others, or lines are missing.
    """
    wanted = meta.get("metrics")
    if wanted is not None and metrics_digest(run, meta["epoch"]) != wanted:
        raise DataError(
            f"{run / METRICS_FILE}: damaged or altered since it was written (the first "
            f"{meta['epoch']} lines are not those that the checkpoint saw); get it back, or train "
            "again"
        )
