"""Where a process computes: device choice."""

from collections.abc import Mapping

import torch

from dglrec.errors import UnusableEnvironmentError, UsageError


def choose_device(name: str = "auto") -> torch.device:
    """The device to compute on.

    Args:
        name: `auto` (the first GPU, or else the CPU), or torch's own name, like `cpu` or `cuda:1`.

    Raises:
        UsageError: torch knows no such device.
        UnusableEnvironmentError: the device is not on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"no device {name!r}; write auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"device {name!r} is not supported; write auto, cpu, cuda or cuda:N")
    if str(device) != name:  # torch keeps 8 bits of a number, and would take cuda:256 for cuda:0
        raise UsageError(f"no device {name!r}; write auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UnusableEnvironmentError(
            f"device {name!r} is not on this machine, which has {torch.cuda.device_count()} GPUs "
            "that torch can use; try --device cpu"
        )
    return device


def check_one_process(environment: Mapping[str, str]) -> None:
    """Refuse to train as one of several processes, which would write into one run.

    Args:
        environment: variables as `torchrun` sets them.

    Raises:
        UsageError: there are several processes.
    """
    if environment.get("WORLD_SIZE", "1") not in ("", "1"):
        raise UsageError(
            f"WORLD_SIZE is {environment['WORLD_SIZE']}: training on several processes is not "
            "there yet; start it without torchrun, or with --nproc-per-node 1"
        )
