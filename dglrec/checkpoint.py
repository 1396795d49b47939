"""Checkpoints on disk: `model.safetensors`, `state.pt`, `meta.json` in a folder, whole or absent.

Weights are safetensors, which hold numbers only. The state is read by
`torch.load(weights_only=True)`, which builds tensors and plain containers and refuses all else.
So nothing in a checkpoint can run code, wherever it came from.
"""

import io
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load, load_file, save
from torch import Tensor

from dglrec.errors import DataError, UnreadableError
from dglrec.files import (
    TEMPORARY,
    atomic_folder,
    json_digest,
    read_json,
    sha256_of,
    write_json,
)
from dglrec.progress import log

SCHEMA_VERSION = 1

MODEL_FILE = "model.safetensors"
_STATE = "state.pt"
_META = "meta.json"
_OLDER = "step-"
DAMAGED = "damaged-"
"""The start of the names of checkpoints that were moved out of the way."""


class DamagedError(DataError):
    """A checkpoint is not as it was written: truncated, altered, or partly missing."""


@dataclass(frozen=True)
class Checkpoint:
    """A model as a checkpoint folder holds it.

    Attributes:
        weights: the model's tensors by name.
        meta: their description, JSON.
    """

    weights: dict[str, Tensor]
    meta: dict[str, Any]


def save_checkpoint(
    folder: Path,
    weights: dict[str, Tensor],
    state: dict[str, Any],
    meta: dict[str, Any],
    *,
    keep: int | None = None,
) -> None:
    """Write a checkpoint, in place of an earlier one in the same folder.

    Args:
        folder: the checkpoint's folder.
        weights: the model's tensors by name.
        state: what training continues from: tensors in plain containers.
        meta: JSON values; with `keep`, `step` among them. Schema version and checksums are added.
        keep: how many checkpoints to keep, including this one. Older ones move to `step-N` beside
            the folder, N being their step, and the oldest are removed. None keeps only this one,
            and does not touch others beside it.
    """
    aside = _name_of_older(folder) if keep is not None and folder.is_dir() else None
    if (folder / MODEL_FILE).exists() and not (folder / _META).exists():
        _move_aside(folder)  # `atomic_folder` would not overwrite a folder without its marker
    with atomic_folder(folder, marker=_META, overwrite=True, aside=aside) as temporary:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
        # Serialised in memory: the libraries' errors do not say so if a disk is full.
        (temporary / MODEL_FILE).write_bytes(save(tensors))
        buffer = io.BytesIO()
        torch.save(state, buffer)
        (temporary / _STATE).write_bytes(buffer.getbuffer())
        described = {"schema_version": SCHEMA_VERSION, **meta}
        checksums = {name: sha256_of(temporary / name) for name in (MODEL_FILE, _STATE)}
        checksums[_META] = json_digest(described)
        write_json(temporary / _META, {**described, "sha256": checksums})
    for old in [] if keep is None else older_checkpoints(folder)[keep - 1 :]:
        # Renamed first: half-removed under its name it would be a damaged checkpoint, but a
        # temporary name is swept.
        going = old.with_name(f"{TEMPORARY}{old.name}")
        old.rename(going)
        shutil.rmtree(going)


def older_checkpoints(folder: Path) -> list[Path]:
    """The older checkpoints that were kept beside one, the newest first."""
    found = [
        (int(match[1]), path)
        for path in folder.parent.glob(f"{_OLDER}*")
        if (match := re.fullmatch(rf"{_OLDER}(\d+)", path.name)) and path.is_dir()
    ]
    return [path for _, path in sorted(found, reverse=True)]


def newest_whole(folder: Path) -> Path | None:
    """A checkpoint, or if it is missing or damaged the newest of those kept beside it.

    Checkpoints that are passed over are logged, and moved out of the way, to `damaged-...`.

    Returns:
        None if there has never been a checkpoint.

    Raises:
        DamagedError: all checkpoints there are damaged.
        DataError: a checkpoint is whole, but this program cannot read it.
    """
    candidates = [path for path in (folder, *older_checkpoints(folder)) if path.is_dir()]
    damages: dict[Path, str] = {}
    unreadable: set[Path] = set()
    for path in candidates:
        try:
            load_checkpoint(path)
            load_state(path)
        except DamagedError as error:
            damages[path] = str(error)
            continue
        except (OSError, UnreadableError) as error:
            damages[path] = str(error)
            if isinstance(error, OSError):
                damages[path] = f"{path}: cannot be read ({error.strerror})"
            unreadable.add(path)  # not moved aside, as it may be whole
            continue
        if damages:
            for damaged, what in damages.items():
                log(what)
                if damaged not in unreadable:
                    _move_aside(damaged)
            log(f"going back to {path}, the newest checkpoint that is whole")
        elif path != folder:
            log(f"{folder} is not there; going on from {path}")
        return path
    if damages:
        first = next(iter(damages.values()))
        raise DamagedError(f"{first} (none of {len(damages)} checkpoints is whole)")
    return None


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint's weights and description.

    Raises:
        DataError: it is missing, damaged, altered since it was written, or of another version.
    """
    meta = _read_meta(folder)
    path = _verified(folder, MODEL_FILE, meta)
    try:
        return Checkpoint(load_file(path), meta)
    except safetensors.SafetensorError as error:
        raise DataError(f"{path}: not readable as safetensors ({error})") from error


def load_state(folder: Path) -> dict[str, Any]:
    """Read the state that training continues from.

    Raises:
        DataError: as `load_checkpoint`, or the state holds something other than plain data.
    """
    path = _verified(folder, _STATE, _read_meta(folder))
    return _parse_state(path, path)


def pack_checkpoint(folder: Path) -> bytes:
    """A checkpoint as bytes, for processes that do not see the folder; see `unpack_checkpoint`.

    Raises:
        DataError: as `load_checkpoint`.
    """
    meta = _read_meta(folder)
    parts = [json.dumps(meta).encode()]
    parts += [_verified(folder, name, meta).read_bytes() for name in (MODEL_FILE, _STATE)]
    return b"".join(len(part).to_bytes(8, "little") + part for part in parts)


def unpack_checkpoint(data: bytes) -> tuple[Checkpoint, dict[str, Any]]:
    """Read what `pack_checkpoint` made: the results of `load_checkpoint` and `load_state`.

    Raises:
        DataError: the state holds something other than plain data.
    """
    parts = []
    while data:
        end = 8 + int.from_bytes(data[:8], "little")
        parts.append(data[8:end])
        data = data[end:]
    meta, model, state = parts
    weights = load(model)
    return Checkpoint(weights, json.loads(meta)), _parse_state(io.BytesIO(state), "state")


def _parse_state(source: Path | io.BytesIO, name: Path | str) -> dict[str, Any]:
    try:
        state = torch.load(source, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # torch raises many kinds for a file that is wrong
        # torch's message is not shown: it would say how to load the file all the same.
        raise DataError(
            f"{name}: refused: not a state that this program wrote; "
            "go back to another checkpoint, or train again"
        ) from error
    if not isinstance(state, dict):
        raise DataError(f"{name}: holds no state")
    return state


def _name_of_older(folder: Path) -> Path | None:
    """The new name for the checkpoint in a folder when a newer one replaces it."""
    try:
        step = _read_meta(folder).get("step", 0)
    except DataError as error:
        log(str(error))
        _move_aside(folder)
        return None
    name = folder.with_name(f"{_OLDER}{int(step):09d}")
    if name.is_dir():  # from before a resume from an earlier step
        shutil.rmtree(name)
    return name


def _move_aside(folder: Path) -> None:
    name = folder.with_name(f"{DAMAGED}{folder.name}")
    if name.is_dir():
        shutil.rmtree(name)
    folder.rename(name)
    log(f"moved {folder} to {name}")


def _read_meta(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such checkpoint")
    try:
        meta = read_json(folder / _META)
    except UnreadableError:
        raise
    except DataError as error:
        raise DamagedError(str(error)) from error
    described = {name: value for name, value in meta.items() if name != "sha256"}
    _check(folder / _META, meta, json_digest(described))
    version = meta.get("schema_version")
    if version != SCHEMA_VERSION:
        raise DataError(
            f"{folder}: checkpoint of schema version {version}; this program reads "
            f"version {SCHEMA_VERSION}; train again, or use the program that wrote it"
        )
    return meta


def _verified(folder: Path, name: str, meta: dict[str, Any]) -> Path:
    path = folder / name
    if not path.is_file():
        raise DamagedError(f"{path}: no such file")
    _check(path, meta, sha256_of(path))
    return path


def _check(path: Path, meta: dict[str, Any], found: str) -> None:
    checksums = meta.get("sha256")
    if not isinstance(checksums, dict) or found != checksums.get(path.name):
        raise DamagedError(
            f"{path}: damaged or altered since it was written (its checksum in {_META} differs); "
            "go back to another checkpoint, or train again"
        )
