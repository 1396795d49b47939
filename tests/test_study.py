"""Studies: declarations checked, runs kept and gone on with, the table against compare's."""

import json
import math
import re
import shutil
import sys
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from runs import weights_of

from dglrec import cli
from dglrec.compare import (
    RATING_FIGURES,
    UserSums,
    bootstrap,
    compare_runs,
    figures,
    holm,
    redraw_runs,
)
from dglrec.config import load_settings
from dglrec.dataset import PrepareOptions, RatingDataset, prepare
from dglrec.errors import DataError, DglrecError, UsageError
from dglrec.features import TextCleaning
from dglrec.files import CHECKSUMS_FILE
from dglrec.run import BEST, LAST, RESULTS_FILE
from dglrec.study import (
    FinishedRun,
    PrepareKeys,
    RunSums,
    as_markdown,
    known_study_keys,
    load_sums,
    read_study,
    run_study,
    running,
    select,
    shipped_studies,
    tabulate,
)
from dglrec.synthetic import synthesize
from dglrec.train import loop, train

TINY = """
title = "A tiny study"
reference = "default"
seeds = [0, 1]

[common]
train.epochs = 1
model.embedding_size = 4
prepare.text = false

[variants.default]

[variants.no_dot]
description = "no dot product | MLP alone"
model.interaction = false
"""
FEW = """
[variants.few]
prepare.users = 30
"""


def declared(folder, text=TINY, name="tiny", **options):
    path = folder / f"{name}.toml"
    path.write_text(text, encoding="utf-8")
    return read_study(str(path), **options)


@dataclass(frozen=True)
class Done:
    """A source, and a study of it that is finished; no test changes either."""

    source: Path
    out: Path
    result: dict


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    synthesize(folder / "source", users=60, items=40, ratings=1_500, seed=2)
    result = run_study(declared(folder), folder / "source", folder / "out")
    return Done(folder / "source", folder / "out", result)


@pytest.fixture
def out(done, tmp_path):
    """A copy of the finished study, to be changed."""
    return shutil.copytree(done.out, tmp_path / "out")


@pytest.fixture
def trainings(monkeypatch):
    """Which runs are trained: (variant, seed), in order."""
    seen = []

    def watched(dataset, run, *arguments, **options):
        seen.append((run.parent.name, int(run.name.removeprefix("seed-"))))
        return train(dataset, run, *arguments, **options)

    monkeypatch.setattr(running, "train", watched)
    return seen


@pytest.fixture
def no_training(monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("a run was trained")

    monkeypatch.setattr(running, "train", refuse)


def run_of(out, variant, seed):
    return out / "runs" / variant / f"seed-{seed}"


# ---------------------------------------------------------------- declarations


@pytest.mark.parametrize("name", sorted(shipped_studies()))
def test_shipped_studies_can_be_carried_out(name):
    study = read_study(name)
    assert study.name == name
    assert study.seeds == (0, 1, 2, 3, 4)
    assert len(study.variants) >= 4
    assert all(variant.description for variant in study.variants.values())


def test_prepare_keys_are_the_options_of_prepare():
    options = {field.name for field in fields(PrepareOptions)} - {"overwrite", "cleaning"}
    cleaning = {field.name for field in fields(TextCleaning)}
    assert set(PrepareKeys.model_fields) == options | cleaning
    assert PrepareKeys().options() == PrepareOptions()
    keys = PrepareKeys(
        train_file="a",
        test_file="b",
        scale="1:5",
        per_sentence=True,
        numeric="x,y",
        users=3,
        columns="user=u",
    )
    found = keys.options()
    assert (found.train_file, found.test_file) == (Path("a"), Path("b"))
    assert (found.scale.maximum, found.cleaning.per_sentence, found.users) == (5, True, 3)
    assert (found.numeric, found.columns) == (("x", "y"), {"user": "u"})
    with pytest.raises(UsageError, match="s3://b/t: is in a store; give a path"):
        PrepareKeys(item_table="s3://b/t").options()
    keys = PrepareKeys(
        item_table="i", user_table="u", attribute=["age=date"], relation="trusts=t.csv"
    )
    found = keys.options()
    assert (found.item_table, found.user_table) == (Path("i"), Path("u"))
    assert found.relation == {"trusts": Path("t.csv")}
    assert found.attribute == {"age": "date"}


def test_names_of_data_sets_tell_options_apart():
    assert PrepareKeys().name == PrepareKeys(seed=0, text=True).name == "defaults"
    assert PrepareKeys(users=70, text=False).name == "text-false_users-70"
    many = [
        PrepareKeys(),
        PrepareKeys(seed=1),
        PrepareKeys(valid=0.2),
        PrepareKeys(test=0.2),
        PrepareKeys(text_model="a/b"),
        PrepareKeys(text_model="a-b"),
        PrepareKeys(text_model="A-B"),
        PrepareKeys(text_model="x" * 300 + "1"),
        PrepareKeys(text_model="x" * 300 + "2"),
        PrepareKeys(train_file="../u1.base", test_file="u1.test"),
        PrepareKeys(relation=("trusts=a.csv",)),
        PrepareKeys(relation=("trusts=b.csv",)),
    ]
    names = [keys.name for keys in many]
    assert len({name.lower() for name in names}) == len(many)
    assert all(re.fullmatch(r"[a-z0-9_.-]{1,80}", name) for name in names)


def test_later_sources_win_and_a_variants_own_settings_over_all(tmp_path):
    text = """
        reference = "plain"
        seeds = [3]
        [common]
        train.epochs = 2
        train.patience = 2
        train.warmup_steps = 2
        train.clip_norm = 2.0
        [variants.plain]
        [variants.own]
        train.clip_norm = 4.0
    """
    study = declared(
        tmp_path,
        text,
        assignments=["train.warmup_steps=3", "train.clip_norm=3.0", "prepare.seed=42"],
        environment={"DGLREC_TRAIN_PATIENCE": "5", "DGLREC_TRAIN_WARMUP_STEPS": "5"},
    )
    plain, own = (study.variants[name].with_seed(3) for name in ("plain", "own"))
    assert plain.train.loss == "mse"
    assert (plain.train.epochs, plain.train.patience, plain.train.warmup_steps) == (2, 5, 3)
    assert (plain.train.clip_norm, own.train.clip_norm) == (3.0, 4.0)
    assert plain.train.seed == own.train.seed == 3
    assert all(variant.prepare.seed == 42 for variant in study.variants.values())
    assert (study.title, study.split) == ("tiny", "test")


def test_keys_may_be_quoted_or_not(tmp_path):
    quoted = TINY.replace("train.epochs", '"train.epochs"').replace(
        "model.interaction", '"model.interaction"'
    )
    table = TINY.replace("model.interaction = false", "model = {interaction = false}")
    plain = declared(tmp_path)
    assert declared(tmp_path, quoted) == declared(tmp_path, table) == plain


def test_all_keys_but_the_seed_can_be_set():
    assert {"model.layers", "loader.folds", "prepare.users"} <= set(known_study_keys())
    assert "train.seed" not in known_study_keys()


@pytest.mark.parametrize(
    ("old", "new", "fragment"),
    [
        ("model.interaction", "model.interactions", "no_dot: no setting .*mean model.interaction?"),
        ("train.epochs", "train.epoch", r"\[common\]: no setting .*did you mean train.epochs?"),
        ("prepare.text =", "prepare.txt =", "did you mean prepare.text?"),
        ("train.epochs", "trian.epochs", "no setting trian"),
        ("train.epochs = 1", "train.seed = 1", "each of the study's seeds"),
        ("model.interaction = false", "model.interaction = 1", "no_dot: model.interaction = 1"),
        ("model.interaction = false", "loader.folds = 0", "no_dot: loader.folds = 0"),
        ("model.interaction = false", "prepare.users = 0", "no_dot: --users 0"),
        ("model.interaction = false", "prepare.valid = 1.5", "no_dot: --valid 1.5"),
        ("model.interaction = false", "prepare.scale = 'x'", "no_dot: .*MIN:MAX"),
        ("model.interaction = false", "prepare.train_file = 'x'", "given together"),
        ("model.interaction = false", "prepare.seed = 'x'", "no_dot: prepare.seed = 'x'"),
        ("model.interaction = false", "", "default and no_dot have the same settings"),
        ("[variants.no_dot]", "[variants.'no dot']", "variant 'no dot'"),
        ("[variants.no_dot]", "[variants.'../x']", "variant '../x'"),
        ('"no dot product | MLP alone"', "3", "description = 3"),
        ("[0, 1]", "[]", "name one seed or more"),
        ("seeds = [0, 1]", "", "name one seed or more"),
        ("[0, 1]", "[0, 1, 0]", "0 is there twice"),
        ("[0, 1]", "[-1]", "-1 is no seed"),
        ("[0, 1]", "[true]", "True is no seed"),
        ("[0, 1]", "['1']", "'1' is no seed"),
        ('reference = "default"', 'reference = "defualt"', "did you mean default?"),
        ('reference = "default"', "", 'add reference = "default"'),
        ('title = "A tiny study"', 'titel = "x"', "no key titel .*did you mean title?"),
        ('title = "A tiny study"', "title = 3", "title = 3"),
        ('title = "A tiny study"', 'split = "train"', "split = 'train': choose test or valid"),
    ],
)
def test_what_cannot_be_carried_out_is_refused(old, new, fragment, tmp_path):
    assert old in TINY
    with pytest.raises(UsageError, match=fragment):
        declared(tmp_path, TINY.replace(old, new, 1))


def test_a_key_given_twice_is_refused(tmp_path):
    with pytest.raises(UsageError, match="model.layers is there twice"):
        declared(tmp_path, TINY + '"model.layers" = 2\nmodel.layers = 2\n')


def test_a_study_without_variants_is_refused(tmp_path):
    head = 'reference = "a"\nseeds = [0]\n'
    for end, fragment in (
        ("", "declares no variants"),
        ("[variants]\n", "declares no variants"),
        ("variants = 3\n", "variants is no table"),
        ("common = 3\n[variants.a]", "common is no table"),
        ("[variants]\na = 3\n", "variant a is no table"),
    ):
        with pytest.raises(UsageError, match=fragment):
            declared(tmp_path, head + end)


def test_studies_that_are_not_there(tmp_path):
    with pytest.raises(UsageError, match="no study 'scalling'; choose .*scaling.*toml"):
        read_study("scalling")
    with pytest.raises(DataError, match="nosuch.toml: no such"):
        read_study(str(tmp_path / "nosuch.toml"))
    with pytest.raises(DataError, match="not readable as TOML"):
        declared(tmp_path, "reference =")


@pytest.mark.parametrize(
    ("assignment", "fragment"),
    [
        ("train.epoch=3", "--set train.epoch=3: no setting .*did you mean train.epochs?"),
        ("train.seed=3", "--seeds"),
        ("prepare.user=3", "did you mean prepare.users?"),
        ("train.epochs", "write section.key=value"),
    ],
)
def test_wrong_assignments_are_refused(assignment, fragment, tmp_path):
    with pytest.raises(UsageError, match=fragment):
        declared(tmp_path, assignments=[assignment])


def test_a_choice_of_variants_and_seeds(tmp_path):
    study = declared(tmp_path)

    def names(*arguments):
        variants, seeds = select(study, *arguments)
        return [variant.name for variant in variants], seeds

    assert names() == (["default", "no_dot"], (0, 1))
    assert names(["no_dot"], [7]) == (["no_dot"], (7,))
    assert names(["no_dot", "default", "no_dot"])[0] == ["default", "no_dot"]
    with pytest.raises(UsageError, match="--only nodot: tiny has no such .*did you mean no_dot?"):
        select(study, ["nodot"])
    with pytest.raises(UsageError, match="--seeds: 1 is there twice"):
        select(study, [], [1, 1])
    with pytest.raises(UsageError, match="--seeds: name one"):
        select(study, [], [])


# ---------------------------------------------------------------- the table


def made_runs(generator, count, users=20, scale=1.0, rows="same", weights=""):
    """Runs with errors drawn at random."""
    n = np.full(users, 5.0)
    found = []
    for seed in range(count):
        squared = scale * generator.uniform(1, 3, users) * n
        parts = np.column_stack([squared, np.sqrt(squared * n), np.floor(n / 2)])
        sums = UserSums(np.arange(users), n, RATING_FIGURES, parts)
        weight = f"{weights}{generator.random()}"
        stored = RunSums(sums, pa.array(range(users)), "test", rows, weight, baseline=2.0)
        found.append(FinishedRun(seed, stored, 1.5 + seed, 10.0 * (seed + 1)))
    return found


def study_of(tmp_path, *names):
    tables = "".join(f"[variants.{n}]\ntrain.epochs = {k + 1}\n" for k, n in enumerate(names))
    return declared(tmp_path, f'reference = "{names[0]}"\nseeds = [0]\n{tables}')


def test_the_table_is_what_plain_numpy_makes_of_the_sums(tmp_path):
    generator = np.random.default_rng(3)
    study = study_of(tmp_path, "base", "worse", "same")
    runs = {
        name: made_runs(generator, count, scale=scale)
        for name, count, scale in (("base", 4, 1.0), ("worse", 3, 1.06), ("same", 2, 1.0))
    }
    result = tabulate(study, runs, draws=400, seed=5)
    # The same draws by hand: users, then the runs of each variant in turn.
    sums = [run.sums.sums for found in runs.values() for run in found]
    drawn = bootstrap(sums, 400, 5)
    chooser = np.random.default_rng(np.random.SeedSequence(5).spawn(1)[0])
    means = [redraw_runs(part, chooser) for part in np.split(drawn, [4, 7], axis=1)]
    p_values = []
    base = np.mean([figures(one)[0] for one in sums[:4]])
    for row, mean, found in zip(result["variants"], means, runs.values(), strict=True):
        values = np.mean([figures(run.sums.sums) for run in found], axis=0)
        for place, metric in enumerate(("rmse", "mae", "accuracy")):
            assert row[metric]["value"] == pytest.approx(values[place])
        assert [row["rmse"]["low"], row["rmse"]["high"]] == pytest.approx(
            np.quantile(mean[:, 0], [0.025, 0.975]).tolist()
        )
        assert row["valid"] == pytest.approx(1.5 + (len(found) - 1) / 2)
        assert row["training_seconds"] == pytest.approx(5.0 * (len(found) + 1))
        assert (row["baseline"], row["runs"], row["rows"], row["users"]) == (
            *(2.0, len(found)),
            *(100, 20),
        )
        if row["name"] == "base":
            assert row["difference"] is None
            continue
        apart = mean[:, 0] - means[0][:, 0]
        below, above = (apart <= 0).sum(), (apart >= 0).sum()
        p_values.append(min(1.0, 2 * (1 + min(below, above)) / 401))
        percent = 100 * apart / means[0][:, 0]
        difference = row["difference"]
        assert difference["value"]["value"] == pytest.approx(values[0] - base)
        assert difference["percent"]["value"] == pytest.approx(100 * (values[0] / base - 1))
        assert [difference["percent"][end] for end in ("low", "high")] == pytest.approx(
            np.quantile(percent, [0.025, 0.975]).tolist()
        )
        low, high = np.quantile(apart, [0.025, 0.975])
        assert difference["includes_0"] is bool(low <= 0 <= high)
        assert difference["p"] == pytest.approx(p_values[-1])
    # Two comparisons, not the three that each two variants would make.
    adjusted = [row["difference"]["p_holm"] for row in result["variants"][1:]]
    smaller = min(p_values)
    assert min(adjusted) == pytest.approx(min(1, 2 * smaller))
    assert adjusted == pytest.approx(holm(p_values))


def test_variants_on_other_rows_stand_alone(tmp_path):
    generator = np.random.default_rng(4)
    study = study_of(tmp_path, "all", "few", "other", "like_all")
    runs = {
        "all": made_runs(generator, 2),
        "few": made_runs(generator, 2, users=8, rows="few"),
        "like_all": made_runs(generator, 2),
    }
    result = tabulate(study, runs, draws=100)
    rows = {row["name"]: row for row in result["variants"]}
    assert rows["few"]["difference"] is None
    assert rows["few"]["users"] == 8
    # Alone in its family: nothing to correct for.
    assert rows["like_all"]["difference"]["p"] == rows["like_all"]["difference"]["p_holm"]
    notes = "\n".join(result["notes"])
    assert "few: not on the test rows of all" in notes
    assert "few: 8 users are few" in notes
    assert "all, like_all: 20 users are few" in notes
    assert "fewer than 5 runs of all, like_all, few" in notes
    assert "no finished run of other" in notes
    alone = tabulate(study, {"few": runs["few"]}, draws=100)
    assert alone["variants"][0]["rmse"] == rows["few"]["rmse"]
    assert "the reference all has no finished run" in "\n".join(alone["notes"])


def test_one_seed_is_said_to_be_one(tmp_path):
    generator = np.random.default_rng(5)
    study = study_of(tmp_path, "base", "other")
    result = tabulate(study, {name: made_runs(generator, 1) for name in study.variants}, draws=100)
    assert any(
        "one run of base, other: intervals cover the choice of users" in note
        for note in result["notes"]
    )
    assert result["variants"][1]["difference"]["value"]["low"] is not None


def test_variants_with_the_same_weights_are_said(tmp_path):
    generator = np.random.default_rng(6)
    study = study_of(tmp_path, "base", "twin", "other")
    base = made_runs(generator, 2)
    result = tabulate(
        study, {"base": base, "twin": base, "other": made_runs(generator, 2)}, draws=100
    )
    assert any("base and twin hold the same weights" in note for note in result["notes"])
    twin = result["variants"][1]["difference"]
    assert twin["value"]["value"] == twin["percent"]["value"] == 0


def test_runs_of_one_variant_on_different_rows_are_refused(tmp_path):
    generator = np.random.default_rng(7)
    study = study_of(tmp_path, "base", "other")
    mixed = [*made_runs(generator, 1), *made_runs(generator, 1, rows="other")]
    with pytest.raises(DataError, match="variant base: .* not on the same rows"):
        tabulate(study, {"base": mixed}, draws=100)


def test_markdown_has_a_row_for_each_variant(done):
    text = as_markdown(done.result)
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count(" | ") for line in table if "---" not in line}) == 1
    assert len(table) == 2 + 2
    apart = done.result["variants"][1]["difference"]["percent"]
    assert f"{apart['value']:+.2f} [{apart['low']:+.2f}, {apart['high']:+.2f}]" in table[3]
    assert text.startswith("# A tiny study\n")
    assert "- `no_dot`: no dot product \\| MLP alone" in text
    assert all(f"- {note}" in text for note in done.result["notes"])


# ---------------------------------------------------------------- runs


def test_a_study_leaves_runs_sums_and_a_table(done):
    assert sorted(path.name for path in done.out.iterdir() if path.name[0] != ".") == [
        *("data", "results.json", "results.md", "runs", "study.json", "sums")
    ]
    assert [path.name for path in (done.out / "data").iterdir()] == ["text-false"]
    for variant in ("default", "no_dot"):
        for seed in (0, 1):
            run = run_of(done.out, variant, seed)
            kept = {path.name for path in (run / "checkpoints").iterdir()}
            assert kept - {"items"} == {"best"}
            assert f"seed = {seed}" in (run / "config.toml").read_text()
    assert json.loads((done.out / "results.json").read_text()) == done.result
    assert (done.out / "results.md").read_text() == as_markdown(done.result)


def test_figures_are_those_of_compare(done):
    runs = {
        name: [run_of(done.out, name, seed) for seed in (0, 1)] for name in ("default", "no_dot")
    }
    expected = compare_runs(runs)
    for row, one in zip(done.result["variants"], expected["runs"], strict=True):
        assert {key: row[key] for key in ("name", "runs", "rmse", "mae", "accuracy")} == one
        results = [json.loads((run / RESULTS_FILE).read_text()) for run in runs[row["name"]]]
        for key, values in {
            "rmse": [result["test"]["rmse"] for result in results],
            "valid": [result["valid"]["rmse"] for result in results],
            "baseline": [result["test"]["baselines"]["bias"]["rmse"] for result in results],
            "training_seconds": [result["training_seconds"] for result in results],
        }.items():
            found = row[key]["value"] if key == "rmse" else row[key]
            assert found == pytest.approx(np.mean(values), rel=1e-6)
    (pair,) = expected["differences"]  # default less no_dot; a study takes the reference away
    apart = done.result["variants"][1]["difference"]
    assert apart["value"]["value"] == pytest.approx(-pair["rmse"]["value"], abs=1e-12)
    assert apart["value"]["low"] == pytest.approx(-pair["rmse"]["high"], abs=1e-12)
    assert apart["p_holm"] == pair["rmse"]["p_holm"]


def test_the_same_call_again_trains_nothing(done, out, tmp_path, no_training):
    assert run_study(declared(tmp_path), done.source, out) == done.result


def test_a_stopped_study_trains_what_is_missing(done, tmp_path, monkeypatch, trainings):
    def fail(dataset, run, *arguments, **options):
        if run.parts[-2:] == ("no_dot", "seed-0"):
            raise DglrecError("the loss is no number")
        return watched(dataset, run, *arguments, **options)

    watched = running.train
    study, folder = declared(tmp_path), tmp_path / "stopped"
    monkeypatch.setattr(running, "train", fail)
    with pytest.raises(DglrecError, match="variant no_dot, seed 0: the loss is no number"):
        run_study(study, done.source, folder)
    assert trainings == [("default", 0)]
    assert not (folder / "results.json").exists()
    monkeypatch.setattr(running, "train", watched)
    result = run_study(study, done.source, folder)
    assert trainings == [("default", 0), ("no_dot", 0), ("default", 1), ("no_dot", 1)]
    assert [row["rmse"] for row in result["variants"]] == [
        row["rmse"] for row in done.result["variants"]
    ]


def test_a_run_stopped_half_way_goes_on(done, tmp_path, monkeypatch, capsys):
    study = declared(tmp_path, assignments=["train.epochs=3"])
    end_epoch = loop._end_epoch

    def stop(*arguments):
        end_epoch(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "_end_epoch", stop)
    folder = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        run_study(study, done.source, folder, only=["no_dot"], seeds=[1])
    assert "the same study command resumes it" in capsys.readouterr().err
    run = run_of(folder, "no_dot", 1)
    assert (run / LAST).is_dir()
    monkeypatch.setattr(loop, "_end_epoch", end_epoch)
    run_study(study, done.source, folder, only=["no_dot"], seeds=[1])
    assert f"resuming {run} after epoch 1" in capsys.readouterr().err
    whole = tmp_path / "whole"
    dataset = RatingDataset.open(folder / "data" / "text-false")
    train(dataset, whole, study.variants["no_dot"].with_seed(1))
    found, expected = weights_of(run, BEST), weights_of(whole, BEST)
    assert all(bool((found[name] == expected[name]).all()) for name in expected)


def test_added_variants_and_seeds_keep_the_runs_that_are_there(done, out, tmp_path, trainings):
    before = (run_of(out, "default", 0) / "config.toml").stat().st_mtime_ns
    text = (TINY + FEW).replace("[0, 1]", "[0, 1, 2]")
    result = run_study(declared(tmp_path, text), done.source, out)
    assert trainings == [("few", 0), ("few", 1), ("default", 2), ("no_dot", 2), ("few", 2)]
    assert (run_of(out, "default", 0) / "config.toml").stat().st_mtime_ns == before
    assert [row["runs"] for row in result["variants"]] == [3, 3, 3]
    few = RatingDataset.open(out / "data" / "text-false_users-30")
    assert few.meta["counts"]["users"] == 30
    rows = {row["name"]: row for row in result["variants"]}
    assert rows["few"]["difference"] is None
    assert rows["few"]["rows"] == few.meta["counts"]["test"]
    assert "few: not on the test rows of default" in "\n".join(result["notes"])


def test_a_choice_is_trained_and_all_that_is_there_is_shown(done, out, tmp_path, trainings):
    result = run_study(declared(tmp_path), done.source, out, only=["no_dot"], seeds=[5])
    assert trainings == [("no_dot", 5)]
    assert [row["seeds"] for row in result["variants"]] == [[0, 1], [0, 1, 5]]


@pytest.mark.parametrize(
    ("text", "assignments", "fragment"),
    [
        (TINY, ["train.epochs=2"], r"train.epochs was 1 and is 2 \(default, no_dot\)"),
        (TINY, ["prepare.seed=1"], r"prepare.seed was 0 and is 1 \(default, no_dot\)"),
        (
            TINY.replace("interaction = false", "rating_messages = false"),
            [],
            r"model.interaction was False and is True \(no_dot\)",
        ),
        (TINY.replace('ence = "default"', 'ence = "no_dot"'), [], "reference was default and is"),
        (TINY.replace("seeds = ", "split = 'valid'\nseeds = "), [], "split was test and is valid"),
        (TINY.replace("[0, 1]", "[1]"), [], "seed 0 left out"),
        (TINY.replace("variants.no_dot", "variants.other"), [], "variant no_dot left out"),
        (
            TINY,
            [f"train.{key}=9" for key in ("epochs", "patience", "warmup_steps", "clip_norm")],
            "and 1 more",
        ),
    ],
)
def test_another_declaration_is_refused(
    text, assignments, fragment, done, out, tmp_path, no_training
):
    study = declared(tmp_path, text, assignments=assignments)
    before = (out / "study.json").read_bytes()
    with pytest.raises(UsageError, match=f"begun with another declaration: .*{fragment}"):
        run_study(study, done.source, out)
    assert (out / "study.json").read_bytes() == before


def test_other_words_are_no_other_declaration(done, out, tmp_path, no_training):
    text = TINY.replace("A tiny study", "Another title").replace("MLP alone", "other words")
    result = run_study(declared(tmp_path, text), done.source, out)
    assert result["title"] == "Another title"


def test_another_source_is_refused(done, out, tmp_path, no_training):
    shutil.copytree(done.source, tmp_path / "copy")
    with pytest.raises(UsageError, match="source was .* and is .*copy"):
        run_study(declared(tmp_path), tmp_path / "copy", out)


def test_a_source_that_changed_between_data_sets_is_refused(done, tmp_path, no_training):
    source, out = tmp_path / "source", tmp_path / "out"
    shutil.copytree(done.source, source)
    study = declared(tmp_path, TINY + FEW)
    with pytest.raises(AssertionError):
        run_study(study, source, out, only=["default"])
    ratings = source / "rating_complete.csv"
    lines = ratings.read_text().splitlines(keepends=True)
    ratings.write_text("".join(lines[:-1]))
    with pytest.raises(DataError, match="variant few: .*rating_complete.csv changed"):
        run_study(study, source, out)


# ---------------------------------------------------------------- damage


def cut(path):
    path.write_bytes(path.read_bytes()[:-20])


def alter(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("damage", "fragment"),
    [
        (lambda run: cut(run / RESULTS_FILE), "results.json: damaged or altered"),
        (
            lambda run: (cut(run / RESULTS_FILE), (run / CHECKSUMS_FILE).unlink()),
            "not readable as JSON",
        ),
        (
            lambda run: ((run / RESULTS_FILE).write_text("{}"), (run / CHECKSUMS_FILE).unlink()),
            "lacks what training writes",
        ),
        (lambda run: alter(run / BEST / "model.safetensors"), "damaged or altered"),
        (lambda run: shutil.rmtree(run / BEST), "no such checkpoint"),
        (lambda run: (run / "config.toml").write_text("[model"), "config.toml"),
        (lambda run: (run / "config.toml").unlink(), "holds no config.toml"),
        (
            lambda run: (run / "config.toml").write_text(
                (run / "config.toml").read_text().replace("epochs = 1", "epochs = 9")
            ),
            "trained with another train.epochs",
        ),
        (
            lambda run: (
                shutil.rmtree(run / "checkpoints"),
                shutil.copytree(
                    run.parent.parent.parent / "foreign" / "checkpoints", run / "checkpoints"
                ),
                (run / CHECKSUMS_FILE).unlink(),
            ),
            "not the data set that",
        ),
    ],
)
def test_a_damaged_run_is_named(damage, fragment, done, out, tmp_path, no_training):
    if "data set" in fragment:
        other = prepare(done.source, tmp_path / "d", PrepareOptions(text=False, seed=9))
        train(other, out / "foreign", declared(tmp_path).variants["no_dot"].with_seed(1))
    run = run_of(out, "no_dot", 1)
    damage(run)
    with pytest.raises((DataError, UsageError)) as caught:
        run_study(declared(tmp_path), done.source, out)
    message = str(caught.value)
    assert message.startswith("variant no_dot, seed 1: ")
    assert re.search(fragment, message)
    assert message.endswith(f"remove {run} to train it again")


def test_what_is_removed_is_trained_again(done, out, tmp_path, trainings):
    shutil.rmtree(run_of(out, "no_dot", 1))
    result = run_study(declared(tmp_path), done.source, out)
    assert trainings == [("no_dot", 1)]
    # Repeatable, so the sums that are there are those of the new run as well.
    assert [row["rmse"] for row in result["variants"]] == [
        row["rmse"] for row in done.result["variants"]
    ]
    assert same_best(run_of(out, "no_dot", 1), run_of(done.out, "no_dot", 1))


def same_best(run, other):
    found, expected = weights_of(run, BEST), weights_of(other, BEST)
    return all(bool((found[name] == expected[name]).all()) for name in expected)


def test_a_run_without_any_checkpoint_starts_from_the_beginning(done, out, tmp_path, trainings):
    run = run_of(out, "default", 1)
    (run / RESULTS_FILE).unlink()
    shutil.rmtree(run / "checkpoints")
    run_study(declared(tmp_path), done.source, out)
    assert trainings == [("default", 1)]
    assert same_best(run, run_of(done.out, "default", 1))


@pytest.mark.parametrize("how", [cut, Path.unlink, lambda path: path.write_text("no")])
def test_sums_that_are_gone_or_damaged_are_made_again(
    how, done, out, tmp_path, no_training, capsys
):
    path = out / "sums" / "no_dot" / "seed-0.parquet"
    how(path)
    assert run_study(declared(tmp_path), done.source, out) == done.result
    expected = load_sums(done.out / "sums" / "no_dot" / "seed-0.parquet", RATING_FIGURES)
    found = load_sums(path, RATING_FIGURES)
    assert (found.rows, found.weights, found.split) == (
        *(expected.rows, expected.weights),
        expected.split,
    )
    assert found.user_ids.equals(expected.user_ids)
    said = "predicting again" in capsys.readouterr().err
    assert said or how is Path.unlink


def test_sums_of_other_weights_are_made_again(done, out, tmp_path, no_training, capsys):
    sums = out / "sums" / "no_dot"
    shutil.copy(sums / "seed-1.parquet", sums / "seed-0.parquet")
    assert run_study(declared(tmp_path), done.source, out) == done.result
    assert "of another training; predicting again" in capsys.readouterr().err


def test_the_sums_name_rows_whatever_data_set_they_are_in(done, tmp_path):
    """Data sets with other features hold the same rows; those with another split do not."""
    study = declared(tmp_path)
    other = TINY + '[variants.numbers]\nprepare.numeric = ["Score"]\n'
    result = run_study(
        declared(tmp_path, other),
        done.source,
        tmp_path / "out",
        only=["default", "numbers"],
        seeds=[0],
    )
    rows = {row["name"]: row for row in result["variants"]}
    assert rows["numbers"]["difference"] is not None
    assert rows["default"]["rmse"]["value"] == pytest.approx(
        figures(load_sums(done.out / "sums" / "default" / "seed-0.parquet", RATING_FIGURES).sums)[0]
    )
    assert study.variants["default"] == declared(tmp_path, other).variants["default"]


# ---------------------------------------------------------------- sources and folders


def test_a_prepared_source_is_used_as_it_is(done, tmp_path, trainings):
    text = TINY.replace("prepare.text = false", "")
    data = done.out / "data" / "text-false"
    out = tmp_path / "out"
    result = run_study(declared(tmp_path, text), data, out, seeds=[0])
    assert not (out / "data").exists()
    assert result["variants"][0]["seeds"] == [0]
    found = weights_of(run_of(out, "default", 0), BEST)
    assert found.keys() == weights_of(run_of(done.out, "default", 0), BEST).keys()
    # Moved, it is the same one; another is another.
    moved = shutil.copytree(data, tmp_path / "moved")
    trainings.clear()
    again = run_study(declared(tmp_path, text), moved, out, seeds=[0])
    assert (again, trainings) == (result, [])
    other = prepare(done.source, tmp_path / "other", PrepareOptions(text=False, seed=1))
    with pytest.raises(UsageError, match="source was data set"):
        run_study(declared(tmp_path, text), other.path, out, seeds=[0])


def test_a_prepared_source_cannot_be_prepared(done, tmp_path, no_training):
    text = TINY.replace("prepare.text = false", "") + FEW
    data = done.out / "data" / "text-false"
    with pytest.raises(UsageError, match="is prepared already, and variant few sets prepare.users"):
        run_study(declared(tmp_path, text), data, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_more_users_than_there_are_are_refused_before_any_training(done, tmp_path, no_training):
    text = TINY + FEW.replace("30", "70")
    with pytest.raises(DataError, match="variant few: --users 70: .* 60 users; ask for fewer$"):
        run_study(declared(tmp_path, text), done.source, tmp_path / "out")


def test_a_damaged_data_set_is_named(done, out, tmp_path, no_training):
    folder = out / "data" / "text-false"
    (folder / "test.parquet").unlink()
    with pytest.raises(DataError, match=f"variant default: .*remove {folder} to prepare it again"):
        run_study(declared(tmp_path), done.source, out)


def test_folders_of_others_are_refused(done, tmp_path, no_training):
    study = declared(tmp_path)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match="is a file; name a folder"):
        run_study(study, done.source, tmp_path / "file")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="holds no study.json"):
        run_study(study, done.source, tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]
    with pytest.raises(DataError, match="nosuch"):
        run_study(study, tmp_path / "nosuch", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        ({"schema_version": 99}, "schema version 99"),
        ({"variants": {"default": {}}}, "not a study that this version can go on with"),
        ({"variants": 3}, "not a study that this version can go on with"),
        ({"seeds": None}, "not a study that this version can go on with"),
    ],
)
def test_a_record_that_cannot_be_read_is_refused(
    change, fragment, done, out, tmp_path, no_training
):
    path = out / "study.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(DataError, match=fragment):
        run_study(declared(tmp_path), done.source, out)


def test_a_later_version_says_that_it_went_on(done, out, tmp_path, no_training):
    path = out / "study.json"
    record = json.loads(path.read_text())
    # Settings that came later have their defaults.
    for variant in record["variants"].values():
        del variant["model"]["dropout"], variant["prepare"]["users"]
    path.write_text(json.dumps({**record, "version": "0.0.1"}))
    result = run_study(declared(tmp_path), done.source, out)
    assert any("begun with dglrec 0.0.1" in note for note in result["notes"])
    assert json.loads(path.read_text())["version"] == "0.0.1"


# ---------------------------------------------------------------- the command line


@pytest.fixture
def command(monkeypatch, capfd):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["dglrec", "study", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capfd.readouterr()
        return ended.value.code, out, err

    return call


def test_from_the_command_line(done, out, tmp_path, command, no_training):
    file = tmp_path / "tiny.toml"
    file.write_text(TINY)
    code, shown, err = command(file, done.source, out, "--json")
    assert code == 0, err
    assert json.loads(shown) == done.result
    assert len(shown.splitlines()) == 1
    code, shown, err = command(file, done.source, out, "--device", "cpu")
    assert code == 0, err
    for row in done.result["variants"]:
        assert row["name"] in shown
        assert f"{row['rmse']['value']:.4f}" in shown
        assert f"{row['valid']:.4f}" in shown
    apart = done.result["variants"][1]["difference"]
    assert f"{apart['percent']['value']:+.2f}" in shown
    line = [line for line in shown.splitlines() if "no_dot" in line][1]
    assert (" yes " in line) is apart["includes_0"]
    assert all(f"note: {note}" in shown for note in done.result["notes"])


def test_a_choice_from_the_command_line(done, tmp_path, command, trainings):
    file = tmp_path / "tiny.toml"
    file.write_text(TINY)
    options = ["--only", "no_dot", "--seeds", "4,3", "--set", "train.epochs=2", "--json"]
    code, shown, err = command(file, done.source, tmp_path / "out", *options)
    assert code == 0, err
    assert trainings == [("no_dot", 4), ("no_dot", 3)]
    result = json.loads(shown)
    (row,) = result["variants"]
    assert row["seeds"] == [3, 4]
    assert row["difference"] is None
    assert math.isfinite(row["rmse"]["value"])
    run = run_of(tmp_path / "out", "no_dot", 4)
    assert json.loads((run / RESULTS_FILE).read_text())["epochs"] == 2


def test_variants_are_listed(tmp_path, command):
    file = tmp_path / "tiny.toml"
    file.write_text(TINY)
    code, shown, _ = command(file, "--list")
    assert code == 0
    assert "tiny: A tiny study (seeds 0, 1)" in shown
    assert "no_dot   no dot product" in shown
    assert "the reference" in shown
    code, shown, _ = command(file, "--list", "--json")
    (found,) = json.loads(shown)["studies"]
    assert list(found["variants"]) == ["default", "no_dot"]
    assert command("scaling", "--list")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "code", "fragment"),
    [
        ([], 2, "Missing arguments STUDY, SOURCE and OUT"),
        (["{file}"], 2, "Missing arguments SOURCE and OUT"),
        (["nosuch", "{source}", "{out}"], 2, "choose ablation"),
        (["{file}", "{source}", "{out}", "--only", "no_dott"], 2, "did you mean no_dot?"),
        (["{file}", "{source}", "{out}", "--seeds", "a"], 2, "--seeds a: write whole numbers"),
        (["{file}", "{source}", "{out}", "--seeds", "0,0"], 2, "--seeds: 0 is there twice"),
        (["{file}", "{source}", "{out}", "--set", "model.depth=3"], 2, "no setting model.depth"),
        (["{file}", "{out}-nosuch", "{out}"], 3, "nosuch"),
        (["{out}.toml", "{source}", "{out}"], 3, "out.toml: no such"),
    ],
)
def test_wrong_use_is_refused(arguments, code, fragment, done, tmp_path, command, no_training):
    file = tmp_path / "tiny.toml"
    file.write_text(TINY)
    places = {"file": file, "source": done.source, "out": tmp_path / "out"}
    found, shown, err = command(*(argument.format(**places) for argument in arguments))
    assert (found, shown) == (code, "")
    assert fragment in err
    assert 1 <= len(err.splitlines()) <= 2
    assert not (tmp_path / "out").exists()


# --- variants that start from a configuration ----------------------------------------------------

CONFIGURED = """
reference = "mf"
seeds = [0]

[common]
model.layers = 1
train.epochs = 3

[variants.mf]
config = "mf"

[variants.wide_mf]
config = "mf"
model.embedding_size = 7

[variants.mine]
config = "mine.toml"

[variants.plain]
"""


def test_a_variant_may_start_from_a_configuration(tmp_path):
    """It beats what is set for all, and the variant's own keys beat it."""
    (tmp_path / "mine.toml").write_text("[model]\nlayers = 3\n[train]\nepochs = 9\n")
    mf, wide, mine, plain = declared(tmp_path, CONFIGURED).variants.values()
    assert mf.settings.model.layers == 0 and not mf.settings.model.spread
    assert wide.settings.model.embedding_size == 7 and wide.settings.model.layers == 0
    assert (mf.settings.train.epochs, mine.settings.train.epochs) == (30, 9)
    assert mine.settings.model.layers == 3 and mine.settings.model.spread
    assert plain.settings.model.layers == 1 and plain.settings.train.epochs == 3


@pytest.mark.parametrize(
    ("config", "error", "says"),
    [
        ('"mff"', DataError, "none of that name comes with dglrec.*mf"),
        ('"gone.toml"', DataError, "gone.toml: no such configuration file"),
        ('"../study.toml"', DataError, "no such configuration file"),
        ('""', DataError, "is a folder"),
        ("3", UsageError, "config = 3: write a text"),
        ('"typo.toml"', UsageError, "no setting model.layer; did you mean model.layers"),
        ('"seed.toml"', UsageError, "train.seed is each of the study's seeds"),
        ('"kind.toml"', UsageError, "model.kind = 'tree'"),
    ],
)
def test_a_configuration_that_is_none_is_refused_with_its_variant(tmp_path, config, error, says):
    (tmp_path / "typo.toml").write_text("[model]\nlayer = 3\n")
    (tmp_path / "seed.toml").write_text("[train]\nseed = 3\n")
    (tmp_path / "kind.toml").write_text("[model]\nkind = 'tree'\n")
    text = f'reference = "one"\nseeds = [0]\n[variants.one]\nconfig = {config}\n'
    with pytest.raises(error, match=f"variant one: (?s:.)*{says}"):
        declared(tmp_path, text)


def test_the_shipped_baselines_are_the_shipped_configurations():
    variants = read_study("baselines").variants
    for name in ("mf", "item_knn", "bias", "paper"):
        assert variants[name].settings == load_settings(file=Path(name))
    assert variants["default"].settings == load_settings()


def test_baselines_are_run_like_the_model(done, tmp_path, trainings):
    """Nothing in them is left to chance, so that runs of all seeds are one."""
    text = TINY + "".join(
        f'[variants.{name}]\nconfig = "{name}"\n' for name in ("mf", "item_knn", "bias")
    )
    study = declared(tmp_path, text)
    result = run_study(study, done.source, tmp_path / "out")
    rows = {row["name"]: row for row in result["variants"]}
    assert list(rows) == ["default", "no_dot", "mf", "item_knn", "bias"]
    assert all(row["runs"] == 2 for row in rows.values())
    assert rows["bias"]["rmse"]["value"] == pytest.approx(rows["bias"]["baseline"], abs=1e-6)
    assert rows["bias"]["difference"]["value"]["value"] != 0
    assert not any("same weights" in note for note in result["notes"])
    again = len(trainings)
    assert run_study(study, done.source, tmp_path / "out") == result
    assert len(trainings) == again


def test_features_that_there_are_not_are_refused_before_any_training(done, tmp_path, no_training):
    """With what to type in their place."""
    text = TINY + '[variants.text_alone]\nmodel.item_features = ["text"]\n'
    with pytest.raises(UsageError, match="variant text_alone: .*no text; leave text_alone out: "):
        run_study(declared(tmp_path, text), done.source, tmp_path / "out")
    with pytest.raises(UsageError, match="--only default --only no_dot$"):
        run_study(declared(tmp_path, text), done.source, tmp_path / "out")
    text = TINY + '[variants.social]\nmodel.relations = ["trusts"]\n'
    with pytest.raises(UsageError, match=r"variant social: model.relations: .*no trusts; leave"):
        run_study(declared(tmp_path, text), done.source, tmp_path / "social")
    text = TINY + '[variants.ages]\nmodel.user_features = ["age"]\n'
    with pytest.raises(
        UsageError, match=r"variant ages: model.user_features: .*no age; leave ages"
    ):
        run_study(declared(tmp_path, text), done.source, tmp_path / "ages")
