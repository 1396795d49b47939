"""A file or folder in a store, with the methods of a path."""

import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from dglrec.errors import DataError, UsageError
from dglrec.places.stores import Store, faults_of
from dglrec.places.uri import Uri

TEMPORARY = ".dglrec-tmp-"
"""The start of the names of half-written files and folders."""

_READ_AT_ONCE = 8 << 20


class Status(NamedTuple):
    """The size of a file, named as in `os.stat_result`."""

    st_size: int


class RemotePath:
    """A file or folder in a store, with the methods of `pathlib.Path` that this package uses.

    Failures while reading raise a `DataError`, which is an `UnreadableError` if the file may be
    intact; failures while writing raise a `DglrecError`. All name the place.

    Args:
        store: its URI leads to the file or folder, or to a folder above it.
        relative: the path from there.
    """

    __slots__ = ("_relative", "store")

    def __init__(self, store: Store, relative: str = "") -> None:
        self.store = store
        self._relative = relative

    @classmethod
    def parse(cls, text: str) -> "RemotePath":
        """The place that a URI names; the store is not contacted yet.

        Raises:
            UsageError: the URI names no bucket.
        """
        return cls(Store(Uri.parse(text)))

    def __str__(self) -> str:
        shown = self.store.uri.shown
        return f"{shown}/{self._relative}" if self._relative else shown

    def __repr__(self) -> str:
        return f"RemotePath({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemotePath) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __truediv__(self, name: str | Path) -> "RemotePath":
        return RemotePath(self.store, f"{self._relative}/{name}".strip("/"))

    @property
    def address(self) -> str:
        """Its path in the store's file system."""
        root = self.store.root
        return f"{root.rstrip('/')}/{self._relative}" if self._relative else root

    @property
    def name(self) -> str:
        """The last component of its path."""
        return PurePosixPath(str(self)).name

    @property
    def stem(self) -> str:
        """Its name without the suffix."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """The suffix of its name, with the dot."""
        return PurePosixPath(self.name).suffix

    def with_name(self, name: str) -> "RemotePath":
        """A sibling with another name; works only below the URI that was given."""
        folder = self._relative.rpartition("/")[0]
        return RemotePath(self.store, f"{folder}/{name}".strip("/"))

    def resolve(self) -> "RemotePath":
        """The place itself: stores have no links."""
        return self

    def exists(self) -> bool:
        """Whether anything is there."""
        return self._kind() != "NotFound"

    def is_file(self) -> bool:
        """Whether a file is there."""
        return self._kind() == "File"

    def is_dir(self) -> bool:
        """Whether a folder is there; in an object store, whether any name lies below it."""
        return self._kind() == "Directory"

    def is_symlink(self) -> bool:
        """Never."""
        return False

    def stat(self) -> Status:
        """The size of a file.

        Raises:
            DataError: there is no such file.
        """
        with self._faults():
            size = self.store.filesystem.get_file_info(self.address).size
        if size is None:
            raise DataError(f"{self}: {self.lack('file')}")
        return Status(size)

    def iterdir(self) -> Iterator["RemotePath"]:
        """The entries of the folder, by name; none if there is no such folder."""
        return (self / path for path, _ in self.contents(recursive=False))

    def glob(self, pattern: str) -> Iterator["RemotePath"]:
        """The entries of the folder whose names match a pattern."""
        return (path for path in self.iterdir() if fnmatchcase(path.name, pattern))

    def rglob(self, pattern: str) -> Iterator["RemotePath"]:
        """All that is below the folder and has a name that matches a pattern."""
        paths = (self / path for path, _ in self.contents())
        return (path for path in paths if fnmatchcase(path.name, pattern))

    def contents(self, *, recursive: bool = True) -> list[tuple[str, bool]]:
        """All that is below the folder, ascending: relative paths, and whether each is a file."""
        from pyarrow.fs import FileSelector, FileType

        start = len(self.address.rstrip("/"))
        selector = FileSelector(self.address, allow_not_found=True, recursive=recursive)
        with self._faults():
            found = self.store.filesystem.get_file_info(selector)
        named = [(info.path[start:].strip("/"), info.type == FileType.File) for info in found]
        return sorted((path, is_file) for path, is_file in named if path)

    def open(self, mode: str = "rb") -> Any:
        """A stream of the bytes of a file."""
        assert mode == "rb"
        with self._faults():
            return self.store.filesystem.open_input_stream(
                self.address, compression=None, buffer_size=_READ_AT_ONCE
            )

    def read_bytes(self) -> bytes:
        """All bytes of a file."""
        with self._faults(), self.open() as file:
            return bytes(file.read())

    def read_text(self, encoding: str) -> str:
        """The whole file as text."""
        return self.read_bytes().decode(encoding)

    def mkdir(self, *, parents: bool = False, exist_ok: bool = False) -> None:
        """Does nothing: folders come with the files in them."""
        del parents, exist_ok

    def unlink(self, *, missing_ok: bool = False) -> None:
        """Remove a file."""
        with self._faults(writing=True):
            try:
                self.store.filesystem.delete_file(self.address)
            except FileNotFoundError:
                if not missing_ok:
                    raise

    def put(self, file: Path) -> None:
        """Write the bytes of a local file here; the file appears whole or not at all.

        Raises:
            DglrecError: the file cannot be written.
        """
        with self._faults(writing=True), ThreadPoolExecutor(1) as apart:
            # In a thread, as signals raise in the main thread only: there, in the middle of the
            # upload, they would close the stream, and a store takes a closed stream for complete.
            apart.submit(self._upload, file).result()

    def _upload(self, file: Path) -> None:
        import pyarrow as pa

        filesystem, address = self.store.filesystem, self.address
        size = file.stat().st_size
        if not self.store.shows_whole_files:
            folder, _, name = self.address.rpartition("/")
            address = f"{folder}/{TEMPORARY}{secrets.token_hex(6)}-{name}"
            filesystem.create_dir(folder, recursive=True)
        # Without `compression`, it would compress a file named .gz once more.
        with filesystem.open_output_stream(address, compression=None) as stream:
            if size:
                with pa.memory_map(str(file)) as content:
                    stream.write(content.read_buffer())
        arrived = filesystem.get_file_info(address).size
        if arrived != size:
            filesystem.delete_file(address)
            raise OSError(f"{arrived} of {size} bytes arrived")
        if address != self.address:
            filesystem.move(address, self.address)

    def check_bucket(self) -> None:
        """Refuse to write where there is no bucket, before any work is done.

        Raises:
            UsageError: there is no such bucket.
            DglrecError: this cannot be found out: the store is not reached, or refuses.
        """
        with self._faults(writing=True):
            lacking = self._bucket_is_lacking()
        if lacking:
            raise UsageError(f"{self}: no such bucket; make it first, or choose another")

    def lack(self, what: str) -> str:
        """What is missing where nothing is, as text: the bucket, or what was expected."""
        with self._faults():
            lacking = self._bucket_is_lacking()
        return f"no such bucket as {self.store.uri.bucket}" if lacking else f"no such {what}"

    def _bucket_is_lacking(self) -> bool:
        bucket = self.store.uri.bucket
        if bucket is None:
            return False
        return bool(self.store.filesystem.get_file_info(bucket).type.name == "NotFound")

    def _kind(self) -> str:
        with self._faults():
            return str(self.store.filesystem.get_file_info(self.address).type.name)

    def _faults(self, *, writing: bool = False) -> AbstractContextManager[None]:
        return faults_of(self.store.uri, str(self), writing=writing)
