"""The launchers over torchrun, for real: on one machine, and on two that are network namespaces."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from ranks import free_port

import dglrec
from dglrec.checkpoint import load_checkpoint
from dglrec.dataset import PrepareOptions, prepare
from dglrec.synthetic import synthesize

ROOT = Path(dglrec.__file__).resolve().parents[1]
SCRIPTS = ROOT / "scripts"
SMALL = [
    *("--set", "model.embedding_size=8", "--set", "model.decoder_size=8"),
    *("--set", "loader.batch_size=1000", "--set", "train.patience=999"),
]
ENVIRONMENT = {
    **os.environ,
    "DGLREC_VENV": sys.prefix,
    "OMP_NUM_THREADS": "1",
    "PROCESSES": "2",
    "MAX_RESTARTS": "1",
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted")
    synthesize(folder / "source", users=120, items=40, ratings=4_000, seed=1)
    return prepare(folder / "source", folder / "data", PrepareOptions(text=False)).path


def launch(script, *arguments, **environment):
    """A launcher in a session of its own, where signals are as a terminal would leave them."""
    return subprocess.Popen(
        [SCRIPTS / script, *map(str, arguments)],
        env={**ENVIRONMENT, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def finished(process, timeout=800):
    try:
        out, errors = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, errors = process.communicate()
        raise AssertionError(f"hung:\n{out}\n{errors}") from None
    return process.returncode, out, errors


def workers_of(process):
    """The processes that torchrun started."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(child) for child in children]


def wait_for(condition, process):
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


def epochs(run):
    file = run / "metrics.jsonl"
    return len(file.read_text().splitlines()) if file.exists() else 0


@pytest.mark.slow
def test_a_killed_rank_brings_the_job_back_and_it_finishes(dataset, tmp_path):
    run = tmp_path / "run"
    settings = [*SMALL, "--set", "train.epochs=60", "--set", "train.checkpoint_steps=3"]
    job = launch("launch_multi_gpu", dataset, run, *settings, "--device", "cpu", "--json")
    wait_for(lambda: epochs(run) >= 1, job)
    killed = workers_of(job)[-1]
    os.kill(killed, signal.SIGKILL)
    code, out, errors = finished(job)
    assert code == 0, errors
    assert f"resuming {run} after" in errors
    assert len(out.splitlines()) == 1, errors  # printed once, by one process
    results = json.loads(out)
    assert results["epochs"] == 60
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(1, 61))
    assert json.loads((run / "environment.json").read_text())["processes"] == 2


@pytest.mark.slow
def test_a_job_that_is_asked_to_stop_saves_and_goes_on_later(dataset, tmp_path):
    run = tmp_path / "run"
    settings = [*SMALL, "--set", "train.epochs=5000", "--device", "cpu"]
    job = launch("launch_multi_gpu", dataset, run, *settings)
    wait_for(lambda: epochs(run) >= 2, job)
    job.send_signal(signal.SIGTERM)
    code, out, errors = finished(job)
    assert code != 0 and out == ""
    assert "go on with --resume" in errors and "interrupted" in errors
    saved = load_checkpoint(run / "checkpoints" / "last").meta
    done = saved["epoch"] + 1  # the epoch that it was in
    more = ["--resume", "--set", f"train.epochs={done}", "--json", "--device", "cpu"]
    code, out, errors = finished(launch("launch_multi_gpu", dataset, run, *more))
    assert code == 0 and len(out.splitlines()) == 1, errors
    assert json.loads(out)["epochs"] == done == epochs(run)


@pytest.mark.slow
def test_a_refit_that_lost_a_process_goes_on_with_what_was_chosen(dataset, tmp_path):
    run = tmp_path / "run"
    settings = [*SMALL, "--set", "train.epochs=40", "--set", "train.checkpoint_steps=3"]
    settings += ["--set", "train.learning_rate=0.0005", "--refit", "valid"]
    job = launch("launch_multi_gpu", dataset, run, *settings, "--device", "cpu", "--json")
    wait_for(lambda: epochs(run) >= 1, job)  # those of the second training
    chosen = json.loads((run / "selection" / "results.json").read_text())
    os.kill(workers_of(job)[-1], signal.SIGKILL)
    code, out, errors = finished(job)
    assert code == 0, errors
    results = json.loads(out)
    assert results["learned_from"] == ["train", "valid"]
    assert results["selection"] == chosen
    assert results["epochs"] == epochs(run) == chosen["best_epoch"]


@pytest.mark.slow
def test_a_run_that_is_there_is_refused_at_every_attempt(dataset, tmp_path):
    """torchrun starts processes again whatever ended them: that must not make a run theirs."""
    run = tmp_path / "run"
    settings = [*SMALL, "--set", "train.epochs=1", "--device", "cpu"]
    assert finished(launch("launch_multi_gpu", dataset, run, *settings))[0] == 0
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    code, out, errors = finished(launch("launch_multi_gpu", dataset, run, *settings))
    assert code != 0 and out == ""
    refusals = [line for line in errors.splitlines() if line.startswith("error:")]
    assert (
        refusals
        == [f"error: {run} exists; choose another name, or replace it with --overwrite"] * 2
    )
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("script", "arguments", "environment", "said"),
    [
        ("launch_multi_gpu", ["data"], {}, "usage: scripts/launch_multi_gpu DATASET RUN"),
        ("launch_multi_gpu", ["data", "run"], {"PROCESSES": "two"}, "usage: PROCESSES=N"),
        ("launch_multi_gpu", ["data", "run"], {"PROCESSES": "0"}, "usage: PROCESSES=N"),
        ("launch_multi_node", ["host:1", "data"], {"NODES": "2"}, "usage: NODES=N"),
        ("launch_multi_node", ["host:1", "data", "run"], {}, "NODES says how many"),
        ("launch_multi_node", ["127.0.0.1:1", "data", "run"], {"NODES": "2"}, "set LOCAL_ADDR"),
        ("launch_multi_node", ["host", "data", "run"], {"NODES": "2"}, "host is not HOST:PORT"),
        ("launch_multi_node", ["host:x", "data", "run"], {"NODES": "2"}, "is not HOST:PORT"),
    ],
)
def test_launchers_say_how_they_are_used(script, arguments, environment, said):
    code, out, errors = finished(launch(script, *arguments, **environment))
    assert code == 2 and out == "" and said in errors


@pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without a GPU")
def test_without_a_gpu_the_number_of_processes_must_be_given():
    code, _, errors = finished(launch("launch_multi_gpu", "data", "run", PROCESSES=""))
    assert code == 2 and "PROCESSES=2, say, trains on the CPU" in errors


@pytest.mark.slow
def test_machines_that_do_not_come_are_not_waited_for_without_end(dataset, tmp_path):
    place = {"NODES": "2", "JOIN_TIMEOUT": "2", "LOCAL_ADDR": "127.0.0.1"}
    endpoint = f"127.0.0.1:{free_port()}"
    job = launch("launch_multi_node", endpoint, dataset, tmp_path / "run", **place)
    code, _, errors = finished(job)
    assert code != 0
    assert f"waiting up to 2 s for 2 machines to meet at {endpoint}" in errors
    assert "RendezvousTimeoutError" in errors
    assert not (tmp_path / "run").exists()


# Two machines that see each other over one cable, as two network namespaces: each has an address
# of its own, a loopback device that leads nowhere else, and the same name as the other.
TWO_MACHINES = r"""
set -eu
ip link set lo up
unshare --net sleep 600 & other=$!
trap 'kill $other' EXIT
mine=$(readlink /proc/self/ns/net)
while [ "$(readlink /proc/$other/ns/net)" = "$mine" ]; do sleep 0.05; done
on_other() { nsenter --target $other --net "$@"; }
ip link add cable0 type veth peer name cable1 netns $other
ip address add 10.77.0.1/24 dev cable0
ip link set cable0 up
on_other ip link set lo up
on_other ip address add 10.77.0.2/24 dev cable1
on_other ip link set cable1 up
"""
IN_NAMESPACES = (["unshare", "--net"], ["unshare", "--map-root-user", "--net"])


def namespaces():
    """The command that makes network namespaces here, or why there is none."""
    said = []
    for command in IN_NAMESPACES:
        try:
            tried = subprocess.run(
                [*command, "bash", "-c", TWO_MACHINES], capture_output=True, text=True, timeout=30
            )
        except FileNotFoundError as error:
            return None, str(error)
        if tried.returncode == 0:
            return command, ""
        said.append(tried.stderr.strip())
    return None, "; ".join(said)


def test_two_machines_train_together(dataset, tmp_path):
    command, reason = namespaces()
    if command is None:
        pytest.skip(f"this system forbids network namespaces: {reason}")
    run = tmp_path / "run"
    script = (
        TWO_MACHINES
        + r"""
on_other "$@" >"$OTHER.out" 2>"$OTHER.err" &
"$@" || { cat "$OTHER.err" >&2; exit 1; }
wait $!
cat /proc/net/dev >&2
"""
    )
    train = [SCRIPTS / "launch_multi_node", "10.77.0.1:29777", dataset, run, *SMALL]
    train += ["--set", "train.epochs=2", "--device", "cpu", "--json"]
    done = subprocess.run(
        [*command, "bash", "-c", script, "bash", *map(str, train)],
        env={**ENVIRONMENT, "NODES": "2", "PROCESSES": "1", "OTHER": str(tmp_path / "other")},
        capture_output=True,
        text=True,
        timeout=150,
    )
    other = (tmp_path / "other.err").read_text()
    assert done.returncode == 0, f"{done.stderr}\n{other}"
    assert json.loads(done.stdout or (tmp_path / "other.out").read_text())["epochs"] == 2
    assert json.loads((run / "environment.json").read_text())["processes"] == 2
    # All that they told each other went over the cable: gradients and embeddings.
    (cable,) = [line.split() for line in done.stderr.splitlines() if "cable0:" in line]
    received, sent = int(cable[1]), int(cable[9])
    assert received > 100_000 and sent > 100_000
