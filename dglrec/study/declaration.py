"""The declaration of a study: TOML -> variants, with all settings checked before anything runs."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from dglrec.baselines import predicts_ratings
from dglrec.compare import SPLITS
from dglrec.config import (
    SECTIONS,
    build_settings,
    declared_file,
    explain,
    from_environment,
    keyed_entries,
    known_keys,
    nearest,
    parse_value,
    read_config,
    read_toml,
)
from dglrec.dataset import PrepareOptions
from dglrec.errors import DataError, UsageError
from dglrec.features import TextCleaning, parse_kinds
from dglrec.ingest import parse_columns
from dglrec.places import local_path
from dglrec.relations import parse_relations
from dglrec.schema import RatingScale
from dglrec.train import Settings

_SHIPPED = Path(__file__).resolve().parent.parent / "studies"
_KEYS = ("title", "reference", "seeds", "split", "ranking", "common", "variants")
_PREPARE = "prepare"
_SEED = "train.seed"
_CONFIG = "config"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_LONGEST_NAME = 60
_OF = "of"
EACH_RELATION = "each_relation"
_KINDS = ("item_features", "user_features", "item_attributes", "user_attributes", "relations")


class PrepareKeys(BaseModel):
    """The `prepare.*` keys: the options of `dglrec prepare`, as plain values."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal["auto", "anime", "movielens", "table"] = "auto"
    columns: str | None = None
    split: Literal["random", "time", "last", "user", "item"] = "random"
    valid: float = 0.1
    test: float = 0.1
    seed: int = 0
    train_file: str | None = None
    test_file: str | None = None
    text: bool = True
    text_model: str = "auto"
    remove_stop_words: bool = False
    remove_punctuation: bool = False
    per_sentence: bool = False
    numeric: tuple[str, ...] = Field((), strict=False)
    complete_only: bool = False
    scale: str | None = None
    interactions_from: float | None = None
    users: int | None = None
    item_table: str | None = None
    user_table: str | None = None
    attribute: tuple[str, ...] = Field((), strict=False)
    relation: tuple[str, ...] = Field((), strict=False)

    @field_validator("numeric", "attribute", "relation", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        """Accept names in the form that `--set` gives them: text with commas between."""
        return value.split(",") if isinstance(value, str) else value

    def options(self) -> PrepareOptions:
        """The options in the form that `prepare` takes.

        Raises:
            UsageError: an option is out of range, or two options do not fit together.
        """
        cleaning = TextCleaning(self.remove_stop_words, self.remove_punctuation, self.per_sentence)
        relations = parse_relations(self.relation)
        options = PrepareOptions(
            format=self.format,
            columns={} if self.columns is None else parse_columns(self.columns),
            split=self.split,
            valid=self.valid,
            test=self.test,
            seed=self.seed,
            train_file=None if self.train_file is None else local_path(self.train_file),
            test_file=None if self.test_file is None else local_path(self.test_file),
            text=self.text,
            text_model=self.text_model,
            cleaning=cleaning,
            numeric=self.numeric,
            complete_only=self.complete_only,
            scale=None if self.scale is None else RatingScale.parse(self.scale),
            interactions_from=self.interactions_from,
            users=self.users,
            item_table=None if self.item_table is None else local_path(self.item_table),
            user_table=None if self.user_table is None else local_path(self.user_table),
            attribute=parse_kinds(self.attribute),
            relation={name: local_path(file) for name, file in relations.items()},
        )
        options.check()
        return options

    def given(self) -> dict[str, Any]:
        """The values that differ from the defaults."""
        return self.model_dump(mode="json", exclude_defaults=True)

    @property
    def name(self) -> str:
        """A folder name that is different for different options."""
        given = self.given()
        if not given:
            return "defaults"
        text = "_".join(f"{key}-{value}".lower() for key, value in given.items())
        plain = all(isinstance(value, bool | int) for value in given.values())
        if plain and len(text) <= _LONGEST_NAME:
            return text
        digest = hashlib.sha256(json.dumps(given, sort_keys=True).encode()).hexdigest()[:8]
        return f"{re.sub(r'[^a-z0-9_.-]+', '-', text)[:_LONGEST_NAME]}_{digest}"


@dataclass(frozen=True)
class Variant:
    """A configuration of a study.

    Attributes:
        name: its name in the table.
        description: a text for the table.
        settings: the settings of its runs, but for the seed.
        prepare: the options that its data set is prepared with.
        of: kinds of features, attributes or relations that the variant depends on; empty for a
            plain variant. `discover` makes plain variants of it for a data set: features must be
            present, attributes and relations are added to those that the model reads, and
            `each_relation` becomes a variant for each relation.
    """

    name: str
    description: str
    settings: Settings
    prepare: PrepareKeys
    of: tuple[str, ...] = ()

    def rates(self, *, has_ratings: bool) -> bool:
        """Whether its runs predict ratings; otherwise they only make lists.

        Args:
            has_ratings: whether its data set holds ratings.
        """
        model = self.settings.model
        if model.kind == "graph":
            return has_ratings and model.heads != "lists"
        return predicts_ratings(model.kind, has_ratings=has_ratings)

    def with_seed(self, seed: int) -> Settings:
        """The settings of a run."""
        train = self.settings.train.model_copy(update={"seed": seed})
        return replace(self.settings, train=train)


@dataclass(frozen=True)
class Study:
    """A checked study.

    Attributes:
        name: its name in messages.
        title: the title of its table.
        reference: the variant that the others are compared with.
        seeds: `train.seed` of each variant's runs.
        split: `test` or `valid`, the split that figures are computed on.
        variants: by name, in the order of the table.
        ranking: the length of the lists that variants are compared by; None compares predicted
            ratings if all variants predict them, and otherwise lists of 10.
    """

    name: str
    title: str
    reference: str
    seeds: tuple[int, ...]
    split: str
    variants: dict[str, Variant]
    ranking: int | None = None

    @property
    def discovers(self) -> bool:
        """Whether some variants depend on the features, attributes or relations of a data set."""
        return any(variant.of for variant in self.variants.values())


def shipped_studies() -> dict[str, Path]:
    """The studies that come with the package, by name."""
    return {path.stem: path for path in sorted(_SHIPPED.glob("*.toml"))}


def known_study_keys() -> list[str]:
    """All keys that a variant may set; the seed is not one of them."""
    prepare = [f"{_PREPARE}.{key}" for key in PrepareKeys.model_fields]
    return [*(key for key in known_keys() if key != _SEED), *prepare]


def read_study(
    study: str, *, assignments: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Study:
    """Read and check a study; a variant's settings override those for all variants.

    Args:
        study: the name of a shipped study, or a TOML file.
        assignments: texts like `train.epochs=5`, for all variants; override `[common]`.
        environment: variables like `DGLREC_TRAIN_EPOCHS`; override `[common]`, and are overridden
            by `assignments`.

    Raises:
        UsageError: there is no such study, a key is unknown, a value is wrong, or the declaration
            cannot be carried out.
        DataError: the file is missing or no TOML.
    """
    file = declared_file("study", study, shipped_studies())
    found = read_toml(file)
    for key in found:
        if key not in _KEYS:
            raise UsageError(f"{file}: no key {key} in a study{nearest(key, _KEYS)}")
    common = _flattened(_table(found, "common", file), f"{file}: [common]")
    for key, text in from_environment(environment or {}).items():
        _check_key(key, f"environment variable for {key}")
        common[key] = parse_value(text)
    for assignment in assignments:
        key, equals, text = (part.strip() for part in assignment.partition("="))
        if not equals:
            raise UsageError(f"--set {assignment}: write section.key=value")
        _check_key(key, f"--set {assignment}")
        common[key] = parse_value(text)
    tables = _table(found, "variants", file)
    if not tables:
        raise UsageError(f"{file}: declares no variants; add one as [variants.NAME]")
    variants = {name: _variant(name, table, common, file) for name, table in tables.items()}
    _check_apart(variants, file)
    return Study(
        name=file.stem,
        title=_text(found, "title", file, file.stem),
        reference=_reference(found, variants, file),
        seeds=check_seeds(found.get("seeds"), f"{file}: seeds"),
        split=_split(found, file),
        variants=variants,
        ranking=None if "ranking" not in found else check_length(found["ranking"], file),
    )


def select(
    study: Study, only: Sequence[str] = (), seeds: Sequence[int] | None = None
) -> tuple[list[Variant], tuple[int, ...]]:
    """The variants and the seeds to train.

    Args:
        study: the study.
        only: names of variants; empty for all variants.
        seeds: used in place of the study's seeds; None for these.

    Raises:
        UsageError: a name is unknown, or the seeds are not valid.
    """
    for name in only:
        if name not in study.variants:
            raise UsageError(
                f"--only {name}: {study.name} has no such variant{nearest(name, study.variants)}"
            )
    chosen = [variant for name, variant in study.variants.items() if not only or name in set(only)]
    return chosen, study.seeds if seeds is None else check_seeds(list(seeds), "--seeds")


def check_seeds(found: Any, where: str) -> tuple[int, ...]:
    """Refuse a value that is not a list of seeds.

    Raises:
        UsageError: there are no seeds, a seed is not a whole number from 0 on, or is given twice.
    """
    if not isinstance(found, list) or not found:
        raise UsageError(f"{where}: name one seed or more, like [0, 1, 2, 3, 4]")
    for seed in found:
        if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63:
            raise UsageError(
                f"{where}: {seed!r} is no seed; write whole numbers from 0 on, below 2^63"
            )
        if found.count(seed) > 1:
            raise UsageError(f"{where}: {seed} is there twice; name each seed once")
    return tuple(found)


def check_length(found: Any, where: Path | str) -> int:
    """Refuse a value that is not a length of lists.

    Raises:
        UsageError: it is not a whole number from 1 on.
    """
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise UsageError(f"{where}: ranking = {found!r}: write a length of lists, such as 10")
    return found


def _table(found: Mapping[str, Any], key: str, file: Path) -> dict[str, Any]:
    table = found.get(key, {})
    if not isinstance(table, dict):
        raise UsageError(f"{file}: {key} is no table; write [{key}]")
    return table


def _text(found: Mapping[str, Any], key: str, where: Path | str, default: str) -> str:
    value = found.get(key, default)
    if not isinstance(value, str):
        raise UsageError(f"{where}: {key} = {value!r}: write a text in quotes")
    return value


def _reference(found: Mapping[str, Any], variants: Mapping[str, Variant], file: Path) -> str:
    reference = found.get("reference")
    if reference is None:
        raise UsageError(f'{file}: names no reference; add reference = "{next(iter(variants))}"')
    if reference not in variants:
        raise UsageError(
            f"{file}: reference {reference!r} is none of its variants"
            f"{nearest(str(reference), variants)}"
        )
    if variants[reference].of:
        raise UsageError(
            f"{file}: reference {reference!r} has `of`; choose one that is always there"
        )
    return str(reference)


def _split(found: Mapping[str, Any], file: Path) -> str:
    split = found.get("split", SPLITS[0])
    if split not in SPLITS:
        raise UsageError(f"{file}: split = {split!r}: choose {' or '.join(SPLITS)}")
    return str(split)


def _variant(name: str, table: Any, common: Mapping[str, Any], file: Path) -> Variant:
    where = f"{file}: variant {name}"
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{file}: variant {name!r}: a folder is named after it; use letters, digits, _, - and ."
        )
    if not isinstance(table, dict):
        raise UsageError(f"{where} is no table; write [variants.{name}]")
    table_settings = {
        key: value for key, value in table.items() if key not in ("description", _CONFIG, _OF)
    }
    values = {**common, **_configured(table, where, file), **_flattened(table_settings, where)}
    sections: dict[str, dict[str, Any]] = {section: {} for section in (*SECTIONS, _PREPARE)}
    for key, value in values.items():
        section, _, setting = key.partition(".")
        sections[section][setting] = value
    prepared = sections.pop(_PREPARE)
    try:
        prepare = PrepareKeys.model_validate(prepared)
        prepare.options()
        settings = build_settings(sections)
    except ValidationError as error:
        raise UsageError(f"{where}: {explain(_PREPARE, error)}") from error
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error
    description = _text(table, "description", where, "")
    return Variant(name, description, settings, prepare, _kinds(table, where))


def _kinds(table: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """The kinds of features, attributes or relations that a variant depends on."""
    found = table.get(_OF, [])
    if found == [EACH_RELATION]:
        return (EACH_RELATION,)
    if not isinstance(found, list) or any(kind not in _KINDS for kind in found):
        known = ", ".join(_KINDS)
        raise UsageError(
            f'{where}: of = {found!r}: write ["{EACH_RELATION}"], or a list of some of {known}'
        )
    return tuple(found)


def _configured(table: Mapping[str, Any], where: str, file: Path) -> dict[str, Any]:
    """The values of the configuration that a variant starts from, by keys like `model.layers`."""
    if _CONFIG not in table:
        return {}
    named = Path(_text(table, _CONFIG, where, ""))
    # A name is that of a shipped configuration; a file path is relative to the study's folder.
    config = named if len(named.parts) == 1 and not named.suffix else file.parent / named
    try:
        sections = read_config(config)
    except (DataError, UsageError) as error:
        raise type(error)(f"{where}: {error}") from error
    found = {
        f"{name}.{key}": value for name, keys in sections.items() for key, value in keys.items()
    }
    for key in found:
        _check_key(key, where)
    return found


def _flattened(table: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Values by keys like `model.layers`, which TOML reads as tables unless they are quoted."""
    found: dict[str, Any] = {}
    for key, value in keyed_entries(table, (*SECTIONS, _PREPARE)):
        _check_key(key, where)
        if key in found:
            raise UsageError(f"{where}: {key} is there twice; give it once")
        found[key] = value
    return found


def _check_key(key: str, where: str) -> None:
    known = known_study_keys()
    if key == _SEED:
        raise UsageError(
            f"{where}: {_SEED} is each of the study's seeds in turn; name them in `seeds`, or with "
            "--seeds"
        )
    if key not in known:
        raise UsageError(f"{where}: no setting {key}{nearest(key, known)}")


def _check_apart(variants: Mapping[str, Variant], file: Path) -> None:
    """Refuse two variants with the same settings."""
    seen: list[Variant] = []
    for variant in variants.values():
        for other in seen:
            same = (variant.settings, variant.prepare) == (other.settings, other.prepare)
            if same and variant.of == other.of:
                raise UsageError(
                    f"{file}: variants {other.name} and {variant.name} have the same settings; "
                    "change one, or leave it out"
                )
        seen.append(variant)
