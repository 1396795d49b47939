"""Places of files: a path on this machine, or a URI in a store such as `s3://bucket/folder`.

A `RemotePath` has the methods of `pathlib.Path` that this package uses, so that code that reads and
writes files need not know which of the two it has. Stores are reached through `pyarrow.fs`, and
through `fsspec` if pyarrow has no file system for the scheme. Waiting for a store is bounded, and
messages never show the parts of a URI that may hold credentials: its user and its query.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from urllib.parse import unquote

from dglrec.errors import DataError, UsageError
from dglrec.places.globs import folder_and_pattern, matches
from dglrec.places.remote import TEMPORARY, RemotePath
from dglrec.places.stores import faults_of, is_fault_of_store
from dglrec.places.uri import is_uri

__all__ = [
    "TEMPORARY",
    "Place",
    "RemotePath",
    "contents",
    "folder_and_pattern",
    "is_fault_of_store",
    "is_uri",
    "local_path",
    "matches",
    "place_of",
    "store_errors",
]

Place = Path | RemotePath
"""A file or folder, local or in a store."""


def place_of(given: str | Place) -> Place:
    """The place that a path or a URI names; a `file://` URI names a path.

    >>> place_of("file:///data/a%20b.csv")
    PosixPath('/data/a b.csv')
    >>> place_of("s3://key:secret@bucket/a.csv?region=eu-west-1")
    RemotePath('s3://bucket/a.csv')

    Raises:
        UsageError: a URI names no bucket, or a file on another machine.
    """
    if not isinstance(given, str):
        return given
    if not is_uri(given):
        return Path(given)
    if not given.lower().startswith("file://"):
        return RemotePath.parse(given)
    host, slash, path = given[len("file://") :].partition("/")
    if host not in ("", "localhost") or not path:
        raise UsageError(f"{given}: names no file of this machine; write file:///PATH")
    return Path(slash + unquote(path))


def local_path(given: str | Place) -> Path:
    """The path that an argument names, which must be on this machine.

    Raises:
        UsageError: the argument names a place in a store.
    """
    place = place_of(given)
    if isinstance(place, RemotePath):
        raise UsageError(
            f"{place}: is in a store; give a path of this machine (data sets and runs are "
            "memory-mapped; URIs are for what prepare and score read, and score and export write)"
        )
    return place


def contents(folder: Place) -> list[tuple[str, bool]]:
    """All that is below a folder, ascending: relative paths with slashes, and whether it is a file.

    Raises:
        DataError: a link leads to a folder that it is in.
    """
    if isinstance(folder, RemotePath):
        return folder.contents()
    return sorted(_walk(folder, folder, ()))


def _walk(folder: Path, start: Path, above: tuple[Path, ...]) -> Iterator[tuple[str, bool]]:
    real = folder.resolve()
    if real in above:
        raise DataError(f"{folder}: is a link to a folder that it lies in; remove it")
    for entry in folder.iterdir():
        is_folder = entry.is_dir()
        yield entry.relative_to(start).as_posix(), not is_folder
        if is_folder:
            yield from _walk(entry, start, (*above, real))


def store_errors(place: Place, *, writing: bool = False) -> AbstractContextManager[None]:
    """Turn what a store raises into an error that names the place; does nothing for a local path.

    Raises:
        DataError: nothing is there to be read.
        UnreadableError: the place cannot be read.
        DglrecError: the place cannot be written.
    """
    if isinstance(place, RemotePath):
        return faults_of(place.store.uri, str(place), writing=writing)
    return nullcontext()
