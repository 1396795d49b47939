"""The choice of the device that a process computes on."""

import torch

from dglrec.errors import UnusableEnvironmentError, UsageError


def choose_device(name: str = "auto", place: int = 0, processes: int = 1) -> torch.device:
    """The device to compute on.

    Args:
        name: `auto` (the first GPU, or else the CPU), or torch's name, like `cpu` or `cuda:1`.
        place: the process's number among those of the job on this machine, from 0.
        processes: the number of these processes. Each of several takes the GPU of its number.

    Raises:
        UsageError: torch knows no such device, or a GPU is named and there are several processes.
        UnusableEnvironmentError: the device is not on this machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"no device {name!r}; write auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"device {name!r} is not supported; write auto, cpu, cuda or cuda:N")
    if str(device) != name:  # torch keeps 8 bits of the index, and would read cuda:256 as cuda:0
        raise UsageError(f"no device {name!r}; write auto, cpu, cuda or cuda:N")
    if device.type == "cpu":
        return device
    gpus = torch.cuda.device_count()
    if (device.index or 0) >= gpus:
        raise UnusableEnvironmentError(
            f"device {name!r} is not on this machine, which has {gpus} GPUs "
            "that torch can use; try --device cpu"
        )
    if processes == 1:
        return device
    if device.index is not None:
        raise UsageError(
            f"device {name!r} names one GPU for {processes} processes; write cuda, and each "
            "takes its own"
        )
    if processes > gpus:
        raise UnusableEnvironmentError(
            f"{processes} processes on a machine of {gpus} GPUs: give torchrun "
            f"--nproc-per-node {gpus}, or try --device cpu"
        )
    return torch.device("cuda", place)
