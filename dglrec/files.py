"""Atomic writes and checksums: what a reader finds under a name is whole, or is not there."""

import ctypes
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dglrec.errors import (
    DataError,
    DglrecError,
    UnreadableError,
    UnusableEnvironmentError,
    UsageError,
)

TEMPORARY = ".dglrec-tmp-"
_OLD = f"{TEMPORARY}old-"
_USED_UP = (errno.ENOMEM, errno.EMFILE, errno.ENFILE)
_AT_CWD, _EXCHANGE = -100, 2  # of renameat2(2)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a failed write into an error that names the target.

    Raises:
        DglrecError: the disk is full, the quota is used up, or the folder cannot be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            if any(part.startswith(TEMPORARY) for part in path.absolute().parts):
                raise  # inside a folder that is being made; who makes it names its target
            raise DglrecError(
                f"{path}: no space left on the disk; free some, or write elsewhere"
            ) from error
        closed = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
        if closed and _concerns(path, error.filename):
            raise DglrecError(f"{path}: cannot be written ({error.strerror})") from error
        raise


@contextmanager
def read_errors(path: Path) -> Iterator[None]:
    """Turn a failed read into an error that names the file, and does not call it damaged.

    Raises:
        DataError: it is not there, or is no file.
        UnreadableError: it is there, and cannot be read.
        UnusableEnvironmentError: memory or file handles ran out; the file may be as it should.
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
def atomic_file(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; when the block ends well, flush and rename it to `path`.

    When the block raises, the temporary file is removed and `path` is as it was.
    """
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


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Read one JSON object.

    Raises:
        DataError: the file is missing or cannot be read, is not JSON, or holds something other than
            an object.
        UnusableEnvironmentError: there is no memory to read it.
    """
    try:
        with read_errors(path):
            value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(value, dict):
        raise DataError(f"{path}: holds no JSON object")
    return value


def save_array(path: Path, array: npt.NDArray[Any]) -> None:
    """Write an array as `.npy`. `np.save` does not say that it was the disk that filled up."""
    array = np.ascontiguousarray(array)
    with path.open("wb") as file:
        header = np.lib.format.header_data_from_array_1_0(array)
        np.lib.format.write_array_header_1_0(file, header)
        file.write(array.data)


def check_target_folder(
    target: Path, *, marker: str, overwrite: bool, ignored: str | None = None
) -> None:
    """Refuse a target folder that must not be written, before any work is done.

    Args:
        target: the folder to be made.
        marker: a file that only a folder of this kind holds. Overwriting is refused where it is
            missing, so that a mistyped path never removes somebody's other files.
        overwrite: whether an existing folder may be replaced.
        ignored: a file that may be there all the same.

    Raises:
        UsageError: the target exists and may not be replaced, or no folder can be made there.
    """
    check_possible(target)
    if not target.exists():
        return
    if target.is_dir() and all(
        path.name == ignored or path.name.startswith(TEMPORARY) for path in target.iterdir()
    ):
        return
    if not overwrite:
        raise UsageError(f"{target} exists; choose another name, or replace it with --overwrite")
    if not target.is_dir() or not (target / marker).exists():
        raise UsageError(
            f"{target} exists and holds no {marker}, so --overwrite will not replace it; "
            "remove it by hand if that is what you want"
        )


def check_possible(target: Path) -> None:
    """Refuse a path at which no folder can be made, before any work is done.

    Raises:
        UsageError: it lies below a file, or a name in it is too long.
    """
    try:
        target.absolute().stat()
    except NotADirectoryError as error:
        above = next(one for one in target.absolute().parents if one.exists())
        raise UsageError(f"{target}: {above} is a file; choose a path below a folder") from error
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            raise UsageError(f"{target}: cannot be made ({error.strerror})") from error


@contextmanager
def atomic_folder(
    target: Path, *, marker: str, overwrite: bool = False, aside: Path | None = None
) -> Iterator[Path]:
    """Give a temporary folder beside `target`; when the block ends well, rename it to `target`.

    When the block raises, the temporary folder is removed and `target` is as it was. Where
    `target` is a link, the folder that it leads to is replaced.

    Args:
        target: as for `check_target_folder`, which also says what is refused.
        marker: likewise.
        overwrite: likewise.
        aside: a name on the same file system, not in use, for the folder that is replaced; None
            removes that folder.
    """
    target = Path(target)
    check_target_folder(target, marker=marker, overwrite=overwrite)
    with disk_errors(target):
        target = target.resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=target.parent))
        try:
            # mkdtemp makes the folder private; what is published follows the user's umask.
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o777 & ~umask)
            yield temporary
            for path in temporary.rglob("*"):
                if path.is_file():
                    _flush(path)
            _replace_folder(temporary, target, aside)
            _flush(target.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def sweep(folder: Path) -> None:
    """Remove what a killed process left half-written, and put back what it had moved aside.

    Only for whoever keeps all others from writing there: what they are writing would go too.
    """
    for left in folder.glob(f"{TEMPORARY}*"):
        if match := re.fullmatch(rf"{re.escape(_OLD)}\d+-(.+)", left.name):
            # Killed after it went aside and before the new one was in place.
            target = left.with_name(match[1])
            if not target.exists():
                os.rename(left, target)
                continue
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left)
        else:
            left.unlink()


def _replace_folder(source: Path, target: Path, aside: Path | None) -> None:
    if not target.exists():
        os.rename(source, target)
        return
    if _exchange(source, target):
        if aside is None:
            shutil.rmtree(source)
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
    """Swap two names at once, so that `target` is there all the time.

    False where that is not to be had, as on some network file systems.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    names = os.fsencode(source), os.fsencode(target)
    done: int = libc.renameat2(_AT_CWD, names[0], _AT_CWD, names[1], _EXCHANGE)
    return done == 0


def _concerns(path: Path, named: str | bytes | None) -> bool:
    """Whether an error that names a file came of writing `path`, and not of reading an input."""
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
