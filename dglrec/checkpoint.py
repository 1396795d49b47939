"""Checkpoints on disk: `model.safetensors`, `state.pt`, `meta.json` in one folder, whole or absent.

Weights are safetensors, which hold numbers only. The state goes through
`torch.load(weights_only=True)`, which builds tensors and plain containers and refuses all else.
So nothing in a checkpoint, from whomever, can run code.
"""

import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from dglrec.errors import DataError
from dglrec.files import atomic_folder, read_json, sha256_of, write_json

SCHEMA_VERSION = 1

_MODEL = "model.safetensors"
_STATE = "state.pt"
_META = "meta.json"


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint folder holds.

    Attributes:
        weights: the model's tensors by name.
        meta: what describes them, JSON.
    """

    weights: dict[str, Tensor]
    meta: dict[str, Any]


def save_checkpoint(
    folder: Path, weights: dict[str, Tensor], state: dict[str, Any], meta: dict[str, Any]
) -> None:
    """Write a checkpoint in place of the one that may be there.

    Args:
        folder: the checkpoint's folder.
        weights: the model's tensors by name.
        state: what training goes on from: tensors in plain containers.
        meta: JSON values. Schema version and checksums are added.
    """
    with atomic_folder(folder, marker=_META, overwrite=True) as temporary:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
        # By way of memory: what the two libraries raise when a disk is full does not say so.
        (temporary / _MODEL).write_bytes(save(tensors))
        buffer = io.BytesIO()
        torch.save(state, buffer)
        (temporary / _STATE).write_bytes(buffer.getbuffer())
        described = {"schema_version": SCHEMA_VERSION, **meta}
        checksums = {name: sha256_of(temporary / name) for name in (_MODEL, _STATE)}
        checksums[_META] = _digest(described)
        write_json(temporary / _META, {**described, "sha256": checksums})


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint's weights and description.

    Raises:
        DataError: it is missing, damaged, altered since it was written, or of another version.
    """
    meta = _read_meta(folder)
    path = _verified(folder, _MODEL, meta)
    try:
        return Checkpoint(load_file(path), meta)
    except safetensors.SafetensorError as error:
        raise DataError(f"{path}: not readable as safetensors ({error})") from error


def load_state(folder: Path) -> dict[str, Any]:
    """Read what training goes on from.

    Raises:
        DataError: as `load_checkpoint`, or the state holds something other than plain data.
    """
    path = _verified(folder, _STATE, _read_meta(folder))
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch has no one class for all that can be wrong with a file
        # torch's own words would tell how to load the file all the same.
        raise DataError(
            f"{path}: refused: not a state that this program wrote; "
            "go back to another checkpoint, or train again"
        ) from error
    if not isinstance(state, dict):
        raise DataError(f"{path}: holds no state")
    return state


def _read_meta(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such checkpoint")
    meta = read_json(folder / _META)
    version = meta.get("schema_version")
    if version != SCHEMA_VERSION:
        raise DataError(
            f"{folder}: checkpoint of schema version {version}; this program reads "
            f"version {SCHEMA_VERSION}; train again, or use the program that wrote it"
        )
    described = {name: value for name, value in meta.items() if name != "sha256"}
    _check(folder / _META, meta, _digest(described))
    return meta


def _verified(folder: Path, name: str, meta: dict[str, Any]) -> Path:
    path = folder / name
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    _check(path, meta, sha256_of(path))
    return path


def _check(path: Path, meta: dict[str, Any], found: str) -> None:
    checksums = meta.get("sha256")
    if not isinstance(checksums, dict) or found != checksums.get(path.name):
        raise DataError(
            f"{path}: damaged or altered since it was written (its checksum in {_META} differs); "
            "go back to another checkpoint, or train again"
        )


def _digest(described: dict[str, Any]) -> str:
    """SHA-256 of JSON values, however the file lays them out."""
    values = json.loads(json.dumps(described))  # keys as JSON has them, all of them text
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
