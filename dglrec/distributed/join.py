"""Joining the processes of a job that `torchrun` started; without it a process runs alone."""

import json
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta

import psutil
import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from dglrec.distributed.device import choose_device
from dglrec.distributed.world import LostRankError, PeerError, Store, World
from dglrec.errors import DglrecError, UnusableEnvironmentError, UsageError
from dglrec.progress import log

DEFAULT_TIMEOUT = 600.0
"""Seconds to wait for another process, when joining and later."""

_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_ROUNDS, _NEWEST = "rounds", "newest round"
_BEGUN, _READ, _LEFT = "begun", "read", "left"  # within a round
_POLL_SECONDS = 0.05
_GRACE_SECONDS = 5.0
_LOST = ("gloo", "nccl", "connection closed", "connection reset", "broken pipe", "timed out")


@dataclass(frozen=True)
class _Launch:
    """What the launcher's environment variables say about a process."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    address: str
    port: int
    store_is_served: bool  # by torchrun; otherwise the first process serves the store

    @staticmethod
    def read(environment: Mapping[str, str]) -> "_Launch | None":
        """The launch that the environment describes; None for a process started without a launcher.

        Raises:
            UsageError: variables are missing, or contradict one another.
        """
        if not environment.get("WORLD_SIZE") and not environment.get("RANK"):
            return None
        served = environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        if environment.get("WORLD_SIZE") == "1" and not served:
            return None
        missing = [name for name in _VARIABLES if not environment.get(name)]
        if missing:
            raise UsageError(
                f"{', '.join(missing)} not set, though other variables say that this is one of "
                "several processes; start them with torchrun, which sets them all"
            )
        numbers = {}
        for name in _VARIABLES:
            if name != "MASTER_ADDR":
                try:
                    numbers[name] = int(environment[name])
                except ValueError as error:
                    raise UsageError(f"{name}={environment[name]}: not a number") from error
        rank, size, local_rank, local_size, port = numbers.values()
        if not (0 <= rank < size and 0 <= local_rank < local_size <= size and 0 < port < 65536):
            told = ", ".join(f"{name}={number}" for name, number in numbers.items())
            raise UsageError(f"{told}: these do not fit together; start with torchrun")
        return _Launch(
            rank,
            size,
            local_rank,
            local_size,
            environment["MASTER_ADDR"],
            port,
            served,
        )


def check_one_process(environment: Mapping[str, str], verb: str) -> None:
    """Refuse to run a verb in several processes that only a single process may run.

    Args:
        environment: environment variables, in which `torchrun` describes the processes.
        verb: the name of the verb.

    Raises:
        UsageError: there are several processes.
    """
    if environment.get("WORLD_SIZE", "1") not in ("", "1"):
        error = UsageError(
            f"{verb} is not shared among processes (WORLD_SIZE is {environment['WORLD_SIZE']}): "
            "start it without torchrun"
        )
        error.told = environment.get("RANK", "0") != "0"
        raise error


@contextmanager
def joined(
    device: str = "auto", *, timeout: float = DEFAULT_TIMEOUT
) -> Iterator[tuple[World, torch.device]]:
    """Join the processes of a job for the duration of the block.

    The environment describes the job, as `torchrun` sets it; without such variables the process is
    alone. Sums and messages go through Gloo, tensors on GPUs through NCCL.

    Args:
        device: as in `choose_device`.
        timeout: seconds to wait for other processes, when joining and at each later collective
            operation.

    Yields:
        The processes, and the device of this process.

    Raises:
        UsageError: the environment contradicts itself, or the processes' device types differ.
        UnusableEnvironmentError: processes are missing, or the device does not exist.
        LostRankError: another process is gone.
    """
    if not timeout > 0:
        raise UsageError(f"a timeout of {timeout:g} seconds: must be more than 0")
    launch = _Launch.read(os.environ)
    if launch is None:
        yield World(), choose_device(device)
        return
    store = _meet(launch, timeout)
    chosen, failure = _choose(launch, device)
    about = {"host": socket.gethostname(), "device": chosen.type if chosen else ""}
    if failure is not None:
        about |= {"failure": str(failure), "code": str(failure.exit_code)}
    round_, entries = _gather_ranks(launch, store, about, timeout)
    if chosen is None:
        assert failure is not None
        _stop_where_told(launch, entries)
        raise failure
    _check_devices(launch, entries)
    if chosen.index is not None:
        torch.cuda.set_device(chosen)
    world = World(
        launch.rank,
        launch.size,
        launch.local_rank,
        launch.local_size,
        PrefixStore("job", store),
    )
    try:
        if launch.size > 1:
            _name_interface(launch)
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo",
                store=PrefixStore(f"group/{round_}", store),
                rank=launch.rank,
                world_size=launch.size,
                timeout=timedelta(seconds=timeout),
            )
        yield world, chosen
    except BaseException as error:
        with suppress(dist.DistError):
            store.add(f"{round_}/{_LEFT}", 1)  # so that no process waits for this one
        if launch.size > 1 and isinstance(error, RuntimeError) and _is_lost_contact(error):
            raise LostRankError(
                f"rank {launch.rank} lost contact with another rank ({_first_line(error)}); see "
                "the output of that rank"
            ) from error
        raise
    # Only after success: after a failure the others may be gone, and this would wait for them.
    if launch.size > 1:
        _leave_together(launch, store, round_, timeout)
        dist.destroy_process_group()


def _meet(launch: _Launch, timeout: float) -> TCPStore:
    """The store that all processes share."""
    _check_resolves(launch)
    serves = launch.rank == 0 and not launch.store_is_served
    place = f"{launch.address}:{launch.port}"
    made: list[TCPStore | dist.DistError] = []

    def make() -> None:
        try:
            made.append(
                TCPStore(
                    launch.address,
                    launch.port,
                    launch.size,
                    is_master=serves,
                    timeout=timedelta(seconds=timeout),
                    wait_for_workers=False,
                    multi_tenant=True,
                )
            )
        except dist.DistError as error:
            made.append(error)

    # In a thread, because TCPStore waits forever if another program accepts connections at that
    # port and never answers.
    maker = threading.Thread(target=make, daemon=True)
    maker.start()
    maker.join(timeout + 1)
    store = made[0] if made else dist.DistError("no answer; something else is at that port")
    if isinstance(store, TCPStore):
        return store
    if serves:
        raise UnusableEnvironmentError(
            f"rank 0 cannot listen at {place} ({_first_line(store)}); choose another "
            "MASTER_PORT, or start with torchrun --standalone, which finds a free one"
        ) from store
    raise UnusableEnvironmentError(
        f"rank {launch.rank} did not reach rank 0 at {place} within {timeout:g} s "
        f"({_first_line(store)}); is it started there, and does a firewall let this port through?"
    ) from store


def _check_resolves(launch: _Launch) -> None:
    """Refuse an address that does not resolve: torch would retry it for the whole timeout.

    Raises:
        UnusableEnvironmentError: this machine cannot resolve the address.
    """
    try:
        socket.getaddrinfo(launch.address, launch.port)
    except (OSError, UnicodeError) as error:
        raise UnusableEnvironmentError(
            f"MASTER_ADDR is {launch.address}, and rank {launch.rank} finds no such host "
            f"({error}); give the first machine's name or address"
        ) from error


def _gather_ranks(
    launch: _Launch, store: Store, about: dict[str, str], timeout: float
) -> tuple[str, list[dict[str, str]]]:
    """Wait until all processes have come, and collect what each says about itself.

    The store may still hold entries of processes that `torchrun` has since replaced, and its count
    of restarts differs between machines. The first process therefore opens a new round; the others
    write their entries into the newest round until they find them among those that the first
    process began the round with.

    Returns:
        The name of the round, and the entry of each rank.

    Raises:
        UnusableEnvironmentError: processes are missing, or the first process is gone.
    """
    try:
        return _gather_in(launch, store, about, timeout)
    except dist.DistError as error:
        place = f"{launch.address}:{launch.port}"
        raise UnusableEnvironmentError(
            f"rank {launch.rank}: rank 0 is gone from {place} ({_first_line(error)}); see its "
            "output"
        ) from error


def _gather_in(
    launch: _Launch, store: Store, about: dict[str, str], timeout: float
) -> tuple[str, list[dict[str, str]]]:
    entry = {**about, "token": uuid.uuid4().hex}
    deadline = time.monotonic() + timeout
    if launch.rank == 0:
        round_ = str(store.add(_ROUNDS, 1))
        store.set(_NEWEST, round_)
    else:
        deadline += _GRACE_SECONDS  # time for the first process to report which ranks are missing
        round_ = ""
    while True:
        if launch.rank != 0 and store.check([_NEWEST]):
            round_ = store.get(_NEWEST).decode()
        if round_:
            store.set(f"{round_}/{launch.rank}", json.dumps(entry))
        present = [rank for rank in range(launch.size) if store.check([f"{round_}/{rank}"])]
        late = time.monotonic() > deadline
        if launch.rank == 0 and (late or len(present) == launch.size):
            present_entries = {rank: json.loads(store.get(f"{round_}/{rank}")) for rank in present}
            store.set(
                f"{round_}/{_BEGUN}",
                json.dumps([present_entries.get(r) for r in range(launch.size)]),
            )
        if round_ and store.check([f"{round_}/{_BEGUN}"]):
            entries = json.loads(store.get(f"{round_}/{_BEGUN}"))
            if entries[launch.rank] == entry:
                _wait_for_readers(
                    launch, store, round_, sum(other is not None for other in entries)
                )
                break
        if late:
            missing = [rank for rank in range(launch.size) if rank not in present]
            raise _missing(launch, missing if round_ else [0], timeout)
        time.sleep(_POLL_SECONDS)
    missing = [rank for rank, other in enumerate(entries) if other is None]
    if missing:
        raise _missing(launch, missing, timeout)
    return round_, entries


def _wait_for_readers(launch: _Launch, store: Store, round_: str, count: int) -> None:
    """Make the first process, which may serve the store, wait until the others have read it."""
    readers = store.add(f"{round_}/{_READ}", 1)
    deadline = time.monotonic() + _GRACE_SECONDS
    while launch.rank == 0 and readers < count and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
        readers = store.add(f"{round_}/{_READ}", 0)


def _leave_together(launch: _Launch, store: Store, round_: str, timeout: float) -> None:
    """Wait until all processes are ready to leave.

    A process that closes its connections while another still reads from them makes the other fail.
    """
    deadline = time.monotonic() + timeout
    try:
        store.add(f"{round_}/{_LEFT}", 1)
        while store.add(f"{round_}/{_LEFT}", 0) < launch.size and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
    except dist.DistError:
        if launch.rank == 0:
            raise
        # The first process served the store, and has left after seeing all others come.


def _missing(launch: _Launch, ranks: list[int], timeout: float) -> UnusableEnvironmentError:
    named = ", ".join(map(str, ranks[:10])) + (", ..." if len(ranks) > 10 else "")
    return UnusableEnvironmentError(
        f"rank {launch.rank} waited {timeout:g} s at {launch.address}:{launch.port}, and of "
        f"{launch.size} ranks these did not come: {named}; is every machine's launcher started, "
        "with the same numbers of machines and of processes?"
    )


def _choose(launch: _Launch, device: str) -> tuple[torch.device | None, DglrecError | None]:
    """The device, or the error in its place, which is raised after all processes have come."""
    try:
        return choose_device(device, launch.local_rank, launch.local_size), None
    except DglrecError as error:
        return None, error


def _stop_where_told(launch: _Launch, entries: list[dict[str, str]]) -> None:
    """Raise `PeerError` if a lower rank has the same error, so that only the lowest reports it."""
    entry = entries[launch.rank]
    for rank, other in enumerate(entries[: launch.rank]):
        if other.get("failure") == entry["failure"]:
            elsewhere = other["host"] != entry["host"]
            raise PeerError(rank, int(other["code"]), other["failure"], elsewhere)


def _check_devices(launch: _Launch, entries: list[dict[str, str]]) -> None:
    entry = entries[launch.rank]
    for rank, other in enumerate(entries):
        if "failure" in other:
            elsewhere = other["host"] != entry["host"]
            raise PeerError(rank, int(other["code"]), other["failure"], elsewhere)
        if other["device"] != entry["device"]:
            raise UsageError(
                f"rank {launch.rank} on {entry['host']} computes on {entry['device']}, and rank "
                f"{rank} on {other['host']} on {other['device']}; give all the same --device"
            )


def _name_interface(launch: _Launch) -> None:
    """Make Gloo listen on the network interface on which other machines reach this one.

    By default it takes the address that the host name resolves to, often a loopback address.
    """
    if "GLOO_SOCKET_IFNAME" in os.environ:
        return
    try:
        address, _ = own_address(launch.address, launch.port)
    except UnusableEnvironmentError:
        return  # leave the choice, and an error if it fails, to Gloo
    names = [
        name
        for name, addresses in psutil.net_if_addrs().items()
        if any(
            interface_address.address.partition("%")[0] == address
            for interface_address in addresses
        )
    ]
    if not names:
        return
    if launch.size > launch.local_size and address.startswith(("127.", "::1")):
        log(
            f"rank {launch.rank}: {launch.address} is this machine's loopback address, which "
            "other machines do not reach; give the first machine's address by number, or set "
            "GLOO_SOCKET_IFNAME"
        )
        return
    os.environ["GLOO_SOCKET_IFNAME"] = names[0]


def own_address(host: str, port: int) -> tuple[str, bool]:
    """This machine's address on the route to a host, and whether the host is this machine.

    Raises:
        UnusableEnvironmentError: there is no route to the host, or no such name.
    """
    try:
        family, kind, _, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(target)  # sends nothing
            address = str(probe.getsockname()[0])
    except OSError as error:
        raise UnusableEnvironmentError(f"{host}: no way to it ({error})") from error
    return address, address == target[0]


def _is_lost_contact(error: RuntimeError) -> bool:
    text = str(error).lower()
    return isinstance(error, dist.DistError) or any(sign in text for sign in _LOST)


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    # Gloo's messages begin with a position in its source, which is removed.
    return re.sub(r"^\[\S+:\d+\] ", "", text[0])[:120] if text else type(error).__name__
