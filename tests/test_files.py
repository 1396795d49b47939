import errno
import hashlib
import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dglrec import files
from dglrec.errors import DataError, DglrecError, UnusableEnvironmentError, UsageError
from dglrec.files import (
    TEMPORARY,
    atomic_file,
    atomic_folder,
    check_target_folder,
    disk_errors,
    read_errors,
    read_json,
    sha256_of,
    write_json,
)

MARKER = "dataset.json"


def tree(folder: Path) -> dict[str, str]:
    """Every file below a folder with its text, temporary ones included."""
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def make_folder(path: Path, text: str = "old") -> Path:
    path.mkdir(parents=True)
    (path / MARKER).write_text(text)
    return path


# What cannot be read or made


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (PermissionError(13, "Permission denied"), DataError, "x: no permission to read it"),
        (FileNotFoundError(2, "No such file"), DataError, "x: no such file"),
        (NotADirectoryError(20, "Not a directory"), DataError, "x: no such file"),
        (IsADirectoryError(21, "Is a directory"), DataError, "x: is a folder where a file"),
        (OSError(5, "Input/output error"), DataError, "x: cannot be read .Input/output error"),
        (OSError("torn"), DataError, "x: cannot be read .torn"),
        (OSError(12, "Cannot allocate memory"), UnusableEnvironmentError, "x: cannot be read now"),
        (OSError(24, "Too many open files"), UnusableEnvironmentError, "x: cannot be read now"),
        (MemoryError(), UnusableEnvironmentError, "x: out of memory while it was read"),
    ],
)
def test_a_file_that_cannot_be_read_is_not_called_damaged(
    error: Exception, kind: type[DglrecError], message: str
) -> None:
    with pytest.raises(kind, match=message) as raised, read_errors(Path("x")):
        raise error
    assert "damaged" not in str(raised.value)


def test_a_target_below_a_file_and_a_name_too_long_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place, what in (("file/a/b", "file is a file; choose"), ("x" * 256, "name too long")):
        with pytest.raises(UsageError, match=what):
            check_target_folder(tmp_path / place, marker=MARKER, overwrite=True)
    check_target_folder(tmp_path / "new" / "folder", marker=MARKER, overwrite=False)


# One file


def test_file_appears_whole_and_only_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "x.txt"
    with atomic_file(target) as temporary:
        temporary.write_text("new")
        assert temporary.parent == target.parent  # a rename across file systems is not atomic
        assert not target.exists()
    assert tree(tmp_path) == {"x.txt": "new"}


@pytest.mark.parametrize("error", [RuntimeError("x"), KeyboardInterrupt(), DataError("x")])
@pytest.mark.parametrize("existing", [True, False])
def test_file_is_untouched_when_the_block_raises(
    tmp_path: Path, error: BaseException, existing: bool
) -> None:
    target = tmp_path / "x.txt"
    if existing:
        target.write_text("old")
    before = tree(tmp_path)
    with pytest.raises(type(error)) as raised, atomic_file(target) as temporary:
        temporary.write_text("half")
        raise error
    assert raised.value is error
    assert tree(tmp_path) == before


def test_file_that_the_block_did_not_write_leaves_the_target(tmp_path: Path) -> None:
    target = tmp_path / "x.txt"
    target.write_text("old")
    with pytest.raises(FileNotFoundError), atomic_file(target):
        pass
    assert tree(tmp_path) == {"x.txt": "old"}


def test_file_is_flushed_before_it_takes_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rename that reaches the disk before the contents leaves an empty file after a crash."""
    happened = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor: int) -> None:
        happened.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def noted_replace(source: Any, target: Any) -> None:
        happened.append("rename")
        replace(source, target)

    monkeypatch.setattr(files.os, "fsync", noted_fsync)
    monkeypatch.setattr(files.os, "replace", noted_replace)
    write_json(tmp_path / "x.json", {})
    assert happened == ["file", "rename", "folder"]


# One folder


def test_folder_appears_whole_and_only_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "data"  # parents are made
    with atomic_folder(target, marker=MARKER) as temporary:
        (temporary / MARKER).write_text("new")
        (temporary / "sub").mkdir()
        (temporary / "sub" / "a.npy").write_text("a")
        assert not target.exists()
    assert tree(tmp_path) == {"deep/data/dataset.json": "new", "deep/data/sub/a.npy": "a"}


@pytest.mark.parametrize("error", [RuntimeError("x"), KeyboardInterrupt(), DataError("x")])
@pytest.mark.parametrize("existing", [True, False])
def test_folder_is_untouched_when_the_block_raises(
    tmp_path: Path, error: BaseException, existing: bool
) -> None:
    target = tmp_path / "data"
    if existing:
        make_folder(target)
    before = tree(tmp_path)
    with (
        pytest.raises(type(error)) as raised,
        atomic_folder(target, marker=MARKER, overwrite=True) as temporary,
    ):
        (temporary / MARKER).write_text("half")
        raise error
    assert raised.value is error
    assert tree(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == (["data"] if existing else [])


def test_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    target = make_folder(tmp_path / "data")
    (target / "left over").write_text("old")
    with atomic_folder(target, marker=MARKER, overwrite=True) as temporary:
        (temporary / MARKER).write_text("new")
        assert (target / MARKER).read_text() == "old"
    assert tree(tmp_path) == {"data/dataset.json": "new"}
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("exchange", [True, False])
def test_the_old_folder_may_be_kept_under_another_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    if not exchange:
        monkeypatch.setattr(files, "_exchange", lambda *names: False)
    target, aside = make_folder(tmp_path / "data"), tmp_path / "before"
    with atomic_folder(target, marker=MARKER, overwrite=True, aside=aside) as temporary:
        (temporary / MARKER).write_text("new")
    assert tree(tmp_path) == {"data/dataset.json": "new", "before/dataset.json": "old"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["before", "data"]


def test_two_names_are_exchanged_at_once(tmp_path: Path) -> None:
    """At no moment is there nothing under the target's name, for whoever looks."""
    one, other = make_folder(tmp_path / "one"), make_folder(tmp_path / "other")
    (other / MARKER).write_text("new")
    if not files._exchange(other, one):
        pytest.skip("this file system exchanges no names")
    assert (one / MARKER).read_text() == "new" and (other / MARKER).read_text() == "old"
    assert not files._exchange(tmp_path / "none", one)
    assert (one / MARKER).read_text() == "new"


def test_sweeping_takes_what_was_left_half_written_and_nothing_else(tmp_path: Path) -> None:
    kept = {"data/dataset.json": "old", ".hidden": "mine", "dglrec-tmp-1": "mine"}
    make_folder(tmp_path / "data")
    for name in (".hidden", "dglrec-tmp-1"):
        (tmp_path / name).write_text("mine")
    (tmp_path / ".dglrec-tmp-17-x.json").write_text("half")
    make_folder(tmp_path / ".dglrec-tmp-abc")
    (tmp_path / ".dglrec-tmp-link").symlink_to(tmp_path / "data")
    files.sweep(tmp_path)
    assert tree(tmp_path) == kept
    assert not (tmp_path / ".dglrec-tmp-link").is_symlink()
    files.sweep(tmp_path / "none")


def test_old_folder_comes_back_when_the_last_rename_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = make_folder(tmp_path / "data")
    rename = os.rename
    calls = []

    def failing_rename(source: Path, destination: Path) -> None:
        calls.append(destination)
        if len(calls) == 2:  # the old one is aside, the new one not yet in place
            raise OSError(errno.EIO, "Input/output error")
        rename(source, destination)

    monkeypatch.setattr(files, "_exchange", lambda *names: False)
    monkeypatch.setattr(files.os, "rename", failing_rename)
    with (
        pytest.raises(OSError, match="Input/output"),
        atomic_folder(target, marker=MARKER, overwrite=True) as temporary,
    ):
        (temporary / MARKER).write_text("new")
    assert tree(tmp_path) == {"data/dataset.json": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_an_empty_folder_may_be_filled(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with atomic_folder(tmp_path / "data", marker=MARKER) as temporary:
        (temporary / MARKER).write_text("new")
    assert tree(tmp_path) == {"data/dataset.json": "new"}


def test_a_link_to_a_folder_is_followed(tmp_path: Path) -> None:
    """People keep big folders on another disk, with a link to them."""
    real = make_folder(tmp_path / "big disk" / "data")
    link = tmp_path / "data"
    link.symlink_to(real)
    with atomic_folder(link, marker=MARKER, overwrite=True) as temporary:
        (temporary / MARKER).write_text("new")
    assert link.is_symlink()
    assert (link / MARKER).read_text() == "new"
    assert [path.name for path in real.parent.iterdir()] == ["data"]


def test_the_current_folder_may_be_the_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path / "data")
    with atomic_folder(Path(), marker=MARKER) as temporary:
        (temporary / MARKER).write_text("new")
    assert tree(tmp_path) == {"data/dataset.json": "new"}


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_folder_has_the_permissions_that_the_umask_gives(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with atomic_folder(tmp_path / "data", marker=MARKER) as temporary:
            (temporary / MARKER).touch()
        assert os.umask(umask) == umask  # reading it did not change it
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o777 & ~umask


def test_a_killed_process_leaves_the_old_folder(tmp_path: Path) -> None:
    target = make_folder(tmp_path / "data")
    code = (
        "import os, signal, sys; from pathlib import Path; from dglrec.files import atomic_folder\n"
        "with atomic_folder(Path(sys.argv[1]), marker='dataset.json', overwrite=True) as t:\n"
        "    (t / 'dataset.json').write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    result = subprocess.run([sys.executable, "-c", code, str(target)], cwd=files_root())
    assert result.returncode == -signal.SIGKILL
    assert tree(target) == {MARKER: "old"}


def files_root() -> Path:
    return Path(files.__file__).parent.parent


# Which folders may be replaced


@pytest.mark.parametrize("overwrite", [True, False])
def test_no_folder_or_an_empty_one_is_free(tmp_path: Path, overwrite: bool) -> None:
    check_target_folder(tmp_path / "none", marker=MARKER, overwrite=overwrite)
    check_target_folder(tmp_path, marker=MARKER, overwrite=overwrite)


def test_an_existing_folder_is_refused_without_overwrite(tmp_path: Path) -> None:
    target = make_folder(tmp_path / "data")
    with pytest.raises(UsageError, match="--overwrite") as raised:
        check_target_folder(target, marker=MARKER, overwrite=False)
    assert str(target) in str(raised.value)
    assert raised.value.exit_code == 2
    check_target_folder(target, marker=MARKER, overwrite=True)


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_somebody_elses_files_are_refused_even_with_overwrite(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "thesis"
    if kind == "folder":
        target.mkdir()
        (target / "thesis.tex").write_text("years of work")
    else:
        target.write_text("years of work")
    before = tree(tmp_path)
    for overwrite, message in ((True, f"holds no {MARKER}"), (False, "exists")):
        with (
            pytest.raises(UsageError, match=message),
            atomic_folder(target, marker=MARKER, overwrite=overwrite),
        ):
            pytest.fail("the block must not run")
        assert tree(tmp_path) == before


# Disks that are full, closed or broken


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_names_the_target_and_the_mend(tmp_path: Path, code: int) -> None:
    target = tmp_path / "x.txt"
    target.write_text("old")
    with pytest.raises(DglrecError) as raised, atomic_file(target) as temporary:
        temporary.write_text("half")
        raise OSError(code, os.strerror(code))
    assert type(raised.value) is DglrecError
    assert raised.value.exit_code == 1
    what = "no space left on the disk; free some"
    if code == errno.EFBIG:
        what = "a file in it may not be so large; raise the limit (ulimit -f)"
    assert str(raised.value) == f"{target}: {what}, or write elsewhere"
    assert tree(tmp_path) == {"x.txt": "old"}


def test_a_disk_found_full_only_when_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """File systems that allocate late accept the write and refuse the flush."""

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    make_folder(tmp_path / "data")
    with pytest.raises(DglrecError, match="no space left"):
        write_json(tmp_path / "x.json", {})
    with (
        pytest.raises(DglrecError, match="no space left"),
        atomic_folder(tmp_path / "data", marker=MARKER, overwrite=True) as temporary,
    ):
        (temporary / MARKER).write_text("new")
    assert tree(tmp_path) == {"data/dataset.json": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from dglrec.errors import DglrecError
from dglrec.files import atomic_file, atomic_folder
disk = Path(sys.argv[1])
(disk / "old.bin").write_bytes(b"old")
try:
    with atomic_file(disk / "old.bin") as temporary:
        temporary.write_bytes(bytes(1 << 20))
except DglrecError as error:
    print(error)
try:
    with atomic_folder(disk / "data", marker="m") as temporary:
        (temporary / "m").write_bytes(bytes(1 << 20))
except DglrecError as error:
    print(error)
print(sorted(path.name for path in disk.iterdir()), (disk / "old.bin").read_bytes())
"""
    # A file system of 64 KiB in a mount namespace of its own, which ends with the process.
    mount = 'mount -t tmpfs -o size=64k tmpfs "$1" || exit 77; shift; exec "$@"'
    if shutil.which("unshare") is None:
        pytest.skip("no unshare here to mount a small file system with")
    result = subprocess.run(
        ["unshare", "-rm", "sh", "-c", mount, "sh", tmp_path, sys.executable, "-c", code, tmp_path],
        cwd=files_root(),
        capture_output=True,
        text=True,
    )
    if result.returncode != 0 and ("unshare" in result.stderr or result.returncode == 77):
        pytest.skip(f"no small file system may be mounted here: {result.stderr.strip()}")
    assert result.stdout.splitlines() == [
        f"{tmp_path}/old.bin: no space left on the disk; free some, or write elsewhere",
        f"{tmp_path}/data: no space left on the disk; free some, or write elsewhere",
        "['old.bin'] b'old'",
    ], result.stderr


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.EROFS])
@pytest.mark.parametrize("place", [None, ".", "x.txt", "x.txt/part", ".dglrec-tmp-1-x.txt"])
def test_a_closed_folder_is_named(tmp_path: Path, code: int, place: str | None) -> None:
    target = tmp_path / "x.txt"
    filename = () if place is None else (str(tmp_path / place),)
    with pytest.raises(DglrecError, match="cannot be written") as raised, disk_errors(target):
        raise OSError(code, os.strerror(code), *filename)
    assert str(target) in str(raised.value)
    assert os.strerror(code) in str(raised.value)


def test_an_input_that_cannot_be_read_is_not_blamed_on_the_target(tmp_path: Path) -> None:
    source = tmp_path / "ratings.csv"
    target = tmp_path / "data"
    with pytest.raises(PermissionError) as raised, atomic_folder(target, marker=MARKER):
        raise PermissionError(errno.EACCES, "Permission denied", str(source))
    assert raised.value.filename == str(source)


def test_other_faults_pass_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(OSError) as raised, disk_errors(tmp_path):
        raise OSError(errno.EIO, "Input/output error")
    assert raised.value.errno == errno.EIO


# JSON

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    max_leaves=10,
)


@settings(max_examples=25, deadline=None)  # each example waits for the disk
@given(value=st.dictionaries(st.text(st.characters(codec="utf-8")), json_values))
def test_json_comes_back_as_it_went(
    tmp_path_factory: pytest.TempPathFactory, value: dict[str, Any]
) -> None:
    folder = tmp_path_factory.getbasetemp()
    write_json(folder / "x.json", value)
    assert read_json(folder / "x.json") == value


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}])
def test_json_that_others_could_not_read_is_not_written(tmp_path: Path, value: Any) -> None:
    write_json(tmp_path / "x.json", {"a": 1})
    with pytest.raises((ValueError, TypeError)):
        write_json(tmp_path / "x.json", {"a": value})
    assert read_json(tmp_path / "x.json") == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not readable as JSON"),
        (b'{"a": 1', "not readable as JSON"),
        (b"\xff\xfe\x00", "not readable as JSON"),
        (b"[" * 200_000, "not readable as JSON"),
        (b"[1, 2]", "holds no JSON object"),
        (b"null", "holds no JSON object"),
    ],
)
def test_bad_json_names_the_file(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "dataset.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as raised:
        read_json(path)
    assert str(path) in str(raised.value)
    assert raised.value.exit_code == 3


def test_missing_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.json: no such file"):
        read_json(tmp_path / "none.json")


# Checksums


@pytest.mark.parametrize("size", [0, 3, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_checksum_is_that_of_all_bytes(tmp_path: Path, size: int) -> None:
    content = bytes(range(251)) * (size // 251 + 1)
    (tmp_path / "x").write_bytes(content[:size])
    assert sha256_of(tmp_path / "x") == hashlib.sha256(content[:size]).hexdigest()


def test_checksum_known_answer(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256_of(tmp_path / "x") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


# --- one writer ----------------------------------------------------------------------------------


def left_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(TEMPORARY)]


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_second_writer_of_a_folder_is_refused_before_it_begins(
    tmp_path: Path, overwrite: bool
) -> None:
    target = tmp_path / "data"
    with atomic_folder(target, marker="m", overwrite=overwrite) as first:
        (first / "m").write_text("first")
        with (
            pytest.raises(UsageError, match="another process is writing it"),
            atomic_folder(target, marker="m", overwrite=overwrite),
        ):
            pass
        with atomic_folder(tmp_path / "other", marker="m") as other:
            (other / "m").write_text("other")
    assert tree(tmp_path) == {"data/m": "first", "other/m": "other"}
    assert left_in(tmp_path) == []


def test_a_folder_within_one_that_is_being_made(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "data", marker="m") as outer:
        (outer / "m").write_text("outer")
        with atomic_folder(outer / "part", marker="m") as inner:
            (inner / "m").write_text("inner")
    assert tree(tmp_path) == {"data/m": "outer", "data/part/m": "inner"}


def test_a_folder_that_appeared_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    target = tmp_path / "data"
    with (
        pytest.raises(UsageError, match="exists; choose another name"),
        atomic_folder(target, marker="m") as temporary,
    ):
        (temporary / "m").write_text("late")
        target.mkdir()
        (target / "m").write_text("early")
    assert tree(tmp_path) == {"data/m": "early"}
    assert left_in(tmp_path) == []


_KILLED_WRITER = """
import os, signal, sys
from pathlib import Path
from dglrec.files import atomic_folder
with atomic_folder(Path(sys.argv[1]), marker="m", overwrite=True) as temporary:
    (temporary / "m").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_writer_left_goes_with_the_next_one(tmp_path: Path) -> None:
    target = tmp_path / ("x" * 240)
    command = [sys.executable, "-c", _KILLED_WRITER, str(target)]
    killed = subprocess.run(command, cwd=Path(__file__).resolve().parent.parent)
    assert killed.returncode == -signal.SIGKILL
    assert len(left_in(tmp_path)) == 1
    with atomic_folder(tmp_path / "another", marker="m") as temporary:
        (temporary / "m").write_text("another")
    assert len(left_in(tmp_path)) == 1
    with atomic_folder(target, marker="m") as temporary:
        (temporary / "m").write_text("whole")
    assert left_in(tmp_path) == []
    assert (target / "m").read_text() == "whole"


def test_a_signal_as_the_temporary_folder_is_made_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, calls = files.fcntl.flock, []

    def interrupted(descriptor: int, operation: int) -> None:
        calls.append(operation)
        if len(calls) == 2:  # of the new folder; the first is of the one around it
            raise KeyboardInterrupt
        lock(descriptor, operation)

    monkeypatch.setattr(files.fcntl, "flock", interrupted)
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "data", marker=MARKER):
        pass
    assert len(calls) == 2 and not list(tmp_path.iterdir())


def test_a_folder_moved_aside_by_a_killed_writer_comes_back(tmp_path: Path) -> None:
    target = tmp_path / "data"
    aside = tmp_path / f"{TEMPORARY}old-123-data"
    aside.mkdir()
    (aside / "m").write_text("old")
    with pytest.raises(UsageError, match="exists"), atomic_folder(target, marker="m"):
        pass
    assert tree(tmp_path) == {"data/m": "old"}


def test_without_locks_nothing_of_others_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*arguments: Any) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(files.fcntl, "flock", no_locks)
    with (
        pytest.raises(UsageError, match="exists; choose another name"),
        atomic_folder(tmp_path / "data", marker="m") as first,
        atomic_folder(tmp_path / "data", marker="m") as second,
    ):
        (first / "m").write_text("first")
        (second / "m").write_text("second")
    assert tree(tmp_path) == {"data/m": "second"}
