"""The package as others get it: an sdist, a wheel out of it, and that installed somewhere else."""

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run(*command: str | Path, folder: Path) -> str:
    """What a command prints where nothing says where this checkout is."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_an_sdist_makes_a_wheel_that_works_where_nothing_else_is(tmp_path: Path) -> None:
    """Dependencies are this environment's: what is tried is what the wheel itself brings."""
    files = subprocess.run(
        ["git", "ls-files", "-z"], capture_output=True, cwd=ROOT, check=True
    ).stdout.split(b"\0")
    for name in filter(None, map(bytes.decode, files)):
        copy = tmp_path / "source" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes((ROOT / name).read_bytes())
    # Without --sdist or --wheel the wheel is made of the sdist.
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path / "dist", "."]
    run(*build, folder=tmp_path / "source")
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    assert len(list((tmp_path / "dist").glob("*.tar.gz"))) == 1
    names = zipfile.ZipFile(wheel).namelist()
    kept = [name for name in names if ".dist-info/" not in name]
    assert {name.partition("/")[0] for name in kept} == {"dglrec"}
    for folder in ("configs", "spaces", "studies"):
        shipped = {path.name for path in (ROOT / "dglrec" / folder).glob("*.toml")}
        assert {n.rpartition("/")[2] for n in kept if f"/{folder}/" in n} == shipped
    run(sys.executable, "-m", "venv", tmp_path / "venv", folder=tmp_path)
    python = tmp_path / "venv/bin/python"
    run(python, "-m", "pip", "install", "--no-deps", "--no-index", wheel, folder=tmp_path)
    paths = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(run(python, "-c", paths, folder=tmp_path).strip())
    # Without the editable install of the environment, whose finder would come first.
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    where = run(python, "-c", "import dglrec; print(dglrec.__file__)", folder=tmp_path)
    assert Path(where.strip()).is_relative_to(site)
    command = tmp_path / "venv/bin/dglrec"
    synth = ["--users", "80", "--items", "40", "--ratings", "1500"]
    run(command, "synth", "source", *synth, folder=tmp_path / "venv")
    run(command, "prepare", "source", "data", "--no-text", folder=tmp_path / "venv")
    short = ["--set", "train.epochs=1", "--set", "model.embedding_size=4", "--device", "cpu"]
    run(command, "train", "data", "run", *short, folder=tmp_path / "venv")
    said = run(command, "evaluate", "run", "--json", folder=tmp_path / "venv")
    assert json.loads(said)["n"] == 150
