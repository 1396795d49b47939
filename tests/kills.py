"""Signals at random moments over prepare, train, score and export, and what comes of it.

    python tests/kills.py [--seconds S] [--kills N] [--fresh SHARE] [--seed N]

After each signal the exit code, what was said and what lies on the disk are held to what is
promised; the same command, or `train --resume`, is then disturbed again or left to its end, which
must be that of one that was not disturbed. Commands are forked from a process that has imported and
compiled all; a share of them is started afresh, so that loading is hit as well.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from damage import copied
from damage_matrix import command, snapshot
from forks import code_of, forked
from runs import without_times

from dglrec.files import TEMPORARY
from dglrec.run import CONFIG_FILE, LAST, METRICS_FILE
from dglrec.score import jobs
from dglrec.train.step import TrainingStep
from dglrec.verify import verify

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
INTERVAL = 2
"""Steps between checkpoints."""

_SETTINGS = {
    "train.epochs": 3,
    "train.patience": 99,
    "train.learning_rate": 0.01,
    "train.warmup_steps": 2,
    "train.checkpoint_steps": INTERVAL,
    "model.embedding_size": 4,
    "model.decoder_size": 4,
    "loader.batch_size": 400,
    "loader.folds": 4,
}


_PART_USERS, _PART_ROWS = 8, 64
_IN_SMALL_PARTS = f"""
from dglrec.__main__ import main
try:
    from dglrec.score import jobs
    jobs._PART_USERS, jobs._PART_ROWS = {_PART_USERS}, {_PART_ROWS}
except KeyboardInterrupt:
    import sys
    sys.stderr.write("interrupted\\n")
    sys.exit(130)
main()
"""


@dataclass(frozen=True)
class Job:
    """A command that makes a folder.

    Attributes:
        name: for reports.
        arguments: with {out} for the folder.
        before: what lies there before.
        resumes: whether it is gone on with by --resume.
        exists: whether it is refused where the folder is there already.
        counted: whether steps between checkpoints are counted.
    """

    name: str
    arguments: tuple[str, ...]
    before: Path | None = None
    resumes: bool = False
    exists: bool = False
    counted: bool = False

    @property
    def verb(self) -> str:
        """The command's first word."""
        return self.arguments[0]

    def line(self, out: Path) -> list[str]:
        """The arguments to begin or to go on with."""
        given = [one.format(out=out) for one in self.arguments]
        if self.resumes and (out / CONFIG_FILE).exists():
            return [*given[:3], "--resume"]
        return given


@dataclass
class World:
    """What is there, made once: jobs, what comes of each undisturbed, and how long it takes.

    `slowness` is how many times as long it takes of late, as others use the machine too.
    """

    folder: Path
    jobs: list[Job]
    whole: dict[str, dict[str, str]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    slowness: float = 1.0


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: its exit code, or less than nothing for the signal that ended it.
        said: on both streams.
        step: the training step that it was in.
        before: what an earlier one, which was killed, had left half-written.
        was_whole: whether an earlier one had come to its end, killed or not.
    """

    code: int
    said: str
    step: int
    before: tuple[str, ...]
    was_whole: bool


def make_world(folder: Path) -> World:
    """Sources, a data set, a run, and what lies where something is to be replaced."""

    def done(*arguments: object) -> None:
        told = command(*arguments)
        assert told.code == 0, (arguments, told.err)

    size = ["--users", 80, "--items", 40, "--ratings", 2000]
    source, data, run = (folder / name for name in ("source", "data", "run"))
    done("synth", source, *size, "--seed", 1)
    done("prepare", source, data, "--no-text")
    settings = [f"--set={key}={value}" for key, value in _SETTINGS.items()]
    done("train", data, run, *settings)
    done("prepare", source, folder / "old-data", "--no-text", "--seed", 9)
    done("train", data, folder / "old-run", *settings, "--set", "train.seed=9")
    done("score", run, folder / "old-lists", "--top-k", 2)
    done("export", folder / "old-run", folder / "old-export")
    pairs = folder / "pairs.csv"
    pairs.write_text("user_id,item_id\n" + "".join(f"{u},{i}\n" for u, i in _pairs(data)))
    preparing = ("prepare", str(source), "{out}", "--no-text")
    training = ("train", str(data), "{out}", *settings)
    lists, export = ("score", str(run), "{out}"), ("export", str(run), "{out}")
    jobs = [
        Job("prepare", preparing, exists=True),
        Job("prepare over", (*preparing, "--overwrite"), before=folder / "old-data"),
        Job("train", training, resumes=True, counted=True),
        Job("train --refit", (*training, "--refit", "valid"), resumes=True),
        Job("train over", (*training, "--overwrite"), before=folder / "old-run"),
        Job("train baseline", (*training[:3], "--config", "item_knn"), resumes=True),
        Job("score lists", (*lists, "--top-k", "3")),
        Job("score pairs", (*lists, "--pairs", str(pairs))),
        Job("score over", (*lists, "--top-k", "3", "--overwrite"), before=folder / "old-lists"),
        Job("export", export, exists=True),
        Job("export over", (*export, "--overwrite"), before=folder / "old-export"),
    ]
    world = World(folder, jobs)
    for job in jobs:
        out = begin(world, job)
        assert command(*job.line(out)).code == 0  # so that all is compiled before a fork
        world.whole[job.name] = contents_of(out)
        out = begin(world, job)
        started = time.monotonic()
        code = code_of(forked(job.line(out), *_said(world)))
        world.seconds[job.name] = time.monotonic() - started
        assert code == 0, said_in(world)
        assert contents_of(out) == world.whole[job.name], job.name
    return world


def _said(world: World) -> tuple[Path, Path]:
    """An empty file for what a command says, on both of its streams."""
    file = world.folder / "said"
    file.write_text("")
    return file, file


def said_in(world: World) -> str:
    """What the last command said."""
    return (world.folder / "said").read_text(errors="replace")


def _pairs(data: Path) -> list[tuple[int, int]]:
    from dglrec.dataset import RatingDataset

    dataset = RatingDataset.open(data)
    users, items = dataset.users.ids.to_pylist(), dataset.items.ids.to_pylist()
    return [(user, items[n % len(items)]) for n, user in enumerate(users)]


def begin(world: World, job: Job) -> Path:
    """The folder of a job, with what lies there before."""
    place = world.folder / "place"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    if job.before is not None:
        copied(job.before, place / "out")
    return place / "out"


def contents_of(folder: Path) -> dict[str, str]:
    """What a folder holds; of runs weights and figures, times left out."""
    found = snapshot(folder)
    for path in folder.rglob(METRICS_FILE):
        found[str(path.relative_to(folder))] = json.dumps(
            [_timeless(line) for line in path.read_text().splitlines()]
        )
    return found


def _timeless(line: str) -> object:
    try:
        return without_times(json.loads(line))
    except ValueError:  # it was being written
        return line


def _note_steps(trace: Path) -> None:
    """Before each step note how many are done."""
    file, step = os.open(trace, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), TrainingStep.__call__

    def noting(self, *arguments, **options):
        os.pwrite(file, f"{self.number:09d}".encode(), 0)
        return step(self, *arguments, **options)

    TrainingStep.__call__ = noting


def started(arguments: list[str], said: Path) -> int:
    """A command in a fresh interpreter, as a shell starts it; its id."""
    spoken = ["-c", _IN_SMALL_PARTS] if arguments[0] == "score" else ["-m", "dglrec"]
    with said.open("a") as file:
        return subprocess.Popen(
            [sys.executable, *spoken, *arguments],
            stdout=file,
            stderr=file,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        ).pid


def disturb(
    world: World, job: Job, out: Path, number: int, moment: float, *, fresh: bool = False
) -> Ended:
    """Send a signal to a command after a share of its time, and wait for its end."""
    said, trace = _said(world), world.folder / "trace"
    trace.unlink(missing_ok=True)
    seconds = world.seconds[f"fresh {job.verb}" if fresh else job.name]
    line, before = job.line(out), tuple(temporaries(world))
    was_whole = out.is_dir() and contents_of(out) == world.whole[job.name]
    noting = partial(_note_steps, trace)
    process = started(line, said[0]) if fresh else forked(line, *said, noting)
    time.sleep(moment * seconds * world.slowness)
    os.kill(process, number)
    code = code_of(process)
    step = int(trace.read_text() or -1) if trace.exists() else -1
    return Ended(code, said_in(world), step, before, was_whole)


def faults_of(world: World, job: Job, out: Path, number: int, ended: Ended) -> list[str]:
    """What was not as promised after a signal."""
    faults: list[str] = []
    if ended.was_whole and job.exists and ended.code == 2 and "exists" in ended.said:
        return faults
    outlives = number == signal.SIGHUP and job.verb == "train"
    codes = {signal.SIGKILL: {-9, 0}}.get(number, {0, -number} if outlives else {130, 0, -number})
    # Before the command is read, nobody knows that it is to outlive its terminal.
    not_begun = outlives and ended.code == 130 and not (out / CONFIG_FILE).exists()
    # Python ends itself by SIGINT, of which a shell makes 130 as well, where what a signal raised
    # went through an `exec`, as in the imports of libraries.
    stopped = ended.code == -signal.SIGINT and ended.said.strip() == "interrupted"
    if ended.code not in codes and not stopped and not not_begun:
        faults.append(f"exit code {ended.code}")
    if "Traceback" in ended.said or "unexpected" in ended.said or "error:" in ended.said:
        faults.append("said more than that it was interrupted")
    if ended.code == 130 and ended.said and "interrupted" not in ended.said:
        faults.append("not said that it was interrupted")
    if ended.code == 0 and contents_of(out) != world.whole[job.name]:
        faults.append("exit code 0, and not what it should be")
    swept = () if ended.code == 0 else ended.before  # whoever is stopped early has not swept yet
    if ended.code in (0, 130) and (left := set(temporaries(world)).difference(swept)):
        faults.append(f"left behind: {sorted(left)}")
    if job.counted and ended.step >= 0:
        faults += _lost(out, ended)
    if job.before is not None and job.verb in ("prepare", "export"):
        whole = contents_of(out)
        if whole not in (world.whole[job.name], contents_of(job.before)):
            faults.append("neither the old folder nor the new one")
    return faults


def _lost(out: Path, ended: Ended) -> list[str]:
    """Steps that were lost beyond the interval, or any where it had time to save."""
    meta = out / LAST / "meta.json"
    saved = json.loads(meta.read_text())["step"] if meta.exists() else 0
    if "stopped after" in ended.said and saved != ended.step + 1:
        return [f"stopped in step {ended.step + 1}, and saved {saved}"]
    if saved < ended.step // INTERVAL * INTERVAL:
        return [f"killed in step {ended.step + 1}, and saved {saved}"]
    return []


def temporaries(world: World) -> list[str]:
    """What is half-written, or was moved aside as damaged."""
    names = (path.name for path in (world.folder / "place").rglob("*"))
    return sorted(name for name in names if name.startswith((TEMPORARY, "damaged-")))


def finish(world: World, job: Job, out: Path) -> list[str]:
    """Let the same command come to its end; what is not as undisturbed."""
    was_whole = out.is_dir() and contents_of(out) == world.whole[job.name]
    begun = time.monotonic()
    code = code_of(forked(job.line(out), *_said(world)))
    if code == 0 and not job.resumes and not job.exists:
        of_late = (time.monotonic() - begun) / world.seconds[job.name]
        world.slowness = 0.7 * world.slowness + 0.3 * of_late
    told = said_in(world)
    faults = []
    refused = job.exists and was_whole and code == 2 and "exists" in told
    if code != 0 and not refused:
        faults.append(f"afterwards exit code {code}: {told[-300:]}")
    elif contents_of(out) != world.whole[job.name]:
        faults.append("afterwards another result")
    if left := temporaries(world):
        faults.append(f"afterwards left behind: {left}")
    if (there := sorted(path.name for path in (world.folder / "place").iterdir())) != ["out"]:
        faults.append(f"afterwards there: {there}")
    if not faults:
        bad = [check.found for check in verify(out) if check.level == "failure"]
        faults += [f"afterwards doctor finds: {bad}"] if bad else []
    return faults


def series(
    world: World, job: Job, chance: random.Random, kills: int, *, fresh: bool = False
) -> list[dict[str, object]]:
    """Disturb a job some times, and let it end.

    Returns:
        Of each signal what came of it, with what was not as promised.
    """
    out = begin(world, job)
    found: list[dict[str, object]] = []
    for _ in range(kills):
        number, moment = chance.choice(SIGNALS), chance.uniform(0, 1)
        ended = disturb(world, job, out, number, moment, fresh=fresh)
        faults = faults_of(world, job, out, number, ended)
        found.append(
            {
                "job": job.name,
                "signal": signal.Signals(number).name,
                "fresh": fresh,
                "moment": round(moment, 4),
                "code": ended.code,
                "faults": faults,
                "said": ended.said[-1500:] if faults else "",
            }
        )
        if ended.code == 0:
            break
    found[-1]["faults"] = [*found[-1]["faults"], *finish(world, job, out)]  # type: ignore[misc]
    return found


def measure_fresh(world: World) -> None:
    """How long the verbs take in a fresh interpreter."""
    for job in world.jobs:
        if f"fresh {job.verb}" in world.seconds:
            continue
        for _ in range(2):  # the first keeps compiled kernels for the others
            out, begun = begin(world, job), time.monotonic()
            assert code_of(started(job.line(out), _said(world)[0])) == 0, said_in(world)
            world.seconds[f"fresh {job.verb}"] = time.monotonic() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2400.0)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--fresh", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pause", type=Path, default=Path("/nowhere"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    jobs._PART_USERS, jobs._PART_ROWS = _PART_USERS, _PART_ROWS
    chance, counts, bad = random.Random(asked.seed), Counter(), 0
    with tempfile.TemporaryDirectory() as folder:
        world = make_world(Path(folder))
        if asked.fresh:
            measure_fresh(world)
        print(json.dumps({name: round(value, 2) for name, value in world.seconds.items()}))
        until, number, told = time.monotonic() + asked.seconds, 0, 0
        while sum(counts.values()) < asked.kills and time.monotonic() < until:
            while asked.pause.exists():
                time.sleep(0.5)
            if (done := sum(counts.values())) >= told + 100:
                told = done
                print(f"{done} signals, {bad} not answered as promised", flush=True)
            job, number = world.jobs[number % len(world.jobs)], number + 1
            fresh = chance.random() < asked.fresh
            for one in series(world, job, chance, chance.choice((1, 1, 2, 3)), fresh=fresh):
                counts[str(one["job"]), str(one["signal"]), bool(one["fresh"]), one["code"]] += 1
                if one["faults"]:
                    bad += 1
                    print(json.dumps(one), flush=True)
    for key, count in sorted(counts.items(), key=str):
        print(*key, count)
    total = sum(counts.values())
    print(f"{total} signals, {total - bad} of them answered as promised")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
