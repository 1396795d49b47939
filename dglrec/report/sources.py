"""What a page is made of, told by its content: runs, or results of studies, searches and others."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from dglrec.compare.runs import SCHEMA_VERSION as COMPARISON_VERSION
from dglrec.errors import DataError, UsageError
from dglrec.files import read_json
from dglrec.study.record import SCHEMA_VERSION as STUDY_VERSION
from dglrec.study.record import STUDY_FILE
from dglrec.tune.record import SCHEMA_VERSION as SEARCH_VERSION
from dglrec.tune.record import TUNE_FILE

BENCHMARK_VERSION = 1

_Form = TypeVar("_Form")
_LARGEST = 2**63
_DEEPEST = 50


class Kind(Enum):
    """What a source is; the value is its plural."""

    RUN = "runs"
    STUDY = "studies"
    SEARCH = "searches"
    COMPARISON = "comparisons"
    BENCHMARK = "benchmarks"


_WORDS = {
    Kind.RUN: "a run",
    Kind.STUDY: "a study",
    Kind.SEARCH: "a search of tune",
    Kind.COMPARISON: "the JSON of compare",
    Kind.BENCHMARK: "the JSON of a benchmark",
}
_OF_FOLDERS = ((STUDY_FILE, Kind.STUDY, STUDY_VERSION), (TUNE_FILE, Kind.SEARCH, SEARCH_VERSION))
_OF_FILES = (
    ({"metrics", "runs", "differences"}, Kind.COMPARISON, COMPARISON_VERSION),
    ({"variants", "reference"}, Kind.STUDY, STUDY_VERSION),
    ({"trials", "slices"}, Kind.SEARCH, SEARCH_VERSION),
    ({"machine", "rows"}, Kind.BENCHMARK, BENCHMARK_VERSION),
)


@dataclass(frozen=True)
class Source:
    """A file or a folder that is shown.

    Attributes:
        path: where it is.
        kind: what it is.
        values: the JSON of a file; of a folder of a study or of a search what it was begun with,
            of a run's nothing.
    """

    path: Path
    kind: Kind
    values: dict[str, Any]


def recognise(sources: Sequence[Path]) -> list[Source]:
    """Sources with their kind, the same for all. Files are read once, and so may be pipes.

    Raises:
        UsageError: one is given twice, or they are of several kinds.
        DataError: one is not there, cannot be read, is of no kind or of a later schema.
    """
    check_once(sources)
    found = [_recognise(source) for source in sources]
    for other in found[1:]:
        if other.kind != found[0].kind:
            raise UsageError(
                f"{other.path}: is {_WORDS[other.kind]}, and {found[0].path} is "
                f"{_WORDS[found[0].kind]}; a page is about one kind, so write two"
            )
    return found


def check_once(sources: Sequence[Path]) -> None:
    """Refuse a source that is there twice, under whatever name.

    Raises:
        UsageError: one is.
    """
    places = [source.resolve() for source in sources]
    for place, source in zip(places, sources, strict=True):
        if places.count(place) > 1:
            raise UsageError(f"{source}: given twice; give each once")


def _recognise(source: Path) -> Source:
    if source.is_dir():
        for name, kind, version in _OF_FOLDERS:
            if (source / name).is_file():
                return Source(source, kind, read_values(source / name, version))
        return Source(source, Kind.RUN, {})  # who opens it says what else it is
    if not source.exists():
        raise DataError(
            f"{source}: no such file or folder; name runs, a study, a search of tune, or the JSON "
            "of compare or of a benchmark"
        )
    values = read_values(source)
    for keys, kind, version in _OF_FILES:
        if keys <= set(values):
            _check_version(source, values, version)
            return Source(source, kind, values)
    raise DataError(
        f"{source}: holds nothing that a page is made of; give the JSON of compare, of a study or "
        "of a benchmark, or the folder of a run, a study or a search"
    )


def read_values(path: Path, version: int | None = None) -> dict[str, Any]:
    """A JSON object whose numbers can all be drawn.

    Args:
        path: of the file.
        version: the schema that it has to be of; None for any.

    Raises:
        DataError: it cannot be read, is of another schema, or has a number that is not finite or
            too large for 64 bits.
    """
    values = read_json(path)
    for number in _numbers(values, path):
        if abs(number) > _LARGEST if isinstance(number, int) else not math.isfinite(number):
            raise DataError(
                f"{path}: damaged, as one of its numbers is infinite, too large or none (NaN)"
            )
    if version is not None:
        _check_version(path, values, version)
    return values


def checked(form: type[_Form], values: Any, path: Path, *, what: str) -> _Form:
    """Values of a file as a form of pydantic's.

    Args:
        form: a model, or a dataclass.
        values: what the file has.
        path: of the file, for the message.
        what: it should be.

    Raises:
        DataError: the values do not fit; the message says which, and how.
    """
    try:
        return TypeAdapter(form).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "its content"
        said = first["msg"][:1].lower() + first["msg"][1:]
        raise DataError(
            f"{path}: damaged, or no {what} of this version: {place}: {said}; make it again"
        ) from error


def _check_version(path: Path, values: dict[str, Any], version: int) -> None:
    """Refuse another schema. What has no version was written before there were any."""
    found = values.get("schema_version", version)
    if found != version:
        raise DataError(
            f"{path}: of schema version {found}; this program reads version {version}; take the "
            "dglrec that wrote it, or make it again"
        )


def _numbers(value: Any, path: Path) -> Iterator[int | float]:
    """All numbers in JSON.

    Raises:
        DataError: it is deeper than anything that this program writes.
    """
    waiting = [(value, 0)]
    while waiting:
        one, depth = waiting.pop()
        if depth > _DEEPEST:
            raise DataError(f"{path}: holds lists or objects in each other, more than {_DEEPEST}")
        if isinstance(one, dict):
            waiting += [(inner, depth + 1) for inner in one.values()]
        elif isinstance(one, list):
            waiting += [(inner, depth + 1) for inner in one]
        elif isinstance(one, int | float):
            yield one
