"""The planted parameters of a generated data set's users and items, in the order of its indices."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from dglrec.dataset.layout import ReadArray
from dglrec.errors import DataError
from dglrec.files import save_array
from dglrec.synthetic import PlantedLists

PLANTED = "planted"
"""The folder of the arrays, and their entry in `dataset.json`."""

PLANTED_ARRAYS = tuple(
    field.name for field in fields(PlantedLists) if field.name[:5] in ("user_", "item_")
)


def write_planted(folder: Path, planted: PlantedLists) -> dict[str, Any]:
    """Write the arrays into the folder of a data set.

    Returns:
        The other parameters, for `dataset.json` to hold under `PLANTED`.
    """
    (folder / PLANTED).mkdir()
    for name in PLANTED_ARRAYS:
        save_array(folder / PLANTED / f"{name}.npy", getattr(planted, name))
    return {
        "strength": planted.strength,
        "noise_sd": planted.noise_sd,
        "thresholds": [float(value) for value in planted.thresholds],
    }


def read_planted(path: Path, meta: dict[str, Any], read_array: ReadArray) -> PlantedLists | None:
    """The planted parameters; None if the data came without a truth, or with an older one.

    Args:
        path: the data set's folder, for messages.
        meta: the content of `dataset.json`.
        read_array: reads an array of the data set.

    Raises:
        DataError: a file is damaged, or the vectors of users and items differ in length.
    """
    rest = meta.get(PLANTED)
    if rest is None:
        return None
    arrays = {name: read_array(f"{PLANTED}/{name}.npy") for name in PLANTED_ARRAYS}
    ranks = [arrays[f"{kind}_vectors"].shape[1] for kind in ("user", "item")]
    if ranks[0] != ranks[1]:
        raise DataError(
            f"{path / PLANTED}: vectors of {ranks[0]} numbers for users and of {ranks[1]} for "
            "items; prepare the data set again"
        )
    return PlantedLists(
        strength=rest["strength"],
        noise_sd=rest["noise_sd"],
        thresholds=np.array(rest["thresholds"], dtype=np.float64),
        **arrays,
    )
