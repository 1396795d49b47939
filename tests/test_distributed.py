"""Who works with whom and where: devices, how rows are cut, and how the ranks of a job meet.

What ranks that have met do together is held in test_ranks.
"""

import itertools
import json
import os
import socket
import tempfile
import threading
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ranks import _wait, free_port, in_ranks, launched
from torch.distributed import TCPStore

from dglrec.distributed import World, choose_device, joined
from dglrec.distributed import join as join_module
from dglrec.errors import DglrecError, UnusableEnvironmentError, UsageError


def with_gpus(monkeypatch, count):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


def test_auto_takes_the_gpu_where_there_is_one(monkeypatch):
    with_gpus(monkeypatch, 2)
    assert choose_device() == choose_device("auto") == torch.device("cuda")
    with_gpus(monkeypatch, 0)
    assert choose_device() == torch.device("cpu")


@pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:0", "cuda:1"])
def test_a_device_that_is_there(monkeypatch, name):
    with_gpus(monkeypatch, 2)
    assert choose_device(name) == torch.device(name)


def test_the_cpu_needs_no_gpu(monkeypatch):
    with_gpus(monkeypatch, 0)
    assert choose_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "gpus"), [("cuda", 0), ("cuda:0", 0), ("cuda:1", 1), ("cuda:9", 2)]
)
def test_a_gpu_that_is_not_there(monkeypatch, name, gpus):
    with_gpus(monkeypatch, gpus)
    with pytest.raises(UnusableEnvironmentError) as caught:
        choose_device(name)
    assert caught.value.exit_code == 4
    assert repr(name) in str(caught.value)
    assert f"{gpus} GPU" in str(caught.value)
    assert "--device cpu" in str(caught.value)


def test_a_host_that_nobody_knows_is_said_at_once(monkeypatch):
    variables = {"RANK": 1, "WORLD_SIZE": 2, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}
    variables |= {"MASTER_ADDR": "no-such-host.invalid", "MASTER_PORT": 29400}
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))

    def unknown(host, port, **options):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    refused = pytest.raises(UnusableEnvironmentError, match="no-such-host.invalid, and rank 1 fi")
    with refused, joined("cpu", timeout=60):
        raise AssertionError("joined")


# torch keeps 8 bits of a device number: 256 would be GPU 0, and 128 a number below 0.
@pytest.mark.parametrize(
    "name", ["", "gpu", "CPU", "cuda:", "cuda:x", "cuda:-1", "cuda:128", "cuda:256", "cuda:99999"]
)
@pytest.mark.parametrize("gpus", [0, 1])
def test_no_device_at_all(monkeypatch, name, gpus):
    with_gpus(monkeypatch, gpus)
    with pytest.raises(UsageError, match="write auto, cpu, cuda or cuda:N") as caught:
        choose_device(name)
    assert repr(name) in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("name", ["meta", "mps", "xpu"])
def test_devices_of_other_kinds_are_refused(name):
    with pytest.raises(UsageError, match="not supported"):
        choose_device(name)


# --- devices of several processes ----------------------------------------------------------------


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_each_of_several_processes_takes_a_gpu_of_its_own(monkeypatch, name):
    with_gpus(monkeypatch, 3)
    for processes in (2, 3):
        found = [choose_device(name, place, processes) for place in range(processes)]
        assert found == [torch.device("cuda", place) for place in range(processes)]


def test_one_gpu_is_not_named_for_several_processes(monkeypatch):
    with_gpus(monkeypatch, 2)
    with pytest.raises(UsageError, match="'cuda:1' names one GPU for 2 processes; write cuda"):
        choose_device("cuda:1", 1, 2)
    assert choose_device("cuda:1", 0, 1) == torch.device("cuda:1")


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_more_processes_than_gpus_are_refused_in_each_of_them(monkeypatch, name):
    with_gpus(monkeypatch, 2)
    for place in range(3):
        with pytest.raises(UnusableEnvironmentError) as caught:
            choose_device(name, place, 3)
        assert "3 processes on a machine of 2 GPUs" in str(caught.value)
        assert "--nproc-per-node 2" in str(caught.value)


def test_any_number_of_processes_may_use_the_cpu(monkeypatch):
    with_gpus(monkeypatch, 0)
    assert choose_device("auto", 6, 7) == choose_device("cpu", 6, 7) == torch.device("cpu")
    with_gpus(monkeypatch, 2)
    assert choose_device("cpu", 6, 7) == torch.device("cpu")


# --- a world without a group ---------------------------------------------------------------------


def test_alone_everything_is_already_everybodys():
    alone = World()
    assert alone.is_first
    assert alone.sum([1, 2.5]) == [1, 2.5]
    assert alone.start_sum([3.0])() == [3.0]
    assert alone.sum([]) == []
    assert alone.from_first(lambda: b"made") == b"made"
    assert alone.from_first(bytes) == b""
    part = torch.arange(6).reshape(3, 2)
    (found,) = alone.gather_parts(part)
    assert found is part
    rows = torch.arange(4.0)
    alone.share_rows(rows, alone.cut(torch.arange(1, 5)))
    assert rows.tolist() == [0, 1, 2, 3]
    alone.check_same("anything", "value")
    assert alone.cut(torch.tensor([5, 9])) == [0, 2]
    assert alone.cut(torch.empty(0, dtype=torch.int64)) == [0, 0]
    alone.mark_started("job")
    assert not alone.has_started("job")


def test_alone_a_failure_stays_what_it_is():
    alone = World()
    with alone.together():
        pass
    for failure in (DglrecError("no"), ValueError("no"), KeyboardInterrupt()):
        with pytest.raises(type(failure)) as caught, alone.together():
            raise failure
        assert caught.value is failure
        assert caught.value.__cause__ is None


@st.composite
def weights_of_rows(draw):
    kind = draw(st.sampled_from(["small", "zeros", "one heavy", "large"]))
    most = {"small": 9, "zeros": 1, "one heavy": 3, "large": 2**40}[kind]
    weights = draw(st.lists(st.integers(0, most), max_size=40))
    if kind == "one heavy" and weights:
        weights[draw(st.integers(0, len(weights) - 1))] = max(1, sum(weights))
    return weights


@given(weights_of_rows(), st.integers(1, 9))
def test_stretches_of_rows_are_about_equal_in_weight(weights, size):
    ends = torch.tensor(weights, dtype=torch.int64).cumsum(0)
    bounds = World(size=size).cut(ends)
    assert len(bounds) == size + 1
    assert bounds[0] == 0 and bounds[-1] == len(weights)
    assert bounds == sorted(bounds)
    # No bound is off by more than half a row, and what rounding to whole numbers adds.
    heaviest, total = max(weights, default=0), sum(weights)
    for rank, bound in enumerate(bounds):
        off = abs(size * sum(weights[:bound]) - rank * total)
        assert 2 * off < size * (heaviest + 1)
    for rank in range(size):
        stretch = sum(weights[bounds[rank] : bounds[rank + 1]])
        assert 2 * abs(size * stretch - total) < size * (2 * heaviest + 1)
    assert all(World(rank, size).cut(ends) == bounds for rank in range(size))


@pytest.mark.parametrize(
    ("weights", "size", "bounds"),
    [
        ([1, 1, 1, 1], 2, [0, 2, 4]),
        ([1] * 7, 7, list(range(8))),
        ([100, 1, 1], 2, [0, 1, 3]),
        ([1, 1, 100], 2, [0, 2, 3]),
        ([0, 0, 4, 4, 0, 0], 2, [0, 3, 6]),
    ],
)
def test_cuts_known_answers(weights, size, bounds):
    assert World(size=size).cut(torch.tensor(weights).cumsum(0)) == bounds


def test_a_few_rows_go_to_as_many_processes():
    bounds = World(size=5).cut(torch.tensor([1, 2]))
    assert sorted(b - a for a, b in itertools.pairwise(bounds)) == [0, 0, 0, 1, 1]
    assert World(size=5).cut(torch.empty(0, dtype=torch.int64)) == [0] * 6
    assert World(size=3).cut(torch.zeros(4, dtype=torch.int64))[-1] == 4


# --- joining -------------------------------------------------------------------------------------


def forked(*jobs, timeout=120):
    """Of each function, run in a process of its own: {"returned"}, or {"kind", "message", "code"};
    and the "seconds" that it took."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{number}.json" for number in range(len(jobs))]
        processes = []
        for job, file in zip(jobs, files, strict=True):
            process = os.fork()
            if process == 0:
                _be_forked(job, file)
            processes.append(process)
        _wait(processes, timeout)
        return [json.loads(file.read_text()) for file in files]


def _be_forked(job, file):
    started = time.monotonic()
    try:
        try:
            outcome = {"returned": job()}
        except BaseException as error:
            code = getattr(error, "exit_code", None)
            outcome = {"kind": type(error).__name__, "message": str(error), "code": code}
        outcome["seconds"] = time.monotonic() - started
        file.write_text(json.dumps(outcome))
    finally:
        os._exit(0)


def total_of_ranks(world):
    return world.sum([1, world.rank])


def joins(
    rank, size, port, work=total_of_ranks, *, device="cpu", timeout=60, late=0, before=None, **more
):
    """What a rank does that comes after some seconds, joins, and works; `before` joining too."""

    def job():
        time.sleep(late)
        os.environ.update(launched(rank, size, port, **more))
        if before is not None:
            before()
        with joined(device, timeout=timeout) as (world, _):
            return work(world)

    return job


@pytest.fixture
def no_launcher(monkeypatch):
    for name in [*launched(0, 1, 1), "TORCHELASTIC_USE_AGENT_STORE"]:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.fixture
def served():
    """The variables of ranks whose store stays while they come and go, as that of torchrun does."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    yield {"port": store.port, "TORCHELASTIC_USE_AGENT_STORE": "True"}


def test_without_a_launcher_a_process_is_alone(no_launcher):
    for environment in ({}, {"WORLD_SIZE": "", "RANK": ""}, {"WORLD_SIZE": "1", "RANK": "0"}):
        for name, value in environment.items():
            no_launcher.setenv(name, value)
        with joined("cpu") as (world, device):
            assert world == World()
            assert world.store is None
            assert device == torch.device("cpu")


@pytest.mark.parametrize("name", sorted(launched(0, 2, 1)))
def test_a_variable_that_is_missing_is_named(no_launcher, name):
    for other, value in launched(0, 2, 29_500).items():
        if other != name:
            no_launcher.setenv(other, value)
    with (
        pytest.raises(UsageError, match=f"^{name} not set, .* start them with torchrun"),
        joined("cpu"),
    ):
        pass


@pytest.mark.parametrize("name", sorted({*launched(0, 2, 1)} - {"MASTER_ADDR"}))
@pytest.mark.parametrize("value", ["two", "1.5", "0x1", "-"])
def test_what_is_no_number_is_refused(no_launcher, name, value):
    for other, proper in launched(0, 2, 29_500).items():
        no_launcher.setenv(other, proper)
    no_launcher.setenv(name, value)
    with pytest.raises(UsageError, match=f"^{name}={value}: not a number"), joined("cpu"):
        pass


@pytest.mark.parametrize(
    "changes",
    [
        {"RANK": "2"},
        {"RANK": "-1"},
        {"LOCAL_RANK": "2"},
        {"LOCAL_RANK": "-1"},
        {"LOCAL_WORLD_SIZE": "3"},
        {"LOCAL_WORLD_SIZE": "0"},
        {"WORLD_SIZE": "0"},
        {"WORLD_SIZE": "-2"},
        {"MASTER_PORT": "0"},
        {"MASTER_PORT": "65536"},
    ],
    ids=str,
)
def test_numbers_that_contradict_one_another_are_refused(no_launcher, changes):
    for name, value in {**launched(0, 2, 29_500), **changes}.items():
        no_launcher.setenv(name, value)
    (told,) = (f"{name}={value}" for name, value in changes.items())
    with pytest.raises(UsageError, match="do not fit together") as caught, joined("cpu"):
        pass
    assert told in str(caught.value)


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
def test_a_timeout_is_more_than_nothing(timeout):
    with pytest.raises(UsageError, match="timeout"), joined("cpu", timeout=timeout):
        pass


def test_ranks_that_meet_know_their_places():
    def places(world):
        return [world.rank, world.size, world.local_rank, world.local_size, world.is_first]

    assert in_ranks(3, places) == [[rank, 3, rank, 3, rank == 0] for rank in range(3)]


def test_one_rank_of_torchrun_has_a_store_and_no_group(served):
    def work(world):
        started = world.has_started("job")
        world.mark_started("job")
        return [world.size, world.sum([2]), started, torch.distributed.is_initialized()]

    for started in (False, True):
        (found,) = forked(joins(0, 1, work=work, **served))
        assert found["returned"] == [1, [2], started, False]


def test_ranks_may_come_late(served):
    found = forked(joins(0, 2, **served, late=0.4), joins(1, 2, **served))
    assert [one["returned"] for one in found] == [[2, 1]] * 2
    port = free_port()  # that the first rank does not listen at yet
    found = forked(joins(0, 2, port, late=0.4), joins(1, 2, port))
    assert [one["returned"] for one in found] == [[2, 1]] * 2


def test_ranks_that_do_not_come_are_named(served):
    found = forked(*(joins(rank, 5, **served, timeout=0.6) for rank in (0, 1, 3)))
    for rank, one in zip((0, 1, 3), found, strict=True):
        assert one["kind"] == "UnusableEnvironmentError" and one["code"] == 4
        assert f"rank {rank} waited 0.6 s at 127.0.0.1:{served['port']}" in one["message"]
        assert "of 5 ranks these did not come: 2, 4;" in one["message"]
        assert 0.6 <= one["seconds"] < 3


def test_the_first_rank_may_be_the_one_that_does_not_come(served):
    (found,) = forked(joins(1, 2, **served, timeout=0.2, before=shorter_grace))
    assert found["code"] == 4
    assert "of 2 ranks these did not come: 0;" in found["message"]


def shorter_grace():
    join_module._GRACE_SECONDS = 0.2


def test_ranks_are_named_to_others_where_the_first_serves_the_store_itself():
    port = free_port()
    for rank, one in enumerate(forked(*(joins(rank, 3, port, timeout=1) for rank in (0, 1)))):
        assert one["code"] == 4, one
        assert f"rank {rank} waited 1 s at 127.0.0.1:{port}" in one["message"]
        assert "these did not come: 2;" in one["message"]


def test_nobody_at_the_address():
    port = free_port()
    (found,) = forked(joins(1, 2, port, timeout=1))
    assert found["kind"] == "UnusableEnvironmentError" and found["code"] == 4
    assert f"rank 1 did not reach rank 0 at 127.0.0.1:{port} within 1 s" in found["message"]
    assert found["seconds"] < 6


@pytest.mark.parametrize("answers", ["nothing", "by closing"])
def test_a_port_that_something_else_uses(answers):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        if answers == "by closing":
            threading.Thread(target=close_all, args=(other,), daemon=True).start()
        port = other.getsockname()[1]
        first, second = forked(joins(0, 2, port), joins(1, 2, port, timeout=1), timeout=6)
    assert first["code"] == second["code"] == 4
    assert f"rank 0 cannot listen at 127.0.0.1:{port}" in first["message"]
    assert "another MASTER_PORT" in first["message"]
    assert f"rank 1 did not reach rank 0 at 127.0.0.1:{port}" in second["message"]


def close_all(listening):
    while True:
        try:
            listening.accept()[0].close()
        except OSError:
            return


def test_a_name_that_stands_for_no_machine():
    (found,) = forked(joins(1, 2, free_port(), timeout=0.3, MASTER_ADDR="no-such-host.invalid"))
    assert found["code"] == 4
    assert "MASTER_ADDR is no-such-host.invalid, and rank 1 finds no such host" in found["message"]


def test_ranks_that_are_started_again_meet_whatever_earlier_ones_left(served):
    """As after restarts by torchrun, whose counts of them may differ from machine to machine."""
    for number in range(4):
        late = [0.0, 0.0, 0.0]
        late[number % 3] = 0.15  # others find the newest round of before
        found = forked(
            *(
                joins(rank, 3, **served, late=late[rank], TORCHELASTIC_RESTART_COUNT=str(count))
                for rank, count in enumerate((number, 0, 7))
            )
        )
        assert [one.get("returned") for one in found] == [[3, 3]] * 3, found


def test_rounds_that_never_began_are_in_nobodys_way(served):
    forked(joins(0, 2, **served, timeout=0.2))  # it opens a round, and nobody comes
    forked(joins(1, 2, **served, timeout=0.2, before=shorter_grace))
    found = forked(joins(0, 2, **served, late=0.2), joins(1, 2, **served))
    assert [one.get("returned") for one in found] == [[2, 1]] * 2, found
    # One that is killed between coming and beginning.
    forked(joins(1, 3, **served, timeout=0.1, before=shorter_grace))
    found = forked(*(joins(rank, 3, **served) for rank in range(3)))
    assert [one.get("returned") for one in found] == [[3, 3]] * 3, found


def test_the_number_of_ranks_may_change_from_round_to_round(served):
    for size in (3, 2, 3):
        found = forked(*(joins(rank, size, **served) for rank in range(size)))
        assert all(one["returned"][0] == size for one in found)


def test_what_earlier_ranks_began_is_known_to_those_in_their_place(served):
    def work(world):
        before = [world.has_started("train a"), world.has_started("train b")]
        if not before[0]:
            world.mark_started("train a")
        return before

    found = [forked(*(joins(rank, 2, work=work, **served) for rank in range(2))) for _ in range(2)]
    assert [one["returned"] for one in found[0]] == [[False, False]] * 2
    assert [one["returned"] for one in found[1]] == [[True, False]] * 2


def test_what_one_job_began_is_unknown_to_the_next():
    def work(world):
        before = world.has_started("job")
        world.mark_started("job")
        return before

    assert in_ranks(2, work) == in_ranks(2, work) == [False, False]


def test_devices_that_differ_in_kind_are_refused_by_all(served):
    def on_a_gpu():
        join_module.choose_device = lambda *arguments: torch.device("cuda", 0)

    found = forked(
        joins(0, 3, **served), joins(1, 3, **served, before=on_a_gpu), joins(2, 3, **served)
    )
    for one in found:
        assert one["kind"] == "UsageError" and one["code"] == 2
        assert "give all the same --device" in one["message"]
    assert "computes on cpu, and rank 1 on" in found[0]["message"]
    assert "computes on cuda, and rank 0 on" in found[1]["message"]


@pytest.mark.parametrize("lacking", [0, 1])
def test_a_device_that_one_rank_lacks_stops_all_and_that_one_says_why(served, lacking):
    def without_gpu():
        torch.cuda.device_count = lambda: 0

    found = forked(
        *(
            joins(
                rank, 2, **served, device="cuda" if rank == lacking else "cpu", before=without_gpu
            )
            for rank in range(2)
        )
    )
    assert found[lacking]["code"] == 4
    assert "device 'cuda' is not on this machine" in found[lacking]["message"]
    assert f"stopped, as rank {lacking} failed: device 'cuda'" in found[1 - lacking]["message"]
    assert found[1 - lacking]["code"] == 4
    assert max(one["seconds"] for one in found) < 5


@pytest.mark.parametrize("lacking", [0, 1])
def test_so_it_is_where_the_first_rank_serves_the_store_itself(lacking):
    port = free_port()
    found = forked(
        *(joins(rank, 2, port, device="mps" if rank == lacking else "cpu") for rank in range(2))
    )
    assert "device 'mps' is not supported" in found[lacking]["message"]
    assert f"stopped, as rank {lacking} failed: device 'mps'" in found[1 - lacking]["message"]
    assert [one["code"] for one in found] == [2, 2]


def test_a_rank_that_is_lost_between_meeting_and_connecting_is_missed(served):
    def kill_it():
        join_module.dist.init_process_group = lambda *arguments, **options: os._exit(3)

    lost = os.fork()
    if lost == 0:
        joins(1, 2, **served, before=kill_it)()
    (found,) = forked(joins(0, 2, **served, timeout=1))
    os.waitpid(lost, 0)
    assert found["code"] in (1, 4), found


def test_gloo_listens_where_the_first_rank_is_reached():
    def interface(world):
        return [world.sum([1]), os.environ.get("GLOO_SOCKET_IFNAME")]

    assert in_ranks(2, interface) == [[[2], "lo"]] * 2


def test_a_network_interface_that_was_named_stays(monkeypatch):
    launch = join_module._Launch(0, 2, 0, 2, "127.0.0.1", 29_500, False)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth7")
    join_module._name_interface(launch)
    assert os.environ["GLOO_SOCKET_IFNAME"] == "eth7"


def test_an_address_that_only_the_machine_itself_reaches_is_no_place_for_several(
    monkeypatch, capsys
):
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    join_module._name_interface(join_module._Launch(0, 2, 0, 1, "127.0.0.1", 29_500, False))
    assert "GLOO_SOCKET_IFNAME" not in os.environ
    assert "127.0.0.1 is this machine's loopback address" in capsys.readouterr().err


def test_what_failed_here_is_said_even_where_the_others_do_not_come(monkeypatch):
    """They may still be at work when the wait for them ends."""

    def nobody_comes(world, failure):
        raise RuntimeError("timed out")

    monkeypatch.setattr(World, "_stop_with_others", nobody_comes)
    world = World(rank=0, size=2)
    with pytest.raises(UsageError, match="my own"), world.together():
        raise UsageError("my own")
    with pytest.raises(RuntimeError, match="timed out"), world.together():
        pass
