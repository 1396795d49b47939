"""What was planted of a generated data set's users and items, in the order of its indices."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dglrec.errors import DataError
from dglrec.files import save_array
from dglrec.synthetic import PlantedLists

PLANTED = "planted"
"""The folder of the arrays, and their entry in `dataset.json`."""

_ARRAYS = tuple(
    field.name for field in fields(PlantedLists) if field.name[:5] in ("user_", "item_")
)

ReadArray = Callable[[str, str, np.dtype[Any], int], npt.NDArray[Any]]
"""Folder, name, dtype and number of dimensions -> the array of the data set, memory-mapped."""


def write_planted(folder: Path, planted: PlantedLists) -> dict[str, Any]:
    """Write the arrays into the folder of a data set.

    Returns:
        The rest, for `dataset.json` to hold under `PLANTED`.
    """
    (folder / PLANTED).mkdir()
    for name in _ARRAYS:
        save_array(folder / PLANTED / f"{name}.npy", getattr(planted, name))
    return {
        "strength": planted.strength,
        "noise_sd": planted.noise_sd,
        "thresholds": [float(value) for value in planted.thresholds],
    }


def read_planted(path: Path, meta: dict[str, Any], read_array: ReadArray) -> PlantedLists | None:
    """What was planted, or None where the data came without, or with an older truth.

    Args:
        path: the data set's folder, for messages.
        meta: what `dataset.json` says.
        read_array: reads an array of the data set.

    Raises:
        DataError: a file is missing, damaged, or of another number of users or items.
    """
    rest = meta.get(PLANTED)
    if rest is None:
        return None
    arrays = {
        name: read_array(PLANTED, name, np.dtype(np.float32), 2 if name.endswith("vectors") else 1)
        for name in _ARRAYS
    }
    for name, array in arrays.items():
        count = meta["counts"][f"{name[:4]}s"]
        rank = arrays["item_vectors"].shape[1]
        wanted = (count, rank) if array.ndim == 2 else (count,)
        if array.shape != wanted:
            raise DataError(
                f"{path / PLANTED / name}.npy: has shape {array.shape}, and should have {wanted}; "
                "prepare the data set again"
            )
    return PlantedLists(
        strength=rest["strength"],
        noise_sd=rest["noise_sd"],
        thresholds=np.array(rest["thresholds"], dtype=np.float64),
        **arrays,
    )
