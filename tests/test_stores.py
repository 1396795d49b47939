"""Data sets from a store, scores and exports into it: the same as here, whatever comes between."""

import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.fs
import pytest
from runs import make_settings, planted
from stores import clear_memory, copied
from test_ingest_parts import arrays_of, in_parts
from test_score import files_of, in_small_parts

from dglrec import cli
from dglrec.dataset import PrepareOptions, prepare
from dglrec.errors import DataError, DglrecError, UnreadableError, UsageError
from dglrec.export import export
from dglrec.files import TEMPORARY
from dglrec.places import RemotePath, contents, place_of
from dglrec.run import open_run
from dglrec.score import ScoreOptions, TopKOptions, score_pairs, score_top_k
from dglrec.train import train
from dglrec.verify import verify

K, PARTS = 4, 4


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """60 users: four parts of 15."""
    folder = tmp_path_factory.mktemp("trained")
    train(planted(folder, 60, 30, 900), folder / "run", make_settings(epochs=1))
    found = open_run(folder / "run")
    found.embeddings  # noqa: B018 - so that it is made once
    return found


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    in_small_parts(monkeypatch, users=15, rows=75)


@pytest.fixture
def whole(trained, tmp_path_factory):
    """The folder of an undisturbed run, here."""
    out = tmp_path_factory.mktemp("whole") / "out"
    score_top_k(trained, out, K)
    return out


@pytest.fixture
def memory():
    clear_memory()
    yield place_of("memory://lake/scores")
    clear_memory()


def held(place):
    """What all files of a store hold, by name."""
    return {name: (place / name).read_bytes() for name, is_file in contents(place) if is_file}


# --- a store within the process ------------------------------------------------------------------


def test_scores_in_a_store_are_those_of_a_folder(trained, whole, memory):
    first = score_top_k(trained, memory, K)
    assert (first["out"], first["parts"], first["kept"]) == ("memory://lake/scores", PARTS, 0)
    assert held(memory) == files_of(whole)
    again = score_top_k(trained, memory, K)
    assert (again["kept"], again["complete"]) == (PARTS, True)
    assert held(memory) == files_of(whole)
    assert [(check.level, check.name) for check in verify(memory)] == [("ok", "scores")]


@pytest.mark.parametrize("half", [False, True])
def test_cut_off_at_any_write_scores_go_on(trained, whole, memory, monkeypatch, half):
    """No name is there before its file is whole, and the rest is made as if nothing had been."""
    upload, wanted = RemotePath._upload, files_of(whole)
    for count in itertools.count(1):
        left = count

        def uploading(self, file):
            nonlocal left
            left -= 1
            if not left:
                if half:
                    (self.with_name(f"{TEMPORARY}x")).put(file)
                raise OSError("the line was cut")
            upload(self, file)

        with monkeypatch.context() as patch:
            patch.setattr(RemotePath, "_upload", uploading)
            try:
                score_top_k(trained, memory, K)
            except DglrecError as error:
                assert "cannot be written (the line was cut)" in str(error)
        there = held(memory)
        finished = {name: one for name, one in there.items() if TEMPORARY not in name}
        assert finished.items() <= wanted.items()
        assert score_top_k(trained, memory, K)["complete"]
        assert held(memory) == wanted
        if left > 0:
            break
        clear_memory()
    assert count == 1 + 2 * PARTS + 2 + 1  # the plan, parts with their notes, manifest, _SUCCESS


def test_a_damaged_part_of_a_store_is_made_again(trained, whole, memory, tmp_path, capsys):
    score_top_k(trained, memory, K)
    (tmp_path / "bad").write_bytes(b"x" * (memory / "part-00001.parquet").stat().st_size)
    (memory / "part-00001.parquet").put(tmp_path / "bad")
    assert [check.level for check in verify(memory)] == ["failure"]
    assert score_top_k(trained, memory, K)["kept"] == PARTS - 1
    assert "memory://lake/scores/part-00001.parquet: damaged" in capsys.readouterr().err
    assert held(memory) == files_of(whole)


def test_shards_fill_a_store_together_and_other_options_are_refused(trained, whole, memory):
    for number in (1, 0):
        score_top_k(trained, memory, K, TopKOptions(shard=(number, 2)))
    assert held(memory) == files_of(whole)
    with pytest.raises(UsageError, match="memory://lake/scores: begun with top_k 4, now 5"):
        score_top_k(trained, memory, K + 1)
    other = score_top_k(trained, memory, K + 1, TopKOptions(overwrite=True))
    assert (other["kept"], other["complete"]) == (0, True)


def test_who_is_scored_may_be_said_in_parts(trained, memory, tmp_path):
    users, items = trained.dataset.users.ids.to_pylist(), trained.dataset.items.ids.to_pylist()
    pairs = pd.DataFrame({"user_id": users, "item_id": (items * 2)[: len(users)]})
    in_parts(tmp_path / "pairs", pairs, ".parquet", count=3)
    pairs.to_parquet(tmp_path / "pairs.parquet")
    parts = score_pairs(trained, tmp_path / "a", tmp_path / "pairs", ScoreOptions())
    store = copied(tmp_path / "pairs", place_of("memory://lake/pairs"))
    score_pairs(trained, memory, store, ScoreOptions())
    assert held(memory) == files_of(tmp_path / "a") and parts["rows"] == len(pairs)
    score_pairs(trained, tmp_path / "b", tmp_path / "pairs.parquet", ScoreOptions())
    both = [files_of(tmp_path / name) for name in "ab"]
    assert both[0]["part-00000.parquet"] == both[1]["part-00000.parquet"]
    in_parts(tmp_path / "users", pairs[["user_id"]][:7], ".csv", count=2)
    options = TopKOptions(users=tmp_path / "users")
    assert score_top_k(trained, tmp_path / "c", K, options)["users"] == 7


def test_an_export_in_a_store_is_that_of_a_folder(trained, memory, tmp_path):
    export(trained, tmp_path / "out")
    assert export(trained, memory)["out"] == "memory://lake/scores"
    assert held(memory) == files_of(tmp_path / "out")
    assert [check.level for check in verify(memory)] == ["ok"]
    with pytest.raises(UsageError, match="exists; choose another name"):
        export(trained, memory)
    export(trained, memory, overwrite=True)
    assert held(memory) == files_of(tmp_path / "out")


def test_nothing_but_scores_and_exports_goes_to_a_store(trained, tmp_path, capsys, monkeypatch):
    run = tmp_path
    for line in (
        ["train", "s3://b/data", "run"],
        ["train", "data", "s3://key:secret@b/run"],
        ["prepare", "a.csv", "s3://b/data?region=secret"],
        ["evaluate", "s3://b/run"],
        ["synth", "s3://b/source"],
        ["study", "lists", "s3://b/source", "out"],
        ["score", "s3://b/run", str(run), "--top-k", "3"],
    ):
        monkeypatch.setattr(sys, "argv", ["dglrec", *line])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        told = capsys.readouterr().err
        assert ended.value.code == 2
        assert "is in a store; give a path of this machine" in told and "s3://b/" in told
        assert "secret" not in told


# --- a real store of objects ---------------------------------------------------------------------


class ObjectStore:
    """moto's server: S3 as its clients see it, on this machine."""

    def __init__(self, port):
        self.address = f"127.0.0.1:{port}"
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://{self.address}",
            "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
            "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI",
            "AWS_REGION": "us-east-1",
        }

    def create(self, bucket):
        filesystem = pyarrow.fs.S3FileSystem(
            access_key="x",
            secret_key="x",
            endpoint_override=self.address,
            scheme="http",
            region="us-east-1",
            allow_bucket_creation=True,
        )
        filesystem.create_dir(bucket)

    def ask(self, path, data):
        kind = {"Content-Type": "text/plain"}
        request = urllib.request.Request(f"http://{self.address}{path}", data, kind, method="POST")
        urllib.request.urlopen(request, timeout=10).read()


@pytest.fixture(scope="module")
def server():
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    moto = shutil.which("moto_server", path=path)
    if moto is None:
        pytest.skip("no moto_server on the PATH, where scripts/test puts one")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [moto, "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            with socket.socket() as line:
                if not line.connect_ex(("127.0.0.1", port)):
                    break
            assert process.poll() is None, "moto's server has ended"
            time.sleep(0.1)
        store = ObjectStore(port)
        store.create("lake")
        yield store
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def lake(server, monkeypatch):
    """An empty bucket, and what the environment says of it."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    server.ask("/moto-api/reset", b"")
    server.create("lake")
    return "s3://lake"


@pytest.fixture
def rows():
    generator = np.random.default_rng(3)
    pairs = generator.permutation(40 * 30)[:400]
    columns = {"uid": pairs // 30 + 1, "product": pairs % 30, "bucket": pairs % 4}
    return pd.DataFrame({**columns, "stars": generator.integers(1, 6, 400).astype(float)})


def test_the_whole_route_through_a_store(trained, whole, lake, server, rows, tmp_path):
    rows.to_parquet(tmp_path / "ratings", partition_cols=["bucket"], index=False)
    (tmp_path / "ratings" / "_SUCCESS").touch()
    copied(tmp_path / "ratings", place_of(f"{lake}/ratings"))
    columns = {"user": "uid", "item": "product", "rating": "stars"}
    options = PrepareOptions(text=False, columns=columns)
    here = prepare(tmp_path / "ratings", tmp_path / "here", options)
    there = prepare(f"{lake}/ratings/", tmp_path / "there", options)
    asked = f"{lake}/ratings?endpoint_override={server.address}&scheme=http"
    query = prepare(asked, tmp_path / "query", options)
    globbed = prepare(f"{lake}/ratings/bucket=*/*.parquet", tmp_path / "globbed", options)
    assert here.fingerprint == there.fingerprint == query.fingerprint
    for one in ("there", "query", "globbed"):
        assert arrays_of(tmp_path / one) == arrays_of(tmp_path / "here")
    assert globbed.meta["counts"] == here.meta["counts"]
    text = (tmp_path / "query" / "dataset.json").read_text()
    assert server.address not in text and "endpoint" not in text
    out = place_of(f"{lake}/scores")
    assert score_top_k(trained, out, K)["complete"]
    assert held(out) == files_of(whole)
    assert score_top_k(trained, out, K)["kept"] == PARTS
    export(trained, place_of(f"{lake}/exported"))
    export(trained, tmp_path / "exported")
    assert held(place_of(f"{lake}/exported")) == files_of(tmp_path / "exported")


def test_what_is_not_there_or_not_readable(trained, lake, server, rows, tmp_path):
    write = tmp_path / "a.csv"
    rows.to_csv(write, index=False)
    (place_of(f"{lake}/t/a.csv")).put(write)
    (place_of(f"{lake}/t/b.txt")).put(write)
    (place_of(f"{lake}/odd/b.xlsx")).put(write)

    def refused(kind, message, uri, **options):
        with pytest.raises(kind, match=message) as error:
            prepare(uri, tmp_path / "data", PrepareOptions(text=False, **options))
        assert not (tmp_path / "data").exists()
        assert "wJalr" not in str(error.value) and "AKID" not in str(error.value)
        return error.value.exit_code

    assert refused(DataError, "s3://none/a.csv: no such bucket as none", "s3://none/a.csv") == 3
    refused(DataError, "s3://lake/no.csv: no such file or folder", f"{lake}/no.csv")
    refused(DataError, r"s3://none/\*.csv: no such bucket as none", "s3://none/*.csv")
    refused(
        DataError, r"s3://lake/t/\*.parquet: matches no file; found a.csv", f"{lake}/t/*.parquet"
    )
    refused(DataError, "b.xlsx: is neither CSV nor Parquet", f"{lake}/odd", format="table")
    columns = {"user": "u", "item": "product"}
    refused(DataError, "a.csv: no column u; found uid, product", f"{lake}/t", columns=columns)
    for verb in (
        lambda place: score_top_k(trained, place, K),
        lambda place: export(trained, place),
    ):
        with pytest.raises(UsageError, match="s3://none/out: no such bucket; make it first"):
            verb(place_of("s3://none/out"))
    server.ask("/moto-api/reset-auth", b"0")
    try:
        denied = r"^s3://lake/t/a.csv: (access denied|the store refuses the credentials).*; cred"
        assert refused(UnreadableError, denied, f"{lake}/t/a.csv") == 3
        with pytest.raises(DglrecError, match="s3://lake/out: cannot be written") as error:
            score_top_k(trained, place_of(f"{lake}/out"), K)
        assert error.value.exit_code == 1
    finally:
        server.ask("/moto-api/reset-auth", b"1000000")


_COMMAND = """
import os, signal, sys
from dglrec.places import RemotePath
from dglrec.score import jobs
jobs._PART_USERS = 15
left, upload = int(sys.argv.pop(1)), RemotePath._upload
def uploading(self, file):
    global left
    left -= 1
    if not left:
        stream = self.store.filesystem.open_output_stream(self.address)
        stream.write(file.read_bytes()[:-1])
        os.kill(os.getpid(), signal.SIGKILL)
    upload(self, file)
RemotePath._upload = uploading
from dglrec.cli import main
main()
"""


@pytest.mark.slow
def test_killed_in_the_middle_of_a_part_scores_go_on(trained, whole, lake, server, tmp_path):
    """A plan, some parts and a torn one; then the same command."""
    run, out = str(trained.dataset.path.parent / "run"), place_of(f"{lake}/scores")
    environment = {**os.environ, **server.environment, "OMP_NUM_THREADS": "1"}

    def command(cut):
        line = [sys.executable, "-c", _COMMAND, str(cut), "score", run, str(out)]
        line += ["--top-k", str(K), "--json"]
        return subprocess.run(line, env=environment, capture_output=True, text=True, timeout=200)

    wanted = files_of(whole)
    for cut in (2, 5):  # the first part; the second note
        assert command(cut).returncode == -signal.SIGKILL
        assert held(out).items() <= wanted.items()
        assert "_SUCCESS" not in held(out)
    done = command(0)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["complete"] is True
    assert held(out) == wanted
