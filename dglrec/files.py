"""Atomic writes and checksums: a file or folder is either complete under its name, or not there."""

import ctypes
import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from dglrec.errors import (
    DataError,
    DglrecError,
    UnreadableError,
    UnusableEnvironmentError,
    UsageError,
)
from dglrec.places import TEMPORARY as TEMPORARY
from dglrec.places import Place, RemotePath, store_errors

CHECKSUMS_FILE = "checksums.json"
_BEGUN = f"{TEMPORARY}begun"
_OLD = f"{TEMPORARY}old-"
_CHECKSUM = "checksum"
_NO_SPACE = "no space left on the disk; free some"
_FULL = {
    errno.ENOSPC: _NO_SPACE,
    errno.EDQUOT: _NO_SPACE,
    errno.EFBIG: "a file in it may not be so large; raise the limit (ulimit -f)",
}
_USED_UP = (errno.ENOMEM, errno.EMFILE, errno.ENFILE)
_AT_CWD, _EXCHANGE = -100, 2  # of renameat2(2)


@contextmanager
def disk_errors(path: Place) -> Iterator[None]:
    """Turn a failed write into an error that names the target.

    What goes to a store is first made in a folder for temporary files, whose faults count too.

    Raises:
        DglrecError: the disk is full, the quota is used up, or the folder cannot be written.
        DataError: a folder is where a file belongs.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            if isinstance(path, RemotePath):
                raise DglrecError(
                    f"{path}: no space left in {tempfile.gettempdir()}, where it is made; free "
                    "some, or set TMPDIR"
                ) from error
            if any(part.startswith(TEMPORARY) for part in path.absolute().parts):
                raise  # inside a temporary folder, whose maker names the target
            raise DglrecError(f"{path}: {_FULL[error.errno]}, or write elsewhere") from error
        closed = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
        if closed and isinstance(path, Path) and _concerns(path, error.filename):
            raise DglrecError(f"{path}: cannot be written ({error.strerror})") from error
        blocked = isinstance(error, IsADirectoryError)
        if blocked and isinstance(path, Path) and _concerns(path, error.filename):
            named = error.filename2 or error.filename or path
            raise DataError(f"{named}: is a folder where a file belongs; remove it") from error
        raise


@contextmanager
def read_errors(path: Place) -> Iterator[None]:
    """Turn a failed read into an error that names the file, without calling it damaged.

    Raises:
        DataError: the file is missing, or is no file.
        UnreadableError: the file is there, and cannot be read.
        UnusableEnvironmentError: memory or file handles ran out; the file may be fine.
    """
    try:
        yield
    except MemoryError as error:
        raise UnusableEnvironmentError(f"{path}: out of memory while it was read") from error
    except OSError as error:
        if error.errno in _USED_UP:
            raise UnusableEnvironmentError(
                f"{path}: cannot be read now ({error.strerror}); end other programs, or raise the "
                "limit"
            ) from error
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            raise DataError(f"{path}: no such file") from error
        if isinstance(error, IsADirectoryError):
            raise DataError(f"{path}: is a folder where a file was expected") from error
        what = "no permission to read it"
        if not isinstance(error, PermissionError):
            what = f"cannot be read ({error.strerror or ' '.join(str(error).split())[:120]})"
        raise UnreadableError(f"{path}: {what}") from error


@contextmanager
def atomic_file(path: Place) -> Iterator[Path]:
    """Give a temporary path; if the block succeeds, flush the file and rename it to `path`.

    The temporary file is beside `path`; for a store, it is local and then uploaded. If the block
    raises, the temporary file is removed and `path` is unchanged.
    """
    if isinstance(path, RemotePath):
        with disk_errors(path), tempfile.TemporaryDirectory(prefix=TEMPORARY) as folder:
            yield Path(folder) / path.name
            path.put(Path(folder) / path.name)
        return
    path = Path(path)
    temporary = path.with_name(f"{TEMPORARY}{secrets.token_hex(6)}-{path.name}")
    with disk_errors(path):
        try:
            yield temporary
            _flush(temporary)
            os.replace(temporary, path)
            _flush(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def write_json(path: Place, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: Place) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        DataError: the file is missing or cannot be read, is not JSON, or holds something other than
            an object.
        UnusableEnvironmentError: there is not enough memory to read it.
    """
    try:
        with read_errors(path):
            value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(value, dict):
        raise DataError(f"{path}: holds no JSON object")
    return value


def json_digest(value: Any) -> str:
    """SHA-256 of JSON values, independent of how a file lays them out."""
    value = json.loads(json.dumps(value))  # as JSON stores them: all keys are text
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def with_checksum(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON values with a checksum over all of them, for `fits_checksum`."""
    return {_CHECKSUM: json_digest(values), **values}


def fits_checksum(values: Mapping[str, Any]) -> bool | None:
    """Whether the checksum of `with_checksum` fits the values; None if they have none."""
    checksum = values.get(_CHECKSUM)
    rest = {name: value for name, value in values.items() if name != _CHECKSUM}
    return None if checksum is None else bool(checksum == json_digest(rest))


def write_checksums(folder: Path, names: Sequence[str]) -> None:
    """Write the checksums (XXH128) of some files of a folder, once all of them are written.

    Args:
        folder: holds the files, and gets the file of checksums.
        names: of the files, relative to the folder.
    """
    sums = {name: xxhash.xxh3_128_hexdigest((folder / name).read_bytes()) for name in names}
    write_json(folder / CHECKSUMS_FILE, {"xxh128": sums})


def remove_checksums(folder: Path) -> None:
    """Remove the file of checksums, before a file that it covers is changed."""
    (folder / CHECKSUMS_FILE).unlink(missing_ok=True)


def check_checksums(folder: Path, *, all_there: bool = False) -> None:
    """Refuse a folder whose files do not fit its checksums; without checksums it is accepted.

    Args:
        folder: with or without `CHECKSUMS_FILE`.
        all_there: whether a missing file is refused, too; else this is left to what reads it.

    Raises:
        DataError: a file is damaged or altered.
    """
    while (sums := read_checksums(folder)) is not None:
        try:
            _compare(folder, sums, all_there)
        except DataError:
            # A process that resumes a run removes the checksums first, and writes new ones.
            if read_checksums(folder) == sums:
                raise
        else:
            return


def read_checksums(folder: Path) -> dict[str, Any] | None:
    """The checksums that `write_checksums` wrote, by file name; None if it wrote none.

    Raises:
        DataError: the file of checksums is damaged.
    """
    path = folder / CHECKSUMS_FILE
    try:
        sums = read_json(path).get("xxh128")
    except DataError:
        if not path.exists():
            return None
        raise
    if not isinstance(sums, dict) or not all(map(_is_below, sums)):
        raise DataError(f"{path}: damaged; remove it to do without")
    return sums


def _is_below(name: str) -> bool:
    """Whether a name is a path that stays within a folder."""
    parts = Path(name).parts
    return bool(parts) and ".." not in parts and not Path(name).is_absolute() and "\0" not in name


def _compare(folder: Path, sums: dict[str, Any], all_there: bool) -> None:
    for name, wanted in sums.items():
        path = folder / name
        if not path.exists():
            if all_there:
                raise DataError(
                    f"{path}: no such file, though {CHECKSUMS_FILE} names it; get it back, or "
                    "train again"
                )
            continue
        with read_errors(path):
            found = xxhash.xxh3_128_hexdigest(path.read_bytes())
        if found != wanted:
            raise DataError(
                f"{path}: damaged or altered since it was written (its checksum in "
                f"{CHECKSUMS_FILE} differs); get it back, or train again"
            )


def save_array(path: Path, array: npt.NDArray[Any]) -> None:
    """Write an array as `.npy`; unlike `np.save`, it raises the disk's own error if it is full."""
    array = np.ascontiguousarray(array)
    with path.open("wb") as file:
        header = np.lib.format.header_data_from_array_1_0(array)
        np.lib.format.write_array_header_1_0(file, header)
        file.write(array.data)


def check_target_folder(
    target: Place,
    *,
    marker: str,
    overwrite: bool,
    ignored: str | None = None,
    going_on: str = "",
) -> None:
    """Refuse a target folder that must not be written, before any work is done.

    Args:
        target: the folder to be made.
        marker: a file that only a folder of this kind holds. A folder without it is never
            overwritten, so that a mistyped path does not remove other files.
        overwrite: whether an existing folder may be replaced.
        ignored: a file that may be there all the same.
        going_on: how to go on with what is there, for the message; empty where nobody can.

    Raises:
        UsageError: the target exists and may not be replaced, or no folder can be made there.
    """
    check_possible(target)
    if not target.exists():
        return
    if isinstance(target, RemotePath) and _is_half_written(target, marker):
        return
    if target.is_dir() and all(
        path.name == ignored or path.name.startswith(TEMPORARY) for path in target.iterdir()
    ):
        return
    if not overwrite:
        going_on = going_on and f"{going_on}, "
        raise UsageError(
            f"{target} exists; {going_on}choose another name, or replace it with --overwrite"
        )
    if not target.is_dir() or not (target / marker).exists():
        raise UsageError(
            f"{target} exists and holds no {marker}, so --overwrite will not replace it; "
            "remove it by hand if that is what you want"
        )


def check_target_file(
    target: Place, is_ours: Callable[[Place], bool], what: str, *, overwrite: bool
) -> None:
    """Refuse a target file that must not be written, before any work is done.

    Args:
        target: the file to be made.
        is_ours: whether a file is of the kind that is to be written. No other file is overwritten,
            so that a mistyped path does not remove one.
        what: the kind, for the message.
        overwrite: whether an existing file of this kind may be replaced.

    Raises:
        UsageError: the target is a folder, exists and may not be replaced, or cannot be made.
    """
    check_possible(target)
    if target.is_dir():
        raise UsageError(f"{target}: is a folder; name the file in it, too")
    if not target.exists():
        return
    if not overwrite:
        raise UsageError(f"{target} exists; choose another name, or replace it with --overwrite")
    if not is_ours(target):
        raise UsageError(
            f"{target} exists and is no {what}, so --overwrite will not replace it; remove it by "
            "hand if that is what you want"
        )


def check_possible(target: Place) -> None:
    """Refuse a path at which no folder can be made, before any work is done.

    Raises:
        UsageError: the path is below a file, a name in it is too long, or its bucket is missing.
        DglrecError: the store cannot be reached, or refuses.
    """
    if isinstance(target, RemotePath):
        target.check_bucket()
        return
    try:
        target.absolute().stat()
    except NotADirectoryError as error:
        above = next(parent for parent in target.absolute().parents if parent.exists())
        raise UsageError(f"{target}: {above} is a file; choose a path below a folder") from error
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            raise UsageError(f"{target}: cannot be made ({error.strerror})") from error


@contextmanager
def atomic_folder(
    target: Place, *, marker: str, overwrite: bool = False, aside: Path | None = None
) -> Iterator[Path]:
    """Give a temporary folder beside `target`; if the block succeeds, rename it to `target`.

    If the block raises, the temporary folder is removed and `target` is unchanged. If `target` is a
    link, the folder that it leads to is replaced. Only a single process at a time can write a
    target; the next writer removes what a killed process left behind.

    Args:
        target: as for `check_target_folder`, which also says what is refused.
        marker: likewise.
        overwrite: likewise.
        aside: an unused name on the same file system, to which the replaced folder is moved; None
            removes that folder.

    Raises:
        UsageError: another process is writing `target`, or has written it meanwhile.
    """
    if isinstance(target, RemotePath):
        with _folder_in_store(target, marker=marker, overwrite=overwrite) as temporary:
            yield temporary
        return
    target = Path(target)
    check_target_folder(target, marker=marker, overwrite=overwrite)
    with disk_errors(target), ExitStack() as until_done:
        target = target.resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = until_done.enter_context(_only_writer(target))
        check_target_folder(target, marker=marker, overwrite=overwrite)
        yield temporary
        for path in temporary.rglob("*"):
            if path.is_file():
                _flush(path)
        if overwrite or not _takes_name(temporary, target):
            check_target_folder(target, marker=marker, overwrite=overwrite)
            _replace_folder(temporary, target, aside)
        _flush(target.parent)


@contextmanager
def _folder_in_store(target: RemotePath, *, marker: str, overwrite: bool) -> Iterator[Path]:
    """Give a local temporary folder; if the block succeeds, write its files to `target`.

    A store cannot rename a folder. So `marker` is removed first and written last: whoever waits for
    it finds the files of a single writing. A separate file marks a folder as half-written; such a
    folder is overwritten.
    """
    check_target_folder(target, marker=marker, overwrite=overwrite)
    with disk_errors(target), tempfile.TemporaryDirectory(prefix=TEMPORARY) as name:
        folder = Path(name)
        yield folder
        made = sorted(path.name for path in folder.iterdir())
        (folder / _BEGUN).touch()
        (target / _BEGUN).put(folder / _BEGUN)
        (target / marker).unlink(missing_ok=True)
        for file in (*(name for name in made if name != marker), marker):
            (target / file).put(folder / file)
        for leftover in target.iterdir():
            if leftover.name not in made and leftover.is_file():
                leftover.unlink(missing_ok=True)


def _is_half_written(target: RemotePath, marker: str) -> bool:
    return (target / _BEGUN).exists() and not (target / marker).exists()


def sha256_of(path: Place) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with store_errors(path), path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def sweep(folder: Place) -> None:
    """Remove half-written files of killed processes, and put back folders they had moved aside.

    Call it only while no other process can write in the folder: its files would be removed, too.
    """
    for leftover in folder.glob(f"{TEMPORARY}*"):
        match = re.fullmatch(rf"{re.escape(_OLD)}\d+-(.+)", leftover.name)
        if isinstance(leftover, RemotePath):
            leftover.unlink(missing_ok=True)
        elif match:
            # Its process was killed after moving it aside, perhaps before the new one was there.
            _put_back(leftover, leftover.with_name(match[1]))
        elif leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()


@contextmanager
def _only_writer(target: Path) -> Iterator[Path]:
    """Give a new folder beside `target`, after removing what killed writers of `target` left.

    A writer holds a lock on its folder, which ends with the process in any case. If the file system
    has no locks, other writers are not noticed, and nothing is removed.

    Raises:
        UsageError: another process is writing `target`.
    """
    name = hashlib.sha256(os.fsencode(target.name)).hexdigest()[:12]  # names may be too long
    prefix = f"{TEMPORARY}{name}-"
    with ExitStack() as until_done, ExitStack() as at_start:
        # One process at a time may look for others and begin; this takes no time. A folder that is
        # being made has no other writers, and its lock is held already.
        if not target.parent.name.startswith(TEMPORARY):
            at_start.enter_context(_folder_lock(target.parent, wait=True))
        with at_start:
            for leftover in target.parent.iterdir():
                if leftover.name.startswith(prefix):
                    # It may be gone, if its writer has just finished.
                    with suppress(FileNotFoundError), _folder_lock(leftover) as held:
                        if held is False:
                            raise UsageError(
                                f"{target}: another process is writing it; wait for it, or choose "
                                "another folder"
                            )
                        if held:
                            shutil.rmtree(leftover, ignore_errors=True)
                elif re.fullmatch(rf"{re.escape(_OLD)}\d+-{re.escape(target.name)}", leftover.name):
                    _put_back(leftover, target)
            temporary = target.parent / f"{prefix}{secrets.token_hex(4)}"
            # Registered before it is made, so that a signal in between leaves nothing behind.
            until_done.callback(shutil.rmtree, temporary, ignore_errors=True)
            temporary.mkdir()  # with the user's umask, as this folder will be published
            until_done.enter_context(_folder_lock(temporary))
        yield temporary


@contextmanager
def _folder_lock(folder: Path, *, wait: bool = False) -> Iterator[bool | None]:
    """Lock a folder; gives whether it is locked by us, None if there are no locks."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            held: bool | None = True
        except OSError as error:
            held = False if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else None
        yield held
    finally:
        os.close(descriptor)


def _takes_name(source: Path, target: Path) -> bool:
    """Rename a folder if no file and no other than an empty folder has the name; else False."""
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            return False
        raise
    return True


def _put_back(leftover: Path, target: Path) -> None:
    """Move back a folder that was moved aside, or remove it if the new folder is there."""
    if target.exists():
        shutil.rmtree(leftover)
    else:
        os.rename(leftover, target)


def _replace_folder(source: Path, target: Path, aside: Path | None) -> None:
    if not target.exists():
        os.rename(source, target)
        return
    if _exchange(source, target):
        if aside is None:
            shutil.rmtree(source, ignore_errors=True)  # the next writer may be at it as well
        else:
            os.rename(source, aside)
        return
    old = aside or target.with_name(f"{_OLD}{os.getpid()}-{target.name}")
    os.rename(target, old)
    try:
        os.rename(source, target)
    except BaseException:
        os.rename(old, target)
        raise
    if aside is None:
        shutil.rmtree(old)


def _exchange(source: Path, target: Path) -> bool:
    """Swap two names atomically, so that `target` is there all the time.

    False if that is not possible, as on some network file systems.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    names = os.fsencode(source), os.fsencode(target)
    done: int = libc.renameat2(_AT_CWD, names[0], _AT_CWD, names[1], _EXCHANGE)
    return done == 0


def _concerns(path: Path, named: str | bytes | None) -> bool:
    """Whether an error that names a file is from writing `path`, rather than reading an input."""
    if named is None:
        return True
    place, path = Path(os.fsdecode(named)).absolute(), path.absolute()
    temporary = any(part.startswith(TEMPORARY) for part in place.parts)
    return temporary or path.is_relative_to(place) or place.is_relative_to(path)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
