"""Careless and hostile uses of the commands, and how many are answered as promised.

    python tests/careless.py [-v] [WORD ...]

gives each command of `careless_cases.py` (or those whose names hold a word), says how many were
answered as promised, and shows the others. With -v what each said is shown, for a reader to judge.

Of every refusal is promised, besides its exit code: one or two lines from `error: ` on, nothing on
stdout, no traceback, nothing that is called unexpected, nothing left behind.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from careless_cases import CASES, SMALL, Case, rows
from damage import files_of
from damage_matrix import command
from forks import code_of, forked


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str
    left: tuple[str, ...]


@dataclass(frozen=True)
class World:
    """What there is: sources, data sets, runs."""

    folder: Path

    def names(self) -> dict[str, Path]:
        """What each word in braces stands for."""
        return {path.name.partition(".")[0]: path for path in self.folder.iterdir()}


def make_world(folder: Path) -> World:
    """Sources, data sets and runs of several kinds."""

    def done(line: str) -> None:
        told = command(*(part.format(f=folder) for part in line.split()))
        assert told.code == 0, (line, told.err)

    (folder / "texts.csv").write_text(rows(names=lambda u: f"ü{u}"))
    (folder / "clicks.csv").write_text(
        "user_id,item_id,timestamp\n"
        + "".join(f"{u},{i},{u * 100 + i}\n" for u in range(20) for i in range(15) if (u + i) % 3)
    )
    done("synth {f}/source --users 60 --items 30 --ratings 900 --seed 1")
    done("prepare {f}/source {f}/data --no-text")
    done("prepare {f}/source {f}/other --no-text --seed 5")
    done("prepare {f}/source {f}/unvalidated --no-text --valid 0")
    done("prepare {f}/source {f}/byuser --no-text --split user")
    done("prepare {f}/texts.csv {f}/textdata")
    done("prepare {f}/clicks.csv {f}/clickdata")
    done("train {f}/data {f}/run " + SMALL + " --set model.relations=similar")
    done("train {f}/data {f}/final --refit all " + SMALL)
    done("train {f}/textdata {f}/textrun " + SMALL)
    done("train {f}/data {f}/knn --config item_knn")
    done("train {f}/clickdata {f}/popular --config popularity")
    done("score {f}/run {f}/scores --top-k 3")
    done("export {f}/run {f}/exported")
    return World(folder)


def answer(one: Case, world: World) -> Answer:
    """Give a command, in a folder of its own."""
    place, said = world.folder / "place", world.folder / "said"
    for folder in (place, said):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    for name, content in one.files.items():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.mkdir()
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
    names = {name: str(path) for name, path in world.names().items()}
    line = one.line
    for name, path in names.items():
        line = line.replace("{" + name + "}", path)
    out, err = said / "out", said / "err"
    there = set(place.rglob("*"))
    if one.shell:
        code = _in_shell(one, line, place, out, err)
    else:

        def before() -> None:
            os.chdir(place)
            if one.before is not None:
                one.before()

        arguments = [_unquoted(part) for part in shlex.split(line)]
        code = code_of(forked(arguments, out, err, before), 120)
    left = sorted(str(path.relative_to(place)) for path in {*place.rglob("*")} - there)
    texts = [path.read_text(errors="replace") if path.exists() else "" for path in (out, err)]
    return Answer(code, *texts, tuple(left))


def contents_of(world: World) -> dict[str, dict[str, bytes]]:
    """What each of the sources, data sets and runs holds, which no case is to change."""
    return {
        path.name: {name: (path / name).read_bytes() for name in files_of(path)}
        for path in world.folder.iterdir()
        if path.name not in ("place", "said")
    }


def _unquoted(part: str) -> str:
    r"""A word as a shell has it that was written $'...\xff'."""
    if not part.startswith("$"):
        return part
    return os.fsdecode(part[1:].encode().decode("unicode_escape").encode("latin-1"))


def _in_shell(one: Case, line: str, place: Path, out: Path, err: Path) -> int:
    spoken = f'dglrec() {{ "{sys.executable}" -m dglrec "$@"; }}\n'
    spoken += f'torchrun() {{ "{sys.executable}" -m torch.distributed.run "$@"; }}\n'
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **one.environment}
    with out.open("wb") as stdout, err.open("wb") as stderr:
        ran = subprocess.run(
            ["bash", "-c", spoken + line],
            cwd=place,
            env=environment,
            stdout=stdout,
            stderr=stderr,
            stdin=subprocess.DEVNULL,
            timeout=240,
        )
    return ran.returncode


def faults_of(one: Case, found: Answer) -> list[str]:
    """In what an answer is not as promised."""
    faults = []
    if found.code not in one.codes:
        faults.append(f"exit code {found.code}, promised {' or '.join(map(str, one.codes))}")
    ours = found.err.partition("torch/distributed/elastic")[0]  # then torchrun speaks
    for word in ("Traceback", "unexpected "):
        if word in ours:
            faults.append(f"{word.strip()} on stderr")
    lacking = [
        word
        for word in one.says
        if word not in (found.err if found.code else found.err + found.out)
    ]
    if lacking:
        faults.append(f"not said: {', '.join(lacking)}")
    if found.code == 0:
        if "--json" in one.line and not one.shell:
            json.loads(found.out)
        return faults
    lines = found.err[found.err.find("error: ") :].splitlines() if "error: " in found.err else []
    if not one.shell and one.line and not 1 <= len(lines) <= 2:
        faults.append(f"{len(lines)} lines of an error")
    if found.out and one.line:
        faults.append("something on stdout")
    if found.left and not one.leaves and one.before is None:
        faults.append(f"left behind: {', '.join(found.left)}")
    return faults


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-v", dest="shown", action="store_true")
    parser.add_argument("words", nargs="*")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    chosen = [
        one for one in CASES if not asked.words or any(word in one.name for word in asked.words)
    ]
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        world = make_world(Path(folder))
        before = contents_of(world)
        for one in chosen:
            found = answer(one, world)
            faults = faults_of(one, found)
            bad += bool(faults)
            if faults or asked.shown:
                said = (found.out[:300] + found.err[-600:]).replace(folder, "")
                print(
                    json.dumps([one.name, found.code, said, faults], ensure_ascii=False), flush=True
                )
        changed = [name for name, content in contents_of(world).items() if content != before[name]]
    print(f"{len(chosen) - bad} of {len(chosen)} were answered as promised; changed: {changed}")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
