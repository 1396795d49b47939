"""Places here and in stores: what they are called, what they hold, and what they never say."""

import contextlib
import glob
import itertools
import os
import threading
import time
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pyarrow.fs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stores import clear_memory

from dglrec import places
from dglrec.errors import (
    DataError,
    DglrecError,
    UnreadableError,
    UnusableEnvironmentError,
    UsageError,
)
from dglrec.files import atomic_file, atomic_folder, check_target_folder, sha256_of, write_json
from dglrec.places import TEMPORARY, RemotePath, contents, local_path, place_of, store_errors
from dglrec.places import stores as stores_module
from dglrec.places.globs import matches


@pytest.fixture
def memory():
    """A store within the process; what a file is called there appears before it is whole."""
    clear_memory()
    yield place_of("memory://bucket/folder")
    clear_memory()


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://bucket/a/b.csv", "s3://bucket/a/b.csv"),
        ("S3://bucket/a/", "s3://bucket/a"),
        ("s3://key:secret@bucket/a", "s3://bucket/a"),
        ("s3://bucket/a?endpoint_override=127.0.0.1:5000&scheme=http", "s3://bucket/a"),
        ("s3://bucket/part-?.csv", "s3://bucket/part-?.csv"),
        ("s3://bucket/part-?.csv?region=eu-west-1", "s3://bucket/part-?.csv"),
        ("gs://bucket", "gs://bucket"),
        ("https://host/a.csv?X-Amz-Signature=abc&b=/c", "https://host/a.csv"),
        ("abfs://container@account.dfs.core.windows.net/a", None),
        ("hdfs://name:8020/a", "hdfs://name:8020/a"),
    ],
)
def test_what_a_uri_is_called(text, shown):
    place = place_of(text)
    assert isinstance(place, RemotePath)
    assert str(place) == (text if shown is None else shown)
    assert (place / "x.parquet").name == "x.parquet"
    assert str(place / "x" / "y.csv.gz") == f"{place}/x/y.csv.gz"
    assert (place / "y.csv.gz").suffix == ".gz"


def test_what_a_path_is_called():
    assert place_of("a/b.csv") == Path("a/b.csv")
    assert place_of("file:///a/b%20c.csv") == Path("/a/b c.csv")
    assert place_of("file://localhost/a/part-?.csv") == Path("/a/part-?.csv")
    assert place_of(Path("a")) == Path("a")
    for text in ("file://other/a", "file://", "s3://", "s3:///a", "gs:///a"):
        with pytest.raises(UsageError):
            place_of(text)
    assert local_path("file:///a") == Path("/a")
    with pytest.raises(UsageError, match="s3://b/a: is in a store; give a path of this machine"):
        local_path("s3://key:secret@b/a")


_WORDS = st.text("abcdefghij0123456789+/=", min_size=6, max_size=20)


@given(key=_WORDS, secret=_WORDS, query=_WORDS)
def test_no_secret_is_shown(key, secret, query):
    key, secret, query = f"K{key}K", f"S{secret}S", f"Q{query}Q"
    encoded = secret.replace("/", "%2F")
    for text in (
        f"s3://{key.replace('/', '%2F')}:{encoded}@bucket/a.csv",
        f"https://{encoded}:{encoded}@host/a.csv?token={query}",
        f"sftp://{encoded}@host/a.csv?token={query}",
    ):
        place = place_of(text)
        told = [str(place), repr(place), repr(place.store.uri), repr(place / "b"), f"{place}"]
        for raised in (OSError(f"no way to {text} for {secret}"), ValueError(text)):
            try:
                with store_errors(place):
                    raise raised
            except DglrecError as error:
                told += [str(error), "".join(traceback.format_exception(error))]
        for one in told:
            assert secret not in one and encoded not in one and query not in one


# --- patterns ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pattern",
    ["*.csv", "a/*", "**/*.csv", "*/b?.csv", "a/**", "year=*/*.csv", "a/b[12].csv", "x*", "**"],
)
def test_patterns_meet_what_glob_meets(tmp_path, pattern):
    for name in ("a/b1.csv", "a/b2.csv", "a/c/b1.csv", "b1.csv", "year=1/d.csv", "a/e.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    wanted = set()
    for met in glob.glob(pattern, root_dir=tmp_path, recursive=True):  # noqa: PTH207 - the model
        found = tmp_path / met
        below = [found] if found.is_file() else found.rglob("*")
        wanted |= {path.relative_to(tmp_path).as_posix() for path in below if path.is_file()}
    files = {path for path, is_file in contents(tmp_path) if is_file}
    assert {path for path in files if matches(pattern, path)} == wanted


def test_a_link_that_goes_round_is_refused(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").symlink_to(tmp_path)
    with pytest.raises(DataError, match="a link to a folder that it lies in"):
        contents(tmp_path)


# --- what a store holds --------------------------------------------------------------------------


def test_a_store_is_read_and_written_like_a_folder(memory, tmp_path):
    file = tmp_path / "a.bin"
    file.write_bytes(bytes(range(256)) * 100)
    assert not memory.exists() and not memory.is_dir() and list(memory.iterdir()) == []
    (memory / "a.bin").put(file)
    (memory / "b" / "c.json").put(file)
    write_json(memory / "b" / "d.json", {"x": 1})
    assert (memory / "a.bin").read_bytes() == file.read_bytes()
    assert (memory / "a.bin").stat().st_size == 25_600
    assert sha256_of(memory / "a.bin") == sha256_of(file)
    assert memory.is_dir() and not memory.is_file() and (memory / "a.bin").is_file()
    assert [path.name for path in memory.iterdir()] == ["a.bin", "b"]
    assert contents(memory) == [
        ("a.bin", True),
        ("b", False),
        ("b/c.json", True),
        ("b/d.json", True),
    ]
    assert [str(path) for path in (memory / "b").glob("d*")] == [f"{memory}/b/d.json"]
    assert [path.name for path in memory.rglob("*.json")] == ["c.json", "d.json"]
    (memory / "a.bin").unlink()
    (memory / "a.bin").unlink(missing_ok=True)
    for broken in ((memory / "a.bin").unlink, (memory / "a.bin").read_bytes):
        with pytest.raises(DglrecError, match=r"memory://bucket/folder/a\.bin: "):
            broken()
    with pytest.raises(DataError, match="no such file"):
        (memory / "a.bin").stat()


class _Torn:
    """A file system on which writing breaks off in the middle."""

    def __init__(self, filesystem):
        self._filesystem = filesystem

    def __getattr__(self, name):
        return getattr(self._filesystem, name)

    def open_output_stream(self, path, **options):
        stream = self._filesystem.open_output_stream(path, **options)
        stream.write(b"half")
        stream.close()
        raise OSError("the line was cut")


@pytest.fixture
def disk(tmp_path, monkeypatch):
    """A store whose files can be looked at, behind one's back."""
    root = tmp_path / "store"
    root.mkdir()
    filesystem = pyarrow.fs.LocalFileSystem()
    monkeypatch.setattr(stores_module, "open_filesystem", lambda uri: (filesystem, str(root)))
    return place_of("sftp://host/folder"), root


def test_what_is_half_written_has_another_name(disk, monkeypatch):
    place, root = disk
    write_json(place / "a.json", {"x": 1})
    before = (root / "a.json").read_bytes()
    torn = _Torn(pyarrow.fs.LocalFileSystem())
    monkeypatch.setattr(stores_module, "open_filesystem", lambda uri: (torn, str(root)))
    cut = place_of("sftp://host/folder")
    with pytest.raises(DglrecError, match=r"a\.json: cannot be written \(.*the line was cut"):
        write_json(cut / "a.json", {"x": 2})
    assert (root / "a.json").read_bytes() == before
    assert all(path.name == "a.json" or path.name.startswith(TEMPORARY) for path in root.iterdir())


def test_a_block_that_raises_writes_nothing(disk):
    place, root = disk
    with pytest.raises(ValueError), atomic_file(place / "a") as temporary:
        temporary.write_text("x")
        raise ValueError
    assert list(root.iterdir()) == []


def test_a_folder_in_a_store_is_whole_where_its_marker_is(disk, monkeypatch):
    place, root = disk

    def write(value, **options):
        with atomic_folder(place, marker="m.json", **options) as folder:
            for name in ("a", "b", "m.json", *value):
                (folder / name).write_text(f"{name} {value or 'none'}")

    names = ["a", "b", "m.json"]
    write("c")
    assert sorted(path.name for path in root.iterdir()) == ["a", "b", "c", "m.json"]
    with pytest.raises(UsageError, match="exists; choose another name, or replace"):
        write("d")
    write("", overwrite=True)
    assert sorted(path.name for path in root.iterdir()) == names
    # Cut off at any write, it is never taken for whole, and the next one needs no --overwrite.
    put = RemotePath.put
    for count in itertools.count(1):
        left = count

        def putting(self, file):
            nonlocal left
            left -= 1
            if not left:
                raise KeyboardInterrupt
            put(self, file)

        with monkeypatch.context() as patch:
            patch.setattr(RemotePath, "put", putting)
            with contextlib.suppress(KeyboardInterrupt):
                write("e", overwrite=True)
        if left > 0:
            break
        if not (root / "m.json").exists():
            write("f")
        contents_now = {path.name: path.read_text() for path in root.iterdir()}
        assert len({text.split()[-1] for name, text in contents_now.items() if text}) == 1
    assert count == 6  # what says that it is begun, and four files


def test_a_folder_of_others_is_not_replaced(disk):
    place, root = disk
    (root / "x").write_text("mine")
    with pytest.raises(UsageError, match=r"holds no m\.json, so --overwrite will not replace it"):
        check_target_folder(place, marker="m.json", overwrite=True)


# --- faults --------------------------------------------------------------------------------------

_S3 = "When reading information for key 'a.csv' in bucket 'b': AWS Error "


@pytest.mark.parametrize(
    ("raised", "kind", "message"),
    [
        (
            OSError(f"{_S3}NO_SUCH_BUCKET during X operation: none"),
            DataError,
            "no such bucket",
        ),
        (FileNotFoundError(2, "no"), DataError, "no such file"),
        (IsADirectoryError(21, "no"), DataError, "is a folder where a file was expected"),
        (
            OSError(f"{_S3}ACCESS_DENIED during HeadObject operation: No response body."),
            UnreadableError,
            "access denied; credentials come from AWS_ACCESS_KEY_ID",
        ),
        (
            OSError(f"{_S3}UNKNOWN (HTTP status 403) during HeadObject operation: No response."),
            UnreadableError,
            "access denied; credentials come from",
        ),
        (
            OSError(f"{_S3}SIGNATURE_DOES_NOT_MATCH during GetObject operation: no"),
            UnreadableError,
            r"the store refuses the credentials \(SIGNATURE_DOES_NOT_MATCH\); credentials come",
        ),
        (
            OSError(f"{_S3}NETWORK_CONNECTION during HeadObject operation: curlCode: 7, no"),
            UnreadableError,
            "the store cannot be reached .*curlCode: 7",
        ),
        (ConnectionRefusedError(111, "no"), UnreadableError, "the store cannot be reached"),
        (
            OSError("google::cloud::Status(UNAVAILABLE: Could not create a OAuth2 access token"),
            UnreadableError,
            r"no credentials that the store takes \(OAuth2 access token\)",
        ),
        (RuntimeError("what\nis this"), UnreadableError, r"cannot be read \(what is this\)"),
        (ImportError("Install x"), UnusableEnvironmentError, "needs another package .Install x"),
        (MemoryError(), UnusableEnvironmentError, "out of memory"),
    ],
)
def test_what_stores_raise_is_said(raised, kind, message):
    place = place_of("s3://b/a.csv")
    with pytest.raises(kind, match=f"^s3://b/a.csv: {message}") as error, store_errors(place):
        raise raised
    assert type(error.value) is kind
    if kind is not UnusableEnvironmentError:
        with (
            pytest.raises(DglrecError, match="cannot be written") as error,
            store_errors(place, writing=True),
        ):
            raise raised
        assert error.value.exit_code == 1


def test_of_a_path_nothing_is_changed():
    with pytest.raises(KeyError), store_errors(Path("a")):
        raise KeyError


@pytest.mark.parametrize(
    ("uri", "kind", "message"),
    [
        ("s3://b/a?reigon=x", UsageError, "no option reigon; there are endpoint_override, scheme"),
        ("gs://b/a?region=x", UsageError, "no option region; there are endpoint_override, scheme"),
        ("nonsense://b/a", UsageError, "no file system is known for nonsense://"),
        ("adl://b/a", UnusableEnvironmentError, "needs another package"),
    ],
)
def test_a_store_that_cannot_be_opened(uri, kind, message):
    with pytest.raises(kind, match=message):
        place_of(uri).exists()


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_a_store_that_nobody_answers_for_is_given_up(monkeypatch, scheme):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setattr(stores_module, "_GCS_SECONDS", 1)
    place = place_of(
        f"{scheme}://b/a?endpoint_override=127.0.0.1:9&scheme=http"
        + ("&anonymous=true" if scheme == "gs" else "")
    )
    started = time.monotonic()
    with pytest.raises(UnreadableError, match=f"^{scheme}://b/a: "):
        place.exists()
    assert time.monotonic() - started < 10


class _Refusing(BaseHTTPRequestHandler):
    """A store that lets nobody in."""

    asked: ClassVar[list[str]] = []

    def do_GET(self):
        self.asked.append(self.headers.get("Authorization", ""))
        self.send_response(403)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_PUT = do_POST = do_GET  # noqa: N815

    def log_message(self, *_):
        pass


@pytest.mark.parametrize("keys", [True, False])
def test_a_store_that_refuses_is_said_to(monkeypatch, tmp_path, keys):
    """With keys and without any; then nothing is signed, and nothing waited for."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    if keys:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI")
    _Refusing.asked.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), _Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        place = place_of(f"s3://b/a?endpoint_override=127.0.0.1:{server.server_port}&scheme=http")
        started = time.monotonic()
        denied = "access denied; credentials come from AWS_ACCESS_KEY_ID and"
        with pytest.raises(UnreadableError, match=f"^s3://b/a: {denied}"):
            place.exists()
        with pytest.raises(UnreadableError, match=f"^s3://b/a: {denied}"):
            place.read_bytes()
        with pytest.raises(
            DglrecError, match=rf"^s3://b/a/c: cannot be written \({denied}"
        ) as error:
            write_json(place / "c", {})
        assert time.monotonic() - started < 10
        server.shutdown()
    assert error.value.exit_code == 1
    assert all(bool(one) == keys for one in _Refusing.asked) and _Refusing.asked


def test_the_endpoint_of_aws_tools_counts(monkeypatch):
    asked = {}
    monkeypatch.setattr(pyarrow.fs, "S3FileSystem", lambda **options: asked.update(options))
    open_ = stores_module._open_s3
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:5000/")
    open_(place_of("s3://b/a").store.uri)
    assert (asked["endpoint_override"], asked["scheme"]) == ("127.0.0.1:5000", "http")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://other")
    open_(place_of("s3://b/a").store.uri)
    assert (asked["endpoint_override"], asked["scheme"]) == ("other", "https")
    open_(place_of("s3://b/a?endpoint_override=third:9&scheme=http").store.uri)
    assert (asked["endpoint_override"], asked["scheme"]) == ("third:9", "http")
    assert asked["connect_timeout"] <= 10 and asked["request_timeout"] <= 60
    asked.clear()
    monkeypatch.setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")
    open_(place_of("s3://key:se%2Fcret@b/a?region=x&anonymous=false").store.uri)
    assert "endpoint_override" not in asked
    assert (asked["access_key"], asked["secret_key"], asked["region"]) == ("key", "se/cret", "x")
    assert asked["anonymous"] is False


def test_everything_is_public():
    assert all(hasattr(places, name) for name in places.__all__)
