"""Numbers and arrays in JSON; what is read is checked, as the file may come from anywhere."""

import base64
import binascii
import math
from typing import Any

import numpy as np
import numpy.typing as npt


def pack(array: npt.NDArray[Any], kind: str) -> dict[str, Any]:
    """An array as base64 of its bytes, in a type as numpy writes it (`<f4`)."""
    data = np.ascontiguousarray(array, dtype=kind).tobytes()
    return {
        "dtype": kind,
        "shape": list(array.shape),
        "base64": base64.b64encode(data).decode("ascii"),
    }


def unpack(value: Any, name: str, kind: str) -> npt.NDArray[Any]:
    """The array of the type `kind` that `pack` wrote.

    Raises:
        KeyError, TypeError, ValueError: the value has another form, or is not finite.
    """
    if value["dtype"] != kind:
        raise ValueError(f"{name} is of type {value['dtype']!r}, not {kind!r}")
    shape = tuple(whole(size, f"{name}'s shape") for size in value["shape"])
    try:
        data = base64.b64decode(value["base64"], validate=True)
    except binascii.Error as error:
        raise ValueError(f"{name} is not base64: {error}") from error
    if not shape or len(data) != math.prod(shape) * np.dtype(kind).itemsize:
        raise ValueError(f"{name} holds {len(data)} bytes, which do not fit the shape {shape}")
    array = np.frombuffer(data, dtype=kind).reshape(shape).astype(np.dtype(kind).newbyteorder("="))
    if not np.all(np.isfinite(array)):
        raise ValueError(f"{name} holds a value that is not finite")
    return array


def whole(value: Any, name: str) -> int:
    """The value, a whole number from 0.

    Raises:
        ValueError: it is not a whole number from 0.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{name} is {value!r}, not a whole number from 0")
    return value


def finite(value: Any, name: str) -> float:
    """The value, a finite number.

    Raises:
        ValueError: it is not a finite number.
    """
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"{name} is {value!r}, not a finite number")
    return float(value)
