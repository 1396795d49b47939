"""`Registry`: the entries that names in a configuration stand for, which can be added to."""

from collections.abc import Iterable
from typing import TypeVar

from pydantic_core import PydanticCustomError

from dglrec.errors import UsageError
from dglrec.schema import is_name

_Entry = TypeVar("_Entry")


class Registry(dict[str, _Entry]):
    """Entries by name: those of the package, defined beside what they name, and added entries.

    Args:
        what: the kind of entry, for messages: "loss".
        key: the setting that takes the names.
        added_by: the function that adds an entry, for messages.
        taken: names that cannot be added, as they have another meaning.

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
            name: lowercase letters, digits and underscores, a letter first.
            entry: what the name stands for.
            replace: whether an entry that was added before may be replaced.

        Raises:
            UsageError: the name is not allowed, or taken.
        """
        if not isinstance(name, str) or not is_name(name):
            raise UsageError(
                f"{self.what} {name!r}: is no name; take lowercase letters, digits and "
                "underscores, beginning with a letter"
            )
        if name in self.added and not replace:
            raise UsageError(
                f"{self.what} {name}: is registered already; choose another name, or replace it "
                "with replace=True"
            )
        if name in self._taken or (name in self and name not in self.added):
            raise UsageError(f"{self.what} {name}: this name comes with dglrec; choose another")
        self[name] = entry
        self.added.add(name)

    def remove(self, name: str) -> None:
        """Remove an entry that was added."""
        self.added.remove(name)
        del self[name]

    def known(self, name: str) -> str:
        """The name itself if it is known; a validator for a configuration's types.

        Raises:
            PydanticCustomError: the name is not known; the message lists the known names.
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
