"""The quickstart, in small: it runs through, reports, and harms nothing that is there already."""

import importlib
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from dglrec import cli, quickstart
from dglrec.dataset import RatingDataset
from dglrec.errors import UsageError
from dglrec.run import open_run
from dglrec.score import recommend

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("source", "dataset", "run")
SIZES = {"USERS": 80, "ITEMS": 60, "RATINGS": 1_200, "EPOCHS": 1}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Sizes that take a second."""
    for name, value in SIZES.items():
        monkeypatch.setattr(quickstart, name, value)


@pytest.fixture
def no_work(monkeypatch):
    def work(*arguments, **options):
        raise AssertionError("work was done")

    for name in ("synthesize", "prepare", "train"):
        monkeypatch.setattr(quickstart, name, work)


def snapshot(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_it_runs_through_and_reports(tmp_path, capsys):
    report = quickstart.quickstart(tmp_path / "out", text=False)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(FOLDERS)
    assert [one.rank for one in report.recommendations] == list(range(1, 11))
    assert all(one.title for one in report.recommendations)
    assert report.results["epochs"] == 1
    assert report.results["test"]["n"] == 120
    for name in ("rmse", "irreducible_rmse", "gap_closed", "baselines"):
        assert name in report.results["test"]
    # What it leaves is what the verbs go on with.
    assert RatingDataset.open(tmp_path / "out" / "dataset").meta["counts"]["users"] == 80
    trained = open_run(tmp_path / "out" / "run")
    assert recommend(trained, report.user_id, 10) == report.recommendations
    captured = capsys.readouterr()
    assert captured.out == ""
    assert [line[:4] for line in captured.err.splitlines() if line[1:3] == "/4"] == [
        "1/4 ",
        "2/4 ",
        "3/4 ",
        "4/4 ",
    ]


def test_the_readme_shows_what_it_prints(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    readme = importlib.import_module("readme")
    monkeypatch.setattr(sys, "argv", ["dglrec", "quickstart", str(tmp_path / "out"), "--no-text"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    shown = readme.shown_in((ROOT / "README.md").read_text(encoding="utf-8"))
    found = readme.rows_of(capsys.readouterr().out)
    assert len(found) > 15 and found == readme.rows_of(shown)


def test_a_readme_without_its_marks_is_told(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    readme = importlib.import_module("readme")
    with pytest.raises(readme.ReadmeError, match="0 times"):
        readme.shown_in("no marks")


def test_it_says_the_same_twice(tmp_path):
    first = quickstart.quickstart(tmp_path / "a", text=False)
    second = quickstart.quickstart(tmp_path / "b", text=False)
    assert first.recommendations == second.recommendations
    assert first.results["test"] == second.results["test"]


def test_it_replaces_its_own_folders_only_with_overwrite(tmp_path):
    quickstart.quickstart(tmp_path, text=False)
    before = snapshot(tmp_path)
    with pytest.raises(UsageError, match="source exists; .*--overwrite"):
        quickstart.quickstart(tmp_path, text=False)
    assert snapshot(tmp_path) == before
    quickstart.quickstart(tmp_path, text=False, overwrite=True)
    assert snapshot(tmp_path).keys() == before.keys()


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("overwrite", [False, True])
def test_foreign_folders_are_refused_before_any_work(name, overwrite, tmp_path, no_work):
    mine = tmp_path / "out" / name / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(UsageError, match=str(mine.parent)):
        quickstart.quickstart(tmp_path / "out", text=False, overwrite=overwrite)
    assert snapshot(tmp_path) == {f"out/{name}/mine.txt": b"mine"}


def test_a_file_in_its_place_is_refused(tmp_path, no_work):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UsageError, match="is a file; name a folder"):
        quickstart.quickstart(tmp_path / "out", text=False, overwrite=True)
    assert (tmp_path / "out").read_text() == "mine"


def test_other_files_beside_its_folders_stay(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    quickstart.quickstart(tmp_path, text=False)
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("as_json", [False, True])
def test_from_the_command_line(as_json, tmp_path, monkeypatch, capfd):
    out = tmp_path / "out"
    options = ["--json"] if as_json else []
    monkeypatch.setattr(sys, "argv", ["dglrec", "quickstart", str(out), "--no-text", *options])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code == 0
    shown = capfd.readouterr().out
    expected = recommend(open_run(out / "run"), "42", 10)
    if as_json:
        report = json.loads(shown)
        assert report["recommendations"] == json.loads(
            json.dumps([asdict(one) for one in expected])
        )
        assert len(shown.splitlines()) == 1
        return
    assert "gap closed" in shown
    assert all(one.title in shown for one in expected)
    assert f"dglrec recommend {out / 'run'} --user 42" in shown


def test_without_a_folder_it_runs_again_and_with_one_it_asks(small, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def code_of(*arguments):
        monkeypatch.setattr("sys.argv", ["dglrec", "quickstart", "--no-text", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code

    assert code_of() == 0
    assert code_of() == 0
    assert code_of("quickstart-out") == 2
    assert "--overwrite" in capsys.readouterr().err


@pytest.mark.parametrize("extra", ["--help", "", "tune extras", "text]"])
def test_an_installation_with_an_unknown_extra_is_refused_first(extra, tmp_path):
    environment = {**os.environ, "DGLREC_VENV": str(tmp_path / "venv")}
    refused = subprocess.run(
        [ROOT / "scripts" / "install", extra], env=environment, capture_output=True, text=True
    )
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "of: text tune tensorboard mlflow wandb bench docs dev" in refused.stderr
    assert list(tmp_path.iterdir()) == []
