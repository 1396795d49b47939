"""Twenty ways in which a file is no longer what it was."""

import io
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from safetensors.numpy import load, save


@dataclass(frozen=True)
class Victim:
    """A file to be damaged.

    Attributes:
        path: the file.
        other: the file of the same name of another data set, run or export.
        neighbour: another file beside it.
    """

    path: Path
    other: Path
    neighbour: Path

    def damage(self, how):
        """Damage it; False where it would stay what it is."""
        content = self.path.read_bytes()
        if not content and how not in ("missing", "a folder", "one byte more"):
            return False
        damaged = WAYS[how](self, content)
        if damaged == content or self._says_the_same(content, damaged):
            return False
        self.path.unlink()
        if damaged is _FOLDER:
            self.path.mkdir()
        elif damaged is not None:
            self.path.write_bytes(damaged)
        return True

    def _says_the_same(self, content, damaged):
        """Whether it is JSON that is only laid out otherwise."""
        try:
            return self.path.suffix == ".json" and json.loads(damaged) == json.loads(content)
        except (ValueError, TypeError):
            return False

    def mend(self, content):
        """Put back what it held."""
        if self.path.is_dir():
            self.path.rmdir()
        self.path.write_bytes(content)


_FOLDER = object()


def _flipped(content, place):
    changed = bytearray(content)
    changed[place] ^= 1
    return bytes(changed)


def _rewritten(victim, content, change_array, change_frame, change_json):
    """What a program would write that has read the file and changed something."""
    kind = victim.path.suffix
    if kind == ".npy":
        buffer = io.BytesIO()
        np.save(buffer, change_array(np.load(io.BytesIO(content))))
        return buffer.getvalue()
    if kind == ".parquet":
        buffer = io.BytesIO()
        table = pq.read_table(io.BytesIO(content))
        changed = change_frame(table.to_pandas())
        changed.to_parquet(buffer, index=False)
        return buffer.getvalue()
    if kind == ".safetensors":
        tensors = load(content)
        name = max(tensors, key=lambda one: tensors[one].size)
        return save({**tensors, name: np.ascontiguousarray(change_array(tensors[name]))})
    if kind == ".json":
        return json.dumps(change_json(json.loads(content)), indent=2).encode()
    text = content.decode("latin-1")
    digits = [place for place, letter in enumerate(text) if letter in "12345678"]
    if not digits:
        return content + b"\n"
    place = digits[len(digits) // 2]
    return (text[:place] + str(int(text[place]) + 1) + text[place + 1 :]).encode("latin-1")


def _number_changed(value):
    """The first number that is found raised by one, at any depth."""
    done = False

    def walk(one):
        nonlocal done
        if isinstance(one, dict):
            return {key: walk(part) for key, part in one.items()}
        if isinstance(one, list):
            return [walk(part) for part in one]
        if not done and isinstance(one, (int, float)) and not isinstance(one, bool):
            done = True
            return one + 1
        return one

    return walk(value)


def _exchanged(array):
    """Two values that differ, in each other's place: all are in range."""
    flat = array.ravel().copy()
    others = np.flatnonzero(flat != flat[0])
    if len(others):
        flat[0], flat[others[0]] = flat[others[0]], flat[0]
    else:
        flat = flat + 1
    return flat.reshape(array.shape).astype(array.dtype)


def _first_column_rolled(frame):
    changed = frame.copy()
    column = changed.columns[-1] if changed.columns[0].endswith("_id") else changed.columns[0]
    changed[column] = list(np.roll(changed[column].to_numpy(), 1))
    return changed


def _other_type(array):
    return array.astype(np.float64 if array.dtype != np.float64 else np.int64)


def _texts(frame):
    return frame.astype({frame.columns[0]: str})


WAYS = {
    "missing": lambda victim, content: None,
    "empty": lambda victim, content: b"",
    "a folder": lambda victim, content: _FOLDER,
    "one byte short": lambda victim, content: content[:-1],
    "half": lambda victim, content: content[: len(content) // 2],
    "16 bytes": lambda victim, content: content[:16],
    "one byte more": lambda victim, content: content + b"\0",
    "twice": lambda victim, content: content * 2,
    "noise": lambda victim, content: np.random.default_rng(0).bytes(len(content)),
    "zeros": lambda victim, content: bytes(len(content)),
    "first bit": lambda victim, content: _flipped(content, 0),
    "a bit of the head": lambda victim, content: _flipped(content, min(30, len(content) - 1)),
    "a bit in the middle": lambda victim, content: _flipped(content, len(content) // 2),
    "last bit": lambda victim, content: _flipped(content, -1),
    "halves swapped": lambda victim, content: (
        content[len(content) // 2 :] + content[: len(content) // 2]
    ),
    "another type": lambda victim, content: _rewritten(
        victim, content, _other_type, _texts, lambda value: [value]
    ),
    "fewer": lambda victim, content: _rewritten(
        victim,
        content,
        lambda array: array[:-1],
        lambda frame: frame.iloc[:-1],
        lambda value: dict(list(value.items())[:-1]),
    ),
    "of another": lambda victim, content: (
        victim.other.read_bytes() if victim.other.is_file() else content
    ),
    "of its neighbour": lambda victim, content: victim.neighbour.read_bytes(),
    "in range but wrong": lambda victim, content: _rewritten(
        victim, content, _exchanged, _first_column_rolled, _number_changed
    ),
}
"""File and content -> what it holds then; None of a file that is not there."""


def victims(folder, other, names):
    """Each of some files of a folder, to be damaged."""
    following = dict(zip(names, [*names[1:], names[0]], strict=True))
    return {name: Victim(folder / name, other / name, folder / following[name]) for name in names}


def files_of(folder):
    """The names of all files below a folder but locks."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return [
        path.relative_to(folder).as_posix()
        for path in files
        if path.suffix != ".lock" and path.name != ".lock"
    ]


def copied(folder, to):
    return Path(shutil.copytree(folder, to))


def same_frames(one, other):
    return pd.testing.assert_frame_equal(one, other) is None
