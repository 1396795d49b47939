"""The Python interface, on data frames: `Recommender` does what the command line does.

Public is what `__all__` names here, and `dglrec` names too; the rest of the package may change from
version to version. `docs/api.md` has examples.
"""

from dglrec.api.extensions import (
    register_convolution,
    register_encoder,
    register_list_loss,
    register_loss,
)
from dglrec.api.recommender import Recommender
from dglrec.blocks import Block
from dglrec.errors import (
    DataError,
    DglrecError,
    UnknownIdsError,
    UnusableEnvironmentError,
    UsageError,
)
from dglrec.features import FeatureEncoder
from dglrec.nn import Convolution, aggregate

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
    "aggregate",
    "register_convolution",
    "register_encoder",
    "register_list_loss",
    "register_loss",
]
