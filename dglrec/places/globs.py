"""Patterns of paths: `ratings/*.parquet`, `ratings/**/part-?.csv`, `s3://bucket/year=20*`."""

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from dglrec.places.remote import RemotePath
from dglrec.places.stores import Store

_WILD = re.compile(r"[*?\[]")


def folder_and_pattern(place: Path | RemotePath) -> tuple[Path | RemotePath, str] | None:
    """Split a pattern into the folder to search and the pattern in it; None for a plain path.

    >>> folder_and_pattern(Path("data/year=*/a.csv"))
    (PosixPath('data'), 'year=*/a.csv')
    """
    address = place.store.uri.address if isinstance(place, RemotePath) else str(place)
    names = address.split("/")
    wild = next((at for at, name in enumerate(names) if _WILD.search(name)), None)
    if wild is None:
        return None
    above, pattern = "/".join(names[:wild]), "/".join(names[wild:])
    if isinstance(place, RemotePath):
        return RemotePath(Store(place.store.uri.at(above))), pattern
    return Path(above or ("/" if address.startswith("/") else ".")), pattern


def matches(pattern: str, path: str) -> bool:
    """Whether a pattern matches a file or a folder above it; `**` matches any number of folders.

    >>> matches("**/*.csv", "a/b/c.csv"), matches("year=*", "year=1/a.csv"), matches("*.c", "a/b.c")
    (True, True, False)
    """
    names, wanted = path.split("/"), pattern.split("/")
    return any(_meets(wanted, names[:count]) for count in range(1, len(names) + 1))


def _meets(wanted: Sequence[str], names: Sequence[str]) -> bool:
    if not wanted:
        return not names
    if wanted[0] == "**":
        return any(_meets(wanted[1:], names[start:]) for start in range(len(names) + 1))
    return bool(names) and fnmatchcase(names[0], wanted[0]) and _meets(wanted[1:], names[1:])
