"""The declaration of a space: TOML -> fixed settings and searched settings, all checked."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dglrec.config import (
    SECTIONS,
    build_settings,
    check_key,
    declared_file,
    explain,
    from_environment,
    keyed_entries,
    nearest,
    parse_value,
    read_config,
    read_toml,
)
from dglrec.errors import UsageError
from dglrec.train import Settings
from dglrec.tune.goal import HEADS

_SHIPPED = Path(__file__).resolve().parent.parent / "spaces"
_KEYS = ("title", "config", "seed", "common", "space")
_RANGE_KEYS = ("low", "high", "log")

# These settings determine what is trained and measured, and on which rows: all trials share them.
_NOT_SEARCHED = {
    "model.kind": "it says what is trained",
    "model.heads": "it says what is measured",
    "ranking.metric": "it says what is measured",
    "ranking.at": "it says what is measured",
    "train.seed": "the best of several seeds is the luckiest, not a better setting",
    "train.begin_with": "it names a run, and no setting",
    "train.logger": "it says where figures go, and changes none",
}
_NOT_SET = {
    "train.refit": "search first, and give --refit to the `train` of the best settings",
    "train.stop_after": "it belongs to a refit",
}


@dataclass(frozen=True)
class Choice:
    """One of several values.

    Attributes:
        options: plain values, as in TOML.
    """

    options: tuple[Any, ...]

    def ends(self) -> tuple[Any, ...]:
        """Values by which a setting's type and bounds are checked."""
        return self.options

    def holds(self, value: Any) -> bool:
        """Whether a value is an option."""
        return any(type(value) is type(option) and value == option for option in self.options)

    def record(self) -> Any:
        """As in TOML."""
        return list(self.options)


@dataclass(frozen=True)
class Range:
    """A number from `low` to `high`, both included; a whole number if both of them are.

    Attributes:
        low: the smallest value.
        high: the largest value.
        log: whether the logarithm is uniform, and not the value itself.
    """

    low: float
    high: float
    log: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether its values are whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def ends(self) -> tuple[Any, ...]:
        """Values by which a setting's type and bounds are checked."""
        return self.low, self.high

    def holds(self, value: Any) -> bool:
        """Whether a value is a number in the range."""
        fits = type(value) is int or (type(value) is float and not self.is_whole)
        return fits and self.low <= value <= self.high

    def record(self) -> Any:
        """As in TOML."""
        return {"low": self.low, "high": self.high, "log": self.log}


Dimension = Choice | Range


@dataclass(frozen=True)
class Space:
    """A checked space.

    Attributes:
        name: its name in messages.
        title: the title of its table.
        seed: the seed of the search.
        fixed: the values by key that all trials have.
        searched: the dimensions by key that trials differ in.
        configured: the values of the searched keys in the space's `config`, with which a search
            begins.
    """

    name: str
    title: str
    seed: int
    fixed: dict[str, Any]
    searched: dict[str, Dimension]
    configured: dict[str, Any]

    def settings(self, parameters: Mapping[str, Any]) -> Settings:
        """The settings of a trial.

        Args:
            parameters: values of the searched keys; a missing key has the value in `config`, or the
                default.

        Raises:
            UsageError: the values are impossible together.
        """
        sections: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS}
        for key, value in {**self.configured, **self.fixed, **parameters}.items():
            section, _, setting = key.partition(".")
            sections[section][setting] = value
        return build_settings(sections)

    @property
    def heads(self) -> str:
        """The heads of the model in all trials: `rating`, `lists` or `both`."""
        return str(self.fixed["model.heads"])

    def record(self) -> dict[str, Any]:
        """Plain values that identify the space."""
        return {
            "seed": self.seed,
            "fixed": self.fixed,
            "searched": {key: dimension.record() for key, dimension in self.searched.items()},
        }


def shipped_spaces() -> dict[str, Path]:
    """The spaces that come with the package, by name."""
    return {path.stem: path for path in sorted(_SHIPPED.glob("*.toml"))}


def read_space(
    space: str, *, assignments: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Space:
    """Read and check a space.

    A key that an assignment or a variable sets is fixed in all trials, even if the space searches
    it.

    Args:
        space: the name of a shipped space, or a TOML file.
        assignments: texts like `train.epochs=5`; override `[common]`.
        environment: variables like `DGLREC_TRAIN_EPOCHS`; override `[common]`, and are overridden
            by `assignments`.

    Raises:
        UsageError: there is no such space, a key is unknown or cannot be searched, a value is of
            the wrong type or out of range, or nothing says what is measured.
        DataError: the file is missing or no TOML.
    """
    file = declared_file("space", space, shipped_spaces())
    found = read_toml(file)
    for key in found:
        if key not in _KEYS:
            raise UsageError(f"{file}: no key {key} in a space{nearest(key, _KEYS)}")
    fixed = {**_configured(found, file), **_table(found, "common", file)}
    searched = {
        key: _dimension(value, f"{file}: [space] {key}")
        for key, value in _table(found, "space", file).items()
    }
    for key in fixed.keys() & _table(found, "common", file).keys() & searched.keys():
        raise UsageError(f"{file}: {key} is in [common] and in [space]; leave one of them out")
    for key, value in _given(assignments, environment or {}):
        fixed[key] = value
        searched.pop(key, None)
    if not searched:
        raise UsageError(f"{file}: nothing is searched; add settings below [space]")
    configured = {key: value for key, value in fixed.items() if key in searched}
    fixed = {key: value for key, value in fixed.items() if key not in searched}
    for key in fixed.keys() & _NOT_SET.keys():
        raise UsageError(f"{file}: {key} in a search: {_NOT_SET[key]}")
    for key in searched.keys() & (_NOT_SEARCHED.keys() | _NOT_SET.keys()):
        why = {**_NOT_SEARCHED, **_NOT_SET}[key]
        raise UsageError(f"{file}: {key} cannot be searched: {why}")
    if fixed.get("model.kind", "graph") != "graph":
        raise UsageError(
            f"{file}: model.kind = {fixed['model.kind']!r}: only graph models are searched; a "
            "baseline chooses what is `auto` on validation rows by itself"
        )
    if fixed.get("model.heads") not in HEADS:
        raise UsageError(
            f"{file}: nothing says what is measured; set model.heads in [common] to "
            f"{', '.join(HEADS[:-1])} or {HEADS[-1]}"
        )
    for key, value in fixed.items():
        _check_value(key, value, str(file))
    for key, dimension in searched.items():
        for value in dimension.ends():
            _check_value(key, value, f"{file}: [space]")
    return Space(
        name=file.stem,
        title=_title(found, file),
        seed=_seed(found, file),
        fixed=fixed,
        searched=searched,
        configured=configured,
    )


def _title(found: Mapping[str, Any], file: Path) -> str:
    title = found.get("title", file.stem)
    if not isinstance(title, str):
        raise UsageError(f"{file}: title = {title!r}: write a text in quotes")
    return title


def _seed(found: Mapping[str, Any], file: Path) -> int:
    seed = found.get("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**32:
        raise UsageError(f"{file}: seed = {seed!r}: write a whole number from 0 on, below 2^32")
    return seed


def _configured(found: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """The values by key of the configuration that all trials start from."""
    if "config" not in found:
        return {}
    if not isinstance(found["config"], str):
        raise UsageError(f"{file}: config = {found['config']!r}: write a name or a file in quotes")
    named = Path(found["config"])
    # A name is that of a shipped configuration; a file path is relative to the space's folder.
    config = named if len(named.parts) == 1 and not named.suffix else file.parent / named
    return dict(keyed_entries(read_config(config)))


def _table(found: Mapping[str, Any], name: str, file: Path) -> dict[str, Any]:
    table = found.get(name, {})
    if not isinstance(table, dict):
        raise UsageError(f"{file}: {name} is no table; write [{name}]")
    entries: dict[str, Any] = {}
    for key, value in keyed_entries(table):
        check_key(key, f"{file}: [{name}]")
        if key in entries:
            raise UsageError(f"{file}: [{name}]: {key} is there twice; give it once")
        entries[key] = value
    return entries


def _given(assignments: Sequence[str], environment: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    """The keys and values that variables and assignments set; later ones override earlier ones."""
    for key, text in from_environment(environment).items():
        yield key, parse_value(text)
    for assignment in assignments:
        key, equals, text = (part.strip() for part in assignment.partition("="))
        if not equals:
            raise UsageError(f"--set {assignment}: write section.key=value")
        check_key(key, f"--set {assignment}")
        yield key, parse_value(text)


def _dimension(value: Any, where: str) -> Dimension:
    if isinstance(value, list):
        return _choice(value, where)
    if isinstance(value, dict):
        return _range(value, where)
    raise UsageError(
        f"{where} = {value!r}: write a list of choices, or {{ low = 1, high = 8 }}; what does not "
        "vary goes below [common]"
    )


def _choice(options: list[Any], where: str) -> Choice:
    written = [json.dumps(option, default=str) for option in options]
    if len(set(written)) < max(len(written), 2):
        raise UsageError(f"{where} = {options!r}: name two choices or more, each once")
    return Choice(tuple(options))


def _range(value: Mapping[str, Any], where: str) -> Range:
    for key in value:
        if key not in _RANGE_KEYS:
            raise UsageError(f"{where}: no key {key} in a range{nearest(key, _RANGE_KEYS)}")
    low: Any = value.get("low")
    high: Any = value.get("high")
    log = value.get("log", False)
    for name, end in (("low", low), ("high", high)):
        if type(end) not in (int, float) or not math.isfinite(end):
            raise UsageError(f"{where}: {name} = {end!r}: write a number")
    if not isinstance(log, bool):
        raise UsageError(f"{where}: log = {log!r}: write true or false")
    if not low < high:
        raise UsageError(f"{where}: low = {low} is not below high = {high}")
    if log and low <= 0:
        raise UsageError(f"{where}: low = {low}: with log = true a range begins above 0")
    if type(low) is not type(high):
        low, high = float(low), float(high)
    return Range(low, high, log)


def _check_value(key: str, value: Any, where: str) -> None:
    """Refuse a value that a setting cannot have, whatever the other settings are."""
    section, _, setting = key.partition(".")
    try:
        SECTIONS[section].model_validate({setting: value})
    except ValidationError as error:
        # An error of another setting may come from its default; a trial's settings are checked
        # together later.
        if any(fault["loc"][:1] == (setting,) for fault in error.errors(include_url=False)):
            raise UsageError(f"{where}: {explain(section, error)}") from error
