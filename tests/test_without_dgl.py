"""DGL is needed where it is used: by `loader.kind=neighbor`, and by nothing else."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dglrec import doctor
from dglrec.doctor import examine
from dglrec.errors import UnusableEnvironmentError
from dglrec.graph import import_dgl

# Runs verbs one after the other in a process that cannot import DGL, and prints their exit codes.
VERBS = """
import json, sys

class NoDGL:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "dgl":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NoDGL())
from dglrec.cli import main

codes = []
for words in json.loads(sys.argv[1]):
    sys.argv = ["dglrec", *words]
    try:
        main()
    except SystemExit as done:
        codes.append(done.code)
print(json.dumps(codes))
"""

SETTINGS = ["--set", "train.epochs=1", "--set", "model.embedding_size=4", "--device", "cpu"]


def run_without_dgl(folder: Path, *verbs: list[str]) -> tuple[list[int], str]:
    """The exit codes of some verbs where DGL cannot be imported, and what they said."""
    done = subprocess.run(
        [sys.executable, "-c", VERBS, json.dumps(verbs)],
        capture_output=True,
        text=True,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def test_everything_but_dgls_loader_works(tmp_path: Path) -> None:
    kind = "loader.kind={}".format
    codes, said = run_without_dgl(
        tmp_path,
        ["synth", "source", "--users", "80", "--items", "40", "--ratings", "1500"],
        ["prepare", "source", "data", "--no-text"],
        ["train", "data", "users", *SETTINGS],
        ["train", "data", "full", *SETTINGS, "--set", kind("full")],
        ["evaluate", "users", "--ranking", "5"],
        ["score", "full", "scores", "--top-k", "3"],
        [
            "train",
            "data",
            "users",
            *SETTINGS,
            "--set",
            kind("neighbor"),
            "--set",
            "model.heads=rating",
            "--overwrite",
        ],
    )
    assert codes == [0, 0, 0, 0, 0, 0, 4], said
    (line,) = [line for line in said.splitlines() if line.startswith("error:")]
    assert "loader.kind=neighbor" in line and "No module named 'dgl'" in line
    assert 'pip install "dgl==1.1.3"' in line and "loader.kind=users" in line
    # It was refused before the run that it would have replaced was touched.
    assert json.loads((tmp_path / "users" / "results.json").read_text())["epochs"] == 1
    assert 'kind = "users"' in (tmp_path / "users" / "config.toml").read_text()


def test_a_library_of_dgl_that_does_not_load_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
            if name == "dgl":
                raise OSError("libdgl.so: cannot open shared object file\nmore lines")

    for name in [name for name in sys.modules if name.partition(".")[0] == "dgl"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(UnusableEnvironmentError, match="OSError: libdgl.so: cannot open .* more l"):
        import_dgl()


def test_doctor_says_what_is_missing_without_dgl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dgl", None)  # makes `import dgl` raise
    (check,) = [check for check in examine() if check.name == "DGL at work"]
    assert check.level == "warning" and check.ok
    assert "not installed" in check.found and "loader.kind=neighbor" in check.found
    monkeypatch.setattr(sys, "version_info", (3, 11, 9))
    assert doctor._dgl_mend() == 'python -m pip install "dgl==1.1.3"'
    monkeypatch.setattr(sys, "version_info", (3, 13, 5))
    assert "scripts/quickstart" in doctor._dgl_mend()
    monkeypatch.undo()
    assert doctor._check_package("dgl", "==1.1.3").level == "ok"  # its files are here, after all
