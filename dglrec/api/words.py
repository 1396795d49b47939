"""Error messages that name options of the command line, reworded for callers from Python."""

import re
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from dglrec.errors import DglrecError

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

_SETTING = re.compile(r"--set ([a-z_]+\.[a-z_]+)=([^\s;,:)]+)")
_VALUES = {
    "config": "gsp",
    "device": "auto|cpu|cuda",
    "diverse": "genres|embedding|series",
    "history": "train|valid|all",
    "known": "error|extend|replace",
    "order": "lists|rating",
    "unknown": "error|skip|null",
}
_VALUED = re.compile("|".join(rf"--({name}) ({values})\b" for name, values in _VALUES.items()))
_SWITCH = re.compile(r"--(details|explain|overwrite)\b")
_OPTION = re.compile(r"--([a-z]+(?:-[a-z]+)*)")

# Options whose keyword has another name.
_RENAMED = {
    "attribute": "attributes",
    "item_table": "items",
    "no_text": "text=False",
    "relation": "relations",
    "resume": "Recommender.resume",
    "top_k": "k",
}


def in_python(message: str) -> str:
    """A message with keywords in place of options.

    >>> in_python("--unknown skip goes on without them")
    "unknown='skip' goes on without them"
    >>> in_python("train with --set model.kind=graph, or take --user-table")
    "train with settings={'model.kind': 'graph'}, or take user_table"
    """
    message = _SETTING.sub(lambda found: f"settings={{'{found[1]}': {_value(found[2])}}}", message)
    message = _VALUED.sub(_valued, message)
    message = _SWITCH.sub(r"\1=True", message)
    return _OPTION.sub(lambda found: _renamed(found[1].replace("-", "_")), message)


def without_path(message: str) -> str:
    """As `in_python`, for a training in a temporary folder, which cannot be resumed.

    >>> without_path("stopped after epoch 1; go on with --resume")
    'stopped after epoch 1; it is kept, to go on with, only with path=...'
    """
    kept = "; it is kept, to go on with, only with path=..."
    return in_python(message.replace("; go on with --resume", kept))


def speaks_python(
    function: Callable[_Arguments, _Result],
) -> Callable[_Arguments, _Result]:
    """A decorator: the package's errors that the function raises say what to do in Python."""

    @wraps(function)
    def speaking(*arguments: _Arguments.args, **options: _Arguments.kwargs) -> _Result:
        try:
            return function(*arguments, **options)
        except DglrecError as error:
            error.args = (in_python(str(error)),)
            raise

    return speaking


def _valued(found: re.Match[str]) -> str:
    name, value = (group for group in found.groups() if group is not None)
    return f"{name}={value!r}"


def _renamed(name: str) -> str:
    return _RENAMED.get(name, name)


def _value(text: str) -> str:
    try:
        float(text)
    except ValueError:
        return {"true": "True", "false": "False"}.get(text, repr(text))
    return text
