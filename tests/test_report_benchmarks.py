"""Pages about the JSON of benchmarks: each form that there is, several files, names of rows."""

import json

import pytest
from pages import RESULTS, evil_benchmark, page_of, written

from dglrec.report.benchmark_rows import Measure, labels_of, measure_of, shown, title_of
from dglrec.report.html import number

BENCHMARKS = sorted(RESULTS.glob("*.json"))


@pytest.fixture(scope="module")
def benchmark():
    return evil_benchmark()


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_each_benchmark_of_the_repository_has_a_page(path, tmp_path):
    value = json.loads(path.read_text(encoding="utf-8"))
    page = page_of([path], tmp_path)
    tables = page.tables()
    rows = tables[f"{path.stem}: rows"]
    assert len(rows) == 1 + len(value["rows"])
    machine = dict(tables["Machine, versions and command"][1:])
    assert machine["torch"] == value["machine"]["torch"]
    assert machine["command"] == value.get("command", "; ".join(value.get("commands", [])))
    assert (tmp_path / "page.html").stat().st_size < 150_000


def test_bars_are_the_best_rows_figures(tmp_path):
    rows = json.loads((RESULTS / "train.json").read_text(encoding="utf-8"))["rows"]
    page = page_of([RESULTS / "train.json"], tmp_path)
    tables = page.tables()
    assert tables["edges per second"][1:] == [
        [f"{one['loop']}, {one['model']}, scale {one['scale']:g}", f"{one['edges_per_second']:,}"]
        for one in rows
        if one["best"]
    ]
    assert {"ns per edge", "step, ms", "peak memory, GB"} <= set(tables)
    headings = ["".join(one.text) for one in page.named("h3")]
    assert headings == [one.value for one in (Measure.THROUGHPUT, Measure.TIME, Measure.MEMORY)]


def test_files_of_a_benchmark_are_side_by_side(tmp_path):
    names = ("time_to_rmse_full", "time_to_rmse_tenth")
    page = page_of([RESULTS / f"{name}.json" for name in names], tmp_path)
    tables = page.tables()
    assert [row[0] for row in tables["training seconds"][1:]] == [
        *("time_to_rmse_full, users", "time_to_rmse_tenth, users", "time_to_rmse_tenth, neighbor")
    ]
    assert tables["Machine, versions and command"][0] == ["entry", *names]
    assert "of different machines" in "".join(page.named("header")[0].text)
    curve = tables["rmse of validation rows"]
    full = json.loads((RESULTS / f"{names[0]}.json").read_text(encoding="utf-8"))["rows"][0]
    found = [row[2] for row in curve if row[0] == "time_to_rmse_full, users"]
    assert found == [number(one["valid_rmse"]) for one in full["by_epoch"]]


def test_a_file_without_marks_is_shown_beside_one_with(benchmark, tmp_path):
    plain = {**benchmark, "rows": [{"loop": "x", "step_ms": 2.0}]}
    sources = [written(tmp_path, "marked.json", benchmark), written(tmp_path, "b.json", plain)]
    rows = page_of(sources, tmp_path).tables()["step, ms"]
    best = sum(row["best"] for row in benchmark["rows"])
    assert len(rows) == 1 + best + 1 and rows[-1] == ["b", "2"]


def test_markup_in_a_benchmark_is_text(benchmark, tmp_path):
    page = page_of([written(tmp_path, "b.json", benchmark)], tmp_path)
    assert "cpu</script><script>alert(1)" in "".join(page.named("main")[0].text)


def test_keys_say_what_they_measure():
    assert measure_of("edges_per_second") is measure_of("fetched_gb_per_second")
    assert measure_of("ms") is measure_of("seconds_to_gap") is measure_of("ns_per_edge")
    assert measure_of("peak_memory_gb") is Measure.MEMORY
    assert measure_of("recall@20") is measure_of("gap_closed") is Measure.QUALITY
    for key in ("batch", "gap", "measured_seconds", "standard_error", "users", "steps"):
        assert measure_of(key) is None
    assert title_of("peak_memory_gb") == "peak memory, GB" and title_of("ms") == "ms"
    assert [shown(value) for value in (None, True, 1_234, 0.000012345, 5.0, 1234.5, [1, "a"])] == [
        *("", "yes", "1,234", "1.2345e-05", "5", "1,234.5", "1, a")
    ]


def test_rows_are_known_by_what_tells_them_apart():
    rows = [
        {"loop": "a", "scale": 0.1, "batch": 64, "step_ms": 1.0, "device": "cpu"},
        {"loop": "b", "scale": 0.1, "batch": 64, "step_ms": 1.0, "device": "cpu"},
        {"loop": "b", "scale": 0.1, "batch": 4096, "step_ms": 2.0, "apart": True},
    ]
    assert labels_of(rows)[0] == "a, cpu" and labels_of(rows[:2]) == ["a", "b"]
    assert labels_of([{"scale": 0.1}, {"scale": 1}]) == ["scale 0.1", "scale 1"]
    assert labels_of([{"step_ms": 1}, {"step_ms": 1}]) == ["row 1", "row 2"]
    assert labels_of([{"preset": "gat"}]) == ["gat"]


def test_long_benchmarks_show_the_first_bars_and_all_rows(benchmark, tmp_path):
    rows = [{"batch": place, "step_ms": 1.0 + place} for place in range(60)]
    source = written(tmp_path, "b.json", {**benchmark, "rows": rows})
    page = page_of([source], tmp_path)
    assert len(page.tables()["step, ms"]) == 41 and len(page.tables()["b: rows"]) == 61
    assert "The first 40 of 60" in "".join(page.named("main")[0].text)


@pytest.mark.parametrize("rows", [[], [{}], [{"a": 1}, {}], [{"error": "x"}], [{"a_ms": 1}] * 3])
def test_benchmarks_with_little_to_show(benchmark, tmp_path, rows):
    page_of([written(tmp_path, "b.json", {**benchmark, "rows": rows})], tmp_path)
