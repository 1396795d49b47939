"""Error messages about files of tables, from the exceptions of Arrow, the system and stores."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa

from dglrec.errors import DataError, UnusableEnvironmentError
from dglrec.files import read_errors
from dglrec.places import Place, RemotePath, is_fault_of_store, store_errors

SHOWN_CHARACTERS = 40
_OUT_OF_RANGE = "out of range; whole numbers must lie below 2^63"


@contextmanager
def faults(file: Place) -> Iterator[None]:
    """Turn what Arrow, the system and stores raise about a file into errors that a user can read.

    Raises:
        DataError: the file is missing or damaged, or cannot be read.
        UnusableEnvironmentError: memory ran out.
    """
    try:
        yield
    except MemoryError as error:  # Arrow's is a MemoryError and an ArrowException
        raise UnusableEnvironmentError(f"{file}: out of memory while it was read") from error
    except pa.ArrowException as error:
        kind = "Parquet" if file.suffix.lower() == ".parquet" else "CSV"
        raise DataError(f"{file}: not readable as {kind} ({short(str(error))})") from error
    except OSError as error:
        message = str(error)
        if isinstance(file, RemotePath) and is_fault_of_store(error):
            with store_errors(file):
                raise
        if "Truncated compressed stream" in message:
            what = "its gzip data end too early; fetch the file again"
        elif "inflate" in message:
            what = "is no gzip data, or damaged; fetch the file again"
        elif file.suffix.lower() == ".parquet" and error.errno is None:
            what = f"damaged Parquet ({short(message)}); fetch the file again"
        else:
            with store_errors(file), read_errors(file):
                raise
        raise DataError(f"{file}: {what}") from error
    except Exception:  # fsspec raises many kinds
        with store_errors(file):
            raise


def explained(
    error: pa.ArrowInvalid,
    file: Place,
    names: Sequence[str],
    read_again: Callable[[], None],
    longest_row: int,
) -> DataError:
    """Say in which row a text file is bad, and how.

    Args:
        error: what reading the file raised.
        file: the file.
        names: its columns.
        read_again: reads the file in a single thread, which raises again, now with the row's
            number: Arrow counts rows only then.
        longest_row: how many bytes a row may have.
    """
    message = str(error)
    try:
        read_again()
    except pa.ArrowInvalid as numbered:
        message = str(numbered)
    row = re.search(r"Row #(\d+): ", message)
    where = f"{file}: row {row[1]}" if row else f"{file}"
    if fields := re.search(r"Expected (\d+) columns, got (\d+): (.*)", message, re.DOTALL):
        return DataError(
            f"{where}: {fields[2]} fields where {fields[1]} were expected ({short(fields[3])!r})"
        )
    column = re.search(r"In CSV column #(\d+)", message)
    name = names[int(column[1])] if column else "a value"
    if "invalid UTF8 data" in message:
        return DataError(f"{where}: {name} is no UTF-8 text; save the file as UTF-8")
    if value := re.search(
        r"conversion error to ([^:]+): invalid value '(.*)'$", message, re.DOTALL
    ):
        return DataError(f"{where}: {_fault_of_value(name, value[1], value[2])}")
    if "Empty CSV file" in message:
        return DataError(f"{file}: holds a header and no rows")
    if "straddling" in message:
        return DataError(
            f"{file}: a row is longer than {longest_row >> 20} MiB, or a quote is open"
        )
    return DataError(f"{where}: not readable as CSV ({short(message)})")


def fault_of_whole_number(name: str, value: str) -> str:
    """Why a text is not a whole number from 0 and below 2^63, for a message about a row."""
    plain = value.strip()
    if not plain:
        return f"{name} is missing"
    if re.fullmatch(r"[-+]?0[0-9]+", plain):
        return (
            f"{name} begins with a zero ({short(value)!r}) where ids are whole numbers: write it "
            "without, or give all ids as text, in Parquet"
        )
    if re.fullmatch(r"-?[0-9]+", plain):
        whole = int(plain)
        what = "negative" if -(2**63) <= whole < 0 else _OUT_OF_RANGE
        return f"{name} is {what} ({short(value)!r})"
    return f"{name} is no whole number ({short(value)!r})"


def _fault_of_value(name: str, kind: str, value: str) -> str:
    if not value.strip():
        return f"{name} is missing"
    if kind.startswith("int"):
        if re.fullmatch(r"\s*-?\d+\s*", value):
            return f"{name} is {_OUT_OF_RANGE} ({short(value)!r})"
        return f"{name} is no whole number ({short(value)!r})"
    if kind in ("float", "double"):
        return f"{name} is no number ({short(value)!r})"
    return f"{name} is no {kind} as those before it ({short(value)!r})"


def short(text: str) -> str:
    """A text on a single line, shortened to fit a message."""
    text = " ".join(text.split())
    return text if len(text) <= 3 * SHOWN_CHARACTERS else text[: 3 * SHOWN_CHARACTERS] + "..."
