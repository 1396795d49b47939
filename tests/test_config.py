"""Configuration: which source wins, what is refused, and that TOML out comes back in."""

import contextlib
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest
import tomli_w
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel

from dglrec import config
from dglrec.baselines import BaselineConfig
from dglrec.config import (
    SECTIONS,
    SHIPPED,
    build_settings,
    changed_keys,
    describe,
    known_keys,
    load_settings,
    resumed_settings,
    shipped_names,
)
from dglrec.dataset import PrepareOptions, prepare
from dglrec.derived import DerivedConfig
from dglrec.errors import DataError, UsageError
from dglrec.nn import ModelConfig
from dglrec.sampling import LoaderConfig
from dglrec.synthetic import synthesize
from dglrec.train import RankingConfig, Settings, TrainConfig, train

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEFAULTS = Settings(ModelConfig(), LoaderConfig(), TrainConfig())


def settings_of(*assignments):
    return load_settings(assignments=assignments)


def config_file(folder, text):
    path = folder / "my.toml"
    path.write_text(text, encoding="utf-8")
    return path


# --- precedence ----------------------------------------------------------------------------------


@pytest.mark.parametrize("in_file", [False, True])
@pytest.mark.parametrize("in_environment", [False, True])
@pytest.mark.parametrize("in_set", [False, True])
def test_set_beats_environment_beats_file_beats_default(in_file, in_environment, in_set, tmp_path):
    file = config_file(tmp_path, "[train]\nepochs = 101\n")
    found = load_settings(
        file=file if in_file else None,
        environment={"DGLREC_TRAIN_EPOCHS": "102"} if in_environment else {},
        assignments=["train.epochs=103"] if in_set else [],
    )
    default = TrainConfig().epochs
    expected = 103 if in_set else 102 if in_environment else 101 if in_file else default
    assert found.train.epochs == expected


def test_sources_add_up(tmp_path):
    file = config_file(tmp_path, "[train]\nseed = 1\n[model]\ndropout = 0.5\n")
    found = load_settings(
        file=file,
        environment={"DGLREC_LOADER_BATCH_SIZE": "64"},
        assignments=["model.aggregator=pool"],
    )
    assert changed_keys(DEFAULTS, found) == [
        "model.aggregator",
        "model.dropout",
        "loader.batch_size",
        "train.seed",
    ]


def test_of_repeated_assignments_the_last_wins():
    assert settings_of("train.epochs=3", "train.epochs=4").train.epochs == 4


def test_without_any_source_all_is_default():
    assert load_settings() == DEFAULTS
    assert build_settings({}) == DEFAULTS


def test_the_environment_is_only_read_where_it_is_given(monkeypatch):
    monkeypatch.setenv("DGLREC_TRAIN_EPOCHS", "99")
    assert load_settings() == DEFAULTS


# --- the environment -----------------------------------------------------------------------------


@pytest.mark.parametrize("variable", ["DGLREC_CACHE", "DGLREC_PYTHON", "DGLREC_VENV"])
def test_variables_of_the_tools_are_no_settings(variable):
    assert load_settings(environment={variable: "/somewhere", "PATH": "/bin"}) == DEFAULTS


@pytest.mark.parametrize(
    ("variable", "nearest"),
    [
        ("DGLREC_TRAIN_EPOCH", "DGLREC_TRAIN_EPOCHS"),
        ("DGLREC_MODEL_EMBEDING_SIZE", "DGLREC_MODEL_EMBEDDING_SIZE"),
        ("DGLREC_", "DGLREC_"),
    ],
)
def test_an_unknown_variable_is_refused_with_the_nearest(variable, nearest):
    with pytest.raises(UsageError, match=f"variable {variable}: .*did you mean {nearest}"):
        load_settings(environment={variable: "1"})


def test_every_key_has_its_variable():
    values = {f"DGLREC_{key.replace('.', '_').upper()}" for key in known_keys()}
    assert len(values) == len(known_keys())  # no two keys share one
    defaults = DEFAULTS.to_dict()
    for key in known_keys():
        section, name = key.split(".")
        value = tomli_w.dumps({"v": defaults[section][name]}).partition("=")[2].strip()
        environment = {f"DGLREC_{key.replace('.', '_').upper()}": value}
        assert load_settings(environment=environment) == DEFAULTS


def test_a_wrong_value_in_the_environment_names_the_key():
    with pytest.raises(UsageError, match="train.epochs = 'ten'"):
        load_settings(environment={"DGLREC_TRAIN_EPOCHS": "ten"})


# --- keys ----------------------------------------------------------------------------------------


def test_known_keys_are_all_fields_of_all_sections():
    expected = {
        f"{name}.{field}"
        for name, kind in (
            ("model", ModelConfig),
            ("loader", LoaderConfig),
            ("train", TrainConfig),
            ("baseline", BaselineConfig),
            ("ranking", RankingConfig),
            ("derived", DerivedConfig),
        )
        for field in kind.model_fields
    }
    assert set(known_keys()) == expected
    assert len(known_keys()) == len(expected)
    assert set(SECTIONS) == set(DEFAULTS.to_dict())


@pytest.mark.parametrize("key", known_keys())
def test_a_key_with_a_letter_missing_is_refused_with_the_nearest(key):
    wrong = key[:-1]
    with pytest.raises(UsageError, match=f"no setting {wrong}; did you mean {key}"):
        settings_of(f"{wrong}=1")


@pytest.mark.parametrize("assignment", ["train", "train.epochs 3", "", "=3", "train.=3"])
def test_what_is_no_assignment_is_refused(assignment):
    with pytest.raises(UsageError, match="--set"):
        settings_of(assignment)


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("[train]\nepoch = 1", "no setting train.epoch; did you mean train.epochs"),
        ("[trains]\nepochs = 1", r"no section \[trains\]; did you mean train"),
        ("train = 1", r"train = 1: is a section; write \[train\]"),
        ("[train.deep]\nepochs = 1", "no setting train.deep"),
    ],
)
def test_unknown_keys_of_a_file_are_refused(text, fragment, tmp_path):
    file = config_file(tmp_path, text)
    with pytest.raises(UsageError, match=fragment) as raised:
        load_settings(file=file)
    assert str(file) in str(raised.value)


# --- values --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("assignment", "section", "name", "value"),
    [
        ("train.learning_rate=1", "train", "learning_rate", 1.0),
        ("train.learning_rate=1e-2", "train", "learning_rate", 0.01),
        ("model.dropout=0", "model", "dropout", 0.0),
        (" train.epochs = 7 ", "train", "epochs", 7),
        ("train.epochs=1_000", "train", "epochs", 1_000),
        ("model.user_identity=true", "model", "user_identity", True),
        ("train.loss=smooth_l1", "train", "loss", "smooth_l1"),
        ('train.loss="smooth_l1"', "train", "loss", "smooth_l1"),
        ("loader.user_fanouts=10,20", "loader", "user_fanouts", (10, 20)),
        ("loader.user_fanouts=[10, 20]", "loader", "user_fanouts", (10, 20)),
        ("loader.user_fanouts=-1,-1", "loader", "user_fanouts", (-1, -1)),
        ("train.clip_norm=inf", "train", "clip_norm", float("inf")),  # no clipping
        ("loader.folds=auto", "loader", "folds", "auto"),
        ("loader.user_fanouts=auto", "loader", "user_fanouts", "auto"),
        ("model.item_features=false", "model", "item_features", False),
        ('model.item_features=["genres"]', "model", "item_features", ("genres",)),
        ("model.item_features=genres", "model", "item_features", ("genres",)),
        ("model.user_features=age,gender", "model", "user_features", ("age", "gender")),
        ('model.user_features=["age"]', "model", "user_features", ("age",)),
    ],
)
def test_values_are_read_as_toml(assignment, section, name, value):
    found = getattr(getattr(settings_of(assignment), section), name)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "assignment",
    [
        "train.epochs=true",
        "train.epochs=3.0",
        'train.epochs="3"',
        "train.epochs=",
        "train.epochs=0",
        "train.epochs=3,4",
        "train.seed=-1",
        "train.learning_rate=true",
        "train.learning_rate=0",
        "train.learning_rate=nan",
        "train.learning_rate=inf",
        "train.weight_decay=-0.1",
        "train.weight_decay=nan",
        "train.clip_norm=nan",
        "train.optimizer=sgd",
        "model.user_identity=1",
        "model.user_identity=yes",
        "model.dropout=1",
        "model.dropout=nan",
        "model.embedding_size=0",
        "model.layers=[2]",
        "loader.batch_size=0",
        "loader.user_fanouts=10",
        "loader.user_fanouts=10,0",
        "loader.user_fanouts=10,-2",
        "loader.user_fanouts=10,many",
        "loader.user_fanouts=10,20,30",
        "loader.user_fanouts=[]",
        "loader.user_fanouts=all",
        "loader.folds=1",
        "loader.unseen_items=1",
        "loader.unseen_items=nan",
        "model.layers=-1",
        "model.identity_damping=-1",
        "model.identity_damping=inf",
        "model.item_features=[1]",
        "model.item_features=1",
        "model.refinement=-1",
        "model.decoder_size=-1",
    ],
)
def test_ill_typed_and_impossible_values_are_refused(assignment):
    key = assignment.partition("=")[0]
    with pytest.raises(UsageError) as raised:
        settings_of(assignment)
    section, name = key.split(".")
    assert section in str(raised.value)
    assert name in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


def test_a_value_in_toml_keeps_its_type(tmp_path):
    with pytest.raises(UsageError, match="train.epochs = '5'"):
        load_settings(file=config_file(tmp_path, "[train]\nepochs = '5'\n"))
    file = config_file(tmp_path, "[loader]\nuser_fanouts = [1, 2]\nitem_fanouts = [3, 4]\n")
    assert load_settings(file=file).loader.item_fanouts == (3, 4)


def test_layers_and_fanouts_must_agree():
    both = "loader.user_fanouts=1,2", "loader.item_fanouts=1,2"
    with pytest.raises(
        UsageError,
        match="model.layers is 3, but loader.user_fanouts names 2 and loader.item_fanouts 2: "
        "leave both at auto, or give both a figure for each layer, like "
        "--set loader.user_fanouts=10,10,100 --set loader.item_fanouts=10,10,10$",
    ):
        settings_of("model.layers=3", *both)
    with pytest.raises(UsageError, match="names auto and loader.item_fanouts 2: leave both"):
        settings_of("model.layers=3", "loader.item_fanouts=1,2")
    with pytest.raises(UsageError, match="names 3 and loader.item_fanouts auto: leave both"):
        settings_of("loader.user_fanouts=1,2,3")
    with pytest.raises(UsageError, match="model.layers is 2, but loader.user_fanouts names 1"):
        settings_of("loader.user_fanouts=[5]", "loader.item_fanouts=[5]")
    with pytest.raises(UsageError, match="^loader: user_fanouts .* same number of layers"):
        settings_of("loader.user_fanouts=1,2,3", "loader.item_fanouts=1,2", "model.layers=3")
    with pytest.raises(UsageError, match=r"^loader: user_fanouts \(10, 0\): each must be 1 or"):
        settings_of("loader.user_fanouts=10,0")
    three = ["model.layers=3", "loader.user_fanouts=1,2,3", "loader.item_fanouts=1,2,3"]
    assert settings_of(*three).model.layers == 3


@pytest.mark.parametrize("layers", [0, 1, 2, 3])
def test_fanouts_left_to_us_fit_any_number_of_layers(layers):
    assert settings_of(f"model.layers={layers}").model.layers == layers
    one_side = settings_of("loader.item_fanouts=" + str([7] * layers), f"model.layers={layers}")
    assert one_side.loader.resolved(10, 5, layers).fanouts == [(-1, 7)] * layers


@example("model.relations", "")
@example("model.relations", "trusts, has_genres")
@example("model.item_features", "")
@example("model.user_features", "age, occupation")
@given(
    st.sampled_from(known_keys()),
    st.one_of(st.integers(), st.floats(), st.booleans(), st.text(max_size=20)),
)
def test_any_value_is_taken_as_it_is_or_refused(key, value):
    section, name = key.split(".")
    try:
        settings = build_settings({section: {name: value}})
    except UsageError:
        return
    found = getattr(getattr(settings, section), name)
    named = ("model.relations", "model.item_features", "model.user_features")
    if key in named and isinstance(value, str):
        value = tuple(value.replace(" ", "").split(","))  # one name, or several
    # A whole number above 2^53 is rounded where a float is wanted.
    assert found == (float(value) if isinstance(found, float) else value)
    assert isinstance(found, bool) == isinstance(value, bool)


@given(st.text(max_size=40))
def test_any_assignment_is_taken_or_refused(text):
    for assignment in (text, f"train.epochs={text}"):
        with contextlib.suppress(UsageError):
            settings_of(assignment)


# --- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"[train\n", b"\xff\xfe", b"a = 1\na = 2\n", b"\0"])
def test_what_is_no_toml_is_refused(content, tmp_path):
    file = tmp_path / "my.toml"
    file.write_bytes(content)
    with pytest.raises(DataError, match="not readable as TOML") as raised:
        load_settings(file=file)
    assert str(file) in str(raised.value)


def test_missing_files_are_refused(tmp_path):
    with pytest.raises(DataError, match="no such configuration file"):
        load_settings(file=tmp_path / "no.toml")
    with pytest.raises(DataError, match="is a folder"):
        load_settings(file=tmp_path)


def test_an_empty_file_changes_nothing(tmp_path):
    assert load_settings(file=config_file(tmp_path, "# nothing\n")) == DEFAULTS


# --- shipped configurations ----------------------------------------------------------------------


@pytest.mark.parametrize("name", shipped_names())
def test_a_shipped_configuration_is_found_by_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = load_settings(file=Path(name))
    assert found == load_settings(file=SHIPPED / f"{name}.toml")
    (tmp_path / name).mkdir()  # as a run may be called
    assert load_settings(file=Path(name)) == found
    assert load_settings(file=Path(name), assignments=["train.seed=7"]).train.seed == 7


@pytest.mark.parametrize(
    "kind",
    ["item_knn", "bias", "global_mean", "popularity", "ease", "graph_filter", "session", "vsknn"],
)
def test_baselines_are_shipped_under_their_kinds(kind):
    assert load_settings(file=Path(kind)).model.kind == kind


def test_a_file_of_that_name_comes_before_a_shipped_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bias").write_text("[train]\nseed = 3\n")
    assert load_settings(file=Path("bias")) == settings_of("train.seed=3")


def test_a_name_that_is_not_shipped_is_refused_with_those_that_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="^nope: .* bias, .*global_mean, .*item_knn") as raised:
        load_settings(file=Path("nope"))
    assert all(name in str(raised.value) for name in shipped_names())
    for path in (Path("bias.toml"), tmp_path / "bias"):  # not bare names
        with pytest.raises(DataError, match="no such configuration file$"):
            load_settings(file=path)


def test_shipped_configurations_are_part_of_the_package():
    setup = ConfigParser()
    setup.read(SHIPPED.parents[1] / "setup.cfg")
    patterns = setup["options.package_data"]["dglrec"].split()
    packed = {path for pattern in patterns for path in SHIPPED.parent.glob(pattern)}
    assert set(SHIPPED.iterdir()) <= packed


# --- TOML out ------------------------------------------------------------------------------------


def test_describe_is_toml_of_all_defaults(tmp_path):
    text = describe()
    values = tomllib.loads(text)
    assert {f"{name}.{key}" for name, keys in values.items() for key in keys} == set(known_keys())
    assert values == {
        name: {key: list(v) if isinstance(v, tuple) else v for key, v in keys.items()}
        for name, keys in DEFAULTS.to_dict().items()
    }
    assert load_settings(file=config_file(tmp_path, text)) == DEFAULTS


def test_describe_shows_the_values_that_it_is_given(tmp_path):
    settings = load_settings(
        file=Path("item_knn"), assignments=["baseline.neighbours=7", "train.clip_norm=inf"]
    )
    assert load_settings(file=config_file(tmp_path, describe(settings))) == settings


def test_a_file_from_before_there_were_baselines_is_read(tmp_path):
    values = DEFAULTS.to_dict()
    del values["baseline"], values["model"]["kind"]
    assert load_settings(file=config_file(tmp_path, tomli_w.dumps(values))) == DEFAULTS


def test_describe_explains_every_key():
    lines = describe().splitlines()
    for key in known_keys():
        place = next(n for n, line in enumerate(lines) if line.startswith(f"{key.split('.')[1]} ="))
        assert lines[place - 1].startswith("# ")
        assert lines[place - 1] != "# None"


def test_settings_survive_toml(tmp_path):
    settings = settings_of(
        "model.aggregator=pool",
        "model.layers=1",
        "loader.user_fanouts=[-1]",
        "loader.item_fanouts=[7]",
        "train.learning_rate=0.1",
        "train.clip_norm=inf",
    )
    file = config_file(tmp_path, tomli_w.dumps(settings.to_dict()))
    assert load_settings(file=file) == settings


# --- of a run ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    synthesize(folder / "source", users=60, items=30, ratings=900, seed=0)
    dataset = prepare(folder / "source", folder / "dataset", PrepareOptions(text=False))
    train(dataset, folder / "run", settings_of(*GIVEN))
    return folder / "run"


GIVEN = [
    "train.epochs=1",
    "model.embedding_size=8",
    "loader.user_fanouts=5,5",
    "train.learning_rate=1e-3",
]
# What a run of 24 training ratings an item, and few ones, keeps in the place of `auto`.
OWN = settings_of(
    *GIVEN,
    "loader.batch_size=2048",
    "loader.folds=8",
    "loader.folds_by=chance",
    "loader.item_fanouts=10,10",
    "model.dropout=0.1",
    "model.heads=both",
    "model.list_size=128",
    "loader.items=all",
    "ranking.negatives=catalogue",
)


def test_the_configuration_that_a_run_writes_reads_back_equal(run):
    assert load_settings(file=run / "config.toml") == OWN
    assert resumed_settings(run, None, [], {}) == OWN


def test_a_resumed_run_may_train_for_longer(run, tmp_path):
    found = resumed_settings(run, None, ["train.epochs=9", "train.patience=8"], {})
    assert changed_keys(OWN, found) == ["train.epochs", "train.patience"]
    assert resumed_settings(run, None, [], {"DGLREC_TRAIN_EPOCHS": "4"}).train.epochs == 4
    file = config_file(tmp_path, "[train]\nepochs = 5\n")
    assert resumed_settings(run, file, [], {}).train.epochs == 5


@pytest.mark.parametrize(
    ("assignment", "keys"),
    [
        (["train.seed=1"], "train.seed"),
        (["train.epochs=9", "model.embedding_size=16"], "model.embedding_size"),
        (["train.loss=smooth_l1", "loader.batch_size=7"], "loader.batch_size, train.loss"),
    ],
)
def test_a_resumed_run_may_change_nothing_else(assignment, keys, run):
    with pytest.raises(UsageError, match=f"would change: {keys};"):
        resumed_settings(run, None, assignment, {})


def test_a_resumed_run_is_held_to_variables_and_files_too(run, tmp_path):
    with pytest.raises(UsageError, match="model.dropout"):
        resumed_settings(run, None, [], {"DGLREC_MODEL_DROPOUT": "0.4"})
    with pytest.raises(UsageError, match="train.schedule"):
        resumed_settings(run, config_file(tmp_path, "[train]\nschedule = 'linear'\n"), [], {})


def test_repeating_a_runs_own_setting_is_no_change(run):
    found = resumed_settings(run, None, ["model.embedding_size=8", "train.learning_rate=0.001"], {})
    assert found == OWN


def test_auto_goes_on_meaning_what_it_meant_when_the_run_began(run):
    autos = ["model.dropout=auto", "loader.batch_size=auto", "train.learning_rate=auto"]
    autos += ["model.heads=auto", "model.list_size=auto", "loader.items=auto"]
    autos += ["ranking.negatives=auto"]
    autos += [
        "loader.folds=auto",
        "loader.folds_by=auto",
        "loader.user_fanouts=auto",
        "loader.item_fanouts=auto",
    ]
    assert resumed_settings(run, None, autos, {}) == OWN


def test_resuming_without_a_configuration_is_refused(tmp_path):
    with pytest.raises(DataError, match="leave out --resume"):
        resumed_settings(tmp_path, None, [], {})


def test_each_section_is_checked_where_it_is_built():
    """Each owner refuses unknown keys by itself and cannot be changed afterwards."""
    for kind in SECTIONS.values():
        assert issubclass(kind, BaseModel)
        with pytest.raises(ValueError, match="nosuch"):
            kind.model_validate({"nosuch": 1})
        with pytest.raises(ValueError, match="frozen"):
            setattr(kind(), next(iter(kind.model_fields)), 1)
    assert config.ENVIRONMENT_PREFIX == "DGLREC_"
