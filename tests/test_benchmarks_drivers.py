"""Every driver of `benchmarks/` from its command line to its JSON, on a tiny data set.

Those that train beside peers, score in batch or rank are in test_benchmarks.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dglrec.dataset import PrepareOptions, prepare
from dglrec.synthetic import synthesize

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planted") / "source"
    synthesize(folder, users=200, items=80, ratings=5_000, seed=1)
    return folder


@pytest.fixture(scope="module")
def data(source: Path) -> Path:
    prepare(source, source.parent / "data", PrepareOptions(text=False))
    return source.parent / "data"


def rows_of(driver: str, target: Path, *options: object) -> list[dict[str, Any]]:
    """The rows that a driver writes."""
    command = [sys.executable, str(FOLDER / f"{driver}.py"), *map(str, options)]
    done = subprocess.run([*command, "--json", str(target)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(target.read_text(encoding="utf-8"))
    assert report["machine"]["cores"] >= 1
    assert report["command"].startswith(f"benchmarks/{driver}.py")
    rows: list[dict[str, Any]] = report["rows"]
    assert rows
    return rows


def test_bench_scaling(data: Path, tmp_path: Path) -> None:
    options = ["--data", data, "--processes", 1, 2, "--batch", 500, "--seconds", 0.2]
    rows = rows_of("bench_scaling", tmp_path / "out.json", *options, "--identity", "--train")
    trained = [row for row in rows if row.get("train")]
    assert [row["processes"] for row in trained] == [1, 2]
    assert all(row["valid_rmse"] > 0 and row["private_gb"] > 0 for row in trained)
    measured = [row for row in rows if not row.get("train")]
    assert {row["identity"] for row in measured} == {"none", "rows", "whole"}
    assert all(row["edges_per_second"] > 0 for row in measured)


def test_bench_shapes(tmp_path: Path) -> None:
    """One shape whose steps encode all items, and one of items in reach."""
    shapes = ["300,100,3000", "2000,40000,5000"]
    options = ["--shape", *shapes, "--seconds", 0.1, "--listed", 20, "--scratch", tmp_path]
    rows = rows_of("bench_shapes", tmp_path / "out.json", *options)
    assert [row["reads"] for row in rows] == ["all", "reached"]
    for row in rows:
        assert row["ns_per_edge"] > 0 and row["lists_per_second"] > 0
        assert row["peak_memory_gb"] > 0 and row["infer_memory_gb"] > 0
        assert row["listed"] == 20 and row["embed_seconds"] >= 0


def test_bench_presets(data: Path, tmp_path: Path) -> None:
    options = ["--data", data, "--preset", "default", "pinsage", "gsp", "--seconds", 0.1]
    rows = rows_of("bench_presets", tmp_path / "out.json", *options, "--most-gb", 8)
    assert [row["preset"] for row in rows] == ["default", "pinsage", "gsp"]
    for row in rows:
        assert row["edges_per_second"] > 0 and row["epoch_seconds"] > 0
        assert 0 <= row["footprint_gb"] <= 8 and row["peak_memory_gb"] > 0


def test_bench_infer(data: Path, tmp_path: Path) -> None:
    options = ["--data", data, "--scale", 0.5, 1.0, "--repeats", 1]
    rows = rows_of("bench_infer", tmp_path / "out.json", *options)
    assert [row["users"] for row in rows] == [100, 200]
    assert all(row["edges_per_second"] > 0 for row in rows)


def test_bench_prepare(source: Path, tmp_path: Path) -> None:
    rows = rows_of("bench_prepare", tmp_path / "out.json", "--source", source, "--no-text")
    assert [row["step"] for row in rows] == ["prepare", "read_csv", "open", "prove"]
    assert all(row["seconds"] >= 0 for row in rows)
    assert all(row["rows_per_second"] > 0 for row in rows[:2])


def test_bench_prepare_of_a_prepared_data_set(data: Path, tmp_path: Path) -> None:
    options = ["--dataset", data, "--epoch-seconds", 1000]
    rows = rows_of("bench_prepare", tmp_path / "out.json", *options)
    assert [row["step"] for row in rows] == ["open", "prove"]
    assert 0 <= rows[1]["share_of_an_epoch"] < 1


def test_bench_kernels(tmp_path: Path) -> None:
    rows = rows_of("bench_kernels", tmp_path / "out.json", "--repeats", 1)
    assert {row["by"] for row in rows} > {"torch"}
    assert all(row["ms"] > 0 for row in rows)


def test_bench_convolutions(tmp_path: Path) -> None:
    options = ["--sources", 50, "--destinations", 20, "--edges", 100, "--size", 8, "--repeats", 1]
    rows = rows_of("bench_convolutions", tmp_path / "out.json", *options)
    assert [row["by"] for row in rows] == ["dglrec", "dgl"] * (len(rows) // 2)
    assert {"gat", "gatv2", "gcn", "gin"} < {row["convolution"] for row in rows}
    assert all(row["cpu_ms"] > 0 and row["ms"] > row["forward_ms"] > 0 for row in rows)


def test_ceiling(source: Path, data: Path, tmp_path: Path) -> None:
    options = ["--source", source, "--data", data, "--users", 50]
    rows = rows_of("ceiling", tmp_path / "out.json", *options)
    assert rows[0]["by"] == "bias" and all(row["rmse"] > 0 for row in rows)


def test_floor(data: Path, tmp_path: Path) -> None:
    options = ["--data", data, "--seconds", 0.1, "--repeats", 1]
    rows = rows_of("floor", tmp_path / "out.json", *options)
    assert {row["model"] for row in rows} == {"plain", "ratings", "default"}
    assert all(row["flop_per_edge"] > 0 and row["ns_per_edge"] > 0 for row in rows)


@pytest.fixture
def without_dgl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Children find a DGL that cannot be imported."""
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "dgl.py").write_text("raise ModuleNotFoundError(name='dgl')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"), prepend=os.pathsep)


@pytest.mark.usefixtures("without_dgl")
def test_gpu_check_rehearses_without_a_card_and_without_dgl(data: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.json"
    options = ["--device", "cpu", "--data", data, "--batch", 500, 100_000, "--minutes", 20]
    rows = rows_of("gpu_check", target, *options, "--seconds", 0.05)
    report = json.loads(target.read_text(encoding="utf-8"))
    assert report["rehearsal"] and report["card"] is None and report["cards"] == []
    states = {part["part"]: part["state"] for part in report["parts"]}
    assert {part for part, state in states.items() if state != "done"} == {"data", "torchrun"}
    assert [states[part] for part in ("data", "torchrun")] == ["left out", "left out"]
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["part"], []).append(row)
    assert [row["what"] for row in found["correctness"]] == [*4 * ["step"], "exact"]
    for row in found["correctness"]:  # it is the CPU that is held against the CPU
        judged = {"ratings", "loss", "list_users", "list_items", "users", "items", "listed"}
        assert {row[name] for name in judged & set(row)} == {0.0}
    measured = [row for row in found["training"] if "left_out" not in row]
    assert [(row["model"], row["precision"], row["batch"]) for row in measured] == [
        (model, precision, 500)
        for precision in ("float32", "bfloat16")
        for model in ("plain", "default")
    ]
    assert all(row["edges_per_second"] > 0 and row["step_ms"] > 0 for row in measured)
    left_out = {
        (row["batch"], row["compile"]): row["left_out"]
        for row in found["training"]
        if "left_out" in row
    }
    assert set(left_out) == {(100_000, False), (100_000, True), (500, True)}
    assert "more than all" in left_out[100_000, False]
    assert left_out[500, True] == "train.compile is for a GPU"
    (epoch,) = found["epoch"]
    assert epoch["whole_job_seconds"] > epoch["epoch_seconds"] > epoch["validation_seconds"] > 0
    assert found["inference"][0]["nodes"] == 280 and found["validation"][0]["seconds"] > 0
    assert [row["what"] for row in found["scoring"]] == ["predicted rating", "list head"]
    assert all(row["users_per_second"] > 0 for row in found["scoring"])
    assert [row["what"] for row in found["profile"]] == ["sampling", "step"]
    assert all(row["operations"] > 0 and row["top"] for row in found["profile"])


def test_time_to_rmse_and_its_plot(data: Path, tmp_path: Path) -> None:
    options = ["--data", data, "--gap", 0.01, "--set", "train.epochs=1", "loader.batch_size=2000"]
    rows = rows_of("time_to_rmse", tmp_path / "out.json", *options)
    assert {row["loader"] for row in rows} == {"users", "neighbor"}
    assert all(row["test_rmse"] > 0 for row in rows)


def test_accuracy(tmp_path: Path, source: Path) -> None:
    """On planted ratings in the place of one data set; the other is left out."""
    sets = tmp_path / "sets"
    shutil.copytree(source, sets / "anime-2020-sample")
    (sets / "anime-2020-sample" / "anime_with_synopsis.csv").unlink()  # no texts to embed
    rows = rows_of("accuracy", tmp_path / "out.json", sets, "--seeds", 1)
    assert [row["data"] for row in rows] == ["anime-2020-sample"]
    assert all(row["rmse"] > 0 for row in rows)


def test_gsp_movielens(tmp_path: Path) -> None:
    """Film 1 is rated as films 2 and 3 are, and 4 to 9 are noise."""
    generator = np.random.default_rng(0)
    taste = generator.integers(1, 6, 60)
    table = generator.integers(1, 6, (60, 9))
    table[:, :3] = np.clip(taste[:, None] + generator.integers(-1, 2, (60, 3)), 1, 5)
    there = generator.random(table.shape) < 0.8
    lines = [f"{u + 1}\t{i + 1}\t{table[u, i]}\t0" for u, i in np.argwhere(there)]
    (tmp_path / "u.data").write_text("\n".join(lines) + "\n", encoding="utf-8")
    options = [tmp_path, "--target", 1, 4, "--splits", 3, "--neighbours", 3, "--epochs", 6]
    rows = rows_of("gsp_movielens", tmp_path / "out.json", *options)
    assert [row["target"] for row in rows] == [1] * 6 + [4] * 6
    assert all(len(row["rmse_of_splits"]) == 3 and row["sd"] > 0 for row in rows)
    found = {(row["target"], row["method"]): row["rmse"] for row in rows}
    for method in ("ridge on the other ratings", "graph filters"):
        assert found[1, method] < 0.8 * found[1, "item mean"]


def test_density(tmp_path: Path) -> None:
    options = ["--users", 60, "--items", 30, "--densities", 0.5, 0.9, "--seeds", 1, "--epochs", 1]
    rows = rows_of("density", tmp_path / "out.json", *options)
    assert [row["ratings"] for row in rows] == [900] * 4 + [1620] * 4
    assert [row["model"] for row in rows[:4]] == ["graph", "one layer", "bare edges", "factors"]
    for row in rows:
        bias, best, own = (row[name] ** 2 for name in ("bias_rmse", "best_rmse", "rmse"))
        assert row["gap_closed"] == pytest.approx((bias - own) / (bias - best), abs=1e-2)


def test_plot(tmp_path: Path) -> None:
    matplotlib = pytest.importorskip("matplotlib", reason="matplotlib draws the figure")
    assert matplotlib
    out = tmp_path / "figure"
    done = subprocess.run(
        [sys.executable, str(FOLDER / "plot.py"), "--out", str(out)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert out.with_suffix(".svg").stat().st_size > 1000
