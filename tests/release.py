"""What makes a release and tries it: for scripts/release, and the same in the suite.

It runs by itself, out of a clean export of a tag, and imports nothing of the package.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import yaml


class ReleaseError(Exception):
    """Why there is no release."""


def main() -> None:
    """Check, build, try, and say what to upload."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tag")
    parser.add_argument("source", type=Path, help="a clean export of the tag")
    parser.add_argument("out", type=Path, help="a folder that is not there yet")
    parser.add_argument("--offline", action="store_true", help="borrow installed dependencies")
    asked = parser.parse_args()
    try:
        version = agreed_version(asked.source, asked.tag)
        if asked.out.exists():
            raise ReleaseError(f"{asked.out} exists; remove it, or name another folder")
        with tempfile.TemporaryDirectory() as place:
            sdist, wheel = build(asked.source, Path(place, "dist"))
            python = environment_with(wheel, Path(place, "venv"), offline=asked.offline)
            smoke(python, Path(place))
            files = moved([sdist, wheel], asked.out)
    except (ReleaseError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"dglrec {version}, built from {asked.tag} and tried; to upload:")
    for file in files:
        print(f"  {hashlib.sha256(file.read_bytes()).hexdigest()}  {file}")


def agreed_version(source: Path, tag: str) -> str:
    """The version that a tag, the package, the changelog and the citation name.

    Raises:
        ReleaseError: they differ, or there are changes that are of no version yet.
    """
    text = {
        name: Path(source, name).read_text(encoding="utf-8")
        for name in ("dglrec/__init__.py", "CHANGELOG.md", "CITATION.cff")
    }
    (version,) = re.findall(r'^__version__ = "(.+)"$', text["dglrec/__init__.py"], re.MULTILINE)
    unreleased, *released = re.split(
        r"^## (?!Unreleased)", text["CHANGELOG.md"], flags=re.MULTILINE
    )
    if re.search(r"^- ", unreleased, re.MULTILINE):
        raise ReleaseError("CHANGELOG.md: has changes under Unreleased; give them their version")
    heading = released[0].splitlines()[0] if released else "no version"
    cited = yaml.safe_load(text["CITATION.cff"])
    found = {
        "the tag": tag,
        "dglrec/__init__.py": f"v{version}",
        "CHANGELOG.md": f"v{heading.partition(' - ')[0]}",
        "CITATION.cff": f"v{cited['version']}",
    }
    if len(set(found.values())) > 1:
        said = ", ".join(f"{where} {one}" for where, one in found.items())
        raise ReleaseError(f"versions differ: {said}")
    if heading.partition(" - ")[2] != str(cited["date-released"]):
        raise ReleaseError(
            f"dates differ: CHANGELOG.md {heading}, CITATION.cff {cited['date-released']}"
        )
    return version


def build(source: Path, out: Path) -> tuple[Path, Path]:
    """An sdist, and a wheel that is made of it."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", out, "."]
    run(*command, folder=source)
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    return sdist, wheel


def environment_with(wheel: Path, place: Path, *, offline: bool) -> Path:
    """The Python of a new environment that has the wheel alone, and what it depends on.

    Args:
        wheel: to be installed.
        place: of the environment.
        offline: take dependencies of the environment that this runs in.
    """
    run(sys.executable, "-m", "venv", place, folder=place.parent)
    python = place / "bin/python"
    borrowed = ["--no-deps", "--no-index"] if offline else []
    run(python, "-m", "pip", "install", *borrowed, wheel, folder=place)
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    if offline:
        # Without an editable install of that environment, whose finder would come first.
        (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    where = run(python, "-c", "import dglrec; print(dglrec.__file__)", folder=place)
    if not Path(where.strip()).is_relative_to(site):
        raise ReleaseError(f"{where.strip()}: is not what the wheel brought")
    return python


def smoke(python: Path, place: Path) -> None:
    """Generate, prepare, train and evaluate by the installed command, in folders below a place."""
    command = python.with_name("dglrec")
    synth = ["--users", "80", "--items", "40", "--ratings", "1500"]
    run(command, "synth", "source", *synth, folder=place)
    run(command, "prepare", "source", "data", "--no-text", folder=place)
    short = ["--set", "train.epochs=1", "--set", "model.embedding_size=4", "--device", "cpu"]
    run(command, "train", "data", "run", *short, folder=place)
    rows = json.loads(run(command, "evaluate", "run", "--json", folder=place))["n"]
    if rows != 150:
        raise ReleaseError(f"evaluate: reports {rows} rows in place of 150")


def moved(files: list[Path], out: Path) -> list[Path]:
    """The files in a folder, which appears whole or not at all."""
    beside = Path(tempfile.mkdtemp(dir=out.parent))
    try:
        for file in files:
            shutil.copy(file, beside)
        beside.chmod(0o755)
        beside.rename(out)
    except OSError:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    return [out / file.name for file in files]


def run(*command: str | Path, folder: Path | None = None) -> str:
    """What a command prints where nothing says where a checkout is.

    Raises:
        ReleaseError: it failed.
    """
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=env)
    if done.returncode:
        raise ReleaseError(f"{' '.join(map(str, command))}: failed\n{done.stderr[-2000:]}")
    return done.stdout


if __name__ == "__main__":
    main()
