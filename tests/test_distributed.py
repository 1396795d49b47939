"""The device that a name stands for, here and on machines with GPUs."""

import pytest
import torch

from dglrec.distributed import choose_device
from dglrec.errors import UnusableEnvironmentError, UsageError


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
