"""Every file of a run, scores and an export, damaged in each way, under each verb that reads it.

    python tests/damage_matrix.py [--every N] [KIND ...]

prints how many commands were answered as promised, and those that were not; with `--every N` one of
N commands is given. Of prepared data sets `test_dataset_proof.py` does the same.

Promised is a refusal: exit code 3, one or two lines that name the file, nothing on stdout, nothing
left behind. A verb that does not read a file gives what it gives of the undamaged one. What can be
made again, as parts of scores can, and a checkpoint before which there is another, may be: then
that is said, and the end is the same.
"""

import argparse
import hashlib
import io
import json
import os
import re
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path
from unittest import mock

import torch
from damage import WAYS, copied, files_of, victims
from runs import make_settings, without_times

from dglrec import cli
from dglrec.dataset import PrepareOptions, RatingDataset, prepare
from dglrec.files import CHECKSUMS_FILE
from dglrec.run import LOG_FILE, METRICS_FILE
from dglrec.score import jobs
from dglrec.synthetic import synthesize
from dglrec.train import loop as loop_module
from dglrec.train import train

_STATES = tuple(f"checkpoints/{name}/state.pt" for name in ("best", "items", "derived"))
NOT_READ = (LOG_FILE, "checkpoints/last/", "checkpoints/step-", *_STATES, "selection/")
"""Of a run, by whoever opens it."""


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Verb:
    """A command on a damaged folder.

    Attributes:
        name: for reports.
        arguments: of the command; {it} is the folder, {out} a new one.
        blind: beginnings and ends of the names of files that it need not read.
        mends: whether it may make anew what is damaged. It changes the folder then.
        may_warn: files whose absence doctor tells of without calling it damage.
    """

    name: str
    arguments: str
    blind: tuple[str, ...] = NOT_READ
    mends: bool = False
    may_warn: tuple[str, ...] = ()


@dataclass(frozen=True)
class Kind:
    """A kind of folder: one to be damaged, one of another, and the verbs that read it."""

    whole: Path
    other: Path
    verbs: tuple[Verb, ...]


@dataclass
class World:
    """What there is, made once."""

    folder: Path
    kinds: dict[str, Kind] = field(default_factory=dict)


def command(*arguments: object) -> Outcome:
    """The entry point, as the console script calls it, in this process."""
    out, err, code = io.StringIO(), io.StringIO(), None
    with (
        redirect_stdout(out),
        redirect_stderr(err),
        mock.patch.object(sys, "argv", ["dglrec", *map(str, arguments)]),
    ):
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code
    return Outcome(code, out.getvalue(), err.getvalue())


def settings_of(seed: int, **fitting: object):
    model = {"heads": "both", "relations": ("similar",), "item_items": "ease"}
    return make_settings(
        model=model, epochs=2, seed=seed, keep_checkpoints=2, checkpoint_steps=2, **fitting
    )


def cut_off(dataset: RatingDataset, run: Path, settings) -> None:
    """Train until the first epoch has ended, and be interrupted there."""
    whole_epoch = loop_module._end_epoch

    def stop(*arguments):
        whole_epoch(*arguments)
        raise KeyboardInterrupt

    with mock.patch.object(loop_module, "_end_epoch", stop):
        try:
            train(dataset, run, settings)
        except KeyboardInterrupt:
            return
    raise AssertionError("it came to its end")


def make_world(folder: Path) -> World:
    """Two of each kind: what is damaged is exchanged for what the other one has."""
    synthesize(folder / "source", users=60, items=30, ratings=900, seed=1)
    dataset = prepare(folder / "source", folder / "data", PrepareOptions(text=False))
    for name, seed in (("one", 0), ("other", 1)):
        train(dataset, folder / f"run-{name}", settings_of(seed))
        train(dataset, folder / f"refitted-{name}", settings_of(seed, refit="valid"))
        cut_off(dataset, folder / f"stopped-{name}", settings_of(seed))
        baseline = make_settings(model={"kind": "item_knn"}, seed=seed)
        baseline = replace(
            baseline, baseline=baseline.baseline.model_copy(update={"neighbours": 5 + seed})
        )
        train(dataset, folder / f"baseline-{name}", baseline)
        run = folder / f"run-{name}"
        pairs = folder / f"pairs-{name}.csv"
        users, items = dataset.users.ids.to_pylist(), dataset.items.ids.to_pylist()
        rows = [f"{user},{items[(n + seed) % len(items)]}" for n, user in enumerate(users)]
        pairs.write_text("\n".join(["user_id,item_id", *rows]) + "\n")
        for kind, how in (("lists", ["--top-k", 3 + seed]), ("pairs", ["--pairs", pairs])):
            done = command("score", run, folder / f"{kind}-{name}", *how)
            assert done.code == 0, done.err
        done = command("export", run, folder / f"export-{name}")
        assert done.code == 0, done.err
    world = World(folder)
    for name, verbs in verbs_of(folder).items():
        world.kinds[name] = Kind(folder / f"{name}-one", folder / f"{name}-other", verbs)
    return world


def verbs_of(folder: Path) -> dict[str, tuple[Verb, ...]]:
    """The verbs that read each kind of folder."""
    data, pairs, baseline = folder / "data", folder / "pairs-one.csv", folder / "baseline-one"
    user = RatingDataset.open(data).users.ids.to_pylist()[0]
    doctor = Verb("doctor", "doctor {it}", blind=(LOG_FILE,), may_warn=(CHECKSUMS_FILE, "_SUCCESS"))
    resume = Verb(
        "train --resume",
        f"train {data} {{it}} --resume --json",
        blind=(LOG_FILE, "checkpoints/step-", "state.pt"),
        mends=True,
    )
    opening = (
        Verb("evaluate", "evaluate {it} --json"),
        Verb("evaluate --ranking", "evaluate {it} --ranking 3 --details --json"),
        Verb("recommend", f"recommend {{it}} --user {user} --json"),
        Verb("score --top-k", "score {it} {out} --top-k 3 --json"),
        Verb("score --pairs", f"score {{it}} {{out}} --pairs {pairs} --json"),
        Verb("export", "export {it} {out} --json"),
        Verb("compare", f"compare {{it}} {baseline} --bootstrap 40 --json"),
        Verb("compare with", f"compare {baseline} {{it}} --bootstrap 40 --json"),
    )
    small = "--set train.epochs=1 --set model.heads=both --set model.embedding_size=4"
    sizes = "--set model.decoder_size=4 --set model.relations=similar"
    beginning = Verb(
        "train --from",
        f"train {data} {{out}} --from {{it}} {small} {sizes} --json",
        blind=(*NOT_READ, "checkpoints/items/", "checkpoints/derived/"),
    )
    of_baseline = [
        *opening[:2],
        Verb("compare", f"compare {{it}} {folder / 'run-one'} --bootstrap 40 --json"),
    ]
    again = f"score {folder / 'run-one'} {{it}} --json"

    def unfinished(verb: Verb) -> Verb:
        return replace(verb, blind=(*NOT_READ, METRICS_FILE))

    return {
        "run": (*opening, beginning, resume, doctor),
        "refitted": (
            opening[0],
            opening[3],
            Verb(
                "compare with its selection",
                "compare {it} {it}/selection --json",
                blind=NOT_READ[:-1],
            ),
            resume,
            doctor,
        ),
        "stopped": (*map(unfinished, (opening[0], opening[2], opening[5])), resume, doctor),
        "baseline": (*of_baseline, resume, doctor),
        "lists": (Verb("score again", f"{again} --top-k 3", blind=(), mends=True), doctor),
        "pairs": (Verb("score again", f"{again} --pairs {pairs}", blind=(), mends=True), doctor),
        "export": (doctor,),
    }


def outcome_of(verb: Verb, it: Path, out: Path) -> tuple[Outcome, dict[str, str]]:
    """What a command says, and what it leaves."""
    shutil.rmtree(out, ignore_errors=True)
    told = command(*(one.format(it=it, out=out) for one in verb.arguments.split(" ")))
    left = snapshot(it) if verb.mends else {}
    return told, {**left, **snapshot(out)}


def snapshot(folder: Path) -> dict[str, str]:
    """Digests of what a folder holds; of a run of its weights and figures, but for times."""
    found = {}
    for name in files_of(folder) if folder.is_dir() else ():
        path = folder / name
        if (folder / "config.toml").exists() and path.name != "model.safetensors":
            if path.name == "results.json":
                found[name] = json.dumps(figures_of(path.read_text(errors="replace")))
            continue
        if "/step-" in name or "/damaged-" in name:
            continue
        found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def figures_of(text: str) -> object:
    """What a command printed, but for times and for how much was there before."""
    try:
        figures = without_times(json.loads(text))
    except ValueError:
        return text
    if isinstance(figures, dict):
        figures.pop("kept", None)
    return figures


def is_of_a_state(file: Path, whole: Path) -> bool:
    """Whether a description differs in the checksum of a state alone, which few verbs read."""
    try:
        found, wanted = (json.loads(one.read_text()) for one in (file, whole))
        for one in (found, wanted):
            del one["sha256"]["state.pt"]
    except (ValueError, KeyError, TypeError, OSError):
        return False
    return bool(found == wanted)


def verdict(
    verb: Verb, name: str, how: str, told: Outcome, left: dict, wanted: Outcome, whole: dict
) -> str:
    """`refused`, `not read`, `mended`, `said`, or what is wrong.

    Args:
        verb: what was done.
        name: of the damaged file.
        how: it was damaged.
        told: the outcome.
        left: what was left behind.
        wanted: the outcome with the undamaged file.
        whole: what is left behind then.
    """
    file = Path(name)
    error = told.err[told.err.find("error: ") :] if "error: " in told.err else ""
    said = told.err + (told.out if verb.name == "doctor" else "")
    # A file of scores or an export that is altered is told by another that it fits no longer, and
    # one of a checkpoint may be told by its folder.
    parents = [one for one in (file.parent.name,) if one]
    another = file.name.startswith(("_", "export")) or file.parent.name == "_parts"
    named = file.name in said or any(one in said for one in parents) or another
    if "Traceback" in said or "unexpected" in said:
        return "unexpected"
    if told.code == 3:
        if not named:
            return "not named"
        if verb.name == "doctor":
            return "refused"
        if told.out or not 1 <= len(error.splitlines()) <= 2:
            return "too much said"
        return "refused" if verb.mends or not left else "left behind"
    if told.code != 0:
        return f"code {told.code}"
    if verb.name == "doctor":
        # The line of an epoch that was not saved is no damage.
        unsaved = (name, how) == (METRICS_FILE, "twice")
        if told.out == wanted.out and (unsaved or any(one in name for one in verb.blind)):
            return "not read"
        gone = how in ("missing", "a folder") and file.name in verb.may_warn
        return "said" if gone and told.out != wanted.out else "not found"
    differing = {one for one in {*left, *whole} if left.get(one) != whole.get(one)}
    if name.startswith("selection/"):  # of a finished one what is not read stays as it is
        differing.discard(name)
    if figures_of(told.out) != figures_of(wanted.out) or differing:
        return "other figures"
    if _untimed(told.err) == _untimed(wanted.err):
        blind = any(one in name for one in verb.blind)
        gone = file.name == CHECKSUMS_FILE and how == "missing"
        return "not read" if blind or gone or verb.mends else "believed"
    return "mended" if verb.mends and named else "believed"


def _untimed(text: str) -> str:
    return re.sub(r"\d+ s\b", "", text)


AS_PROMISED = ("refused", "not read", "mended", "said")


def is_chosen(case: tuple[str, ...], every: int) -> bool:
    """Whether a case is among one of so many; always the same ones."""
    digest = hashlib.sha256("\0".join(case).encode()).digest()
    return int.from_bytes(digest[:4], "little") % every == 0


def damaged_everywhere(
    world: World, kind: str, place: Path, every: int = 1
) -> Iterator[dict[str, object]]:
    """Give each verb each file of a kind of folder damaged in each way.

    Args:
        world: what there is.
        kind: of folder.
        place: a folder to work in.
        every: one of so many commands is given.

    Yields:
        Of each command what it was and its verdict.
    """
    of_kind, it, out = world.kinds[kind], place / kind, place / "out"
    wanted = {}
    for verb in of_kind.verbs:
        fresh(of_kind.whole, it)
        wanted[verb] = outcome_of(verb, it, out)
        assert wanted[verb][0].code == 0, (kind, verb.name, wanted[verb][0])
    fresh(of_kind.whole, it)
    for name, victim in victims(it, of_kind.other, files_of(it)).items():
        for how in WAYS:
            chosen = [one for one in of_kind.verbs if is_chosen((kind, name, how, one.name), every)]
            if not chosen:
                continue
            content = victim.path.read_bytes()
            if not victim.damage(how):
                continue
            for verb in chosen:
                told, left = outcome_of(verb, it, out)
                found = verdict(verb, name, how, told, left, *wanted[verb])
                if found == "believed" and is_of_a_state(it / name, of_kind.whole / name):
                    found = "not read"
                yield {
                    "kind": kind,
                    "file": name,
                    "how": how,
                    "verb": verb.name,
                    "verdict": found,
                    "code": told.code,
                    "said": (told.out + told.err)[-400:],
                }
                if verb.mends:
                    fresh(of_kind.whole, it)
                    victim.damage(how)
            if any(verb.mends for verb in chosen):
                fresh(of_kind.whole, it)
            else:
                victim.mend(content)


def fresh(whole: Path, it: Path) -> None:
    shutil.rmtree(it, ignore_errors=True)
    copied(whole, it)


def in_fork(function: Callable[[], Iterator[dict[str, object]]]) -> Iterator[dict[str, object]]:
    """What a generator yields, in a process of its own, which may crash."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "found"
        process = os.fork()
        if process == 0:
            code = 1
            try:
                with file.open("w") as lines:
                    for one in function():
                        lines.write(json.dumps(one) + "\n")
                        lines.flush()
                code = 0
            except Exception:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        yield from map(json.loads, file.read_text().splitlines())
        if status:
            yield {"verdict": f"crash {status}"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*")
    parser.add_argument("--every", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    jobs._PART_USERS = 25
    counts: Counter[tuple[str, str]] = Counter()
    wrong = []
    with tempfile.TemporaryDirectory() as folder:
        world = make_world(Path(folder))
        for kind in asked.kinds or world.kinds:
            place = Path(folder) / "cases"
            place.mkdir(exist_ok=True)
            for one in in_fork(lambda: damaged_everywhere(world, kind, place, asked.every)):  # noqa: B023
                counts[kind, str(one["verdict"])] += 1
                if one["verdict"] not in AS_PROMISED:
                    wrong.append(one)
                    print(json.dumps(one), flush=True)
            print(kind, {what: n for (of, what), n in counts.items() if of == kind}, flush=True)
    total, good = sum(counts.values()), sum(counts.values()) - len(wrong)
    print(f"{good} of {total} commands were answered as promised")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
