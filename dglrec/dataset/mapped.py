"""The files of a prepared data set: mapped when it is opened, verified when they are first read.

`dataset.json` gives the size in bytes and the checksum (XXH128, as `xxhsum -H2` prints it) of each
file, and the type and shape of each array. Opening compares sizes and headers. The first time a
file is used it is read from end to end, once: its checksum is compared and its values are checked.
An open data set stays what it was, even if its folder is replaced meanwhile.
"""

import io
import mmap
import os
import warnings
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from dglrec.dataset.forms import ArrayForm, array_forms, table_rows
from dglrec.dataset.held_out import parquet_faults
from dglrec.dataset.layout import (
    CHECKSUM,
    DATASET_FILE,
    FILES,
    PROOFS,
    SCHEMA_VERSION,
    checksum_of,
    fingerprint_of,
)
from dglrec.errors import DataError, UnreadableError
from dglrec.files import read_errors, read_json
from dglrec.kernels import run_side_by_side
from dglrec.progress import log

_AT_ONCE = 1 << 20  # bytes: so few that they are still in the cache when values are checked
_LONGEST_HEADER = 1 << 14
_ALIGNED = 64  # bytes: where `save_array`, like numpy, aligns the start of an array
_MEND = "prepare the data set again"


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Read a file; errors about it end with what to do."""
    try:
        with read_errors(path):
            yield
    except UnreadableError:
        raise
    except DataError as error:
        if str(error).endswith(_MEND):
            raise
        raise DataError(f"{error}; {_MEND}") from error


class MappedFile:
    """A file, mapped into memory, which is verified when it is first read.

    Args:
        path: the file.
        proof: what `dataset.json` says of the file; None where it says nothing.
        form: what the array in the file must be; None for a table.

    Raises:
        DataError: the file is missing, or has another size, type or shape.
    """

    def __init__(self, path: Path, proof: Mapping[str, Any] | None, form: ArrayForm | None) -> None:
        self.path, self._proof, self._form = path, proof, form
        self._is_proved = False
        with _reading(path):
            if path.is_dir():
                raise IsADirectoryError
            self._descriptor = os.open(path, os.O_RDONLY)
            self._close = weakref.finalize(self, os.close, self._descriptor)
            if not os.fstat(self._descriptor).st_size:
                raise self._damaged("it is empty")
            self._map = mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_COPY)
        if proof is not None and len(self._map) != proof["size"]:
            raise self._damaged(f"{len(self._map):,} bytes in place of {proof['size']:,}")
        self._start, self._array = 0, None
        if form is not None:
            self._start, self._array = self._mapped_array(form)

    @property
    def size(self) -> int:
        """Its size in bytes."""
        return len(self._map)

    def array(self) -> npt.NDArray[Any]:
        """The array, verified.

        It is copy on write: processes share its pages, and torch takes the array without the
        warning that it gives for a read-only map.

        Raises:
            DataError: the file is damaged.
        """
        assert self._array is not None
        self.prove()
        return self._array

    def offsets(self) -> npt.NDArray[np.int64]:
        """An array of offsets, whose order and end were checked; its checksum may come later.

        So the degrees of all nodes are known without reading more.
        """
        assert self._array is not None and self._form is not None and self._form.ends_at is not None
        return self._array

    def table(self) -> pa.BufferReader:
        """The bytes of a table, verified.

        Raises:
            DataError: the file is damaged.
        """
        self.prove()
        return pa.BufferReader(pa.py_buffer(self._map))

    def check_rows(self, rows: int) -> None:
        """Refuse a table with another number of rows; its checksum may come later.

        Raises:
            DataError: the number differs, or the file is no table.
        """
        with parquet_faults(self.path):
            found = pq.ParquetFile(pa.BufferReader(pa.py_buffer(self._map))).metadata.num_rows
        if found != rows:
            raise self._damaged(f"{found:,} rows in place of {rows:,}")

    def prove(self) -> None:
        """Compare the checksum and check the values, unless that was done already.

        Raises:
            DataError: the file was changed since it was written, or holds an impossible value.
        """
        if self._is_proved:
            return
        with _reading(self.path):
            checksum, fault = self._read_through()
        if self._proof is not None and checksum != self._proof["xxh128"]:
            raise self._damaged(f"its checksum is not the one in {DATASET_FILE}")
        if fault is not None:
            raise self._damaged(fault)
        self._is_proved = True
        self._close()

    def describe(self) -> dict[str, Any]:
        """The file's entry for `dataset.json`.

        Raises:
            DataError: the file holds an impossible value.
        """
        checksum, fault = self._read_through()
        if fault is not None:
            raise self._damaged(fault)
        described: dict[str, Any] = {"size": len(self._map), "xxh128": checksum}
        if self._array is not None:
            described |= {"dtype": self._array.dtype.name, "shape": list(self._array.shape)}
        return described

    def _mapped_array(self, form: ArrayForm) -> tuple[int, npt.NDArray[Any]]:
        """The position in the file where the array begins, and the array."""
        head = io.BytesIO(self._map[:_LONGEST_HEADER])
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # numpy warns of headers that are not quite valid
                version = np.lib.format.read_magic(head)
                if version != (1, 0):
                    raise ValueError(f"version {version}")
                shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(head)
        except Exception as error:  # numpy parses the header as Python, which raises many kinds
            raise self._damaged(f"no header of an array: {' '.join(str(error).split())}") from error
        if fortran_order or not form.fits(dtype, shape):
            raise self._damaged(
                f"{dtype} of shape {shape} in place of {form.dtype} of shape {form.shape}"
            )
        start, count = head.tell(), int(np.prod(shape, dtype=np.int64))
        if start % _ALIGNED or start + count * dtype.itemsize != len(self._map):
            raise self._damaged(f"{len(self._map):,} bytes, which is not what its header says")
        array = np.frombuffer(self._map, dtype, count, start).reshape(shape)
        if (fault := form.fault_of_offsets(array)) is not None:
            raise self._damaged(fault)
        return start, array

    def _read_through(self) -> tuple[str, str | None]:
        """The checksum of all bytes, and what is wrong with the values of the array.

        The bytes are read from the file rather than through the map: then an error of the disk is
        an exception, and pages that are not used further do not count as this process's memory.
        """
        digest, fault = xxhash.xxh3_128(), None
        for is_header, part in self._parts():
            digest.update(part.data)
            if self._form is not None and not is_header and fault is None:
                fault = self._form.fault(part.view(self._form.dtype))
        return digest.hexdigest(), fault

    def _parts(self) -> Iterator[tuple[bool, npt.NDArray[np.uint8]]]:
        """All bytes in order, the header apart: it need not be a multiple of a number's size."""
        buffer = np.empty(_AT_ONCE, dtype=np.uint8)
        place, size = 0, len(self._map)
        while place < size:
            end = self._start if place < self._start else size
            part = buffer[: end - place]
            filled = 0
            while filled < len(part):
                read = os.preadv(self._descriptor, [part[filled:].data], place + filled)
                if not read:
                    raise self._damaged("cut off while it was read")
                filled += read
            yield place < self._start, part
            place += filled

    def _damaged(self, how: str) -> DataError:
        return DataError(f"{self.path}: damaged ({how}); {_MEND}")


class MappedFiles:
    """All files of a data set.

    Args:
        path: the data set's folder.
        meta: what `dataset.json` says.
        identity: of `dataset.json` before it was read; None notices no replacement.

    Raises:
        DataError: a file is missing, or has another size, type or shape.
    """

    def __init__(
        self, path: Path, meta: Mapping[str, Any], identity: "_Identity | None" = None
    ) -> None:
        self._path, self._identity = path, identity
        rows, arrays = table_rows(meta), array_forms(meta)
        forms: dict[str, ArrayForm | None] = {**arrays, **dict.fromkeys(rows)}
        proofs = meta.get(FILES, dict.fromkeys(forms))
        if other := proofs.keys() ^ forms.keys():
            raise DataError(f"{path / DATASET_FILE}: damaged (its entry of {min(other)}); {_MEND}")
        self._files = {
            name: MappedFile(path / name, proofs[name], form) for name, form in forms.items()
        }
        for name, count in rows.items() if FILES not in meta else ():
            self._files[name].check_rows(count)

    def __getitem__(self, name: str) -> MappedFile:
        self._log_if_replaced()
        return self._files[name]

    def prove(self) -> None:
        """Verify all files, in parallel; see `MappedFile.prove`."""
        self._log_if_replaced()
        largest_first = sorted(self._files.values(), key=lambda file: -file.size)
        run_side_by_side([file.prove for file in largest_first])

    def faults(self) -> list[str]:
        """What is wrong with each damaged file, in the order of the files' names."""
        found = []
        for _, file in sorted(self._files.items()):
            try:
                file.prove()
            except DataError as error:
                found.append(str(error))
        return found

    def describe(self) -> dict[str, dict[str, Any]]:
        """The entry `FILES` of `dataset.json`."""
        return {name: file.describe() for name, file in sorted(self._files.items())}

    def _log_if_replaced(self) -> None:
        """Log, once, that the folder by now holds another data set than the opened one."""
        if self._identity is not None and _Identity.of(self._path) != self._identity:
            log(
                f"{self._path}: the data set was replaced, or removed, while it was in use; going "
                "on with what was opened"
            )
            self._identity = None


class _Identity(NamedTuple):
    """Distinguishes a `dataset.json` from another that replaces it."""

    device: int
    inode: int
    changed: int
    size: int

    @classmethod
    def of(cls, path: Path) -> "_Identity | None":
        """The identity of the data set in a folder; None if there is none."""
        try:
            found = (path / DATASET_FILE).stat()
        except OSError:
            return None
        return cls(found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size)


def open_files(path: Path) -> tuple[dict[str, Any], MappedFiles]:
    """The content of a folder's `dataset.json`, and the files beside it.

    Raises:
        DataError: it is no data set, has another schema version, or a file is missing or damaged.
    """
    while True:
        identity = _Identity.of(path)
        try:
            meta = _read_description(path)
            found = MappedFiles(path, meta, identity)
        except DataError:
            if _Identity.of(path) == identity:
                raise
        else:
            if _Identity.of(path) == identity:
                return meta, found
        # Replaced while it was opened: the files may be partly of the old, partly of the new set.


def _read_description(path: Path) -> dict[str, Any]:
    file = path / DATASET_FILE
    if not path.is_dir():
        raise DataError(f"{path}: no such data set; make one with `dglrec prepare`")
    if not file.is_file():
        raise DataError(
            f"{path}: holds no {DATASET_FILE}, so it is no prepared data set; make one with "
            "`dglrec prepare`"
        )
    with _reading(file):
        meta = read_json(file)
    version = meta.get("schema_version")
    if version != SCHEMA_VERSION:
        raise DataError(
            f"{file}: data set of schema version {version}; this program reads version "
            f"{SCHEMA_VERSION}; prepare it again"
        )
    proved = not any(entry in meta for entry in PROOFS) or meta.get(CHECKSUM) == checksum_of(meta)
    if not proved or meta.get("fingerprint") != fingerprint_of(meta):
        raise DataError(f"{file}: altered since it was written; prepare it again")
    return meta
