"""The pages of the site that are made from the code: verbs, settings, exit codes.

A page holds a comment like `<!-- generated: verbs -->`; here it becomes Markdown. Nothing of Sphinx
is needed to make it, so tests read the same text.
"""

import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel

from dglrec import errors
from dglrec.cli import cli
from dglrec.config import SECTIONS, SHIPPED

MARK = re.compile(r"^<!-- generated: (\w+) -->$", re.MULTILINE)

_TYPES = {
    "integer": "whole number",
    "number": "number",
    "boolean": "`true` or `false`",
    "string": "text",
}
_LIMITS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
}


def filled(text: str) -> str:
    """A page with what is generated in place of the comments that ask for it.

    Raises:
        KeyError: nothing of a comment's name can be generated.
    """
    return MARK.sub(lambda found: PAGES[found[1]](), text)


def verbs() -> str:
    """A section for each verb: what it does, its arguments and options."""
    return "\n".join(line for name in sorted(cli.commands) for line in _verb(name))


def common_options() -> str:
    """What all verbs take."""
    return "\n".join(_options(cli, "dglrec"))


def settings() -> str:
    """A section for each group of settings, and in it an entry for each."""
    return "\n".join(line for name, kind in SECTIONS.items() for line in _section(name, kind))


def configurations() -> str:
    """The configurations that ship, each with what its file begins with."""
    lines = ["| `--config` | |", "| --- | --- |"]
    for file in sorted(SHIPPED.glob("*.toml")):
        lines.append(f"| `{file.stem}` | {_cell(_first_comment(file))} |")
    return "\n".join(lines)


def exit_codes() -> str:
    """The classes of errors and the exit code of each."""
    lines = ["| class | exit code | |", "| --- | --- | --- |"]
    for name, kind in sorted(vars(errors).items(), key=_place_of_error):
        if inspect.isclass(kind) and issubclass(kind, errors.DglrecError):
            told = _cell(inspect.getdoc(kind) or "")
            lines.append(f"| `{name}` | {kind.exit_code} | {told} |")
    return "\n".join(lines)


PAGES: dict[str, Callable[[], str]] = {
    "verbs": verbs,
    "common_options": common_options,
    "settings": settings,
    "configurations": configurations,
    "exit_codes": exit_codes,
}


def setup(app: Any) -> dict[str, Any]:
    """Sphinx calls this: pages are filled in when they are read."""

    def fill(app: Any, page: str, source: list[str]) -> None:
        source[0] = filled(source[0])

    app.connect("source-read", fill)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _verb(name: str) -> Iterator[str]:
    command = cli.commands[name]
    context = click.Context(command, info_name=name, parent=click.Context(cli, info_name="dglrec"))
    yield f"## dglrec {name}\n"
    yield f"```text\ndglrec {name} {' '.join(command.collect_usage_pieces(context))}\n```\n"
    yield from _paragraphs(inspect.cleandoc(command.help or ""))
    yield from _options(command, f"dglrec {name}")


def _paragraphs(text: str) -> Iterator[str]:
    r"""Paragraphs of a help text; those after \b, examples and lists, stay as they are laid out."""
    for paragraph in text.split("\n\n"):
        if paragraph.startswith("\b"):
            yield f"```text\n{paragraph.removeprefix(chr(8)).strip(chr(10))}\n```\n"
        else:
            yield f"{_escaped(paragraph)}\n"


def _options(command: click.Command, program: str) -> Iterator[str]:
    yield f"```{{program}} {program}\n```\n"
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            yield from _option(parameter, click.Context(command))


def _option(option: click.Option, context: click.Context) -> Iterator[str]:
    names = [*option.opts, *option.secondary_opts]
    value = "" if option.is_flag else f" {option.make_metavar(context)}".replace(" RANGE", "")
    yield f"````{{option}} {', '.join(name + value for name in names)}\n"
    told = [_escaped(option.help)] if option.help else []
    default = option.to_info_dict().get("default")
    if option.show_default and default not in (None, False):
        told.append(f"Default: `{default}`.")
    if option.required:
        told.append("Required.")
    if option.multiple:
        told.append("May be given several times.")
    yield " ".join(told)
    yield "````\n"


def _section(name: str, kind: type[BaseModel]) -> Iterator[str]:
    properties = kind.model_json_schema()["properties"]
    yield f"## {name}\n"
    yield f"{_sentence(inspect.getdoc(kind) or '')}\n"
    for key, field in kind.model_fields.items():
        yield f"````{{confval}} {name}.{key}"
        yield f":type: {_type(properties[key])}"
        yield f":default: {_toml(field.default)}\n"
        yield f"{_sentence(_escaped(field.description or ''))}"
        yield "````\n"


def _type(schema: dict[str, Any]) -> str:
    """What a setting takes, in words.

    >>> _type({"type": "integer", "minimum": 1, "maximum": 64})
    'whole number, at least 1, at most 64'
    >>> _type({"anyOf": [{"const": "auto", "type": "string"}, {"type": "boolean"}]})
    '`auto`, or `true` or `false`'
    """
    if "anyOf" in schema:
        return ", or ".join(_type(one) for one in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{one}`" for one in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if schema["type"] == "array":
        return _array(schema)
    limits = [f"{words} {schema[name]:,}" for name, words in _LIMITS.items() if name in schema]
    return ", ".join([_TYPES[schema["type"]], *limits])


def _array(schema: dict[str, Any]) -> str:
    if "prefixItems" in schema:
        inner = schema["prefixItems"]
        return f"list of {len(inner)}, each a {_type(inner[0])}"
    return f"list, each a {_type(schema['items'])}"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, (tuple, list)):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{value}`" if value != "" else "empty"


def _first_comment(file: Path) -> str:
    lines = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    return " ".join(lines)


def _sentence(text: str) -> str:
    """With a capital and a full stop, where it begins with a plain word."""
    first = text.split(" ", 1)[0]
    text = text[:1].upper() + text[1:] if first.isalpha() else text
    return text if text.endswith((".", ")")) else f"{text}."


def _escaped(text: str) -> str:
    """Text for Markdown, in which a star or a bracket would be markup."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.replace("\b", "").split()))
    plain = [re.sub(r"([*_\[\]<>|$])", r"\\\1", one) for one in parts[::2]]
    # What is written like a setting, an option or a file is shown as code.
    plain = [re.sub(r"(?<![\w`])(--[a-z][a-z-]*)", r"`\1`", one) for one in plain]
    return "".join(one for pair in zip(plain, [*parts[1::2], ""], strict=True) for one in pair)


def _cell(text: str) -> str:
    return _escaped(text)


def _place_of_error(named: tuple[str, Any]) -> tuple[int, str]:
    return getattr(named[1], "exit_code", 0), named[0]
