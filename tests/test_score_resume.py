"""Scoring that was cut off anywhere, by anything, goes on to the same folder, to the last bit."""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from runs import make_settings, planted
from test_resume import _TOUCHES, CutOff, cut_off_in, environment, in_fork, is_running
from test_score import files_of, identities, in_small_parts, read_all

from dglrec import cli, files
from dglrec.errors import UsageError
from dglrec.files import TEMPORARY
from dglrec.run import open_run
from dglrec.score import (
    MANIFEST_FILE,
    ScoreOptions,
    TopKOptions,
    jobs,
    parts,
    score_pairs,
    score_top_k,
)
from dglrec.score.parts import NOTES_FOLDER, PLAN_FILE, SUCCESS_FILE, PartsFolder, part_name
from dglrec.train import train

K, PARTS = 4, 4


def trained_on(folder, users, items, ratings):
    train(planted(folder, users, items, ratings), folder / "run", make_settings(epochs=1))
    return open_run(folder / "run")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """60 users: four parts of 15."""
    found = trained_on(tmp_path_factory.mktemp("small"), 60, 30, 900)
    found.embeddings  # noqa: B018 - so that forks need not compute them
    return found


@pytest.fixture(scope="module")
def pairs(trained, tmp_path_factory):
    """A file of 300 pairs, four parts of 75, a few of them unknown."""
    file = tmp_path_factory.mktemp("pairs") / "pairs.csv"
    users, items = trained.dataset.users.ids.to_pylist(), trained.dataset.items.ids.to_pylist()
    rows = [(users[n * 7 % len(users)], items[n % len(items)]) for n in range(297)]
    rows += [(9_999, items[0]), (users[0], -1), (9_998, -2)]
    pd.DataFrame(rows, columns=["user_id", "item_id"]).to_csv(file, index=False)
    return file


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    in_small_parts(monkeypatch, users=15, rows=75)


@pytest.fixture(params=["lists", "pairs"])
def score(request, trained, pairs):
    """Scores into a folder, in one of both ways."""

    def call(out, **options):
        if request.param == "pairs":
            return score_pairs(trained, out, pairs, ScoreOptions(unknown="null", **options))
        return score_top_k(trained, out, K, TopKOptions(**options))

    return call


@pytest.fixture
def whole(score, tmp_path_factory):
    """The folder of an undisturbed run."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert score(out)["parts"] == PARTS
    return out


def finished_parts(out):
    """Names of the parts that have a note."""
    numbers = [int(path.stem) for path in (out / NOTES_FOLDER).glob("[0-9]*.json")]
    return {part_name(number) for number in numbers}


def assert_same(out, whole):
    """Every byte, and nothing that does not belong there."""
    read_all(out)
    assert files_of(out) == files_of(whole)


def assert_gone_on(score, out, whole):
    """The rest is made, and only the rest."""
    if (out / SUCCESS_FILE).exists():
        assert_same(out, whole)
    finished = finished_parts(out) if out.exists() else set()
    before = {name: one for name, one in identities(out).items() if name in finished}
    assert before.keys() == finished
    summary = score(out)
    assert (summary["kept"], summary["complete"]) == (len(finished), True)
    after = identities(out)
    assert {name: after[name] for name in before} == before
    assert_same(out, whole)


# ---------------------------------------------------------------- cut off within a process


@pytest.mark.parametrize("call", [1, PARTS])
@pytest.mark.parametrize(
    ("place", "after"),
    [
        ((PartsFolder, "write"), False),  # before any of it
        ((pq, "write_table"), False),  # before the temporary file
        ((pq, "write_table"), True),  # it is there
        ((PartsFolder, "_note_path"), True),  # all the same, of whatever call
        ((PartsFolder, "write"), True),  # all of it is done
    ],
    ids=str,
)
def test_cut_off_in_any_part_it_goes_on_as_if_nothing_had_been(
    score, whole, tmp_path, monkeypatch, place, after, call
):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        cut_off_in(patch, *place, call, after=after)
        with pytest.raises(CutOff):
            score(out)
    assert not (out / SUCCESS_FILE).exists() and not (out / MANIFEST_FILE).exists()
    assert not list(out.rglob(f"{TEMPORARY}*"))
    if place[1] == "write":
        assert len(finished_parts(out)) == call - 1 + after
    assert_gone_on(score, out, whole)


# The plan, a part and its note for each, the manifest, _SUCCESS.
_RENAMES = 1 + 2 * PARTS + 2


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("name", ["_flush", "os.replace"])
def test_cut_off_at_any_file_it_goes_on_as_if_nothing_had_been(
    score, whole, tmp_path, monkeypatch, name, after
):
    """Of a file each is flushed, renamed, and its folder flushed."""
    owner, calls = (files, 2 * _RENAMES) if name == "_flush" else (os, _RENAMES)
    for call in range(1, calls + 1, 1 if name == "os.replace" else 3):
        out = tmp_path / str(call)
        with monkeypatch.context() as patch:
            cut_off_in(patch, owner, name.removeprefix("os."), call, after=after)
            with pytest.raises(CutOff):
                score(out)
        assert not list(out.rglob(f"{TEMPORARY}*"))
        assert_gone_on(score, out, whole)
        shutil.rmtree(out)
    with monkeypatch.context() as patch:  # and there is no other
        cut_off_in(patch, owner, name.removeprefix("os."), calls + 1, after=after)
        score(tmp_path / "last")


def test_cut_off_again_and_again_it_still_comes_to_the_same_end(
    score, whole, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    for turn in range(PARTS):
        with monkeypatch.context() as patch:
            cut_off_in(patch, PartsFolder, "write", 2)  # one part gets through
            if turn < PARTS - 1:
                with pytest.raises(CutOff):
                    score(out)
            else:
                assert score(out)["kept"] == turn
        assert len(finished_parts(out)) == turn + 1
    assert_same(out, whole)


def test_a_part_whose_note_is_not_there_is_made_again(score, whole, tmp_path, monkeypatch):
    """Its file may be another's, or half of it, for all that is known."""
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        cut_off_in(patch, parts, "write_json", 3)  # the plan's, the first part's
        with pytest.raises(CutOff):
            score(out)
    assert finished_parts(out) == {part_name(0)} < set(identities(out))
    (out / part_name(1)).write_bytes(b"PAR1")
    assert_gone_on(score, out, whole)


# ---------------------------------------------------------------- killed


def kill_at_touch(number):
    """Kill this process at the n-th time that it touches the disk."""
    left = number

    def hook(event, _):
        nonlocal left
        if event in _TOUCHES:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def killed_at_touches(score, tmp_path, whole, touches, **options):
    """Kill at each of some touches and go on; at how many it was not through before."""
    for count, touch in enumerate(touches):
        out = tmp_path / str(touch)

        def killed(out=out, touch=touch):
            kill_at_touch(touch)
            score(out, **options)

        if in_fork(killed) == 0:
            return count
        assert_gone_on(lambda out: score(out, **options), out, whole)
        assert not list(tmp_path.glob(f"{TEMPORARY}*"))
        shutil.rmtree(out)
    return len(touches)


def test_killed_while_it_begins_it_goes_on_as_if_nothing_had_been(score, whole, tmp_path):
    """At each touch of the disk until the first part is there."""
    assert killed_at_touches(score, tmp_path, whole, range(1, 21)) == 20


def test_killed_anywhere_it_goes_on_as_if_nothing_had_been(score, whole, tmp_path):
    """At some touches; the slow test has them all."""
    assert 5 < killed_at_touches(score, tmp_path, whole, range(21, 1_000, 7)) < 100


@pytest.mark.slow
def test_killed_at_any_touch_it_goes_on_as_if_nothing_had_been(score, whole, tmp_path):
    found = killed_at_touches(score, tmp_path, whole, range(1, 1_000))
    assert 60 < found < 999


@pytest.mark.slow
def test_killed_before_its_first_part_another_plan_may_take_over(trained, tmp_path):
    """Wherever that was; nothing of the first plan is left behind."""
    whole, out = tmp_path / "whole", tmp_path / "out"
    score_top_k(trained, whole, K + 1)
    begun = 0
    for touch in range(1, 100):

        def killed(touch=touch):
            kill_at_touch(touch)
            # Its first part has a number that the other plan does not come to.
            jobs._PART_USERS = 5  # twelve parts
            score_top_k(trained, out, K, TopKOptions(shard=(7, 8)))

        assert in_fork(killed) == -signal.SIGKILL
        if finished_parts(out):
            break
        begun += (out / PLAN_FILE).exists()
        score_top_k(trained, out, K + 1)
        assert_same(out, whole)
        shutil.rmtree(out)
    assert begun > 8


# ---------------------------------------------------------------- overwriting


@pytest.mark.slow
def test_killed_while_overwriting_it_never_mixes_the_old_with_the_new(trained, tmp_path):
    """What is there is a part of the old folder, no longer said to be whole, or of the new one."""
    out, whole, later = (tmp_path / name for name in ("out", "whole", "later"))
    score_top_k(trained, whole, K)
    score_top_k(trained, later, K + 1)
    old, new = files_of(whole), files_of(later)
    seen = set()
    for touch in range(1, 1_000, 4):
        shutil.copytree(whole, out)

        def killed(touch=touch):
            kill_at_touch(touch)
            score_top_k(trained, out, K + 1, TopKOptions(overwrite=True))

        if in_fork(killed) == 0:
            break
        found = files_of(out)
        there = {name: content for name, content in found.items() if TEMPORARY not in name}
        is_old = there.items() <= old.items()
        seen.add("whole" if there == old else "old" if is_old else "new")
        if is_old:
            assert there == old or SUCCESS_FILE not in there
        else:
            assert there.items() <= new.items()
        score_top_k(trained, out, K + 1, TopKOptions(overwrite=is_old))
        assert_same(out, later)
        shutil.rmtree(out)
    assert seen == {"whole", "old", "new"}


# ---------------------------------------------------------------- shards


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_shards_in_any_order_are_the_whole(score, whole, tmp_path, order):
    out = tmp_path / "out"
    for turn, number in enumerate(order):
        before = identities(out)
        summary = score(out, shard=(number, 3))
        added = {part_name(part) for part in range(number, PARTS, 3)}
        assert (summary["parts"], summary["kept"]) == (len(added), 0)
        after = identities(out)
        assert {name: after[name] for name in before} == before
        assert after.keys() - before.keys() == added
        assert summary["complete"] is (out / SUCCESS_FILE).exists() is (turn == 2)
    assert_same(out, whole)


def test_shards_cut_otherwise_go_on_with_what_is_there(score, whole, tmp_path, monkeypatch):
    """By three, one of them cut off, and then all at once."""
    out = tmp_path / "out"
    score(out, shard=(1, 3))
    with monkeypatch.context() as patch:
        cut_off_in(patch, PartsFolder, "write", 2)
        with pytest.raises(CutOff):
            score(out, shard=(0, 3))  # of parts 0 and 3
    assert score(out, shard=(1, 2))["kept"] == 1  # of 1 and 3
    assert_gone_on(score, out, whole)


# ---------------------------------------------------------------- one at a time


@contextlib.contextmanager
def at_work(function, *arguments):
    """Another process that stops for good where it would write its first part; its id."""
    reader, writer = os.pipe()

    def stop(*_):
        os.write(writer, b"x")
        time.sleep(600)

    def work():
        PartsFolder.write = stop
        function(*arguments)

    process = in_fork(work, wait=False)
    os.close(writer)
    assert os.read(reader, 1) == b"x"
    os.close(reader)
    try:
        yield process
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)


def test_the_same_command_twice_at_once_is_refused_and_names_the_process(score, whole, tmp_path):
    out = tmp_path / "out"
    with at_work(score, out) as other:
        before = files_of(out)
        in_use = f"{out}: in use by process {other} on {socket.gethostname()}"
        with pytest.raises(UsageError, match=re.escape(in_use)):
            score(out)
        assert files_of(out) == before
        # Another shard is another job.
        assert score(out, shard=(1, 2))["parts"] == PARTS // 2
    assert_gone_on(score, out, whole)  # the lock went with the process that was killed


def test_jobs_that_are_cut_otherwise_may_make_the_same_part_at_once(
    score, whole, tmp_path, monkeypatch
):
    """A job of two makes the first part while the job that makes them all is writing it."""
    out, original = tmp_path / "out", pq.write_table

    def with_another(*arguments, **options):
        original(*arguments, **options)
        monkeypatch.setattr(pq, "write_table", original)
        assert in_fork(lambda: score(out, shard=(0, 2))) == 0

    monkeypatch.setattr(pq, "write_table", with_another)
    score(out)
    assert_same(out, whole)


def test_a_folder_that_is_being_written_is_not_replaced(score, tmp_path):
    out = tmp_path / "out"
    with at_work(score, out) as other:
        before = files_of(out)
        with pytest.raises(UsageError, match=f"in use by process {other}"):
            score(out, overwrite=True)
        assert files_of(out) == before
    score(out, overwrite=True)


def test_another_plan_does_not_take_over_a_folder_that_is_being_written(trained, tmp_path):
    """Though no part of it is finished yet."""
    out = tmp_path / "out"
    with at_work(score_top_k, trained, out, K) as other:
        before = files_of(out)
        with pytest.raises(UsageError, match=f"in use by process {other}|begun with top_k {K}"):
            score_top_k(trained, out, K + 1)
        assert files_of(out) == before
        with pytest.raises(UsageError, match=f"in use by process {other}|begun with top_k {K}"):
            score_top_k(trained, out, K + 1, TopKOptions(shard=(1, 2)))
        assert files_of(out) == before


# ---------------------------------------------------------------- a disk that fills up


def command_line(capfd, monkeypatch, *arguments):
    """Exit code and stderr of the entry point."""
    monkeypatch.setattr(sys, "argv", ["dglrec", *map(str, arguments)])
    capfd.readouterr()
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    return exit_.value.code, capfd.readouterr().err


@pytest.mark.parametrize("kib", [0, 4, 8, 12, 16, 24, 32, 36])
def test_a_full_disk_keeps_what_is_finished(
    trained, pairs, tmp_path, monkeypatch, capfd, small_disk, kib
):
    """Wherever it fills up: each file is a page or two."""
    out = small_disk.leave(kib) / "out"
    for what in (["--top-k", K], ["--pairs", pairs, "--unknown", "skip"]):
        score = ["score", trained.dataset.path.parent / "run", out, *what, "--device", "cpu"]
        code, said = command_line(capfd, monkeypatch, *score)
        assert code == 1, said
        assert said.splitlines()[-1].startswith(f"error: {out}")
        assert "no space left on the disk" in said and "unexpected" not in said
        assert not (out / SUCCESS_FILE).exists()
        assert not list(out.parent.rglob(f"{TEMPORARY}*"))
        before = identities(out)
        if made := finished_parts(out):
            # It was a part that did not fit, or what is written behind them all.
            assert "finished parts are kept: the same command goes on" in said or len(made) == PARTS
        small_disk.grow()
        code, said = command_line(capfd, monkeypatch, *score)
        assert (code, said.count("damaged")) == (0, 0), said
        after = identities(out)
        assert {name: after[name] for name in made} == {name: before[name] for name in made}
        whole = tmp_path / what[0]
        assert command_line(capfd, monkeypatch, *score[:2], whole, *score[3:])[0] == 0
        assert_same(out, whole)
        subprocess.run(["rm", "-r", str(out), str(out.parent / "ballast")], check=True)
        subprocess.run(["mount", "-o", "remount,size=2m", str(out.parent)], check=True)
        small_disk.leave(kib)


def test_one_part_after_the_other_fits_as_room_is_made(
    trained, tmp_path, monkeypatch, capfd, small_disk
):
    disk = small_disk.leave(16)
    score = ["score", trained.dataset.path.parent / "run", disk / "out", "--top-k", K]
    seen = []
    for _ in range(30):
        code, _ = command_line(capfd, monkeypatch, *score, "--device", "cpu")
        seen.append(len(finished_parts(disk / "out")))
        if code == 0:
            break
        assert code == 1
        with (disk / "ballast").open("r+b") as file:
            file.truncate((disk / "ballast").stat().st_size - 12 * 1024)
    assert code == 0 and seen == sorted(seen) and len(set(seen)) >= 3
    score_top_k(trained, tmp_path / "whole", K)
    assert_same(disk / "out", tmp_path / "whole")


# ---------------------------------------------------------------- the command itself


# The command, in parts of so many users and rows. With so many parts in the folder it waits for a
# file before the next one, so that what is killed there cannot have come to its end before, however
# slow the machine is.
_IN_SMALL_PARTS = """
import os, sys, time
from dglrec.cli import main
from dglrec.score import jobs
from dglrec.score.parts import NOTES_FOLDER, PartsFolder

hold, release, users, rows, *sys.argv[1:] = sys.argv[1:]
jobs._PART_USERS, jobs._PART_ROWS = int(users), int(rows)
write = PartsFolder.write

def holding(self, *arguments):
    notes = self.out / NOTES_FOLDER
    if notes.is_dir() and len(list(notes.glob("[0-9]*.json"))) >= int(hold):
        while not os.path.exists(release):
            time.sleep(0.001)
    return write(self, *arguments)

PartsFolder.write = holding
main()
"""


@pytest.fixture(scope="module")
def larger(tmp_path_factory):
    """Enough parts for many kills."""
    folder = tmp_path_factory.mktemp("larger")
    found = trained_on(folder, 1_500, 150, 12_000)
    users, items = found.dataset.users.ids.to_pylist(), found.dataset.items.ids.to_pylist()
    pairs = [(users[n % len(users)], items[n % len(items)]) for n in range(15_000)]
    frame = pd.DataFrame(pairs, columns=["user_id", "item_id"])
    frame.to_csv(folder / "pairs.csv", index=False)
    return folder


def command(folder, out, what, *more, parts=250, hold=None, release="/never"):
    """The command as `_IN_SMALL_PARTS` takes it.

    Args:
        folder: with the run, and the pairs.
        out: where it scores to.
        what: `lists`, of 1,500 users, or `pairs`, 15,000.
        more: its arguments besides.
        parts: how many it makes.
        hold: with how many parts in the folder it waits; None never does.
        release: the file that it waits for.
    """
    sizes = [str(parts + 1 if hold is None else hold), str(release)]
    sizes += [str(1_500 // parts), str(15_000 // parts)]
    options = ["--pairs", str(folder / "pairs.csv")] if what == "pairs" else ["--top-k", str(K)]
    return [*sizes, "score", str(folder / "run"), str(out), *options, "--device", "cpu", *more]


def forked(arguments):
    def run():
        sys.argv = ["dglrec", *arguments]
        exec(_IN_SMALL_PARTS, {})

    return in_fork(run, wait=False)


def spawned(arguments):
    spoken = [sys.executable, "-c", _IN_SMALL_PARTS, *arguments]
    return os.posix_spawn(sys.executable, spoken, environment())


def code_of(process):
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def killed_again_and_again(start, folder, out, what, parts, kills, seconds, seed):
    """Kill a scoring at random moments after a part came, go on with it; then let it end.

    The moments are spread over all parts: with its share of them done each process waits to be
    killed.

    Returns:
        How many parts were finished at each kill.
    """
    chance, seen = random.Random(seed), []
    while True:
        finished = finished_parts(out)
        before = {name: one for name, one in identities(out).items() if name in finished}
        hold = parts * (len(seen) + 1) // (kills + 1) if len(seen) < kills else None
        process = start(command(folder, out, what, parts=parts, hold=hold))
        if len(seen) == kills:
            assert code_of(process) == 0
        else:
            while finished_parts(out) == finished:
                assert is_running(process)
                time.sleep(0.001)
            time.sleep(chance.uniform(0, seconds))
            os.kill(process, signal.SIGKILL)
            assert code_of(process) == -signal.SIGKILL
            assert not (out / SUCCESS_FILE).exists()
            seen.append(len(finished_parts(out)))
        after = identities(out)
        assert {name: after[name] for name in before} == before  # nothing is done twice
        if (out / SUCCESS_FILE).exists():
            return seen


def assert_all_once(folder, out, what):
    """Every user, in order, once; every pair in its place."""
    table = read_all(out).to_pandas()
    if what == "pairs":
        expected = pd.read_csv(folder / "pairs.csv")
        assert table[["user_id", "item_id"]].equals(expected)
    else:
        dataset = open_run(folder / "run").dataset
        unseen = np.diff(dataset.rated_items().offsets) < dataset.graph.num_items
        users = np.array(dataset.users.ids)[unseen]
        assert table.user_id.drop_duplicates().tolist() == users.tolist()
        assert not table.duplicated(["user_id", "item_id"]).any()
        assert (table.groupby("user_id")["rank"].max() == table.groupby("user_id").size()).all()


def killed_and_compared(start, folder, tmp_path, what, capsys, parts, *how):
    out, whole = (tmp_path / name for name in ("out", "whole"))
    seen = killed_again_and_again(start, folder, out, what, parts, *how)
    with capsys.disabled():
        print(f"\n{len(seen)} kills, with so many of {parts} parts finished: {seen}")
    assert code_of(start(command(folder, whole, what, parts=parts))) == 0
    assert_same(out, whole)
    assert len(json.loads((out / MANIFEST_FILE).read_text())["parts"]) == parts
    assert_all_once(folder, out, what)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["lists", "pairs"])
def test_killed_at_random_moments_it_comes_to_the_same_end(larger, tmp_path, capsys, what):
    killed_and_compared(forked, larger, tmp_path, what, capsys, 250, 3, 0.2, 1)


def wait_for_parts(out, count, *processes):
    while len(finished_parts(out)) < count:
        assert all(map(is_running, processes))
        time.sleep(0.001)


@pytest.mark.slow
def test_two_shards_at_once_and_a_kill_come_to_the_same_end(larger, tmp_path):
    """One of them by the command itself, as it is started from a shell."""
    out = tmp_path / "out"
    release = tmp_path / "release"
    shards = [
        command(larger, out, "lists", "--shard", f"{number}/2", hold=60, release=release)
        for number in range(2)
    ]
    first = spawned(shards[0])
    wait_for_parts(out, 1, first)
    second = forked(shards[1])
    wait_for_parts(out, 60, first, second)
    assert is_running(second)  # both are at it
    os.kill(first, signal.SIGKILL)
    assert code_of(first) == -signal.SIGKILL
    release.touch()
    assert code_of(second) == 0
    assert not (out / SUCCESS_FILE).exists()
    odd = {part_name(number) for number in range(1, 250, 2)}
    assert odd < finished_parts(out)
    before = identities(out)
    assert code_of(forked(shards[0])) == 0
    after = identities(out)
    assert {name: after[name] for name in odd} == {name: before[name] for name in odd}
    assert code_of(forked(command(larger, tmp_path / "whole", "lists"))) == 0
    assert_same(out, tmp_path / "whole")


def test_a_plan_that_comes_while_a_shard_looks_is_no_other_folder(tmp_path, monkeypatch):
    out, original = tmp_path / "out", Path.iterdir
    out.mkdir()

    def iterdir(path):
        (out / PLAN_FILE).write_text("{}")
        return original(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    PartsFolder(out, {}).refuse_other_folder(overwrite=False)


def test_two_shards_started_in_the_same_moment_come_to_the_same_end(larger, tmp_path):
    """Each finds nothing there, or the other's beginning."""
    assert code_of(forked(command(larger, tmp_path / "whole", "lists", parts=10))) == 0
    for turn in range(5):
        out = tmp_path / str(turn)
        shards = [command(larger, out, "lists", "--shard", f"{n}/2", parts=10) for n in range(2)]
        assert [code_of(process) for process in [*map(forked, shards)]] == [0, 0]
        assert_same(out, tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("what", ["lists", "pairs"])
def test_a_command_killed_twenty_times_comes_to_the_same_end(larger, tmp_path, capsys, what):
    killed_and_compared(spawned, larger, tmp_path, what, capsys, 750, 20, 0.1, 2)
