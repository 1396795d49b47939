"""The package as others get it: from a tag an sdist, a wheel, and that installed elsewhere."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from release import ReleaseError, agreed_version

import dglrec

ROOT = Path(__file__).parent.parent
PLACES = ("dglrec/__init__.py", "CHANGELOG.md", "CITATION.cff")
UNRELEASED = re.compile(r"^## Unreleased\n.*?(?=^## )", re.MULTILINE | re.DOTALL)


def copied(names, place: Path) -> Path:
    """Files of this checkout in another folder, as though nothing were left to be released."""
    for name in names:
        copy = place / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes((ROOT / name).read_bytes())
    changelog = place / "CHANGELOG.md"
    changelog.write_text(UNRELEASED.sub("", changelog.read_text(encoding="utf-8")))
    return place


def test_package_changelog_and_citation_name_one_version(tmp_path: Path) -> None:
    tag = f"v{dglrec.__version__}"
    assert agreed_version(copied(PLACES, tmp_path), tag) == dglrec.__version__


def test_the_citation_says_what_its_format_asks_for() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(cited)
    assert cited["cff-version"] == "1.2.0" and cited["license"] == "MIT"
    assert cited["version"] == dglrec.__version__
    assert all({"name"} == set(author) for author in cited["authors"])
    assert "the dglrec authors" in (ROOT / "LICENSE").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("dglrec/__init__.py", f'"{dglrec.__version__}"', '"9.9"', "versions differ: .* v9.9, C"),
        ("CITATION.cff", f"version: {dglrec.__version__}", "version: 9.9", "CITATION.cff v9.9$"),
        ("CHANGELOG.md", f"## {dglrec.__version__} ", "## 9.9 ", "CHANGELOG.md v9.9, CIT"),
        ("CITATION.cff", "released: 2", "released: 1", "dates differ: CHANGELOG.md .*, CIT"),
        ("CHANGELOG.md", "\n## ", "\n## Unreleased\n\n- More.\n\n## ", "changes under Unreleased"),
    ],
)
def test_what_does_not_agree_is_no_release(tmp_path: Path, name, old, new, said) -> None:
    place = copied(PLACES, tmp_path)
    text = (place / name).read_text(encoding="utf-8")
    assert old in text
    (place / name).write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ReleaseError, match=said):
        agreed_version(place, f"v{dglrec.__version__}")


def test_of_no_tag_there_is_no_release(tmp_path: Path) -> None:
    done = release("v0.0.0", tmp_path / "out", ROOT)
    assert done.returncode == 2 and done.stderr == "no tag v0.0.0\n"
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_tag_makes_a_wheel_that_works_where_nothing_else_is(tmp_path: Path) -> None:
    """Dependencies are this environment's: what is tried is what the wheel itself brings."""
    listed = subprocess.run(["git", "ls-files", "-z"], capture_output=True, cwd=ROOT, check=True)
    names = [name for name in listed.stdout.decode().split("\0") if name]
    source = copied(names, tmp_path / "source")
    (source / "scripts/release").chmod(0o755)
    tag, out = f"v{dglrec.__version__}", tmp_path / "out"
    who = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org"]
    for command in (["init", "-q"], ["add", "-A"], [*who, "commit", "-qm", "All"], ["tag", tag]):
        subprocess.run(["git", *command], cwd=source, check=True)
    (source / "dglrec/untracked.py").write_text("")  # what is not in the tag is not in the wheel
    done = release(tag, out, source)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith(f"dglrec {dglrec.__version__}, built from {tag}")
    files = sorted(out.iterdir())
    assert all(str(file) in done.stdout for file in files)
    sdist, wheel = (file.name for file in sorted(files, key=lambda file: file.suffix))
    assert sdist == f"dglrec-{dglrec.__version__}.tar.gz" and wheel.endswith("-py3-none-any.whl")
    kept = [one for one in zipfile.ZipFile(out / wheel).namelist() if ".dist-info/" not in one]
    assert {name.partition("/")[0] for name in kept} == {"dglrec"}
    assert "dglrec/untracked.py" not in kept and "dglrec/api/home.py" in kept
    for folder in ("configs", "spaces", "studies"):
        shipped = {path.name for path in (ROOT / "dglrec" / folder).glob("*.toml")}
        assert {n.rpartition("/")[2] for n in kept if f"/{folder}/" in n} == shipped
    again = release(tag, out, source)
    assert again.returncode == 1 and "exists; remove it" in again.stderr


def release(tag: str, out: Path, source: Path) -> subprocess.CompletedProcess[str]:
    """scripts/release, by the environment that the tests run in."""
    return subprocess.run(
        [source / "scripts/release", "--offline", tag, out],
        capture_output=True,
        text=True,
        env={**os.environ, "DGLREC_VENV": sys.prefix},
    )
