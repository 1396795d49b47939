"""Refuse tables in which an open quote took whole rows into a value: Arrow reads them silently."""

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dglrec.errors import DataError
from dglrec.ingest.parts import TableFile

_WHOLE = re.compile(r"\s*[0-9]+\s*")
_SHOWN = 60


@dataclass(frozen=True)
class _Rows:
    """What a row of a table looks like.

    Attributes:
        fields: how many fields it has.
        delimiter: between two fields.
        id_place: the index of the field that holds the id.
        whole_ids: whether ids are whole numbers.
    """

    fields: int
    delimiter: str
    id_place: int
    whole_ids: bool

    def hold(self, line: str) -> bool:
        """Whether a line looks like a whole row; prose, unlike rows, has a space after a comma."""
        try:
            (cells,) = csv.reader([line], delimiter=self.delimiter)
        except (csv.Error, ValueError):
            return False
        if len(cells) != self.fields or any(cell[:1] == " " for cell in cells[1:]):
            return False
        return self._is_id(cells[self.id_place])

    def begin(self, line: str) -> bool:
        """Whether a line looks like a row up to the quote that ended the value."""
        first, *more = line.split(self.delimiter)
        return (
            self.id_place == 0
            and bool(more)
            and self._is_id(first)
            and not any(cell[:1] == " " for cell in more)
            and line.count('"') % 2 == 1
        )

    def _is_id(self, cell: str) -> bool:
        cell = cell.strip().strip('"')
        return bool(_WHOLE.fullmatch(cell)) if self.whole_ids else bool(cell)


def refuse_swallowed(
    columns: Mapping[str, Sequence[str]], delimiter: str, id_name: str | None, file: TableFile
) -> None:
    """Refuse a table that has a value whose lines look like rows.

    Args:
        columns: column name -> its texts, as read.
        delimiter: between two fields.
        id_name: the column of ids; None for the first.
        file: the table, which has a header; for messages.

    Raises:
        DataError: a value holds such lines. The message gives the value's row and line, and quotes
            the first line that looks like a row.
    """
    names = list(columns)
    ids = columns[id_name or names[0]]
    whole = sum(1 for value in ids if _WHOLE.fullmatch(value))
    place = names.index(id_name or names[0])
    rows = _Rows(len(names), delimiter, place, whole_ids=2 * whole > len(ids))
    line = 2
    for number in range(len(ids)):
        line_ends = 0
        for name in names:
            value = columns[name][number]
            if "\n" not in value:
                continue
            more = value.split("\n")[1:]
            line_ends += len(more)
            swallowed = [text for text in more if rows.hold(text.rstrip("\r"))]
            if rows.begin(more[-1]) and more[-1] not in swallowed:
                swallowed.append(more[-1])
            if swallowed:
                raise DataError(
                    f"{file}: row {number + 2} (line {line}): {name} runs over {len(more) + 1} "
                    f"lines, {len(swallowed)} of which look like rows ({swallowed[0][:_SHOWN]!r}): "
                    "close the quote before them, or give the table as Parquet if they belong to it"
                )
        line += 1 + line_ends
