"""What a name in a configuration stands for: `Registry`, which others can add to."""

from collections.abc import Iterable
from typing import TypeVar

from pydantic_core import PydanticCustomError

from dglrec.errors import UsageError
from dglrec.schema import is_name

_Entry = TypeVar("_Entry")


class Registry(dict[str, _Entry]):
    """Entries by name: those of the package, which stand beside what they name, and added ones.

    Args:
        what: a name stands for, in messages: "loss".
        key: the setting that takes the names.
        added_by: what adds an entry, in messages.
        taken: names that may not be added, as they stand for something elsewhere.

    Attributes:
        added: the names that `add` was given.
    """

    def __init__(self, what: str, key: str, added_by: str, taken: Iterable[str] = ()) -> None:
        super().__init__()
        self.what, self.key, self._added_by = what, key, added_by
        self._taken = tuple(taken)
        self.added: set[str] = set()

    def add(self, name: str, entry: _Entry, *, replace: bool = False) -> None:
        """Add an entry.

        Args:
            name: lowercase letters, digits and underscores, from a letter on.
            entry: what it stands for.
            replace: whether one that was added before may go.

        Raises:
            UsageError: the name is none, or taken.
        """
        if not isinstance(name, str) or not is_name(name):
            raise UsageError(
                f"{self.what} {name!r}: is no name; take lowercase letters, digits and "
                "underscores, a letter first"
            )
        if name in self.added and not replace:
            raise UsageError(
                f"{self.what} {name}: is registered already; choose another name, or put it in "
                "its place with replace=True"
            )
        if name in self._taken or (name in self and name not in self.added):
            raise UsageError(
                f"{self.what} {name}: the name is taken by one that comes with dglrec; choose "
                "another"
            )
        self[name] = entry
        self.added.add(name)

    def remove(self, name: str) -> None:
        """Take out an entry that was added."""
        self.added.remove(name)
        del self[name]

    def known(self, name: str) -> str:
        """The name itself, where it stands for something: for a configuration's types.

        Raises:
            PydanticCustomError: it does not; names those that do.
        """
        names = [*self, *self._taken]
        if name not in names:
            *others, last = map(repr, names)
            raise PydanticCustomError(
                "literal_error",
                "Input should be {expected} or what {added_by} adds",
                {"expected": ", ".join((*others, last)), "added_by": self._added_by},
            )
        return name
