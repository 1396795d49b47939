"""Pages about comparisons and searches of `tune`; what of these and of benchmarks is refused."""

import copy
import json
import random
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pages import (
    EVIL,
    RESULTS,
    Parsed,
    evil_benchmark,
    needs_chromium,
    open_in_chromium,
    page_of,
    refuse,
    written,
)
from runs import pretended_training

from dglrec import report
from dglrec.compare import RATING_FIGURES, UserSums, compare
from dglrec.errors import DataError, DivergedError, UsageError
from dglrec.files import write_json
from dglrec.report import write_report
from dglrec.report.axis import Axis
from dglrec.report.benchmark_rows import shown
from dglrec.report.chart import Bar, Series, bar_figure, line_figure
from dglrec.report.html import number
from dglrec.report.sources import Kind, Source, recognise
from dglrec.train import RatingObjective
from dglrec.tune import Goal, read_space, running
from dglrec.tune.record import record_tuning
from dglrec.tune.storage import Trials

SPACE = f"""
title = "A search {EVIL}"
[common]
model.heads = "rating"
train.epochs = 2
[space]
model.embedding_size = [4, 8, 16]
train.learning_rate = {{ low = 1e-3, high = 1e-1, log = true }}
model.layers = {{ low = 1, high = 2 }}
"""
REASON = "epoch 1: validation RMSE nan <img src=x>"


def sums(generator, owners):
    users, place, n = np.unique(owners, return_inverse=True, return_counts=True)
    errors = generator.normal(size=len(owners))
    parts = (errors**2, np.abs(errors), np.abs(errors) < 0.5)
    columns = [np.bincount(place, weights) for weights in parts]
    return UserSums(users, n.astype(np.float64), RATING_FIGURES, np.column_stack(columns))


@pytest.fixture(scope="module")
def compared():
    """What `compare --json` gives of three configurations, one with markup for a name."""
    generator = np.random.default_rng(3)
    owners = np.repeat(np.arange(40), generator.integers(1, 9, 40))
    groups = {"a": 2, f"b{EVIL}": 1, "c": 1}
    made = {name: [sums(generator, owners) for _ in range(n)] for name, n in groups.items()}
    return {"schema_version": 1, "split": "valid", **compare(made, draws=50).to_dict()}


@pytest.fixture(scope="module")
def benchmark():
    return evil_benchmark()


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A search's folder with finished, pruned and failed trials."""
    pytest.importorskip("optuna", reason="needs Optuna: pip install 'dglrec[tune]'")
    folder = tmp_path_factory.mktemp("searched")
    (folder / "space.toml").write_text(SPACE, encoding="utf-8")
    space, out = read_space(str(folder / "space.toml")), folder / "out"
    out.mkdir()
    goal = Goal(RatingObjective.metrics[:1])
    trained = pretended_training([])

    def partly(dataset, run, settings, **options):
        if settings.model.embedding_size == 16:
            raise DivergedError(REASON)
        return trained(dataset, run, settings, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "train", partly)
        patch.setattr(running, "_EPOCHS_BEFORE_PRUNING", 1)
        begun_with = record_tuning(space, SimpleNamespace(fingerprint="f"), goal, out)
        trials = Trials(space, out, maximise=goal.maximise)
        search = running._Search(space, None, out, torch.device("cpu"), goal, trials)
        search.run(25, None)
        search.write(begun_with)
    return out


# Comparisons.


def test_a_comparison_shows_its_figures(compared, tmp_path):
    tables = page_of([written(tmp_path, "cmp.json", compared)], tmp_path).tables()
    for name, title in (("rmse", "RMSE (lower"), ("accuracy", "accuracy (higher")):
        rows = tables[f"{title} is better)"][1:]
        assert rows == [
            [one["name"], *(number(one[name][key]) for key in ("value", "low", "high"))]
            for one in compared["runs"]
        ]
    apart = tables["Difference of MAE"][1:]
    assert [row[-1] for row in apart] == [
        number(one["mae"]["p_holm"]) for one in compared["differences"]
    ]
    assert tables["All figures"][1][:2] == ["a", "2"]
    first = compared["differences"][0]
    percent = tables["All differences"][1][6]
    assert percent == (
        f"{first['percent']:+.2f} [{first['percent_low']:+.2f}, {first['percent_high']:+.2f}]"
    )


def test_comparisons_of_lists_and_several_are_one_page(compared, tmp_path):
    lists = {**copy.deepcopy(compared), "ranking": 10, "relevant_from": 4.0}
    sources = [written(tmp_path, f"{name}.json", value) for name, value in
               (("one", compared), ("two", lists))]  # fmt: skip
    page = page_of(sources, tmp_path)
    whole = "".join(page.named("body")[0].text)
    assert "Lists of 10 of 40 users with relevant valid items, rated 4 or more" in whole
    assert [one.text[0].partition(":")[0] for one in page.named("h2")] == ["one.json", "two.json"]


def test_a_comparison_without_intervals_or_differences(compared, tmp_path):
    value = copy.deepcopy(compared)
    del value["schema_version"]  # as those that were written before there were versions
    value |= {"runs": value["runs"][:1], "differences": []}
    for name in value["metrics"]:
        value["runs"][0][name] |= {"low": None, "high": None}
    tables = page_of([written(tmp_path, "cmp.json", value)], tmp_path).tables()
    assert tables["RMSE (lower is better)"][1][2:] == ["", ""]
    assert "All differences" not in tables


# Searches.


def test_a_search_shows_trials_slices_and_the_best_settings(searched, tmp_path):
    result = json.loads((searched / "results.json").read_text(encoding="utf-8"))
    states = {one["state"] for one in result["trials"]}
    assert states == {"finished", "pruned", "failed"}  # or this shows nothing
    page = page_of([searched], tmp_path)
    tables = page.tables()
    header, *trials = tables["Trials, best first"]
    assert header[:4] == ["trial", "state", "reason", "RMSE"]
    for row, one in zip(trials, result["trials"], strict=True):
        value = "" if one["value"] is None else number(one["value"])
        assert row[:4] == [str(one["trial"]), one["state"], one["reason"] or "", value]
    assert any(row[2] == REASON for row in trials)
    finished = sorted(
        (one["trial"], one["value"]) for one in result["trials"] if one["state"] == "finished"
    )
    best = [
        [str(trial), number(min(value for other, value in finished if other <= trial))]
        for trial, _ in finished
    ]
    curve = tables["RMSE by trial"]
    assert [row[1:] for row in curve if row[0] == "best so far"] == best
    shares = {row[0]: row[1] for row in tables["Share of the variance that each setting explains"]}
    assert {key: number(share) for key, share in result["importances"].items()}.items() <= (
        shares.items()
    )
    places = {row[1] for row in tables["RMSE by model.embedding_size"][1:]}
    assert places == {"4", "8"}
    slices = tables["Slices: finished trials by part of the values"]
    assert len(slices) == 1 + sum(map(len, result["slices"].values()))
    (code,) = page.named("code")
    assert "".join(code.text) == (searched / "best.toml").read_text(encoding="utf-8")
    assert "no test row was read" in "".join(page.named("header")[0].text)


def test_a_search_without_a_finished_trial(searched, tmp_path):
    folder = copied(searched, tmp_path, best=None, importances=None, trials=[],
                    slices={"model.layers": []})  # fmt: skip
    page = page_of([folder], tmp_path)
    assert "No trial has finished" in "".join(page.named("main")[0].text)
    assert page.named("svg") == []


def copied(searched, tmp_path, **changes):
    """A search's folder with other entries in its table."""
    folder = tmp_path / "search"
    folder.mkdir()
    result = json.loads((searched / "results.json").read_text(encoding="utf-8"))
    write_json(folder / "results.json", {**result, **changes})
    for name in ("tune.json", "best.toml"):
        (folder / name).write_bytes((searched / name).read_bytes())
    return folder


# What is refused.


@pytest.fixture
def refused(monkeypatch, capfd, tmp_path):
    return partial(refuse, monkeypatch, capfd, tmp_path)


def test_what_is_of_no_kind_is_refused(compared, benchmark, tmp_path, refused):
    page = tmp_path / "page.html"
    for text in ("", "{", '{"rows": [1', "\x00\xff", "null", "[]", '"x"', "[" * 5_000):
        (tmp_path / "bad.json").write_text(text)
        refused(3, tmp_path / "bad.json", page)
    for value in ({}, {"rows": []}, {"rmse": 0.9}, {"dataset": 1, "schema_version": 9}):
        source = written(tmp_path, "other.json", value)
        assert "holds nothing that a page is made of" in refused(3, source, page)
    for value in (compared, benchmark):
        source = written(tmp_path, "later.json", {**value, "schema_version": 2})
        said = refused(3, source, page)
        assert "schema version 2" in said and "reads version 1" in said


def test_numbers_that_are_none_and_deep_json_are_refused(benchmark, tmp_path, refused):
    text = json.dumps(benchmark)
    for number_ in ("NaN", "-Infinity", "1e999", "9" * 400):
        (tmp_path / "b.json").write_text(text.replace('"cores": 2', f'"cores": {number_}'))
        assert "one of its numbers" in refused(3, tmp_path / "b.json", tmp_path / "page.html")
    (tmp_path / "b.json").write_text(text.replace('"cores": 2', f'"cores": {"[" * 90}{"]" * 90}'))
    assert "in each other" in refused(3, tmp_path / "b.json", tmp_path / "page.html")


def test_kinds_are_not_mixed(compared, benchmark, searched, tmp_path, refused):
    page = tmp_path / "page.html"
    one = written(tmp_path, "one.json", compared)
    other = written(tmp_path, "other.json", benchmark)
    said = refused(2, one, other, page)
    assert "is the JSON of a benchmark" in said and "is the JSON of compare" in said
    assert "is a search of tune" in refused(2, one, searched, page)
    assert "given twice" in refused(2, one, tmp_path / "." / "one.json", page)
    said = refused(2, RESULTS / "train.json", RESULTS / "kernels.json", page)
    assert "of the benchmark bench_kernels" in said and "bench_train" in said


def test_searches_that_cannot_be_shown(searched, tmp_path, refused):
    page = tmp_path / "page.html"
    assert "name the search's folder" in refused(3, searched / "results.json", page)
    folder = copied(searched, tmp_path)
    begun = json.loads((folder / "tune.json").read_text(encoding="utf-8"))
    write_json(folder / "tune.json", {**begun, "schema_version": 2})
    assert "schema version 2" in refused(3, folder, page)
    write_json(folder / "tune.json", begun)
    (folder / "best.toml").unlink()
    assert "best.toml" in refused(3, folder, page)
    (folder / "results.json").write_text("{")
    assert "not readable as JSON" in refused(3, folder, page)
    (folder / "results.json").unlink()
    assert "holds no results.json yet" in refused(3, folder, page)


def paths_in(value, path=()):
    """All places in JSON."""
    if path:
        yield path
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from paths_in(inner, (*path, key))


def damaged(value, path, by):
    changed = copy.deepcopy(value)
    place = changed
    for key in path[:-1]:
        place = place[key]
    if by is None and isinstance(place, dict):
        del place[path[-1]]
    else:
        place[path[-1]] = by
    return changed


@pytest.mark.parametrize("kind", [Kind.COMPARISON, Kind.BENCHMARK, Kind.SEARCH])
def test_whatever_is_damaged_makes_a_page_or_one_clear_error(
    kind, compared, benchmark, searched, tmp_path
):
    value = {Kind.COMPARISON: compared, Kind.BENCHMARK: benchmark}.get(kind)
    if value is None:
        value = json.loads((searched / "results.json").read_text(encoding="utf-8"))
    places = list(paths_in(value))
    random.Random(1).shuffle(places)
    errors = 0
    for path in places[:25]:
        for by in (None, "x", [], {"a": [{}]}, -1.5, True):
            changed = damaged(value, path, by)
            source = Source(tmp_path / "x.json", kind, changed)
            if kind is Kind.SEARCH:
                folder = tmp_path / "search"
                if not folder.is_dir():
                    copied(searched, tmp_path)
                write_json(folder / "results.json", changed)
                (source,) = recognise([folder])
            try:
                report._PAGES[kind]([source])
            except (DataError, UsageError) as error:
                errors += 1
                assert len(str(error).splitlines()) == 1 and str(tmp_path) in str(error)
    assert errors > 5


# Pictures.


def test_a_logarithmic_axis_has_round_ticks_and_even_steps():
    axis = Axis.over([0.001, 0.1], 0, 100, log=True)
    assert axis.ticks == (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1) or len(axis.ticks) == 3
    assert axis(0.01) == pytest.approx(50)
    assert Axis.over([1e-6, 1e3], 0, 1, log=True).ticks == pytest.approx(
        [10.0**power for power in range(-6, 4)]
    )
    assert [axis.show(tick) for tick in (0.001, 0.1, 20_000)] == ["0.001", "0.1", "20k"]
    assert Axis.over([0, 6e6], 0, 1).show(2e6) == "2M"


def test_lengths_begin_at_0_and_points_have_no_line():
    made = Parsed(bar_figure("b", [Bar("x", 2.0), Bar("y", 4.0)], lengths=True, show=shown))
    lines = [one.attributes for one in made.named("line") if "length" in one.attributes["class"]]
    starts, ends = ([float(one[key]) for one in lines] for key in ("x1", "x2"))
    assert starts[0] == starts[1] and ends[1] - starts[1] == pytest.approx(
        2 * (ends[0] - starts[0]), abs=0.2
    )
    assert made.tables()["b"] == [["name", "value"], ["x", "2"], ["y", "4"]]
    points = [Series("s", [(1.0, 1.0), (10.0, 2.0)], 0, joined=False)]
    made = Parsed(line_figure("l", points, x="x", y="y", log=True))
    assert made.named("polyline") == [] and len(made.named("circle")) == 2


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize("kind", ["comparison", "benchmark", "search"])
def test_a_browser_opens_each_kind_without_a_word(kind, compared, benchmark, searched, tmp_path):
    source = searched
    if kind != "search":
        value = compared if kind == "comparison" else benchmark
        source = written(tmp_path, f"{kind}.json", value)
    write_report([source], tmp_path / "page.html")
    shown_page = open_in_chromium(tmp_path / "page.html", tmp_path / "profile")
    assert "alert(1)" in shown_page and "<script>alert" not in shown_page
