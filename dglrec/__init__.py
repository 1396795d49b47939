"""dglrec: scalable mini-batch training of graph neural networks for rating prediction.

`__all__` names the public parts: `Recommender`, from data frames to lists, its errors, and the
functions that register losses, convolutions and encoders. `docs/api.md` has examples.
"""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dglrec.api import (
        Block,
        Convolution,
        DataError,
        DglrecError,
        FeatureEncoder,
        Recommender,
        UnknownIdsError,
        UnusableEnvironmentError,
        UsageError,
        aggregate,
        register_convolution,
        register_encoder,
        register_list_loss,
        register_loss,
    )

__all__ = [
    "Block",
    "Convolution",
    "DataError",
    "DglrecError",
    "FeatureEncoder",
    "Recommender",
    "UnknownIdsError",
    "UnusableEnvironmentError",
    "UsageError",
    "__version__",
    "aggregate",
    "register_convolution",
    "register_encoder",
    "register_list_loss",
    "register_loss",
]

# DGL reads its backend from this variable; if it is unset, the first `import dgl` writes a config
# file under the user's home and prints a line about it.
os.environ.setdefault("DGLBACKEND", "pytorch")

# By default, OpenMP threads spin while they wait for work. If other processes want the cores too,
# spinning threads hinder both them and each other: beside a single busy process, an epoch on
# ML-100K took 36 s with spinning threads, and 5 s without.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    """A member of `dglrec.api`, loaded when it is first used, as torch takes seconds to load."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from dglrec import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
