"""Embeddings on disk, in an SQLite file, by a hash of everything that an embedding depends on."""

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from dglrec.progress import log

CACHE_FILE = "text-embeddings.sqlite"

_VERSION = 1
_AT_ONCE = 500  # SQLite takes at least 999 parameters in a statement
_SCHEMA = (
    "CREATE TABLE embeddings (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID",
    "CREATE TABLE widths (model TEXT PRIMARY KEY, width INTEGER NOT NULL)",
    f"PRAGMA user_version = {_VERSION}",
)

T = TypeVar("T")


def default_cache() -> Path:
    """The folder of the cache: `$DGLREC_CACHE`, or `dglrec` in the user's cache folder."""
    if chosen := os.environ.get("DGLREC_CACHE"):
        return Path(chosen)
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "dglrec"
    return Path.home() / ".cache" / "dglrec"


class EmbeddingCache:
    """Keys -> bytes, safe for several processes. A damaged file is logged and replaced.

    A cache that cannot be used is logged, once, and from then on holds nothing: what it would have
    held can be computed.

    Args:
        folder: the cache's folder, made where missing. The file in it has a fixed name, so that a
            mistyped folder never overwrites another file.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / CACHE_FILE
        self._connection: sqlite3.Connection | None = None
        self._given_up = False
        self._run(lambda connection: None, None)

    def close(self) -> None:
        """Close the file. A later call opens it again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def get(self, keys: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
        """The pairs of key and value for keys that are in the cache, in no particular order."""
        for start in range(0, len(keys), _AT_ONCE):
            yield from self._select(keys[start : start + _AT_ONCE])

    def _select(self, keys: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
        places = ",".join("?" * len(keys))
        statement = f"SELECT key, value FROM embeddings WHERE key IN ({places})"
        return self._run(lambda connection: connection.execute(statement, keys).fetchall(), [])

    def put(self, rows: Iterable[tuple[bytes, bytes]]) -> None:
        """Write pairs of key and value in a single transaction."""
        pairs = list(rows)

        def write(connection: sqlite3.Connection) -> None:
            with connection:
                connection.executemany("INSERT OR REPLACE INTO embeddings VALUES (?, ?)", pairs)

        self._run(write, None)

    def width(self, model: str) -> int | None:
        """How wide a model's embeddings are; None if the cache has none of the model."""
        statement = "SELECT width FROM widths WHERE model = ?"
        row = self._run(lambda connection: connection.execute(statement, (model,)).fetchone(), None)
        return row[0] if row and isinstance(row[0], int) and row[0] > 0 else None

    def set_width(self, model: str, width: int) -> None:
        """Note how wide a model's embeddings are."""

        def write(connection: sqlite3.Connection) -> None:
            with connection:
                connection.execute("INSERT OR REPLACE INTO widths VALUES (?, ?)", (model, width))

        self._run(write, None)

    def _run(self, action: Callable[[sqlite3.Connection], T], otherwise: T) -> T:
        """Apply `action` to the open file; if the file is damaged, to a new one.

        Args:
            action: takes the file.
            otherwise: the result if the file cannot be used.
        """
        if self._given_up:
            return otherwise
        try:
            try:
                return action(self._open())
            except sqlite3.OperationalError:
                raise
            except sqlite3.DatabaseError as error:
                self._discard(str(error))
                return action(self._open())
        except (sqlite3.Error, OSError) as error:
            self._given_up = True
            log(
                f"{self.path}: cache of text embeddings not usable ({error}); going on without it: "
                "set DGLREC_CACHE to a folder that can be written and has space"
            )
            return otherwise

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(self.path, timeout=60.0)
            try:
                _prepare(connection)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _discard(self, reason: str) -> None:
        log(f"{self.path}: damaged cache of text embeddings ({reason}); beginning a new one")
        self.close()
        for suffix in ("", "-journal", "-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)


def check_cache(folder: Path) -> str | None:
    """Why the cache in a folder cannot be used; None if it can be, or does not exist yet.

    Nothing is changed: a damaged file is replaced at its next use.
    """
    path = folder / CACHE_FILE
    if not path.exists():
        return None
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=rw", uri=True)) as connection:
            _is_ours(connection)
            connection.execute("BEGIN IMMEDIATE")
            connection.rollback()
    except (sqlite3.OperationalError, OSError) as error:
        return str(error)
    except sqlite3.DatabaseError:
        pass  # damaged
    return None


def _prepare(connection: sqlite3.Connection) -> None:
    """Make the tables of a new file.

    Raises:
        sqlite3.DatabaseError: the file is no database, or has another kind or version.
    """
    if _is_ours(connection):
        return
    # If several processes find no file, one makes the tables, and the others wait here.
    connection.execute("BEGIN EXCLUSIVE")
    with connection:
        if not _is_ours(connection):
            for statement in _SCHEMA:
                connection.execute(statement)


def _is_ours(connection: sqlite3.Connection) -> bool:
    """Whether the cache's tables are there; False for a new file."""
    names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if not names and version == 0:
        return False
    if version != _VERSION or not names >= {"embeddings", "widths"}:
        raise sqlite3.DatabaseError(f"version {version} with tables {sorted(names)}")
    return True
