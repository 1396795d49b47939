"""Settings from all sources: defaults, TOML, environment, `--set`.

Each key is defined beside the code that it configures: `model.*` in `nn.ModelConfig`, `loader.*` in
`sampling.LoaderConfig`, `train.*` in `train.TrainConfig`, `baseline.*` in
`baselines.BaselineConfig`, `derived.*` in `derived.DerivedConfig`. `configs/` holds files that
`--config` finds by name.
"""

import difflib
import json
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from dglrec.baselines import BaselineConfig
from dglrec.derived import DerivedConfig
from dglrec.distributed import World
from dglrec.errors import DataError, UsageError
from dglrec.files import read_errors
from dglrec.nn import ModelConfig
from dglrec.run import CONFIG_FILE, check_is_run
from dglrec.sampling import LoaderConfig
from dglrec.train import RankingConfig, Settings, TrainConfig

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SECTIONS: dict[str, type[BaseModel]] = {
    "model": ModelConfig,
    "loader": LoaderConfig,
    "train": TrainConfig,
    "baseline": BaselineConfig,
    "ranking": RankingConfig,
    "derived": DerivedConfig,
}
SHIPPED = Path(__file__).parent / "configs"
"""The folder of the configurations that `--config` finds by name."""

ENVIRONMENT_PREFIX = "DGLREC_"

# Variables with this prefix that are not settings: the folders of caches and of the scripts' tools.
_OTHER_VARIABLES = {"DGLREC_CACHE", "DGLREC_PYTHON", "DGLREC_VENV"}

# Settings that may change when a run is resumed: how long it trains, how often it is saved, and the
# tracker that follows it.
_MAY_CHANGE = (
    "train.epochs",
    "train.patience",
    "train.checkpoint_seconds",
    "train.checkpoint_steps",
    "train.keep_checkpoints",
    "train.logger",
)

Values = dict[str, dict[str, Any]]


def load_settings(
    *,
    file: Path | None = None,
    assignments: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    given: Mapping[str, Any] | None = None,
) -> Settings:
    """Combine a configuration's sources; later ones override earlier ones.

    Args:
        file: TOML with sections `[model]`, `[loader]`, `[train]`, `[ranking]`, `[baseline]`,
            `[derived]`, or the name of a shipped configuration; overrides the defaults.
        environment: variables like `DGLREC_TRAIN_EPOCHS`; override the file.
        assignments: texts like `train.epochs=5`; override the environment. A value is TOML; what
            is not TOML is taken as text.
        given: values by key, like `{"train.epochs": 5}`; override the assignments.

    Raises:
        UsageError: an unknown key, with the nearest known one, or a value of the wrong type.
        DataError: the file is missing or is not TOML, or no configuration of that name is shipped.
    """
    values: Values = {name: {} for name in SECTIONS} if file is None else read_config(file)
    _override(values, assignments, environment or {}, given or {})
    return build_settings(values)


def read_config(file: Path) -> Values:
    """A configuration file's values, by section and key; `build_settings` checks them.

    Args:
        file: TOML with sections `[model]`, `[loader]`, `[train]`, `[ranking]`, `[baseline]`,
            `[derived]`, or the name of a shipped configuration.

    Raises:
        UsageError: an unknown section or key, with the nearest known one.
        DataError: the file is missing or is not TOML, or no configuration of that name is shipped.
    """
    values: Values = {name: {} for name in SECTIONS}
    for section, keys in read_toml(_found(file)).items():
        if section in SECTIONS and not isinstance(keys, dict):
            raise UsageError(
                f"{file}: {section} = {keys!r}: is a section; write [{section}] and its settings "
                "below"
            )
        if section not in SECTIONS:
            raise UsageError(f"{file}: no section [{section}]{nearest(section, SECTIONS)}")
        for key, value in keys.items():
            check_key(f"{section}.{key}", str(file))
            values[section][key] = value
    return values


def build_settings(values: Values) -> Settings:
    """Check values by section and key, and fill in defaults.

    Raises:
        UsageError: a value is of the wrong type or out of range, or two values contradict.
    """
    built = {}
    for name, kind in SECTIONS.items():
        try:
            built[name] = kind.model_validate(values.get(name, {}))
        except ValidationError as error:
            raise UsageError(explain(name, error)) from error
    settings = Settings(**built)  # type: ignore[arg-type]
    named = settings.loader.user_fanouts, settings.loader.item_fanouts
    if any(fanouts != "auto" and len(fanouts) != settings.model.layers for fanouts in named):
        raise UsageError(
            f"model.layers is {settings.model.layers}, but loader.user_fanouts names "
            f"{_count(named[0])} and loader.item_fanouts {_count(named[1])}: leave "
            "both at auto, or give both a figure for each layer, like "
            f"--set loader.user_fanouts={_like(100, settings.model.layers)} "
            f"--set loader.item_fanouts={_like(10, settings.model.layers)}"
        )
    return settings


def known_keys() -> list[str]:
    """All keys, like `train.epochs`."""
    return [f"{name}.{key}" for name, kind in SECTIONS.items() for key in kind.model_fields]


def shipped_names() -> list[str]:
    """The names of the configurations that come with the package."""
    return sorted(path.stem for path in SHIPPED.glob("*.toml"))


def describe(settings: Settings | None = None) -> str:
    """All keys with their values and descriptions, as a TOML file; None stands for defaults."""
    values = (settings or build_settings({})).to_dict()
    lines = []
    for name, kind in SECTIONS.items():
        lines.append(f"[{name}]")
        for key, field in kind.model_fields.items():
            lines += [f"# {field.description}", f"{key} = {_toml(values[name][key])}"]
        lines.append("")
    return "\n".join(lines)


def resumed_settings(
    run: Path,
    file: Path | None,
    assignments: Sequence[str],
    environment: Mapping[str, str],
    *,
    given: Mapping[str, Any] | None = None,
) -> Settings:
    """The settings that a resumed run continues with: its own, but for a few that may change.

    Args:
        run: the run's folder.
        file: as for `load_settings`.
        assignments: likewise.
        environment: likewise.
        given: likewise.

    Raises:
        UsageError: a setting would change what is learned.
        DataError: the run has no configuration.
    """
    check_is_run(run)
    recorded = load_settings(file=run / CONFIG_FILE)
    values: Values = recorded.to_dict()
    for section, keys in ({} if file is None else read_config(file)).items():
        values[section].update(keys)
    _override(values, assignments, environment, given or {})
    for section, recorded_values in recorded.to_dict().items():
        for key, value in recorded_values.items():
            if values[section].get(key) == "auto":
                values[section][key] = value  # what auto stood for when the run began
    settings = build_settings(values)
    changed = [key for key in changed_keys(recorded, settings) if key not in _MAY_CHANGE]
    if changed:
        raise UsageError(
            f"{run}: --resume goes on with the run's settings, and these would change: "
            f"{', '.join(changed)}; start a new run for them"
        )
    return settings


def shared_settings(
    world: World,
    resumed: Path | None,
    file: Path | None,
    assignments: Sequence[str],
    environment: Mapping[str, str],
) -> Settings:
    """The settings that the first process finds, for all processes.

    Args:
        world: the processes.
        resumed: the run to resume; None for a new run.
        file: as for `load_settings`.
        assignments: likewise.
        environment: likewise.

    Raises:
        UsageError, DataError: as `load_settings` and `resumed_settings`.
    """

    def find() -> bytes:
        if resumed is not None:
            found = resumed_settings(resumed, file, assignments, environment)
        else:
            found = load_settings(file=file, assignments=assignments, environment=environment)
        return json.dumps(found.given()).encode()  # unset settings stay unset

    return build_settings(json.loads(world.from_first(find)))


def changed_keys(old: Settings, new: Settings) -> list[str]:
    """Keys whose values differ."""
    before, after = old.to_dict(), new.to_dict()
    return [
        key
        for key in known_keys()
        for section, name in [key.split(".")]
        if before[section][name] != after[section][name]
    ]


def read_toml(file: Path) -> dict[str, Any]:
    """The content of a TOML file.

    Raises:
        DataError: the file is missing, cannot be read, or is not TOML.
    """
    try:
        with read_errors(file):
            if not file.exists():
                raise DataError(f"{file}: no such configuration file")
            values: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{file}: not readable as TOML ({error})") from error
    return values


def _found(file: Path) -> Path:
    """The file itself; for a bare name that is no file, the shipped configuration of that name.

    Raises:
        DataError: there is no such configuration.
    """
    if len(file.parts) != 1 or file.suffix or file.is_file():
        return file
    names = shipped_names()
    if file.name not in names and file.is_dir():
        raise DataError(f"{file}: is a folder; give a TOML file")
    if file.name not in names:
        raise DataError(
            f"{file}: no such configuration file, and none of that name comes with dglrec; these "
            f"do: {', '.join(names)}"
        )
    return SHIPPED / f"{file.name}.toml"


def parse_value(text: str) -> Any:
    """A TOML value; `10,20` is read as a list, and what is not TOML as text."""
    for candidate in (text, f"[{text}]") if "," in text else (text,):
        try:
            return tomllib.loads(f"value = {candidate}")["value"]
        except (tomllib.TOMLDecodeError, RecursionError):
            continue
    return text


def from_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Settings from variables like `DGLREC_TRAIN_EPOCHS`, as texts by key.

    Raises:
        UsageError: a variable of this prefix names no setting.
    """
    by_variable = {ENVIRONMENT_PREFIX + key.replace(".", "_").upper(): key for key in known_keys()}
    found = {}
    for variable, text in sorted(environment.items()):
        if not variable.startswith(ENVIRONMENT_PREFIX) or variable in _OTHER_VARIABLES:
            continue
        if variable not in by_variable:
            raise UsageError(
                f"environment variable {variable}: no such setting{nearest(variable, by_variable)}"
            )
        found[by_variable[variable]] = text
    return found


def keyed_entries(
    table: Mapping[str, Any], sections: Collection[str] = tuple(SECTIONS)
) -> Iterator[tuple[str, Any]]:
    """Values by keys like `model.layers`, which TOML reads as tables unless they are quoted."""
    for key, value in table.items():
        if key in sections and isinstance(value, dict):
            yield from ((f"{key}.{name}", entry) for name, entry in value.items())
        else:
            yield key, value


def declared_file(what: str, name: str, shipped: Mapping[str, Path]) -> Path:
    """The TOML file for a name: that of a shipped declaration, or a path.

    Args:
        what: what the file declares, for messages.
        name: of a shipped declaration, or a path that ends in .toml.
        shipped: the files of the shipped declarations, by name.

    Raises:
        UsageError: no declaration of that name ships.
    """
    if name.endswith(".toml"):
        return Path(name)
    if name not in shipped:
        raise UsageError(
            f"no {what} {name!r}; choose {' or '.join(shipped)}, or give a file that ends in .toml"
        )
    return shipped[name]


def nearest(name: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    """The end of a message that refuses a name: the known name that is most similar to it."""
    names = list(known)
    found = difflib.get_close_matches(name, names, n=1, cutoff=0.85)
    # A known name that the text begins with is preferred to one that only looks similar.
    found = found or [known_name for known_name in names if name.startswith(known_name)]
    found = found or difflib.get_close_matches(name, names, n=1, cutoff=0.0)
    return f"; did you mean {found[0]}?" if found else ""


def explain(section: str, error: ValidationError) -> str:
    """What is wrong with a section's values, in a line that names the first key."""
    errors = error.errors(include_url=False)
    first = errors[0]
    # For a setting of several types, pydantic puts the type that it tried behind the setting.
    places = [str(part) for part in first["loc"][1:] if isinstance(part, int)]
    key = ".".join([section, *map(str, first["loc"][:1]), *places])
    if not first["loc"]:
        return f"{section}: {first['msg'].removeprefix('Value error, ')}"
    wanted = dict.fromkeys(other["msg"] for other in errors if other["loc"][:1] == first["loc"][:1])
    return f"{key} = {first['input']!r}: {'; or '.join(wanted)}"


def _override(
    values: Values,
    assignments: Sequence[str],
    environment: Mapping[str, str],
    given: Mapping[str, Any],
) -> None:
    for key, text in from_environment(environment).items():
        _assign(values, key, text, f"{ENVIRONMENT_PREFIX}{key.replace('.', '_').upper()}")
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise UsageError(f"--set {assignment}: write section.key=value")
        _assign(values, key.strip(), text.strip(), f"--set {assignment}")
    for key, value in given.items():
        check_key(key, "settings")
        section, name = key.split(".")
        values[section][name] = value


def _assign(values: Values, key: str, text: str, source: str) -> None:
    check_key(key, source)
    section, name = key.split(".")
    values[section][name] = parse_value(text)


def check_key(key: str, source: str) -> None:
    """Refuse a key that is not a setting.

    Args:
        key: like `train.epochs`.
        source: where it was found, for the message.

    Raises:
        UsageError: there is no such setting; the message names the nearest.
    """
    if key not in known_keys():
        raise UsageError(f"{source}: no setting {key}{nearest(key, known_keys())}")


def _count(fanouts: tuple[int, ...] | str) -> str:
    return fanouts if isinstance(fanouts, str) else str(len(fanouts))


def _like(last: int, layers: int) -> str:
    """Example fan-outs for a message; for very many layers only the last few."""
    return ",".join(["10"] * min(layers - 1, 7) + [str(last)])


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if not isinstance(value, str) else f'"{value}"'
